"""Figures for TensorBoard and the report."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: there may be no screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

_GREY = "0.45"


def box_plot(scores: pd.DataFrame, metric: str, title: str) -> Figure:
    """Box plot over folds and seeds, one panel a site, one box an arm, every fold as a dot.

    scores: columns arm, site, metric, value; arms are drawn in the order in which they first occur.
    """
    scores = scores[scores["metric"] == metric]
    sites, arms = list(dict.fromkeys(scores["site"])), list(dict.fromkeys(scores["arm"]))
    width = max(3.0, 0.75 * len(arms) + 1)
    figure, axes = plt.subplots(1, len(sites), figsize=(width * len(sites), 4), squeeze=False, layout="constrained")
    rng = np.random.default_rng(0)
    for axis, site in zip(axes[0], sites):
        here = scores[scores["site"] == site]
        values = [here.loc[here["arm"] == arm, "value"].to_numpy() for arm in arms]
        axis.boxplot(values, tick_labels=arms, showfliers=False, medianprops={"color": "C0"})
        for i, column in enumerate(values, start=1):
            axis.plot(i + rng.uniform(-0.12, 0.12, len(column)), column, "o", color=_GREY, markersize=3)
        axis.set_title(f"site: {site}")
        axis.set_ylabel(f"{metric} (one dot a fold)")
        axis.tick_params(axis="x", rotation=30)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    return figure


def proxy_curves(validations: pd.DataFrame, floors: dict[str, float], ceilings: dict[str, float], title: str) -> Figure:
    """SCCS and NMI against steps, with the floors as dashed lines.

    validations: columns step, sccs, nmi (either may be missing). floors: {'sccs_gc': value, ...}. ceilings: the most
    each proxy could be, said in the panel's title.
    """
    proxies = [name for name in ("sccs", "nmi") if name in validations]
    figure, axes = plt.subplots(1, len(proxies), figsize=(5.5 * len(proxies), 4), squeeze=False, layout="constrained")
    for axis, proxy in zip(axes[0], proxies):
        axis.plot(validations["step"], validations[proxy], "o-", color="C0", markersize=3, label="encoder")
        best = validations[validations["step"] > 0][proxy].idxmax()
        axis.plot(validations["step"][best], validations[proxy][best], "*", color="C3", markersize=12, label="best")
        for i, (name, value) in enumerate((k, v) for k, v in floors.items() if k.startswith(f"{proxy}_")):
            axis.axhline(value, color=f"C{i + 4}", linestyle="--", linewidth=1, label=name.removeprefix(f"{proxy}_"))
        axis.set_xlabel("optimiser step")
        axis.set_ylabel(proxy.upper())
        axis.set_title(f"{proxy.upper()} (can reach {ceilings[proxy]:.2f})")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title)
    return figure


def umap_panels(panels: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], title: str) -> Figure:
    """One row an encoder: UMAP coloured by label and by Leiden cluster.

    panels: (name, points [n, 2], labels [n], clusters [n]).
    """
    figure, axes = plt.subplots(len(panels), 2, figsize=(11, 4.4 * len(panels)), squeeze=False, layout="constrained")
    for (name, points, labels, clusters), (left, right) in zip(panels, axes):
        for i, label in enumerate(sorted(set(labels))):
            mine = points[labels == label]
            left.scatter(*mine.T, s=6, color=f"C{i}", label=label, linewidths=0)
        right.scatter(*points.T, s=6, c=clusters, cmap="tab20", linewidths=0)
        left.set_title(f"{name}: by label")
        right.set_title(f"{name}: by Leiden cluster ({len(set(clusters))})")
        left.legend(fontsize=8, markerscale=2)
        for axis in (left, right):
            axis.set_xticks([])
            axis.set_yticks([])
    figure.suptitle(title)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, aside and renamed."""
    aside = path.with_name(f"{path.stem}.tmp.png")
    figure.savefig(aside, dpi=120)
    aside.replace(path)

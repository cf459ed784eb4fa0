"""Figures for TensorBoard and the report."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from simcsp.judge.scores import CALIBRATION_BINS, calibration_error, reliability_bins
from utils.files import replacing

matplotlib.use("Agg")  # files only: there may be no screen
_GREY = "0.45"
_MARKERS = "os^DvP*X"


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


def difference_plot(contrasts: pd.DataFrame, title: str) -> Figure:
    """Differences in F1 with their 95 % intervals, one line each, the primary contrast in red.

    contrasts: columns arm, reference, site, diff, low, high, primary.
    """
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.34 * len(contrasts)), layout="constrained")
    several = contrasts["site"].nunique() > 1
    for i, row in enumerate(contrasts.itertuples()):
        colour = "C3" if row.primary else _GREY
        axis.plot([row.low, row.high], [i, i], color=colour, linewidth=2.5 if row.primary else 1.5)
        axis.plot(row.diff, i, "o", color=colour, markersize=6 if row.primary else 4)
    names = [f"{row.arm} - {row.reference}" + (f" ({row.site})" if several else "") for row in contrasts.itertuples()]
    axis.set_yticks(range(len(names)), names)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("difference in F1 (95 % interval of the corrected resampled t-test)")
    axis.grid(axis="x", alpha=0.3)
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


def reliability_plot(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], floors: Collection[str], title: str
) -> Figure:
    """Share of sites against predicted P(site) in bins of equal mass, and how often each P is predicted, by panel.

    panels: {title: {arm: (labels [n], P(site) [n])}}; the legend gives each arm's calibration error. floors: arms drawn
    with dashes. The grey band holds 95 % of the bins of a perfectly calibrated model.
    """
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(max(4.4 * len(panels), 5.5), 6.2),
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=(4, 1),
        layout="constrained",
    )
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    even = np.linspace(0, 1, 101)
    for (name, panel), (above, below) in zip(panels.items(), axes.T):
        windows = min(len(labels) for labels, _ in panel.values())
        spread = 1.96 * np.sqrt(even * (1 - even) / (windows / CALIBRATION_BINS))
        above.fill_between(even, (even - spread).clip(0, 1), (even + spread).clip(0, 1), color="0.92", linewidth=0)
        above.plot(even, even, color=_GREY, linewidth=1)
        for arm, (labels, probabilities) in panel.items():
            style = {"color": f"C{arms.index(arm) % 10}", "linestyle": "--" if arm in floors else "-"}
            predicted, observed, _ = reliability_bins(labels, probabilities)
            error = calibration_error(labels, probabilities)
            above.plot(
                predicted, observed, marker="o", markersize=3, linewidth=1.3, label=f"{arm}  {error:.3f}", **style
            )
            share, edges = np.histogram(probabilities, bins=20, range=(0, 1))
            below.stairs(share / len(labels), edges, **style)
        above.set_title(f"{name}\n{windows:,} windows", fontsize=10)
        above.legend(title="calibration error", title_fontsize=8, fontsize=8, loc="best")
        below.set_xlabel("predicted P(site)")
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.set_xlim(-0.02, 1.02)
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("share that are sites")
    axes[1, 0].set_ylabel("share of\nwindows")
    figure.suptitle(title)
    return figure


def proxy_scatter(table: pd.DataFrame, proxies: dict[str, str], title: str) -> Figure:
    """F1 against each proxy, one panel a proxy: a point a checkpoint, its step as colour, its run as marker.

    table: columns run, stage, step, f1, f1_sd (NaN: no error bar) and those of `proxies`, {column: label}. Checkpoints
    of a control are hollow. Bars are one standard deviation over folds and seeds.
    """
    count = len(proxies)
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 4.2), squeeze=False, sharey=True, layout="constrained")
    norm = plt.Normalize(0, max(1, table["step"].max()))
    for axis, (proxy, label) in zip(axes[0], proxies.items()):
        axis.errorbar(table[proxy], table["f1"], table["f1_sd"], fmt="none", ecolor=_GREY, elinewidth=0.8, alpha=0.5)
        for i, (run, mine) in enumerate(table.groupby("run", sort=False)):
            marker, edges = _MARKERS[i % len(_MARKERS)], plt.cm.viridis(norm(mine["step"]))
            faces = np.where((mine["stage"] == "control").to_numpy()[:, None], 1.0, edges)
            axis.scatter(mine[proxy], mine["f1"], c=faces, edgecolors=edges, marker=marker, zorder=3)
            axis.scatter([], [], color=_GREY, marker=marker, label=run)
        if (table["stage"] == "control").any():
            axis.scatter([], [], facecolors="none", edgecolors=_GREY, label="hollow: control")
        axis.set_xlabel(f"{label} before fine-tuning")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("F1 on the test folds (± sd)")
    axes[0, 0].legend(fontsize=8)
    figure.colorbar(plt.cm.ScalarMappable(norm, "viridis"), ax=axes, label="optimiser step")
    figure.suptitle(title)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, aside and renamed."""
    with replacing(path) as aside:
        figure.savefig(aside, dpi=120, format="png")

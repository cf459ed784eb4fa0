"""Figures for TensorBoard and the report."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from simcsp.core.colours import GREY, PRIMARY, arm_colour, class_colour, is_known
from simcsp.core.files import replacing
from simcsp.metrics.scores import CALIBRATION_BINS, calibration_error, reliability_bins

_MARKERS = "os^DvP*X"
_FEWEST_BOXED = 5  # below it a box says more than is known
_GRID = np.linspace(0, 1, 101)


def arm_styles(arms: Collection[str], floors: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """{arm: colour and line}, the same in every figure: floors grey, the arms that are always there with colours of
    their own, all others with further ones and, from the second on, dashed."""
    lines = ("--", ":", "-.", (0, (8, 1, 1, 1, 1, 1)), (0, (9, 4)), (0, (1, 4)))
    styles: dict[str, dict[str, str]] = {}
    others = 0
    for arm in arms:
        if arm in floors:
            styles[arm] = {"color": GREY, "linestyle": lines[len(styles) % len(lines)]}
            continue
        styles[arm] = {"color": arm_colour(arm, others), "linestyle": "--" if others and not is_known(arm) else "-"}
        others += not is_known(arm)
    return styles


def bar_plot(scores: pd.DataFrame, metric: str, label: str, floors: Collection[str], title: str) -> Figure:
    """Mean of a score by arm, sorted, the best floor as a line through all; whiskers are the sd over fits. Sites apart.

    scores: columns arm, site, metric, value. Bars begin at .5, chance for an AUC.
    """
    scores = scores[scores["metric"] == metric]
    sites, arms = list(dict.fromkeys(scores["site"])), list(dict.fromkeys(scores["arm"]))
    size = (6.4 * len(sites), 1.4 + 0.36 * len(arms))
    figure, axes = plt.subplots(1, len(sites), figsize=size, squeeze=False, layout="constrained")
    styles = arm_styles(arms, floors)
    for axis, site in zip(axes[0], sites):
        of_arms = scores[scores["site"] == site].groupby("arm")["value"].agg(["mean", "std"]).fillna(0.0)
        of_arms = of_arms.sort_values("mean")
        lowest = min(0.5, of_arms["mean"].min())
        for i, (arm, row) in enumerate(of_arms.iterrows()):
            axis.barh(i, row["mean"] - lowest, left=lowest, color=styles[arm]["color"], height=0.7)
            axis.errorbar(row["mean"], i, xerr=row["std"], color="black", elinewidth=1, capsize=2)
            axis.text(lowest + 0.005, i, f"{row['mean']:.3f}", va="center", fontsize=8, color="white")
        best_floor = of_arms.loc[of_arms.index.isin(floors), "mean"].max()
        if np.isfinite(best_floor):
            axis.axvline(best_floor, color="black", linewidth=1, linestyle=":", label="best floor")
            axis.legend(fontsize=8, loc="lower right")
        axis.set_yticks(range(len(of_arms)), of_arms.index)
        axis.set(xlabel=label, title="" if len(sites) == 1 else site)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, wrap=True)
    return figure


def score_plot(scores: pd.DataFrame, metric: str, label: str, floors: Collection[str], title: str) -> Figure:
    """A score of every fold as a dot, by arm; boxes too where an arm has five folds or more. A panel a site; arms and
    floors share its axis.

    scores: columns arm, site, metric, value; arms are drawn in the order in which they first occur, floors last.
    """
    scores = scores[scores["metric"] == metric]
    sites, arms = list(dict.fromkeys(scores["site"])), list(dict.fromkeys(scores["arm"]))
    arms = sorted(arms, key=lambda arm: arm in floors)
    encoders = sum(arm not in floors for arm in arms)
    size = (0.8 * max(2, len(arms)) + 1.6, 2.6 * len(sites) + 1.4)
    figure, axes = plt.subplots(len(sites), 1, figsize=size, squeeze=False, sharex=True, layout="constrained")
    rng, styles = np.random.default_rng(0), arm_styles(arms, floors)
    for axis, site in zip(axes[:, 0], sites):
        of_site = scores[scores["site"] == site]
        for i, arm in enumerate(arms):
            values = of_site.loc[of_site["arm"] == arm, "value"].to_numpy()
            if len(values) >= _FEWEST_BOXED:
                axis.boxplot(values, positions=[i], showfliers=False, widths=0.6, medianprops={"color": "black"})
            at = i + rng.uniform(-0.12, 0.12, len(values))
            axis.plot(at, values, "o", color=styles[arm]["color"], markersize=4, alpha=0.8)
        if 0 < encoders < len(arms):
            axis.axvline(encoders - 0.5, color="0.8", linewidth=1)
            axis.text(encoders - 0.45, 0.99, "floors", transform=axis.get_xaxis_transform(), va="top", fontsize=8)
        axis.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
        axis.set_xlim(-0.6, len(arms) - 0.4)
        axis.set_title("" if len(sites) == 1 else site, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    figure.supylabel(f"{label} (one dot a fold)", fontsize=10)
    figure.suptitle(title, wrap=True)
    return figure


def curve_plot(predictions: pd.DataFrame, arms: Collection[str], floors: Collection[str], title: str) -> Figure:
    """ROC and precision against recall: mean over fits, band from the least to the most of them.

    predictions: columns arm, label, probability, and `fit`, which tells the fits apart.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.4), layout="constrained")
    styles = arm_styles(arms, floors)
    for arm in arms:
        rates, precisions = [], []
        for _, fit in predictions[predictions["arm"] == arm].groupby("fit"):
            labels, probabilities = fit["label"].to_numpy(), fit["probability"].to_numpy()
            false, true, _ = roc_curve(labels, probabilities)
            rates.append(np.interp(_GRID, false, true))
            precision, recall, _ = precision_recall_curve(labels, probabilities)
            precisions.append(np.interp(_GRID, recall[::-1], precision[::-1]))
        _band(left, _GRID, np.array(rates), arm, styles[arm])
        _band(right, _GRID[1:], np.array(precisions)[:, 1:], arm, styles[arm])
    left.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    left.set(xlabel="false-positive rate", ylabel="true-positive rate (recall)", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    right.legend(fontsize=8, loc="lower left")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(title, wrap=True)
    return figure


def _band(axis: plt.Axes, x: np.ndarray, values: np.ndarray, label: str, style: dict[str, str]) -> None:
    """Mean of values [fits, points] as a line, their range as a band."""
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, linewidth=0)
    axis.plot(x, values.mean(axis=0), label=label, linewidth=1.5, **style)


def label_curves(scores: pd.DataFrame, arms: Collection[str], floors: Collection[str], title: str) -> Figure:
    """AUC and F1 against the number of training windows, one line an arm; bands: ± sd over fits, folds averaged.

    scores: columns arm, metric, labels (training windows), draw, pretrain_seed, value.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.4), layout="constrained")
    styles = arm_styles(arms, floors)
    for axis, (metric, label) in zip(axes, (("test/auc", "AUC on the test windows"), ("test/f1", "F1 (threshold .5)"))):
        for arm in arms:
            of_arm = scores[(scores["arm"] == arm) & (scores["metric"] == metric)]
            fits = of_arm.groupby(["labels", "draw", "pretrain_seed"])["value"].mean().groupby("labels")
            mean, sd = fits.mean(), fits.std(ddof=1).fillna(0.0)
            axis.fill_between(mean.index, mean - sd, mean + sd, color=styles[arm]["color"], alpha=0.12, linewidth=0)
            axis.plot(mean.index, mean, marker="o", markersize=4, label=arm, **styles[arm])
        ticks = sorted(scores["labels"].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="labelled windows to train on", ylabel=label)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title, wrap=True)
    return figure


def difference_plot(contrasts: pd.DataFrame, title: str, score: str = "F1") -> Figure:
    """Differences in a score with their 95 % intervals, one line each, the primary contrast in colour.

    contrasts: columns arm, reference, site, diff, low, high, primary.
    """
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.34 * len(contrasts)), layout="constrained")
    several = contrasts["site"].nunique() > 1
    for i, row in enumerate(contrasts.itertuples()):
        colour = PRIMARY if row.primary else GREY
        axis.plot([row.low, row.high], [i, i], color=colour, linewidth=2.5 if row.primary else 1.5)
        axis.plot(row.diff, i, "o", color=colour, markersize=6 if row.primary else 4)
    names = [f"{row.arm} - {row.reference}" + (f" ({row.site})" if several else "") for row in contrasts.itertuples()]
    axis.set_yticks(range(len(names)), names)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(f"difference in {score} on the test folds (95 % interval)")
    axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, wrap=True)
    return figure


def proxy_curves(
    validations: dict[str, pd.DataFrame], floors: dict[str, float], ceilings: dict[str, float], title: str
) -> Figure:
    """SCCS and NMI against steps with their error, the start as a level, the floors as dashed lines.

    validations: {stage: columns step, sccs, nmi (either may be missing); sccs_low, sccs_high, nmi_low, nmi_high: the
    band about each, where there is one}. floors: {'sccs_gc': value, ...}. ceilings: the most each proxy could be.
    """
    first = next(iter(validations.values()))
    proxies = {"sccs": "SCCS of the selection windows", "nmi": "NMI of the motif sites"}
    proxies = {name: label for name, label in proxies.items() if name in first}
    figure, axes = plt.subplots(1, len(proxies), figsize=(5.6 * len(proxies), 4.2), squeeze=False, layout="constrained")
    for axis, (proxy, label) in zip(axes[0], proxies.items()):
        for number, (stage, table) in enumerate(validations.items()):
            values, colour = table[proxy], arm_colour(stage, number)
            axis.plot(table["step"], values, "o-", color=colour, markersize=3, label=stage, zorder=3)
            low, high = table.get(f"{proxy}_low"), table.get(f"{proxy}_high")
            if low is not None:
                axis.fill_between(table["step"], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(first[proxy].iloc[0], color="black", linewidth=1, label="start")
        lines = ("--", ":", "-.", (0, (1, 3)))
        for line, (name, value) in zip(lines, ((k, v) for k, v in floors.items() if k.startswith(f"{proxy}_"))):
            name = f"floor: {name.removeprefix(f'{proxy}_')}"
            axis.axhline(value, color=GREY, linestyle=line, linewidth=1.2, label=name)
        axis.set(xlabel="optimiser step", ylabel=label, title=f"{proxy.upper()} (can reach {ceilings[proxy]:.2f})")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, wrap=True)
    return figure


def umap_panels(rows: dict[str, dict[str, np.ndarray]], labels: np.ndarray, title: str) -> Figure:
    """A row an arm: UMAP of the sites, of labels [n], before and after fine-tuning, coloured by label.

    rows: {arm: {'before', 'after': points [n, 2]; either may be missing}}.
    """
    whens = [when for when in ("before", "after") if any(when in points for points in rows.values())]
    size = (4.0 * len(whens) + 1.8, 3.0 * len(rows) + 0.4)
    figure, axes = plt.subplots(len(rows), len(whens), figsize=size, squeeze=False, layout="constrained")
    for (arm, points), line in zip(rows.items(), axes):
        for when, axis in zip(whens, line):
            axis.set_xticks([])
            axis.set_yticks([])
            if when not in points:
                axis.axis("off")
                continue
            for label in sorted(set(labels)):
                of_class = points[when][labels == label]
                axis.scatter(*of_class.T, s=6, color=class_colour(label), label=label, linewidths=0)
            axis.set_title(f"{arm}, {when} fine-tuning", fontsize=10)
    handles, names = next(axis for axis in axes.flat if axis.collections).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, markerscale=2)
    figure.suptitle(title, wrap=True)
    return figure


def reliability_plot(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], floors: Collection[str], title: str
) -> Figure:
    """Share of sites against predicted P(site) in bins of equal mass, and how often each P is predicted, by panel.

    panels: {title: {arm: (labels [n], P(site) [n])}}; the legend gives each arm's calibration error. floors: arms drawn
    with dashes. The grey band holds 95 % of the bins of a perfectly calibrated model.
    """
    columns = len(panels)
    size = (max(4.4 * columns, 5.5), 6.2)
    figure, axes = plt.subplots(
        2, columns, figsize=size, squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1), layout="constrained"
    )
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    even, styles = _GRID, arm_styles(arms, floors)
    for (name, panel), (above, below) in zip(panels.items(), axes.T):
        windows = min(len(labels) for labels, _ in panel.values())
        spread = 1.96 * np.sqrt(even * (1 - even) / (windows / CALIBRATION_BINS))
        above.fill_between(even, (even - spread).clip(0, 1), (even + spread).clip(0, 1), color="0.92", linewidth=0)
        above.plot(even, even, color=GREY, linewidth=1)
        for arm, (labels, probabilities) in panel.items():
            style = styles[arm]
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
    figure.suptitle(title, wrap=True)
    return figure


def proxy_scatter(table: pd.DataFrame, proxies: dict[str, str], outcomes: dict[str, str], title: str) -> Figure:
    """Each outcome (a row of panels) against each proxy (a column): a point a checkpoint, its step as colour, its run
    as marker.

    table: columns run, stage, step, each outcome with its sd (NaN: no error bar), and each proxy; outcomes and proxies
    are {column: label}. Checkpoints of a control are hollow. Bars are one standard deviation over fits.
    """
    rows, columns = len(outcomes), len(proxies)
    size = (4.6 * columns, 4.2 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey="row", layout="constrained")
    norm = plt.Normalize(0, max(1, table["step"].max()))
    for axes, (outcome, outcome_label) in zip(grid, outcomes.items()):
        for axis, (proxy, label) in zip(axes, proxies.items()):
            bars = {"fmt": "none", "ecolor": GREY, "elinewidth": 0.8, "alpha": 0.5}
            axis.errorbar(table[proxy], table[outcome], table[f"{outcome}_sd"], **bars)
            for i, (run, of_run) in enumerate(table.groupby("run", sort=False)):
                marker, edges = _MARKERS[i % len(_MARKERS)], plt.cm.viridis(norm(of_run["step"]))
                faces = np.where((of_run["stage"] == "control").to_numpy()[:, None], 1.0, edges)
                axis.scatter(of_run[proxy], of_run[outcome], c=faces, edgecolors=edges, marker=marker, zorder=3)
                axis.scatter([], [], color=GREY, marker=marker, label=run)
            if (table["stage"] == "control").any():
                axis.scatter([], [], facecolors="none", edgecolors=GREY, label="hollow: control")
            axis.set_xlabel(f"{label} before fine-tuning")
            axis.grid(alpha=0.3)
        axes[0].set_ylabel(f"{outcome_label} on the test folds (± sd)")
    grid[0, 0].legend(fontsize=8)
    figure.colorbar(plt.cm.ScalarMappable(norm, "viridis"), ax=grid, label="optimiser step")
    figure.suptitle(title, wrap=True)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG and an SVG beside it, aside and renamed, and close the figure; the same figure in the same bytes."""
    for ending, settings in ((".png", {"dpi": 120}), (".svg", {"metadata": {"Date": None}})):
        with replacing(path.with_suffix(ending)) as aside, plt.rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(aside, format=ending[1:], **settings)
    plt.close(figure)

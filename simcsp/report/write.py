"""The comparison of arms: summary.csv, contrasts.csv, report.md, report.html, figures, and the same in TensorBoard."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from simcsp.core import run_layout as layout
from simcsp.core.arms import BASELINE, CONTROL, FLOORS, PROXIES
from simcsp.core.config import Config
from simcsp.core.files import read_json
from simcsp.core.provenance import REMEDY
from simcsp.core.run_folder import read_metrics
from simcsp.metrics.sccs import SCCS_CEILING
from simcsp.metrics.scores import classification_scores
from simcsp.report import collect, plots, verdict
from simcsp.report.caveats import find_caveats, is_synthetic
from simcsp.report.checkpoint_distance import measure_distances
from simcsp.report.collect import CROSS_VALIDATION, FIT, Comparison, main_size, rows_where
from simcsp.report.encoder_figures import draw_umap
from simcsp.report.page import to_markdown, to_terminal, write_pages
from simcsp.text.sites import SITES
from simcsp.training.tensorboard import show_arm, show_file

PROXY_KEYS = {f"val/{proxy}" for proxy in PROXIES}


def write_report(
    config: Config, *more: Config, out: Path | None = None, described: Sequence[tuple[str, str]] = ()
) -> str:
    """Compare the arms of a run, or of several, from the folds that are finished; returns the text for the terminal.

    out: where to; by default RUN/report, and runs/<a>+<b>/report for several. described: (arm, reference), by their
    names in the report, of comparisons beside those that it makes by itself.
    Raises InputError where no fold is finished, where the runs' folds cannot be paired, and for an unknown arm.
    """
    runs = collect.label_runs([config, *more])
    if out is None:
        for one in runs.values():
            for arm in dict.fromkeys(layout.fit_key(path).arm for path in layout.finished_fits(one.folder)):
                show_arm(one.folder, arm)
    out = out or collect.default_folder([config, *more])
    comparison = collect.merge(runs)
    contrasts = verdict.find_contrasts(comparison, described)
    by_type = scores_by_type(comparison)
    kinds = (type_rows(by_type), pool_predictions(comparison), proxy_rows(comparison), benchmark_rows(comparison))
    tables = [verdict.compare(comparison.scores, verdict.smallest_effect(comparison))]
    tables += [pd.DataFrame(rows, columns=verdict.COLUMNS) for rows in kinds if rows]
    table = pd.concat(tables, ignore_index=True)
    table = verdict.add_adjusted(table, contrasts, main_size(comparison.scores))[list(verdict.COLUMNS)]
    title = " + ".join(runs)
    judged = verdict.judge(comparison, contrasts, measure_distances(comparison, out / "distances.json"))
    caveats = find_caveats(comparison, table)
    tested = verdict.contrast_rows(contrasts)
    figures = draw(comparison, by_type, tested[tested["metric"] == verdict.ENDPOINT].dropna(subset="low"), title, out)
    text = to_markdown(title, comparison, table, contrasts, judged, caveats, figures)
    write_pages(out, title, text, judged, table, tested)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
    with SummaryWriter(str(out)) as writer:
        writer.add_text("report", text)
        if fits := layout.finished_fits(next(iter(runs.values())).folder):
            show_file(writer, "config of fine-tuning", fits[0] / layout.CONFIG)
        for name in figures:
            writer.add_image(f"report/{name}", plots.plt.imread(out / f"{name}.png"), dataformats="HWC")
    where = " + ".join(str(one.folder) for one in runs.values())
    return f"{to_terminal(where, table, judged, caveats)}\nreport: {out}/report.html, {out}/summary.csv"


def pool_predictions(comparison: Comparison) -> list[dict[str, object]]:
    """Scores over the test windows of all folds together: rows of summary.csv, pooled/* and ensemble of k/*.

    pooled: each (window, fold) counts once, every probability one model's. ensemble of k, where folds share test
    windows: each window once, with the mean probability of the k models that it was tested by.
    """
    predictions, rows = rows_where(comparison.predictions, train_windows=main_size(comparison.scores)), []
    for (arm, site), of_arm in predictions.groupby(["arm", "site"], sort=False):
        scores: dict[str, list[float]] = {}
        for _, table in of_arm.groupby(["pretrain_seed", "draw", "seed"]):
            once = table.groupby("window").agg(
                label=("label", "first"), probability=("probability", "mean"), models=("fold", "size")
            )
            models, scored = int(once["models"].mode()[0]), {"pooled": table}
            if models > 1:
                scored[f"ensemble of {models}"] = once[once["models"] == models]
            for name, part in scored.items():
                for metric, value in classification_scores(*part[["label", "probability"]].to_numpy().T).items():
                    scores.setdefault(f"{name}/{metric}", []).append(value)
        for key, values in scores.items():
            rows.append(verdict.table_row(arm, site, CROSS_VALIDATION, key, pd.Series(values)))
    return rows


def scores_by_type(comparison: Comparison) -> pd.DataFrame:
    """F1 and AUC over the donor and over the acceptor windows of the fits on both: columns arm, site (donor, acceptor),
    metric, value; empty where no fit is on both."""
    predictions = rows_where(comparison.predictions, train_windows=main_size(comparison.scores), site="both")
    types, rows = predictions["window"].str.split("_").str[0], []
    of_both = predictions[types.isin(SITES)]
    for (arm, *_, site), fit in of_both.groupby(["arm", *FIT, types], sort=False):
        if fit["label"].nunique() == 2:
            scores = classification_scores(*fit[["label", "probability"]].to_numpy().T)
            rows += [{"arm": arm, "site": site, "metric": f"test/{key}", "value": scores[key]} for key in ("f1", "auc")]
    return pd.DataFrame(rows, columns=["arm", "site", "metric", "value"])


def type_rows(by_type: pd.DataFrame) -> list[dict[str, object]]:
    """The rows test/f1_donor, test/auc_acceptor and their like of summary.csv."""
    return [
        verdict.table_row(arm, "both", CROSS_VALIDATION, f"{metric}_{site}", scores["value"])
        for (arm, metric, site), scores in by_type.groupby(["arm", "metric", "site"], sort=False)
    ]


def proxy_rows(comparison: Comparison) -> list[dict[str, object]]:
    """SCCS and NMI of the pre-training checkpoints and of the floors, as rows of summary.csv."""
    return [
        verdict.table_row(row.arm, "both", row.dataset, row.metric, pd.Series(row.seeds))
        for row in collect.proxy_values(comparison).itertuples(index=False)
    ]


def benchmark_rows(comparison: Comparison) -> list[dict[str, object]]:
    """Rows of summary.csv of benchmark species, where `evaluate.py benchmark` has been run: each fold's model, and
    their mean ensemble.

    No p: all models of an arm are scored on the same windows, so that folds are no independent samples of them.
    """
    table, rows = collect.benchmark_values(comparison), []
    base = table[table["arm"] == BASELINE]
    for (arm, site, dataset, metric), scores in table.groupby(["arm", "site", "dataset", "metric"], sort=False):
        paired = scores.merge(base, on=["site", "dataset", "metric", "seed", "fold"], suffixes=("", "_base"))
        difference = None
        if arm != BASELINE and len(paired):
            difference = verdict.PairedTest(len(paired), diff=(paired["value"] - paired["value_base"]).mean())
        rows.append(verdict.table_row(arm, site, dataset, metric, scores["value"], difference))
    return rows


# -- figures -----------------------------------------------------------------------------------------------------------


def draw(comparison: Comparison, by_type: pd.DataFrame, contrasts: pd.DataFrame, title: str, out: Path) -> list[str]:
    """Write the PNGs; returns their names without the ending. by_type: as of `scores_by_type`; contrasts: those with an
    interval."""
    suffix = " (synthetic data)" if any(is_synthetic(config.folder) for config in comparison.runs.values()) else ""
    main, arms = main_size(comparison.scores), list(dict.fromkeys(comparison.scores["arm"]))
    scores = rows_where(comparison.scores, train_windows=main)
    floors = {name for (_, arm), name in comparison.names.items() if arm in FLOORS}
    means = "AUC on the test folds (mean, ± sd)"
    dots = by_type if len(by_type) else scores
    figures: dict[str, Callable[[], Figure | None]] = {
        "bars": partial(plots.bar_plot, scores, "test/auc", means, floors, f"{title}: AUC{suffix}"),
        "f1": partial(plots.score_plot, dots, "test/f1", "F1 on the test folds", floors, f"{title}: F1{suffix}"),
    }
    if len(contrasts := rows_where(contrasts, windows=main)):
        figures["differences"] = partial(plots.difference_plot, contrasts, f"{title}: differences in F1{suffix}")
    chosen = chosen_arms(comparison, main, floors)
    figures |= draw_predictions(comparison, main, chosen, floors, f"{title}{suffix}")
    if comparison.scores["train_windows"].nunique() > 1:
        sizes = comparison.scores.assign(labels=label_counts(comparison))
        figures["labels"] = partial(plots.label_curves, sizes, arms, floors, f"{title}: label efficiency{suffix}")
    alone = len(comparison.runs) == 1
    for run, config in comparison.runs.items():
        if collect.objective_of(config) is not None:
            name = "proxies" if alone else f"proxies-{safe_name(run)}"
            figures[name] = partial(draw_proxies, config, suffix)
        if alone:  # takes a minute: a run's own report has it
            figures["umap"] = partial(draw_umap, config, suffix)
    drawn = []
    for number, (name, make) in enumerate(figures.items(), 1):
        tqdm.write(f"report: figure {number} of {len(figures)}, {name}", file=sys.stderr)
        if (figure := make()) is not None:
            plots.save_figure(figure, out / f"{name}.png")
            drawn.append(name)
    return drawn


def chosen_arms(comparison: Comparison, main: int, floors: set[str]) -> list[str]:
    """Arms of the figures that would be crowded with all: the primary pair, the baseline, and the best floor.

    main: training windows of the fits that the figures show; arms that have none of that size are left out.
    """
    scores = rows_where(comparison.scores, metric="test/auc", train_windows=main)
    auc = scores.groupby("arm", sort=False)["value"].mean()
    wanted = (BASELINE, verdict.PRIMARY_ARM, f"{CONTROL}{verdict.PRIMARY_ARM}")
    names = [name for (_, arm), name in comparison.names.items() if arm in wanted and name in auc.index]
    best = [auc[auc.index.isin(floors)].idxmax()] if auc.index.isin(floors).any() else []
    models = [arm for arm in auc.index if arm not in floors]
    return best + (list(dict.fromkeys(names)) if len(names) > 1 else models[:6])


def draw_predictions(
    comparison: Comparison, main: int, arms: list[str], floors: set[str], title: str
) -> dict[str, Callable[[], Figure]]:
    """ROC with precision and recall, and calibration, for the first site that there is (both where it is)."""
    table = rows_where(comparison.predictions, train_windows=main)
    site = "both" if (table["site"] == "both").any() else table["site"].iloc[0]
    table = table[(table["site"] == site) & table["arm"].isin(arms)]
    table = table.assign(fit=table.groupby(FIT).ngroup())
    of_arms = table.groupby("arm", sort=False)
    panel = {arm: tuple(rows[["label", "probability"]].to_numpy().T) for arm, rows in of_arms}
    return {
        "curves": partial(plots.curve_plot, table, arms, floors, f"{title}: test windows, site: {site}"),
        "calibration": partial(plots.reliability_plot, {f"site: {site}": panel}, floors, f"{title}: calibration"),
    }


def label_counts(comparison: Comparison) -> pd.Series:
    """The training windows of each row of the scores: as drawn, else all of a fold's."""
    whole = rows_where(comparison.scores, train_windows=0).drop_duplicates(["site", "fold"])["train"]
    mean = round(whole.mean()) if len(whole) else 0
    return comparison.scores["train_windows"].where(comparison.scores["train_windows"] > 0, mean)


def safe_name(run: str) -> str:
    """The last part of a run's label as part of a file name and of a link to it."""
    return re.sub(r"[^\w.-]", "_", Path(run).name)


def draw_proxies(config: Config, suffix: str) -> Figure:
    """SCCS and NMI while pre-training, those of the control beside them; of several seeds mean and range."""
    tables, floors = {}, {}
    for stage in (layout.PRETRAIN, layout.CONTROL_STAGE):
        folders = list(layout.finished_stages(config.folder, stage).values())
        seeds = [pd.DataFrame(row for row in read_metrics(path) if PROXY_KEYS & set(row)) for path in folders]
        if seeds:
            tables[stage] = _band_of_seeds(seeds).rename(columns=lambda name: name.removeprefix("val/"))
            floors = floors or collect.floor_values(read_json(folders[0] / layout.SUMMARY, REMEDY)["floors"])
    bound = tables[layout.PRETRAIN].get("nmi_bound", pd.Series([0.0])).max()
    ceilings = {"sccs": SCCS_CEILING, "nmi": bound}
    return plots.proxy_curves(tables, floors, ceilings, f"{config.name}: proxies while pre-training{suffix}")


def _band_of_seeds(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    """Validations by step with a band about each proxy: of one seed its own error, of several the range of them."""
    if len(seeds) == 1:
        table = seeds[0]
        if "val/nmi_sd" in table:
            nmi, sd = table["val/nmi"], table["val/nmi_sd"]
            table = table.assign(**{"val/nmi_low": nmi - sd, "val/nmi_high": nmi + sd})
        return table
    by_step = pd.concat(seeds).groupby("step")
    table = by_step.mean(numeric_only=True)
    for proxy in PROXY_KEYS & set(table):
        table[f"{proxy}_low"], table[f"{proxy}_high"] = by_step[proxy].min(), by_step[proxy].max()
    return table.reset_index()

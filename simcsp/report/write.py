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
from simcsp.core.files import read_json, write_text
from simcsp.core.provenance import seal
from simcsp.core.run_folder import read_metrics
from simcsp.metrics.sccs import SCCS_CEILING
from simcsp.metrics.scores import classification_scores
from simcsp.report.caveats import find_caveats, is_synthetic
from simcsp.report.checkpoint_distance import measure_distances
from simcsp.report.collect import (
    CROSS_VALIDATION,
    FIT,
    REMEDY,
    Comparison,
    benchmark_values,
    default_folder,
    fold_summaries,
    label_runs,
    main_size,
    merge,
    objective_of,
    proxy_values,
)
from simcsp.report.encoder_figures import draw_umap
from simcsp.report.page import to_html, to_markdown, to_terminal
from simcsp.report.plots import (
    bar_plot,
    curve_plot,
    difference_plot,
    label_curves,
    plt,
    proxy_curves,
    reliability_plot,
    save_figure,
    score_plot,
)
from simcsp.report.verdict import (
    COLUMNS,
    ENDPOINT,
    PRIMARY_ARM,
    PairedTest,
    add_adjusted,
    compare,
    contrast_rows,
    find_contrasts,
    judge,
    smallest_effect,
    table_row,
)
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
    runs = label_runs([config, *more])
    if out is None:
        for one in runs.values():
            for arm in dict.fromkeys(layout.fit_key(path).arm for path in layout.finished_fits(one.folder)):
                show_arm(one.folder, arm)
    out = out or default_folder([config, *more])
    comparison = merge(runs)
    contrasts = find_contrasts(comparison, described)
    scores, by_type = compare(comparison.scores, smallest_effect(comparison)), scores_by_type(comparison)
    tables = [scores, type_rows(by_type), pool_predictions(comparison), proxy_rows(comparison)]
    tables.append(benchmark_rows(comparison))
    table = pd.concat([rows for rows in tables if len(rows)], ignore_index=True)
    table = add_adjusted(table, contrasts, main_size(comparison.scores))[list(COLUMNS)]
    title = " + ".join(runs)
    out.mkdir(parents=True, exist_ok=True)
    verdict = judge(comparison, contrasts, measure_distances(comparison, out / "distances.json"))
    caveats = find_caveats(comparison, table)
    write_text(out / layout.REPORT_TABLE, table.to_csv(index=False, float_format="%.6g"))
    tested = contrast_rows(contrasts)
    write_text(out / layout.REPORT_CONTRASTS, tested.to_csv(index=False, float_format="%.6g"))
    figures = draw(comparison, by_type, tested[tested["metric"] == ENDPOINT].dropna(subset="low"), title, out)
    text = to_markdown(title, comparison, table, contrasts, verdict, caveats, figures)
    write_text(out / layout.REPORT_TEXT, text)
    write_text(out / "report.html", to_html(title, text, out, supported=verdict.supported))
    seal(out, {}, [out / layout.REPORT_TABLE, out / layout.REPORT_CONTRASTS, out / layout.REPORT_TEXT])
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
    with SummaryWriter(str(out)) as writer:
        writer.add_text("report", text)
        if fits := layout.finished_fits(next(iter(runs.values())).folder):
            show_file(writer, "config of fine-tuning", fits[0] / layout.CONFIG)
        for name in figures:
            writer.add_image(f"report/{name}", plt.imread(out / f"{name}.png"), dataformats="HWC")
    where = " + ".join(str(one.folder) for one in runs.values())
    return f"{to_terminal(where, table, verdict, caveats)}\nreport: {out}/report.html, {out}/summary.csv"


def pool_predictions(comparison: Comparison) -> pd.DataFrame:
    """Scores over the test windows of all folds together: rows pooled/* and ensemble of k/*.

    pooled: each (window, fold) counts once, every probability one model's. ensemble of k, where folds share test
    windows: each window once, with the mean probability of the k models that it was tested by.
    """
    rows, main = [], main_size(comparison.scores)
    predictions = comparison.predictions[comparison.predictions["train_windows"] == main]
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
        rows += [table_row(arm, site, CROSS_VALIDATION, key, pd.Series(values)) for key, values in scores.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def scores_by_type(comparison: Comparison) -> pd.DataFrame:
    """F1 and AUC over the donor and over the acceptor windows of the fits on both: columns arm, site (donor, acceptor),
    metric, value; empty where no fit is on both."""
    predictions = comparison.predictions[comparison.predictions["train_windows"] == main_size(comparison.scores)]
    types, rows = predictions["window"].str.partition("_")[0], []
    of_both = predictions[(predictions["site"] == "both") & types.isin(SITES)]
    for (arm, *_, site), fit in of_both.groupby(["arm", *FIT, types], sort=False):
        if fit["label"].nunique() == 2:
            scores = classification_scores(*fit[["label", "probability"]].to_numpy().T)
            rows += [{"arm": arm, "site": site, "metric": f"test/{key}", "value": scores[key]} for key in ("f1", "auc")]
    return pd.DataFrame(rows, columns=["arm", "site", "metric", "value"])


def type_rows(by_type: pd.DataFrame) -> pd.DataFrame:
    """The rows test/f1_donor, test/auc_acceptor and their like of summary.csv."""
    rows = [
        table_row(arm, "both", CROSS_VALIDATION, f"{metric}_{site}", scores["value"])
        for (arm, metric, site), scores in by_type.groupby(["arm", "metric", "site"], sort=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def proxy_rows(comparison: Comparison) -> pd.DataFrame:
    """SCCS and NMI of the pre-training checkpoints and of the floors, as rows of summary.csv."""
    values = proxy_values(comparison)
    rows = [
        table_row(row.arm, "both", row.dataset, row.metric, pd.Series(row.seeds))
        for row in values.itertuples(index=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def benchmark_rows(comparison: Comparison) -> pd.DataFrame:
    """Benchmark species, where `evaluate.py benchmark` has been run: each fold's model, and their mean ensemble.

    No p: all models of an arm are scored on the same windows, so that folds are no independent samples of them.
    """
    table, rows = benchmark_values(comparison), []
    for (arm, site, dataset, metric), scores in table.groupby(["arm", "site", "dataset", "metric"], sort=False):
        base = table[(table["arm"] == BASELINE) & (table["site"] == site)]
        base = base[(base["dataset"] == dataset) & (base["metric"] == metric)]
        paired = scores.merge(base, on=["seed", "fold"], suffixes=("", "_base"))
        difference = None
        if arm != BASELINE and len(paired):
            difference = PairedTest(len(paired), diff=(paired["value"] - paired["value_base"]).mean())
        rows.append(table_row(arm, site, dataset, metric, scores["value"], difference))
    return pd.DataFrame(rows, columns=COLUMNS)


# -- figures -----------------------------------------------------------------------------------------------------------


def draw(comparison: Comparison, by_type: pd.DataFrame, contrasts: pd.DataFrame, title: str, out: Path) -> list[str]:
    """Write the PNGs; returns their names without the ending. by_type: as of `scores_by_type`; contrasts: those with an
    interval."""
    suffix = " (synthetic data)" if any(is_synthetic(config.folder) for config in comparison.runs.values()) else ""
    main, arms = main_size(comparison.scores), list(dict.fromkeys(comparison.scores["arm"]))
    scores = comparison.scores[comparison.scores["train_windows"] == main]
    floors = {name for (_, arm), name in comparison.names.items() if arm in FLOORS}
    means = "AUC on the test folds (mean, ± sd)"
    dots = by_type if len(by_type) else scores
    figures: dict[str, Callable[[], Figure | None]] = {
        "bars": partial(bar_plot, scores, "test/auc", means, floors, f"{title}: AUC{suffix}"),
        "f1": partial(score_plot, dots, "test/f1", "F1 on the test folds", floors, f"{title}: F1{suffix}"),
    }
    if len(contrasts := contrasts[contrasts["windows"] == main]):
        figures["differences"] = partial(difference_plot, contrasts, f"{title}: differences in F1{suffix}")
    chosen = chosen_arms(comparison, main, floors)
    figures |= draw_predictions(comparison, main, chosen, floors, f"{title}{suffix}")
    if comparison.scores["train_windows"].nunique() > 1:
        sizes = comparison.scores.assign(labels=label_counts(comparison))
        figures["labels"] = partial(label_curves, sizes, arms, floors, f"{title}: label efficiency{suffix}")
    alone = len(comparison.runs) == 1
    for run, config in comparison.runs.items():
        if objective_of(config) is not None:
            name = "proxies" if alone else f"proxies-{safe_name(run)}"
            figures[name] = partial(draw_proxies, config, suffix)
        if alone:  # takes a minute: a run's own report has it
            figures["umap"] = partial(draw_umap, config, suffix)
    drawn = []
    for number, (name, make) in enumerate(figures.items(), 1):
        tqdm.write(f"report: figure {number} of {len(figures)}, {name}", file=sys.stderr)
        if (figure := make()) is not None:
            save_figure(figure, out / f"{name}.png")
            plt.close(figure)
            drawn.append(name)
    return drawn


def chosen_arms(comparison: Comparison, main: int, floors: set[str]) -> list[str]:
    """Arms of the figures that would be crowded with all: the primary pair, the baseline, and the best floor.

    main: training windows of the fits that the figures show; arms that have none of that size are left out.
    """
    scores = comparison.scores[
        (comparison.scores["metric"] == "test/auc") & (comparison.scores["train_windows"] == main)
    ]
    auc = scores.groupby("arm", sort=False)["value"].mean()
    wanted = (BASELINE, PRIMARY_ARM, f"{CONTROL}{PRIMARY_ARM}")
    names = [name for (_, arm), name in comparison.names.items() if arm in wanted and name in auc.index]
    best = [auc[auc.index.isin(floors)].idxmax()] if auc.index.isin(floors).any() else []
    models = [arm for arm in auc.index if arm not in floors]
    return best + (list(dict.fromkeys(names)) if len(names) > 1 else models[:6])


def draw_predictions(
    comparison: Comparison, main: int, arms: list[str], floors: set[str], title: str
) -> dict[str, Callable[[], Figure]]:
    """ROC with precision and recall, and calibration, for the first site that there is (both where it is)."""
    table = comparison.predictions[comparison.predictions["train_windows"] == main]
    site = "both" if (table["site"] == "both").any() else table["site"].iloc[0]
    table = table[(table["site"] == site) & table["arm"].isin(arms)]
    table = table.assign(fit=table.groupby(FIT).ngroup())
    of_arms = table.groupby("arm", sort=False)
    panel = {arm: tuple(rows[["label", "probability"]].to_numpy().T) for arm, rows in of_arms}
    return {
        "curves": partial(curve_plot, table, arms, floors, f"{title}: test windows, site: {site}"),
        "calibration": partial(reliability_plot, {f"site: {site}": panel}, floors, f"{title}: calibration"),
    }


def label_counts(comparison: Comparison) -> pd.Series:
    """The training windows of each row of the scores: as drawn, else all of a fold's."""
    whole = {}
    for config in comparison.runs.values():
        whole |= {
            (summary["site"], summary["fold"]): summary["windows"]["train"]
            for _, summary in fold_summaries(config.folder)
            if not summary.get("train_windows")
        }
    mean = round(sum(whole.values()) / len(whole)) if whole else 0
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
            tables[stage] = _band_of_seeds(
                [seed.rename(columns=lambda name: name.removeprefix("val/")) for seed in seeds]
            )
            floors = floors or read_json(folders[0] / layout.SUMMARY, REMEDY)["floors"]
    floors = {key.removeprefix("floor/"): value for key, value in floors.items() if not key.endswith(("_low", "_high"))}
    bound = tables[layout.PRETRAIN].get("nmi_bound", pd.Series([0.0])).max()
    ceilings = {"sccs": SCCS_CEILING, "nmi": bound}
    return proxy_curves(tables, floors, ceilings, f"{config.name}: proxies while pre-training{suffix}")


def _band_of_seeds(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    """Validations by step with a band about each proxy: of one seed its own error, of several the range of them."""
    if len(seeds) == 1:
        table = seeds[0].copy()
        if "nmi_sd" in table:
            table["nmi_low"], table["nmi_high"] = table["nmi"] - table["nmi_sd"], table["nmi"] + table["nmi_sd"]
        return table
    by_step = pd.concat(seeds).groupby("step")
    table = by_step.mean(numeric_only=True).reset_index()
    for proxy in (proxy for proxy in PROXIES if proxy in table):
        table[f"{proxy}_low"], table[f"{proxy}_high"] = (
            getattr(by_step[proxy], end)().to_numpy() for end in ("min", "max")
        )
    return table

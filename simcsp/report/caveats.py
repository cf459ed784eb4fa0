"""Warnings to a reader of the comparison, each a sentence of plain Markdown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from simcsp.core import run_layout as layout
from simcsp.core.arms import BASELINE, FLOORS, OF_CONTROL, OF_PRETRAINING, holds_classifier
from simcsp.core.config import Config
from simcsp.core.config_file import read_saved
from simcsp.core.files import read_json
from simcsp.core.provenance import REMEDY
from simcsp.metrics.pooling import arm_differences
from simcsp.report.collect import FIT, Comparison, fold_summaries, main_size, near_duplicate_share, rows_where
from simcsp.report.table import code, plain
from simcsp.report.verdict import ENDPOINT, ENDPOINTS

SYNTHETIC = "Synthetic data (data/demo.py): these numbers show that the pipeline runs, and say nothing about biology."
_MODELS = (BASELINE, *OF_PRETRAINING, *OF_CONTROL)


def find_caveats(comparison: Comparison, table: pd.DataFrame) -> list[str]:
    """Sentences, the gravest first. table: the rows of summary.csv."""
    caveats = [SYNTHETIC] if any(is_synthetic(config.folder) for config in comparison.runs.values()) else []
    caveats += unbeaten_floors(comparison, ENDPOINT) + unbeaten_proxies(table)
    caveats += missing_folds(comparison) + epoch_limits(comparison)
    for run, config in comparison.runs.items():
        where = f"{plain(run)}: " if len(comparison.runs) > 1 else ""
        fits = [path for path, _ in fold_summaries(config.folder)]
        sentences = (*arm_differences(fits), *overlap(config), *selection(config), *leaks(config))
        caveats += [f"{where}{sentence}" for sentence in sentences]
    return caveats


def is_synthetic(folder: Path) -> bool:
    """Whether the windows of a run say that they are made up."""
    return "SYNTHETIC" in read_json(folder / layout.SPLITS / layout.SPLITS_RECORD, REMEDY)["species"]


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def unbeaten_floors(comparison: Comparison, metric: str) -> list[str]:
    """Encoders whose score, on the folds they share, is not above that of the best floor. metric: of ENDPOINTS."""
    scores, caveats = rows_where(comparison.scores, metric=metric), []
    scores = rows_where(scores, train_windows=main_size(scores))
    for site, of_site in scores.groupby("site", sort=False):
        values = of_site.pivot_table(index=FIT[2:], columns="arm", values="value")  # the mean over pre-training seeds
        floors = values.columns.intersection(list(FLOORS))
        below = []
        for arm in [arm for arm in dict.fromkeys(of_site["arm"]) if arm not in (*FLOORS, "fresh")]:
            means = values[[arm, *floors]].dropna().mean()
            if len(floors) and means[arm] <= means[floors].max():
                floor = means[floors].idxmax()
                below.append(f"{code(arm)} {means[arm]:.4f} against {code(floor)} {means[floor]:.4f}")
        if below:
            caveats.append(
                f"Floor not beaten in {ENDPOINTS[metric]} (site: {site}): {_list(below)}. Floors are baselines without "
                "a language model."
            )
    return caveats


def unbeaten_proxies(table: pd.DataFrame) -> list[str]:
    """Encoders whose SCCS or NMI before fine-tuning is not above the best of one-hot, GC content and fresh weights."""
    caveats = []
    for metric, name in (("val/sccs", "SCCS"), ("val/nmi", "NMI")):
        values = table[table["metric"] == metric].set_index("arm")["mean"]
        is_model = values.index.str.split(":").str[-1].isin(_MODELS)
        if is_model.all() or not is_model.any():
            continue
        floors = values[~is_model]
        below = values[is_model & (values <= floors.max())]
        if len(below):
            models = _list([f"{code(arm)} {value:.3f}" for arm, value in below.items()])
            floor = f"{code(floors.idxmax())} {floors.max():.3f}"
            caveats.append(f"Floor not beaten in {name} before fine-tuning: {models} against {floor}.")
    return caveats


def missing_folds(comparison: Comparison) -> list[str]:
    """Folds that one arm has and another lacks: the comparison leaves them out."""
    columns = [column for column in FIT if column != "pretrain_seed"]
    every_fit = comparison.scores[["arm", *FIT]].drop_duplicates()
    everything = set(every_fit[columns].itertuples(index=False, name=None))
    caveats = []
    for (arm, pretrain_seed), fits in every_fit.groupby(["arm", "pretrain_seed"], sort=False):
        lacking = sorted(everything - set(fits[columns].itertuples(index=False, name=None)))
        if lacking:
            some = ", ".join(f"{site} seed {seed} fold {fold}" for site, *_, seed, fold in lacking[:5])
            some += ", ..." if len(lacking) > 5 else ""
            of_seed = "" if pretrain_seed < 0 else f" of pre-training seed {pretrain_seed}"
            caveats.append(
                f"Folds missing: {code(arm)}{of_seed} has {len(fits)} of {len(everything)} ({some} not finished); it "
                "is compared on the finished ones."
            )
    return caveats


def epoch_limits(comparison: Comparison) -> list[str]:
    """Arms with fits that reached the epoch limit while validation AUC was still rising."""
    fits = comparison.scores.drop_duplicates(["arm", *FIT])
    stopped = fits.groupby("arm", sort=False)["hit_limit"].agg(["sum", "size"])
    some = [f"{code(arm)} {row['sum']} of {row['size']}" for arm, row in stopped.iterrows() if row["sum"]]
    return [f"Stopped at the epoch limit before convergence: fits of {_list(some)}."] if some else []


def overlap(config: Config) -> list[str]:
    """What the pre-training text holds of the evaluation."""
    path = config.folder / layout.OVERLAP
    if not path.is_file():
        return []
    parts = read_json(path, "delete it and rerun pretrain.py, which measures it again")["parts"]
    caveats = []
    for kind in dict.fromkeys(part["part"].split()[0] for part in parts):
        of_kind = [part for part in parts if part["part"].split()[0] == kind]
        known = [part for part in of_kind if part["shared"] is not None]
        shared, count = sum(part["shared"] for part in known), sum(part["count"] for part in known)
        if shared:
            caveats.append(
                f"The pre-training text overlaps the evaluation: it contains {shared:,} of {count:,} "
                f"({shared / count:.1%}) of the {kind} windows or sites (`data.hide: evaluation` masks them)."
            )
        if len(known) < len(of_kind):
            caveats.append(f"It is not known how many of the {kind} windows or sites the pre-training text contains.")
    return caveats


def selection(config: Config) -> list[str]:
    caveats = []
    stages = layout.finished_stages(config.folder, layout.PRETRAIN).values()
    best = {proxy for stage in stages for proxy in read_json(stage / layout.SUMMARY, REMEDY)["best"]}
    if "sccs" in best and config.data.selection_share == 0:
        caveats.append(
            "Selected on evaluation data: `data.selection_share` is 0, so `best_sccs` was selected by SCCS on the "
            "training windows of fold 0, which other folds test."
        )
    for proxy, where in (("sccs", "windows"), ("nmi", "sites")):
        if proxy in best:
            caveats.append(
                f"Selected on evaluation data: the {proxy.upper()} of `best_{proxy}` before fine-tuning is the maximum "
                f"over validations on the same {where}: optimistically biased, measured on its own selection data."
            )
    if config.finetune.select_epoch == "shared":
        caveats.append(
            "Selected on evaluation data: `finetune.select_epoch` is shared, so the epoch was selected on the "
            "validation windows of all folds, which other folds test."
        )
    share = near_duplicate_share(config)
    if share:
        caveats.append(
            f"`data.folds` is {config.data.folds}: {share:.1%} of the test windows share an 80-mer with a training "
            "window of their fold, which inflates F1; distinct F1 excludes them."
        )
    return caveats


def leaks(config: Config) -> list[str]:
    """Checkpoints and text that have seen labels of windows that may be tested."""
    caveats = []
    for fit in layout.begun_fits(config.folder):
        arm, _, source = read_saved(fit / layout.CONFIG)["finetune"]["arms"][0].partition("=")
        sentence = (
            f"{code(arm)} starts from {plain(source)}, a fine-tuned classifier: its training windows may be test "
            "windows here."
        )
        if source and holds_classifier(Path(source)) and sentence not in caveats:
            caveats.append(sentence)
    return caveats

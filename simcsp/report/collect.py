"""Results read from run folders as tables: folds of one or several runs under common arm names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simcsp.core import run_layout as layout
from simcsp.core.arms import ARMS, BASELINE, CONTROL
from simcsp.core.config import Config, flatten, to_dict
from simcsp.core.config_file import read_saved
from simcsp.core.errors import InputError
from simcsp.core.files import check_hash, read_json, read_table, sha256_file
from simcsp.core.provenance import BOOKKEEPING, REMEDY, check_sealed, read_fit
from simcsp.core.run_folder import PREDICTION_COLUMNS, read_metrics
from simcsp.metrics.pooling import check_fits, check_stages
from simcsp.metrics.scores import TEST_TO_TRAIN

CROSS_VALIDATION = "spliceator"  # the dataset of the test folds
_LONGEST_NAME = 120  # of a folder that joins the names of several runs
FIT = ["site", "pretrain_seed", "train_windows", "draw", "seed", "fold"]
"""What tells the fits of an arm apart. pretrain_seed: -1 where an arm comes from no pre-training of several seeds;
train_windows: 0 for all of a fold, else a stratified draw of so many, the draw-th of them."""
# What decides which windows there are and how the folds are cut.
SPLIT_FIELDS = ("spliceator", "negatives", "folds", "num_folds", "selection_share", "split_seed")


@dataclass(frozen=True)
class Comparison:
    """Finished folds of one or several runs.

    runs: {label: config}. scores: run, arm, FIT, metric, value, ratio (of test to training windows), val (their
    number; of windows also train), hit_limit. predictions: run, arm, FIT, window, label, probability. names: {(run, arm
    there): arm in the report}.
    """

    runs: dict[str, Config]
    scores: pd.DataFrame
    predictions: pd.DataFrame
    names: dict[tuple[str, str], str]

    def pairs(self) -> list[tuple[str, str]]:
        """(arm, its control) under the report's names, for arms of pre-training whose control is there."""
        named = self.names.items()
        controls = [(name, self.names.get((run, f"{CONTROL}{arm}"))) for (run, arm), name in named]
        return list(dict.fromkeys((arm, control) for arm, control in controls if control is not None))


def rows_where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows in which columns have the values that are given by their names."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def label_runs(configs: list[Config]) -> dict[str, Config]:
    """{label: config}: the name of each run, its path where two have the same name. Refuses a run given twice."""
    folders = [config.folder.resolve() for config in configs]
    for config, folder in zip(configs, folders):
        if folders.count(folder) > 1:
            raise InputError(f"{config.folder} is given twice: name each run once")
    names = [folder.name for folder in folders]
    return {name if names.count(name) == 1 else str(config.folder): config for name, config in zip(names, configs)}


def default_folder(configs: list[Config]) -> Path:
    """RUN/report, or runs/<a>+<b>/report beside the first of several runs."""
    if len(configs) == 1:
        return configs[0].folder / layout.REPORT
    name = "+".join(config.folder.name for config in configs)
    if len(name) > _LONGEST_NAME:
        raise InputError(f"{len(configs)} run names joined are too long for a folder: name one with --out FOLDER")
    return configs[0].folder.parent / name / layout.REPORT


def fold_summaries(folder: Path, task: str = "windows") -> Iterator[tuple[Path, dict[str, Any]]]:
    """(its folder, its summary.json) of each finished fold of a run. task: of finetune.task."""
    for path in layout.finished_fits(folder):
        if (layout.fit_key(path).site == layout.BASES) == (task == "bases"):
            yield path, read_fit(path)


def fit_values(summary: dict[str, Any]) -> dict[str, Any]:
    """The FIT columns of a fold's summary; those that older folds lack have the values of a plain fit."""
    plain = {"pretrain_seed": -1, "train_windows": 0, "draw": 0}
    return {key: plain[key] if summary.get(key) is None else summary[key] for key in FIT}


def collect_folds(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished folds as (scores, predictions): the columns of Comparison's without run.

    Raises InputError when no fold is finished, or when folds were made from different windows: they cannot be paired.
    """
    rows, tables = [], []
    hashes: dict[str, Path] = {}
    finished = list(fold_summaries(folder))
    check_fits(folder, [path for path, _ in finished])
    for path, summary in finished:
        job, windows = {"arm": summary["arm"], **fit_values(summary)}, summary["windows"]
        more = {"ratio": windows["test"] / windows["train"], "train": windows["train"], "val": windows["val"]}
        more["hit_limit"] = bool(summary.get("hit_limit"))
        rows += [{**job, "metric": key, "value": value, **more} for key, value in summary["metrics"].items()]
        predictions = path / layout.PREDICTIONS
        check_hash(predictions, summary.get("sha256", {}).get(predictions.name), REMEDY)
        tables.append(read_table(predictions, PREDICTION_COLUMNS, REMEDY).assign(**job))
        hashes.setdefault(_data_hash(path), path)
    if not rows:
        raise InputError(f"{folder}/finetune contains no finished fold: run finetune.sh first")
    if len(hashes) > 1:
        different = " and ".join(str(path) for path in hashes.values())
        raise InputError(f"{different} were fitted on different windows, so their folds cannot be paired")
    scores = pd.DataFrame(rows)
    # few training windows overlap little between folds: what folds share is then their test windows, as with all
    drawn = scores["train_windows"] > 0
    scores.loc[drawn, "ratio"] = TEST_TO_TRAIN if drawn.all() else scores.loc[~drawn, "ratio"].mean()
    return scores, pd.concat(tables)


def main_size(scores: pd.DataFrame) -> int:
    """The train_windows that tables and the verdict are about: all (0) where there are such folds, else the most."""
    return 0 if (scores["train_windows"] == 0).any() else int(scores["train_windows"].max())


def _data_hash(fold: Path) -> str:
    return read_json(fold / layout.ENVIRONMENT, REMEDY)["inputs"]["spliceator"]


# -- several runs ------------------------------------------------------------------------------------------------------


def merge(runs: dict[str, Config]) -> Comparison:
    """The folds of all runs, which must be of the same windows and folds.

    Raises InputError where folds cannot be paired, with the difference named.
    """
    for config in runs.values():
        check_stages(config.folder)
    folds = {run: collect_folds(config.folder) for run, config in runs.items()}
    check_pairable(runs, {run: predictions for run, (_, predictions) in folds.items()})
    return name_arms(runs, folds)


def name_arms(
    runs: dict[str, Config], folds: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], task: str = "windows"
) -> Comparison:
    """The (scores, predictions) of folds that can be paired, under names that tell arms of several runs apart.

    An arm keeps its name where no earlier run has one of that name; what differs from it is called run:arm; the same
    arm again (equal scores; or other folds of the same checkpoint and settings) is counted once.
    """
    names: dict[tuple[str, str], str] = {}
    scores: dict[str, list[pd.DataFrame]] = {}
    predictions: list[pd.DataFrame] = []
    for run, tables in folds.items():
        fitted = set(tables[0]["arm"])
        for arm in [arm for arm in dict.fromkeys([*ARMS, *tables[0]["arm"]]) if arm in fitted]:
            arm_scores, arm_predictions = (rows_where(table, arm=arm).assign(run=run) for table in tables)
            name = arm
            if arm in scores:
                before = pd.concat(scores[arm])
                if _same_arm(runs, before, arm_scores, arm, task):
                    arm_scores, arm_predictions = (_new_jobs(table, before) for table in (arm_scores, arm_predictions))
                else:
                    name = f"{run}:{arm}"
            names[run, arm] = name
            scores.setdefault(name, []).append(arm_scores.assign(arm=name))
            predictions.append(arm_predictions.assign(arm=name))
    together = pd.concat(sum(scores.values(), []), ignore_index=True)
    return Comparison(runs, together, pd.concat(predictions, ignore_index=True), names)


def _same_arm(runs: Mapping[str, Config], before: pd.DataFrame, after: pd.DataFrame, arm: str, task: str) -> bool:
    """Whether two runs' scores of their folds of `arm` come from the same model."""
    both = before.merge(after, on=[*FIT, "metric"], suffixes=("", "_after"))
    if len(both):
        return both["value"].equals(both["value_after"])  # two that are no number are alike
    folders = [runs[table["run"].iloc[0]].folder for table in (before, after)]
    seeds = [set(table["pretrain_seed"]) for table in (before, after)]
    if not seeds[0] & seeds[1] and min(seeds[0] | seeds[1]) >= 0:  # the same pre-training under other seeds
        return _settings_of(folders[0], arm, task) == _settings_of(folders[1], arm, task)
    return _origin(folders[0], arm, task) == _origin(folders[1], arm, task)


def _settings_of(run: Path, arm: str, task: str) -> tuple[dict[str, Any], ...]:
    settings = flatten(_saved_stage(run, layout.checkpoint_of(arm)[0]))
    skipped = (*BOOKKEEPING, "seed", "pretrain.seeds", "model.source")
    both = _origin(run, arm, task)[1], settings
    return tuple({key: value for key, value in each.items() if not key.startswith(skipped)} for each in both)


def _saved_stage(run: Path, stage: str) -> dict[str, Any]:
    """The config of a stage of pre-training, of the first of several seeds, which differ in the seed alone; {} without
    one."""
    configs = (folder / layout.CONFIG for folder in layout.stage_folders(run, stage).values())
    saved = next((path for path in configs if path.is_file()), None)
    return {} if saved is None else read_saved(saved)


def _origin(run: Path, arm: str, task: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What an arm's first fold was made from: hashes of its inputs, and its settings."""
    fold = next(path for path, summary in fold_summaries(run, task) if summary["arm"] == arm)
    settings = flatten(read_saved(fold / layout.CONFIG))
    kept = {key: value for key, value in settings.items() if not key.startswith((*BOOKKEEPING, "model.source"))}
    return read_json(fold / layout.ENVIRONMENT, REMEDY)["inputs"], kept


def _new_jobs(table: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    done = pd.MultiIndex.from_frame(before[FIT].drop_duplicates())
    return table[~pd.MultiIndex.from_frame(table[FIT]).isin(done)]


def check_pairable(runs: Mapping[str, Config], predictions: Mapping[str, pd.DataFrame]) -> None:
    """Refuse folds whose test windows are not the same in every run, arm and seed, naming what differs."""
    first = next(iter(runs))
    hashes = {run: _data_hash(next(fold_summaries(config.folder))[0]) for run, config in runs.items()}
    for run in runs:
        if hashes[run] != hashes[first]:
            fields = differing_fields(runs[first], runs[run])
            raise InputError(
                f"{runs[first].folder} and {runs[run].folder} have different windows ({fields}): their folds cannot "
                "be paired; fine-tune both on the same data"
            )
    seen: dict[tuple[str, int], tuple[str, frozenset]] = {}
    for run, table in predictions.items():
        for (_, site, *_, fold), part in table.groupby(["arm", *FIT], sort=False):
            windows = frozenset(part["window"])
            other, expected = seen.setdefault((site, fold), (run, windows))
            if windows != expected:
                where = f"{runs[other].folder} and {runs[run].folder}: fold {fold} of {site}"
                shared = len(windows & expected)
                raise InputError(
                    f"{where} tests {len(expected)} and {len(windows)} windows, {shared} of them the same "
                    f"({differing_fields(runs[other], runs[run])}): their folds cannot be paired; "
                    "fine-tune both on the same folds"
                )


def differing_fields(one: Config, other: Config) -> str:
    """Which of the settings that choose windows and folds differ, in words."""
    values = {field: (getattr(one.data, field), getattr(other.data, field)) for field in SPLIT_FIELDS}
    differences = [f"data.{field} is {a} in the one, {b} in the other" for field, (a, b) in values.items() if a != b]
    return "; ".join(differences) or "the settings are the same, so the files under data.spliceator differ"


def differing_settings(runs: Mapping[str, Config]) -> dict[str, list[Any]]:
    """{field: its value in each run} of the settings in which runs differ, those of pre-training included."""
    settings = []
    for config in runs.values():
        values = flatten(to_dict(config))
        for stage in (layout.MLM, layout.PRETRAIN):  # a fold's config does not hold them
            section = _saved_stage(config.folder, stage).get(stage, {"steps": 0})
            if seeds := list(layout.stage_folders(config.folder, stage).keys() - {None}):
                section = section | {"seeds": sorted(seeds)}
            values = {key: value for key, value in values.items() if not key.startswith(f"{stage}.")}
            values |= flatten({stage: section})
        settings.append({key: value for key, value in values.items() if not key.startswith(BOOKKEEPING)})
    fields = dict.fromkeys(key for values in settings for key in values)
    table = {field: [values.get(field, "") for values in settings] for field in fields}
    return {field: values for field, values in table.items() if any(value != values[0] for value in values)}


# -- proxies and benchmark species -------------------------------------------------------------------------------------


def proxy_values(comparison: Comparison) -> pd.DataFrame:
    """SCCS and NMI of the pre-training checkpoints, of the controls', and of the floors.

    Columns run, arm, dataset, metric, value (the mean over pre-training seeds), seeds (a value each). What two runs
    share (the floors, the start) stands once.
    """
    rows: list[dict[str, Any]] = []
    known: dict[tuple[str, str], list[float]] = {}
    for run, config in comparison.runs.items():
        for (arm, dataset, metric), seeds in _proxies_of(config.folder).items():
            name = comparison.names.get((run, arm), arm)
            if known.get((name, metric), seeds) != seeds:
                name = f"{run}:{arm}"
            if (name, metric) not in known:
                known[name, metric] = seeds
                row = {"run": run, "arm": name, "dataset": dataset, "metric": metric}
                rows.append(row | {"value": float(np.mean(seeds)), "seeds": seeds})
    return pd.DataFrame(rows, columns=["run", "arm", "dataset", "metric", "value", "seeds"])


def _proxies_of(folder: Path) -> dict[tuple[str, str, str], list[float]]:
    """{(arm or floor, dataset, metric): values} of one run, one for each pre-training seed that differs in it: the
    start is the same for all."""
    rows: dict[tuple[str, str, str], list[float]] = {}
    for stage, prefix in ((layout.PRETRAIN, ""), (layout.CONTROL_STAGE, CONTROL)):
        for path in layout.finished_stages(folder, stage).values():
            for key, value in _proxies_of_stage(path, prefix):
                rows.setdefault(key, []).append(value)
    return {key: values[:1] if len(set(values)) == 1 else values for key, values in rows.items()}


def _proxies_of_stage(path: Path, prefix: str) -> Iterator[tuple[tuple[str, str, str], float]]:
    summary = read_json(path / layout.SUMMARY, REMEDY)
    validations = {row["step"]: row for row in read_metrics(path) if {"val/sccs", "val/nmi"} & set(row)}
    steps = {} if prefix else {BASELINE: 0}
    steps |= {f"{prefix}{layout.LAST}": summary["steps"]}
    steps |= {f"{prefix}{layout.best_of(proxy)}": best["step"] for proxy, best in summary["best"].items()}
    if missing := sorted(set(steps.values()) - set(validations)):
        raise InputError(f"{path / layout.METRICS} has no validation of step {missing[0]}: damaged; {REMEDY}")
    floors = {} if prefix else floor_values(summary["floors"])  # both stages measure the same ones
    for proxy, dataset in (("sccs", "selection"), ("nmi", "motifs")):
        values = {arm: validations[step].get(f"val/{proxy}") for arm, step in steps.items()}
        start = f"{proxy}_"
        values |= {key.removeprefix(start): value for key, value in floors.items() if key.startswith(start)}
        yield from (((arm, dataset, f"val/{proxy}"), value) for arm, value in values.items() if value is not None)


def floor_values(floors: Mapping[str, float]) -> dict[str, float]:
    """{'sccs_gc': value} of the floors that a stage recorded, without the ends of null bands."""
    return {key.removeprefix("floor/"): value for key, value in floors.items() if not key.endswith(("_low", "_high"))}


def benchmark_values(comparison: Comparison) -> pd.DataFrame:
    """What `evaluate.py benchmark` found: arm, site, seed, fold (-1: their ensemble), dataset, metric, value."""
    columns = ["arm", "site", "seed", "fold", "dataset", "metric"]
    tables = [pd.DataFrame(columns=[*columns, "value"])]
    for run, config in comparison.runs.items():
        path = config.folder / layout.BENCHMARK / layout.BENCHMARK_TABLE
        if path.is_file():
            again = f"run evaluate.py benchmark {config.folder} again"
            if (path.parent / layout.SUMMARY).is_file():  # earlier versions wrote none
                check_benchmark(config.folder, again)
            table = read_table(path, [*columns, "value"], again)
            tables.append(table.assign(arm=[comparison.names.get((run, arm), arm) for arm in table["arm"]]))
    return pd.concat(tables[1:] or tables).drop_duplicates(columns)


def check_benchmark(run: Path, again: str) -> None:
    """Refuse a benchmark.csv that is not what was written, or of fits that have been done again since."""
    out = run / layout.BENCHMARK
    check_sealed(out, layout.BENCHMARK_TABLE, remedy=again)
    for name, digest in read_json(out / layout.SUMMARY, again)["fits"].items():
        if layout.is_finished(run / name) and sha256_file(run / name / layout.SUMMARY) != digest:
            raise InputError(f"{out / layout.BENCHMARK_TABLE} was made before {run / name} was refitted: {again}")


def objective_of(config: Config) -> str | None:
    """What the pretrain stage of a run trained (pretrain.objective), under all of its seeds; None where it has none."""
    for folder in layout.finished_stages(config.folder, layout.PRETRAIN).values():
        return read_json(folder / layout.SUMMARY, REMEDY)["objective"]
    return None


def near_duplicate_share(config: Config) -> float:
    """Share of test windows that share 80 bases in a row with a training window of their fold, mean over folds."""
    shares = []
    for _, summary in fold_summaries(config.folder):
        windows = summary["windows"]
        if "test_distinct" in windows:  # runs of before it was counted
            shares.append(1 - windows["test_distinct"] / windows["test"])
    return float(np.mean(shares)) if shares else 0.0

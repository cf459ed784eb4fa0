"""classify, benchmark: fine-tuned folds scored anew, on their test windows and on the benchmark species."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from commands.sources import fold_folders
from simcsp.core import run_layout as layout
from simcsp.core.arms import FLOORS, holds_classifier
from simcsp.core.config import Config
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import sha256_file, write_text
from simcsp.core.provenance import seal
from simcsp.labels.spliceator import Windows, benchmark_species, load_benchmark
from simcsp.labels.splits import has_training_windows, read_windows
from simcsp.metrics.benchmark import Curve, Resemblance, missing_folds, resemblance_remarks, score_ensembles
from simcsp.metrics.benchmark_predictions import ask_members, load_scorer, recorded_predictions, score_checkpoint
from simcsp.metrics.scores import classification_scores
from simcsp.report.plots import reliability_plot, save_figure
from simcsp.report.table import score_table


def show_classify(source: Path, config: Config) -> None:
    """Test scores of each fold, recomputed from its checkpoint, and whether they match the recorded ones."""
    windows, splits = read_windows(config.data, config.folder)
    accelerator = build_accelerator(config.device, config.precision)
    rows, worst = {}, 0.0
    for folder in tqdm(fold_folders(source), desc="classify", unit="fold", disable=not sys.stderr.isatty()):
        fit = layout.fit_key(folder)
        index = splits.folds[fit.site][fit.fold]["test"]
        recorded = recorded_predictions(folder, windows.names[index])
        probabilities = load_scorer(layout.checkpoint_path(folder), config, accelerator)(windows.take(index))
        worst = max(worst, float(np.abs(recorded["probability"] - probabilities).max()))
        rows[f"{fit.model} {fit.site} seed {fit.seed} fold {fit.fold:02d}"] = classification_scores(
            windows.labels[index], probabilities
        )
    print("test windows of each fold, rescored with its checkpoint")
    print(score_table(rows))
    print(f"largest difference to the recorded probabilities: {worst:.1e}")


def show_benchmark(source: Path, config: Config) -> None:
    """Benchmark species by each fold's model, their mean ensemble and the floors (see simcsp/metrics/benchmark.py).

    Of a whole run, written to its benchmark/: benchmark.csv, where the report finds it, reliability plots, notes.txt.
    A checkpoint outside of a run is scored at .5 alone, and nothing is written.
    """
    sets = load_benchmarks(config)
    accelerator = build_accelerator(config.device, config.precision)
    if holds_classifier(source):
        fold = source.resolve().parents[1]
        if not layout.is_finished(fold):
            print("a checkpoint outside a run: no validation windows to tune a threshold on, so it is .5")
            table = score_checkpoint(source, config, accelerator, sets)
            print(score_table({name: benchmark_columns(scores) for name, scores in table.items()}))
            return
        source = fold
    if not has_training_windows(config.data):
        raise InputError(
            f"data.spliceator ({config.data.spliceator}) has no Training_data, which the floors and thresholds of a "
            "run take: set it, or give one checkpoint outside of the run"
        )
    windows, splits = read_windows(config.data, config.folder)
    resemblance = Resemblance(windows, sets)
    folders = fold_folders(source, floors=True)
    ensembles, notes = ask_members(folders, config, accelerator, windows, splits, sets, resemblance)
    trained = np.unique(np.concatenate([fold["train"] for fold in splits.folds["both"]]))
    notes += resemblance_remarks(resemblance, trained, sets)
    notes += missing_folds(ensembles, config.data.fold_count)
    rows, table, curves = score_ensembles(ensembles, sets)
    print("benchmark species, mean ensemble of the folds (both/donor: fitted on both, scored on donors)")
    print("f1_folds: mean over folds; f1_tuned: at the threshold tuned on validation windows; all others: at .5")
    print(score_table({name: benchmark_columns(scores) for name, scores in table.items()}))
    print(*notes, sep="\n")
    if reason := why_nothing_is_written(folders, config):
        print(f"nothing written: {reason}")
        return
    write_benchmark(rows, notes, curves, config, folders, made_up="SYNTHETIC" in windows.groups)


def load_benchmarks(config: Config) -> dict[str, Windows]:
    """{species: windows}. Raises InputError where the folder holds none."""
    root = config.evaluate.benchmarks or config.data.spliceator
    if root is None:
        raise InputError(
            "data.spliceator and evaluate.benchmarks are not set: give the folder that contains Benchmarks"
        )
    sets = {name: load_benchmark(root, name, config.data.context) for name in benchmark_species(root)}
    if not sets:
        raise InputError(f"{root}/Benchmarks contains no species folder")
    return sets


def why_nothing_is_written(folders: list[Path], config: Config) -> str | None:
    """The reason, or None where the scores are those of a whole run."""
    if not (config.folder / layout.SPLITS / layout.SPLITS_RECORD).is_file():
        return f"{config.folder} has no splits: it contains models and is not a run folder"
    if [path.resolve() for path in folders] != [path.resolve() for path in fold_folders(config.folder, floors=True)]:
        return f"this is a part of a run (for its files: evaluate.py benchmark {config.folder})"
    return None


def write_benchmark(
    rows: pd.DataFrame,
    notes: list[str],
    curves: dict[str, dict[str, dict[str, Curve]]],
    config: Config,
    folders: list[Path],
    made_up: bool,
) -> None:
    """benchmark.csv, notes.txt and the reliability plots of a run; summary.json says of which fits, and seals them."""
    out = config.folder / layout.BENCHMARK
    write_text(out / layout.BENCHMARK_TABLE, rows.to_csv(index=False, float_format="%.6g"))
    write_text(out / "notes.txt", "".join(f"{note}\n" for note in notes))
    suffix = " (synthetic data)" if made_up else ""
    for name, panels in curves.items():
        title = f"{config.name}: calibration on {name}, mean ensemble of the folds{suffix}"
        figure = reliability_plot(panels, FLOORS, title)
        save_figure(figure, out / f"reliability_{name}.png")
    names = {path.resolve().relative_to(config.folder.resolve()).as_posix(): path for path in folders}
    fits = {name: sha256_file(path / layout.SUMMARY) for name, path in names.items()}
    seal(out, {"fits": fits}, [out / layout.BENCHMARK_TABLE, out / "notes.txt"])
    print(f"each fold's model: {out}/benchmark.csv; calibration: {out}/reliability_*.png")


def benchmark_columns(scores: dict[str, float]) -> dict[str, float]:
    """The scores that fit on a terminal; the rest is in benchmark.csv."""
    shown = ("f1", "f1_folds", "f1_tuned", "f1_distinct", "auc", "ap", "mcc", "accuracy", "ece")
    return {key: scores[key] for key in shown if key in scores}

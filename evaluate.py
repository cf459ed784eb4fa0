#!/usr/bin/env python
"""Every number about finished work.

    python evaluate.py sccs      SOURCE [CONFIG.yaml] [--section.field value ...]   SCCS, alignment, uniformity, floors
    python evaluate.py nmi       SOURCE ...   NMI of the motif sites, its halves and bounds, floors
    python evaluate.py classify  SOURCE ...   test scores of fine-tuned folds, computed anew from their checkpoints
    python evaluate.py benchmark SOURCE ...   benchmark species: each fold's model, and their mean ensemble
    python evaluate.py report    RUN ...      the comparison of arms, written to RUN/report

SOURCE is a run folder (runs/demo), anything inside one (a fold, a checkpoint), or a checkpoint folder from elsewhere.
The config is that of the run; a checkpoint from elsewhere needs one on the command line.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import BertForMaskedLM

from utils.backbone import check_length, fresh_like, load_backbone
from utils.classifier import HEAD_FILE, load_classifier, predict
from utils.config import Config, load_config
from utils.errors import InputError, run_script
from utils.metrics import classification_scores
from utils.proxies import (
    load_motifs,
    load_windows,
    measure_nmi,
    measure_sccs,
    nmi_floors,
    sccs_floors,
    selection_windows,
)
from utils.report import write_report
from utils.run import build_accelerator, write_text
from utils.spliceator import Windows, benchmark_species, load_benchmark

PRETRAINING_ARMS = {"start": "baseline", "best_sccs": "best_sccs", "best_nmi": "best_nmi", "last": "last"}


def main() -> None:
    commands: dict[str, Callable[[Path, Config], None]] = {
        "sccs": show_sccs,
        "nmi": show_nmi,
        "classify": show_classify,
        "benchmark": show_benchmark,
        "report": show_report,
    }
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    if words[0] not in commands:
        raise InputError(f"{words[0]!r} is no command; the commands are {', '.join(commands)}")
    if len(words) < 2 or words[1].startswith("-"):
        raise InputError(f"{words[0]} needs a run folder or a checkpoint folder, for example runs/demo")
    source = Path(words[1])
    if not source.is_dir():
        raise InputError(f"{source} does not exist: give a run folder (runs/demo) or a checkpoint folder")
    commands[words[0]](source, config_of(source, words[2:]))


def config_of(source: Path, words: list[str]) -> Config:
    """The config of the run that a source belongs to, or the one on the command line, with its overrides."""
    run = enclosing_run(source)
    given = bool(words) and (not words[0].startswith("-") or words[0].startswith("--config"))
    if run is None and not given:
        raise InputError(f"{source} lies in no run folder: add the config whose data it is to be measured on")
    if not given:
        words = [str(next(stage_configs(run))), *words]
    config = load_config(words)
    return config if run is None else dataclasses.replace(config, runs=str(run.parent), name=run.name)


def enclosing_run(source: Path) -> Path | None:
    """The run folder that is or holds `source`: the outermost one with a stage in it."""
    found = [path for path in (source, *source.parents) if next(stage_configs(path), None) is not None]
    return found[-1] if found else None


def stage_configs(run: Path) -> Iterator[Path]:
    """Resolved configs of the stages of a run folder, fine-tuning first: it holds every section but pre-training's."""
    for pattern in ("finetune/*/*/seed*/fold*", "pretrain", "mlm"):
        yield from sorted(run.glob(f"{pattern}/config.yaml"))


# -- encoders: sccs and nmi --------------------------------------------------------------------------------------------


def encoders(source: Path) -> dict[str, Path]:
    """{name: checkpoint folder} to measure: one checkpoint, a fold's best, or those of a run that arms name."""
    if (source / "config.json").is_file():
        return {str(source): source}
    if (source / "checkpoints/best").is_dir():
        return {str(source): source / "checkpoints/best"}
    folder = source if (source / "checkpoints").is_dir() else source / "pretrain"
    found = {
        PRETRAINING_ARMS[path.name]: path for path in folder.glob("checkpoints/*") if path.name in PRETRAINING_ARMS
    }
    if not found:
        raise InputError(f"{source} holds no checkpoint: give a finished run, a fold or a checkpoint folder")
    return {name: found[name] for name in PRETRAINING_ARMS.values() if name in found}


def measure_encoders(
    source: Path, config: Config, measure: Callable[[BertForMaskedLM, str], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """{encoder: scores}, ending with one of fresh weights."""
    accelerator = build_accelerator(config.device, config.precision)
    scores = {}
    for name, folder in encoders(source).items():
        model, pooling, _ = load_backbone(dataclasses.replace(config.model, source=str(folder), pooling=None))
        check_length(model, config.data.context, "data.context")
        check_length(model, config.data.motif_window, "data.motif_window")
        scores[name] = measure(model.to(accelerator.device), pooling)
    torch.manual_seed(config.seed)
    scores["fresh"] = measure(fresh_like(model.config).to(accelerator.device), pooling)
    return scores


def show_sccs(source: Path, config: Config) -> None:
    """SCCS and its company on the selection windows."""
    windows, splits = load_windows(config)
    chosen = selection_windows(windows, splits)
    ids, labels = chosen.crop(config.data.context), chosen.labels
    scores = measure_encoders(
        source, config, lambda model, pooling: measure_sccs(model.bert, pooling, ids, labels, config)
    )
    for name, value in sccs_floors(ids, labels, config).items():
        scores[name] = {"sccs": value}
    print(f"SCCS on {len(labels)} selection windows of {config.data.context} nt, pairs: {config.evaluate.sccs_pairs}")
    print_table(scores)


def show_nmi(source: Path, config: Config) -> None:
    """NMI of the motif sites, with the bound that the number of clusters sets."""
    motifs = load_motifs(config.data)
    if motifs is None:
        raise InputError("data.motif_bed is not set: NMI needs a BED of labelled GT / AG sites, and its FASTA")
    scores = measure_encoders(source, config, lambda model, pooling: measure_nmi(model.bert, motifs, config))
    for name, value in nmi_floors(motifs, config).items():
        scores[name] = {"nmi": value}
    layer = "last layer" if config.evaluate.nmi_layer is None else f"layer {config.evaluate.nmi_layer}"
    print(f"NMI of {len(motifs.labels)} motif sites, windows of {config.data.motif_window} nt, {layer}")
    print_table(scores)


# -- classifiers: classify and benchmark -------------------------------------------------------------------------------


def fold_folders(source: Path) -> list[Path]:
    """Finished folds with a classifier, in or at `source`."""
    marker = f"checkpoints/best/{HEAD_FILE}"
    found = [source] if (source / marker).is_file() else sorted(path.parents[2] for path in source.rglob(marker))
    finished = [folder for folder in found if (folder / "summary.json").is_file()]
    if not finished:
        raise InputError(f"{source} holds no finished classifier: run finetune.sh first")
    return finished


def job_of(folder: Path) -> dict[str, object]:
    """arm, site, seed and fold, from .../<arm>/<site>/seedN/foldNN."""
    arm, site, seed, fold = folder.resolve().parts[-4:]
    return {"arm": arm, "site": site, "seed": int(seed.removeprefix("seed")), "fold": int(fold.removeprefix("fold"))}


def show_classify(source: Path, config: Config) -> None:
    """Test scores of each fold, computed anew from its checkpoint, and whether they are those that were recorded."""
    windows, splits = load_windows(config)
    accelerator = build_accelerator(config.device, config.precision)
    rows, worst = {}, 0.0
    for folder in tqdm(fold_folders(source), desc="classify", unit="fold", disable=not sys.stderr.isatty()):
        job = job_of(folder)
        index = splits.folds[str(job["site"])][int(job["fold"])]["test"]
        probabilities = classify(folder / "checkpoints/best", config, accelerator, windows.take(index))
        recorded = pd.read_csv(folder / "predictions.csv")
        if recorded["window"].tolist() != windows.names[index].tolist():
            raise InputError(
                f"{folder}/predictions.csv is of other windows than this config's: use the run's own config"
            )
        worst = max(worst, float(np.abs(recorded["probability"] - probabilities).max()))
        rows[f"{job['arm']} {job['site']} seed {job['seed']} fold {job['fold']:02d}"] = classification_scores(
            windows.labels[index], probabilities
        )
    print("test windows of each fold, scored anew with its checkpoint")
    print_table(rows)
    print(f"largest difference to the recorded probabilities: {worst:.1e}")


def classify(folder: Path, config: Config, accelerator: Accelerator, windows: Windows) -> np.ndarray:
    """P(site) [n] of windows by one classifier checkpoint."""
    model = load_classifier(folder, config.model, config.finetune.dropout).to(accelerator.device)
    check_length(model.bert, config.data.context, "data.context")
    return predict(model, windows.crop(config.data.context), config.evaluate.batch_size, accelerator.autocast)


def show_benchmark(source: Path, config: Config) -> None:
    """Each benchmark species by each fold's model and by the mean of their probabilities.

    Written to benchmark/benchmark.csv of the run (columns arm, site, seed, fold, dataset, metric, value; an ensemble
    has fold -1), where the report finds it.
    """
    if config.data.spliceator is None:
        raise InputError("data.spliceator is not set: give the folder that holds Spliceator's Benchmarks")
    species = benchmark_species(config.data.spliceator)
    if not species:
        raise InputError(f"{config.data.spliceator}/Benchmarks holds no species folder")
    accelerator = build_accelerator(config.device, config.precision)
    sets = {name: load_benchmark(config.data.spliceator, name, config.data.context) for name in species}
    rows, members = [], {}
    if (source / HEAD_FILE).is_file():
        print_table(score_checkpoint(source, config, accelerator, sets))
        return
    for folder in tqdm(fold_folders(source), desc="benchmark", unit="fold", disable=not sys.stderr.isatty()):
        job = job_of(folder)
        for name, windows in sets.items():
            mine = windows.take(windows.of_site(str(job["site"])))
            probabilities = classify(folder / "checkpoints/best", config, accelerator, mine)
            members.setdefault((job["arm"], job["site"], job["seed"], name), (mine.labels, []))[1].append(probabilities)
            scores = classification_scores(mine.labels, probabilities)
            rows += [{**job, "dataset": name, "metric": f"test/{key}", "value": scores[key]} for key in scores]
    table = {}
    for (arm, site, seed, name), (labels, probabilities) in members.items():
        scores = classification_scores(labels, np.mean(probabilities, axis=0))
        job = {"arm": arm, "site": site, "seed": seed, "fold": -1, "dataset": name}
        rows += [{**job, "metric": f"ensemble/{key}", "value": value} for key, value in scores.items()]
        table[f"{name} {site} {arm} seed {seed} (mean of {len(probabilities)})"] = scores
    out = config.folder / "benchmark/benchmark.csv"
    write_text(out, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    print("benchmark species, mean of the folds' probabilities, threshold .5")
    print_table(table)
    print(f"each fold's model: {out}")


def score_checkpoint(
    folder: Path, config: Config, accelerator: Accelerator, sets: dict[str, Windows]
) -> dict[str, dict[str, float]]:
    """One classifier on every species, by site type."""
    table = {}
    for name, windows in sets.items():
        for site in ("donor", "acceptor", "both"):
            mine = windows.take(windows.of_site(site))
            table[f"{name} {site}"] = classification_scores(mine.labels, classify(folder, config, accelerator, mine))
    return table


def show_report(source: Path, config: Config) -> None:
    """Write the comparison of arms anew from what is finished."""
    if enclosing_run(source) is None or source.resolve() != config.folder.resolve():
        raise InputError(f"report takes a run folder; {source} lies inside {config.folder}")
    print(write_report(config))


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Aligned columns; a score that a row does not have stays empty."""
    columns = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    width = max(map(len, rows))
    print(" " * width, *(f"{column:>12}" for column in columns))
    for name, scores in rows.items():
        cells = (f"{scores[column]:12.4f}" if column in scores else " " * 12 for column in columns)
        print(f"{name:<{width}}", *cells)


if __name__ == "__main__":
    run_script(main)

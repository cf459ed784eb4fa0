#!/usr/bin/env python
"""Every number about finished work.

    python evaluate.py sccs      SOURCE [CONFIG.yaml] [--section.field value ...]   SCCS, alignment, uniformity, floors
    python evaluate.py nmi       SOURCE ...   NMI of the motif sites, its halves and bounds, floors
    python evaluate.py layers    SOURCE ...   SCCS, linear probe and NMI of every layer and pooling, beside the floors
    python evaluate.py mlm       SOURCE ...   masked-base accuracy by region on a kept-out record, beside its neighbours
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
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import BertForMaskedLM

from utils.annotation import Transcript, read_annotation
from utils.backbone import check_length, fresh_like, load_backbone
from utils.classifier import HEAD_FILE, load_classifier, predict
from utils.config import Config, load_config
from utils.corpus import Corpus, covered, open_corpus
from utils.errors import InputError, run_script
from utils.floors import NeighbourTable
from utils.masked import REGIONS, WHOLE, choose_places, compare_with_neighbours, label_regions, masked_predictions
from utils.metrics import classification_scores
from utils.overlap import shared_windows
from utils.proxies import (
    layer_floors,
    load_motifs,
    load_windows,
    measure_layers,
    measure_nmi,
    measure_sccs,
    nmi_floors,
    sccs_floors,
    selection_windows,
)
from utils.report import write_report
from utils.run import build_accelerator, write_text
from utils.sequence import A, N, Record, TokenStore, open_store, reverse_complement
from utils.spliceator import Windows, benchmark_species, load_benchmark

PRETRAINING_ARMS = {"start": "baseline", "best_sccs": "best_sccs", "best_nmi": "best_nmi", "last": "last"}


def main() -> None:
    commands: dict[str, Callable[[Path, Config], None]] = {
        "sccs": show_sccs,
        "nmi": show_nmi,
        "layers": show_layers,
        "mlm": show_mlm,
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
    source: Path, config: Config, measure: Callable[[BertForMaskedLM, str], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """{encoder: scores}, ending with one of fresh weights."""
    accelerator = build_accelerator(config.device, config.precision)
    scores = {}
    for name, folder in encoders(source).items():
        model, pooling, _ = load_backbone(config.model.saved_as(folder))
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


def show_layers(source: Path, config: Config) -> None:
    """SCCS, probe and NMI of every layer by every kind of pooling, to choose model.pooling and model.pooling_layer."""
    windows, splits = load_windows(config)
    chosen, motifs = selection_windows(windows, splits), load_motifs(config.data)
    found = measure_encoders(source, config, lambda model, _: measure_layers(model.bert, chosen, motifs, config))
    alone = len(found) == 2  # and fresh weights
    rows = {
        row if alone and name != "fresh" else f"{name} {row}": scores
        for name, table in found.items()
        for row, scores in table.items()
    }
    rows |= layer_floors(chosen, motifs, config)
    sites = "no motif sites" if motifs is None else f"NMI of {len(motifs.labels)} motif sites"
    print(f"{source}: {len(chosen.labels)} selection windows of {config.data.context} nt, {sites}")
    print_table(rows)


def show_mlm(source: Path, config: Config) -> None:
    """Masked-base accuracy on the records of evaluate.mlm_fasta, against the three bases on either side.

    The neighbour model is fitted on each source of the pre-training text and on all of them; the best of these on the
    very bases asked stands in the table. Bases whose window shares 80 nt with the text are left out.
    """
    settings, windows_nt = config.evaluate, config.data.window
    if settings.mlm_fasta is None or settings.mlm_annotation is None:
        raise InputError("evaluate.mlm_fasta and evaluate.mlm_annotation are not set: mlm needs a kept-out record")
    corpus = open_corpus(config)
    stretches = covered(corpus.intervals)
    kept_out = open_store([settings.mlm_fasta], config.data.cache)
    windows, places, regions = [], [], []
    transcripts = read_annotation(settings.mlm_annotation, {r.name: r.length for r in kept_out.records})
    for record in kept_out.records:
        found = choose_windows(kept_out, record, transcripts, windows_nt, settings.mlm_places, config.seed)
        for column, values in zip((windows, places, regions), found):
            column.append(values + (record.offset if column is places else 0))
    windows, places, regions = (np.concatenate(column) for column in (windows, places, regions))
    fresh_text = ~shared_windows(windows, (corpus.store.ids[start:end] for start, end in stretches))
    windows, places, regions = windows[fresh_text], places[fresh_text], regions[fresh_text]
    table = best_neighbours(corpus, stretches, windows)
    accelerator = build_accelerator(config.device, config.precision)
    for name, folder in encoders(source).items():
        model, _, _ = load_backbone(config.model.saved_as(folder), need_mlm_head=True)
        check_length(model, windows_nt, "data.window")
        model.to(accelerator.device)
        probabilities = masked_predictions(model, windows, settings.batch_size, accelerator.autocast)
        rows = {}
        for number, region in (*enumerate(REGIONS), (WHOLE, "whole record")):
            mine = regions == number
            if mine.any():
                rows[region] = compare_with_neighbours(
                    probabilities[mine], table, windows[mine], places[mine], config.seed
                )
        print(f"{name}: one base masked in {windows_nt} nt of {Path(settings.mlm_fasta).name}")
        print_table(rows)
    print(f"{int((~fresh_text).sum())} of {len(fresh_text)} bases left out: their window shares 80 nt with the text")


def choose_windows(
    store: TokenStore, record: Record, transcripts: list[Transcript], length: int, per_region: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(windows uint8 [n, length] on the strand of their gene, places [n], regions [n]) of a kept-out record."""
    region, minus = label_regions(transcripts, record.name, record.length)
    ids, half = store.fetch(record.name, 0, record.length), length // 2
    known = np.concatenate([[0], np.cumsum(ids == N)])
    usable = np.zeros(record.length, dtype=bool)
    usable[half : record.length - length + half + 1] = known[length:] == known[: record.length - length + 1]
    usable[: length - half] = usable[record.length - half :] = False  # either strand's window must fit
    places, regions = choose_places(region, usable, per_region, seed)
    forward = np.lib.stride_tricks.sliding_window_view(ids, length)
    left = np.where(minus[places], places - (length - 1 - half), places - half)
    windows = forward[left]
    windows[minus[places]] = reverse_complement(windows[minus[places]])
    complete = (windows != N).all(axis=1)
    return windows[complete], places[complete], regions[complete]


def best_neighbours(corpus: Corpus, stretches: np.ndarray, windows: np.ndarray) -> NeighbourTable:
    """Of the tables fitted on each source of a text, and on all, the one that is right most often on `windows`."""
    sources = range(len(corpus.store.manifest["sources"]))
    tables = [NeighbourTable() for _ in sources]
    whole = NeighbourTable()
    ends = np.array([record.offset + record.length for record in corpus.store.records])
    for start, end in stretches:
        source = corpus.store.records[int(np.searchsorted(ends, start, side="right"))].source
        for table in (tables[source], whole):
            table.add(np.asarray(corpus.store.ids[start:end]))
    truth = windows[:, windows.shape[1] // 2] - A
    return max([whole, *tables], key=lambda table: (table.predict(windows).argmax(axis=1) == truth).mean())


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
    print(write_report(config), flush=True)


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Aligned columns; a score that a row does not have stays empty."""
    columns = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    width = max(map(len, rows))
    print(" " * width, *(f"{column:>12}" for column in columns))
    for name, scores in rows.items():
        cells = (_cell(scores[column]) if column in scores else " " * 12 for column in columns)
        print(f"{name:<{width}}", *cells)


def _cell(value: float) -> str:
    return f"{value:12,d}" if isinstance(value, int) else f"{value:12.4f}"


if __name__ == "__main__":
    run_script(main)

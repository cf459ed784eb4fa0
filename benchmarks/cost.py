#!/usr/bin/env python
"""What training costs here: peak memory of a step, how time grows with size, hours of the whole published experiment.

    python benchmarks/cost.py memory [--batch_size 512] [--mini_batch_size 4]    0: the whole batch at once
    python benchmarks/cost.py growth [--steps 10000] [--run runs/demo]
    python benchmarks/cost.py hours [--batch_size N] [--mini_batch_size M]

memory: one SimCSE step of windows of 510 nt, all dropout, AdamW, fresh weights of SpliceBERT's size (6 x 512). The peak
is the largest resident set of the process, on a GPU the most that tensors took. Our scripts have glibc keep freed
memory; with MALLOC_MMAP_THRESHOLD_=1048576 in the environment the peak is without the holes between blocks.
growth: seconds of processor time (set OMP_NUM_THREADS=1) of a training step, first and last tenth of a run of a tiny
model on the demo's genome, beside fixed work that shows what the machine itself did; of SCCS and NMI over more and more
windows, and of the report over more and more folds of a finished run, with the exponent between the two largest sizes
(1 is linear). Needs `bash pretrain.sh` and `bash finetune.sh`.
hours: each part of the published experiment (counts below), timed warm on random windows and scaled. Not counted:
starts, checkpoints, the report, and what a second worker saves.

--size small is 2 x 64 instead: for a quick look.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

import pretrain
from benchmarks import run as speed
from simcsp.judge.clustering import leiden
from simcsp.judge.proxies import VIEWS, measure_nmi, measure_sccs
from simcsp.labels.motifs import Motifs
from simcsp.model.checkpoint import load_backbone
from simcsp.report.write import write_report
from simcsp.text.alphabet import A, T
from simcsp.training.pretraining import Training
from utils.config import EvaluateConfig, ModelConfig, PretrainConfig
from utils.errors import InputError, run_script
from utils.files import read_json, write_json
from utils.parse import read_config

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 40  # nt, of growth
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WINDOWS = (500, 1000, 2000, 4000, 8000)  # the first warms up
SEEDS = (1, 2, 4, 8)
MOTIFS = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")

# The published experiment: 12,656 contrastive steps of 512 windows, SCCS and NMI every 250; three arms in ten folds, 15
# epochs each at batch 16, validated every epoch, tested once, SCCS before and after, NMI in the first fold.
STEPS, BATCH, EVAL_STEPS = 12_656, 512, 250
LABELLED, SITES = 44_152, 20_000
TRAIN, VAL, TEST = (round(LABELLED * share) for share in (0.7, 0.1, 0.2))
ARMS, FOLDS, EPOCHS = 3, 10, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "growth", "hours"])
    parser.add_argument("--size", choices=speed.SIZES, default="splicebert", help="memory, hours: of the encoder")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--batch_size", type=int, help="windows of the step (memory: 512; hours: 512, on a CPU 8)")
    parser.add_argument("--mini_batch_size", type=int, help="windows at once (memory: 4; hours: the whole batch)")
    parser.add_argument("--steps", type=int, default=10_000, help="growth: of the long run")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/demo", help="growth: run whose folds are copied")
    options = parser.parse_args()
    if options.what == "growth":
        growth(options.steps, options.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = speed.Bench(speed.SIZES[options.size], 3, 8, Path(folder), device=options.device)
        if options.what == "memory":
            mini = 4 if options.mini_batch_size is None else options.mini_batch_size
            print(memory(bench, options.batch_size or 512, mini))
        else:
            bench.windows = options.batch_size or (BATCH if bench.gpu else 8)
            print(f"{bench.device}, {torch.get_num_threads()} thread(s), {bench.precision}\n")
            print(table(hours(bench, options.mini_batch_size)))


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(bench: speed.Bench, batch_size: int, mini_batch_size: int) -> str:
    """Peak memory in GiB and seconds of one step, whose windows go through the encoder `mini_batch_size` at a time."""
    bench.windows = batch_size
    begun = time.perf_counter()
    contrastive_step(bench, mini_batch_size or None)()  # reads the loss, so a GPU has finished as well
    taken = time.perf_counter() - begun
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there, in KiB elsewhere
    peak = torch.cuda.max_memory_allocated() if bench.gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"batch {batch_size}, {mini_batch_size or batch_size} at once: peak {peak / 2**30:.2f} GiB, {taken:.1f} s"


def contrastive_step(bench: speed.Bench, mini_batch_size: int | None) -> Callable[[], None]:
    stage = PretrainConfig(batch_size=bench.windows, mini_batch_size=mini_batch_size)
    training = Training(bench.masked_lm(), "cls", stage, bench.accelerator)
    ids = bench.bases(bench.windows, bench.size.window)
    return lambda: training.advance(ids, bench.rng)


# -- growth ------------------------------------------------------------------------------------------------------------


def growth(steps: int, run: Path) -> None:
    """Print the three."""
    ratios = [last / first for first, last in (tenths(times) for times in step_times(steps))]
    print(f"a step in the last tenth over the first: {ratios[0]:.3f}, fixed work beside it {ratios[1]:.3f}", flush=True)
    for name, curve in (validation_times() | {"report, folds": report_times(run)}).items():
        (size, taken), (most, longest) = curve[-2:]
        shown = ", ".join(f"{size}: {taken:.2f} s" for size, taken in curve)
        print(f"{name}: {shown}; exponent {math.log(longest / taken) / math.log(most / size):.2f}", flush=True)


def step_times(steps: int) -> tuple[list[float], list[float]]:
    """Processor seconds of every step of a run but the first, logging included, and of the fixed work after each."""
    of_steps, of_fixed, ended = [], [], 0.0
    advance, given = Training.advance, torch.ones(64, 128)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(30)))

    def timed(training: Training, ids: np.ndarray, rng: np.random.Generator) -> None:
        nonlocal ended
        advance(training, ids, rng)
        middle = time.process_time()
        model(given).sum().backward()
        if training.step > 1:  # before the first comes all that starts a run
            of_steps.append(middle - ended)
            of_fixed.append(time.process_time() - middle)
        ended = time.process_time()

    changes = {"mlm.steps": 0, "pretrain.steps": steps, "pretrain.batch_size": 4, "pretrain.eval_steps": steps}
    changes |= {f"model.{key}": value for key, value in TINY.items()} | {"model.source": "null", "device": "cpu"}
    changes |= {"data.window": WINDOW, "data.motif_bed": "null", "data.motif_fasta": "null", "name": "growth"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        words = [f"--{key}={value}" for key, value in (changes | {"runs": folder}).items()]
        sys.argv = ["pretrain.py", "configs/demo.yaml", *words]
        Training.advance = timed
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                pretrain.main()
        finally:
            Training.advance = advance
    return of_steps, of_fixed


def tenths(times: list[float]) -> tuple[float, float]:
    """Median of the first and of the last tenth."""
    parts = np.array_split(times[len(times) // 20 :], 10)  # the first twentieth warms up
    return float(np.median(parts[0])), float(np.median(parts[-1]))


def validation_times() -> dict[str, list[tuple[int, float]]]:
    """{measure: [(windows, seconds)]} of SCCS over all pairs and over the published ones, and of NMI."""
    torch.manual_seed(0)
    model, pooling, _ = load_backbone(ModelConfig(**TINY, max_position_embeddings=WINDOW + 2))
    rng, settings, published = np.random.default_rng(0), EvaluateConfig(), EvaluateConfig(sccs_pairs="published")
    curves: dict[str, list[tuple[int, float]]] = {}
    for count in WINDOWS:
        ids = rng.integers(A, T + 1, size=(count, WINDOW), dtype=np.uint8)
        labels, sites = np.arange(count) % 2, Motifs(ids, np.array(MOTIFS)[np.arange(count) % len(MOTIFS)])
        jobs = {
            "SCCS, all pairs": functools.partial(measure_sccs, model.bert, pooling, ids, labels, settings, 0),
            "SCCS, published pairs": functools.partial(measure_sccs, model.bert, pooling, ids, labels, published, 0),
            "NMI": functools.partial(measure_nmi, model.bert, sites, settings, 0),
        }
        for name, job in jobs.items():
            curves.setdefault(name, []).append((count, speed.seconds(job, time.process_time)))
    return {name: curve[1:] for name, curve in curves.items()}


def report_times(run: Path) -> list[tuple[int, float]]:
    """[(folds, seconds)] of the report of a run whose folds are copied to more and more seeds."""
    sources = sorted(run.glob("finetune/*/*/seed0/fold*/summary.json"))
    if not sources:
        raise InputError(f"{run}/finetune holds no finished fold of seed 0: run finetune.sh, or name a run by --run")
    curve = []
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(read_config(sources[0].with_name("config.yaml")), name="growth", runs=folder)
        shutil.copytree(run / "splits", config.folder / "splits")
        for seed in range(max(SEEDS)):
            for source in sources:
                fold = config.folder / source.parent.relative_to(run)
                fold = fold.parent.with_name(f"seed{seed}") / fold.name
                shutil.copytree(source.parent, fold, ignore=shutil.ignore_patterns("checkpoints", "events*"))
                write_json(fold / "summary.json", read_json(source) | {"seed": seed})
            if seed == 0:
                write_report(config)  # the first one of a process also loads fonts
            if seed + 1 in SEEDS:
                job = functools.partial(write_report, config)
                curve.append((len(sources) * (seed + 1), speed.seconds(job, time.process_time)))
    return curve


# -- hours of the published experiment ---------------------------------------------------------------------------------


def hours(bench: speed.Bench, mini_batch_size: int | None = None) -> list[tuple[str, int, float]]:
    """Its parts: what, how often, and the seconds that one takes on the bench's device, the median of three."""

    def median(work: Callable[[], object]) -> float:
        work()
        return float(np.median([speed.seconds(work, bench.now) for _ in range(bench.pairs)]))

    step = median(contrastive_step(bench, mini_batch_size)) * BATCH / bench.windows
    classifier, labelled = speed.build_classifiers(bench, "sdpa")[0], speed.labelled_batch(bench)
    finetuned = median(speed.our_finetune_step(bench, classifier, *labelled))
    window, site = (
        median(speed.our_encoder(bench, bench.bases(bench.size.encoded, length))) / bench.size.encoded
        for length in (bench.size.context, bench.size.window)
    )
    states, _ = speed.mixed_sites(bench)
    nmi = SITES * site + median(lambda: leiden(states)) * SITES / len(states)
    jobs, validations = ARMS * FOLDS, math.ceil(STEPS / EVAL_STEPS)
    return [
        (f"contrastive step of {BATCH} windows", STEPS, step),
        (f"SCCS of {TRAIN:,} windows", validations, (TRAIN + 2 * VIEWS) * window),  # alignment too
        (f"NMI of {SITES:,} sites, in validation", validations, nmi),
        (
            f"fine-tuning step of {speed.FINETUNE_BATCH} windows",
            jobs * EPOCHS * (TRAIN // speed.FINETUNE_BATCH),
            finetuned,
        ),
        (f"validation of an epoch on {VAL:,} windows", jobs * EPOCHS, VAL * window),
        (f"test on {TEST:,} windows, SCCS before and after", jobs, 3 * TEST * window),
        (f"NMI of {SITES:,} sites, before and after", 2 * ARMS, nmi),
    ]


def table(parts: list[tuple[str, int, float]]) -> str:
    """Markdown, with the sum of the hours."""
    rows = [f"| {name} | {count:,} | {taken:.3g} | {count * taken / 3600:.2f} |" for name, count, taken in parts]
    total = f"| whole experiment | | | {sum(count * taken for _, count, taken in parts) / 3600:.2f} |"
    return "\n".join(["| part | times | s each | hours |", "|---|---|---|---|", *rows, total])


if __name__ == "__main__":
    run_script(main)

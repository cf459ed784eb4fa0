#!/usr/bin/env python
"""What training costs here: peak memory of a step, hours of the whole published experiment.

    python benchmarks/cost.py memory [--batch_size 512] [--mini_batch_size 4]    0: the whole batch at once
    python benchmarks/cost.py hours [--batch_size N] [--mini_batch_size M]

memory: one SimCSE step of windows of 510 nt, all dropout, AdamW, fresh weights of SpliceBERT's size (6 x 512). The peak
is the largest resident set of the process, on a GPU the most that tensors took. Our scripts have glibc keep freed
memory; with MALLOC_MMAP_THRESHOLD_=1048576 in the environment the peak is without the holes between blocks.
hours: each part of the published experiment (counts below), timed warm on random windows and scaled. Not counted:
starts, checkpoints, the report, and what a second worker saves.

--size small is 2 x 64 instead: for a quick look.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from benchmarks import run as speed
from benchmarks.bench import SIZES, Bench, seconds
from simcsp.core.config import PretrainConfig
from simcsp.metrics.clustering import leiden
from simcsp.metrics.proxies import VIEWS
from simcsp.training.pretraining import Training
from utils.script import run_script

# The published experiment: 12,656 contrastive steps of 512 windows, SCCS and NMI every 250; three arms in ten folds, 15
# epochs each at batch 16, validated every epoch, tested once, SCCS before and after, NMI in the first fold.
STEPS, BATCH, EVAL_STEPS = 12_656, 512, 250
LABELLED, SITES = 44_152, 20_000
TRAIN, VAL, TEST = (round(LABELLED * share) for share in (0.7, 0.1, 0.2))
ARMS, FOLDS, EPOCHS = 3, 10, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "hours"])
    parser.add_argument("--size", choices=SIZES, default="splicebert", help="of the encoder")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--batch_size", type=int, help="windows of the step (memory: 512; hours: 512, on a CPU 8)")
    parser.add_argument("--mini_batch_size", type=int, help="windows at once (memory: 4; hours: the whole batch)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(SIZES[options.size], 3, 8, Path(folder), device=options.device)
        if options.what == "memory":
            mini = 4 if options.mini_batch_size is None else options.mini_batch_size
            print(memory(bench, options.batch_size or 512, mini))
        else:
            bench.windows = options.batch_size or (BATCH if bench.gpu else 8)
            print(f"{bench.device}, {torch.get_num_threads()} thread(s), {bench.precision}\n")
            print(table(hours(bench, options.mini_batch_size)))


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(bench: Bench, batch_size: int, mini_batch_size: int) -> str:
    """Peak memory in GiB and seconds of one step, whose windows go through the encoder `mini_batch_size` at a time."""
    bench.windows = batch_size
    begun = time.perf_counter()
    contrastive_step(bench, mini_batch_size or None)()  # reads the loss, so a GPU has finished as well
    taken = time.perf_counter() - begun
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there, in KiB elsewhere
    peak = torch.cuda.max_memory_allocated() if bench.gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"batch {batch_size}, {mini_batch_size or batch_size} at once: peak {peak / 2**30:.2f} GiB, {taken:.1f} s"


def contrastive_step(bench: Bench, mini_batch_size: int | None) -> Callable[[], None]:
    stage = PretrainConfig(batch_size=bench.windows, mini_batch_size=mini_batch_size)
    training = Training(bench.masked_lm(), "cls", stage, bench.accelerator)
    ids = bench.bases(bench.windows, bench.size.window)
    return lambda: training.advance(training.draw(ids, bench.rng))


# -- hours of the published experiment ---------------------------------------------------------------------------------


def hours(bench: Bench, mini_batch_size: int | None = None) -> list[tuple[str, int, float]]:
    """Its parts: what, how often, and the seconds that one takes on the bench's device, the median of three."""

    def median(work: Callable[[], object]) -> float:
        work()
        return float(np.median([seconds(work, bench.now) for _ in range(bench.pairs)]))

    step = median(contrastive_step(bench, mini_batch_size)) * BATCH / bench.windows
    classifier, labelled = speed.build_classifiers(bench)[0], speed.labelled_batch(bench)
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

#!/usr/bin/env python
"""Hours that the whole published experiment would take on this machine, from what its parts take here.

    python benchmarks/hours.py [--device auto|cpu|cuda] [--windows N] [--mini_batch_size M] [--repeats 3] [--json FILE]

The experiment, as SimCSP published it (counts below): SpliceBERT's sizes and dropout; 12,656 contrastive steps of 512
windows of 510 nt, SCCS and NMI every 250; then three arms in ten folds, 15 epochs each at batch 16, validated every
epoch, tested once, SCCS before and after. Each part is timed warm, on random windows and fresh weights; the number is
the median over --repeats. Times grow linearly with the number of windows (growth.py), so a part is timed on fewer and
scaled. Not counted: starts, checkpoints, the report, and what a second worker would save. --windows: of the step that
is timed, 512 on a GPU and 8 on a CPU unless given; --mini_batch_size: gradient caching, where 512 do not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from benchmarks.run import (
    FINETUNE_BATCH,
    SIZES,
    Bench,
    build_classifiers,
    labelled_batch,
    machine,
    mixed_sites,
    our_encoder,
    our_finetune_step,
    seconds,
)
from pretrain import Training
from utils.config import PretrainConfig
from utils.errors import run_script
from utils.metrics import leiden
from utils.proxies import VIEWS

STEPS, BATCH, EVAL_STEPS = 12_656, 512, 250  # of pre-training
LABELLED, SITES = 44_152, 20_000  # windows, for validation and fine-tuning; motif sites
TRAIN, VAL, TEST = (round(LABELLED * share) for share in (0.7, 0.1, 0.2))
ARMS, FOLDS, EPOCHS = 3, 10, 15
VALIDATIONS = math.ceil(STEPS / EVAL_STEPS)
JOBS = ARMS * FOLDS
NMI_TESTS = 2 * ARMS  # before and after, in the one fold of finetune.nmi_folds


@dataclasses.dataclass
class Part:
    """A kind of work: how often the experiment does it, and the seconds that one takes here."""

    name: str
    count: int
    seconds: float

    @property
    def hours(self) -> float:
        return self.count * self.seconds / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--size", choices=SIZES, default="splicebert")
    parser.add_argument("--windows", type=int, help="of the contrastive step that is timed")
    parser.add_argument("--mini_batch_size", type=int, help="windows at once in the contrastive step")
    parser.add_argument("--repeats", type=int, default=3, help="of each part, after a warm-up")
    parser.add_argument("--json", type=Path, help="also write the parts to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(SIZES[options.size], options.repeats, 8, Path(folder), device=options.device)
        bench.windows = options.windows or (BATCH if bench.gpu else 8)
        bench.measure_ceiling()
        parts = measure(bench, options.mini_batch_size)
    here = machine(bench)
    print(f"{here['device']}, {here['threads']} thread(s), {here['precision']}\n\n{table(parts)}")
    if options.json:
        values = {"machine": here, "parts": [dataclasses.asdict(part) | {"hours": part.hours} for part in parts]}
        options.json.write_text(json.dumps(values, indent=1) + "\n")


def measure(bench: Bench, mini_batch_size: int | None = None) -> list[Part]:
    """The parts of the experiment, with what one of each takes on the bench's device."""
    size = bench.size
    step = median_seconds(bench, contrastive_step(bench, mini_batch_size)) * BATCH / bench.windows
    finetuned = median_seconds(bench, finetuning_step(bench))
    labelled, site = (
        median_seconds(bench, our_encoder(bench, bench.bases(size.encoded, length))) / size.encoded
        for length in (size.context, size.window)
    )
    states, _ = mixed_sites(bench)
    nmi = SITES * site + median_seconds(bench, lambda: leiden(states)) * SITES / len(states)
    return [
        Part(f"contrastive step of {BATCH} windows", STEPS, step),
        Part(f"SCCS of {TRAIN:,} windows", VALIDATIONS, (TRAIN + 2 * VIEWS) * labelled),  # alignment too
        Part(f"NMI of {SITES:,} sites, in validation", VALIDATIONS, nmi),
        Part(f"fine-tuning step of {FINETUNE_BATCH} windows", JOBS * EPOCHS * (TRAIN // FINETUNE_BATCH), finetuned),
        Part(f"validation of an epoch on {VAL:,} windows", JOBS * EPOCHS, VAL * labelled),
        Part(f"test on {TEST:,} windows, SCCS before and after", JOBS, 3 * TEST * labelled),
        Part(f"NMI of {SITES:,} sites, before and after", NMI_TESTS, nmi),
    ]


def median_seconds(bench: Bench, work: Callable[[], object]) -> float:
    """Seconds: the median over the bench's pairs, after a warm-up."""
    work()
    return float(np.median([seconds(work, bench.now) for _ in range(bench.pairs)]))


def contrastive_step(bench: Bench, mini_batch_size: int | None) -> Callable[[], None]:
    stage = PretrainConfig(batch_size=bench.windows, mini_batch_size=mini_batch_size)
    training = Training(bench.masked_lm(), "cls", stage, bench.accelerator)
    ids = bench.bases(bench.windows, bench.size.window)
    return lambda: training.advance(ids, bench.rng)


def finetuning_step(bench: Bench) -> Callable[[], None]:
    return our_finetune_step(bench, build_classifiers(bench, "sdpa")[0], *labelled_batch(bench))


def table(parts: list[Part]) -> str:
    """Markdown, with the sum of the hours."""
    rows = [f"| {part.name} | {part.count:,} | {part.seconds:.3g} | {part.hours:.2f} |" for part in parts]
    total = f"| whole experiment | | | {sum(part.hours for part in parts):.2f} |"
    return "\n".join(["| part | times | s each | hours |", "|---|---|---|---|", *rows, total])


if __name__ == "__main__":
    run_script(main)

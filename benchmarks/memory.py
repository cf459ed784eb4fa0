#!/usr/bin/env python
"""Peak memory of one contrastive step, whole and by gradient caching, and what caching costs in time.

    python benchmarks/memory.py step [--batch_size 512] [--mini_batch_size 4]    one step in this process
    python benchmarks/memory.py table [--batch_sizes 8 16 32] [--mini_batch_size 4]    a process for each, and whole
    python benchmarks/memory.py cost [--batch_size 8] [--mini_batch_size 4] [--pairs 5]    time against the whole batch

A step is `pretrain.Training.advance`: two views of each window of 510 nt, SimCSE, all dropout kept unless
--attention_dropout 0, clipping and AdamW with its two moments; fresh weights of SpliceBERT's size (6 x 512, 16 heads)
or, with --small, of 2 x 64. Peak memory is the largest resident set of the process (getrusage), with Python and its
libraries. `step` prints it as it goes, because the peak is reached in the first mini-batches of the second pass, and a
step of 512 windows takes long on a CPU. --mini_batch_size 0 takes the whole batch at once. In `cost` both sides run in
turns in this process, warm, on the same windows.

Our scripts have glibc keep freed memory, and so does this one: with MALLOC_MMAP_THRESHOLD_=1048576 in the environment
blocks go back to the system when they are freed, for a peak without the holes between them, at up to twice the time.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from pretrain import Training
from utils.backbone import load_backbone
from utils.config import ModelConfig, PretrainConfig
from utils.errors import InputError, run_script
from utils.run import build_accelerator
from utils.sequence import A, T

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
PROGRESS = 30.0  # seconds between lines of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "table", "cost"])
    parser.add_argument("--batch_size", type=int, default=None, help="windows of a step (step: 512, cost: 8)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 16, 32], help="table: windows of a step")
    parser.add_argument("--mini_batch_size", type=int, default=4, help="windows at once; 0: all of them")
    parser.add_argument("--window", type=int, default=510, help="nt of a window")
    parser.add_argument("--attention_dropout", type=float, default=0.1)
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    parser.add_argument("--small", action="store_true", help="2 x 64, 4 heads: for how memory grows, in seconds")
    parser.add_argument("--pairs", type=int, default=5, help="cost: steps of either kind")
    options = parser.parse_args()
    if options.what == "step":
        size, mini = options.batch_size or 512, options.mini_batch_size
        seconds = run_step(build(options), options, size, mini)
        print(line(size, mini, peak_gib(), seconds))
    elif options.what == "table":
        for size in options.batch_sizes:
            for mini in (options.mini_batch_size, 0):
                print(line(size, mini, *child(options, size, mini)), flush=True)
    else:
        print(cost(options, options.batch_size or 8))


def build(options: argparse.Namespace) -> Training:
    """An encoder of fresh weights in training."""
    torch.manual_seed(0)
    sizes = SMALL if options.small else {}
    model, pooling, _ = load_backbone(ModelConfig(attention_probs_dropout_prob=options.attention_dropout, **sizes))
    accelerator = build_accelerator("auto", options.precision)
    return Training(model.to(accelerator.device), pooling, PretrainConfig(warmup_steps=0), accelerator)


def windows(options: argparse.Namespace, size: int) -> np.ndarray:
    """uint8 [size, window] of random bases."""
    return np.random.default_rng(0).integers(A, T + 1, size=(size, options.window), dtype=np.uint8)


def advance(training: Training, ids: np.ndarray, mini_batch_size: int) -> float:
    """Seconds of one step; mini_batch_size 0: the whole batch."""
    training.stage.mini_batch_size = mini_batch_size or None
    begun = time.perf_counter()
    training.advance(ids, np.random.default_rng(1))  # reads the loss, so a GPU has finished as well
    return time.perf_counter() - begun


def run_step(training: Training, options: argparse.Namespace, size: int, mini_batch_size: int) -> float:
    """Seconds of one step of `size` windows, which tells every so often how far it is and what memory it took."""
    begun, told, seen = time.perf_counter(), time.perf_counter(), 0
    total = 4 * size if mini_batch_size else 2 * size  # two views, in two passes or one

    def tell(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal told, seen
        if time.perf_counter() - told > PROGRESS:
            told = time.perf_counter()
            print(f"{seen} of {total} rows encoded, {told - begun:.0f} s, peak {peak_gib():.2f} GiB", flush=True)
        seen += len(inputs[0])

    training.model.bert.embeddings.word_embeddings.register_forward_pre_hook(tell)
    return advance(training, windows(options, size), mini_batch_size)


def peak_gib() -> float:
    """Largest resident set of this process so far, in GiB; on a GPU the largest memory that tensors took there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def line(size: int, mini_batch_size: int, peak: float, seconds: float) -> str:
    return f"batch {size:>4}  at once {mini_batch_size or size:>4}  peak {peak:6.2f} GiB  {seconds:7.1f} s a step"


def child(options: argparse.Namespace, size: int, mini_batch_size: int) -> tuple[float, float]:
    """(peak GiB, seconds) of one step in a process of its own. Raises InputError where it does not end well."""
    flags = {"batch_size": size, "mini_batch_size": mini_batch_size, "window": options.window}
    flags |= {"attention_dropout": options.attention_dropout, "precision": options.precision}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    words += ["--small"] * options.small
    command = [sys.executable, __file__, "step", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"peak +([\d.]+) GiB +([\d.]+) s a step", done.stdout)
    if done.returncode or found is None:
        end = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"a step of {size} windows, {mini_batch_size or size} at once, ended with {end}")
    return float(found[1]), float(found[2])


def cost(options: argparse.Namespace, size: int) -> str:
    """Time of a cached step over that of a whole one: median and range over the pairs."""
    if options.mini_batch_size < 1 or options.pairs < 1:
        raise InputError("cost compares with the whole batch: --mini_batch_size and --pairs must be at least 1")
    training, ids = build(options), windows(options, size)
    for mini in (0, options.mini_batch_size):
        advance(training, ids, mini)
    pairs = []
    for _ in range(options.pairs):
        whole, cached = advance(training, ids, 0), advance(training, ids, options.mini_batch_size)
        pairs.append((whole, cached))
        print(f"whole {whole:.2f} s, cached {cached:.2f} s, ratio {cached / whole:.3f}", flush=True)
    ratios = np.array([cached / whole for whole, cached in pairs])
    return (
        f"batch {size}, {options.mini_batch_size} at once: {np.median(ratios):.3f} x the time of the whole batch "
        f"({ratios.min():.3f} to {ratios.max():.3f} over {options.pairs} pairs)"
    )


if __name__ == "__main__":
    run_script(main)

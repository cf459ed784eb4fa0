#!/usr/bin/env python
"""How time grows: a training step over a long run, validation over windows, the report over runs; one table, one plot.

    python benchmarks/growth.py [--only steps validation report] [--steps 10000] [--run runs/demo] [--out growth.png]

steps: `pretrain.py` itself, a tiny model on the demo's genome, timed at every step: flat is good. Other work on the
machine stretches steps by a third now and then, so a fixed piece of like work is timed after each. validation: SCCS and
NMI of a small encoder on random windows. report: a finished run with its folds copied to more and more seeds. All times
are processor time of this process; give OMP_NUM_THREADS=1. For the last two the table gives the exponent between the
two largest sizes: 1 is linear, 2 quadratic. Needs `bash pretrain.sh` and, for the report, `bash finetune.sh`, or
another run with --run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import json
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
from utils.backbone import load_backbone
from utils.config import Config, EvaluateConfig, ModelConfig, read_config
from utils.errors import InputError, run_script
from utils.motifs import Motifs
from utils.plots import plt, save_figure
from utils.proxies import measure_nmi, measure_sccs
from utils.report import write_report
from utils.sequence import A, T

ROOT = Path(__file__).resolve().parent.parent

Curve = list[tuple[float, float]]
"""(size, seconds) in order."""

WINDOW = 40  # nt
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
WINDOWS = (1000, 2000, 4000, 8000)
SEEDS = (1, 2, 4, 8)
MOTIFS = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["steps", "validation", "report"], default=None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--run", type=Path, default=ROOT / "runs/demo", help="finished run whose folds are copied")
    parser.add_argument("--out", type=Path, default=Path("growth.png"))
    options = parser.parse_args()
    measure: dict[str, Callable[[], dict[str, Curve]]] = {
        "steps": lambda: step_times(options.steps),
        "validation": validation_times,
        "report": lambda: {"write_report": report_times(options.run)},
    }
    curves = {name: measure[name]() for name in options.only or measure}
    for name, found in curves.items():
        for title, curve in found.items():
            print(f"{name}, {title}: {describe(name, curve)}", flush=True)
    if "steps" in curves:
        step, fixed = map(slowing, curves["steps"].values())
        print(f"steps, last tenth over first, relative to the fixed work: {step / fixed:.3f}", flush=True)
    figure = draw(curves)
    save_figure(figure, options.out)
    print(options.out)


def step_times(steps: int) -> dict[str, Curve]:
    """Processor time of every step of a run, logging included, and of the fixed work that follows each."""
    found: dict[str, Curve] = {"pretrain.py, one step": [], "fixed work beside it": []}
    advance, ended, work = pretrain.Training.advance, 0.0, fixed_work()

    def timed(training: pretrain.Training, ids: np.ndarray, rng: np.random.Generator) -> None:
        nonlocal ended
        advance(training, ids, rng)
        middle = time.process_time()
        work()
        if training.step > 1:  # before the first comes all that starts a run
            found["pretrain.py, one step"].append((training.step, middle - ended))
            found["fixed work beside it"].append((training.step, time.process_time() - middle))
        ended = time.process_time()

    changes = {"mlm.steps": 0, "pretrain.steps": steps, "pretrain.batch_size": 4, "pretrain.eval_steps": steps}
    changes |= {f"model.{key}": value for key, value in TINY.items()} | {"model.source": "null", "device": "cpu"}
    changes |= {"data.window": WINDOW, "data.motif_bed": "null", "data.motif_fasta": "null", "name": "growth"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        words = [f"--{key}={value}" for key, value in (changes | {"runs": folder}).items()]
        sys.argv = ["pretrain.py", "configs/demo.yaml", *words]
        pretrain.Training.advance = timed
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                pretrain.main()
        finally:
            pretrain.Training.advance = advance
    return found


def fixed_work() -> Callable[[], None]:
    """Forward and backward passes of a stack of small layers: some milliseconds, always the same."""
    layers = [nn.Linear(128, 128) for _ in range(30)]
    model, given = nn.Sequential(*layers), torch.ones(64, 128)
    return lambda: model(given).sum().backward()


def validation_times() -> dict[str, Curve]:
    """SCCS over all pairs and over the published ones, and NMI, each for more and more windows."""
    torch.manual_seed(0)
    model, pooling, _ = load_backbone(ModelConfig(**SMALL, max_position_embeddings=WINDOW + 2))
    rng = np.random.default_rng(0)
    curves: dict[str, Curve] = {"SCCS, all pairs": [], "SCCS, published pairs": [], "NMI": []}
    config = Config()
    published = dataclasses.replace(config, evaluate=EvaluateConfig(sccs_pairs="published"))
    for count in (WINDOWS[0] // 2, *WINDOWS):  # the first warms up
        ids = rng.integers(A, T + 1, size=(count, WINDOW), dtype=np.uint8)
        labels, sites = np.arange(count) % 2, Motifs(ids, np.array(MOTIFS)[np.arange(count) % len(MOTIFS)])
        jobs = {
            "SCCS, all pairs": functools.partial(measure_sccs, model.bert, pooling, ids, labels, config),
            "SCCS, published pairs": functools.partial(measure_sccs, model.bert, pooling, ids, labels, published),
            "NMI": functools.partial(measure_nmi, model.bert, sites, config),
        }
        for name, job in jobs.items():
            curves[name].append((count, seconds(job)))
    return {name: curve[1:] for name, curve in curves.items()}


def report_times(run: Path) -> Curve:
    """The report of a run's folds, copied to more and more seeds."""
    sources = sorted(run.glob("finetune/*/*/seed0/fold*/summary.json"))
    if not sources:
        raise InputError(f"{run}/finetune holds no finished fold of seed 0: run finetune.sh, or name a run by --run")
    curve = []
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(read_config(sources[0].with_name("config.yaml")), name="growth", runs=folder)
        shutil.copytree(run / "splits", config.folder / "splits")
        for seed in range(max(SEEDS)):
            for source in sources:
                copy_fold(source.parent, config.folder / source.parent.relative_to(run), seed)
            if seed == 0:
                write_report(config)  # the first one of a process also loads fonts
            if seed + 1 in SEEDS:
                curve.append((len(sources) * (seed + 1), seconds(functools.partial(write_report, config))))
    return curve


def copy_fold(source: Path, target: Path, seed: int) -> None:
    """What the report reads of a fold, as if it were of another seed."""
    target = target.parent.with_name(f"seed{seed}") / target.name
    target.mkdir(parents=True)
    for name in ("config.yaml", "env.json", "metrics.jsonl", "predictions.csv"):
        if (source / name).is_file():  # the floors log no metrics
            shutil.copy(source / name, target)
    summary = json.loads((source / "summary.json").read_text()) | {"seed": seed}
    (target / "summary.json").write_text(json.dumps(summary))


def seconds(job: Callable[[], object]) -> float:
    begun = time.process_time()
    job()
    return time.process_time() - begun


def describe(name: str, curve: Curve) -> str:
    sizes, times = np.array(curve).T
    if name == "steps":
        first, last = tenths(curve)
        return f"median {first:.2f} ms in the first tenth, {last:.2f} ms in the last (ratio {last / first:.3f})"
    exponent = np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2])
    shown = ", ".join(f"{size:.0f}: {taken:.2f} s" for size, taken in curve)
    return f"{shown}; exponent {exponent:.2f} between the last two"


def tenths(curve: Curve) -> tuple[float, float]:
    """Median ms of a step in the first and the last tenth."""
    times = np.array(curve)[:, 1]
    parts = np.array_split(times[len(times) // 20 :], 10)  # the first twentieth warms up
    return 1000 * float(np.median(parts[0])), 1000 * float(np.median(parts[-1]))


def slowing(curve: Curve) -> float:
    first, last = tenths(curve)
    return last / first


def draw(curves: dict[str, dict[str, Curve]]) -> plt.Figure:
    figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves), 4), squeeze=False, layout="constrained")
    labels = {"steps": "step", "validation": "windows", "report": "folds in the report"}
    for axis, (name, found) in zip(axes[0], curves.items()):
        for title, curve in found.items():
            sizes, times = np.array(curve).T
            if name == "steps":
                parts = np.array_split(np.arange(len(times)), min(100, len(times)))
                axis.plot(sizes, 1000 * times, ",", color="0.75")
                centre = [np.median(sizes[part]) for part in parts]
                axis.plot(centre, [1000 * np.median(times[part]) for part in parts], label=f"{title}, medians")
            else:
                axis.plot(sizes, times, "o-", label=title)
        if name == "steps":
            axis.set_ylim(0, 2000 * max(np.median(np.array(curve)[:, 1]) for curve in found.values()))
        else:
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
            size, taken = next(iter(found.values()))[-1] if name == "report" else found["SCCS, published pairs"][-1]
            axis.plot([0, size], [0, taken], ":", color="0.5", label="proportional")
        axis.set_xlabel(labels[name])
        axis.set_ylabel("ms of processor time" if name == "steps" else "s of processor time")
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


if __name__ == "__main__":
    run_script(main)

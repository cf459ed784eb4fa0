#!/usr/bin/env python
"""What this project does on a GPU, for a machine that is lent for minutes: bash benchmarks/gpu.sh calls it.

    python benchmarks/gpu.py [--device cuda|cpu] [--size splicebert|small] [--out gpu.json] [--parts smoke tests ...]

smoke: the three scripts on the synthetic demo, some steps each. tests: tests/gpu. rates: windows a second and share of
the measured product rate (MFU) of contrast, control and fine-tuning, with peak memory of the first two beside its
estimate; bases a second and MFU of a scan. peers: benchmarks/run.py, in turns with sentence-transformers and
transformers' Trainer. OUT is written after each part, so that what is done is kept where time runs out. On a CPU use
--size small: it tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, it finds the packages beside its folder

from benchmarks.bench import SIZES  # noqa: E402
from simcsp.core.config import FinetuneConfig, PretrainConfig  # noqa: E402
from simcsp.core.device import build_accelerator, product_rate  # noqa: E402
from simcsp.model.bases import Labeller, load_bases  # noqa: E402
from simcsp.model.checkpoint import load_backbone  # noqa: E402
from simcsp.model.classifier import Classifier  # noqa: E402
from simcsp.text.alphabet import A, T, add_special_tokens  # noqa: E402
from simcsp.training.cost import Step  # noqa: E402
from simcsp.training.half import in_number_format  # noqa: E402
from simcsp.training.optimizer import build_optimizer, prepare_optimizer, take_step  # noqa: E402
from simcsp.training.pretraining import Training  # noqa: E402

LIMITS = {"smoke": 150, "tests": 120, "rates": 90, "peers": 110}  # seconds on a GPU: eight minutes in all
SLOWER = 10  # times as much on a CPU
WARM_UP = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=SIZES, default="splicebert")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    asked = parser.parse_args()
    found: dict[str, Any] = {"device": asked.device, "size": asked.size, "torch": torch.__version__}
    found["name"] = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    parts = {"smoke": smoke, "tests": gpu_tests, "rates": rates, "peers": peers}
    for name in asked.parts:
        began = time.perf_counter()
        try:
            limit = LIMITS[name] * (1 if asked.device == "cuda" else SLOWER)
            result = parts[name](asked.device, asked.size, began + limit)
        except (subprocess.SubprocessError, RuntimeError) as error:  # the other parts are still worth their minutes
            result = {"failed": f"{type(error).__name__}: {str(error)[-1500:]}"}
        found[name] = result | {"seconds": round(time.perf_counter() - began, 1)}
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if any("failed" in found[name] for name in asked.parts):
        sys.exit(1)


def run(until: float, *words: object) -> str:
    """What a command of this project prints. Raises where it fails or is still at work at that reading of the clock."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=until - time.perf_counter())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


# -- parts -------------------------------------------------------------------------------------------------------------


def smoke(device: str, size: str, until: float) -> dict[str, Any]:
    """Seconds of the three scripts on the demo; precision auto."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        run(until, "data/demo.py", "--out", f"{folder}/demo")
        config = (ROOT / "configs/demo.yaml").read_text(encoding="utf-8").replace("data/demo", f"{folder}/demo")
        Path(folder, "demo.yaml").write_text(config, encoding="utf-8")
        own = [f"{folder}/demo.yaml", "--runs", f"{folder}/runs", "--data.cache", f"{folder}/cache", "--device", device]
        short = ["--pretrain.steps", 20, "--pretrain.warmup_steps", 2, "--pretrain.eval_steps", 20]
        last = f"{folder}/runs/demo/pretrain/checkpoints/last"
        for words in (
            ["pretrain.py", *own, *short],
            [
                "finetune.py",
                *own,
                "--finetune.folds",
                "[0]",
                "--finetune.arms",
                "[baseline, last]",
                "--report",
                "false",
            ],
            ["evaluate.py", "sccs", last, *own],
        ):
            began = time.perf_counter()
            run(until, *words)
            seconds[words[0]] = round(time.perf_counter() - began, 1)
    return seconds


def gpu_tests(device: str, size: str, until: float) -> dict[str, Any]:
    """The last line of pytest on tests/gpu."""
    return {"pytest": run(until, "-m", "pytest", "-q", "-s", "-m", "gpu", "tests/gpu").strip().splitlines()[-1]}


def rates(device: str, size: str, until: float) -> dict[str, Any]:
    """Of each kind of step, and of a scan."""
    batch = 512 if device == "cuda" else 16
    steps = 10 if device == "cuda" else 2
    stages = {
        "contrast": PretrainConfig(batch_size=batch),
        "control": PretrainConfig(objective="mlm", batch_size=batch),
    }
    found: dict[str, Any] = {name: training_rate(size, stage, device, steps) for name, stage in stages.items()}
    return found | {"finetuning": finetuning_rate(size, device, 5 * steps), "scan": scan_rate(device)}


def peers(device: str, size: str, until: float) -> dict[str, Any]:
    """Rows of benchmarks/run.py: {name: [ratio, its range, pairs, seconds of both, remarks]}."""
    windows = 128 if device == "cuda" else 2
    words = ["--device", device, "--size", size, "--pairs", 3, "--windows", windows]
    words += ["--only", "contrast", "finetune"]
    rows = [line.strip("| ").split(" | ") for line in run(until, "benchmarks/run.py", *words).splitlines()]
    return {row[0]: row[4:] for row in rows if len(row) > 5 and row[0] not in ("row", "---")}


# -- rates -------------------------------------------------------------------------------------------------------------


def timed(step: Callable[[], object], steps: int, device: str) -> float:
    """Seconds of a step, the mean over some, warm."""
    for _ in range(WARM_UP):
        step()
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def share_of_peak(operations: float, seconds: float, accelerator: Accelerator) -> float:
    return operations / seconds / product_rate(accelerator.device.type, precision_of(accelerator))


def precision_of(accelerator: Accelerator) -> str:
    return "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def training_rate(size: str, stage: PretrainConfig, device: str, steps: int) -> dict[str, float]:
    """Windows a second, MFU and peak memory beside its estimate of a step of pre-training on random windows."""
    sizes, accelerator = SIZES[size], build_accelerator(device, "auto")
    training = Training(load_backbone(sizes.model)[0].to(accelerator.device), "cls", stage, accelerator)
    rng = np.random.default_rng(0)
    ids = rng.integers(A, T + 1, (stage.batch_size, sizes.window), dtype=np.uint8)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: training.advance(training.draw(ids, rng)), steps, device)
    training.means()  # a loss that is no number is no speed
    step = Step(training.model.config, stage, sizes.window, "cls", precision_of(accelerator), device=device)
    share = share_of_peak(step.operations(), seconds, accelerator)
    found = {"windows_per_s": stage.batch_size / seconds, "mfu": share, "step_s": seconds}
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found | {"estimated_gb": step.memory(stage.mini_batch_size) / 1e9}


def finetuning_rate(size: str, device: str, steps: int) -> dict[str, float]:
    """Milliseconds of a step of fine-tuning at batch 16, windows a second, and MFU."""
    sizes, accelerator = SIZES[size], build_accelerator(device, "auto")
    model = Classifier(load_backbone(sizes.model)[0].bert, "cls", 0.1).to(accelerator.device).train()
    learner = in_number_format(model, accelerator)
    groups, settings = [{"params": list(model.parameters())}], FinetuneConfig(weight_decay=0.0)
    plain, scheduler = build_optimizer(groups, settings, 0, 1000, fused=True)
    optimizer = prepare_optimizer(accelerator, plain)
    ids = np.random.default_rng(0).integers(A, T + 1, (16, sizes.context), dtype=np.uint8)
    labels = torch.arange(16, device=accelerator.device).remainder(2).float()

    def step() -> None:
        tokens = torch.from_numpy(add_special_tokens(ids)).to(accelerator.device).int()
        accelerator.backward(F.binary_cross_entropy_with_logits(learner(tokens).float(), labels))
        take_step(accelerator, optimizer, scheduler)

    seconds = timed(step, steps, device)
    stage = PretrainConfig(objective="classify", batch_size=16)
    cost = Step(model.bert.config, stage, sizes.context, "cls", precision_of(accelerator), device=device)
    share = share_of_peak(cost.operations(), seconds, accelerator)
    return {"step_ms": 1000 * seconds, "windows_per_s": 16 / seconds, "mfu": share}


def scan_rate(device: str) -> dict[str, float]:
    """Bases a second, both strands, of the bundled model of bases on random text, and MFU."""
    accelerator = build_accelerator(device, "auto")
    model, calibration = load_bases(ROOT / "models/simcsp-small-bases")
    labeller = Labeller(model.to(accelerator.device), calibration, accelerator.device, accelerator.autocast)
    flank = labeller.model.shape.flank
    text = np.random.default_rng(0).integers(A, T + 1, labeller.chunk + 2 * flank, dtype=np.uint8)
    seconds = timed(lambda: labeller.both_strands(text), 20 if device == "cuda" else 2, device)
    with FlopCounterMode(display=False) as counter:
        labeller.both_strands(text)
    share = share_of_peak(counter.get_total_flops(), seconds, accelerator)
    return {"bases_per_s": labeller.chunk / seconds, "mfu": share}


if __name__ == "__main__":
    main()

"""On a GPU: the numbers of a CPU within stated bounds, resuming, fp16's overflows, two processes, and its use."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import ROOT, Crash, crash, metrics_without_clock, tiny_config

import finetune
import pretrain
from benchmarks.gpu import training_rate
from simcsp.core.config import PretrainConfig
from simcsp.metrics.clustering import find_neighbours
from simcsp.training.pretraining import Training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
WITHOUT_DROPOUT = {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0}


def losses(run):
    return [row["train/loss"] for row in metrics_without_clock(run) if "train/loss" in row]


def config_of(folder, data, changes):
    return tiny_config(folder, data, {"mlm.steps": 0, "device": "cuda", "pretrain.logging_steps": 1} | changes)


def train(call, script, config):
    """Run a script in this process, on a device and in a format of its own: accelerate would keep those before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    call(script, config)


def device_of(run):
    return json.loads((run / "env.json").read_text())["device"]


@pytest.mark.parametrize("precision, bound", [("fp32", 1e-3), ("bf16", 0.05), ("fp16", 0.05)])
def test_losses_are_those_of_a_cpu_where_nothing_is_drawn_on_the_device(tiny_data, tmp_path, call, precision, bound):
    runs = []
    for device, number_format in (("cpu", "fp32"), ("cuda", precision)):
        changes = WITHOUT_DROPOUT | {"device": device, "precision": number_format}
        train(call, pretrain, config_of(tmp_path / device, tiny_data, changes))
        runs.append(losses(tmp_path / device / "runs/tiny/pretrain"))
        assert device_of(tmp_path / device / "runs/tiny/pretrain").startswith(device)
    assert runs[0] == pytest.approx(runs[1], rel=bound)


def test_a_resumed_run_is_a_straight_one_within_rounding(tiny_data, tmp_path, call, monkeypatch):
    configs = [config_of(tmp_path / name, tiny_data, {}) for name in ("straight", "stopped")]
    train(call, pretrain, configs[0])
    advance = Training.advance
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", lambda self, batch: crash() if self.step == 7 else advance(self, batch))
        with pytest.raises(Crash):
            train(call, pretrain, configs[1])
    train(call, pretrain, configs[1])
    found, wanted = (losses(tmp_path / name / "runs/tiny/pretrain") for name in ("stopped", "straight"))
    assert found == pytest.approx(wanted, rel=1e-3)


def test_fp16_skips_steps_that_overflow_and_goes_on(tiny_data, tmp_path, call):
    """torch's scale begins at 65,536, which gradients of a sharp contrast overflow."""
    changes = {"precision": "fp16", "pretrain.temperature": 1e-3, "pretrain.steps": 30, "finetune.folds": [0]}
    config = config_of(tmp_path, tiny_data, changes | {"finetune.arms": ["last"], "finetune.max_epochs": 1})
    train(call, pretrain, config)
    rows = [row for row in metrics_without_clock(tmp_path / "runs/tiny/pretrain") if "train/loss" in row]
    assert len(rows) == 30 and all(np.isfinite(row["train/loss"]) for row in rows)
    assert sum("train/grad_norm" in row for row in rows) > 15
    train(call, finetune, config)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_processes_with_nccl_are_one_within_rounding(tiny_data, tmp_path, call):
    one = config_of(tmp_path / "one", tiny_data, WITHOUT_DROPOUT | {"precision": "fp32"})
    train(call, pretrain, one)
    two = config_of(tmp_path / "two", tiny_data, WITHOUT_DROPOUT | {"precision": "fp32"})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", ROOT / "pretrain.py", two]
    subprocess.run([*map(str, command)], check=True, timeout=300)
    found, wanted = (losses(tmp_path / name / "runs/tiny/pretrain") for name in ("two", "one"))
    assert found == pytest.approx(wanted, rel=1e-3)


def test_neighbours_are_those_of_a_cpu():
    states = (np.random.default_rng(0).normal(size=(3000, 200)) * np.geomspace(1, 0.01, 200) + 3).astype(np.float32)
    (found, lengths), (indices, distances) = (find_neighbours(states, torch.device(name)) for name in ("cuda", "cpu"))
    assert (found == indices).mean() > 0.9999  # but for some that are equally far
    np.testing.assert_allclose(lengths, distances, atol=1e-4)


def test_a_contrastive_step_uses_a_sixth_of_the_product_rate():
    AcceleratorState._reset_state(reset_partial_state=True)
    rate = training_rate("splicebert", PretrainConfig(batch_size=128), "cuda", steps=10)
    print(json.dumps(rate), time.strftime("%Y-%m-%d"))
    assert rate["mfu"] > 1 / 6 and rate["peak_gb"] == pytest.approx(rate["estimated_gb"], rel=0.25)

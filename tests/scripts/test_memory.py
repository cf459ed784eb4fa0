"""Peak memory: that of a mini-batch under gradient caching, and flat in genome size, steps and epochs. All are slow."""

import ctypes
import functools
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config, write_windows

import finetune
import pretrain
from simcsp.core.config import ModelConfig, PretrainConfig
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.text.alphabet import A, T
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RESET.exists(), reason="only Linux lets a process forget its peak memory"),
]
NOISE = 12  # MiB: allocator, TensorBoard, caches of modules


@pytest.fixture(autouse=True)
def freed_memory_goes_back(monkeypatch):
    """What is freed and kept for later, and the holes between, would look like growth."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 18))  # read at a start, but our scripts then let it be
    for parameter, value in ((-4, 65536), (-3, 1 << 18)):  # malloc.h: M_MMAP_MAX, M_MMAP_THRESHOLD
        assert ctypes.CDLL(None).mallopt(parameter, value)


def resident(field):
    """MiB of a line of /proc/self/status."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak(job):
    """MiB by which the resident set rose at most while `job()` ran."""
    gc.collect()
    RESET.write_text("5", encoding="utf-8")  # VmHWM starts anew
    before = resident("VmRSS")
    job()
    return resident("VmHWM") - before


def test_peak_memory_of_a_step_is_that_of_the_mini_batch():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    learner = Learner(load_backbone(ModelConfig(**sizes))[0], "cls", "simcse").train()

    def step(batch, size):
        ids = np.random.default_rng(0).integers(A, T + 1, size=(batch, 254), dtype=np.uint8)
        stage = PretrainConfig()
        step_loss(MiniBatches(learner, size), stage, draw_batch(stage, ids, np.random.default_rng(1)))[0].backward()
        learner.zero_grad()

    step(4, 4)
    one, many, whole = (peak(functools.partial(step, *sizes)) for sizes in ((4, 4), (64, 4), (64, None)))
    print(f"4 windows {one:.0f} MiB, 64 in mini-batches of 4 {many:.0f} MiB, 64 at once {whole:.0f} MiB")
    assert many < one + NOISE
    assert whole > 8 * one


def write_long_fasta(path, bases):
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(4, size=(bases // 100, 100))]
    lines = np.concatenate([letters, np.full((len(letters), 1), ord("\n"), np.uint8)], axis=1)
    path.write_bytes(b">tiny\n" + lines.tobytes())


def test_peak_memory_of_pretraining_is_flat_in_genome_size(tiny_data, tmp_path, call):
    """The genome lies in a file that is mapped: its pages may be resident, and the system takes them back at will."""
    found, size = {}, 20_000_000
    for bases in (1_000_000, 1_000_000, size):  # the first call of all also fills caches
        folder = tmp_path / f"{len(found)}-{bases}"
        folder.mkdir()
        write_long_fasta(folder / "long.fa", bases)
        changes = {"mlm.steps": 0, "pretrain.steps": 20, "pretrain.eval_steps": 1000}
        changes |= {"data.fasta": [str(folder / "long.fa")], "data.records": None}
        found[bases] = peak(functools.partial(call, pretrain, tiny_config(folder, tiny_data, changes)))
    print({bases: f"{mib:.0f} MiB" for bases, mib in found.items()})
    mapped = size * 9 / 8 / 2**20  # a byte and a bit for every base
    assert found[size] < found[1_000_000] + mapped + NOISE


def test_peak_memory_of_finetuning_is_flat_in_epochs_and_some_kib_a_window(tiny_data, tmp_path, call):
    """The windows themselves are in memory, in a few forms: bases, tokens, hashes of k-mers, predictions."""
    model, pooling, _ = load_backbone(ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    save_checkpoint(model, tmp_path / "start", pooling)
    found = {}
    few, many = 200, 2000  # of each class and site
    for name, per_class, epochs in (("warm", few, 1), ("few", few, 1), ("long", few, 20), ("many", many, 1)):
        folder = tmp_path / name
        write_windows(folder / "data", np.random.default_rng(0), per_class)
        settings = {"finetune.arms": [f"start={tmp_path}/start"], "finetune.folds": [0], "finetune.batch_size": 64}
        settings |= {"finetune.max_epochs": epochs, "finetune.patience": epochs, "evaluate.sccs_pairs": "published"}
        settings |= {"data.spliceator": str(folder / "data/spliceator")}
        config = tiny_config(folder, tiny_data, settings)
        found[name] = peak(functools.partial(call, finetune, config))
    print({name: f"{mib:.0f} MiB" for name, mib in found.items()})
    assert found["long"] < found["few"] + NOISE
    windows = 4 * (many - few)
    assert (found["many"] - found["few"] - NOISE) * 1024 / windows < 8  # KiB

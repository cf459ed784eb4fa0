"""What an experiment costs, counted before it is run: by the plan of pretrain.py --dry-run and by the workflow."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT, Crash, refusal, tiny_config
from transformers import BertConfig

import pretrain
from simcsp.core import device
from simcsp.core.config import Config, FinetuneConfig, PretrainConfig
from simcsp.core.errors import InputError
from simcsp.training import pretraining
from simcsp.training.cost import Step, expected_epochs, fits_in_a_fold, windows_in_an_epoch
from simcsp.training.pretraining import Training

SIZES = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 16, "intermediate_size": 2048}
PUBLISHED = Step(BertConfig(vocab_size=10, **SIZES), PretrainConfig(), 510, "cls", "bf16")


def test_an_arm_is_fitted_once_for_each_pretraining_seed_only_where_it_is_of_pretraining():
    settings = FinetuneConfig(sites=["donor", "acceptor"], seeds=[0, 1], train_windows=[50, None], draws=3)
    config = Config(pretrain=PretrainConfig(seeds=[1, 2, 3]), finetune=settings)
    fits = {"last": 3, "control_best_nmi": 3, "baseline": 1, "fresh": 1, "last_of_another=a/folder": 1}
    for arm, seeds in fits.items():
        assert fits_in_a_fold(config, arm) == 2 * 2 * (3 + 1) * seeds


def test_epochs_and_windows_are_those_of_stages_and_draws():
    assert expected_epochs(FinetuneConfig(max_epochs=200, patience=10)) == 20
    assert expected_epochs(FinetuneConfig(max_epochs=4, stages=["supcon", "head", "full"])) == 10
    settings = FinetuneConfig(train_windows=[50, 200, None], draws=2)
    assert windows_in_an_epoch(settings, 1000) == pytest.approx((50 + 50 + 200 + 200 + 1000) / 5)


# -- memory and operations of a step (tests/pretend_cuda counts the bytes) ---------------------------------------------


def test_operations_of_the_published_step():
    """By hand: 2 x 512 windows of 512 tokens; five blocks whole, of the sixth keys and values; three forward passes."""
    tokens = 2 * 512 * 512
    block = 2 * (4 * 512**2 + 2 * 512 * 2048) + 2 * 2 * 512 * 512  # a token's products with weights, and of attention
    assert PUBLISHED.operations() == 3 * tokens * (5 * block + 2 * 2 * 512**2)


def test_as_many_windows_at_once_as_fit_into_free_memory():
    sizes = [PUBLISHED.mini_batch_size(free) for free in (1e11, 5e10, 1e10, 1e9)]
    assert sizes[0] is None and sizes[1:] == sorted(sizes[1:], reverse=True) and all(size < 512 for size in sizes[1:])
    for free, size in ((5e10, sizes[1]), (1e10, sizes[2]), (1e9, sizes[3])):
        assert PUBLISHED.memory(size) <= 0.9 * free < PUBLISHED.memory(2 * size)
    shared = dataclasses.replace(PUBLISHED, processes=4)
    assert shared.mini_batch_size(2e10) is None  # a quarter of the batch
    with pytest.raises(InputError, match="one window takes"):
        PUBLISHED.mini_batch_size(1e8)


def test_a_size_that_was_settled_by_free_memory_stays_when_a_run_goes_on(tiny_data, tmp_path, call, monkeypatch):
    changes = {"mlm.steps": 0, "pretrain.mini_batch_size": "auto", "pretrain.steps": 4, "pretrain.eval_steps": 2}
    config, sizes, advance = tiny_config(tmp_path, tiny_data, changes), [], Training.advance

    def stops_at_3(training, batch):
        sizes.append(training.stage.mini_batch_size)
        if len(sizes) == 3:
            raise Crash
        advance(training, batch)

    monkeypatch.setattr(Training, "advance", stops_at_3)
    for free, end in ((700_000, pytest.raises(Crash)), (1e12, nullcontext())):
        monkeypatch.setattr(pretraining, "free_memory", lambda device, free=free: free)
        with end:
            call(pretrain, config)
    assert sizes[0] in (1, 2, 4) and sizes == [sizes[0]] * 5


def test_workers_take_the_gpus_in_turn(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(device, "Accelerator", lambda kwargs_handlers, **_: kwargs_handlers[0].timeout)
    waits = [device.build_accelerator("cuda", "fp16", worker, minutes=5) for worker in range(5)]
    assert chosen == [1, 2, 0, 1]  # the first has the first one as it is
    assert {wait.total_seconds() for wait in waits} == {300}


# -- a GPU that is not there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, fits", [("h200", True), ("a100", False)])
def test_a_plan_for_a_gpu_needs_neither_it_nor_the_data(call, capsys, name, fits):
    words = ["--dry-run", "--device", name, "--pretrain.batch_size", 768, "--workers", 4]
    call(pretrain, ROOT / "configs/simcsp.yaml", *words)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(rows) == "device encoder pretrain control fine-tune time assumed".split()
    assert ("DOES NOT FIT" in rows["pretrain"]) != fits and " h: pre-training " in rows["time"]
    hours, without = float(rows["time"].split()[0]), float(rows["time"].split()[-1])
    assert hours < without and "without MPS" in rows["time"]  # two workers fill a GPU


def test_a_plan_for_a_gpu_counts_the_windows_that_are_there_and_writes_nothing(tiny_data, tmp_path, call, capsys):
    config = tiny_config(tmp_path, tiny_data, {"pretrain.mini_batch_size": "auto"})
    call(pretrain, config, "--dry-run", "--device", "a100")
    assert "400 windows" in capsys.readouterr().out and list(tmp_path.iterdir()) == [config]


def test_a_plan_for_a_gpu_that_is_not_known_is_refused(call, capsys):
    line = refusal(call, capsys, pretrain, ROOT / "configs/splicebert.yaml", "--dry-run", "--device", "k80")
    assert "device (k80)" in line and "h100" in line


def test_a_gpu_to_plan_for_is_no_device_to_train_on(tiny_data, tmp_path, call, capsys):
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, tiny_data, {"device": "h100"}))
    assert "device (h100)" in line and "--dry-run" in line

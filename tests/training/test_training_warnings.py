"""A training that teaches nothing says so."""

import math

import numpy as np
import pytest
from conftest import refusal, tiny_config

import finetune
import pretrain
from simcsp.core.config import PretrainConfig
from simcsp.core.files import read_json
from simcsp.training.training_warnings import (
    at_chance,
    base_entropy,
    batch_for_gpu,
    chance_loss,
    collapse,
    one_class,
    stuck,
    unmoved,
)


def stage(**changes):
    return PretrainConfig(**{"steps": 1000, "batch_size": 8, "warmup_steps": 100} | changes)


def rows(loss, steps):
    return [{"step": step, "train/loss": loss} for step in range(10, steps + 1, 10)]


@pytest.mark.parametrize(
    "now, before, objective, found",
    [(0.995, 0.3, "simcse", True), (0.995, 0.999, "simcse", True), (0.995, 0.999, "mlm", False)]
    + [(0.995, 0.3, "mlm", True), (0.98, 0.3, "simcse", False)],
)
def test_vectors_that_all_point_one_way_are_a_collapse(now, before, objective, found):
    assert (collapse({"mean_cosine": now}, {"mean_cosine": before}, objective) is not None) == found
    assert collapse({}, {}, objective) is None  # nothing to validate on


def test_mixed_losses_have_no_chance_value():
    assert chance_loss(stage(mlm_weight=0.1), 0.0, 4) is None


def test_the_entropy_of_bases_leaves_n_out():
    assert base_entropy(np.array([[6, 7, 8, 9, 5, 5]], dtype=np.uint8)) == pytest.approx(math.log(4))
    assert base_entropy(np.array([[6, 6, 6, 9]], dtype=np.uint8)) == pytest.approx(0.5623351)


def test_a_loss_that_stays_at_chance_is_named_from_200_steps_after_the_warm_up_or_at_the_end():
    chance = math.log(8)
    assert stuck(rows(chance, 290), stage(), 1.38) is None
    assert "nothing learned: the loss is 2.0794 at step 300" in stuck(rows(chance, 300), stage(), 1.38)
    assert stuck(rows(chance, 20), stage(steps=20, warmup_steps=5), 1.38) is not None
    assert stuck(rows(chance, 250) + rows(1.0, 300)[25:], stage(), 1.38) is None  # it has moved by now
    assert stuck(rows(1.37, 300), stage(objective="mlm"), 1.38) is None
    assert stuck(rows(1.381, 300), stage(objective="mlm"), 1.38) is not None
    assert stuck(rows(math.log(7), 300), stage(objective="supcon"), 1.38) is not None
    assert stuck(rows(math.log(4), 300), stage(objective="classify"), 1.38) is not None  # of classes
    assert stuck(rows(1.3, 300), stage(objective="classify"), 1.38) is None


def test_an_auc_is_at_chance_within_two_standard_errors_of_no_relation():
    rng, labels = np.random.default_rng(0), np.repeat([1, 0], [30, 70])
    ranks = rng.random((4000, 100)).argsort(axis=1).argsort(axis=1) + 1
    draws = (ranks[:, :30].sum(axis=1) - 30 * 31 / 2) / (30 * 70)  # Mann and Whitney's U as a share
    named = [at_chance(auc, labels) is not None for auc in draws]
    assert np.mean(named) == pytest.approx(0.977, abs=0.01)  # one-sided
    assert at_chance(0.43, labels) is not None and at_chance(0.7, labels) is None
    many = np.repeat([1, 0], 5000)  # which tell .54 from .5, and yet it is of no use: the limit is the report's
    assert at_chance(0.54, many) is not None and at_chance(0.56, many) is None


def test_one_class_is_named():
    assert "all 2 test windows are predicted as sites" in one_class(np.array([0.6, 0.7]))
    assert "all 2 test windows are predicted as non-sites" in one_class(np.array([0.1, 0.2]))
    assert one_class(np.array([0.1, 0.5])) is None


ALONE = {"finetune.arms": ["baseline"], "finetune.folds": [0], "mlm.steps": 0, "pretrain.control": False}


def test_a_learning_rate_that_ruins_the_model_is_said_in_log_and_summary(tmp_path, tiny_data, call):
    changes = ALONE | {"pretrain.lr": 1e3, "finetune.lr": 1e3, "finetune.max_epochs": 1}
    config = tiny_config(tmp_path, tiny_data, changes)
    call(pretrain, config)
    folder = tmp_path / "runs/tiny/pretrain"
    said = (folder / "train.log").read_text()
    assert any("collapse" in sentence for sentence in read_json(folder / "summary.json")["warnings"])
    assert said.count("warning: ") == said.count("collapse: ") + said.count("nothing learned: ") > 0
    assert said.count("collapse: ") == 1
    call(finetune, config)
    fold = tmp_path / "runs/tiny/finetune/baseline/both/seed0/fold00"
    assert any("at chance: " in sentence for sentence in read_json(fold / "summary.json")["warnings"])
    assert "after the first epoch of full: at chance" in (fold / "train.log").read_text()


def test_a_learning_rate_that_moves_nothing_is_said(tmp_path, tiny_data, call):
    changes = ALONE | {"pretrain.lr": 1e-12, "pretrain.temperature": 100.0}  # at which all windows are alike
    call(pretrain, tiny_config(tmp_path, tiny_data, changes))
    warnings = read_json(tmp_path / "runs/tiny/pretrain/summary.json")["warnings"]
    assert [sentence.partition(":")[0] for sentence in warnings] == ["not moved", "nothing learned"]


def test_what_is_too_large_for_the_machine_is_refused_before_it_is_tried(tmp_path, tiny_data, call, capsys):
    for field, value in (
        ("model.hidden_size", 1_000_000_000),
        ("model.num_hidden_layers", 1_000_000_000),
        ("pretrain.batch_size", 1_000_000_000),
        ("pretrain.batch_size", 2_000_000),
    ):
        config = tiny_config(tmp_path, tiny_data, ALONE | {field: value})
        line = refusal(call, capsys, pretrain, config)
        assert "needs at least" in line and "GB of memory, there are" in line
        assert field.rpartition(".")[0] in line
        assert not (tmp_path / "runs/tiny/pretrain").exists()


def test_vectors_that_stay_those_of_the_start_are_told():
    start = {"mean_cosine": 0.75}
    assert "not moved" in unmoved({"mean_cosine": 0.75}, start)
    assert unmoved({"mean_cosine": 0.7501}, start) is None
    assert unmoved(start, start) is None and unmoved({}, {}) is None  # step 0 itself; no windows


def test_a_batch_for_a_gpu_is_told_on_a_cpu():
    assert "8 steps of 64 windows" in batch_for_gpu("pretrain", PretrainConfig().batch_size, "cpu")
    assert batch_for_gpu("pretrain", 64, "cpu") is None and batch_for_gpu("pretrain", 512, "cuda") is None

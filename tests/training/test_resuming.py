"""Resuming: a run stopped anywhere and started again equals one never stopped, bit for bit."""

import dataclasses
import itertools
import os
import pickle
import shutil
import signal
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import (
    FOLDS,
    Crash,
    assert_same_run,
    crash,
    metrics_without_clock,
    motif_settings,
    refusal,
    run_here,
    start_script,
    summary_of,
    tiny_config,
    weights,
)
from kills import start_until_done
from safetensors.torch import load_file

import finetune
import pretrain
from simcsp.core.config import flatten, to_dict
from simcsp.core.errors import Interrupted
from simcsp.core.run_folder import RunFolder, read_metrics
from simcsp.report import write
from simcsp.training import finetuning, fold, fold_setup, pretraining, pretraining_run
from simcsp.training.optimizer import prepare_optimizer, take_step
from simcsp.training.pretraining_run import PretrainingRun
from simcsp.training.stopping import StopSignal
from utils.arguments import load_config

# -- resuming pre-training ---------------------------------------------------------------------------------------------

STAGES = ("mlm", "pretrain")


def at_call(monkeypatch, owner, name, number, action):
    """Do something before the number-th call (from 1) of a function of a class or module."""
    real, calls = getattr(owner, name), itertools.count(1)

    def wrapper(*args, **kwargs):
        if next(calls) == number:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def parse_once(monkeypatch, script, path):
    """Parsing is half of what a start of the tiny run takes."""
    config = load_config([str(path)])
    monkeypatch.setattr(script, "load_config", lambda *args, **kwargs: config)


@pytest.fixture
def scores_come(request, monkeypatch):
    """Scores of a validation come at once, as on a CPU, or later: with the next logged row, or when waited for."""
    if request.param == "at once":
        return

    def in_background(*work):
        sent = pickle.dumps(work)

        def result():
            measure, *inputs = pickle.loads(sent)
            return measure(*inputs)

        return SimpleNamespace(done=lambda: request.param != "late", result=result)

    monkeypatch.setattr(pretraining_run, "in_background", in_background)
    monkeypatch.setattr(pretraining_run, "has_idle_host", lambda device: True)


@pytest.mark.parametrize("scores_come", ["at once", "late"], indirect=True)
def test_pretraining_killed_again_and_again_at_ever_later_moments_equals_a_straight_run(
    finished, tiny_data, tmp_path, call, monkeypatch, scores_come
):
    config = tiny_config(tmp_path, tiny_data)
    with monkeypatch.context() as patch:
        places = [(pretraining.Training, "advance"), (PretrainingRun, "save")]
        places += [(RunFolder, "record"), (RunFolder, "finish")]
        parse_once(patch, pretrain, config)
        assert start_until_done(patch, tmp_path / "runs", places, lambda: call(pretrain, config)) > 10
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


@pytest.mark.parametrize(
    "step, scores_come", [(2, "at once"), (12, "with the next row"), (12, "late")], indirect=["scores_come"]
)
def test_pretraining_asked_to_stop_saves_that_very_step_and_goes_on_from_it(
    finished, tiny_data, tmp_path, call, monkeypatch, step, scores_come
):
    config = tiny_config(tmp_path, tiny_data)
    stage, within = (STAGES[0], step) if step <= 4 else (STAGES[1], step - 4)
    with monkeypatch.context() as patch:
        at_call(patch, pretraining.Training, "advance", step, terminate)
        with pytest.raises(Interrupted, match=f"stopped at step {within} of"):
            call(pretrain, config)
    folder = tmp_path / "runs/tiny" / stage
    assert not (folder / "summary.json").exists()
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == within
    steps, real = [], pretraining.Training.advance
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Training, "advance", lambda *args: steps.append(args) or real(*args))
        call(pretrain, config)
    assert len(steps) == 12 - step  # nothing is done twice
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


def test_a_killed_process_of_scores_is_told_in_one_line_and_the_run_goes_on(
    finished, tiny_data, tmp_path, call, capsys, monkeypatch
):
    config = tiny_config(tmp_path, tiny_data)

    def killed():
        raise BrokenProcessPool

    with monkeypatch.context() as patch:
        patch.setattr(pretraining_run, "has_idle_host", lambda device: True)
        patch.setattr(pretraining_run, "in_background", lambda *_: SimpleNamespace(done=lambda: False, result=killed))
        line = refusal(call, capsys, pretrain, config)
    assert str(tmp_path / "runs/tiny/mlm") in line and "step 0" in line
    call(pretrain, config)
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


def test_pretraining_with_nmi_killed_in_between_equals_a_straight_run(tiny_data, tmp_path, call, monkeypatch):
    changes = motif_settings(tiny_data) | {"mlm.steps": 0, "pretrain.steps": 6, "data.sampling": "strided"}
    call(pretrain, tiny_config(tmp_path / "straight", tiny_data, changes))
    config = tiny_config(tmp_path / "killed", tiny_data, changes)
    with monkeypatch.context() as patch:
        at_call(patch, pretraining.Training, "advance", 5, crash)
        with pytest.raises(Crash):
            call(pretrain, config)
    call(pretrain, config)
    straight, killed = (tmp_path / f"{name}/runs/tiny/pretrain" for name in ("straight", "killed"))
    assert_same_run(straight, killed)
    summary = summary_of(straight)
    assert set(summary["best"]) == {"sccs", "nmi"}
    assert {"floor/nmi_one_hot_10", "floor/nmi_gc", "floor/nmi_fresh"} <= set(summary["floors"])


# -- what fp16's loss scaler skips -------------------------------------------------------------------------------------


def half_precision(*_, **__):
    """An fp16 accelerator on the CPU, with torch's own loss scaler, at whose first scale every gradient overflows."""
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    accelerator.native_amp = True  # which accelerate has for GPUs only
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    return accelerator


@pytest.fixture
def fp16(monkeypatch):
    """Both scripts train in fp16. accelerate keeps one precision a process, so what was there is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for module in (pretraining, fold_setup):
        monkeypatch.setattr(module, "build_accelerator", half_precision)
    monkeypatch.setattr(pretraining, "product_rate", lambda *_: 1e9)  # of fp16 on a CPU, which takes seconds to measure
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_pretraining_goes_on_where_fp16_gradients_overflow(finished, tiny_data, tmp_path, call, fp16):
    call(pretrain, tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.logging_steps": 1}))
    rows = [row for row in read_metrics(tmp_path / "runs/tiny/pretrain") if "train/loss" in row]
    assert [row["train/skipped_steps"] for row in rows] == [1] + [0] * 7
    assert ["train/grad_norm" in row for row in rows] == [False] + [True] * 7
    rates = [row["train/lr"] for row in rows]
    assert rates[0] == 0 and rates[1] == 1e-3 and rates[7] == pytest.approx(1e-3 / 7)  # the schedule waited as well
    checkpoints = tmp_path / "runs/tiny/pretrain/checkpoints"
    start, last = (load_file(checkpoints / name / "model.safetensors") for name in ("start", "last"))
    assert any(not torch.equal(start[key], last[key]) for key in start)
    full = [row for row in read_metrics(finished.run / "pretrain") if "train/loss" in row]
    assert all("train/grad_norm" in row and "train/skipped_steps" not in row for row in full)


def test_every_stage_seed_and_fold_starts_with_the_loss_scaler_that_it_has_alone(
    finished, no_report, tiny_data, tmp_path, call, fp16
):
    """The first step of each overflows, as it does where it is the first of its process."""
    changes = {"mlm.steps": 0, "pretrain.steps": 4, "pretrain.control": True, "pretrain.seeds": [0, 1]}
    changes |= {"pretrain.logging_steps": 1, "finetune.arms": ["baseline"], "finetune.folds": [0, 1]}
    config = tiny_config(tmp_path, tiny_data, changes | {"finetune.max_epochs": 1})
    call(pretrain, config)
    call(finetune, config)
    run = tmp_path / "runs/tiny"
    for stage in (f"{name}/seed{seed}" for name in ("pretrain", "control") for seed in (0, 1)):
        skipped = [row["train/skipped_steps"] for row in read_metrics(run / stage) if "train/loss" in row]
        assert skipped == [1, 0, 0, 0], stage
    assert [read_metrics(folder)[0]["train/skipped_steps"] for folder in fold_folders(run)] == [1, 1]
    alone = tiny_config(tmp_path / "alone", tiny_data, changes | {"finetune.max_epochs": 1})
    shutil.copytree(run / "pretrain", tmp_path / "alone/runs/tiny/pretrain")
    call(finetune, alone, "--finetune.folds", "[1]")
    (fold,) = fold_folders(tmp_path / "alone/runs/tiny")
    assert_same_run(fold, fold_folders(run)[1])


def test_means_leave_the_norm_of_a_skipped_step_out(finished, tiny_data, tmp_path, call, fp16):
    call(pretrain, tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.logging_steps": 4}))
    rows = [row for row in read_metrics(tmp_path / "runs/tiny/pretrain") if "train/loss" in row]
    assert [row["train/skipped_steps"] for row in rows] == [1, 0]
    assert all(0 < row["train/grad_norm"] < 100 for row in rows)


def test_fine_tuning_goes_on_where_fp16_gradients_overflow(finished, no_report, tiny_data, tmp_path, call, fp16):
    changes = {"finetune.arms": ["baseline"], "finetune.folds": [0]}
    config = pretrained_copy(tmp_path, finished, tiny_data, changes | {"finetune.lr_scheduler_type": "linear"})
    call(finetune, config)
    (fold,) = fold_folders(tmp_path / "runs/tiny")
    rows = read_metrics(fold)
    assert [row["train/skipped_steps"] for row in rows] == [1] + [0] * (len(rows) - 1)
    steps = len(pd.read_csv(tmp_path / "runs/tiny/splits/both.csv").query("fold00 == 'train'")) // 4
    assert rows[0]["train/lr"] == pytest.approx(3e-3 * (1 - (steps - 1) / (3 * steps)))  # the schedule waited as well
    full = read_metrics(finished.run / "finetune/baseline/both/seed0/fold00")
    assert all("train/skipped_steps" not in row for row in full)


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_moves_neither_weights_nor_schedule(fused, fp16):
    accelerator, weight = half_precision(), torch.nn.Parameter(torch.ones(3))
    inner = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(inner, lambda step: 1 / (1 + step))
    optimizer = prepare_optimizer(accelerator, inner)
    for bad, rate in ((float("inf"), 0.1), (float("nan"), 0.1), (1.0, 0.05)):
        accelerator.backward((weight * torch.tensor([1.0, 1.0, bad])).sum())
        assert take_step(accelerator, optimizer, scheduler) == (bad != 1)
        assert torch.equal(weight.detach(), torch.ones(3)) == (bad != 1)
        assert scheduler.get_last_lr() == [rate] and weight.grad is None


# -- resuming fine-tuning ----------------------------------------------------------------------------------------------


def pretrained_copy(folder, finished, data, changes):
    """A config in a folder of its own, with the finished pre-training but no fine-tuning."""
    config = tiny_config(folder, data, changes)
    for stage in STAGES:
        shutil.copytree(finished.run / stage, folder / "runs/tiny" / stage)
    return config


def fold_folders(run, arm="baseline"):
    return sorted((run / "finetune" / arm).glob("*/seed*/fold*"))


def assert_same_folds(run, other, folds):
    mine = fold_folders(run)
    assert len(mine) == folds
    for folder in mine:
        assert_same_run(folder, other / folder.relative_to(run))


FOLDS_0_1 = {"finetune.arms": ["baseline"], "finetune.folds": [0, 1]}
SHARED = {"finetune.arms": ["baseline"], "finetune.select_epoch": "shared", "finetune.batch_size": 16}


def test_fine_tuning_asked_to_stop_within_an_epoch_equals_a_straight_run(
    finished, no_report, tiny_data, tmp_path, call, monkeypatch
):
    config = pretrained_copy(tmp_path, finished, tiny_data, FOLDS_0_1)
    with monkeypatch.context() as patch:
        batches = summary_of(fold_folders(finished.run)[0])["windows"]["train"] // 4
        at_call(patch, fold.F, "binary_cross_entropy_with_logits", batches + 3, terminate)
        with pytest.raises(Interrupted, match="stopped in .*fold00, epoch 2"):
            call(finetune, config)
    call(finetune, config)
    assert_same_folds(tmp_path / "runs/tiny", finished.run, folds=2)


@pytest.fixture(scope="module")
def shared(finished, tiny_data, tmp_path_factory):
    """A straight run under the published rule, one epoch for all folds."""
    folder = tmp_path_factory.mktemp("shared")
    config = pretrained_copy(folder, finished, tiny_data, SHARED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "write_report", lambda config: "")
        run_here(finetune, config)
    return folder / "runs/tiny"


def test_the_shared_epoch_is_the_one_of_the_best_mean_validation_auc(shared):
    rows = [metrics_without_clock(folder) for folder in fold_folders(shared)]
    means = [np.mean([row["val/auc"] for row in epoch]) for epoch in zip(*rows, strict=True)]
    for folder in fold_folders(shared):
        summary = summary_of(folder)
        assert summary["best_epoch"] == int(np.argmax(means)) + 1
        assert summary["metrics"]["val/auc"] == metrics_without_clock(folder)[summary["best_epoch"] - 1]["val/auc"]


def test_a_worker_takes_the_shared_epoch_from_what_the_others_have_written(
    shared, finished, no_report, tiny_data, tmp_path, call
):
    """Folds 0 and 1 by this worker; of the others there are the metrics alone."""
    config = load_config([str(pretrained_copy(tmp_path, finished, tiny_data, SHARED))])
    for folder in fold_folders(shared)[2:]:
        metrics = tmp_path / "runs/tiny" / folder.relative_to(shared) / "metrics.jsonl"
        metrics.parent.mkdir(parents=True)
        shutil.copy(folder / "metrics.jsonl", metrics)
    part = dataclasses.replace(config.finetune, folds=[0, 1])
    finetuning.run_jobs(dataclasses.replace(config, finetune=part), StopSignal())
    for folder in fold_folders(shared)[:2]:
        assert_same_run(tmp_path / "runs/tiny" / folder.relative_to(shared), folder)


@pytest.mark.slow
def test_two_workers_share_the_epoch_as_one_does(shared, finished, tiny_data, tmp_path):
    config = pretrained_copy(tmp_path, finished, tiny_data, SHARED)
    done = start_script("finetune.py", config, "--workers", "2", "--report", "false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_folds(tmp_path / "runs/tiny", shared, folds=FOLDS)


@pytest.mark.slow  # tests/training/test_stages.py has the same of one fold, with all stages
@pytest.mark.parametrize(
    "changes, kept, folds", [(FOLDS_0_1, "score_fold", 2), (SHARED, "keep_best", FOLDS)], ids=["each", "shared"]
)
def test_fine_tuning_killed_again_and_again_at_ever_later_moments_equals_a_straight_run(
    shared, finished, no_report, tiny_data, tmp_path, call, monkeypatch, changes, kept, folds
):
    config = pretrained_copy(tmp_path, finished, tiny_data, changes)
    with monkeypatch.context() as patch:
        places = [(fold, "train_pass"), (finetuning, kept), (RunFolder, "record")]
        parse_once(patch, finetune, config)
        assert start_until_done(patch, tmp_path / "runs/tiny/finetune", places, lambda: call(finetune, config)) > 6
    assert_same_folds(tmp_path / "runs/tiny", shared if changes is SHARED else finished.run, folds)


@pytest.mark.parametrize(
    "place, number",
    [((fold, "train_pass"), FOLDS + 2), ((finetuning, "score_fold"), 2)],
    ids=["after some folds of an epoch", "between two summaries"],
)
def test_shared_fine_tuning_killed_after_its_best_epoch_keeps_that_of_all_folds(
    finished, no_report, tiny_data, tmp_path, call, monkeypatch, place, number
):
    # Validation AUC .5 .5 1 in fold 1, 1 0 0 in the others: epoch 1 is the best of all, epoch 3 that of fold 1 alone.
    aucs = {number: (0.5, 0.5, 1.0) if number == 1 else (1.0, 0.0, 0.0) for number in range(FOLDS)}

    def scripted(study, fit, index):
        (number,) = (i for i, parts in enumerate(study.splits.folds["both"]) if np.array_equal(parts["val"], index))
        labels, auc = study.windows.labels[index].astype(float), aucs[number][fit.epoch - 1]
        return labels * auc + (1 - labels) * (1 - auc)

    monkeypatch.setattr(fold, "predict_part", scripted)
    config = pretrained_copy(tmp_path, finished, tiny_data, SHARED)
    with monkeypatch.context() as patch:
        at_call(patch, *place, number, crash)
        with pytest.raises(Crash):
            call(finetune, config)
    best = [weights(folder) for folder in fold_folders(tmp_path / "runs/tiny")]
    call(finetune, config)
    for folder, before, auc in zip(fold_folders(tmp_path / "runs/tiny"), best, (1.0, 0.5, 1.0, 1.0), strict=True):
        summary = summary_of(folder)
        assert summary["best_epoch"] == 1 and summary["metrics"]["val/auc"] == auc
        assert weights(folder) == before


def test_folds_are_independent_jobs(finished, no_report, tiny_data, tmp_path, call):
    call(finetune, pretrained_copy(tmp_path, finished, tiny_data, FOLDS_0_1), "--finetune.folds", "[1]")
    assert [folder.name for folder in fold_folders(tmp_path / "runs/tiny")] == ["fold01"]
    assert_same_folds(tmp_path / "runs/tiny", finished.run, folds=1)


# -- what decides a result is held against the run folder --------------------------------------------------------------


DECIDES = ("seed", "precision", "model.hidden_dropout_prob", "data.context", "evaluate.sccs_pairs")


@pytest.mark.parametrize(
    "stage, fields",
    [
        ("pretrain", [*DECIDES, "data.window", "pretrain.lr"]),
        ("finetune/baseline/both/seed0/fold00", [*DECIDES, "data.folds", "finetune.lr"]),
    ],
)
def test_what_decides_a_result_is_in_its_config(finished, stage, fields):
    """So that another value is refused and the file can be passed back."""
    saved = flatten(yaml.safe_load((finished.run / stage / "config.yaml").read_text()))
    given = flatten(to_dict(load_config([str(finished.config)])))
    assert {field: saved.get(field) for field in fields} == {field: given[field] for field in fields}

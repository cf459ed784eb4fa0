"""The run folder, and resuming: a run stopped anywhere and started again equals one never stopped, bit for bit."""

import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import FOLDS, ROOT, assert_same_run, metrics_without_clock, motif_settings, tiny_config, weights
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import finetune
import pretrain
from simcsp.report import write
from simcsp.training import finetuning, fold, pretraining
from simcsp.training.validation import build_validation
from utils.config import flatten, to_dict
from utils.device import build_accelerator, take_step
from utils.errors import InputError, Interrupted, run_script
from utils.files import replace_folder, sha256_folder, write_json, write_text
from utils.parse import load_config
from utils.run import RunFolder, StopSignal, read_metrics

# -- files -------------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """Stands for a kill."""


def crash(*args, **kwargs):
    raise Crash


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new/file.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def fill(path, text):
    with replace_folder(path) as folder:
        (folder / "weights").write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    fill(tmp_path / "best", "old")
    fill(tmp_path / "best", "new")
    assert (tmp_path / "best/weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_whose_filling_fails_stays_as_it_was(tmp_path):
    fill(tmp_path / "best", "old")
    with pytest.raises(Crash), replace_folder(tmp_path / "best") as folder:
        (folder / "weights").write_text("half")
        raise Crash
    assert (tmp_path / "best/weights").read_text() == "old"
    fill(tmp_path / "best", "new")  # what was left behind is not in the way
    assert (tmp_path / "best/weights").read_text() == "new"


@pytest.mark.parametrize("renames, found", [(0, "old"), (1, "old"), (2, "new")])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_the_old_or_the_new(tmp_path, monkeypatch, renames, found):
    run = RunFolder(tmp_path / "stage", {}, {}, "cpu")
    best = run.checkpoints / "best"
    fill(best, "old")
    real, done = os.rename, itertools.count()
    monkeypatch.setattr(os, "rename", lambda *a: real(*a) if next(done) < renames else crash())
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: crash() if Path(path).exists() and renames == 2 else None)
    with pytest.raises(Crash):
        fill(best, "new")
    monkeypatch.undo()
    RunFolder(tmp_path / "stage", {}, {}, "cpu").begin()
    assert (best / "weights").read_text() == found
    assert not list(run.checkpoints.glob("*.old"))


def test_the_hash_of_a_folder_follows_names_and_bytes(tmp_path):
    hashes = []
    for name, text in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")):
        folder = tmp_path / str(len(hashes))
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_text(text)
        hashes.append(sha256_folder(folder))
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]


# -- run folder --------------------------------------------------------------------------------------------------------

CONFIG = {"name": "x", "pretrain": {"lr": 1e-4, "steps": 8}}
INPUTS = {"text": "abc", "start checkpoint": "def"}


def open_run(folder, config=CONFIG, inputs=INPUTS, events=True):
    run = RunFolder(folder / "stage", config, inputs, "cpu", events)
    run.begin()
    return run


def test_a_stage_that_has_not_begun_leaves_nothing(tmp_path):
    RunFolder(tmp_path / "stage", CONFIG, INPUTS, "cpu")
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in open_run(tmp_path, CONFIG | {"seed": 1}).path.iterdir()) == [
        ".lock",
        "config.yaml",
        "env.json",
    ]


def test_the_same_config_and_inputs_go_on(tmp_path):
    open_run(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "stage").iterdir()}
    assert not open_run(tmp_path).finished
    assert {path.name: path.read_bytes() for path in (tmp_path / "stage").iterdir()} == before


@pytest.mark.parametrize(
    "config, inputs, message",
    [
        ({"name": "x", "pretrain": {"lr": 2e-4, "steps": 8}}, INPUTS, "pretrain.lr was 0.0001, now 0.0002"),
        ({"name": "x", "pretrain": {"lr": 1e-4}}, INPUTS, "pretrain.steps was 8, now None"),
        (CONFIG | {"seed": 1}, INPUTS, "seed was None, now 1"),
        (CONFIG, INPUTS | {"text": "other"}, "text has other content"),
        (CONFIG, {"text": "abc"}, "start checkpoint has other content"),
    ],
)
def test_another_config_or_input_is_refused_with_the_difference(tmp_path, config, inputs, message):
    open_run(tmp_path)
    with pytest.raises(InputError, match=f"stage was started with other settings or inputs .{message}.: use another"):
        open_run(tmp_path, config, inputs)


def test_metrics_that_are_no_number_stop_the_run_and_are_named(tmp_path):
    run = open_run(tmp_path)
    for value in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match="train/loss is (nan|inf) at step 3"):
            run.record(3, {"train/accuracy": 1.0, "train/loss": value})
    assert run.metrics() == []


def test_a_torn_last_line_of_the_metrics_is_left_out(tmp_path):
    run = open_run(tmp_path)
    for step in (1, 2):
        run.record(step, {"train/loss": 1 / 3})
    run.close()
    path = run.path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(len(whole.splitlines()[1])):
        path.write_text(whole[: len(whole) - 2 - cut])
        assert [row["step"] for row in read_metrics(run.path)] == [1]
    run.rewind(1)
    run.record(2, {"train/loss": 1 / 3})
    run.close()
    assert [row["train/loss"] for row in run.metrics()] == [1 / 3, 1 / 3]


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rewinding_forgets_later_rows_here_and_in_tensorboard(tmp_path):
    run = open_run(tmp_path)
    for step in (1, 2, 3, 4):
        run.record(step, {"train/loss": step / 8})
    run.close()
    run = open_run(tmp_path)
    run.rewind(2)
    run.record(3, {"train/loss": 0.0})
    run.close()
    expected = [(1, 0.125), (2, 0.25), (3, 0.0)]
    assert [(row["step"], row["train/loss"]) for row in run.metrics()] == expected
    assert scalars(run.path) == {"train/loss": expected}
    run.rewind(-1)
    run.close()
    assert run.metrics() == [] and scalars(run.path) == {}


def test_pictures_stay_with_the_steps_that_are_kept_and_floors_are_level_lines(tmp_path):
    run = open_run(tmp_path)
    run.record(0, {"floor/sccs_gc": 0.1})
    for step in (0, 5, 10):
        run.record(step, {"val/sccs": step / 100, "train/loss": 1.0})
        run.picture(step, {"cosine": np.linspace(-1, 1, 50) * step / 10})
    run.close()
    run = open_run(tmp_path)
    run.rewind(5)
    run.close()
    events = EventAccumulator(str(run.path), size_guidance={"histograms": 0})
    events.Reload()
    assert [event.step for event in events.Histograms("cosine")] == [0, 5]
    assert sorted(path.stem for path in (run.path / "pictures").iterdir()) == ["000000", "000005"]
    assert scalars(run.path)["floor/sccs_gc"] == [(0, pytest.approx(0.1)), (5, pytest.approx(0.1))]


def test_a_run_without_events_writes_the_rest(tmp_path):
    run = open_run(tmp_path, events=False)
    run.record(1, {"train/loss": 0.5})
    run.picture(1, {"cosine": np.zeros(3)})
    run.rewind(1)
    run.finish({"metrics": {"train/loss": 0.5}}, {"lr": 1e-4})
    assert len(run.metrics()) == 1 and not list(run.path.glob("events*")) and not (run.path / "pictures").exists()


def test_the_saved_state_comes_back_as_it_was_and_a_kill_keeps_the_one_before(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    assert run.load_state() is None
    state = {"step": 3, "best": {"sccs": {"value": 0.1, "step": 2}}, "rng": torch.get_rng_state(), "sums": [0.1, 0.2]}
    run.save_state(state)
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        run.save_state(state | {"step": 4})
    again = run.load_state()
    assert torch.equal(again.pop("rng"), state.pop("rng")) and again == state


def test_the_summary_means_done_and_takes_the_place_of_the_state(tmp_path):
    run = open_run(tmp_path)
    run.save_state({"step": 3})
    run.finish({"metrics": {"val/sccs": 0.5, "p": None}}, {"lr": 1e-4, "arms": ["a"]})
    again = RunFolder(run.path, CONFIG, INPUTS, "cpu")
    assert run.finished and again.finished
    assert again.summary == {"metrics": {"val/sccs": 0.5, "p": None}}
    assert run.load_state() is None
    assert scalars(run.path) == {}  # HPARAMS reads the last point of the curves that it names


# -- signals, errors, devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_a_second_one_insists(call, number):
    stop = StopSignal()
    assert not stop.asked
    os.kill(os.getpid(), number)
    assert stop.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "error, status, line",
    [
        (InputError("a.fa, line 3:\n  bad"), 2, "some.py: error: a.fa, line 3: bad\n"),
        (FloatingPointError("the loss is nan at step 3"), 1, "some.py: error: the loss is nan at step 3\n"),
        (Interrupted("stopped at step 3"), 130, "some.py: stopped at step 3; the same command goes on from there\n"),
        (KeyboardInterrupt(), 130, "some.py: stopped; the same command goes on from there\n"),
    ],
)
def test_what_is_expected_to_go_wrong_is_one_line_and_a_status(monkeypatch, capsys, error, status, line):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["some.py"])
    with pytest.raises(SystemExit) as exit:
        run_script(main)
    assert exit.value.code == status
    assert capsys.readouterr().err == line


def test_a_fault_of_the_code_is_not_hidden():
    with pytest.raises(Crash):
        run_script(crash)


def test_devices_and_precisions_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, message in (
        (("tpu", "auto"), "device .tpu. must be auto, cpu or cuda"),
        (("cuda", "auto"), "device .cuda.: torch finds no CUDA GPU"),
        (("cpu", "fp16"), "precision .fp16. needs a GPU"),
    ):
        with pytest.raises(InputError, match=message):
            build_accelerator(*arguments)


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


def stop_ever_later(monkeypatch, runs, places):
    """Kill the n-th start at its n-th event: a call of `places` or a rename in the run folder.

    Returns what each start must be wrapped in, and the number of the start.
    """
    state = SimpleNamespace(starts=0, left=0)

    def event():
        state.left -= 1
        if state.left < 0:
            raise Crash

    def counted(real, is_ours=lambda args: True):
        def wrapper(*args, **kwargs):
            if is_ours(args):
                event()
            return real(*args, **kwargs)

        return wrapper

    for owner, name in places:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, counted(getattr(os, name), lambda args: str(runs) in str(args[0])))

    def start(action):
        """True when the start came to its end."""
        state.starts += 1
        state.left = state.starts
        try:
            action()
        except Crash:
            return False
        return True

    return start, state


def test_two_processes_train_the_same_from_the_same_seed_and_another_seed_differs(finished, tiny_data, tmp_path, call):
    call(pretrain, tiny_config(tmp_path, tiny_data))
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)
    call(pretrain, tiny_config(tmp_path / "other", tiny_data, {"seed": 1}))
    other = metrics_without_clock(tmp_path / "other/runs/tiny/mlm")
    assert other != metrics_without_clock(finished.run / "mlm")


def test_pretraining_killed_again_and_again_at_ever_later_moments_equals_a_straight_run(
    finished, tiny_data, tmp_path, call, monkeypatch
):
    config = tiny_config(tmp_path, tiny_data)
    with monkeypatch.context() as patch:
        places = [
            (pretraining.Training, "advance"),
            (RunFolder, "record"),
            (RunFolder, "finish"),
            (pretraining, "save"),
        ]
        parse_once(patch, pretrain, config)
        start, state = stop_ever_later(patch, tmp_path / "runs", places)
        while not start(lambda: call(pretrain, config)):
            assert state.starts < 60
    assert state.starts > 10
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


@pytest.mark.parametrize("step", [2, 9, 12], ids=lambda step: f"in step {step}")
def test_pretraining_asked_to_stop_saves_that_very_step_and_goes_on_from_it(
    finished, tiny_data, tmp_path, call, monkeypatch, step
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
    steps = SimpleNamespace(taken=0)
    with monkeypatch.context() as patch:
        real = pretraining.Training.advance

        def advance(*args):
            steps.taken += 1
            return real(*args)

        patch.setattr(pretraining.Training, "advance", advance)
        call(pretrain, config)
    assert steps.taken == 12 - step  # nothing is done twice
    for stage in STAGES:
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


def test_pretraining_killed_by_the_system_and_started_again_equals_a_straight_run(finished, tiny_data, tmp_path, call):
    config = tiny_config(tmp_path, tiny_data)
    kill = (
        "import itertools, os, signal, pretrain\n"
        "from simcsp.training.pretraining import Training\n"
        "real, calls = Training.advance, itertools.count(1)\n"
        "def advance(*args):\n"
        "    if next(calls) == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args)\n"
        "Training.advance = advance\n"
        "pretrain.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", kill, str(config)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "runs/tiny/pretrain/summary.json").exists()
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
    summary = json.loads((straight / "summary.json").read_text())
    assert set(summary["best"]) == {"sccs", "nmi"}
    assert {"floor/nmi_one_hot_10", "floor/nmi_gc", "floor/nmi_fresh"} <= set(summary["floors"])


# -- what fp16's loss scaler skips -------------------------------------------------------------------------------------


def half_precision(*_):
    """An fp16 accelerator on the CPU, with torch's own loss scaler; its first scale is one that every gradient
    overflows."""
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    accelerator.native_amp = True  # which accelerate has for GPUs only
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    return accelerator


@pytest.fixture
def fp16(monkeypatch):
    """Both scripts train in fp16. accelerate keeps one precision a process, so what was there is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for module in (pretraining, finetuning):
        monkeypatch.setattr(module, "build_accelerator", half_precision)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_pretraining_goes_on_where_fp16_gradients_overflow(finished, tiny_data, tmp_path, call, fp16):
    call(pretrain, tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.logging_steps": 1}))
    rows = [row for row in read_metrics(tmp_path / "runs/tiny/pretrain") if "train/loss" in row]
    assert [row["train/skipped_steps"] for row in rows] == [1] + [0] * 7
    assert ["train/grad_norm" in row for row in rows] == [False] + [True] * 7
    rates = [row["train/lr"] for row in rows]
    assert rates[0] == 0 and rates[1] == 1e-3 and rates[7] == pytest.approx(1e-3 / 7)  # the schedule waited as well
    start, last = (
        load_file(tmp_path / f"runs/tiny/pretrain/checkpoints/{name}/model.safetensors") for name in ("start", "last")
    )
    assert any(not torch.equal(start[key], last[key]) for key in start)
    full = [row for row in read_metrics(finished.run / "pretrain") if "train/loss" in row]
    assert all("train/grad_norm" in row and "train/skipped_steps" not in row for row in full)


def test_means_leave_the_norm_of_a_skipped_step_out(finished, tiny_data, tmp_path, call, fp16):
    call(pretrain, tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.logging_steps": 4}))
    rows = [row for row in read_metrics(tmp_path / "runs/tiny/pretrain") if "train/loss" in row]
    assert [row["train/skipped_steps"] for row in rows] == [1, 0]
    assert all(0 < row["train/grad_norm"] < 100 for row in rows)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_fine_tuning_goes_on_where_fp16_gradients_overflow(finished, no_report, tiny_data, tmp_path, call, fp16, clip):
    changes = {"finetune.arms": ["baseline"], "finetune.folds": [0], "finetune.max_grad_norm": clip}
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
    optimizer = accelerator.prepare(inner)
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


@pytest.fixture(scope="module")
def no_report():
    """The report is made from finished folds; it takes seconds, and is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "write_report", lambda config: "")
        yield


def test_fine_tuning_killed_again_and_again_at_ever_later_moments_equals_a_straight_run(
    finished, no_report, tiny_data, tmp_path, call, monkeypatch
):
    config = pretrained_copy(tmp_path, finished, tiny_data, FOLDS_0_1)
    with monkeypatch.context() as patch:
        places = [(fold, "train_pass"), (finetuning, "score_fold"), (RunFolder, "record")]
        parse_once(patch, finetune, config)
        start, state = stop_ever_later(patch, tmp_path / "runs/tiny/finetune", places)
        while not start(lambda: call(finetune, config)):
            assert state.starts < 60
    assert state.starts > 6
    assert_same_folds(tmp_path / "runs/tiny", finished.run, folds=2)


def test_fine_tuning_asked_to_stop_within_an_epoch_equals_a_straight_run(
    finished, no_report, tiny_data, tmp_path, call, monkeypatch
):
    config = pretrained_copy(tmp_path, finished, tiny_data, FOLDS_0_1)
    with monkeypatch.context() as patch:
        batches = json.loads((fold_folders(finished.run)[0] / "summary.json").read_text())["windows"]["train"] // 4
        at_call(patch, fold.F, "binary_cross_entropy_with_logits", batches + 3, terminate)
        with pytest.raises(Interrupted, match="stopped in .*fold00, epoch 2"):
            call(finetune, config)
    call(finetune, config)
    assert_same_folds(tmp_path / "runs/tiny", finished.run, folds=2)


@pytest.fixture(scope="module")
def shared(finished, no_report, tiny_data, tmp_path_factory):
    """A straight run under the published rule, one epoch for all folds."""
    folder = tmp_path_factory.mktemp("shared")
    config = pretrained_copy(folder, finished, tiny_data, SHARED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["finetune.py", str(config)])
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        finetune.main()
        signal.signal(signal.SIGINT, handlers[0])
        signal.signal(signal.SIGTERM, handlers[1])
    return folder / "runs/tiny"


def test_the_shared_epoch_is_the_one_of_the_best_mean_validation_auc(shared):
    rows = [metrics_without_clock(folder) for folder in fold_folders(shared)]
    means = [np.mean([row["val/auc"] for row in epoch]) for epoch in zip(*rows, strict=True)]
    for folder in fold_folders(shared):
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["best_epoch"] == int(np.argmax(means)) + 1
        assert summary["metrics"]["val/auc"] == metrics_without_clock(folder)[summary["best_epoch"] - 1]["val/auc"]


def test_shared_fine_tuning_killed_after_some_folds_of_an_epoch_equals_a_straight_run(
    shared, finished, no_report, tiny_data, tmp_path, call, monkeypatch
):
    config = pretrained_copy(tmp_path, finished, tiny_data, SHARED)
    with monkeypatch.context() as patch:
        at_call(patch, fold, "train_pass", FOLDS + 2, crash)  # fold 0 is through epoch 2, fold 1 is not
        with pytest.raises(Crash):
            call(finetune, config)
    call(finetune, config)
    assert_same_folds(tmp_path / "runs/tiny", shared, folds=FOLDS)


@pytest.mark.slow
def test_shared_fine_tuning_killed_again_and_again_at_ever_later_moments_equals_a_straight_run(
    shared, finished, no_report, tiny_data, tmp_path, call, monkeypatch
):
    config = pretrained_copy(tmp_path, finished, tiny_data, SHARED)
    with monkeypatch.context() as patch:
        places = [(fold, "train_pass"), (finetuning, "keep_best"), (RunFolder, "record")]
        parse_once(patch, finetune, config)
        start, state = stop_ever_later(patch, tmp_path / "runs/tiny/finetune", places)
        while not start(lambda: call(finetune, config)):
            assert state.starts < 60
    assert_same_folds(tmp_path / "runs/tiny", shared, folds=FOLDS)


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
        summary = json.loads((folder / "summary.json").read_text())
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


def test_other_motif_sites_are_another_input(own_data, tmp_path):
    config = load_config([str(tiny_config(tmp_path, own_data, motif_settings(own_data)))])
    before = build_validation(config, nullcontext).inputs
    bed = own_data / "motifs.bed"
    bed.write_text("".join(bed.read_text().splitlines(keepends=True)[:-4]))
    assert build_validation(config, nullcontext).inputs != before


FAULTS = """
import resource, torch
from utils.device import keep_freed_memory
keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("chosen, pages", [({}, (0, 50)), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, (1000, 40_000))])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(chosen, pages):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment | chosen, cwd=ROOT, capture_output=True, text=True, check=True)
    assert pages[0] <= int(done.stdout) <= pages[1]

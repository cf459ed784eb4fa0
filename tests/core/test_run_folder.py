"""The run folder, errors, devices."""

import fcntl
import os
import platform
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, Crash, crash

from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.files import read_json
from simcsp.core.run_folder import RunFolder, read_metrics
from utils.script import run_script

# -- run folder --------------------------------------------------------------------------------------------------------

CONFIG = {"name": "x", "pretrain": {"lr": 1e-4, "steps": 8}}
INPUTS = {"text": "abc", "start checkpoint": "def"}


def open_run(folder, config=CONFIG, inputs=INPUTS):
    run = RunFolder(folder / "stage", config, inputs, "cpu")
    run.begin()
    return run


def test_a_stage_that_has_not_begun_leaves_nothing(tmp_path):
    RunFolder(tmp_path / "stage", CONFIG, INPUTS, "cpu")
    assert not list(tmp_path.iterdir())
    run = open_run(tmp_path, CONFIG | {"seed": 1})
    assert {path.name for path in run.path.iterdir()} == {".lock", "config.yaml", "env.json"}


def test_the_environment_names_every_commit_host_and_thread_count_that_worked_on_a_stage(tmp_path, monkeypatch):
    open_run(tmp_path)
    for host, threads in (("one", 1), ("two", 1), ("one", 1), ("two", 3)):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        run = open_run(tmp_path)
    env = read_json(run.path / "env.json")
    assert [(one["host"], one["threads"]) for one in env["resumed"]] == [("one", 1), ("two", 1), ("two", 3)]
    assert all({"git", "argv", "started", "versions", "device"} <= set(one) for one in env["resumed"])


@pytest.mark.parametrize(
    "config, inputs, message",
    [
        ({"name": "x", "pretrain": {"lr": 2e-4, "steps": 8}}, INPUTS, "pretrain.lr was 0.0001, now 0.0002"),
        ({"name": "x", "pretrain": {"lr": 1e-4}}, INPUTS, "pretrain.steps was 8, now None"),
        (CONFIG | {"seed": 1}, INPUTS, "seed was None, now 1"),
        (CONFIG, INPUTS | {"text": "other"}, "text has changed"),
        (CONFIG, {"text": "abc"}, "start checkpoint has changed"),
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
    assert again.summary["metrics"] == {"val/sccs": 0.5, "p": None}
    assert set(again.summary) == {"metrics", "identity", "sha256"}
    assert set(again.summary["sha256"]) == {"config.yaml", "env.json"}
    assert run.load_state() is None


@pytest.mark.parametrize("held", [False, True])
def test_what_a_kill_after_the_summary_left_is_removed_unless_its_process_is_still_at_it(tmp_path, held):
    run = open_run(tmp_path)
    run.finish({"metrics": {}})
    for name in ("state.pt", "state.previous.pt", ".lock"):
        (run.path / name).write_text("")
    (run.path / "summary.json.x.tmp").mkdir()
    (run.path / "summary.json.x.tmp/.lock").write_text("")
    with open(run.path / ".lock", "wb") as other:
        if held:
            fcntl.flock(other, fcntl.LOCK_EX)
        assert RunFolder(run.path, CONFIG, INPUTS, "cpu").finished
    left = {"state.pt", "state.previous.pt", ".lock"} & {path.name for path in run.path.iterdir()}
    assert len(left) == (3 if held else 0) and not (run.path / "summary.json.x.tmp").exists()


@pytest.mark.parametrize(
    "word, kept",
    [
        ("--search.storage=postgresql://me:secret@host:5432/db", "--search.storage=postgresql://me:***@host:5432/db"),
        ("mysql+pymysql://me:se:cr/et@host/db?ssl=1", "mysql+pymysql://me:***@host/db?ssl=1"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("https://host/x?api_key=secret&n=1", "https://host/x?api_key=***&n=1"),
        ("sqlite:///runs/a/search/study.db", "sqlite:///runs/a/search/study.db"),
        ("--mirror=http://host:8080/a", "--mirror=http://host:8080/a"),
    ],
)
def test_passwords_of_a_command_line_are_not_recorded(tmp_path, monkeypatch, word, kept):
    monkeypatch.setattr(sys, "argv", ["finetune.py", word])
    assert read_json(open_run(tmp_path).path / "env.json")["argv"] == ["finetune.py", kept]


# -- errors, devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, status, line",
    [
        (InputError("a.fa, line 3:\n  bad"), 2, "some.py: error: a.fa, line 3: bad\n"),
        (FloatingPointError("the loss is nan at step 3"), 1, "some.py: error: the loss is nan at step 3\n"),
        (Interrupted("stopped at step 3"), 130, "some.py: stopped at step 3; rerun the same command to resume\n"),
        (KeyboardInterrupt(), 130, "some.py: stopped; rerun the same command to resume\n"),
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


def test_too_little_address_space_is_one_line_before_any_library_is_read():
    limited = f"ulimit -v 800000 && exec {sys.executable} evaluate.py status runs"
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "0.8 GB (ulimit -v)" in done.stderr


def test_a_fault_of_the_code_is_not_hidden():
    with pytest.raises(Crash):
        run_script(crash)


def test_devices_and_precisions_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, message in (
        (("tpu", "auto"), "device .tpu. must be auto, cpu or cuda"),
        (("cuda", "auto"), "device .cuda.: torch sees no CUDA GPU"),
        (("cpu", "fp16"), "precision .fp16. needs a GPU"),
    ):
        with pytest.raises(InputError, match=message):
            build_accelerator(*arguments)


# -- memory of the process ---------------------------------------------------------------------------------------------

FAULTS = """
import resource, torch
from simcsp.core.device import keep_freed_memory
keep_freed_memory()
torch.ones(20_000_000)
faults = []
for _ in range(10):  # the fewest: a round may find another place, or its pages taken away by the kernel
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("chosen, pages", [({}, (0, 50)), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, (1000, 40_000))])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(chosen, pages):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment | chosen, cwd=ROOT, capture_output=True, text=True, check=True)
    assert pages[0] <= int(done.stdout) <= pages[1]

"""Killed anywhere, again and again, and started again: nothing is lost, and the end is that of a run never killed.

Slow; `bash tests/run.sh -m slow tests/utils/test_kill.py -s` prints how many were tried and how many survived.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_same_run, start_script, tiny_config

TRIALS = int(os.environ.get("KILL_TRIALS", 20))
pytestmark = pytest.mark.slow


def start(folder, *words):
    """A script in a process group of its own, so that a kill may take the script alone or its workers too."""
    command = [sys.executable, str(ROOT / words[0]), *map(str, words[1:])]
    log = open(folder / "script.log", "a")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def processes_of(folder):
    """Numbers of the running processes whose command line or working directory is of this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "cwd") == str(folder) and (path / "stat").read_text().split(")")[1][1] != "Z":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def stages_of(run):
    """Stage folders of a run, without what one start of a script does not make again."""
    return sorted(path.parent.relative_to(run) for path in run.rglob("summary.json"))


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    """A tiny run that was never killed, and how long its scripts took."""
    folder = tmp_path_factory.mktemp("straight")
    changes = {"finetune.arms": ["pwm", "fresh", "baseline"], "workers": 2, "pretrain.steps": 40}
    config = tiny_config(folder, tiny_data, changes)
    took = {}
    for script in ("pretrain.py", "finetune.py"):
        began = time.monotonic()
        done = start_script(script, config, cwd=folder)
        assert done.returncode == 0, done.stderr
        took[script] = time.monotonic() - began
    return folder, took, changes


def survives(folder, script, words, kills, until_killed, left):
    """Kill a script at random moments, `kills` times at most, then run it to its end; the number of kills."""
    killed = 0
    for pause in until_killed[:kills]:
        process = start(folder, script, *words)
        wait_for(left, 120)
        time.sleep(pause)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        assert wait_for(lambda: not processes_of(folder), 20), f"orphans: {processes_of(folder)}"
    done = start_script(script, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return killed


def test_pretraining_and_fine_tuning_with_two_workers_killed_at_random_end_bit_for_bit_alike(
    straight, tiny_data, tmp_path, capsys
):
    reference, _, changes = straight
    config = tiny_config(tmp_path, tiny_data, changes)
    rng, tried = np.random.default_rng(), {"pretrain.py": 0, "finetune.py": 0}
    run = tmp_path / "runs/tiny"
    for script, half, pattern in (
        ("pretrain.py", TRIALS // 2, "*/env.json"),
        ("finetune.py", TRIALS - TRIALS // 2, ""),
    ):
        pattern = "*/env.json" if script == "pretrain.py" else "finetune/*/*/*/*/env.json"
        while tried[script] < half:
            pauses = rng.exponential(0.6 if script == "pretrain.py" else 1.5, size=half - tried[script])
            killed = survives(tmp_path, script, [config], half, pauses, lambda pattern=pattern: any(run.glob(pattern)))
            tried[script] += killed
            assert not list(run.rglob("*.tmp")) and not list(run.rglob("*.old")) and not list(run.rglob(".lock"))
            if tried[script] < half:  # it came to its end before the next kill: begin again
                for name in ("mlm", "pretrain") if script == "pretrain.py" else ("finetune", "report"):
                    subprocess.run(["rm", "-rf", run / name], check=True)
    stages = stages_of(reference / "runs/tiny")
    assert stages == stages_of(run) and len(stages) == 14
    for stage in stages:
        if stage.name in ("mlm", "pretrain") or (run / stage / "checkpoints").is_dir():
            assert_same_run(run / stage, reference / "runs/tiny" / stage)
        name = "predictions.csv"
        if (run / stage / name).is_file():
            assert (run / stage / name).read_bytes() == (reference / "runs/tiny" / stage / name).read_bytes()
    with capsys.disabled():
        print(f"\nkill -9: {tried}, all resumed bit for bit")


def test_a_report_killed_at_random_is_written_whole_by_the_next(straight, capsys):
    reference, _, _ = straight
    run, rng, killed = reference / "runs/tiny", np.random.default_rng(), 0
    before = (run / "report/summary.csv").read_bytes()
    for _ in range(max(3, TRIALS // 4)):
        process = start(reference, "evaluate.py", "report", run)
        time.sleep(rng.uniform(3, 12))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        assert (run / "report/summary.csv").read_bytes() == before  # whole, the old one or the new
    done = start_script("evaluate.py", "report", run, cwd=reference)
    assert done.returncode == 0, done.stderr
    assert (run / "report/summary.csv").read_bytes() == before and not list(run.rglob("*.tmp"))
    with capsys.disabled():
        print(f"\nkill -9 of report: {killed}, all written whole")


def test_a_search_killed_at_random_goes_on_to_its_number_of_trials(tiny_data, tmp_path, capsys):
    changes = {
        "mlm.steps": 0,
        "pretrain.steps": 0,
        "finetune.arms": ["fresh"],
        "finetune.folds": [0],
        "finetune.max_epochs": 2,
    }
    space = {"finetune.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
    config = tiny_config(tmp_path, tiny_data, changes | {"search.trials": 3, "search.space": space})
    rng, killed = np.random.default_rng(), 0
    for _ in range(3):
        process = start(tmp_path, "finetune.py", config)
        wait_for(lambda: any(tmp_path.glob("runs/tiny/search/trial*")), 120)
        time.sleep(rng.exponential(1.0))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    done = start_script("finetune.py", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/tiny/search/best.yaml").is_file()
    with capsys.disabled():
        print(f"\nkill -9 of search: {killed}, went on to its end")


def test_a_second_pretraining_of_the_same_folder_is_told_who_is_there_and_the_first_ends_well(
    finished, tiny_data, tmp_path
):
    config = tiny_config(tmp_path, tiny_data)
    first = start(tmp_path, "pretrain.py", config)
    assert wait_for(lambda: (tmp_path / "runs/tiny/pretrain/.lock").is_file(), 120)
    first.send_signal(signal.SIGSTOP)  # for as long as the second takes to come there
    second = start_script("pretrain.py", config, cwd=tmp_path)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 0
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"runs/tiny/pretrain is in use by process {first.pid} on " in second.stderr
    for stage in ("mlm", "pretrain"):
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("script", ["pretrain.py", "finetune.py"])
def test_a_stop_says_what_to_do_and_leaves_no_process(straight, tiny_data, tmp_path, script, number):
    reference, _, changes = straight
    if script == "pretrain.py":
        changes, begun = changes | {"pretrain.steps": 3000, "pretrain.eval_steps": 1000}, "pretrain/metrics.jsonl"
    else:
        subprocess.run(["cp", "-r", reference / "runs", tmp_path], check=True)
        subprocess.run(["rm", "-rf", tmp_path / "runs/tiny/finetune"], check=True)
        begun = "finetune/fresh/*/*/*/env.json"
    process = start(tmp_path, script, tiny_config(tmp_path, tiny_data, changes))
    assert wait_for(lambda: any(tmp_path.glob(f"runs/tiny/{begun}")), 120)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    said = (tmp_path / "script.log").read_text()
    assert "the same command goes on from there" in said and "Traceback" not in said
    assert wait_for(lambda: not processes_of(tmp_path), 20)

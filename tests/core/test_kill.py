"""Killed anywhere, again and again, and started again: nothing is lost, and the end is that of a run never killed.

Slow: 60 kills of training, ten of a search. `bash tests/run.sh -m slow tests/core/test_kill.py -s` prints how
many were tried and how many survived; KILL_TRIALS=20 before it tries a third.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_run, random_bases, tiny_config, write_fasta
from forked import import_all, run_forked

TRIALS = int(os.environ.get("KILL_TRIALS", 60))
pytestmark = pytest.mark.slow
SPACE = {"finetune.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
SEARCH = {"finetune.arms": ["fresh"], "search.trials": 3, "search.space": SPACE}


class Started:
    """A script in a process group of its own, so that a kill may take the script alone or its workers too.

    A fork of this process, which has imported what the script will: what is killed is work, not seconds of imports.
    """

    def __init__(self, folder, script, *words):
        import_all()
        self.status, self.pid = None, os.fork()
        if self.pid == 0:
            os._exit(run_forked(folder, script, words))

    def poll(self):
        """Its exit status, or None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, seconds=900):
        wait_for(lambda: self.poll() is not None, seconds)
        assert self.status is not None, "it did not end"
        return self.status

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def finish(folder, script, *words):
    """Run a script to its end, which must be a good one."""
    assert Started(folder, script, *words).wait() == 0, (folder / "script.log").read_text()[-2000:]


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
    """Folders of the stages and fits of a run."""
    found = sorted(path.parent.relative_to(run) for path in run.rglob("summary.json"))
    return [folder for folder in found if folder.name != "report"]


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    """The folder of a tiny run that was never killed, and what its config changes."""
    folder = tmp_path_factory.mktemp("straight")
    changes = {"finetune.arms": ["pwm", "fresh", "baseline"], "workers": 2, "pretrain.steps": 40}
    config = tiny_config(folder, tiny_data, changes)
    finish(folder, "pretrain.py", config)
    finish(folder, "finetune.py", config)
    return folder, changes


def survives(folder, script, config, until_killed, left):
    """Kill a script at random moments after it has `left` a mark, then run it to its end; the number of kills."""
    killed = 0
    for pause in until_killed:
        process = Started(folder, script, config)
        wait_for(lambda process=process: left() or process.poll() is not None, 300)
        time.sleep(pause)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert wait_for(lambda: not processes_of(folder), 60), f"orphans: {processes_of(folder)}"
    finish(folder, script, config)
    return killed


def assert_ends_alike(run, reference, stages):
    """Every stage and fold below `stages` is that of the run never killed, bit for bit."""
    folders = [folder for folder in stages_of(reference) if folder.parts[0] in stages]
    assert [folder for folder in stages_of(run) if folder.parts[0] in stages] == folders and len(folders) in (2, 12)
    for folder in folders:
        if list((run / folder).rglob("checkpoints/*/*.safetensors")):
            assert_same_run(run / folder, reference / folder)
        if (run / folder / "predictions.csv").is_file():
            one, other = ((root / folder / "predictions.csv").read_bytes() for root in (run, reference))
            assert one == other


def test_pretraining_and_fine_tuning_with_two_workers_killed_at_random_end_bit_for_bit_alike(
    straight, tiny_data, tmp_path, capsys
):
    reference, changes = straight
    config, run = tiny_config(tmp_path, tiny_data, changes), tmp_path / "runs/tiny"
    rng, tried = np.random.default_rng(), {"pretrain.py": 0, "finetune.py": 0}
    for script, part, pattern, mean, stages in (
        ("pretrain.py", TRIALS // 2, "*/env.json", 0.6, ("mlm", "pretrain")),
        ("finetune.py", TRIALS - TRIALS // 2, "finetune/*/*/*/*/env.json", 1.5, ("finetune", "report")),
    ):
        while tried[script] < part:
            for name in stages:
                shutil.rmtree(run / name, ignore_errors=True)
            pauses = rng.exponential(mean, size=part - tried[script])
            tried[script] += survives(tmp_path, script, config, pauses, lambda pattern=pattern: any(run.glob(pattern)))
            assert not list(run.rglob("*.tmp")) and not list(run.rglob("*.old")) and not list(run.rglob(".lock"))
            assert_ends_alike(run, reference / "runs/tiny", stages)
    with capsys.disabled():
        print(f"\nkill -9: {tried}, all resumed bit for bit")


def test_a_search_killed_at_random_goes_on_to_its_number_of_trials(tiny_data, tmp_path, capsys):
    changes = {"mlm.steps": 0, "pretrain.steps": 0, "finetune.folds": [0], "finetune.max_epochs": 2}
    config = tiny_config(tmp_path, tiny_data, changes | SEARCH)
    pauses = np.random.default_rng().uniform(0, 3, size=max(3, TRIALS // 6))
    killed = survives(tmp_path, "finetune.py", config, pauses, lambda: True)
    assert (tmp_path / "runs/tiny/search/best.yaml").is_file()
    with capsys.disabled():
        print(f"\nkill -9 of search: {killed}, went on to its end")


def test_a_second_pretraining_of_the_same_folder_is_told_who_is_there_and_the_first_ends_well(
    finished, tiny_data, tmp_path
):
    config = tiny_config(tmp_path, tiny_data)
    first = Started(tmp_path, "pretrain.py", config)
    assert wait_for(lambda: (tmp_path / "runs/tiny/pretrain/.lock").is_file(), 120)
    first.send_signal(signal.SIGSTOP)  # for as long as the second takes to come there
    second = Started(tmp_path, "pretrain.py", config)
    assert second.wait() == 2
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    said = [line for line in (tmp_path / "script.log").read_text().splitlines() if ": error: " in line]
    assert len(said) == 1 and f"runs/tiny/pretrain is in use by process {first.pid} on " in said[0]
    for stage in ("mlm", "pretrain"):
        assert_same_run(tmp_path / "runs/tiny" / stage, finished.run / stage)


def test_a_killed_worker_ends_the_rest_in_one_line(straight, tiny_data, tmp_path):
    reference, changes = straight
    config = without_folds(reference, tmp_path, tiny_data, changes)
    process = Started(tmp_path, "finetune.py", config)
    assert wait_for(lambda: any(tmp_path.glob("runs/tiny/finetune/*/*/*/*/.lock")), 120)
    holder = json.loads(next(tmp_path.glob("runs/tiny/finetune/*/*/*/*/.lock")).read_text())["pid"]
    assert holder != process.pid
    os.kill(holder, signal.SIGKILL)
    assert process.wait(60) != 0
    said = (tmp_path / "script.log").read_text()
    assert "a worker was killed" in said and "rerun the same command" in said and "Traceback" not in said
    assert wait_for(lambda: not processes_of(tmp_path), 20)
    finish(tmp_path, "finetune.py", config)


def without_folds(reference, folder, data, changes):
    """The config of a copy of a run whose fine-tuning has yet to be done."""
    shutil.copytree(reference / "runs", folder / "runs")
    shutil.rmtree(folder / "runs/tiny/finetune")
    return tiny_config(folder, data, changes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.parametrize("what", ["pretrain", "finetune", "search", "report", "classify", "predict"])
def test_a_stop_says_what_to_do_and_leaves_no_process(straight, tiny_data, tmp_path, what, number):
    reference, changes = straight
    run = tmp_path / "runs/tiny"
    if what == "pretrain":
        words = ["pretrain.py", tiny_config(tmp_path, tiny_data, changes | {"pretrain.steps": 5000})]
    elif what in ("finetune", "search"):
        longer = {"finetune.max_epochs": 60, "finetune.patience": 60} | (SEARCH if what == "search" else {})
        words = ["finetune.py", without_folds(reference, tmp_path, tiny_data, changes | longer)]
    elif what == "predict":
        fasta = write_fasta(tmp_path / "g.fa", {"x": random_bases(np.random.default_rng(0), 4_000_000)})
        words = ["evaluate.py", "predict", fasta, "--out", "sites.tsv"]
    else:
        shutil.copytree(reference / "runs", tmp_path / "runs")
        words = ["evaluate.py", what, run]
    process = Started(tmp_path, *words)
    began = {"pretrain": "pretrain/env.json", "finetune": "finetune/fresh/*/*/*/env.json", "search": "search/*/*/*"}
    wait_for(lambda: what in began and any(run.glob(began[what])), 120 if what in began else 0.2)
    process.send_signal(number)
    status, said = process.wait(120), (tmp_path / "script.log").read_text()
    assert status == 128 + number, said
    assert said.count("rerun the same command to resume\n") == 1 and "Traceback" not in said, said
    assert wait_for(lambda: not processes_of(tmp_path), 20)

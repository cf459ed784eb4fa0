"""Every command that writes, killed at any of its file operations or given a full disk there, and started again.

Slow; needs a C compiler. `bash tests/run.sh -m slow tests/core/test_faults.py -s` prints how many operations there are
and how many were tried; FAULT_TRIALS=20 tries so many of each command, at operations drawn by FAULT_SEED.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_same_run, random_bases, tiny_config, write_data, write_fasta

TRIALS, SEED = int(os.environ.get("FAULT_TRIALS", 12)), int(os.environ.get("FAULT_SEED", 0))
CHANGES = {"mlm.steps": 2, "pretrain.steps": 4, "pretrain.control": True, "finetune.folds": [0, 1], "workers": 1}
CHANGES |= {"finetune.arms": ["pwm", "baseline", "last"], "finetune.max_epochs": 2}
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no C compiler")]


@pytest.fixture(scope="module")
def run_faulty(tmp_path_factory):
    """run_faulty(folder, words, under=..., at=..., kind=...) -> exit status; without `under` nothing goes wrong."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forked.py")],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(folder, words, **faults):
        faults = {f"FAULT_{name.upper()}": str(value) for name, value in faults.items()}
        script, *words = map(str, words)
        asked = {"folder": str(folder), "script": script, "words": words, "environment": faults}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(run_faulty, tmp_path_factory):
    """A folder in which every command has come to its end: data, configuration, run, genome, predictions."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    data = write_data(folder / "data")
    tiny_config(folder, Path("data"), CHANGES)
    text = (folder / "tiny.yaml").read_text().replace(f"{folder}/", "")
    (folder / "tiny.yaml").write_text(text)
    shutil.copytree(data / "spliceator/Training_data", data / "spliceator/Benchmarks/none", dirs_exist_ok=True)
    shutil.rmtree(data / "spliceator/Benchmarks")
    rng = np.random.default_rng(0)
    write_fasta(folder / "g.fa", {name: random_bases(rng, 60_000) for name in "xy"})
    for words in COMMANDS.values():
        assert run_faulty(folder, words) == 0, (folder / "script.log").read_text()[-2000:]
    return folder


# What each command is, and what of its output is compared; the order is that of an experiment.
COMMANDS = {
    "pretrain": ["pretrain.py", "tiny.yaml"],
    "finetune": ["finetune.py", "tiny.yaml", "--report", "false"],
    "report": ["evaluate.py", "report", "runs/tiny"],
    "relate": ["evaluate.py", "relate", "runs/tiny", "tiny.yaml", "--finetune.folds", "[0]"],
    "predict": ["evaluate.py", "predict", "g.fa", "--device", "cpu", "--precision", "fp32", "--out", "out/sites.tsv"],
    "init": ["pretrain.py", "--init", "configs/mine.yaml"],
}
WRITTEN = {
    "pretrain": ["cache", "runs/tiny/splits", "runs/tiny/mlm", "runs/tiny/pretrain", "runs/tiny/control"],
    "finetune": ["runs/tiny/finetune"],
    "report": ["runs/tiny/report"],
    "relate": ["runs/tiny/relate"],
    "predict": ["out"],
    "init": ["configs"],
}
APART = ("env.json", "train.log", "metrics.jsonl", "summary.json")  # clocks and commands; assert_same_run compares them


def before(whole, folder, command):
    """A copy of the work as it was before a command."""
    folder = Path(shutil.copytree(whole, folder))
    for name in WRITTEN[command]:
        shutil.rmtree(folder / name)
    (folder / "script.log").unlink()
    return folder


def assert_alike(folder, whole, command):
    """What the command leaves is that of the one that nothing happened to; nothing else is left."""
    for name in WRITTEN[command]:
        stages = {path.parent for path in (whole / name).rglob("summary.json")}
        for stage in (stage for stage in stages if list(stage.rglob("*.safetensors"))):
            assert_same_run(folder / stage.relative_to(whole), stage)
        found, expected = (
            {
                path.relative_to(root / name): path.read_bytes()
                for path in (root / name).rglob("*")
                if path.is_file() and "tfevents" not in path.name and path.suffix not in (".png", ".html", ".svg")
                if path.name not in APART
            }
            for root in (folder, whole)
        )
        assert found == expected
    left = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".old", ".partial") or path.name == ".lock"]
    assert not left


def operations(run_faulty, folder, command):
    """The file operations of a whole command, as (process, number, call, path)."""
    log = folder.parent / "operations"
    assert run_faulty(folder, COMMANDS[command], under=folder, log=log) == 0
    return [line.split(" ", 3) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_killed_at_any_file_operation_ends_as_if_it_was_not(
    run_faulty, whole, tmp_path, capsys, command
):
    count = len(operations(run_faulty, before(whole, tmp_path / "count", command), command))
    rng, killed = np.random.default_rng(SEED), 0
    for trial, at in enumerate(rng.choice(count, min(TRIALS, count), replace=False) + 1):
        folder = before(whole, tmp_path / f"kill{trial}", command)
        killed += run_faulty(folder, COMMANDS[command], under=folder, at=at, kind="kill") == -9
        again = at - 1 if command != "init" else 0  # and once more, where going on comes to it
        if again:
            killed += run_faulty(folder, COMMANDS[command], under=folder, at=again, kind="kill") == -9
        status, said = run_faulty(folder, COMMANDS[command]), (folder / "script.log").read_text()
        assert status == 0 or (command == "init" and "exists: choose" in said), f"{at} of {count}: {said[-2000:]}"
        assert_alike(folder, whole, command)
        shutil.rmtree(folder)
    with capsys.disabled():
        tried = min(TRIALS, count)
        print(f"\n{command}: {count} operations, killed {killed} times at {tried} of them, all ended alike")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_full_at_any_write_is_one_line_with_its_path_and_the_command_goes_on(
    run_faulty, whole, tmp_path, capsys, command
):
    done = operations(run_faulty, before(whole, tmp_path / "count", command), command)
    calls = ("open", "write", "mkdir", "fsync")
    writes = [n for n, (*_, call, path) in enumerate(done, 1) if call in calls and not path.endswith("script.log")]
    rng = np.random.default_rng(SEED)
    for trial, at in enumerate(rng.choice(writes, min(TRIALS, len(writes)), replace=False)):
        folder = before(whole, tmp_path / f"full{trial}", command)
        status = run_faulty(folder, COMMANDS[command], under=folder, at=at, kind="full")
        said = (folder / "script.log").read_text() if (folder / "script.log").is_file() else ""
        errors = [line for line in said.splitlines() if "error:" in line]
        assert status == 2 and len(errors) == 1 and "Traceback" not in said, f"{at} {done[at - 1]}: {said[-2000:]}"
        assert "No space left on device; free some space" in errors[0] and ".tmp" not in errors[0]
        assert any(name in errors[0] for name in WRITTEN[command]), errors[0]
        again, said = run_faulty(folder, COMMANDS[command]), (folder / "script.log").read_text()
        assert again == 0 or (command == "init" and "exists: choose" in said), said[-2000:]  # whole, if not yet flushed
        assert_alike(folder, whole, command)
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{command}: {len(writes)} writes, full at {min(TRIALS, len(writes))} of them, each named, all went on")

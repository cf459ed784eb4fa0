"""The workflow: every fit is in one job; Snakemake here, and under a Slurm of its own, ends where the scripts end.

The slow ones need snakemake on the PATH (requirements-workflow.txt; or SIMCSP_SNAKEMAKE), the last one Debian's
slurm-wlm and munge as well: `bash tests/run.sh -m slow tests/workflow -s` prints how many jobs there were.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, tiny_config

from simcsp.core.arms import FLOORS
from simcsp.core.run_folder import CLOCK_FIELDS
from utils.arguments import load_config

sys.path[:0] = [str(ROOT / "workflow"), str(Path(__file__).parent)]
from jobs import finetuning_jobs, pretraining_jobs  # noqa: E402
from slurm_services import missing_commands, slurm, states  # noqa: E402

SNAKEMAKE = os.environ.get("SIMCSP_SNAKEMAKE") or shutil.which("snakemake")
needs_snakemake = pytest.mark.skipif(SNAKEMAKE is None, reason="no snakemake: pip install -r requirements-workflow.txt")
needs_slurm = pytest.mark.skipif(bool(missing_commands()), reason="no Slurm: apt install slurm-wlm munge")
CHANGES = {"finetune.arms": ["pwm", "last"], "finetune.folds": [0, 1], "finetune.max_epochs": 8, "finetune.patience": 8}


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_fold_of_every_arm_is_in_one_job_that_waits_for_what_it_reads(path):
    config = load_config([str(path)])
    assert config.name == path.stem
    before = pretraining_jobs(config)
    whole = config.data.fold_count if config.finetune.task == "windows" else len(config.bases.parts)
    every = sorted((arm, fold) for arm in config.finetune.arms for fold in config.finetune.folds or range(whole))
    for gflops in (30, 0.1):
        fits = []
        for name, job in finetuning_jobs(config, gflops).items():
            _, arms, _, folds = shlex.split(job.flags)
            (arms,), folds = yaml.safe_load(arms), yaml.safe_load(folds)
            arm = arms.partition("=")[0]
            fits += [(arms, fold) for fold in folds]
            assert name.startswith(arm) and set(job.after) <= set(before)
            stage = "control" if arm.startswith("control") else "pretrain"
            if arm not in FLOORS and "=" not in arms and stage in before:
                assert stage in job.after
            assert len(folds) == 1 or job.minutes <= 61 or config.finetune.select_epoch == "shared"
        assert sorted(fits) == every


def test_stages_wait_for_the_one_they_start_from_and_seeds_are_jobs_of_their_own():
    config = load_config([str(ROOT / "configs/demo.yaml")])
    pretrain = dataclasses.replace(config.pretrain, seeds=[3, 5], control=True)
    mlm = dataclasses.replace(config.mlm, steps=100)
    jobs = pretraining_jobs(dataclasses.replace(config, mlm=mlm, pretrain=pretrain))
    assert {name: (job.flags, job.after) for name, job in jobs.items()} == {
        "data": ("--only '[\"data\"]'", ()),
        "mlm": ("--only '[\"mlm\"]'", ("data",)),
        "pretrain-seed3": ("--only '[\"pretrain/seed3\"]'", ("mlm",)),
        "pretrain-seed5": ("--only '[\"pretrain/seed5\"]'", ("mlm",)),
        "control-seed3": ("--only '[\"control/seed3\"]'", ("mlm",)),
        "control-seed5": ("--only '[\"control/seed5\"]'", ("mlm",)),
    }
    changes = "--mlm.steps 100 --pretrain.seeds [3,5] --pretrain.control true".split()
    for job in jobs.values():  # the flags are those of pretrain.py
        load_config([str(ROOT / "configs/demo.yaml"), *changes, *shlex.split(job.flags)])


def test_an_arm_reaches_the_script_as_it_was_written_and_no_shell_runs_it(tmp_path):
    arm = f"mine={tmp_path}/a, b]/$(touch {tmp_path}/ran)/'\"`id`/{{x}}: é"
    config = load_config([str(ROOT / "configs/demo.yaml"), "--finetune.arms", json.dumps(["pwm", arm])])
    job = finetuning_jobs(config, 30)["mine"]
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {job.flags}"], capture_output=True, text=True, check=True)
    assert load_config([str(ROOT / "configs/demo.yaml"), *done.stdout.split("\0")[:-1]]).finetune.arms == [arm]
    assert not list(tmp_path.iterdir())


def test_all_that_the_workflow_gives_to_a_shell_is_quoted():
    lines = [line for line in (ROOT / "workflow/Snakefile").read_text().splitlines() if re.match(" +shell: ", line)]
    given = {field for line in lines for field in re.findall(r"\{(.*?)\}", line) if not field.endswith(":q")}
    assert len(lines) == 7 and given == {"params.flags"}  # jobs.py quotes these


# -- the same as the scripts -------------------------------------------------------------------------------------------


def content(run):
    """{path: what it holds} of a run folder, without clocks, logs, commands and where the run lies."""
    found, here = {}, str(run.parents[1]).encode()
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        if name.startswith("workflow/") or path.name in ("env.json", "train.log") or "tfevents" in name:
            continue
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in CLOCK_FIELDS} for row in rows]
        elif path.name in ("summary.json", "corpus.json"):  # with clocks, and a checksum over them
            values = json.loads(path.read_bytes().replace(here, b"FOLDER"))
            apart = ("seconds", "checksum", "sha256")
            found[name] = {key: value for key, value in values.items() if key not in apart}
        else:
            found[name] = path.read_bytes().replace(here, b"FOLDER")
    return found


def project(folder, data):
    """A copy of the project, and its configuration of a tiny experiment."""
    apart = ("runs", "data", ".*", "tests", "models", "results", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*apart))
    return tiny_config(folder, data, CHANGES)


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    """The run folder of a tiny experiment by the scripts."""
    config = tiny_config(tmp_path_factory.mktemp("straight"), tiny_data, CHANGES)
    for script in ("pretrain.py", "finetune.py"):
        subprocess.run([sys.executable, ROOT / script, config], cwd=config.parent, check=True, timeout=1800)
    return config.parent / "runs/tiny"


def start_snakemake(config, environment, *words):
    command = [SNAKEMAKE, "--configfile", config, *words]
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    with open(config.parent / "snakemake.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(
            command, cwd=config.parent, env=environment | {"PATH": path}, stdout=log, stderr=subprocess.STDOUT
        )


def jobs_of(config):
    log = (config.parent / "snakemake.log").read_text()
    return log.count("Finished jobid: ")


@pytest.mark.slow
@needs_snakemake
def test_snakemake_here_makes_what_the_scripts_make(straight, tiny_data, tmp_path, capsys):
    config = project(tmp_path / "project", tiny_data)
    done = start_snakemake(config, os.environ, "--cores", "1").wait()
    assert done == 0, (config.parent / "snakemake.log").read_text()
    assert content(config.parent / "runs/tiny") == content(straight)
    with capsys.disabled():
        print(f"\nSnakemake: {jobs_of(config)} jobs, the run folder is the scripts'")


@pytest.mark.slow
@needs_snakemake
def test_a_killed_snakemake_goes_on_by_the_same_command_though_its_jobs_still_run(tiny_data, tmp_path):
    changes = {"finetune.arms": ["last"], "finetune.max_epochs": 1, "runs": f"{tmp_path}/$(touch ran) 'x"}
    config = project(tmp_path / "project", tiny_data)
    config = tiny_config(config.parent, tiny_data, CHANGES | changes | {"pretrain.steps": 400})
    words = ["bash", "workflow/run.sh", config.name, "--cores", "1"]
    path = os.pathsep.join([str(Path(SNAKEMAKE).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    start = dict(cwd=config.parent, env=os.environ | {"PATH": path}, text=True, stderr=subprocess.PIPE)
    first = subprocess.Popen(words, **start)
    stage = Path(changes["runs"]) / "tiny/pretrain"
    end = time.monotonic() + 300
    while not (stage / "env.json").is_file() and first.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    first.kill()
    assert first.wait() == -signal.SIGKILL and not (stage / "summary.json").is_file()
    done = subprocess.run(words, **start)
    assert done.returncode == 0 and "Waiting for jobs" in done.stderr, done.stderr
    assert (stage.parent / "report/summary.csv").is_file() and not list(tmp_path.rglob("ran"))
    log = (stage / "train.log").read_text()
    assert "resumed" not in log and log.count("400 steps") >= 1


@pytest.mark.slow
@needs_snakemake
@needs_slurm
def test_under_slurm_a_cancelled_job_and_a_drained_node_cost_nothing(straight, tiny_data, tmp_path, capsys):
    config = project(tmp_path / "project", tiny_data)
    words = ["--profile", "workflow/profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue"]
    words += ["--set-threads", "pretrain=1", "finetune=1", "report=1"]
    words += ["--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "5"]
    fits = config.parent / "runs/tiny/finetune/last"
    with slurm(tmp_path / "slurm") as environment:
        first = start_snakemake(config, environment, *words, "--retries", "0")
        try:
            end = time.monotonic() + 1200
            while first.poll() is None and not any(fits.rglob("state.pt")) and time.monotonic() < end:
                time.sleep(0.2)
            running = ["squeue", "-h", "-t", "R", "-o", "%i"]
            cancelled = subprocess.run(running, env=environment, capture_output=True, text=True).stdout.split()
            assert cancelled, (config.parent / "snakemake.log").read_text()
            subprocess.run(["scancel", *cancelled], env=environment, check=True)
            assert first.wait(timeout=1200) != 0
        finally:
            if first.poll() is None:
                first.send_signal(signal.SIGINT)
                first.wait(timeout=120)
        assert not (config.parent / "runs/tiny/report").exists()
        finished = len(list(fits.rglob("summary.json")))
        drain = ["scontrol", "update", "nodename=node1", "state=drain", "reason=test"]
        subprocess.run(drain, env=environment, check=True)
        assert "node1 drain" in states(environment)
        second = start_snakemake(config, environment, *words)
        assert second.wait(timeout=1800) == 0, (config.parent / "snakemake.log").read_text()
    assert content(config.parent / "runs/tiny") == content(straight)
    with capsys.disabled():
        print(
            f"\nSlurm: {jobs_of(config)} jobs ended, {len(cancelled)} cancelled with {finished} of their folds done, "
            "one node drained: the run folder is the scripts'"
        )

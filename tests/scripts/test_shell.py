"""The shell scripts, run against stand-ins for python, pip, docker and nvidia-smi: no network, no real environment."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simcsp.core.config import Config, PretrainConfig
from utils.gpus import main

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "pretrain.sh finetune.sh run.sh scripts/env.sh scripts/default.sh scripts/data.sh tests/run.sh".split()
SCRIPTS += [".ci/run", "docker/tensorboard", "docker/install.sh", "workflow/run.sh"]
TOOLS = "bash cat cmp cp dirname flock grep id mkdir mv nproc rm sleep tail".split()

# Writes down its arguments, one call per line.
RECORDER = 'echo "{name} $*" >>"$CALLS"\n'

# As an interpreter without packages: it answers the version check and makes a .venv with another stand-in in it.
BARE_PYTHON = """
case "$1 $2" in
    "- "*) cat >/dev/null; exit 1 ;;
    "-m venv") mkdir -p .venv/bin; cp "$VENV_PYTHON" .venv/bin/python ;;
esac
"""
# Fails to install whatever $PIP_FAILS matches, and when it installs takes $PIP_SECONDS.
VENV_PYTHON = """
case $* in
    *"pip install"*)
        sleep "${PIP_SECONDS:-0}"
        printf '%s' "${PIP_SAYS-}"
        if [[ -n ${PIP_FAILS-} && $* == *$PIP_FAILS* ]]; then echo "ERROR: connection lost" >&2; exit 1; fi ;;
esac
"""
# As pretrain.py and finetune.py, which print their arguments and end with 3, beside data scripts.
PRINTS = 'case $1 in - | data/demo.py) ;; data/fetch.py) exit {fetch} ;; *) printf "<%s>" "$@"; exit 3 ;; esac\n'
COMPLETE_PYTHON = 'if [ "$1" = - ]; then cat >/dev/null; fi\n'


class Project:
    """A copy of the scripts, and a PATH that holds a few standard tools and the stand-ins only."""

    def __init__(self, folder):
        self.root, self.bin, self.calls_file = folder / "project", folder / "bin", folder / "calls"
        for name in [*SCRIPTS, "requirements.txt", "requirements-dev.txt"]:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        self.venv_python = self.stand_in("venv-python", VENV_PYTHON)

    def stand_in(self, name, body=""):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{self.bin}/bash\n{RECORDER.format(name=name)}{body}")
        path.chmod(0o755)
        return path

    def environment(self, variables):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("SIMCSP_", "TENSORBOARD_", "VIRTUAL_ENV"))}
        own = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "VENV_PYTHON": str(self.venv_python)}
        return keep | own | variables

    def start(self, script, *arguments, cwd=None, **variables):
        return subprocess.Popen(
            ["bash", str(self.root / script), *arguments],
            cwd=cwd or self.bin,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, cwd=None, **variables):
        process = self.start(script, *arguments, cwd=cwd, **variables)
        process.stdout_text, process.stderr_text = process.communicate(timeout=60)
        return process

    def calls(self, start=""):
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.startswith(start)]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def assert_one_line(process, *words):
    assert process.returncode == 2
    assert process.stderr_text.count("\n") == 1 and process.stderr_text.startswith("error: ")
    assert all(word in process.stderr_text for word in words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_can_be_run(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert script in ("scripts/env.sh", "scripts/default.sh") or os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(
    "script", sorted(set(SCRIPTS) - {"scripts/env.sh", "scripts/default.sh", "docker/tensorboard"})
)
def test_a_script_works_in_its_own_folder_whatever_cdpath_says(project, tmp_path, script):
    first = next(line for line in (project.root / script).read_text().splitlines() if "cd -- " in line)
    (project.root / script).write_text(f"{first}\npwd\n")
    (tmp_path / "other/project").mkdir(parents=True)
    variables = os.environ | {"CDPATH": str(tmp_path / "other")}
    said = subprocess.check_output(["bash", f"project/{script}"], cwd=tmp_path, env=variables, text=True)
    assert said == f"{project.root}\n"


# The environment


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("arguments", "config", "data"),
    [
        ([], ["configs/chr19.yaml"], "fetch"),
        (["--pretrain.lr", "3e-5", "--name", "two words"], ["configs/chr19.yaml"], "fetch"),
        (["configs/chr19-simcse.yaml"], [], "fetch"),
        (["configs/demo.yaml", "--seed", "1"], [], "demo"),
        (["configs/simcsp.yaml", "--name", "mine"], [], None),
    ],
)
def test_stages_pass_their_arguments_on_and_bring_the_data_of_the_default_and_the_demo(
    project, stage, arguments, config, data
):
    (project.root / "data/windows/chr19").mkdir(parents=True)
    project.stand_in("python", COMPLETE_PYTHON + PRINTS.format(fetch=0))
    process = project.run(f"{stage}.sh", *arguments)
    assert process.returncode == 3, "the exit status is Python's"
    assert process.stdout_text == "".join(f"<{a}>" for a in [f"{stage}.py", *config, *arguments])
    assert ("python data/demo.py" in project.calls()) == (data == "demo")
    assert ("python data/fetch.py chr19" in project.calls()) == (data == "fetch")
    assert not (project.root / ".venv").exists()


def test_without_an_index_the_default_is_the_demo_and_fine_tuning_follows(project):
    project.stand_in("python", COMPLETE_PYTHON + PRINTS.format(fetch=3))
    process = project.run("pretrain.sh", "--seed", "1")
    assert process.stdout_text == "<pretrain.py><configs/demo.yaml><--seed><1>"
    assert "SYNTHETIC" in process.stderr_text and process.stderr_text.count("\n") == 1
    assert project.run("pretrain.sh", "configs/chr19.yaml").returncode == 2  # it was named, so nothing else will do
    (project.root / "runs/demo/pretrain").mkdir(parents=True)
    (project.root / "data/windows/chr19").mkdir(parents=True)
    project.stand_in("python", COMPLETE_PYTHON + PRINTS.format(fetch=0))  # the network is back
    assert project.run("finetune.sh").stdout_text == "<finetune.py><configs/demo.yaml>"
    (project.root / "runs/chr19/pretrain").mkdir(parents=True)
    assert project.run("finetune.sh").stdout_text == "<finetune.py><configs/chr19.yaml>"


@pytest.mark.parametrize("status", [1, 2])
def test_a_wrong_hash_or_a_full_disk_is_an_error_and_no_reason_for_the_demo(project, status):
    project.stand_in("python", COMPLETE_PYTHON + PRINTS.format(fetch=status))
    process = project.run("pretrain.sh")
    assert (process.returncode, process.stdout_text) == (2, "")
    assert project.calls()[-1] == "python data/fetch.py chr19"


def test_windows_that_are_half_made_are_made_anew(project):
    fails = '[ "$1" != data/motifs.py ] || exit 2\n[ "$1" != data/windows.py ] || mkdir -p "$3"\n'
    project.stand_in("python", COMPLETE_PYTHON + fails)
    assert project.run("scripts/data.sh", "chr19", PYTHON="python").returncode == 2
    assert not (project.root / "data/windows/chr19").exists()
    project.stand_in("python", COMPLETE_PYTHON + '[ "$1" != data/windows.py ] || mkdir -p "$3"\n')
    assert project.run("scripts/data.sh", "chr19", PYTHON="python").returncode == 0
    assert (project.root / "data/windows/chr19").is_dir()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_config_is_found_where_the_caller_is(project, stage, tmp_path):
    project.stand_in("python", COMPLETE_PYTHON + 'case $1 in - | data/demo.py) ;; *) printf "<%s>" "$@" ;; esac\n')
    folder = tmp_path / "a caller"
    folder.mkdir()
    (folder / "mine.yaml").touch()
    for given, read in (("mine.yaml", f"{folder}/mine.yaml"), ("configs/x.yaml", "configs/x.yaml")):
        process = project.run(f"{stage}.sh", given, "--seed", "1", cwd=folder)
        assert process.stdout_text == f"<{stage}.py><{read}><--seed><1>"


def test_a_failing_demo_stops_the_stage(project):
    project.stand_in("python", COMPLETE_PYTHON + '[ "$1" != data/demo.py ] || exit 2\n')
    assert project.run("pretrain.sh", "configs/demo.yaml").returncode == 2
    assert project.calls()[-1] == "python data/demo.py"


def test_python3_alone_is_enough(project):
    project.stand_in("python3", COMPLETE_PYTHON)
    assert project.run("pretrain.sh", "configs/x.yaml").returncode == 0
    assert project.calls()[-1] == "python3 pretrain.py configs/x.yaml"


def active(project, interpreter):
    """The stand-in for an active environment is a real Python."""
    (project.bin / "python").write_text(f'#!{project.bin}/bash\nexec "{interpreter}" "$@"\n')
    (project.bin / "python").chmod(0o755)
    (project.root / "pretrain.py").write_text("import sys; print(sys.executable, *sys.argv[1:])")


def test_the_probe_asks_for_names_and_not_for_versions(project):
    active(project, sys.executable)
    (project.root / "requirements.txt").write_text("# comment\npytest==0.0.1\n\nPyYAML[any]>=99  # comment\n")
    process = project.run("pretrain.sh", "configs/x.yaml")
    assert (process.returncode, process.stderr_text) == (0, "")
    assert process.stdout_text == f"{sys.executable} configs/x.yaml\n"


def test_the_probe_follows_the_development_requirements_and_names_what_is_missing(project):
    active(project, sys.executable)
    (project.root / "requirements.txt").write_text("torch==1.0\nno-such-a\nno-such-b==1\nno-such-c\nno-such-d\n")
    (project.root / "requirements-dev.txt").write_text("pytest\nno-such-e\n")
    project.stand_in("python3", BARE_PYTHON)
    process = project.run("tests/run.sh")
    assert process.returncode == 0
    assert "lacks no-such-a, no-such-b, no-such-c and 2 more:" in process.stderr_text


def test_a_fresh_clone_gets_a_venv_with_torch_first(project):
    project.stand_in("python3", BARE_PYTHON)
    process = project.run("pretrain.sh", "configs/x.yaml", "--seed", "1")
    assert process.returncode == 0 and process.stderr_text.count("\n") == 1
    pip = [call.split("bar off ")[1] for call in project.calls("venv-python -m pip install")]
    torch = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))
    assert pip == [torch, "-r requirements.txt"]
    assert project.calls()[-1] == "venv-python pretrain.py configs/x.yaml --seed 1"

    project.calls_file.unlink()
    process = project.run("pretrain.sh", "configs/x.yaml")
    assert process.stderr_text == "" and not project.calls("venv-python -m")


@pytest.mark.parametrize("listed, seen", [(0, None), (1, None), (2, 2), (8, 3), (2, 1), (4, 0)])
def test_pretraining_has_a_process_for_each_gpu_that_torch_sees(project, listed, seen):
    project.stand_in("python", f"case $2 in requirements.txt) cat >/dev/null ;; utils.gpus) echo {seen} ;; esac\n")
    project.stand_in("nvidia-smi", "".join(f'echo "GPU {i}: stand-in"\n' for i in range(listed)))
    assert project.run("pretrain.sh", "configs/x.yaml", "--seed", "1").returncode == 0
    if listed < 2:
        assert not project.calls("python -m utils.gpus")
    launch = f"-m torch.distributed.run --standalone --nproc_per_node {seen} " if (seen or 0) > 1 else ""
    assert project.calls()[-1] == f"python {launch}pretrain.py configs/x.yaml --seed 1"
    assert project.run("pretrain.sh", "configs/x.yaml", "--dry-run").returncode == 0
    assert project.calls()[-1] == "python pretrain.py configs/x.yaml --dry-run"


@pytest.mark.parametrize(
    "gpus, batches, trials, count, said",
    [
        (1, (64, 512), 0, 1, ""),
        (0, (64, 512), 0, 1, ""),  # torch is for CPUs, or CUDA_VISIBLE_DEVICES is empty
        (8, (64, 512), 0, 8, ""),
        (6, (64, 512), 0, 4, "4 of 6 GPUs used: more cannot share a batch of 64 or 512 windows evenly (batch_size)"),
        (8, (65, 513), 0, 1, "1 of 8 GPUs used: more cannot share a batch of 65 or 513 windows evenly (batch_size)"),
        (8, (64, 512), 9, 1, "1 of 8 GPUs used: a trial of a search is the work of one process"),
    ],
)
def test_as_many_gpus_are_used_as_can_share_the_work(gpus, batches, trials, count, said, capsys, monkeypatch):
    mlm, pretrain = (PretrainConfig(objective=name, batch_size=size) for name, size in zip(("mlm", "simcse"), batches))
    config = Config(name="x", mlm=mlm, pretrain=pretrain)
    config.search.trials = trials
    monkeypatch.setattr("utils.gpus.load_config", lambda words: config)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    main()
    captured = capsys.readouterr()
    assert captured.out == f"{count}\n"
    assert captured.err.startswith(said) and captured.err.count("\n") == bool(said)


def test_an_install_shows_its_large_downloads_and_keeps_all_of_pip_s_lines(project):
    project.stand_in("python3", BARE_PYTHON)
    large = "  Downloading torch-9.whl (187.6 MB)\n"
    lines = f"Collecting torch\n  Downloading torch-9.whl.metadata (30 kB)\n{large}"
    lines += "Installing collected packages: a, b\n"
    process = project.run("pretrain.sh", "configs/x.yaml", PIP_SAYS=lines)
    assert process.returncode == 0
    assert process.stderr_text.splitlines()[1:3] == ["  Downloading torch-9.whl (187.6 MB)", "  Installing 2 packages"]
    assert (project.root / ".venv/install.log").read_text() == 2 * lines


def test_tests_and_stages_share_the_venv(project):
    project.stand_in("python3", BARE_PYTHON)
    assert project.run("tests/run.sh", "-k", "some name").returncode == 0
    assert "-r requirements.txt -r requirements-dev.txt" in project.calls("venv-python -m pip install")[-1]
    assert project.calls()[-1] == "venv-python -m pytest -q -k some name"
    project.calls_file.unlink()
    project.run("pretrain.sh", "configs/x.yaml")
    assert not project.calls("venv-python -m pip")

    (project.root / "requirements.txt").write_text("torch==9.9\n")
    project.run("pretrain.sh", "configs/x.yaml")
    assert "torch==9.9" in project.calls("venv-python -m pip install")[0], "changed pins are installed"
    project.calls_file.unlink()
    project.run("tests/run.sh")
    assert project.calls("venv-python -m pip install"), "those of the tests are brought up to date too"


@pytest.mark.parametrize("interrupted", ["torch==", "-r requirements.txt"])
def test_an_interrupted_install_is_finished_next_time(project, interrupted):
    project.stand_in("python3", BARE_PYTHON)
    process = project.run("pretrain.sh", "configs/x.yaml", PIP_FAILS=interrupted)
    assert process.returncode == 2
    assert process.stderr_text.splitlines()[1].startswith("error: pip install ")
    assert "connection lost" in process.stderr_text and "run the same command again" in process.stderr_text
    assert not project.calls("venv-python pretrain.py")

    project.calls_file.unlink()
    assert project.run("pretrain.sh", "configs/x.yaml").returncode == 0
    assert not project.calls("python3 -m venv"), "what is there is kept"
    assert len(project.calls("venv-python -m pip install")) == 2
    assert project.calls()[-1] == "venv-python pretrain.py configs/x.yaml"


def test_a_half_done_change_of_pins_is_undone_when_the_pins_are(project):
    project.stand_in("python3", BARE_PYTHON)
    pins = (project.root / "requirements.txt").read_text()
    project.run("pretrain.sh", "configs/x.yaml")
    (project.root / "requirements.txt").write_text("torch==9.9\n")
    assert project.run("pretrain.sh", "configs/x.yaml", PIP_FAILS="-r requirements.txt").returncode == 2
    (project.root / "requirements.txt").write_text(pins)
    project.calls_file.unlink()
    assert project.run("pretrain.sh", "configs/x.yaml").returncode == 0
    assert len(project.calls("venv-python -m pip install")) == 2


@pytest.mark.parametrize(
    ("stamp", "as_it_is"), [(None, True), ("", False), ("torch==2\n", True), ("torch==1\n", False)]
)
def test_the_project_s_own_venv_when_active(project, stamp, as_it_is):
    """One made by hand is used as it is; one made by the scripts must be finished and have the present pins."""
    venv, log = project.root / ".venv", project.root / "pip.log"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "torch-2.dist-info").mkdir()
    (site / "torch-2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2\n")
    (site / "pip").mkdir()
    (site / "pip/__main__.py").write_text("import sys; print(*sys.argv[1:], file=open('pip.log', 'a'))\n")
    (project.root / "requirements.txt").write_text("torch==2\n")
    (project.root / "pretrain.py").write_text("import sys; print(sys.prefix)")
    if stamp is not None:
        (venv / "requirements.txt").write_text(stamp)

    process = project.run("pretrain.sh", "configs/x.yaml", PATH=f"{venv}/bin:{project.bin}")
    assert (process.returncode, process.stdout_text) == (0, f"{venv}\n")
    assert log.exists() == (not as_it_is)
    assert as_it_is or "torch==2" in log.read_text()


def test_two_scripts_started_together_make_one_venv(project):
    if not shutil.which("flock"):
        pytest.skip("no flock here")
    project.stand_in("python3", BARE_PYTHON)
    both = [project.start(f"{stage}.sh", "configs/x.yaml", PIP_SECONDS=".3") for stage in ("pretrain", "finetune")]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert len(project.calls("python3 -m venv")) == 1
    assert len(project.calls("venv-python -m pip install")) == 2


def test_no_suitable_python_is_one_line(project):
    project.stand_in("python3", "exit 1\n")
    process = project.run("pretrain.sh")
    assert process.returncode == 2
    assert process.stderr_text.splitlines()[-1].startswith("error: no Python 3.11 or newer")


# Docker


@pytest.fixture
def docker(project):
    for name in ("docker", "nvidia-smi"):
        project.stand_in(name, 'exit "${NVIDIA_STATUS:-0}"' if name == "nvidia-smi" else 'echo "${DOCKER_INFO:-}"\n')
    return project


def test_run_builds_then_gives_a_shell(docker):
    process = docker.run("run.sh", NVIDIA_STATUS="9")
    assert process.returncode == 0
    build, run = docker.calls("docker ")[-2:]
    assert build == "docker build --build-arg TORCH=cpu --tag simcsp ."
    assert run.startswith("docker run --rm ") and run.endswith(" simcsp bash")
    for folder in ("data", "runs", "configs", "models"):
        assert f"--volume {docker.root}/{folder}:/workspace/{folder} " in run
        assert (docker.root / folder).is_dir()
    assert "--publish 127.0.0.1:6006:6006 " in run
    assert f"--user {os.getuid()}:{os.getgid()} " in run
    assert "--tty" not in run and "--gpus" not in run and ".git" not in run


def test_run_options(docker):
    (docker.root / ".git").mkdir()
    docker.run("run.sh", TENSORBOARD_PORT="7007", DOCKER_INFO="  rootless")
    docker.run("run.sh", SIMCSP_GPUS="device=1")
    docker.run("run.sh", SIMCSP_GPUS="")
    first, second, third = docker.calls("docker run")
    assert "--publish 127.0.0.1:7007:6006 " in first and "--gpus all " in first
    assert f"--volume {docker.root}/.git:/workspace/.git:ro " in first
    assert "--user 0:0 " in first and f"--user {os.getuid()}:{os.getgid()} " in second
    assert "--gpus device=1 " in second and "--gpus" not in third
    torch = [re.search("TORCH=([a-z]+) ", line)[1] for line in docker.calls("docker build")]
    assert torch == ["cuda", "cuda", "cpu"], "the build of torch that a GPU needs, and the small one without"


@pytest.mark.parametrize(
    "typed, run",
    [
        (["pretrain"], "bash pretrain.sh"),
        (["finetune", "configs/mine.yaml", "--name", "x"], "bash finetune.sh configs/mine.yaml --name x"),
        (["tensorboard"], "tensorboard --logdir=runs"),
        (["tensorboard", "--reload_interval", "9"], "tensorboard --logdir=runs --reload_interval 9"),
        (["test", "tests/model"], "bash tests/run.sh tests/model"),
        (["bash", "-c", "echo $HOME 'a b'"], "bash -c echo $HOME 'a b'"),
    ],
)
def test_run_has_words_for_what_is_done_most(docker, typed, run):
    assert docker.run("run.sh", *typed).returncode == 0
    assert docker.calls("docker run")[0].endswith(f" simcsp {run}")


def test_the_settings_of_the_caller_s_pip_reach_the_container(docker, tmp_path):
    settings = tmp_path / "pip.conf"
    settings.touch()
    given = {"PIP_INDEX_URL": "http://mirror/simple", "https_proxy": "http://proxy", "PIP_TARGET": "/elsewhere"}
    assert docker.run("run.sh", "pretrain", PIP_CONFIG_FILE=str(settings), **given).returncode == 0
    (run,) = docker.calls("docker run")
    assert " --env PIP_INDEX_URL " in run and " --env https_proxy " in run
    assert (
        "PIP_TARGET" not in run and "mirror" not in run
    )  # values, which may hold passwords, are not on the command line
    assert f" --volume {settings}:/etc/pip.conf:ro " in run


def test_run_asks_for_a_terminal_where_there_is_one(docker):
    controller, terminal = pty.openpty()
    command = ["bash", str(docker.root / "run.sh")]
    subprocess.run(command, env=docker.environment({}), stdin=terminal, stdout=terminal, check=True, timeout=60)
    os.close(controller)
    os.close(terminal)
    assert " --tty " in docker.calls("docker run")[0]


@pytest.mark.parametrize(
    "body, said",
    [
        ('echo Client:; echo "Cannot connect to the Docker daemon" >&2; exit 1\n', "Cannot connect"),
        ('[ "$1" != build ]\n', "docker build failed"),
    ],
    ids=["no engine", "failed build"],
)
def test_what_docker_refuses_is_one_line_and_runs_nothing(docker, body, said):
    docker.stand_in("docker", body)
    assert_one_line(docker.run("run.sh"), said)
    assert not docker.calls("docker run")


def test_run_without_docker(project):
    assert_one_line(project.run("run.sh"), "docker")


@pytest.mark.parametrize(
    ("typed", "served"),
    [
        (["--logdir=runs"], "--logdir=runs --host 0.0.0.0"),
        (["serve", "--logdir", "runs"], "serve --logdir runs --host 0.0.0.0"),
        (["--logdir=runs", "--host", "0.0.0.0"], "--logdir=runs --host 0.0.0.0"),
        (["--host=localhost", "--logdir=runs"], "--host=localhost --logdir=runs"),
        (["--logdir=runs", "--bind_all"], "--logdir=runs --bind_all"),
    ],
)
def test_tensorboard_in_the_image_is_reachable_and_can_be_told_otherwise(project, typed, served):
    project.stand_in("python")
    assert project.run("docker/tensorboard", *typed).returncode == 0
    assert project.calls() == [f"python -m tensorboard.main {served}"]


def test_everything_is_pinned():
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins and all("==" in pin for pin in pins)


@pytest.mark.parametrize(
    "torch, installed",
    [("cpu", "--extra-index-url https://download.pytorch.org/whl/cpu torch=="), ("cuda", "ignore torch==")],
)
def test_the_image_s_torch_is_the_build_that_was_asked_for(project, torch, installed):
    project.stand_in("pip")
    assert project.run("docker/install.sh", "torch", TORCH=torch).returncode == 0
    assert installed in project.calls("pip install")[0]
    assert "TORCH is rocm: cpu or cuda" in project.run("docker/install.sh", "torch", TORCH="rocm").stderr_text

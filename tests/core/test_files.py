"""Files: written whole or not at all, damage named, one process a folder."""

import errno
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from simcsp.core import files, locks
from simcsp.core.config import Config
from simcsp.core.errors import InputError
from simcsp.core.run_folder import FORMAT, RunFolder, read_metrics
from simcsp.core.run_layout import PREVIOUS_STATE
from simcsp.text.reading import is_whole_number
from utils.arguments import find_faults
from utils.script import run_script

# -- written aside -----------------------------------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_whose_writing_fails_stays_as_it_was_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


IMPORTS = "import itertools, os, signal, sys, time\nfrom pathlib import Path\nfrom simcsp.core import files, locks\n"


def start_python(code, *words, prefix=(), **options):
    return subprocess.Popen([*prefix, sys.executable, "-c", IMPORTS + code, *words], cwd=ROOT, text=True, **options)


def fill(path, text):
    with files.replace_folder(path) as folder:
        (folder / "weights").write_text(text)


@pytest.mark.parametrize("renames, found", [(0, "old"), (1, "old"), (2, "old"), (3, "new")])
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "int('no number')"], ids=["kill", "error"])
def test_what_ends_the_replacing_of_a_checkpoint_leaves_the_old_or_the_new(tmp_path, renames, found, end):
    run = RunFolder(tmp_path / "stage", {}, {}, "cpu")
    code = (
        "rename, done = os.rename, itertools.count()\n"
        f"os.rename = lambda *a: {end} if next(done) == {renames} else rename(*a)\n"
        "with files.replace_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'weights').write_text('new')\n"
        f"{end}\n"
    )
    fill(run.checkpoints / "best", "old")
    killed = start_python(code, run.checkpoints / "best", stderr=subprocess.DEVNULL)
    assert killed.wait() == (-signal.SIGKILL if "kill" in end else 1)
    RunFolder(tmp_path / "stage", {}, {}, "cpu").begin()
    assert (run.checkpoints / "best/weights").read_text() == found
    assert names(run.checkpoints) == ["best"]


def test_what_a_kill_of_an_earlier_version_left_is_mended(tmp_path):
    checkpoints = tmp_path / "stage/checkpoints"
    for left in ("best.old/weights", "last.host.12.tmp/weights", "start/weights", "start.old/weights"):
        (checkpoints / left).parent.mkdir(parents=True)
        (checkpoints / left).write_text(left)
    (checkpoints.parent / "state.pt.host.12.tmp").write_text("half")
    open_run(tmp_path)
    assert (checkpoints / "best/weights").read_text() == "best.old/weights"
    assert names(checkpoints) == ["best", "start"] and "state.pt.host.12.tmp" not in names(checkpoints.parent)


def test_a_lock_is_taken_though_its_folder_goes_at_any_moment_and_a_file_in_its_place_is_named(tmp_path, monkeypatch):
    lock, mkdir, gone = tmp_path / "x.tmp/.lock", Path.mkdir, [FileExistsError, FileNotFoundError]

    def mkdir_after_another_swept(path, *words, **named):
        if path == lock.parent and gone:
            raise gone.pop()  # it stood there, and then it did not
        mkdir(path, *words, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir_after_another_swept)
    locks.take_lock(lock)
    assert not gone and lock.is_file()
    locks.release_lock(lock)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        locks.take_lock(tmp_path / "file/.lock")


def test_a_folder_that_two_processes_replace_at_once_is_one_of_theirs(tmp_path):
    code = (
        "for turn in range(200):\n"
        "    with files.replace_folder(Path(sys.argv[1])) as folder:\n"
        "        (folder / sys.argv[2]).write_text('')\n"
    )
    processes = [start_python(code, tmp_path / "best", name) for name in "ab"]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert names(tmp_path) == ["best"] and names(tmp_path / "best") in (["a"], ["b"])


def test_a_place_that_is_taken_while_the_old_folder_comes_back_stays_the_other_s(tmp_path, monkeypatch):
    """As where two processes replace one folder, and the second is done between a look and a rename of the first."""
    aside, path = tmp_path / "best.x.tmp", tmp_path / "best"
    (aside / "old0/best").mkdir(parents=True)
    path.mkdir()
    (path / "theirs").write_text("")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    files._take_away(aside)
    assert os.listdir(path) == ["theirs"] and os.listdir(tmp_path) == ["best"]


def test_file_and_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (order.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    files.write_text(tmp_path / "a.txt", "new")
    written, rename, folder = order
    assert written.startswith(f"{tmp_path}/a.txt.") and rename == "rename" and folder == str(tmp_path)


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_weights_have_the_mode_of_the_umask_whatever_wrote_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with files.replace_folder(tmp_path / "best") as folder:
            save_file({"weights": torch.zeros(3)}, folder / "model.safetensors")
            (folder / "more").mkdir()
            save_with_torch(folder / "more/state.pt")
        with files.replacing(tmp_path / "a.safetensors") as aside:
            save_file({"weights": torch.zeros(3)}, aside)
    finally:
        os.umask(before)
    for path in ("best/model.safetensors", "best/more/state.pt", "a.safetensors"):
        assert (tmp_path / path).stat().st_mode & 0o777 == mode


WRITE = (
    "with files.replacing(Path(sys.argv[1])) as aside:\n"
    "    aside.write_text('half')\n"
    "    print(os.getpid(), flush=True)\n"
    "    sys.stdin.readline() or os._exit(9)\n"  # a kill of PID 1 of a container does nothing
)
SPACE = ["unshare", "--map-root-user", "--pid", "--fork"]  # a PID namespace of its own, as in a container


@pytest.mark.parametrize("space", [[], SPACE], ids=["here", "in a container"])
def test_what_killed_processes_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path, space):
    if space and (shutil.which("unshare") is None or subprocess.run([*space, "true"], capture_output=True).returncode):
        pytest.skip("no PID namespace can be made here")
    start_python(WRITE, tmp_path / "a.txt", prefix=space, stdin=subprocess.DEVNULL).wait()
    (left,) = names(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    live = start_python(WRITE, tmp_path / "a.txt", prefix=space, **pipes)
    live.stdout.readline()
    files.write_text(tmp_path / "a.txt", "new")
    assert "a.txt" in names(tmp_path) and left not in names(tmp_path) and len(names(tmp_path)) == 2
    live.communicate("go on\n")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "half"


def test_a_folder_of_the_user_that_looks_like_a_leftover_stays(tmp_path):
    (tmp_path / "a.txt.mine.tmp").mkdir()
    (tmp_path / "a.txt.mine.tmp/notes").write_text("")
    (tmp_path / "a.txt.old").write_text("")
    files.write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt", "a.txt.mine.tmp", "a.txt.old"]


# -- a full disk -------------------------------------------------------------------------------------------------------


def save_with_torch(path):
    with open(path, "wb") as handle:
        torch.save({"weights": torch.zeros(100_000)}, handle)


def weights_of_a_model(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    folder.mkdir()
    (folder / "part").mkdir()
    (folder / "part/weights").write_bytes(bytes(100_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return folder


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(100_000)),
        save_with_torch,
        lambda path: save_file({"weights": torch.zeros(100_000)}, path),
        lambda path: path.mkdir() or files.copy_files(weights_of_a_model(path.parent.parent / "start"), path),
        lambda path: shutil.copytree(weights_of_a_model(path.parent.parent / "start"), path),
    ],
    ids=["text", "torch", "safetensors", "copy", "library's copy"],
)
def test_a_disk_that_takes_no_more_is_named_whoever_was_writing(tmp_path, write):
    path, limits = tmp_path / "state.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error, files.replacing(path) as aside:
            write(aside)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path) and set(names(tmp_path)) <= {"start"}


@pytest.mark.parametrize(
    "action, line",
    [
        (lambda: files.write_text(Path("/proc/x/y"), "a"), "/proc/x: No such file or directory; check the path"),
        (
            lambda: files.write_text(Path("/dev/null/x"), "a"),
            "/dev/null: File exists; a file is where a folder is needed",
        ),
        (lambda: files.write_text(Path("/tmp", "a" * 300), "a"), "File name too long; choose a shorter one"),
        (lambda: Path("/").write_text("a", encoding="utf-8"), "/: Is a directory; a folder is where a file is needed"),
    ],
    ids=["proc", "file", "long", "folder"],
)
def test_what_the_file_system_refuses_is_one_line_with_the_path_and_status_2(capsys, monkeypatch, action, line):
    monkeypatch.setattr(sys, "argv", ["some.py"])
    with pytest.raises(SystemExit) as exit:
        run_script(action)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.startswith("some.py: error: ") and line in said and said.count("\n") == 1


def test_sigterm_ends_any_command_with_143_and_what_to_do(tmp_path):
    code = (
        "from utils.script import run_script\n"
        "def main():\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.05)\n"
        # what a shell starts in the background ignores Ctrl-C, and so do its children
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "run_script(main)\n"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert said == "-c: stopped; rerun the same command to resume\n"


@pytest.mark.parametrize("raised", ["torch.empty(10**15)", "(_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out'))"])
def test_memory_that_torch_is_refused_is_one_line(capsys, raised):
    torch = pytest.importorskip("torch")
    with pytest.raises(SystemExit) as exit:
        run_script(lambda: eval(raised, {"torch": torch}))
    line = capsys.readouterr().err
    assert exit.value.code == 2 and line.count("\n") == 1 and "mini_batch_size" in line
    with pytest.raises(RuntimeError):
        run_script(lambda: torch.zeros(2) @ torch.zeros(3))


def test_a_command_typed_in_a_notebook_does_not_look_for_the_notebook_s_backend():
    code = "from utils.script import run_script; run_script(lambda: print(__import__('matplotlib').get_backend()))"
    variables = os.environ | {"MPLBACKEND": "module://of.another.environment"}
    assert start_python(code, env=variables, stdout=subprocess.PIPE).communicate()[0] == "agg\n"


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()  # or ext4 waits for the disk, as for any file that is cut to nothing and written anew
    path.write_bytes(content)


def test_json_comes_back_and_every_flipped_bit_is_found(tmp_path):
    path, value = tmp_path / "a.json", {"loss": 0.1, "arm": "pwm", "folds": [1, 2], "p": None}
    files.write_json(path, value)
    assert files.read_json(path) == value
    for bit in range(8 * path.stat().st_size):
        flip(path, bit)
        try:
            found = files.read_json(path, "do this")
            assert {key: found[key] for key in value} == value  # white space, or the checksum's own name, say
        except InputError as error:
            assert str(path) in str(error) and "do this" in str(error)
        flip(path, bit)


def test_json_without_a_checksum_opens_and_what_is_no_json_is_named(tmp_path):
    path = tmp_path / "old.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    for text in ("", '{"a": ', "[1]", "\xff", "nul\0"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="old.json .*: .*do this"):
            files.read_json(path, "do this")


@pytest.mark.parametrize(
    "text", ["", "window,label\na,1\n", "window,label,p\na,1\n", 'window,label,p\n"a,1,.5\n', "\0"]
)
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match="p.csv.*do this"):
        files.read_table(tmp_path / "p.csv", ["window", "label", "p"], "do this")


# -- a run folder ------------------------------------------------------------------------------------------------------

STATES = [{"step": step, "weights": torch.arange(100.0) * step} for step in (1, 2)]


def open_run(folder):
    run = RunFolder(folder / "stage", {"name": "x"}, {}, "cpu")
    run.begin()
    return run


def same(state, other):
    return state["step"] == other["step"] and torch.equal(state["weights"], other["weights"])


def test_a_damaged_state_is_never_used_and_the_one_before_is(tmp_path, capsys):
    run = open_run(tmp_path)
    for state in STATES:
        run.save_state(state)
    newest = run.path / "state.pt"
    whole, outcomes = newest.read_bytes(), []
    damages = [lambda bit=bit: flip(newest, bit) for bit in np.random.default_rng(0).integers(8 * len(whole), size=150)]
    damages += [lambda size=size: newest.write_bytes(whole[:size]) for size in (0, 1, 100, len(whole) - 1)]
    for damage in damages:
        damage()
        state = run.load_state()
        assert same(state, STATES[0]) or same(state, STATES[1])
        outcomes.append(state["step"])
        newest.write_bytes(whole)
    assert outcomes.count(1) > 20 and outcomes[-4:] == [1, 1, 1, 1]
    assert "state.pt is damaged (" in capsys.readouterr().out


def test_a_damaged_state_without_one_before_is_refused(tmp_path):
    run = open_run(tmp_path)
    run.save_state(STATES[0])
    (run.path / "state.pt").write_bytes(b"")
    with pytest.raises(InputError, match="state.pt is damaged .* no earlier state.*delete its folder"):
        run.load_state()


def test_a_kill_between_the_renames_of_a_state_leaves_the_one_before(tmp_path):
    run = open_run(tmp_path)
    for state in STATES:
        run.save_state(state)
    (run.path / "state.pt").unlink()
    assert same(run.load_state(), STATES[0])
    run.save_state(STATES[1], keep_previous=False)
    assert not (run.path / PREVIOUS_STATE).exists()


def test_a_damaged_middle_line_of_the_metrics_is_refused_by_number(tmp_path):
    run = open_run(tmp_path)
    for step in (1, 2, 3):
        run.record(step, {"train/loss": 0.5})
    run.close()
    path = run.path / "metrics.jsonl"
    first, _, last = path.read_text().splitlines()
    for damaged in ('{"step": 2', "", "[2]", '{"loss": 1}', "\xff"):
        path.write_text(f"{first}\n{damaged}\n{last}\n", encoding="latin-1")
        with pytest.raises(InputError, match="metrics.jsonl, line 2: damaged"):
            read_metrics(run.path)


def test_a_folder_of_a_later_format_is_refused_and_an_earlier_one_opens(tmp_path):
    run = open_run(tmp_path)
    env = files.read_json(run.path / "env.json")
    assert env["format"] == FORMAT
    files.write_json(run.path / "env.json", env | {"format": FORMAT + 1})
    with pytest.raises(InputError, match="made by a later version"):
        open_run(tmp_path)
    del env["format"]
    (run.path / "env.json").write_text(json.dumps(env))
    open_run(tmp_path)


# -- one process a folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the stage's folder."""
    code = "locks.take_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = start_python(code, tmp_path / "stage/.lock", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_holds_the_folder_and_writes_nothing(tmp_path, holder):
    with pytest.raises(InputError, match=rf"stage is in use by process {holder.pid} on \S+ since 20\d\d-\d\d-\d\dT"):
        open_run(tmp_path)
    assert names(tmp_path / "stage") == [".lock"]


def test_a_lock_dies_with_its_process(tmp_path, holder):
    holder.kill()
    holder.wait()
    open_run(tmp_path)
    assert json.loads((tmp_path / "stage/.lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_gone_when_a_stage_is_done_and_the_folder_cannot_be_begun_again(tmp_path):
    run, late = open_run(tmp_path), RunFolder(tmp_path / "stage", {"name": "x"}, {}, "cpu")
    run.finish({"metrics": {}})
    assert not (run.path / ".lock").exists()
    with pytest.raises(InputError, match="has been finished by another process"):
        late.begin()
    assert not (run.path / ".lock").exists()


def test_many_processes_that_want_one_lock_have_it_one_at_a_time(tmp_path):
    code = (
        "folder, turns = Path(sys.argv[1]), 0\n"
        "while turns < 15:\n"
        "    try:\n"
        "        locks.take_lock(folder / '.lock')\n"
        "    except locks.InputError:\n"
        "        continue\n"
        "    os.mkdir(folder / 'inside')\n"  # fails where another is inside
        "    os.rmdir(folder / 'inside')\n"
        "    locks.release_lock(folder / '.lock')\n"
        "    turns += 1\n"
    )
    processes = [start_python(code, tmp_path) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    assert names(tmp_path) == []


@pytest.mark.parametrize("seen", [True, False])
def test_without_locks_a_holder_that_can_be_seen_to_live_is_respected_and_else_a_warning_names_the_folder(
    tmp_path, monkeypatch, caplog, holder, seen
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    if seen:
        assert f"process {holder.pid} on " in locks.lock_holder(tmp_path / "stage/.lock")
        with pytest.raises(InputError, match=f"stage is in use by process {holder.pid} on "):
            open_run(tmp_path)
        return
    holder.kill()
    holder.wait()
    run = open_run(tmp_path)
    files.write_text(run.path / "a.txt", "new")
    assert [record.message.partition(": this")[0] for record in caplog.records] == [f"warning: {run.path}"]
    assert names(run.path) == [".lock", "a.txt", "config.yaml", "env.json"]


# -- names and numbers -------------------------------------------------------------------------------------------------

BAD = ["", "../../../esc", "a/b", "-a", ".a", "a\nb", "a\0b", "<b>", "a" * 101, "a ", "=a", "${x}"]


@pytest.mark.parametrize("name", BAD)
def test_names_that_are_no_plain_folders_are_refused(name):
    config = Config(name=name)
    assert any(fault.startswith("name (") for fault in find_faults(config))
    config = Config(name="good")
    config.finetune.arms = [f"{name}=models/simcsp-tiny"]
    assert any(fault.startswith("finetune.arms: ") for fault in find_faults(config))


@pytest.mark.parametrize("name", ["demo", "simcsp-lr2e-5", "Über_1.2+b", "a b", "trial0001"])
def test_plain_names_are_taken(name):
    config = Config(name=name)
    config.finetune.arms = [name, f"{name}2=models/simcsp-tiny"]
    assert not [fault for fault in find_faults(config) if "name" in fault]


@pytest.mark.parametrize("text, whole", [("0", True), ("272", True), ("272²", False), ("٣", False), ("-1", False)])
def test_a_number_is_of_ascii_digits(text, whole):
    assert is_whole_number(text) == whole


def test_gz_is_written_in_blocks_that_tabix_seeks_in(tmp_path):
    noise = np.random.default_rng(0).integers(33, 127, (20_000, 20)).astype(np.uint8)  # hardly compressible
    rows = [f"chr1\t{10 * i}\t{10 * i + 1}\t{name.tobytes().decode()}" for i, name in enumerate(noise)]
    for name in ("one.bed.gz", "two.bed.gz"):
        with files.written_aside(tmp_path / name) as handle:
            handle.writelines(f"{row}\n" for row in rows)
    packed = (tmp_path / "one.bed.gz").read_bytes()
    assert packed == (tmp_path / "two.bed.gz").read_bytes()
    assert gzip.decompress(packed).decode().splitlines() == rows
    pysam.tabix_index(str(tmp_path / "one.bed.gz"), preset="bed", force=True)
    with pysam.TabixFile(str(tmp_path / "one.bed.gz")) as table:
        assert list(table.fetch("chr1", 123_450, 123_480)) == rows[12_345:12_348]
    empty = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # SAM specification, 4.1.2
    with files.written_aside(tmp_path / "none.gz"):
        pass
    assert packed.endswith(empty) and (tmp_path / "none.gz").read_bytes() == empty

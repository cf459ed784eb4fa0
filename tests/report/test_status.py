"""The list of runs: what it says of runs that work, that were stopped, and that are done."""

import errno
import fcntl
import json
import os

from conftest import refusal

import evaluate


def stage(folder, steps, rows, done=False, section="pretrain"):
    folder.mkdir(parents=True)
    (folder / "env.json").write_text("{}")
    (folder / "config.yaml").write_text(f"{section}: {{steps: {steps}}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')  # torn
    if done:
        (folder / "summary.json").write_text("{}")


def fold(folder, arm, number, f1=None):
    path = folder / f"finetune/{arm}/both/seed0/fold{number:02d}"
    path.mkdir(parents=True)
    (path / "env.json").write_text("{}")
    if f1 is not None:
        (path / "summary.json").write_text(json.dumps({"metrics": {"test/f1": f1}}))


def test_a_damaged_run_is_a_line_that_says_so_among_the_others(tmp_path, call, capsys, monkeypatch):
    for name in "abcdefg":
        stage(tmp_path / name / "pretrain", 30, [{"step": 30, "train/loss": 1.5}])
    fold(tmp_path / "a", "last", 0, 0.5)
    (tmp_path / "a/pretrain/summary.json").write_text("{}")
    (tmp_path / "a/finetune/last/both/seed0/fold00/summary.json").write_text('{"metrics"')
    (tmp_path / "b/pretrain/config.yaml").write_text("pretrain: [")
    (tmp_path / "c/pretrain/config.yaml").write_text("")
    (tmp_path / "d/pretrain/metrics.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "e/pretrain/metrics.jsonl").write_text("[1, 2]\n")
    read = os.open

    def refuse(path, *more, **others):
        if str(path) == str(tmp_path / "f/pretrain/.lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *more, **others)

    (tmp_path / "f/pretrain/.lock").write_text("")
    monkeypatch.setattr(os, "open", refuse)
    call(evaluate, "status", tmp_path)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list("abcdefg")
    assert ["damaged" in line for line in lines] == [True] * 6 + [False]
    assert "fold00/summary.json" in lines[0] and f"{tmp_path}/f/pretrain/.lock" in lines[5]


def test_every_run_is_a_line_with_stage_progress_life_disk_and_headline(tmp_path, call, capsys):
    rows = [{"step": 0, "val/sccs": 0.25}, {"step": 30, "train/loss": 1.5}, {"step": 30, "val/sccs": 0.125}]
    stage(tmp_path / "a/mlm", 10, [], done=True, section="mlm")
    stage(tmp_path / "a/pretrain", 120, rows)
    stage(tmp_path / "b/pretrain", 30, rows, done=True)
    for number, f1 in enumerate((0.5, 0.75)):
        fold(tmp_path / "b", "last", number, f1)
    fold(tmp_path / "b", "last", 2)
    stage(tmp_path / "c/pretrain/seed1", 30, rows, done=True)
    fold(tmp_path / "d", "pwm", 0, 0.5)
    (tmp_path / "d/report").mkdir()
    (tmp_path / "d/report/report.md").write_text("# d\n\n> **No difference seen.**\n")
    (tmp_path / "not a run").mkdir()
    (tmp_path / "a/pretrain/.lock").write_text(json.dumps({"host": "here", "pid": 7, "since": "noon"}))
    (tmp_path / "b/finetune/last/.lock").write_text("")  # left by a process that was killed
    with open(tmp_path / "a/pretrain/.lock", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        call(evaluate, "status", tmp_path)
    header, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert header.split() == ["run", "stage", "progress", "state", "disk", "headline"] and len(lines) == 4
    assert [row[0] for row in cells] == list("abcd") and all(row[4].endswith(" MB") for row in cells)
    of_a = ["pretrain", "step 30 of 120 (25%)", "running, process 7 on here since noon"]
    assert cells[0][1:4] == of_a and cells[0][5] == "loss 1.5000, SCCS 0.250 -> 0.125"
    assert cells[1][1:4] == ["finetune", "fits done: 2, begun: 1", "stopped, 0 min ago"]
    assert cells[1][5] == "F1 last 0.625 (2)"
    assert cells[2][1:4] == ["pretrain/seed1", "step 30 of 30 (100%)", "done"]
    assert cells[3][3] == "done" and cells[3][5] == "No difference seen."
    call(evaluate, "status", tmp_path / "a")
    assert "stopped, 0 min ago" in capsys.readouterr().out
    assert "contains no run" in refusal(call, capsys, evaluate, "status", tmp_path / "not a run")

"""Whatever is damaged, missing or cannot be written ends a script in one line that names it, with status 2."""

import os

import pytest
from conftest import refusal, tiny_config

import evaluate
import finetune
import pretrain
from simcsp.text.store import open_store

FOLD = "finetune/baseline/both/seed0/fold00"


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def missing(path):
    path.unlink()


def middle_line_torn(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:1], lines[1][:5], *lines[2:]]) + "\n")


# Every file once, every kind of damage once: the readers' own tests cross the two.
OF_REPORT = [
    (f"{FOLD}/predictions.csv", missing),
    (f"{FOLD}/summary.json", emptied),
    (f"{FOLD}/env.json", flipped),
    (f"{FOLD}/config.yaml", halved),
    ("pretrain/metrics.jsonl", middle_line_torn),
    ("overlap.json", flipped),
    ("splits/splits.json", halved),
]
OF_CHECKPOINT = [
    ("model.safetensors", flipped),
    ("head.safetensors", missing),
    ("config.json", emptied),
    ("checksums.json", halved),
]


def named(value):
    return value if isinstance(value, str) else value.__name__


@pytest.mark.parametrize("name, damage", OF_REPORT, ids=named)
def test_a_damaged_file_of_a_run_stops_its_report_and_is_named(own_run, call, capsys, name, damage):
    damage(own_run / name)
    assert str(own_run / name) in refusal(call, capsys, evaluate, "report", own_run)


@pytest.mark.parametrize("name, damage", OF_CHECKPOINT, ids=named)
def test_a_damaged_checkpoint_is_not_used(own_run, call, capsys, name, damage):
    damage(own_run / FOLD / "checkpoints/best" / name)
    line = refusal(call, capsys, evaluate, "classify", own_run / FOLD)
    assert str(own_run / FOLD) in line


@pytest.mark.parametrize("name, damage", [("both.csv", flipped), ("donor.csv", emptied), ("splits.json", halved)])
def test_damaged_splits_are_not_used(own_run, finished, call, capsys, name, damage):
    damage(own_run / "splits" / name)
    line = refusal(call, capsys, finetune, finished.config, "--runs", own_run.parent)
    assert str(own_run / "splits" / name) in line


@pytest.mark.parametrize("suffix, damage", [(".ids", flipped), (".lower", halved), (".json", emptied)])
def test_a_damaged_store_is_not_used_whatever_its_times_say(tiny_data, tmp_path, call, capsys, suffix, damage):
    store = open_store([tiny_data / "genome.fa"], tmp_path / "cache")
    path = store.path.with_suffix(suffix)
    before = path.stat()
    damage(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, tiny_data))
    assert str(store.path.with_suffix("")) in line and "delete " in line
    assert damage is not flipped or "does not match its" in line


def test_a_place_that_cannot_be_written_to_is_named(own_run, call, capsys):
    assert "/dev/null/x" in refusal(call, capsys, evaluate, "report", own_run, "--out", "/dev/null/x")


@pytest.mark.parametrize(
    "flags",
    [
        ("--name", "a" * 300),
        ("--name", "<script>alert(1)<b>"),
        ("--finetune.arms", "[../../../esc=models/simcsp-tiny]"),
    ],
    ids=["long", "html", "dots"],
)
def test_hostile_names_are_refused_before_anything_is_written(finished, tmp_path, call, capsys, flags):
    line = refusal(call, capsys, finetune, finished.config, "--runs", tmp_path / "runs", *flags)
    assert "plain" in line and not (tmp_path / "runs").exists()

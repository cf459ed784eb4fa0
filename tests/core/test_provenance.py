"""Where finished work came from, and whether it is what was written: what was exchanged, mixed or edited is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, refusal

import evaluate
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, sha256_file, write_json
from simcsp.core.provenance import IDENTITY, identity, seal, sealed_files
from simcsp.metrics.pooling import arm_differences
from simcsp.report.collect import benchmark_values, collect_folds, label_runs, merge
from utils.arguments import load_config

FOLD = "finetune/last/both/pretrain{}/seed0/fold{:02d}"
FITS = [FOLD.format(0, 0), FOLD.format(0, 1), FOLD.format(1, 0), "finetune/pwm/both/seed0/fold00"]


@pytest.fixture(params=[True, False], ids=["sealed", "of an earlier version"])
def run(request, tmp_path, monkeypatch):
    """A finished run of an earlier version that a test may damage, with two folds of one model; sealed as today's, or
    not."""
    folder = shutil.copytree(ROOT / "tests/data/run-9dce3ab", tmp_path / "old")
    shutil.copytree(ROOT / "tests/data/run-fbd936b/data", folder / "data")
    monkeypatch.chdir(folder)
    run = Path("runs/tiny")
    shutil.copytree(run / FITS[0], run / FITS[1])
    write_json(run / FITS[1] / "summary.json", read_json(run / FITS[0] / "summary.json") | {"fold": 1})
    if request.param:
        for folder in (*FITS, "pretrain/seed0", "pretrain/seed1"):
            forge(run / folder)
    return run


sealed = pytest.mark.parametrize("run", [True], indirect=True, ids=["sealed"])
unsealed = pytest.mark.parametrize("run", [False], indirect=True, ids=["of an earlier version"])


def forge(folder, changes=None, inputs=None, known=True):
    """Make a fit or stage one that was trained under other settings (of a section) or inputs. known: with an identity
    and a whole seal."""
    config, env = yaml.safe_load((folder / "config.yaml").read_text()), read_json(folder / "env.json")
    for key, value in (changes or {}).items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    env["inputs"] |= inputs or {}
    write_json(folder / "env.json", env | {"config_sha256": sha256_file(folder / "config.yaml")})
    if known:
        summary = read_json(folder / "summary.json") | {IDENTITY: identity(config, env["inputs"])}
        seal(folder, summary, sealed_files(folder))


def is_sealed(run):
    return IDENTITY in read_json(run / FITS[0] / "summary.json")


@pytest.mark.parametrize(
    "changes, inputs, said",
    [
        ({"finetune.lr": 0.5}, {}, "finetune.lr 0.003 and 0.5"),
        ({"precision": "bf16"}, {}, "precision fp32 and bf16"),
        ({}, {"start checkpoint": "0" * 64}, "the content of start checkpoint differs"),
    ],
    ids=["lr", "precision", "checkpoint"],
)
def test_folds_of_one_model_that_were_not_made_alike_are_refused_with_the_difference(
    run, call, capsys, changes, inputs, said
):
    forge(run / FITS[1], changes, inputs, is_sealed(run))
    for command in ("report", "classify"):
        line = refusal(call, capsys, evaluate, command, run)
        assert f"{FITS[0]} and {run / FITS[1]} were not made from the same settings and inputs" in line
        assert said in line


def test_models_of_one_arm_under_other_settings_are_refused_too(run, call, capsys):
    forge(run / FITS[2], {"finetune.lr": 0.5}, {}, is_sealed(run))
    assert f"{run / FITS[2]} were not made" in refusal(call, capsys, evaluate, "report", run)
    forge(run / FITS[2], {"finetune.lr": 0.003}, {}, is_sealed(run))
    forge(run / "pretrain/seed1", {"pretrain.lr": 0.5}, {}, is_sealed(run))
    line = refusal(call, capsys, evaluate, "report", run)
    assert "pretrain/seed1 were not made" in line and "pretrain.lr 0.001 and 0.5" in line


def test_what_differs_between_the_jobs_of_one_experiment_is_no_difference(run):
    changes = {"finetune.folds": [1], "name": "elsewhere", "data.spliceator": "/elsewhere/spliceator", "device": "cuda"}
    forge(run / FITS[1], changes, {}, is_sealed(run))
    collect_folds(run)


def test_arms_of_one_run_that_were_not_made_alike_are_compared_with_a_warning(run):
    assert arm_differences([run / fit for fit in FITS]) == []
    forge(run / FITS[3], {"finetune.lr": 0.5}, {}, is_sealed(run))
    (sentence,) = arm_differences([run / fit for fit in FITS])
    assert "`last` and `pwm`" in sentence and "finetune.lr 0.003 and 0.5" in sentence


@pytest.mark.parametrize(
    "one, other, said",
    [
        ("finetune/last", "finetune/pwm", "is of arm "),
        ("finetune/last/both/pretrain0", "finetune/last/both/pretrain1", "is of pretrain_seed "),
        (FITS[0], FITS[1], "is of fold "),
        ("pretrain/seed0", "pretrain/seed1", "is of pretrain seed "),
    ],
)
def test_folders_that_were_exchanged_are_refused(run, call, capsys, one, other, said):
    for source, target in ((one, "aside"), (other, one), ("aside", other)):
        (run / source).rename(run / target)
    for command in ("report", "classify" if one.startswith("finetune") else "relate"):
        assert f"summary.json {said}" in refusal(call, capsys, evaluate, command, run)


def test_a_start_checkpoint_that_pre_training_has_replaced_is_refused(run, call, capsys):
    best, start = (run / "pretrain/seed0/checkpoints" / name for name in ("last", "start"))
    shutil.rmtree(best)
    shutil.copytree(start, best)
    forge(run / "pretrain/seed0", known=is_sealed(run))
    line = refusal(call, capsys, evaluate, "report", run)
    assert f"{FITS[0]} did not start from {best} as it is now" in line


def changed(path, how):
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    digit = next(i for i in reversed(range(len(content))) if content[i : i + 1] in b"12345678")
    other = content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :]
    path.write_bytes({"digit": other, "torn": content[:-9], "short": b"".join(lines[:-1])}[how])


@sealed
@pytest.mark.parametrize("how", ["digit", "torn", "short"])
@pytest.mark.parametrize("name", ["pretrain/seed0/metrics.jsonl", f"{FITS[1]}/predictions.csv"])
def test_finished_work_that_was_edited_or_cut_is_refused_by_file(run, call, capsys, name, how):
    changed(run / name, how)
    assert f"{run / name} does not match its SHA-256" in refusal(call, capsys, evaluate, "report", run)


@unsealed
def test_a_torn_tail_of_finished_work_of_an_earlier_version_is_refused_too(run, call, capsys):
    path = run / "pretrain/seed0/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changed(path, "torn")
    assert "metrics.jsonl, line " in refusal(call, capsys, evaluate, "report", run)
    last = rows[-1]["step"]
    kept = [row for row in rows if not (row["step"] == last and "val/sccs" in row)]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert f"metrics.jsonl has no validation of step {last}" in refusal(call, capsys, evaluate, "report", run)


@sealed
def test_weights_that_were_exchanged_with_all_that_lies_beside_them_are_refused(run, call, capsys):
    one, other = (run / fit / "checkpoints/best" for fit in (FITS[0], FITS[2]))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    assert "does not match its SHA-256" in refusal(call, capsys, evaluate, "classify", run / FITS[0])


def test_a_benchmark_that_was_edited_or_is_older_than_its_fits_is_refused(run):
    out = run / "benchmark"
    out.mkdir()
    (out / "benchmark.csv").write_text("arm,site,seed,fold,dataset,metric,value\nlast,both,0,0,Fly,test/f1,0.5\n")
    seal(out, {"fits": {FITS[0]: sha256_file(run / FITS[0] / "summary.json")}}, [out / "benchmark.csv"])
    study = merge(label_runs([load_config(["tiny.yaml"])]))
    assert len(benchmark_values(study)) == 1
    changed(out / "benchmark.csv", "digit")
    with pytest.raises(InputError, match="benchmark.csv does not match its SHA-256.*evaluate.py benchmark"):
        benchmark_values(study)
    changed(out / "benchmark.csv", "digit")
    summary = read_json(run / FITS[0] / "summary.json")
    write_json(run / FITS[0] / "summary.json", summary | {"seconds": 1.0})
    with pytest.raises(InputError, match="benchmark.csv was made before .*fold00 was refitted"):
        benchmark_values(study)


@pytest.mark.parametrize("level", ["finetune/last", "finetune/last/both/pretrain0/seed0", "finetune", "pretrain"])
def test_an_arm_that_may_not_be_read_is_not_left_out(run, call, capsys, monkeypatch, level):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == str(run / level):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{run / level}: Permission denied" in refusal(call, capsys, evaluate, "report", run)

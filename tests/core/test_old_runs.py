"""Run folders of earlier versions open here: they report, resume and predict.

Synthetic, each killed in its last fit. tests/data/run-fbd936b: of format 1, one pre-training seed, all labels;
run-9dce3ab: of format 2, two pre-training seeds, all and few labels, the other's data.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, write_fasta

import evaluate
import finetune
import pretrain
from simcsp.core.files import read_json
from simcsp.core.run_folder import FORMAT

DATA = ROOT / "tests/data"
FINISHED = {"run-fbd936b": "baseline/both/seed0/fold00", "run-9dce3ab": "last/both/pretrain1/seed0/fold00"}
KILLED = {
    "run-fbd936b": "baseline/both/seed0/fold01",
    "run-9dce3ab": "last/both/pretrain1/windows12/draw0/seed0/fold00",
}
FITS = {"run-fbd936b": {"pwm": 2, "baseline": 1}, "run-9dce3ab": {"pwm": 1, "last": 2}}  # of all labels, as they are


@pytest.fixture(params=FINISHED)
def old_run(request, tmp_path, monkeypatch):
    """A copy of the folder, made the working directory."""
    folder = shutil.copytree(DATA / request.param, tmp_path / request.param)
    if not (folder / "data").is_dir():
        shutil.copytree(DATA / "run-fbd936b/data", folder / "data")
    monkeypatch.chdir(folder)
    return folder / "runs/tiny"


def test_they_are_of_the_formats_that_they_are_said_to_be_and_small():
    for name, formats in (("run-fbd936b", {None}), ("run-9dce3ab", {2})):
        files = [path for path in (DATA / name).rglob("*") if path.is_file()]
        envs = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.name == "env.json"]
        assert {env.get("format") for env in envs} == formats and FORMAT >= 2
        assert sum(path.stat().st_size for path in files) < 300_000


def test_it_reports_as_it_is(old_run, call):
    call(evaluate, "report", old_run)
    table = pd.read_csv(old_run / "report/summary.csv")
    f1 = table[table["metric"] == "test/f1"].set_index("arm")["n"]
    assert f1.to_dict() == FITS[old_run.parents[1].name]


def test_it_resumes_and_ends_as_it_would_have_ended(old_run, call):
    before = {path: path.stat().st_mtime_ns for path in old_run.rglob("summary.json")}
    call(pretrain, "tiny.yaml")
    call(finetune, "tiny.yaml")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was finished is left alone
    fold = old_run / "finetune" / KILLED[old_run.parents[1].name]
    assert read_json(fold / "summary.json")["epochs"] == 3
    found, expected = (pd.read_csv(path) for path in (fold / "predictions.csv", "expected-predictions.csv"))
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)


def test_its_models_predict_and_are_scored_anew(old_run, call, capsys):
    fold = old_run / "finetune" / FINISHED[old_run.parents[1].name]
    write_fasta(Path("windows.fa"), {f"w{i}": "ACGTTGCA" * 5 for i in range(7)})
    call(evaluate, "predict", fold, "windows.fa", "--fasta_windows", "--out", "windows.tsv")
    assert len(Path("windows.tsv").read_text(encoding="utf-8").splitlines()) == 8
    call(evaluate, "classify", fold)
    difference = capsys.readouterr().out.split("largest difference to the recorded probabilities: ")[1]
    assert (
        float(difference) < 1e-6
    )  # predictions.csv has nine digits, and attention at few tokens is computed otherwise now

"""A run folder of an earlier version (tests/data/run-fbd936b: synthetic, killed in its second fold) opens here."""

import json
import shutil

import pandas as pd
import pytest
from conftest import ROOT

import evaluate
import finetune
import pretrain
from simcsp.core.files import read_json
from simcsp.core.run_folder import FORMAT

FIXTURE = ROOT / "tests/data/run-fbd936b"


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """A copy of the folder, made the working directory."""
    folder = shutil.copytree(FIXTURE, tmp_path / "old")
    monkeypatch.chdir(folder)
    return folder / "runs/tiny"


def test_it_is_of_an_earlier_format_and_small():
    envs = [json.loads(path.read_text()) for path in FIXTURE.rglob("env.json")]
    assert envs and all("format" not in env for env in envs) and FORMAT > 1
    assert sum(path.stat().st_size for path in FIXTURE.rglob("*") if path.is_file()) < 300_000


def test_it_reports_as_it_is(old_run, call, capsys):
    call(evaluate, "report", old_run)
    assert "pwm" in capsys.readouterr().out
    assert (old_run / "report/summary.csv").is_file()


def test_it_resumes_and_ends_as_it_would_have_ended(old_run, call, capsys):
    call(pretrain, "tiny.yaml")
    assert "already done" in capsys.readouterr().out
    call(finetune, "tiny.yaml")
    fold = old_run / "finetune/baseline/both/seed0/fold01"
    assert read_json(fold / "summary.json")["epochs"] == 3
    found, expected = (pd.read_csv(path) for path in (fold / "predictions.csv", "expected-predictions.csv"))
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)


def test_its_models_predict_and_are_scored_anew(old_run, call, capsys):
    fold = old_run / "finetune/baseline/both/seed0/fold00"
    call(evaluate, "predict", fold, "data/genome.fa", "--out", "sites.tsv")
    assert len((old_run.parents[1] / "sites.tsv").read_text().splitlines()) > 100
    call(evaluate, "classify", fold)
    difference = capsys.readouterr().out.split("largest difference to the recorded probabilities: ")[1]
    assert (
        float(difference) < 1e-6
    )  # predictions.csv has nine digits, and attention at few tokens is computed otherwise now

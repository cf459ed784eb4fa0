"""The projected hours of the published experiment: what is counted, and that each part is timed and scaled."""

import json
import sys

import pytest

from benchmarks import hours, run
from benchmarks.run import Bench

TOY = run.Size(run._model(16, 2, 2, 40), 30, 20, 4, 20, 10, 200, 2_000)


@pytest.fixture
def bench(tmp_path):
    return Bench(TOY, 1, 2, tmp_path)


def test_the_counts_are_those_of_the_published_experiment():
    assert hours.VALIDATIONS == 51  # 50 every 250 steps, and the last step
    assert (hours.TRAIN, hours.VAL, hours.TEST) == (30_906, 4_415, 8_830)
    assert hours.TRAIN + hours.VAL + hours.TEST == pytest.approx(hours.LABELLED, abs=1)


def test_seconds_are_scaled_to_the_experiment(bench, monkeypatch):
    """With a clock on which everything takes 1 s: a step of 2 windows, an encoding of 4, a clustering of 200 sites."""
    monkeypatch.setattr(hours, "seconds", lambda work, now: 1.0)
    parts = {part.name.split(" of ")[0]: part for part in hours.measure(bench)}
    assert parts["contrastive step"].seconds == hours.BATCH / 2
    assert parts["SCCS"].seconds == (30_906 + 2 * 512) / 4
    assert parts["NMI"].seconds == 20_000 / 4 + 20_000 / 200
    assert (parts["fine-tuning step"].seconds, parts["fine-tuning step"].count) == (1.0, 3 * 10 * 15 * 1_931)
    assert parts["contrastive step"].hours == 12_656 * 256 / 3600


def test_every_part_runs_and_the_table_adds_up(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hours, "SIZES", {"small": TOY})
    monkeypatch.setattr(Bench, "product_rate", lambda bench, dtype, n: 1e9)
    words = ["--size", "small", "--device", "cpu", "--windows", "4", "--mini_batch_size", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["hours.py", *words, "--json", str(tmp_path / "hours.json")])
    hours.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    parts = json.loads((tmp_path / "hours.json").read_text())["parts"]
    assert len(parts) == 7 and len(rows) == 2 + 7 + 1
    assert all(part["seconds"] > 0 and part["hours"] > 0 for part in parts)
    assert float(rows[-1][3]) == pytest.approx(sum(part["hours"] for part in parts), abs=0.01)

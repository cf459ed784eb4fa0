"""Benchmark scripts at toy size: they run, and rows of the speed table refuse two sides that do unequal work."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import cost, run
from utils.errors import InputError

TOY = run.Size(run._model(16, 2, 2, 40), 30, 20, 4, 200, 2_000)


@pytest.fixture(autouse=True)
def slow_bf16(monkeypatch):
    monkeypatch.setattr(run.Bench, "product_rate", lambda bench, dtype, n: 1e9 if dtype == torch.float32 else 1e8)


@pytest.fixture
def bench(tmp_path):
    return run.Bench(TOY, 1, 2, tmp_path, "cpu")


# -- run.py ------------------------------------------------------------------------------------------------------------

STEPS = ["contrast", "contrast_best", "finetune", "finetune_trainer"]


@pytest.mark.parametrize("name", [*STEPS, "encode", "encode_best"])
def test_both_sides_of_a_row_do_the_same(bench, monkeypatch, name):
    """Every row compares outputs before it times them; here we see that it does, on how many, and that they agree."""
    compared, require = [], run.require_equal
    monkeypatch.setattr(bench, "compare", lambda ours, theirs, now=None: (ours(), [(1.0, 2.0)])[1])
    monkeypatch.setattr(run, "require_equal", lambda what, *sides: compared.append(what) or require(what, *sides))
    rows = list(run.ROWS[name](bench))
    assert compared and rows and all(row.values(1e9)["ratio"] == 2.0 for row in rows)
    if name in STEPS:
        assert {"loss", "gradients"} <= {what.split()[0] for what in compared}


@pytest.mark.parametrize(
    "name, changed",
    [("contrast", "bert.encoder.layer.0.output.dense.bias"), ("encode", "bert.embeddings.LayerNorm.weight")],
)
def test_a_side_with_other_weights_is_refused(bench, monkeypatch, name, changed):
    bench.saved_encoder()  # theirs is as it should be
    masked_lm = bench.masked_lm
    monkeypatch.setattr(bench, "compare", lambda *sides: pytest.fail("timed what is not the same work"))

    def other() -> nn.Module:
        model = masked_lm()
        with torch.no_grad():
            weight = model.get_parameter(changed)
            weight.add_(torch.randn_like(weight))
        return model

    monkeypatch.setattr(bench, "masked_lm", other)
    with pytest.raises(InputError, match="different output"):
        list(run.ROWS[name](bench))


def test_turns_alternate_after_a_warm_up(bench):
    bench.pairs, seen = 3, []
    found = bench.compare(lambda: seen.append("ours"), lambda: seen.append("theirs") or 4.0)
    assert seen == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [theirs for _, theirs in found] == [4.0] * 3


def test_the_table_and_the_json(monkeypatch, tmp_path, capsys):
    def rows(bench):
        yield run.Row("first", "work", "ours", "theirs", [(1.0, 2.0)], 5e8)
        yield run.Row("second", "work", "ours", "theirs", [(1.0, 3.0)], remark="a remark")

    monkeypatch.setattr(run, "ROWS", {"contrast": rows})
    monkeypatch.setattr(sys, "argv", ["run.py", "--size", "small", "--json", str(tmp_path / "table.json")])
    monkeypatch.setattr(run.Bench, "begin_row", lambda bench, command: None)
    run.main()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[4] for row in cells] == ["2.00", "3.00"] and cells[0][8] == "0.50 / 0.25"
    assert [row["ratio"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == [2.0, 3.0]


# -- cost.py -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what, shown", [("memory", "batch 4, 2 at once: peak"), ("hours", "| whole experiment |")])
def test_memory_and_hours_are_told(monkeypatch, capsys, what, shown):
    monkeypatch.setattr(run, "SIZES", {"splicebert": TOY})
    words = [what, "--device", "cpu", "--batch_size", "4", "--mini_batch_size", "2"]
    monkeypatch.setattr(sys, "argv", ["cost.py", *words])
    cost.main()
    assert shown in capsys.readouterr().out


def test_hours_are_scaled_to_the_published_experiment(bench, monkeypatch):
    """With a clock on which everything takes 1 s: a step of 2 windows, an encoding of 4, a clustering of 200 sites."""
    monkeypatch.setattr(run, "seconds", lambda work, now: 1.0)
    parts = {name.split(" of ")[0]: (count, taken) for name, count, taken in cost.hours(bench)}
    assert parts["contrastive step"] == (12_656, 512 / 2)
    assert parts["SCCS"] == (51, (30_906 + 2 * 512) / 4)  # 50 every 250 steps, and the last step
    assert parts["fine-tuning step"] == (3 * 10 * 15 * 1_931, 1.0)


@pytest.mark.slow
def test_growth_is_told(finished, monkeypatch, capsys):
    monkeypatch.setattr(cost, "WINDOWS", (100, 200, 400))
    monkeypatch.setattr(cost, "step_times", lambda steps: (list(np.linspace(1, 2, steps)), [1.0] * steps))
    monkeypatch.setattr(sys, "argv", ["cost.py", "growth", "--steps", "200", "--run", str(finished.run)])
    before = {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")}
    cost.main()
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[1:]] == [
        "SCCS, all pairs",
        "SCCS, published pairs",
        "NMI",
        "report, folds",
    ]
    assert told[0].startswith("a step in the last tenth over the first: 1.784")
    assert {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")} == before

"""The speed table at toy size: both sides give the same output, a side that does not is refused, and the arithmetic."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks import run
from utils.errors import InputError

TOY = run.Size(run._model(16, 2, 2, 40), 30, 20, 4, 20, 10, 200, 2_000)


@pytest.fixture
def slow_bf16(monkeypatch):
    monkeypatch.setattr(run.Bench, "product_rate", lambda bench, dtype, n: 1e9 if dtype == torch.float32 else 1e8)


@pytest.fixture
def fast_bf16(monkeypatch):
    """A machine whose bf16 products are the faster ones, and the way back to this one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(run.Bench, "product_rate", lambda bench, dtype, n: 1e8 if dtype == torch.float32 else 1e9)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def bench(tmp_path, slow_bf16):
    return run.Bench(TOY, 1, 2, tmp_path, "cpu")


@pytest.fixture
def untimed(bench, monkeypatch):
    """Rows without what takes the time: our side runs once."""
    monkeypatch.setattr(bench, "compare", lambda ours, theirs, now=None: (ours(), [(1.0, 2.0)])[1])
    return bench


QUICK = ["contrast", "contrast_best", "finetune", "finetune_trainer", "encode", "encode_best", "sccs_folds", "frozen"]


@pytest.mark.parametrize("name", QUICK)
def test_both_sides_of_a_row_do_the_same(untimed, monkeypatch, name):
    """Every row compares outputs before it times them; here we see that it does, on how many, and that they agree."""
    compared = []
    monkeypatch.setattr(run, "FROZEN_EPOCHS", 1)
    require = run.require_equal
    monkeypatch.setattr(run, "require_equal", lambda what, *sides: compared.append(what) or require(what, *sides))
    rows = list(run.ROWS[name](untimed))
    assert compared and rows
    assert all(row.values(1e9)["ratio"] == 2.0 for row in rows)
    if name.startswith(("contrast", "finetune")):
        assert {"loss", "gradients"} <= {what.split()[0] for what in compared}
        assert [row.name.endswith("_no_attention_dropout") for row in rows] == [False, True]


@pytest.mark.parametrize("name", QUICK)
def test_outputs_are_compared_in_float32_and_timed_in_bf16(fast_bf16, monkeypatch, tmp_path, name):
    monkeypatch.setattr(run, "FROZEN_EPOCHS", 1)
    bench, formats = run.Bench(TOY, 1, 2, tmp_path, "wall"), []
    assert bench.precision == "bf16"
    linear = nn.functional.linear

    def watched(*given):
        formats.append(linear(*given).dtype)
        return linear(*given)

    def compare(ours, theirs, now=None):
        assert set(formats) == {torch.float32}
        formats.clear()
        ours()
        mine = set(formats)
        formats.clear()
        theirs()
        best = name.endswith(("best", "trainer")) or name == "frozen"
        assert torch.bfloat16 in mine and (torch.bfloat16 in formats) == best
        return [(1.0, 2.0)]

    monkeypatch.setattr(nn.functional, "linear", watched)
    monkeypatch.setattr(bench, "compare", compare)
    for row in run.ROWS[name](bench):
        formats[:] = [torch.float32]  # the next of the same row is not compared anew
        assert row.values(1e9)["ratio"] == 2.0


@pytest.mark.parametrize(
    "name, changed",
    [
        ("contrast", "bert.encoder.layer.0.output.dense.bias"),
        ("finetune", "bert.encoder.layer.1.attention.self.value.weight"),
        ("encode", "bert.embeddings.LayerNorm.weight"),
        ("sccs_folds", "bert.encoder.layer.0.intermediate.dense.weight"),
    ],
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

    if name == "finetune":  # copies its weights from one side to the other
        monkeypatch.setattr(
            run, "build_classifiers", lambda *_: (run.Classifier(other().bert, "cls", 0.1), _published(bench))
        )
    else:
        monkeypatch.setattr(bench, "masked_lm", other)
    with pytest.raises(InputError, match="different output"):
        list(run.ROWS[name](bench))


def _published(bench):
    config = run.BertConfig.from_dict(bench.masked_lm().config.to_dict() | {"num_labels": 1})
    config.problem_type = "multi_label_classification"
    return run.BertForSequenceClassification(config)


def test_the_loader_row_reads_the_same_windows(untimed, monkeypatch):
    monkeypatch.setattr(run.DataLoader, "__iter__", lambda self: map(self.collate_fn, _batches(self)))
    monkeypatch.setattr(run, "_loader_share", lambda bench, fasta: "")
    (row,) = run.loader(untimed)
    assert row.name == "loader"
    monkeypatch.setattr(run.TokenizedWindows, "__len__", lambda self: 1)
    with pytest.raises(InputError, match="different windows"):
        list(run.loader(untimed))


def _batches(loader):
    """What its workers would be asked for, in this process."""
    for index in loader.batch_sampler:
        yield [loader.dataset[i] for i in index]


def test_nmi_says_that_it_is_skipped_without_scanpy(bench, monkeypatch, capsys):
    monkeypatch.delenv(run.SCANPY, raising=False)
    assert list(run.nmi_sites(bench)) == []
    assert "skipped" in capsys.readouterr().out


def test_nmi_of_a_broken_interpreter_is_an_error(bench, monkeypatch):
    monkeypatch.setenv(run.SCANPY, "/bin/false")
    with pytest.raises(InputError, match=run.SCANPY):
        list(run.nmi_sites(bench))


def test_turns_alternate_after_a_warm_up(bench):
    bench.pairs, seen = 3, []
    found = bench.compare(lambda: seen.append("ours"), lambda: seen.append("theirs") or 4.0)
    assert seen == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [theirs for _, theirs in found] == [4.0] * 3


def test_a_gpu_is_not_timed_by_the_processor(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="--clock wall"):
        run.Bench(TOY, 1, 2, tmp_path, "cpu", device="auto")


def test_a_row_says_windows_a_second_and_what_it_took_of_a_gpu():
    row = run.Row("name", "work", "ours", "theirs", [(0.5, 2.0)], windows=8).values(1.0) | {"peak_gib": [1.5, 3.0]}
    machine = {"torch": "", "transformers": "", "device": "a GPU", "threads": 1, "clock": "wall", "precision": "bf16"}
    text = run.table({"machine": machine | {"ceiling_gflops": 1.0, "bf16_share": 4.0}, "rows": [row]})
    assert "| 16 windows/s, peak 1.50 / 3.00 GiB |" in text and "a GPU" in text


def test_ratio_spread_and_share_of_the_ceiling():
    row = run.Row("name", "work", "ours", "theirs", [(1.0, 2.0), (2.0, 3.0), (1.0, 4.0)], operations=30.0)
    values = row.values(ceiling=100.0)
    assert (values["ratio"], values["low"], values["high"]) == (2.0, 1.5, 4.0)
    assert values["share_ours"] == pytest.approx(0.3) and values["share_theirs"] == pytest.approx(0.1)
    assert "share_ours" not in run.Row("name", "work", "ours", "theirs", [(1.0, 2.0)]).values(1.0)


def test_operations_of_splicebert(bench):
    """6 x parameters of the linear layers + 12 x layers x length x hidden for a token of a training step."""
    bench.size = run.SIZES["splicebert"]
    with torch.device("meta"):
        blocks = run.load_backbone(bench.size.model)[0].bert.encoder
    linear = sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Linear))
    assert bench.operations(1, 512) == 6 * linear + 12 * 6 * 512 * 512
    assert bench.operations(10, 512, passes=1) == pytest.approx(10 * bench.operations(1, 512) / 3)


def test_dropout_is_set_where_it_is_meant(bench):
    bert = bench.masked_lm().bert
    run.set_dropout(bert, 0.2, 0.3)
    rates = {name: module.p for name, module in bert.named_modules() if isinstance(module, nn.Dropout)}
    attention = [rate for name, rate in rates.items() if "attention.self" in name]
    assert attention == [0.3, 0.3] and sorted(rates.values()) == [0.2] * (len(rates) - 2) + [0.3, 0.3]


@pytest.mark.parametrize("theirs", [[1.0, 2.01], [1.0], [1.0, np.nan]])
def test_unequal_output_is_refused(theirs):
    run.require_equal("x", [1.0, 2.0], [1.0, 2.0001])
    with pytest.raises(InputError):
        run.require_equal("x", [1.0, 2.0], theirs)


def test_the_table_and_the_json(slow_bf16, monkeypatch, tmp_path, capsys):
    def rows(bench):
        yield run.Row("first", "work", "ours", "theirs", [(1.0, 2.0)], 5e8)
        yield run.Row("second", "work", "ours", "theirs", [(1.0, 3.0)], remark="a remark")

    monkeypatch.setattr(run, "ROWS", {"contrast": rows})
    monkeypatch.setattr(sys, "argv", ["run.py", "--size", "small", "--json", str(tmp_path / "table.json")])
    monkeypatch.setattr(run.Bench, "begin_row", lambda bench, command: None)
    run.main()
    out = capsys.readouterr().out
    assert "bf16 runs at 0.100 of fp32's rate here and is not used" in out
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in out.splitlines() if row.startswith("|")]
    assert len({len(row) for row in cells}) == 1 and cells[2][4] == "2.00" and cells[2][8] == "0.50 / 0.25"
    values = json.loads((tmp_path / "table.json").read_text())
    assert [row["ratio"] for row in values["rows"]] == [2.0, 3.0]
    assert values["machine"]["ceiling_gflops"] == 1.0

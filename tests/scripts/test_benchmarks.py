"""Benchmark scripts at toy size: they run, and rows of the speed table refuse two sides that do unequal work."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import ROOT

from benchmarks import cost, gpu, run
from benchmarks.bench import Bench, Size, model_of
from simcsp.core.errors import InputError

TOY = Size(model_of(16, 2, 2, 40), 30, 20, 4, 200)


@pytest.fixture(autouse=True)
def toy_size(monkeypatch):
    for script in (run, cost, gpu):
        monkeypatch.setattr(script, "SIZES", {"splicebert": TOY})
    AcceleratorState._reset_state(reset_partial_state=True)  # of another test's precision
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_table(monkeypatch, capsys):
    """Every row compares outputs before it times them."""
    compared, require = [], run.require_equal
    monkeypatch.setattr(run, "require_equal", lambda what, *sides: compared.append(what) or require(what, *sides))
    monkeypatch.setattr(Bench, "begin_row", lambda bench, command: None)  # both sides in this process
    words = ["--device", "cpu", "--pairs", "1", "--windows", "2", "--only", "contrast", "finetune", "encode"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    run.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    variants = [name + variant for name in ("contrast", "finetune") for variant in ("", "_no_attention_dropout")]
    assert [row[0] for row in rows[2:]] == [f"| {name}" for name in (*variants, "encode")]
    assert all(float(row[4]) > 0 for row in rows[2:])
    assert [what.split()[0] for what in compared] == ["loss", "gradients", "logits", "loss", "gradients", "vectors"]


def test_a_side_with_other_weights_is_refused(monkeypatch, tmp_path):
    bench = Bench(TOY, 1, 2, tmp_path)
    bench.saved_encoder()  # theirs is as it should be
    other = bench.masked_lm()
    torch.nn.init.normal_(other.get_parameter("bert.embeddings.LayerNorm.weight"))
    monkeypatch.setattr(bench, "masked_lm", lambda: other)
    monkeypatch.setattr(bench, "compare", lambda *sides: pytest.fail("timed what is not the same work"))
    for row in (run.contrast, run.encode):
        with pytest.raises(InputError, match="different output"):
            list(row(bench))


@pytest.mark.parametrize("what, shown", [("memory", "batch 4, 2 at once: peak"), ("hours", "| whole experiment |")])
def test_memory_and_hours_are_told(monkeypatch, capsys, what, shown):
    words = [what, "--device", "cpu", "--batch_size", "4", "--mini_batch_size", "2"]
    monkeypatch.setattr(sys, "argv", ["cost.py", *words])
    cost.main()
    assert shown in capsys.readouterr().out


def test_what_measures_a_gpu_measures_a_cpu(monkeypatch, tmp_path):
    words = ["--device", "cpu", "--out", str(tmp_path / "gpu.json"), "--parts", "rates"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    for name in ("contrast", "control", "finetuning", "scan"):
        assert found["rates"][name]["mfu"] > 0  # of a rate measured beside whatever else runs: no upper bound
    assert found["rates"]["contrast"]["estimated_gb"] > 0 and found["rates"]["control"]["estimated_gb"] > 0
    assert found["rates"]["finetuning"]["step_ms"] > 0 and found["rates"]["scan"]["bases_per_s"] > 1000


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_the_three_scripts(tmp_path):
    words = ["--device", "cpu", "--size", "small", "--parts", "smoke", "--out", tmp_path / "gpu.json"]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    command = ["bash", ROOT / "benchmarks/gpu.sh", *words]
    subprocess.run([*map(str, command)], check=True, timeout=600, env=os.environ | {"PATH": path})
    smoke = json.loads((tmp_path / "gpu.json").read_text())["smoke"]
    assert {"pretrain.py", "finetune.py", "evaluate.py"} < smoke.keys() and "failed" not in smoke

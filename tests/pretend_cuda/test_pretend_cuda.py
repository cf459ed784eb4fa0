"""The scripts on a GPU that is not there: they ask for nothing that CUDA refuses, and seldom wait for the device."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import motif_settings, tiny_config, write_species
from torch.utils.cpp_extension import include_paths

from simcsp.training.projection import KERNELS

FOLDER = Path(__file__).parent
STEPS = 20


@pytest.fixture(scope="session")
def guard(tmp_path_factory) -> Path:
    """guard.cpp as a shared library, for LD_PRELOAD; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("pretend_cuda") / "guard.so"
    own = Path(torch.__file__).parent / "lib"
    includes = [f"-I{folder}" for folder in (*include_paths(), sysconfig.get_path("include"))]
    words = ["-std=c++20", "-fPIC", "-shared", *includes, FOLDER / "guard.cpp", "-o", library]
    words += [f"-L{own}", f"-Wl,-rpath,{own}", "-lc10", "-ltorch_cpu"]
    subprocess.run([compiler, *map(str, words)], check=True, timeout=300)
    return library


def run(guard, script, *words):
    """Run a script of this folder under the guard; what it printed."""
    command = [sys.executable, FOLDER / script, *words]
    guarded = os.environ | {"LD_PRELOAD": str(guard)}
    done = subprocess.run([*map(str, command)], env=guarded, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def emulate(guard, tmp_path, precision, script, *words):
    """What emulation.py counted in one of the scripts."""
    out = tmp_path / f"{script}.json"
    run(guard, "emulation.py", out, precision, script, *words)
    counts = json.loads(out.read_text())
    print(script, precision, {name: counts[name] for name in ("kernels", "waits")})
    assert counts["refused"] == {}
    assert counts["operations"]["aten.addmm.default"] > 50  # it did work on the device
    return counts


def waits(counts, *files):
    return sum(count for line, count in counts["waits"].items() if line.startswith(files))


@pytest.mark.slow
@pytest.mark.parametrize("precision, objective", [("bf16", "supcon"), ("fp16", "simcse")])
def test_the_scripts_ask_for_nothing_that_cuda_refuses_and_seldom_wait(
    guard, tiny_data, tmp_path, precision, objective
):
    write_species(tmp_path, "genes", 1)
    changes = motif_settings(tiny_data) | {"mlm.steps": 0, "pretrain.control": True, "pretrain.objective": objective}
    changes |= {"data.corpus": "annotated", "data.annotation": [str(tmp_path / "genes.gtf")], "data.records": None}
    changes |= {"data.fasta": [str(tmp_path / "genes.fa")], "data.decoys": 1}
    changes |= {"pretrain.steps": STEPS, "pretrain.eval_steps": STEPS, "pretrain.logging_steps": STEPS}
    changes |= {"finetune.arms": ["fresh", "last", "cnn"], "finetune.folds": [0], "finetune.max_epochs": 1}
    config = tiny_config(tmp_path, tiny_data, changes)
    counts = emulate(guard, tmp_path, precision, "pretrain", config)
    in_steps = waits(counts, "simcsp/training/pretraining.py", "simcsp/training/step.py", "simcsp/training/obj")
    of_scaler = waits(counts, "simcsp/training/optimizer.py")
    stages = 2
    assert in_steps <= stages * STEPS // 10  # at logged rows, validations and the end
    # its scale, from which a skipped step is told; and in a saved state
    assert of_scaler <= (stages * (STEPS + 2) if precision == "fp16" else 0)
    emulate(guard, tmp_path, precision, "finetune", config)
    emulate(guard, tmp_path, precision, "evaluate", "sccs", tmp_path / "runs/tiny/pretrain/checkpoints/last", config)


@pytest.mark.slow
def test_neighbours_found_on_the_device_are_those_found_on_a_cpu(guard):
    run(guard, "neighbours.py")


@pytest.mark.slow
def test_memory_and_traffic_are_estimated_within_15_percent_of_what_is_counted(guard):
    lines = [json.loads(line) for line in run(guard, "memory.py").splitlines()]
    assert len(lines) == 9
    for line in lines:
        print(line)
        assert line["estimated"] == pytest.approx(line["counted"], rel=0.15), line["case"]
        if "mini_batch_size" not in line["case"][-1]:
            assert line["moved_estimated"] == pytest.approx(line["moved"], rel=0.15), line["case"]
    assert line["kernels"] == pytest.approx(6 * KERNELS, rel=0.05)

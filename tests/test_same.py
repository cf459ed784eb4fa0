"""Same in, same out: a small run against its recorded numbers, workers, threads; and a long run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_same_run, metrics_without_clock, tiny_config

from simcsp.core.files import read_json

GOLDEN = ROOT / "tests/data/golden.json"


def numbers_of(run):
    """Losses and SCCS of the stages, and the mean scores of the arms, of a finished tiny run."""
    found = {}
    for stage in ("mlm", "pretrain"):
        for row in metrics_without_clock(run / stage):
            kept = {"train/loss", "train/grad_norm", "val/sccs", "val/uniformity"} & row.keys()
            found |= {f"{stage} {row['step']} {key}": round(row[key], 6) for key in sorted(kept)}
    table = pd.read_csv(run / "report/summary.csv")
    for arm, metric, mean in zip(table["arm"], table["metric"], table["mean"]):
        if metric in ("test/auc", "test/ap", "test/f1"):
            found[f"{arm} {metric}"] = round(mean, 6)
    return found


def require_golden(found, path, least):
    """Refuse numbers that differ from those recorded; WRITE_GOLDEN=1 records them anew."""
    if "WRITE_GOLDEN" in os.environ:
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    assert found.keys() == expected.keys() and len(found) > least
    tolerance = {key: 0.01 if " test/" in key else 1e-3 * max(1, abs(value)) for key, value in expected.items()}
    moved = {key: (value, found[key]) for key, value in expected.items() if abs(found[key] - value) > tolerance[key]}
    assert not moved, f"recorded, found: {moved}"


def test_a_small_run_has_the_numbers_that_it_always_had(finished):
    """Another machine or version of torch rounds otherwise: a thousandth of a loss, a hundredth of a score of 80 test
    windows. Where numbers move for a reason that the commit says, WRITE_GOLDEN=1 records them anew."""
    require_golden(numbers_of(finished.run), GOLDEN, 25)


# -- slow --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_begins_with_the_numbers_that_it_always_had(tmp_path):
    """Its data and the first hundred steps of its contrast, in float32, which machines do not differ in by much."""
    data = tmp_path / "demo"
    subprocess.run([sys.executable, ROOT / "data/demo.py", "--out", data], check=True, timeout=300)
    values = {
        "runs": tmp_path / "runs",
        "precision": "fp32",
        "data.fasta": f"[{data}/genome.fa]",
        "data.annotation": f"[{data}/genes.gtf]",
        "data.spliceator": data / "spliceator",
        "data.motif_bed": data / "motifs.bed.gz",
        "data.motif_fasta": data / "genome.fa",
        "data.cache": tmp_path / "cache",
        "pretrain.steps": 100,
        "pretrain.control": "false",
    }
    words = [str(word) for key, value in values.items() for word in (f"--{key}", value)]
    subprocess.run([sys.executable, ROOT / "pretrain.py", ROOT / "configs/demo.yaml", *words], check=True, timeout=600)
    found = {}
    for row in metrics_without_clock(tmp_path / "runs/demo/pretrain"):
        kept = {"train/loss", "val/sccs", "val/nmi"} & row.keys()
        found |= {f"{row['step']} {key}": round(row[key], 6) for key in sorted(kept)}
    require_golden(found, GOLDEN.with_name("golden-demo.json"), 10)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_folds_are_the_same_bytes_however_many_workers_share_them(finished, tmp_path, workers):
    run = shutil.copytree(finished.run, tmp_path / "runs/tiny")
    shutil.rmtree(run / "finetune")
    words = ["--runs", tmp_path / "runs", "--workers", workers]
    one_core = {os.sched_getaffinity(0).pop()}  # so that each has one thread, as the run that it is compared with
    command = [sys.executable, ROOT / "finetune.py", finished.config, *words]
    subprocess.run([*map(str, command)], check=True, preexec_fn=lambda: os.sched_setaffinity(0, one_core), timeout=600)
    folds = sorted(path.parent.relative_to(run) for path in run.glob("finetune/*/*/*/*/summary.json"))
    assert len(folds) == 5 * 4
    for fold in folds:
        if (run / fold / "checkpoints").is_dir() and "pwm" not in str(fold) and "kmer" not in str(fold):
            assert_same_run(run / fold, finished.run / fold)
        name = fold / "predictions.csv"
        assert (run / name).read_bytes() == (finished.run / name).read_bytes()


@pytest.mark.slow
def test_threads_change_rounding_and_nothing_else(tiny_data, tmp_path, capsys):
    """Sums are split among threads. Sizes at which torch does split them; 40 steps, then a fold."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "max_position_embeddings": 128}
    changes = {f"model.{name}": value for name, value in sizes.items()} | {"data.window": 120, "data.context": 100}
    changes |= {"mlm.steps": 0, "pretrain.steps": 40, "pretrain.batch_size": 32, "pretrain.lr": 1e-4}
    changes |= {"finetune.arms": ["last"], "finetune.folds": [0], "finetune.batch_size": 32, "workers": 1}
    found = {}
    for threads in (1, 1, 2):
        folder = tmp_path / f"{threads}-{len(found)}"
        config = tiny_config(folder, tiny_data, changes)
        for script in ("pretrain.py", "finetune.py"):
            words = [sys.executable, str(ROOT / script), str(config)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run(words, check=True, cwd=folder, env=environment, capture_output=True, timeout=600)
        run = folder / "runs/tiny"
        rows = metrics_without_clock(run / "pretrain")
        fold = run / "finetune/last/both/seed0/fold00"
        found[folder] = {
            "loss": np.array([row["train/loss"] for row in rows if "train/loss" in row]),
            "SCCS": np.array([row["val/sccs"] for row in rows if "val/sccs" in row]),
            "probability": pd.read_csv(fold / "predictions.csv")["probability"].to_numpy(),
        }
    one, again, two = found.values()
    assert all((one[key] == again[key]).all() for key in one)
    largest = {key: float(np.abs(one[key] - two[key]).max()) for key in one}
    with capsys.disabled():
        print(f"\nOMP_NUM_THREADS 1 against 2, largest differences: {largest}")
    assert largest["loss"] < 1e-3 and largest["SCCS"] < 1e-3 and largest["probability"] < 1e-2


@pytest.mark.slow
def test_five_thousand_steps_take_no_more_memory_than_five_hundred(tiny_data, tmp_path, capsys):
    """A toy in a process of its own, looked at each quarter second; events and logs grow with the steps alone."""
    changes = {"mlm.steps": 0, "pretrain.steps": 5000, "pretrain.eval_steps": 250, "pretrain.save_total_limit": 3}
    config = tiny_config(tmp_path, tiny_data, changes | {"pretrain.logging_steps": 10, "model.num_hidden_layers": 1})
    stage = tmp_path / "runs/tiny/pretrain"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, str(ROOT / "pretrain.py"), str(config)], **silent)
    rows = []
    while process.poll() is None:
        time.sleep(0.25)
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            handles = len(os.listdir(f"/proc/{process.pid}/fd"))
            step = json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        except (OSError, IndexError, ValueError):
            continue
        sizes = [sum(path.stat().st_size for path in stage.glob(kind)) for kind in ("events.*", "metrics.jsonl")]
        if resident := re.search(r"VmRSS:\s+(\d+)", status):  # a process that has just ended has none
            rows.append((step, int(resident[1]) / 1024, handles, *sizes))
    assert process.returncode == 0
    table = pd.DataFrame(rows, columns=["step", "rss", "handles", "events", "metrics"])
    table = table[table["step"] < 4990]  # the end loads and closes what a run does not have open
    early, late = (table[table["step"].between(*span)] for span in ((750, 1500), (4000, 4990)))
    growth = late["rss"].median() / early["rss"].median() - 1
    ends = [part.iloc[-1] for part in (early, late)]
    per_step = {kind: [end[kind] / end["step"] for end in ends] for kind in ("events", "metrics")}
    handles = [part["handles"].median() for part in (early, late)]
    with capsys.disabled():
        print(f"\n5,000 steps: {early['rss'].median():.0f} MiB and {growth:+.2%}, handles {handles}")
        print(f"bytes a step (events, metrics) at 1,500 and 5,000: {per_step}")
    assert growth < 0.02 and handles[1] <= handles[0]
    assert all(after < 1.1 * before for before, after in per_step.values())
    kept = {path.name for path in (stage / "checkpoints").iterdir()}
    best = {"best_sccs", "start", "last"}
    assert best <= kept and sorted(kept - best) == ["step-004500", "step-004750", "step-005000"]
    scores = {row["step"]: row["val/sccs"] for row in metrics_without_clock(stage) if "val/sccs" in row and row["step"]}
    assert read_json(stage / "summary.json")["best"]["sccs"]["step"] == max(scores, key=scores.get)

"""The scripts as a user runs them: what a finished experiment holds, and what they refuse."""

import csv
import gzip
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import (
    FOLDS,
    NEGATIVE,
    PER_CLASS,
    POSITIVE,
    ROOT,
    metrics_without_clock,
    motif_settings,
    no_summary,
    refusal,
    start_script,
    tiny_config,
    weights,
)
from safetensors.torch import load_file
from sklearn.metrics import f1_score, roc_auc_score
from transformers import BertConfig, BertForMaskedLM

import finetune
import pretrain
from simcsp.core.config import ModelConfig
from simcsp.core.files import read_json, write_json
from simcsp.metrics.scores import best_threshold, classification_scores
from simcsp.model.checkpoint import load_backbone
from utils.arguments import load_config

ARMS = ["pwm", "kmer", "fresh", "baseline", "best_sccs"]
FOLD_METRICS = {f"test/{key}" for key in ("f1", "auc", "ap", "accuracy", "mcc", "f1_tuned", "threshold")}
FOLD_METRICS |= {f"test/{rate}{part}" for rate in ("tpr", "fpr") for part in ("", "_distinct")} | {"test/f1_distinct"}
FOLD_METRICS |= {"val/auc", "val/f1", "val/ap"}


def folds_of(run, arm):
    return sorted((run / f"finetune/{arm}/both/seed0").iterdir())


def predictions(folder):
    return pd.read_csv(folder / "predictions.csv")


# -- a finished experiment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, steps, logged", [("mlm", 4, [2, 4]), ("pretrain", 8, [2, 4, 6, 8])])
def test_a_pretraining_leaves_all_that_the_design_promises(finished, stage, steps, logged):
    folder = finished.run / stage
    assert {path.name.split(".tfevents")[0] for path in folder.iterdir()} == {
        *("config.yaml", "env.json", "train.log", "metrics.jsonl", "events.out", "checkpoints", "summary.json"),
    }
    validated = sorted({0, *range(3, steps, 3), steps})
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"start", "last", "best_sccs", *(f"step-{step:06d}" for step in validated[1:])}
    rows = metrics_without_clock(folder)
    assert [row["step"] for row in rows if "train/loss" in row] == logged
    assert [row["step"] for row in rows if "val/sccs" in row] == validated
    assert {"floor/sccs_one_hot_10", "floor/sccs_gc", "floor/sccs_fresh"} <= set(rows[0])
    assert all(math.isfinite(value) for row in rows for value in row.values())
    summary = read_json(folder / "summary.json")
    best = max((row["val/sccs"], -row["step"]) for row in rows if "val/sccs" in row and row["step"])
    assert summary["steps"] == steps
    chosen = summary["best"]["sccs"]
    assert (chosen["value"], chosen["step"]) == (best[0], -best[1])
    assert chosen["low"] < chosen["value"] < chosen["high"]
    of_best = weights(folder)[f"checkpoints/step-{-best[1]:06d}/model.safetensors"]
    assert weights(folder)["checkpoints/best_sccs/model.safetensors"] == of_best


def test_the_contrastive_stage_starts_where_the_mlm_stage_ended(finished):
    first, last = (finished.run / path for path in ("pretrain/checkpoints/start", "mlm/checkpoints/last"))
    assert (first / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    start, end = (load_file(finished.run / f"mlm/checkpoints/{name}/model.safetensors") for name in ("start", "last"))
    assert any(not torch.equal(start[key], end[key]) for key in start)


def test_checkpoints_record_the_pooling_and_everybody_gets_it(finished):
    for checkpoint in [*finished.run.glob("*/checkpoints/*"), *finished.run.glob("finetune/*/*/*/*/checkpoints/best")]:
        assert load_backbone(ModelConfig(source=str(checkpoint)))[1] == "mean"


def test_env_tells_command_versions_and_inputs(finished):
    env = read_json(finished.run / "pretrain/env.json")
    assert [Path(env["argv"][0]).name, env["argv"][1]] == ["pretrain.py", str(finished.config)]
    assert env["threads"] == 1 and env["device"] == "cpu"
    assert set(env["git"]) == {"sha", "dirty"}
    assert env["versions"]["torch"] == torch.__version__.split("+")[0] or env["versions"]["torch"] == torch.__version__
    assert {"text", "spliceator", "start checkpoint"} <= set(env["inputs"])
    assert all(len(value) == 64 for value in env["inputs"].values())


def test_the_saved_config_of_a_stage_can_be_passed_back(finished):
    config = load_config([str(finished.config)])
    saved = load_config([str(finished.run / "pretrain/config.yaml")])
    assert saved.pretrain == config.pretrain and saved.data == config.data and saved.name == "tiny"
    assert saved.mlm.steps == 0 and saved.model.source == str(finished.run / "mlm/checkpoints/last")
    fold = load_config([str(folds_of(finished.run, "baseline")[1] / "config.yaml")])
    assert fold.finetune.arms == ["baseline"] and fold.finetune.folds == [1] and fold.finetune.sites == ["both"]
    assert fold.finetune.lr == config.finetune.lr


def test_every_arm_has_every_fold_with_every_number(finished):
    for arm in ARMS:
        folders = folds_of(finished.run, arm)
        assert [folder.name for folder in folders] == [f"fold{k:02d}" for k in range(FOLDS)]
        for k, folder in enumerate(folders):
            summary = read_json(folder / "summary.json")
            assert (summary["arm"], summary["site"], summary["seed"], summary["fold"]) == (arm, "both", 0, k)
            more = set() if arm in ("pwm", "kmer") else {"before/sccs", "after/sccs"}
            assert set(summary["metrics"]) == FOLD_METRICS | more
            assert all(math.isfinite(value) for value in summary["metrics"].values())
            assert not (folder / "state.pt").exists()


def test_scores_are_those_of_the_predictions(finished):
    for folder in folds_of(finished.run, "baseline"):
        table, metrics = predictions(folder), read_json(folder / "summary.json")["metrics"]
        again = classification_scores(table["label"].to_numpy(), table["probability"].to_numpy())
        assert {key: metrics[f"test/{key}"] for key in again} == pytest.approx(again, abs=1e-6)
        validation = pd.read_csv(folder / "validation.csv")
        threshold = best_threshold(validation["label"].to_numpy(), validation["probability"].to_numpy())
        assert metrics["test/threshold"] == pytest.approx(threshold, abs=1e-6)
        called = (table["probability"] > threshold).to_numpy()
        assert metrics["test/f1_tuned"] == pytest.approx(f1_score(table["label"], called))
        of_validation = roc_auc_score(validation["label"], validation["probability"])
        assert metrics["val/auc"] == pytest.approx(of_validation, abs=1e-6)  # of the epoch that was chosen


def test_all_arms_are_tested_on_the_windows_of_the_saved_splits(finished):
    with open(finished.run / "splits/both.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for k in range(FOLDS):
        expected = [(row["window"], int(row["label"])) for row in rows if row[f"fold{k:02d}"] == "test"]
        for arm in ARMS:
            table = predictions(folds_of(finished.run, arm)[k])
            assert list(zip(table["window"], table["label"])) == expected
    selection = {row["window"] for row in rows if row["fold00"] == "selection"}
    assert len(selection) == pytest.approx(0.1 * 4 * PER_CLASS, rel=0.3)


def test_before_fine_tuning_baseline_and_fresh_differ_and_folds_of_an_arm_share_the_encoder(finished):
    before = {
        arm: [read_json(f / "summary.json")["metrics"]["before/sccs"] for f in folds_of(finished.run, arm)]
        for arm in ARMS[2:]
    }
    assert len({tuple(values) for values in before.values()}) == 3


def test_the_comparison_table_has_every_arm_in_every_fold_and_what_was_before_fine_tuning(finished):
    table = pd.read_csv(finished.run / "report/summary.csv")
    folds = table[(table["dataset"] == "spliceator") & (table["metric"] == "test/auc")].set_index("arm")
    assert list(folds.index) == ARMS and (folds["n"] == FOLDS).all()
    for arm in ARMS:
        aucs = [read_json(folder / "summary.json")["metrics"]["test/auc"] for folder in folds_of(finished.run, arm)]
        assert folds.loc[arm, "mean"] == pytest.approx(np.mean(aucs), rel=1e-5)
    of_encoders = table.loc[table["metric"] == "val/sccs", "arm"]
    assert set(of_encoders) == {"baseline", "last", "best_sccs", "one_hot_10", "gc", "fresh"}


def test_scripts_end_by_saying_where_the_run_lives_and_its_numbers(finished):
    assert finished.pretrain.stderr == ""
    assert all(line.startswith("report: figure ") for line in finished.finetune.stderr.splitlines())
    assert str(finished.run / "pretrain") in finished.pretrain.stdout.splitlines()[-1]
    assert "SCCS" in finished.pretrain.stdout.splitlines()[-1]
    assert str(finished.run / "report/summary.csv") in finished.finetune.stdout.splitlines()[-1]


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished experiment that a test may go on with: (config, run folder)."""
    shutil.copytree(finished.run.parent, tmp_path / "again/runs")
    values = yaml.safe_load(finished.config.read_text())
    # the saved stages name the start checkpoint by its path, so the runs stay where they were; only the copy is touched
    values["runs"] = str(tmp_path / "again/runs")
    path = tmp_path / "again/tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, tmp_path / "again/runs/tiny"


def test_starting_a_finished_experiment_again_does_nothing(copy, call, capsys, no_report):
    config, run = copy
    names = ("summary.json", "metrics.jsonl", "model.safetensors", "predictions.csv", "splits.json")
    before = {path: path.stat().st_mtime_ns for name in names for path in run.rglob(name)}
    call(pretrain, config, "--pretrain.steps", "0")
    assert "already done" in capsys.readouterr().out
    call(finetune, config)
    assert {path: path.stat().st_mtime_ns for name in names for path in run.rglob(name)} == before


def test_starting_again_with_another_config_is_refused_with_the_difference(copy, call, capsys):
    config, run = copy
    line = refusal(call, capsys, pretrain, config, "--mlm.lr", "0.5")
    assert "runs/tiny/mlm was started with other settings" in line and "mlm.lr was 0.001, now 0.5" in line
    line = refusal(call, capsys, finetune, config, "--finetune.lr", "0.5", "--finetune.arms", "[kmer]")
    assert "finetune/kmer/both/seed0/fold00" in line and "finetune.lr was 0.003, now 0.5" in line
    line = refusal(call, capsys, finetune, config, "--data.split_seed", "1")
    assert "splits.json" in line and "split_seed was 2020, now 1" in line


def test_an_arm_may_be_any_checkpoint(copy, finished, call, no_report):
    config, run = copy
    checkpoint = finished.run / "pretrain/checkpoints/start"
    call(finetune, config, "--finetune.arms", f"[mine={checkpoint}]", "--finetune.folds", "[0]")
    mine, baseline = (run / f"finetune/{arm}/both/seed0/fold00" for arm in ("mine", "baseline"))
    assert (mine / "predictions.csv").read_bytes() == (baseline / "predictions.csv").read_bytes()


def test_pretraining_needs_no_labels(tiny_data, tmp_path, call):
    changes = {"data.spliceator": None, "mlm.steps": 0, "pretrain.steps": 3}
    call(pretrain, tiny_config(tmp_path, tiny_data, changes))
    summary = read_json(tmp_path / "runs/tiny/pretrain/summary.json")
    assert summary["best"] == {} and "train/loss" in summary["metrics"]
    assert (tmp_path / "runs/tiny/pretrain/checkpoints/last/model.safetensors").is_file()


def test_donors_alone_and_acceptors_alone_are_tasks_of_their_own(finished, tmp_path, call, no_report):
    words = ("--finetune.arms", "[kmer]", "--finetune.sites", "[donor,acceptor]")
    call(finetune, finished.config, "--runs", tmp_path, *words)
    for site in ("donor", "acceptor"):
        folders = sorted((tmp_path / f"tiny/finetune/kmer/{site}/seed0").iterdir())
        assert len(folders) == FOLDS
        assert all(name.startswith(site) for folder in folders for name in predictions(folder)["window"])


# -- bad input ---------------------------------------------------------------------------------------------------------


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def zip_and_cut(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:-40])


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def keep_rows(path, count):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))


def write_checkpoint(folder, vocabulary):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **sizes)).save_pretrained(folder)


DONORS, OTHERS = POSITIVE.format("donor"), NEGATIVE.format("acceptor")

# name: (what is done to a copy of the tiny data, changes of the config, words that the line must hold)
# One or two of each reader; what else they refuse stands in their own tests.
BAD_DATA = {
    "FASTA missing": (lambda d: (d / "genome.fa").unlink(), {}, ["genome.fa does not exist"]),
    "FASTA letter": (lambda d: replace(d / "genome.fa", "\n", "\nacgt-\n"), {}, ["genome.fa, line 2", "'-'"]),
    "CSV cut": (lambda d: cut(d / DONORS, -70), {}, [f"POS_donor_600.csv, line {PER_CLASS}"]),
    "BED one base off": (
        lambda d: replace(d / "genome.fa", ">tiny3\n", ">tiny3\nA\n"),
        motif_settings,
        ["motifs.bed", "genome.fa", "0.0%", "one too small"],
    ),
    "checkpoint missing": (None, {"model.source": "./nothing"}, ["model.source ./nothing"]),
    "checkpoint too short": (
        lambda d: write_checkpoint(d / "checkpoint", 10),
        lambda d: {"model.source": str(d / "checkpoint"), "data.window": 100},
        ["data.window (100 nt)", "62 nt"],
    ),
    "layer": (None, {"evaluate.nmi_layer": 3}, ["layer 3", "2 blocks"]),
    "nothing to do": (None, {"mlm.steps": 0, "pretrain.steps": 0}, ["pretrain.steps is 0"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_pretraining_refuses_bad_input_in_one_line_and_leaves_nothing_that_looks_finished(
    own_data, tmp_path, call, capsys, case
):
    damage, changes, words = BAD_DATA[case]
    if damage:
        damage(own_data)
    changes = changes(own_data) if callable(changes) else dict(changes)
    if case == "layer":
        changes |= motif_settings(own_data)
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, own_data, changes))
    assert all(word in line for word in words), line
    assert no_summary(tmp_path)


BAD_FINETUNING = {
    "arm unknown": ({"finetune.arms": ["best"]}, ["finetune.arms: 'best'"]),
    "arm without checkpoint": ({"finetune.arms": ["mine=./nothing"]}, ["./nothing"]),
    "pre-training not finished": ({"finetune.arms": ["baseline"]}, ["runs/tiny/pretrain is not finished"]),
    "fold unknown": ({"finetune.arms": ["pwm"], "finetune.folds": [4]}, ["finetune.folds: there is no fold 4"]),
    "no windows": ({"finetune.arms": ["pwm"], "data.spliceator": None}, ["data.spliceator is not set"]),
    "batch too large": (
        {"finetune.arms": ["fresh"], "finetune.batch_size": 500, "pretrain.steps": 0, "mlm.steps": 0},
        ["finetune.batch_size (500)"],
    ),
}


@pytest.mark.parametrize("case", BAD_FINETUNING)
def test_fine_tuning_refuses_bad_input_in_one_line_and_leaves_nothing_that_looks_finished(
    tiny_data, tmp_path, call, capsys, case
):
    changes, words = BAD_FINETUNING[case]
    line = refusal(call, capsys, finetune, tiny_config(tmp_path, tiny_data, changes))
    assert all(word in line for word in words), line
    assert no_summary(tmp_path)


def test_a_start_refused_for_bad_weights_is_not_in_the_way_of_the_mended_one(
    finished, tiny_data, tmp_path, call, capsys, no_report
):
    start = Path(shutil.copytree(finished.run / "pretrain/checkpoints/start", tmp_path / "start"))
    whole = (start / "model.safetensors").read_bytes()
    changes = {"mlm.steps": 0, "pretrain.steps": 3, "model.source": str(start)}
    changes |= {"finetune.arms": ["pwm", f"mine={start}"], "finetune.folds": [0], "finetune.max_epochs": 1}
    config = tiny_config(tmp_path, tiny_data, changes)
    for script, stage in ((pretrain, "pretrain"), (finetune, "finetune/mine")):
        cut(start / "model.safetensors", 1000)
        assert str(start) in refusal(call, capsys, script, config)
        assert not (tmp_path / "runs/tiny" / stage).exists()
        (start / "model.safetensors").write_bytes(whole)
        call(script, config)
        assert len(list((tmp_path / "runs/tiny" / stage).rglob("summary.json"))) == 1


def test_a_run_outside_a_repository_enters_the_record(own_run, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "results")
    import record

    for path in own_run.rglob("env.json"):
        write_json(path, read_json(path) | {"git": {"sha": None, "dirty": None}})
    assert set(record.rows_of(own_run)["git"]) == {"unknown"}
    assert record.commit_of({"sha": "0123456789abcdef", "dirty": True}) == "0123456789ab+"


def test_an_arm_whose_proxy_was_not_measured_is_refused(copy, call, capsys):
    assert "has no best_nmi" in refusal(call, capsys, finetune, copy[0], "--finetune.arms", "[best_nmi]")


def assert_refused(done, *words):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_pretrain_py_refuses_an_unknown_key_in_one_line_with_status_2(tiny_data, tmp_path):
    config = tiny_config(tmp_path, tiny_data, {"pretrain.learning_rate": 1e-3})
    done = start_script("pretrain.py", config, cwd=tmp_path)
    assert_refused(done, "pretrain.py: error:", "tiny.yaml", "pretrain", "learning_rate")
    assert no_summary(tmp_path)


# -- slow --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_experiment_with_motif_sites(tiny_data, tmp_path):
    changes = motif_settings(tiny_data) | {"finetune.arms": ["pwm", "baseline", "best_nmi", "last"]}
    config = tiny_config(tmp_path, tiny_data, changes)
    for script in ("pretrain.py", "finetune.py"):
        done = start_script(script, config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("report: figure ") for line in done.stderr.splitlines())
    run = tmp_path / "runs/tiny"
    table = pd.read_csv(run / "report/summary.csv")
    assert {"before/nmi", "after/nmi", "val/nmi"} <= set(table["metric"])
    assert (run / "report/umap.png").stat().st_size > 1000
    names = {path.name for path in (run / "pretrain/checkpoints").iterdir()}
    assert {"start", "last", "best_sccs", "best_nmi"} <= names


@pytest.mark.slow
def test_workers_refuse_bad_input_in_one_line_with_status_2(tiny_data, tmp_path):
    changes = {"finetune.arms": ["fresh"], "finetune.batch_size": 500, "pretrain.steps": 0, "mlm.steps": 0}
    done = start_script("finetune.py", tiny_config(tmp_path, tiny_data, changes | {"workers": 2}), cwd=tmp_path)
    assert_refused(done, "finetune.py: error:", "finetune.batch_size (500)")
    assert no_summary(tmp_path)

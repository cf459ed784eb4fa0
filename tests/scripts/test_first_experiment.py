"""Somebody's first own experiment: a config for this machine, a plan of it, and what a naive config is told."""

import re
import sys

import pytest
import yaml
from conftest import ROOT, motif_settings, refusal, tiny_config

import pretrain
from commands.init import PUBLISHED, Machine, Paths, template
from utils.arguments import load_config


def everything(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_all_that_a_naive_config_gets_wrong_is_said_at_once_and_nothing_is_left(
    tiny_data, tmp_path, call, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data = {"fasta": [str(tiny_data / "genome.fa"), "typo.fa"], "spliceator": str(tiny_data / "spliceator")}
    naive = {"model": {"source": str(ROOT / "models/simcsp-tiny")}, "data": data | {"num_folds": 3}}
    (tmp_path / "naive.yaml").write_text(yaml.safe_dump(naive | {"pretrain": {"steps": 20, "stepz": 1}}))
    heavy = {"transformers", "umap"} - set(sys.modules)
    line = refusal(call, capsys, pretrain, "naive.yaml")
    assert "5 faults" in line and heavy.isdisjoint(sys.modules)
    assert "unknown key pretrain.stepz: did you mean pretrain.steps?" in line
    assert "data.num_folds (3) must be at least 4" in line and "typo.fa does not exist" in line
    for field in ("window (510", "context (400"):
        assert f"data.{field} nt) and 2 for [CLS] and [SEP] do not fit in what {naive['model']['source']}" in line
    assert "warmup" not in line and "motif_window" not in line  # nobody asked for either
    assert everything(tmp_path) == [(tmp_path / "naive.yaml").relative_to(tmp_path)]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"pretrain.batch_size": 512}, "batch_size (512)"),
        ({"data.selection_share": 0.99}, "after data.selection_share"),
    ],
)
def test_a_start_that_the_data_refuse_leaves_no_run_folder(tiny_data, tmp_path, call, capsys, change, reason):
    changes = {"mlm.steps": 0, "data.sampling": "strided", "data.folds": "published"}
    config = tiny_config(tmp_path, tiny_data, changes | change)
    assert reason in refusal(call, capsys, pretrain, config)
    assert not (tmp_path / "runs/tiny").exists()


def test_a_plan_says_what_would_happen_and_leaves_nothing(tiny_data, tmp_path, call, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = motif_settings(tiny_data) | {"pretrain.control": True, "pretrain.seeds": [1, 2]}
    config = tiny_config(tmp_path, tiny_data, changes)
    call(pretrain, config, "--dry-run", "--pretrain.steps", "9")
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert list(rows) == "run device text labels folds sites encoder mlm pretrain control fine-tune memory time".split()
    assert "a new folder" in rows["run"] and "genome.fa: 0.01 Mb" in rows["text"] and "400 windows" in rows["labels"]
    assert rows["folds"].startswith("4 (grouped), the first ") and "40 of 40 nt, for NMI" in rows["sites"]
    assert "9 steps of 8 windows" in rows["pretrain"] and "2 seeds" in rows["control"]
    assert "4 steps of 8 windows" in rows["mlm"] and re.search(r"a step, 4 validations of .* s, about ", rows["mlm"])
    assert "16 fits of encoders, about 3 epochs" in rows["fine-tune"]  # fresh, baseline, best_sccs of two seeds
    assert everything(tmp_path) == [config.relative_to(tmp_path)]


@pytest.mark.parametrize("annotation", [[], ["data/genes.gtf"]])
@pytest.mark.parametrize("machine", [Machine(False, 2, False), Machine(True, 8, False), Machine(True, 8, True)])
def test_the_template_suits_a_machine_and_is_a_config(tmp_path, monkeypatch, machine, annotation):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    if machine.published:
        (tmp_path / PUBLISHED).mkdir(parents=True)
        (tmp_path / PUBLISHED / "config.json").write_text('{"max_position_embeddings": 512}')
    path = tmp_path / "mine.yaml"
    path.write_text(template(path, machine, Paths(annotation=annotation, spliceator="my windows: 1")))
    config, lines = load_config([str(path)]), path.read_text().splitlines()
    assert config.data.spliceator == "my windows: 1" and config.data.annotation == annotation
    assert len(lines) <= 30 and max(map(len, lines[2:])) <= 130 and sum("  # " in line for line in lines) > 15
    assert config.pretrain.warmup == config.pretrain.steps // 10 and config.pretrain.control
    assert (config.pretrain.batch_size, config.workers) == ((256, 1) if machine.gpu else (64, 2))
    assert config.pretrain.objective == ("supcon" if annotation else "simcse")
    assert config.model.source == (PUBLISHED if machine.published else "models/simcsp-tiny")


def test_init_writes_it_once_and_takes_where_the_data_are(tmp_path, call, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--init", "mine.yaml", "--data.fasta", "[a b.fa]", "--data.annotation", "[]")
    call(pretrain, *words)
    assert "python pretrain.py mine.yaml --dry-run" in capsys.readouterr().out
    assert load_config(["mine.yaml"]).data.fasta == ["a b.fa"]
    assert "exists: choose" in refusal(call, capsys, pretrain, *words)
    line = refusal(call, capsys, pretrain, "--init", "other.yaml", "--pretrain.lr", "1")
    assert "set pretrain.lr in the file" in line
    assert "needs the name of the file" in refusal(call, capsys, pretrain, "--init", "--data.annotation", "[]")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]

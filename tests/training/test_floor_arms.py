"""Floors as arms of fine-tuning: fitted on each fold's training windows, or on the text's annotation and no label."""

import json

import pandas as pd
import pytest
from conftest import refusal, tiny_config, write_species

import finetune
from simcsp.core.arms import FLOORS
from simcsp.core.run_layout import finished_fits


def test_every_floor_is_an_arm(tiny_data, tmp_path, call, monkeypatch):
    monkeypatch.setattr("simcsp.labels.cnn.MAX_EPOCHS", 3)
    monkeypatch.setattr("simcsp.labels.resnet.EPOCHS", 3)
    write_species(tmp_path, "one", 1)
    files = {"fasta": [str(tmp_path / "one.fa")], "annotation": [str(tmp_path / "one.gtf")], "records": None}
    changes = {f"data.{key}": value for key, value in files.items()} | {"data.window": 20}
    changes |= {"finetune.arms": list(FLOORS), "finetune.folds": [0], "finetune.train_windows": [40, None]}
    changes |= {"mlm.steps": 0, "pretrain.steps": 0, "evaluate.cnn_parameters": 4000}
    call(finetune, tiny_config(tmp_path, tiny_data, changes))
    run = tmp_path / "runs/tiny"
    predictions = {}
    for arm in FLOORS:
        few, every = sorted(finished_fits(run, arm), key=lambda path: "windows" not in str(path))
        summary = json.loads((every / "summary.json").read_text())
        assert summary["metrics"]["test/auc"] > 0.6 and "val/auc" in summary["metrics"]
        assert ("C" in summary) == (arm == "linear") and ("hit_limit" in summary) == (arm == "cnn")
        predictions[arm] = [pd.read_csv(path / "predictions.csv")["probability"] for path in (few, every)]
    for arm, (few, every) in predictions.items():
        assert few.equals(every) == (arm in ("annotation", "annotation_linear"))  # they know no label


@pytest.mark.parametrize("arm", ["annotation", "annotation_linear"])
def test_without_annotation_they_are_refused(tiny_data, tmp_path, call, capsys, arm):
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.steps": 0})
    line = refusal(call, capsys, finetune, config, "--finetune.arms", f"[{arm}]")
    assert "data.annotation" in line

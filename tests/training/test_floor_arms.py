"""Floors as arms of fine-tuning: fitted on each fold's training windows, or on the text's annotation and no label."""

import numpy as np
import pandas as pd
import pytest
from conftest import refusal, summary_of, tiny_config, write_species

import finetune
from simcsp.core.arms import FLOORS
from simcsp.core.run_layout import finished_fits


@pytest.fixture
def annotation(tmp_path):
    """What to change in a config so that its text has annotated sites."""
    write_species(tmp_path, "one", 1)
    files = {"fasta": [str(tmp_path / "one.fa")], "annotation": [str(tmp_path / "one.gtf")], "records": None}
    return {f"data.{key}": value for key, value in files.items()} | {"data.window": 20}


def test_every_floor_is_an_arm(tiny_data, annotation, tmp_path, call, monkeypatch):
    monkeypatch.setattr("simcsp.labels.cnn.MAX_EPOCHS", 3)
    changes = annotation | {"finetune.arms": list(FLOORS), "finetune.folds": [0]}
    changes |= {"finetune.train_windows": [40, None]}
    changes |= {"mlm.steps": 0, "pretrain.steps": 0, "evaluate.cnn_parameters": 4000}
    call(finetune, tiny_config(tmp_path, tiny_data, changes))
    run = tmp_path / "runs/tiny"
    predictions = {}
    for arm in FLOORS:
        few, every = sorted(finished_fits(run, arm), key=lambda path: "windows" not in str(path))
        summary = summary_of(every)
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


def test_a_probe_fitted_on_the_annotation_uses_no_label_of_any_fold(
    start, tiny_data, annotation, tmp_path, call, capsys
):
    changes = annotation | {"finetune.arms": [f"mine={start}", "fresh"], "finetune.folds": [0, 1]}
    changes |= {"mlm.steps": 0, "pretrain.steps": 0, "finetune.stages": ["probe"], "finetune.probe_on": "annotation"}
    changes["finetune.probe_flank"] = 2
    config = tiny_config(tmp_path, tiny_data, changes)
    assert "uses no label" in refusal(call, capsys, finetune, config, "--finetune.train_windows", "[40]")
    call(finetune, config)
    for arm, same in (("mine", True), ("fresh", False)):  # fresh weights differ from fold to fold
        tables = [pd.read_csv(path / "predictions.csv") for path in finished_fits(tmp_path / "runs/tiny", arm)]
        both = tables[0].merge(tables[1], on="window")  # every window is tested in two folds
        assert len(both) > 5 and both["probability_x"].nunique() > 5
        assert np.allclose(both["probability_x"], both["probability_y"], atol=1e-6) == same

"""The control run: plain MLM on the windows of the contrastive run, and its arms."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import refusal, tiny_config, weights

import finetune
import pretrain
from simcsp.training import pretraining


@pytest.fixture(scope="module")
def study(tiny_data, tmp_path_factory):
    """A run with its control, and the windows and objective of every step of every stage."""
    folder, seen = tmp_path_factory.mktemp("control"), {}
    changes = {"pretrain.control": True, "finetune.max_epochs": 1, "finetune.folds": [0, 1]}
    changes["finetune.arms"] = ["baseline", "best_sccs", "last", "control_best_sccs", "control_last"]
    config = tiny_config(folder, tiny_data, changes)
    true_loss = pretraining.step_loss

    def spy(learner, stage, ids, *more):
        seen.setdefault((stage.objective, stage.steps), []).append(ids)
        return true_loss(learner, stage, ids, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "step_loss", spy)
        for module in (pretrain, finetune):
            patch.setattr("sys.argv", [f"{module.__name__}.py", str(config)])
            module.main()
    return SimpleNamespace(config=config, run=folder / "runs/tiny", seen=seen)


def test_the_control_starts_where_the_contrast_does(study):
    start, control = (
        weights(study.run / stage)["checkpoints/start/model.safetensors"] for stage in ("pretrain", "control")
    )
    assert start == control
    last = [weights(study.run / stage)["checkpoints/last/model.safetensors"] for stage in ("pretrain", "control")]
    assert start not in last and last[0] != last[1]


def test_the_control_reads_the_same_windows_in_the_same_order_for_as_many_steps(study):
    contrast, control = study.seen["simcse", 8], study.seen["mlm", 8]
    assert len(contrast) == len(control) == 8
    for one, other in zip(contrast, control):
        assert np.array_equal(one, other)
    assert json.loads((study.run / "control/summary.json").read_text())["steps"] == 8


def test_its_arms_stand_in_the_table(study):
    table = pd.read_csv(study.run / "report/summary.csv")
    f1 = table[table["metric"] == "test/f1"].set_index("arm")
    assert list(f1.index) == ["baseline", "best_sccs", "last", "control_best_sccs", "control_last"]
    assert f1["n"].eq(2).all()
    proxies = table[table["metric"] == "val/sccs"]["arm"].tolist()
    assert {"control_last", "control_best_sccs", "last", "baseline"} <= set(proxies) and len(proxies) == len(
        set(proxies)
    )


def test_a_control_arm_without_a_control_run_is_refused(finished, call, capsys):
    line = refusal(call, capsys, finetune, finished.config, "--finetune.arms", "[control_last]")
    assert "control is not finished" in line and "pretrain.control true" in line


def test_asking_for_a_control_later_leaves_the_finished_contrast_as_it_is(tiny_data, tmp_path, call):
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.steps": 2, "pretrain.warmup_steps": 0})
    call(pretrain, config)
    before = weights(tmp_path / "runs/tiny/pretrain")
    call(pretrain, config, "--pretrain.control", "true")
    assert weights(tmp_path / "runs/tiny/pretrain") == before
    assert (tmp_path / "runs/tiny/control/summary.json").is_file()


@pytest.mark.parametrize("flag", [("--model.pooling", "cls"), ("--model.pooling_layer", "1")])
def test_another_pooling_than_that_of_the_checkpoints_is_refused_and_not_ignored(finished, call, capsys, flag):
    line = refusal(call, capsys, finetune, finished.config, *flag, "--finetune.arms", "[last]")
    assert f"{flag[0].removeprefix('--')} is {flag[1]}" in line and "was trained with mean" in line

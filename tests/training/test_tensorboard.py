"""What TensorBoard's own HTTP interface says of a run folder, and the pictures that go into it."""

import json
import time
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conftest import motif_settings, run_here, summary_of, tiny_config
from tensorboard import program

import finetune
import pretrain
from simcsp.core.run_folder import read_metrics
from simcsp.core.run_layout import finished_fits
from simcsp.training.tensorboard import class_cosines, show_arm

SESSIONS = b'{"allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"], "sliceSize": 100}'
ARMS = ["pwm", "fresh", "baseline", "last"]


class Board:
    """TensorBoard on a folder, asked as a browser asks it."""

    def __init__(self, folder):
        server = program.TensorBoard()
        server.configure(argv=["tensorboard", "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
        self.url = f"{server.launch()}data"
        for _ in range(600):  # it reads the folder in a thread of its own
            hyperparameters = self.ask("plugin/hparams/experiment", b"{}").get("hparamInfos", [])
            if hyperparameters and "report" in self.ask("runs"):
                return
            time.sleep(0.1)
        raise AssertionError("TensorBoard has not read the folder within a minute")

    def ask(self, route, data=None, **words):
        request = Request(f"{self.url}/{route}?{urlencode(words)}", data, {"Content-Type": "application/json"})
        with urlopen(request) as reply:
            return json.load(reply)


@pytest.fixture(scope="module")
def tiny(tiny_data, tmp_path_factory):
    """Run folder of a pre-training with motif sites and of a few folds of four arms."""
    folder = tmp_path_factory.mktemp("board")
    changes = motif_settings(tiny_data) | {"mlm.steps": 0, "pretrain.steps": 3, "finetune.max_epochs": 1}
    changes |= {"finetune.arms": ARMS, "finetune.folds": [0, 1]}
    config = tiny_config(folder, tiny_data, changes)
    for module in (pretrain, finetune):
        run_here(module, config)
    return folder / "runs/tiny"


@pytest.fixture(scope="module")
def board(tiny):
    return Board(tiny)


def test_there_is_a_run_for_each_stage_and_arm_and_none_for_folds(board):
    floors = {f"floors/{name}" for name in ("one_hot_10", "gc", "fresh")}
    assert set(board.ask("runs")) == {"pretrain", "report", *floors, *(f"finetune/{arm}" for arm in ARMS)}


def test_every_tab_has_something_to_show(board):
    scalars = board.ask("plugin/scalars/tags")
    assert {"train/loss", "val/sccs", "val/nmi"} <= set(scalars["pretrain"])
    assert set(scalars["floors/gc"]) == {"val/sccs", "val/sccs_low", "val/sccs_high", "val/nmi"}
    of_arm = {"val_auc/mean", "val_auc/least", "val_auc/most", "test/f1", "test/f1_least"}
    assert of_arm <= set(scalars["finetune/last"])
    histograms = board.ask("plugin/histograms/tags")
    assert {"cosine/same class", "cosine/different class"} <= set(histograms["pretrain"])
    assert set(board.ask("plugin/images/tags")) >= {"pretrain", "report"}
    assert all(f"finetune/{arm}" in board.ask("plugin/pr_curves/tags") for arm in ARMS)
    text = {"config", "environment", "pre-training text", "overlap of the evaluation with the text"}
    assert {f"{name}/text_summary" for name in text} <= set(board.ask("plugin/text/tags")["pretrain"])
    layout = board.ask("plugin/custom_scalars/layout")
    (category,) = layout["category"]  # all on opening
    titles = " ".join(chart["title"] for chart in category["chart"])
    assert all(word in titles for word in ("loss", "SCCS", "NMI", "floors", "F1", "AUC"))
    tags = {tag for chart in category["chart"] for series in chart["margin"]["series"] for tag in series.values()}
    assert tags <= set(scalars["pretrain"]) | set(scalars["finetune/last"]), "a curve that nothing draws"


def test_hyperparameters_have_few_columns_and_the_score(board):
    sessions = board.ask("plugin/hparams/session_groups", SESSIONS)["sessionGroups"]
    settings = {group["hparams"]["arm"]: group["hparams"] for group in sessions}
    of_last, of_stage = settings["last"], settings["pretrain"]
    assert all(of_last[name] == of_stage[name] for name in ("objective", "lr", "steps", "batch_size"))
    assert of_last["lr_finetune"] == 3e-3 and settings["baseline"]["objective"] == "none"
    assert not {"lr", "lr_finetune"} & set(settings["pwm"])
    found = board.ask("plugin/hparams/experiment", b"{}")
    assert found["hparamInfos"][0]["name"] == "arm"  # what differs comes first
    tags = [metric["name"]["tag"] for metric in found["metricInfos"]]
    assert "test/f1" in tags and len(tags) <= 5


def test_the_mean_of_the_folds_lies_in_its_band_and_is_theirs(tiny, board):
    def curve(tag):
        return {step: value for _, step, value in board.ask("plugin/scalars/scalars", run="finetune/last", tag=tag)}

    fits = finished_fits(tiny, "last")
    first = [row["val/auc"] for fit in fits for row in read_metrics(fit) if row["step"] == 1]
    assert len(first) == 2
    found = [curve(f"val_auc/{part}")[1] for part in ("least", "mean", "most")]
    assert found == pytest.approx([min(first), np.mean(first), max(first)])
    mean = np.mean([summary_of(fit)["metrics"]["test/f1"] for fit in fits])
    assert list(curve("test/f1").values()) == pytest.approx([mean])


def test_a_config_is_one_text_of_the_first_stage_and_one_of_the_report(board):
    tags = board.ask("plugin/text/tags")
    assert [run for run, of_run in tags.items() if "config/text_summary" in of_run] == ["pretrain"]
    assert tags["report"].count("config of fine-tuning/text_summary") == 1
    assert not any("finetune" in run for run in tags)


def test_a_run_made_anew_is_shown_once(tiny):
    show_arm(tiny, "last")
    assert len(list((tiny / "finetune/last").glob("events.out.tfevents.*"))) == 1


def test_what_a_thousand_steps_show_is_small(tiny):
    size = sum(path.stat().st_size for path in tiny.glob("pretrain/events*"))
    validations = (tiny / "pretrain/metrics.jsonl").read_text().count("val/sccs_low")
    assert 20 * size / validations < 2e6  # a validation every 50 steps


def test_cosines_are_of_pairs_within_and_between_the_classes():
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    same, other = class_cosines(vectors, np.array([0, 0, 1, 1]), seed=0)
    assert len(same) == len(other) == 500 and np.allclose(same, 1) and np.allclose(other, 0)

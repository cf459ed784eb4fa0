"""Fine-tuning on a part of the training windows, by draws that all arms share, and the frozen-encoder probe."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_same_run, summary_of, tiny_config
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import finetune
import pretrain
from commands.sources import fold_folders
from simcsp.core.config import FinetuneConfig, ModelConfig
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.run_folder import read_metrics
from simcsp.core.run_layout import finished_fits, fit_key
from simcsp.labels.splits import draw_parts, draw_training, load_windows
from simcsp.metrics.benchmark import Resemblance
from simcsp.metrics.benchmark_predictions import ask_members
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import add_special_tokens
from simcsp.training.finetuning import run_jobs
from simcsp.training.fold import hit_limit
from simcsp.training.probe import CS
from utils.arguments import find_faults, load_config


@pytest.fixture(scope="module")
def config(start, tiny_data, tmp_path_factory):
    changes = {"finetune.arms": ["pwm", f"mine={start}"], "finetune.folds": [0, 1]}
    changes |= {"mlm.steps": 0, "pretrain.steps": 0, "finetune.max_epochs": 1, "finetune.batch_size": 12}
    return load_config([str(tiny_config(tmp_path_factory.mktemp("config"), tiny_data, changes))])


@pytest.fixture
def run(config, tmp_path):
    """run('name', **changes of the finetune section) -> the run folder."""

    def fit(name, **changes):
        settings = dataclasses.replace(config.finetune, **changes)
        ours = dataclasses.replace(config, runs=str(tmp_path / name), finetune=settings)
        run_jobs(ours, SimpleNamespace(asked=False))
        return ours.folder

    return fit


def test_a_draw_keeps_the_strata_at_their_shares_and_depends_on_nothing_else():
    strata = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    train = np.arange(5, 95)
    drawn = draw_training(train, strata, 30, 1, 2, 0)
    assert np.array_equal(drawn, np.unique(drawn)) and set(drawn) <= set(train)
    counts = [int((strata[drawn] == stratum).sum()) for stratum in "abc"]
    assert sum(counts) == 30 and np.abs(np.array(counts) - np.array([55, 30, 5]) / 3).max() <= 1
    assert np.array_equal(drawn, draw_training(train, strata, 30, 1, 2, 0))
    assert not np.array_equal(drawn, draw_training(train, strata, 30, 1, 2, 1))
    assert draw_training(train, strata, None, 1, 2, 0) is train


def test_a_fifth_of_a_draw_validates_and_no_label_outside_the_draw_is_used():
    strata = np.tile(["a", "b", "c", "d"], 50)
    parts = {"train": np.arange(140), "val": np.arange(140, 170), "test": np.arange(170, 200)}
    for count, held in ((8, 4), (50, 10), (140, 28)):
        used = draw_parts(parts, strata, count, 0.2, 1, 2, 0)
        drawn = draw_training(parts["train"], strata, count, 1, 2, 0)
        assert np.array_equal(np.sort(np.concatenate([used["train"], used["val"]])), drawn) and len(used["val"]) == held
        assert set(strata[used["val"]]) == set(strata[used["train"]]) == set("abcd")
        assert used["test"] is parts["test"]
    assert draw_parts(parts, strata, None, 0.2, 1, 2, 0) is parts


def test_only_the_training_part_is_cut_by_draws_that_arms_share(run, config):
    folder = run("few", train_windows=[12, None], draws=2)
    folds = finished_fits(folder)
    assert {str(path.relative_to(folder)) for path in folds if "fold00" in path.name and "mine" in str(path)} == {
        "finetune/mine/both/seed0/fold00",
        "finetune/mine/both/windows12/draw0/seed0/fold00",
        "finetune/mine/both/windows12/draw1/seed0/fold00",
    }
    assert len(folds) == 2 * 2 * 3
    windows, splits = load_windows(config.data, folder)
    for path in folds:
        summary, parts = summary_of(path), splits.folds["both"][summary_of(path)["fold"]]
        sizes = {part: len(index) for part, index in parts.items()}
        cut = summary["train_windows"]
        assert summary["windows"] | {"test_distinct": 0} == sizes | {"train": cut or sizes["train"], "test_distinct": 0}
        recorded = ("arm", "site", "seed", "fold", "train_windows", "draw")
        assert summary["draw"] in ((0, 1) if cut else (0,)) and summary["pretrain_seed"] is None
        assert {key: getattr(fit_key(path), key) for key in recorded} == {key: summary[key] for key in recorded}
    of_draws = (folder / f"finetune/pwm/both/windows12/draw{draw}/seed0/fold00/predictions.csv" for draw in (0, 1))
    one, two = map(pd.read_csv, of_draws)
    assert one["window"].equals(two["window"]) and not np.allclose(one["probability"], two["probability"])
    assert fold_folders(folder) == finished_fits(folder, "mine")[:2]  # of all windows: no draw among them
    assert_floors_are_refitted_on_their_draw(folder, config, windows, splits)
    shutil.rmtree(folder / "finetune/mine/both/seed0")
    with pytest.raises(InputError, match="holds fits on windows12/draw0, windows12/draw1: give the folder of one"):
        fold_folders(folder / "finetune/mine")
    one = folder / "finetune/mine/both/windows12/draw1"
    assert fold_folders(one) == [one / "seed0/fold00", one / "seed0/fold01"]
    shutil.rmtree(one)
    assert fold_folders(folder / "finetune/mine") == finished_fits(folder, "mine")


def assert_floors_are_refitted_on_their_draw(folder, config, windows, splits):
    """By ask_members, which says so where a floor is not what its fold recorded."""
    floors = finished_fits(folder, "pwm")
    assert {summary_of(path)["train_windows"] for path in floors} == {12, None}
    accelerator = build_accelerator("cpu", "fp32")
    _, notes = ask_members(floors, config, accelerator, windows, splits, {}, Resemblance(windows, {}))
    assert notes == []


def test_all_windows_beside_few_are_what_they_are_alone(run):
    alone, beside = run("alone"), run("beside", train_windows=[12, None], draws=1)
    for path in finished_fits(alone, "mine"):
        assert_same_run(path, beside / path.relative_to(alone))


def test_more_draws_later_leave_the_finished_ones_as_they_are(run):
    folder = run("grow", train_windows=[12], draws=1)
    before = {path: (path / "predictions.csv").stat().st_mtime_ns for path in finished_fits(folder)}
    run("grow", train_windows=[12, 16], draws=2)
    assert len(finished_fits(folder)) == 4 * len(before)
    assert all((path / "predictions.csv").stat().st_mtime_ns == time for path, time in before.items())


def probed_vectors(config, start, windows, flank, layer):
    """What a probe reads of windows: pooled, or the states of `flank` bases on either side of the middle."""
    model, pooling, _ = load_backbone(ModelConfig(source=str(start)))
    ids = windows.crop(config.data.context)
    if flank is None:
        return Encoder(model.bert, pooling, 64).embed(ids)
    with torch.no_grad():
        tokens = torch.from_numpy(add_special_tokens(ids)).int()
        layers = model.bert.eval()(tokens, output_hidden_states=True).hidden_states
    states = sum(layers) / len(layers) if layer == "mix" else layers[-1 if layer is None else layer]
    middle = 1 + config.data.context // 2  # after [CLS]
    return states[:, middle - flank : middle + flank].reshape(len(ids), -1).numpy()


@pytest.mark.parametrize(
    "share, flank, layer", [(0.0, None, None), (0.2, None, None), (0.2, 3, None), (0.2, 3, 1), (0.0, 2, "mix")]
)
def test_the_probe_is_a_logistic_regression_whose_c_validation_picks(run, config, start, share, flank, layer):
    changes = {"train_windows": [40], "draws": 1, "arms": [f"mine={start}", "fresh"], "validation_share": share}
    folder = run("probe", stages=["probe"], probe_flank=flank, probe_layer=layer, **changes)
    windows, splits = load_windows(config.data, folder)
    vectors, labels = probed_vectors(config, start, windows, flank, layer), windows.labels
    for path in finished_fits(folder, "mine"):
        summary = summary_of(path)
        parts = splits.folds["both"][summary["fold"]]
        parts = draw_parts(parts, windows.strata, 40, share, config.data.split_seed, summary["fold"], 0)
        train = parts["train"]
        assert summary["windows"]["train"] == len(train) == (32 if share else 40)
        scaler, probabilities, aucs = StandardScaler().fit(vectors[train]), [], []
        for c in CS:
            fit = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(vectors[train]), labels[train])
            probabilities.append(fit.predict_proba(scaler.transform(vectors[parts["test"]]))[:, 1])
            validation = fit.decision_function(scaler.transform(vectors[parts["val"]]))
            aucs.append(roc_auc_score(labels[parts["val"]], validation))
        assert summary["C"] == CS[int(np.argmax(aucs))]
        predicted = pd.read_csv(path / "predictions.csv").set_index("window")["probability"]
        assert np.allclose(predicted[windows.names[parts["test"]]], probabilities[int(np.argmax(aucs))], atol=1e-5)
        assert not (path / "checkpoints").exists()
    fresh = [pd.read_csv(path / "predictions.csv") for path in finished_fits(folder, "fresh")]
    assert len(fresh) == 2


def test_a_probe_of_fresh_weights_has_those_of_its_seed_and_fold(run):
    many = run("many", stages=["probe"], arms=["fresh"], train_windows=[20, None], draws=2)
    one = run("one", stages=["probe"], arms=["fresh"], folds=[1], train_windows=[20], draws=2)
    for path in finished_fits(one):
        ours = (path / "predictions.csv").read_bytes()
        assert ours == (many / path.relative_to(one) / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "aucs, best, stages, hit",
    [
        ([0.5, 0.6, 0.7], 3, ["full"], True),  # still rising at its limit
        ([0.7, 0.6, 0.5], 1, ["full"], False),  # patience ran out in the last epoch
        ([0.5, 0.7], 2, ["full"], False),  # not at the limit: stopped elsewhere
        ([0.5, 0.5, 0.6, 0.7, 0.8], 5, ["head", "full"], True),
        ([0.5, 0.9, 0.6, 0.7], 2, ["head", "full"], False),
    ],
)
def test_a_fit_says_when_it_hit_its_limit(aucs, best, stages, hit):
    rows = [{"step": i + 1, "val/auc": auc} for i, auc in enumerate(aucs)]
    if len(stages) > 1:
        rows = [row | {"train/stage": 1 if row["step"] <= 2 else 2} for row in rows]
    settings = FinetuneConfig(stages=stages, max_epochs=3, head_epochs=2, patience=2)
    assert hit_limit(rows, best, settings) is hit


def test_the_summary_says_whether_the_limit_was_hit(run):
    assert {summary_of(path)["hit_limit"] for path in finished_fits(run("short", max_epochs=1), "mine")} == {True}


def test_sites_among_the_windows_pick_best_nmi_without_a_bed(tiny_data, tmp_path, call):
    changes = {"evaluate.nmi_sites": "spliceator", "data.selection_share": 0.4}
    changes |= {"mlm.steps": 0, "finetune.arms": ["best_nmi"], "finetune.folds": [0], "finetune.max_epochs": 1}
    path = tiny_config(tmp_path, tiny_data, changes)
    call(pretrain, path)
    call(finetune, path)
    best = summary_of(tmp_path / "runs/tiny/pretrain")["best"]["nmi"]
    rows = read_metrics(tmp_path / "runs/tiny/pretrain")
    scores = {row["step"]: row["val/nmi"] for row in rows if "val/nmi" in row}
    assert set(scores) == {0, 3, 6, 8} and best["value"] == scores[best["step"]] == max(list(scores.values())[1:])
    (fold,) = finished_fits(tmp_path / "runs/tiny", "best_nmi")
    assert {"before/nmi", "after/nmi"} <= set(summary_of(fold)["metrics"])


def test_what_cannot_work_is_refused_in_one_line(run, config):
    for changes, message in (
        ({"train_windows": [3]}, r"finetune.train_windows \(3\) must be 4"),
        ({"train_windows": [100000]}, r"finetune.train_windows \(100000\) must be 4 .* to \d+"),
    ):
        with pytest.raises(InputError, match=message) as error:
            run("bad", **changes)
        assert "\n" not in str(error.value)

    def fault(**changes):
        settings = dataclasses.replace(config.finetune, **changes)
        return "; ".join(find_faults(dataclasses.replace(config, finetune=settings)))

    assert "probe stands alone" in fault(stages=["full", "probe"])
    assert "probe_flank (5) is of the probe" in fault(probe_flank=5)
    assert "more than half of data.context" in fault(stages=["probe"], probe_flank=500)
    assert "goes with finetune.probe_flank" in fault(stages=["probe"], probe_layer=1)
    assert "null alone" in fault(draws=3)
    assert "is empty" in fault(train_windows=[])
    assert "names null more than once" in fault(train_windows=[None, None])

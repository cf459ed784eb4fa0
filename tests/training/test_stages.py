"""Stages of fine-tuning: supervised contrast, the head on a frozen encoder, everything."""

import dataclasses
import functools
import signal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Crash, assert_same_run, metrics_without_clock, no_summary, summary_of, tiny_config, write_windows
from kills import start_until_done
from safetensors.torch import load_file

from simcsp.core.errors import InputError, Interrupted
from simcsp.core.run_folder import RunFolder
from simcsp.labels.splits import load_windows
from simcsp.model.classifier import load_classifier, predict
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import window_vectors
from simcsp.text.alphabet import A
from simcsp.training import finetuning, fold
from utils.arguments import find_faults, load_config, refuse_faults

WINDOWS = 240


@pytest.fixture(scope="module")
def config(start, tiny_data, tmp_path_factory):
    """Parsed once: what the tests vary is set in a copy."""
    folder = tmp_path_factory.mktemp("config")
    write_windows(folder, np.random.default_rng(0), WINDOWS // 4)
    values = {"arms": [f"mine={start}"], "folds": [0], "head_epochs": 3, "max_epochs": 2, "supcon_batch_size": 16}
    changes = {f"finetune.{key}": value for key, value in values.items()}
    changes |= {"mlm.steps": 0, "pretrain.steps": 0, "data.spliceator": str(folder / "spliceator")}
    return load_config([str(tiny_config(folder, tiny_data, changes))])


@pytest.fixture
def fit(config, tmp_path, monkeypatch):
    """fit('name', stages, **changes of the finetune section) fine-tunes the start; returns the folders of the folds."""

    monkeypatch.setattr(fold, "SUPCON_EPOCHS", 2)

    def run(name, stages, **changes):
        ours = dataclasses.replace(changed(config, stages=stages, **changes), runs=str(tmp_path / name))
        finetuning.run_jobs(ours, SimpleNamespace(asked=False, number=signal.SIGTERM))
        return sorted((ours.folder / "finetune").glob("*/*/seed*/fold*"))

    return run


def encoder_of(folder):
    """{name: tensor} of the encoder in a checkpoint folder, whichever class saved it."""
    saved = load_file(folder / "model.safetensors")
    return {key.removeprefix("bert."): value for key, value in saved.items() if not key.startswith("cls.")}


def equal(first, second):
    assert first.keys() == second.keys() and first
    return all(torch.equal(first[key], second[key]) for key in first)


# -- what the config takes ---------------------------------------------------------------------------------------------


def changed(config, **changes):
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **changes))


def test_stages_in_their_order_are_taken(config):
    for stages in ("head", "full", "head full", "supcon head", "supcon full", "supcon head full"):
        refuse_faults(find_faults(changed(config, stages=stages.split())))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"stages": []}, ["finetune.stages ([])", "head or full"]),
        ({"stages": ["supcon"]}, ["finetune.stages ([supcon])", "head or full"]),
        ({"stages": ["full", "head"]}, ["finetune.stages ([full, head])", "order supcon, head, full"]),
        ({"stages": ["head", "head"]}, ["finetune.stages ([head, head])", "at most once"]),
        ({"stages": ["head"], "select_epoch": "shared"}, ["finetune.stages ([head])", "select_epoch shared"]),
        ({"stages": ["supcon", "full"], "supcon_batch_size": 1}, ["finetune.supcon_batch_size", "at least 2"]),
    ],
)
def test_stages_that_cannot_work_are_refused_by_name(config, changes, words):
    with pytest.raises(InputError) as error:
        refuse_faults(find_faults(changed(config, **changes)))
    assert all(word in str(error.value) for word in words), error.value


def test_a_contrast_batch_that_no_fold_can_fill_is_refused_before_anything_is_trained(fit, tmp_path):
    with pytest.raises(InputError, match="finetune.supcon_batch_size .300. is more than the .* windows of fold 0"):
        fit("large", ["supcon", "full"], supcon_batch_size=300)
    assert no_summary(tmp_path)


# -- frozen encoder ----------------------------------------------------------------------------------------------------


def test_a_frozen_encoder_stays_as_it_was_and_is_encoded_once_for_all_folds(fit, start, monkeypatch):
    encoded = []
    real = Encoder.embed
    monkeypatch.setattr(Encoder, "embed", lambda self, ids: encoded.append(len(ids)) or real(self, ids))
    folds = fit("frozen", ["head"], folds=[0, 1])
    assert len(folds) == 2 and sum(encoded) == WINDOWS
    for folder in folds:
        assert equal(encoder_of(folder / "checkpoints/best"), encoder_of(start))
        metrics = summary_of(folder)["metrics"]
        assert metrics["before/sccs"] == metrics["after/sccs"]
        losses = [row["train/loss"] for row in metrics_without_clock(folder)]
        assert losses[-1] < losses[0]


def test_the_head_learns_the_same_on_stored_features_as_through_the_encoder(fit, config, tmp_path, monkeypatch):
    (stored,) = fit("stored", ["head"])
    with monkeypatch.context() as patch:
        real = fold.encode_parts

        def numbered(study, *args):
            """Features whose first is the window's number, by which `through` finds the window again."""
            features = real(study, *args).clone()
            features[:, 0] = torch.arange(len(features))
            return features

        def through(study, model, features):
            assert not model.bert.training
            tokens = fold.training_tokens(study, features[:, 0].long())
            return model.head(window_vectors(model.bert, tokens, "mean")).squeeze(-1)

        patch.setattr(fold, "encode_parts", numbered)
        patch.setattr(fold, "head_logits", through)
        (encoder,) = fit("through", ["head"])
    for mine, other in zip(metrics_without_clock(stored), metrics_without_clock(encoder), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    heads = [load_file(folder / "checkpoints/best/head.safetensors") for folder in (stored, encoder)]
    assert all(torch.allclose(heads[0][key], heads[1][key], atol=1e-5) for key in heads[0])
    # and what is reported is what the saved checkpoint, read back, gives
    windows, splits = load_windows(config.data, dataclasses.replace(config, runs=str(tmp_path / "stored")).folder)
    test = windows.take(splits.folds["both"][0]["test"])
    model = load_classifier(stored / "checkpoints/best", config.model, 0.1)
    again = predict(model, test.crop(config.data.context), 64)
    assert pd.read_csv(stored / "predictions.csv")["probability"].to_numpy() == pytest.approx(again, abs=1e-5)


def test_fresh_weights_can_be_frozen_too_and_are_each_fold_s_own(fit):
    first, second = fit("fresh", ["head"], arms=["fresh"], folds=[0, 1])
    assert not equal(encoder_of(first / "checkpoints/best"), encoder_of(second / "checkpoints/best"))
    for folder in (first, second):
        assert summary_of(folder)["metrics"]["before/sccs"] == summary_of(folder)["metrics"]["after/sccs"]


# -- head first, then everything ---------------------------------------------------------------------------------------


def scripted_auc(monkeypatch, aucs):
    """Validation predictions whose AUC is that of the list, epoch by epoch."""

    def scripted(study, fit, index):
        labels = study.windows.labels[index].astype(float)
        right = np.arange(len(labels)) < aucs[fit.epoch - 1] * len(labels)
        return np.where(right, labels, 1 - labels)

    monkeypatch.setattr(fold, "predict_part", scripted)


def test_everything_starts_from_the_best_head_and_has_to_beat_it(fit, start, monkeypatch):
    scripted_auc(monkeypatch, [0.9, 0.5, 0.5, 0.6, 0.7])
    began = {}
    real = fold.train_epoch

    def watched(study, of, fit):
        if fit.stage == "full" and not began:
            began.update({key: value.clone() for key, value in fit.model.state_dict().items()})
        return real(study, of, fit)

    monkeypatch.setattr(fold, "train_epoch", watched)
    (folder,) = fit("both", ["head", "full"], patience=2, head_epochs=9, max_epochs=9)
    rows = metrics_without_clock(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]  # each stage ends after two epochs without a better AUC
    assert [row["train/stage"] for row in rows] == [1, 1, 1, 2, 2]
    assert [row["train/lr"] for row in rows] == pytest.approx([3e-3] * 5)
    assert (summary_of(folder)["best_epoch"], summary_of(folder)["epochs"]) == (1, 5)
    best = folder / "checkpoints/best"  # of epoch 1
    head = {key.removeprefix("head."): value for key, value in began.items() if key.startswith("head.")}
    assert equal(head, load_file(best / "head.safetensors"))
    assert equal(encoder_of(best), encoder_of(start))


def test_everything_is_kept_where_it_is_better_than_the_head_alone(fit, start, monkeypatch):
    scripted_auc(monkeypatch, [0.6, 0.7, 0.8, 0.9])
    (folder,) = fit("both", ["head", "full"], head_epochs=2)
    assert summary_of(folder)["best_epoch"] == 4
    assert not equal(encoder_of(folder / "checkpoints/best"), encoder_of(start))


# -- supervised contrast -----------------------------------------------------------------------------------------------


def test_the_contrast_is_logged_under_its_own_name_moves_the_encoder_and_its_loss_falls(fit, start, monkeypatch):
    monkeypatch.setattr(fold, "SUPCON_EPOCHS", 4)
    (folder,) = fit("supcon", ["supcon", "head"])
    rows = metrics_without_clock(folder)
    contrast, head = rows[:4], rows[4:]
    assert all(set(row) == {"step", "train/supcon_loss", "train/lr", "train/stage"} for row in contrast)
    assert all({"train/loss", "val/auc"} <= set(row) and row["train/stage"] == 1 for row in head)
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert contrast[-1]["train/supcon_loss"] < contrast[0]["train/supcon_loss"] - 0.05
    assert not equal(encoder_of(folder / "checkpoints/best"), encoder_of(start))
    assert summary_of(folder)["metrics"]["before/sccs"] != summary_of(folder)["metrics"]["after/sccs"]


def test_the_contrast_sees_training_windows_alone_with_their_own_classes(fit, monkeypatch):
    seen, classes = [], []
    real_loss, real_contrast = fold.batch_loss, fold.sup_con

    def loss(study, fit, index):
        if fit.stage == "supcon":
            seen.append((study, index.numpy()))
        return real_loss(study, fit, index)

    def contrast(vectors, given, temperature):
        classes.append(given.numpy())
        assert temperature == 0.1
        return real_contrast(vectors, given, temperature)

    monkeypatch.setattr(fold, "batch_loss", loss)
    monkeypatch.setattr(fold, "sup_con", contrast)
    for site, expected in (("both", {0, 1, 2}), ("acceptor", {0, 2})):
        seen.clear(), classes.clear()
        fit(site, ["supcon", "head"], sites=[site], head_epochs=1)
        study, index = seen[0][0], np.concatenate([index for _, index in seen])
        windows = study.windows
        assert set(index) <= set(study.splits.folds[site][0]["train"])
        of_site = {"donor": 1, "acceptor": 2}
        names = zip(windows.labels[index], windows.sites[index], strict=True)
        assert [label and of_site[name] for label, name in names] == np.concatenate(classes).tolist()
        assert set(np.concatenate(classes)) == expected


def test_no_validation_test_or_selection_window_reaches_the_contrast(fit, monkeypatch):
    # Other bases and other labels there, and the encoder after the stage is the same bit for bit.
    real = finetuning.load_windows

    def other_bases(where):
        def load(*args):
            windows, splits = real(*args)
            train = np.zeros(len(windows), bool)
            train[splits.folds["both"][0]["train"]] = True
            rows = np.flatnonzero(train if where == "train" else ~train)
            selection = set(range(len(windows))) - {int(i) for part in splits.folds["both"][0].values() for i in part}
            assert selection and (where == "train" or selection <= set(rows.tolist()))
            ids, labels = windows.ids.copy(), windows.labels.copy()
            ids[rows] = np.random.default_rng(5).integers(A, A + 4, ids[rows].shape, dtype=np.uint8)
            labels[rows[::3]] = 1 - labels[rows[::3]]
            return dataclasses.replace(windows, ids=ids, labels=labels), splits

        return load

    after = {}
    for where in ("nowhere", "others", "train"):
        if where != "nowhere":
            monkeypatch.setattr(finetuning, "load_windows", other_bases(where))
        (folder,) = fit(where, ["supcon", "head"], head_epochs=1)
        after[where] = encoder_of(folder / "checkpoints/best")
    assert equal(after["nowhere"], after["others"])
    assert not equal(after["nowhere"], after["train"])  # the test can fail


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_killed_again_and_again_at_ever_later_moments_of_all_stages_equals_a_straight_run(fit, tmp_path, monkeypatch):
    (straight,) = fit("straight", ["supcon", "head", "full"], head_epochs=2)
    places = [(fold, "train_epoch"), (fold, "enter_stage"), (finetuning, "score_fold"), (RunFolder, "record")]
    places.append((RunFolder, "save_state"))
    with monkeypatch.context() as patch:
        run = functools.partial(fit, "killed", ["supcon", "head", "full"], head_epochs=2)
        assert start_until_done(patch, tmp_path / "killed", places, run) > 6
    (killed,) = run()  # finished: what is there is given
    assert_same_run(killed, straight)


@pytest.mark.parametrize("stage, last", [("supcon", "head"), ("head", "full")])
def test_asked_to_stop_within_an_epoch_of_a_stage_equals_a_straight_run(fit, monkeypatch, stage, last):
    stages = [stage, last]
    (straight,) = fit("straight", stages)
    real, steps = fold.batch_loss, 0

    def loss(study, fit, index):
        nonlocal steps
        steps += fit.stage == stage
        batches = len(study.splits.folds["both"][0]["train"]) // fit.batch_size
        study.stop.asked = steps == batches + 3  # in its second epoch
        return real(study, fit, index)

    with monkeypatch.context() as patch:
        patch.setattr(fold, "batch_loss", loss)
        with pytest.raises(Interrupted, match="stopped in .*fold00, epoch 2"):
            fit("stopped", stages)
    (stopped,) = fit("stopped", stages)
    assert_same_run(stopped, straight)


def test_everything_killed_after_it_has_become_the_best_does_not_start_from_its_own_head(fit, monkeypatch):
    scripted_auc(monkeypatch, [0.6, 0.5, 0.9, 0.95])
    (straight,) = fit("straight", ["head", "full"], head_epochs=2)
    real = fold.keep_best

    def keep_and_die(of, fit):
        real(of, fit)
        if fit.stage == "full":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(fold, "keep_best", keep_and_die)
        with pytest.raises(Crash):
            fit("killed", ["head", "full"], head_epochs=2)
    (killed,) = fit("killed", ["head", "full"], head_epochs=2)
    assert_same_run(killed, straight)


@pytest.mark.parametrize("arm, measured", [("baseline", 1), ("fresh", 3)])
def test_nmi_before_fine_tuning_is_measured_once_where_folds_start_alike(arm, measured, monkeypatch):
    asked = []
    monkeypatch.setattr(fold, "motif_nmi", lambda study, bert: asked.append(bert) or float(bert))
    start = fold.Start(None, "mean", fresh=arm == "fresh")
    found = [fold.start_nmi(None, start, number) for number in range(3)]
    assert found == ([0.0, 1.0, 2.0] if measured == 3 else [0.0] * 3) and len(asked) == measured

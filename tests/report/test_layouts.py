"""Report, caveats, relate and status over {one, several seeds of pre-training} x {all, few labels}; nothing trained."""

import dataclasses
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from made_runs import ARMS, make_run, pretrained
from safetensors.torch import load_file, save_file

from simcsp.core import run_layout as layout
from simcsp.core.arms import BASELINE, starts_of
from simcsp.metrics.proxy_correlation import drop_weights, find_checkpoints
from simcsp.model.checksums import write_checksums
from simcsp.report.caveats import leaks, selection
from simcsp.report.checkpoint_distance import measure_distances
from simcsp.report.collect import differing_settings, label_runs, merge
from simcsp.report.status import status_of
from simcsp.report.write import write_report
from simcsp.training.arms import resolve_arms

ENCODERS = {arm: skill for arm, skill in ARMS.items() if arm in (BASELINE, "best_sccs", "last")}


@pytest.fixture(params=[None, (0, 1)], ids=["one seed", "two seeds"])
def seeds(request):
    return request.param


@pytest.fixture(params=[None, 50], ids=["all labels", "few labels"])
def labels(request):
    return request.param


def run_of(folder, name, seeds, labels=None, lr=1e-3, **options):
    """A made-up run, pre-trained under `seeds` with `lr`."""
    changes = {"pretrain.lr": lr, "data.selection_share": 0.0} | options.pop("changes", {})
    options = {"arms": ENCODERS, "pretrain_seeds": seeds, "train_windows": labels} | options
    config = make_run(folder, name, changes=changes, **options)
    if seeds is not None:
        config = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, seeds=list(seeds)))
    for seed in seeds or [None]:
        pretrained(config, seed=seed)
    return config


def with_checkpoints(config, start):
    """Give each stage its start, and a `last` and `best_sccs` that differ from it by 1 % and 2 %."""
    for folder in layout.stage_folders(config.folder, "pretrain").values():
        for name, factor in ((layout.START, 1.0), (layout.LAST, 1.01), (layout.best_of("sccs"), 1.02)):
            target = shutil.copytree(start, layout.checkpoint_path(folder, name))
            weights = {key: factor * value for key, value in load_file(target / "model.safetensors").items()}
            save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
            write_checksums(target)
    return config


def test_the_report_counts_every_fit_and_warns_of_selection_on_evaluation_data(tmp_path, seeds, labels, no_figures):
    config = run_of(tmp_path, "one", seeds, labels)
    write_report(config)
    table = pd.read_csv(config.folder / layout.REPORT / layout.REPORT_TABLE).set_index(["metric", "arm"])
    models = 1 if seeds is None else len(seeds)
    assert table.loc[("test/f1", "last"), "n"] == 5 * models and table.loc[("test/f1", BASELINE), "n"] == 5
    assert table.loc[("val/sccs", "last"), "n"] == 1  # the same value under both seeds
    picked = [sentence for sentence in selection(config) if "`best_sccs`" in sentence]
    assert len(picked) == 2  # on training windows of fold 0, and the maximum of its own validations


def test_an_arm_that_starts_from_a_classifier_is_a_leak(tmp_path, seeds, labels):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/head.safetensors").touch()
    config = run_of(tmp_path, "one", seeds, labels)
    fit = next(path for path in layout.begun_fits(config.folder) if layout.fit_key(path).arm == "last")
    path = fit / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("- last\n", f"- last={tmp_path / 'tuned'}\n"))
    (fit / layout.SUMMARY).unlink()  # one that is not finished counts as well
    assert len(leaks(config)) == 1 and str(tmp_path / "tuned") in leaks(config)[0]


def test_runs_pre_trained_otherwise_are_two_arms_and_the_difference_is_told(tmp_path, seeds, labels):
    others = None if seeds is None else (2, 3)
    one = run_of(tmp_path, "one", seeds, labels, lr=1e-4)
    two = run_of(tmp_path, "two", others, labels, lr=5e-2, seed=1)
    runs = label_runs([one, two])
    assert merge(runs).names["two", "last"] == "two:last"
    assert differing_settings(runs)["pretrain.lr"] == [1e-4, 5e-2]
    assert ("pretrain.seeds" in differing_settings(runs)) == (seeds is not None)
    if seeds is not None:  # the same pre-training under other seeds is one arm
        same = run_of(tmp_path, "same", others, labels, lr=1e-4, seed=1)
        assert merge(label_runs([one, same])).names["same", "last"] == "last"


def test_every_seed_is_measured_from_its_own_start(tmp_path, start, seeds):
    config = with_checkpoints(run_of(tmp_path, "one", seeds), start)
    study = SimpleNamespace(runs={"one": config}, names={("one", arm): arm for arm in ENCODERS})
    for _ in range(2):  # measured, then read
        distances = measure_distances(study, tmp_path / "distances.json")
        assert set(distances) == {"last", "best_sccs"}
        for arm, moved, step in (("last", 0.01, 8), ("best_sccs", 0.02, 5)):
            assert [one.step for one in distances[arm]] == [step] * len(seeds or [0])
            assert [one.weights for one in distances[arm]] == pytest.approx([moved] * len(seeds or [0]), rel=1e-3)


def test_relate_finds_the_checkpoints_of_every_seed_and_leaves_no_classifier_behind(tmp_path, start, seeds, labels):
    config = with_checkpoints(run_of(tmp_path, "one", seeds), start)
    assert [checkpoint.step for checkpoint in find_checkpoints([config.folder])] == [0, 5, 8]  # equal ones count once
    relate = make_run(tmp_path / "runs/one", "relate", {"pretrain-000005": 0.8}, train_windows=labels)
    relate.folder.rename(config.folder / "relate")
    for fit in layout.finished_fits(config.folder / "relate"):
        shutil.copytree(start, layout.checkpoint_path(fit))
    drop_weights(config.folder)
    assert len(layout.finished_fits(config.folder / "relate")) == 5
    assert not list((config.folder / "relate").rglob("model.safetensors"))


def test_the_status_counts_fits_and_names_the_stage_that_is_not_done(tmp_path, seeds, labels):
    config = run_of(tmp_path, "one", seeds, labels)
    models = 1 if seeds is None else len(seeds)
    status = status_of(config.folder)
    assert (status.stage, status.progress, status.state) == ("finetune", f"fits done: {5 + 10 * models}", "done")
    assert f"({5 * models})" in status.headline  # of last and best_sccs
    (layout.finished_fits(config.folder, "last")[-1] / layout.SUMMARY).unlink()
    assert status_of(config.folder).progress.endswith("begun: 1")
    stage = list(layout.stage_folders(config.folder, "pretrain").values())[-1]
    (stage / layout.SUMMARY).unlink()
    assert status_of(config.folder).stage == str(stage.relative_to(config.folder))


def test_an_arm_of_another_checkpoint_is_fitted_once_whatever_the_seeds(tmp_path, start, seeds):
    config = with_checkpoints(run_of(tmp_path, "one", seeds), start)
    arms = ["pwm", "fresh", BASELINE, "last", f"mine={start}"]
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, arms=arms))
    expected = sum(starts_of(arm, len(config.pretrain_seeds)) for arm in arms)
    assert len(resolve_arms(config)) == expected == (5 if seeds is None else 6)
    of_last = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, arms=[f"last={start}"]))
    assert len(resolve_arms(of_last)) == starts_of(f"last={start}", len(config.pretrain_seeds)) == 1

"""The whole recipe at toy size, ours against the assembled one: the same work is done, what is unequal stops. Slow."""

import copy
import dataclasses
import runpy
import signal
import sys
import time

import numpy as np
import pytest
import yaml
from conftest import FOLDS, tiny_config

from benchmarks import recipe
from utils.errors import InputError

ARMS = ["baseline", "best_sccs"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tiny_data, tmp_path_factory):
    """Both sides, run by their real scripts, but all in this process, whose imports are done; without motif sites, so
    that scanpy is not needed."""
    folder = tmp_path_factory.mktemp("recipe")
    changes = {"mlm.steps": 0, "pretrain.steps": 2, "pretrain.eval_steps": 1, "pretrain.logging_steps": 1}
    changes |= {"model.pooling": "cls", "data.selection_share": 0.0, "workers": 1}
    changes |= {"model.initializer_range": 0.2}  # BERT's .02 gives all windows nearly the same vector
    changes |= {"finetune.arms": ARMS, "finetune.max_epochs": 1, "evaluate.sccs_pairs": "published"}
    settings = yaml.safe_load(tiny_config(folder, tiny_data, changes).read_text())
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:

        def run_here(command: list[object]) -> tuple[float, float]:
            begun = time.time()
            patch.setattr(sys, "argv", [str(word) for word in command[1:]])
            runpy.run_path(sys.argv[0], run_name="__main__")
            return begun, time.time()

        patch.setattr(recipe, "run", run_here)
        found = recipe.run_pair(settings, 3, folder / "pair")
    for number, handler in before.items():
        signal.signal(number, handler)
    return found


@pytest.fixture
def changed(pair):
    """A copy of both sides that a test may change."""
    return copy.deepcopy(pair)


def test_both_sides_test_the_same_windows_and_their_scores_are_finite(pair):
    ours, theirs = (side.folds.sort_values(["arm", "fold"]).reset_index(drop=True) for side in pair)
    assert len(ours) == len(theirs) == len(ARMS) * FOLDS
    for column in ("arm", "fold", "epochs", "windows", "labels"):
        assert ours[column].tolist() == theirs[column].tolist()
    assert {label for labels in theirs["labels"] for label in labels} == {0, 1}
    for side in pair:
        assert np.isfinite(side.folds[["f1", "auc"]].to_numpy()).all()
        assert side.folds["auc"].between(0, 1).all()


def test_the_start_checkpoint_scores_alike(pair):
    ours, theirs = pair
    assert ours.start.keys() == theirs.start.keys() == {"sccs"}
    assert ours.start["sccs"] == pytest.approx(theirs.start["sccs"], abs=1e-6)


def test_the_parts_are_the_whole(pair):
    for side in pair:
        assert sum(side.parts.values()) == pytest.approx(side.seconds)
        assert all(seconds >= 0 for seconds in side.parts.values())
    assert pair[0].parts.keys() == pair[1].parts.keys()


def test_the_row_and_the_tables(pair):
    settings = {"pretrain": {"steps": 2, "batch_size": 8, "eval_steps": 1}, "finetune": {"arms": ARMS}}
    values = recipe.build_row(settings, 1, [pair]).values(1.0)
    assert values["ratio"] == pytest.approx(pair[1].seconds / pair[0].seconds) and "SCCS" in values["remark"]
    parts = recipe.parts_table(recipe.mean_parts([pair])).splitlines()
    assert len(parts) == 2 + len(pair[0].parts)
    differences = recipe.paired_differences([pair, pair])
    assert [(row["arm"], row["metric"]) for row in differences] == [(a, m) for a in ARMS for m in recipe.METRICS]
    table = recipe.differences_table(differences).splitlines()
    assert len({row.count("|") for row in table}) == 1 and len(table) == 2 + len(differences)


@pytest.mark.parametrize(
    "start, message",
    [({"sccs": 0.5}, "SCCS of the start"), ({"sccs": float("nan")}, "SCCS"), ({"nmi": 0.2}, "NMI"), ({}, "SCCS")],
)
def test_another_start_is_refused(changed, start, message):
    ours, theirs = changed
    with pytest.raises(InputError, match=message):
        recipe.require_same_work(dataclasses.replace(ours, start=ours.start | start if start else {}), theirs)


@pytest.mark.parametrize("change", ["a window", "a label", "a fold"])
def test_other_test_windows_are_refused(changed, change):
    ours, theirs = changed
    recipe.require_same_work(ours, theirs)
    if change == "a window":
        theirs.folds.at[0, "windows"] = theirs.folds.at[0, "windows"][::-1]
    elif change == "a label":
        theirs.folds.at[0, "labels"] = [1 - label for label in theirs.folds.at[0, "labels"]]
    else:
        theirs.folds = theirs.folds.iloc[1:]
    with pytest.raises(InputError, match="other arms, folds or windows"):
        recipe.require_same_work(ours, theirs)


def test_scores_that_differ_by_more_than_chance_are_refused(changed):
    ours, theirs = changed
    rng = np.random.default_rng(0)
    ours.folds["f1"] = theirs.folds["f1"] = 0.5
    ours.folds["auc"] = theirs.folds["auc"] + 0.01 * rng.standard_normal(len(theirs.folds))
    recipe.require_equal_scores(recipe.paired_differences([(ours, theirs)]))
    theirs.folds.loc[theirs.folds["arm"] == "best_sccs", "auc"] -= 0.3
    with pytest.raises(InputError, match="more than chance: auc of best_sccs by \\+0.3"):
        recipe.require_equal_scores(recipe.paired_differences([(ours, theirs)]))
    theirs.folds["f1"] = 0.4  # without spread there is no p
    with pytest.raises(InputError, match="f1 of baseline by \\+0.1"):
        recipe.require_equal_scores(recipe.paired_differences([(ours, theirs)]))


def test_a_side_that_fails_is_one_line(tmp_path):
    script = tmp_path / "side.py"
    script.write_text("import sys; print('working'); sys.exit('side.py: error: no such thing')")
    with pytest.raises(InputError, match="side.py ended with status 1: side.py: error: no such thing"):
        recipe.run([sys.executable, script])

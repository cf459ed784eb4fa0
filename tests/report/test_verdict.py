"""The statistics of the comparison and the sentence that they give, from made-up folds."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulate_verdict import operating_characteristics
from simcsp.judge.scores import corrected_ttest, holm, smallest_difference
from simcsp.report.collect import Study
from simcsp.report.verdict import compare, find_contrasts, judge
from utils.arms import OF_PRETRAINING

FOLDS = 10
SPREAD = np.random.default_rng(0).normal(0, 0.01, FOLDS)


def study(tmp_path, arms, objective="simcse", site="both"):
    """A study of one run: {arm: its F1 above .8, a number (the same spread of differences is added) or one a fold}."""
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/summary.json").write_text(json.dumps({"objective": objective}))
    rng, rows = np.random.default_rng(1), []
    for arm, gain in arms.items():
        values = 0.8 + (gain + rng.normal(0, 0.01, FOLDS) if np.isscalar(gain) else np.array(gain))
        for fold, value in enumerate(values):
            job = {"run": "x", "arm": arm, "site": site, "seed": 0, "fold": fold, "ratio": 2 / 7}
            rows.append({**job, "metric": "test/f1", "value": value})
    runs = {"x": SimpleNamespace(folder=tmp_path)}
    return Study(runs, pd.DataFrame(rows), pd.DataFrame(), {("x", arm): arm for arm in arms})


def sentence(made):
    verdict = judge(made, find_contrasts(made))
    assert verdict.sentence.endswith(".") and "nan" not in verdict.sentence and "None" not in verdict.sentence
    return verdict.outcome, verdict.sentence


# -- Holm, and the smallest difference ---------------------------------------------------------------------------------


def test_holm_is_what_a_hand_works_out():
    # in rising order .005 x 4, .01 x 3, .03 x 2, .04 x 1, each at least the one before
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.5])) == pytest.approx([1, 1])
    assert holm(np.array([0.02])) == pytest.approx([0.02]) and len(holm(np.array([]))) == 0


def test_holm_keeps_the_chance_of_one_false_finding():
    p = np.random.default_rng(0).uniform(size=(4000, 6))
    share = np.mean([holm(row).min() < 0.05 for row in p])
    assert share == pytest.approx(0.05, abs=0.012)


def test_the_smallest_difference_without_correction_is_that_of_the_paired_t_test():
    # Cohen 1988 and every calculator of power: ten pairs, two-sided 5 %, power .80 need d = .996; thirty, .529
    assert smallest_difference(1.0, 10, 0.0) == pytest.approx(0.996, abs=0.001)
    assert smallest_difference(1.0, 30, 0.0) == pytest.approx(0.529, abs=0.001)
    assert smallest_difference(1.0, 1) is None


def test_the_corrected_test_finds_the_smallest_difference_in_four_cases_of_five():
    n, ratio, rng = 10, 2 / 7, np.random.default_rng(0)
    # differences whose mean has the variance that the correction assumes: a part common to all folds
    common = np.sqrt(ratio / (1 + ratio))
    shape = rng.normal(size=(2000, 1)) * common + rng.normal(size=(2000, n)) * np.sqrt(1 - common**2)
    sd = np.sqrt(1 - common**2)
    found = [corrected_ttest(row, ratio)["p"] < 0.05 for row in shape + smallest_difference(sd, n, ratio)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


# -- which contrasts, and their adjustment -----------------------------------------------------------------------------


def test_the_primary_contrast_is_against_the_control_and_the_rest_is_adjusted_together(tmp_path):
    arms = ("pwm", "baseline", "best_sccs", "last", "control_best_sccs", "control_last")
    made = study(tmp_path, dict.fromkeys(arms, 0.0))
    primary, *others = find_contrasts(made)
    assert (primary.arm, primary.reference, primary.p_holm) == ("best_sccs", "control_best_sccs", None)
    to_baseline = {(arm, "baseline") for arm in arms if arm != "baseline"}
    assert {(c.arm, c.reference) for c in others} == to_baseline | {("last", "control_last")}
    assert len(others) == len(to_baseline) + 1
    assert [c.p_holm for c in others] == pytest.approx(holm(np.array([c.p for c in others])))
    f1 = made.scores.pivot(index="fold", columns="arm", values="value")
    differences = (f1["best_sccs"] - f1["control_best_sccs"]).to_numpy()
    for key, value in corrected_ttest(differences, 2 / 7).items():
        assert getattr(primary, key) == pytest.approx(value), key
    assert primary.smallest == pytest.approx(smallest_difference(differences.std(ddof=1), FOLDS, 2 / 7))
    assert primary.n == FOLDS and not any(c.primary for c in others)


def test_without_a_control_the_primary_contrast_is_against_the_baseline(tmp_path):
    primary, *others = find_contrasts(study(tmp_path, dict.fromkeys(("baseline", *OF_PRETRAINING), 0.0)))
    assert (primary.arm, primary.reference, primary.control) == ("best_sccs", "baseline", False)
    assert {c.arm for c in others} == {"best_nmi", "last"}


def test_only_folds_that_both_arms_have_are_paired(tmp_path):
    made = study(tmp_path, {"baseline": 0.0, "best_sccs": 0.0})
    scores = made.scores[~((made.scores["arm"] == "best_sccs") & (made.scores["fold"] == 3))]
    scores = scores[~((scores["arm"] == "baseline") & (scores["fold"] == 7))]
    row = compare(scores).set_index("arm").loc["best_sccs"]
    assert (row["n"], row["n_paired"]) == (FOLDS - 1, FOLDS - 2)


# -- the sentence ------------------------------------------------------------------------------------------------------

BASE = np.zeros(FOLDS)


def test_contrast_that_beats_its_control_helped(tmp_path):
    arms = {"baseline": BASE, "control_best_sccs": 0.01 + SPREAD[::-1], "best_sccs": 0.06 + SPREAD}
    outcome, text = sentence(study(tmp_path, arms))
    assert outcome == "higher" and text.startswith("Contrast helped: best_sccs is 0.0500 above control_best_sccs in F1")
    assert "which its control" in text and "does not explain; against the baseline a gain is seen (+0.0" in text


def test_contrast_above_a_control_that_does_harm_is_no_gain(tmp_path):
    arms = {"baseline": BASE, "control_best_sccs": SPREAD[::-1] - 0.2, "best_sccs": SPREAD - 0.06}
    outcome, text = sentence(study(tmp_path, arms))
    assert outcome == "higher" and "a loss is seen" in text and "less harm than the control rather than a gain" in text


def test_contrast_below_its_control_harmed(tmp_path):
    arms = {"baseline": BASE, "control_best_sccs": 0.06 + SPREAD[::-1], "best_sccs": SPREAD}
    outcome, text = sentence(study(tmp_path, arms))
    assert outcome == "lower" and text.startswith("Contrast harmed: best_sccs is 0.0600 below control_best_sccs")
    assert "against the baseline no difference is seen" in text


def test_a_gain_that_the_control_shares_is_not_put_down_to_contrast(tmp_path):
    arms = {"baseline": BASE, "control_best_sccs": 0.05 + SPREAD[::-1], "best_sccs": 0.05 + SPREAD}
    outcome, text = sentence(study(tmp_path, arms))
    assert outcome == "no difference" and text.startswith("No difference between contrast and its control")
    gain = (0.05 + SPREAD).mean()
    assert f"does gain on the baseline ({gain:+.4f}, Holm p" in text and f"the control has {gain:+.4f})" in text
    assert "more text or the choice by labelled windows" in text


def test_no_difference_says_what_could_have_been_seen(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "control_best_sccs": SPREAD[::-1], "best_sccs": SPREAD})
    outcome, text = sentence(made)
    assert outcome == "no difference" and text.startswith("No difference seen")
    smallest = smallest_difference((SPREAD - SPREAD[::-1]).std(ddof=1), FOLDS, 2 / 7)
    assert f"finds a true difference of {smallest:.4f} in four cases of five" in text


@pytest.mark.parametrize("gain, begin", [(0.05, "A gain after"), (-0.05, "A loss after"), (0.0, "No difference seen")])
def test_without_a_control_the_sentence_names_no_cause(tmp_path, gain, begin):
    outcome, text = sentence(study(tmp_path, {"baseline": BASE, "best_sccs": gain + SPREAD}))
    assert text.startswith(begin) and "helped" not in text and "harmed" not in text
    assert "no control was run" in text and "contrast cannot be told from more DNA" in text
    assert outcome == {0.05: "higher", -0.05: "lower", 0.0: "no difference"}[gain]


def test_too_few_folds_give_no_verdict(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "best_sccs": 0.05 + SPREAD})
    for folds, part in ((1, "have one finished fold in common (F1 differs by +0.0"), (0, "have no finished fold")):
        few = made.scores[(made.scores["arm"] == "baseline") | (made.scores["fold"] < folds)]
        few = few if folds else pd.concat([few, made.scores[made.scores["arm"] == "best_sccs"].assign(fold=99)])
        outcome, text = sentence(Study(made.runs, few, made.predictions, made.names))
        assert outcome == "undecided" and text.startswith("No verdict") and part in text


def test_equal_folds_give_no_verdict(tmp_path):
    made = study(tmp_path, {"baseline": SPREAD, "best_sccs": SPREAD})
    outcome, text = sentence(made)
    assert outcome == "undecided" and f"have the same F1 in all {FOLDS} folds" in text
    assert find_contrasts(made)[0].p is None


def test_without_an_arm_of_contrast_there_is_none(tmp_path):
    outcome, text = sentence(study(tmp_path, {"pwm": 0.0, "baseline": 0.0}))
    assert outcome == "none" and "no arm with contrastive pre-training" in text


def test_masked_lm_in_the_place_of_contrast_is_no_contrast(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "best_sccs": 0.05 + SPREAD}, objective="mlm")
    outcome, text = sentence(made)
    assert outcome == "none" and "pretrain.objective is mlm" in text
    assert find_contrasts(made)[0].p_holm is not None  # it is compared all the same, as one of the rest


def test_another_arm_of_contrast_is_not_the_primary_one(tmp_path):
    outcome, text = sentence(study(tmp_path, {"baseline": BASE, "last": 0.05 + SPREAD}))
    assert outcome == "none" and "the primary comparison" in text and "last" in text


# -- simulated studies -------------------------------------------------------------------------------------------------


def test_the_verdict_keeps_its_level_in_simulated_studies():
    found = operating_characteristics(300, 0, windows=240, features=20, noise=0.0)
    assert found["false positive"] <= 0.05 and found["coverage"] >= 0.95
    assert found["plain t-test"] > 0.08  # folds share windows: the plain test takes them for independent
    assert 0.1 < found["power, one sd"] < 0.8 <= found["power, as said"] + 0.05

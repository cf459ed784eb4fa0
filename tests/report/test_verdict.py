"""The statistics of the comparison and what they come to in words, from made-up folds."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulate_verdict import operating_characteristics
from simcsp.core.arms import OF_PRETRAINING
from simcsp.core.errors import InputError
from simcsp.metrics.distance import Distance
from simcsp.metrics.scores import corrected_ttest, holm, smallest_difference
from simcsp.report.collect import Comparison
from simcsp.report.verdict import (
    PairedTest,
    above_best_floor,
    add_adjusted,
    compare,
    difference_test,
    find_contrasts,
    judge,
    paired_tests,
)

FOLDS = 10
SPREAD = np.random.default_rng(0).normal(0, 0.01, FOLDS)


def study(tmp_path, arms, objective="simcse", site="both", auc=None, pretrain_seed=-1, windows=0, sccs=()):
    """A study of one run: {arm: its F1 above .8, a number (the same spread of differences is added) or one a fold}.

    auc: the same for AUC; None: half of what F1 is above .8. sccs: of the start and of the last step.
    """
    (tmp_path / "pretrain").mkdir(exist_ok=True)
    stage = {"objective": objective, "steps": 10, "best": {}, "floors": {}}
    (tmp_path / "pretrain/summary.json").write_text(json.dumps(stage))
    rows = [{"step": step, "val/sccs": value} for step, value in zip((0, 10), sccs)] or [{"step": 0, "val/nmi": 0.1}]
    rows += [] if sccs else [{"step": 10, "val/nmi": 0.1}]
    (tmp_path / "pretrain/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng, rows, predictions = np.random.default_rng(1), [], []
    for arm, gain in arms.items():
        gain = gain + rng.normal(0, 0.01, FOLDS) if np.isscalar(gain) else np.array(gain)
        for fold in range(FOLDS):
            job = {"run": "x", "arm": arm, "site": site, "pretrain_seed": pretrain_seed, "train_windows": windows}
            job |= {"draw": 0, "seed": 0, "fold": fold, "ratio": 2 / 7, "val": 300, "hit_limit": False}
            scores = {"test/f1": 0.8 + gain[fold], "val/auc": 0.9}
            scores["test/auc"] = 0.9 + (gain[fold] / 2 if auc is None else auc[arm][fold])
            rows += [{**job, "metric": metric, "value": value} for metric, value in scores.items()]
            predictions += [{**job, "window": f"w{i}", "label": i, "probability": 0.1 + 0.8 * i} for i in (0, 1)]
    runs = {"x": SimpleNamespace(folder=tmp_path, evaluate=SimpleNamespace(smallest_effect=0.01))}
    return Comparison(runs, pd.DataFrame(rows), pd.DataFrame(predictions), {("x", arm): arm for arm in arms})


def changed(made, scores=None, predictions=None):
    """The study with other scores or predictions."""
    scores = made.scores if scores is None else scores
    return Comparison(made.runs, scores, made.predictions if predictions is None else predictions, made.names)


def with_auc(made, auc, *arms):
    """The study with another validation AUC of some arms."""
    theirs = made.scores["arm"].isin(arms) & (made.scores["metric"] == "val/auc")
    return changed(made, made.scores.assign(value=made.scores["value"].where(~theirs, auc)))


def words(made, distances=None):
    """Outcome, headline, and the sentences below it as one text."""
    verdict = judge(made, find_contrasts(made), distances)
    text = " ".join([verdict.headline, *verdict.details])
    assert "nan" not in text and "None" not in text and len(verdict.headline) < 140
    return verdict.outcome, verdict.headline, " ".join(verdict.details)


# -- Holm, and the smallest difference ---------------------------------------------------------------------------------


def test_the_smallest_difference_without_correction_is_that_of_the_paired_t_test():
    # Cohen 1988 and every calculator of power: ten pairs, two-sided 5 %, power .80 need d = .996; thirty, .529
    assert smallest_difference(1.0, 10, 0.0) == pytest.approx(0.996, abs=0.001)
    assert smallest_difference(1.0, 30, 0.0) == pytest.approx(0.529, abs=0.001)


# -- which contrasts, their unit and their adjustment ------------------------------------------------------------------


def test_the_primary_contrast_is_last_against_its_control_and_floors_are_not_adjusted_for(tmp_path):
    arms = ("pwm", "fresh", "baseline", "best_sccs", "last", "control_best_sccs", "control_last")
    made = study(tmp_path, dict.fromkeys(arms, 0.0))
    primary, of_auc, *others = find_contrasts(made)
    assert (primary.arm, primary.reference, primary.metric) == ("last", "control_last", "test/f1")
    assert (of_auc.arm, of_auc.reference, of_auc.metric) == ("last", "control_last", "test/auc")
    assert primary.primary and of_auc.primary and primary.p_holm is of_auc.p_holm is None
    assert not any(c.primary for c in others)
    adjusted = [c for c in others if c.p_holm is not None]
    secondary = {("last", "baseline"), ("best_sccs", "baseline"), ("best_sccs", "control_best_sccs")}
    assert {(c.arm, c.reference) for c in adjusted} == secondary and len(adjusted) == 2 * len(secondary)
    assert [c.p_holm for c in adjusted] == pytest.approx(holm(np.array([c.test.p for c in adjusted])))
    described = {(c.arm, c.reference) for c in others if c.p_holm is None}
    to_baseline = {(arm, "baseline") for arm in ("pwm", "fresh", "control_best_sccs", "control_last")}
    assert described == to_baseline | {("last", "pwm"), ("last", "fresh")}  # the primary arm beside each floor
    f1 = made.scores[made.scores["metric"] == "test/f1"].pivot(index="fold", columns="arm", values="value")
    differences = (f1["last"] - f1["control_last"]).to_numpy()
    for key, value in corrected_ttest(differences, 2 / 7).items():
        assert getattr(primary.test, key) == pytest.approx(value), key
    assert primary.test.smallest == pytest.approx(smallest_difference(differences.std(ddof=1), FOLDS, 2 / 7))
    assert (primary.test.n, primary.tests.unit, primary.tests.seeds) == (FOLDS, "folds x seeds", None)


def test_last_of_another_run_is_described_beside_the_primary_arm(tmp_path):
    made = study(tmp_path, {"baseline": 0.0, "last": 0.0, "control_last": 0.0, "y/last": 0.0})
    names = {("x", arm): arm for arm in ("baseline", "last", "control_last")} | {("y", "last"): "y/last"}
    contrasts = find_contrasts(Comparison(made.runs, made.scores, made.predictions, names))
    assert [(c.arm, c.metric, c.p_holm, c.primary) for c in contrasts if c.reference == "y/last"] == [
        ("last", metric, None, False) for metric in ("test/f1", "test/auc")
    ]


def test_pairs_that_are_asked_for_are_described_and_change_no_other(tmp_path):
    made = study(tmp_path, dict.fromkeys(("baseline", "last", "control_last", "best_sccs"), 0.0))
    before, pairs = find_contrasts(made), [("best_sccs", "control_last"), ("last", "control_last")]
    *others, f1, auc = find_contrasts(made, pairs)
    assert others == before
    assert [(c.arm, c.reference, c.metric, c.p_holm) for c in (f1, auc)] == [
        (*pairs[0], metric, None) for metric in ("test/f1", "test/auc")
    ]
    with pytest.raises(InputError, match="tpyo.*best_sccs"):
        find_contrasts(made, [("tpyo", "last")])


def test_without_a_control_the_primary_contrast_is_against_the_baseline(tmp_path):
    primary, _, *others = find_contrasts(study(tmp_path, dict.fromkeys(("baseline", *OF_PRETRAINING), 0.0)))
    assert (primary.arm, primary.reference, primary.control) == ("last", "baseline", False)
    assert {c.arm for c in others} == {"best_nmi", "best_sccs"}


def test_only_folds_that_both_arms_have_are_paired(tmp_path):
    made = study(tmp_path, {"baseline": 0.0, "last": 0.0})
    scores = made.scores[~((made.scores["arm"] == "last") & (made.scores["fold"] == 3))]
    scores = scores[~((scores["arm"] == "baseline") & (scores["fold"] == 7))]
    row = compare(scores, 0.01).set_index(["arm", "metric"]).loc["last", "test/f1"]
    assert (row["n"], row["n_paired"]) == (FOLDS - 1, FOLDS - 2)


def seeded(tmp_path, gains):
    """`last` and its control of several pre-training seeds, and a baseline of none; gains: of last, a row a seed."""
    base = study(tmp_path, {"baseline": 0.0})
    tables = [base.scores]
    for seed, gain in enumerate(gains):
        arms = {"control_last": np.zeros(FOLDS), "last": gain}
        tables.append(study(tmp_path, arms, pretrain_seed=seed).scores)
    names = {("x", arm): arm for arm in ("baseline", "last", "control_last")}
    return Comparison(base.runs, pd.concat(tables, ignore_index=True), base.predictions, names)


def test_several_pretraining_seeds_are_the_unit_and_folds_stand_beside_them(tmp_path):
    gains = np.array([0.03, 0.01, 0.05])
    made = seeded(tmp_path, gains[:, None] + SPREAD)
    primary = find_contrasts(made)[0]
    assert (primary.test.n, primary.tests.unit) == (3, "pre-training seeds")
    seeds, folds = corrected_ttest(gains + SPREAD.mean(), 0.0), corrected_ttest(gains.mean() + SPREAD, 2 / 7)
    assert primary.test.diff == pytest.approx(seeds["diff"])
    for test, expected in ((primary.tests.seeds, seeds), (primary.tests.folds, folds)):
        assert (test.low, test.high) == pytest.approx((expected["low"], expected["high"]))
    assert primary.test.low == pytest.approx(min(seeds["low"], folds["low"]))
    assert primary.test.high == pytest.approx(max(seeds["high"], folds["high"]))
    assert primary.test.p == pytest.approx(max(seeds["p"], folds["p"]))  # for other seeds and for other windows
    outcome, headline, below = words(made)
    assert "3 pre-training seeds" in below and "F1 over seeds alone" in below and "One pre-training seed" not in below
    assert outcome == "no difference" and folds["p"] < 0.05 < seeds["p"]  # three seeds are few
    to_baseline = paired_tests(made.scores, "last", "baseline", "both", "test/f1", 0, 0.01)
    assert (to_baseline.both.n, to_baseline.unit) == (3, "pre-training seeds")  # it has no seed: paired with each


def test_one_trained_under_one_seed_is_compared_over_folds_alone(tmp_path):
    made = seeded(tmp_path, np.array([0.03, 0.01, 0.05])[:, None] + SPREAD)
    once = study(tmp_path, {"y:last": 0.0}).scores
    tests = paired_tests(pd.concat([made.scores, once]), "last", "y:last", "both", "test/f1", 0, 0.01)
    assert (tests.seeds, tests.unit, tests.both.n) == (None, "folds x seeds", FOLDS)


def test_seeds_that_agree_about_windows_that_differ_are_no_difference(tmp_path):
    uneven = np.where(np.arange(FOLDS) % 2, 0.2, -0.18)  # folds disagree, seeds do not
    made = seeded(tmp_path, 0.001 * np.arange(3)[:, None] + uneven)
    primary = find_contrasts(made)[0]
    assert corrected_ttest(uneven.mean() + 0.001 * np.arange(3), 0.0)["p"] < 0.05 < primary.test.p
    assert primary.test.equivalent > 0.05 and primary.test.low < 0 < primary.tests.seeds.low < primary.test.high
    assert words(made)[0] == "no difference"


def test_draws_of_few_training_windows_are_averaged_within_a_fold_and_compared_by_size(tmp_path):
    whole = study(tmp_path, {"control_last": 0.0, "last": 0.0})
    few = study(tmp_path, {"control_last": np.zeros(FOLDS), "last": 0.1 + SPREAD}, windows=50).scores
    again = few.assign(draw=1, value=few["value"] + np.where(few["arm"] == "last", 0.02, 0.0))
    made = changed(whole, pd.concat([whole.scores, few, again], ignore_index=True))
    contrasts = [c for c in find_contrasts(made) if c.metric == "test/f1"]
    assert [(c.windows, c.primary) for c in contrasts] == [(0, True), (50, False)]
    assert contrasts[1].test.n == FOLDS and contrasts[1].test.diff == pytest.approx(0.11 + SPREAD.mean())
    table = compare(made.scores, 0.01).set_index(["arm", "metric"])
    small = table.index.get_level_values("metric").str.endswith("@50")
    assert (table[~small]["n"] == FOLDS).all()  # the table is about all windows
    few = made.scores[(made.scores["train_windows"] == 50) & made.scores["metric"].isin(["test/f1", "test/auc"])]
    values = few.groupby(["arm", "metric"])["value"].mean()
    assert table[small]["mean"].to_dict() == pytest.approx({(a, f"{m}@50"): v for (a, m), v in values.items()})


def test_what_was_measured_before_finetuning_has_no_spread_over_folds(tmp_path):
    made = study(tmp_path, {"baseline": 0.0, "last": 0.0})
    before = made.scores[made.scores["metric"] == "test/f1"].assign(metric="before/sccs")
    rows = compare(pd.concat([made.scores, before]), 0.01).set_index(["arm", "metric"])
    row = rows.loc["last", "before/sccs"]
    assert row["n"] == 1 and row[["sd", "diff", "low", "p", "n_paired"]].isna().all()
    assert row["mean"] == pytest.approx(rows.loc[("last", "test/f1"), "mean"])


# -- the words ---------------------------------------------------------------------------------------------------------

BASE = np.zeros(FOLDS)


def test_the_first_line_is_the_difference_and_its_interval(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "control_last": SPREAD[::-1], "last": SPREAD})
    outcome, headline, below = words(made)
    one = find_contrasts(made)[0].test
    assert outcome == "no difference"
    numbers = f"{one.diff:+.3f} F1 [{one.low:+.3f}, {one.high:+.3f}]"
    assert headline == f"No difference seen: last - control_last = {numbers}"
    smallest = smallest_difference((SPREAD - SPREAD[::-1]).std(ddof=1), FOLDS, 2 / 7)
    assert f"Minimum detectable effect at 80 % power: {smallest:.4f} F1" in below
    assert "One pre-training seed" in below and "Against the baseline no difference is seen" in below


def test_a_null_says_whether_what_matters_is_ruled_out(tmp_path):
    wide = study(tmp_path, {"control_last": SPREAD[::-1], "last": SPREAD})
    assert "F1 not shown to be equal within ±0.01" in words(wide)[2]
    narrow = study(tmp_path, {"control_last": BASE, "last": SPREAD / 20})
    assert "F1 equal within ±0.01 (two one-sided tests, p " in words(narrow)[2]


@pytest.mark.parametrize(
    "control, gain, outcome, headline, sentences",
    [
        (0.01, 0.06, "higher", "Contrast helped: last - control_last = +0.050 F1 [", ["a gain is seen (+0.0"]),
        (0.06, 0.0, "lower", "Contrast harmed: last - control_last = -0.060 F1 [", ["no difference is seen"]),
        (-0.2, -0.06, "higher", "Contrast helped", ["a loss is seen", "harmed less than the control"]),
        (0.05, 0.05, "no difference", "No difference seen", ["a gain is seen (+0.0", "which the control has seen too"]),
    ],
    ids=["helped", "harmed", "harmed less", "shared"],
)
def test_the_cause_of_a_gain_or_loss_is_what_the_control_does_not_share(
    tmp_path, control, gain, outcome, headline, sentences
):
    made = study(tmp_path, {"baseline": BASE, "control_last": control + SPREAD[::-1], "last": gain + SPREAD})
    found, first, below = words(made)
    assert found == outcome and first.startswith(headline)
    assert "Against the baseline " in below and all(sentence in below for sentence in sentences)


@pytest.mark.parametrize("floor, supported", [(0.03, True), (0.09, False)])
def test_the_headline_has_the_place_against_the_best_floor(tmp_path, floor, supported):
    arms = {"pwm": -0.1, "linear": floor + SPREAD, "control_last": 0.01 + SPREAD[::-1], "last": 0.06 + SPREAD}
    made = study(tmp_path, arms)
    verdict = judge(made, find_contrasts(made))
    assert verdict.outcome == "higher" and verdict.supported is supported
    gap = above_best_floor(made, verdict.contrasts[0])
    assert gap.difference == pytest.approx(0.06 - floor) and "linear" in gap.sentence
    assert verdict.headline.endswith(gap.sentence)
    without = study(tmp_path, {arm: gain for arm, gain in arms.items() if arm not in ("pwm", "linear")})
    assert not judge(without, find_contrasts(without)).supported


@pytest.mark.parametrize(
    "sccs, said", [((0.164, 0.115), True), ((0.115, 0.164), False), ((0.164, 0.160), False), ((), False)]
)
def test_a_proxy_that_moves_against_the_score_is_said(tmp_path, sccs, said):
    arms = {"baseline": BASE, "control_last": 0.01 + SPREAD[::-1], "last": 0.06 + SPREAD}
    assert ("SCCS fell 0.164 -> 0.115 while F1 rose" in words(study(tmp_path, arms, sccs=sccs))[2]) is said


@pytest.mark.parametrize("gain, begin", [(0.05, "Higher after"), (-0.05, "Lower after"), (0.0, "No difference seen")])
def test_without_a_control_the_words_name_no_cause(tmp_path, gain, begin):
    outcome, headline, below = words(study(tmp_path, {"baseline": BASE, "last": gain + SPREAD}))
    assert headline.startswith(begin) and "helped" not in headline and "harmed" not in headline
    assert "No control was run" in below
    assert outcome == {0.05: "higher", -0.05: "lower", 0.0: "no difference"}[gain]


def test_endpoints_that_disagree_are_a_mixed_verdict(tmp_path):
    auc = {"control_last": BASE, "last": SPREAD}
    made = study(tmp_path, {"control_last": BASE, "last": 0.05 + SPREAD}, auc=auc)
    outcome, headline, _ = words(made)
    assert outcome == "mixed" and headline.startswith("Mixed: F1 higher, AUC no difference: last - control_last = +0.0")
    assert "AUC [" in headline and "F1 [" in headline


def test_f1_at_the_validation_threshold_stands_beside_that_at_one_half(tmp_path):
    made = study(tmp_path, {"control_last": BASE, "last": 0.05 + SPREAD})
    assert "threshold" not in words(made)[2]  # folds of earlier versions do not have it
    tuned = made.scores[made.scores["metric"] == "test/f1"].assign(metric="test/f1_tuned")
    tuned["value"] += np.where(tuned["arm"] == "last", -0.02, 0.0)
    scores = pd.concat([made.scores, tuned])
    gain = 0.03 + SPREAD.mean()
    assert f"F1 at the threshold tuned on validation windows: {gain:+.4f} [" in words(changed(made, scores))[2]


def test_the_distance_from_the_start_is_said(tmp_path):
    made = study(tmp_path, {"control_last": BASE, "last": SPREAD})
    found = words(made, {"last": [Distance(150, 0.0379, 0.819, 0.832)], "control_last": [Distance(150, 0.01)]})[2]
    assert "last is step 150 (weights changed by 3.79%, cosine 0.819 and CKA 0.832 to the start)" in found
    assert "control_last is step 150 (weights changed by 1.00%)" in found


@pytest.mark.parametrize("arm", ["last", "control_last"])
def test_an_arm_at_chance_makes_the_verdict_not_interpretable(tmp_path, arm):
    made = study(tmp_path, {"baseline": BASE, "control_last": BASE, "last": SPREAD})
    outcome, headline, _ = words(with_auc(made, 0.51, arm))
    assert outcome == "not interpretable"
    assert headline == f"Not interpretable: {arm} did not learn (validation AUC 0.51, chance)"
    assert words(with_auc(made, 0.51, "baseline"))[0] == "no difference"


def test_an_arm_that_calls_one_class_makes_the_verdict_not_interpretable(tmp_path):
    made = study(tmp_path, {"control_last": BASE, "last": SPREAD})
    flat = made.predictions["probability"].where(made.predictions["arm"] != "last", 0.2)
    outcome, headline, _ = words(changed(made, predictions=made.predictions.assign(probability=flat)))
    assert outcome == "not interpretable"
    assert headline == f"Not interpretable: last did not learn (all one class in {FOLDS} folds)"


def test_too_few_folds_give_no_verdict(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "last": 0.05 + SPREAD})
    for folds, part in ((1, "have one finished fold in common (F1 differs by +0.0"), (0, "have no finished fold")):
        few = made.scores[(made.scores["arm"] == "baseline") | (made.scores["fold"] < folds)]
        few = few if folds else pd.concat([few, made.scores[made.scores["arm"] == "last"].assign(fold=99)])
        outcome, headline, _ = words(changed(made, few))
        assert outcome == "undecided" and headline.startswith("No verdict") and part in headline


def test_equal_folds_give_no_verdict(tmp_path):
    made = study(tmp_path, {"baseline": SPREAD, "last": SPREAD})
    outcome, headline, _ = words(made)
    assert outcome == "undecided" and f"have the same F1 in all {FOLDS} folds" in headline
    assert find_contrasts(made)[0].test.p is None


def test_without_an_arm_of_contrast_there_is_none(tmp_path):
    outcome, headline, _ = words(study(tmp_path, {"pwm": 0.0, "baseline": 0.0}))
    assert outcome == "none" and "no arm with contrastive pre-training" in headline


def test_masked_lm_in_the_place_of_contrast_is_no_contrast(tmp_path):
    made = study(tmp_path, {"baseline": BASE, "last": 0.05 + SPREAD}, objective="mlm")
    outcome, headline, _ = words(made)
    assert outcome == "none" and "pretrain.objective is mlm" in headline
    assert find_contrasts(made)[0].p_holm is not None  # it is compared all the same, as one of the rest


def test_a_chosen_checkpoint_is_not_the_primary_arm(tmp_path):
    outcome, headline, below = words(study(tmp_path, {"baseline": BASE, "best_sccs": 0.05 + SPREAD}))
    assert outcome == "none" and "last has not been fine-tuned" in headline and "best_sccs" in below


# -- simulated studies -------------------------------------------------------------------------------------------------


def test_the_verdict_keeps_its_level_in_simulated_studies():
    found = operating_characteristics(300, 0, windows=240, features=20, noise=0.0)
    assert found["false positive"] <= 0.05 and found["coverage"] >= 0.95
    assert found["plain t-test"] > 0.08  # folds share windows: the plain test takes them for independent
    assert 0.1 < found["power, one sd"] < 0.8 <= found["power, as said"] + 0.05


# -- what changed operators got past the tests above ------------------------------------------------------------------


def test_the_table_is_of_cross_validation_and_has_the_adjusted_p_of_it_alone(tmp_path):
    made = study(tmp_path, {"pwm": 0.0, "baseline": 0.0, "best_sccs": 0.02, "last": 0.01})
    contrasts = find_contrasts(made)
    table = compare(made.scores, 0.01)
    assert set(table["dataset"]) == {"spliceator"}
    elsewhere = table.assign(dataset="Homo_sapiens")
    both = add_adjusted(pd.concat([table, elsewhere], ignore_index=True), contrasts, 0)
    expected = {(one.arm, one.metric): one.p_holm for one in contrasts if one.p_holm is not None}
    shown = both[both["p_holm"].notna()]
    assert {(row.arm, row.metric): row.p_holm for row in shown.itertuples()} == expected and len(expected) == 2
    assert set(shown["dataset"]) == {"spliceator"}
    assert add_adjusted(table, contrasts, 50)["p_holm"].isna().all()  # adjusted at another number of windows


def test_a_verdict_names_its_windows_and_keeps_its_contrasts(tmp_path):
    few = study(tmp_path, {"control_last": BASE, "last": SPREAD}, windows=50)
    assert ", 50 training windows" in words(few)[2]
    verdict = judge(few, find_contrasts(few))
    assert [(one.arm, one.metric) for one in verdict.contrasts] == [("last", "test/f1"), ("last", "test/auc")]
    assert "training windows" not in words(study(tmp_path, {"control_last": BASE, "last": SPREAD}))[2]


def test_one_difference_has_no_spread_and_none_no_number():
    assert difference_test(np.array([0.1]), 2 / 7, 0.01) == PairedTest(1, diff=0.1)
    assert difference_test(np.array([]), 2 / 7, 0.01) == PairedTest(0)


def test_two_tasks_without_their_union_have_no_primary_contrast_and_one_has(tmp_path):
    arms = {"baseline": BASE, "last": SPREAD}
    donor, acceptor = (study(tmp_path, arms, site=site) for site in ("donor", "acceptor"))
    assert find_contrasts(donor)[0].primary
    made = changed(donor, pd.concat([donor.scores, acceptor.scores]))
    assert not any(one.primary for one in find_contrasts(made)) and words(made)[0] == "none"


def test_an_arm_that_equals_the_baseline_has_no_test_against_it(tmp_path):
    arms = {"baseline": SPREAD, "control_last": SPREAD[::-1], "last": SPREAD}
    assert "Against the baseline there is no test (+0.0000 F1" in words(study(tmp_path, arms))[2]


def test_both_arms_at_chance_are_both_named(tmp_path):
    made = study(tmp_path, {"control_last": BASE, "last": SPREAD})
    headline = words(with_auc(made, 0.5, "control_last", "last"))[1]
    assert headline.count("did not learn (validation AUC 0.50, chance)") == 2 and "; control_last did" in headline

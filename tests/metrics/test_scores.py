"""Scores of a classifier and the corrected t-test, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp
from sklearn.metrics import average_precision_score

from simcsp.metrics.scores import (
    TEST_TO_TRAIN,
    ap_interval,
    called_rates,
    classification_scores,
    corrected_ttest,
    equivalence_test,
    f1_at_prevalence,
    threshold_scores,
)


def test_classification_scores_of_a_case_done_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    probabilities = np.array([0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1, 0.5])  # 0.5 itself is no site
    scores = classification_scores(labels, probabilities)  # 2 true, 1 false, 2 missed, 3 rightly left
    assert scores["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["auc"] == pytest.approx(14 / 16)  # of 4 x 4 pairs, two are the wrong way round
    assert scores["ap"] == pytest.approx((1 / 1 + 2 / 2 + 3 / 4 + 4 / 5) / 4)
    assert scores["mcc"] == pytest.approx((2 * 3 - 1 * 2) / math.sqrt(3 * 4 * 4 * 5))
    assert classification_scores(labels, probabilities, threshold=0.45)["f1"] == pytest.approx(3 * 2 / (3 * 2 + 1 + 1))


def test_corrected_ttest_against_a_hand_calculation():
    differences = np.array([0.01, 0.03, -0.01, 0.02, 0.05])
    found = corrected_ttest(differences)
    # mean .02, s^2 = .0005; standard error sqrt(.0005 (1/5 + 2/7)); t(4) leaves 2.5 % above 2.776445
    error = math.sqrt(0.0005 * (1 / 5 + 2 / 7))
    assert found["diff"] == pytest.approx(0.02)
    assert found["low"] == pytest.approx(0.02 - 2.776445 * error, rel=1e-6)
    assert found["high"] == pytest.approx(0.02 + 2.776445 * error, rel=1e-6)
    # t with 4 degrees of freedom has a closed form: P(|T| > t) = 1 - s (3 - s^2) / 2, s = t / sqrt(t^2 + 4)
    s = (0.02 / error) / math.sqrt((0.02 / error) ** 2 + 4)
    assert found["p"] == pytest.approx(1 - s * (3 - s**2) / 2, rel=1e-9)
    assert TEST_TO_TRAIN == 2 / 7


def test_corrected_ttest_says_nothing_where_there_is_nothing_to_say():
    assert corrected_ttest(np.array([0.1])) == {"diff": 0.1, "low": None, "high": None, "p": None}
    assert corrected_ttest(np.array([0.1, 0.1]))["p"] is None


# -- equivalence, and F1 at another prevalence -------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(3, 12), st.floats(-0.03, 0.03))
def test_equivalence_is_two_one_sided_tests(seed, n, shift):
    differences = np.random.default_rng(seed).normal(shift, 0.01, n)
    below = ttest_1samp(differences, -0.01, alternative="greater").pvalue
    above = ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert equivalence_test(differences, 0.01, 0.0) == pytest.approx(max(below, above), abs=1e-12)


def test_equivalence_goes_with_the_90_per_cent_interval():
    differences = np.random.default_rng(1).normal(0.002, 0.01, 10)
    error = differences.std(ddof=1) * np.sqrt(1 / 10 + 2 / 7)
    edge = abs(differences.mean()) + t.ppf(0.95, 9) * error
    assert equivalence_test(differences, edge * 1.001) < 0.05 < equivalence_test(differences, edge * 0.999)


def test_equivalence_of_equal_differences_and_of_one():
    assert equivalence_test(np.array([0.1]), 0.01) is None
    assert equivalence_test(np.full(5, 0.005), 0.01) == 0.0 and equivalence_test(np.full(5, 0.02), 0.01) == 1.0


@given(st.integers(0, 10_000))
def test_f1_at_its_own_prevalence_is_f1_and_falls_with_rarer_sites(seed):
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, 50))
    probabilities = rng.uniform(size=52)
    rates, f1 = called_rates(labels, probabilities), threshold_scores(labels, probabilities, 0.5)["f1"]
    assert f1_at_prevalence(rates["tpr"], rates["fpr"], labels.mean()) == pytest.approx(f1)
    if rates["tpr"] > 0:
        assert f1_at_prevalence(rates["tpr"], rates["fpr"], labels.mean() / 2) < f1 + 1e-12


def test_the_interval_of_average_precision_is_that_of_resampled_blocks():
    rng = np.random.default_rng(4)
    blocks = np.repeat(np.arange(12), 40)
    labels = (rng.random(480) < 0.05 * (blocks % 3)).astype(int)
    scores = np.round(labels + rng.normal(size=480), 1)  # ties
    draws = np.random.default_rng(5)
    expected = []
    for _ in range(200):
        times = draws.multinomial(12, np.full(12, 1 / 12))[blocks]
        expected.append(average_precision_score(np.repeat(labels, times), np.repeat(scores, times)))
    found = ap_interval(labels, scores, blocks + 7, seed=5, samples=200)
    assert found == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    assert found[0] < average_precision_score(labels, scores) < found[1]
    assert ap_interval(labels, scores, np.zeros(480), seed=5) is None

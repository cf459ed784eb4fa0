"""Scores of a classifier and the corrected t-test, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.metrics import average_precision_score

from simcsp.metrics.scores import (
    ap_interval,
    called_rates,
    equivalence_test,
    f1_at_prevalence,
    threshold_scores,
)

# -- equivalence, and F1 at another prevalence -------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(3, 12), st.floats(-0.03, 0.03))
def test_equivalence_is_two_one_sided_tests(seed, n, shift):
    differences = np.random.default_rng(seed).normal(shift, 0.01, n)
    below = ttest_1samp(differences, -0.01, alternative="greater").pvalue
    above = ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert equivalence_test(differences, 0.01, 0.0) == pytest.approx(max(below, above), abs=1e-12)


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
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    assert found["low"] < average_precision_score(labels, scores) < found["high"]
    assert ap_interval(labels, scores, np.zeros(480), seed=5) == {}

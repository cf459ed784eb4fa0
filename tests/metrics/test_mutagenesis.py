"""In-silico mutagenesis against a model whose answer is known: a weight matrix."""

import numpy as np
import pytest

from simcsp.metrics.mutagenesis import logo_heights, mean_drops, substitution_drops
from simcsp.text.alphabet import A, N

LENGTH = 12


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(LENGTH, 4)).astype(np.float32)


def score_by(matrix):
    def score(windows):
        known = windows != N
        return np.where(known, matrix[np.arange(LENGTH), np.where(known, windows - A, 0)], 0.0).sum(axis=1)

    return score


def test_of_a_weight_matrix_drops_are_differences_of_its_weights(matrix):
    windows = np.random.default_rng(1).integers(A, A + 4, (50, LENGTH), dtype=np.uint8)
    places = np.array([2, 3, 9])
    drops = substitution_drops(score_by(matrix), windows, places)
    own = matrix[places, windows[:, places] - A]
    np.testing.assert_allclose(drops, own[..., None] - matrix[places], atol=1e-5)
    means = mean_drops(windows[:, places], drops)
    others = windows[:, 2] != A + 1
    assert means[0, 1] == pytest.approx(float((own[others, 0] - matrix[2, 1]).mean()), abs=1e-5)
    heights = logo_heights(windows[:, places], drops)
    # a place's heights sum to the mean of its three substitutions, over windows
    np.testing.assert_allclose(heights.sum(axis=1), drops.sum(axis=2).mean(axis=0) / 3, atol=1e-5)


def test_a_base_that_all_windows_have_has_no_drop_and_an_n_has_no_letter(matrix):
    windows = np.full((4, LENGTH), A, dtype=np.uint8)
    windows[:, 5] = N
    drops = substitution_drops(score_by(matrix), windows, np.arange(LENGTH))
    means, heights = mean_drops(windows, drops), logo_heights(windows, drops)
    assert np.isnan(means[0, 0]) and np.isfinite(means[0, 1:]).all() and not drops[:, 0, 0].any()
    assert (heights[5] == 0).all() and heights[0, 0] != 0
    np.testing.assert_allclose(means[5], -matrix[5], atol=1e-5)

"""Views of a window: moved along real text."""

import numpy as np
import pytest

from simcsp.text.alphabet import A, T
from simcsp.training.views import shifted


def random_ids(shape):
    return np.random.default_rng(0).integers(A, T + 1, size=shape, dtype=np.uint8)


def test_shifted_windows_are_cuts_of_the_longer_ones_and_reach_every_offset():
    ids = random_ids((2000, 40 + 2 * 3))
    views, middles = shifted(ids, 3, np.random.default_rng(1))
    assert views.shape == (2000, 40) and views.dtype == np.uint8
    offsets = [next(i for i in range(7) if np.array_equal(row[i : i + 40], view)) for row, view in zip(ids, views)]
    assert np.array_equal(views[np.arange(2000), middles], ids[:, 23])
    assert np.array_equal(middles, 23 - np.array(offsets))
    shares = np.bincount(offsets, minlength=7) / 2000
    assert shares == pytest.approx([1 / 7] * 7, abs=0.04)  # five standard errors


def test_views_follow_the_generator_and_are_the_windows_themselves_without_a_shift():
    ids = random_ids((8, 60))
    assert np.array_equal(shifted(ids, 0, np.random.default_rng(0))[0], ids)
    first, again, other = (shifted(ids, 5, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)

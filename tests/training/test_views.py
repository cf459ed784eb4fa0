"""Views of a window: moved along real text, and with bases substituted."""

import numpy as np
import pytest

from simcsp.text.alphabet import CLS, SEP, A, N, T
from simcsp.training.views import mutated, shifted


def random_ids(shape, seed=0):
    return np.random.default_rng(seed).integers(A, T + 1, size=shape, dtype=np.uint8)


def test_shifted_windows_are_cuts_of_the_longer_ones_and_reach_every_offset():
    ids = random_ids((2000, 40 + 2 * 3))
    views, middles = shifted(ids, 3, np.random.default_rng(1))
    assert views.shape == (2000, 40) and views.dtype == np.uint8
    offsets = [next(i for i in range(7) if np.array_equal(row[i : i + 40], view)) for row, view in zip(ids, views)]
    assert np.array_equal(views[np.arange(2000), middles], ids[:, 23]) and np.array_equal(
        middles, 23 - np.array(offsets)
    )
    shares = np.bincount(offsets, minlength=7) / 2000
    assert shares == pytest.approx([1 / 7] * 7, abs=0.04)  # five standard errors


def test_no_shift_is_the_window_itself():
    ids = random_ids((5, 30))
    assert np.array_equal(shifted(ids, 0, np.random.default_rng(0))[0], ids)


def test_mutations_are_any_of_the_other_three_bases_at_the_rate_told():
    ids = random_ids((1000, 500))
    ids[:, ::10] = N
    ids[:, 1], ids[:, -1] = CLS, SEP
    before = ids.copy()
    views = mutated(ids, 0.05, np.random.default_rng(1))
    assert views.shape == ids.shape and views.dtype == np.uint8
    assert np.array_equal(ids, before)
    bases = ids >= A
    assert np.array_equal(views[~bases], ids[~bases])
    assert (views[bases] >= A).all() and (views[bases] <= T).all()
    changed = views != ids
    assert changed[bases].mean() == pytest.approx(0.05, abs=0.002)
    for base in range(A, T + 1):
        now = np.bincount(views[changed & (ids == base)], minlength=T + 1)[A:]
        assert now[base - A] == 0
        assert np.delete(now, base - A) / now.sum() == pytest.approx([1 / 3] * 3, abs=0.04)


@pytest.mark.parametrize("rate, share", [(0.0, 0), (1.0, 1)])
def test_mutation_rates_at_the_ends(rate, share):
    ids = random_ids((20, 50))
    assert (mutated(ids, rate, np.random.default_rng(0)) != ids).mean() == share


def test_views_follow_the_generator():
    ids = random_ids((8, 60))
    for view in (lambda rng: shifted(ids, 5, rng)[0], lambda rng: mutated(ids, 0.1, rng)):
        first, again, other = (view(np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert np.array_equal(first, again) and not np.array_equal(first, other)

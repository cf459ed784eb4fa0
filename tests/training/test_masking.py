"""Masked bases: which are asked, and what the model sees."""

import numpy as np
import pytest
from conftest import put

from simcsp.core.errors import InputError
from simcsp.text.alphabet import CLS, MASK, PAD, SEP, UNK, A, N, T, add_special_tokens, encode
from simcsp.text.weight_matrix import site_scores
from simcsp.training.masking import IGNORED, choose_random, choose_weighted, corrupt, site_weights


def masked_at_random(ids, probability, rng):
    return corrupt(ids, choose_random(ids, probability, rng), rng)


@pytest.fixture(scope="module")
def masked():
    """A million tokens, [CLS], [SEP] and 10 % N among them: (ids, input, targets)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(A, T + 1, size=(1000, 1000), dtype=np.uint8)
    ids[rng.random(ids.shape) < 0.1] = N
    ids = add_special_tokens(ids)
    return ids, *masked_at_random(ids, 0.15, np.random.default_rng(1))


def test_targets_are_the_bases_before_masking_and_80_percent_become_mask_10_another_draw_10_stay(masked):
    ids, tokens, targets = masked
    asked = targets != IGNORED
    assert np.array_equal(targets[asked], ids[asked]) and targets.dtype == np.int64
    assert (tokens[asked] == MASK).mean() == pytest.approx(0.8, abs=0.006)
    # a random base is the right one in a quarter of the cases
    changed = asked & (tokens != MASK) & (tokens != ids)
    assert changed.sum() / asked.sum() == pytest.approx(0.1 * 3 / 4, abs=0.004)
    shares = np.bincount(tokens[changed], minlength=10)[A:] / changed.sum()
    assert shares == pytest.approx([0.25] * 4, abs=0.02)
    assert set(np.unique(tokens[asked])) == {MASK, A, A + 1, A + 2, T}


def test_special_tokens_are_never_asked_even_at_full_share():
    ids = np.array([[CLS, PAD, UNK, MASK, N, SEP, A, T]], dtype=np.uint8)
    for seed in range(50):
        tokens, targets = masked_at_random(ids, 0.999999, np.random.default_rng(seed))
        assert tokens[0, :6].tolist() == ids[0, :6].tolist()
        assert targets[0].tolist() == [IGNORED] * 6 + [A, T]


# -- which bases are asked ---------------------------------------------------------------------------------------------


def weights_of(ids):
    """Ten times as likely in the middle tenth of each window."""
    middle = abs(np.arange(ids.shape[1]) - ids.shape[1] / 2) < ids.shape[1] / 20
    return np.broadcast_to(np.where(middle, 10, 1), ids.shape)


CHOOSERS = {
    "random": choose_random,
    "weighted": lambda ids, probability, rng: choose_weighted(ids, weights_of(ids), probability, rng),
}
each_chooser = pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)


@each_chooser
@pytest.mark.parametrize("probability", [0.02, 0.15, 0.6])
def test_every_way_of_masking_asks_the_share_it_was_told(choose, masked, probability):
    ids = masked[0]
    chosen = choose(ids, probability, np.random.default_rng(2))
    assert chosen.dtype == bool and chosen.shape == ids.shape
    assert not chosen[ids < A].any()
    assert chosen[ids >= A].mean() == pytest.approx(probability, abs=0.003)  # six standard errors


@each_chooser
def test_short_windows_full_of_n_are_asked_their_share_too(choose):
    ids = np.random.default_rng(0).choice(np.array([CLS, SEP, N, A, T], dtype=np.uint8), size=(50_000, 7))
    chosen = choose(ids, 0.15, np.random.default_rng(1))
    assert not chosen[ids < A].any()
    assert chosen[ids >= A].mean() == pytest.approx(0.15, abs=0.006)


@each_chooser
def test_masks_follow_the_generator_and_leave_the_ids_alone(choose):
    ids = np.random.default_rng(0).integers(N, T + 1, size=(4, 60), dtype=np.uint8)
    before = ids.copy()
    first, again, other = (choose(ids, 0.3, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(ids, before)
    tokens, targets = corrupt(ids, first, np.random.default_rng(0))
    assert np.array_equal(targets != IGNORED, first)
    assert np.array_equal(tokens[~first], ids[~first])


@each_chooser
def test_windows_without_bases_are_asked_nothing(choose):
    for shape in [(3, 20), (0, 20), (3, 2)]:
        ids = np.full(shape, N, dtype=np.uint8)
        chosen = choose(ids, 0.15, np.random.default_rng(0))
        assert chosen.shape == shape and not chosen.any()


def test_weights_say_where_bases_are_asked_within_a_window():
    ids = np.full((2000, 500), A, dtype=np.uint8)
    weights = weights_of(ids).copy()
    weights[1000:] = 1  # windows without a site: the same share in all
    chosen = choose_weighted(ids, weights, 0.15, np.random.default_rng(0))
    near = weights[0] == 10
    there, elsewhere = chosen[:1000, near].mean(), chosen[:1000, ~near].mean()
    assert there / elsewhere == pytest.approx(10, rel=0.05)
    assert chosen[:1000].mean() == pytest.approx(0.15, abs=0.002)
    assert chosen[1000:].mean() == pytest.approx(0.15, abs=0.002)


def test_a_base_that_would_be_asked_more_than_always_leaves_the_rest_to_others():
    ids = np.full((1000, 100), A, dtype=np.uint8)
    weights = np.ones(ids.shape)
    weights[:, :4], weights[:, 4:10] = 1e6, 20
    chosen = choose_weighted(ids, weights, 0.15, np.random.default_rng(0))
    assert chosen[:, :4].all()
    # 15 in all: 4 for sure, 11 by weights 20 x 6 + 90, so that a weight of 20 would have 20 x 11 / 210 > 1 as well
    assert chosen[:, 4:10].all()
    assert chosen[:, 10:].mean() == pytest.approx(5 / 90, abs=0.005)


def test_weights_must_be_above_zero_on_bases_alone():
    ids = np.array([[CLS, A, N, T, SEP]], dtype=np.uint8)
    choose_weighted(ids, np.array([[0, 1, 0, 1, np.nan]]), 0.15, np.random.default_rng(0))
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="weights of masking must be finite and above 0"):
            choose_weighted(ids, np.array([[1, 1, 1, wrong, 1]]), 0.15, np.random.default_rng(0))


def test_bases_of_a_likely_site_weigh_more_and_no_site_spans_two_windows():
    matrices = {}
    for site, motif, at in (("donor", "CAGGTAAGT", 17), ("acceptor", "TTCTTTTCAG", 10)):
        table = np.full((40, 4), -0.5, dtype=np.float32)
        for i, letter in enumerate(motif):
            table[at + i, "ACGT".index(letter)] = 2.0
        matrices[site] = table.ravel()
    windows = [put("A" * 80, 37, "CAGGTAAGT"), "A" * 80, "C" * 79 + "G", "T" + "C" * 79]
    tokens = add_special_tokens(np.stack([encode(window) for window in windows]))
    found = site_weights(tokens, matrices)
    assert found.shape == tokens.shape
    assert np.flatnonzero(found[0] == 5).tolist() == list(range(1 + 37, 1 + 46))  # -3 to +6 about the boundary at 40
    assert [np.flatnonzero(row == 5).tolist() for row in found[1:]] == [[], [], []]
    scored = site_scores(encode(windows[0]), matrices)
    assert np.isfinite(scored).sum() == 3  # GT and AG about 40, the GT and the AG of AAGT

"""SCCS, its interval, alignment and uniformity, against scipy, plain loops and cases done by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from simcsp.metrics import sccs as s


def two_classes(seed=0, n=60, hidden=8, shift=1.0):
    """Vectors whose classes differ a little along one axis."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    vectors = rng.normal(size=(n, hidden))
    vectors[:, 0] += shift * (2 * labels - 1)
    return vectors.astype(np.float32), labels


def test_sccs_of_perfect_vectors_is_the_ceiling():
    same = np.arange(2000) % 2
    rho, auc = s.spearman_binary(same, same + np.linspace(0, 0.5, 2000))
    assert auc == 1.0
    assert rho == pytest.approx(s.SCCS_CEILING, abs=1e-3) == pytest.approx(math.sqrt(3) / 2, abs=1e-3)


@pytest.mark.parametrize(
    ("non_sites", "classes", "groups", "spread", "expected"),
    [
        (1200, "site", 2, 0.01, 0.866),
        (2400, "site", 2, 0.01, 0.861),
        (1200, "site", 3, 0.01, 0.650),
        (1200, "site", 3, 0.0, 0.775),
        (1200, "type", 3, 0.01, 0.839),
        (600, "type", 3, 0.01, 0.816),
    ],
)
def test_sccs_of_perfect_encoders_of_donors_and_acceptors(non_sites, classes, groups, spread, expected):
    """The table of docs/metrics.md. 600 donors, 600 acceptors; groups lie at right angles."""
    types = np.repeat([0, 1, 2], [non_sites, 600, 600])
    sites = np.minimum(types, 1)
    rng = np.random.default_rng(0)
    place = types if groups == 3 else sites
    vectors = np.eye(3, 64)[place] + spread * rng.standard_normal((len(types), 64))
    found = s.sccs(vectors, sites if classes == "site" else types)["sccs"]
    assert found == pytest.approx(expected, abs=2e-2 if (groups, classes, spread) == (3, "site", 0.01) else 2e-3)


@pytest.mark.parametrize("n", [201, 500])
def test_of_too_many_pairs_each_window_keeps_equally_many(monkeypatch, n):
    monkeypatch.setattr(s, "MOST_PAIRS", 20_000)
    left, right = s.pair_indices(n, "all", seed=1)
    assert 20_000 - n < len(left) <= 20_000 and (left != right).all()
    assert len(np.unique(np.minimum(left, right) * n + np.maximum(left, right))) == len(left)  # no pair twice
    assert len(np.unique(np.bincount(np.append(left, right), minlength=n))) == 1
    assert all(map(np.array_equal, (left, right), s.pair_indices(n, "all", seed=1)))
    assert not np.array_equal(left, s.pair_indices(n, "all", seed=2)[0])
    assert len(s.pair_indices(200, "all")[0]) == 200 * 199 / 2


def test_a_part_of_the_pairs_gives_sccs_and_its_interval_as_all_do(monkeypatch):
    """120 windows with 1,680 of their 7,140 pairs."""
    wholes, parts = [], []
    for seed in range(40):
        vectors, labels = two_classes(seed, n=120, shift=0.5)
        wholes.append(s.sccs_interval(vectors, labels, seed=seed, resamples=100))
        with monkeypatch.context() as patch:
            patch.setattr(s, "MOST_PAIRS", 1700)
            parts.append(s.sccs_interval(vectors, labels, seed=seed, resamples=100))
    whole, part = ({key: np.array([row[key] for row in rows]) for key in rows[0]} for rows in (wholes, parts))
    difference = part["sccs"] - whole["sccs"]
    assert abs(difference.mean()) < 3 * difference.std() / 40**0.5 and 0 < difference.std() < 1 / 1680**0.5
    widths = [found["null_high"] - found["null_low"] for found in (part, whole)]
    assert (widths[0] > widths[1]).all() and widths[0].mean() < 4 * 1.2 / 1680**0.5
    assert (part["high"] - part["low"] > whole["high"] - whole["low"]).mean() > 0.9
    truth = whole["sccs"].mean()
    assert np.mean((part["low"] < truth) & (truth < part["high"])) > 0.9


@pytest.mark.parametrize("n", [8, 9])
def test_published_pairs_use_a_window_at_most_once(n):
    left, right = s.pair_indices(n, "published", seed=1)
    assert len(left) == len(right) == 4
    assert len({*left.tolist(), *right.tolist()}) == 8
    assert not np.array_equal(left, s.pair_indices(n, "published", seed=2)[0])


@given(st.integers(3, 30), st.integers(0, 10_000), st.booleans())
@settings(max_examples=50)
def test_a_weighted_spearman_is_that_of_so_many_copies(n, seed, ties):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(n) < rng.integers(1, n))
    similarity = np.sort(rng.integers(0, 4, n).astype(float) if ties else rng.normal(size=n))
    copies = rng.integers(0, 4, n)
    starts = np.flatnonzero(np.append(True, similarity[1:] != similarity[:-1]))
    many = np.repeat(same, copies), np.repeat(similarity, copies)
    varies = all(len(set(values.tolist())) > 1 for values in many)
    expected = spearmanr(*many).statistic if varies else 0.0
    assert s.weighted_spearman(same, copies.astype(float), starts) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_sccs_holds_the_truth_about_as_often_as_it_says():
    hidden, shift = 16, 1.2
    truth = np.mean([s.sccs(*two_classes(seed, 400, hidden, shift))["sccs"] for seed in range(1000, 1006)])
    found = [s.sccs_interval(*two_classes(seed, 60, hidden, shift), resamples=100) for seed in range(100)]
    covered = np.mean([row["low"] <= truth <= row["high"] for row in found])
    assert 0.88 <= covered <= 0.99  # 95 % within three standard errors of 100 draws
    spread = np.std([row["sccs"] for row in found])
    assert np.mean([row["high"] - row["low"] for row in found]) == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_an_sccs_without_relation_lies_in_the_null_band():
    found = [s.sccs_interval(*two_classes(seed, 60, shift=0.0), resamples=100) for seed in range(60)]
    inside = np.mean([row["null_low"] <= row["sccs"] <= row["null_high"] for row in found])
    assert inside >= 0.85
    strong = s.sccs_interval(*two_classes(shift=3.0), resamples=50)
    assert strong["null_high"] < strong["low"] < strong["sccs"] < strong["high"]


def test_near_duplicates_are_resampled_together():
    vectors, labels = two_classes(n=60)
    twice, labels = np.concatenate([vectors, vectors]), np.concatenate([labels, labels])
    wide = s.sccs_interval(twice, labels, groups=np.tile(np.arange(60), 2), resamples=200)
    narrow = s.sccs_interval(twice, labels, resamples=200)
    assert wide["high"] - wide["low"] > 1.2 * (narrow["high"] - narrow["low"])  # 60 windows are known, not 120


def test_published_pairs_have_the_error_of_disjoint_pairs():
    vectors, labels = two_classes(n=400, shift=0.5)
    found = s.sccs_interval(vectors, labels, "published", seed=3, resamples=400)
    left, right = s.pair_indices(400, "published", seed=3)
    expected = spearmanr(labels[left] == labels[right], s.cosine_pairs(vectors, left, right)).statistic
    assert found["sccs"] == s.sccs(vectors, labels, "published", seed=3)["sccs"] == pytest.approx(expected, abs=2e-4)
    assert found["null_high"] == -found["null_low"] == pytest.approx(1.96 / math.sqrt(199), rel=1e-4)
    assert found["high"] - found["sccs"] == pytest.approx(1.96 / math.sqrt(199), rel=0.2)


def test_the_error_of_many_windows_is_that_of_a_part_scaled(monkeypatch):
    vectors, labels = two_classes(n=240, shift=1.2)
    groups = np.arange(240) // 2
    whole = s.sccs_interval(vectors, labels, groups=groups, resamples=200)
    monkeypatch.setattr(s, "BOOTSTRAP_WINDOWS", 120)
    part = s.sccs_interval(vectors, labels, groups=groups, resamples=200)
    assert part["sccs"] == whole["sccs"]
    assert part["high"] - part["low"] == pytest.approx(whole["high"] - whole["low"], rel=0.4)
    assert part["high"] != whole["high"]


def test_a_difference_is_paired_and_so_known_better_than_its_two_parts():
    vectors, labels = two_classes(n=200, shift=1.0)
    near = vectors + 0.1 * np.random.default_rng(5).normal(size=vectors.shape)
    found = s.sccs_difference(vectors, near, labels, resamples=200)
    assert found["diff"] == pytest.approx(s.sccs(near, labels)["sccs"] - s.sccs(vectors, labels)["sccs"])
    alone = [s.sccs_interval(v, labels, resamples=200) for v in (vectors, near)]
    unpaired = np.hypot(*(one["high"] - one["low"] for one in alone))
    assert found["diff_high"] - found["diff_low"] < unpaired / 2
    assert found == s.sccs_difference(vectors, near, labels, resamples=200)


def test_the_interval_of_a_difference_covers_what_is_there():
    rng, true, covered = np.random.default_rng(0), [], []
    for seed in range(100):
        labels = np.arange(80) % 2
        shared = rng.normal(size=(80, 4)) + 1.0 * np.where(labels, 1, -1)[:, None]
        other = shared + rng.normal(size=(80, 4))  # the same windows, noisier
        found = s.sccs_difference(shared, other, labels, seed=seed, resamples=100)
        true.append(found["diff"])
        covered.append((found["diff_low"], found["diff_high"]))
    inside = [low <= np.mean(true) <= high for low, high in covered]
    assert 0.833 <= np.mean(inside) <= 0.99  # .916 in 900 studies, less three standard errors of 100
    assert np.mean(true) < -0.02


def test_an_interval_is_repeatable_and_its_point_is_sccs():
    vectors, labels = two_classes()
    found = s.sccs_interval(vectors, labels, resamples=50)
    again, other = (s.sccs_interval(vectors, labels, seed=seed, resamples=50) for seed in (0, 1))
    assert found == again != other
    assert {key: found[key] for key in ("sccs", "pair_auc")} == s.sccs(vectors, labels)
    without = s.sccs_interval(vectors, labels, resamples=50, null=False)
    assert without == {key: value for key, value in found.items() if not key.startswith("null")}


def test_vectors_that_are_all_equal_have_an_interval_about_nought():
    found = s.sccs_interval(np.ones((20, 3)), np.arange(20) % 2, resamples=20)
    assert found["sccs"] == found["null_low"] == found["null_high"] == 0
    assert found["low"] == -found["high"] == pytest.approx(-1.96 / math.sqrt(190), rel=1e-4)


def test_numbers_are_alike_when_they_are_close():
    values = np.array([[0.5], [0.4], [0.9]])
    assert s.closeness(values, np.array([0, 0]), np.array([1, 2])) == pytest.approx([-0.1, -0.4])


def test_cosines_are_the_same_by_either_path():
    vectors, _ = two_classes(n=30)
    left, right = s.pair_indices(30, "all")
    many = s.cosine_pairs(vectors, left, right)
    parts = [slice(i, i + 50) for i in range(0, len(left), 50)]
    few = np.concatenate([s.cosine_pairs(vectors, left[part], right[part]) for part in parts])
    plain = [
        vectors[i] @ vectors[j] / math.sqrt(vectors[i] @ vectors[i] * (vectors[j] @ vectors[j]))
        for i, j in zip(left, right)
    ]
    np.testing.assert_allclose(many, plain, atol=1e-5)
    np.testing.assert_allclose(few, plain, atol=1e-5)


# -- alignment and uniformity ------------------------------------------------------------------------------------------


def test_alignment_uniformity_and_mean_cosine_equal_plain_loops():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 7, 5))
    units = [[row / math.sqrt(sum(x * x for x in row)) for row in views] for views in (first, second)]
    distances = [sum((x - y) ** 2 for x, y in zip(a, b)) for a, b in zip(*units)]
    assert s.alignment(first, second) == pytest.approx(sum(distances) / 7)
    pairs = [(units[0][i], units[0][j]) for i in range(7) for j in range(i + 1, 7)]
    potentials = [math.exp(-2 * sum((x - y) ** 2 for x, y in zip(a, b))) for a, b in pairs]
    assert s.uniformity(first) == pytest.approx(math.log(sum(potentials) / len(pairs)))
    assert s.mean_cosine(first) == pytest.approx(sum(float(a @ b) for a, b in pairs) / len(pairs))

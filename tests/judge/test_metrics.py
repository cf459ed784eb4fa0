"""Scores against other people's code, plain loops and cases done by hand; and the floors that scores stand on."""

import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from simcsp.judge.clustering import (
    adjusted_agreement,
    fuzzy_weights,
    kmeans,
    leiden,
    nearest_neighbours,
    neighbour_graph,
    nmi,
    principal_components,
)
from simcsp.judge.sccs import (
    SCCS_CEILING,
    _permuted_sccs,
    alignment,
    closeness,
    cosine_pairs,
    mean_cosine,
    pair_indices,
    sccs,
    sccs_interval,
    spearman_binary,
    uniformity,
    weighted_spearman,
)
from simcsp.judge.scores import TEST_TO_TRAIN, classification_scores, corrected_ttest
from simcsp.labels.floors import KmerLogistic, gc_content, kmer_counts
from simcsp.text.alphabet import encode
from simcsp.text.sites import motif_half
from simcsp.text.weight_matrix import WeightMatrix, one_hot


def two_classes(seed=0, n=60, hidden=8, shift=1.0):
    """Vectors whose classes differ a little along one axis."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    vectors = rng.normal(size=(n, hidden))
    vectors[:, 0] += shift * (2 * labels - 1)
    return vectors.astype(np.float32), labels


# -- SCCS --------------------------------------------------------------------------------------------------------------


class Encoder:
    """As much of a SentenceTransformer as its evaluator asks for: 'sentences' are row numbers."""

    similarity_fn_name = "cosine"

    class model_card_data:
        set_evaluation_metrics = staticmethod(lambda *args, **kwargs: None)

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, sentences, **_):
        return self.vectors[[int(sentence) for sentence in sentences]]


@pytest.mark.parametrize("pairs", ["all", "published"])
@pytest.mark.parametrize("seed", range(3))
def test_sccs_is_the_spearman_cosine_of_sentence_transformers(pairs, seed):
    vectors, labels = two_classes(seed)
    left, right = pair_indices(len(labels), pairs, seed)
    same = (labels[left] == labels[right]).astype(float).tolist()
    evaluator = EmbeddingSimilarityEvaluator([str(i) for i in left], [str(i) for i in right], same, name="pairs")
    scores = evaluator(Encoder(vectors))
    assert sccs(vectors, labels, pairs, seed)["sccs"] == pytest.approx(scores["pairs_spearman_cosine"], abs=2e-4)


@given(st.integers(3, 60), st.integers(0, 10_000), st.booleans())
def test_spearman_of_a_binary_label_is_scipy_s_ties_included(n, seed, ties):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(n) < rng.integers(1, n))
    similarity = rng.integers(0, 4, n).astype(float) if ties else rng.normal(size=n)
    rho, auc = spearman_binary(same, similarity)
    assert auc == pytest.approx(roc_auc_score(same, similarity))
    expected = spearmanr(same, similarity).statistic if len(set(similarity)) > 1 else 0.0
    assert rho == pytest.approx(expected, abs=1e-12)


@given(st.integers(3, 80), st.integers(0, 10_000))
def test_spearman_is_a_transform_of_the_pair_auc(n, seed):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(n) < rng.integers(1, n))
    rho, auc = spearman_binary(same, rng.normal(size=n))
    p = same.mean()
    # the formula is that of many pairs: n^2 for n^2 - 1
    assert rho == pytest.approx((auc - 0.5) * math.sqrt(12 * p * (1 - p)) * n / math.sqrt(n**2 - 1), abs=1e-9)


def test_sccs_of_perfect_vectors_is_the_ceiling():
    same = np.arange(2000) % 2
    rho, auc = spearman_binary(same, same + np.linspace(0, 0.5, 2000))
    assert auc == 1.0
    assert rho == pytest.approx(SCCS_CEILING, abs=1e-3) == pytest.approx(math.sqrt(3) / 2, abs=1e-3)


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
    found = sccs(vectors, sites if classes == "site" else types)["sccs"]
    assert found == pytest.approx(expected, abs=2e-2 if (groups, classes, spread) == (3, "site", 0.01) else 2e-3)


def test_sccs_rises_with_the_distance_of_the_classes():
    values = [sccs(*two_classes(shift=shift))["sccs"] for shift in (0.0, 1.0, 3.0)]
    assert abs(values[0]) < 0.06 and values[0] < values[1] < values[2] <= SCCS_CEILING + 0.01


def test_sccs_of_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="windows of both classes"):
        sccs(np.eye(4), np.ones(4))


def test_all_pairs_are_every_pair_once():
    left, right = pair_indices(5, "all")
    assert sorted(zip(left.tolist(), right.tolist())) == [(i, j) for i in range(5) for j in range(i + 1, 5)]


@pytest.mark.parametrize("n", [201, 500])
def test_of_too_many_pairs_each_window_keeps_equally_many(monkeypatch, n):
    monkeypatch.setattr("simcsp.judge.sccs.MOST_PAIRS", 20_000)
    left, right = pair_indices(n, "all", seed=1)
    assert 20_000 - n < len(left) <= 20_000 and (left != right).all()
    assert len(np.unique(np.minimum(left, right) * n + np.maximum(left, right))) == len(left)  # no pair twice
    assert len(np.unique(np.bincount(np.append(left, right), minlength=n))) == 1
    assert all(map(np.array_equal, (left, right), pair_indices(n, "all", seed=1)))
    assert not np.array_equal(left, pair_indices(n, "all", seed=2)[0])
    assert len(pair_indices(200, "all")[0]) == 200 * 199 / 2


def test_a_part_of_the_pairs_gives_sccs_and_its_interval_as_all_do(monkeypatch):
    """120 windows with 1,680 of their 7,140 pairs."""
    wholes, parts = [], []
    for seed in range(40):
        vectors, labels = two_classes(seed, n=120, shift=0.5)
        wholes.append(sccs_interval(vectors, labels, seed=seed, resamples=100))
        with monkeypatch.context() as patch:
            patch.setattr("simcsp.judge.sccs.MOST_PAIRS", 1700)
            parts.append(sccs_interval(vectors, labels, seed=seed, resamples=100))
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
    left, right = pair_indices(n, "published", seed=1)
    assert len(left) == len(right) == 4
    assert len({*left.tolist(), *right.tolist()}) == 8
    assert not np.array_equal(left, pair_indices(n, "published", seed=2)[0])


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
    assert weighted_spearman(same, copies.astype(float), starts) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_sccs_holds_the_truth_about_as_often_as_it_says():
    hidden, shift = 16, 1.2
    truth = np.mean([sccs(*two_classes(seed, 400, hidden, shift))["sccs"] for seed in range(1000, 1006)])
    found = [sccs_interval(*two_classes(seed, 60, hidden, shift), resamples=100) for seed in range(100)]
    covered = np.mean([row["low"] <= truth <= row["high"] for row in found])
    assert 0.88 <= covered <= 0.99  # 95 % within three standard errors of 100 draws
    spread = np.std([row["sccs"] for row in found])
    assert np.mean([row["high"] - row["low"] for row in found]) == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_an_sccs_without_relation_lies_in_the_null_band():
    found = [sccs_interval(*two_classes(seed, 60, shift=0.0), resamples=100) for seed in range(60)]
    inside = np.mean([row["null_low"] <= row["sccs"] <= row["null_high"] for row in found])
    assert inside >= 0.85
    strong = sccs_interval(*two_classes(shift=3.0), resamples=50)
    assert strong["null_high"] < strong["low"] < strong["sccs"] < strong["high"]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_null_band_is_that_of_permuted_labels(classes):
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(30, 4)), np.arange(30) % classes
    left, right = pair_indices(30, "all")
    similarity = cosine_pairs(vectors, left, right)
    found = _permuted_sccs(similarity, labels, left, right, 7, np.random.default_rng(5))
    mixed = np.random.default_rng(5).permuted(np.tile(labels, (7, 1)), axis=1)
    expected = [spearman_binary(row[left] == row[right], similarity)[0] for row in mixed]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_near_duplicates_are_resampled_together():
    vectors, labels = two_classes(n=60)
    twice, labels = np.concatenate([vectors, vectors]), np.concatenate([labels, labels])
    wide, narrow = (
        np.ptp([row["low"], row["high"]])
        for row in (
            sccs_interval(twice, labels, groups=np.tile(np.arange(60), 2), resamples=200),
            sccs_interval(twice, labels, resamples=200),
        )
    )
    assert wide > 1.2 * narrow  # 60 windows are known, not 120


def test_published_pairs_have_the_error_of_disjoint_pairs():
    vectors, labels = two_classes(n=400, shift=0.5)
    found = sccs_interval(vectors, labels, "published", seed=3, resamples=400)
    assert found["sccs"] == sccs(vectors, labels, "published", seed=3)["sccs"]
    assert found["null_high"] == -found["null_low"] == pytest.approx(1.96 / math.sqrt(199), rel=1e-4)
    assert found["high"] - found["sccs"] == pytest.approx(1.96 / math.sqrt(199), rel=0.2)


def test_the_error_of_many_windows_is_that_of_a_part_scaled(monkeypatch):
    vectors, labels = two_classes(n=240, shift=1.2)
    groups = np.arange(240) // 2
    whole = sccs_interval(vectors, labels, groups=groups, resamples=200)
    monkeypatch.setattr("simcsp.judge.sccs.BOOTSTRAP_WINDOWS", 120)
    part = sccs_interval(vectors, labels, groups=groups, resamples=200)
    assert part["sccs"] == whole["sccs"]
    assert part["high"] - part["low"] == pytest.approx(whole["high"] - whole["low"], rel=0.4)
    assert part["high"] != whole["high"]


def test_an_interval_is_repeatable_and_its_point_is_sccs():
    vectors, labels = two_classes()
    found = sccs_interval(vectors, labels, resamples=50)
    assert found == sccs_interval(vectors, labels, resamples=50) != sccs_interval(vectors, labels, seed=1, resamples=50)
    assert {key: found[key] for key in ("sccs", "pair_auc")} == sccs(vectors, labels)


def test_vectors_that_are_all_equal_have_an_interval_about_nought():
    found = sccs_interval(np.ones((20, 3)), np.arange(20) % 2, resamples=20)
    assert found["sccs"] == found["null_low"] == found["null_high"] == 0
    assert found["low"] == -found["high"] == pytest.approx(-1.96 / math.sqrt(190), rel=1e-4)


def test_numbers_are_alike_when_they_are_close():
    values = np.array([[0.5], [0.4], [0.9]])
    assert closeness(values, np.array([0, 0]), np.array([1, 2])) == pytest.approx([-0.1, -0.4])


def test_cosines_are_the_same_by_either_path():
    vectors, _ = two_classes(n=30)
    left, right = pair_indices(30, "all")
    many = cosine_pairs(vectors, left, right)
    few = np.concatenate([cosine_pairs(vectors, left[i : i + 50], right[i : i + 50]) for i in range(0, len(left), 50)])
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
    assert alignment(first, second) == pytest.approx(sum(distances) / 7)
    pairs = [(units[0][i], units[0][j]) for i in range(7) for j in range(i + 1, 7)]
    potentials = [math.exp(-2 * sum((x - y) ** 2 for x, y in zip(a, b))) for a, b in pairs]
    assert uniformity(first) == pytest.approx(math.log(sum(potentials) / len(pairs)))
    assert mean_cosine(first) == pytest.approx(sum(float(a @ b) for a, b in pairs) / len(pairs))


def test_a_collapsed_encoder_is_seen():
    same = np.tile([[3.0, 4.0]], (6, 1))
    assert alignment(same, same) == pytest.approx(0)
    assert uniformity(same) == pytest.approx(0)
    assert mean_cosine(same) == pytest.approx(1)


# -- NMI ---------------------------------------------------------------------------------------------------------------

LABELS = np.repeat(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"], 4)


def test_nmi_of_a_case_done_by_hand():
    # GT half: clusters are the labels. AG half: 2 + 2 of each label in either cluster.
    clusters = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3])
    scores = nmi(clusters, LABELS)
    assert scores["nmi_gt"] == pytest.approx(1)
    assert scores["nmi_ag"] == pytest.approx(0, abs=1e-12)
    assert scores["nmi"] == pytest.approx(0.5)
    assert scores["nmi_gt_bound"] == scores["nmi_ag_bound"] == pytest.approx(1)
    assert scores["clusters"] == 4


def test_nmi_of_a_half_is_the_mutual_information_over_the_mean_entropy():
    clusters = np.array([0, 0, 0, 1, 1, 1, 1, 1] + [0] * 8)
    # the clusters hold 3 + 0 and 1 + 4 sites of the two labels
    joint = [(3, 3, 4), (1, 5, 4), (4, 5, 4)]  # together, in the cluster, of the label
    information = sum(k / 8 * math.log(k * 8 / (a * b)) for k, a, b in joint)
    of_clusters = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    scores = nmi(clusters, LABELS)
    assert scores["nmi_gt"] == pytest.approx(2 * information / (of_clusters + math.log(2)))
    assert scores["nmi_gt"] == pytest.approx(normalized_mutual_info_score(LABELS[:8], clusters[:8]))
    assert scores["nmi_gt_bound"] == pytest.approx(2 * of_clusters / (of_clusters + math.log(2)))
    assert scores["nmi_ag"] == scores["nmi_ag_bound"] == 0  # one cluster says nothing, and can say nothing


@pytest.mark.parametrize("k, bound", [(10, 0.46), (20, 0.38), (40, 0.32), (100, 0.26)])
def test_many_pure_clusters_bound_the_nmi(k, bound):
    labels = np.repeat(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"], 400)
    clusters = np.concatenate([np.arange(800) * k // 800, np.arange(800) * k // 800 + k])
    scores = nmi(clusters, labels)
    assert scores["nmi"] == pytest.approx(bound, abs=0.005)
    assert scores["nmi_bound"] == pytest.approx(scores["nmi"])  # pure clusters reach what so many could


def test_labels_of_both_published_files_are_halved():
    labels = ["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"]
    labels += ["donor(SSE < 0.2)", "donor(SSE > 0.8)", "acceptor(SSE < 0.2)", "acceptor(SSE > 0.8)"]
    assert motif_half(np.array(labels)).tolist() == ["gt", "gt", "ag", "ag"] * 2


def test_adjusted_agreement_does_not_rise_with_the_number_of_clusters():
    rng = np.random.default_rng(0)
    labels = np.repeat(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"], 100)
    clusters = rng.integers(0, 90, 400)  # by chance
    assert nmi(clusters, labels)["nmi"] > 0.1
    found = adjusted_agreement(clusters, labels)
    assert abs(found["ami"]) < 0.05 and abs(found["ari"]) < 0.05
    perfect = adjusted_agreement(np.unique(labels, return_inverse=True)[1], labels)
    assert set(perfect) == {f"{name}{half}" for name in ("ami", "ari") for half in ("", "_gt", "_ag")}
    assert all(value == pytest.approx(1) for value in perfect.values())


def test_kmeans_makes_as_many_clusters_as_it_is_asked_for():
    rng = np.random.default_rng(0)
    planted = np.arange(120) % 4
    points = rng.normal(size=(120, 10)) + 12 * np.eye(10)[planted]
    assert normalized_mutual_info_score(planted, kmeans(points, 4)) == pytest.approx(1)
    assert len(set(kmeans(points, 7))) == 7
    assert np.array_equal(kmeans(points, 7), kmeans(points, 7))


def test_each_point_is_its_own_nearest_neighbour_at_no_distance():
    # from |x|^2 + |y|^2 - 2 xy, as scikit-learn has it, many of these would lie 1e-7 from themselves
    points = 20 + np.random.default_rng(0).normal(size=(200, 40))
    points[7] = points[3]
    indices, distances = nearest_neighbours(points, 15)
    assert np.array_equal(indices[:, 0], np.arange(200)) and not distances[:, 0].any()
    assert (np.sort(indices, axis=1)[:, 1:] != np.sort(indices, axis=1)[:, :-1]).all()
    every = cdist(points, points)
    np.testing.assert_allclose(np.sort(distances, axis=1), np.sort(every, axis=1)[:, :15], atol=1e-6)
    assert indices[7, 1] == 3 and distances[7, 1] == 0


@pytest.mark.parametrize("n", [2, 5, 31, 32, 33, 70, 1100])
@pytest.mark.parametrize("k", [2, 15])
def test_nearest_neighbours_are_those_of_all_distances(n, k):
    k = min(k, n - 1)
    points = np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32) + 10
    points[: n // 3] = points[n // 3 : 2 * (n // 3)]
    indices, distances = nearest_neighbours(points, k)
    every = cdist(points, points)
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(every, indices, axis=1), distances, atol=1e-6)
    assert all(len(set(row)) == k for row in indices)


def test_principal_components_are_those_of_scikit_learn_far_from_the_origin():
    features = np.random.default_rng(0).normal(size=(300, 200)) * np.geomspace(1, 0.01, 200) + 50
    for states in (features, features.astype(np.float32)):
        found, expected = principal_components(states), PCA(128).fit_transform(features)
        assert found.shape == (300, 128)
        assert cdist(found, found) == pytest.approx(cdist(expected, expected), abs=1e-3)
    assert principal_components(features[:10]).shape == (10, 9)


def test_the_graph_has_the_weights_of_exact_distances():
    points = np.random.default_rng(0).normal(size=(150, 40)) * np.linspace(1, 30, 40)
    graph = neighbour_graph(points)
    every = cdist(points, points)
    indices = every.argsort(axis=1)[:, :15]
    expected = fuzzy_weights(indices, np.take_along_axis(every, indices, axis=1)).toarray()
    found = np.zeros((150, 150))
    for edge in graph.es:
        found[edge.source, edge.target] = found[edge.target, edge.source] = edge["weight"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif("SIMCSP_SCANPY_PYTHON" not in os.environ, reason="needs an interpreter with scanpy")
def test_nmi_is_that_of_scanpy(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"], 150)
    kind = rng.integers(0, 3, 600) + 3 * np.unique(labels, return_inverse=True)[1]
    states = (rng.normal(size=(600, 64)) + 1.5 * rng.normal(size=(12, 64))[kind // 2]).astype(np.float32)
    np.save(tmp_path / "states.npy", states)
    server = Path(__file__).parents[2] / "benchmarks/scanpy_server.py"
    files = [tmp_path / "states.npy", tmp_path / "clusters.npy"]
    command = [os.environ["SIMCSP_SCANPY_PYTHON"], server, *files, "wall"]
    subprocess.run(command, input="\n", text=True, check=True, capture_output=True)
    theirs = nmi(np.load(tmp_path / "clusters.npy"), labels)["nmi"]
    assert nmi(leiden(states), labels)["nmi"] == pytest.approx(theirs, abs=0.005)


def test_leiden_finds_planted_clusters_and_is_repeatable():
    rng = np.random.default_rng(0)
    planted = np.arange(120) % 3
    points = rng.normal(size=(120, 10)) + 12 * np.eye(10)[planted]
    found = leiden(points)
    assert normalized_mutual_info_score(planted, found) == pytest.approx(1)
    assert np.array_equal(found, leiden(points))


def neighbours_of(points, k=15):
    distances, indices = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points)
    return indices, distances


@pytest.mark.parametrize("copies", [0, 5], ids=["all different", "some points twice"])
def test_edge_weights_are_those_of_umap(copies):
    from umap.umap_ import fuzzy_simplicial_set  # compiles for ten seconds

    points = np.random.default_rng(0).normal(size=(100, 6)) * np.linspace(0.1, 30, 100)[:, None]
    points[:copies] = points[50 : 50 + copies]
    indices, distances = neighbours_of(points)
    threads = torch.get_num_threads()
    expected, _, _ = fuzzy_simplicial_set(
        points, 15, np.random.RandomState(0), "euclidean", knn_indices=indices, knn_dists=distances
    )
    torch.set_num_threads(threads)  # numba sets its own
    np.testing.assert_allclose(fuzzy_weights(indices, distances).toarray(), expected.toarray(), atol=2e-5)


def test_edge_weights_are_symmetric_and_one_for_the_nearest_neighbour():
    indices, distances = neighbours_of(np.random.default_rng(1).normal(size=(60, 4)))
    weights = fuzzy_weights(indices, distances).toarray()
    np.testing.assert_allclose(weights, weights.T)
    assert not weights.diagonal().any()
    np.testing.assert_allclose(weights[np.arange(60), indices[:, 1]], 1.0)


def test_a_collapsed_encoder_still_gets_an_nmi():
    clusters = leiden(np.ones((40, 8)))
    scores = nmi(clusters, np.repeat(LABELS, 3)[:40])
    assert all(math.isfinite(value) for value in scores.values())


def test_nmi_leaves_the_threads_of_torch_as_they_were():
    # Sums depend on how they are split among threads: a run that resumes after its last NMI would train otherwise.
    before = torch.get_num_threads()
    leiden(np.random.default_rng(0).normal(size=(60, 4)))
    assert torch.get_num_threads() == before


def test_leiden_makes_more_clusters_at_a_higher_resolution():
    points = np.random.default_rng(0).normal(size=(150, 6))
    assert len(set(leiden(points, resolution=4.0))) > len(set(leiden(points, resolution=0.5)))


# -- classification and the paired test --------------------------------------------------------------------------------


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


def test_corrected_ttest_is_more_careful_than_the_plain_one():
    differences = np.random.default_rng(0).normal(0.02, 0.03, 10)
    corrected, plain = corrected_ttest(differences), corrected_ttest(differences, test_to_train=0.0)
    assert corrected["p"] > plain["p"]
    assert corrected["high"] - corrected["low"] > plain["high"] - plain["low"]


def test_corrected_ttest_says_nothing_where_there_is_nothing_to_say():
    assert corrected_ttest(np.array([0.1])) == {"diff": 0.1, "low": None, "high": None, "p": None}
    assert corrected_ttest(np.array([0.1, 0.1]))["p"] is None


# -- floors ------------------------------------------------------------------------------------------------------------


def rows(*texts):
    return np.stack([encode(text) for text in texts])


def test_one_hot_of_a_case_done_by_hand():
    found = one_hot(rows("TTACNT"), 2)  # the two nt on either side of the centre: T A | C N
    assert found.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert one_hot(rows("ACGT"), 50).shape == (1, 16)  # a flank beyond the window is the window


def test_gc_content_is_the_share_among_known_bases():
    assert gc_content(rows("GCATNNNN", "NNNNNNNN", "GGGCCCGC"))[:, 0].tolist() == [0.5, 0.0, 1.0]


@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=60)
def test_kmer_counts_equal_a_plain_count(texts, k):
    found = kmer_counts(rows(*texts), k)
    assert found.shape == (len(texts), 2 * 4**k)
    for text, counts in zip(texts, found):
        for half, part in ((text[:6], counts[: 4**k]), (text[6:], counts[4**k :])):
            kmers = [half[i : i + k] for i in range(6 - k + 1)]
            expected = np.zeros(4**k)
            for kmer in kmers:
                if "N" not in kmer:
                    expected[sum("ACGT".index(base) * 4**i for i, base in enumerate(kmer))] += 1
            assert part.tolist() == expected.tolist()


def test_weight_matrix_of_a_case_done_by_hand():
    ids = rows("AGTA", "CGTA", "AGTC", "ACCA", "GTTA", "CAGT")
    labels, sites = np.array([1, 1, 1, 0, 0, 0]), np.array(["donor"] * 6)
    matrix = WeightMatrix(flank=1).fit(ids, labels, sites)
    # the base before the centre is G in 3 of 3 sites, and C, T, A once each elsewhere; pseudocount 1
    expected = np.log(np.array([1, 1, 4, 1]) / 7) - np.log(np.array([2, 2, 1, 2]) / 7)
    assert matrix.log_odds[0][:4] == pytest.approx(expected)
    assert matrix.predict(ids)[:3].min() > matrix.predict(ids)[3:].max()


def test_weight_matrix_learns_one_matrix_for_each_site_type():
    rng = np.random.default_rng(0)
    ids = rng.integers(6, 10, size=(400, 8), dtype=np.uint8)
    labels, sites = np.arange(400) % 2, np.array(["donor", "acceptor"])[np.arange(400) // 2 % 2]
    ids[(labels == 1) & (sites == "donor"), 4:6] = encode("GT")
    ids[(labels == 1) & (sites == "acceptor"), 2:4] = encode("AG")
    probabilities = WeightMatrix(4).fit(ids, labels, sites).predict(ids)
    assert roc_auc_score(labels, probabilities) > 0.9
    assert probabilities.shape == (400,) and 0 <= probabilities.min() <= probabilities.max() <= 1


def test_weight_matrix_of_both_types_is_as_sharp_as_those_of_each():
    rng = np.random.default_rng(1)
    ids = rng.integers(6, 10, size=(4000, 20), dtype=np.uint8)
    labels, sites = np.arange(4000) % 2, np.array(["donor", "acceptor"])[np.arange(4000) // 2 % 2]
    ids[sites == "donor", 10:12], ids[sites == "acceptor", 8:10] = encode("GT"), encode("AG")  # decoys have them too
    for places in ((12, 13, 14), (4, 5, 6)):
        mine = (labels == 1) & (sites == ("donor" if places[0] > 10 else "acceptor"))
        for place in places:
            ids[mine & (rng.random(4000) < 0.5), place] = encode("A")[0]
    half = np.arange(4000) < 2000
    together = WeightMatrix(10).fit(ids[half], labels[half], sites[half]).predict(ids)
    apart = np.zeros(4000)
    for site in ("donor", "acceptor"):
        mine = sites == site
        apart[mine] = WeightMatrix(10).fit(ids[half & mine], labels[half & mine], sites[half & mine]).predict(ids[mine])
    assert roc_auc_score(labels[~half], together[~half]) > roc_auc_score(labels[~half], apart[~half]) - 0.005


def test_kmer_regression_learns_what_is_in_the_composition():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    shares = np.array([[0.25] * 4, [0.1, 0.4, 0.4, 0.1]])
    ids = np.stack([rng.choice(4, 60, p=shares[label]) + 6 for label in labels]).astype(np.uint8)
    sites = np.array(["donor"] * 200)
    probabilities = KmerLogistic(2).fit(ids[:100], labels[:100], sites[:100]).predict(ids[100:])
    assert roc_auc_score(labels[100:], probabilities) > 0.9

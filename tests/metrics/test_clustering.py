"""NMI and the clusters under it, against other people's code, exact distances and cases done by hand."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from simcsp.metrics.clustering import (
    find_neighbours,
    fuzzy_weights,
    kmeans,
    leiden,
    nearest_neighbours,
    neighbour_graph,
    nmi,
    principal_components,
)
from simcsp.text.sites import motif_half

LABELS = ["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"]


def test_labels_of_both_published_files_are_halved():
    labels = [*LABELS, "donor(SSE < 0.2)", "donor(SSE > 0.8)", "acceptor(SSE < 0.2)", "acceptor(SSE > 0.8)"]
    assert motif_half(np.array(labels)).tolist() == ["gt", "gt", "ag", "ag"] * 2


@pytest.mark.parametrize("cluster", [leiden, lambda points: kmeans(points, 4)], ids=["leiden", "kmeans"])
def test_planted_clusters_are_found(cluster):
    planted = np.arange(120) % 4
    points = np.random.default_rng(0).normal(size=(120, 10)) + 12 * np.eye(10)[planted]
    assert normalized_mutual_info_score(planted, cluster(points)) == pytest.approx(1)
    assert np.array_equal(cluster(points), cluster(points)) and len(set(kmeans(points, 7))) == 7


@pytest.mark.parametrize("n", [2, 5, 31, 32, 33, 70, 1100])
@pytest.mark.parametrize("k", [2, 15])
def test_nearest_neighbours_are_those_of_all_distances(n, k):
    k = min(k, n - 1)
    points = np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32) + 10
    points[: n // 3] = points[n // 3 : 2 * (n // 3)]
    indices, distances = nearest_neighbours(points, k)
    # from |x|^2 + |y|^2 - 2 xy, as scikit-learn has it, many would lie 1e-7 from themselves
    assert np.array_equal(indices[:, 0], np.arange(n)) and not distances[:, 0].any()
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
    graph = neighbour_graph(find_neighbours(points))
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
    labels = np.repeat(LABELS, 150)
    kind = rng.integers(0, 3, 600) + 3 * np.unique(labels, return_inverse=True)[1]
    states = (rng.normal(size=(600, 64)) + 1.5 * rng.normal(size=(12, 64))[kind // 2]).astype(np.float32)
    np.save(tmp_path / "states.npy", states)
    server = Path(__file__).parents[2] / "benchmarks/scanpy_server.py"
    files = [tmp_path / "states.npy", tmp_path / "clusters.npy"]
    command = [os.environ["SIMCSP_SCANPY_PYTHON"], server, *files, "wall"]
    subprocess.run(command, input="\n", text=True, check=True, capture_output=True)
    theirs = nmi(np.load(tmp_path / "clusters.npy"), labels)["nmi"]
    assert nmi(leiden(states), labels)["nmi"] == pytest.approx(theirs, abs=0.005)


def neighbours_of(points, k=15):
    distances, indices = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points)
    return indices, distances


@pytest.mark.slow  # umap compiles for ten seconds
@pytest.mark.parametrize("copies", [0, 5], ids=["all different", "some points twice"])
def test_edge_weights_are_those_of_umap(copies):
    from umap.umap_ import fuzzy_simplicial_set

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


def test_nmi_leaves_the_threads_of_torch_as_they_were():
    # Sums depend on how they are split among threads: a run that resumes after its last NMI would train otherwise.
    before = torch.get_num_threads()
    leiden(np.random.default_rng(0).normal(size=(60, 4)))
    assert torch.get_num_threads() == before

"""NMI: neighbour graph, Leiden clusters, and their agreement with labels, from arrays alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, triu
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from simcsp.core.device import CPU
from simcsp.text.sites import motif_half

if TYPE_CHECKING:
    import igraph

Neighbours = tuple[np.ndarray, np.ndarray]
"""(indices, distances), each [n, k]."""

_GROUP, _ROWS, _SPARE = 32, 1024, 5  # nearest neighbours: columns of a group, rows at a time, candidates beyond k


def principal_components(features: np.ndarray, device: torch.device = CPU) -> np.ndarray:
    """The first 128 principal components of features [n, d], as many as there are; float32. device: of the products.

    Only those of the covariance's eigenvectors are made, which scikit-learn's PCA cannot. The mean goes first: hidden
    states have one far from 0, and taken off their products in float32 it would leave little of the rest.
    """
    n, d = features.shape
    centred = features - features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    centred = centred.astype(np.float32, copy=False)
    first = d - min(128, n - 1, d)
    _, components = eigh(_product(centred.T, centred, device), subset_by_index=[first, d - 1])
    return _product(centred, components[:, ::-1], device)


def _product(left: np.ndarray, right: np.ndarray, device: torch.device) -> np.ndarray:
    if device.type == "cpu":
        return left @ right
    left, right = (torch.from_numpy(each.copy()).to(device) for each in (left, right))  # no stride may be negative
    return (left @ right).cpu().numpy()


def neighbour_graph(neighbours: Neighbours) -> igraph.Graph:
    """The graph of neighbours by `fuzzy_weights`, for Leiden."""
    import igraph

    edges = triu(fuzzy_weights(*neighbours), k=1).tocoo()
    return igraph.Graph(
        len(neighbours[0]),
        edges=list(zip(edges.row.tolist(), edges.col.tolist())),
        edge_attrs={"weight": edges.data.tolist()},
    )


def find_neighbours(features: np.ndarray, device: torch.device = CPU) -> Neighbours:
    """15 exact nearest neighbours of each of features [n, d] by their first 128 principal components.

    Each point counts as its own first neighbour, as in scanpy.
    """
    return nearest_neighbours(principal_components(features, device), min(15, len(features) - 1), device)


def lay_out(states: np.ndarray, seed: int) -> np.ndarray:
    """UMAP's layout [n, 2] of the very graph that Leiden clusters, for hidden states [n, d]."""
    from umap.umap_ import find_ab_params, simplicial_set_embedding  # which compiles for some seconds

    threads = torch.get_num_threads()

    a, b = find_ab_params(spread=1.0, min_dist=0.1)  # these and the numbers below are UMAP's defaults
    points, _ = simplicial_set_embedding(
        principal_components(states),
        fuzzy_weights(*find_neighbours(states)),
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=None,
        init="spectral",
        random_state=np.random.RandomState(seed),
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    torch.set_num_threads(threads)  # numba's thread layer raises it
    return points


def nearest_neighbours(points: np.ndarray, neighbours: int, device: torch.device = CPU) -> Neighbours:
    """(indices, distances) [n, neighbours] of the nearest of points [n, d], each point first among its own.

    Exact: all distances, by matrix products in float32 some rows at a time. The k smallest of a row lie in the k groups
    of columns with the smallest minima, so one pass over the matrix finds the minima, and only those groups are looked
    at. Some more than k are taken and ordered by their differences: |x|^2 + |y|^2 - 2 xy has an error that puts a third
    of all points some 1e-7 away from themselves, which UMAP's weights take for the distance of their nearest neighbour.
    """
    n, d = points.shape
    columns = -(-n // _GROUP) * _GROUP
    points_f32 = torch.from_numpy(points.astype(np.float32)).to(device)
    left = torch.cat([points_f32, torch.ones(n, 1, device=device)], dim=1)
    # left @ right is |other|^2 - 2 row other: |row|^2 would change no order
    right = torch.zeros(d + 1, columns, device=device)
    right[:d, :n] = -2 * points_f32.T
    right[d] = torch.inf
    right[d, :n] = points_f32.square().sum(dim=1)
    # groups take every (columns / _GROUP)th column: the minima are then of whole slices, which is one fast pass
    groups, spare = columns // _GROUP, min(n, neighbours + _SPARE)
    closest = []
    for start in range(0, n, _ROWS):
        squared = left[start : start + _ROWS] @ right
        squared.diagonal(start).fill_(-torch.inf)  # itself comes first
        slices = squared.view(len(squared), _GROUP, groups)
        nearest = slices.amin(dim=1).topk(min(spare, groups), largest=False, sorted=False).indices
        candidates = (nearest[:, None] + groups * torch.arange(_GROUP, device=device)[:, None]).flatten(1)
        chosen = squared.gather(1, candidates).topk(spare, largest=False).indices
        closest.append(candidates.gather(1, chosen))
    indices = torch.cat(closest).cpu().numpy()
    differences = (points - points[column] for column in indices.T)
    distances = np.sqrt(np.stack([np.einsum("ij,ij->i", each, each) for each in differences], axis=1))
    distances[:, 0] = -1.0  # itself, before its copies
    order = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    distances[:, 0] = 0.0
    return indices, distances


def fuzzy_weights(indices: np.ndarray, distances: np.ndarray) -> csr_matrix:
    """UMAP's fuzzy neighbourhood weights (McInnes et al. 2018, section 3.1), symmetric sparse [n, n].

    indices, distances: [n, k] of the nearest neighbours, each point first among its own. The same numbers as
    umap-learn's fuzzy_simplicial_set, which costs every new process half a minute of compilation.
    """
    n, k = indices.shape
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest = np.where(np.isfinite(nearest), nearest, 0.0)  # only copies of itself
    beyond = np.maximum(distances - nearest[:, None], 0.0)
    scale = _neighbourhood_scale(beyond[:, 1:], np.log2(k))
    mean = np.where(nearest > 0, distances.mean(axis=1), distances.mean())
    scale = np.maximum(scale, 1e-3 * mean)  # umap-learn's MIN_K_DIST_SCALE
    weights = np.exp(-beyond / scale[:, None])
    weights[indices == np.arange(n)[:, None]] = 0.0
    directed = csr_matrix((weights.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return directed + directed.T - directed.multiply(directed.T)  # probability that either sees the other


def _neighbourhood_scale(beyond: np.ndarray, target: float) -> np.ndarray:
    """The scale s of each row of [n, k - 1] with sum(exp(-beyond / s)) = target, by bisection as umap-learn does it."""
    low = np.zeros(len(beyond))
    high = np.full(len(beyond), np.inf)
    scale = np.ones(len(beyond))
    open_ = np.ones(len(beyond), dtype=bool)
    for _ in range(64):
        total = np.exp(-beyond / scale[:, None]).sum(axis=1)
        open_ &= np.abs(total - target) >= 1e-5
        above = open_ & (total > target)
        below = open_ & ~above
        high[above], low[below] = scale[above], scale[below]
        middle = np.where(np.isfinite(high), (low + high) / 2, scale * 2)
        scale = np.where(open_, middle, scale)
        if not open_.any():
            break
    return scale


def leiden(features: np.ndarray, seed: int = 0, device: torch.device = CPU) -> np.ndarray:
    """Cluster of each row of features [n, d]: Leiden (Traag et al. 2019) on modularity until it is stable; int [n]."""
    return leiden_of(neighbour_graph(find_neighbours(features, device)), seed)


def leiden_of(graph: igraph.Graph, seed: int = 0) -> np.ndarray:
    """Cluster of each point of a `neighbour_graph`; int [n]. Seeds end in different, about equally good, optima."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    clusters = graph.community_leiden("modularity", weights="weight", resolution=1.0, n_iterations=-1)
    return np.array(clusters.membership)


def kmeans(features: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Cluster of each row of features [n, d]: k-means on the components that Leiden's graph is made of; int [n].

    It always makes as many clusters as it is asked for, so that its NMI compares encoders at one and the same number.
    """
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(principal_components(features))


def nmi(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """NMI of clusters [n] with labels [n] within the GT half, within the AG half, and their mean.

    All sites are clustered together but scored by halves, as published. `*_bound` is the most that this many clusters
    of these sizes could reach: 2 min(H(L), H(C)) / (H(L) + H(C)), entropies within the half.
    """
    scores = by_half(normalized_mutual_info_score, clusters, labels, "nmi")
    bounds = by_half(_nmi_bound, clusters, labels, "bound")
    return {
        "nmi": scores["nmi"],
        "nmi_gt": scores["nmi_gt"],
        "nmi_gt_bound": bounds["bound_gt"],
        "nmi_ag": scores["nmi_ag"],
        "nmi_ag_bound": bounds["bound_ag"],
        "nmi_bound": bounds["bound"],
        "clusters": float(len(np.unique(clusters))),
    }


def adjusted_agreement(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AMI and ARI (0 for clusters by chance, whatever their number) by halves as in `nmi`: ami, ami_gt, ..., ari_ag."""
    return by_half(adjusted_mutual_info_score, clusters, labels, "ami") | by_half(
        adjusted_rand_score, clusters, labels, "ari"
    )


def by_half(
    score: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, labels: np.ndarray, name: str
) -> dict[str, float]:
    """{name: mean, name_gt, name_ag} of score(labels, values) within the GT half and the AG half of labels [n]."""
    halves, scores = motif_half(labels), {}
    for half in ("gt", "ag"):
        rows = halves == half
        if not rows.any():
            raise ValueError(f"no {half.upper()} site among the motif sites: NMI is a mean over both halves")
        scores[f"{name}_{half}"] = float(score(labels[rows], values[rows]))
    return {name: (scores[f"{name}_gt"] + scores[f"{name}_ag"]) / 2, **scores}


def _nmi_bound(labels: np.ndarray, clusters: np.ndarray) -> float:
    of_labels, of_clusters = _entropy(labels), _entropy(clusters)
    total = of_labels + of_clusters
    return 2 * min(of_labels, of_clusters) / total if total > 0 else 0.0


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())

"""Every number we judge by, from arrays alone: SCCS, NMI, classification scores, intervals and the paired test."""

from __future__ import annotations

import random

import igraph
import numpy as np
from scipy.sparse import csr_matrix, triu
from scipy.stats import rankdata, t
from sklearn.decomposition import PCA
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    normalized_mutual_info_score,
    roc_auc_score,
)
from sklearn.neighbors import NearestNeighbors

TEST_TO_TRAIN = 2 / 7  # of the published schemes; with another data.num_folds the caller gives the folds' own
SCCS_CEILING = 0.866  # sqrt(12 p (1 - p)) / 2 at p = .5: same-class labels are binary, so their ranks are tied


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """F1, ROC AUC, average precision, accuracy and MCC of P(site) [n] against labels [n] in {0, 1}."""
    called = probabilities > threshold
    return {
        "f1": float(f1_score(labels, called, zero_division=0.0)),
        "auc": float(roc_auc_score(labels, probabilities)),
        "ap": float(average_precision_score(labels, probabilities)),
        "accuracy": float(accuracy_score(labels, called)),
        "mcc": float(matthews_corrcoef(labels, called)),
    }


def pair_indices(n: int, pairs: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the windows to compare: 'all' pairs, or 'published', a random pairing without replacement."""
    if pairs == "all":
        return np.triu_indices(n, k=1)
    order = np.random.default_rng(seed).permutation(n)[: n // 2 * 2]
    return order[0::2], order[1::2]


def cosine_pairs(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine similarity of the paired rows of vectors [n, hidden]; float32 [pairs]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(left) > 4 * len(unit):  # most pairs: one matrix product beats gathering rows
        return (unit @ unit.T)[left, right]
    return np.einsum("ij,ij->i", unit[left], unit[right])


def spearman_binary(same: np.ndarray, similarity: np.ndarray) -> tuple[float, float]:
    """Spearman correlation of a 0/1 label with a similarity, and the ROC AUC it is a transform of:

    rho = (AUC - 1/2) sqrt(12 p (1 - p)), p the share of ones, when similarities are not tied. (nan, nan) is impossible
    input: both labels must occur.
    """
    n, ones = len(same), int(same.sum())
    if ones in (0, n):
        raise ValueError("all pairs have the same label: SCCS needs windows of both classes, at least two of one")
    ranks = rankdata(similarity)
    auc = (ranks[same.astype(bool)].sum() - ones * (ones + 1) / 2) / (ones * (n - ones))
    spread = ranks.std() * np.sqrt(ones / n * (1 - ones / n))
    covariance = ranks[same.astype(bool)].sum() / n - ranks.mean() * ones / n
    return float(covariance / spread) if spread > 0 else 0.0, float(auc)


def sccs(vectors: np.ndarray, labels: np.ndarray, pairs: str = "all", seed: int = 0) -> dict[str, float]:
    """Spearman correlation of 'the two windows share a class' with the cosine similarity of their vectors.

    vectors: [n, hidden]; labels: [n] in {0, 1}, site against non-site. At most .866 (SCCS_CEILING).
    Returns sccs and pair_auc.
    """
    left, right = pair_indices(len(labels), pairs, seed)
    rho, auc = spearman_binary(labels[left] == labels[right], cosine_pairs(vectors, left, right))
    return {"sccs": rho, "pair_auc": auc}


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of two views' unit vectors [n, hidden] (Wang and Isola 2020); 0 = identical."""
    return float(((_unit(first) - _unit(second)) ** 2).sum(axis=1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """log mean exp(-2 |x - y|^2) over pairs of unit vectors [n, hidden] (Wang and Isola 2020).

    Lower is more spread; 0 means that all vectors are equal.
    """
    return float(np.log(np.exp(-4 * (1 - _pair_cosines(vectors))).mean()))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine similarity over pairs of vectors [n, hidden]; near 1 = one narrow cone."""
    return float(_pair_cosines(vectors).mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _pair_cosines(vectors: np.ndarray) -> np.ndarray:
    return cosine_pairs(vectors, *np.triu_indices(len(vectors), k=1))


def neighbour_graph(features: np.ndarray, neighbours: int = 15, seed: int = 0) -> igraph.Graph:
    """The graph that Leiden clusters: PCA 128, exact nearest neighbours, UMAP's fuzzy edge weights.

    features: [n, d]. Each point counts as its own first neighbour, as in scanpy.
    """
    n, d = features.shape
    neighbours = min(neighbours, n - 1)
    reduced = PCA(min(128, n - 1, d), svd_solver="covariance_eigh", random_state=seed).fit_transform(
        features.astype(np.float64)
    )
    distances, indices = NearestNeighbors(n_neighbors=neighbours).fit(reduced).kneighbors(reduced)
    edges = triu(fuzzy_weights(indices, distances), k=1).tocoo()
    return igraph.Graph(
        n, edges=list(zip(edges.row.tolist(), edges.col.tolist())), edge_attrs={"weight": edges.data.tolist()}
    )


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
    low, high, scale = np.zeros(len(beyond)), np.full(len(beyond), np.inf), np.ones(len(beyond))
    open_ = np.ones(len(beyond), dtype=bool)
    for _ in range(64):
        total = np.exp(-beyond / scale[:, None]).sum(axis=1)
        open_ &= np.abs(total - target) >= 1e-5
        above = open_ & (total > target)
        below = open_ & ~above
        high[above], low[below] = scale[above], scale[below]
        middle = np.where(np.isfinite(high), (low + high) / 2, scale * 2)
        scale = np.where(open_, middle, scale)
    return scale


def leiden(features: np.ndarray, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Cluster of each row of features [n, d]: Leiden (Traag et al. 2019) on modularity until it is stable; int [n]."""
    graph = neighbour_graph(features, seed=seed)
    igraph.set_random_number_generator(random.Random(seed))
    found = graph.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=-1)
    return np.array(found.membership)


def motif_half(labels: np.ndarray) -> np.ndarray:
    """'gt' or 'ag' for each label of a motif BED: GT(...) and donor(...) against AG(...) and acceptor(...)."""
    return np.array(["gt" if str(label).startswith(("GT", "donor")) else "ag" for label in labels])


def nmi(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """NMI of clusters [n] with labels [n] within the GT half, within the AG half, and their mean.

    All sites are clustered together but scored by halves, as published. `*_bound` is the most that this many clusters
    of these sizes could reach: 2 min(H(L), H(C)) / (H(L) + H(C)), entropies within the half.
    """
    halves = motif_half(labels)
    scores: dict[str, float] = {}
    for half in ("gt", "ag"):
        mine = halves == half
        if not mine.any():
            raise ValueError(f"no {half.upper()} site among the motif sites: NMI is a mean over both halves")
        scores[f"nmi_{half}"] = float(normalized_mutual_info_score(labels[mine], clusters[mine]))
        of_labels, of_clusters = _entropy(labels[mine]), _entropy(clusters[mine])
        total = of_labels + of_clusters
        scores[f"nmi_{half}_bound"] = 2 * min(of_labels, of_clusters) / total if total > 0 else 0.0
    return {
        "nmi": (scores["nmi_gt"] + scores["nmi_ag"]) / 2,
        **scores,
        "nmi_bound": (scores["nmi_gt_bound"] + scores["nmi_ag_bound"]) / 2,
        "clusters": float(len(np.unique(clusters))),
    }


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def corrected_ttest(differences: np.ndarray, test_to_train: float = TEST_TO_TRAIN) -> dict[str, float | None]:
    """Corrected resampled t-test of paired differences over folds x seeds (Nadeau and Bengio 2003, section 4).

    The variance of the mean is s^2 (1/n + test/train), since folds share training windows. Returns diff (the mean),
    low and high (95 % interval) and p (two-sided); these are None where n < 2, or p where all differences are equal.
    """
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return {"diff": mean, "low": None, "high": None, "p": None}
    error = float(np.std(differences, ddof=1) * np.sqrt(1 / n + test_to_train))
    half = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > 0 else None
    return {"diff": mean, "low": mean - half, "high": mean + half, "p": p}

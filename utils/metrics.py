"""Every number we judge by, from arrays alone: SCCS, NMI, classification scores, intervals and the paired test."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import igraph
import numpy as np
import torch
from scipy.linalg import eigh
from scipy.optimize import brentq
from scipy.sparse import csr_matrix, triu
from scipy.stats import nct, rankdata, t
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    average_precision_score,
    normalized_mutual_info_score,
    roc_auc_score,
)

ROUNDING = 1e-12  # differences that spread less than this are equal
TEST_TO_TRAIN = 2 / 7  # of the published schemes; with another data.num_folds the caller gives the folds' own
CALIBRATION_BINS = 15  # as many as Guo et al. 2017 took
Similarity = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (vectors, left, right) -> [pairs]
SCCS_CEILING = 0.866  # sqrt(12 p (1 - p)) / 2 at p = .5: same-class labels are binary, so their ranks are tied
BOOTSTRAP_WINDOWS = 1000  # more windows than these are not resampled: time goes with their square
MOST_PAIRS = 2_000_000  # of SCCS over all pairs, those of 2,000 windows: chance adds 1 / sqrt(pairs) at most, .0007
_GATHERED = 1 << 10  # pairs whose vectors are copied at a time, to stay in the processor's cache
_GROUP, _ROWS, _SPARE = 32, 1024, 5  # nearest neighbours: columns of a group, rows at a time, candidates beyond k
Z_95 = 1.959964  # of the normal distribution, two-sided


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """F1, ROC AUC, average precision, accuracy and MCC of P(site) [n] against labels [n] in {0, 1}."""
    at_threshold = threshold_scores(labels, probabilities, threshold)
    return {
        "f1": at_threshold["f1"],
        "auc": float(roc_auc_score(labels, probabilities)),
        "ap": float(average_precision_score(labels, probabilities)),
        "accuracy": at_threshold["accuracy"],
        "mcc": at_threshold["mcc"],
    }


def threshold_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """F1, accuracy and MCC of calling a site where P(site) [n] is above the threshold; labels [n] in {0, 1}.

    From the four counts: scikit-learn's functions give the same, but take 10 ms instead of .02, which a benchmark of
    many folds, arms and thresholds feels. F1 and MCC are 0 where they are not defined.
    """
    called, sites = probabilities > threshold, labels == 1
    n, hits, called_n, sites_n = len(labels), int((called & sites).sum()), int(called.sum()), int(sites.sum())
    spread = called_n * (n - called_n) * sites_n * (n - sites_n)
    return {
        "f1": 2 * hits / (called_n + sites_n) if called_n + sites_n else 0.0,
        "accuracy": 1 - (called_n + sites_n - 2 * hits) / n,
        "mcc": (n * hits - called_n * sites_n) / math.sqrt(spread) if spread else 0.0,
    }


# -- thresholds and calibration ----------------------------------------------------------------------------------------


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold at which P(site) [n] has the highest F1 against labels [n] in {0, 1}.

    It lies halfway between two neighbouring probabilities; of equally good ones it is that nearest to .5. Pick it on
    validation windows, never on those that it is then scored on.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order].astype(np.float64)
    found = np.cumsum(labels[order])
    f1 = 2 * found / (np.arange(1, len(found) + 1) + found[-1])  # 2 TP / (called + sites), calling the first i
    thresholds = np.append((falling[1:] + falling[:-1]) / 2, np.nextafter(falling[-1], -1.0))
    apart = np.append(falling[1:] < falling[:-1], True)  # equal probabilities are called together or not at all
    best = thresholds[apart & (f1 == f1[apart].max())]
    return float(best[np.abs(best - 0.5).argmin()])


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean P(site), share of sites, number of windows) of bins of equal mass, each [at most `bins`], P rising.

    Bins of equal mass rather than width: none is nearly empty (Nixon et al. 2019). Equal probabilities
    are never parted, so that the order of the windows makes no difference.
    """
    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    _, place = np.unique(np.searchsorted(edges, probabilities), return_inverse=True)
    counts = np.bincount(place)
    return np.bincount(place, probabilities) / counts, np.bincount(place, labels) / counts, counts


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean over windows of |mean P(site) - share of sites| in their bin (Guo et al. 2017).

    0 is perfect up to chance: with m windows a bin, a perfect model still has about .8 sqrt(p (1 - p) / m).
    """
    predicted, observed, counts = reliability_bins(labels, probabilities, bins)
    return float((counts * np.abs(predicted - observed)).sum() / counts.sum())


def pair_indices(n: int, pairs: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the windows to compare: 'all' pairs, or 'published', a random pairing without replacement.

    Where all are more than MOST_PAIRS it is a random part of them in which each window occurs equally often: those next
    to each other on a circle in random order, up to some distance.
    """
    if pairs == "all" and n * (n - 1) // 2 <= MOST_PAIRS:
        return np.triu_indices(n, k=1)
    order = np.random.default_rng(seed).permutation(n)
    if pairs == "all":
        distances = range(1, 1 + max(1, MOST_PAIRS // n))
        return np.tile(order, len(distances)), np.concatenate([np.roll(order, -distance) for distance in distances])
    order = order[: n // 2 * 2]
    return order[0::2], order[1::2]


def cosine_pairs(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine similarity of the paired rows of vectors [n, hidden]; float32 [pairs]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(left) > len(unit) ** 2 // 4:  # most pairs: one matrix product beats gathering rows
        return (unit @ unit.T)[left, right]
    parts = [slice(start, start + _GATHERED) for start in range(0, max(1, len(left)), _GATHERED)]
    return np.concatenate([np.einsum("ij,ij->i", unit[left[part]], unit[right[part]]) for part in parts])


def closeness(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Minus the absolute difference of the paired rows of values [n, 1]: a similarity for plain numbers; [pairs]."""
    return -np.abs(values[left, 0] - values[right, 0])


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


def sccs(
    vectors: np.ndarray, labels: np.ndarray, pairs: str = "all", seed: int = 0, similarity: Similarity = cosine_pairs
) -> dict[str, float]:
    """Spearman correlation of 'the two windows share a class' with the cosine similarity of their vectors.

    vectors: [n, hidden]; labels: int [n], the classes: site against non-site, or more. At most .866 (SCCS_CEILING).
    Returns sccs and pair_auc.
    """
    left, right = pair_indices(len(labels), pairs, seed)
    rho, auc = spearman_binary(labels[left] == labels[right], similarity(vectors, left, right))
    return {"sccs": rho, "pair_auc": auc}


def sccs_interval(
    vectors: np.ndarray,
    labels: np.ndarray,
    pairs: str = "all",
    seed: int = 0,
    similarity: Similarity = cosine_pairs,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
) -> dict[str, float]:
    """`sccs` with its error: sccs, low and high (95 %), null_low and null_high (95 % under permuted labels), pair_auc.

    groups: int [n], windows of one group (near-duplicates) are drawn together; None: every window by itself.

    All pairs share windows, so windows are resampled: pair (i, j) counts w_i w_j times, w how often each was drawn, and
    never a window with itself. That weight varies with variance 3, that of a new pair would with 1, so what chance adds
    in each pair by itself (the second-order term of a U-statistic) counts three times. It is 4 AUC (1 - AUC) / pairs,
    1 / pairs where there is no relation and 0 where classes are parted wholly; it is taken off once, which leaves it
    twice as the jackknife has it (Efron and Stein 1981), and the interval is normal. Coverage of 95 % intervals of two
    Gaussian classes, 100 windows, 400 studies each, at a true SCCS of 0, .02, .05, .14, .29, .78: .995 .965 .965 .950
    .948 .935; of the plain percentile interval 1.00 .993 .983 .963 .960 .948, too wide where classes hardly differ.
    The null band is that of `resamples` permutations of the labels.

    'published' pairs are disjoint, so whole pairs are resampled (their near-duplicates are not kept together), and the
    null band is +-1.96 / sqrt(pairs - 1).
    """
    n, rng = len(labels), np.random.default_rng(seed)
    left, right = pair_indices(n, pairs, seed)
    values, same = similarity(vectors, left, right), labels[left] == labels[right]
    rho, auc = spearman_binary(same, values)
    if pairs == "published":
        order, starts = _sorted_ties(values)
        counts = (rng.multinomial(len(same), np.full(len(same), 1 / len(same))) for _ in range(resamples))
        error = np.std([weighted_spearman(same[order], drawn, starts) for drawn in counts])
        null_high = Z_95 / np.sqrt(len(same) - 1)
        null_low = -null_high
    else:
        groups = np.arange(n) if groups is None else groups
        by_pair = 4 * auc * (1 - auc)
        error = _window_error(vectors, labels, similarity, groups, by_pair, resamples, rng)
        if len(values) < n * (n - 1) // 2:  # chance in the pairs that were taken is more than in all
            error = np.hypot(error, np.sqrt(by_pair / len(values)))
        null_low, null_high = np.quantile(_permuted_sccs(values, labels, left, right, resamples, rng), (0.025, 0.975))
    return {
        "sccs": rho,
        "low": float(rho - Z_95 * error),
        "high": float(rho + Z_95 * error),
        "null_low": float(null_low),
        "null_high": float(null_high),
        "pair_auc": auc,
    }


def weighted_spearman(same: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> float:
    """`spearman_binary` of pairs in rising order of similarity, each counted weights [pairs] times.

    starts: first index of each run of equal similarities. 0 where nothing varies.
    """
    tied, ones = np.add.reduceat(weights, starts), np.add.reduceat(weights * same, starts)
    n = float(tied.sum())
    share = float(ones.sum()) / n
    ranks = np.cumsum(tied) - (tied + n) / 2  # mid-ranks less their mean
    variance = (n * n - float((tied * tied) @ tied) / n) / 12 * share * (1 - share)
    return float(ones @ ranks) / n / np.sqrt(variance) if variance > 0 else 0.0


def _sorted_ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order that sorts them, where each run of equal ones starts in it)."""
    order = np.argsort(values)
    rising = values[order]
    return order, np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))


def _window_error(
    vectors: np.ndarray,
    labels: np.ndarray,
    similarity: Similarity,
    groups: np.ndarray,
    by_pair: float,
    resamples: int,
    rng: np.random.Generator,
) -> float:
    """Standard error of SCCS over all pairs, see `sccs_interval`; by_pair: the variance that each pair adds by itself.

    Of more than BOOTSTRAP_WINDOWS windows, whole groups are taken at random until there are so many; the variance that
    they give is scaled by the number of windows, with which it falls at least.
    """
    _, groups = np.unique(groups, return_inverse=True)
    place = rng.permutation(groups.max() + 1)[groups]
    chosen = np.argsort(place, kind="stable")
    if len(chosen) > BOOTSTRAP_WINDOWS:
        chosen = chosen[place[chosen] <= place[chosen[BOOTSTRAP_WINDOWS - 1]]]
    _, groups = np.unique(groups[chosen], return_inverse=True)
    left, right = pair_indices(len(chosen), "all")
    order, starts = _sorted_ties(similarity(vectors[chosen], left, right))
    left, right = left[order], right[order]
    same = (labels[chosen][left] == labels[chosen][right]).astype(np.float64)
    units, found = groups.max() + 1, []
    for drawn in rng.multinomial(units, np.full(units, 1 / units), size=resamples):
        counts = drawn.astype(np.float64)[groups]
        found.append(weighted_spearman(same, counts[left] * counts[right], starts))
    variance = max(np.var(found) - by_pair / len(same), by_pair / len(same))
    return float(np.sqrt(variance * len(chosen) / len(labels)))


def _permuted_sccs(
    values: np.ndarray,
    labels: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """SCCS over all pairs with the labels in random order, [permutations].

    Ranks and the share of same-class pairs stay as they are, so that each is a sum of ranks: one matrix product.
    """
    n, share = len(labels), float((labels[left] == labels[right]).mean())
    ranks = rankdata(values) - (len(values) + 1) / 2
    if ranks.std() == 0:
        return np.zeros(permutations)
    ranks = csr_matrix(((ranks / ranks.std()).astype(np.float32), (left, right)), shape=(n, n))
    ranks += ranks.T
    if 2 * len(values) == n * (n - 1):
        ranks = ranks.toarray()  # whose products are faster
    mixed = rng.permuted(np.tile(labels, (permutations, 1)), axis=1).T  # [n, permutations]
    total = np.zeros(permutations)
    for label in np.unique(labels):
        members = (mixed == label).astype(np.float32)
        total += (members * (ranks @ members)).sum(axis=0, dtype=np.float64) / 2
    return total / len(values) / np.sqrt(share * (1 - share))


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


def principal_components(features: np.ndarray) -> np.ndarray:
    """The first 128 principal components of features [n, d], as many as there are; float32.

    Only those of the covariance's eigenvectors are made, which scikit-learn's PCA cannot. The mean goes first: hidden
    states have one far from 0, and taken off their products in float32 it would leave little of the rest.
    """
    n, d = features.shape
    centred = features - features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    centred = centred.astype(np.float32, copy=False)
    first = d - min(128, n - 1, d)
    _, components = eigh(centred.T @ centred, subset_by_index=[first, d - 1])
    return centred @ components[:, ::-1]


def neighbour_graph(features: np.ndarray, neighbours: int = 15) -> igraph.Graph:
    """The graph of `neighbour_weights`, for Leiden."""
    edges = triu(neighbour_weights(features, neighbours), k=1).tocoo()
    return igraph.Graph(
        len(features),
        edges=list(zip(edges.row.tolist(), edges.col.tolist())),
        edge_attrs={"weight": edges.data.tolist()},
    )


def neighbour_weights(features: np.ndarray, neighbours: int = 15) -> csr_matrix:
    """PCA 128, exact nearest neighbours, UMAP's fuzzy edge weights: sparse [n, n] of features [n, d].

    Each point counts as its own first neighbour, as in scanpy.
    """
    indices, distances = nearest_neighbours(principal_components(features), min(neighbours, len(features) - 1))
    return fuzzy_weights(indices, distances)


def nearest_neighbours(points: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, distances) [n, neighbours] of the nearest of points [n, d], each point first among its own.

    Exact: all distances, by matrix products in float32 some rows at a time. The k smallest of a row lie in the k groups
    of columns with the smallest minima, so one pass over the matrix finds the minima, and only those groups are looked
    at. Some more than k are taken and ordered by their differences: |x|^2 + |y|^2 - 2 xy has an error that puts a third
    of all points some 1e-7 away from themselves, which UMAP's weights take for the distance of their nearest neighbour.
    """
    n, d = points.shape
    columns = -(-n // _GROUP) * _GROUP
    given = torch.from_numpy(points.astype(np.float32))
    left = torch.cat([given, torch.ones(n, 1)], dim=1)
    right = torch.zeros(d + 1, columns)  # left @ right is |other|^2 - 2 row other: |row|^2 would change no order
    right[:d, :n] = -2 * given.T
    right[d] = torch.inf
    right[d, :n] = given.square().sum(dim=1)
    # groups take every (columns / _GROUP)th column: the minima are then of whole slices, which is one fast pass
    groups, spare = columns // _GROUP, min(n, neighbours + _SPARE)
    found = []
    for start in range(0, n, _ROWS):
        squared = left[start : start + _ROWS] @ right
        squared.diagonal(start).fill_(-torch.inf)  # itself comes first
        slices = squared.view(len(squared), _GROUP, groups)
        nearest = slices.amin(dim=1).topk(min(spare, groups), largest=False, sorted=False).indices
        candidates = (nearest[:, None] + groups * torch.arange(_GROUP)[:, None]).flatten(1)
        chosen = squared.gather(1, candidates).topk(spare, largest=False).indices
        found.append(candidates.gather(1, chosen))
    indices = torch.cat(found).numpy()
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
        if not open_.any():
            break
    return scale


def leiden(features: np.ndarray, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Cluster of each row of features [n, d]: Leiden (Traag et al. 2019) on modularity until it is stable; int [n]."""
    return leiden_of(neighbour_graph(features), resolution, seed)


def leiden_of(graph: igraph.Graph, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Cluster of each point of a `neighbour_graph`; int [n]. Seeds end in different, about equally good, optima."""
    igraph.set_random_number_generator(random.Random(seed))
    found = graph.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=-1)
    return np.array(found.membership)


def kmeans(features: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Cluster of each row of features [n, d]: k-means on the components that Leiden's graph is made of; int [n].

    It always makes as many clusters as it is asked for, so that its NMI compares encoders at one and the same number.
    """
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(principal_components(features))


def motif_half(labels: np.ndarray) -> np.ndarray:
    """'gt' or 'ag' for each label of a motif BED: GT(...) and donor(...) against AG(...) and acceptor(...)."""
    return np.array(["gt" if str(label).startswith(("GT", "donor")) else "ag" for label in labels])


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
        mine = halves == half
        if not mine.any():
            raise ValueError(f"no {half.upper()} site among the motif sites: NMI is a mean over both halves")
        scores[f"{name}_{half}"] = float(score(labels[mine], values[mine]))
    return {name: (scores[f"{name}_gt"] + scores[f"{name}_ag"]) / 2, **scores}


def _nmi_bound(labels: np.ndarray, clusters: np.ndarray) -> float:
    of_labels, of_clusters = _entropy(labels), _entropy(clusters)
    total = of_labels + of_clusters
    return 2 * min(of_labels, of_clusters) / total if total > 0 else 0.0


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
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > ROUNDING else None
    return {"diff": mean, "low": mean - half, "high": mean + half, "p": p}


def smallest_difference(
    sd: float, n: int, test_to_train: float = TEST_TO_TRAIN, power: float = 0.8, level: float = 0.05
) -> float | None:
    """The smallest true difference that corrected_ttest finds significant with this probability; None where n < 2.

    sd: of the paired differences. Solves for the noncentrality d / (sd sqrt(1/n + test/train)) at which noncentral t
    with n - 1 degrees of freedom exceeds the two-sided critical value with probability `power` (Johnson and Welch
    1940; with test_to_train 0 it is the paired t-test of Cohen 1988, chapter 2). A finding of the wrong sign, which is
    next to impossible at such a power, does not count.
    """
    if n < 2:
        return None
    critical = float(t.ppf(1 - level / 2, n - 1))

    def lacking(shift: float) -> float:
        return float(nct.sf(critical, n - 1, shift)) - power

    upper = 1.0
    while lacking(upper) < 0:
        upper *= 2
    return float(brentq(lacking, 0.0, upper)) * sd * float(np.sqrt(1 / n + test_to_train))


def holm(p: np.ndarray) -> np.ndarray:
    """p values [m] adjusted for their number, so that the chance of one false finding keeps its level (Holm 1979).

    In rising order the i-th (from 0) is multiplied by m - i; none is below the one before it, none above 1.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted

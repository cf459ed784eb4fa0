"""SCCS, its error and null band, and the spread of vectors, from arrays alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from simcsp.metrics.scores import draw_blocks

Similarity = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (vectors, left, right) -> [pairs]
SCCS_CEILING = 0.866  # sqrt(12 p (1 - p)) / 2 at p = .5: same-class labels are binary, so their ranks are tied
BOOTSTRAP_WINDOWS = 1000  # more windows than these are not resampled: time goes with their square
MOST_PAIRS = 2_000_000  # of SCCS over all pairs, those of 2,000 windows: chance adds 1 / sqrt(pairs) at most, .0007
_GATHERED = 1 << 10  # pairs whose vectors are copied at a time, to stay in the processor's cache
Z_95 = 1.959964  # of the normal distribution, two-sided


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
    unit = _unit(vectors)
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
    null: bool = True,
) -> dict[str, float]:
    """`sccs` with its error: sccs, low and high (95 %), pair_auc, and unless null is False null_low and null_high (95 %
    under permuted labels).

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
        counts = draw_blocks(np.arange(len(same)), resamples, rng)
        error = np.std([weighted_spearman(same[order], drawn, starts) for drawn in counts])
        bounds = np.array([-1, 1]) * Z_95 / np.sqrt(len(same) - 1)
    else:
        groups = np.arange(n) if groups is None else groups
        by_pair = 4 * auc * (1 - auc)
        error = _window_error(vectors, labels, similarity, groups, by_pair, resamples, rng)
        if len(values) < n * (n - 1) // 2:  # chance in the pairs that were taken is more than in all
            error = np.hypot(error, np.sqrt(by_pair / len(values)))
        if null:
            bounds = np.quantile(_permuted_sccs(values, labels, left, right, resamples, rng), (0.025, 0.975))
    band = {"sccs": rho, "low": float(rho - Z_95 * error), "high": float(rho + Z_95 * error)}
    return band | ({"null_low": float(bounds[0]), "null_high": float(bounds[1])} if null else {}) | {"pair_auc": auc}


def sccs_difference(
    start: np.ndarray,
    now: np.ndarray,
    labels: np.ndarray,
    pairs: str = "all",
    seed: int = 0,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
) -> dict[str, float]:
    """SCCS of vectors `now` minus that of `start` (both [n, any]): diff, diff_low, diff_high (95 %).

    The same windows (published: the same pairs) are drawn for both, as in `sccs_interval`; what chance adds in each
    pair by itself is left in. Simulated coverage of two Gaussian classes: .92 of 900 studies of 80 windows at a
    difference of -.20, .96 of 900 at -.01; .93 of 300 studies of 200 windows at -.20.
    """
    n, rng = len(labels), np.random.default_rng(seed)
    left, right = pair_indices(n, pairs, seed)
    same = labels[left] == labels[right]
    before, after = (spearman_binary(same, cosine_pairs(vectors, left, right))[0] for vectors in (start, now))
    scale = 1.0
    if pairs == "published":
        weights = draw_blocks(np.arange(len(same)), resamples, rng)
    else:
        chosen, groups = _bootstrap_windows(np.arange(n) if groups is None else groups, rng)
        start, now, labels = start[chosen], now[chosen], labels[chosen]
        scale = np.sqrt(len(chosen) / n)
        left, right = pair_indices(len(chosen), "all")
        same = labels[left] == labels[right]
        weights = (drawn[left] * drawn[right] for drawn in draw_blocks(groups, resamples, rng))
    ties = [_sorted_ties(cosine_pairs(vectors, left, right)) for vectors in (start, now)]
    same, differences = same.astype(np.float64), []
    for drawn in weights:
        first, second = (weighted_spearman(same[order], drawn[order], starts) for order, starts in ties)
        differences.append(second - first)
    half = Z_95 * float(np.std(differences)) * scale
    return {"diff": after - before, "diff_low": after - before - half, "diff_high": after - before + half}


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
    chosen, groups = _bootstrap_windows(groups, rng)
    left, right = pair_indices(len(chosen), "all")
    order, starts = _sorted_ties(similarity(vectors[chosen], left, right))
    left, right = left[order], right[order]
    same = (labels[chosen][left] == labels[chosen][right]).astype(np.float64)
    drawn = draw_blocks(groups, resamples, rng)
    resampled = [weighted_spearman(same, counts[left] * counts[right], starts) for counts in drawn]
    variance = max(np.var(resampled) - by_pair / len(same), by_pair / len(same))
    return float(np.sqrt(variance * len(chosen) / len(labels)))


def _bootstrap_windows(groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the windows to resample, their groups); of more than BOOTSTRAP_WINDOWS, whole groups."""
    _, groups = np.unique(groups, return_inverse=True)
    place = rng.permutation(groups.max() + 1)[groups]
    chosen = np.argsort(place, kind="stable")
    if len(chosen) > BOOTSTRAP_WINDOWS:
        chosen = chosen[place[chosen] <= place[chosen[BOOTSTRAP_WINDOWS - 1]]]
    return chosen, groups[chosen]


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

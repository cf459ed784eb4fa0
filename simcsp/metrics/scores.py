"""Classification scores, thresholds, calibration, and the tests of paired differences, from arrays alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

ROUNDING = 1e-12  # differences that spread less than this are equal
TEST_TO_TRAIN = 2 / 7  # of the published schemes; with another data.num_folds the caller gives the folds' own
USELESS_AUC = 0.55  # of validation: below it a classifier is of no use, however many windows tell it from .5
CALIBRATION_BINS = 15  # as many as Guo et al. 2017 took


def classification_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """F1, ROC AUC, average precision, accuracy and MCC of P(site) [n], at .5, against labels [n] in {0, 1}."""
    at_half = threshold_scores(labels, probabilities, 0.5)
    auc, ap = (float(score(labels, probabilities)) for score in (roc_auc_score, average_precision_score))
    return {"f1": at_half.pop("f1"), "auc": auc, "ap": ap, **at_half}


def threshold_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """F1, accuracy and MCC of calling a site where P(site) [n] is above the threshold; labels [n] in {0, 1}.

    From the four counts: scikit-learn's functions give the same, but take 10 ms instead of .02, which a benchmark of
    many folds, arms and thresholds feels. F1 and MCC are 0 where they are not defined.
    """
    called, sites = probabilities > threshold, labels == 1
    n, hits = len(labels), int((called & sites).sum())
    called_n, sites_n = int(called.sum()), int(sites.sum())
    spread = called_n * (n - called_n) * sites_n * (n - sites_n)
    return {
        "f1": 2 * hits / (called_n + sites_n) if called_n + sites_n else 0.0,
        "accuracy": 1 - (called_n + sites_n - 2 * hits) / n,
        "mcc": (n * hits - called_n * sites_n) / math.sqrt(spread) if spread else 0.0,
    }


def score_against(labels: np.ndarray, scores: np.ndarray, discovery: float = 0.1) -> dict[str, float]:
    """How well scores [n] find the sites among candidates, labels [n] in {0, 1} with a 1 among them.

    ap: average precision. recall: the largest share of the sites found at a threshold where at most `discovery` of the
    calls are false (recall at 10 % false discovery). topk: the share of sites among the k best candidates, of which k
    are sites (Jaganathan et al. 2019); of candidates with equal scores the first count as better.
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    sites = int(np.sum(labels))
    return {
        "ap": float(average_precision_score(labels, scores)),
        "recall": float(recall[precision >= 1 - discovery].max()),
        "topk": float(labels[np.argsort(-scores, kind="stable")[:sites]].sum() / sites),
    }


def ap_interval(
    labels: np.ndarray, scores: np.ndarray, blocks: np.ndarray, seed: int, samples: int = 1000
) -> dict[str, float]:
    """low and high of the average precision of `score_against`, from resampled blocks of neighbours.

    blocks: int [n], the stretch of a record that each candidate lies in: sites of a gene come and go together. Samples
    without a site are left out; {} where all sites lie in one block, which says nothing of other stretches.
    """
    if len(np.unique(blocks[labels == 1])) < 2:
        return {}
    order = np.argsort(-scores, kind="stable")
    sites, resampled = labels[order].astype(float), []
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # candidates of one score are called together
    for weights in draw_blocks(blocks[order], samples, np.random.default_rng(seed)):
        hits, called = (weights * sites).cumsum()[ends], weights.cumsum()[ends]
        if hits[-1]:
            gained = np.diff(hits, prepend=0) / hits[-1]
            resampled.append((gained * hits / np.maximum(called, 1)).sum())
    return interval_of(resampled)


def draw_blocks(blocks: np.ndarray, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each item is in a bootstrap sample, float64 [n], where items of one block [n] are drawn together."""
    names, block = np.unique(blocks, return_inverse=True)
    for _ in range(samples):
        yield rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(float)[block]


def interval_of(resampled: Sequence[float] | np.ndarray) -> dict[str, float]:
    """low and high: the 95 % percentile interval of a resampled number."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def called_rates(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """tpr and fpr: shares of the sites and of the others whose P(site) [n] is above the threshold; both must occur."""
    called = probabilities > threshold
    return {"tpr": float(called[labels == 1].mean()), "fpr": float(called[labels == 0].mean())}


def f1_at_prevalence(tpr: float, fpr: float, prevalence: float) -> float:
    """F1 of these rates where `prevalence` of the windows are sites: F1 rises with it, whatever the classifier does."""
    hits = tpr * prevalence
    return 2 * hits / (hits + fpr * (1 - prevalence) + prevalence)


# -- thresholds and calibration ----------------------------------------------------------------------------------------


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold at which P(site) [n] has the highest F1 against labels [n] in {0, 1}.

    It lies halfway between two neighbouring probabilities; of equally good ones it is that nearest to .5. Pick it on
    validation windows, never on those that it is then scored on.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order].astype(np.float64)
    hits = np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])  # 2 TP / (called + sites), calling the first i
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


def chance_auc(positives: float, negatives: float) -> float:
    """The AUC up to which a classifier is taken to have learned nothing: two standard errors above .5 (Mann-Whitney,
    under no relation) for so many windows of either class, and at least USELESS_AUC, however many there are."""
    error = np.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    return max(USELESS_AUC, float(0.5 + 2 * error))


# -- paired differences ------------------------------------------------------------------------------------------------


def corrected_ttest(differences: np.ndarray, test_to_train: float = TEST_TO_TRAIN) -> dict[str, float | None]:
    """Corrected resampled t-test of paired differences over folds x seeds (Nadeau and Bengio 2003, section 4).

    The variance of the mean is s^2 (1/n + test/train), since folds share training windows. Returns, for differences
    [n > 1], diff (the mean), low and high (95 % interval) and p (two-sided), which is None where all are equal. With
    test_to_train 0 it is the paired t-test, for differences that are independent.
    """
    n, mean = len(differences), float(np.mean(differences))
    error = _error_of_mean(differences, test_to_train)
    half = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > ROUNDING else None
    return {"diff": mean, "low": mean - half, "high": mean + half, "p": p}


def equivalence_test(differences: np.ndarray, margin: float, test_to_train: float = TEST_TO_TRAIN) -> float:
    """p of two one-sided tests (Schuirmann 1987) that the true difference lies within +-margin.

    The larger of the two, each with the error of corrected_ttest: p < .05 just where the 90 % interval lies inside.
    Where all differences [n > 1] are equal it is 0 inside the margin and 1 outside.
    """
    n, mean = len(differences), float(np.mean(differences))
    error = _error_of_mean(differences, test_to_train)
    if error <= ROUNDING:
        return 0.0 if abs(mean) < margin else 1.0
    return float(t.sf((margin - abs(mean)) / error, n - 1))


def _error_of_mean(differences: np.ndarray, test_to_train: float) -> float:
    return float(np.std(differences, ddof=1) * np.sqrt(1 / len(differences) + test_to_train))


def smallest_difference(sd: float, n: int, test_to_train: float = TEST_TO_TRAIN, power: float = 0.8) -> float:
    """The smallest true difference that corrected_ttest finds significant with this probability; n: two or more.

    sd: of the paired differences. Solves for the noncentrality d / (sd sqrt(1/n + test/train)) at which noncentral t
    with n - 1 degrees of freedom exceeds the two-sided critical value with probability `power` (Johnson and Welch
    1940; with test_to_train 0 it is the paired t-test of Cohen 1988, chapter 2). A finding of the wrong sign, which is
    next to impossible at such a power, does not count.
    """
    critical = float(t.ppf(0.975, n - 1))

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

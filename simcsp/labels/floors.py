"""What a number has to beat: classifiers and features that know no language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from simcsp.core.arms import OF_ANNOTATION
from simcsp.core.config import DataConfig, EvaluateConfig
from simcsp.core.device import CPU
from simcsp.core.errors import InputError
from simcsp.labels.cnn import SmallCnn
from simcsp.labels.overlap import hidden_windows
from simcsp.text.alphabet import A, C, G, T, reverse_complement
from simcsp.text.corpora import open_corpus
from simcsp.text.sites import SITES
from simcsp.text.weight_matrix import PSEUDOCOUNT, WeightMatrix


def gc_content(ids: np.ndarray) -> np.ndarray:
    """float32 [n, 1]: share of G and C among the known bases."""
    gc = ((ids == C) | (ids == G)).sum(axis=1)
    return (gc / np.maximum((ids >= A).sum(axis=1), 1)).astype(np.float32)[:, None]


def kmer_counts(ids: np.ndarray, k: int) -> np.ndarray:
    """float32 [n, 2 x 4^k]: counts of k-mers left and right of the centre; k-mers with an N are not counted."""
    halves = []
    for half in (ids[:, : ids.shape[1] // 2], ids[:, ids.shape[1] // 2 :]):
        codes = sum((half[:, i : half.shape[1] - k + 1 + i].astype(np.int64) - A) * 4**i for i in range(k))
        known = np.all([half[:, i : half.shape[1] - k + 1 + i] >= A for i in range(k)], axis=0)
        flat = (np.arange(len(half))[:, None] * 4**k + codes)[known]
        halves.append(np.bincount(flat, minlength=len(half) * 4**k).reshape(len(half), 4**k))
    return np.hstack(halves).astype(np.float32)


class KmerLogistic:
    """Logistic regression on k-mer counts left and right of the centre."""

    def __init__(self, k: int) -> None:
        self.k = k

    def fit(self, ids: np.ndarray, labels: np.ndarray, sites: np.ndarray) -> KmerLogistic:
        """ids: uint8 [n, length]; labels [n] in {0, 1}; sites are not used."""
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        self.model.fit(kmer_counts(ids, self.k), labels)
        return self

    def predict(self, ids: np.ndarray) -> np.ndarray:
        """P(site), float [n]."""
        return self.model.predict_proba(kmer_counts(ids, self.k))[:, 1]


MARKOV_ORDER = 5


def word_codes(words: np.ndarray, columns: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Number of the bases that stand in these columns of each row [n, length], and whether all of them are known."""
    code, known = np.zeros(len(words), dtype=np.int64), np.ones(len(words), dtype=bool)
    for column in columns:
        code = code * 4 + np.maximum(words[:, column].astype(np.int64) - A, 0)
        known &= words[:, column] >= A
    return code, known


class NeighbourTable:
    """P(base | the `reach` bases on either side), from counts: what a masked-language model has to beat."""

    def __init__(self, reach: int = 3) -> None:
        self.reach = reach
        self.around = (*range(reach), *range(reach + 1, 2 * reach + 1))
        self.counts = np.full((4 ** (2 * reach), 4), PSEUDOCOUNT)

    def add(self, ids: np.ndarray) -> None:
        """Count a text, uint8 [length], on both strands; contexts with an N are left out."""
        for strand in (ids, reverse_complement(ids)):
            if len(strand) > 2 * self.reach:
                words = np.lib.stride_tricks.sliding_window_view(strand, 2 * self.reach + 1)
                context, known = word_codes(words, self.around)
                base = strand[self.reach : len(strand) - self.reach].astype(np.int64) - A
                known &= base >= 0
                flat = np.bincount(context[known] * 4 + base[known], minlength=self.counts.size)
                self.counts += flat.reshape(self.counts.shape)

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """P(A, C, G, T) of the central base, float [n, 4], for windows uint8 [n, length]; even odds beside an N."""
        middle = windows.shape[1] // 2
        context, known = word_codes(windows[:, middle - self.reach : middle + self.reach + 1], self.around)
        counts = self.counts[np.where(known, context, 0)]
        return np.where(known[:, None], counts / counts.sum(axis=1, keepdims=True), 0.25)


class MarkovChain:
    """P(base | the `order` bases on either side) under a Markov chain of that order, from counts of a text as it is
    read: proportional to the product of the order + 1 transition probabilities that the base has a part in."""

    def __init__(self, order: int = MARKOV_ORDER) -> None:
        self.order = order
        self.counts = np.full((4**order, 4), PSEUDOCOUNT)

    def add(self, ids: np.ndarray) -> None:
        """Count the transitions of a text, uint8 [length]; those with an N are left out."""
        if len(ids) > self.order:
            words = np.lib.stride_tricks.sliding_window_view(ids, self.order + 1)
            code, known = word_codes(words, range(self.order + 1))
            self.counts += np.bincount(code[known], minlength=self.counts.size).reshape(self.counts.shape)

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """P(A, C, G, T) of the central base, float [n, 4], for windows uint8 [n, length]; a transition with an N is
        even odds, and so is what lies beyond a window."""
        middle, order = windows.shape[1] // 2, self.order
        logs = np.log(self.counts / self.counts.sum(axis=1, keepdims=True)).ravel()
        scores = np.zeros((len(windows), 4))
        for base in range(A, T + 1):
            text = windows[:, max(middle - order, 0) : middle + order + 1].copy()
            text[:, min(order, middle)] = base
            for start in range(text.shape[1] - order):
                code, known = word_codes(text, range(start, start + order + 1))
                scores[:, base - A] += np.where(known, logs[np.where(known, code, 0)], -np.log(4))
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)


# -- dinucleotides by place, and 3-mers --------------------------------------------------------------------------------

LINEAR_FLANK = 20  # nt on either side whose dinucleotides are read by place
LINEAR_CS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse strengths of L2 that are tried


def linear_features(ids: np.ndarray) -> sparse.csr_array:
    """[n, features]: dinucleotides by place within 20 nt, square roots of the 3-mer counts of either half, each crossed
    with whether the window shows GT after its centre or AG before it; and these two."""
    centre = ids.shape[1] // 2
    near = ids[:, max(centre - LINEAR_FLANK, 0) : centre + LINEAR_FLANK].astype(np.int64) - A
    pairs = np.where((near[:, :-1] >= 0) & (near[:, 1:] >= 0), 4 * near[:, :-1] + near[:, 1:], -1)
    by_place = (pairs[:, :, None] == np.arange(16)).reshape(len(ids), -1)
    plain = sparse.csr_array(np.hstack([by_place, np.sqrt(kmer_counts(ids, 3))]).astype(np.float64))
    gt = (ids[:, centre] == G) & (ids[:, centre + 1] == T)
    ag = (ids[:, centre - 2] == A) & (ids[:, centre - 1] == G)
    types = [sparse.csr_array(shown[:, None].astype(np.float64)) for shown in (gt, ag)]
    return sparse.csr_array(sparse.hstack([*(plain.multiply(shown) for shown in types), *types]))


class SiteLinear:
    """Logistic regression on `linear_features`; of LINEAR_CS the C with the best validation AUC."""

    def fit(self, ids: np.ndarray, labels: np.ndarray, val_ids: np.ndarray, val_labels: np.ndarray) -> SiteLinear:
        """ids: uint8 [n, length]; labels [n] in {0, 1}. Afterwards `facts` has C."""
        x, val = linear_features(ids), linear_features(val_ids)
        fits = [LogisticRegression(C=c, max_iter=1000).fit(x, labels) for c in LINEAR_CS]
        self.model = max(fits, key=lambda fit: roc_auc_score(val_labels, fit.decision_function(val)))
        self.facts = {"C": self.model.C}
        return self

    def predict(self, ids: np.ndarray) -> np.ndarray:
        """P(site), float [n]."""
        return self.model.predict_proba(linear_features(ids))[:, 1]


# -- floors by name ----------------------------------------------------------------------------------------------------

DECOYS = 4  # for each annotated site that a floor is fitted on
Predict = Callable[[np.ndarray], np.ndarray]
"""P(site) [n] of windows uint8 [n, context]."""


@dataclass(frozen=True)
class Labelled:
    """ids: uint8 [n, context]; labels [n] in {0, 1}; sites [n]: 'donor' or 'acceptor'."""

    ids: np.ndarray
    labels: np.ndarray
    sites: np.ndarray

    def take(self, index: np.ndarray) -> Labelled:
        return Labelled(self.ids[index], self.labels[index], self.sites[index])


def annotated_sites(data: DataConfig, seed: int) -> Labelled:
    """The text's own annotated sites and decoys, data.context nt about each: labels that no labelled window gives.

    What data.hide keeps out of the text is not among them."""
    if not data.fasta or len(data.annotation) != len(data.fasta):
        raise InputError(
            f"finetune.arms: {' and '.join(OF_ANNOTATION)} are fitted on the annotated sites of the text: set "
            "data.fasta, and data.annotation to one GTF or GFF3 for each"
        )
    own = {"corpus": "annotated", "window": data.context, "decoys": DECOYS, "other_bases": 0, "sampling": None}
    data = dataclasses.replace(data, **own)
    corpus = open_corpus(data, seed, hidden_windows(data))
    ids = corpus.store.windows(corpus.intervals.start, data.context, corpus.intervals.minus)
    sites = np.array(SITES)[corpus.classes % len(SITES)]
    return Labelled(ids, (corpus.classes < len(SITES)).astype(np.int64), sites)


def fit_floor(
    arm: str,
    settings: EvaluateConfig,
    train: Labelled,
    val: Labelled,
    seed: int,
    device: torch.device = CPU,
) -> tuple[Predict, dict[str, float]]:
    """The floor of that name (simcsp.core.arms.FLOORS), fitted on labelled windows; (P(site), facts of the fit).

    val: what picks C, or the epoch. seed, device: of cnn. Those of the annotation: `fit_annotation_floor`.
    """
    if arm == "pwm":
        return WeightMatrix(settings.pwm_flank).fit(train.ids, train.labels, train.sites).predict, {}
    if arm == "kmer":
        return KmerLogistic(settings.kmer).fit(train.ids, train.labels, train.sites).predict, {}
    floor = SiteLinear() if arm == "linear" else SmallCnn(settings.cnn_parameters, seed, device)
    floor.fit(train.ids, train.labels, val.ids, val.labels)
    return floor.predict, floor.facts


def fit_annotation_floor(arm: str, settings: EvaluateConfig, annotated: Labelled, seed: int) -> Predict:
    """`annotation`, a weight matrix, or `annotation_linear`, fitted on `annotated_sites`; P(site) at even odds of site
    and decoy. A fifth of the sites, at random, picks the C of the linear model, and is not fitted on."""
    share = annotated.labels.mean()
    if arm == "annotation":
        floor = WeightMatrix(settings.pwm_flank).fit(annotated.ids, annotated.labels, annotated.sites)
    else:
        order = np.random.default_rng([seed, 6]).permutation(len(annotated.ids))
        val, train = (annotated.take(part) for part in np.split(order, [len(order) // 5]))
        floor = SiteLinear().fit(train.ids, train.labels, val.ids, val.labels)

    def predict(ids: np.ndarray) -> np.ndarray:
        probability = floor.predict(ids)
        favour, against = probability * (1 - share), (1 - probability) * share
        return favour / (favour + against)

    return predict

"""What a number has to beat: classifiers and features that know no language model."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from simcsp.text.alphabet import A, C, G, reverse_complement
from simcsp.text.weight_matrix import PSEUDOCOUNT, WeightMatrix
from utils.config import EvaluateConfig


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


class NeighbourTable:
    """P(base | the `reach` bases on either side), from counts: what a masked-language model has to beat."""

    def __init__(self, reach: int = 3) -> None:
        self.reach = reach
        self.counts = np.full((4 ** (2 * reach), 4), PSEUDOCOUNT)

    def add(self, ids: np.ndarray) -> None:
        """Count a text, uint8 [length], on both strands; contexts with an N are left out."""
        for strand in (ids, reverse_complement(ids)):
            if len(strand) > 2 * self.reach:
                context, known = self._contexts(np.lib.stride_tricks.sliding_window_view(strand, 2 * self.reach + 1))
                base = strand[self.reach : len(strand) - self.reach].astype(np.int64) - A
                known &= base >= 0
                flat = np.bincount(context[known] * 4 + base[known], minlength=self.counts.size)
                self.counts += flat.reshape(self.counts.shape)

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """P(A, C, G, T) of the central base, float [n, 4], for windows uint8 [n, length]; even odds beside an N."""
        middle = windows.shape[1] // 2
        context, known = self._contexts(windows[:, middle - self.reach : middle + self.reach + 1])
        counts = self.counts[np.where(known, context, 0)]
        return np.where(known[:, None], counts / counts.sum(axis=1, keepdims=True), 0.25)

    def _contexts(self, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the context of each row [n, 2 reach + 1], and whether all of its bases are known."""
        context, known = np.zeros(len(near), dtype=np.int64), np.ones(len(near), dtype=bool)
        for column in (*range(self.reach), *range(self.reach + 1, 2 * self.reach + 1)):
            context = context * 4 + np.maximum(near[:, column].astype(np.int64) - A, 0)
            known &= near[:, column] >= A
        return context, known


def build_floor(arm: str, settings: EvaluateConfig) -> WeightMatrix | KmerLogistic:
    """The floor of that name (utils.arms.FLOORS), not fitted yet."""
    return {"pwm": lambda: WeightMatrix(settings.pwm_flank), "kmer": lambda: KmerLogistic(settings.kmer)}[arm]()

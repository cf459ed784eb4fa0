"""Position weight matrices about a boundary: one-hot bases, fitting, and scores along a text."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from simcsp.core.errors import InputError
from simcsp.text.alphabet import A, T
from simcsp.text.annotation import Intron
from simcsp.text.sites import boundaries, motif_boundaries, shows_motif
from simcsp.text.store import TokenStore, strand_ids

PSEUDOCOUNT = 1.0


def one_hot(ids: np.ndarray, flank: int) -> np.ndarray:
    """float32 [n, 2 flank x 4]: one-hot bases of the `flank` nt on either side of the centre; N is all zero."""
    centre = ids.shape[1] // 2
    part = ids[:, max(centre - flank, 0) : centre + flank]
    return (part[:, :, None] == np.arange(A, T + 1)).reshape(len(ids), -1).astype(np.float32)


class WeightMatrix:
    """Position weight matrices about the centre (Staden 1984): how often each base stands at each place, in the sites
    and the non-sites of each type.

    P(site) is Bayes' rule over all of them, for windows whose type is not told, as the encoder's classifier has it (the
    GT or AG tells), with its log-odds calibrated by a logistic regression: places are not as independent as it takes
    them to be.
    """

    def __init__(self, flank: int) -> None:
        self.flank = flank

    def fit(self, ids: np.ndarray, labels: np.ndarray, sites: np.ndarray) -> WeightMatrix:
        """ids: uint8 [n, length]; labels [n] in {0, 1}; sites [n]. Frequencies with a pseudocount of 1 a base."""
        features = one_hot(ids, self.flank)
        self.log_frequencies, self.log_counts = [], []  # of non-sites, of sites: [types, 8 flank], [types]
        for label in (0, 1):
            members = [(sites == site) & (labels == label) for site in np.unique(sites)]
            self.log_frequencies.append(np.log([self._frequencies(features[rows]) for rows in members]))
            self.log_counts.append(np.log([rows.sum() for rows in members]))
        self.log_odds = list(self.log_frequencies[1] - self.log_frequencies[0])  # by type, in the order of their names
        self.calibration = LogisticRegression(C=1e6, max_iter=1000).fit(self._scores(features), labels)
        return self

    def predict(self, ids: np.ndarray) -> np.ndarray:
        """P(site), float [n]."""
        return self.calibration.predict_proba(self._scores(one_hot(ids, self.flank)))[:, 1]

    def _scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds [n, 1] of a site of any type."""
        against, favour = (
            logsumexp(features @ frequencies.T + counts, axis=1)
            for frequencies, counts in zip(self.log_frequencies, self.log_counts)
        )
        return (favour - against)[:, None]

    @staticmethod
    def _frequencies(features: np.ndarray) -> np.ndarray:
        counts = features.sum(axis=0).reshape(-1, 4) + PSEUDOCOUNT
        return (counts / counts.sum(axis=1, keepdims=True)).ravel()


SCORER_FLANK = 20  # nt on either side of a boundary that the weight matrices of splice_enriched see
MOST_SITES = 20_000  # annotated donors, and acceptors, that they are fitted on: more do not change them


def fit_matrices(store: TokenStore, known: list[Intron], seed: int) -> dict[str, np.ndarray]:
    """{'donor', 'acceptor'}: log-odds in nats of floors.WeightMatrix, annotated sites against random GT / AG."""
    rng = np.random.default_rng([seed, 4])
    windows, labels, sites = [], [], []
    for site, rows in boundaries(store, known).items():
        positive = [_flanks(store, *row) for row in rng.permutation(rows)[:MOST_SITES].tolist()]
        positive = [window for window in positive if window is not None and shows_motif(window[None], site).all()]
        if len(positive) < 10:
            raise InputError(
                f"data.scorer (pwm): only {len(positive)} annotated {site}s with their GT / AG: too few to fit a matrix"
            )
        negative = _decoys(store, rows, site, 4 * len(positive), rng)
        windows += positive + negative
        labels += [1] * len(positive) + [0] * len(negative)
        sites += [site] * (len(positive) + len(negative))
    matrix = WeightMatrix(SCORER_FLANK).fit(np.stack(windows), np.array(labels), np.array(sites))
    return dict(zip(np.unique(sites), matrix.log_odds))


def site_scores(ids: np.ndarray, matrices: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [n + 1]: log-odds of the likelier site at each boundary of ids uint8 [n], read as one strand; only GT and
    AG with SCORER_FLANK nt on either side are candidates, the others are -inf."""
    scores = np.full(len(ids) + 1, -np.inf, dtype=np.float32)
    for site, weights in matrices.items():
        places = motif_boundaries(ids, site)
        places = places[(places >= SCORER_FLANK) & (places <= len(ids) - SCORER_FLANK)]
        # one look-up a column; row N of the table is zero, as an unknown base tells nothing
        table = np.zeros((2 * SCORER_FLANK, T + 1), dtype=np.float32)
        table[:, A:] = weights.reshape(-1, 4)
        total = np.zeros(len(places), dtype=np.float32)
        for column in range(2 * SCORER_FLANK):
            total += table[column, ids[places - SCORER_FLANK + column]]
        scores[places] = np.maximum(scores[places], total)
    return scores


def _flanks(store: TokenStore, record: int, minus: int, boundary: int) -> np.ndarray | None:
    """The 2 x SCORER_FLANK bases about a boundary counted along its strand; None at the end of a record."""
    name, length = store.records[record].name, store.records[record].length
    first, end = boundary - SCORER_FLANK, boundary + SCORER_FLANK
    if first < 0 or end > length:
        return None
    return store.fetch(name, length - end, length - first, "-") if minus else store.fetch(name, first, end)


def _decoys(
    store: TokenStore, real: np.ndarray, site: str, how_many: int, rng: np.random.Generator
) -> list[np.ndarray]:
    strands, sequences = np.unique(real[:, :2], axis=0), []
    share = -(-how_many // len(strands))
    for record, minus in strands.tolist():
        ids = strand_ids(store, store.records[record].name, bool(minus))
        known = real[(real[:, 0] == record) & (real[:, 1] == minus), 2]
        places = np.setdiff1d(motif_boundaries(ids, site), known)
        places = places[(places >= SCORER_FLANK) & (places <= len(ids) - SCORER_FLANK)]
        for place in rng.choice(places, min(share, len(places)), replace=False).tolist():
            sequences.append(ids[place - SCORER_FLANK : place + SCORER_FLANK])
    return sequences

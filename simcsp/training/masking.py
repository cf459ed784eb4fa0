"""Masked bases: which are asked, and what the model sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simcsp.core.config import DataConfig, PretrainConfig
from simcsp.core.errors import InputError
from simcsp.text.alphabet import MASK, A, N, T
from simcsp.text.corpora import Corpus
from simcsp.text.enriched import fit_site_matrices
from simcsp.text.sites import ACCEPTOR_REACH, DONOR_REACH
from simcsp.text.weight_matrix import site_scores

IGNORED = -100  # torch's cross_entropy leaves these targets out
SITE_FACTOR = 5.0  # by which masking about sites raises the odds of the bases of a likely site's consensus


# -- masked bases: which are asked -------------------------------------------------------------------------------------
# All take ids, uint8 [batch, length] of bases or model input, and return bool [batch, length] whose expected share of
# the bases A, C, G and T is `probability`. N and special tokens are never chosen.


def choose_random(ids: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Each base independently, as BERT does."""
    return (rng.random(ids.shape) < probability) & (ids >= A)


def choose_weighted(ids: np.ndarray, weights: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Each base independently, with probability proportional to its weight, such as more around sites.

    weights: number [batch, length], above 0 for every base. In each window the chances add up to `probability` times
    its bases; where one would exceed 1 it is 1 and the others have more. Raises InputError for other weights.
    """
    bases = ids >= A
    if not ((weights > 0) & (weights < np.inf))[bases].all():
        raise InputError("the weights of masking must be finite and above 0 for every base")
    weights, certain = np.where(bases, weights, 0.0), np.zeros(ids.shape, dtype=bool)
    while True:
        left = probability * bases.sum(axis=1) - certain.sum(axis=1)
        total = weights.sum(axis=1, where=~certain)
        chance = weights * (left / np.where(total > 0, total, 1))[:, None]
        if not ((chance > 1) & ~certain).any():
            return rng.random(ids.shape) < chance
        certain |= chance > 1  # their chance only grows as that of the others does


# -- masked bases: what the model sees ---------------------------------------------------------------------------------


def corrupt(ids: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """BERT's corruption (Devlin et al. 2019, section 3.1): of the chosen bases 80 % [MASK], 10 % redrawn, 10 % kept.

    ids: uint8 [batch, length]; chosen: bool of the same shape, of one of the `choose_*`. Returns
    (input ids uint8, targets int64 with IGNORED where nothing is asked).
    """
    action = rng.random(ids.shape)
    random_bases = rng.integers(A, T + 1, size=ids.shape, dtype=np.uint8)
    masked = np.where(chosen & (action < 0.8), np.uint8(MASK), ids)
    masked = np.where(chosen & (action >= 0.8) & (action < 0.9), random_bases, masked)
    return masked, np.where(chosen, ids.astype(np.int64), IGNORED)


Chooser = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(model input uint8 [batch, length], generator) -> bool [batch, length]: the bases to predict."""


def build_chooser(stage: PretrainConfig, data: DataConfig, corpus: Corpus, seed: int) -> Chooser:
    """Which bases a stage masks (pretrain.masking), always `mlm_probability` of them on average."""
    share = stage.mlm_probability
    if stage.masking == "sites":
        matrices = fit_site_matrices(data, corpus.store, seed)
        return lambda tokens, rng: choose_weighted(tokens, site_weights(tokens, matrices), share, rng)
    return lambda tokens, rng: choose_random(tokens, share, rng)


def site_weights(tokens: np.ndarray, matrices: dict[str, np.ndarray]) -> np.ndarray:
    """float [batch, length]: `SITE_FACTOR` on the bases of the consensus of likely sites (log-odds above 0), else 1."""
    gap = np.full((len(tokens), 40), N, dtype=np.uint8)  # no site is seen across two windows
    flat = np.where(tokens >= N, tokens, N).astype(np.uint8)
    joined = np.concatenate([flat, gap], axis=1).ravel()
    weights = np.ones(len(joined))
    for site, (before, after) in (("donor", DONOR_REACH), ("acceptor", ACCEPTOR_REACH)):
        for place in np.flatnonzero(site_scores(joined, {site: matrices[site]}) > 0):
            weights[max(place - before, 0) : place + after] = SITE_FACTOR
    return weights.reshape(len(tokens), -1)[:, : tokens.shape[1]]

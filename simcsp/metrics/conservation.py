"""Do a model's hidden states know which bases are conserved? SpliceBERT's logistic regression (Chen et al. 2024)."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import BertModel

from simcsp.metrics.proxies import fit_logistic
from simcsp.metrics.scores import ap_interval
from simcsp.model.embedding import Autocast, read_batches
from simcsp.model.encoder import hidden_states
from simcsp.text.alphabet import N, T

CONSERVED = 0.8
"""A base with phastCons of at least this is conserved."""
ONE_HOT_REACH = 20  # nt on either side that the floor sees; the paper's saw 250 and was at chance
HELD_OUT = 0.2


def base_states(bert: BertModel, ids: np.ndarray, batch_size: int, autocast: Autocast = nullcontext) -> np.ndarray:
    return read_batches(bert, ids, batch_size, lambda tokens: hidden_states(bert, tokens)[:, 1:-1], autocast)


def one_hot_bases(ids: np.ndarray, reach: int = ONE_HOT_REACH) -> np.ndarray:
    """bool [n, length, 4 (2 reach + 1)]: letters about each base of windows uint8 [n, length], none beyond them."""
    padded = np.pad(ids, ((0, 0), (reach, reach)), constant_values=N)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
    return (near[..., None] == np.arange(N + 1, T + 1, dtype=np.uint8)).reshape(*ids.shape, -1)


def conservation_rows(features: dict[str, np.ndarray], conserved: np.ndarray, seed: int) -> list[dict]:
    """AUC and AP on a fifth of the bases held out by base, as published, and by window, as is right: neighbouring bases
    share their window, so that by base a test base's neighbours have been learnt from.

    features: {"ours": [n, length, width], "floor": ...}; conserved: bool [n, length].
    """
    n, length = conserved.shape
    rng, rows = np.random.default_rng(seed), []
    window = np.repeat(np.arange(n), length)
    held_out = {"base": rng.random(n * length) < HELD_OUT, "window": (rng.random(n) < HELD_OUT)[window]}
    labels = conserved.ravel()
    for split, test in held_out.items():
        odds = {}
        for name, values in features.items():
            flat = values.reshape(len(labels), -1)
            model = fit_logistic(flat[~test].astype(np.float32), labels[~test], 1.0)
            odds[name] = model.decision_function(flat[test].astype(np.float32))
        truth = labels[test]
        intervals = {"AP": ap_interval(truth, odds["ours"], window[test], seed)}
        for metric, score in (("AUC", roc_auc_score), ("AP", average_precision_score)):
            value, floor = (float(score(truth, odds[name])) for name in ("ours", "floor"))
            row = {"metric": f"{metric}, split by {split}", "n": len(truth), "value": value, "floor": floor}
            rows.append(row | intervals.get(metric, {}))
    return rows

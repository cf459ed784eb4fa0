"""The frozen-encoder probe: a logistic regression on an arm's pooled vectors, fast enough for thousands of fits."""

from __future__ import annotations

import time

import numpy as np
from sklearn.metrics import roc_auc_score

from simcsp.labels.floors import Labelled, Predict
from simcsp.metrics.proxies import fit_logistic
from simcsp.text.sites import SITES
from simcsp.training.arms import FoldJob
from simcsp.training.fold import summarise_at_once
from simcsp.training.fold_setup import Fold, FoldSetup, Start, copy_encoder, encode

ANNOTATED, ANNOTATED_C = 8000, 0.1  # sites and decoys that a probe without labels is fitted on, and its C
CS = (0.001, 0.01, 0.1, 1.0)  # inverse strengths of L2 on standardised vectors that are tried


def start_vectors(setup: FoldSetup, job: FoldJob, start: Start) -> np.ndarray:
    """Vectors float32 [windows, hidden] of the arm's encoder: once an arm; of fresh weights once a seed and fold."""
    key = (job.seed, job.fold) if start.fresh else None
    if start.vectors is None or start.vectors_of != key:
        start.vectors = encode(setup, copy_encoder(setup, job, start), start.pooling, setup.ids)
        start.vectors_of = key
    return start.vectors


def fit_on_annotation(setup: FoldSetup, job: FoldJob, start: Start, annotated: Labelled) -> Predict:
    """P(site) of windows by a probe that no label has been used for: fitted on the text's annotated sites and decoys,
    as many of each kind as the rarest has, at most ANNOTATED in all."""
    rng = np.random.default_rng([setup.config.seed, 7])
    kinds = [
        np.flatnonzero((annotated.labels == label) & (annotated.sites == site)) for label in (0, 1) for site in SITES
    ]
    count = min(ANNOTATED // len(kinds), *map(len, kinds))
    chosen = annotated.take(np.concatenate([rng.choice(kind, count, replace=False) for kind in kinds]))
    bert = copy_encoder(setup, job, start)
    probe = fit_logistic(encode(setup, bert, start.pooling, chosen.ids), chosen.labels, ANNOTATED_C)
    return lambda ids: probe.predict_proba(encode(setup, bert, start.pooling, ids))[:, 1]


def fit_probe(setup: FoldSetup, fold: Fold, start: Start) -> None:
    """Fit on the training windows, pick C by validation AUC, score the test windows once; no model is kept."""
    began = time.perf_counter()
    vectors, labels = start_vectors(setup, fold.job, start), setup.windows.labels
    train, val = fold.parts["train"], fold.parts["val"]
    fits = {c: fit_logistic(vectors[train], labels[train], c) for c in CS}
    auc = {c: roc_auc_score(labels[val], fit.decision_function(vectors[val])) for c, fit in fits.items()}
    chosen = max(auc, key=auc.get)  # the first of equals
    on_validation, on_test = (fits[chosen].predict_proba(vectors[fold.parts[part]])[:, 1] for part in ("val", "test"))
    setup.stop_if_asked()
    summarise_at_once(setup, fold, on_test, on_validation, began, {"C": chosen})

"""Does an encoder know a site wherever it lies in the window, or only at the centre?"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from simcsp.core.errors import InputError
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import grouped_folds
from simcsp.metrics.proxies import PROBE_C, PROBE_FOLDS, fit_logistic
from simcsp.model.embedding import Encoder
from simcsp.text.kmers import near_duplicate_groups

OFFSETS = (0, 2, 4, 8, 16, 32, 45)  # nt


def measure_offsets(encoder: Encoder, windows: Windows, context: int, seed: int) -> dict[str, dict[str, float]]:
    """{'8 nt': {auc, refitted_auc}} of a logistic regression on the vectors at sites that lie so far off the centre of
    `context` nt, every other window to the left. Pooling other than centre reads the window as it always does.

    auc: fitted on centred windows; refitted_auc: on windows moved as far. Means over five parts, near-duplicates
    together. Raises InputError for windows without room to move, and for parts of one class.
    """
    room = min((windows.ids.shape[1] - context) // 2, context // 2 - 1)
    if room < OFFSETS[-1]:
        raise InputError(f"data.context ({context} nt) leaves {room} nt to move a window, {OFFSETS[-1]} are needed")
    labels, left = windows.labels, (windows.ids.shape[1] - context) // 2
    parts = [fold["val"] for fold in grouped_folds(labels, near_duplicate_groups(windows.ids), PROBE_FOLDS, seed)]
    if any(len(np.unique(labels[part])) < 2 for part in parts):
        raise InputError("data.selection_share: a fifth of the selection windows is all of one class: raise it")
    everything, centred, rows = np.arange(len(labels)), None, {}
    for offset in OFFSETS:
        vectors = np.empty((len(labels), encoder.bert.config.hidden_size), np.float32)
        for first, moved in ((0, offset), (1, -offset)):
            ids = windows.ids[first::2, left + moved : left + moved + context]
            vectors[first::2] = encoder.embed(ids, boundary=context // 2 - moved)
        centred = vectors if centred is None else centred
        scores = {"auc": [], "refitted_auc": []}
        for part in parts:
            rest = np.setdiff1d(everything, part)
            for key, fitted_on in (("auc", centred), ("refitted_auc", vectors)):
                probe = fit_logistic(fitted_on[rest], labels[rest], PROBE_C)
                scores[key].append(roc_auc_score(labels[part], probe.decision_function(vectors[part])))
        rows[f"{offset} nt"] = {key: float(np.mean(values)) for key, values in scores.items()}
    return rows

"""Does an encoder know a site wherever it lies in the window, or only at the centre?"""

from __future__ import annotations

import numpy as np

from simcsp.core.errors import InputError
from simcsp.labels.spliceator import Windows
from simcsp.metrics.proxies import probe_auc
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
    groups, centred, rows = near_duplicate_groups(windows.ids), None, {}
    for offset in OFFSETS:
        vectors = np.empty((len(labels), encoder.bert.config.hidden_size), np.float32)
        for first, moved in ((0, offset), (1, -offset)):
            ids = windows.ids[first::2, left + moved : left + moved + context]
            vectors[first::2] = encoder.embed(ids, boundary=context // 2 - moved)
        centred = vectors if centred is None else centred
        rows[f"{offset} nt"] = {
            "auc": probe_auc(vectors, labels, seed, groups, fitted_on=centred),
            "refitted_auc": probe_auc(vectors, labels, seed, groups),
        }
    return rows

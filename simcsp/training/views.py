"""Further views of a window for a contrast: real text beside it; no reverse complement, since sites are stranded."""

from __future__ import annotations

import numpy as np


def shifted(ids: np.ndarray, max_shift: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each window moved by up to `max_shift` nt either way, at random: uint8 [n, length], all of it real text; and in
    each the base, int64 [n], that is the middle of the window unmoved.

    ids: uint8 [n, length + 2 max_shift], the windows with what lies on either side.
    """
    length = ids.shape[1] - 2 * max_shift
    start = rng.integers(0, 2 * max_shift, size=len(ids), endpoint=True)
    moved = np.lib.stride_tricks.sliding_window_view(ids, length, axis=1)[np.arange(len(ids)), start]
    return moved, length // 2 + max_shift - start


def shortened(ids: np.ndarray, min_window: int, max_shift: int, rng: np.random.Generator) -> np.ndarray:
    """All windows cut about their centre to one length, drawn between min_window and their own: uint8 [n, length].

    ids: uint8 [n, window + 2 max_shift], which stays so for `shifted`. An even number goes, so the centre stays one.
    """
    most = (ids.shape[1] - 2 * max_shift - min_window) // 2
    each_side = int(rng.integers(0, most, endpoint=True))
    return ids[:, each_side : ids.shape[1] - each_side]

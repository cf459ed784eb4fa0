"""In-silico mutagenesis: what a model's score of a site loses when one base of the window is another.

Every base is replaced by each of the others, one at a time (Zhou and Troyanskaya, Nature Methods 12, 931, 2015).
Nothing here knows what kind of model it asks: a score is any function of windows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simcsp.text.alphabet import A, T

LETTERS = "ACGT"
"""The order of the last axis of everything here."""
_IDS = np.arange(A, T + 1, dtype=np.uint8)

Score = Callable[[np.ndarray], np.ndarray]
"""Logits [n] of windows uint8 [n, length]. Of an ensemble: the mean logit."""


def substitution_drops(score: Score, windows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """float32 [n, places, 4]: the logit of each window less its logit with that place made A, C, G or T.

    windows: uint8 [n, length]; places: indices into a window. Positive where the base that was there
    supports the call; 0 at the base that was there. Each window costs 3 x places + 1 scores.
    """
    drops = np.zeros((len(windows), len(places), len(_IDS)), dtype=np.float32)
    for window, drop in zip(windows, drops):
        place, letter = np.nonzero(window[places, None] != _IDS)
        changed = np.repeat(window[None], len(place) + 1, axis=0)
        changed[np.arange(len(place)), places[place]] = _IDS[letter]
        logits = score(changed)  # the last row is the window as it is
        drop[place, letter] = logits[-1] - logits[:-1]
    return drops


def mean_drops(texts: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """float64 [places, 4]: mean drop over the windows that have another base there; NaN where none has.

    texts: uint8 [n, places], the bases at the places of `substitution_drops`; drops: what that gave.
    """
    changed = texts[..., None] != _IDS
    count = changed.sum(axis=0)
    return np.where(changed, drops, 0.0).sum(axis=0, dtype=np.float64) / np.where(count, count, np.nan)


def logo_heights(texts: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """float64 [places, 4]: heights of a logo's letters.

    The height of a letter is the mean drop over the three substitutions of it, where windows have it, times the share
    of the windows that do: the heights of a place sum to its mean drop over all windows.
    """
    of_a_place = drops.sum(axis=-1, keepdims=True, dtype=np.float64) / 3
    return np.where(texts[..., None] == _IDS, of_a_place, 0.0).mean(axis=0)

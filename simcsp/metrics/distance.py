"""How far a checkpoint is from the one that it was trained from: its vectors of the same windows, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Distance:
    """step: of the checkpoint. weights: relative change. cosine, cka: of its vectors to the start's; None: no windows.

    A cosine and a CKA near 1 say that the two encoders are near copies: then no difference is to be expected.
    """

    step: int
    weights: float
    cosine: float | None = None
    cka: float | None = None


def relative_change(start: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> float:
    """||now - start|| / ||start|| over all weights of the same name (state dictionaries)."""
    moved = sum(float((now[name].double() - start[name].double()).square().sum()) for name in start)
    return (moved / sum(float(weight.double().square().sum()) for weight in start.values())) ** 0.5


def mean_cosine_to(start: np.ndarray, now: np.ndarray) -> float:
    """Mean cosine of each window's two vectors; both [n, hidden]."""
    lengths = np.linalg.norm(start, axis=1) * np.linalg.norm(now, axis=1)
    return float(((start * now).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


def linear_cka(start: np.ndarray, now: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) of vectors [n, hidden] and [n, any]: 1 for the same
    geometry up to rotation and scale, near 0 for unrelated ones where n is well above hidden."""
    start, now = (vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64) for vectors in (start, now))
    shared = np.linalg.norm(start.T @ now) ** 2
    alone = np.linalg.norm(start.T @ start) * np.linalg.norm(now.T @ now)
    return float(shared / alone) if alone > 0 else 0.0

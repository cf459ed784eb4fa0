"""What pre-training minimises: InfoNCE over two views of each window, and masked bases."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from utils.sequence import MASK, A, T

IGNORED = -100  # torch's cross_entropy leaves these targets out


def info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018; SimCSE, Gao et al. 2021, equation 1).

    first, second: [batch, hidden], two views of the same windows in the same order. Each row of `first` must find its
    partner among all rows of `second` by cosine similarity / temperature. Returns the mean loss in nats; a model that
    cannot tell windows apart has ln(batch).
    """
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    return F.cross_entropy(similarity, torch.arange(len(first), device=first.device))


def mask_tokens(ids: np.ndarray, probability: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking (Devlin et al. 2019, section 3.1): of the chosen bases 80 % [MASK], 10 % redrawn, 10 % kept.

    ids: uint8 [batch, length] bases, or model input; only A, C, G and T are ever chosen, never N or special tokens.
    Returns (input ids uint8, targets int64 with IGNORED where nothing is asked).
    """
    chosen = (rng.random(ids.shape) < probability) & (ids >= A)
    action = rng.random(ids.shape)
    random_bases = rng.integers(A, T + 1, size=ids.shape, dtype=np.uint8)
    masked = np.where(chosen & (action < 0.8), np.uint8(MASK), ids)
    masked = np.where(chosen & (action >= 0.8) & (action < 0.9), random_bases, masked)
    return masked, np.where(chosen, ids.astype(np.int64), IGNORED)

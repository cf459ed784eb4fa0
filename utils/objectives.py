"""What pre-training minimises: contrasts of the views of windows, and masked bases.

Contrastive losses take vectors (torch), masks are made from ids (numpy uint8).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import nn

from utils.errors import InputError
from utils.overlap import KMER, kmer_hashes
from utils.sequence import MASK, A, T, reverse_complement

IGNORED = -100  # torch's cross_entropy leaves these targets out


# -- contrast ----------------------------------------------------------------------------------------------------------


def info_nce(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    hard: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018; SimCSE, Gao et al. 2021, equation 1).

    first, second: [batch, hidden], two views of the same windows in the same order. Each row of `first` must find its
    partner among all rows of `second` by cosine similarity / temperature. Returns the mean loss in nats; a model that
    cannot tell windows apart has ln(batch).
    negatives: bool [batch, batch], False at [i, j] where window j is no negative of window i, such as
    `~near_duplicates(ids)`; its diagonal is not read. hard: [batch, hidden], further negatives of every row made from
    the same windows in the same order, such as their reverse complements (SimCSE, equation 5). A window's own is always
    a negative; those of other windows are left out where the windows are.
    """
    similarity = _similarity(first, second, temperature, negatives, hard)
    return F.cross_entropy(similarity, torch.arange(len(first), device=first.device))


def dcl(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    hard: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decoupled contrastive loss (Yeh et al. 2022): InfoNCE whose denominator leaves the positive out.

    Arguments as of `info_nce`; like there, the negatives of a row are of the other view. Returns the mean of
    -s_ii + ln sum_j exp(s_ij), j not i, in nats, which may be below 0; a model that cannot tell windows apart has
    ln(batch - 1). Rows without any negative are left out. Raises InputError when that is all of them.
    """
    similarity = _similarity(first, second, temperature, negatives, hard)
    itself = torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(itself, -torch.inf)
    rows = others.isfinite().any(dim=1)
    if not rows.any():
        raise InputError("no window of a batch has a negative: raise batch_size")
    return (others[rows].logsumexp(dim=1) - similarity.diagonal()[rows]).mean()


def _similarity(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None,
    hard: torch.Tensor | None,
) -> torch.Tensor:
    """Cosine similarity / temperature, [batch, batch] or [batch, 2 batch] with `hard`; -inf where left out."""
    anchors = F.normalize(first, dim=-1)
    blocks = [anchors @ F.normalize(second, dim=-1).T / temperature]
    if hard is not None:
        blocks.append(anchors @ F.normalize(hard, dim=-1).T / temperature)
    if negatives is not None:
        left_out = ~negatives & ~torch.eye(len(first), dtype=torch.bool, device=first.device)
        blocks = [block.masked_fill(left_out, -torch.inf) for block in blocks]
    return torch.cat(blocks, dim=1)


def sup_con(vectors: torch.Tensor, classes: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss, L_out (Khosla et al. 2020, equation 2), as a mean over anchors instead of a sum.

    vectors: [n, hidden]; classes: [n]. For each row the mean, over the other rows of its class, of
    -ln(exp(s_ip) / sum_a exp(s_ia)), a not i, with s the cosine similarity / temperature. Rows alone in their class
    are left out as anchors and stay as negatives. Raises InputError when that is all of them.
    """
    unit = F.normalize(vectors, dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    positives = (classes[:, None] == classes) & ~itself
    partners = positives.sum(dim=1)
    rows = partners > 0
    if not rows.any():
        raise InputError(
            "no two windows of a batch are of one class, which supervised contrast needs: raise batch_size"
        )
    losses = (similarity.logsumexp(dim=1, keepdim=True) - similarity).masked_fill(~positives, 0)
    return (losses.sum(dim=1)[rows] / partners[rows]).mean()


class ProjectionHead(nn.Module):
    """MLP between the encoder and a contrastive loss, g(h) = W2 relu(W1 h) with biases (SimCLR, Chen et al. 2020,
    section 2.1), as wide as its input. For training only, as in SimCSE: what is evaluated is h."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """[batch, hidden] -> [batch, hidden]."""
        return self.layers(vectors)


def near_duplicates(ids: np.ndarray, k: int | None = None) -> np.ndarray:
    """bool [batch, batch], symmetric: which windows share a k-mer without N on either strand; each does with itself.

    ids: uint8 [batch, length]. k: by default 80 nt, which near-duplicates share everywhere in this project; for windows
    under 160 nt half of their length, so that two that overlap by half are still found. k-mers are compared as hashes
    of 54 bits for 1,024 windows: among half a million, chance makes two equal in one batch of 100,000.
    """
    k = min(KMER, ids.shape[1] // 2) if k is None else k
    hashes, known = kmer_hashes(ids, k)
    keys = np.minimum(hashes, kmer_hashes(reverse_complement(ids), k)[0][:, ::-1])  # the same for both strands
    rows = np.uint64((1 << (len(ids) - 1).bit_length()) - 1)  # the low bits, which are not well mixed, hold the row
    keys &= ~rows
    keys |= np.arange(len(ids), dtype=np.uint64)[:, None]
    keys = keys.ravel() if known.all() else keys[known]
    keys.sort()
    again = np.append(False, (keys[1:] ^ keys[:-1]) <= rows)[: len(keys)]  # the k-mer before, of whichever row
    often = again | np.append(again[1:], False)[: len(keys)]
    kmer = np.cumsum(~again[often]) - 1
    row = (keys[often] & rows).astype(np.int64)
    table = csr_array((np.ones(len(row), dtype=np.int32), (row, kmer)), (len(ids), kmer.max(initial=0) + 1))
    return ((table @ table.T).toarray() > 0) | np.eye(len(ids), dtype=bool)


# -- masked bases: which are asked -------------------------------------------------------------------------------------
# All take ids, uint8 [batch, length] of bases or model input, and return bool [batch, length] whose expected share of
# the bases A, C, G and T is `probability`. N and special tokens are never chosen.


def choose_random(ids: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Each base by itself, as BERT does."""
    return (rng.random(ids.shape) < probability) & (ids >= A)


def choose_weighted(ids: np.ndarray, weights: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Each base by itself, with a chance in proportion to its weight: more of them around sites, say.

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

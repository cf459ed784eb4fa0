"""Contrastive losses of the views of windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from simcsp.core.errors import InputError

# Several processes can share a batch: each has all vectors and computes the losses of its `own` rows, and the mean over
# processes of what it returns is the loss of the batch. average: mean over the processes of a count of rows.

Average = Callable[[torch.Tensor], torch.Tensor]
ALL = slice(None)


def alone(count: torch.Tensor) -> torch.Tensor:
    """The mean over one process."""
    return count


# -- contrast ----------------------------------------------------------------------------------------------------------


def info_nce(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    hard: torch.Tensor | None = None,
    own: slice = ALL,
) -> torch.Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018; SimCSE, Gao et al. 2021, equation 1).

    first, second: [batch, hidden], two views of the same windows in the same order. Each row of `first` must find its
    partner among all rows of `second` by cosine similarity / temperature. Returns the mean loss in nats; a model that
    cannot tell windows apart has ln(batch).
    negatives: bool [batch, batch] (own rows alone: [own, batch]), False at [i, j] where window j is no negative of
    window i, such as `~near_duplicates(ids)`; the place of the partner is not read. hard: [batch, hidden], further
    negatives of every row made from the same windows in the same order, such as their reverse complements (SimCSE,
    equation 5). A window's own is always a negative; those of other windows are left out where the windows are.
    """
    similarity, itself = _similarity(first, second, temperature, negatives, hard, own)
    return F.cross_entropy(similarity, itself)


def dcl(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    hard: torch.Tensor | None = None,
    own: slice = ALL,
    average: Average = alone,
) -> torch.Tensor:
    """Decoupled contrastive loss (Yeh et al. 2022): InfoNCE whose denominator leaves the positive out.

    Arguments as of `info_nce`; like there, the negatives of a row are of the other view. Returns the mean of
    -s_ii + ln sum_j exp(s_ij), j not i, in nats, which may be below 0; a model that cannot tell windows apart has
    ln(batch - 1). Rows without any negative are left out. Raises InputError when that is all of them.
    """
    similarity, itself = _similarity(first, second, temperature, negatives, hard, own)
    positives = similarity.gather(1, itself[:, None])[:, 0]
    others = similarity.scatter(1, itself[:, None], -torch.inf)
    rows = others.isfinite().any(dim=1)
    count = average(rows.sum())
    if not count:
        raise InputError("no window of a batch has a negative: raise batch_size")
    return (others[rows].logsumexp(dim=1) - positives[rows]).sum() / count


def _similarity(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None,
    hard: torch.Tensor | None,
    own: slice,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarity / temperature, [own, batch] or [own, 2 batch] with `hard`, -inf where left out; and the column
    of each row's partner, [own]."""
    itself = torch.arange(len(first), device=first.device)[own]
    anchors = F.normalize(first[own], dim=-1)
    blocks = [anchors @ F.normalize(second, dim=-1).T / temperature]
    if hard is not None:
        blocks.append(anchors @ F.normalize(hard, dim=-1).T / temperature)
    if negatives is not None:
        left_out = (~negatives).scatter(1, itself[:, None], False)
        blocks = [block.masked_fill(left_out, -torch.inf) for block in blocks]
    return torch.cat(blocks, dim=1), itself


def sup_con(
    vectors: torch.Tensor, classes: torch.Tensor, temperature: float, own: slice = ALL, average: Average = alone
) -> torch.Tensor:
    """Supervised contrastive loss, L_out (Khosla et al. 2020, equation 2), as a mean over anchors instead of a sum.

    vectors: [n, hidden]; classes: [n]. For each row the mean, over the other rows of its class, of
    -ln(exp(s_ip) / sum_a exp(s_ia)), a not i, with s the cosine similarity / temperature. Rows alone in their class
    are left out as anchors and stay as negatives. Raises InputError when that is all of them.
    """
    unit = F.normalize(vectors, dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)[own]
    similarity = (unit[own] @ unit.T / temperature).masked_fill(itself, -torch.inf)
    positives = (classes[own, None] == classes) & ~itself
    partners = positives.sum(dim=1)
    rows = partners > 0
    count = average(rows.sum())
    if not count:
        raise InputError(
            "no two windows of a batch are of one class, which supervised contrast needs: raise batch_size"
        )
    losses = (similarity.logsumexp(dim=1, keepdim=True) - similarity).masked_fill(~positives, 0)
    return (losses.sum(dim=1)[rows] / partners[rows]).sum() / count


class ProjectionHead(nn.Module):
    """MLP between the encoder and a contrastive loss, g(h) = W2 relu(W1 h) with biases (SimCLR, Chen et al. 2020,
    section 2.1), as wide as its input. For training only, as in SimCSE: what is evaluated is h."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """[batch, hidden] -> [batch, hidden]."""
        return self.layers(vectors)

"""What pre-training can minimise: the losses, and OBJECTIVES, by which all else knows them.

A new loss is a function and an entry of OBJECTIVES, both in this file; CONTRIBUTING.md adds one, and
tests/training/test_objectives.py holds every entry to the same contract.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from simcsp.core.config import MlmConfig, PretrainConfig
from simcsp.core.errors import InputError

Average = Callable[[torch.Tensor], torch.Tensor]
"""Mean over the processes that share a batch, without a gradient."""
ALL = slice(None)


def alone(count: torch.Tensor) -> torch.Tensor:
    return count


# -- what an objective is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """What the encoder made of a batch, which several processes may share: each has the vectors of all windows, and
    computes the loss of its `own` ones. The mean over processes is the loss of the batch.

    vectors: float32 or wider [views, batch, hidden], behind the head for training.
    classes: int64 [batch], index into simcsp.text.annotated.SITE_CLASSES; None where the text has none.
    negatives: bool [own, batch], False where a window is no negative of another; None: all are.
    """

    vectors: torch.Tensor
    classes: torch.Tensor | None
    negatives: torch.Tensor | None
    own: slice
    average: Average


@dataclass(frozen=True)
class Objective:
    """One value of pretrain.objective.

    loss: mean over own windows, or over the whole batch; None: masked bases, whose loss step.py has.
    accuracy: share of own windows that are told apart, for the log.
    chance: (stage, entropy of the text's base composition, number of classes) -> the loss, in nats, of an encoder that
    makes the same of every window, from which the warning "nothing learned" is given; None: there is no such value.
    fields: those of pretrain that apply; a value other than the default is refused for the rest. Those of mlm always
    apply. views: how many of each window the encoder reads. with_classes: needs data.corpus annotated. head: (hidden
    size, number of classes) -> the module before the loss, for training only; None: as pretrain.projection_head says.
    """

    loss: Callable[[Outputs, PretrainConfig], torch.Tensor] | None
    accuracy: Callable[[Outputs], torch.Tensor] | None
    chance: Callable[[PretrainConfig, float, int], float] | None
    fields: tuple[str, ...]
    views: int = 2
    with_classes: bool = False
    head: Callable[[int, int], nn.Module] | None = None


def inapplicable_fields(objective: str) -> dict[str, object]:
    """{field of pretrain: its default} of those that mean nothing to an objective."""
    applicable = {*MlmConfig.__dataclass_fields__, *OBJECTIVES[objective].fields, "objective", "seeds", "control"}
    return {item.name: item.default for item in dataclasses.fields(PretrainConfig) if item.name not in applicable}


# -- accuracies --------------------------------------------------------------------------------------------------------


def matched_views(outputs: Outputs) -> torch.Tensor:
    """How often a window's first view is nearest to its second, by cosine similarity."""
    first, second = outputs.vectors
    nearest = (F.normalize(first[outputs.own], dim=-1) @ F.normalize(second, dim=-1).T).argmax(dim=1)
    return (nearest == torch.arange(len(first), device=first.device)[outputs.own]).float().mean()


def matched_classes(outputs: Outputs) -> torch.Tensor:
    """How often the nearest other window is of the same class."""
    unit, own = F.normalize(outputs.vectors[0], dim=-1), outputs.own
    itself = torch.arange(len(unit), device=unit.device)[own, None]
    nearest = (unit[own] @ unit.T).scatter(1, itself, -2).argmax(dim=1)  # -2: below every cosine
    return (outputs.classes[nearest] == outputs.classes[own]).float().mean()


def highest_logit(outputs: Outputs) -> torch.Tensor:
    """How often the highest logit is that of the window's class."""
    return (outputs.vectors[0, outputs.own].argmax(dim=1) == outputs.classes[outputs.own]).float().mean()


# -- losses ----------------------------------------------------------------------------------------------------------


def info_nce(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    own: slice = ALL,
) -> torch.Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018; SimCSE, Gao et al. 2021, equation 1).

    first, second: [batch, hidden], two views of the same windows in the same order. Each row of `first` must find its
    partner among all rows of `second` by cosine similarity / temperature. Returns the mean loss in nats; a model that
    cannot tell windows apart has ln(batch).
    negatives: bool [batch, batch] (own rows alone: [own, batch]), False at [i, j] where window j is no negative of
    window i, such as `~near_duplicates(ids)`; the place of the partner is not read.
    """
    similarity, itself = _similarity(first, second, temperature, negatives, own)
    return F.cross_entropy(similarity, itself)


def dcl(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None = None,
    own: slice = ALL,
    average: Average = alone,
) -> torch.Tensor:
    """Decoupled contrastive loss (Yeh et al. 2022): InfoNCE whose denominator leaves the positive out.

    Arguments as of `info_nce`; like there, the negatives of a row are of the other view. Returns the mean of
    -s_ii + ln sum_j exp(s_ij), j not i, in nats, which may be below 0; a model that cannot tell windows apart has
    ln(batch - 1). Rows without any negative are left out. Raises InputError when that is all of them.
    """
    similarity, itself = _similarity(first, second, temperature, negatives, own)
    positives = similarity.gather(1, itself[:, None])[:, 0]
    others = similarity.scatter(1, itself[:, None], -torch.inf)
    rows = others.isfinite().any(dim=1)
    count = average(rows.sum())
    _refuse_none(count, "no window of a batch has a negative: raise batch_size")
    losses = others.masked_fill(~rows[:, None], 0).logsumexp(dim=1) - positives
    return losses.masked_fill(~rows, 0).sum() / count


def _similarity(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    negatives: torch.Tensor | None,
    own: slice,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarity / temperature, [own, batch], -inf where left out; the column of each row's partner, [own]."""
    itself = torch.arange(len(first), device=first.device)[own]
    similarity = F.normalize(first[own], dim=-1) @ F.normalize(second, dim=-1).T / temperature
    if negatives is not None:
        similarity = similarity.masked_fill((~negatives).scatter(1, itself[:, None], False), -torch.inf)
    return similarity, itself


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
    _refuse_none(count, "no two windows of a batch are of one class, which supervised contrast needs: raise batch_size")
    losses = (similarity.logsumexp(dim=1, keepdim=True) - similarity).masked_fill(~positives, 0)
    return (losses.sum(dim=1) / partners.clamp(min=1)).sum() / count


def _refuse_none(count: torch.Tensor, fault: str) -> None:
    """Raise InputError where `count` is 0. A GPU would be waited for: there the loss is NaN, which ends a training."""
    if count.device.type != "cuda" and not count:
        raise InputError(fault)


class ProjectionHead(nn.Module):
    """MLP between the encoder and a contrastive loss, g(h) = W2 relu(W1 h) with biases (SimCLR, Chen et al. 2020,
    section 2.1), as wide as its input. For training only, as in SimCSE: what is evaluated is h."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """[batch, hidden] -> [batch, hidden]."""
        return self.layers(vectors)


# -- the registry ------------------------------------------------------------------------------------------------------


def simcse_loss(outputs: Outputs, stage: PretrainConfig) -> torch.Tensor:
    return info_nce(*outputs.vectors, stage.temperature, outputs.negatives, outputs.own)


def dcl_loss(outputs: Outputs, stage: PretrainConfig) -> torch.Tensor:
    return dcl(*outputs.vectors, stage.temperature, outputs.negatives, outputs.own, outputs.average)


def supcon_loss(outputs: Outputs, stage: PretrainConfig) -> torch.Tensor:
    return sup_con(outputs.vectors[0], outputs.classes, stage.temperature, outputs.own, outputs.average)


def classify_loss(outputs: Outputs, stage: PretrainConfig) -> torch.Tensor:
    return F.cross_entropy(outputs.vectors[0, outputs.own], outputs.classes[outputs.own])


OF_VIEWS = ("max_shift", "mlm_weight")
OF_CONTRAST = (*OF_VIEWS, "temperature", "projection_head")
OF_PAIRS = (*OF_CONTRAST, "skip_near_duplicates")

OBJECTIVES = {
    # max_shift: the control of a contrast reads windows as wide
    "mlm": Objective(None, None, lambda stage, entropy, classes: entropy, ("max_shift",), views=0),
    "simcse": Objective(simcse_loss, matched_views, lambda stage, *_: math.log(stage.batch_size), OF_PAIRS),
    "dcl": Objective(dcl_loss, matched_views, lambda stage, *_: math.log(stage.batch_size - 1), OF_PAIRS),
    "supcon": Objective(
        supcon_loss,
        matched_classes,
        lambda stage, *_: math.log(stage.batch_size - 1),
        OF_CONTRAST,
        views=1,
        with_classes=True,
    ),
    "classify": Objective(
        classify_loss,
        highest_logit,
        lambda _stage, _entropy, classes: math.log(classes),
        OF_VIEWS,
        views=1,
        with_classes=True,
        head=nn.Linear,
    ),
}
"""{pretrain.objective: what it is}."""

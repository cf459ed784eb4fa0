"""What one step of pre-training computes: the views of a batch, its negatives, its masked copy, and the loss."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BertForMaskedLM

from simcsp.core.config import PretrainConfig
from simcsp.core.device import give_back_freed_memory
from simcsp.model.encoder import window_vectors
from simcsp.text.alphabet import add_special_tokens
from simcsp.text.annotated import OTHER
from simcsp.text.kmers import near_duplicates
from simcsp.training.masking import IGNORED, Chooser, choose_random, corrupt
from simcsp.training.objectives import OBJECTIVES, Average, Outputs, ProjectionHead, alone
from simcsp.training.processes import Processes
from simcsp.training.views import shifted, shortened

ALONE = Processes()


class Learner(nn.Module):
    """The encoder in training: logits of bases for mlm, else pooled vectors behind the objective's head, if any.

    classes: of the text's crops, for an objective whose head has an output for each.

    The heads are for training only (SimCLR, Chen et al. 2020): no checkpoint holds them.
    """

    def __init__(
        self, model: BertForMaskedLM, pooling: str, objective: str, projection: bool = False, classes: int = OTHER
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.objective = objective
        hidden_size, build_head = model.config.hidden_size, OBJECTIVES[objective].head
        if build_head:
            self.head = build_head(hidden_size, classes)
        else:
            self.head = ProjectionHead(hidden_size) if projection else nn.Identity()

    def forward(
        self,
        tokens: torch.Tensor,
        boundaries: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
        place: float = 0.0,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """mlm: logits of tokens. Otherwise vectors of tokens, and with `masked` also the logits of that.

        boundaries: int [batch], where the site of a window lies (`window_vectors`); None: at its centre. place: in
        [0, 1), where among the encoder's positions the tokens begin: 0 at the first, near 1 as late as fits.
        """
        left = self.model.config.max_position_embeddings - tokens.shape[1]
        positions = int(place * (left + 1)) + torch.arange(tokens.shape[1], device=tokens.device)[None]
        if self.objective == "mlm":
            return self.model(input_ids=tokens, position_ids=positions).logits
        vectors = self.head(window_vectors(self.model.bert, tokens, self.pooling, positions, boundaries))
        if masked is None:
            return vectors
        return vectors, self.model(input_ids=masked, position_ids=positions).logits


class MiniBatches(nn.Module):
    """The learner on a batch, `size` windows at a time, each with all its views and its masked copy.

    size: None takes the batch through the learner at once. Otherwise gradient caching (GradCache, Gao et al. 2021): a
    first pass keeps outputs, no activations; when the gradients of a loss on all outputs arrive, a second pass of each
    mini-batch, under the generator states of the first one and hence the same dropout masks, recomputes its
    activations and propagates the gradients. That is torch's checkpointing with a mini-batch as the segment.
    Activations take the memory of `size` windows, and a step the time of one more forward pass.
    Where several processes share a batch, this is the module whose gradients they add up. A parameter's gradient is
    whole once all mini-batches have had their second pass, so it travels once a step, however many they are.
    """

    def __init__(self, learner: nn.Module, size: int | None = None) -> None:
        super().__init__()
        self.learner, self.size = learner, size

    def forward(
        self, views: torch.Tensor, boundaries: torch.Tensor | None, *masked: torch.Tensor, place: float = 0.0
    ) -> tuple[torch.Tensor, ...]:
        """What the learner makes of views [views, batch, length] (boundaries: [views, batch]), and of a masked copy."""
        if self.size is None:
            return self._pass(place, views, boundaries, *masked)
        windows = views.split(self.size, dim=1)
        of_windows = [None] * len(windows) if boundaries is None else boundaries.split(self.size, dim=1)
        parts = zip(windows, of_windows, *(copy.split(self.size) for copy in masked))
        of_views, *others = zip(*(checkpoint(self._pass, place, *part, use_reentrant=False) for part in parts))
        return torch.cat(of_views, dim=1), *map(torch.cat, others)

    def _pass(
        self, place: float, views: torch.Tensor, boundaries: torch.Tensor | None, *masked: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if self.size is not None:
            give_back_freed_memory()  # of the mini-batch before: here memory matters more than a tenth of the time
        at = None if boundaries is None else boundaries.flatten()
        out = self.learner(views.flatten(0, 1), at, *masked, place=place)
        of_views, *others = out if masked else (out,)
        return of_views.unflatten(0, views.shape[:2]), *others


@dataclass(frozen=True)
class Batch:
    """What one process computes of a step, drawn from the text.

    views: uint8 [views, own, length], None under mlm. boundaries: int64 [views, own], where the site of each lies, None
    where all are at the centre. masked uint8 and targets int64 [own, length]: the masked copy, if any. classes: int64
    [batch], if any. negatives: bool [own, batch], as of `Outputs`. own: rows of the batch. place: as of `Learner`.
    """

    views: torch.Tensor | None
    boundaries: torch.Tensor | None
    masked: torch.Tensor | None
    targets: torch.Tensor | None
    classes: torch.Tensor | None
    negatives: torch.Tensor | None
    own: slice
    place: float

    def to(self, device: torch.device) -> Batch:
        """The same on a device; on a GPU by way of page-locked memory, from which it is copied beside its work."""
        moved = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        if device.type == "cuda":
            moved = {name: value.pin_memory() for name, value in moved.items()}
        moved = {name: value.to(device, non_blocking=True) for name, value in moved.items()}
        return dataclasses.replace(self, **moved)


def draw_batch(
    stage: PretrainConfig,
    ids: np.ndarray,
    rng: np.random.Generator,
    choose: Chooser | None = None,
    classes: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> Batch:
    """A step's batch of windows uint8 [batch, length + 2 max_shift], and their classes [batch] if any.

    Every objective but mlm reads its number of views of each window, and may be joined by a masked copy apart from the
    views; mlm is that masked copy alone. choose: None masks bases at random. processes: all have the whole batch; each
    draws the views and masks that its share has in the whole.
    """
    place = 0.0
    if stage.min_window is not None:
        ids, place = shortened(ids, stage.min_window, stage.max_shift, rng), rng.random()
    objective = OBJECTIVES[stage.objective]
    own, draws = processes.share(len(ids)), processes.draws(rng, len(ids))
    middle = ids[:, stage.max_shift : ids.shape[1] - stage.max_shift]
    masked = targets = None
    if objective.loss is None or stage.mlm_weight:
        tokens = add_special_tokens(middle[own])
        chosen = choose(tokens, draws) if choose else choose_random(tokens, stage.mlm_probability, draws)
        masked, targets = map(torch.from_numpy, corrupt(tokens, chosen, draws))
    if objective.loss is None:
        return Batch(None, None, masked, targets, None, None, own, place)
    rows, boundaries = zip(*(shifted(ids[own], stage.max_shift, draws) for _ in range(objective.views)))
    return Batch(
        views=torch.from_numpy(np.stack([add_special_tokens(row) for row in rows])),
        boundaries=torch.from_numpy(np.stack(boundaries)) if stage.max_shift else None,
        masked=masked,
        targets=targets,
        classes=None if classes is None else torch.from_numpy(classes),
        negatives=torch.from_numpy(~near_duplicates(middle)[own]) if stage.skip_near_duplicates else None,
        own=own,
        place=place,
    )


def step_loss(
    learner: nn.Module, stage: PretrainConfig, batch: Batch, processes: Processes = ALONE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of one batch, which lies on the learner's device.

    learner: a Learner in MiniBatches. Views go through it in one batch, under different dropout; the loss of a masked
    copy beside them is weighted by mlm_weight (SimCSE, section 3.1 of its appendix on auxiliary objectives). Under mlm
    the accuracy is that of the masked bases. Under pooling centre the vector of a moved view is that of its site.
    processes: every window has those of all for negatives. The mean over processes of the losses and accuracies is that
    of the batch, and so is the mean of the gradients. Nothing here waits for a GPU.
    """
    objective, targets = OBJECTIVES[stage.objective], batch.targets
    masked = [] if batch.masked is None else [batch.masked.int()]
    if objective.loss is None:
        logits = learner(masked[0][None], None, place=batch.place)[0][0]
        right = (logits.argmax(-1) == targets).float().sum()  # IGNORED is no base
        return masked_loss(logits, targets, processes.average), right / processes.average((targets != IGNORED).sum())
    vectors, *logits = learner(batch.views.int(), batch.boundaries, *masked, place=batch.place)
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    of_all = processes.gather(vectors.transpose(0, 1)).transpose(0, 1)
    outputs = Outputs(of_all, batch.classes, batch.negatives, batch.own, processes.average)
    loss = objective.loss(outputs, stage)
    with torch.no_grad():
        accuracy = objective.accuracy(outputs)
    if stage.mlm_weight:
        loss = loss + stage.mlm_weight * masked_loss(*logits, targets, processes.average)
    return loss, accuracy


def masked_loss(logits: torch.Tensor, targets: torch.Tensor, average: Average = alone) -> torch.Tensor:
    """Mean cross-entropy in nats of the bases asked; logits [batch, length, vocabulary], targets [batch, length].

    average: of their number over the processes that share the bases."""
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / average((targets != IGNORED).sum())

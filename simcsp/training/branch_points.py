"""Branch points as SpliceBERT's paper learns them: the encoder fine-tuned under a linear layer, five folds.

Trained as the models of every base are (simcsp/training/bases.py): cross-entropy of the labelled bases, summed a
window, what has no label left out; the weights of the best validation are kept. Fold k is tested, k + 1 validates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics import average_precision_score
from transformers import BertModel

from simcsp.core.config import FinetuneConfig
from simcsp.labels.bases import UNLABELLED
from simcsp.metrics.branch_points import FOLDS, IGNORED, BranchRegions
from simcsp.model.bases import BaseClassifier, Shape
from simcsp.training.bases import MAX_GRAD_NORM, labels_loss
from simcsp.training.optimizer import build_optimizer, decay_groups, prepare_optimizer, take_step

CLASSES = 2


def fine_tuned_chances(
    bert: BertModel,
    regions: BranchRegions,
    outside: BranchRegions | None,
    settings: FinetuneConfig,
    accelerator: Accelerator,
    seed: int,
    advance: Callable[[int], object] = lambda epochs: None,
) -> tuple[np.ndarray, np.ndarray]:
    """P(branch point) [n, 27] from the fold in which each region was held out, and of the regions outside [m, 27] the
    mean of the folds. settings: lr, batch_size, max_epochs, patience and what else the stage `full` has."""
    fold = regions.folds
    chances, of_outside = np.zeros(regions.labels.shape), []
    for number in range(FOLDS):
        test, val = fold == number, fold == (number + 1) % FOLDS
        model = fit_fold(bert, regions, ~test & ~val, val, settings, accelerator, seed + number, advance)
        chances[test] = _chances(model, regions.ids[test], regions, accelerator)
        if outside is not None:
            of_outside.append(_chances(model, outside.ids, regions, accelerator))
    return chances, np.mean(of_outside, axis=0) if of_outside else np.zeros((0, chances.shape[1]))


def fit_fold(
    bert: BertModel,
    regions: BranchRegions,
    train: np.ndarray,
    val: np.ndarray,
    settings: FinetuneConfig,
    accelerator: Accelerator,
    seed: int,
    advance: Callable[[int], object],
) -> BaseClassifier:
    """The model at the epoch of the best validation AP; train, val: bool [n]. `bert` itself is not changed."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shape = Shape(tile=regions.ids.shape[1], channels=0)
    model = BaseClassifier(copy.deepcopy(bert), shape, False, settings.dropout, CLASSES).to(accelerator.device)
    labels = np.full(regions.ids.shape, UNLABELLED)
    labels[:, regions.inside] = regions.labels
    rows, size = np.flatnonzero(train), min(settings.batch_size, int(train.sum()))
    steps = len(rows) // size
    last = steps * settings.max_epochs
    optimizer, scheduler = build_optimizer(decay_groups(model), settings, settings.warmup_steps, last)
    optimizer = prepare_optimizer(accelerator, optimizer)
    asked = regions.labels[val] != IGNORED
    best, best_epoch, kept = -1.0, 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, settings.max_epochs + 1):
        model.train()
        for some in rng.permutation(rows)[: steps * size].reshape(steps, size):
            loss = labels_loss(model, regions.ids[some], labels[some], accelerator) / size
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            take_step(accelerator, optimizer, scheduler)
        chances = _chances(model, regions.ids[val], regions, accelerator)
        ap = average_precision_score(regions.labels[val][asked], chances[asked])
        advance(1)
        if ap > best:
            best, best_epoch, kept = ap, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(kept)
    return model


@torch.no_grad()
def _chances(model: BaseClassifier, ids: np.ndarray, regions: BranchRegions, accelerator: Accelerator) -> np.ndarray:
    """P(branch point) float32 [n, 27] of windows uint8 [n, length]."""
    model.eval()
    parts = []
    for some in np.array_split(ids, max(len(ids) // 64, 1)):
        with accelerator.autocast():
            logits = model(torch.from_numpy(some).to(accelerator.device))[:, regions.inside].float()
        parts.append(logits.softmax(dim=-1)[..., 1].cpu())
    return torch.cat(parts).numpy()

"""Signs of failed training: each a sentence for the log and the summary, or None."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simcsp.core.config import PretrainConfig
from simcsp.metrics.scores import chance_auc
from simcsp.text.alphabet import A, T
from simcsp.text.annotated import OTHER
from simcsp.training.objectives import OBJECTIVES

COLLAPSED = 0.99
"""Mean cosine similarity of windows above which their vectors are taken to have collapsed."""
PUBLISHED_BATCH = 512
"""The default of batch_size, and the published one."""
_ROUNDING = 1e-6  # of a mean cosine similarity: ten steps of a learning rate of 1e-5 move it by more than 1e-5
_RECENT = 50  # steps whose loss is looked at
_PATIENCE = 200  # steps after the warm-up by which a loss has to move


def collapse(scores: dict[str, float], start: dict[str, float], objective: str) -> str | None:
    """Vectors that all point in one direction. scores, start: `mean_cosine` now and at step 0.

    Masked-LM needs no such spread: there it counts only where the start had it.
    """
    now, before = scores.get("mean_cosine", 0.0), start.get("mean_cosine", 0.0)
    if now <= COLLAPSED or (objective == "mlm" and before > COLLAPSED):
        return None
    return f"collapse: the mean cosine similarity of windows is {now:.4f}; lower the learning rate"


def unmoved(scores: dict[str, float], start: dict[str, float]) -> str | None:
    """Vectors that are still those of the start. scores, start: `mean_cosine` now and at step 0, {} without windows."""
    if scores is start or not scores or abs(scores["mean_cosine"] - start["mean_cosine"]) > _ROUNDING:
        return None
    return (
        f"not moved: the mean cosine similarity of windows is still {start['mean_cosine']:.6f}; raise the learning rate"
    )


def batch_for_gpu(name: str, batch_size: int, device: str) -> str | None:
    """A batch of the published size where there is no GPU; name: of the stage, device: its type (cpu, cuda)."""
    if device != "cpu" or batch_size < PUBLISHED_BATCH:
        return None
    return (
        f"{name}.batch_size is {batch_size}, meant for a GPU ({PUBLISHED_BATCH} where it is not set): a CPU "
        f"takes as long for {batch_size // 64} steps of 64 windows; --dry-run estimates the time of a step"
    )


def chance_loss(stage: PretrainConfig, composition: float, classes: int) -> float | None:
    """The loss, in nats, of an encoder that makes the same of every window, by the registry of objectives; None where
    that has none, or where losses are mixed. composition: see `base_entropy`; classes: of the text's crops."""
    chance = OBJECTIVES[stage.objective].chance
    return None if chance is None or stage.mlm_weight else chance(stage, composition, classes)


def base_entropy(ids: np.ndarray) -> float:
    """Entropy of the base composition of windows uint8 [n, length], in nats; N does not count."""
    counts = np.bincount(ids.ravel(), minlength=256)[A : T + 1]
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def stuck(
    rows: Sequence[dict[str, float]], stage: PretrainConfig, composition: float, classes: int = OTHER
) -> str | None:
    """A loss that is still at chance. rows: of metrics.jsonl; composition, classes: see `chance_loss`.

    Looked at from 200 steps after the warm-up on, or at the last step where that comes first.
    """
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    chance = chance_loss(stage, composition, classes)
    if not losses or chance is None or losses[-1][0] < min(stage.steps, stage.warmup + _PATIENCE):
        return None
    mean = float(np.mean([loss for step, loss in losses if step > losses[-1][0] - _RECENT]))
    margin = 0.0 if stage.objective == "mlm" else 0.02 * chance  # bases differ from their composition by little
    if mean < chance - margin:
        return None
    return f"nothing learned: the loss is {mean:.4f} at step {losses[-1][0]}, chance is {chance:.4f}"


def at_chance(auc: float, labels: np.ndarray) -> str | None:
    """A validation AUC that is taken for chance (`chance_auc`). labels: of the validation windows."""
    positives = int(np.sum(labels == 1))
    limit = chance_auc(positives, len(labels) - positives)
    return None if auc > limit else f"at chance: the validation AUC is {auc:.3f}, chance ends at {limit:.3f}"


def one_class(probabilities: np.ndarray) -> str | None:
    """All windows predicted as one class at the threshold .5."""
    sites = probabilities >= 0.5
    if sites.any() and not sites.all():
        return None
    return f"one class: all {len(sites)} test windows are predicted as {'sites' if sites.all() else 'non-sites'} at .5"

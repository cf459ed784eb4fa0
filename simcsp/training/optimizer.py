"""AdamW with a warm-up and decay of the learning rate, for pre-training and fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import get_scheduler


def build_optimizer(
    groups: list[dict[str, Any]],
    lr: float,
    weight_decay: float,
    schedule: str,
    warmup_steps: int,
    steps: int,
    fused: bool = False,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW over parameter groups, and its schedule as transformers names it; a group's own settings come first."""
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    return optimizer, get_scheduler(schedule, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose decay spares biases and layer norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]

"""AdamW with a warm-up and decay of the learning rate, its steps, and its state; for pre-training and fine-tuning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from simcsp.core.config import FinetuneConfig, MlmConfig


def build_optimizer(
    groups: list[dict[str, Any]],
    settings: MlmConfig | FinetuneConfig,
    warmup: int,
    steps: int,
    fused: bool = False,
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW over parameter groups, whose own settings come first, and the schedule of so many steps."""
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    return optimizer, get_scheduler(settings.lr_scheduler_type, optimizer, warmup, steps)


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of which the optimiser's decay spares biases and layer norms."""
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": [p for p in model.parameters() if p.ndim > 1]}, {"params": vectors, "weight_decay": 0.0}]


def prepare_optimizer(accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser as accelerate steps it, at the start of a training: under fp16 with a loss scaler of its own.

    The accelerator's would go on at the scale to which the training before it came: a fold or stage by itself would
    then skip other steps than among others.
    """
    if accelerator.scaler is not None:
        if not hasattr(accelerator, "unused_scaler"):
            accelerator.unused_scaler = accelerator.scaler
        accelerator.scaler = copy.deepcopy(accelerator.unused_scaler)
        accelerator.scaler.known_scale = accelerator.scaler.get_scale()
    return accelerator.prepare(optimizer)


def take_step(accelerator: Accelerator, optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> bool:
    """A step of optimiser and schedule, unless fp16's loss scaler skips it since gradients overflowed; whether it did.

    The scaler lowers its scale when it skips and only then. Accelerate's own step_was_skipped misses a skip by a fused
    optimiser, whose step is called all the same and leaves the weights as they are.
    """
    scaler = accelerator.scaler
    before = None if scaler is None else scaler.known_scale  # of `prepare_optimizer`
    optimizer.step()
    if scaler is not None:
        scaler.known_scale = scaler.get_scale()  # on a GPU the one number that fp16 has to wait for
    skipped = scaler is not None and scaler.known_scale < before
    if not skipped:
        scheduler.step()
    optimizer.zero_grad()
    return skipped


def pack_state(accelerator: Accelerator, **parts: Any) -> dict[str, Any]:
    """{name: its state_dict} of modules, optimiser and scheduler, with the loss scaler's and torch's generators."""
    scaler, device = accelerator.scaler, accelerator.device
    return {
        **{name: part.state_dict() for name, part in parts.items()},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "rng": torch.get_rng_state(),
        "cuda_rng": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def unpack_state(state: dict[str, Any], accelerator: Accelerator, **parts: Any) -> None:
    """Give the parts, the loss scaler and torch's generators what `pack_state` took from them."""
    for name, part in parts.items():
        part.load_state_dict(state[name])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
        accelerator.scaler.known_scale = state["scaler"]["scale"]
    torch.set_rng_state(state["rng"].cpu())
    if accelerator.device.type == "cuda" and state["cuda_rng"]:  # older states hold all GPUs', the one used first
        torch.cuda.set_rng_state(state["cuda_rng"][0].cpu(), accelerator.device)

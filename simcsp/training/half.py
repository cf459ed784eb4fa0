"""Training in half precision on a GPU: passes read half-precision copies of float32 weights."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.func import functional_call

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def in_number_format(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The module in the accelerator's number format, on its device; what it gives is float32."""
    half = HALF.get(accelerator.mixed_precision)
    if half is None or accelerator.device.type != "cuda":  # on a CPU autocast, by which its numbers were recorded
        return accelerator.prepare_model(module, evaluation_mode=True)  # gradients are shared elsewhere
    return OnHalfCopies(module.to(accelerator.device), half)


class OnHalfCopies(nn.Module):
    """A module with a BERT whose passes are in half precision throughout, but for its embeddings and what it gives.

    Autocast reads and writes the states between blocks in float32, and casts each weight, bias and state where it is
    read. Here one kernel casts all weights, the states stay in half precision, and layer norms take their means in
    float32 within. The weights that are trained are float32, as are their gradients. Embeddings have few rows, whose
    gradients are sums over all tokens.
    """

    def __init__(self, module: nn.Module, half: torch.dtype) -> None:
        super().__init__()
        self.module, self.half = module, half
        [self.embeddings] = [part for name, part in module.named_modules() if name.endswith("bert.embeddings")]
        named = module.named_parameters(remove_duplicate=False)  # the decoder's weight is that of the embeddings
        self.cast = {name: weight for name, weight in named if "embeddings." not in name}

    def forward(self, *inputs: Any, **options: Any) -> Any:
        copies = dict(zip(self.cast, CastWeights.apply(self.half, *self.cast.values())))
        with self.embeddings.register_forward_hook(lambda module, given, states: states.to(self.half)):
            return convert_to_fp32(functional_call(self.module, copies, inputs, options, tie_weights=False))


class CastWeights(torch.autograd.Function):
    """Copies of weights in a number format, all made at once, and so are their gradients in that of the weights."""

    @staticmethod
    def forward(ctx: FunctionCtx, dtype: torch.dtype, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.weights = weights
        copies = _cast(weights, dtype)
        ctx.mark_non_differentiable(*(copy for copy, asked in zip(copies, ctx.needs_input_grad[1:]) if not asked))
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        known = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_cast(known, ctx.weights[0].dtype))
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: list[torch.Tensor] | tuple[torch.Tensor, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies

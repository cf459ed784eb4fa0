"""Training in half precision on a GPU: passes read half-precision copies of float32 weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.func import functional_call

from simcsp.model.encoder import attended

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def in_number_format(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The module in the accelerator's number format, on its device; what it gives is float32."""
    half = HALF.get(accelerator.mixed_precision)
    if half is None or accelerator.device.type != "cuda":  # on a CPU autocast, by which its numbers were recorded
        return accelerator.prepare_model(module, evaluation_mode=True)  # gradients are shared elsewhere
    return OnHalfCopies(module.to(accelerator.device), half)


class OnHalfCopies(nn.Module):
    """A module with a BERT whose passes are in half precision throughout, but for sums of embeddings and what it gives.

    Autocast reads and writes the states between blocks in float32, and casts each weight, bias and state where it is
    read. Here one kernel casts all weights, the states stay in half precision, and layer norms take their means in
    float32 within. The weights that are trained are float32, as are their gradients. Embeddings have few rows, whose
    gradients are sums over all tokens.
    """

    def __init__(self, module: nn.Module, half: torch.dtype) -> None:
        super().__init__()
        self.module, self.half = module, half
        [bert] = [part for name, part in module.named_modules() if name.split(".")[-1] == "bert"]
        self.embeddings, self.blocks = bert.embeddings, bert.encoder.layer
        named = module.named_parameters(remove_duplicate=False)  # the decoder's weight is that of the embeddings
        self.cast = {name: weight for name, weight in named if "_embeddings." not in name}

    def forward(self, *inputs: Any, **options: Any) -> Any:
        copies = dict(zip(self.cast, CastWeights.apply(self.half, *self.cast.values())))
        to_half = self.embeddings.LayerNorm.register_forward_pre_hook(lambda module, given: given[0].to(self.half))
        with to_half, _branching(self.blocks):
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


class Branches(torch.autograd.Function):
    """States [..., in] themselves and linear maps of them, one for each weight [out, in] and bias [out] that follow.

    Backward, each product adds its gradient to those before it; as maps apart, each would write a tensor, which further
    kernels would read to add them up.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, states: torch.Tensor, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(states, *maps[::2])
        return states.view_as(states), *(F.linear(states, *one) for one in zip(maps[::2], maps[1::2]))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, total: torch.Tensor, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states, *weights = ctx.saved_tensors
        total, of_maps = total.flatten(0, -2), []
        for gradient, weight in zip(gradients, weights):
            rows = gradient.flatten(0, -2)
            # in place: who else was given this tensor has used it by now, since the other gradients come from there
            total.addmm_(rows, weight)
            of_maps += [rows.T @ states.flatten(0, -2), rows.sum(0)]
        return total.view_as(states), *of_maps


@contextmanager
def _branching(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, BertLayers are computed by way of `Branches`."""
    for block in blocks:
        block.forward = partial(_through, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _through(block: nn.Module, states: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any):
    """What a BertLayer makes of states [batch, tokens, hidden]."""

    def branches(states: torch.Tensor, *layers: nn.Linear) -> tuple[torch.Tensor, ...]:
        return Branches.apply(states, *(tensor for layer in layers for tensor in (layer.weight, layer.bias)))

    attention, dense = block.attention.self, block.intermediate.dense
    states, *projected = branches(states, attention.query, attention.key, attention.value)
    states, inner = branches(block.attention.output(attended(attention, *projected, mask), states), dense)
    return block.output(block.intermediate.intermediate_act_fn(inner), states)

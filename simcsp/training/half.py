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
from simcsp.training.cost import MANY

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ONES = 8  # columns, so that rows still begin at multiples of 16 bytes, as fast products want


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
    gradients are sums over all tokens. What bounds a step is the memory's rate, so passes over states are saved:
    `Branches`, `DropAndAdd`, and embeddings that are summed for each base at each place, not for each token.
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
        ones = torch.ones(_ONES, dtype=self.half, device=inputs[0].device)
        with _rewritten(self.embeddings, self.blocks, ones):
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
    copies = [torch.empty(tensor.shape, dtype=dtype, device=tensor.device) for tensor in tensors]
    whole = [pair for pair in zip(copies, tensors) if pair[1].is_contiguous()]
    if whole:
        torch._foreach_copy_(*map(list, zip(*whole)))
    for copy, tensor in zip(copies, tensors):
        if not tensor.is_contiguous():  # among these, it would take a kernel for each of the others too
            copy.copy_(tensor)
    return copies


class Branches(torch.autograd.Function):
    """States [..., in] themselves and linear maps of them, one for each weight [out, in] and bias [out] of maps.

    Backward, each product adds its gradient to those before it; as maps apart, each would write a tensor, which further
    kernels would read to add them up. Of MANY tokens the product that makes a weight's gradient makes that of its bias
    too, from columns of ones beside the states; otherwise another kernel would read the gradients of all for it.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, states: torch.Tensor, ones: torch.Tensor, *maps: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(states, ones, *maps[::2])
        return states.view_as(states), *(F.linear(states, *one) for one in zip(maps[::2], maps[1::2]))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, total: torch.Tensor, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, ones, *weights = ctx.saved_tensors
        total, size, of_maps = total.flatten(0, -2), states.shape[-1], []
        inputs, is_many = states.flatten(0, -2), len(total) >= MANY
        if is_many:
            inputs = torch.cat([inputs, ones.expand(len(inputs), -1)], dim=-1)
        for gradient, weight in zip(gradients, weights):
            rows = gradient.flatten(0, -2)
            # in place: who else was given this tensor has used it by now, since the other gradients come from there
            total.addmm_(rows, weight)
            product = rows.T @ inputs
            of_maps += [product[:, :size], product[:, size]] if is_many else [product, rows.sum(0)]
        return total.view_as(states), None, *of_maps


class DropAndAdd(torch.autograd.Function):
    """states + dropout(added), both of one shape, without the dropped ones being written down."""

    @staticmethod
    def forward(ctx: FunctionCtx, added: torch.Tensor, states: torch.Tensor, share: float) -> torch.Tensor:
        ctx.scale = 1 / (1 - share)
        kept = torch.empty_like(added, dtype=torch.bool).bernoulli_(1 - share)
        ctx.save_for_backward(kept)
        return torch.addcmul(states, added, kept, value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return torch.ops.aten.native_dropout_backward(gradient, *ctx.saved_tensors, ctx.scale), gradient, None


@contextmanager
def _rewritten(embeddings: nn.Module, blocks: Iterable[nn.Module], ones: torch.Tensor) -> Iterator[None]:
    """While it lasts, BertEmbeddings and BertLayers are computed as below."""
    embeddings.forward = partial(_embedded, embeddings, ones.dtype)
    for block in blocks:
        block.forward = partial(_through, block, ones)
    try:
        yield
    finally:
        for module in (embeddings, *blocks):
            del module.forward


def _embedded(
    embeddings: nn.Module,
    half: torch.dtype,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """What BertEmbeddings make of tokens [batch, tokens], all of type 0, at places [1, tokens]; sums are of float32."""
    count = input_ids.shape[1]
    if position_ids is None:
        position_ids = embeddings.position_ids[:, :count]
    of_places = embeddings.position_embeddings(position_ids) + embeddings.token_type_embeddings.weight[0]
    table = (embeddings.word_embeddings.weight[:, None] + of_places).to(half)  # [vocabulary, tokens, hidden]
    row = input_ids * count + torch.arange(count, device=input_ids.device)
    return embeddings.dropout(embeddings.LayerNorm(F.embedding(row, table.flatten(0, 1))))


def _through(
    block: nn.Module, ones: torch.Tensor, states: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any
) -> torch.Tensor:
    """What a BertLayer makes of states [batch, tokens, hidden]."""

    def branches(states: torch.Tensor, *layers: nn.Linear) -> tuple[torch.Tensor, ...]:
        return Branches.apply(states, ones, *(tensor for layer in layers for tensor in (layer.weight, layer.bias)))

    def joined(output: nn.Module, states: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        added, share = output.dense(given), output.dropout.p * output.training
        return output.LayerNorm(DropAndAdd.apply(added, states, share) if share else added + states)

    attention, dense = block.attention.self, block.intermediate.dense
    states, *projected = branches(states, attention.query, attention.key, attention.value)
    states, inner = branches(joined(block.attention.output, states, attended(attention, *projected, mask)), dense)
    return joined(block.output, states, block.intermediate.intermediate_act_fn(inner))

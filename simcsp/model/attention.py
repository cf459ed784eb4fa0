"""Attention and dropout that are cheap on a CPU.

Random bits of dropout cost a tenth of torch's. They come from SFC64 under a seed drawn from torch's generator, which
thus decides every mask, as it does for any dropout. torch's own attention falls back to a slow path on a CPU as soon as
dropout is on: here the attention matrix is made, dropped and multiplied some heads at a time, which stay in the
processor's cache. Without dropout it is torch's own, but for the backward pass under bfloat16, which takes torch longer
than one in float32. Everywhere else (a GPU, a mask, float64) it is transformers' sdpa.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "blocked_dropout"  # what the encoder's config calls it
_BLOCK = 1 << 18  # entries of the attention matrix at a time: 1 MiB
_LEVELS = 1 << 16  # a rate of dropout is a number of 65,536ths
_SIGN = np.uint32(1 << 31)  # of a float32


class Dropout(nn.Dropout):
    """torch's dropout with a rate of 65,536ths and cheap random bits."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        dropped = round(self.p * _LEVELS)
        if not self.training or not _served(states, dropped):
            return super().forward(states)
        kept = torch.from_numpy(_bits(_generator(), states.shape) >= dropped)
        return states * kept * (_LEVELS / (_LEVELS - dropped))


def make_cheap(model: nn.Module) -> None:
    """Put `Dropout` in the place of every torch dropout of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))


class BlockedDropout(torch.autograd.Function):
    """dropout(softmax(scaling query key^T)) value for query, key, value [batch, heads, tokens, head size].

    dropped: how many 65,536ths of the weights become 0; the others are divided by the share that is left. The weights
    are kept for the backward pass once, with those dropped negative.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        dropped: int,
    ) -> torch.Tensor:
        shape, size = query.shape[:2], (query.shape[-2], key.shape[-2])
        query, key, value = (states.flatten(0, 1) for states in (query * scaling, key, value))
        random = _generator()
        kept = len(query) if any(ctx.needs_input_grad) else 0  # for a backward pass that will come, or not at all
        weights = torch.empty(kept, *size)
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        for block in _blocks(len(query), size):
            scores = torch.bmm(query[block], key[block].transpose(1, 2)).float()
            signed = torch.softmax(scores, -1, out=weights[block] if kept else torch.empty_like(scores))
            flip = np.multiply(_bits(random, signed.shape) < dropped, _SIGN, dtype=np.uint32).view(np.int32)
            signed.view(torch.int32).bitwise_xor_(torch.from_numpy(flip))
            torch.bmm(torch.clamp_min(signed, 0, out=scores).to(value.dtype), value[block], out=out[block])
        out.mul_(_LEVELS / (_LEVELS - dropped))
        ctx.save_for_backward(query, key, value, weights, out)
        ctx.scaling, ctx.dropped = scaling, dropped
        return out.unflatten(0, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, out = ctx.saved_tensors
        shape, gradient = gradient.shape[:2], gradient.flatten(0, 1)
        # softmax's backward subtracts sum_j P_ij dP_ij, which is the product of output and gradient
        product = (gradient * out).float().sum(-1, keepdim=True)
        gradient = gradient * (_LEVELS / (_LEVELS - ctx.dropped))
        of_query, of_key, of_value = (torch.empty_like(states) for states in (query, key, value))
        for block in _blocks(len(query), weights.shape[1:]):
            left = weights[block].clamp_min(0)
            torch.bmm(left.to(value.dtype).transpose(1, 2), gradient[block], out=of_value[block])
            inner = torch.bmm(gradient[block], value[block].transpose(1, 2)).float().mul_(left)
            inner = inner.addcmul_(torch.abs(weights[block], out=left), product[block], value=-1).to(query.dtype)
            torch.bmm(inner, key[block], out=of_query[block])
            torch.bmm(inner.transpose(1, 2), query[block], out=of_key[block])
        of_query.mul_(ctx.scaling)  # the saved query is scaled already, so the key's gradient is whole
        return *(states.unflatten(0, shape) for states in (of_query, of_key, of_value)), None, None


class Float32Gradient(torch.autograd.Function):
    """torch's attention of query, key, value [batch, heads, tokens, head size] in bfloat16; its gradient in float32."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.scaling = scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *states, logsumexp = ctx.saved_tensors
        states = [one.float() for one in (gradient, *states)]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *states, logsumexp, 0.0, False, scale=ctx.scaling
        )
        return *(one.to(gradient.dtype) for one in gradients), None


def _served(states: torch.Tensor, dropped: int) -> bool:
    return states.device.type == "cpu" and states.dtype in (torch.float32, torch.bfloat16) and 0 < dropped < _LEVELS


def _generator() -> np.random.SFC64:
    return np.random.SFC64(int(torch.randint(2**62, ())))


def _bits(random: np.random.SFC64, shape: torch.Size) -> np.ndarray:
    """Random uint16 of a shape."""
    return random.random_raw(-(-shape.numel() // 4)).view(np.uint16)[: shape.numel()].reshape(shape)


def _blocks(heads: int, size: tuple[int, int]) -> list[slice]:
    step = max(1, _BLOCK // (size[0] * size[1]))
    return [slice(start, min(start + step, heads)) for start in range(0, heads, step)]


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """transformers' interface of an attention function: [batch, tokens, heads, head size], and no weights."""
    dropped, factor = round(dropout * _LEVELS), query.shape[-1] ** -0.5 if scaling is None else scaling
    half_on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if attention_mask is None and _served(query, dropped):
        out = BlockedDropout.apply(query, key, value, factor, dropped)
    elif attention_mask is None and dropped == 0 and query.requires_grad and half_on_cpu:
        out = Float32Gradient.apply(query, key, value, factor)
    else:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

"""Many sequences, each encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import BertModel

from simcsp.core.config import FinetuneConfig
from simcsp.core.device import forked_rng
from simcsp.model.encoder import MIX, all_hidden_states, central_states, hidden_states, window_vectors
from simcsp.text.alphabet import add_special_tokens

Autocast = Callable[[], AbstractContextManager]
ON_GPU = 8  # times as many windows are encoded at once there, or it would wait for the host


def encoded_at_once(batch_size: int, device: torch.device) -> int:
    """Windows that are encoded at once where evaluate.batch_size, which is for a CPU, is `batch_size`."""
    return batch_size * ON_GPU if device.type == "cuda" else batch_size


def token_batches(ids: np.ndarray, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Model input int32 [batch, 1 + length + 1] of windows uint8 [n, length], in order."""
    for start in range(0, len(ids), batch_size):
        yield torch.from_numpy(add_special_tokens(ids[start : start + batch_size])).to(device).int()


@torch.no_grad()
def read_batches(
    model: nn.Module,
    ids: np.ndarray,
    batch_size: int,
    read: Callable[[torch.Tensor], torch.Tensor],
    autocast: Autocast = nullcontext,
    dropout: bool = False,
    advance: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """What `read` makes of tokens int32 [batch, 1 + length + 1], float32 [n, ...], of windows uint8 [n, length].

    The model is in evaluation mode unless `dropout`. advance: told how many windows more are done."""
    was_training, device = model.training, next(model.parameters()).device
    model.train(dropout)
    parts = []
    for tokens in token_batches(ids, encoded_at_once(batch_size, device), device):
        with autocast():
            parts.append(read(tokens).float().cpu())
        advance(len(tokens))
    model.train(was_training)
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Encoder:
    """A BERT as it is measured: its pooling, windows a batch, and number format. Windows are uint8 [n, length]."""

    bert: BertModel
    pooling: str
    batch_size: int
    autocast: Autocast = nullcontext

    def embed(self, ids: np.ndarray, boundary: int | None = None, dropout: bool = False) -> np.ndarray:
        """Pooled vectors float32 [n, hidden], under dropout or not. boundary: the base after a site; None: half-way."""

        def vectors(tokens: torch.Tensor) -> torch.Tensor:
            at = None if boundary is None else torch.full((len(tokens),), boundary, device=tokens.device)
            return window_vectors(self.bert, tokens, self.pooling, boundaries=at)

        return read_batches(self.bert, ids, self.batch_size, vectors, self.autocast, dropout)

    def embed_twice(self, ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Two views of each window under the dropout of training; the generators are left as they were."""
        with forked_rng(self.bert.device):
            torch.manual_seed(seed)
            return self.embed(ids, dropout=True), self.embed(ids, dropout=True)

    def embed_centre(self, ids: np.ndarray, layer: int | str | None, flank: int = 1) -> np.ndarray:
        """Hidden states of the central bases, `flank` on either side of the middle, joined: float32 [n, 2 flank
        hidden]; layer: None for the last, MIX for the mean of all."""

        def centres(tokens: torch.Tensor) -> torch.Tensor:
            if layer == MIX:
                layers = [central_states(states, flank) for states in all_hidden_states(self.bert, tokens)]
                return torch.stack(layers).mean(dim=0).flatten(1)
            return central_states(hidden_states(self.bert, tokens, layer), flank).flatten(1)

        return read_batches(self.bert, ids, self.batch_size, centres, self.autocast)

    def embed_probed(self, ids: np.ndarray, settings: FinetuneConfig) -> np.ndarray:
        """What the frozen-encoder probe reads: `embed`, or `embed_centre` of finetune.probe_flank."""
        if settings.probe_flank is None:
            return self.embed(ids)
        return self.embed_centre(ids, settings.probe_layer, settings.probe_flank)

    def embed_layers(self, ids: np.ndarray, read: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """What `read` makes of each layer's states [batch, 1 + bases + 1, hidden], float32 [n, 1 + blocks, ...]."""

        def layers(tokens: torch.Tensor) -> torch.Tensor:
            return torch.stack([read(states) for states in all_hidden_states(self.bert, tokens)], dim=1)

        return read_batches(self.bert, ids, self.batch_size, layers, self.autocast)


def check_numbers(scores: np.ndarray, where: str) -> None:
    """Raises FloatingPointError where a score is no number."""
    if np.isnan(scores).any():
        raise FloatingPointError(
            f"the model gives NaN for {where}: damaged weights, or too large for the precision (--precision fp32)"
        )

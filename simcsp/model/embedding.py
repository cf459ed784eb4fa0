"""Many sequences, each encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertModel

from simcsp.core.device import forked_rng
from simcsp.model.encoder import all_hidden_states, central_states, hidden_states, window_vectors
from simcsp.text.alphabet import add_special_tokens

Autocast = Callable[[], AbstractContextManager]
ON_GPU = 8  # times as many windows are encoded at once there, or it would wait for the host


def embed(
    bert: BertModel,
    ids: np.ndarray,
    pooling: str,
    batch_size: int,
    autocast: Autocast = nullcontext,
    boundary: int | None = None,
) -> np.ndarray:
    """Pooled vectors float32 [n, hidden] of windows uint8 [n, length], in evaluation mode.

    boundary: the base that the site's boundary precedes, where pooling centre reads; None: half the window.
    """

    def vectors(tokens: torch.Tensor) -> torch.Tensor:
        at = None if boundary is None else torch.full((len(tokens),), boundary, device=tokens.device)
        return window_vectors(bert, tokens, pooling, boundaries=at)

    return _run(bert, ids, batch_size, autocast, vectors)


def embed_twice(
    bert: BertModel, ids: np.ndarray, pooling: str, batch_size: int, seed: int, autocast: Autocast = nullcontext
) -> tuple[np.ndarray, np.ndarray]:
    """Two views of each window under the dropout of training; the generators are left as they were."""
    with forked_rng(bert.device):
        torch.manual_seed(seed)
        views = [
            _run(bert, ids, batch_size, autocast, lambda tokens: window_vectors(bert, tokens, pooling), dropout=True)
            for _ in range(2)
        ]
    return views[0], views[1]


def embed_centre(
    bert: BertModel, ids: np.ndarray, layer: int | None, batch_size: int, autocast: Autocast = nullcontext
) -> np.ndarray:
    """Hidden states of the two central bases of windows uint8 [n, length], joined: float32 [n, 2 hidden]."""
    return _run(
        bert, ids, batch_size, autocast, lambda tokens: central_states(hidden_states(bert, tokens, layer)).flatten(1)
    )


def embed_layers(
    bert: BertModel,
    ids: np.ndarray,
    read: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """What `read` makes of every layer's hidden states, float32 [n, 1 + blocks, ...]; each window is encoded once.

    read: [batch, 1 + bases + 1, hidden] -> [batch, ...].
    """

    def every_layer(tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([read(states) for states in all_hidden_states(bert, tokens)], dim=1)

    return _run(bert, ids, batch_size, autocast, every_layer)


@dataclass(frozen=True)
class Encoder:
    """A BERT as it is measured: its pooling, windows a batch, and number format."""

    bert: BertModel
    pooling: str
    batch_size: int
    autocast: Autocast = nullcontext

    def embed(self, ids: np.ndarray, boundary: int | None = None) -> np.ndarray:
        return embed(self.bert, ids, self.pooling, self.batch_size, self.autocast, boundary)

    def embed_twice(self, ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return embed_twice(self.bert, ids, self.pooling, self.batch_size, seed, self.autocast)

    def embed_centre(self, ids: np.ndarray, layer: int | None) -> np.ndarray:
        return embed_centre(self.bert, ids, layer, self.batch_size, self.autocast)

    def embed_layers(self, ids: np.ndarray, read: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        return embed_layers(self.bert, ids, read, self.batch_size, self.autocast)


def encoded_at_once(batch_size: int, device: torch.device) -> int:
    """Windows that are encoded at once where evaluate.batch_size, which is for a CPU, is `batch_size`."""
    return batch_size * ON_GPU if device.type == "cuda" else batch_size


def token_batches(ids: np.ndarray, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Model input int32 [batch, 1 + length + 1] of windows uint8 [n, length], in order."""
    for start in range(0, len(ids), batch_size):
        yield torch.from_numpy(add_special_tokens(ids[start : start + batch_size])).to(device).int()


@torch.no_grad()
def _run(
    bert: BertModel,
    ids: np.ndarray,
    batch_size: int,
    autocast: Autocast,
    encode: Callable[[torch.Tensor], torch.Tensor],
    dropout: bool = False,
) -> np.ndarray:
    was_training = bert.training
    bert.train(dropout)
    parts = []
    for tokens in token_batches(ids, encoded_at_once(batch_size, bert.device), bert.device):
        with autocast():
            parts.append(encode(tokens).float().cpu())
    bert.train(was_training)
    return torch.cat(parts).numpy()


def check_numbers(scores: np.ndarray, where: str) -> None:
    """Raises FloatingPointError where a score is no number."""
    if np.isnan(scores).any():
        raise FloatingPointError(
            f"the model gives NaN for {where}: damaged weights, or too large for the precision (--precision fp32)"
        )

"""The splice-site classifier: an encoder, SpliceBERT's head on its pooled vector, and its checkpoint folder.

A checkpoint is a plain save_pretrained folder of the encoder (so everything that reads encoders reads it too) with the
head beside it in head.safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertModel

from simcsp.model.attention import Dropout
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.embedding import Autocast, token_batches
from simcsp.model.encoder import window_vectors
from simcsp.model.weights import read_weights
from utils.arms import HEAD_FILE
from utils.config import ModelConfig, Stage
from utils.errors import InputError
from utils.files import check_folder, write_checksums


class Classifier(nn.Module):
    """Encoder, pooled vector, dense, tanh, dropout, one logit: BERT's own pooler and classifier, as published."""

    def __init__(self, bert: BertModel, pooling: str, dropout: float) -> None:
        super().__init__()
        hidden = bert.config.hidden_size
        self.bert, self.pooling = bert, pooling
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), Dropout(dropout), nn.Linear(hidden, 1))
        for layer in (self.head[0], self.head[3]):
            nn.init.normal_(layer.weight, std=bert.config.initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [batch] for tokens [batch, 1 + bases + 1]."""
        return self.head(window_vectors(self.bert, tokens, self.pooling)).squeeze(-1)


def predict(model: Classifier, ids: np.ndarray, batch_size: int, autocast: Autocast = nullcontext) -> np.ndarray:
    """P(site), float32 [n], of windows uint8 [n, length], in evaluation mode."""
    return _run(model, ids, batch_size, autocast, torch.sigmoid)


def predict_logits(model: Classifier, ids: np.ndarray, batch_size: int, autocast: Autocast = nullcontext) -> np.ndarray:
    """Logits, float32 [n], of windows uint8 [n, length], in evaluation mode: P(site) near 1 would be rounded."""
    return _run(model, ids, batch_size, autocast, torch.Tensor.float)


@torch.no_grad()
def _run(
    model: Classifier,
    ids: np.ndarray,
    batch_size: int,
    autocast: Autocast,
    read: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """What `read` makes of the logits [batch] of windows uint8 [n, length], float32 [n], in evaluation mode."""
    was_training = model.training
    model.eval()
    parts = []
    for tokens in token_batches(ids, batch_size, model.bert.device):
        with autocast():
            parts.append(read(model(tokens).float()).cpu())
    model.train(was_training)
    return torch.cat(parts).numpy()


def layer_groups(model: Classifier, stage: Stage, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: what a stage trains, with learning rates that fall from the head down.

    lr x decay^(n + 1 - layer), layers counted 0 = embeddings, 1..n = blocks, n + 1 = the head, whose group comes first
    (Howard and Ruder 2018, section 3.2; Clark et al. 2020). One group where decay is 1.
    """
    prefix = {"supcon": "bert.", "head": "head.", "full": ""}[stage]
    top = model.bert.config.num_hidden_layers + 1
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(prefix):
            block = re.match(r"bert\.encoder\.layer\.(\d+)\.", name)
            layer = int(block[1]) + 1 if block else 0 if name.startswith("bert.embeddings.") else top
            layers.setdefault(top if decay == 1 else layer, []).append(parameter)
    return [{"params": layers[layer], "lr": lr * decay ** (top - layer)} for layer in sorted(layers, reverse=True)]


def save_classifier(model: Classifier, folder: Path) -> None:
    """Fill a folder with the encoder and its head."""
    save_checkpoint(model.bert, folder, model.pooling)
    save_file({key: value.contiguous() for key, value in model.head.state_dict().items()}, folder / HEAD_FILE)
    write_checksums(folder)


def load_classifier(folder: Path, config: ModelConfig, dropout: float) -> Classifier:
    """A classifier from its checkpoint folder. Raises InputError for a folder that holds an encoder alone."""
    if not (folder / HEAD_FILE).is_file():
        raise InputError(f"{folder} has no {HEAD_FILE}: it is an encoder, not a classifier; fine-tune it first")
    encoder = ModelConfig(
        source=str(folder),
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
    )
    masked_lm, pooling, _ = load_backbone(encoder)
    model = Classifier(masked_lm.bert, pooling, dropout)
    weights, expected = read_head(folder), model.head.state_dict()
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in expected.items()}:
        raise InputError(f"{folder / HEAD_FILE} does not fit the encoder beside it: take both from one fold")
    model.head.load_state_dict(weights)
    return model


def read_head(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a classifier's head. Raises InputError for a file that is not what was written."""
    check_folder(folder)
    return read_weights(folder / HEAD_FILE)

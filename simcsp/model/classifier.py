"""The splice-site classifier: an encoder, SpliceBERT's head on its pooled vector, and its checkpoint folder.

A checkpoint is a plain save_pretrained folder, so that everything that reads encoders reads it too. Where [CLS] of the
last layer is pooled it is a `BertForSequenceClassification`, whose softmax is P(site); other poolings no class of
transformers has, so the encoder's folder has the head beside it in head.safetensors.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from simcsp.core.arms import HEAD_FILE, holds_classifier
from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.model.attention import Dropout
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.checksums import check_folder, write_checksums
from simcsp.model.embedding import Autocast, read_batches
from simcsp.model.encoder import window_vectors
from simcsp.model.weights import read_weights, weight_file_of

PLAIN_POOLING = "cls"
"""Of the last layer: what BERT's own pooler reads."""


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
    return read_batches(model, ids, batch_size, lambda tokens: model(tokens).float().sigmoid(), autocast)


def predict_logits(model: Classifier, ids: np.ndarray, batch_size: int, autocast: Autocast = nullcontext) -> np.ndarray:
    """Logits, float32 [n], of windows uint8 [n, length], in evaluation mode: P(site) near 1 would be rounded."""
    return read_batches(model, ids, batch_size, model, autocast)


def save_classifier(model: Classifier, folder: Path) -> None:
    if model.pooling == PLAIN_POOLING:
        save_checkpoint(_plain(model), folder, model.pooling)
        return
    save_checkpoint(model.bert, folder, model.pooling)
    save_file({key: value.contiguous() for key, value in model.head.state_dict().items()}, folder / HEAD_FILE)
    write_checksums(folder)


def _plain(model: Classifier) -> BertForSequenceClassification:
    """The same classifier as transformers has it: the logit of non-sites is 0."""
    names = {0: "other", 1: "site"}
    settings = {**model.bert.config.to_dict(), "id2label": names, "classifier_dropout": model.head[2].p}
    with torch.random.fork_rng(devices=[]):  # its fresh weights must not move the numbers that training draws
        plain = BertForSequenceClassification(BertConfig.from_dict(settings))
    plain.config.label2id = {name: number for number, name in names.items()}
    pooler = {f"pooler.dense.{key}": value for key, value in model.head[0].state_dict().items()}
    plain.bert.load_state_dict(model.bert.state_dict() | pooler)
    with torch.no_grad():
        plain.classifier.weight.zero_()[1] = model.head[3].weight[0]
        plain.classifier.bias.zero_()[1] = model.head[3].bias[0]
    return plain


def load_classifier(folder: Path, config: ModelConfig, dropout: float) -> Classifier:
    """A classifier from its checkpoint folder. Raises InputError for a folder that holds an encoder alone."""
    if not holds_classifier(folder):
        raise InputError(f"{folder} has no {HEAD_FILE}: it is an encoder, not a classifier; fine-tune it first")
    masked_lm, pooling, _ = load_backbone(config.saved_as(folder))
    model = Classifier(masked_lm.bert, pooling, dropout)
    weights, expected = read_head(folder), model.head.state_dict()
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in expected.items()}:
        raise InputError(f"{folder}: the head does not fit the encoder beside it: take both from one fold")
    model.head.load_state_dict(weights)
    return model


def read_head(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a classifier's head. Raises InputError for one that is damaged."""
    check_folder(folder)
    if (folder / HEAD_FILE).is_file():
        return read_weights(folder / HEAD_FILE)
    weights = read_weights(weight_file_of(folder))
    try:
        head = {f"0.{part}": weights[f"bert.pooler.dense.{part}"] for part in ("weight", "bias")}
        rows = {f"3.{part}": weights[f"classifier.{part}"] for part in ("weight", "bias")}
    except KeyError as error:
        raise InputError(f"{folder}: the weights have no {error}, as its config.json says: restore both") from None
    return head | {key: value[1:] - value[:1] for key, value in rows.items()}

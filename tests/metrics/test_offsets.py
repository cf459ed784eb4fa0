"""The table of offsets: where a site is read when the window is moved."""

import copy

import numpy as np
import pytest
import torch
from conftest import refusal, tiny_config

import evaluate
from simcsp.core.config import ModelConfig
from simcsp.labels.spliceator import Windows
from simcsp.metrics.offsets import OFFSETS, measure_offsets
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import A, C, G, T

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def labelled(count=120, length=200):
    """Windows whose label is told by the two bases at their centre alone: GT or CA."""
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(A, T + 1, size=(count, length), dtype=np.uint8), np.arange(count) // 2 % 2
    ids[:, length // 2 - 1 : length // 2 + 1] = np.where(labels[:, None], [G, T], [C, A])
    names = np.arange(count).astype(str)
    return Windows(ids, labels, np.full(count, "donor"), names, names)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return load_backbone(ModelConfig(max_position_embeddings=128, **SIZES))[0]


def test_a_site_is_read_where_it_lies_however_far_the_window_is_moved(model):
    encoder = copy.deepcopy(model)
    torch.nn.init.zeros_(encoder.bert.embeddings.position_embeddings.weight)
    rows = measure_offsets(Encoder(encoder.bert, "centre@0", 64), labelled(), 100, 0)
    assert list(rows) == [f"{offset} nt" for offset in OFFSETS]
    assert all(scores == {"auc": 1.0, "refitted_auc": 1.0} for scores in rows.values())


def test_an_encoder_that_reads_the_middle_loses_the_site(model):
    rows = measure_offsets(Encoder(model.bert, "mean@0", 64), labelled(), 100, 0)
    assert rows["0 nt"]["auc"] == rows["0 nt"]["refitted_auc"]
    assert rows["45 nt"]["auc"] < 0.9


def test_the_command_says_what_it_lacks(start, tiny_data, tmp_path, call, capsys):
    line = refusal(call, capsys, evaluate, "offsets", start, tiny_config(tmp_path, tiny_data))
    assert "data.context (20 nt)" in line and "45 are needed" in line

"""Encoders that the tests of this folder share: tiny fresh ones, and SpliceBERT's published folders.

The latter carry the true names, config fields and token orders; their weights are random.
"""

import json

import numpy as np
import torch
from conftest import random_bases
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import VOCAB, encode

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
SHARED = {
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "output_hidden_states": True,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
}
ZENODO_CONFIG = SHARED | {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "hidden_dropout_prob": 0.1,
    "model_type": "bert",
    "transformers_version": "4.18.0",
    "vocab_size": 10,
}


def fresh(seed=0, **changes):
    torch.manual_seed(seed)
    return load_backbone(ModelConfig(**SMALL | changes))


def windows(n=6, length=40):
    rng = np.random.default_rng(0)
    return np.stack([encode(random_bases(rng, length)) for _ in range(n)])


def splicebert(sizes=SMALL, seed=1, **changes):
    """A model of SpliceBERT's structure. No weight is left at 0 or 1, so that none can be mixed up unseen."""
    torch.manual_seed(seed)
    model = BertForMaskedLM(BertConfig(vocab_size=10, **sizes, **changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return model


def write_zenodo(folder, model, **changes):
    """As on Zenodo: pytorch_model.bin with tied weights and position_ids, no pooler, output_hidden_states on."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {key: getattr(model.config, key) for key in SMALL}
    positions = torch.arange(sizes["max_position_embeddings"])[None]
    torch.save(model.state_dict() | {"bert.embeddings.position_ids": positions}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(ZENODO_CONFIG | sizes | changes))
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return folder


def change_weights(folder, change):
    weights = torch.load(folder / "pytorch_model.bin")
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")

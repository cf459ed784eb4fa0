"""SpliceBERT's published folders, as the tests of this folder share them, and how they are refused.

They carry the true names, config fields and token orders; their weights are random.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from conftest import SMALL, random_bases
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import VOCAB, encode

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


def refused(source, message, need_mlm_head=False):
    with pytest.raises(InputError, match=message) as error:
        load_backbone(ModelConfig(source=str(source)), need_mlm_head)
    assert str(source) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def without(key):
    """A change of weights: they lack this one."""
    return lambda weights: weights.pop(key)


def zeros(key, *shape):
    """A change of weights: this one, new or not, is zeros of a shape."""
    return lambda weights: weights.update({key: torch.zeros(shape)})


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


class Answering(BaseHTTPRequestHandler):
    """Answers as a stand-in of the hub gives them."""

    def answer(self, body, headers=None, status=200):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, monkeypatch):
    """A server, whose `address` huggingface_hub takes for the hub's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def change_weights(folder, change):
    weights = torch.load(folder / "pytorch_model.bin")
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")

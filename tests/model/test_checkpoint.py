"""Checkpoints: ours and SpliceBERT's, what they keep, and what is refused."""

import json

import numpy as np
import pytest
import torch
from conftest import random_bases
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.classifier import Classifier, load_classifier, predict, save_classifier
from simcsp.model.embedding import embed
from simcsp.model.encoder import fresh_like
from simcsp.text.alphabet import VOCAB, add_special_tokens, encode
from utils.config import ModelConfig
from utils.errors import InputError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

# config.json as SpliceBERT publishes it, but for the sizes
PUBLISHED = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "model_type": "bert",
    "output_hidden_states": True,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.20.1",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 10,
    **SIZES,
}


def fresh(seed=0, **changes):
    torch.manual_seed(seed)
    return load_backbone(ModelConfig(max_position_embeddings=64, **SIZES, **changes))


def windows(n=6, length=40):
    rng = np.random.default_rng(0)
    return np.stack([encode(random_bases(rng, length)) for _ in range(n)])


def write_splicebert(folder, change_weights=None, **config):
    """A stand-in for a published folder: config.json, vocab.txt, pytorch_model.bin, no pooler. Returns its model."""
    torch.manual_seed(1)
    model = BertForMaskedLM(
        BertConfig(**{key: PUBLISHED[key] for key in ("vocab_size", *SIZES)}, max_position_embeddings=64)
    )
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["bert.embeddings.position_ids"] = torch.arange(64)[None]  # as saved by transformers of that time
    if change_weights:
        change_weights(weights)
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(PUBLISHED | config))
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return model.eval()


def refused(folder, message, need_mlm_head=False):
    with pytest.raises(InputError, match=message) as error:
        load_backbone(ModelConfig(source=str(folder)), need_mlm_head)
    assert str(folder) in str(error.value)


# -- checkpoints of our own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_checkpoint_gives_the_same_vectors_to_whoever_loads_it(tmp_path, pooling):
    model, used, _ = fresh(pooling=pooling)
    assert used == pooling
    save_checkpoint(model, tmp_path / "saved", pooling)
    torch.manual_seed(999)
    again, recorded, remarks = load_backbone(ModelConfig(source=str(tmp_path / "saved")))
    assert recorded == pooling
    assert remarks == [f"weights from {tmp_path / 'saved'}"]
    assert np.array_equal(embed(model.bert, windows(), used, 4), embed(again.bert, windows(), recorded, 4))
    for (name, weight), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(weight, other)


def test_pooling_of_the_config_overrides_the_checkpoint_and_is_said(tmp_path):
    save_checkpoint(fresh()[0], tmp_path, "mean")
    _, pooling, remarks = load_backbone(ModelConfig(source=str(tmp_path), pooling="cls"))
    assert pooling == "cls"
    assert "pooling changed from the checkpoint's mean to cls" in remarks


def test_pooling_is_cls_where_nobody_says(tmp_path):
    write_splicebert(tmp_path)
    assert load_backbone(ModelConfig(source=str(tmp_path)))[1] == "cls"


def test_fresh_weights_follow_the_seed_and_the_sizes():
    weights = [fresh(seed)[0].bert.embeddings.word_embeddings.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (10, 16)


def test_fresh_like_has_the_sizes_and_none_of_the_weights():
    model = fresh()[0]
    torch.manual_seed(5)
    other = fresh_like(model.config)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    assert {name: weight.shape for name, weight in other.state_dict().items()} == shapes
    assert not torch.equal(
        model.bert.encoder.layer[0].output.dense.weight, other.bert.encoder.layer[0].output.dense.weight
    )


def test_a_classifier_is_read_back_whole_and_an_encoder_is_no_classifier(tmp_path):
    model = Classifier(fresh()[0].bert, "mean", 0.1)
    (tmp_path / "best").mkdir()
    save_classifier(model, tmp_path / "best")
    torch.manual_seed(999)
    again = load_classifier(tmp_path / "best", ModelConfig(), 0.1)
    assert np.array_equal(predict(model, windows(), 4), predict(again, windows(), 4))
    save_checkpoint(fresh()[0], tmp_path / "encoder", "mean")
    with pytest.raises(InputError, match="encoder has no head.safetensors"):
        load_classifier(tmp_path / "encoder", ModelConfig(), 0.1)


# -- SpliceBERT's folders ----------------------------------------------------------------------------------------------


def test_a_splicebert_folder_loads_with_every_weight(tmp_path):
    published = write_splicebert(tmp_path)
    model, pooling, _ = load_backbone(ModelConfig(source=str(tmp_path)), need_mlm_head=True)
    for name, weight in published.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    tokens = torch.from_numpy(add_special_tokens(windows())).int()
    with torch.no_grad():
        assert torch.equal(published(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits)
        vectors = published.bert(input_ids=tokens).last_hidden_state[:, 0]
    assert np.array_equal(embed(model.bert, windows(), pooling, 6), vectors.numpy())


def test_hidden_states_are_not_kept_though_the_published_config_asks_for_them(tmp_path):
    write_splicebert(tmp_path)
    model = load_backbone(ModelConfig(source=str(tmp_path)))[0]
    assert model.bert(input_ids=torch.full((1, 5), 6)).hidden_states is None


def test_dropout_of_our_config_applies_to_a_loaded_checkpoint(tmp_path):
    write_splicebert(tmp_path)
    config = ModelConfig(source=str(tmp_path), hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.0)
    model, _, remarks = load_backbone(config)
    assert "hidden_dropout_prob changed from the checkpoint's 0.1 to 0.3" in remarks
    assert "attention_probs_dropout_prob changed from the checkpoint's 0.1 to 0.0" in remarks
    rates = {
        module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout) and "self" not in name
    }
    assert rates == {0.3}
    assert model.config.attention_probs_dropout_prob == 0.0


def test_a_pooler_is_not_needed_and_not_in_the_way(tmp_path):
    def add_pooler(weights):
        weights["bert.pooler.dense.weight"], weights["bert.pooler.dense.bias"] = torch.zeros(16, 16), torch.zeros(16)
        weights["cls.seq_relationship.weight"] = torch.zeros(2, 16)

    write_splicebert(tmp_path, add_pooler)
    remarks = load_backbone(ModelConfig(source=str(tmp_path)))[2]
    assert any("not used" in remark and "bert.pooler.dense.weight" in remark for remark in remarks)


def test_a_missing_head_is_said_and_refused_only_where_it_is_needed(tmp_path):
    def drop_head(weights):
        for key in [key for key in weights if key.startswith("cls.")]:
            del weights[key]

    write_splicebert(tmp_path, drop_head)
    assert any("no masked-LM head" in remark for remark in load_backbone(ModelConfig(source=str(tmp_path)))[2])
    refused(tmp_path, "no masked-LM head", need_mlm_head=True)


def rename(weights, old, new):
    for key in [key for key in weights if old in key]:
        weights[key.replace(old, new)] = weights.pop(key)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("bert.encoder.layer.1.output.dense.weight"), "1 keys missing .*layer.1.output.dense.weight"),
        (
            lambda w: w.update({"bert.encoder.layer.2.output.dense.weight": torch.zeros(16, 32)}),
            "1 unexpected .*layer.2",
        ),
        (lambda w: rename(w, "layer.1.", "layer.7."), "16 keys missing .*16 unexpected"),
        (lambda w: rename(w, "bert.encoder", "splicebert.encoder"), "keys missing"),
        (lambda w: w.update({"bert.embeddings.word_embeddings.weight": torch.zeros(26, 16)}), "word_embeddings"),
        (lambda w: w.update({"bert.encoder.layer.0.output.dense.bias": torch.zeros(7)}), "layer.0.output.dense.bias"),
    ],
    ids=["missing", "unexpected", "renamed block", "renamed encoder", "vocabulary of the weights", "shape"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    write_splicebert(tmp_path, change)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda f: (f / "pytorch_model.bin").unlink(),
            "has no weights: neither model.safetensors nor pytorch_model.bin",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "be'), "config.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text(""), "config.json is empty"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list"),
        (
            lambda f: (f / "config.json").write_text(json.dumps(PUBLISHED | {"hidden_size": "16"})),
            "no BERT that can be",
        ),
        (
            lambda f: (f / "config.json").write_text(json.dumps(PUBLISHED | {"hidden_act": "nope"})),
            "no BERT that can be",
        ),
        (
            lambda f: (f / "config.json").write_text(json.dumps(PUBLISHED | {"position_embedding_type": "rotary"})),
            "position_embedding_type is 'rotary'",
        ),
        (lambda f: (f / "config.json").write_text(json.dumps(PUBLISHED | {"vocab_size": 26})), "vocabulary of 26 rows"),
        (lambda f: (f / "config.json").write_text(json.dumps(PUBLISHED | {"model_type": "roberta"})), "'roberta'"),
        (lambda f: (f / "vocab.txt").write_text("\n".join((*VOCAB[:6], "A", "C", "T", "G"))), "not SpliceBERT's"),
        (
            lambda f: (f / "vocab.txt").write_text("\n".join(("[PAD]", "[CLS]", "[UNK]", *VOCAB[3:]))),
            "not SpliceBERT's",
        ),
    ],
    ids=[
        *("no weights", "no config", "cut config", "empty config", "list for config", "size as text", "activation"),
        *("positions", "vocabulary", "not BERT", "permuted bases", "permuted specials"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(tmp_path, damage, message):
    write_splicebert(tmp_path)
    damage(tmp_path)
    refused(tmp_path, message)


def test_a_safetensors_file_with_a_missing_key_is_refused(tmp_path):
    save_checkpoint(fresh()[0], tmp_path, "mean")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["bert.embeddings.LayerNorm.weight"]
    save_file(weights, path, {"format": "pt"})
    refused(tmp_path, "1 keys missing .*LayerNorm.weight")

"""Checkpoints: ours and SpliceBERT's, what they keep, and what is refused."""

import json

import pytest
import torch
from conftest import fresh
from standins import change_weights, refused, splicebert, without, write_zenodo, zeros

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.classifier import load_classifier
from simcsp.model.encoder import fresh_like

# -- checkpoints of our own --------------------------------------------------------------------------------------------


def test_fresh_weights_follow_the_seed_and_the_sizes():
    weights = [fresh(seed)[0].bert.embeddings.word_embeddings.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (10, 16)


def test_fresh_like_has_the_sizes_and_none_of_the_weights():
    model = fresh()[0]
    torch.manual_seed(5)
    weights, others = model.state_dict(), fresh_like(model.config).state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {name: w.shape for name, w in others.items()}
    dense = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(weights[dense], others[dense])


def test_an_encoder_is_no_classifier(tmp_path):
    save_checkpoint(fresh()[0], tmp_path / "encoder", "mean")
    with pytest.raises(InputError, match="encoder has no head.safetensors"):
        load_classifier(tmp_path / "encoder", ModelConfig(), 0.1)


# -- SpliceBERT's folders ----------------------------------------------------------------------------------------------


def test_a_pooler_is_not_needed_and_not_in_the_way(tmp_path):
    def add_pooler(weights):
        weights["bert.pooler.dense.weight"], weights["bert.pooler.dense.bias"] = torch.zeros(16, 16), torch.zeros(16)
        weights["cls.seq_relationship.weight"] = torch.zeros(2, 16)

    change_weights(write_zenodo(tmp_path, splicebert()), add_pooler)
    remarks = load_backbone(ModelConfig(source=str(tmp_path)))[2]
    assert any("not used" in remark and "bert.pooler.dense.weight" in remark for remark in remarks)


def test_a_missing_head_is_said_and_refused_only_where_it_is_needed(tmp_path):
    def drop_head(weights):
        for key in [key for key in weights if key.startswith("cls.")]:
            del weights[key]

    change_weights(write_zenodo(tmp_path, splicebert()), drop_head)
    assert any("no masked-LM head" in remark for remark in load_backbone(ModelConfig(source=str(tmp_path)))[2])
    refused(tmp_path, "no masked-LM head", need_mlm_head=True)


def rename(weights, old, new):
    for key in [key for key in weights if old in key]:
        weights[key.replace(old, new)] = weights.pop(key)


@pytest.mark.parametrize(
    "change, message",
    [
        (without("bert.encoder.layer.1.output.dense.weight"), "1 keys missing .*layer.1.output.dense.weight"),
        (zeros("bert.encoder.layer.2.output.dense.weight", 16, 32), "1 unexpected .*layer.2"),
        (lambda w: rename(w, "layer.1.", "layer.7."), "16 keys missing .*16 unexpected"),
        (lambda w: rename(w, "bert.encoder", "splicebert.encoder"), "keys missing"),
        (zeros("bert.embeddings.word_embeddings.weight", 26, 16), "word_embeddings"),
        (zeros("bert.encoder.layer.0.output.dense.bias", 7), "layer.0.output.dense.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    change_weights(write_zenodo(tmp_path, splicebert()), change)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "pytorch_model.bin").unlink(), "no weights: neither model.safetensors nor pytorch_model.bin"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "be'), "config.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list"),
        (lambda f: write_zenodo(f, splicebert(), hidden_size="16"), "no BERT that can be"),
        (lambda f: write_zenodo(f, splicebert(), hidden_act="nope"), "no BERT that can be"),
        (lambda f: write_zenodo(f, splicebert(), vocab_size=26), "vocabulary of 26 rows"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(tmp_path, damage, message):
    write_zenodo(tmp_path, splicebert())
    damage(tmp_path)
    refused(tmp_path, message)


SENTENCE_MODULES = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Dense", "Dense")]


def sentence_folder(folder, settings, modules=SENTENCE_MODULES[:2]):
    write_zenodo(folder, splicebert())
    rows = [
        {"idx": i, "name": n, "path": p, "type": f"sentence_transformers.models.{t}"}
        for i, (n, p, t) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 16, **settings}))
    return folder


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_the_pooling_of_sentence_transformers_is_taken_and_said(settings, kind, tmp_path):
    folder = sentence_folder(tmp_path / "m", settings, SENTENCE_MODULES)
    _, pooling, remarks = load_backbone(ModelConfig(source=str(folder)))
    assert pooling == kind and any("1_Pooling" in remark for remark in remarks)
    assert any("not read: Dense" in remark for remark in remarks)
    assert load_backbone(ModelConfig(source=str(folder), pooling="centre"))[1] == "centre"


def test_a_pooling_that_we_do_not_have_is_refused_unless_another_is_given(tmp_path):
    folder = sentence_folder(tmp_path / "m", {"pooling_mode_max_tokens": True})
    with pytest.raises(InputError, match="modules.json.*max_tokens.*model.pooling"):
        load_backbone(ModelConfig(source=str(folder)))
    assert load_backbone(ModelConfig(source=str(folder), pooling="cls"))[1] == "cls"
    (folder / "modules.json").write_text("{}")
    assert load_backbone(ModelConfig(source=str(folder)))[1] == "cls"
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(InputError, match="modules.json"):
        load_backbone(ModelConfig(source=str(folder)))

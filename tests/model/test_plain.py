"""What leaves a run loads as an ordinary class of transformers, and gives our scores; older folders still load."""

import json

import numpy as np
import pytest
import torch
from conftest import fresh
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from simcsp.core.arms import HEAD_FILE, holds_classifier
from simcsp.core.config import ModelConfig
from simcsp.model.bases import BaseClassifier, Labeller, Shape, load_bases, save_bases
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.classifier import Classifier, load_classifier, predict, save_classifier
from simcsp.text.alphabet import decode

TILE, EDGE = 30, 7
LENGTH = 24


def masked_lm(positions):
    return fresh(intermediate_size=16, max_position_embeddings=positions, initializer_range=0.4)[0]


def encoder(positions):
    return masked_lm(positions).bert


def random_ids(*shape):
    return np.random.default_rng(3).integers(6, 10, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """(folder, model, calibration) of an encoder with a linear layer."""
    folder = tmp_path_factory.mktemp("bases")
    model = BaseClassifier(encoder(TILE + 2), Shape(TILE, 0, 11, [], EDGE)).eval()
    nn.init.normal_(model.head.weight)
    calibration = np.array([[0.8, -0.5], [1.2, 0.3]])
    before = torch.get_rng_state()
    save_bases(model, calibration, folder)
    assert torch.equal(torch.get_rng_state(), before)  # saving moves no number of the training
    return folder, model, calibration


def test_a_linear_model_of_bases_is_one_plain_file_and_loads_to_the_same_scores(bases):
    folder, model, calibration = bases
    names = {"bases.json", "checksums.json", "config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == names | {"tokenizer_config.json"}
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {"0": "neither", "1": "acceptor", "2": "donor"}
    ids, (loaded, identity) = random_ids(5 * TILE), load_bases(folder)
    device = torch.device("cpu")
    saved, read = Labeller(model, calibration, device), Labeller(loaded, identity, device)
    expected = saved.probabilities(saved.both_strands(ids))
    assert read.probabilities(read.both_strands(ids)) == pytest.approx(expected, abs=2e-6)
    assert np.ptp(expected) > 0.5


def test_pipeline_and_auto_classes_give_the_scores_of_predict(bases):
    folder = bases[0]
    model, calibration = load_bases(folder)
    labeller, shape = Labeller(model, calibration, torch.device("cpu")), model.shape
    step, edge = shape.step, shape.edge
    ids = random_ids(4 * step)
    expected = labeller.probabilities(labeller.both_strands(ids))[0]
    label = pipeline("token-classification", model=str(folder), ignore_labels=[])
    plain, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for tile in (1, 2):  # those that lie within the text
        text = decode(ids[tile * step - edge : tile * step - edge + shape.tile])
        with torch.no_grad():
            chances = plain(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, 1:-1].numpy()
        found = label(text)
        assert len(found) == shape.tile and {row["entity"] for row in found} <= {"neither", "acceptor", "donor"}
        for base in range(step):
            row, ours = found[edge + base], expected[tile * step + base]
            assert np.abs(chances[edge + base, 1:] - ours).max() < 1e-6
            both = {"acceptor": ours[0], "donor": ours[1], "neither": 1 - ours.sum()}
            assert row["score"] == pytest.approx(both[row["entity"]], abs=1e-6)
            assert row["entity"] == max(both, key=both.get)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 16
    assert load_backbone(ModelConfig(source=str(folder)))[2]  # and its encoder is one to start from


def test_a_classifier_of_windows_that_pools_cls_is_plain(tmp_path):
    model = Classifier(encoder(LENGTH + 2), "cls", dropout=0.1).eval()
    for layer in (model.head[0], model.head[3]):
        nn.init.normal_(layer.weight)
    ids = random_ids(20, LENGTH)
    expected, before = predict(model, ids, 8), torch.get_rng_state()
    save_classifier(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert holds_classifier(tmp_path) and not (tmp_path / HEAD_FILE).exists()
    loaded = load_classifier(tmp_path, ModelConfig(), 0.1)
    assert np.array_equal(predict(loaded, ids, 8), expected) and np.ptp(expected) > 0.1
    score = pipeline("text-classification", model=str(tmp_path), top_k=None)
    for row, ours in zip(score([decode(window) for window in ids]), expected):
        assert {entry["label"]: entry["score"] for entry in row}["site"] == pytest.approx(ours, abs=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        inputs = tokenizer([decode(window) for window in ids], return_tensors="pt")
        logits = AutoModelForSequenceClassification.from_pretrained(tmp_path)(**inputs).logits
    assert logits.softmax(-1)[:, 1].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pooling", ["centre", "mean", "cls@1"])
def test_other_poolings_keep_the_head_beside_the_encoder(pooling, tmp_path):
    model = Classifier(encoder(LENGTH + 2), pooling, dropout=0.1).eval()
    save_classifier(model, tmp_path)
    assert holds_classifier(tmp_path) and (tmp_path / HEAD_FILE).is_file()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    ids = random_ids(5, LENGTH)
    loaded = load_classifier(tmp_path, ModelConfig(), 0.1)
    assert np.array_equal(predict(loaded, ids, 8), predict(model, ids, 8))


def test_an_older_folder_with_its_head_beside_it_still_loads(tmp_path):
    model = Classifier(encoder(LENGTH + 2), "cls", dropout=0.1).eval()
    save_checkpoint(model.bert, tmp_path, "cls")
    assert not holds_classifier(tmp_path)
    save_file(model.head.state_dict(), tmp_path / HEAD_FILE)
    ids = random_ids(5, LENGTH)
    loaded = load_classifier(tmp_path, ModelConfig(), 0.1)
    assert np.array_equal(predict(loaded, ids, 8), predict(model, ids, 8))
    assert set(load_file(tmp_path / HEAD_FILE)) == {"0.weight", "0.bias", "3.weight", "3.bias"}

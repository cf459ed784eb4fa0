"""Objectives on annotated text: supervised contrast and cross-entropy of sites and decoys, and their control."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fresh, summary_of, tiny_config, weights, write_species

import pretrain
from simcsp.core.config import PretrainConfig
from simcsp.core.run_folder import read_metrics
from simcsp.text.alphabet import A, add_special_tokens
from simcsp.training.objectives import OBJECTIVES, sup_con
from simcsp.training.pretraining import Training
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss


@pytest.fixture(scope="module")
def model():
    return fresh(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)[0]


def windows(count=12, length=30, seed=0):
    return np.random.default_rng(seed).integers(A, A + 4, size=(count, length), dtype=np.uint8)


CLASSES = np.arange(12) % 4


def test_supcon_is_the_supervised_contrast_of_one_view(model):
    stage = PretrainConfig(objective="supcon", temperature=0.2)
    learner = Learner(model, "centre", "supcon").eval()
    batch = draw_batch(stage, windows(), np.random.default_rng(1), classes=CLASSES)
    loss, accuracy = step_loss(MiniBatches(learner), stage, batch)
    with torch.no_grad():
        vectors = learner(torch.from_numpy(add_special_tokens(windows())).int())
        unit = F.normalize(vectors, dim=1)
    assert float(loss.detach()) == pytest.approx(float(sup_con(vectors, torch.from_numpy(CLASSES), 0.2)), abs=1e-6)
    nearest = [max((j for j in range(12) if j != i), key=lambda j: float(unit[i] @ unit[j])) for i in range(12)]
    assert float(accuracy) == pytest.approx((CLASSES[nearest] == CLASSES).mean())


@pytest.mark.parametrize("size, objective", [(None, "supcon"), (5, "classify")])
def test_the_vector_of_a_moved_crop_is_that_of_its_site(model, monkeypatch, size, objective):
    crops, seen = windows(length=42), []
    crops[:, 20:22] = [7, 9]  # the bases on either side of the boundary, which nothing else tells apart
    stage = PretrainConfig(objective=objective, max_shift=6, min_window=20)
    model = copy.deepcopy(model)
    torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
    learner = Learner(model, "centre@0", objective).eval()
    learner.head = torch.nn.Identity()
    spy = {"loss": lambda outputs, _: seen.append(outputs.vectors[0]) or 0, "accuracy": lambda _: 0}
    monkeypatch.setitem(OBJECTIVES, objective, dataclasses.replace(OBJECTIVES[objective], **spy))
    for seed in range(5):
        batch = draw_batch(stage, crops, np.random.default_rng(seed), classes=CLASSES)
        step_loss(MiniBatches(learner, size), stage, batch)
    expected = model.bert.embeddings(input_ids=torch.tensor([[7, 9]])).mean(dim=1)
    torch.testing.assert_close(torch.cat(seen), expected.expand(60, -1))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_species(folder, "one", 1)
    write_species(folder, "two", 2)
    return folder


def annotated_config(folder, data, text, **changes):
    values = {"data.fasta": [str(text / f"{name}.fa") for name in ("one", "two")], "data.corpus": "annotated"}
    values |= {"data.annotation": [str(text / f"{name}.gtf") for name in ("one", "two")], "data.records": None}
    return tiny_config(folder, data, values | {"mlm.steps": 0} | changes)


@pytest.mark.parametrize("objective", ["supcon", "classify"])
def test_training_learns_the_classes_and_its_control_reads_the_same_crops(
    tiny_data, text, tmp_path, call, monkeypatch, objective
):
    seen = {}
    draw = Training.draw

    def spy(self, ids, rng, classes=None):
        seen.setdefault(self.stage.objective, []).append((ids, classes))
        return draw(self, ids, rng, classes)

    monkeypatch.setattr(Training, "draw", spy)
    more = {"pretrain.steps": 60, "pretrain.batch_size": 32, "pretrain.eval_steps": 60, "pretrain.lr": 5e-3}
    more |= {"pretrain.logging_steps": 20, "pretrain.lr_scheduler_type": "constant_with_warmup"}
    more |= {"model.position_init": "sinusoidal", "model.initializer_range": 0.2}
    more |= {"pretrain.objective": objective, "pretrain.control": True}
    call(pretrain, annotated_config(tmp_path, tiny_data, text, **more))
    run = tmp_path / "runs/tiny"
    accuracy = [row["train/accuracy"] for row in read_metrics(run / "pretrain") if "train/accuracy" in row]
    assert accuracy[-1] > 0.36 > accuracy[0]  # chance is .25
    assert summary_of(run / "control")["objective"] == "mlm"
    for (one, classes), (other, _) in zip(seen[objective], seen["mlm"], strict=True):
        assert np.array_equal(one, other) and classes is not None
    facts = json.loads((run / "corpus.json").read_text())
    assert facts["classes"]["donor"] == [30, 30] and facts["corpus"] == "annotated"
    assert "classes" in json.loads((run / "pretrain/env.json").read_text())["inputs"]
    assert not [key for key in weights(run / "pretrain") if "head" in key]

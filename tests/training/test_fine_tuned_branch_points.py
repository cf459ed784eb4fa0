"""The fine-tuned model of branch points."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import average_precision_score

from simcsp.core.config import FinetuneConfig, ModelConfig
from simcsp.labels.bases import UNLABELLED
from simcsp.metrics.branch_points import IGNORED, WIDTH, BranchRegions, region_start
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import A, C, N
from simcsp.training.bases import labels_loss
from simcsp.training.branch_points import fine_tuned_chances

LENGTH = 60
SETTINGS = FinetuneConfig(lr=1e-2, batch_size=8, max_epochs=6, patience=6)


def test_the_loss_of_five_bases_is_that_of_the_labelled_ones_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]]])
    labels = np.array([[0, 1, UNLABELLED, 1, 0]])
    own = labels_loss(lambda ids: logits, np.zeros((1, 5), np.uint8), labels, Accelerator(cpu=True))
    by_hand = np.log(2) + np.log1p(np.exp(2)) + np.log(2) + np.log1p(np.exp(1))
    assert own.item() == pytest.approx(by_hand, abs=1e-6)


@pytest.fixture(scope="module")
def regions():
    """The branch points are the C's among A's and T's; every third candidate is left out."""
    rng = np.random.default_rng(0)
    ids = rng.choice(np.array([A, A + 3], dtype=np.uint8), (60, LENGTH))
    ids[rng.random(ids.shape) < 0.1] = C
    start = region_start(LENGTH)
    labels = (ids[:, start : start + WIDTH] == C).astype(int)
    labels[:, ::3] = IGNORED
    gene = np.array([f"g{i % 10}" for i in range(60)])
    return BranchRegions(ids, start, labels, gene, np.array(["chr1"] * 60))


def test_it_learns_what_is_labelled_and_leaves_the_checkpoint_as_it_was(start, regions):
    bert = load_backbone(ModelConfig(source=str(start)))[0].bert
    before = {name: value.clone() for name, value in bert.state_dict().items()}
    outside = dataclasses.replace(regions, ids=np.where(regions.ids == A, np.uint8(N), regions.ids))
    own, of_outside = fine_tuned_chances(bert, regions, outside, SETTINGS, Accelerator(cpu=True), 0)
    asked = regions.labels != IGNORED
    assert average_precision_score(regions.labels[asked], own[asked]) > 0.99
    assert of_outside.shape == own.shape and not np.allclose(of_outside, own)
    assert all(torch.equal(value, before[name]) for name, value in bert.state_dict().items())


def test_labels_of_a_region_do_not_reach_its_own_scores(start, regions):
    bert, few = load_backbone(ModelConfig(source=str(start)))[0].bert, dataclasses.replace(SETTINGS, max_epochs=1)
    own, _ = fine_tuned_chances(bert, regions, None, few, Accelerator(cpu=True), 0)
    fold = regions.folds
    changed = regions.labels.copy()
    changed[fold == 2] = np.where(changed[fold == 2] == IGNORED, IGNORED, 1 - changed[fold == 2])
    others = dataclasses.replace(regions, labels=changed)
    other, _ = fine_tuned_chances(bert, others, None, few, Accelerator(cpu=True), 0)
    assert np.array_equal(own[fold == 2], other[fold == 2]) and not np.array_equal(own[fold == 3], other[fold == 3])

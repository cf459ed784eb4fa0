"""What pre-training minimises, against plain loops and hand-written cases; the contract that every objective keeps."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, fresh, random_bases, summary_of, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

import pretrain
from simcsp.core.config import Config, DataConfig, MlmConfig, PretrainConfig
from simcsp.core.errors import InputError
from simcsp.text.alphabet import encode
from simcsp.training import objectives
from simcsp.training.objectives import OBJECTIVES, Outputs, dcl, info_nce, sup_con
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss
from utils.arguments import find_faults

# -- contrast ----------------------------------------------------------------------------------------------------------


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))


def plain(loss, first, second, temperature, negatives=None):
    """SimCSE's equation 1, one term of a denominator at a time; that of dcl leaves the positive out."""
    losses = []
    for i in range(len(first)):
        positive = cosine(first[i], second[i]) / temperature
        terms = [math.exp(positive)] if loss is info_nce else []
        for j in range(len(first)):
            if j != i and (negatives is None or negatives[i][j]):
                terms.append(math.exp(cosine(first[i], second[j]) / temperature))
        losses += [math.log(sum(terms)) - positive] if terms else []
    return sum(losses) / len(losses)


@pytest.mark.parametrize("loss", [info_nce, dcl])
@pytest.mark.parametrize("left_out", [None, 0.0, 0.5])
@pytest.mark.parametrize("batch", [2, 7])
def test_contrasts_equal_a_plain_loop(loss, left_out, batch):
    rng = np.random.default_rng(batch)
    first, second = rng.normal(size=(2, batch, 5))
    negatives = None if left_out is None else rng.random((batch, batch)) >= left_out
    found = loss(*map(torch.tensor, (first, second)), 0.3, None if negatives is None else torch.tensor(negatives))
    assert float(found) == pytest.approx(plain(loss, first, second, 0.3, negatives), rel=1e-9)


@pytest.mark.parametrize("loss", [info_nce, dcl])
def test_what_is_left_out_touches_neither_loss_nor_gradient(loss):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 3, dtype=torch.double, generator=generator).requires_grad_()
    negatives = torch.ones(4, 4, dtype=torch.bool)
    negatives[2] = negatives[:, 2] = False  # window 2 has none, and is one of none
    inputs, rest = (first, second), [0, 1, 3]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, 0.5, negatives), inputs)
    found, apart = loss(first, second, 0.5, negatives), loss(first[rest], second[rest], 0.5)
    apart = apart * (3 / 4 if loss is info_nce else 1)  # which has ln 1 for window 2, where dcl leaves it out
    assert torch.allclose(found, apart)
    pairs = zip(*(torch.autograd.grad(value, inputs) for value in (found, apart)))
    assert all(torch.allclose(*pair) for pair in pairs)


def test_dcl_leaves_out_rows_without_negatives_and_needs_one_that_has_some():
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    negatives = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    loss = dcl(first, second, 0.1, negatives)
    by_loops = plain(dcl, first.tolist(), second.tolist(), 0.1, negatives.tolist())
    assert float(loss.detach()) == pytest.approx(by_loops, rel=1e-5)
    assert torch.autograd.grad(loss, first)[0].isfinite().all()
    with pytest.raises(InputError, match="no window of a batch has a negative: raise batch_size"):
        dcl(first, second, 0.1, torch.zeros(3, 3, dtype=torch.bool))


# -- supervised contrast -----------------------------------------------------------------------------------------------


def plain_sup_con(vectors, classes, temperature):
    """Equation 2 of Khosla et al., one term at a time, as a mean over anchors."""
    losses = []
    for i in range(len(vectors)):
        partners = [p for p in range(len(vectors)) if p != i and classes[p] == classes[i]]
        others = [math.exp(cosine(vectors[i], vectors[a]) / temperature) for a in range(len(vectors)) if a != i]
        terms = [cosine(vectors[i], vectors[p]) / temperature - math.log(sum(others)) for p in partners]
        if terms:
            losses.append(-sum(terms) / len(terms))
    return sum(losses) / len(losses)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.floats(0.05, 2.0), st.integers(0, 1000))
@settings(max_examples=50)
def test_sup_con_equals_a_plain_loop(classes, temperature, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(classes), 4))
    if len(set(classes)) == len(classes):
        with pytest.raises(InputError, match="no two windows of a batch are of one class"):
            sup_con(torch.tensor(vectors), torch.tensor(classes), temperature)
    else:
        found = sup_con(torch.tensor(vectors), torch.tensor(classes), temperature)
        assert float(found) == pytest.approx(plain_sup_con(vectors, classes, temperature), rel=1e-9, abs=1e-12)


def test_sup_con_has_the_right_gradient_beside_a_row_alone_in_its_class():
    vectors = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    classes = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: sup_con(x, classes, 0.5), vectors)
    gradient = torch.autograd.grad(sup_con(vectors, classes, 0.5), vectors)[0]
    assert gradient[4].norm() > 0  # no anchor, yet a negative of all


# -- the contract of every objective -----------------------------------------------------------------------------------

CLASSES = torch.arange(8) % 4
CHANGED = {"temperature": 0.2, "projection_head": True, "max_shift": 2}
CHANGED |= {"skip_near_duplicates": True, "mlm_weight": 0.3}


def hold_to_contract(name):
    """What the rest of the library relies on, of one entry of OBJECTIVES."""
    objective = OBJECTIVES[name]
    check_fields(name)
    assert objective.loss is not None or objective.views == 0
    if objective.loss is not None:
        check_chance(name)
        check_shares(name)
    check_learning(name)


def check_fields(name):
    """Each field of pretrain applies, or is refused by its name."""
    corpus = "annotated" if OBJECTIVES[name].with_classes else "fasta"
    data = DataConfig(corpus=corpus, fasta=["a.fa"], annotation=["a.gtf"] * (corpus == "annotated"))
    assert set(OBJECTIVES[name].fields) <= CHANGED.keys()
    for field, value in CHANGED.items():
        stage = PretrainConfig(**{"objective": name, field: value})
        faults = find_faults(Config(name="one", data=data, pretrain=stage))
        refused = [fault for fault in faults if fault.startswith(f"pretrain.{field} ") and name in fault]
        assert len(refused) == len(faults) == (field not in OBJECTIVES[name].fields), (field, faults)


def check_chance(name):
    """It is the loss of vectors all alike."""
    stage = PretrainConfig(objective=name, batch_size=8)
    if OBJECTIVES[name].chance is not None:
        vectors = torch.ones(OBJECTIVES[name].views, 8, 4)
        alike = Outputs(vectors, CLASSES, None, slice(None), lambda count: count)
        chance = OBJECTIVES[name].chance(stage, 1.38, 4)
        assert float(OBJECTIVES[name].loss(alike, stage)) == pytest.approx(chance, rel=1e-6)


def check_shares(name):
    """The mean over two processes of loss, accuracy and gradient is that of one process with all windows."""
    objective, stage = OBJECTIVES[name], PretrainConfig(objective=name, temperature=0.3)
    vectors = torch.randn(objective.views, 8, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    vectors.requires_grad_()

    def run(own, average):
        outputs = Outputs(vectors, CLASSES, None, own, average)
        loss = objective.loss(outputs, stage)
        gradient = torch.autograd.grad(loss, vectors)[0]
        return torch.cat([gradient.flatten(), loss[None], objective.accuracy(outputs)[None]])

    counts, halves = [], [slice(0, 4), slice(4, 8)]
    for own in halves:  # a first round, of which only the counts are wanted
        run(own, lambda count: counts.append(count) or count)
    mean = sum(counts) / 2
    parts = [run(own, lambda _: mean) for own in halves]
    assert torch.allclose(sum(parts) / 2, run(slice(None), lambda count: count), atol=1e-12)


def check_learning(name):
    """Steps on one batch bring its loss down, with finite gradients, in mini-batches as well."""
    model, _, _ = fresh(num_hidden_layers=1)
    learner = MiniBatches(Learner(model, "mean", name).train(), 3)
    optimizer = torch.optim.Adam(learner.parameters(), lr=5e-3)
    ids = np.stack([encode(random_bases(np.random.default_rng(i), 30)) for i in range(8)])
    stage, losses = PretrainConfig(objective=name, temperature=0.3), []
    for step in range(30):
        batch = draw_batch(stage, ids, np.random.default_rng(step), None, CLASSES.numpy())
        loss, accuracy = step_loss(learner, stage, batch)
        assert 0 <= float(accuracy) <= 1
        loss.backward()
        assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_the_contract(name):
    hold_to_contract(name)


def test_every_field_of_pretraining_applies_to_some_objective():
    fields, of_mlm = ({item.name for item in dataclasses.fields(section)} for section in (PretrainConfig, MlmConfig))
    assert fields - of_mlm == {*CHANGED, "objective", "seeds", "control"}
    assert {field for objective in OBJECTIVES.values() for field in objective.fields} == CHANGED.keys()


def test_the_loss_that_contributing_adds_keeps_the_contract_and_trains(tiny_data, tmp_path, call, monkeypatch):
    (block,) = re.findall("```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) <= 15
    monkeypatch.setitem(OBJECTIVES, "barlow_twins", None)  # forgotten afterwards
    exec(block, dict(vars(objectives)))
    hold_to_contract("barlow_twins")
    changes = {"mlm.steps": 0, "pretrain.objective": "barlow_twins", "pretrain.lr": 1e-12, "pretrain.control": True}
    call(pretrain, tiny_config(tmp_path, tiny_data, changes))
    summary = summary_of(tmp_path / "runs/tiny/pretrain")
    assert summary["objective"] == "barlow_twins"
    assert not [warning for warning in summary["warnings"] if "nothing learned" in warning]  # it has no chance value

"""Gradient caching: loss, every gradient and the generators as of the whole batch, activations of the mini-batch."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import SMALL, fresh, random_bases
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.config import PretrainConfig
from simcsp.text.alphabet import encode
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss

SIZE, ROWS = 3, 8  # the last mini-batch is smaller
EQUAL = 1e-9  # of a gradient's norm
ALL = {"objective": "dcl", "projection_head": True, "skip_near_duplicates": True, "max_shift": 3, "mlm_weight": 0.1}
RECIPES = {"simcse": {}, "all": ALL, "mlm": {"objective": "mlm"}}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")


def build_model(dropout):
    """transformers' own, with its attention and dropout."""
    torch.manual_seed(0)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForMaskedLM(BertConfig(vocab_size=10, initializer_range=0.3, **SMALL, **rates))


def build(recipe, dropout, device="cpu", dtype=torch.float64):
    stage = PretrainConfig(temperature=0.2, **recipe)
    learner = Learner(build_model(dropout), "mean", stage.objective, stage.projection_head)
    return learner.to(device, dtype).train()


def windows(rows=ROWS, length=40):
    """The second half of each lies in the next one: some are near-duplicates, all are different."""
    bases = encode(random_bases(np.random.default_rng(0), (rows + 1) * length // 2))
    return np.stack([bases[i * length // 2 :][:length] for i in range(rows)])


class GraphKept(nn.Module):
    """The learner in the same mini-batches, all their graphs kept: what a step costs without caching."""

    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, rows, boundaries, *masked, place=0.0):
        parts = rows.split(SIZE, dim=1)
        at = [None] * len(parts) if boundaries is None else boundaries.split(SIZE, dim=1)
        copies = [copy.split(SIZE) for copy in masked]
        outs = [
            self.learner(part.flatten(0, 1), None if of is None else of.flatten(), *copy, place=place)
            for part, of, *copy in zip(parts, at, *copies)
        ]
        of_views, *others = zip(*outs) if masked else (outs,)
        of_views = [out.unflatten(0, (part.shape[:2])) for out, part in zip(of_views, parts)]
        return torch.cat(of_views, dim=1), *map(torch.cat, others)


def step(module, recipe, size=None, backward=torch.Tensor.backward):
    """(loss, accuracy, {name: gradient}) of one step from fixed seeds."""
    torch.manual_seed(7)
    stage = PretrainConfig(temperature=0.2, **recipe)
    whole = module if isinstance(module, GraphKept) else MiniBatches(module, size)
    batch = draw_batch(stage, windows(), np.random.default_rng(5)).to(next(module.parameters()).device)
    loss, accuracy = step_loss(whole, stage, batch)
    backward(loss)
    gradients = {name.removeprefix("learner."): p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return float(loss.detach()), float(accuracy), gradients


def largest_difference(found, wanted, floor=1e-6):
    """Of any parameter's gradient, relative to its norm. Keys' biases have none but noise, so the whole counts too."""
    assert found.keys() == wanted.keys() and found
    whole = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
    return float(max((found[name] - g).norm() / (g.norm() + floor * whole) for name, g in wanted.items()))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@every_recipe
def test_loss_and_gradients_are_those_of_the_whole_batch_under_the_same_dropout(recipe, device):
    learner = build(recipe, dropout=0.1, device=device)
    loss, accuracy, gradients = step(learner, recipe, SIZE)
    wanted_loss, wanted_accuracy, wanted = step(GraphKept(learner), recipe)
    assert loss == pytest.approx(wanted_loss, rel=EQUAL) and accuracy == wanted_accuracy
    assert largest_difference(gradients, wanted) < EQUAL


def test_the_masks_of_our_own_attention_are_replayed():
    """It makes its random bits itself, from a seed of torch's generator, and serves float32 on a CPU."""
    model, _, _ = fresh(initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3)
    learner = Learner(model, "mean", "simcse").train()
    loss, _, gradients = step(learner, {}, SIZE)
    wanted_loss, _, wanted = step(GraphKept(learner), {})
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert largest_difference(gradients, wanted, floor=1e-3) < 1e-4
    assert largest_difference(step(learner, {}, SIZE - 1)[2], wanted, floor=1e-3) > 1e-2  # other masks


def test_every_mini_batch_goes_through_twice():
    recipe, seen = {"mlm_weight": 0.1}, []
    learner = build(recipe, dropout=0.1)
    embedding = learner.model.bert.embeddings.word_embeddings
    embedding.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    once = [6, 3, 6, 3, 4, 2]  # two views and the masked copy, of 3, 3 and 2 windows

    def backward(loss):
        assert seen == once
        loss.backward()

    step(learner, recipe, SIZE, backward)
    assert sorted(seen) == sorted(2 * once)


def test_the_generators_go_on_from_where_the_first_pass_left_them():
    """What the state of a run holds: neither the second pass nor the size of its mini-batches' graphs moves it."""
    learner, states = build({}, dropout=0.1), []

    def backward(loss):
        states.append(torch.get_rng_state())
        loss.backward()

    step(learner, {}, SIZE, backward)
    assert torch.equal(torch.get_rng_state(), states[0])
    torch.manual_seed(7)
    assert not torch.equal(torch.get_rng_state(), states[0])


@pytest.fixture
def bf16():
    """An accelerator in bf16, forgotten afterwards: a process has one state, which other tests set otherwise."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_both_passes_honour_autocast(bf16):
    accelerator, recipe = bf16, {"mlm_weight": 0.1}
    learner = accelerator.prepare(build(recipe, dropout=0.1, dtype=torch.float32))
    types = []
    dense = learner.model.bert.encoder.layer[0].output.dense
    dense.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    loss, _, gradients = step(learner, recipe, SIZE, accelerator.backward)
    assert types == [torch.bfloat16] * 12
    wanted_loss, _, wanted = step(GraphKept(learner), recipe)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert largest_difference(gradients, wanted) < 1e-2  # the same sums in another order, in bf16
    assert loss != step(build(recipe, dropout=0.1, dtype=torch.float32), recipe, SIZE)[0]

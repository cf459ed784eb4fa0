"""Cheap dropout, of hidden states and of attention: the formula under its mask, gradients, rate, who gets it."""

from types import SimpleNamespace

import pytest
import torch
from conftest import fresh
from torch import nn

from simcsp.core.config import ModelConfig
from simcsp.model.attention import ATTENTION, Dropout, attend
from simcsp.model.checkpoint import load_backbone
from simcsp.model.encoder import fresh_like, hidden_states

RATE = 0.25
SCALING = 0.3
MODULE = SimpleNamespace(is_causal=False)  # what sdpa reads of the layer that it works for


def states(length=40, size=40, heads=3, dtype=torch.float32, others=None):
    """query, key, value as a BERT has them: heads after tokens in memory."""
    torch.manual_seed(1)
    lengths = (length, others or length, others or length)
    return [torch.randn(2, n, heads, size, dtype=dtype).transpose(1, 2).requires_grad_() for n in lengths]


def blocked(query, key, value, dropout=RATE):
    torch.manual_seed(7)
    return attend(MODULE, query, key, value, None, dropout=dropout, scaling=SCALING)[0].transpose(1, 2)


def mask_of(query, key):
    """Which weights the seed of `blocked` leaves, scaled: its output for the unit vectors as values."""
    length = key.shape[-2]
    unit = torch.eye(length, dtype=query.dtype).expand(*query.shape[:2], length, length)
    weights = torch.softmax(query * SCALING @ key.transpose(-1, -2), -1)
    return (blocked(query.detach(), key.detach(), unit) / weights).detach()


@pytest.mark.parametrize("block", [1 << 18, 40 * 40 * 4, 1])
@pytest.mark.parametrize("others", [None, 56])
def test_output_and_gradients_are_those_of_the_formula_under_its_mask(monkeypatch, block, others):
    monkeypatch.setattr("simcsp.model.attention._BLOCK", block)
    ours, theirs = states(others=others), states(others=others)
    mask = mask_of(*ours[:2])
    found = blocked(*ours)
    query, key, value = theirs
    expected = torch.softmax(query * SCALING @ key.transpose(-1, -2), -1) * mask @ value
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient)
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=2e-5)


def test_the_mask_has_the_rate_and_keeps_the_mean():
    mask = mask_of(*states(length=128, heads=8)[:2])
    kept = mask > 0.5
    assert kept.double().mean() == pytest.approx(1 - RATE, abs=0.005)
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - RATE)), rtol=1e-3, atol=0)
    assert mask[~kept].abs().max() == 0
    heads = kept.flatten(0, 1).flatten(1).double()
    assert (torch.corrcoef(heads) - torch.eye(len(heads))).abs().max() < 0.05  # no head has another's mask


def test_torch_s_generator_decides_the_mask():
    query, key, value = states()

    def draw():
        return attend(MODULE, query, key, value, None, dropout=RATE, scaling=SCALING)[0]

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and torch.equal(draw(), second) and not torch.equal(first, second)
    torch.manual_seed(3)
    with torch.no_grad():
        assert torch.equal(draw(), first)  # nothing is kept for a backward pass, and nothing else changes


def test_bf16_is_near_float32():
    ours = states()
    halved = [part.detach().bfloat16().requires_grad_() for part in ours]
    found, expected = blocked(*halved), blocked(*ours)
    assert found.dtype == torch.bfloat16
    gradient = torch.randn_like(expected)
    found.backward(gradient.bfloat16())
    expected.backward(gradient)
    for mine, other in [(found, expected), *((a.grad, b.grad) for a, b in zip(halved, ours))]:
        assert (mine.float() - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize(
    "dropout, mask, dtype",
    [
        (0.0, None, torch.float32),
        (1e-7, None, torch.float32),
        (RATE, torch.ones(2, 1, 40, 40).bool(), torch.float32),
        (RATE, None, torch.float64),
    ],
)
def test_everything_else_is_sdpa(monkeypatch, dropout, mask, dtype):
    monkeypatch.setattr("simcsp.model.attention.BlockedDropout", None)
    query, key, value = states(dtype=dtype)
    found = attend(MODULE, query, key, value, mask, dropout=dropout, scaling=SCALING)[0].transpose(1, 2)
    assert found.dtype == dtype
    if not dropout:
        expected = torch.softmax(query * SCALING @ key.transpose(-1, -2), -1) @ value
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_states_scales_what_it_leaves_and_its_gradient(dtype):
    states = torch.randn(3, 501, 67, dtype=dtype, requires_grad=True)
    dropout = Dropout(RATE)
    torch.manual_seed(5)
    found = dropout(states)
    found.sum().backward()
    mask = states.grad.float()
    kept = mask > 0
    assert kept.double().mean() == pytest.approx(1 - RATE, abs=0.005)
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - RATE)), rtol=5e-3, atol=0)
    assert found.dtype == dtype and torch.equal(found != 0, kept & (states != 0))
    torch.testing.assert_close(found.float(), states.float() * mask, rtol=5e-3, atol=0)
    second = dropout(states)
    torch.manual_seed(5)
    assert torch.equal(dropout(states), found) and not torch.equal(second, found)


def test_dropout_of_states_is_torch_s_elsewhere():
    states = torch.randn(4, 30, dtype=torch.float64)
    torch.manual_seed(5)
    found = Dropout(RATE)(states)
    torch.manual_seed(5)
    assert torch.equal(found, torch.nn.functional.dropout(states, RATE))
    assert torch.equal(Dropout(RATE).eval()(states.float()), states.float())
    assert torch.equal(Dropout(0.0)(states.float()), states.float()) and not Dropout(1.0)(states.float()).any()


def test_every_dropout_of_an_encoder_is_cheap(bert, tmp_path):
    fresh_like(bert.config).save_pretrained(tmp_path)
    for model in (bert, load_backbone(ModelConfig(source=str(tmp_path)))[0]):
        found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        assert len(found) == 1 + 3 * 3 and {type(module) for module in found} == {Dropout}
        assert {module.p for module in found} == {0.1}


@pytest.fixture
def bert():
    return fresh(num_hidden_layers=3, initializer_range=0.3)[0].bert


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("places", [slice(None), slice(0, 1), slice(10, 12)])
def test_states_of_some_tokens_are_those_of_the_whole_pass_with_their_gradients(bert, layer, places):
    bert.eval()
    assert bert.config._attn_implementation == ATTENTION
    tokens = torch.randint(5, 10, (3, 24))
    expected = bert(input_ids=tokens, output_hidden_states=True).hidden_states[layer][:, places]
    found = hidden_states(bert, tokens, layer, places)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    weight = torch.randn_like(found)
    gradients = []
    for states in (found, expected):
        bert.zero_grad()
        (states * weight).sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in bert.parameters()])
    for mine, other in zip(*gradients):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_training_drops_attention_at_some_tokens_too(bert):
    """The last block at one token has a mask of its own in training, and none where the rate is 0."""
    tokens = torch.randint(5, 10, (3, 24))
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    last = bert.encoder.layer[-1].attention.self.dropout
    bert.train()
    plain = hidden_states(bert, tokens, None, slice(0, 1))
    last.p = 0.5
    assert not torch.allclose(hidden_states(bert, tokens, None, slice(0, 1)), plain, atol=1e-3)
    bert.eval()
    torch.testing.assert_close(hidden_states(bert, tokens, None, slice(0, 1)), plain, rtol=0, atol=2e-6)


@pytest.mark.parametrize("length, places", [(42, 42), (42, 2), (128, 128)])
def test_without_dropout_bf16_has_torch_s_output_and_a_gradient_nearer_to_the_formula_s(length, places):
    exact = [part.detach().bfloat16().double().requires_grad_() for part in states(places, 16, others=length)]
    ours, theirs = ([part.detach().bfloat16().requires_grad_() for part in exact] for _ in range(2))
    found = attend(MODULE, *ours, None, scaling=SCALING)[0].transpose(1, 2)
    torch_s = torch.nn.functional.scaled_dot_product_attention(*theirs, scale=SCALING)
    assert found.grad_fn is not None and torch.equal(found, torch_s)
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, scale=SCALING)
    gradient = torch.randn_like(found)
    for out in (found, torch_s, expected):
        out.backward(gradient.to(out.dtype))
    for mine, other, right in zip(ours, theirs, exact):
        errors = [float((part.grad.double() - right.grad).norm() / right.grad.norm()) for part in (mine, other)]
        assert mine.grad.dtype == torch.bfloat16 and errors[0] < 0.005 and errors[0] < errors[1]
    with torch.no_grad():
        assert torch.equal(attend(MODULE, *ours, None, scaling=SCALING)[0].transpose(1, 2), torch_s)

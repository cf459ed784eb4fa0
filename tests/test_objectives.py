"""What pre-training minimises, against plain loops and hand-written cases."""

import math

import numpy as np
import pytest
import torch
from conftest import random_bases
from hypothesis import given, settings
from hypothesis import strategies as st

import pretrain
from utils.backbone import load_backbone
from utils.config import ModelConfig, PretrainConfig
from utils.objectives import IGNORED, info_nce, mask_tokens
from utils.sequence import CLS, MASK, PAD, SEP, UNK, A, N, T, add_special_tokens, encode

# -- InfoNCE -----------------------------------------------------------------------------------------------------------


def plain_info_nce(first, second, temperature):
    """Equation 1 of SimCSE, one term at a time."""
    losses = []
    for i in range(len(first)):
        scores = []
        for j in range(len(second)):
            dot = sum(x * y for x, y in zip(first[i], second[j]))
            lengths = math.sqrt(sum(x * x for x in first[i])) * math.sqrt(sum(y * y for y in second[j]))
            scores.append(math.exp(dot / lengths / temperature))
        losses.append(-math.log(scores[i] / sum(scores)))
    return sum(losses) / len(losses)


@given(st.integers(2, 9), st.integers(1, 6), st.floats(0.05, 2.0), st.integers(0, 1000))
@settings(max_examples=50)
def test_info_nce_equals_a_plain_loop(batch, hidden, temperature, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, batch, hidden))
    found = info_nce(torch.tensor(first), torch.tensor(second), temperature)
    assert float(found) == pytest.approx(
        plain_info_nce(first.tolist(), second.tolist(), temperature), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("batch", [2, 8, 512])
def test_a_model_that_cannot_tell_windows_apart_has_the_logarithm_of_the_batch(batch):
    same = torch.ones(batch, 16)
    assert float(info_nce(same, same, 0.05)) == pytest.approx(math.log(batch), rel=1e-6)


def test_perfect_views_cost_nothing_and_swapped_ones_all():
    one_hot = torch.eye(4)
    assert float(info_nce(one_hot, one_hot, 0.05)) == pytest.approx(0, abs=1e-6)
    assert float(info_nce(one_hot, one_hot.roll(1, 0), 0.05)) == pytest.approx(20, rel=1e-6)  # 1 / temperature


def test_info_nce_does_not_see_the_length_of_vectors():
    first, second = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(info_nce(first, second, 0.1), info_nce(7 * first, second / 3, 0.1), atol=1e-6)


# -- masked bases ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked():
    """A million tokens, [CLS], [SEP] and 10 % N among them: (ids, input, targets)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(A, T + 1, size=(1000, 1000), dtype=np.uint8)
    ids[rng.random(ids.shape) < 0.1] = N
    ids = add_special_tokens(ids)
    return ids, *mask_tokens(ids, 0.15, np.random.default_rng(1))


def test_15_percent_of_the_bases_are_asked_and_nothing_else(masked):
    ids, _, targets = masked
    asked = targets != IGNORED
    assert asked[ids >= A].mean() == pytest.approx(0.15, abs=0.002)  # five standard errors
    assert not asked[ids < A].any()


def test_targets_are_the_bases_before_masking(masked):
    ids, _, targets = masked
    asked = targets != IGNORED
    assert np.array_equal(targets[asked], ids[asked])
    assert targets.dtype == np.int64


def test_80_percent_become_mask_10_another_draw_10_stay(masked):
    ids, tokens, targets = masked
    asked = targets != IGNORED
    assert (tokens[asked] == MASK).mean() == pytest.approx(0.8, abs=0.006)
    # a random base is the right one in a quarter of the cases
    changed = asked & (tokens != MASK) & (tokens != ids)
    assert changed.sum() / asked.sum() == pytest.approx(0.1 * 3 / 4, abs=0.004)
    shares = np.bincount(tokens[changed], minlength=10)[A:] / changed.sum()
    assert shares == pytest.approx([0.25] * 4, abs=0.02)
    assert set(np.unique(tokens[asked])) == {MASK, A, A + 1, A + 2, T}


def test_what_is_not_asked_stays_as_it_was(masked):
    ids, tokens, targets = masked
    kept = targets == IGNORED
    assert np.array_equal(tokens[kept], ids[kept])
    assert tokens.dtype == np.uint8


def test_special_tokens_are_never_asked_even_at_full_share():
    ids = np.array([[CLS, PAD, UNK, MASK, N, SEP, A, T]], dtype=np.uint8)
    for seed in range(50):
        tokens, targets = mask_tokens(ids, 0.999999, np.random.default_rng(seed))
        assert tokens[0, :6].tolist() == ids[0, :6].tolist()
        assert targets[0].tolist() == [IGNORED] * 6 + [A, T]


def test_masks_follow_the_generator():
    ids = np.full((4, 50), A, dtype=np.uint8)
    first, again, other = (mask_tokens(ids, 0.15, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# -- a step of training ------------------------------------------------------------------------------------------------


def learner(objective, dropout=0.1):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model, _, _ = load_backbone(ModelConfig(max_position_embeddings=64, **sizes, **rates))
    return pretrain.Learner(model, "mean", objective).train()


def batch(n=8):
    rng = np.random.default_rng(0)
    return np.stack([encode(random_bases(rng, 40)) for _ in range(n)])


def step(model, objective, ids, seed=0):
    torch.manual_seed(7)
    stage = PretrainConfig(objective=objective, temperature=0.1)
    return pretrain.step_loss(model, stage, ids, np.random.default_rng(seed), torch.device("cpu"))


def test_simcse_compares_two_dropout_passes_of_the_same_windows():
    model = learner("simcse")
    loss, _ = step(model, "simcse", batch())
    torch.manual_seed(7)
    tokens = torch.from_numpy(add_special_tokens(batch())).int()
    vectors = model(torch.cat([tokens, tokens]))
    assert not torch.allclose(vectors[:8], vectors[8:])
    assert float(loss.detach()) == pytest.approx(
        plain_info_nce(vectors[:8].tolist(), vectors[8:].tolist(), 0.1), rel=1e-5
    )


def test_without_dropout_every_view_finds_its_partner():
    _, accuracy = step(learner("simcse", dropout=0.0), "simcse", batch())
    assert float(accuracy) == 1.0


def test_simcse_learns_from_real_bases_and_not_from_rows_that_are_all_alike():
    model = learner("simcse", dropout=0.0)
    loss, _ = step(model, "simcse", np.repeat(batch(1), 8, axis=0))
    assert float(loss.detach()) == pytest.approx(math.log(8), rel=1e-5)
    assert float(step(model, "simcse", batch())[0].detach()) < 0.999 * math.log(8)


def test_mlm_is_the_cross_entropy_of_the_asked_bases_alone():
    model = learner("mlm", dropout=0.0)
    loss, accuracy = step(model, "mlm", batch(), seed=5)
    tokens, targets = mask_tokens(add_special_tokens(batch()), 0.15, np.random.default_rng(5))
    logits = model(torch.from_numpy(tokens).int()).log_softmax(-1)
    rows, columns = np.nonzero(targets != IGNORED)
    wanted = targets[rows, columns]
    assert float(loss.detach()) == pytest.approx(-float(logits[rows, columns, wanted].detach().mean()), rel=1e-5)
    assert float(accuracy) == pytest.approx((logits.argmax(-1).numpy()[rows, columns] == wanted).mean())


def test_weight_decay_spares_biases_and_layer_norms():
    model = learner("mlm")
    optimizer, _ = pretrain.build_optimizer(model, PretrainConfig(weight_decay=0.5))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    spared = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed | spared == set(names) and not decayed & spared
    assert all(names[i].endswith("bias") or "LayerNorm" in names[i] for i in spared)
    assert all(names[i].endswith("weight") and "LayerNorm" not in names[i] for i in decayed)


@pytest.mark.parametrize("kind, last", [("linear", 0.0), ("cosine", 0.0), ("constant_with_warmup", 1e-3)])
def test_learning_rate_warms_up_then_decays(kind, last):
    stage = PretrainConfig(steps=10, warmup_steps=4, lr=1e-3, lr_scheduler_type=kind)
    optimizer, scheduler = pretrain.build_optimizer(learner("mlm"), stage)
    rates = []
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[-1] == pytest.approx(last, abs=1e-12)

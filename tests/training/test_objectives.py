"""What pre-training minimises, against plain loops and hand-written cases."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import other_strand, random_bases
from hypothesis import given, settings
from hypothesis import strategies as st

from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import CLS, MASK, PAD, SEP, UNK, A, N, T, add_special_tokens, encode
from simcsp.text.kmers import near_duplicates
from simcsp.training.masking import IGNORED, choose_random, choose_weighted, corrupt
from simcsp.training.objectives import ProjectionHead, dcl, info_nce, sup_con
from simcsp.training.optimizer import build_optimizer, decay_groups
from simcsp.training.step import Learner, step_loss
from utils.config import ModelConfig, PretrainConfig
from utils.errors import InputError

# -- contrast ----------------------------------------------------------------------------------------------------------


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))


def denominators(first, second, temperature, negatives, hard, with_positive):
    """For each row the terms of SimCSE's denominators (equations 1 and 5), one at a time."""
    for i in range(len(first)):
        terms = [math.exp(cosine(first[i], second[i]) / temperature)] if with_positive else []
        for j in range(len(first)):
            if j != i and (negatives is None or negatives[i][j]):
                terms.append(math.exp(cosine(first[i], second[j]) / temperature))
            if hard is not None and (j == i or negatives is None or negatives[i][j]):
                terms.append(math.exp(cosine(first[i], hard[j]) / temperature))
        yield cosine(first[i], second[i]) / temperature, terms


def plain_info_nce(first, second, temperature, negatives=None, hard=None):
    rows = denominators(first, second, temperature, negatives, hard, with_positive=True)
    losses = [math.log(sum(terms)) - positive for positive, terms in rows]
    return sum(losses) / len(losses)


def plain_dcl(first, second, temperature, negatives=None, hard=None):
    rows = denominators(first, second, temperature, negatives, hard, with_positive=False)
    losses = [math.log(sum(terms)) - positive for positive, terms in rows if terms]
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


@pytest.mark.parametrize("loss, plain", [(info_nce, plain_info_nce), (dcl, plain_dcl)])
@pytest.mark.parametrize("with_hard", [False, True])
@pytest.mark.parametrize("left_out", [None, 0.0, 0.5])
@pytest.mark.parametrize("batch", [2, 7])
def test_contrasts_equal_a_plain_loop(loss, plain, with_hard, left_out, batch):
    rng = np.random.default_rng(batch)
    first, second, hard = rng.normal(size=(3, batch, 5))
    hard = hard if with_hard else None
    negatives = None if left_out is None else rng.random((batch, batch)) >= left_out
    found = loss(
        *map(torch.tensor, (first, second)), 0.3, *(None if x is None else torch.tensor(x) for x in (negatives, hard))
    )
    assert float(found) == pytest.approx(plain(first, second, 0.3, negatives, hard), rel=1e-9)


def test_info_nce_without_options_is_to_the_bit_what_it_was():
    for seed in range(10):
        first, second = torch.randn(2, 33, 17, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / 0.05
        before = F.cross_entropy(similarity, torch.arange(33))
        now = info_nce(first, second, 0.05)
        assert torch.equal(before, now)
        pairs = zip(*(torch.autograd.grad(loss, [first, second]) for loss in (before, now)))
        assert all(torch.equal(*pair) for pair in pairs)


def test_all_pairs_as_negatives_are_what_info_nce_has_without_a_mask():
    first, second = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert torch.equal(info_nce(first, second, 0.1, everything), info_nce(first, second, 0.1))
    assert torch.equal(
        info_nce(first, second, 0.1, everything ^ torch.eye(6, dtype=torch.bool)), info_nce(first, second, 0.1)
    )


@pytest.mark.parametrize("loss", [info_nce, dcl])
def test_what_is_left_out_touches_neither_loss_nor_gradient(loss):
    generator = torch.Generator().manual_seed(0)
    first, second, hard = torch.randn(3, 4, 3, dtype=torch.double, generator=generator).requires_grad_()
    negatives = torch.ones(4, 4, dtype=torch.bool)
    negatives[2] = negatives[:, 2] = False  # window 2 has none but its own hard negative, and is one of none
    inputs = (first, second, hard)
    assert torch.autograd.gradcheck(lambda *x: loss(x[0], x[1], 0.5, negatives, x[2]), inputs)
    found = loss(first, second, 0.5, negatives, hard)
    rest = [0, 1, 3]
    apart = 3 * loss(first[rest], second[rest], 0.5, hard=hard[rest]) + loss(
        first[[2]], second[[2]], 0.5, hard=hard[[2]]
    )
    assert torch.allclose(found, apart / 4)
    pairs = zip(*(torch.autograd.grad(value, inputs) for value in (found, apart / 4)))
    assert all(torch.allclose(*pair) for pair in pairs)


def test_dcl_of_a_model_that_cannot_tell_windows_apart_is_the_logarithm_of_the_negatives():
    same = torch.ones(8, 16)
    assert float(dcl(same, same, 0.05)) == pytest.approx(math.log(7), rel=1e-6)
    assert float(dcl(same, same, 0.05, hard=same)) == pytest.approx(math.log(15), rel=1e-6)


def test_dcl_pulls_a_pair_together_however_well_it_stands_out():
    """What it is for: InfoNCE's gradient vanishes with the loss, the decoupled one's does not."""
    first = torch.eye(4, dtype=torch.double)
    second = (torch.eye(4) + 0.1 * torch.eye(4).roll(1, 0)).double().requires_grad_()
    sizes = [torch.autograd.grad(loss(first, second, 0.05), second)[0].norm() for loss in (info_nce, dcl)]
    assert sizes[0] < 1e-5 < 0.1 < sizes[1]


def test_dcl_leaves_out_rows_without_negatives_and_needs_one_that_has_some():
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    negatives = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    loss = dcl(first, second, 0.1, negatives)
    assert float(loss.detach()) == pytest.approx(
        plain_dcl(first.tolist(), second.tolist(), 0.1, negatives.tolist()), rel=1e-5
    )
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


def test_sup_con_of_pairs_is_info_nce_among_all_other_vectors():
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    similarity = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T / 0.1
    similarity.fill_diagonal_(-torch.inf)
    pairs = F.cross_entropy(similarity, torch.tensor([1, 0, 3, 2, 5, 4]))
    assert torch.allclose(sup_con(vectors, torch.tensor([0, 0, 1, 1, 2, 2]), 0.1), pairs)


def test_sup_con_has_the_right_gradient_beside_a_row_alone_in_its_class():
    vectors = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    classes = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: sup_con(x, classes, 0.5), vectors)
    gradient = torch.autograd.grad(sup_con(vectors, classes, 0.5), vectors)[0]
    assert gradient[4].norm() > 0  # no anchor, yet a negative of all


# -- projection head ---------------------------------------------------------------------------------------------------


def test_projection_head_is_an_mlp_of_two_layers():
    torch.manual_seed(0)
    head, vectors = ProjectionHead(6), torch.randn(5, 6)
    (first, second) = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert first.weight.shape == second.weight.shape == (6, 6)
    hidden = (vectors @ first.weight.T + first.bias).clamp(min=0)
    assert torch.allclose(head(vectors), hidden @ second.weight.T + second.bias, atol=1e-6)


# -- near-duplicates ---------------------------------------------------------------------------------------------------


def kmers(bases, k):
    """Of both strands, without N."""
    return {
        s[i : i + k] for s in (bases, other_strand(bases)) for i in range(len(s) - k + 1) if "N" not in s[i : i + k]
    }


@given(st.lists(st.text("AACGTN", min_size=12, max_size=12), min_size=1, max_size=7), st.integers(1, 13))
def test_near_duplicates_equal_a_plain_loop(windows, k):
    found = near_duplicates(np.stack([encode(window) for window in windows]), k)
    for i, one in enumerate(windows):
        for j, other in enumerate(windows):
            assert found[i, j] == (i == j or bool(kmers(one, k) & kmers(other, k)))


def test_near_duplicates_are_moved_windows_and_those_of_the_other_strand():
    rng = np.random.default_rng(0)
    text = random_bases(rng, 1000)
    windows = [text[:510], text[430:940], text[431:941], other_strand(text[400:910]), random_bases(rng, 510), "N" * 510]
    found = near_duplicates(np.stack([encode(window) for window in windows]))
    expected = np.eye(6, dtype=bool)
    for i, j in [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]:  # 0 and 2 share 79
        expected[i, j] = expected[j, i] = True
    assert np.array_equal(found, expected) and found.dtype == bool


def test_short_windows_are_near_duplicates_when_they_overlap_by_half():
    text = random_bases(np.random.default_rng(0), 60)
    found = near_duplicates(np.stack([encode(text[i : i + 40]) for i in (0, 19, 20)]))
    assert found.tolist() == [[True, True, True]] * 3
    found = near_duplicates(np.stack([encode(text[i : i + 39]) for i in (0, 21)]))
    assert found.tolist() == [[True, False], [False, True]]


def test_random_windows_are_no_near_duplicates_by_accident():
    ids = np.random.default_rng(0).integers(A, T + 1, size=(512, 510), dtype=np.uint8)
    assert np.array_equal(near_duplicates(ids), np.eye(512, dtype=bool))


# -- masked bases ------------------------------------------------------------------------------------------------------


def masked_at_random(ids, probability, rng):
    return corrupt(ids, choose_random(ids, probability, rng), rng)


@pytest.fixture(scope="module")
def masked():
    """A million tokens, [CLS], [SEP] and 10 % N among them: (ids, input, targets)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(A, T + 1, size=(1000, 1000), dtype=np.uint8)
    ids[rng.random(ids.shape) < 0.1] = N
    ids = add_special_tokens(ids)
    return ids, *masked_at_random(ids, 0.15, np.random.default_rng(1))


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
        tokens, targets = masked_at_random(ids, 0.999999, np.random.default_rng(seed))
        assert tokens[0, :6].tolist() == ids[0, :6].tolist()
        assert targets[0].tolist() == [IGNORED] * 6 + [A, T]


def test_masks_follow_the_generator():
    ids = np.full((4, 50), A, dtype=np.uint8)
    first, again, other = (masked_at_random(ids, 0.15, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_random_masks_are_to_the_bit_what_they_were(masked):
    ids, tokens, targets = masked
    rng = np.random.default_rng(1)  # the seed of the fixture; the order of the draws is what runs rely on
    chosen = (rng.random(ids.shape) < 0.15) & (ids >= A)
    action, bases = rng.random(ids.shape), rng.integers(A, T + 1, size=ids.shape, dtype=np.uint8)
    expected = np.where(action < 0.8, MASK, np.where(action < 0.9, bases, ids))
    assert np.array_equal(tokens, np.where(chosen, expected, ids))
    assert np.array_equal(targets, np.where(chosen, ids.astype(int), IGNORED))


# -- which bases are asked ---------------------------------------------------------------------------------------------


def weights_of(ids):
    """Ten times as likely in the middle tenth of each window."""
    middle = abs(np.arange(ids.shape[1]) - ids.shape[1] / 2) < ids.shape[1] / 20
    return np.broadcast_to(np.where(middle, 10, 1), ids.shape)


CHOOSERS = {
    "random": choose_random,
    "weighted": lambda ids, probability, rng: choose_weighted(ids, weights_of(ids), probability, rng),
}
each_chooser = pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)


@each_chooser
@pytest.mark.parametrize("probability", [0.02, 0.15, 0.6])
def test_every_way_of_masking_asks_the_share_it_was_told(choose, masked, probability):
    ids = masked[0]
    chosen = choose(ids, probability, np.random.default_rng(2))
    assert chosen.dtype == bool and chosen.shape == ids.shape
    assert not chosen[ids < A].any()
    assert chosen[ids >= A].mean() == pytest.approx(probability, abs=0.003)  # six standard errors


@each_chooser
def test_short_windows_full_of_n_are_asked_their_share_too(choose):
    ids = np.random.default_rng(0).choice(np.array([CLS, SEP, N, A, T], dtype=np.uint8), size=(50_000, 7))
    chosen = choose(ids, 0.15, np.random.default_rng(1))
    assert not chosen[ids < A].any()
    assert chosen[ids >= A].mean() == pytest.approx(0.15, abs=0.006)


@each_chooser
def test_masks_follow_the_generator_and_leave_the_ids_alone(choose):
    ids = np.random.default_rng(0).integers(N, T + 1, size=(4, 60), dtype=np.uint8)
    before = ids.copy()
    first, again, other = (choose(ids, 0.3, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(ids, before)
    tokens, targets = corrupt(ids, first, np.random.default_rng(0))
    assert np.array_equal(targets != IGNORED, first)
    assert np.array_equal(tokens[~first], ids[~first])


@each_chooser
def test_windows_without_bases_are_asked_nothing(choose):
    for shape in [(3, 20), (0, 20), (3, 2)]:
        ids = np.full(shape, N, dtype=np.uint8)
        chosen = choose(ids, 0.15, np.random.default_rng(0))
        assert chosen.shape == shape and not chosen.any()


def test_weights_say_where_bases_are_asked_within_a_window():
    ids = np.full((2000, 500), A, dtype=np.uint8)
    weights = weights_of(ids).copy()
    weights[1000:] = 1  # windows without a site: the same share in all
    chosen = choose_weighted(ids, weights, 0.15, np.random.default_rng(0))
    near = weights[0] == 10
    there, elsewhere = chosen[:1000, near].mean(), chosen[:1000, ~near].mean()
    assert there / elsewhere == pytest.approx(10, rel=0.05)
    assert chosen[:1000].mean() == pytest.approx(0.15, abs=0.002)
    assert chosen[1000:].mean() == pytest.approx(0.15, abs=0.002)


def test_a_base_that_would_be_asked_more_than_always_leaves_the_rest_to_others():
    ids = np.full((1000, 100), A, dtype=np.uint8)
    weights = np.ones(ids.shape)
    weights[:, :4], weights[:, 4:10] = 1e6, 20
    chosen = choose_weighted(ids, weights, 0.15, np.random.default_rng(0))
    assert chosen[:, :4].all()
    # 15 in all: 4 for sure, 11 by weights 20 x 6 + 90, so that a weight of 20 would have 20 x 11 / 210 > 1 as well
    assert chosen[:, 4:10].all()
    assert chosen[:, 10:].mean() == pytest.approx(5 / 90, abs=0.005)


def test_weights_must_be_above_zero_on_bases_alone():
    ids = np.array([[CLS, A, N, T, SEP]], dtype=np.uint8)
    choose_weighted(ids, np.array([[0, 1, 0, 1, np.nan]]), 0.15, np.random.default_rng(0))
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="weights of masking must be finite and above 0"):
            choose_weighted(ids, np.array([[1, 1, 1, wrong, 1]]), 0.15, np.random.default_rng(0))


# -- a step of training ------------------------------------------------------------------------------------------------


def learner(objective, dropout=0.1):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model, _, _ = load_backbone(ModelConfig(max_position_embeddings=64, **sizes, **rates))
    return Learner(model, "mean", objective).train()


def batch(n=8):
    rng = np.random.default_rng(0)
    return np.stack([encode(random_bases(rng, 40)) for _ in range(n)])


def step(model, objective, ids, seed=0):
    torch.manual_seed(7)
    stage = PretrainConfig(objective=objective, temperature=0.1)
    return step_loss(model, stage, ids, np.random.default_rng(seed), torch.device("cpu"))


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
    tokens, targets = masked_at_random(add_special_tokens(batch()), 0.15, np.random.default_rng(5))
    logits = model(torch.from_numpy(tokens).int()).log_softmax(-1)
    rows, columns = np.nonzero(targets != IGNORED)
    wanted = targets[rows, columns]
    assert float(loss.detach()) == pytest.approx(-float(logits[rows, columns, wanted].detach().mean()), rel=1e-5)
    assert float(accuracy) == pytest.approx((logits.argmax(-1).numpy()[rows, columns] == wanted).mean())


def test_weight_decay_spares_biases_and_layer_norms():
    model = learner("mlm")
    optimizer, _ = build_optimizer(decay_groups(model, 0.5), 1e-3, 0.5, "linear", 0, 10)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    spared = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed | spared == set(names) and not decayed & spared
    assert all(names[i].endswith("bias") or "LayerNorm" in names[i] for i in spared)
    assert all(names[i].endswith("weight") and "LayerNorm" not in names[i] for i in decayed)


@pytest.mark.parametrize("kind, last", [("linear", 0.0), ("cosine", 0.0), ("constant_with_warmup", 1e-3)])
def test_learning_rate_warms_up_then_decays(kind, last):
    optimizer, scheduler = build_optimizer(decay_groups(learner("mlm"), 0.0), 1e-3, 0.0, kind, 4, 10)
    rates = []
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[-1] == pytest.approx(last, abs=1e-12)

"""Half precision on a GPU, tried on a CPU: copies of weights change no number by themselves, few operations cast, and a
training in bf16 stays near one in float32."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_gradcache import ROWS, SIZE, bf16, build, every_recipe, windows  # noqa: F401 (bf16 is a fixture)
from torch.utils._python_dispatch import TorchDispatchMode

from simcsp.core.config import ModelConfig, PretrainConfig
from simcsp.metrics.sccs import sccs
from simcsp.model.checkpoint import load_backbone
from simcsp.model.classifier import Classifier
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import A, T, encode
from simcsp.training import half, pretraining
from simcsp.training.half import OnHalfCopies
from simcsp.training.pretraining import Training, freeze_unused
from simcsp.training.step import MiniBatches, draw_batch, step_loss

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
SMALL = ModelConfig(**SIZES, max_position_embeddings=128, attention_probs_dropout_prob=0.0)


def gradients_of(learner, recipe, size, seen):
    """Loss of a batch and every gradient of the module `seen`."""
    stage = PretrainConfig(temperature=0.2, **recipe)
    freeze_unused(seen, stage)
    batch = draw_batch(stage, windows(ROWS, 40), np.random.default_rng(1))
    torch.manual_seed(5)
    loss, _ = step_loss(MiniBatches(learner, size), stage, batch)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in seen.named_parameters()}


@pytest.mark.parametrize("many", [1, half.MANY])
@pytest.mark.parametrize("size", [None, SIZE])
@every_recipe
def test_copies_in_the_format_of_the_weights_change_no_digit(recipe, size, many, monkeypatch):
    monkeypatch.setattr(half, "MANY", many)
    plain = build(recipe, dropout=0.1)
    copied = copy.deepcopy(plain)
    wanted_loss, wanted = gradients_of(plain, recipe, size, plain)
    loss, found = gradients_of(OnHalfCopies(copied, torch.float64), recipe, size, copied)
    assert loss == pytest.approx(wanted_loss, rel=1e-13)
    for name, gradient in wanted.items():
        assert (gradient is None) == (found[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15, msg=name)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_of_fine_tuning_casts_all_weights_at_once_and_no_state(bf16):  # noqa: F811
    counts = {}
    for name in ("autocast", "copies"):
        model = Classifier(load_backbone(SMALL)[0].bert, "cls", 0.1)
        learner = bf16.prepare_model(model) if name == "autocast" else OnHalfCopies(model, torch.bfloat16)
        with Operations() as watch:
            logits = learner(torch.full((4, 42), 6))
            casts = watch.counts["_to_copy"]  # of the forward pass: attention on a CPU has its own in the other
            logits.sum().backward()
        assert logits.dtype == torch.float32
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
        counts[name] = casts, watch.counts["_foreach_copy_"]
    assert counts["copies"] == (2, 2)  # of the embeddings and of the logits; of all weights, and of their gradients
    assert counts["autocast"][0] > 40


def labelled(count, rng):
    """Windows with one of two motifs about their middle, and which of the two."""
    ids = rng.integers(A, T + 1, (count, 24), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    for window, label in zip(ids, labels):
        window[8:16] = encode(("GTAAGTAT", "TTTTGCAG")[label])
    return ids, labels


def train(number_format, monkeypatch):
    """Mean loss of the last steps of supervised contrast, and SCCS of other windows."""
    accelerator = Accelerator(mixed_precision="no" if number_format == "fp32" else "bf16", cpu=True)
    if number_format == "copies":
        monkeypatch.setattr(pretraining, "in_number_format", lambda module, _: OnHalfCopies(module, torch.bfloat16))
    torch.manual_seed(3)
    model, rng = load_backbone(SMALL)[0], np.random.default_rng(4)
    stage = PretrainConfig(objective="supcon", batch_size=32, steps=30, lr=1e-3)
    training = Training(model, "centre", stage, accelerator)
    losses = []
    for step in range(stage.steps):
        ids, labels = labelled(32, rng)
        training.advance(training.draw(ids, np.random.default_rng(step), labels))
        losses.append(training.means()["train/loss"])
    ids, labels = labelled(400, np.random.default_rng(9))
    return np.mean(losses[-10:]), sccs(Encoder(model.bert, "centre", 64).embed(ids), labels)["sccs"], losses


def test_training_on_bf16_copies_stays_near_float32(bf16, monkeypatch):  # noqa: F811
    from accelerate.state import AcceleratorState

    copies_loss, copies_sccs, steps = train("copies", monkeypatch)
    monkeypatch.undo()
    autocast_loss, autocast_sccs, _ = train("autocast", monkeypatch)
    AcceleratorState._reset_state(reset_partial_state=True)
    loss, score, wanted = train("fp32", monkeypatch)
    print("loss and SCCS, fp32, autocast, copies:", loss, score, autocast_loss, autocast_sccs, copies_loss, copies_sccs)
    assert steps[0] == pytest.approx(wanted[0], rel=0.01)
    chance = np.log(31)
    assert loss < chance - 0.4 and score > 0.5  # it is learned
    assert copies_loss == pytest.approx(loss, abs=0.02)
    assert copies_sccs == pytest.approx(score, abs=0.02)

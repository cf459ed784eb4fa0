"""AdamW without decay of biases and layer norms, and its warm-up."""

import pytest
from conftest import fresh

from simcsp.core.config import FinetuneConfig
from simcsp.training.optimizer import build_optimizer, decay_groups
from simcsp.training.step import Learner


def learner():
    return Learner(fresh(num_hidden_layers=1)[0], "mean", "mlm")


def test_weight_decay_spares_biases_and_layer_norms():
    model = learner()
    optimizer, _ = build_optimizer(decay_groups(model), FinetuneConfig(weight_decay=0.5), 0, 10)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    spared = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed | spared == set(names) and not decayed & spared
    assert all(names[i].endswith("bias") or "LayerNorm" in names[i] for i in spared)
    assert all(names[i].endswith("weight") and "LayerNorm" not in names[i] for i in decayed)


@pytest.mark.parametrize("kind, last", [("linear", 0.0), ("cosine", 0.0), ("constant_with_warmup", 1e-3)])
def test_learning_rate_warms_up_then_decays(kind, last):
    settings = FinetuneConfig(lr=1e-3, lr_scheduler_type=kind)
    optimizer, scheduler = build_optimizer(decay_groups(learner()), settings, 4, 10)
    rates = []
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[-1] == pytest.approx(last, abs=1e-12)

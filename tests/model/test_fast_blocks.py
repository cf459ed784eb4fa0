"""The fast form of a model of bases: the numbers of the plain one, within what rounding does to either."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

from simcsp.model import fast_blocks
from simcsp.model.bases import BaseClassifier, Labeller, Shape, load_bases
from simcsp.model.fast_blocks import for_prediction, with_fast_blocks
from simcsp.text.alphabet import A, N, T

CPU = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no")


def trained_like(shape: Shape, seed: int = 0) -> BaseClassifier:
    """A model whose batch norms have statistics and scales of all signs, as after training."""
    torch.manual_seed(seed)
    model = BaseClassifier(None, shape).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(values)
            torch.nn.init.uniform_(module.running_var, 0.1, 3)
    return model


def random_ids(count: int, length: int) -> torch.Tensor:
    return torch.randint(N, T + 1, (count, length), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    return float((logits.double() - exact).abs().max() / exact.abs().max())


def exact_logits(model: BaseClassifier, ids: torch.Tensor) -> torch.Tensor:
    """In double precision."""
    double = copy.deepcopy(model).double()
    double.stem.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return double(ids)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 11, 13])
@pytest.mark.parametrize("length", [4, 60, 1500])
def test_every_width_and_length_gives_the_plain_numbers(kernel, length):
    shape = Shape(20, 8, kernel, [1, 3, 7], stride=4, coarse_channels=12, coarse_kernel=7, coarse_dilations=[1, 32])
    model, ids = trained_like(shape), random_ids(2, length)
    with torch.no_grad():
        exact, plain, fast = exact_logits(model, ids), model(ids), with_fast_blocks(model)(ids)
    assert error(plain, exact) < 2e-6 and error(fast, exact) < 4e-6


def test_more_tiles_than_a_pass_and_any_number_of_threads_give_the_same_bits(monkeypatch):
    blocks = with_fast_blocks(trained_like(Shape(20, 8, 5, [1, 2, 40]))).blocks
    states = torch.randn(2, 8, 1, 3000).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    with torch.no_grad():
        once = blocks(states.clone())
        monkeypatch.setattr(fast_blocks, "_ROWS", 64)
        assert torch.equal(blocks(states.clone()), once)
        try:
            torch.set_num_threads(3)
            assert torch.equal(blocks(states.clone()), once) and torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(threads)


def test_the_plain_model_and_its_weights_stay_as_they_were():
    model, ids = trained_like(Shape(20, 8, 5, [1, 2])), random_ids(2, 100)
    state = {name: values.clone() for name, values in model.state_dict().items()}
    with torch.no_grad():
        plain = model(ids)
        with_fast_blocks(model)(ids)
        assert torch.equal(model(ids), plain)
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())


def test_no_number_stays_none():
    model = trained_like(Shape(20, 8, 5, [1, 2]))
    model.blocks[0].convolutions[0].weight.data[0, 0, 0, 0] = np.nan
    with torch.no_grad():
        assert with_fast_blocks(model)(random_ids(1, 100)).isnan().all()


@pytest.mark.parametrize("name", ["simcsp-small-bases", "simcsp-small-bases-fast"])
def test_the_models_that_ship_have_the_same_chances_in_either_form(name):
    model, calibration = load_bases(ROOT / "models" / name)
    rng = np.random.default_rng(0)
    ids = rng.integers(A, T + 1, 20_000).astype(np.uint8)
    ids[5000:5400] = N
    plain, fast = (Labeller(form, calibration, CPU.device) for form in (model, for_prediction(model, CPU)))
    assert fast.model is not model
    chances = [labeller.probabilities(labeller.both_strands(ids)) for labeller in (plain, fast)]
    assert np.abs(chances[0] - chances[1]).max() < 1e-5


def test_other_number_formats_keep_the_plain_form():
    model = BaseClassifier(None, Shape()).eval()
    half = SimpleNamespace(device=torch.device("cpu"), mixed_precision="bf16")
    assert for_prediction(model, half) is model


def test_without_a_folder_to_keep_them_in_the_loops_are_compiled_anew(monkeypatch):
    asked = []

    def njit(types, cache, **_):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda loop: loop

    monkeypatch.setattr("numba.njit", njit)
    assert len(fast_blocks._compiled.__wrapped__()) == 3
    assert asked == [True, False, False, False]

"""Vectors of windows: which layer, which pooling, and what they do not depend on."""

import numpy as np
import pytest
import torch
from conftest import fresh
from standins import windows

from simcsp.core.errors import InputError
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import check_length, hidden_states
from simcsp.text.alphabet import add_special_tokens


def test_windows_longer_than_the_positions_are_refused_with_the_field():
    model = fresh()[0]
    check_length(model, 62, "data.context")
    with pytest.raises(InputError, match=r"data.context \(63 nt\) is longer than the checkpoint takes \(62 nt"):
        check_length(model, 63, "data.context")


def test_vectors_do_not_depend_on_the_batch_nor_change_the_model():
    bert = fresh()[0].bert.train()
    ids = windows(7)
    together = Encoder(bert, "mean", 7).embed(ids)
    assert bert.training
    one_by_one = np.concatenate([Encoder(bert, "mean", 3).embed(ids[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    assert together.shape == (7, 16) and together.dtype == np.float32


def test_two_views_differ_by_dropout_alone_and_leave_the_generators_as_they_were():
    bert = fresh()[0].bert
    before = torch.get_rng_state()
    first, second = Encoder(bert, "mean", 6).embed_twice(windows(), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.allclose(first, second)
    again = Encoder(bert, "mean", 6).embed_twice(windows(), seed=4)
    assert np.array_equal(first, again[0]) and np.array_equal(second, again[1])
    bert = fresh(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)[0].bert
    without, dropout = Encoder(bert, "mean", 6).embed_twice(windows(), 4)
    assert np.array_equal(without, dropout)


@pytest.mark.parametrize("layer", [0, 1, None])
def test_the_centre_is_the_two_bases_about_the_middle(layer):
    bert = fresh()[0].bert.eval()
    ids = windows(3, 40)
    found = Encoder(bert, "mean", 2).embed_centre(ids, layer)
    with torch.no_grad():
        states = hidden_states(bert, torch.from_numpy(add_special_tokens(ids)).int(), layer).numpy()
    # bases 19 and 20, counted from 0, are tokens 20 and 21 after [CLS]
    np.testing.assert_allclose(found, np.concatenate([states[:, 20], states[:, 21]], axis=1), atol=1e-6)

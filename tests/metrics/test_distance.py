"""How far two encoders are apart: weights, cosine, CKA."""

import numpy as np
import pytest
import torch

from simcsp.metrics.distance import linear_cka, mean_cosine_to, relative_change

VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


def test_the_change_of_weights_is_that_of_one_long_vector():
    start = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    now = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[4.0]])}
    assert relative_change(start, now) == pytest.approx(1 / 5) and relative_change(start, start) == 0


def test_cosine_is_that_of_each_window_with_itself():
    assert mean_cosine_to(VECTORS, 3 * VECTORS) == pytest.approx(1)
    assert mean_cosine_to(VECTORS, -VECTORS) == pytest.approx(-1)
    turned = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert mean_cosine_to(np.array([[1.0, 0.0], [1.0, 1.0]]), turned) == pytest.approx(0.5)


def test_cka_knows_no_rotation_scale_or_shift_and_is_low_for_the_unrelated():
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert linear_cka(VECTORS, 5 * VECTORS @ rotation + 2) == pytest.approx(1)
    assert linear_cka(VECTORS, np.random.default_rng(2).normal(size=(60, 8))) < 0.3
    assert linear_cka(VECTORS, np.ones((60, 3))) == 0


def test_cka_is_the_centred_alignment_of_the_two_kernels():
    other = VECTORS @ np.random.default_rng(3).normal(size=(8, 5)) + np.random.default_rng(4).normal(size=(60, 5))
    centre = np.eye(60) - 1 / 60
    one, two = (centre @ (v.astype(float) @ v.astype(float).T) @ centre for v in (VECTORS, other))
    expected = (one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum())
    assert linear_cka(VECTORS, other) == pytest.approx(expected)

"""One-hot bases and the position weight matrix."""

import numpy as np
import pytest
from conftest import stack
from sklearn.metrics import roc_auc_score

from simcsp.text.alphabet import encode
from simcsp.text.weight_matrix import WeightMatrix, one_hot


def test_one_hot_of_a_case_done_by_hand():
    found = one_hot(stack(["TTACNT"]), 2)  # the two nt on either side of the centre: T A | C N
    assert found.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert one_hot(stack(["ACGT"]), 50).shape == (1, 16)  # a flank beyond the window is the window


def test_weight_matrix_of_a_case_done_by_hand():
    ids = stack(["AGTA", "CGTA", "AGTC", "ACCA", "GTTA", "CAGT"])
    labels, sites = np.array([1, 1, 1, 0, 0, 0]), np.array(["donor"] * 6)
    matrix = WeightMatrix(flank=1).fit(ids, labels, sites)
    # the base before the centre is G in 3 of 3 sites, and C, T, A once each elsewhere; pseudocount 1
    expected = np.log(np.array([1, 1, 4, 1]) / 7) - np.log(np.array([2, 2, 1, 2]) / 7)
    assert matrix.log_odds[0][:4] == pytest.approx(expected)
    assert matrix.predict(ids)[:3].min() > matrix.predict(ids)[3:].max()


def test_weight_matrix_of_both_types_is_as_sharp_as_those_of_each():
    rng = np.random.default_rng(1)
    ids = rng.integers(6, 10, size=(4000, 20), dtype=np.uint8)
    labels, sites = np.arange(4000) % 2, np.array(["donor", "acceptor"])[np.arange(4000) // 2 % 2]
    ids[sites == "donor", 10:12], ids[sites == "acceptor", 8:10] = encode("GT"), encode("AG")  # decoys have them too
    for places in ((12, 13, 14), (4, 5, 6)):
        mine = (labels == 1) & (sites == ("donor" if places[0] > 10 else "acceptor"))
        for place in places:
            ids[mine & (rng.random(4000) < 0.5), place] = encode("A")[0]
    half = np.arange(4000) < 2000
    together = WeightMatrix(10).fit(ids[half], labels[half], sites[half]).predict(ids)
    apart = np.zeros(4000)
    for site in ("donor", "acceptor"):
        mine = sites == site
        apart[mine] = WeightMatrix(10).fit(ids[half & mine], labels[half & mine], sites[half & mine]).predict(ids[mine])
    assert roc_auc_score(labels[~half], together[~half]) > roc_auc_score(labels[~half], apart[~half]) - 0.005

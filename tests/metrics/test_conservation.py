"""Conservation from hidden states, and the floor beside it."""

import numpy as np
import torch
from transformers import AutoTokenizer, BertModel

from simcsp.core.config import ModelConfig
from simcsp.metrics.conservation import base_states, conservation_rows, one_hot_bases
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import decode, encode


def test_one_hot_of_five_bases_by_hand():
    found = one_hot_bases(encode("ACNTG")[None], reach=1)[0].reshape(5, 3, 4)
    letters = [["", "A", "C"], ["A", "C", ""], ["C", "", "T"], ["", "T", "G"], ["T", "G", ""]]
    for place, near in zip(found, letters):
        assert ["".join(np.array(list("ACGT"))[one]) for one in place] == near


def test_states_are_those_of_transformers_own_model_and_tokenizer(start):
    windows = np.random.default_rng(0).integers(6, 10, (5, 20)).astype(np.uint8)
    tokenizer, model = AutoTokenizer.from_pretrained(start), BertModel.from_pretrained(start, add_pooling_layer=False)
    found = base_states(load_backbone(ModelConfig(source=str(start)))[0].bert, windows, 2)
    texts = [" ".join(decode(row)) for row in windows]
    with torch.no_grad():
        expected = model.eval()(**tokenizer(texts, return_tensors="pt")).last_hidden_state[:, 1:-1].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_by_base_a_window_that_is_known_tells_its_bases_and_by_window_it_does_not():
    rng = np.random.default_rng(1)
    conserved = np.repeat(rng.random((60, 1)) < 0.5, 20, axis=1)
    of_window = np.repeat(rng.normal(size=(60, 1, 50)), 20, axis=1)  # tells which window, and nothing of another
    floor = rng.normal(size=(60, 20, 3))
    rows = {row["metric"]: row for row in conservation_rows({"ours": of_window, "floor": floor}, conserved, 0)}
    assert rows["AUC, split by base"]["value"] > 0.95 and abs(rows["AUC, split by base"]["floor"] - 0.5) < 0.15
    assert rows["AUC, split by window"]["value"] < 0.8
    assert rows["AP, split by base"]["low"] <= rows["AP, split by base"]["value"] <= rows["AP, split by base"]["high"]

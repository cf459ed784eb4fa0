"""Attention between pairs of sites."""

import gzip

import numpy as np
import pytest
import torch
from splicebert_data import EXONS, pair_lines, write_splicebert_data
from transformers import AutoTokenizer, BertModel

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.labels.placed import open_places
from simcsp.metrics.attention_pairs import Pairs, attention_rows, pair_attention, read_pairs
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import decode

FILE = "attention/hg19.intronic_pair.1000_per_group.bedpe.gz"
LENGTH = 62


@pytest.fixture
def data(tmp_path):
    genes, _ = write_splicebert_data(tmp_path / "data")
    return tmp_path / "data", genes, open_places(tmp_path / "data", "hg19", tmp_path / "cache")


def test_attention_is_what_the_eager_kernel_gives_by_the_published_formula(start):
    rng = np.random.default_rng(0)
    windows = rng.integers(6, 10, (7, 30)).astype(np.uint8)
    places = np.stack([rng.permutation(np.arange(1, 29))[:4].reshape(2, 2) for _ in range(7)])
    found = pair_attention(load_backbone(ModelConfig(source=str(start)))[0].bert, windows, places, 3)
    assert found.shape == (7, 2, 2, 2)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = BertModel.from_pretrained(start, add_pooling_layer=False, attn_implementation="eager").eval()
    for row, pairs, own in zip(windows, places, found):
        with torch.no_grad():
            layers = model(**tokenizer(" ".join(decode(row)), return_tensors="pt"), output_attentions=True).attentions
        for layer, weights in enumerate(layers):
            most = weights[0].max(dim=0)[0][1:-1, 1:-1].numpy()
            for (p, q), values in zip(pairs, own):
                for direction, (a, b) in enumerate(((p, q), (q, p))):
                    expected = np.mean([most[query, b - 1 : b + 2].max() for query in (a - 1, a, a + 1)])
                    assert values[layer, direction] == pytest.approx(expected, abs=1e-6)


def test_pairs_are_introns_on_either_strand_with_controls_as_far_apart(data):
    folder, genes, places = data
    pairs = read_pairs(folder / FILE, places, LENGTH, 0, 1000)
    assert set(pairs.gene) == {"A", "B"} and len(pairs.ids) > len(EXONS)
    for ids, (p, q), (d, a), gene, control in zip(pairs.ids, pairs.places, pairs.kinds, pairs.gene, pairs.controls):
        text = decode(ids)
        assert text in genes[gene][0] and (d, a) == ("D", "A")
        assert text[p : p + 2] == "GT" and text[q - 1 : q + 1] == "AG"
        assert control[1] - control[0] == q - p and np.abs(control[:, None] - [p, q]).min() >= 10
        assert 1 <= control.min() and control.max() <= LENGTH - 2
    assert len(read_pairs(folder / FILE, places, LENGTH, 0, 5).ids) <= 5


def test_a_file_of_another_build_is_refused(data):
    folder, _, places = data
    with gzip.open(folder / FILE, "rt") as handle:
        lines = [line.split("\t") for line in handle]
    for fields in lines:
        for column in (1, 2, 4, 5):
            fields[column] = str(int(fields[column]) + 3)
    with gzip.open(folder / FILE, "wt") as handle:
        handle.writelines("\t".join(fields) for fields in lines)
    with pytest.raises(InputError, match="another build"):
        read_pairs(folder / FILE, places, LENGTH, 0, 1000)


def test_a_line_that_is_no_pair_is_refused_by_number(data):
    folder, genes, places = data
    with gzip.open(folder / FILE, "wt") as handle:
        handle.writelines([next(pair_lines(genes)), "chr1\t5\t6\tchr1\n"])
    with pytest.raises(InputError, match="line 2"):
        read_pairs(folder / FILE, places, LENGTH, 0, 1000)


def test_rows_of_a_group_by_hand():
    kinds = np.array([["D", "A"], ["A", "D"], ["D", "A"]])
    pairs = Pairs(np.zeros((3, 9)), np.zeros((3, 2)), kinds, np.array(["x", "y", "z"]), np.zeros((3, 2)))
    values = np.zeros((3, 2, 1, 2))
    values[:, 0, 0] = [[0.1, 0.3], [0.5, 0.7], [0.2, 0.2]]
    values[:, 1, 0] = [[0.3, 0.3], [0.1, 0.1], [0.1, 0.1]]
    rows = {row["metric"]: row for row in attention_rows("introns", pairs, values, 50, 0)}
    assert rows["introns"]["value"] == pytest.approx(0.2) and rows["introns"]["floor"] == pytest.approx(0.1)
    assert rows["introns, share of pairs above their control"]["value"] == pytest.approx(2 / 3)
    assert rows["introns, layer 1, donor to acceptor"]["value"] == pytest.approx(0.2)  # .1, .7, .2
    assert rows["introns, layer 1, acceptor to donor"]["value"] == pytest.approx(0.3)  # .3, .5, .2

"""How much of the evaluation lies in the pre-training text, by coordinates and by shared k-mers."""

import json

import numpy as np
import pytest
from conftest import other_strand, random_bases, stack
from hypothesis import given, settings
from hypothesis import strategies as st

import simcsp.labels.overlap
import simcsp.text.kmers
from simcsp.labels.overlap import _joined, overlap_report, sites_in_text
from simcsp.text.alphabet import decode, encode


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(simcsp.text.kmers, "_PIECE", 7)
    monkeypatch.setattr(simcsp.text.kmers, "_BLOCK", 2)


# -- coordinates -------------------------------------------------------------------------------------------------------

interval = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(interval, max_size=5)),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 80)), min_size=1, max_size=20),
    st.integers(2, 11),
)
@settings(max_examples=200)
def test_sites_by_coordinates_agree_with_brute_force(intervals, sites, window):
    text = {(name, base) for name, pairs in intervals.items() for start, end in pairs for base in range(start, end)}
    expected = []
    for name, start in sites:
        left = (start + start + 2) // 2 - window // 2
        expected.append(any((name, base) in text for base in range(left, left + window)))
    records, starts = map(np.array, zip(*sites))
    arrays = {name: np.array(pairs, dtype=np.int64).reshape(-1, 2) for name, pairs in intervals.items()}
    assert sites_in_text(records, starts, starts + 2, window, arrays).tolist() == expected


# -- report ------------------------------------------------------------------------------------------------------------


def test_stretches_are_joined_with_an_n_between_and_long_ones_are_not_copied(monkeypatch):
    monkeypatch.setattr(simcsp.labels.overlap, "_PIECE", 10)
    text = random_bases(np.random.default_rng(0), 60)
    ids = encode(text)
    ends = [(0, 4), (4, 8), (10, 30), (30, 36), (36, 40), (40, 44)]
    pieces = list(_joined(ids[start:end] for start, end in ends))
    assert [decode(piece) for piece in pieces] == [
        text[10:30], f"{text[0:4]}N{text[4:8]}N{text[30:36]}N", f"{text[36:40]}N{text[40:44]}N"
    ]  # fmt: skip
    assert np.shares_memory(pieces[0], ids)


def test_the_report_says_each_part_in_a_sentence_and_reads_the_text_once(small_pieces):
    rng = np.random.default_rng(4)
    text = random_bases(rng, 1000)
    inside = [text[i : i + 100] for i in (0, 300)] + [other_strand(text[600:700])]
    outside = [random_bases(rng, 100) for _ in range(5)]
    report = overlap_report(
        iter([encode(text)]),
        {"Human donor positive": stack(inside + outside[:1]), "Fly": stack(outside), "short": encode(text[:60])[None]},
        {"sites of the BED": np.array([True, False, False])},
    )
    parts = [(part.name, part.count, part.shared) for part in report]
    assert parts == [("sites of the BED", 3, 1), ("Human donor positive", 4, 3), ("Fly", 5, 0), ("short", 1, None)]
    assert [str(part) for part in report] == [
        "sites of the BED: 1 of 3 (33.3%) lie in the pre-training text by their coordinates.",
        "Human donor positive: 3 of 4 (75.0%) share 80 bases in a row with the pre-training text.",
        "Fly: 0 of 5 (0.0%) share 80 bases in a row with the pre-training text.",
        "short: windows of 60 nt cannot share 80 bases, so their overlap with the text is not known.",
    ]
    assert [part.share for part in report[:3]] == [1 / 3, 0.75, 0] and np.isnan(report[3].share)


def test_a_run_says_what_its_text_is_and_how_much_of_the_evaluation_it_holds(finished):
    corpus = json.loads((finished.run / "corpus.json").read_text())
    assert corpus["corpus"] == "fasta" and corpus["sources"] == ["genome.fa"] and len(corpus["sha256"]) == 64
    assert {"name", "length", "n_share", "repeat_share"} <= set(corpus["records"][0])
    overlap = json.loads((finished.run / "overlap.json").read_text())
    parts = {part["part"]: part for part in overlap["parts"]}
    assert parts["training donor positive"]["count"] == 100
    assert "## Overlap of the evaluation with the pre-training text" in (finished.run / "report/report.md").read_text()

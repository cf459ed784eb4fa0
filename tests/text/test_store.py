"""The store: records end to end, made once, and what is hidden of them."""

import gzip
import os
from unittest import mock

import numpy as np
import pytest
from conftest import write_fasta
from hypothesis import given
from hypothesis import strategies as st

from simcsp.core.errors import InputError
from simcsp.text.alphabet import decode, encode
from simcsp.text.store import open_masked_store, open_sequence_store, open_store


def test_store_holds_every_record_of_every_file_end_to_end(tmp_path):
    one = write_fasta(tmp_path / "one.fa", {"a": "ACGT" * 30, "b": "GGN"})
    two = write_fasta(tmp_path / "two.fa", {"c": "TTTTA"})
    store = open_store([one, two], tmp_path / "cache")
    assert [(record.name, record.length) for record in store.records] == [("a", 120), ("b", 3), ("c", 5)]
    assert decode(store.ids) == "ACGT" * 30 + "GGN" + "TTTTA"
    assert decode(store.fetch("b", 1, 3)) == "GN"
    assert decode(store.fetch("c", 1, 5, "-")) == "TAAA"


def test_store_does_not_depend_on_chunks_or_compression(tmp_path):
    plain = write_fasta(tmp_path / "plain.fa", {"a": "ACGTN" * 50, "b": "GATtAca" * 9})
    zipped = tmp_path / "zipped.fa.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    whole = open_store([plain], tmp_path / "cache")
    with mock.patch("simcsp.text.fasta.READ_SIZE", 7):
        pieces = open_store([zipped], tmp_path / "cache")
    assert whole.sha256 == pieces.sha256
    assert np.array_equal(whole.ids, pieces.ids)
    assert np.array_equal(whole.lower(0, 313), pieces.lower(0, 313)) and whole.lower(0, 313).sum() == 27


def test_store_is_made_once_and_again_when_the_file_changes(tmp_path):
    path = write_fasta(tmp_path / "a.fa", {"a": "ACGT"})
    first = open_store([path], tmp_path / "cache")
    with mock.patch("simcsp.text.store._write_store", side_effect=AssertionError("built again")):
        assert open_store([path], tmp_path / "cache").sha256 == first.sha256
    stamp = path.stat().st_mtime_ns
    os.utime(path, ns=(stamp, stamp + 1_000_000))
    assert open_store([path], tmp_path / "cache").path == first.path
    path.unlink()
    write_fasta(path, {"a": "ACGA"})  # of the same size
    os.utime(path, ns=(stamp, stamp))
    second = open_store([path], tmp_path / "cache")
    assert decode(second.ids) == "ACGA"
    assert second.sha256 != first.sha256


@pytest.mark.parametrize("suffix", [".ids", ".lower", ".json"])
def test_store_of_which_a_part_is_lost_is_made_again(tmp_path, suffix):
    path = write_fasta(tmp_path / "a.fa", {"a": "ACgt"})
    open_store([path], tmp_path / "cache").path.with_suffix(suffix).unlink()
    store = open_store([path], tmp_path / "cache")
    assert decode(store.ids) == "ACGT"
    assert store.lower(0, 4).tolist() == [0, 0, 1, 1]
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".ids", ".json", ".lower"]


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    path = tmp_path / "bad.fa"
    path.write_text(">a\nACGT\n>b\nAC!T\n")
    with mock.patch("simcsp.text.fasta.READ_SIZE", 8), pytest.raises(InputError, match="line 4"):
        open_store([path], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_same_record_name_in_two_files_is_refused(tmp_path):
    one, two = (write_fasta(tmp_path / name, {"chr1": "ACGT"}) for name in ("one.fa", "two.fa"))
    with pytest.raises(InputError, match="two.fa: record name 'chr1' is also in another FASTA"):
        open_store([one, two], tmp_path / "cache")


def test_records_of_different_genomes_are_called_by_their_file_as_well(tmp_path):
    one, two = (write_fasta(tmp_path / name, {"chr1": bases}) for name, bases in (("hg.v1.fa", "AAC"), ("mm.fa", "GG")))
    store = open_store([one, two], tmp_path / "cache", qualify=True)
    records = [(r.name, r.source, r.source_name) for r in store.records]
    assert records == [("hg:chr1", 0, "chr1"), ("mm:chr1", 1, "chr1")]
    assert decode(store.fetch("mm:chr1", 0, 2)) == "GG"
    plain = open_store([one], tmp_path / "cache")  # the same file, otherwise named
    assert [(r.name, r.source_name) for r in plain.records] == [("chr1", "chr1")]


@pytest.mark.parametrize(
    "files, names, sources",
    [
        (("hs/a.fa", "mm/a.fa"), ("hs/a.fa:1", "mm/a.fa:1"), ["hs/a.fa", "mm/a.fa"]),
        (("hs/a.v1.fa", "mm/a.v2.fa"), ("hs/a.v1.fa:1", "mm/a.v2.fa:1"), ["a.v1.fa", "a.v2.fa"]),
    ],
)
def test_files_of_one_name_are_told_by_their_folders(tmp_path, files, names, sources):
    paths = [write_fasta(tmp_path / file, {"1": "ACGT"}) for file in files]
    store = open_store(paths, tmp_path / "cache", qualify=True)
    assert tuple(store.by_name) == names
    assert store.manifest["sources"] == sources


def test_files_whose_folders_have_one_name_are_told_by_their_whole_path_and_one_file_is_not_listed_twice(tmp_path):
    paths = [write_fasta(tmp_path / file, {"1": "ACGT"}) for file in ("hs/fa/a.fa", "mm/fa/a.fa")]
    assert list(open_store(paths, tmp_path, qualify=True).by_name) == [f"{path.resolve()}:1" for path in paths]
    with pytest.raises(InputError, match="FASTA .*hs/fa/a.fa is listed twice"):
        open_store([paths[0], paths[0]], tmp_path / "cache", qualify=True)


# Text of 41 + 300 bases, so that the second record begins within a byte of the packed case.
CASED = {
    "a": "acgtnACGTN" * 4 + "g",
    "b": "".join("acgtACGT"[i] for i in np.random.default_rng(2).integers(8, size=300)),
}


@pytest.fixture(scope="module")
def cased(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cased")
    return open_store([write_fasta(folder / "text.fa", CASED)], folder / "cache")


def test_manifest_says_how_much_is_n_and_how_much_soft_masked(cased):
    letters = "".join(CASED.values())
    manifest = cased.manifest
    assert manifest["bases"] == 341
    assert manifest["n_share"] == round(8 / 341, 6)
    assert manifest["repeat_share"] == round(sum(map(str.islower, letters)) / 341, 6)
    assert [record["n_share"] for record in manifest["records"]] == [round(8 / 41, 6), 0]
    assert [record["repeat_share"] for record in manifest["records"]] == [
        round(sum(map(str.islower, bases)) / len(bases), 6) for bases in CASED.values()
    ]


@given(st.integers(0, 340), st.data())
def test_case_and_windows_are_those_of_the_letters(cased, start, data):
    length = data.draw(st.integers(1, 341 - start))
    letters = "".join(CASED.values())[start : start + length]
    case = [int(letter.islower()) for letter in letters]
    assert cased.lower(start, length).tolist() == case
    starts = np.array([start, 0])
    rows = cased.windows(starts, length)
    assert decode(rows[0]) == letters.upper()
    rows[:] = 0  # a copy: the store is not written to
    assert decode(cased.windows(starts, length)[0]) == letters.upper()


def test_rows_become_a_store_that_is_made_again_when_the_stamp_changes(tmp_path):
    asked = []

    def rows():
        asked.append(1)
        return [("row0", encode("ACGTN")), ("row1", encode("")), ("row2", encode("GG"))]

    store = open_sequence_store("set.csv", ["set", 1], rows, tmp_path / "cache")
    assert [(r.name, r.source_name, r.length) for r in store.records] == [("row0", "row0", 5), ("row2", "row2", 2)]
    assert store.manifest["sources"] == ["set.csv"] and store.manifest["repeat_share"] == 0
    open_sequence_store("set.csv", ["set", 1], rows, tmp_path / "cache")
    assert len(asked) == 1
    open_sequence_store("set.csv", ["set", 2], rows, tmp_path / "cache")
    assert len(asked) == 2
    with pytest.raises(InputError, match="empty.csv holds no sequence"):
        open_sequence_store("empty.csv", [], lambda: [("row0", encode(""))], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*empty*"))


def test_a_masked_store_is_the_same_but_for_what_is_hidden(cased):
    calls = []

    def hide(ids):
        calls.append(len(ids))
        return np.arange(len(ids)) < 7

    with mock.patch("simcsp.text.store.READ_SIZE", 100):
        masked = open_masked_store(cased, hide, "first seven")
    assert calls == [41, 300]
    assert [decode(masked.fetch(name, 0, len(bases))) for name, bases in CASED.items()] == [
        "N" * 7 + bases[7:].upper() for bases in CASED.values()
    ]
    assert np.array_equal(masked.lower(0, 341), cased.lower(0, 341))
    assert masked.manifest["n_share"] == round((7 + 7 + 7) / 341, 6)  # one of the first seven was N before
    assert masked.manifest["repeat_share"] == cased.manifest["repeat_share"]
    assert masked.sha256 != cased.sha256
    assert open_masked_store(cased, hide, "first seven").path == masked.path and len(calls) == 2
    assert open_masked_store(cased, hide, "another").path != masked.path and len(calls) == 4


def test_a_masked_store_keeps_the_case_of_its_own_text(tmp_path):
    for case in (str.upper, str.lower):
        path = write_fasta(tmp_path / case("folder") / "a.fa", {"a": case("acgt" * 5)})
        store = open_store([path], tmp_path / "cache")
        masked = open_masked_store(store, lambda ids: np.zeros(len(ids), dtype=bool), "nothing")
        assert masked.lower(0, 20).all() == (case is str.lower)

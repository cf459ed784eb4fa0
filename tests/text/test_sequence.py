"""Bases and ids, FASTA files, the store, and the windows that a training step reads."""

import gzip
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import other_strand, random_bases, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from data import demo
from simcsp.text.alphabet import (
    COMPLEMENT,
    ENCODE,
    UNK,
    VOCAB,
    N,
    add_special_tokens,
    decode,
    encode,
    reverse_complement,
)
from simcsp.text.fasta import fasta_pieces
from simcsp.text.sampler import Intervals, WindowSampler, whole_records
from simcsp.text.store import open_masked_store, open_sequence_store, open_store
from utils import sequence
from utils.errors import InputError

IUPAC = "RYSWKMBDHVN"
DNA = st.text("ACGTN", max_size=60)

# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_splicebert():
    assert VOCAB == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "N", "A", "C", "G", "T")
    assert encode("NACGT").tolist() == [5, 6, 7, 8, 9]
    assert encode("GATTACA").dtype == np.uint8


def test_model_input_is_cls_bases_sep():
    rows = add_special_tokens(np.stack([encode("GATTACA"), encode("NNNNACG")]))
    assert rows.tolist() == [[2, 8, 6, 9, 9, 6, 7, 6, 3], [2, 5, 5, 5, 5, 6, 7, 8, 3]]
    assert rows.dtype == np.uint8


def test_lower_case_and_u_are_accepted():
    assert encode("acgtuU").tolist() == [6, 7, 8, 9, 9, 9]


@pytest.mark.parametrize("letter", IUPAC + IUPAC.lower())
def test_ambiguity_letters_become_n(letter):
    assert encode(letter).tolist() == [5]


def test_every_other_character_is_an_error():
    good = set("ACGTU" + IUPAC) | set(("ACGTU" + IUPAC).lower())
    for character in map(chr, range(256)):
        if character not in good:
            with pytest.raises(InputError, match="line 7: .* at base 4 is no nucleotide code"):
                encode(f"ACG{character}A", "windows.csv, line 7")
    assert sum(ENCODE != UNK) == len(good)


@given(DNA)
def test_ids_are_those_of_the_tokenizer_on_spaced_bases(tokenizer, bases):
    assert add_special_tokens(encode(bases)[None])[0].tolist() == tokenizer(" ".join(bases))["input_ids"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    return BertTokenizer.from_pretrained(folder)


@given(DNA)
def test_decode_undoes_encode(bases):
    assert decode(encode(bases)) == bases


def test_complement_table_keeps_special_tokens_and_n():
    assert COMPLEMENT.tolist() == [0, 1, 2, 3, 4, 5, 9, 8, 7, 6]


@given(DNA)
def test_reverse_complement_is_that_of_the_letters_and_its_own_inverse(bases):
    ids = encode(bases)
    assert decode(reverse_complement(ids)) == other_strand(bases)
    assert np.array_equal(reverse_complement(reverse_complement(ids)), ids)


def test_reverse_complement_of_a_batch_turns_each_row():
    rows = reverse_complement(np.stack([encode("AACN"), encode("GTTT")]))
    assert [decode(row) for row in rows] == ["NGTT", "AAAC"]


# -- FASTA -------------------------------------------------------------------------------------------------------------


def read(path, chunk=sequence._CHUNK):
    """{record: bases} of a FASTA, read in chunks of so many bytes."""
    records = {}
    with mock.patch.object(sequence, "_CHUNK", chunk):
        for name, ids, _ in fasta_pieces(path):
            records[name] = records.get(name, "") + decode(ids)
    return records


def naive_parse(text):
    records, name = {}, None
    for line in text.splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            records[name] = ""
        elif line:
            records[name] += "".join("T" if c == "U" else c if c in "ACGT" else "N" for c in line.upper())
    return records


@st.composite
def fasta_texts(draw):
    """FASTA text with descriptions, blank lines, mixed case, LF or CRLF, with or without a last newline."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = []
    for i in range(draw(st.integers(1, 4))):
        lines.append(f">r{i}" + draw(st.sampled_from(["", " a description", "\tlength=12 >x"])))
        body = draw(st.lists(st.text("ACGTUNacgturyk", max_size=12), min_size=1, max_size=5))
        lines += body if any(body) else [*body, "A"]
    return newline.join(lines) + draw(st.sampled_from(["", newline, newline * 2]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fasta")


@given(fasta_texts(), st.integers(1, 30), st.booleans())
def test_fasta_reader_agrees_with_a_naive_parser_wherever_chunks_are_cut(scratch, text, chunk, zipped):
    path = scratch / "any.fa"
    raw = text.encode()
    path.write_bytes(gzip.compress(raw, 1) if zipped else raw)
    assert read(path, chunk) == naive_parse(text)


BAD_FASTA = [
    ("", "no FASTA record"),
    ("\n\n", "no FASTA record"),
    ("ACGT\n>a\nACGT\n", "line 1: sequence before the first"),
    ("\n\nACGT\n>a\nACGT\n", "line 3: sequence before the first"),
    (">a\nACGT\n>\nACGT\n", "line 3: header without a name"),
    (">a\nACGT\n>b\nAC\n>a x\nGG\n", "line 5: record name 'a' occurs twice"),
    (">a\nACGT\n>b\n>c\nACGT\n", "record 'b' .before line 4. has no sequence"),
    (">a\nACGT\n>b\n", "record 'b' .* has no sequence: the file is cut short"),
    (">a\nACGT\n>b", "record 'b' .* has no sequence: the file is cut short"),
    (">a\nACGT\nAC-T\n", "line 3: '-' is no nucleotide code"),
    (">a\nACGT\nAC GT\n", "line 3: ' ' is no nucleotide code"),
    (">a\nACGT\nAC>b\nGG\n", "line 3: '>' is no nucleotide code"),
    (">a\nACGT\n>b\nAC\n\nGG\nEQ\n", "line 7: 'E' is no nucleotide code"),
]


@pytest.mark.parametrize("chunk", [3, sequence._CHUNK])
@pytest.mark.parametrize("text, message", BAD_FASTA)
def test_bad_fasta_is_refused_with_file_and_line(tmp_path, text, message, chunk):
    path = tmp_path / "bad.fa"
    path.write_text(text)
    with pytest.raises(InputError, match=f"bad.fa.*{message}"):
        read(path, chunk)


@given(fasta_texts(), st.data(), st.integers(1, 40))
def test_the_line_of_a_bad_letter_does_not_depend_on_the_chunks(scratch, text, data, chunk):
    places = [
        (number, at)
        for number, line in enumerate(text.split("\n"))
        if not line.startswith(">")
        for at in range(len(line.rstrip("\r")))
    ]
    number, at = data.draw(st.sampled_from(places))
    lines = text.split("\n")
    lines[number] = lines[number][:at] + "!" + lines[number][at + 1 :]
    path = scratch / "letter.fa"
    path.write_bytes("\n".join(lines).encode())
    with pytest.raises(InputError, match=f"line {number + 1}: '!'"):
        read(path, chunk)


@given(st.integers(3, 200))
@settings(max_examples=20)
def test_truncated_gzip_is_refused(scratch, cut):
    whole = gzip.compress(f">a\n{random_bases(np.random.default_rng(0), 2000)}\n".encode())
    path = scratch / "cut.fa.gz"
    path.write_bytes(whole[:-cut])
    with pytest.raises(InputError, match="cut.fa.gz: the gzip stream is damaged or cut short"):
        read(path)


def test_damaged_gzip_is_refused(tmp_path):
    whole = bytearray(gzip.compress(f">a\n{random_bases(np.random.default_rng(0), 2000)}\n".encode()))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "damaged.fa.gz").write_bytes(whole)
    with pytest.raises(InputError, match="damaged.fa.gz"):
        read(tmp_path / "damaged.fa.gz")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="none.fa does not exist"):
        read(tmp_path / "none.fa")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


# -- store -------------------------------------------------------------------------------------------------------------


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
    with mock.patch.object(sequence, "_CHUNK", 7):
        pieces = open_store([zipped], tmp_path / "cache")
    assert whole.sha256 == pieces.sha256
    assert np.array_equal(whole.ids, pieces.ids)
    assert np.array_equal(whole.lower(0, 313), pieces.lower(0, 313)) and whole.lower(0, 313).sum() == 27


def test_store_is_made_once_and_again_when_the_file_changes(tmp_path):
    path = write_fasta(tmp_path / "a.fa", {"a": "ACGT"})
    first = open_store([path], tmp_path / "cache")
    with mock.patch.object(sequence, "_write_store", side_effect=AssertionError("built again")):
        assert open_store([path], tmp_path / "cache").sha256 == first.sha256
    stamp = path.stat().st_mtime_ns
    path.write_text(">a\nACGA\n")  # the same size
    os.utime(path, ns=(stamp, stamp + 1_000_000))
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
    with mock.patch.object(sequence, "_CHUNK", 8), pytest.raises(InputError, match="line 4"):
        open_store([path], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_same_record_name_in_two_files_is_refused(tmp_path):
    one, two = (write_fasta(tmp_path / name, {"chr1": "ACGT"}) for name in ("one.fa", "two.fa"))
    with pytest.raises(InputError, match="two.fa: record name 'chr1' is also in another FASTA"):
        open_store([one, two], tmp_path / "cache")


def test_a_missing_fasta_of_the_list_is_named(tmp_path):
    one = write_fasta(tmp_path / "one.fa", {"a": "ACGT"})
    with pytest.raises(InputError, match="none.fa does not exist"):
        open_store([one, tmp_path / "none.fa"], tmp_path / "cache")


def test_records_of_different_genomes_are_called_by_their_file_as_well(tmp_path):
    one, two = (write_fasta(tmp_path / name, {"chr1": bases}) for name, bases in (("hg.v1.fa", "AAC"), ("mm.fa", "GG")))
    store = open_store([one, two], tmp_path / "cache", qualify=True)
    assert [(r.name, r.source, r.source_name) for r in store.records] == [
        ("hg:chr1", 0, "chr1"),
        ("mm:chr1", 1, "chr1"),
    ]
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
    return make_store(tmp_path_factory.mktemp("cased"), CASED)


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
    assert np.allclose(cased.repeats(starts, length)[0], np.mean(case))
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

    with mock.patch.object(sequence, "_CHUNK", 100):
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


# -- windows -----------------------------------------------------------------------------------------------------------


def make_store(folder, records):
    return open_store([write_fasta(folder / "text.fa", records)], folder / "cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A store of three records of different lengths, the second with a gap of N."""
    rng = np.random.default_rng(5)
    records = {"a": random_bases(rng, 900), "b": random_bases(rng, 300), "short": random_bases(rng, 19)}
    records["b"] = records["b"][:100] + "N" * 80 + records["b"][180:]
    return make_store(tmp_path_factory.mktemp("text"), records)


def bases_of(store):
    return {record.name: decode(store.fetch(record.name, 0, record.length)) for record in store.records}


def assert_real_bases(rows, store, length):
    """No [UNK] or other special token, and every row is a stretch of one record, read on one of its strands."""
    assert rows.min() >= N
    records = bases_of(store).values()
    for row in map(decode, rows):
        assert len(row) == length
        assert any(row in record or other_strand(row) in record for record in records)


def assert_all_different(rows):
    assert len(np.unique(rows, axis=0)) == len(rows)


@given(
    st.lists(st.text("ACGTNacgtuRY", min_size=30, max_size=120), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(0, 50),
    st.sampled_from(["random", "strided"]),
)
@settings(max_examples=60)
def test_a_batch_of_any_fasta_holds_real_bases(texts, length, step, sampling):
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), {f"r{i}": bases for i, bases in enumerate(texts)})
        sampler = WindowSampler(store, length, sampling, max_n_share=1.0)
        windows = [bases[i : i + length] for bases in bases_of(store).values() for i in range(len(bases) - length + 1)]
        different = len({*windows, *map(other_strand, windows)})
        rows = sampler.batch(step, min(1 + different // 8, len(sampler)))
    assert_real_bases(rows, store, length)
    if sampling == "random":
        assert_all_different(rows)


def test_a_text_with_too_few_different_windows_for_a_batch_is_refused(tmp_path):
    store = make_store(tmp_path, {"repeat": "ACG" * 100})
    sampler = WindowSampler(store, 12)
    assert_all_different(sampler.batch(0, 6))  # three phases on two strands
    with pytest.raises(InputError, match=r"batch_size \(7\).*different windows of 12 nt"):
        sampler.batch(0, 7)


@given(st.lists(st.text("ACGT", min_size=4, max_size=80), min_size=2, max_size=12, unique=True))
def test_different_windows_never_give_the_same_row(texts):
    length = min(map(len, texts))
    windows = sorted({text[:length] for text in texts})
    assert_all_different(add_special_tokens(np.stack([encode(window) for window in windows])))


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.sampled_from(["random", "strided"]), st.booleans())
@settings(max_examples=60)
def test_all_rows_of_a_batch_are_different(text, seed, step, sampling, both_strands):
    # Windows of 20 random bases hardly repeat: two equal rows are one window drawn twice, a false negative of SimCSE.
    stride = 2 if sampling == "strided" else None
    rows = WindowSampler(text, 20, sampling, stride, both_strands, seed=seed).batch(step, 64)
    assert_all_different(rows)


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert demo.main(["--out", str(folder / "demo")]) == 0
    return open_store([folder / "demo/genome.fa"], folder / "cache")


def test_a_batch_of_the_demo_genome_holds_real_bases_and_all_rows_are_different(demo_store):
    sampler = WindowSampler(demo_store, 80)
    for step in range(60):
        rows = sampler.batch(step, 512)
        assert_all_different(rows)
    assert_real_bases(rows[:32], demo_store, 80)


def test_batches_are_a_pure_function_of_seed_and_step(text):
    for sampling in ("random", "strided"):
        sampler = WindowSampler(text, 20, sampling, seed=3)
        later = sampler.batch(7, 16)
        for step in range(7):
            sampler.batch(step, 16)
        assert np.array_equal(sampler.batch(7, 16), later)
        assert np.array_equal(WindowSampler(text, 20, sampling, seed=3).batch(7, 16), later)
        assert not np.array_equal(sampler.batch(8, 16), later)
        assert not np.array_equal(WindowSampler(text, 20, sampling, seed=4).batch(7, 16), later)


def test_random_windows_come_from_everywhere_and_from_no_record_that_is_too_short(text):
    sampler = WindowSampler(text, 20, both_strands=False, max_n_share=1.0)
    assert len(sampler) == (900 - 19) + (300 - 19)
    seen = {decode(row) for step in range(200) for row in sampler.batch(step, 64)}
    records = bases_of(text)
    windows = {records[name][i : i + 20] for name in "ab" for i in range(len(records[name]) - 19)}
    assert seen <= windows
    assert len(seen) > 0.99 * len(windows)


def test_strided_epoch_reads_every_window_once_and_the_next_in_another_order(text):
    sampler = WindowSampler(text, 20, "strided", 10, both_strands=False, max_n_share=1.0)
    records = bases_of(text)
    windows = [records[name][i : i + 20] for name in "ab" for i in range(0, len(records[name]) - 19, 10)]
    assert len(sampler) == len(windows) == 118
    epochs = [[decode(row) for step in range(59 * e, 59 * (e + 1)) for row in sampler.batch(step, 2)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(windows)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_windows_with_too_much_n_are_left_out(text, sampling):
    sampler = WindowSampler(text, 20, sampling, 1, max_n_share=0.1, intervals=whole_records(text, ["b"]))
    rows = np.concatenate([sampler.batch(step, 100) for step in range(10)])
    shares = (rows == N).mean(axis=1)
    assert shares.max() == 0.1  # the edge of the gap is read, up to the limit


def test_both_strands_are_read_half_of_the_time(text):
    forward = bases_of(text)["a"]
    sampler = WindowSampler(text, 20, intervals=whole_records(text, ["a"]))
    rows = [decode(row) for step in range(20) for row in sampler.batch(step, 50)]
    share = np.mean([row in forward for row in rows])
    assert 0.44 < share < 0.56  # 1,000 draws: four standard errors
    only = WindowSampler(text, 20, both_strands=False, intervals=whole_records(text, ["a"])).batch(0, 50)
    assert all(decode(row) in forward for row in only)


def test_only_the_named_records_are_read(text):
    forward = bases_of(text)["b"]
    for sampling in ("random", "strided"):
        sampler = WindowSampler(text, 20, sampling, 3, intervals=whole_records(text, ["b"]))
        for row in map(decode, sampler.batch(0, 32)):
            assert row in forward or other_strand(row) in forward


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 901}, r"data.window \(901 nt\) is longer than every record or gene of \['text.fa'\] .*900"),
        ({"length": 20, "records": ["a", "chrX"]}, "data.records: no record 'chrX'"),
        ({"length": 20, "records": []}, "data.records"),
        ({"length": 20, "records": ["short"]}, r"data.window \(20 nt\) is longer .*longest 19 nt"),
    ],
)
def test_impossible_windows_are_refused_with_the_field(text, settings, message):
    with pytest.raises(InputError, match=message):
        WindowSampler(text, settings["length"], intervals=whole_records(text, settings.get("records")))


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_a_text_of_nothing_but_n_is_refused(tmp_path, sampling):
    store = make_store(tmp_path, {"gap": "N" * 500})
    with pytest.raises(InputError, match=r"data.max_n_share \(0.05\).*20 nt"):
        WindowSampler(store, 20, sampling)


def test_a_batch_larger_than_the_strided_text_is_refused(text):
    sampler = WindowSampler(text, 20, "strided", 300)
    with pytest.raises(InputError, match=re.escape(f"batch_size (64) is more than the {len(sampler)} strided windows")):
        sampler.batch(0, 64)


# -- intervals ---------------------------------------------------------------------------------------------------------


def intervals(*rows):
    """Intervals of (start, length, minus, odds) rows."""
    start, length, minus, odds = zip(*rows)
    return Intervals(np.array(start), np.array(length), np.array(minus), np.array(odds, dtype=float))


def test_intervals_are_taken_by_index_or_mask_and_known_by_their_hash():
    three = intervals((0, 50, False, 1), (60, 40, True, 2), (200, 30, False, 1))
    assert len(three) == 3
    assert three.take(np.array([2, 0])).start.tolist() == [200, 0]
    assert three.take(three.minus).length.tolist() == [40]
    changed = [((1, 50, False, 1),), ((0, 51, False, 1),), ((0, 50, True, 1),), ((0, 50, False, 3),)]
    hashes = {intervals(*rows).sha256 for rows in (((0, 50, False, 1),), *changed)}
    assert len(hashes) == 5
    assert three.take(np.arange(3)).sha256 == three.sha256


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_windows_lie_in_an_interval_and_are_read_on_its_strand(text, sampling):
    where = intervals((0, 100, False, 1), (300, 60, True, 1), (880, 40, False, 1), (500, 19, False, 1))
    # the third lies over the border of two records: the sampler reads what it is told to
    sampler = WindowSampler(text, 20, sampling, 1, both_strands=False, intervals=where)
    bases = decode(text.ids)
    expected = [bases[i : i + 20] for first, n in ((0, 100), (880, 40)) for i in range(first, first + n - 19)]
    expected += [other_strand(bases[i : i + 20]) for i in range(300, 341)]
    assert len(sampler) == len(expected)
    rows = {decode(row) for step in range(60) for row in sampler.batch(step, 32)}
    assert rows == set(expected)


def test_both_strands_of_a_minus_interval_are_read_where_asked_for(text):
    sampler = WindowSampler(text, 20, intervals=intervals((0, 400, True, 1)))
    forward = decode(text.ids)[:400]
    assert 0.4 < np.mean([decode(row) in forward for step in range(10) for row in sampler.batch(step, 50)]) < 0.6


@pytest.mark.parametrize("odds", [(1, 1, 1), (5, 1, 0), (1e-300, 3e-300, 1e-300), (0, 0, 2)])
def test_windows_are_drawn_by_the_odds_of_their_interval(text, odds):
    spans = [(0, 100), (200, 60), (400, 220)]
    where = intervals(*((start, length, False, o) for (start, length), o in zip(spans, odds)))
    sampler = WindowSampler(text, 20, both_strands=False, intervals=where)
    bases = decode(text.ids)
    index = {bases[s + i : s + i + 20]: k for k, (s, n) in enumerate(spans) for i in range(n - 19)}
    drawn = [index[decode(row)] for step in range(1000) for row in sampler.batch(step, 2)]
    counts = np.bincount(drawn, minlength=3) / len(drawn)
    expected = np.array([(n - 19) * o for (_, n), o in zip(spans, odds)])
    expected = expected / expected.sum()
    assert (np.abs(counts - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / len(drawn))).all()


def test_strided_windows_of_overlapping_intervals_are_read_once_a_strand(text):
    where = intervals((0, 60, False, 1), (10, 50, False, 1), (10, 50, True, 1), (10, 30, True, 1))
    sampler = WindowSampler(text, 20, "strided", 10, both_strands=False, intervals=where)
    bases = decode(text.ids)
    forward = [bases[i : i + 20] for i in range(0, 41, 10)]
    assert sorted(decode(sampler.batch(step, 1)[0]) for step in range(len(sampler))) == sorted(
        forward + [other_strand(window) for window in forward[1:]]
    )


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_windows_with_too_many_repeats_are_left_out(tmp_path, sampling):
    rng = np.random.default_rng(8)
    bases = random_bases(rng, 200) + random_bases(rng, 100).lower() + random_bases(rng, 200)
    store = make_store(tmp_path, {"a": bases})
    sampler = WindowSampler(store, 20, sampling, 1, both_strands=False, max_repeat_share=0.25)
    rows = {decode(row) for step in range(100) for row in sampler.batch(step, 32)}
    windows = [bases[i : i + 20] for i in range(481)]
    allowed = {window.upper() for window in windows if sum(map(str.islower, window)) <= 5}
    assert rows <= allowed and len(rows) > 0.99 * len(allowed)
    assert max(sum(map(str.islower, window)) for window in windows if window.upper() in rows) == 5


def test_a_text_that_is_all_repeats_or_does_not_say_is_refused(tmp_path, text):
    repeats = make_store(tmp_path, {"a": "acgtaggcta" * 30})
    for sampling, how_many in (("random", "hardly any"), ("strided", "no")):
        with pytest.raises(InputError, match=rf"data.max_repeat_share \(0.5\): {how_many} window of 20 nt"):
            WindowSampler(repeats, 20, sampling, max_repeat_share=0.5)
    with pytest.raises(InputError, match=r"data.max_repeat_share \(0.5\): \['text.fa'\] has no lower-case letters"):
        WindowSampler(text, 20, max_repeat_share=0.5)


def test_an_unknown_record_is_refused_with_the_names_that_there_are(text):
    with pytest.raises(InputError, match=r"no record 'chr1' in \['text.fa'\]: their names are 'a', ..."):
        whole_records(text, ["chr1"])

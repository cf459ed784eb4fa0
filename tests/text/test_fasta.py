"""FASTA files as pieces of ids, against a naive parser, and what is refused."""

import bz2
import gzip
import lzma
from unittest import mock

import numpy as np
import pytest
from conftest import random_bases
from hypothesis import given, settings
from hypothesis import strategies as st

from simcsp.core.errors import InputError
from simcsp.text.alphabet import decode
from simcsp.text.fasta import READ_SIZE, fasta_pieces
from simcsp.text.reading import open_text


def read(path, chunk=READ_SIZE):
    """{record: bases} of a FASTA, read in chunks of so many bytes."""
    records = {}
    with mock.patch("simcsp.text.fasta.READ_SIZE", chunk):
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
    (">a\n\n>b\n", "no record has any sequence"),
    (">a\nACGT\n>b", "ends amid the header of 'b': the file is cut short"),
    (">a\rACGT\r>b\rAC\r", "line ends are CR alone"),
    (">a\nACGT\n;by hand\nAC\n", "line 3: a comment"),
    (";by hand\n>a\nACGT\n", "line 1: a comment"),
    (">a\nACGT\nAC-T\n", "line 3: '-' is not a nucleotide code"),
    (">a\nACGT\nAC GT\n", "line 3: ' ' is not a nucleotide code"),
    (">a\nACGT\nAC>b\nGG\n", "line 3: '>' is not a nucleotide code"),
    (">a\nACGT\n>b\nAC\n\nGG\nEQ\n", "line 7: 'E' is not a nucleotide code"),
]


@pytest.mark.parametrize("chunk", [3, READ_SIZE])
@pytest.mark.parametrize("text, message", BAD_FASTA)
def test_bad_fasta_is_refused_with_file_and_line(tmp_path, text, message, chunk):
    path = tmp_path / "bad.fa"
    path.write_text(text)
    with pytest.raises(InputError, match=f"bad.fa.*{message}"):
        read(path, chunk)


@pytest.mark.parametrize("chunk", [3, READ_SIZE])
def test_records_without_sequence_are_left_out_and_counted(tmp_path, chunk, caplog):
    path = tmp_path / f"empty{chunk}.fa"
    path.write_text("\ufeff>a\nACGT\n>b\n>c x\n\n>d\nGG\n>e\n")
    assert read(path, chunk) == {"a": "ACGT", "d": "GG"}
    assert "without any sequence (3: b, c, e" in caplog.text and str(path) in caplog.text


@pytest.mark.parametrize(
    "content, what",
    [
        (bz2.compress(b">a\nACGT\n"), "bzip2"),
        (lzma.compress(b">a\nACGT\n"), "xz"),
        (b"\x43\x27\x41\x1a" + bytes(12), "2bit"),
        (b"PK\3\4" + bytes(30), "zip"),
        (">a\nACGT\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"BAM\1" + bytes(8), mtime=0), "BAM"),
    ],
    ids=["bzip2", "xz", "2bit", "zip", "UTF-16", "BAM"],
)
def test_files_of_another_kind_are_named_for_what_they_are(tmp_path, content, what):
    (tmp_path / "a.fa").write_bytes(content)
    for reader in (lambda path: read(path), lambda path: list(open_lines(path))):
        with pytest.raises(InputError, match=f"a.fa is .*{what}"):
            reader(tmp_path / "a.fa")


def open_lines(path):
    with open_text(path) as lines:
        yield from lines


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


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2J", "\x7f"])
def test_a_name_that_no_table_or_terminal_should_hold_is_refused(name, tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(f">good\nAC\n>{name} x\nACGT\n")
    with pytest.raises(InputError, match="line 3: record name .* holds a control character"):
        list(fasta_pieces(path))

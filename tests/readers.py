"""What each reader of files gives, against a plain reading of the same bytes by other means: for test_fuzz.py."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pandas as pd

from simcsp.core.errors import InputError
from simcsp.genome.vcf import open_variants
from simcsp.labels.motifs import read_bed
from simcsp.labels.spliceator import read_rows


def accepted(read):
    """What a reader gives, or None where it refuses with one line; anything else that it raises is a finding."""
    try:
        return read()
    except InputError as error:
        assert str(error) and "\n" not in " ".join(str(error).split())
        return None


def content_of(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzipped, without the mark of UTF-8."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return content.removeprefix(b"\xef\xbb\xbf")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, as editors count them."""
    return content_of(path).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def columns_of(path: Path, separator: str, skipped: tuple[str, ...]) -> pd.DataFrame:
    """The fields of a file as pandas has them, all text, without blank lines and those that begin with `skipped`."""
    kept = [line for line in lines_of(path) if line.strip() and not line.startswith(skipped)]
    width = max(line.count(separator) for line in kept) + 1
    text = io.StringIO("\n".join(kept))
    options = {"header": None, "names": range(width), "dtype": str, "keep_default_na": False}
    return pd.read_csv(text, sep=separator, quoting=csv.QUOTE_NONE, lineterminator="\n", **options)


def check_bed(path: Path) -> None:
    """Sites are the rows that pandas reads."""
    sites = accepted(lambda: read_bed(path))
    if sites is None:
        return
    rows = columns_of(path, "\t", ("#", "track", "browser"))
    found = [(one.chrom, one.start, one.end, one.label, one.strand) for one in sites]
    labels = rows[3].str.rpartition("|")[2]
    assert found == list(zip(rows[0], rows[1].astype(int), rows[2].astype(int), labels, rows[5]))
    assert all(end - start == 2 for _, start, end, _, _ in found)


def check_csv(path: Path) -> None:
    """Rows of Spliceator's files are those that pandas reads."""
    rows = accepted(lambda: list(read_rows(path)))
    if not rows:
        return
    table = columns_of(path, ";", ("ID_uniprot",))
    table = table.reindex(columns=range(max(3, table.shape[1]))).astype(object)
    table = table.where(table.notna(), "")
    sequences = table[2].where(table[1].str.len() < table[2].str.len().clip(upper=100), table[1])
    groups = table[0].str.rpartition("_")[2]
    for (group, sequence, _), line, expected, name in zip(rows, table.index, sequences, groups, strict=True):
        assert (group.strip(), sequence.strip()) == (name.strip(), expected.strip()), line


def check_vcf(path: Path) -> None:
    """Rows of a VCF are those that pysam reads, where it does."""
    import pysam

    def rows() -> list[list[str]]:
        with open_variants(str(path)) as variants:
            return list(variants.rows)

    ours = accepted(rows)
    try:
        with pysam.VariantFile(str(path)) as variants:
            theirs = [(row.chrom, row.pos, row.ref, row.alts) for row in variants]
    except Exception:  # htslib also looks at columns that we pass on
        return
    if ours is not None:
        alts = [None if fields[4] == "." else tuple(alt or "." for alt in fields[4].split(",")) for fields in ours]
        assert [(row[0], int(row[1]), row[3] or ".", of_row) for row, of_row in zip(ours, alts)] == theirs

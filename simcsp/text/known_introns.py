"""Annotated splice sites of a genome, from a GTF, a GFF3 or a table of introns."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.remarks import remark
from simcsp.text.annotation import bare_name, by_bare_name, introns, read_annotation
from simcsp.text.reading import is_whole_number, table_rows
from simcsp.text.sites import SITES, intron_ends
from simcsp.text.store import TokenStore


def read_truth(
    path: str | Path, store: TokenStore, transcripts: Literal["all", "ccds"] = "all"
) -> dict[tuple[str, str], np.ndarray]:
    """{(record, type): int64 [n, 2] of boundary and minus strand (0 or 1), each once} of annotated introns.

    path: GTF or GFF3, or a table of introns: record, start, end (0-based, half-open), strand, and more columns or not;
    a header line may come first. Plain or gzipped. transcripts: of a GTF or GFF3 (data.transcripts). Raises InputError
    with file and line for what is malformed, lies beyond its record or has names that the FASTA has not.
    """
    if is_annotation(path):
        rows = [intron[:4] for intron in introns(read_annotation(path, store.lengths, transcripts))]
    else:
        rows = _intron_rows(path, store.lengths)
    ends: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for name, start, end, strand in rows:
        for kind, boundary in zip(SITES, intron_ends(start, end, strand)):
            ends.setdefault((name, kind), set()).add((boundary, int(strand == "-")))
    return {key: np.array(sorted(found), dtype=np.int64) for key, found in ends.items()}


def is_annotation(path: str | Path) -> bool:
    """Whether the first row is a GTF's or GFF3's: of nine columns, with start and end in the fourth and fifth."""
    _, row = next(table_rows(path), ("", ""))
    fields = row.split("\t")
    return len(fields) == 9 and all(map(is_whole_number, fields[3:5]))


def _intron_rows(path: str | Path, lengths: dict[str, int]) -> Iterator[tuple[str, int, int, str]]:
    names, unstranded = set(), 0
    for where, line in table_rows(path):
        fields = line.split()
        if not names and fields[1:2] and not is_whole_number(fields[1]):
            continue  # the header
        if len(fields) < 4 or not all(map(is_whole_number, fields[1:3])) or fields[3] not in ("+", "-", "."):
            raise InputError(f"{where}: expected record, start, end, strand of an intron, or a GTF or GFF3")
        name, start, end = fields[0], int(fields[1]), int(fields[2])
        names.add(name)
        unstranded += fields[3] == "."
        if name not in lengths or fields[3] == ".":
            continue
        if not start < end <= lengths[name]:
            raise InputError(f"{where}: {start} to {end} is not an interval of {name} ({lengths[name]} nt)")
        yield name, start, end, fields[3]
    if unstranded:
        remark(f"{path}: left out: introns without a strand ({unstranded:,})")
    if not names & lengths.keys():
        raise InputError(foreign_names(path, names, lengths))


def foreign_names(path: str | Path, names: Collection[str], known: Collection[str]) -> str:
    """What to say of a file none of whose record names are in the FASTA."""
    if not names:
        return f"{path} holds no row: the file is empty or of another kind"
    spelt = by_bare_name(known)
    for name in sorted(names):
        if (twin := spelt.get(bare_name(name))) is not None:
            return f"{path}: record {name!r} is {twin!r} in the FASTA: give both files the same names"
    return (
        f"{path}: no record in common with the FASTA ({min(names)!r} here, {next(iter(known))!r} there): "
        "take the files of one assembly"
    )

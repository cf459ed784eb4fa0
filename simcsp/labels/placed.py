"""Stretches of a reference genome by their coordinates: whole chromosomes, or single genes that lie on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simcsp.core.errors import InputError
from simcsp.core.files import read_table
from simcsp.text.alphabet import reverse_complement
from simcsp.text.store import Record, TokenStore, open_store

BUILDS = ("hg19", "hg38")
_COLUMNS = ["record", "chrom", "start", "end", "strand"]


class Placed:
    """Records of a store with their place on the chromosomes of one build.

    places: columns record, chrom, start, end (0-based, half-open), strand, on which the record is written.
    """

    def __init__(self, store: TokenStore, places: pd.DataFrame) -> None:
        self.store = store
        self._of_chrom = {name: rows.reset_index(drop=True) for name, rows in places.groupby("chrom")}

    def fetch(self, chrom: str, start: int, end: int, strand: str) -> tuple[np.ndarray, str] | None:
        """(ids uint8 [end - start] as the strand is read, name of the record); None where no record holds all of it."""
        rows = self._of_chrom.get(chrom)
        if rows is None:
            return None
        holding = np.flatnonzero((rows["start"] <= start) & (rows["end"] >= end))
        if not len(holding):
            return None
        row = rows.iloc[holding[0]]
        left = start - row["start"] if row["strand"] == "+" else row["end"] - end
        ids = self.store.fetch(row["record"], left, left + end - start)
        return (ids if strand == row["strand"] else reverse_complement(ids)), row["record"]


def open_places(folder: Path, build: str, cache: str) -> Placed | None:
    """The whole genome `folder/BUILD.fa.gz` where it is there, else the genes of `folder/genes`, and of hg38 the whole
    chr19 (`folder/chr19.fa.gz`); None without any of them.

    genes: FASTA files and genes.tsv with the columns record, chrom, strand, BUILD_start (from 1), BUILD_end (included).
    """
    if (genome := folder / f"{build}.fa.gz").is_file():
        return Placed(store := open_store([genome], cache), _whole(store.records))
    table, fastas = folder / "genes/genes.tsv", sorted((folder / "genes").glob("*.fa"))
    chromosomes = [path for path in (folder / "chr19.fa.gz",) if build == "hg38" and path.is_file()]
    if not table.is_file() or not fastas:
        fastas = []
    if not fastas and not chromosomes:
        return None
    store = open_store([*fastas, *chromosomes], cache)
    places = _whole([record for record in store.records if record.source >= len(fastas)])
    return Placed(store, pd.concat([places, _of_genes(table, build, store)]) if fastas else places)


def _whole(records: list[Record]) -> pd.DataFrame:
    """The places of whole chromosomes, named chr9 or 9."""
    rows = [(one.name, f"chr{one.name.removeprefix('chr')}", 0, one.length, "+") for one in records]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _of_genes(table: Path, build: str, store: TokenStore) -> pd.DataFrame:
    rows = read_table(table, ["record"], sep="\t").rename(columns={f"{build}_start": "start", f"{build}_end": "end"})
    places = rows[_COLUMNS].dropna().astype({"start": int, "end": int})
    places["start"] -= 1
    for row in places.itertuples():
        record = store.by_name.get(row.record)
        if record is None or record.length != row.end - row.start:
            raise InputError(f"{table}: record {row.record} is not of {row.end - row.start} nt in the FASTA beside it")
    return places

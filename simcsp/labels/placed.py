"""Stretches of a reference genome by their coordinates: whole chromosomes, or single genes that lie on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simcsp.core.errors import InputError
from simcsp.core.files import read_table
from simcsp.text.alphabet import reverse_complement
from simcsp.text.store import TokenStore, open_store

BUILDS = ("hg19", "hg38")


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
    """The whole genome `folder/BUILD.fa.gz` where it is there, else the genes of `folder/genes`; None without either.

    genes: FASTA files and genes.tsv with the columns record, chrom, strand, BUILD_start (from 1), BUILD_end (included).
    """
    if (genome := folder / f"{build}.fa.gz").is_file():
        store = open_store([genome], cache)
        rows = [(record.name, record.name, 0, record.length, "+") for record in store.records]
        return Placed(store, pd.DataFrame(rows, columns=["record", "chrom", "start", "end", "strand"]))
    table, fastas = folder / "genes/genes.tsv", sorted((folder / "genes").glob("*.fa*"))
    fastas = [path for path in fastas if not path.name.endswith(".fxi")]
    if not table.is_file() or not fastas:
        return None
    store = open_store(fastas, cache)
    rows = read_table(table, ["record"], sep="\t").rename(columns={f"{build}_start": "start", f"{build}_end": "end"})
    places = rows[["record", "chrom", "start", "end", "strand"]].dropna()
    places = places.astype({"start": int, "end": int}).assign(start=lambda rows: rows["start"] - 1)
    for row in places.itertuples():
        record = store.by_name.get(row.record)
        if record is None or record.length != row.end - row.start:
            raise InputError(f"{table}: record {row.record} is not of {row.end - row.start} nt in {fastas[0].parent}")
    return Placed(store, places)

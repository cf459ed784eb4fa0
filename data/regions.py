"""Regions of genes of all chromosomes (GRCh38) with the splice sites of all isoforms, made of two packages' files.

frame-alignment-checks has 5,000 nt on either side of 3,356 poison exons, with their places; cispliceai has the splice
junctions of 18,580 genes (GENCODE, isoforms collapsed), without any sequence.
"""

from __future__ import annotations

import bisect
import gzip
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.convert import LETTERS, write_record
from simcsp.core.errors import InputError

TEXTS, JUNCTIONS = "poison_exon_genes.pkl.gz", "grch38.csv"
_A, _C, _G, _T, _N = range(5)
_USUAL = 0.9  # share of GT and AG: 99.2 % of the published files, 6 % by chance
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SAFE = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # as numpy 2 calls it
}
_OTHER_FILE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    zlib.error,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What reading something else than the published file can raise."""


class Region(NamedTuple):
    """Bases of a chromosome's forward strand, 0 to 3, N 4, from `start` on (0-based)."""

    chrom: str
    start: int
    bases: np.ndarray

    @property
    def end(self) -> int:
        return self.start + len(self.bases)

    @property
    def name(self) -> str:
        return f"{self.chrom}:{self.start + 1}-{self.end}"


class Site(NamedTuple):
    """The exon's base of a splice site (0-based, on the forward strand)."""

    base: int
    strand: str
    is_donor: bool


def make_regions(folder: Path, out: Path) -> None:
    """Write {human.fa,human.tsv,poison.tsv} to the new folder `out`: texts, sites of genes, and those of poison exons.

    folder: data/, with both files in regions-source/. A record has one N on either side of its text. The junctions are
    listed without their partners, so that an intron of the tables runs from its site to the record's N. Poison exons
    are seldom annotated. Raises InputError for another layout, and where the sites are not those of the texts.
    """
    source = folder / "regions-source"
    texts, poison = _read_texts(source / TEXTS)
    annotated = _read_junctions(source / JUNCTIONS)
    regions = list(_merged(texts))
    usual = [_is_usual(region, site) for region in regions for site in _within(region, annotated)]
    if np.mean(usual or [0]) < _USUAL:
        raise InputError(
            f"{source / JUNCTIONS}: of {len(usual):,} sites in the texts of {TEXTS} {np.mean(usual or [0]):.0%} are GT "
            "or AG: the files are not of one build"
        )
    out.mkdir()
    header = "record\tstart\tend\tstrand\n"
    with (
        open(out / "human.fa", "wb") as fasta,
        open(out / "human.tsv", "w", encoding="utf-8") as sites,
        open(out / "poison.tsv", "w", encoding="utf-8") as poison_sites,
    ):
        sites.write(header)
        poison_sites.write(header)
        for region in regions:
            write_record(fasta, region.name, b"N" + LETTERS[region.bases].tobytes() + b"N")
            sites.writelines(_row(region, site) for site in _within(region, annotated))
            poison_sites.writelines(_row(region, site) for site in _within(region, poison))


class _Unpickler(pickle.Unpickler):
    """Arrays of numpy, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _SAFE[module, name]


def _read_texts(path: Path) -> tuple[list[Region], dict[str, list[Site]]]:
    """The texts as they are, and {chromosome: sites of their poison exons}."""
    try:
        with gzip.open(path) as file:
            texts = _Unpickler(file).load()["gene_sequences"]
        regions, poison = [], {}
        for ((chrom, first, last, strand), acceptor, donor), text in texts.items():
            bases = np.where((text >= _A) & (text < _N), text, _N).astype(np.uint8)
            flank = (len(bases) - (donor - acceptor + 1)) // 2
            ends = [first + acceptor, first + donor]
            start = ends[0] - flank
            if strand == "-":
                bases = np.where(bases < _N, 3 - bases, _N).astype(np.uint8)[::-1]
                ends = [last - 1 - acceptor, last - 1 - donor]
                start = ends[1] - flank
            known = np.flatnonzero(bases < _N)
            regions.append(Region(chrom, start + int(known[0]), bases[known[0] : known[-1] + 1]))
            poison.setdefault(chrom, set()).update([Site(ends[0], strand, False), Site(ends[1], strand, True)])
    except _OTHER_FILE as error:
        raise InputError(f"{path}: not the genes of poison exons that this reads ({error})") from None
    return regions, {chrom: sorted(sites) for chrom, sites in poison.items()}


def _read_junctions(path: Path) -> dict[str, list[Site]]:
    """{chromosome: sites, sorted}. Columns jn_start, jn_end: the exons' bases left and right of introns, 1-based."""
    import pandas as pd  # takes a second, and fetch.py seldom needs it

    columns = ["chr", "strand", "jn_start", "jn_end"]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not set(columns) <= set(table.columns):
        raise InputError(f"{path}: no columns {', '.join(columns)}: another file")
    sites: dict[str, set[Site]] = {}
    for number, (chrom, strand, *ends) in enumerate(table[columns].itertuples(index=False), start=2):
        for bases, is_left in zip(ends, (True, False)):
            try:
                found = {Site(int(base) - 1, strand, is_left == (strand == "+")) for base in bases.split(",") if base}
            except ValueError:
                raise InputError(f"{path}, line {number}: {bases[:40]!r} is no list of places") from None
            sites.setdefault(chrom, set()).update(found)
    return {chrom: sorted(found) for chrom, found in sites.items()}


def _merged(regions: list[Region]) -> Iterator[Region]:
    """Those that overlap or touch become one. Raises InputError where they differ in a base."""
    last: Region | None = None
    for region in sorted(regions, key=lambda region: (region.chrom, region.start, -len(region.bases))):
        if last is None or region.chrom != last.chrom or region.start > last.end:
            if last:
                yield last
            last = region._replace(bases=region.bases.copy())
            continue
        shared = last.bases[region.start - last.start :][: len(region.bases)]
        other = region.bases[: len(shared)]
        if ((shared != other) & (shared != _N) & (other != _N)).any():
            raise InputError(f"{TEXTS}: {last.name} and {region.name} overlap and differ: not of one build")
        np.copyto(shared, other, where=shared == _N)
        last = last._replace(bases=np.concatenate([last.bases, region.bases[len(shared) :]]))
    if last:
        yield last


def _within(region: Region, sites: dict[str, list[Site]]) -> list[Site]:
    of_chrom = sites.get(region.chrom, [])
    first = bisect.bisect_left(of_chrom, region.start, key=lambda site: site.base)
    return of_chrom[first : bisect.bisect_left(of_chrom, region.end, key=lambda site: site.base)]


def _is_left(site: Site) -> bool:
    """Whether its intron lies to the right of it, on the forward strand."""
    return site.is_donor == (site.strand == "+")


def _is_usual(region: Region, site: Site) -> bool:
    place = site.base - region.start + (1 if _is_left(site) else -2)
    pair = region.bases[max(place, 0) : place + 2]
    pair = pair if site.strand == "+" else 3 - pair[::-1]
    return pair.tolist() == ([_G, _T] if site.is_donor else [_A, _G])


def _row(region: Region, site: Site) -> str:
    """A row of a table of introns, 0-based and half-open."""
    place = site.base - region.start + 1  # after the record's first N
    start, end = (place + 1, len(region.bases) + 1) if _is_left(site) else (1, place)
    return f"{region.name}\t{start}\t{end}\t{site.strand}\n"

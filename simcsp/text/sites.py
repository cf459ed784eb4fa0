"""Splice sites as boundaries between exon and intron: GT after a donor's, AG before an acceptor's, on either strand.

Boundary b lies before base b of a record (0-based). `position` is the exon's base at the boundary, 1-based: the last of
the exon before a donor, the first of the exon after an acceptor, which are the exon ends of a GTF (and what SpliceAI
counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from simcsp.text.alphabet import A, C, G, T, encode, reverse_complement
from simcsp.text.annotation import Intron
from simcsp.text.store import TokenStore, padded

SITES = ("donor", "acceptor")
MOTIFS = {"donor": "GT", "acceptor": "AG"}
"""The intron's two bases at a site, on its strand: after a donor's boundary, before an acceptor's."""
DONOR_REACH = (3, 6)  # nt of the exon, nt of the intron: what a donor's consensus spans
ACCEPTOR_REACH = (20, 3)  # nt of the intron, with the polypyrimidine tract; nt of the exon


class Kind(NamedTuple):
    """A type of site on a strand, as it stands in the forward text."""

    type: str
    strand: str
    motif: tuple[int, int]
    """Ids of the two bases of the intron's end, on the forward strand."""
    exon_left: bool
    """Whether the exon lies left of the boundary, on the forward strand."""


KINDS = (
    Kind("donor", "+", (G, T), True),
    Kind("donor", "-", (A, C), False),
    Kind("acceptor", "+", (A, G), False),
    Kind("acceptor", "-", (C, T), True),
)
TYPE = np.array([kind.type for kind in KINDS])
MINUS = np.array([kind.strand == "-" for kind in KINDS])
EXON_LEFT = np.array([kind.exon_left for kind in KINDS])


@dataclass(frozen=True)
class Sites:
    """Sites on the records of a store; all arrays have one entry a site.

    record: index among the store's records; boundary: int64, 0-based; kind: index into KINDS.
    """

    record: np.ndarray
    boundary: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.boundary)

    def take(self, index: np.ndarray) -> Self:
        return Sites(self.record[index], self.boundary[index], self.kind[index])

    @property
    def position(self) -> np.ndarray:
        """The exon's base at the boundary, 1-based."""
        return self.boundary + ~EXON_LEFT[self.kind]

    @property
    def motif_start(self) -> np.ndarray:
        """The first of the two motif bases on the forward strand, 0-based."""
        return np.where(EXON_LEFT[self.kind], self.boundary, self.boundary - 2)


# -- which sites -------------------------------------------------------------------------------------------------------


def find_sites(ids: np.ndarray, types: Sequence[str], every: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(boundary, kind) of each site of a text uint8 [length] on both strands, ascending by the exon's base.

    types: 'donor', 'acceptor' or both. every: whatever two bases stand there, not GT and AG alone.
    """
    boundaries, kinds = [], []
    for number, kind in enumerate(KINDS):
        if kind.type in types:
            first, second = kind.motif
            here = np.ones(max(len(ids) - 1, 0), bool) if every else (ids[:-1] == first) & (ids[1:] == second)
            boundaries.append(np.flatnonzero(here) + (0 if kind.exon_left else 2))
            kinds.append(np.full(len(boundaries[-1]), number))
    boundary, kind = np.concatenate(boundaries), np.concatenate(kinds)
    order = np.lexsort((kind, boundary + ~EXON_LEFT[kind]))
    return boundary[order], kind[order]


def cut_windows(store: TokenStore, sites: Sites, length: int) -> np.ndarray:
    """uint8 [n, length]: what is about each site, on its strand; N beyond the ends of its record."""
    records = [store.records[number] for number in sites.record]
    first = sites.boundary - length // 2
    inside = (first >= 0) & (first + length <= np.array([record.length for record in records], dtype=np.int64))
    windows = np.empty((len(sites), length), dtype=np.uint8)
    windows[inside] = store.windows((store.offsets[sites.record] + first)[inside], length)
    for i in np.flatnonzero(~inside):
        windows[i] = padded(store, records[i], first[i], first[i] + length)
    minus = MINUS[sites.kind]
    windows[minus] = reverse_complement(windows[minus])
    return windows


def intron_ends(start: int, end: int, strand: str) -> tuple[int, int]:
    """Boundaries (donor, acceptor), on the forward strand, of an intron [start, end), 0-based."""
    return (start, end) if strand == "+" else (end, start)


def exon_is_left(site: str, strand: str) -> bool:
    """Whether the exon of a site lies left of its boundary, on the forward strand."""
    return (site == "donor") == (strand == "+")


def boundaries(store: TokenStore, known: list[Intron]) -> dict[str, np.ndarray]:
    """{'donor', 'acceptor'}: int64 [n, 3] of record number, minus (0 / 1) and boundary counted along the strand."""
    rows: dict[str, list[tuple[int, int, int]]] = {"donor": [], "acceptor": []}
    for intron in known:
        length, minus = store.by_name[intron.chrom].length, intron.strand == "-"
        for site, place in zip(SITES, intron_ends(intron.start, intron.end, intron.strand)):
            rows[site].append((store.numbers[intron.chrom], int(minus), length - place if minus else place))
    return {site: np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 3) for site, found in rows.items()}


def motif_boundaries(ids: np.ndarray, site: str) -> np.ndarray:
    """Boundaries of one strand with GT after them (donor) or AG before them (acceptor)."""
    first, second = encode(MOTIFS[site])
    return np.flatnonzero((ids[:-1] == first) & (ids[1:] == second)) + (0 if site == "donor" else 2)


def shows_motif(windows: np.ndarray, site: str) -> np.ndarray:
    """bool [n]: which windows uint8 [n, length], their boundary at the centre, show the GT or AG of a site."""
    first = windows.shape[1] // 2 - (0 if site == "donor" else 2)
    return (windows[:, first : first + 2] == encode(MOTIFS[site])).all(axis=1)


def motif_label(site: str, is_site: bool) -> str:
    """The label of a motif BED: GT(donor), GT(non-donor), AG(acceptor) or AG(non-acceptor)."""
    return f"{MOTIFS[site]}({'' if is_site else 'non-'}{site})"


def motif_half(labels: np.ndarray) -> np.ndarray:
    """'gt' or 'ag' for each label of a motif BED: GT(...) and donor(...) against AG(...) and acceptor(...)."""
    return np.array(["gt" if str(label).startswith(("GT", "donor")) else "ag" for label in labels])

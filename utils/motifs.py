"""Labelled GT / AG sites of a genome: read SpliceBERT's motif BED, cut the windows, and make sure that the FASTA is the
genome build that the BED means."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.metrics import motif_half
from utils.sequence import N, TokenStore, decode, open_binary, reverse_complement

AGREEMENT = 0.95  # share of sites whose bases must be those of their label


@dataclass(frozen=True)
class Motifs:
    """ids: uint8 [n, window], the two motif bases at the centre, transcript strand; labels: [n] such as 'GT(donor)'."""

    ids: np.ndarray
    labels: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of windows and labels."""
        return hashlib.sha256(self.ids.tobytes() + "\n".join(self.labels).encode()).hexdigest()


@dataclass(frozen=True)
class Site:
    """One row of the BED: 0-based half-open [start, end) of the two motif bases, and where it was read."""

    chrom: str
    start: int
    end: int
    strand: str
    label: str
    where: str


def read_bed(path: str | Path) -> list[Site]:
    """Sites of a motif BED, plain or gzipped: chrom, start, end, name, name2, strand; label = last `|` part of name."""
    sites = []
    with open_binary(path) as handle:
        for number, line in enumerate(io.TextIOWrapper(handle, encoding="utf-8", errors="replace"), start=1):
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            where = f"{path}, line {number}"
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) < 6 or not (fields[1].isdigit() and fields[2].isdigit()) or fields[5] not in ("+", "-"):
                raise InputError(f"{where}: expected tab-separated chrom, start, end, name, name2, strand")
            site = Site(fields[0], int(fields[1]), int(fields[2]), fields[5], fields[3].rsplit("|", 1)[-1], where)
            if site.end - site.start != 2:
                raise InputError(f"{where}: a motif site spans two bases, this one {site.end - site.start}")
            if not site.label.startswith(("GT(", "AG(", "donor(", "acceptor(")):
                raise InputError(
                    f"{where}: label {site.label!r} is none of GT(...), AG(...), donor(...), acceptor(...)"
                )
            sites.append(site)
    if not sites:
        raise InputError(f"{path} holds no site: the file is empty or cut short")
    return sites


def cut_motifs(sites: list[Site], store: TokenStore, window: int, bed: str | Path) -> Motifs:
    """Windows about the sites on their own strand; beyond the ends of a record they are N, as published.

    left = (start + end) // 2 - window // 2. Raises InputError for a site outside its record and when fewer than 95 % of
    the sites show the bases of their label.
    """
    ids = np.stack([_window(site, store, window) for site in sites])
    labels = np.array([site.label for site in sites])
    for half in ("GT", "AG"):
        if half.lower() not in motif_half(labels):
            raise InputError(f"{bed} has no {half} site: NMI is the mean of a GT half and an AG half")
    _check_build(ids, labels, store, bed)
    return Motifs(ids, labels)


def _window(site: Site, store: TokenStore, window: int) -> np.ndarray:
    record = store.by_name.get(site.chrom)
    if record is None:
        raise InputError(f"{site.where}: no record {site.chrom!r} in {', '.join(store.manifest['sources'])}")
    if site.end > record.length:
        raise InputError(f"{site.where}: the site ends at {site.end}, beyond record {site.chrom} of {record.length} nt")
    left = (site.start + site.end) // 2 - window // 2
    inside = store.fetch(site.chrom, max(left, 0), min(left + window, record.length))
    padded = np.full(window, N, dtype=np.uint8)
    padded[max(-left, 0) :][: len(inside)] = inside
    return reverse_complement(padded) if site.strand == "-" else padded


def _check_build(ids: np.ndarray, labels: np.ndarray, store: TokenStore, bed: str | Path) -> None:
    centre = ids.shape[1] // 2
    wanted = np.char.upper(motif_half(labels))
    found = np.array([decode(pair) for pair in ids[:, centre - 1 : centre + 1]])
    share = float((found == wanted).mean())
    if share < AGREEMENT:
        raise InputError(
            f"only {share:.1%} of the sites in {bed} show the GT / AG of their label in "
            f"{', '.join(store.manifest['sources'])} (at least {AGREEMENT:.0%} must): "
            "another genome build, the wrong strand, or 1-based starts"
        )

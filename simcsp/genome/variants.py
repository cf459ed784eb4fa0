"""What variants do to the splice sites near them: VCF or a table of them, and the change of each site's score.

The layout of the result, gain and loss of acceptor and donor with the places of the largest, is that of SpliceAI
(Jaganathan et al., Predicting splicing from primary sequence with deep learning, Cell 176, 535-548, 2019). The models
here know a site by its GT or AG: one that loses its two bases has a score of 0, and so has one before it gains them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simcsp.core.errors import InputError
from simcsp.genome.scan import Ensemble, mean_and_sd, n_counts
from simcsp.genome.tracks import spread
from simcsp.text.alphabet import decode, encode, reverse_complement
from simcsp.text.known_introns import foreign_names
from simcsp.text.reading import is_whole_number, open_binary
from simcsp.text.sites import EXON_LEFT, KINDS, MINUS, TYPE, find_sites
from simcsp.text.store import TokenStore

CHANGES = ("AG", "AL", "DG", "DL")
"""Acceptor gain, acceptor loss, donor gain, donor loss: SpliceAI's names and order."""
COLUMNS = (
    "chrom",
    "pos",
    "id",
    "ref",
    "alt",
    *(f"{what}_{change}" for what in ("DS", "DP", "ST", "SD") for change in CHANGES),
)
_BLOCK = 64  # variants scored together


@dataclass(frozen=True)
class Variant:
    """One allele of a row. pos: 1-based, of the first base of ref; where: 'file, line n'."""

    chrom: str
    pos: int
    name: str
    ref: str
    alt: str
    where: str

    @property
    def is_symbolic(self) -> bool:
        """Whether the allele is not written out: <DEL>, a breakend, * (lies in another's deletion) or . (none)."""
        return not self.alt or any(sign in self.alt for sign in "<*.[]")


def read_variants(path: str | Path) -> Iterator[Variant]:
    """The variants of a VCF, or of a table chrom, pos, ref, alt (a header line may come first), plain or gzipped.

    Several alternative alleles of a row come one by one. Raises InputError with file and line for what is neither, and
    for alleles that are no bases.
    """
    is_vcf, first = None, True
    with open_binary(path) as handle:
        for number, line in enumerate(io.TextIOWrapper(handle, encoding="utf-8", errors="replace"), start=1):
            where = f"{path}, line {number}"
            if line.startswith("##") or not line.strip():
                continue
            fields, words = line.rstrip("\r\n").split("\t"), line.split()
            if words[0].lower() in ("#chrom", "chrom", "#chr", "chr") and first:
                is_vcf = len(words) > 2 and words[2].upper() == "ID"
                first = False
                continue
            if line.startswith("#"):
                continue
            if is_vcf is None:
                is_vcf = len(fields) >= 8  # a VCF without its header
            first = False
            fields = fields if is_vcf else words
            if len(fields) < 5 if is_vcf else len(fields) != 4:
                raise InputError(
                    f"{where}: expected a VCF, or the columns chrom, pos, ref, alt, found {line.strip()[:60]!r}"
                )
            chrom, pos, name, ref, alts = fields[:5] if is_vcf else (*fields[:2], ".", *fields[2:])
            if not is_whole_number(pos):
                raise InputError(f"{where}: position {pos!r} is no whole number")
            encode(ref, f"{where}, REF")
            for alt in alts.split(","):
                variant = Variant(chrom, int(pos), name, ref, alt, where)
                if not variant.is_symbolic:
                    encode(alt, f"{where}, ALT")
                yield variant


def count_variants(path: str | Path, store: TokenStore) -> int:
    """Alleles in the file, all of it read and checked. Raises InputError where none lies on a record of the FASTA."""
    total, chroms = 0, set()
    for variant in read_variants(path):
        total += 1
        chroms.add(variant.chrom)
    if not chroms & store.by_name.keys():
        raise InputError(foreign_names(path, chroms, store.by_name))
    return total


class Change(NamedTuple):
    """The largest gain or loss of a type of site."""

    score: float
    """Difference of the mean P(site), >= 0; 0 where there is no such change, and the rest is None then."""
    offset: int | None
    """Position of the site (the exon's base, see simcsp/genome/scan.py) less that of the variant, in the reference."""
    strand: str | None
    sd: float | None
    """Standard deviation of the difference over the models; NaN for a single one."""


@dataclass(frozen=True)
class _Alleles:
    """A variant with the text around it, uint8 ids, as it is and as the variant makes it; left: where both start."""

    variant: Variant
    left: int
    reference: np.ndarray
    alternative: np.ndarray


@dataclass(frozen=True)
class _Near:
    """Sites near a variant under one allele: windows uint8 [n, length], kind [n], place [n] (see `_sites_near`)."""

    windows: np.ndarray
    kind: np.ndarray
    place: np.ndarray


def effects(
    path: str | Path,
    store: TokenStore,
    ensemble: Ensemble,
    flank: int,
    max_n_share: float,
    strict: bool,
    skipped: Counter[str],
) -> Iterator[tuple[list[tuple[Variant, dict[str, Change]]], int]]:
    """([(variant, {'AG': acceptor gain, ...})], alleles passed) in blocks, in the order of the file.

    Sites count whose position is at most `flank` nt from a base of REF, on both strands. Alleles that cannot be scored
    are counted in `skipped`; strict: an InputError for the first whose REF is not what the FASTA has.
    """
    waiting: list[_Alleles] = []
    passed = 0
    for variant in read_variants(path):
        passed += 1
        alleles = _alleles(variant, store, ensemble.length, flank, max_n_share, strict, skipped)
        if alleles is not None:
            waiting.append(alleles)
        if passed == _BLOCK:
            yield _changes(waiting, ensemble, flank), passed
            waiting, passed = [], 0
    if passed:
        yield _changes(waiting, ensemble, flank), passed


def _alleles(
    variant: Variant,
    store: TokenStore,
    length: int,
    flank: int,
    max_n_share: float,
    strict: bool,
    skipped: Counter[str],
) -> _Alleles | None:
    """The text about a variant, or None, counted, where it cannot be scored."""
    if variant.is_symbolic:
        skipped["allele not written out (<DEL>, *, a breakend)"] += 1
        return None
    if variant.chrom not in store.by_name:
        skipped["on a record that the FASTA has not"] += 1
        return None
    record = store.by_name[variant.chrom]
    start, end = variant.pos - 1, variant.pos - 1 + len(variant.ref)
    found = store.fetch(record.name, max(start, 0), min(end, record.length))
    reference = encode(variant.ref)
    if start < 0 or not np.array_equal(found, reference):
        if strict:
            there = decode(found[:20]) or f"nothing: the record has {record.length} nt"
            raise InputError(
                f"{variant.where}: REF is {variant.ref[:20]}, but {record.name} has {there} at {variant.pos}: "
                "the VCF and the FASTA are of different builds (without --strict such rows are left out)"
            )
        skipped["REF is not what the FASTA has there"] += 1
        return None
    margin = flank + max(length // 2, 2)
    left, right = start - margin, end + margin
    if left < 0 or right > record.length:
        skipped[f"within {margin} nt of the record's end"] += 1
        return None
    text = store.fetch(record.name, left, right)
    changed = np.concatenate([text[:margin], encode(variant.alt), text[margin + len(reference) :]])
    if max(n_counts(text, length).max(), n_counts(changed, length).max()) > max_n_share * length:
        skipped[f"more than {max_n_share:.0%} of a window nearby is N"] += 1
        return None
    return _Alleles(variant, left, text, changed)


def _sites_near(alleles: _Alleles, is_alternative: bool, types: Sequence[str], length: int, flank: int) -> _Near:
    """The sites of one allele whose position lies within reach.

    place: the intron's base next to the boundary, 0-based in the reference, by which a site before is told to be the
    same as one after; bases of a longer ALT that REF lacks count as its last base.
    """
    variant, text = alleles.variant, alleles.alternative if is_alternative else alleles.reference
    boundary, kind = find_sites(text, types)
    fits = (boundary >= length // 2) & (boundary + length // 2 <= len(text))
    boundary, kind = boundary[fits], kind[fits]
    place = alleles.left + boundary - ~EXON_LEFT[kind]
    if is_alternative:
        inside = place - (variant.pos - 1)
        beyond = place - len(variant.alt) + len(variant.ref)
        within = variant.pos - 1 + np.minimum(inside, len(variant.ref) - 1)
        place = np.where(inside < 0, place, np.where(inside >= len(variant.alt), beyond, within))
    position = _position(place, kind)
    near = (position >= variant.pos - flank) & (position < variant.pos + len(variant.ref) + flank)
    boundary, kind = boundary[near], kind[near]
    windows = np.lib.stride_tricks.sliding_window_view(text, length)[boundary - length // 2]
    windows[MINUS[kind]] = reverse_complement(windows[MINUS[kind]])
    return _Near(windows, kind, place[near])


def _position(place: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The exon's base, 1-based, from the intron's base beside it, 0-based."""
    return np.where(EXON_LEFT[kind], place, place + 2)


def _changes(block: list[_Alleles], ensemble: Ensemble, flank: int) -> list[tuple[Variant, dict[str, Change]]]:
    if not block:
        return []
    near = [
        _sites_near(alleles, is_alternative, ensemble.types, ensemble.length, flank)
        for alleles in block
        for is_alternative in (False, True)
    ]
    kinds = np.concatenate([sites.kind for sites in near])
    scores = ensemble.score(np.concatenate([sites.windows for sites in near]), TYPE[kinds])
    parts = np.split(scores, np.cumsum([len(sites.kind) for sites in near])[:-1], axis=1)
    return [
        (alleles.variant, _compare(alleles.variant, near[2 * i : 2 * i + 2], parts[2 * i : 2 * i + 2], ensemble.types))
        for i, alleles in enumerate(block)
    ]


def _compare(variant: Variant, near: list[_Near], scores: list[np.ndarray], types: Sequence[str]) -> dict[str, Change]:
    """The largest changes by type; near, and their scores [members, n]: before and after."""
    before, after = (_by_site(*pair) for pair in zip(near, scores))
    changes = {}
    for type_ in types:
        keys = sorted(key for key in before.keys() | after.keys() if TYPE[key[0]] == type_)
        gains, sd = np.zeros(0), np.zeros(0)
        if keys:  # a site that is not there scores 0
            gains, sd = mean_and_sd(np.stack([after.get(key, 0.0) - before.get(key, 0.0) for key in keys], axis=1))
        for name, values in (("G", gains), ("L", -gains)):
            at = int(values.argmax()) if len(values) else -1
            if at < 0 or values[at] <= 0:
                changes[type_[0].upper() + name] = Change(0.0, None, None, None)
                continue
            kind, place = keys[at]
            offset = int(_position(np.array([place]), np.array([kind]))[0]) - variant.pos
            changes[type_[0].upper() + name] = Change(float(values[at]), offset, KINDS[kind].strand, float(sd[at]))
    return changes


def _by_site(sites: _Near, scores: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """{(kind, place): scores [members]}; of several that inserted bases put in one place, the best."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for number, key in enumerate(zip(sites.kind.tolist(), sites.place.tolist())):
        if key not in found or np.nanmean(scores[:, number]) > np.nanmean(found[key]):
            found[key] = scores[:, number]
    return found


def row_of(variant: Variant, changes: dict[str, Change]) -> str:
    """One line under COLUMNS; NA for a type of site that was not scored, and for what a change of 0 has not."""
    found = [changes.get(name) for name in CHANGES]
    cells = [variant.chrom, str(variant.pos), variant.name, variant.ref, variant.alt]
    cells += ["NA" if change is None else f"{change.score:.4f}" for change in found]
    cells += ["NA" if change is None or change.offset is None else str(change.offset) for change in found]
    cells += ["NA" if change is None or change.strand is None else change.strand for change in found]
    cells += ["NA" if change is None or change.sd is None else spread(change.sd) for change in found]
    return "\t".join(cells) + "\n"

"""What an allele changes at the splice sites near it, laid out as SpliceAI's delta scores.

A site's score is P of the exon's base at its boundary; positions are those of the reference, from POS - flank to POS +
flank. As in SpliceAI (Jaganathan et al., Cell 176, 535, 2019; `get_delta_scores` of its package), deleted bases score
0, and of inserted ones the best counts, at the last base of REF.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simcsp.core.errors import InputError
from simcsp.model.bases import Labeller
from simcsp.model.embedding import check_numbers
from simcsp.text.alphabet import ENCODE, UNK, N, reverse_complement
from simcsp.text.annotation import GeneBody, bare_name, by_bare_name, gene_bodies, read_annotation, symbols
from simcsp.text.known_introns import foreign_names
from simcsp.text.store import Record, TokenStore, padded

MISMATCHES = 0.05
"""Share of alleles whose REF may differ from the FASTA: more says that the two are of different builds."""
_LEAST_MISMATCHES = 3
COUNTED = ("seen", "mismatched", "beyond_flank")
"""Alleles on records of the FASTA; those whose REF it has not; those whose REF reaches beyond POS + flank, where sites
are not looked for."""
_TEXTS = 64  # a pass of the model, always so many: a score depends on nothing else
_SPECIAL = re.compile(r"[\s\x00-\x1f\x7f%:;=,|]")


@dataclass(frozen=True)
class Gene:
    """A gene with its annotated sites: int64, 0-based exon's bases of acceptors and of donors."""

    body: GeneBody
    symbol: str
    sites: tuple[np.ndarray, np.ndarray]


class Row(NamedTuple):
    """What of a VCF's row is scored. pos: 1-based, of the first base of ref."""

    chrom: str
    pos: int
    ref: str
    alts: tuple[str, ...]


class _Allele(NamedTuple):
    record: Record
    start: int
    ref: np.ndarray
    alt: np.ndarray
    letters: str
    genes: list[Gene | None]

    @property
    def strands(self) -> tuple[int, ...]:
        """0 forward, 1 reverse: those of its genes, or both."""
        return (0, 1) if self.genes == [None] else tuple(sorted({int(gene.body.strand == "-") for gene in self.genes}))


class Alleles:
    """Which alleles can be scored: they are written out, in bases, and REF is what the FASTA has.

    genes: {record: genes}, of which an allele must be in one; None: anywhere. strict: an error for the first REF that
    the FASTA has not.
    """

    def __init__(self, store: TokenStore, genes: dict[str, list[Gene]] | None, strict: bool) -> None:
        self.store, self.genes, self.strict = store, genes, strict
        self.names = by_bare_name(store.by_name)
        self.gene_ends = {
            name: np.array([(gene.body.start, gene.body.end) for gene in of_record]).T
            for name, of_record in (genes or {}).items()
        }
        self.counts: Counter[str] = Counter()
        """Of COUNTED."""

    def record_of(self, chrom: str) -> Record | None:
        """The record of that name, under whichever spelling (chr9, 9) the FASTA has."""
        return self.store.by_name.get(chrom) or self.store.by_name.get(self.names.get(bare_name(chrom), ""))

    def check_contigs(self, path: str, contigs: Collection[str]) -> None:
        """Raises InputError where there are contigs and none of them is in the FASTA."""
        if contigs and not any(map(self.record_of, contigs)):
            raise InputError(foreign_names(f"--vcf {path}", contigs, self.store.by_name))

    def check_build(self) -> None:
        """Raises InputError where more REFs differ from the FASTA than two files of one build can explain."""
        mismatched, seen = self.counts["mismatched"], self.counts["seen"]
        if mismatched >= _LEAST_MISMATCHES and mismatched > MISMATCHES * seen:
            raise InputError(
                f"--vcf: REF of {mismatched:,} of {seen:,} alleles is not what the FASTA has there: the two "
                "are of different builds, take the FASTA that the variants were called on"
            )

    def read(self, row: Row, letters: str, skipped: Counter[str]) -> _Allele | None:
        """None, counted, for an allele that cannot be scored."""
        record, genes = self.record_of(row.chrom), [None]
        reason = self._why_not(record, row, letters)
        if reason is None and self.genes is not None:
            genes = self._genes_at(record.name, row.pos - 1, row.pos - 1 + len(row.ref))
            reason = None if genes else "in no gene of --annotation"
        if reason is not None:
            skipped[reason] += 1
            return None
        return _Allele(record, row.pos - 1, ids_of(row.ref), ids_of(letters), letters, genes)

    def _why_not(self, record: Record | None, row: Row, alt: str) -> str | None:
        if not alt.isalpha() or not row.ref.isalpha():
            return "allele not written out (<DEL>, *, a breakend)"
        if not (row.ref + alt).isascii() or UNK in ids_of(row.ref + alt):
            return "allele with letters that are not bases"
        if N in ids_of(alt):
            return "ALT with an ambiguous base (N, R, ...)"
        if record is None:
            return "on a record that the FASTA has not"
        self.counts["seen"] += 1
        first, last = row.pos - 1, row.pos - 1 + len(row.ref)
        inside = first >= 0 and last <= record.length
        around = padded(self.store, record, first - 1, last + 1) if inside else np.zeros(0)
        known = around != N  # at an ambiguous base, VCF 4.3 has REF be one of those that it stands for
        if not inside or not np.array_equal(around[1:-1][known[1:-1]], ids_of(row.ref)[known[1:-1]]):
            self.counts["mismatched"] += 1
            if self.strict:
                raise InputError(
                    f"--vcf: REF {row.ref[:20]} at {record.name}:{row.pos} is not what the FASTA has there: the two "
                    "are of different builds (without --strict such rows are left out)"
                )
            return "REF is not what the FASTA has there"
        return None if known.any() else "in a run of N of the FASTA"

    def _genes_at(self, name: str, start: int, end: int) -> list[Gene]:
        if name not in self.genes:
            return []
        starts, ends = self.gene_ends[name]
        return [self.genes[name][i] for i in np.flatnonzero((starts < end) & (start < ends))]


class Effects:
    """Scores alleles on the records of a store.

    genes: {record: genes}; None looks at both strands and names no gene. flank: nt on either side of POS in which sites
    are looked for. mask: as SpliceAI's -M, the largest gain counts as 0 where it is of an annotated site, and the
    largest loss where it is of no annotated one. strict: see `Alleles`.
    """

    def __init__(
        self,
        store: TokenStore,
        labeller: Labeller,
        flank: int,
        genes: dict[str, list[Gene]] | None = None,
        mask: bool = False,
        strict: bool = False,
    ) -> None:
        self.store, self.labeller, self.flank, self.mask = store, labeller, flank, mask
        self.alleles = Alleles(store, genes, strict)
        shape = labeller.model.shape
        self.half = -(-(flank + 1 + shape.reach + shape.tile) // shape.step) * shape.step

    def entries(self, rows: Sequence[Row], skipped: Counter[str]) -> list[list[str]]:
        """INFO's values of each row, one an allele and gene; alleles that cannot be scored are counted in `skipped`."""
        alleles = [[allele for alt in row.alts if (allele := self.alleles.read(row, alt, skipped))] for row in rows]
        beyond = sum(len(row.ref) > self.flank + 1 for row, kept in zip(rows, alleles) for _ in kept)
        self.alleles.counts["beyond_flank"] += beyond
        changes = iter(self._changes([allele for of_row in alleles for allele in of_row]))
        return [
            [
                f"{allele.letters}|{self._best(change, gene, row.pos)}"
                for allele in of_row
                for change in [next(changes)]
                for gene in allele.genes
            ]
            for row, of_row in zip(rows, alleles)
        ]

    def _changes(self, alleles: list[_Allele]) -> list[np.ndarray]:
        """P after less P before, float32 [2 strands, 2 flank + 1, 2 types], of each allele at the reference's bases."""
        texts: list[np.ndarray] = []
        strands: list[tuple[int, ...]] = []  # of each text, those that are asked for
        before: dict[tuple[str, int, bytes], int] = {}  # which text: the alleles of a row share it
        after: list[tuple[int, int]] = []
        for allele in alleles:
            key = (allele.record.name, allele.start, allele.ref.tobytes())
            if key not in before:
                before[key] = len(texts)
                texts.append(self._reference(allele))
            altered = self._altered(allele)
            after.append((len(texts), len(altered)))
            texts += altered
            strands += [allele.strands] * (len(texts) - len(strands))
        chances = self._chances(texts, strands)
        window = slice(self.half - self.flank, self.half + self.flank + 1)
        changes = []
        for allele, (first, count) in zip(alleles, after):
            reference = chances[before[allele.record.name, allele.start, allele.ref.tobytes()]]
            changes.append(self._on_reference(allele, chances[first : first + count])[:, window] - reference[:, window])
        return changes

    def _reference(self, allele: _Allele) -> np.ndarray:
        """The text from `half` before POS to `half` after; REF where the FASTA has an ambiguous base."""
        ids = padded(self.store, allele.record, allele.start - self.half, allele.start + self.half)
        ids[self.half : self.half + len(allele.ref)] = allele.ref[: self.half]
        return ids

    def _altered(self, allele: _Allele) -> list[np.ndarray]:
        """The texts that the altered record is read in.

        The model reads tiles of fixed bounds, so what lies left of the change is read with the tiles of the reference
        on its left, and so is the allele, in as many texts as it is long; what lies right of it with the tiles on its
        right, in the last text.
        """
        texts = [self._cut(allele, k * self._stride - self.half) for k in range(self._texts_of(allele))]
        longer = len(allele.alt) - len(allele.ref)
        return [*texts, self._cut(allele, longer - self.half)] if longer and len(allele.ref) <= self.flank else texts

    @property
    def _stride(self) -> int:
        """nt from one text to the next, both of whose parts beyond the reach of their ends meet."""
        return 2 * (self.half - self.labeller.model.shape.flank)

    def _texts_of(self, allele: _Allele) -> int:
        inserted = len(allele.alt) > len(allele.ref) and len(allele.ref) <= self.flank + 1
        bases = len(allele.alt) if inserted else min(len(allele.alt), self.flank + 1)
        return 1 + max(0, -(-(bases - self._stride // 2) // self._stride))

    def _cut(self, allele: _Allele, first: int) -> np.ndarray:
        """The altered text of 2 half nt from base `first` on, counted from POS."""
        last, start = first + 2 * self.half, allele.start
        longer = len(allele.alt) - len(allele.ref)
        behind = max(first, len(allele.alt))
        parts = [padded(self.store, allele.record, start + first, start + min(last, 0))] if first < 0 else []
        parts.append(allele.alt[max(first, 0) : max(last, 0)])
        if behind < last:
            parts.append(padded(self.store, allele.record, start + behind - longer, start + last - longer))
        return np.concatenate(parts)

    def _on_reference(self, allele: _Allele, chances: np.ndarray) -> np.ndarray:
        """P of the altered record at the bases of the reference's text [2, 2 half, 2], from those of `_altered`."""
        half, edge, count = self.half, self.labeller.model.shape.flank, self._texts_of(allele)
        inside = np.concatenate(
            [chances[0][:, half : 2 * half - edge], *(text[:, edge : 2 * half - edge] for text in chances[1:count])],
            axis=1,
        )[:, : len(allele.alt)]
        after = chances[-1].copy()
        after[:, :half] = chances[0][:, :half]
        over_ref = np.zeros((2, len(allele.ref), 2), np.float32)
        shared = min(len(allele.ref), inside.shape[1])
        over_ref[:, :shared] = inside[:, :shared]
        if len(allele.alt) > len(allele.ref) and inside.shape[1] >= len(allele.ref):
            over_ref[:, -1] = inside[:, len(allele.ref) - 1 :].max(axis=1)
        after[:, half : half + len(allele.ref)] = over_ref[:, :half]
        return after

    def _chances(self, texts: list[np.ndarray], strands: list[tuple[int, ...]]) -> np.ndarray:
        """P [texts, 2 strands, length, 2] of texts of one length; 0 on a strand that is not asked for."""
        chances = np.zeros((len(texts), 2, 2 * self.half, 2), np.float32)
        places = [(number, strand) for number, asked in enumerate(strands) for strand in asked]
        for at in range(0, len(places), _TEXTS):
            ids = np.full((_TEXTS, 2 * self.half), N, dtype=np.uint8)
            for row, (number, strand) in enumerate(places[at : at + _TEXTS]):
                ids[row] = reverse_complement(texts[number]) if strand else texts[number]
            read = self.labeller.probabilities(self.labeller.log_odds(ids))
            check_numbers(read, "the text about a variant")
            for row, (number, strand) in enumerate(places[at : at + _TEXTS]):
                chances[number, strand] = read[row, ::-1] if strand else read[row]
        return chances

    def _best(self, change: np.ndarray, gene: Gene | None, pos: int) -> str:
        """SYMBOL and the eight numbers of an allele; change: [2, 2 flank + 1, 2]."""
        positions = np.arange(pos - 1 - self.flank, pos + self.flank)  # 0-based
        strands = [0, 1] if gene is None else [int(gene.body.strand == "-")]
        scores, places = [], []
        for column in range(2):
            for sign in (1, -1):
                values = (sign * change[strands, :, column]).max(axis=0)
                at = int(values.argmax())
                score = max(float(values[at]), 0.0)
                if self.mask and gene is not None and (positions[at] in gene.sites[column]) == (sign > 0):
                    score = 0.0
                scores.append(f"{score:.4f}")
                places.append(str(positions[at] + 1 - pos))
        return "|".join(["." if gene is None else percent_encoded(gene.symbol), *scores, *places])


def ids_of(bases: str) -> np.ndarray:
    return ENCODE[np.frombuffer(bases.encode(), np.uint8)]


def percent_encoded(text: str) -> str:
    """A value for INFO as VCF 4.3 has it (section 1.2); so are | and blanks, at which the layout and readers part."""
    return _SPECIAL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text) or "."


def read_genes(path: Path, store: TokenStore) -> dict[str, list[Gene]]:
    """{record: genes} of a GTF or GFF3, with their symbols."""
    transcripts = read_annotation(path, store.lengths)
    symbol_of = symbols(transcripts)
    sites: dict[tuple[str, str, str], tuple[set[int], set[int]]] = {}
    for transcript in transcripts:
        minus = transcript.strand == "-"
        ends, starts = transcript.exons[:-1, 1] - 1, transcript.exons[1:, 0]  # exon's bases left and right of introns
        acceptors, donors = (ends, starts) if minus else (starts, ends)
        known = sites.setdefault((transcript.chrom, transcript.strand, transcript.gene), (set(), set()))
        known[0].update(acceptors.tolist())
        known[1].update(donors.tolist())
    genes: dict[str, list[Gene]] = {}
    for body in gene_bodies(transcripts):
        key = body.chrom, body.strand, body.gene
        arrays = (np.array(sorted(positions), np.int64) for positions in sites[key])
        genes.setdefault(body.chrom, []).append(Gene(body, symbol_of[key], tuple(arrays)))
    return genes

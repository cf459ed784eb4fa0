"""VCF and BCF in and out, with what each allele does to the splice sites near it by a model of bases.

INFO SimCSP has SpliceAI's layout (Jaganathan et al. 2019), ALLELE|SYMBOL|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|
DP_DL: the largest gain and loss of P(acceptor) and P(donor), and where, from POS. Every allele is scored by itself, in
texts of one and the same length, so that neither its neighbours in the file nor their order change its score.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pysam.bcftools

from simcsp.core.errors import InputError
from simcsp.core.files import replacing
from simcsp.genome.journal import Journal
from simcsp.model.bases import Labeller, padded
from simcsp.model.embedding import check_numbers
from simcsp.text.alphabet import ENCODE, UNK
from simcsp.text.annotation import GeneBody, gene_bodies, other_spelling, read_annotation, symbols
from simcsp.text.known_introns import foreign_names
from simcsp.text.store import Record, TokenStore

FIELD = "SimCSP"
LAYOUT = "ALLELE|SYMBOL|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|DP_DL"
MISMATCHES = 0.05
"""Share of alleles whose REF may differ from the FASTA: more says that the two are of different builds."""
_LEAST_MISMATCHES = 3
_CHECK_EVERY = 1000
_ROWS = 64  # an entry of the journal


@dataclass(frozen=True)
class Gene:
    """A gene with its annotated sites: int64, 0-based exon's bases of acceptors and of donors."""

    body: GeneBody
    symbol: str
    sites: tuple[np.ndarray, np.ndarray]


class Effects:
    """Scores alleles on the records of a store.

    genes: {record: genes}; None looks at both strands and names no gene. flank: nt on either side of REF in which sites
    are looked for. mask: gains of annotated sites and losses of others count as 0 (SpliceAI's -M 1). strict: an error
    for the first REF that is not what the FASTA has.
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
        self.store, self.labeller, self.flank, self.genes, self.mask = store, labeller, flank, genes, mask
        self.strict = strict
        shape = labeller.model.shape
        self.half = -(-(flank + shape.reach + shape.tile) // shape.step) * shape.step
        self.longest = self.half - flank - shape.reach - -(-shape.edge // shape.step) * shape.step
        self.known: dict[str, Record | None] = {}
        self.seen = self.mismatched = 0

    def record_of(self, chrom: str) -> Record | None:
        """The record of that name, under whichever spelling (chr9, 9) the FASTA has."""
        if chrom not in self.known:
            name = chrom if chrom in self.store.by_name else other_spelling(chrom, self.store.by_name)
            self.known[chrom] = self.store.by_name.get(name) if name else None
        return self.known[chrom]

    def entries(self, chrom: str, pos: int, ref: str, alts: tuple[str, ...], skipped: Counter[str]) -> list[str]:
        """INFO's values of a row, one an allele and gene; alleles that cannot be scored are counted in `skipped`."""
        entries = []
        record = self.record_of(chrom)
        for alt in alts:
            reason = self._why_not(record, pos, ref, alt)
            if reason is not None:
                skipped[reason] += 1
                continue
            found = self._genes_at(record.name, pos - 1, pos - 1 + len(ref))
            if self.genes is not None and not found:
                skipped["in no gene of --annotation"] += 1
                continue
            before, after = self._both_alleles(record, pos - 1, ref, alt)
            change = after - before
            entries += [f"{alt}|{self._best(change, gene, pos)}" for gene in found or [None]]
        return entries

    def check_contigs(self, path: str, contigs: Collection[str]) -> None:
        """Raises InputError where there are contigs and none of them is in the FASTA."""
        if contigs and not any(map(self.record_of, contigs)):
            raise InputError(foreign_names(f"--vcf {path}", contigs, self.store.by_name))

    def check_build(self) -> None:
        """Raises InputError where more REFs differ from the FASTA than two files of one build can explain."""
        if self.mismatched >= _LEAST_MISMATCHES and self.mismatched > MISMATCHES * self.seen:
            raise InputError(
                f"--vcf: REF of {self.mismatched:,} of {self.seen:,} alleles is not what the FASTA has there: the two "
                "are of different builds, take the FASTA that the variants were called on"
            )

    def _why_not(self, record: Record | None, pos: int, ref: str, alt: str) -> str | None:
        if not alt or not alt.isalpha() or not ref.isalpha():
            return "allele not written out (<DEL>, *, a breakend)"
        if (ENCODE[np.frombuffer((ref + alt).encode(), np.uint8)] == UNK).any():
            return "allele with letters that are no bases"
        if record is None:
            return "on a record that the FASTA has not"
        self.seen += 1
        there = padded(self.store, record, pos - 1, pos - 1 + len(ref))
        if not np.array_equal(there, ids_of(ref)) or pos < 1 or pos - 1 + len(ref) > record.length:
            self.mismatched += 1
            if self.strict:
                raise InputError(
                    f"--vcf: REF {ref[:20]} at {record.name}:{pos} is not what the FASTA has there: the two are of "
                    "different builds (without --strict such rows are left out)"
                )
            return "REF is not what the FASTA has there"
        if max(len(ref), len(alt)) > self.longest:
            return f"REF or ALT longer than {self.longest} nt"
        return None

    def _genes_at(self, name: str, start: int, end: int) -> list[Gene]:
        genes = [] if self.genes is None else self.genes.get(name, [])
        return [gene for gene in genes if gene.body.start < end and start < gene.body.end]

    def _both_alleles(self, record: Record, start: int, ref: str, alt: str) -> tuple[np.ndarray, np.ndarray]:
        """P before and after, float32 [2 strands, 2 flank + len(ref), 2 types], on the bases of the reference.

        The model reads tiles of fixed bounds, so an allele of another length is read twice: once with the tiles of the
        reference on its left, once with those on its right. Deleted bases have no site; of inserted ones the best
        counts, at the last base of REF.
        """
        first, last = start - self.half, start + self.half
        reference = padded(self.store, record, first, last)
        left = np.concatenate([reference[: self.half], ids_of(alt), padded(self.store, record, start + len(ref), last)])
        longer = len(alt) - len(ref)
        ahead = padded(self.store, record, first + longer, start)
        right = np.concatenate([ahead, ids_of(alt), reference[self.half + len(ref) :]])
        if longer < 0:  # as many bases beyond as the deletion took
            left = np.concatenate([left, padded(self.store, record, last, last - longer)])
        before = self._chances(reference)
        by_left = self._chances(left[: 2 * self.half])
        by_right = by_left if not longer else self._chances(right)
        at = self.half
        inside = by_left[:, at : at + len(alt)]
        over_ref = np.zeros((2, len(ref), 2), np.float32)
        shared = min(len(ref), len(alt))
        over_ref[:, :shared] = inside[:, :shared]
        if longer > 0:
            over_ref[:, -1] = inside[:, len(ref) - 1 :].max(axis=1)
        beyond = at + len(ref)
        after = np.concatenate(
            [by_left[:, at - self.flank : at], over_ref, by_right[:, beyond : beyond + self.flank]], axis=1
        )
        return before[:, at - self.flank : beyond + self.flank], after

    def _chances(self, ids: np.ndarray) -> np.ndarray:
        chances = self.labeller.probabilities(self.labeller.both_strands(ids))
        check_numbers(chances, "the text about a variant")
        return chances

    def _best(self, change: np.ndarray, gene: Gene | None, pos: int) -> str:
        """SYMBOL and the eight numbers of an allele; change: [2, length, 2]."""
        positions = np.arange(change.shape[1]) + pos - 1 - self.flank  # 0-based
        strands = [0, 1] if gene is None else [int(gene.body.strand == "-")]
        scores, places = [], []
        for column in range(2):
            for sign in (1, -1):
                values = np.maximum(sign * change[strands, :, column], 0)
                if self.mask and gene is not None:
                    annotated = np.isin(positions, gene.sites[column])
                    values = np.where(annotated if sign > 0 else ~annotated, 0, values)
                at = int(values.max(axis=0).argmax())
                scores.append(f"{values[:, at].max():.4f}")
                places.append(str(positions[at] + 1 - pos))
        return "|".join(["." if gene is None else gene.symbol, *scores, *places])


def ids_of(bases: str) -> np.ndarray:
    """Ids of letters that are known to be bases."""
    return ENCODE[np.frombuffer(bases.encode(), np.uint8)]


def read_genes(path: Path, store: TokenStore) -> dict[str, list[Gene]]:
    """{record: genes} of a GTF or GFF3, with gene_name or Name as the symbol, else the gene's ID."""
    transcripts = read_annotation(path, {record.name: record.length for record in store.records})
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
        acceptors, donors = sites[body.chrom, body.strand, body.gene]
        arrays = np.array(sorted(acceptors), np.int64), np.array(sorted(donors), np.int64)
        genes.setdefault(body.chrom, []).append(Gene(body, symbol_of[body.chrom, body.strand, body.gene], arrays))
    return genes


# -- the files ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A VCF or BCF to read, plain or compressed; '-' is stdin. Raises InputError for what is neither."""
    pysam.set_verbosity(0)
    try:
        handle = pysam.VariantFile(path)
    except (ValueError, OSError) as error:
        raise InputError(
            f"--vcf {path} is no VCF or BCF with a header ({error}): bcftools view says what is wrong"
        ) from None
    with handle:
        yield handle


def annotate(
    path: str, out: Path | None, effects: Effects, skipped: Counter[str], journal: Journal | None = None
) -> Iterator[int]:
    """Write every row of a VCF with INFO SimCSP, all else as it is; yields alleles as they are done.

    out: None is stdout; .vcf.gz and .bcf are compressed. The file appears under its name when all is written.
    journal: of what was done before the command was stopped. Raises InputError for a VCF of another build or of other
    contigs, and for a row that cannot be read.
    """
    with opened(path) as variants:
        header, contigs = variants.header, set()
        effects.check_contigs(path, set(header.contigs))  # before any of a long file is read
        if FIELD not in header.info:  # rows of an annotated file refer to its own line
            header.info.add(FIELD, ".", "String", f"SimCSP's change of splice sites. Format: {LAYOUT}")
        with _writer(out, header) as write:
            for row, entries in _annotated(_rows(path, variants), effects, skipped, journal):
                if entries:
                    row.info[FIELD] = tuple(entries)
                elif FIELD in row.info:
                    del row.info[FIELD]
                write(row)
                contigs.add(row.chrom)
                yield len(row.alts or ())
            effects.check_contigs(path, contigs)
            effects.check_build()


def _annotated(
    rows: Iterator[Any], effects: Effects, skipped: Counter[str], journal: Journal | None
) -> Iterator[tuple[Any, list[str]]]:
    """Each row with INFO's values; what stands in the journal is not computed again."""
    for payload in journal.entries() if journal else ():
        entry = json.loads(payload)
        skipped.update(entry["skipped"])
        effects.seen, effects.mismatched = effects.seen + entry["seen"], effects.mismatched + entry["mismatched"]
        yield from zip(islice(rows, len(entry["info"])), entry["info"], strict=True)
    while block := list(islice(rows, _ROWS)):
        before, seen, mismatched = Counter(skipped), effects.seen, effects.mismatched
        info = [effects.entries(row.chrom, row.pos, row.ref, row.alts or (), skipped) for row in block]
        if effects.seen // _CHECK_EVERY > seen // _CHECK_EVERY:
            effects.check_build()
        if journal:
            counts = {"seen": effects.seen - seen, "mismatched": effects.mismatched - mismatched}
            journal.add(json.dumps({"info": info, "skipped": skipped - before, **counts}).encode())
        yield from zip(block, info)


@contextmanager
def _writer(out: Path | None, header: Any) -> Iterator[Callable[[Any], None]]:
    """What writes a row: to stdout (None), as text, compressed in blocks (.gz) or as BCF (.bcf).

    Rows are written as text, since pysam's own writer stops at, or spoils, rows with tags that the header does not
    declare; BCF is made of the text.
    """
    if out is None:
        sys.stdout.write(str(header))
        yield lambda row: sys.stdout.write(str(row))
        return
    with replacing(out) as aside:
        if out.suffix == ".gz":
            with pysam.BGZFile(str(aside), "w") as blocks:
                blocks.write(str(header).encode())
                yield lambda row: blocks.write(str(row).encode())
            return
        with open(aside, "w", encoding="utf-8") as text:
            text.write(str(header))
            yield lambda row: text.write(str(row))
        if out.suffix == ".bcf":
            binary = aside.with_name(f"{aside.name}.bcf")
            try:
                pysam.bcftools.view("--no-version", "-Ob", "-o", str(binary), str(aside), catch_stdout=False)
                os.replace(binary, aside)
            except pysam.SamtoolsError:
                raise InputError(
                    "a row has a tag that the header does not declare, which BCF cannot hold: write .vcf.gz instead"
                ) from None
            finally:
                binary.unlink(missing_ok=True)


def _rows(path: str, variants: Any) -> Iterator[Any]:
    try:
        yield from variants
    except (ValueError, OSError) as error:
        raise InputError(f"--vcf {path}: a row cannot be read ({error})") from None

"""Gene annotation, GTF or GFF3: transcripts with their exons, the introns between them, and gene bodies.

Coordinates leave this module 0-based and half-open, on the forward strand.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from simcsp.core.errors import InputError
from simcsp.text.reading import is_whole_number, open_binary

# Gaps between exons that are shorter come from frameshifts and errors of assembly, bridged in the alignment of a
# transcript: hardly any spliceosomal intron of an animal or plant is below 30 nt.
SHORTEST_INTRON = 20
# GFF3 files that are cut to a region or to protein-coding genes lose rows of transcripts here and there (a fifth in
# some); where more than this share of the transcripts has none, the rows were dropped, or exons name the wrong thing.
MOST_ORPHANS = 0.5
# A transcript of the Consensus Coding Sequence set: Ensembl's and GENCODE's GFF3 say so on its own row, NCBI's on its
# CDS, GTF on its exons too.
_CCDS = re.compile(r'ccds_?id[ =]"?CCDS|\btag "CCDS|[=,]CCDS:CCDS', re.IGNORECASE)
_GTF_ID = {key: re.compile(rf'(?:^|;)\s*{key} "([^"]+)"') for key in ("gene_id", "transcript_id")}
_SYMBOL = re.compile(r'(?:^|;)\s*(?:gene_name "([^"]+)"|Name=([^;]+))')
_GFF3_ID = {key: re.compile(rf"(?:^|;)\s*{key}=([^;]+)") for key in ("ID", "Parent")}


@dataclass(frozen=True)
class Transcript:
    """exons: int64 [n, 2], 0-based half-open, ascending, disjoint; strand '+' or '-'.

    gene: its ID. orphan: the GFF3 has no row for the transcript, so its gene is unknown and `gene` is its own name.
    in_ccds: it has an identifier of the Consensus Coding Sequence set.
    """

    name: str
    gene: str
    chrom: str
    strand: str
    exons: np.ndarray
    orphan: bool = False
    in_ccds: bool = False


class Intron(NamedTuple):
    """Bases from the first of the donor's GT to the last of the acceptor's AG (or the reverse, on the minus strand)."""

    chrom: str
    start: int
    end: int
    strand: str
    gene: str


class GeneBody(NamedTuple):
    """From the start of a gene's first exon to the end of its last, over all its transcripts."""

    chrom: str
    start: int
    end: int
    strand: str
    gene: str


def introns(transcripts: Iterable[Transcript]) -> list[Intron]:
    """Each intron once, sorted; one that two genes share goes to the first of their names. At least 20 nt."""
    genes: dict[tuple[str, int, int, str], str] = {}
    for transcript in transcripts:
        for start, end in zip(transcript.exons[:-1, 1].tolist(), transcript.exons[1:, 0].tolist()):
            if end - start >= SHORTEST_INTRON:
                key = (transcript.chrom, start, end, transcript.strand)
                genes[key] = min(genes.get(key, transcript.gene), transcript.gene)
    return sorted(Intron(*key, gene) for key, gene in genes.items())


def gene_bodies(transcripts: Iterable[Transcript]) -> list[GeneBody]:
    """Each gene once per record and strand that it has exons on, sorted."""
    spans: dict[tuple[str, str, str], tuple[int, int]] = {}
    for transcript in transcripts:
        key = (transcript.chrom, transcript.strand, transcript.gene)
        first, last = int(transcript.exons[0, 0]), int(transcript.exons[-1, 1])
        start, end = spans.get(key, (first, last))
        spans[key] = (min(start, first), max(end, last))
    return sorted(GeneBody(chrom, *span, strand, gene) for (chrom, strand, gene), span in spans.items())


def read_annotation(
    path: str | Path, lengths: dict[str, int], transcripts: Literal["all", "ccds"] = "all"
) -> list[Transcript]:
    """Transcripts of a GTF or GFF3 file (told apart by the attributes, plain or gzipped), in the file's order.

    lengths: {record: nt} of the FASTA that the annotation is of. Records that the FASTA lacks are left out, as long as
    it has some. A transcript with exons on two records or strands comes as one for each. ccds: transcripts of the
    Consensus Coding Sequence set alone. Raises InputError with file and line for what is malformed, lies beyond its
    record, or has record names that are spelt otherwise in the FASTA, and for a file that names no CCDS.
    """
    exons = _Exons(path)
    for row in _rows(path):
        exons.add(row, lengths)
    exons.check_names(lengths)
    if transcripts == "all":
        return exons.transcripts()
    if not exons.in_ccds:
        raise InputError(f"{path}: no transcript has a CCDS identifier (ccdsid): take all (data.transcripts)")
    return [transcript for transcript in exons.transcripts() if transcript.in_ccds]


def read_symbols(path: str | Path) -> dict[str, str]:
    """{gene ID: gene_name or Name} of a GTF or GFF3, of the genes that have one."""
    symbols = {}
    for row in _rows(path):
        found = _SYMBOL.search(row.attributes)
        gene = _GTF_ID["gene_id"].search(row.attributes) or _GFF3_ID["ID"].search(row.attributes)
        if found and gene:
            symbols.setdefault(gene[1].strip(), (found[1] or found[2]).strip())
    return symbols


class _Row(NamedTuple):
    chrom: str
    feature: str
    start: str
    end: str
    strand: str
    attributes: str
    where: str


def _rows(path: str | Path) -> Iterator[_Row]:
    with open_binary(path) as handle:
        for number, line in enumerate(io.TextIOWrapper(handle, encoding="utf-8", errors="replace"), start=1):
            if line.startswith(("##FASTA", ">")):  # GFF3 may carry the sequence at its end
                return
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 9:
                raise InputError(
                    f"{path}, line {number}: expected nine tab-separated columns as in GTF or GFF3, not {len(fields)}"
                )
            chrom, _, feature, start, end, _, strand, _, attributes = fields
            yield _Row(chrom, feature, start, end, strand, attributes, f"{path}, line {number}")


@dataclass
class _Exons:
    """What has been read so far."""

    path: str | Path
    is_gtf: bool | None = None
    parent_of: dict[str, str | None] = field(default_factory=dict)
    """GFF3: ID -> (first) Parent of every row that is no exon."""
    names: dict[str, str] = field(default_factory=dict)
    """Record name of an exon -> where it was first read."""
    of_transcript: dict[tuple[str, str, str], list[tuple[int, int]]] = field(default_factory=dict)
    """(transcript, record, strand) -> exons."""
    gene_of: dict[str, str] = field(default_factory=dict)
    """GTF: transcript -> gene."""
    in_ccds: set[str] = field(default_factory=set)
    """Transcripts with a CCDS identifier."""
    first_seen: dict[str, str] = field(default_factory=dict)
    """Transcript -> where its first exon was read."""

    def add(self, row: _Row, lengths: dict[str, int]) -> None:
        if self.is_gtf is None:
            self.is_gtf = bool(_GTF_ID["gene_id"].search(row.attributes))
            if not self.is_gtf and "=" not in row.attributes:
                raise InputError(
                    f'{row.where}: the attributes are neither GTF (gene_id "X";) nor GFF3 (ID=X): {row.attributes[:60]}'
                )
        if _CCDS.search(row.attributes):
            self.in_ccds.update(self._ccds_owners(row))
        if row.feature != "exon":
            if not self.is_gtf and (name := _attribute(row, "ID")):
                parents = _attribute(row, "Parent")
                self.parent_of[name] = parents.split(",")[0] if parents else None
            return
        self.names.setdefault(row.chrom, row.where)
        transcripts = self._gtf_owner(row) if self.is_gtf else self._gff3_owners(row)
        exon = _interval(row)
        if row.chrom not in lengths:
            return
        if exon[1] > lengths[row.chrom]:
            raise InputError(
                f"{row.where}: the exon ends at {row.end}, beyond record {row.chrom} of {lengths[row.chrom]} nt: "
                "the FASTA is a piece or another build"
            )
        for transcript in transcripts:
            self.first_seen.setdefault(transcript, row.where)
            self.of_transcript.setdefault((transcript, row.chrom, row.strand), []).append(exon)

    def _ccds_owners(self, row: _Row) -> list[str]:
        if self.is_gtf:
            transcript = _GTF_ID["transcript_id"].search(row.attributes)
            return [transcript[1]] if transcript else []
        owners = _attribute(row, "Parent" if row.feature in ("CDS", "exon") else "ID")
        return owners.split(",") if owners else []

    def _gtf_owner(self, row: _Row) -> list[str]:
        found = {key: pattern.search(row.attributes) for key, pattern in _GTF_ID.items()}
        for key, match in found.items():
            if match is None:
                raise InputError(f'{row.where}: exon without {key} "..." among its attributes')
        transcript = found["transcript_id"][1]
        self.gene_of[transcript] = found["gene_id"][1]
        return [transcript]

    def _gff3_owners(self, row: _Row) -> list[str]:
        parents = _attribute(row, "Parent")
        if not parents:
            raise InputError(f"{row.where}: exon without Parent= among its attributes: its transcript is unknown")
        return parents.split(",")

    def check_names(self, lengths: dict[str, int]) -> None:
        """Refuse an annotation that names the FASTA's records differently, wholly or in part."""
        if not self.names:
            raise InputError(f"{self.path} holds no exon row: the file is empty, cut short or of another kind")
        foreign = {name: where for name, where in self.names.items() if name not in lengths}
        spelt = {_bare(name): name for name in lengths} if foreign else {}
        for name, where in foreign.items():
            twin = spelt.get(_bare(name))
            if twin is not None and twin not in self.names:
                raise InputError(
                    f"{where}: record {name!r} is {twin!r} in the FASTA: give both files the same names, "
                    f"{_rename(name, twin)}"
                )
        if not self.names.keys() & lengths.keys():
            raise InputError(
                f"{self.path}: no record in common with the FASTA ({next(iter(self.names))!r} here, "
                f"{next(iter(lengths), 'none')!r} there): take the annotation of that very assembly, with its names"
            )

    def transcripts(self) -> list[Transcript]:
        orphans = [] if self.is_gtf else [name for name in self.first_seen if name not in self.parent_of]
        if len(orphans) > MOST_ORPHANS * len(self.first_seen):
            raise InputError(
                f"{self.first_seen[orphans[0]]}: the exon's Parent {orphans[0]!r} has no row of its own: "
                f"{len(orphans)} of {len(self.first_seen)} transcripts lack theirs, keep the mRNA rows in the GFF3"
            )
        lost = set(orphans)
        return [
            Transcript(name, self._gene(name), chrom, strand, _disjoint(exons), name in lost, name in self.in_ccds)
            for (name, chrom, strand), exons in self.of_transcript.items()
        ]

    def _gene(self, transcript: str) -> str:
        if self.is_gtf:
            return self.gene_of[transcript]
        seen = {transcript}
        while (parent := self.parent_of.get(transcript)) and parent not in seen:
            transcript = parent
            seen.add(parent)
        return transcript


def _attribute(row: _Row, key: str) -> str | None:
    match = _GFF3_ID[key].search(row.attributes)
    return match[1].strip() if match else None


def _interval(row: _Row) -> tuple[int, int]:
    """1-based inclusive, as written -> 0-based half-open."""
    if not (is_whole_number(row.start) and is_whole_number(row.end)) or int(row.start) < 1:
        raise InputError(f"{row.where}: start {row.start!r} and end {row.end!r} must be whole numbers from 1")
    if int(row.start) > int(row.end):
        raise InputError(f"{row.where}: the exon starts at {row.start}, after its end at {row.end}")
    if row.strand not in ("+", "-"):
        raise InputError(
            f"{row.where}: exon on strand {row.strand!r}, expected + or -: leave out unstranded transcripts"
        )
    return int(row.start) - 1, int(row.end)


def _disjoint(exons: list[tuple[int, int]]) -> np.ndarray:
    """Ascending, with those that overlap made one."""
    merged: list[list[int]] = []
    for start, end in sorted(exons):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, dtype=np.int64)


def other_spelling(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name` spelt differently ('9' for 'chr9'), unless `name` is among them itself."""
    spelt = {_bare(other): other for other in names}
    return spelt.get(_bare(name)) if name not in spelt.values() else None


def _bare(name: str) -> str:
    """A record's name without the differences between UCSC, Ensembl and TAIR: chr9, Chr9, 9; chrM, MT."""
    bare = name.lower().removeprefix("chr")
    return "m" if bare == "mt" else bare


def _rename(name: str, twin: str) -> str:
    if name == f"chr{twin}":
        return "for one by removing 'chr' from the annotation's: sed 's/^chr//'"
    if twin == f"chr{name}":
        return "for one by adding 'chr' to the annotation's: sed '/^#/!s/^/chr/'"
    return "for one by renaming the annotation's"

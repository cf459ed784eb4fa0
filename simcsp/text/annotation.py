"""Gene annotation, GTF or GFF3: transcripts with their exons, the introns between them, and gene bodies.

Coordinates leave this module 0-based and half-open, on the forward strand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.remarks import remark
from simcsp.text.reading import is_comment, is_whole_number, open_text

# Gaps between exons that are shorter come from frameshifts and errors of assembly, bridged in the alignment of a
# transcript: hardly any spliceosomal intron of an animal or plant is below 30 nt.
SHORTEST_INTRON = 20
# GFF3 files that are cut to a region or to protein-coding genes lose rows of transcripts here and there (a fifth in
# some); where more than this share of the transcripts has none, the rows were dropped, or exons name the wrong thing.
MOST_ORPHANS = 0.5
# A transcript of the Consensus Coding Sequence set: Ensembl's and GENCODE's GFF3 say so on its own row, NCBI's on its
# CDS, GTF on its exons too.
_CCDS = re.compile(r'ccds_?id[ =]"?CCDS|\btag "CCDS|[=,]CCDS:CCDS', re.IGNORECASE)
_GFF3 = re.compile(r"\s*[^\s=;\"]+=")  # how its attributes begin
_SYMBOLS = ("gene_name", "Name", "gene", "ref_gene_name")
_RANKS = ("exon_number", "rank")
_LEAVES = {"CDS", "start_codon", "stop_codon", "five_prime_UTR", "three_prime_UTR", "UTR", "intron"}
"""Features that are nobody's parent."""


@dataclass(frozen=True)
class Transcript:
    """exons: int64 [n, 2], 0-based half-open, ascending, disjoint; strand '+' or '-'.

    gene: its ID; symbol: its name, or its ID where it has none. Both are unique within a record alone. orphan: the GFF3
    has no row for the transcript, so its gene is unknown and `gene` is its own name. in_ccds: it has an identifier of
    the Consensus Coding Sequence set.
    """

    name: str
    gene: str
    chrom: str
    strand: str
    exons: np.ndarray
    orphan: bool = False
    in_ccds: bool = False
    symbol: str = ""


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


def symbols(transcripts: Iterable[Transcript]) -> dict[tuple[str, str, str], str]:
    """{(record, strand, gene ID): symbol}."""
    return {(one.chrom, one.strand, one.gene): one.symbol or one.gene for one in transcripts}


def read_annotation(
    path: str | Path,
    lengths: dict[str, int],
    transcripts: Literal["all", "ccds"] = "all",
    feature: Literal["exon", "CDS"] = "exon",
) -> list[Transcript]:
    """Transcripts of a GTF or GFF3 file (told apart row by row, plain or gzipped), in the file's order.

    lengths: {record: nt} of the FASTA that the annotation is of. Records that the FASTA lacks are left out, as long as
    it has some. A transcript with exons on two records or strands comes as one for each; one that is trans-spliced has
    no introns: its exons come one by one. Left out, counted and said: exons that name no transcript, transcripts
    without a strand, and those that cross the origin of a circular record. ccds: transcripts of the Consensus Coding
    Sequence set alone. feature CDS: of each transcript that has coding parts these in the place of its exons; none at
    all from an annotation without them. Raises InputError with file and line for what is malformed, lies beyond its
    record, or has record names that are spelt otherwise in the FASTA, and for a file that names no CCDS.
    """
    exons = _Exons(path, lengths, feature)
    for row in _rows(path):
        exons.add(row)
    if feature == "exon" or exons.names:
        exons.check_names()
    if transcripts == "ccds" and not exons.in_ccds:
        raise InputError(f"{path}: no transcript has a CCDS identifier (ccdsid): take all (data.transcripts)")
    known = exons.transcripts()
    for what, count in exons.left_out.items():
        remark(f"{path}: left out: {what} ({count:,})")
    return [transcript for transcript in known if transcripts == "all" or transcript.in_ccds]


class _Row(NamedTuple):
    chrom: str
    feature: str
    start: str
    end: str
    strand: str
    attributes: str
    where: str


def _rows(path: str | Path) -> Iterator[_Row]:
    """Rows of nine columns, but for comments and for the sequence that a GFF3 may carry after ##FASTA or a '>'."""
    in_sequence = False
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or is_comment(line):
                in_sequence = in_sequence or line.rstrip() == "##FASTA"
                continue
            fields = line.rstrip("\n").split("\t")
            in_sequence = in_sequence or (line.startswith(">") and len(fields) < 9)
            if in_sequence and len(fields) < 9:
                continue
            if len(fields) != 9:
                raise InputError(
                    f"{path}, line {number}: expected nine tab-separated columns as in GTF or GFF3, not {len(fields)}"
                )
            chrom, _, feature, start, end, _, strand, _, attributes = fields
            yield _Row(chrom, feature, start, end, strand, attributes, f"{path}, line {number}")


def _attributes(text: str) -> tuple[dict[str, str], bool]:
    """({key: value}, whether it is a GFF3's) of the ninth column; of a key that comes twice, the first value.

    GFF3: KEY=VALUE, with commas between several and both as they stand: see `_decoded`. GTF: KEY "VALUE", in which a
    semicolon ends nothing, or KEY VALUE.
    """
    values: dict[str, str] = {}
    if _GFF3.match(text):
        for piece in text.split(";"):
            key, _, value = piece.partition("=")
            values.setdefault(key.strip(), value.strip())
        return values, True
    quoted = text.split('"')
    for number in range(0, len(quoted), 2):
        *whole, last = quoted[number].split(";")
        if number + 1 < len(quoted):
            values.setdefault(last.strip(), quoted[number + 1].strip())
        else:
            whole.append(last)
        for piece in whole:
            key, _, value = piece.strip().partition(" ")
            if value:
                values.setdefault(key, value.strip())
    return values, False


def _decoded(value: str | None) -> list[str]:
    """The values of a GFF3's attribute: separated by commas, then percent-decoded."""
    return [unquote(part.strip()) for part in value.split(",") if part.strip()] if value else []


class _Feature(NamedTuple):
    """A row of a GFF3 that is no exon. symbol: '' where it has none."""

    chrom: str
    start: int
    end: int
    parent: str | None
    symbol: str
    is_trans_spliced: bool


class _Exon(NamedTuple):
    start: int
    end: int
    rank: int


@dataclass
class _Exons:
    """What has been read so far. A transcript is (name, gene, record), where gene is None in a GFF3."""

    path: str | Path
    lengths: dict[str, int]
    feature: str = "exon"
    features: dict[str, list[_Feature]] = field(default_factory=dict)
    """GFF3: ID -> its rows: it may repeat on another record, and in the parts of one feature."""
    names: dict[str, str] = field(default_factory=dict)
    """Record name of an exon -> where it was first read."""
    exons: dict[tuple[str, str | None, str], dict[str, list[_Exon]]] = field(default_factory=dict)
    """Transcript -> strand -> exons."""
    first_seen: dict[tuple[str, str | None, str], str] = field(default_factory=dict)
    """Transcript -> where its first exon was read."""
    symbol_of: dict[tuple[str, str], str] = field(default_factory=dict)
    """GTF: (record, gene) -> symbol."""
    in_ccds: set[tuple[str, str]] = field(default_factory=set)
    """(record, transcript) with a CCDS identifier."""
    trans_spliced: set[tuple[str, str | None, str]] = field(default_factory=set)
    dropped: set[tuple[str, str | None, str]] = field(default_factory=set)
    circular: set[str] = field(default_factory=set)
    beyond: list[tuple[str, int, int, tuple[str, str | None, str]]] = field(default_factory=list)
    """Exons that end beyond their record: where, start, end, transcript."""
    left_out: Counter[str] = field(default_factory=Counter)
    nameless: str | None = None
    """Where the first exon without a transcript was read."""

    def add(self, row: _Row) -> None:
        attributes, is_gff3 = _attributes(row.attributes)
        chrom = row.chrom if row.chrom in self.lengths else unquote(row.chrom)
        if attributes.get("Is_circular", "").lower() == "true":
            self.circular.add(chrom)
        if row.feature != self.feature or _CCDS.search(row.attributes):
            self._note(row, chrom, attributes, is_gff3)
        if row.feature != self.feature:
            return
        self.names.setdefault(chrom, row.where)
        exon, (owners, gene) = _interval(row), _owners(attributes, is_gff3)
        self._note_symbol(chrom, gene, attributes)
        if not owners:
            self.left_out["exons that name no transcript"] += 1
            self.nameless = self.nameless or row.where
        if chrom not in self.lengths:
            return
        rank = next((int(attributes[key]) for key in _RANKS if is_whole_number(attributes.get(key, ""))), 0)
        for owner in owners:
            self._add_exon((owner, gene, chrom), row, exon, rank)
            if _is_trans_spliced(attributes):
                self.trans_spliced.add((owner, gene, chrom))

    def _add_exon(self, transcript: tuple[str, str | None, str], row: _Row, exon: tuple[int, int], rank: int) -> None:
        """An exon of a transcript, unless it has no strand or ends beyond its record."""
        self.first_seen.setdefault(transcript, row.where)
        if row.strand not in ("+", "-"):
            self._drop(transcript, "transcripts without a strand")
        elif exon[1] > self.lengths[transcript[2]]:
            self.beyond.append((row.where, *exon, transcript))
        else:
            self.exons.setdefault(transcript, {}).setdefault(row.strand, []).append(_Exon(*exon, rank))

    def _note(self, row: _Row, chrom: str, attributes: dict[str, str], is_gff3: bool) -> None:
        in_ccds = _CCDS.search(row.attributes)
        if not is_gff3:
            self._note_symbol(chrom, attributes.get("gene_id"), attributes)
            if in_ccds and attributes.get("transcript_id"):
                self.in_ccds.add((chrom, attributes["transcript_id"]))
            return
        if in_ccds:
            owners = attributes.get("Parent" if row.feature in ("CDS", "exon") else "ID")
            self.in_ccds.update((chrom, owner) for owner in _decoded(owners))
        own = _decoded(attributes.get("ID"))
        if own and row.feature not in _LEAVES and row.feature != "exon":
            ends = [int(end) if is_whole_number(end) else 0 for end in (row.start, row.end)]
            parents, symbol = _decoded(attributes.get("Parent")), _symbol(attributes)
            symbol, spliced = ",".join(_decoded(symbol)), _is_trans_spliced(attributes)
            feature = _Feature(chrom, ends[0] - 1, ends[1], parents[0] if parents else None, symbol, spliced)
            self.features.setdefault(",".join(own), []).append(feature)

    def _note_symbol(self, chrom: str, gene: str | None, attributes: dict[str, str]) -> None:
        if gene and (chrom, gene) not in self.symbol_of and (symbol := _symbol(attributes)):
            self.symbol_of[chrom, gene] = unquote(symbol)

    def _drop(self, transcript: tuple[str, str | None, str], why: str) -> None:
        if transcript not in self.dropped:
            self.dropped.add(transcript)
            self.left_out[why] += 1

    def check_names(self) -> None:
        """Refuse an annotation that names the FASTA's records differently, wholly or in part."""
        if not self.names:
            raise InputError(
                f"{self.path} holds no {self.feature} row: the file is empty, cut short or of another kind"
            )
        if not self.exons and not self.first_seen and self.nameless:
            raise InputError(
                f"{self.nameless}: the attributes of no exon are a GTF's (transcript_id \"X\";) or a GFF3's (Parent=X)"
            )
        foreign = {name: where for name, where in self.names.items() if name not in self.lengths}
        spelt = by_bare_name(self.lengths) if foreign else {}
        for name, where in foreign.items():
            twin = spelt.get(bare_name(name))
            if twin is not None and twin not in self.names:
                raise InputError(
                    f"{where}: record {name!r} is {twin!r} in the FASTA: give both files the same names, "
                    f"{_rename(name, twin)}"
                )
        if not self.names.keys() & self.lengths.keys():
            raise InputError(
                f"{self.path}: no record in common with the FASTA ({next(iter(self.names))!r} here, "
                f"{next(iter(self.lengths), 'none')!r} there): take the annotation of that very assembly"
            )

    def transcripts(self) -> list[Transcript]:
        self._check_ends()
        orphans = [key for key in self.first_seen if key[1] is None and key[0] not in self.features]
        if len(orphans) > MOST_ORPHANS * len(self.first_seen):
            raise InputError(
                f"{self.first_seen[orphans[0]]}: the exon's Parent {orphans[0][0]!r} has no row of its own: "
                f"{len(orphans)} of {len(self.first_seen)} transcripts lack theirs, keep the mRNA rows in the GFF3"
            )
        known = []
        for transcript, by_strand in self.exons.items():
            if transcript not in self.dropped:
                for strand, exons in by_strand.items():
                    known += self._of_strand(transcript, strand, exons)
        return known

    def _check_ends(self) -> None:
        """Drop transcripts that cross the origin of a circular record; refuse exons that lie beyond another."""
        for where, start, end, transcript in self.beyond:
            length = self.lengths[transcript[2]]
            if transcript[2] not in self.circular and start >= length:
                raise InputError(
                    f"{where}: the exon ends at {end}, beyond record {transcript[2]} of {length} nt: "
                    "the FASTA is a piece or another build"
                )
            self._drop(transcript, "transcripts that cross the end of their record, as on a circular one")

    def _of_strand(self, transcript: tuple[str, str | None, str], strand: str, exons: list[_Exon]) -> list[Transcript]:
        """The transcripts of one name on one strand: one, but for parts of a GFF3's feature and trans-splicing."""
        name, gene, chrom = transcript
        groups: dict[_Feature | None, list[_Exon]] = {}
        for exon in exons:
            groups.setdefault(None if gene else self._feature(name, chrom, exon), []).append(exon)
        known = []
        for feature, of_feature in groups.items():
            top, symbol, spliced = (gene, self.symbol_of.get((chrom, gene or "")), False)
            if gene is None:
                top, symbol, spliced = self._gene(name, feature)
            spliced = spliced or transcript in self.trans_spliced or _is_out_of_order(of_feature)
            for part in [[exon] for exon in of_feature] if spliced else [of_feature]:
                traits = {"orphan": gene is None and feature is None, "in_ccds": (chrom, name) in self.in_ccds}
                known.append(Transcript(name, top, chrom, strand, _disjoint(part), symbol=symbol or top, **traits))
        return known

    def _feature(self, name: str, chrom: str, place: _Exon | _Feature) -> _Feature | None:
        rows = self.features.get(name)
        if not rows or len(rows) == 1:
            return rows[0] if rows else None
        return min(rows, key=lambda row: (row.chrom != chrom, not row.start <= place.start < place.end <= row.end))

    def _gene(self, name: str, feature: _Feature | None) -> tuple[str, str, bool]:
        """(ID, symbol, whether any row above says trans-splicing) of the gene at the top of a transcript."""
        seen, spliced, symbol = {name}, False, ""
        while feature is not None:
            spliced, symbol = spliced or feature.is_trans_spliced, feature.symbol
            if feature.parent is None or feature.parent in seen:
                break
            name = feature.parent
            seen.add(name)
            feature = self._feature(name, feature.chrom, feature)
            symbol = ""
        return name, symbol, spliced


def _symbol(attributes: dict[str, str]) -> str:
    return next((attributes[key] for key in _SYMBOLS if attributes.get(key)), "")


def _owners(attributes: dict[str, str], is_gff3: bool) -> tuple[list[str], str | None]:
    """(transcripts, gene) that an exon names; GFF3 has the gene in the rows of the transcripts."""
    if is_gff3:
        return _decoded(attributes.get("Parent")), None
    transcript = attributes.get("transcript_id")
    return [transcript] if transcript else [], attributes.get("gene_id") or transcript or None


def _is_trans_spliced(attributes: dict[str, str]) -> bool:
    return attributes.get("exception", "").lower().replace("_", "-").replace(" ", "-") == "trans-splicing"


def _is_out_of_order(exons: list[_Exon]) -> bool:
    """Whether the exons' ranks neither ascend nor descend along the record: they were joined from elsewhere."""
    starts = [exon.start for exon in sorted(exons, key=lambda exon: (exon.rank, exon.start))]
    return len({exon.rank for exon in exons}) > 1 and starts not in (sorted(starts), sorted(starts, reverse=True))


def _interval(row: _Row) -> tuple[int, int]:
    """1-based inclusive, as written -> 0-based half-open."""
    if not (is_whole_number(row.start) and is_whole_number(row.end)) or int(row.start) < 1:
        raise InputError(f"{row.where}: start {row.start!r} and end {row.end!r} must be whole numbers from 1")
    if int(row.start) > int(row.end):
        raise InputError(f"{row.where}: the exon starts at {row.start}, after its end at {row.end}")
    if row.strand not in ("+", "-", ".", "?"):
        raise InputError(f"{row.where}: exon on strand {row.strand!r}, expected + or -, or . for none")
    return int(row.start) - 1, int(row.end)


def _disjoint(exons: list[_Exon]) -> np.ndarray:
    merged: list[list[int]] = []
    for start, end, _ in sorted(exons):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, dtype=np.int64)


def other_spelling(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name` spelt differently ('9' for 'chr9'), unless `name` is among them itself."""
    spelt = by_bare_name(names)
    return spelt.get(bare_name(name)) if name not in spelt.values() else None


def by_bare_name(names: Iterable[str]) -> dict[str, str]:
    """{`bare_name` of each: itself}."""
    return {bare_name(name): name for name in names}


def bare_name(name: str) -> str:
    """A record's name without the differences between UCSC, Ensembl and TAIR: chr9, Chr9, 9; chrM, MT."""
    bare = name.lower().removeprefix("chr")
    return "m" if bare == "mt" else bare


def _rename(name: str, twin: str) -> str:
    if name == f"chr{twin}":
        return "for one by removing 'chr' from the annotation's: sed 's/^chr//'"
    if twin == f"chr{name}":
        return "for one by adding 'chr' to the annotation's: sed '/^#/!s/^/chr/'"
    return "for one by renaming the annotation's"

"""Real genes and introns that packages carry in forms of their own, written as FASTA and GTF."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from simcsp.core.errors import InputError

LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_LINE = 100  # bases per line of FASTA
_TABLE = "record chrom strand hg19_start hg19_end hg38_start hg38_end transcript length introns".split()
_GAP = 100 * "N"  # for bases that are left out, as NCBI writes a gap of unknown length
_INTRON = re.compile(r"^(?P<species>[^-]+)-(?P<gene>.+?)@(?P<transcript>.+)$")


class Gene(NamedTuple):
    """A record of its own, on the transcript's strand. exons: 0-based, half-open [n, 2]."""

    name: str
    gene: str
    transcript: str
    bases: bytes
    exons: np.ndarray


def genes_from_npz(archive: Path, coordinates: Path, out: Path) -> None:
    """Whole genes in SpliceAI's layout -> {chr1,chr3,unplaced}.{fa,gtf} and genes.tsv in `out`.

    archive: for gene i `x{i}` one-hot over A, C, G, T [length, 4] and `y{i}` [length, 3] = neither, acceptor, donor, at
    the exon's base of the boundary. coordinates: JSON {i: gene, transcript, chrom, strand, and start (1-based) and end
    (inclusive) in either build}; a gene without an entry goes to `unplaced`. Raises InputError for another layout.
    """
    places = json.loads(coordinates.read_text(encoding="utf-8"))
    parts: dict[str, list[Gene]] = {}
    rows = ["\t".join(_TABLE)]
    with np.load(archive, allow_pickle=False) as arrays:
        for number in sorted(int(name[1:]) for name in arrays.files if name.startswith("x")):
            place = places.get(str(number), {})
            bases, labels = arrays[f"x{number}"], arrays[f"y{number}"]
            name = place.get("gene", f"gene{number}")
            gene = Gene(
                name, name, place.get("transcript", name), _letters(bases), _exons(labels, f"{archive}, y{number}")
            )
            parts.setdefault(place.get("chrom", "unplaced"), []).append(gene)
            known = {"record": name, "length": len(bases), "introns": len(gene.exons) - 1} | place
            rows.append("\t".join(str(known.get(column, "")) for column in _TABLE))
    for part, genes in parts.items():
        _write(genes, out / part)
    (out / "genes.tsv").write_text("\n".join(rows) + "\n")


def introns_from_iic(table: Path, out: Path) -> None:
    """Whole introns with bases of both exons about them -> out.fa and out.gtf, a record an intron.

    table: lines of `SPECIES-GENE@TRANSCRIPT-intron_I(N)`, score, exon, intron, exon, separated by tabs. Where an intron
    is cut short (`/.../` between its first and last 500 bases) the record has 100 N. Raises InputError with the line.
    """
    records = []
    with gzip.open(table, "rt") as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("#"):
                continue
            fields = line.rstrip("\n").split("\t")
            if len(fields) < 5 or not (parts := _INTRON.match(fields[0])):
                raise InputError(f"{table}, line {number}: expected SPECIES-GENE@TRANSCRIPT, score, exon, intron, exon")
            name = fields[0].partition(";")[0]
            upstream, intron, downstream = (part.replace("/.../", _GAP) for part in fields[2:5])
            ends = np.cumsum([len(upstream), len(intron), len(downstream)])
            exons = np.array([[0, ends[0]], [ends[1], ends[2]]])
            gene, transcript = (f"{parts['species']}-{parts[key]}" for key in ("gene", "transcript"))
            records.append(Gene(name, gene, transcript, (upstream + intron + downstream).encode(), exons))
    _write(records, out)


def _letters(bases: np.ndarray) -> bytes:
    """One-hot [length, 4] -> letters; a row of zeros is N."""
    return LETTERS[np.where(bases.any(1), bases.argmax(1), 4)].tobytes()


def _exons(labels: np.ndarray, where: str) -> np.ndarray:
    """Exons [n, 2] of the labels of one gene [length, 3]."""
    acceptors, donors = np.flatnonzero(labels[:, 1]), np.flatnonzero(labels[:, 2])
    exons = (
        np.stack([np.append(0, acceptors), np.append(donors + 1, len(labels))], axis=1)
        if (len(acceptors) == len(donors))
        else np.empty((0, 2))
    )
    if not len(exons) or (exons[:, 0] >= exons[:, 1]).any() or (exons[1:, 0] < exons[:-1, 1]).any():
        raise InputError(f"{where}: donors and acceptors do not alternate: this is another layout")
    return exons


def write_record(fasta: BinaryIO, name: str, letters: bytes) -> None:
    """A record of a FASTA file."""
    fasta.write(b">" + name.encode() + b"\n")
    fasta.writelines(letters[start : start + _LINE] + b"\n" for start in range(0, len(letters), _LINE))


def _write(genes: Iterable[Gene], out: Path) -> None:
    with open(f"{out}.fa", "wb") as fasta, open(f"{out}.gtf", "w", encoding="utf-8") as gtf:
        for gene in genes:
            write_record(fasta, gene.name, gene.bases)
            for start, end in gene.exons.tolist():
                ids = f'gene_id "{gene.gene}"; transcript_id "{gene.transcript}";'
                gtf.write(f"{gene.name}\tdata\texon\t{start + 1}\t{end}\t.\t+\t.\t{ids}\n")

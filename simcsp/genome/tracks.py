"""Scores of sites as TSV, BED, bedGraph or bigWig."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.files import replacing
from simcsp.genome.scan import Scored
from simcsp.text.alphabet import decode, reverse_complement
from simcsp.text.sites import KINDS, MINUS
from simcsp.text.store import TokenStore

FORMATS = ("tsv", "bed", "bedgraph", "bigwig", "spsc")
SITE_SHARE = {"donor": 153 / 101_777, "acceptor": 146 / 141_476}
"""Of all GT and of all AG, on GRCh38 chr9:0-1 Mb: what a score of spsc is the odds against."""
SPSC_RANGE = (-7, 13)
"""Of minisplice's scores, in half bits."""
COLUMNS = ("chrom", "position", "strand", "type", "score", "motif")


def write_scores(
    handle: TextIO, form: str, store: TokenStore, blocks: Iterator[Scored], scratch: Path | None = None
) -> int:
    """Write blocks that ascend by position as they come; returns the number of sites.

    form: tsv, COLUMNS under a header line, by position. bed: six columns, the two motif bases, by start; score 1000 P,
    name TYPE|P. bedgraph: a track for each type and strand, at the exon's base, so that no two entries of a track
    overlap; tracks wait in `scratch` (None: the system's place) to be joined. spsc: minisplice's table for --spsc of
    minimap2 and miniprot: record, boundary (0-based), strand, D or A, and 2 log2(P / SITE_SHARE), rounded, within
    SPSC_RANGE.
    """
    if form == "bedgraph":
        return _write_tracks(handle, store, blocks, scratch)
    if form == "tsv":
        handle.write("\t".join(COLUMNS) + "\n")
    count = 0
    rows = {"tsv": _tsv_rows, "bed": _bed_rows, "spsc": _spsc_rows}[form]
    for block in _by_start(blocks) if form == "bed" else blocks:
        handle.writelines(rows(store, block))
        count += len(block)
    return count


def _tsv_rows(store: TokenStore, block: Scored) -> Iterator[str]:
    sites = block.sites
    motifs = store.windows(store.offsets[sites.record] + sites.motif_start, 2)
    minus = MINUS[sites.kind]
    motifs[minus] = reverse_complement(motifs[minus])
    letters = decode(motifs.ravel())
    for i, (record, position, number) in enumerate(zip(sites.record, sites.position, sites.kind)):
        kind, motif = KINDS[number], letters[2 * i : 2 * i + 2]
        name = store.records[record].name
        yield f"{name}\t{position}\t{kind.strand}\t{kind.type}\t{block.score[i]:.4f}\t{motif}\n"


def _bed_rows(store: TokenStore, block: Scored) -> Iterator[str]:
    for i, (record, start, number) in enumerate(zip(block.sites.record, block.sites.motif_start, block.sites.kind)):
        kind, score = KINDS[number], block.score[i]
        name = f"{kind.type}|{score:.4f}"
        yield f"{store.records[record].name}\t{start}\t{start + 2}\t{name}\t{round(1000 * score)}\t{kind.strand}\n"


def _spsc_rows(store: TokenStore, block: Scored) -> Iterator[str]:
    share = np.array([SITE_SHARE[kind.type] for kind in KINDS])[block.sites.kind]
    scores = np.clip(np.round(2 * np.log2(np.maximum(block.score, 1e-9) / share)), *SPSC_RANGE).astype(int)
    for record, boundary, number, score in zip(block.sites.record, block.sites.boundary, block.sites.kind, scores):
        kind = KINDS[number]
        yield f"{store.records[record].name}\t{boundary}\t{kind.strand}\t{kind.type[0].upper()}\t{score}\n"


def _by_start(blocks: Iterator[Scored]) -> Iterator[Scored]:
    """Blocks that ascend by position -> ascending by the motif's start."""
    waiting: Scored | None = None
    for block in blocks:
        if not len(block):
            continue
        block = block if waiting is None else Scored.joined([waiting, block])
        block = block.take(np.lexsort((block.sites.motif_start, block.sites.record)))
        last = block.sites.record == block.sites.record[-1]
        # A site that is still to come lies at this position or beyond, and its motif starts at most three bases before.
        ahead = last & (block.sites.motif_start >= block.sites.position[last].max() - 3)
        yield block.take(~ahead)
        waiting = block.take(ahead)
    if waiting is not None:
        yield waiting


def _write_tracks(handle: TextIO, store: TokenStore, blocks: Iterator[Scored], scratch: Path | None) -> int:
    count = 0
    with ExitStack() as stack:
        tracks = [
            stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=scratch)) for _ in range(len(KINDS))
        ]
        for block in blocks:
            sites, position = block.sites, block.sites.position
            count += len(block)
            for number, track in enumerate(tracks):
                track.writelines(
                    f"{store.records[sites.record[i]].name}\t{position[i] - 1}\t{position[i]}\t{block.score[i]:.4f}\n"
                    for i in np.flatnonzero(sites.kind == number)
                )
        for kind, track in zip(KINDS, tracks):
            if track.tell():
                described = f"P({kind.type}), {kind.strand} strand"
                handle.write(f'track type=bedGraph name="{kind.type} {kind.strand}" description="{described}"\n')
                track.seek(0)
                shutil.copyfileobj(track, handle)
    return count


def write_bigwigs(stem: Path, store: TokenStore, blocks: Iterator[Scored]) -> tuple[int, list[Path]]:
    """bigWig tracks STEM.TYPE.plus.bw and STEM.TYPE.minus.bw of P, at the exon's base; (sites, files).

    Raises InputError where pybigtools is not installed.
    """
    try:
        import pybigtools
    except ImportError:
        raise InputError("--format bigwig needs pybigtools: pip install pybigtools") from None
    values: dict[int, list[tuple[np.ndarray, ...]]] = {number: [] for number in range(len(KINDS))}
    count = 0
    for block in blocks:
        count += len(block)
        for number, parts in values.items():
            of_kind = block.take(block.sites.kind == number)
            parts.append((of_kind.sites.record, of_kind.sites.position, of_kind.score.astype(np.float32)))
    lengths = {record.name: record.length for record in store.records}
    names, written = [record.name for record in store.records], []
    for number, parts in values.items():
        kind = KINDS[number]
        record, position, score = (np.concatenate(column) for column in zip(*parts)) if parts else ((), (), ())
        if len(record):
            path = stem.with_name(f"{stem.name}.{kind.type}.{'plus' if kind.strand == '+' else 'minus'}.bw")
            rows = zip(record.tolist(), position.tolist(), score.tolist())
            with replacing(path) as aside:
                pybigtools.open(str(aside), "w").write(lengths, ((names[r], p - 1, p, value) for r, p, value in rows))
            written.append(path)
    return count, written

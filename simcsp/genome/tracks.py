"""Scores of sites as TSV, BED, bedGraph or bigWig."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.files import replacing
from simcsp.genome.scan import Scored
from simcsp.text.alphabet import decode
from simcsp.text.sites import KINDS, MINUS
from simcsp.text.store import TokenStore

FORMATS = ("tsv", "bed", "bedgraph", "bigwig", "spsc")
SITE_SHARE = {"donor": 153 / 101_777, "acceptor": 146 / 141_476}
"""Of all GT and of all AG, on GRCh38 chr9:0-1 Mb: what a score of spsc is the odds against."""
SPSC_RANGE = (-7, 13)
"""Of minisplice's scores, in half bits."""
_FOUR_DECIMALS = np.array([f"{number / 10_000:.4f}" for number in range(10_001)], dtype=object)
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
    rows = {"tsv": _tsv_rows, "bed": _bed_rows, "spsc": _spsc_rows}[form]
    blocks = _by_start(blocks) if form == "bed" else blocks
    return _write_beside(blocks, lambda block: handle.writelines(rows(store, block)))


def _write_beside(blocks: Iterator[Scored], write: Callable[[Scored], None]) -> int:
    """Write each block in a thread while the model scores the next; returns the number of sites."""
    count, written = 0, None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for block in blocks:
            if written is not None:
                written.result()
            written = writer.submit(write, block)
            count += len(block)
        if written is not None:
            written.result()
    return count


# Rows are joined from columns that were looked up as arrays: taken value by value they cost several times as much.


def _names(store: TokenStore, block: Scored) -> list[str]:
    numbers, places = np.unique(block.sites.record, return_inverse=True)
    return np.array([store.records[number].name for number in numbers], dtype=object)[places].tolist()


def _of_kind(block: Scored, texts: list[str]) -> list[str]:
    return np.array(texts, dtype=object)[block.sites.kind].tolist()


def _decimals(block: Scored) -> list[str]:
    return _FOUR_DECIMALS[np.rint(10_000 * block.score).astype(np.intp)].tolist()


def _tsv_rows(store: TokenStore, block: Scored) -> list[str]:
    sites = block.sites
    motifs = store.windows(store.offsets[sites.record] + sites.motif_start, 2, MINUS[sites.kind])
    letters = decode(motifs.ravel())
    kinds = _of_kind(block, [f"{kind.strand}\t{kind.type}" for kind in KINDS])
    columns = _names(store, block), sites.position.tolist(), kinds, _decimals(block), letters[::2], letters[1::2]
    return [f"{name}\t{at}\t{kind}\t{score}\t{one}{two}\n" for name, at, kind, score, one, two in zip(*columns)]


def _bed_rows(store: TokenStore, block: Scored) -> list[str]:
    types, strands = (_of_kind(block, [getattr(kind, field) for kind in KINDS]) for field in ("type", "strand"))
    thousandths = np.rint(1000 * block.score).astype(int).tolist()
    columns = _names(store, block), block.sites.motif_start.tolist(), types, _decimals(block), thousandths, strands
    return [
        f"{name}\t{at}\t{at + 2}\t{kind}|{score}\t{thousandth}\t{strand}\n"
        for name, at, kind, score, thousandth, strand in zip(*columns)
    ]


def _spsc_rows(store: TokenStore, block: Scored) -> list[str]:
    share = np.array([SITE_SHARE[kind.type] for kind in KINDS])[block.sites.kind]
    scores = np.clip(np.round(2 * np.log2(np.maximum(block.score, 1e-9) / share)), *SPSC_RANGE).astype(int)
    kinds = _of_kind(block, [f"{kind.strand}\t{kind.type[0].upper()}" for kind in KINDS])
    columns = _names(store, block), block.sites.boundary.tolist(), kinds, scores.tolist()
    return [f"{name}\t{at}\t{kind}\t{score}\n" for name, at, kind, score in zip(*columns)]


def _by_start(blocks: Iterator[Scored]) -> Iterator[Scored]:
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
    with ExitStack() as stack:
        tracks = [
            stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=scratch)) for _ in range(len(KINDS))
        ]

        def write(block: Scored) -> None:
            for number, track in enumerate(tracks):
                of_kind = block.take(block.sites.kind == number)
                columns = _names(store, of_kind), of_kind.sites.position.tolist(), _decimals(of_kind)
                track.writelines([f"{name}\t{at - 1}\t{at}\t{score}\n" for name, at, score in zip(*columns)])

        count = _write_beside(blocks, write)
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
    names, written = list(store.lengths), []
    for number, parts in values.items():
        kind = KINDS[number]
        record, position, score = (np.concatenate(column) for column in zip(*parts)) if parts else ((), (), ())
        if len(record):
            path = stem.with_name(f"{stem.name}.{kind.type}.{'plus' if kind.strand == '+' else 'minus'}.bw")
            rows = zip(record.tolist(), position.tolist(), score.tolist())
            entries = ((names[number], at - 1, at, value) for number, at, value in rows)
            with replacing(path) as aside:
                pybigtools.open(str(aside), "w").write(store.lengths, entries)
            written.append(path)
    return count, written

"""A scan that is stopped at any instant, and goes on from its journal to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from simcsp.genome.journal import Journal
from simcsp.genome.regions import spans_after
from simcsp.genome.scan import Scan, Scored
from simcsp.text.sites import Sites

_COLUMNS = (("record", np.int32), ("boundary", np.int64), ("kind", np.uint8))


def scan_on(scan: Scan, min_score: float, journal: Journal | None) -> Iterator[tuple[Scored, int, int]]:
    """(sites of at least min_score, sites scored, positions passed) of all spans, those of the journal first."""
    done = 0
    for payload in journal.entries() if journal else ():
        facts, _, rest = payload.partition(b"\n")
        entry = json.loads(facts)
        done += entry["passed"]
        yield _unpacked(rest, entry["kept"]), entry["scored"], entry["passed"]
    for block, passed in scan.blocks(spans_after(scan.spans, done)):
        kept = block.take(block.score >= min_score)
        if journal:
            entry = {"kept": len(kept), "scored": len(block), "passed": passed}
            journal.add(json.dumps(entry).encode() + b"\n" + _packed(kept))
        yield kept, len(block), passed


def _packed(block: Scored) -> bytes:
    columns = [getattr(block.sites, name).astype(dtype) for name, dtype in _COLUMNS]
    return b"".join(column.tobytes() for column in (*columns, block.score))


def _unpacked(content: bytes, count: int) -> Scored:
    columns, start = [], 0
    for dtype in (*(dtype for _, dtype in _COLUMNS), np.float64):
        columns.append(np.frombuffer(content, dtype, count, start))
        start += columns[-1].nbytes
    record, boundary, kind, score = columns
    return Scored(Sites(record.astype(np.intp), boundary, kind.astype(np.intp)), score)

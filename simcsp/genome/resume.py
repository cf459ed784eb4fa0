"""A scan that is stopped at any instant, and goes on from its journal to the same bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from simcsp.genome.journal import Journal
from simcsp.genome.regions import Span, spans_after
from simcsp.genome.scan import Scored
from simcsp.text.sites import Sites

_COLUMNS = (("record", np.int32), ("boundary", np.int64), ("kind", np.uint8))


def scan_on(
    blocks: Callable[[Sequence[Span]], Iterator[tuple[Scored, int]]],
    spans: Sequence[Span],
    min_score: float,
    skipped: Counter[str],
    journal: Journal | None,
) -> Iterator[tuple[Scored, int, int]]:
    """(sites of at least min_score, sites scored, positions passed) of all spans, those of the journal first.

    blocks: spans -> (scored sites, positions passed), where the next block depends on what is left alone.
    """
    done = 0
    for payload in journal.entries() if journal else ():
        facts, _, rest = payload.partition(b"\n")
        entry = json.loads(facts)
        skipped.update(entry["skipped"])
        done += entry["passed"]
        yield _unpacked(rest, entry["kept"], entry["sd"]), entry["scored"], entry["passed"]
    before = Counter(skipped)
    for block, passed in blocks(spans_after(spans, done)):
        kept = block.take(block.mean >= min_score)
        if journal:
            has_sd = bool(np.isfinite(kept.sd).any())
            entry = {"kept": len(kept), "scored": len(block), "passed": passed, "sd": has_sd}
            journal.add(json.dumps({**entry, "skipped": skipped - before}).encode() + b"\n" + _packed(kept, has_sd))
            before = Counter(skipped)
        yield kept, len(block), passed


def _packed(block: Scored, has_sd: bool) -> bytes:
    columns = [getattr(block.sites, name).astype(dtype) for name, dtype in _COLUMNS]
    columns += [block.mean.astype(np.float64)] + ([block.sd.astype(np.float64)] if has_sd else [])
    return b"".join(column.tobytes() for column in columns)


def _unpacked(content: bytes, count: int, has_sd: bool) -> Scored:
    columns, start = [], 0
    for dtype in (*(dtype for _, dtype in _COLUMNS), *[np.float64] * (1 + has_sd)):
        columns.append(np.frombuffer(content, dtype, count, start))
        start += columns[-1].nbytes
    record, boundary, kind, mean, *sd = columns
    sites = Sites(record.astype(np.intp), boundary, kind.astype(np.intp))
    return Scored(sites, mean, sd[0] if has_sd else np.full(count, np.nan))

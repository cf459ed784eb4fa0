"""What a model of bases says about a genome: the sites of spans of its records, on both strands.

A site is a GT (donor) or AG (acceptor), or any two bases; its score is that of the exon's base at its boundary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from simcsp.core.ahead import one_ahead
from simcsp.genome.journal import Journal
from simcsp.genome.regions import Span, spans_after
from simcsp.model.bases import TYPES, Labeller
from simcsp.model.embedding import check_numbers
from simcsp.text.alphabet import N
from simcsp.text.sites import MINUS, SITES, TYPE, Sites, find_sites
from simcsp.text.store import TokenStore


@dataclass(frozen=True)
class Scored:
    """Sites with their calibrated P(site), float64 [n]."""

    sites: Sites
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: np.ndarray) -> Self:
        return Scored(self.sites.take(index), self.score[index])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        columns = (np.concatenate([getattr(part.sites, name) for part in parts]) for name in Sites.__dataclass_fields__)
        return cls(Sites(*columns), np.concatenate([part.score for part in parts]))


@dataclass(frozen=True)
class Scan:
    """Which sites of a store are scored, by a model of bases, and of those which are kept.

    types: 'donor', 'acceptor' or both; every: whatever two bases stand there, not GT and AG alone; min_score: sites of
    at least this score are kept.
    """

    store: TokenStore
    labeller: Labeller
    spans: Sequence[Span]
    types: Sequence[str] = SITES
    every: bool = False
    min_score: float = 0.0

    @property
    def positions(self) -> int:
        return sum(last - first + 1 for _, first, last in self.spans)

    def blocks(self, spans: Sequence[Span]) -> Iterator[tuple[Scored, int]]:
        """(scored sites, positions passed) of some of the spans, ascending; each base is read once.

        Chunks lie on a grid of the record, whatever the spans, so a score does not depend on the region that is asked
        for."""
        for of_pass in self._passes(spans):
            if len({number for number, *_ in of_pass}) > 1:
                yield self._label_short_records(of_pass)
            else:
                yield from self._label_record(of_pass)

    def _passes(self, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """The spans in groups: those on short records that fit in one pass of the model together, those of one longer
        record together. So a genome of many contigs costs its bases, not a pass a contig."""
        group: list[Span] = []
        room = self.labeller.chunk
        for span in spans:
            if not group or span[0] != group[-1][0]:
                needed = self.labeller.room_of(self.store.records[span[0]])
                if group and needed > room:
                    yield group
                    group, room = [], self.labeller.chunk
                room -= needed
            group.append(span)
        if group:
            yield group

    def _label_short_records(self, spans: Sequence[Span]) -> tuple[Scored, int]:
        numbers = list(dict.fromkeys(number for number, *_ in spans))
        records = [self.store.records[number] for number in numbers]
        sites = [self._sites_between(*span) for span in spans]
        odds = self.labeller.packed_odds(self.store, records) if any(map(len, sites)) else []
        chances = {number: self.labeller.probabilities(of_record) for number, of_record in zip(numbers, odds)}
        for record, number in zip(records, chances):
            check_numbers(chances[number], record.name)
        scored = [_scored(of_span, chances.get(span[0]), 0) for span, of_span in zip(spans, sites)]
        return Scored.joined(scored), sum(last - first + 1 for _, first, last in spans)

    def _label_record(self, spans: Sequence[Span]) -> Iterator[tuple[Scored, int]]:
        """Of one record, some chunks a pass; a GPU is at the next one while sites of this one are written."""
        labeller, record = self.labeller, self.store.records[spans[0][0]]
        size = labeller.chunk

        def parts() -> Iterator[Part]:
            scored: set[int] = set()  # the chunks of the pass before: short regions share them
            for number, first, last in spans:
                chunks = range((first - 1) // size, (last - 1) // size + 1)
                for some in (chunks[i : i + labeller.at_once] for i in range(0, len(chunks), labeller.at_once)):
                    ends = [(max(first, chunk * size + 1), min(last, (chunk + 1) * size)) for chunk in some]
                    sites = [self._sites_between(number, low, high) for low, high in ends]
                    wanted = [chunk for chunk, of_chunk in zip(some, sites) if len(of_chunk) and chunk not in scored]
                    if wanted:
                        scored = scored.intersection(some) | set(wanted)
                    yield Part(some, ends, sites, wanted)

        def with_odds(part: Part) -> tuple[Part, list[np.ndarray]]:
            return part, labeller.chunks_odds(self.store, record, part.wanted) if part.wanted else []

        known: dict[int, np.ndarray] = {}  # chances of these chunks
        for part, odds in one_ahead(with_odds, parts(), thread=labeller.device.type == "cuda"):
            if part.wanted:
                known = {chunk: known[chunk] for chunk in part.chunks if chunk in known}
                known |= dict(zip(part.wanted, map(labeller.probabilities, odds)))
                for chunk, (low, high) in zip(part.chunks, part.ends):
                    check_numbers(known.get(chunk, np.zeros(0)), f"{record.name}:{low}-{high}")
            for chunk, of_chunk, (low, high) in zip(part.chunks, part.sites, part.ends):
                yield _scored(of_chunk, known.get(chunk), chunk * size), high - low + 1

    def _sites_between(self, number: int, low: int, high: int) -> Sites:
        record = self.store.records[number]
        begin, end = max(low - 4, 0), min(high + 4, record.length)
        ids = self.store.fetch(record.name, begin, end)
        boundary, kind = find_sites(ids, self.types, self.every)
        sites = Sites(np.full(len(boundary), number), boundary + begin, kind)
        sites = sites.take((sites.position >= low) & (sites.position <= high))
        return sites.take(ids[sites.position - 1 - begin] != N)


_COLUMNS = (("record", np.int32), ("boundary", np.int64), ("kind", np.uint8))


def scan_on(scan: Scan, min_score: float, journal: Journal | None) -> Iterator[tuple[Scored, int, int]]:
    """(sites of at least min_score, sites scored, positions passed) of all spans, those of the journal first: a scan
    that is stopped at any instant goes on to the same bytes."""
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
            columns = [getattr(kept.sites, name).astype(dtype) for name, dtype in _COLUMNS]
            content = b"".join(column.tobytes() for column in (*columns, kept.score))
            journal.add(json.dumps(entry).encode() + b"\n" + content)
        yield kept, len(block), passed


def _unpacked(content: bytes, count: int) -> Scored:
    columns, start = [], 0
    for dtype in (*(dtype for _, dtype in _COLUMNS), np.float64):
        columns.append(np.frombuffer(content, dtype, count, start))
        start += columns[-1].nbytes
    record, boundary, kind, score = columns
    return Scored(Sites(record.astype(np.intp), boundary, kind.astype(np.intp)), score)


class Part(NamedTuple):
    """What one pass is for: chunks, the first and last position wanted of each, its sites, and the chunks to score."""

    chunks: Sequence[int]
    ends: list[tuple[int, int]]
    sites: list[Sites]
    wanted: list[int]


def _scored(sites: Sites, chances: np.ndarray | None, start: int) -> Scored:
    """Sites of one record with their scores. chances: P [2 strands, bases, 2] of it from base `start` (0-based) on."""
    if not len(sites):
        return Scored(sites, np.zeros(0))
    column = (TYPE[sites.kind] == TYPES[1]).astype(np.intp)
    score = chances[MINUS[sites.kind].astype(np.intp), sites.position - 1 - start, column]
    return Scored(sites, score.astype(np.float64))

"""Which windows of a store a training run reads, and the stretches that they may be cut from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from simcsp.core.errors import InputError
from simcsp.text.alphabet import N
from simcsp.text.store import Record, TokenStore

_REGION = re.compile(r"(?P<name>.+):(?P<start>\d+)-(?P<end>\d+)")


@dataclass(frozen=True)
class Intervals:
    """Stretches of a store that windows may be cut from. All arrays have one entry an interval."""

    start: np.ndarray
    """int64, index into the store."""
    length: np.ndarray
    """int64, nt."""
    minus: np.ndarray
    """bool: read on the reverse strand (where the sampler does not read both anyway)."""
    odds: np.ndarray
    """float: how likely each of its windows is to be drawn, relative to the others' (random sampling only)."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def sha256(self) -> str:
        """Hash of all four arrays: with the store's, the identity of what a run reads."""
        digest = hashlib.sha256()
        for name in self.__dataclass_fields__:
            digest.update(np.ascontiguousarray(getattr(self, name)))
        return digest.hexdigest()

    def take(self, index: np.ndarray) -> Self:
        return Intervals(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


class Span(NamedTuple):
    """A stretch of a record, 0-based and half-open."""

    record: Record
    start: int
    end: int

    def holds(self, start: int, end: int) -> bool:
        return self.start <= start and end <= self.end


def wanted_spans(store: TokenStore, names: list[str] | None = None, field: str = "data.records") -> list[Span]:
    """The stretches that data.records (or another field) names, in the store's order; None: all records.

    names: of records, or NAME:START-END (1-based, inclusive). Raises InputError for one that does not exist, reaches
    beyond its record or overlaps another.
    """
    if names is None:
        return [Span(record, 0, record.length) for record in store.records]
    if not names:
        raise InputError(f"{field} is empty: name the records to train on, or null for all")
    spans = [_span(store, name, field) for name in set(names)]
    spans.sort(key=lambda span: (span.record.offset, span.start))
    for before, after in pairwise(spans):
        if before.record == after.record and after.start < before.end:
            raise InputError(f"{field}: two regions of {before.record.name!r} overlap: name one that holds both")
    return spans


def _span(store: TokenStore, name: str, field: str) -> Span:
    record = store.by_name.get(name)
    if record:
        return Span(record, 0, record.length)
    region = _REGION.fullmatch(name)
    record = store.by_name.get(region["name"]) if region else None
    if record is None:
        known = f"{store.records[0].name!r}{', ...' if len(store.records) > 1 else ''}"
        raise InputError(f"{field}: no record {name!r} in {store.manifest['sources']}: their names are {known}")
    start, end = int(region["start"]) - 1, int(region["end"])
    if not 0 <= start < end <= record.length:
        raise InputError(f"{field}: {name} is not an interval of {record.name}, which has bases 1 to {record.length}")
    return Span(record, start, end)


def whole_records(store: TokenStore, names: list[str] | None = None) -> Intervals:
    """The records of a store, or what data.records names of them, as intervals."""
    return as_intervals(wanted_spans(store, names))


def as_intervals(spans: list[Span]) -> Intervals:
    """Spans as intervals of the forward strand, all with the same odds."""
    return Intervals(
        np.array([span.record.offset + span.start for span in spans]),
        np.array([span.end - span.start for span in spans]),
        np.zeros(len(spans), dtype=bool),
        np.ones(len(spans)),
    )


def acceptable(store: TokenStore, starts: np.ndarray, length: int, max_n_share: float) -> np.ndarray:
    """bool [n]: windows from `starts` of which at most such a share is N."""
    return np.count_nonzero(store.windows(starts, length) == N, axis=1) <= max_n_share * length


class WindowSampler:
    """Which windows of a store a training run reads; a pure function of (seed, step), so resuming needs no state.

    store, length: where from and how many nt. sampling: `random` starts anywhere, `strided` takes every `stride`-th
    start of each interval in an order shuffled for each epoch. both_strands: half of the windows, at random, are read
    on the reverse strand. max_n_share: windows with a larger share of N are left out. intervals: where windows may lie;
    None: anywhere in the store's records.
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        sampling: str = "random",
        stride: int | None = None,
        both_strands: bool = True,
        max_n_share: float = 0.05,
        intervals: Intervals | None = None,
        seed: int = 0,
    ) -> None:
        intervals = whole_records(store) if intervals is None else intervals
        self.intervals = intervals.take(intervals.length >= length)
        if not len(self.intervals):
            raise InputError(
                f"data.window ({length} nt) is longer than every record or gene of {store.manifest['sources']} "
                f"(longest {intervals.length.max(initial=0)} nt)"
            )
        self.store = store
        self.length = length
        self.seed = seed
        self.both_strands = both_strands
        self.max_n_share = max_n_share
        self.starts, self._epoch = None, (-1, np.array([]))  # the order of the epoch that is being read
        if sampling == "strided":
            self.starts, self._minus = self._strided_starts(stride or length)
        else:
            # Random starts are drawn as one number below the sum of all intervals' odds.
            self._counts = self.intervals.length - length + 1
            self._cumulative = np.cumsum(self._counts * self.intervals.odds)
            self._random_starts(np.random.default_rng([seed, 0]), 1)

    def __len__(self) -> int:
        """Distinct windows of one strand (strided: after the filters; random: before them)."""
        return len(self.starts) if self.starts is not None else int(self._counts.sum())

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The windows of a training step, uint8 [batch_size, length]."""
        rng = np.random.default_rng([self.seed, 1, step])
        if self.starts is not None:
            index = self._shuffled(step, batch_size)
            return self._read(self.starts[index], self._minus[index], rng)
        windows = self._read(*self._random_starts(rng, batch_size), rng)
        for _ in range(100):  # a window drawn twice, or a repeat, would be a negative of itself: draw another
            first = first_of_each(windows)
            if len(first) == batch_size:
                return windows
            more = self._read(*self._random_starts(rng, batch_size - len(first)), rng)
            windows = np.concatenate([windows[first], more])
        uneven = np.ptp(self.intervals.odds) > 0
        raise InputError(
            f"batch_size ({batch_size}): the text has too few different windows of {self.length} nt"
            f"{', or their odds are too uneven (data.enrichment)' if uneven else ''}"
        )

    def _read(self, starts: np.ndarray, minus: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.both_strands:
            minus = rng.random(len(starts)) < 0.5
        return self.store.windows(starts, self.length, minus)

    def _random_starts(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts [count] of acceptable windows, and whether each lies in an interval of the reverse strand."""
        starts, minus = np.array([], dtype=np.int64), np.array([], dtype=bool)
        for _ in range(1000):
            draws = rng.random(count + count // 4 + 8) * self._cumulative[-1]
            which = np.minimum(np.searchsorted(self._cumulative, draws, side="right"), len(self._cumulative) - 1)
            inside = (draws - self._cumulative[which]) / self.intervals.odds[which] + self._counts[which]
            drawn = self.intervals.start[which] + np.clip(inside.astype(np.int64), 0, self._counts[which] - 1)
            kept = acceptable(self.store, drawn, self.length, self.max_n_share)
            starts = np.concatenate([starts, drawn[kept]])
            minus = np.concatenate([minus, self.intervals.minus[which[kept]]])
            if len(starts) >= count:
                return starts[:count], minus[:count]
        raise InputError(self._nothing_left("hardly any"))

    def _strided_starts(self, stride: int) -> tuple[np.ndarray, np.ndarray]:
        counts = (self.intervals.length - self.length) // stride + 1
        which = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = self.intervals.start[which] + stride * within
        _, first = np.unique(2 * starts + self.intervals.minus[which], return_index=True)  # intervals may overlap
        starts, which = starts[first], which[first]
        parts = np.array_split(starts, max(1, len(starts) // 10_000))
        kept = np.concatenate([acceptable(self.store, part, self.length, self.max_n_share) for part in parts])
        if not kept.any():
            raise InputError(self._nothing_left("no"))
        return starts[kept], self.intervals.minus[which[kept]]

    def _nothing_left(self, how_many: str) -> str:
        return (
            f"data.max_n_share ({self.max_n_share}): {how_many} window of {self.length} nt in "
            f"{self.store.manifest['sources']} passes"
        )

    def _shuffled(self, step: int, batch_size: int) -> np.ndarray:
        if batch_size > len(self.starts):
            raise InputError(
                f"batch_size ({batch_size}) is more than the {len(self.starts)} strided windows of the text"
            )
        steps_per_epoch = len(self.starts) // batch_size
        epoch, index = divmod(step, steps_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = epoch, np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.starts))
        return self._epoch[1][index * batch_size : (index + 1) * batch_size]


def first_of_each(windows: np.ndarray) -> np.ndarray:
    """Indices, ascending, of the first of each group of equal rows of uint8 [n, length]."""
    rows = np.ascontiguousarray(windows).view(np.dtype((np.void, windows.shape[1]))).ravel()
    return np.sort(np.unique(rows, return_index=True)[1])


def covered(intervals: Intervals) -> np.ndarray:
    """int64 [m, 2]: the stretches of the store that windows may read, disjoint and ascending.

    Stretches that only touch stay apart: no window reaches over their border, which may be that of two records.
    """
    order = np.argsort(intervals.start, kind="stable")
    start = intervals.start[order]
    reach = np.maximum.accumulate(start + intervals.length[order])
    first = np.flatnonzero(np.append(True, start[1:] >= reach[:-1]))
    return np.stack([start[first], reach[np.append(first[1:] - 1, len(start) - 1)]], axis=1)

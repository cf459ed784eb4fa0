"""Which sequences share 80 bases in a row: windows with one another, and the evaluation with the pre-training text.

k-mers are compared as 64-bit polynomial hashes; one that holds an N is compared with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from utils.sequence import VOCAB, A, reverse_complement

KMER = 80  # windows that share this many bases in a row are near-duplicates

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_VALUES = np.random.default_rng(0).integers(2**64, size=len(VOCAB), dtype=np.uint64)
_PIECE = 1 << 17  # k-mers of text hashed at a time: the arrays of a piece stay in the processor's cache
_BLOCK = 1 << 12  # windows hashed at a time, for the same reason less strictly
_FILTER_BITS = 32  # at least this many bits of the filter for each k-mer: one in a thousand others passes all probes
_PROBES = np.array([1, 0xD1342543DE82EF95, 0xAF251AF3B0F025B5], dtype=np.uint64)  # odd multipliers


def kmer_hashes(ids: np.ndarray, k: int = KMER) -> tuple[np.ndarray, np.ndarray]:
    """Hash of every k-mer: uint64 [..., L - k + 1], and bool of the same shape, False where the k-mer holds an N.

    ids: uint8 [L] or [n, L]. The hash of bases b is sum_j value[b_j] * base^j modulo 2^64, here from running sums: the
    high bits are well mixed, the low ones are not. Two different k-mers of ten million collide with probability 3e-6.
    """
    length = ids.shape[-1]
    count = max(length - k + 1, 0)
    if not count:
        return np.empty((*ids.shape[:-1], 0), dtype=np.uint64), np.empty((*ids.shape[:-1], 0), dtype=bool)
    sums = np.zeros((*ids.shape[:-1], length + 1), dtype=np.uint64)
    np.multiply(_VALUES[ids], _powers(_BASE, length), out=sums[..., 1:])
    np.cumsum(sums, axis=-1, out=sums)
    hashes = sums[..., k:] - sums[..., :count]
    hashes *= _powers(pow(_BASE, -1, 2**64), length)[:count]
    known = ids >= A
    if known.all():
        return hashes, np.ones(hashes.shape, dtype=bool)
    unknown = np.zeros(sums.shape, dtype=np.int32)
    np.cumsum(~known, axis=-1, out=unknown[..., 1:])
    return hashes, unknown[..., k:] == unknown[..., :count]


@lru_cache(maxsize=8)
def _powers(base: int, count: int) -> np.ndarray:
    """base^0 ... base^(count - 1) modulo 2^64."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


class KmerSet:
    """k-mers to be looked up from long text.

    hashes: uint64, sorted and distinct. A Bloom filter (4 to 8 bytes a k-mer, at most 1 GiB) spares nearly all k-mers
    of the text the exact comparison, which costs a hundred times as much.
    """

    def __init__(self, hashes: np.ndarray, k: int) -> None:
        self.hashes, self.k = hashes, k
        bits = min(max(16, (_FILTER_BITS * len(hashes)).bit_length()), 33)
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << (bits - 3), dtype=np.uint8)
        for probe in _PROBES:
            np.bitwise_or.at(self._filter, *self._address(hashes * probe))

    @classmethod
    def of(cls, windows: Iterable[np.ndarray], k: int = KMER) -> KmerSet:
        """The k-mers of windows, each uint8 [n, L], on both strands: the text then needs to be read on one only."""
        parts = [np.empty(0, dtype=np.uint64)]
        for ids in windows:
            for _, hashes, known in _both_strands(ids, k):
                parts.append(hashes[known])
        hashes = np.concatenate(parts)
        hashes.sort()  # np.unique takes fifty times as long
        return cls(hashes[np.append(hashes[:-1] != hashes[1:], True)[: len(hashes)]], k)

    def find(self, hashes: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(where, index): hashes[where] are known and in the set, as self.hashes[index]. hashes, known: [m]."""
        where = np.flatnonzero(self._pass(hashes))  # _PROBES[0] is 1
        where = where[known[where]]
        for probe in _PROBES[1:]:
            where = where[self._pass(hashes[where] * probe) > 0]
        index = np.searchsorted(self.hashes, hashes[where])
        same = index < len(self.hashes)
        same[same] = self.hashes[index[same]] == hashes[where[same]]
        return where[same], index[same]

    def matches(self, text: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`find` along a text, uint8 [length], piece by piece: `where` is the k-mer's first base in the text."""
        for start in range(0, len(text) - self.k + 1, _PIECE):
            where, index = self.find(*kmer_hashes(np.asarray(text[start : start + _PIECE + self.k - 1]), self.k))
            yield start + where, index

    def _pass(self, hashes: np.ndarray) -> np.ndarray:
        """uint8 [m]: not 0 where the filter has the bit of the hash."""
        byte, bit = self._address(hashes)
        return self._filter[byte] & bit

    def _address(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Byte of the filter and the bit in it, from the high bits of the hash."""
        place = hashes >> self._shift
        bit = np.left_shift(np.uint8(1), place.astype(np.uint8) & 7)
        place >>= np.uint64(3)
        return place.view(np.int64), bit


def _both_strands(ids: np.ndarray, k: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first window, hashes, known) of a block of windows, for either strand in turn."""
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        for strand in (block, reverse_complement(block)):
            yield start, *kmer_hashes(strand, k)


def shared_windows(ids: np.ndarray, texts: Iterable[np.ndarray], k: int = KMER) -> np.ndarray:
    """bool [n]: which windows share a k-mer with the text, on either strand.

    ids: uint8 [n, L]. texts: uint8 [length] each, such as the records of a TokenStore; no k-mer spans two of them, and
    memory does not grow with them.
    """
    return _holding(ids, _seen(KmerSet.of([ids], k), texts))


def _seen(kmers: KmerSet, texts: Iterable[np.ndarray]) -> KmerSet:
    """Those k-mers of the set that the texts hold."""
    seen = np.zeros(len(kmers.hashes), dtype=bool)
    for text in texts:
        for _, index in kmers.matches(text):
            seen[index] = True
    return KmerSet(kmers.hashes[seen], kmers.k)


def _holding(ids: np.ndarray, kmers: KmerSet) -> np.ndarray:
    """bool [n]: which windows hold a k-mer of the set on either strand."""
    found = np.zeros(len(ids), dtype=bool)
    for start, hashes, known in _both_strands(ids, kmers.k):
        where, _ = kmers.find(hashes.ravel(), known.ravel())
        found[start + where // hashes.shape[1]] = True
    return found


def positions_in_text(kmers: KmerSet, text: np.ndarray) -> np.ndarray:
    """bool [length]: the bases of a text that lie in one of the k-mers, to be masked out before training on it.

    kmers: `KmerSet.of([windows, ...])`, made once for all texts. text: uint8 [length], one record or piece of one.
    After `text[positions] = N` no window shares a k-mer with the text.
    """
    covered = np.zeros(len(text), dtype=bool)
    for where, _ in kmers.matches(text):
        if len(where):
            first = where[0]  # k-mers that start in this piece reach k - 1 bases beyond it
            depth = np.zeros(where[-1] + kmers.k + 1 - first, dtype=np.int32)
            depth[where - first] += 1
            depth[where - first + kmers.k] -= 1
            covered[first : first + len(depth) - 1] |= np.cumsum(depth)[:-1] > 0
    return covered


def sites_in_text(
    records: np.ndarray, starts: np.ndarray, ends: np.ndarray, window: int, intervals: Mapping[str, np.ndarray]
) -> np.ndarray:
    """bool [n]: motif sites whose window has at least one base in the text, by coordinates.

    records [n] and 0-based half-open starts, ends [n] of the sites; their windows are [left, left + window) with
    left = (start + end) // 2 - window // 2, as they are cut. intervals: {record: int [m, 2]} of the text, 0-based
    half-open, in any order. Only meaningful when both refer to the same genome build.
    """
    left = (starts + ends) // 2 - window // 2
    found = np.zeros(len(left), dtype=bool)
    for record in set(records) & {name for name in intervals if len(intervals[name])}:
        begin, end = intervals[record][np.argsort(intervals[record][:, 0])].T
        reach = np.maximum.accumulate(end)  # of those that begin so far, the furthest end
        mine = np.flatnonzero(records == record)
        before = np.searchsorted(begin, left[mine] + window)  # how many begin left of the window's end
        found[mine] = (before > 0) & (reach[before - 1] > left[mine])
    return found


@dataclass(frozen=True)
class Overlap:
    """How much of one part of the evaluation lies in the pre-training text; str() is a sentence that says it.

    name: which part, such as 'Human donor negative'. count: windows or sites. shared: how many of them lie in the
    text, None where that cannot be said. how: what was compared.
    """

    name: str
    count: int
    shared: int | None
    how: str

    @property
    def share(self) -> float:
        """NaN where it cannot be said."""
        return self.shared / self.count if self.shared is not None and self.count else float("nan")

    def __str__(self) -> str:
        if self.shared is None:
            return f"{self.name}: {self.how}."
        return f"{self.name}: {self.shared:,} of {self.count:,} ({self.share:.1%}) {self.how}."


def overlap_report(
    texts: Iterable[np.ndarray],
    windows: Mapping[str, np.ndarray],
    sites: Mapping[str, np.ndarray] | None = None,
    k: int = KMER,
) -> list[Overlap]:
    """How much of the evaluation lies in the pre-training text, part by part; the text is read once.

    texts: uint8 [length] each, see `shared_windows`. windows: {name: uint8 [n, L]}, compared by shared k-mers. sites:
    {name: bool [n]} of `sites_in_text`, where coordinates are known.
    """
    kmers = _seen(KmerSet.of(windows.values(), k), texts)
    report = [
        Overlap(name, len(inside), int(np.sum(inside)), "lie in the pre-training text by their coordinates")
        for name, inside in (sites or {}).items()
    ]
    for name, ids in windows.items():
        if ids.shape[1] < k:
            how = f"windows of {ids.shape[1]} nt cannot share {k} bases, so their overlap with the text is not known"
            report.append(Overlap(name, len(ids), None, how))
        else:
            how = f"share {k} bases in a row with the pre-training text"
            report.append(Overlap(name, len(ids), int(_holding(ids, kmers).sum()), how))
    return report

"""Which sequences share 80 bases in a row: windows with one another, and windows with a text.

k-mers are compared as 64-bit polynomial hashes; one that holds an N is compared with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from scipy.sparse import block_array, coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from simcsp.text.alphabet import VOCAB, A, reverse_complement

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


def canonical_hashes(ids: np.ndarray, k: int = KMER) -> tuple[np.ndarray, np.ndarray]:
    """The same of ids [n, L] where a k-mer and its reverse complement have one hash, the lesser of theirs."""
    hashes, known = kmer_hashes(ids, k)
    return np.minimum(hashes, kmer_hashes(reverse_complement(ids), k)[0][:, ::-1]), known


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
        place = hashes >> self._shift
        bit = np.left_shift(np.uint8(1), place.astype(np.uint8) & 7)
        place >>= np.uint64(3)
        return place.view(np.int64), bit


def _both_strands(ids: np.ndarray, k: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        for strand in (block, reverse_complement(block)):
            yield start, *kmer_hashes(strand, k)


def shared_windows(ids: np.ndarray, texts: Iterable[np.ndarray], k: int = KMER) -> np.ndarray:
    """bool [n]: which windows share a k-mer with the text, on either strand.

    ids: uint8 [n, L]. texts: uint8 [length] each, such as the records of a TokenStore; no k-mer spans two of them, and
    memory does not grow with them.
    """
    return windows_holding(ids, kmers_in_text(KmerSet.of([ids], k), texts))


def kmers_in_text(kmers: KmerSet, texts: Iterable[np.ndarray]) -> KmerSet:
    """Those k-mers of the set that the texts hold."""
    in_text = np.zeros(len(kmers.hashes), dtype=bool)
    for text in texts:
        for _, index in kmers.matches(text):
            in_text[index] = True
    return KmerSet(kmers.hashes[in_text], kmers.k)


def windows_holding(ids: np.ndarray, kmers: KmerSet) -> np.ndarray:
    """bool [n]: which windows hold a k-mer of the set on either strand."""
    shared = np.zeros(len(ids), dtype=bool)
    for start, hashes, known in _both_strands(ids, kmers.k):
        where, _ = kmers.find(hashes.ravel(), known.ravel())
        shared[start + where // hashes.shape[1]] = True
    return shared


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


def shared_kmers(ids: np.ndarray, k: int = KMER) -> csr_array:
    """bool [n, m]: which windows hold which k-mers on either strand, of the m k-mers that two windows or more hold.

    ids: uint8 [n, length]. A k-mer and its reverse complement are one: overlapping genes and inverted repeats bring the
    same bases into windows of both strands. k-mers that hold an N are not compared; see `kmer_hashes` for the others.
    """
    hashes, known = canonical_hashes(ids, k)
    window = np.repeat(np.arange(len(ids)), known.sum(axis=1))
    flat = hashes[known]
    order = np.argsort(flat)
    flat, window = flat[order], window[order]
    again = np.append(False, flat[1:] == flat[:-1])[: len(flat)]  # equal to the one before
    often = again | np.append(again[1:], False)[: len(flat)]  # twice in one window too, until the table tells
    kmer = np.cumsum(~again[often]) - 1
    shape = (len(ids), kmer.max(initial=-1) + 1)
    table = coo_array((np.ones(len(kmer), dtype=np.int32), (window[often], kmer)), shape).tocsr().astype(bool)
    return table[:, np.flatnonzero(table.sum(axis=0) > 1)]


def near_duplicate_groups(ids: np.ndarray, k: int = KMER) -> np.ndarray:
    """int [n] group of each window; windows are in one group when a chain of shared k-mers links them."""
    table = shared_kmers(ids, k)
    graph = block_array([[None, table], [table.T, None]])  # windows, then k-mers
    return connected_components(graph, directed=False)[1][: len(ids)]


def similar_to_training(kmers: csr_array, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """bool [len(test)]: which windows of a fold's test part share a k-mer with a window of its training part.

    kmers: `shared_kmers` of all windows, made once for all folds. train, test: indices of windows.
    """
    trained = kmers[train].sum(axis=0) > 0
    return kmers[test] @ trained.astype(np.int32) > 0


def near_duplicates(ids: np.ndarray, k: int | None = None) -> np.ndarray:
    """bool [batch, batch], symmetric: which windows share a k-mer without N on either strand; each does with itself.

    ids: uint8 [batch, length]. k: by default 80 nt, which near-duplicates share everywhere in this project; for windows
    under 160 nt half of their length, so that two that overlap by half are still found. k-mers are compared as hashes
    of 54 bits for 1,024 windows: among half a million, chance makes two equal in one batch of 100,000.
    """
    k = min(KMER, ids.shape[1] // 2) if k is None else k
    keys, known = canonical_hashes(ids, k)
    rows = np.uint64((1 << (len(ids) - 1).bit_length()) - 1)  # the low bits, which are not well mixed, hold the row
    keys &= ~rows
    keys |= np.arange(len(ids), dtype=np.uint64)[:, None]
    keys = keys.ravel() if known.all() else keys[known]
    keys.sort()
    again = np.append(False, (keys[1:] ^ keys[:-1]) <= rows)[: len(keys)]  # the k-mer before, of whichever row
    often = again | np.append(again[1:], False)[: len(keys)]
    kmer = np.cumsum(~again[often]) - 1
    row = (keys[often] & rows).astype(np.int64)
    table = csr_array((np.ones(len(row), dtype=np.int32), (row, kmer)), (len(ids), kmer.max(initial=0) + 1))
    return ((table @ table.T).toarray() > 0) | np.eye(len(ids), dtype=bool)

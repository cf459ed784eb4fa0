"""Bases <-> SpliceBERT ids, FASTA files, the memory-mapped store of ids, and the windows drawn from it.

Ids are SpliceBERT's own: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, N 5, A 6, C 7, G 8, T 9, kept as uint8.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.errors import InputError

VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "N", "A", "C", "G", "T")
PAD, UNK, CLS, SEP, MASK, N, A, C, G, T = range(len(VOCAB))

_CHUNK = 1 << 22  # bytes of a FASTA file in memory at a time
_STORE_VERSION = 2  # of the files in the cache: others are made anew


def _encoding_table() -> np.ndarray:
    table = np.full(256, UNK, dtype=np.uint8)
    for letters, token in (("Aa", A), ("Cc", C), ("Gg", G), ("TtUu", T), ("NnRrYySsWwKkMmBbDdHhVv", N)):
        table[np.frombuffer(letters.encode(), dtype=np.uint8)] = token
    return table


ENCODE = _encoding_table()
"""Byte -> id. Lower case and U are accepted, IUPAC ambiguity letters become N, anything else is [UNK] (an error)."""
COMPLEMENT = np.array([PAD, UNK, CLS, SEP, MASK, N, T, G, C, A], dtype=np.uint8)
_DECODE = np.frombuffer(b"?????NACGT", dtype=np.uint8)
_IDS = ENCODE.tobytes()  # bytes.translate maps and drops line ends in one pass, five times as fast as numpy's indexing
_LAST_BITS = np.array([(1 << count) - 1 for count in range(9)], dtype=np.uint8)  # of a byte
_LOWER = bytes(1 if chr(byte).islower() else 0 for byte in range(128)) + bytes(128)


def encode(sequence: str, where: str = "sequence") -> np.ndarray:
    """Bases to ids, uint8 [len(sequence)]. Raises InputError naming `where` and the letter that is no base code."""
    raw = np.frombuffer(sequence.encode("utf-8"), dtype=np.uint8)
    ids = ENCODE[raw]
    bad = np.flatnonzero(ids == UNK)
    if len(bad):
        at = int(bad[0])
        raise InputError(
            f"{where}: {chr(raw[at])!r} at base {at + 1} is no nucleotide code (ACGTU, N or IUPAC letters)"
        )
    return ids


def decode(ids: np.ndarray) -> str:
    """Ids of bases (no special tokens) back to letters."""
    return _DECODE[np.asarray(ids)].tobytes().decode()


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """Ids of the other strand, read 5' to 3'. Any leading axes; the last one is the sequence."""
    return COMPLEMENT[ids][..., ::-1]


def add_special_tokens(ids: np.ndarray) -> np.ndarray:
    """uint8 [n, L] bases -> uint8 [n, L + 2] model input: [CLS] bases [SEP]."""
    out = np.empty((len(ids), ids.shape[1] + 2), dtype=np.uint8)
    out[:, 0], out[:, -1] = CLS, SEP
    out[:, 1:-1] = ids
    return out


@contextmanager
def open_binary(path: str | Path) -> Iterator[BinaryIO]:
    """Open a plain or gzipped file (told apart by its first bytes). A missing or cut-off file is an InputError."""
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if zipped else raw as handle:
                yield handle
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip stream is damaged or cut short ({error}): fetch the file again") from None


def fasta_pieces(path: str | Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stream a FASTA file as (record name, ids, lower case) pieces of bounded size; a long record comes in several.

    ids: uint8 [bases]; lower case: uint8 [bases], 1 where the letter is soft-masked, which marks repeats. The name is
    the header up to the first blank. Raises InputError with file and line for anything that is not FASTA.
    """
    name, line, at_line_start, names = "", 1, True, set()
    bases = 0

    def close() -> None:
        if name and not bases:
            raise InputError(
                f"{path}: record {name!r} (before line {line}) has no sequence: the file is cut short or damaged"
            )

    with open_binary(path) as handle:
        while chunk := handle.read(_CHUNK):
            chunk = _complete_header(chunk, at_line_start, handle)
            position = 0
            while position < len(chunk):
                header = _next_header(chunk, position, at_line_start)
                body = chunk[position:header]
                if body:
                    ids, lower = _encode_body(body, path, line)
                    if len(ids) and not name:
                        line += body[: len(body) - len(body.lstrip())].count(b"\n")
                        raise InputError(
                            f"{path}, line {line}: sequence before the first '>' header: this is not FASTA"
                        )
                    line += body.count(b"\n")
                    bases += len(ids)
                    at_line_start = body.endswith(b"\n")
                    if len(ids):
                        yield name, ids, lower
                if header < len(chunk):
                    close()
                    end = chunk.find(b"\n", header)
                    end = len(chunk) if end < 0 else end
                    words = chunk[header + 1 : end].split()
                    if not words:
                        raise InputError(f"{path}, line {line}: header without a name")
                    name, bases = words[0].decode("utf-8", "replace"), 0
                    if name in names:
                        raise InputError(
                            f"{path}, line {line}: record name {name!r} occurs twice: coordinates would be ambiguous"
                        )
                    names.add(name)
                    line, at_line_start = line + 1, True
                    header = end + 1
                position = header
    close()
    if not names:
        raise InputError(f"{path}: no FASTA record ('>' header) found: the file is empty or of another format")


def _complete_header(chunk: bytes, at_line_start: bool, handle: BinaryIO) -> bytes:
    """Read on to the end of a header that the chunk cuts in two."""
    last = chunk.rfind(b"\n") + 1
    if (last or at_line_start) and chunk[last : last + 1] == b">":
        chunk += handle.readline()
    return chunk


def _next_header(chunk: bytes, position: int, at_line_start: bool) -> int:
    """Index of the next '>' that starts a line, or len(chunk)."""
    if at_line_start and chunk[position : position + 1] == b">":
        return position
    found = chunk.find(b"\n>", position)
    return len(chunk) if found < 0 else found + 1


def _encode_body(body: bytes, path: str | Path, line: int) -> tuple[np.ndarray, np.ndarray]:
    ids = body.translate(_IDS, b"\r\n")
    if UNK in ids:
        at = next(i for i, byte in enumerate(body) if ENCODE[byte] == UNK and byte not in b"\r\n")
        raise InputError(
            f"{path}, line {line + body[:at].count(10)}: {chr(body[at])!r} is no nucleotide code "
            "(ACGTU, N or IUPAC letters)"
        )
    return np.frombuffer(ids, np.uint8), np.frombuffer(body.translate(_LOWER, b"\r\n"), np.uint8)


@dataclass(frozen=True)
class Record:
    """One FASTA record inside a store."""

    name: str
    offset: int
    """Index of its first base in the store."""
    length: int
    source: int
    """Index of its file among the manifest's sources."""
    source_name: str
    """Its name in that file: `name` itself, unless several files have a record of that name."""
    n_share: float
    """Share of its bases that are N."""
    repeat_share: float
    """Share of its letters in lower case: soft-masked repeats."""


class TokenStore:
    """Ids of one or more FASTA files, memory-mapped: `ids` is uint8 [total bases], records lie end to end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = json.loads(path.with_suffix(".json").read_text())
        self.records = [Record(**record) for record in self.manifest["records"]]
        self.ids = np.memmap(path, dtype=np.uint8, mode="r")
        self.by_name = {record.name: record for record in self.records}
        self._lower = np.memmap(path.with_suffix(".lower"), dtype=np.uint8, mode="r")

    @property
    def sha256(self) -> str:
        """Hash of the ids and record names: the identity of the text, whatever the files are called."""
        return self.manifest["sha256"]

    def fetch(self, name: str, start: int, end: int, strand: str = "+") -> np.ndarray:
        """Ids of [start, end) of a record, 0-based; reverse-complemented on the minus strand."""
        record = self.by_name[name]
        ids = np.asarray(self.ids[record.offset + start : record.offset + end])
        return reverse_complement(ids) if strand == "-" else ids

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Ids uint8 [n, length] from `starts` int64 [n], indices into the store."""
        return np.lib.stride_tricks.sliding_window_view(self.ids, length)[starts]

    def lower(self, start: int, length: int) -> np.ndarray:
        """Soft-masked letters, uint8 [length] of 0 and 1, from index `start` of the store."""
        return np.unpackbits(self._lower[start // 8 : (start + length + 7) // 8])[start % 8 :][:length]

    def repeats(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Share of soft-masked bases, float [n], of the windows that `windows` reads."""
        column, before = np.arange(length // 8 + 2), starts % 8
        packed = self._lower[np.minimum((starts // 8)[:, None] + column, len(self._lower) - 1)]
        packed[:, 0] &= _LAST_BITS[8 - before]
        inside = np.clip((before + length)[:, None] - 8 * column[-2:], 0, 8)  # bits of the last bytes in the window
        packed[:, -2:] &= ~_LAST_BITS[8 - inside]
        return np.bitwise_count(packed).sum(axis=1) / length


def open_store(fastas: Iterable[str | Path], cache: str | Path, qualify: bool = False) -> TokenStore:
    """The store of these FASTA files, made in `cache` on first use and reused while no file has changed.

    qualify: the files are of different genomes, so a record is called `file stem:name` (`folder/file:name` where stems
    are alike); otherwise a name that occurs in two files is an error. See `_write_store` for what is on disk.
    """
    paths = [Path(path) for path in fastas]
    for path in paths:
        if not path.is_file():
            raise InputError(f"FASTA {path} does not exist")
    stamp = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    sources = _distinct(paths, [path.name for path in paths])
    prefixes = _distinct(paths, [path.name.split(".")[0] for path in paths])

    def pieces() -> Iterator[_Piece]:
        owner: dict[str, int] = {}
        for source, path in enumerate(paths):
            for own, ids, lower in fasta_pieces(path):
                name = f"{prefixes[source]}:{own}" if qualify else own
                if owner.setdefault(name, source) != source:
                    raise InputError(f"{path}: record name {name!r} is also in another FASTA of this list")
                yield source, name, own, ids, lower

    return _open_or_write(paths[0].name.split(".")[0], [*stamp, qualify], sources, pieces, cache)


def _distinct(paths: list[Path], names: list[str]) -> list[str]:
    """The names of files, or `folder/file` or else the whole path of all where two names are alike."""
    whole = [str(path.resolve()) for path in paths]
    for tried in (names, [f"{path.parent.name}/{path.name}" for path in paths], whole):
        if len(set(tried)) == len(paths):
            return tried
    raise InputError(f"FASTA {next(path for path in whole if whole.count(path) > 1)} is listed twice")


def open_sequence_store(
    source: str, stamp: list[object], rows: Callable[[], Iterable[tuple[str, np.ndarray]]], cache: str | Path
) -> TokenStore:
    """The store of (name, ids) rows that are not FASTA. stamp: plain values that change when the rows would."""

    def pieces() -> Iterator[_Piece]:
        for name, ids in rows():
            if len(ids):
                yield 0, name, name, ids, np.zeros(len(ids), dtype=np.uint8)

    return _open_or_write(source.split(".")[0], stamp, [source], pieces, cache)


def open_masked_store(store: TokenStore, hide: Callable[[np.ndarray], np.ndarray], stamp: str) -> TokenStore:
    """A copy of a store in which bases are N where `hide` (ids [n] of a record -> bool [n]) says so.

    stamp: a hash of what decides it. The copy lies beside the original, and is made once.
    """

    def pieces() -> Iterator[_Piece]:
        for record in store.records:
            ids = store.fetch(record.name, 0, record.length)
            lower = np.concatenate(
                [store.lower(record.offset + at, min(_CHUNK, record.length - at)) for at in range(0, len(ids), _CHUNK)]
            )
            yield record.source, record.name, record.source_name, np.where(hide(ids), np.uint8(N), ids), lower

    stem = store.path.stem.rsplit("-", 1)[0]
    stamp = [store.path.name, store.sha256, stamp]  # the hash leaves out soft-masking and the names of the files
    return _open_or_write(stem, stamp, store.manifest["sources"], pieces, store.path.parent)


_Piece = tuple[int, str, str, np.ndarray, np.ndarray]
"""Index of the source, name in the store, name in the source, ids, lower case."""


def _open_or_write(
    stem: str, stamp: list[object], sources: list[str], pieces: Callable[[], Iterable[_Piece]], cache: str | Path
) -> TokenStore:
    key = hashlib.sha256(json.dumps([_STORE_VERSION, stamp]).encode()).hexdigest()[:12]
    target = Path(cache) / f"{stem}-{key}.ids"
    if not all(target.with_suffix(suffix).is_file() for suffix in (".ids", ".lower", ".json")):
        _write_store(target, sources, pieces())
    return TokenStore(target)


def _write_store(target: Path, sources: list[str], pieces: Iterable[_Piece]) -> None:
    """NAME.ids: one byte a base. NAME.lower: one bit a base, set where soft-masked. NAME.json: sources, hash, and
    length, share of N and of repeats of each record. Written aside and renamed: no half store is ever left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, records, total = hashlib.sha256(), {}, 0
    aside = {suffix: target.with_name(f"{target.stem}.{os.getpid()}.tmp{suffix}") for suffix in (".ids", ".lower")}
    try:
        with open(aside[".ids"], "wb") as out, open(aside[".lower"], "wb") as out_lower:
            waiting = np.array([], dtype=np.uint8)  # bits that do not fill a byte yet
            for source, name, source_name, ids, lower in pieces:
                if name not in records:
                    records[name] = {"offset": total, "length": 0, "source": source, "source_name": source_name}
                    records[name] |= {"n": 0, "lower": 0}
                    digest.update(b">" + name.encode())
                for key, count in (
                    ("length", len(ids)),
                    ("n", np.count_nonzero(ids == N)),
                    ("lower", np.count_nonzero(lower)),
                ):
                    records[name][key] += count
                total += len(ids)
                digest.update(ids)
                out.write(ids)
                waiting = np.concatenate([waiting, lower])
                whole = len(waiting) // 8 * 8
                out_lower.write(np.packbits(waiting[:whole]))
                waiting = waiting[whole:]
            out_lower.write(np.packbits(waiting))
        if not records:
            raise InputError(f"{', '.join(sources)} holds no sequence")
        for suffix, path in aside.items():
            os.replace(path, target.with_suffix(suffix))
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
    manifest = {
        "sources": sources,
        "sha256": digest.hexdigest(),
        "bases": total,
        "n_share": round(sum(record["n"] for record in records.values()) / total, 6),
        "repeat_share": round(sum(record["lower"] for record in records.values()) / total, 6),
        "records": [
            {
                "name": name,
                **{key: record[key] for key in ("offset", "length", "source", "source_name")},
                "n_share": round(record["n"] / record["length"], 6),
                "repeat_share": round(record["lower"] / record["length"], 6),
            }
            for name, record in records.items()
        ],
    }
    written = target.with_suffix(f".{os.getpid()}.tmp")
    written.write_text(json.dumps(manifest, indent=1))
    os.replace(written, target.with_suffix(".json"))


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

    def take(self, index: np.ndarray) -> Intervals:
        """The intervals of an index or mask."""
        return Intervals(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def whole_records(store: TokenStore, names: list[str] | None = None) -> Intervals:
    """The records of a store as intervals, None for all. Raises InputError for one that does not exist."""
    if names is not None and not names:
        raise InputError("data.records is empty: name the records to train on, or null for all")
    unknown = sorted(set(names or []) - set(store.by_name))
    if unknown:
        known = f"{store.records[0].name!r}{', ...' if len(store.records) > 1 else ''}"
        raise InputError(
            f"data.records: no record {unknown[0]!r} in {store.manifest['sources']}: their names are {known}"
        )
    chosen = [record for record in store.records if names is None or record.name in names]
    return Intervals(
        np.array([record.offset for record in chosen]),
        np.array([record.length for record in chosen]),
        np.zeros(len(chosen), dtype=bool),
        np.ones(len(chosen)),
    )


class WindowSampler:
    """Which windows of a store a training run reads; a pure function of (seed, step), so resuming needs no state.

    store, length: where from and how many nt. sampling: `random` starts anywhere, `strided` takes every `stride`-th
    start of each interval in an order shuffled for each epoch. both_strands: half of the windows, at random, are read
    on the reverse strand. max_n_share, max_repeat_share: windows with a larger share of N, or of soft-masked repeats,
    are left out. intervals: where windows may lie; None: anywhere in the store's records.
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
        max_repeat_share: float = 1.0,
    ) -> None:
        intervals = whole_records(store) if intervals is None else intervals
        self.intervals = intervals.take(intervals.length >= length)
        if not len(self.intervals):
            raise InputError(
                f"data.window ({length} nt) is longer than every record or gene of {store.manifest['sources']} "
                f"(longest {intervals.length.max(initial=0)} nt)"
            )
        if max_repeat_share < 1 and not store.manifest["repeat_share"]:
            raise InputError(
                f"data.max_repeat_share ({max_repeat_share}): {store.manifest['sources']} has no lower-case letters, "
                "which mark repeats: take the soft-masked FASTA, or 1"
            )
        self.store, self.length, self.seed = store, length, seed
        self.both_strands, self.max_n_share, self.max_repeat_share = both_strands, max_n_share, max_repeat_share
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
            f"{', or their odds are too uneven (data.enrichment, data.species_weights)' if uneven else ''}"
        )

    def _read(self, starts: np.ndarray, minus: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        windows = self.store.windows(starts, self.length)
        if self.both_strands:
            minus = rng.random(len(windows)) < 0.5
        windows[minus] = reverse_complement(windows[minus])
        return windows

    def _acceptable(self, starts: np.ndarray) -> np.ndarray:
        kept = np.count_nonzero(self.store.windows(starts, self.length) == N, axis=1) <= self.max_n_share * self.length
        if self.max_repeat_share < 1:
            kept &= self.store.repeats(starts, self.length) <= self.max_repeat_share
        return kept

    def _random_starts(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts [count] of acceptable windows, and whether each lies in an interval of the reverse strand."""
        starts, minus = np.array([], dtype=np.int64), np.array([], dtype=bool)
        for _ in range(1000):
            draws = rng.random(count + count // 4 + 8) * self._cumulative[-1]
            which = np.minimum(np.searchsorted(self._cumulative, draws, side="right"), len(self._cumulative) - 1)
            inside = (draws - self._cumulative[which]) / self.intervals.odds[which] + self._counts[which]
            drawn = self.intervals.start[which] + np.clip(inside.astype(np.int64), 0, self._counts[which] - 1)
            kept = self._acceptable(drawn)
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
        kept = np.concatenate([self._acceptable(part) for part in parts])
        if not kept.any():
            raise InputError(self._nothing_left("no"))
        return starts[kept], self.intervals.minus[which[kept]]

    def _nothing_left(self, how_many: str) -> str:
        filters = f"data.max_n_share ({self.max_n_share})"
        if self.max_repeat_share < 1:
            filters += f", data.max_repeat_share ({self.max_repeat_share})"
        return f"{filters}: {how_many} window of {self.length} nt in {self.store.manifest['sources']} passes"

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

"""Bases <-> SpliceBERT ids, FASTA files, the memory-mapped store of ids, and the windows drawn from it.

Ids are SpliceBERT's own: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, N 5, A 6, C 7, G 8, T 9, kept as uint8.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.errors import InputError

VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "N", "A", "C", "G", "T")
PAD, UNK, CLS, SEP, MASK, N, A, C, G, T = range(len(VOCAB))

_NEWLINE = 255  # bytes that a FASTA line may hold and that are no base
_CHUNK = 1 << 24


def _encoding_table() -> np.ndarray:
    table = np.full(256, UNK, dtype=np.uint8)
    for letters, token in (("Aa", A), ("Cc", C), ("Gg", G), ("TtUu", T), ("NnRrYySsWwKkMmBbDdHhVv", N)):
        table[np.frombuffer(letters.encode(), dtype=np.uint8)] = token
    return table


ENCODE = _encoding_table()
"""Byte -> id. Lower case and U are accepted, IUPAC ambiguity letters become N, anything else is [UNK] (an error)."""
COMPLEMENT = np.array([PAD, UNK, CLS, SEP, MASK, N, T, G, C, A], dtype=np.uint8)
_DECODE = np.frombuffer(b"?????NACGT", dtype=np.uint8)
_FASTA = ENCODE.copy()
_FASTA[[10, 13]] = _NEWLINE


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


def fasta_pieces(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stream a FASTA file as (record name, ids) pieces of bounded size; a long record comes in several pieces.

    The name is the header up to the first blank. Raises InputError with file and line for anything that is not FASTA.
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
                    ids = _encode_body(body, path, line)
                    if len(ids) and not name:
                        line += body[: len(body) - len(body.lstrip())].count(b"\n")
                        raise InputError(
                            f"{path}, line {line}: sequence before the first '>' header: this is not FASTA"
                        )
                    line += body.count(b"\n")
                    bases += len(ids)
                    at_line_start = body.endswith(b"\n")
                    if len(ids):
                        yield name, ids
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


def _encode_body(body: bytes, path: str | Path, line: int) -> np.ndarray:
    ids = _FASTA[np.frombuffer(body, dtype=np.uint8)]
    if (ids == UNK).any():
        at = int(np.flatnonzero(ids == UNK)[0])
        raise InputError(
            f"{path}, line {line + body[:at].count(10)}: {chr(body[at])!r} is no nucleotide code "
            "(ACGTU, N or IUPAC letters)"
        )
    return ids[ids != _NEWLINE]


@dataclass(frozen=True)
class Record:
    """One FASTA record inside a store."""

    name: str
    offset: int
    """Index of its first base in the store."""
    length: int


class TokenStore:
    """Ids of one or more FASTA files, memory-mapped: `ids` is uint8 [total bases], records lie end to end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = json.loads(path.with_suffix(".json").read_text())
        self.records = [Record(**record) for record in self.manifest["records"]]
        self.ids = np.memmap(path, dtype=np.uint8, mode="r")
        self.by_name = {record.name: record for record in self.records}

    @property
    def sha256(self) -> str:
        """Hash of the ids and record names: the identity of the text, whatever the files are called."""
        return self.manifest["sha256"]

    def fetch(self, name: str, start: int, end: int, strand: str = "+") -> np.ndarray:
        """Ids of [start, end) of a record, 0-based; reverse-complemented on the minus strand."""
        record = self.by_name[name]
        ids = np.asarray(self.ids[record.offset + start : record.offset + end])
        return reverse_complement(ids) if strand == "-" else ids


def open_store(fastas: Iterable[str | Path], cache: str | Path) -> TokenStore:
    """The store of these FASTA files, made in `cache` on first use and reused while no file has changed.

    One byte a base on disk. Written aside and renamed, so an interrupted build leaves no half store.
    """
    paths = [Path(path) for path in fastas]
    for path in paths:
        if not path.is_file():
            raise InputError(f"FASTA {path} does not exist")
    stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:12]
    target = Path(cache) / f"{paths[0].name.split('.')[0]}-{key}.ids"
    if not (target.is_file() and target.with_suffix(".json").is_file()):
        _build_store(paths, target)
    return TokenStore(target)


def _build_store(paths: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, records, total = hashlib.sha256(), {}, 0
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as out:
            for path in paths:
                in_this_file = set()
                for name, ids in fasta_pieces(path):
                    if name in records and name not in in_this_file:
                        raise InputError(f"{path}: record name {name!r} is also in another FASTA of this list")
                    in_this_file.add(name)
                    if name not in records:
                        records[name] = [total, 0]
                        digest.update(b">" + name.encode())
                    records[name][1] += len(ids)
                    total += len(ids)
                    digest.update(ids)
                    out.write(ids)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    manifest = {
        "sources": [path.name for path in paths],
        "sha256": digest.hexdigest(),
        "records": [{"name": k, "offset": offset, "length": length} for k, (offset, length) in records.items()],
    }
    aside.write_text(json.dumps(manifest, indent=1))
    os.replace(aside, target.with_suffix(".json"))


class WindowSampler:
    """Which windows of a store a training run reads; a pure function of (seed, step), so resuming needs no state.

    store, length: where from and how many nt. sampling: `random` starts anywhere, `strided` takes every `stride`-th
    start in an order shuffled for each epoch. both_strands: half of the windows, at random, are read on the reverse
    strand. max_n_share: windows with a larger share of N are left out. records: names to draw from, None for all.
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        sampling: str = "random",
        stride: int | None = None,
        both_strands: bool = True,
        max_n_share: float = 0.05,
        records: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        if records is not None and not records:
            raise InputError("data.records is empty: name the records to train on, or null for all")
        unknown = sorted(set(records or []) - set(store.by_name))
        if unknown:
            raise InputError(f"data.records: no record {unknown[0]!r} in {store.manifest['sources']}")
        chosen = [record for record in store.records if records is None or record.name in records]
        self.records = [record for record in chosen if record.length >= length]
        if not self.records:
            longest = max(record.length for record in chosen)
            raise InputError(
                f"data.window ({length} nt) is longer than every record of {store.manifest['sources']} "
                f"(longest {longest} nt)"
            )
        self.store, self.length, self.seed = store, length, seed
        self.both_strands, self.max_n_share = both_strands, max_n_share
        self._offsets = np.arange(length)
        self.starts = self._strided_starts(stride or length) if sampling == "strided" else None
        if self.starts is None:
            # Random starts are drawn as one number below the sum of all records' valid starts.
            self._cumulative = np.cumsum([record.length - length + 1 for record in self.records])
            self._random_starts(np.random.default_rng([seed, 0]), 1)

    def __len__(self) -> int:
        """Distinct windows of one strand (strided: after the N filter; random: before it)."""
        return len(self.starts) if self.starts is not None else int(self._cumulative[-1])

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The windows of a training step, uint8 [batch_size, length]."""
        rng = np.random.default_rng([self.seed, 1, step])
        if self.starts is not None:
            return self._read(self._shuffled_starts(step, batch_size), rng)
        windows = self._read(self._random_starts(rng, batch_size), rng)
        for _ in range(100):  # a window drawn twice, or a repeat, would be a negative of itself: draw another
            first = np.sort(np.unique(windows, axis=0, return_index=True)[1])
            if len(first) == batch_size:
                return windows
            more = self._read(self._random_starts(rng, batch_size - len(first)), rng)
            windows = np.concatenate([windows[first], more])
        raise InputError(f"batch_size ({batch_size}): the text has too few different windows of {self.length} nt")

    def _read(self, starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        windows = self._gather(starts)
        if self.both_strands:
            minus = rng.random(len(windows)) < 0.5
            windows[minus] = reverse_complement(windows[minus])
        return windows

    def _gather(self, starts: np.ndarray) -> np.ndarray:
        return np.asarray(self.store.ids[starts[:, None] + self._offsets])

    def _acceptable(self, windows: np.ndarray) -> np.ndarray:
        return (windows == N).mean(axis=1) <= self.max_n_share

    def _random_starts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        found: list[np.ndarray] = []
        for _ in range(1000):
            draws = rng.integers(self._cumulative[-1], size=2 * count)
            which = np.searchsorted(self._cumulative, draws, side="right")
            before = np.concatenate([[0], self._cumulative])[which]
            offsets = np.array([record.offset for record in self.records])[which]
            starts = offsets + draws - before
            found.append(starts[self._acceptable(self._gather(starts))])
            if sum(map(len, found)) >= count:
                return np.concatenate(found)[:count]
        raise InputError(
            f"data.max_n_share ({self.max_n_share}): hardly any window of {self.length} nt in "
            f"{self.store.manifest['sources']} has so few N"
        )

    def _strided_starts(self, stride: int) -> np.ndarray:
        kept = []
        for record in self.records:
            starts = record.offset + np.arange(0, record.length - self.length + 1, stride)
            for part in np.array_split(starts, max(1, len(starts) // 10_000)):
                kept.append(part[self._acceptable(self._gather(part))])
        starts = np.concatenate(kept)
        if not len(starts):
            raise InputError(
                f"data.max_n_share ({self.max_n_share}): no window of {self.length} nt in "
                f"{self.store.manifest['sources']} has so few N"
            )
        return starts

    def _shuffled_starts(self, step: int, batch_size: int) -> np.ndarray:
        if batch_size > len(self.starts):
            raise InputError(
                f"batch_size ({batch_size}) is more than the {len(self.starts)} strided windows of the text"
            )
        steps_per_epoch = len(self.starts) // batch_size
        epoch, index = divmod(step, steps_per_epoch)
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.starts))
        return self.starts[order[index * batch_size : (index + 1) * batch_size]]

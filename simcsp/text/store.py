"""The memory-mapped store of the ids of FASTA files or other sequences."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.files import read_json, replacing, sha256_file, write_json
from simcsp.text.alphabet import N, reverse_complement
from simcsp.text.fasta import READ_SIZE, fasta_pieces

_STORE_VERSION = 3  # of the files in the cache: others are rebuilt


@dataclass(frozen=True)
class Record:
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
        self.manifest = _read_manifest(path)
        self.records = [Record(**record) for record in self.manifest["records"]]
        self.ids = np.memmap(path, dtype=np.uint8, mode="r")
        self.by_name = {record.name: record for record in self.records}
        self._lower = np.memmap(path.with_suffix(".lower"), dtype=np.uint8, mode="r")

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """{name: index} of the records."""
        return {record.name: number for number, record in enumerate(self.records)}

    @functools.cached_property
    def lengths(self) -> dict[str, int]:
        """{name: nt} of the records."""
        return {record.name: record.length for record in self.records}

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Index of each record's first base, int64 [records]."""
        return np.array([record.offset for record in self.records], dtype=np.int64)

    @property
    def sha256(self) -> str:
        """Hash of the ids and record names: the identity of the text, whatever the files are called."""
        return self.manifest["sha256"]

    def fetch(self, name: str, start: int, end: int, strand: str = "+") -> np.ndarray:
        """Ids of [start, end) of a record, 0-based; reverse-complemented on the minus strand."""
        record = self.by_name[name]
        ids = np.asarray(self.ids[record.offset + start : record.offset + end])
        return reverse_complement(ids) if strand == "-" else ids

    def windows(self, starts: np.ndarray, length: int, minus: np.ndarray | None = None) -> np.ndarray:
        """Ids uint8 [n, length] from `starts` int64 [n], indices into the store. minus: bool [n], which of them are
        read on the reverse strand; None: none is."""
        windows = np.lib.stride_tricks.sliding_window_view(self.ids, length)[starts]
        if minus is not None:
            windows[minus] = reverse_complement(windows[minus])
        return windows

    def lower(self, start: int, length: int) -> np.ndarray:
        """Soft-masked letters, uint8 [length] of 0 and 1, from index `start` of the store."""
        return np.unpackbits(self._lower[start // 8 : (start + length + 7) // 8])[start % 8 :][:length]


def open_store(fastas: Iterable[str | Path], cache: str | Path, qualify: bool = False) -> TokenStore:
    """The store of these FASTA files, made in `cache` on first use and reused for files of the same content and names.

    qualify: the files are of different genomes, so a record is called `file stem:name` (`folder/file:name` where stems
    are alike); otherwise a name that occurs in two files is an error. See `_write_store` for what is on disk.
    """
    paths = [Path(path) for path in fastas]
    for path in paths:
        if not path.is_file():
            raise InputError(f"FASTA {path} does not exist")
    sources = _distinct(paths, [path.name for path in paths])
    prefixes = _distinct(paths, [path.name.split(".")[0] for path in paths])
    stamp = [*sources, *prefixes, *(content_hash(path) for path in paths)]

    def pieces() -> Iterator[_Piece]:
        owner: dict[str, int] = {}
        for source, path in enumerate(paths):
            for own, ids, lower in fasta_pieces(path):
                name = f"{prefixes[source]}:{own}" if qualify else own
                if owner.setdefault(name, source) != source:
                    raise InputError(f"{path}: record name {name!r} is also in another FASTA of this list")
                yield source, name, own, ids, lower

    return _open_or_write(paths[0].name.split(".")[0], [*stamp, qualify], sources, pieces, cache)


def content_hash(path: Path) -> str:
    """Hash of a file, which is read once a process: a time that a copy or `touch` sets proves nothing of a cache."""
    return _hash_once(path.resolve(), *_state_of(path))


def content_hashes(paths: Iterable[str | Path]) -> str:
    return hashlib.sha256("".join(content_hash(Path(path)) for path in paths).encode()).hexdigest()


def _state_of(path: Path) -> tuple[int, ...]:
    """What changes with a file while a process runs: nobody sets the time of its last change of status."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@functools.cache
def _hash_once(path: Path, *file: int) -> str:
    return sha256_file(path)


def _distinct(paths: list[Path], names: list[str]) -> list[str]:
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
            lower = store.lower(record.offset, record.length)
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


@functools.cache
def _check_content(
    path: Path, written: tuple[int, ...], expected: str, lower: str | None, records: tuple[Record, ...]
) -> bool:
    """Whether the files of a store have the hashes of its manifest. Cached: once a process for files as they are.

    written: the state of the files, which makes changed ones another case.
    """
    ids, digest = np.memmap(path, dtype=np.uint8, mode="r"), hashlib.sha256()
    for record in records:
        digest.update(b">" + record.name.encode())
        for start in range(record.offset, record.offset + record.length, READ_SIZE):
            digest.update(ids[start : min(start + READ_SIZE, record.offset + record.length)])
    return digest.hexdigest() == expected and lower in (None, sha256_file(path.with_suffix(".lower")))


def _read_manifest(path: Path) -> dict[str, Any]:
    """NAME.json of a store, whose files it is checked against.

    Their hash takes a second for 1 Gb, once a process. Raises InputError for what is damaged.
    """
    remedy = f"delete {path.with_suffix('.*')}, the store is rebuilt from its source"
    manifest = read_json(path.with_suffix(".json"), remedy)
    try:
        records = tuple(Record(**record) for record in manifest["records"])
        bases = manifest["bases"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path.with_suffix('.json')} is not the manifest of a store ({error}): {remedy}") from None
    files = {path: bases, path.with_suffix(".lower"): (bases + 7) // 8}
    for file, size in files.items():
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{file} is not of the {size} bytes that were written: truncated or damaged; {remedy}")
    changed = tuple(number for file in files for number in _state_of(file))
    if not _check_content(path, changed, manifest["sha256"], manifest.get("lower_sha256"), records):
        raise InputError(f"{path} does not match its SHA-256: damaged; {remedy}")
    return manifest


def _write_store(target: Path, sources: list[str], pieces: Iterable[_Piece]) -> None:
    """NAME.ids: one byte a base. NAME.lower: one bit a base, set where soft-masked. NAME.json: sources, hash, and
    length, share of N and of repeats of each record. Written aside and renamed: no half store is ever left."""
    digest, lower_digest = hashlib.sha256(), hashlib.sha256()
    records: dict[str, dict[str, Any]] = {}
    total = 0
    with replacing(target) as aside, replacing(target.with_suffix(".lower")) as aside_lower:
        with open(aside, "wb") as out, open(aside_lower, "wb") as out_lower:
            waiting = np.array([], dtype=np.uint8)  # bits that do not fill a byte yet
            for source, name, source_name, ids, lower in pieces:
                if name not in records:
                    facts = {"name": name, "offset": total, "length": 0, "source": source, "source_name": source_name}
                    records[name] = facts | {"n_share": 0, "repeat_share": 0}  # numbers of bases until all are read
                    digest.update(b">" + name.encode())
                records[name]["length"] += len(ids)
                records[name]["n_share"] += np.count_nonzero(ids == N)
                records[name]["repeat_share"] += np.count_nonzero(lower)
                total += len(ids)
                digest.update(ids)
                out.write(ids)
                waiting = np.concatenate([waiting, lower])
                whole = len(waiting) // 8 * 8
                lower_digest.update(np.packbits(waiting[:whole]))
                out_lower.write(np.packbits(waiting[:whole]))
                waiting = waiting[whole:]
            lower_digest.update(np.packbits(waiting))
            out_lower.write(np.packbits(waiting))
        if not records:
            raise InputError(f"{', '.join(sources)} holds no sequence")
    shares = {}
    for share in ("n_share", "repeat_share"):
        shares[share] = round(sum(record[share] for record in records.values()) / total, 6)
        for record in records.values():
            record[share] = round(record[share] / record["length"], 6)
    manifest = {
        "sources": sources,
        "sha256": digest.hexdigest(),
        "lower_sha256": lower_digest.hexdigest(),
        "bases": total,
        **shares,
        "records": list(records.values()),
    }
    write_json(target.with_suffix(".json"), manifest)


def strand_ids(store: TokenStore, name: str, reverse: bool) -> np.ndarray:
    """All ids of a record, read on one of its strands."""
    return store.fetch(name, 0, store.by_name[name].length, "-" if reverse else "+")


def padded(store: TokenStore, record: Record, start: int, end: int) -> np.ndarray:
    """Ids uint8 [end - start] of a stretch of a record, N where it has none."""
    ids = np.full(end - start, N, dtype=np.uint8)
    first, last = max(start, 0), min(end, record.length)
    if first < last:
        ids[first - start : last - start] = store.fetch(record.name, first, last)
    return ids

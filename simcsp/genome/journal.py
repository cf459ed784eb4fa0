"""What a long command has done so far, entry by entry, in a file from which it goes on after a kill."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from simcsp.core.errors import InputError
from simcsp.core.files import naming
from simcsp.core.locks import LOCK, release_lock, take_lock

_MAGIC = b"SimCSP journal\n"
_HEADER = struct.Struct("<II")  # bytes of an entry, and their CRC-32
FILES = "files"
_FLUSH_EVERY = 5.0  # seconds: a power cut costs no more; a kill costs what is not yet an entry


class Journal(AbstractContextManager):
    """Entries of bytes, of which the first says what they are about. One process at a time holds it.

    An entry that a kill cut short is dropped, with what follows it. `replaying`: `entries` has not come to its end.
    """

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        """job: plain values that the entries depend on, and FILES: {one of them: the file that it is of}, for messages.
        A journal that is there is gone on with.

        Raises InputError where it was begun for another job, or another process holds it, and for a file that is none.
        """
        self.path, self.flushed, self.replaying = path, time.monotonic(), False
        self.lock = path.with_name(f"{path.name}{LOCK}")
        with naming(path):
            take_lock(self.lock, path)
        try:
            with naming(path):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            release_lock(self.lock)
            raise
        self.file: BinaryIO = os.fdopen(handle, "r+b")
        try:
            self._go_on(job)
        except BaseException:
            self.close()
            raise

    def _go_on(self, job: dict[str, Any]) -> None:
        """Read what is there as far as its first entry, which must be this job; begin where nothing is."""
        start = self.file.read(len(_MAGIC))
        if not _MAGIC.startswith(start):
            raise InputError(f"{self.path} is not a journal of this command: move it elsewhere, or give another --out")
        begun = self._read() if start == _MAGIC else None
        if begun is None:
            self._begin(job)
            return
        known, job = json.loads(begun), json.loads(json.dumps(job))
        files = {key: f" ({path})" for key, path in job.get(FILES, {}).items()}
        changed = [key for key in {**known, **job} if known.get(key) != job.get(key) and key != FILES]
        if not changed:
            return
        if self._read() is None:  # nothing is done yet, so nothing would be lost
            self._begin(job)
            return
        raise InputError(
            f"{self.path} holds the beginning of this work with another "
            f"{' and another '.join(key + files.get(key, '') for key in changed)}: give the same command to resume, or "
            "delete that file to start over"
        )

    def _begin(self, job: dict[str, Any]) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(_MAGIC)
        self.add(json.dumps(job).encode())

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it. What an entry could not write is tried once more here, and may fail again."""
        try:
            with naming(self.path):
                self.file.close()
        finally:
            release_lock(self.lock)

    def entries(self) -> Iterator[bytes]:
        """What was added before, in its order; then `add` goes on after it."""
        self.replaying = True
        while (payload := self._read()) is not None:
            yield payload
        self.replaying = False

    def add(self, payload: bytes) -> None:
        """Add an entry after those that have been read or added."""
        with naming(self.path):
            self.file.write(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
            self.file.flush()
            if time.monotonic() - self.flushed >= _FLUSH_EVERY:
                os.fsync(self.file.fileno())
                self.flushed = time.monotonic()

    def remove(self) -> None:
        """Delete it: the work is done."""
        self.path.unlink()
        self.close()

    def _read(self) -> bytes | None:
        """The next entry; None at the end, where what is no whole entry is cut off."""
        start = self.file.tell()
        header = self.file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            size, checksum = _HEADER.unpack(header)
            payload = self.file.read(size)
            if len(payload) == size and zlib.crc32(payload) == checksum:
                return payload
        self.file.seek(start)
        self.file.truncate()
        return None

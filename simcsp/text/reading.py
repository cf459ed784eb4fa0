"""Files of sequence, annotation and sites, plain or gzipped: opened with what is wrong named."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from simcsp.core.errors import InputError


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


def is_whole_number(text: str) -> bool:
    """Whether a field of a file is a number from 0, in ASCII digits, of a size that a genome may have."""
    return text.isascii() and text.isdecimal() and len(text) <= 18

"""Files of sequence, annotation, sites and variants, plain or gzipped: opened with what is wrong named."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from simcsp.core.errors import InputError

_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"BZh": "compressed by bzip2: bunzip2 it, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed by xz: unxz it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unzstd it, or compress it with gzip",
    b"PK\3\4": "a zip archive: unpack it",
    b"\x43\x27\x41\x1a": "UCSC's .2bit: twoBitToFa makes a FASTA of it",
    b"\x1a\x41\x27\x43": "UCSC's .2bit: twoBitToFa makes a FASTA of it",
    b"\xff\xfe": "text in UTF-16: iconv -f UTF-16 -t UTF-8 makes UTF-8 of it",
    b"\xfe\xff": "text in UTF-16: iconv -f UTF-16 -t UTF-8 makes UTF-8 of it",
    b"BAM\1": "a BAM file",
    b"CRAM": "a CRAM file",
}
"""How files begin that are no text -> what they are, and what to do."""


@contextmanager
def open_binary(path: str | Path) -> Iterator[BinaryIO]:
    """Open a plain or gzipped file (told apart by its first bytes), after the mark of UTF-8 that it may begin with.

    Raises InputError for a missing, cut-off or otherwise compressed file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw, unzipped(raw, path) as handle:
            yield handle
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip stream is damaged or cut short ({error}): fetch the file again") from None


def unzipped(raw: BinaryIO, name: str | Path) -> io.BufferedReader:
    """A stream that can be peeked into, unpacked where it is gzipped, and behind a mark of UTF-8. raw: as `open` gives
    it. Raises InputError for a file that is not text."""
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
    if buffered.peek(2)[:2] == b"\x1f\x8b":
        buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered), 1 << 16)
    start = buffered.peek(8)[:8]
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise InputError(f"{name} is {what}")
    if start.startswith(_BOM):
        buffered.read(len(_BOM))
    return buffered


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """The same as text in UTF-8, whatever its line ends; invalid bytes are replaced."""
    with open_binary(path) as handle:
        yield io.TextIOWrapper(handle, encoding="utf-8", errors="replace")


def table_rows(path: str | Path) -> Iterator[tuple[str, str]]:
    """('file, line n', line) of each row of a text file: blank lines, comments and a browser's lines are none."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip() and not is_comment(line):
                yield f"{path}, line {number}", line


def is_comment(line: str) -> bool:
    """Whether a line of an annotation or BED is a comment or a browser's line, and no row of a record so called."""
    return line.startswith(("#", "track ", "browser ")) or line.strip() in ("track", "browser")


def is_whole_number(text: str) -> bool:
    """Whether a field of a file is a number from 0, in ASCII digits, of a size that a genome may have."""
    return text.isascii() and text.isdecimal() and len(text) <= 18

"""FASTA files, streamed as pieces of ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from simcsp.core.errors import InputError
from simcsp.core.remarks import remark
from simcsp.text.alphabet import ENCODE, UNK
from simcsp.text.reading import open_binary

READ_SIZE = 1 << 22  # bytes of a FASTA file in memory at a time
_IDS = ENCODE.tobytes()  # bytes.translate maps and drops line ends in one pass, five times as fast as numpy's indexing
_LOWER = bytes(1 if chr(byte).islower() else 0 for byte in range(128)) + bytes(128)


def fasta_pieces(path: str | Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stream a FASTA file as (record name, ids, lower case) pieces of bounded size; a long record comes in several.

    ids: uint8 [bases]; lower case: uint8 [bases], 1 where the letter is soft-masked, which marks repeats. The name is
    the header up to the first blank. Raises InputError with file and line for anything that is not FASTA.
    """
    name, line, at_line_start, names = "", 1, True, set()
    bases, empty = 0, []

    def close() -> None:
        if name and not bases:
            empty.append(name)

    with open_binary(path) as handle:
        while chunk := handle.read(READ_SIZE):
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
                    name, bases = _record_name(chunk[header:end], path, line), 0
                    if name in names:
                        raise InputError(
                            f"{path}, line {line}: record name {name!r} occurs twice: coordinates would be ambiguous"
                        )
                    names.add(name)
                    line, at_line_start = line + 1, end < len(chunk)
                    header = end + 1
                position = header
    close()
    if name and not at_line_start and not bases:
        raise InputError(f"{path} ends amid the header of {name!r}: the file is cut short")
    _check_records(path, names, empty, f"{name!r}, before line {line}")


def _check_records(path: str | Path, names: set[str], empty: list[str], last: str) -> None:
    """Refuse a file without any sequence; records that are empty are told."""
    if not names:
        raise InputError(f"{path}: no FASTA record ('>' header) found: the file is empty or of another format")
    if len(empty) == len(names):
        raise InputError(f"{path}: no record has any sequence ({last}): the file is cut short")
    if empty:
        remark(f"{path}: left out: records without any sequence ({len(empty):,}: {', '.join(empty[:3])}, ...)")


def _record_name(header: bytes, path: str | Path, line: int) -> str:
    if b"\r" in header.rstrip(b"\r"):
        raise InputError(f"{path}: its line ends are CR alone: tr '\\r' '\\n' converts them")
    words = header[1:].split()
    if not words:
        raise InputError(f"{path}, line {line}: header without a name")
    name = words[0].decode("utf-8", "replace")
    if min(name) < " " or "\x7f" in name:
        raise InputError(f"{path}, line {line}: record name {name!r} holds a control character")
    return name


def _complete_header(chunk: bytes, at_line_start: bool, handle: BinaryIO) -> bytes:
    last = chunk.rfind(b"\n") + 1
    if (last or at_line_start) and chunk[last : last + 1] == b">":
        chunk += handle.readline()
    return chunk


def _next_header(chunk: bytes, position: int, at_line_start: bool) -> int:
    if at_line_start and chunk[position : position + 1] == b">":
        return position
    end = chunk.find(b"\n>", position)
    return len(chunk) if end < 0 else end + 1


def _encode_body(body: bytes, path: str | Path, line: int) -> tuple[np.ndarray, np.ndarray]:
    ids = body.translate(_IDS, b"\r\n")
    if UNK in ids and (b"\n;" in body or body.startswith(b";")):
        at = 0 if body.startswith(b";") else body.index(b"\n;") + 1
        number = line + body[:at].count(b"\n")
        raise InputError(f"{path}, line {number}: a comment (;), which today's FASTA does not have: remove such lines")
    if UNK in ids:
        at = next(i for i, byte in enumerate(body) if ENCODE[byte] == UNK and byte not in b"\r\n")
        raise InputError(
            f"{path}, line {line + body[:at].count(10)}: {chr(body[at])!r} is not a nucleotide code "
            "(ACGTU, N or IUPAC letters)"
        )
    return np.frombuffer(ids, np.uint8), np.frombuffer(body.translate(_LOWER, b"\r\n"), np.uint8)

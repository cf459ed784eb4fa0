"""Files and folders: read plain or gzipped, written aside and renamed, hashed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from utils.errors import InputError


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


def write_text(path: Path, text: str) -> None:
    """Write aside and rename: whoever reads `path` sees the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_text(text)
    os.replace(aside, path)


def write_json(path: Path, value: Any) -> None:
    """Atomically write readable JSON; NaN is refused, None stands for a number that does not exist."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; takes the place of `path` when the block ends well. A kill leaves the old or the new one."""
    aside, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(aside, path)
    shutil.rmtree(old, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """Hash of a checkpoint folder: names and bytes of its files.

    The tokenizer's files do not count where we wrote them: they say nothing that the vocabulary's size does not, and
    checkpoints of older versions, whose hash stands in the runs begun from them, may be given them later.
    """
    digest = hashlib.sha256()
    settings = folder / "tokenizer_config.json"
    ours = settings.is_file() and '"written_by": "simcsp"' in settings.read_text(encoding="utf-8", errors="replace")
    skipped = ("tokenizer.json", settings.name) if ours else ()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skipped):
        digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when the block ends well; gzipped where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with gzip.open(aside, "wt") if path.suffix == ".gz" else open(aside, "w") as handle:
            yield handle
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

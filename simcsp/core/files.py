"""Files and folders: validated reading, atomic writing, hashes."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from simcsp.core.bgzf import BgzfWriter
from simcsp.core.errors import InputError
from simcsp.core.locks import LOCK, lock_holder, release_lock, take_lock

if TYPE_CHECKING:
    import pandas as pd

_SEAL = "checksum"  # key of a JSON object: SHA-256 of the rest of it
_IN_WORDS = re.compile(r"(?:\(os error |\[Errno )(\d+)[)\]]")
_TAKEN = errno.ENOTEMPTY, errno.EEXIST  # where a folder is to come, there is one
_ASIDE, _OLD = ".tmp", "old"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_json(path: Path, remedy: str = "restore it from a backup") -> dict[str, Any]:
    """A JSON object, verified against its checksum if it has one (which is not returned).

    Raises InputError that names the file and the remedy where it is missing, damaged or no object.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {remedy}") from None
    except ValueError as error:  # of JSON and of UTF-8
        raise InputError(f"{path} cannot be read as JSON ({error}): truncated or damaged; {remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a JSON object: {remedy}")
    seal = values.pop(_SEAL, None)
    if seal is not None and seal != _hash_of(values):
        raise InputError(f"{path} does not match its checksum: damaged or edited; {remedy}")
    return values


def read_table(
    path: Path, columns: Iterable[str], remedy: str = "restore it from a backup", sep: str = ","
) -> pd.DataFrame:
    """A CSV, plain or gzipped, with at least these columns, none of them with an empty field.

    Raises InputError that names the file and the remedy where it is missing or damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=sep)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {remedy}") from None
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:  # of pandas' parser, UTF-8 and gzip
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a table ({reason}): truncated or damaged; {remedy}") from None
    for column in columns:
        if column not in table:
            raise InputError(f"{path} has no column {column}: truncated or damaged; {remedy}")
        if table[column].isna().any():
            line = int(table[column].isna().argmax()) + 2
            raise InputError(f"{path}, line {line}: {column} is empty or not a number: damaged; {remedy}")
    return table


def refuse_input_as_output(out: Path | None, inputs: Iterable[Path | None]) -> None:
    """Raises InputError where `out` is one of the inputs, by whatever name, or a file of a folder among them."""
    if out is None or not out.exists():
        return
    for path in inputs:
        if path is not None and path.exists() and (out.samefile(path) or out.resolve().parent == path.resolve()):
            raise InputError(f"--out {out} would replace what is read, {path}: give another name")


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path of the same name to write a file to, which takes the place of `path` when the block ends well.

    Whoever reads `path` sees the old file or the new, never half of one, after a kill and after a power cut too: file
    and folder are flushed to the disk. Its mode is that of the umask, whatever a library gives its own files.
    """
    with _aside(path) as aside:
        yield aside
        _complete(aside)
        os.replace(aside, path)
        _flush(path.parent)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; takes the place of `path` when the block ends well. A kill leaves the old or the new one.

    Between two renames a kill leaves neither under its name; the next writer, or `mend_folder`, puts the old one back.
    """
    with _aside(path) as aside:
        aside.mkdir()
        yield aside
        _complete(aside)
        for turn in itertools.count():
            try:
                os.rename(aside, path)
                break
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            old = aside.parent / f"{_OLD}{turn}" / path.name
            old.parent.mkdir()
            with suppress(FileNotFoundError):  # another process has just moved it
                os.rename(path, old)
        _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; a kill leaves all of it or none under its name."""
    with _aside(path) as aside:
        os.rename(path, aside)


def copy_files(source: Path, folder: Path) -> None:
    """Copy what is in a folder to another, which is there."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        target.mkdir() if path.is_dir() else shutil.copyfile(path, target)


def mend_folder(parent: Path, name: str | None = None) -> None:
    """Remove what killed processes left when they wrote to `parent` (a file or folder of that name); a folder that one
    of them had moved aside comes back. What a live process writes stays, and what is not ours."""
    pattern = "*" if name is None else glob.escape(name)
    for left in parent.glob(f"{pattern}.*{_ASIDE}"):
        with suppress(OSError):  # another user's
            if not any(left.iterdir()):
                left.rmdir()
            elif (left / LOCK).is_file() and lock_holder(left / LOCK) is None:
                _take_away(left)


def mend_old_folder(parent: Path) -> None:
    """Do so in a folder of a run, whose only process this is, after a version that wrote format 2 or before."""
    for old in parent.glob("*.old"):
        if (whole := old.with_suffix("")).exists():
            shutil.rmtree(old)
        else:
            os.rename(old, whole)
    for left in parent.glob(f"*{_ASIDE}"):
        left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Atomically write readable JSON with its checksum; NaN is refused, None stands for a missing number."""
    sealed = {**value, _SEAL: _hash_of(value)}
    write_text(path, json.dumps(sealed, indent=1, allow_nan=False) + "\n")


@contextmanager
def written_aside(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """A text file that appears under its name only if the block succeeds; gzipped in blocks (BGZF) if the name ends in
    .gz. errors: as of `open`."""
    with replacing(path) as aside, open(aside, "wb") as raw:
        binary = BgzfWriter(raw) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(binary, encoding="utf-8", errors=errors, newline="\n") as handle:
            yield handle


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; a kill may leave a part of it."""
    with naming(path), open(path, "a", encoding="utf-8") as handle:
        handle.write(f"{line}\n")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`: its name, in a folder beside it that no other process has.

    A lock in that folder says that its writer lives, to other containers and machines too. What the file system refuses
    is an OSError that names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        mend_folder(path.parent, path.name)
        folder = Path(tempfile.mkdtemp(_ASIDE, f"{path.name}.", path.parent))
        try:
            take_lock(folder / LOCK)
            yield folder / path.name
        finally:
            _take_away(folder)
            release_lock(folder / LOCK)


def _take_away(folder: Path) -> None:
    """Remove a folder of `_aside`; what had been moved into it comes back where nothing has taken its place."""
    for old in sorted(folder.glob(f"{_OLD}*/*")):
        if not (folder.parent / old.name).exists():
            try:
                os.rename(old, folder.parent / old.name)
            except OSError as error:
                if error.errno not in _TAKEN:  # by another process, since it was looked for
                    raise
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:  # which says that the folder is one of ours: last
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _complete(aside: Path) -> None:
    mode = (aside.parent / LOCK).stat().st_mode & 0o666
    for path in (aside, *aside.rglob("*")):
        if path.is_file():
            path.chmod(mode)
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that flushes no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what a full or failing disk raises be an OSError that names `path`, whoever wrote to it.

    One that is about another file, such as one that is read, keeps that name.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        named, code = getattr(error, "filename", None), _error_number(error)
        elsewhere = named is not None and f"{_ASIDE}/" not in f"{named}/" and code not in _FULL
        if code is None or elsewhere:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _error_number(error: Exception) -> int | None:
    """errno of what the file system refused; None of another error. torch hides the OSError, safetensors and shutil put
    its number into words."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    number = _IN_WORDS.search(str(error))
    return int(number[1]) if number else None


# -- hashes ------------------------------------------------------------------------------------------------------------


def _hash_of(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_hash(path: Path, expected: str | None, remedy: str) -> None:
    """Refuse a file whose hash differs; expected: None where an earlier version recorded none."""
    if expected is None:
        return
    if not path.is_file():
        raise InputError(f"{path} does not exist: {remedy}")
    if sha256_file(path) != expected:
        raise InputError(f"{path} does not match its SHA-256: damaged or edited; {remedy}")

"""Files and folders: read with what is wrong named, written aside and renamed, hashed, locked for one process."""

from __future__ import annotations

import errno
import fcntl
import glob
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from simcsp.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_SEAL = "checksum"  # key of a JSON object: SHA-256 of the rest of it
_UNWRITABLE = re.compile(r"\(os error (\d+)\)")  # as safetensors says it


# -- reading -----------------------------------------------------------------------------------------------------------


def read_json(path: Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """A JSON object, checked against its own checksum where it was written with one (which is left out).

    Raises InputError that names the file and the remedy where it is missing, damaged or no object.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {remedy}") from None
    except ValueError as error:  # of JSON and of UTF-8
        raise InputError(f"{path} cannot be read as JSON ({error}): cut short or damaged; {remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a JSON object: {remedy}")
    seal = values.pop(_SEAL, None)
    if seal is not None and seal != _hash_of(values):
        raise InputError(f"{path} is not what was written (its checksum differs): damaged or edited; {remedy}")
    return values


def read_table(path: Path, columns: Iterable[str], remedy: str = "restore it from a copy") -> pd.DataFrame:
    """A CSV with at least these columns, none of them with an empty field.

    Raises InputError that names the file and the remedy where it is missing or damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {remedy}") from None
    except ValueError as error:  # of pandas' parser and of UTF-8
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as CSV ({reason}): cut short or damaged; {remedy}") from None
    for column in columns:
        if column not in table:
            raise InputError(f"{path} has no column {column}: cut short or damaged; {remedy}")
        if table[column].isna().any():
            line = int(table[column].isna().argmax()) + 2
            raise InputError(f"{path}, line {line}: {column} is empty or no number: damaged; {remedy}")
    return table


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A path beside `path` to write a file to, which takes its place when the block ends well and else is removed.

    suffix: what its name must end in, for a library that looks at it.
    Whoever reads `path` sees the old file or the new, never half of one, after a kill and after a power cut too: file
    and folder are flushed to the disk. What killed processes of this machine left of it is removed.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        aside = _aside(path, suffix)
        try:
            yield aside
            _flush(aside)
            os.replace(aside, path)
            _flush(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; takes the place of `path` when the block ends well. A kill leaves the old or the new one.

    Between its two renames a kill leaves neither under its name, but the old one as `path`.old: see `mend_folders`.
    """
    aside, old = _aside(path), path.with_name(f"{path.name}.old")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        try:
            aside.mkdir()
            yield aside
            for written in aside.rglob("*"):
                _flush(written)
            _flush(aside)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(path, old)
            os.rename(aside, path)
            _flush(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def mend_folders(parent: Path) -> None:
    """End what a kill interrupted in `replace_folder` of folders in `parent`, whose only process this is."""
    for old in parent.glob("*.old"):
        if (whole := old.with_suffix("")).exists():
            shutil.rmtree(old)
        else:
            os.rename(old, whole)
    for left in parent.glob("*.tmp"):
        _remove(left)


def write_text(path: Path, text: str) -> None:
    """Put a text in the place of `path`, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Put readable JSON in the place of `path`, with its checksum; NaN is refused, None stands for no number."""
    sealed = {**value, _SEAL: _hash_of(value)}
    write_text(path, json.dumps(sealed, indent=1, allow_nan=False) + "\n")


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when the block ends well; gzipped where the name ends in .gz."""
    with replacing(path) as aside, open(aside, "wb") as raw:
        # without time and name in the header: the same text gives the same bytes
        binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as handle:
            yield handle


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; a kill may leave a part of it."""
    with _disk_errors(path), open(path, "a", encoding="utf-8") as handle:
        handle.write(f"{line}\n")


def _aside(path: Path, suffix: str = "") -> Path:
    """Where this process writes what is to become `path`: no process of this or another machine has the same."""
    return path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp{suffix}")


def _clear_leftovers(path: Path) -> None:
    begin = f"{path.name}.{platform.node()}."
    for left in path.parent.glob(f"{glob.escape(begin)}*.tmp*"):
        number = left.name.removeprefix(begin).partition(".")[0]
        if number.isdecimal() and int(number) != os.getpid() and not _is_running(int(number)):
            _remove(left)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that flushes no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Have what a full or failing disk raises be an OSError that names `path`, whoever wrote to it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except InputError:
        raise
    except Exception as error:  # torch hides the OSError, safetensors puts its number into words
        cause, number = error.__context__, _UNWRITABLE.search(str(error))
        hidden = isinstance(error, RuntimeError) and isinstance(cause, OSError)
        code = cause.errno if hidden else int(number[1]) if number else None
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


# -- hashes ------------------------------------------------------------------------------------------------------------


def _hash_of(value: dict[str, Any]) -> str:
    """Hash of a JSON object as it is once written and read."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_hash(path: Path, expected: str | None, remedy: str) -> None:
    """Refuse a file that is not what was hashed; expected: None where an earlier version wrote no hash."""
    if expected is None:
        return
    if not path.is_file():
        raise InputError(f"{path} does not exist: {remedy}")
    if sha256_file(path) != expected:
        raise InputError(f"{path} is not what was written (its SHA-256 differs): damaged or edited; {remedy}")


# -- one process a folder ----------------------------------------------------------------------------------------------

_held: dict[Path, int] = {}  # this process's locks: {file: its descriptor}


def take_lock(path: Path) -> None:
    """Make this process the only one that holds the lock file `path`, until `release_lock` or its end, however it ends.

    The lock is flock's and dies with its process. Over NFS it holds between machines since Linux 2.6.12, which turns it
    into a byte-range lock of the server; NFS mounted with local_lock, and Lustre mounted with localflock, lock
    within one machine alone.
    Raises InputError that says who holds it, since when; OSError (ENOLCK, ENOSYS, EOPNOTSUPP) where the file system
    cannot lock.
    """
    path = path.resolve()
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(handle, path):  # not one whose holder removed it while we opened it
                break
        except BlockingIOError:
            said = os.pread(handle, 1000, 0)
            os.close(handle)
            raise InputError(f"{path.parent} is in use by {_holder(said)}: wait for it, or stop it first") from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    holder = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)
    _held[path] = handle


def release_lock(path: Path) -> None:
    """Remove a lock that this process holds."""
    if (handle := _held.pop(path.resolve(), None)) is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def lock_holder(path: Path) -> str | None:
    """Who holds a lock file, in words; None where nobody does. The file is only read."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released with the file
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _holder(path.read_bytes())
    return None


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(said: bytes) -> str:
    """Who holds a lock, from what the lock file says."""
    try:
        holder = json.loads(said)
        return "process {pid} on {host} since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):
        return "another process"

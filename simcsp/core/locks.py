"""One process a folder: locks that die with their process, seen from other containers and machines too."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from simcsp.core.errors import InputError

LOCK = ".lock"
"""In a folder that one process writes to: who, and since when."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRIES = 3  # who looks at a lock holds it for that moment
_held: dict[Path, int] = {}  # this process's locks: {file: its descriptor}
_warned: set[int] = set()  # devices that have no locks


def take_lock(path: Path, what: Path | None = None) -> None:
    """Make this process the only one that holds the lock file `path`, until `release_lock` or its end, however it ends.

    what: is locked by it; None: the folder that it lies in.

    The lock is flock's. Over NFS it holds between machines since Linux 2.6.12, which turns it into a byte-range lock of
    the server; NFS mounted with local_lock, and Lustre mounted with localflock, lock within one machine alone. Where
    the file system has no locks, a holder that can be seen to live is respected, and a warning names the folder.
    Raises InputError that says who holds it, since when.
    """
    path = path.resolve()
    if path in _held:
        return
    tries = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            if not path.parent.is_dir() and os.path.lexists(path.parent):
                raise
            continue  # its folder was taken for one that a kill left, at any moment
        holder = _lock(handle, path, fcntl.LOCK_EX)
        if holder is None and _is_same_file(handle, path):  # not one whose holder removed it while we opened it
            break
        os.close(handle)
        if holder is not None:
            tries += 1
            if tries == _TRIES:
                raise InputError(f"{what or path.parent} is in use by {holder}: wait for it, or stop it first")
            time.sleep(0.05)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    said = {"host": platform.node(), "pid": os.getpid(), "since": now, "life": _life_of(os.getpid())}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(said).encode(), 0)
    _held[path] = handle


def release_lock(path: Path) -> None:
    if (handle := _held.pop(path.resolve(), None)) is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def lock_holder(path: Path) -> str | None:
    """The holder of a lock file, in words; None if it is free. The file is only read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _lock(handle, path, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, kind: int) -> str | None:
    """Lock an open file; who holds it, in words, where another does."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _in_words(_read_holder(handle))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
    holder = _read_holder(handle)
    if holder.get("life") and holder["life"] == _life_of(holder.get("pid")) and holder["pid"] != os.getpid():
        return _in_words(holder)
    device = os.fstat(handle).st_dev
    if device not in _warned:
        _warned.add(device)
        logging.getLogger(__name__).warning(
            f"warning: {path.parent}: this file system does not support locks: do not start a second process there"
        )
    return None


def _read_holder(handle: int) -> dict[str, object]:
    """What a lock file says of its holder; {} where it says nothing."""
    with suppress(ValueError):
        said = json.loads(os.pread(handle, 1000, 0))
        if isinstance(said, dict):
            return said
    return {}


def _in_words(holder: dict[str, object]) -> str:
    if {"pid", "host", "since"} <= set(holder):
        return "process {pid} on {host} since {since}".format(**holder)
    return "another process"


def _life_of(process: object) -> str | None:
    """What tells a process from all others, on every machine that sees this disk: boot, PID namespace, number, start.

    None where there is no such process, and on systems without Linux's /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        started = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {process} {started.split()[19]}"
    except (OSError, IndexError):
        return None


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False

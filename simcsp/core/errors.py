"""Errors that the user can fix (utils/script.py reports them as one line on stderr and an exit status)."""

from __future__ import annotations

import errno
import os
import signal

_REMEDIES = {
    errno.ENOSPC: "free some space, then rerun the same command to resume",
    errno.EDQUOT: "free some of your quota, then rerun the same command to resume",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EEXIST: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
    errno.ENOENT: "check the path",
}


class InputError(ValueError):
    """Invalid input. The message says what is wrong, where (file and line, or field) and what to do."""


class Interrupted(Exception):
    """A requested stop (Ctrl-C, SIGTERM); the work so far is saved."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Stopped(KeyboardInterrupt):
    """A signal that asked to stop, as an exception; number: which."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def started_together() -> int:
    """How many processes torchrun or `accelerate launch` has started this one among; 1: it is alone."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process is alone, or the first of them."""
    return (os.environ.get("RANK") or "0") == "0" or started_together() == 1


def describe_os_error(error: OSError) -> str:
    """A system error in one line: path, reason, remedy."""
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno)
    return " ".join(f"{place}{error.strerror}".split()) + (f"; {remedy}" if remedy else "")

"""Errors that are the user's to mend, and the one place where they become a line on stderr and exit status 2."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_REMEDIES = {
    errno.ENOSPC: "free some space and give the same command again, it goes on from what is saved",
    errno.EDQUOT: "free some of your quota and give the same command again, it goes on from what is saved",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions, or choose another",
    errno.EPERM: "change its permissions, or choose another",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EEXIST: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
    errno.ENOENT: "check the path",
}


class InputError(ValueError):
    """Something given to us is wrong. The message says what, where (file and line, or field) and what to do."""


class Interrupted(Exception):
    """A stop was asked for (Ctrl-C, SIGTERM) and the work so far is safe on disk."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Stopped(KeyboardInterrupt):
    """A signal that asked to stop, as an exception; number: which."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; what is expected to go wrong ends in one line on stderr.

    InputError, and what the file system or the memory refuses: status 2. A number that must not exist (NaN, infinity):
    status 1. A requested stop: 128 and the signal's number, so 130 for Ctrl-C and 143 for SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        main()
    except InputError as error:
        message = " ".join(str(error).split())
        sys.exit(_say(f"{sys.argv[0]}: error: {message}", 2))
    except FloatingPointError as error:
        sys.exit(_say(f"{sys.argv[0]}: error: {error}", 1))
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail as well
        sys.exit(141)
    except OSError as error:
        if error.errno is None:  # raised by hand: what it means is not known here
            raise
        sys.exit(_say(f"{sys.argv[0]}: error: {describe_os_error(error)}", 2))
    except MemoryError:
        remedy = "take smaller batches, models or files, or a machine with more"
        sys.exit(_say(f"{sys.argv[0]}: error: the memory of this machine does not suffice: {remedy}", 2))
    except (KeyboardInterrupt, Interrupted) as error:
        detail, number = str(error) or "stopped", getattr(error, "number", signal.SIGINT)
        sys.exit(_say(f"{sys.argv[0]}: {detail}; the same command goes on from there", 128 + number))
    finally:
        signal.signal(signal.SIGTERM, before)


def describe_os_error(error: OSError) -> str:
    """What the system refused, where, and what to do, in one line."""
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno)
    return " ".join(f"{place}{error.strerror}".split()) + (f"; {remedy}" if remedy else "")


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return status

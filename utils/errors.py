"""Errors that are the user's to mend, and the one place where they become a line on stderr and exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something given to us is wrong. The message says what, where (file and line, or field) and what to do."""


class Interrupted(Exception):
    """A stop was asked for (Ctrl-C, SIGTERM) and the work so far is safe on disk."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; what is expected to go wrong ends in one line on stderr.

    InputError: status 2. A number that must not exist (NaN, infinity): status 1. A requested stop: status 130.
    """
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
    except (KeyboardInterrupt, Interrupted) as error:
        detail = str(error) or "stopped"
        sys.exit(_say(f"{sys.argv[0]}: {detail}; the same command goes on from there", 130))


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return status

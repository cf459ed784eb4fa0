"""Errors become a line on stderr and an exit status, here alone."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from simcsp.core.errors import InputError, Interrupted, Stopped, describe_os_error, started_together

LEAST_ADDRESS_SPACE = 2_000_000_000  # bytes
_SILENCE = 10  # seconds


def run_script(main: Callable[[], None], together: bool = False) -> None:
    """Run a script's main; what is expected to go wrong ends in one line on stderr.

    InputError, and what the file system or the memory refuses: status 2. A number that must not exist (NaN, infinity):
    status 1. A requested stop: 128 and the signal's number, so 130 for Ctrl-C and 143 for SIGTERM.
    together: whether it may be one of several processes of torchrun or `accelerate launch`, of which the first of each
    machine speaks for the others.
    """
    os.environ["MPLBACKEND"] = "agg"  # pictures are files; the backend of a caller's notebook may not be installed here
    for stream in (sys.stdout, sys.stderr):  # names of records and folders, where the locale has no letters for them;
        # and each line at once, also into a pipe or a job's log
        getattr(stream, "reconfigure", dict)(errors="backslashreplace", line_buffering=True)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if started_together() > 1 and not together:
            raise InputError(
                f"started as one of {started_together()} processes, and only pretrain.py shares its work among those "
                "of torchrun and accelerate: start it with python; folds are shared by --workers and --finetune.folds"
            )
        check_address_space()
        main()
    except (InputError, FloatingPointError) as error:
        _let_the_first_speak()
        _end(f"error: {' '.join(str(error).split())}", 2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail as well
        sys.exit(141)
    except OSError as error:
        if error.errno is None:  # raised by hand: what it means is not known here
            raise
        _end(f"error: {describe_os_error(error)}", 2)
    except MemoryError:
        remedy = "take smaller batches, models or files, or a machine with more"
        _end(f"error: the memory of this machine does not suffice: {remedy}", 2)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _let_the_first_speak()
        reason = " ".join(str(error).split(". ")[0].split())
        remedy = "lower pretrain.mini_batch_size, finetune.batch_size or evaluate.batch_size, whichever is in use"
        _end(f"error: {reason}: {remedy}", 2)
    except (KeyboardInterrupt, Interrupted) as error:
        detail, number = str(error) or "stopped", getattr(error, "number", signal.SIGINT)
        if _is_another_first():  # all stop together, and it says where
            time.sleep(2)
            sys.exit(128 + number)
        _end(f"{detail}; rerun the same command to resume", 128 + number)
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says so: on a GPU by a class of its own, on a CPU in words alone."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def check_address_space() -> None:
    """Refuse a limit of address space under which the libraries end in an abort or a failed import."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise InputError(
            f"the address space is limited to {limit / 1e9:.1f} GB (ulimit -v), and the libraries alone take "
            f"{LEAST_ADDRESS_SPACE / 1e9:.0f} GB: raise it, or limit memory otherwise (cgroups, the batch system)"
        )


def _is_another_first() -> bool:
    """Whether this is one of several processes, and not the first of its machine."""
    return started_together() > 1 and os.environ.get("LOCAL_RANK", "0") != "0"


def _let_the_first_speak() -> None:
    """In all but the first process of a machine: wait for the end, which torchrun brings as soon as the first has said
    its line. What one meets, the others nearly always meet too; where not, this one speaks after a while."""
    if _is_another_first():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_SILENCE)


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


def _end(line: str, status: int) -> NoReturn:
    print(f"{sys.argv[0]}: {line}", file=sys.stderr, flush=True)
    sys.exit(status)

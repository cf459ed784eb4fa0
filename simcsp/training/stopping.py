"""How work is stopped: by a signal, where its state is whole, or by a refusal before it has begun."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simcsp.core.errors import InputError, Interrupted, Stopped, started_together
from simcsp.core.run_layout import ENVIRONMENT

TWICE = 5.0  # seconds


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag, so that a loop can stop where its state is whole. A second one kills.

    torchrun passes Ctrl-C on to processes that the terminal has told already: these two count as one.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal
        self._since = 0.0
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._ask)

    @property
    def asked(self) -> bool:
        return self.number != 0

    def _ask(self, number: int, frame: Any) -> None:
        twice = started_together() > 1 and time.monotonic() - self._since < TWICE
        if self.asked and not twice:
            raise Stopped(number)
        self.number, self._since = number, time.monotonic()


def stop_if_asked(stop: StopSignal, where: str) -> None:
    """Leave by Interrupted when a stop signal has come; call it only where the state on disk is whole."""
    if stop.asked:
        raise Interrupted(f"stopped {where}", stop.number)


@contextlib.contextmanager
def clean_up_refused(folder: Path) -> Iterator[None]:
    """Where a start in a new run folder is refused before a stage has begun, take away what was written there by then:
    its splits would refuse the mended config."""
    is_new = not folder.exists()
    try:
        yield
    except InputError:
        if is_new and not any(folder.rglob(ENVIRONMENT)):
            shutil.rmtree(folder, ignore_errors=True)
        raise

"""What is left out of an input, said once: on the log `simcsp`, which Python shows on stderr unless told otherwise."""

from __future__ import annotations

import functools
import logging


@functools.cache
def remark(line: str) -> None:
    """Say that something harmless was left out: what, where, how much. Once a process, however often it is read."""
    logging.getLogger("simcsp").warning(line)

"""status: every run of a folder in a line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from simcsp.core.errors import InputError
from simcsp.report.status import HEADER, list_runs
from simcsp.report.table import aligned


def show_status(words: list[str]) -> None:
    """The table of runs; in a terminal no wider than that is."""
    if len(words) > 1:
        raise InputError(f"status takes one folder of runs, got {' '.join(words)}")
    folder = Path(words[0] if words else "runs")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: give the folder in which the runs are")
    lines = aligned([HEADER, *(run.cells for run in list_runs(folder))])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        print(line if width is None or len(line) <= width else f"{line[: width - 3]}...")

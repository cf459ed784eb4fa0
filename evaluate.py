#!/usr/bin/env python
"""Every number about finished work.

    python evaluate.py sccs      SOURCE [CONFIG.yaml] [--section.field value ...]   SCCS, alignment, uniformity, floors
    python evaluate.py nmi       SOURCE ...   NMI of the motif sites, its halves and bounds, floors
    python evaluate.py layers    SOURCE ...   SCCS, linear probe and NMI of every layer and pooling, beside the floors
    python evaluate.py mlm       SOURCE ...   masked-base accuracy by region on a held-out record, beside its neighbours
    python evaluate.py classify  SOURCE ...   test scores of fine-tuned folds, computed anew from their checkpoints
    python evaluate.py benchmark SOURCE ...   benchmark species: each fold's model, their mean ensemble, the floors
    python evaluate.py relate    RUN [RUN ...] [CONFIG.yaml] ...   do SCCS, NMI and a probe of checkpoints tell F1?
    python evaluate.py predict   SOURCE GENOME.fa [--help]   score every GT / AG of a genome, or what variants change
    python evaluate.py report    RUN [RUN ...] [--out FOLDER]   the comparison of arms: RUN/report, runs/A+B/report

SOURCE is a run folder (runs/demo), anything inside one (a fold, a checkpoint), or a checkpoint folder from elsewhere.
The config is that of the run; a checkpoint from elsewhere needs one on the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from commands.classifiers import show_benchmark, show_classify
from commands.encoders import show_layers, show_mlm, show_nmi, show_sccs
from commands.genome import show_predict
from commands.runs import show_relate, show_report
from commands.sources import config_of, split_sources
from utils.config import Config
from utils.errors import InputError, run_script


def main() -> None:
    commands: dict[str, Callable[[Path, Config], None]] = {
        "sccs": show_sccs,
        "nmi": show_nmi,
        "layers": show_layers,
        "mlm": show_mlm,
        "classify": show_classify,
        "benchmark": show_benchmark,
    }
    of_runs: dict[str, Callable[[list[Path], list[str]], None]] = {"relate": show_relate, "report": show_report}
    with_flags: dict[str, Callable[[list[str]], None]] = {"predict": show_predict}
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    if words[0] not in {**commands, **of_runs, **with_flags}:
        known = ", ".join({**commands, **of_runs, **with_flags})
        raise InputError(f"{words[0]!r} is no command; the commands are {known}")
    if words[0] in with_flags:
        with_flags[words[0]](words[1:])
        return
    if len(words) < 2 or words[1].startswith("-"):
        raise InputError(f"{words[0]} needs a run folder or a checkpoint folder, for example runs/demo")
    source = Path(words[1])
    if not source.is_dir():
        raise InputError(f"{source} does not exist: give a run folder (runs/demo) or a checkpoint folder")
    if words[0] in of_runs:
        of_runs[words[0]](*split_sources(words[1:]))
        return
    commands[words[0]](source, config_of(source, words[2:]))


def cli() -> None:
    """The command simcsp-evaluate."""
    run_script(main)


if __name__ == "__main__":
    cli()

#!/usr/bin/env python
"""Measurements of finished runs and checkpoints.

    python evaluate.py sccs      SOURCE [CONFIG.yaml] [--section.field value ...]   SCCS, alignment, uniformity, floors
    python evaluate.py nmi       SOURCE ...   NMI of the motif sites, its halves and bounds, floors
    python evaluate.py layers    SOURCE ...   SCCS, linear probe and NMI of every layer and pooling, beside the floors
    python evaluate.py offsets   SOURCE ...   linear probe at sites that lie off the centre of the window
    python evaluate.py classify  SOURCE ...   test scores of fine-tuned folds, recomputed from their checkpoints
    python evaluate.py benchmark SOURCE ...   benchmark species: each fold's model, their mean ensemble, the floors
    python evaluate.py relate    RUN [RUN ...] [CONFIG.yaml] ...   do SCCS, NMI and a probe predict F1 and AUC?
    python evaluate.py splicebert SOURCE [SOURCE ...] [CONFIG.yaml] [--help]   SpliceBERT's published results, repeated
    python evaluate.py predict   SOURCE GENOME.fa [--help]   score every GT / AG of a genome, or variants
    python evaluate.py explain   SOURCE GENOME.fa [--help]   bases that site scores depend on: logo and heat map
    python evaluate.py push      CHECKPOINT OWNER/NAME [--public]    upload a checkpoint and its model card to the hub
    python evaluate.py status    [RUNS]   every run in a folder (runs): stage, progress, running or not, disk
    python evaluate.py report    RUN [RUN ...] [--out FOLDER] [--compare ARM REFERENCE]   arms and their differences

SOURCE is a run folder (runs/demo), a fold or checkpoint inside one, or any other checkpoint folder. The config is that
of the run; a checkpoint outside a run needs one on the command line.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from commands.sources import config_of, split_sources
from simcsp.core.errors import InputError
from utils.script import run_script

# Where each command is: imported when it is asked for, because their libraries take seconds to import.
MODULES = {
    **dict.fromkeys(("sccs", "nmi", "layers", "offsets"), "commands.encoders"),
    **dict.fromkeys(("classify", "benchmark"), "commands.classifiers"),
    **dict.fromkeys(("relate", "report"), "commands.runs"),
    "splicebert": "commands.splicebert",
    "predict": "commands.genome",
    "explain": "commands.explain",
    "push": "commands.push",
    "status": "commands.status",
}
OF_FLAGS = ("splicebert", "predict", "explain", "push")
OF_RUNS = ("relate", "report")  # they take several folders


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    name, *words = words
    if name not in MODULES:
        raise InputError(f"unknown command {name!r}; choose from {', '.join(MODULES)}")
    if name in OF_FLAGS:  # they have flags of their own, and --help
        command_of(name)(words)
        return
    if {"-h", "--help"} & set(words):
        print(usage_of(name))
        return
    if name == "status":
        command_of(name)(words)
        return
    if not words or words[0].startswith("-"):
        raise InputError(f"{name} needs a run folder or a checkpoint folder, for example runs/demo")
    source = Path(words[0])
    if not source.is_dir():
        raise InputError(f"{source} does not exist: give a run folder (runs/demo) or a checkpoint folder")
    if name in OF_RUNS:
        command_of(name)(*split_sources(words))
    else:
        config = config_of(source, words[1:])
        command_of(name)(source, config)


def command_of(name: str) -> Callable[..., None]:
    """The function that does a command. Its libraries may take seconds, so who sits at a terminal sees a line first."""
    if sys.stderr.isatty() and name != "status":
        print(f"{name}: reading libraries ...", file=sys.stderr, flush=True)
    return getattr(importlib.import_module(MODULES[name]), f"show_{name}")


def usage_of(name: str) -> str:
    """The lines of this script's help that are about one command, and what SOURCE is."""
    about = next(line for line in __doc__.splitlines() if line.strip().startswith(f"python evaluate.py {name}"))
    return f"{about.strip()}\n\n{__doc__.strip().rpartition(chr(10) * 2)[2]}"


def cli() -> None:
    run_script(main)


if __name__ == "__main__":
    cli()

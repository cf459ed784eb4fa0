#!/usr/bin/env python
"""Fine-tune every arm as a splice-site classifier, cross-validated on the same folds, and compare the arms.

    python finetune.py [CONFIG.yaml] [--section.field value ...]

Writes runs/<name>/finetune/<arm>/<site>/seedN/foldNN and runs/<name>/report. Run again to resume; folds, arms and seeds
are independent jobs (`--finetune.folds [3]`), joined by `python evaluate.py report runs/<name>`.
`--finetune.stages [supcon, head, full]`: supervised contrast, the head on a frozen encoder, everything; or some of it.
`--finetune.task bases`: models that label every base of annotated genomes (section bases), in place of windows.
"""

from __future__ import annotations

import sys

from simcsp.core.errors import InputError
from simcsp.training.workers import worker_context
from utils.arguments import load_config
from utils.script import run_script


def main() -> None:
    config = load_config(sys.argv[1:], hidden=("mlm", "pretrain"))
    if config.processes > 1 and config.finetune.task == "windows" and not config.search.trials:
        worker_context(config.processes)  # imports beside this process
    print(f"{config.folder}: the settings are in order; reading libraries and labels ...", flush=True)
    # After the arguments are known to be right: these imports take seconds.
    from simcsp.report.table import score_table
    from simcsp.training.bases import run_bases
    from simcsp.training.finetuning import run_folds, search_settings
    from simcsp.training.stopping import StopSignal

    stop = StopSignal()
    if config.search.trials and config.finetune.task == "bases":
        raise InputError("search.trials: a search is for finetune.task windows; set it to 0")
    if config.search.trials:
        print(search_settings(config, stop, load_config), flush=True)
        return
    if config.finetune.task == "bases":
        print(score_table(run_bases(config, stop)), flush=True)
        if config.report:
            from simcsp.report.bases import write_bases_report

            print(write_bases_report(config), flush=True)
        return
    run_folds(config, stop)
    if not config.report:
        return
    from simcsp.report.write import write_report

    print(write_report(config), flush=True)


def cli() -> None:
    run_script(main)


if __name__ == "__main__":
    cli()

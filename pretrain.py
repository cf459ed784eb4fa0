#!/usr/bin/env python
"""Train an encoder on unlabelled genome text, by masked bases or by SimCSE, and watch SCCS and NMI while it trains.

    python pretrain.py [CONFIG.yaml] [--section.field value ...]

Writes runs/<name>/pretrain (and runs/<name>/mlm where the config has that first stage). Run again to resume.
"""

from __future__ import annotations

import sys

from utils.config import Config
from utils.errors import InputError, run_script
from utils.parse import load_config


def main() -> None:
    config = load_config(sys.argv[1:], hidden=("finetune", "bases"))
    if not (config.mlm.steps or config.pretrain.steps):
        raise InputError("pretrain.steps is 0 and so is mlm.steps: nothing to train")
    if config.search.trials:
        check_search(config)
    # After the arguments are known to be right: these imports take seconds.
    from simcsp.training.pretraining import open_pretraining, run_stages, search_pretraining
    from utils.run import StopSignal

    shared = open_pretraining(config, StopSignal())
    if config.search.trials:
        print(search_pretraining(shared), flush=True)
    else:
        run_stages(shared, config)


def check_search(config: Config) -> None:
    """Refuse a search whose metric no trial would measure."""
    metric = config.search.metric
    if not config.pretrain.steps:
        raise InputError("pretrain.steps is 0: a search compares trials by the validations of the pretrain stage")
    if metric == "nmi" and config.data.motif_bed is None:
        raise InputError("search.metric (nmi) needs motif sites: set data.motif_bed, or search by sccs")
    if metric != "nmi" and config.data.spliceator is None:
        raise InputError(f"search.metric ({metric}) needs labelled windows: set data.spliceator, or search by nmi")


def cli() -> None:
    """The command simcsp-pretrain."""
    run_script(main)


if __name__ == "__main__":
    cli()

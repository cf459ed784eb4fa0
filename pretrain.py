#!/usr/bin/env python
"""Train an encoder on unlabelled genome text, by masked bases or by SimCSE, and watch SCCS and NMI while it trains.

    python pretrain.py [CONFIG.yaml] [--section.field value ...]
    torchrun --nproc_per_node N pretrain.py ...  the same on N GPUs; or by accelerate launch (docs/distributed.md)
    python pretrain.py CONFIG.yaml --dry-run     what it would do, in how much time and memory; writes nothing
    python pretrain.py CONFIG.yaml --dry-run --device h100     the same on a GPU that is not here: a100, h100, h200
    python pretrain.py --init NEW.yaml [--data.fasta "[FILE]" --data.annotation "[FILE]" --data.spliceator FOLDER]
                                                 a commented config for data of your own, for this machine

Writes runs/<name>/pretrain (and runs/<name>/mlm where the config has that first stage). Run again to resume.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

from commands.init import write_template
from simcsp.core.config import Config
from simcsp.core.errors import InputError, is_first, started_together
from utils.arguments import load_config
from utils.config_checks import missing_files
from utils.script import run_script


def main() -> None:
    words = sys.argv[1:]
    if "--init" in words:
        path = write_template(words)
        print(f"{path}: written. Next: python pretrain.py {path} --dry-run", flush=True)
        return
    dry = "--dry-run" in words
    config = load_config([word for word in words if word != "--dry-run"], ("finetune", "bases"), with_files=not dry)
    if dry and config.device not in ("auto", "cpu", "cuda"):
        from simcsp.training.projection import project

        print(project(config), flush=True)
        return
    if not (config.mlm.steps or config.pretrain.steps):
        raise InputError("pretrain.steps is 0 and so is mlm.steps: nothing to train")
    check_processes(config, started_together(), dry)
    if config.search.trials:
        check_search(config)
    if is_first():
        print(f"{config.folder}: the settings are in order; reading libraries, text and labels ...", flush=True)
    # After the arguments are known to be right: these imports take seconds.
    if dry:
        from simcsp.training.dry_run import make_plan, plan_without_data

        absent = missing_files(config.data)
        print(plan_without_data(config, absent) if absent else make_plan(config), flush=True)
        return
    from simcsp.training.pretraining import open_pretraining, run_stages, search_pretraining
    from simcsp.training.processes import one_for_all
    from simcsp.training.stopping import StopSignal, clean_up_refused

    with clean_up_refused(config.folder) if is_first() else nullcontext(), one_for_all():
        shared = open_pretraining(config, StopSignal())
        if config.search.trials:
            print(search_pretraining(shared, load_config), flush=True)
        else:
            run_stages(shared, config)
        shared.accelerator.end_training()


def check_processes(config: Config, count: int, dry: bool) -> None:
    """Refuse work that `count` processes cannot share evenly."""
    if count > 1 and dry:
        raise InputError(f"--dry-run is the work of one process, and these are {count}: start it with python")
    if count > 1 and config.search.trials:
        raise InputError(
            f"search.trials: a trial is the work of one process, and these are {count} of torchrun or accelerate: "
            "start python pretrain.py once for each GPU (CUDA_VISIBLE_DEVICES), they share the trials"
        )
    for name, stage in {"mlm": config.mlm, "pretrain": config.pretrain}.items():
        if stage.steps and stage.batch_size % count:
            raise InputError(
                f"{name}.batch_size ({stage.batch_size}) is the whole batch, and {count} processes cannot share it "
                "evenly: take a multiple of their number, or fewer (--nproc_per_node, CUDA_VISIBLE_DEVICES)"
            )


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
    run_script(main, together=True)


if __name__ == "__main__":
    cli()

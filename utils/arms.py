"""The arms of a comparison: their names, their order, and where the checkpoint of each lies."""

from __future__ import annotations

from pathlib import Path

from utils.config import Config, ModelConfig
from utils.errors import InputError

FLOORS = ("pwm", "kmer")
"""Fitted on the training windows of each fold; they have no encoder."""
BASELINE = "baseline"  # the start of the pretrain stage
PROXIES = ("sccs", "nmi")
"""Watched in pre-training; each keeps a best checkpoint; higher is better for both."""
OF_PRETRAINING = ("best_sccs", "best_nmi", "last")
"""Checkpoints of the pretrain stage, and of its control, under their folders' names."""
CONTROL = "control_"
OF_CONTROL = tuple(f"{CONTROL}{name}" for name in OF_PRETRAINING)
ARMS = (*FLOORS, "fresh", BASELINE, *OF_PRETRAINING, *OF_CONTROL)
"""Every name that the config knows, in the order of tables."""


def checkpoint_of(arm: str) -> tuple[str, str]:
    """(stage, checkpoint) of an arm of pre-training: 'control_last' -> ('control', 'last')."""
    if arm == BASELINE:
        return "pretrain", "start"
    return ("control", arm.removeprefix(CONTROL)) if arm.startswith(CONTROL) else ("pretrain", arm)


def resolve_arms(config: Config) -> dict[str, ModelConfig | None]:
    """{arm: where its encoder comes from} of finetune.arms; None for the floors.

    Raises InputError for an unknown arm, and for one whose checkpoint does not exist yet.
    """
    arms: dict[str, ModelConfig | None] = {}
    for arm in config.finetune.arms:
        name, _, folder = arm.partition("=")
        if name in FLOORS:
            arms[name] = None
        elif folder:
            arms[name] = config.model.saved_as(folder)
        elif name in ("fresh", BASELINE):
            arms[name] = _baseline(config)
        elif name in OF_PRETRAINING + OF_CONTROL:
            arms[name] = _pretrained(config, *checkpoint_of(name))
        else:
            raise InputError(f"finetune.arms: {arm!r} is none of {', '.join(ARMS)} and has no =CHECKPOINT_FOLDER")
    return arms


def _baseline(config: Config) -> ModelConfig:
    """The start model of the contrastive stage; without one, what is to be fine-tuned as it is."""
    if config.pretrain.steps:
        return _pretrained(config, *checkpoint_of(BASELINE))
    if config.mlm.steps:
        return _pretrained(config, "mlm", "last")
    return config.model


def _pretrained(config: Config, stage: str, name: str) -> ModelConfig:
    folder: Path = config.folder / stage
    if not (folder / "summary.json").is_file():
        remedy = " and pretrain.control true" if stage == "control" else ""
        raise InputError(f"{folder} is not finished: run pretrain.sh with the same config{remedy} first")
    if not (folder / "checkpoints" / name).is_dir():
        raise InputError(f"{folder}/checkpoints has no {name}: the run had no windows or sites to measure it on")
    return config.model.saved_as(folder / "checkpoints" / name)

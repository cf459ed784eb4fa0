"""The arms of a comparison: their names, their order, and where the checkpoint of each lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from utils.config import Config, ModelConfig
from utils.errors import InputError

HEAD_FILE = "head.safetensors"
"""Beside the encoder in the checkpoint of a classifier that no class of transformers holds."""
PLAIN_CLASSIFIER = "BertForSequenceClassification"
"""The class of those that it holds: encoder and head are in one file."""
OF_ANNOTATION = ("annotation", "annotation_linear")
"""Floors that are fitted on the text's own annotated sites, and on no label."""
FLOORS = ("pwm", "kmer", "linear", "cnn", *OF_ANNOTATION)
"""They have no encoder; all others are fitted on the training windows of each fold."""
BASELINE = "baseline"  # the start of the pretrain stage
PROXIES = ("sccs", "nmi")
"""Watched in pre-training; each keeps a best checkpoint; higher is better for both."""
OF_PRETRAINING = ("best_sccs", "best_nmi", "last")
"""Checkpoints of the pretrain stage, and of its control, under their folders' names."""
CONTROL = "control_"
OF_CONTROL = tuple(f"{CONTROL}{name}" for name in OF_PRETRAINING)
_OPTIONAL = re.compile(r"(pretrain|windows|draw)\d+$")  # levels of a fold's path that only some runs have
ARMS = (*FLOORS, "fresh", BASELINE, *OF_PRETRAINING, *OF_CONTROL)
"""Every name that the config knows, in the order of tables."""


def checkpoint_of(arm: str) -> tuple[str, str]:
    """(stage, checkpoint) of an arm of pre-training: 'control_last' -> ('control', 'last')."""
    if arm == BASELINE:
        return "pretrain", "start"
    return ("control", arm.removeprefix(CONTROL)) if arm.startswith(CONTROL) else ("pretrain", arm)


def holds_classifier(folder: Path) -> bool:
    """Whether a checkpoint folder is that of a classifier of windows, and not of an encoder alone."""
    if (folder / HEAD_FILE).is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and f'"{PLAIN_CLASSIFIER}"' in config.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Arm:
    """One arm to fine-tune. source: where its encoder comes from, None for a floor, which has none.

    pretrain_seed: that of the pre-training that made it, None where none of this run did. several: whether the run has
    this arm under other pre-training seeds too.
    """

    name: str
    source: ModelConfig | None
    pretrain_seed: int | None = None
    several: bool = False


def resolve_arms(config: Config) -> list[Arm]:
    """The arms of finetune.arms, in their order; one of pre-training once for each of its seeds.

    Raises InputError for an unknown arm, and for one whose checkpoint does not exist yet.
    """
    arms: list[Arm] = []
    for arm in config.finetune.arms:
        name, _, folder = arm.partition("=")
        if name in FLOORS:
            arms.append(Arm(name, None))
        elif folder:
            arms.append(Arm(name, config.model.saved_as(folder)))
        elif name in ("fresh", BASELINE):
            arms.append(Arm(name, _baseline(config)))
        elif name in OF_PRETRAINING + OF_CONTROL:
            seeds = config.pretrain_seeds
            sources = [_pretrained(config, *checkpoint_of(name), seed) for seed in seeds]
            arms += [Arm(name, source, seed, len(seeds) > 1) for source, seed in zip(sources, seeds)]
        else:
            raise InputError(f"finetune.arms: {arm!r} is none of {', '.join(ARMS)} and has no =CHECKPOINT_FOLDER")
    return arms


def stage_folder(run: Path, stage: str, seed: int | None, several: bool) -> Path:
    """Where a pre-training stage lies: RUN/pretrain or RUN/control, with seedN below where there are several seeds."""
    return run / stage / f"seed{seed}" if several else run / stage


def stage_folders(run: Path, stage: str) -> dict[int | None, Path]:
    """{seed: folder} of a pre-training stage, ascending; {None: folder} where it has one seed; {} without any."""
    seeds = {int(folder.name.removeprefix("seed")): folder for folder in run.glob(f"{stage}/seed*")}
    if seeds:
        return dict(sorted(seeds.items()))
    return {None: run / stage} if (run / stage).is_dir() else {}


def finished_folds(run: Path, arm: str = "*", site: str = "*") -> list[Path]:
    """Folders of the finished fits of a run, sorted.

    finetune/<arm>/<site>/seedN/foldNN, with pretrainN before seedN where the arm has several pre-training seeds, and
    windowsN/drawN before seedN where the training part is cut.
    """
    return sorted(path.parent for path in run.glob(f"finetune/{arm}/{site}/**/seed*/fold*/summary.json"))


def job_of(folder: Path) -> dict[str, object]:
    """arm, site, seed and fold, from .../<arm>/<site>/[pretrainN/][windowsN/drawN/]seedN/foldNN.

    An arm of several pre-training seeds is one model each: `last:pretrain3`.
    """
    *levels, seed, fold = folder.resolve().parts
    optional = [level for level in levels[-3:] if _OPTIONAL.match(level)]
    arm, site = levels[-2 - len(optional) : len(levels) - len(optional)]
    arm = ":".join([arm, *(level for level in optional if level.startswith("pretrain"))])
    return {"arm": arm, "site": site, "seed": int(seed.removeprefix("seed")), "fold": int(fold.removeprefix("fold"))}


def _baseline(config: Config) -> ModelConfig:
    """The start model of the contrastive stage (of its first seed: only fresh weights differ); without one, what is to
    be fine-tuned as it is."""
    if config.pretrain.steps:
        return _pretrained(config, *checkpoint_of(BASELINE), config.pretrain_seeds[0])
    if config.mlm.steps:
        return _pretrained(config, "mlm", "last", None)
    return config.model


def _pretrained(config: Config, stage: str, name: str, seed: int | None) -> ModelConfig:
    folder = stage_folder(config.folder, stage, seed, seed is not None and len(config.pretrain_seeds) > 1)
    if not (folder / "summary.json").is_file():
        remedy = " and pretrain.control true" if stage == "control" else ""
        raise InputError(f"{folder} is not finished: run pretrain.sh with the same config{remedy} first")
    if not (folder / "checkpoints" / name).is_dir():
        raise InputError(f"{folder}/checkpoints has no {name}: the run had no windows or sites to measure it on")
    return config.model.saved_as(folder / "checkpoints" / name)

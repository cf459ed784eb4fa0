"""The arms of a comparison: their names, their order, and where the checkpoint of each lies."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_FILE = "head.safetensors"
"""Beside the encoder in the checkpoint of a classifier that no class of transformers holds."""
PLAIN_CLASSIFIER = "BertForSequenceClassification"
"""The class of those that it holds: encoder and head are in one file."""
OF_ANNOTATION = ("annotation", "annotation_linear")
"""Floors that are fitted on the text's own annotated sites, and on no label."""
FLOORS = ("pwm", "kmer", "linear", "cnn", "resnet", *OF_ANNOTATION)
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

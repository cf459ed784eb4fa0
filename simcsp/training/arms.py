"""The arms that a config asks for, with the model that each starts from, and their fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simcsp.core import run_layout as layout
from simcsp.core.arms import ARMS, BASELINE, FLOORS, OF_CONTROL, OF_PRETRAINING
from simcsp.core.config import Config, ModelConfig
from simcsp.core.errors import InputError
from simcsp.core.files import read_json
from simcsp.core.provenance import REMEDY


@dataclass(frozen=True)
class Arm:
    """One arm to fine-tune. source: where its encoder comes from, None for a floor, which has none.

    pretrain_seed: of the pre-training of this run that made it, if any did. several: whether other seeds made it too.
    """

    name: str
    source: ModelConfig | None
    pretrain_seed: int | None = None
    several: bool = False


@dataclass(frozen=True)
class FoldJob:
    """One fit. fold: its number. train_windows: how many of its training windows, None for all; draw: which."""

    arm: Arm
    site: str
    seed: int
    fold: int
    train_windows: int | None = None
    draw: int = 0

    @property
    def key(self) -> layout.FitKey:
        arm, pretrain_seed = self.arm.name, self.arm.pretrain_seed if self.arm.several else None
        return layout.FitKey(arm, self.site, self.seed, self.fold, pretrain_seed, self.train_windows, self.draw)


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
            seeds, (stage, checkpoint) = config.pretrain_seeds, layout.checkpoint_of(name)
            sources = [_pretrained(config, stage, checkpoint, seed) for seed in seeds]
            arms += [Arm(name, source, seed, len(seeds) > 1) for source, seed in zip(sources, seeds)]
        else:
            raise InputError(f"finetune.arms: {arm!r} is none of {', '.join(ARMS)} and has no =CHECKPOINT_FOLDER")
    return arms


def _baseline(config: Config) -> ModelConfig:
    """The start model of the contrast (of its first seed: only fresh weights differ), else what is fine-tuned as is."""
    if config.pretrain.steps:
        stage, checkpoint = layout.checkpoint_of(BASELINE)
        return _pretrained(config, stage, checkpoint, config.pretrain_seeds[0])
    if config.mlm.steps:
        return _pretrained(config, layout.MLM, layout.LAST, None)
    return config.model


def _pretrained(config: Config, stage: str, name: str, seed: int | None) -> ModelConfig:
    folder = config.folder / layout.stage_name(stage, seed if len(config.pretrain_seeds) > 1 else None)
    if not layout.is_finished(folder):
        remedy = " and pretrain.control true" if stage == layout.CONTROL_STAGE else ""
        raise InputError(f"{folder} is not finished: run pretrain.sh with the same config{remedy} first")
    start = layout.checkpoint_path(folder, name)
    if not start.is_dir():
        raise InputError(f"{start.parent} has no {name}: the run had no windows or sites to measure it on")
    check_pooling(config.model, start)
    return config.model.saved_as(start)


def check_pooling(asked: ModelConfig, checkpoint: Path) -> None:
    """Raises InputError where a checkpoint of the run's own pools in another way than the config: it would win."""
    recorded = read_json(checkpoint / "config.json", REMEDY).get("pooling", "")
    kind, _, layer = recorded.partition("@")
    for field, value, saved in (("pooling", asked.pooling, kind), ("pooling_layer", asked.pooling_layer, layer)):
        if value is not None and str(value) != saved:
            raise InputError(
                f"model.{field} is {value}, and {checkpoint} was trained with {recorded}: leave it out, or pre-train "
                "with it under another --name"
            )

"""The jobs of an experiment, from its config: what workflow/Snakefile has to know, and nothing that the config says."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from simcsp.core.arms import CONTROL, FLOORS, OF_CONTROL, OF_PRETRAINING
from simcsp.core.config import Config, ModelConfig
from simcsp.core.run_layout import stage_name
from simcsp.training.cost import block_weights, expected_epochs, fits_in_a_fold, windows_in_an_epoch

LONGEST = 60  # minutes of a job by the estimate, where it has more than one fold
WINDOWS = 44_152  # of Spliceator's set
TRAINED = 0.7  # of the windows, in a fold


@dataclass(frozen=True)
class Job:
    """One call of a script. flags: for it, besides the config, quoted for a shell; after: jobs that must be done
    before; minutes: by the estimate."""

    flags: str
    after: tuple[str, ...]
    minutes: int = LONGEST


def pretraining_jobs(config: Config) -> dict[str, Job]:
    """{name: job} of pretrain.sh: the data, then the stages, each once for every seed."""
    if not (config.mlm.steps or config.pretrain.steps):
        return {}
    jobs = {"data": Job(only("data"), ())}
    if config.mlm.steps:
        jobs["mlm"] = Job(only("mlm"), ("data",))
    if config.pretrain.steps:
        first = tuple(jobs)[-1:]
        for name in ("pretrain", "control") if config.pretrain.control else ("pretrain",):
            for seed in config.pretrain_seeds if len(config.pretrain_seeds) > 1 else [None]:
                part = stage_name(name, seed)
                jobs[part.replace("/", "-")] = Job(only(part), first)
    return jobs


def as_yaml(values: list) -> str:
    """A list as one word of a command line, whatever its items hold."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def only(part: str) -> str:
    """The flag for a part of pretrain.sh's work."""
    return shlex.join(["--only", as_yaml([part])])


def finetuning_jobs(config: Config, gflops: float) -> dict[str, Job]:
    """{name: job} of finetune.sh: an arm's folds, as many together as the estimate gives an hour.

    gflops: what one process reaches in training; 30 is a small encoder on one CPU core.
    """
    settings = config.finetune
    before = pretraining_jobs(config)
    jobs = {}
    count = config.data.fold_count if settings.task == "windows" else len(config.bases.parts)
    folds = list(range(count)) if settings.folds is None else settings.folds
    for arm in settings.arms:
        name = arm.partition("=")[0]
        minutes = fold_minutes(config, arm, gflops)
        size = len(folds) if settings.select_epoch == "shared" else max(1, min(len(folds), int(LONGEST / minutes)))
        size = ceil(len(folds) / ceil(len(folds) / size))  # jobs of like length
        for start in range(0, len(folds), size):
            part = folds[start : start + size]
            label = name if size == len(folds) else f"{name}-fold{part[0]:02d}"
            chosen = {"--finetune.arms": [arm], "--finetune.folds": part}
            words = [word for flag, values in chosen.items() for word in (flag, as_yaml(values))]
            jobs[label] = Job(shlex.join(words), arm_needs(name, before), ceil(len(part) * minutes))
    return jobs


def arm_needs(arm: str, before: dict[str, Job]) -> tuple[str, ...]:
    """The pre-training jobs that an arm waits for."""
    if arm in OF_CONTROL:
        return tuple(name for name in before if name.startswith(CONTROL[:-1]))
    if arm in (*OF_PRETRAINING, "fresh", "baseline"):
        return tuple(name for name in before if name.startswith("pretrain")) or tuple(before)[-1:]
    return tuple(before)[:1]


def fold_minutes(config: Config, arm: str, gflops: float) -> float:
    """Minutes of one fold of an arm, by 6 operations a weight and token."""
    settings, fits = config.finetune, fits_in_a_fold(config, arm)
    if arm in FLOORS:
        return 0.1 * fits
    if settings.task == "bases":
        tokens = config.bases.steps * config.bases.stretches * config.bases.tiles * config.bases.tile
    else:
        whole = TRAINED * WINDOWS
        tokens = expected_epochs(settings) * windows_in_an_epoch(settings, whole) * config.data.context
    return fits * max(0.1, 6 * block_weights(sizes_of(config.model)) * tokens / gflops / 1e9 / 60)


def sizes_of(model: ModelConfig) -> ModelConfig:
    """The section with the sizes of the source's config.json, where that is here."""
    if model.source is None or not (path := Path(model.source) / "config.json").is_file():
        return model
    saved = json.loads(path.read_text(encoding="utf-8"))
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers")
    return dataclasses.replace(model, **{name: saved[name] for name in sizes if name in saved})

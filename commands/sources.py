"""Where a command of evaluate.py gets its config and checkpoints from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from simcsp.core.arms import (
    BASELINE,
    FLOORS,
    OF_CONTROL,
    OF_PRETRAINING,
    checkpoint_of,
    holds_classifier,
    job_of,
    stage_folders,
)
from simcsp.core.config import Config
from simcsp.core.errors import InputError
from simcsp.text.sites import SITES
from utils.arguments import load_config


def split_sources(words: list[str]) -> tuple[list[Path], list[str]]:
    """The folders that a command line begins with, and the words after them."""
    count = next((i for i, word in enumerate(words) if not Path(word).is_dir()), len(words))
    return [Path(word) for word in words[:count]], words[count:]


def config_of(source: Path, words: list[str]) -> Config:
    """The config of the run that a source belongs to, or the one on the command line, with its overrides."""
    run = enclosing_run(source)
    given = names_config(words)
    if run is None and not given:
        raise InputError(f"{source} lies in no run folder: add the config whose data it is to be measured on")
    if not given:
        path = next(stage_configs(run))
        # a fold's config leaves out the stages before it, which need a text by default
        words = [
            str(path),
            *(["--pretrain.steps", "0"] if "\npretrain:" not in path.read_text(encoding="utf-8") else []),
            *words,
        ]
    config = load_config(words)
    return config if run is None else dataclasses.replace(config, runs=str(run.parent), name=run.name)


def names_config(words: list[str]) -> bool:
    """Whether words begin with a config of their own."""
    return bool(words) and (not words[0].startswith("-") or words[0].startswith("--config"))


def enclosing_run(source: Path) -> Path | None:
    """The run folder that is or holds `source`: the outermost one with a stage in it."""
    found = [path for path in (source, *source.parents) if next(stage_configs(path), None) is not None]
    return found[-1] if found else None


def stage_configs(run: Path) -> Iterator[Path]:
    """Resolved configs of the stages of a run folder, fine-tuning first: it holds every section but pre-training's."""
    for pattern in ("finetune/*/*/**/seed*/fold*", "pretrain", "pretrain/seed*", "mlm"):
        yield from sorted(run.glob(f"{pattern}/config.yaml"))


def encoders(source: Path) -> dict[str, Path]:
    """{name: checkpoint folder} to measure: one checkpoint, a fold's best, or those of a run that arms name."""
    if (source / "config.json").is_file():
        return {str(source): source}
    if (source / "checkpoints/best").is_dir():
        return {str(source): source / "checkpoints/best"}
    stages = {stage: stage_folders(source, stage) for stage in ("pretrain", "control")}
    if (source / "checkpoints").is_dir():  # one stage of a run, under one seed
        stages = {"control" if "control" in source.resolve().parts[-2:] else "pretrain": {None: source}}
    found = {}
    for arm in (BASELINE, *OF_PRETRAINING, *OF_CONTROL):
        stage, name = checkpoint_of(arm)
        for seed, folder in stages.get(stage, {}).items():
            if (folder / "checkpoints" / name).is_dir():
                found[arm if seed is None else f"{arm}:pretrain{seed}"] = folder / "checkpoints" / name
    if not found:
        raise InputError(f"{source} holds no checkpoint: give a finished run, a fold or a checkpoint folder")
    return found


def fold_folders(source: Path, floors: bool = False) -> list[Path]:
    """Finished folds with a classifier, in or at `source`; those of the floors, which keep no checkpoint, if asked.

    Fits on a part of the training windows (windowsN/drawM) stand aside where there are some on all of them, and else
    must be of one N and M. Raises InputError, naming them, where they are not.
    """
    found = [source] if (source / "summary.json").is_file() else []
    if not found:
        every = sorted(path.parent for path in source.rglob("seed*/fold*/summary.json"))
        found = [folder for folder in every if not folder.parents[1].name.startswith("draw")]
        draws = sorted({folder.parents[1] for folder in every} - {folder.parents[1] for folder in found})
        cuts = sorted({"/".join(folder.parts[-2:]) for folder in draws})
        if not found and len(cuts) > 1:
            raise InputError(f"{source} holds fits on {', '.join(cuts)}: give the folder of one, such as {draws[0]}")
        found = found or every
    usable = [
        folder
        for folder in found
        if holds_classifier(folder / "checkpoints/best") or (floors and job_of(folder)["arm"] in FLOORS)
    ]
    if not usable:
        raise InputError(f"{source} holds no finished classifier: run finetune.sh first")
    return usable


def choose_models(source: Path, arm: str | None, site: str | None) -> tuple[dict[str, list[Path]], str]:
    """{what they were fitted on: classifier checkpoints} of one arm, and a line that says which."""
    if holds_classifier(source):  # one checkpoint: in its fold, or from elsewhere
        inside = enclosing_run(source) is not None
        known = str(job_of(source.resolve().parents[1])["site"]) if inside else site or "both"
        if site not in (None, known):
            raise InputError(f"--site {site}: {source} was fitted on {known}")
        return {known: [source]}, f"{source} (fitted on {known})"
    jobs = [(job_of(folder), folder / "checkpoints/best") for folder in fold_folders(source)]
    arms = sorted({str(job["arm"]) for job, _ in jobs})
    arm = arm or (arms[0] if len(arms) == 1 else BASELINE)
    if arm not in arms:
        raise InputError(f"--arm {arm}: {source} has finished classifiers of {', '.join(arms)}")
    folders: dict[str, list[Path]] = {}
    for job, folder in jobs:
        if job["arm"] == arm and site in (None, job["site"]):
            folders.setdefault(str(job["site"]), []).append(folder)
    if not folders:
        raise InputError(f"--site {site}: {source} has no finished classifier of {arm} fitted on it")
    if set(SITES) <= folders.keys():
        folders.pop("both", None)  # each type has models of its own
    counts = ", ".join(f"{len(members)} fitted on {name}" for name, members in sorted(folders.items()))
    return folders, f"{source}: {arm}, mean of {counts}"

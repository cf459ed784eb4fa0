"""Where a command of evaluate.py gets its config and checkpoints from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from simcsp.core import run_layout as layout
from simcsp.core.arms import BASELINE, FLOORS, OF_CONTROL, OF_PRETRAINING, holds_classifier
from simcsp.core.config import Config
from simcsp.core.errors import InputError
from simcsp.metrics.pooling import check_fits
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
        raise InputError(f"{source} is not in a run folder: add the config with the data to measure it on")
    if not given:
        path = next(stage_configs(run))
        # a fold's config leaves out the stages before it, which need a text by default
        untrained = [] if "\npretrain:" in path.read_text(encoding="utf-8") else ["--pretrain.steps", "0"]
        words = [str(path), *untrained, *words]
    config = load_config(words)
    return config if run is None else dataclasses.replace(config, runs=str(run.parent), name=run.name)


def names_config(words: list[str]) -> bool:
    """Whether words begin with a config of their own."""
    return bool(words) and (not words[0].startswith("-") or words[0].startswith("--config"))


def enclosing_run(source: Path) -> Path | None:
    """The run folder that is or holds `source`: the outermost one with a stage in it."""
    runs = [path for path in (source, *source.parents) if next(stage_configs(path), None) is not None]
    return runs[-1] if runs else None


def stage_configs(run: Path) -> Iterator[Path]:
    """Resolved configs of the stages of a run folder, fine-tuning first: it holds every section but pre-training's."""
    stages = sorted(layout.begun_stages(run), key=lambda stage: stage == run / layout.MLM)
    yield from (folder / layout.CONFIG for folder in (*layout.begun_fits(run), *stages))


def encoders(source: Path) -> dict[str, Path]:
    """{name: checkpoint folder} to measure: one checkpoint, a fold's best, or those of a run that arms name."""
    if (source / "config.json").is_file():
        return {str(source): source}
    if layout.checkpoint_path(source).is_dir():
        return {str(source): layout.checkpoint_path(source)}
    arms = (BASELINE, *OF_PRETRAINING, *OF_CONTROL)
    if (source / layout.CHECKPOINTS).is_dir():  # one stage of a run, under one seed
        of_control = layout.CONTROL_STAGE in source.resolve().parts[-2:]
        folders = {arm: layout.checkpoint_path(source, layout.checkpoint_of(arm)[1]) for arm in arms}
        checkpoints = {
            arm: folder for arm, folder in folders.items() if (arm in OF_CONTROL) == of_control and folder.is_dir()
        }
    else:
        every = {arm: layout.arm_checkpoints(source, arm) for arm in arms}
        checkpoints = {
            layout.arm_model(arm, seed): path for arm, paths in every.items() for seed, path in paths.items()
        }
    if not checkpoints:
        raise InputError(f"{source} contains no checkpoint: give a finished run, a fold or a checkpoint folder")
    return checkpoints


def fold_folders(source: Path, floors: bool = False) -> list[Path]:
    """Finished folds with a classifier, in or at `source`; those of the floors, which keep no checkpoint, if asked.

    Fits on a part of the training windows (windowsN/drawM) stand aside where there are some on all of them, and else
    must be of one N and M. Raises InputError, naming them, where they are not.
    """
    folders = [source] if layout.is_finished(source) else _of_one_cut(source)
    usable = [
        folder
        for folder in folders
        if holds_classifier(layout.checkpoint_path(folder)) or (floors and layout.fit_key(folder).arm in FLOORS)
    ]
    if not usable:
        raise InputError(f"{source} contains no finished classifier: run finetune.sh first")
    if len(usable) > 1:
        check_fits(enclosing_run(source) or source, usable)
    return usable


def _of_one_cut(source: Path) -> list[Path]:
    fits = {folder: layout.fit_key(folder) for folder in layout.fits_below(source)}
    whole = [folder for folder, key in fits.items() if key.train_windows is None]
    cuts = {f"windows{key.train_windows}/draw{key.draw}": folder.parents[1] for folder, key in fits.items()}
    if not whole and len(cuts) > 1:
        raise InputError(
            f"{source} holds fits on {', '.join(sorted(cuts))}: give the folder of one, such as {min(cuts.values())}"
        )
    return whole or list(fits)


def choose_models(source: Path, arm: str | None, site: str | None) -> tuple[dict[str, list[Path]], str]:
    """{what they were fitted on: classifier checkpoints} of one arm, and a line that says which."""
    if holds_classifier(source):
        return _one_model(source, site)
    fits = [(layout.fit_key(folder), layout.checkpoint_path(folder)) for folder in fold_folders(source)]
    arms = sorted({fit.model for fit, _ in fits})
    arm = arm or (arms[0] if len(arms) == 1 else BASELINE)
    if arm not in arms:
        raise InputError(f"--arm {arm}: {source} has finished classifiers of {', '.join(arms)}")
    folders: dict[str, list[Path]] = {}
    for fit, folder in fits:
        if fit.model == arm and site in (None, fit.site):
            folders.setdefault(fit.site, []).append(folder)
    if not folders:
        raise InputError(f"--site {site}: {source} has no finished classifier of {arm} fitted on it")
    if set(SITES) <= folders.keys():
        folders.pop("both", None)  # each type has models of its own
    counts = ", ".join(f"{len(members)} fitted on {name}" for name, members in sorted(folders.items()))
    return folders, f"{source}: {arm}, mean of {counts}"


def _one_model(source: Path, site: str | None) -> tuple[dict[str, list[Path]], str]:
    inside = enclosing_run(source) is not None
    known = layout.fit_key(source.resolve().parents[1]).site if inside else site or "both"
    if site not in (None, known):
        raise InputError(f"--site {site}: {source} was fitted on {known}")
    return {known: [source]}, f"{source} (fitted on {known})"

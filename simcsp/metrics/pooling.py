"""What must be so before fits or stages are pooled or compared: each lies under its own name, those of one model were
made alike, and from the checkpoint that is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from simcsp.core import run_layout as layout
from simcsp.core.arms import BASELINE, OF_CONTROL, OF_PRETRAINING
from simcsp.core.errors import InputError
from simcsp.core.provenance import check_pooled, differences, inputs_of, origin_of, read_fit, read_stage
from simcsp.model.checksums import sha256_folder

START = "start checkpoint"
"""Among the inputs of a stage or fit."""


def check_fits(run: Path, fits: Sequence[Path]) -> None:
    """Refuse finished fits of a run that were exchanged, or of one arm and not made alike, or whose start checkpoint is
    not that of the run's pre-training any more. Raises InputError with folders and difference."""
    models = first_fits(fits)
    for folders in models.values():
        check_pooled(folders)
        check_start(folders[0], _start_of(run, folders[0]))
    arms: dict[str, list[Path]] = defaultdict(list)
    for (arm, _), folders in models.items():
        arms[arm].append(folders[0])
    for folders in arms.values():  # of several pre-training seeds
        check_pooled(folders, but={f"the content of {START}"})


def first_fits(fits: Sequence[Path]) -> dict[tuple[str, str], list[Path]]:
    """{(arm, model): its fits}; a model is an arm under one pre-training seed."""
    models: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for folder in fits:
        read_fit(folder)
        key = layout.fit_key(folder)
        models[key.arm, key.model].append(folder)
    return models


def check_stages(run: Path) -> None:
    """Refuse finished stages of pre-training that were exchanged, whose seeds were not made alike, or that began from
    another first stage than the run has."""
    first = layout.checkpoint_path(run / layout.MLM, layout.LAST) if layout.is_finished(run / layout.MLM) else None
    for stage in (layout.PRETRAIN, layout.CONTROL_STAGE):
        folders = layout.finished_stages(run, stage)
        for seed, folder in folders.items():
            read_stage(folder, stage, seed)
            check_start(folder, first)
        check_pooled(list(folders.values()), but={"seed"})


def check_start(folder: Path, checkpoint: Path | None) -> None:
    """Refuse a stage or fit that did not start from a checkpoint as it is now; None: there is none to compare with."""
    recorded = inputs_of(folder).get(START)
    if checkpoint is not None and recorded is not None and recorded != sha256_folder(checkpoint):
        raise InputError(
            f"{folder} did not start from {checkpoint} as it is now: pre-training was done again since, or folders "
            "were exchanged; delete that folder and train it again"
        )


def _start_of(run: Path, fit: Path) -> Path | None:
    key = layout.fit_key(fit)
    if key.arm not in (BASELINE, *OF_PRETRAINING, *OF_CONTROL):
        return None
    checkpoints = layout.arm_checkpoints(run, key.arm)
    seed = next(iter(checkpoints), None) if key.arm == BASELINE else key.pretrain_seed  # only fresh weights differ
    checkpoint = checkpoints.get(seed)
    return checkpoint if checkpoint is not None and layout.is_finished(layout.stage_of(checkpoint)) else None


def arm_differences(fits: Sequence[Path]) -> list[str]:
    """Settings in which the arms of a run differ, one sentence an arm that is not like the first; inputs do not count:
    their checkpoints must differ."""
    first, found = None, []
    for (arm, _), folders in first_fits(fits).items():
        settings = {key: value for key, value in origin_of(folders[0]).items() if not key.startswith("the content of ")}
        if first is None:
            first = arm, settings
        elif changed := differences(first[1], settings):
            found.append(f"`{first[0]}` and `{arm}` were fitted under different settings: {'; '.join(changed)}")
    return list(dict.fromkeys(found))

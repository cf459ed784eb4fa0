"""How far every run of a folder is, and whether anybody works on it: from its files and locks, in a moment."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

from simcsp.core import run_layout as layout
from simcsp.core.arms import PROXIES
from simcsp.core.errors import InputError, describe_os_error
from simcsp.core.files import read_json
from simcsp.core.locks import LOCK, lock_holder
from simcsp.core.provenance import check_sealed

_NO_SIGN = "no results yet"


@dataclass(frozen=True)
class Status:
    """A run in words. stage: the one that it is in, or ended with; state: running (who), stopped (when) or done."""

    name: str
    stage: str
    progress: str
    headline: str
    state: str
    size: int

    @property
    def cells(self) -> list[str]:
        return [self.name, self.stage, self.progress, self.state, f"{self.size / 1e6:,.1f} MB", self.headline]


HEADER = ["run", "stage", "progress", "state", "disk", "headline"]


def list_runs(folder: Path) -> list[Status]:
    """Every run in a folder, or the folder itself where it is one. Raises InputError where there is none."""
    runs = [folder] if is_run(folder) else [path for path in sorted(folder.iterdir()) if is_run(path)]
    if not runs:
        raise InputError(f"{folder} contains no run: give the folder of all runs (runs), or one of them (runs/demo)")
    return [status_or_damage(run) for run in runs]


def status_or_damage(run: Path) -> Status:
    """The status of one run, whatever is wrong with it: other runs are of interest too."""
    try:
        return status_of(run)
    except OSError as error:
        reason = describe_os_error(error)
    except (InputError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".removeprefix("InputError: ").split())
    return Status(run.name, "", "", reason, "damaged", _size(run))


def is_run(folder: Path) -> bool:
    """Whether a folder has a stage in it, begun or done."""
    return bool(layout.begun_stages(folder) or layout.begun_fits(folder) or layout.trial_folders(folder))


def status_of(run: Path) -> Status:
    """The status of one run: of the first stage that is not done, else of the last."""
    begun, fits, done = layout.begun_stages(run), layout.begun_fits(run), layout.finished_fits(run)
    unfinished = [stage for stage in begun if not layout.is_finished(stage)]
    waiting = len(fits) - len(done)
    if trials := layout.trial_folders(run):
        best = run / layout.BEST_SETTINGS
        sign = best.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if best.is_file() else _NO_SIGN
        said = ("search", f"{len(trials)} trials", sign)
    elif unfinished or not fits:
        stage = unfinished[0] if unfinished else begun[-1]
        said = (str(stage.relative_to(run)), *_pretraining(stage))
    else:
        progress = f"fits done: {len(done)}" + (f", begun: {waiting}" if waiting else "")
        said = ("finetune", progress, _verdict(run) or _scores(done))
    return Status(run.name, *said, _state(run, bool(unfinished or waiting)), _size(run))


def _pretraining(stage: Path) -> tuple[str, str]:
    if not (stage / layout.CONFIG).is_file():
        return "", _NO_SIGN
    config = yaml.safe_load((stage / layout.CONFIG).read_text(encoding="utf-8"))
    steps = config[layout.MLM if stage.name == layout.MLM else layout.PRETRAIN]["steps"]
    rows = _rows(stage)
    step = max((row["step"] for row in rows), default=0)
    latest: dict[str, float] = {}
    for row in rows:
        latest |= row
    said = [f"loss {latest['train/loss']:.4f}"] if "train/loss" in latest else []
    for proxy in PROXIES:
        values = [row[f"val/{proxy}"] for row in rows if f"val/{proxy}" in row]
        ends = [latest[f"val/{proxy}_{end}"] for end in ("low", "high") if f"val/{proxy}_{end}" in latest]
        within = " [{:.2f}, {:.2f}]".format(*ends) if ends else ""
        said += [f"{proxy.upper()} {values[0]:.3f} -> {values[-1]:.3f}{within}"] if values else []
    return f"step {step:,} of {steps:,} ({step / max(steps, 1):.0%})", ", ".join(said) or _NO_SIGN


def _rows(stage: Path) -> list[dict]:
    """metrics.jsonl as far as it can be read: its last line may be half written by now."""
    path, rows = stage / layout.METRICS, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _scores(folds: list[Path]) -> str:
    """Mean F1 of each arm over the fits that are done."""
    values: dict[str, list[float]] = defaultdict(list)
    for path in folds:
        metrics = read_json(path / layout.SUMMARY)["metrics"]
        if "test/f1" in metrics:
            values[layout.fit_key(path).arm].append(metrics["test/f1"])
    means = ", ".join(f"{arm} {sum(found) / len(found):.3f} ({len(found)})" for arm, found in values.items())
    return f"F1 {means}" if means else _NO_SIGN


def _verdict(run: Path) -> str | None:
    path = run / layout.REPORT / layout.REPORT_TEXT
    if not path.is_file():
        return None
    if layout.is_finished(path.parent):  # reports of earlier versions have no seal
        check_sealed(path.parent, path.name, remedy=f"run evaluate.py report {run} again")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("> ")]
    return lines[0].strip("> *") if lines else None


def _state(run: Path, unfinished: bool) -> str:
    """Who works on it, by the locks; else whether it is done, or when it was last heard of."""
    holders = [holder for lock in run.rglob(LOCK) if (holder := lock_holder(lock)) is not None]
    if holders:
        return f"running, {holders[0]}" + (f", and {len(holders) - 1} more" if holders[1:] else "")
    if not unfinished:
        return "done"
    signs = [path.stat().st_mtime for name in (layout.ENVIRONMENT, layout.METRICS) for path in run.rglob(name)]
    minutes = max(0.0, time.time() - max(signs)) / 60
    return "stopped, {}".format(f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago")


def _size(run: Path) -> int:
    """Bytes of all files; one that goes while it is looked at counts nothing."""
    total = 0
    for folder, _, names in os.walk(run):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total

"""The folder of a running stage or fit: started, logged, resumed exactly, finished (its files: see `run_layout`).

metrics.jsonl is the source of truth; TensorBoard's events are a view of it.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import platform
import re
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from tqdm import tqdm

from simcsp.core import run_layout as layout
from simcsp.core.config import Config, to_dict
from simcsp.core.config_file import CONFIG_HASH, read_saved
from simcsp.core.errors import InputError
from simcsp.core.files import (
    append_line,
    mend_folder,
    mend_old_folder,
    read_json,
    replacing,
    sha256_file,
    write_json,
    write_text,
)
from simcsp.core.locks import LOCK, release_lock, take_lock
from simcsp.core.provenance import (
    IDENTITY,
    changed_inputs,
    changed_settings,
    check_sealed,
    identity,
    seal,
    sealed_files,
)

FORMAT = 2
"""Format of run folders, in env.json; absent in format 1, which has no checksums. Both are read, later ones refused."""
STATES = layout.STATE, layout.PREVIOUS_STATE
START_ANEW = "restore it from a backup, or delete its folder to start over"
PREDICTION_COLUMNS = ["window", "fold", "label", "probability"]
HEADLINES = ("train/loss", "val/sccs", "val/nmi", "test/f1", "test/auc")
"""The metrics of TensorBoard's HPARAMS, which shows five at first."""
WORKER = ("git", "python", "versions", "host", "device", "threads")
"""What of env.json says who worked on a stage; under `resumed` those that went on with it."""
CLOCK_FIELDS = ("time", "train/windows_per_s", "train/mfu")
"""The only fields of metrics.jsonl that differ between an uninterrupted and a resumed run."""
_PASSWORD = re.compile(r"(://[^/?#\s@:]*:)[^\s@]*@")
_PARAMETER = re.compile(r"([?&](?:password|passwd|pwd|token|secret|api_?key)=)[^&\s]+", re.IGNORECASE)
_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "igraph", "umap-learn")


def environment(device: str, inputs: dict[str, str]) -> dict[str, Any]:
    """What env.json holds: command, git state, versions, device, hashes of the inputs."""
    return {
        "format": FORMAT,
        "argv": [without_secrets(word) for word in sys.argv],
        "git": _git_state(),
        "python": platform.python_version(),
        "versions": _versions(),
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads(),
        "inputs": inputs,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def without_secrets(text: str) -> str:
    """A command-line argument with passwords and tokens in URLs masked."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@functools.cache
def _git_state() -> dict[str, Any]:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy without history (Docker image)
        return {"sha": None, "dirty": None}


class View(Protocol):
    """Live display of a running stage (implemented and documented in simcsp/training/tensorboard.py)."""

    def show(self, row: dict[str, Any]) -> None: ...
    def rewind(self, step: int, rows: list[dict[str, Any]]) -> None: ...
    def flush(self) -> None: ...
    def finish(self, hyperparameters: dict[str, Any] | None, metrics: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class RunFolder:
    """One stage of one experiment on disk.

    path: the folder. config: resolved config (nested dict) that decides the result; a folder made under another one is
    refused with the difference shown. inputs: {name: hash}, likewise. After construction `finished` says whether
    summary.json exists already. Nothing is written before `begin`. view: what shows the metrics to people, if anything.
    start: as of `changed_inputs`.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        inputs: dict[str, str],
        device: str,
        view: View | None = None,
        start: str | None = None,
    ) -> None:
        self.path, self.config, self.view = path, config, view
        self.checkpoints = path / layout.CHECKPOINTS
        self.finished = layout.is_finished(path)
        self._inputs, self._device, self._start = inputs, device, start
        self._check_same()
        if self.finished:
            mend_folder(path)
        if self.finished and any((path / name).exists() for name in (*STATES, LOCK)):
            with suppress(InputError, PermissionError):  # its process is at it; another user's
                take_lock(path / LOCK)
                self._end()

    def begin(self) -> None:
        """Make this process the only one that works here, and write config.yaml and env.json, by which a later start is
        judged: model and data have been loaded by now.

        Raises InputError where another process works here, or has ended the work since this one looked.
        """
        lock = self.path / LOCK
        take_lock(lock)
        if layout.is_finished(self.path):
            release_lock(lock)
            raise InputError(f"{self.path} has been finished by another process: rerun the same command to continue")
        self._check_same()
        for folder in (self.path, self.checkpoints):
            mend_folder(folder)
            mend_old_folder(folder)
        if not (self.path / layout.ENVIRONMENT).is_file():
            write_text(self.path / layout.CONFIG, yaml.safe_dump(self.config, sort_keys=False))
            written = {CONFIG_HASH: sha256_file(self.path / layout.CONFIG)}
            write_json(self.path / layout.ENVIRONMENT, environment(self._device, self._inputs) | written)
        self._note_resumption()

    def _note_resumption(self) -> None:
        env, now = read_json(self.path / layout.ENVIRONMENT, START_ANEW), environment(self._device, self._inputs)
        before = [env, *env.get("resumed", [])]
        if all(any(now[key] != known.get(key) for key in WORKER) for known in before):
            added = {key: now[key] for key in ("argv", *WORKER, "started")}
            write_json(self.path / layout.ENVIRONMENT, env | {"resumed": [*before[1:], added]})

    def _check_same(self) -> None:
        if not (self.path / layout.ENVIRONMENT).is_file():
            return
        env = read_json(self.path / layout.ENVIRONMENT, START_ANEW)
        if "inputs" not in env:
            raise InputError(f"{self.path / layout.ENVIRONMENT} lacks the hashes of the inputs: damaged; {START_ANEW}")
        if env.get("format", 1) > FORMAT:
            raise InputError(f"{self.path} was made by a later version: this one reads formats up to {FORMAT}")
        before = _with_new_fields(read_saved(self.path / layout.CONFIG), self.config)
        changed = changed_settings(before, self.config)
        changed += changed_inputs(env["inputs"], self._inputs, self.config, self._start)
        if changed:
            raise InputError(
                f"{self.path} was started with other settings or inputs ({'; '.join(changed[:6])}): "
                "use another --name, or delete that folder to start over"
            )

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / layout.SUMMARY, START_ANEW)

    def log(self, message: str, show: bool = True) -> None:
        """One line to train.log, and to the terminal above any progress bar."""
        append_line(self.path / layout.LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")
        if show:  # in a terminal the rest of the line goes: it may hold the bar of another worker
            tqdm.write(f"{message}\033[K" if sys.stdout.isatty() else message)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append a row to metrics.jsonl and to the view. Raises FloatingPointError on NaN or infinity."""
        for key, value in values.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"{key} is {value} at step {step}")
        row = {"step": step, "time": round(time.time(), 3), **{key: float(value) for key, value in values.items()}}
        append_line(self.path / layout.METRICS, json.dumps(row))
        if self.view is not None:
            self.view.show(row)

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, without a last line truncated by a kill."""
        return read_metrics(self.path)

    def rewind(self, step: int) -> None:
        """Discard metrics after `step` (-1: all), here and in the view, before resuming from a saved state."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.path / layout.METRICS, "".join(json.dumps(row) + "\n" for row in rows))
        if self.view is not None:
            self.view.rewind(step, rows)

    def save_state(self, state: dict[str, Any], keep_previous: bool = True) -> None:
        """Atomically save all that a resume needs (tensors, numbers, strings; readable with weights_only).

        keep_previous: False where going on from the state before this one would not come to the same."""
        if self.view is not None:
            self.view.flush()
        path = self.path / layout.STATE
        with replacing(path) as aside:
            with open(aside, "wb") as handle:
                torch.save(state, handle)
            if path.is_file():
                os.replace(path, self.path / layout.PREVIOUS_STATE)
        if not keep_previous:
            (self.path / layout.PREVIOUS_STATE).unlink(missing_ok=True)

    def load_state(self, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The last saved state, or the previous one if it is damaged (logged), or None."""
        newest, previous = self.path / layout.STATE, self.path / layout.PREVIOUS_STATE
        if newest.is_file():
            state, damage = read_state(newest, map_location)
            if damage is None:
                return state
            if not previous.is_file():
                raise InputError(f"{newest} is damaged ({damage}), and there is no earlier state: {START_ANEW}")
            self.log(f"{newest} is damaged ({damage}): resuming from the previous state, {previous.name}")
            newest.unlink()  # or it would become the previous one
        if not previous.is_file():
            return None
        state, damage = read_state(previous, map_location)
        if damage is not None:
            raise InputError(f"{previous} is damaged ({damage}), and there is no other state: {START_ANEW}")
        return state

    def finish(self, summary: dict[str, Any], hyperparameters: dict[str, Any] | None = None) -> None:
        """Write summary.json, last: its presence means done. The view shows it with the hyperparameters."""
        if self.view is not None:
            self.view.finish(hyperparameters, summary.get("metrics", {}))
        seal(self.path, {**summary, IDENTITY: identity(self.config, self._inputs)}, sealed_files(self.path))
        self._end()
        self.finished = True

    def _end(self) -> None:
        for name in STATES:
            (self.path / name).unlink(missing_ok=True)
        release_lock(self.path / LOCK)

    def close(self) -> None:
        if self.view is not None:
            self.view.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a stage's metrics.jsonl; while it is in work a last line torn by a kill is left out.

    Raises InputError for other damage, and for what is not what the stage was finished with."""
    path, finished = folder / layout.METRICS, layout.is_finished(folder)
    if finished:
        check_sealed(folder, layout.METRICS)
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, KeyError, TypeError):
            if finished or number < len(lines):
                raise InputError(f"{path}, line {number}: damaged, not a row of metrics: {START_ANEW}") from None
    return rows


def read_state(path: Path, map_location: str | torch.device) -> tuple[dict[str, Any] | None, str | None]:
    """(What torch.save wrote to a file, None), or (None, what is wrong with the file).

    It is a zip archive, every record of which has a CRC-32; torch itself does not look at them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                return None, f"checksum mismatch in {record}"
        return torch.load(path, map_location=map_location, weights_only=True), None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        return None, (str(error).splitlines() or [type(error).__name__])[0][:100]


def _with_new_fields(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of fields added since, under which it ran."""
    filled, defaults = dict(before), to_dict(Config())
    for name, section in before.items():
        if isinstance(section, dict) and isinstance(now.get(name), dict):
            young = set(now[name]) - set(section)
            filled[name] = section | {key: value for key, value in defaults[name].items() if key in young}
    return filled

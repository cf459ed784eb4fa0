"""The run folder: config, environment, log, metrics, TensorBoard, checkpoints, state and summary; exact resume; seeds.

Layout of a stage's folder: config.yaml, env.json, train.log, metrics.jsonl (the source of truth), TensorBoard events
(a view of it, rebuilt on resume), checkpoints/, summary.json written last: it means done. While it runs also .lock,
state.pt, and state.previous.pt, the state before that one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from utils.config import Config, to_dict
from utils.errors import InputError, Interrupted, Stopped, started_together
from utils.files import (
    append_line,
    mend_folders,
    read_json,
    release_lock,
    replacing,
    sha256_file,
    take_lock,
    write_json,
    write_text,
)
from utils.saved import CONFIG_HASH, read_saved

FORMAT = 2
"""Of run folders, in env.json. 1, which says nothing there: without checksums. Both are read; a later one is not."""
PREVIOUS = "state.previous.pt"
TWICE = 5.0  # seconds
START_ANEW = "restore it from a copy, or delete the folder that it lies in to start that anew"
PREDICTIONS = ["window", "fold", "label", "probability"]  # columns of predictions.csv
REMEDY = "restore it from a copy, or delete the folder that it lies in and train that anew"
HEADLINES = ("train/loss", "val/sccs", "val/nmi", "test/f1", "test/auc")
"""The metrics of TensorBoard's HPARAMS, which shows five at first."""
CLOCK_FIELDS = ("time", "train/windows_per_s")
"""The only fields of metrics.jsonl that differ between a straight and a resumed run."""
_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "igraph", "umap-learn")


def environment(device: str, inputs: dict[str, str]) -> dict[str, Any]:
    """What env.json holds: command, git state, versions, device, hashes of the inputs."""
    return {
        "format": FORMAT,
        "argv": sys.argv,
        "git": _git_state(),
        "python": platform.python_version(),
        "versions": _versions(),
        "device": device,
        "threads": torch.get_num_threads(),
        "inputs": inputs,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@functools.cache
def _git_state() -> dict[str, Any]:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy without history (Docker image)
        return {"sha": None, "dirty": None}


@contextlib.contextmanager
def clean_up_refused(folder: Path) -> Iterator[None]:
    """Where a start in a new run folder is refused before a stage has begun, take away what was written there by then:
    its splits would refuse the mended config."""
    is_new = not folder.exists()
    try:
        yield
    except InputError:
        if is_new and not any(folder.rglob("env.json")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag, so that a loop can stop where its state is whole. A second one kills.

    torchrun passes Ctrl-C on to processes that the terminal has told already: these two count as one.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal
        self._since = 0.0
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._ask)

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number != 0

    def _ask(self, number: int, frame: Any) -> None:
        twice = started_together() > 1 and time.monotonic() - self._since < TWICE
        if self.asked and not twice:
            raise Stopped(number)
        self.number, self._since = number, time.monotonic()


class RunFolder:
    """One stage of one experiment on disk.

    path: the folder. config: resolved config (nested dict) that decides the result; a folder made under another one is
    refused with the difference shown. inputs: {name: hash}, likewise. After construction `finished` says whether
    summary.json exists already. Nothing is written before `begin`. events: whether TensorBoard shows it.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], inputs: dict[str, str], device: str, events: bool = True
    ) -> None:
        self.path, self.config, self.events = path, config, events
        self._floors: dict[str, float] = {}
        self.checkpoints = path / "checkpoints"
        self.finished = (path / "summary.json").is_file()
        self._writer: SummaryWriter | None = None
        self._inputs, self._device = inputs, device
        self._check_same()

    def begin(self) -> None:
        """Make this process the only one that works here, and write config.yaml and env.json, by which a later start is
        judged: model and data have been loaded by now.

        Raises InputError where another process works here, or has ended the work since this one looked.
        """
        lock = self.path / ".lock"
        try:
            take_lock(lock)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            self.log(f"{lock}: this file system has no locks: start no second process in the same run folder")
        if (self.path / "summary.json").is_file():
            release_lock(lock)
            raise InputError(f"{self.path} has been finished by another process: give the same command again to go on")
        self._check_same()
        for folder in (self.path, self.checkpoints):
            mend_folders(folder)
        if not (self.path / "env.json").is_file():
            write_text(self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            written = {CONFIG_HASH: sha256_file(self.path / "config.yaml")}
            write_json(self.path / "env.json", environment(self._device, self._inputs) | written)

    def _check_same(self) -> None:
        if not (self.path / "env.json").is_file():
            return
        env = read_json(self.path / "env.json", START_ANEW)
        if "inputs" not in env:
            raise InputError(f"{self.path}/env.json says nothing of the inputs: damaged; {START_ANEW}")
        if env.get("format", 1) > FORMAT:
            raise InputError(f"{self.path} was made by a later version: this one reads formats up to {FORMAT}")
        before, config, inputs = read_saved(self.path / "config.yaml"), self.config, self._inputs
        changed = _differences(_with_new_fields(before, config), config)
        hashes = env["inputs"]
        changed += [
            f"{key} has other content" for key in sorted({*hashes, *inputs}) if hashes.get(key) != inputs.get(key)
        ]
        if changed:
            raise InputError(
                f"{self.path} was started with other settings or inputs ({'; '.join(changed[:6])}): "
                "use another --name, or delete that folder to start it anew"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of a finished stage."""
        return read_json(self.path / "summary.json", START_ANEW)

    @property
    def writer(self) -> SummaryWriter:
        """TensorBoard writer, opened on first use."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.path))
        return self._writer

    def log(self, message: str, show: bool = True) -> None:
        """One line to train.log, and to the terminal above any progress bar."""
        append_line(self.path / "train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")
        if show:  # in a terminal the rest of the line goes: it may hold the bar of another worker
            tqdm.write(f"{message}\033[K" if sys.stdout.isatty() else message)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append one row to metrics.jsonl and show it in TensorBoard. Raises FloatingPointError on NaN or infinity."""
        for key, value in values.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"{key} is {value} at step {step}")
        row = {"step": step, "time": round(time.time(), 3), **{key: float(value) for key, value in values.items()}}
        append_line(self.path / "metrics.jsonl", json.dumps(row))
        self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        """A row as points of curves; floors, which are measured once, as level lines through the validations."""
        floors = {key: value for key, value in row.items() if key.startswith("floor/")}
        self._floors |= floors
        if floors or not self.events:
            return
        values = {key: value for key, value in row.items() if key not in ("step", "time")}
        if any(key.startswith("val/") for key in values):
            values |= self._floors
        for key, value in values.items():
            self.writer.add_scalar(key, value, row["step"], walltime=row["time"])

    def picture(self, step: int, distributions: dict[str, np.ndarray], image: bytes | None = None) -> None:
        """Keep and show what a validation looks like: values to draw histograms of, within [-1, 1], and a PNG."""
        if not self.events:
            return
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        with open(folder / f"{step:06d}.npz", "wb") as handle:
            np.savez_compressed(handle, **{name: values.astype(np.float16) for name, values in distributions.items()})
        if image is not None:
            (folder / f"{step:06d}.png").write_bytes(image)
        self._show_picture(step)

    def _show_picture(self, step: int) -> None:
        stem = self.path / "pictures" / f"{step:06d}"
        with np.load(stem.with_suffix(".npz")) as kept:
            for name in kept.files:
                self.writer.add_histogram(name, kept[name].astype(np.float32), step, bins=np.linspace(-1, 1, 41))
        if stem.with_suffix(".png").is_file():
            png = stem.with_suffix(".png").read_bytes()
            width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))  # of its header
            image = Summary.Image(encoded_image_string=png, colorspace=3, width=width, height=height)
            self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="motif sites", image=image)]), step)

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; a last line torn by a kill is left out."""
        return read_metrics(self.path)

    def rewind(self, step: int) -> None:
        """Forget metrics after `step` (-1: all) and rebuild the TensorBoard view, to go on from a saved state."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for events in self.path.glob("events.out.tfevents.*"):
            events.unlink()
        for picture in (self.path / "pictures").glob("*"):
            if int(picture.stem) > step:
                picture.unlink()
        if not self.events:
            return
        run = self.path.parent.parent if self.path.name.startswith("seed") else self.path.parent
        for name, path, kind in (
            ("config", self.path / "config.yaml", "yaml"),
            ("environment", self.path / "env.json", "json"),
            ("pre-training text", run / "corpus.json", "json"),
            ("overlap of the evaluation with the text", run / "overlap.json", "json"),
        ):
            if path.is_file():
                self.writer.add_text(name, f"```{kind}\n{path.read_text()}\n```")
        for row in rows:
            self._show(row)
        for picture in sorted((self.path / "pictures").glob("*.npz")):
            self._show_picture(int(picture.stem))

    def save_state(self, state: dict[str, Any], keep_previous: bool = True) -> None:
        """Atomically save all that going on needs (tensors, numbers, strings; readable with weights_only).

        keep_previous: False where going on from the state before this one would not come to the same."""
        path = self.path / "state.pt"
        with replacing(path) as aside:
            with open(aside, "wb") as handle:
                torch.save(state, handle)
            if path.is_file():
                os.replace(path, self.path / PREVIOUS)
        if not keep_previous:
            (self.path / PREVIOUS).unlink(missing_ok=True)

    def load_state(self, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The last saved state, or the one before where that is damaged, which the log then says; or None."""
        newest, previous = self.path / "state.pt", self.path / PREVIOUS
        if newest.is_file():
            state, damage = read_state(newest, map_location)
            if damage is None:
                return state
            if not previous.is_file():
                raise InputError(f"{newest} is damaged ({damage}), and there is no earlier state: {START_ANEW}")
            self.log(f"{newest} is damaged ({damage}): going on from the state before it, {previous.name}")
            newest.unlink()  # or it would become the previous one
        if not previous.is_file():
            return None
        state, damage = read_state(previous, map_location)
        if damage is not None:
            raise InputError(f"{previous} is damaged ({damage}), and there is no other state: {START_ANEW}")
        return state

    def finish(self, summary: dict[str, Any], hyperparameters: dict[str, Any] | None = None) -> None:
        """Write summary.json, the last act: its presence means done. Numbers under 'metrics' go to TensorBoard too."""
        if hyperparameters and self.events:
            tags = [tag for tag in HEADLINES if tag in summary.get("metrics", {})]
            show_hyperparameters(self.writer, hyperparameters, tags)
        self.close()
        write_json(self.path / "summary.json", summary)
        for name in ("state.pt", PREVIOUS):
            (self.path / name).unlink(missing_ok=True)
        release_lock(self.path / ".lock")
        self.finished = True

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def show_hyperparameters(writer: SummaryWriter, values: dict[str, Any], tags: list[str]) -> None:
    """A line of TensorBoard's HPARAMS: settings, and the last values of the scalars named by tags.

    add_hparams would open a run of its own; its three summaries can go to this one.
    """
    plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()}
    for part in hparams(plain, dict.fromkeys(tags, 0.0)):
        writer.file_writer.add_summary(part)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a stage's metrics.jsonl; a last line torn by a kill is left out. Raises InputError for other damage."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}, line {number}: damaged, no row of metrics: {START_ANEW}") from None
    return rows


def read_state(path: Path, map_location: str | torch.device) -> tuple[dict[str, Any] | None, str | None]:
    """(What torch.save wrote to a file, None), or (None, what is wrong with the file).

    It is a zip archive, every record of which has a CRC-32; torch itself does not look at them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                return None, f"the checksum of {record} differs"
        return torch.load(path, map_location=map_location, weights_only=True), None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        return None, (str(error).splitlines() or [type(error).__name__])[0][:100]


def _with_new_fields(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of fields that are younger than it: they are what it ran under."""
    filled, defaults = dict(before), to_dict(Config())
    for name, section in before.items():
        if isinstance(section, dict) and isinstance(now.get(name), dict):
            young = set(now[name]) - set(section)
            filled[name] = section | {key: value for key, value in defaults[name].items() if key in young}
    return filled


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old}, now {new}")
    return found


def stop_if_asked(stop: StopSignal, where: str) -> None:
    """Leave by Interrupted when a stop signal has come; call it only where the state on disk is whole."""
    if stop.asked:
        raise Interrupted(f"stopped {where}", stop.number)

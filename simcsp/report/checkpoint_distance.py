"""How far each checkpoint of a run's pre-training has moved from the start, measured once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import BertModel

from simcsp.core.arms import BASELINE, OF_CONTROL, OF_PRETRAINING
from simcsp.core.config import Config
from simcsp.core.files import read_json, write_json
from simcsp.core.run_layout import LAST, SUMMARY, arm_checkpoints, best_of, stage_of
from simcsp.labels.splits import has_training_windows, read_windows, selection_windows
from simcsp.metrics.distance import Distance, linear_cka, mean_cosine_to, relative_change
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.embedding import Encoder
from simcsp.report.collect import REMEDY, Comparison

MOST_WINDOWS = 400  # of those for selection, so that a large encoder on a CPU takes a minute each


def measure_distances(comparison: Comparison, cache: Path) -> dict[str, list[Distance]]:
    """{arm in the report: distance of each pre-training seed} of the fine-tuned arms of pre-training whose checkpoints
    are there, each from the start of its own seed.

    cache: a JSON file; a checkpoint with the hash that stands there is not measured again. Where the labelled windows
    are not at hand, weights alone are compared.
    """
    known = read_json(cache, "delete it to measure it again") if cache.is_file() else {}
    kept: dict[str, dict[str, float]] = {}
    distances: dict[str, list[Distance]] = {}
    for run, config in comparison.runs.items():
        arms = [arm for arm in (*OF_PRETRAINING, *OF_CONTROL) if (run, arm) in comparison.names]
        for seed, start in arm_checkpoints(config.folder, BASELINE).items():
            folders = {arm: arm_checkpoints(config.folder, arm).get(seed) for arm in arms}
            folders = {arm: folder for arm, folder in folders.items() if folder is not None}
            measured = _measure(start, folders, config, known)
            for arm, (key, distance) in measured.items():
                kept[key] = distance
                step = step_of(folders[arm])
                distances.setdefault(comparison.names[run, arm], []).append(Distance(step, **distance))
    if kept:
        write_json(cache, kept)
    return distances


def _measure(
    start: Path, folders: dict[str, Path], config: Config, known: dict[str, dict[str, float]]
) -> dict[str, tuple[str, dict[str, float]]]:
    """{arm: (key in the cache, the fields of its Distance but the step)} of checkpoints that began at `start`."""
    windows = _windows(config) if folders else None
    length = 0 if windows is None else len(windows)
    keys = {arm: f"{sha256_folder(start)}{sha256_folder(folder)} {length}" for arm, folder in folders.items()}
    first = _load(start, config, windows) if any(key not in known for key in keys.values()) else None
    return {
        arm: (key, known.get(key) or _distance(first, _load(folders[arm], config, windows)))
        for arm, key in keys.items()
    }


def step_of(checkpoint: Path) -> int:
    """The optimiser step of a checkpoint `last` or best_* of a stage of pre-training."""
    summary = read_json(stage_of(checkpoint) / SUMMARY, REMEDY)
    steps = {best_of(proxy): best["step"] for proxy, best in summary["best"].items()}
    return {LAST: summary["steps"], **steps}[checkpoint.name]


def _windows(config: Config) -> np.ndarray | None:
    if not has_training_windows(config.data):
        return None
    return selection_windows(*read_windows(config.data, config.folder)).crop(config.data.context)[:MOST_WINDOWS]


def _load(folder: Path, config: Config, windows: np.ndarray | None) -> tuple[BertModel, np.ndarray | None]:
    model, pooling, _ = load_backbone(config.model.saved_as(folder))
    vectors = None if windows is None else Encoder(model.bert, pooling, config.evaluate.batch_size).embed(windows)
    return model.bert, vectors


def _distance(start: tuple[BertModel, np.ndarray | None], now: tuple[BertModel, np.ndarray | None]) -> dict[str, float]:
    distance = {"weights": relative_change(start[0].state_dict(), now[0].state_dict())}
    if start[1] is not None:
        distance |= {"cosine": mean_cosine_to(start[1], now[1]), "cka": linear_cka(start[1], now[1])}
    return distance

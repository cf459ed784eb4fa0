"""How far each checkpoint of a run's pre-training has moved from the start, measured once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import BertModel

from simcsp.core.arms import OF_CONTROL, OF_PRETRAINING, checkpoint_of
from simcsp.core.config import Config
from simcsp.core.files import read_json, write_json
from simcsp.labels.splits import has_training_windows, read_windows, selection_windows
from simcsp.metrics.distance import Distance, linear_cka, mean_cosine_to, relative_change
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.embedding import embed
from simcsp.report.collect import REMEDY, Study

MOST_WINDOWS = 400  # of those for selection, so that a large encoder on a CPU takes a minute each


def measure_distances(study: Study, cache: Path) -> dict[str, Distance]:
    """{arm in the report: distance} of the fine-tuned arms of pre-training whose checkpoints are there.

    cache: a JSON file; a checkpoint with the hash that stands there is not measured again. Where the labelled windows
    are not at hand, weights alone are compared.
    """
    known = read_json(cache, "delete it, it is measured anew") if cache.is_file() else {}
    found, kept = {}, {}
    for run, config in study.runs.items():
        start = config.folder / "pretrain/checkpoints/start"
        arms = [arm for arm in (*OF_PRETRAINING, *OF_CONTROL) if (run, arm) in study.names]
        folders = {arm: config.folder / checkpoint_of(arm)[0] / "checkpoints" / checkpoint_of(arm)[1] for arm in arms}
        folders = {arm: folder for arm, folder in folders.items() if folder.is_dir() and start.is_dir()}
        windows = _windows(config) if folders else None
        length = 0 if windows is None else len(windows)
        hashes = {arm: f"{sha256_folder(start)}{sha256_folder(folder)} {length}" for arm, folder in folders.items()}
        if any(hashes[arm] not in known for arm in folders):
            first = _load(start, config, windows)
        for arm, folder in folders.items():
            key = hashes[arm]
            kept[key] = known.get(key) or _distance(first, _load(folder, config, windows))
            found[study.names[run, arm]] = Distance(step_of(config, arm), **kept[key])
    if kept:
        write_json(cache, kept)
    return found


def step_of(config: Config, arm: str) -> int:
    """The optimiser step of an arm's checkpoint."""
    stage, checkpoint = checkpoint_of(arm)
    summary = read_json(config.folder / stage / "summary.json", REMEDY)
    return summary["steps"] if checkpoint == "last" else summary["best"][checkpoint.removeprefix("best_")]["step"]


def _windows(config: Config) -> np.ndarray | None:
    if not has_training_windows(config.data):
        return None
    return selection_windows(*read_windows(config.data, config.folder)).crop(config.data.context)[:MOST_WINDOWS]


def _load(folder: Path, config: Config, windows: np.ndarray | None) -> tuple[BertModel, np.ndarray | None]:
    model, pooling, _ = load_backbone(config.model.saved_as(folder))
    vectors = None if windows is None else embed(model.bert, windows, pooling, config.evaluate.batch_size)
    return model.bert, vectors


def _distance(start: tuple[BertModel, np.ndarray | None], now: tuple[BertModel, np.ndarray | None]) -> dict[str, float]:
    """The fields of a Distance but its step."""
    found = {"weights": relative_change(start[0].state_dict(), now[0].state_dict())}
    if start[1] is not None:
        found |= {"cosine": mean_cosine_to(start[1], now[1]), "cka": linear_cka(start[1], now[1])}
    return found

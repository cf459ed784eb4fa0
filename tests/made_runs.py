"""Finished run folders that no model was trained for: made-up predictions and proxies, in the library's layout."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import tiny_config

from simcsp.core import run_layout as layout
from simcsp.core.arms import OF_CONTROL, OF_PRETRAINING
from simcsp.core.config import to_yaml
from simcsp.metrics.scores import classification_scores
from simcsp.text.sites import SITES
from utils.arguments import load_config

FOLDS, PART = 5, 30  # fold k is tested on parts k and k + 1, of 30 windows each
# how well each tells the classes apart
ARMS = {"pwm": 1.5, "baseline": 0.5, "best_sccs": 0.8, "last": 0.7, "control_best_sccs": 0.6, "control_last": 0.65}


def make_run(
    folder, name, arms=None, changes=None, folds=range(FOLDS), digest="0" * 64, seed=0, shift=0,
    pretrain_seeds=None, train_windows=None,
):  # fmt: skip
    """A finished run folder; predictions come from (seed, arm, fold) alone. shift: first part of fold 0.

    pretrain_seeds: of the arms of pre-training, where there are several; train_windows: where the labels are few.
    """
    config = load_config([str(tiny_config(folder / f"config-{name}", Path("nowhere"), changes))])
    config = dataclasses.replace(config, name=name, runs=str(folder / "runs"))
    config.folder.mkdir(parents=True)
    for arm, skill in (arms or ARMS).items():
        of_arm = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, arms=[arm]))
        several = pretrain_seeds if arm in OF_PRETRAINING + OF_CONTROL and pretrain_seeds else [None]
        for fit in [layout.FitKey(arm, "both", 0, fold, of, train_windows) for fold in folds for of in several]:
            _make_fit(fit, of_arm, skill, np.random.default_rng([seed, fit.fold, *fit.model.encode()]), shift, digest)
    (config.folder / layout.SPLITS).mkdir()
    (config.folder / layout.SPLITS / layout.SPLITS_RECORD).write_text('{"species": ["HUMAN"]}', encoding="utf-8")
    return config


def _make_fit(fit, config, skill, rng, shift, digest):
    path = fit.folder(config.folder)
    path.mkdir(parents=True)
    labels = np.arange(2 * PART) % 2
    probability = 1 / (1 + np.exp(-skill * (2 * labels - 1) - rng.normal(size=2 * PART)))
    parts = [(fit.fold + part + shift) % FOLDS for part in (0, 1)]
    names = [f"{SITES[i // 2 % 2]}_{part}_{i}" for part in parts for i in range(PART)]
    table = pd.DataFrame({"window": names, "fold": fit.fold, "label": labels, "probability": probability})
    table.to_csv(path / layout.PREDICTIONS, index=False)
    scores = {f"test/{key}": value for key, value in classification_scores(labels, probability).items()}
    windows = {"train": fit.train_windows or 100, "val": PART, "test": 2 * PART, "test_distinct": 2 * PART}
    summary = dataclasses.asdict(fit) | {"windows": windows, "metrics": scores}
    (path / layout.SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    rows = [{"step": step, "train/loss": 0.5 / step, "val/auc": 0.8} for step in (1, 2)]
    if fit.arm != "pwm":
        (path / layout.METRICS).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    inputs = {"spliceator": digest, "start checkpoint": fit.model}
    (path / layout.ENVIRONMENT).write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    (path / layout.CONFIG).write_text(to_yaml(config), encoding="utf-8")


def pretrained(config, best=("sccs",), objective="simcse", stage=layout.PRETRAIN, end=0.15, seed=None):
    """Add a finished stage: SCCS .1 at the start, .2 at step 5, `end` at the end; floor gc .18. seed: of several."""
    folder = config.folder / layout.stage_name(stage, seed)
    folder.mkdir(parents=True)
    rows = [{"step": step, "val/sccs": value} for step, value in ((0, 0.1), (5, 0.2), (8, end))]
    (folder / layout.METRICS).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    summary = {"objective": objective, "steps": 8, "best": {proxy: {"step": 5, "value": 0.2} for proxy in best}}
    (folder / layout.SUMMARY).write_text(json.dumps(summary | {"floors": {"floor/sccs_gc": 0.18}}), encoding="utf-8")
    (folder / layout.ENVIRONMENT).write_text(json.dumps({"inputs": {}}), encoding="utf-8")
    of_seed = config if seed is None else dataclasses.replace(config, seed=seed)
    (folder / layout.CONFIG).write_text(to_yaml(of_seed), encoding="utf-8")
    return config

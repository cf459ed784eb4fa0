"""What the models of a run's folds say of their own windows and of the benchmark species."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator
from tqdm import tqdm

from simcsp.core.arms import FLOORS, OF_ANNOTATION
from simcsp.core.config import Config
from simcsp.core.device import fit_seed
from simcsp.core.errors import InputError
from simcsp.core.files import check_hash, read_json, read_table
from simcsp.core.provenance import REMEDY
from simcsp.core.run_folder import PREDICTION_COLUMNS
from simcsp.core.run_layout import ENVIRONMENT, PREDICTIONS, SUMMARY, FitKey, checkpoint_path, fit_key, is_finished
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import Splits, draw_parts
from simcsp.metrics import benchmark
from simcsp.model.classifier import load_classifier, predict
from simcsp.model.encoder import check_length


def check_windows(folder: Path, windows: Windows, test: np.ndarray) -> None:
    """Refuse a fold that was fitted on other windows: by its recorded predictions, or the hash of its windows."""
    if (folder / PREDICTIONS).is_file():
        recorded_predictions(folder, windows.names[test])
    elif read_json(folder / ENVIRONMENT)["inputs"]["spliceator"] != windows.sha256:
        raise InputError(f"{folder} was fitted on other windows than those of this config: use the run's own config")


def parts_used(folder: Path, parts: dict[str, np.ndarray], windows: Windows, config: Config) -> dict[str, np.ndarray]:
    """Indices of the windows of a finished fold: its parts, or the draw of them that it was fitted on."""
    summary, share = read_json(folder / SUMMARY), config.finetune.validation_share
    count, draw = summary.get("train_windows"), summary.get("draw", 0)
    return draw_parts(parts, windows.strata, count, share, config.data.split_seed, summary["fold"], draw)


def recorded_predictions(folder: Path, names: np.ndarray) -> pd.DataFrame:
    """predictions.csv of a fold. Raises InputError unless it is of the test windows of these names."""
    if not (folder / PREDICTIONS).is_file():
        raise InputError(f"{folder} has no predictions.csv, which the scores are compared with: take a run of your own")
    path = folder / PREDICTIONS
    if is_finished(folder):
        check_hash(path, read_json(folder / SUMMARY).get("sha256", {}).get(path.name), REMEDY)
    recorded = read_table(path, PREDICTION_COLUMNS, REMEDY)
    if recorded["window"].tolist() != names.tolist():
        raise InputError(f"{folder}/predictions.csv is of other windows than this config's: use the run's own config")
    return recorded


def load_scorer(folder: Path, config: Config, accelerator: Accelerator) -> benchmark.Scorer:
    """P(site) of windows by one classifier checkpoint."""
    model = load_classifier(folder, config.model, config.finetune.dropout).to(accelerator.device)
    check_length(model.bert, config.data.context, "data.context")
    return lambda windows: predict(
        model, windows.crop(config.data.context), config.evaluate.batch_size, accelerator.autocast
    )


def ask_members(
    folders: list[Path],
    config: Config,
    accelerator: Accelerator,
    windows: Windows,
    splits: Splits,
    sets: dict[str, Windows],
    resemblance: benchmark.Resemblance,
) -> tuple[dict[benchmark.EnsembleKey, list[benchmark.Member]], list[str]]:
    """What each finished fold says of its validation windows and of every species, floors first and refitted.

    Returns {(arm, site, seed): its folds} and a sentence for each floor that is no longer what the run recorded.
    """
    fits = sorted(((fit_key(folder), folder) for folder in folders), key=lambda item: item[0].arm not in FLOORS)
    total = sum(_windows_asked(fit, splits, sets) for fit, _ in fits)
    arms = {fit.arm for fit, _ in fits}
    of_annotation = {arm: benchmark.refit_annotation_floor(arm, config) for arm in OF_ANNOTATION if arm in arms}
    ensembles: dict[benchmark.EnsembleKey, list[benchmark.Member]] = {}
    changed: dict[str, float] = {}
    with tqdm(desc="benchmark", unit="window", total=total, unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        for fit, folder in fits:
            arm = fit.model
            parts = parts_used(folder, splits.folds[fit.site][fit.fold], windows, config)
            check_windows(folder, windows, parts["test"])
            train, val, test = (windows.take(parts[part]) for part in ("train", "val", "test"))
            if arm in FLOORS:
                recorded = recorded_predictions(folder, test.names)
                seed = fit_seed(fit.seed, fit.fold)
                scorer = of_annotation.get(arm) or benchmark.refit_floor(arm, config, train, val, seed)
                again = scorer(test)
                changed[arm] = max(changed.get(arm, 0.0), float(np.abs(again - recorded["probability"]).max()))
            else:
                scorer = load_scorer(checkpoint_path(folder), config, accelerator)
            member = benchmark.Member(fit.fold, val.labels, scorer(val))
            bar.update(len(val))
            for name, species in sets.items():
                index = species.of_site(fit.site)
                member.species[name] = scorer(species.take(index))
                similar = resemblance.of(name, parts["train"])
                member.similar[name] = None if similar is None else similar[index]
                bar.update(len(index))
            ensembles.setdefault((arm, fit.site, fit.seed), []).append(member)
            tqdm.write(f"{arm:<18} {fit.site:<8} seed {fit.seed} fold {fit.fold:02d}  scored on {', '.join(sets)}")
    return ensembles, [
        f"{arm} refitted differs by up to {difference:.2g} from the probabilities that the run recorded: it was "
        "made by another version, or under other evaluate settings"
        for arm, difference in changed.items()
        if difference > 1e-3
    ]


def _windows_asked(fit: FitKey, splits: Splits, sets: dict[str, Windows]) -> int:
    of_species = sum(len(species.of_site(fit.site)) for species in sets.values())
    return len(splits.folds[fit.site][fit.fold]["val"]) + of_species


def score_checkpoint(
    folder: Path, config: Config, accelerator: Accelerator, sets: dict[str, Windows]
) -> dict[str, dict[str, float]]:
    """One classifier on every species, by site type, at .5."""
    scorer, table = load_scorer(folder, config, accelerator), {}
    for name, windows in sets.items():
        probabilities = scorer(windows)
        for part, index in benchmark.parts_of(windows, "both").items():
            scores = benchmark.score_windows(windows.labels[index], probabilities[index], None, None)
            table[f"{name} {part}"] = scores
    return table

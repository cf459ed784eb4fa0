#!/usr/bin/env python
"""How often the report's verdict is right, in simulated studies whose truth is known.

    python benchmarks/simulate_verdict.py [--studies 1000] [--windows 600] [--seed 0]

A study is the real protocol in small: labelled windows in ten parts, ten rotated folds (test: two parts, validation:
one, train: seven), so that two folds share 4 to 6 of their 7 training parts and neighbours share one of their two test
parts. Two arms see every window as a vector of their own; an arm's classifier is the linear discriminant of its
training windows, in closed form, and F1 is that of its test windows. Nothing about the correlation among folds is put
in by hand: it comes from the windows that they share. What is put in:
- a window's two vectors (one an arm) correlate by .8 within their class: the arms find the same windows hard;
- `noise`: each fit's weights are moved at random, which is what seeds of initialisation, order and dropout do; given
  as a share of the length of the weights;
- `features`: with more, a fit depends more on its training windows (168 windows and 80 features overfit badly);
- `seeds`: fits of each fold, which differ in this noise alone. n = folds x seeds, as in the report.
Under the null both arms' vectors say equally much about the label, so their expected F1 is the same over studies.
A "one sd" effect adds the sd of the paired differences over folds (the mean over studies) to each difference.

Columns: sd of the paired differences; rho, the mean correlation of two folds' differences over studies (the corrected
test assumes test / (test + train) = .22); share of studies whose verdict is not "no difference" though nothing is
there, by the corrected test (wanted: at most .06) and by the plain paired t-test; coverage of the 95 % interval of a
real difference (arm 2 sees more; the truth is the mean over all studies); power for one sd, and for the minimum
detectable effect (MDE) at 80 % power that the report gives.

The second table is the verdict of several pre-training seeds on few labels, by AUC: five encoders an arm, each fitted
on `--draws` stratified draws of 40 training windows in every fold; AUC is averaged over folds and draws, and the five
differences are tested. `arm` is the share of a vector that all seeds of an arm have in common and the other arm has
not: with it one arm finds these very windows easier, which no number of seeds tells from being better. `seed_sd` is how
far the distance of the classes differs from seed to seed. Columns: share of studies found different under the null, by
the seeds alone, and by seeds and folds, which is the verdict; power for a true difference of `gain` AUC by either;
share called equivalent within .01 under the null (by both); coverage of the interval over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, ttest_1samp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simcsp.metrics.scores import corrected_ttest, equivalence_test, smallest_difference
from simcsp.report.verdict import decide

PARTS = 10
BATCH = 250  # studies at a time
SCENARIOS = {
    "many windows, steady fits": {"features": 5, "noise": 0.0},
    "many windows, noisy fits": {"features": 5, "noise": 0.3},
    "few windows, steady fits": {"features": 20, "noise": 0.0, "windows": 240},
    "few windows, noisy fits": {"features": 20, "noise": 0.3, "windows": 240},
    "few windows, overfitted fits": {"features": 80, "noise": 0.0, "windows": 240},
    "noisy fits, three seeds": {"features": 5, "noise": 0.3, "seeds": 3},
}
SEED_SCENARIOS = {
    "seeds differ": {"arm": 0.0, "seed_sd": 0.1},
    "seeds are alike": {"arm": 0.0, "seed_sd": 0.02},
    "alike, and arms find other windows hard": {"arm": 0.1, "seed_sd": 0.02},
}
PRETRAIN_SEEDS, FEATURES, LABELS, MARGIN = 5, 5, 40, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="studies of each kind")
    parser.add_argument("--windows", type=int, default=600, help="of a study, where the row has no number of its own")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--draws", type=int, default=4, help="of the labels of a fold, in the second table")
    asked = parser.parse_args()
    if asked.windows % (2 * PARTS) or asked.windows < 4 * PARTS:
        parser.error(f"--windows {asked.windows} must be a multiple of {2 * PARTS}, at least {4 * PARTS}")
    rows = {}
    for name, scenario in SCENARIOS.items():
        rows[name] = operating_characteristics(asked.studies, asked.seed, **({"windows": asked.windows} | scenario))
    print(f"{asked.studies} simulated studies a row, seed {asked.seed}")
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:.3f}".format))
    few = {
        name: seed_characteristics(asked.studies, asked.seed, asked.draws, **of) for name, of in SEED_SCENARIOS.items()
    }
    print(f"\nunit pre-training seed: {PRETRAIN_SEEDS} seeds x {PARTS} folds x {asked.draws} draws of {LABELS} labels")
    print(pd.DataFrame.from_dict(few, orient="index").to_string(float_format="{:.3f}".format))
    margin = 1.96 * np.sqrt(0.05 * 0.95 / asked.studies)
    print(f"a share of .05 is known to +-{margin:.3f} from so many studies")


def operating_characteristics(
    studies: int, seed: int, windows: int, features: int, noise: float, seeds: int = 1
) -> dict[str, float]:
    """The columns above, from differences under the null and under a real difference."""
    settings = {"windows": windows, "features": features, "noise": noise, "seeds": seeds}
    null = simulate(studies, seed, gain=0.0, **settings)
    real = simulate(studies, seed + 1, gain=0.15, **settings)
    truth, sd = real.mean(), np.sqrt(null.var(axis=1, ddof=1).mean())
    intervals = [corrected_ttest(differences) for differences in real]
    correlation = np.corrcoef(null.T)
    return {
        "sd": sd,
        "rho": correlation[~np.eye(len(correlation), dtype=bool)].mean(),
        "false positive": share_found(null),
        "plain t-test": float((ttest_1samp(null, 0, axis=1).pvalue < 0.05).mean()),
        "coverage": float(np.mean([test["low"] <= truth <= test["high"] for test in intervals])),
        "power, one sd": share_found(null + sd),
        "power, as said": share_found(null + smallest_difference(sd, null.shape[1])),
    }


def share_found(studies: Iterable[np.ndarray]) -> float:
    """Share of studies, each paired differences [folds x seeds], whose verdict is that the arms differ."""
    tests = [corrected_ttest(differences) for differences in studies]
    return float(np.mean([decide(test["p"], test["diff"]) in ("higher", "lower") for test in tests]))


def simulate(
    studies: int, seed: int, windows: int, features: int, noise: float, gain: float, seeds: int = 1
) -> np.ndarray:
    """Paired differences in F1 [studies, folds x seeds], arm 2 minus arm 1.

    gain: how much further apart the classes are for arm 2, as a share of their distance for arm 1.
    """
    rng, found = np.random.default_rng(seed), []
    centres = (np.arange(windows // PARTS) % 2 - 0.5)[:, None] / np.sqrt(features)  # classes alternate
    for count in np.diff([*range(0, studies, BATCH), studies]):
        shape = (count, PARTS, windows // PARTS, features)
        shared, scores = rng.standard_normal(shape), []
        for distance in (2.0, 2.0 * (1 + gain)):
            vectors = np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.standard_normal(shape) + distance * centres
            scores.append(cross_validate(vectors, noise, seeds, rng))
        found.append(scores[1] - scores[0])
    return np.concatenate(found)


def cross_validate(vectors: np.ndarray, noise: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Test F1 [studies, folds x seeds] of linear discriminants of vectors [studies, parts, windows of one, features].

    Every second window is a site. Fold k is tested on parts k + 1 and k + 2; part k is for validation.
    """
    studies, _, per_part, features = vectors.shape
    sums = np.stack([vectors[:, :, label::2].sum(axis=2) for label in (0, 1)])
    squares = np.swapaxes(vectors, 2, 3) @ vectors
    found = []
    for fold in range(PARTS):
        test = [(fold + 1) % PARTS, (fold + 2) % PARTS]
        train = [part for part in range(PARTS) if part not in (fold, *test)]
        size = len(train) * per_part / 2  # of a class
        others, sites = sums[:, :, train].sum(axis=2) / size
        within = squares[:, train].sum(axis=1)
        for mean in (others, sites):
            within = within - size * mean[:, :, None] * mean[:, None, :]
        weights = np.linalg.solve(within, (sites - others)[:, :, None])
        length = np.linalg.norm(weights, axis=1, keepdims=True)
        weights = weights + noise * length * rng.standard_normal((studies, features, seeds)) / np.sqrt(features)
        middle = (others + sites)[:, None, :] / 2
        called = (vectors[:, test].reshape(studies, -1, features) - middle) @ weights > 0
        hits = called[:, 1::2].sum(axis=1)
        found.append(2 * hits / (called.sum(axis=1) + per_part))  # two parts, half of them sites
    return np.concatenate(found, axis=1)


def seed_characteristics(studies: int, seed: int, draws: int, arm: float, seed_sd: float) -> dict[str, float]:
    """The columns of the second table, from differences under the null and under a real difference."""
    settings = {"draws": draws, "arm": arm, "seed_sd": seed_sd}
    null = simulate_seeds(studies, seed, gain=0.0, **settings)
    real = simulate_seeds(studies, seed + 1, gain=0.1, **settings)
    truth = real.mean()
    found = {"gain": truth, "sd over seeds": null.mean(axis=2).std(axis=1, ddof=1).mean()}
    for name, studied in (("false positive", null), ("power", real)):
        tests = [(corrected_ttest(one.mean(axis=1), 0.0), corrected_ttest(one.mean(axis=0))) for one in studied]
        by_seeds = np.array([decide(seeds["p"], seeds["diff"]) in ("higher", "lower") for seeds, _ in tests])
        by_folds = np.array([folds["p"] < 0.05 for _, folds in tests])
        found |= {f"{name}, seeds": by_seeds.mean(), f"{name}, and folds": (by_seeds & by_folds).mean()}
    found["equivalent"] = np.mean(
        [
            max(equivalence_test(one.mean(axis=1), MARGIN, 0.0), equivalence_test(one.mean(axis=0), MARGIN)) < 0.05
            for one in null
        ]
    )
    intervals = [corrected_ttest(one.mean(axis=1), 0.0) for one in real]
    found["coverage"] = np.mean([test["low"] <= truth <= test["high"] for test in intervals])
    return {name: float(value) for name, value in found.items()}


def simulate_seeds(
    studies: int, seed: int, draws: int, arm: float, seed_sd: float, gain: float, windows: int = 600
) -> np.ndarray:
    """Paired differences in AUC [studies, pre-training seeds, folds], mean over draws, arm 2 minus arm 1.

    Draws of labels are those of both arms and all seeds; a classifier is the difference of the class means.
    """
    rng = np.random.default_rng(seed)
    per_part = windows // PARTS
    labels = np.arange(windows) % 2  # parts are consecutive, classes alternate
    centres = (labels - 0.5)[:, None] / np.sqrt(FEATURES)
    parts = np.arange(windows) // per_part
    found = np.empty((studies, PRETRAIN_SEEDS, PARTS))
    for study in range(studies):
        shared = rng.standard_normal((windows, FEATURES))
        drawn = _draw(rng, labels, parts, draws)
        scores = []
        for distance in (2.0, 2.0 * (1 + gain)):
            own = np.sqrt(arm) * rng.standard_normal((windows, FEATURES))
            noise = np.sqrt(0.2 - arm) * rng.standard_normal((PRETRAIN_SEEDS, windows, FEATURES))
            apart = distance + seed_sd * rng.standard_normal((PRETRAIN_SEEDS, 1, 1))
            vectors = np.sqrt(0.8) * shared + own + noise + apart * centres
            scores.append(_mean_auc(vectors, drawn, labels, parts))
        found[study] = scores[1] - scores[0]
    return found


def _draw(rng: np.random.Generator, labels: np.ndarray, parts: np.ndarray, draws: int) -> np.ndarray:
    """Indices [folds, draws, 2 classes, LABELS / 2] of training windows."""
    found = np.empty((PARTS, draws, 2, LABELS // 2), int)
    for fold in range(PARTS):
        train = ~np.isin(parts, [fold, (fold + 1) % PARTS, (fold + 2) % PARTS])
        for label in (0, 1):
            pool = np.flatnonzero(train & (labels == label))
            found[fold, :, label] = rng.permuted(np.tile(pool, (draws, 1)), axis=1)[:, : LABELS // 2]
    return found


def _mean_auc(vectors: np.ndarray, drawn: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """AUC [seeds, folds], the mean over draws, of vectors [seeds, windows, features]."""
    means = vectors[:, drawn].mean(axis=4)  # [seeds, folds, draws, 2, features]
    weights = means[:, :, :, 1] - means[:, :, :, 0]
    found = np.empty(weights.shape[:2])
    for fold in range(PARTS):
        test = np.isin(parts, [(fold + 1) % PARTS, (fold + 2) % PARTS])
        ranks = rankdata(np.einsum("swf,sdf->sdw", vectors[:, test], weights[:, fold]), axis=2)
        sites = labels[test] == 1
        n = sites.sum()
        found[:, fold] = ((ranks[:, :, sites].sum(axis=2) - n * (n + 1) / 2) / (n * (~sites).sum())).mean(axis=1)
    return found


if __name__ == "__main__":
    main()

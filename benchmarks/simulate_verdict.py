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
real difference (arm 2 sees more; the truth is the mean over all studies); power for one sd, and for the difference
that the report says four of five studies find.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simcsp.judge.scores import corrected_ttest, smallest_difference
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="studies of each kind")
    parser.add_argument("--windows", type=int, default=600, help="of a study, where the row has no number of its own")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    asked = parser.parse_args()
    if asked.windows % (2 * PARTS) or asked.windows < 4 * PARTS:
        parser.error(f"--windows {asked.windows} must be a multiple of {2 * PARTS}, at least {4 * PARTS}")
    rows = {}
    for name, scenario in SCENARIOS.items():
        rows[name] = operating_characteristics(asked.studies, asked.seed, **({"windows": asked.windows} | scenario))
    print(f"{asked.studies} simulated studies a row, seed {asked.seed}")
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:.3f}".format))
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


if __name__ == "__main__":
    main()

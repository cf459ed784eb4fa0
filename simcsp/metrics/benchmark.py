"""Benchmark species: every fold's model and their mean ensemble, by site type, with and without near-duplicates of what
the models were trained on; one threshold from validation windows; calibration.

The file benchmark.csv has columns arm, site, seed, fold, dataset, metric, value. `site` is the task that the model was
fitted on, `dataset` the species, fold -1 an ensemble. Metrics are `<model>/[<part>/]<score>[_distinct]`:

model     test (a fold's model) or ensemble (the mean probability of the folds' models)
part      donor or acceptor: those windows alone, scored by a model fitted on both
score     f1, auc, ap, accuracy, mcc, ece, threshold, windows; f1_tuned, accuracy_tuned, mcc_tuned at the threshold from
          validation
distinct  without the windows that share an 80-mer with a training window of the fold, or of any fold of the ensemble;
          F1, which rises with the share of sites, at their share of all windows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from simcsp.core.config import Config
from simcsp.labels.floors import Labelled, annotated_sites, fit_annotation_floor, fit_floor
from simcsp.labels.spliceator import Windows
from simcsp.metrics.scores import (
    best_threshold,
    calibration_error,
    called_rates,
    classification_scores,
    f1_at_prevalence,
    threshold_scores,
)
from simcsp.text.alphabet import N
from simcsp.text.kmers import KMER, shared_kmers, similar_to_training
from simcsp.text.sites import SITES

Scorer = Callable[[Windows], np.ndarray]
"""P(site) [n] of windows."""
EnsembleKey = tuple[str, str, int]
"""Arm, task (donor, acceptor or both) and seed: whose folds make one ensemble."""
Curve = tuple[np.ndarray, np.ndarray]
"""Labels [n] and P(site) [n], for a reliability plot."""


def refit_floor(arm: str, config: Config, train: Windows, val: Windows, seed: int) -> Scorer:
    """A floor fitted on the training windows of a fold as finetune.py fits it. seed: of that fit (`fit_seed`)."""
    context = config.data.context
    to_fit, to_stop = (Labelled(part.crop(context), part.labels, part.sites) for part in (train, val))
    predict, _ = fit_floor(arm, config.evaluate, to_fit, to_stop, seed)
    return lambda windows: predict(windows.crop(context))


def refit_annotation_floor(arm: str, config: Config) -> Scorer:
    """A floor fitted on the text's annotated sites, as finetune.py fits it."""
    predict = fit_annotation_floor(arm, config.evaluate, annotated_sites(config.data, config.seed), config.seed)
    return lambda windows: predict(windows.crop(config.data.context))


class Resemblance:
    """Which windows of the benchmark share an 80-mer with training windows, on the strand they are written on.

    windows: all windows of the run. sets: {species: windows}. The k-mers are compared once for all folds.
    """

    def __init__(self, windows: Windows, sets: dict[str, Windows]) -> None:
        everything = [windows, *sets.values()]
        padded = np.full(
            (sum(map(len, everything)), max(part.ids.shape[1] for part in everything)), N, dtype=np.uint8
        )  # a k-mer that holds an N is compared with nothing
        ends = np.cumsum([len(part) for part in everything])
        for part, end in zip(everything, ends):
            padded[end - len(part) : end, : part.ids.shape[1]] = part.ids
        self._kmers = shared_kmers(padded)
        self._rows = {name: np.arange(end - len(part), end) for (name, part), end in zip(sets.items(), ends[1:])}
        self._known = {name: min(part.ids.shape[1], windows.ids.shape[1]) >= KMER for name, part in sets.items()}

    def of(self, species: str, train: np.ndarray) -> np.ndarray | None:
        """bool [n]: windows of a species that share one with the training windows of indices `train`.

        None where windows are too short for that to be known.
        """
        if not self._known[species]:
            return None
        return similar_to_training(self._kmers, train, self._rows[species])


@dataclass(frozen=True)
class Member:
    """One fold's model, and what it says.

    labels, probabilities [n]: of its validation windows.
    species: {name: P(site)} of the benchmark windows of its task. similar: {name: bool, which of these share an 80-mer
    with its training windows; None: not known}.
    """

    fold: int
    labels: np.ndarray
    probabilities: np.ndarray
    species: dict[str, np.ndarray] = field(default_factory=dict)
    similar: dict[str, np.ndarray | None] = field(default_factory=dict)


def parts_of(windows: Windows, site: str) -> dict[str, np.ndarray]:
    """{part: indices} of the windows of a task that are scored separately: a task 'both' by site type too."""
    return {part: windows.of_site(part) for part in ((site, *SITES) if site == "both" else (site,))}


def score_windows(
    labels: np.ndarray, probabilities: np.ndarray, similar: np.ndarray | None, threshold: float | None
) -> dict[str, float]:
    """Every score of P(site) [n]: at .5, at the threshold from validation; calibration.

    similar: bool [n], the windows that the scores *_distinct leave out, or None: there are then no such scores, nor
    where one class is all that is left. threshold: None where there is no validation, then there is no *_tuned.
    """
    subsets = {"": np.ones(len(labels), dtype=bool)} | ({} if similar is None else {"_distinct": ~similar})
    rows: dict[str, float] = {}
    for suffix, kept in subsets.items():
        truth, predicted = labels[kept], probabilities[kept]
        rows[f"windows{suffix}"] = len(truth)
        if len(np.unique(truth)) < 2:
            continue
        scores = classification_scores(truth, predicted) | {"ece": calibration_error(truth, predicted)}
        if threshold is not None:
            scores |= {f"{key}_tuned": score for key, score in threshold_scores(truth, predicted, threshold).items()}
        if suffix:
            at = {"f1": 0.5, "f1_tuned": threshold} if threshold is not None else {"f1": 0.5}
            rates = {key: called_rates(truth, predicted, value) for key, value in at.items()}
            prevalence = float(labels.mean())
            scores |= {key: f1_at_prevalence(rate["tpr"], rate["fpr"], prevalence) for key, rate in rates.items()}
        rows |= {f"{key}{suffix}": value for key, value in scores.items()}
    return rows


def ensemble_of(members: list[Member]) -> Member:
    """The mean of the folds' models as a member with fold -1.

    Its threshold is picked on the validation windows of all folds together, each scored by the model of its fold: in a
    rotation that is every window of the folds once, by a model that was not trained on it. One maximum over n windows
    is steadier than the mean of ten maxima over n / 10.
    """
    species, similar = {}, {}
    for name in members[0].species:
        species[name] = np.mean([member.species[name] for member in members], axis=0)
        known = [member.similar[name] for member in members if member.similar[name] is not None]
        similar[name] = np.any(known, axis=0) if known else None
    labels = np.concatenate([member.labels for member in members])
    return Member(-1, labels, np.concatenate([member.probabilities for member in members]), species, similar)


def score_ensembles(
    ensembles: dict[EnsembleKey, list[Member]], sets: dict[str, Windows]
) -> tuple[pd.DataFrame, dict[str, dict[str, float]], dict[str, dict[str, dict[str, Curve]]]]:
    """Score every fold's model and every ensemble on every species.

    Returns the rows of benchmark.csv; the scores of each ensemble, by a name that says what it is of, with f1_folds,
    the mean of its folds' F1; and {species: {panel: {arm: (labels, P(site)) of the ensemble, one seed after another}}}.
    """
    rows, table = [], {}
    curves: dict[str, dict[str, dict[str, Curve]]] = {name: {} for name in sets}
    for (arm, site, seed), members in ensembles.items():
        job = {"arm": arm, "site": site, "seed": seed}
        ensemble = ensemble_of(members)
        f1: dict[tuple[str, str], list[float]] = {}
        for member in (*members, ensemble):
            threshold = best_threshold(member.labels, member.probabilities)
            model = "ensemble" if member is ensemble else "test"
            for name, windows in sets.items():
                of_site = windows.take(windows.of_site(site))
                common = {**job, "fold": member.fold, "dataset": name}
                rows.append({**common, "metric": f"{model}/threshold", "value": threshold})
                for part, index in parts_of(of_site, site).items():
                    labels, probabilities = of_site.labels[index], member.species[name][index]
                    similar = None if member.similar[name] is None else member.similar[name][index]
                    scores = score_windows(labels, probabilities, similar, threshold)
                    prefix = model if part == site else f"{model}/{part}"
                    rows += [{**common, "metric": f"{prefix}/{key}", "value": value} for key, value in scores.items()]
                    if member is not ensemble:
                        f1.setdefault((name, part), []).append(scores["f1"])
                        continue
                    task = site if part == site else f"{site}/{part}"
                    what = f"{name} {task} {arm} seed {seed} (mean of {len(members)})"
                    table[what] = scores | {"f1_folds": float(np.mean(f1[name, part]))}
                    panel = curves[name].setdefault(part if part == site else f"{part}, fitted on {site}", {})
                    before = panel.get(arm, (labels[:0], probabilities[:0]))
                    panel[arm] = (np.append(before[0], labels), np.append(before[1], probabilities))
    return pd.DataFrame(rows), table, curves


def resemblance_remarks(resemblance: Resemblance, train: np.ndarray, sets: dict[str, Windows]) -> list[str]:
    """One sentence a species: how many of its windows share an 80-mer with the training windows of indices `train`."""
    remarks = []
    for name, windows in sets.items():
        similar = resemblance.of(name, train)
        if similar is None:
            remarks.append(f"{name}: windows under {KMER} nt, so whether they resemble training windows is not known")
            continue
        remark = (
            f"{name}: {similar.sum():,} of {len(windows):,} windows share {KMER} bases in a row with a training window"
        )
        if similar.any():
            strata = dict.fromkeys(windows.strata)
            shares = ", ".join(f"{similar[windows.strata == one].mean():.1%} of {one}" for one in strata)
            remark += f" ({shares}); *_distinct leaves them out"
        remarks.append(remark)
    return remarks


def missing_folds(ensembles: dict[EnsembleKey, list[Member]], count: int) -> list[str]:
    """One sentence for each ensemble that lacks a fold. count: of the folds that there should be."""
    remarks = []
    for (arm, site, seed), members in ensembles.items():
        missing = sorted(set(range(count)) - {member.fold for member in members})
        if missing:
            listed = ", ".join(f"{number:02d}" for number in missing)
            remarks.append(f"{arm} {site} seed {seed}: n = {len(members)} of {count} folds, without {listed}")
    return remarks

"""The statistics of a comparison: which differences are tested, how they are adjusted, and what they say in a sentence.

One primary endpoint, F1 on both sites, and one primary contrast, best_sccs against its control (against the baseline
where no control was run). All other F1 comparisons are adjusted together by Holm's method.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from simcsp.judge.scores import corrected_ttest, holm, smallest_difference
from simcsp.report.collect import CROSS_VALIDATION, Study, objective_of
from utils.arms import BASELINE, CONTROL, OF_PRETRAINING

COLUMNS = ("arm", "site", "dataset", "metric", "mean", "sd", "n", "diff", "low", "high", "p", "n_paired", "p_holm")
ENDPOINT = "test/f1"
LEVEL = 0.05
PRIMARY_ARM = "best_sccs"


@dataclass(frozen=True)
class Contrast:
    """F1 of an arm minus F1 of a reference, paired over folds and seeds.

    n: pairs. sd: of the differences. low, high: 95 % interval; p two-sided, both of the corrected resampled t-test;
    smallest: true difference it would find with probability .80. None where n < 2 (p also where nothing varies).
    p_holm: adjusted over all but the primary contrast. control: the reference is the arm's own control.
    """

    arm: str
    reference: str
    site: str
    n: int
    sd: float | None
    diff: float | None
    low: float | None
    high: float | None
    p: float | None
    smallest: float | None
    control: bool
    primary: bool = False
    p_holm: float | None = None


@dataclass(frozen=True)
class Verdict:
    """outcome: higher, lower, no difference, undecided (no test possible) or none (nothing to test); a sentence."""

    outcome: str
    sentence: str
    contrast: Contrast | None = None


def paired_test(scores: pd.DataFrame, arm: str, reference: str, site: str, metric: str) -> dict[str, float | None]:
    """n, sd, diff, low, high, p and smallest of an arm minus a reference over the folds and seeds that both have.

    scores: arm, site, seed, fold, metric, value, ratio.
    """
    here = scores[(scores["site"] == site) & (scores["metric"] == metric)]
    both = here[here["arm"] == arm].merge(here[here["arm"] == reference], on=["seed", "fold"], suffixes=("", "_other"))
    return difference_test((both["value"] - both["value_other"]).to_numpy(), both["ratio"].mean())


def difference_test(differences: np.ndarray, ratio: float) -> dict[str, float | None]:
    """The same, from paired differences [n] and the ratio of test to training windows."""
    n = len(differences)
    if n == 0:
        return {"n": 0, "sd": None, "diff": None, "low": None, "high": None, "p": None, "smallest": None}
    sd = float(np.std(differences, ddof=1)) if n > 1 else None
    smallest = smallest_difference(sd, n, ratio) if sd is not None else None
    return {"n": n, "sd": sd, **corrected_ttest(differences, ratio), "smallest": smallest}


def find_contrasts(study: Study) -> list[Contrast]:
    """Every comparison of F1 that is tested, the primary one first, the others adjusted (Holm 1979)."""
    scores, arms = study.scores, list(dict.fromkeys(study.scores["arm"]))
    pairs = [(arm, control, True) for arm, control in study.pairs()]
    if BASELINE in arms:
        pairs += [(arm, BASELINE, False) for arm in arms if arm != BASELINE]
    primary, sites = _primary_pair(study), list(dict.fromkeys(scores["site"]))
    endpoint = "both" if "both" in sites else sites[0] if len(sites) == 1 else None
    found = []
    for site in sites:
        there = set(scores.loc[scores["site"] == site, "arm"])
        for arm, reference, control in pairs:
            if {arm, reference} <= there:
                is_primary = site == endpoint and (arm, reference) == primary
                test = paired_test(scores, arm, reference, site, ENDPOINT)
                found.append(Contrast(arm, reference, site, **test, control=control, primary=is_primary))
    tested = [i for i, contrast in enumerate(found) if not contrast.primary and contrast.p is not None]
    for i, p in zip(tested, holm(np.array([found[i].p for i in tested]))):
        found[i] = dataclasses.replace(found[i], p_holm=float(p))
    return sorted(found, key=lambda contrast: not contrast.primary)


def contrastive_arms(study: Study) -> list[str]:
    """Arms of pre-training by a contrastive objective, under the names of the report."""
    runs = [run for run, config in study.runs.items() if objective_of(config) != "mlm"]
    names = [study.names.get((run, arm)) for run in runs for arm in OF_PRETRAINING]
    return list(dict.fromkeys(name for name in names if name is not None))


def _primary_pair(study: Study) -> tuple[str, str] | None:
    """best_sccs of the first run that has one from contrast, and its control, else the baseline."""
    for run in study.runs:
        arm = study.names.get((run, PRIMARY_ARM))
        if arm in contrastive_arms(study):
            return arm, study.names.get((run, f"{CONTROL}{PRIMARY_ARM}"), BASELINE)
    return None


# -- the comparison table ----------------------------------------------------------------------------------------------


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and sd over folds and seeds of every metric, and the paired difference to the baseline arm."""
    rows = []
    for (arm, site, metric), mine in scores.groupby(["arm", "site", "metric"], sort=False):
        test = {} if arm == BASELINE else paired_test(scores, arm, BASELINE, site, metric)
        rows.append(table_row(arm, site, CROSS_VALIDATION, metric, mine["value"], test))
    return pd.DataFrame(rows, columns=COLUMNS)


def table_row(
    arm: str, site: str, dataset: str, metric: str, values: pd.Series, test: dict[str, float | None]
) -> dict[str, object]:
    """One row of summary.csv; test: of paired_test, or the part of it that there is."""
    row = {"arm": arm, "site": site, "dataset": dataset, "metric": metric, "mean": values.mean()}
    row |= {"sd": values.std(ddof=1) if len(values) > 1 else None, "n": len(values)}
    return row | {key: test.get(key) for key in ("diff", "low", "high", "p")} | {"n_paired": test.get("n")}


def add_adjusted(table: pd.DataFrame, contrasts: list[Contrast]) -> pd.DataFrame:
    """The table with p_holm of the comparisons with the baseline; empty for the primary contrast and other metrics."""
    adjusted = {(c.arm, c.site, ENDPOINT): c.p_holm for c in contrasts if c.reference == BASELINE}
    keys = zip(table["arm"], table["site"], table["metric"].where(table["dataset"] == CROSS_VALIDATION))
    return table.assign(p_holm=[adjusted.get(key) for key in keys])


# -- the sentence ------------------------------------------------------------------------------------------------------


def decide(p: float | None, diff: float | None) -> str:
    """higher, lower or no difference at the 5 % level, two-sided; undecided where there is no p."""
    if p is None:
        return "undecided"
    return "no difference" if p >= LEVEL else "higher" if diff > 0 else "lower"


def judge(study: Study, contrasts: list[Contrast]) -> Verdict:
    """Whether contrast helped, by how much, whether the control explains it, and what the study could have seen."""
    arms = contrastive_arms(study)
    if not arms:
        objectives = {objective_of(config) for config in study.runs.values()} - {None}
        reason = (
            "pretrain.objective is mlm" if objectives == {"mlm"} else f"none of {', '.join(OF_PRETRAINING)} is here"
        )
        return Verdict("none", f"No verdict: no arm with contrastive pre-training has been fine-tuned ({reason}).")
    primary = next((contrast for contrast in contrasts if contrast.primary), None)
    if primary is None:
        return Verdict(
            "none",
            f"No verdict: the primary comparison, F1 of {PRIMARY_ARM} against its control or the baseline on one task "
            f"(both sites), has not been run; what is here of {', '.join(arms)} stands below, adjusted by Holm's "
            "method.",
        )
    outcome = decide(primary.p, primary.diff)
    if outcome == "undecided":
        return Verdict(outcome, _undecided(primary), primary)
    lead, tail = (_with_control if primary.control else _without_control)(primary, outcome, contrasts)
    numbers = (
        f"{primary.arm} is {abs(primary.diff):.4f} {'above' if primary.diff >= 0 else 'below'} {primary.reference} in "
        f"F1 (site: {primary.site}; 95 % interval {primary.low:+.4f} to {primary.high:+.4f}, p {primary.p:.2g}, "
        f"{primary.n} folds x seeds)"
    )
    power = f"a study of this size and spread finds a true difference of {primary.smallest:.4f} in four cases of five"
    return Verdict(outcome, f"{lead}: {numbers}{tail}; {power}.", primary)


def _undecided(contrast: Contrast) -> str:
    names = f"{contrast.arm} and {contrast.reference}"
    if contrast.n == 0:
        return f"No verdict: {names} have no finished fold in common; at least two are needed."
    if contrast.n == 1:
        return (
            f"No verdict: {names} have one finished fold in common (F1 differs by {contrast.diff:+.4f}); at least two "
            "are needed."
        )
    same = "have the same F1" if contrast.diff == 0 else f"differ by exactly {contrast.diff:+.4f} in F1"
    return f"No verdict: {names} {same} in all {contrast.n} folds x seeds, so there is no spread to test against."


def _with_control(primary: Contrast, outcome: str, contrasts: list[Contrast]) -> tuple[str, str]:
    """How the sentence begins, and its clause on the control and the baseline."""
    to_baseline = {c.arm: c for c in contrasts if c.reference == BASELINE and c.site == primary.site}
    mine, control = to_baseline.get(primary.arm), to_baseline.get(primary.reference)
    versus = "no difference" if mine is None else decide(mine.p_holm, mine.diff)
    adjusted = "" if mine is None or mine.p_holm is None else f", Holm p {mine.p_holm:.2g}"
    numbers = "" if mine is None else f"{mine.diff:+.4f}{adjusted}"
    against = "" if mine is None else f"; against the baseline {_SEEN[versus]} ({numbers})"
    what = "masked-LM on the same windows for as many steps"
    if outcome == "higher":
        but = ", so the two together show less harm than the control rather than a gain" if versus == "lower" else ""
        return "Contrast helped", f", which its control, {what}, does not explain{against}{but}"
    if outcome == "lower":
        return "Contrast harmed", f", so {what} would have been the better use of them{against}"
    if versus == "higher":
        gain = "" if control is None or control.diff is None else f", where the control has {control.diff:+.4f}"
        return (
            "No difference between contrast and its control",
            f"; {primary.arm} does gain on the baseline ({numbers}{gain}), but more text or the choice by labelled "
            "windows, which the control has as well, may explain that",
        )
    return "No difference seen", against


_SEEN = {
    "higher": "a gain is seen",
    "lower": "a loss is seen",
    "no difference": "no difference is seen",
    "undecided": "there is no test",
}


def _without_control(primary: Contrast, outcome: str, contrasts: list[Contrast]) -> tuple[str, str]:
    lead = {
        "higher": "A gain after contrastive pre-training",
        "lower": "A loss after contrastive pre-training",
        "no difference": "No difference seen",
    }[outcome]
    return lead, (
        "; no control was run (pretrain.control), so contrast cannot be told from more DNA or from the choice of the "
        "checkpoint by labelled windows"
    )

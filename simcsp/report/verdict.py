"""The statistics of a comparison: which differences are tested, how they are adjusted, and what they come to in words.

Two co-primary endpoints, F1 and AUC on both sites (where every base is labelled: average precision of donors and of
acceptors), and one primary contrast, `last` against `control_last` (against the baseline where no control was run): a
fixed budget, so that no checkpoint is chosen. A claim needs both endpoints, which keeps the level without an
adjustment. The secondary comparisons, those of arms of pre-training with their controls and the baseline, are adjusted
together by Holm's method; floors, fresh weights, controls and `last` of another run are described, not tested.

The unit of inference is the pre-training seed where there are several: differences are averaged over folds, draws and
fine-tuning seeds within one, and tested by the paired t-test. That says nothing about other windows, so p is the larger
of it and of the corrected resampled t-test over folds, as of an intersection-union test (Berger 1982), and the interval
holds both of theirs: in simulated studies where one arm happens to find these windows easier, seeds alone found a
difference in a quarter of those without any (`benchmarks/simulate_verdict.py`). With one seed the unit is the fold,
which says nothing about other seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from simcsp.core.arms import BASELINE, CONTROL, FLOORS, OF_CONTROL, OF_PRETRAINING
from simcsp.metrics.distance import Distance
from simcsp.metrics.scores import corrected_ttest, equivalence_test, holm, smallest_difference
from simcsp.report.collect import CROSS_VALIDATION, JOB, Study, main_size, objective_of

COLUMNS = ("arm", "site", "dataset", "metric", "mean", "sd", "n", "diff", "low", "high", "p", "n_paired", "p_holm")
ENDPOINT, TUNED = "test/f1", "test/f1_tuned"
ENDPOINTS = {ENDPOINT: "F1", "test/auc": "AUC", "test/ap_donor": "AP of donors", "test/ap_acceptor": "AP of acceptors"}
"""Co-primary: F1 and AUC of windows, average precision of either type where every base is labelled."""
LEVEL = 0.05
PRIMARY_ARM = "last"
CHANCE = 0.55  # a validation AUC below it has learned nothing that is of use, however many windows say so
_UNIT = ["draw", "seed", "fold"]
_SPREAD = ("seed_low", "seed_high", "fold_low", "fold_high")
_OF_BOTH = ("p", "smallest", "equivalent")  # the larger of the tests over seeds and over folds


@dataclass(frozen=True)
class Contrast:
    """A score of an arm minus that of a reference, paired over pre-training seeds, or over folds, draws and seeds.

    windows: training windows of a fold, 0 for all. unit: what n counts. sd: of the differences. low, high: 95 %
    interval; p two-sided; smallest: true difference found with 80 % power; equivalent: p of two one-sided tests that
    the difference is below evaluate.smallest_effect. None where n < 2 (p also where nothing varies). Where the unit is
    the pre-training seed, seed_low to fold_high are the intervals of the two tests, low and high hold both, and p,
    smallest and equivalent are the larger. control: the reference is the arm's own
    control. p_holm: adjusted over the secondary comparisons.
    """

    arm: str
    reference: str
    site: str
    windows: int
    metric: str
    unit: str
    n: int
    sd: float | None
    diff: float | None
    low: float | None
    high: float | None
    p: float | None
    smallest: float | None
    equivalent: float | None
    seed_low: float | None
    seed_high: float | None
    fold_low: float | None
    fold_high: float | None
    control: bool
    primary: bool = False
    p_holm: float | None = None


@dataclass(frozen=True)
class Verdict:
    """outcome: higher, lower, mixed (the endpoints disagree), no difference, not interpretable, undecided (no test
    possible) or none (nothing to test). headline: one short line; details: sentences below it."""

    outcome: str
    headline: str
    details: list[str] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)


# -- paired differences ------------------------------------------------------------------------------------------------


def paired_differences(
    scores: pd.DataFrame, arm: str, reference: str, site: str, metric: str, windows: int
) -> pd.DataFrame:
    """pretrain_seed, draw, seed, fold, ratio and value (the difference) of the fits that both arms have.

    An arm without a pre-training seed of its own, such as the baseline, is paired with every seed of the other.
    """
    here = scores[(scores["site"] == site) & (scores["metric"] == metric) & (scores["train_windows"] == windows)]
    one, other = (here[here["arm"] == name][["pretrain_seed", *_UNIT, "ratio", "value"]] for name in (arm, reference))
    seeded = (one["pretrain_seed"] >= 0).any() and (other["pretrain_seed"] >= 0).any()
    both = one.merge(other, on=["pretrain_seed", *_UNIT] if seeded else _UNIT, suffixes=("", "_other"))
    if not seeded and (other["pretrain_seed"] >= 0).any():
        both["pretrain_seed"] = both["pretrain_seed_other"]
    return both.assign(value=both["value"] - both["value_other"])[["pretrain_seed", *_UNIT, "ratio", "value"]]


def paired_test(
    scores: pd.DataFrame, arm: str, reference: str, site: str, metric: str, windows: int, margin: float
) -> dict[str, object]:
    """unit, n, sd, diff, low, high, p, smallest, equivalent and seed_low to fold_high of `paired_differences`."""
    found = paired_differences(scores, arm, reference, site, metric, windows)
    by_fold = found.groupby(["seed", "fold"])["value"].mean().to_numpy()  # over draws and pre-training seeds
    by_seed = found.groupby("pretrain_seed")["value"].mean().to_numpy()
    folds = difference_test(by_fold, found["ratio"].mean(), margin)
    if len(by_seed) < 2:
        return {"unit": "folds x seeds", **folds, **dict.fromkeys(_SPREAD)}
    seeds = difference_test(by_seed, 0.0, margin)
    spread = dict(zip(_SPREAD, (seeds["low"], seeds["high"], folds["low"], folds["high"])))
    tests = [test for test in (seeds, folds) if test["low"] is not None]
    both = {key: max((test[key] for test in tests if test[key] is not None), default=None) for key in _OF_BOTH}
    both |= {"low": min(test["low"] for test in tests), "high": max(test["high"] for test in tests)}
    return {"unit": "pre-training seeds", **seeds, **both, **spread}


def difference_test(differences: np.ndarray, ratio: float, margin: float) -> dict[str, float | None]:
    """n, sd, diff, low, high, p, smallest and equivalent from paired differences [n].

    ratio: of test to training windows, 0 for differences that are independent.
    """
    n = len(differences)
    if n == 0:
        return {"n": 0, **dict.fromkeys(("sd", "diff", "low", "high", "p", "smallest", "equivalent"))}
    sd = float(np.std(differences, ddof=1)) if n > 1 else None
    smallest = smallest_difference(sd, n, ratio) if sd is not None else None
    test = corrected_ttest(differences, ratio)
    return {"n": n, "sd": sd, **test, "smallest": smallest, "equivalent": equivalence_test(differences, margin, ratio)}


def find_contrasts(study: Study) -> list[Contrast]:
    """Every comparison of F1 and AUC: the primary ones first, then the secondary, adjusted (Holm 1979), then others."""
    scores, arms = study.scores, list(dict.fromkeys(study.scores["arm"]))
    pairs = [(arm, control, True) for arm, control in study.pairs()]
    if BASELINE in arms:
        pairs += [(arm, BASELINE, False) for arm in arms if arm != BASELINE]
    primary, main, margin = _primary_pair(study), main_size(scores), smallest_effect(study)
    pairs += _beside(study, primary)
    endpoint, described, found = _endpoint_site(scores), _described(study), []
    for (site, windows), here in scores.groupby(["site", "train_windows"], sort=False):
        there = set(here["arm"])
        for arm, reference, control in [pair for pair in pairs if {*pair[:2]} <= there]:
            is_primary = (site, windows) == (endpoint, main) and (arm, reference) == primary
            for metric in [metric for metric in ENDPOINTS if (here["metric"] == metric).any()]:
                test = paired_test(scores, arm, reference, site, metric, windows, margin)
                job = {"arm": arm, "reference": reference, "site": site, "windows": windows, "metric": metric}
                found.append(Contrast(**job, **test, control=control, primary=is_primary))
    secondary = [one.control or (one.reference == BASELINE and one.arm not in described) for one in found]
    rank = [0 if one.primary else 1 if tested else 2 for one, tested in zip(found, secondary)]
    tested = [i for i, one in enumerate(found) if rank[i] == 1 and one.p is not None]
    for i, p in zip(tested, holm(np.array([found[i].p for i in tested]))):
        found[i] = dataclasses.replace(found[i], p_holm=float(p))
    return [found[i] for i in np.argsort(rank, kind="stable")]


def _beside(study: Study, primary: tuple[str, str] | None) -> list[tuple[str, str, bool]]:
    """Pairs that are described: the primary arm with the floors, fresh weights, and `last` of other runs.

    Without a primary arm `resnet`, of the models of labels alone the one to beat, with the other floors.
    """
    first, kinds = (primary[0], (*FLOORS, "fresh", PRIMARY_ARM)) if primary else ("resnet", FLOORS)
    others = dict.fromkeys(name for (_, arm), name in study.names.items() if arm in kinds)
    return [(first, other, False) for other in others if other not in (first, *(primary or ()))]


def smallest_effect(study: Study) -> float:
    """evaluate.smallest_effect of the first run."""
    return next(iter(study.runs.values())).evaluate.smallest_effect


def _endpoint_site(scores: pd.DataFrame) -> str | None:
    sites = list(dict.fromkeys(scores["site"]))
    return "both" if "both" in sites else sites[0] if len(sites) == 1 else None


def _described(study: Study) -> set[str]:
    """Arms, under the report's names, whose differences are shown and not tested."""
    return {name for (_, arm), name in study.names.items() if arm in (*FLOORS, "fresh", *OF_CONTROL)}


def contrastive_arms(study: Study) -> list[str]:
    """Arms of pre-training by a contrastive objective, under the names of the report."""
    runs = [run for run, config in study.runs.items() if objective_of(config) != "mlm"]
    names = [study.names.get((run, arm)) for run in runs for arm in OF_PRETRAINING]
    return list(dict.fromkeys(name for name in names if name is not None))


def _primary_pair(study: Study) -> tuple[str, str] | None:
    """`last` of the first run that has one from contrast, and its control, else the baseline."""
    for run in study.runs:
        arm = study.names.get((run, PRIMARY_ARM))
        if arm in contrastive_arms(study):
            return arm, study.names.get((run, f"{CONTROL}{PRIMARY_ARM}"), BASELINE)
    return None


# -- the comparison table ----------------------------------------------------------------------------------------------


def compare(scores: pd.DataFrame, margin: float) -> pd.DataFrame:
    """summary.csv's rows of cross-validation: mean, sd, n, and the paired difference to the baseline.

    All metrics of `main_size` training windows, and the endpoints of any other size as `test/auc@200`. What is measured
    before fine-tuning is one number an arm, however many folds say it: it has no spread over them.
    """
    main, rows = main_size(scores), []
    here = scores[(scores["train_windows"] == main) | scores["metric"].isin(ENDPOINTS)]
    for (windows, arm, site, metric), mine in here.groupby(["train_windows", "arm", "site", "metric"], sort=False):
        test = {}
        if metric.startswith("before/"):
            mine = pd.DataFrame({"value": [mine["value"].mean()]})
        elif arm != BASELINE:
            test = paired_test(scores, arm, BASELINE, site, metric, windows, margin)
        name = metric if windows == main else f"{metric}@{windows}"
        rows.append(table_row(arm, site, CROSS_VALIDATION, name, mine["value"], test))
    return pd.DataFrame(rows, columns=COLUMNS)


def table_row(
    arm: str, site: str, dataset: str, metric: str, values: pd.Series, test: Mapping[str, object]
) -> dict[str, object]:
    """One row of summary.csv; test: of paired_test, or the part of it that there is."""
    row = {"arm": arm, "site": site, "dataset": dataset, "metric": metric, "mean": values.mean()}
    row |= {"sd": values.std(ddof=1) if len(values) > 1 else None, "n": len(values)}
    return row | {key: test.get(key) for key in ("diff", "low", "high", "p")} | {"n_paired": test.get("n")}


def add_adjusted(table: pd.DataFrame, contrasts: list[Contrast], windows: int) -> pd.DataFrame:
    """The table with p_holm of the secondary comparisons with the baseline; empty elsewhere. windows: of the table."""
    here = [one for one in contrasts if one.reference == BASELINE and one.windows == windows]
    adjusted = {(one.arm, one.site, one.metric): one.p_holm for one in here}
    keys = zip(table["arm"], table["site"], table["metric"].where(table["dataset"] == CROSS_VALIDATION))
    return table.assign(p_holm=[adjusted.get(key) for key in keys])


# -- the verdict -------------------------------------------------------------------------------------------------------


def decide(p: float | None, diff: float | None) -> str:
    """higher, lower or no difference at the 5 % level, two-sided; undecided where there is no p."""
    if p is None:
        return "undecided"
    return "no difference" if p >= LEVEL else "higher" if diff > 0 else "lower"


def judge(study: Study, contrasts: list[Contrast], distances: Mapping[str, list[Distance]] | None = None) -> Verdict:
    """Whether contrast helped, by how much, whether the control explains it, and what the study could have seen.

    distances: {arm: how far it moved from the start under each pre-training seed}, where checkpoints are there.
    """
    arms = contrastive_arms(study)
    if not arms:
        objectives = {objective_of(config) for config in study.runs.values()} - {None}
        none = "pretrain.objective is mlm" if objectives == {"mlm"} else f"none of {', '.join(OF_PRETRAINING)} is here"
        return Verdict("none", f"No verdict: no arm with contrastive pre-training has been fine-tuned ({none}).")
    primary = [contrast for contrast in contrasts if contrast.primary]
    if not primary:
        return Verdict(
            "none",
            f"No verdict: {PRIMARY_ARM} has not been fine-tuned beside its control or the baseline.",
            [
                "The primary comparison is that of F1 and AUC on one task (both sites). What is here of "
                f"{', '.join(arms)} stands below, adjusted by Holm's method."
            ],
        )
    first, moved = primary[0], _travelled(distances or {})
    if lacking := [line for arm in (first.arm, first.reference) for line in not_learned(study, arm, first)]:
        return Verdict("not interpretable", f"Not interpretable: {'; '.join(lacking)}", moved, primary)
    outcomes = [decide(one.p, one.diff) for one in primary]
    if outcomes[0] == "undecided":
        return Verdict("undecided", _undecided(first), moved, primary)
    outcome = outcomes[0] if len(set(outcomes)) == 1 else "mixed"
    shown = primary if outcome == "mixed" else primary[:1]
    headline = f"{_lead(outcome, first, primary)}: {first.arm} - {first.reference} = "
    headline += ", ".join(f"{one.diff:+.3f} {ENDPOINTS[one.metric]} [{one.low:+.3f}, {one.high:+.3f}]" for one in shown)
    details = [_numbers(primary), _meaning(outcome, primary, contrasts), _tuned(study, first), _null(study, primary)]
    details += [_power(primary), _seeds(first), *moved]
    return Verdict(outcome, headline, [line for line in details if line], primary)


def not_learned(study: Study, arm: str, contrast: Contrast) -> list[str]:
    """Why an arm's scores say nothing: validation AUC at chance, or one class called throughout; empty if it learned.

    Chance ends at .55, or two standard errors above .5 for the validation windows of a fold where those are few.
    """
    scores = study.scores[(study.scores["arm"] == arm) & (study.scores["site"] == contrast.site)]
    scores = scores[scores["train_windows"] == contrast.windows]
    validation = scores[scores["metric"] == "val/auc"]
    if len(validation):
        n = validation["val"].mean()
        chance = max(CHANCE, 0.5 + 2 * np.sqrt((n + 1) / (3 * n * n)))  # sd of AUC under no relation, n / 2 a class
        if validation["value"].mean() < chance:
            return [f"{arm} did not learn (validation AUC {validation['value'].mean():.2f}, chance)"]
    mine = study.predictions
    mine = mine[(mine["arm"] == arm) & (mine["site"] == contrast.site) & (mine["train_windows"] == contrast.windows)]
    called = (mine["probability"] > 0.5).groupby([mine[column] for column in JOB]).mean()
    constant = called.isin([0.0, 1.0])
    return [f"{arm} did not learn (all one class in {constant.sum()} folds)"] if constant.mean() > 0.5 else []


def _lead(outcome: str, first: Contrast, primary: list[Contrast]) -> str:
    if outcome == "mixed":
        found = {ENDPOINTS[one.metric]: decide(one.p, one.diff) for one in primary}
        return "Mixed: " + ", ".join(f"{name} {what}" for name, what in found.items())
    if first.control:
        leads = {"higher": "Contrast helped", "lower": "Contrast harmed", "no difference": "No difference seen"}
    else:
        leads = {"higher": "Higher after contrast", "lower": "Lower after contrast"}
    return leads.get(outcome, "No difference seen")


def _undecided(contrast: Contrast) -> str:
    names, score = f"{contrast.arm} and {contrast.reference}", ENDPOINTS[contrast.metric]
    if contrast.n == 0:
        return f"No verdict: {names} have no finished fold in common; at least two are needed."
    if contrast.n == 1:
        difference = f"{score} differs by {contrast.diff:+.4f}"
        return f"No verdict: {names} have one finished fold in common ({difference}); at least two are needed."
    same = f"have the same {score}" if contrast.diff == 0 else f"differ by exactly {contrast.diff:+.4f} in {score}"
    return f"No verdict: {names} {same} in all {contrast.n} {contrast.unit}, so there is no spread to test against."


def _numbers(primary: list[Contrast]) -> str:
    """The co-primary endpoints with interval and p, and what n counts."""
    parts = []
    for one in primary:
        p = "" if one.p is None else f", p {one.p:.2g}"
        parts.append(f"{ENDPOINTS[one.metric]} {one.diff:+.4f} (95 % interval {one.low:+.4f} to {one.high:+.4f}{p})")
    first = primary[0]
    trained = f", {first.windows} training windows" if first.windows else ""
    spread = ""
    if first.fold_low is not None:
        spread = f"; {ENDPOINTS[first.metric]} over seeds alone {first.seed_low:+.4f} to {first.seed_high:+.4f}, "
        spread += f"over folds alone {first.fold_low:+.4f} to {first.fold_high:+.4f}"
    return (
        f"{first.arm} minus {first.reference}: {'; '.join(parts)}; {first.n} {first.unit}, site: {first.site}{trained}"
        f"{spread}."
    )


def _meaning(outcome: str, primary: list[Contrast], contrasts: list[Contrast]) -> str:
    """What the control and the baseline say about it."""
    first = primary[0]
    if not first.control:
        return (
            "No control was run (pretrain.control), so contrast cannot be told from more DNA: the baseline has seen "
            "less of it."
        )
    here = [
        one for one in contrasts if (one.site, one.windows, one.metric) == (first.site, first.windows, first.metric)
    ]
    to_baseline = {one.arm: one for one in here if one.reference == BASELINE}
    mine, control = to_baseline.get(first.arm), to_baseline.get(first.reference)
    if mine is None or mine.diff is None:
        return ""
    versus = decide(mine.p_holm, mine.diff)
    adjusted = "" if mine.p_holm is None else f", Holm p {mine.p_holm:.2g}"
    against = f"Against the baseline {_SEEN[versus]} ({mine.diff:+.4f} {ENDPOINTS[first.metric]}{adjusted}"
    against += ")." if control is None or control.diff is None else f"; the control has {control.diff:+.4f})."
    if outcome == "higher" and versus == "lower":
        return f"{against} So contrast did less harm than the control, which is no gain."
    if outcome == "no difference" and versus == "higher":
        return f"{against} More text alone, which the control has as well, may explain that."
    return against


_SEEN = {
    "higher": "a gain is seen",
    "lower": "a loss is seen",
    "no difference": "no difference is seen",
    "undecided": "there is no test",
}


def _tuned(study: Study, first: Contrast) -> str:
    """The primary difference in F1 at the threshold of validation; empty for folds that were made before it was."""
    at = (first.arm, first.reference, first.site, TUNED, first.windows)
    test = paired_test(study.scores, *at, smallest_effect(study))
    if test["low"] is None:
        return ""
    interval = f"[{test['low']:+.4f}, {test['high']:+.4f}]"
    return f"F1 at the threshold that is best on validation: {test['diff']:+.4f} {interval}."


def _null(study: Study, primary: list[Contrast]) -> str:
    """Whether differences that matter are ruled out."""
    margin, parts = smallest_effect(study), []
    for one in primary:
        if one.equivalent is not None:
            what = "equal" if one.equivalent < LEVEL else "not shown to be equal"
            parts.append(
                f"{ENDPOINTS[one.metric]} {what} within ±{margin:g} (two one-sided tests, p {one.equivalent:.2g})"
            )
    return f"{'; '.join(parts)}." if parts else ""


def _power(primary: list[Contrast]) -> str:
    found = ", ".join(f"{one.smallest:.4f} {ENDPOINTS[one.metric]}" for one in primary if one.smallest is not None)
    return f"Minimum detectable effect at 80 % power: {found}."


def _seeds(first: Contrast) -> str:
    if first.unit == "pre-training seeds":
        return ""
    return "One pre-training seed: the interval is that of these checkpoints, and leaves out how pre-training varies."


def _travelled(distances: Mapping[str, list[Distance]]) -> list[str]:
    """How far each checkpoint is from the start; of several pre-training seeds the mean."""
    parts = []
    for arm, of_seeds in distances.items():
        steps = sorted({moved.step for moved in of_seeds})
        seeds = "" if len(of_seeds) == 1 else f", mean of {len(of_seeds)} pre-training seeds"
        weights = np.mean([moved.weights for moved in of_seeds])
        vectors = ""
        if all(moved.cosine is not None for moved in of_seeds):
            cosine, cka = np.mean([(moved.cosine, moved.cka) for moved in of_seeds], axis=0)
            vectors = f", cosine {cosine:.3f} and CKA {cka:.3f} to the start"
        step = f"step {steps[0]}" if len(steps) == 1 else f"step {steps[0]} to {steps[-1]}"
        parts.append(f"{arm} is {step} (weights changed by {weights:.2%}{vectors}{seeds})")
    return [f"Distance from the start: {'; '.join(parts)}."] if parts else []

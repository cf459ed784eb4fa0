"""The statistics of a comparison: which differences are tested, how they are adjusted, and the verdict in words.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from simcsp.core.arms import BASELINE, CONTROL, FLOORS, OF_CONTROL, OF_PRETRAINING, is_trained
from simcsp.core.errors import InputError
from simcsp.metrics.distance import Distance
from simcsp.metrics.scores import chance_auc, corrected_ttest, equivalence_test, holm, smallest_difference
from simcsp.report.collect import CROSS_VALIDATION, FIT, Comparison, main_size, objective_of, proxy_values, rows_where

COLUMNS = ("arm", "site", "dataset", "metric", "mean", "sd", "n", "diff", "low", "high", "p", "n_paired", "p_holm")
ENDPOINT, TUNED = "test/f1", "test/f1_tuned"
ENDPOINTS = {ENDPOINT: "F1", "test/auc": "AUC", "test/ap_donor": "AP of donors", "test/ap_acceptor": "AP of acceptors"}
"""Co-primary: F1 and AUC of windows, average precision of either type where every base is labelled."""
OF_BASES, MEAN_AP = "test/ap_donor", "test/ap"
NAMES = ENDPOINTS | {MEAN_AP: "AP, mean of both types"}
"""Of every base the mean of both types too, which is described, not tested."""
LEVEL = 0.05
PRIMARY_ARM = "last"
_UNIT = ["draw", "seed", "fold"]


@dataclass(frozen=True)
class PairedTest:
    """A test of paired differences. n: their number; sd: of them; diff: their mean; low, high: its 95 % interval; p:
    two-sided; smallest: the true difference that is found with 80 % power; equivalent: p of two one-sided tests that it
    is below evaluate.smallest_effect. None where n < 2 (p also where nothing varies)."""

    n: int
    sd: float | None = None
    diff: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest: float | None = None
    equivalent: float | None = None


@dataclass(frozen=True)
class PairedTests:
    """The same differences over folds (x seeds of fine-tuning) and, of several pre-training seeds, over those."""

    folds: PairedTest
    seeds: PairedTest | None = None

    @property
    def unit(self) -> str:
        return "folds x seeds" if self.seeds is None else "pre-training seeds"

    @property
    def both(self) -> PairedTest:
        """What must hold over either: p, smallest and equivalent are the larger, the interval holds both; the rest is
        of the unit of inference."""
        if self.seeds is None:
            return self.folds
        tests = [test for test in (self.seeds, self.folds) if test.low is not None]
        larger = {}
        for name in ("p", "smallest", "equivalent", "high"):
            values = [getattr(test, name) for test in tests]
            larger[name] = max((value for value in values if value is not None), default=None)
        return dataclasses.replace(self.seeds, low=min(test.low for test in tests), **larger)


@dataclass(frozen=True)
class Contrast:
    """A score of an arm minus that of a reference, paired.

    windows: training windows of a fold, 0 for all. control: the reference is the arm's own control. p_holm: adjusted
    over the secondary comparisons.
    """

    arm: str
    reference: str
    site: str
    windows: int
    metric: str
    tests: PairedTests
    control: bool
    primary: bool = False
    p_holm: float | None = None

    @property
    def test(self) -> PairedTest:
        """The reported test: over both kinds of unit if there are both."""
        return self.tests.both

    @property
    def interval(self) -> str:
        """The difference with its interval, three digits."""
        return f"{self.test.diff:+.3f} {NAMES[self.metric]} [{self.test.low:+.3f}, {self.test.high:+.3f}]"

    def row(self) -> dict[str, object]:
        """A row of contrasts.csv; seed_low to fold_high where there are both kinds of unit."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tests: PairedTests = values.pop("tests")
        flags = {name: values.pop(name) for name in ("control", "primary", "p_holm")}
        units = {"seed": tests.seeds, "fold": None if tests.seeds is None else tests.folds}
        spread = {f"{unit}_{end}": getattr(test, end, None) for unit, test in units.items() for end in ("low", "high")}
        return values | {"unit": tests.unit} | dataclasses.asdict(tests.both) | spread | flags


def contrast_rows(contrasts: list[Contrast]) -> pd.DataFrame:
    blank = Contrast("", "", "", 0, "", PairedTests(PairedTest(0)), False)
    return pd.DataFrame([contrast.row() for contrast in contrasts], columns=list(blank.row()))


@dataclass(frozen=True)
class Verdict:
    """outcome: higher, lower, mixed (the endpoints disagree), no difference, not interpretable, undecided (no test
    possible) or none (nothing to test). headline: one short line; details: sentences below it. supported: contrast is
    above its reference, and above every floor too."""

    outcome: str
    headline: str
    details: list[str] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    supported: bool = False


# -- paired differences ------------------------------------------------------------------------------------------------


def paired_differences(
    scores: pd.DataFrame, arm: str, reference: str, site: str, metric: str, windows: int
) -> pd.DataFrame:
    """pretrain_seed, draw, seed, fold, ratio and value (the difference) of the fits that both arms have.

    An arm without a pre-training seed of its own, such as the baseline, is paired with every seed of the other.
    """
    of_site = rows_where(scores, site=site, metric=metric, train_windows=windows)
    columns = ["pretrain_seed", *_UNIT, "ratio", "value"]
    one, other = (rows_where(of_site, arm=name)[columns] for name in (arm, reference))
    seeded = (one["pretrain_seed"] >= 0).any() and (other["pretrain_seed"] >= 0).any()
    both = one.merge(other, on=["pretrain_seed", *_UNIT] if seeded else _UNIT, suffixes=("", "_other"))
    if not seeded and (other["pretrain_seed"] >= 0).any():
        both["pretrain_seed"] = both["pretrain_seed_other"]
    return both.assign(value=both["value"] - both["value_other"])[columns]


def paired_tests(
    scores: pd.DataFrame, arm: str, reference: str, site: str, metric: str, windows: int, margin: float
) -> PairedTests:
    """The tests of `paired_differences`; over folds alone where one arm was pre-trained under one seed, whose variation
    is then not known. margin: evaluate.smallest_effect."""
    differences = paired_differences(scores, arm, reference, site, metric, windows)
    by_fold = differences.groupby(["seed", "fold"])["value"].mean().to_numpy()  # over draws and pre-training seeds
    by_seed = differences.groupby("pretrain_seed")["value"].mean().to_numpy()
    folds = difference_test(by_fold, differences["ratio"].mean(), margin)
    of_one_seed = [
        is_trained(name) and (rows_where(scores, arm=name)["pretrain_seed"] < 0).all() for name in (arm, reference)
    ]
    several = len(by_seed) > 1 and not any(of_one_seed)
    return PairedTests(folds, difference_test(by_seed, 0.0, margin) if several else None)


def difference_test(differences: np.ndarray, ratio: float, margin: float) -> PairedTest:
    """The test of paired differences [n]. ratio: of test to training windows, 0 for independent differences."""
    n = len(differences)
    if n < 2:
        return PairedTest(n, diff=float(differences[0]) if n else None)
    sd = float(np.std(differences, ddof=1))
    smallest, equivalent = smallest_difference(sd, n, ratio), equivalence_test(differences, margin, ratio)
    return PairedTest(n, sd, **corrected_ttest(differences, ratio), smallest=smallest, equivalent=equivalent)


def find_contrasts(comparison: Comparison, described: Sequence[tuple[str, str]] = ()) -> list[Contrast]:
    """Every comparison of F1 and AUC: the primary ones first, then the secondary, adjusted (Holm 1979), then others.

    described: (arm, reference) of more of the others."""
    scores, primary, margin = comparison.scores, _primary_pair(comparison), smallest_effect(comparison)
    pairs, main_cut = _pairs(comparison, primary, described), (_endpoint_site(scores), main_size(scores))
    contrasts: list[Contrast] = []
    for (site, windows), of_site in scores.groupby(["site", "train_windows"], sort=False):
        for arm, reference, control in [pair for pair in pairs if {*pair[:2]} <= set(of_site["arm"])]:
            is_primary = (site, windows) == main_cut and (arm, reference) == primary
            for metric in _compared_metrics(of_site):
                tests, tested = paired_tests(scores, arm, reference, site, metric, windows, margin), metric in ENDPOINTS
                contrasts.append(Contrast(arm, reference, site, windows, metric, tests, control, is_primary and tested))
    not_adjusted = {name for (_, arm), name in comparison.names.items() if arm in (*FLOORS, "fresh", *OF_CONTROL)}
    of_rank = [[one for one in contrasts if _rank(one, not_adjusted) == rank] for rank in range(3)]
    return [*of_rank[0], *_adjusted(of_rank[1]), *of_rank[2]]


def _compared_metrics(scores: pd.DataFrame) -> list[str]:
    """The endpoints that are there; of every base the mean of both types too."""
    measured = set(scores["metric"])
    return [metric for metric in ENDPOINTS if metric in measured] + ([MEAN_AP] if OF_BASES in measured else [])


def _rank(one: Contrast, described: set[str]) -> int:
    """0: primary; 1: secondary; 2: described and not adjusted for."""
    if one.primary:
        return 0
    if one.metric not in ENDPOINTS:
        return 2
    return 1 if one.control or (one.reference == BASELINE and one.arm not in described) else 2


def _pairs(
    comparison: Comparison, primary: tuple[str, str] | None, described: Sequence[tuple[str, str]]
) -> list[tuple[str, str, bool]]:
    """(arm, reference, whether that is its control) of all comparisons. described: by their names here, or as run:arm.
    Raises InputError for an unknown arm."""
    arms = list(dict.fromkeys(comparison.scores["arm"]))
    by_run = {f"{run}:{arm}": name for (run, arm), name in comparison.names.items()}
    described = dict.fromkeys((by_run.get(one, one), by_run.get(other, other)) for one, other in described)
    if unknown := {name for pair in described for name in pair}.difference(arms):
        raise InputError(f"{', '.join(sorted(unknown))}: no arm of these runs; there are {', '.join(arms)}")
    pairs = [(arm, control, True) for arm, control in comparison.pairs()]
    pairs += [(arm, BASELINE, False) for arm in arms if arm != BASELINE and BASELINE in arms]
    pairs += _beside(comparison, primary)
    return pairs + [(*pair, False) for pair in described if pair not in {of_report[:2] for of_report in pairs}]


def _adjusted(contrasts: list[Contrast]) -> list[Contrast]:
    adjusted = iter(holm(np.array([one.test.p for one in contrasts if one.test.p is not None])))
    return [one if one.test.p is None else dataclasses.replace(one, p_holm=float(next(adjusted))) for one in contrasts]


def _beside(comparison: Comparison, primary: tuple[str, str] | None) -> list[tuple[str, str, bool]]:
    """Pairs that are described: the primary arm with the floors, fresh weights, and `last` of other runs."""
    if primary is None:
        return []
    kinds = (*FLOORS, "fresh", PRIMARY_ARM)
    others = dict.fromkeys(name for (_, arm), name in comparison.names.items() if arm in kinds)
    return [(primary[0], other, False) for other in others if other not in primary]


def smallest_effect(comparison: Comparison) -> float:
    return next(iter(comparison.runs.values())).evaluate.smallest_effect


def _endpoint_site(scores: pd.DataFrame) -> str | None:
    sites = list(dict.fromkeys(scores["site"]))
    return "both" if "both" in sites else sites[0] if len(sites) == 1 else None


def contrastive_arms(comparison: Comparison) -> list[str]:
    """Arms of pre-training by a contrastive objective, under the names of the report."""
    runs = [run for run, config in comparison.runs.items() if objective_of(config) != "mlm"]
    names = [comparison.names.get((run, arm)) for run in runs for arm in OF_PRETRAINING]
    return list(dict.fromkeys(name for name in names if name is not None))


def _primary_pair(comparison: Comparison) -> tuple[str, str] | None:
    for run in comparison.runs:
        arm = comparison.names.get((run, PRIMARY_ARM))
        if arm in contrastive_arms(comparison):
            return arm, comparison.names.get((run, f"{CONTROL}{PRIMARY_ARM}"), BASELINE)
    return None


# -- the comparison table ----------------------------------------------------------------------------------------------


def compare(scores: pd.DataFrame, margin: float) -> pd.DataFrame:
    """summary.csv's rows of cross-validation: mean, sd, n, and the paired difference to the baseline.

    All metrics of `main_size` training windows, and the endpoints of any other size as `test/auc@200`. What is measured
    before fine-tuning is one number an arm, however many folds say it: it has no spread over them.
    """
    main, rows = main_size(scores), []
    shown = scores[(scores["train_windows"] == main) | scores["metric"].isin(ENDPOINTS)]
    for (windows, arm, site, metric), of_arm in shown.groupby(["train_windows", "arm", "site", "metric"], sort=False):
        values, test = of_arm["value"], None
        if metric.startswith("before/"):
            values = pd.Series([values.mean()])
        elif arm != BASELINE:
            test = paired_tests(scores, arm, BASELINE, site, metric, windows, margin).both
        name = metric if windows == main else f"{metric}@{windows}"
        rows.append(table_row(arm, site, CROSS_VALIDATION, name, values, test))
    return pd.DataFrame(rows, columns=COLUMNS)


def table_row(
    arm: str, site: str, dataset: str, metric: str, values: pd.Series, test: PairedTest | None = None
) -> dict[str, object]:
    """One row of summary.csv; test: of the difference to the baseline, where there is one."""
    row = {"arm": arm, "site": site, "dataset": dataset, "metric": metric, "mean": values.mean()}
    row |= {"sd": values.std(ddof=1) if len(values) > 1 else None, "n": len(values)}
    row |= {key: getattr(test, key, None) for key in ("diff", "low", "high", "p")}
    return row | {"n_paired": getattr(test, "n", None)}


def add_adjusted(table: pd.DataFrame, contrasts: list[Contrast], windows: int) -> pd.DataFrame:
    """The table with p_holm of the secondary comparisons with the baseline; empty elsewhere. windows: of the table."""
    to_baseline = [one for one in contrasts if one.reference == BASELINE and one.windows == windows]
    adjusted = {(one.arm, one.site, one.metric): one.p_holm for one in to_baseline}
    keys = zip(table["arm"], table["site"], table["metric"].where(table["dataset"] == CROSS_VALIDATION))
    return table.assign(p_holm=[adjusted.get(key) for key in keys])


# -- the verdict -------------------------------------------------------------------------------------------------------


def decide(p: float | None, diff: float | None) -> str:
    """higher, lower or no difference at the 5 % level, two-sided; undecided where there is no p."""
    if p is None:
        return "undecided"
    return "no difference" if p >= LEVEL else "higher" if diff > 0 else "lower"


def judge(
    comparison: Comparison, contrasts: list[Contrast], distances: Mapping[str, list[Distance]] | None = None
) -> Verdict:
    """Whether contrast helped, by how much, whether the control explains it, and what the study could have seen.

    distances: {arm: how far it moved from the start under each pre-training seed}, where checkpoints are there.
    """
    primary = [contrast for contrast in contrasts if contrast.primary]
    if not primary:
        return _no_verdict(comparison)
    first, moved = primary[0], _travelled(distances or {})
    if lacking := [line for arm in (first.arm, first.reference) for line in not_learned(comparison, arm, first)]:
        return Verdict("not interpretable", f"Not interpretable: {'; '.join(lacking)}", moved, primary)
    outcomes = [decide(one.test.p, one.test.diff) for one in primary]
    if outcomes[0] == "undecided":
        return Verdict("undecided", _undecided(first), moved, primary)
    outcome = outcomes[0] if len(set(outcomes)) == 1 else "mixed"
    above_floors = above_best_floor(comparison, first)
    details = [_numbers(primary), _meaning(outcome, primary, contrasts)]
    details += [_proxy_disagreement(comparison, contrasts, first), _tuned(comparison, first)]
    details += [_null(comparison, primary), _power(primary), _seeds(first), *moved]
    supported = outcome == "higher" and above_floors is not None and above_floors.difference > 0
    headline = _headline(outcome, primary, above_floors)
    return Verdict(outcome, headline, [line for line in details if line], primary, supported)


def _no_verdict(comparison: Comparison) -> Verdict:
    if arms := contrastive_arms(comparison):
        return Verdict(
            "none",
            f"No verdict: {PRIMARY_ARM} has not been fine-tuned beside its control or the baseline.",
            [
                "The primary comparison is F1 and AUC on one task (both sites). Comparisons of "
                f"{', '.join(arms)} are listed below, adjusted by Holm's method."
            ],
        )
    objectives = {objective_of(config) for config in comparison.runs.values()} - {None}
    none = "pretrain.objective is mlm" if objectives == {"mlm"} else f"none of {', '.join(OF_PRETRAINING)} is here"
    return Verdict("none", f"No verdict: no arm with contrastive pre-training has been fine-tuned ({none}).")


class FloorGap(NamedTuple):
    """The primary arm's mean score minus that of the best floor, and the same in words."""

    difference: float
    sentence: str


def above_best_floor(comparison: Comparison, first: Contrast) -> FloorGap | None:
    """Where the primary arm stands against the best floor of its site and labels; None without floors."""
    scores = rows_where(comparison.scores, site=first.site, metric=first.metric, train_windows=first.windows)
    means = scores.groupby("arm")["value"].mean()
    floors = {name for (_, arm), name in comparison.names.items() if arm in FLOORS} & set(means.index)
    if not floors or first.arm not in means.index:
        return None
    best = means[sorted(floors)].idxmax()
    difference = float(means[first.arm] - means[best])
    place = f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"
    return FloorGap(difference, f"{place} the best floor, {best} ({means[best]:.3f})")


def not_learned(comparison: Comparison, arm: str, contrast: Contrast) -> list[str]:
    """Why an arm's scores are not interpretable: validation AUC at chance (`chance_auc`, with as many windows of either
    class), or one class called throughout; empty if it learned."""
    of_arm = {"arm": arm, "site": contrast.site, "train_windows": contrast.windows}
    validation = rows_where(comparison.scores, metric="val/auc", **of_arm)
    if len(validation):
        half, auc = validation["val"].mean() / 2, validation["value"].mean()
        if auc <= chance_auc(half, half):
            return [f"{arm} did not learn (validation AUC {auc:.2f}, chance)"]
    predictions = rows_where(comparison.predictions, **of_arm)
    called = (predictions["probability"] > 0.5).groupby([predictions[column] for column in FIT]).mean()
    constant = called.isin([0.0, 1.0])
    return [f"{arm} did not learn (all one class in {constant.sum()} folds)"] if constant.mean() > 0.5 else []


def _headline(outcome: str, primary: list[Contrast], above_floors: FloorGap | None) -> str:
    first = primary[0]
    differences = ", ".join(one.interval for one in (primary if outcome == "mixed" else primary[:1]))
    line = f"{_lead(outcome, first, primary)}: {first.arm} - {first.reference} = {differences}"
    return line if above_floors is None else f"{line}; {above_floors.sentence}"


def _lead(outcome: str, first: Contrast, primary: list[Contrast]) -> str:
    if outcome == "mixed":
        outcomes = {ENDPOINTS[one.metric]: decide(one.test.p, one.test.diff) for one in primary}
        return "Mixed: " + ", ".join(f"{name} {what}" for name, what in outcomes.items())
    if first.control:
        leads = {"higher": "Contrast helped", "lower": "Contrast harmed", "no difference": "No difference seen"}
    else:
        leads = {"higher": "Higher after contrast", "lower": "Lower after contrast"}
    return leads.get(outcome, "No difference seen")


def _undecided(contrast: Contrast) -> str:
    names, score = f"{contrast.arm} and {contrast.reference}", ENDPOINTS[contrast.metric]
    test = contrast.test
    if test.n == 0:
        return f"No verdict: {names} have no finished fold in common; at least two are needed."
    if test.n == 1:
        difference = f"{score} differs by {test.diff:+.4f}"
        return f"No verdict: {names} have one finished fold in common ({difference}); at least two are needed."
    same = f"have the same {score}" if test.diff == 0 else f"differ by exactly {test.diff:+.4f} in {score}"
    return f"No verdict: {names} {same} in all {test.n} {contrast.tests.unit}, so there is no variance to test against."


def _numbers(primary: list[Contrast]) -> str:
    parts = []
    for metric, test in [(one.metric, one.test) for one in primary]:
        p = "" if test.p is None else f", p {test.p:.2g}"
        parts.append(f"{ENDPOINTS[metric]} {test.diff:+.4f} (95 % interval {test.low:+.4f} to {test.high:+.4f}{p})")
    first = primary[0]
    seeds, folds = first.tests.seeds, first.tests.folds
    trained = f", {first.windows} training windows" if first.windows else ""
    spread = ""
    if seeds is not None and folds.low is not None:
        spread = f"; {ENDPOINTS[first.metric]} over seeds alone {seeds.low:+.4f} to {seeds.high:+.4f}, "
        spread += f"over folds alone {folds.low:+.4f} to {folds.high:+.4f}"
    counted = f"{first.test.n} {first.tests.unit}, site: {first.site}{trained}"
    return f"{first.arm} minus {first.reference}: {'; '.join(parts)}; {counted}{spread}."


def _meaning(outcome: str, primary: list[Contrast], contrasts: list[Contrast]) -> str:
    first = primary[0]
    if not first.control:
        return (
            "No control was run (pretrain.control), so contrast cannot be separated from additional text, which the "
            "baseline has not seen."
        )
    to_baseline = _to_baseline(contrasts, first)
    contrastive, control = to_baseline.get(first.arm), to_baseline.get(first.reference)
    if contrastive is None:
        return ""
    versus = decide(contrastive.p_holm, contrastive.test.diff)
    adjusted = "" if contrastive.p_holm is None else f", Holm p {contrastive.p_holm:.2g}"
    against = f"Against the baseline {_SEEN[versus]} ({contrastive.test.diff:+.4f} {ENDPOINTS[first.metric]}{adjusted}"
    against += ")." if control is None else f"; the control has {control.test.diff:+.4f})."
    if outcome == "higher" and versus == "lower":
        return f"{against} Contrast harmed less than the control, which is not a gain."
    if outcome == "no difference" and versus == "higher":
        return f"{against} The additional text, which the control has seen too, may explain that."
    return against


def _to_baseline(contrasts: list[Contrast], first: Contrast) -> dict[str, Contrast]:
    """{arm: its difference to the baseline} in the score, on the site and the labels of another contrast."""
    score = (BASELINE, first.site, first.windows, first.metric)
    alike = [one for one in contrasts if (one.reference, one.site, one.windows, one.metric) == score]
    return {one.arm: one for one in alike if one.test.diff is not None}


_SEEN = {
    "higher": "a gain is seen",
    "lower": "a loss is seen",
    "no difference": "no difference is seen",
    "undecided": "there is no test",
}


def _proxy_disagreement(comparison: Comparison, contrasts: list[Contrast], first: Contrast) -> str:
    if first.metric != ENDPOINT:  # of every base, which SCCS is not measured on
        return ""
    proxies = proxy_values(comparison)
    sccs = proxies[proxies["metric"] == "val/sccs"].set_index("arm")["value"]
    moved = _to_baseline(contrasts, first).get(first.arm)
    if moved is None or not {first.arm, BASELINE} <= set(sccs.index):
        return ""
    change = sccs[first.arm] - sccs[BASELINE]
    if change * moved.test.diff >= 0 or min(abs(change), abs(moved.test.diff)) < smallest_effect(comparison):
        return ""
    directions = ("fell", "rose") if change < 0 else ("rose", "fell")
    return (
        f"SCCS {directions[0]} {sccs[BASELINE]:.3f} -> {sccs[first.arm]:.3f} while {ENDPOINTS[first.metric]} "
        f"{directions[1]} by {abs(moved.test.diff):.3f} over the baseline: the proxy does not tell the score here."
    )


def _tuned(comparison: Comparison, first: Contrast) -> str:
    """The primary difference in F1 at the threshold of validation; empty for folds that were made before it was."""
    margin = smallest_effect(comparison)
    test = paired_tests(comparison.scores, first.arm, first.reference, first.site, TUNED, first.windows, margin).both
    if test.low is None:
        return ""
    interval = f"[{test.low:+.4f}, {test.high:+.4f}]"
    return f"F1 at the threshold tuned on validation windows: {test.diff:+.4f} {interval}."


def _null(comparison: Comparison, primary: list[Contrast]) -> str:
    """Whether relevant differences are ruled out."""
    margin, parts = smallest_effect(comparison), []
    for one in primary:
        if (p := one.test.equivalent) is not None:
            what = "equal" if p < LEVEL else "not shown to be equal"
            parts.append(f"{ENDPOINTS[one.metric]} {what} within ±{margin:g} (two one-sided tests, p {p:.2g})")
    return f"{'; '.join(parts)}." if parts else ""


def _power(primary: list[Contrast]) -> str:
    tests = {ENDPOINTS[one.metric]: one.test for one in primary if one.test.smallest is not None}
    effects = ", ".join(f"{test.smallest:.4f} {name}" for name, test in tests.items())
    return f"Minimum detectable effect at 80 % power: {effects}."


def _seeds(first: Contrast) -> str:
    if first.tests.seeds is not None:
        return ""
    return "One pre-training seed: the interval does not include the variation of pre-training."


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

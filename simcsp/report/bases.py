"""The comparison of models that label every base: the verdict of windows' on average precision, its table and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from simcsp.core.arms import FLOORS
from simcsp.core.config import Config
from simcsp.core.config_file import read_saved
from simcsp.core.errors import InputError
from simcsp.core.files import read_json
from simcsp.core.provenance import REMEDY
from simcsp.core.run_layout import BASES, CONFIG, ENVIRONMENT
from simcsp.labels.bases import fold_records
from simcsp.metrics.pooling import check_fits, check_stages
from simcsp.report import verdict
from simcsp.report.caveats import missing_folds, unbeaten_floors
from simcsp.report.collect import FIT, Comparison, default_folder, fit_values, fold_summaries, label_runs, name_arms
from simcsp.report.page import REFERENCES, contrast_table, number, opening, with_interval, with_sd, write_pages
from simcsp.report.plots import difference_plot, save_figure, score_plot
from simcsp.report.table import aligned, code, markdown_table, plain
from simcsp.text.store import open_store

DATASET = "genome"
_NO_PREDICTIONS = pd.DataFrame(columns=["arm", *FIT, "probability"])
_SCORES = {"topk": "top-k", "recall": "recall at 10 % false discovery"}
HOW_TO_READ = """\
Scores over all bases of both strands of the held-out records, except N; mean ± sd over n folds and seeds. AP: average
precision per type of site. Top-k: the fraction of sites among the k highest-scoring bases, k the number of sites.
Differences are paired over the fits that both arms have. With several pre-training seeds a difference must hold over
seeds and over records: p is the larger of the paired t-test over seeds and of the corrected resampled t-test [1] over
folds, and the interval covers both; with one fold only the test over seeds is made. p Holm is adjusted over all
secondary comparisons [2]; `cnn` (no encoder), fresh weights and controls are described, not tested."""


def write_bases_report(
    config: Config, *more: Config, out: Path | None = None, described: Sequence[tuple[str, str]] = ()
) -> str:
    """Compare the arms of a run, or of several, from the finished folds of finetune.task bases; returns the text for
    the terminal.

    Writes summary.csv, contrasts.csv, report.md and report.html to `out`, by default RUN/report/bases, and
    runs/<a>+<b>/report/bases for several. described: as of `write_report`.
    Raises InputError where no such fold is finished, where folds cannot be paired, and for an unknown arm.
    """
    runs = label_runs([config, *more])
    comparison, out = collect_bases(runs), out or default_folder([config, *more]) / BASES
    title, where = " + ".join(runs), " + ".join(str(one.folder) for one in runs.values())
    contrasts = verdict.find_contrasts(comparison, described)
    table = verdict.add_adjusted(verdict.compare(comparison.scores, verdict.smallest_effect(comparison)), contrasts, 0)
    table = table.assign(dataset=DATASET)[list(verdict.COLUMNS)]
    judged, caveats = verdict.judge(comparison, contrasts), find_bases_caveats(comparison)
    tested = verdict.contrast_rows(contrasts)
    figures = draw(comparison, tested.dropna(subset="low"), title, out)
    text = to_markdown(title, table, contrasts, judged, caveats, figures)
    write_pages(out, title, text, judged, table, tested)
    lines = [f"\n{where}, every base (mean ± sd over folds and seeds)"]
    lines += aligned([[cell.strip("`") for cell in row[:5]] for row in _cells(table)])
    lines += ["", judged.headline, *(f"  {sentence}" for sentence in judged.details)]
    lines += [f"warning: {sentence.replace('`', '')}" for sentence in caveats]
    return "\n".join([*lines, f"report: {out}/report.html, {out}/summary.csv"])


def collect_bases(runs: dict[str, Config]) -> Comparison:
    """The finished folds of bases of all runs, without predictions, which such folds do not keep."""
    for config in runs.values():
        check_stages(config.folder)
    tested: dict[Path, tuple[Any, ...]] = {}
    folds = {run: (_scores_of(config, tested), _NO_PREDICTIONS) for run, config in runs.items()}
    first = next(iter(tested))
    if other := next((path for path in tested if tested[path] != tested[first]), None):
        raise InputError(f"{first} and {other} are of different genomes or bases.parts: they cannot be paired")
    return name_arms(runs, folds, "bases")


def _scores_of(config: Config, tested: dict[Path, tuple[Any, ...]]) -> pd.DataFrame:
    """The columns of a Comparison's scores, without run; what each fold is tested on is added to `tested`."""
    rows, fits = [], []
    store = open_store(config.bases.fasta, config.data.cache)
    sizes = {record.name: record.length for record in store.records}
    for path, summary in fold_summaries(config.folder, "bases"):
        fits.append(path)
        tested[path] = _what_is_tested(path)
        parts = fold_records(config.bases, store, summary["fold"])
        bases = {part: sum(sizes[name] for name in names) for part, names in parts.items()}
        job = {"arm": summary["arm"], **fit_values(summary), "hit_limit": False}
        job |= {"ratio": bases["test"] / bases["train"], "val": bases["val"]}
        rows += [{**job, "metric": key, "value": value} for key, value in summary["metrics"].items()]
    if not rows:
        raise InputError(f"{config.folder}/finetune contains no finished fold of bases: run finetune.sh first")
    check_fits(config.folder, fits)
    return pd.DataFrame(rows)


def _what_is_tested(fold: Path) -> tuple[Any, ...]:
    """Hash of the genome, parts and records left out of a fold: alike in all that are compared."""
    bases = read_saved(fold / CONFIG)["bases"]
    return read_json(fold / ENVIRONMENT, REMEDY)["inputs"]["genome"], bases["parts"], bases["ignore"]


def find_bases_caveats(comparison: Comparison) -> list[str]:
    caveats = [line for metric in list(verdict.ENDPOINTS)[2:] for line in unbeaten_floors(comparison, metric)]
    folds = sorted(set(comparison.scores["fold"]))
    if len(folds) == 1:
        config = next(iter(comparison.runs.values()))
        records = ", ".join(config.bases.parts[folds[0]])
        caveats.append(f"A single fold (tested on {records}): no estimate of the variation between records.")
    return caveats + missing_folds(comparison)


# -- the page ----------------------------------------------------------------------------------------------------------


def to_markdown(
    title: str, table: pd.DataFrame, contrasts: list[verdict.Contrast], judged: verdict.Verdict, caveats: list[str],
    figures: dict[str, str],
) -> str:  # fmt: skip
    """The report in Markdown; figures: {name of a PNG beside it: caption}."""
    parts = opening(f"{plain(title)}: comparison of arms, every base", judged, caveats)
    parts += ["## Splice sites among all bases, donors / acceptors", markdown_table(_cells(table)), HOW_TO_READ]
    parts += [f"![{name}]({name}.png)\n\n*{caption}*" for name, caption in figures.items()]
    if others := [contrast for contrast in contrasts if not contrast.primary]:
        parts += ["## All other comparisons", contrast_table(others)]
    return "\n\n".join([*parts, "## References", REFERENCES]) + "\n"


def _cells(table: pd.DataFrame) -> list[list[str]]:
    differences = [f"{name} - baseline [95 %]" for name in list(verdict.ENDPOINTS.values())[2:]]
    lines = [["arm", "AP", *_SCORES.values(), "n", *differences, "p Holm"]]
    for arm in dict.fromkeys(table["arm"]):
        of_arm = table[table["arm"] == arm].set_index("metric")
        both = [of_arm.loc[[f"test/{key}_donor", f"test/{key}_acceptor"]] for key in ("ap", *_SCORES)]
        cells = [" / ".join(with_sd(row) for _, row in rows.iterrows()) for rows in both]
        of_ap = [row for _, row in both[0].iterrows()]
        cells += [str(int(of_ap[0]["n"])), *(with_interval(row["diff"], row["low"], row["high"]) for row in of_ap)]
        holm = [number(row["p_holm"], ".3g") for row in of_ap]
        lines.append([code(arm), *cells, " / ".join(holm) if all(holm) else ""])
    return lines


def draw(comparison: Comparison, contrasts: pd.DataFrame, title: str, out: Path) -> dict[str, str]:
    """Write the PNGs of either type of site; returns {name: caption}. contrasts: those with an interval."""
    floors, captions = set(comparison.scores["arm"]) & set(FLOORS), {}
    for metric, label in list(verdict.ENDPOINTS.items())[2:]:
        name = metric.removeprefix("test/")
        figures = {name: score_plot(comparison.scores, metric, label, floors, f"{title}: {label}")}
        captions[name] = f"{label}, one dot a fit; boxes (median, quartiles) from five fits on."
        if len(of_metric := contrasts[contrasts["metric"] == metric]):
            figures[f"differences_{name}"] = difference_plot(of_metric, f"{title}: differences in {label}", label)
            captions[f"differences_{name}"] = (
                f"Differences in {label} with their 95 % intervals (not adjusted); the primary contrast in colour."
            )
        for stem, figure in figures.items():
            save_figure(figure, out / f"{stem}.png")
    return captions

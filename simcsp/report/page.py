"""The report as text: Markdown, a self-contained HTML page, and a short table for the terminal."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markdown import Markdown

from simcsp.core.arms import PROXIES
from simcsp.core.files import read_json, write_text
from simcsp.core.provenance import seal
from simcsp.core.run_layout import OVERLAP, REPORT_CONTRASTS, REPORT_TABLE, REPORT_TEXT
from simcsp.metrics.sccs import SCCS_CEILING
from simcsp.report.caveats import SYNTHETIC
from simcsp.report.collect import CROSS_VALIDATION, Comparison, differing_settings, rows_where
from simcsp.report.table import aligned, code, markdown_table, plain, prose
from simcsp.report.verdict import ENDPOINTS, NAMES, Contrast, Verdict
from simcsp.text.sites import SITES

_METRICS = {"test/ap": "AP", "test/mcc": "MCC", "test/accuracy": "accuracy", "test/tpr": "TPR", "test/fpr": "FPR"}
_METRICS |= {f"test/{key}_{site}": f"{name} {site}s" for key, name in (("f1", "F1"), ("auc", "AUC")) for site in SITES}
_METRICS |= {"test/f1_tuned": "tuned F1", "test/f1_distinct": "distinct F1", "pooled/f1": "pooled F1"}
_HEADER = ["arm", "F1", "F1 - baseline [95 %]", "p", "p Holm", "n", "AUC"]
_IN_PAGE = ("arm", "F1", "AUC", "F1 - baseline [95 %]", "p", "n")  # the others are in the appendix
_IN_TERMINAL = ("arm", "F1", "AUC", "pooled F1", "F1 - baseline [95 %]", "p", "n")
HOW_TO_READ = """\
Mean ± sd over n test folds and seeds. Differences are paired over the fits that both arms have. Interval and p are
those of the corrected resampled t-test [1] over folds, because folds share training windows. With several pre-training
seeds a difference must hold over seeds and over folds: p is the larger of the paired t-test over seeds and of the test
over folds, and the interval covers both. p Holm is adjusted over all secondary comparisons [2]; floors (baselines
without a language model), fresh weights and controls are described, not tested. F1, MCC, accuracy, TPR and FPR are at a
threshold of .5, tuned F1 at the threshold that maximises F1 on validation windows. Distinct F1 excludes test windows
that share an 80-mer, on either strand, with a training window of their fold, at the prevalence of all test windows.
Pooled F1 counts each (window, fold) once; the ensemble is the mean probability of the models that tested a window."""
REFERENCES = """\
1. Nadeau and Bengio, *Inference for the generalization error*, Machine Learning 52, 239 (2003).
2. Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 65 (1979).
3. The minimum detectable effect (80 % power) solves the noncentral t distribution at 5 %, two-sided, with the observed
   sd of the paired differences for the true one: Johnson and Welch, *Applications of the non-central t-distribution*,
   Biometrika 31, 362 (1940).
4. McInnes, Healy and Melville, *UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction*,
   arXiv:1802.03426 (2018).
5. Traag, Waltman and van Eck, *From Louvain to Leiden: guaranteeing well-connected communities*, Scientific Reports 9,
   5233 (2019).
6. Two one-sided tests: Schuirmann, *A comparison of the two one-sided tests procedure and the power approach*, Journal
   of Pharmacokinetics and Biopharmaceutics 15, 657 (1987).
7. CKA: Kornblith, Norouzi, Lee and Hinton, *Similarity of neural network representations revisited*, ICML (2019)."""
CAPTIONS = {
    "bars": "Mean AUC over the test folds, whiskers ± sd; grey: floors, baselines without a language model.",
    "differences": "Differences in F1 with their 95 % intervals (not adjusted); the primary contrast in colour.",
    "f1": "F1 over the windows of either type of site, one dot a fold; boxes (median, quartiles) from five folds on.",
    "curves": "Mean over the test folds; the band reaches from the lowest fold to the highest.",
    "calibration": "Observed share of sites against predicted probability in bins of test windows of all folds; the "
    "grey band contains 95 % of the bins of a perfectly calibrated model.",
    "labels": "Mean over folds against the number of labelled windows; bands: ± sd over draws and pre-training seeds.",
    "proxies": "SCCS with its 95 % interval and NMI ± its sd over seeds of Leiden [5] (where measured; of several "
    "pre-training seeds mean and range); level: the start; grey: the floors.",
    "umap": "UMAP [4] of the hidden states of the motif sites: neighbourhoods are meaningful, sizes of groups and "
    "distances between them are not. Left: after pre-training; right: after fine-tuning on the first fold.",
}


# -- Markdown ----------------------------------------------------------------------------------------------------------


def opening(heading: str, verdict: Verdict, caveats: list[str]) -> list[str]:
    """The beginning of a report: verdict, primary contrast, warnings."""
    parts = [f"# {heading}", f"> **{prose(verdict.headline)}**"]
    parts += ["\n".join(f"- {prose(sentence)}" for sentence in verdict.details)] if verdict.details else []
    if verdict.contrasts:
        parts += [primary_table(verdict.contrasts)]
    if caveats:
        parts += ["## Warnings", "\n".join(f"- {sentence}" for sentence in caveats)]
    return parts


def to_markdown(
    title: str,
    comparison: Comparison,
    table: pd.DataFrame,
    contrasts: list[Contrast],
    verdict: Verdict,
    caveats: list[str],
    figures: list[str],
) -> str:
    """The report in Markdown; figures: names of PNGs beside it."""
    parts = opening(f"{plain(title)}: comparison of arms", verdict, caveats)
    parts += _figures(figures, "bars")
    of_sites = _cells_of_sites(table)
    for site, cells in of_sites.items():
        parts += [f"## Splice-site classification, site: {site}", markdown_table(_columns(cells, _IN_PAGE))]
    parts += [HOW_TO_READ, *_figures(figures, "labels", "f1", "curves", "calibration")]
    others = [contrast for contrast in contrasts if not contrast.primary]
    if others:
        parts += ["## All other comparisons", contrast_table(others)]
    parts += [*_figures(figures, "differences"), "## SCCS and NMI", _proxy_tables(table), *_figures(figures, "proxies")]
    benchmarks = table[~table["dataset"].isin([CROSS_VALIDATION, "selection", "motifs"])]
    if len(benchmarks):
        parts += ["## Benchmark species", _benchmark_table(benchmarks)]
    if len(comparison.runs) > 1:
        parts += ["## Runs", _run_tables(comparison)]
    parts += ["## Appendix"]
    for site, cells in of_sites.items():
        rest = [name for name in cells[0] if name == "arm" or name not in _IN_PAGE]
        parts += [f"### Other scores, site: {site}", markdown_table(_columns(cells, rest))]
    for run, config in comparison.runs.items():
        if overlap := _overlap_table(config.folder):
            of_run = f" ({plain(run)})" if len(comparison.runs) > 1 else ""
            parts += [f"### Overlap of the evaluation with the pre-training text{of_run}", overlap]
    parts += _figures(figures, "umap")
    return "\n\n".join([*parts, "## References", REFERENCES]) + "\n"


def _columns(cells: list[list[str]], names: Sequence[str]) -> list[list[str]]:
    chosen = [cells[0].index(name) for name in names if name in cells[0]]
    return [[line[i] for i in chosen] for line in cells]


def _figures(figures: list[str], *kinds: str) -> list[str]:
    """Those of some kinds; of several runs a kind has a figure each, named kind-run."""
    chosen = [name for kind in kinds for name in figures if name == kind or name.startswith(f"{kind}-")]
    return [f"![{name}]({name}.png)\n\n*{CAPTIONS[name.partition('-')[0]]}*" for name in chosen]


def with_interval(diff: float | None, low: float | None, high: float | None) -> str:
    if pd.isna(diff):
        return ""
    return f"{diff:+.4f}" + ("" if pd.isna(low) else f" [{low:+.4f}, {high:+.4f}]")


def number(value: float | None, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _cells_of_sites(table: pd.DataFrame) -> dict[str, list[list[str]]]:
    of_folds = rows_where(table, dataset=CROSS_VALIDATION).groupby("site", sort=False)
    return {site: _cells(of_site) for site, of_site in of_folds}


def _cells(of_site: pd.DataFrame) -> list[list[str]]:
    """The header, then a line an arm: scores over folds, and the paired difference in F1 to the baseline."""
    metrics = set(of_site["metric"])
    shown = {metric: name for metric, name in _METRICS.items() if metric in metrics}
    shown |= {metric: metric.replace("/f1", " F1") for metric in sorted(metrics) if re.match(r"ensemble.*/f1$", metric)}
    lines = [[*_HEADER, *shown.values()]]
    for arm in dict.fromkeys(of_site["arm"]):
        of_arm = of_site[of_site["arm"] == arm].set_index("metric")
        if "test/f1" not in of_arm.index:  # fitted at other numbers of labels alone: in the contrasts and their figure
            continue
        f1 = of_arm.loc["test/f1"]
        folds = f1["n"] if pd.isna(f1["n_paired"]) else f1["n_paired"]  # of the baseline alone nothing is paired
        n = str(int(f1["n"])) + (f" ({int(folds)} paired)" if folds < f1["n"] else "")
        cells = [code(arm), with_sd(f1), with_interval(f1["diff"], f1["low"], f1["high"])]
        cells += [number(f1["p"], ".3g"), number(f1["p_holm"], ".3g"), n, with_sd(of_arm.loc["test/auc"])]
        means = of_arm["mean"]
        lines.append([*cells, *(number(means.get(metric), ".4f") for metric in shown)])
    return lines


def with_sd(row: pd.Series) -> str:
    return f"{row['mean']:.4f}" + (f" ± {row['sd']:.4f}" if pd.notna(row["sd"]) else "")


def primary_table(contrasts: list[Contrast]) -> str:
    """What is compared in a sentence, then a line a score: few enough columns for a telephone."""
    parts = []
    for site in dict.fromkeys(one.site for one in contrasts):
        of_site = [one for one in contrasts if one.site == site]
        first = of_site[0]
        labels = f"{first.windows:,}" if first.windows else "all"
        parts.append(
            f"Primary contrast: {code(first.arm)} minus {code(first.reference)}, site: {site}, {labels} training "
            f"windows, {first.test.n} {first.tests.unit}."
        )
        rows = [["score", "difference [95 %]", "p", "equivalence p [6]", "MDE, 80 % power [3]"]]
        parts.append(markdown_table(rows + [[ENDPOINTS[one.metric], *_tested(one)] for one in of_site]))
    return "\n\n".join(parts)


def contrast_table(contrasts: list[Contrast]) -> str:
    sites, sizes = ({getattr(one, name) for one in contrasts} for name in ("site", "windows"))
    where = [*(["site"] if len(sites) > 1 else []), *(["labels"] if sizes != {0} else [])]
    units = {one.tests.unit for one in contrasts}
    n = f"n, {units.pop()}" if len(units) == 1 else "n"
    rows = [["comparison", "score", *where, n, "difference [95 %]", "p", "p Holm", "equivalence p [6]", "MDE [3]"]]
    for one in contrasts:
        places = {"site": one.site, "labels": str(one.windows or "all")}
        difference, p, *others = _tested(one)
        cells = [f"{code(one.arm)} - {code(one.reference)}", NAMES[one.metric], *(places[name] for name in where)]
        count = f"{one.test.n} {one.tests.unit}" if n == "n" else str(one.test.n)
        rows.append([*cells, count, difference, p, number(one.p_holm, ".3g"), *others])
    return markdown_table(rows)


def _tested(one: Contrast) -> list[str]:
    test = one.test
    difference = with_interval(test.diff, test.low, test.high)
    return [difference, number(test.p, ".3g"), number(test.equivalent, ".2g"), number(test.smallest, ".4f")]


def _proxy_tables(table: pd.DataFrame) -> str:
    parts = []
    pretraining = table[table["metric"].isin(["val/sccs", "val/nmi"])]
    if len(pretraining):
        values = pretraining.set_index(["arm", "metric"])["mean"]
        rows = [["arm or floor", "SCCS, selection windows", "NMI, motif sites"]]
        for arm in dict.fromkeys(pretraining["arm"]):
            rows.append([code(arm), *(number(values.get((arm, f"val/{proxy}")), ".3f") for proxy in PROXIES)])
        parts += ["Before fine-tuning:", markdown_table(rows)]
    rows = [["arm", "site", "SCCS before", "SCCS after", "folds", "NMI before", "NMI after", "folds"]]
    tuned = table[table["metric"].isin(["before/sccs", "after/sccs", "before/nmi", "after/nmi"])]
    for (arm, site), of_arm in tuned.groupby(["arm", "site"], sort=False):
        values = of_arm.set_index("metric")
        cells = []
        for proxy in PROXIES:
            cells += [number(values["mean"].get(f"{when}/{proxy}"), ".3f") for when in ("before", "after")]
            cells.append(number(values["n"].get(f"after/{proxy}"), "d"))
        rows.append([code(arm), site, *cells])
    if len(rows) > 1:
        parts += [
            "Before and after fine-tuning: SCCS on the test windows of each fold, NMI on the motif sites (before: one "
            "checkpoint, hence no test; folds: number measured after fine-tuning):"
        ]
        parts += [markdown_table(rows)]
    parts.append(
        f"SCCS (Spearman correlation of 'same class' with cosine similarity) cannot exceed {SCCS_CEILING}. NMI is the "
        "mean of its GT and AG halves, and is bounded by the number of clusters. A value below the floors "
        "(one-hot bases, GC content, untrained weights) is worse than no model."
    )
    return "\n\n".join(parts)


def _overlap_table(folder: Path) -> str:
    """Overlap with the pre-training text by part; empty if the run has no text."""
    path = folder / OVERLAP
    if not path.is_file():
        return ""
    rows = [["part of the evaluation", "windows or sites", "in the text", "share"]]
    for part in read_json(path, "delete it and rerun pretrain.py, which measures it again")["parts"]:
        known = part["shared"] is not None
        share = f"{part['shared'] / part['count']:.1%}" if known else "not known: shorter than 80 nt"
        rows.append([part["part"], f"{part['count']:,}", f"{part['shared']:,}" if known else "", share])
    return markdown_table(rows) + (
        "\n\nWindows count if they share an 80-mer with the text on either strand; motif sites of the same FASTA by "
        "their coordinates. `data.hide: evaluation` masks such bases in the text."
    )


def _benchmark_table(benchmarks: pd.DataFrame) -> str:
    rows = [["species", "site", "arm", "F1", "AUC", "ensemble F1", "ensemble AUC"]]
    for (dataset, site, arm), of_arm in benchmarks.groupby(["dataset", "site", "arm"], sort=False):
        values = of_arm.set_index("metric")["mean"]
        keys = ("test/f1", "test/auc", "ensemble/f1", "ensemble/auc")
        rows.append([plain(dataset), site, code(arm), *(number(values.get(key), ".4f") for key in keys)])
    return markdown_table(rows)


def _run_tables(comparison: Comparison) -> str:
    rows = [["run", "arm there", "arm here"]]
    rows += [[plain(run), code(arm), code(name)] for (run, arm), name in comparison.names.items()]
    parts = ["An arm shared by several runs is counted once.", markdown_table(rows)]
    settings = differing_settings(comparison.runs)
    if not settings:
        return "\n\n".join([*parts, "The runs have the same settings."])
    rows = [["setting", *map(plain, comparison.runs)]]
    rows += [[code(field), *map(code, values)] for field, values in settings.items()]
    return "\n\n".join(
        [*parts, "Any of these settings may cause the differences between their arms:", markdown_table(rows)]
    )


# -- HTML --------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --paper: #fff; --line: #d5d9df; --soft: #f3f5f8; --mark: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --paper: #15181d; --line: #3a4049; --soft: #1f242b; --mark: #ff8a80; }
}
* { box-sizing: border-box; }
body { max-width: 78rem; margin: 0 auto; padding: 1.2rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p, li, blockquote { max-width: 54rem; }
blockquote { margin: 1rem 0; padding: .7rem 1rem; background: var(--soft); border-left: 4px solid var(--mark); }
blockquote.supported { border-color: #2e7d32; }
blockquote p { margin: 0; font-size: 1.15rem; }
blockquote + ul { font-size: .88rem; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { background: var(--soft); vertical-align: bottom; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
th:first-child { background: var(--soft); }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
p > em:only-child { font-size: .9rem; }
@media (max-width: 40rem) {
  th, td { white-space: normal; padding: .25rem .2rem; font-size: .72rem; }
  td code { overflow-wrap: normal; }
}
li { margin: .3rem 0; }
"""


def to_html(title: str, text: str, folder: Path, subject: str = "comparison of arms", supported: bool = False) -> str:
    """A self-contained page: text is Markdown, its images are read from `folder`; supported: green."""
    reader = Markdown(extensions=["tables"])
    reader.preprocessors.deregister("html_block")  # names may hold tags: none is let through
    reader.inlinePatterns.deregister("html")
    for link in ("link", "reference", "short_reference", "image_reference", "short_image_ref", "autolink", "automail"):
        reader.inlinePatterns.deregister(link)  # a page that needs no other has none
    body = reader.convert(text)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    body = body.replace("<blockquote>", '<blockquote class="supported">', 1) if supported else body
    body = re.sub(r'src="([^"]+)\.png"', lambda found: f'src="{_data_uri(folder / found[1])}"', body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}: {subject}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _data_uri(stem: Path) -> str:
    image = base64.b64encode(stem.with_name(f"{stem.name}.png").read_bytes()).decode()
    return f"data:image/png;base64,{image}"


def write_pages(
    out: Path, title: str, text: str, verdict: Verdict, table: pd.DataFrame, contrasts: pd.DataFrame
) -> None:
    """summary.csv, contrasts.csv, report.md (`text`) and report.html in `out`, and the seal of the first three."""
    for name, rows in ((REPORT_TABLE, table), (REPORT_CONTRASTS, contrasts)):
        write_text(out / name, rows.to_csv(index=False, float_format="%.6g"))
    write_text(out / REPORT_TEXT, text)
    write_text(out / "report.html", to_html(title, text, out, supported=verdict.supported))
    seal(out, {}, [out / REPORT_TABLE, out / REPORT_CONTRASTS, out / REPORT_TEXT])


# -- terminal ----------------------------------------------------------------------------------------------------------


def to_terminal(where: str, table: pd.DataFrame, verdict: Verdict, caveats: list[str]) -> str:
    """The comparison in aligned columns: mean F1 and AUC, difference to the baseline; then the verdict."""
    lines = []
    for site, of_site in _cells_of_sites(table).items():
        cells = [[cell.strip("`") for cell in line] for line in _columns(of_site, _IN_TERMINAL)]
        lines.append(f"\n{where}, site: {site} (mean ± sd over folds and seeds)")
        lines += aligned(cells)
    lines += ["", verdict.headline, *(f"  {sentence}" for sentence in verdict.details)]
    lines += [sentence if sentence == SYNTHETIC else f"warning: {sentence.replace('`', '')}" for sentence in caveats]
    return "\n".join(lines)

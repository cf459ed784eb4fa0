"""SpliceBERT's results as results.csv and one page: ours, its floor, and the figure that was published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simcsp.core.arms import is_trained
from simcsp.core.colours import class_colour
from simcsp.core.errors import InputError
from simcsp.core.files import write_text
from simcsp.core.run_layout import model_arm
from simcsp.metrics.scores import corrected_ttest
from simcsp.metrics.variants import REACH
from simcsp.report.page import number, plain, to_html, with_interval
from simcsp.report.plots import save_figure
from simcsp.report.splicebert_results import RESULTS
from simcsp.report.table import code, markdown_table

COLUMNS = ["model", "result", "metric", "n", "ours", "low", "high", "floor", "published", "source"]
DIFFERENCE_COLUMNS = [
    "arm", "reference", "result", "metric", "seeds", "mean", "reference_mean", "diff", "low", "high", "p",
]  # fmt: skip
TITLES = {
    "masked": "Masked bases by region",
    "variants": "Variants",
    "wide_variants": "Variants in longer windows",
    "effects": "Variants by a model of every base",
    "conservation": "Conservation",
    "mutagenesis": "Saturation mutagenesis",
    "attention": "Attention between sites",
    "branch_points": "Branch points",
    "bases": "Labels of every base",
    "embeddings": "Embeddings of sites",
}
_LAYERS = {
    "donor to acceptor": (0.0022, 0.0014, 0.0051, 0.0443, 0.0043, 0.0020),
    "acceptor to donor": (0.0028, 0.0017, 0.0035, 0.1067, 0.0075, 0.0033),
}
PUBLISHED: dict[tuple[str, str], float] = {
    **{
        ("masked", f"balanced accuracy, {region}"): value
        for region, value in {
            "all": 0.638, "5'UTR": 0.455, "CDS": 0.493, "3'UTR": 0.490, "intron": 0.641, "near donor": 0.486,
            "near acceptor": 0.487, "deep intron": 0.643, "lncRNA exon": 0.511, "lncRNA intron": 0.636,
            "CDS, repeats": 0.705, "CDS, outside repeats": 0.491, "intron, repeats": 0.699,
            "intron, outside repeats": 0.545,
        }.items()
    },
    ("variants", "MFASS, positives"): 1050,
    ("variants", "MFASS, positives, without splice dinucleotides"): 870,
    ("variants", "MFASS, mean rank of positives by KL by distance"): 0.66,
    ("variants", "Vex-seq, positives"): 98,
    ("variants", "Vex-seq, positives, without splice dinucleotides"): 83,
    ("variants", "Vex-seq, mean rank of positives by KL by distance"): 0.69,
    ("conservation", "MFASS' constructs, conserved bases"): 0.058,
    ("conservation", "MFASS' constructs, AUC, split by base"): 0.839,
    ("conservation", "MFASS' constructs, AP, split by base"): 0.356,
    **{
        ("attention", group): value
        for group, value in {
            "intronic pair": 0.0157, "exonic pair": 0.0049, "unpair": 0.0066, "donor pair": 0.0058,
            "acceptor pair": 0.0056, "random pair": 0.0018,
        }.items()
    },
    **{
        ("attention", f"intronic pair, layer {layer}, {direction}"): value
        for direction, values in _LAYERS.items()
        for layer, value in enumerate(values, start=1)
    },
    ("embeddings", "hg19, NMI, GT half"): 0.31,
    ("embeddings", "hg19, NMI, AG half"): 0.30,
    ("embeddings", "K562, NMI, GT half"): 0.20,
    ("embeddings", "K562, NMI, AG half"): 0.21,
    ("bases", "AP of donors"): 0.8547,
    ("bases", "AP of acceptors"): 0.8458,
}  # fmt: skip
"""As printed by the paper's notebooks for the 72-vertebrate model, on its own data: the rows say how ours differ."""
NOTES = {
    "masked": "15 % masked as in training; near a site: the intron's bases within 100 nt. Floor: the likeliest base by "
    "the better of counts of the three on either side and a Markov chain of order 5, which sees five on either side, "
    "fitted on the other half of the genes. Published: 100,000 windows of 510 nt.",
    "variants": "-dP, KL at sites and KL by distance as published, in the constructs as measured; AP is drawn there, "
    "not printed. Floor: how near the variant is to a site; of the probe: a probe of the distances to both sites and "
    "the substitution; of the peers: the prevalence. Intervals over exons. Mean rank: the floor is that of the others.",
    "wide_variants": "The same in windows of the genome about the exon (published: 510 nt), of the constructs that lie "
    "in the genome that is here; beside them the same variants in their constructs.",
    "conservation": "Logistic regression on the last hidden states; floor: one-hot bases within 20 nt (published: "
    "250 nt, AUC .533, AP .067). Published windows are of random transcripts, ours exons with their flanks: compare "
    "with the floor. Split by base as published, by window as is right.",
    "mutagenesis": "Largest KL of the three substitutions, in MFASS' constructs in the place of transcripts.",
    "attention": "Maximum over heads; three queries about a place, best of three keys about the other; median over "
    "pairs. Floor: two bases of the same window as far apart. Published windows have 1,000 nt, and attention falls as "
    "they grow: compare with the floor.",
    "branch_points": "Each base 18 to 44 nt before an acceptor, folds by chromosome (by gene if there are fewer than "
    "five). Fine-tuned as the models of every base are, by the settings of finetune (published: AdamW 1e-5, batch 8; "
    "drawn only); a probe is a logistic regression on the frozen states. Floor: a logistic regression on the letters "
    "within 10 nt and the distance to the acceptor; the weight matrix sees the same. BPP's introns share nothing with "
    "Mercer's, and have N in the place of their exons.",
    "effects": "Largest change of P of a site anywhere in the construct, as SpliceAI's delta score, N about it; and a "
    "fit on the changes. Floors: how near the variant is to a site, and a probe of place and substitution.",
    "bases": "Test records of the run's folds; published: SpliceAI's GTEx set.",
    "embeddings": "States of the two bases of GT / AG sites, clustered by Leiden; floor: the better of one-hot bases "
    "and GC content. Chr1's genes stand in where the published sites are not here.",
}


def result_table(measured: dict[str, dict[str, dict[str, Any]]]) -> pd.DataFrame:
    """One row a number, under COLUMNS. measured: {model: {result: {rows, curves}}}."""
    rows = []
    for model, results in measured.items():
        for result, found in results.items():
            for row in found["rows"]:
                metric = row["metric"].partition(",")[0] if result == "bases" else row["metric"]
                published = PUBLISHED.get((result, metric))
                paper = "" if published is None else f"Chen et al. 2024, {RESULTS[result].source}"
                own = [row[name] for name in ("metric", "n", "value", "low", "high", "floor")]
                rows.append((model, result, *own, published, row["source"] or paper))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"})


def check_pairs(models: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    """Raises InputError for an arm of no model or beside itself, for two arms with fewer than two pre-training seeds in
    common, and for one that was trained under one seed: its variation is not known."""
    seeds: dict[str, set[int | None]] = {}
    for arm, seed in map(model_arm, models):
        seeds.setdefault(arm, set()).add(seed)
    for pair in pairs:
        asked = f"--compare {' '.join(pair)}"
        if unknown := [arm for arm in pair if arm not in seeds]:
            raise InputError(f"{asked}: {unknown[0]} is no arm of the sources; there are {', '.join(seeds)}")
        if single := [arm for arm in pair if is_trained(arm) and seeds[arm] == {None}]:
            raise InputError(f"{asked}: {single[0]} has one pre-training seed, two or more are needed")
        one, other = (seeds[arm] for arm in pair)
        common = len(one | other) - 1 if {None} in (one, other) else len(one & other)
        if pair[0] == pair[1] or common < 2:
            raise InputError(f"{asked}: {common} pre-training seeds in common, two or more of two arms are needed")


def seed_differences(table: pd.DataFrame, arm: str, reference: str) -> pd.DataFrame:
    """The paired t-test over pre-training seeds of every number that two arms have, one row each, DIFFERENCE_COLUMNS.

    table: of `result_table`; models that differ in :pretrainN alone are one arm. One without such a seed, the start,
    is paired with every seed of the other. What is the same for both, such as counts and peers, is left out.
    """
    keys = pd.DataFrame(map(model_arm, table["model"]), columns=["arm", "seed"], index=table.index)
    scored = table.assign(**keys).dropna(subset=["ours"])
    one, other = (scored[scored["arm"] == name] for name in (arm, reference))
    seeded = one["seed"].notna().any() and other["seed"].notna().any()
    both = one.merge(other, on=["result", "metric", *(["seed"] if seeded else [])], suffixes=("", "_other"))
    rows = []
    for (result, metric), of_metric in both.groupby(["result", "metric"], sort=False):
        differences = (of_metric["ours"] - of_metric["ours_other"]).to_numpy()
        if len(differences) > 1 and differences.any():
            means = of_metric[["ours", "ours_other"]].mean()
            test = corrected_ttest(differences, 0.0)
            rows.append([arm, reference, result, metric, len(differences), *means, *test.values()])
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def difference_cells(differences: pd.DataFrame) -> list[list[str]]:
    """The lines of a table of `seed_differences`, its header first."""
    lines = [["comparison", "metric", "seeds", "means", "difference [95 %]", "p"]]
    for row in differences.itertuples():
        means = f"{row.mean:.4f}, {row.reference_mean:.4f}"
        interval = with_interval(row.diff, row.low, row.high)
        lines.append(
            [f"{row.arm} - {row.reference}", row.metric, str(row.seeds), means, interval, number(row.p, ".2g")]
        )
    return lines


def write_results(
    measured: dict[str, dict[str, dict[str, Any]]],
    missing: dict[str, str],
    out: Path,
    compared: Sequence[tuple[str, str]] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """results.csv, index.html and its figures in `out`, and differences.csv where pairs of arms are compared; returns
    both tables. missing: {result: why it was not measured}."""
    table = result_table(measured)
    differences = pd.DataFrame(columns=DIFFERENCE_COLUMNS)
    write_text(out / "results.csv", table.to_csv(index=False, float_format="%.6g"))
    parts = ["# SpliceBERT's published results, measured anew"]
    for result in [name for name in RESULTS if any(name in results for results in measured.values())]:
        parts += [f"## {TITLES[result]}", NOTES[result]]
        for name, figure in _figures(result, measured).items():
            save_figure(figure, out / f"{name}.png")
            parts.append(f"![{name}]({name}.png)")
        parts.append(_wide_table(table[table["result"] == result]))
    if compared:
        differences = pd.concat([seed_differences(table, *pair) for pair in compared], ignore_index=True)
        write_text(out / "differences.csv", differences.to_csv(index=False, float_format="%.6g"))
        head, *lines = difference_cells(differences)
        named = markdown_table([head, *([code(line[0]), plain(line[1]), *line[2:]] for line in lines)])
        parts += ["## Differences over pre-training seeds", "Paired t-test over seeds; not adjusted.", named]
    else:
        (out / "differences.csv").unlink(missing_ok=True)  # of an earlier call
    if missing:
        lines = [f"- {TITLES[name]}: {plain(why)}" for name, why in missing.items()]
        parts += ["## Not measured", "\n".join(lines)]
    names = ", ".join(measured)
    write_text(out / "index.html", to_html(names, "\n\n".join(parts) + "\n", out, "SpliceBERT's results"))
    return table, differences


def _wide_table(rows: pd.DataFrame) -> str:
    """A line a metric, a column a model, and one of the floor where it is the same for all; else it is beside ours."""
    models = list(dict.fromkeys(rows["model"]))
    lines = [["metric", "n", "published", "floor", *map(plain, models)]]
    for metric in dict.fromkeys(rows["metric"]):
        of_metric = rows[rows["metric"] == metric].set_index("model")
        first = of_metric.iloc[0]
        of_each = of_metric["floor"].nunique() > 1
        cells = [plain(metric), "" if pd.isna(first["n"]) else f"{first['n']:,}", number(first["published"], ".4g")]
        cells.append("" if of_each else number(first["floor"], ".4f"))
        cells += [_ours(of_metric.loc[model], of_each) if model in of_metric.index else "" for model in models]
        lines.append(cells)
    return markdown_table(lines)


def _ours(row: pd.Series, with_floor: bool) -> str:
    value = number(row["ours"], ".4f" if row["ours"] != row["ours"] // 1 else ",.0f")
    value += "" if pd.isna(row["low"]) else f" [{row['low']:.4f}, {row['high']:.4f}]"
    return f"{value} (floor {row['floor']:.4f})" if with_floor and pd.notna(row["floor"]) else value


def _figures(result: str, measured: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Figure]:
    """{name: figure} of a result: KL against the distance, attention by layer, UMAP of sites."""
    found = {model: results[result] for model, results in measured.items() if result in results}
    if result in ("variants", "wide_variants", "mutagenesis"):
        names = list(dict.fromkeys(name for one in found.values() for name in one["curves"]))
        return {f"kl-{name.lower().replace(', ', '-')}": _distance_figure(name, found) for name in names}
    if result == "embeddings":
        return {"umap": _umap_figure(found)}
    return {"attention": _attention_figure(found)} if result == "attention" else {}


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """One panel a model, three a row, on one scale."""
    rows, columns = -(-count // 3), min(count, 3)
    size = (5 * columns, 3.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def _distance_figure(name: str, found: dict[str, dict[str, Any]]) -> Figure:
    figure, axes = _panels(len(found))
    for axis, (model, one) in zip(axes, found.items()):
        for label, values in one["curves"].get(name, {}).items():
            known = np.array(values, dtype=float)
            axis.semilogy(np.arange(-REACH, REACH + 1), np.where(known > 0, known, np.nan), label=label, linewidth=1)
        axis.set(title=f"{name}: {model}", xlabel="nt from the changed base", ylabel="mean KL")
        axis.legend(frameon=False)
    return figure


def _attention_figure(found: dict[str, dict[str, Any]]) -> Figure:
    figure, axes = _panels(len(found))
    for axis, (model, one) in zip(axes, found.items()):
        for direction in _LAYERS:
            prefix, suffix = "intronic pair, layer ", f", {direction}"
            rows = [r for r in one["rows"] if r["metric"].startswith(prefix) and r["metric"].endswith(suffix)]
            layers = np.arange(1, len(rows) + 1)
            (line,) = axis.plot(layers, [row["value"] for row in rows], marker="o", label=direction)
            axis.plot(layers, [row["floor"] for row in rows], linestyle=":", color=line.get_color())
        axis.set(title=f"introns: {model}", xlabel="layer (dotted: as far apart, no site)", ylabel="attention, median")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False)
    return figure


def _umap_figure(found: dict[str, dict[str, Any]]) -> Figure:
    sets = list(dict.fromkeys(name for one in found.values() for name in one["curves"]))
    size = (4 * len(found) + 2, 3 * len(sets))
    figure, axes = plt.subplots(len(sets), len(found), figsize=size, squeeze=False, layout="constrained")
    for line, name in zip(axes, sets):
        for axis, (model, one) in zip(line, found.items()):
            shown = one["curves"].get(name, {"points": [], "labels": []})
            points, labels = np.array(shown["points"]).reshape(-1, 2), np.array(shown["labels"])
            for label in sorted(set(shown["labels"])):
                axis.scatter(*points[labels == label].T, s=5, color=class_colour(label), label=label, linewidths=0)
            axis.set(title=f"{name}: {model}", xticks=[], yticks=[])
        handles, labels = line[0].get_legend_handles_labels()
        line[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    return figure

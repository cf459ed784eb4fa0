"""The comparison of arms: summary.csv, report.md, figures, and the same in TensorBoard, from finished folds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter

from utils.backbone import load_backbone
from utils.config import Config, ModelConfig
from utils.embed import embed_centre
from utils.errors import InputError
from utils.metrics import SCCS_CEILING, classification_scores, corrected_ttest, leiden
from utils.plots import box_plot, plt, proxy_curves, save_figure, umap_panels
from utils.proxies import load_motifs
from utils.run import read_metrics, write_text

BASELINE = "baseline"
CROSS_VALIDATION = "spliceator"  # the dataset of the test folds
COLUMNS = ("arm", "site", "dataset", "metric", "mean", "sd", "n", "diff", "low", "high", "p")
ARM_ORDER = ("pwm", "kmer", "fresh", "baseline", "best_sccs", "best_nmi", "last")
ARM_ORDER += ("control_best_sccs", "control_best_nmi", "control_last")
CHECKPOINT_OF = {"start": "baseline", "best_sccs": "best_sccs", "best_nmi": "best_nmi", "last": "last"}
SYNTHETIC = "Synthetic data (data/demo.py): these numbers show that the pipeline runs, and say nothing about biology."


def write_report(config: Config) -> str:
    """Write runs/<name>/report from the folds that are finished; returns the text for the terminal."""
    folder = config.folder
    scores, predictions = collect_folds(folder)
    table = pd.concat(
        [compare(scores), pool_predictions(predictions), proxy_rows(folder), benchmark_rows(folder)], ignore_index=True
    )[list(COLUMNS)]
    out = folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "summary.csv", table.to_csv(index=False, float_format="%.6g"))
    figures = draw(config, scores, out)
    text = to_markdown(folder, table, figures)
    write_text(out / "report.md", text)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
    with SummaryWriter(str(out)) as writer:
        writer.add_text("report", text)
        for name in figures:
            writer.add_image(f"report/{name}", plt.imread(out / f"{name}.png"), dataformats="HWC")
    return f"{to_terminal(folder, table)}\nreport: {out}/report.md, {out}/summary.csv"


def collect_folds(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished folds as (scores, predictions).

    scores: arm, site, seed, fold, metric, value, ratio (of test to training windows). predictions: arm, site, seed,
    window, fold, label, probability.

    Raises InputError when no fold is finished, or when folds were made from different windows: they cannot be paired.
    """
    rows, tables, hashes = [], [], {}
    for path in sorted(folder.glob("finetune/*/*/seed*/fold*/summary.json")):
        summary = json.loads(path.read_text())
        job = {key: summary[key] for key in ("arm", "site", "seed", "fold")}
        ratio = summary["windows"]["test"] / summary["windows"]["train"]
        rows += [{**job, "metric": key, "value": value, "ratio": ratio} for key, value in summary["metrics"].items()]
        tables.append(pd.read_csv(path.with_name("predictions.csv")).assign(**job))
        data = json.loads(path.with_name("env.json").read_text())["inputs"]["spliceator"]
        hashes.setdefault(data, path.parent)
    if not rows:
        raise InputError(f"{folder}/finetune holds no finished fold: run finetune.sh first")
    if len(hashes) > 1:
        different = " and ".join(str(path) for path in hashes.values())
        raise InputError(f"{different} were fitted on different windows: their folds cannot be paired")
    scores = pd.DataFrame(rows)
    position = {arm: i for i, arm in enumerate(dict.fromkeys([*ARM_ORDER, *scores["arm"]]))}
    return scores.sort_values("arm", key=lambda arms: arms.map(position), kind="stable"), pd.concat(tables)


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and sd over folds and seeds of every metric, and the paired difference to the baseline arm."""
    rows = []
    for (arm, site, metric), mine in scores.groupby(["arm", "site", "metric"], sort=False):
        base = scores[(scores["arm"] == BASELINE) & (scores["site"] == site) & (scores["metric"] == metric)]
        paired = mine.merge(base, on=["seed", "fold"], suffixes=("", "_base"))
        test: dict[str, float | None] = {}
        if arm != BASELINE and len(paired):
            test = corrected_ttest((paired["value"] - paired["value_base"]).to_numpy(), paired["ratio"].mean())
        rows.append(_row(arm, site, CROSS_VALIDATION, metric, mine["value"], test))
    return pd.DataFrame(rows)


def pool_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Scores over all test windows together; one tested in several folds counts once, with its mean probability."""
    rows = []
    for (arm, site), mine in predictions.groupby(["arm", "site"], sort=False):
        by_seed = []
        for _, table in mine.groupby("seed"):
            once = table.groupby("window").agg(label=("label", "first"), probability=("probability", "mean"))
            by_seed.append(classification_scores(once["label"].to_numpy(), once["probability"].to_numpy()))
        for metric in by_seed[0]:
            values = pd.Series([scores[metric] for scores in by_seed])
            rows.append(_row(arm, site, CROSS_VALIDATION, f"pooled/{metric}", values, {}))
    return pd.DataFrame(rows)


def proxy_rows(folder: Path) -> pd.DataFrame:
    """SCCS and NMI of the pre-training checkpoints, of the control's, and of the floors."""
    rows = []
    for stage, prefix in (("pretrain", ""), ("control", "control_")):
        path = folder / stage / "summary.json"
        if not path.is_file():
            continue
        summary = json.loads(path.read_text())
        validations = {row["step"]: row for row in read_metrics(path.parent) if "val/sccs" in row or "val/nmi" in row}
        steps = {f"{prefix}last": summary["steps"]} if prefix else {BASELINE: 0, "last": summary["steps"]}
        steps |= {f"{prefix}best_{proxy}": best["step"] for proxy, best in summary["best"].items()}
        floors = {} if prefix else summary["floors"]  # both stages measure the same ones
        for proxy, dataset in (("sccs", "selection"), ("nmi", "motifs")):
            key = f"val/{proxy}"
            values = {arm: validations[step][key] for arm, step in steps.items() if key in validations[step]}
            start = f"floor/{proxy}_"
            values |= {name.removeprefix(start): value for name, value in floors.items() if name.startswith(start)}
            rows += [_row(arm, "both", dataset, key, pd.Series([value]), {}) for arm, value in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def benchmark_rows(folder: Path) -> pd.DataFrame:
    """Benchmark species, where `evaluate.py benchmark` has been run: each fold's model, and their mean ensemble.

    No p: all models of an arm are scored on the same windows, so that folds are no independent samples of them.
    """
    path = folder / "benchmark/benchmark.csv"
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path)
    rows = []
    for (arm, site, dataset, metric), mine in table.groupby(["arm", "site", "dataset", "metric"], sort=False):
        base = table[(table["arm"] == BASELINE) & (table["site"] == site)]
        base = base[(base["dataset"] == dataset) & (base["metric"] == metric)]
        paired = mine.merge(base, on=["seed", "fold"], suffixes=("", "_base"))
        difference = (
            {} if arm == BASELINE or paired.empty else {"diff": (paired["value"] - paired["value_base"]).mean()}
        )
        rows.append(_row(arm, site, dataset, metric, mine["value"], difference))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(arm: str, site: str, dataset: str, metric: str, values: pd.Series, test: dict[str, float | None]) -> dict:
    row = {"arm": arm, "site": site, "dataset": dataset, "metric": metric, "mean": values.mean()}
    row |= {"sd": values.std(ddof=1) if len(values) > 1 else None, "n": len(values)}
    return row | {key: test.get(key) for key in ("diff", "low", "high", "p")}


# -- figures -----------------------------------------------------------------------------------------------------------


def draw(config: Config, scores: pd.DataFrame, out: Path) -> list[str]:
    """Write the PNGs; returns their names without the ending."""
    suffix = " (synthetic data)" if is_synthetic(config.folder) else ""
    figures = {"f1": box_plot(scores, "test/f1", f"{config.name}: F1 on the test folds{suffix}")}
    summary = config.folder / "pretrain/summary.json"
    if summary.is_file():
        rows = [row for row in read_metrics(summary.parent) if "val/sccs" in row or "val/nmi" in row]
        validations = pd.DataFrame(rows).rename(columns=lambda name: name.removeprefix("val/"))
        floors = {key.removeprefix("floor/"): value for key, value in json.loads(summary.read_text())["floors"].items()}
        ceilings = {"sccs": SCCS_CEILING, "nmi": max(row.get("val/nmi_bound", 0.0) for row in rows)}
        title = f"{config.name}: proxies while pre-training{suffix}"
        figures["proxies"] = proxy_curves(validations, floors, ceilings, title)
        if config.data.motif_bed is not None:
            figures["umap"] = draw_umap(config, suffix)
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
        plt.close(figure)
    return list(figures)


def draw_umap(config: Config, suffix: str) -> plt.Figure:
    """UMAP (McInnes et al. 2018) of the motif sites for the start and the best-NMI checkpoint."""
    from umap import UMAP  # its import and first call compile for half a minute

    threads = torch.get_num_threads()
    motifs, panels = load_motifs(config.data), []
    for name in ("start", "best_nmi"):
        model, _, _ = load_backbone(ModelConfig(source=str(config.folder / "pretrain/checkpoints" / name)))
        states = embed_centre(model.bert, motifs.ids, config.evaluate.nmi_layer, config.evaluate.batch_size)
        points = UMAP(n_neighbors=15, random_state=config.seed, n_jobs=1).fit_transform(states)
        panels.append((CHECKPOINT_OF[name], points, motifs.labels, leiden(states, seed=config.seed)))
    torch.set_num_threads(threads)  # numba's thread layer raises it
    return umap_panels(panels, f"{config.name}: motif sites{suffix}")


def is_synthetic(folder: Path) -> bool:
    """Whether the windows of the run say that they are made up."""
    return "SYNTHETIC" in json.loads((folder / "splits/splits.json").read_text())["species"]


# -- text --------------------------------------------------------------------------------------------------------------

_METRICS = ("f1", "auc", "ap", "accuracy", "mcc")


def _cells(table: pd.DataFrame, site: str) -> list[list[str]]:
    """One line an arm: scores over folds, then the paired difference in F1 to the baseline."""
    here = table[(table["site"] == site) & (table["dataset"] == CROSS_VALIDATION)]
    lines = []
    for arm in dict.fromkeys(here["arm"]):
        mine = here[here["arm"] == arm].set_index("metric")
        cells = [arm]
        for metric in _METRICS:
            row = mine.loc[f"test/{metric}"]
            cells.append(f"{row['mean']:.4f}" + (f" ± {row['sd']:.4f}" if pd.notna(row["sd"]) else ""))
        f1 = mine.loc["test/f1"]
        difference = ""
        if pd.notna(f1["diff"]):
            difference = f"{f1['diff']:+.4f}"
            difference += f" [{f1['low']:+.4f}, {f1['high']:+.4f}]" if pd.notna(f1["low"]) else ""
        p = f"{f1['p']:.3g}" if pd.notna(f1["p"]) else ""
        distinct = f"{mine.loc['test/f1_distinct', 'mean']:.4f}" if "test/f1_distinct" in mine.index else ""
        lines.append([*cells, f"{mine.loc['pooled/f1', 'mean']:.4f}", distinct, difference, p, str(int(f1["n"]))])
    return lines


_HEADER = [
    "arm",
    *(name.upper() if len(name) < 4 else name for name in _METRICS),
    "pooled F1",
    "distinct F1",
    "F1 - baseline [95 %]",
    "p",
    "n",
]


def to_terminal(folder: Path, table: pd.DataFrame) -> str:
    """The comparison as aligned columns: mean F1 and AUC, difference to the baseline."""
    lines = []
    columns = [0, 1, 2, 6, 8, 9, 10]
    for site in dict.fromkeys(table.loc[table["dataset"] == CROSS_VALIDATION, "site"]):
        cells = [[row[i] for i in columns] for row in [_HEADER, *_cells(table, site)]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines.append(f"\n{folder}, site: {site} (mean ± sd over folds and seeds)")
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    if is_synthetic(folder):
        lines.append(SYNTHETIC)
    return "\n".join(lines)


def _markdown_table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)])


def to_markdown(folder: Path, table: pd.DataFrame, figures: list[str]) -> str:
    """The report for a person."""
    parts = [f"# {folder.name}: comparison of arms"]
    if is_synthetic(folder):
        parts.append(f"> {SYNTHETIC}")
    for site in dict.fromkeys(table.loc[table["dataset"] == CROSS_VALIDATION, "site"]):
        parts += [f"## Splice-site classification, site: {site}", _markdown_table([_HEADER, *_cells(table, site)])]
    parts.append(
        "Mean ± sd over test folds and seeds. The difference is paired over folds and seeds; its interval and p are "
        "those of the corrected resampled t-test (Nadeau and Bengio 2003), not adjusted for the "
        "number of arms. Pooled F1 counts every test window once; distinct F1 leaves out test windows that share 80 "
        "bases in a row with a training window of their fold (under grouped folds there are none). `pwm` and `kmer` "
        "are floors without a language model: a weight matrix and a k-mer logistic regression on the same folds."
    )
    parts += ["## SCCS and NMI", _proxy_tables(table)]
    if overlap := _overlap_table(folder):
        parts += ["## Overlap of the evaluation with the pre-training text", overlap]
    benchmarks = table[~table["dataset"].isin([CROSS_VALIDATION, "selection", "motifs"])]
    if len(benchmarks):
        parts += ["## Benchmark species", _benchmark_table(benchmarks)]
    captions = {
        "f1": "F1 of each arm on the test folds",
        "proxies": "SCCS and NMI against steps; dashed: the floors",
        "umap": "UMAP (McInnes et al. 2018) of the motif sites, coloured by label and by Leiden cluster "
        "(Traag et al. 2019); distances between groups in a UMAP mean little",
    }
    parts += [f"![{captions[name]}]({name}.png)\n\n*{captions[name]}*" for name in figures]
    return "\n\n".join(parts) + "\n"


def _proxy_tables(table: pd.DataFrame) -> str:
    parts = []
    pretraining = table[table["metric"].isin(["val/sccs", "val/nmi"])]
    if len(pretraining):
        arms = dict.fromkeys(pretraining["arm"])
        values = pretraining.set_index(["arm", "metric"])["mean"]
        rows = [["arm or floor", "SCCS, selection windows", "NMI, motif sites"]]
        for arm in arms:
            rows.append(
                [arm, *(f"{values[arm, m]:.3f}" if (arm, m) in values else "" for m in ("val/sccs", "val/nmi"))]
            )
        parts += ["Before fine-tuning:", _markdown_table(rows)]
    rows = [["arm", "site", "SCCS before", "SCCS after", "NMI before", "NMI after"]]
    tuned = table[table["metric"].isin(["before/sccs", "after/sccs", "before/nmi", "after/nmi"])]
    for (arm, site), mine in tuned.groupby(["arm", "site"], sort=False):
        values = mine.set_index("metric")
        cells = []
        for metric in ("before/sccs", "after/sccs", "before/nmi", "after/nmi"):
            cells.append(
                f"{values.loc[metric, 'mean']:.3f} (n {values.loc[metric, 'n']})" if metric in values.index else ""
            )
        rows.append([arm, site, *cells])
    parts += ["Before and after fine-tuning, SCCS on the test windows of each fold, NMI on the motif sites:"]
    parts += [_markdown_table(rows)]
    parts.append(
        f"SCCS (Spearman correlation of 'same class' with cosine similarity) cannot exceed {SCCS_CEILING}. NMI is the "
        "mean of its GT and AG halves, and is bounded by the number of clusters. A value below the floors "
        "(one-hot bases, GC content, fresh weights) is worse than no model."
    )
    return "\n\n".join(parts)


def _overlap_table(folder: Path) -> str:
    """What pretrain.py found, part by part; empty where the run has no pre-training text."""
    path = folder / "overlap.json"
    if not path.is_file():
        return ""
    rows = [["part of the evaluation", "windows or sites", "in the text", "share"]]
    for part in json.loads(path.read_text())["parts"]:
        known = part["shared"] is not None
        share = f"{part['shared'] / part['count']:.1%}" if known else "not known: shorter than 80 nt"
        rows.append([part["part"], f"{part['count']:,}", f"{part['shared']:,}" if known else "", share])
    return _markdown_table(rows) + (
        "\n\nWindows count when they share 80 bases in a row with the text on either strand, motif sites by their "
        "coordinates when they are of the same FASTA. `data.hide: evaluation` keeps such bases out of the text."
    )


def _benchmark_table(benchmarks: pd.DataFrame) -> str:
    rows = [["species", "site", "arm", "F1", "AUC", "ensemble F1", "ensemble AUC"]]
    for (dataset, site, arm), mine in benchmarks.groupby(["dataset", "site", "arm"], sort=False):
        values = mine.set_index("metric")["mean"]
        keys = ("test/f1", "test/auc", "ensemble/f1", "ensemble/auc")
        rows.append([dataset, site, arm, *(f"{values.get(key, np.nan):.4f}" for key in keys)])
    return _markdown_table(rows)

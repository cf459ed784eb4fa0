"""Whether the proxies predict F1 and AUC: the outcome of `relate` as text and figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from simcsp.core.config import Config
from simcsp.core.files import write_text
from simcsp.core.run_layout import CORRELATIONS, RELATE, RELATE_TABLE
from simcsp.metrics.proxy_correlation import AFTER, FEWEST_RUNS, MEASURES, OUTCOMES, RESAMPLES, SHOWN_PROXIES, correlate
from simcsp.report.caveats import SYNTHETIC, is_synthetic
from simcsp.report.page import number
from simcsp.report.plots import proxy_scatter, save_figure
from simcsp.report.table import markdown_table, plain


def write_relation(table: pd.DataFrame, config: Config, run: Path) -> str:
    """Write relate.csv, correlations.csv, relate.png and relate.md to RUN/relate; returns the text for the terminal.

    table: as of `relate_table`. config: of that run.
    """
    out = run / RELATE
    correlations = correlate(table, config.seed)
    write_text(out / RELATE_TABLE, table.to_csv(index=False, float_format="%.6g"))
    write_text(out / CORRELATIONS, correlations.to_csv(index=False, float_format="%.6g"))
    suffix, made_up = (" (synthetic data)", [SYNTHETIC]) if is_synthetic(run) else ("", [])
    measured = {proxy: label for proxy, label in SHOWN_PROXIES.items() if table[proxy].notna().any()}
    figure = proxy_scatter(table, measured, OUTCOMES, f"Scores after fine-tuning against proxies before it{suffix}")
    save_figure(figure, out / "relate.png")
    verdict = plain_sentence(correlations)
    parts = [f"# {plain(run.name)}: do the proxies predict F1 and AUC?", *(f"> {line}" for line in made_up)]
    parts += [f"**{verdict}**", spread_sentence(table), _caveat(table["unit"].nunique())]
    parts += ["## Rank correlations", _correlation_table(correlations), _how(config)]
    parts += ["![F1 and AUC against each proxy](relate.png)", "## Checkpoints", _checkpoint_table(table)]
    write_text(out / "relate.md", "\n\n".join(parts) + "\n")
    lines = [verdict, spread_sentence(table), *made_up]
    return "\n".join([*lines, f"relate: {out}/relate.md, relate.csv, correlations.csv, relate.png"])


def plain_sentence(correlations: pd.DataFrame) -> str:
    """The answer for the proxies of training, from `correlate`: correlated are those whose interval excludes 0."""
    rows = correlations[correlations["proxy"].isin(SHOWN_PROXIES)]
    if rows.empty:
        raise ValueError("no headline proxy was measured")
    runs, checkpoints = rows["runs"].max(), rows["checkpoints"].max()
    said = []
    for row in rows.to_dict("records"):
        name, outcome = SHOWN_PROXIES[row["proxy"]], OUTCOMES[row["outcome"]]
        if row["remark"]:
            said.append(f"{name} has no correlation with {outcome} ({row['remark']})")
            continue
        verb = "shows no correlation with"
        if row["spearman_low"] > 0 or row["spearman_high"] < 0:
            verb = "correlates with" if row["spearman"] > 0 else "is anticorrelated with"
        said.append(f"{name} {verb} {outcome} (Spearman {_interval(row, 'spearman')})")
    kind = "exploratory: fewer than three runs" if runs < FEWEST_RUNS else "intervals over runs"
    counts = f"{_count(checkpoints, 'checkpoint')} of {_count(runs, 'run')}"
    return f"Over {counts}, before fine-tuning {', '.join(said)}; {kind}."


def spread_sentence(table: pd.DataFrame) -> str:
    """How far F1 differs between checkpoints, against its spread over the folds of one."""
    text = f"F1 of the checkpoints goes from {table['f1'].min():.4f} to {table['f1'].max():.4f}"
    folds = int(table["n"].min())
    if folds < 2:
        return f"{text}, each from one fit alone, so that its own error is not known."
    return f"{text}; over the {folds} fits of one checkpoint its standard deviation is {table['f1_sd'].median():.4f}."


def _caveat(runs: int) -> str:
    if runs < FEWEST_RUNS:
        return (
            "Successive checkpoints of one run are not independent: proxies and F1 that merely drift with the step "
            "appear correlated. The intervals resample checkpoints as if they were independent and are too narrow: for "
            "two unrelated random walks, 95 % intervals exclude 0 in 23 % of runs of 9 checkpoints and 37 % of runs of "
            f"17 (simulated). Use {FEWEST_RUNS} runs or more (other seeds or objectives) for a reliable result."
        )
    return (
        "Checkpoints of one run are not independent, so the intervals resample whole runs. With few runs they are "
        "still too narrow: for unrelated random walks, 95 % intervals cover 0 in 83 % of studies of 3 runs, 90 % of 5, "
        f"92 % of 10 (simulated); here there are {runs}."
    )


def _how(config: Config) -> str:
    settings = config.finetune
    folds = "all folds" if settings.folds is None else f"folds {', '.join(map(str, settings.folds))}"
    seeds = ", ".join(map(str, settings.seeds))
    counts = ", ".join("all" if count is None else f"{count:,}" for count in settings.train_windows)
    return (
        f"SCCS and probe are measured on the selection windows, NMI on the motif sites, before fine-tuning except "
        f"after/. Rows without a layer use the checkpoint's own pooling, as in training. Each checkpoint was "
        f"fine-tuned on site: {settings.sites[0]}, {folds}, seeds {seeds}, {counts} training windows "
        f"({settings.draws} draws), stages {', '.join(settings.stages)}, at most {settings.max_epochs} epochs. "
        f"Intervals: 95 %, percentile bootstrap, {RESAMPLES:,} samples, not adjusted "
        "for multiple comparisons: in a table of many layers some exclude 0 by chance. No selection used test scores."
    )


def _correlation_table(correlations: pd.DataFrame) -> str:
    rows = [["outcome", "proxy", "Spearman [95 %]", "Kendall [95 %]", "checkpoints", "runs", "resampled", "remark"]]
    for row in correlations.to_dict("records"):
        cells = ["" if row["remark"] else _interval(row, name) for name in MEASURES]
        names = [OUTCOMES[row["outcome"]], row["proxy"]]
        rows.append([*names, *cells, str(row["checkpoints"]), str(row["runs"]), row["resampled"], row["remark"]])
    return markdown_table(rows)


def _checkpoint_table(table: pd.DataFrame) -> str:
    rows = [
        ["run", "stage", "seed", "step", "objective", *SHOWN_PROXIES.values(), "F1", "AUC", "SCCS after", "NMI after"]
    ]
    for row in table.to_dict("records"):
        f1 = f"{row['f1']:.4f}" + (f" ± {row['f1_sd']:.4f}" if row["n"] > 1 else "")
        proxies = [number(row[proxy], ".3f") for proxy in SHOWN_PROXIES]
        after = [number(row[metric], ".3f") for metric in AFTER]
        seed = "" if pd.isna(row["seed"]) else str(int(row["seed"]))
        start = [plain(row["run"]), row["stage"], seed, str(row["step"]), row["objective"]]
        rows.append([*start, *proxies, f1, f"{row['auc']:.4f}", *after])
    return markdown_table(rows)


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

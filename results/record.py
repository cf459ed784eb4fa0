#!/usr/bin/env python
"""Enter finished runs into results/results.csv.

    python results/record.py RUN [RUN ...]     (rewrites the rows of these runs; the others stay)

One row a number: what was run (config, command, seeds, git commit, date), what came out (arm, site, dataset, metric,
mean, sd, n), and the paired difference to another arm (reference, diff, low, high, p, n_paired, p_holm): that to the
baseline in the arm's own row, every other that the report of the run compares in a row without a mean. RUN is also the
folder of a report of several runs (`evaluate.py report runs/a runs/b` writes runs/a+b): of it only what compares them
is entered. Where the run has the folder of `evaluate.py relate`, its correlations are rows too: the proxy is the arm,
spearman/auc the metric, low and high belong to the mean.

seeds: of pre-training, where an arm was pre-trained under several (of a difference, those that both arms have), else of
its fits. train_windows: labels of a fold's training part that were used, or all. unit: what n_paired counts.
equivalent: p that the arms are equal within evaluate.smallest_effect. seed_low, seed_high: the interval over
pre-training seeds alone. Rows of published papers have their source, and an empty run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simcsp.core.arms import BASELINE, OF_CONTROL, OF_PRETRAINING  # noqa: E402
from simcsp.core.config_file import read_saved  # noqa: E402
from simcsp.core.errors import InputError  # noqa: E402
from simcsp.core.files import read_json, read_table, write_text  # noqa: E402
from simcsp.core.provenance import check_sealed  # noqa: E402
from simcsp.core.run_layout import (  # noqa: E402
    CONFIG,
    CORRELATIONS,
    ENVIRONMENT,
    FINETUNE,
    RELATE,
    RELATE_TABLE,
    REPORT,
    REPORT_CONTRASTS,
    REPORT_TABLE,
    begun_fits,
    begun_stages,
    checkpoint_of,
    finished_fits,
    fit_key,
    is_finished,
    stage_folders,
)
from simcsp.report.collect import CROSS_VALIDATION  # noqa: E402
from utils.script import run_script  # noqa: E402

TABLE = Path(__file__).with_name("results.csv")
OURS = "run here"
MADE = ["run", "config", "command", "seeds", "git", "date"]
ROW = ["arm", "reference", "site", "dataset", "metric"]
TEST = ["diff", "low", "high", "p", "n_paired", "p_holm", "unit", "equivalent", "seed_low", "seed_high"]
NUMBERS = ["mean", "sd", "n", *(name for name in TEST if name != "unit")]
COLUMNS = [*MADE, *ROW, "train_windows", "mean", "sd", "n", *TEST, "source"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a finished run, for example runs/human")
    parser.add_argument(
        "--validation", action="store_true", help="only scores of validation: of runs that were not taken to the test"
    )
    asked = parser.parse_args()
    known = pd.read_csv(TABLE, dtype=str) if TABLE.is_file() else pd.DataFrame(columns=COLUMNS)
    for folder in asked.runs:
        rows = rows_of(folder)
        if asked.validation:
            rows = rows[rows["metric"].str.startswith("val/")]
        known = pd.concat([known[known["run"] != folder.name], rows], ignore_index=True)
        print(f"{folder}: {len(rows)} rows")
    write_text(TABLE, known[COLUMNS].to_csv(index=False))


def rows_of(folder: Path) -> pd.DataFrame:
    """COLUMNS, as text: the report of a run, or of several, with what made it.

    Raises InputError where there is none, and for synthetic data.
    """
    summary = folder / REPORT / REPORT_TABLE
    if not summary.is_file():
        raise InputError(f"{summary} does not exist: run finetune.py, or evaluate.py report {folder}")
    runs = [folder] if (folder / FINETUNE).is_dir() else [folder.parent / name for name in folder.name.split("+")]
    stages = [path / ENVIRONMENT for run in runs for path in sorted([*begun_fits(run), *begun_stages(run)])]
    if not stages:
        raise InputError(f"{folder} has no finished fold, nor have runs beside it of which it is the report")
    main, again = main_size(runs), f"run evaluate.py report {' '.join(map(str, runs))} again"
    if is_finished(summary.parent):  # reports of earlier versions have no seal
        check_sealed(summary.parent, REPORT_TABLE, REPORT_CONTRASTS, remedy=again)
    table = with_contrasts(
        read_table(summary, ["arm", "metric"], again), read_contrasts(folder / REPORT / REPORT_CONTRASTS, main, again)
    )
    if len(runs) > 1:  # all else is in the rows of each
        between = table["arm"].str.contains(":") | table["reference"].str.contains(":")
        table = table[between & table["diff"].notna()].reset_index(drop=True)
    size = table["metric"].str.extract(r"@(\d+)$")[0].fillna(main)
    table["train_windows"] = size.where(table["dataset"] == CROSS_VALIDATION, "")
    seeds = Seeds(runs)
    table["seeds"] = [seeds.of(row.arm, row.reference, row.dataset) for row in table.itertuples()]
    rows = [as_text(table.assign(run=folder.name, **made_by(stages)))]
    if (folder / RELATE / CORRELATIONS).is_file():
        rows.append(as_text(correlations_of(folder / RELATE).assign(run=folder.name)))
    return pd.concat(rows, ignore_index=True)


def made_by(stages: list[Path]) -> dict[str, str]:
    """config, command, git and date from the env.json of stages and folds."""
    envs = [read_json(path) for path in stages]
    if "data/demo" in json.dumps(read_saved(stages[0].with_name(CONFIG))["data"]):
        raise InputError(f"{stages[0].parent} is of synthetic data: the record holds real runs only")
    return {
        "config": next((word for word in envs[0]["argv"] if word.endswith(".yaml")), ""),
        "command": " && ".join(dict.fromkeys(" ".join(map(portable, env["argv"])) for env in reversed(envs))),
        "git": " ".join(sorted({commit_of(env["git"]) for env in envs})),
        "date": max(env["started"] for env in envs)[:10],
        "source": OURS,
    }


def portable(word: str) -> str:
    """A word of a command without the folders of one machine: each absolute path in it, in a list too, from runs/,
    models/, data/ or configs/ on, or else its last part."""

    def tail(path: re.Match[str]) -> str:
        known = re.search(r"/((?:runs|models|data|configs)/.*)", path[0])
        return known[1] if known else path[0].rstrip("/").rpartition("/")[2]

    return re.sub(r"""(?<![^\s=,\["'])/[^,\]"']+""", tail, word)


def commit_of(git: dict[str, str | bool | None]) -> str:
    """Twelve digits of the commit, + where files were changed since; unknown for a run made outside a repository."""
    return "unknown" if git["sha"] is None else git["sha"][:12] + ("+" if git["dirty"] else "")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS with five digits a number, empty where there is none."""
    table = table.reindex(columns=COLUMNS)
    for column in NUMBERS:
        table[column] = [f"{value:.5g}" if pd.notna(value) else "" for value in pd.to_numeric(table[column])]
    return table.astype(object).fillna("").astype(str)


# -- differences -------------------------------------------------------------------------------------------------------


def main_size(runs: list[Path]) -> str:
    """The labels of rows that name none: all where there are such folds, else the most (as the report has it)."""
    sizes = {size_of(path) for run in runs for path in finished_fits(run)}
    return "all" if "all" in sizes else max(sizes, key=int)


def size_of(path: Path) -> str:
    """Labels of a fold's training part that a fit used. path: its folder."""
    return str(fit_key(path).train_windows or "all")


def read_contrasts(path: Path, main: str, again: str) -> pd.DataFrame:
    """ROW and TEST of a report's contrasts.csv, number of labels as summary.csv writes it. again: the remedy."""
    table = read_table(path, ["arm", "reference", "site", "windows", "metric", "n"], again)
    table = table.rename(columns={"n": "n_paired"})
    if lacking := [column for column in TEST if column not in table]:
        raise InputError(f"{path} has no column {lacking[0]}: of an earlier version; {again}")
    size = table["windows"].astype(str).replace("0", "all")
    table["metric"] = table["metric"].where(size == main, table["metric"] + "@" + size)
    return table.assign(dataset=CROSS_VALIDATION)[[*ROW, *TEST]]


def with_contrasts(table: pd.DataFrame, contrasts: pd.DataFrame) -> pd.DataFrame:
    """summary.csv with reference, and what contrasts.csv says beside it; its other comparisons in rows below."""
    table = table.assign(reference=table["diff"].notna().map({True: BASELINE, False: ""})).set_index(ROW)
    contrasts = contrasts.set_index(ROW)
    order = [*table.index, *contrasts.index.difference(table.index, sort=False)]
    return table.combine_first(contrasts).reindex(pd.MultiIndex.from_tuples(order, names=ROW)).reset_index()


class Seeds:
    """Which seeds a row is of, from the folders of its runs."""

    def __init__(self, runs: list[Path]) -> None:
        self.runs = runs
        self.pretrained: dict[str, set[int]] = {}
        self.fits: dict[str, set[int]] = {}
        for run in runs:
            for fit in map(fit_key, finished_fits(run)):
                name = fit.arm if run == runs[0] else f"{run.name}:{fit.arm}"
                self.pretrained.setdefault(name, set()).update({fit.pretrain_seed} - {None})
                self.fits.setdefault(name, set()).add(fit.seed)

    def of(self, arm: str, reference: str, dataset: str) -> str:
        """Ascending, a space between them. dataset: a proxy is of all pre-training seeds, fine-tuned or not."""
        if dataset != CROSS_VALIDATION and arm in (*OF_PRETRAINING, *OF_CONTROL):
            of_arm, of_reference = {*stage_folders(self.runs[0], checkpoint_of(arm)[0])} - {None}, set()
        else:
            of_arm, of_reference = (self.pretrained.get(name, set()) for name in (arm, reference))
        seeds = of_arm & of_reference if of_arm and of_reference else of_arm or of_reference
        return " ".join(map(str, sorted(seeds or self.fits.get(arm) or set().union(*self.fits.values()))))


# -- evaluate.py relate ------------------------------------------------------------------------------------------------


def correlations_of(folder: Path) -> pd.DataFrame:
    """Rows of `evaluate.py relate`: rank correlations, over checkpoints (n), of a proxy (arm) with AUC or F1.

    n_paired: how many the interval resamples (unit).
    """
    again = "run evaluate.py relate again"
    table = read_table(folder / CORRELATIONS, ["outcome", "proxy", "checkpoints", "runs", "resampled"], again)
    checkpoints = read_table(folder / RELATE_TABLE, ["run", "seed"], again)
    runs = [folder.parents[1] / Path(run).name for run in dict.fromkeys(checkpoints["run"])]  # each keeps its own fits
    fits = [fit for run in runs for fit in begun_fits(run / RELATE)]
    made = made_by([fit / ENVIRONMENT for fit in fits])
    rows = []
    for kind in ("spearman", "kendall"):
        values = {"mean": table[kind], "low": table[f"{kind}_low"], "high": table[f"{kind}_high"]}
        about = {"arm": table["proxy"], "site": "both", "dataset": CROSS_VALIDATION, "unit": table["resampled"]}
        about |= {"metric": f"{kind}/" + table["outcome"], "n": table["checkpoints"]}
        about["n_paired"] = table["runs"].where(table["resampled"] == "runs", table["checkpoints"])
        rows.append(pd.DataFrame(about | values).dropna(subset="mean"))
    size = " ".join(sorted({size_of(fit) for fit in fits}))
    seeds = " ".join(map(str, sorted(set(checkpoints["seed"]))))
    return pd.concat(rows, ignore_index=True).assign(train_windows=size, seeds=seeds, **made)


if __name__ == "__main__":
    run_script(main)

#!/usr/bin/env python
"""Enter finished runs into results/results.csv.

    python results/record.py RUN [RUN ...]     (rewrites the rows of these runs; the others stay)

One row a number: what was run (config, command, seeds, git commit, date), what came out (arm, site, dataset, metric,
mean, sd, n, and the paired difference to the baseline arm). Rows of published papers have their source, and an empty
run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import InputError, run_script  # noqa: E402
from utils.files import read_json, read_table, write_text  # noqa: E402
from utils.saved import read_saved  # noqa: E402

TABLE = Path(__file__).with_name("results.csv")
OURS = "run here"


def main() -> None:
    if len(sys.argv) < 2:
        raise InputError("record.py needs finished run folders, for example runs/human")
    known = pd.read_csv(TABLE, dtype=str) if TABLE.is_file() else pd.DataFrame()
    for folder in map(Path, sys.argv[1:]):
        found = rows_of(folder)
        rest = known[known["run"] != folder.name] if len(known) else known
        known = pd.concat([rest, found.astype(str).replace({"nan": "", "None": ""})], ignore_index=True)
        print(f"{folder}: {len(found)} rows")
    write_text(TABLE, known.to_csv(index=False))


def rows_of(folder: Path) -> pd.DataFrame:
    """The report of a run, with what made it. Raises InputError where there is none, or for synthetic data."""
    summary = folder / "report/summary.csv"
    if not summary.is_file():
        raise InputError(f"{summary} does not exist: run finetune.py, or evaluate.py report {folder}")
    patterns = ("finetune/*/*/**/seed*/fold*", "*", "pretrain/seed*", "control/seed*")
    stages = sorted(path for pattern in patterns for path in folder.glob(f"{pattern}/env.json"))
    envs = [read_json(path) for path in stages]
    config = read_saved(stages[0].with_name("config.yaml"))
    if "data/demo" in json.dumps(config["data"]):
        raise InputError(f"{folder} is of synthetic data: the record holds real runs only")
    commits = {commit_of(env["git"]) for env in envs}
    seeds = {str(path.parts[-3].removeprefix("seed")) for path in stages if path.parts[-2].startswith("fold")}
    made = {
        "run": folder.name,
        "config": next((word for word in envs[0]["argv"] if word.endswith(".yaml")), ""),
        "command": " && ".join(dict.fromkeys(" ".join(env["argv"]) for env in reversed(envs))),
        "seeds": " ".join(sorted(seeds)),
        "git": " ".join(sorted(commits)),
        "date": max(env["started"] for env in envs)[:10],
    }
    table = read_table(summary, ["arm", "metric"], f"run evaluate.py report {folder} again")
    numbers = table.select_dtypes("float").columns
    table[numbers] = table[numbers].map(lambda value: f"{value:.5g}" if pd.notna(value) else "")
    return pd.concat([pd.DataFrame([made] * len(table)), table], axis=1).assign(source=OURS)


def commit_of(git: dict[str, str | bool | None]) -> str:
    """Twelve digits of the commit, + where files were changed since; unknown for a run made outside a repository."""
    return "unknown" if git["sha"] is None else git["sha"][:12] + ("+" if git["dirty"] else "")


if __name__ == "__main__":
    run_script(main)

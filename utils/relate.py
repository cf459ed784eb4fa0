"""Experiment 1: do the proxies of pre-training checkpoints (SCCS, NMI, probe AUC) tell F1 after fine-tuning from them?
The checkpoints of runs, their proxies, rank correlations with intervals, and the text that says it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator

from utils.backbone import MIX, check_length, load_backbone, read_pooling
from utils.caveats import SYNTHETIC, is_synthetic
from utils.config import Config, flatten, to_dict
from utils.errors import InputError
from utils.motifs import Motifs
from utils.plots import plt, proxy_scatter, save_figure
from utils.proxies import measure_layers
from utils.run import replace_folder, sha256_folder, write_json, write_text
from utils.spliceator import Windows

FOLDER = "relate"  # of a run: what relate writes there
HEADLINES = {"sccs": "SCCS", "nmi": "NMI", "probe": "probe AUC"}
"""Proxies as they are watched in training: of the pooling and layer that the checkpoint records."""
AFTER = ("after/sccs", "after/nmi")
FEWEST_CHECKPOINTS = 4  # with fewer a rank correlation takes a handful of values and its interval says nothing
FEWEST_RUNS = 3  # from here on runs are resampled, and the result is more than exploratory
RESAMPLES = 10_000
_MEASURES = ("spearman", "kendall")


@dataclass(frozen=True)
class Checkpoint:
    """One kept checkpoint of a run. stage: 'pretrain' or 'control'; objective: 'start' at step 0."""

    run: Path
    stage: str
    step: int
    objective: str
    folder: Path
    sha256: str

    @property
    def arm(self) -> str:
        """Its name among the arms of fine-tuning, such as 'pretrain-000025'."""
        return f"{self.stage}-{self.step:06d}"


# -- checkpoints and their proxies -------------------------------------------------------------------------------------


def find_checkpoints(runs: Sequence[Path]) -> list[Checkpoint]:
    """Every kept checkpoint of the runs and of their controls, each content once.

    best_sccs, best_nmi and last are copies of some step, and count where save_total_limit has removed it; a start that
    several runs share counts for the first of them. Raises InputError for a run without finished pre-training.
    """
    found: dict[str, Checkpoint] = {}
    for run in runs:
        if not (run / "pretrain/summary.json").is_file():
            raise InputError(f"{run}/pretrain is not finished: relate needs the checkpoints of a run of pretrain.sh")
        for stage in ("pretrain", "control"):
            path = run / stage / "summary.json"
            if not path.is_file():  # a run need not have a control
                continue
            summary = json.loads(path.read_text())
            for folder, step in _steps(path.parent / "checkpoints", summary):
                digest = sha256_folder(folder)
                objective = summary["objective"] if step else "start"
                found.setdefault(digest, Checkpoint(run, stage, step, objective, folder, digest))
    return list(found.values())


def _steps(checkpoints: Path, summary: dict[str, Any]) -> list[tuple[Path, int]]:
    """(folder, step) of a stage's checkpoints by step, a step's own folder before the copies of it."""
    steps = {path.name: int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*[0-9]")}
    steps |= {f"best_{proxy}": best["step"] for proxy, best in summary["best"].items()}
    steps = {"start": 0, **dict(sorted(steps.items(), reverse=True)), "last": summary["steps"]}
    there = [(checkpoints / name, step) for name, step in steps.items() if (checkpoints / name).is_dir()]
    return sorted(there, key=lambda pair: pair[1])


def require_same_data(configs: dict[Path, Config]) -> None:
    """Refuse runs whose proxies or F1 cannot be compared, naming the difference.

    configs: {run: what its checkpoints are measured and fine-tuned under}. The pre-training text may differ.
    """
    runs = list(configs)
    settings = {run: _measured_under(run, config) for run, config in configs.items()}
    for run in runs[1:]:
        for key, value in settings[runs[0]].items():
            if settings[run][key] != value:
                raise InputError(
                    f"{runs[0]} and {run} cannot be related together: {key} is {value} there and {settings[run][key]} "
                    "here; give it on the command line where it is a setting, or relate them one by one"
                )


def _measured_under(run: Path, config: Config) -> dict[str, Any]:
    """All that decides proxies and F1 besides the checkpoint, flat."""
    path = run / "splits/splits.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist: the run has no labelled windows (data.spliceator) to fine-tune on")
    data = ("context", "motif_bed", "motif_fasta", "motif_window")
    values = to_dict(config)
    finetune = {key: value for key, value in values["finetune"].items() if key != "arms"}
    measured = {"seed": config.seed, "precision": config.precision, "splits": json.loads(path.read_text())}
    measured |= {"data": {key: values["data"][key] for key in data}, "finetune": finetune}
    return flatten(measured | {"evaluate": values["evaluate"]})


def share_splits(run: Path) -> None:
    """Give RUN/relate, which fine-tuning takes for a run folder, the splits of the run."""
    target = run / FOLDER / "splits"
    if not target.is_dir():
        with replace_folder(target) as folder:
            shutil.copytree(run / "splits", folder, dirs_exist_ok=True)


def measure_proxies(
    checkpoint: Checkpoint, chosen: Windows, motifs: Motifs | None, config: Config, accelerator: Accelerator
) -> dict[str, Any]:
    """{'pooling': ..., 'layers': measure_layers of it}, from RUN/relate/proxies where it has been measured before."""
    path = checkpoint.run / FOLDER / f"proxies/{checkpoint.arm}.json"
    inputs = {
        "checkpoint": checkpoint.sha256,
        "windows": chosen.sha256,
        "motifs": None if motifs is None else motifs.sha256,
        "context": config.data.context,
        "sccs_pairs": config.evaluate.sccs_pairs,
        "seed": config.seed,
        "precision": accelerator.mixed_precision,
    }
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved["inputs"] == inputs:
            return saved["scores"]
    model, pooling, _ = load_backbone(config.model.saved_as(checkpoint.folder))
    check_length(model, config.data.context, "data.context")
    if motifs is not None:
        check_length(model, config.data.motif_window, "data.motif_window")
    model.to(accelerator.device)
    scores = {
        "pooling": pooling,
        "layers": measure_layers(model.bert, chosen, motifs, config, accelerator.autocast),
    }
    write_json(path, {"inputs": inputs, "scores": scores})
    return scores


def proxy_columns(scores: dict[str, Any], nmi_layer: int | None) -> dict[str, Any]:
    """pooling; sccs, nmi, probe as training watches them, then sccs_layerK, nmi_layerK, probe_layerK of every layer.

    scores: of `measure_proxies`. SCCS and probe are of the kind of pooling that the checkpoint records, NMI of the two
    central bases; nmi without a layer is of `nmi_layer`, None: the last. NaN where there is no such thing: NMI without
    motif sites, [CLS] of layer 0.
    """
    rows, (kind, layer) = scores["layers"], read_pooling(scores["pooling"])
    names = list(dict.fromkeys(row.rpartition(" ")[0] for row in rows))
    last = len([name for name in names if name != MIX]) - 1
    if nmi_layer is not None and nmi_layer > last:
        raise InputError(f"evaluate.nmi_layer: layer {nmi_layer} does not exist: the encoder has {last} blocks")
    own = MIX if layer == MIX else f"layer {last if layer is None else layer}"
    of_nmi = f"layer {last if nmi_layer is None else nmi_layer}"
    wanted = {
        "sccs": (kind, "sccs", own),
        "nmi": ("centre", "nmi", of_nmi),
        "probe": (kind, "probe_auc", own),
    }

    def read(name: str, kind: str, score: str) -> float:
        return rows.get(f"{name} {kind}", {}).get(score, np.nan)

    columns = {"pooling": scores["pooling"]}
    columns |= {proxy: read(name, kind, score) for proxy, (kind, score, name) in wanted.items()}
    for proxy, (kind, score, _) in wanted.items():
        columns |= {f"{proxy}_{name.replace(' ', '')}": read(name, kind, score) for name in names}
    return columns


def finetuned_scores(checkpoint: Checkpoint, config: Config) -> dict[str, float]:
    """f1, f1_sd, f1_n, auc over the folds and seeds that the config asks for; SCCS and NMI before and after.

    Those before are of the same test windows and sites as those after. NaN where nothing was measured.
    """
    settings = config.finetune
    folder = checkpoint.run / FOLDER / f"finetune/{checkpoint.arm}/{settings.sites[0]}"
    summaries = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*/fold*/summary.json"))]
    scores = pd.DataFrame(
        [
            summary["metrics"]
            for summary in summaries
            if summary["seed"] in settings.seeds and (settings.folds is None or summary["fold"] in settings.folds)
        ]
    )
    f1 = scores["test/f1"]
    found = {"f1": f1.mean(), "f1_sd": f1.std(ddof=1), "f1_n": len(f1), "auc": scores["test/auc"].mean()}
    for metric in ("before/sccs", "after/sccs", "before/nmi", "after/nmi"):
        found[metric] = scores[metric].mean() if metric in scores else np.nan
    return found


def drop_weights(run: Path) -> None:
    """Remove the classifiers fitted under RUN/relate: their scores are what is wanted, and they would fill the disk and
    be taken for models of the run."""
    for path in (run / FOLDER).glob("finetune/*/*/seed*/fold*/checkpoints/best"):
        shutil.rmtree(path)


# -- correlations ------------------------------------------------------------------------------------------------------


def rank_correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Spearman's rho and Kendall's tau-b of x, y [n] in samples that hold each point so many times: weights [b, n].

    Both from signs of differences: the rank of a point, its sample's mean taken off, is half the sum of the signs of
    its differences to the others (ties share their mean rank), and tau-b is the correlation of the signs themselves
    (Kendall 1945). Each [b]; NaN where x or y has one value.
    """
    signs = [np.sign(values[:, None] - values) for values in (x, y)]
    ranks = [weights @ sign.T for sign in signs]
    products = {
        "spearman": lambda i, j: (weights * ranks[i] * ranks[j]).sum(axis=1),
        "kendall": lambda i, j: ((weights @ (signs[i] * signs[j])) * weights).sum(axis=1),
    }
    with np.errstate(invalid="ignore"):
        return {name: of(0, 1) / np.sqrt(of(0, 0) * of(1, 1)) for name, of in products.items()}


def resample(runs: np.ndarray, seed: int) -> np.ndarray:
    """How often each checkpoint is in each bootstrap sample, [RESAMPLES, n]: whole runs are drawn where there are
    FEWEST_RUNS of them, since checkpoints of one run are not independent, else checkpoints. runs: [n]."""
    units, unit = np.unique(runs, return_inverse=True)
    if len(units) < FEWEST_RUNS:
        unit = np.arange(len(runs))
    count = unit.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn[:, unit].astype(float)


def correlate(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Spearman and Kendall of each proxy with f1, with 95 % percentile bootstrap intervals.

    table: as of `relate_table`. Columns: proxy, checkpoints, runs, spearman, spearman_low, spearman_high, kendall,
    kendall_low, kendall_high, resampled ('runs' or 'checkpoints'), remark (why there is no correlation).
    """
    proxies = [name for name in table if name.partition("_")[0] in HEADLINES and table[name].notna().any()]
    proxies += [name for name in AFTER if table[name].notna().any()]
    return pd.DataFrame([_correlation(proxy, table, seed) for proxy in proxies])


def _correlation(proxy: str, table: pd.DataFrame, seed: int) -> dict[str, Any]:
    mine = table[table[proxy].notna()]
    x, y = mine[proxy].to_numpy(), mine["f1"].to_numpy()
    runs = mine["run"].nunique()
    row = {"proxy": proxy, "checkpoints": len(mine), "runs": runs}
    row |= {f"{name}{part}": np.nan for name in _MEASURES for part in ("", "_low", "_high")}
    row |= {"resampled": "runs" if runs >= FEWEST_RUNS else "checkpoints", "remark": ""}
    if len(mine) < FEWEST_CHECKPOINTS:
        return row | {"remark": f"fewer than {FEWEST_CHECKPOINTS} checkpoints"}
    for values, what in ((x, "the proxy"), (y, "F1")):
        if (values == values[0]).all():
            return row | {"remark": f"{what} is the same for all"}
    here = rank_correlations(x, y, np.ones((1, len(mine))))
    resampled = rank_correlations(x, y, resample(mine["run"].to_numpy(), seed))
    for name in _MEASURES:
        low, high = np.nanpercentile(resampled[name], [2.5, 97.5])
        row |= {name: here[name][0], f"{name}_low": low, f"{name}_high": high}
    return row


# -- table, text and figure --------------------------------------------------------------------------------------------


def relate_table(
    checkpoints: list[Checkpoint], proxies: list[dict[str, Any]], configs: dict[Path, Config]
) -> pd.DataFrame:
    """One row a checkpoint: run, stage, step, objective, its proxies, its scores after fine-tuning.

    proxies: `proxy_columns` of each checkpoint.
    """
    rows = []
    for checkpoint, columns in zip(checkpoints, proxies):
        start = {"run": str(checkpoint.run), "stage": checkpoint.stage, "step": checkpoint.step}
        start["objective"] = checkpoint.objective
        rows.append(start | columns | finetuned_scores(checkpoint, configs[checkpoint.run]))
    return pd.DataFrame(rows)


def write_relation(table: pd.DataFrame, config: Config, run: Path) -> str:
    """Write relate.csv, correlations.csv, relate.png and relate.md to RUN/relate; returns the text for the terminal.

    table: as of `relate_table`. config: of that run.
    """
    out = run / FOLDER
    correlations = correlate(table, config.seed)
    write_text(out / "relate.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(out / "correlations.csv", correlations.to_csv(index=False, float_format="%.6g"))
    suffix = " (synthetic data)" if is_synthetic(run) else ""
    there = {proxy: label for proxy, label in HEADLINES.items() if table[proxy].notna().any()}
    figure = proxy_scatter(table, there, f"F1 after fine-tuning against proxies before it{suffix}")
    save_figure(figure, out / "relate.png")
    plt.close(figure)
    verdict = plain_sentence(correlations)
    parts = [f"# {run.name}: do the proxies tell F1?", *([f"> {SYNTHETIC}"] if suffix else []), f"**{verdict}**"]
    parts += [spread_sentence(table), _caveat(table["run"].nunique())]
    parts += ["## Rank correlation with F1", _correlation_table(correlations), _how(config)]
    parts += ["![F1 against each proxy](relate.png)", "## Checkpoints", _checkpoint_table(table)]
    write_text(out / "relate.md", "\n\n".join(parts) + "\n")
    lines = [verdict, spread_sentence(table), *([SYNTHETIC] if suffix else [])]
    return "\n".join([*lines, f"relate: {out}/relate.md, relate.csv, correlations.csv, relate.png"])


def plain_sentence(correlations: pd.DataFrame) -> str:
    """The answer for the headline proxies, from `correlate`: told are those whose interval leaves out 0."""
    rows = correlations[correlations["proxy"].isin(HEADLINES)]
    if rows.empty:
        raise ValueError("no headline proxy was measured")
    runs, checkpoints = rows["runs"].max(), rows["checkpoints"].max()
    said = []
    for row in rows.to_dict("records"):
        name = HEADLINES[row["proxy"]]
        if row["remark"]:
            said.append(f"{name} has no correlation with F1 ({row['remark']})")
            continue
        verb = "does not tell F1"
        if row["spearman_low"] > 0 or row["spearman_high"] < 0:
            verb = "tells F1" if row["spearman"] > 0 else "runs against F1"
        said.append(f"{name} {verb} (Spearman {_interval(row, 'spearman')})")
    kind = "exploratory: fewer than three runs" if runs < FEWEST_RUNS else "intervals over runs"
    return (
        f"Over {_count(checkpoints, 'checkpoint')} of {_count(runs, 'run')}, before fine-tuning "
        f"{', '.join(said)}; {kind}."
    )


def spread_sentence(table: pd.DataFrame) -> str:
    """How far F1 differs between checkpoints, against its spread over the folds of one."""
    text = f"F1 of the checkpoints goes from {table['f1'].min():.4f} to {table['f1'].max():.4f}"
    folds = int(table["f1_n"].min())
    if folds < 2:
        return f"{text}, each from one fit alone, so that its own error is not known."
    return f"{text}; over the {folds} fits of one checkpoint its standard deviation is {table['f1_sd'].median():.4f}."


def _caveat(runs: int) -> str:
    if runs < FEWEST_RUNS:
        return (
            "Checkpoints of one run follow one another, so they are not independent: proxies and F1 that merely drift "
            "with the step seem related. The intervals resample checkpoints as if they were independent and are too "
            "narrow: of two unrelated random walks, 95 % intervals leave out 0 in 23 % of runs of 9 checkpoints and "
            f"37 % of runs of 17 (simulated). Relate {FEWEST_RUNS} runs or more (other seeds or objectives) for a "
            "result to rely on."
        )
    return (
        "Checkpoints of one run are not independent, so the intervals resample whole runs. With few runs they are too "
        f"narrow still: of unrelated random walks, 95 % intervals hold 0 for 83 % of studies of 3 runs, 90 % of 5, "
        f"92 % of 10 (simulated); here there are {runs}."
    )


def _how(config: Config) -> str:
    settings = config.finetune
    folds = "all folds" if settings.folds is None else f"folds {', '.join(map(str, settings.folds))}"
    seeds = ", ".join(map(str, settings.seeds))
    return (
        f"SCCS and probe are of the selection windows, NMI of the motif sites, all before fine-tuning but those called "
        f"after/. Rows without a layer are as training watches them: the checkpoint's own pooling. Each checkpoint was "
        f"fine-tuned on site: {settings.sites[0]}, {folds}, seeds {seeds}, stages {', '.join(settings.stages)}, at "
        f"most {settings.max_epochs} epochs. Intervals: 95 %, percentile bootstrap, {RESAMPLES:,} samples; they hold "
        "for one row at a time, and a table of many layers has some that leave out 0 by chance. F1 was used to choose "
        "nothing."
    )


def _correlation_table(correlations: pd.DataFrame) -> str:
    rows = [["proxy", "Spearman [95 %]", "Kendall [95 %]", "checkpoints", "runs", "resampled", "remark"]]
    for row in correlations.to_dict("records"):
        cells = ["" if row["remark"] else _interval(row, name) for name in _MEASURES]
        rows.append([row["proxy"], *cells, str(row["checkpoints"]), str(row["runs"]), row["resampled"], row["remark"]])
    return _table(rows)


def _checkpoint_table(table: pd.DataFrame) -> str:
    rows = [["run", "stage", "step", "objective", *HEADLINES.values(), "F1", "AUC", "SCCS after", "NMI after"]]
    for row in table.to_dict("records"):
        f1 = f"{row['f1']:.4f}" + (f" ± {row['f1_sd']:.4f}" if row["f1_n"] > 1 else "")
        proxies = [_number(row[proxy]) for proxy in HEADLINES]
        after = [_number(row[metric]) for metric in AFTER]
        start = [row["run"], row["stage"], str(row["step"]), row["objective"]]
        rows.append([*start, *proxies, f1, f"{row['auc']:.4f}", *after])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

"""Experiment 1: do the proxies of pre-training checkpoints (SCCS, NMI, probe AUC) tell F1 and AUC after fine-tuning
from them? The checkpoints of runs, their proxies, and rank correlations with intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator

from simcsp.core import run_layout as layout
from simcsp.core.config import Config, FinetuneConfig, flatten, to_dict
from simcsp.core.errors import InputError
from simcsp.core.files import copy_files, mend_folder, read_json, remove_folder, replace_folder, write_json
from simcsp.core.provenance import changed_inputs, check_sealed_checkpoint
from simcsp.labels.motifs import Motifs
from simcsp.labels.spliceator import Windows
from simcsp.metrics.pooling import check_stages
from simcsp.metrics.proxies import measure_layers
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import MIX, check_length, read_pooling

SHOWN_PROXIES = {"sccs": "SCCS", "nmi": "NMI", "probe": "probe AUC"}
"""Proxies as they are watched in training: of the pooling and layer that the checkpoint records."""
OUTCOMES = {"f1": "F1", "auc": "AUC"}
"""What the proxies are to tell: means over the test parts of the fits from a checkpoint."""
AFTER = ("after/sccs", "after/nmi")
FEWEST_CHECKPOINTS = 4  # with fewer a rank correlation takes a handful of values and its interval says nothing
FEWEST_RUNS = 3  # from here on runs are resampled, and the result is more than exploratory
RESAMPLES = 10_000
MEASURES = ("spearman", "kendall")


@dataclass(frozen=True)
class Checkpoint:
    """One kept checkpoint of a run. stage: 'pretrain' or 'control'; seed: that of its pre-training, None where the run
    has one; objective: 'start' at step 0."""

    run: Path
    stage: str
    seed: int | None
    step: int
    objective: str
    folder: Path
    sha256: str

    @property
    def arm(self) -> str:
        """Its name among the arms of fine-tuning, such as 'pretrain-000025' or 'pretrain-seed3-000025'."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{self.stage}{seed}-{self.step:06d}"

    @property
    def unit(self) -> str:
        """What is independent of other units: a run, or one pre-training seed of it with its control."""
        return str(self.run) if self.seed is None else f"{self.run}:{self.seed}"


# -- checkpoints and their proxies -------------------------------------------------------------------------------------


def find_checkpoints(runs: Sequence[Path]) -> list[Checkpoint]:
    """Every kept checkpoint of the runs and of their controls, each content once.

    best_sccs, best_nmi and last are copies of some step, and count where save_total_limit has removed it; a start that
    several runs share counts for the first of them. Raises InputError for a run without finished pre-training.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for run in runs:
        check_stages(run)
        stages = {stage: layout.finished_stages(run, stage) for stage in (layout.PRETRAIN, layout.CONTROL_STAGE)}
        if not stages[layout.PRETRAIN]:
            raise InputError(f"{run}/pretrain is not finished: relate needs the checkpoints of a run of pretrain.sh")
        for stage, seed, path in [(stage, *item) for stage, folders in stages.items() for item in folders.items()]:
            summary = read_json(path / layout.SUMMARY)
            for folder, step in _steps(path, summary):
                check_sealed_checkpoint(folder)
                digest = sha256_folder(folder, card=False)
                objective = summary["objective"] if step else "start"
                checkpoints.setdefault(digest, Checkpoint(run, stage, seed, step, objective, folder, digest))
    return list(checkpoints.values())


def _steps(stage: Path, summary: dict[str, Any]) -> list[tuple[Path, int]]:
    names = {layout.best_of(proxy): best["step"] for proxy, best in summary["best"].items()}
    names |= {layout.LAST: summary["steps"]}
    steps = {layout.checkpoint_path(stage, layout.START): 0}
    steps |= {folder: step for step, folder in layout.step_checkpoints(stage).items()}
    steps |= {layout.checkpoint_path(stage, name): step for name, step in names.items()}
    return sorted(((folder, step) for folder, step in steps.items() if folder.is_dir()), key=lambda pair: pair[1])


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
    path = run / layout.SPLITS / layout.SPLITS_RECORD
    if not path.is_file():
        raise InputError(f"{path} does not exist: the run has no labelled windows (data.spliceator) to fine-tune on")
    data = ("context", "motif_bed", "motif_fasta", "motif_window")
    values = to_dict(config)
    finetune = {key: value for key, value in values["finetune"].items() if key != "arms"}
    splits = {key: value for key, value in read_json(path).items() if key != "sha256"}  # older runs have no hashes
    measured = {"seed": config.seed, "precision": config.precision, "splits": splits}
    measured |= {"data": {key: values["data"][key] for key in data}, "finetune": finetune}
    return flatten(measured | {"evaluate": values["evaluate"]})


def share_splits(run: Path) -> None:
    """Give RUN/relate, which fine-tuning takes for a run folder, the splits of the run."""
    target = run / layout.RELATE / layout.SPLITS
    if not target.is_dir():
        with replace_folder(target) as folder:
            copy_files(run / layout.SPLITS, folder)


def measure_proxies(
    checkpoint: Checkpoint, chosen: Windows, motifs: Motifs | None, config: Config, accelerator: Accelerator
) -> dict[str, Any]:
    """{'pooling': ..., 'layers': measure_layers of it}, from RUN/relate/proxies where it has been measured before.

    Raises InputError where it was measured on other inputs and fits have begun with these."""
    path = checkpoint.run / layout.RELATE / f"proxies/{checkpoint.arm}.json"
    inputs = {
        "checkpoint": checkpoint.sha256,
        "windows": chosen.sha256,
        "motifs": None if motifs is None else motifs.sha256,
        "context": config.data.context,
        "sccs_pairs": config.evaluate.sccs_pairs,
        "seed": config.seed,
        "precision": accelerator.mixed_precision,
    }
    mend_folder(path.parent, path.name)  # where a kill came after it was written
    if path.is_file():
        saved = read_json(path, "delete it to measure it again")
        if saved["inputs"] == inputs:
            return saved["scores"]
        if layout.begun_fits(checkpoint.run / layout.RELATE):
            changed = "; ".join(changed_inputs(saved["inputs"], inputs, to_dict(config)))
            raise InputError(
                f"{path} was measured on other inputs ({changed}), and fits have begun with these: delete "
                f"{path.parents[1]} to start over"
            )
    model, pooling, _ = load_backbone(config.model.saved_as(checkpoint.folder))
    check_length(model, config.data.context, "data.context")
    if motifs is not None:
        check_length(model, config.data.motif_window, "data.motif_window")
    model.to(accelerator.device)
    encoder = Encoder(model.bert, pooling, config.evaluate.batch_size, accelerator.autocast)
    layers = measure_layers(encoder, chosen, config.data.context, motifs, config.evaluate, config.seed)
    scores = {"pooling": pooling, "layers": layers}
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
    wanted = {"sccs": (kind, "sccs", own), "nmi": ("centre", "nmi", of_nmi), "probe": (kind, "probe_auc", own)}

    def read(name: str, kind: str, score: str) -> float:
        return rows.get(f"{name} {kind}", {}).get(score, np.nan)

    columns = {"pooling": scores["pooling"]}
    columns |= {proxy: read(name, kind, score) for proxy, (kind, score, name) in wanted.items()}
    for proxy, (kind, score, _) in wanted.items():
        columns |= {f"{proxy}_{name.replace(' ', '')}": read(name, kind, score) for name in names}
    return columns


def finetuned_scores(checkpoint: Checkpoint, config: Config) -> dict[str, float]:
    """n, f1, f1_sd, auc, auc_sd over the fits that the config asks for; SCCS and NMI before and after.

    Those before are of the same test windows and sites as those after. NaN where nothing was measured.
    """
    settings = config.finetune
    folders = layout.finished_fits(checkpoint.run / layout.RELATE, checkpoint.arm, settings.sites[0])
    summaries = [read_json(folder / layout.SUMMARY) for folder in folders]
    scores = pd.DataFrame([summary["metrics"] for summary in summaries if _asked_for(summary, settings)])
    row = {"n": len(scores)}
    for outcome in OUTCOMES:
        values = scores[f"test/{outcome}"]
        row |= {outcome: values.mean(), f"{outcome}_sd": values.std(ddof=1)}
    for metric in ("before/sccs", "after/sccs", "before/nmi", "after/nmi"):
        row[metric] = scores[metric].mean() if metric in scores else np.nan
    return row


def _asked_for(summary: dict[str, Any], settings: FinetuneConfig) -> bool:
    return (
        summary["seed"] in settings.seeds
        and (settings.folds is None or summary["fold"] in settings.folds)
        and summary.get("train_windows") in settings.train_windows
        and (summary.get("draw") or 0) < settings.draws
    )


def drop_weights(run: Path) -> None:
    """Remove the classifiers fitted under RUN/relate: their scores are what is wanted, and they would fill the disk and
    be taken for models of the run."""
    for fit in layout.finished_fits(run / layout.RELATE):
        checkpoint = layout.checkpoint_path(fit)
        mend_folder(checkpoint.parent, checkpoint.name)  # where a kill has cut off the removal
        if checkpoint.is_dir():
            remove_folder(checkpoint)


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


def resample(units: np.ndarray, seed: int) -> np.ndarray:
    """How often each checkpoint is in each bootstrap sample, [RESAMPLES, n]: whole runs are drawn where there are
    FEWEST_RUNS of them, since checkpoints of one run are not independent, else checkpoints. units: [n], the run or
    pre-training seed of each."""
    names, unit = np.unique(units, return_inverse=True)
    if len(names) < FEWEST_RUNS:
        unit = np.arange(len(units))
    count = unit.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn[:, unit].astype(float)


def correlate(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Spearman and Kendall of each proxy with each outcome, with 95 % percentile bootstrap intervals.

    table: as of `relate_table`. Columns: outcome, proxy, checkpoints, runs, spearman, spearman_low, spearman_high,
    kendall, kendall_low, kendall_high, resampled ('runs' or 'checkpoints'), remark (why there is no correlation).
    A run of several pre-training seeds counts as so many runs.
    """
    proxies = [name for name in table if name.partition("_")[0] in SHOWN_PROXIES and table[name].notna().any()]
    proxies += [name for name in AFTER if table[name].notna().any()]
    return pd.DataFrame([_correlation(outcome, proxy, table, seed) for outcome in OUTCOMES for proxy in proxies])


def _correlation(outcome: str, proxy: str, table: pd.DataFrame, seed: int) -> dict[str, Any]:
    measured = table[table[proxy].notna()]
    x, y = measured[proxy].to_numpy(), measured[outcome].to_numpy()
    runs = measured["unit"].nunique()
    row = {"outcome": outcome, "proxy": proxy, "checkpoints": len(measured), "runs": runs}
    row |= {f"{name}{part}": np.nan for name in MEASURES for part in ("", "_low", "_high")}
    row |= {"resampled": "runs" if runs >= FEWEST_RUNS else "checkpoints", "remark": ""}
    if len(measured) < FEWEST_CHECKPOINTS:
        return row | {"remark": f"fewer than {FEWEST_CHECKPOINTS} checkpoints"}
    for values, what in ((x, "the proxy"), (y, OUTCOMES[outcome])):
        if (values == values[0]).all():
            return row | {"remark": f"{what} is the same for all"}
    observed = rank_correlations(x, y, np.ones((1, len(measured))))
    resampled = rank_correlations(x, y, resample(measured["unit"].to_numpy(), seed))
    for name in MEASURES:
        low, high = np.nanpercentile(resampled[name], [2.5, 97.5])
        row |= {name: observed[name][0], f"{name}_low": low, f"{name}_high": high}
    return row


# -- table, text and figure --------------------------------------------------------------------------------------------


def relate_table(
    checkpoints: list[Checkpoint], proxies: list[dict[str, Any]], configs: dict[Path, Config]
) -> pd.DataFrame:
    """One row a checkpoint: run, stage, seed, unit, step, objective, its proxies, its scores after fine-tuning.

    proxies: `proxy_columns` of each checkpoint.
    """
    rows = []
    for checkpoint, columns in zip(checkpoints, proxies):
        start = {"run": str(checkpoint.run), "stage": checkpoint.stage, "seed": checkpoint.seed}
        start |= {"unit": checkpoint.unit, "step": checkpoint.step, "objective": checkpoint.objective}
        rows.append(start | columns | finetuned_scores(checkpoint, configs[checkpoint.run]))
    return pd.DataFrame(rows)

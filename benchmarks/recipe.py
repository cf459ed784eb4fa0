#!/usr/bin/env python
"""The whole published recipe at small scale, ours against the same assembled from other libraries (assembled.py).

    python benchmarks/recipe.py [--pairs 5] [--workers 2] [--json FILE]

A row of run.py; here also the seconds of each part and the scores of both sides.
Ours is what a user types: `pretrain.py CONFIG`, then `finetune.py CONFIG`, in a new run folder. Both sides run in turns
(ours, theirs, ours, theirs, ...) in processes of their own, and what is timed is the wall from the start of a side's
first process to the end of its last, imports, checkpoints and reports included. They have the same text windows in the
same order, labelled windows, folds, SCCS pairs, motif sites, start checkpoint, learning rates, steps, patience and
dropout (SpliceBERT's .1, of attention too); each pair has a seed of its own. Ours fits the folds in --workers processes
that share the cores, which the pipeline offers its users; theirs has one process with torch's own choice of threads,
one a core. On one core: OMP_NUM_THREADS=1 and --workers 1.

What is compared with what: SCCS is measured on every fold's training windows there and on fold 0's here
(data.selection_share 0), where mean cosine, alignment and uniformity take two passes more. Only ours has floors, logs,
a state to resume from at every validation and epoch, and figures (UMAP among them) in the report. Theirs is spared the
published loop's test after every epoch and its checkpoint of every epoch, and its strings come cut and in order.

Scaled down from the published experiment: encoder 6 x 512 to 3 x 64; windows of 510 and 400 nt to 126 and 100, what
that checkpoint takes (so attention is three times the share of the work that it is in SpliceBERT); 44,152 labelled
windows to 120 (368 times fewer) and 20,000 sites to 108 (185 times, so that NMI still means something); 15 epochs and
patience 5 to 8 and 3, about half; 12,656 steps of 512 text windows to 150 of 32 (1,350 times fewer, both factors), with
50 validations as there. Kept: the three arms, ten folds, batch 16. lr is 3 and 100 times higher: there are fewer steps.

Asserted: before training SCCS and NMI of the start checkpoint agree; the same windows are tested in each fold; and F1
and AUC of no arm differ, paired over folds and seeds (corrected resampled t-test, Holm-adjusted over arms and metrics).
NMI needs scanpy, which wants other versions than ours: $SIMCSP_SCANPY_PYTHON names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from benchmarks.run import Row, line
from utils.backbone import load_backbone
from utils.config import Config, DataConfig, read_config
from utils.corpus import build_sampler, open_corpus
from utils.errors import InputError, run_script
from utils.metrics import corrected_ttest, holm, pair_indices
from utils.motifs import Motifs, save_motifs
from utils.proxies import load_motifs, load_windows
from utils.run import read_metrics
from utils.sequence import VOCAB, decode

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "data/demo"
SITES = 108
SCCS_TOLERANCE, NMI_TOLERANCE = 1e-3, 0.01  # seeds of Leiden end in .089 or .093 of the start checkpoint
METRICS = ("f1", "auc")
SETTINGS = {
    "name": "recipe",
    "device": "cpu",
    "model": {
        "source": str(ROOT / "models/simcsp-small"),
        "pooling": "cls",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    },
    "data": {
        "fasta": [str(DEMO / "genome.fa")],
        "records": ["synthetic_chr1", "synthetic_chr2", "synthetic_chr3"],
        "window": 126,
        "spliceator": str(DEMO / "spliceator"),
        "context": 100,
        "max_windows": 120,
        "folds": "published",
        "selection_share": 0.0,
        "motif_window": 126,
    },
    "pretrain": {
        "objective": "simcse",
        "steps": 150,
        "batch_size": 32,
        "lr": 3e-4,
        "weight_decay": 1e-6,
        "warmup_steps": 6,
        "eval_steps": 3,
        "logging_steps": 3,
    },
    "finetune": {
        "arms": ["baseline", "best_sccs", "best_nmi"],
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "batch_size": 16,
        "max_epochs": 8,
        "patience": 3,
    },
    "evaluate": {"sccs_pairs": "published"},
}


@dataclasses.dataclass
class Side:
    """A finished run of one side.

    seconds: wall; processor: seconds of all its processes, which other work on the machine stretches little; parts: of
    the wall, by part of the recipe; start: sccs (of fold 0) and nmi of the start checkpoint; folds: a row for each arm
    and fold, with windows (tested), labels, f1, auc.
    """

    seconds: float
    processor: float
    parts: dict[str, float]
    start: dict[str, float]
    folds: pd.DataFrame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of ours that share the folds")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = run_pairs(options.pairs, options.workers, Path(folder))
    row, differences = build_row(SETTINGS, options.workers, pairs), paired_differences(pairs)
    values = {
        "row": row.values(1.0),
        "processor": [[side.processor for side in pair] for pair in pairs],
        "parts": mean_parts(pairs),
        "differences": differences,
    }
    print(
        f"\n{line(values['row'])}\n{row.remark}\n\n{parts_table(values['parts'])}\n\n{differences_table(differences)}"
    )
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n")
    require_equal_scores(differences)


def measure(count: int, workers: int, folder: Path) -> Row:
    """The row of run.py's table. Raises InputError where the two sides do not do the same work."""
    pairs = run_pairs(count, workers, folder)
    require_equal_scores(paired_differences(pairs))
    return build_row(SETTINGS, workers, pairs)


def run_pairs(count: int, workers: int, folder: Path) -> list[tuple[Side, Side]]:
    if not (DEMO / "genome.fa").is_file():
        run([sys.executable, ROOT / "data/demo.py"])
    settings = SETTINGS | {"workers": workers}
    settings["data"] = SETTINGS["data"] | {"motif_bed": str(cut_sites(folder))}
    pairs = []
    for seed in range(count):
        ours, theirs = run_pair(settings, seed, folder / f"pair{seed}")
        pairs.append((ours, theirs))
        print(f"recipe, pair {seed + 1}: {ours.seconds:.1f} s ours, {theirs.seconds:.1f} s theirs", flush=True)
    return pairs


def cut_sites(folder: Path) -> Path:
    """SITES of the demo's motif sites, cut."""
    bed, fasta = str(DEMO / "motifs.bed.gz"), str(DEMO / "genome.fa")
    motifs = load_motifs(DataConfig(motif_bed=bed, motif_fasta=fasta, cache=str(folder / "cache")))
    chosen = np.sort(np.random.default_rng(0).permutation(len(motifs.labels))[:SITES])
    save_motifs(Motifs(motifs.ids[chosen], motifs.labels[chosen]), folder / "sites.npz", {"sites": bed})
    return folder / "sites.npz"


def run_pair(settings: dict, seed: int, folder: Path) -> tuple[Side, Side]:
    """Ours, then theirs, on the same inputs. Raises InputError where they start or test unequally."""
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True)
    values = settings | {"seed": seed, "runs": str(folder / "runs")}
    values["data"] = settings["data"] | {"cache": str(folder / "cache")}
    values["finetune"] = settings["finetune"] | {"seeds": [seed]}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    config = read_config(path)
    write_inputs(config, folder)
    ours, theirs = run_ours(config, path), run_theirs(folder)
    require_same_work(ours, theirs)
    return ours, theirs


# -- what both sides are given -----------------------------------------------------------------------------------------


def write_inputs(config: Config, folder: Path) -> None:
    """inputs.json and start/ for assembled.py, made by our own functions in a run folder that ours does not see."""
    config = dataclasses.replace(config, runs=str(folder / "given"))
    config.data = dataclasses.replace(config.data, cache=str(folder / "given/cache"))
    windows, splits = load_windows(config)
    motifs, stage = load_motifs(config.data), config.pretrain
    sampler = build_sampler(config, open_corpus(config))
    text = [decode(row) for step in range(stage.steps) for row in sampler.batch(step, stage.batch_size)]
    inputs = {
        "seed": config.seed,
        "pretrain": dataclasses.asdict(stage),
        "finetune": dataclasses.asdict(config.finetune),
        "text": text,
        "windows": [decode(row) for row in windows.crop(config.data.context)],
        "labels": windows.labels.tolist(),
        "folds": [with_pairs(fold, config) for fold in splits.folds["both"]],
        "sites": [] if motifs is None else [decode(row) for row in motifs.ids],
        "site_labels": [] if motifs is None else motifs.labels.tolist(),
    }
    (folder / "inputs.json").write_text(json.dumps(inputs))
    torch.manual_seed(config.seed)
    save_start(config, folder / "start")


def with_pairs(fold: dict[str, np.ndarray], config: Config) -> dict[str, list]:
    """A fold's parts, and the pairs of windows [2, pairs] whose SCCS ours measures in two of them."""
    found = {part: index.tolist() for part, index in fold.items()}
    for part in ("train", "test"):
        pairs = pair_indices(len(fold[part]), config.evaluate.sccs_pairs, config.seed)
        found[f"{part}_pairs"] = [fold[part][side].tolist() for side in pairs]
    return found


def save_start(config: Config, folder: Path) -> None:
    """The start checkpoint as a user has it, with a tokenizer of single bases parted by spaces."""
    model, _, _ = load_backbone(config.model)
    model.bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    tokenizer["model_max_length"] = model.config.max_position_embeddings
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


# -- the two sides -----------------------------------------------------------------------------------------------------


def run(command: list[object]) -> tuple[float, float]:
    """Run a command to its end; returns when it began and ended. Raises InputError where it fails."""
    words, begun = list(map(str, command)), time.time()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(f"{Path(words[1]).name} ended with status {done.returncode}: {last}")
    return begun, time.time()


def processor_seconds() -> float:
    """Of the processes that this one has run to their end, and theirs."""
    times = os.times()
    return times.children_user + times.children_system


def run_ours(config: Config, path: Path) -> Side:
    used = processor_seconds()
    pretrained = run([sys.executable, ROOT / "pretrain.py", path])
    finetuned = run([sys.executable, ROOT / "finetune.py", path])
    parts = pretrain_parts(config, pretrained[1]) | finetune_parts(config, finetuned[1])
    total, used = finetuned[1] - pretrained[0], processor_seconds() - used
    begun = json.loads((config.folder / "pretrain/summary.json").read_text())["start"]
    start = {name: begun[f"val/{name}"] for name in ("sccs", "nmi") if f"val/{name}" in begun}
    position = {name: i for i, name in enumerate(load_windows(config)[0].names)}
    rows = []
    for file in fold_files(config, "summary.json"):
        summary, tested = json.loads(file.read_text()), pd.read_csv(file.with_name("predictions.csv"))
        row = {"arm": summary["arm"], "fold": summary["fold"], "epochs": summary["epochs"]}
        row |= {"windows": [position[name] for name in tested["window"]], "labels": tested["label"].tolist()}
        rows.append(row | {metric: summary["metrics"][f"test/{metric}"] for metric in METRICS})
    return Side(total, used, parts | {"start-up": total - sum(parts.values())}, start, pd.DataFrame(rows))


def fold_files(config: Config, name: str) -> list[Path]:
    return sorted((config.folder / "finetune").glob(f"*/*/*/*/{name}"))


def pretrain_parts(config: Config, ended: float) -> dict[str, float]:
    """Seconds of steps (with what is saved) and of validation (with the floors), from the times of the logged rows."""
    folder = config.folder / "pretrain"
    rows, before = read_metrics(folder), (folder / "env.json").stat().st_mtime
    parts = {"steps": ended - rows[-1]["time"], "validation": 0.0}
    for row in rows:
        parts["steps" if "train/loss" in row else "validation"] += row["time"] - before
        before = row["time"]
    return parts


def finetune_parts(config: Config, ended: float) -> dict[str, float]:
    """Seconds of fitting, of testing with SCCS and NMI before and after, and of the report.

    The workers fit side by side: the wall of all folds is shared out by the seconds that the folds themselves count.
    """
    first = min(file.stat().st_mtime for file in fold_files(config, "env.json"))
    last = max(file.stat().st_mtime for file in fold_files(config, "summary.json"))
    fitting = sum(json.loads(file.read_text())["seconds"] for file in fold_files(config, "summary.json"))
    fitting = min(fitting / config.workers, last - first)  # of workers that end at different times
    return {"fitting": fitting, "testing": last - first - fitting, "report": ended - last}


def run_theirs(folder: Path) -> Side:
    out = folder / "assembled"
    out.mkdir()
    used = processor_seconds()
    begun, ended = run([sys.executable, ROOT / "benchmarks/assembled.py", folder, out])
    found = json.loads((out / "result.json").read_text())
    parts, start, total = found["seconds"], found["start"], ended - begun
    start = {"sccs": start["fold0_sccs"]} | {name: start[name] for name in ("nmi",) if name in start}
    used, rest = processor_seconds() - used, total - sum(parts.values())
    return Side(total, used, parts | {"start-up": rest}, start, pd.DataFrame(found["folds"]))


# -- equality ----------------------------------------------------------------------------------------------------------


def require_same_work(ours: Side, theirs: Side) -> None:
    """Refuse two sides whose start checkpoints score differently or that test other windows."""
    for name, tolerance in (("sccs", SCCS_TOLERANCE), ("nmi", NMI_TOLERANCE)):
        mine, others = ours.start.get(name), theirs.start.get(name)
        if (mine is None) != (others is None) or (mine is not None and not abs(mine - others) <= tolerance):
            raise InputError(f"benchmarks/recipe.py: {name.upper()} of the start is {mine} here, {others} there")
    columns = ["arm", "fold", "windows", "labels"]
    mine, others = (side.folds.sort_values(["arm", "fold"])[columns] for side in (ours, theirs))
    if mine.to_dict("records") != others.to_dict("records"):
        raise InputError("benchmarks/recipe.py: the two sides test other arms, folds or windows")


def paired_differences(pairs: list[tuple[Side, Side]]) -> list[dict[str, object]]:
    """For each arm and metric: means of both sides, ours - theirs over folds and seeds (diff), 95 % interval, p."""
    both = pd.concat(
        ours.folds.merge(theirs.folds, on=["arm", "fold"], suffixes=("_ours", "_theirs")) for ours, theirs in pairs
    )
    found = []
    for arm, mine in both.groupby("arm"):
        for metric in METRICS:
            ours, theirs = mine[f"{metric}_ours"], mine[f"{metric}_theirs"]
            means = {"ours": float(ours.mean()), "theirs": float(theirs.mean())}
            found.append({"arm": arm, "metric": metric, **means, **corrected_ttest((ours - theirs).to_numpy())})
    return found


def require_equal_scores(differences: list[dict[str, object]]) -> None:
    """Refuse sides whose F1 or AUC differ by more than chance. Without p (no spread) a difference has to be 0."""
    p = [float(row["diff"] == 0) if row["p"] is None else row["p"] for row in differences]
    unequal = [row for row, adjusted in zip(differences, holm(np.array(p))) if adjusted < 0.05]
    if unequal:
        named = ", ".join(f"{row['metric']} of {row['arm']} by {row['diff']:+.4f}" for row in unequal)
        raise InputError(f"benchmarks/recipe.py: the two sides differ by more than chance: {named}")


# -- the output --------------------------------------------------------------------------------------------------------


def build_row(settings: dict, workers: int, pairs: list[tuple[Side, Side]]) -> Row:
    stage, arms = settings["pretrain"], settings["finetune"]["arms"]
    starts = [f"SCCS {ours.start['sccs']:.4f} and {theirs.start['sccs']:.4f}" for ours, theirs in pairs[:1]]
    starts += [f"NMI {o.start['nmi']:.4f} and {t.start['nmi']:.4f}" for o, t in pairs[:1] if "nmi" in o.start]
    return Row(
        "recipe",
        f"{stage['steps']} contrastive steps of {stage['batch_size']} windows, validated every {stage['eval_steps']}, "
        f"{len(arms)} arms x ten folds, report",
        f"pretrain.py and finetune.py with {workers} worker(s), all dropout",
        "sentence-transformers, scanpy and the published loop: fp32 eager, all dropout",
        [(ours.seconds, theirs.seconds) for ours, theirs in pairs],
        remark=f"start checkpoint, ours and theirs: {', '.join(starts)}",
    )


def mean_parts(pairs: list[tuple[Side, Side]]) -> dict[str, list[float]]:
    """{part: [seconds of ours, of theirs]}, means over the pairs."""
    names = pairs[0][0].parts
    return {name: np.mean([[side.parts[name] for side in pair] for pair in pairs], axis=0).tolist() for name in names}


def parts_table(parts: dict[str, list[float]]) -> str:
    rows = [f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} |" for name, (ours, theirs) in parts.items()]
    return "\n".join(["| part | s ours | s theirs | ratio |", "|---|---|---|---|", *rows])


def differences_table(differences: list[dict[str, object]]) -> str:
    rows = [
        "| {arm} | {metric} | {ours:.4f} | {theirs:.4f} | {diff:+.4f} | {low:+.4f} to {high:+.4f} |".format(**row)
        for row in differences
    ]
    return "\n".join(["| arm | metric | ours | theirs | difference | 95 % |", "|---|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    run_script(main)

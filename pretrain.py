#!/usr/bin/env python
"""Train an encoder on unlabelled genome text, by masked bases or by SimCSE, and watch SCCS and NMI while it trains.

    python pretrain.py [CONFIG.yaml] [--section.field value ...]

Writes runs/<name>/pretrain (and runs/<name>/mlm where the config has that first stage). Run again to resume.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from transformers import BertForMaskedLM, get_scheduler

from utils.backbone import check_length, fresh_like, load_backbone, resolve_source, save_checkpoint
from utils.config import Config, MlmConfig, ModelConfig, PretrainConfig, flatten, load_config, to_dict
from utils.corpus import Corpus, build_sampler, measure_overlap, open_corpus
from utils.embed import embed
from utils.errors import InputError, run_script
from utils.learner import Chooser, Learner, build_chooser, step_loss
from utils.motifs import Motifs
from utils.proxies import (
    load_motifs,
    load_windows,
    measure_nmi,
    measure_sccs,
    nmi_floors,
    probe_auc,
    sccs_floors,
    selection_windows,
)
from utils.run import (
    RunFolder,
    StopSignal,
    build_accelerator,
    replace_folder,
    set_seed,
    sha256_folder,
    stop_if_asked,
    take_step,
    write_json,
)
from utils.search import Report, run_search
from utils.sequence import WindowSampler
from utils.spliceator import near_duplicate_groups

PROXIES = ("sccs", "nmi")  # each keeps a best checkpoint; higher is better for both
CONFIG_SECTIONS = (
    "name",
    "seed",
    "precision",
    "model",
    "data",
    "evaluate",
)  # with the stage's own: what decides its result


def main() -> None:
    config = load_config(sys.argv[1:], hidden=("finetune",))
    if not (config.mlm.steps or config.pretrain.steps):
        raise InputError("pretrain.steps is 0 and so is mlm.steps: nothing to train")
    if config.search.trials:
        check_search(config)
    stop = StopSignal()
    accelerator = build_accelerator(config.device, config.precision)
    corpus = open_corpus(config)
    text = build_sampler(config, corpus)
    hook = Validation(config, accelerator)
    record_corpus(config, corpus, hook)
    if not config.search.trials:
        run_stages(config, corpus, text, hook, accelerator, stop)
        return
    metric = f"val/{config.search.metric}"

    def objective(trial: Config, report: Report) -> float:
        """Train a trial; its pretrain stage reports the proxy at each validation."""
        trial.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(config.folder / "overlap.json", trial.folder)  # the same text, the same windows
        run_stages(trial, corpus, text, hook, accelerator, stop, report)
        return json.loads((trial.folder / "pretrain/summary.json").read_text())["metrics"][metric]

    print(run_search(config, metric, ("model", "mlm", "pretrain"), objective, stop), flush=True)


def check_search(config: Config) -> None:
    """Refuse a search whose metric no trial would measure."""
    metric = config.search.metric
    if not config.pretrain.steps:
        raise InputError("pretrain.steps is 0: a search compares trials by the validations of the pretrain stage")
    if metric == "nmi" and config.data.motif_bed is None:
        raise InputError("search.metric (nmi) needs motif sites: set data.motif_bed, or search by sccs")
    if metric != "nmi" and config.data.spliceator is None:
        raise InputError(f"search.metric ({metric}) needs labelled windows: set data.spliceator, or search by nmi")


def run_stages(
    config: Config,
    corpus: Corpus,
    text: WindowSampler,
    hook: Validation,
    accelerator: Accelerator,
    stop: StopSignal,
    report: Report | None = None,
) -> None:
    """Every stage of a config, one after the other. report: told the proxy at the pretrain stage's validations."""
    model = config.model
    for name, stage in stages(config).items():
        hook.report = report if name == "pretrain" else None
        folder = run_stage(config, name, stage, model, corpus, text, hook, accelerator, stop)
        if name == "mlm":
            model = dataclasses.replace(model, source=str(folder / "checkpoints/last"), drop_layers=0)  # dropped once


def stages(config: Config) -> dict[str, PretrainConfig]:
    """{folder: settings} of the stages to run. The control starts where pretrain does and reads the same windows in the
    same order for as many steps (batches depend on seed and step alone), under plain MLM."""
    control = dataclasses.replace(config.pretrain, objective="mlm", control=False)
    shift = config.pretrain.max_shift  # all read the same wider windows
    first = PretrainConfig(objective="mlm", max_shift=shift, **dataclasses.asdict(config.mlm))
    found = {"mlm": first, "pretrain": config.pretrain} | ({"control": control} if config.pretrain.control else {})
    return {name: stage for name, stage in found.items() if stage.steps}


def record_corpus(config: Config, corpus: Corpus, hook: Validation) -> None:
    """Write, once for a text and an evaluation, what the text is (corpus.json, and corpus.npz with the score of each
    window where windows have one) and how much of the evaluation lies in it (overlap.json)."""
    path = config.folder / "overlap.json"
    inputs = {"text": corpus.store.sha256, "intervals": corpus.intervals.sha256, **hook.inputs}
    if path.is_file() and json.loads(path.read_text())["inputs"] == inputs:
        return
    found = measure_overlap(config, corpus)
    parts = [{"part": part.name, "count": part.count, "shared": part.shared, "sentence": str(part)} for part in found]
    write_json(config.folder / "corpus.json", corpus.manifest)
    if corpus.scores is not None:
        columns = {name: getattr(corpus.intervals, name) for name in ("start", "minus", "odds")}
        np.savez_compressed(config.folder / "corpus.npz", score=corpus.scores, **columns)
    write_json(path, {"inputs": inputs, "parts": parts})  # last: its presence means that the others are whole


class Validation:
    """SCCS on the selection windows and NMI on the motif sites, with the floors that they have to beat."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self.config, self.autocast = config, accelerator.autocast
        self.report: Report | None = None  # a search that wants to know
        self.ids, self.labels, self.inputs = None, None, {}
        if config.data.spliceator is not None:
            windows, splits = load_windows(config)
            chosen = selection_windows(windows, splits)
            self.ids, self.labels = chosen.crop(config.data.context), chosen.labels
            self.groups = near_duplicate_groups(chosen.ids)
            self.inputs["spliceator"] = windows.sha256
        self.motifs: Motifs | None = load_motifs(config.data)
        if self.motifs is not None:
            self.inputs["motifs"] = self.motifs.sha256

    def check(self, model: nn.Module) -> None:
        """Refuse windows that the encoder cannot take, before anything is trained."""
        used = {"window": True, "context": self.ids is not None, "motif_window": self.motifs is not None}
        for field in (field for field in used if used[field]):
            check_length(model, getattr(self.config.data, field), f"data.{field}")

    def __call__(self, model: BertForMaskedLM, pooling: str) -> dict[str, float]:
        scores: dict[str, float] = {}
        if self.ids is not None:
            scores |= measure_sccs(model.bert, pooling, self.ids, self.labels, self.config, self.autocast)
        if self.motifs is not None:
            scores |= measure_nmi(model.bert, self.motifs, self.config, self.autocast)
        if self.config.search.metric == "probe_auc" and self.ids is not None:
            vectors = embed(model.bert, self.ids, pooling, self.config.evaluate.batch_size, self.autocast)
            scores["probe_auc"] = probe_auc(vectors, self.labels, self.config.seed, self.groups)
        return scores

    def floors(self, model: BertForMaskedLM, pooling: str) -> dict[str, dict[str, float]]:
        """{'sccs': {...}, 'nmi': {...}} of one-hot bases, GC content and an encoder of fresh weights."""
        with torch.random.fork_rng():
            set_seed(self.config.seed)
            fresh = self(fresh_like(model.config).to(model.device), pooling)
        floors = {}
        if self.ids is not None:
            floors["sccs"] = {**sccs_floors(self.ids, self.labels, self.config), "fresh": fresh["sccs"]}
        if self.motifs is not None:
            floors["nmi"] = {**nmi_floors(self.motifs, self.config), "fresh": fresh["nmi"]}
        return floors


def build_optimizer(
    model: nn.Module, stage: PretrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, whose decay spares biases and layer norms, and the warm-up and decay of the learning rate."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr)
    scheduler = get_scheduler(
        stage.lr_scheduler_type, optimizer, num_warmup_steps=stage.warmup_steps, num_training_steps=stage.steps
    )
    return optimizer, scheduler


class Training:
    """Model, optimiser, schedule and progress of a stage: all that its state.pt holds."""

    def __init__(
        self,
        model: BertForMaskedLM,
        pooling: str,
        stage: PretrainConfig,
        accelerator: Accelerator,
        choose: Chooser | None = None,
    ) -> None:
        self.model, self.pooling, self.stage, self.accelerator, self.choose = model, pooling, stage, accelerator, choose
        learner = Learner(model, pooling, stage.objective, stage.projection_head).to(accelerator.device)
        self.head = learner.head
        optimizer, self.scheduler = build_optimizer(learner, stage)
        self.learner, self.optimizer = accelerator.prepare(learner, optimizer)
        self.step = 0
        self.best: dict[str, dict[str, float]] = {}
        self.sums = [0.0, 0.0, 0.0]  # loss, accuracy and gradient norm since the last logged row
        self.count = self.skipped = 0  # steps since then, and those that fp16's loss scaler skipped

    def state(self) -> dict[str, object]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "best": self.best,
            "sums": self.sums,
            "count": self.count,
            "skipped": self.skipped,
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load(self, state: dict[str, object]) -> None:
        self.step, self.best, self.sums, self.count = (state[key] for key in ("step", "best", "sums", "count"))
        self.skipped = state.get("skipped", 0)  # older states do not have it
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])

    def advance(self, ids: np.ndarray, rng: np.random.Generator) -> None:
        """One optimiser step on windows uint8 [batch, length]; none where fp16 gradients overflow the loss scaler.

        Raises FloatingPointError for a loss that is no finite number.
        """
        self.learner.train()
        loss, accuracy = step_loss(self.learner, self.stage, ids, rng, self.accelerator.device, self.choose)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step + 1}: lower {self.stage.objective} lr or raise warm-up"
            )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.learner.parameters(), self.stage.max_grad_norm)
        skipped = take_step(self.accelerator, self.optimizer, self.scheduler)
        self.step += 1
        self.count += 1
        self.skipped += skipped
        for i, value in enumerate((loss, accuracy) if skipped else (loss, accuracy, norm)):
            self.sums[i] += float(value.detach())

    def means(self) -> dict[str, float]:
        """Means since the last call, and the learning rate; under fp16 the number of skipped steps too.

        The gradient norm is that of the steps that were taken, and is missing where there was none.
        """
        (loss, accuracy, norm), taken = self.sums, self.count - self.skipped
        row = {"train/loss": loss / self.count, "train/accuracy": accuracy / self.count}
        row |= {"train/grad_norm": norm / taken} if taken else {}
        row["train/lr"] = self.scheduler.get_last_lr()[0]
        row |= {"train/skipped_steps": self.skipped} if self.accelerator.scaler is not None else {}
        self.sums, self.count, self.skipped = [0.0, 0.0, 0.0], 0, 0
        return row


def run_stage(
    config: Config,
    name: str,
    stage: PretrainConfig,
    source: ModelConfig,
    corpus: Corpus,
    text: WindowSampler,
    hook: Validation,
    accelerator: Accelerator,
    stop: StopSignal,
) -> Path:
    """Train one stage to its end, or tell that it is done; returns its folder."""
    path = config.folder / name
    settings = stage_config(config, name, stage, source)
    run = RunFolder(path, settings, stage_inputs(source, text, hook), str(accelerator.device))
    if run.finished:
        run.log(f"{path}: already done ({headline(run.summary)})")
        return path
    set_seed(config.seed)
    model, pooling, remarks = load_backbone(source, need_mlm_head=stage.objective == "mlm")
    hook.check(model)
    model.to(accelerator.device)
    training = Training(model, pooling, stage, accelerator, build_chooser(config, stage, corpus))
    state = run.load_state(accelerator.device)
    run.begin()
    if state is None:
        run.rewind(-1)
        describe(run, config, name, training, text, remarks)
        start(run, training, hook)
    else:
        training.load(state)
        run.rewind(training.step)
        run.log(f"{path}: resumed at step {training.step} of {stage.steps}")
    train(run, config, name, training, text, hook, stop)
    finish(run, config, name, training, hook)
    accelerator.free_memory()
    return path


def stage_config(config: Config, name: str, stage: PretrainConfig, source: ModelConfig) -> dict[str, object]:
    """The part of the config that decides a stage's result; valid as a config of its own."""
    values = to_dict(dataclasses.replace(config, model=source))
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    # whether a control follows changes nothing
    settings = dataclasses.asdict(dataclasses.replace(stage, control=False))
    if name != "mlm":
        return kept | {"mlm": {"steps": 0}, "pretrain": settings}
    of_mlm = {item.name: settings[item.name] for item in dataclasses.fields(MlmConfig)}
    return kept | {"mlm": of_mlm, "pretrain": {"steps": 0, "max_shift": stage.max_shift}}


def stage_inputs(source: ModelConfig, text: WindowSampler, hook: Validation) -> dict[str, str]:
    """Hashes of all that a stage reads."""
    inputs = {"text": text.store.sha256, "intervals": text.intervals.sha256, **hook.inputs}
    if source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(source.source))
    return inputs


def describe(
    run: RunFolder, config: Config, name: str, training: Training, text: WindowSampler, remarks: list[str]
) -> None:
    stage, model = training.stage, training.model
    size = sum(p.numel() for p in model.parameters()) / 1e6
    sources = ", ".join(text.store.manifest["sources"])
    windows = f"{stage.batch_size} windows of {config.data.window} nt from {sources}"
    run.log(f"{name}: {stage.objective}, {stage.steps} steps of {windows}")
    run.log(f"encoder: {size:.2f} M parameters, pooling {training.pooling}; {'; '.join(remarks)}")
    for part in json.loads((config.folder / "overlap.json").read_text())["parts"]:
        run.log(f"overlap: {part['sentence']}", show=bool(part["shared"]))
    if config.data.selection_share == 0:
        run.log("data.selection_share is 0: SCCS is measured on the training part of fold 0, as published")


def start(run: RunFolder, training: Training, hook: Validation) -> None:
    """Save the start model (the baseline arm) and measure it, before any step."""
    save(run, training, "start")
    floors = hook.floors(training.model, training.pooling)
    for proxy, values in floors.items():
        run.log(f"floors of {proxy.upper()}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
        run.record(0, {f"floor/{proxy}_{key}": value for key, value in values.items()})
    validate(run, training, hook)


def train(
    run: RunFolder,
    config: Config,
    name: str,
    training: Training,
    text: WindowSampler,
    hook: Validation,
    stop: StopSignal,
) -> None:
    """The training loop: a pure function of the state, so that a resumed run repeats a straight one."""
    stage = training.stage
    tty = sys.stderr.isatty()
    bar = tqdm(total=stage.steps, initial=training.step, desc=name, unit="step", disable=not tty, dynamic_ncols=True)
    since, seen = time.perf_counter(), 0
    while training.step < stage.steps:
        ids = text.batch(training.step, stage.batch_size)
        training.advance(ids, np.random.default_rng([config.seed, 3, training.step]))
        bar.update()
        seen += len(ids)
        step, last = training.step, training.step == stage.steps
        if step % stage.logging_steps == 0 or last:
            row = training.means() | {"train/windows_per_s": seen / (time.perf_counter() - since)}
            since, seen = time.perf_counter(), 0
            run.record(step, row)
            line = progress(step, stage.steps, row)
            run.log(line, show=not tty and (step % max(stage.steps // 10, stage.logging_steps) == 0 or last))
            bar.set_postfix_str(f"loss {row['train/loss']:.3f}")
        if step % stage.eval_steps == 0 or last:
            validate(run, training, hook)
            run.save_state(training.state())
            since, seen = time.perf_counter(), 0
        elif stop.asked:
            run.save_state(training.state())
        stop_if_asked(stop, f"at step {step} of {stage.steps}, state saved in {run.path}")
    bar.close()


def progress(step: int, steps: int, row: dict[str, float]) -> str:
    width = len(str(steps))
    return (
        f"step {step:>{width}}/{steps}  loss {row['train/loss']:7.4f}  accuracy {row['train/accuracy']:.3f}  "
        f"lr {row['train/lr']:.2e}  {row['train/windows_per_s']:7.1f} windows/s"
    )


def validate(run: RunFolder, training: Training, hook: Validation) -> None:
    """Measure the proxies, keep this checkpoint, and the best ones."""
    scores = hook(training.model, training.pooling)
    if scores:
        run.record(training.step, {f"val/{key}": value for key, value in scores.items()})
    else:
        run.log("nothing to validate on: data.spliceator and data.motif_bed are not set", show=training.step == 0)
    shown = "  ".join(
        f"{key} {scores[key]:.4f}" for key in ("sccs", "nmi", "mean_cosine", "uniformity") if key in scores
    )
    run.log(f"validation at step {training.step}: {shown}")
    if training.step == 0:  # the start is the baseline arm; the best_* arms are checkpoints that this stage trained
        return
    if hook.report is not None:
        hook.report(training.step, scores[hook.config.search.metric])
    saved = save(run, training, f"step-{training.step:06d}")
    for proxy in PROXIES:
        if proxy in scores and scores[proxy] > training.best.get(proxy, {"value": -np.inf})["value"]:
            training.best[proxy] = {"value": scores[proxy], "step": training.step}
            with replace_folder(run.checkpoints / f"best_{proxy}") as folder:
                shutil.copytree(saved, folder, dirs_exist_ok=True)
    kept = sorted(run.checkpoints.glob("step-*[0-9]"))
    for old in kept[: max(0, len(kept) - training.stage.save_total_limit)]:
        shutil.rmtree(old)


def save(run: RunFolder, training: Training, name: str) -> Path:
    target = run.checkpoints / name
    with replace_folder(target) as folder:
        save_checkpoint(training.model, folder, training.pooling)
    return target


def finish(run: RunFolder, config: Config, name: str, training: Training, hook: Validation) -> None:
    """Keep the last weights, write the summary, say where everything lives."""
    save(run, training, "last")
    rows = run.metrics()
    validations = [row for row in rows if any(key.startswith("val/") for key in row)]
    floors = {key: value for row in rows for key, value in row.items() if key.startswith("floor/")}
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    first, final = (validations[0], validations[-1]) if validations else ({}, {})
    scores = {key: value for key, value in final.items() if key.startswith("val/")}
    for proxy, best in training.best.items():
        scores[f"val/best_{proxy}"] = best["value"]
    summary = {
        "stage": name,
        "objective": training.stage.objective,
        "steps": training.step,
        "pooling": training.pooling,
        "start": {key: value for key, value in first.items() if key.startswith("val/")},
        "best": training.best,
        "floors": floors,
        "metrics": {"train/loss": losses[-1], **scores},
    }
    run.finish(summary, flatten(stage_config(config, name, training.stage, config.model)))
    run.log(f"{run.path}: {headline(summary)}")


def headline(summary: dict[str, object]) -> str:
    metrics, begun = summary["metrics"], summary["start"]
    parts = [f"{summary['objective']} {summary['steps']} steps", f"loss {metrics['train/loss']:.4f}"]
    for proxy in PROXIES:
        if f"val/{proxy}" in metrics:
            best = summary["best"][proxy]
            parts.append(
                f"{proxy.upper()} {begun[f'val/{proxy}']:.3f} -> {metrics[f'val/{proxy}']:.3f} "
                f"(best {best['value']:.3f} at step {best['step']})"
            )
    return ", ".join(parts)


def cli() -> None:
    """The command simcsp-pretrain."""
    run_script(main)


if __name__ == "__main__":
    cli()

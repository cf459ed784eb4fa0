"""Pre-training on unlabelled text, stage by stage, with the SCCS / NMI hook."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.arms import PROXIES
from simcsp.core.config import Config, DataConfig, MlmConfig, ModelConfig, PretrainConfig, to_dict
from simcsp.core.device import build_accelerator, check_memory, dropout_seed, set_seed
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.files import copy_files, read_json, remove_folder, replace_folder, replacing, write_json, write_text
from simcsp.core.run_folder import RunFolder
from simcsp.core.run_layout import (
    CORPUS,
    LAST,
    OVERLAP,
    PRETRAIN,
    SCORED_CORPUS,
    START,
    SUMMARY,
    best_of,
    checkpoint_path,
    stage_name,
    step_checkpoints,
    step_name,
)
from simcsp.labels.overlap import hidden_windows, measure_overlap
from simcsp.model.card import write_card
from simcsp.model.checkpoint import load_backbone, resolve_source, save_checkpoint
from simcsp.model.checksums import sha256_folder
from simcsp.model.classifier import load_classifier, predict
from simcsp.model.encoder import MIX, check_length, read_pooling
from simcsp.text.annotated import SiteSampler
from simcsp.text.corpora import Corpus, build_sampler, open_corpus
from simcsp.text.enriched import NAMED_SCORERS, Classify
from simcsp.text.sampler import Intervals, WindowSampler
from simcsp.text.species import check_species
from simcsp.training.log_lines import floors_in_words, headline, progress, with_errors
from simcsp.training.masking import Chooser, build_chooser
from simcsp.training.objectives import OBJECTIVES, inapplicable_fields
from simcsp.training.optimizer import build_optimizer, decay_groups, pack_state, take_step, unpack_state
from simcsp.training.processes import Processes, processes_of
from simcsp.training.search import Load, Report, run_search
from simcsp.training.step import Learner, MiniBatches, step_loss
from simcsp.training.stopping import StopSignal
from simcsp.training.tensorboard import open_folder, show_floors, show_layout, show_validation, show_vectors
from simcsp.training.training_warnings import base_entropy, batch_for_gpu, collapse, stuck, unmoved
from simcsp.training.validation import Validation, build_validation

DELETE_IT = "delete it, pre-training measures it anew"
CONFIG_SECTIONS = ("name", "seed", "precision", "model", "data", "evaluate")  # with the stage's own: what decides it


Tell = Callable[[int, dict[str, float]], None]
"""(step, scores) of a validation."""


@dataclass(frozen=True)
class Pretraining:
    """What all stages share. text: its windows, longer than data.window by twice pretrain.max_shift. validation: None
    in all processes but the first, which alone validates and writes."""

    config: Config
    corpus: Corpus
    text: WindowSampler | SiteSampler
    validation: Validation | None
    accelerator: Accelerator
    stop: StopSignal
    processes: Processes


def open_pretraining(config: Config, stop: StopSignal) -> Pretraining:
    """Open the text and what is validated on, and record in the run folder how much of the one lies in the other."""
    accelerator = build_accelerator(config.device, config.precision)
    processes, validation = processes_of(accelerator), None
    with accelerator.main_process_first():  # it makes the store and scores windows; the others then read both
        corpus = open_text(config, accelerator, processes.first)
        text = build_sampler(config.data, corpus, config.seed, config.pretrain.max_shift)
        if processes.first:
            validation = build_validation(config, accelerator.autocast)
            record_corpus(config.data, config.folder, corpus, validation.inputs)
    return Pretraining(config, corpus, text, validation, accelerator, stop, processes)


def open_text(config: Config, accelerator: Accelerator, first: bool = True) -> Corpus:
    """The pre-training text without what data.hide keeps out; data.scorer may be the folder of a classifier.

    first: False reads the windows of splice_enriched that `record_corpus` of the first process wrote."""
    data, classify = config.data, None
    if data.corpus == "splice_enriched" and not first:
        with np.load(config.folder / SCORED_CORPUS) as found:
            length = np.full(len(found["start"]), data.window)
            scored = Intervals(found["start"], length, found["minus"], found["odds"])
        return open_corpus(data, config.seed, hidden_windows(data), scored=scored)
    if data.corpus == "splice_enriched" and data.scorer not in NAMED_SCORERS:
        check_species(data)  # before a model is read
        classify = scorer_of_fold(data.scorer, config, accelerator)
    return open_corpus(data, config.seed, hidden_windows(data), classify, config.pretrain.max_shift)


def scorer_of_fold(folder: str, config: Config, accelerator: Accelerator) -> Classify:
    """P(site) of windows by a fine-tuned fold of ours."""
    path = Path(folder)
    path = checkpoint_path(path) if checkpoint_path(path).is_dir() else path
    if not path.is_dir():
        named = ", ".join(NAMED_SCORERS)
        raise InputError(f"data.scorer ({folder}) is none of {named} and no folder of a fine-tuned fold")
    model = load_classifier(path, config.model, config.finetune.dropout).to(accelerator.device)
    check_length(model.bert, config.data.context, "data.context")
    return lambda windows: predict(model, windows, config.evaluate.batch_size, accelerator.autocast)


def run_stages(shared: Pretraining, config: Config, report: Report | None = None) -> None:
    """Every stage of a config, one after the other: that of `shared`, or a trial of its search.

    The first stage runs once, the others, or those of `only`, once for each seed: all start from it. report: told the
    proxy at the pretrain stage's validations."""
    model, settings = config.model, stages(config)
    if config.only == ["data"]:  # opened by now
        return
    if "mlm" in settings:
        folder = run_stage(shared, config, "mlm", settings.pop("mlm"), model)
        model = dataclasses.replace(model, source=str(checkpoint_path(folder, LAST)), drop_layers=0)  # dropped once
    for seed in config.pretrain_seeds:
        own = dataclasses.replace(config, seed=seed)
        text = shared.text
        if seed != config.seed:
            text = build_sampler(config.data, shared.corpus, seed, config.pretrain.max_shift)
        for name, stage in settings.items():
            if config.only is not None and not {name, stage_name(name, seed)} & set(config.only):
                continue
            told = report if name == "pretrain" else None
            run_stage(dataclasses.replace(shared, text=text), own, name, stage, model, told)


def stages(config: Config) -> dict[str, PretrainConfig]:
    """{folder: settings} of the stages to run. The control starts where pretrain does and reads the same windows in the
    same order for as many steps (batches depend on seed and step alone), under plain MLM."""
    control = dataclasses.replace(config.pretrain, objective="mlm", control=False, **inapplicable_fields("mlm"))
    shift = config.pretrain.max_shift  # all read the same wider windows
    first = PretrainConfig(objective="mlm", max_shift=shift, **dataclasses.asdict(config.mlm))
    found = {"mlm": first, "pretrain": config.pretrain} | ({"control": control} if config.pretrain.control else {})
    return {name: stage for name, stage in found.items() if stage.steps}


def record_corpus(data: DataConfig, folder: Path, corpus: Corpus, validated: dict[str, str]) -> None:
    """Write, once for a text and an evaluation, what the text is (CORPUS; SCORED_CORPUS with the score of each window
    where windows have one) and how much of the evaluation lies in it (OVERLAP).

    validated: hashes of the evaluation.
    """
    path = folder / OVERLAP
    inputs = {"text": corpus.store.sha256, "intervals": corpus.intervals.sha256, **validated}
    whole = path.is_file() and (corpus.scores is None or (folder / SCORED_CORPUS).is_file())
    if whole and read_json(path, DELETE_IT)["inputs"] == inputs:
        return
    found = measure_overlap(data, corpus)
    parts = [{"part": part.name, "count": part.count, "shared": part.shared, "sentence": str(part)} for part in found]
    write_json(folder / CORPUS, corpus.manifest)
    if corpus.scores is not None:
        columns = {name: getattr(corpus.intervals, name) for name in ("start", "minus", "odds")}
        with replacing(folder / SCORED_CORPUS) as aside, open(aside, "wb") as handle:
            np.savez_compressed(handle, score=corpus.scores, **columns)
    write_json(path, {"inputs": inputs, "parts": parts})  # last: its presence means that the others are whole


class Training:
    """Model, optimiser, schedule and progress of a stage: all that its state.pt holds, the same in every process."""

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
        groups = decay_groups(learner, stage.weight_decay)
        optimizer, self.scheduler = build_optimizer(
            groups, stage.lr, stage.weight_decay, stage.lr_scheduler_type, stage.warmup, stage.steps
        )
        self.optimizer, self.processes = accelerator.prepare(optimizer), processes_of(accelerator)
        learner = accelerator.prepare_model(learner, evaluation_mode=True)  # its number format; gradients come next
        learner, unused = MiniBatches(learner, stage.mini_batch_size), leaves_unused(stage, pooling)
        self.learner = share_gradients(learner, accelerator, unused)
        self.step = 0
        self.best: dict[str, dict[str, float]] = {}
        self.sums = [0.0, 0.0, 0.0]  # loss, accuracy and gradient norm since the last logged row
        self.count = self.skipped = 0  # steps since then, and those that fp16's loss scaler skipped
        self.warned: list[str] = []  # signs of a training that teaches nothing, each said once

    @property
    def parts(self) -> dict[str, object]:
        """What has a state of its own."""
        return {"model": self.model, "head": self.head, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def state(self) -> dict[str, object]:
        """All that going on needs."""
        progress = {"step": self.step, "best": self.best, "sums": self.sums, "count": self.count}
        progress |= {"skipped": self.skipped, "warned": self.warned}
        return progress | pack_state(self.accelerator, **self.parts)

    def load(self, state: dict[str, object]) -> None:
        """Go on from what `state` gave."""
        self.step, self.best, self.sums, self.count = (state[key] for key in ("step", "best", "sums", "count"))
        self.skipped = state.get("skipped", 0)  # older states do not have these two
        self.warned = state.get("warned", [])
        unpack_state(state, self.accelerator, **self.parts)

    def advance(self, ids: np.ndarray, rng: np.random.Generator, classes: np.ndarray | None = None) -> None:
        """One optimiser step on windows uint8 [batch, length]; none where fp16 gradients overflow the loss scaler.

        classes [batch]: of the windows, where they have any. Every process is given the whole batch.

        Raises FloatingPointError for a loss that is no finite number.
        """
        self.learner.train()
        device, processes = self.accelerator.device, self.processes
        own_loss, accuracy = step_loss(self.learner, self.stage, ids, rng, device, self.choose, classes, processes)
        loss, accuracy = processes.average(own_loss), processes.average(accuracy)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step + 1}: lower {self.stage.objective} lr or raise warm-up"
            )
        self.accelerator.backward(own_loss)
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


def share_gradients(module: nn.Module, accelerator: Accelerator, unused: bool) -> nn.Module:
    """The module, whose gradients become those of the mean of all processes' losses, where there are several; all start
    from the first one's weights. unused: whether a step leaves out some of its parameters."""
    if accelerator.num_processes == 1:
        return module
    devices = [accelerator.device] if accelerator.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused)


def leaves_unused(stage: PretrainConfig, pooling: str) -> bool:
    """Whether a stage's loss does not depend on some of the parameters: a contrast on the head for masked bases, and
    the blocks above its layer; masked bases on a learned mix of layers."""
    return read_pooling(pooling).layer == MIX if stage.objective == "mlm" else not stage.mlm_weight


def run_stage(
    shared: Pretraining,
    config: Config,
    name: str,
    stage: PretrainConfig,
    source: ModelConfig,
    report: Report | None = None,
) -> Path:
    """Train one stage to its end, or tell that it is done; returns its folder."""
    several = name != "mlm" and len(config.pretrain_seeds) > 1
    path = config.folder / stage_name(name, config.seed if several else None)
    accelerator = shared.accelerator
    processes, run = shared.processes, None
    if processes.first:
        inputs = stage_inputs(source, shared.text, shared.validation)
        run = open_folder(path, stage_config(config, name, stage, source), inputs, str(accelerator.device))
        if run.finished:
            run.log(f"{path}: already done ({headline(run.summary)})")
    if processes.told(run is not None and run.finished):
        return path
    set_seed(config.seed)
    model, pooling, remarks = load_backbone(source, need_mlm_head=stage.objective == "mlm")
    check_length(model, config.data.window, "data.window")
    if run is not None:
        shared.validation.check(model)
    check_step(shared, model.config, name, stage, config.data.window)
    model.to(accelerator.device)
    choose = build_chooser(stage, config.data, shared.corpus, config.seed)
    training = Training(model, pooling, stage, accelerator, choose)
    if run is not None:
        run.begin()
    state = processes.told(None if run is None else run.load_state())
    if state is not None:
        training.load(state)
    if run is not None:
        open_run(run, config, name, training, shared, remarks, resumed=state is not None)
    tell = None if report is None else lambda step, scores: report(step, scores[shared.config.search.metric])
    train(run, path, name, training, shared, config.seed, tell)
    if run is not None:
        finish(run, config, name, training, shared.text)
    accelerator.free_memory()
    return path


def open_run(
    run: RunFolder,
    config: Config,
    name: str,
    training: Training,
    shared: Pretraining,
    remarks: list[str],
    resumed: bool,
) -> None:
    """The run folder at the step that the training is at: begun, with what the start model is worth, or resumed."""
    if resumed:
        run.rewind(training.step)
        run.log(f"{run.path}: resumed at step {training.step} of {training.stage.steps}")
    else:
        run.rewind(-1)
        describe(run, config, name, training, shared.text, remarks)
        floors = start(run, training, shared.validation)
        if name != "control" and config.seed == config.pretrain_seeds[0]:  # the same for all
            show_floors(config.folder, floors, training.stage.steps)
    show_layout(run.view.writer)


def step_memory(model: BertConfig, stage: PretrainConfig, window: int, processes: int = 1) -> float:
    """Bytes that a step takes at least: weights, gradients and AdamW's two moments, and the activations in half
    precision of the windows that go through the encoder at once. processes: that share the batch."""
    views = max(OBJECTIVES[stage.objective].views, 1) + stage.reverse_complement_negatives
    share = stage.batch_size // processes
    at_once = min(stage.mini_batch_size or share, share)
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    activations = 2.0 * at_once * views * (window + 2) * layers * (2 * hidden + inner)
    vectors = 4.0 * stage.batch_size * views * ((window + 2) + hidden)
    similarities = 0.0 if stage.objective == "mlm" else 4.0 * stage.batch_size * share
    return 16.0 * weights + activations + vectors + similarities


def check_step(shared: Pretraining, model: BertConfig, name: str, stage: PretrainConfig, window: int) -> None:
    """Refuse a batch that cannot fit into memory, or that the text does not fill, before the stage has a folder."""
    share = stage.batch_size // shared.processes.count
    at_once = min(stage.mini_batch_size or share, share)
    check_memory(
        step_memory(model, stage, window, shared.processes.count),
        f"{name}.batch_size ({stage.batch_size}), {at_once} windows at once (see {name}.mini_batch_size)",
        shared.accelerator.device,
    )
    shared.text.batch(0, stage.batch_size)


def stage_config(config: Config, name: str, stage: PretrainConfig, source: ModelConfig) -> dict[str, object]:
    """The part of the config that decides a stage's result; valid as a config of its own."""
    values = to_dict(dataclasses.replace(config, model=source))
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    # whether a control or other seeds follow changes nothing, nor who chose the warm-up
    decided = dataclasses.replace(stage, control=False, seeds=None, warmup_steps=stage.warmup)
    settings = dataclasses.asdict(decided)
    if name != "mlm":
        return kept | {"mlm": {"steps": 0}, "pretrain": settings}
    of_mlm = {item.name: settings[item.name] for item in dataclasses.fields(MlmConfig)}
    return kept | {"mlm": of_mlm, "pretrain": {"steps": 0, "max_shift": stage.max_shift}}


def stage_inputs(source: ModelConfig, text: WindowSampler | SiteSampler, validation: Validation) -> dict[str, str]:
    """Hashes of all that a stage reads."""
    inputs = {"text": text.store.sha256, "intervals": text.intervals.sha256, **validation.inputs}
    if isinstance(text, SiteSampler):
        inputs["classes"] = text.classes_sha256
    if source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(source.source))
    return inputs


def describe(
    run: RunFolder,
    config: Config,
    name: str,
    training: Training,
    text: WindowSampler | SiteSampler,
    remarks: list[str],
) -> None:
    stage, model = training.stage, training.model
    size = sum(p.numel() for p in model.parameters()) / 1e6
    sources = ", ".join(text.store.manifest["sources"])
    windows = f"{stage.batch_size} windows of {config.data.window} nt from {sources}"
    count = training.processes.count
    shared = f", shared by {count} processes" if count > 1 else ""
    run.log(f"{name}: {stage.objective}, {stage.steps} steps of {windows}{shared}")
    run.log(f"encoder: {size:.2f} M parameters, pooling {training.pooling}; {'; '.join(remarks)}")
    remark = batch_for_gpu(name, stage.batch_size, training.accelerator.device.type)
    if remark is not None and name != "control":  # whose batch is that of pretrain
        run.log(f"warning: {run.path}: {remark}")
    for part in read_json(config.folder / OVERLAP, DELETE_IT)["parts"]:
        run.log(f"overlap: {part['sentence']}", show=bool(part["shared"]))
    if config.data.selection_share == 0:
        run.log("data.selection_share is 0: SCCS is measured on the training part of fold 0, as published")


def start(run: RunFolder, training: Training, validation: Validation) -> dict[str, dict[str, float]]:
    """Save the start model (the baseline arm) and measure it, before any step; returns the floors."""
    save(run, training, START)
    floors = validation.floors(training.model, training.pooling)
    for proxy, values in floors.items():
        run.log(f"floors of {proxy.upper()}: {floors_in_words(values)}")
        run.record(0, {f"floor/{proxy}_{key}": value for key, value in values.items()})
    validate(run, training, validation)
    return floors


def train(
    run: RunFolder | None,
    path: Path,
    name: str,
    training: Training,
    shared: Pretraining,
    seed: int,
    tell: Tell | None,
) -> None:
    """The training loop: a pure function of the state, so that a resumed run repeats a straight one.

    run: None in all processes but the first. They meet in every step, so the others wait while it validates.
    """
    stage, processes = training.stage, shared.processes
    shown = sys.stderr.isatty() and run is not None
    told_by_bar = shown and sys.stdout.isatty()  # else stdout is a log, which has lines
    bar = tqdm(total=stage.steps, initial=training.step, desc=name, unit="step", disable=not shown, dynamic_ncols=True)
    since, seen = time.perf_counter(), 0
    while training.step < stage.steps:
        ids, classes = shared.text.batch(training.step, stage.batch_size), None
        if isinstance(shared.text, SiteSampler):
            classes = shared.text.classes(training.step, stage.batch_size)
        if processes.count > 1:  # one process has a generator that its state keeps
            set_seed(dropout_seed(seed, training.step, processes.rank))
        training.advance(ids, np.random.default_rng([seed, 3, training.step]), classes)
        bar.update()
        seen += len(ids)
        step, last = training.step, training.step == stage.steps
        if step % stage.logging_steps == 0 or last:
            row = training.means() | {"train/windows_per_s": seen / (time.perf_counter() - since)}
            since, seen = time.perf_counter(), 0
            if run is not None:
                run.record(step, row)
                line = progress(step, stage.steps, row)
                run.log(
                    line, show=not told_by_bar and (step % max(stage.steps // 10, stage.logging_steps) == 0 or last)
                )
                bar.set_postfix_str(f"loss {row['train/loss']:.3f}")
        if to_validate := step % stage.eval_steps == 0 or last:
            if run is not None:
                validate(run, training, shared.validation, tell)
                warn(run, training, shared.text)
                run.save_state(training.state())
            since, seen = time.perf_counter(), 0
        if number := processes.most(shared.stop.number):  # a signal to one process stops all of them here
            if run is not None and not to_validate:
                run.save_state(training.state())
            processes.wait()  # until the state is written: what started them may kill the others when one ends
            raise Interrupted(f"stopped at step {step} of {stage.steps}, state saved in {path}", number)
    bar.close()


def validate(run: RunFolder, training: Training, validation: Validation, tell: Tell | None = None) -> None:
    """Measure the proxies, keep this checkpoint, and the best ones. tell: a search that wants to know the scores."""
    scores, seen = validation.look(training.model, training.pooling)
    if scores:
        run.record(training.step, {f"val/{key}": value for key, value in scores.items()})
        show_validation(run, training.step, validation, seen)
        if training.step in (0, training.stage.steps):
            show_vectors(run, validation, seen, LAST if training.step else START)
    else:
        run.log("nothing to validate on: data.spliceator and data.motif_bed are not set", show=training.step == 0)
    run.log(f"validation at step {training.step}: {with_errors(scores)}")
    if training.step == 0:  # the start is the baseline arm; the best_* arms are checkpoints that this stage trained
        return
    if tell is not None:
        tell(training.step, scores)
    saved = save(run, training, step_name(training.step))
    for proxy in PROXIES:
        if proxy in scores and scores[proxy] > training.best.get(proxy, {"value": -np.inf})["value"]:
            ends = {end: scores[f"{proxy}_{end}"] for end in ("low", "high") if f"{proxy}_{end}" in scores}
            training.best[proxy] = {"value": scores[proxy], "step": training.step, **ends}
            with replace_folder(checkpoint_path(run.path, best_of(proxy))) as folder:
                copy_files(saved, folder)
    kept = list(step_checkpoints(run.path).values())
    for old in kept[: max(0, len(kept) - training.stage.save_total_limit)]:
        remove_folder(old)


def save(run: RunFolder, training: Training, name: str) -> Path:
    target = checkpoint_path(run.path, name)
    with replace_folder(target) as folder:
        save_checkpoint(training.model, folder, training.pooling)
    return target


def find_warnings(run: RunFolder, training: Training, text: WindowSampler) -> dict[str, str]:
    """{kind: sentence} of what is wrong with the training by now."""
    rows = run.metrics()
    validations = [
        {key.removeprefix("val/"): value for key, value in row.items()} for row in rows if "val/mean_cosine" in row
    ]
    first, last = (validations[0], validations[-1]) if validations else ({}, {})
    middle = text.batch(0, training.stage.batch_size)
    found = {
        "collapse": collapse(last, first, training.stage.objective),
        "unmoved": unmoved(last, first),
        "stuck": stuck(rows, training.stage, base_entropy(middle)),
    }
    return {kind: sentence for kind, sentence in found.items() if sentence is not None}


def warn(run: RunFolder, training: Training, text: WindowSampler) -> None:
    """Say once what is wrong with the training."""
    for kind, sentence in find_warnings(run, training, text).items():
        if kind not in training.warned:
            training.warned.append(kind)
            run.log(f"warning: {run.path}: {sentence}")


def write_cards(run: RunFolder, config: Config, name: str, training: Training) -> None:
    """A model card for every checkpoint, with what was measured at its step."""
    rows = {row["step"]: row for row in run.metrics() if any(key.startswith("val/") for key in row)}
    steps = {folder.name: step for step, folder in step_checkpoints(run.path).items()}
    steps |= {best_of(proxy): best["step"] for proxy, best in training.best.items()}
    steps |= {START: 0, LAST: training.step}
    data = {"objective": training.stage.objective, "text": config.data.fasta or config.data.dataset}
    for folder in sorted(run.checkpoints.iterdir()):
        step = steps.get(folder.name)
        title, facts = f"{config.name}: {name}, {folder.name}", data | {"corpus": config.data.corpus, "step": step}
        scores = rows.get(step, {})
        write_card(folder, title, config.model.source, facts, "the selection windows and motif sites", scores)


def finish(run: RunFolder, config: Config, name: str, training: Training, text: WindowSampler) -> None:
    """Keep the last weights, write the summary, say where everything lives."""
    save(run, training, LAST)
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
        "warnings": list(find_warnings(run, training, text).values()),
    }
    write_cards(run, config, name, training)
    run.finish(summary, settings_shown(config, name, training.stage))
    run.log(f"{run.path}: {headline(summary)}")


def settings_shown(config: Config, name: str, stage: PretrainConfig) -> dict[str, object]:
    """The columns of a stage in TensorBoard's HPARAMS, which shows five at first: what every run has, and of the rest
    what is not as it is by default."""
    shown = {"arm": name, "lr": stage.lr, "objective": stage.objective, "seed": config.seed, "steps": stage.steps}
    defaults, skipped = PretrainConfig(), {*shown, "control", "seeds", "warmup_steps", "logging_steps", "eval_steps"}
    values = {item.name: getattr(stage, item.name) for item in dataclasses.fields(PretrainConfig)}
    return shown | {
        key: value for key, value in values.items() if key not in skipped and value != getattr(defaults, key)
    }


def search_pretraining(shared: Pretraining, load: Load) -> str:
    """Search over model, mlm and pretrain by the proxy at the last validation; returns lines for the terminal."""
    config, metric = shared.config, f"val/{shared.config.search.metric}"

    def objective(trial: Config, report: Report) -> float:
        """Train a trial; its pretrain stage reports the proxy at each validation."""
        overlap = (config.folder / OVERLAP).read_text(encoding="utf-8")  # the same text, the same windows
        write_text(trial.folder / OVERLAP, overlap)
        run_stages(shared, trial, report)
        return read_json(trial.folder / PRETRAIN / SUMMARY)["metrics"][metric]

    return run_search(config, metric, ("model", "mlm", "pretrain"), objective, shared.stop, load)

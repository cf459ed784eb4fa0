"""Pre-training on unlabelled text, stage by stage, with the SCCS / NMI hook."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.ahead import one_ahead
from simcsp.core.config import Config, ModelConfig, PretrainConfig
from simcsp.core.device import build_accelerator, check_memory, dropout_seed, free_memory, product_rate, set_seed
from simcsp.core.errors import Interrupted
from simcsp.core.files import read_json, write_text
from simcsp.core.run_layout import LAST, OVERLAP, PRETRAIN, SUMMARY, checkpoint_path, stage_name
from simcsp.model.checkpoint import load_backbone
from simcsp.model.encoder import MIX, check_length, read_pooling
from simcsp.text.annotated import OTHER, SiteSampler, class_names
from simcsp.text.corpora import Corpus, build_sampler
from simcsp.text.sampler import WindowSampler
from simcsp.training.cost import MARGIN, Step
from simcsp.training.half import in_number_format
from simcsp.training.masking import Chooser, build_chooser
from simcsp.training.objectives import inapplicable_fields
from simcsp.training.optimizer import (
    build_optimizer,
    decay_groups,
    pack_state,
    prepare_optimizer,
    take_step,
    unpack_state,
)
from simcsp.training.pretraining_run import PretrainingRun, SilentRun, stage_config, stage_inputs
from simcsp.training.pretraining_text import open_text, record_corpus
from simcsp.training.processes import Processes, processes_of
from simcsp.training.search import Load, Report, run_search
from simcsp.training.step import Batch, Learner, MiniBatches, draw_batch, step_loss
from simcsp.training.stopping import StopSignal
from simcsp.training.tensorboard import open_folder
from simcsp.training.validation import Validation, build_validation

MAX_GRAD_NORM = 1.0  # to which gradients are clipped


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
    accelerator = build_accelerator(config.device, config.precision, minutes=config.timeout)
    processes, validation = processes_of(accelerator), None
    with accelerator.main_process_first():  # it makes the store and scores windows; the others then read both
        corpus = open_text(config, processes.first)
        text = build_sampler(config.data, corpus, config.seed, config.pretrain.max_shift)
        if processes.first:
            validation = build_validation(config, accelerator.autocast)
            record_corpus(config.data, config.folder, corpus, validation.inputs)
    return Pretraining(config, corpus, text, validation, accelerator, stop, processes)


def run_stages(shared: Pretraining, config: Config, report: Report | None = None) -> None:
    """Every stage of a config, one after the other: that of `shared`, or a trial of its search.

    The first runs once, the others, or those of `only`, once for each seed. report: told the proxy at validations."""
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
    settings = {"mlm": first, "pretrain": config.pretrain} | ({"control": control} if config.pretrain.control else {})
    return {name: stage for name, stage in settings.items() if stage.steps}


@dataclass(eq=False)
class Training:
    """Model, optimiser, schedule and progress of a stage: all that its state.pt holds, the same in every process."""

    model: BertForMaskedLM
    pooling: str
    stage: PretrainConfig
    accelerator: Accelerator
    choose: Chooser | None = None
    classes: int = OTHER

    def __post_init__(self) -> None:
        stage, accelerator = self.stage, self.accelerator
        learner = Learner(self.model, self.pooling, stage.objective, stage.projection_head, self.classes)
        learner.to(accelerator.device)
        self.head = learner.head
        freeze_unused(learner, stage)
        fused = accelerator.device.type == "cuda"  # on a CPU it is no faster, and moves the last digits
        optimizer, self.scheduler = build_optimizer(decay_groups(learner), stage, stage.warmup, stage.steps, fused)
        self.optimizer, self.processes = prepare_optimizer(accelerator, optimizer), processes_of(accelerator)
        learner = in_number_format(learner, accelerator)
        self.learner = share_gradients(MiniBatches(learner, stage.mini_batch_size), accelerator)
        self.step = 0
        self.best: dict[str, dict[str, float]] = {}
        # Loss, accuracy and gradient norm summed since the last logged row, and the first step whose loss was no finite
        # number: on the device, since to read them every step is to wait for it every step.
        self.sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
        self.count = self.skipped = 0  # steps since then, and those that fp16's loss scaler skipped
        self.warned: list[str] = []  # signs of a training that teaches nothing, each said once

    @property
    def parts(self) -> dict[str, object]:
        return {"model": self.model, "head": self.head, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def state(self) -> dict[str, object]:
        """All that resuming needs. Raises FloatingPointError for a loss that was no finite number."""
        progress = {"step": self.step, "best": self.best, "sums": self._read_sums(), "count": self.count}
        progress |= {"skipped": self.skipped, "warned": self.warned, "mini_batch_size": self.stage.mini_batch_size}
        return progress | pack_state(self.accelerator, **self.parts)

    def load(self, state: dict[str, object]) -> None:
        self.step, self.best, self.count = (state[key] for key in ("step", "best", "count"))
        self.sums.copy_(torch.tensor([*state["sums"], 0.0]))
        self.skipped = state.get("skipped", 0)  # older states do not have these two
        self.warned = state.get("warned", [])
        unpack_state(state, self.accelerator, **self.parts)

    def draw(self, ids: np.ndarray, rng: np.random.Generator, classes: np.ndarray | None = None) -> Batch:
        """This process's share of a step on all windows uint8 [batch, length], of classes [batch] if they have any."""
        return draw_batch(self.stage, ids, rng, self.choose, classes, self.processes)

    def advance(self, batch: Batch) -> None:
        """One optimiser step on a batch; none where fp16 gradients overflow."""
        self.learner.train()
        processes = self.processes
        own_loss, accuracy = step_loss(self.learner, self.stage, batch.to(self.accelerator.device), processes)
        loss, accuracy = processes.average(own_loss.detach()), processes.average(accuracy)
        self.accelerator.backward(own_loss)
        norm = self.accelerator.clip_grad_norm_(self.learner.parameters(), MAX_GRAD_NORM)
        skipped = take_step(self.accelerator, self.optimizer, self.scheduler)
        self.step += 1
        self.count += 1
        self.skipped += skipped
        for i, value in enumerate((loss, accuracy) if skipped else (loss, accuracy, norm)):
            self.sums[i] += value
        self.sums[3] += torch.where(torch.isfinite(loss) | (self.sums[3] > 0), 0, self.step)

    def means(self) -> dict[str, float]:
        """Means since the last call, and the learning rate; under fp16 the number of skipped steps too.

        The gradient norm is that of the steps that were taken, and is missing where there was none.
        Raises FloatingPointError for a loss that was no finite number.
        """
        (loss, accuracy, norm), taken = self._read_sums(), self.count - self.skipped
        row = {"train/loss": loss / self.count, "train/accuracy": accuracy / self.count}
        row |= {"train/grad_norm": norm / taken} if taken else {}
        row["train/lr"] = self.scheduler.get_last_lr()[0]
        row |= {"train/skipped_steps": self.skipped} if self.accelerator.scaler is not None else {}
        self.sums.zero_()
        self.count = self.skipped = 0
        return row

    def _read_sums(self) -> list[float]:
        *sums, wrong = self.sums.cpu().tolist()
        if wrong:
            raise FloatingPointError(
                f"the loss is not finite at step {wrong:.0f}: lower {self.stage.objective} lr or raise warm-up"
            )
        return sums


def share_gradients(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The module, whose gradients become those of the mean of all processes' losses, begun from the first's weights."""
    if accelerator.num_processes == 1:
        return module
    devices = [accelerator.device] if accelerator.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)  # buffers never change


def freeze_unused(learner: Learner, stage: PretrainConfig) -> None:
    """Ask for no gradients of parameters on which the stage's loss does not depend: under a contrast alone those of the
    head for masked bases and of blocks above the pooled layer, under mlm a learned mix of layers."""
    learner.requires_grad_(True)
    bert, layer = learner.model.bert, read_pooling(learner.pooling).layer
    if stage.objective == "mlm":
        unused = [bert.layer_mix] if layer == MIX else []
    elif stage.mlm_weight:
        unused = []
    else:
        used = {id(parameter) for parameter in bert.parameters()}  # the head shares the embeddings of bases
        unused = [parameter for parameter in learner.model.cls.parameters() if id(parameter) not in used]
        if isinstance(layer, int):
            unused += bert.encoder.layer[layer:].parameters()
    for parameter in unused:
        parameter.requires_grad_(False)


def run_stage(
    shared: Pretraining,
    config: Config,
    name: str,
    stage: PretrainConfig,
    source: ModelConfig,
    report: Report | None = None,
) -> Path:
    """Train one stage to its end, unless it is finished; returns its folder."""
    several = name != "mlm" and len(config.pretrain_seeds) > 1
    path = config.folder / stage_name(name, config.seed if several else None)
    accelerator, processes = shared.accelerator, shared.processes
    run: PretrainingRun | SilentRun = SilentRun()
    if processes.first:
        inputs = stage_inputs(shared, stage, source)
        folder = open_folder(path, stage_config(config, name, stage, source), inputs, str(accelerator.device))
        tell = None if report is None else lambda step, scores: report(step, scores[shared.config.search.metric])
        run = PretrainingRun(folder, config, name, shared.text, shared.validation, tell)
    if processes.told(run.finished):
        return path
    set_seed(config.seed)
    model, pooling, remarks = load_backbone(source, need_mlm_head=stage.objective == "mlm")
    check_length(model, config.data.window, "data.window")
    if processes.first:
        shared.validation.check(model)
    stage = check_step(shared, model.config, pooling, name, stage)
    model.to(accelerator.device)
    choose = build_chooser(stage, config.data, shared.corpus, config.seed)
    state = processes.told(run.begin())
    if state is not None and "mini_batch_size" in state:  # dropout's numbers depend on it
        stage = dataclasses.replace(stage, mini_batch_size=state["mini_batch_size"])
    training = Training(model, pooling, stage, accelerator, choose, len(class_names(config.data)))
    if state is not None:
        training.load(state)
    run.start(training, remarks, resumed=state is not None)
    train(run, path, training, shared, config)
    run.finish(training)
    accelerator.free_memory()
    return path


def train(run: PretrainingRun | SilentRun, path: Path, training: Training, shared: Pretraining, config: Config) -> None:
    """The training loop: a pure function of the state, so that a resumed run repeats a straight one.

    Processes meet in every step, so that the others wait while the first one validates."""
    stage, processes, seed = training.stage, shared.processes, config.seed
    step_cost = cost_of_step(shared, training.model.config, training.pooling, stage)
    most = product_rate(shared.accelerator.device.type, step_cost.precision) * processes.count
    since, windows = time.perf_counter(), 0
    for batch in batches(training, shared.text, seed):
        if processes.count > 1:  # one process has a generator that its state keeps
            set_seed(dropout_seed(seed, training.step, processes.rank))
        training.advance(batch)
        run.count_step()
        windows += stage.batch_size
        step, last = training.step, training.step == stage.steps
        if step % stage.logging_steps == 0 or last:
            row = training.means()  # waits for a GPU
            rate = windows / (time.perf_counter() - since)
            row |= {"train/windows_per_s": rate, "train/mfu": rate / stage.batch_size * step_cost.operations() / most}
            since, windows = time.perf_counter(), 0
            run.record(training, row)
        validated = step % stage.eval_steps == 0 or last
        if validated:
            run.validate(training)
            run.save_state(training)
            since, windows = time.perf_counter(), 0
        if number := processes.most(shared.stop.number):  # a signal to one process stops all of them here
            if not validated:
                run.save_state(training)
            run.settle(training)
            processes.wait()  # until the state is written: what started them may kill the others when one ends
            raise Interrupted(f"stopped at step {step} of {stage.steps}, state saved in {path}", number)


def batches(training: Training, text: WindowSampler | SiteSampler, seed: int) -> Iterator[Batch]:
    """The batches of the steps that are left, each a function of seed and step alone."""
    size = training.stage.batch_size

    def draw(step: int) -> Batch:
        classes = text.classes(step, size) if isinstance(text, SiteSampler) else None
        return training.draw(text.batch(step, size), np.random.default_rng([seed, 3, step]), classes)

    steps = range(training.step, training.stage.steps)
    return one_ahead(draw, steps, thread=training.accelerator.device.type == "cuda")


def cost_of_step(shared: Pretraining, model: BertConfig, pooling: str, stage: PretrainConfig) -> Step:
    accelerator, count, window = shared.accelerator, shared.processes.count, shared.config.data.window
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    return Step(model, stage, window, pooling, precision, count, accelerator.device.type)


def check_step(
    shared: Pretraining, model: BertConfig, pooling: str, name: str, stage: PretrainConfig
) -> PretrainConfig:
    """The stage with a mini_batch_size of auto settled. Refuses a batch too large for memory, or for the text."""
    device, step = shared.accelerator.device, cost_of_step(shared, model, pooling, stage)
    if stage.mini_batch_size == "auto":
        stage = dataclasses.replace(stage, mini_batch_size=step.mini_batch_size(free_memory(device)))
    at_once = stage.mini_batch_size or stage.batch_size // shared.processes.count
    what = f"{name}.batch_size ({stage.batch_size}), {at_once} windows at once (see {name}.mini_batch_size)"
    check_memory(step.memory(stage.mini_batch_size) / MARGIN, what, device)
    shared.text.batch(0, stage.batch_size)
    return stage


def search_pretraining(shared: Pretraining, load: Load) -> str:
    """Search over model, mlm and pretrain by the proxy at the last validation; returns lines for the terminal."""
    config, metric = shared.config, f"val/{shared.config.search.metric}"

    def objective(trial: Config, report: Report) -> float:
        """Train a trial; its pretrain stage reports the proxy at each validation."""
        overlap = (config.folder / OVERLAP).read_text(encoding="utf-8")  # the same text, the same windows
        write_text(trial.folder / OVERLAP, overlap)
        run_stages(shared, trial, report)
        return read_json(trial.folder / PRETRAIN / SUMMARY)["metrics"][metric]

    inputs = stage_inputs(shared, config.pretrain, config.model)
    return run_search(config, metric, ("model", "mlm", "pretrain"), objective, shared.stop, load, inputs)

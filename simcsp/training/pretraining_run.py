"""The run folder of a stage of pre-training: what it says, measures and keeps of a training."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from simcsp.core import run_layout as layout
from simcsp.core.ahead import in_background
from simcsp.core.arms import PROXIES
from simcsp.core.config import Config, MlmConfig, ModelConfig, PretrainConfig, to_dict
from simcsp.core.errors import InputError
from simcsp.core.files import copy_files, read_json, remove_folder, replace_folder
from simcsp.core.run_folder import RunFolder
from simcsp.model.card import write_card
from simcsp.model.checkpoint import resolve_source, save_checkpoint
from simcsp.model.checksums import sha256_folder
from simcsp.text.annotated import SiteSampler, class_names
from simcsp.text.sampler import WindowSampler
from simcsp.text.store import content_hashes
from simcsp.training.log_lines import floors_in_words, headline, progress, with_errors
from simcsp.training.pretraining_text import REMEASURE
from simcsp.training.tensorboard import draw_validation, show_floors, show_layout, stage_settings
from simcsp.training.training_warnings import base_entropy, batch_for_gpu, collapse, stuck, unmoved
from simcsp.training.validation import Embedded, Validation

if TYPE_CHECKING:
    from simcsp.training.pretraining import Pretraining, Training

Tell = Callable[[int, dict[str, float]], None]
"""(step, scores) of a validation."""
CONFIG_SECTIONS = ("name", "seed", "precision", "model", "data", "evaluate")  # with the stage's own: what decides it


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


def stage_inputs(shared: Pretraining, stage: PretrainConfig, source: ModelConfig) -> dict[str, str]:
    """Hashes of all that a stage reads."""
    text = shared.text
    inputs = {"text": text.store.sha256, "intervals": text.intervals.sha256, **shared.validation.inputs}
    if stage.masking == "sites":
        inputs["annotation"] = content_hashes(shared.config.data.annotation)
    if isinstance(text, SiteSampler):
        inputs["classes"] = hashlib.sha256(np.ascontiguousarray(text.classes_of, dtype=np.int64)).hexdigest()
    if source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(source.source))
    return inputs


class SilentRun:
    """The run of a stage in all processes but the first: nothing is measured, said or written."""

    finished = False

    def begin(self) -> None: ...
    def start(self, training: Training, remarks: list[str], resumed: bool) -> None: ...
    def count_step(self) -> None: ...
    def record(self, training: Training, row: dict[str, float]) -> None: ...
    def validate(self, training: Training) -> None: ...
    def save_state(self, training: Training) -> None: ...
    def settle(self, training: Training) -> None: ...
    def finish(self, training: Training) -> None: ...


@dataclass
class Pending:
    """A validation that is being scored. state: of the training then, once asked for; rows: (step, means) since."""

    step: int
    measured: Future
    state: dict[str, Any] | None
    rows: list[tuple[int, dict[str, float]]]


@dataclass(eq=False)
class PretrainingRun:
    """The run of a stage in the first process, or in the only one.

    On a GPU validations are scored in another process while the training goes on. All that depends on the scores waits
    for them, and so does what is written after them: rows of metrics, and the state, which is hence on disk only with
    its scores. So each file is as if the training had waited.

    folder: opened. config: that of the stage, with its seed. name: mlm, pretrain or control. text: the windows that it
    reads. tell: told step and scores of each validation, for a search.
    """

    folder: RunFolder
    config: Config
    name: str
    text: WindowSampler | SiteSampler
    validation: Validation
    tell: Tell | None
    pending: Pending | None = None

    def __post_init__(self) -> None:
        self.bar = tqdm(disable=True)
        if self.finished:
            self.folder.log(f"{self.folder.path}: already done ({headline(self.folder.summary)})")

    @property
    def finished(self) -> bool:
        return self.folder.finished

    def begin(self) -> dict[str, Any] | None:
        """Take the folder for this process; returns the state to resume from."""
        self.folder.begin()
        return self.folder.load_state()

    def start(self, training: Training, remarks: list[str], resumed: bool) -> None:
        """The folder at the step that the training is at: new, with what the start model is worth, or resumed."""
        steps = training.stage.steps
        if resumed:
            self.folder.rewind(training.step)
            self.folder.log(f"{self.folder.path}: resumed at step {training.step} of {steps}")
        else:
            self.folder.rewind(-1)
            self._describe_start(training, remarks)
            floors = self._measure_start(training)
            is_first = self.config.seed == self.config.pretrain_seeds[0]
            if is_first and self.name != layout.CONTROL_STAGE:  # the same for all
                show_floors(self.config.folder, floors, steps)
        show_layout(self.folder.view.writer)
        options = {"desc": self.name, "unit": "step", "disable": not sys.stderr.isatty(), "dynamic_ncols": True}
        self.bar = tqdm(total=steps, initial=training.step, **options)

    def _describe_start(self, training: Training, remarks: list[str]) -> None:
        """Log what a new stage trains, on which text, and what of it overlaps the evaluation."""
        stage, data, log = training.stage, self.config.data, self.folder.log
        size = sum(p.numel() for p in training.model.parameters()) / 1e6
        sources = ", ".join(self.text.store.manifest["sources"])
        windows = f"{stage.batch_size} windows of {data.window} nt from {sources}"
        count = training.processes.count
        shared = f", shared by {count} processes" if count > 1 else ""
        log(f"{self.name}: {stage.objective}, {stage.steps} steps of {windows}{shared}")
        log(f"encoder: {size:.2f} M parameters, pooling {training.pooling}; {'; '.join(remarks)}")
        remark = batch_for_gpu(self.name, stage.batch_size, training.accelerator.device.type)
        if remark is not None and self.name != layout.CONTROL_STAGE:  # whose batch is that of pretrain
            log(f"warning: {self.folder.path}: {remark}")
        for part in read_json(self.config.folder / layout.OVERLAP, REMEASURE)["parts"]:
            log(f"overlap: {part['sentence']}", show=bool(part["shared"]))
        if data.selection_share == 0:
            log("data.selection_share is 0: SCCS is measured on the training part of fold 0, as published")

    def _measure_start(self, training: Training) -> dict[str, dict[str, float]]:
        """Save the start model (the baseline arm) and measure it, before any step; returns the floors."""
        self.save(training, layout.START)
        floors = self.validation.floors(training.model, training.pooling)
        for proxy, values in floors.items():
            self.folder.log(f"floors of {proxy.upper()}: {floors_in_words(values)}")
            self.folder.record(0, {f"floor/{proxy}_{key}": value for key, value in values.items()})
        self.validate(training)
        return floors

    def count_step(self) -> None:
        self.bar.update()

    def record(self, training: Training, row: dict[str, float]) -> None:
        """Keep means of the last steps, and show every tenth of the training."""
        if self.pending is not None and self.pending.measured.done():
            self.settle(training)
        if self.pending is None:
            self._record(training.step, training.stage, row)
        else:
            self.pending.rows.append((training.step, row))

    def _record(self, step: int, stage: PretrainConfig, row: dict[str, float]) -> None:
        self.folder.record(step, row)
        told_by_bar = not self.bar.disable and sys.stdout.isatty()  # else stdout is a log, which has lines
        tenth = step % max(stage.steps // 10, stage.logging_steps) == 0 or step == stage.steps
        self.folder.log(progress(step, stage.steps, row), show=tenth and not told_by_bar)
        self.bar.set_postfix_str(f"loss {row['train/loss']:.3f}")

    def validate(self, training: Training) -> None:
        """Save this checkpoint and measure the proxies; on a GPU `settle` has them by the next validation."""
        self.settle(training)
        step, embedded = training.step, self.validation.embed(training.model, training.pooling)
        if step:
            self.save(training, layout.step_name(step))
        if has_idle_host(training.accelerator.device):
            sent = dataclasses.replace(self.validation, autocast=nullcontext)  # the accelerator stays here
            self.pending = Pending(step, in_background(measure, sent, embedded, step), None, [])
        else:
            self._take(training, step, *measure(self.validation, embedded, step))

    def settle(self, training: Training) -> None:
        """Wait for the scores of a validation that have not come yet, and write what waits for them."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        try:
            measured = pending.measured.result()
        except BrokenProcessPool:
            raise InputError(
                f"{self.folder.path}: the process that scored the validation of step {pending.step} was killed, as the "
                "system does for want of memory: rerun the same command to resume"
            ) from None
        self._take(training, pending.step, *measured)
        if pending.state is not None:
            self.folder.save_state(pending.state | {"best": training.best, "warned": training.warned})
        for step, row in pending.rows:
            self._record(step, training.stage, row)

    def _take(self, training: Training, step: int, scores: dict[str, float], picture: tuple) -> None:
        """Record scores and picture of a step, keep its checkpoint if it is the best, warn once of what is wrong."""
        if scores:
            self.folder.record(step, {f"val/{key}": value for key, value in scores.items()})
            self.folder.view.picture(step, *picture)
        else:
            self.folder.log("nothing to validate on: data.spliceator and data.motif_bed are not set", show=step == 0)
        self.folder.log(f"validation at step {step}: {with_errors(scores)}")
        if step == 0:  # the start is the baseline arm; the best_* arms are checkpoints that this stage trained
            return
        if self.tell is not None:
            self.tell(step, scores)
        keep_checkpoints(self.folder.path, training, step, scores)
        for kind, sentence in self._warnings(training).items():
            if kind not in training.warned:
                training.warned.append(kind)
                self.folder.log(f"warning: {self.folder.path}: {sentence}")

    def save(self, training: Training, name: str) -> None:
        """Write a checkpoint of that name."""
        with replace_folder(layout.checkpoint_path(self.folder.path, name)) as aside:
            save_checkpoint(training.model, aside, training.pooling)

    def save_state(self, training: Training) -> None:
        """Write the state, or keep it until its validation has its scores."""
        if self.pending is not None and self.pending.step == training.step:
            state = training.state()
            self.pending.state = tree_map_only(torch.Tensor, lambda tensor: tensor.to("cpu", copy=True), state)
        else:
            self.settle(training)
            self.folder.save_state(training.state())

    def finish(self, training: Training) -> None:
        """Keep the last weights, write the summary, say where everything lives."""
        self.settle(training)
        self.bar.close()
        self.save(training, layout.LAST)
        rows = self.folder.metrics()
        summary = {"stage": self.name, **summary_of(training, rows)}
        summary["warnings"] = list(self._warnings(training).values())
        write_cards(self.folder, self.config, self.name, training, rows)
        # TensorBoard shows five columns of HPARAMS at first: what every run has, then what is not as by default
        settings = stage_settings(dataclasses.asdict(training.stage))
        self.folder.finish(summary, {"arm": self.name, **settings, "seed": self.config.seed})
        self.folder.log(f"{self.folder.path}: {headline(summary)}")

    def _warnings(self, training: Training) -> dict[str, str]:
        """{kind: sentence} of what is wrong with the training by now."""
        stage = training.stage
        rows, composition = self.folder.metrics(), base_entropy(self.text.batch(0, stage.batch_size))
        cosines = [{"mean_cosine": row["val/mean_cosine"]} for row in rows if "val/mean_cosine" in row]
        first, last = (cosines[0], cosines[-1]) if cosines else ({}, {})
        warnings = {
            "collapse": collapse(last, first, stage.objective),
            "unmoved": unmoved(last, first),
            "stuck": stuck(rows, stage, composition, len(class_names(self.config.data))),
        }
        return {kind: sentence for kind, sentence in warnings.items() if sentence is not None}


def keep_checkpoints(path: Path, training: Training, step: int, scores: dict[str, float]) -> None:
    """Copy a step's checkpoint in a stage's folder to `best_*` where its scores are, and remove the oldest ones."""
    saved = layout.checkpoint_path(path, layout.step_name(step))
    for proxy in PROXIES:
        if proxy in scores and scores[proxy] > training.best.get(proxy, {"value": -np.inf})["value"]:
            ends = {end: scores[f"{proxy}_{end}"] for end in ("low", "high") if f"{proxy}_{end}" in scores}
            training.best[proxy] = {"value": scores[proxy], "step": step, **ends}
            with replace_folder(layout.checkpoint_path(path, layout.best_of(proxy))) as aside:
                copy_files(saved, aside)
    kept = list(layout.step_checkpoints(path).values())
    for old in kept[: max(0, len(kept) - training.stage.save_total_limit)]:
        remove_folder(old)


def has_idle_host(device: torch.device) -> bool:
    """Whether a validation is scored while the training goes on: a CPU would do the one and the other in turns."""
    return device.type == "cuda"


def measure(validation: Validation, embedded: Embedded, step: int) -> tuple[dict[str, float], tuple]:
    """Scores, and what `Curves.picture` shows beside the step."""
    return validation.score(embedded), draw_validation(step, validation, embedded)


def summary_of(training: Training, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json says of a stage that has come to its end. rows: of its metrics."""
    validations = [{key: value for key, value in row.items() if key.startswith("val/")} for row in rows]
    validations = [row for row in validations if row]
    return {
        "objective": training.stage.objective,
        "steps": training.step,
        "pooling": training.pooling,
        "start": validations[0] if validations else {},
        "best": training.best,
        "floors": {key: value for row in rows for key, value in row.items() if key.startswith("floor/")},
        "metrics": {
            "train/loss": [row["train/loss"] for row in rows if "train/loss" in row][-1],
            **(validations[-1] if validations else {}),
            **{f"val/best_{proxy}": best["value"] for proxy, best in training.best.items()},
        },
    }


def write_cards(run: RunFolder, config: Config, name: str, training: Training, rows: list[dict[str, Any]]) -> None:
    """A model card for every checkpoint of a stage, with what was measured at its step."""
    validations = {row["step"]: row for row in rows if any(key.startswith("val/") for key in row)}
    steps = {folder.name: step for step, folder in layout.step_checkpoints(run.path).items()}
    steps |= {layout.best_of(proxy): best["step"] for proxy, best in training.best.items()}
    steps |= {layout.START: 0, layout.LAST: training.step}
    data = {"objective": training.stage.objective, "text": config.data.fasta or config.data.dataset}
    for folder in sorted(run.checkpoints.iterdir()):
        step = steps.get(folder.name)
        facts, scores = data | {"corpus": config.data.corpus, "step": step}, validations.get(step, {})
        title = f"{config.name}: {name}, {folder.name}"
        write_card(folder, title, config.model.source, facts, "the selection windows and motif sites", scores)

"""What a config would do, how long it would take and what it would need, from ten trial steps; nothing is kept."""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertForMaskedLM

from simcsp.core.arms import FLOORS
from simcsp.core.config import Config, PretrainConfig
from simcsp.core.device import set_seed, total_memory
from simcsp.core.run_layout import begun_stages, is_finished
from simcsp.labels.splits import load_windows
from simcsp.model.checkpoint import load_backbone
from simcsp.model.classifier import Classifier
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import check_length
from simcsp.text.alphabet import add_special_tokens
from simcsp.text.annotated import class_names
from simcsp.text.sampler import wanted_spans
from simcsp.training.cost import expected_epochs, fits_in_a_fold, windows_in_an_epoch
from simcsp.training.masking import build_chooser
from simcsp.training.pretraining import Pretraining, Training, check_step, cost_of_step, open_pretraining, stages
from simcsp.training.pretraining_run import has_idle_host
from simcsp.training.stopping import StopSignal
from simcsp.training.training_warnings import batch_for_gpu

TRIAL_STEPS, LONGEST = 10, 30.0  # seconds that trial steps, or a validation, should take at most
FEW = 16  # windows on which is measured what would take longer
Row = tuple[str, str]


@dataclass(frozen=True)
class Trial:
    """What is tried: shared, opened in a folder that goes away; model, on its device."""

    config: Config
    shared: Pretraining
    model: BertForMaskedLM
    pooling: str


def make_plan(config: Config) -> str:
    """The plan of a config, in lines of `what  ...`. Raises InputError for whatever would refuse the start.

    It is made in a folder of its own that goes with it: neither the run folder nor the cache is touched.
    """
    with tempfile.TemporaryDirectory(prefix="simcsp-plan-") as aside:
        data = dataclasses.replace(config.data, cache=str(Path(aside, "cache")))
        shared = open_pretraining(dataclasses.replace(config, runs=aside, data=data), StopSignal())
        set_seed(config.seed)
        needs_head = any(stage.objective == "mlm" for stage in stages(config).values())
        model, pooling, remarks = load_backbone(config.model, need_mlm_head=needs_head)
        check_length(model, config.data.window, "data.window")
        shared.validation.check(model)
        trial = Trial(config, shared, model.to(shared.accelerator.device), pooling)
        rows = [*_run_rows(trial), *_data_rows(trial), _encoder_row(trial, remarks)]
        seconds, of_stages = _stage_rows(trial)
        rows += [*of_stages, *_finetuning_rows(trial), _memory_row(trial)]
    rows.append(("time", f"about {_clock(seconds)} of pre-training; fine-tuning as above"))
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


# -- what there is -----------------------------------------------------------------------------------------------------


def plan_without_data(config: Config, absent: list[str]) -> str:
    """What can be said of a config before its data are there. absent: a line for each file that is not."""
    data, model, settings = config.data, config.model, config.finetune
    source, arms = ", ".join(data.fasta) or data.dataset, ", ".join(settings.arms)
    rows = [("run", str(config.folder)), *(("missing", line) for line in absent)]
    rows.append(("text", f"corpus {data.corpus}, windows of {data.window} nt of {source}"))
    rows.append(("encoder", f"{model.source or 'fresh weights'}, pooling {model.pooling or 'as recorded'}"))
    for name, stage in stages(config).items():
        rows.append((name, f"{stage.objective}, {stage.steps:,} steps of {stage.batch_size} windows, lr {stage.lr:g}"))
    labels = ", ".join("all" if count is None else f"{count:,}" for count in settings.train_windows)
    rows.append(("fine-tune", f"{settings.task}, arms {arms}; training windows: {labels}"))
    rows.append(("time", "measured once the data are there"))
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _run_rows(trial: Trial) -> list[Row]:
    config, accelerator = trial.config, trial.shared.accelerator
    state = "a new folder"
    if config.folder.is_dir():
        done = [str(stage.relative_to(config.folder)) for stage in begun_stages(config.folder) if is_finished(stage)]
        state = f"exists; finished: {', '.join(done) or 'nothing'}; it is resumed only under the same settings"
    precision = accelerator.mixed_precision.replace("no", "fp32")
    return [("run", f"{config.folder}: {state}"), ("device", f"{accelerator.device}, {precision}")]


def _data_rows(trial: Trial) -> list[Row]:
    data, corpus, text = trial.config.data, trial.shared.corpus, trial.shared.text
    sources = ", ".join(corpus.manifest["sources"])
    bases = sum(span.end - span.start for span in wanted_spans(corpus.store, data.records))
    rows = [
        ("text", f"{sources}: {bases / 1e6:,.2f} Mb; corpus {data.corpus}, {len(text):,} windows of {text.length} nt")
    ]
    if data.spliceator is None:
        rows.append(("labels", "none (data.spliceator): no SCCS, and nothing to fine-tune on"))
    else:
        windows, splits = load_windows(data, trial.shared.config.folder)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in zip(*np.unique(windows.strata, return_counts=True)))
        rows.append(("labels", f"{len(windows):,} windows, {data.context} nt about their centre ({kinds})"))
        folds, first = splits.folds["both"], splits.folds["both"][0]
        parts = ", ".join(f"{len(first[part]):,} {part}" for part in ("train", "val", "test"))
        kept = f"{len(splits.selection):,} kept for SCCS"
        rows.append(("folds", f"{len(folds)} ({data.folds}), the first {parts}; {kept}"))
    motifs = trial.shared.validation.motifs
    none = "none (data.motif_bed): no NMI"
    return [*rows, ("sites", none if motifs is None else f"{len(motifs.labels):,} of {data.motif_window} nt, for NMI")]


def _encoder_row(trial: Trial, remarks: list[str]) -> Row:
    model = trial.model
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    blocks = f"{model.config.num_hidden_layers} blocks of {model.config.hidden_size}"
    return "encoder", f"{size:.2f} M parameters, {blocks}, pooling {trial.pooling}; {'; '.join(remarks)}"


def _memory_row(trial: Trial) -> Row:
    """What the largest step takes, beside the most that the trials have taken and what there is."""
    device, needed = trial.shared.accelerator.device, 0.0
    for name, stage in stages(trial.config).items():
        stage = check_step(trial.shared, trial.model.config, trial.pooling, name, stage)
        step = cost_of_step(trial.shared, trial.model.config, trial.pooling, stage)
        needed = max(needed, step.memory(stage.mini_batch_size))
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
    else:
        most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    needed, most, total = (f"{size / 1e9:,.2f} GB" for size in (needed, most, total_memory(device)))
    return "memory", f"about {needed} for a step; the trials took {most}, libraries included, of {total}"


# -- what it takes -----------------------------------------------------------------------------------------------------


def _stage_rows(trial: Trial) -> tuple[float, list[Row]]:
    """Seconds of all stages together, and a row for each."""
    config, shared = trial.config, trial.shared
    of_validation = _validation_seconds(trial)
    total = 0.0
    rows = []
    for name, stage in stages(config).items():
        stage = check_step(shared, trial.model.config, trial.pooling, name, stage)
        seconds, measured = _step_seconds(trial, stage)
        repeats = 1 if name == "mlm" else len(config.pretrain_seeds)
        validations = 2 + -(-stage.steps // stage.eval_steps)  # that of the start, and of fresh weights for the floors
        of_stage = repeats * (stage.steps * seconds + validations * of_validation)
        total += of_stage
        passes = stage.steps * stage.batch_size / len(shared.text)
        rows.append((
            name,
            f"{stage.objective}, {stage.steps:,} steps of {stage.batch_size} windows ({passes:.2g} x the text's), lr "
            f"{stage.lr:g} after {stage.warmup} steps of warm-up{f', {repeats} seeds' if repeats > 1 else ''}: "
            f"{seconds:.2g} s a step{measured}, {validations} validations of {of_validation:.2g} s, "
            f"about {_clock(of_stage)}",
        ))  # fmt: skip
        remark = batch_for_gpu(name, stage.batch_size, shared.accelerator.device.type)
        if remark is not None and name != "control":
            rows.append(("warning", remark))
    return total, rows


def _step_seconds(trial: Trial, stage: PretrainConfig) -> tuple[float, str]:
    """Seconds of a training step, and a remark where it was not found on whole batches. The model stays as it is."""
    shared, seed = trial.shared, trial.config.seed
    choose = build_chooser(stage, trial.config.data, shared.corpus, seed)
    before = {key: value.clone() for key, value in trial.model.state_dict().items()}
    classes = len(class_names(trial.config.data))
    training = Training(trial.model, trial.pooling, stage, shared.accelerator, choose, classes)

    def step(size: int, number: int) -> None:
        ids = shared.text.batch(number, size)
        of_crops = None if shared.corpus.classes is None else shared.text.classes(number, size)
        training.advance(training.draw(ids, np.random.default_rng([seed, 3, number]), of_crops))

    few = min(FEW, stage.batch_size)
    seconds, remark = _timed(lambda number: step(few, number), 2) * stage.batch_size / few, f" (from {few} windows)"
    if few == stage.batch_size or seconds * TRIAL_STEPS <= LONGEST:
        seconds, remark = _timed(lambda number: step(stage.batch_size, number), TRIAL_STEPS), ""
    shared.accelerator.free_memory()
    trial.model.load_state_dict(before)
    return seconds, remark


def _validation_seconds(trial: Trial) -> float:
    """Seconds for which a validation keeps the training; where that would take long, those of encoding its windows."""
    validation = trial.shared.validation
    parts = [] if validation.ids is None else [validation.ids]
    parts += [] if validation.motifs is None else [validation.motifs.ids]
    if not parts:
        return 0.0
    encoding = sum(_encoding_seconds(trial, ids) for ids in parts)
    work = validation.embed if has_idle_host(trial.model.device) else validation
    return encoding if encoding > LONGEST else _timed(lambda _: work(trial.model, trial.pooling), 2)


def _encoding_seconds(trial: Trial, ids: np.ndarray) -> float:
    """Seconds of encoding windows, from some of them."""
    some, batch_size = ids[:FEW], trial.config.evaluate.batch_size
    encoder = Encoder(trial.model.bert, trial.pooling, batch_size, trial.shared.accelerator.autocast)
    return _timed(lambda _: encoder.embed(some), 3) * len(ids) / len(some)


def _finetuning_rows(trial: Trial) -> list[Row]:
    config, settings = trial.config, trial.config.finetune
    if config.data.spliceator is None or settings.task != "windows":
        return []
    windows, splits = load_windows(config.data, trial.shared.config.folder)
    arms = [arm.partition("=")[0] for arm in settings.arms]
    folds = len(settings.folds or splits.folds[settings.sites[0]])
    fits = folds * sum(fits_in_a_fold(config, arm) for arm in settings.arms if arm not in FLOORS)
    what = f"arms {', '.join(arms)}; stages {', '.join(settings.stages)}; {fits} fits of encoders"
    ids = windows.crop(config.data.context)
    if settings.stages == ["probe"]:
        encoding = _clock(_encoding_seconds(trial, ids))
        return [("fine-tune", f"{what}, each a logistic regression on vectors that take {encoding} a model to encode")]
    epochs = expected_epochs(settings)
    trained = windows_in_an_epoch(settings, len(splits.folds[settings.sites[0]][0]["train"]))
    epoch = trained // settings.batch_size * _classifier_seconds(trial, ids)
    total = _clock(fits * epochs * epoch / config.workers)
    shared = f" in {config.workers} processes" if config.workers > 1 else ""
    return [("fine-tune", f"{what}, about {epochs} epochs of {_clock(epoch)} each: about {total}{shared}")]


def _classifier_seconds(trial: Trial, ids: np.ndarray) -> float:
    """Seconds of a step of fine-tuning, whose learning rate is 0."""
    device, settings = trial.shared.accelerator.device, trial.config.finetune
    classifier = Classifier(trial.model.bert, trial.pooling, settings.dropout).to(device).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.0, weight_decay=0.0)
    tokens = torch.from_numpy(add_special_tokens(ids[: settings.batch_size])).to(device).int()

    def step(_: int) -> None:
        with trial.shared.accelerator.autocast():
            logits = classifier(tokens)
        F.binary_cross_entropy_with_logits(logits.float(), torch.zeros(len(tokens), device=device)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step, TRIAL_STEPS)


def _timed(action: Callable[[int], object], times: int) -> float:
    """Seconds a call: the mean of the faster half, since the first ones warm up and the machine has other work."""
    seconds = []
    for number in range(times):
        began = time.perf_counter()
        action(number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(np.mean(sorted(seconds)[: max(1, times // 2)]))


def _clock(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:,.1f} h"

#!/usr/bin/env python
"""Fine-tune every arm as a splice-site classifier, cross-validated on the same folds, and compare the arms.

    python finetune.py [CONFIG.yaml] [--section.field value ...]

Writes runs/<name>/finetune/<arm>/<site>/seedN/foldNN and runs/<name>/report. Run again to resume; folds, arms and seeds
are independent jobs (`--finetune.folds [3]`), joined by `python evaluate.py report runs/<name>`.
`--finetune.stages [supcon, head, full]`: supervised contrast, the head on a frozen encoder, everything; or some of it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import BertModel, get_scheduler

from utils.backbone import check_length, fresh_like, load_backbone, resolve_source, window_vectors
from utils.classifier import HEAD_FILE, Classifier, layer_groups, load_classifier, predict, save_classifier
from utils.config import STAGES, Config, ModelConfig, flatten, load_config, to_dict
from utils.embed import embed
from utils.errors import InputError, run_script
from utils.floors import FLOORS
from utils.metrics import classification_scores, sccs
from utils.motifs import Motifs
from utils.objectives import sup_con
from utils.proxies import load_motifs, load_windows, measure_nmi
from utils.report import write_report
from utils.run import (
    RunFolder,
    StopSignal,
    build_accelerator,
    replace_folder,
    sha256_folder,
    stop_if_asked,
    take_step,
    write_text,
)
from utils.search import Report, run_search
from utils.sequence import add_special_tokens
from utils.spliceator import Splits, Windows, shared_kmers, similar_to_training

OF_PRETRAINING = ("best_sccs", "best_nmi", "last")
CONTROL = "control_"
OF_CONTROL = tuple(f"{CONTROL}{name}" for name in OF_PRETRAINING)
CONFIG_SECTIONS = ("name", "seed", "precision", "model", "data", "evaluate", "finetune")  # what decides a fold's result


def main() -> None:
    config = load_config(sys.argv[1:], hidden=("mlm", "pretrain"))
    stop = StopSignal()
    if config.search.trials:
        print(search_settings(config, stop), flush=True)
        return
    if config.workers == 1:
        run_jobs(config, stop)
    else:
        run_workers(config, stop)
    print(write_report(config), flush=True)


def run_jobs(config: Config, stop: StopSignal, worker: int = 0) -> None:
    """Every site, seed, arm and fold that the config asks for, one after the other."""
    arms = resolve_arms(config)
    windows, splits = load_windows(config)
    accelerator = build_accelerator(config.device, config.precision)
    study = Study(config, accelerator, windows, splits, load_motifs(config.data), stop, worker)
    jobs = [(site, seed, arm) for site in config.finetune.sites for seed in config.finetune.seeds for arm in arms]
    study.bar.total = sum(len(study.fold_numbers(site)) for site, _, _ in jobs)
    for site, seed, arm in jobs:
        study.run_arm(arm, arms[arm], site, seed)
    study.bar.close()


def search_settings(config: Config, stop: StopSignal) -> str:
    """Search over finetune.* by mean validation AUC of the first arm on the first task; no test window is scored."""
    arm, source = next(iter(resolve_arms(config).items()))
    if source is None:
        raise InputError(f"finetune.arms: a search needs an encoder, {arm} is a floor")
    windows, splits = load_windows(config)
    accelerator = build_accelerator(config.device, config.precision)

    def objective(trial: Config, report: Report) -> float:
        study = Study(trial, accelerator, windows, splits, None, stop, 0)
        start, aucs = StartModel(study, arm, source), []
        for number in study.fold_numbers(trial.finetune.sites[0]):
            fold = FoldRun(study, arm, source, trial.finetune.sites[0], trial.finetune.seeds[0], number)
            fold.fit(start)
            aucs.append(fold.best["auc"])
            report(len(aucs), float(np.mean(aucs)))
        study.bar.close()
        return float(np.mean(aucs))

    return run_search(config, "val/auc", ("finetune",), objective, stop)


def run_workers(config: Config, stop: StopSignal) -> None:
    """Share the folds among processes: on a CPU, small fits use the cores better side by side.

    Each gets every `workers`-th fold and an equal part of the cores. Raises the first error of any of them.
    """
    settings = config.finetune
    if settings.select_epoch == "shared":
        raise InputError("workers: finetune.select_epoch shared picks one epoch for all folds, which takes one worker")
    resolve_arms(config)  # its errors once, not once a worker
    _, splits = load_windows(config)
    folds = settings.folds or list(range(len(splits.folds[settings.sites[0]])))
    shares = [folds[i :: config.workers] for i in range(config.workers) if folds[i :: config.workers]]
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(shares)))
    context = multiprocessing.get_context("spawn")
    running, failures = [], context.SimpleQueue()
    for i, share in enumerate(shares):
        part = dataclasses.replace(config, workers=1, finetune=dataclasses.replace(settings, folds=share))
        running.append(context.Process(target=_worker, args=(part, i, failures)))
        running[-1].start()
    while all(process.exitcode in (None, 0) for process in running) and any(process.is_alive() for process in running):
        if stop.asked:
            break
        time.sleep(0.2)
    for process in running:
        if stop.asked or any(other.exitcode for other in running):  # stopped, or one has failed: stop the rest
            process.terminate()
        process.join()
    stop_if_asked(stop, f"in {config.folder}/finetune, finished folds and epochs are kept")
    if not failures.empty():
        raise failures.get()  # the first; the others most likely failed for the same reason
    if dead := [process.exitcode for process in running if process.exitcode]:
        sys.exit(f"{sys.argv[0]}: a worker ended with status {dead[0]}: killed, or see its own message above")


def _worker(config: Config, number: int, failures: multiprocessing.SimpleQueue) -> None:
    def jobs() -> None:
        try:
            run_jobs(config, StopSignal(), number)
        except (InputError, FloatingPointError) as error:
            failures.put(error)
            sys.exit(1)

    run_script(jobs)


def resolve_arms(config: Config) -> dict[str, ModelConfig | None]:
    """{arm: where its encoder comes from}; None for the floors, which have none.

    Raises InputError for an unknown arm, and for one whose checkpoint does not exist yet.
    """
    arms: dict[str, ModelConfig | None] = {}
    for arm in config.finetune.arms:
        name, _, folder = arm.partition("=")
        if name in FLOORS:
            arms[name] = None
        elif folder:
            arms[name] = config.model.saved_as(folder)
        elif name in ("fresh", "baseline"):
            arms[name] = baseline_source(config)
        elif name in OF_PRETRAINING:
            arms[name] = pretrained(config, "pretrain", name)
        elif name in OF_CONTROL:
            arms[name] = pretrained(config, "control", name.removeprefix(CONTROL))
        else:
            known = ", ".join((*FLOORS, "fresh", "baseline", *OF_PRETRAINING, *OF_CONTROL))
            raise InputError(f"finetune.arms: {arm!r} is none of {known} and has no =CHECKPOINT_FOLDER")
    return arms


def baseline_source(config: Config) -> ModelConfig:
    """The start model of the contrastive stage; without one, what is to be fine-tuned as it is."""
    if config.pretrain.steps:
        return pretrained(config, "pretrain", "start")
    if config.mlm.steps:
        return pretrained(config, "mlm", "last")
    return config.model


def pretrained(config: Config, stage: str, name: str) -> ModelConfig:
    folder = config.folder / stage
    if not (folder / "summary.json").is_file():
        remedy = " and pretrain.control true" if stage == "control" else ""
        raise InputError(f"{folder} is not finished: run pretrain.sh with the same config{remedy} first")
    if not (folder / "checkpoints" / name).is_dir():
        raise InputError(f"{folder}/checkpoints has no {name}: the run had no windows or sites to measure it on")
    return config.model.saved_as(folder / "checkpoints" / name)


class Study:
    """What all fits share: the windows and their splits, the motif sites, the device, the progress bar."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        windows: Windows,
        splits: Splits,
        motifs: Motifs | None,
        stop: StopSignal,
        worker: int,
    ) -> None:
        self.config, self.accelerator, self.stop = config, accelerator, stop
        self.windows, self.splits, self.motifs = windows, splits, motifs
        self.ids = windows.crop(config.data.context)
        self.wide = torch.from_numpy(self._wider()) if config.finetune.max_shift else None
        self.tokens = torch.from_numpy(add_special_tokens(self.ids)).to(accelerator.device)
        self.labels = torch.from_numpy(windows.labels).float().to(accelerator.device)
        classes = windows.labels * np.where(windows.sites == "donor", 1, 2)  # non-site 0, donor 1, acceptor 2
        self.classes = torch.from_numpy(classes).to(accelerator.device)
        self.kmers = shared_kmers(windows.ids)
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(desc="finetune", unit="fit", disable=hidden, dynamic_ncols=True, position=worker)

    def _wider(self) -> np.ndarray:
        """uint8 [n, context + 2 max_shift], for shifted windows. Raises InputError where the files hold less."""
        length, there = self.config.data.context + 2 * self.config.finetune.max_shift, self.windows.ids.shape[1]
        if length > there:
            raise InputError(
                f"finetune.max_shift ({self.config.finetune.max_shift}): data.context ({self.config.data.context} nt) "
                f"and twice the shift are more than the {there} nt of the windows; lower either"
            )
        return self.windows.crop(length)

    def training_tokens(self, index: torch.Tensor) -> torch.Tensor:
        """int32 [batch, 1 + context + 1] of windows, each moved by up to max_shift nt, drawn from torch's generator."""
        if self.wide is None:
            return self.tokens[index].int()
        starts = torch.randint(2 * self.config.finetune.max_shift + 1, (len(index), 1))
        bases = self.wide[index].gather(1, starts + torch.arange(self.ids.shape[1]))
        return torch.from_numpy(add_special_tokens(bases.numpy())).to(self.tokens.device).int()

    def fold_numbers(self, site: str) -> list[int]:
        """The folds to run. Raises InputError for one that does not exist."""
        count = len(self.splits.folds[site])
        chosen = list(range(count)) if self.config.finetune.folds is None else self.config.finetune.folds
        if max(chosen, default=0) >= count:
            raise InputError(f"finetune.folds: there is no fold {max(chosen)}; they are 0 to {count - 1}")
        return chosen

    def embed(self, bert: BertModel, pooling: str, ids: np.ndarray) -> np.ndarray:
        """Pooled vectors float32 [n, hidden] of windows uint8 [n, length], in evaluation mode."""
        batch_size, vectors = self.config.evaluate.batch_size, []
        for start in range(0, len(ids), 10 * batch_size):  # whole batches: cutting changes no vector
            self.bar.set_postfix_str(f"encoded {start} of {len(ids)} windows")
            stop_if_asked(self.stop, f"in {self.config.folder}/finetune, finished folds and epochs are kept")
            part = ids[start : start + 10 * batch_size]
            vectors.append(embed(bert, part, pooling, batch_size, self.accelerator.autocast))
        return np.concatenate(vectors)

    def nmi(self, bert: BertModel) -> float:
        """NMI of the motif sites."""
        return measure_nmi(bert, self.motifs, self.config, self.accelerator.autocast)["nmi"]

    def run_arm(self, arm: str, source: ModelConfig | None, site: str, seed: int) -> None:
        """All folds of one arm on one task with one seed."""
        numbers = self.fold_numbers(site)
        folds = [FoldRun(self, arm, source, site, seed, number) for number in numbers]
        waiting = [fold for fold in folds if not fold.run.finished]
        self.bar.update(len(folds) - len(waiting))
        if not waiting:
            return
        if source is None:
            for fold in waiting:
                fold.fit_floor(arm)
            return
        start = StartModel(self, arm, source)
        if self.config.finetune.select_epoch == "per_fold":
            for fold in waiting:
                fold.fit(start)
                fold.finish(start)
        else:
            fit_shared(folds, start)
            for fold in waiting:
                fold.finish(start)


class StartModel:
    """The encoder that an arm starts from."""

    def __init__(self, study: Study, arm: str, source: ModelConfig) -> None:
        self.study, self.fresh = study, arm == "fresh"
        self._vectors: np.ndarray | None = None
        self._nmi: float | None = None
        self.model, self.pooling, _ = load_backbone(source)
        if study.config.finetune.hidden_dropout_prob is not None:  # encoder() builds its copies from this config
            self.model.config.hidden_dropout_prob = study.config.finetune.hidden_dropout_prob
        check_length(self.model, study.config.data.context, "data.context")
        if study.motifs is not None:
            check_length(self.model, study.config.data.motif_window, "data.motif_window")

    def encoder(self, seed: int) -> BertModel:
        """A copy of the start encoder; fresh weights where the arm is `fresh`. Seeds torch's generators."""
        torch.manual_seed(seed)
        copy = fresh_like(self.model.config)  # draws from the generator for every arm alike
        if not self.fresh:
            copy.load_state_dict(self.model.state_dict())
        return copy.bert

    @property
    def shares_features(self) -> bool:
        """Whether every fold's head stage sees the same encoder."""
        return not self.fresh and "supcon" not in self.study.config.finetune.stages

    def features(self, bert: BertModel) -> np.ndarray:
        """Pooled vectors float32 [windows, hidden] of all windows, encoded once; bert: a fold's copy of the start."""
        if self._vectors is None:
            self._vectors = self.study.embed(bert, self.pooling, self.study.ids)
        return self._vectors

    def nmi(self, bert: BertModel) -> float:
        """NMI of the motif sites, measured once where all folds start alike; bert: a fold's copy of the start."""
        if self._nmi is None or self.fresh:
            self._nmi = self.study.nmi(bert)
        return self._nmi


class FoldRun:
    """One fit: one arm, one task, one seed, one fold, in a run folder of its own."""

    def __init__(self, study: Study, arm: str, source: ModelConfig | None, site: str, seed: int, number: int) -> None:
        self.study, self.arm, self.site, self.seed, self.number = study, arm, site, seed, number
        self.parts = study.splits.folds[site][number]
        self.settings = study.config.finetune
        for name, index in self.parts.items():
            if len(np.unique(study.windows.labels[index])) < 2:
                raise InputError(f"fold {number} of {site}: the {name} windows are all of one class; use fewer folds")
        for stage in self.settings.stages if source is not None else ():
            field = "supcon_batch_size" if stage == "supcon" else "batch_size"
            if len(self.parts["train"]) < getattr(self.settings, field):
                raise InputError(
                    f"finetune.{field} ({getattr(self.settings, field)}) is more than the {len(self.parts['train'])} "
                    f"training windows of fold {number}: the last partial batch is dropped, so no batch would be left"
                )
        path = study.config.folder / f"finetune/{arm}/{site}/seed{seed}/fold{number:02d}"
        inputs = {"spliceator": study.windows.sha256}
        if source is not None and study.motifs is not None:
            inputs["motifs"] = study.motifs.sha256
        if source is not None and source.source is not None:
            inputs["start checkpoint"] = sha256_folder(resolve_source(source.source))
        self.run = RunFolder(path, self._config(), inputs, str(study.accelerator.device))
        self.seconds = 0.0  # of fitting, in this process
        self.features: torch.Tensor | None = None  # [windows, hidden], where the head alone is trained or scored

    def _config(self) -> dict[str, object]:
        """The resolved config of this one job, which can be passed back."""
        values = to_dict(self.study.config)
        kept = {key: values[key] for key in CONFIG_SECTIONS}
        arm = next(arm for arm in self.settings.arms if arm.partition("=")[0] == self.arm)
        kept["finetune"] |= {"arms": [arm], "sites": [self.site], "seeds": [self.seed], "folds": [self.number]}
        return kept

    def _array(self, part: str) -> np.ndarray:
        return self.study.ids[self.parts[part]]

    def _start_encoder(self, start: StartModel) -> BertModel:
        seed = int(np.random.SeedSequence([self.seed, self.number]).generate_state(1)[0])
        return start.encoder(seed).to(self.study.accelerator.device)

    # -- training ------------------------------------------------------------------------------------------------------

    def open(self, start: StartModel) -> None:
        """Model and optimiser, from the saved state where there is one, else from the arm's start."""
        self.began = time.perf_counter()
        accelerator = self.study.accelerator
        model = Classifier(self._start_encoder(start), start.pooling, self.settings.dropout).to(accelerator.device)
        self.model, self.learner = model, accelerator.prepare(model)
        self.epoch = 0
        self.best = {"epoch": 0, "auc": -1.0}
        state = self.run.load_state(accelerator.device)
        if state is None:
            self._enter(self.settings.stages[0], start)
        else:
            self._load(state, start)
        self.run.begin()
        self.run.rewind(self.epoch)

    def _enter(self, stage: str, start: StartModel) -> None:
        """Begin a stage with the model as it is now: an optimiser and a schedule of its own."""
        settings = self.settings
        self.stage, self.stage_began = stage, self.epoch
        self.max_epochs, self.batch_size, lr = {
            "supcon": (settings.supcon_epochs, settings.supcon_batch_size, settings.supcon_lr or settings.lr),
            "head": (settings.head_epochs, settings.batch_size, settings.head_lr or settings.lr),
            "full": (settings.max_epochs, settings.batch_size, settings.lr),
        }[stage]
        self.features = self._encode(start, "train", "val") if stage == "head" else None
        groups = layer_groups(self.model, stage, lr, settings.layerwise_lr_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=settings.weight_decay, fused=True)
        self.scheduler = get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            num_warmup_steps=settings.warmup_steps,
            num_training_steps=self.max_epochs * (len(self.parts["train"]) // self.batch_size),
        )
        self.optimizer = self.study.accelerator.prepare(optimizer)

    def _encode(self, start: StartModel, *parts: str) -> torch.Tensor:
        """The encoder's vectors [windows, hidden] for the head: of all windows once an arm, or of this fold's parts.

        Of the parts, where folds have encoders of their own; the rows of other windows are NaN then.
        """
        if start.shares_features:
            vectors = start.features(self.model.bert)
        else:
            index = np.concatenate([self.parts[part] for part in parts])
            vectors = np.full((len(self.study.ids), self.model.bert.config.hidden_size), np.nan, np.float32)
            vectors[index] = self.study.embed(self.model.bert, start.pooling, self.study.ids[index])
        return torch.from_numpy(vectors).to(self.study.accelerator.device)

    def _next_stage(self, start: StartModel) -> None:
        """Go on to the stage that follows, after `head` from the head of its best epoch."""
        if self.stage == "head":
            self.model.head.load_state_dict(load_file(self.run.checkpoints / "best" / HEAD_FILE))
        self.study.accelerator.free_memory()  # or fp16 would unscale the gradients for the last optimiser as well
        self._enter(self.settings.stages[self.settings.stages.index(self.stage) + 1], start)
        self.run.save_state(self._state())  # from here on `best` may be another's

    def close(self) -> None:
        """Free the model; the state is on disk."""
        self.seconds += time.perf_counter() - self.began
        self.features = None
        del self.model, self.learner, self.optimizer, self.scheduler
        self.study.accelerator.free_memory()
        self.run.close()

    def _state(self) -> dict[str, object]:
        scaler = self.study.accelerator.scaler
        return {
            "epoch": self.epoch,
            "stage": self.stage,
            "stage_began": self.stage_began,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def _load(self, state: dict[str, object], start: StartModel) -> None:
        self.epoch, self.best = state["epoch"], state["best"]
        self.model.load_state_dict(state["model"])
        self._enter(state["stage"], start)
        self.stage_began = state["stage_began"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.study.accelerator.scaler is not None:
            self.study.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])

    def fit(self, start: StartModel) -> None:
        """All stages; of the epochs with a head, the weights of the one with the best validation AUC are kept."""
        self.open(start)
        while True:
            while self._goes_on():
                auc = self.train_epoch()
                if auc is not None and auc > self.best["auc"]:
                    self.best = {"epoch": self.epoch, "auc": auc}
                    self.keep_best()
                self.run.save_state(self._state())
            if self.stage == self.settings.stages[-1]:
                break
            self._next_stage(start)
        self.close()

    def _goes_on(self) -> bool:
        """Whether the stage has another epoch: to its limit, or until AUC has not risen for `patience` epochs of it."""
        if self.epoch - self.stage_began >= self.max_epochs:
            return False
        return self.stage == "supcon" or self.epoch - max(self.best["epoch"], self.stage_began) < self.settings.patience

    def train_epoch(self) -> float | None:
        """One pass over the training windows, then validation; returns its AUC (supcon has no head: None)."""
        study, stage = self.study, self.stage
        loss, skipped = self._train_pass()
        self.epoch += 1
        name = "train/supcon_loss" if stage == "supcon" else "train/loss"
        row = {name: loss, "train/lr": settings_lr(self.scheduler)}
        if study.accelerator.scaler is not None:
            row["train/skipped_steps"] = skipped
        if len(self.settings.stages) > 1:
            row["train/stage"] = STAGES.index(stage)  # 0 supcon, 1 head, 2 full
        progress = f"{self.arm} {self.site} fold {self.number} {stage} epoch {self.epoch}"
        if stage == "supcon":
            self.run.record(self.epoch, row)
            study.bar.set_postfix_str(f"{progress} loss {loss:.4f}")
            return None
        scores = classification_scores(study.windows.labels[self.parts["val"]], self._predict("val"))
        self.run.record(self.epoch, row | {f"val/{key}": scores[key] for key in ("auc", "f1", "ap")})
        study.bar.set_postfix_str(f"{progress} AUC {scores['auc']:.4f}")
        return scores["auc"]

    def _train_pass(self) -> tuple[float, int]:
        """The stage's loss on every training window once, one optimiser step a batch.

        Returns its mean, and how many steps fp16's loss scaler skipped because gradients overflowed.
        """
        study, settings = self.study, self.settings
        order = self.parts["train"][self._order()]
        self.learner.train(self.stage != "head")  # the frozen encoder has no dropout
        self.model.head.train()
        total, skipped, batches = 0.0, 0, len(order) // self.batch_size  # the last partial batch is dropped
        for i in range(batches):
            loss = self._loss(torch.from_numpy(order[i * self.batch_size : (i + 1) * self.batch_size]))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{self.run.path}: the loss is {loss.item()} in epoch {self.epoch + 1}")
            study.accelerator.backward(loss)
            if settings.max_grad_norm is not None:
                study.accelerator.clip_grad_norm_(self.learner.parameters(), settings.max_grad_norm)
            skipped += take_step(study.accelerator, self.optimizer, self.scheduler)
            total += loss.detach()
            stop_if_asked(study.stop, f"in {self.run.path}, epoch {self.epoch + 1}")
        return float(total) / batches, skipped

    def _loss(self, index: torch.Tensor) -> torch.Tensor:
        """What the stage minimises, on the windows of `index` [batch]."""
        study = self.study
        if self.stage == "supcon":
            with study.accelerator.autocast():
                vectors = window_vectors(self.model.bert, study.training_tokens(index), self.model.pooling)
            return sup_con(vectors.float(), study.classes[index], self.settings.supcon_temperature)
        logits = self._head_logits(index) if self.stage == "head" else self.learner(study.training_tokens(index))
        return F.binary_cross_entropy_with_logits(logits.float(), study.labels[index])

    def _head_logits(self, index: torch.Tensor) -> torch.Tensor:
        """Logits [n] from stored features."""
        with self.study.accelerator.autocast():
            return self.model.head(self.features[index]).squeeze(-1)

    def _order(self) -> np.ndarray:
        # From (seed, fold, epoch), so that a resumed epoch has the order it would have had.
        return np.random.default_rng([self.seed, self.number, self.epoch]).permutation(len(self.parts["train"]))

    def _predict(self, part: str) -> np.ndarray:
        """P(site), float32, of the windows of a part."""
        if self.features is not None:
            self.model.eval()
            with torch.no_grad():
                return self._head_logits(torch.from_numpy(self.parts[part])).float().sigmoid().cpu().numpy()
        return predict(
            self.model, self._array(part), self.study.config.evaluate.batch_size, self.study.accelerator.autocast
        )

    def keep_best(self) -> None:
        with replace_folder(self.run.checkpoints / "best") as folder:
            save_classifier(self.model, folder)

    # -- results -------------------------------------------------------------------------------------------------------

    def finish(self, start: StartModel) -> None:
        """Score the test windows once, with the chosen weights read back from disk, and write the summary."""
        study, test = self.study, self.parts["test"]
        model = load_classifier(self.run.checkpoints / "best", study.config.model, self.settings.dropout)
        self.model = model.to(study.accelerator.device)
        if self.settings.stages == ["head"]:  # the encoder is the start's still: before is after
            self.features = self._encode(start, "test")
            before = after = self._measure(self.features[test].cpu().numpy(), lambda: start.nmi(self.model.bert))
        else:
            bert = self._start_encoder(start)
            before = self._measure(study.embed(bert, start.pooling, study.ids[test]), lambda: start.nmi(bert))
            after = study.embed(self.model.bert, start.pooling, study.ids[test])
            after = self._measure(after, lambda: study.nmi(self.model.bert))
        more = {f"before/{key}": value for key, value in before.items()}
        more |= {f"after/{key}": value for key, value in after.items()}
        rows = self.run.metrics()
        chosen = next(row for row in rows if row["step"] == self.best["epoch"])
        more |= {key: value for key, value in chosen.items() if key.startswith("val/")}
        self._summarise(self._predict("test"), more, {"epochs": len(rows), "best_epoch": self.best["epoch"]})
        self.features = None
        del self.model

    def _measure(self, vectors: np.ndarray, nmi: Callable[[], float]) -> dict[str, float]:
        """SCCS of the test windows' vectors, and NMI of the motif sites in the folds that have it."""
        study, config, labels = self.study, self.study.config, self.study.windows.labels[self.parts["test"]]
        scores = {"sccs": sccs(vectors, labels, config.evaluate.sccs_pairs, config.seed)["sccs"]}
        if study.motifs is not None and self.number < self.settings.nmi_folds:
            scores["nmi"] = nmi()
        return scores

    def fit_floor(self, arm: str) -> None:
        """Fit a weight matrix or k-mer regression on the training windows and score validation and test."""
        self.began = time.perf_counter()
        study, evaluate = self.study, self.study.config.evaluate
        floor = FLOORS[arm](evaluate)
        train = self.parts["train"]
        floor.fit(self._array("train"), study.windows.labels[train], study.windows.sites[train])
        val = classification_scores(study.windows.labels[self.parts["val"]], floor.predict(self._array("val")))
        self.run.begin()
        self.run.rewind(-1)
        self.seconds = time.perf_counter() - self.began
        self._summarise(floor.predict(self._array("test")), {f"val/{key}": val[key] for key in ("auc", "f1", "ap")}, {})

    def _summarise(self, probabilities: np.ndarray, more: dict[str, float], extra: dict[str, object]) -> None:
        study, test = self.study, self.parts["test"]
        labels = study.windows.labels[test]
        table = pd.DataFrame(
            {"window": study.windows.names[test], "fold": self.number, "label": labels, "probability": probabilities}
        )
        write_text(self.run.path / "predictions.csv", table.to_csv(index=False, float_format="%.9g"))
        scores = {f"test/{key}": value for key, value in classification_scores(labels, probabilities).items()}
        distinct = ~similar_to_training(study.kmers, self.parts["train"], test)
        if len(np.unique(labels[distinct])) == 2:
            scores["test/f1_distinct"] = classification_scores(labels[distinct], probabilities[distinct])["f1"]
        sizes = {part: len(index) for part, index in self.parts.items()} | {"test_distinct": int(distinct.sum())}
        job = {"arm": self.arm, "site": self.site, "seed": self.seed, "fold": self.number, "windows": sizes}
        hyperparameters = flatten({"finetune": self._config()["finetune"]})
        self.run.finish({**job, **extra, "seconds": round(self.seconds, 1), "metrics": scores | more}, hyperparameters)
        study.bar.update()
        line = f"{self.arm:<10} {self.site:<8} seed {self.seed} fold {self.number:02d}  "
        line += f"F1 {scores['test/f1']:.4f}  AUC {scores['test/auc']:.4f}  val AUC {more['val/auc']:.4f}  "
        self.run.log(line + (f"epoch {extra['best_epoch']:>2} of {extra['epochs']:>2}" if extra else "floor"))


def settings_lr(scheduler: torch.optim.lr_scheduler.LRScheduler) -> float:
    return float(scheduler.get_last_lr()[0])


def fit_shared(folds: list[FoldRun], start: StartModel) -> None:
    """The published rule: epochs outside, folds inside, one epoch for all by their mean validation AUC.

    Each fold's model is on disk between its epochs. A fold whose state is ahead has been through this epoch before the
    run was stopped; its best weights are promoted only while every fold still holds that very epoch.
    """
    settings = folds[0].settings
    finished = [fold for fold in folds if fold.run.finished]
    if finished:  # stopped between the summaries: the epoch has been picked
        for fold in folds:
            if not (fold.run.checkpoints / "best").is_dir():
                raise InputError(
                    f"{fold.run.path}: select_epoch shared needs all folds fitted together; use another --name"
                )
            fold.best = {"epoch": finished[0].run.summary["best_epoch"], "auc": -1.0}
        return
    best, best_epoch = -1.0, 0
    for epoch in range(1, settings.max_epochs + 1):
        if epoch - best_epoch > settings.patience:
            break
        for fold in folds:
            fold.open(start)
            if fold.epoch < epoch:
                fold.train_epoch()
                fold.run.save_state(fold._state())
            fold.close()
        done = [{row["step"]: row["val/auc"] for row in fold.run.metrics()} for fold in folds]
        mean = float(np.mean([values[epoch] for values in done]))
        if mean > best:
            best, best_epoch = mean, epoch
            if all(max(values) == epoch for values in done):
                for fold in folds:
                    fold.open(start)
                    fold.keep_best()
                    fold.close()
    for fold in folds:
        fold.best = {"epoch": best_epoch, "auc": best}


def cli() -> None:
    """The command simcsp-finetune."""
    run_script(main)


if __name__ == "__main__":
    cli()

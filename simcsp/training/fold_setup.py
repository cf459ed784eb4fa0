"""What the fits of a comparison share, and what one of them is: an arm on a task, with a seed, in a fold."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import BertForMaskedLM, BertModel

from simcsp.core.config import EvaluateConfig, FinetuneConfig, ModelConfig
from simcsp.core.device import fit_seed
from simcsp.core.errors import InputError
from simcsp.core.run_folder import RunFolder
from simcsp.core.run_layout import FitKey
from simcsp.labels.motifs import Motifs
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import Splits, draw_training
from simcsp.model.checkpoint import load_backbone, resolve_source
from simcsp.model.checksums import sha256_folder
from simcsp.model.embedding import embed
from simcsp.model.encoder import check_length, fresh_like
from simcsp.text.alphabet import add_special_tokens
from simcsp.text.kmers import shared_kmers
from simcsp.training.arms import Arm
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import open_folder


@dataclass(frozen=True)
class Job:
    """One fit. fold: its number. train_windows: how many of its training windows, None for all; draw: which."""

    arm: Arm
    site: str
    seed: int
    fold: int
    train_windows: int | None = None
    draw: int = 0

    @property
    def key(self) -> FitKey:
        """Which fit of the run it is."""
        pretrain_seed = self.arm.pretrain_seed if self.arm.several else None
        return FitKey(self.arm.name, self.site, self.seed, self.fold, pretrain_seed, self.train_windows, self.draw)


@dataclass(frozen=True)
class Study:
    """What all fits share: settings, windows and their splits, motif sites, device, stop signal, progress bar.

    model: its dropout rates are those of fine-tuning, whatever a checkpoint records. seed: of what is measured.
    split_seed: of the draws of training windows.
    ids: uint8 [windows, context]; wide: with max_shift nt more on either side, None without shifts; classes: 0
    non-site, 1 donor, 2 acceptor; strata: site type and label of each window.
    """

    settings: FinetuneConfig
    evaluate: EvaluateConfig
    model: ModelConfig
    seed: int
    split_seed: int
    folder: Path
    accelerator: Accelerator
    windows: Windows
    splits: Splits
    motifs: Motifs | None
    stop: StopSignal
    bar: tqdm
    ids: np.ndarray
    wide: torch.Tensor | None
    labels: torch.Tensor
    classes: torch.Tensor
    strata: np.ndarray
    kmers: Any

    def stop_if_asked(self) -> None:
        """Leave where the work so far is on disk."""
        stop_if_asked(self.stop, f"in {self.folder}/finetune, finished folds and epochs are kept")


def build_study(
    settings: FinetuneConfig,
    evaluate: EvaluateConfig,
    model: ModelConfig,
    seed: int,
    split_seed: int,
    folder: Path,
    context: int,
    accelerator: Accelerator,
    windows: Windows,
    splits: Splits,
    motifs: Motifs | None,
    stop: StopSignal,
    worker: int = 0,
) -> Study:
    """The study of windows cut to `context` nt. Raises InputError where max_shift needs more than the files hold."""
    ids, wide, length = windows.crop(context), None, context + 2 * settings.max_shift
    if length > windows.ids.shape[1]:
        raise InputError(
            f"finetune.max_shift ({settings.max_shift}): data.context ({context} nt) and twice the shift are more than "
            f"the {windows.ids.shape[1]} nt of the windows; lower either"
        )
    if settings.max_shift:
        wide = torch.from_numpy(windows.crop(length))
    device = accelerator.device
    return Study(
        settings,
        evaluate,
        model,
        seed,
        split_seed,
        folder,
        accelerator,
        windows,
        splits,
        motifs,
        stop,
        tqdm(desc="finetune", unit="fit", disable=not sys.stderr.isatty(), dynamic_ncols=True, position=worker),
        ids,
        wide,
        torch.from_numpy(windows.labels).float().to(device),
        torch.from_numpy(windows.labels * np.where(windows.sites == "donor", 1, 2)).to(device),
        windows.strata,
        shared_kmers(windows.ids),
    )


def training_tokens(study: Study, index: torch.Tensor) -> torch.Tensor:
    """int32 [batch, 1 + context + 1] of windows, each moved by up to max_shift nt, drawn from torch's generator."""
    if study.wide is None:
        bases = study.ids[index.numpy()]
    else:
        starts = torch.randint(2 * study.settings.max_shift + 1, (len(index), 1))
        bases = study.wide[index].gather(1, starts + torch.arange(study.ids.shape[1])).numpy()
    return torch.from_numpy(add_special_tokens(bases)).to(study.accelerator.device).int()


def encode(study: Study, bert: BertModel, pooling: str, ids: np.ndarray) -> np.ndarray:
    """Pooled vectors float32 [n, hidden] of windows uint8 [n, length], in evaluation mode."""
    batch_size, vectors = study.evaluate.batch_size, []
    for start in range(0, len(ids), 10 * batch_size):  # whole batches: cutting changes no vector
        study.bar.set_postfix_str(f"encoded {start} of {len(ids)} windows")
        study.stop_if_asked()
        part = ids[start : start + 10 * batch_size]
        vectors.append(embed(bert, part, pooling, batch_size, study.accelerator.autocast))
    return np.concatenate(vectors)


# -- the encoder that an arm starts from -------------------------------------------------------------------------------


@dataclass
class Start:
    """The encoder that all fits of an arm start from, and what has been measured of it once for all of them.

    vectors: of all windows; those of fresh weights are of the seed and fold that vectors_of names.
    """

    model: BertForMaskedLM
    pooling: str
    fresh: bool
    vectors: np.ndarray | None = None
    vectors_of: tuple[int, int] | None = None
    nmi: float | None = None


def load_start(study: Study, arm: str, source: ModelConfig) -> Start:
    """Read an arm's encoder. Raises InputError for windows or sites that it cannot take."""
    model, pooling, _ = load_backbone(source)
    if study.settings.hidden_dropout_prob is not None:  # the copies of `copy_encoder` are built from this config
        model.config.hidden_dropout_prob = study.settings.hidden_dropout_prob
    check_length(model, study.ids.shape[1], "data.context")
    if study.motifs is not None:
        check_length(model, study.motifs.ids.shape[1], "data.motif_window")
    return Start(model, pooling, arm == "fresh")


def copy_encoder(study: Study, job: Job, start: Start) -> BertModel:
    """A copy of the start encoder; fresh weights where the arm is `fresh`. Seeds torch's generators."""
    torch.manual_seed(fit_seed(job.seed, job.fold))
    copy = fresh_like(start.model.config)  # draws from the generator for every arm alike
    if not start.fresh:
        copy.load_state_dict(start.model.state_dict())
    return copy.bert.to(study.accelerator.device)


# -- a fold's run folder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """A job with its folder and its windows: {'train', 'val', 'test'} -> indices."""

    job: Job
    run: RunFolder
    parts: dict[str, np.ndarray]


def arm_inputs(study: Study, arm: Arm) -> dict[str, str]:
    """Hashes of what the fits of an arm read."""
    inputs = {"spliceator": study.windows.sha256}
    if arm.source is not None and study.motifs is not None:
        inputs["motifs"] = study.motifs.sha256
    if arm.source is not None and arm.source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(arm.source.source))
    return inputs


def job_parts(study: Study, job: Job) -> dict[str, np.ndarray]:
    """{'train', 'val', 'test'} -> indices of a job's windows, its training part cut to its draw."""
    parts, count = study.splits.folds[job.site][job.fold], job.train_windows
    fewest, most = len(np.unique(study.strata[parts["train"]])), len(parts["train"])
    if count is not None and not fewest <= count <= most:
        raise InputError(
            f"finetune.train_windows ({count}) must be {fewest} (one of each site type and label) to {most}, which "
            f"the training part of fold {job.fold} of {job.site} has"
        )
    train = draw_training(parts["train"], study.strata, count, study.split_seed, job.fold, job.draw)
    return parts | {"train": train}


def open_fold(study: Study, job: Job, config: dict[str, Any], inputs: dict[str, str]) -> Fold:
    """The job's folder, made or found. config: the job's own, resolved; inputs: hashes of what it reads.

    Raises InputError for parts of one class, and for batches that the training part does not fill.
    """
    parts, settings = job_parts(study, job), study.settings
    for name, index in parts.items():
        if len(np.unique(study.windows.labels[index])) < 2:
            raise InputError(f"fold {job.fold} of {job.site}: the {name} windows are all of one class; use fewer folds")
    for stage in settings.stages if job.arm.source is not None and settings.stages != ["probe"] else ():
        name = "supcon_batch_size" if stage == "supcon" else "batch_size"
        if len(parts["train"]) < getattr(settings, name):
            raise InputError(
                f"finetune.{name} ({getattr(settings, name)}) is more than the {len(parts['train'])} training windows "
                f"of fold {job.fold}: the last partial batch is dropped, so no batch would be left"
            )
    device, shown = str(study.accelerator.device), settings.fold_events
    return Fold(job, open_folder(job.key.folder(study.folder), config, inputs, device, shown), parts)

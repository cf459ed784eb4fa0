"""What the fits of a comparison share, and what one of them is: an arm on a task, with a seed, in a fold."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import BertForMaskedLM, BertModel

from simcsp.core.arms import OF_ANNOTATION
from simcsp.core.config import Config, FinetuneConfig, ModelConfig
from simcsp.core.device import build_accelerator, fit_seed
from simcsp.core.errors import InputError
from simcsp.core.run_folder import RunFolder
from simcsp.labels.motifs import Motifs
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import Splits, draw_parts
from simcsp.model.checkpoint import load_backbone, resolve_source
from simcsp.model.checksums import sha256_folder
from simcsp.model.embedding import Encoder, encoded_at_once
from simcsp.model.encoder import check_length, fresh_like
from simcsp.text.alphabet import add_special_tokens
from simcsp.text.kmers import shared_kmers
from simcsp.text.store import content_hashes
from simcsp.training.arms import Arm, FoldJob
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import open_folder


@dataclass(frozen=True)
class FoldSetup:
    """What all fits share: the config, windows and their splits, motif sites, device, stop signal, progress bar.

    Dropout rates of fine-tuning are those of config.model, whatever a checkpoint records.
    ids: uint8 [windows, context]; classes: 0 non-site, 1 donor, 2 acceptor.
    """

    config: Config
    accelerator: Accelerator
    windows: Windows
    splits: Splits
    motifs: Motifs | None
    stop: StopSignal
    bar: tqdm
    ids: np.ndarray
    labels: torch.Tensor
    classes: torch.Tensor
    kmers: Any

    @property
    def settings(self) -> FinetuneConfig:
        return self.config.finetune

    def stop_if_asked(self) -> None:
        """Leave where the work so far is on disk."""
        stop_if_asked(self.stop, f"in {self.config.folder}/finetune, finished folds and epochs are kept")


def open_setup(
    config: Config, windows: Windows, splits: Splits, motifs: Motifs | None, stop: StopSignal, worker: int = 0
) -> FoldSetup:
    """What the fits of a config share, on its device; windows cut to data.context. worker: its number, for the bar."""
    accelerator = build_accelerator(config.device, config.precision, worker)
    device, labels = accelerator.device, torch.from_numpy(windows.labels)
    return FoldSetup(
        config=config,
        accelerator=accelerator,
        windows=windows,
        splits=splits,
        motifs=motifs,
        stop=stop,
        bar=tqdm(desc="finetune", unit="fit", disable=not sys.stderr.isatty(), dynamic_ncols=True, position=worker),
        ids=windows.crop(config.data.context),
        labels=labels.float().to(device),
        classes=(labels * torch.from_numpy(np.where(windows.sites == "donor", 1, 2))).to(device),
        kmers=shared_kmers(windows.ids),
    )


def training_tokens(setup: FoldSetup, index: torch.Tensor) -> torch.Tensor:
    """int32 [batch, 1 + context + 1] of the windows of an index."""
    return torch.from_numpy(add_special_tokens(setup.ids[index.numpy()])).to(setup.accelerator.device).int()


def encode(setup: FoldSetup, bert: BertModel, pooling: str, ids: np.ndarray) -> np.ndarray:
    """Vectors float32 [n, hidden] of windows uint8 [n, length], in evaluation mode: pooled, or those of
    finetune.probe_flank [n, 2 flank hidden]."""
    batch_size, vectors, settings = setup.config.evaluate.batch_size, [], setup.settings
    encoder = Encoder(bert, pooling, batch_size, setup.accelerator.autocast)
    part_size = 2 * encoded_at_once(8 * batch_size, bert.device)  # whole batches: cutting changes no vector
    for start in range(0, len(ids), part_size):
        setup.bar.set_postfix_str(f"encoded {start} of {len(ids)} windows")
        setup.stop_if_asked()
        vectors.append(encoder.embed_probed(ids[start : start + part_size], settings))
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


def load_start(setup: FoldSetup, arm: str, source: ModelConfig) -> Start:
    """Read an arm's encoder. Raises InputError for windows or sites that it cannot take."""
    model, pooling, _ = load_backbone(source)
    if setup.settings.hidden_dropout_prob is not None:  # the copies of `copy_encoder` are built from this config
        model.config.hidden_dropout_prob = setup.settings.hidden_dropout_prob
    check_length(model, setup.ids.shape[1], "data.context")
    if setup.motifs is not None:
        check_length(model, setup.motifs.ids.shape[1], "data.motif_window")
    return Start(model, pooling, arm == "fresh")


def copy_encoder(setup: FoldSetup, job: FoldJob, start: Start) -> BertModel:
    """A copy of the start encoder; fresh weights where the arm is `fresh`. Seeds torch's generators."""
    torch.manual_seed(fit_seed(job.seed, job.fold))
    copy = fresh_like(start.model.config)  # draws from the generator for every arm alike
    if not start.fresh:
        copy.load_state_dict(start.model.state_dict())
    return copy.bert.to(setup.accelerator.device)


# -- a fold's run folder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """A job with its folder and its windows: {'train', 'val', 'test'} -> indices."""

    job: FoldJob
    run: RunFolder
    parts: dict[str, np.ndarray]


def arm_inputs(config: Config, arm: Arm, windows: Windows, motifs: Motifs | None) -> dict[str, str]:
    """Hashes of what the fits of an arm read."""
    inputs, settings = {"spliceator": windows.sha256}, config.finetune
    if arm.name in OF_ANNOTATION or (arm.source is not None and settings.probe_on == "annotation"):
        inputs |= {"text": content_hashes(config.data.fasta), "annotation": content_hashes(config.data.annotation)}
    if arm.source is not None and motifs is not None:
        inputs["motifs"] = motifs.sha256
    if arm.source is not None and arm.source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(arm.source.source))
    return inputs


def job_parts(setup: FoldSetup, job: FoldJob) -> dict[str, np.ndarray]:
    """{'train', 'val', 'test'} -> indices of a job's windows, its labels cut to its draw."""
    parts, count, strata = setup.splits.folds[job.site][job.fold], job.train_windows, setup.windows.strata
    share, most = setup.config.finetune.validation_share, len(parts["train"])
    each = 2 if share else 1  # one of each site type and label to fit on, and one to validate
    fewest = each * len(np.unique(strata[parts["train"]]))
    if count is not None and not fewest <= count <= most:
        raise InputError(
            f"finetune.train_windows ({count}) must be {fewest} ({each} of each site type and label) to {most}, "
            f"which the training part of fold {job.fold} of {job.site} has"
        )
    return draw_parts(parts, strata, count, share, setup.config.data.split_seed, job.fold, job.draw)


def open_fold(setup: FoldSetup, job: FoldJob, config: dict[str, Any], inputs: dict[str, str]) -> Fold:
    """The job's folder, made or found. config: the job's own, resolved; inputs: hashes of what it reads.

    Raises InputError for parts of one class, and for batches that the training part does not fill.
    """
    parts, settings = job_parts(setup, job), setup.settings
    for name, index in parts.items():
        if len(np.unique(setup.windows.labels[index])) < 2:
            raise InputError(f"fold {job.fold} of {job.site}: the {name} windows are all of one class; use fewer folds")
    for stage in settings.stages if job.arm.source is not None and settings.stages != ["probe"] else ():
        name = "supcon_batch_size" if stage == "supcon" else "batch_size"
        if len(parts["train"]) < getattr(settings, name):
            raise InputError(
                f"finetune.{name} ({getattr(settings, name)}) is more than the {len(parts['train'])} training windows "
                f"of fold {job.fold}: the last partial batch is dropped, so no batch would be left"
            )
    start = None if job.arm.source is None else job.arm.source.source
    device, path = str(setup.accelerator.device), job.key.folder(setup.config.folder)
    return Fold(job, open_folder(path, config, inputs, device, settings.fold_events, start), parts)

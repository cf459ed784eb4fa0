"""One fit: train it, keep its best epoch, score its test windows once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertModel

from simcsp.core.config import STAGES, FinetuneConfig
from simcsp.core.device import fit_seed
from simcsp.core.files import replace_folder, write_text
from simcsp.core.run_layout import PREDICTIONS, VALIDATION, checkpoint_path
from simcsp.labels.floors import Labelled, Predict, fit_floor
from simcsp.metrics.proxies import measure_nmi
from simcsp.metrics.sccs import sccs
from simcsp.metrics.scores import (
    best_threshold,
    called_rates,
    classification_scores,
    f1_at_prevalence,
    threshold_scores,
)
from simcsp.model.card import write_card
from simcsp.model.classifier import Classifier, load_classifier, predict, read_head, save_classifier
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import window_vectors
from simcsp.text.kmers import similar_to_training
from simcsp.training.cost import SUPCON_EPOCHS
from simcsp.training.fold_setup import Fold, FoldSetup, Start, copy_encoder, encode, training_tokens
from simcsp.training.half import in_number_format
from simcsp.training.objectives import sup_con
from simcsp.training.optimizer import build_optimizer, pack_state, prepare_optimizer, take_step, unpack_state
from simcsp.training.stopping import stop_if_asked
from simcsp.training.training_warnings import at_chance, one_class

SUPCON_TEMPERATURE = 0.1  # Khosla et al. 2020

# -- training ----------------------------------------------------------------------------------------------------------


@dataclass
class Fit:
    """A fold's classifier in training: all that changes, and what `pack` saves of it.

    best: epoch and validation AUC. features: the encoder's vectors [windows, hidden] while the head alone is trained.
    """

    model: Classifier
    learner: nn.Module
    epoch: int = 0
    best: dict[str, float] = field(default_factory=lambda: {"epoch": 0, "auc": -1.0})
    stage: str = ""
    stage_began: int = 0
    max_epochs: int = 0
    batch_size: int = 0
    features: torch.Tensor | None = None
    optimizer: torch.optim.Optimizer | None = None
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None


def begin_fit(setup: FoldSetup, fold: Fold, start: Start) -> Fit:
    """Model and optimiser, from the saved state where there is one, else from the arm's start."""
    accelerator = setup.accelerator
    model = Classifier(copy_encoder(setup, fold.job, start), start.pooling, setup.settings.dropout)
    model = model.to(accelerator.device)
    fit = Fit(model, in_number_format(model, accelerator))
    fold.run.begin()
    state = fold.run.load_state(accelerator.device)
    if state is None:
        enter_stage(setup, fold, fit, setup.settings.stages[0], start)
    else:
        fit.epoch, fit.best = state["epoch"], state["best"]
        fit.model.load_state_dict(state["model"])
        enter_stage(setup, fold, fit, state["stage"], start)
        fit.stage_began = state["stage_began"]
        unpack_state(state, accelerator, optimizer=fit.optimizer, scheduler=fit.scheduler)
    fold.run.rewind(fit.epoch)
    return fit


def pack(setup: FoldSetup, fit: Fit) -> dict[str, Any]:
    progress = {name: getattr(fit, name) for name in ("epoch", "stage", "stage_began", "best")}
    parts = {"model": fit.model, "optimizer": fit.optimizer, "scheduler": fit.scheduler}
    return progress | pack_state(setup.accelerator, **parts)


def enter_stage(setup: FoldSetup, fold: Fold, fit: Fit, stage: str, start: Start) -> None:
    """Begin a stage with the model as it is now: an optimiser and a schedule of its own."""
    settings = setup.settings
    fit.stage, fit.stage_began = stage, fit.epoch
    fit.max_epochs, fit.batch_size, trained = {
        "supcon": (SUPCON_EPOCHS, settings.supcon_batch_size, fit.model.bert),
        "head": (settings.head_epochs, settings.batch_size, fit.model.head),
        "full": (settings.max_epochs, settings.batch_size, fit.model),
    }[stage]
    fit.features = encode_parts(setup, fold, fit.model.bert, start, "train", "val") if stage == "head" else None
    steps = fit.max_epochs * (len(fold.parts["train"]) // fit.batch_size)
    groups = [{"params": list(trained.parameters())}]
    optimizer, fit.scheduler = build_optimizer(groups, settings, settings.warmup_steps, steps, fused=True)
    fit.optimizer = prepare_optimizer(setup.accelerator, optimizer)


def encode_parts(setup: FoldSetup, fold: Fold, bert: BertModel, start: Start, *parts: str) -> torch.Tensor:
    """The encoder's vectors [windows, hidden] for the head: of all windows once an arm, or of this fold's parts.

    Of the parts, where folds have encoders of their own; the rows of other windows are NaN then.
    """
    if not start.fresh and "supcon" not in setup.settings.stages:  # every fold's head sees the same encoder
        if start.vectors is None:
            start.vectors = encode(setup, bert, start.pooling, setup.ids)
        vectors = start.vectors
    else:
        index = np.concatenate([fold.parts[part] for part in parts])
        vectors = np.full((len(setup.ids), bert.config.hidden_size), np.nan, np.float32)
        vectors[index] = encode(setup, bert, start.pooling, setup.ids[index])
    return torch.from_numpy(vectors).to(setup.accelerator.device)


def fit_fold(setup: FoldSetup, fold: Fold, start: Start) -> dict[str, float]:
    """All stages; of the epochs with a head, the weights of the one with the best validation AUC are kept.

    Returns that epoch, its AUC, and the seconds that this process took."""
    began, stages = time.perf_counter(), setup.settings.stages
    fit = begin_fit(setup, fold, start)
    while True:
        while has_another_epoch(fit, setup.settings.patience):
            auc = train_epoch(setup, fold, fit)
            if auc is not None and auc > fit.best["auc"]:
                fit.best = {"epoch": fit.epoch, "auc": auc}
                keep_best(fold, fit)
            fold.run.save_state(pack(setup, fit))
        if fit.stage == stages[-1]:
            break
        if fit.stage == "head":  # continue with the head of its best epoch
            fit.model.head.load_state_dict(read_head(checkpoint_path(fold.run.path)))
        setup.accelerator.free_memory()  # or fp16 would unscale the gradients for the last optimiser as well
        enter_stage(setup, fold, fit, stages[stages.index(fit.stage) + 1], start)
        fold.run.save_state(pack(setup, fit), keep_previous=False)  # from here on `best` may be another's
    end_fit(setup, fold)
    return {**fit.best, "seconds": time.perf_counter() - began}


def end_fit(setup: FoldSetup, fold: Fold) -> None:
    """Release what accelerate holds of the fit; its state is on disk."""
    setup.accelerator.free_memory()
    fold.run.close()


def has_another_epoch(fit: Fit, patience: int) -> bool:
    """Whether the stage has another epoch: to its limit, or until AUC has not risen for `patience` epochs of it."""
    if fit.epoch - fit.stage_began >= fit.max_epochs:
        return False
    return fit.stage == "supcon" or fit.epoch - max(fit.best["epoch"], fit.stage_began) < patience


def train_epoch(setup: FoldSetup, fold: Fold, fit: Fit) -> float | None:
    """One pass over the training windows, then validation; returns its AUC (supcon has no head: None)."""
    stage, job = fit.stage, fold.job
    loss, skipped = train_pass(setup, fold, fit)
    fit.epoch += 1
    name = "train/supcon_loss" if stage == "supcon" else "train/loss"
    row = {name: loss, "train/lr": float(fit.scheduler.get_last_lr()[0])}
    if setup.accelerator.scaler is not None:
        row["train/skipped_steps"] = skipped
    if len(setup.settings.stages) > 1:
        row["train/stage"] = STAGES.index(stage)  # 0 supcon, 1 head, 2 full
    progress = f"{job.arm.name} {job.site} fold {job.fold} {stage} epoch {fit.epoch}"
    if stage == "supcon":
        fold.run.record(fit.epoch, row)
        setup.bar.set_postfix_str(f"{progress} loss {loss:.4f}")
        return None
    validation = fold.parts["val"]
    scores = validation_scores(setup, fold, predict_part(setup, fit, validation))
    fold.run.record(fit.epoch, row | scores)
    sign = at_chance(scores["val/auc"], setup.windows.labels[validation])
    if sign is not None and fit.epoch == fit.stage_began + 1:
        fold.run.log(f"warning: {fold.run.path}, after the first epoch of {stage}: {sign}")
    setup.bar.set_postfix_str(f"{progress} AUC {scores['val/auc']:.4f}")
    return scores["val/auc"]


def validation_scores(setup: FoldSetup, fold: Fold, probabilities: np.ndarray) -> dict[str, float]:
    """AUC, F1 and AP of the validation windows' P(site): {'val/auc': ...}."""
    scores = classification_scores(setup.windows.labels[fold.parts["val"]], probabilities)
    return {f"val/{key}": scores[key] for key in ("auc", "f1", "ap")}


def train_pass(setup: FoldSetup, fold: Fold, fit: Fit) -> tuple[float, int]:
    """The stage's loss on every training window once, one optimiser step a batch.

    Returns its mean, and how many steps fp16's loss scaler skipped because gradients overflowed.
    """
    train, accelerator = fold.parts["train"], setup.accelerator
    # From (seed, fold, epoch), so that a resumed epoch has the order it would have had.
    order = train[np.random.default_rng([fold.job.seed, fold.job.fold, fit.epoch]).permutation(len(train))]
    fit.learner.train(fit.stage != "head")  # the frozen encoder has no dropout
    fit.model.head.train()
    total = 0.0
    skipped = 0
    batches = len(order) // fit.batch_size  # the last partial batch is dropped
    for i in range(batches):
        loss = batch_loss(setup, fit, torch.from_numpy(order[i * fit.batch_size : (i + 1) * fit.batch_size]))
        accelerator.backward(loss)
        skipped += take_step(accelerator, fit.optimizer, fit.scheduler)
        total += loss.detach()
        stop_if_asked(setup.stop, f"in {fold.run.path}, epoch {fit.epoch + 1}")
    total = float(total)  # once an epoch: a GPU would be waited for
    if not np.isfinite(total):
        raise FloatingPointError(f"{fold.run.path}: the loss is {total} in epoch {fit.epoch + 1}")
    return total / batches, skipped


def batch_loss(setup: FoldSetup, fit: Fit, index: torch.Tensor) -> torch.Tensor:
    """What the stage minimises, on the windows of `index` [batch]."""
    if fit.stage == "supcon":
        with setup.accelerator.autocast():
            vectors = window_vectors(fit.model.bert, training_tokens(setup, index), fit.model.pooling)
        return sup_con(vectors.float(), setup.classes[index], SUPCON_TEMPERATURE)
    if fit.stage == "head":
        logits = head_logits(setup, fit.model, fit.features[index])
    else:
        logits = fit.learner(training_tokens(setup, index))
    return F.binary_cross_entropy_with_logits(logits.float(), setup.labels[index])


def head_logits(setup: FoldSetup, model: Classifier, features: torch.Tensor) -> torch.Tensor:
    """Logits [n] from stored features [n, hidden]."""
    with setup.accelerator.autocast():
        return model.head(features).squeeze(-1)


def predict_part(setup: FoldSetup, fit: Fit, index: np.ndarray) -> np.ndarray:
    """P(site), float32, of the windows of an index."""
    if fit.features is not None:
        return predict_from_features(setup, fit.model, fit.features[torch.from_numpy(index)])
    return predict(fit.model, setup.ids[index], setup.config.evaluate.batch_size, setup.accelerator.autocast)


@torch.no_grad()
def predict_from_features(setup: FoldSetup, model: Classifier, features: torch.Tensor) -> np.ndarray:
    """P(site), float32 [n], by the head alone, from features [n, hidden]."""
    model.eval()
    return head_logits(setup, model, features).float().sigmoid().cpu().numpy()


def keep_best(fold: Fold, fit: Fit) -> None:
    with replace_folder(checkpoint_path(fold.run.path)) as folder:
        save_classifier(fit.model, folder)


# -- results -----------------------------------------------------------------------------------------------------------


def score_fold(setup: FoldSetup, fold: Fold, start: Start, best_epoch: int, seconds: float) -> None:
    """Score the test windows once, with the chosen weights read back from disk, and write the summary."""
    val, test, stages = fold.parts["val"], fold.parts["test"], setup.settings.stages
    model = load_classifier(checkpoint_path(fold.run.path), setup.config.model, setup.settings.dropout)
    model = model.to(setup.accelerator.device)
    if stages == ["head"]:  # the encoder is the start's still: before is after
        features = encode_parts(setup, fold, model.bert, start, "test")[torch.from_numpy(test)]
        before = after = measure(setup, fold, features.cpu().numpy(), lambda: start_nmi(setup, start, model.bert))
        probabilities = predict_from_features(setup, model, features)
        features = encode_parts(setup, fold, model.bert, start, "val")[torch.from_numpy(val)]
        validation = predict_from_features(setup, model, features)
    else:
        bert = copy_encoder(setup, fold.job, start)
        vectors = encode(setup, bert, start.pooling, setup.ids[test])
        before = measure(setup, fold, vectors, lambda: start_nmi(setup, start, bert))
        vectors = encode(setup, model.bert, start.pooling, setup.ids[test])
        after = measure(setup, fold, vectors, lambda: motif_nmi(setup, model.bert))
        how = setup.config.evaluate.batch_size, setup.accelerator.autocast
        probabilities, validation = (predict(model, setup.ids[part], *how) for part in (test, val))
    rows = fold.run.metrics()
    chosen = next(row for row in rows if row["step"] == best_epoch)
    scores = {key: value for key, value in chosen.items() if key.startswith("val/")}
    scores |= {f"before/{key}": value for key, value in before.items()}
    scores |= {f"after/{key}": value for key, value in after.items()}
    limit = hit_limit(rows, best_epoch, setup.settings)
    epochs = {"epochs": len(rows), "best_epoch": best_epoch, "hit_limit": limit}
    summarise(setup, fold, probabilities, validation, scores, seconds, epochs)


def hit_limit(rows: list[dict[str, float]], best_epoch: int, settings: FinetuneConfig) -> bool:
    """Whether the last stage went to its limit of epochs before `patience` epochs without a better validation AUC.

    rows: of metrics.jsonl, one an epoch.
    """
    stage = settings.stages[-1]
    limit = settings.head_epochs if stage == "head" else settings.max_epochs
    before = sum(row.get("train/stage", STAGES.index(stage)) != STAGES.index(stage) for row in rows)
    return len(rows) - before >= limit and len(rows) - max(best_epoch, before) < settings.patience


def measure(setup: FoldSetup, fold: Fold, vectors: np.ndarray, nmi: Callable[[], float]) -> dict[str, float]:
    """SCCS of the test windows' vectors, and NMI of the motif sites in the first fold: each would encode them."""
    labels = setup.windows.labels[fold.parts["test"]]
    scores = {"sccs": sccs(vectors, labels, setup.config.evaluate.sccs_pairs, setup.config.seed)["sccs"]}
    if setup.motifs is not None and fold.job.fold == 0:
        scores["nmi"] = nmi()
    return scores


def start_nmi(setup: FoldSetup, start: Start, bert: BertModel) -> float:
    """NMI of the motif sites, measured once where all folds start alike; bert: a fold's copy of the start."""
    if start.nmi is None or start.fresh:
        start.nmi = motif_nmi(setup, bert)
    return start.nmi


def motif_nmi(setup: FoldSetup, bert: BertModel) -> float:
    settings = setup.config.evaluate
    encoder = Encoder(bert, "centre", settings.batch_size, setup.accelerator.autocast)
    return measure_nmi(encoder, setup.motifs, settings.nmi_layer, setup.config.seed)["nmi"]


def score_floor(setup: FoldSetup, fold: Fold, predict_site: Predict | None) -> None:
    """Score validation and test windows by a floor fitted on the fold's training windows, or by `predict_site`."""
    began = time.perf_counter()
    job, windows, facts = fold.job, setup.windows, {}
    if predict_site is None:
        indices = (fold.parts[part] for part in ("train", "val"))
        train, val = (Labelled(setup.ids[index], windows.labels[index], windows.sites[index]) for index in indices)
        seed, device = fit_seed(job.seed, job.fold), setup.accelerator.device
        predict_site, facts = fit_floor(job.arm.name, setup.config.evaluate, train, val, seed, device)
    on_validation = predict_site(setup.ids[fold.parts["val"]])
    summarise_at_once(setup, fold, predict_site(setup.ids[fold.parts["test"]]), on_validation, began, facts)


def summarise_at_once(
    setup: FoldSetup, fold: Fold, on_test: np.ndarray, on_validation: np.ndarray, began: float, facts: dict[str, float]
) -> None:
    """Take the fold's folder and write what a model that is fitted in one go has predicted; began: by perf_counter."""
    scores = validation_scores(setup, fold, on_validation)
    fold.run.begin()
    fold.run.rewind(-1)
    summarise(setup, fold, on_test, on_validation, scores, time.perf_counter() - began, facts)


def summarise(
    setup: FoldSetup,
    fold: Fold,
    probabilities: np.ndarray,
    on_validation: np.ndarray,
    more: dict[str, float],
    seconds: float,
    facts: dict[str, float],
) -> None:
    """Write predictions.csv, validation.csv (the same of the validation windows) and summary.json.

    more: scores besides those of the test windows; facts: of the fit. test/f1_tuned is F1 at the threshold that is best
    on validation; test/f1_distinct leaves out test windows that resemble training windows, at the prevalence of all.
    """
    test, val = fold.parts["test"], fold.parts["val"]
    job, arm, labels = fold.job, fold.job.arm, setup.windows.labels
    write_predictions(setup, fold, PREDICTIONS, test, probabilities)
    write_predictions(setup, fold, VALIDATION, val, on_validation)
    threshold = best_threshold(labels[val], on_validation)
    scores = classification_scores(labels[test], probabilities) | called_rates(labels[test], probabilities)
    scores |= {"threshold": threshold, "f1_tuned": threshold_scores(labels[test], probabilities, threshold)["f1"]}
    distinct = ~similar_to_training(setup.kmers, fold.parts["train"], test)
    if len(np.unique(labels[test][distinct])) == 2:
        rates = called_rates(labels[test][distinct], probabilities[distinct])
        scores["f1_distinct"] = f1_at_prevalence(rates["tpr"], rates["fpr"], float(labels[test].mean()))
        scores |= {f"{key}_distinct": value for key, value in rates.items()}
    scores = {f"test/{key}": value for key, value in scores.items()}
    sizes = {part: len(index) for part, index in fold.parts.items()} | {"test_distinct": int(distinct.sum())}
    said = {"arm": arm.name, "site": job.site, "seed": job.seed, "fold": job.fold}
    result = said | {"pretrain_seed": arm.pretrain_seed, "train_windows": job.train_windows, "draw": job.draw}
    result |= {"windows": sizes, **facts, "seconds": round(seconds, 1), "metrics": scores | more}
    signs = [at_chance(more["val/auc"], labels[val]), one_class(probabilities)]
    result["warnings"] = [sign for sign in signs if sign is not None]
    for sign in result["warnings"]:
        fold.run.log(f"warning: {fold.run.path}: {sign}")
    best = checkpoint_path(fold.run.path)
    if best.is_dir():  # floors have none
        data = {"arm": arm.name, "sites": job.site, "fold": job.fold, "training windows": sizes["train"]}
        name = f"{setup.config.folder.name}: {arm.name}"
        write_card(best, name, arm.source and arm.source.source, data, "the test windows of its fold", scores)
    fold.run.finish(result, said)
    setup.bar.update()
    line = f"{arm.name:<10} {job.site:<8} seed {job.seed} fold {job.fold:02d}  "
    if arm.several:
        line += f"pre-training seed {arm.pretrain_seed}  "
    if job.train_windows is not None:
        line += f"{job.train_windows} windows, draw {job.draw}  "
    line += f"F1 {scores['test/f1']:.4f}  AUC {scores['test/auc']:.4f}  val AUC {more['val/auc']:.4f}  "
    ending = "epoch {best_epoch:>2} of {epochs:>2}" if "epochs" in facts else "C {C:g}" if "C" in facts else "floor"
    fold.run.log(line + ending.format(**facts))


def write_predictions(setup: FoldSetup, fold: Fold, name: str, index: np.ndarray, probabilities: np.ndarray) -> None:
    """P(site) of the windows of an index as a table of the fold's folder."""
    columns = {"window": setup.windows.names[index], "fold": fold.job.fold}
    table = pd.DataFrame(columns | {"label": setup.windows.labels[index], "probability": probabilities})
    write_text(fold.run.path / name, table.to_csv(index=False, float_format="%.9g"))

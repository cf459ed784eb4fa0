"""Models that label every base: each arm in each fold, trained on stretches of annotated genomes and on windows whose
centre alone is labelled, selected and calibrated on one part of the records, tested once on another."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression

from simcsp.core.arms import FLOORS
from simcsp.core.config import BasesConfig, Config, ModelConfig, to_dict
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import replace_folder
from simcsp.core.run_folder import RunFolder
from simcsp.core.run_layout import FitKey, checkpoint_path
from simcsp.labels.bases import UNLABELLED, Genome, distinct_windows, fold_records, read_genome, shared_with
from simcsp.labels.splits import training_windows
from simcsp.metrics.scores import score_against
from simcsp.model.bases import CLASSES, IDENTITY, TYPES, BaseClassifier, Labeller, Shape, load_bases, padded, save_bases
from simcsp.model.card import write_card
from simcsp.model.checkpoint import load_backbone, resolve_source
from simcsp.model.checksums import sha256_folder
from simcsp.model.encoder import fresh_like
from simcsp.text.alphabet import N, reverse_complement
from simcsp.training.arms import Arm, resolve_arms
from simcsp.training.optimizer import build_optimizer, decay_groups, pack_state, take_step, unpack_state
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import open_folder

CNN = "cnn"
"""The arm without an encoder."""
SITE = "bases"
"""What stands in the place of a type of site in a run's folders."""
_WARMUP = 100  # steps
_MAX_N_SHARE = 0.05  # of a stretch
_MAX_GRAD_NORM = 1.0
CONFIG_SECTIONS = ("name", "precision", "model", "bases")


@dataclass(frozen=True)
class Text:
    """What one fold trains on: uint8 stretches are cut from `genome`; hidden bases are not learnt from.

    records: names; sizes: nt of each; sites: int64 [n, 4] of record, minus, exon's base, label. windows: uint8
    [n, 3 tiles or more], place [n] of the labelled base, label [n]; None without windows.
    """

    genome: Genome
    records: list[str]
    sizes: np.ndarray
    sites: np.ndarray
    hidden: dict[str, np.ndarray]
    windows: tuple[np.ndarray, np.ndarray, np.ndarray] | None


def run_bases(config: Config, stop: StopSignal) -> dict[str, dict[str, float]]:
    """Every arm, seed and fold; {'arm seed fold': test scores}. Finished ones are read, not run again."""
    settings, accelerator = config.finetune, build_accelerator(config.device, config.precision)
    arms = resolve_arms(config)
    if unfit := [arm.name for arm in arms if arm.name in FLOORS and arm.name != CNN]:
        raise InputError(f"finetune.arms: {unfit[0]} labels windows; finetune.task bases trains encoders and {CNN}")
    genome = read_genome(config.bases, config.data.cache, config.data.transcripts)
    folds = range(len(config.bases.parts)) if settings.folds is None else settings.folds
    if max(folds) >= len(config.bases.parts):
        raise InputError(f"finetune.folds: there is no fold {max(folds)}: bases.parts has {len(config.bases.parts)}")
    rows = {}
    for seed in settings.seeds:
        for fold in folds:
            text = None
            for arm in arms:
                run = open_job(config, genome, arm, seed, fold, str(accelerator.device))
                if not run.finished:
                    text = text or build_text(config, genome, fold)
                    fit_bases(config, text, run, accelerator, arm, seed, fold, stop)
                metrics = run.summary["metrics"]
                of_seed = f":pretrain{arm.pretrain_seed}" if arm.several else ""
                row = rows[f"{arm.name}{of_seed} seed {seed} fold {fold}"] = {}
                for kind in TYPES:
                    row |= {f"{kind} {key}": metrics[f"test/{key}_{kind}"] for key in ("ap", "recall", "topk")}
    return rows


def open_job(config: Config, genome: Genome, arm: Arm, seed: int, fold: int, device: str) -> RunFolder:
    """The folder of one fit, runs/<name>/finetune/<arm>/bases/[pretrainN/]seedN/foldNN."""
    values = to_dict(config)
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    kept["finetune"] = {"task": "bases", "arms": [arm.name], "seeds": [seed], "folds": [fold]}
    kept["data"] = {"spliceator": config.data.spliceator}
    inputs = {"genome": genome.store.sha256}
    if arm.source is not None and arm.source.source is not None:
        inputs["start checkpoint"] = sha256_folder(resolve_source(arm.source.source))
    key = FitKey(arm.name, SITE, seed, fold, arm.pretrain_seed if arm.several else None)
    return open_folder(key.folder(config.folder), kept, inputs, device)


# -- the text of a fold ------------------------------------------------------------------------------------------------


def build_text(config: Config, genome: Genome, fold: int) -> Text:
    """The training text of a fold: its records without what the held-out ones share, and the windows likewise."""
    settings = config.bases
    records = fold_records(settings, genome.store, fold)
    train, held_out = records["train"], records["val"] + records["test"]
    sites = [
        np.column_stack([np.full(len(genome.sites[name]), number), genome.sites[name]])
        for number, name in enumerate(train)
    ]
    rows = np.concatenate(sites)
    if not len(rows):
        raise InputError("bases.parts: the records that are left to train on have no annotated site")
    sizes = np.array([genome.store.by_name[name].length for name in train])
    windows = None
    if settings.windows or settings.background:
        chosen = distinct_windows(training_windows(config.data)[0], genome.store, held_out)
        if chosen.ids.shape[1] < settings.tile:
            raise InputError(f"bases.tile ({settings.tile} nt) is longer than the windows of data.spliceator")
        half = chosen.ids.shape[1] // 2
        donors = chosen.sites == "donor"
        labels = chosen.labels * np.where(donors, CLASSES.index("donor"), CLASSES.index("acceptor"))
        windows = chosen.ids, half - donors.astype(np.int64), labels
    return Text(genome, train, sizes, rows, shared_with(genome, train, held_out), windows)


def draw_stretches(text: Text, settings: BasesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 [stretches, tiles x tile] and labels int64 alike, as their strand is read; outer tiles are unlabelled.

    Under a margin those that are not drawn about a site lie near one, on either strand. Half of the stretches lose
    up to a tile of text at either end, so that scores do not hang on the widest context.
    """
    tile, length = settings.tile, settings.tiles * settings.tile
    ids, labels = [], []
    while len(ids) < settings.stretches:
        if rng.random() < settings.site_share:
            number, minus, base, _ = text.sites[rng.integers(len(text.sites))].tolist()
            start = base - tile - int(rng.integers(length - 2 * tile))
        elif settings.margin is not None:
            number, _, base, _ = text.sites[rng.integers(len(text.sites))].tolist()
            minus = int(rng.integers(2))
            start = base - length // 2 + int(rng.integers(-settings.margin, settings.margin + 1))
        else:
            number, minus = int(rng.choice(len(text.sizes), p=text.sizes / text.sizes.sum())), int(rng.integers(2))
            start = int(rng.integers(text.sizes[number]))
        piece, known = _stretch(text, text.records[number], start, length, minus)
        if (piece == N).mean() > _MAX_N_SHARE and text.sizes[number] >= length:
            continue
        known[:tile], known[-tile:] = UNLABELLED, UNLABELLED
        if rng.random() < 0.5:
            left, right = rng.integers(0, tile, 2)
            piece[:left], piece[length - right :] = N, N
        ids.append(piece)
        labels.append(known)
    return np.stack(ids), np.stack(labels)


def _stretch(text: Text, name: str, start: int, length: int, minus: int) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels [length] from `start` on (forward strand), as the strand is read; N beyond the record."""
    genome, record = text.genome, text.genome.store.by_name[name]
    ids = padded(genome.store, record, start, start + length)
    labels = np.full(length, UNLABELLED)
    first = max(start, 0)
    last = max(min(start + length, record.length), first)  # beyond the record there is nothing but N
    labels[first - start : last - start] = genome.labels(name, first, last, 0)
    if minus:
        labels[first - start : last - start] = genome.labels(name, first, last, 1)[::-1]
    labels[first - start : last - start][text.hidden[name][first:last]] = UNLABELLED
    return (reverse_complement(ids), labels[::-1].copy()) if minus else (ids, labels)


def draw_windows(text: Text, settings: BasesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 [windows, whole tiles] cut at random about the labelled base, and labels, of that base alone.

    As long as the model's reach needs, or as the windows are.
    """
    ids, places, kinds = text.windows
    length = min(shape_of(settings).window, ids.shape[1] // settings.tile * settings.tile)
    # Decoys too: of sites alone, the statistics of the batch would tell the label, and little would be learnt.
    index = rng.integers(len(ids), size=settings.windows)
    spare = ids.shape[1] - length
    start = np.clip(spare // 2 + rng.integers(-settings.tile // 3, settings.tile // 3 + 1, settings.windows), 0, spare)
    cut = np.lib.stride_tricks.sliding_window_view(ids, length, axis=1)[index, start]
    labels = np.full(cut.shape, UNLABELLED)
    inside = places[index] - start
    labels[np.arange(len(index)), inside] = kinds[index]
    return cut, labels


def draw_background(text: Text, settings: BasesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 [background, whole tiles] of windows without a site, and labels: neither, but for half a tile at the
    ends. Windows of sites are read backwards, decoys on either strand."""
    ids, _, kinds = text.windows
    length = ids.shape[1] // settings.tile * settings.tile
    index = rng.integers(len(ids), size=settings.background)
    start = rng.integers(ids.shape[1] - length + 1, size=settings.background)
    cut = np.lib.stride_tricks.sliding_window_view(ids, length, axis=1)[index, start]
    turned = (kinds[index] > 0) | (rng.random(settings.background) < 0.5)
    cut = np.where(turned[:, None], reverse_complement(cut), cut)
    labels = np.where(cut == N, UNLABELLED, 0)
    labels[:, : settings.tile // 2], labels[:, -(settings.tile // 2) :] = UNLABELLED, UNLABELLED
    return cut, labels


# -- one fit -----------------------------------------------------------------------------------------------------------


def fit_bases(
    config: Config,
    text: Text,
    run: RunFolder,
    accelerator: Accelerator,
    arm: Arm,
    seed: int,
    fold: int,
    stop: StopSignal,
) -> None:
    """Train, keep the weights of the best validation, calibrate them there, score the test records once."""
    began, settings, device = time.perf_counter(), config.bases, accelerator.device
    model = build_model(settings, arm.source, arm.name == "fresh", seed, fold).to(device)
    trained = [
        {**g, "params": [p for p in g["params"] if p.requires_grad]} for g in decay_groups(model, settings.weight_decay)
    ]
    warmup = min(_WARMUP, settings.steps // 10)
    optimizer, scheduler = build_optimizer(
        trained, settings.lr, settings.weight_decay, "cosine", warmup, settings.steps
    )
    learner, optimizer = accelerator.prepare(model), accelerator.prepare(optimizer)
    step, best = 0, {"step": 0, "ap": -1.0}
    if (state := run.load_state(device)) is not None:
        step, best = state["step"], state["best"]
        unpack_state(state, accelerator, model=model, optimizer=optimizer, scheduler=scheduler)
    run.begin()
    run.rewind(step)
    records = fold_records(settings, text.genome.store, fold)
    total = 0.0
    while step < settings.steps:
        learner.train()
        loss = step_loss(learner, text, settings, np.random.default_rng([seed, fold, step]), accelerator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{run.path}: the loss is {loss.item()} at step {step + 1}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(learner.parameters(), _MAX_GRAD_NORM)
        take_step(accelerator, optimizer, scheduler)
        total += loss.item()
        step += 1
        if step % settings.eval_steps == 0 or step == settings.steps:
            labeller = Labeller(model.eval(), IDENTITY, device, accelerator.autocast)
            odds, labels = label_records(labeller, text.genome, records["val"])
            scores = score_types(odds, labels)
            done = (step - 1) % settings.eval_steps + 1
            run.record(step, {"train/loss": total / done} | {f"val/{key}": value for key, value in scores.items()})
            total = 0.0
            if scores["ap"] > best["ap"]:
                best = {"step": step, "ap": scores["ap"]}
                with replace_folder(checkpoint_path(run.path)) as folder:
                    save_bases(model, calibrate(odds, labels), folder)
            progress = {"step": step, "best": best}
            run.save_state(progress | pack_state(accelerator, model=model, optimizer=optimizer, scheduler=scheduler))
        stop_if_asked(stop, f"in {run.path}, step {step}")
    model, calibration = load_bases(checkpoint_path(run.path))
    labeller = Labeller(model.to(device), calibration, device, accelerator.autocast)
    scores = score_types(*label_records(labeller, text.genome, records["test"]))
    metrics = {f"test/{key}": value for key, value in scores.items()} | {"val/ap": best["ap"]}
    sizes = {"arm": arm.name, "site": SITE, "seed": seed, "fold": fold, "best_step": best["step"]}
    if arm.several:
        sizes["pretrain_seed"] = arm.pretrain_seed
    parameters = sum(weights.numel() for weights in model.parameters())
    seconds = round(time.perf_counter() - began, 1)
    name, start = f"{config.name}: {arm.name}", arm.source.source if arm.source and arm.name != "fresh" else None
    data = {"genome": settings.fasta, "annotation": settings.annotation, "windows": config.data.spliceator}
    write_card(checkpoint_path(run.path), name, start, data, f"records {', '.join(records['test'])}", metrics)
    run.finish({**sizes, "parameters": parameters, "seconds": seconds, "metrics": metrics}, sizes)
    shown = "  ".join(f"{kind} AP {scores[f'ap_{kind}']:.4f} top-k {scores[f'topk_{kind}']:.4f}" for kind in TYPES)
    run.log(f"{sizes['arm']:<10} seed {seed} fold {fold:02d}  {shown}")
    accelerator.free_memory()
    run.close()


def build_model(settings: BasesConfig, source: ModelConfig | None, fresh: bool, seed: int, fold: int) -> BaseClassifier:
    """The arm's encoder (None: none) under convolutions of fresh weights, the same for all arms of one width."""
    bert = None
    if source is not None:
        encoder = load_backbone(source)[0]
        torch.manual_seed(seed)
        bert = (fresh_like(encoder.config) if fresh else encoder).bert
    torch.manual_seed(int(np.random.SeedSequence([seed, fold]).generate_state(1)[0]))
    return BaseClassifier(bert, shape_of(settings), settings.freeze_encoder, settings.dropout)


def shape_of(settings: BasesConfig) -> Shape:
    """The sizes of a configuration's model."""
    return Shape(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(Shape)})


def step_loss(
    learner: torch.nn.Module, text: Text, settings: BasesConfig, rng: np.random.Generator, accelerator: Accelerator
) -> torch.Tensor:
    """Cross-entropy of all labelled bases of a step's stretches and windows, summed, per stretch or window; each member
    has its own, and their mean is taken."""
    drawn = [draw_stretches(text, settings, rng)]
    drawn += [draw_windows(text, settings, rng)] if settings.windows else []
    drawn += [draw_background(text, settings, rng)] if settings.background else []
    total = 0.0
    for ids, labels in drawn:
        with accelerator.autocast():
            logits = learner.each(torch.from_numpy(ids).to(accelerator.device)).float()
        targets = torch.from_numpy(labels).to(accelerator.device)[..., None].expand(logits.shape[:-1])
        total = total + F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), ignore_index=UNLABELLED, reduction="sum"
        )
    return total / sum(len(ids) for ids, _ in drawn) / logits.shape[2]


# -- held-out records --------------------------------------------------------------------------------------------------


def label_records(labeller: Labeller, genome: Genome, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(raw log-odds float32 [n, 2], labels int64 [n]) of all bases of both strands that are not N."""
    odds, labels = [], []
    for name in names:
        record = genome.store.by_name[name]
        for number in range(-(-record.length // labeller.chunk)):
            start = number * labeller.chunk
            end = min(start + labeller.chunk, record.length)
            known = genome.store.fetch(name, start, end) != N
            if known.any():
                found = labeller.chunk_odds(genome.store, record, number)
                for minus in (0, 1):
                    row = genome.labels(name, start, end, minus)
                    odds.append(found[minus][known])
                    labels.append((row[::-1] if minus else row)[known])
    return np.concatenate(odds), np.concatenate(labels)


def score_types(odds: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ap, recall, topk of acceptors and of donors among all bases, and their means: {'ap', 'ap_donor', ...}."""
    scores: dict[str, float] = {}
    for column, kind in enumerate(TYPES):
        found = score_against((labels == column + 1).astype(np.int64), odds[:, column])
        scores |= {f"{key}_{kind}": value for key, value in found.items()}
    means = {key: float(np.mean([scores[f"{key}_{kind}"] for kind in TYPES])) for key in ("ap", "recall", "topk")}
    return means | scores


def calibrate(odds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Slope and offset of the log-odds of each type against neither, [2, 2], at that prevalence (Platt 1999)."""
    rows = []
    for column in range(len(TYPES)):
        mine = (labels == 0) | (labels == column + 1)
        # The mean loss of millions of bases is tiny, and the default solver takes its first steps for the end.
        fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(
            odds[mine, column : column + 1].astype(np.float64), labels[mine] > 0
        )
        rows.append([fit.coef_[0, 0], fit.intercept_[0]])
    return np.array(rows)

"""Models that label every base: each arm in each fold, trained on stretches of annotated genomes, selected and
calibrated on one part of the records, tested once on another."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers.optimization import get_wsd_schedule

from simcsp.core.arms import FLOORS
from simcsp.core.config import BasesConfig, Config, to_dict
from simcsp.core.device import build_accelerator, fit_seed
from simcsp.core.errors import InputError
from simcsp.core.files import replace_folder
from simcsp.core.run_folder import RunFolder
from simcsp.core.run_layout import checkpoint_path
from simcsp.labels.bases import LABEL, UNLABELLED, Genome, fold_records, read_genome, shared_with
from simcsp.metrics.scores import score_against
from simcsp.model.bases import (
    BASES_CONFIG,
    IDENTITY,
    TYPES,
    BaseClassifier,
    Labeller,
    Shape,
    grow,
    load_bases,
    padded,
    save_bases,
)
from simcsp.model.card import write_card
from simcsp.model.checkpoint import load_backbone, resolve_source
from simcsp.model.checksums import sha256_folder
from simcsp.model.encoder import fresh_like
from simcsp.text.alphabet import A, N, reverse_complement
from simcsp.text.annotation import gene_bodies, read_annotation
from simcsp.text.known_introns import is_annotation
from simcsp.text.store import TokenStore, content_hashes
from simcsp.training.arms import FoldJob, resolve_arms
from simcsp.training.optimizer import decay_groups, pack_state, prepare_optimizer, take_step, unpack_state
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import open_folder

CNN = "cnn"
"""The arm without an encoder."""
SITE = "bases"
"""What stands in the place of a type of site in a run's folders."""
_WARMUP = 100  # steps
_SAVE_STEPS = 100  # between states, where no validation comes before
_MAX_N_SHARE = 0.05  # of a stretch
_GRAFT_SHARE = 0.5  # of stretches about a site
_BARE_SHARE = 0.5  # of stretches about a site, where held-out records are genes without what surrounds them
_KEPT = {LABEL["donor"]: (2, 6), LABEL["acceptor"]: (20, 2)}
"""Bases before and after a site's exon base that are not mutated: those that MaxEntScan reads (Yeo & Burge 2004)."""
_WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
CONFIG_SECTIONS = ("name", "precision", "model", "bases")


@dataclass(frozen=True)
class Text:
    """What one fold trains on: uint8 stretches are cut from `genome`; hidden bases are not learnt from.

    records: names; sizes: nt of each; sites: int64 [n, 4] of record, minus, exon's base, label; exons [n]: nt of their
    exons; genes: int64 [n, 2] of start and end of their genes, None where text is not cut there. grafts: record, and
    the exon's bases at donor and acceptor, of introns from elsewhere that share nothing with what is held out.
    """

    genome: Genome
    records: list[str]
    sizes: np.ndarray
    sites: np.ndarray
    hidden: dict[str, np.ndarray]
    exons: np.ndarray
    genes: np.ndarray | None
    grafts: list[tuple[str, int, int]]


def run_bases(config: Config, stop: StopSignal) -> dict[str, dict[str, float]]:
    """Every arm, seed and fold; {'arm seed fold': test scores}. Finished ones are read, not run again."""
    settings, accelerator = config.finetune, build_accelerator(config.device, config.precision)
    arms = resolve_arms(config)
    if unfit := [arm.name for arm in arms if arm.name in FLOORS and arm.name != CNN]:
        raise InputError(f"finetune.arms: {unfit[0]} labels windows; finetune.task bases trains encoders and {CNN}")
    genome = read_genome(config.bases, config.data.cache)
    folds = range(len(config.bases.parts)) if settings.folds is None else settings.folds
    if max(folds) >= len(config.bases.parts):
        raise InputError(f"finetune.folds: there is no fold {max(folds)}: bases.parts has {len(config.bases.parts)}")
    rows = {}
    for seed in settings.seeds:
        for fold in folds:
            text = None
            for arm in arms:
                job = FoldJob(arm, SITE, seed, fold)
                run = open_job(config, genome, job, str(accelerator.device))
                if not run.finished:
                    text = text or build_text(config, genome, fold)
                    fit_bases(config, text, run, accelerator, job, stop)
                metrics = run.summary["metrics"]
                row = rows[f"{job.key.model} seed {seed} fold {fold}"] = {}
                for kind in TYPES:
                    row |= {f"{kind} {key}": metrics[f"test/{key}_{kind}"] for key in ("ap", "recall", "topk")}
    return rows


def open_job(config: Config, genome: Genome, job: FoldJob, device: str) -> RunFolder:
    """The folder of one fit, runs/<name>/finetune/<arm>/bases/[pretrainN/]seedN/foldNN."""
    arm, values = job.arm, to_dict(config)
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    kept["finetune"] = {"task": "bases", "arms": [arm.name], "seeds": [job.seed], "folds": [job.fold]}
    kept["data"] = {"spliceator": config.data.spliceator}
    annotation = [*config.bases.annotation, *config.bases.doubtful]
    inputs = {"genome": genome.store.sha256, "annotation": content_hashes(annotation)}
    start = None if arm.source is None else arm.source.source
    folder = None if start is None else resolve_source(start)
    if arm.name == CNN and config.bases.source is not None:
        start, folder = config.bases.source, Path(config.bases.source)
        if not (folder / BASES_CONFIG).is_file():
            raise InputError(f"bases.source: {folder} is no folder of a model of bases: it has no {BASES_CONFIG}")
    if folder is not None:
        inputs["start checkpoint"] = sha256_folder(folder)
    return open_folder(job.key.folder(config.folder), kept, inputs, device, start=start)


# -- the text of a fold ------------------------------------------------------------------------------------------------


def build_text(config: Config, genome: Genome, fold: int) -> Text:
    """The training text of a fold: its records without what the held-out ones share."""
    settings = config.bases
    records = fold_records(settings, genome.store, fold)
    train, held_out = records["train"], records["val"] + records["test"]
    of_records = [genome.sites[name] for name in train]
    rows = np.concatenate([np.insert(sites, 0, number, axis=1) for number, sites in enumerate(of_records)])
    rows = rows[rows[:, 3] != UNLABELLED]
    if not len(rows):
        raise InputError("bases.parts: the records that are left to train on have no annotated site")
    sizes = np.array([genome.store.by_name[name].length for name in train])
    hidden = shared_with(genome, train + records["grafts"], held_out)
    grafts = []
    for name in records["grafts"]:
        ends = {label: base for _, base, label in genome.sites[name].tolist()}
        if len(ends) == len(TYPES) and not hidden[name].any():
            grafts.append((name, ends[LABEL["donor"]], ends[LABEL["acceptor"]]))
    genes = gene_ends(settings, genome.store, train, rows) if settings.forward else None
    return Text(genome, train, sizes, rows, hidden, exon_lengths(rows), genes, grafts)


def exon_lengths(sites: np.ndarray) -> np.ndarray:
    """nt int64 [n] from each site [n, 4] to the nearest of the other type on its exon's side; large where none is."""
    lengths = np.full(len(sites), np.iinfo(np.int64).max)
    for number, minus in {(number, minus) for number, minus, *_ in sites.tolist()}:
        strand = np.flatnonzero((sites[:, 0] == number) & (sites[:, 1] == minus))
        for label, other in (("donor", "acceptor"), ("acceptor", "donor")):
            mine = strand[sites[strand, 3] == LABEL[label]]
            ends = np.sort(sites[strand[sites[strand, 3] == LABEL[other]], 2])
            base = sites[mine, 2]
            if (label == "donor") == (not minus):  # the exon lies to the left
                index = np.searchsorted(ends, base, side="right") - 1
            else:
                index = np.searchsorted(ends, base)
            known = (index >= 0) & (index < len(ends))
            lengths[mine[known]] = np.abs(base[known] - ends[index[known]]) + 1
    return lengths


def gene_ends(settings: BasesConfig, store: TokenStore, records: list[str], sites: np.ndarray) -> np.ndarray:
    """Start and end int64 [n, 2] of a gene that each site [n, 4] lies in; of its record where the file has no genes."""
    ends = np.array([[0, store.by_name[records[number]].length] for number in sites[:, 0]], dtype=np.int64)
    numbers = {name: number for number, name in enumerate(records)}
    for source, path in enumerate(settings.annotation):
        lengths = {name: store.by_name[name].length for name in records if store.by_name[name].source == source}
        if not lengths or not is_annotation(path):
            continue
        transcripts = read_annotation(path, lengths, "ccds" if path in settings.ccds else "all")
        for gene in gene_bodies(transcripts):
            of_strand = (sites[:, 0] == numbers[gene.chrom]) & (sites[:, 1] == (gene.strand == "-"))
            ends[of_strand & (sites[:, 2] >= gene.start) & (sites[:, 2] < gene.end)] = gene.start, gene.end
    return ends


def draw_stretches(text: Text, settings: BasesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 [stretches, tiles x tile] and labels int64 alike, as their strand is read; outer tiles are unlabelled.

    Under a margin those that are not drawn about a site lie near one, on either strand. Half of the stretches lose
    up to a tile of text at either end, so that scores do not hang on the widest context. Where held-out records are
    genes (`forward`), half of those about a site are N beyond the gene, as these are: its ends tell the outer exons.
    """
    tile, length = settings.tile, settings.tiles * settings.tile
    drawn = []
    while len(drawn) < settings.stretches:
        ids, labels = _draw_stretch(text, settings, rng)
        if len(ids) != length:  # mostly N
            continue
        labels[:tile], labels[-tile:] = UNLABELLED, UNLABELLED
        if rng.random() < 0.5:
            left, right = rng.integers(0, tile, 2)
            ids[:left], ids[length - right :] = N, N
        if settings.mutations:
            ids = mutated(ids, labels, 2 * settings.mutations * rng.random(), rng)
        if settings.fragments and rng.random() < settings.fragments:
            keep_fragment(ids, labels, tile, rng)
        drawn.append((ids, labels))
    return np.stack([ids for ids, _ in drawn]), np.stack([labels for _, labels in drawn])


def keep_fragment(ids: np.ndarray, labels: np.ndarray, shortest: int, rng: np.random.Generator) -> None:
    """Leave of a stretch [n] a part alone, about one of its sites where it has any; the rest becomes N without a label.

    Its length is log-uniform between `shortest` and n.
    """
    size = round(shortest * (len(ids) / shortest) ** rng.random())
    places = np.flatnonzero(labels > 0)
    place = int(rng.choice(places)) if len(places) else int(rng.integers(len(ids)))
    start = min(max(place - int(rng.integers(size)), 0), len(ids) - size)
    for part in (slice(None, start), slice(start + size, None)):
        ids[part], labels[part] = N, UNLABELLED


def mutated(ids: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A copy of ids [n] of which a share of the bases, but N and those of a labelled site, is another base each."""
    hit = (rng.random(len(ids)) < share) & (ids != N)
    for label, (before, after) in _KEPT.items():
        for base in np.flatnonzero(labels == label):
            hit[max(base - before, 0) : base + after + 1] = False
    others = A + (ids - A + rng.integers(1, 4, len(ids), dtype=np.uint8)) % 4
    return np.where(hit, others, ids)


def _draw_stretch(text: Text, settings: BasesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels [tiles x tile] of one stretch; empty where more than _MAX_N_SHARE of it is N."""
    tile, length = settings.tile, settings.tiles * settings.tile
    if rng.random() < settings.site_share:
        if text.grafts and rng.random() < _GRAFT_SHARE:
            return draw_graft(text, tile, length, rng)
        drawn = int(rng.integers(len(text.sites)))
        number, minus, base, _ = text.sites[drawn].tolist()
        start = base - tile - int(rng.integers(length - 2 * tile))
        if text.genes is not None and rng.random() < _BARE_SHARE:
            return _stretch(text, text.records[number], start, length, minus, text.genes[drawn])
    elif settings.margin is not None:
        number, _, base, _ = text.sites[rng.integers(len(text.sites))].tolist()
        minus = int(rng.integers(2))
        start = base - length // 2 + int(rng.integers(-settings.margin, settings.margin + 1))
    else:
        number, minus = int(rng.choice(len(text.sizes), p=text.sizes / text.sizes.sum())), int(rng.integers(2))
        start = int(rng.integers(text.sizes[number]))
    ids, labels = _stretch(text, text.records[number], start, length, minus)
    if (ids == N).mean() > _MAX_N_SHARE and text.sizes[number] >= length:
        return ids[:0], labels[:0]
    return ids, labels


def draw_graft(text: Text, tile: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels [length] about an end of an intron from elsewhere, which stands between the text before a donor
    and the text after an acceptor of the genome; the ends of its exons replace as much of theirs, at most half."""
    name, donor, acceptor = text.grafts[rng.integers(len(text.grafts))]
    before = int(rng.choice(np.flatnonzero(text.sites[:, 3] == LABEL["donor"])))
    after = int(rng.choice(np.flatnonzero(text.sites[:, 3] == LABEL["acceptor"])))
    left_end = min(donor + 1, int(text.exons[before]) // 2)
    right_end = min(text.genome.store.by_name[name].length - acceptor, int(text.exons[after]) // 2)
    is_bare = text.genes is not None and rng.random() < _BARE_SHARE
    genes = dict(zip((before, after), text.genes[[before, after]])) if is_bare else {}
    number, minus, base, _ = text.sites[before].tolist()
    start = base + left_end if minus else base + 1 - left_end - length
    upstream = _stretch(text, text.records[number], start, length, minus, genes.get(before))
    first, last = donor + 1 - left_end, acceptor + right_end
    intron = _stretch(text, name, first, last - first, 0)
    number, minus, base, _ = text.sites[after].tolist()
    start = base - right_end - length + 1 if minus else base + right_end
    downstream = _stretch(text, text.records[number], start, length, minus, genes.get(after))
    ids, labels = (np.concatenate(parts) for parts in zip(upstream, intron, downstream))
    place = length + (left_end - 1 if rng.random() < 0.5 else acceptor - first)
    cut = place - tile - int(rng.integers(length - 2 * tile))
    return ids[cut : cut + length].copy(), labels[cut : cut + length].copy()


def _stretch(
    text: Text, name: str, start: int, length: int, minus: int, gene: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels [length] from `start` on (forward strand), as the strand is read; N beyond the record or gene."""
    genome, record = text.genome, text.genome.store.by_name[name]
    ids = padded(genome.store, record, start, start + length)
    labels = np.full(length, UNLABELLED)
    low, high = (0, record.length) if gene is None else gene.tolist()
    first = min(max(start, low), start + length)
    last = max(min(start + length, high), first)
    ids[: first - start], ids[last - start :] = N, N
    labels[first - start : last - start] = genome.labels(name, first, last, 0)
    if minus:
        labels[first - start : last - start] = genome.labels(name, first, last, 1)[::-1]
    labels[first - start : last - start][text.hidden[name][first:last]] = UNLABELLED
    return (reverse_complement(ids), labels[::-1].copy()) if minus else (ids, labels)


# -- one fit -----------------------------------------------------------------------------------------------------------


@dataclass
class Fit:
    """One arm in one fold while it trains. average: the moving average of its weights, or itself."""

    settings: BasesConfig
    text: Text
    run: RunFolder
    accelerator: Accelerator
    job: FoldJob
    model: BaseClassifier
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    step: int = 0
    best_step: int = 0
    best_ap: float = -1.0
    loss: float = 0.0

    @property
    def parts(self) -> dict[str, Any]:
        """What its state holds beside the counts."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return parts | ({"average": self.average} if self.average is not None else {})

    @property
    def drawn(self) -> BasesConfig:
        """The settings by which the next step's stretches are drawn: twice as long in the last `long_share`."""
        settings = self.settings
        if self.step < round((1 - settings.long_share) * settings.steps):
            return settings
        return dataclasses.replace(settings, tiles=2 * settings.tiles, stretches=settings.stretches // 2)

    @property
    def labeller(self) -> Labeller:
        """The model as it is, not calibrated; in float32, since high scores tie in bfloat16."""
        model = self.model if self.average is None else self.average.module
        return Labeller(model.eval(), IDENTITY, self.accelerator.device)

    def save(self) -> None:
        counts = {name: getattr(self, name) for name in _COUNTS}
        self.run.save_state(counts | pack_state(self.accelerator, **self.parts))

    def load(self) -> None:
        """Read the state of a run that was stopped, where there is one."""
        if (state := self.run.load_state(self.accelerator.device)) is not None:
            for name in _COUNTS:
                setattr(self, name, state[name])
            unpack_state(state, self.accelerator, **self.parts)


_COUNTS = ("step", "best_step", "best_ap", "loss")


def fit_bases(
    config: Config, text: Text, run: RunFolder, accelerator: Accelerator, job: FoldJob, stop: StopSignal
) -> None:
    """Train, keep the weights of the best validation, calibrate them, score the test records once."""
    began = time.perf_counter()
    run.begin()
    fit = start_fit(config.bases, text, run, accelerator, job)
    fit.load()
    run.rewind(fit.step)
    records = fold_records(config.bases, text.genome.store, job.fold)
    train(fit, records["val"], stop)
    finish(config, fit, records["test"], round(time.perf_counter() - began, 1))
    accelerator.free_memory()
    run.close()


def start_fit(settings: BasesConfig, text: Text, run: RunFolder, accelerator: Accelerator, job: FoldJob) -> Fit:
    model = build_model(settings, job).to(accelerator.device)
    trained = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in decay_groups(model)]
    fused = accelerator.device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=_WEIGHT_DECAY, fused=fused)
    warmup, decay = min(_WARMUP, settings.steps // 10), round(settings.decay_share * settings.steps)
    scheduler = get_wsd_schedule(optimizer, warmup, min(decay, settings.steps - warmup), settings.steps)
    average = None
    if settings.average:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
    model, optimizer = accelerator.prepare(model), prepare_optimizer(accelerator, optimizer)
    return Fit(settings, text, run, accelerator, job, model, average, optimizer, scheduler)


def train(fit: Fit, val: list[str], stop: StopSignal) -> None:
    """All steps that are left; the state is saved at each validation and where a signal stops them."""
    settings, run = fit.settings, fit.run
    bar = tqdm(total=settings.steps, initial=fit.step, desc="bases", unit="step", disable=not sys.stderr.isatty())
    while fit.step < settings.steps:
        take_bases_step(fit)
        bar.update()
        if fit.step % settings.eval_steps == 0 or fit.step == settings.steps:
            validate(fit, val)
            fit.save()
        elif stop.asked or fit.step % _SAVE_STEPS == 0:
            fit.save()
        stop_if_asked(stop, f"in {run.path}, step {fit.step}")


def take_bases_step(fit: Fit) -> None:
    """One step of the optimiser and of the average; the text depends on seed, fold and step alone."""
    fit.model.train()
    loss = stretches_loss(fit, np.random.default_rng([fit.job.seed, fit.job.fold, fit.step]))
    fit.accelerator.backward(loss)
    fit.accelerator.clip_grad_norm_(fit.model.parameters(), MAX_GRAD_NORM)
    take_step(fit.accelerator, fit.optimizer, fit.scheduler)
    if fit.average is not None:
        fit.average.update_parameters(fit.model)
    value = loss.item()  # the one wait for a GPU, once it has been given the step's work
    if not np.isfinite(value):
        raise FloatingPointError(f"{fit.run.path}: the loss is {value} at step {fit.step + 1}")
    fit.loss += value
    fit.step += 1


def validate(fit: Fit, names: list[str]) -> None:
    """Score the validation records, and keep the weights where they are the best so far."""
    labeller = fit.labeller
    odds, labels = label_records(labeller, fit.text.genome, names, fit.settings.forward)
    scores = score_types(odds, labels)
    done = (fit.step - 1) % fit.settings.eval_steps + 1
    fit.run.record(fit.step, {"train/loss": fit.loss / done} | {f"val/{key}": value for key, value in scores.items()})
    fit.loss = 0.0
    if scores["ap"] > fit.best_ap:
        fit.best_step, fit.best_ap = fit.step, scores["ap"]
        with replace_folder(checkpoint_path(fit.run.path)) as folder:
            save_bases(labeller.model, calibrate(odds, labels), folder)


def finish(config: Config, fit: Fit, records: list[str], seconds: float) -> None:
    """Score the best weights on the test records, once, and write card and summary."""
    settings, run, best = config.bases, fit.run, checkpoint_path(fit.run.path)
    job, arm = fit.job, fit.job.arm
    model, calibration = load_bases(best)
    labeller = Labeller(model.to(fit.accelerator.device), calibration, fit.accelerator.device)
    scores = score_types(*label_records(labeller, fit.text.genome, records, settings.forward))
    metrics = {f"test/{key}": value for key, value in scores.items()} | {"val/ap": fit.best_ap}
    sizes = {"arm": arm.name, "site": SITE, "seed": job.seed, "fold": job.fold, "best_step": fit.best_step}
    if arm.several:
        sizes["pretrain_seed"] = arm.pretrain_seed
    parameters = sum(weights.numel() for weights in model.parameters())
    start = settings.source if arm.source is None else None if arm.name == "fresh" else arm.source.source
    name = f"{config.name}: {arm.name}"
    data = {"genome": settings.fasta, "annotation": settings.annotation}
    tested = f"records {', '.join(Path(entry).name for entry in settings.parts[job.fold])}"
    write_card(best, name, start, data, tested, metrics)
    run.finish({**sizes, "parameters": parameters, "seconds": seconds, "metrics": metrics}, sizes)
    shown = "  ".join(f"{kind} AP {scores[f'ap_{kind}']:.4f} top-k {scores[f'topk_{kind}']:.4f}" for kind in TYPES)
    of_seed = f"  pre-training seed {arm.pretrain_seed}" if arm.several else ""
    run.log(f"{arm.name:<10} seed {job.seed} fold {job.fold:02d}{of_seed}  {shown}")


def build_model(settings: BasesConfig, job: FoldJob) -> BaseClassifier:
    """The arm's encoder, if any, under convolutions of fresh weights, the same in each arm, or of bases.source."""
    bert = None
    if job.arm.source is not None:
        encoder = load_backbone(job.arm.source)[0]
        torch.manual_seed(job.seed)
        bert = (fresh_like(encoder.config) if job.arm.name == "fresh" else encoder).bert
    torch.manual_seed(fit_seed(job.seed, job.fold))
    sizes = [item.name for item in dataclasses.fields(Shape) if hasattr(settings, item.name)]
    shape = Shape(**{name: getattr(settings, name) for name in sizes})
    model = BaseClassifier(bert, shape, settings.freeze_encoder, settings.dropout)
    if bert is None and settings.source is not None:
        grow(model, load_bases(Path(settings.source))[0])
    return model


def stretches_loss(fit: Fit, rng: np.random.Generator) -> torch.Tensor:
    """Cross-entropy of all labelled bases of a step's stretches, summed, per stretch."""
    ids, labels = draw_stretches(fit.text, fit.drawn, rng)
    return labels_loss(fit.model, ids, labels, fit.accelerator) / len(ids)


def labels_loss(
    learner: torch.nn.Module, ids: np.ndarray, labels: np.ndarray, accelerator: Accelerator
) -> torch.Tensor:
    """Cross-entropy, summed, of the bases of texts uint8 [n, length]; labels: int64 alike, but for UNLABELLED ones."""
    with accelerator.autocast():
        logits = learner(torch.from_numpy(ids).to(accelerator.device)).float()
    targets = torch.from_numpy(labels).to(accelerator.device)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=UNLABELLED, reduction="sum")


# -- held-out records --------------------------------------------------------------------------------------------------


def label_records(
    labeller: Labeller, genome: Genome, names: list[str], forward: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(raw log-odds float32 [n, 2], labels int64 [n]) of all bases but N, of both strands or of the forward one."""
    odds, labels = [], []
    for name in names:
        record = genome.store.by_name[name]
        for number in range(-(-record.length // labeller.chunk)):
            start = number * labeller.chunk
            end = min(start + labeller.chunk, record.length)
            known = genome.store.fetch(name, start, end) != N
            if known.any():
                of_chunk = labeller.chunk_odds(genome.store, record, number, forward)
                for minus, of_strand in enumerate(of_chunk):
                    row = genome.labels(name, start, end, minus)
                    odds.append(of_strand[known])
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
        fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        fit.fit(odds[mine, column : column + 1].astype(np.float64), labels[mine] > 0)
        rows.append([fit.coef_[0, 0], fit.intercept_[0]])
    return np.array(rows)

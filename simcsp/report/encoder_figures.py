"""What the encoders and the primary arm's classifier see: motif sites in UMAP's plane, and in-silico mutagenesis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from simcsp.core.arms import BASELINE, CONTROL, HEAD_FILE
from simcsp.core.config import Config, ModelConfig
from simcsp.core.device import build_accelerator
from simcsp.core.files import read_json, replacing
from simcsp.core.provenance import REMEDY
from simcsp.core.run_layout import SUMMARY, arm_checkpoints, checkpoint_path, finished_fits
from simcsp.labels.motifs import Motifs, load_motifs, spliceator_sites
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import has_training_windows, read_windows, selection_windows
from simcsp.metrics.benchmark_predictions import parts_used
from simcsp.metrics.clustering import lay_out
from simcsp.metrics.mutagenesis import Score, substitution_drops
from simcsp.metrics.proxies import fit_logistic
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.classifier import load_classifier, predict_logits
from simcsp.model.embedding import embed, embed_centre
from simcsp.report.logo import Mutagenesis, mutagenesis_plot
from simcsp.report.plots import umap_panels
from simcsp.report.verdict import PRIMARY_ARM
from simcsp.text.sites import SITES
from simcsp.training.tensorboard import LEAST_SITES

MOST_SITES = 1000  # that UMAP lays out: it takes seconds an encoder then
MUTATED, FLANK = 50, 20  # true sites of each type, and nt on either side that are changed: 12,000 windows
SHOWN = (BASELINE, PRIMARY_ARM, f"{CONTROL}{PRIMARY_ARM}")


def draw_seen(config: Config, suffix: str, cache: Path) -> dict[str, Callable[[], Figure | None]]:
    """{name: what draws it} of one run; None where there is nothing to show. cache: the .npz of the mutagenesis."""
    accelerator = build_accelerator(config.device, config.precision)
    return {
        "umap": partial(draw_umap, config, suffix, accelerator),
        "mutagenesis": partial(draw_mutagenesis, config, suffix, cache, accelerator),
    }


def draw_umap(config: Config, suffix: str, accelerator: Accelerator) -> Figure | None:
    """The sites as every arm's encoder lays them out, before and after fine-tuning."""
    sites, what = sites_to_show(config)
    if len(sites.labels) >= LEAST_SITES and (panels := umap_of_arms(config, sites, accelerator)):
        return umap_panels(panels, f"{config.name}: {what}{suffix}")
    return None


def draw_mutagenesis(config: Config, suffix: str, cache: Path, accelerator: Accelerator) -> Figure | None:
    """What the first arm that has a model sees of true sites."""
    if has_training_windows(config.data):
        for arm in (PRIMARY_ARM, BASELINE):
            if panels := mutagenesis_of(config, arm, accelerator, cache):
                return mutagenesis_plot(panels, f"{config.name}: what {arm} sees{suffix}")
    return None


def sites_to_show(config: Config) -> tuple[Motifs, str]:
    """At most MOST_SITES of the motif sites; without any, of the selection windows with GT or AG at the site."""
    if config.data.motif_bed is not None:
        sites, what = load_motifs(config.data), "motif sites"
    elif has_training_windows(config.data):
        windows, splits = read_windows(config.data, config.folder)
        sites = spliceator_sites(selection_windows(windows, splits), config.data.context)
        what = "selection windows with GT or AG at the site"
    else:
        return Motifs(np.zeros((0, 0), np.uint8), np.zeros(0, str)), ""
    chosen = np.unique(np.linspace(0, len(sites.labels) - 1, min(MOST_SITES, len(sites.labels))).astype(int))
    return Motifs(sites.ids[chosen], sites.labels[chosen]), what


def first_fit(run: Path, arm: str, with_model: bool = True) -> Path | None:
    """The first finished fit of an arm on the most training windows; with_model: of those that have kept one."""
    fits = [fit for fit in finished_fits(run, arm) if not with_model or (checkpoint_path(fit) / HEAD_FILE).is_file()]
    return max(fits, key=_training_windows, default=None)


def _training_windows(fit: Path) -> int:
    return read_json(fit / SUMMARY, REMEDY)["windows"]["train"]


def umap_of_arms(
    config: Config, sites: Motifs, accelerator: Accelerator
) -> list[tuple[str, dict[str, np.ndarray], np.ndarray]]:
    """(arm, {'before', 'after': points [n, 2]}, labels [n]): the start, the end of contrast and that of its control.

    Before: the checkpoint of pre-training, of the first of several seeds; after: that of the arm's first fit.
    """
    rows = []
    for arm in SHOWN:
        start = start_of(config.folder, arm)
        folders = {"before": start} if start is not None else {}
        if (fit := first_fit(config.folder, arm)) is not None:
            folders["after"] = checkpoint_path(fit)
        points = {when: _points(folder, sites, config, accelerator) for when, folder in folders.items()}
        rows += [(arm, points, sites.labels)] if points else []
    return rows


def start_of(run: Path, arm: str, seed: int | None = None) -> Path | None:
    """The checkpoint of pre-training that an arm starts from, of the first of several seeds where none is named."""
    checkpoints = arm_checkpoints(run, arm)
    return checkpoints.get(seed, next(iter(checkpoints.values()), None))


def _points(folder: Path, sites: Motifs, config: Config, accelerator: Accelerator) -> np.ndarray:
    model, _, _ = load_backbone(ModelConfig(source=str(folder)))
    bert, settings = model.bert.to(accelerator.device), config.evaluate
    states = embed_centre(bert, sites.ids, settings.nmi_layer, settings.batch_size, accelerator.autocast)
    return lay_out(states, config.seed)


def mutagenesis_of(config: Config, arm: str, accelerator: Accelerator, cache: Path) -> dict[str, Mutagenesis]:
    """{type of site: ...} of true sites among the test windows of the arm's first fit, by its model; {} without one.

    A probe has kept none: it is fitted again. cache: an .npz; what stands there of the same model is not computed anew.
    """
    fit = first_fit(config.folder, arm)
    if is_probe := fit is None:
        fit = first_fit(config.folder, arm, with_model=False)
    summary = {} if fit is None else read_json(fit / SUMMARY, REMEDY)
    checkpoint = start_of(config.folder, arm, summary.get("pretrain_seed")) if is_probe else checkpoint_path(fit)
    if fit is None or checkpoint is None or (is_probe and "C" not in summary):
        return {}
    key = f"{sha256_folder(checkpoint)} {fit.relative_to(config.folder) if is_probe else ''} {MUTATED} {FLANK}"
    if cache.is_file() and (known := _read(cache, key)):
        return known
    windows, splits = read_windows(config.data, config.folder)
    parts = splits.folds[summary["site"]][summary["fold"]]
    if is_probe:
        train = parts_used(fit, parts, windows, config)["train"]
        score = probe_score(config, checkpoint, summary["C"], windows, train, accelerator)
    else:
        score = classifier_score(config, checkpoint, accelerator)
    panels = mutate_sites(score, windows.take(parts["test"]), config.data.context)
    with replacing(cache) as aside, open(aside, "wb") as handle:
        arrays = {f"{site}_{name}": value for site, panel in panels.items() for name, value in vars(panel).items()}
        np.savez(handle, key=key, **arrays)
    return panels


def mutate_sites(score: Score, windows: Windows, context: int) -> dict[str, Mutagenesis]:
    """{type of site: ...} of at most MUTATED true sites of each type among the windows, FLANK nt on either side."""
    panels = {}
    places = np.arange(max(0, context // 2 - FLANK), min(context, context // 2 + FLANK))
    for site in SITES:
        true_sites = np.flatnonzero((windows.labels == 1) & (windows.sites == site))
        if len(true_sites):
            ids = windows.take(true_sites[:: -(-len(true_sites) // MUTATED)]).crop(context)
            panels[site] = Mutagenesis.of(ids[:, places], substitution_drops(score, ids, places), places - context // 2)
    return panels


def classifier_score(config: Config, checkpoint: Path, accelerator: Accelerator) -> Score:
    """Logits of windows by a fine-tuned classifier."""
    model = load_classifier(checkpoint, config.model, config.finetune.dropout).to(accelerator.device)
    return lambda ids: predict_logits(model, ids, config.evaluate.batch_size, accelerator.autocast)


def probe_score(
    config: Config, checkpoint: Path, c: float, windows: Windows, train: np.ndarray, accelerator: Accelerator
) -> Score:
    """Logits of windows by a fit's probe, fitted again. c: the fit's C; train: the windows that it was fitted on."""
    model, pooling, _ = load_backbone(config.model.saved_as(str(checkpoint)))
    bert = model.bert.to(accelerator.device)

    def vectors(ids: np.ndarray) -> np.ndarray:
        return embed(bert, ids, pooling, config.evaluate.batch_size, accelerator.autocast)

    probe = fit_logistic(vectors(windows.take(train).crop(config.data.context)), windows.labels[train], c)
    return lambda ids: probe.decision_function(vectors(ids))


def _read(cache: Path, key: str) -> dict[str, Mutagenesis]:
    with np.load(cache) as kept:
        if str(kept["key"]) != key:
            return {}
        names = list(Mutagenesis.__dataclass_fields__)
        sites = [site for site in SITES if f"{site}_windows" in kept.files]
        return {site: Mutagenesis(*(kept[f"{site}_{name}"] for name in names)) for site in sites}

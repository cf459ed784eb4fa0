"""What the encoders and the primary arm's classifier see: motif sites in UMAP's plane, and in-silico mutagenesis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from simcsp.judge.clustering import lay_out
from simcsp.judge.mutagenesis import logo_heights, mean_drops, substitution_drops
from simcsp.labels.motifs import Motifs, load_motifs
from simcsp.labels.splits import has_training_windows, read_windows
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.classifier import load_classifier, predict_logits
from simcsp.model.embedding import embed_centre
from simcsp.report.logo import Mutagenesis, mutagenesis_plot
from simcsp.report.plots import umap_panels
from simcsp.report.verdict import PRIMARY_ARM
from simcsp.text.sites import SITES
from utils.arms import BASELINE, CONTROL, HEAD_FILE, checkpoint_of, finished_folds, job_of, stage_folders
from utils.config import Config, ModelConfig
from utils.device import build_accelerator
from utils.files import replacing

MOST_SITES = 1000  # that UMAP lays out: it takes seconds an encoder then
MUTATED, FLANK = 50, 20  # true sites of each type, and nt on either side that are changed: 12,000 windows
SHOWN = (BASELINE, PRIMARY_ARM, f"{CONTROL}{PRIMARY_ARM}")


def draw_seen(config: Config, suffix: str, cache: Path) -> dict[str, Figure]:
    """{name: figure} of what there is to show of one run. cache: the .npz that keeps the mutagenesis."""
    accelerator, figures = build_accelerator(config.device, config.precision), {}
    if config.data.motif_bed is not None and (panels := umap_of_arms(config, accelerator)):
        figures["umap"] = umap_panels(panels, f"{config.name}: motif sites{suffix}")
    arm = next((arm for arm in (PRIMARY_ARM, BASELINE) if first_fit(config.folder, arm) is not None), None)
    if arm is not None and has_training_windows(config.data):
        panels = mutagenesis_of(config, first_fit(config.folder, arm), accelerator, cache)
        figures["mutagenesis"] = mutagenesis_plot(panels, f"{config.name}: what {arm} sees{suffix}")
    return figures


def first_fit(run: Path, arm: str) -> Path | None:
    """The first finished fit of an arm, on all training windows, that has kept its model."""
    fits = (fit for fit in finished_folds(run, arm) if not fit.parents[1].name.startswith("draw"))
    return next((fit for fit in fits if (fit / "checkpoints/best" / HEAD_FILE).is_file()), None)


def umap_of_arms(config: Config, accelerator: Accelerator) -> list[tuple[str, dict[str, np.ndarray], np.ndarray]]:
    """(arm, {'before', 'after': points [n, 2]}, labels [n]): the start, the end of contrast and that of its control.

    Before: the checkpoint of pre-training, of the first of several seeds; after: that of the arm's first fit.
    """
    motifs, rows = load_motifs(config.data), []
    chosen = np.unique(np.linspace(0, len(motifs.labels) - 1, MOST_SITES).astype(int))
    sites = Motifs(motifs.ids[chosen], motifs.labels[chosen])
    for arm in SHOWN:
        stage, checkpoint = checkpoint_of(arm)
        stages = [folder / "checkpoints" / checkpoint for folder in stage_folders(config.folder, stage).values()]
        folders = {"before": stages[0]} if stages and stages[0].is_dir() else {}
        if (fit := first_fit(config.folder, arm)) is not None:
            folders["after"] = fit / "checkpoints/best"
        points = {when: _points(folder, sites, config, accelerator) for when, folder in folders.items()}
        rows += [(arm, points, sites.labels)] if points else []
    return rows


def _points(folder: Path, sites: Motifs, config: Config, accelerator: Accelerator) -> np.ndarray:
    model, _, _ = load_backbone(ModelConfig(source=str(folder)))
    bert, settings = model.bert.to(accelerator.device), config.evaluate
    states = embed_centre(bert, sites.ids, settings.nmi_layer, settings.batch_size, accelerator.autocast)
    return lay_out(states, config.seed)


def mutagenesis_of(config: Config, fit: Path, accelerator: Accelerator, cache: Path) -> dict[str, Mutagenesis]:
    """{type of site: ...} of true sites among the test windows of a fit, by its model.

    cache: an .npz; what stands there of the very same checkpoint is not computed again.
    """
    key = f"{sha256_folder(fit / 'checkpoints/best')} {MUTATED} {FLANK}"
    if cache.is_file() and (known := _read(cache, key)):
        return known
    windows, splits = read_windows(config.data, config.folder)
    job, context = job_of(fit), config.data.context
    test = splits.folds[job["site"]][job["fold"]]["test"]
    places = np.arange(max(0, context // 2 - FLANK), min(context, context // 2 + FLANK))
    model = load_classifier(fit / "checkpoints/best", config.model, config.finetune.dropout).to(accelerator.device)

    def score(changed: np.ndarray) -> np.ndarray:
        return predict_logits(model, changed, config.evaluate.batch_size, accelerator.autocast)

    found = {}
    for site in SITES:
        mine = test[(windows.labels[test] == 1) & (windows.sites[test] == site)]
        if len(mine):
            ids = windows.take(mine[:: -(-len(mine) // MUTATED)]).crop(context)
            drops = substitution_drops(score, ids, places)
            of_site = logo_heights(ids, drops, places), mean_drops(ids, drops, places), places - context // 2, len(ids)
            found[site] = Mutagenesis(*of_site)
    with replacing(cache) as aside, open(aside, "wb") as handle:
        parts = {f"{site}_{name}": value for site, panel in found.items() for name, value in vars(panel).items()}
        np.savez(handle, key=key, **parts)
    return found


def _read(cache: Path, key: str) -> dict[str, Mutagenesis]:
    with np.load(cache) as kept:
        if str(kept["key"]) != key:
            return {}
        names = list(Mutagenesis.__dataclass_fields__)
        sites = [site for site in SITES if f"{site}_windows" in kept.files]
        return {site: Mutagenesis(*(kept[f"{site}_{name}"] for name in names)) for site in sites}

"""What the encoders see: motif sites in UMAP's plane, before and after fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from simcsp.core.arms import BASELINE, CONTROL, holds_classifier
from simcsp.core.config import Config, ModelConfig
from simcsp.core.device import build_accelerator
from simcsp.core.files import read_json
from simcsp.core.provenance import REMEDY
from simcsp.core.run_layout import SUMMARY, arm_checkpoints, checkpoint_path, finished_fits
from simcsp.labels.motifs import Motifs, load_motifs, spliceator_sites
from simcsp.labels.splits import has_training_windows, read_windows, selection_windows
from simcsp.metrics.clustering import lay_out
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.report.plots import umap_panels
from simcsp.report.verdict import PRIMARY_ARM
from simcsp.training.tensorboard import LEAST_SITES
from simcsp.training.validation import spread

MOST_SITES = 1000  # that UMAP lays out: it takes seconds an encoder then
SHOWN = (BASELINE, PRIMARY_ARM, f"{CONTROL}{PRIMARY_ARM}")


def draw_umap(config: Config, suffix: str) -> Figure | None:
    """The sites as every arm's encoder lays them out; None where there is nothing to show."""
    sites, what = sites_to_show(config)
    if len(sites.labels) < LEAST_SITES:
        return None
    panels = umap_of_arms(config, sites, build_accelerator(config.device, config.precision))
    return umap_panels(panels, sites.labels, f"{config.name}: {what}{suffix}") if panels else None


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
    chosen = spread(len(sites.labels), MOST_SITES)
    return Motifs(sites.ids[chosen], sites.labels[chosen]), what


def umap_of_arms(config: Config, sites: Motifs, accelerator: Accelerator) -> dict[str, dict[str, np.ndarray]]:
    """{arm: {'before', 'after': points [n, 2]}}: the start, the end of contrast and that of its control.

    Before: the checkpoint of pre-training, of the first of several seeds; after: that of the arm's first fit on the
    most training windows that has kept one.
    """
    rows = {}
    for arm in SHOWN:
        folders = {"before": start} if (start := next(iter(arm_checkpoints(config.folder, arm).values()), None)) else {}
        fits = [fit for fit in finished_fits(config.folder, arm) if holds_classifier(checkpoint_path(fit))]
        if fits:
            largest = max(fits, key=lambda fit: read_json(fit / SUMMARY, REMEDY)["windows"]["train"])
            folders["after"] = checkpoint_path(largest)
        if folders:
            rows[arm] = {when: _points(folder, sites, config, accelerator) for when, folder in folders.items()}
    return rows


def _points(folder: Path, sites: Motifs, config: Config, accelerator: Accelerator) -> np.ndarray:
    model, pooling, _ = load_backbone(ModelConfig(source=str(folder)))
    bert, settings = model.bert.to(accelerator.device), config.evaluate
    encoder = Encoder(bert, pooling, settings.batch_size, accelerator.autocast)
    return lay_out(encoder.embed_centre(sites.ids, settings.nmi_layer), config.seed)

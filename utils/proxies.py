"""SCCS and NMI of an encoder on one fixed set of windows and sites: the validation hook of training, and its floors."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
from transformers import BertModel

from utils.config import Config, DataConfig
from utils.embed import Autocast, embed, embed_centre, embed_twice
from utils.errors import InputError
from utils.floors import gc_content, one_hot
from utils.metrics import alignment, leiden, mean_cosine, nmi, pair_indices, sccs, spearman_binary, uniformity
from utils.motifs import Motifs, cut_motifs, read_bed, read_cut
from utils.sequence import open_store
from utils.spliceator import Splits, Windows, dedup, load_training, save_or_load_splits, subset

VIEWS = 512  # windows at most for alignment, uniformity and mean cosine: they need no more, and cost two passes


def load_windows(config: Config) -> tuple[Windows, Splits]:
    """The labelled windows of a run and their splits, made on first use under runs/<name>/splits."""
    data = config.data
    if data.spliceator is None:
        raise InputError("data.spliceator is not set: give the folder that holds Spliceator's Training_data")
    windows = load_training(data.spliceator, data.negatives, data.context)
    if data.dedup:
        windows, _ = dedup(windows)
    windows = subset(windows, data.max_windows, data.split_seed)
    splits = save_or_load_splits(
        config.folder / "splits", windows, data.folds, data.num_folds, data.selection_share, data.split_seed
    )
    return windows, splits


def selection_windows(windows: Windows, splits: Splits) -> Windows:
    """The share set aside for selection; with share 0 the training part of fold 0, which is the published behaviour."""
    if len(splits.selection):
        return windows.take(splits.selection)
    return windows.take(splits.folds["both"][0]["train"])


def load_motifs(data: DataConfig) -> Motifs | None:
    """The motif sites of a run, or None where the config names no BED."""
    if data.motif_bed is None:
        return None
    if data.motif_bed.endswith(".npz"):
        return read_cut(data.motif_bed, data.motif_window, data.legacy_strand_offset)
    store = open_store([data.motif_fasta], data.cache)
    return cut_motifs(read_bed(data.motif_bed), store, data.motif_window, data.motif_bed, data.legacy_strand_offset)


def measure_sccs(
    bert: BertModel, pooling: str, ids: np.ndarray, labels: np.ndarray, config: Config, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """sccs, pair_auc, mean_cosine, alignment, uniformity of an encoder on windows uint8 [n, length], labels [n]."""
    evaluate = config.evaluate
    vectors = embed(bert, ids, pooling, evaluate.batch_size, autocast)
    views = embed_twice(bert, ids[:VIEWS], pooling, evaluate.batch_size, config.seed, autocast)
    return {
        **sccs(vectors, labels, evaluate.sccs_pairs, config.seed),
        "mean_cosine": mean_cosine(vectors[:VIEWS]),
        "alignment": alignment(*views),
        "uniformity": uniformity(vectors[:VIEWS]),
    }


def measure_nmi(bert: BertModel, motifs: Motifs, config: Config, autocast: Autocast = nullcontext) -> dict[str, float]:
    """nmi, its halves, bounds and the number of clusters, for the layer that the config asks for."""
    states = embed_centre(bert, motifs.ids, config.evaluate.nmi_layer, config.evaluate.batch_size, autocast)
    return nmi(leiden(states, seed=config.seed), motifs.labels)


def sccs_floors(ids: np.ndarray, labels: np.ndarray, config: Config) -> dict[str, float]:
    """SCCS of what is no model: one-hot bases about the centre (cosine), GC content (minus its absolute difference)."""
    pairs = config.evaluate.sccs_pairs
    flank = config.evaluate.pwm_flank
    left, right = pair_indices(len(labels), pairs, config.seed)
    gc = gc_content(ids)[:, 0]
    rho, _ = spearman_binary(labels[left] == labels[right], -np.abs(gc[left] - gc[right]))
    return {f"one_hot_{flank}": sccs(one_hot(ids, flank), labels, pairs, config.seed)["sccs"], "gc": rho}


def nmi_floors(motifs: Motifs, config: Config) -> dict[str, float]:
    """NMI of one-hot bases about the site and of GC content, clustered the same way."""
    flank = config.evaluate.pwm_flank
    features = {f"one_hot_{flank}": one_hot(motifs.ids, flank), "gc": gc_content(motifs.ids)}
    return {name: nmi(leiden(values, seed=config.seed), motifs.labels)["nmi"] for name, values in features.items()}

"""SCCS, NMI and the linear probe of an encoder on one fixed set of windows and sites, with their floors: the validation
hook of training, and the table of layers."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertModel

from utils.backbone import POOLING_KINDS, central_states, mix_weights, pool
from utils.config import Config, DataConfig
from utils.embed import Autocast, embed, embed_centre, embed_layers, embed_twice
from utils.errors import InputError
from utils.floors import gc_content, one_hot
from utils.metrics import alignment, leiden, mean_cosine, nmi, pair_indices, sccs, spearman_binary, uniformity
from utils.motifs import Motifs, cut_motifs, read_bed, read_cut
from utils.run import write_text
from utils.sequence import open_store
from utils.spliceator import (
    Splits,
    Windows,
    dedup,
    grouped_folds,
    load_training,
    near_duplicate_groups,
    save_or_load_splits,
    subset,
)

PROBE_FOLDS = 5
VIEWS = 512  # windows at most for alignment, uniformity and mean cosine: they need no more, and cost two passes


def load_windows(config: Config) -> tuple[Windows, Splits]:
    """The labelled windows of a run and their splits, made on first use under runs/<name>/splits."""
    data = config.data
    if data.spliceator is None:
        raise InputError("data.spliceator is not set: give the folder that holds Spliceator's Training_data")
    windows = load_training(data.spliceator, data.negatives, data.context)
    if data.dedup:
        windows, remark = dedup(windows)
        write_text(config.folder / "splits/dedup.txt", f"{remark}\n")
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


def probe_auc(vectors: np.ndarray, labels: np.ndarray, seed: int, groups: np.ndarray | None = None) -> float:
    """ROC AUC of a logistic regression on standardised vectors [n, d]: what a frozen encoder's linear head could reach.

    Mean over five parts, each scored by a model of the other four. labels: [n] in {0, 1}; groups: [n], windows of one
    group stay in one part (see `near_duplicate_groups`), None: every window by itself.
    Raises InputError where a part would lack a class.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    everything, scores = np.arange(len(labels)), []
    for part in (fold["val"] for fold in grouped_folds(labels, groups, PROBE_FOLDS, seed)):
        if len(np.unique(labels[part])) < 2:
            raise InputError(
                f"the probe needs windows of both classes in each of its {PROBE_FOLDS} parts: raise "
                f"data.selection_share, which gives {len(labels)} windows"
            )
        rest = np.setdiff1d(everything, part)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(vectors[rest], labels[rest])
        scores.append(roc_auc_score(labels[part], model.decision_function(vectors[part])))
    return float(np.mean(scores))


def measure_layers(
    bert: BertModel, chosen: Windows, motifs: Motifs | None, config: Config, autocast: Autocast = nullcontext
) -> dict[str, dict[str, float]]:
    """{'layer 3 mean': {sccs, probe_auc}} of every layer and kind of pooling, each window encoded once.

    nmi stands with centre; as everywhere, it is that of the two central bases joined. An encoder with a learned mix
    has rows 'mix cls', ... too, and each layer's weight in it. [CLS] of layer 0 is the same for all windows: no row.
    """
    batch_size = config.evaluate.batch_size

    def every_kind(states: torch.Tensor) -> torch.Tensor:
        return torch.stack([pool(states, kind) for kind in POOLING_KINDS], dim=1)

    names = [f"layer {layer}" for layer in range(bert.config.num_hidden_layers + 1)]
    vectors = embed_layers(bert, chosen.crop(config.data.context), every_kind, batch_size, autocast)
    centres = None
    if motifs is not None:
        centres = embed_layers(bert, motifs.ids, lambda states: central_states(states).flatten(1), batch_size, autocast)
    weights = mix_weights(bert)
    if weights is not None:
        weights = weights.detach().cpu().numpy()
        names.append("mix")
        vectors, centres = (
            None if values is None else np.concatenate([values, _mix(values, weights)], axis=1)
            for values in (vectors, centres)
        )
    groups = near_duplicate_groups(chosen.ids)
    rows = {}
    for i, name in enumerate(names):
        for j, kind in enumerate(POOLING_KINDS):
            if (i, kind) == (0, "cls"):
                continue
            rows[f"{name} {kind}"] = row = _vector_scores(vectors[:, i, j], chosen.labels, groups, config)
            if kind == "centre" and centres is not None:
                row["nmi"] = nmi(leiden(centres[:, i], seed=config.seed), motifs.labels)["nmi"]
            if weights is not None and name != "mix":
                row["mix_weight"] = float(weights[i])
    return rows


def _mix(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n, layers, ...] -> their weighted mean [n, 1, ...]: pooling is linear, so the mix may come after it."""
    return np.tensordot(values, weights, axes=(1, 0))[:, None]


def _vector_scores(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, config: Config) -> dict[str, float]:
    return {
        "sccs": sccs(vectors, labels, config.evaluate.sccs_pairs, config.seed)["sccs"],
        "probe_auc": probe_auc(vectors, labels, config.seed, groups),
    }


def layer_floors(chosen: Windows, motifs: Motifs | None, config: Config) -> dict[str, dict[str, float]]:
    """The same scores of what is no model: one-hot bases about the centre and GC content."""
    ids, groups = chosen.crop(config.data.context), near_duplicate_groups(chosen.ids)
    flank = config.evaluate.pwm_flank
    features = {f"one_hot_{flank}": one_hot(ids, flank), "gc": gc_content(ids)}
    of_sites = {} if motifs is None else nmi_floors(motifs, config)
    return {
        name: {"sccs": value, "probe_auc": probe_auc(features[name], chosen.labels, config.seed, groups)}
        | ({"nmi": of_sites[name]} if name in of_sites else {})
        for name, value in sccs_floors(ids, chosen.labels, config).items()
    }

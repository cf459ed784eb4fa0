"""SCCS, NMI and the linear probe of an encoder on one fixed set of windows and sites, with their floors: the validation
hook of training, and the table of layers.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertModel

from simcsp.core.config import EvaluateConfig
from simcsp.core.errors import InputError
from simcsp.labels.floors import gc_content
from simcsp.labels.motifs import Motifs
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import grouped_folds
from simcsp.metrics.clustering import adjusted_agreement, by_half, kmeans, leiden, leiden_of, neighbour_graph, nmi
from simcsp.metrics.sccs import (
    Similarity,
    alignment,
    closeness,
    cosine_pairs,
    mean_cosine,
    sccs,
    sccs_difference,
    sccs_interval,
    uniformity,
)
from simcsp.model.embedding import Autocast, embed, embed_centre, embed_layers, embed_twice
from simcsp.model.encoder import POOLING_KINDS, central_states, mix_weights, pool
from simcsp.text.kmers import KMER, near_duplicate_groups
from simcsp.text.sites import SITES
from simcsp.text.weight_matrix import one_hot

if TYPE_CHECKING:
    import igraph

PROBE_FOLDS = 5
LEIDEN_SEEDS = 5
BAND_RESAMPLES = 100  # of the interval at each validation: its width is known to 7 %
VIEWS = 512  # windows at most for alignment, uniformity and mean cosine: they need no more, and cost two passes


def measure_sccs(
    bert: BertModel,
    pooling: str,
    ids: np.ndarray,
    labels: np.ndarray,
    settings: EvaluateConfig,
    seed: int,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """sccs, pair_auc, mean_cosine, alignment, uniformity of an encoder on windows uint8 [n, length], labels [n]."""
    vectors = embed(bert, ids, pooling, settings.batch_size, autocast)
    return score_vectors(bert, pooling, ids, vectors, labels, settings, seed, autocast)


def score_vectors(
    bert: BertModel,
    pooling: str,
    ids: np.ndarray,
    vectors: np.ndarray,
    labels: np.ndarray,
    settings: EvaluateConfig,
    seed: int,
    autocast: Autocast,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """The same from the windows' vectors [n, hidden].

    groups: int [n], near-duplicates, where sccs_low and sccs_high (95 %, of few resamples) are wanted as well.
    """
    scores = sccs(vectors, labels, settings.sccs_pairs, seed)
    if groups is not None:
        band = sccs_interval(vectors, labels, settings.sccs_pairs, seed, groups=groups, resamples=BAND_RESAMPLES)
        scores |= {"sccs_low": band["low"], "sccs_high": band["high"]}
    return scores | _spread_of_vectors(bert, pooling, ids, vectors, settings, seed, autocast)


def _spread_of_vectors(
    bert: BertModel,
    pooling: str,
    ids: np.ndarray,
    vectors: np.ndarray,
    settings: EvaluateConfig,
    seed: int,
    autocast: Autocast,
) -> dict[str, float]:
    """mean_cosine, alignment and uniformity of the vectors of windows."""
    views = embed_twice(bert, ids[:VIEWS], pooling, settings.batch_size, seed, autocast)
    return {
        "mean_cosine": mean_cosine(vectors[:VIEWS]),
        "alignment": alignment(*views),
        "uniformity": uniformity(vectors[:VIEWS]),
    }


def measure_sccs_intervals(
    bert: BertModel,
    pooling: str,
    chosen: Windows,
    context: int,
    settings: EvaluateConfig,
    seed: int,
    autocast: Autocast = nullcontext,
    start: np.ndarray | None = None,
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """{task: sccs, low, high, null_low, null_high, pair_auc} for donor, acceptor and both, and the windows' vectors.

    Classes and pairs are those of evaluate.sccs_classes and sccs_pairs. `both` has mean_cosine, alignment and
    uniformity too. start: vectors of another encoder; then diff, diff_low and diff_high, SCCS less that encoder's, on
    the same windows. Raises InputError where a task has too few windows to pair.
    """
    ids = chosen.crop(context)
    vectors = embed(bert, ids, pooling, settings.batch_size, autocast)
    rows = _intervals_by_task(vectors, chosen, settings, seed, cosine_pairs, start)
    rows["both"] |= _spread_of_vectors(bert, pooling, ids, vectors, settings, seed, autocast)
    return rows, vectors


def sccs_interval_floors(
    chosen: Windows, context: int, settings: EvaluateConfig, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """{floor: {task: ...}}: what `measure_sccs_intervals` gives for what is no model."""
    return {
        name: _intervals_by_task(values, chosen, settings, seed, similarity)
        for name, (values, similarity) in _floor_features(chosen.crop(context), settings.pwm_flank).items()
    }


def _intervals_by_task(
    vectors: np.ndarray,
    chosen: Windows,
    settings: EvaluateConfig,
    seed: int,
    similarity: Similarity,
    start: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    groups = near_duplicate_groups(chosen.ids)
    classes = chosen.labels  # site or non-site
    if settings.sccs_classes == "type":
        classes = chosen.labels * (1 + (chosen.sites == "donor"))  # non-site, acceptor, donor
    rows = {}
    for task in (*SITES, "both"):
        mine = chosen.of_site(task)
        try:
            rows[task] = sccs_interval(
                vectors[mine],
                classes[mine],
                settings.sccs_pairs,
                seed,
                similarity,
                groups[mine],
                settings.bootstrap,
            )
        except ValueError as error:
            raise InputError(f"SCCS of {task}: {error}; raise data.selection_share") from None
        if start is not None:
            alike = (classes[mine], settings.sccs_pairs, seed, groups[mine], settings.bootstrap)
            rows[task] |= sccs_difference(start[mine], vectors[mine], *alike)
    return rows


def measure_nmi(
    bert: BertModel, motifs: Motifs, settings: EvaluateConfig, seed: int, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """nmi, its halves, bounds and the number of clusters, of the layer settings.nmi_layer."""
    states = embed_centre(bert, motifs.ids, settings.nmi_layer, settings.batch_size, autocast)
    return nmi(leiden(states, seed=seed), motifs.labels)


def score_states(states: np.ndarray, motifs: Motifs, seed: int) -> dict[str, float]:
    """The same from the sites' states [n, 2 hidden], and nmi_sd, over other seeds of Leiden, below which a difference
    means nothing."""
    graph = neighbour_graph(states)
    return nmi(leiden_of(graph, seed=seed), motifs.labels) | _nmi_spread(graph, motifs, seed)


def _nmi_spread(graph: igraph.Graph, sites: Motifs, seed: int) -> dict[str, float]:
    others = [nmi(leiden_of(graph, seed=seed + 1 + i), sites.labels)["nmi"] for i in range(LEIDEN_SEEDS)]
    return {"nmi_sd": float(np.std(others, ddof=1))}


def sccs_floors(ids: np.ndarray, labels: np.ndarray, settings: EvaluateConfig, seed: int) -> dict[str, float]:
    """SCCS of what is no model: one-hot bases about the centre (cosine), GC content (minus its absolute difference)."""
    return {
        name: sccs(values, labels, settings.sccs_pairs, seed, similarity)["sccs"]
        for name, (values, similarity) in _floor_features(ids, settings.pwm_flank).items()
    }


def sccs_floor_bands(
    ids: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: EvaluateConfig, seed: int
) -> dict[str, float]:
    """`sccs_floors`, and the 95 % interval of each, of few resamples, as NAME_low and NAME_high."""
    found: dict[str, float] = {}
    for name, (values, similarity) in _floor_features(ids, settings.pwm_flank).items():
        band = sccs_interval(values, labels, settings.sccs_pairs, seed, similarity, groups, BAND_RESAMPLES)
        found |= {name: band["sccs"], f"{name}_low": band["low"], f"{name}_high": band["high"]}
    return found


def nmi_floors(motifs: Motifs, settings: EvaluateConfig, seed: int) -> dict[str, float]:
    """NMI of one-hot bases about the site and of GC content, clustered the same way."""
    return {
        name: nmi(leiden(values, seed=seed), motifs.labels)["nmi"]
        for name, (values, _) in _floor_features(motifs.ids, settings.pwm_flank).items()
    }


def _floor_features(ids: np.ndarray, flank: int) -> dict[str, tuple[np.ndarray, Similarity]]:
    """{name: (vectors [n, d], their similarity)} of what is no model."""
    return {f"one_hot_{flank}": (one_hot(ids, flank), cosine_pairs), "gc": (gc_content(ids), closeness)}


# -- NMI in detail -----------------------------------------------------------------------------------------------------


def measure_nmi_details(
    bert: BertModel, sites: Motifs, settings: EvaluateConfig, seed: int, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """`measure_nmi` and what tells a better encoder from another number of clusters, by halves (*_gt, *_ag) and mean.

    nmi_sd: over other seeds of Leiden, below which a difference means nothing. ami, ari: of the same clusters. nmi_k10:
    of k-means with evaluate.nmi_clusters clusters. probe_auc: of a linear probe of the label on the same states, sites
    that share 80 nt kept together.
    """
    states = embed_centre(bert, sites.ids, settings.nmi_layer, settings.batch_size, autocast)
    return _nmi_details(states, sites, settings, seed)


def nmi_details_floors(sites: Motifs, settings: EvaluateConfig, seed: int) -> dict[str, dict[str, float]]:
    """{floor: ...}: what `measure_nmi_details` gives for what is no model."""
    return {
        name: _nmi_details(values, sites, settings, seed)
        for name, (values, _) in _floor_features(sites.ids, settings.pwm_flank).items()
    }


def _nmi_details(states: np.ndarray, sites: Motifs, settings: EvaluateConfig, seed: int) -> dict[str, float]:
    k, labels = settings.nmi_clusters, sites.labels
    graph = neighbour_graph(states)
    clusters = leiden_of(graph, seed=seed)
    groups = near_duplicate_groups(sites.ids, min(KMER, sites.ids.shape[1]))

    def probe(labels: np.ndarray, rows: np.ndarray) -> float:
        """Mean over labels, each against the rest; of two, one says it all."""
        names = np.unique(labels)
        names = names[1:] if len(names) == 2 else names
        found = [probe_auc(states[rows], (labels == name).astype(int), seed, groups[rows]) for name in names]
        return float(np.mean(found))

    return {
        **nmi(clusters, labels),
        **_nmi_spread(graph, sites, seed),
        **adjusted_agreement(clusters, labels),
        **{
            key.replace("nmi", f"nmi_k{k}"): value
            for key, value in nmi(kmeans(states, k, seed), labels).items()
            if key in ("nmi", "nmi_gt", "nmi_ag")
        },
        **by_half(probe, np.arange(len(labels)), labels, "probe_auc"),
    }


# -- the linear probe, and every layer ---------------------------------------------------------------------------------


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
                f"data.selection_share, or give more motif sites ({len(labels)} are too few)"
            )
        rest = np.setdiff1d(everything, part)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(vectors[rest], labels[rest])
        scores.append(roc_auc_score(labels[part], model.decision_function(vectors[part])))
    return float(np.mean(scores))


def measure_layers(
    bert: BertModel,
    chosen: Windows,
    context: int,
    motifs: Motifs | None,
    settings: EvaluateConfig,
    seed: int,
    autocast: Autocast = nullcontext,
) -> dict[str, dict[str, float]]:
    """{'layer 3 mean': {sccs, probe_auc}} of every layer and kind of pooling, each window encoded once.

    nmi stands with centre; as everywhere, it is that of the two central bases joined. An encoder with a learned mix
    has rows 'mix cls', ... too, and each layer's weight in it. [CLS] of layer 0 is the same for all windows: no row.
    """
    batch_size = settings.batch_size

    def every_kind(states: torch.Tensor) -> torch.Tensor:
        return torch.stack([pool(states, kind) for kind in POOLING_KINDS], dim=1)

    names = [f"layer {layer}" for layer in range(bert.config.num_hidden_layers + 1)]
    vectors = embed_layers(bert, chosen.crop(context), every_kind, batch_size, autocast)
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
            rows[f"{name} {kind}"] = row = _vector_scores(vectors[:, i, j], chosen.labels, groups, settings, seed)
            if kind == "centre" and centres is not None:
                row["nmi"] = nmi(leiden(centres[:, i], seed=seed), motifs.labels)["nmi"]
            if weights is not None and name != "mix":
                row["mix_weight"] = float(weights[i])
    return rows


def _mix(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n, layers, ...] -> their weighted mean [n, 1, ...]: pooling is linear, so the mix may come after it."""
    return np.tensordot(values, weights, axes=(1, 0))[:, None]


def _vector_scores(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: EvaluateConfig, seed: int
) -> dict[str, float]:
    return {
        "sccs": sccs(vectors, labels, settings.sccs_pairs, seed)["sccs"],
        "probe_auc": probe_auc(vectors, labels, seed, groups),
    }


def layer_floors(
    chosen: Windows, context: int, motifs: Motifs | None, settings: EvaluateConfig, seed: int
) -> dict[str, dict[str, float]]:
    """The same scores of what is no model: one-hot bases about the centre and GC content."""
    ids, groups = chosen.crop(context), near_duplicate_groups(chosen.ids)
    features = _floor_features(ids, settings.pwm_flank)
    of_sites = {} if motifs is None else nmi_floors(motifs, settings, seed)
    return {
        name: {"sccs": value, "probe_auc": probe_auc(features[name][0], chosen.labels, seed, groups)}
        | ({"nmi": of_sites[name]} if name in of_sites else {})
        for name, value in sccs_floors(ids, chosen.labels, settings, seed).items()
    }

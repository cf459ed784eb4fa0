"""SCCS, NMI and the linear probe of an encoder on one fixed set of windows and sites, with their floors: the validation
hook of training, and the table of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from simcsp.core.config import EvaluateConfig
from simcsp.core.errors import InputError
from simcsp.labels.floors import gc_content
from simcsp.labels.motifs import NMI_CLUSTERS, Motifs
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import grouped_folds
from simcsp.metrics.clustering import (
    Neighbours,
    adjusted_agreement,
    by_half,
    find_neighbours,
    kmeans,
    leiden,
    leiden_of,
    neighbour_graph,
    nmi,
)
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
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import MIX, POOLING_KINDS, central_states, mix_weights, pool
from simcsp.text.kmers import KMER, near_duplicate_groups
from simcsp.text.sites import SITES
from simcsp.text.weight_matrix import one_hot

if TYPE_CHECKING:
    import igraph

T = TypeVar("T")
PROBE_FOLDS, PROBE_C = 5, 0.01
LEIDEN_SEEDS = 5
BAND_RESAMPLES = 100  # of the interval at each validation: its width is known to 7 %
VIEWS = 512  # windows at most for alignment, uniformity and mean cosine: they need no more, and cost two passes


def of_floors(
    ids: np.ndarray, settings: EvaluateConfig, measure: Callable[[np.ndarray, Similarity], T]
) -> dict[str, T]:
    """{floor: what `measure` gives} of the floors, baselines without a language model: one-hot bases about the centre
    of windows uint8 [n, length], by cosine similarity, and GC content, by minus its absolute difference."""
    return {
        f"one_hot_{settings.pwm_flank}": measure(one_hot(ids, settings.pwm_flank), cosine_pairs),
        "gc": measure(gc_content(ids), closeness),
    }


# -- SCCS --------------------------------------------------------------------------------------------------------------


def score_vectors(
    vectors: np.ndarray,
    views: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    settings: EvaluateConfig,
    seed: int,
    groups: np.ndarray,
) -> dict[str, float]:
    """sccs, pair_auc, sccs_low and sccs_high (95 %, of few resamples), mean_cosine, alignment, uniformity of vectors
    [n, hidden] of windows, labels [n], groups int [n] (near-duplicates). views: as of `spread_of_vectors`."""
    pairs = settings.sccs_pairs
    band = sccs_interval(vectors, labels, pairs, seed, groups=groups, resamples=BAND_RESAMPLES, null=False)
    scores = {"sccs": band["sccs"], "pair_auc": band["pair_auc"], "sccs_low": band["low"], "sccs_high": band["high"]}
    return scores | spread_of_vectors(vectors, views)


def spread_of_vectors(vectors: np.ndarray, views: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """mean_cosine, alignment and uniformity of vectors [n, hidden]; views: two of the first VIEWS, under dropout."""
    return {
        "mean_cosine": mean_cosine(vectors[:VIEWS]),
        "alignment": alignment(*views),
        "uniformity": uniformity(vectors[:VIEWS]),
    }


def sccs_by_task(
    vectors: np.ndarray,
    chosen: Windows,
    settings: EvaluateConfig,
    seed: int,
    similarity: Similarity = cosine_pairs,
    start: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """{task: sccs, low, high, null_low, null_high, pair_auc} of vectors [windows, any] for donor, acceptor and both.

    Two windows share a class when both are sites or neither is. start: vectors of another encoder; then diff, diff_low
    and diff_high, SCCS less that encoder's, on the same windows. Raises InputError where a task has too few windows to
    pair.
    """
    groups = near_duplicate_groups(chosen.ids)
    pairs, resamples = settings.sccs_pairs, settings.bootstrap
    rows = {}
    for task in (*SITES, "both"):
        of_task = chosen.of_site(task)
        labels, alike = chosen.labels[of_task], groups[of_task]
        try:
            rows[task] = sccs_interval(vectors[of_task], labels, pairs, seed, similarity, alike, resamples)
        except ValueError as error:
            raise InputError(f"SCCS of {task}: {error}; raise data.selection_share") from None
        if start is not None:
            rows[task] |= sccs_difference(start[of_task], vectors[of_task], labels, pairs, seed, alike, resamples)
    return rows


def sccs_floor_bands(
    ids: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: EvaluateConfig, seed: int
) -> dict[str, float]:
    """SCCS of each floor, and its 95 % interval, of few resamples, as NAME_low and NAME_high."""

    def band(values: np.ndarray, similarity: Similarity) -> dict[str, float]:
        return sccs_interval(values, labels, settings.sccs_pairs, seed, similarity, groups, BAND_RESAMPLES, null=False)

    bands: dict[str, float] = {}
    for name, row in of_floors(ids, settings, band).items():
        bands |= {name: row["sccs"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return bands


# -- NMI ---------------------------------------------------------------------------------------------------------------


def measure_nmi(encoder: Encoder, motifs: Motifs, layer: int | None, seed: int) -> dict[str, float]:
    """nmi, its halves, bounds and the number of clusters, of a hidden layer (evaluate.nmi_layer)."""
    states = encoder.embed_centre(motifs.ids, layer)
    return nmi(leiden(states, seed=seed, device=encoder.bert.device), motifs.labels)


def score_neighbours(neighbours: Neighbours, motifs: Motifs, seed: int) -> dict[str, float]:
    """The same from the neighbours of the sites' states, and nmi_sd, over other seeds of Leiden, below which a
    difference means nothing."""
    graph = neighbour_graph(neighbours)
    return nmi(leiden_of(graph, seed=seed), motifs.labels) | _nmi_spread(graph, motifs, seed)


def _nmi_spread(graph: igraph.Graph, sites: Motifs, seed: int) -> dict[str, float]:
    others = [nmi(leiden_of(graph, seed=seed + 1 + i), sites.labels)["nmi"] for i in range(LEIDEN_SEEDS)]
    return {"nmi_sd": float(np.std(others, ddof=1))}


def nmi_floors(motifs: Motifs, settings: EvaluateConfig, seed: int) -> dict[str, float]:
    return of_floors(motifs.ids, settings, lambda values, _: nmi(leiden(values, seed=seed), motifs.labels)["nmi"])


def nmi_details(states: np.ndarray, sites: Motifs, seed: int) -> dict[str, float]:
    """NMI of states [sites, any] and what tells a better encoder from another number of clusters, by halves (*_gt,
    *_ag) and mean.

    nmi_sd: over other seeds of Leiden, below which a difference means nothing. ami, ari: of the same clusters. nmi_k10:
    of k-means with as many clusters. probe_auc: of a linear probe of the label on the same states, sites
    that share 80 nt kept together.
    """
    k, labels = NMI_CLUSTERS, sites.labels
    graph = neighbour_graph(find_neighbours(states))
    clusters = leiden_of(graph, seed=seed)
    groups = near_duplicate_groups(sites.ids, min(KMER, sites.ids.shape[1]))

    def probe(labels: np.ndarray, rows: np.ndarray) -> float:
        """Mean over labels, each against the rest; of two, one says it all."""
        names = np.unique(labels)
        names = names[1:] if len(names) == 2 else names
        auc = [probe_auc(states[rows], (labels == name).astype(int), seed, groups[rows]) for name in names]
        return float(np.mean(auc))

    return {
        **nmi(clusters, labels),
        **_nmi_spread(graph, sites, seed),
        **adjusted_agreement(clusters, labels),
        **by_half(normalized_mutual_info_score, kmeans(states, k, seed), labels, f"nmi_k{k}"),
        **by_half(probe, np.arange(len(labels)), labels, "probe_auc"),
    }


# -- the linear probe, and every layer ---------------------------------------------------------------------------------


def fit_logistic(vectors: np.ndarray, labels: np.ndarray, c: float) -> Pipeline:
    """Logistic regression on standardised vectors [n, hidden]; the same weights from the same vectors, any time."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(vectors, labels)


def probe_auc(
    vectors: np.ndarray,
    labels: np.ndarray,
    seed: int,
    groups: np.ndarray | None = None,
    fitted_on: np.ndarray | None = None,
) -> float:
    """ROC AUC of a logistic regression on standardised vectors [n, d]: what a frozen encoder's linear head could reach.

    Mean over five parts, each scored by a model of the other four. labels: [n] in {0, 1}; groups: [n], windows of one
    group stay in one part (see `near_duplicate_groups`), None: every window by itself. fitted_on: other vectors [n, d]
    of the same windows that the models are fitted on. Raises InputError where a part would lack a class.
    """
    fitted_on = vectors if fitted_on is None else fitted_on
    groups = np.arange(len(labels)) if groups is None else groups
    everything, scores = np.arange(len(labels)), []
    for part in (fold["val"] for fold in grouped_folds(labels, groups, PROBE_FOLDS, seed)):
        if len(np.unique(labels[part])) < 2:
            raise InputError(
                f"the probe needs windows of both classes in each of its {PROBE_FOLDS} parts: raise "
                f"data.selection_share, or give more motif sites ({len(labels)} are too few)"
            )
        rest = np.setdiff1d(everything, part)
        model = fit_logistic(fitted_on[rest], labels[rest], PROBE_C)
        scores.append(roc_auc_score(labels[part], model.decision_function(vectors[part])))
    return float(np.mean(scores))


def measure_layers(
    encoder: Encoder, chosen: Windows, context: int, motifs: Motifs | None, settings: EvaluateConfig, seed: int
) -> dict[str, dict[str, float]]:
    """{'layer 3 mean': {sccs, probe_auc}} of every layer and kind of pooling, each window encoded once.

    nmi stands with centre; as everywhere, it is that of the two central bases joined. An encoder with a learned mix
    has rows 'mix cls', ... too, and each layer's weight in it. [CLS] of layer 0 is the same for all windows: no row.
    """
    vectors = encoder.embed_layers(
        chosen.crop(context), lambda states: torch.stack([pool(states, kind) for kind in POOLING_KINDS], dim=1)
    )
    centres = None
    if motifs is not None:
        centres = encoder.embed_layers(motifs.ids, lambda states: central_states(states).flatten(1))
    names = [f"layer {layer}" for layer in range(encoder.bert.config.num_hidden_layers + 1)]
    weights = mix_weights(encoder.bert)
    if weights is not None:
        weights = weights.detach().cpu().numpy()
        names.append(MIX)
        vectors, centres = _with_mix(vectors, weights), None if centres is None else _with_mix(centres, weights)
    groups = near_duplicate_groups(chosen.ids)
    rows = {}
    for i, name in enumerate(names):
        for j, kind in enumerate(POOLING_KINDS):
            if (i, kind) == (0, "cls"):
                continue
            rows[f"{name} {kind}"] = row = _sccs_and_probe(vectors[:, i, j], chosen.labels, groups, settings, seed)
            if kind == "centre" and centres is not None:
                row["nmi"] = nmi(leiden(centres[:, i], seed=seed), motifs.labels)["nmi"]
            if weights is not None and name != MIX:
                row["mix_weight"] = float(weights[i])
    return rows


def _with_mix(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n, layers, ...] -> [n, layers + 1, ...] with their weighted mean: pooling is linear, so it may come after."""
    return np.concatenate([values, np.tensordot(values, weights, axes=(1, 0))[:, None]], axis=1)


def _sccs_and_probe(
    values: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    settings: EvaluateConfig,
    seed: int,
    similarity: Similarity = cosine_pairs,
) -> dict[str, float]:
    return {
        "sccs": sccs(values, labels, settings.sccs_pairs, seed, similarity)["sccs"],
        "probe_auc": probe_auc(values, labels, seed, groups),
    }


def layer_floors(
    chosen: Windows, context: int, motifs: Motifs | None, settings: EvaluateConfig, seed: int
) -> dict[str, dict[str, float]]:
    groups = near_duplicate_groups(chosen.ids)
    rows = of_floors(
        chosen.crop(context),
        settings,
        lambda values, similarity: _sccs_and_probe(values, chosen.labels, groups, settings, seed, similarity),
    )
    for name, value in ({} if motifs is None else nmi_floors(motifs, settings, seed)).items():
        rows[name]["nmi"] = value
    return rows

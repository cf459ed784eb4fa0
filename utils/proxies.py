"""SCCS, NMI and the linear probe of an encoder on one fixed set of windows and sites, with their floors: the validation
hook of training, and the table of layers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

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
from utils.metrics import (
    Similarity,
    adjusted_agreement,
    alignment,
    by_half,
    closeness,
    cosine_pairs,
    kmeans,
    leiden,
    leiden_of,
    mean_cosine,
    motif_half,
    neighbour_graph,
    nmi,
    sccs,
    sccs_interval,
    uniformity,
)
from utils.motifs import Motifs, cut_motifs, read_bed, read_cut
from utils.overlap import KMER
from utils.run import write_text
from utils.sequence import encode, open_store
from utils.spliceator import (
    SITES,
    Splits,
    Windows,
    dedup,
    grouped_folds,
    load_training,
    near_duplicate_groups,
    read_splits,
    save_or_load_splits,
    subset,
)

PROBE_FOLDS = 5
LEIDEN_SEEDS = 5
VIEWS = 512  # windows at most for alignment, uniformity and mean cosine: they need no more, and cost two passes


def load_windows(config: Config) -> tuple[Windows, Splits]:
    """The labelled windows of a run and their splits, made on first use under runs/<name>/splits."""
    data = config.data
    windows, remark = training_windows(data)
    if data.dedup:
        write_text(config.folder / "splits/dedup.txt", f"{remark}\n")
    splits = save_or_load_splits(
        config.folder / "splits", windows, data.folds, data.num_folds, data.selection_share, data.split_seed
    )
    return windows, splits


def read_windows(config: Config) -> tuple[Windows, Splits]:
    """The same for who only reads: a folder without splits stays without, and has those that `load_windows` would
    make."""
    data = config.data
    windows, _ = training_windows(data)
    splits = read_splits(
        config.folder / "splits", windows, data.folds, data.num_folds, data.selection_share, data.split_seed
    )
    return windows, splits


def training_windows(data: DataConfig) -> tuple[Windows, str]:
    """The labelled windows from which a run's folds are cut, and what data.dedup left out of them, in a sentence."""
    if data.spliceator is None:
        raise InputError("data.spliceator is not set: give the folder that holds Spliceator's Training_data")
    windows, remark = load_training(data.spliceator, data.negatives, data.context), ""
    if data.dedup:
        windows, remark = dedup(windows)
    return subset(windows, data.max_windows, data.split_seed), remark


def has_training_windows(data: DataConfig) -> bool:
    """Whether the folder of the labelled windows is there; a trained model may have come without it."""
    return data.spliceator is not None and (Path(data.spliceator) / "Training_data").is_dir()


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
        return read_cut(data.motif_bed, data.motif_window)
    store = open_store([data.motif_fasta], data.cache)
    return cut_motifs(read_bed(data.motif_bed), store, data.motif_window, data.motif_bed)


def measure_sccs(
    bert: BertModel, pooling: str, ids: np.ndarray, labels: np.ndarray, config: Config, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """sccs, pair_auc, mean_cosine, alignment, uniformity of an encoder on windows uint8 [n, length], labels [n]."""
    vectors = embed(bert, ids, pooling, config.evaluate.batch_size, autocast)
    return sccs(vectors, labels, config.evaluate.sccs_pairs, config.seed) | _spread_of_vectors(
        bert, pooling, ids, vectors, config, autocast
    )


def _spread_of_vectors(
    bert: BertModel, pooling: str, ids: np.ndarray, vectors: np.ndarray, config: Config, autocast: Autocast
) -> dict[str, float]:
    """mean_cosine, alignment and uniformity of the vectors of windows."""
    views = embed_twice(bert, ids[:VIEWS], pooling, config.evaluate.batch_size, config.seed, autocast)
    return {
        "mean_cosine": mean_cosine(vectors[:VIEWS]),
        "alignment": alignment(*views),
        "uniformity": uniformity(vectors[:VIEWS]),
    }


def measure_sccs_intervals(
    bert: BertModel, pooling: str, chosen: Windows, config: Config, autocast: Autocast = nullcontext
) -> dict[str, dict[str, float]]:
    """{task: sccs, low, high, null_low, null_high, pair_auc} for donor, acceptor and both, each window encoded once.

    Classes and pairs are those of evaluate.sccs_classes and sccs_pairs. `both` has mean_cosine, alignment and
    uniformity too. Raises InputError where a task has too few windows to pair.
    """
    ids = chosen.crop(config.data.context)
    vectors = embed(bert, ids, pooling, config.evaluate.batch_size, autocast)
    rows = _intervals_by_task(vectors, chosen, config, cosine_pairs)
    rows["both"] |= _spread_of_vectors(bert, pooling, ids, vectors, config, autocast)
    return rows


def sccs_interval_floors(chosen: Windows, config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """{floor: {task: ...}}: what `measure_sccs_intervals` gives for what is no model."""
    return {
        name: _intervals_by_task(values, chosen, config, similarity)
        for name, (values, similarity) in _floor_features(chosen.crop(config.data.context), config).items()
    }


def _intervals_by_task(
    vectors: np.ndarray, chosen: Windows, config: Config, similarity: Similarity
) -> dict[str, dict[str, float]]:
    settings, groups = config.evaluate, near_duplicate_groups(chosen.ids)
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
                config.seed,
                similarity,
                groups[mine],
                settings.bootstrap,
            )
        except ValueError as error:
            raise InputError(f"SCCS of {task}: {error}; raise data.selection_share") from None
    return rows


def measure_nmi(bert: BertModel, motifs: Motifs, config: Config, autocast: Autocast = nullcontext) -> dict[str, float]:
    """nmi, its halves, bounds and the number of clusters, for the layer that the config asks for."""
    states = embed_centre(bert, motifs.ids, config.evaluate.nmi_layer, config.evaluate.batch_size, autocast)
    return nmi(leiden(states, seed=config.seed), motifs.labels)


def sccs_floors(ids: np.ndarray, labels: np.ndarray, config: Config) -> dict[str, float]:
    """SCCS of what is no model: one-hot bases about the centre (cosine), GC content (minus its absolute difference)."""
    return {
        name: sccs(values, labels, config.evaluate.sccs_pairs, config.seed, similarity)["sccs"]
        for name, (values, similarity) in _floor_features(ids, config).items()
    }


def nmi_floors(motifs: Motifs, config: Config) -> dict[str, float]:
    """NMI of one-hot bases about the site and of GC content, clustered the same way."""
    return {
        name: nmi(leiden(values, seed=config.seed), motifs.labels)["nmi"]
        for name, (values, _) in _floor_features(motifs.ids, config).items()
    }


def _floor_features(ids: np.ndarray, config: Config) -> dict[str, tuple[np.ndarray, Similarity]]:
    """{name: (vectors [n, d], their similarity)} of what is no model."""
    flank = config.evaluate.pwm_flank
    return {f"one_hot_{flank}": (one_hot(ids, flank), cosine_pairs), "gc": (gc_content(ids), closeness)}


# -- NMI with its company ----------------------------------------------------------------------------------------------


def load_nmi_sites(config: Config) -> tuple[Motifs, str]:
    """The sites that evaluate.nmi_sites names, and a phrase that says what they are.

    Raises InputError where data.motif_bed is not set, or a half has sites of one label only.
    """
    if config.evaluate.nmi_sites == "spliceator":
        chosen = selection_windows(*read_windows(config))
        sites = spliceator_sites(chosen, config.data.context)
        phrase = f"{len(sites.labels)} of {len(chosen)} selection windows, those with GT or AG at the site"
    else:
        sites = load_motifs(config.data)
        if sites is None:
            raise InputError(
                "data.motif_bed is not set: NMI needs a BED of labelled GT / AG sites, and its FASTA, "
                "or --evaluate.nmi_sites spliceator"
            )
        phrase = f"{len(sites.labels)} motif sites"
    halves = motif_half(sites.labels)
    for half in ("gt", "ag"):
        found = np.unique(sites.labels[halves == half])
        if len(found) < 2:
            raise InputError(
                f"evaluate.nmi_sites ({config.evaluate.nmi_sites}): the {half.upper()} half has sites of "
                f"{len(found)} label(s), {', '.join(found) or 'none'}: NMI compares at least two"
                + (", raise data.selection_share" if config.evaluate.nmi_sites == "spliceator" else "")
            )
    if len(sites.labels) < config.evaluate.nmi_clusters:
        raise InputError(
            f"evaluate.nmi_clusters ({config.evaluate.nmi_clusters}) is more than there are sites ({len(sites.labels)})"
        )
    return sites, phrase


def spliceator_sites(windows: Windows, length: int) -> Motifs:
    """Spliceator windows as motif sites, labelled by site type and label: GT(donor), GT(non-donor), AG(acceptor), ...

    The two motif bases are moved to the centre of `length` nt, as in windows of a motif BED: GT follows a donor's
    boundary, AG precedes an acceptor's. Windows that show another pair there (exon and intron negatives, rare sites)
    are left out, for it would tell their label.
    """
    room = windows.ids.shape[1]
    length = min(length, (room - 2) // 2 * 2)
    donor = windows.sites == "donor"
    left = (room - length) // 2 + np.where(donor, 1, -1)
    ids = np.take_along_axis(windows.ids, left[:, None] + np.arange(length), axis=1)
    pairs = np.where(donor[:, None], encode("GT"), encode("AG"))
    kept = (ids[:, length // 2 - 1 : length // 2 + 1] == pairs).all(axis=1)
    names = {("donor", 1): "GT(donor)", ("donor", 0): "GT(non-donor)"}
    names |= {("acceptor", 1): "AG(acceptor)", ("acceptor", 0): "AG(non-acceptor)"}
    labels = np.array([names[site, label] for site, label in zip(windows.sites, windows.labels)])
    return Motifs(np.ascontiguousarray(ids[kept]), labels[kept])


def measure_nmi_company(
    bert: BertModel, sites: Motifs, config: Config, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """`measure_nmi` and what tells a better encoder from another number of clusters, by halves (*_gt, *_ag) and mean.

    nmi_sd: over other seeds of Leiden, below which a difference means nothing. ami, ari: of the same clusters. nmi_k10:
    of k-means with evaluate.nmi_clusters clusters. probe_auc: of a linear probe of the label on the same states, sites
    that share 80 nt kept together.
    """
    states = embed_centre(bert, sites.ids, config.evaluate.nmi_layer, config.evaluate.batch_size, autocast)
    return _nmi_company(states, sites, config)


def nmi_company_floors(sites: Motifs, config: Config) -> dict[str, dict[str, float]]:
    """{floor: ...}: what `measure_nmi_company` gives for what is no model."""
    return {
        name: _nmi_company(values, sites, config) for name, (values, _) in _floor_features(sites.ids, config).items()
    }


def _nmi_company(states: np.ndarray, sites: Motifs, config: Config) -> dict[str, float]:
    k, labels = config.evaluate.nmi_clusters, sites.labels
    graph = neighbour_graph(states)
    clusters = leiden_of(graph, seed=config.seed)
    others = [nmi(leiden_of(graph, seed=config.seed + 1 + i), labels)["nmi"] for i in range(LEIDEN_SEEDS)]
    groups = near_duplicate_groups(sites.ids, min(KMER, sites.ids.shape[1]))

    def probe(labels: np.ndarray, rows: np.ndarray) -> float:
        """Mean over labels, each against the rest; of two, one says it all."""
        names = np.unique(labels)
        names = names[1:] if len(names) == 2 else names
        found = [probe_auc(states[rows], (labels == name).astype(int), config.seed, groups[rows]) for name in names]
        return float(np.mean(found))

    return {
        **nmi(clusters, labels),
        "nmi_sd": float(np.std(others, ddof=1)),
        **adjusted_agreement(clusters, labels),
        **{
            key.replace("nmi", f"nmi_k{k}"): value
            for key, value in nmi(kmeans(states, k, config.seed), labels).items()
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
    features = _floor_features(ids, config)
    of_sites = {} if motifs is None else nmi_floors(motifs, config)
    return {
        name: {"sccs": value, "probe_auc": probe_auc(features[name][0], chosen.labels, config.seed, groups)}
        | ({"nmi": of_sites[name]} if name in of_sites else {})
        for name, value in sccs_floors(ids, chosen.labels, config).items()
    }

"""The validation hook of pre-training: SCCS on the selection windows, NMI on the motif sites, and their floors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import BertForMaskedLM

from simcsp.core.config import Config, EvaluateConfig
from simcsp.core.device import forked_rng, set_seed
from simcsp.labels.motifs import Motifs, sites_of_run
from simcsp.labels.splits import load_windows, selection_windows
from simcsp.metrics.clustering import Neighbours, find_neighbours
from simcsp.metrics.proxies import VIEWS, nmi_floors, probe_auc, sccs_floor_bands, score_neighbours, score_vectors
from simcsp.model.embedding import Autocast, Encoder
from simcsp.model.encoder import check_length, fresh_like
from simcsp.text.kmers import near_duplicate_groups

MOST_SHOWN = 400  # sites in UMAP's plane


@dataclass(frozen=True)
class Embedded:
    """vectors [windows, hidden] of the selection windows, views, two of the first of them under dropout, neighbours of
    the motif sites' states, and some states [sites, 2 hidden] and labels [sites] for a picture; None without."""

    vectors: np.ndarray | None
    views: tuple[np.ndarray, np.ndarray] | None
    neighbours: Neighbours | None
    shown: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Validation:
    """ids: uint8 [n, context], labels [n], groups [n] (near-duplicates) of the selection windows, None without any;
    motifs: None without a BED. inputs: their hashes. with_probe: measure the linear probe as well (a search asks it).
    """

    settings: EvaluateConfig
    seed: int
    autocast: Autocast
    ids: np.ndarray | None
    labels: np.ndarray | None
    groups: np.ndarray | None
    motifs: Motifs | None
    inputs: dict[str, str]
    with_probe: bool = False

    def check(self, model: nn.Module) -> None:
        """Refuse windows longer than the encoder takes, before anything is trained."""
        if self.ids is not None:
            check_length(model, self.ids.shape[1], "data.context")
        if self.motifs is not None:
            check_length(model, self.motifs.ids.shape[1], "data.motif_window")

    def __call__(self, model: BertForMaskedLM, pooling: str) -> dict[str, float]:
        """SCCS, NMI and related scores, where there are windows or sites to measure them on."""
        return self.score(self.embed(model, pooling))

    def embed(self, model: BertForMaskedLM, pooling: str) -> Embedded:
        """The part that needs the model, and its device."""
        encoder = Encoder(model.bert, pooling, self.settings.batch_size, self.autocast)
        vectors = views = neighbours = shown = None
        if self.ids is not None:
            vectors, views = encoder.embed(self.ids), encoder.embed_twice(self.ids[:VIEWS], self.seed)
        if self.motifs is not None:
            states = encoder.embed_centre(self.motifs.ids, self.settings.nmi_layer)
            neighbours, some = find_neighbours(states, model.device), spread(len(states), MOST_SHOWN)
            shown = states[some], self.motifs.labels[some]
        return Embedded(vectors, views, neighbours, shown)

    def score(self, embedded: Embedded) -> dict[str, float]:
        """The part that needs a processor alone."""
        scores: dict[str, float] = {}
        vectors, labels, settings = embedded.vectors, self.labels, self.settings
        if vectors is not None:
            scores |= score_vectors(vectors, embedded.views, labels, settings, self.seed, self.groups)
        if embedded.neighbours is not None:
            scores |= score_neighbours(embedded.neighbours, self.motifs, self.seed)
        if self.with_probe and vectors is not None:
            scores["probe_auc"] = probe_auc(vectors, labels, self.seed, self.groups)
        return scores

    def floors(self, model: BertForMaskedLM, pooling: str) -> dict[str, dict[str, float]]:
        """{'sccs': {'gc', 'gc_low', 'gc_high', ...}, 'nmi': {...}} of one-hot bases, GC content and fresh weights."""
        with forked_rng(model.device):
            set_seed(self.seed)
            fresh = self(fresh_like(model.config).to(model.device), pooling)
        floors = {}
        if self.ids is not None:
            of_fresh = {key.replace("sccs", "fresh"): fresh[key] for key in ("sccs", "sccs_low", "sccs_high")}
            of_text = sccs_floor_bands(self.ids, self.labels, self.groups, self.settings, self.seed)
            floors["sccs"] = of_text | of_fresh
        if self.motifs is not None:
            floors["nmi"] = {**nmi_floors(self.motifs, self.settings, self.seed), "fresh": fresh["nmi"]}
        return floors


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` rows, evenly."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def build_validation(config: Config, autocast: Autocast) -> Validation:
    ids = labels = groups = None
    inputs = {}
    if config.data.spliceator is not None:
        windows, splits = load_windows(config.data, config.folder)
        chosen = selection_windows(windows, splits)
        ids = chosen.crop(config.data.context)
        labels = chosen.labels
        groups = near_duplicate_groups(chosen.ids)
        inputs["spliceator"] = windows.sha256
    if (motifs := sites_of_run(config)) is not None:
        inputs["motifs"] = motifs.sha256
    probe = config.search.metric == "probe_auc"
    return Validation(config.evaluate, config.seed, autocast, ids, labels, groups, motifs, inputs, probe)

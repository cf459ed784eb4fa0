"""sccs, nmi, layers, offsets: what an encoder knows before any classifier is fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commands.sources import encoders
from simcsp.core.config import Config
from simcsp.core.device import build_accelerator
from simcsp.labels.motifs import NMI_CLUSTERS, load_motifs, load_nmi_sites
from simcsp.labels.splits import read_windows, selection_windows
from simcsp.metrics import proxies
from simcsp.metrics.offsets import measure_offsets
from simcsp.metrics.sccs import SCCS_CEILING, Similarity, cosine_pairs
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import check_length, fresh_like
from simcsp.report.table import score_table
from simcsp.text.kmers import near_duplicate_groups


def measure_encoders(
    source: Path, config: Config, used: tuple[str, ...], measure: Callable[[Encoder], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """{encoder: scores}, ending with one of fresh weights. used: fields of data that say how long its windows are."""
    accelerator = build_accelerator(config.device, config.precision)
    scores = {}
    for name, folder in encoders(source).items():
        model, pooling, _ = load_backbone(config.model.saved_as(folder))
        for field in used:
            check_length(model, getattr(config.data, field), f"data.{field}")
        scores[name] = measure(Encoder(model.to(accelerator.device).bert, pooling, config.evaluate.batch_size))
    torch.manual_seed(config.seed)
    fresh = fresh_like(model.config).to(accelerator.device)
    scores["fresh"] = measure(Encoder(fresh.bert, pooling, config.evaluate.batch_size))
    return scores


def show_sccs(source: Path, config: Config) -> None:
    """SCCS of donors, acceptors and both on the selection windows, with its 95 % interval, null band and floors."""
    settings, seed = config.evaluate, config.seed
    chosen = selection_windows(*read_windows(config.data, config.folder))
    ids = chosen.crop(config.data.context)
    flank, measured = config.finetune.probe_flank, []

    def measure(encoder: Encoder) -> dict[str, dict[str, float]]:
        vectors = encoder.embed_probed(ids, config.finetune)
        rows = proxies.sccs_by_task(vectors, chosen, settings, seed, start=measured[0] if measured else None)
        measured.append(vectors)
        if flank is None:
            rows["both"] |= proxies.spread_of_vectors(vectors, encoder.embed_twice(ids[: proxies.VIEWS], seed))
        return rows

    def measure_floor(values: np.ndarray, likeness: Similarity) -> dict[str, dict[str, float]]:
        start = measured[0] if likeness is cosine_pairs else None
        return proxies.sccs_by_task(values, chosen, settings, seed, likeness, start)

    by_name = measure_encoders(source, config, ("context",), measure)
    reference = next(iter(by_name))  # of a run the baseline, which comes first
    for width in sorted({settings.pwm_flank, flank or settings.pwm_flank}):
        by_name |= proxies.of_floors(ids, dataclasses.replace(settings, pwm_flank=width), measure_floor)
    rows = {
        name if task == "both" else f"{task} {name}": tasks[task]
        for task in ("both", "donor", "acceptor")
        for name, tasks in by_name.items()
    }
    print(
        f"SCCS on {len(chosen)} selection windows of {config.data.context} nt (rows without a site type: both), "
        f"pairs: {settings.sccs_pairs}"
    )
    sizes = np.bincount(near_duplicate_groups(chosen.ids))
    print(f"{len(sizes)} groups of near-duplicates, the largest of {sizes.max()}")
    print(score_table(rows))
    drawn, null = "windows, near-duplicates together", "with labels permuted"
    if settings.sccs_pairs == "published":
        drawn, null = "pairs, which are disjoint", "1.96 / sqrt(pairs - 1)"
    print(
        f"low, high: 95 % interval, {settings.bootstrap} resamples of {drawn}; null_low, null_high: 95 % of SCCS under "
        f"the null ({null})\nSCCS is at most {SCCS_CEILING}, for a perfect encoder"
    )
    print(f"diff, diff_low, diff_high: SCCS minus that of {reference}; 95 % interval of the same resamples")
    if flank is not None:
        print(f"vectors: hidden states of {2 * flank} bases about the site side by side (finetune.probe_flank)")


def show_nmi(source: Path, config: Config) -> None:
    """NMI of GT / AG sites with its bound, spread, adjusted scores and floors: mean and halves."""
    sites, phrase = load_nmi_sites(config)
    settings = config.evaluate
    used = ("motif_window",) if settings.nmi_sites == "motifs" else ("context",)

    def measure(states: np.ndarray, *_: Any) -> dict[str, float]:
        return proxies.nmi_details(states, sites, config.seed)

    by_name = measure_encoders(
        source, config, used, lambda encoder: measure(encoder.embed_centre(sites.ids, settings.nmi_layer))
    )
    by_name |= proxies.of_floors(sites.ids, settings, measure)
    layer = "last layer" if settings.nmi_layer is None else f"layer {settings.nmi_layer}"
    print(f"NMI of {phrase}, windows of {sites.ids.shape[1]} nt, {layer}; mean of the GT half and the AG half")
    of_half = {f"{half} {name}": half_scores(scores, half) for half in ("gt", "ag") for name, scores in by_name.items()}
    print(
        score_table(
            {
                name: {key: scores[key] for key in scores if key in ("nmi_gt", "nmi_ag") or not half_of(key)}
                for name, scores in by_name.items()
            }
        )
    )
    print("\nby halves")
    print(score_table(of_half))
    print(
        "nmi, ami, ari: Leiden clusters (Traag et al. 2019) of the graph of 15 nearest neighbours with UMAP weights "
        "(McInnes et al. 2018), PCA 128, resolution 1\n"
        f"nmi_sd: over {proxies.LEIDEN_SEEDS} other seeds of Leiden; nmi_bound: the maximum for so many clusters\n"
        f"nmi_k{NMI_CLUSTERS}: k-means with that many clusters for every row; "
        "probe_auc: logistic regression, five parts, near-duplicates together"
    )


def half_of(key: str) -> str | None:
    """'gt' or 'ag' of a score of one half, such as nmi_gt_bound."""
    return next((half for half in ("gt", "ag") if f"_{half}" in key), None)


def half_scores(scores: dict[str, float], half: str) -> dict[str, float]:
    """The scores of one half, under the names of their means."""
    return {key.replace(f"_{half}", ""): value for key, value in scores.items() if half_of(key) == half}


def show_layers(source: Path, config: Config) -> None:
    """SCCS, probe and NMI of every layer by every kind of pooling, to choose model.pooling and model.pooling_layer."""
    windows, splits = read_windows(config.data, config.folder)
    chosen, motifs = selection_windows(windows, splits), load_motifs(config.data)
    used = ("context",) if motifs is None else ("context", "motif_window")
    context, settings, seed = config.data.context, config.evaluate, config.seed
    by_name = measure_encoders(
        source, config, used, lambda encoder: proxies.measure_layers(encoder, chosen, context, motifs, settings, seed)
    )
    alone = len(by_name) == 2  # and fresh weights
    rows = {
        row if alone and name != "fresh" else f"{name} {row}": scores
        for name, table in by_name.items()
        for row, scores in table.items()
    }
    rows |= proxies.layer_floors(chosen, context, motifs, settings, seed)
    sites = "no motif sites" if motifs is None else f"NMI of {len(motifs.labels)} motif sites"
    print(f"{source}: {len(chosen.labels)} selection windows of {context} nt, {sites}")
    print(score_table(rows))


def show_offsets(source: Path, config: Config) -> None:
    """The linear probe of sites that lie off the centre of the window, read at the site."""
    chosen = selection_windows(*read_windows(config.data, config.folder))
    context, seed = config.data.context, config.seed
    by_name = measure_encoders(
        source, config, ("context",), lambda encoder: measure_offsets(encoder, chosen, context, seed)
    )
    print(f"{source}: {len(chosen)} selection windows of {context} nt, the site so far off the centre")
    print(score_table({f"{name} {row}": scores for name, table in by_name.items() for row, scores in table.items()}))
    print("auc: probe fitted on centred windows; refitted_auc: on windows moved as far; five parts")

"""Sources of a text: their records, gene bodies and introns, and the share of windows that each gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.text.annotation import GeneBody, Intron, Transcript, gene_bodies, introns, read_annotation
from simcsp.text.sampler import Intervals, Span, as_intervals, wanted_spans
from simcsp.text.store import TokenStore

Feature = TypeVar("Feature", Intron, GeneBody)


def need_annotation(data: DataConfig) -> None:
    if len(data.annotation) != len(data.fasta):
        raise InputError(
            f"data.annotation has {len(data.annotation)} files, data.fasta {len(data.fasta)}: "
            f"corpus {data.corpus} takes one annotation for each FASTA, in the same order"
        )


def spans_of_source(store: TokenStore, data: DataConfig, number: int) -> list[Span]:
    spans = [span for span in wanted_spans(store, data.records) if span.record.source == number]
    if not spans:
        raise InputError(f"data.records names no record of {data.fasta[number]}: name one, or leave out that FASTA")
    return spans


def _annotated(
    store: TokenStore, data: DataConfig, number: int, kind: Callable[[list[Transcript]], list[Feature]]
) -> list[Feature]:
    """Introns or gene bodies of the annotation of a source on its wanted records, chrom being the name in the store."""
    spans: dict[str, list[Span]] = {}
    for span in spans_of_source(store, data, number):
        spans.setdefault(span.record.source_name, []).append(span)
    # of all records of the source: those that are not wanted must match the FASTA as well
    lengths = {record.source_name: record.length for record in store.records if record.source == number}
    return [
        feature._replace(chrom=span.record.name)
        for feature in kind(read_annotation(data.annotation[number], lengths, data.transcripts))
        for span in spans.get(feature.chrom, [])
        if span.holds(feature.start, feature.end)
    ]


def annotated_introns(store: TokenStore, data: DataConfig, number: int) -> list[Intron]:
    """Introns of the annotation of a source on its wanted records, chrom being the name in the store."""
    return _annotated(store, data, number, introns)


def gene_intervals(store: TokenStore, data: DataConfig, number: int) -> Intervals:
    """Gene bodies of one source, so that each window that lies in one is there once."""
    bodies = _annotated(store, data, number, gene_bodies)
    if not bodies:
        raise InputError(f"data.annotation: {data.annotation[number]} has no gene on the records to train on")
    spans = merge_bodies(bodies, data.window)
    return Intervals(
        np.array([store.by_name[chrom].offset + start for chrom, _, start, _ in spans]),
        np.array([end - start for _, _, start, end in spans]),
        np.array([strand == "-" for _, strand, _, _ in spans]),
        np.ones(len(spans)),
    )


def merge_bodies(bodies: list[GeneBody], window: int) -> list[tuple[str, str, int, int]]:
    """(record, strand, start, end) of gene bodies, those made one whose windows coincide or start next to one another.

    The windows in the spans are just those in the bodies, each once, however genes overlap and nest."""
    spans: list[tuple[str, str, int, int]] = []
    for chrom, strand, start, end in sorted((body.chrom, body.strand, body.start, body.end) for body in bodies):
        if spans and spans[-1][:2] == (chrom, strand) and start <= spans[-1][3] - window + 1:
            spans[-1] = (*spans[-1][:3], max(spans[-1][3], end))
        else:
            spans.append((chrom, strand, start, end))
    return spans


def join_intervals(parts: Sequence[Intervals]) -> Intervals:
    return Intervals(*(np.concatenate([getattr(part, name) for part in parts]) for name in Intervals.__annotations__))


def check_species(data: DataConfig) -> None:
    """Refuse lists that do not go together, before any file is read."""
    needs_sites = data.corpus == "splice_enriched" and data.scorer in ("pwm", "annotation")
    if data.annotation or needs_sites or data.corpus == "annotated":
        need_annotation(data)
    by_odds = data.corpus in ("splice_enriched", "annotated")
    if data.sampling == "strided" and by_odds:
        raise InputError(
            "data.sampling (strided) reads every window once, so it knows no odds: take random for corpus "
            f"{data.corpus}"
        )


def source_shares(sizes: np.ndarray) -> np.ndarray:
    """Share of windows that each FASTA gives. sizes: their weights."""
    shares = sizes / sizes.max()
    return shares / shares.sum()


def by_source(store: TokenStore, shares: np.ndarray) -> dict[str, float]:
    return {source: round(float(share), 4) for source, share in zip(store.manifest["sources"], shares)}


def species_intervals(store: TokenStore, data: DataConfig) -> tuple[Intervals, dict[str, float]]:
    """Intervals of all sources with the odds that give each its share, and {source: share}."""
    parts = [
        gene_intervals(store, data, number) if data.annotation else as_intervals(spans_of_source(store, data, number))
        for number in range(len(data.fasta))
    ]
    starts = np.array([np.maximum(part.length - data.window + 1, 0).sum() for part in parts], dtype=float)
    if not starts.all():
        raise InputError(
            f"data.window ({data.window} nt) is longer than every record or gene of "
            f"{data.fasta[int(np.flatnonzero(starts == 0)[0])]}"
        )
    shares = source_shares(starts)
    odds = shares / starts
    joined = join_intervals(parts)
    per_interval = np.repeat(odds / odds.max(), [len(part) for part in parts])
    return Intervals(joined.start, joined.length, joined.minus, per_interval), by_source(store, shares)

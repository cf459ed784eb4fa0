"""Which bases a model's call of a splice site rests on: in-silico mutagenesis of sites of a genome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simcsp.genome.regions import Span
from simcsp.genome.truth import within
from simcsp.metrics.mutagenesis import Score
from simcsp.model.bases import TYPES, Labeller
from simcsp.text.sites import KINDS, Sites, cut_windows
from simcsp.text.store import TokenStore

PLACES = {"donor": (10, 20), "acceptor": (50, 10)}
"""nt before and after the boundary, as the strand is read: a branch point lies 18 to 45 nt before an acceptor's."""


def annotated_sites(
    annotated: dict[tuple[str, str], np.ndarray], spans: Sequence[Span], store: TokenStore, kind: str, length: int
) -> Sites:
    """The sites of a type, of `read_truth`, that lie in the spans, with `length` nt about them on their record."""
    number_of = {(item.type, item.strand): number for number, item in enumerate(KINDS)}
    inside = within(annotated, spans, store)
    parts = []
    for number in sorted({number for number, *_ in spans}):
        record = store.records[number]
        rows = inside.get((record.name, kind), np.empty((0, 2), dtype=np.int64))
        kinds = np.where(rows[:, 1] == 1, number_of[kind, "-"], number_of[kind, "+"])
        sites = Sites(np.full(len(rows), number), rows[:, 0], kinds)
        parts.append(sites.take((sites.boundary >= length // 2) & (sites.boundary + length // 2 <= record.length)))
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in Sites.__dataclass_fields__)
    return Sites(*columns)


def bases_score(labeller: Labeller, kind: str) -> tuple[Score, int]:
    """(calibrated log-odds of a type against neither at the exon's base of the boundary, nt of a window)."""
    shape, column = labeller.model.shape, TYPES.index(kind)
    half = -(-(shape.reach + shape.tile) // shape.step) * shape.step
    slope, offset = labeller.calibration[column]

    def score(windows: np.ndarray) -> np.ndarray:
        return slope * labeller.log_odds(windows)[:, half - (kind == "donor"), column] + offset

    return score, 2 * half


def strongest(store: TokenStore, sites: Sites, score: Score, length: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows uint8 [n, length], logits [n]) of the sites of the highest score, at most `limit`, highest first."""
    windows = cut_windows(store, sites, length)
    logits = np.concatenate([score(windows[at : at + 64]) for at in range(0, len(windows), 64)])
    order = np.argsort(-logits, kind="stable")[:limit]
    return windows[order], logits[order]

"""Which bases a model's call of a splice site rests on: in-silico mutagenesis of sites of a genome."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from simcsp.genome.regions import Span
from simcsp.metrics.mutagenesis import Score
from simcsp.model.bases import TYPES, Labeller
from simcsp.text.alphabet import decode
from simcsp.text.sites import KINDS, Sites, cut_windows
from simcsp.text.store import TokenStore

PLACES = {"donor": (10, 20), "acceptor": (50, 10)}
"""nt before and after the boundary, as the strand is read: a branch point lies 18 to 45 nt before an acceptor's."""

BRANCH_POINT = (18, 44)
"""nt from a branch point's A to the acceptor's boundary, where it is looked for; most lie some 26 nt from it (Mercer et
al., Genome Research 25, 290, 2015)."""
BRANCH_ROOM = 6
"""nt shown on either side of a branch point."""
_USUAL = 26
_MOTIF = re.compile("(?=[CT]T[ACGT]A[CT])")  # yUnAy: Gao et al., Nucleic Acids Research 36, 2257, 2008


def annotated_sites(
    annotated: dict[tuple[str, str], np.ndarray], spans: Sequence[Span], store: TokenStore, kind: str, length: int
) -> Sites:
    """The sites of a type, of `read_truth`, that lie in the spans, with `length` nt about them on their record."""
    number_of = {(item.type, item.strand): number for number, item in enumerate(KINDS)}
    parts, spans_of = [], {}
    for number, first, last in spans:
        spans_of.setdefault(number, []).append((first, last))
    for number in sorted(spans_of):
        record = store.records[number]
        rows = annotated.get((record.name, kind), np.empty((0, 2), dtype=np.int64))
        kinds = np.where(rows[:, 1] == 1, number_of[kind, "-"], number_of[kind, "+"])
        sites = Sites(np.full(len(rows), number), rows[:, 0], kinds)
        inside = np.zeros(len(sites), dtype=bool)
        for first, last in spans_of[number]:
            inside |= (first <= sites.position) & (sites.position <= last)
        inside &= (sites.boundary >= length // 2) & (sites.boundary + length // 2 <= record.length)
        parts.append(sites.take(inside))
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


def about_branch_points(texts: np.ndarray, drops: np.ndarray, boundary: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Of acceptors: (texts uint8 [k, 13] amid which is the A of a YTNAY, their drops [k, 13, 4], mean of other As').

    A branch point's place differs from intron to intron, so that means by distance from the boundary hide it. texts:
    uint8 [n, places] that hold BRANCH_POINT and BRANCH_ROOM before `boundary`; drops: [n, places, 4] of
    `substitution_drops`. Of several motifs the nearest to the usual distance is taken. The other As lie as near, before
    a C or T too (one before a G would make an AG), and in no such motif; NaN without any.
    """
    rows, places, others = [], [], []
    near = range(boundary - BRANCH_POINT[1], boundary - BRANCH_POINT[0] + 1)
    for row, text in enumerate(map(decode, texts)):
        found = [match.start() + 3 for match in _MOTIF.finditer(text) if match.start() + 3 in near]
        if found:
            rows.append(row)
            places.append(min(found, key=lambda place: abs(boundary - place - _USUAL)))
        taken = {place + step for place in found for step in range(-3, 2)}
        others += [
            drops[row, place].sum() / 3
            for place in near
            if text[place] == "A" and text[place + 1] in "CT" and place not in taken
        ]
    around = np.array(places, dtype=np.int64)[:, None] + np.arange(-BRANCH_ROOM, BRANCH_ROOM + 1)
    at = np.array(rows, dtype=np.int64)[:, None], around
    return texts[at], drops[at], float(np.mean(others)) if others else np.nan

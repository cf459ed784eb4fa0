"""How well scores find annotated sites."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simcsp.genome.scan import Scored
from simcsp.metrics.scores import ap_interval, score_against
from simcsp.text.sites import MINUS, SITES, TYPE, Sites
from simcsp.text.store import TokenStore

BLOCK = 10_000  # nt resampled together for the interval of AP: about a gene


def within(
    annotated: dict[tuple[str, str], np.ndarray], spans: Sequence[tuple[int, int, int]], store: TokenStore
) -> dict[tuple[str, str], np.ndarray]:
    """The annotated sites whose position lies in one of the spans (record, first, last position), of `find_spans`."""
    spans_of: dict[str, list[tuple[int, int]]] = {}
    for number, first, last in spans:
        spans_of.setdefault(store.records[number].name, []).append((first, last))
    kept = {}
    for (name, kind), sites in annotated.items():
        # the exon's base, 1-based: the one before the boundary where the exon lies left of it
        exon_left = (sites[:, 1] == 0) == (kind == "donor")
        position = sites[:, 0] + ~exon_left
        inside = np.zeros(len(sites), dtype=bool)
        for first, last in spans_of.get(name, ()):
            inside |= (first <= position) & (position <= last)
        kept[name, kind] = sites[inside]
    return kept


class Truth:
    """Scores of all candidates beside what is annotated there. Holds 13 bytes or so for each candidate."""

    def __init__(self, annotated: dict[tuple[str, str], np.ndarray], store: TokenStore) -> None:
        """annotated: of `read_truth`."""
        self.annotated, self.store = annotated, store
        self.seen: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = {}

    def add(self, block: Scored) -> None:
        for number in np.unique(block.sites.record):
            name = self.store.records[number].name
            for kind in SITES:
                of_kind = block.take((block.sites.record == number) & (TYPE[block.sites.kind] == kind))
                if len(of_kind):
                    place = number * (1 << 32) + of_kind.sites.boundary // BLOCK
                    row = self._labels(name, kind, of_kind.sites), place, of_kind.score.astype(np.float32)
                    self.seen.setdefault((name, kind), []).append(row)

    def _labels(self, name: str, kind: str, sites: Sites) -> np.ndarray:
        known = self.annotated.get((name, kind), np.empty((0, 2), dtype=np.int64))
        return np.isin(2 * sites.boundary + MINUS[sites.kind], 2 * known[:, 0] + known[:, 1])

    def table(self) -> dict[str, dict[str, float]]:
        """{'record type': annotated, candidates, sites, ap, recall, topk, ap_low, ap_high}, and of all records.

        annotated: all sites that were given; candidates: scored ones; sites: annotated ones among them. ap_low,
        ap_high: 95 % interval, blocks of 10 kb resampled; missing where all sites lie in one. Scores are missing where
        there is no site.
        """
        rows = {}
        names = list(dict.fromkeys(name for name, _ in self.seen))
        for label, group in [(name, [name]) for name in names] + [("all", names)] * (len(names) > 1):
            for kind in SITES:
                parts = [part for name in group for part in self.seen.get((name, kind), [])]
                if not parts:
                    continue
                labels, place, score = (np.concatenate(column) for column in zip(*parts))
                annotated = sum(len(self.annotated.get((name, kind), ())) for name in group)
                row = rows[f"{label} {kind}"] = {"annotated": annotated, "candidates": len(labels)}
                row["sites"] = int(labels.sum())
                if row["sites"]:
                    row |= score_against(labels, score)
                    row |= {f"ap_{end}": value for end, value in ap_interval(labels, score, place, seed=0).items()}
        return rows

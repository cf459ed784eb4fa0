"""How well scores find annotated sites, beside a weight matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simcsp.genome.scan import Scored
from simcsp.labels.spliceator import Windows
from simcsp.metrics.scores import ap_interval, score_against
from simcsp.text.kmers import KMER, KmerSet, kmer_hashes
from simcsp.text.sites import MINUS, SITES, TYPE, Sites, cut_windows
from simcsp.text.store import TokenStore
from simcsp.text.weight_matrix import WeightMatrix

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
    """Scores of all candidates beside what is annotated there, and the weight matrix of each type as the floor.

    Candidates whose window shares 80 bases in a row (or all of it, where it is shorter) with a training window of the
    run, as its models saw them, are left out. Where the training windows are not there (None), there is no weight
    matrix, and nothing is left out. Holds 17 bytes or so for each candidate.
    """

    def __init__(
        self,
        annotated: dict[tuple[str, str], np.ndarray],
        store: TokenStore,
        training: Windows | None,
        length: int,
        flank: int,
    ) -> None:
        """annotated: of `read_truth`. length: nt of a window. flank: nt the weight matrix sees on either side."""
        self.annotated, self.store, self.length = annotated, store, length
        self.kmers: KmerSet | None = None
        self.floors: dict[str, WeightMatrix] = {}
        self.seen: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = {}
        if training is None:
            return
        ids = training.crop(length)
        self.kmers = KmerSet.of([ids], min(KMER, length))
        # Of its own type only: that of a candidate is known by its motif, so this is the stronger floor.
        self.floors = {
            site: WeightMatrix(flank).fit(ids[mine], training.labels[mine], training.sites[mine])
            for site in SITES
            if (mine := training.of_site(site)).size
        }

    def add(self, block: Scored) -> None:
        """Take note of a block's scores."""
        windows = cut_windows(self.store, block.sites, self.length)
        trained = self._trained(windows)
        for number in np.unique(block.sites.record):
            name = self.store.records[number].name
            for kind in SITES:
                mine = np.flatnonzero((block.sites.record == number) & (TYPE[block.sites.kind] == kind))
                if len(mine):
                    labels = self._labels(name, kind, block.sites.take(mine))
                    scores = [block.score[mine]]
                    scores += [self.floors[kind].predict(windows[mine])] if kind in self.floors else []
                    place = number * (1 << 32) + block.sites.boundary[mine] // BLOCK
                    row = (labels, trained[mine], place, *(values.astype(np.float32) for values in scores))
                    self.seen.setdefault((name, kind), []).append(row)

    def _trained(self, windows: np.ndarray) -> np.ndarray:
        """bool [n]: which windows share a k-mer with the training windows, which are in the set on both strands."""
        found = np.zeros(len(windows), dtype=bool)
        if self.kmers is None:
            return found
        for start in range(0, len(windows), 1 << 12):
            hashes, known = kmer_hashes(windows[start : start + (1 << 12)], self.kmers.k)
            where, _ = self.kmers.find(hashes.ravel(), known.ravel())
            found[start + where // hashes.shape[1]] = True
        return found

    def _labels(self, name: str, kind: str, sites: Sites) -> np.ndarray:
        known = self.annotated.get((name, kind), np.empty((0, 2), dtype=np.int64))
        return np.isin(2 * sites.boundary + MINUS[sites.kind], 2 * known[:, 0] + known[:, 1])

    def table(self) -> dict[str, dict[str, float]]:
        """{'record type': annotated, candidates, sites, ap, recall, topk, ap_low, ap_high, and the first three of the
        matrix as pwm_*}, and of all records together.

        annotated: all sites that were given. candidates, sites: those that were scored and share nothing with the
        training windows; sites are annotated ones. trained: candidates left out because they do. ap_low, ap_high: 95 %
        interval, blocks of 10 kb resampled; missing where all sites lie in one. Scores are missing where there is no
        site.
        """
        rows = {}
        names = list(dict.fromkeys(name for name, _ in self.seen))
        for label, group in [(name, [name]) for name in names] + [("all", names)] * (len(names) > 1):
            for kind in SITES:
                parts = [part for name in group for part in self.seen.get((name, kind), [])]
                if not parts:
                    continue
                labels, trained, place, mean, *floor = (np.concatenate(column) for column in zip(*parts))
                new = ~trained
                row = rows[f"{label} {kind}"] = {
                    "annotated": sum(len(self.annotated.get((name, kind), ())) for name in group),
                    "candidates": int(new.sum()),
                    **({} if self.kmers is None else {"trained": int(trained.sum())}),
                    "sites": int(labels[new].sum()),
                }
                if not row["sites"]:
                    continue
                row |= score_against(labels[new], mean[new])
                interval = ap_interval(labels[new], mean[new], place[new], seed=0)
                row |= dict(zip(("ap_low", "ap_high"), interval or ()))
                for scores in floor:  # none where there are no training windows
                    row |= {f"pwm_{key}": value for key, value in score_against(labels[new], scores[new]).items()}
        return rows

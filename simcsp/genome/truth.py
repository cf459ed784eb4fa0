"""How well scores find annotated sites, beside a weight matrix."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

from simcsp.genome.scan import Scored, cut_windows
from simcsp.labels.spliceator import Windows
from simcsp.text.annotation import introns, other_spelling, read_annotation
from simcsp.text.kmers import KMER, KmerSet, kmer_hashes
from simcsp.text.sites import MINUS, SITES, TYPE, Sites, intron_ends
from simcsp.text.store import TokenStore
from simcsp.text.weight_matrix import WeightMatrix
from utils.errors import InputError
from utils.files import is_whole_number, open_binary

# -- against annotation ------------------------------------------------------------------------------------------------


def read_truth(path: str | Path, store: TokenStore) -> dict[tuple[str, str], np.ndarray]:
    """{(record, type): int64 [n, 2] of boundary and minus strand (0 or 1), each once} of annotated introns.

    path: GTF or GFF3, or a table of introns: record, start, end (0-based, half-open), strand, and more columns or not;
    a header line may come first. Plain or gzipped. Raises InputError with file and line for what is malformed, lies
    beyond its record or has names that the FASTA has not.
    """
    lengths = {record.name: record.length for record in store.records}
    if _columns(path) == 9:
        rows = [
            (intron.chrom, intron.start, intron.end, intron.strand)
            for intron in introns(read_annotation(path, lengths))
        ]
    else:
        rows = list(_intron_rows(path, lengths))
    ends: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for name, start, end, strand in rows:
        for kind, boundary in zip(SITES, intron_ends(start, end, strand)):
            ends.setdefault((name, kind), set()).add((boundary, int(strand == "-")))
    return {key: np.array(sorted(found), dtype=np.int64) for key, found in ends.items()}


def within(
    annotated: dict[tuple[str, str], np.ndarray], spans: Sequence[tuple[int, int, int]], store: TokenStore
) -> dict[tuple[str, str], np.ndarray]:
    """The annotated sites whose position lies in one of the spans (record, first, last position), of `find_spans`."""
    kept = {}
    for (name, kind), sites in annotated.items():
        # the exon's base, 1-based: the one before the boundary where the exon lies left of it
        exon_left = (sites[:, 1] == 0) == (kind == "donor")
        position = sites[:, 0] + ~exon_left
        inside = np.zeros(len(sites), dtype=bool)
        for number, first, last in spans:
            if store.records[number].name == name:
                inside |= (first <= position) & (position <= last)
        kept[name, kind] = sites[inside]
    return kept


def _columns(path: str | Path) -> int:
    """Tab-separated columns of the first line that is no comment; 0 in an empty file."""
    with open_binary(path) as handle:
        for line in io.TextIOWrapper(handle, encoding="utf-8", errors="replace"):
            if line.strip() and not line.startswith(("#", "track", "browser")):
                return len(line.split("\t"))
    return 0


def _intron_rows(path: str | Path, lengths: dict[str, int]) -> Iterator[tuple[str, int, int, str]]:
    names = set()
    with open_binary(path) as handle:
        for number, line in enumerate(io.TextIOWrapper(handle, encoding="utf-8", errors="replace"), start=1):
            fields = line.split()
            if not fields or line.startswith("#") or (not names and fields[1:2] and not is_whole_number(fields[1])):
                continue  # the header
            if len(fields) < 4 or not all(map(is_whole_number, fields[1:3])) or fields[3] not in ("+", "-"):
                raise InputError(
                    f"{path}, line {number}: expected record, start, end, strand of an intron, or a GTF or GFF3"
                )
            name, start, end = fields[0], int(fields[1]), int(fields[2])
            names.add(name)
            if name not in lengths:
                continue
            if not start < end <= lengths[name]:
                raise InputError(
                    f"{path}, line {number}: {start} to {end} is no stretch of {name} ({lengths[name]} nt)"
                )
            yield name, start, end, fields[3]
    if not names & lengths.keys():
        raise InputError(foreign_names(path, names, lengths))


def foreign_names(path: str | Path, names: Collection[str], known: Collection[str]) -> str:
    """What to say of a file none of whose record names are in the FASTA."""
    if not names:
        return f"{path} holds no row: the file is empty or of another kind"
    for name in sorted(names):
        if (twin := other_spelling(name, known)) is not None:
            return f"{path}: record {name!r} is {twin!r} in the FASTA: give both files the same names"
    return (
        f"{path}: no record in common with the FASTA ({min(names)!r} here, {next(iter(known))!r} there): "
        "take the files of one assembly"
    )


def score_against(labels: np.ndarray, scores: np.ndarray, discovery: float = 0.1) -> dict[str, float]:
    """How well scores [n] find the sites among candidates, labels [n] in {0, 1} with a 1 among them.

    ap: average precision. recall: the largest share of the sites found at a threshold where at most `discovery` of the
    calls are false (recall at 10 % false discovery).
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        "ap": float(average_precision_score(labels, scores)),
        "recall": float(recall[precision >= 1 - discovery].max()),
    }


class Truth:
    """Scores of all candidates beside what is annotated there, and the weight matrix of each type as the floor.

    Candidates whose window shares 80 bases in a row (or all of it, where it is shorter) with a training window of the
    run, as its models saw them, are left out. Where the training windows are not there (None), there is no weight
    matrix, and nothing is left out. Holds nine bytes or so for each candidate.
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
                    scores = [block.mean[mine]]
                    scores += [self.floors[kind].predict(windows[mine])] if kind in self.floors else []
                    row = (labels, trained[mine], *(values.astype(np.float32) for values in scores))
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
        """{'record type': annotated, candidates, sites, ap, recall, pwm_ap, pwm_recall}, and of all records together.

        annotated: all sites that were given. candidates, sites: those that were scored and share nothing with the
        training windows; sites are annotated ones. trained: candidates left out because they do. Scores are missing
        where there is no site.
        """
        rows = {}
        names = list(dict.fromkeys(name for name, _ in self.seen))
        for label, group in [(name, [name]) for name in names] + [("all", names)] * (len(names) > 1):
            for kind in SITES:
                parts = [part for name in group for part in self.seen.get((name, kind), [])]
                if not parts:
                    continue
                labels, trained, mean, *floor = (np.concatenate(column) for column in zip(*parts))
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
                for scores in floor:  # none where there are no training windows
                    row |= {f"pwm_{key}": value for key, value in score_against(labels[new], scores[new]).items()}
        return rows

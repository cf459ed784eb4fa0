"""How much of the evaluation lies in the pre-training text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.labels.motifs import load_motifs, read_bed
from simcsp.labels.spliceator import benchmark_species, load_benchmark, load_training
from simcsp.text.alphabet import N
from simcsp.text.corpora import Corpus
from simcsp.text.kmers import KMER, KmerSet, kmers_in_text, windows_holding
from simcsp.text.sampler import covered

_PIECE = 4_000_000  # bases of text that are compared at a time


def sites_in_text(
    records: np.ndarray, starts: np.ndarray, ends: np.ndarray, window: int, intervals: Mapping[str, np.ndarray]
) -> np.ndarray:
    """bool [n]: motif sites whose window has at least one base in the text, by coordinates.

    records [n] and 0-based half-open starts, ends [n] of the sites; their windows are [left, left + window) with
    left = (start + end) // 2 - window // 2, as they are cut. intervals: {record: int [m, 2]} of the text, 0-based
    half-open, in any order. Only meaningful when both refer to the same genome build.
    """
    left = (starts + ends) // 2 - window // 2
    inside = np.zeros(len(left), dtype=bool)
    for record in set(records) & {name for name in intervals if len(intervals[name])}:
        begin, end = intervals[record][np.argsort(intervals[record][:, 0])].T
        reach = np.maximum.accumulate(end)  # of those that begin so far, the furthest end
        rows = np.flatnonzero(records == record)
        before = np.searchsorted(begin, left[rows] + window)  # how many begin left of the window's end
        inside[rows] = (before > 0) & (reach[before - 1] > left[rows])
    return inside


@dataclass(frozen=True)
class Overlap:
    """How much of one part of the evaluation lies in the pre-training text; str() is a sentence that says it.

    name: which part, such as 'Human donor negative'. count: windows or sites. shared: how many of them lie in the
    text, None where that cannot be said. how: what was compared.
    """

    name: str
    count: int
    shared: int | None
    how: str

    @property
    def share(self) -> float:
        """NaN where it cannot be said."""
        return self.shared / self.count if self.shared is not None and self.count else float("nan")

    def __str__(self) -> str:
        if self.shared is None:
            return f"{self.name}: {self.how}."
        return f"{self.name}: {self.shared:,} of {self.count:,} ({self.share:.1%}) {self.how}."


def overlap_report(
    texts: Iterable[np.ndarray],
    windows: Mapping[str, np.ndarray],
    sites: Mapping[str, np.ndarray] | None = None,
) -> list[Overlap]:
    """How much of the evaluation lies in the pre-training text, part by part; the text is read once.

    texts: uint8 [length] each, see `shared_windows`. windows: {name: uint8 [n, L]}, compared by shared k-mers. sites:
    {name: bool [n]} of `sites_in_text`, where coordinates are known.
    """
    kmers = kmers_in_text(KmerSet.of(windows.values(), KMER), texts)
    report = [
        Overlap(name, len(inside), int(np.sum(inside)), "lie in the pre-training text by their coordinates")
        for name, inside in (sites or {}).items()
    ]
    for name, ids in windows.items():
        if ids.shape[1] < KMER:
            how = f"windows of {ids.shape[1]} nt cannot share {KMER} bases, so their overlap with the text is not known"
            report.append(Overlap(name, len(ids), None, how))
        else:
            how = f"share {KMER} bases in a row with the pre-training text"
            report.append(Overlap(name, len(ids), int(windows_holding(ids, kmers).sum()), how))
    return report


BENCHMARK = "benchmark "


def evaluation_windows(data: DataConfig) -> dict[str, np.ndarray]:
    """{part of the evaluation: uint8 [n, length]}: every window that a score may be measured on, uncropped."""
    parts = {}
    if data.spliceator is not None:
        sets = {"training": load_training(data.spliceator, data.negatives, data.context)}
        for species in benchmark_species(data.spliceator):
            sets[f"{BENCHMARK}{species}"] = load_benchmark(data.spliceator, species, data.context)
        for name, windows in sets.items():
            for stratum in np.unique(windows.strata):
                parts[f"{name} {stratum}"] = windows.ids[windows.strata == stratum]
    if (motifs := load_motifs(data)) is not None:
        parts["motif sites"] = motifs.ids
    return parts


def hidden_windows(data: DataConfig) -> dict[str, np.ndarray] | None:
    """{part: uint8 [n, length]} of the windows that data.hide keeps out of the text; None: nothing is hidden."""
    if data.hide == "nothing":
        return None
    parts = evaluation_windows(data)
    if data.hide == "benchmarks":
        parts = {name: ids for name, ids in parts.items() if name.startswith(BENCHMARK)}
        if not parts:
            raise InputError(f"data.hide (benchmarks): data.spliceator ({data.spliceator}) has no Benchmarks folder")
    if not parts:
        raise InputError("data.hide (evaluation): neither data.spliceator nor data.motif_bed is set")
    return parts


def measure_overlap(data: DataConfig, corpus: Corpus) -> list[Overlap]:
    """How much of every part of the evaluation lies in the text: motif sites by coordinates where both are of the same
    FASTA file (and are not hidden, which coordinates do not show), windows by shared 80-mers."""
    store = corpus.store
    stretches = covered(corpus.intervals)
    parts, sites = evaluation_windows(data), {}
    files = [Path(path).resolve() for path in data.fasta]
    of_text = data.motif_fasta is not None and Path(data.motif_fasta).resolve() in files
    of_text &= data.hide != "evaluation"
    if of_text and data.motif_bed is not None and not data.motif_bed.endswith(".npz"):
        del parts["motif sites"]
        source = files.index(Path(data.motif_fasta).resolve())
        bed = read_bed(data.motif_bed)
        inside = {}
        for record in store.records:
            if record.source == source:
                on_record = stretches - record.offset
                starts = on_record[:, 0]
                inside[record.source_name] = on_record[(starts >= 0) & (starts < record.length)]
        columns = (np.array([getattr(site, name) for site in bed]) for name in ("chrom", "start", "end"))
        sites["motif sites"] = sites_in_text(*columns, data.motif_window, inside)
    return overlap_report(_joined(store.ids[start:end] for start, end in stretches), parts, sites)


def _joined(stretches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stretches of ids in pieces of some Mb with an N between two, which no k-mer spans: crops are short and many. A
    longer one, such as a chromosome, is not copied: it lies in the mapped file."""
    piece, length = [], 0
    for stretch in stretches:
        if len(stretch) > _PIECE:
            yield stretch
            continue
        piece += [stretch, np.array([N], dtype=np.uint8)]
        length += len(stretch)
        if length > _PIECE:
            yield np.concatenate(piece)
            piece, length = [], 0
    if piece:
        yield np.concatenate(piece)

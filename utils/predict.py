"""What a trained classifier says about a genome: every GT and AG (or every position), both strands, by the mean of the
folds' models; as TSV, BED or bedGraph; and how well that finds annotated sites.

A site is a boundary between exon and intron. Boundary b lies before base b of the record (0-based); the model sees the
window [b - length / 2, b + length / 2) on the strand of the site, as it saw Spliceator's: a donor's GT begins after the
centre, an acceptor's AG ends before it. `position` is the exon's base at the boundary, 1-based: the last of the exon
before a donor, the first of the exon after an acceptor, which are the exon ends of a GTF (and what SpliceAI counts).
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve

from utils.annotation import introns, other_spelling, read_annotation
from utils.backbone import check_length
from utils.classifier import Classifier, load_classifier, predict
from utils.config import Config
from utils.embed import Autocast
from utils.errors import InputError
from utils.floors import WeightMatrix
from utils.overlap import KMER, KmerSet, kmer_hashes
from utils.sequence import A, C, G, N, T, TokenStore, decode, open_binary, reverse_complement
from utils.spliceator import SITES, Windows

FORMATS = ("tsv", "bed", "bedgraph")
COLUMNS = ("chrom", "position", "strand", "type", "score", "sd", "motif")
_STRETCH = 1 << 16  # positions searched at a time
_BLOCK = 1 << 14  # sites scored at a time, at least: memory is bounded, and few batches are left part empty
_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}  # a batch: what keeps a CPU's caches warm, what keeps a GPU busy


class Kind(NamedTuple):
    """A type of site on a strand, as it stands in the forward text."""

    type: str
    strand: str
    motif: tuple[int, int]
    """Ids of the two bases of the intron's end, on the forward strand."""
    exon_left: bool
    """Whether the exon lies left of the boundary, on the forward strand."""


KINDS = (
    Kind("donor", "+", (G, T), True),
    Kind("donor", "-", (A, C), False),
    Kind("acceptor", "+", (A, G), False),
    Kind("acceptor", "-", (C, T), True),
)
TYPE = np.array([kind.type for kind in KINDS])
MINUS = np.array([kind.strand == "-" for kind in KINDS])
EXON_LEFT = np.array([kind.exon_left for kind in KINDS])


@dataclass(frozen=True)
class Sites:
    """Sites on the records of a store; all arrays have one entry a site.

    record: index among the store's records; boundary: int64, 0-based; kind: index into KINDS.
    """

    record: np.ndarray
    boundary: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.boundary)

    def take(self, index: np.ndarray) -> Sites:
        """The sites of an index or mask, in its order."""
        return Sites(self.record[index], self.boundary[index], self.kind[index])

    @property
    def position(self) -> np.ndarray:
        """The exon's base at the boundary, 1-based."""
        return self.boundary + ~EXON_LEFT[self.kind]

    @property
    def motif_start(self) -> np.ndarray:
        """The first of the two motif bases on the forward strand, 0-based."""
        return np.where(EXON_LEFT[self.kind], self.boundary, self.boundary - 2)


# -- which sites -------------------------------------------------------------------------------------------------------


def find_sites(ids: np.ndarray, types: Sequence[str], every: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(boundary, kind) of each site of a text uint8 [length] on both strands, ascending by the exon's base.

    types: 'donor', 'acceptor' or both. every: whatever two bases stand there, not GT and AG alone.
    """
    boundaries, kinds = [], []
    for number, kind in enumerate(KINDS):
        if kind.type in types:
            first, second = kind.motif
            here = np.ones(max(len(ids) - 1, 0), bool) if every else (ids[:-1] == first) & (ids[1:] == second)
            boundaries.append(np.flatnonzero(here) + (0 if kind.exon_left else 2))
            kinds.append(np.full(len(boundaries[-1]), number))
    boundary, kind = np.concatenate(boundaries), np.concatenate(kinds)
    order = np.lexsort((kind, boundary + ~EXON_LEFT[kind]))
    return boundary[order], kind[order]


def n_counts(ids: np.ndarray, length: int) -> np.ndarray:
    """int [len(ids) - length + 1]: how many N each window of `length` nt holds."""
    total = np.concatenate([[0], np.cumsum(ids == N)])
    return total[length:] - total[:-length]


def find_spans(regions: Sequence[str], store: TokenStore) -> list[tuple[int, int, int]]:
    """(record, first, last position) to be searched, in the store's order, each position once; no region: all.

    regions: 'chr1', or 'chr1:1,000-2,000' (counted from 1, both ends included). Raises InputError for a record that the
    FASTA lacks, or numbers that are no stretch of it.
    """
    if not regions:
        return [(number, 1, record.length) for number, record in enumerate(store.records)]
    spans: list[tuple[int, int, int]] = []
    for number, first, last in sorted(_parse_region(word, store) for word in regions):
        if spans and spans[-1][0] == number and first <= spans[-1][2] + 1:
            spans[-1] = (number, spans[-1][1], max(last, spans[-1][2]))
        else:
            spans.append((number, first, last))
    return spans


def _parse_region(word: str, store: TokenStore) -> tuple[int, int, int]:
    name, colon, stretch = (word, "", "") if word in store.by_name else word.rpartition(":")
    name = name if colon else word
    if name not in store.by_name:
        twin = other_spelling(name, store.by_name)
        hint = f"it is {twin!r} there" if twin else f"its first record is {store.records[0].name!r}"
        raise InputError(f"--region {word}: no record {name!r} in {', '.join(store.manifest['sources'])}: {hint}")
    record = store.by_name[name]
    number = store.records.index(record)
    if not colon:
        return number, 1, record.length
    start, dash, end = stretch.replace(",", "").partition("-")
    end = end if dash else start
    if not (start.isdecimal() and end.isdecimal()) or not 1 <= int(start) <= int(end):
        raise InputError(f"--region {word}: expected NAME:START-END, counted from 1, both ends included")
    if int(start) > record.length:
        raise InputError(f"--region {word}: {name} has {record.length} nt only")
    return number, int(start), min(int(end), record.length)


def candidates(
    store: TokenStore,
    spans: Sequence[tuple[int, int, int]],
    types: Sequence[str],
    length: int,
    every: bool,
    max_n_share: float,
    skipped: Counter[str],
) -> Iterator[tuple[Sites, int]]:
    """(sites, positions passed) in blocks, ascending along each of the spans (record, first, last position).

    Sites whose window of `length` nt reaches beyond their record, or holds a larger share of N, are left out and
    counted in `skipped`. Of the store no more is in memory than a block needs.
    """
    waiting: list[Sites] = []
    passed = 0
    for number, first, last in spans:
        for low in range(first, last + 1, _STRETCH):
            high = min(low + _STRETCH - 1, last)
            waiting.append(_sites_between(store, number, low, high, types, length, every, max_n_share, skipped))
            passed += high - low + 1
            if sum(map(len, waiting)) >= _BLOCK:
                yield _joined(waiting), passed
                waiting, passed = [], 0
    if waiting:
        yield _joined(waiting), passed


def _joined(parts: list[Sites]) -> Sites:
    return Sites(*(np.concatenate([getattr(part, name) for part in parts]) for name in Sites.__dataclass_fields__))


def _sites_between(
    store: TokenStore,
    number: int,
    low: int,
    high: int,
    types: Sequence[str],
    length: int,
    every: bool,
    max_n_share: float,
    skipped: Counter[str],
) -> Sites:
    """Sites of one record whose position is in [low, high]."""
    record, half = store.records[number], length // 2
    begin, end = max(low - half - 4, 0), min(high + half + 4, record.length)
    ids = store.fetch(record.name, begin, end)
    boundary, kind = find_sites(ids, types, every)
    sites = Sites(np.full(len(boundary), number), boundary + begin, kind)
    sites = sites.take((sites.position >= low) & (sites.position <= high))
    fits = (sites.boundary >= half) & (sites.boundary + half <= record.length)
    skipped[f"window of {length} nt reaches beyond the record"] += int((~fits).sum())
    sites = sites.take(fits)
    if len(sites):
        known = n_counts(ids, length)[sites.boundary - half - begin] <= max_n_share * length
        skipped[f"more than {max_n_share:.0%} of the window is N"] += int((~known).sum())
        sites = sites.take(known)
    return sites


def cut_windows(store: TokenStore, sites: Sites, length: int) -> np.ndarray:
    """uint8 [n, length]: what the model sees of each site, on its strand."""
    offsets = np.array([record.offset for record in store.records])[sites.record]
    windows = store.windows(offsets + sites.boundary - length // 2, length)
    minus = MINUS[sites.kind]
    windows[minus] = reverse_complement(windows[minus])
    return windows


# -- the ensemble ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ensemble:
    """Fine-tuned models of one arm; the score of a site is the mean of their P(site).

    groups: (types of site that they score, models). length: nt of a window.
    """

    groups: list[tuple[tuple[str, ...], list[Classifier]]]
    length: int
    batch_size: int
    autocast: Autocast = nullcontext

    @property
    def types(self) -> tuple[str, ...]:
        """What can be scored: 'donor', 'acceptor' or both."""
        return tuple(kind for types, _ in self.groups for kind in types)

    @property
    def members(self) -> int:
        """Models that score a site, at most."""
        return max(len(models) for _, models in self.groups)

    def score(self, windows: np.ndarray, types: np.ndarray) -> np.ndarray:
        """P(site) by each model, float32 [members, n], of windows uint8 [n, length] of these types [n].

        NaN beyond the models that score a type, where folds are missing. Equal windows are encoded once.
        """
        scores = np.full((self.members, len(windows)), np.nan, dtype=np.float32)
        for of_types, models in self.groups:
            mine = np.flatnonzero(np.isin(types, of_types))
            if not len(mine):
                continue
            rows = np.ascontiguousarray(windows[mine]).view(np.dtype((np.void, self.length))).ravel()
            _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
            distinct = windows[mine[first]]
            for number, model in enumerate(models):
                scores[number, mine] = predict(model, distinct, self.batch_size, self.autocast)[inverse]
        return scores


def mean_and_sd(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the models, float64 [n], of scores [members, n]; sd is NaN for a single one."""
    count = np.isfinite(scores).sum(axis=0)
    mean = np.nansum(scores, axis=0, dtype=np.float64) / count
    squares = np.nansum((scores - mean) ** 2, axis=0)
    return mean, np.sqrt(squares / np.where(count > 1, count - 1, np.nan))


def load_ensemble(
    folders: dict[str, list[Path]], config: Config, device: torch.device, batch_size: int | None, autocast: Autocast
) -> Ensemble:
    """Load classifier checkpoints by what they were fitted on: {'donor', 'acceptor' or 'both': folders}.

    Models fitted on one type score it; those fitted on both score what no others do. batch_size: None takes what suits
    the device. Raises InputError for windows that a model cannot take.
    """
    length, groups = config.data.context, {}
    for kind in ("donor", "acceptor"):
        site = kind if kind in folders else "both"
        if site in folders:
            groups.setdefault(site, []).append(kind)
    loaded = []
    for site, types in groups.items():
        models = [load_classifier(folder, config.model, config.finetune.dropout).to(device) for folder in folders[site]]
        for model in models:
            check_length(model.bert, length, "data.context")
            model.eval()
        loaded.append((tuple(types), models))
    batch_size = batch_size or max(_TOKENS[device.type] // (length + 2), 1)
    return Ensemble(loaded, length, batch_size, autocast)


# -- scores, and files of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Sites with the mean and the standard deviation of the models' P(site), float64 [n]."""

    sites: Sites
    mean: np.ndarray
    sd: np.ndarray

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, index: np.ndarray) -> Scored:
        """The entries of an index or mask, in its order."""
        return Scored(self.sites.take(index), self.mean[index], self.sd[index])


def score_sites(store: TokenStore, sites: Sites, ensemble: Ensemble) -> Scored:
    """The ensemble's scores of sites whose windows lie in the store."""
    windows = cut_windows(store, sites, ensemble.length)
    return Scored(sites, *mean_and_sd(ensemble.score(windows, TYPE[sites.kind])))


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when the block ends well; gzipped where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with gzip.open(aside, "wt") if path.suffix == ".gz" else open(aside, "w") as handle:
            yield handle
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_scores(
    handle: TextIO, form: str, store: TokenStore, blocks: Iterator[Scored], members: int, scratch: Path | None = None
) -> int:
    """Write blocks that ascend by position as they come; returns the number of sites.

    form: tsv, COLUMNS under a header line, by position. bed: six columns, the two motif bases, by start; score 1000 x
    mean, name TYPE|MEAN|SD. bedgraph: for each type and strand a track of the mean and one of the sd, at the exon's
    base, so that no two entries of a track overlap; tracks wait in `scratch` (None: the system's place) to be joined.
    sd is NA where a single model scores (bedgraph: no such track).
    """
    if form == "bedgraph":
        return _write_tracks(handle, store, blocks, members, scratch)
    if form == "tsv":
        handle.write("\t".join(COLUMNS) + "\n")
    count = 0
    for block in blocks if form == "tsv" else _by_start(blocks):
        handle.writelines(_tsv_rows(store, block) if form == "tsv" else _bed_rows(store, block))
        count += len(block)
    return count


def _tsv_rows(store: TokenStore, block: Scored) -> Iterator[str]:
    sites = block.sites
    offsets = np.array([record.offset for record in store.records])[sites.record]
    motifs = store.windows(offsets + sites.motif_start, 2)
    minus = MINUS[sites.kind]
    motifs[minus] = reverse_complement(motifs[minus])
    letters = decode(motifs.ravel())
    for i, (record, position, number) in enumerate(zip(sites.record, sites.position, sites.kind)):
        kind, motif = KINDS[number], letters[2 * i : 2 * i + 2]
        numbers = f"{block.mean[i]:.4f}\t{spread(block.sd[i])}"
        yield f"{store.records[record].name}\t{position}\t{kind.strand}\t{kind.type}\t{numbers}\t{motif}\n"


def _bed_rows(store: TokenStore, block: Scored) -> Iterator[str]:
    for i, (record, start, number) in enumerate(zip(block.sites.record, block.sites.motif_start, block.sites.kind)):
        kind, mean = KINDS[number], block.mean[i]
        name = f"{kind.type}|{mean:.4f}|{spread(block.sd[i])}"
        yield (f"{store.records[record].name}\t{start}\t{start + 2}\t{name}\t{round(1000 * mean)}\t{kind.strand}\n")


def spread(sd: float) -> str:
    """A standard deviation in text, NA where there is none."""
    return "NA" if np.isnan(sd) else f"{sd:.4f}"


def _by_start(blocks: Iterator[Scored]) -> Iterator[Scored]:
    """Blocks that ascend by position -> ascending by the motif's start."""
    waiting: Scored | None = None
    for block in blocks:
        if not len(block):
            continue
        block = block if waiting is None else _joined_scores(waiting, block)
        block = block.take(np.lexsort((block.sites.motif_start, block.sites.record)))
        last = block.sites.record == block.sites.record[-1]
        # A site that is still to come lies at this position or beyond, and its motif starts at most three bases before.
        ahead = last & (block.sites.motif_start >= block.sites.position[last].max() - 3)
        yield block.take(~ahead)
        waiting = block.take(ahead)
    if waiting is not None:
        yield waiting


def _joined_scores(first: Scored, second: Scored) -> Scored:
    mean, sd = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("mean", "sd"))
    return Scored(_joined([first.sites, second.sites]), mean, sd)


def _write_tracks(
    handle: TextIO, store: TokenStore, blocks: Iterator[Scored], members: int, scratch: Path | None
) -> int:
    whats = ("mean", "sd") if members > 1 else ("mean",)
    count = 0
    with ExitStack() as stack:
        tracks = {
            (number, what): stack.enter_context(tempfile.TemporaryFile("w+", dir=scratch))
            for number in range(len(KINDS))
            for what in whats
        }
        for block in blocks:
            sites, position = block.sites, block.sites.position
            count += len(block)
            for (number, what), track in tracks.items():
                values = getattr(block, what)
                track.writelines(
                    f"{store.records[sites.record[i]].name}\t{position[i] - 1}\t{position[i]}\t{values[i]:.4f}\n"
                    for i in np.flatnonzero((sites.kind == number) & np.isfinite(values))
                )
        for (number, what), track in tracks.items():
            if track.tell():
                kind = KINDS[number]
                described = f"{what} of P({kind.type}) over {members} model{'s' * (members > 1)}, {kind.strand} strand"
                handle.write(f'track type=bedGraph name="{kind.type} {kind.strand} {what}" description="{described}"\n')
                track.seek(0)
                shutil.copyfileobj(track, handle)
    return count


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
        for kind, boundary in (
            (("donor", start), ("acceptor", end)) if strand == "+" else (("donor", end), ("acceptor", start))
        ):
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
            if not fields or line.startswith("#") or (not names and fields[1:2] and not fields[1].isdecimal()):
                continue  # the header
            if len(fields) < 4 or not (fields[1].isdecimal() and fields[2].isdecimal()) or fields[3] not in ("+", "-"):
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

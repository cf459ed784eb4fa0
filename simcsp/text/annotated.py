"""The corpus annotated: crops centred on the text's own annotated sites and on GT / AG that no annotation calls one.

Four classes, several species as one: a decoy shares its two bases with the sites of its type, so that telling the
classes apart is more than reading GT or AG. Any other base of the same strands may be a fifth: what a model of every
base mostly meets.
"""

from __future__ import annotations

import numpy as np

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.text.sampler import Intervals, Span, acceptable
from simcsp.text.sites import SITES, boundaries, motif_boundaries
from simcsp.text.species import annotated_introns, by_source, join_intervals, source_shares, spans_of_source
from simcsp.text.store import Record, TokenStore, strand_ids

SITE_CLASSES = ("donor", "acceptor", "GT decoy", "AG decoy", "other base")
"""Index = class; the first two are sites, the last is there with data.other_bases alone."""
OTHER = SITE_CLASSES.index("other base")
FEWEST_SITES = 10  # of a type, over all species: below, there is nothing to learn from


def class_names(data: DataConfig) -> tuple[str, ...]:
    """The classes of the corpus annotated, in the order of their numbers."""
    return SITE_CLASSES if data.other_bases else SITE_CLASSES[:OTHER]


def annotated_crops(
    data: DataConfig, store: TokenStore, seed: int, max_shift: int = 0
) -> tuple[Intervals, np.ndarray, dict[str, object]]:
    """Crops of data.window + 2 max_shift nt on the sense strand, the site's boundary at their centre.

    Returns them as intervals, their classes [n] (index into SITE_CLASSES), and facts for the manifest. The odds give
    each class the same share, and each species its part of it, by its number of sites.
    Sites without their GT / AG, beyond the end of a record, or hidden (data.max_n_share) are left out. seed: of the
    decoys and other bases, data.decoys and data.other_bases for each site, drawn from the strands and records that have
    sites.
    """
    numbers, length = range(len(data.fasta)), data.window + 2 * max_shift
    parts, classes, left_out = zip(*(_crops_of_source(data, store, number, seed, length) for number in numbers))
    joined = join_intervals(parts)
    cls = np.concatenate(classes)
    source = np.repeat(numbers, [len(part) for part in parts])
    names = class_names(data)
    for number, name in enumerate(names):
        if (count := int((cls == number).sum())) < FEWEST_SITES:
            raise InputError(
                f"data.annotation: only {count} {name}s on the records to train on leave a whole crop of {data.window} "
                f"nt, at least {FEWEST_SITES} are needed (data.records, data.max_n_share, data.hide decide which)"
            )
    counts = np.array([[((source == i) & (cls == j)).sum() for j in range(len(names))] for i in range(len(parts))])
    shares = source_shares(counts[:, :2].sum(axis=1).astype(float))
    for number, class_number in np.argwhere((counts == 0) & (shares[:, None] > 0)).tolist():
        raise InputError(
            f"data.annotation: {data.annotation[number]} gives no {names[class_number]} with a whole crop of "
            f"{data.window} nt: leave that FASTA out"
        )
    odds = (shares[:, None] / len(names) / np.maximum(counts, 1))[source, cls]
    facts = {
        "shares": by_source(store, shares),
        "classes": {name: counts[:, number].tolist() for number, name in enumerate(names)},  # by source
        "annotated_sites_left_out": sum(left_out),
    }
    return Intervals(joined.start, joined.length, joined.minus, odds), cls, facts


def _crops_of_source(
    data: DataConfig, store: TokenStore, number: int, seed: int, length: int
) -> tuple[Intervals, np.ndarray, int]:
    rng, half = np.random.default_rng([seed, 5, number]), length // 2
    known = annotated_introns(store, data, number)
    spans: dict[int, list[Span]] = {}
    for span in spans_of_source(store, data, number):
        spans.setdefault(store.numbers[span.record.name], []).append(span)
    sites = boundaries(store, known)
    drawn: list[tuple[int, np.ndarray, Record, bool]] = []  # class, boundaries along the strand, record, reverse
    for i, (site, rows) in enumerate(sites.items()):
        strands = np.unique(rows[:, :2], axis=0).tolist()
        share = -(-data.decoys * len(rows) // max(len(strands), 1))
        for index, reverse in strands:
            record = store.records[index]
            is_site = _is_site(rows, index, reverse, record.length)
            places = motif_boundaries(strand_ids(store, record.name, bool(reverse)), site)
            places = places[_has_a_crop(spans[index], record.length, reverse, half)[places]]
            others = places[~is_site[places]]
            decoys = rng.choice(others, min(share, len(others)), replace=False)
            drawn += [(i, places[is_site[places]], record, bool(reverse))]
            drawn += [(i + len(SITES), np.sort(decoys), record, bool(reverse))]
    rows = np.concatenate(list(sites.values()))
    strands = np.unique(rows[:, :2], axis=0).tolist() if data.other_bases else []
    for index, reverse in strands:
        record = store.records[index]
        free = _has_a_crop(spans[index], record.length, reverse, half)
        others = np.flatnonzero(free & ~_is_site(rows, index, reverse, record.length))
        count = min(-(-data.other_bases * len(rows) // len(strands)), len(others))
        drawn.append((OTHER, np.sort(rng.choice(others, count, replace=False)), record, bool(reverse)))
    if not drawn:
        raise InputError(f"data.annotation: {data.annotation[number]} has no intron on the records to train on")
    firsts = [record.offset + (record.length - at - half if reverse else at - half) for _, at, record, reverse in drawn]
    start = np.concatenate(firsts)
    cls = np.concatenate([np.full(len(at), kind) for kind, at, *_ in drawn])
    minus = np.concatenate([np.full(len(at), reverse) for _, at, _, reverse in drawn])
    kept = acceptable(store, start, length, data.max_n_share)
    start, cls, minus = start[kept], cls[kept], minus[kept]
    crops = Intervals(start, np.full(len(start), length), minus, np.ones(len(start)))
    return crops, cls, len(rows) - int((cls < len(SITES)).sum())


def _is_site(rows: np.ndarray, number: int, reverse: int, length: int) -> np.ndarray:
    """bool [length + 1]: the boundaries of one strand that are sites. rows: as of `boundaries`."""
    marks = np.zeros(length + 1, dtype=bool)  # places are too many for set operations
    marks[rows[(rows[:, 0] == number) & (rows[:, 1] == reverse), 2]] = True
    return marks


def _has_a_crop(spans: list[Span], length: int, reverse: int, half: int) -> np.ndarray:
    """bool [length + 1]: the boundaries of one strand with `half` nt of a span on either side."""
    marks = np.zeros(length + 1, dtype=bool)
    for span in spans:
        marks[span.start + half : max(span.end - half + 1, 0)] = True
    return marks[::-1] if reverse else marks


class SiteSampler:
    """Crops with classes, batch by batch: a pure function of (seed, step), as WindowSampler is.

    Every batch holds each class and species at its share, to within one crop, and no crop twice.
    """

    def __init__(self, store: TokenStore, intervals: Intervals, classes: np.ndarray, seed: int = 0) -> None:
        self.store = store
        self.intervals = intervals
        self.seed = seed
        self.classes_of = classes
        self.length = int(intervals.length[0])
        offsets = np.array([record.offset for record in store.records])
        source = np.array([record.source for record in store.records])
        source = source[np.searchsorted(offsets, intervals.start, side="right") - 1]
        groups = np.unique(np.stack([classes, source]), axis=1).T
        self._members = [np.flatnonzero((classes == kind) & (source == number)) for kind, number in groups.tolist()]
        odds = np.array([intervals.odds[members].sum() for members in self._members])
        self._edges = np.append(0.0, np.cumsum(odds) / odds.sum())

    def __len__(self) -> int:
        """Distinct crops."""
        return len(self.intervals)

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The crops of a training step, uint8 [batch_size, length], on their sense strand."""
        index = self._index(step, batch_size)
        return self.store.windows(self.intervals.start[index], self.length, self.intervals.minus[index])

    def classes(self, step: int, batch_size: int) -> np.ndarray:
        """Their classes, int64 [batch_size]: index into SITE_CLASSES."""
        return self.classes_of[self._index(step, batch_size)]

    def _index(self, step: int, batch_size: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, step])
        # systematic sampling: whole numbers of crops whose mean over steps is the share
        counts = np.diff(np.floor(self._edges * batch_size + rng.random())).astype(int)
        for members, count in zip(self._members, counts):
            if count > len(members):
                raise InputError(
                    f"batch_size ({batch_size}): a batch takes {count} different crops of one class and species, and "
                    f"the text has {len(members)}: lower it, or raise data.decoys"
                )
        drawn = [rng.choice(members, count, replace=False) for members, count in zip(self._members, counts)]
        return np.concatenate(drawn)

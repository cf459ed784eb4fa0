"""Scores of plain sequences, which have no coordinates on a genome: each is read as it stands, by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simcsp.core.errors import InputError
from simcsp.model.bases import TYPES, Labeller
from simcsp.model.embedding import check_numbers
from simcsp.model.ensemble import Ensemble
from simcsp.text.alphabet import N, decode
from simcsp.text.sites import KINDS, find_sites
from simcsp.text.store import Record, TokenStore, padded, strand_ids

COLUMNS = ("name", "position", "type", "score", "motif")
WINDOW_COLUMNS = ("name", "type", "score", "sd")
UNTYPED = "site"
"""What a site is called by models that cannot tell a donor from an acceptor."""
_STEPS = 8  # lengths are rounded up to so many steps of the model, so that sequences share a batch
_BASES = 1 << 16  # read at a time
_WINDOWS = 1 << 12


def label_sequences(
    store: TokenStore, labeller: Labeller, types: tuple[str, ...], every: bool, min_score: float
) -> Iterator[tuple[list[str], int]]:
    """(rows under COLUMNS, bases read) in the order of the file: sites of each sequence by a model of bases.

    A site's position is that of the exon's base, counted from 1; what lies beyond the sequence counts as N.
    """
    waiting: list[Record] = []
    bases = 0
    for record in store.records:
        waiting.append(record)
        bases += _rounded(record, labeller)
        if bases >= _BASES or record is store.records[-1]:
            yield _rows(store, waiting, labeller, types, every, min_score), sum(record.length for record in waiting)
            waiting, bases = [], 0


def _rounded(record: Record, labeller: Labeller) -> int:
    """nt that a record is read in."""
    unit = _STEPS * labeller.model.shape.step
    return -(-record.length // unit) * unit


def _rows(
    store: TokenStore, records: list[Record], labeller: Labeller, types: tuple[str, ...], every: bool, min_score: float
) -> list[str]:
    shape, chances = labeller.model.shape, {}
    lengths = np.array([_rounded(record, labeller) for record in records])
    for length in np.unique(lengths):
        alike = [records[i] for i in np.flatnonzero(lengths == length)]
        if length > labeller.chunk:
            for record in alike:
                parts = [labeller.chunk_odds(store, record, n)[0] for n in range(-(-record.length // labeller.chunk))]
                chances[record.name] = labeller.probabilities(np.concatenate(parts))
            continue
        texts = np.stack([padded(store, record, -shape.flank, int(length) + shape.flank) for record in alike])
        found = labeller.probabilities(labeller.log_odds(texts)[:, shape.flank : shape.flank + length])
        chances |= {record.name: row for record, row in zip(alike, found)}
    rows = []
    for record in records:
        ids = strand_ids(store, record.name, False)
        check_numbers(chances[record.name], record.name)
        for boundary, number in zip(*find_sites(ids, types, every)):
            kind = KINDS[number]
            base = int(boundary) - kind.exon_left
            if kind.strand == "-" or not 0 <= base < record.length or ids[base] == N:
                continue
            score, motif = chances[record.name][base, TYPES.index(kind.type)], boundary - 2 * (not kind.exon_left)
            if score >= min_score:
                letters = decode(ids[motif : motif + 2])
                rows.append(f"{record.name}\t{base + 1}\t{kind.type}\t{score:.4f}\t{letters}\n")
    return rows


def score_sequences(store: TokenStore, ensemble: Ensemble) -> Iterator[tuple[list[str], int]]:
    """(rows under WINDOW_COLUMNS, bases read): P(site) at the centre of each sequence by models of windows.

    Raises InputError for a sequence that is shorter than a window.
    """
    if short := next((record for record in store.records if record.length < ensemble.length), None):
        raise InputError(
            f"--fasta_windows: {short.name} has {short.length} nt, these models read the central {ensemble.length} nt"
        )
    return _centre_rows(store, ensemble)


def _centre_rows(store: TokenStore, ensemble: Ensemble) -> Iterator[tuple[list[str], int]]:
    names = list(ensemble.groups) if ensemble.typed else ["donor"]  # one score, whatever the type
    for at in range(0, len(store.records), _WINDOWS):
        records = store.records[at : at + _WINDOWS]
        starts = np.array([record.offset + record.length // 2 - ensemble.length // 2 for record in records])
        windows, rows = store.windows(starts, ensemble.length), [[] for _ in records]
        for name in names:
            for row, record, mean, sd in zip(rows, records, *ensemble.score(windows, name)):
                spread = "NA" if np.isnan(sd) else f"{sd:.4f}"
                row.append(f"{record.name}\t{name if ensemble.typed else UNTYPED}\t{mean:.4f}\t{spread}\n")
        yield [line for lines in rows for line in lines], sum(record.length for record in records)

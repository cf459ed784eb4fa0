"""Annotated genomes in which every base of both strands has a label, and how they are held out.

Labels: 0 neither, 1 acceptor, 2 donor, at the exon's base of the boundary. Both strands of every record are labelled:
what is antisense or intergenic is neither.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simcsp.core.config import BasesConfig
from simcsp.core.errors import InputError
from simcsp.text.alphabet import N
from simcsp.text.kmers import KmerSet, positions_in_text
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import exon_is_left
from simcsp.text.store import TokenStore, open_store, strand_ids

UNLABELLED = -100
"""What cross-entropy leaves out."""
LABEL = {"acceptor": 1, "donor": 2}


@dataclass(frozen=True)
class Genome:
    """A store with its annotated sites.

    sites: {record: int64 [n, 3] of minus (0 or 1), exon's base (0-based, on the forward strand), label}; the label
    of a doubtful one is UNLABELLED.
    """

    store: TokenStore
    sites: dict[str, np.ndarray]

    def labels(self, name: str, start: int, end: int, minus: int) -> np.ndarray:
        """int64 [end - start] of [start, end) of a record on one strand, as that strand is read; N is unlabelled."""
        labels = np.zeros(end - start, dtype=np.int64)
        rows = self.sites[name]
        within = rows[(rows[:, 0] == minus) & (rows[:, 1] >= start) & (rows[:, 1] < end)]
        labels[within[:, 1] - start] = within[:, 2]
        labels[self.store.fetch(name, start, end) == N] = UNLABELLED
        return labels[::-1].copy() if minus else labels


def read_genome(settings: BasesConfig, cache: str) -> Genome:
    """The annotated genomes of a config.

    Raises InputError where files do not fit, for a record of parts or ignore that no FASTA has, and for a part without
    both types of site.
    """
    store = open_store(settings.fasta, cache)
    rows: dict[str, dict[tuple[int, int], int]] = {record.name: {} for record in store.records}
    for path in settings.doubtful:
        _add_sites(rows, read_truth(path, store), doubtful=True)
    for path in settings.annotation:
        if path in settings.ccds:
            _add_sites(rows, read_truth(path, store), doubtful=True)
        _add_sites(rows, read_truth(path, store, "ccds" if path in settings.ccds else "all"), doubtful=False)
    sites = {
        name: np.array(sorted((*key, label) for key, label in labels.items()), dtype=np.int64).reshape(-1, 3)
        for name, labels in rows.items()
    }
    for entry in settings.ignore:
        record_names(settings, store, entry, "ignore")
    for part in settings.parts:
        names = [name for entry in part for name in record_names(settings, store, entry, "parts")]
        if not set(LABEL.values()) <= {label for name in names for label in sites[name][:, 2].tolist()}:
            raise InputError(
                f"bases.parts [{', '.join(names)}]: no annotated sites of both types on these records, so nothing can "
                "be measured there"
            )
    return Genome(store, sites)


def _add_sites(
    rows: dict[str, dict[tuple[int, int], int]], annotated: dict[tuple[str, str], np.ndarray], doubtful: bool
) -> None:
    """Enter {(record, type): boundary and minus strand [n, 2]} in {record: {(minus, exon's base): label}}."""
    for (name, kind), sites in annotated.items():
        for boundary, minus in sites.tolist():
            exon = boundary - exon_is_left(kind, "-" if minus else "+")
            rows[name][minus, exon] = UNLABELLED if doubtful else LABEL[kind]


def record_names(settings: BasesConfig, store: TokenStore, entry: str, field: str) -> list[str]:
    """Records that an entry of bases.parts or bases.ignore stands for: those of a FASTA file of bases.fasta, or those
    whose name fits a pattern of the shell's kind. Raises InputError where there is none."""
    if entry in settings.fasta:
        return [record.name for record in store.records if record.source == settings.fasta.index(entry)]
    names = [entry] if entry in store.by_name else fnmatch.filter(store.by_name, entry)
    if not names:
        raise InputError(
            f"bases.{field}: no record {entry!r} in {', '.join(settings.fasta)}: its first is {store.records[0].name!r}"
        )
    return names


def fold_records(settings: BasesConfig, store: TokenStore, fold: int) -> dict[str, list[str]]:
    """{'train', 'val', 'test', 'grafts'} -> names of records. Raises InputError where none is left to train on."""

    def names(entries: Sequence[str], field: str) -> list[str]:
        return [name for entry in entries for name in record_names(settings, store, entry, field)]

    parts = settings.parts
    val = names(parts[(fold + 1) % len(parts)], "parts")[:: settings.val_every]
    held_out = {"test": names(parts[fold], "parts"), "val": val}
    without = {*held_out["test"], *held_out["val"], *names(settings.ignore, "ignore")}
    held_out["grafts"] = [name for name in names(settings.grafts, "grafts") if name not in without]
    without.update(held_out["grafts"])
    train = [record.name for record in store.records if record.name not in without]
    if not train:
        raise InputError("bases.parts: no record is left to train on")
    return {"train": train, **held_out}


def shared_with(genome: Genome, names: Sequence[str], held_out: Sequence[str]) -> dict[str, np.ndarray]:
    """{record of names: bool [length]}: bases in 80 in a row that a held-out record has too, on either strand.

    Paralogues and overlapping pieces of another build are thus kept apart.
    """
    store = genome.store
    kmers = KmerSet.of([strand_ids(store, name, False)[None] for name in held_out])
    return {name: positions_in_text(kmers, strand_ids(store, name, False)) for name in names}

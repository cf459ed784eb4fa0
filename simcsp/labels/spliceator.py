"""Spliceator's labelled windows, as published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simcsp.core.errors import InputError
from simcsp.text.alphabet import encode
from simcsp.text.reading import open_text
from simcsp.text.sites import SITES

PUBLISHED_WINDOWS = {
    "donor positive": 10_973,
    "acceptor positive": 11_179,
    "donor negative": 11_000,
    "acceptor negative": 11_000,
}
"""Windows of each file of the GS / GS_1 set (Scalzitti et al. 2021, BMC Bioinformatics 22:561)."""
GENE = "gene="
"""What the group of a window begins with that is a gene."""


@dataclass(frozen=True)
class Windows:
    """Labelled windows, the site at the centre. All arrays have one entry a window.

    ids: uint8 [n, length]; labels: int64 [n], 1 = splice site; sites: 'donor' or 'acceptor'; names: unique, such as
    'donor_pos_00012' (row of the file); groups: what the file's own id ends in, the species, or gene=NAME
    (data/windows.py).
    """

    ids: np.ndarray
    labels: np.ndarray
    sites: np.ndarray
    names: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Windows:
        return Windows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def crop(self, length: int) -> np.ndarray:
        """uint8 [n, length] about the centre, as the published loader cuts it."""
        left = (self.ids.shape[1] - length) // 2
        return self.ids[:, left : left + length]

    def of_site(self, site: str) -> np.ndarray:
        """Indices of the windows of a task: 'donor', 'acceptor' or 'both'."""
        return np.flatnonzero((self.sites == site) | (site == "both"))

    @property
    def strata(self) -> np.ndarray:
        """Site type and label of each, such as 'donor positive'."""
        return np.array([f"{site} {('negative', 'positive')[label]}" for site, label in zip(self.sites, self.labels)])

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.ids))
        digest.update(self.labels.astype(np.uint8).tobytes())
        digest.update("\n".join(map("{} {}".format, self.sites, self.names)).encode())
        return digest.hexdigest()


def load_training(folder: str | Path, negatives: str, context: int) -> Windows:
    """Spliceator's training windows, donors and acceptors; positives before negatives within each site type.

    folder: holds Training_data/. context: the shortest window that will do, in nt.
    Raises InputError for a missing or empty file and for a row that cannot be used.
    """
    return _load(training_files(folder, negatives), context)


def training_files(folder: str | Path, negatives: str) -> list[tuple[Path, str, int]]:
    """(path, site type, label) of the four training files, in the order they are read."""
    root = Path(folder) / "Training_data"
    files = [(root / f"Positive/GS/POS_{site}_600.csv", site, 1) for site in SITES]
    return files + [(root / f"Negative/GS/{negatives}/NEG_600_{site}.csv", site, 0) for site in SITES]


def load_benchmark(folder: str | Path, species: str, context: int) -> Windows:
    """One benchmark species: Benchmarks/<species>/SA_sequences_{donor,acceptor}_400_Final_3.{positive,negative}.txt."""
    return _load(benchmark_files(folder, species), context)


def benchmark_files(folder: str | Path, species: str) -> list[tuple[Path, str, int]]:
    """(path, site type, label) of the four files of a benchmark species, in the order they are read."""
    root = Path(folder) / "Benchmarks" / species
    kinds = [(kind, site, label) for label, kind in ((1, "positive"), (0, "negative")) for site in SITES]
    return [(root / f"SA_sequences_{site}_400_Final_3.{kind}.txt", site, label) for kind, site, label in kinds]


def benchmark_species(folder: str | Path) -> list[str]:
    """Species that have a folder under Benchmarks."""
    root = Path(folder) / "Benchmarks"
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _load(files: list[tuple[Path, str, int]], context: int) -> Windows:
    rows = []
    for path, site, label in files:
        before, expected = len(rows), None
        for number, (group, sequence, where) in enumerate(read_rows(path)):
            expected = expected or len(sequence)
            if len(sequence) != expected:
                raise InputError(
                    f"{where}: window of {len(sequence)} nt, those before have {expected}: the file is damaged"
                )
            if len(sequence) < context:
                raise InputError(f"{where}: window of {len(sequence)} nt is shorter than data.context ({context} nt)")
            name = f"{site}_{'pos' if label else 'neg'}_{number:05d}"
            rows.append((encode(sequence, where), label, site, name, group))
        if len(rows) == before:
            raise InputError(f"{path} holds no window: the file is empty or cut short")
    length = min(len(row[0]) for row in rows)
    ids = np.stack([row[0][(len(row[0]) - length) // 2 :][:length] for row in rows])
    labels, sites, names, groups = (np.array(column) for column in list(zip(*rows))[1:])
    return Windows(ids, labels.astype(np.int64), sites, names, groups)


def read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(group, sequence, 'file, line n') by the published loader's rules.

    Fields are separated by `;`, header lines have ID_uniprot first, the sequence is field 1, or field 2 where field 1
    is shorter than 100 and than field 2 (it is a position), and the group follows the last `_` of field 0.
    """
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            fields = line.strip().split(";")
            if not line.strip() or fields[0].split()[:1] == ["ID_uniprot"]:
                continue
            if len(fields) < 2 or (len(fields) < 3 and not fields[1].isalpha()):
                raise InputError(
                    f"{where}: expected `id;sequence` or `id;position;sequence`, found {line.strip()[:40]!r}"
                )
            first, second = [*fields[1:3], ""][:2]
            yield fields[0].rsplit("_", 1)[-1], second if len(first) < min(100, len(second)) else first, where


def numbered(ids: np.ndarray) -> np.ndarray:
    """int [n]: windows of the same bases have the same number. ids: uint8 [n, length]."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in ids], dtype=np.int64)


def contradictory(numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [n]: windows that occur with both labels. numbers: int [n] of `numbered`."""
    both = np.zeros((2, numbers.max(initial=0) + 1), dtype=bool)
    both[labels, numbers] = True
    return both.all(axis=0)[numbers]

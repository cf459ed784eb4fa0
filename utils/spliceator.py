"""Spliceator's labelled windows as published, and how they are split: selection share and cross-validation folds."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from utils.errors import InputError
from utils.run import write_text
from utils.sequence import N, encode, open_binary

SITES = ("donor", "acceptor")
KMER = 80  # windows that share this many bases in a row are near-duplicates
PUBLISHED_FOLDS, SIMCSP_FOLDS = 10, 5


@dataclass(frozen=True)
class Windows:
    """Labelled windows, the site at the centre. All arrays have one entry a window.

    ids: uint8 [n, length]; labels: int64 [n], 1 = splice site; sites: 'donor' or 'acceptor'; names: unique, such as
    'donor_pos_00012' (row of the file); groups: what the file's own id ends in, the species.
    """

    ids: np.ndarray
    labels: np.ndarray
    sites: np.ndarray
    names: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Windows:
        """The windows of an index or mask, in its order."""
        return Windows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def crop(self, length: int) -> np.ndarray:
        """uint8 [n, length] about the centre, as the published loader cuts it."""
        left = (self.ids.shape[1] - length) // 2
        return self.ids[:, left : left + length]

    def of_site(self, site: str) -> np.ndarray:
        """Indices of the windows of a task: 'donor', 'acceptor' or 'both'."""
        return np.flatnonzero((self.sites == site) | (site == "both"))

    @property
    def sha256(self) -> str:
        """Hash of sequences, labels, site types and names."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ids))
        digest.update(self.labels.astype(np.uint8).tobytes())
        digest.update("\n".join(map("{} {}".format, self.sites, self.names)).encode())
        return digest.hexdigest()


def load_training(folder: str | Path, negatives: str, context: int) -> Windows:
    """Spliceator's training windows, donors and acceptors; positives before negatives within each site type.

    folder: holds Training_data/. context: the shortest window that will do, in nt.
    Raises InputError for a missing or empty file and for a row that cannot be used.
    """
    root = Path(folder) / "Training_data"
    files = [(root / f"Positive/GS/POS_{site}_600.csv", site, 1) for site in SITES]
    files += [(root / f"Negative/GS/{negatives}/NEG_600_{site}.csv", site, 0) for site in SITES]
    return _load(files, context)


def load_benchmark(folder: str | Path, species: str, context: int) -> Windows:
    """One benchmark species: Benchmarks/<species>/SA_sequences_{donor,acceptor}_400_Final_3.{positive,negative}.txt."""
    root = Path(folder) / "Benchmarks" / species
    name = "SA_sequences_{}_400_Final_3.{}.txt"
    files = [
        (root / name.format(site, kind), site, label)
        for label, kind in ((1, "positive"), (0, "negative"))
        for site in SITES
    ]
    return _load(files, context)


def benchmark_species(folder: str | Path) -> list[str]:
    """Species that have a folder under Benchmarks."""
    root = Path(folder) / "Benchmarks"
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _load(files: list[tuple[Path, str, int]], context: int) -> Windows:
    rows = []
    for path, site, label in files:
        before, expected = len(rows), None
        for number, (group, sequence, where) in enumerate(_rows(path)):
            expected = expected or len(sequence)
            if len(sequence) != expected:
                raise InputError(
                    f"{where}: window of {len(sequence)} nt, those before have {expected}: the file is damaged"
                )
            if len(sequence) < context:
                raise InputError(f"{where}: window of {len(sequence)} nt is shorter than data.context ({context} nt)")
            rows.append(
                (encode(sequence, where), label, site, f"{site}_{'pos' if label else 'neg'}_{number:05d}", group)
            )
        if len(rows) == before:
            raise InputError(f"{path} holds no window: the file is empty or cut short")
    length = min(len(row[0]) for row in rows)
    ids = np.stack([row[0][(len(row[0]) - length) // 2 :][:length] for row in rows])
    labels, sites, names, groups = (np.array(column) for column in list(zip(*rows))[1:])
    return Windows(ids, labels.astype(np.int64), sites, names, groups)


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(group, sequence, 'file, line n') by the published loader's rules.

    Fields are separated by `;`, header lines start with `ID_uniprot`, the sequence is field 1, or field 2 where field 1
    is shorter than 100, and the group follows the last `_` of field 0.
    """
    with open_binary(path) as handle:
        for number, line in enumerate(io.TextIOWrapper(handle, encoding="utf-8", errors="replace"), start=1):
            where = f"{path}, line {number}"
            if line.startswith("ID_uniprot") or not line.strip():
                continue
            fields = line.strip().split(";")
            if len(fields) < 2 or (len(fields[1]) < 100 and len(fields) < 3):
                raise InputError(
                    f"{where}: expected `id;sequence` or `id;position;sequence`, found {line.strip()[:40]!r}"
                )
            yield fields[0].rsplit("_", 1)[-1], fields[2] if len(fields[1]) < 100 else fields[1], where


def near_duplicate_groups(ids: np.ndarray, k: int = KMER) -> np.ndarray:
    """int [n] group of each window; windows are in one group when a chain of shared k-mers links them.

    ids: uint8 [n, length]. k-mers that hold an N are not compared. Hashes are 64 bits wide: two different k-mers of ten
    million collide with probability below 3e-6.
    """
    n, length = ids.shape
    if length < k:
        return np.arange(n)
    values = np.random.default_rng(0).integers(1, 2**63, size=16, dtype=np.uint64) | np.uint64(1)
    base = np.uint64(0x9E3779B97F4A7C15)
    power = np.uint64(pow(int(base), k, 2**64))
    hashes = np.empty((n, length - k + 1), dtype=np.uint64)
    current, unknown = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=np.int64)
    for i in range(length):  # rolling polynomial hash modulo 2^64, all windows at once
        current = current * base + values[ids[:, i]]
        unknown += ids[:, i] == N
        if i >= k:
            current -= values[ids[:, i - k]] * power
            unknown -= ids[:, i - k] == N
        if i >= k - 1:
            # A k-mer with an N gets a value of its own window and place, so that it links nothing.
            alone = np.arange(n, dtype=np.uint64) * np.uint64(length) + np.uint64(i)
            hashes[:, i - k + 1] = np.where(unknown > 0, alone, current)
    flat = hashes.ravel()
    order = np.argsort(flat, kind="stable")
    same = flat[order[1:]] == flat[order[:-1]]
    left, right = order[:-1][same] // hashes.shape[1], order[1:][same] // hashes.shape[1]
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def rotate(parts: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """SpliceBERT's rotation: fold k validates on part k, tests on parts k + 1 and k + 2, trains on the rest.

    Every window is tested in two folds. Index order is the published script's.
    """
    folds = []
    for k in range(len(parts)):
        turned = parts[k:] + parts[:k]
        folds.append({"train": np.concatenate(turned[3:]), "val": turned[0], "test": np.concatenate(turned[1:3])})
    return folds


def published_folds(labels: np.ndarray, seed: int = 2020) -> list[dict[str, np.ndarray]]:
    """SpliceBERT's ten folds over positives then negatives in file order, index for index (train_splicebert_cv.py)."""
    splitter = StratifiedKFold(PUBLISHED_FOLDS, shuffle=True, random_state=seed)
    return rotate([part for _, part in splitter.split(np.zeros(len(labels)), labels)])


def simcsp_folds(labels: np.ndarray, seed: int = 2020) -> list[dict[str, np.ndarray]]:
    """SimCSP's five 70/10/20 folds (split_spliceator.py): a fifth tested, 1/8 of the rest validates, unstratified."""
    folds = []
    splitter = StratifiedKFold(SIMCSP_FOLDS, shuffle=True, random_state=seed)
    for rest, test in splitter.split(np.zeros(len(labels)), labels):
        train, val = train_test_split(rest, train_size=0.875, random_state=seed)
        folds.append({"train": train, "val": val, "test": test})
    return folds


def grouped_folds(strata: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Folds rotated as the published ones, in which a group of near-duplicates lies in one part; stratified."""
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return rotate([part for _, part in splitter.split(np.zeros(len(strata)), strata, groups)])


@dataclass(frozen=True)
class Splits:
    """How the windows of a run are used. Indices refer to the Windows that were split.

    selection: windows set aside for picking pre-training checkpoints. folds: {site: [{'train', 'val', 'test'}]}.
    """

    selection: np.ndarray
    folds: dict[str, list[dict[str, np.ndarray]]]


def subset(windows: Windows, max_windows: int | None, seed: int) -> Windows:
    """A random part of the windows, stratified by site type and label, in file order."""
    if max_windows is None or max_windows >= len(windows):
        return windows
    strata = _strata(windows)
    if max_windows < len(set(strata)):
        raise InputError(f"data.max_windows ({max_windows}) is less than one window of each site type and label")
    return windows.take(np.sort(_stratified(strata, max_windows, seed)))


def make_splits(windows: Windows, method: str, num_folds: int, selection_share: float, seed: int) -> Splits:
    """Cut the selection share, then the folds of the rest, for donors, acceptors and both.

    Under `grouped`, near-duplicates are never parted, neither by the selection share nor by the folds nor across site
    types. Raises InputError when a class has fewer windows than there are folds.
    """
    count = {"grouped": num_folds, "published": PUBLISHED_FOLDS, "simcsp": SIMCSP_FOLDS}[method]
    strata = _strata(windows)
    _require(strata, np.arange(len(windows)), count, f"data.folds ({method})")
    groups = near_duplicate_groups(windows.ids) if method == "grouped" else np.arange(len(windows))
    selection = _choose_selection(strata, groups, selection_share, seed)
    rest = np.setdiff1d(np.arange(len(windows)), selection)
    # A group of near-duplicates can be in one fold only, so it counts once.
    _, first = np.unique(groups[rest], return_index=True)
    _require(strata, rest[first], count, f"data.folds ({method}) after data.selection_share")
    folds = {}
    if method == "grouped":
        pooled = grouped_folds(strata[rest], groups[rest], num_folds, seed)
        for site in (*SITES, "both"):
            of_site = np.zeros(len(windows), dtype=bool)
            of_site[windows.of_site(site)] = True
            parts = [{part: rest[index] for part, index in fold.items()} for fold in pooled]
            folds[site] = [{part: index[of_site[index]] for part, index in fold.items()} for fold in parts]
    else:
        cut = published_folds if method == "published" else simcsp_folds
        for site in (*SITES, "both"):
            index = np.intersect1d(rest, windows.of_site(site))
            folds[site] = [{part: index[i] for part, i in fold.items()} for fold in cut(windows.labels[index], seed)]
    return Splits(selection, folds)


def _choose_selection(strata: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    if share == 0:
        return np.array([], dtype=np.int64)
    _, first = np.unique(groups, return_index=True)  # a group goes by the stratum of its first window
    count = max(round(share * len(first)), len(set(strata)))
    chosen = first[_stratified(strata[first], count, seed)]
    return np.flatnonzero(np.isin(groups, groups[chosen]))


def _stratified(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` random members, every stratum at its share and with at least one."""
    order = np.random.default_rng(seed).permutation(len(strata))
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        mine = order[strata[order] == stratum]
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        place[mine[0]] = 0.0
    return np.argsort(place, kind="stable")[:count]


def _strata(windows: Windows) -> np.ndarray:
    return np.array(
        [f"{site} {'positive' if label else 'negative'}" for site, label in zip(windows.sites, windows.labels)]
    )


def _require(strata: np.ndarray, index: np.ndarray, count: int, field: str) -> None:
    """Refuse when one of the strata has fewer than `count` of its windows in `index`."""
    for name in np.unique(strata):
        members = int((strata[index] == name).sum())
        if members < count:
            raise InputError(f"{field}: only {members} {name} windows, at least {count} are needed (one a fold)")


def save_or_load_splits(
    folder: Path, windows: Windows, method: str, num_folds: int, selection_share: float, seed: int
) -> Splits:
    """The splits of a run: made once by make_splits and saved in `folder`, from then on read back.

    folder/splits.json holds the settings and the hash of the data, folder/<site>.csv one row a window with its part in
    each fold ('train', 'val', 'test', or 'selection'). Raises InputError, naming the difference, when the data or the
    settings are not those of the saved splits.
    """
    meta = folder / "splits.json"
    settings = {
        "folds": method,
        "num_folds": {"grouped": num_folds, "published": PUBLISHED_FOLDS, "simcsp": SIMCSP_FOLDS}[method],
        "selection_share": float(selection_share),
        "split_seed": int(seed),
        "windows": len(windows),
        "data_sha256": windows.sha256,
    }
    if not meta.is_file():
        splits = make_splits(windows, method, num_folds, selection_share, seed)
        for site, folds in splits.folds.items():
            write_text(folder / f"{site}.csv", _to_csv(windows, splits.selection, folds))
        species = {"species": sorted(set(windows.groups.tolist()))}
        write_text(meta, json.dumps(settings | species, indent=1) + "\n")  # last: its presence means complete
    saved = json.loads(meta.read_text())
    changed = [f"{key} was {saved.get(key)}, now {value}" for key, value in settings.items() if saved.get(key) != value]
    if changed:
        raise InputError(f"{meta}: made from other data or settings ({'; '.join(changed)}): use another --name")
    # Read back even when just made: the order of the indices must not depend on which run came first.
    read = {site: _from_csv(folder / f"{site}.csv", windows) for site in (*SITES, "both")}
    return Splits(read["both"][0], {site: folds for site, (_, folds) in read.items()})


def _to_csv(windows: Windows, selection: np.ndarray, folds: list[dict[str, np.ndarray]]) -> str:
    table = np.full((len(windows), len(folds)), "", dtype="U9")
    for k, fold in enumerate(folds):
        for part, index in fold.items():
            table[index, k] = part
    table[selection] = "selection"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["window", "label", *(f"fold{k:02d}" for k in range(len(folds)))])
    for i in np.flatnonzero((table != "").any(axis=1)):
        writer.writerow([windows.names[i], windows.labels[i], *table[i]])
    return out.getvalue()


def _from_csv(path: Path, windows: Windows) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    with open(path, newline="") as handle:
        header, *rows = csv.reader(handle)
    position = {name: i for i, name in enumerate(windows.names)}
    index = np.array([position[row[0]] for row in rows])
    table = np.array([row[2:] for row in rows])
    folds = [{part: index[table[:, k] == part] for part in ("train", "val", "test")} for k in range(len(header) - 2)]
    return index[table[:, 0] == "selection"], folds

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
from scipy.sparse import block_array, coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedKFold, train_test_split

from utils.errors import InputError
from utils.overlap import KMER, kmer_hashes
from utils.run import write_text
from utils.sequence import encode, open_binary

SITES = ("donor", "acceptor")
PUBLISHED_FOLDS, SIMCSP_FOLDS = 10, 5
PUBLISHED_WINDOWS = {
    "donor positive": 10_973,
    "acceptor positive": 11_179,
    "donor negative": 11_000,
    "acceptor negative": 11_000,
}
"""Windows of each file of the GS / GS_1 set (Scalzitti et al. 2021, BMC Bioinformatics 22:561)."""


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
    def strata(self) -> np.ndarray:
        """Site type and label of each, such as 'donor positive'."""
        return np.array([f"{site} {('negative', 'positive')[label]}" for site, label in zip(self.sites, self.labels)])

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
    return _load(training_files(folder, negatives), context)


def training_files(folder: str | Path, negatives: str) -> list[tuple[Path, str, int]]:
    """(path, site type, label) of the four training files, in the order they are read."""
    root = Path(folder) / "Training_data"
    files = [(root / f"Positive/GS/POS_{site}_600.csv", site, 1) for site in SITES]
    return files + [(root / f"Negative/GS/{negatives}/NEG_600_{site}.csv", site, 0) for site in SITES]


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
        for number, (group, sequence, where) in enumerate(read_rows(path)):
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


def read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
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


def shared_kmers(ids: np.ndarray, k: int = KMER) -> csr_array:
    """bool [n, m]: which windows hold which k-mers, of the m k-mers that two windows or more hold.

    ids: uint8 [n, length]. k-mers that hold an N are not compared; see `kmer_hashes` for how the others are.
    """
    hashes, known = kmer_hashes(ids, k)
    window = np.repeat(np.arange(len(ids)), known.sum(axis=1))
    flat = hashes[known]
    order = np.argsort(flat)
    flat, window = flat[order], window[order]
    again = np.append(False, flat[1:] == flat[:-1])[: len(flat)]  # equal to the one before
    often = again | np.append(again[1:], False)[: len(flat)]  # twice in one window too, until the table tells
    kmer = np.cumsum(~again[often]) - 1
    shape = (len(ids), kmer.max(initial=-1) + 1)
    table = coo_array((np.ones(len(kmer), dtype=np.int32), (window[often], kmer)), shape).tocsr().astype(bool)
    return table[:, np.flatnonzero(table.sum(axis=0) > 1)]


def near_duplicate_groups(ids: np.ndarray, k: int = KMER) -> np.ndarray:
    """int [n] group of each window; windows are in one group when a chain of shared k-mers links them."""
    table = shared_kmers(ids, k)
    graph = block_array([[None, table], [table.T, None]])  # windows, then k-mers
    return connected_components(graph, directed=False)[1][: len(ids)]


def similar_to_training(kmers: csr_array, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """bool [len(test)]: which windows of a fold's test part share a k-mer with a window of its training part.

    kmers: `shared_kmers` of all windows, made once for all folds. train, test: indices of windows.
    """
    trained = kmers[train].sum(axis=0) > 0
    return kmers[test] @ trained.astype(np.int32) > 0


def numbered(ids: np.ndarray) -> np.ndarray:
    """int [n]: windows of the same bases have the same number. ids: uint8 [n, length]."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in ids], dtype=np.int64)


def contradictory(numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [n]: windows that occur with both labels. numbers: int [n] of `numbered`."""
    both = np.zeros((2, numbers.max(initial=0) + 1), dtype=bool)
    both[labels, numbers] = True
    return both.all(axis=0)[numbers]


def dedup(windows: Windows) -> tuple[Windows, str]:
    """The windows without exact repeats, and a sentence about what was left out.

    Of identical windows of one site type and label the first is kept; of those that occur with both labels, none.
    Raises InputError when that leaves nothing of a site type and label.
    """
    numbers = 2 * numbered(windows.ids) + (windows.sites == "donor")
    conflict = contradictory(numbers, windows.labels)
    first = np.zeros(len(windows), dtype=bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    kept = windows.take(first & ~conflict)
    lost = set(windows.strata) - set(kept.strata)
    if lost:
        raise InputError(
            f"data.dedup: every {min(lost)} window also occurs with the other label: one file is a copy of another"
        )
    remark = (
        f"{(~first & ~conflict).sum():,} exact duplicates and {conflict.sum():,} windows that occur with both labels "
        f"left out, {len(kept):,} of {len(windows):,} kept"
    )
    return kept, remark


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
    """Folds rotated as the published ones, in which a group of near-duplicates lies in one part; stratified.

    Greedy, as scikit-learn's StratifiedGroupKFold, which takes a hundred times as long over many groups: the largest
    group first, in random order among equals, each to the part where it leaves the strata most even.
    """
    _, stratum = np.unique(strata, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    members = np.zeros((group.max() + 1, stratum.max() + 1), dtype=np.int64)
    np.add.at(members, (group, stratum), 1)
    weight = 1 / members.sum(axis=0) ** 2
    order = np.random.default_rng(seed).permutation(len(members))
    order = order[np.argsort(-members[order].sum(axis=1), kind="stable")]
    held = np.zeros((num_folds, members.shape[1]), dtype=np.int64)
    part = np.empty(len(members), dtype=np.int64)
    for i in order:
        # What the group adds to the weighted sum of squares, and the part's size where that is equal.
        part[i] = np.lexsort((held.sum(axis=1), held @ (members[i] * weight)))[0]
        held[part[i]] += members[i]
    return rotate([np.flatnonzero(part[group] == k) for k in range(num_folds)])


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
    strata = windows.strata
    if max_windows < len(set(strata)):
        raise InputError(f"data.max_windows ({max_windows}) is less than one window of each site type and label")
    return windows.take(np.sort(_stratified(strata, max_windows, seed)))


def fold_count(method: str, num_folds: int) -> int:
    """Folds that data.folds and data.num_folds ask for: the published rules have numbers of their own."""
    return {"grouped": num_folds, "published": PUBLISHED_FOLDS, "simcsp": SIMCSP_FOLDS}[method]


def make_splits(windows: Windows, method: str, num_folds: int, selection_share: float, seed: int) -> Splits:
    """Cut the selection share, then the folds of the rest, for donors, acceptors and both.

    Under `grouped`, near-duplicates are never parted, neither by the selection share nor by the folds nor across site
    types. Raises InputError when a class has fewer windows than there are folds.
    """
    count = fold_count(method, num_folds)
    strata = windows.strata
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


def _require(strata: np.ndarray, index: np.ndarray, count: int, field: str) -> None:
    """Refuse when one of the strata has fewer than `count` of its windows in `index`."""
    for name in np.unique(strata):
        members = int((strata[index] == name).sum())
        if members < count:
            raise InputError(f"{field}: only {members} {name} windows, at least {count} are needed (one a fold)")


# -- a report for a person, before anything is trained -----------------------------------------------------------------


def check_training(folder: str | Path, context: int = 400) -> str:
    """What is in a copy of Spliceator's training windows, beside what was published: a table and two paragraphs.

    Repeats and conflicts (the same bases as site and as non-site) are of the central `context` nt that models see;
    near-duplicates share 80 bases in a row with any other window. Raises InputError where the windows cannot be used.
    """
    import pandas as pd  # a third of a second that reading windows does not need

    windows = load_training(folder, "GS_1", context)
    seen, strata, kmers = windows.crop(context), windows.strata, shared_kmers(windows.ids)
    numbers = 2 * numbered(seen) + (windows.sites == "donor")
    repeated = np.ones(len(windows), dtype=bool)
    repeated[np.unique(2 * numbers + windows.labels, return_index=True)[1]] = False
    centre, is_donor = windows.ids.shape[1] // 2, windows.sites == "donor"
    pairs = np.where(is_donor[:, None], windows.ids[:, centre:][:, :2], windows.ids[:, centre - 2 :][:, :2])
    flags = {
        "GT / AG": (pairs == np.where(is_donor[:, None], encode("GT"), encode("AG"))).all(axis=1),
        "repeats": repeated,
        "conflicts": contradictory(numbers, windows.labels),
        "near-duplicates": kmers.sum(axis=1) > 0,
    }
    table = pd.DataFrame(
        {
            "windows": [(strata == name).sum() for name in PUBLISHED_WINDOWS],
            "published": list(PUBLISHED_WINDOWS.values()),
            **{key: [flag[strata == name].sum() for name in PUBLISHED_WINDOWS] for key, flag in flags.items()},
        },
        index=list(PUBLISHED_WINDOWS),
    )
    parted = {
        site: np.mean([similar_to_training(kmers, fold["train"], fold["test"]).mean() for fold in folds])
        for site, folds in make_splits(windows, "published", PUBLISHED_FOLDS, 0.0, 2020).folds.items()
    }
    shares = ", ".join(f"{site} {share:.1%}" for site, share in parted.items())
    equal = (table["windows"] == table["published"]).all()
    return (
        f"Spliceator's training windows in {folder}, {windows.ids.shape[1]} nt, negatives GS_1\n\n"
        f"{table.to_string()}\n\n"
        f"The numbers of windows are {'' if equal else 'NOT '}those published{'' if equal else ': another set'}.\n"
        f"Test windows of the published folds that share {KMER} bases with a training window: {shares}. "
        "`data.folds: grouped` has none.\n"
    )


# -- splits on disk ----------------------------------------------------------------------------------------------------


def save_or_load_splits(
    folder: Path, windows: Windows, method: str, num_folds: int, selection_share: float, seed: int
) -> Splits:
    """The splits of a run: made once by make_splits and saved in `folder`, from then on read back.

    folder/splits.json holds the settings and the hash of the data, folder/<site>.csv one row a window with its part in
    each fold ('train', 'val', 'test', or 'selection'). Raises InputError, naming the difference, when the data or the
    settings are not those of the saved splits.
    """
    meta = folder / "splits.json"
    if not meta.is_file():
        splits = make_splits(windows, method, num_folds, selection_share, seed)
        for site, folds in splits.folds.items():
            write_text(folder / f"{site}.csv", _to_csv(windows, splits.selection, folds))
        settings = _split_settings(windows, method, num_folds, selection_share, seed)
        species = {"species": sorted(set(windows.groups.tolist()))}
        write_text(meta, json.dumps(settings | species, indent=1) + "\n")  # last: its presence means complete
    # Read back even when just made: the order of the indices must not depend on which run came first.
    return read_splits(folder, windows, method, num_folds, selection_share, seed)


def read_splits(
    folder: Path, windows: Windows, method: str, num_folds: int, selection_share: float, seed: int
) -> Splits:
    """The splits saved in `folder`, or where there are none those that would be saved; writes nothing.

    Raises InputError, naming the difference, when the data or the settings are not those of the saved splits.
    """
    meta = folder / "splits.json"
    if not meta.is_file():
        made = make_splits(windows, method, num_folds, selection_share, seed)
        in_order = {  # of the windows, as the saved tables have them
            site: [{part: np.sort(index) for part, index in fold.items()} for fold in folds]
            for site, folds in made.folds.items()
        }
        return Splits(np.sort(made.selection), in_order)
    settings = _split_settings(windows, method, num_folds, selection_share, seed)
    saved = json.loads(meta.read_text())
    changed = [f"{key} was {saved.get(key)}, now {value}" for key, value in settings.items() if saved.get(key) != value]
    if changed:
        raise InputError(f"{meta}: made from other data or settings ({'; '.join(changed)}): use another --name")
    read = {site: _from_csv(folder / f"{site}.csv", windows) for site in (*SITES, "both")}
    return Splits(read["both"][0], {site: folds for site, (_, folds) in read.items()})


def _split_settings(
    windows: Windows, method: str, num_folds: int, selection_share: float, seed: int
) -> dict[str, str | int | float]:
    """What decides the splits, as splits.json records it."""
    return {
        "folds": method,
        "num_folds": fold_count(method, num_folds),
        "selection_share": float(selection_share),
        "split_seed": int(seed),
        "windows": len(windows),
        "data_sha256": windows.sha256,
    }


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

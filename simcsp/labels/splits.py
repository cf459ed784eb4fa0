"""How labelled windows are split: selection share and cross-validation folds."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedKFold, train_test_split

from simcsp.core.config import PUBLISHED_FOLDS, SIMCSP_FOLDS, DataConfig
from simcsp.core.errors import InputError
from simcsp.core.files import check_hash, read_json, sha256_file, write_json, write_text
from simcsp.core.run_layout import SPLITS, SPLITS_RECORD
from simcsp.labels.spliceator import GENE, Windows, load_training
from simcsp.text.kmers import near_duplicate_groups
from simcsp.text.sites import SITES

_DATA = "data_sha256"  # key of the record of splits
REMEDY = "restore it from a copy, or use another --name: what has been fitted on these splits rests on them"


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


def make_splits(windows: Windows, method: str, num_folds: int, selection_share: float, seed: int) -> Splits:
    """Cut the selection share, then the folds of the rest, for donors, acceptors and both.

    Under `grouped`, near-duplicates and windows of one gene are never parted, neither by the selection share nor by the
    folds nor across site types. Raises InputError when a class has fewer windows than there are folds.
    """
    count = {"published": PUBLISHED_FOLDS, "simcsp": SIMCSP_FOLDS}.get(method, num_folds)
    strata = windows.strata
    _require(strata, np.arange(len(windows)), count, f"data.folds ({method})")
    groups = _linked(windows) if method == "grouped" else np.arange(len(windows))
    selection = _choose_selection(strata, groups, selection_share, seed)
    rest = np.setdiff1d(np.arange(len(windows)), selection)
    # A group can be in one fold only, so it counts once in each stratum that it has windows of.
    stratum = np.unique(strata, return_inverse=True)[1]
    _, first = np.unique(np.stack([groups[rest], stratum[rest]]), axis=1, return_index=True)
    _require(strata, rest[first], count, f"data.folds ({method}) after data.selection_share")
    pooled = grouped_folds(strata[rest], groups[rest], num_folds, seed) if method == "grouped" else []
    folds = {}
    for site in (*SITES, "both"):
        if method == "grouped":
            inside = np.isin(rest, windows.of_site(site))
            folds[site] = [{part: rest[i[inside[i]]] for part, i in fold.items()} for fold in pooled]
        else:
            index = np.intersect1d(rest, windows.of_site(site))
            cut = published_folds if method == "published" else simcsp_folds
            folds[site] = [{part: index[i] for part, i in fold.items()} for fold in cut(windows.labels[index], seed)]
    return Splits(selection, folds)


def _choose_selection(strata: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    if share == 0:
        return np.array([], dtype=np.int64)
    _, first = np.unique(groups, return_index=True)  # a group goes by the stratum of its first window
    count = max(round(share * len(first)), len(set(strata)))
    chosen = first[stratified(strata[first], count, seed)]
    return np.flatnonzero(np.isin(groups, groups[chosen]))


def stratified(strata: np.ndarray, count: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Indices of `count` random members, every stratum at its share and with at least one."""
    order = np.random.default_rng(seed).permutation(len(strata))
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        of_stratum = order[strata[order] == stratum]
        place[of_stratum] = (np.arange(len(of_stratum)) + 0.5) / len(of_stratum)
        place[of_stratum[0]] = 0.0
    return np.argsort(place, kind="stable")[:count]


def draw_training(
    train: np.ndarray, strata: np.ndarray, count: int | None, split_seed: int, fold: int, draw: int
) -> np.ndarray:
    """Indices of `count` of a fold's training windows, ascending, every stratum at its share; all of them for None.

    strata: of all windows. The draw depends on no arm, so that every arm gets the same windows.
    """
    if count is None:
        return train
    return np.sort(train[stratified(strata[train], count, (split_seed, fold, count, draw))])


def _linked(windows: Windows) -> np.ndarray:
    """int [n]: group of each window; near-duplicates are in one, and the windows of a gene where files name it."""
    similar = near_duplicate_groups(windows.ids)
    named = np.char.startswith(windows.groups, GENE)
    genes = np.unique(windows.groups[named], return_inverse=True)[1] + similar.max(initial=0) + 1
    size = int(max(similar.max(initial=0), genes.max(initial=0))) + 1
    links = coo_array((np.ones(named.sum()), (similar[named], genes)), shape=(size, size))
    return connected_components(links, directed=False)[1][similar]


def draw_parts(
    parts: dict[str, np.ndarray],
    strata: np.ndarray,
    count: int | None,
    validation_share: float,
    split_seed: int,
    fold: int,
    draw: int,
) -> dict[str, np.ndarray]:
    """{'train', 'val', 'test'} of a fold whose labels are `count` windows of its training part (`draw_training`).

    validation_share: of them, every stratum at its share and with one at least, that is the validation part, which
    picks C or the epoch: no other label is used. 0: that part stays as it is. count None: all do.
    """
    if count is None:
        return parts
    drawn = draw_training(parts["train"], strata, count, split_seed, fold, draw)
    if not validation_share:
        return parts | {"train": drawn}
    held = max(round(validation_share * count), len(np.unique(strata[drawn])))
    val = draw_training(drawn, strata, held, split_seed, fold, draw)
    return parts | {"train": np.setdiff1d(drawn, val), "val": val}


def _require(strata: np.ndarray, index: np.ndarray, count: int, field: str) -> None:
    for name in np.unique(strata):
        members = int((strata[index] == name).sum())
        if members < count:
            raise InputError(f"{field}: only {members} {name} windows, at least {count} are needed (one a fold)")


# -- splits on disk ----------------------------------------------------------------------------------------------------


def save_or_load_splits(folder: Path, windows: Windows, data: DataConfig) -> Splits:
    """The splits of a run: made once by make_splits and saved in `folder`, from then on read back.

    folder/splits.json holds the settings and the hash of the data, folder/<site>.csv one row a window with its part in
    each fold ('train', 'val', 'test', or 'selection'). Raises InputError, naming the difference, when the data or the
    settings are not those of the saved splits.
    """
    meta = folder / SPLITS_RECORD
    if not meta.is_file():
        splits = _made(windows, data)
        hashes = {}
        for site, folds in splits.folds.items():
            path = folder / f"{site}.csv"
            write_text(path, _to_csv(windows, splits.selection, folds))
            hashes[path.name] = sha256_file(path)
        species = {"species": sorted(set(windows.groups.tolist()))}
        # last: its presence means complete
        write_json(meta, _split_settings(windows, data) | species | {"sha256": hashes})
    # Read back even when just made: the order of the indices must not depend on which run came first.
    return read_splits(folder, windows, data)


def read_splits(folder: Path, windows: Windows, data: DataConfig) -> Splits:
    """The splits saved in `folder`, or where there are none those that would be saved; writes nothing.

    Raises InputError, naming the difference, when the data or the settings are not those of the saved splits.
    """
    meta = folder / SPLITS_RECORD
    if not meta.is_file():
        made = _made(windows, data)
        in_order = {  # of the windows, as the saved tables have them
            site: [{part: np.sort(index) for part, index in fold.items()} for fold in folds]
            for site, folds in made.folds.items()
        }
        return Splits(np.sort(made.selection), in_order)
    settings = _split_settings(windows, data)
    saved = read_json(meta, REMEDY)
    changed = [f"{key} was {saved.get(key)}, now {value}" for key, value in settings.items() if saved.get(key) != value]
    if saved.get(_DATA) != settings[_DATA]:
        changed[-1] = f"the windows have changed: data.spliceator {data.spliceator}"
    if changed:
        raise InputError(f"{meta}: made from other data or settings ({'; '.join(changed)}): use another --name")
    read = {}
    for site in (*SITES, "both"):
        path = folder / f"{site}.csv"
        check_hash(path, saved.get("sha256", {}).get(path.name), REMEDY)
        read[site] = _from_csv(path, windows)
    return Splits(read["both"][0], {site: folds for site, (_, folds) in read.items()})


def _made(windows: Windows, data: DataConfig) -> Splits:
    return make_splits(windows, data.folds, data.num_folds, data.selection_share, data.split_seed)


def _split_settings(windows: Windows, data: DataConfig) -> dict[str, str | int | float]:
    return {
        "folds": data.folds,
        "num_folds": data.fold_count,
        "selection_share": float(data.selection_share),
        "split_seed": int(data.split_seed),
        "windows": len(windows),
        _DATA: windows.sha256,
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
    if not path.is_file():
        raise InputError(f"{path} does not exist: {REMEDY}")
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle)
        position = {name: i for i, name in enumerate(windows.names)}
        index = np.array([position[row[0]] for row in rows])
        table = np.array([row[2:] for row in rows]).reshape(len(rows), len(header) - 2)
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise InputError(f"{path} is not a table of these windows and folds ({error!r}): damaged; {REMEDY}") from None
    folds = [{part: index[table[:, k] == part] for part in ("train", "val", "test")} for k in range(len(header) - 2)]
    return index[table[:, 0] == "selection"], folds


def load_windows(data: DataConfig, folder: Path) -> tuple[Windows, Splits]:
    """The labelled windows of a run and their splits, made on first use under `folder`/splits: runs/<name>."""
    windows = training_windows(data)
    return windows, save_or_load_splits(folder / SPLITS, windows, data)


def read_windows(data: DataConfig, folder: Path) -> tuple[Windows, Splits]:
    """The same for who only reads: a folder without splits stays without, and has those that `load_windows` would
    make."""
    windows = training_windows(data)
    return windows, read_splits(folder / SPLITS, windows, data)


def training_windows(data: DataConfig) -> Windows:
    """The labelled windows from which a run's folds are cut."""
    if data.spliceator is None:
        raise InputError("data.spliceator is not set: give the folder that holds Spliceator's Training_data")
    return load_training(data.spliceator, data.negatives, data.context)


def has_training_windows(data: DataConfig) -> bool:
    """Whether the folder of the labelled windows is there; a trained model may have come without it."""
    return data.spliceator is not None and (Path(data.spliceator) / "Training_data").is_dir()


def selection_windows(windows: Windows, splits: Splits) -> Windows:
    """The share set aside for selection; with share 0 the training part of fold 0, which is the published behaviour."""
    if len(splits.selection):
        return windows.take(splits.selection)
    return windows.take(splits.folds["both"][0]["train"])

"""What is in a copy of Spliceator's training set, for a person to read before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from utils.errors import InputError
from utils.overlap import KMER
from utils.sequence import ENCODE, UNK, N, decode
from utils.spliceator import (
    PUBLISHED_FOLDS,
    SITES,
    Windows,
    contradictory,
    numbered,
    published_folds,
    read_rows,
    shared_kmers,
    similar_to_training,
    training_files,
)

NEGATIVES = "GS_1"
PUBLISHED = {
    "donor positive": 10_973,
    "acceptor positive": 11_179,
    "donor negative": 11_000,
    "acceptor negative": 11_000,
}
"""Windows of each file of the GS / GS_1 set (Scalzitti et al. 2021, BMC Bioinformatics 22:561)."""


def check_spliceator(folder: str | Path, context: int = 400) -> str:
    """A report on Spliceator's training windows, plain aligned text.

    folder: holds Training_data/. context: nt about the centre that models see. Windows count as near-duplicates when
    they share 80 bases in a row. Letters that are no base are counted, where loading the set for training refuses them.
    Raises InputError for a missing or empty file, a row without a sequence, and a window shorter than the context.
    """
    windows, letters, lengths = _read(folder, context)
    kmers = shared_kmers(windows.ids)
    sections = [
        f"Spliceator's training windows in {folder}, negatives {NEGATIVES}",
        _files(windows, lengths),
        _letters(letters),
        _duplicates(windows),
        _conflicts(windows, context),
        _near_duplicates(windows, kmers),
        _parted(windows, kmers),
    ]
    return "\n\n".join(sections) + "\n"


def _read(folder: str | Path, context: int) -> tuple[Windows, Counter[str], dict[str, Counter[int]]]:
    """The windows, cut to the shortest; windows with each letter other than ACGT; {stratum: windows of each length}."""
    rows, letters, lengths = [], Counter(), {}
    for path, site, label in training_files(folder, NEGATIVES):
        found = list(read_rows(path))
        if not found:
            raise InputError(f"{path} holds no window: the file is empty or cut short")
        for group, sequence, where in found:
            if len(sequence) < context:
                raise InputError(f"{where}: window of {len(sequence)} nt is shorter than the context of {context} nt")
            letters.update(set(sequence.upper()) - set("ACGT"))
            ids = ENCODE[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
            rows.append((np.where(ids == UNK, N, ids), label, site, where, group))
        lengths[f"{site} {'positive' if label else 'negative'}"] = Counter(len(sequence) for _, sequence, _ in found)
    shortest = min(len(row[0]) for row in rows)
    ids = np.stack([row[0][(len(row[0]) - shortest) // 2 :][:shortest] for row in rows])
    return Windows(ids, *(np.array(column) for column in list(zip(*rows))[1:])), letters, lengths


def _files(windows: Windows, lengths: dict[str, Counter[int]]) -> str:
    centre, strata = windows.ids.shape[1] // 2, windows.strata
    rows = [("file", "windows", "published", "length", "at the centre")]
    for name, published in PUBLISHED.items():
        mine = windows.ids[strata == name]
        at = centre if name.startswith("donor") else centre - 2
        pairs = Counter(decode(pair) for pair in mine[:, at : at + 2]).most_common(4)
        rows.append(
            (
                name,
                f"{len(mine):,}",
                f"{published:,}",
                " to ".join(str(length) for length in sorted({min(lengths[name]), max(lengths[name])})),
                "  ".join(f"{pair} {_percent(count, len(mine))}" for pair, count in pairs),
            )
        )
    total, published = len(windows), sum(PUBLISHED.values())
    rows.append(("total", f"{total:,}", f"{published:,}", "", ""))
    genuine = all((strata == name).sum() == published for name, published in PUBLISHED.items())
    balance = "; ".join(
        f"{site} {_percent(windows.labels[mine].sum(), len(mine))}"
        for site in SITES
        for mine in [windows.of_site(site)]
    )
    return "\n".join(
        [
            "The numbers are those published." if genuine else "The numbers are NOT those published: another set.",
            _table(rows, left=(0, 4)),
            "At the centre: the two bases after the boundary of a donor, before that of an acceptor.",
            f"Class balance, share of splice sites: {balance}.",
        ]
    )


def _letters(letters: Counter[str]) -> str:
    if not letters:
        return "Letters other than ACGT: none."
    counts = ", ".join(
        f"{letter!r} in {count:,} window{'s' * (count > 1)}"
        + ("" if _is_base(letter) else " (no nucleotide code: training refuses it)")
        for letter, count in sorted(letters.items())
    )
    return f"Letters other than ACGT: {counts}."


def _is_base(letter: str) -> bool:
    return letter.isascii() and ENCODE[ord(letter)] != UNK


def _duplicates(windows: Windows) -> str:
    numbers, strata = numbered(windows.ids), windows.strata
    sets = {name: set(numbers[strata == name]) for name in PUBLISHED}
    lines = [
        f"Exact duplicates: {len(windows) - len(set(numbers)):,} of {len(windows):,} windows repeat an earlier one"
    ]
    for i, (name, mine) in enumerate(sets.items()):
        repeats = int((strata == name).sum()) - len(mine)
        if repeats:
            lines.append(f"  {repeats:,} within {name}")
        for other in list(sets)[i + 1 :]:
            if mine & sets[other]:
                lines.append(f"  {len(mine & sets[other]):,} in both {name} and {other}")
    return "\n".join(lines)


def _conflicts(windows: Windows, context: int) -> str:
    rows = [("", *SITES)]
    for name, ids in (("identical windows", windows.ids), (f"identical central {context} nt", windows.crop(context))):
        counts = []
        for site in SITES:
            mine = windows.of_site(site)
            counts.append(f"{contradictory(numbered(ids[mine]), windows.labels[mine]).sum():,}")
        rows.append((f"  {name}", *counts))
    return "Conflicts of label: windows that occur both as site and as non-site\n" + _table(rows)


def _near_duplicates(windows: Windows, kmers: csr_array) -> str:
    strata = windows.strata
    rows = [("", "same file", "same site type", "any window")]
    alike = {site: _alike(kmers, windows.of_site(site)) for site in SITES}
    anywhere = _alike(kmers, np.arange(len(windows)))
    for name in PUBLISHED:
        mine = np.flatnonzero(strata == name)
        counts = [_alike(kmers, mine).sum(), alike[name.split()[0]][mine].sum(), anywhere[mine].sum()]
        rows.append((f"  {name}", *(f"{count:,} ({_percent(count, len(mine))})" for count in counts)))
    return f"Near-duplicates: windows that share {KMER} bases in a row with another one\n" + _table(rows)


def _alike(kmers: csr_array, index: np.ndarray) -> np.ndarray:
    """bool [all windows]: members of the index that share a k-mer with another member."""
    shared = kmers[index].sum(axis=0) > 1
    found = np.zeros(kmers.shape[0], dtype=bool)
    found[index] = kmers[index] @ shared.astype(np.int32) > 0
    return found


def _parted(windows: Windows, kmers: csr_array) -> str:
    title = "Near-duplicates parted by the published folds: share of test windows that have one in the training part"
    counts = np.unique(windows.strata, return_counts=True)[1]
    if counts.min() < PUBLISHED_FOLDS:
        return f"{title}: too few windows for ten folds."
    rows = [("", "positive", "negative", "all")]
    for site in (*SITES, "both"):
        index = windows.of_site(site)
        shares = []
        for fold in published_folds(windows.labels[index]):
            labels = windows.labels[index[fold["test"]]]
            like = similar_to_training(kmers, index[fold["train"]], index[fold["test"]])
            shares.append((like[labels == 1].mean(), like[labels == 0].mean(), like.mean()))
        rows.append((f"  {site}", *(f"{share:.1%}" for share in np.mean(shares, axis=0))))
    return f"{title}\n{_table(rows)}\n`data.folds: grouped` keeps windows that share {KMER} bases in one part: none."


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}"


def _table(rows: list[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> str:
    """Aligned columns, those of `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

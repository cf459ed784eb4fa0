"""What is in a copy of Spliceator's training set, for a person to read before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simcsp.labels.spliceator import PUBLISHED_WINDOWS, contradictory, load_training, numbered
from simcsp.labels.splits import PUBLISHED_FOLDS, make_splits
from simcsp.text.alphabet import encode
from simcsp.text.kmers import KMER, shared_kmers, similar_to_training


def check_training(folder: str | Path, context: int = 400) -> str:
    """What is in a copy of Spliceator's training windows, beside what was published: a table and two paragraphs.

    Repeats and conflicts (the same bases as site and as non-site) are of the central `context` nt that models see;
    near-duplicates share 80 bases in a row with any other window. Raises InputError where the windows cannot be used.
    """
    import pandas as pd  # a third of a second that reading windows does not need

    windows = load_training(folder, "GS_1", context)
    seen = windows.crop(context)
    strata = windows.strata
    kmers = shared_kmers(windows.ids)
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

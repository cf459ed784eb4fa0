"""SpliceAI's networks (Jaganathan et al. 2019) on text, for whoever installs them: pip install spliceai keras.

They are CC BY-NC 4.0 and no part of this. Keras runs them on torch, unless KERAS_BACKEND says otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from tqdm import tqdm

from simcsp.core.errors import InputError
from simcsp.core.files import replacing, sha256_file
from simcsp.text.alphabet import A, N, T

CONTEXT = 5000
"""nt on either side that the networks read."""
NETWORKS = (1, 2, 3, 4, 5)
"""Their mean is what SpliceAI reports."""
PIECE = 100_000  # nt at once
LEAST = 1e-6  # probabilities are kept within this of 0 and 1, as those of a fold's classifier are


def network_files(numbers: Sequence[int] = NETWORKS) -> list[Path]:
    """The files of the installed networks. Raises InputError where the package or keras is absent."""
    try:  # by their distributions: benchmarks/spliceai.py has the package's name
        folder = Path(distribution("spliceai").locate_file("spliceai/models"))
        distribution("keras")
    except PackageNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install spliceai keras") from None
    return [folder / f"spliceai{number}.h5" for number in numbers]


class SpliceAI:
    name = "SpliceAI"
    context = CONTEXT

    def __init__(self, numbers: Sequence[int] = NETWORKS) -> None:
        files = network_files(numbers)
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras  # absent where nobody asks for it

        self.to_numpy = keras.ops.convert_to_numpy
        self.networks = [keras.models.load_model(file, compile=False) for file in files]
        self.parameters = sum(network.count_params() for network in self.networks)

    def chances(self, ids: np.ndarray) -> np.ndarray:
        """P(neither), P(acceptor), P(donor), float32 [n, 3], of the inner bases of a text uint8 [n + 2 CONTEXT].

        A site is at its exon's base: the last before a donor's boundary, the first after an acceptor's. N is all zero.
        """
        import torch

        bases = (ids[:, None] == np.arange(A, T + 1)).astype(np.float32)
        with torch.no_grad():
            return np.mean([self.to_numpy(network(bases[None]))[0] for network in self.networks], axis=0)


def boundary_odds(networks: SpliceAI, ids: np.ndarray, shown: str) -> np.ndarray:
    """float32 [n + 1]: log-odds of the likelier site at each boundary of a text uint8 [n], read as one strand.

    shown: what the progress bar says. Raises FloatingPointError where a probability is no number.
    """
    text = np.pad(ids, CONTEXT, constant_values=N)
    best = np.zeros(len(ids) + 1, dtype=np.float32)
    with tqdm(total=len(ids), desc=shown, unit="nt", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(ids), PIECE):
            p = networks.chances(text[start : start + PIECE + 2 * CONTEXT])
            if not np.isfinite(p).all():
                raise FloatingPointError(f"SpliceAI gives no number about base {start + 1:,} of {shown}")
            end = start + len(p)
            best[start:end] = np.maximum(best[start:end], p[:, 1])  # an acceptor's boundary lies before its base
            best[start + 1 : end + 1] = np.maximum(best[start + 1 : end + 1], p[:, 2])
            bar.update(len(p))
    best = np.clip(best, LEAST, 1 - LEAST)
    return np.log(best) - np.log1p(-best)


def spliceai_scorer(cache: Path) -> Callable[[np.ndarray, str], np.ndarray]:
    """(text of one strand uint8 [n], what to call it) -> `boundary_odds` of it, computed once and kept in `cache`.

    Each text has a file there, named after the checksums of the text and of the networks, whole or absent.
    """
    version = hashlib.sha256("".join(map(sha256_file, network_files())).encode())
    load = functools.cache(SpliceAI)  # for the first text that is not there yet

    def score(ids: np.ndarray, shown: str) -> np.ndarray:
        key = version.copy()
        key.update(np.ascontiguousarray(ids))
        path = cache / f"spliceai-{key.hexdigest()[:16]}.npz"
        if not path.is_file():
            odds = boundary_odds(load(), ids, shown)
            with replacing(path) as aside, open(aside, "wb") as file:
                np.savez_compressed(file, odds=odds.astype(np.float16))  # to 1 in 1,000: read as it was written below
        return _read_odds(path, len(ids) + 1)

    return score


def _read_odds(path: Path, length: int) -> np.ndarray:
    """float32 [length] of a file of `spliceai_scorer`, whose parts have checksums."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            odds = kept["odds"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        odds = np.array([])
    if odds.shape != (length,):
        raise InputError(f"{path} does not match its checksum: damaged; delete it to score its text again")
    return odds

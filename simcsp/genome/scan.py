"""What a trained model says about a genome: every GT and AG (or every position), both strands.

A model of bases labels a chunk of the record at once. Models of windows score site by site, by the mean of the folds':
each sees the window [b - length / 2, b + length / 2) about boundary b on the strand of the site, as it saw
Spliceator's: a donor's GT begins after the centre, an acceptor's AG ends before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from simcsp.core.config import Config
from simcsp.genome.regions import Span
from simcsp.model.bases import TYPES, Labeller
from simcsp.model.classifier import Classifier, load_classifier, predict
from simcsp.model.embedding import Autocast
from simcsp.model.encoder import check_length
from simcsp.text.alphabet import N, reverse_complement
from simcsp.text.sites import MINUS, TYPE, Sites, find_sites
from simcsp.text.store import TokenStore

_STRETCH = 1 << 16  # positions searched at a time
_BLOCK = 1 << 14  # sites scored at a time, at least: memory is bounded, and few batches are left part empty
_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}  # a batch: what keeps a CPU's caches warm, what keeps a GPU busy


def n_counts(ids: np.ndarray, length: int) -> np.ndarray:
    """int [len(ids) - length + 1]: how many N each window of `length` nt holds."""
    total = np.concatenate([[0], np.cumsum(ids == N)])
    return total[length:] - total[:-length]


def candidates(
    store: TokenStore,
    spans: Sequence[Span],
    types: Sequence[str],
    length: int,
    every: bool,
    max_n_share: float,
    skipped: Counter[str],
) -> Iterator[tuple[Sites, int]]:
    """(sites, positions passed) in blocks, ascending along each of the spans (record, first, last position).

    Sites whose window of `length` nt reaches beyond their record, or holds a larger share of N, are left out and
    counted in `skipped`. Of the store no more is in memory than a block needs.
    """
    waiting: list[Sites] = []
    passed = 0
    for number, first, last in spans:
        for low in range(first, last + 1, _STRETCH):
            high = min(low + _STRETCH - 1, last)
            waiting.append(_sites_between(store, number, low, high, types, length, every, max_n_share, skipped))
            passed += high - low + 1
            if sum(map(len, waiting)) >= _BLOCK:
                yield joined_sites(waiting), passed
                waiting, passed = [], 0
    if waiting:
        yield joined_sites(waiting), passed


def joined_sites(parts: list[Sites]) -> Sites:
    return Sites(*(np.concatenate([getattr(part, name) for part in parts]) for name in Sites.__dataclass_fields__))


def _sites_between(
    store: TokenStore,
    number: int,
    low: int,
    high: int,
    types: Sequence[str],
    length: int,
    every: bool,
    max_n_share: float,
    skipped: Counter[str],
) -> Sites:
    """Sites of one record whose position is in [low, high]."""
    record, half = store.records[number], length // 2
    begin, end = max(low - half - 4, 0), min(high + half + 4, record.length)
    ids = store.fetch(record.name, begin, end)
    boundary, kind = find_sites(ids, types, every)
    sites = Sites(np.full(len(boundary), number), boundary + begin, kind)
    sites = sites.take((sites.position >= low) & (sites.position <= high))
    fits = (sites.boundary >= half) & (sites.boundary + half <= record.length)
    skipped[f"window of {length} nt reaches beyond the record"] += int((~fits).sum())
    sites = sites.take(fits)
    if len(sites):
        known = n_counts(ids, length)[sites.boundary - half - begin] <= max_n_share * length
        skipped[f"more than {max_n_share:.0%} of the window is N"] += int((~known).sum())
        sites = sites.take(known)
    return sites


def cut_windows(store: TokenStore, sites: Sites, length: int) -> np.ndarray:
    """uint8 [n, length]: what is about each site, on its strand; N beyond the ends of its record."""
    records = [store.records[number] for number in sites.record]
    first = sites.boundary - length // 2
    inside = (first >= 0) & (first + length <= np.array([record.length for record in records], dtype=np.int64))
    offsets = np.array([record.offset for record in records], dtype=np.int64)
    windows = np.full((len(sites), length), N, dtype=np.uint8)
    windows[inside] = store.windows((offsets + first)[inside], length)
    for i in np.flatnonzero(~inside):
        begin, end = max(first[i], 0), min(first[i] + length, records[i].length)
        windows[i, begin - first[i] : end - first[i]] = store.fetch(records[i].name, begin, end)
    minus = MINUS[sites.kind]
    windows[minus] = reverse_complement(windows[minus])
    return windows


# -- the ensemble ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ensemble:
    """Fine-tuned models of one arm; the score of a site is the mean of their P(site).

    groups: (types of site that they score, models). length: nt of a window. typed: whether a score is that of a site
    of this type; models fitted on both types cannot tell a donor from an acceptor.
    """

    groups: list[tuple[tuple[str, ...], list[Classifier]]]
    length: int
    batch_size: int
    autocast: Autocast = nullcontext
    typed: bool = True

    @property
    def types(self) -> tuple[str, ...]:
        """What can be scored: 'donor', 'acceptor' or both."""
        return tuple(kind for types, _ in self.groups for kind in types)

    @property
    def members(self) -> int:
        """Models that score a site, at most."""
        return max(len(models) for _, models in self.groups)

    def score(self, windows: np.ndarray, types: np.ndarray) -> np.ndarray:
        """P(site) by each model, float32 [members, n], of windows uint8 [n, length] of these types [n].

        NaN beyond the models that score a type, where folds are missing. Equal windows are encoded once.
        """
        scores = np.full((self.members, len(windows)), np.nan, dtype=np.float32)
        for of_types, models in self.groups:
            mine = np.flatnonzero(np.isin(types, of_types))
            if not len(mine):
                continue
            rows = np.ascontiguousarray(windows[mine]).view(np.dtype((np.void, self.length))).ravel()
            _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
            distinct = windows[mine[first]]
            for number, model in enumerate(models):
                chances = predict(model, distinct, self.batch_size, self.autocast)
                check_numbers(chances, f"windows of a {' or '.join(of_types)}")
                scores[number, mine] = chances[inverse]
        return scores


def mean_and_sd(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the models, float64 [n], of scores [members, n]; sd is NaN for a single one."""
    count = np.isfinite(scores).sum(axis=0)
    mean = np.nansum(scores, axis=0, dtype=np.float64) / count
    squares = np.nansum((scores - mean) ** 2, axis=0)
    return mean, np.sqrt(squares / np.where(count > 1, count - 1, np.nan))


def load_ensemble(
    folders: dict[str, list[Path]], config: Config, device: torch.device, batch_size: int | None, autocast: Autocast
) -> Ensemble:
    """Load classifier checkpoints by what they were fitted on: {'donor', 'acceptor' or 'both': folders}.

    Models fitted on one type score it; those fitted on both score what no others do. batch_size: None takes what suits
    the device. Raises InputError for windows that a model cannot take.
    """
    length, groups = config.data.context, {}
    for kind in ("donor", "acceptor"):
        site = kind if kind in folders else "both"
        if site in folders:
            groups.setdefault(site, []).append(kind)
    loaded = []
    for site, types in groups.items():
        models = [load_classifier(folder, config.model, config.finetune.dropout).to(device) for folder in folders[site]]
        for model in models:
            check_length(model.bert, length, "data.context")
            model.eval()
        loaded.append((tuple(types), models))
    batch_size = batch_size or max(_TOKENS[device.type] // (length + 2), 1)
    return Ensemble(loaded, length, batch_size, autocast, typed="both" not in groups)


# -- scores, and files of them -----------------------------------------------------------------------------------------


def check_numbers(scores: np.ndarray, where: str) -> None:
    """Raises FloatingPointError where a score is no number."""
    if np.isnan(scores).any():
        raise FloatingPointError(
            f"the model gives NaN for {where}: damaged weights, or too large for the precision (--precision fp32)"
        )


@dataclass(frozen=True)
class Scored:
    """Sites with the mean and the standard deviation of the models' P(site), float64 [n]."""

    sites: Sites
    mean: np.ndarray
    sd: np.ndarray

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, index: np.ndarray) -> Scored:
        """The entries of an index or mask, in its order."""
        return Scored(self.sites.take(index), self.mean[index], self.sd[index])


def score_sites(store: TokenStore, sites: Sites, ensemble: Ensemble) -> Scored:
    """The ensemble's scores of sites whose windows lie in the store."""
    windows = cut_windows(store, sites, ensemble.length)
    return Scored(sites, *mean_and_sd(ensemble.score(windows, TYPE[sites.kind])))


def label_sites(
    store: TokenStore, spans: Sequence[Span], labeller: Labeller, types: Sequence[str], every: bool
) -> Iterator[tuple[Scored, int]]:
    """(scored sites, positions passed) of the spans (record, first, last position) by a model of bases, ascending.

    A site's score is that of the exon's base at its boundary. Chunks lie on a grid of the record, whatever the spans,
    so a score does not depend on the region that is asked for.
    """
    known: tuple[int, int] | None = None  # record and chunk whose chances are at hand: short regions share them
    for number, first, last in spans:
        record = store.records[number]
        for chunk in range((first - 1) // labeller.chunk, (last - 1) // labeller.chunk + 1):
            start = chunk * labeller.chunk
            low, high = max(first, start + 1), min(last, start + labeller.chunk)
            sites = _motifs_between(store, number, low, high, types, every)
            mean = np.zeros(0, np.float32)
            if len(sites):
                if known != (number, chunk):
                    chances = labeller.probabilities(labeller.chunk_odds(store, record, chunk))
                    known = number, chunk
                column = (TYPE[sites.kind] == TYPES[1]).astype(np.intp)
                mean = chances[MINUS[sites.kind].astype(np.intp), sites.position - 1 - start, column]
                check_numbers(mean, f"{record.name}:{low}-{high}")
            yield Scored(sites, mean.astype(np.float64), np.full(len(sites), np.nan)), high - low + 1


def _motifs_between(store: TokenStore, number: int, low: int, high: int, types: Sequence[str], every: bool) -> Sites:
    """Sites of one record whose position is in [low, high], and whose exon's base is known."""
    record = store.records[number]
    begin, end = max(low - 4, 0), min(high + 4, record.length)
    ids = store.fetch(record.name, begin, end)
    boundary, kind = find_sites(ids, types, every)
    sites = Sites(np.full(len(boundary), number), boundary + begin, kind)
    sites = sites.take((sites.position >= low) & (sites.position <= high))
    return sites.take(ids[sites.position - 1 - begin] != N)

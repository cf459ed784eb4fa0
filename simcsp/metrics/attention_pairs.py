"""Attention between the two sites of a pair: donor and acceptor of one intron, of one exon, and pairs that are no
neighbours (SpliceBERT's figure 4, Chen et al. 2024), beside pairs of bases of the same windows that are as far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BertModel

from simcsp.core.errors import InputError
from simcsp.labels.placed import Placed
from simcsp.metrics.scores import interval_of
from simcsp.model.embedding import Autocast, token_batches
from simcsp.text.alphabet import N, decode
from simcsp.text.reading import open_binary

WINDOW = 1000
"""nt of the published windows."""
AGREEMENT = 0.95  # share of the sites that must show the bases which the file names
_APART = 10  # nt from the sites that a control's bases have at least
_CONTROL_TRIES = 50


@dataclass(frozen=True)
class Pairs:
    """n pairs in windows. ids: uint8 [n, length] on the transcript's strand; places: int [n, 2], the donor's first
    intron base or the acceptor's last, and the partner; kinds: [n, 2] of 'D', 'A' or '.'; gene: object [n]; controls:
    int [n, 2], as far apart in the same window."""

    ids: np.ndarray
    places: np.ndarray
    kinds: np.ndarray
    gene: np.ndarray
    controls: np.ndarray


def read_pairs(path: Path, places: Placed, length: int, seed: int, most: int) -> Pairs:
    """The pairs of a published BEDPE whose window of `length` nt lies in its transcript and in a known stretch; `most`
    of them at random where there are more.

    The name is CHROM:START-END|group|kind|kind|bases|bases|distance, or of introns CHROM:START-END|....
    Raises InputError with the line for what is malformed, and where the sites show other bases than named: then the
    file is of another build.
    """
    rows, told = [], []
    for pair in _file_pairs(path):
        if (window := pair.window(places, length)) is not None:
            ids, at, gene = window
            shown = [_shows(ids, site, kind, motif) for site, kind, motif in zip(at, pair.kinds, pair.bases)]
            told += [agrees for agrees in shown if agrees is not None]
            rows.append((ids, at, list(pair.kinds), gene))
    if told and np.mean(told) < AGREEMENT:
        raise InputError(
            f"{path}: {np.mean(told):.0%} of its sites show the bases that it names: the file is of another build than "
            "the genome beside it"
        )
    rng = np.random.default_rng(seed)
    if len(rows) > most:
        rows = [rows[i] for i in np.sort(rng.choice(len(rows), most, replace=False))]
    controls = [_control(at, length, rng) for _, at, _, _ in rows]
    rows = [(*row, control) for row, control in zip(rows, controls) if control is not None]
    columns = zip(*rows) if rows else [[]] * 5
    return Pairs(*map(np.array, columns))


@dataclass(frozen=True)
class _FilePair:
    """A row of a BEDPE: the transcript's region [start, end) and the sites of the pair, on the forward strand."""

    chrom: str
    start: int
    end: int
    sites: np.ndarray
    strand: str
    kinds: Sequence[str]
    bases: Sequence[str]

    def window(self, places: Placed, length: int) -> tuple[np.ndarray, np.ndarray, str] | None:
        """(ids [length] as the strand is read, places of the two sites in them, gene); None without such a window."""
        left = int(self.sites.sum()) // 2 - length // 2
        if left < self.start or left + length > self.end or np.ptp(self.sites) > length - 3:
            return None
        known = places.fetch(self.chrom, left, left + length, self.strand)
        at = self.sites - left if self.strand == "+" else length - 1 - (self.sites - left)
        if known is None or (known[0] == N).any() or at.min() < 2 or at.max() > length - 3:
            return None
        return known[0], at, known[1]


def _file_pairs(path: Path) -> Iterator[_FilePair]:
    """Raises InputError with the line for what is malformed."""
    with open_binary(path) as handle:
        for number, line in enumerate(handle, start=1):
            fields = line.decode("utf-8", "replace").rstrip("\n").split("\t")
            try:
                chrom, first, _, _, second, _, name, _, strand = fields[:9]
                words = name.split("|")
                start, end = map(int, words[0].split(":")[1].split("-"))
                sites = np.array([int(first), int(second)])
            except (ValueError, IndexError):
                raise InputError(
                    f"{path}, line {number}: no pair of sites in BEDPE with a transcript's region"
                ) from None
            if len(words) == 7:
                kinds, bases = words[2:4], words[4:6]
            else:
                kinds, bases = ("DA", ("GT", "AG")) if strand == "+" else ("AD", ("AG", "GT"))
            yield _FilePair(chrom, start, end, sites, strand, kinds, bases)


def _shows(ids: np.ndarray, site: int, kind: str, motif: str) -> bool | None:
    """Whether a window has the named bases at a site; None for a place that is no site."""
    return None if kind not in ("D", "A") else decode(ids[site - (kind == "A") :][:2]) == motif


def _control(at: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray | None:
    """Two places of a window in the order and at the distance of `at`, neither within 10 nt of either; None without."""
    for _ in range(_CONTROL_TRIES):
        control = at + int(rng.integers(1 - at.min(), length - 1 - at.max()))
        if np.abs(control[:, None] - at).min() >= _APART:
            return control
    return None


@torch.no_grad()
def pair_attention(
    bert: BertModel,
    ids: np.ndarray,
    places: np.ndarray,
    batch_size: int,
    autocast: Autocast = nullcontext,
    advance: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """float32 [n, pairs, layers, 2]: attention from the first to the second place of each pair, and back.

    places: int [n, pairs, 2] in windows uint8 [n, length]. Of the attention's maximum over heads: the mean over the
    three queries about one place of the maximum over the three keys about the other. Only those queries' rows are made,
    from each block's own projections, so that the kernels that give no attention do for the rest.
    """
    bert.eval()
    parts, start, around = [], 0, torch.arange(-1, 2, device=bert.device)
    for tokens in token_batches(ids, batch_size, bert.device):
        at = torch.from_numpy(places[start : start + len(tokens)].astype(np.int64)).to(bert.device)
        start += len(tokens)
        near = (at[..., None] + 1 + around).flatten(1)  # [CLS] comes first; [batch, pairs x 2 x 3]
        layers = []
        with autocast():
            states = bert.embeddings(input_ids=tokens)
            for block in bert.encoder.layer:
                layers.append(_near_attention(block.attention.self, states, near).float())
                states = block(states)
        between = torch.stack(layers, dim=1)  # [batch, layers, queries, keys], both near the places
        pairs = at.shape[1]
        between = between.unflatten(3, (pairs, 2, 3)).unflatten(2, (pairs, 2, 3))
        own = torch.diagonal(between, dim1=2, dim2=5)  # [batch, layers, from, query, to, key, pair]
        there, back = own[:, :, 0, :, 1], own[:, :, 1, :, 0]
        means = [one.amax(dim=3).mean(dim=2) for one in (there, back)]  # [batch, layers, pair]
        parts.append(torch.stack(means, dim=-1).transpose(1, 2).cpu())
        advance(len(tokens))
    return torch.cat(parts).numpy()


def _near_attention(attention: torch.nn.Module, states: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """[batch, near, near]: maximum over heads of a block's attention between the tokens `near` [batch, k]."""
    rows = torch.arange(len(near), device=near.device)[:, None]
    query, key = (
        project(given).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for project, given in ((attention.query, states[rows, near]), (attention.key, states))
    )
    weights = (query @ key.transpose(2, 3) * attention.scaling).float().softmax(dim=-1)
    return weights.gather(3, near[:, None, None].expand(*weights.shape[:3], -1)).amax(dim=1)


def attention_rows(group: str, pairs: Pairs, attention: np.ndarray, resamples: int, seed: int) -> list[dict]:
    """Median over pairs of the mean over directions and layers, and for pairs of a donor and an acceptor the medians of
    either direction by layer; 95 % intervals over resampled genes, the floor being the controls' median.

    attention: [n, 2, layers, 2] of `pair_attention` for (places, controls).
    """
    both = attention.mean(axis=(2, 3))
    metrics = {"": both, "share of pairs above their control": (both[:, :1] > both[:, 1:]).astype(float)}
    is_site = (np.sort(pairs.kinds, axis=1) == ["A", "D"]).all(axis=1)
    if is_site.all():
        donor_first = (pairs.kinds[:, 0] == "D")[:, None, None, None]
        directed = np.where(donor_first, attention, attention[..., ::-1])
        for layer in range(attention.shape[2]):
            metrics[f"layer {layer + 1}, donor to acceptor"] = directed[:, :, layer, 0]
            metrics[f"layer {layer + 1}, acceptor to donor"] = directed[:, :, layer, 1]
    rng = np.random.default_rng(seed)
    genes, gene = np.unique(pairs.gene, return_inverse=True)
    members = [np.flatnonzero(gene == number) for number in range(len(genes))]
    draws = [np.concatenate([members[i] for i in rng.integers(len(genes), size=len(genes))]) for _ in range(resamples)]
    rows = []
    for name, values in metrics.items():
        summary = np.mean if name.startswith("share") else np.median
        interval = interval_of([summary(values[index, 0]) for index in draws])
        row = {"metric": f"{group}, {name}" if name else group, "n": len(values), "value": float(summary(values[:, 0]))}
        floor = 0.5 if name.startswith("share") else float(np.median(values[:, 1]))
        rows.append(row | {"floor": floor} | interval)
    return rows

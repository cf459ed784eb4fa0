"""How well a masked-language model fills in 15 % masked bases, by region of transcripts: SpliceBERT's balanced accuracy
(Chen et al. 2024), beside the shallow models that it has to beat.

What the paper leaves open: near a site are the intron's bases within NEAR of it (its annotation is not published); a
base is that of the transcript whose window it is in, the longest of a gene; long non-coding are spliced transcripts of
at least 200 nt of genes without any coding part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertForMaskedLM

from simcsp.core.errors import InputError
from simcsp.labels.floors import MarkovChain, NeighbourTable
from simcsp.metrics.scores import interval_of
from simcsp.model.embedding import Autocast, read_batches
from simcsp.text.alphabet import A, N, T
from simcsp.text.annotation import Transcript
from simcsp.text.store import TokenStore

NEAR = 100  # nt
LONG_NONCODING = 200  # nt, spliced
FLOORS = {"counts of 3 bases on either side": (NeighbourTable, 3), "order-5 Markov chain": (MarkovChain, 5)}
"""{name: (model, bases on either side that it sees, all of them unmasked)}"""
_OF_REPEATS = ("CDS", "intron", "exon")  # regions that are told apart by soft-masking too


@dataclass(frozen=True)
class RegionWindows:
    """ids uint8 [n, length] on the transcripts' strand; regions {name: bool [n, length]}; gene: object [n]."""

    ids: np.ndarray
    regions: dict[str, np.ndarray]
    gene: np.ndarray


def transcript_regions(
    exons: np.ndarray, coding: np.ndarray | None, strand: str, start: int, end: int, noncoding: bool = False
) -> dict[str, np.ndarray]:
    """{region: bool [end - start]} of the bases [start, end) of a record, as the strand is read.

    exons: int [n, 2] of the transcript; coding: its coding parts alike, None where they are not known (its exons are
    then called exon). noncoding: it is a long non-coding RNA.
    """
    place = np.arange(start, end)
    exon = _within(place, exons)
    intron = (place >= exons[0, 0]) & (place < exons[-1, 1]) & ~exon
    after_left = place - exons[:, 1][np.maximum(np.searchsorted(exons[:, 1], place, side="right") - 1, 0)]
    before_right = (
        exons[:, 0][np.minimum(np.searchsorted(exons[:, 0], place, side="right"), len(exons) - 1)] - place - 1
    )
    donor, acceptor = (after_left, before_right) if strand == "+" else (before_right, after_left)
    near_donor, near_acceptor = intron & (donor < NEAR), intron & (acceptor < NEAR)
    found = {"intron": intron, "near donor": near_donor, "near acceptor": near_acceptor}
    found["deep intron"] = intron & ~near_donor & ~near_acceptor
    if noncoding:
        found = {"lncRNA exon": exon, "lncRNA intron": intron}
    elif coding is None:
        found["exon"] = exon
    else:
        cds, (first, last) = _within(place, coding), (coding[0, 0], coding[-1, 1])
        left, right = exon & (place < first), exon & (place >= last)
        found |= {"CDS": cds, "5'UTR": left, "3'UTR": right} if strand == "+" else {}
        found |= {"CDS": cds, "5'UTR": right, "3'UTR": left} if strand == "-" else {}
    return {name: here if strand == "+" else here[::-1] for name, here in found.items()}


def _within(place: np.ndarray, stretches: np.ndarray) -> np.ndarray:
    """bool [n]: whether each place lies in one of the ascending, disjoint stretches [k, 2]."""
    last = np.searchsorted(stretches[:, 0], place, side="right") - 1
    return (last >= 0) & (place < stretches[np.maximum(last, 0), 1])


def region_windows(
    store: TokenStore,
    transcripts: Iterable[Transcript],
    coding: Iterable[Transcript],
    length: int,
    count: int,
    seed: int,
) -> RegionWindows:
    """`count` random windows of the longest transcript of each gene that holds one, drawn by its length.

    coding: of `read_annotation` for CDS; none at all: coding parts are not known. Windows with an N are left out.
    """
    coding_of = {transcript.name: transcript.exons for transcript in coding}
    longest = _longest_of_genes(transcripts, coding_of)
    chosen = [one for one in longest if _span(one) >= length and _is_told(one, coding_of)]
    if not chosen:
        raise InputError(f"no transcript of the annotation is {length} nt long: nothing to mask")
    coding_genes = {one.gene for one in longest if one.name in coding_of}
    rng, rows, regions, lower, genes = np.random.default_rng(seed), [], [], [], []
    spans = np.array([_span(one) for one in chosen], dtype=float)
    for number in rng.choice(len(chosen), count, p=spans / spans.sum()).tolist():
        one = chosen[number]
        start = int(one.exons[0, 0] + rng.integers(spans[number] - length + 1))
        ids = store.fetch(one.chrom, start, start + length, one.strand)
        if (ids == N).any():
            continue
        noncoding = bool(coding_of) and one.gene not in coding_genes
        own = coding_of.get(one.name)
        regions.append(transcript_regions(one.exons, own, one.strand, start, start + length, noncoding))
        soft = store.lower(store.by_name[one.chrom].offset + start, length).astype(bool)
        lower.append(soft if one.strand == "+" else soft[::-1])
        rows.append(ids)
        genes.append(one.gene)
    return RegionWindows(np.stack(rows), _masks(regions, np.stack(lower)), np.array(genes))


def _span(one: Transcript) -> int:
    """From the start of the first exon to the end of the last, nt."""
    return int(one.exons[-1, 1] - one.exons[0, 0])


def _longest_of_genes(transcripts: Iterable[Transcript], coding_of: dict[str, np.ndarray]) -> list[Transcript]:
    """The longest transcript of each gene; of a coding gene the longest of its coding ones."""
    longest: dict[str, Transcript] = {}
    for one in transcripts:
        other = longest.get(one.gene)
        if other is None or (one.name in coding_of, _span(one)) > (other.name in coding_of, _span(other)):
            longest[one.gene] = one
    return list(longest.values())


def _masks(regions: list[dict[str, np.ndarray]], repeat: np.ndarray) -> dict[str, np.ndarray]:
    """{region: bool [n, length]} of {region: bool [length]} of each window; some apart in repeats, bool [n, length]."""
    masks, nowhere = {"all": np.ones(repeat.shape, dtype=bool)}, np.zeros(repeat.shape[1], dtype=bool)
    for name in dict.fromkeys(name for of_window in regions for name in of_window):
        masks[name] = np.stack([of_window.get(name, nowhere) for of_window in regions])
    if repeat.any():
        for name in set(_OF_REPEATS) & set(masks):
            masks[f"{name}, repeats"], masks[f"{name}, outside repeats"] = masks[name] & repeat, masks[name] & ~repeat
    return masks


def _is_told(one: Transcript, coding_of: dict[str, np.ndarray]) -> bool:
    """Whether the regions of a transcript have names: coding, long non-coding, or of an annotation without CDS."""
    spliced = len(one.exons) > 1 and (one.exons[:, 1] - one.exons[:, 0]).sum() >= LONG_NONCODING
    return not coding_of or one.name in coding_of or bool(spliced)


def predict_masked(
    model: BertForMaskedLM,
    inputs: np.ndarray,
    batch_size: int,
    autocast: Autocast = nullcontext,
    advance: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """The likeliest base (id) at every place, uint8 [n, length], of masked windows uint8 [n, length]."""

    def likeliest(tokens: torch.Tensor) -> torch.Tensor:
        return model(input_ids=tokens).logits[:, 1:-1, A : T + 1].argmax(dim=-1) + A

    return read_batches(model, inputs, batch_size, likeliest, autocast, advance=advance).astype(np.uint8)


def shallow_predictions(windows: RegionWindows, name: str) -> np.ndarray:
    """The likeliest base by one of FLOORS, uint8 [n, length], fitted on the other half of the genes; so near to the
    ends of a window that it does not see its neighbours, A is called."""
    build, reach = FLOORS[name]
    half = np.unique(windows.gene, return_inverse=True)[1] % 2
    called = np.full(windows.ids.shape, A, dtype=np.uint8)
    for number in (0, 1) if windows.ids.shape[1] > 2 * reach else ():
        model = build(reach)
        others = windows.ids[half != number]
        gap = np.full((len(others), 1), N, dtype=np.uint8)
        model.add(np.concatenate([others, gap], axis=1).ravel())
        rows = np.flatnonzero(half == number)
        near = np.lib.stride_tricks.sliding_window_view(windows.ids[rows], 2 * reach + 1, axis=1)
        best = model.predict(near.reshape(-1, 2 * reach + 1)).argmax(axis=1) + A
        called[rows, reach : windows.ids.shape[1] - reach] = best.reshape(len(rows), -1)
    return called


def balanced_accuracy(truth: np.ndarray, called: np.ndarray) -> float:
    """Mean over the bases that occur of the share of each that is called right."""
    right = np.bincount(truth[truth == called], minlength=T + 1)
    there = np.bincount(truth, minlength=T + 1)
    return float((right[there > 0] / there[there > 0]).mean())


def region_rows(windows: RegionWindows, asked: np.ndarray, called: np.ndarray, resamples: int, seed: int) -> list[dict]:
    """Balanced and plain accuracy of each region, with 95 % intervals over resampled genes, and the floor's:
    that of the better of FLOORS over all regions, which both have a row.

    asked: bool [n, length], the masked bases; called: ids of `predict_masked`.
    """
    shallow = {name: shallow_predictions(windows, name) for name in FLOORS}
    accuracies = {name: balanced_accuracy(windows.ids[asked], one[asked]) for name, one in shallow.items()}
    floor_called, rng = shallow[max(accuracies, key=accuracies.get)], np.random.default_rng(seed)
    gene = np.unique(windows.gene, return_inverse=True)[1]
    rows = [
        {"metric": f"balanced accuracy of {name}, all", "n": int(asked.sum()), "value": value}
        for name, value in accuracies.items()
    ]
    for name, region in windows.regions.items():
        here = asked & region
        row_of = np.nonzero(here)[0]
        if not len(row_of):
            continue
        truth, own, floor = windows.ids[here], called[here], floor_called[here]
        counts = np.zeros((gene.max() + 1, 2, 4))  # right, all
        np.add.at(counts, (gene[row_of], 1, truth - A), 1)
        np.add.at(counts, (gene[row_of], 0, truth - A), truth == own)
        drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
        right, there = np.tensordot(drawn, counts, axes=1).transpose(1, 0, 2)
        there = np.where(there > 0, there, np.nan)
        drawn_any = np.isfinite(there).any(axis=1)
        balanced = np.nanmean((right / there)[drawn_any], axis=1)
        plain = right.sum(axis=1)[drawn_any] / np.nansum(there[drawn_any], axis=1)
        of = {"n": len(truth), "value": balanced_accuracy(truth, own), "floor": balanced_accuracy(truth, floor)}
        rows.append({"metric": f"balanced accuracy, {name}", **of, **interval_of(balanced)})
        of = {"n": len(truth), "value": float((truth == own).mean()), "floor": float((truth == floor).mean())}
        rows.append({"metric": f"accuracy, {name}", **of, **interval_of(plain)})
    return rows

"""How well a masked-language model fills in one base of a record it has not seen, by region, beside a model that sees
the three bases on either side.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from transformers import BertForMaskedLM

from simcsp.labels.floors import NeighbourTable
from simcsp.model.embedding import Autocast, token_batches
from simcsp.text.alphabet import MASK, A, N, T, reverse_complement
from simcsp.text.annotation import Transcript
from simcsp.text.corpora import Corpus
from simcsp.text.sites import ACCEPTOR_REACH, DONOR_REACH
from simcsp.text.store import Record, TokenStore

REGIONS = ("intergenic", "intron", "exon", "splice site")  # a base belongs to the last that holds it
WHOLE = -1  # not a region: bases drawn evenly from the whole record
BLOCK = 10_000  # nt: bases nearer to each other than this are resampled together
RESAMPLES = 2000


def label_regions(transcripts: list[Transcript], record: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(region int8 [length], index into REGIONS; minus bool [length], read on the reverse strand) of a record.

    Where genes of both strands overlap, a base is that of the transcript that comes last.
    """
    region, minus = np.zeros(length, dtype=np.int8), np.zeros(length, dtype=bool)
    of_record = [transcript for transcript in transcripts if transcript.chrom == record]
    for kind in ("intron", "exon", "splice site"):
        for transcript in of_record:
            for start, end in _stretches(transcript, kind):
                start, end = max(start, 0), min(end, length)
                region[start:end] = REGIONS.index(kind)
                minus[start:end] = transcript.strand == "-"
    return region, minus


def _stretches(transcript: Transcript, kind: str) -> list[tuple[int, int]]:
    exons = [tuple(exon) for exon in transcript.exons.tolist()]
    gaps = [(left[1], right[0]) for left, right in zip(exons, exons[1:])]
    if kind == "exon":
        return exons
    if kind == "intron":
        return gaps
    reach = {"+": (*DONOR_REACH, *ACCEPTOR_REACH), "-": (*ACCEPTOR_REACH[::-1], *DONOR_REACH[::-1])}[transcript.strand]
    left = [(start - reach[0], start + reach[1]) for start, _ in gaps]
    return left + [(end - reach[2], end + reach[3]) for _, end in gaps]


def choose_places(region: np.ndarray, usable: np.ndarray, per_region: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64, regions int8): at most `per_region` usable places of each region, then as many as those together
    from anywhere on the record, whose region is WHOLE."""
    rng = np.random.default_rng(seed)
    chosen = []
    for number in range(len(REGIONS)):
        places = np.flatnonzero((region == number) & usable)
        chosen.append(rng.choice(places, min(per_region, len(places)), replace=False))
    drawn, anywhere = sum(map(len, chosen)), np.flatnonzero(usable)
    chosen.append(rng.choice(anywhere, min(drawn, len(anywhere)), replace=False))
    regions = np.repeat(np.array([*range(len(REGIONS)), WHOLE], dtype=np.int8), [len(places) for places in chosen])
    return np.concatenate(chosen), regions


@torch.no_grad()
def masked_predictions(
    model: BertForMaskedLM, windows: np.ndarray, batch_size: int, autocast: Autocast = nullcontext
) -> np.ndarray:
    """P(A, C, G, T) of the central base, float32 [n, 4], with it alone masked; windows uint8 [n, length]."""
    model.eval()
    masked, middle = windows.copy(), windows.shape[1] // 2
    parts = []
    masked[:, middle] = MASK
    for tokens in token_batches(masked, batch_size, model.device):
        with autocast():
            logits = model(input_ids=tokens).logits[:, middle + 1, A : T + 1]  # [CLS] comes first
        parts.append(logits.float().softmax(dim=-1).cpu())
    return torch.cat(parts).numpy()


def compare_with_neighbours(
    probabilities: np.ndarray, table: NeighbourTable, windows: np.ndarray, places: np.ndarray, seed: int
) -> dict[str, float]:
    """Accuracy of both models on the central bases, loss in nats, and the difference in accuracy with its 95 % interval
    from a bootstrap over blocks of 10 kb.

    probabilities: float [n, 4] of the encoder; windows: uint8 [n, length]; places: int [n] on the record.
    """
    truth = windows[:, windows.shape[1] // 2].astype(int) - A
    theirs = table.predict(windows)
    right, right_theirs = ((p.argmax(axis=1) == truth).astype(float) for p in (probabilities, theirs))
    blocks = np.unique(places // BLOCK, return_inverse=True)[1]
    sums = np.bincount(blocks, weights=right - right_theirs)
    sizes = np.bincount(blocks)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    rows = np.arange(len(truth))
    return {
        "bases": len(truth),
        "accuracy": right.mean(),
        "neighbours": right_theirs.mean(),
        "difference": (right - right_theirs).mean(),
        "low": low,
        "high": high,
        "loss": -np.log(probabilities[rows, truth]).mean(),
        "loss_neighbours": -np.log(theirs[rows, truth]).mean(),
    }


def choose_windows(
    store: TokenStore, record: Record, transcripts: list[Transcript], length: int, per_region: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(windows uint8 [n, length] on the strand of their gene, places [n], regions [n]) of a held-out record."""
    region, minus = label_regions(transcripts, record.name, record.length)
    ids, half = store.fetch(record.name, 0, record.length), length // 2
    known = np.concatenate([[0], np.cumsum(ids == N)])
    usable = np.zeros(record.length, dtype=bool)
    usable[half : record.length - length + half + 1] = known[length:] == known[: record.length - length + 1]
    usable[: length - half] = usable[record.length - half :] = False  # either strand's window must fit
    places, regions = choose_places(region, usable, per_region, seed)
    forward = np.lib.stride_tricks.sliding_window_view(ids, length)
    left = np.where(minus[places], places - (length - 1 - half), places - half)
    windows = forward[left]
    windows[minus[places]] = reverse_complement(windows[minus[places]])
    complete = (windows != N).all(axis=1)
    return windows[complete], places[complete], regions[complete]


def best_neighbours(corpus: Corpus, stretches: np.ndarray, windows: np.ndarray) -> NeighbourTable:
    """Of the tables fitted on each source of a text, and on all, the one that is right most often on `windows`."""
    sources = range(len(corpus.store.manifest["sources"]))
    tables = [NeighbourTable() for _ in sources]
    whole = NeighbourTable()
    ends = np.array([record.offset + record.length for record in corpus.store.records])
    for start, end in stretches:
        source = corpus.store.records[int(np.searchsorted(ends, start, side="right"))].source
        for table in (tables[source], whole):
            table.add(np.asarray(corpus.store.ids[start:end]))
    truth = windows[:, windows.shape[1] // 2] - A
    return max([whole, *tables], key=lambda table: (table.predict(windows).argmax(axis=1) == truth).mean())

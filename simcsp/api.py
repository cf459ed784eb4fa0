"""The library in five lines: load a checkpoint, embed sequences, SCCS and NMI of vectors, splice sites of sequences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.genome.regions import find_spans
from simcsp.genome.scan import Scan, Scored
from simcsp.metrics.clustering import leiden
from simcsp.metrics.clustering import nmi as nmi_of_clusters
from simcsp.metrics.sccs import sccs_interval
from simcsp.model.bases import Labeller, load_bases
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Autocast
from simcsp.model.encoder import MIX, mix_weights, read_pooling, window_vectors
from simcsp.model.fast_blocks import for_prediction
from simcsp.text.alphabet import CLS, PAD, SEP, encode
from simcsp.text.sites import MINUS, TYPE
from simcsp.text.store import TokenStore, open_sequence_store, open_store

SHOW_PROGRESS = 100  # batches or chunks from which a bar is shown, where there is a terminal
MOTIF_LABELS = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")


class Model:
    """An encoder of nucleotide sequences, as `load` gives it.

    bert: the transformers model, in evaluation mode; pooling: how a sequence becomes a vector, as the checkpoint
    records it (`cls`, `mean` or `centre`, with @LAYER or @mix); max_length: nt of the longest sequence that it takes.
    """

    def __init__(self, model: BertForMaskedLM, pooling: str, autocast: Autocast) -> None:
        self.bert, self.pooling, self._autocast = model.bert.eval(), pooling, autocast
        self.max_length: int = model.config.max_position_embeddings - 2

    def embed(self, sequences: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """One vector a sequence, float32 [n, hidden], in their order.

        sequences: of any lengths from 2 to max_length; lower case, U and IUPAC letters are accepted. Short ones are
        padded to the longest of their batch and masked, so that a vector does not depend on the batch, but for float
        rounding. batch_size: sequences that go through the encoder at once; lower it where memory is short.
        Raises InputError for a sequence of another length or with a letter that is not a nucleotide code.
        """
        if isinstance(sequences, str):
            raise InputError("embed takes a list of sequences, not one string: write [sequence]")
        ids = [encode(sequence, f"sequence {i}") for i, sequence in enumerate(sequences)]
        for i, row in enumerate(ids):
            if not 2 <= len(row) <= self.max_length:
                raise InputError(f"sequence {i} has {len(row)} nt: this model takes 2 to {self.max_length}")
        vectors = np.empty((len(ids), self.bert.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, "embed", unit="batch", disable=None if len(starts) >= SHOW_PROGRESS else True):
            batch = order[start : start + batch_size]
            vectors[batch] = self._vectors([ids[i] for i in batch])
        return vectors

    @torch.no_grad()
    def _vectors(self, rows: list[np.ndarray]) -> np.ndarray:
        """Vectors float32 [batch, hidden] of ids uint8 [length], ascending by length."""
        lengths, longest = torch.tensor([len(row) for row in rows]), len(rows[-1])
        tokens = torch.full((len(rows), longest + 2), PAD)
        tokens[:, 0] = CLS
        for i, row in enumerate(rows):
            tokens[i, 1 : 1 + len(row)] = torch.from_numpy(row.astype(np.int64))
            tokens[i, 1 + len(row)] = SEP
        tokens, lengths = tokens.to(self.bert.device), lengths.to(self.bert.device)
        with self._autocast():
            if len(rows[0]) == longest:  # without a mask, which keeps the fast attention kernels
                return window_vectors(self.bert, tokens.int(), self.pooling).float().cpu().numpy()
            kind, layer = read_pooling(self.pooling)
            mask = (tokens != PAD).long()
            states = self.bert(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
            if layer == MIX:
                chosen = (torch.stack(states, dim=-1) * mix_weights(self.bert)).sum(dim=-1)
            else:
                chosen = states[-1 if layer is None else layer]
            return pool_padded(chosen, lengths, kind).float().cpu().numpy()


def pool_padded(states: torch.Tensor, lengths: torch.Tensor, kind: str) -> torch.Tensor:
    """One vector a sequence, [batch, hidden], of states [batch, 1 + bases + 1 + padding, hidden]; lengths: [batch]."""
    if kind == "cls":
        return states[:, 0]
    base = torch.arange(states.shape[1], device=states.device) - 1  # of a token; [CLS] is -1
    first, end = torch.zeros_like(lengths), lengths
    if kind == "centre":
        first, end = lengths // 2 - 1, lengths // 2 + 1
    used = ((base >= first[:, None]) & (base < end[:, None])).to(states.dtype)
    return (states * used[..., None]).sum(dim=1) / used.sum(dim=1, keepdim=True)


def load(source: str | Path, device: str = "auto", precision: str = "fp32") -> Model:
    """The encoder of a checkpoint: a folder of this project, SpliceBERT or a BERT with its vocabulary, or a hub id.

    device: auto (a GPU where there is one), cpu or cuda; precision: fp32, bf16, fp16 or auto.
    Raises InputError for what is no such checkpoint.
    """
    accelerator = build_accelerator(device, precision)
    config = ModelConfig(source=str(source), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model, pooling, _ = load_backbone(config)
    return Model(model.to(accelerator.device), pooling, accelerator.autocast)


def sccs(vectors: np.ndarray, labels: Sequence, seed: int = 0) -> dict[str, float]:
    """Spearman correlation of "two windows share a class" with the cosine similarity of their vectors, over all pairs.

    vectors: [n, hidden]; labels: [n], any values. Returns sccs, its 95 % interval (low, high), the 95 % band under
    permuted labels (null_low, null_high) and pair_auc. Raises InputError where a class lacks a pair.
    """
    classes = np.unique(np.asarray(labels), return_inverse=True)[1]
    if len(classes) != len(vectors):
        raise InputError(f"sccs: {len(vectors)} vectors and {len(classes)} labels: give one label a vector")
    try:
        return sccs_interval(np.asarray(vectors), classes, seed=seed)
    except ValueError as error:
        raise InputError(f"sccs: {error}") from None


def nmi(vectors: np.ndarray, labels: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Agreement of Leiden clusters of motif sites with their labels, within the GT half, the AG half, and the mean.

    vectors: [n, any], such as the hidden states of the two motif bases; labels: [n] of GT(donor), GT(non-donor),
    AG(acceptor), AG(non-acceptor). Returns nmi, nmi_gt, nmi_ag, what so many clusters could reach (*_bound), clusters.
    """
    labels = np.asarray(labels)
    if unknown := sorted(set(labels.tolist()) - set(MOTIF_LABELS)):
        raise InputError(f"nmi: unknown label {unknown[0]!r}: choose from {', '.join(MOTIF_LABELS)}")
    if len(labels) != len(vectors):
        raise InputError(f"nmi: {len(vectors)} vectors and {len(labels)} labels: give one label a vector")
    return nmi_of_clusters(leiden(np.asarray(vectors), seed=seed), labels)


def predict(
    sequences: Mapping[str, str] | str | Path, source: str | Path, min_score: float = 0.01, device: str = "auto"
) -> pd.DataFrame:
    """Donors (GT) and acceptors (AG) of whole sequences on both strands, by a model that labels every base.

    sequences: {name: sequence}, or the path of a FASTA file, plain or gzipped; source: the folder of such a model
    (models/simcsp-small-bases). Returns a table of record, position (1-based, the exon's base at the boundary), strand,
    type and probability (calibrated) of the sites of at least min_score, ascending, as `evaluate.py predict` writes it.
    """
    accelerator = build_accelerator(device, "fp32")
    model, calibration = load_bases(Path(source))
    labeller = Labeller(for_prediction(model, accelerator), calibration, accelerator.device)
    with tempfile.TemporaryDirectory() as cache:
        store = _store_of(sequences, cache)
        scan, parts = Scan(store, labeller, find_spans([], store)), []
        shown = scan.positions >= SHOW_PROGRESS * labeller.chunk
        with tqdm(desc="predict", total=scan.positions, unit="nt", disable=None if shown else True) as bar:
            for block, passed in scan.blocks(scan.spans):
                parts.append(block.take(block.score >= min_score))
                bar.update(passed)
        found = Scored.joined(parts)
        names = np.array([record.name for record in store.records])[found.sites.record]
    strands, types = np.where(MINUS[found.sites.kind], "-", "+"), TYPE[found.sites.kind]
    table = {"record": names, "position": found.sites.position, "strand": strands, "type": types}
    return pd.DataFrame(table | {"probability": found.score.astype(np.float32)})


def _store_of(sequences: Mapping[str, str] | str | Path, cache: str) -> TokenStore:
    if not isinstance(sequences, Mapping):
        return open_store([sequences], cache)
    rows = [(name, encode(sequence, name)) for name, sequence in sequences.items()]
    if empty := [name for name, ids in rows if not len(ids)]:
        raise InputError(f"predict: sequence {empty[0]} is empty: leave it out")
    return open_sequence_store("sequences", [], lambda: rows, cache)

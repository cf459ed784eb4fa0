"""Single-nucleotide variants whose effect on splicing was measured in constructs of one exon: MFASS (Cheung et al.,
Molecular Cell 73, 183, 2019) and Vex-seq (Adamson et al., Genome Biology 19, 71, 2018).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from simcsp.core.errors import InputError
from simcsp.core.files import read_table
from simcsp.labels.placed import Placed
from simcsp.text.alphabet import COMPLEMENT, encode

MFASS_EFFECT, VEXSEQ_EFFECT = -0.5, -24.0
"""Below these changes of the share (MFASS) or percentage (Vex-seq, HepG2) of spliced-in transcripts SpliceBERT's paper
counts a variant as one that disrupts splicing."""
PEERS = ("pangolin", "spliceai", "splicetransformer", "mmsplice", "spanr", "phylop100", "phastcons100")
_PLACE = ["offset0", "exon_start0", "exon_end0"]


@dataclass(frozen=True)
class Variants:
    """n variants in m wild-type sequences, everything on the transcript strand.

    sequences: m arrays uint8 of ids. of_sequence: int [n] into them; offset: int [n], the changed base; alt: uint8 [n],
    its new id; exon: int [n, 2], 0-based half-open in the sequence, may reach beyond it. positive: bool [n]. group:
    object [n], the exon's name. table: the rows as read. skipped: {why: rows left out}.
    """

    sequences: list[np.ndarray]
    of_sequence: np.ndarray
    offset: np.ndarray
    alt: np.ndarray
    exon: np.ndarray
    positive: np.ndarray
    group: np.ndarray
    table: pd.DataFrame
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def in_dinucleotide(self) -> np.ndarray:
        """bool [n]: the variant is one of the two bases of the intron beside the exon."""
        start, end = self.exon.T
        return ((self.offset >= start - 2) & (self.offset < start)) | ((self.offset >= end) & (self.offset < end + 2))

    def take(self, index: np.ndarray) -> Variants:
        """Some of the variants, by number or bool."""
        names = ("of_sequence", "offset", "alt", "exon", "positive", "group")
        columns = {name: getattr(self, name)[index] for name in names}
        return dataclasses.replace(self, **columns, table=self.table.iloc[np.arange(len(self))[index]])

    def cut(self, length: int) -> Variants:
        """The same variants in sequences of at most `length` nt: about the middle of the exon, moved as far as the
        variant needs to lie inside."""
        lengths = np.array([len(ids) for ids in self.sequences])[self.of_sequence]
        left = self.exon.sum(axis=1) // 2 - length // 2
        left = np.clip(left, self.offset - length + 1, self.offset)
        left = np.clip(left, 0, np.maximum(lengths - length, 0))
        pairs, of_sequence = np.unique(np.stack([self.of_sequence, left], axis=1), axis=0, return_inverse=True)
        sequences = [self.sequences[number][at : at + length] for number, at in pairs.tolist()]
        place = {"offset": self.offset - left, "exon": self.exon - left[:, None], "of_sequence": of_sequence.ravel()}
        return dataclasses.replace(self, sequences=sequences, **place)


def read_mfass(path: Path) -> Variants:
    """The 27,733 variants of MFASS that have a change of inclusion in both replicates' mean and a call."""
    return _read(path, "id", "exon", "v2_dpsi", MFASS_EFFECT, ["sdv"])


def read_vexseq(path: Path) -> Variants:
    """The variants of Vex-seq, by their effect in HepG2; exons are told apart by the wild type."""
    return _read(path, "variant", "wt", "dpsi_HepG2", VEXSEQ_EFFECT, [])


def _read(path: Path, name: str, group: str, effect: str, threshold: float, needed: list[str]) -> Variants:
    rows = read_table(path, [name, group, "strand", "ref", "alt", *_PLACE], sep="\t")
    for column in ("wt", effect, *needed):
        if column not in rows:
            why = "the sequence that was measured" if column == "wt" else "what was measured"
            raise InputError(f"{path} has no column {column}, {why}: take the table that data/fetch.py makes")
    is_snv = (rows["ref"].str.fullmatch("[ACGT]") & rows["alt"].str.fullmatch("[ACGT]")).to_numpy()
    is_measured = rows[[effect, *needed]].notna().all(axis=1).to_numpy()
    skipped = {"indels or no plain base": int((~is_snv).sum()), "not measured": int((is_snv & ~is_measured).sum())}
    rows = rows[is_snv & is_measured]
    if rows.empty:
        raise InputError(f"{path} holds no measured SNV: {', '.join(f'{n} {why}' for why, n in skipped.items())}")
    texts, of_sequence = np.unique(rows["wt"].to_numpy(str), return_inverse=True)
    sequences = [encode(text, f"{path}, column wt") for text in texts]
    offset, start, end = (rows[column].to_numpy(int) for column in _PLACE)
    minus = (rows["strand"] == "-").to_numpy()
    ref, alt = (encode("".join(rows[column])) for column in ("ref", "alt"))
    ref, alt = np.where(minus, COMPLEMENT[ref], ref), np.where(minus, COMPLEMENT[alt], alt)
    for i, (number, at, base) in enumerate(zip(of_sequence, offset, ref)):
        if not 0 <= at < len(sequences[number]) or sequences[number][at] != base:
            row = rows.iloc[i]
            raise InputError(
                f"{path}, line {rows.index[i] + 2}: REF {row['ref']} on strand {row['strand']} is not base {at} "
                "(offset0) of the wild type: the columns do not belong together"
            )
    positive = (rows[effect] < threshold).to_numpy()
    if positive.all() or not positive.any():
        raise InputError(
            f"{path}, column {effect}: {'all' if positive.all() else 'none'} of {len(rows)} variants lie below "
            f"{threshold:g}, so nothing is to be told apart: is it in another unit, or cut to few exons?"
        )
    exon = np.stack([start, end], axis=1)
    return Variants(sequences, of_sequence, offset, alt, exon, positive, rows[group].to_numpy(str), rows, skipped)


def widen(variants: Variants, places: dict[str, Placed], length: int) -> Variants:
    """The variants whose exon lies in a known stretch of the genome, in windows of `length` nt about its middle.

    places: {build: its stretches}; a build is used where the table has its pos_BUILD (of the variant, from 1).
    SpliceBERT's windows are these, but for a base on the minus strand where the exon has an odd length. What is not
    the construct's sequence there is left out.
    """
    index, sequences, left = [], [], []
    builds = [build for build in places if f"pos_{build}" in variants.table]
    rows = variants.table.to_dict("records")
    for i, row in enumerate(rows):
        wild_type = variants.sequences[variants.of_sequence[i]]
        shift = int(variants.exon[i].sum()) // 2 - length // 2  # of the window in the construct
        for build in builds:
            place = int(row[f"pos_{build}"]) - 1
            if row["strand"] == "+":
                start = place - int(variants.offset[i]) + shift
            else:
                start = place + int(variants.offset[i]) - shift - length + 1
            known = places[build].fetch(row["chrom"], start, start + length, row["strand"])
            if known is None:
                continue
            inside = known[0][-shift : -shift + len(wild_type)]
            if np.array_equal(inside, wild_type[: len(inside)]):
                index.append(i)
                sequences.append(known[0])
                left.append(shift)
                break
    kept, left = variants.take(np.array(index, dtype=int)), np.array(left, dtype=int)
    if not len(kept):
        return dataclasses.replace(kept, sequences=[])
    distinct, of_sequence = np.unique(np.stack(sequences), axis=0, return_inverse=True)
    place = {"offset": kept.offset - left, "exon": kept.exon - left[:, None], "of_sequence": of_sequence.ravel()}
    return dataclasses.replace(kept, sequences=list(distinct), **place)

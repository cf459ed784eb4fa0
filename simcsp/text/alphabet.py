"""Bases <-> SpliceBERT ids.

Ids are SpliceBERT's own: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, N 5, A 6, C 7, G 8, T 9, kept as uint8.
"""

from __future__ import annotations

import numpy as np

from simcsp.core.errors import InputError

VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "N", "A", "C", "G", "T")
PAD, UNK, CLS, SEP, MASK, N, A, C, G, T = range(len(VOCAB))


def _encoding_table() -> np.ndarray:
    table = np.full(256, UNK, dtype=np.uint8)
    for letters, token in (("Aa", A), ("Cc", C), ("Gg", G), ("TtUu", T), ("NnRrYySsWwKkMmBbDdHhVv", N)):
        table[np.frombuffer(letters.encode(), dtype=np.uint8)] = token
    return table


ENCODE = _encoding_table()
"""Byte -> id. Lower case and U are accepted, IUPAC ambiguity letters become N, anything else is [UNK] (an error)."""
COMPLEMENT = np.array([PAD, UNK, CLS, SEP, MASK, N, T, G, C, A], dtype=np.uint8)
_DECODE = np.frombuffer(b"?????NACGT", dtype=np.uint8)


def encode(sequence: str, where: str = "sequence") -> np.ndarray:
    """Bases to ids, uint8 [len(sequence)]. Raises InputError naming `where` and the letter that is no base code."""
    raw = np.frombuffer(sequence.encode("utf-8"), dtype=np.uint8)
    ids = ENCODE[raw]
    bad = np.flatnonzero(ids == UNK)
    if len(bad):
        at = int(bad[0])
        raise InputError(
            f"{where}: {chr(raw[at])!r} at base {at + 1} is not a nucleotide code (ACGTU, N or IUPAC letters)"
        )
    return ids


def decode(ids: np.ndarray) -> str:
    """Ids of bases (no special tokens) back to letters."""
    return _DECODE[np.asarray(ids)].tobytes().decode()


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """Ids of the other strand, read 5' to 3'. Any leading axes; the last one is the sequence."""
    return COMPLEMENT[ids][..., ::-1]


def add_special_tokens(ids: np.ndarray) -> np.ndarray:
    """uint8 [n, L] bases -> uint8 [n, L + 2] model input: [CLS] bases [SEP]."""
    out = np.empty((len(ids), ids.shape[1] + 2), dtype=np.uint8)
    out[:, 0], out[:, -1] = CLS, SEP
    out[:, 1:-1] = ids
    return out

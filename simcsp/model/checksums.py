"""Hashes of checkpoint folders: by which runs know their start model, and a copy its damage."""

from __future__ import annotations

import hashlib
from pathlib import Path

from simcsp.core.files import check_hash, read_json, sha256_file, write_json
from simcsp.core.provenance import check_sealed_checkpoint

CHECKSUMS = "checksums.json"
"""In a checkpoint folder: the SHA-256 of every other file."""
CARD = "README.md"
"""In a checkpoint folder: the model card."""
CARD_TAG = "simcsp"
"""Among the tags of our cards, by which they are told from those of other checkpoints."""


def sha256_folder(folder: Path, card: bool = True) -> str:
    """Hash of a checkpoint folder: names and bytes of its files. card: with its model card, which names its step.

    The tokenizer's files do not count where we wrote them: they say nothing that the vocabulary's size does not, and
    checkpoints of older versions, whose hash stands in the runs begun from them, may be given them later. Nor do the
    checksums, and the header of a model card that is ours.
    """
    digest = hashlib.sha256()
    settings = folder / "tokenizer_config.json"
    ours = settings.is_file() and '"written_by": "simcsp"' in settings.read_text(encoding="utf-8", errors="replace")
    skipped = (CHECKSUMS, *(("tokenizer.json", settings.name) if ours else ()), *(() if card else (CARD,)))
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skipped):
        digest.update(f"{path.relative_to(folder)} {_hash_of_member(path)}\n".encode())
    return digest.hexdigest()


def _hash_of_member(path: Path) -> str:
    """SHA-256 of a file; of a model card of ours without its YAML header."""
    if path.name == CARD:
        card = path.read_bytes()
        header, end, body = card.partition(b"\n---\n")
        if end and header.startswith(b"---\n") and CARD_TAG.encode() in header:
            return hashlib.sha256(body.lstrip(b"\n")).hexdigest()
    return sha256_file(path)


def write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {"sha256": {path.name: sha256_file(path) for path in files}})


def check_folder(folder: Path) -> None:
    """Refuse a folder with a file other than its stage or fit ended with, or `write_checksums` recorded, if any did."""
    if check_sealed_checkpoint(folder) or not (folder / CHECKSUMS).is_file():
        return
    remedy = f"train it again or restore a copy; if you changed it on purpose, delete {folder / CHECKSUMS}"
    for name, expected in read_json(folder / CHECKSUMS, remedy).get("sha256", {}).items():
        check_hash(folder / Path(name).name, expected, remedy)

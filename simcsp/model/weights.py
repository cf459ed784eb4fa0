"""Weight files and config.json of a checkpoint folder, read with care: no code of a pickle is run."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from simcsp.core.errors import InputError
from simcsp.model.layouts import MODEL_TYPES

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder; refuses what is neither BERT nor multimolecule's SpliceBERT."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"model.source {folder} has no config.json: it is not a checkpoint folder")
    values = read_json(path)
    if values.get("model_type") not in MODEL_TYPES.values():
        raise InputError(
            f"{path}: model_type is {values.get('model_type')!r}, expected a plain 'bert' (SpliceBERT's own) or "
            "'splicebert' (multimolecule's port)"
        )
    positions = values.get("position_embedding_type")
    if positions not in (None, "absolute"):  # transformers 5 ignores the field
        raise InputError(f"{path}: position_embedding_type is {positions!r}, expected 'absolute'")
    return values


def read_json(path: Path) -> dict[str, Any]:
    refuse_stand_in(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON and of UTF-8
        raise InputError(f"{path} cannot be read as JSON ({error}): truncated or damaged") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


# -- weight files ------------------------------------------------------------------------------------------------------


def weight_file_of(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"model.source {folder} has no weights: neither {' nor '.join(WEIGHT_FILES)}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """{key: tensor} of a weight file, on the CPU. No code of a pickle is run, and nothing but tensors is taken."""
    refuse_stand_in(path)
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # about pickle protocols; what matters is raised
                weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} {_why_unreadable(path, error)}") from None
    named = isinstance(weights, dict) and all(isinstance(key, str) for key in weights)
    if not named or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path} holds no table of tensors by name (a state dict): take the publisher's own file")
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(f"{path}: {len(broken)} tensors hold NaN or infinity ({broken[0]}): damaged, fetch it again")
    return weights


def refuse_stand_in(path: Path) -> None:
    """Refuse what often lies where a file should be: nothing, a Git LFS pointer, a web page."""
    with open(path, "rb") as handle:
        start = handle.read(512).lstrip().lower()
    if not start:
        raise InputError(f"{path} is empty: fetch it again")
    if start.startswith(b"version https://git-lfs.github.com/spec/v1"):
        raise InputError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its clone, or download it")
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        raise InputError(f"{path} is a web page (HTML), not the file: download it from its direct link")


def _why_unreadable(path: Path, error: Exception) -> str:
    if _is_cut_short(path) or isinstance(error, EOFError) or "unexpected EOF" in str(error):
        return f"is cut short at {path.stat().st_size} bytes: fetch it again"
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named or _starts_with(path, b"PK", b"\x80"):  # a zip or a pickle
            what = f" ({named[1]})" if named else ""
            return (
                f"holds Python objects{what} beside weights, which could run code: it is not loaded; "
                "take the publisher's own file, or one in safetensors"
            )
        return "is not a weight file: neither PyTorch's nor a pickle"
    return f"cannot be read as weights ({str(error)[:200]}): fetch it again"


def _starts_with(path: Path, *starts: bytes) -> bool:
    with open(path, "rb") as handle:
        return handle.read(8).startswith(starts)


def _is_cut_short(path: Path) -> bool:
    """Whether an unreadable weight file ends too early: a zip without its directory, or less than a header promises."""
    if path.suffix != ".safetensors":
        return _starts_with(path, b"PK") and not zipfile.is_zipfile(path)
    size = path.stat().st_size
    with open(path, "rb") as handle:  # 8 bytes: length of the header; a JSON header; the tensors
        length = int.from_bytes(handle.read(8), "little")
        if length > 100_000_000:  # the format's own limit: this is something else
            return False
        if size < 8 + length or size == 8:
            return True
        try:
            entries = json.loads(handle.read(length)).values()
            return size < 8 + length + max(entry["data_offsets"][1] for entry in entries if "data_offsets" in entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False

"""An encoder from a checkpoint folder or hub id, and back.

Readable are SpliceBERT's folders as published, plain BERT folders like them, and multimolecule's port, which is
recognised by the rows of its word embedding. Checkpoints are written as plain `save_pretrained` folders of a ten-row
BERT; `config.json` also records the pooling, so that whoever loads one gets the same vectors.
"""

from __future__ import annotations

import functools
import json
import re
from itertools import filterfalse
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.core.files import write_text
from simcsp.model.attention import ATTENTION, make_cheap
from simcsp.model.checksums import check_folder, write_checksums
from simcsp.model.encoder import (
    DEFAULT_POOLING,
    MIX,
    MIX_WEIGHTS,
    check_size,
    drop_layers,
    fresh_config,
    fresh_like,
    read_pooling,
    set_mix,
    set_pooling,
)
from simcsp.model.layouts import (
    MLM_HEAD,
    MULTIMOLECULE_IDS,
    MULTIMOLECULE_VOCAB,
    convert_multimolecule,
    multimolecule_settings,
    vocabulary_rows,
)
from simcsp.model.tokenizer import save_tokenizer
from simcsp.model.weights import (
    WEIGHT_FILES,
    read_json,
    read_model_config,
    read_weights,
    refuse_stand_in,
    weight_file_of,
)
from simcsp.text.alphabet import VOCAB

# Keys that published BERT checkpoints may hold beyond or short of ours, and that change no vector:
_EXPECTED_UNEXPECTED = ("bert.pooler.", "pooler.", "cls.seq_relationship.", "position_ids", "classifier.")
_CONFIG_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
_SENTENCE_FILES = ("modules.json", "*_Pooling/config.json")
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def load_backbone(config: ModelConfig, need_mlm_head: bool = False) -> tuple[BertForMaskedLM, str, list[str]]:
    """The encoder with its MLM head, how it pools, and remarks about the loading worth a line in the log.

    config.source: a folder or hub id (see `resolve_source`) of SpliceBERT, of any BERT with its ten-row vocabulary or
    of multimolecule's port, or None for fresh weights (seeded by torch's global generator). config.pooling and
    config.pooling_layer each override what the checkpoint records, the two dropout rates always do.
    config.drop_layers blocks are removed; layers are counted in what is left.
    Raises InputError when the checkpoint is missing, damaged, of another kind or vocabulary, holds code, or has keys
    that nobody expected, and for blocks or a layer that it does not have.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if config.source is None:
        size = fresh_config(config)
        check_size(size, f"model.hidden_size ({size.hidden_size}) and the other sizes of the model section")
        model, remarks = fresh_like(size), ["fresh weights"]
    else:
        model, remarks = _load(config, need_mlm_head)
    recorded = getattr(model.config, "pooling", None)
    if recorded is None and config.source is not None:
        recorded, more = _sentence_pooling(resolve_source(str(config.source)), config.pooling)
        remarks += more
    kind, layer = read_pooling(recorded or DEFAULT_POOLING)
    if config.drop_layers:
        if isinstance(layer, int) and config.pooling_layer is None:
            raise InputError(
                f"model.source {config.source} pools layer {layer}, which model.drop_layers renumbers: say which of "
                "the layers that are left, by model.pooling_layer"
            )
        drop_layers(model, config.drop_layers)
        remarks.append(f"the last {config.drop_layers} blocks dropped")
    layer = layer if config.pooling_layer is None else config.pooling_layer
    pooling = (config.pooling or kind) + ("" if layer is None else f"@{layer}")
    set_pooling(model, pooling)
    if recorded and pooling != recorded:
        remarks.append(f"pooling changed from the checkpoint's {recorded} to {pooling}")
    return model, pooling, remarks


def resolve_source(source: str) -> Path:
    """The local folder of a model source: itself, or the snapshot of a hub id `owner/name[@revision]`.

    A snapshot is downloaded where it is not in the hub's cache yet; its folder's name is the commit. Within a process
    an id always gives the same folder, however its branch moves on.
    Raises InputError for what is neither, and for an id that cannot be had.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    match = _HUB_ID.fullmatch(source)
    if folder.exists() or match is None:
        raise InputError(f"model.source {source} is neither a folder nor a hub id (owner/name or owner/name@revision)")
    try:
        return _snapshot(match["repo"], match["revision"])
    except Exception as error:  # the hub's client also lets through what its HTTP library raises, which has changed
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"model.source {source} is not a local folder and cannot be downloaded from the hub ({reason}): check the "
            "name and the connection, or download the files by hand and give their folder"
        ) from None


@functools.cache
def _snapshot(repo: str, revision: str | None) -> Path:
    preferred, second = WEIGHT_FILES
    wanted = [*_CONFIG_FILES, *_SENTENCE_FILES, preferred]
    folder = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted))
    if not (folder / preferred).is_file():
        huggingface_hub.snapshot_download(repo, revision=folder.name, allow_patterns=[*_CONFIG_FILES, second])
    return folder


# -- a checkpoint, from its folder to a model --------------------------------------------------------------------------


def _load(config: ModelConfig, need_mlm_head: bool) -> tuple[BertForMaskedLM, list[str]]:
    source = str(config.source)
    folder = resolve_source(source)
    check_folder(folder)
    values = read_model_config(folder)
    weight_file = weight_file_of(folder)
    weights = read_weights(weight_file)
    prefix, rows = vocabulary_rows(weights, weight_file, values)
    multimolecule = rows != len(VOCAB)
    settings = multimolecule_settings(values, folder / "config.json") if multimolecule else values
    _check_tokens(folder, MULTIMOLECULE_VOCAB if multimolecule else VOCAB, values)
    if multimolecule:
        weights = convert_multimolecule(weights, prefix, weight_file)
    mix = _take_mix(weights, values, weight_file)
    model, report = _build(settings, weights, config, folder / "config.json")
    remarks = [f"weights from {source}" + ("" if Path(source).is_dir() else f", commit {folder.name}")]
    remarks += [f"converted from multimolecule's layout of {rows} tokens"] if multimolecule else []
    remarks += _check_fit(source, report, need_mlm_head)
    if mix is not None:
        set_mix(model.bert, mix)
    make_cheap(model)
    if model.cls.predictions.decoder.weight is not model.bert.embeddings.word_embeddings.weight:
        remarks.append("the masked-LM head's decoder differs from the word embedding: both are kept, as they are")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if name in settings and settings[name] != getattr(config, name):
            remarks.append(f"{name} changed from the checkpoint's {settings[name]} to {getattr(config, name)}")
    return model, remarks


def _sentence_pooling(folder: Path, wanted: str | None) -> tuple[str | None, list[str]]:
    """(how the modules of sentence-transformers beside the weights pool, remarks on them); None without any.

    wanted: model.pooling, which goes first. Raises InputError for a pooling that we do not have.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None, []
    try:
        modules = {module["type"].rpartition(".")[2]: module["path"] for module in json.loads(path.read_bytes())}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not laid out as sentence-transformers' ({error!r}): restore it from a copy"
        ) from None
    others = sorted(modules.keys() - {"Transformer", "Pooling"})
    remarks = [f"{path}: not read: {', '.join(others)}"] if others else []
    if "Pooling" not in modules:
        return None, remarks
    settings = read_json(folder / modules["Pooling"] / "config.json")
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    modes = modes or [f"pooling_mode_{settings.get('pooling_mode')}"]
    kinds = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    kinds |= {"pooling_mode_cls": "cls", "pooling_mode_mean": "mean"}
    if wanted is None and (len(modes) > 1 or modes[0] not in kinds):
        raise InputError(f"{path} pools by {' and '.join(modes)}, which we do not have: give model.pooling (cls, mean)")
    kind = kinds.get(modes[0])
    counted = ", [CLS] and [SEP] left out, which it counts in" if kind == "mean" else ""
    return kind, [*remarks, f"pooling {kind}, as sentence-transformers' {modules['Pooling']} says{counted}"]


def _take_mix(weights: dict[str, torch.Tensor], values: dict[str, Any], weight_file: Path) -> torch.Tensor | None:
    if read_pooling(values.get("pooling") or DEFAULT_POOLING).layer != MIX:
        return None
    keys = [key for key in weights if key.rpartition(".")[2] == MIX_WEIGHTS and weights[key].ndim == 1]
    if len(keys) != 1 or len(weights[keys[0]]) - 1 != values.get("num_hidden_layers"):
        raise InputError(
            f"{weight_file} holds no weight for each layer (*{MIX_WEIGHTS}), but config.json beside it records a "
            "learned mix: the two files do not belong together"
        )
    return weights.pop(keys[0])


def _check_fit(source: str, report: dict[str, Any], need_mlm_head: bool) -> list[str]:
    """Refuse weights of which some are missing, unknown or of another shape; remarks on what may be."""
    absent = [key for key in report["missing_keys"] if not key.endswith("position_ids")]
    no_head = any(key.startswith(MLM_HEAD) for key in absent)
    faults = {
        "keys missing": [key for key in absent if not key.startswith(MLM_HEAD)],
        "unexpected": list(filterfalse(_is_expected, report["unexpected_keys"])),
        "of another shape": [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]],
    }
    if any(faults.values()):
        counts = ", ".join(f"{len(keys)} {kind} {sorted(keys)[:3]}" for kind, keys in faults.items())
        raise InputError(f"model.source {source}: the weights do not fit this BERT: {counts}")
    if no_head and need_mlm_head:
        raise InputError(f"model.source {source} has no masked-LM head ({MLM_HEAD}*), which the mlm objective needs")
    remarks = []
    if ignored := sorted(filter(_is_expected, report["unexpected_keys"])):
        remarks.append(f"keys of the checkpoint that are not used: {', '.join(ignored)}")
    if no_head:
        remarks.append("the checkpoint has no masked-LM head: the one saved with ours is untrained")
    return remarks


def _is_expected(key: str) -> bool:
    return any(part in key for part in _EXPECTED_UNEXPECTED)


def _build(
    settings: dict[str, Any], weights: dict[str, torch.Tensor], config: ModelConfig, config_file: Path
) -> tuple[BertForMaskedLM, dict[str, Any]]:
    ours = {
        "vocab_size": len(VOCAB),
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "output_hidden_states": False,  # SpliceBERT's configs ask for them always; training must not pay for that
    }
    try:
        size = BertConfig.from_dict(settings | ours, attn_implementation=ATTENTION)
        check_size(size, f"{config_file}, hidden_size {size.hidden_size}")
        return BertForMaskedLM.from_pretrained(
            None,
            config=size,
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by `_check_fit`, by name
        )
    except InputError:
        raise
    except (StrictDataclassError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{config_file} describes no BERT that can be built ({reason})") from None


def _check_tokens(folder: Path, vocabulary: tuple[str, ...], values: dict[str, Any]) -> None:
    """Refuse a checkpoint whose own files give its tokens other ids than `vocabulary` does. values: config.json."""
    whose = "SpliceBERT's" if vocabulary == VOCAB else "multimolecule's"
    for path, ids in _token_ids(folder, vocabulary, values).items():
        for i, token in enumerate(vocabulary):
            if ids.get(token) != i:
                raise InputError(
                    f"{path}: the tokens are not {whose} in its order ({' '.join(vocabulary)}): "
                    f"{token} has id {ids.get(token)}, expected {i}"
                )


def _token_ids(folder: Path, vocabulary: tuple[str, ...], values: dict[str, Any]) -> dict[Path, dict[str, int]]:
    """{file: {token: id}} of the files that say so; one that lists a part of the tokens is taken to agree on others."""
    config, vocab, tokenizer, tokenizer_config = (folder / name for name in _CONFIG_FILES)
    agreed = {token: i for i, token in enumerate(vocabulary)}
    ids = {}
    if vocabulary == MULTIMOLECULE_VOCAB:
        fields = [field for field in MULTIMOLECULE_IDS if values.get(field) is not None]
        ids[config] = agreed | {MULTIMOLECULE_IDS[field]: values[field] for field in fields}
    if vocab.is_file():
        refuse_stand_in(vocab)
        lines = vocab.read_text(encoding="utf-8-sig", errors="replace").split()
        ids[vocab] = {token: i for i, token in enumerate(lines)}
    path = tokenizer
    try:
        if tokenizer.is_file():
            ids[tokenizer] = dict(read_json(tokenizer)["model"]["vocab"])
        path = tokenizer_config
        if tokenizer_config.is_file():
            added = read_json(tokenizer_config).get("added_tokens_decoder") or {}
            ids[tokenizer_config] = agreed | {entry["content"]: int(i) for i, entry in added.items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not laid out as a tokenizer's file ({error!r})") from None
    return ids


def save_checkpoint(model: nn.Module, folder: Path, pooling: str) -> None:
    """A plain save_pretrained folder with its tokenizer and checksums; config.json also records the pooling.

    Pooled by [CLS] it is a folder of sentence-transformers too, which knows none of our other poolings.
    """
    model.config.pooling = pooling
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(folder, model.config.max_position_embeddings)
    if pooling == "cls" and isinstance(model, BertForMaskedLM):
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
        ]
        settings = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_cls_token": True}
        settings["pooling_mode_mean_tokens"] = False
        (folder / "1_Pooling").mkdir(exist_ok=True)
        write_text(folder / "modules.json", json.dumps(modules, indent=2) + "\n")
        write_text(folder / "1_Pooling/config.json", json.dumps(settings, indent=2) + "\n")
    write_checksums(folder)

"""The encoder: load it from a checkpoint or make it fresh, chop it, pool its hidden states, save it as it is.

Read are SpliceBERT's folders as published, plain BERT folders like them, and multimolecule's port, which is told by the
rows of its word embedding and put into the plain layout. Every checkpoint of ours is a plain `save_pretrained` folder
of a ten-row BERT; `config.json` also records the pooling, so whoever loads it gets the same vectors. Layers are counted
0 = embeddings, 1..n = blocks.

A pooling is written as one word: `KIND`, of the last layer, or `KIND@LAYER`; KIND is cls, mean or centre, LAYER a
number or `mix`, a learned mean of all layers. A version of this code that knows no layers refuses such a word.
"""

from __future__ import annotations

import functools
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from simcsp.model.tokenizer import save_tokenizer
from utils.config import ModelConfig
from utils.dropout import ATTENTION, attend, make_cheap
from utils.errors import InputError
from utils.sequence import VOCAB

DEFAULT_POOLING = "cls"  # what the published checkpoints, which record none, were used with
POOLING_KINDS = ("cls", "mean", "centre")
MIX = "mix"  # in the place of a layer's number
_MIX_WEIGHTS = "layer_mix"  # name of the encoder's parameter; nobody else's BERT has it

# Keys that published BERT checkpoints may hold beyond or short of ours, and that change no vector:
_EXPECTED_UNEXPECTED = ("bert.pooler.", "pooler.", "cls.seq_relationship.", "position_ids")
_MLM_HEAD = "cls.predictions."
_WORD_EMBEDDING = "embeddings.word_embeddings.weight"

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
_CONFIG_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")

# multimolecule's port of SpliceBERT has 26 or 28 tokens: the first eleven are the same in both, and SpliceBERT was
# trained on none of the others.
MULTIMOLECULE_VOCAB = ("<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>", "A", "C", "G", "U", "N")
_SAME_TOKEN = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<cls>", "[SEP]": "<eos>", "[MASK]": "<mask>", "T": "U"}
MULTIMOLECULE_ROWS = [MULTIMOLECULE_VOCAB.index(_SAME_TOKEN.get(token, token)) for token in VOCAB]  # in our order
_MULTIMOLECULE_IDS = {  # fields of its config.json -> the token whose id they give
    "pad_token_id": "<pad>",
    "bos_token_id": "<cls>",
    "eos_token_id": "<eos>",
    "unk_token_id": "<unk>",
    "mask_token_id": "<mask>",
    "null_token_id": "<null>",
}
_MULTIMOLECULE_DROPOUT = {"hidden_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
_MULTIMOLECULE_SIZES = (  # fields that mean what they mean in BertConfig
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
    *("type_vocab_size", "hidden_act", "layer_norm_eps", "initializer_range"),
)
_MODEL_TYPES = {len(VOCAB): "bert", 26: "splicebert", 28: "splicebert"}  # rows of the word embedding -> model_type


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
        model, remarks = fresh_like(_fresh_config(config)), ["fresh weights"]
    else:
        model, remarks = _load(config, need_mlm_head)
    recorded = getattr(model.config, "pooling", None)
    kind, layer = read_pooling(recorded or DEFAULT_POOLING)
    if config.drop_layers:
        if isinstance(layer, int) and config.pooling_layer is None:
            raise InputError(
                f"model.source {config.source} pools layer {layer}, which model.drop_layers renumbers: say which of "
                "the layers that are left, by model.pooling_layer"
            )
        drop_layers(model, config.drop_layers, config.drop_from)
        remarks.append(f"the {config.drop_from} {config.drop_layers} blocks dropped")
    layer = layer if config.pooling_layer is None else config.pooling_layer
    pooling = (config.pooling or kind) + ("" if layer is None else f"@{layer}")
    _set_pooling(model, pooling)
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
            f"model.source {source} is no folder here and cannot be had from the hub ({reason}): check the name and "
            "the connection, or download the files by hand and give their folder"
        ) from None


@functools.cache
def _snapshot(repo: str, revision: str | None) -> Path:
    """Download config, tokenizer and one weight file of a hub repository, as a rule to the hub's own cache."""
    preferred, second = _WEIGHT_FILES
    folder = Path(
        huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[*_CONFIG_FILES, preferred])
    )
    if not (folder / preferred).is_file():
        commit = folder.name
        huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=[*_CONFIG_FILES, second])
    return folder


def fresh_like(bert_config: BertConfig) -> BertForMaskedLM:
    """Fresh weights of the same sizes and kind, from torch's global generator: the `fresh` arm and floor."""
    model = BertForMaskedLM(BertConfig.from_dict(bert_config.to_dict(), attn_implementation=ATTENTION))
    make_cheap(model)
    if getattr(bert_config, "position_init", "normal") == "sinusoidal":
        positions = model.bert.embeddings.position_embeddings.weight
        with torch.no_grad():
            positions.copy_(bert_config.initializer_range * 2**0.5 * sinusoids(*positions.shape))
    if read_pooling(getattr(bert_config, "pooling", DEFAULT_POOLING)).layer == MIX:
        _set_mix(model.bert, torch.zeros(bert_config.num_hidden_layers + 1))
    return model


def drop_layers(model: BertForMaskedLM, count: int, end: str) -> None:
    """Remove the `last` or the `first` blocks of an encoder, in place; a learned mix keeps the weights of the others.

    Raises InputError where none would be left.
    """
    blocks = model.bert.encoder.layer
    if count >= len(blocks):
        raise InputError(
            f"model.drop_layers ({count}) leaves none of the encoder's {len(blocks)} blocks: give at most "
            f"{len(blocks) - 1}"
        )
    kept = range(len(blocks) - count) if end == "last" else range(count, len(blocks))
    model.bert.encoder.layer = nn.ModuleList(blocks[i] for i in kept)
    model.config.num_hidden_layers = len(kept)
    if hasattr(model.bert, _MIX_WEIGHTS):
        _set_mix(model.bert, model.bert.layer_mix.detach()[[0, *(i + 1 for i in kept)]])


def _set_mix(bert: BertModel, weights: torch.Tensor) -> None:
    """Give the encoder the parameter of a learned mix of layers, [1 + blocks]; its softmax weighs the layers."""
    bert.register_parameter(_MIX_WEIGHTS, nn.Parameter(weights.clone()))


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Position embeddings [length, width] of Vaswani et al. 2017, section 3.5, with wavelengths from 2 pi to 400 pi.

    The dot product of two rows depends on their distance alone, so that a head can find "the base before" with one
    matrix. 200 in the place of 10,000, because what a base depends on is mostly near.
    """
    angle = torch.arange(length)[:, None] * 200.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def _fresh_config(config: ModelConfig) -> BertConfig:
    return BertConfig(
        vocab_size=len(VOCAB),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        initializer_range=config.initializer_range,
        pad_token_id=0,
        position_init=config.position_init,  # recorded, so that the fresh arm starts alike
    )


# -- a checkpoint, from its folder to a model --------------------------------------------------------------------------


def _load(config: ModelConfig, need_mlm_head: bool) -> tuple[BertForMaskedLM, list[str]]:
    source = str(config.source)
    folder = resolve_source(source)
    values = _read_config(folder)
    weight_file = _weight_file(folder)
    weights = _read_weights(weight_file)
    prefix, rows = _vocabulary_rows(weights, weight_file, values)
    multimolecule = rows != len(VOCAB)
    settings = _multimolecule_settings(values, folder / "config.json") if multimolecule else values
    _check_tokens(folder, MULTIMOLECULE_VOCAB if multimolecule else VOCAB, values)
    if multimolecule:
        weights = convert_multimolecule(weights, prefix, weight_file)
    mix = _take_mix(weights, values, weight_file)
    model, report = _build(settings, weights, config, folder / "config.json")
    remarks = [f"weights from {source}" + ("" if Path(source).is_dir() else f", commit {folder.name}")]
    remarks += [f"converted from multimolecule's layout of {rows} tokens"] if multimolecule else []
    remarks += _check_fit(source, report, need_mlm_head)
    if mix is not None:
        _set_mix(model.bert, mix)
    make_cheap(model)
    if model.cls.predictions.decoder.weight is not model.bert.embeddings.word_embeddings.weight:
        remarks.append("the masked-LM head's decoder differs from the word embedding: both are kept, as they are")
    return model, remarks + _changed_dropout(settings, config)


def _take_mix(weights: dict[str, torch.Tensor], values: dict[str, Any], weight_file: Path) -> torch.Tensor | None:
    """The weights of a learned mix of layers, taken out of `weights` where config.json (`values`) records one."""
    if read_pooling(values.get("pooling") or DEFAULT_POOLING).layer != MIX:
        return None
    keys = [key for key in weights if key.rpartition(".")[2] == _MIX_WEIGHTS and weights[key].ndim == 1]
    if len(keys) != 1 or len(weights[keys[0]]) - 1 != values.get("num_hidden_layers"):
        raise InputError(
            f"{weight_file} holds no weight for each layer (*{_MIX_WEIGHTS}), but config.json beside it records a "
            "learned mix: the two files do not belong together"
        )
    return weights.pop(keys[0])


def _check_fit(source: str, report: dict[str, Any], need_mlm_head: bool) -> list[str]:
    """Refuse weights of which some are missing, unknown or of another shape; remarks on what may be."""
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    unexpected = sorted(key for key in report["unexpected_keys"] if not _is_expected(key))
    mismatched = sorted(str(item[0] if isinstance(item, (tuple, list)) else item) for item in report["mismatched_keys"])
    no_head = any(key.startswith(_MLM_HEAD) for key in missing)
    missing = [key for key in missing if not key.startswith(_MLM_HEAD)]
    if missing or unexpected or mismatched:
        raise InputError(
            f"model.source {source}: the weights do not fit this BERT: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(mismatched)} of another shape {mismatched[:3]}"
        )
    if no_head and need_mlm_head:
        raise InputError(f"model.source {source} has no masked-LM head ({_MLM_HEAD}*), which the mlm objective needs")
    ignored = sorted(key for key in report["unexpected_keys"] if _is_expected(key))
    remarks = [f"keys of the checkpoint that are not used: {', '.join(ignored)}"] if ignored else []
    return remarks + (["the checkpoint has no masked-LM head: the one saved with ours is untrained"] if no_head else [])


def _is_expected(key: str) -> bool:
    return any(part in key for part in _EXPECTED_UNEXPECTED)


def _build(
    settings: dict[str, Any], weights: dict[str, torch.Tensor], config: ModelConfig, config_file: Path
) -> tuple[BertForMaskedLM, dict[str, Any]]:
    """The model of these settings (BertConfig's) with these weights (plain BERT's names), and what did not fit."""
    ours = {
        "vocab_size": len(VOCAB),
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "output_hidden_states": False,  # SpliceBERT's configs ask for them always; training must not pay for that
    }
    try:
        return BertForMaskedLM.from_pretrained(
            None,
            config=BertConfig.from_dict(settings | ours, attn_implementation=ATTENTION),
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by `_check_fit`, by name
        )
    except (StrictDataclassError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{config_file} describes no BERT that can be built ({str(error)[:200]})") from None


def _changed_dropout(settings: dict[str, Any], config: ModelConfig) -> list[str]:
    """A remark for each dropout rate of the checkpoint that our config overrides."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return [
        f"{name} changed from the checkpoint's {settings[name]} to {getattr(config, name)}"
        for name in names
        if name in settings and settings[name] != getattr(config, name)
    ]


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder; refuses what is neither BERT nor multimolecule's SpliceBERT."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"model.source {folder} has no config.json: it is not a checkpoint folder")
    values = _read_json(path)
    if values.get("model_type") not in _MODEL_TYPES.values():
        raise InputError(
            f"{path}: model_type is {values.get('model_type')!r}, expected a plain 'bert' (SpliceBERT's own) or "
            "'splicebert' (multimolecule's port)"
        )
    positions = values.get("position_embedding_type")
    if positions not in (None, "absolute"):  # transformers 5 ignores the field
        raise InputError(f"{path}: position_embedding_type is {positions!r}, expected 'absolute'")
    return values


def _read_json(path: Path) -> dict[str, Any]:
    _refuse_stand_in(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON and of UTF-8
        raise InputError(f"{path} cannot be read as JSON ({error}): cut short or damaged") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


# -- weight files ------------------------------------------------------------------------------------------------------


def _weight_file(folder: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"model.source {folder} has no weights: neither {' nor '.join(_WEIGHT_FILES)}")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """{key: tensor} of a weight file, on the CPU. No code of a pickle is run, and nothing but tensors is taken."""
    _refuse_stand_in(path)
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


def _refuse_stand_in(path: Path) -> None:
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
        return "is no weight file: neither PyTorch's nor a pickle"
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


# -- layouts -----------------------------------------------------------------------------------------------------------


def _vocabulary_rows(weights: dict[str, torch.Tensor], weight_file: Path, values: dict[str, Any]) -> tuple[str, int]:
    """What precedes the name of the word embedding, and its rows, which tell the layout and must suit config.json."""
    keys = [key for key, value in weights.items() if key.endswith(_WORD_EMBEDDING) and value.ndim == 2]
    if len(keys) != 1:
        raise InputError(f"{weight_file} holds {len(keys)} word embeddings (*{_WORD_EMBEDDING}), expected one")
    rows = len(weights[keys[0]])
    if rows not in _MODEL_TYPES:
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, expected SpliceBERT's {len(VOCAB)} ({' '.join(VOCAB)}), or the "
            "26 or 28 of multimolecule's port"
        )
    if rows != values.get("vocab_size"):
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, but config.json beside it gives a vocabulary of "
            f"{values.get('vocab_size')} rows: the two files do not belong together"
        )
    if values["model_type"] != _MODEL_TYPES[rows]:
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, as only model_type {_MODEL_TYPES[rows]!r} has, but config.json "
            f"beside it says {values['model_type']!r}"
        )
    return keys[0].removesuffix(_WORD_EMBEDDING), rows


def convert_multimolecule(weights: dict[str, torch.Tensor], prefix: str, weight_file: Path) -> dict[str, torch.Tensor]:
    """Weights of multimolecule's SpliceBERT under the names, and in the row order, of a plain `BertForMaskedLM`.

    prefix: of its encoder, `model.` (newer) or `splicebert.` (older). What has no counterpart keeps its name, for the
    caller to refuse; the rows of tokens that SpliceBERT does not have are dropped. weight_file: for the error, where
    the head has other rows than the word embedding.
    """
    rows = len(weights[prefix + _WORD_EMBEDDING])
    converted = {}
    for key, value in weights.items():
        if key.endswith("position_ids"):
            continue
        name = key.replace("layer_norm", "LayerNorm")
        if name.startswith(prefix):
            name = "bert." + name.removeprefix(prefix)
        elif name.startswith("lm_head."):
            name = _MLM_HEAD + name.removeprefix("lm_head.")
        vocabulary = name in (f"{_MLM_HEAD}bias", f"{_MLM_HEAD}decoder.bias", f"{_MLM_HEAD}decoder.weight")
        if vocabulary or name.endswith(_WORD_EMBEDDING):
            if value.shape[:1] != (rows,):
                raise InputError(
                    f"{weight_file}: {key} is of shape {tuple(value.shape)}, expected the word embedding's {rows} rows"
                )
            value = value[MULTIMOLECULE_ROWS]
        converted[name] = value
    return converted


def _multimolecule_settings(values: dict[str, Any], config_file: Path) -> dict[str, Any]:
    """multimolecule's config.json in BertConfig's terms; nothing is left to a default that could change a vector."""
    names = dict(zip(_MULTIMOLECULE_SIZES, _MULTIMOLECULE_SIZES)) | _MULTIMOLECULE_DROPOUT
    missing = [name for name in names if name not in values]
    if missing:
        raise InputError(f"{config_file} lacks {', '.join(missing)}, which multimolecule's SpliceBERT records")
    settings = {ours: values[theirs] for theirs, ours in names.items()}
    # what a plain BERT's MLM head cannot have of its own
    head = values.get("lm_head") or {}
    expected = {"act": None, "transform_act": settings["hidden_act"], "layer_norm_eps": settings["layer_norm_eps"]}
    for name, value in expected.items():
        if name in head and head[name] != value:
            raise InputError(f"{config_file}: lm_head.{name} is {head[name]!r}, a plain BERT can only have {value!r}")
    return settings | {"pad_token_id": 0}


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
        fields = [field for field in _MULTIMOLECULE_IDS if values.get(field) is not None]
        ids[config] = agreed | {_MULTIMOLECULE_IDS[field]: values[field] for field in fields}
    if vocab.is_file():
        _refuse_stand_in(vocab)
        lines = vocab.read_text(encoding="utf-8-sig", errors="replace").split()
        ids[vocab] = {token: i for i, token in enumerate(lines)}
    path = tokenizer
    try:
        if tokenizer.is_file():
            ids[tokenizer] = dict(_read_json(tokenizer)["model"]["vocab"])
        path = tokenizer_config
        if tokenizer_config.is_file():
            added = _read_json(tokenizer_config).get("added_tokens_decoder") or {}
            ids[tokenizer_config] = agreed | {entry["content"]: int(i) for i, entry in added.items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not laid out as a tokenizer's file ({error!r})") from None
    return ids


# -- vectors -----------------------------------------------------------------------------------------------------------


def check_length(model: nn.Module, length: int, field: str) -> None:
    """Refuse windows of `length` nt that do not fit the model's positions with [CLS] and [SEP]."""
    limit = model.config.max_position_embeddings - 2
    if length > limit:
        raise InputError(
            f"{field} ({length} nt) is longer than the checkpoint takes ({limit} nt, and 2 for [CLS] and [SEP])"
        )


class Pooling(NamedTuple):
    """How a window becomes a vector, read from the word that records it."""

    kind: str
    layer: int | str | None  # None: the last, MIX: all


def read_pooling(pooling: str) -> Pooling:
    """'mean@3' -> ('mean', 3). Raises InputError for a word that is no pooling."""
    kind, at, layer = str(pooling).partition("@")
    numbered = layer.isdecimal()
    if kind not in POOLING_KINDS or at and not numbered and layer != MIX:
        raise InputError(
            f"model.pooling {pooling!r} is unknown: {', '.join(POOLING_KINDS)}, each with @LAYER or @{MIX}"
        )
    return Pooling(kind, int(layer) if numbered else layer or None)


def _set_pooling(model: BertForMaskedLM, pooling: str) -> None:
    """Record the pooling, with a mix of equal parts where it asks for one and the encoder has none yet."""
    kind, layer = read_pooling(pooling)
    blocks = model.config.num_hidden_layers
    if isinstance(layer, int) and layer > blocks:
        raise InputError(f"model.pooling_layer: layer {layer} does not exist: the encoder has {blocks} blocks")
    if (kind, layer) == ("cls", 0):
        raise InputError("model.pooling cls of model.pooling_layer 0 is one and the same vector for every window")
    model.config.pooling = pooling
    mixed = hasattr(model.bert, _MIX_WEIGHTS)
    if layer == MIX and not mixed:
        _set_mix(model.bert, torch.zeros(blocks + 1))
    elif layer != MIX and mixed:
        del model.bert.layer_mix


def window_vectors(bert: BertModel, tokens: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a window, [batch, hidden], for tokens [batch, 1 + bases + 1], all of one length.

    A learned mix is the layers' mean under softmax weights, as in ELMo (Peters et al. 2018, equation 1), without its
    scale, which neither a cosine nor a linear layer needs; every layer ends in a layer norm, so they are of one size.
    """
    kind, layer = read_pooling(pooling)
    if layer != MIX:
        places = {"cls": slice(0, 1), "mean": slice(None), "centre": _centre(tokens)}[kind]
        states = hidden_states(bert, tokens, layer, places)
        return pool(states, kind) if kind == "mean" else states.mean(dim=1)
    vectors = torch.stack([pool(states, kind) for states in all_hidden_states(bert, tokens)], dim=-1)
    return (vectors * mix_weights(bert)).sum(dim=-1)  # pooling is linear: of each layer first, which is less to mix


def mix_weights(bert: BertModel) -> torch.Tensor | None:
    """Share of each layer in the encoder's learned mix, [1 + blocks]; None where it has none."""
    return bert.layer_mix.softmax(dim=0) if hasattr(bert, _MIX_WEIGHTS) else None


def all_hidden_states(bert: BertModel, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hidden states [batch, tokens, hidden] of every layer, embeddings first."""
    return bert(input_ids=tokens, output_hidden_states=True).hidden_states


def hidden_states(
    bert: BertModel, tokens: torch.Tensor, layer: int | None = None, places: slice = slice(None)
) -> torch.Tensor:
    """Hidden states [batch, tokens, hidden] of a layer (None: the last) for tokens [batch, tokens], all of one length.

    places: the tokens whose states are wanted. Nothing that they do not depend on is computed: no block above the
    layer, and of its own block only these tokens' queries and what follows from them.
    No attention mask: nothing is padded, and None keeps the fast attention kernels.
    """
    blocks = bert.encoder.layer
    layer = len(blocks) if layer is None else layer
    if layer > len(blocks):
        raise InputError(f"layer {layer} does not exist: the encoder has {len(blocks)} blocks")
    states = bert.embeddings(input_ids=tokens)
    if not layer:
        return states[:, places]
    for block in blocks[: layer - 1]:
        states = block(states)
    return _block_at(blocks[layer - 1], states, places)


def _block_at(block: nn.Module, states: torch.Tensor, places: slice) -> torch.Tensor:
    """What a BertLayer makes of `states` [batch, tokens, hidden] at some of its tokens, [batch, places, hidden]."""
    if places == slice(None):
        return block(states)
    attention, wanted = block.attention.self, states[:, places]
    query, key, value = (
        project(given).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for project, given in ((attention.query, wanted), (attention.key, states), (attention.value, states))
    )
    dropout = attention.dropout.p if attention.training else 0.0
    context, _ = attend(attention, query, key, value, None, dropout=dropout, scaling=attention.scaling)
    return block.feed_forward_chunk(block.attention.output(context.flatten(2), wanted))


def pool(states: torch.Tensor, kind: str) -> torch.Tensor:
    """One vector a window, [batch, hidden], from one layer's hidden states [batch, 1 + bases + 1, hidden].

    centre is the mean of the two central bases: joined, as NMI has them, they would be twice as wide as what every
    other pooling gives, and a classifier of another size.
    """
    if kind == "cls":
        return states[:, 0]
    if kind == "mean":
        return states[:, 1:-1].mean(dim=1)  # the bases, without [CLS] and [SEP]
    if kind == "centre":
        return central_states(states).mean(dim=1)
    raise InputError(f"model.pooling {kind!r} is unknown: {', '.join(POOLING_KINDS)}")


def central_states(states: torch.Tensor) -> torch.Tensor:
    """Hidden states [batch, 2, hidden] of the two central bases, from [batch, 1 + bases + 1, hidden]."""
    return states[:, _centre(states)]


def _centre(rows: torch.Tensor) -> slice:
    """The two central bases of rows [batch, 1 + bases + 1, ...]."""
    first = (rows.shape[1] - 2) // 2  # [CLS] shifts base length // 2 - 1 to this token
    return slice(first, first + 2)


def save_checkpoint(model: nn.Module, folder: Path, pooling: str) -> None:
    """A plain save_pretrained folder with its tokenizer; config.json also records the pooling."""
    model.config.pooling = pooling
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(folder, model.config.max_position_embeddings)

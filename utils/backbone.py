"""The encoder: load it from a checkpoint or make it fresh, pool its hidden states, save it so that others get the same.

Every checkpoint is a plain `save_pretrained` folder of a ten-row BERT; `config.json` also records the pooling, so
whoever loads it gets the same vectors. Layers are counted 0 = embeddings, 1..n = blocks.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from utils.config import ModelConfig
from utils.errors import InputError
from utils.sequence import VOCAB

DEFAULT_POOLING = "cls"  # what the published checkpoints, which record none, were used with

# Keys that published BERT checkpoints may hold beyond or short of ours, and that change no vector:
_EXPECTED_UNEXPECTED = ("bert.pooler.", "pooler.", "cls.seq_relationship.", "position_ids")
_MLM_HEAD = "cls.predictions."


def load_backbone(config: ModelConfig, need_mlm_head: bool = False) -> tuple[BertForMaskedLM, str, list[str]]:
    """The encoder with its MLM head, how it pools, and remarks about the loading worth a line in the log.

    config.source: a SpliceBERT folder or any BERT folder (or hub id) with SpliceBERT's ten-row vocabulary, or None for
    fresh weights (seeded by torch's global generator). config.pooling overrides what the checkpoint records.
    Raises InputError when the checkpoint is missing, of another kind or vocabulary, or has keys that nobody expected.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if config.source is None:
        model, remarks = BertForMaskedLM(_fresh_config(config)), ["fresh weights"]
        recorded = None
    else:
        model, remarks = _load(config, need_mlm_head)
        recorded = getattr(model.config, "pooling", None)
    pooling = config.pooling or recorded or DEFAULT_POOLING
    if recorded and config.pooling and config.pooling != recorded:
        remarks.append(f"pooling changed from the checkpoint's {recorded} to {config.pooling}")
    return model, pooling, remarks


def fresh_like(bert_config: BertConfig) -> BertForMaskedLM:
    """Fresh weights of the same sizes, from torch's global generator: the `fresh` arm and floor."""
    return BertForMaskedLM(BertConfig.from_dict(bert_config.to_dict()))


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
        pad_token_id=0,
    )


def _load(config: ModelConfig, need_mlm_head: bool) -> tuple[BertForMaskedLM, list[str]]:
    source = str(config.source)
    _check_config(source)
    try:
        model, report = BertForMaskedLM.from_pretrained(
            source,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            hidden_dropout_prob=config.hidden_dropout_prob,
            attention_probs_dropout_prob=config.attention_probs_dropout_prob,
            output_hidden_states=False,  # SpliceBERT's configs ask for them always; training must not pay for that
        )
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"model.source {source}: the weights cannot be read ({str(error)[:300]})") from None
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
    remarks = [f"weights from {source}"]
    remarks += [f"keys of the checkpoint that are not used: {', '.join(ignored)}"] if ignored else []
    remarks += ["the checkpoint has no masked-LM head: the one saved with ours is untrained"] if no_head else []
    return model, remarks


def _is_expected(key: str) -> bool:
    return any(part in key for part in _EXPECTED_UNEXPECTED)


def _check_config(source: str) -> None:
    """Refuse what is no BERT with our vocabulary, before any weight is read."""
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"model.source {source} has no config.json: it is not a checkpoint folder")
    if not folder.is_dir() and (folder.exists() or source.count("/") != 1 or source.startswith((".", "/"))):
        raise InputError(f"model.source {source} is neither a folder nor a hub id (owner/name)")
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.source {source}: config.json cannot be had ({str(error).splitlines()[0][:200]})"
        ) from None
    if config.model_type != "bert":
        raise InputError(f"model.source {source}: model_type is {config.model_type!r}, expected a plain 'bert'")
    if config.vocab_size != len(VOCAB):
        raise InputError(
            f"model.source {source}: vocabulary of {config.vocab_size} rows, "
            f"expected SpliceBERT's {len(VOCAB)} ({' '.join(VOCAB)})"
        )
    vocab = folder / "vocab.txt"
    if vocab.is_file() and tuple(vocab.read_text().split()) != VOCAB:
        raise InputError(f"{vocab}: the tokens are not SpliceBERT's in its order ({' '.join(VOCAB)})")


def check_length(model: nn.Module, length: int, field: str) -> None:
    """Refuse windows of `length` nt that do not fit the model's positions with [CLS] and [SEP]."""
    limit = model.config.max_position_embeddings - 2
    if length > limit:
        raise InputError(
            f"{field} ({length} nt) is longer than the checkpoint takes ({limit} nt, and 2 for [CLS] and [SEP])"
        )


def hidden_states(bert: BertModel, tokens: torch.Tensor, layer: int | None = None) -> torch.Tensor:
    """Hidden states [batch, tokens, hidden] of a layer (None: the last) for tokens [batch, tokens], all of one length.

    No attention mask: nothing is padded, and None keeps the fast attention kernels.
    """
    if layer is None or layer == bert.config.num_hidden_layers:
        return bert(input_ids=tokens).last_hidden_state
    if layer > bert.config.num_hidden_layers:
        raise InputError(f"layer {layer} does not exist: the encoder has {bert.config.num_hidden_layers} blocks")
    return bert(input_ids=tokens, output_hidden_states=True).hidden_states[layer]


def pool(states: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a window, [batch, hidden], from hidden states [batch, 1 + bases + 1, hidden]."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "mean":
        return states[:, 1:-1].mean(dim=1)  # the bases, without [CLS] and [SEP]
    raise InputError(f"model.pooling {pooling!r} is unknown: cls or mean")


def save_checkpoint(model: nn.Module, folder: Path, pooling: str) -> None:
    """A plain save_pretrained folder whose config.json also records the pooling."""
    model.config.pooling = pooling
    model.save_pretrained(folder, safe_serialization=True)

"""Layouts of checkpoints: which rows a vocabulary has, and multimolecule's port of SpliceBERT made a plain BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simcsp.core.errors import InputError
from simcsp.text.alphabet import VOCAB

MLM_HEAD = "cls.predictions."
_WORD_EMBEDDING = "embeddings.word_embeddings.weight"
# multimolecule's port of SpliceBERT has 26 or 28 tokens: the first eleven are the same in both, and SpliceBERT was
# trained on none of the others.
MULTIMOLECULE_VOCAB = ("<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>", "A", "C", "G", "U", "N")
_SAME_TOKEN = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<cls>", "[SEP]": "<eos>", "[MASK]": "<mask>", "T": "U"}
MULTIMOLECULE_ROWS = [MULTIMOLECULE_VOCAB.index(_SAME_TOKEN.get(token, token)) for token in VOCAB]  # in our order
# fields of its config.json -> the token whose id they give
MULTIMOLECULE_IDS = {f"{role}_token_id": f"<{role}>" for role in ("pad", "eos", "unk", "mask", "null")}
MULTIMOLECULE_IDS["bos_token_id"] = "<cls>"
_MULTIMOLECULE_DROPOUT = {"hidden_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
_MULTIMOLECULE_SIZES = (  # fields that mean what they mean in BertConfig
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
    *("type_vocab_size", "hidden_act", "layer_norm_eps", "initializer_range"),
)
MODEL_TYPES = {len(VOCAB): "bert", 26: "splicebert", 28: "splicebert"}  # rows of the word embedding -> model_type


# -- layouts -----------------------------------------------------------------------------------------------------------


def vocabulary_rows(weights: dict[str, torch.Tensor], weight_file: Path, values: dict[str, Any]) -> tuple[str, int]:
    """What precedes the name of the word embedding, and its rows, which tell the layout and must suit config.json."""
    keys = [key for key, value in weights.items() if key.endswith(_WORD_EMBEDDING) and value.ndim == 2]
    if len(keys) != 1:
        raise InputError(f"{weight_file} holds {len(keys)} word embeddings (*{_WORD_EMBEDDING}), expected one")
    rows = len(weights[keys[0]])
    if rows not in MODEL_TYPES:
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, expected SpliceBERT's {len(VOCAB)} ({' '.join(VOCAB)}), or the "
            "26 or 28 of multimolecule's port"
        )
    if rows != values.get("vocab_size"):
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, but config.json beside it gives a vocabulary of "
            f"{values.get('vocab_size')} rows: the two files do not belong together"
        )
    if values["model_type"] != MODEL_TYPES[rows]:
        raise InputError(
            f"{weight_file}: {keys[0]} has {rows} rows, as only model_type {MODEL_TYPES[rows]!r} has, but config.json "
            f"beside it says {values['model_type']!r}"
        )
    return keys[0].removesuffix(_WORD_EMBEDDING), rows


def convert_multimolecule(weights: dict[str, torch.Tensor], prefix: str, weight_file: Path) -> dict[str, torch.Tensor]:
    """Weights of multimolecule's SpliceBERT under the names, and in the row order, of a plain `BertForMaskedLM`.

    prefix: of its encoder, `model.` (newer) or `splicebert.` (older). What has no counterpart keeps its name, for the
    caller to refuse; rows of tokens that SpliceBERT lacks are dropped. weight_file: for the error of a head's rows.
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
            name = MLM_HEAD + name.removeprefix("lm_head.")
        vocabulary = name in (f"{MLM_HEAD}bias", f"{MLM_HEAD}decoder.bias", f"{MLM_HEAD}decoder.weight")
        if vocabulary or name.endswith(_WORD_EMBEDDING):
            if value.shape[:1] != (rows,):
                raise InputError(
                    f"{weight_file}: {key} is of shape {tuple(value.shape)}, expected the word embedding's {rows} rows"
                )
            value = value[MULTIMOLECULE_ROWS]
        converted[name] = value
    return converted


def multimolecule_settings(values: dict[str, Any], config_file: Path) -> dict[str, Any]:
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

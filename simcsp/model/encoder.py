"""The encoder: fresh weights, blocks removed, hidden states, and how a window becomes one vector.

Layers are counted 0 = embeddings, 1..n = blocks. A pooling is written as one word: `KIND`, of the last layer, or
`KIND@LAYER`; KIND is cls, mean or centre, LAYER a number or `mix`, a learned mean of all layers. A version of this code
that knows no layers refuses such a word.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from simcsp.core.config import ModelConfig
from simcsp.core.device import check_memory
from simcsp.core.errors import InputError
from simcsp.model.attention import ATTENTION, attend, make_cheap
from simcsp.text.alphabet import VOCAB

DEFAULT_POOLING = "cls"  # what the published checkpoints, which record none, were used with
POOLING_KINDS = ("cls", "mean", "centre")
MIX = "mix"  # in the place of a layer's number
MIX_WEIGHTS = "layer_mix"  # name of the encoder's parameter; nobody else's BERT has it


def fresh_like(bert_config: BertConfig) -> BertForMaskedLM:
    """Fresh weights of the same sizes and kind, from torch's global generator: the `fresh` arm and floor."""
    model = BertForMaskedLM(BertConfig.from_dict(bert_config.to_dict(), attn_implementation=ATTENTION))
    make_cheap(model)
    if getattr(bert_config, "position_init", "normal") == "sinusoidal":
        positions = model.bert.embeddings.position_embeddings.weight
        with torch.no_grad():
            positions.copy_(bert_config.initializer_range * 2**0.5 * sinusoids(*positions.shape))
    if read_pooling(getattr(bert_config, "pooling", DEFAULT_POOLING)).layer == MIX:
        set_mix(model.bert, torch.zeros(bert_config.num_hidden_layers + 1))
    return model


def drop_layers(model: BertForMaskedLM, count: int) -> None:
    """Remove the last blocks of an encoder, in place, and their weights in a learned mix. Raises InputError if all."""
    blocks = model.bert.encoder.layer
    if count >= len(blocks):
        fault = f"model.drop_layers ({count}) leaves none of the encoder's {len(blocks)} blocks"
        raise InputError(f"{fault}: give at most {len(blocks) - 1}")
    model.bert.encoder.layer = blocks[:-count]
    model.config.num_hidden_layers = len(blocks) - count
    if hasattr(model.bert, MIX_WEIGHTS):
        set_mix(model.bert, model.bert.layer_mix.detach()[:-count])


def set_mix(bert: BertModel, weights: torch.Tensor) -> None:
    """Give the encoder the parameter of a learned mix of layers, [1 + blocks]; its softmax weighs the layers."""
    bert.register_parameter(MIX_WEIGHTS, nn.Parameter(weights.clone()))


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Position embeddings [length, width] of Vaswani et al. 2017, section 3.5, with wavelengths from 2 pi to 400 pi.

    The dot product of two rows depends on their distance alone, so that a head can find "the base before" with one
    matrix. 200 in the place of 10,000, because what a base depends on is mostly near.
    """
    angle = torch.arange(length)[:, None] * 200.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def check_size(config: BertConfig, what: str) -> None:
    """Refuse a model whose weights alone are more than the memory, before it is built."""
    hidden, inner = config.hidden_size, config.intermediate_size
    a_block = 4 * hidden * hidden + 2 * hidden * inner
    embeddings = (config.vocab_size + config.max_position_embeddings) * hidden
    check_memory(4.0 * (config.num_hidden_layers * a_block + embeddings), what)


def fresh_config(config: ModelConfig) -> BertConfig:
    elsewhere = ("source", "pooling", "pooling_layer", "drop_layers")
    # position_init is recorded, so that the fresh arm starts alike
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in elsewhere}
    return BertConfig(vocab_size=len(VOCAB), pad_token_id=0, **fields)


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


def set_pooling(model: BertForMaskedLM, pooling: str) -> None:
    """Record the pooling, with a mix of equal parts where it asks for one and the encoder has none yet."""
    kind, layer = read_pooling(pooling)
    blocks = model.config.num_hidden_layers
    if isinstance(layer, int) and layer > blocks:
        raise InputError(f"model.pooling_layer: layer {layer} does not exist: the encoder has {blocks} blocks")
    if (kind, layer) == ("cls", 0):
        raise InputError("model.pooling cls of model.pooling_layer 0 is one and the same vector for every window")
    model.config.pooling = pooling
    mixed = hasattr(model.bert, MIX_WEIGHTS)
    if layer == MIX and not mixed:
        set_mix(model.bert, torch.zeros(blocks + 1))
    elif layer != MIX and mixed:
        del model.bert.layer_mix


def window_vectors(
    bert: BertModel,
    tokens: torch.Tensor,
    pooling: str,
    positions: torch.Tensor | None = None,
    boundaries: torch.Tensor | None = None,
) -> torch.Tensor:
    """One vector a window, [batch, hidden], for tokens [batch, 1 + bases + 1], all of one length.

    positions: [1, tokens], of the tokens among the encoder's; None: from 0. boundaries: int [batch], the base of each
    window that the boundary of its site precedes, which is what `centre` then means; None: half the window.

    A learned mix is the layers' mean under softmax weights, as in ELMo (Peters et al. 2018, equation 1), without its
    scale, which neither a cosine nor a linear layer needs; every layer ends in a layer norm, so they are of one size.
    """
    kind, layer = read_pooling(pooling)
    if layer != MIX:
        places = {"cls": slice(0, 1), "mean": slice(None), "centre": _centre(tokens, boundaries)}[kind]
        states = hidden_states(bert, tokens, layer, places, positions)
        return pool(states, kind) if kind == "mean" else states.mean(dim=1)
    layers = all_hidden_states(bert, tokens, positions)
    vectors = torch.stack([pool(states, kind, boundaries) for states in layers], dim=-1)
    return (vectors * mix_weights(bert)).sum(dim=-1)  # pooling is linear: of each layer first, which is less to mix


def mix_weights(bert: BertModel) -> torch.Tensor | None:
    """Share of each layer in the encoder's learned mix, [1 + blocks]; None where it has none."""
    return bert.layer_mix.softmax(dim=0) if hasattr(bert, MIX_WEIGHTS) else None


def all_hidden_states(
    bert: BertModel, tokens: torch.Tensor, positions: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Hidden states [batch, tokens, hidden] of every layer, embeddings first."""
    return bert(input_ids=tokens, position_ids=positions, output_hidden_states=True).hidden_states


def hidden_states(
    bert: BertModel,
    tokens: torch.Tensor,
    layer: int | None = None,
    places: slice | torch.Tensor = slice(None),
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hidden states [batch, tokens, hidden] of a layer (None: the last) for tokens [batch, tokens], all of one length.

    places: the tokens whose states are wanted, of all windows or int [batch, places]. Nothing that they do not depend
    on is computed: no block above the layer, and of its own block only these tokens' queries and what follows.
    No attention mask: nothing is padded, and None keeps the fast attention kernels.
    """
    blocks = bert.encoder.layer
    layer = len(blocks) if layer is None else layer
    if layer > len(blocks):
        raise InputError(f"layer {layer} does not exist: the encoder has {len(blocks)} blocks")
    states = bert.embeddings(input_ids=tokens, position_ids=positions)
    if not layer:
        return states_at(states, places)
    for block in blocks[: layer - 1]:
        states = block(states)
    return _block_at(blocks[layer - 1], states, places)


def states_at(states: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
    """Of states [batch, tokens, hidden] those of some tokens, [batch, places, hidden]; places as of `hidden_states`."""
    return states[:, places] if isinstance(places, slice) else states.take_along_dim(places[:, :, None], dim=1)


def _block_at(block: nn.Module, states: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
    """What a BertLayer makes of `states` [batch, tokens, hidden] at some of its tokens, [batch, places, hidden]."""
    if isinstance(places, slice) and places == slice(None):
        return block(states)
    attention, wanted = block.attention.self, states_at(states, places)
    context = attended(attention, attention.query(wanted), attention.key(states), attention.value(states))
    return block.feed_forward_chunk(block.attention.output(context, wanted))


def attended(
    attention: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a BertSelfAttention makes of its projected states, each [batch, tokens, hidden]."""
    heads = attention.num_attention_heads, -1
    query, key, value = (states.unflatten(-1, heads).transpose(1, 2) for states in (query, key, value))
    dropout = attention.dropout.p if attention.training else 0.0
    context, _ = attend(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
    return context.flatten(2)


def pool(states: torch.Tensor, kind: str, boundaries: torch.Tensor | None = None) -> torch.Tensor:
    """One vector a window, [batch, hidden], from one layer's hidden states [batch, 1 + bases + 1, hidden].

    kind: of POOLING_KINDS. centre is the mean of the two central bases: joined, as NMI has them, they would be twice as
    wide as what every other pooling gives, and a classifier of another size. boundaries: as of `window_vectors`.
    """
    if kind == "cls":
        return states[:, 0]
    if kind == "mean":
        return states[:, 1:-1].mean(dim=1)  # the bases, without [CLS] and [SEP]
    return states_at(states, _centre(states, boundaries)).mean(dim=1)


def central_states(states: torch.Tensor, flank: int = 1) -> torch.Tensor:
    """[batch, 2 flank, hidden] of so many bases on either side of the middle, from [batch, 1 + bases + 1, hidden]."""
    first = _centre(states).start + 1 - flank
    return states[:, first : first + 2 * flank]


def _centre(rows: torch.Tensor, boundaries: torch.Tensor | None = None) -> slice | torch.Tensor:
    """The two central bases of rows [batch, 1 + bases + 1, ...], or those on either side of boundaries [batch]."""
    if boundaries is not None:
        return torch.stack([boundaries, boundaries + 1], dim=1)  # [CLS] shifts each base by one token
    first = (rows.shape[1] - 2) // 2  # [CLS] shifts base length // 2 - 1 to this token
    return slice(first, first + 2)

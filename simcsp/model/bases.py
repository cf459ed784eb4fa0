"""The model that labels every base of a text at once: neither, acceptor or donor, at the exon's base of the boundary.

The bases, with the hidden states of an encoder beside them or not, go through residual blocks of dilated convolutions
(SpliceAI's: Jaganathan et al., Cell 176, 535-548, 2019), which see beyond the few bases that the encoder takes at once;
a coarse path between them, one position for `stride` bases, sees thousands of bases at a quarter of the cost (U-Net's:
Ronneberger et al., MICCAI 2015). Or a linear layer stands on the hidden states alone.

A checkpoint is bases.json (sizes, calibration) beside the weights. Those of an encoder with a linear layer are a plain
`BertForTokenClassification`, whose softmax is the calibrated P; convolutions, which no class of transformers has, are
in bases.safetensors, beside the save_pretrained folder of their encoder where there is one.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForTokenClassification, BertModel

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.core.files import write_json
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.embedding import Autocast
from simcsp.model.encoder import DEFAULT_POOLING, MIX_WEIGHTS, check_length, hidden_states, read_pooling
from simcsp.model.weights import read_json, read_weights, weight_file_of
from simcsp.text.alphabet import CLS, SEP, A, N, T, reverse_complement
from simcsp.text.store import Record, TokenStore, padded

BASES_FILE, BASES_CONFIG = "bases.safetensors", "bases.json"
CLASSES = ("neither", "acceptor", "donor")
TYPES = CLASSES[1:]
IDENTITY = np.array([[1.0, 0.0], [1.0, 0.0]])
"""The calibration of log-odds that are calibrated, or are to be."""
_LETTERS = T - A + 1
_LATER_SIZES = {"edge", "stride", "coarse_channels", "coarse_kernel", "coarse_dilations", "final_dilations"}
"""Fields of `Shape` that the first versions did not have."""
_CHUNK_TILES, _CHUNK_FLANKS = 64, 32
"""Least size of a chunk: in tiles, and in flanks, which are read in vain."""
_ON_GPU = 2_100_000  # bases in one pass


@dataclass(frozen=True)
class Shape:
    """Sizes of a `BaseClassifier`. tile: nt that the encoder reads at once; edge: of them, nt on either side whose
    hidden states are thrown away, so that tiles overlap; channels: 0 is a linear layer on the hidden states, without
    convolutions; dilations: one a block, of those before the coarse path, of the coarse path itself and of those that
    follow it; without coarse_dilations there is neither of the last two."""

    tile: int = 126
    channels: int = 32
    kernel: int = 11
    dilations: list[int] = field(default_factory=lambda: [1, 1, 4, 10])
    edge: int = 0
    stride: int = 1
    coarse_channels: int = 64
    coarse_kernel: int = 7
    coarse_dilations: list[int] = field(default_factory=list)
    final_dilations: list[int] = field(default_factory=list)

    @property
    def is_linear(self) -> bool:
        return self.channels == 0

    @property
    def step(self) -> int:
        """nt from one tile to the next: the grid that scores lie on."""
        return self.tile - 2 * self.edge

    @property
    def reach(self) -> int:
        """nt on either side that the label of a base depends on, but for what the encoder sees beyond."""
        if self.is_linear:
            return 0
        fine = 2 * (self.kernel // 2) * sum([*self.dilations, *self.final_dilations])
        coarse = self.stride * (2 * (self.coarse_kernel // 2) * sum(self.coarse_dilations) + 1)
        return fine + (coarse if self.coarse_dilations else 0)

    @property
    def flank(self) -> int:
        """nt on either side of a text that are thrown away: whole steps that cover the reach and a base's own tile."""
        return -(-(self.reach + self.edge) // self.step) * self.step


class Block(nn.Module):
    """Two dilated convolutions beside a shortcut; [batch, channels, 1, length] to the same. dropout: of channels."""

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        reach = kernel // 2 * dilation
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        spread = {"padding": (0, reach), "dilation": (1, dilation)}
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, (1, kernel), **spread) for _ in range(2))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        changed = states
        for norm, convolve in zip(self.norms, self.convolutions):
            changed = convolve(F.relu(norm(changed), inplace=True))
        return states + self.dropout(changed)


class BaseClassifier(nn.Module):
    """Logits of CLASSES, or of as many others, for every base of a text; the first is the frequent one.

    bert: None is the arm without an encoder. It reads tiles side by side, so that each base is encoded once; frozen:
    it is not trained. Convolutions run in two dimensions, one of size 1: channels-last memory, four times as fast on a
    CPU, serves those alone.
    """

    def __init__(
        self,
        bert: BertModel | None,
        shape: Shape,
        frozen: bool = True,
        dropout: float = 0.0,
        classes: int = len(CLASSES),
    ) -> None:
        super().__init__()
        self.bert, self.shape, self.frozen = bert, shape, frozen
        if bert is not None:
            check_length(bert, shape.tile, "bases.tile")
            bert.requires_grad_(not frozen)
        if shape.is_linear:
            if bert is None:
                raise InputError("bases.channels 0 is a linear layer on an encoder: the arm without one has nothing")
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(bert.config.hidden_size, classes)
            nn.init.normal_(self.head.weight, std=bert.config.initializer_range)
            self._favour_first()
            return
        inputs = _LETTERS + (0 if bert is None else bert.config.hidden_size)
        width, coarse = shape.channels, shape.coarse_channels

        def blocks(channels: int, kernel: int, dilations: list[int]) -> nn.Sequential:
            return nn.Sequential(*(Block(channels, kernel, dilation, dropout) for dilation in dilations))

        self.stem = nn.Conv2d(inputs, width, (1, 1))
        self.blocks = blocks(width, shape.kernel, shape.dilations)
        if shape.coarse_dilations:
            self.down = nn.Conv2d(width, coarse, (1, shape.stride), stride=(1, shape.stride))
            self.coarse = blocks(coarse, shape.coarse_kernel, shape.coarse_dilations)
            self.up = nn.ConvTranspose2d(coarse, width, (1, shape.stride), stride=(1, shape.stride))
            self.final = blocks(width, shape.kernel, shape.final_dilations)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, classes, (1, 1))
        self._favour_first()
        self.to(memory_format=torch.channels_last)

    def _favour_first(self) -> None:
        with torch.no_grad():  # one base in thousands is a site
            self.head.bias.fill_(-3.0)[0] = 3.0

    def train(self, mode: bool = True) -> BaseClassifier:
        """Training mode; a frozen encoder has no dropout."""
        super().train(mode)
        if self.bert is not None and self.frozen:
            self.bert.eval()
        return self

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """The encoder's hidden states [batch, length, hidden] of ids [batch, length]; beyond them the text is N.

        Tiles begin `edge` nt before each multiple of the step.
        """
        (batch, length), shape = ids.shape, self.shape
        text = F.pad(ids, (shape.edge, shape.edge + -length % shape.step), value=N)
        tokens = F.pad(text.unfold(1, shape.tile, shape.step).reshape(-1, shape.tile).int(), (1, 1))
        tokens[:, 0], tokens[:, -1] = CLS, SEP
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = hidden_states(self.bert, tokens)[:, 1 + shape.edge : 1 + shape.edge + shape.step]
        return states.reshape(batch, -1, states.shape[-1])[:, :length]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [batch, length, 3] of ids uint8 [batch, length]; N is a base without a letter.

        With a coarse path the length is a multiple of its stride.
        """
        if self.shape.is_linear:
            return self.head(self.dropout(self.encode(ids)))
        letters = torch.arange(A, T + 1, device=ids.device, dtype=ids.dtype)
        inputs = (ids[..., None] == letters).float()
        if self.bert is not None:
            inputs = torch.cat([inputs, self.encode(ids).float()], dim=-1)
        states = inputs.transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)
        states = self.blocks(self.stem(states))
        if self.shape.coarse_dilations:
            states = self.final(states + self.up(self.coarse(self.down(states))))
        states = F.relu(self.norm(states), inplace=True)
        return self.head(states)[:, :, 0].transpose(1, 2)


def grow(model: BaseClassifier, smaller: BaseClassifier) -> None:
    """Make `model` compute what a smaller one does, to train on from there (as Net2Net: Chen et al., ICLR 2016).

    The smaller one's channels and blocks come first. Further channels have fresh weights, which nothing else reads yet;
    further blocks add 0. Raises InputError where the model has not all that the smaller one has.
    """
    _check_growth(model, smaller)
    theirs = smaller.state_dict()
    with torch.no_grad():
        for key, weights in model.state_dict().items():
            if key not in theirs:
                if ".convolutions.1." in key:  # the last of a block
                    weights.zero_()
            elif weights.ndim < 2:
                weights.view(-1)[: theirs[key].numel()] = theirs[key]
            else:
                out, into = (1, 0) if key.startswith("up.") else (0, 1)
                rows = weights.narrow(out, 0, theirs[key].shape[out]).zero_()
                rows.narrow(into, 0, theirs[key].shape[into]).copy_(theirs[key])


def _check_growth(model: BaseClassifier, smaller: BaseClassifier) -> None:
    if smaller.bert is not None or smaller.shape.is_linear:
        raise InputError("bases.source: it reads an encoder, which the arm cnn has not: give a model of letters alone")
    larger, given = dataclasses.asdict(model.shape), dataclasses.asdict(smaller.shape)
    for name in ("kernel", "stride", "coarse_kernel"):
        if larger[name] != given[name]:
            raise InputError(f"bases.source: its {name} is {given[name]}, here {larger[name]}: set both alike")
    for name in ("channels", "coarse_channels"):
        if larger[name] < given[name]:
            raise InputError(f"bases.{name} ({larger[name]}) is less than that of bases.source ({given[name]})")
    for name in ("dilations", "coarse_dilations", "final_dilations"):
        if larger[name][: len(given[name])] != given[name] or not given[name] and larger[name]:
            raise InputError(f"bases.{name} ({larger[name]}) must begin with those of bases.source, {given[name]}")


# -- checkpoints -------------------------------------------------------------------------------------------------------


def save_bases(model: BaseClassifier, calibration: np.ndarray, folder: Path) -> None:
    """Fill a folder. calibration: float [2, 2], slope and offset of the log-odds of acceptors and of donors."""
    if model.shape.is_linear:
        _save_linear(model, calibration, folder)
        calibration = IDENTITY
    elif model.bert is not None:
        save_checkpoint(model.bert, folder, getattr(model.bert.config, "pooling", DEFAULT_POOLING))
    own = {key: value.contiguous() for key, value in model.state_dict().items() if not key.startswith("bert.")}
    if not model.shape.is_linear:
        save_file(own, folder / BASES_FILE)
    rows = {kind: {"slope": float(a), "offset": float(b)} for kind, (a, b) in zip(TYPES, calibration)}
    values = {"classes": CLASSES, "encoder": model.bert is not None, **dataclasses.asdict(model.shape)}
    write_json(folder / BASES_CONFIG, values | {"calibration": rows})


def _save_linear(model: BaseClassifier, calibration: np.ndarray, folder: Path) -> None:
    """A `BertForTokenClassification` whose softmax is the calibrated P: the logit of neither is 0, those of acceptor
    and donor are their calibrated log-odds against it, which are linear in the hidden states too."""
    names = dict(enumerate(CLASSES))
    config = BertConfig.from_dict({**model.bert.config.to_dict(), "id2label": names, "num_labels": len(CLASSES)})
    config.label2id = {name: number for number, name in names.items()}
    with torch.random.fork_rng(devices=[]):  # its fresh weights must not move the numbers that training draws
        plain = BertForTokenClassification(config)
    plain.bert.load_state_dict({key: value for key, value in model.bert.state_dict().items() if key != MIX_WEIGHTS})
    weight, bias = (value.detach().double().cpu() for value in (model.head.weight, model.head.bias))
    slope, offset = torch.from_numpy(np.asarray(calibration, dtype=np.float64)).T
    with torch.no_grad():
        plain.classifier.weight.zero_()[1:] = slope[:, None] * (weight[1:] - weight[0])
        plain.classifier.bias.zero_()[1:] = slope * (bias[1:] - bias[0]) + offset
    pooling = read_pooling(getattr(model.bert.config, "pooling", DEFAULT_POOLING))
    save_checkpoint(plain, folder, pooling.kind)


def load_bases(folder: Path) -> tuple[BaseClassifier, np.ndarray]:
    """(model in evaluation mode, calibration [2, 2]) of a checkpoint folder.

    Raises InputError for a folder of another kind, and for files that do not belong together.
    """
    if not (folder / BASES_CONFIG).is_file():
        raise InputError(
            f"{folder} has no {BASES_CONFIG}: it holds no model that labels every base, such as finetune.task bases "
            "trains (one of windows scores a site at the centre of each)"
        )
    values = read_json(folder / BASES_CONFIG)
    if values.get("members", 1) != 1:
        raise InputError(f"{folder}: members, networks side by side, are gone since the first version: train it again")
    try:
        names = [item.name for item in dataclasses.fields(Shape)]
        shape = Shape(**{name: values[name] for name in names if name in values or name not in _LATER_SIZES})
        weights = _own_weights(folder, shape)
        calibration = np.array([[values["calibration"][kind][key] for key in ("slope", "offset")] for kind in TYPES])
        bert = None
        if values["encoder"]:
            none = ModelConfig(source=str(folder), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            bert = load_backbone(none)[0].bert
        model = BaseClassifier(bert, shape)
        missing, unknown = model.load_state_dict(weights, strict=False)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: {BASES_CONFIG} and {BASES_FILE} do not fit ({str(error)[:200]})") from None
    if unknown or [key for key in missing if not key.startswith("bert.")]:
        raise InputError(f"{folder}: {BASES_FILE} lacks or has other weights than {BASES_CONFIG} asks for")
    return model.eval(), calibration


def _own_weights(folder: Path, shape: Shape) -> dict[str, torch.Tensor]:
    if shape.is_linear:
        weights = read_weights(weight_file_of(folder))
        return {f"head.{part}": weights[f"classifier.{part}"] for part in ("weight", "bias")}
    if not (folder / BASES_FILE).is_file():
        raise InputError(f"{folder} has no {BASES_FILE}, which belongs to its {BASES_CONFIG}: restore it from a copy")
    return read_weights(folder / BASES_FILE)


# -- labels of a genome ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labeller:
    """A model at work. Passes lie on a grid of each record, so that a score depends on nothing else."""

    model: BaseClassifier
    calibration: np.ndarray
    device: torch.device
    autocast: Autocast = nullcontext

    @property
    def chunk(self) -> int:
        """Bases labelled at a time: chunks lie on a grid from each record's first base on."""
        shape = self.model.shape
        return max(_CHUNK_TILES * shape.step, _CHUNK_FLANKS * shape.flank)

    def log_odds(self, texts: np.ndarray) -> np.ndarray:
        """Raw log-odds of acceptor and donor against neither, float32 [n, length, 2], of ids [n, length], as read."""
        with torch.no_grad(), self.autocast():
            logits = self.model(torch.from_numpy(np.ascontiguousarray(texts)).to(self.device)).float()
        return (logits[..., 1:] - logits[..., :1]).cpu().numpy()

    def both_strands(self, ids: np.ndarray, forward: bool = False) -> np.ndarray:
        """Raw log-odds float32 [2, length, 2] of a text uint8 [length]: strand (+, -), base of the text, type.

        forward: of that strand alone, [1, length, 2].
        """
        if forward:
            return self.log_odds(ids[None])
        odds = self.log_odds(np.stack([ids, reverse_complement(ids)]))
        return np.stack([odds[0], odds[1, ::-1]])

    @property
    def at_once(self) -> int:
        """Chunks in one pass: a GPU is not filled by one, and the host would wait for it after each."""
        return max(_ON_GPU // self.chunk, 1) if self.device.type == "cuda" else 1

    def chunk_odds(self, store: TokenStore, record: Record, number: int, forward: bool = False) -> np.ndarray:
        """`both_strands` [2, bases, 2] of the record's chunk of this number; what lies beyond it counts as N."""
        return self.chunks_odds(store, record, [number], forward)[0]

    def chunks_odds(
        self, store: TokenStore, record: Record, numbers: list[int], forward: bool = False
    ) -> list[np.ndarray]:
        """`chunk_odds` of several chunks, ascending, in one pass; one that the record's end cuts short has its own."""
        shape, starts = self.model.shape, [number * self.chunk for number in numbers]
        sizes = [min(self.chunk, -(-(record.length - start) // shape.step) * shape.step) for start in starts]
        if sizes[0] != sizes[-1]:
            whole, last = numbers[:-1], numbers[-1:]
            return self.chunks_odds(store, record, whole, forward) + self.chunks_odds(store, record, last, forward)
        texts = [padded(store, record, start - shape.flank, start + sizes[0] + shape.flank) for start in starts]
        strands = [np.stack(texts)]
        strands += [] if forward else [reverse_complement(strands[0])]
        odds = self.log_odds(np.concatenate(strands)).reshape(len(strands), len(texts), -1, len(TYPES))
        inner = slice(shape.flank, shape.flank + sizes[0])
        plus_minus = [of_strand[:, ::-1] if minus else of_strand for minus, of_strand in enumerate(odds)]
        of_chunks = np.stack(plus_minus, axis=1)[:, :, inner]
        return [odds[:, : record.length - start] for start, odds in zip(starts, of_chunks)]

    def room_of(self, record: Record) -> int:
        """nt that a record takes in `packed_odds`: whole steps, and N up to the next record."""
        return -(-record.length // self.model.shape.step) * self.model.shape.step + self.model.shape.flank

    def packed_odds(self, store: TokenStore, records: list[Record]) -> list[np.ndarray]:
        """`chunk_odds` of several whole records in one pass, whose `room_of` together is at most a chunk.

        Each begins on a step with enough N about it that it knows nothing of the others, as if it were by itself.
        """
        flank = self.model.shape.flank
        ids = np.full(self.chunk + 2 * flank, N, dtype=np.uint8)
        starts = np.cumsum([flank, *(self.room_of(record) for record in records)])
        for start, record in zip(starts, records):
            ids[start : start + record.length] = store.fetch(record.name, 0, record.length)
        odds = self.both_strands(ids)
        return [odds[:, start : start + record.length] for start, record in zip(starts, records)]

    def probabilities(self, odds: np.ndarray) -> np.ndarray:
        """Calibrated P(acceptor), P(donor) of raw log-odds [..., 2]; with P(neither) they sum to 1."""
        calibrated = odds.astype(np.float64) * self.calibration[:, 0] + self.calibration[:, 1]
        top = np.maximum(calibrated.max(axis=-1, keepdims=True), 0.0)
        likely = np.exp(calibrated - top)
        return (likely / (np.exp(-top) + likely.sum(axis=-1, keepdims=True))).astype(np.float32)

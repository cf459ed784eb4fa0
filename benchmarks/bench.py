"""Two sides timed in turns: sizes, the table's rows, and the process that runs their side. run.py has the rows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from simcsp.core.config import ModelConfig
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import VOCAB

ANSWER = "seconds and GiB of the twin: "
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DROPOUT = 0.1  # SpliceBERT's, of hidden states and of attention


@dataclasses.dataclass(frozen=True)
class Size:
    """How much work a row is. Window lengths in nt, without [CLS] and [SEP]."""

    model: ModelConfig
    window: int
    """Contrast and encoding."""
    context: int
    """Fine-tuning."""
    encoded: int
    """Windows encoded at a time."""
    sites: int
    """Sites that NMI clusters."""


def model_of(hidden: int, layers: int, heads: int, positions: int) -> ModelConfig:
    """Fresh weights of that width and depth, which read up to `positions` tokens."""
    # initializer_range: with BERT's .02 all windows of a fresh encoder have nearly the same vector, and no two outputs
    # could be told apart.
    return ModelConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        initializer_range=0.08,
        pooling="cls",
    )


SIZES = {
    "splicebert": Size(model_of(512, 6, 16, 512), 510, 400, 16, 20_000),
    "small": Size(model_of(64, 2, 4, 128), 126, 60, 16, 1_000),
}


@dataclasses.dataclass
class Row:
    """One comparison. Seconds of both sides, pair by pair."""

    name: str
    work: str
    ours: str
    theirs: str
    seconds: list[tuple[float, float]]
    windows: int | None = None
    """Windows that the work takes in, where that says something."""
    remark: str = ""
    peaks: list[float] = dataclasses.field(default_factory=list)
    """GiB of a GPU that ours and theirs took."""

    def cells(self) -> list[str]:
        """Name, work, both sides, ratio, spread, pairs, seconds, remarks."""
        (ours, theirs), ratios = np.median(self.seconds, axis=0), [theirs / ours for ours, theirs in self.seconds]
        remarks = [self.remark] if self.remark else []
        remarks += [f"{self.windows / ours:.3g} windows/s"] if self.windows else []
        remarks += ["peak {:.2f} / {:.2f} GiB".format(*self.peaks)] if self.peaks else []
        numbers = [f"{np.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}", str(len(ratios))]
        seconds = f"{ours:.3g} / {theirs:.3g}"
        return [self.name, self.work, self.ours, self.theirs, *numbers, seconds, ", ".join(remarks)]


class Bench:
    """What all rows share: sizes, device and number format."""

    def __init__(
        self,
        size: Size,
        pairs: int,
        windows: int,
        folder: Path,
        clock: str = "wall",
        serving: bool = False,
        device: str = "cpu",
    ) -> None:
        self.gpu = device != "cpu" and torch.cuda.is_available()
        if self.gpu and clock == "cpu":
            raise InputError("--clock cpu counts nothing of what a GPU does: use --clock wall")
        self.size, self.pairs, self.windows, self.folder, self.clock = size, pairs, windows, folder, clock
        self.serving = serving  # this process is the twin of another one
        self.peaks: list[float] = []  # GiB of a GPU that ours and theirs took in the last comparison
        self.command: list[str] | None = None
        self.twin: Twin | None = None
        self.accelerator = build_accelerator(device, "auto")
        self.precision = "fp32" if self.accelerator.mixed_precision == "no" else self.accelerator.mixed_precision
        self.device, self._exact = self.accelerator.device, False
        self.rng = np.random.default_rng(0)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The number format of a timed side at its best; float32 while outputs are compared."""
        return contextlib.nullcontext() if self._exact else self.accelerator.autocast()

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Everything in float32."""
        self._exact = True
        yield
        self._exact = False

    def peak(self) -> float:
        """GiB of a GPU that tensors have taken at most since the last call; 0 without one."""
        if not self.gpu:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return peak

    def now(self) -> float:
        """Seconds on the clock, once a GPU has done all that it was asked to."""
        if self.gpu:
            torch.cuda.synchronize()
        return CLOCKS[self.clock]()

    def compare(self, ours: Callable[[], object], theirs: Callable[[], object]) -> list[tuple[float, float]]:
        """Seconds of both, in turns: ours, theirs, theirs, ours, ours, ... A side may return its own, as a float."""
        if self.serving:
            serve(theirs, self.now, self.peak)
            return [(1.0, 1.0)]  # the process that asks has the numbers
        if self.command:
            self.twin = self.twin or Twin(self.command)
        else:
            theirs()
        ours()
        self.peak()  # of the warm-up and before
        turns = {"ours": lambda: seconds(ours, self.now), "theirs": lambda: seconds(theirs, self.now)}
        turns |= {"theirs": self.twin.turn} if self.twin else {}
        pairs = []
        for pair in range(self.pairs):
            took = {side: turns[side]() for side in (turns if pair % 2 == 0 else reversed(turns))}
            pairs.append((took["ours"], took["theirs"]))
        if self.twin:
            self.peaks = [self.peak(), self.twin.peak]
            self.twin.next_row()
        return pairs

    def begin_row(self, command: list[str] | None) -> None:
        """Inputs from the first random number on. command: how to start a twin that runs their side of the row."""
        self.rng, self.command = np.random.default_rng(0), command
        if self.twin:
            self.twin.close()
        self.twin = None

    def bases(self, count: int, length: int) -> np.ndarray:
        """Random windows, uint8 [count, length]."""
        return self.rng.integers(6, 10, (count, length), dtype=np.uint8)

    def masked_lm(self) -> nn.Module:
        """Fresh weights, the same at every call."""
        torch.manual_seed(0)
        return load_backbone(self.size.model)[0].to(self.device)

    def saved_encoder(self) -> Path:
        """A folder as a user has it: the weights of `masked_lm`, and a tokenizer of single bases parted by spaces."""
        folder = self.folder / "encoder"
        if not folder.exists():
            self.masked_lm().bert.save_pretrained(folder)
            (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
            settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
            settings["model_max_length"] = self.size.model.max_position_embeddings
            (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder

    def sentence_model(self):
        """The encoder in sentence-transformers, fast attention, [CLS] pooled."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        encoder = Transformer(str(self.saved_encoder()), model_kwargs={"attn_implementation": "sdpa"})
        pooling = Pooling(encoder.get_embedding_dimension(), "cls")
        return SentenceTransformer(modules=[encoder, pooling], device=self.device.type)


class Twin:
    """Another process of this script, which runs their side of a row when asked. Raises InputError where it ends."""

    def __init__(self, command: list[str]) -> None:
        # glibc's own value: all it does is to say that the environment decides about memory, not `keep_freed_memory`
        environment = os.environ | {"MALLOC_ARENA_TEST": "8"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.peak = 0.0

    def turn(self) -> float:
        """Seconds of one run; `peak` is then the GiB of a GPU that it took."""
        self._say("turn")
        for answer in self.process.stdout:
            if answer.startswith(ANSWER):
                took, self.peak = map(float, answer.removeprefix(ANSWER).split())
                return took
        raise InputError("benchmarks/run.py: the process of the other side has ended, see above")

    def next_row(self) -> None:
        self._say("next")

    def close(self) -> None:
        self.process.communicate()

    def _say(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: `turn` says so
            print(word, file=self.process.stdin, flush=True)


def serve(work: Callable[[], object], now: Callable[[], float], peak: Callable[[], float]) -> None:
    """Be the twin for one row, warm."""
    work()
    peak()  # of the warm-up and before
    for word in sys.stdin:
        if word != "turn\n":
            return
        print(f"{ANSWER}{seconds(work, now)!r} {peak()!r}", flush=True)
    sys.exit(0)  # nobody asks any more


def seconds(work: Callable[[], object], now: Callable[[], float]) -> float:
    """What a call takes, or what it returns if that is a float: its own seconds."""
    start = now()
    own = work()
    return own if isinstance(own, float) else now() - start

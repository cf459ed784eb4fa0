#!/usr/bin/env python
"""Speed side by side with what a user would run instead: one table.

    python benchmarks/run.py [--only NAME ...] [--size splicebert|small] [--pairs 5] [--windows 8] [--clock wall|cpu]
                             [--device auto|cpu|cuda] [--json FILE]

Both sides of a row run on the same inputs, warm, in turns (ours, theirs, theirs, ours, ...), so that whatever else the
machine does hits both; a ratio is the median over the pairs of theirs / ours. Ours runs in this process, theirs in
one of its own: our scripts have glibc keep freed memory on a CPU (`keep_freed_memory`), which theirs must not profit
from. Before anything is timed, both sides have to give the same output from the same weights with dropout off, in
float32; a row that does not is an error.

--clock cpu takes the processor's seconds of the process that works instead of the wall's: on a machine that is busy
with other work they are the better ones, with one thread. `loader`, whose work is in several processes, keeps to
the wall. On a GPU all rows do, the clock waits for what the GPU was asked to do, and a row says how much of its
memory either side took at most.

Ceiling: the rate of a large matrix product, measured before every row in the number format that both sides use.
Operations of a training step: 6 x parameters of the linear layers + 12 x layers x length x hidden per token; of a
forward pass a third of that. They are those of the work as defined, the same for both sides: a side that gets by with
fewer shows a larger share. Weights are fresh, of SpliceBERT's sizes by default. `nmi` needs scanpy, which wants other
versions than ours: $SIMCSP_SCANPY_PYTHON names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)
from transformers import TrainingArguments as TrainerArguments

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from simcsp.judge.clustering import leiden, nmi
from simcsp.model.checkpoint import load_backbone
from simcsp.model.classifier import Classifier, layer_groups
from simcsp.model.embedding import embed
from simcsp.text.alphabet import VOCAB, add_special_tokens, decode
from simcsp.text.sampler import WindowSampler
from simcsp.text.store import open_store
from simcsp.training.pretraining import Training
from simcsp.training.step import Learner, step_loss
from utils.config import ModelConfig, PretrainConfig
from utils.device import build_accelerator
from utils.errors import InputError, run_script

SCANPY = "SIMCSP_SCANPY_PYTHON"
ANSWER = "seconds and GiB of the twin: "
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DROPOUT = 0.1  # SpliceBERT's, of hidden states and of attention
TOLERANCE = 1e-3  # relative, of outputs that must be equal; sums of floats depend on how they are split


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
    bases: int
    """Length of the FASTA file that is read."""


def _model(hidden: int, layers: int, heads: int, positions: int) -> ModelConfig:
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
    "splicebert": Size(_model(512, 6, 16, 512), 510, 400, 16, 20_000, 2_000_000),
    "small": Size(_model(64, 2, 4, 128), 126, 60, 16, 1_000, 50_000),
}


@dataclasses.dataclass
class Row:
    """One comparison. Seconds of both sides, pair by pair."""

    name: str
    work: str
    ours: str
    theirs: str
    seconds: list[tuple[float, float]]
    operations: float | None = None
    """Floating-point operations of the work, None where it is not matrix products that take the time."""
    windows: int | None = None
    """Windows that the work takes in, where that says something."""
    remark: str = ""

    @property
    def ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in self.seconds]

    def values(self, ceiling: float) -> dict[str, object]:
        """The row as plain values. ceiling: operations a second."""
        ours, theirs = np.median(self.seconds, axis=0)
        share = {} if self.operations is None else {"share_ours": self.operations / ours / ceiling}
        share |= {} if self.operations is None else {"share_theirs": self.operations / theirs / ceiling}
        share |= {} if self.windows is None else {"windows_per_second": self.windows / ours}
        return {
            **{key: getattr(self, key) for key in ("name", "work", "ours", "theirs", "remark", "operations")},
            "pairs": len(self.seconds),
            **{"ratio": float(np.median(self.ratios)), "low": min(self.ratios), "high": max(self.ratios)},
            **{"seconds_ours": float(ours), "seconds_theirs": float(theirs)},
            **{key: float(value) for key, value in share.items()},
        }


class Bench:
    """What all rows share: sizes, device, number format, and the rate of matrix products."""

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
        rates = {dtype: self.product_rate(dtype, 512) for dtype in (torch.float32, torch.bfloat16)}
        self.bf16_share = rates[torch.bfloat16] / rates[torch.float32]
        self.precision = "bf16" if self.bf16_share > 1 else "fp32"
        self.accelerator = build_accelerator(device, self.precision)
        self.device, self._exact = self.accelerator.device, False
        self.ceiling = 0.0
        self.rng = np.random.default_rng(0)

    def measure_ceiling(self) -> None:
        """The best seen so far: others on the machine can only lower it."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.ceiling = max(self.ceiling, *(self.product_rate(dtype, 8192 if self.gpu else 2048) for _ in range(3)))

    def product_rate(self, dtype: torch.dtype, n: int) -> float:
        """Operations a second of an n x n x n matrix product."""
        left, right = (torch.ones(n, n, dtype=dtype, device="cuda" if self.gpu else "cpu") for _ in range(2))
        left @ right
        return 2 * n**3 / seconds(lambda: left @ right, self.now)

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

    def compare(
        self, ours: Callable[[], object], theirs: Callable[[], object], now: Callable[[], float] | None = None
    ) -> list[tuple[float, float]]:
        """Seconds of both, in turns: ours, theirs, theirs, ours, ours, ... A side may return its own, as a float.

        now: another clock than that of all rows.
        """
        now = now or self.now
        if self.serving:
            serve(theirs, now, self.peak)
            return [(1.0, 1.0)]  # the process that asks has the numbers
        if self.command:
            self.twin = self.twin or Twin(self.command)
        else:
            theirs()
        ours()
        self.peak()  # of the warm-up and before
        turns = {"ours": lambda: seconds(ours, now), "theirs": lambda: seconds(theirs, now)}
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

    def operations(self, tokens: int, length: int, passes: int = 3) -> float:
        """Of `passes` forward passes (a training step is worth three) over tokens in rows of `length`."""
        model = self.size.model
        hidden, layers = model.hidden_size, model.num_hidden_layers
        linear = layers * (4 * hidden**2 + 2 * hidden * model.intermediate_size)
        return passes * tokens * (2 * linear + 4 * layers * length * hidden)

    def saved_encoder(self) -> Path:
        """A folder as a user has it: the weights of `masked_lm`, and a tokenizer of single bases parted by spaces."""
        folder = self.folder / "encoder"
        if not folder.exists():
            self.masked_lm().bert.save_pretrained(folder)
            (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
            settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
            settings["model_max_length"] = self.size.model.max_position_embeddings
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    def sentence_model(self, attention: str):
        """The encoder in sentence-transformers, [CLS] pooled."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        encoder = Transformer(str(self.saved_encoder()), model_kwargs={"attn_implementation": attention})
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


def set_dropout(model: nn.Module, hidden: float, attention: float) -> None:
    """The rates of every dropout of a BERT, whichever library holds it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = attention if name.endswith("attention.self.dropout") else hidden


def require_equal(what: str, ours: object, theirs: object) -> None:
    """Refuse to time two sides that do not do the same work: relative to the largest value, within `TOLERANCE`."""
    values = (value.cpu() if isinstance(value, torch.Tensor) else value for value in (ours, theirs))
    ours, theirs = (np.asarray(value, dtype=np.float64) for value in values)
    if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max():
        raise InputError(f"benchmarks/run.py: {what}: the two sides give different output, so they cannot be compared")


def gradients(bert: BertModel) -> np.ndarray:
    """Norm of every parameter's gradient, the pooler's (which only one side has) left out; then they are cleared."""
    norms = [float(p.grad.norm()) for name, p in bert.named_parameters() if not name.startswith("pooler")]
    bert.zero_grad()
    return np.array(norms)


def spaced(ids: np.ndarray) -> list[str]:
    """Windows as SpliceBERT's tokenizer wants them: bases parted by spaces."""
    return [" ".join(decode(row)) for row in ids]


# -- the contrastive step ----------------------------------------------------------------------------------------------


def contrast(bench: Bench) -> Iterator[Row]:
    """The step of pre-training against the published one, corrected: spaced bases, eager attention, fp32."""
    yield from _contrast(bench, "contrast", "eager", [(DROPOUT, DROPOUT), (0.0, DROPOUT)])


def contrast_best(bench: Bench) -> Iterator[Row]:
    """The same against sentence-transformers at its best here, dropout alike on both sides."""
    yield from _contrast(bench, "contrast_best", "sdpa", [(DROPOUT, DROPOUT), (0.0, 0.0)])


def _contrast(bench: Bench, name: str, attention: str, attention_dropouts: list[tuple[float, float]]) -> Iterator[Row]:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import batch_to_device

    best = attention == "sdpa"
    stage = PretrainConfig(batch_size=bench.windows)
    ids = bench.bases(bench.windows, bench.size.window)
    text = spaced(ids)
    training = Training(bench.masked_lm(), "cls", stage, bench.accelerator)
    sentences = bench.sentence_model(attention).train()
    loss = MultipleNegativesRankingLoss(sentences, scale=1 / stage.temperature)
    optimizer = torch.optim.AdamW(
        sentences.parameters(), lr=stage.lr, weight_decay=stage.weight_decay, fused=best or None
    )

    def ours() -> None:
        training.advance(ids, bench.rng)

    def their_loss() -> torch.Tensor:
        features = [batch_to_device(sentences.preprocess(text), bench.device) for _ in range(2)]
        with bench.autocast() if best else contextlib.nullcontext():
            return loss(features, torch.arange(len(text), device=bench.device))

    def theirs() -> None:
        their_loss().backward()
        nn.utils.clip_grad_norm_(sentences.parameters(), stage.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    for model in (training.model, sentences):
        set_dropout(model, 0.0, 0.0)
    learner = Learner(training.model, "cls", stage.objective).train()  # not wrapped for another number format
    our_loss = step_loss(learner, stage, ids, bench.rng, bench.device)[0]
    our_loss.backward()
    with bench.exact():
        found = their_loss()
        found.backward()
    require_equal("loss of a contrastive step", our_loss.detach(), found.detach())
    require_equal("gradients of a contrastive step", gradients(training.model.bert), gradients(sentences[0].model))

    tokens = 2 * ids.shape[0] * (ids.shape[1] + 2)
    for mine, others in attention_dropouts:
        set_dropout(training.model, DROPOUT, mine)
        set_dropout(sentences, DROPOUT, others)
        number = bench.precision if best else "fp32"
        yield Row(
            f"{name}{'' if mine else '_no_attention_dropout'}",
            f"one contrastive step, {len(ids)} windows x 2 views x {ids.shape[1] + 2} tokens",
            f"{bench.precision}, dropout {DROPOUT}, of attention {mine}",
            f"transformers {number} {attention} + sentence-transformers' MultipleNegativesRankingLoss, "
            f"dropout {DROPOUT}, of attention {others}",
            bench.compare(ours, theirs),
            bench.operations(tokens, ids.shape[1] + 2),
            len(ids),
        )


# -- the fine-tuning step ----------------------------------------------------------------------------------------------

FINETUNE_BATCH, LR, WEIGHT_DECAY = 16, 1e-5, 1e-6  # as published


def labelled_batch(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [batch, 1 + context + 1] of random windows and labels [batch], on the bench's device."""
    tokens = torch.from_numpy(add_special_tokens(bench.bases(FINETUNE_BATCH, bench.size.context)))
    labels = torch.from_numpy(bench.rng.integers(0, 2, FINETUNE_BATCH)).float()
    return tokens.to(bench.device), labels.to(bench.device)


def build_classifiers(bench: Bench, attention: str) -> tuple[Classifier, BertForSequenceClassification]:
    """Ours and transformers' with the same weights, encoder and head."""
    torch.manual_seed(1)
    ours = Classifier(bench.masked_lm().bert, "cls", DROPOUT)
    config = BertConfig.from_dict(ours.bert.config.to_dict() | {"num_labels": 1})
    config.problem_type = "multi_label_classification"  # cross-entropy; one label means squared error to transformers
    config._attn_implementation = attention
    theirs = BertForSequenceClassification(config)
    theirs.bert.load_state_dict(ours.bert.state_dict(), strict=False)
    theirs.bert.pooler.dense.load_state_dict(ours.head[0].state_dict())
    theirs.classifier.load_state_dict(ours.head[3].state_dict())
    return ours.to(bench.device), theirs.to(bench.device)


def our_finetune_step(
    bench: Bench, model: Classifier, tokens: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """The loop body of finetune.py, its bookkeeping left out."""
    optimizer = torch.optim.AdamW(layer_groups(model, "full", LR, 1.0), weight_decay=WEIGHT_DECAY, fused=True)
    learner, optimizer = bench.accelerator.prepare(model, optimizer)

    def step() -> None:
        learner.train()
        loss = nn.functional.binary_cross_entropy_with_logits(learner(tokens.int()).float(), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}")
        bench.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def finetune(bench: Bench) -> Iterator[Row]:
    """One step against the published script's: eager attention, fp32 on a CPU, an attention mask of ones."""
    tokens, labels = labelled_batch(bench)
    model, published = build_classifiers(bench, "eager")
    require_same_step(model, published, tokens, labels)
    step = our_finetune_step(bench, model, tokens, labels)
    optimizer = torch.optim.AdamW(published.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)

    def theirs() -> None:
        inputs = {"input_ids": tokens.long(), "attention_mask": torch.ones_like(tokens, dtype=torch.long)}
        logits = published(**inputs).logits.squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for mine in (DROPOUT, 0.0):
        set_dropout(model, DROPOUT, mine)
        set_dropout(published.train(), DROPOUT, DROPOUT)
        yield _finetune_row(
            bench,
            "finetune",
            mine,
            f"the published step: fp32 eager, dropout {DROPOUT}, of attention {DROPOUT}",
            bench.compare(step, theirs),
        )


def finetune_trainer(bench: Bench) -> Iterator[Row]:
    """One step against the transformers Trainer at its best: its fast attention, fused AdamW, no logs or files."""
    tokens, labels = labelled_batch(bench)
    model, theirs = build_classifiers(bench, "sdpa")
    require_same_step(model, theirs, tokens, labels)
    step = our_finetune_step(bench, model, tokens, labels)
    items = [{"input_ids": row.long(), "labels": label[None]} for row, label in zip(tokens.cpu(), labels.cpu())]
    clocked = StepClock(bench.now)
    arguments = TrainerArguments(
        output_dir=str(bench.folder / "trainer"),
        per_device_train_batch_size=len(items),
        max_steps=1,
        learning_rate=LR,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        bf16=bench.precision == "bf16",
        use_cpu=not bench.gpu,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model=theirs, args=arguments, train_dataset=items, callbacks=[clocked])
    trainer.remove_callback(PrinterCallback)

    def their_step() -> float:
        trainer.train()
        return clocked.seconds

    for attention in (DROPOUT, 0.0):
        set_dropout(model, DROPOUT, attention)
        set_dropout(theirs, DROPOUT, attention)
        yield _finetune_row(
            bench,
            "finetune_trainer",
            attention,
            f"transformers' Trainer: {bench.precision} sdpa, fused AdamW, dropout {DROPOUT}, of attention {attention}",
            bench.compare(step, their_step),
        )


class StepClock(TrainerCallback):
    """Seconds of the Trainer's last step, without the start and end of its `train`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.start = self.clock()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds = self.clock() - self.start


def require_same_step(
    model: Classifier, theirs: BertForSequenceClassification, tokens: torch.Tensor, labels: torch.Tensor
) -> None:
    for module in (model.train(), theirs.train()):
        set_dropout(module, 0.0, 0.0)
    logits, found = model(tokens.int()), theirs(input_ids=tokens.long(), labels=labels[:, None])
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss.backward()
    found.loss.backward()
    require_equal("logits of a fine-tuning step", logits.detach(), found.logits.detach().squeeze(1))
    require_equal("loss of a fine-tuning step", loss.detach(), found.loss.detach())
    require_equal("gradients of a fine-tuning step", gradients(model.bert), gradients(theirs.bert))
    model.zero_grad(), theirs.zero_grad()


def _finetune_row(bench: Bench, name: str, attention: float, theirs: str, seconds: list[tuple[float, float]]) -> Row:
    length = bench.size.context + 2
    return Row(
        f"{name}{'' if attention else '_no_attention_dropout'}",
        f"one fine-tuning step, {FINETUNE_BATCH} windows x {length} tokens",
        f"{bench.precision}, dropout {DROPOUT}, of attention {attention}",
        theirs,
        seconds,
        bench.operations(FINETUNE_BATCH * length, length),
        FINETUNE_BATCH,
    )


# -- evaluation --------------------------------------------------------------------------------------------------------


def encode(bench: Bench) -> Iterator[Row]:
    """Windows to vectors against the published loop, which tokenizes strings, at its two batch sizes."""
    ids = bench.bases(bench.size.encoded, bench.size.window)
    text, ours = spaced(ids), our_encoder(bench, ids)
    tokenizer = AutoTokenizer.from_pretrained(bench.saved_encoder())
    model = BertModel.from_pretrained(bench.saved_encoder(), attn_implementation="eager").eval()
    model.to(bench.device)
    for batch_size in (8, 16):

        @torch.no_grad()
        def theirs(batch_size: int = batch_size) -> np.ndarray:
            parts = []
            for start in range(0, len(text), batch_size):
                inputs = tokenizer(text[start : start + batch_size], padding=True, return_tensors="pt")
                parts.append(model(**inputs.to(bench.device)).last_hidden_state[:, 0].cpu().numpy())
            return np.concatenate(parts)

        with bench.exact():
            require_equal("vectors of windows", ours(), theirs())
        yield _encode_row(
            bench,
            f"encode_{batch_size}",
            f"the published loop: fp32 eager, batch {batch_size}, tokenized strings",
            bench.compare(ours, theirs),
        )


def encode_best(bench: Bench) -> Iterator[Row]:
    """The same against sentence-transformers' `encode`, its fast attention, at its default batch size."""
    ids = bench.bases(bench.size.encoded, bench.size.window)
    text, ours = spaced(ids), our_encoder(bench, ids)
    sentences = bench.sentence_model("sdpa")

    def theirs() -> np.ndarray:
        with bench.autocast():
            return sentences.encode(text, batch_size=32, show_progress_bar=False)

    with bench.exact():
        require_equal("vectors of windows", ours(), theirs())
    yield _encode_row(
        bench,
        "encode_best",
        f"sentence-transformers' encode: {bench.precision} sdpa, batch 32, tokenized strings",
        bench.compare(ours, theirs),
    )


def our_encoder(bench: Bench, ids: np.ndarray, batch_size: int = 64) -> Callable[[], np.ndarray]:
    bert = bench.masked_lm().bert
    return lambda: embed(bert, ids, "cls", batch_size, bench.autocast)


def _encode_row(bench: Bench, name: str, theirs: str, seconds: list[tuple[float, float]]) -> Row:
    count, length = bench.size.encoded, bench.size.window + 2
    operations = bench.operations(count * length, length, passes=1)
    return Row(
        name,
        f"encode {count} windows x {length} tokens",
        f"{bench.precision}, no dropout",
        theirs,
        seconds,
        operations,
        count,
    )


# -- NMI ---------------------------------------------------------------------------------------------------------------


def nmi_sites(bench: Bench) -> Iterator[Row]:
    """PCA, neighbours, Leiden on given hidden states, against scanpy in a process of its own that times itself."""
    python = os.environ.get(SCANPY)
    if python is None:
        print(f"nmi: skipped, ${SCANPY} names no interpreter that has scanpy", flush=True)
        return
    states, labels = mixed_sites(bench)
    given, found = bench.folder / "states.npy", bench.folder / "clusters.npy"
    np.save(given, states)
    server = Path(__file__).with_name("scanpy_server.py")
    command = [python, str(server), str(given), str(found), bench.clock]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def theirs() -> float:
                print(file=process.stdin, flush=True)
                return float(process.stdout.readline())

            theirs()
            mine, others = (nmi(each, labels)["nmi"] for each in (leiden(states, seed=0), np.load(found)))
            took = bench.compare(lambda: leiden(states, seed=0), theirs) if abs(mine - others) <= 0.005 else None
            process.stdin.close()
    except (OSError, ValueError):  # it is not there, or it has ended without an answer
        raise InputError(f"${SCANPY} ({python}) cannot run scanpy's pca, neighbors and leiden") from None
    if took is None:
        raise InputError(f"benchmarks/run.py: NMI is {mine:.4f} here and {others:.4f} with scanpy: not the same work")
    yield Row(
        "nmi",
        f"NMI of {len(states)} sites x {states.shape[1]} hidden states",
        "PCA 128, exact neighbours, Leiden",
        "scanpy pca + neighbors + leiden",
        took,
        remark=f"NMI {mine:.4f} and {others:.4f}",
    )


def mixed_sites(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of a mixture of 24 kinds of sites, float32 [sites, 2 hidden], and their labels."""
    n, kinds = bench.size.sites, 24
    kind = bench.rng.integers(0, kinds, n)
    width = 2 * bench.size.model.hidden_size
    states = 2 * bench.rng.standard_normal((kinds, 12))[kind] + bench.rng.standard_normal((n, 12))
    noise = 0.3 * bench.rng.standard_normal((n, width))
    states = (states @ bench.rng.standard_normal((12, width)) / 12**0.5 + noise).astype(np.float32)
    names = np.array(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"])
    return states, names[kind % 4]


# -- the loader --------------------------------------------------------------------------------------------------------


class TokenizedWindows(Dataset):
    """What the tutorials do: sequences as strings, each tokenized when it is asked for."""

    def __init__(self, fasta: Path, window: int, tokenizer: object) -> None:
        sequence = "".join(line.strip() for line in fasta.read_text().splitlines() if not line.startswith(">"))
        self.windows = [sequence[i : i + window] for i in range(0, len(sequence) - window + 1, window)]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tokenizer(" ".join(self.windows[index].upper()), return_tensors="pt")["input_ids"][0]


def loader(bench: Bench) -> Iterator[Row]:
    """FASTA to batches of ids: ours with reading the file, theirs with the file read and its four workers started."""
    window, batch_size = bench.size.window, 64
    fasta = bench.folder / "text.fa"
    sequence = decode(bench.bases(1, bench.size.bases)[0])
    fasta.write_text(">text\n" + "\n".join(sequence[i : i + 60] for i in range(0, len(sequence), 60)) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(bench.saved_encoder())
    data = TokenizedWindows(fasta, window, tokenizer)
    batches = DataLoader(data, batch_size, shuffle=True, num_workers=4, persistent_workers=True)
    last, caches = -(-len(data) // batch_size), iter(range(1_000))

    def ours() -> list[torch.Tensor]:
        store = open_store([fasta], bench.folder / f"cache{next(caches)}")
        text = WindowSampler(store, window, "strided", both_strands=False, max_n_share=1.0)
        steps = len(text) // batch_size
        return [torch.from_numpy(add_special_tokens(text.batch(step, batch_size))) for step in range(steps)]

    def theirs() -> list[torch.Tensor]:
        return list(batches)

    mine, others = (torch.cat(side()).numpy() for side in (ours, theirs))
    known = {row.astype(np.uint8).tobytes() for row in others}
    if not all(row.tobytes() in known for row in mine) or len(data) - len(mine) >= batch_size:
        raise InputError("benchmarks/run.py: the loaders read different windows, so they cannot be compared")
    remark = _loader_share(bench, fasta)
    yield Row(
        "loader",
        f"FASTA of {len(sequence) / 1e6:g} Mb to {last} batches of {batch_size} windows x {window + 2} tokens",
        "memory-mapped ids, one process, reading the FASTA included",
        "a tokenizer call an item in a Dataset, 4 workers that are running already, FASTA in memory",
        bench.compare(ours, theirs, time.perf_counter),
        remark=remark,
    )


def _loader_share(bench: Bench, fasta: Path) -> str:
    """Seconds of a training batch as a share of the training step on it."""
    store = open_store([fasta], bench.folder / "cache")
    text = WindowSampler(store, bench.size.window)
    training = Training(bench.masked_lm(), "cls", PretrainConfig(batch_size=bench.windows), bench.accelerator)
    shares = []
    for step in range(1 + bench.pairs):
        times = [bench.now()]
        ids = text.batch(step, bench.windows)
        times.append(bench.now())
        training.advance(ids, bench.rng)
        times.append(bench.now())
        shares.append((times[1] - times[0]) / (times[2] - times[0]))
    return f"loading is {np.median(shares[1:]):.2%} of a contrastive step of {bench.windows} windows"


# -- the table ---------------------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "contrast": contrast,
    "contrast_best": contrast_best,
    "finetune": finetune,
    "finetune_trainer": finetune_trainer,
    "encode": encode,
    "encode_best": encode_best,
    "nmi": nmi_sites,
    "loader": loader,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--size", choices=SIZES, default="splicebert")
    parser.add_argument("--pairs", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--windows", type=int, default=8, help="of a contrastive step")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--serve", action="store_true", help="run their side of one row when asked on stdin")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 4 workers are what it is compared with
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            SIZES[options.size],
            options.pairs,
            options.windows,
            Path(folder),
            options.clock,
            options.serve,
            options.device,
        )
        values, done = {}, []
        for name in options.only:
            bench.begin_row([sys.executable, *sys.argv, "--only", name, "--serve"])  # the last --only counts
            bench.measure_ceiling()
            for row in ROWS[name](bench):
                done.append((row, {"peak_gib": bench.peaks} if bench.gpu else {}))
                rows = [row.values(bench.ceiling) | more for row, more in done]  # the ceiling may have risen since
                values = {"machine": machine(bench), "rows": rows}
                print(line(rows[-1]), flush=True)
                if options.json and not options.serve:  # after every row: the next may take long
                    options.json.write_text(json.dumps(values, indent=1) + "\n")
        bench.begin_row(None)
    if values:
        print(f"\n{table(values)}")


def machine(bench: Bench) -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if bench.gpu else "cpu",
        "threads": torch.get_num_threads(),
        "clock": bench.clock,
        "precision": bench.precision,
        "ceiling_gflops": bench.ceiling / 1e9,
        "bf16_share": bench.bf16_share,
    }


def line(row: dict[str, object]) -> str:
    share = (
        f", {row['share_ours']:.0%} of the ceiling (theirs {row['share_theirs']:.0%})" if "share_ours" in row else ""
    )
    return f"{row['name']}: {row['ratio']:.2f} x ({row['low']:.2f} to {row['high']:.2f}, {row['pairs']} pairs){share}"


def table(values: dict[str, object]) -> str:
    """Markdown."""
    here = values["machine"]
    used = "used" if here["precision"] == "bf16" else "not used"
    lines = [
        f"torch {here['torch']}, transformers {here['transformers']}, {here['device']}, "
        f"{here['threads']} thread(s), {here['clock']} "
        f"clock; matrix products reach {here['ceiling_gflops']:.0f} GFLOP/s in {here['precision']}; bf16 runs at "
        f"{here['bf16_share']:.3f} of fp32's rate here and is {used}.",
        "",
        "| row | work | ours | against | ratio | spread | pairs | s ours / theirs | of the ceiling | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in values["rows"]:
        share = f"{row['share_ours']:.2f} / {row['share_theirs']:.2f}" if "share_ours" in row else ""
        cells = [row["name"], row["work"], row["ours"], row["theirs"], f"{row['ratio']:.2f}"]
        cells += [f"{row['low']:.2f} to {row['high']:.2f}", str(row["pairs"])]
        remarks = [row["remark"]] if row["remark"] else []
        remarks += [f"{row['windows_per_second']:.3g} windows/s"] if "windows_per_second" in row else []
        remarks += ["peak {:.2f} / {:.2f} GiB".format(*row["peak_gib"])] if row.get("peak_gib") else []
        cells += [f"{row['seconds_ours']:.3g} / {row['seconds_theirs']:.3g}", share, ", ".join(remarks)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)

#!/usr/bin/env python
"""Speed side by side with what a user would run instead: one table.

    python benchmarks/run.py [--only NAME ...] [--size splicebert|small] [--pairs 5] [--windows 8] [--clock wall|cpu]
                             [--device auto|cpu|cuda]

Theirs is the library at its best: fast attention, fused AdamW, the same number format, dropout alike on both sides.
Both sides of a row run on the same inputs, warm, in turns (ours, theirs, theirs, ours, ...), so that whatever else the
machine does hits both; a ratio is the median over the pairs of theirs / ours. Ours runs in this process, theirs in
one of its own: our scripts have glibc keep freed memory on a CPU (`keep_freed_memory`), which theirs must not profit
from. Before anything is timed, both sides have to give the same output from the same weights with dropout off, in
float32; a row that does not is an error.

--clock cpu takes the processor's seconds of the process that works instead of the wall's: on a machine that is busy
with other work they are the better ones, with one thread. On a GPU the clock waits for what the GPU was asked to do,
and a row says how much of its memory either side took at most. Weights are fresh, of SpliceBERT's sizes by default.
`nmi` needs scanpy, which wants other versions than ours: $SIMCSP_SCANPY_PYTHON names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, PrinterCallback, Trainer, TrainerCallback
from transformers import TrainingArguments as TrainerArguments

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from benchmarks.bench import CLOCKS, DROPOUT, SIZES, Bench, Row
from simcsp.core.config import PretrainConfig
from simcsp.core.errors import InputError
from simcsp.metrics.clustering import leiden, nmi
from simcsp.model.classifier import Classifier
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import add_special_tokens, decode
from simcsp.training.pretraining import MAX_GRAD_NORM, Training
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss
from utils.script import run_script

SCANPY = "SIMCSP_SCANPY_PYTHON"
TOLERANCE = 1e-3  # relative, of outputs that must be equal; sums of floats depend on how they are split


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
    """The step of pre-training against sentence-transformers', with and without attention dropout."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import batch_to_device

    stage = PretrainConfig(batch_size=bench.windows)
    ids = bench.bases(bench.windows, bench.size.window)
    text = spaced(ids)
    training = Training(bench.masked_lm(), "cls", stage, bench.accelerator)
    sentences = bench.sentence_model().train()
    loss = MultipleNegativesRankingLoss(sentences, scale=1 / stage.temperature)
    optimizer = torch.optim.AdamW(sentences.parameters(), lr=stage.lr, weight_decay=stage.weight_decay, fused=True)

    def ours() -> None:
        training.advance(training.draw(ids, bench.rng))

    def their_loss() -> torch.Tensor:
        features = [batch_to_device(sentences.preprocess(text), bench.device) for _ in range(2)]
        with bench.autocast():
            return loss(features, torch.arange(len(text), device=bench.device))

    def theirs() -> None:
        their_loss().backward()
        nn.utils.clip_grad_norm_(sentences.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()

    for model in (training.model, sentences):
        set_dropout(model, 0.0, 0.0)
    learner = Learner(training.model, "cls", stage.objective).train()  # not wrapped for another number format
    our_loss = step_loss(MiniBatches(learner), stage, draw_batch(stage, ids, bench.rng).to(bench.device))[0]
    our_loss.backward()
    with bench.exact():
        found = their_loss()
        found.backward()
    require_equal("loss of a contrastive step", our_loss.detach(), found.detach())
    require_equal("gradients of a contrastive step", gradients(training.model.bert), gradients(sentences[0].model))

    for attention in (DROPOUT, 0.0):
        set_dropout(training.model, DROPOUT, attention)
        set_dropout(sentences, DROPOUT, attention)
        yield Row(
            f"contrast{'' if attention else '_no_attention_dropout'}",
            f"one contrastive step, {len(ids)} windows x 2 views x {ids.shape[1] + 2} tokens",
            f"{bench.precision}, dropout {DROPOUT}, of attention {attention}",
            "transformers sdpa + sentence-transformers' MultipleNegativesRankingLoss",
            bench.compare(ours, theirs),
            len(ids),
        )


# -- the fine-tuning step ----------------------------------------------------------------------------------------------

FINETUNE_BATCH, LR, WEIGHT_DECAY = 16, 1e-5, 1e-6  # as published


def labelled_batch(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [batch, 1 + context + 1] of random windows and labels [batch], on the bench's device."""
    tokens = torch.from_numpy(add_special_tokens(bench.bases(FINETUNE_BATCH, bench.size.context)))
    labels = torch.from_numpy(bench.rng.integers(0, 2, FINETUNE_BATCH)).float()
    return tokens.to(bench.device), labels.to(bench.device)


def build_classifiers(bench: Bench) -> tuple[Classifier, BertForSequenceClassification]:
    """Ours and transformers' with the same weights, encoder and head."""
    torch.manual_seed(1)
    ours = Classifier(bench.masked_lm().bert, "cls", DROPOUT)
    config = BertConfig.from_dict(ours.bert.config.to_dict() | {"num_labels": 1})
    config.problem_type = "multi_label_classification"  # cross-entropy; one label means squared error to transformers
    config._attn_implementation = "sdpa"
    theirs = BertForSequenceClassification(config)
    theirs.bert.load_state_dict(ours.bert.state_dict(), strict=False)
    theirs.bert.pooler.dense.load_state_dict(ours.head[0].state_dict())
    theirs.classifier.load_state_dict(ours.head[3].state_dict())
    return ours.to(bench.device), theirs.to(bench.device)


def our_finetune_step(
    bench: Bench, model: Classifier, tokens: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """The loop body of finetune.py, its bookkeeping left out."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
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
    """One step against the transformers Trainer at its best: its fast attention, fused AdamW, no logs or files."""
    tokens, labels = labelled_batch(bench)
    model, theirs = build_classifiers(bench)
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
        length = bench.size.context + 2
        yield Row(
            f"finetune{'' if attention else '_no_attention_dropout'}",
            f"one fine-tuning step, {FINETUNE_BATCH} windows x {length} tokens",
            f"{bench.precision}, dropout {DROPOUT}, of attention {attention}",
            "transformers' Trainer: sdpa, fused AdamW",
            bench.compare(step, their_step),
            FINETUNE_BATCH,
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


# -- evaluation --------------------------------------------------------------------------------------------------------


def encode(bench: Bench) -> Iterator[Row]:
    """Windows to vectors against sentence-transformers' `encode`, at its default batch size."""
    ids = bench.bases(bench.size.encoded, bench.size.window)
    text, ours = spaced(ids), our_encoder(bench, ids)
    sentences = bench.sentence_model()

    def theirs() -> np.ndarray:
        with bench.autocast():
            return sentences.encode(text, batch_size=32, show_progress_bar=False)

    with bench.exact():
        require_equal("vectors of windows", ours(), theirs())
    yield Row(
        "encode",
        f"encode {len(ids)} windows x {bench.size.window + 2} tokens",
        f"{bench.precision}, no dropout",
        "sentence-transformers' encode: sdpa, batch 32, tokenized strings",
        bench.compare(ours, theirs),
        len(ids),
    )


def our_encoder(bench: Bench, ids: np.ndarray, batch_size: int = 64) -> Callable[[], np.ndarray]:
    bert = bench.masked_lm().bert
    return lambda: Encoder(bert, "cls", batch_size, bench.autocast).embed(ids)


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


# -- the table ---------------------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "contrast": contrast,
    "finetune": finetune,
    "encode": encode,
    "nmi": nmi_sites,
}
COLUMNS = ["row", "work", "ours", "against", "ratio", "spread", "pairs", "s ours / theirs", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--size", choices=SIZES, default="splicebert")
    parser.add_argument("--pairs", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--windows", type=int, default=8, help="of a contrastive step")
    parser.add_argument("--serve", action="store_true", help="run their side of one row when asked on stdin")
    options = parser.parse_args()
    size, clock, serving = SIZES[options.size], options.clock, options.serve
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(size, options.pairs, options.windows, Path(folder), clock, serving, options.device)
        rows = []
        for name in options.only:
            bench.begin_row([sys.executable, *sys.argv, "--only", name, "--serve"])  # the last --only counts
            for row in ROWS[name](bench):
                rows.append(dataclasses.replace(row, peaks=bench.peaks if bench.gpu else []))
                print(", ".join(rows[-1].cells()), flush=True)
        bench.begin_row(None)
    device = torch.cuda.get_device_name() if bench.gpu else "cpu"
    print(f"\ntorch {torch.__version__}, transformers {transformers.__version__}, {device}, ", end="")
    print(f"{torch.get_num_threads()} thread(s), {clock} clock, {bench.precision}\n")
    for cells in (COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    run_script(main)

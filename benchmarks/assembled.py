#!/usr/bin/env python
"""The published recipe as a user would put it together from sentence-transformers, scanpy and the published loop.

    python benchmarks/assembled.py INPUTS OUT

Run by benchmarks/recipe.py, which writes INPUTS (inputs.json and the start checkpoint in start/) and compares OUT
(result.json, summary.csv, checkpoints) with what our scripts give. Nothing of ours is used but the form of an error.

1. Contrastive pre-training: transformers with eager attention, sentence-transformers' MultipleNegativesRankingLoss,
   fp32, a plain loop. The windows come cut and in order.
2. Validation before the first step and every eval_steps: an EmbeddingSimilarityEvaluator at batch 8 on the training
   windows of every fold (SCCS is their mean); hidden states of the two central bases, scanpy's pca, neighbors and
   leiden in a process of its own ($SIMCSP_SCANPY_PYTHON), scikit-learn's NMI. The best checkpoint of each is saved.
3. Every arm in every fold: BertForSequenceClassification, eager, strings tokenized one by one in a Dataset, an
   attention mask of ones, AdamW; F1 and AUC of validation every epoch, stopped by patience; the best epoch is tested
   once. SCCS of the test windows before and after, and NMI in the first nmi_folds.
4. Mean and standard deviation of F1 and AUC of each arm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sklearn.metrics import f1_score, normalized_mutual_info_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoTokenizer, BertForSequenceClassification, get_linear_schedule_with_warmup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from utils.errors import InputError, run_script

SCANPY = "SIMCSP_SCANPY_PYTHON"
EVALUATOR_BATCH, STATES_BATCH = 8, 16

seconds: defaultdict[str, float] = defaultdict(float)  # of each part of the recipe


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    inputs = json.loads((folder / "inputs.json").read_text())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(inputs["seed"])
    evaluators = [build_evaluator(inputs, fold["train_pairs"]) for fold in inputs["folds"]]
    with Sites(inputs, out) as sites:
        start = pretrain(inputs, folder / "start", evaluators, sites, out)
        arms = {"baseline": folder / "start", "best_sccs": out / "best_sccs"}
        arms |= {"best_nmi": out / "best_nmi"} if inputs["sites"] else {}
        rows = [row for arm, source in arms.items() for row in fit_arm(inputs, arm, source, sites, out)]
    with timed("report"):
        table = pd.DataFrame(rows)
        summary = table.groupby("arm", sort=False)[["f1", "auc"]].agg(["mean", "std"])
        summary.to_csv(out / "summary.csv")
        print(summary.to_string())
    (out / "result.json").write_text(json.dumps({"start": start, "folds": rows, "seconds": seconds}))


@contextmanager
def timed(part: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - begun


def spaced(sequence: str) -> str:
    """As SpliceBERT's tokenizer wants it: bases parted by spaces."""
    return " ".join(sequence.upper())


# -- SCCS and NMI ------------------------------------------------------------------------------------------------------


def build_evaluator(inputs: dict, pairs: list[list[int]]) -> EmbeddingSimilarityEvaluator:
    """SCCS of pairs [2, n] of windows: label 1 where both are sites or neither is."""
    left, right = pairs
    windows, labels = inputs["windows"], inputs["labels"]
    return EmbeddingSimilarityEvaluator(
        [spaced(windows[i]) for i in left],
        [spaced(windows[i]) for i in right],
        [float(labels[i] == labels[j]) for i, j in zip(left, right)],
        batch_size=EVALUATOR_BATCH,
        main_similarity="cosine",
        name="pairs",
    )


def sccs(evaluator: EmbeddingSimilarityEvaluator, sentences: SentenceTransformer) -> float:
    return evaluator(sentences)["pairs_spearman_cosine"]


class Sites:
    """The labelled GT and AG sites, and scanpy in a process that is started once; nothing where there are no sites."""

    def __init__(self, inputs: dict, out: Path) -> None:
        self.text, self.labels = [spaced(site) for site in inputs["sites"]], np.array(inputs["site_labels"])
        self.states, self.clusters = out / "states.npy", out / "clusters.npy"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Sites:
        if self.text:
            python = os.environ.get(SCANPY)
            if python is None:
                raise InputError(f"${SCANPY} names no interpreter that has scanpy: NMI needs one")
            server = Path(__file__).with_name("scanpy_server.py")
            command, pipe = [python, server, self.states, self.clusters, "wall"], subprocess.PIPE
            try:
                self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            except OSError as error:
                raise InputError(f"${SCANPY} ({python}) cannot be run: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()

    @torch.no_grad()
    def nmi(self, sentences: SentenceTransformer) -> float:
        """Mean of the NMI within the GT half and within the AG half, all sites clustered together."""
        model, tokenizer, parts = sentences.eval()[0].model, sentences.tokenizer, []
        for i in range(0, len(self.text), STATES_BATCH):
            tokens = tokenizer(self.text[i : i + STATES_BATCH], padding=True, return_tensors="pt")
            states = model(**tokens).last_hidden_state
            middle = states.shape[1] // 2
            parts.append(states[:, middle - 1 : middle + 1].flatten(1).numpy())
        np.save(self.states, np.concatenate(parts))
        try:
            print(file=self.process.stdin, flush=True)
            float(self.process.stdout.readline())
        except (OSError, ValueError):  # it has ended without an answer
            raise InputError(f"${SCANPY} cannot run scanpy's pca, neighbors and leiden") from None
        clusters, gt = np.load(self.clusters), np.char.startswith(self.labels, "GT")
        return float(np.mean([normalized_mutual_info_score(self.labels[half], clusters[half]) for half in (gt, ~gt)]))


# -- pre-training ------------------------------------------------------------------------------------------------------


def load_sentences(folder: Path) -> SentenceTransformer:
    """The encoder of a checkpoint, [CLS] pooled."""
    encoder = Transformer(str(folder), model_kwargs={"attn_implementation": "eager"})
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), "cls")], device="cpu")


def pretrain(
    inputs: dict, start: Path, evaluators: list[EmbeddingSimilarityEvaluator], sites: Sites, out: Path
) -> dict[str, float]:
    """Train, validate and save the best checkpoints; returns what the start checkpoint scored."""
    settings = inputs["pretrain"]
    sentences = load_sentences(start)
    loss = MultipleNegativesRankingLoss(sentences, scale=1 / settings["temperature"])
    decayed = [p for p in sentences.parameters() if p.ndim > 1]
    others = [p for p in sentences.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"])
    scheduler = get_linear_schedule_with_warmup(optimizer, settings["warmup_steps"], settings["steps"])
    begun, best = validate(sentences, evaluators, sites), {}
    text, batch_size = [spaced(window) for window in inputs["text"]], settings["batch_size"]
    for step in range(settings["steps"]):
        with timed("steps"):
            sentences.train()
            batch = text[step * batch_size : (step + 1) * batch_size]
            loss([sentences.preprocess(batch), sentences.preprocess(batch)], torch.arange(len(batch))).backward()
            nn.utils.clip_grad_norm_(sentences.parameters(), settings["max_grad_norm"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if (step + 1) % settings["eval_steps"] == 0 or step + 1 == settings["steps"]:
            for name, value in validate(sentences, evaluators, sites).items():
                if name.startswith("fold") or value <= best.get(name, -np.inf):
                    continue
                best[name] = value
                with timed("steps"):
                    sentences.save_pretrained(str(out / f"best_{name}"))
    return begun


def validate(
    sentences: SentenceTransformer, evaluators: list[EmbeddingSimilarityEvaluator], sites: Sites
) -> dict[str, float]:
    """sccs, the mean over folds, that of the first, fold0_sccs, and nmi where there are sites."""
    with timed("validation"):
        found = [sccs(evaluator, sentences) for evaluator in evaluators]
        scores = {"sccs": float(np.mean(found)), "fold0_sccs": float(found[0])}
        return scores | ({"nmi": sites.nmi(sentences)} if sites.text else {})


# -- fine-tuning -------------------------------------------------------------------------------------------------------


class SpliceatorDataset(Dataset):
    """The published one: each window is tokenized when it is asked for."""

    def __init__(self, windows: list[str], labels: list[int], tokenizer: object) -> None:
        self.windows, self.labels, self.tokenizer = windows, labels, tokenizer

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        ids = torch.tensor(self.tokenizer.encode(spaced(self.windows[index])))
        return ids, torch.ones_like(ids), self.labels[index]


def fit_arm(inputs: dict, arm: str, source: Path, sites: Sites, out: Path) -> Iterator[dict[str, object]]:
    """Fit, test and measure an arm in every fold; yields a row a fold."""
    settings, tokenizer = inputs["finetune"], AutoTokenizer.from_pretrained(source)
    data, before = SpliceatorDataset(inputs["windows"], inputs["labels"], tokenizer), load_sentences(source)
    for number, fold in enumerate(inputs["folds"]):
        with timed("fitting"):
            model, epochs = fit(data, fold, source, settings, out / "best.pt")
        with timed("testing"):
            labels, probabilities = predict(model, loader(data, fold["test"], settings))
            row = {"arm": arm, "fold": number, "epochs": epochs, **scores(labels, probabilities)}
            row |= {"windows": fold["test"], "labels": labels.astype(int).tolist()}
            model.bert.save_pretrained(out / "fitted")
            tokenizer.save_pretrained(out / "fitted")
            evaluator, after = build_evaluator(inputs, fold["test_pairs"]), load_sentences(out / "fitted")
            for when, sentences in (("before", before), ("after", after)):
                row[f"{when}_sccs"] = sccs(evaluator, sentences)
                if sites.text and number < settings["nmi_folds"]:
                    row[f"{when}_nmi"] = sites.nmi(sentences)
        yield row


def fit(
    data: SpliceatorDataset, fold: dict, source: Path, settings: dict, best_file: Path
) -> tuple[BertForSequenceClassification, int]:
    """The model of the epoch with the best validation AUC, and how many epochs there were."""
    model = BertForSequenceClassification.from_pretrained(source, num_labels=1, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    batches = loader(data, fold["train"], settings, shuffle=True, drop_last=True)
    val, best, best_epoch, epoch = loader(data, fold["val"], settings), -1.0, 0, 0
    while epoch < settings["max_epochs"] and epoch - best_epoch < settings["patience"]:
        model.train()
        total = 0.0
        for ids, mask, labels in batches:
            optimizer.zero_grad()
            logits = model(ids, attention_mask=mask).logits.squeeze(1)
            loss = F.binary_cross_entropy_with_logits(logits, labels.float())
            loss.backward()
            optimizer.step()
            total += loss.item()
        auc = scores(*predict(model, val))["auc"]
        epoch += 1
        if auc > best:
            best, best_epoch = auc, epoch
            torch.save(model.state_dict(), best_file)
    model.load_state_dict(torch.load(best_file))
    return model, epoch


def loader(data: SpliceatorDataset, index: list[int], settings: dict, **options: bool) -> DataLoader:
    return DataLoader(Subset(data, index), batch_size=settings["batch_size"], **options)


@torch.no_grad()
def predict(model: BertForSequenceClassification, batches: DataLoader) -> tuple[np.ndarray, np.ndarray]:
    """Labels and P(site) [n]."""
    model.eval()
    labels, probabilities = [], []
    for ids, mask, label in batches:
        probabilities.append(model(ids, attention_mask=mask).logits.squeeze(1).sigmoid().numpy())
        labels.append(label.numpy())
    return np.concatenate(labels), np.concatenate(probabilities)


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    f1 = f1_score(labels, probabilities > 0.5, zero_division=0)
    return {"f1": float(f1), "auc": float(roc_auc_score(labels, probabilities))}


if __name__ == "__main__":
    run_script(main)

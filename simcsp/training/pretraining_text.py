"""The text of pre-training: opened without what is hidden, and how much of the evaluation lies in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import Accelerator

from simcsp.core.config import Config, DataConfig
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, replacing, write_json
from simcsp.core.run_layout import CORPUS, OVERLAP, SCORED_CORPUS, checkpoint_path
from simcsp.labels.overlap import hidden_windows, measure_overlap
from simcsp.model.classifier import load_classifier, predict
from simcsp.model.encoder import check_length
from simcsp.text.corpora import Corpus, open_corpus
from simcsp.text.enriched import NAMED_SCORERS, Classify
from simcsp.text.sampler import Intervals
from simcsp.text.species import check_species

REMEASURE = "delete it: pre-training measures it again"


def open_text(config: Config, accelerator: Accelerator, first: bool = True) -> Corpus:
    """The pre-training text without what data.hide keeps out; data.scorer may be the folder of a classifier.

    first: False reads the windows of splice_enriched that `record_corpus` of the first process wrote."""
    data, classify = config.data, None
    if data.corpus == "splice_enriched" and not first:
        with np.load(config.folder / SCORED_CORPUS) as windows:
            length = np.full(len(windows["start"]), data.window)
            scored = Intervals(windows["start"], length, windows["minus"], windows["odds"])
        return open_corpus(data, config.seed, hidden_windows(data), scored=scored)
    if data.corpus == "splice_enriched" and data.scorer not in NAMED_SCORERS:
        check_species(data)  # before a model is read
        classify = scorer_of_fold(data.scorer, config, accelerator)
    return open_corpus(data, config.seed, hidden_windows(data), classify, config.pretrain.max_shift)


def scorer_of_fold(folder: str, config: Config, accelerator: Accelerator) -> Classify:
    """P(site) of windows by a fine-tuned fold."""
    path = Path(folder)
    path = checkpoint_path(path) if checkpoint_path(path).is_dir() else path
    if not path.is_dir():
        named = ", ".join(NAMED_SCORERS)
        raise InputError(f"data.scorer ({folder}) is none of {named} and no folder of a fine-tuned fold")
    model = load_classifier(path, config.model, config.finetune.dropout).to(accelerator.device)
    check_length(model.bert, config.data.context, "data.context")
    return lambda windows: predict(model, windows, config.evaluate.batch_size, accelerator.autocast)


def record_corpus(data: DataConfig, folder: Path, corpus: Corpus, validated: dict[str, str]) -> None:
    """Write, once for a text and an evaluation, what the text is (CORPUS; SCORED_CORPUS with the score of each window
    where windows have one) and how much of the evaluation lies in it (OVERLAP).

    validated: hashes of the evaluation.
    """
    path = folder / OVERLAP
    inputs = {"text": corpus.store.sha256, "intervals": corpus.intervals.sha256, **validated}
    whole = path.is_file() and (corpus.scores is None or (folder / SCORED_CORPUS).is_file())
    if whole and read_json(path, REMEASURE)["inputs"] == inputs:
        return
    parts = [
        {"part": part.name, "count": part.count, "shared": part.shared, "sentence": str(part)}
        for part in measure_overlap(data, corpus)
    ]
    write_json(folder / CORPUS, corpus.manifest)
    if corpus.scores is not None:
        columns = {name: getattr(corpus.intervals, name) for name in ("start", "minus", "odds")}
        with replacing(folder / SCORED_CORPUS) as aside, open(aside, "wb") as handle:
            np.savez_compressed(handle, score=corpus.scores, **columns)
    write_json(path, {"inputs": inputs, "parts": parts})  # last: its presence means that the others are whole

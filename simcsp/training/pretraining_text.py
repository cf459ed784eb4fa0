"""The text of pre-training: opened without what is hidden, and how much of the evaluation lies in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from simcsp.core.config import Config, DataConfig
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, replacing, write_json
from simcsp.core.provenance import changed_inputs
from simcsp.core.run_layout import CORPUS, OVERLAP, SCORED_CORPUS, begun_stages, trial_folders
from simcsp.labels.overlap import hidden_windows, measure_overlap
from simcsp.text.corpora import Corpus, open_corpus
from simcsp.text.sampler import Intervals

REMEASURE = "delete it: pre-training measures it again"


def open_text(config: Config, first: bool = True) -> Corpus:
    """The pre-training text without what data.hide keeps out.

    first: False reads the windows of splice_enriched that `record_corpus` of the first process wrote."""
    data = config.data
    if data.corpus == "splice_enriched" and not first:
        with np.load(config.folder / SCORED_CORPUS) as windows:
            length = np.full(len(windows["start"]), data.window)
            scored = Intervals(windows["start"], length, windows["minus"], windows["odds"])
        return open_corpus(data, config.seed, hidden_windows(data), scored=scored)
    return open_corpus(data, config.seed, hidden_windows(data), config.pretrain.max_shift)


def record_corpus(data: DataConfig, folder: Path, corpus: Corpus, validated: dict[str, str]) -> None:
    """Write, once for a text and an evaluation, what the text is (CORPUS; SCORED_CORPUS with the score of each window
    where windows have one) and how much of the evaluation lies in it (OVERLAP).

    validated: hashes of the evaluation. Raises InputError where a stage has begun with others.
    """
    path = folder / OVERLAP
    inputs = {"text": corpus.store.sha256, "intervals": corpus.intervals.sha256, **validated}
    whole = path.is_file() and (corpus.scores is None or (folder / SCORED_CORPUS).is_file())
    before = read_json(path, REMEASURE)["inputs"] if path.is_file() else {}
    if whole and before == inputs:
        return
    changed = changed_inputs(before, inputs, {"data": dataclasses.asdict(data)})
    if changed and (begun_stages(folder) or trial_folders(folder)):
        raise InputError(f"{folder} was started with other inputs ({'; '.join(changed)}): use another --name")
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

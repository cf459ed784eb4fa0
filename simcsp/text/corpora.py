"""The pre-training text: what `data.corpus` names becomes a token store, the intervals that windows are cut from, and a
manifest that says what it is.

fasta            the records of the FASTA files, as they are
genome           the Nucleotide Transformer's 6 kb chunks of a human genome, by its split of chromosomes
genes            gene bodies on their sense strand, which is what SpliceBERT was trained on (Chen et al. 2024)
multi_species    several FASTA files (gene bodies where annotation is given), mixed by their size
splice_enriched  windows drawn with odds raised by the score of a splice-site scorer
annotated        crops centred on the text's own annotated sites and on decoys, with their classes
dataset          a `datasets` set of sequences, from the hub or from local files
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.text.alphabet import encode
from simcsp.text.annotated import SiteSampler, annotated_crops
from simcsp.text.enriched import splice_enriched
from simcsp.text.kmers import KMER, KmerSet, positions_in_text
from simcsp.text.sampler import Intervals, WindowSampler, wanted_spans, whole_records
from simcsp.text.species import check_species, gene_intervals, join_intervals, need_annotation, species_intervals
from simcsp.text.store import TokenStore, content_hash, open_masked_store, open_sequence_store, open_store

# InstaDeepAI/human_reference_genome, config 6kbp: chunk i covers [6000 i, 6000 (i + 1) + 200).
CHUNK, CHUNK_OVERLAP = 6000, 200
SPLITS = {
    "train": {*map(str, range(1, 21)), "X", "Y"},
    "validation": {"21"},
    "test": {"22"},
}
OF_SPECIES = ("multi_species", "splice_enriched", "annotated")
"""Corpora that several FASTA files of different genomes make up."""
_REFSEQ = re.compile(r"NC_0000(\d\d)\.\d+$")


@dataclass(frozen=True)
class Corpus:
    """store: the text. intervals: where windows may lie. facts: what the manifest says beyond the store's own.

    stranded: windows are read on the strand that their interval says. scores: splice_enriched only, the score of each
    interval (each of them is one window). classes: annotated only, the class of each interval (index into
    SITE_CLASSES; each is one crop).
    """

    store: TokenStore
    intervals: Intervals
    facts: dict[str, object]
    stranded: bool = False
    scores: np.ndarray | None = None
    classes: np.ndarray | None = None

    @property
    def manifest(self) -> dict[str, object]:
        """Sources, hash, sizes, shares of N and repeats, and how windows are chosen."""
        return {**self.facts, "intervals": len(self.intervals), **self.store.manifest}


def open_corpus(
    data: DataConfig,
    seed: int,
    hidden: Mapping[str, np.ndarray] | None = None,
    max_shift: int = 0,
    scored: Intervals | None = None,
) -> Corpus:
    """The corpus that a config's data section asks for. Raises InputError, naming the field, for what cannot be had.

    hidden: {part: uint8 [n, length]}, windows whose 80-mers become N in the text; None: nothing. seed: of the decoys of
    a weight matrix, and of those of annotated, whose crops are longer than data.window by twice max_shift. scored: the
    windows of splice_enriched with their odds, where they are known.
    """
    if data.corpus == "dataset":
        return _dataset(data, hidden)
    several = data.corpus in OF_SPECIES and len(data.fasta) > 1  # every genome has its chr1
    if data.corpus == "genes":
        need_annotation(data)
    elif data.corpus in OF_SPECIES:
        check_species(data)
    store = _hide(data, open_store(data.fasta, data.cache, qualify=several), hidden)
    wanted_spans(store, data.records)  # refuses names that do not exist
    if data.corpus == "splice_enriched" and scored is not None:
        return Corpus(store, scored, {"corpus": data.corpus}, stranded=True)
    if data.corpus == "splice_enriched":
        intervals, scores, facts = splice_enriched(data, store, seed)
        return Corpus(store, intervals, {"corpus": data.corpus, **facts}, stranded=True, scores=scores)
    if data.corpus == "annotated":
        intervals, classes, facts = annotated_crops(data, store, seed, max_shift)
        return Corpus(store, intervals, {"corpus": data.corpus, **facts}, stranded=True, classes=classes)
    if data.corpus == "fasta":
        return Corpus(store, whole_records(store, data.records), {"corpus": "fasta"})
    build = {"genome": _genome, "genes": _genes, "multi_species": _multi_species}[data.corpus]
    return build(data, store)


def _hide(data: DataConfig, store: TokenStore, hidden: Mapping[str, np.ndarray] | None) -> TokenStore:
    """The store, with N where it shares 80 nt with the hidden windows."""
    if hidden is None:
        return store
    digest = hashlib.sha256()
    for name, ids in hidden.items():
        if ids.shape[1] < KMER:
            raise InputError(
                f"data.hide ({data.hide}): the windows of {name} have {ids.shape[1]} nt, and what they share with the "
                f"text is found by {KMER} nt in a row: take longer ones (data.motif_window) or leave them out"
            )
        digest.update(np.ascontiguousarray(ids))
    kmers = KmerSet.of(hidden.values())
    return open_masked_store(store, lambda ids: positions_in_text(kmers, ids), digest.hexdigest())


def build_sampler(data: DataConfig, corpus: Corpus, seed: int, max_shift: int = 0) -> WindowSampler | SiteSampler:
    """The windows of a training run, longer than data.window by twice `max_shift`; of the corpus annotated its crops,
    which have classes."""
    if corpus.classes is not None:
        return SiteSampler(corpus.store, corpus.intervals, corpus.classes, seed)
    return WindowSampler(
        corpus.store,
        data.window + 2 * max_shift,
        data.sampling or ("strided" if data.corpus == "genome" else "random"),
        data.stride,
        data.strands == "both" and not corpus.stranded,
        data.max_n_share,
        corpus.intervals,
        seed,
    )


# -- genome ------------------------------------------------------------------------------------------------------------


def chromosome(record: str) -> str | None:
    """'1' to '22', 'X' or 'Y' for a record named chr1, 1 or NC_000001.11 (human RefSeq); None for anything else."""
    if match := _REFSEQ.match(record):
        number = int(match[1])
        return {23: "X", 24: "Y"}.get(number, str(number)) if 1 <= number <= 24 else None
    name = record.removeprefix("chr")
    return name if any(name in names for names in SPLITS.values()) else None


def chunk_starts(length: int) -> np.ndarray:
    """Starts of the 6 kb chunks of a chromosome, [(length - 200) // 6000]; each is 6,200 nt long."""
    return CHUNK * np.arange(max((length - CHUNK_OVERLAP) // CHUNK, 0))


def _genome(data: DataConfig, store: TokenStore) -> Corpus:
    wanted = SPLITS[data.split]
    allowed = wanted_spans(store, data.records)
    starts = [
        record.offset + from_base + chunk_starts(to_base - from_base)
        for record, from_base, to_base in allowed
        if chromosome(record.name) in wanted
    ]
    total = sum(map(len, starts))
    if not total:
        names = ", ".join(span.record.name for span in allowed[:3])
        raise InputError(
            f"data.corpus (genome): no chunk of 6,200 nt in the {data.split} chromosomes (data.split) of "
            f"{store.manifest['sources']}, whose records are {names}{', ...' if len(allowed) > 3 else ''}"
            f"{' (data.records)' if data.records else ''}: it takes human chromosomes (chr1, 1 or NC_000001.11); "
            "for others use corpus fasta"
        )
    intervals = Intervals(
        np.concatenate(starts), np.full(total, CHUNK + CHUNK_OVERLAP), np.zeros(total, dtype=bool), np.ones(total)
    )
    return Corpus(store, intervals, {"corpus": "genome", "split": data.split, "chunks": total})


def _genes(data: DataConfig, store: TokenStore) -> Corpus:
    intervals = join_intervals([gene_intervals(store, data, number) for number in range(len(data.fasta))])
    facts = {"corpus": "genes", "annotation": [Path(path).name for path in data.annotation]}
    return Corpus(store, intervals, facts, stranded=True)


def _multi_species(data: DataConfig, store: TokenStore) -> Corpus:
    intervals, shares = species_intervals(store, data)
    facts = {"corpus": "multi_species", "shares": shares, "annotation": [Path(path).name for path in data.annotation]}
    return Corpus(store, intervals, facts, stranded=bool(data.annotation))


# -- dataset -----------------------------------------------------------------------------------------------------------


def _dataset(data: DataConfig, hidden: Mapping[str, np.ndarray] | None) -> Corpus:
    """Sequences of a `datasets` set, each a record of the store; streamed, so nothing but the ids is kept."""
    if data.dataset is None:
        raise InputError("data.dataset is not set: corpus dataset needs a hub id or a local file or folder")
    stamp = [data.dataset, data.dataset_config, data.split, data.dataset_column, data.dataset_rows]
    path = Path(data.dataset)
    if path.exists():
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        stamp += [[file.name, content_hash(file)] for file in files]
    store = _hide(data, open_sequence_store(path.name, stamp, lambda: _rows(data), data.cache), hidden)
    return Corpus(store, whole_records(store), {"corpus": "dataset", "dataset": data.dataset, "split": data.split})


def _rows(data: DataConfig) -> Iterator[tuple[str, np.ndarray]]:
    import datasets  # takes seconds to import, and only this corpus needs it

    path = Path(data.dataset)
    try:
        if path.is_file():
            kind = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
            if path.suffix not in kind:
                raise InputError(f"data.dataset {path}: expected a file ending in {', '.join(kind)}, or a folder")
            more = {"data_files": str(path), **({"sep": "\t"} if path.suffix == ".tsv" else {})}
            rows = datasets.load_dataset(kind[path.suffix], split=data.split, streaming=True, **more)
        else:
            rows = datasets.load_dataset(data.dataset, data.dataset_config, split=data.split, streaming=True)
        for number, row in enumerate(rows):
            if number == data.dataset_rows:
                return
            if data.dataset_column not in row:
                raise InputError(
                    f"data.dataset_column ({data.dataset_column}): {data.dataset} has the columns {', '.join(row)}"
                )
            bases, where = row[data.dataset_column], f"data.dataset {data.dataset}, row {number}"
            if not isinstance(bases, str):
                raise InputError(f"{where}: {data.dataset_column} is {str(bases)[:40]!r}, expected a text of bases")
            yield f"row{number}", encode(bases, where)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"data.dataset {data.dataset}: cannot be read ({reason})") from None

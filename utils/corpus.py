"""The pre-training text: what `data.corpus` names becomes a token store, the intervals that windows are cut from, and a
manifest that says what it is.

fasta            the records of the FASTA files, as they are
genome           the Nucleotide Transformer's 6 kb chunks of a human genome, by its split of chromosomes
genes            gene bodies on their sense strand, which is what SpliceBERT was trained on (Chen et al. 2024)
multi_species    several FASTA files (gene bodies where annotation is given), mixed by weight and temperature
splice_enriched  windows drawn with odds raised by the score of a splice-site scorer
dataset          a `datasets` set of sequences, from the hub or from local files
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import maximum_filter1d
from scipy.special import logit

from utils.annotation import Intron, gene_bodies, introns, read_annotation
from utils.backbone import check_length
from utils.classifier import load_classifier, predict
from utils.config import Config, DataConfig
from utils.errors import InputError
from utils.floors import WeightMatrix
from utils.overlap import KmerSet, positions_in_text
from utils.proxies import load_motifs
from utils.run import build_accelerator
from utils.sequence import (
    A,
    G,
    Intervals,
    T,
    TokenStore,
    WindowSampler,
    encode,
    open_masked_store,
    open_sequence_store,
    open_store,
    whole_records,
)
from utils.spliceator import benchmark_species, load_benchmark, load_training

# InstaDeepAI/human_reference_genome, config 6kbp: chunk i covers [6000 i, 6000 (i + 1) + 200).
CHUNK, CHUNK_OVERLAP = 6000, 200
SPLITS = {
    "train": {*map(str, range(1, 21)), "X", "Y"},
    "validation": {"21"},
    "test": {"22"},
}
_REFSEQ = re.compile(r"NC_0000(\d\d)\.\d+$")
SCORER_FLANK = 20  # nt on either side of a boundary that the weight matrices of splice_enriched see

Scorer = Callable[[str, bool], np.ndarray]
"""(record, reverse strand?) -> float32 [length + 1]: score of a splice site at each boundary of that strand.

Boundary i lies before base i: GT follows a donor's, AG precedes an acceptor's. -inf where there can be no site.
"""


@dataclass(frozen=True)
class Corpus:
    """store: the text. intervals: where windows may lie. facts: what the manifest says beyond the store's own.

    scores: splice_enriched only, the score of each interval (each of them is one window).
    """

    store: TokenStore
    intervals: Intervals
    facts: dict[str, object]
    scores: np.ndarray | None = None

    @property
    def manifest(self) -> dict[str, object]:
        """Sources, hash, sizes, shares of N and repeats, and how windows are chosen."""
        return {**self.facts, "intervals": len(self.intervals), **self.store.manifest}


def open_corpus(config: Config) -> Corpus:
    """The corpus that a config asks for. Raises InputError, naming the field, for what cannot be had."""
    build = {
        "fasta": _records,
        "genome": _genome,
        "genes": _genes,
        "multi_species": _multi_species,
        "splice_enriched": _splice_enriched,
        "dataset": _dataset,
    }[config.data.corpus]
    return build(config)


def _open(data: DataConfig) -> TokenStore:
    several = data.corpus in ("multi_species", "splice_enriched") and len(data.fasta) > 1
    return _hide(data, open_store(data.fasta, data.cache, qualify=several))  # every genome has its chr1


def _hide(data: DataConfig, store: TokenStore) -> TokenStore:
    """The store, without what data.hide keeps out of it."""
    if data.hide == "nothing":
        return store
    parts = evaluation_windows(data)
    if data.hide == "benchmarks":
        parts = {name: ids for name, ids in parts.items() if name.startswith(BENCHMARK)}
        if not parts:
            raise InputError(f"data.hide (benchmarks): data.spliceator ({data.spliceator}) has no Benchmarks folder")
    if not parts:
        raise InputError("data.hide (evaluation): neither data.spliceator nor data.motif_bed is set")
    digest = hashlib.sha256()
    for ids in parts.values():
        digest.update(ids)
    kmers = KmerSet.of(parts.values())
    return open_masked_store(store, lambda ids: positions_in_text(kmers, ids), digest.hexdigest())


BENCHMARK = "benchmark "


def evaluation_windows(data: DataConfig) -> dict[str, np.ndarray]:
    """{part of the evaluation: uint8 [n, length]}: every window that a score may be measured on, uncropped."""
    parts = {}
    if data.spliceator is not None:
        sets = {"training": load_training(data.spliceator, data.negatives, data.context)}
        for species in benchmark_species(data.spliceator):
            sets[f"{BENCHMARK}{species}"] = load_benchmark(data.spliceator, species, data.context)
        for name, windows in sets.items():
            for stratum in np.unique(windows.strata):
                parts[f"{name} {stratum}"] = windows.ids[windows.strata == stratum]
    if (motifs := load_motifs(data)) is not None:
        parts["motif sites"] = motifs.ids
    return parts


def build_sampler(config: Config, corpus: Corpus) -> WindowSampler:
    """The windows of a training run."""
    data = config.data
    return WindowSampler(
        corpus.store,
        data.window,
        data.sampling or ("strided" if data.corpus == "genome" else "random"),
        data.stride,
        data.strands == "both" and not corpus.intervals.minus.any() and data.corpus != "genes",
        1.0 if data.legacy_keep_n else data.max_n_share,
        corpus.intervals,
        config.seed,
        data.max_repeat_share,
    )


def _records(config: Config) -> Corpus:
    store = _open(config.data)
    return Corpus(store, whole_records(store, config.data.records), {"corpus": "fasta"})


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


def _genome(config: Config) -> Corpus:
    store, wanted = _open(config.data), SPLITS[config.data.split]
    records = [record for record in store.records if chromosome(record.name) in wanted]
    if config.data.records is not None:
        records = [record for record in records if record.name in config.data.records]
    starts = [record.offset + chunk_starts(record.length) for record in records]
    total = sum(map(len, starts))
    if not total:
        found = ", ".join(record.name for record in store.records[:3])
        raise InputError(
            f"data.corpus (genome): no chunk of 6,200 nt in the {config.data.split} chromosomes of "
            f"{store.manifest['sources']}, whose records are {found}, ...: it takes human chromosomes "
            "(chr1, 1 or NC_000001.11); for others use corpus fasta"
        )
    intervals = Intervals(
        np.concatenate(starts), np.full(total, CHUNK + CHUNK_OVERLAP), np.zeros(total, dtype=bool), np.ones(total)
    )
    return Corpus(store, intervals, {"corpus": "genome", "split": config.data.split, "chunks": total})


# -- genes and species -------------------------------------------------------------------------------------------------


def _need_annotation(data: DataConfig) -> None:
    if len(data.annotation) != len(data.fasta):
        raise InputError(
            f"data.annotation has {len(data.annotation)} files, data.fasta {len(data.fasta)}: "
            f"corpus {data.corpus} takes one annotation for each FASTA, in the same order"
        )


def _of_source(store: TokenStore, data: DataConfig, number: int) -> dict[str, str]:
    """{name in its own FASTA: name in the store} of the wanted records of the FASTA of that number."""
    return {
        record.source_name: record.name
        for record in store.records
        if record.source == number and (data.records is None or record.name in data.records)
    }


def _annotated_introns(store: TokenStore, data: DataConfig, number: int) -> list[Intron]:
    """Introns of the annotation of a source on its wanted records, chrom being the name in the store."""
    names = _of_source(store, data, number)
    lengths = {own: store.by_name[name].length for own, name in names.items()}
    found = introns(read_annotation(data.annotation[number], lengths))
    return [intron._replace(chrom=names[intron.chrom]) for intron in found if intron.chrom in names]


def _gene_intervals(store: TokenStore, data: DataConfig, number: int) -> Intervals:
    names = _of_source(store, data, number)
    lengths = {own: store.by_name[name].length for own, name in names.items()}
    bodies = [body for body in gene_bodies(read_annotation(data.annotation[number], lengths)) if body.chrom in names]
    if not bodies:
        raise InputError(f"{data.annotation[number]} has no gene on the records to train on")
    return Intervals(
        np.array([store.by_name[names[body.chrom]].offset + body.start for body in bodies]),
        np.array([body.end - body.start for body in bodies]),
        np.array([body.strand == "-" for body in bodies]),
        np.ones(len(bodies)),
    )


def _join(parts: list[Intervals]) -> Intervals:
    return Intervals(*(np.concatenate([getattr(part, name) for part in parts]) for name in Intervals.__annotations__))


def _genes(config: Config) -> Corpus:
    data = config.data
    _need_annotation(data)
    store = _open(data)
    whole_records(store, data.records)  # refuses names that do not exist
    intervals = _join([_gene_intervals(store, data, number) for number in range(len(data.fasta))])
    return Corpus(store, intervals, {"corpus": "genes", "annotation": [Path(path).name for path in data.annotation]})


def mixing_shares(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Share of windows of each source, sizes^(1/temperature) normalised: 1 keeps the sizes, larger evens them out
    (as multilingual models mix languages, Conneau et al. 2020, section 3.1, with alpha = 1 / temperature)."""
    shares = (sizes / sizes.sum()) ** (1 / temperature)
    return shares / shares.sum()


def _species(store: TokenStore, data: DataConfig) -> tuple[Intervals, dict[str, float]]:
    """Intervals of all sources with the odds that give each its share, and {source: share}."""
    parts = []
    for number in range(len(data.fasta)):
        if data.annotation:
            parts.append(_gene_intervals(store, data, number))
        else:
            parts.append(whole_records(store, sorted(_of_source(store, data, number).values())))
    starts = np.array([np.maximum(part.length - data.window + 1, 0).sum() for part in parts], dtype=float)
    if data.species_weights is not None and len(data.species_weights) != len(parts):
        raise InputError(
            f"data.species_weights has {len(data.species_weights)} numbers for {len(parts)} files in data.fasta"
        )
    if not starts.all():
        raise InputError(
            f"data.window ({data.window} nt) is longer than every record or gene of "
            f"{data.fasta[int(np.flatnonzero(starts == 0)[0])]}"
        )
    weights = starts if data.species_weights is None else np.array(data.species_weights, dtype=float)
    shares = mixing_shares(weights, data.mixing_temperature)
    odds = shares / starts
    joined = _join(parts)
    per_interval = np.repeat(odds / odds.max(), [len(part) for part in parts])
    shares = {store.manifest["sources"][i]: round(float(share), 4) for i, share in enumerate(shares)}
    return Intervals(joined.start, joined.length, joined.minus, per_interval), shares


def _multi_species(config: Config) -> Corpus:
    data = config.data
    if data.annotation:
        _need_annotation(data)
    store = _open(data)
    whole_records(store, data.records)
    intervals, shares = _species(store, data)
    return Corpus(store, intervals, {"corpus": "multi_species", "shares": shares})


# -- splice_enriched ---------------------------------------------------------------------------------------------------


def _splice_enriched(config: Config) -> Corpus:
    """Every `stride`-th window of both strands, its odds raised by exp(enrichment x its best splice-site score)."""
    data = config.data
    store = _open(data)
    whole_records(store, data.records)
    if data.scorer in ("pwm", "annotation"):
        _need_annotation(data)
    if data.sampling == "strided":
        raise InputError("data.sampling (strided) reads every window once: splice_enriched draws them by their odds")
    stride = data.stride or max(1, data.window // 4)
    parts, scores, sites = [], [], 0
    species = np.array([sum(r.length for r in store.records if r.source == i) for i in range(len(data.fasta))], float)
    weights = species if data.species_weights is None else np.array(data.species_weights, dtype=float)
    shares = mixing_shares(weights, data.mixing_temperature)
    for number in range(len(data.fasta)):
        known = _annotated_introns(store, data, number) if data.annotation else []
        sites += 2 * len(known)
        part, score = _score_windows(config, store, number, known, stride)
        odds = np.exp(data.enrichment * (score - score.max()))
        parts.append(Intervals(part.start, part.length, part.minus, odds * shares[number] / odds.sum()))
        scores.append(score)
    intervals, score = _join(parts), np.concatenate(scores)
    probability = intervals.odds / intervals.odds.sum()
    facts = {
        "corpus": "splice_enriched",
        "scorer": data.scorer,
        "enrichment": data.enrichment,
        "shares": {store.manifest["sources"][i]: round(float(share), 4) for i, share in enumerate(shares)},
        "annotated_sites": sites,
        "mean_score": round(float(score.mean()), 4),
        "mean_score_drawn": round(float((score * probability).sum()), 4),
        "effective_windows": int(1 / (probability**2).sum()),  # Kish: as many equally likely windows
    }
    return Corpus(store, intervals, facts, score)


def _score_windows(
    config: Config, store: TokenStore, number: int, known: list[Intron], stride: int
) -> tuple[Intervals, np.ndarray]:
    """Windows of one source on both strands with the best score of a site whose flanks lie in the window.

    A window without any candidate has the lowest score of all."""
    data = config.data
    names = sorted(_of_source(store, data, number).values())
    scorer = _build_scorer(config, store, known)
    flank = min(SCORER_FLANK, data.window // 4)
    starts, minus, scores = [], [], []
    for name in names:
        record = store.by_name[name]
        first = np.arange(0, record.length - data.window + 1, stride)
        if not len(first):
            continue
        for reverse in (False, True):
            at_boundary = scorer(name, reverse)
            span = data.window - 2 * flank + 1  # boundaries that a window at 0 holds: flank ... window - flank
            best = maximum_filter1d(at_boundary, span, mode="constant", cval=-np.inf)
            own = first if not reverse else record.length - data.window - first  # the same window seen from that strand
            scores.append(best[own + flank + span // 2])
            starts.append(record.offset + first)
            minus.append(np.full(len(first), reverse))
    if not scores:
        raise InputError(f"data.window ({data.window} nt) is longer than every record of {data.fasta[number]}")
    score = np.concatenate(scores).astype(np.float64)
    found = np.isfinite(score)
    if not found.any():
        raise InputError(f"data.scorer ({data.scorer}) finds no candidate site in {data.fasta[number]}")
    score[~found] = score[found].min()
    start = np.concatenate(starts)
    return Intervals(start, np.full(len(start), data.window), np.concatenate(minus), np.ones(len(start))), score


def _build_scorer(config: Config, store: TokenStore, known: list[Intron]) -> Scorer:
    if config.data.scorer == "annotation":
        return _annotation_scorer(store, known)
    if config.data.scorer == "pwm":
        return _matrix_scorer(store, known, config.seed)
    return _classifier_scorer(config, store)


def boundaries(store: TokenStore, known: list[Intron]) -> dict[str, np.ndarray]:
    """{'donor', 'acceptor'}: int64 [n, 3] of record number, minus (0 / 1) and boundary counted along the strand."""
    number = {record.name: i for i, record in enumerate(store.records)}
    rows: dict[str, list[tuple[int, int, int]]] = {"donor": [], "acceptor": []}
    for intron in known:
        length, minus = store.by_name[intron.chrom].length, intron.strand == "-"
        ends = (length - intron.end, length - intron.start) if minus else (intron.start, intron.end)
        for site, place in zip(("donor", "acceptor"), ends):
            rows[site].append((number[intron.chrom], int(minus), place))
    return {site: np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 3) for site, found in rows.items()}


def _annotation_scorer(store: TokenStore, known: list[Intron]) -> Scorer:
    """1 at annotated sites, so a window's score is 1 where it holds one, else 0 at any GT or AG."""
    number = {record.name: i for i, record in enumerate(store.records)}
    rows = np.concatenate(list(boundaries(store, known).values()))

    def score(name: str, reverse: bool) -> np.ndarray:
        scores = np.zeros(store.by_name[name].length + 1, dtype=np.float32)
        scores[rows[(rows[:, 0] == number[name]) & (rows[:, 1] == int(reverse)), 2]] = 1.0
        return scores

    return score


def _matrix_scorer(store: TokenStore, known: list[Intron], seed: int) -> Scorer:
    """The weight matrices of donors and acceptors (floors.WeightMatrix) fitted on annotation, against random GT / AG.

    The score is the log-odds in nats of the likelier of the two; only GT and AG are candidates.
    """
    rng = np.random.default_rng([seed, 4])
    windows, labels, sites = [], [], []
    for site, rows in boundaries(store, known).items():
        positive = [_flanks(store, *row) for row in rows.tolist()]
        positive = [window for window in positive if window is not None and _has_motif(window, site)]
        if len(positive) < 10:
            raise InputError(
                f"data.scorer (pwm): only {len(positive)} annotated {site}s with their GT / AG: too few to fit a matrix"
            )
        negative = _decoys(store, rows, site, 4 * len(positive), rng)
        windows += positive + negative
        labels += [1] * len(positive) + [0] * len(negative)
        sites += [site] * (len(positive) + len(negative))
    matrix = WeightMatrix(SCORER_FLANK).fit(np.stack(windows), np.array(labels), np.array(sites))
    log_odds = dict(zip(np.unique(sites), matrix.log_odds))

    def score(name: str, reverse: bool) -> np.ndarray:
        ids = _strand(store, name, reverse)
        scores = np.full(len(ids) + 1, -np.inf, dtype=np.float32)
        for site, weights in log_odds.items():
            places = _motif_boundaries(ids, site)
            places = places[(places >= SCORER_FLANK) & (places <= len(ids) - SCORER_FLANK)]
            # one look-up a column; row N of the table is zero, as an unknown base tells nothing
            table = np.zeros((2 * SCORER_FLANK, T + 1), dtype=np.float32)
            table[:, A:] = weights.reshape(-1, 4)
            total = np.zeros(len(places), dtype=np.float32)
            for column in range(2 * SCORER_FLANK):
                total += table[column, ids[places - SCORER_FLANK + column]]
            scores[places] = np.maximum(scores[places], total)
        return scores

    return score


def _classifier_scorer(config: Config, store: TokenStore) -> Scorer:
    """The logit of a fine-tuned classifier of ours (data.scorer: a fold's folder) at every GT and AG."""
    data, folder = config.data, Path(config.data.scorer)
    folder = folder / "checkpoints/best" if (folder / "checkpoints/best").is_dir() else folder
    if not folder.is_dir():
        raise InputError(f"data.scorer ({data.scorer}) is none of pwm, annotation and no folder of a fine-tuned fold")
    accelerator = build_accelerator(config.device, config.precision)
    model = load_classifier(folder, config.model, config.finetune.dropout).to(accelerator.device)
    check_length(model.bert, data.context, "data.context")
    half = data.context // 2

    def score(name: str, reverse: bool) -> np.ndarray:
        ids = _strand(store, name, reverse)
        scores = np.full(len(ids) + 1, -np.inf, dtype=np.float32)
        places = np.union1d(_motif_boundaries(ids, "donor"), _motif_boundaries(ids, "acceptor"))
        places = places[(places >= half) & (places <= len(ids) - half)]
        for part in np.array_split(places, max(1, len(places) // 100_000)):
            if len(part):
                windows = sliding_window_view(ids, data.context)[part - half]
                p = predict(model, windows, config.evaluate.batch_size, accelerator.autocast).astype(np.float64)
                scores[part] = logit(np.clip(p, 1e-6, 1 - 1e-6))
        return scores

    return score


def _strand(store: TokenStore, name: str, reverse: bool) -> np.ndarray:
    """All ids of a record, read on one of its strands."""
    return store.fetch(name, 0, store.by_name[name].length, "-" if reverse else "+")


def _motif_boundaries(ids: np.ndarray, site: str) -> np.ndarray:
    """Boundaries of one strand with GT after them (donor) or AG before them (acceptor)."""
    if site == "donor":
        return np.flatnonzero((ids[:-1] == G) & (ids[1:] == T))
    return np.flatnonzero((ids[:-1] == A) & (ids[1:] == G)) + 2


def _has_motif(window: np.ndarray, site: str) -> bool:
    centre = len(window) // 2
    pair = window[centre : centre + 2] if site == "donor" else window[centre - 2 : centre]
    return tuple(pair) == ((G, T) if site == "donor" else (A, G))


def _flanks(store: TokenStore, record: int, minus: int, boundary: int) -> np.ndarray | None:
    """The 2 x SCORER_FLANK bases about a boundary counted along its strand; None at the end of a record."""
    name, length = store.records[record].name, store.records[record].length
    first, end = boundary - SCORER_FLANK, boundary + SCORER_FLANK
    if first < 0 or end > length:
        return None
    return store.fetch(name, length - end, length - first, "-") if minus else store.fetch(name, first, end)


def _decoys(
    store: TokenStore, real: np.ndarray, site: str, how_many: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Flanks of random GT / AG that no annotation calls a site, on the strands and records of the real ones."""
    known, found = {tuple(row) for row in real.tolist()}, []
    strands = np.unique(real[:, :2], axis=0)
    share = -(-how_many // len(strands))
    for record, minus in strands.tolist():
        ids = _strand(store, store.records[record].name, bool(minus))
        places = _motif_boundaries(ids, site)
        for place in rng.choice(places, min(2 * share, len(places)), replace=False).tolist()[:share]:
            window = _flanks(store, record, minus, place)
            if (record, minus, place) not in known and window is not None:
                found.append(window)
    return found


# -- dataset -----------------------------------------------------------------------------------------------------------


def _dataset(config: Config) -> Corpus:
    """Sequences of a `datasets` set, each a record of the store; streamed, so nothing but the ids is kept."""
    data = config.data
    if data.dataset is None:
        raise InputError("data.dataset is not set: corpus dataset needs a hub id or a local file or folder")
    stamp = [data.dataset, data.dataset_config, data.split, data.dataset_column, data.dataset_rows]
    path = Path(data.dataset)
    if path.exists():
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        stamp += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    store = open_sequence_store(path.name, stamp, lambda: _rows(data), data.cache)
    return Corpus(store, whole_records(store), {"corpus": "dataset", "dataset": data.dataset, "split": data.split})


def _rows(data: DataConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(name, ids) of every sequence."""
    import datasets  # takes seconds to import, and only this corpus needs it

    path = Path(data.dataset)
    try:
        if path.is_file():
            kind = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
            if path.suffix not in kind:
                raise InputError(f"data.dataset {path}: expected a file ending in {', '.join(kind)}, or a folder")
            more = {"sep": "\t"} if path.suffix == ".tsv" else {}
            rows = datasets.load_dataset(kind[path.suffix], data_files=str(path), split="train", streaming=True, **more)
        else:
            rows = datasets.load_dataset(data.dataset, data.dataset_config, split=data.split, streaming=True)
        for number, row in enumerate(rows):
            if number == data.dataset_rows:
                return
            if data.dataset_column not in row:
                raise InputError(
                    f"data.dataset_column ({data.dataset_column}): {data.dataset} has the columns {', '.join(row)}"
                )
            yield f"row{number}", encode(str(row[data.dataset_column]), f"{data.dataset}, row {number}")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"data.dataset {data.dataset}: cannot be read ({str(error).splitlines()[0][:200]})") from None

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

from utils.annotation import GeneBody, Intron, Transcript, gene_bodies, introns, read_annotation
from utils.backbone import check_length
from utils.classifier import load_classifier, predict
from utils.config import Config, DataConfig
from utils.errors import InputError
from utils.floors import WeightMatrix
from utils.motifs import read_bed
from utils.overlap import KMER, KmerSet, Overlap, overlap_report, positions_in_text, sites_in_text
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
MOST_SITES = 20_000  # annotated donors, and acceptors, that they are fitted on: more do not change them

Scorer = Callable[[str, bool], np.ndarray]
"""(record, reverse strand?) -> float32 [length + 1]: score of a splice site at each boundary of that strand.

Boundary i lies before base i: GT follows a donor's, AG precedes an acceptor's. -inf where there can be no site.
"""


@dataclass(frozen=True)
class Corpus:
    """store: the text. intervals: where windows may lie. facts: what the manifest says beyond the store's own.

    stranded: windows are read on the strand that their interval says. scores: splice_enriched only, the score of each
    interval (each of them is one window).
    """

    store: TokenStore
    intervals: Intervals
    facts: dict[str, object]
    stranded: bool = False
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
    for name, ids in parts.items():
        if ids.shape[1] < KMER:
            raise InputError(
                f"data.hide ({data.hide}): the windows of {name} have {ids.shape[1]} nt, and what they share with the "
                f"text is found by {KMER} nt in a row: take longer ones (data.motif_window) or leave them out"
            )
        digest.update(np.ascontiguousarray(ids))
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
        data.window + 2 * config.pretrain.max_shift,
        data.sampling or ("strided" if data.corpus == "genome" else "random"),
        data.stride,
        data.strands == "both" and not corpus.stranded,
        data.max_n_share,
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
    data = config.data
    store, wanted = _open(data), SPLITS[data.split]
    whole_records(store, data.records)  # refuses names that do not exist
    allowed = [record for record in store.records if data.records is None or record.name in data.records]
    records = [record for record in allowed if chromosome(record.name) in wanted]
    starts = [record.offset + chunk_starts(record.length) for record in records]
    total = sum(map(len, starts))
    if not total:
        found = ", ".join(record.name for record in allowed[:3])
        raise InputError(
            f"data.corpus (genome): no chunk of 6,200 nt in the {data.split} chromosomes (data.split) of "
            f"{store.manifest['sources']}, whose records are {found}{', ...' if len(allowed) > 3 else ''}"
            f"{' (data.records)' if data.records else ''}: it takes human chromosomes (chr1, 1 or NC_000001.11); "
            "for others use corpus fasta"
        )
    intervals = Intervals(
        np.concatenate(starts), np.full(total, CHUNK + CHUNK_OVERLAP), np.zeros(total, dtype=bool), np.ones(total)
    )
    return Corpus(store, intervals, {"corpus": "genome", "split": data.split, "chunks": total})


# -- genes and species -------------------------------------------------------------------------------------------------


def _need_annotation(data: DataConfig) -> None:
    if len(data.annotation) != len(data.fasta):
        raise InputError(
            f"data.annotation has {len(data.annotation)} files, data.fasta {len(data.fasta)}: "
            f"corpus {data.corpus} takes one annotation for each FASTA, in the same order"
        )


def _of_source(store: TokenStore, data: DataConfig, number: int) -> dict[str, str]:
    """{name in its own FASTA: name in the store} of the wanted records of the FASTA of that number."""
    names = {
        record.source_name: record.name
        for record in store.records
        if record.source == number and (data.records is None or record.name in data.records)
    }
    if not names:
        raise InputError(f"data.records names no record of {data.fasta[number]}: name one, or leave out that FASTA")
    return names


def _annotation_of(store: TokenStore, data: DataConfig, number: int) -> list[Transcript]:
    """Transcripts of a source on all of its records: those that are not wanted must match the FASTA as well."""
    lengths = {record.source_name: record.length for record in store.records if record.source == number}
    return read_annotation(data.annotation[number], lengths)


def _annotated_introns(store: TokenStore, data: DataConfig, number: int) -> list[Intron]:
    """Introns of the annotation of a source on its wanted records, chrom being the name in the store."""
    names = _of_source(store, data, number)
    found = introns(_annotation_of(store, data, number))
    return [intron._replace(chrom=names[intron.chrom]) for intron in found if intron.chrom in names]


def _gene_intervals(store: TokenStore, data: DataConfig, number: int) -> Intervals:
    """Gene bodies of one source, so that each window that lies in one is there once."""
    names = _of_source(store, data, number)
    bodies = [body for body in gene_bodies(_annotation_of(store, data, number)) if body.chrom in names]
    if not bodies:
        raise InputError(f"data.annotation: {data.annotation[number]} has no gene on the records to train on")
    spans = _merge(bodies, data.window)
    return Intervals(
        np.array([store.by_name[names[chrom]].offset + start for chrom, _, start, _ in spans]),
        np.array([end - start for _, _, start, end in spans]),
        np.array([strand == "-" for _, strand, _, _ in spans]),
        np.ones(len(spans)),
    )


def _merge(bodies: list[GeneBody], window: int) -> list[tuple[str, str, int, int]]:
    """(record, strand, start, end) of gene bodies, those made one whose windows coincide or start next to one another.

    The windows in the spans are just those in the bodies, each once, however genes overlap and nest."""
    spans: list[tuple[str, str, int, int]] = []
    for chrom, strand, start, end in sorted((body.chrom, body.strand, body.start, body.end) for body in bodies):
        if spans and spans[-1][:2] == (chrom, strand) and start <= spans[-1][3] - window + 1:
            spans[-1] = (*spans[-1][:3], max(spans[-1][3], end))
        else:
            spans.append((chrom, strand, start, end))
    return spans


def _join(parts: list[Intervals]) -> Intervals:
    return Intervals(*(np.concatenate([getattr(part, name) for part in parts]) for name in Intervals.__annotations__))


def _genes(config: Config) -> Corpus:
    data = config.data
    _need_annotation(data)
    store = _open(data)
    whole_records(store, data.records)  # refuses names that do not exist
    intervals = _join([_gene_intervals(store, data, number) for number in range(len(data.fasta))])
    facts = {"corpus": "genes", "annotation": [Path(path).name for path in data.annotation]}
    return Corpus(store, intervals, facts, stranded=True)


def mixing_shares(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Share of windows of each source, sizes^(1/temperature) normalised: 1 keeps the sizes, larger evens them out
    (as multilingual models mix languages, Conneau et al. 2020, section 3.1, with alpha = 1 / temperature)."""
    shares = (sizes / sizes.max()) ** (1 / temperature)
    return shares / shares.sum()


def _check_species(data: DataConfig) -> None:
    """Refuse lists that do not go together, before any file is read."""
    if data.annotation or (data.corpus == "splice_enriched" and data.scorer in ("pwm", "annotation")):
        _need_annotation(data)
    if data.species_weights is not None and len(data.species_weights) != len(data.fasta):
        raise InputError(
            f"data.species_weights has {len(data.species_weights)} numbers for {len(data.fasta)} files in data.fasta"
        )
    by_odds = data.corpus == "splice_enriched" or data.species_weights is not None or data.mixing_temperature != 1
    if data.sampling == "strided" and by_odds:
        raise InputError(
            "data.sampling (strided) reads every window once, so it knows no odds: take random for corpus "
            f"{data.corpus}{'' if data.corpus == 'splice_enriched' else ' with weights or a temperature'}"
        )


def _shares(data: DataConfig, sizes: np.ndarray) -> np.ndarray:
    """Share of windows that each FASTA gives. sizes: their weights, unless the config has some."""
    weights = sizes if data.species_weights is None else np.array(data.species_weights, dtype=float)
    return mixing_shares(weights, data.mixing_temperature)


def _by_source(store: TokenStore, shares: np.ndarray) -> dict[str, float]:
    return {source: round(float(share), 4) for source, share in zip(store.manifest["sources"], shares)}


def _species(store: TokenStore, data: DataConfig) -> tuple[Intervals, dict[str, float]]:
    """Intervals of all sources with the odds that give each its share, and {source: share}."""
    parts = []
    for number in range(len(data.fasta)):
        if data.annotation:
            parts.append(_gene_intervals(store, data, number))
        else:
            parts.append(whole_records(store, sorted(_of_source(store, data, number).values())))
    starts = np.array([np.maximum(part.length - data.window + 1, 0).sum() for part in parts], dtype=float)
    if not starts.all():
        raise InputError(
            f"data.window ({data.window} nt) is longer than every record or gene of "
            f"{data.fasta[int(np.flatnonzero(starts == 0)[0])]}"
        )
    shares = _shares(data, starts)
    odds = shares / starts
    joined = _join(parts)
    per_interval = np.repeat(odds / odds.max(), [len(part) for part in parts])
    return Intervals(joined.start, joined.length, joined.minus, per_interval), _by_source(store, shares)


def _multi_species(config: Config) -> Corpus:
    data = config.data
    _check_species(data)
    store = _open(data)
    whole_records(store, data.records)
    intervals, shares = _species(store, data)
    facts = {"corpus": "multi_species", "shares": shares, "annotation": [Path(path).name for path in data.annotation]}
    return Corpus(store, intervals, facts, stranded=bool(data.annotation))


# -- splice_enriched ---------------------------------------------------------------------------------------------------


def _splice_enriched(config: Config) -> Corpus:
    """Every `stride`-th window, its odds raised by exp(enrichment x its best splice-site score)."""
    data = config.data
    _check_species(data)
    store = _open(data)
    whole_records(store, data.records)
    stride = data.stride or max(1, data.window // 4)
    parts, scores, sites = [], [], 0
    names = [_of_source(store, data, number).values() for number in range(len(data.fasta))]
    shares = _shares(data, np.array([sum(store.by_name[name].length for name in own) for own in names], dtype=float))
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
        "shares": _by_source(store, shares),
        "annotated_sites": sites,
        "mean_score": round(float(score.mean()), 4),
        "mean_score_drawn": round(float((score * probability).sum()), 4),
        "effective_windows": int(1 / (probability**2).sum()),  # Kish: as many equally likely windows
    }
    return Corpus(store, intervals, facts, stranded=True, scores=score)


def _score_windows(
    config: Config, store: TokenStore, number: int, known: list[Intron], stride: int
) -> tuple[Intervals, np.ndarray]:
    """Windows of one source, on both strands or forward, with the best score of a site whose flanks lie in the window.

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
        for reverse in (False, True) if data.strands == "both" else (False,):
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
        matrices = _fit_matrices(store, known, config.seed)
        return lambda name, reverse: site_scores(_strand(store, name, reverse), matrices)
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
    """1 at annotated sites and 0 elsewhere, so a window's score is 1 where it holds one."""
    if not known:
        raise InputError("data.annotation has no intron on the records to train on: nothing to enrich (data.scorer)")
    number = {record.name: i for i, record in enumerate(store.records)}
    rows = np.concatenate(list(boundaries(store, known).values()))

    def score(name: str, reverse: bool) -> np.ndarray:
        scores = np.zeros(store.by_name[name].length + 1, dtype=np.float32)
        scores[rows[(rows[:, 0] == number[name]) & (rows[:, 1] == int(reverse)), 2]] = 1.0
        return scores

    return score


def fit_site_matrices(config: Config, store: TokenStore) -> dict[str, np.ndarray]:
    """`_fit_matrices` on all annotation of a config together, for masking around likely sites."""
    _need_annotation(config.data)
    known = [
        intron for number in range(len(config.data.fasta)) for intron in _annotated_introns(store, config.data, number)
    ]
    return _fit_matrices(store, known, config.seed)


def _fit_matrices(store: TokenStore, known: list[Intron], seed: int) -> dict[str, np.ndarray]:
    """{'donor', 'acceptor'}: log-odds in nats of floors.WeightMatrix, annotated sites against random GT / AG."""
    rng = np.random.default_rng([seed, 4])
    windows, labels, sites = [], [], []
    for site, rows in boundaries(store, known).items():
        positive = [_flanks(store, *row) for row in rng.permutation(rows)[:MOST_SITES].tolist()]
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
    return dict(zip(np.unique(sites), matrix.log_odds))


def site_scores(ids: np.ndarray, matrices: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [n + 1]: log-odds of the likelier site at each boundary of ids uint8 [n], read as one strand; only GT and
    AG with SCORER_FLANK nt on either side are candidates, the others are -inf."""
    scores = np.full(len(ids) + 1, -np.inf, dtype=np.float32)
    for site, weights in matrices.items():
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
    strands, found = np.unique(real[:, :2], axis=0), []
    share = -(-how_many // len(strands))
    for record, minus in strands.tolist():
        ids = _strand(store, store.records[record].name, bool(minus))
        known = real[(real[:, 0] == record) & (real[:, 1] == minus), 2]
        places = np.setdiff1d(_motif_boundaries(ids, site), known)
        places = places[(places >= SCORER_FLANK) & (places <= len(ids) - SCORER_FLANK)]
        for place in rng.choice(places, min(share, len(places)), replace=False).tolist():
            found.append(ids[place - SCORER_FLANK : place + SCORER_FLANK])
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
    store = _hide(data, open_sequence_store(path.name, stamp, lambda: _rows(data), data.cache))
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


# -- overlap with the evaluation ---------------------------------------------------------------------------------------


def covered(intervals: Intervals) -> np.ndarray:
    """int64 [m, 2]: the stretches of the store that windows may read, disjoint and ascending.

    Stretches that only touch stay apart: no window reaches over their border, which may be that of two records.
    """
    order = np.argsort(intervals.start, kind="stable")
    start = intervals.start[order]
    reach = np.maximum.accumulate(start + intervals.length[order])
    first = np.flatnonzero(np.append(True, start[1:] >= reach[:-1]))
    return np.stack([start[first], reach[np.append(first[1:] - 1, len(start) - 1)]], axis=1)


def measure_overlap(config: Config, corpus: Corpus) -> list[Overlap]:
    """How much of every part of the evaluation lies in the text: motif sites by coordinates where both are of the same
    FASTA file (and are not hidden, which coordinates do not show), windows by shared 80-mers."""
    data, store = config.data, corpus.store
    stretches = covered(corpus.intervals)
    parts, sites = evaluation_windows(data), {}
    files = [Path(path).resolve() for path in data.fasta]
    of_text = data.motif_fasta is not None and Path(data.motif_fasta).resolve() in files
    of_text &= data.hide != "evaluation"
    if of_text and data.motif_bed is not None and not data.motif_bed.endswith(".npz"):
        del parts["motif sites"]
        source = files.index(Path(data.motif_fasta).resolve())
        bed = read_bed(data.motif_bed)
        inside = {}
        for record in store.records:
            if record.source == source:
                mine = stretches[(stretches[:, 0] >= record.offset) & (stretches[:, 0] < record.offset + record.length)]
                inside[record.source_name] = mine - record.offset
        columns = (np.array([getattr(site, name) for site in bed]) for name in ("chrom", "start", "end"))
        sites["motif sites"] = sites_in_text(*columns, data.motif_window, inside)
    return overlap_report((store.ids[start:end] for start, end in stretches), parts, sites)

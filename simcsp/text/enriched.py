"""The corpus splice_enriched: windows drawn with odds raised by the score of a splice-site scorer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import maximum_filter1d

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.text.annotation import Intron
from simcsp.text.sampler import Intervals
from simcsp.text.sites import boundaries
from simcsp.text.species import (
    annotated_introns,
    by_source,
    join_intervals,
    need_annotation,
    source_shares,
    spans_of_source,
)
from simcsp.text.spliceai import spliceai_scorer
from simcsp.text.store import TokenStore, strand_ids
from simcsp.text.weight_matrix import SCORER_FLANK, fit_matrices, site_scores

Scorer = Callable[[str, bool], np.ndarray]
"""(record, reverse strand?) -> float32 [length + 1]: score of a splice site at each boundary of that strand.

Boundary i lies before base i: GT follows a donor's, AG precedes an acceptor's. -inf where there can be no site.
"""


def splice_enriched(data: DataConfig, store: TokenStore, seed: int) -> tuple[Intervals, np.ndarray, dict[str, object]]:
    """Every `stride`-th window, its odds raised by exp(enrichment x its best splice-site score).

    Returns the windows as intervals, the score [n] of each, and facts for the manifest.
    """
    parts, scores, sites = [], [], 0
    spans = [spans_of_source(store, data, number) for number in range(len(data.fasta))]
    shares = source_shares(np.array([sum(s.end - s.start for s in own) for own in spans], dtype=float))
    for number in range(len(data.fasta)):
        known = annotated_introns(store, data, number) if data.annotation else []
        sites += 2 * len(known)
        part, score = _score_windows(data, store, number, _build_scorer(data, store, known, seed))
        odds = np.exp(data.enrichment * (score - score.max()))
        parts.append(Intervals(part.start, part.length, part.minus, odds * shares[number] / odds.sum()))
        scores.append(score)
    intervals, score = join_intervals(parts), np.concatenate(scores)
    probability = intervals.odds / intervals.odds.sum()
    facts = {
        "scorer": data.scorer,
        "enrichment": data.enrichment,
        "shares": by_source(store, shares),
        "annotated_sites": sites,
        "mean_score": round(float(score.mean()), 4),
        "mean_score_drawn": round(float((score * probability).sum()), 4),
        "effective_windows": int(1 / (probability**2).sum()),  # Kish: as many equally likely windows
    }
    return intervals, score, facts


def _score_windows(data: DataConfig, store: TokenStore, number: int, scorer: Scorer) -> tuple[Intervals, np.ndarray]:
    """Windows of one source, on both strands or forward, with the best score of a site whose flanks lie in the window.

    A window without any candidate has the lowest score of all."""
    stride = data.stride or max(1, data.window // 4)
    flank = min(SCORER_FLANK, data.window // 4)
    starts, minus, scores = [], [], []
    for record, from_base, to_base in sorted(spans_of_source(store, data, number), key=lambda span: span.record.name):
        first = np.arange(from_base, to_base - data.window + 1, stride)
        if not len(first):
            continue
        for reverse in (False, True) if data.strands == "both" else (False,):
            at_boundary = scorer(record.name, reverse)
            span = data.window - 2 * flank + 1  # boundaries that a window at 0 holds: flank ... window - flank
            best = maximum_filter1d(at_boundary, span, mode="constant", cval=-np.inf)
            own = first if not reverse else record.length - data.window - first  # the same window seen from that strand
            scores.append(best[own + flank + span // 2])
            starts.append(record.offset + first)
            minus.append(np.full(len(first), reverse))
    if not scores:
        raise InputError(f"data.window ({data.window} nt) is longer than every record of {data.fasta[number]}")
    score = np.concatenate(scores).astype(np.float64)
    scored = np.isfinite(score)
    score[~scored] = score[scored].min()
    start = np.concatenate(starts)
    return Intervals(start, np.full(len(start), data.window), np.concatenate(minus), np.ones(len(start))), score


def _build_scorer(data: DataConfig, store: TokenStore, known: list[Intron], seed: int) -> Scorer:
    if data.scorer == "annotation":
        return _annotation_scorer(store, known)
    if data.scorer == "pwm":
        matrices = fit_matrices(store, known, seed)
        return lambda name, reverse: site_scores(strand_ids(store, name, reverse), matrices)
    odds = spliceai_scorer(store.path.parent)
    return lambda name, reverse: odds(strand_ids(store, name, reverse), f"{name} ({'-' if reverse else '+'})")


def _annotation_scorer(store: TokenStore, known: list[Intron]) -> Scorer:
    """1 at annotated sites and 0 elsewhere, so a window's score is 1 where it holds one."""
    if not known:
        raise InputError("data.annotation has no intron on the records to train on: nothing to enrich (data.scorer)")
    rows = np.concatenate(list(boundaries(store, known).values()))

    def score(name: str, reverse: bool) -> np.ndarray:
        scores = np.zeros(store.by_name[name].length + 1, dtype=np.float32)
        scores[rows[(rows[:, 0] == store.numbers[name]) & (rows[:, 1] == int(reverse)), 2]] = 1.0
        return scores

    return score


def fit_site_matrices(data: DataConfig, store: TokenStore, seed: int) -> dict[str, np.ndarray]:
    """`fit_matrices` on all annotation of a config together, for masking around likely sites."""
    need_annotation(data)
    known = [intron for number in range(len(data.fasta)) for intron in annotated_introns(store, data, number)]
    return fit_matrices(store, known, seed)

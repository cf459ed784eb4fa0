"""What a masked-language model says of variants without being trained on any: SpliceBERT's three scores (Chen et al.,
Briefings in Bioinformatics 25, bbae163, 2024), and what its hidden states know beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from transformers import BertForMaskedLM

from simcsp.core.errors import InputError
from simcsp.labels.variants import Variants
from simcsp.metrics.proxies import fit_logistic
from simcsp.metrics.scores import ap_interval
from simcsp.model.bases import Labeller
from simcsp.model.embedding import token_batches
from simcsp.model.encoder import hidden_states
from simcsp.text.alphabet import MASK, A, N, T

REACH = 100
"""nt on either side of a variant that the score by distance looks at."""
SMALLEST_KL = 1e-6
FOLDS = 5  # of the probe, by exon
_CONSTRUCTS = 32  # wild types at a time, with all their variants
_NEAR_SITE = 20  # nt from an exon's ends that the floor tells apart


@dataclass(frozen=True)
class VariantScores:
    """Of n variants.

    dp: float [n], P(alt) - P(ref) where the base is masked, of a softmax over the whole vocabulary. site_kl: float [n],
    mean KL of the donor's two bases plus that of the acceptor's. near_kl: float [n, 2 REACH + 1], KL by offset from the
    variant, NaN beyond the sequence. states: float16 [n, 6 hidden], the last hidden states of the wild type at the
    acceptor's two bases (mean), the donor's and the variant, and what the mutant's differ from them.
    """

    dp: np.ndarray
    site_kl: np.ndarray
    near_kl: np.ndarray
    states: np.ndarray

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The three scores as the paper ranks by them, larger for a larger effect."""
        return {"-dP": -self.dp, "KL at sites": self.site_kl, "KL by distance": distance_score(self.near_kl)}


def kl_divergence(ref: np.ndarray, alt: np.ndarray) -> np.ndarray:
    """sum over the last axis of alt ln(alt / ref), of probabilities [..., 4]."""
    return (alt * np.log(alt / ref)).sum(axis=-1)


def distance_score(near_kl: np.ndarray) -> np.ndarray:
    """float [n]: ln(max(1e-6, mean of both sides)) summed over 1 to REACH nt, of KL by offset [n, 2 REACH + 1].

    The paper's windows hold both sides always. In shorter ones a side that is missing leaves the mean to the other, and
    the sum is that of the distances that are there, scaled to REACH of them.
    """
    both = np.stack([near_kl[:, REACH - 1 :: -1], near_kl[:, REACH + 1 :]])
    known = np.isfinite(both)
    mean = np.where(known, both, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    there = known.any(axis=0)
    logs = np.where(there, np.log(np.maximum(mean, SMALLEST_KL)), 0)
    return logs.sum(axis=1) / np.maximum(there.sum(axis=1), 1) * REACH


@torch.no_grad()
def score_variants(
    model: BertForMaskedLM, variants: Variants, batch_size: int, advance: Callable[[int], object] = lambda count: None
) -> VariantScores:
    """All scores from one pass a mutant, one a wild type and one a masked base: the two last are shared by variants.

    In float32 whatever the precision: KL is a difference of near equals, and bfloat16 drowns it (correlation with
    float32 .78 at the sites of a model of SpliceBERT's shape). Sequences of one length share a batch. A site outside
    its sequence has no part in site_kl. advance: called with the number of variants done.
    """
    model.eval()
    n, hidden = len(variants), model.config.hidden_size
    dp, site_kl = np.zeros(n), np.zeros(n)
    near_kl = np.full((n, 2 * REACH + 1), np.nan, dtype=np.float32)
    vectors = np.zeros((n, 6 * hidden), dtype=np.float16)
    for index, row_of, wild, mutants in _groups(variants):
        probabilities, states, _ = _encode(model, wild, batch_size)
        offset, exon = variants.offset[index], variants.exon[index]
        places, of_place = np.unique(np.stack([row_of, offset], axis=1), axis=0, return_inverse=True)
        masked = wild[places[:, 0]]
        masked[np.arange(len(places)), places[:, 1]] = MASK
        vocabulary = _encode(model, masked, batch_size, places[:, 1])[2][of_place.ravel()]
        rows, ref = np.arange(len(index)), wild[row_of, offset]
        dp[index] = vocabulary[rows, variants.alt[index]] - vocabulary[rows, ref]
        for at in range(0, len(index), batch_size):
            some = slice(at, at + batch_size)
            mutated, mutated_states, _ = _encode(model, mutants[some], batch_size)
            kl = kl_divergence(probabilities[row_of[some]], mutated)
            site_kl[index[some]] = _at_sites(kl[..., None], exon[some]).sum(axis=1)[:, 0]
            near_kl[index[some]] = _about(kl, offset[some])
            before, after = (
                np.concatenate([_at_sites(of, exon[some]), of[np.arange(len(of)), None, offset[some]]], axis=1)
                for of in (states[row_of[some]], mutated_states)
            )
            vectors[index[some]] = np.concatenate([before, after - before], axis=1).reshape(len(kl), -1)
            advance(len(kl))
    return VariantScores(dp, site_kl, near_kl, vectors)


def _groups(variants: Variants) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Of some sequences of one length at a time: indices of their variants [m], the row of each in the wild types
    uint8 [k, length], these, and the mutants uint8 [m, length]."""
    lengths = np.array([len(ids) for ids in variants.sequences])
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for at in range(0, len(alike), _CONSTRUCTS):
            numbers = alike[at : at + _CONSTRUCTS]
            if len(index := np.flatnonzero(np.isin(variants.of_sequence, numbers))):
                row_of = np.searchsorted(numbers, variants.of_sequence[index])
                wild = np.stack([variants.sequences[number] for number in numbers])
                mutants = wild[row_of]
                mutants[np.arange(len(index)), variants.offset[index]] = variants.alt[index]
                yield index, row_of, wild, mutants


def _encode(
    model: BertForMaskedLM, ids: np.ndarray, batch_size: int, places: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """P(A, C, G, T) float64 [n, length, 4], last hidden states float32 [n, length, hidden], and P of the whole
    vocabulary [n, 10] at places [n] (None without), of sequences uint8 [n, length]."""
    parts, start = [], 0
    for tokens in token_batches(ids, batch_size, model.device):
        states = hidden_states(model.bert, tokens)[:, 1:-1]
        logits = model.cls(states).double()
        if places is None:
            parts.append((logits[..., A : T + 1].softmax(dim=-1), states))
        else:
            at = torch.from_numpy(places[start : start + len(tokens)]).to(logits.device)
            parts.append((logits[torch.arange(len(at)), at].softmax(dim=-1),))
            start += len(tokens)
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts)]
    return (*columns, None) if places is None else (None, None, columns[0])


@torch.no_grad()
def label_changes(
    labeller: Labeller, variants: Variants, batch_size: int, advance: Callable[[int], object] = lambda count: None
) -> np.ndarray:
    """What a model of every base says of n variants in their sequences, N about them: float32 [n, 6], the largest gain
    and loss of P of an acceptor, and of a donor, at any base (SpliceAI's four delta scores), and the change of the
    log-odds of the exon's own acceptor and donor (0 where they lie outside)."""
    out = np.zeros((len(variants), 6), dtype=np.float32)
    for index, row_of, wild, mutants in _groups(variants):
        before = _log_odds(labeller, wild, batch_size)
        for at in range(0, len(index), batch_size):
            some = slice(at, at + batch_size)
            pair = before[row_of[some]], _log_odds(labeller, mutants[some], batch_size)
            change = np.subtract(*map(labeller.probabilities, pair[::-1]))
            out[index[some], :4] = np.stack([change.max(axis=1), -change.min(axis=1)], axis=2).reshape(-1, 4)
            exon = variants.exon[index[some]] - [0, 1]  # the exon's bases of acceptor and donor
            for column, place in enumerate(exon.T):
                inside = np.flatnonzero((place >= 0) & (place < wild.shape[1]))
                odds = [one[inside, place[inside], column] for one in pair]
                out[index[some][inside], 4 + column] = odds[1] - odds[0]
            advance(len(change))
    return out


def _log_odds(labeller: Labeller, sequences: np.ndarray, batch_size: int) -> np.ndarray:
    """Log-odds float32 [n, length, 2] of acceptor and donor in sequences uint8 [n, length] with N about them."""
    (count, length), shape = sequences.shape, labeller.model.shape
    ids = np.full((count, 2 * shape.flank + -(-length // shape.step) * shape.step), N, dtype=np.uint8)
    inside = slice(shape.flank, shape.flank + length)
    ids[:, inside] = sequences
    parts = [labeller.log_odds(ids[at : at + batch_size])[:, inside] for at in range(0, count, batch_size)]
    return np.concatenate(parts)


def _at_sites(values: np.ndarray, exon: np.ndarray) -> np.ndarray:
    """[n, 2, width]: means of values [n, length, width] at the acceptor's and the donor's two bases; 0 outside."""
    out = np.zeros((len(values), 2, values.shape[-1]))
    for row, (start, end) in enumerate(exon.tolist()):
        for site, (first, last) in enumerate(((start - 2, start), (end, end + 2))):
            if 0 <= first and last <= values.shape[1]:
                out[row, site] = values[row, first:last].mean(axis=0)
    return out


def _about(kl: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """[n, 2 REACH + 1]: KL [n, length] by distance from each variant, NaN beyond the sequence."""
    padded = np.pad(kl, ((0, 0), (REACH, REACH)), constant_values=np.nan)
    return padded[np.arange(len(kl))[:, None], offset[:, None] + np.arange(2 * REACH + 1)]


# -- rows of the table -------------------------------------------------------------------------------------------------


def precision_row(metric: str, variants: Variants, scores: np.ndarray, seed: int, floor: float | None = None) -> dict:
    """Average precision of scores [n] with its bootstrap over exons; floor: the prevalence unless another is given."""
    floor = variants.positive.mean() if floor is None else floor
    value = float(average_precision_score(variants.positive, scores))
    row = {"metric": metric, "n": len(scores), "value": value, "floor": float(floor)}
    return row | ap_interval(variants.positive, scores, variants.group, seed)


def zero_shot_rows(variants: Variants, scores: dict[str, np.ndarray], seed: int) -> list[dict]:
    """Counts, average precision of each score with and without splice dinucleotides, and the positives' mean rank.

    The floor of a score is how near the variant is to the nearer of the two sites.
    """
    outside, near = ~variants.in_dinucleotide, nearness(variants)
    rows = []
    for suffix, chosen in (("", np.ones(len(variants), dtype=bool)), (", without splice dinucleotides", outside)):
        some = variants.take(chosen)
        rows.append({"metric": f"positives{suffix}", "n": len(some), "value": int(some.positive.sum())})
        for name, values in scores.items() if some.positive.any() else ():
            floor = average_precision_score(some.positive, near[chosen])
            rows.append(precision_row(f"AP of {name}{suffix}", some, values[chosen], seed, floor))
    if (by_distance := scores.get("KL by distance")) is not None:
        ranks = rankdata(by_distance) / len(variants)
        mean, of_others = (float(ranks[chosen].mean()) for chosen in (variants.positive, ~variants.positive))
        what = "mean rank of positives by KL by distance"
        rows.append({"metric": what, "n": len(variants), "value": mean, "floor": of_others})
    return rows


def label_rows(variants: Variants, changes: np.ndarray, seed: int) -> list[dict]:
    """Average precision of `label_changes`: the largest of the four delta scores, which is not fitted to any variant,
    and a logistic regression on all six in the fold that held the exon out; floors as of the other scores."""
    outside, near = ~variants.in_dinucleotide, nearness(variants)
    delta = changes[:, :4].max(axis=1)
    rows = [{"metric": "positives", "n": len(variants), "value": int(variants.positive.sum())}]
    for suffix, chosen in (("", np.ones(len(variants), dtype=bool)), (", without splice dinucleotides", outside)):
        some = variants.take(chosen)
        if some.positive.any():
            floor = average_precision_score(some.positive, near[chosen])
            rows.append(precision_row(f"AP of delta score{suffix}", some, delta[chosen], seed, floor))
    own, places = (probe(of, variants.positive, variants.group) for of in (changes, place_features(variants)))
    floor = average_precision_score(variants.positive, places)
    rows.append(precision_row("AP of a fit on the changes, folds by exon", variants, own, seed, floor))
    return rows


def nearness(variants: Variants) -> np.ndarray:
    """float [n]: minus the distance to the middle of the nearer site's two bases of the intron."""
    start, end = variants.exon.T
    return -np.minimum(np.abs(variants.offset - start + 1.5), np.abs(variants.offset - end - 0.5))


def place_features(variants: Variants) -> np.ndarray:
    """bool [n, features]: distance to either end of the exon within 20 nt one by one, in the exon or not, which base
    becomes which: what a probe knows without any model."""
    start, end = variants.exon.T
    ref = np.array([variants.sequences[i][at] for i, at in zip(variants.of_sequence, variants.offset)], dtype=int)
    near = [np.clip(variants.offset - edge, -_NEAR_SITE - 1, _NEAR_SITE + 1) for edge in (start, end)]
    columns = [distance[:, None] == np.arange(-_NEAR_SITE - 1, _NEAR_SITE + 2) for distance in near]
    inside = (variants.offset >= start) & (variants.offset < end)
    change = 4 * (ref - A) + variants.alt - A
    return np.hstack([*columns, inside[:, None], change[:, None] == np.arange(16)])


def probe(features: np.ndarray, positive: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Log-odds [n] of a logistic regression on standardised features, each from the fold in which its exon was held
    out. Raises InputError where a fold's training exons are too few to have variants of both kinds."""
    odds, labels = np.zeros(len(features)), positive.astype(int)
    exons, of_positives = (len(np.unique(names)) for names in (group, group[positive]))
    if exons < FOLDS:
        raise InputError(f"a probe of variants with {FOLDS} folds by exon: there are {exons} exons")
    for train, test in GroupKFold(FOLDS).split(features, labels, group):
        if len(np.unique(labels[train])) < 2:
            raise InputError(
                f"a probe of variants with {FOLDS} folds by exon: {of_positives} of {exons} exons hold a variant that "
                "disrupts splicing, too few for every fold"
            )
        model = fit_logistic(features[train].astype(np.float32), labels[train], 0.001)
        odds[test] = model.decision_function(features[test].astype(np.float32))
    return odds

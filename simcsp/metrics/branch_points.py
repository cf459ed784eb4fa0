"""Branch points of Mercer et al. (Genome Research 25, 290, 2015) as SpliceBERT's paper asks for them: each base 18 to
44 nt before an acceptor, in windows about that region, held out by chromosome; and those of other introns, outside.

Two models are asked: a logistic regression on frozen states, which says what pre-training alone knows, and the encoder
fine-tuned (simcsp/training/branch_points.py), as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from simcsp.core.errors import InputError
from simcsp.core.files import read_table
from simcsp.labels.placed import Placed
from simcsp.metrics.conservation import one_hot_bases
from simcsp.metrics.proxies import fit_logistic
from simcsp.metrics.scores import ap_interval
from simcsp.text.alphabet import A, N, encode
from simcsp.text.kmers import shared_windows
from simcsp.text.reading import open_binary
from simcsp.text.weight_matrix import PSEUDOCOUNT

FIRST, LAST = 18, 44
"""nt before the acceptor, between which the candidates lie."""
WIDTH = LAST - FIRST + 1
IGNORED = -100  # a base that some evidence calls a branch point, but not with high confidence
FOLDS = 5
FEWEST_A = 0.5  # of branch points; any shift of the coordinates leaves a fifth or so
_REACH = 10  # nt on either side that the floors see


@dataclass(frozen=True)
class BranchRegions:
    """n regions. ids: uint8 [n, length], windows on the transcript's strand; start: where the candidate farthest from
    the acceptor lies in all of them; labels: int [n, 27] of 1, 0 and IGNORED, the farthest first; gene, chrom."""

    ids: np.ndarray
    start: int
    labels: np.ndarray
    gene: np.ndarray
    chrom: np.ndarray

    @property
    def folds(self) -> np.ndarray:
        """int [n], the fold in which each is held out: by chromosome where there are five, else by gene."""
        group = self.chrom if len(np.unique(self.chrom)) >= FOLDS else self.gene
        fold = np.zeros(len(group), dtype=int)
        for number, (_, test) in enumerate(GroupKFold(FOLDS).split(group, groups=group)):
            fold[test] = number
        return fold

    @property
    def inside(self) -> slice:
        """The candidates' places in a window."""
        return slice(self.start, self.start + WIDTH)


def region_start(length: int) -> int:
    """Where the candidates of a window of `length` nt begin: they are its middle."""
    return length // 2 - WIDTH // 2


def read_branch_points(path: Path, places: Placed, length: int) -> BranchRegions:
    """The regions of SpliceBERT's BED with a high-confidence branch point that lie in a known stretch of the genome.

    Columns chrom, start, end, name, labels (comma-separated, in the order of the forward strand), strand. A region cut
    short by its intron's donor is filled with IGNORED on that side, as published. Raises InputError with the line,
    and for a file of another build than the genome, by how many branch points are A.
    """
    start = region_start(length)
    rows = []
    with open_binary(path) as handle:
        for number, line in enumerate(handle, start=1):
            try:
                chrom, first, end, _, told, strand = line.decode("utf-8", "replace").rstrip("\n").split("\t")[:6]
                labels, first, end = [int(word) for word in told.split(",")], int(first), int(end)
            except ValueError:
                raise InputError(f"{path}, line {number}: no region of branch points in BED with its labels") from None
            if len(labels) != end - first or not set(labels) <= {0, 1, IGNORED} or len(labels) > WIDTH:
                raise InputError(f"{path}, line {number}: {len(labels)} labels of a region of {end - first} nt")
            if 1 not in labels:
                continue
            labels = labels if strand == "+" else labels[::-1]
            labels = [IGNORED] * (WIDTH - len(labels)) + labels
            left = end - WIDTH - start if strand == "+" else first + WIDTH + start - length
            known = places.fetch(chrom, left, left + length, strand)
            if known is not None and not (known[0] == N).any():
                rows.append((known[0], labels, known[1], chrom))
    if not rows:
        raise InputError(f"{path}: no region with a branch point lies in the genome that is here")
    ids, labels, gene, chrom = map(np.array, zip(*rows))
    share = float((ids[:, start : start + WIDTH][labels == 1] == A).mean())
    if share < FEWEST_A:
        raise InputError(
            f"{path}: {share:.0%} of its branch points are A in the genome that is here, of human ones four in five: "
            "the file is of another build"
        )
    return BranchRegions(ids, start, labels, gene, chrom)


def read_introns(path: Path, length: int, known: BranchRegions) -> BranchRegions:
    """Branch points of whole introns (BPP: Zhang et al., Bioinformatics 33, 3166, 2017), N where their exons are not
    told; introns that share 80 nt with `known`, or have no branch point among the candidates, are left out.

    Columns gene, chrom, sequence (of the intron) and bp_index0 (comma-separated, from 0). Raises InputError with the
    line.
    """
    start, rows = region_start(length), []
    table = read_table(path, ["gene", "chrom", "sequence", "bp_index0"], sep="\t")
    for line, row in enumerate(table.itertuples(), start=2):
        intron = encode(row.sequence, f"{path}, line {line}")
        points = [word for word in str(row.bp_index0).split(",") if word.isdigit() and int(word) < len(intron)]
        if not points or len(intron) < LAST:
            raise InputError(f"{path}, line {line}: no branch point in its sequence, or one shorter than {LAST} nt")
        labels = np.zeros(WIDTH, dtype=int)
        from_first = np.array([int(word) for word in points]) - (len(intron) - LAST)
        labels[from_first[(from_first >= 0) & (from_first < WIDTH)]] = 1
        ids = np.full(length, N, dtype=np.uint8)
        end = min(start + LAST, length)  # where the exon begins
        taken = min(start + LAST, len(intron))
        ids[start + LAST - taken : end] = intron[len(intron) - taken :][: end - (start + LAST - taken)]
        rows.append((ids, labels, row.gene, row.chrom))
    ids, labels, gene, chrom = map(np.array, zip(*rows))
    kept = labels.any(axis=1) & ~shared_windows(ids, known.ids)
    return BranchRegions(ids[kept], start, labels[kept], gene[kept], chrom[kept])


# -- what is no encoder, and a probe of one ----------------------------------------------------------------------------


def letters(regions: BranchRegions) -> np.ndarray:
    """bool [n, 27, features]: the letters within 10 nt of each candidate, and its distance to the acceptor."""
    place = np.broadcast_to(np.eye(WIDTH, dtype=bool), (len(regions.ids), WIDTH, WIDTH))
    return np.concatenate([one_hot_bases(regions.ids, _REACH)[:, regions.inside], place], axis=2)


def weight_matrix_chances(
    features: np.ndarray, labels: np.ndarray, fold: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(branch point) [n, 27] of `letters` from the fold that held each region out, and of those outside from all: a
    position weight matrix and the frequency of each distance, by Bayes' rule, with a pseudocount of 1."""

    def predict(rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
        log_odds = 0.0
        for sign, label in ((1, 1), (-1, 0)):
            members = features[rows][labels[rows] == label]
            counts = members.sum(axis=0) + PSEUDOCOUNT
            matrix, distances = counts[:-WIDTH].reshape(-1, 4), counts[-WIDTH:]
            shares = [(matrix / matrix.sum(axis=1, keepdims=True)).ravel(), distances / distances.sum()]
            log_odds = log_odds + sign * (asked @ np.log(np.concatenate(shares)) + np.log(len(members)))
        return expit(log_odds)

    return _held_out(predict, features, fold, outside)


def logistic_chances(
    features: np.ndarray, labels: np.ndarray, fold: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(branch point) [n, 27] of a logistic regression on features [n, 27, any] from the fold that held each region
    out, and of the regions outside from all."""

    def predict(rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
        known = labels[rows] != IGNORED
        model = fit_logistic(features[rows][known].astype(np.float32), labels[rows][known], 0.01)
        flat = asked.reshape(-1, asked.shape[-1]).astype(np.float32)
        return model.predict_proba(flat)[:, 1].reshape(-1, WIDTH)

    return _held_out(predict, features, fold, outside)


def _held_out(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray], features: np.ndarray, fold: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `predict`, of the regions to learn from (bool [n]) and the features to ask about, gives for each region by
    the other folds, and for those outside by all."""
    chances = np.zeros((len(fold), WIDTH))
    for number in range(FOLDS):
        chances[fold == number] = predict(fold != number, features[fold == number])
    return chances, predict(fold >= 0, outside) if len(outside) else np.zeros((0, WIDTH))


# -- rows of the table -------------------------------------------------------------------------------------------------


def branch_point_rows(
    regions: BranchRegions, chances: dict[str, np.ndarray], floor: np.ndarray, seed: int
) -> list[dict]:
    """AP, AUC and F1 at .5 of each model over all candidates that are not IGNORED; intervals of AP over genes.

    chances: {model: P [n, 27]}; floor: P [n, 27] of what is no model.
    """
    asked = regions.labels != IGNORED
    labels, n = regions.labels[asked], int(asked.sum())
    gene = np.repeat(regions.gene, WIDTH).reshape(asked.shape)[asked]
    rows = [{"metric": "branch points", "n": n, "value": int(labels.sum())}]
    scores = {"AP": average_precision_score, "AUC": roc_auc_score, "F1": lambda truth, p: f1_score(truth, p > 0.5)}
    for name, values in chances.items():
        intervals = {"AP": ap_interval(labels, values[asked], gene, seed)}
        for metric, score in scores.items():
            value, of_floor = (float(score(labels, one[asked])) for one in (values, floor))
            row = {"metric": f"{metric}, {name}", "n": n, "value": value, "floor": of_floor}
            rows.append(row | intervals.get(metric, {}))
    return rows

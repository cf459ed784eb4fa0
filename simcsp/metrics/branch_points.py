"""Branch points of Mercer et al. (Genome Research 25, 290, 2015) as SpliceBERT's paper asks for them: each base 18 to
44 nt before an acceptor, in windows about that region. The paper fine-tunes the encoder; here a logistic regression
reads its frozen states, so that the numbers say what pre-training alone knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from simcsp.core.errors import InputError
from simcsp.labels.placed import Placed
from simcsp.metrics.conservation import one_hot_bases
from simcsp.metrics.scores import ap_interval, score_against
from simcsp.text.alphabet import A, N
from simcsp.text.reading import open_binary

FIRST, LAST = 18, 44
"""nt before the acceptor, between which the candidates lie."""
IGNORED = -100  # a base that some evidence calls a branch point, but not with high confidence
FOLDS = 5
FEWEST_A = 0.5  # of branch points; any shift of the coordinates leaves a fifth or so
_REACH = 10  # nt on either side that the floor sees


@dataclass(frozen=True)
class BranchRegions:
    """n regions. ids: uint8 [n, length], windows on the transcript's strand; start: where the candidate farthest from
    the acceptor lies in all of them; labels: int [n, 27] of 1, 0 and IGNORED, the farthest first; gene, chrom."""

    ids: np.ndarray
    start: int
    labels: np.ndarray
    gene: np.ndarray
    chrom: np.ndarray


def read_branch_points(path: Path, places: Placed, length: int) -> BranchRegions:
    """The regions of SpliceBERT's BED with a high-confidence branch point that lie in a known stretch of the genome.

    Columns chrom, start, end, name, labels (comma-separated, in the order of the forward strand), strand. A region cut
    short by its intron's donor is filled with IGNORED on that side, as published. Raises InputError with the line,
    and for a file of another build than the genome, by how many branch points are A.
    """
    width = LAST - FIRST + 1
    start = length // 2 - width // 2
    rows = []
    with open_binary(path) as handle:
        for number, line in enumerate(handle, start=1):
            try:
                chrom, first, end, _, told, strand = line.decode("utf-8", "replace").rstrip("\n").split("\t")[:6]
                labels, first, end = [int(word) for word in told.split(",")], int(first), int(end)
            except ValueError:
                raise InputError(f"{path}, line {number}: no region of branch points in BED with its labels") from None
            if len(labels) != end - first or not set(labels) <= {0, 1, IGNORED} or len(labels) > width:
                raise InputError(f"{path}, line {number}: {len(labels)} labels of a region of {end - first} nt")
            if 1 not in labels:
                continue
            labels = labels if strand == "+" else labels[::-1]
            labels = [IGNORED] * (width - len(labels)) + labels
            left = end - width - start if strand == "+" else first + width + start - length
            known = places.fetch(chrom, left, left + length, strand)
            if known is not None and not (known[0] == N).any():
                rows.append((known[0], labels, known[1], chrom))
    if not rows:
        raise InputError(f"{path}: no region with a branch point lies in the genome that is here")
    ids, labels, gene, chrom = map(np.array, zip(*rows))
    share = float((ids[:, start : start + width][labels == 1] == A).mean())
    if share < FEWEST_A:
        raise InputError(
            f"{path}: {share:.0%} of its branch points are A in the genome that is here, of human ones four in five: "
            "the file is of another build"
        )
    return BranchRegions(ids, start, labels, gene, chrom)


def branch_point_rows(regions: BranchRegions, states: np.ndarray, seed: int) -> list[dict]:
    """AP, AUC and F1 at .5 over all candidates, each scored by the fold in which its chromosome (where there are five
    of them, else its gene) was held out; intervals over genes.

    states: [n, length, hidden]. Floor: the letters within 10 nt and the distance to the acceptor.
    """
    width = regions.labels.shape[1]
    inside = slice(regions.start, regions.start + width)
    place = np.broadcast_to(np.eye(width), (len(regions.ids), width, width))
    floor = np.concatenate([one_hot_bases(regions.ids, _REACH)[:, inside], place], axis=2)
    groups = regions.chrom if len(np.unique(regions.chrom)) >= FOLDS else regions.gene
    asked = regions.labels != IGNORED
    labels = regions.labels[asked]
    group, gene = (np.repeat(one, width).reshape(asked.shape)[asked] for one in (groups, regions.gene))
    chances = [_held_out(of[asked], labels, group) for of in (states[:, inside], floor)]
    ap, floor_ap = (score_against(labels, one)["ap"] for one in chances)
    low, high = ap_interval(labels, chances[0], gene, seed) or (None, None)
    n = len(labels)
    rows = [{"metric": "AP of a probe", "n": n, "value": ap, "low": low, "high": high, "floor": floor_ap}]
    auc, floor_auc = (float(roc_auc_score(labels, one)) for one in chances)
    f1, floor_f1 = (float(f1_score(labels, one > 0.5)) for one in chances)
    rows.append({"metric": "AUC of a probe", "n": n, "value": auc, "floor": floor_auc})
    rows.append({"metric": "F1 of a probe", "n": n, "value": f1, "floor": floor_f1})
    return [{"metric": "branch points", "n": n, "value": int(labels.sum())}, *rows]


def _held_out(features: np.ndarray, labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """P(branch point) [n] from the fold in which each group was held out."""
    chances = np.zeros(len(labels))
    for train, test in GroupKFold(FOLDS).split(features, labels, group):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(features[train].astype(np.float32), labels[train])
        chances[test] = model.predict_proba(features[test].astype(np.float32))[:, 1]
    return chances

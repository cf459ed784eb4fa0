#!/usr/bin/env python
"""Our model of bases beside SpliceAI's networks (Jaganathan et al. 2019) on one genome with its annotation.

    pip install spliceai keras          # models CC BY-NC 4.0: whoever compares installs them, they are no part of this
    KERAS_BACKEND=torch python benchmarks/spliceai.py scan GENOME.fa[.gz] ANNOTATION [--networks 1 2 3 4 5]
        [--model models/simcsp-small-bases] [--forward] [--every 1] [--windows data/windows/genes] [--snap mam54.hmm]
    KERAS_BACKEND=torch python benchmarks/spliceai.py variants GENOME.fa[.gz] ANNOTATION [--number 50] [--table FILE]

scan: every base of both strands is labelled by either side, 100 kb at a time and in turns. One table: average precision
over all bases and over GT and AG, top-k, recall at 10 % false discovery, Mb a minute by processor and by wall (median
of the turns), context and parameters; then our AP by class of site (of a GTF or GFF3), against all that is no site, and
how far our P can be believed. --forward: records are genes on their strand (data/genes), and that strand alone counts,
which is SpliceAI's own measure; --every N: every N-th record, from the first on. --windows: Spliceator's layout, to fit
the weight matrix on; --snap: a model file of Debian's `snap` (Korf 2004, MIT), whose weight arrays score GT and AG.
variants: single-base changes and indels made at annotated sites; largest gain and loss and where: ours as predict --vcf
writes them, SpliceAI's on the site's strand, as its own program does (distance 50, unmasked, mean of networks).

SpliceAI reads 5,000 nt on either side, N beyond the record. Set OMP_NUM_THREADS=1 for a speed per core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds utils/ beside its folder

from benchmarks.site_classes import site_classes
from simcsp.core.config import BasesConfig
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.genome.effects import Effects, Row
from simcsp.labels.bases import LABEL, Genome, read_genome
from simcsp.labels.spliceator import load_training
from simcsp.metrics.scores import score_against
from simcsp.model.bases import IDENTITY, TYPES, Labeller, load_bases, padded
from simcsp.model.fast_blocks import for_prediction
from simcsp.text.alphabet import A, N, decode, encode, reverse_complement
from simcsp.text.sites import motif_boundaries
from simcsp.text.spliceai import CONTEXT, SpliceAI
from simcsp.text.store import strand_ids
from simcsp.text.weight_matrix import SCORER_FLANK, WeightMatrix, site_scores
from utils.script import run_script

ROOT = Path(__file__).resolve().parent.parent
PIECE = 100_000  # nt of a turn
BINS = (0.01, 0.05, 0.2, 0.5, 0.8)
DISTANCE = 50  # nt on either side of a variant in which changes are looked for
LETTERS = "ACGT"
Scorer = Callable[[np.ndarray, str], np.ndarray]


class Networks(SpliceAI):
    """SpliceAI's side."""

    def scan(self, genome: Genome, name: str, start: int, end: int, strands: int) -> np.ndarray:
        """Log-odds float32 [strands, bases, 2 types] of a stretch, on the forward strand's bases."""
        ids = padded(genome.store, genome.store.by_name[name], start - CONTEXT, end + CONTEXT)
        p = np.stack([self.chances(ids), *([self.chances(reverse_complement(ids))[::-1]] if strands == 2 else [])])
        return np.log(p[..., 1:] + 1e-30) - np.log(p[..., :1] + 1e-30)


class Ours:
    """A model of bases as predict runs it."""

    def __init__(self, folder: Path, precision: str) -> None:
        accelerator = build_accelerator("auto", precision)
        model, calibration = load_bases(folder)
        fastest = for_prediction(model, accelerator)
        self.labeller = Labeller(fastest, calibration, accelerator.device, accelerator.autocast)
        self.name, self.context = folder.name, model.shape.reach
        self.parameters = sum(weights.numel() for weights in model.parameters())

    def scan(self, genome: Genome, name: str, start: int, end: int, strands: int) -> np.ndarray:
        """As SpliceAI's; start must lie on the grid of chunks."""
        record, chunk = genome.store.by_name[name], self.labeller.chunk
        numbers = range(start // chunk, -(-end // chunk))
        forward = strands == 1
        return np.concatenate([self.labeller.chunk_odds(genome.store, record, k, forward) for k in numbers], axis=1)


# -- a whole genome ----------------------------------------------------------------------------------------------------


def compare_scan(asked: argparse.Namespace, genome: Genome) -> None:
    """The table of scan."""
    sides = [Ours(asked.model, asked.precision)] + ([Networks(asked.networks)] if asked.networks else [])
    chunk = sides[0].labeller.chunk
    piece = max(1, PIECE // chunk) * chunk
    pieces: dict[str, list[np.ndarray]] = {side.name: [] for side in sides}
    speeds: dict[str, list[tuple[float, ...]]] = {side.name: [] for side in sides}
    labels, candidates, unknown, floors = [], [], [], {}
    strands, records = 1 if asked.forward else 2, genome.store.records[:: asked.every]
    for record in records:
        for turn, start in enumerate(range(0, record.length, piece)):
            end = min(start + piece, record.length)
            for side in sides[:: 1 if turn % 2 else -1]:
                scores_of_piece, spent = timed_scan(side, genome, record.name, start, end, strands)
                pieces[side.name].append(scores_of_piece)
                speeds[side.name].append((end - start, *spent))
            print(f"{record.name} {end:,} of {record.length:,}", file=sys.stderr, flush=True)
        labels.append(record_labels(genome, record.name)[:strands])
        candidates.append(record_candidates(genome, record.name)[:strands])
        unknown.append(genome.store.fetch(record.name, 0, record.length) == N)
        for name, score in floor_scorers(asked).items():
            floors.setdefault(name, []).append(score_record(genome, record.name, score)[:strands])
    truth, motifs = np.concatenate(labels, axis=1), np.concatenate(candidates, axis=1)
    known = ~np.concatenate(unknown)
    every_odds = {name: np.concatenate(parts, axis=1) for name, parts in pieces.items()}
    show_sides(sides, every_odds, speeds, truth, known, motifs)
    show_floors(floors, truth, known, motifs)
    counts = [(motifs[..., k] & known, motifs[..., k] & known & (truth == k + 1)) for k in (1, 0)]
    print(
        "donor / acceptor; "
        + "; ".join(f"{sites.sum():,} sites of {all_.sum():,} candidates" for all_, sites in counts)
    )
    odds = every_odds[sides[0].name]
    show_classes(asked, genome, [record.name for record in records], odds, truth, known)
    show_reliability(sides[0].labeller, odds, truth, known)


def timed_scan(
    side: Ours | Networks, genome: Genome, name: str, start: int, end: int, strands: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """(scores of a stretch, its seconds of processor time and by the wall)."""
    wall, cpu = time.perf_counter(), time.process_time()
    odds = side.scan(genome, name, start, end, strands)
    return odds, (time.process_time() - cpu, time.perf_counter() - wall)


def show_sides(
    sides: list[Ours | Networks],
    every_odds: dict[str, np.ndarray],
    speeds: dict[str, list[tuple[float, ...]]],
    truth: np.ndarray,
    known: np.ndarray,
    motifs: np.ndarray,
) -> None:
    """A row for each model: scores of all bases and of the candidates, speed as the median over pieces."""
    print("| | parameters | context | AP, all bases | AP, GT / AG | top-k | recall | Mb a minute, CPU | by the wall |")
    print("|---|---|---|---|---|---|---|---|---|")
    for side in sides:
        odds = every_odds[side.name]
        everywhere, among = scores(odds, truth, known), scores(odds, truth, known, motifs)
        bases, *seconds = np.array(speeds[side.name]).T
        rates = [f"{np.median(60 * bases / 1e6 / spent):.2f}" for spent in seconds]
        cells = [f"{side.parameters:,}", f"{side.context:,}", pair(everywhere, "ap")]
        cells += [pair(among, key) for key in ("ap", "topk", "recall")] + rates
        print(f"| {side.name} | {' | '.join(cells)} |", flush=True)


def show_floors(floors: dict[str, list[np.ndarray]], truth: np.ndarray, known: np.ndarray, motifs: np.ndarray) -> None:
    """A row for each floor, of the candidates alone."""
    for name, rows in floors.items():
        among = scores(np.concatenate(rows, axis=1), truth, known, motifs)
        print(f"| {name} | | | | {' | '.join(pair(among, key) for key in ('ap', 'topk', 'recall'))} | | |")


def show_classes(
    asked: argparse.Namespace, genome: Genome, names: list[str], odds: np.ndarray, truth: np.ndarray, known: np.ndarray
) -> None:
    """AP by class of site, of 20 sites and more, against all that is no site. odds: [strands, n, 2]; truth alike."""
    try:
        groups = site_classes(asked.annotation, genome.store)
    except InputError as error:  # a table of introns says nothing of transcripts
        print(f"no AP by class of site: {error}")
        return
    lengths = [genome.store.by_name[name].length for name in names]
    starts = dict(zip(names, np.cumsum([0, *lengths]).tolist()))
    print("| class | donors | AP | acceptors | AP |\n|---|---|---|---|---|")
    for group, classes in groups.items():
        for wanted in dict.fromkeys(classes.values()):
            mask = np.zeros(truth.shape, dtype=bool)
            for (name, minus, base, _), of_site in classes.items():
                if of_site == wanted and name in starts and minus < len(truth):
                    mask[minus, starts[name] + base] = True
            cells = []
            for kind in ("donor", "acceptor"):
                sites = mask & known & (truth == LABEL[kind])
                counted = (sites | (truth == 0)) & known
                scores_ = odds[..., TYPES.index(kind)][counted]
                few = sites.sum() < 20
                ap = "" if few else f"{score_against(sites[counted].astype(np.int64), scores_)['ap']:.3f}"
                cells += [f"{sites.sum():,}", ap]
            print(f"| {group}: {wanted} | {' | '.join(cells)} |", flush=True)


def show_reliability(labeller: Labeller, odds: np.ndarray, truth: np.ndarray, known: np.ndarray) -> None:
    """What share of the bases of some P are sites, before and after calibration. odds: [2, n, 2]; truth: [2, n]."""
    uncalibrated = Labeller(labeller.model, IDENTITY, labeller.device)
    mine, target = odds[:, known].reshape(-1, len(TYPES)), truth[:, known].ravel()
    print("| type | P | before: bases, mean P, share of sites | after |\n|---|---|---|---|")
    sides = [uncalibrated.probabilities(mine), labeller.probabilities(mine)]
    for column, kind in enumerate(TYPES):
        for low, high in zip(BINS, (*BINS[1:], 1.01)):
            cells = []
            for p in (side[:, column] for side in sides):
                inside = (p >= low) & (p < high)
                share = (target[inside] == LABEL[kind]).mean() if inside.any() else np.nan
                cells.append(f"{inside.sum():,}, {p[inside].mean() if inside.any() else np.nan:.3f}, {share:.3f}")
            print(f"| {kind} | {low} on | {' | '.join(cells)} |")
        sums = " and ".join(f"{side[:, column].sum():.0f}" for side in sides)
        print(f"| {kind} | all | P sums to {sums} | sites: {(target == LABEL[kind]).sum()} |", flush=True)


def scores(
    odds: np.ndarray, truth: np.ndarray, known: np.ndarray, among: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """{type: ap, recall, topk} of odds [2, n, 2] against labels [2, n], over the known bases, or those of `among`."""
    table = {}
    for column, kind in enumerate(TYPES):
        mine = np.broadcast_to(known, truth.shape) if among is None else known & among[..., column]
        table[kind] = score_against((truth[mine] == LABEL[kind]).astype(np.int64), odds[..., column][mine])
    return table


def pair(table: dict[str, dict[str, float]], key: str) -> str:
    """'donor / acceptor'."""
    return " / ".join(f"{table[kind][key]:.3f}" for kind in ("donor", "acceptor"))


def record_labels(genome: Genome, name: str) -> np.ndarray:
    """int64 [2, n] of a record's strands, on the forward strand's bases."""
    length = genome.store.by_name[name].length
    return np.stack([genome.labels(name, 0, length, 0), genome.labels(name, 0, length, 1)[::-1]])


def record_candidates(genome: Genome, name: str) -> np.ndarray:
    """bool [2, n, 2]: the exon's bases at AG and at GT, on the forward strand's bases."""
    length = genome.store.by_name[name].length
    found = np.zeros((2, length, len(TYPES)), dtype=bool)
    for minus in (0, 1):
        ids = strand_ids(genome.store, name, bool(minus))
        for column, kind in enumerate(TYPES):
            places = motif_boundaries(ids, kind) - (kind == "donor")
            found[minus, places[(places >= 0) & (places < length)], column] = True
    found[1] = found[1, ::-1]
    return found


def score_record(genome: Genome, name: str, score: Scorer) -> np.ndarray:
    """float32 [2, n, 2] of a scorer (ids [n], type -> [n + 1] at boundaries), at the exon's bases, forward strand."""
    length = genome.store.by_name[name].length
    odds = np.full((2, length, len(TYPES)), -np.inf, dtype=np.float32)
    for minus in (0, 1):
        ids = strand_ids(genome.store, name, bool(minus))
        for column, kind in enumerate(TYPES):
            odds[minus, :, column] = score(ids, kind)[1:] if kind == "donor" else score(ids, kind)[:-1]
    odds[1] = odds[1, ::-1]
    return np.nan_to_num(odds, neginf=-1e3)


def floor_scorers(asked: argparse.Namespace) -> dict[str, Scorer]:
    """{name: scorer} of the weight matrix and of snap's models, as asked for."""
    scorers = {}
    if asked.windows is not None:
        windows = load_training(asked.windows, "GS_1", 2 * SCORER_FLANK)
        matrices = {}
        for kind in TYPES:
            mine = windows.take(windows.of_site(kind))
            matrix = WeightMatrix(SCORER_FLANK).fit(mine.crop(2 * SCORER_FLANK), mine.labels, mine.sites)
            matrices[kind] = matrix.log_odds[0]
        scorers["weight matrix"] = lambda ids, kind: site_scores(ids, {kind: matrices[kind]})
    if asked.snap is not None:
        arrays = {kind: read_snap(asked.snap, kind) for kind in TYPES}
        scorers[f"snap, {asked.snap.name}"] = lambda ids, kind: snap_scores(ids, kind, *arrays[kind])
    return scorers


def read_snap(path: Path, kind: str) -> tuple[np.ndarray, int]:
    """(log2 odds [places, 4 ** (order + 1)], place of the motif's first base) of a weight array in a snap model."""
    lines = path.read_text(encoding="utf-8").splitlines()
    motif = {"donor": "GT", "acceptor": "AG"}[kind]
    try:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{kind.capitalize()} SDT"))
        at = next(i for i in range(at, len(lines)) if lines[i].split()[:2] == [motif, "SAM"])
        tables, names = [], []
        while at + 1 < len(lines) and (words := lines[at + 1].split())[1:2] == ["LUT"]:
            rows = 4 ** (int(words[2]) - 1)
            names.append(words[0])
            tables.append([float(v) for line in lines[at + 2 : at + 2 + rows] for v in line.split()])
            at += 1 + rows
        return np.array(tables, dtype=np.float32), names.index(motif[0])
    except (StopIteration, ValueError, IndexError):
        raise InputError(f"{path} has no weight array of {kind}s as snap's models have it") from None


def snap_scores(ids: np.ndarray, kind: str, tables: np.ndarray, first: int) -> np.ndarray:
    """float32 [n + 1]: the array's sum at each GT's or AG's boundary, -inf elsewhere and where bases are unknown."""
    order = round(np.log(tables.shape[1]) / np.log(4)) - 1
    result = np.full(len(ids) + 1, -np.inf, dtype=np.float32)
    places = motif_boundaries(ids, kind)
    start = places - (2 if kind == "acceptor" else 0) - first  # of the array's first base
    fits = (start >= order) & (start + len(tables) <= len(ids))
    places, start = places[fits], start[fits]
    total = np.zeros(len(places), dtype=np.float32)
    for place, table in enumerate(tables):
        context = np.zeros(len(places), dtype=np.int64)
        bad = np.zeros(len(places), dtype=bool)
        for back in range(order, -1, -1):
            letter = ids[start + place - back].astype(np.int64) - A
            bad |= letter < 0
            context = 4 * context + letter
        total += np.where(bad, 0, table[np.where(bad, 0, context)])
    result[places] = total
    return result


# -- variants ----------------------------------------------------------------------------------------------------------


def draw_variants(genome: Genome, number: int, seed: int) -> list[tuple[str, int, str, str, str, int]]:
    """Rows (record, 1-based position, REF, ALT, what was done, minus strand): at random annotated sites, in turns, the
    first and second base of the motif and the intron's fifth substituted, the motif's first base deleted, and a base
    inserted before it.
    """
    rng = np.random.default_rng(seed)
    sites = [(name, *row) for name, rows in genome.sites.items() for row in rows.tolist()]
    rows = []
    while len(rows) < number:
        name, minus, base, label = sites[rng.integers(len(sites))]
        donor = label == LABEL["donor"]
        what = ("motif 1", "motif 2", "base 5", "deletion", "insertion")[len(rows) % 5]
        into = (1 if donor else -1) * (-1 if minus else 1)  # from the exon's base into the intron
        step = {"motif 1": 1, "motif 2": 2, "base 5": 5, "deletion": 1, "insertion": 1}[what]
        place = base + into * step
        if not 60 < place < genome.store.by_name[name].length - 60:
            continue
        there = decode(genome.store.fetch(name, place - 1, place + 2))
        if "N" in there:
            continue
        other = str(rng.choice([letter for letter in LETTERS if letter != there[1]]))
        ref, alt, pos = there[1], other, place + 1
        if what == "deletion":  # anchored on the base before
            ref, alt, pos = there[:2], there[0], place
        elif what == "insertion":  # between the exon's base and the motif
            anchor = min(base, place)
            ref = decode(genome.store.fetch(name, anchor, anchor + 1))
            alt, pos = ref + str(rng.choice(list(LETTERS))), anchor + 1
        rows.append((name, pos, ref, alt, f"{'donor' if donor else 'acceptor'} {what}", minus))
    return rows


def spliceai_effect(networks: SpliceAI, genome: Genome, row: tuple) -> tuple[np.ndarray, np.ndarray]:
    """(gains and losses [4] of AG, AL, DG, DL; positions [4] from POS), as spliceai.utils.get_delta_scores has them."""
    name, pos, ref, alt, _, minus = row
    start, record = pos - 1, genome.store.by_name[name]
    before_ids = padded(genome.store, record, start - CONTEXT - DISTANCE, start + CONTEXT + DISTANCE + 1)
    at = CONTEXT + DISTANCE
    after_ids = np.concatenate([before_ids[:at], encode(alt), before_ids[at + len(ref) :]])
    p = []
    for ids in (before_ids, after_ids):
        chances = networks.chances(reverse_complement(ids) if minus else ids)
        p.append(chances[::-1] if minus else chances)
    before, after = p
    if len(ref) > len(alt):  # deleted bases have no site
        gap = np.zeros((len(ref) - len(alt), 3), np.float32)
        after = np.concatenate([after[: DISTANCE + len(alt)], gap, after[DISTANCE + len(alt) :]])
    elif len(alt) > len(ref):
        best = after[DISTANCE : DISTANCE + len(alt)].max(axis=0, keepdims=True)
        after = np.concatenate([after[:DISTANCE], best, after[DISTANCE + len(alt) :]])
    change = np.stack([sign * (after - before)[:, column] for column in (1, 2) for sign in (1, -1)])
    return change.max(axis=1), change.argmax(axis=1) - DISTANCE


def our_effect(effects: Effects, row: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The same from what predict --vcf writes, without --annotation: of both strands."""
    name, pos, ref, alt, *_ = row
    skipped: Counter[str] = Counter()
    (entries,) = effects.entries([Row(name, pos, ref, (alt,))], skipped)
    if not entries:
        raise InputError(f"{name}:{pos} {ref} {alt}: {', '.join(skipped)}")
    values = entries[0].split("|")[2:]
    return np.array(values[:4], dtype=np.float64), np.array(values[4:], dtype=np.int64)


def compare_variants(asked: argparse.Namespace, genome: Genome) -> None:
    """Where SpliceAI sees a change of .2 or more: how often ours has the same sign (and .05 or more) and place."""
    networks, ours = SpliceAI(asked.networks), Ours(asked.model, asked.precision)
    effects = Effects(genome.store, ours.labeller, DISTANCE)
    names = ("AG", "AL", "DG", "DL")
    lines = [
        "\t".join(
            ["chrom", "pos", "ref", "alt", "made", "side", *(f"DS_{n}" for n in names), *(f"DP_{n}" for n in names)]
        )
    ]
    agree: Counter[tuple[str, str]] = Counter()
    found = []
    for row in draw_variants(genome, asked.number, asked.seed):
        (theirs, their_places), (mine, places) = spliceai_effect(networks, genome, row), our_effect(effects, row)
        for side, scores_, where in (("SpliceAI", theirs, their_places), (ours.name, mine, places)):
            lines.append("\t".join([*map(str, row[:5]), side, *(f"{s:.3f}" for s in scores_), *map(str, where)]))
        found.append((theirs.max(), mine[theirs.argmax()]))
        top = int(theirs.argmax())
        if theirs[top] >= 0.2:
            agree[row[4], "variants"] += 1
            agree[row[4], "same kind is our largest"] += int(mine.argmax() == top)
            agree[row[4], "same kind, .05 or more"] += int(mine[top] >= 0.05)
            agree[row[4], "same place"] += int(places[top] == their_places[top])
    if asked.table is not None:
        asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = ("variants", "same kind is our largest", "same kind, .05 or more", "same place")
    print(f"where SpliceAI has {0.2} or more:")
    print("| made at an annotated | " + " | ".join(columns) + " |\n|" + "---|" * 5)
    for made in sorted({made for made, _ in agree}):
        print(f"| {made} | " + " | ".join(str(agree[made, column]) for column in columns) + " |")
    total = [sum(agree[made, column] for made in {made for made, _ in agree}) for column in columns]
    print("| all | " + " | ".join(map(str, total)) + " |")
    theirs, mine = np.array(found).T
    rank = np.corrcoef(theirs.argsort().argsort(), mine.argsort().argsort())[0, 1]
    print(
        f"rank correlation of SpliceAI's largest change with ours of the same kind: {rank:.2f}, {len(found)} variants"
    )


def main(words: list[str] | None = None) -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scan", "variants"))
    parser.add_argument("genome", help="FASTA")
    parser.add_argument("annotation", help="GTF, GFF3 or table of introns of it")
    parser.add_argument("--model", type=Path, default=ROOT / "models/simcsp-small-bases", help="of bases")
    parser.add_argument("--precision", default="auto", help="of our model; SpliceAI's networks run in float32")
    parser.add_argument(
        "--networks", type=int, nargs="*", choices=range(1, 6), default=[1], help="none: without SpliceAI"
    )
    parser.add_argument("--forward", action="store_true", help="scan: records are genes on their strand")
    parser.add_argument("--every", type=int, default=1, help="scan: every N-th record")
    parser.add_argument("--windows", type=Path, help="scan: Spliceator's layout, for the weight matrix")
    parser.add_argument("--snap", type=Path, help="scan: model file of Debian's snap")
    parser.add_argument("--cache", type=Path, default=ROOT / "data/cache", help="of the genome")
    parser.add_argument("--number", type=int, default=50, help="variants")
    parser.add_argument("--seed", type=int, default=0, help="of the variants")
    parser.add_argument("--table", type=Path, help="variants: every score, as TSV")
    asked = parser.parse_args(words)
    genome = read_genome(BasesConfig(fasta=[asked.genome], annotation=[asked.annotation]), str(asked.cache))
    (compare_scan if asked.what == "scan" else compare_variants)(asked, genome)


if __name__ == "__main__":
    run_script(main)

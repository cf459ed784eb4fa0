#!/usr/bin/env python3
"""Cut labelled splice-site windows from any genome and its annotation, laid out like Spliceator's.

    python data/windows.py --fasta data/genes/chr1.fa --annotation data/genes/chr1.gtf --out data/windows/genes
    python data/windows.py --fasta data/genes/chr3.fa --annotation data/genes/chr3.gtf --out data/windows/genes \\
        --benchmark Human --text data/chr19.fa.gz

The first writes Training_data, the second, with --benchmark, Benchmarks/Human, less the windows that share 80 nt with
those of Training_data. Every donor and acceptor is a positive, the boundary at the centre. Each has one negative of its
own gene and strand, in the proportions of Spliceator's set GS_1: the middle of an exon, of an intron, or a GT (AG) that
no transcript uses (3,650 : 3,650 : 3,700). No negative lies within 10 nt of a site of any transcript.
- Windows that reach beyond their record (or region, --records) or hold an N are left out, real and false alike.
- An id is RECORD:POSITION:STRAND:KIND_gene=GENE; position is the exon's base at the boundary, 1-based. Folds keep the
  windows of a gene together.
- --per-class takes so many sites of each type, at random, and their negatives.
- Same files, options and seed, same bytes.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the scripts of data/ are run by their path, from any folder

from simcsp.core.errors import InputError  # noqa: E402
from simcsp.core.files import write_text  # noqa: E402
from simcsp.labels.spliceator import GENE, benchmark_files, load_training, training_files  # noqa: E402
from simcsp.text.alphabet import A, C, G, decode  # noqa: E402
from simcsp.text.annotation import GeneBody, Intron, gene_bodies, introns, read_annotation  # noqa: E402
from simcsp.text.kmers import shared_windows  # noqa: E402
from simcsp.text.sampler import Span, wanted_spans  # noqa: E402
from simcsp.text.sites import SITES, motif_boundaries  # noqa: E402
from simcsp.text.store import TokenStore, open_store, strand_ids  # noqa: E402
from utils.script import run_script  # noqa: E402

SHARES = {"exon": 3650, "intron": 3650, "false": 3700}  # of 11,000 negatives of GS_1 (Scalzitti et al. 2021)
MARGIN = 10  # nt about each site in which no negative has its centre
TYPES = {"exon": "EXON", "intron": "INTRON", "false": "FP"}


class Window(NamedTuple):
    """Where the centre of a window lies. boundary: 0-based, counted along the strand that it is read on."""

    record: str
    minus: bool
    boundary: int
    gene: str
    kind: str


class Strand:
    """One strand of a record: its bases, and which boundaries may be the centre of a window of each kind."""

    def __init__(self, store: TokenStore, name: str, minus: bool, wanted: list[Span], length: int) -> None:
        self.name, self.minus, self.ids = name, minus, strand_ids(store, name, minus)
        size = len(self.ids)
        unknown = np.concatenate([[0], np.cumsum(self.ids < A, dtype=np.int32)])
        self.fits = np.zeros(size + 1, bool)
        for span in wanted:
            start, end = (size - span.end, size - span.start) if minus else (span.start, span.end)
            first, last = start + length // 2, end - length // 2
            if first <= last:
                self.fits[first : last + 1] = unknown[start + length : end + 1] == unknown[start : end - length + 1]
        self.exonic, self.intronic, self.near = np.zeros(size, bool), np.zeros(size, bool), np.zeros(size + 1, bool)

    def along(self, start: int, end: int) -> tuple[int, int]:
        """A stretch of the forward strand, counted along this one."""
        return (len(self.ids) - end, len(self.ids) - start) if self.minus else (start, end)

    def add(self, exons: np.ndarray) -> None:
        """Mark the exons, introns and sites of a transcript."""
        for start, end in exons.tolist():
            self.exonic[slice(*self.along(start, end))] = True
        for start, end in zip(exons[:-1, 1].tolist(), exons[1:, 0].tolist()):
            first, last = self.along(start, end)
            self.intronic[first:last] = True
            for boundary in (first, last):
                self.near[max(boundary - MARGIN, 0) : boundary + MARGIN + 1] = True

    def candidates(self, kind: str, site: str, body: GeneBody) -> np.ndarray:
        """Boundaries of a gene that may be negatives of a kind; exons and introns are those of every transcript."""
        start, end = self.along(body.start, body.end)
        inside = slice(start + 1, end)
        allowed = self.fits[inside] & ~self.near[inside]
        if kind == "false":
            at = motif_boundaries(self.ids[start:end], site) - 1
            at = at[(at >= 0) & (at < len(allowed))]
            return start + 1 + at[allowed[at]]
        own, other = (self.exonic, self.intronic) if kind == "exon" else (self.intronic, self.exonic)
        pure = own[start:end] & ~other[start:end]
        return start + 1 + np.flatnonzero(allowed & pure[:-1] & pure[1:])


def read_strands(
    args: argparse.Namespace, store: TokenStore
) -> tuple[dict[tuple[str, bool], Strand], list[Intron], list[GeneBody]]:
    """The strands that have genes, and of the transcripts asked for their introns and gene bodies."""
    lengths = {record.name: record.length for record in store.records}
    wanted: dict[str, list[Span]] = {}
    for span in wanted_spans(store, args.records, "--records"):
        wanted.setdefault(span.record.name, []).append(span)
    every = [t for t in read_annotation(args.annotation, lengths) if t.chrom in wanted]
    chosen = [
        transcript
        for transcript in every
        if (args.transcripts == "all" or transcript.in_ccds)
        and any(span.holds(transcript.exons[0, 0], transcript.exons[-1, 1]) for span in wanted[transcript.chrom])
    ]
    strands: dict[tuple[str, bool], Strand] = {}
    for transcript in every:
        key = transcript.chrom, transcript.strand == "-"
        if key not in strands:
            strands[key] = Strand(store, *key, wanted[transcript.chrom], args.length)
        strands[key].add(transcript.exons)
    if not (spans := introns(chosen)):
        raise InputError(f"{args.annotation} has no intron on the records of {args.fasta} that are asked for")
    return strands, spans, gene_bodies(chosen)


def real_sites(strands: dict[tuple[str, bool], Strand], spans: list[Intron], site: str) -> tuple[list[Window], int]:
    """Windows of every site of a type that leaves room for one, and how many do not."""
    windows = {}
    for intron in spans:
        strand = strands[intron.chrom, intron.strand == "-"]
        boundary = strand.along(intron.start, intron.end)[SITES.index(site)]
        windows.setdefault((strand.name, strand.minus, boundary), intron.gene)
    kept = [Window(*key, gene, site) for key, gene in windows.items() if strands[key[:2]].fits[key[2]]]
    return kept, len(windows) - len(kept)


def decoys(
    rng: np.random.Generator,
    strands: dict[tuple[str, bool], Strand],
    bodies: list[GeneBody],
    real: list[Window],
    site: str,
    shares: dict[str, int],
) -> list[Window]:
    """A negative for each real site, of its own gene; of another where the gene has no place for one of its kind."""
    cuts = np.round(np.cumsum(list(shares.values())) / sum(shares.values()) * len(real)).astype(int)
    kinds = np.repeat(list(shares), np.diff(cuts, prepend=0))[rng.permutation(len(real))]
    wanted = Counter((w.record, w.minus, w.gene, kind) for w, kind in zip(real, kinds.tolist()))
    windows: dict[tuple[str, bool, int], Window] = {}
    for kind in shares:
        spare, missing = [], 0
        for body in bodies:
            key = body.chrom, body.strand == "-"
            count = wanted[*key, body.gene, kind]
            if not count:
                continue
            places = strands[key].candidates(kind, site, body)
            drawn = rng.choice(places, min(2 * count, len(places)), replace=False).tolist()
            free = [Window(*key, at, body.gene, kind) for at in drawn if (*key, at) not in windows]
            windows.update({window[:3]: window for window in free[:count]})
            spare += free[count:]
            missing += max(count - len(free), 0)
        spare = [window for window in spare if window[:3] not in windows]
        if missing > len(spare):
            raise InputError(
                f"only {len(spare)} places are left for {missing} more {kind} negatives ({site}): take --negatives "
                "false, a shorter --length, or records with more genes"
            )
        windows.update({spare[i][:3]: spare[i] for i in rng.permutation(len(spare))[:missing].tolist()})
    return sorted(windows.values())


# --- files --------------------------------------------------------------------------------------------------------


def cut(strands: dict[tuple[str, bool], Strand], windows: list[Window], length: int) -> np.ndarray:
    """uint8 [n, length]."""
    half = length // 2
    rows = [strands[w.record, w.minus].ids[w.boundary - half : w.boundary + half] for w in windows]
    return np.array(rows, dtype=np.uint8).reshape(-1, length)


def identifier(window: Window, site: str, size: int) -> str:
    exon = window.boundary - 1 if site == "donor" else window.boundary  # the exon's base, 0-based along the strand
    position = size - exon if window.minus else exon + 1
    fields = window.record, position, "-" if window.minus else "+", window.kind
    return f"{':'.join(map(str, fields))}_{GENE}{window.gene.replace('_', '-')}".replace(";", ",")


def lines_of(windows: list[Window], ids: np.ndarray, names: list[str], layout: str) -> list[str]:
    """Rows of a file of Spliceator's: 'positive', 'negative' (which has a header) or 'benchmark'."""
    rows = [f"{name};{decode(row)}" for name, row in zip(names, ids)]
    if layout == "positive":
        return [f"{row};True\n" for row in rows]
    if layout == "benchmark":
        return [f"{row}\n" for row in rows]
    head = "ID_uniprot;Position;Sequence;Type\n"
    return [head] + [
        f"{name};{window.boundary};{decode(row)};{TYPES[window.kind]}\n"
        for name, window, row in zip(names, windows, ids)
    ]


def make(args: argparse.Namespace) -> None:
    store = open_store([args.fasta], args.cache)
    strands, spans, bodies = read_strands(args, store)
    shares = SHARES if args.negatives == "mixed" else {"false": 1}
    if args.benchmark:
        files = benchmark_files(args.out, args.benchmark)
        known = [load_training(args.out, path.name, args.length).ids for path in negative_sets(args.out)]
    else:
        files, known = training_files(args.out, "GS_1" if args.negatives == "mixed" else "GS_false"), []
    text = open_store([args.text], args.cache) if args.text else None
    made = {}
    for number, site in enumerate(SITES):
        rng = np.random.default_rng([args.seed, number])
        made[site, 1] = positives(rng, strands, spans, site, args)
        made[site, 0] = decoys(rng, strands, bodies, made[site, 1], site, shares)
    for path, site, label in files:
        windows = made[site, label]
        ids = cut(strands, windows, args.length)
        kept = np.ones(len(ids), bool)
        for other in known:
            kept &= ~shared_windows(ids, other)
        windows, ids = [window for window, keep in zip(windows, kept) if keep], ids[kept]
        names = [identifier(w, site, len(strands[w.record, w.minus].ids)) for w in windows]
        layout = "benchmark" if args.benchmark else ("negative", "positive")[label]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines_of(windows, ids, names, layout)))
        print(f"{path}: {describe(windows, ids, text)}" + (f"; {(~kept).sum():,} left out that share 80 nt with "
              "Training_data" if known else ""))  # fmt: skip


def positives(
    rng: np.random.Generator, strands: dict, spans: list, site: str, args: argparse.Namespace
) -> list[Window]:
    """The annotated sites of a type, as many as --per-class has."""
    real, lost = real_sites(strands, spans, site)
    if not real:
        raise InputError(f"--length {args.length}: no {site} leaves room for a window: take a shorter one")
    print(f"{site}s: {len(real) + lost:,} in the annotation, {lost:,} too near an end or an N")
    if args.per_class is None:
        return real
    return [real[i] for i in np.sort(rng.permutation(len(real))[: args.per_class])]


def negative_sets(folder: Path) -> list[Path]:
    """The sets of negatives under Training_data."""
    place = folder / "Training_data/Negative/GS"
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def describe(windows: list[Window], ids: np.ndarray, text: TokenStore | None) -> str:
    """How many windows of how many genes, their kinds and GC, and how many share 80 nt with a text."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(Counter(w.kind for w in windows).items()))
    genes = len({window.gene for window in windows})
    said = f"{len(ids):,} windows of {genes:,} genes ({kinds}), GC {((ids == C) | (ids == G)).mean():.3f}"
    if text is not None:
        records = (text.fetch(record.name, 0, record.length) for record in text.records)
        said += f", {shared_windows(ids, records).sum():,} share 80 nt with {text.manifest['sources'][0]}"
    return said


# --- command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message} (--help shows the options)")


def parse() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="data/windows.py", description=__doc__, formatter_class=shape, allow_abbrev=False)
    add = parser.add_argument
    add("--fasta", type=Path, required=True, help="genome or genes, plain or gzipped")
    add("--annotation", type=Path, required=True, help="GTF or GFF3 of it, plain or gzipped")
    add("--out", type=Path, required=True, help="folder for Training_data and Benchmarks")
    add("--benchmark", metavar="SPECIES", help="write Benchmarks/SPECIES instead of Training_data")
    add("--records", nargs="+", help="records, or regions of them (chr19:30000001-58617616), to take genes from")
    add("--transcripts", choices=("all", "ccds"), default="all", help="whose sites are positives (default all)")
    add("--negatives", choices=("mixed", "false"), default="mixed", help="false: false GT / AG alone, the harder kind, "
        "in Negative/GS/GS_false (default mixed)")  # fmt: skip
    add("--per-class", type=int, metavar="N", help="windows of each type and label at most (default all)")
    add("--length", type=int, default=600, help="nt of a window, even (default %(default)s)")
    add("--text", type=Path, help="FASTA of the pre-training text: say how many windows share 80 nt with it")
    add("--seed", type=int, default=0, help="same seed, same bytes (default %(default)s)")
    add("--cache", type=Path, default=ROOT / "data/cache", help="where FASTA files are kept as token ids")
    args = parser.parse_args()
    if args.length < 100 or args.length % 2:
        parser.error(f"--length must be even and 100 or more, not {args.length}")
    if args.per_class is not None and args.per_class < 1:
        parser.error(f"--per-class must be 1 or more, not {args.per_class}")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    if args.benchmark is not None and (not args.benchmark or set(args.benchmark) & set("/\\")):
        parser.error(f"--benchmark must be the name of a folder, not {args.benchmark!r}")
    return args


def main() -> None:
    make(parse())


if __name__ == "__main__":
    run_script(main)

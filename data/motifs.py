#!/usr/bin/env python3
"""Make labelled GT / AG sites from any genome and its annotation, or cut the windows about such sites into one file.

    python data/motifs.py --fasta hg38.fa.gz --annotation gencode.gtf.gz --out data/hg38.motifs.bed.gz
    python data/motifs.py cut --bed data/hg38.motifs.bed.gz --fasta hg38.fa.gz --window 510 --out data/hg38.motifs.npz

The BED is laid out like SpliceBERT's hg19.ss-motif: chrom, start, end of the two motif bases (0-based, half-open), name
ending in |label, gene, strand; as many sites of each label, GT(donor), GT(non-donor), AG(acceptor), AG(non-acceptor).
- Real sites are those of annotated introns that show GT or AG.
- Each comes with one decoy from its own gene: a GT or AG on the same strand, between the start of the gene's first exon
  and the end of its last, that no transcript uses.
- Sites with a soft-masked (lower-case) base are left out, since repeats would cluster by their family.
- Same files, options and seed, same bytes.

`cut` needs the BED and the genome once; a configuration then names the .npz as data.motif_bed and no data.motif_fasta.
"""

import argparse
import gzip
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the scripts of data/ are run by their path, from any folder

from simcsp.core.errors import InputError  # noqa: E402
from simcsp.core.files import replacing, sha256_file  # noqa: E402
from simcsp.labels.motifs import cut_motifs, read_bed, save_motifs  # noqa: E402
from simcsp.text.alphabet import encode, reverse_complement  # noqa: E402
from simcsp.text.annotation import GeneBody, Intron, gene_bodies, introns, read_annotation  # noqa: E402
from simcsp.text.sampler import wanted_spans  # noqa: E402
from simcsp.text.sites import MOTIFS, SITES, exon_is_left, intron_ends, motif_label  # noqa: E402
from simcsp.text.store import TokenStore, open_store  # noqa: E402
from utils.script import run_script  # noqa: E402

# Annotated introns of animals and plants are GT..AG to 98 % or more; where the annotation is of another assembly, one
# in sixteen begins with GT. Far from both, so that unusual genomes pass.
LEAST_CANONICAL = 0.8
SPARE = 2  # decoys drawn per real site: a gene that overlaps another may lose some to it


class Place(NamedTuple):
    """A motif: its first base on the forward strand (0-based), the strand it reads on, and the gene it lies in."""

    chrom: str
    start: int
    strand: str
    gene: str


# --- sites --------------------------------------------------------------------------------------------------------


def intron_motifs(spans: list[Intron], site: str) -> list[Place]:
    """Where each intron's GT or AG should be, one place per intron."""
    boundaries = [intron_ends(span.start, span.end, span.strand)[SITES.index(site)] for span in spans]
    starts = [at if exon_is_left(site, span.strand) else at - 2 for at, span in zip(boundaries, spans)]
    return [Place(span.chrom, start, span.strand, span.gene) for span, start in zip(spans, starts)]


def distinct(places: list[Place]) -> list[Place]:
    """Each place once, for the first of its genes, sorted."""
    genes = {place[:3]: place for place in sorted(places, reverse=True)}
    return sorted(genes.values())


def shown(store: TokenStore, places: list[Place], site: str) -> np.ndarray:
    """bool [n]: the FASTA has the motif there."""
    pairs = [store.fetch(place.chrom, place.start, place.start + 2, place.strand) for place in places]
    return (np.array(pairs).reshape(-1, 2) == encode(MOTIFS[site])).all(axis=1)


def masked(store: TokenStore, chrom: str, starts: np.ndarray) -> np.ndarray:
    """bool [n]: one of the two bases from each start is soft-masked."""
    first = store.by_name[chrom].offset
    return np.array([store.lower(first + start, 2).any() for start in starts.tolist()], dtype=bool)


def unannotated(store: TokenStore, body: GeneBody, site: str, taken: np.ndarray) -> np.ndarray:
    """Starts of the motif inside a gene, on its strand, less those of the sorted `taken`."""
    first, second = encode(MOTIFS[site]) if body.strand == "+" else reverse_complement(encode(MOTIFS[site]))
    ids = store.fetch(body.chrom, body.start, body.end)
    starts = body.start + np.flatnonzero((ids[:-1] == first) & (ids[1:] == second))
    mine = taken[np.searchsorted(taken, body.start) : np.searchsorted(taken, body.end)]
    return np.setdiff1d(starts, mine, assume_unique=True)


class Sites(NamedTuple):
    """Real sites of one type, each with a decoy of its gene, in random order; and what was left out."""

    pairs: list[tuple[Place, Place]]
    annotated: int
    shown: int
    unmasked: int
    """Real sites: annotated, showing the motif, and of those without a soft-masked base."""
    decoys: int
    unmasked_decoys: int
    """Motifs of the same genes that are no annotated site, and those without a soft-masked base."""


def pair_sites(
    rng: np.random.Generator, store: TokenStore, spans: list[Intron], bodies: list[GeneBody], site: str
) -> Sites:
    """Every real site of a type that can have a decoy of its own, with it."""
    places = distinct(intron_motifs(spans, site))
    canonical = [place for place, is_shown in zip(places, shown(store, places, site)) if is_shown]
    real = [place for place in canonical if not masked(store, place.chrom, np.array([place.start]))[0]]
    taken: dict[tuple[str, str], list[int]] = {}
    for place in places:
        taken.setdefault((place.chrom, place.strand), []).append(place.start)
    taken = {key: np.array(starts) for key, starts in taken.items()}  # sorted, as `places` are
    of_gene = Counter((place.chrom, place.strand, place.gene) for place in real)

    decoys, seen, unmasked = {}, 0, 0
    for body in bodies:
        key = (body.chrom, body.strand, body.gene)
        if key not in of_gene:
            continue
        starts = unannotated(store, body, site, taken[key[:2]])
        seen += len(starts)
        starts = starts[~masked(store, body.chrom, starts)]
        unmasked += len(starts)
        drawn = rng.permutation(starts)[: SPARE * of_gene[key]].tolist()
        decoys[key] = [Place(body.chrom, start, body.strand, body.gene) for start in drawn]

    pairs, used = [], set()
    for index in rng.permutation(len(real)):
        place = real[index]
        waiting = decoys[place.chrom, place.strand, place.gene]
        while waiting:
            decoy = waiting.pop()
            if decoy[:3] not in used:
                used.add(decoy[:3])
                pairs.append((place, decoy))
                break
    return Sites(pairs, len(places), len(canonical), len(real), seen, unmasked)


def check_assembly(canonical: dict[str, np.ndarray], fasta: Path, annotation: Path) -> None:
    """Refuse a FASTA whose introns are not GT..AG: 'real' sites would be chance, as the decoys are."""
    if min(found.mean() for found in canonical.values()) < LEAST_CANONICAL:
        raise InputError(
            f"only {canonical['donor'].mean():.1%} of the introns in {annotation} begin with GT and "
            f"{canonical['acceptor'].mean():.1%} end in AG in {fasta} (at least {LEAST_CANONICAL:.0%} must): "
            "they are of different genome builds"
        )


# --- files --------------------------------------------------------------------------------------------------------


def bed_lines(sites: dict[str, Sites], per_label: int) -> list[str]:
    rows = []
    for site, found in sites.items():
        for pair in found.pairs[:per_label]:
            for place, label in zip(pair, (motif_label(site, True), motif_label(site, False))):
                name = f"{place.gene}|{label}"
                rows.append((place.chrom, place.start, place.start + 2, name, place.gene, place.strand))
    return ["\t".join(map(str, row)) + "\n" for row in sorted(rows)]


def write_bed(path: Path, lines: list[str]) -> None:
    """Plain, or gzipped where the name ends in .gz (no name and no clock inside), aside and then renamed."""
    content = "".join(lines).encode()
    with replacing(path) as aside:
        aside.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


# --- the two commands ---------------------------------------------------------------------------------------------


def make(args: argparse.Namespace) -> None:
    store = open_store([args.fasta], args.cache)
    wanted = wanted_spans(store, args.records, "--records")
    lengths = {record.name: record.length for record in store.records}
    transcripts = [
        transcript
        for transcript in read_annotation(args.annotation, lengths, args.transcripts)
        if any(s.record.name == transcript.chrom and s.holds(*transcript.exons.flat[[0, -1]]) for s in wanted)
    ]
    spans, bodies = introns(transcripts), gene_bodies(transcripts)
    if not spans:
        raise InputError(f"{args.annotation} has no intron on the records of {args.fasta} that are asked for")
    rng = np.random.default_rng(args.seed)
    canonical = {site: shown(store, intron_motifs(spans, site), site) for site in MOTIFS}
    check_assembly(canonical, args.fasta, args.annotation)
    sites = {site: pair_sites(rng, store, spans, bodies, site) for site in MOTIFS}
    per_label = min(args.per_label, *(len(found.pairs) for found in sites.values()))
    if not per_label:
        raise InputError(
            f"{args.fasta}, {args.annotation}: no donor or no acceptor that is not soft-masked has a decoy in its gene"
        )
    write_bed(args.out, bed_lines(sites, per_label))
    describe(args, store, sites, canonical, len(spans), per_label)
    if orphans := sum(transcript.orphan for transcript in transcripts):
        print(f"  {orphans} transcripts have exons but no row of their own: each counts as a gene")


def describe(
    args: argparse.Namespace,
    store: TokenStore,
    sites: dict[str, Sites],
    canonical: dict[str, np.ndarray],
    spans: int,
    per_label: int,
) -> None:
    """Print what was written, and what was left out. spans: number of introns."""
    print(f"{args.out}: {per_label} sites of each label, seed {args.seed}, from {args.fasta} and {args.annotation}")
    donor, acceptor = canonical.values()
    print(f"  introns: {spans}; {donor.sum()} begin with GT, {acceptor.sum()} end in AG, "
          f"{share((donor & acceptor).sum(), spans)} do both")  # fmt: skip
    for site, motif in MOTIFS.items():
        kind = sites[site]
        print(f"  {motif}({site}): {kind.unmasked} of {kind.annotated} annotated; {kind.shown} are {motif}, "
              f"{share(kind.shown - kind.unmasked, kind.shown)} of these left out as repeats")  # fmt: skip
        print(f"  {motif}(non-{site}): {kind.unmasked_decoys} in the same genes, "
              f"{share(kind.decoys - kind.unmasked_decoys, kind.decoys)} left out as repeats")  # fmt: skip
    if not store.manifest["repeat_share"]:
        print("  the FASTA has no lower-case base: no repeat was left out, since none is marked")
    if per_label < args.per_label:
        print(f"  {args.per_label} were asked for: {per_label} is the most that every label has")


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def cut(args: argparse.Namespace) -> None:
    sites = read_bed(args.bed)
    store = open_store([args.fasta], args.cache)
    motifs = cut_motifs(sites, store, args.window, args.bed)
    sources = {
        "bed": args.bed.name,
        "bed_sha256": sha256_file(args.bed),
        "fasta": args.fasta.name,
        "fasta_sha256": store.sha256,
    }
    save_motifs(motifs, args.out, sources)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {len(motifs.labels)} windows of {args.window} nt, {megabytes:.1f} MB")
    for label, count in zip(*np.unique(motifs.labels, return_counts=True)):
        print(f"  {label}: {count}")


# --- command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message} (--help shows the options)")


def parser_for(command: str) -> argparse.ArgumentParser:
    summary = __doc__.splitlines()[0]
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=f"data/motifs.py{command}", description=__doc__ if not command else summary,
                    formatter_class=shape, allow_abbrev=False)  # fmt: skip
    parser.add_argument("--fasta", type=Path, required=True, help="genome, plain or gzipped")
    parser.add_argument("--cache", type=Path, default=ROOT / "data/cache", help="where the genome is kept as token ids "
                        "(default data/cache of this project)")  # fmt: skip
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    args = parser.parse_args(argv)
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder: name the file to write")
    return args


def main() -> None:
    try:
        run()
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None


def run() -> None:
    if sys.argv[1:2] == ["cut"]:
        parser = parser_for(" cut")
        parser.add_argument("--bed", type=Path, required=True, help="motif sites, plain or gzipped")
        parser.add_argument("--out", type=Path, required=True, help="file to write, .npz")
        parser.add_argument("--window", type=int, default=510, help="nt about each site (default %(default)s)")
        args = parse(parser, sys.argv[2:])
        if args.window < 2 or args.window % 2:
            parser.error(f"--window must be even, the site is at the centre; not {args.window}")
        if args.out.suffix != ".npz":
            parser.error(f"--out must end in .npz, by which a configuration knows the file; not {args.out.name}")
        cut(args)
        return
    parser = parser_for("")
    parser.add_argument("--annotation", type=Path, required=True, help="GTF or GFF3 of that genome, plain or gzipped")
    parser.add_argument("--out", type=Path, required=True, help="BED to write, gzipped where the name ends in .gz")
    parser.add_argument("--per-label", type=int, default=5000, help="sites of each label (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default %(default)s)")
    parser.add_argument("--records", nargs="+", help="records, or regions of them, to take genes from (default all)")
    parser.add_argument(
        "--transcripts", choices=("all", "ccds"), default="all", help="whose sites are real (default all)"
    )
    args = parse(parser, sys.argv[1:])
    for name, least in {"per_label": 1, "seed": 0}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more, not {getattr(args, name)}")
    make(args)


if __name__ == "__main__":
    run_script(main)

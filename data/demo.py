#!/usr/bin/env python3
"""Make a small SYNTHETIC genome whose grammar is biology's, and every file the pipeline reads from it.

    python data/demo.py                  # writes data/demo, seed 0, a few seconds, no network

No base here comes from an organism. What comes from biology are published frequencies, and each table of grammar.py
names its source. A gene is codons drawn from human codon usage, cut into exons; introns in between are drawn base by
base, lose most of their CpG, and get a donor, a branch point, a polypyrimidine tract and an acceptor drawn from human
frequencies. The rest of each intron and exon is full of GT and AG that mean nothing, as in life.

What is simpler than life, on purpose:
- introns are about a third of their human length (median 600 nt), so that a 3.6 Mb genome holds 3,000 of them;
- every intron is GT..AG, every gene has one transcript, exons are all coding, there are no repeats;
- the five exon bases nearest to a junction follow the junction's frequencies, not the codon's.

Bases of a site depend on each other, which a weight matrix cannot see: pairs of donor bases (`PAIRS`), and in acceptors
the places of branch point and tract. The negatives are cryptic sites, false GT / AG drawn with odds raised by their
likeness to a real site base by base (`CRYPTIC`): human ones are told from the authentic sites best by models with
dependencies, and not by weight matrices (Buratti et al. 2007, Nucleic Acids Res 35:4250).
"""

import argparse
import gzip
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, it finds data/ beside its folder

from data.grammar import (  # noqa: E402
    ACCEPTOR,
    ACCEPTOR_AT,
    DONOR,
    DONOR_AT,
    INTERGENIC,
    INTRON,
    LETTERS,
    SPACER_LENGTH,
    A,
    G,
    N,
    T,
    donor_table,
    draw_lengths,
    draw_noncoding,
    letters,
    make_gene,
    reverse_complement,
)
from simcsp.core.files import mend_folder, replace_folder  # noqa: E402

VERSION = 2  # of the generator, this file and grammar.py: a change that changes a byte of the output raises it
RECORDS = ("synthetic_chr1", "synthetic_chr2", "synthetic_chr3", "synthetic_chr4")
LABELLED, HELD_OUT = 2, 3  # training windows come from the one record, benchmark and motif sites from the other
MIN_INTRONS = 450  # per record
N_RUNS, N_RUN_LENGTH = 3, 120  # gaps per record, between genes
SOFT_MASKED = 3000  # nt in lower case, one stretch per record

REACH = 300  # a training window reaches this far to either side of its boundary
BENCHMARK_REACH = 200
MARGIN = 25  # false sites stay this far from the ends of their gene
# Of a false GT / AG with log-odds score s (published frequencies over intron background, nats) the chance to be taken
# is proportional to exp(CRYPTIC * s). At 0 any GT will do, at 1 a weight matrix could not tell them from real sites.
CRYPTIC = 0.4
SITES = ("donor", "acceptor")
MOTIF = {"donor": "GT", "acceptor": "AG"}


# --- genes and records --------------------------------------------------------------------------------------------


@dataclass
class Gene:
    name: str
    strand: str
    exons: np.ndarray  # (exons, 2) first base and end, 0-based, in transcript order, counted along the gene's strand


@dataclass
class Record:
    name: str
    bases: np.ndarray  # forward strand, uint8
    genes: list
    soft_masked: tuple


def make_record(rng, name, n_introns, donors_table):
    """Genes on either strand with spacers between, until the record holds `n_introns` introns; then gaps and a mask."""
    pieces, placed, introns, length = [], [], 0, 0
    while introns < n_introns:
        spacer = draw_noncoding(rng, draw_lengths(rng, 1, *SPACER_LENGTH)[0], INTERGENIC)
        bases, exons = make_gene(rng, donors_table)
        strand = "+-"[rng.integers(2)]
        pieces += [spacer, bases if strand == "+" else reverse_complement(bases)]
        placed.append((strand, length + len(spacer), len(bases), exons))
        introns += len(exons) - 1
        length += len(spacer) + len(bases)
    pieces.append(draw_noncoding(rng, SPACER_LENGTH[0], INTERGENIC))

    middles = np.cumsum([len(piece) for piece in pieces])[::2] - [len(piece) // 2 for piece in pieces[::2]]
    record = np.concatenate(pieces)
    for middle in rng.choice(middles, min(N_RUNS, len(middles)), replace=False):
        record[middle - N_RUN_LENGTH // 2 : middle + N_RUN_LENGTH // 2] = N
    masked_from = int(rng.integers(len(record) - SOFT_MASKED))

    genes = []
    for strand, start, size, exons in placed:
        offset = start if strand == "+" else len(record) - start - size
        genes.append(Gene(f"{name[-1]}{len(genes) + 1:05d}", strand, exons + offset))
    return Record(name, record, genes, (masked_from, masked_from + SOFT_MASKED))


# --- places -------------------------------------------------------------------------------------------------------
# Both strands of all records are laid end to end with N between them. Then a place on any strand of any record is one
# integer, a boundary is the place of the first base after it, and a window is text[place - reach : place + reach].


@dataclass
class Text:
    bases: np.ndarray
    record: np.ndarray  # of each base: index into RECORDS, -1 between records
    strand: np.ndarray  # of each base: 0 forward, 1 reverse
    index: np.ndarray  # of each base: its 0-based place along its own strand
    gene: np.ndarray  # of each base: index into `genes` where a gene lies on this strand, else -1
    genes: list
    sites: dict  # donor and acceptor: the places of the boundaries of real introns


def lay_out(records):
    """The Text of some records."""
    columns = [[np.full(REACH, N, np.uint8), *(np.full(REACH, -1, np.int32) for _ in range(4))]]
    genes, spans, start = [], [], REACH
    for number, record in enumerate(records):
        for strand in (0, 1):
            size = len(record.bases)
            gene = np.full(size, -1, np.int32)
            for one in record.genes:
                if one.strand == "+-"[strand]:
                    gene[one.exons[0, 0] : one.exons[-1, 1]] = len(genes)
                    genes.append(one)
                    spans.append(start + one.exons)
            bases = record.bases if strand == 0 else reverse_complement(record.bases)
            constants = (np.full(size, number, np.int32), np.full(size, strand, np.int32))
            columns += [[bases, *constants, np.arange(size, dtype=np.int32), gene], columns[0]]
            start += size + REACH
    bases, record, strand, index, gene = (np.concatenate(column) for column in zip(*columns, strict=True))
    sites = {"donor": np.concatenate([span[:-1, 1] for span in spans]),
             "acceptor": np.concatenate([span[1:, 0] for span in spans])}  # fmt: skip
    return Text(bases, record, strand, index, gene, genes, sites)


def surrounded(mask, reach):
    """Places, as a mask, whose `reach` bases on either side all lie in `mask`."""
    count = np.concatenate([[0], np.cumsum(mask, dtype=np.int32)])
    inside = np.zeros(len(mask), bool)
    inside[reach : len(mask) - reach] = count[2 * reach : -1] - count[: -2 * reach - 1] == 2 * reach
    return inside


def motif_places(text, site):
    """Places, as a mask, that would be a boundary of this kind: GT right after it, or AG right before it."""
    here, after = np.zeros(len(text.bases), bool), np.zeros(len(text.bases), bool)
    here[:-1] = (text.bases[:-1] == G) & (text.bases[1:] == T)
    after[2:] = (text.bases[:-2] == A) & (text.bases[1:-1] == G)
    return here if site == "donor" else after


def likeness(text, places, site):
    """How much each place looks like a real site: log-odds of published frequencies over intron bases, in nats."""
    table, at = (DONOR, DONOR_AT) if site == "donor" else (ACCEPTOR, ACCEPTOR_AT)
    log_odds = np.log(np.maximum(table, 0.5) / table.sum(0)) - np.log(INTRON)[:, None]
    return log_odds[text.bases[places[:, None] + at], np.arange(len(at))].sum(1)


def choose(rng, places, how_many, what, log_odds=0.0):
    """Some places without repeats, in random order; the odds of a place are exp(log_odds) (Gumbel's top-k trick)."""
    if len(places) < how_many:
        raise ValueError(f"only {len(places)} places for {how_many} {what}")
    return places[np.argsort(-(log_odds + rng.gumbel(size=len(places))), kind="stable")[:how_many]]


def choose_sites(rng, text, site, record, how_many, cryptic):
    """Places of real sites of a record, and of as many false GT / AG of genes on their sense strand."""
    allowed = surrounded(text.bases != N, REACH) & (text.record == record)
    real = np.sort(text.sites[site])
    false = motif_places(text, site) & surrounded(text.gene >= 0, MARGIN) & allowed
    false[real] = False
    decoys = np.flatnonzero(false)
    return (choose(rng, real[allowed[real]], how_many, f"{site}s"),
            choose(rng, decoys, how_many, f"false {MOTIF[site]}", cryptic * likeness(text, decoys, site)))  # fmt: skip


# --- files --------------------------------------------------------------------------------------------------------


def write_fasta(path, records, note):
    with open(path, "wb") as file:
        for record in records:
            file.write(f">{record.name} {note}\n".encode())
            bases = LETTERS[record.bases]
            first, end = record.soft_masked
            bases[first:end] += 32  # lower case
            whole = len(bases) // 60 * 60
            lines = np.full((whole // 60, 61), ord("\n"), np.uint8)
            lines[:, :60] = bases[:whole].reshape(-1, 60)
            file.write(lines.tobytes())
            file.write(bases[whole:].tobytes() + b"\n" * (whole < len(bases)))


def forward_interval(record, strand, first, end):
    """0-based half-open on the strand -> 0-based half-open on the forward strand."""
    return (first, end) if strand == "+" else (len(record.bases) - end, len(record.bases) - first)


def gtf_lines(record):
    """Gene, transcript and exon rows, Ensembl's attributes, 1-based inclusive."""
    for gene in record.genes:
        names = f'gene_id "SYNG{gene.name}"; gene_version "1"; '
        product = f'gene_name "synthetic{gene.name}"; gene_source "synthetic"; gene_biotype "protein_coding"; '
        transcript = f'transcript_id "SYNT{gene.name}"; transcript_version "1"; '

        def row(feature, first, end, attributes, gene=gene):
            first, end = forward_interval(record, gene.strand, first, end)
            fields = record.name, "synthetic", feature, first + 1, end, ".", gene.strand, ".", attributes.strip()
            return "\t".join(map(str, fields)) + "\n"

        whole = gene.exons[0, 0], gene.exons[-1, 1]
        yield row("gene", *whole, names + product)
        yield row("transcript", *whole, names + transcript + product)
        for number, exon in enumerate(gene.exons, 1):
            yield row("exon", *exon, f'{names}{transcript}exon_number "{number}"; {product}'
                                     f'exon_id "SYNE{gene.name}.{number}";')  # fmt: skip


def windows_of(text, places, reach):
    return [letters(text.bases[place - reach : place + reach]) for place in places]


def write_training_windows(folder, text, site, positives, negatives):
    positive = folder / f"Training_data/Positive/GS/POS_{site}_600.csv"
    negative = folder / f"Training_data/Negative/GS/GS_1/NEG_600_{site}.csv"
    write_lines(positive, (f"SYN{i:05d}_SYNTHETIC;{window};True\n"
                           for i, window in enumerate(windows_of(text, positives, REACH))))  # fmt: skip
    rows = zip(text.index[negatives], windows_of(text, negatives, REACH), strict=True)
    write_lines(negative, ["ID_uniprot;Position;Sequence;Type\n"]
                          + [f"SYN{i:05d}_SYNTHETIC;{index};{window};FP\n"
                             for i, (index, window) in enumerate(rows)])  # fmt: skip


def write_benchmark_windows(folder, text, site, positives, negatives):
    for sign, places in (("positive", positives), ("negative", negatives)):
        path = folder / f"Benchmarks/Synthetic/SA_sequences_{site}_400_Final_3.{sign}.txt"
        write_lines(path, (f"SYN{i:05d}_SYNTHETIC;{window}\n"
                           for i, window in enumerate(windows_of(text, places, BENCHMARK_REACH))))  # fmt: skip


def bed_lines(text, records, motifs):
    """chrom, start, end of the two motif bases, name ending in |label, gene, strand; forward coordinates, sorted."""
    rows = []
    for label, places in motifs.items():
        for place in places:
            first = int(text.index[place]) - (2 if label.startswith("AG") else 0)
            record, strand = records[text.record[place]], "+-"[text.strand[place]]
            gene = f"SYNG{text.genes[text.gene[place]].name}"
            first, end = forward_interval(record, strand, first, first + 2)
            rows.append((record.name, first, end, f"synthetic|{gene}|{label}", gene, strand))
    return ["\t".join(map(str, row)) + "\n" for row in sorted(rows)]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="ascii", newline="\n")


def write_gzip(path, lines):
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:  # no name, no clock
        file.write("".join(lines).encode())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


README = """\
This folder is SYNTHETIC. No base in it comes from an organism; nothing found in it says anything about biology.

Made by:    python data/demo.py {options}
Generator:  version {version} of data/demo.py, whose opening text says what it imitates, from which sources, and how
            it is simpler than life. Same options, same bytes: manifest.json holds the checksums.

genome.fa       {megabases:.1f} Mb in {n_records} records; gaps of N, one stretch per record in lower case
genes.gtf       {n_genes} genes with {n_introns} introns on both strands
spliceator/     windows laid out like Spliceator's
                training: 600 nt, {windows} per file, from {training}
                benchmark species "Synthetic": 400 nt, {benchmark} per file, from {held_out}
                negatives: all FP, a false GT / AG in the place of the site
motifs.bed.gz   {motif_sites} sites for each of four labels, laid out like SpliceBERT's, from {held_out}
"""


def write_everything(folder, arguments):
    """All files of the demo, into an existing empty folder."""
    seed, windows, benchmark, motif_sites = (arguments[key] for key in ("seed", "windows", "benchmark", "motif_sites"))
    rng = np.random.default_rng(seed)
    # A fifth more introns than windows: some lie too close to a gap.
    n_introns = max(MIN_INTRONS, int(1.2 * max(windows, benchmark, motif_sites)) + 20)
    records = [make_record(rng, name, n_introns, donor_table()) for name in RECORDS]
    text = lay_out(records)

    note = f"SYNTHETIC sequence of no organism, data/demo.py version {VERSION} seed {seed}"
    write_fasta(folder / "genome.fa", records, note)
    header = f"#!genome-build {note}\n#!genebuild synthetic\n"
    write_lines(folder / "genes.gtf", [header, *(line for record in records for line in gtf_lines(record))])
    for site in SITES:
        training = choose_sites(rng, text, site, LABELLED, windows, CRYPTIC)
        write_training_windows(folder / "spliceator", text, site, *training)
        held_out = choose_sites(rng, text, site, HELD_OUT, benchmark, CRYPTIC)
        write_benchmark_windows(folder / "spliceator", text, site, *held_out)
    motifs = {}
    for site in SITES:
        labels = f"{MOTIF[site]}({site})", f"{MOTIF[site]}(non-{site})"
        motifs |= zip(labels, choose_sites(rng, text, site, HELD_OUT, motif_sites, 0), strict=True)
    write_gzip(folder / "motifs.bed.gz", bed_lines(text, records, motifs))

    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in arguments.items())
    readme = README.format(options=options, version=VERSION, n_records=len(records), n_genes=len(text.genes),
                           megabases=sum(len(record.bases) for record in records) / 1e6,
                           n_introns=len(text.sites["donor"]), held_out=RECORDS[HELD_OUT],
                           training=RECORDS[LABELLED], **arguments)  # fmt: skip
    write_lines(folder / "README.txt", [readme])


# --- the folder as a whole ----------------------------------------------------------------------------------------


def manifest_of(folder, arguments):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "what": "SYNTHETIC demo data, no organism",
        "made_by": "data/demo.py",
        "version": VERSION,
        "arguments": arguments,
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }


def read_manifest(folder):
    """The manifest of a folder this script made, else None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(manifest, dict) and {"made_by", "version", "arguments", "sha256"} <= manifest.keys()
    return manifest if complete and manifest["made_by"] == "data/demo.py" else None


def is_up_to_date(folder, arguments):
    manifest = read_manifest(folder)
    if manifest is None or (manifest["version"], manifest["arguments"]) != (VERSION, arguments):
        return False
    files = {folder / name: expected for name, expected in manifest["sha256"].items()}
    return all(path.is_file() and sha256(path) == expected for path, expected in files.items())


def build(folder, arguments):
    """Make the folder, whole or not at all."""
    if folder.exists() and read_manifest(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and was not made by this script: move it away, or choose another --out")
    folder = folder.resolve()  # where `folder` is a link, what it points to is replaced
    with replace_folder(folder) as fresh:
        write_everything(fresh, arguments)
        write_lines(fresh / "manifest.json", [json.dumps(manifest_of(fresh, arguments), indent=1) + "\n"])


# --- command line -------------------------------------------------------------------------------------------------


def parse(argv):
    parser = argparse.ArgumentParser(prog="data/demo.py", description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"data/demo.py: error: {message}\n")
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default %(default)s)")
    parser.add_argument("--windows", type=int, default=600, help="positives per site type in training, and as many "
                        "negatives (default %(default)s)")  # fmt: skip
    parser.add_argument("--benchmark", type=int, default=200, help="windows per benchmark file (default %(default)s)")
    parser.add_argument("--motif-sites", type=int, default=150, help="sites per label in motifs.bed.gz (default "
                        "%(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    for name, least in {"seed": 0, "windows": 3, "benchmark": 3, "motif_sites": 1}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more, not {getattr(args, name)}")
    return args, parser


def main(argv=None):
    args, parser = parse(argv)
    arguments = {name: getattr(args, name) for name in ("seed", "windows", "benchmark", "motif_sites")}
    started = time.perf_counter()
    try:
        mend_folder(args.out.resolve().parent, args.out.resolve().name)
        if is_up_to_date(args.out, arguments):
            print(f"{args.out}: up to date (synthetic, seed {args.seed})")
        else:
            build(args.out, arguments)
            seconds = time.perf_counter() - started
            print(f"{args.out}: made in {seconds:.1f} s (synthetic, seed {args.seed}), see {args.out / 'README.txt'}")
    except (ValueError, OSError) as problem:
        parser.error(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())

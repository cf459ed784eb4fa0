#!/usr/bin/env python3
"""Make a small SYNTHETIC genome whose grammar is biology's, and every file the pipeline reads from it.

    python data/demo.py                  # writes data/demo, seed 0, a few seconds, no network

No base here comes from an organism. What comes from biology are published frequencies, and each table below names its
source. A gene is codons drawn from human codon usage, cut into exons; introns in between are drawn base by base, lose
most of their CpG, and get a donor, a branch point, a polypyrimidine tract and an acceptor drawn from human
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
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VERSION = 2  # of the generator: a change that changes a byte of the output raises it
A, C, G, T, N = range(5)
LETTERS = np.frombuffer(b"ACGTN", np.uint8)
COMPLEMENT = np.array([T, G, C, A, N], np.uint8)

# Human splice sites, percent, every exon of RefSeq: the matrices of SQUIRLS (Danis et al. 2021, Am J Hum Genet
# 108:1564; file splicing-information-content-matrix.yaml of github.com/monarch-initiative/Squirls and classes
# SpliceDonorMatrix / SpliceAcceptorMatrix of github.com/TheJacksonLaboratory/vmvt), rounded to whole percent and with
# the 1 % or so that is not GT..AG left out. The donor weights of Rogan et al. 2003, as kept in Jannovar's class
# Rogan2003SplicingDonorMatrix, stand for frequencies within 2 points of these.
# Rows A C G T. Donor: -3 -2 -1 | (GT) +3 +4 +5 +6.
DONOR = np.array([
    [33, 64, 10, 60, 68,  9, 18],
    [36, 11,  3,  3,  8,  6, 15],
    [19, 12, 81, 34, 12, 77, 19],
    [12, 14,  7,  3, 12,  8, 48],
])  # fmt: skip
# Acceptor: -25 ... -3 (AG) | +1 +2.
ACCEPTOR = np.array([
    [25, 24, 24, 23, 22, 20, 18, 16, 15, 14, 12, 12, 11, 10,  9,  9, 10, 11, 12,  9, 10, 24,  6, 26, 25],
    [24, 25, 25, 25, 25, 26, 26, 27, 27, 27, 28, 28, 27, 28, 26, 28, 29, 32, 33, 34, 29, 27, 64, 15, 19],
    [16, 16, 15, 15, 15, 15, 15, 14, 14, 14, 13, 12, 12, 11, 10, 11, 11, 10,  9,  7,  7, 21,  1, 48, 19],
    [35, 36, 36, 37, 38, 40, 41, 43, 44, 45, 47, 48, 50, 52, 55, 52, 49, 46, 46, 50, 54, 28, 29, 11, 36],
])  # fmt: skip
DONOR_AT = np.array([-3, -2, -1, 2, 3, 4, 5])  # columns, bases from the boundary: 0 is the first of the intron
# Donor bases that depend on each other, counted as DONOR_AT: -1 / +5, -2 / +5, -1 / +6, -2 / +3, +3 / +4, +3 / +5.
# Where one is not the consensus, which pairs with U1, the other one is (maximal dependence decomposition, Burge and
# Karlin 1997, J Mol Biol 268:78; maximum entropy model, Yeo and Burge 2004, J Comput Biol 11:377). PAIR_ODDS, the odds
# ratio of two mismatches, is simplified: one number for all pairs. It gives 97 % of the donors without G at +5 a G at
# -1, of all donors 80 %.
PAIRS, PAIR_ODDS = ((-1, 4), (-2, 4), (-1, 5), (-2, 2), (2, 3), (2, 4)), 0.1
ACCEPTOR_AT = np.array([*range(-25, -2), 0, 1])  # here 0 is the first base of the exon

# Branch point yUnAy, percent, columns -3 -2 -1 0 +1 around the branching base. Column 0 from Gao et al. 2008 (Nucleic
# Acids Res 36:2257), the others from Gooding et al. 2006 (Genome Biol 7:R1, table 3, 19 sites of Kol et al. 2005).
BRANCH = np.array([
    [ 0,  0, 26, 92, 21],
    [63, 21, 32,  3, 53],
    [16,  0, 26,  2,  5],
    [21, 79, 16,  3, 21],
])  # fmt: skip
# Gao et al.: 83 % of branch points lie 21-34 nt upstream of the intron's end, and the tract begins 4 nt or more after
# them. A bell of mean 27 and sd 5 has about that share; its bounds are the usual range of Mercer et al. 2015 (18-45 nt,
# as quoted by Paggi and Bejerano 2018, RNA 24:1647).
BRANCH_MEAN, BRANCH_SD, BRANCH_MIN, BRANCH_MAX, BRANCH_TO_TRACT = 27, 5, 18, 45, 4

# Human codon usage per thousand, Kazusa CUTG, 93,487 coding sequences (Nakamura et al. 2000, Nucleic Acids Res
# 28:292). Its GC is 52 %, 59 % at third positions; exons measure the same (Genome Res 2002 12:198, table 1: 52, 59).
# Stop codons are left out: exons are open reading frames.
CODON_USAGE = """
    TTT 17.6  TCT 15.2  TAT 12.2  TGT 10.6    TTC 20.3  TCC 17.7  TAC 15.3  TGC 12.6
    TTA  7.7  TCA 12.2                        TTG 12.9  TCG  4.4            TGG 13.2
    CTT 13.2  CCT 17.5  CAT 10.9  CGT  4.5    CTC 19.6  CCC 19.8  CAC 15.1  CGC 10.4
    CTA  7.2  CCA 16.9  CAA 12.3  CGA  6.2    CTG 39.6  CCG  6.9  CAG 34.2  CGG 11.4
    ATT 16.0  ACT 13.1  AAT 17.0  AGT 12.1    ATC 20.8  ACC 18.9  AAC 19.1  AGC 19.5
    ATA  7.5  ACA 15.1  AAA 24.4  AGA 12.2    ATG 22.0  ACG  6.1  AAG 31.9  AGG 12.0
    GTT 11.0  GCT 18.4  GAT 21.8  GGT 10.8    GTC 14.5  GCC 27.7  GAC 25.1  GGC 22.2
    GTA  7.1  GCA 15.8  GAA 29.0  GGA 16.5    GTG 28.1  GCG  7.4  GAG 39.6  GGG 16.5
""".split()
CODONS = np.array([["ACGT".index(base) for base in codon] for codon in CODON_USAGE[::2]], np.uint8)
CODON_SHARE = np.array(CODON_USAGE[1::2], float)

# Bases A C G T before CpG decay. Simplified: about 41 % GC afterwards, as the genome at large; T over A and G over C on
# the coding strand of introns, the direction (not the amount) of Touchon et al. 2004 (Nucleic Acids Res 32:4969).
INTRON = np.array([0.26, 0.22, 0.23, 0.29])
INTERGENIC = np.array([0.28, 0.22, 0.22, 0.28])
CPG_DECAY = 0.8  # methylated CpG turns into TpG or CpA; about 20 % of those expected are left (Sved and Bird 1990)
# A gene's exons and introns are rich or poor in GC together, and introns are about three times longer in GC-poor genes
# than in GC-rich ones (Duret, Mouchiroud and Gautier 1995, J Mol Evol 40:308). Simplified: one normal shift of the
# log-odds of G and C per gene; one standard deviation up makes introns shorter by a factor exp(-0.5).
GC_SHIFT_SD, GC_SHORTENS = 0.4, 0.5

# Lengths: log-normal, (median, sigma, shortest, longest). Human medians are 124 nt for exons but the last and 1,747 nt
# for introns, 9 exons to a transcript (Piovesan et al. 2019, BMC Res Notes 12:315, table 2). Spread and bounds are
# simplified, introns are shortened.
EXON_LENGTH = (124, 0.45, 40, 600)
INTRON_LENGTH = (600, 0.6, 100, 4000)
SPACER_LENGTH = (1800, 0.5, 900, 6000)
EXONS_PER_GENE = (3, 15)  # both included, all equally likely

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


# --- bases --------------------------------------------------------------------------------------------------------


def draw(rng, table, rows):
    """Independent bases: (rows, columns) uint8 from a (4, columns) table of weights."""
    cumulative = np.cumsum(table / table.sum(0), 0)
    uniform = rng.random((rows, table.shape[1]))
    return (uniform[None] > cumulative[:3, None]).sum(0).astype(np.uint8)


def draw_lengths(rng, how_many, median, sigma, shortest, longest):
    return np.clip(median * np.exp(sigma * rng.standard_normal(how_many)), shortest, longest).astype(int)


def shift_gc(weights, gc_count, shift):
    return weights * np.exp(shift * gc_count)


def draw_noncoding(rng, length, weights):
    """Bases drawn one by one, then aged: most CpG become TpG or CpA."""
    bases = rng.choice(4, length, p=weights / weights.sum()).astype(np.uint8)
    cpg = np.flatnonzero((bases[:-1] == C) & (bases[1:] == G))
    decayed = cpg[rng.random(len(cpg)) < CPG_DECAY]
    on_this_strand = rng.random(len(decayed)) < 0.5
    bases[decayed[on_this_strand]] = T
    bases[decayed[~on_this_strand] + 1] = A
    return bases


def draw_coding(rng, length, shift):
    """An open reading frame of `length` bases, ATG first; the last codon may be cut short."""
    weights = shift_gc(CODON_SHARE, np.isin(CODONS, (C, G)).sum(1), shift)
    codons = CODONS[rng.choice(len(CODONS), length // 3 + 1, p=weights / weights.sum())]
    codons[0] = A, T, G
    return codons.ravel()[:length]


def reverse_complement(bases):
    return COMPLEMENT[bases[::-1]]


def letters(bases):
    return LETTERS[bases].tobytes().decode()


# --- signals ------------------------------------------------------------------------------------------------------


def donor_table():
    """Probability of each donor, 4 x ... x 4: the published frequencies at every column, and PAIRS that depend.

    Scaling one column after the other to its frequencies (iterative proportional fitting) keeps the odds ratios.
    """
    columns = len(DONOR_AT)
    table, states = np.ones((4,) * columns), np.indices((4,) * columns)
    mismatch = states != DONOR.argmax(0).reshape(-1, *[1] * columns)
    for pair in PAIRS:
        first, second = (mismatch[list(DONOR_AT).index(place)] for place in pair)
        table[first & second] *= PAIR_ODDS
    for _ in range(100):
        for column in range(columns):
            others = tuple(other for other in range(columns) if other != column)
            shape = [4 if other == column else 1 for other in range(columns)]
            table *= (DONOR[:, column] / DONOR[:, column].sum() / table.sum(others)).reshape(shape)
    return table


def draw_donors(rng, table, rows):
    """(rows, 7) uint8: columns of DONOR_AT."""
    states = rng.choice(table.size, rows, p=table.ravel() / table.sum())
    return np.stack(np.unravel_index(states, table.shape), axis=1).astype(np.uint8)


TAIL = 50  # bases at an intron's end that hold branch point, tract and acceptor


def tract_model():
    """Split the published acceptor frequencies into tract and background.

    Returns the share of introns whose tract covers each of the last TAIL bases (never falling towards the site), and
    the bases (4, TAIL) inside a tract, such that share x tract + (1 - share) x intron background is the published
    frequency, as nearly as weights above zero allow. A tract is taken to hold 10 % purines; beyond -25, where nothing
    is published, the share fades to none over ten bases.
    """
    published = ACCEPTOR[:, :21] / ACCEPTOR[:, :21].sum(0)  # -25 ... -5
    purine_share = published[A] + published[G]
    background_purines = INTRON[A] + INTRON[G]
    share = np.clip((background_purines - purine_share) / (background_purines - 0.1), 0, 1)
    share = np.maximum.accumulate(share)
    tract = np.clip((published - np.outer(INTRON, 1 - share)) / share, 0.005, None)
    covered = np.zeros(TAIL)
    covered[-25:-4] = share
    covered[-35:-25] = share[0] * np.linspace(0, 1, 10, endpoint=False)
    bases = np.repeat(tract[:, :1], TAIL, axis=1)
    bases[:, -25:-4] = tract
    return covered, bases


def write_acceptors(rng, tails):
    """Write a branch point, a tract and an AG into `tails` (introns, TAIL), the last bases of introns."""
    introns = len(tails)
    covered, tract_bases = tract_model()
    in_tract = covered > rng.random((introns, 1))  # one number per intron, so a tract has no holes
    tails[in_tract] = draw(rng, tract_bases, introns)[in_tract]
    tails[:, -4:-2] = draw(rng, ACCEPTOR[:, 21:23], introns)
    tails[:, -2:] = A, G

    distance = np.rint(rng.normal(BRANCH_MEAN, BRANCH_SD, introns)).astype(int).clip(BRANCH_MIN, BRANCH_MAX)
    tract_length = in_tract.sum(1) + 4  # to the end of the intron
    distance = np.maximum(distance, tract_length + BRANCH_TO_TRACT).clip(None, BRANCH_MAX)
    columns = TAIL - distance[:, None] + np.arange(-3, 2)
    tails[np.arange(introns)[:, None], columns] = draw(rng, BRANCH, introns)

    # No AG between branch point and acceptor (Gooding et al. 2006): the first AG downstream of a branch point is used.
    early = (tails[:, :-3] == A) & (tails[:, 1:-2] == G) & (np.arange(TAIL - 3) > TAIL - distance[:, None])
    tails[:, :-3][early] = rng.choice((C, T), early.sum())


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


def make_gene(rng, donors_table):
    """The bases of one gene in the direction of transcription, and its exons as (exons, 2) start and end."""
    richness = rng.standard_normal()
    shift = GC_SHIFT_SD * richness
    n_exons = rng.integers(EXONS_PER_GENE[0], EXONS_PER_GENE[1] + 1)
    exon_lengths = draw_lengths(rng, n_exons, *EXON_LENGTH)
    median, *spread = INTRON_LENGTH
    intron_lengths = draw_lengths(rng, n_exons - 1, median * np.exp(-GC_SHORTENS * richness), *spread)
    exons = np.split(draw_coding(rng, exon_lengths.sum(), shift), np.cumsum(exon_lengths)[:-1])
    weights = shift_gc(INTRON, np.array([0, 1, 1, 0]), shift)
    introns = [draw_noncoding(rng, length, weights) for length in intron_lengths]

    tails = np.stack([intron[-TAIL:] for intron in introns])
    write_acceptors(rng, tails)
    donors = draw_donors(rng, donors_table, len(introns))
    exon_starts = draw(rng, ACCEPTOR[:, 23:], len(introns))
    for i, intron in enumerate(introns):
        exons[i][-3:], intron[:2], intron[2:6] = donors[i, :3], (G, T), donors[i, 3:]
        intron[-TAIL:], exons[i + 1][:2] = tails[i], exon_starts[i]

    starts = np.cumsum([0, *(exon_lengths[:-1] + intron_lengths)])
    pieces = [piece for pair in zip(exons, introns, strict=False) for piece in pair] + [exons[-1]]
    return np.concatenate(pieces), np.stack([starts, starts + exon_lengths], 1)


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
        manifest = json.loads((folder / "manifest.json").read_text())
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
    """Write beside `folder`, then rename: whoever looks sees the old folder or the new one, never half of one."""
    if folder.exists() and read_manifest(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and was not made by this script: move it away, or choose another --out")
    folder = folder.resolve()  # where `folder` is a link, what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    stale = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    fresh.mkdir()
    try:
        write_everything(fresh, arguments)
        write_lines(fresh / "manifest.json", [json.dumps(manifest_of(fresh, arguments), indent=1) + "\n"])
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


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

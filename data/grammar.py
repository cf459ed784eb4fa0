"""The grammar of demo.py's synthetic genome: published frequencies, and a gene drawn from them."""

import numpy as np

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


# --- a gene -------------------------------------------------------------------------------------------------------


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

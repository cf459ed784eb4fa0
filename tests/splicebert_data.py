"""A small folder as data/fetch.py leaves it for `evaluate.py splicebert`: two genes, variants, conservation, pairs."""

import gzip

import numpy as np
import pandas as pd
from conftest import other_strand, put, random_bases, write_fasta

FLANK, EXON, LENGTH = 20, 12, 1200
HALF = 15  # nt of a construct on either side of an exon's middle, and more
EXONS = [range(at, at + EXON) for at in range(60, LENGTH - 80, 52)]  # in a gene, on its own strand


def write_genes(folder, rng):
    """{record: (bases on its strand, chrom, start, strand)}: GT and AG about exons; gene B is on the minus strand."""
    genes, rows = {}, []
    for name, start, strand in (("A", 1000, "+"), ("B", 5000, "-")):
        bases = random_bases(rng, LENGTH)
        for exon in EXONS:
            bases = put(put(bases, exon[0] - 2, "AG"), exon[-1] + 1, "GT")
        genes[name] = (bases, "chr1", start, strand)
        rows.append({"record": name, "chrom": "chr1", "strand": strand, "transcript": f"T{name}", "length": LENGTH})
        for build, shift in (("hg19", 0), ("hg38", 100_000)):
            rows[-1] |= {f"{build}_start": start + 1 + shift, f"{build}_end": start + LENGTH + shift}
    write_fasta(folder / "genes/chr1.fa", {name: gene[0] for name, gene in genes.items()})
    pd.DataFrame(rows).to_csv(folder / "genes/genes.tsv", sep="\t", index=False)
    lines = [
        f'{name}\tx\texon\t{exon[0] + 1}\t{exon[-1] + 1}\t.\t+\t.\tgene_id "{name}"; transcript_id "T{name}";\n'
        for name in genes
        for exon in EXONS
    ]
    (folder / "genes/chr1.gtf").write_text("".join(lines))
    return genes


def place_of(gene, at):
    """(0-based place on the chromosome) of base `at` of a gene."""
    _, _, start, strand = gene
    return start + at if strand == "+" else start + LENGTH - 1 - at


def variant_rows(genes, rng):
    """Rows of the MFASS table: six variants an exon, of which those at the dinucleotides disrupt."""
    rows = []
    for name, gene in genes.items():
        for number, exon in enumerate(EXONS):
            left, right = exon[0] - FLANK, exon[-1] + 1 + FLANK
            wild = gene[0][left:right]
            for offset in (2, FLANK - 1, FLANK + 3, FLANK + EXON, FLANK + EXON + 7, FLANK + 5):
                ref = wild[offset]
                alt = rng.choice([base for base in "ACGT" if base != ref])
                told = (ref, alt) if gene[3] == "+" else (other_strand(ref), other_strand(alt))
                disrupts = offset in (FLANK - 1, FLANK + EXON)
                place = place_of(gene, left + offset) + 1
                row = {"id": f"{name}{number}_{offset}", "exon": f"{name}{number}", "chrom": gene[1], "strand": gene[3]}
                row |= {"pos_hg19": place, "pos_hg38": place + 100_000, "ref": told[0], "alt": told[1]}
                row["offset0"] = offset
                row |= {"exon_start0": FLANK, "exon_end0": FLANK + EXON, "v2_dpsi": -0.8 if disrupts else 0.01}
                rows.append(row | {"sdv": float(disrupts), "wt": wild})
    return pd.DataFrame(rows)


def write_splicebert_data(folder, seed=0):
    """The whole folder; returns (genes, rows of MFASS)."""
    rng = np.random.default_rng(seed)
    for name in ("genes", "variants", "conservation", "attention"):
        (folder / name).mkdir(parents=True)
    genes = write_genes(folder, rng)
    rows = variant_rows(genes, rng)
    rows.to_csv(folder / "variants/mfass.tsv.gz", sep="\t", index=False)
    peers = {name: rng.random(len(rows)) for name in ("pangolin", "spliceai", "splicetransformer", "mmsplice", "spanr")}
    peers |= {"phylop100": rng.random(len(rows)), "phastcons100": rng.random(len(rows))}
    table = pd.DataFrame({"id": rows["id"], **peers})
    table.loc[3, "spanr"] = np.nan
    table.to_csv(folder / "variants/mfass.peers.tsv.gz", sep="\t", index=False)
    exons = rows.drop_duplicates("exon")
    scores = [",".join(f"{value:.3f}" for value in rng.random(len(wild)).round(3)) for wild in exons["wt"]]
    table = pd.DataFrame({"exon": exons["exon"], "phastcons100": scores})
    table.to_csv(folder / "conservation/mfass.phastcons.tsv.gz", sep="\t", index=False)
    with gzip.open(folder / "attention/hg19.intronic_pair.1000_per_group.bedpe.gz", "wt") as handle:
        for line in pair_lines(genes):
            handle.write(line)
    return genes, rows


def pair_lines(genes):
    """Introns between neighbouring exons as SpliceBERT's BEDPE has them: the intron's first and last base."""
    for gene in genes.values():
        region = f"{gene[1]}:{gene[2]}-{gene[2] + LENGTH}"
        for left, right in zip(EXONS, EXONS[1:]):
            ends = [("D", "GT", place_of(gene, left[-1] + 1)), ("A", "AG", place_of(gene, right[0] - 1))]
            (a, motif, p), (b, other, q) = ends
            name = f"{region}|intronic_pair|{a}|{b}|{motif}|{other}|{abs(p - q)}"
            yield f"{gene[1]}\t{p}\t{p + 1}\t{gene[1]}\t{q}\t{q + 1}\t{name}\t.\t{gene[3]}\t{gene[3]}\n"

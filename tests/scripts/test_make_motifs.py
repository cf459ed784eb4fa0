"""data/motifs.py: labelled sites from a genome and its annotation, and the windows about them in one file."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from conftest import other_strand, put, random_bases, refusal, start_script, write_fasta

from data import motifs as script
from simcsp.labels.motifs import cut_motifs, read_bed, read_cut
from simcsp.text.store import open_store

EXON, INTRON, GENES = 60, 100, 6
LENGTH = 4 * EXON + 3 * INTRON  # of a gene: four exons


def gene_bases(rng):
    bases = random_bases(rng, LENGTH)
    for i in range(3):
        donor = EXON + i * (EXON + INTRON)
        bases = put(put(bases, donor, "GT"), donor + INTRON - 2, "AG")
    return bases


def write_genome(folder, masked=range(0), seed=0):
    """genome.fa with six genes on alternate strands of chr1, `masked` of its bases in lower case, and genes.gtf."""
    rng, bases, rows = np.random.default_rng(seed), random_bases(np.random.default_rng(seed + 99), 200), []
    for gene in range(GENES):
        start, strand = len(bases), "+-"[gene % 2]
        inside = gene_bases(rng)
        bases += (inside if strand == "+" else other_strand(inside)) + random_bases(rng, 200)
        for i in range(4):
            first = start + i * (EXON + INTRON)
            ids = f'gene_id "g{gene}"; transcript_id "t{gene}";'
            rows.append(f"chr1\tx\texon\t{first + 1}\t{first + EXON}\t.\t{strand}\t.\t{ids}\n")
    bases = "".join(base.lower() if i in masked else base for i, base in enumerate(bases))
    write_fasta(folder / "genome.fa", {"chr1": bases, "chr2": random_bases(rng, 500)})
    (folder / "genes.gtf").write_text("".join(rows))
    return bases


@pytest.fixture
def genome(tmp_path):
    return write_genome(tmp_path)


@pytest.fixture
def make(call, tmp_path, capsys):
    """make('--seed', 1) -> (rows of the BED, what was printed)."""

    def make(*options, out="motifs.bed.gz"):
        call(script, *arguments(tmp_path), "--out", tmp_path / out, *options)
        content = (tmp_path / out).read_bytes()
        text = gzip.decompress(content) if out.endswith(".gz") else content
        return [line.split("\t") for line in text.decode().splitlines()], capsys.readouterr().out

    return make


def arguments(folder):
    return "--fasta", folder / "genome.fa", "--annotation", folder / "genes.gtf", "--cache", folder / "cache"


def real_sites():
    """{(start of the motif, strand, label)} of every intron of `write_genome`."""
    sites = set()
    for gene in range(GENES):
        start, strand = 200 + gene * (LENGTH + 200), "+-"[gene % 2]
        for i in range(3):
            left = start + EXON + i * (EXON + INTRON)
            donor, acceptor = (left, left + INTRON - 2)[:: 1 if strand == "+" else -1]
            sites |= {(donor, strand, "GT(donor)"), (acceptor, strand, "AG(acceptor)")}
    return sites


# -- sites -------------------------------------------------------------------------------------------------------------


def test_all_real_sites_and_as_many_decoys_of_their_genes(genome, make):
    rows, printed = make()
    labels = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")
    assert Counter(row[3].split("|")[1] for row in rows) == dict.fromkeys(labels, 18)
    sites = [(int(start), strand, name.split("|")[1]) for _, start, _, name, _, strand in rows]
    assert {site for site in sites if "non" not in site[2]} == real_sites()
    assert len(set(sites)) == 72
    assert not {site[:2] for site in sites if "non" in site[2]} & {site[:2] for site in real_sites()}
    for chrom, start, end, name, gene, strand in rows:
        pair = genome[int(start) : int(end)]
        assert (chrom, pair if strand == "+" else other_strand(pair)) == ("chr1", name.split("|")[1][:2])
        assert name.split("|")[0] == gene
        number = int(gene[1:])
        body = 200 + number * (LENGTH + 200)
        assert strand == "+-"[number % 2] and body <= int(start) and int(end) <= body + LENGTH
    assert set(Counter((row[4], row[3].split("|")[1]) for row in rows).values()) == {3}  # per gene, decoys as real
    assert rows == sorted(rows, key=lambda row: (row[0], int(row[1]), row[3]))
    assert "introns: 18; 18 begin with GT, 18 end in AG, 100.0% do both" in printed
    assert "no lower-case base" in printed and "5000 were asked for: 18 is the most" in printed


def test_fewer_are_drawn_by_seed_and_the_same_seed_gives_the_same_bytes(genome, make, tmp_path):
    rows, printed = make("--per-label", 5)
    assert set(Counter(row[3].split("|")[1] for row in rows).values()) == {5}
    assert "were asked for" not in printed
    content = (tmp_path / "motifs.bed.gz").read_bytes()
    genes = tmp_path / "genes.gtf"
    genes.write_text("".join(reversed(genes.read_text().splitlines(keepends=True))))
    make("--per-label", 5, out="again.bed.gz")
    assert (tmp_path / "again.bed.gz").read_bytes() == content
    assert make("--per-label", 5, "--seed", 1)[0] != rows
    assert make("--per-label", 5, out="plain.bed")[0] == rows


def test_soft_masked_sites_are_left_out_on_either_base(make, tmp_path):
    site = 200 + EXON  # the donor of g0's first intron
    masked = {site + 1, *range(200 + LENGTH - 40, 200 + LENGTH)}  # its T; and what must hold decoys of g0
    write_genome(tmp_path, masked)
    rows, printed = make()
    assert site not in {int(row[1]) for row in rows}
    touched = {int(row[1]) for row in rows} | {int(row[1]) + 1 for row in rows}
    assert not touched & masked
    assert Counter(row[3].split("|")[1] for row in rows)["GT(donor)"] == 17
    assert "GT(donor): 17 of 18 annotated; 18 are GT, 5.6% of these left out as repeats" in printed
    assert "no lower-case" not in printed


def test_a_site_of_any_transcript_is_no_decoy(genome, make, tmp_path):
    """Nearly every GT of a gene becomes the donor of a transcript that ends with the gene's last exon."""
    body, last_exon = 200, 200 + LENGTH - EXON
    places = [i for i in range(body + 1, last_exon - 30) if genome[i : i + 2] == "GT"]
    rows = [
        f'chr1\tx\texon\t{start + 1}\t{end}\t.\t+\t.\tgene_id "g0"; transcript_id "more{place}";\n'
        for place in places
        for start, end in ((body, place), (last_exon, body + LENGTH))
    ]
    gtf = tmp_path / "genes.gtf"
    gtf.write_text(gtf.read_text() + "".join(rows))
    found = make()[0]
    donors, others = ({int(row[1]) for row in found if row[3] == f"g0|GT({label})"} for label in ("donor", "non-donor"))
    assert len(places) > 15 and donors <= set(places) and others
    assert not others & set(places)


def test_records_can_be_chosen(genome, make, call, capsys, tmp_path):
    assert make("--records", "chr1", "chr2")[0] == make()[0]
    line = refusal(call, capsys, script, *arguments(tmp_path), "--out", tmp_path / "x.bed", "--records", "chr2")
    assert "genes.gtf has no intron on the records" in line
    assert not (tmp_path / "x.bed").exists()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_the_annotation_of_another_build_is_refused(genome, call, capsys, tmp_path):
    bases = random_bases(np.random.default_rng(3), len(genome))
    write_fasta(tmp_path / "genome.fa", {"chr1": bases})
    line = refusal(call, capsys, script, *arguments(tmp_path), "--out", tmp_path / "x.bed")
    assert "of the introns in" in line and "they are of different genome builds" in line
    assert not (tmp_path / "x.bed").exists()


def test_a_genome_that_is_all_repeats_is_refused(call, capsys, tmp_path):
    write_genome(tmp_path, range(10_000))
    line = refusal(call, capsys, script, *arguments(tmp_path), "--out", tmp_path / "x.bed")
    assert "no donor or no acceptor that is not soft-masked" in line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--per-label", 0], "--per-label must be 1 or more, not 0"),
        (["--seed", -1], "--seed must be 0 or more, not -1"),
        (["--sead", 1], "unrecognized arguments: --sead 1"),
        (["--out", "."], "--out . is a folder"),
        (["--fasta", "none.fa"], "none.fa does not exist"),
    ],
)
def test_bad_options_are_one_line(genome, call, capsys, tmp_path, options, message):
    argv = (*arguments(tmp_path), "--out", tmp_path / "x.bed", *options)
    assert message in refusal(call, capsys, script, *argv)


# -- cut ---------------------------------------------------------------------------------------------------------------


def test_cut_gives_the_windows_of_the_bed_without_the_genome(genome, make, call, tmp_path):
    make()
    bed, fasta, out = tmp_path / "motifs.bed.gz", tmp_path / "genome.fa", tmp_path / "motifs.npz"
    options = ("cut", "--bed", bed, "--fasta", fasta, "--cache", tmp_path / "cache", "--window", 60, "--out", out)
    call(script, *options)
    expected = cut_motifs(read_bed(bed), open_store([fasta], tmp_path / "cache"), 40, bed)
    fasta.unlink()
    assert read_cut(out, 40).sha256 == expected.sha256
    with np.load(out) as file:
        sources = json.loads(str(file["sources"]))
    assert sources["bed"] == "motifs.bed.gz" and sources["fasta"] == "genome.fa"
    assert len(sources["bed_sha256"]) == len(sources["fasta_sha256"]) == 64


def test_cut_refuses_what_cannot_be_cut(genome, make, call, capsys, tmp_path):
    make(out="motifs.bed")
    files = ("--bed", tmp_path / "motifs.bed", "--fasta", tmp_path / "genome.fa", "--cache", tmp_path / "cache")
    out = tmp_path / "m.npz"
    assert "--window must be even" in refusal(call, capsys, script, "cut", *files, "--out", out, "--window", 41)
    assert "--out must end in .npz" in refusal(call, capsys, script, "cut", *files, "--out", tmp_path / "m.bed")
    write_genome(tmp_path, seed=1)
    assert "of the sites in" in refusal(call, capsys, script, "cut", *files, "--out", out)
    assert not out.exists()


def test_it_runs_as_a_script_from_any_folder(genome, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "new/folder/motifs.bed.gz"
    done = start_script("data/motifs.py", *arguments(tmp_path), "--out", out, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert len(read_bed(out)) == 72
    assert not list((tmp_path / "elsewhere").iterdir())

"""Motif sites: the BED, the windows on both strands, and the guard against another genome build."""

import gzip

import numpy as np
import pytest
import torch
from conftest import motif_settings, other_strand, put, random_bases, tiny_config, write_fasta, write_genome

from utils.backbone import load_backbone
from utils.config import load_config
from utils.errors import InputError
from utils.motifs import cut_motifs, read_bed
from utils.proxies import load_motifs, measure_nmi
from utils.sequence import decode, open_store


def load(bed, fasta, cache, window=40):
    return cut_motifs(read_bed(bed), open_store([fasta], cache), window, bed)


@pytest.fixture
def files(own_data):
    return own_data / "motifs.bed", own_data / "genome.fa", own_data / "cache"


def rewrite_columns(bed, change):
    lines = [change(line.split("\t")) for line in bed.read_text().splitlines()]
    bed.write_text("".join("\t".join(map(str, fields)) + "\n" for fields in lines))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_labels_are_the_last_part_of_the_name(tmp_path):
    bed = tmp_path / "any.bed"
    bed.write_text(
        "# comment\ntrack name=x\n\n"
        "chr1\t10\t12\tENST1|7|GT(donor)\t.\t+\n"
        "chr1\t20\t22\tAG(non-acceptor)\t.\t-\textra\r\n"
        "chr2\t0\t2\tx|donor(SSE < 0.2)\t.\t+\n"
    )
    sites = read_bed(bed)
    assert [(s.chrom, s.start, s.end, s.strand) for s in sites] == [
        ("chr1", 10, 12, "+"),
        ("chr1", 20, 22, "-"),
        ("chr2", 0, 2, "+"),
    ]
    assert [site.label for site in sites] == ["GT(donor)", "AG(non-acceptor)", "donor(SSE < 0.2)"]
    assert sites[0].where == f"{bed}, line 4"


def test_a_gzipped_bed_is_read(files, tmp_path):
    zipped = tmp_path / "motifs.bed.gz"
    zipped.write_bytes(gzip.compress(files[0].read_bytes()))
    assert [(s.start, s.label) for s in read_bed(zipped)] == [(s.start, s.label) for s in read_bed(files[0])]


GOOD = "chr1\t10\t12\tx|GT(donor)\t.\t+\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no site"),
        ("# only a comment\n", "holds no site"),
        (GOOD + "chr1\t10\t12\tx|GT(donor)\t.\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t1", "line 2: expected tab-separated"),
        (GOOD + "chr1 10 12 x|GT(donor) . +\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\tten\t12\tx|GT(donor)\t.\t+\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t-10\t-8\tx|GT(donor)\t.\t+\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t10\t12\tx|GT(donor)\t.\t.\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t10\t13\tx|GT(donor)\t.\t+\n", "line 2: a motif site spans two bases, this one 3"),
        (GOOD + "chr1\t10\t12\tx|GC(donor)\t.\t+\n", "line 2: label 'GC.donor.' is none of"),
    ],
)
def test_a_bad_bed_is_refused_with_file_and_line(tmp_path, text, message):
    bed = tmp_path / "bad.bed"
    bed.write_text(text)
    with pytest.raises(InputError, match=f"bad.bed.*{message}"):
        read_bed(bed)


def test_a_missing_or_cut_bed_is_refused(files, tmp_path):
    with pytest.raises(InputError, match="none.bed does not exist"):
        read_bed(tmp_path / "none.bed")
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(files[0].read_bytes())[:-30])
    with pytest.raises(InputError, match="cut.bed.gz: the gzip stream is damaged or cut short"):
        read_bed(tmp_path / "cut.bed.gz")


# -- windows -----------------------------------------------------------------------------------------------------------


def test_the_two_central_bases_are_those_of_the_label_on_both_strands(files):
    motifs = load(*files)
    assert motifs.ids.shape == (40, 40)
    assert sorted(set(motifs.labels)) == ["AG(acceptor)", "AG(non-acceptor)", "GT(donor)", "GT(non-donor)"]
    for ids, label in zip(motifs.ids, motifs.labels):
        assert decode(ids[19:21]) == label[:2]
    donors = [decode(ids[19:25]) for ids, label in zip(motifs.ids, motifs.labels) if label == "GT(donor)"]
    acceptors = [decode(ids[14:21]) for ids, label in zip(motifs.ids, motifs.labels) if label == "AG(acceptor)"]
    assert set(donors) == {"GTAAGT"} and set(acceptors) == {"TTTTCAG"}


@pytest.mark.parametrize("window", [8, 40, 510])
def test_windows_start_where_the_published_ones_do(tmp_path, window):
    bases = put(put(random_bases(np.random.default_rng(0), 1200), 600, "GT"), 700, "AG")
    fasta = write_fasta(tmp_path / "a.fa", {"chr1": bases})
    bed = tmp_path / "a.bed"
    bed.write_text("chr1\t600\t602\tGT(donor)\t.\t+\nchr1\t700\t702\tAG(acceptor)\t.\t+\n")
    left = (600 + 602) // 2 - window // 2
    assert decode(load(bed, fasta, tmp_path, window).ids[0]) == bases[left : left + window]


def test_minus_strand_windows_are_the_reverse_complement_of_the_plus_strand(tmp_path):
    bases = put(put(random_bases(np.random.default_rng(0), 300), 100, "GT"), 120, "AG")
    write_fasta(tmp_path / "plus.fa", {"chr1": bases})
    write_fasta(tmp_path / "minus.fa", {"chr1": other_strand(bases)})
    (tmp_path / "plus.bed").write_text("chr1\t100\t102\tGT(donor)\t.\t+\nchr1\t120\t122\tAG(acceptor)\t.\t+\n")
    (tmp_path / "minus.bed").write_text("chr1\t198\t200\tGT(donor)\t.\t-\nchr1\t178\t180\tAG(acceptor)\t.\t-\n")
    plus, minus = (load(tmp_path / f"{s}.bed", tmp_path / f"{s}.fa", tmp_path, 50).ids for s in ("plus", "minus"))
    assert np.array_equal(plus, minus)


def test_windows_are_n_beyond_the_ends_of_a_record(tmp_path):
    fasta = write_fasta(tmp_path / "a.fa", {"other": "CCCC", "chr1": "AGTTTTTTAG", "next": "CCCC"})
    bed = tmp_path / "a.bed"
    bed.write_text("chr1\t1\t3\tGT(donor)\t.\t+\nchr1\t8\t10\tAG(acceptor)\t.\t+\nchr1\t0\t2\tAG(acceptor)\t.\t+\n")
    assert [decode(ids) for ids in load(bed, fasta, tmp_path, 12).ids] == [
        "NNNNAGTTTTTT",
        "TTTTTAGNNNNN",
        "NNNNNAGTTTTT",
    ]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_site_outside_its_record_is_refused_with_its_line(files):
    bed, fasta, cache = files
    bed.write_text(bed.read_text() + "tiny3\t2999\t3001\tGT(donor)\t.\t+\n")
    with pytest.raises(InputError, match="motifs.bed, line 41: the site ends at 3001, beyond record tiny3 of 3000 nt"):
        load(bed, fasta, cache)


def test_a_site_on_an_unknown_record_is_refused_with_its_line(files):
    bed, fasta, cache = files
    bed.write_text(bed.read_text() + "chrX\t10\t12\tGT(donor)\t.\t+\n")
    with pytest.raises(InputError, match="motifs.bed, line 41: no record 'chrX' in genome.fa"):
        load(bed, fasta, cache)


def moved(by):
    return lambda fields: [fields[0], int(fields[1]) + by, int(fields[2]) + by, *fields[3:]]


@pytest.mark.parametrize(
    "change",
    [moved(1), moved(-1), lambda fields: [*fields[:5], "-" if fields[5] == "+" else "+"]],
    ids=["one to the right", "one to the left", "wrong strand"],
)
def test_sites_that_are_off_are_refused(files, change):
    rewrite_columns(files[0], change)
    with pytest.raises(InputError, match="of the sites in .*motifs.bed show .* in genome.fa .at least 95%"):
        load(*files)


def test_another_genome_is_refused(files):
    bed, fasta, cache = files
    write_genome(fasta.parent, np.random.default_rng(77))
    records = fasta.read_text()
    write_fasta(fasta, {"tiny3": random_bases(np.random.default_rng(5), 3000)})
    assert fasta.read_text() != records
    with pytest.raises(InputError, match="another genome build"):
        load(bed, fasta, cache)


def test_up_to_five_percent_of_the_sites_may_differ(files):
    bed, fasta, cache = files
    first, second, *rest = bed.read_text().splitlines(keepends=True)
    bed.write_text("".join([first.replace("GT(donor)", "AG(acceptor)"), second, *rest]))
    assert len(load(bed, fasta, cache).labels) == 40  # 39 of 40 agree
    swapped = [line.replace("GT(", "AG(") for line in (first, second, *rest[:3])]
    bed.write_text("".join([*swapped, *rest[3:]]))
    with pytest.raises(InputError, match="only 92.5% of the sites"):
        load(bed, fasta, cache)


@pytest.mark.parametrize("kept, missing", [("GT", "AG"), ("AG", "GT")])
def test_a_bed_without_one_of_the_halves_is_refused(own_data, tmp_path, kept, missing):
    bed = own_data / "motifs.bed"
    bed.write_text("".join(line for line in bed.read_text().splitlines(keepends=True) if f"|{kept}" in line))
    config = load_config([str(tiny_config(tmp_path, own_data, motif_settings(own_data)))])
    torch.manual_seed(0)
    model, _, _ = load_backbone(config.model)
    with pytest.raises(InputError, match=f"motifs.bed has no {missing} site"):
        measure_nmi(model.bert, load_motifs(config), config)

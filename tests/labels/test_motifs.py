"""Motif sites: the BED, the windows on both strands, and the guard against another genome build."""

import numpy as np
import pytest
import torch
from conftest import motif_settings, other_strand, put, random_bases, tiny_config, write_fasta

from simcsp.core.errors import InputError
from simcsp.labels.motifs import cut_motifs, load_motifs, read_bed, read_cut, save_motifs
from simcsp.metrics.proxies import measure_nmi
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import decode
from simcsp.text.store import open_store
from utils.arguments import load_config


def load(bed, fasta, cache, window=40, **options):
    return cut_motifs(read_bed(bed), open_store([fasta], cache), window, bed, **options)


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
    places = [(s.chrom, s.start, s.end, s.strand) for s in sites]
    assert places == [("chr1", 10, 12, "+"), ("chr1", 20, 22, "-"), ("chr2", 0, 2, "+")]
    assert [site.label for site in sites] == ["GT(donor)", "AG(non-acceptor)", "donor(SSE < 0.2)"]
    assert sites[0].where == f"{bed}, line 4"


GOOD = "chr1\t10\t12\tx|GT(donor)\t.\t+\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no site"),
        ("# only a comment\n", "holds no site"),
        (GOOD + "chr1\t10\t12\tx|GT(donor)\t.\n", "line 2: expected tab-separated"),
        (GOOD + "chr1 10 12 x|GT(donor) . +\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t-10\t-8\tx|GT(donor)\t.\t+\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t10\t12\tx|GT(donor)\t.\t.\n", "line 2: expected tab-separated"),
        (GOOD + "chr1\t10\t13\tx|GT(donor)\t.\t+\n", "line 2: a motif site spans two bases, this one 3"),
        (GOOD + "chr1\t11\t12\tx|GT(donor)\t.\t+\n", "line 2: .* this one 1: its start is 1-based, BED counts from 0"),
        (GOOD + "chr1\t10\t12\tx|GC(donor)\t.\t+\n", "line 2: label 'GC.donor.' is none of"),
    ],
)
def test_a_bad_bed_is_refused_with_file_and_line(tmp_path, text, message):
    bed = tmp_path / "bad.bed"
    bed.write_text(text)
    with pytest.raises(InputError, match=f"bad.bed.*{message}"):
        read_bed(bed)


# -- windows -----------------------------------------------------------------------------------------------------------


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
    windows = [decode(ids) for ids in load(bed, fasta, tmp_path, 12).ids]
    assert windows == ["NNNNAGTTTTTT", "TTTTTAGNNNNN", "NNNNNAGTTTTT"]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, message",
    [
        ("tiny3\t2999\t3001", "the site ends at 3001, beyond record tiny3 of 3000 nt"),
        ("chrX\t10\t12", "no record 'chrX' in genome.fa$"),
        ("chrtiny3\t10\t12", "no record 'chrtiny3' in genome.fa: it is 'tiny3' there"),
    ],
)
def test_a_site_on_no_record_is_refused_with_its_line(files, row, message):
    bed, fasta, cache = files
    bed.write_text(bed.read_text() + f"{row}\tGT(donor)\t.\t+\n")
    with pytest.raises(InputError, match=f"motifs.bed, line 41: {message}"):
        load(bed, fasta, cache)


def move(by):
    return lambda fields: [fields[0], int(fields[1]) + by, int(fields[2]) + by, *fields[3:]]


def flip(fields):
    return [*fields[:5], "-" if fields[5] == "+" else "+"]


# What can be wrong with a BED -> the cause that the guard must name.
CHANGES = {
    "one to the right": ([move(1)], "the starts are one too large .1-based, where BED counts"),
    "one to the left": ([move(-1)], "the starts are one too small$"),
    "wrong strand": ([flip], "the strand column says the opposite strand$"),
    "wrong strand, one to the right": ([flip, move(1)], "the strand column .* opposite strand and .* one too large$"),
    "wrong strand, one to the left": ([flip, move(-1)], "the strand column .* opposite strand and .* one too small$"),
    "five to the right": ([move(5)], "another genome build, or another piece of the genome$"),
}


@pytest.mark.parametrize("changes, cause", CHANGES.values(), ids=CHANGES)
def test_sites_that_are_off_are_refused_with_the_cause(files, changes, cause):
    for change in changes:
        rewrite_columns(files[0], change)
    with pytest.raises(InputError, match=f"of the sites in .*motifs.bed show .* in genome.fa .at least 95%.*: {cause}"):
        load(*files)


def test_each_strand_is_judged_by_itself(tmp_path):
    """One site in twenty is on the minus strand, all of them wrong: 95 % of all sites agree."""
    bases = "GTAG" * 1000
    fasta = write_fasta(tmp_path / "a.fa", {"chr1": bases})
    rows = [f"chr1\t{8 * i}\t{8 * i + 2}\tGT(donor)\t.\t+\n" for i in range(379)] + ["chr1\t2\t4\tAG(x)\t.\t+\n"]
    bed = tmp_path / "a.bed"
    bed.write_text("".join(rows + ["chr1\t8\t10\tGT(donor)\t.\t-\n"] * 19))
    assert len(load(bed, fasta, tmp_path, 8).labels) == 399  # 19 are too few to judge
    bed.write_text("".join(rows + ["chr1\t8\t10\tGT(donor)\t.\t-\n"] * 20))
    message = "only 95.0% .*100.0% on the . strand, 0.0% on the - .*: on the - strand, the strand column"
    with pytest.raises(InputError, match=message):
        load(bed, fasta, tmp_path, 8)


def test_labels_of_the_k562_file_are_checked_as_gt_and_ag(files):
    bed, fasta, cache = files
    names = {"GT(donor)": "donor(SSE > 0.8)", "GT(non-donor)": "donor(SSE < 0.2)"}
    names |= {"AG(acceptor)": "acceptor(SSE > 0.8)", "AG(non-acceptor)": "acceptor(SSE < 0.2)"}
    rewrite_columns(bed, lambda f: [*f[:3], f"x|{names[f[3].split('|')[1]]}", *f[4:]])
    assert sorted(set(load(bed, fasta, cache).labels)) == sorted(names.values())
    rewrite_columns(bed, flip)
    with pytest.raises(InputError, match="opposite strand$"):
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
        measure_nmi(Encoder(model.bert, "mean", 64), load_motifs(config.data), None, config.seed)


# -- windows cut once --------------------------------------------------------------------------------------------------


def test_cut_windows_are_read_back_and_cropped_about_the_site(files, tmp_path):
    path = tmp_path / "new/motifs.npz"
    save_motifs(load(*files, window=60), path, {"bed": "motifs.bed"})
    for window in (60, 40):
        again, fresh = read_cut(path, window), load(*files, window=window)
        assert again.ids.dtype == np.uint8 and again.ids.flags.c_contiguous
        assert again.sha256 == fresh.sha256
    assert [file.name for file in path.parent.iterdir()] == ["motifs.npz"]


@pytest.mark.parametrize("shifted", [False, True])
def test_cut_windows_of_earlier_versions_are_read_unless_they_are_one_base_off(files, tmp_path, shifted):
    path, motifs = tmp_path / "motifs.npz", load(*files)
    sources, flag = np.array("{}"), np.array(shifted)
    np.savez_compressed(path, ids=motifs.ids, labels=motifs.labels, sources=sources, legacy_strand_offset=flag)
    if not shifted:
        assert read_cut(path, 40).sha256 == motifs.sha256
        return
    with pytest.raises(InputError, match="was cut with --legacy-strand-offset, one base off .*: cut it again"):
        read_cut(path, 40)


def test_what_is_no_file_of_cut_windows_or_of_shorter_ones_is_refused(files, tmp_path):
    path = tmp_path / "motifs.npz"
    with pytest.raises(InputError, match="motifs.npz does not exist"):
        read_cut(path, 40)
    save_motifs(load(*files), path, {})
    with pytest.raises(InputError, match="motifs.npz holds windows of 40 nt, and data.motif_window is 60"):
        read_cut(path, 60)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 255
    np.savez(tmp_path / "other.npz", ids=np.zeros((2, 40), np.uint8))
    np.save(tmp_path / "other.npy", np.zeros(3))
    others = [(tmp_path / name).read_bytes() for name in ("other.npz", "other.npy")]
    for content in (b"", b"<html>", whole[:-100], bytes(damaged), *others):
        path.write_bytes(content)
        with pytest.raises(InputError, match="motifs.npz holds no windows .* or is damaged: cut it again"):
            read_cut(path, 40)

"""Variant tables, and the genome about their constructs."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import other_strand
from sklearn.metrics import average_precision_score
from splicebert_data import EXON, EXONS, FLANK, LENGTH, place_of, write_splicebert_data

from simcsp.core.errors import InputError
from simcsp.labels.placed import open_places
from simcsp.labels.variants import PEERS, read_mfass, read_vexseq, widen
from simcsp.text.alphabet import decode


@pytest.fixture
def data(tmp_path):
    genes, rows = write_splicebert_data(tmp_path / "data")
    return tmp_path / "data", genes, rows


def write(rows, path):
    rows.to_csv(path, sep="\t", index=False)
    return path


def test_variants_are_read_on_the_transcripts_strand(data):
    folder, _, rows = data
    measured = read_mfass(folder / "variants/mfass.tsv.gz")
    assert len(measured) == len(rows) and measured.skipped == {"indels or no plain base": 0, "not measured": 0}
    assert measured.positive.sum() == 2 * 2 * len(EXONS) and np.array_equal(measured.positive, measured.in_dinucleotide)
    for i, row in rows.iterrows():
        wild, base = decode(measured.sequences[measured.of_sequence[i]]), decode(measured.alt[i : i + 1])
        assert wild == row["wt"] and measured.offset[i] == row["offset0"]
        assert base == (row["alt"] if row["strand"] == "+" else other_strand(row["alt"]))


def test_indels_and_what_was_not_measured_are_skipped_and_counted(data):
    folder, _, rows = data
    rows.loc[0, "ref"] = "AG"
    rows.loc[1, "alt"] = "ACC"
    rows.loc[2, "v2_dpsi"] = np.nan
    rows.loc[3, "sdv"] = np.nan
    measured = read_mfass(write(rows, folder / "odd.tsv"))
    assert measured.skipped == {"indels or no plain base": 2, "not measured": 2} and len(measured) == len(rows) - 4


def test_a_ref_that_is_not_the_sequences_is_refused_with_its_line(data):
    folder, _, rows = data
    rows.loc[7, "ref"] = rows.loc[7, "alt"]
    with pytest.raises(InputError, match=r"odd\.tsv, line 9: REF"):
        read_mfass(write(rows, folder / "odd.tsv"))


@pytest.mark.parametrize("column", ["wt", "v2_dpsi", "offset0"])
def test_a_table_without_a_column_is_refused_by_name(data, column):
    folder, _, rows = data
    with pytest.raises(InputError, match=rf"odd\.tsv has no column {column}"):
        read_mfass(write(rows.drop(columns=column), folder / "odd.tsv"))


@pytest.mark.parametrize(("effect", "told"), [(0.1, "none"), (-0.9, "all")])
def test_a_table_of_one_kind_of_variant_is_refused(data, effect, told):
    folder, _, rows = data
    with pytest.raises(InputError, match=rf"odd\.tsv, column v2_dpsi: {told} of {len(rows)} variants lie below -0\.5"):
        read_mfass(write(rows.assign(v2_dpsi=effect), folder / "odd.tsv"))


def test_a_cut_holds_the_variant_and_is_about_the_exon_where_it_can_be(data):
    measured = read_mfass(data[0] / "variants/mfass.tsv.gz")
    cut = measured.cut(30)
    assert {len(ids) for ids in cut.sequences} == {30}
    for i in range(len(cut)):
        piece, whole = cut.sequences[cut.of_sequence[i]], measured.sequences[measured.of_sequence[i]]
        left = measured.offset[i] - cut.offset[i]
        assert np.array_equal(piece, whole[left : left + 30]) and 0 <= cut.offset[i] < 30
        assert (measured.exon[i] - cut.exon[i] == left).all()
        nearest = min(max(measured.offset[i] - 29, FLANK + EXON // 2 - 15), measured.offset[i], len(whole) - 30)
        assert left == max(nearest, 0)
    assert len(measured.cut(500).sequences) == len(measured.sequences)


@pytest.mark.parametrize("build", ["hg19", "hg38"])
def test_wider_windows_come_from_the_genome_on_either_strand(data, build, tmp_path):
    folder, genes, _ = data
    measured = read_mfass(folder / "variants/mfass.tsv.gz")
    wide = widen(measured, {build: open_places(folder, build, tmp_path / "cache")}, 150)
    assert 0 < len(wide) < len(measured)  # exons near the ends of a gene have no such window
    for i in range(len(wide)):
        name = wide.group[i]
        exon = EXONS[int(name[1:])]
        middle = exon[0] + EXON // 2
        assert decode(wide.sequences[wide.of_sequence[i]]) == genes[name[0]][0][middle - 75 : middle + 75]
        assert wide.exon[i].tolist() == [75 - EXON // 2, 75 + EXON // 2]
        at = middle - 75 + wide.offset[i]
        assert place_of(genes[name[0]], at) + 1 == wide.table["pos_hg19"].iloc[i]


def test_what_is_another_sequence_in_the_genome_is_left_out(data, tmp_path):
    folder, _, rows = data
    rows["pos_hg19"] += 1
    measured = read_mfass(write(rows.drop(columns="pos_hg38"), folder / "odd.tsv"))
    assert not len(widen(measured, {"hg19": open_places(folder, "hg19", tmp_path / "cache")}, 110))


def test_a_place_is_fetched_as_its_strand_is_read(data, tmp_path):
    folder, genes, _ = data
    places = open_places(folder, "hg19", tmp_path / "cache")
    for name, (bases, chrom, start, strand) in genes.items():
        forward = bases if strand == "+" else other_strand(bases)
        ids, record = places.fetch(chrom, start + 10, start + 35, "+")
        assert (decode(ids), record) == (forward[10:35], name)
        assert decode(places.fetch(chrom, start + 10, start + 35, "-")[0]) == other_strand(forward[10:35])
        assert places.fetch(chrom, start + LENGTH - 5, start + LENGTH + 1, "+") is None
    assert places.fetch("chr7", 10, 20, "+") is None and open_places(tmp_path, "hg19", tmp_path / "cache") is None


def test_a_gene_of_another_length_than_its_coordinates_is_refused(data, tmp_path):
    folder, _, _ = data
    table = pd.read_csv(folder / "genes/genes.tsv", sep="\t")
    table.loc[1, "hg19_end"] += 1
    write(table, folder / "genes/genes.tsv")
    with pytest.raises(InputError, match="record B"):
        open_places(folder, "hg19", tmp_path / "cache")


def test_chr19_is_a_place_of_hg38_beside_the_genes(data, tmp_path):
    folder, genes, _ = data
    with gzip.open(folder / "chr19.fa.gz", "wt") as handle:
        handle.write(">19\nACGTACGTACGT\n")
    places = open_places(folder, "hg38", tmp_path / "cache")
    assert decode(places.fetch("chr19", 2, 7, "+")[0]) == "GTACG"
    start = genes["A"][2] + 100_000
    assert decode(places.fetch("chr1", start, start + 5, "+")[0]) == genes["A"][0][:5]
    assert open_places(folder, "hg19", tmp_path / "cache").fetch("chr19", 2, 7, "+") is None


def test_a_whole_genome_stands_before_the_genes(data, tmp_path):
    folder, _, _ = data
    with gzip.open(folder / "hg19.fa.gz", "wt") as handle:
        handle.write(">chr9\nACGTACGTACGT\n")
    places = open_places(folder, "hg19", tmp_path / "cache")
    assert decode(places.fetch("chr9", 2, 7, "-")[0]) == other_strand("GTACG")


@pytest.mark.skipif("SIMCSP_REAL_DATA" not in os.environ, reason="needs the published tables")
def test_the_published_tables_have_the_published_counts():
    folder = Path(os.environ["SIMCSP_REAL_DATA"]) / "variants"
    mfass, vexseq = read_mfass(folder / "mfass.tsv.gz"), read_vexseq(folder / "vexseq.tsv.gz")
    outside = mfass.take(~mfass.in_dinucleotide)
    assert (len(mfass), mfass.positive.sum(), len(outside), outside.positive.sum()) == (27_733, 1_050, 27_517, 870)
    assert (len(vexseq), vexseq.positive.sum()) == (1_960, 97)
    peers = pd.read_csv(folder / "mfass.peers.tsv.gz", sep="\t").set_index("id").reindex(mfass.table["id"])
    assert set(PEERS) == set(peers)
    assert average_precision_score(mfass.positive, peers["pangolin"]) == pytest.approx(0.421, abs=5e-4)

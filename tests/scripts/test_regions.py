"""Regions of genes (data/regions.py): a pickle of texts and a table of junctions become FASTA and tables of introns."""

import gzip
import pickle

import numpy as np
import pytest
from conftest import other_strand

from data.regions import JUNCTIONS, TEXTS, make_regions
from simcsp.core.errors import InputError
from simcsp.text.known_introns import read_truth
from simcsp.text.store import open_store

EXON = "CCTCCACC"
# Two introns of a gene of the forward strand, one of the reverse strand
GENOME = "TTT" + EXON + "GTAAACAG" + EXON + "GTACACAG" + EXON + "TTT" + EXON + "CTGTTTAC" + EXON + "TTTTT"
FORWARD, REVERSE = ("chr2", 3, 43, "+"), ("chr2", 46, 70, "-")
FLANK = 14


def window(gene, acceptor, donor):
    """The text of a poison exon with FLANK nt on either side, as the strand is read; beyond the genome -1."""
    _, first, last, strand = gene
    start, end = (first + acceptor, first + donor + 1) if strand == "+" else (last - 1 - donor, last - acceptor)
    padded = "N" * FLANK + GENOME + "N" * FLANK
    text = padded[start : end + 2 * FLANK]
    text = text if strand == "+" else other_strand(text)
    return np.array(["ACGTN".index(base) if base != "N" else -1 for base in text])


def folder_of(tmp_path, keys, junctions, texts=None):
    source = tmp_path / "regions-source"
    source.mkdir(exist_ok=True)
    texts = texts if texts is not None else {"gene_sequences": {key: window(*key) for key in keys}, "cl_max": 2 * FLANK}
    with gzip.open(source / TEXTS, "wb") as file:
        pickle.dump(texts, file)
    (source / JUNCTIONS).write_text("gene_id,chr,strand,start,end,jn_start,jn_end\n" + junctions)
    return tmp_path


# 1-based: exons' bases left and right of the introns
SITES = 'G1,chr2,+,4,43,"11,27","20,36"\nG2,chr2,-,47,70,54,63\nG3,chr1,+,1,9,2,5\n'


def test_texts_of_either_strand_become_records_with_their_sites(tmp_path):
    keys = [(FORWARD, 16, 23), (REVERSE, 16, 20)]
    make_regions(folder_of(tmp_path, keys, SITES), tmp_path / "regions")
    store = open_store([str(tmp_path / "regions/human.fa")], str(tmp_path / "cache"))
    (record,) = store.records  # they overlap
    assert record.name == "chr2:6-68"
    letters = "".join("?????NACGT"[base] for base in store.fetch(record.name, 0, record.length))
    assert letters == "N" + GENOME[5:68] + "N"
    sites = read_truth(tmp_path / "regions/human.tsv", store)
    assert {site: rows.tolist() for site, rows in sites.items()} == {
        # boundaries; a partner at the N of either end belongs to each of them
        (record.name, "donor"): [[1, 0], [7, 0], [23, 0], [58, 1], [64, 1]],
        (record.name, "acceptor"): [[1, 1], [15, 0], [31, 0], [50, 1], [64, 0]],
    }
    poison = {tuple(row) for row in np.concatenate(list(read_truth(tmp_path / "regions/poison.tsv", store).values()))}
    assert {(15, 0), (23, 0), (50, 1), (45, 1)} <= poison


def test_records_apart_stay_apart_and_only_their_own_sites_are_listed(tmp_path):
    keys = [(FORWARD, 0, 1), (REVERSE, 0, 1)]
    make_regions(folder_of(tmp_path, keys, SITES), tmp_path / "regions")
    names = [line[1:] for line in (tmp_path / "regions/human.fa").read_text().splitlines() if line.startswith(">")]
    assert names == ["chr2:1-19", "chr2:55-75"]
    rows = [line.split("\t") for line in (tmp_path / "regions/human.tsv").read_text().splitlines()[1:]]
    assert rows == [["chr2:1-19", "12", "20", "+"], ["chr2:55-75", "1", "9", "-"]]


@pytest.mark.parametrize(
    "texts, junctions, problem",
    [
        (None, SITES.replace("11,27", "12,28"), "not of one build"),
        (None, SITES.replace("jn_start", "x").replace("54", "5x"), "line 3: '5x' is no list of places"),
        ({"genes": {}}, SITES, "not the genes of poison exons"),
        ({"gene_sequences": {("chr2", 1, 2): np.zeros(3)}}, SITES, "not the genes of poison exons"),
        ({"gene_sequences": [1]}, SITES, "not the genes of poison exons"),
        ({"gene_sequences": {1: pickle.Unpickler}}, SITES, "it names _pickle.Unpickler"),
    ],
)
def test_other_files_are_refused_and_nothing_is_made(tmp_path, texts, junctions, problem):
    keys = [(FORWARD, 16, 23), (REVERSE, 16, 20)]
    with pytest.raises(InputError, match=problem):
        make_regions(folder_of(tmp_path, keys, junctions, texts), tmp_path / "regions")
    assert not (tmp_path / "regions").exists()


def test_texts_that_contradict_each_other_are_refused(tmp_path):
    keys = [(FORWARD, 16, 23), (FORWARD, 15, 23)]
    texts = {key: window(*key) for key in keys}
    texts[keys[1]][20] = (texts[keys[1]][20] + 1) % 4
    with pytest.raises(InputError, match="overlap and differ"):
        make_regions(folder_of(tmp_path, keys, SITES, {"gene_sequences": texts}), tmp_path / "regions")

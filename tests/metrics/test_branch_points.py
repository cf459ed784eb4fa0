"""Branch points: regions of the published BED, and the probe."""

import gzip

import numpy as np
import pytest
from splicebert_data import LENGTH, write_splicebert_data

from simcsp.core.errors import InputError
from simcsp.labels.placed import open_places
from simcsp.metrics.branch_points import IGNORED, BranchRegions, branch_point_rows, read_branch_points
from simcsp.text.alphabet import decode

WIDTH = 27


@pytest.fixture
def data(tmp_path):
    genes, _ = write_splicebert_data(tmp_path / "data")
    return genes, open_places(tmp_path / "data", "hg19", tmp_path / "cache"), tmp_path / "bp.bed.gz"


def genes_a(candidates):
    """The last of the candidates that is an A before another base."""
    return max(i for i in range(1, WIDTH - 1) if candidates[i] == "A" != candidates[i + 1])


def write(path, rows):
    with gzip.open(path, "wt") as handle:
        handle.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def test_candidates_lie_18_to_44_nt_before_the_acceptor_on_either_strand(data):
    genes, places, path = data
    acceptor = 500  # first base of an exon, on the gene's own strand
    rows = []
    for bases, chrom, start, strand in genes.values():
        first, end = acceptor - 44, acceptor - 17  # on its own strand, half-open
        labels = [0] * WIDTH
        at = genes_a(bases[first:end])
        labels[at] = 1
        labels[0] = IGNORED
        place = (start + first, start + end) if strand == "+" else (start + LENGTH - end, start + LENGTH - first)
        rows.append((chrom, *place, "x", ",".join(map(str, labels if strand == "+" else labels[::-1])), strand))
        short = labels[at:]  # the donor is that near
        inner = (place[1] - len(short), place[1]) if strand == "+" else (place[0], place[0] + len(short))
        rows.append((chrom, *inner, "x", ",".join(map(str, short if strand == "+" else short[::-1])), strand))
        rows.append((chrom, *place, "x", ",".join(["0"] * WIDTH), strand))  # no branch point: dropped
    write(path, rows)
    regions = read_branch_points(path, places, 60)
    assert regions.gene.tolist() == ["A", "A", "B", "B"] and regions.ids.shape == (4, 60)
    for i, gene in enumerate(regions.gene):
        left = acceptor - 44 - regions.start
        assert decode(regions.ids[i]) == genes[gene][0][left : left + 60]
        (at,) = np.flatnonzero(regions.labels[i] == 1)
        assert at == genes_a(genes[gene][0][acceptor - 44 : acceptor - 17])
        assert (regions.labels[i, : at if i % 2 else 1] == IGNORED).all()
    shifted = [(row[0], row[1] + 1, row[2] + 1, *row[3:]) for row in rows if "1" in row[4]]
    write(path, [row for row in shifted if row[5] == "+"])
    with pytest.raises(InputError, match="another build"):  # the base after the branch point is no A
        read_branch_points(path, places, 60)


@pytest.mark.parametrize("row", [("chr1", 5, 6), ("chr1", 5, 8, "x", "0,1", "+"), ("chr1", 5, 7, "x", "0,7", "+")])
def test_a_line_that_is_no_region_is_refused_by_number(data, row):
    _, places, path = data
    write(path, [("chr1", 5, 7, "x", "0,0", "+"), row])
    with pytest.raises(InputError, match="line 2"):
        read_branch_points(path, places, 60)


def test_the_probe_finds_what_the_states_say_and_leaves_out_what_is_ignored():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, WIDTH), dtype=int)
    labels[np.arange(60), rng.integers(WIDTH, size=60)] = 1
    labels[:, 3] = IGNORED
    ids = rng.integers(6, 10, (60, 60)).astype(np.uint8)
    regions = BranchRegions(ids, 15, labels, np.repeat([f"g{i}" for i in range(12)], 5), np.array(["chr1"] * 60))
    states = rng.normal(size=(60, 60, 4))
    states[:, 15 : 15 + WIDTH, 0] += 8 * (labels == 1)
    rows = {row["metric"]: row for row in branch_point_rows(regions, states, 0)}
    assert rows["branch points"]["n"] == 60 * (WIDTH - 1) and rows["branch points"]["value"] == (labels == 1).sum()
    assert rows["AP of a probe"]["value"] > 0.95 > 0.3 > rows["AP of a probe"]["floor"]
    assert rows["AUC of a probe"]["value"] > 0.98 and rows["F1 of a probe"]["value"] > 0.5

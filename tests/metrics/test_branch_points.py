"""Branch points: regions of the published BED, and the probe."""

import gzip

import numpy as np
import pytest
from splicebert_data import LENGTH, write_splicebert_data

from simcsp.core.errors import InputError
from simcsp.labels.placed import open_places
from simcsp.metrics.branch_points import (
    IGNORED,
    LAST,
    BranchRegions,
    branch_point_rows,
    letters,
    logistic_chances,
    read_branch_points,
    read_introns,
    weight_matrix_chances,
)
from simcsp.text.alphabet import decode, encode

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


def regions_of(count, length=60, seed=0):
    """Regions with one branch point each, of five genes a chromosome; base 3 is left out."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, WIDTH), dtype=int)
    labels[np.arange(count), rng.integers(4, WIDTH, size=count)] = 1
    labels[:, 3] = IGNORED
    ids = rng.integers(6, 10, (count, length)).astype(np.uint8)
    gene = np.array([f"g{i % 12}" for i in range(count)])
    return BranchRegions(ids, length // 2 - WIDTH // 2, labels, gene, np.array(["chr1"] * count))


def test_folds_hold_out_genes_or_chromosomes():
    regions = regions_of(60)
    of_gene = {gene: set(regions.folds[regions.gene == gene]) for gene in set(regions.gene)}
    assert all(len(folds) == 1 for folds in of_gene.values()) and set(regions.folds) == set(range(5))
    chrom = np.array([f"chr{i % 7}" for i in range(60)])
    spread = BranchRegions(regions.ids, 15, regions.labels, regions.gene, chrom)
    assert all(len(set(spread.folds[chrom == name])) == 1 for name in set(chrom))


def test_the_probe_finds_what_the_states_say_and_leaves_out_what_is_ignored():
    regions = regions_of(60)
    rng = np.random.default_rng(1)
    states = rng.normal(size=(60, WIDTH, 4))
    states[..., 0] += 8 * (regions.labels == 1)
    own, outside = logistic_chances(states, regions.labels, regions.folds, states[:5])
    floor, _ = logistic_chances(letters(regions), regions.labels, regions.folds, letters(regions)[:0])
    rows = {row["metric"]: row for row in branch_point_rows(regions, {"a probe": own}, floor, 0)}
    assert rows["branch points"]["n"] == 60 * (WIDTH - 1) and rows["branch points"]["value"] == 60
    assert rows["AP, a probe"]["value"] > 0.95 > 0.3 > rows["AP, a probe"]["floor"]
    assert rows["AUC, a probe"]["value"] > 0.98 and rows["F1, a probe"]["value"] > 0.5
    assert (outside.argmax(axis=1) == regions.labels[:5].argmax(axis=1)).all()


def test_the_weight_matrix_is_bayes_rule_by_hand():
    """Features are the letters about a base and its distance; two places of letters are enough to do it by hand."""
    labels = np.full((10, WIDTH), IGNORED)
    labels[:, 0], labels[:, 1] = 1, 0
    features = np.zeros((10, WIDTH, 4 + WIDTH), dtype=bool)
    features[:, 0, 0] = True  # branch points are A ...
    features[:5, 1, 0] = features[5:, 1, 1] = True  # ... and half of the others too
    features[:, np.arange(WIDTH), 4 + np.arange(WIDTH)] = True
    chances, outside = weight_matrix_chances(features, labels, np.repeat(np.arange(5), 2), features[:1])
    # all ten: P(A | point) 11 / 14, P(A | other) 6 / 14; distance 0: 11 / 37 against 1 / 37
    assert outside[0, 0] == pytest.approx(1 / (1 + 6 / 11 / 11), abs=1e-9)
    # of region 0's fold the other eight count: 9 / 12 against 4 / 12, and 9 / 35 against 1 / 35
    assert chances[0, 0] == pytest.approx(1 / (1 + 4 / 81), abs=1e-9)


def test_introns_end_at_the_acceptor_and_leave_out_what_is_known(tmp_path):
    rng = np.random.default_rng(4)
    texts = ["".join(rng.choice(list("ACGT"), 300)) for _ in range(4)]
    table = [("g", "chr1", text, f"{len(text) - 30},{len(text) - 100}") for text in texts[:3]]
    table.append(("g", "chr1", texts[3], str(len(texts[3]) - 100)))  # no point among the candidates
    path = tmp_path / "introns.tsv"
    path.write_text("gene\tchrom\tsequence\tbp_index0\n" + "".join("\t".join(row) + "\n" for row in table))
    known = BranchRegions(np.stack([encode(texts[0])[-200:]]), 0, *np.zeros((3, 1), dtype=int))
    for length in (60, 200):
        introns = read_introns(path, length, known)
        assert len(introns.ids) == (3 if length < 80 else 2)  # 29 nt of it are too short to tell
        whole = texts[2][-(introns.start + LAST) :]
        shown = decode(introns.ids[-1])
        assert shown.startswith(whole[: len(shown)]) and set(shown[len(whole) :]) <= {"N"}
        assert np.flatnonzero(introns.labels[-1]).tolist() == [LAST - 30]
    path.write_text("gene\tchrom\tsequence\tbp_index0\ng\tchr1\tACGT\t2\n")
    with pytest.raises(InputError, match="line 2"):
        read_introns(path, 60, known)

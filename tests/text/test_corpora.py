"""What each `data.corpus` makes of its files: which windows are read, on which strand, how often; what is refused."""

import numpy as np
import pytest
from conftest import other_strand, random_bases, write_fasta
from hypothesis import given
from hypothesis import strategies as st
from opening import WINDOW, enriched, experiment, gtf, open_text, refused, write_spliced

import simcsp.text.species
from simcsp.text.alphabet import decode, encode
from simcsp.text.annotation import GeneBody
from simcsp.text.corpora import chromosome, chunk_starts
from simcsp.text.sampler import Intervals, covered


def strided_windows(sampler):
    """The letters of every window of an epoch, sorted."""
    return sorted(decode(row) for step in range(len(sampler)) for row in sampler.batch(step, 1))


# -- genome ------------------------------------------------------------------------------------------------------------

# GRCh38.p14, chromosomes 1 to 22, X and Y
LENGTHS = [248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422]
LENGTHS += [135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167]
LENGTHS += [46709983, 50818468, 156040895, 57227415]


def test_the_chunks_of_the_human_genome_are_as_many_as_published():
    chunks = [len(chunk_starts(length)) for length in LENGTHS]
    assert (sum(chunks[:20]) + sum(chunks[22:]), chunks[20], chunks[21]) == (498_444, 7_784, 8_469)


@pytest.mark.parametrize(
    "record, name",
    [("chr1", "1"), ("1", "1"), ("NC_000001.11", "1"), ("NC_000022.10", "22"), ("NC_000023.11", "X"), ("chrY", "Y")]
    + [("NC_000024.10", "Y"), ("X", "X"), ("chr0", None), ("chr23", None), ("chrM", None), ("NC_000067.7", None)]
    + [("chr1_KI270706v1_random", None), ("NC_012920.1", None), ("NC_000000.1", None), ("Chr1", None), ("chr01", None)],
)
def test_chromosomes_are_told_by_their_name_in_any_of_three_spellings(record, name):
    assert chromosome(record) == name


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    """A genome with one chromosome of each split, in three spellings, and a record that is none."""
    rng = np.random.default_rng(1)
    lengths = {"chr1": 12_345, "unplaced": 7000, "21": 6200, "NC_000022.11": 6300}
    records = {name: random_bases(rng, length) for name, length in lengths.items()}
    return write_fasta(tmp_path_factory.mktemp("human") / "human.fa", records), records


def chunked(human, folder, **data):
    return experiment(folder, [human[0]], **{"corpus": "genome", "window": 510, "strands": "forward", **data})


def test_a_chunk_is_read_in_twelve_pieces_of_510_and_its_last_80_bases_left_out(human, tmp_path):
    corpus, sampler = open_text(chunked(human, tmp_path))
    bases = human[1]["chr1"]
    starts = [*range(0, 6120, 510), *range(6000, 12120, 510)]
    assert strided_windows(sampler) == sorted(bases[start : start + 510] for start in starts)
    assert len(sampler) == 24
    assert corpus.manifest["chunks"] == corpus.manifest["intervals"] == 2


@pytest.mark.parametrize("split, record", [("validation", "21"), ("test", "NC_000022.11")])
def test_the_split_decides_the_chromosomes(human, tmp_path, split, record):
    corpus, sampler = open_text(chunked(human, tmp_path, split=split))
    assert corpus.manifest["split"] == split
    assert strided_windows(sampler) == sorted(human[1][record][start : start + 510] for start in range(0, 6120, 510))


def test_windows_that_two_chunks_share_are_read_once(human, tmp_path):
    _, sampler = open_text(chunked(human, tmp_path, window=100))
    assert len(sampler) == 122  # 0 ... 6100, of which two are those of the next chunk, and 6200 ... 12100
    assert len(set(strided_windows(sampler))) == 122


def test_genome_takes_human_chromosomes_only(human, tmp_path):
    other = write_fasta(tmp_path / "other.fa", {"Chr1": "ACGT" * 2000, "2L": "ACGT" * 2000})
    refused(chunked((other,), tmp_path), r"data.corpus \(genome\): no chunk .* Chr1, 2L: it takes human chromosomes")
    refused(chunked(human, tmp_path, records=["21"]), r"records are 21 \(data.records\)")
    refused(chunked(human, tmp_path, records=["chr21"]), "data.records: no record 'chr21' .* names are 'chr1', ")
    short = write_fasta(tmp_path / "short.fa", {"chr1": "ACGT" * 1549})
    refused(chunked((short,), tmp_path), "no chunk of 6,200 nt in the train chromosomes")


# -- genes -------------------------------------------------------------------------------------------------------------


@st.composite
def bodies(draw):
    strands, starts, lengths = st.sampled_from("+-"), st.integers(0, 60), st.integers(1, 40)
    spans = draw(st.lists(st.tuples(st.sampled_from("ab"), strands, starts, lengths), min_size=1, max_size=8))
    return [GeneBody(chrom, start, start + n, strand, f"g{i}") for i, (chrom, strand, start, n) in enumerate(spans)]


@given(bodies(), st.integers(1, 20))
def test_every_window_of_a_gene_is_in_the_merged_bodies_once_and_no_other(genes, window):
    def starts(spans):
        return [(chrom, strand, at) for chrom, strand, start, end in spans for at in range(start, end - window + 1)]

    merged = starts(simcsp.text.species.merge_bodies(genes, window))
    assert len(merged) == len(set(merged))
    assert set(merged) == set(starts((gene.chrom, gene.strand, gene.start, gene.end) for gene in genes))


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    """Two records; genes of both strands: two overlap, one is nested, one is shorter than a window."""
    folder, rng = tmp_path_factory.mktemp("genes"), np.random.default_rng(3)
    records = {"a": random_bases(rng, 1000), "b": random_bases(rng, 600)}
    spans = [("a", "+", 100, 300), ("a", "+", 250, 400), ("a", "+", 120, 180), ("a", "-", 350, 500)]
    spans += [("a", "+", 700, 730), ("b", "-", 0, 90)]
    exons = [(chrom, strand, [(start, start + 10), (end - 10, end)]) for chrom, strand, start, end in spans]
    sense = [records[chrom][start:end] for chrom, _, start, end in spans]
    sense = [text if span[1] == "+" else other_strand(text) for span, text in zip(spans, sense)]
    return write_fasta(folder / "g.fa", records), gtf(folder / "g.gtf", exons), sense


def genic(genes, folder, **data):
    return experiment(folder, [genes[0]], **{"corpus": "genes", "annotation": [str(genes[1])], **data})


@pytest.mark.parametrize("strands", ["both", "forward"])
def test_windows_of_genes_lie_in_a_body_and_are_read_on_its_sense_strand(genes, tmp_path, strands):
    _, sampler = open_text(genic(genes, tmp_path, strands=strands))
    sense = genes[2]
    seen = {decode(row) for step in range(40) for row in sampler.batch(step, 64)}
    assert all(any(window in body for body in sense) for window in seen)
    everything = {body[i : i + WINDOW] for body in sense for i in range(len(body) - WINDOW + 1)}
    assert len(seen) > 0.98 * len(everything)  # on average each is drawn five times
    assert len(sampler) == len(everything)


def test_genes_of_the_named_records_only(genes, tmp_path):
    corpus, sampler = open_text(genic(genes, tmp_path, records=["b"], sampling="strided", stride=1))
    body = genes[2][5]
    assert strided_windows(sampler) == sorted(body[i : i + WINDOW] for i in range(len(body) - WINDOW + 1))
    assert corpus.manifest["annotation"] == ["g.gtf"]


def test_a_region_holds_the_genes_that_lie_inside(genes, tmp_path):
    # of record a: the gene at 100-300 begins before base 121, the one at 250-400 ends on base 400
    for region, bodies in (("a:121-400", [1, 2]), ("a:122-400", [1]), ("a:121-399", [2])):
        _, sampler = open_text(genic(genes, tmp_path, records=[region], sampling="strided", stride=1))
        wanted = {genes[2][i][at : at + WINDOW] for i in bodies for at in range(len(genes[2][i]) - WINDOW + 1)}
        assert set(strided_windows(sampler)) == wanted


def test_regions_of_a_text_without_annotation_are_read_and_no_base_beyond(genes, tmp_path):
    def of(*records):
        return experiment(tmp_path, [genes[0]], records=[*records], sampling="strided", stride=1)

    corpus, _ = open_text(of("a:11-90", "a:101-160", "b"))
    assert corpus.intervals.start.tolist() == [10, 100, 1000]
    assert corpus.intervals.length.tolist() == [80, 60, 600]
    refused(of("a:11-90", "a:90-99"), "data.records: two regions of 'a' overlap")
    refused(of("a:11-1001"), "data.records: a:11-1001 .* bases 1 to 1000")
    refused(of("a:0-9"), "data.records: a:0-9")


def test_genes_refuse_what_they_cannot_use(genes, tmp_path):
    one = gtf(tmp_path / "one.gtf", [("a", "+", [(0, 60)])])
    refused(genic(genes, tmp_path, annotation=[]), "data.annotation has 0 files, data.fasta 1")
    refused(genic(genes, tmp_path, annotation=[str(one)] * 2), "data.annotation has 2 files, data.fasta 1")
    refused(genic(genes, tmp_path, annotation=[str(one)], records=["b"]), "data.annotation: .*no gene on the records")
    refused(genic(genes, tmp_path, window=301), r"data.window \(301 nt\) .*record or gene .*longest 200 nt")
    refused(genic(genes, tmp_path, records=["c"]), "data.records: no record 'c'")
    refused(genic(genes, tmp_path, annotation=[str(tmp_path / "none.gtf")]), "none.gtf does not exist")
    other = gtf(tmp_path / "other.gtf", [("chra", "+", [(0, 60)])])
    refused(genic(genes, tmp_path, annotation=[str(other)]), "record 'chra' is 'a' in the FASTA")


# -- several species ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def species(tmp_path_factory):
    """Two genomes with a chr1 each, told apart by their letters: 8,000 nt of A and C, 2,000 nt of G and T."""
    folder, rng = tmp_path_factory.mktemp("species"), np.random.default_rng(4)
    return [
        write_fasta(folder / "big.fa", {"chr1": "".join(rng.choice(list("AC"), 8000))}),
        write_fasta(folder / "little.fa", {"chr1": "".join(rng.choice(list("GT"), 2000))}),
    ]


def mixed(species, folder, **data):
    return experiment(folder, species, **{"corpus": "multi_species", "strands": "forward", **data})


BY_SIZE = (8000 - WINDOW + 1) / (10_000 - 2 * WINDOW + 2)


def test_species_are_mixed_by_size(species, tmp_path):
    share = BY_SIZE
    corpus, sampler = open_text(mixed(species, tmp_path))
    rows = np.concatenate([sampler.batch(step, 200) for step in range(20)])
    of_big = np.isin(rows, encode("AC")).all(axis=1)
    assert (of_big | np.isin(rows, encode("GT")).all(axis=1)).all()
    assert abs(of_big.mean() - share) < 4.5 * (share * (1 - share) / len(rows)) ** 0.5
    assert corpus.manifest["shares"] == {"big.fa": round(share, 4), "little.fa": round(1 - share, 4)}


def test_species_with_annotation_give_their_gene_bodies(species, tmp_path):
    annotation = [
        gtf(tmp_path / "big.gtf", [("chr1", "+", [(100, 400)])]),
        gtf(tmp_path / "little.gtf", [("chr1", "+", [(0, 100), (200, 300)])]),
    ]
    names = [str(path) for path in annotation]
    corpus, sampler = open_text(mixed(species, tmp_path, annotation=names, strands="both"))
    store = corpus.store
    sense = [decode(store.fetch("big:chr1", 100, 400)), decode(store.fetch("little:chr1", 0, 300))]
    rows = [decode(row) for step in range(20) for row in sampler.batch(step, 50)]
    assert all(any(row in body for body in sense) for row in rows)  # all genes are forward, and none is read backwards
    assert 0.43 < np.mean([row in sense[0] for row in rows]) < 0.57
    gtf(annotation[1], [("chr1", "-", [(0, 100), (200, 300)])])
    _, sampler = open_text(mixed(species, tmp_path, annotation=names))
    sense[1] = other_strand(sense[1])
    assert all(any(decode(row) in body for body in sense) for row in sampler.batch(0, 50))


def test_species_refuse_lists_that_do_not_go_together(species, tmp_path):
    def bad(message, **data):
        refused(mixed(species, tmp_path, **data), message)

    bad("data.annotation has 1 files, data.fasta 2", annotation=["one.gtf"])
    bad("data.records names no record of .*little.fa", records=["big:chr1"])
    bad("data.records: no record 'chr1' in .*'big:chr1', ...", records=["chr1"])
    bad(r"data.window \(2001 nt\) is longer than every record or gene of .*little.fa", window=2001)


def test_species_can_be_read_window_by_window(species, tmp_path):
    _, sampler = open_text(mixed(species, tmp_path, sampling="strided"))
    assert len(sampler) == 200 + 50


@pytest.fixture(scope="module")
def spliced(tmp_path_factory):
    """(FASTA, GTF, {record: bases}, genes)."""
    return write_spliced(tmp_path_factory.mktemp("spliced"), "spliced", ["a", "b"], np.random.default_rng(6))


# -- all of them -------------------------------------------------------------------------------------------------------


def test_batches_of_every_corpus_are_a_pure_function_of_seed_and_step(human, genes, species, spliced, tmp_path):
    for make in (
        lambda folder: chunked(human, folder),
        lambda folder: genic(genes, folder),
        lambda folder: mixed(species, folder),
        lambda folder: enriched(spliced, folder),
    ):
        one, other = (open_text(make(tmp_path / name))[1] for name in ("one", "other"))
        later = one.batch(5, 8)
        for step in range(5):
            one.batch(step, 8)
        assert np.array_equal(one.batch(5, 8), later)
        assert np.array_equal(other.batch(5, 8), later)
        assert not np.array_equal(other.batch(6, 8), later)
        config = make(tmp_path / "one")
        config.seed = 1
        assert not np.array_equal(open_text(config)[1].batch(5, 8), later)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 15)), min_size=1, max_size=8))
def test_covered_stretches_are_those_of_the_intervals(spans):
    start, length = (np.array(column) for column in zip(*spans))
    intervals = Intervals(start, length, np.zeros(len(start), dtype=bool), np.ones(len(start)))
    stretches = covered(intervals).tolist()
    assert {i for first, end in stretches for i in range(first, end)} == {i for s, n in spans for i in range(s, s + n)}
    assert all(before[1] <= after[0] for before, after in zip(stretches, stretches[1:]))
    for s, n in spans:  # what a window may read lies in one stretch
        assert any(first <= s and s + n <= end for first, end in stretches)

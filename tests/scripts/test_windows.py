"""data/windows.py: labelled windows from a genome and its annotation, on both strands."""

import numpy as np
import pytest
from conftest import refusal, write_fasta, write_species

from data import windows as script
from simcsp.labels.spliceator import load_benchmark, load_training, read_rows
from simcsp.labels.splits import make_splits
from simcsp.text.alphabet import decode
from simcsp.text.annotation import introns, read_annotation
from simcsp.text.store import open_store

LENGTH = 100
CENTRE = LENGTH // 2


@pytest.fixture
def make(call, tmp_path):
    """make(*options) -> the folder; of `write_species`: 15 introns a strand, from GTAAGT to TTTCAG."""
    write_species(tmp_path, "one", 1)

    def run(*options, out="made", name="one"):
        paths = ["--fasta", tmp_path / f"{name}.fa", "--annotation", tmp_path / f"{name}.gtf"]
        call(script, *paths, "--out", tmp_path / out, "--cache", tmp_path / "cache", "--length", LENGTH, *options)
        return tmp_path / out

    return run


def rows_of(folder, kind="Negative/GS/GS_1/NEG_600_donor.csv"):
    return [line.split(";") for line in (folder / "Training_data" / kind).read_text().splitlines()]


def test_every_site_is_a_positive_with_its_boundary_at_the_centre_of_either_strand(make):
    windows = load_training(make(), "GS_1", LENGTH)
    assert len(windows) == 120 and set(windows.strata.tolist()) == {
        f"{site} {sign}" for site in ("donor", "acceptor") for sign in ("positive", "negative")
    }
    real = windows.take(windows.labels == 1)
    for site, motif, at in (("donor", "GTAAGT", CENTRE), ("acceptor", "TTTCAG", CENTRE - 6)):
        shown = [decode(row)[at : at + 6] for row in real.ids[real.sites == site]]
        assert shown == [motif] * 30


def test_negatives_are_of_their_kind_of_their_gene_and_away_from_sites(make, tmp_path):
    folder = make()
    store = open_store([str(tmp_path / "one.fa")], str(tmp_path / "cache"))
    lengths = {record.name: record.length for record in store.records}
    known = introns(read_annotation(tmp_path / "one.gtf", lengths))
    for site in ("donor", "acceptor"):
        kinds = []
        for name, boundary, sequence, label in rows_of(folder, f"Negative/GS/GS_1/NEG_600_{site}.csv")[1:]:
            record, position, strand, kind = name.rsplit("_", 1)[0].split(":")
            kinds.append(kind)
            at = int(boundary)
            forward = lengths[record] - at if strand == "-" else at
            exon = at - 1 if site == "donor" else at
            assert int(position) == (lengths[record] - exon if strand == "-" else exon + 1)
            assert all(min(abs(forward - i.start), abs(forward - i.end)) > 10 for i in known if i.chrom == record)
            own = [i for i in known if i.gene == name.split("gene=")[1]]
            inside = any(i.start < forward < i.end for i in own)
            assert {"EXON": not inside, "INTRON": inside, "FP": True}[label]
            if kind == "false":
                assert sequence[CENTRE - (site == "acceptor") * 2 :][:2] == {"donor": "GT", "acceptor": "AG"}[site]
            left, right = (forward - CENTRE, forward + CENTRE)
            assert decode(store.fetch(record, left, right, strand)) == sequence
        assert len(kinds) == 30 and 9 <= kinds.count("exon") <= 11 and 9 <= kinds.count("intron") <= 11


def test_same_seed_same_bytes_and_false_sites_alone_on_demand(make):
    first, again, other = rows_of(make()), rows_of(make(out="again")), rows_of(make("--seed", 1, out="other"))
    assert first == again != other
    false = rows_of(make("--negatives", "false"), "Negative/GS/GS_false/NEG_600_donor.csv")
    assert {row[3] for row in false[1:]} == {"FP"} and len(false) == 31


def test_a_number_of_windows_of_each_class(make):
    folder, whole = make("--per-class", 7, out="few"), make()
    few = rows_of(folder, "Positive/GS/POS_donor_600.csv")
    assert len(few) == 7 and all(row in rows_of(whole, "Positive/GS/POS_donor_600.csv") for row in few)
    assert len(rows_of(folder)) == 8


def test_a_region_gives_only_genes_inside_it(make, tmp_path):
    rows = rows_of(make("--records", "chr1:700-3000"), "Positive/GS/POS_donor_600.csv")
    assert {row[0].split(":")[0] for row in rows} == {"chr1"}
    genes = {group for group, _, _ in read_rows(tmp_path / "made/Training_data/Positive/GS/POS_donor_600.csv")}
    assert genes == {f"gene=chr1{i}" for i in range(3, 14)}  # gene i has bases 200 i + 101 to 200 i + 260


def test_a_benchmark_holds_no_window_that_training_shares(make, tmp_path, capsys):
    make()
    own = (tmp_path / "one.fa").read_text().replace("\n", "").split(">chr")[1][1:]
    write_species(tmp_path, "two", 2)
    folder = make("--benchmark", "Tiny", name="two")
    assert len(load_benchmark(folder, "Tiny", LENGTH)) == 120
    text = (tmp_path / "two.fa").read_text().replace("\n", "")
    other = text.split(">chr")[1][1:]
    write_fasta(tmp_path / "two.fa", {"chr1": own[:1000] + other[1000:], "chr2": text.split(">chr")[2][1:]})
    capsys.readouterr()
    make("--benchmark", "Tiny", name="two", out="made")
    path = folder / "Benchmarks/Tiny/SA_sequences_donor_400_Final_3.positive.txt"
    assert len(list(read_rows(path))) == 25  # of chr1's donors, those at 150, 350, 550, 750 and 950 are shared
    assert "5 left out that share 80 nt with Training_data" in capsys.readouterr().out


def test_folds_keep_the_windows_of_a_gene_together(make):
    windows = load_training(make(), "GS_1", LENGTH)
    for fold in make_splits(windows, "grouped", 4, 0.1, 0).folds["both"]:
        genes = [set(windows.groups[fold[part]]) for part in ("train", "val", "test")]
        assert not genes[0] & genes[1] and not genes[0] & genes[2] and not genes[1] & genes[2]


def test_what_cannot_be_had_is_one_line(make, call, capsys, tmp_path):
    paths = ["--fasta", tmp_path / "one.fa", "--annotation", tmp_path / "one.gtf", "--cache", tmp_path / "cache"]
    paths += ["--out", tmp_path / "made"]
    assert "--length" in refusal(call, capsys, script, *paths, "--length", 99)
    assert "--benchmark" in refusal(call, capsys, script, *paths, "--benchmark", "a/b")
    assert "--records: no record 'chr9'" in refusal(call, capsys, script, *paths, "--records", "chr9")
    assert "no donor leaves room" in refusal(call, capsys, script, *paths, "--length", 4000)
    assert not (tmp_path / "made").exists()


def test_windows_with_n_are_left_out(make, tmp_path):
    text = (tmp_path / "one.fa").read_text().replace("\n", "")
    first, second = text.split(">chr")[1][1:], text.split(">chr")[2][1:]
    write_fasta(tmp_path / "one.fa", {"chr1": first[:340] + "N" + first[341:], "chr2": second})
    windows = load_training(make(), "GS_1", LENGTH)
    assert not np.isin(windows.ids, [5]).any() and (windows.strata == "donor positive").sum() == 29

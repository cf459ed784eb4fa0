"""predict that is stopped goes on to the very bytes of one never stopped; regions, BED, genes."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import put, random_bases, refusal, write_fasta
from test_predict import FP32, each_config_is_parsed_once, save_random  # noqa: F401
from test_vcf import GTF, small_chunks, snv, vcf_file  # noqa: F401

import evaluate
import simcsp.genome.vcf
from simcsp.core.ahead import one_ahead
from simcsp.genome import scan
from simcsp.genome.journal import Journal
from simcsp.genome.regions import find_spans, gene_spans, spans_after
from simcsp.model.bases import Labeller
from simcsp.text.store import open_store


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("model") / "m", encoder=False)


@pytest.fixture(scope="module")
def genome():
    rng = np.random.default_rng(2)
    return {"chr1": put(random_bases(rng, 900), 300, "N" * 40), "chr2": random_bases(rng, 161), "chr3": "GTAGGTAG"}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, genome):
    return write_fasta(tmp_path_factory.mktemp("genome") / "toy.fa", genome)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(simcsp.genome.vcf, "_ROWS", 2)


def stopped_and_resumed(call, capsys, monkeypatch, owner, name, words, folder):
    """Run a command that is stopped at every third call of owner.name, until it ends; how often it was stopped."""
    work, calls, stops = getattr(owner, name), 0, 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise KeyboardInterrupt
        return work(*args)

    monkeypatch.setattr(owner, name, failing)
    while True:
        before = {path.name for path in folder.glob("*") if not path.name.endswith(".partial")}
        try:
            call(evaluate, "predict", *words)
            break
        except KeyboardInterrupt:
            stops += 1
            assert {path.name for path in folder.glob("*") if not path.name.endswith(".partial")} == before
    monkeypatch.setattr(owner, name, work)
    assert "resumed after" in capsys.readouterr().err
    return stops


@pytest.mark.parametrize(
    "name, words, ahead",
    [
        pytest.param("s.tsv", [], False, marks=pytest.mark.slow),
        ("s.bed.gz", ["--min_score", "0.3"], True),
        ("s.bed", ["--sites", "all", "--region", "chr1:100-800"], False),
        ("s.tsv", ["--region", "chr1:10-12", "--region", "chr1:20-700"], True),
        pytest.param("s.bedgraph", [], False, marks=pytest.mark.slow),
        ("s.bw", [], False),
    ],
)
def test_a_scan_of_bases_goes_on_to_the_same_bytes(
    name, words, ahead, model, fasta, call, capsys, tmp_path, monkeypatch
):
    """ahead: passes are made in a thread, as for a GPU, where the scan is stopped."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    call(evaluate, "predict", model, fasta, "--out", whole / name, *FP32, *words)
    said = capsys.readouterr().out.splitlines()[-1]
    command = [model, fasta, "--out", parts / name, *FP32, *words]
    if ahead:
        monkeypatch.setattr(scan, "one_ahead", lambda work, items, thread: one_ahead(work, items, not thread))
    stops = stopped_and_resumed(call, capsys, monkeypatch, Labeller, "chunks_odds", command, parts)
    assert stops >= 2
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in parts.iterdir()) == names  # and no journal
    for written in names:
        assert (parts / written).read_bytes() == (whole / written).read_bytes()
    assert "sites" in said


@pytest.mark.parametrize(
    "name", ["o.vcf.gz", *(pytest.param(name, marks=pytest.mark.slow) for name in ("o.vcf", "o.bcf"))]
)
def test_variants_go_on_to_the_same_bytes(name, model, genome, fasta, call, capsys, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    snvs = [snv(genome, pos, f"rs{pos}") for pos in range(400, 880, 40)]
    rows = [(*row[:4], f"{row[4]},<DEL>") for row in snvs]
    vcf = vcf_file(tmp_path / "in.vcf", rows)
    call(evaluate, "predict", model, fasta, "--vcf", vcf, "--out", whole / name, *FP32)
    said = capsys.readouterr().out
    command = [model, fasta, "--vcf", vcf, "--out", parts / name, *FP32]
    effects = simcsp.genome.vcf.Effects
    assert stopped_and_resumed(call, capsys, monkeypatch, effects, "entries", command, parts) >= 2
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert [path.name for path in parts.iterdir()] == [name]
    assert "12 of 24 alleles scored" in said and "12 left out" in said


def test_another_model_genome_region_or_flag_is_refused(model, genome, fasta, call, capsys, tmp_path, monkeypatch):
    out = tmp_path / "s.tsv"
    work, calls = Labeller.chunks_odds, []

    def fourth_stops(*args):  # of a journal without an entry nothing would be lost
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return work(*args)

    monkeypatch.setattr(Labeller, "chunks_odds", fourth_stops)
    with pytest.raises(KeyboardInterrupt):
        call(evaluate, "predict", model, fasta, "--out", out, *FP32)
    journal = (tmp_path / "s.tsv.partial").read_bytes()
    (tmp_path / "other").mkdir()
    torch.manual_seed(5)
    changed = save_random(tmp_path / "other/m", encoder=False)
    text = (changed / "bases.json").read_text()
    (changed / "bases.json").write_text(text.replace("-0.5", "-0.25"))
    longer = write_fasta(tmp_path / "other/toy.fa", {**genome, "chr9": "ACGTACGT" * 9})
    for words, part in (
        ((changed, fasta), f"another model ({changed}):"),
        ((model, longer), f"another FASTA ({longer})"),
        ((model, fasta, "--region", "chr1"), "another --region:"),
        ((model, fasta, "--sites", "all"), "another --sites:"),
        ((model, fasta, "--min_score", "0.2"), "another --min_score"),
    ):
        line = refusal(call, capsys, evaluate, "predict", *words, "--out", out, *FP32)
        assert part in line and "s.tsv.partial" in line and "delete that file to start over" in line
        assert (tmp_path / "s.tsv.partial").read_bytes() == journal and not out.exists()


@pytest.mark.parametrize("flag", ["--vcf", "--annotation", "--regions_file"])
def test_a_vcf_annotation_or_bed_that_has_changed_is_refused_by_name(
    flag, model, genome, fasta, call, capsys, tmp_path, monkeypatch
):
    out, path = tmp_path / "out.tsv", tmp_path / "changes"
    if flag == "--vcf":
        out = tmp_path / "out.vcf"
        vcf_file(path, [snv(genome, pos) for pos in range(400, 412)])
    elif flag == "--annotation":
        path.write_text("".join(GTF.format(at, at + 50, "+", "G", "G", "ONE") for at in (1, 840)))
    else:
        path.write_text("chr1\t0\t890\n")
    words, text = ["predict", model, fasta, flag, path, "--out", out, *FP32], path.read_text()
    added, add = [], Journal.add

    def stop_at_the_third(journal, payload):
        added.append(payload)
        if len(added) == 3:
            raise KeyboardInterrupt
        add(journal, payload)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            call(evaluate, *words)
    kept = out.with_name(f"{out.name}.partial").read_bytes()
    path.write_text(text.replace("890", "880") if flag != "--vcf" else "".join(text.splitlines(True)[:-1]))
    assert f"({path})" in refusal(call, capsys, evaluate, *words)
    assert out.with_name(f"{out.name}.partial").read_bytes() == kept and not out.exists()
    path.write_text(text)
    call(evaluate, *words)
    assert out.is_file()


# -- regions -----------------------------------------------------------------------------------------------------------


def test_a_bed_and_genes_are_parts_of_the_whole(model, fasta, call, capsys, tmp_path):
    def table(*words):
        call(evaluate, "predict", model, fasta, "--out", tmp_path / "s.tsv", *FP32, *words)
        return pd.read_csv(tmp_path / "s.tsv", sep="\t")

    whole = table()
    bed = tmp_path / "r.bed.gz"
    bed.write_bytes(gzip.compress(b"track name=x\nchr2\t20\t120\tfirst\nchr1\t399\t410\nchr1\t405\t500\n"))
    inside = (whole["chrom"] == "chr1") & whole["position"].between(400, 500)
    inside |= (whole["chrom"] == "chr2") & whole["position"].between(21, 120)
    pd.testing.assert_frame_equal(table("--regions_file", bed), whole[inside].reset_index(drop=True))

    gtf = tmp_path / "g.gtf"
    exons = [(401, 450, "+", "G1", "G1", "FIRST"), (551, 600, "+", "G1", "G1", "FIRST")]
    exons += [(701, 740, "-", "G2", "G2", "TWO")]
    gtf.write_text("".join(GTF.format(*exon) for exon in exons))
    first = (whole["chrom"] == "chr1") & whole["position"].between(401, 600)
    second = (whole["chrom"] == "chr1") & whole["position"].between(701, 740)
    expected = whole[first | second].reset_index(drop=True)
    pd.testing.assert_frame_equal(table("--annotation", gtf), expected)
    pd.testing.assert_frame_equal(table("--annotation", gtf, "--region", "TWO", "--region", "FIRST"), expected)
    part = table("--annotation", gtf, "--region", "TWO", "--region", "chr3")
    pd.testing.assert_frame_equal(part, whole[second | (whole["chrom"] == "chr3")].reset_index(drop=True))
    words = ("predict", model, fasta, *FP32, "--annotation", gtf)
    assert "nor is it one of the 2 genes" in refusal(call, capsys, evaluate, *words, "--region", "THREE")
    assert "mutually exclusive" in refusal(call, capsys, evaluate, *words, "--regions_file", bed)


@pytest.mark.parametrize(
    "text, part",
    [
        ("chr1\t5\n", "line 1: expected a BED's record, start (from 0), end"),
        ("#x\nchr1\t9\t9\n", "line 2: expected a BED"),
        ("chr1\t-1\t9\n", "line 1: expected a BED"),
        ("1\t5\t9\n", "line 1: no record '1' in toy.fa: it is 'chr1' there"),
        ("chr1\t5\t901\n", "chr1 has 900 nt only"),
        ("", "holds no row"),
    ],
)
def test_a_bed_that_does_not_fit_is_refused(text, part, fasta, model, call, capsys, tmp_path):
    (tmp_path / "r.bed").write_text(text)
    words = ("predict", model, fasta, *FP32, "--regions_file", tmp_path / "r.bed")
    assert part in refusal(call, capsys, evaluate, *words)


def test_spans_go_on_after_any_number_of_positions(fasta, tmp_path):
    store = open_store([fasta], tmp_path)
    spans = find_spans(["chr2:5-9", "chr1:3", "chr1:1-2", "chr3"], store)
    assert spans == [(0, 1, 3), (1, 5, 9), (2, 1, 8)]
    positions = [(n, p) for n, first, last in spans for p in range(first, last + 1)]
    for passed in range(len(positions) + 1):
        left = [(n, p) for n, first, last in spans_after(spans, passed) for p in range(first, last + 1)]
        assert left == positions[passed:]
    with pytest.raises(ValueError, match="does not exist"):
        gene_spans(tmp_path / "none.gtf", store)


def test_a_model_that_gives_nan_stops_in_one_line(model, fasta, call, tmp_path, monkeypatch):
    real = Labeller.log_odds
    monkeypatch.setattr(Labeller, "log_odds", lambda self, texts: real(self, texts) * np.nan)
    with pytest.raises(FloatingPointError, match=r"NaN for chr1:1-160: damaged weights"):
        call(evaluate, "predict", model, fasta, "--out", tmp_path / "s.tsv", *FP32)
    assert not list(tmp_path.glob("s.tsv*"))

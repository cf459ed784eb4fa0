"""predict with a model of bases: one score a base whatever the chunk or region, tracks, and VCF in and out."""

import errno
import gzip
import io
import json
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, other_strand, put, random_bases, refusal, write_fasta
from test_predict import FP32, each_config_is_parsed_once, labeller_of, save_random  # noqa: F401

import evaluate
import simcsp.model.bases
from simcsp.core.errors import InputError
from simcsp.genome import vcf
from simcsp.genome.effects import Effects, Row, read_genes
from simcsp.genome.vcf import count_alleles
from simcsp.model.bases import Labeller
from simcsp.text.alphabet import encode
from simcsp.text.store import open_store

ALL = ("--min_score", "0")


@pytest.fixture(scope="module", params=["cnn", "encoder", "linear"])
def model(request, tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("model") / "m", request.param != "cnn", request.param == "linear")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("cnn") / "m", encoder=False)


@pytest.fixture(scope="module")
def genome():
    """Records of several chunks, of one base more than a chunk, of a few bases; N within."""
    rng = np.random.default_rng(2)
    long = put(random_bases(rng, 700), 300, "N" * 40)
    return {"chr1": long, "chr2": random_bases(rng, 161), "chr3": "GTAGGTAG", "chr4": "N" * 90}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, genome):
    return write_fasta(tmp_path_factory.mktemp("genome") / "toy.fa", genome)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_TILES", 8)
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_FLANKS", 0)


OTHER = {"A": "C", "C": "G", "G": "T", "T": "A"}


def scores(call, model, fasta, out, *words):
    call(evaluate, "predict", model, fasta, "--out", out, *FP32, *(words if "--min_score" in words else (*words, *ALL)))
    return pd.read_csv(out, sep="\t")


def whole_record(model, bases):
    """P [2 strands, length, 2] in one pass over a record, between N that fill whole tiles."""
    labeller = labeller_of(model)
    before = 2 * labeller.model.shape.flank
    after = before + -len(bases) % labeller.model.shape.step
    text = encode("N" * before + bases + "N" * after)
    return labeller.probabilities(labeller.both_strands(text))[:, before : before + len(bases)]


def at_sites(chances, rows):
    """Those of `whole_record` at the sites of a table."""
    strand, column = (rows["strand"] == "-").astype(int), (rows["type"] == "donor").astype(int)
    return chances[strand, rows["position"] - 1, column]


@pytest.mark.parametrize("sites", ["motifs", "all"])
def test_scores_are_those_of_one_pass_over_the_record(sites, model, genome, fasta, call, tmp_path):
    table = scores(call, model, fasta, tmp_path / "s.tsv", "--sites", sites)
    assert np.ptp(table["score"]) > 0.3
    seen = 0
    for name, bases in genome.items():
        expected = whole_record(model, bases)
        rows = table[table["chrom"] == name]
        seen += len(rows)
        assert rows["position"].is_monotonic_increasing
        assert rows["score"].to_numpy() == pytest.approx(at_sites(expected, rows), abs=6e-5)
        if sites == "motifs" and name != "chr3":
            for strand, read in (("+", bases), ("-", other_strand(bases))):
                places = {("donor", i) for i in range(1, len(read) - 1) if read[i : i + 2] == "GT"}
                places |= {("acceptor", i) for i in range(2, len(read)) if read[i - 2 : i] == "AG"}
                places = {(k, i - (k == "donor")) for k, i in places}
                places = {(k, i) for k, i in places if read[i] != "N"}
                mine = rows[rows["strand"] == strand]
                at = mine["position"] - 1 if strand == "+" else len(bases) - mine["position"]
                assert set(zip(mine["type"], at)) == places
    assert seen == len(table)


def test_short_records_share_a_pass_and_each_is_scored_as_by_itself(model, call, tmp_path, monkeypatch):
    rng = np.random.default_rng(9)
    records = {f"c{i}": random_bases(rng, int(rng.integers(4, 60))) for i in range(40)}
    records["c7"] = random_bases(rng, 400)
    calls, read = [], Labeller.log_odds
    monkeypatch.setattr(Labeller, "log_odds", lambda self, texts: calls.append(len(texts)) or read(self, texts))
    table = scores(call, model, write_fasta(tmp_path / "c.fa", records), tmp_path / "c.tsv")
    assert len(calls) < 30
    monkeypatch.undo()
    assert set(table["chrom"]) > {"c6", "c7", "c8"} and table["chrom"].drop_duplicates().is_unique
    for name, rows in table.groupby("chrom"):
        expected = at_sites(whole_record(model, records[name]), rows)
        assert rows["score"].to_numpy() == pytest.approx(expected, abs=6e-5)


def test_regions_and_chunks_change_no_score(model, fasta, call, tmp_path, monkeypatch):
    whole = scores(call, model, fasta, tmp_path / "whole.tsv")
    words = ["--region", "chr1:150-420", "--region", "chr2:161"]
    part = scores(call, model, fasta, tmp_path / "part.tsv", *words)
    inside = (whole["chrom"] == "chr1") & whole["position"].between(150, 420)
    inside |= (whole["chrom"] == "chr2") & (whole["position"] == 161)
    pd.testing.assert_frame_equal(part, whole[inside].reset_index(drop=True))
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_TILES", 3)
    for at_once in (1, 3):  # chunks in one pass, as a GPU takes them
        monkeypatch.setattr(Labeller, "at_once", at_once)
        other = scores(call, model, fasta, tmp_path / f"{at_once}.tsv")
        assert other["score"].to_numpy() == pytest.approx(whole["score"].to_numpy(), abs=1.1e-4)


def test_sites_below_a_hundredth_are_not_written_unless_asked_for(fasta, call, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    every = scores(call, model, fasta, tmp_path / "all.tsv")
    values = json.loads((model / "bases.json").read_text())
    for kind, row in values["calibration"].items():  # half of them fall below
        p = every.loc[every["type"] == kind, "score"].median()
        row["offset"] -= np.log(p / (1 - p)) - np.log(0.01 / 0.99)
    (model / "bases.json").write_text(json.dumps(values))
    every = scores(call, model, fasta, tmp_path / "all.tsv")
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "some.tsv", *FP32)
    some = pd.read_csv(tmp_path / "some.tsv", sep="\t")
    assert some["score"].min() >= 0.01 and 0 < len(some) < len(every)
    assert (every["score"] > 0.0101).sum() <= len(some) <= (every["score"] > 0.0098).sum()
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "all.spsc", *FP32)  # which charges for sites it lacks
    assert len((tmp_path / "all.spsc").read_text().splitlines()) == len(every)


def test_bigwig_holds_the_same_scores(model, fasta, call, tmp_path):
    pybigtools = pytest.importorskip("pybigtools")
    table = scores(call, model, fasta, tmp_path / "s.tsv")
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "t.bw", *FP32, *ALL)
    found = {}
    for kind in ("donor", "acceptor"):
        for strand, name in (("+", "plus"), ("-", "minus")):
            track = pybigtools.open(str(tmp_path / f"t.{kind}.{name}.bw"))
            for chrom in track.chroms():
                for start, end, value in track.records(chrom):
                    found |= {(chrom, position + 1, strand, kind): value for position in range(start, end)}
    assert set(found) == set(zip(table["chrom"], table["position"], table["strand"], table["type"]))
    for row in table.itertuples():
        assert found[row.chrom, row.position, row.strand, row.type] == pytest.approx(row.score, abs=6e-5)
    assert not list(tmp_path.glob("*.tmp*"))


# -- variants ----------------------------------------------------------------------------------------------------------

HEAD = '##fileformat=VCFv4.2\n##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n##FILTER=<ID=low,Description="y">\n'
HEAD += "##contig=<ID={}>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def vcf_file(path, rows, contig="chr1"):
    rows = [(*row, 30, "low", "AF=0.1" + ",0.1" * row[4].count(",")) for row in rows]
    lines = ["\t".join(map(str, row)) + "\n" for row in rows]
    path.write_text(HEAD.format(contig) + "".join(lines))
    return path


def snv(genome, pos, name=".", chrom="chr1"):
    """Of a base of chr1, under whichever name the VCF has for it."""
    base = genome["chr1"][pos - 1]
    return chrom, pos, name, base, OTHER[base]


def test_alleles_are_counted_for_the_time_that_is_left(tmp_path):
    path = vcf_file(tmp_path / "in.vcf", [("1", 5, "a", "A", "C,<DEL>"), ("1", 6, "b", "A", ".")])
    assert count_alleles(str(path)) == 2


def info_of(text):
    """{(pos, alt): [numbers]} of the annotated rows."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            fields = line.split("\t")
            for item in fields[7].split(";"):
                if item.startswith("SimCSP="):
                    for entry in item.removeprefix("SimCSP=").split(","):
                        alt, symbol, *numbers = entry.split("|")
                        found[int(fields[1]), alt, symbol] = [float(number) for number in numbers]
    return found


def delta_scores(model, bases, pos, ref, alt, flank, strands=(0, 1), annotated=None):
    """The eight numbers by SpliceAI's definition, from whole records before and after.

    y_alt is cut as `get_delta_scores` cuts it. annotated: (acceptors, donors) of -M 1, 0-based.
    """
    before = whole_record(model, bases)
    changed = whole_record(model, bases[: pos - 1] + alt + bases[pos - 1 + len(ref) :])
    start, missing = pos - 1, len(ref) - len(alt)
    kept = changed[:, : start + min(len(ref), len(alt))]
    if missing >= 0:
        gap = np.zeros((2, missing, 2))
        after = np.concatenate([kept, gap, changed[:, start + len(alt) :]], axis=1)
    else:
        best = changed[:, start + len(ref) - 1 : start + len(alt)].max(axis=1, keepdims=True)
        after = np.concatenate([kept[:, :-1], best, changed[:, start + len(alt) :]], axis=1)
    change = (after - before)[list(strands), max(start - flank, 0) : start + flank + 1]
    scores, places = [], []
    for column in range(2):
        for sign in (1, -1):
            values = (sign * change[:, :, column]).max(axis=0)
            at = int(values.argmax())
            place = max(start - flank, 0) + at
            masked = annotated is not None and (place in annotated[column]) == (sign > 0)
            scores.append(0.0 if masked else max(0.0, values[at]))
            places.append(place - start)
    return scores, places, change


@pytest.mark.parametrize(
    "linear, pos, width, alt",
    [
        (False, 501, 1, "other"),
        (False, 501, 1, "{}GTAAGTCC"),
        (False, 501, 6, "{}"),
        (False, 501, 3, "CAGGT"),
        (False, 501, 4, "TTGG"),
        *((False, 501, width, "{}") for width in (15, 16, 17, 190)),  # the flank ends behind, at and amid the deletion
        (False, 501, 190, "CAGGTAAGT"),
        (False, 501, 2, "{}" + "ACGTTGCAGGTAAGTACCCTTTCAGGA" * 12),
        (False, 9, 1, "other"),
        (False, 690, 8, "{}"),
        (True, 505, 1, "other"),  # where the tiles about the variant are those of the record
    ],
)
def test_changes_are_those_of_spliceais_definition(linear, pos, width, alt, genome, fasta, tmp_path):
    bases, flank = genome["chr1"], 15
    model = save_random(tmp_path / "m", linear, linear)
    ref = bases[pos - 1 : pos - 1 + width]
    alt = OTHER[ref] if alt == "other" else alt.format(ref[0])
    effects = Effects(open_store([fasta], tmp_path), labeller_of(model), flank)
    ((entry,),) = effects.entries([Row("chr1", pos, ref, (alt,))], Counter())
    numbers = list(map(float, entry.split("|")[2:]))
    scores, _, change = delta_scores(model, bases, pos, ref, alt, flank)
    assert numbers[:4] == pytest.approx(scores, abs=6e-5) and max(scores) > 0.01
    for number, (column, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
        at = int(numbers[4 + number]) + min(flank, pos - 1)
        if 0 <= at < change.shape[1]:  # beyond the ends of the record nothing changes
            best = (sign * change[:, :, column]).max()
            assert (sign * change[:, at, column]).max() == pytest.approx(best, abs=1e-4)
    assert effects.alleles.counts["beyond_flank"] == (width > flank + 1)


def test_a_padded_ref_changes_nothing_but_where_it_is_counted_from(cnn, genome, fasta, tmp_path):
    bases = genome["chr1"]
    effects = Effects(open_store([fasta], tmp_path), labeller_of(cnn), 15)
    alt = OTHER[bases[500]]
    rows = [Row("chr1", 501, bases[500], (alt,)), Row("chr1", 501, bases[500:540], (alt + bases[501:540],))]
    ((plain,), (padded,)) = effects.entries(rows, Counter())
    assert plain.split("|")[1:] == padded.split("|")[1:]


def test_all_else_in_the_vcf_is_kept_and_order_and_splits_change_nothing(model, genome, fasta, call, capsys, tmp_path):
    bases = genome["chr1"]
    rows = [snv(genome, pos, f"rs{pos}") for pos in (3, 150, 161, 500, 699)]
    rows += [("chr1", 520, "del", bases[519:523], bases[519]), ("chr1", 530, "two", bases[529], f"{bases[529]}A,<DEL>")]
    vcf_file(tmp_path / "in.vcf", rows)
    call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "in.vcf", "--out", tmp_path / "out.vcf", *FP32)
    said = capsys.readouterr().out
    assert "7 of 8 alleles scored" in said and "1 left out: allele not written out" in said
    text = (tmp_path / "out.vcf").read_text()
    whole = info_of(text)
    assert len(whole) == 7
    kept = [line for line in text.splitlines() if not line.startswith("##")]
    for line, row in zip(kept[1:], rows):
        assert line.split("\t")[:7] == [*map(str, row), "30", "low"] and "AF=0.1" in line
    for meta in HEAD.format("chr1").splitlines()[:3]:
        assert meta in text
    assert "ID=SimCSP" in text and "ALLELE|SYMBOL|DS_AG" in text

    vcf_file(tmp_path / "turned.vcf", rows[::-1])
    call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "turned.vcf", "--out", tmp_path / "b.vcf.gz", *FP32)
    assert info_of(gzip.open(tmp_path / "b.vcf.gz", "rt").read()) == whole
    split = {}
    for part in (rows[:3], rows[3:4], rows[4:]):
        vcf_file(tmp_path / "part.vcf", part)
        call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "part.vcf", "--out", tmp_path / "o.vcf", *FP32)
        split |= info_of((tmp_path / "o.vcf").read_text())
    assert split == whole
    call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "b.vcf.gz", "--out", tmp_path / "again.bcf", *FP32)
    call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "again.bcf", "--out", tmp_path / "c.vcf", *FP32)
    text = (tmp_path / "c.vcf").read_text()
    assert info_of(text) == whole and text.count("ID=SimCSP") == 1


def test_a_bcf_cannot_hold_a_tag_that_is_not_declared(cnn, genome, fasta, call, capsys, tmp_path):
    (tmp_path / "v.vcf").write_text(HEAD.format("chr1") + row_of(genome, ".", ".", "XX=3"))
    call(evaluate, "predict", cnn, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    assert "XX=3;SimCSP=" in (tmp_path / "o.vcf").read_text()
    words = ("predict", cnn, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.bcf", *FP32)
    assert "write .vcf.gz" in refusal(call, capsys, evaluate, *words) and not list(tmp_path.glob("*.bcf*"))


def test_a_vcf_comes_from_stdin_and_goes_to_stdout(cnn, genome, fasta, call, capsys, monkeypatch, tmp_path):
    rows = vcf_file(tmp_path / "in.vcf", [snv(genome, 500, chrom="1")], "1").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(rows)), encoding="utf-8"))
    call(evaluate, "predict", cnn, fasta, "--vcf", "-", *FP32)
    out, err = capsys.readouterr()
    assert len(info_of(out)) == 1 and out.startswith("##fileformat")
    assert "1 of 1 alleles scored" in err


def test_scores_are_utf8_where_the_locale_is_not(call, monkeypatch, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    fasta = write_fasta(tmp_path / "g.fa", {"chr\u2014\u00e9": random_bases(np.random.default_rng(1), 300)})
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    call(evaluate, "predict", model, fasta, *FP32)
    out.flush()
    assert out.buffer.getvalue().decode().splitlines()[1].startswith("chr\u2014\u00e9\t")


GTF = 'chr1\tx\texon\t{}\t{}\t.\t{}\t.\tgene_id "{}"; transcript_id "{}t"; gene_name "{}";\n'


def test_genes_name_and_strand_the_effects_and_a_mask_zeroes_what_is_largest(cnn, genome, fasta, tmp_path):
    bases = genome["chr1"]
    gtf = tmp_path / "g.gtf"
    exons = [(401, 450, "+", "G1", "G1", "FIRST"), (495, 600, "+", "G1", "G1", "FIRST")]
    gtf.write_text("".join(GTF.format(*exon) for exon in [*exons, (460, 640, "-", "G2", "G2", "TWO")]))
    store, labeller = open_store([fasta], tmp_path), labeller_of(cnn)
    genes = read_genes(gtf, store)
    assert [(gene.symbol, gene.body.strand) for gene in genes["chr1"]] == [("FIRST", "+"), ("TWO", "-")]
    assert genes["chr1"][0].sites[0].tolist() == [494] and genes["chr1"][0].sites[1].tolist() == [449]
    skipped, masked = Counter(), 0
    rows = [Row("chr1", pos, bases[pos - 1], (OTHER[bases[pos - 1]],)) for pos in range(480, 515)]
    for mask in (False, True):
        entries = Effects(store, labeller, 15, genes, mask).entries(rows, skipped)
        for row, (first, second) in zip(rows, entries):
            of_genes = (first, "FIRST", 0, ({494}, {449})), (second, "TWO", 1, (set(), set()))
            for entry, symbol, strand, sites in of_genes:
                known = sites if mask else None
                scores, *_ = delta_scores(cnn, bases, row.pos, row.ref, row.alts[0], 15, [strand], known)
                assert entry.split("|")[:2] == [row.alts[0], symbol]
                assert list(map(float, entry.split("|")[2:6])) == pytest.approx(scores, abs=6e-5)
                masked += mask and scores.count(0.0)
    assert masked and not skipped
    assert Effects(store, labeller, 15, genes).entries([Row("chr1", 100, bases[99], ("G",))], skipped) == [[]]
    assert sum(skipped.values()) == 1


# -- files as they are -------------------------------------------------------------------------------------------------


@pytest.fixture
def annotated(cnn, fasta, call, capsys, tmp_path):
    """annotated(text of a VCF or bytes, flags) -> (text written, what was said)."""

    def annotated(content, *words, out="o.vcf", fasta=fasta):
        path = tmp_path / "in.vcf"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        call(evaluate, "predict", cnn, fasta, "--vcf", path, "--out", tmp_path / out, *FP32, *words)
        return (tmp_path / out).read_bytes().decode(), capsys.readouterr()

    return annotated


def row_of(genome, *more, pos=500, chrom="chr1"):
    return "\t".join([*map(str, snv(genome, pos, chrom=chrom)), *(more or (".", ".", "."))]) + "\n"


HEADER = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.mark.parametrize(
    "change",
    [gzip.compress, lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b],
    ids=["gzip", "CRLF", "BOM"],
)
def test_gzip_line_ends_and_a_mark_of_utf8_change_no_score(change, genome, annotated):
    text = HEADER + row_of(genome)
    plain, _ = annotated(text)
    assert "SimCSP=" in plain and annotated(change(text.encode()))[0] == plain


def test_all_columns_but_info_are_as_they_were(genome, annotated):
    head = HEADER.replace("INFO\n", "INFO\tFORMAT\tone\n")
    row = row_of(genome, "30.10", "q10;s50", "AF=1e-05;XX=0.10;H2", "GT:GL", "0|1:-1.50,0.0,-1e3").encode()
    text, _ = annotated(head.encode() + row.replace(b"q10", b"q\xc3\xa90"))
    assert text.splitlines()[-1].partition(";SimCSP=")[0].split("\t")[5:] == ["30.10", "qé0;s50", "AF=1e-05;XX=0.10;H2"]
    assert text.splitlines()[-1].split("\t")[8:] == ["GT:GL", "0|1:-1.50,0.0,-1e3"]


@pytest.mark.parametrize(
    "declared, value",
    [
        ("Number=1,Type=Float", "SimCSP=0.5"),
        ("Number=1,Type=String", "SimCSP=a"),
        ("Number=0,Type=Flag", "SimCSP"),
        ("", "SimCSP=x"),
    ],
)
def test_a_field_of_our_name_is_replaced_whatever_its_type(declared, value, genome, annotated):
    line = f'##INFO=<ID=SimCSP,{declared},Description="my own">\n' if declared else ""
    text, _ = annotated(HEADER.replace("#CHROM", f"{line}#CHROM") + row_of(genome, ".", ".", f"DP=3;{value};SimCSPx=1"))
    assert text.count("ID=SimCSP,Number=.,Type=String") == 1 == text.count("ID=SimCSP,")
    kept, _, entry = text.splitlines()[-1].split("\t")[7].rpartition(";SimCSP=")
    assert kept == "DP=3;SimCSPx=1" and len(entry.split("|")) == 10


def test_a_vcf_without_contig_lines_becomes_a_bcf(genome, annotated, tmp_path):
    pysam = pytest.importorskip("pysam")
    annotated(HEADER + row_of(genome), out="plain.vcf")
    with pytest.raises(UnicodeDecodeError):  # it is no text
        annotated(HEADER + row_of(genome) + row_of(genome, pos=501), out="o.bcf")
    with pysam.VariantFile(str(tmp_path / "o.bcf")) as variants:
        assert variants.header.contigs["chr1"].length == 700
        assert [len(row.info["SimCSP"][0].split("|")) for row in variants] == [10, 10]


NAMES = ["tRNA-Ser,pseudo", "foo;bar", "rps12|lcl|x", "a b", "a%2Cb", "x=y", "5'-é", "."]


@pytest.mark.parametrize("form", ["gtf", "gff3"])
def test_a_gene_of_any_name_makes_one_entry_of_ten_fields(form, genome, annotated, tmp_path):
    pysam = pytest.importorskip("pysam")
    path, rows = tmp_path / "genes", []
    for i, name in enumerate(NAMES):
        if form == "gtf":
            rows.append(GTF.format(401, 600, "+", f"g{i}", i, name))
            continue
        for feature, attributes in (
            ("gene", f"ID=g{i};Name={quote(name)}"),
            ("mRNA", f"ID=t{i};Parent=g{i}"),
            ("exon", f"Parent=t{i}"),
        ):
            rows.append(f"chr1\tx\t{feature}\t401\t600\t.\t+\t.\t{attributes}\n")
    path.write_text("".join(rows), encoding="utf-8")
    text, _ = annotated(HEADER + row_of(genome, ".", ".", "DP=3"), "--annotation", path)
    depth, info = text.splitlines()[-1].split("\t")[7].split(";")
    entries = [entry.split("|") for entry in info.removeprefix("SimCSP=").split(",")]
    assert depth == "DP=3" and {len(entry) for entry in entries} == {10} and " " not in info
    expected = [name if form == "gff3" else unquote(name) for name in NAMES]
    assert [unquote(entry[1]) for entry in entries] == expected
    with pysam.VariantFile(str(tmp_path / "o.vcf")) as variants:
        assert [list(row.info) for row in variants] == [["DP", "SimCSP"]]


def test_ref_at_an_ambiguous_base_may_be_any_that_it_stands_for(genome, annotated, tmp_path):
    bases = genome["chr1"]
    fasta = write_fasta(tmp_path / "iupac.fa", {"chr1": put(put(bases, 499, "R"), 549, "MY")})
    rows = [("A", 500, "G"), ("N", 500, "T"), ("R", 500, "C"), ("AC", 550, "A"), (bases[519], 520, OTHER[bases[519]])]
    rows += [("G", 320, "A"), ("N", 320, "A"), (bases[529], 530, "R"), (bases[529], 530, "N")]
    rows += [(OTHER[bases[539]], 540, "T")]
    text = HEADER + "".join(f"chr1\t{pos}\t.\t{ref}\t{alt}\t.\t.\t.\n" for ref, pos, alt in rows)
    written, said = annotated(text, fasta=fasta)
    assert ["SimCSP=" in line for line in written.splitlines()[3:]] == [True] * 5 + [False] * 5
    reasons = ("2 left out: in a run of N", "2 left out: ALT with an ambiguous base", "1 left out: REF is not what")
    assert all(reason in said.out for reason in reasons)
    known = {line.split("\t")[3]: line for line in written.splitlines()[3:6]}
    assert known["A"].split("|")[2:] != known["N"].split("|")[2:]  # REF is the text that was there


def test_a_vcf_of_another_build_is_refused_and_leaves_nothing(cnn, genome, fasta, call, capsys, tmp_path):
    right = [snv(genome, pos) for pos in range(110, 120)]
    others = [snv(genome, pos) for pos in range(100, 104)]
    wrong = [(chrom, pos, name, alt, ref) for chrom, pos, name, ref, alt in others]
    vcf_file(tmp_path / "v.vcf", right + wrong)
    words = ("predict", cnn, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    line = refusal(call, capsys, evaluate, *words)
    assert "REF of 4 of 14 alleles" in line and "different builds" in line
    assert not list(tmp_path.glob("o.vcf*"))
    vcf_file(tmp_path / "v.vcf", right + wrong[:1])
    call(evaluate, *words)
    assert "1 left out: REF is not what the FASTA has there" in capsys.readouterr().out
    assert "different builds" in refusal(call, capsys, evaluate, *words, "--strict")


OTHERS = "no record in common with the FASTA ('chrX' here, 'chr1' there)"
ROW = "{}\t5\t.\tA\tC\t.\t.\t.\n"


@pytest.mark.parametrize(
    "text, part",
    [
        (HEADER.replace("#C", "##contig=<ID=chrX>\n#C") + ROW.format("chrX"), OTHERS),
        (HEADER.replace("#C", "##contig=<ID=chr1>\n#C") + ROW.format("chrX"), OTHERS),
        ("", "is not a VCF or BCF"),
        ("chr1\t5\tA\tC\n", "is not a VCF or BCF"),
        (HEADER + ROW.format("chr1") + "chr1\tfive\t.\tA\n", "a row cannot be read"),
    ],
    ids=["other contigs", "undeclared contig", "empty", "no header", "row"],
)
def test_a_vcf_that_cannot_be_scored_is_refused_and_leaves_nothing(cnn, text, part, fasta, call, capsys, tmp_path):
    (tmp_path / "v.vcf").write_text(text)
    words = ("predict", cnn, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    line = refusal(call, capsys, evaluate, *words)
    assert "v.vcf" in line and part in line
    assert not list(tmp_path.glob("o.vcf*"))


def test_files_that_do_not_belong_together_are_refused(fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    text = (model / "bases.json").read_text()
    (model / "bases.json").write_text(text.replace('"channels": 8', '"channels": 9'))
    assert "do not fit" in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32)
    (model / "bases.json").write_text(text.replace('"tile"', '"tiles"'))
    assert "do not fit" in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32)


# -- the bundled model -----------------------------------------------------------------------------------------------


def test_without_a_source_the_boxed_models_score_and_find_a_strong_site(call, capsys, tmp_path):
    rng = np.random.default_rng(4)
    bases = put(random_bases(rng, 1500), 700, "TTCTTTCTTTTTTCTGCAG" + random_bases(rng, 120) + "CAGGTAAGTATT")
    fasta = write_fasta(tmp_path / "g.fa", {"x": bases})
    tables = {}
    for name, words in {"own": [], "fast": ["--fast"], "given": [ROOT / "models/simcsp-small-bases-fast"]}.items():
        call(evaluate, "predict", *words, fasta, "--out", tmp_path / f"{name}.tsv", *FP32)
        tables[name] = table = pd.read_csv(tmp_path / f"{name}.tsv", sep="\t")
        for kind, position in (("acceptor", 720), ("donor", 842)):
            rows = table[(table["type"] == kind)]
            assert rows.loc[rows["score"].idxmax(), ["position", "strand"]].tolist() == [position, "+"]
    assert tables["fast"].equals(tables["given"]) and not tables["fast"].equals(tables["own"])
    words = ("predict", ROOT / "models/simcsp-tiny", fasta, "--fast", *FP32)
    assert "it does not go with a SOURCE" in refusal(call, capsys, evaluate, *words)


@pytest.mark.parametrize("name, size", [("simcsp-small-bases", 8 << 20), ("simcsp-small-bases-fast", 4 << 20)])
def test_the_boxed_models_are_small(name, size):
    assert sum(path.stat().st_size for path in (ROOT / "models" / name).iterdir()) < size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_not_taken_for_a_row_that_bcf_cannot_hold(tmp_path):
    header = ["##fileformat=VCFv4.2", "##contig=<ID=x>", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    body = tmp_path / "body"
    for rows, wrong in (("x\t1\t.\tA\tC\t.\t.\t.\n", OSError), ("x\t1\t.\tA\tC\t.\t.\tTAG=1\n", InputError)):
        body.write_text(rows)
        with pytest.raises(wrong) as refused:
            vcf._write_bcf(header, body, Path("/dev/full"))
        assert getattr(refused.value, "errno", None) == (errno.ENOSPC if wrong is OSError else None)

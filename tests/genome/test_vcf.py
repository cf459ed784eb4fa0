"""predict with a model of bases: one score a base whatever the chunk or region, tracks, and VCF in and out."""

import gzip
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, other_strand, put, random_bases, refusal, write_fasta
from test_predict import FP32, each_config_is_parsed_once, save_random  # noqa: F401

import evaluate
import simcsp.model.bases
from simcsp.genome.vcf import Effects, read_genes
from simcsp.model.bases import Labeller, load_bases
from simcsp.text.alphabet import encode
from simcsp.text.store import open_store

ALL = ("--min_score", "0")


@pytest.fixture(scope="module", params=["cnn", "encoder", "linear"])
def model(request, tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("model") / "m", request.param != "cnn", request.param == "linear")


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


def scores(call, model, fasta, out, *words):
    call(evaluate, "predict", model, fasta, "--out", out, *FP32, *(words if "--min_score" in words else (*words, *ALL)))
    return pd.read_csv(out, sep="\t", dtype={"chrom": str})


def whole_record(model, bases):
    """P [2 strands, length, 2] in one pass over a record, between N that fill whole tiles."""
    network, calibration = load_bases(model)
    labeller = Labeller(network, calibration, torch.device("cpu"))
    before = 2 * network.shape.flank
    after = before + -len(bases) % network.shape.step
    text = encode("N" * before + bases + "N" * after)
    return labeller.probabilities(labeller.both_strands(text))[:, before : before + len(bases)]


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
        strand, column = (rows["strand"] == "-").astype(int), (rows["type"] == "donor").astype(int)
        assert rows["score"].to_numpy() == pytest.approx(expected[strand, rows["position"] - 1, column], abs=6e-5)
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
        strand, column = (rows["strand"] == "-").astype(int), (rows["type"] == "donor").astype(int)
        expected = whole_record(model, records[name])[strand, rows["position"] - 1, column]
        assert rows["score"].to_numpy() == pytest.approx(expected, abs=6e-5)


def test_regions_and_chunks_change_no_score(model, fasta, call, tmp_path, monkeypatch):
    whole = scores(call, model, fasta, tmp_path / "whole.tsv")
    words = ["--region", "chr1:150-420", "--region", "chr2:161"]
    part = scores(call, model, fasta, tmp_path / "part.tsv", *words)
    inside = (whole["chrom"] == "chr1") & whole["position"].between(150, 420)
    inside |= (whole["chrom"] == "chr2") & (whole["position"] == 161)
    pd.testing.assert_frame_equal(part, whole[inside].reset_index(drop=True))
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_TILES", 3)
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_FLANKS", 0)
    other = scores(call, model, fasta, tmp_path / "other.tsv")
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
    some = pd.read_csv(tmp_path / "some.tsv", sep="\t", dtype={"chrom": str})
    assert some["score"].min() >= 0.01
    assert (every["score"] > 0.0101).sum() <= len(some) <= (every["score"] > 0.0098).sum() and 0 < len(some) < len(
        every
    )
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "all.spsc", *FP32)  # which charges for sites it lacks
    assert len((tmp_path / "all.spsc").read_text().splitlines()) == len(every)


def test_no_base_is_likely_to_be_both(model, fasta, call, tmp_path):
    table = scores(call, model, fasta, tmp_path / "all.tsv", "--sites", "all")
    both = table.pivot_table(index=["chrom", "position", "strand"], columns="type", values="score")
    assert both.sum(axis=1).max() <= 1.0002


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


def plain_change(model, bases, pos, ref, alt, flank):
    """{(type, sign): largest change, ...} by the whole record before and after; positions of bases that both have."""
    before, after = (
        whole_record(model, bases),
        whole_record(model, bases[: pos - 1] + alt + bases[pos - 1 + len(ref) :]),
    )
    changes, start, end = {}, pos - 1 - flank, pos - 1 + len(ref) + flank
    for column, kind in enumerate("AD"):
        values = []
        for base in range(start, end):
            inside = base - (pos - 1)
            if inside < 0:
                now = after[:, base, column]
            elif inside >= len(ref):
                now = after[:, base + len(alt) - len(ref), column]
            elif inside == len(ref) - 1 and len(alt) > len(ref):
                now = after[:, base : pos - 1 + len(alt), column].max(axis=1)
            else:
                now = after[:, base, column] if inside < len(alt) else np.zeros(2)
            values.append(now - before[:, base, column])
        values = np.array(values)
        for sign, name in ((1, "G"), (-1, "L")):
            best = np.maximum(sign * values, 0).max(axis=1)
            changes[kind + name] = best.max(), int(best.argmax()) + start + 1 - pos, best
    return changes


@pytest.mark.parametrize(
    "linear, pos, width, alt",
    [
        (False, 501, 1, "other"),
        (False, 501, 1, "{}GTAAGTCC"),
        (False, 501, 6, "{}"),
        (False, 501, 3, "CAGGT"),
        (True, 505, 1, "other"),  # where the tiles about the variant are those of the record
    ],
)
def test_changes_are_those_of_the_changed_record(linear, pos, width, alt, genome, fasta, tmp_path):
    model = save_random(tmp_path / "m", linear, linear)
    bases, flank = genome["chr1"], 15
    ref = bases[pos - 1 : pos - 1 + width]
    alt = {"A": "C", "C": "G", "G": "T", "T": "A"}[ref] if alt == "other" else alt.format(ref[0])
    effects = Effects(open_store([fasta], tmp_path), Labeller(*load_bases(model), torch.device("cpu")), flank)
    (entry,) = effects.entries("chr1", pos, ref, (alt,), Counter())
    numbers = list(map(float, entry.split("|")[2:]))
    expected = plain_change(model, bases, pos, ref, alt, flank)
    for number, key in enumerate(("AG", "AL", "DG", "DL")):
        score, _, by_place = expected[key]
        assert numbers[number] == pytest.approx(score, abs=6e-5)
        at = int(numbers[4 + number]) + pos - 1 - (pos - 1 - flank)
        assert by_place[at] == pytest.approx(score, abs=1e-4)
    assert max(numbers[:4]) > 0.01


def test_all_else_in_the_vcf_is_kept_and_order_and_splits_change_nothing(model, genome, fasta, call, capsys, tmp_path):
    bases = genome["chr1"]
    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    rows = [("chr1", p, f"rs{p}", bases[p - 1], other[bases[p - 1]]) for p in (3, 150, 161, 500, 699)]
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


def test_a_bcf_cannot_hold_a_tag_that_is_not_declared(genome, fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    base = genome["chr1"][499]
    row = f"chr1\t500\t.\t{base}\t{'ACGT'.replace(base, '')[0]}\t.\t.\tXX=3\n"
    (tmp_path / "v.vcf").write_text(HEAD.format("chr1") + row)
    call(evaluate, "predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    assert "XX=3;SimCSP=" in (tmp_path / "o.vcf").read_text()
    words = ("predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.bcf", *FP32)
    assert "write .vcf.gz" in refusal(call, capsys, evaluate, *words) and not list(tmp_path.glob("*.bcf*"))


def test_a_vcf_comes_from_stdin_and_goes_to_stdout(genome, fasta, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    base = genome["chr1"][499]
    rows = vcf_file(tmp_path / "in.vcf", [("1", 500, ".", base, "ACGT".replace(base, "")[0])], "1").read_text()
    words = [sys.executable, ROOT / "evaluate.py", "predict", model, fasta, "--vcf", "-", *FP32]
    done = subprocess.run(words, input=rows, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(info_of(done.stdout)) == 1 and done.stdout.startswith("##fileformat")
    assert "1 of 1 alleles scored" in done.stderr


GTF = 'chr1\tx\texon\t{}\t{}\t.\t{}\t.\tgene_id "{}"; transcript_id "{}t"; gene_name "{}";\n'


def test_genes_name_and_strand_the_effects_and_a_mask_keeps_what_matters(genome, fasta, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    gtf = tmp_path / "g.gtf"
    exons = [
        (401, 450, "+", "G1", "G1", "FIRST"),
        (495, 600, "+", "G1", "G1", "FIRST"),
        (460, 640, "-", "G2", "G2", "TWO"),
    ]
    gtf.write_text("".join(GTF.format(*exon) for exon in exons))
    store = open_store([fasta], tmp_path)
    labeller = Labeller(*load_bases(model), torch.device("cpu"))
    genes = read_genes(gtf, store)
    assert [(gene.symbol, gene.body.strand) for gene in genes["chr1"]] == [("FIRST", "+"), ("TWO", "-")]
    assert genes["chr1"][0].sites[0].tolist() == [494] and genes["chr1"][0].sites[1].tolist() == [449]
    base = genome["chr1"][499]
    alt = "ACGT".replace(base, "")[0]
    words = ("chr1", 500, base, (alt,), Counter())
    first, second = Effects(store, labeller, 15, genes).entries(*words)
    assert first.startswith(f"{alt}|FIRST|") and second.startswith(f"{alt}|TWO|") and first[8:] != second[6:]
    (both,) = Effects(store, labeller, 15).entries(*words)
    numbers = [[float(n) for n in entry.split("|")[2:6]] for entry in (first, second, both)]
    assert np.maximum(numbers[0], numbers[1]) == pytest.approx(numbers[2])
    masked = Effects(store, labeller, 15, genes, mask=True).entries(*words)[0].split("|")
    assert float(masked[5]) == 0.0  # no annotated donor is near
    assert float(masked[3]) in (0.0, float(first.split("|")[3])) and masked[4] == first.split("|")[4]
    skipped = Counter()
    assert Effects(store, labeller, 15, genes).entries("chr1", 100, genome["chr1"][99], ("G",), skipped) == []
    assert sum(skipped.values()) == 1


def test_a_vcf_of_another_build_is_refused_and_leaves_nothing(genome, fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    wrong = [("chr1", p, ".", other[genome["chr1"][p - 1]], genome["chr1"][p - 1]) for p in range(100, 104)]
    right = [("chr1", p, ".", genome["chr1"][p - 1], other[genome["chr1"][p - 1]]) for p in range(110, 120)]
    vcf_file(tmp_path / "v.vcf", right + wrong)
    words = ("predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    line = refusal(call, capsys, evaluate, *words)
    assert "REF of 4 of 14 alleles" in line and "different builds" in line
    assert not list(tmp_path.glob("o.vcf*"))
    vcf_file(tmp_path / "v.vcf", right + wrong[:1])
    call(evaluate, *words)
    assert "1 left out: REF is not what the FASTA has there" in capsys.readouterr().out
    assert "different builds" in refusal(call, capsys, evaluate, *words, "--strict")


@pytest.mark.parametrize("declared", ["chrX", "chr1"])
def test_a_vcf_of_other_contigs_is_refused_and_leaves_nothing(declared, fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    text = f"##fileformat=VCFv4.2\n##contig=<ID={declared}>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "v.vcf").write_text(text + "chrX\t5\t.\tA\tC\t.\t.\t.\n")
    words = ("predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    assert "v.vcf: no record in common with the FASTA ('chrX' here, 'chr1' there)" in refusal(
        call, capsys, evaluate, *words
    )
    assert not list(tmp_path.glob("o.vcf*"))


@pytest.mark.parametrize("text, part", [("", "is no VCF or BCF"), ("chr1\t5\tA\tC\n", "is no VCF or BCF")])
def test_what_is_no_vcf_is_refused(text, part, fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    (tmp_path / "v.vcf").write_text(text)
    words = ("predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    assert part in refusal(call, capsys, evaluate, *words)


@pytest.mark.parametrize(
    "words, part",
    [
        (["--mask", "--vcf", "v"], "--mask needs --annotation"),
        (["--annotation", "g.gtf"], "g.gtf does not exist"),
        (["--format", "bigwig"], "give --out NAME.bw"),
        (["--vcf", "nowhere.vcf"], "nowhere.vcf does not exist"),
    ],
)
def test_flags_that_do_not_fit_are_refused(words, part, fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    assert part in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32, *words)


def test_files_that_do_not_belong_together_are_refused(fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    text = (model / "bases.json").read_text()
    (model / "bases.json").write_text(text.replace('"channels": 8', '"channels": 9'))
    assert "do not fit" in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32)
    (model / "bases.json").write_text(text.replace('"tile"', '"tiles"'))
    assert "do not fit" in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32)


def test_a_row_that_cannot_be_read_stops_and_leaves_nothing(fasta, call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    vcf_file(tmp_path / "v.vcf", [("chr1", 5, ".", "A", "C")])
    with open(tmp_path / "v.vcf", "a", encoding="utf-8") as handle:
        handle.write("chr1\tfive\t.\tA\n")
    words = ("predict", model, fasta, "--vcf", tmp_path / "v.vcf", "--out", tmp_path / "o.vcf", *FP32)
    assert "a row cannot be read" in refusal(call, capsys, evaluate, *words)
    assert not list(tmp_path.glob("o.vcf*"))


# -- the model in the box ----------------------------------------------------------------------------------------------


def test_without_a_source_the_boxed_model_scores_and_finds_a_strong_site(call, tmp_path):
    rng = np.random.default_rng(4)
    bases = put(random_bases(rng, 1500), 700, "TTCTTTCTTTTTTCTGCAG" + random_bases(rng, 120) + "CAGGTAAGTATT")
    fasta = write_fasta(tmp_path / "g.fa", {"x": bases})
    call(evaluate, "predict", fasta, "--out", tmp_path / "s.tsv", *FP32)
    table = pd.read_csv(tmp_path / "s.tsv", sep="\t")
    for kind, position in (("acceptor", 720), ("donor", 842)):
        rows = table[(table["type"] == kind)]
        assert rows.loc[rows["score"].idxmax(), ["position", "strand"]].tolist() == [position, "+"]


def test_the_boxed_model_is_small_and_has_a_card_with_a_header():
    folder = ROOT / "models/simcsp-small-bases"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 << 20
    header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert header["pipeline_tag"] == "token-classification" and header["model-index"][0]["results"]

"""evaluate.py predict: every site of a toy genome against a plain loop over strings, variants against the genome they
make, and what is refused or left out."""

import dataclasses
import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import other_strand, put, random_bases, refusal, tiny_config, write_fasta
from torch import nn

import commands.genome
import commands.sources
import evaluate
import simcsp.genome.scan
from simcsp.core.config import to_yaml
from simcsp.core.errors import InputError
from simcsp.genome.regions import find_spans
from simcsp.genome.scan import candidates, cut_windows
from simcsp.genome.variants import COLUMNS, read_variants
from simcsp.metrics.scores import score_against
from simcsp.model.checkpoint import load_backbone
from simcsp.model.classifier import Classifier, load_classifier, predict, save_classifier
from simcsp.text.alphabet import decode, encode
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import KINDS, Sites
from simcsp.text.store import open_store
from utils.arguments import load_config

CONTEXT = 20  # of tiny_config
HALF = CONTEXT // 2


def make_run(folder: Path, data: Path, jobs: dict[str, int], changes: dict[str, object] | None = None) -> Path:
    """A run as it would be passed on: {'arm/site': folds} of untrained classifiers, and nothing else."""
    config = load_config([str(tiny_config(folder, data, changes))])
    for number, (job, folds) in enumerate(jobs.items()):
        for fold in range(folds):
            torch.manual_seed(10 * number + fold)
            model, _, _ = load_backbone(config.model)
            classifier = Classifier(model.bert, "centre", dropout=0.1)
            for layer in (classifier.head[0], classifier.head[3]):
                nn.init.normal_(layer.weight, std=2.0)  # so that scores differ
            path = folder / f"bundle/finetune/{job}/seed0/fold{fold:02d}"
            (path / "checkpoints/best").mkdir(parents=True)
            save_classifier(classifier, path / "checkpoints/best")
            (path / "config.yaml").write_text(to_yaml(dataclasses.replace(config, name="bundle")))
            (path / "summary.json").write_text("{}\n")
    return folder / "bundle"


@pytest.fixture(autouse=True, scope="module")
def each_config_is_parsed_once():
    """Half a second a time; nothing changes a Config."""
    patch = pytest.MonkeyPatch()
    known = {}

    def remembered(words):
        if tuple(words) not in known:
            known[tuple(words)] = load_config(words)
        return known[tuple(words)]

    patch.setattr(commands.sources, "load_config", remembered)
    patch.setattr(commands.genome, "load_config", remembered)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Three folds for each type of site; neither their training windows nor their text exist."""
    folder = tmp_path_factory.mktemp("predict")
    jobs = {"baseline/donor": 3, "baseline/acceptor": 3, "last/donor": 1, "last/acceptor": 1}
    return make_run(folder, folder / "gone", jobs)


@pytest.fixture(scope="module")
def untyped(tmp_path_factory) -> Path:
    """Two folds fitted on both types."""
    folder = tmp_path_factory.mktemp("untyped")
    return make_run(folder, folder / "gone", {"baseline/both": 2})


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> dict[str, str]:
    """Lower case, a run of N, a single N, a record shorter than a window, one that is all N."""
    rng = np.random.default_rng(0)
    first = put(put(random_bases(rng, 460), 90, "N" * 30), 150, "N")
    first = put(first, 170, first[170:230].lower())
    return {"one": first, "short": "GTAGGTAGCTAC", "two": random_bases(rng, 60), "n": "N" * 60}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, genome) -> Path:
    return write_fasta(tmp_path_factory.mktemp("genome") / "toy.fa", genome)


def predicted(call, run: Path, fasta: Path, out: Path, *words: object) -> pd.DataFrame:
    call(evaluate, "predict", run, fasta, "--out", out, *words)
    return pd.read_csv(out, sep="\t", dtype={"chrom": str})


def plain_sites(genome: dict[str, str], every: bool = False) -> dict[tuple[str, int, str, str], str]:
    """{(chrom, position, strand, type): window} by walking along strings, one strand at a time."""
    found = {}
    for name, forward in genome.items():
        for strand in "+-":
            bases = forward.upper() if strand == "+" else other_strand(forward.upper())
            for i in range(len(bases) - 1):
                for kind, motif, boundary, exon in (("donor", "GT", i, i - 1), ("acceptor", "AG", i + 2, i + 2)):
                    window = bases[max(boundary - HALF, 0) : boundary + HALF]
                    if (every or bases[i : i + 2] == motif) and boundary >= HALF and len(window) == CONTEXT:
                        if window.count("N") <= 0.05 * CONTEXT:
                            position = exon + 1 if strand == "+" else len(bases) - exon
                            found[name, position, strand, kind] = window
    return found


def plain_scores(run: Path, windows: list[str], kinds: list[str]) -> np.ndarray:
    """[folds, n] of the baseline."""
    config = load_config([str(run / "finetune/baseline/donor/seed0/fold00/config.yaml")])
    ids, kinds = np.stack([encode(window) for window in windows]), np.array(kinds)
    scores = np.empty((3, len(ids)), np.float32)
    for kind in ("donor", "acceptor"):
        folds = sorted(run.glob(f"finetune/baseline/{kind}/seed0/*/checkpoints/best"))
        for number, fold in enumerate(folds):
            mine = kinds == kind
            scores[number, mine] = predict(load_classifier(fold, config.model, 0.1), ids[mine], 64)
    return scores


@pytest.mark.parametrize("sites", ["motifs", "all"])
def test_every_site_is_found_and_scored_as_a_plain_loop_does(sites, run, genome, fasta, call, tmp_path, monkeypatch):
    monkeypatch.setattr(simcsp.genome.scan, "_STRETCH", 37)  # so that stretches and blocks end amid sites
    monkeypatch.setattr(simcsp.genome.scan, "_BLOCK", 50)
    table = predicted(call, run, fasta, tmp_path / "scores.tsv", "--sites", sites)
    expected = plain_sites(genome, every=sites == "all")
    keys = list(zip(table["chrom"], table["position"], table["strand"], table["type"]))
    assert len(keys) == len(set(keys)) and set(keys) == set(expected)
    scores = plain_scores(run, [expected[key] for key in keys], [key[3] for key in keys])
    assert np.ptp(scores) > 0.3
    assert table["score"].to_numpy() == pytest.approx(scores.mean(axis=0), abs=5.1e-5)
    assert table["sd"].to_numpy() == pytest.approx(scores.std(axis=0, ddof=1), abs=5.1e-5)
    assert sites == "all" or set(zip(table["type"], table["motif"])) == {("donor", "GT"), ("acceptor", "AG")}
    for key, motif in zip(keys, table["motif"]):
        assert motif == (expected[key][HALF : HALF + 2] if key[3] == "donor" else expected[key][HALF - 2 : HALF])
    for _, rows in table.groupby("chrom"):
        assert rows["position"].is_monotonic_increasing


def test_scores_do_not_depend_on_the_batch_size(run, fasta, genome, call, tmp_path):
    part = "--region", "one:160-320"
    for size in (1, 7, 64):
        predicted(call, run, fasta, tmp_path / f"{size}.tsv", *part, "--evaluate.batch_size", size)
    predicted(call, run, fasta, tmp_path / "own.tsv", *part)
    texts = {(tmp_path / f"{name}.tsv").read_text() for name in (1, 7, 64, "own")}
    assert len(texts) == 1
    windows = np.stack([encode(window) for window in plain_sites(genome).values()])
    config = load_config([str(run / "finetune/baseline/donor/seed0/fold00/config.yaml")])
    model = load_classifier(run / "finetune/baseline/donor/seed0/fold00/checkpoints/best", config.model, 0.1)
    one, many = predict(model, windows, 1), predict(model, windows, 50)
    assert np.abs(one - many).max() < 1e-6


def test_bed_and_bedgraph_say_the_same(run, fasta, genome, call, tmp_path, monkeypatch):
    monkeypatch.setattr(simcsp.genome.scan, "_STRETCH", 11)
    monkeypatch.setattr(simcsp.genome.scan, "_BLOCK", 5)
    table = predicted(call, run, fasta, tmp_path / "scores.tsv")
    by_key = table.set_index(["chrom", "position", "strand", "type"])
    call(evaluate, "predict", run, fasta, "--out", tmp_path / "scores.bed.gz")
    rows = [line.split("\t") for line in gzip.open(tmp_path / "scores.bed.gz", "rt").read().splitlines()]
    assert len(rows) == len(table) and all(len(row) == 6 for row in rows)
    for name in genome:
        starts = [int(row[1]) for row in rows if row[0] == name]
        assert starts == sorted(starts)
    for chrom, start, end, name, score, strand in rows:
        kind, mean, sd = name.split("|")
        motif = genome[chrom][int(start) : int(end)].upper()
        assert (motif if strand == "+" else other_strand(motif)) == {"donor": "GT", "acceptor": "AG"}[kind]
        exon_is_left = (kind == "donor") == (strand == "+")
        row = by_key.loc[chrom, int(start) if exon_is_left else int(end) + 1, strand, kind]
        assert row["score"] == float(mean) and row["sd"] == float(sd) and abs(int(score) - 1000 * float(mean)) <= 0.55

    call(evaluate, "predict", run, fasta, "--format", "bedgraph", "--out", tmp_path / "x")
    tracks, name = {}, None
    for line in (tmp_path / "x").read_text().splitlines():
        if line.startswith("track"):
            assert line.startswith('track type=bedGraph name="')
            name = line.split('"')[1]
        else:
            chrom, start, end, value = line.split("\t")
            assert int(end) == int(start) + 1
            tracks.setdefault(name, {})[chrom, int(end)] = float(value)
    assert set(tracks) == {f"{t} {s} {w}" for t in ("donor", "acceptor") for s in "+-" for w in ("mean", "sd")}
    for (chrom, position, strand, kind), row in by_key.iterrows():
        assert tracks[f"{kind} {strand} mean"][chrom, position] == row["score"]
        assert tracks[f"{kind} {strand} sd"][chrom, position] == row["sd"]
    assert sum(map(len, tracks.values())) == 2 * len(table)  # and no place twice


def test_min_score_and_regions_are_parts_of_the_whole(run, fasta, call, capsys, tmp_path):
    whole = predicted(call, run, fasta, tmp_path / "whole.tsv")
    part = predicted(call, run, fasta, tmp_path / "part.tsv", "--min_score", 0.5)
    pd.testing.assert_frame_equal(part, whole[whole["score"] >= 0.5].reset_index(drop=True))
    words = ["--region", "two", "--region", "one:300-1,000", "--region", "one:220-310"]
    part = predicted(call, run, fasta, tmp_path / "regions.tsv", *words)
    inside = (whole["chrom"] == "two") | ((whole["chrom"] == "one") & (whole["position"] >= 220))
    pd.testing.assert_frame_equal(part, whole[inside].reset_index(drop=True))
    capsys.readouterr()
    call(evaluate, "predict", run, fasta)
    said = capsys.readouterr()
    assert said.out == (tmp_path / "whole.tsv").read_text()
    assert "baseline, mean of 3 fitted on acceptor, 3 fitted on donor" in said.err and "Mb a minute" in said.err
    assert "1 left out: records shorter than the window of 20 nt (short)" in said.err
    assert "beyond the record" in said.err and "more than 5% of the window is N" in said.err


def test_models_are_chosen_by_arm_site_fold_and_checkpoint(run, fasta, tmp_path, call, capsys):
    fold = run / "finetune/baseline/donor/seed0/fold01"
    tables = [predicted(call, source, fasta, tmp_path / "scores.tsv") for source in (fold, fold / "checkpoints/best")]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["sd"].isna().all()
    by_arm = [
        predicted(call, run, fasta, tmp_path / "scores.tsv", "--arm", "last"),
        predicted(call, run / "finetune/last", fasta, tmp_path / "scores.tsv"),
    ]
    pd.testing.assert_frame_equal(*by_arm)
    donors = by_arm[0][by_arm[0]["type"] == "donor"]
    assert len(donors) == len(tables[0]) and not np.allclose(donors["score"], tables[0]["score"])

    mixed = make_run(tmp_path, tmp_path / "gone", {"baseline/donor": 2, "baseline/acceptor": 3, "baseline/both": 1})
    every = predicted(call, mixed, fasta, tmp_path / "scores.tsv")
    for kind in ("donor", "acceptor"):
        mine = predicted(call, mixed, fasta, tmp_path / "scores.tsv", "--site", kind)
        assert set(mine["type"]) == {kind}
        pd.testing.assert_frame_equal(mine, every[every["type"] == kind].reset_index(drop=True))
    assert "2 fitted on donor" in capsys.readouterr().out


def test_a_model_of_a_larger_context_than_it_takes_is_refused(run, fasta, call, capsys):
    assert "data.context (64 nt" in refusal(call, capsys, evaluate, "predict", run, fasta, "--data.context", 64)


def test_models_fitted_on_both_types_name_none_and_take_no_variants(untyped, fasta, call, capsys, tmp_path):
    table = predicted(call, untyped, fasta, tmp_path / "scores.tsv")
    assert set(table["type"]) == {"site"} and set(table["motif"]) == {"GT", "AG"}
    call(evaluate, "predict", untyped, fasta, "--out", tmp_path / "scores.bed")
    assert {line.split("\t")[3].split("|")[0] for line in open(tmp_path / "scores.bed", encoding="utf-8")} == {"site"}
    call(evaluate, "predict", untyped, fasta, "--out", tmp_path / "scores.bedgraph")
    tracks = {
        line.split('"')[1] for line in open(tmp_path / "scores.bedgraph", encoding="utf-8") if line.startswith("track")
    }
    assert tracks == {f"site at {motif} {s} {what}" for motif in ("GT", "AG") for s in "+-" for what in ("mean", "sd")}
    line = refusal(call, capsys, evaluate, "predict", untyped, fasta, "--vcf", "v.vcf")
    assert "cannot tell a donor from an acceptor" in line and "models/simcsp-small-bases" in line


# -- variants ----------------------------------------------------------------------------------------------------------


def plain_changes(before: pd.DataFrame, after: pd.DataFrame, pos: int, ref: str, alt: str, length: int, flank: int):
    """{(type, strand, position): change of score} from predictions on the genome and on the changed one."""
    start = pos - 1
    origin = [*range(start), *(start + min(i, len(ref) - 1) for i in range(len(alt))), *range(start + len(ref), length)]
    sites = []
    for table, of_base in ((before, range(length)), (after, origin)):
        scores = {}
        for row in table[table["chrom"] == "one"].itertuples():
            step = 1 if (row.type == "donor") == (row.strand == "+") else -1  # from the exon's base into the intron
            position = of_base[row.position - 1 + step] - step + 1
            if pos - flank <= position < pos + len(ref) + flank:
                key = row.type, row.strand, position
                scores[key] = max(row.score, scores.get(key, 0))
        sites.append(scores)
    return {key: sites[1].get(key, 0) - sites[0].get(key, 0) for key in {*sites[0], *sites[1]}}


VARIANTS = {
    "substitution": (0, 1, "G"),
    "insertion": (290, 1, "{}GTAGGTCAGCT"),
    "deletion": (330, 14, "{}"),
    "both": (380, 3, "CAGGTAAGT"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_changes_are_those_of_predicting_on_the_changed_genome(name, run, genome, fasta, call, tmp_path):
    pos, width, alt = VARIANTS[name]
    flank, bases = 12, genome["one"]
    pos = pos or bases.index("AT", 240) + 1  # which becomes GT
    ref = bases[pos - 1 : pos - 1 + width].upper()
    alt = alt.format(ref[0])
    changed = bases[: pos - 1] + alt + bases[pos - 1 + width :]
    before = predicted(call, run, fasta, tmp_path / "before.tsv")
    after = predicted(call, run, write_fasta(tmp_path / "changed.fa", {"one": changed}), tmp_path / "after.tsv")
    expected = plain_changes(before, after, pos, ref, alt, len(bases), flank)
    vcf = tmp_path / "v.vcf"
    vcf.write_text(
        f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\none\t{pos}\trs1\t{ref}\t{alt}\t.\t.\t.\n"
    )
    table = predicted(call, run, fasta, tmp_path / "v.tsv", "--vcf", vcf, "--flank", flank)
    assert tuple(table.columns) == COLUMNS and len(table) == 1
    row = table.iloc[0]
    assert (row["chrom"], row["pos"], row["id"], row["ref"], row["alt"]) == ("one", pos, "rs1", ref, alt)
    moved = 0
    for kind in ("donor", "acceptor"):
        for change, sign in (("G", 1), ("L", -1)):
            mine = {key: sign * value for key, value in expected.items() if key[0] == kind}
            column = kind[0].upper() + change
            assert row[f"DS_{column}"] == pytest.approx(max(0, *mine.values()), abs=2e-4)
            if row[f"DS_{column}"] > 2e-4:
                at = mine[kind, row[f"ST_{column}"], pos + int(row[f"DP_{column}"])]
                assert at == pytest.approx(row[f"DS_{column}"], abs=2e-4)
                assert 0 <= row[f"SD_{column}"] < 1
                moved += 1
    assert moved >= (1 if name == "substitution" else 2) and (row["DS_DG"] > 0.01 or name == "deletion")


def test_odd_rows_of_a_vcf_are_left_out_and_counted(run, genome, fasta, call, capsys, tmp_path):
    base = genome["one"].upper()
    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    rows = [
        ("one", 300, base[299], f"{other[base[299]]},{base[299]}TT"),  # two alleles
        ("one", 301, base[300], "<DEL>"),
        ("one", 302, base[301], "*"),
        ("one", 303, base[302], f"{base[302]}[two:5["),
        ("one", 304, other[base[303]], base[303]),  # REF is not there
        ("one", 9000, "A", "C"),
        ("elsewhere", 5, "A", "C"),
        ("one", 5, base[4], other[base[4]]),  # too near the start
        ("one", 110, "N", "A"),  # in a run of N
    ]
    table = tmp_path / "variants.tsv"
    table.write_text("chrom\tpos\tref\talt\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    vcf = tmp_path / "variants.vcf.gz"
    with gzip.open(vcf, "wt") as handle:
        handle.write("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n")
        handle.writelines(f"{chrom}\t{pos}\t.\t{ref}\t{alt}\n" for chrom, pos, ref, alt in rows)
    from_table = predicted(call, run, fasta, tmp_path / "a.tsv", "--vcf", table)
    said = capsys.readouterr().out
    from_vcf = predicted(call, run, fasta, tmp_path / "b.tsv", "--vcf", vcf)
    pd.testing.assert_frame_equal(from_table, from_vcf)
    assert from_vcf["alt"].tolist() == rows[0][3].split(",")
    assert "2 of 10 alleles scored" in said
    for line in (
        "3 left out: allele not written out",
        "2 left out: REF is not what the FASTA has there",
        "1 left out: on a record that the FASTA has not",
        "1 left out: within 60 nt of the record's end",
        "1 left out: more than 5% of a window nearby is N",
    ):
        assert line in said
    line = refusal(call, capsys, evaluate, "predict", run, fasta, "--vcf", vcf, "--strict", "--out", tmp_path / "c.tsv")
    assert f"{vcf}, line 7" in line and "different builds" in line
    assert not list(tmp_path.glob("c.tsv*"))


@pytest.mark.parametrize(
    "text, part",
    [
        ("#CHROM\tPOS\tID\tREF\tALT\nchrone\t5\t.\tA\tC\n", "record 'chrone' is 'one' in the FASTA"),
        ("mars\t5\tA\tC\n", "no record in common"),
        ("one\t5\tA\n", "line 1: expected a VCF"),
        ("one\tfive\tA\tC\n", "line 1: position 'five'"),
        ("one\t5\tA\tC\none\t6\tA\tX!\n", "line 2, ALT: 'X'"),
        ("#CHROM\tPOS\tID\tREF\tALT\n", "holds no row"),
    ],
)
def test_a_vcf_that_cannot_be_used_is_refused(text, part, run, fasta, call, capsys, tmp_path):
    (tmp_path / "v.vcf").write_text(text)
    assert part in refusal(call, capsys, evaluate, "predict", run, fasta, "--vcf", tmp_path / "v.vcf")


@pytest.mark.parametrize("between", ["\t", " ", "   "])
@pytest.mark.parametrize("head", ["chrom pos ref alt", "#chr pos ref alt", "CHROM POS REF ALT"])
def test_a_table_may_have_a_header_and_spaces(head, between, tmp_path):
    (tmp_path / "v").write_text("".join(f"{between.join(line.split())}\n" for line in (head, "one 5 A C,T")))
    assert [(v.chrom, v.pos, v.ref, v.alt) for v in read_variants(tmp_path / "v")] == [
        ("one", 5, "A", "C"),
        ("one", 5, "A", "T"),
    ]


def test_a_vcf_without_its_header_is_told_from_a_table(tmp_path):
    (tmp_path / "v").write_text("one\t5\trs\tA\tC,T\t.\t.\t.\n")
    assert [(v.name, v.ref, v.alt) for v in read_variants(tmp_path / "v")] == [("rs", "A", "C"), ("rs", "A", "T")]


# -- against annotation ------------------------------------------------------------------------------------------------


def test_score_against_is_what_counting_says():
    rng = np.random.default_rng(1)
    labels = rng.random(400) < 0.2
    scores = np.round(rng.random(400) * 0.6 + labels * 0.45, 2)  # with ties
    best, precisions = 0.0, []
    for threshold in np.unique(scores):
        called = scores >= threshold
        if (called & ~labels).sum() <= 0.1 * called.sum():
            best = max(best, labels[called].sum() / labels.sum())
    for threshold in np.unique(scores)[::-1]:
        called = scores >= threshold
        precisions.append((labels[called].mean(), labels[called & (scores == threshold)].sum()))
    found = score_against(labels, scores)
    assert found["recall"] == pytest.approx(best) and 0 < best < 1
    assert found["ap"] == pytest.approx(sum(precision * count for precision, count in precisions) / labels.sum())
    assert found["topk"] == labels[np.argsort(-scores, kind="stable")][: labels.sum()].mean()
    assert score_against(np.array([0, 1]), np.array([0.9, 0.1]))["recall"] == 0.0
    assert score_against(np.array([0, 1, 1, 0]), np.array([0.8, 0.9, 0.1, 0.2]))["topk"] == 0.5


def test_truth_scores_each_record_beside_the_weight_matrix(tiny_data, call, capsys, tmp_path):
    run = make_run(tmp_path, tiny_data, {"baseline/both": 2})
    rng = np.random.default_rng(3)
    bases = random_bases(rng, 1500)
    introns = [(200, 300, "+"), (400, 520, "-"), (700, 780, "+"), (900, 1000, "-")]
    for start, end, strand in introns:
        left, right = ("CAGGTAAGT", "TTCTTTCTTTTCAGG") if strand == "+" else ("CCTGAAAAGAAAGAA", "ACTTACCTG")
        bases = put(bases, start - (3 if strand == "+" else 1), left)
        bases = put(bases, end - (14 if strand == "+" else 6), right)
    config = load_config([str(run / "finetune/baseline/both/seed0/fold00/config.yaml")])
    trained, _ = commands.genome.training_windows(config.data)
    bases = put(bases, 1200, decode(trained.crop(CONTEXT)[trained.sites == "donor"][0]))  # a training window: left out
    fasta = write_fasta(tmp_path / "toy.fa", {"one": bases, "empty": random_bases(rng, 300)})
    table = tmp_path / "introns.tsv"
    table.write_text("record\tstart0\tend0\tstrand\n" + "".join(f"one\t{s}\t{e}\t{d}\tGT\n" for s, e, d in introns))
    exons = [(s - 50, s, d, i) for i, (s, e, d) in enumerate(introns)] + [
        (e, e + 50, d, i) for i, (s, e, d) in enumerate(introns)
    ]
    gtf = tmp_path / "genes.gtf"
    gtf.write_text(
        "".join(
            f'one\tx\texon\t{s + 1}\t{e}\t.\t{d}\t.\tgene_id "g{i}"; transcript_id "t{i}";\n' for s, e, d, i in exons
        )
    )
    outs = []
    for truth in (table, gtf):
        call(evaluate, "predict", run, fasta, "--truth", truth)
        said = capsys.readouterr()
        outs.append(said.out.splitlines())
        assert "motif" not in said.out  # the table, not the scores
    rows = [
        {
            line.split()[0] + " " + line.split()[1]: line.split()[2:]
            for line in out
            if line.startswith(("one", "all", "empty"))
        }
        for out in outs
    ]
    assert rows[0] == rows[1]
    whole = predicted(call, run, fasta, tmp_path / "scores.tsv")
    for kind in ("donor", "acceptor"):
        annotated, candidates_, trained_, sites, ap, recall, _, pwm_ap, pwm_recall, _ = map(
            float, rows[0][f"one {kind}"]
        )
        motif = {"donor": "GT", "acceptor": "AG"}[kind]  # these models name no type
        mine = whole[(whole["motif"] == motif) & (whole["chrom"] == "one")]
        assert annotated == sites == 4 and candidates_ + trained_ == len(mine)
        ends = {(s if (kind == "donor") == (d == "+") else e, d) for s, e, d in introns}
        exon_is_left = (mine["strand"] == "+") == (kind == "donor")
        boundary = mine["position"] - (~exon_is_left).astype(int)
        labels = np.array([pair in ends for pair in zip(boundary, mine["strand"])])
        assert labels.sum() == 4
        if not trained_:
            assert ap == pytest.approx(score_against(labels, mine["score"].to_numpy())["ap"], abs=0.02)
        assert pwm_ap > 0.9 >= pwm_recall - 0.1 and pwm_ap > ap and 0 <= recall <= 1
        assert len(rows[0][f"empty {kind}"]) == 4  # no site, no score
    assert float(rows[0]["one donor"][2]) >= 1
    assert "shares 20 nt in a row" in "\n".join(outs[0])


@pytest.mark.parametrize(
    "text, part",
    [
        ("record\tstart\tend\tstrand\nchrone\t5\t90\t+\n", "record 'chrone' is 'one' in the FASTA"),
        ("one\t5\t9000\t+\n", "line 1: 5 to 9000 is no stretch of one (460 nt)"),
        ("one\t5\t90\t+\none\t5\t90\t?\n", "line 2: expected record, start, end, strand"),
        ("", "holds no row"),
    ],
)
def test_a_truth_that_cannot_be_used_is_refused(text, part, fasta, tmp_path):
    (tmp_path / "introns.tsv").write_text(text)
    with pytest.raises(InputError) as error:
        read_truth(tmp_path / "introns.tsv", open_store([fasta], tmp_path / "cache"))
    assert part in str(error.value)


def truth_rows(text):
    """{'record type': {column: value}} of the table that --truth prints."""
    head, *lines = (line.split() for line in text.splitlines() if line.startswith((" ", "one ", "all ")))
    return {" ".join(line[:2]): dict(zip(head, map(float, line[2:]))) for line in lines}


def test_truth_without_the_training_windows_has_no_weight_matrix_and_says_so(
    run, genome, fasta, call, capsys, tmp_path
):
    at = next(i for i in range(250, 400) if genome["one"][i : i + 2] == "GT")
    (tmp_path / "introns.tsv").write_text(f"one\t{at}\t{at + 40}\t+\n")
    call(evaluate, "predict", run, fasta, "--truth", tmp_path / "introns.tsv")
    said = capsys.readouterr().out
    donor = truth_rows(said)["one donor"]
    assert list(donor) == ["annotated", "candidates", "sites", "ap", "recall", "topk"] and donor["annotated"] == 1
    assert "training windows" in said and "are not there: no weight matrix" in said


def test_truth_counts_annotated_sites_of_the_regions_only(run, fasta, call, capsys, tmp_path):
    (tmp_path / "introns.tsv").write_text("one\t250\t400\t+\none\t270\t410\t-\n")
    counts = {}
    # positions: donors 250 (+) and 411 (-), acceptors 401 (+) and 270 (-)
    for region in ("one", "one:250-270", "one:251-410", "one:401-411", "one:250,one:280-390,one:411"):
        words = [word for part in region.split(",") for word in ("--region", part)]
        call(evaluate, "predict", run, fasta, "--truth", tmp_path / "introns.tsv", "--sites", "all", *words)
        rows = truth_rows(capsys.readouterr().out)
        counts[region] = [rows[f"one {kind}"]["annotated"] for kind in ("donor", "acceptor")]
    assert list(counts.values()) == [[2, 2], [1, 1], [0, 2], [1, 1], [2, 0]]


def test_truth_without_a_candidate_is_said(run, fasta, call, capsys, tmp_path):
    (tmp_path / "introns.tsv").write_text("one\t100\t150\t+\n")
    call(evaluate, "predict", run, fasta, "--truth", tmp_path / "introns.tsv", "--region", "n")
    assert "no candidate was scored" in capsys.readouterr().out


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, part",
    [
        (["--region", "chrone"], "it is 'one' there"),
        (["--region", "one:0-5"], "counted from 1"),
        (["--region", "one:9-5"], "counted from 1"),
        (["--region", "one:900-950"], "has 460 nt only"),
        (["--arm", "pwm"], "finished classifiers of baseline, last"),
        (["--site", "both"], "no finished classifier of baseline fitted on it"),
        (["--min_score", "2"], "not between 0 and 1"),
        (["--min_score", "x"], "invalid float value"),
        (["--format", "gff"], "invalid choice"),
        (["--formt", "bed"], "formt"),
        (["--vcf", "v", "--region", "one"], "--region is for the sites of a genome"),
        (["--vcf", "v", "--sites", "all"], "--sites all does not go with --vcf"),
        (["--vcf", "nowhere.vcf"], "nowhere.vcf does not exist"),
        (["--out", "."], "is a folder"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(words, part, run, fasta, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in refusal(call, capsys, evaluate, "predict", run, fasta, *words)


def test_wrong_places_are_refused_in_one_line(run, fasta, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected [SOURCE] GENOME.fa" in refusal(call, capsys, evaluate, "predict", run)
    assert "nowhere does not exist" in refusal(call, capsys, evaluate, "predict", "nowhere", fasta)
    assert "FASTA nowhere.fa does not exist" in refusal(call, capsys, evaluate, "predict", run, "nowhere.fa")


def test_nothing_half_written_is_left(run, genome, fasta, call, capsys, tmp_path, monkeypatch):
    bad = write_fasta(tmp_path / "bad.fa", {"one": genome["one"], "odd": "ACGT!ACGT"})
    line = refusal(call, capsys, evaluate, "predict", run, bad, "--out", tmp_path / "s.tsv")
    assert f"{bad}, line 11: '!'" in line
    done, score_sites = [], commands.genome.score_sites

    def fails(*words):
        done.append(len(done))
        if len(done) == 3:
            raise KeyboardInterrupt
        return score_sites(*words)

    monkeypatch.setattr(commands.genome, "score_sites", fails)
    monkeypatch.setattr(simcsp.genome.scan, "_BLOCK", 10)
    monkeypatch.setattr(simcsp.genome.scan, "_STRETCH", 50)
    (tmp_path / "s.bed").write_text("before\n")
    with pytest.raises(KeyboardInterrupt):
        call(evaluate, "predict", run, fasta, "--out", tmp_path / "s.bed")
    assert (tmp_path / "s.bed").read_text() == "before\n"
    assert {path.name for path in tmp_path.iterdir()} == {"bad.fa", "s.bed", "s.bed.partial"}


def test_help_is_shown(call, capsys):
    with pytest.raises(SystemExit) as exit:
        call(evaluate, "predict", "--help")
    assert exit.value.code == 0 and "--min_score" in capsys.readouterr().out


# -- real sequence -----------------------------------------------------------------------------------------------------

REAL = os.environ.get("SIMCSP_REAL_DATA")


@pytest.mark.skipif(REAL is None, reason="SIMCSP_REAL_DATA is not set")
def test_annotated_introns_begin_and_end_at_candidates(tmp_path):
    store = open_store([Path(REAL) / "human/genome.fa.gz"], tmp_path)
    truth = read_truth(Path(REAL) / "human/introns.tsv", store)
    skipped = Counter()
    found = {kind: set() for kind in ("donor", "acceptor")}
    for sites, _ in candidates(store, find_spans([], store), ("donor", "acceptor"), 400, False, 0.05, skipped):
        for record, boundary, kind in zip(sites.record.tolist(), sites.boundary.tolist(), sites.kind.tolist()):
            found[KINDS[kind].type].add((store.records[record].name, boundary, int(KINDS[kind].strand == "-")))
    for kind in found:
        sites = {(name, *row) for (name, of), rows in truth.items() if of == kind for row in rows.tolist()}
        assert len(sites) > 500 and len(sites & found[kind]) > 0.97 * len(sites)


def test_windows_reach_no_further_than_their_record(tmp_path):
    store = open_store([write_fasta(tmp_path / "two.fa", {"a": "AAAAGTCC", "b": "TTTTTTTT"})], tmp_path / "cache")
    sites = Sites(np.array([0, 0, 0]), np.array([4, 8, 1]), np.array([0, 0, 1]))  # the last on the reverse strand
    assert [decode(ids) for ids in cut_windows(store, sites, 8)] == ["AAAAGTCC", "GTCCNNNN", "CTTTTNNN"]


def test_the_model_of_bases_is_held_against_annotation_to_the_ends_of_a_record(call, capsys, tmp_path):
    rng = np.random.default_rng(5)
    text = random_bases(rng, 3000)
    text = "AGGTAAGT" + text[8:-4] + "CAGG"  # GT and AG nearer to the ends than any window
    fasta = write_fasta(tmp_path / "one.fa", {"a": text, "b": random_bases(rng, 500)})
    (tmp_path / "introns.tsv").write_text("a\t2\t2999\t+\n")
    call(
        evaluate,
        "predict",
        fasta,
        "--truth",
        tmp_path / "introns.tsv",
        "--out",
        tmp_path / "s.bed",
        "--precision",
        "fp32",
    )
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a donor")).split()
    assert row[2] == "1" and "pwm" not in " ".join(row)

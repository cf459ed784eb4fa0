"""evaluate.py predict: classifiers of windows on plain sequences, scores against annotation, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import put, random_bases, refusal, stack, tiny_config, write_fasta
from torch import nn

import commands.genome
import commands.sources
import evaluate
from simcsp.core.config import ModelConfig, to_yaml
from simcsp.core.errors import InputError
from simcsp.metrics.scores import score_against
from simcsp.model.bases import BaseClassifier, Labeller, Shape, load_bases, save_bases
from simcsp.model.checkpoint import load_backbone
from simcsp.model.classifier import Classifier, load_classifier, predict, save_classifier
from simcsp.text.alphabet import decode
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import Sites, cut_windows
from simcsp.text.store import open_store
from utils.arguments import load_config

CONTEXT = 20  # of tiny_config
FP32 = ("--precision", "fp32", "--device", "cpu")


def save_random(folder, encoder, linear=False):
    """A model of bases with random weights. linear: an encoder that reads overlapping tiles, with a linear layer."""
    torch.manual_seed(1)
    bert = None
    if encoder:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        bert = load_backbone(ModelConfig(**sizes, max_position_embeddings=22, initializer_range=0.5))[0].bert
    shape = Shape(20, 0, 5, [], edge=3) if linear else Shape(tile=20, channels=8, kernel=5, dilations=[1, 3])
    model = BaseClassifier(bert, shape).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=2.0)
        model.head.bias.zero_()
        if linear:  # hidden states of random weights are alike
            model.head.bias -= model(torch.randint(6, 10, (1, 140), dtype=torch.uint8)).mean(dim=(0, 1))
    folder.mkdir()
    save_bases(model, np.array([[0.8, -0.5], [1.2, 0.3]]), folder)
    return folder


def labeller_of(model: Path) -> Labeller:
    return Labeller(*load_bases(model), torch.device("cpu"))


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
def model(tmp_path_factory) -> Path:
    """A model of bases with random weights."""
    return save_random(tmp_path_factory.mktemp("bases") / "m", encoder=False)


@pytest.fixture(scope="module")
def genome() -> dict[str, str]:
    """A run of N, and a record of N alone."""
    return {"one": put(random_bases(np.random.default_rng(0), 460), 90, "N" * 30), "n": "N" * 60}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, genome) -> Path:
    return write_fasta(tmp_path_factory.mktemp("genome") / "toy.fa", genome)


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    """Plain sequences, as long as a window of the run or longer."""
    rng = np.random.default_rng(1)
    texts = {f"w{i}": random_bases(rng, CONTEXT + 2 * (i % 4)) for i in range(9)}
    return write_fasta(tmp_path_factory.mktemp("windows") / "w.fa", texts)


def scored(call, source: Path, windows: Path, out: Path, *words: object) -> pd.DataFrame:
    call(evaluate, "predict", source, windows, "--fasta_windows", "--out", out, *words)
    return pd.read_csv(out, sep="\t")


def plain_scores(run: Path, windows: list[str], kinds: list[str]) -> np.ndarray:
    """[folds, n] of the baseline."""
    config = load_config([str(run / "finetune/baseline/donor/seed0/fold00/config.yaml")])
    ids, kinds = stack(windows), np.array(kinds)
    scores = np.empty((3, len(ids)), np.float32)
    for kind in ("donor", "acceptor"):
        folds = sorted(run.glob(f"finetune/baseline/{kind}/seed0/*/checkpoints/best"))
        for number, fold in enumerate(folds):
            mine = kinds == kind
            scores[number, mine] = predict(load_classifier(fold, config.model, 0.1), ids[mine], 64)
    return scores


# -- classifiers of windows --------------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_the_batch_size(run, windows, call, tmp_path):
    for size in (1, 7, 64):
        scored(call, run, windows, tmp_path / f"{size}.tsv", "--evaluate.batch_size", size)
    scored(call, run, windows, tmp_path / "own.tsv")
    assert len({(tmp_path / f"{name}.tsv").read_text() for name in (1, 7, 64, "own")}) == 1


def test_models_are_chosen_by_arm_site_fold_and_checkpoint(run, windows, tmp_path, call):
    fold, out = run / "finetune/baseline/donor/seed0/fold01", tmp_path / "s.tsv"
    tables = [scored(call, source, windows, out) for source in (fold, fold / "checkpoints/best")]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["sd"].isna().all()
    by_arm = [scored(call, run, windows, out, "--arm", "last"), scored(call, run / "finetune/last", windows, out)]
    pd.testing.assert_frame_equal(*by_arm)
    donors = by_arm[0][by_arm[0]["type"] == "donor"]
    assert len(donors) == len(tables[0]) and not np.allclose(donors["score"], tables[0]["score"])

    mixed = make_run(tmp_path, tmp_path / "gone", {"baseline/donor": 2, "baseline/acceptor": 3, "baseline/both": 1})
    every = scored(call, mixed, windows, out)
    for kind in ("donor", "acceptor"):
        of_kind = scored(call, mixed, windows, out, "--site", kind)
        assert set(of_kind["type"]) == {kind}
        pd.testing.assert_frame_equal(of_kind, every[every["type"] == kind].reset_index(drop=True))


def test_models_fitted_on_both_types_name_none(windows, call, tmp_path):
    untyped = make_run(tmp_path, tmp_path / "gone", {"baseline/both": 2})
    table = scored(call, untyped, windows, tmp_path / "s.tsv")
    assert len(table) == 9 and set(table["type"]) == {"site"}


def test_a_model_of_a_larger_context_than_it_takes_is_refused(run, windows, call, capsys):
    words = ("predict", run, windows, "--fasta_windows", "--data.context", 64)
    assert "data.context (64 nt" in refusal(call, capsys, evaluate, *words)


def test_classifiers_of_windows_scan_no_genome_and_score_no_variants(run, fasta, call, capsys):
    for words in ([], ["--vcf", "v.vcf"], ["--region", "one"]):
        line = refusal(call, capsys, evaluate, "predict", run, fasta, *words)
        assert "models/simcsp-small-bases" in line and "finetune.task bases" in line


# -- against annotation ------------------------------------------------------------------------------------------------


def test_truth_scores_each_record_by_a_table_of_introns_or_a_gtf(call, capsys, tmp_path, model):
    rng = np.random.default_rng(3)
    bases = random_bases(rng, 1500)
    introns = [(200, 300, "+"), (400, 520, "-"), (700, 780, "+"), (900, 1000, "-")]
    for start, end, strand in introns:
        left, right = ("CAGGTAAGT", "TTCTTTCTTTTCAGG") if strand == "+" else ("CCTGAAAAGAAAGAA", "ACTTACCTG")
        bases = put(bases, start - (3 if strand == "+" else 1), left)
        bases = put(bases, end - (14 if strand == "+" else 6), right)
    fasta = write_fasta(tmp_path / "toy.fa", {"one": bases, "empty": random_bases(rng, 300)})
    table = tmp_path / "introns.tsv"
    table.write_text("record\tstart0\tend0\tstrand\n" + "".join(f"one\t{s}\t{e}\t{d}\tGT\n" for s, e, d in introns))
    exons = [(s - 50, s, d, i) for i, (s, e, d) in enumerate(introns)]
    exons += [(e, e + 50, d, i) for i, (s, e, d) in enumerate(introns)]
    gtf = tmp_path / "genes.gtf"
    row = 'one\tx\texon\t{}\t{}\t.\t{}\t.\tgene_id "g{}"; transcript_id "t{}";\n'
    gtf.write_text("".join(row.format(s + 1, e, d, i, i) for s, e, d, i in exons))
    outs = []
    for truth in (table, gtf):
        call(evaluate, "predict", model, fasta, *FP32, "--truth", truth)
        outs.append(capsys.readouterr().out)
        assert "motif" not in outs[-1]  # the table, not the scores
    assert truth_rows(outs[0]) == truth_rows(outs[1])
    call(evaluate, "predict", model, fasta, *FP32, "--out", tmp_path / "scores.tsv", "--min_score", "0")
    whole = pd.read_csv(tmp_path / "scores.tsv", sep="\t")
    for kind in ("donor", "acceptor"):
        row = truth_rows(outs[0])[f"one {kind}"]
        of_kind = whole[(whole["type"] == kind) & (whole["chrom"] == "one")]
        assert row["annotated"] == row["sites"] == 4 and row["candidates"] == len(of_kind)
        ends = {(s if (kind == "donor") == (d == "+") else e, d) for s, e, d in introns}
        exon_is_left = (of_kind["strand"] == "+") == (kind == "donor")
        boundary = of_kind["position"] - (~exon_is_left).astype(int)
        labels = np.array([pair in ends for pair in zip(boundary, of_kind["strand"])])
        assert labels.sum() == 4
        ap = score_against(labels, of_kind["score"].to_numpy())["ap"]
        assert row["ap"] == pytest.approx(ap, abs=0.02)
        assert list(truth_rows(outs[0])[f"empty {kind}"])[:4] == ["annotated", "candidates", "sites"]


@pytest.mark.parametrize(
    "text, part",
    [
        ("record\tstart\tend\tstrand\nchrone\t5\t90\t+\n", "record 'chrone' is 'one' in the FASTA"),
        ("one\t5\t9000\t+\n", "line 1: 5 to 9000 is not an interval of one (460 nt)"),
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
    head, *lines = (line.split() for line in text.splitlines() if line.startswith((" ", "one ", "all ", "empty ")))
    return {" ".join(line[:2]): dict(zip(head, map(float, line[2:]))) for line in lines}


def test_truth_counts_annotated_sites_of_the_regions_only(model, fasta, call, capsys, tmp_path):
    (tmp_path / "introns.tsv").write_text("one\t250\t400\t+\none\t270\t410\t-\n")
    counts = {}
    # positions: donors 250 (+) and 411 (-), acceptors 401 (+) and 270 (-)
    for region in ("one", "one:250-270", "one:251-410", "one:401-411", "one:250,one:280-390,one:411"):
        words = [word for part in region.split(",") for word in ("--region", part)]
        call(evaluate, "predict", model, fasta, *FP32, "--truth", tmp_path / "introns.tsv", "--sites", "all", *words)
        rows = truth_rows(capsys.readouterr().out)
        counts[region] = [rows[f"one {kind}"]["annotated"] for kind in ("donor", "acceptor")]
    assert list(counts.values()) == [[2, 2], [1, 1], [0, 2], [1, 1], [2, 0]]


def test_truth_without_a_candidate_is_said(model, fasta, call, capsys, tmp_path):
    (tmp_path / "introns.tsv").write_text("one\t100\t150\t+\n")
    call(evaluate, "predict", model, fasta, *FP32, "--truth", tmp_path / "introns.tsv", "--region", "n")
    assert "no candidate was scored" in capsys.readouterr().out


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, part",
    [
        (["--region", "chrone"], "it is 'one' there"),
        (["--region", "one:0-5"], "counted from 1"),
        (["--region", "one:9-5"], "counted from 1"),
        (["--region", "one:900-950"], "has 460 nt only"),
        (["--out", "."], "is a folder"),
        (["--min_score", "2"], "not between 0 and 1"),
        (["--format", "gff"], "invalid choice"),
        (["--formt", "bed"], "formt"),
        (["--vcf", "v", "--region", "one"], "--region is for the sites of a genome"),
        (["--vcf", "v", "--sites", "all"], "--sites all does not go with --vcf"),
        (["--vcf", "nowhere.vcf"], "nowhere.vcf does not exist"),
        (["--device", "abacus"], "abacus"),
        (["--mask", "--vcf", "v"], "--mask needs --annotation"),
        (["--annotation", "g.gtf"], "g.gtf does not exist"),
        (["--format", "bigwig"], "give --out NAME.bw"),
        (["--fasta_windows", "--vcf", "v.vcf"], "--vcf needs a genome"),
        (["--fasta_windows", "--region", "x"], "--region needs a genome"),
        (["--fasta_windows", "--format", "bed"], "bed has coordinates"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(words, part, model, fasta, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in refusal(call, capsys, evaluate, "predict", model, fasta, *FP32, *words)


def test_wrong_places_are_refused_in_one_line(run, fasta, windows, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected [SOURCE] GENOME.fa" in refusal(call, capsys, evaluate, "predict", run)
    assert "nowhere does not exist" in refusal(call, capsys, evaluate, "predict", "nowhere", fasta)
    assert "FASTA nowhere.fa does not exist" in refusal(call, capsys, evaluate, "predict", "nowhere.fa", *FP32)
    words = ("predict", run, windows, "--fasta_windows", *FP32)
    line = refusal(call, capsys, evaluate, *words, "--arm", "pwm")
    assert "finished classifiers of baseline, last" in line
    line = refusal(call, capsys, evaluate, *words, "--site", "both")
    assert "no finished classifier of baseline fitted on it" in line


def test_no_input_is_written_over(model, genome, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "g.fa", genome)
    (tmp_path / "link.fa").symlink_to("g.fa")
    (tmp_path / "t.tsv").write_text("one\t200\t300\t+\n")
    (tmp_path / "v.vcf").write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
    before = {path: path.read_bytes() for path in (*tmp_path.iterdir(), *model.iterdir())}
    for words in (
        ["--out", "g.fa"],
        ["--out", "link.fa"],
        ["--out", f"../{tmp_path.name}/g.fa"],
        ["--truth", "t.tsv", "--out", "t.tsv"],
        ["--vcf", "v.vcf", "--out", "v.vcf"],
        ["--vcf", "v.vcf", "--out", model / "bases.json"],
    ):
        line = refusal(call, capsys, evaluate, "predict", model, "g.fa", *words)
        assert f"--out {words[-1]}" in line
    words = ("explain", model, "g.fa", "--annotation", "t.tsv", "--out", "t.png")  # writes t.tsv too
    assert "t.tsv" in refusal(call, capsys, evaluate, *words)
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_half_written_is_left(model, genome, fasta, call, capsys, tmp_path, monkeypatch):
    bad = write_fasta(tmp_path / "bad.fa", {"one": genome["one"], "odd": "ACGT!ACGT"})
    line = refusal(call, capsys, evaluate, "predict", model, bad, *FP32, "--out", tmp_path / "s.tsv")
    assert f"{bad}, line 11: '!'" in line
    monkeypatch.setattr(Labeller, "chunks_odds", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    (tmp_path / "s.bed").write_text("before\n")
    with pytest.raises(KeyboardInterrupt):
        call(evaluate, "predict", model, fasta, *FP32, "--out", tmp_path / "s.bed", "--region", "one")
    assert (tmp_path / "s.bed").read_text() == "before\n"
    assert {path.name for path in tmp_path.iterdir()} == {"bad.fa", "s.bed", "s.bed.partial"}


# -- real sequence -----------------------------------------------------------------------------------------------------


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
    words = ("--truth", tmp_path / "introns.tsv", "--out", tmp_path / "s.bed", "--precision", "fp32")
    call(evaluate, "predict", fasta, *words)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a donor")).split()
    assert row[2] == "1"


def test_where_there_is_no_terminal_the_first_estimate_comes_after_20_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(commands.genome.time, "perf_counter", lambda: now[0])
    progress = commands.genome.Progress(1000, "b")
    for now[0] in (10, 20, 30, 80):
        progress.advance(100)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[0] for line in lines] == ["200", "400"] and lines[0][-3:] == ["1.3", "min", "left"]

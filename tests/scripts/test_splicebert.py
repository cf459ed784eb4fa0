"""evaluate.py splicebert: its table, its page, what it does twice and what it refuses."""

import contextlib
import dataclasses
import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import refusal
from scipy.stats import ttest_rel
from sklearn.metrics import average_precision_score, roc_auc_score
from splicebert_data import EXONS, write_splicebert_data
from transformers import BertForMaskedLM

import evaluate
from simcsp.core.config import BasesConfig, Config, DataConfig, ModelConfig
from simcsp.labels.bases import read_genome
from simcsp.model.bases import IDENTITY, BaseClassifier, Labeller, Shape, load_bases, save_bases
from simcsp.model.checkpoint import load_backbone
from simcsp.report import splicebert_results
from simcsp.report.splicebert import COLUMNS
from simcsp.text.alphabet import CLS, SEP, A, T
from simcsp.training.bases import label_records

ALL = ("masked", "variants", "wide_variants", "conservation", "mutagenesis", "attention")
WORDS = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splicebert") / "data"
    write_splicebert_data(folder)
    return folder


@pytest.fixture
def measure(call, data, start, tmp_path):
    def run(*words, sources=(start,)):
        cache = ("--data.cache", tmp_path / "cache")
        call(evaluate, "splicebert", *sources, "--data", data, "--out", tmp_path / "out", *WORDS, *cache, *words)
        return pd.read_csv(tmp_path / "out/results.csv")

    return run


def test_every_result_whose_data_are_there_is_in_the_table_and_on_the_page(measure, tmp_path, capsys):
    table = measure("--windows", 40)
    assert list(table) == COLUMNS and tuple(dict.fromkeys(table["result"])) == ALL
    ours = table.set_index(["result", "metric"])["ours"]
    assert ours["variants", "MFASS, positives"] == 2 * 2 * len(EXONS)
    assert 0 <= ours["masked", "balanced accuracy, all"] <= 1 and np.isfinite(ours["attention", "intronic pair"])
    published = table.set_index(["result", "metric"])["published"]
    assert published["masked", "balanced accuracy, all"] == 0.638 and published["attention", "intronic pair"] == 0.0157
    assert table.loc[table["published"].notna(), "source"].str.contains("Chen").all()
    between = table.dropna(subset=["low"])
    assert len(between) > 20 and (between["low"] <= between["high"]).all()
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img") == 4 and "Not measured" in page and "fetch.py" not in page.split("Not measured")[0]
    spanr = table[table["metric"] == "MFASS, AP of spanr"].iloc[0]
    assert spanr["n"] == ours["variants", "MFASS, positives"] * 3 - 1  # one has no score
    assert table.loc[table["metric"] == "MFASS, left out: not measured", "ours"].tolist() == [0]
    assert "embeddings" in capsys.readouterr().out


def test_longer_windows_are_measured_beside_their_constructs(measure):
    rows = measure("--only", "wide_variants").set_index("metric")
    wide, short = (rows.loc[f"MFASS{name}, positives"] for name in (" in 62 nt", ", those with 62 nt"))
    assert wide["n"] == short["n"] > 0 and wide["ours"] == short["ours"] > 0
    whole = rows.loc["MFASS in 62 nt, AP of KL by distance", "ours"]
    assert whole != rows.loc["MFASS, those with 62 nt, AP of KL by distance", "ours"]


def test_a_finished_result_is_not_measured_again_and_another_amount_is(measure, monkeypatch):
    before = measure("--only", "masked", "--windows", 30)

    def measured_twice(subject):
        raise AssertionError("measured twice")

    fake = dataclasses.replace(splicebert_results.RESULTS["masked"], measure=measured_twice)
    monkeypatch.setitem(splicebert_results.RESULTS, "masked", fake)
    pd.testing.assert_frame_equal(measure("--only", "masked", "--windows", 30), before)
    with pytest.raises(AssertionError, match="measured twice"):
        measure("--only", "masked", "--windows", 31)


def test_a_table_that_arrives_is_measured(measure, data):
    words = ("--only", "effects", "--only", "variants", "--windows", 20)
    vexseq = data / "variants/vexseq.tsv.gz"
    assert not measure(*words)["metric"].str.startswith("Vex-seq").any()
    rows = pd.read_csv(data / "variants/mfass.tsv.gz", sep="\t", dtype=str)
    rows["dpsi_HepG2"] = rows["v2_dpsi"].astype(float) * 100
    try:
        rows.rename(columns={"id": "variant"}).to_csv(vexseq, sep="\t", index=False)
        assert measure(*words)["metric"].str.startswith("Vex-seq").any()
    finally:
        vexseq.unlink()
    assert not measure(*words)["metric"].str.startswith("Vex-seq").any()


def test_fresh_weights_of_the_same_sizes_are_a_column_of_their_own(
    measure, of_bases, capsys, call, data, start, tmp_path
):
    words = ("--only", "masked", "--windows", 30, "--fresh")
    table = measure(*words)
    assert table["model"].nunique() == 2 and "fresh weights" in set(table["model"])
    assert table.groupby("metric")["ours"].nunique().max() == 2
    pd.testing.assert_frame_equal(measure(*words), table)
    line = refusal(call, capsys, evaluate, "splicebert", of_bases, "--fresh", "--data", data, *WORDS)
    assert "--fresh" in line and "encoder" in line
    twin = shutil.copytree(start, tmp_path / "fresh/weights")
    line = refusal(call, capsys, evaluate, "splicebert", twin, "--fresh", "--data", data, *WORDS)
    assert "fresh weights" in line and "rename" in line


def test_a_run_of_several_checkpoints_and_a_checkpoint_have_rows_of_each(measure, start, tmp_path):
    run = tmp_path / "runs/tiny"
    for arm in ("start", "last"):
        shutil.copytree(start, run / f"pretrain/checkpoints/{arm}")
    (run / "pretrain/config.yaml").write_text("name: tiny\npretrain: {steps: 0}\n")
    table = measure("--only", "masked", "--windows", 20, sources=(run,))
    assert list(dict.fromkeys(table["model"])) == ["baseline", "last"]
    both = measure("--only", "masked", "--windows", 20, sources=(run, start))
    assert len(set(both["model"])) == 3 and {"tiny:baseline", "tiny:last"} < set(both["model"])


def test_two_checkpoints_of_one_name_stay_apart(measure, start, tmp_path):
    twins = [tmp_path / "runs/one" / stage / "seed0/checkpoints/last" for stage in ("pretrain", "control")]
    for twin in twins:
        shutil.copytree(start, twin)
    table = measure("--only", "masked", "--windows", 20, sources=twins)
    assert set(table["model"]) == {"one:last:pretrain0", "one:control_last:pretrain0"}
    plain = [shutil.copytree(start, tmp_path / place / "twin") for place in ("a/b", "c/b")]
    table = measure("--only", "masked", "--windows", 20, sources=plain)
    assert set(table["model"]) == {str(twin) for twin in plain}


def test_arms_are_compared_over_their_pretraining_seeds(measure, start, tmp_path, capsys, call, data):
    """By scipy's paired t-test; the start, which has no seed, goes with each of the other arm's."""
    sources = [start]
    for arm, stage, seeds in (("last", "pretrain", (0, 1, 2)), ("control_last", "control", (1, 2, 3))):
        for seed in seeds:
            sources.append(shutil.copytree(start, tmp_path / f"runs/one/{stage}/seed{seed}/checkpoints/last"))
            model = BertForMaskedLM.from_pretrained(start)
            noise = torch.Generator().manual_seed(10 * len(arm) + seed)
            with torch.no_grad():
                model.cls.predictions.bias += torch.randn(model.cls.predictions.bias.shape, generator=noise)
            model.save_pretrained(sources[-1])
            (sources[-1] / "checksums.json").unlink()
    named = " ".join(start.parts[-2:])
    pairs = [("one:last", "one:control_last"), ("one:last", named)]
    words = [word for pair in pairs for word in ("--compare", *pair)]
    table = measure("--only", "masked", "--windows", 20, *words, sources=sources)
    shown, differences = capsys.readouterr().out, pd.read_csv(tmp_path / "out/differences.csv")
    of_all = table[table["metric"] == "balanced accuracy, all"].set_index("model")["ours"]
    for (arm, reference), seeds in zip(pairs, ((1, 2), (0, 1, 2))):
        ours = [of_all[f"{arm}:pretrain{seed}"] for seed in seeds]
        theirs = [of_all[f"{reference}:pretrain{seed}" if reference != named else named] for seed in seeds]
        of_pair = differences[(differences["arm"] == arm) & (differences["reference"] == reference)]
        (row,) = of_pair[of_pair["metric"] == "balanced accuracy, all"].itertuples()
        expected = ttest_rel(ours, theirs)
        assert row.seeds == len(seeds) and row.diff == pytest.approx(np.subtract(ours, theirs).mean(), abs=2e-6)
        assert row.p == pytest.approx(expected.pvalue, rel=1e-3)
        assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-4)
        assert f"{arm} - {reference}" in shown
    assert not differences["metric"].str.contains("Markov").any()  # the same for all
    assert "Differences over pre-training seeds" in (tmp_path / "out/index.html").read_text()
    before = (tmp_path / "out/results.csv").read_bytes()
    one_seed = shutil.copytree(start, tmp_path / "runs/two/pretrain/checkpoints/last")
    refused = {("one:last", "three:last"): "three:last is no arm", (named, named): "in common"}
    refused |= {("one:last", "two:last"): "two:last has one pre-training seed", ("one:last", "one:last"): "two arms"}
    sources.append(one_seed)
    for pair, said in refused.items():
        words = ("splicebert", *sources, "--data", data, "--out", tmp_path / "out", *WORDS, "--compare", *pair)
        assert said in refusal(call, capsys, evaluate, *words)
    assert (tmp_path / "out/results.csv").read_bytes() == before
    measure("--only", "masked", "--windows", 20, sources=sources[:2])
    assert not (tmp_path / "out/differences.csv").exists()  # those of another call


def test_runs_of_one_name_stay_apart_and_a_checkpoint_is_given_once(measure, start, tmp_path, call, capsys, data):
    runs = [tmp_path / place / "runs/one" for place in "ab"]
    sources = [shutil.copytree(start, run / "pretrain/seed0/checkpoints/last") for run in runs]
    table = measure("--only", "masked", "--windows", 20, sources=sources)
    assert set(table["model"]) == {f"{run}:last:pretrain0" for run in runs}
    words = ("splicebert", sources[0], sources[0], "--data", data, "--out", tmp_path / "out", *WORDS)
    assert f"{sources[0]} is given twice" in refusal(call, capsys, evaluate, *words)


def test_saturation_mutagenesis_takes_the_largest_kl_of_three_substitutions(data, start, tmp_path):
    """Against transformers' own model, one mutant at a time."""
    settings = Config(data=DataConfig(cache=str(tmp_path / "cache")))
    model = load_backbone(ModelConfig(source=str(start)))[0]
    subject = splicebert_results.Subject("x", model, None, Accelerator(cpu=True), settings, data, 30)
    rows, _ = splicebert_results.mutagenesis(subject)
    ids, phastcons = splicebert_results._phastcons(subject)
    places = np.random.default_rng([0, 3]).permutation(ids.size)[:30]
    plain, felt, conserved = BertForMaskedLM.from_pretrained(start).eval(), [], []

    def chances(text):
        with torch.no_grad():
            tokens = torch.tensor([[CLS, *text.tolist(), SEP]])
            return plain(input_ids=tokens).logits[0, 1:-1, A : T + 1].double().softmax(-1).numpy()

    for row, at in zip(*np.divmod(places, ids.shape[1])):
        wild, kl = chances(ids[row]), []
        for base in {A, A + 1, A + 2, T} - {int(ids[row, at])}:
            mutant = ids[row].copy()
            mutant[at] = base
            changed = chances(mutant)
            kl.append((changed * np.log(changed / wild)).sum(axis=1))
        most, logs = np.max(kl, axis=0), []
        for distance in range(1, 101):
            sides = [most[i] for i in (at - distance, at + distance) if 0 <= i < len(most)]
            logs += [np.log(max(np.mean(sides), 1e-6))] if sides else []
        felt.append(np.mean(logs))
        conserved.append(phastcons[row, at] >= 0.8)
    own = {row["metric"]: row["value"] for row in rows}
    felt, conserved = np.array(felt), np.array(conserved)
    assert own["mean ln KL within 100 nt, conserved"] == pytest.approx(felt[conserved].mean(), abs=1e-4)
    assert own["mean ln KL within 100 nt, other"] == pytest.approx(felt[~conserved].mean(), abs=1e-4)
    assert own["AUC of KL by distance for conserved bases"] == pytest.approx(roc_auc_score(conserved, felt))


@pytest.fixture
def of_bases(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "runs/labels/finetune/cnn/bases/seed0/fold00/checkpoints/best"
    folder.mkdir(parents=True)
    save_bases(BaseClassifier(None, Shape(tile=20, channels=4, kernel=5, dilations=[1])), IDENTITY, folder)
    fit = folder.parents[1]
    (fit / "config.yaml").write_text("name: labels\n")
    scores = {"test/ap_donor": 0.4, "test/ap_acceptor": 0.3, "test/topk_donor": 0.5, "test/topk_acceptor": 0.2}
    summary = {"arm": "cnn", "site": "bases", "seed": 0, "fold": 0, "metrics": scores}
    (fit / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_model_of_every_base_has_delta_scores_and_the_scores_of_its_run(measure, start, of_bases):
    table = measure("--only", "masked", "--only", "effects", "--only", "bases", sources=(start, of_bases))
    assert dict(table.groupby("result")["model"].nunique()) == {"masked": 1, "effects": 1, "bases": 1}
    rows = table.set_index("metric")
    assert rows.loc["AP of donors, cnn seed 0 fold 0", ["ours", "published"]].tolist() == [0.4, 0.8547]
    assert rows.loc["AP of acceptors, cnn seed 0 fold 0", ["ours", "published"]].tolist() == [0.3, 0.8458]
    assert rows.loc["MFASS, positives", "n"] == rows.loc["MFASS, AP of delta score", "n"] == 2 * len(EXONS) * 6
    assert 0 < rows.loc["MFASS, AP of a fit on the changes, folds by exon", "ours"] <= 1


def test_a_model_of_every_base_in_no_run_is_scored_on_the_genes_of_chr3(
    measure, of_bases, data, tmp_path, capsys, call
):
    alone = shutil.copytree(of_bases, tmp_path / "alone")
    words = ("splicebert", alone, "--data", data, "--only", "bases", *WORDS)
    assert "data/fetch.py genes" in refusal(call, capsys, evaluate, *words)
    genes = data / "genes"
    held_out = [genes / f"chr3.{kind}" for kind in ("fa", "gtf")]
    try:
        for path in held_out:
            shutil.copy(path.with_stem("chr1"), path)
        rows = measure("--only", "bases", sources=(alone,)).set_index("metric")
    finally:
        for path in held_out:
            path.unlink()
    model, calibration = load_bases(alone)
    labeller = Labeller(model, calibration, torch.device("cpu"), contextlib.nullcontext)
    settings = BasesConfig(fasta=[str(genes / "chr1.fa")], annotation=[str(genes / "chr1.gtf")])
    genome = read_genome(settings, str(tmp_path / "cache"))
    odds, labels = label_records(labeller, genome, ["A", "B"], forward=True)
    for column, kind in enumerate(("acceptor", "donor"), start=1):
        row = rows.loc[f"AP of {kind}s, chr3's genes"]
        assert row["n"] == (labels == column).sum() == 2 * (len(EXONS) - 1)
        assert row["ours"] == pytest.approx(average_precision_score(labels == column, odds[:, column - 1]), abs=1e-6)
    assert rows.loc["AP of donors, chr3's genes", "published"] == 0.8547


def write_sites(folder, genes):
    """A BED of GT and AG of both kinds, as data/motifs.py writes it, with its genome in hg19's place."""
    lines = []
    for name, (bases, *_) in genes.items():
        for motif, kind, true in (
            ("GT", "donor", [e[-1] + 1 for e in EXONS]),
            ("AG", "acceptor", [e[0] - 2 for e in EXONS]),
        ):
            places = [i for i in range(40, len(bases) - 40) if bases[i : i + 2] == motif]
            for place in places:
                label = kind if place in true else f"non-{kind}"
                lines.append(f"{name}\t{place}\t{place + 2}\t{name}|{motif}({label})\t{name}\t+\n")
    (folder / "windows/genes").mkdir(parents=True)
    with gzip.open(folder / "windows/genes/motifs.bed.gz", "wt") as handle:
        handle.writelines(lines)
    return len(lines)


def test_sites_that_are_here_are_clustered_and_laid_out(call, start, tmp_path):
    genes, _ = write_splicebert_data(tmp_path / "data")
    count = write_sites(tmp_path / "data", genes)
    words = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--data.cache", tmp_path / "cache", *WORDS)
    call(evaluate, "splicebert", start, "--only", "embeddings", *words, "--windows", 10000)
    table = pd.read_csv(tmp_path / "out/results.csv").set_index("metric")
    assert set(table.index) == {f"chr1's genes, NMI, {half} half" for half in ("GT", "AG")}
    assert (table["n"] == count).all() and table["ours"].between(0, 1).all() and table["floor"].between(0, 1).all()
    assert "umap.png" in (tmp_path / "out/index.html").read_text() or (tmp_path / "out/umap.png").is_file()
    (kept,) = (tmp_path / "out/measured").rglob("embeddings.json")
    points = json.loads(kept.read_text())["result"]["curves"]["chr1's genes"]
    assert len(points["points"]) == len(points["labels"]) == min(count, 1000)


def test_what_is_missing_is_said_with_the_command_that_fetches_it(call, start, tmp_path, capsys):
    line = refusal(call, capsys, evaluate, "splicebert", start, "--data", tmp_path, "--only", "variants", *WORDS)
    assert "data/fetch.py mfass" in line and not (tmp_path / "out").exists()


def test_what_cannot_be_measured_is_refused_in_a_line(call, start, data, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    line = refusal(call, capsys, evaluate, "splicebert", tmp_path / "none", "--data", data)
    assert str(tmp_path / "none") in line
    headless = shutil.copytree(start, tmp_path / "headless")
    weights = {k: v for k, v in load_file(headless / "model.safetensors").items() if not k.startswith("cls.")}
    save_file(weights, headless / "model.safetensors", {"format": "pt"})
    (headless / "checksums.json").unlink()
    line = refusal(call, capsys, evaluate, "splicebert", headless, "--data", data, "--only", "masked", *WORDS)
    assert "masked-LM head" in line
    damaged = shutil.copytree(data, tmp_path / "damaged")
    path = damaged / "variants/mfass.tsv.gz"
    path.write_bytes(path.read_bytes()[:-40])
    words = ("--data", damaged, "--out", tmp_path / "out", "--only", "variants", *WORDS)
    assert str(path) in refusal(call, capsys, evaluate, "splicebert", start, *words)
    assert not (tmp_path / "out/results.csv").exists()

"""evaluate.py explain: what a model's calls rest on, held against substitutions made by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import other_strand, put, random_bases, refusal, write_fasta
from test_predict import FP32, each_config_is_parsed_once, labeller_of, make_run, save_random  # noqa: F401

import evaluate
from commands import explain
from simcsp.genome.explain import annotated_sites, bases_score
from simcsp.text.alphabet import encode
from simcsp.text.known_introns import read_truth
from simcsp.text.store import open_store

MARGIN = 5200  # nt at either end: what the bundled model sees beyond a site
INTRON = "CAG" + "GTAAGTCT" + "A" * 24 + "TACTAAC" + "A" * 9 + "TTCTTTCTTTTTCAG" + "GT"


@pytest.fixture(scope="module")
def genome():
    rng = np.random.default_rng(6)
    bases = random_bases(rng, 2 * MARGIN + 2600)
    for start in (MARGIN + 500, MARGIN + 900):
        bases = put(bases, start, INTRON)
    return put(bases, MARGIN + 1500, other_strand(INTRON))


@pytest.fixture(scope="module")
def places(tmp_path_factory, genome):
    """(FASTA, table of its three introns)."""
    folder = tmp_path_factory.mktemp("explain")
    size = len(INTRON)
    rows = [(503, 500 + size - 2, "+"), (903, 900 + size - 2, "+"), (1502, 1500 + size - 3, "-")]
    rows = [f"x\t{MARGIN + start}\t{MARGIN + end}\t{strand}\n" for start, end, strand in rows]
    (folder / "introns.tsv").write_text("".join(rows))
    return write_fasta(folder / "g.fa", {"x": genome}), folder / "introns.tsv"


def test_drops_are_those_of_bases_changed_by_hand(places, genome, call, capsys, tmp_path):
    fasta, introns = places
    model = save_random(tmp_path / "m", encoder=False)
    out = tmp_path / "picture.svg"
    words = ("--annotation", introns, "--out", out, "--region", f"x:1-{MARGIN + 850}")
    call(evaluate, "explain", model, fasta, *words, *FP32)
    assert "donor: 1 of 1 sites" in capsys.readouterr().out and out.read_text().lstrip().startswith("<?xml")
    table = pd.read_csv(tmp_path / "picture.tsv", sep="\t").set_index(["type", "position", "base"])
    labeller = labeller_of(model)
    for kind, boundary in (("donor", MARGIN + 503), ("acceptor", MARGIN + 500 + len(INTRON) - 2)):
        score, length = bases_score(labeller, kind)
        window = genome[boundary - length // 2 : boundary + length // 2]
        before = score(encode(window)[None])[0]
        for position in (-3, -1, 1, 2, 6):
            at = length // 2 + position - (position > 0)
            for base in "ACGT":
                row = table.loc[kind, position, base]
                if base == window[at]:
                    assert np.isnan(row["drop"])  # no site has another there
                    continue
                after = score(encode(put(window, at, base))[None])[0]
                assert row["drop"] == pytest.approx(before - after, abs=1e-3)
                assert row["height"] == 0
    names = {(kind, position) for kind, position, _ in table.index}
    assert ("donor", 20) in names and ("acceptor", -40) in names and ("donor", 0) not in names


def test_sites_of_both_strands_are_read_as_their_strand_is(places, tmp_path):
    fasta, introns = places
    store = open_store([fasta], tmp_path)
    spans = [(0, 1, 2 * MARGIN + 2600)]
    for kind in ("donor", "acceptor"):
        sites = annotated_sites(read_truth(introns, store), spans, store, kind, 100)
        assert len(sites) == 3
        assert len(annotated_sites(read_truth(introns, store), [(0, 1, MARGIN + 950)], store, kind, 100)) in (1, 2)
        assert not len(annotated_sites(read_truth(introns, store), spans, store, kind, 2 * MARGIN + 2400))


def test_the_boxed_model_rests_on_gt_and_ag(places, call, tmp_path, monkeypatch):
    fasta, introns = places
    monkeypatch.setattr(explain, "PLACES", {"donor": (6, 10), "acceptor": (12, 6)})  # each takes three passes
    out = tmp_path / "x.png"
    call(evaluate, "explain", fasta, "--annotation", introns, "--out", out, "--limit", 1, *FP32)
    table = pd.read_csv(tmp_path / "x.tsv", sep="\t")
    tall = table.loc[table.groupby(["type", "position"])["height"].idxmax()].set_index(["type", "position"])
    for kind, motif in (("donor", {1: "G", 2: "T"}), ("acceptor", {-2: "A", -1: "G"})):
        highest = tall.loc[kind]["height"].nlargest(2).index
        assert set(highest) == set(motif) and all(tall.loc[kind, at]["base"] == base for at, base in motif.items())


def test_models_of_windows_are_asked_for_the_mean_of_their_logits(places, call, capsys, tmp_path):
    fasta, introns = places
    run = make_run(tmp_path, tmp_path / "gone", {"baseline/donor": 2})
    call(evaluate, "explain", run, fasta, "--annotation", introns, "--out", tmp_path / "x.png", *FP32)
    said = capsys.readouterr().out
    assert "donor: 3 of 3 sites" in said and "acceptor" not in said
    table = pd.read_csv(tmp_path / "x.tsv", sep="\t")
    assert table["position"].min() == -10 and table["position"].max() == 10  # the window ends there


@pytest.mark.parametrize(
    "words, part",
    [
        (["--out", "x.gif"], "must end in .png, .svg or .pdf"),
        (["--out", "x.png", "--region", "x:1-100"], "lies in the regions"),
        (["--out", "x.png", "--limit", "0"], "not between 1 and"),
        ([], "--out"),
    ],
)
def test_what_cannot_be_explained_is_refused(words, part, places, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fasta, introns = places
    line = refusal(call, capsys, evaluate, "explain", fasta, "--annotation", introns, *FP32, *words)
    assert part in line and not list(tmp_path.glob("x.*"))

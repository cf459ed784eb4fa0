"""predict on plain sequences without coordinates, and minisplice's table of scores."""

import math
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import put, random_bases, refusal, write_fasta
from test_predict import CONTEXT, FP32, each_config_is_parsed_once, labeller_of, make_run, plain_scores, save_random  # noqa: F401

import evaluate
import simcsp.model.bases
from simcsp.genome import sequences
from simcsp.genome.tracks import SITE_SHARE
from simcsp.text.alphabet import encode


@pytest.fixture(scope="module")
def texts():
    """Of many lengths, one longer than a chunk, one with N, one of two bases."""
    rng = np.random.default_rng(8)
    found = {f"s{length}": random_bases(rng, length) for length in (2, 30, 59, 161, 450, 60, 31)}
    return found | {"n": put(random_bases(rng, 80), 20, "N" * 9)}


@pytest.mark.parametrize("linear", [False, True])
def test_sequences_are_scored_each_by_itself_whatever_lies_beside_them(linear, texts, call, tmp_path, monkeypatch):
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_TILES", 8)
    monkeypatch.setattr(simcsp.model.bases, "_CHUNK_FLANKS", 0)
    model = save_random(tmp_path / "m", linear, linear)
    fasta = write_fasta(tmp_path / "s.fa", texts)
    call(evaluate, "predict", model, fasta, "--fasta_windows", "--out", tmp_path / "s.tsv", *FP32)
    table = pd.read_csv(tmp_path / "s.tsv", sep="\t")
    assert list(table) == ["name", "position", "type", "score", "motif"]
    labeller = labeller_of(model)
    shape = labeller.model.shape
    seen = 0
    for name, bases in texts.items():
        before = 2 * shape.flank
        text = encode("N" * before + bases + "N" * (before + -len(bases) % shape.step))
        expected = labeller.probabilities(labeller.log_odds(text[None]))[0, before:]
        places = [("donor", i, i - 1) for i in range(1, len(bases) - 1) if bases[i : i + 2] == "GT"]
        places += [("acceptor", i, i + 2) for i in range(len(bases) - 2) if bases[i : i + 2] == "AG"]
        places = [(kind, base + 1) for kind, _, base in places if bases[base] != "N"]
        rows = table[table["name"] == name]
        assert sorted(zip(rows["type"], rows["position"])) == sorted(places)
        for row in rows.itertuples():
            ours = expected[row.position - 1, ("acceptor", "donor").index(row.type)]
            assert row.score == pytest.approx(ours, abs=6e-5)
            assert row.motif == ("GT" if row.type == "donor" else "AG")
        seen += len(rows)
    assert seen == len(table) > 30
    assert list(dict.fromkeys(table["name"])) == [name for name in texts if name in set(table["name"])]
    monkeypatch.setattr(sequences, "_BASES", 1)  # one at a time, in another order
    write_fasta(tmp_path / "r.fa", dict(reversed(texts.items())))
    call(evaluate, "predict", model, tmp_path / "r.fa", "--fasta-windows", "--out", tmp_path / "r.tsv", *FP32)
    other = pd.read_csv(tmp_path / "r.tsv", sep="\t").sort_values(["name", "position", "type"], ignore_index=True)
    pd.testing.assert_frame_equal(other, table.sort_values(["name", "position", "type"], ignore_index=True))


def test_models_of_windows_score_the_centre(call, capsys, tmp_path):
    run = make_run(tmp_path, tmp_path / "gone", {"baseline/donor": 3, "baseline/acceptor": 3})
    rng = np.random.default_rng(1)
    windows = {f"w{i}": random_bases(rng, CONTEXT + 2 * (i % 4)) for i in range(9)}
    fasta = write_fasta(tmp_path / "w.fa", windows)
    call(evaluate, "predict", run, fasta, "--fasta_windows", "--out", tmp_path / "w.tsv", *FP32)
    table = pd.read_csv(tmp_path / "w.tsv", sep="\t")
    assert table["name"].tolist() == [name for name in windows for _ in range(2)]
    cut = [bases[len(bases) // 2 - CONTEXT // 2 :][:CONTEXT] for bases in windows.values() for _ in range(2)]
    scores = plain_scores(run, cut, table["type"].tolist())
    assert set(table["type"]) == {"donor", "acceptor"}
    assert table["score"].to_numpy() == pytest.approx(scores.mean(axis=0), abs=6e-5)
    assert table["sd"].to_numpy() == pytest.approx(scores.std(axis=0, ddof=1), abs=6e-5)
    write_fasta(tmp_path / "short.fa", {"w": "ACGT"})
    line = refusal(call, capsys, evaluate, "predict", run, tmp_path / "short.fa", "--fasta_windows", *FP32)
    assert f"w has 4 nt, these models read the central {CONTEXT} nt" in line


def test_the_table_of_minisplice_says_boundary_strand_type_and_half_bits(call, capsys, tmp_path):
    model = save_random(tmp_path / "m", encoder=False)
    fasta = write_fasta(tmp_path / "g.fa", {"x": random_bases(np.random.default_rng(3), 500)})
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "s.tsv", *FP32, "--min_score", "0")
    call(evaluate, "predict", model, fasta, "--out", tmp_path / "s.spsc", *FP32)
    table = pd.read_csv(tmp_path / "s.tsv", sep="\t")
    rows = [line.split("\t") for line in (tmp_path / "s.spsc").read_text().splitlines()]
    assert len(rows) == len(table)
    for (name, offset, strand, letter, score), row in zip(rows, table.itertuples()):
        exon_is_left = (row.type == "donor") == (row.strand == "+")
        assert (name, strand, letter) == ("x", row.strand, row.type[0].upper())
        assert int(offset) == (row.position if exon_is_left else row.position - 1)
        expected = 2 * math.log2(max(row.score, 1e-4) / SITE_SHARE[row.type])
        assert -7 <= int(score) <= 13 and (row.score < 1e-3 or abs(int(score) - min(max(expected, -7), 13)) <= 0.7)


@pytest.mark.slow
def test_minimap2_reads_every_row_of_the_table(call, tmp_path):
    program = shutil.which("minimap2")
    if program is None:
        pytest.skip("no minimap2 on PATH")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 29):
        pytest.skip(f"minimap2 {version.strip()} has no --spsc: 2.29 has")
    bases = put(put(random_bases(np.random.default_rng(3), 5000), 1397, "CAGGTAAGT"), 2980, "TTTTCTTTCTTTTTTTGCAGG")
    fasta = write_fasta(tmp_path / "g.fa", {"x": bases})
    reads = write_fasta(tmp_path / "r.fa", {"r": bases[1000:1400] + bases[3000:3400]})
    call(evaluate, "predict", fasta, "--out", tmp_path / "s.spsc", *FP32)
    rows = len((tmp_path / "s.spsc").read_text().splitlines())
    words = [program, "-cx", "splice", "--spsc", tmp_path / "s.spsc", fasta, reads]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert rows > 300 and f"read {rows} splice scores" in ran.stderr
    assert "\tcg:Z:400M1600N400M\n" in ran.stdout

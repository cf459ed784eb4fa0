"""benchmarks/spliceai.py without the package: our side and the floors of the table, and what a variant does."""

import argparse
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from conftest import other_strand, put, random_bases, write_fasta

from benchmarks import spliceai
from simcsp.core.config import BasesConfig
from simcsp.core.errors import InputError
from simcsp.labels.bases import read_genome
from simcsp.model.bases import BaseClassifier, Shape, save_bases
from simcsp.text.alphabet import encode, reverse_complement

DONOR, LONG = "CAGGTAAGT", 1200


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a genome of one donor and one acceptor a strand, its introns, and a model of fresh weights."""
    folder, rng = tmp_path_factory.mktemp("spliceai"), np.random.default_rng(0)
    bases = put(put(random_bases(rng, LONG), 297, DONOR), 485, "TTTTTTTTTTTCAGG")
    bases = put(put(bases, 700, other_strand("TTTTTTTTTTTCAGG")), 894, other_strand(DONOR))
    write_fasta(folder / "genome.fa", {"one": bases})
    (folder / "introns.tsv").write_text("one\t300\t499\t+\none\t701\t900\t-\n")
    torch.manual_seed(0)
    (folder / "model").mkdir()
    shape = Shape(tile=20, channels=4, kernel=5, dilations=[1])
    save_bases(BaseClassifier(None, shape), np.eye(2)[::-1], folder / "model")
    return folder


def array(kind: str, length: int, focus: int, names: list[str], favoured: str) -> str:
    """A weight array of order 1 in snap's file format: 1 for each place's favoured base, after any."""
    lines = [f"{kind} SDT 2 0 4 2 0.000", f"\t{names[focus]}{names[focus + 1]} SAM {length} {focus} 4 {length} 0.000"]
    for name, base in zip(names, favoured):
        lines.append(f"\t\t{name} LUT 2 1 4 0 0.000")
        lines += ["\t\t\t" + "\t".join(f"{float(b == base):.3f}" for b in "ACGT")] * 4
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def snap(place):
    text = array("Acceptor", 8, 5, [*"uvwxy", "A", "G", "E+1"], "TTTTCAGG")
    text += "\n" + array("Donor", 9, 3, [*"uvw", "G", "T", *"wxyz"], DONOR)
    (place / "toy.hmm").write_text("zoeHMM toy\n\n" + text)
    return place / "toy.hmm"


def test_snap_s_array_scores_its_motif_on_both_strands(place, snap):
    genome = read_genome(BasesConfig(fasta=[place / "genome.fa"], annotation=[place / "introns.tsv"]), place)
    for kind, label in (("donor", 2), ("acceptor", 1)):
        asked = argparse.Namespace(windows=None, snap=snap)
        odds = spliceai.score_record(genome, "one", spliceai.floor_scorers(asked)["snap, toy.hmm"])
        for minus, base in genome.sites["one"][genome.sites["one"][:, 2] == label][:, :2]:
            assert odds[minus, base, label - 1] == (9 if kind == "donor" else 8)
        assert odds.max() <= 9 and (odds == -1e3).mean() > 0.8
    with pytest.raises(InputError, match="no weight array of donors"):
        spliceai.read_snap(place / "introns.tsv", "donor")


def test_the_table_of_our_side_and_the_floor(place, snap, capsys, monkeypatch):
    words = ["scan", place / "genome.fa", place / "introns.tsv", "--model", place / "model", "--networks"]
    words += ["--snap", snap, "--cache", place, "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", ["spliceai.py", *map(str, words)])
    spliceai.main()
    table = capsys.readouterr().out
    assert "| donor | all | P sums to" in table
    assert "| model |" in table and "2 sites of" in table
    assert "| snap, toy.hmm | | | | 1.000 / 1.000 | 1.000 / 1.000 | 1.000 / 1.000 | | |" in table


def test_without_the_package_one_line_says_what_to_install(place, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("simcsp.text.spliceai.distribution", absent)
    files = [str(place / name) for name in ("genome.fa", "introns.tsv")]
    monkeypatch.setattr(sys, "argv", ["spliceai.py", "variants", *files])
    with pytest.raises(InputError, match="pip install spliceai keras"):
        spliceai.main()


class Motif:
    """Stands for the networks: P(donor) .9 at the exon's base before GTAAGT, of a text as read."""

    def chances(self, ids: np.ndarray) -> np.ndarray:
        p = np.tile(np.array([1.0, 0.0, 0.0]), (len(ids), 1))
        windows = np.lib.stride_tricks.sliding_window_view(ids, 6)
        p[np.flatnonzero((windows == encode("GTAAGT")).all(axis=1)) - 1] = [0.1, 0.0, 0.9]
        return p[spliceai.CONTEXT : -spliceai.CONTEXT]


def test_gain_loss_and_place_of_variants_are_as_spliceai_has_them(place):
    genome = read_genome(BasesConfig(fasta=[place / "genome.fa"], annotation=[place / "introns.tsv"]), place)
    letters = genome.store.fetch("one", 0, LONG)
    rows = spliceai.draw_variants(genome, 60, 0)
    assert {row[4].split()[0] for row in rows} == {"donor", "acceptor"} and len({row[4] for row in rows}) >= 8
    for row in rows:
        name, pos, ref, alt, made, minus = row
        assert np.array_equal(letters[pos - 1 : pos - 1 + len(ref)], encode(ref)) and ref != alt
        gains, places = spliceai.spliceai_effect(Motif(), genome, row)
        if made.startswith("donor motif") or made == "donor base 5":
            donor = 900 if minus else 299  # 0-based exon's base
            assert gains == pytest.approx([0, 0, 0, 0.9]) and places[3] == donor - (pos - 1)
        if made.startswith("acceptor"):
            assert gains.max() < 0.9 or "GTAAGT" in spliceai.decode(reverse_complement(letters) if minus else letters)

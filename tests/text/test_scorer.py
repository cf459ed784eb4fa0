"""data.scorer spliceai: by a stand-in of the package, and (slow) by the package itself where it is installed."""

import importlib.metadata
import sys

import numpy as np
import pytest
from conftest import other_strand, put, random_bases, write_fasta
from opening import SPACE, enriched, open_text, refused, write_spliced

from simcsp.core.errors import InputError
from simcsp.text.alphabet import N, encode
from simcsp.text.spliceai import CONTEXT, SpliceAI, boundary_odds

KERAS = """
import types
import numpy as np

loaded = []

class Network:
    def __init__(self, path, strength):
        loaded.append(path.name)
        self.strength = strength

    def count_params(self):
        return 1

    def __call__(self, bases):
        letters = np.array([0, *b"ACGT"])[(bases[0] @ [1, 2, 3, 4]).astype(int)]
        text = bytes(letters.astype(np.uint8).tolist())
        p = np.tile([1.0, 0.0, 0.0], (len(text), 1))
        for i in range(len(text) - 9):
            if text[i : i + 9] == b"CAGGTAAGT":
                p[i + 2] = [1 - self.strength, 0, self.strength]
            if text[i : i + 9] == b"TTTGCAGGA":
                p[i + 7] = [1 - self.strength, self.strength, 0]
        return p[None, 5000:-5000]

models = types.SimpleNamespace(load_model=lambda path, compile: Network(path, float(path.read_text())))
ops = types.SimpleNamespace(convert_to_numpy=lambda values: values)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder on sys.path with a keras and a package spliceai, whose networks know one donor and one acceptor."""
    folder = tmp_path / "site-packages"
    (folder / "spliceai/models").mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"spliceai/models/spliceai{number}.h5").write_text(f"{0.4 + number / 10}")  # mean .7
    (folder / "keras.py").write_text(KERAS)
    for name in ("spliceai", "keras"):
        (folder / f"{name}-1.0.dist-info").mkdir()
        (folder / f"{name}-1.0.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("keras", None)


@pytest.fixture
def spliced(tmp_path):
    return write_spliced(tmp_path, "spliced", ["a"], np.random.default_rng(6))


def test_windows_are_drawn_by_the_networks_scores_which_are_kept(package, tmp_path):
    bases = random_bases(np.random.default_rng(3), 6 * SPACE)
    bases = put(put(bases, 297, "CAGGTAAGT"), 900, other_strand("TTTGCAGGA"))  # boundaries 300 (+) and 902 (-)
    fasta = write_fasta(tmp_path / "one.fa", {"a": bases})
    config = enriched((fasta, ""), tmp_path, annotation=[], scorer="spliceai")
    corpus, _ = open_text(config)
    where, odds = corpus.intervals, np.log(0.7 / 0.3)
    for minus, at in ((False, 300), (True, 902)):
        holds = (where.minus == minus) & (where.start + 20 <= at) & (at <= where.start + 60)
        assert holds.sum() >= 4 and np.allclose(corpus.scores[holds], odds, atol=2e-3)
        assert (corpus.scores[(where.minus == minus) & ~holds] < -13).all()
    assert corpus.manifest["annotated_sites"] == 0 and corpus.manifest["scorer"] == "spliceai"

    assert sys.modules["keras"].loaded == [f"spliceai{number}.h5" for number in range(1, 6)]
    kept = sorted(corpus.store.path.parent.glob("spliceai-*.npz"))
    assert len(kept) == 2
    again, _ = open_text(config)
    assert np.array_equal(again.scores, corpus.scores) and len(sys.modules["keras"].loaded) == 5, "not scored again"
    kept[0].write_bytes(kept[0].read_bytes()[:-30])
    refused(config, f"{kept[0].name} does not match its checksum: damaged; delete it")
    kept[0].unlink()
    again, _ = open_text(config)
    assert np.array_equal(again.scores, corpus.scores) and len(list(corpus.store.path.parent.glob("spliceai-*"))) == 2
    (package / "spliceai/models/spliceai1.h5").write_text("1.0")  # other networks, other scores
    assert open_text(config)[0].scores.max() > corpus.scores.max() + 0.1


def test_what_cannot_be_scored_stops(package, spliced, tmp_path, monkeypatch):
    config = enriched(spliced, tmp_path, scorer="spliceai")
    (package / "spliceai/models/spliceai1.h5").write_text("nan")
    with pytest.raises(FloatingPointError, match=r"SpliceAI gives no number .* of a \(\+\)"):
        open_text(config)
    assert not list((tmp_path / "cache").glob("spliceai-*")), "whole or absent"

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("simcsp.text.spliceai.distribution", absent)
    refused(config, "spliceai is not installed: pip install spliceai keras")


@pytest.mark.slow
def test_the_real_networks_find_the_sites_of_a_gene_and_pieces_change_nothing(monkeypatch):
    try:
        networks = SpliceAI([1])
    except InputError as error:  # importing the package itself takes more than its networks do
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    ids = encode(put(random_bases(rng, 1200), 600, "CAGGTAAGT"))
    odds = boundary_odds(networks, ids, "made up")
    assert odds.argmax() == 603 and odds.shape == (1201,)
    text = np.pad(ids, CONTEXT, constant_values=N)
    p = networks.chances(text)
    assert p.shape == (1200, 3) and np.allclose(p.sum(axis=1), 1, atol=1e-5)
    monkeypatch.setattr("simcsp.text.spliceai.PIECE", 500)
    assert np.allclose(boundary_odds(networks, ids, "made up"), odds, atol=1e-3)

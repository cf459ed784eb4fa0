"""simcsp.load, embed, sccs, nmi, predict: the same numbers as the scripts, for sequences of any lengths."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, fresh

import evaluate
import simcsp
from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.metrics.sccs import sccs_interval
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import encode

BASES = "models/simcsp-small-bases"


def sequences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for length in lengths]


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint('mean', 1) is a folder of fresh weights that pools so."""

    def save(pooling, layer=None):
        model, word, _ = fresh(pooling=pooling, pooling_layer=layer)
        save_checkpoint(model, tmp_path / "model", word)
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("pooling, layer", [("cls", None), ("mean", None), ("centre", 1), ("mean", "mix"), ("cls", 1)])
def test_vectors_are_those_of_the_scripts_and_do_not_depend_on_the_batch(checkpoint, pooling, layer):
    folder = checkpoint(pooling, layer)
    model = simcsp.load(folder, device="cpu")
    alike = sequences([40] * 5)
    backbone, word, _ = load_backbone(ModelConfig(source=str(folder)))
    ids = np.stack([encode(sequence) for sequence in alike])
    np.testing.assert_array_equal(model.embed(alike), Encoder(backbone.bert, word, 64).embed(ids))
    mixed = sequences([7, 62, 2, 31, 31, 8])
    alone = np.concatenate([model.embed([sequence]) for sequence in mixed])
    assert np.abs(model.embed(mixed) - alone).max() < 1e-6
    assert np.abs(model.embed(mixed, batch_size=2) - alone).max() < 1e-6
    np.testing.assert_array_equal(model.embed([mixed[1].lower().replace("t", "u")]), alone[1:2])


@pytest.mark.parametrize("given", [["ACGT", "A" * 63], ["A"], ["ACGT", "ACXT"], "ACGT"])
def test_sequences_that_the_model_cannot_take_are_refused(checkpoint, given):
    with pytest.raises(InputError):
        simcsp.load(checkpoint("mean"), device="cpu").embed(given)


def test_a_checkpoint_pooled_by_cls_is_one_of_sentence_transformers_with_the_same_vectors(checkpoint):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder, mixed = checkpoint("cls"), sequences([7, 62, 31])
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(mixed)
    assert np.abs(theirs - simcsp.load(folder, device="cpu").embed(mixed)).max() < 1e-6


def test_sccs_takes_any_labels_and_nmi_those_of_motif_sites():
    rng = np.random.default_rng(0)
    vectors, classes = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 2
    words = np.where(classes == 1, "site", "decoy")
    assert simcsp.sccs(vectors, words) == sccs_interval(vectors, 1 - classes)
    labels = np.array(["GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)"])[np.arange(60) % 4]
    assert 0 <= simcsp.nmi(vectors, labels)["nmi"] <= 1
    for refused in (lambda: simcsp.nmi(vectors, words), lambda: simcsp.sccs(vectors, words[1:])):
        with pytest.raises(InputError):
            refused()


def test_predict_gives_the_sites_of_evaluate_predict(call, tmp_path):
    text = sequences([9000, 300])
    fasta, out = tmp_path / "genome.fa", tmp_path / "sites.tsv"
    fasta.write_text("".join(f">r{i}\n{sequence}\n" for i, sequence in enumerate(text)))
    ours = simcsp.predict({f"r{i}": sequence for i, sequence in enumerate(text)}, BASES, device="cpu")
    pd.testing.assert_frame_equal(ours, simcsp.predict(fasta, BASES, device="cpu"))
    flags = ("--min_score", "0.01", "--out", out, "--device", "cpu", "--precision", "fp32")
    call(evaluate, "predict", BASES, fasta, *flags)
    theirs = pd.read_csv(out, sep="\t")
    key = ["record", "position", "strand", "type"]
    theirs = theirs.rename(columns=dict(zip(theirs.columns[:4], key)))
    merged = ours.merge(theirs, on=key, how="outer", indicator=True)
    assert (merged["_merge"] == "both").all() and len(merged) > 0
    assert np.abs(merged["probability"] - merged["score"]).max() <= 0.5001e-4
    with pytest.raises(InputError):
        simcsp.predict({"empty": ""}, BASES)


def test_the_quickstart_runs_from_its_first_cell_to_its_last(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    cells = json.loads(Path("docs/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6 and all(cell["execution_count"] == number for number, cell in enumerate(code, 1))
    names: dict[str, object] = {}
    for cell in code:
        exec("".join(cell["source"]), names)
    printed = "".join("".join(output["text"]) for cell in code for output in cell["outputs"] if "text" in output)
    assert capsys.readouterr().out == printed
    assert names["vectors"].shape == (len(names["windows"]), 64)

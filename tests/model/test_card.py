"""Model cards, as the hub reads them."""

import json

import numpy as np
import pytest
from conftest import ROOT
from huggingface_hub import ModelCard
from test_plain import LENGTH, SIZES, encoder

from simcsp.core.config import ModelConfig
from simcsp.model.bases import BaseClassifier, Shape, save_bases
from simcsp.model.card import license_of, write_card
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.checksums import sha256_folder
from simcsp.model.classifier import Classifier, save_classifier

BOXED = [
    "simcsp-small",
    "simcsp-small-splice",
    "simcsp-small-bases",
    "simcsp-small-bases-encoder",
]
CHANNELS = {"token-classification": 0, "convolutions": 4}
POOLING = {"text-classification": "cls", "two bases": "centre"}


def saved(kind, folder):
    folder.mkdir()
    if kind == "fill-mask":
        model = load_backbone(ModelConfig(**SIZES, max_position_embeddings=LENGTH + 2))[0]
        save_checkpoint(model, folder, "mean")
    elif kind in CHANNELS:
        save_bases(BaseClassifier(encoder(LENGTH + 2), Shape(LENGTH, CHANNELS[kind], 11, [])), np.eye(2), folder)
    else:
        save_classifier(Classifier(encoder(LENGTH + 2), POOLING[kind], 0.1), folder)
    return folder


@pytest.mark.parametrize("kind", ["fill-mask", "token-classification", "text-classification"])
def test_a_card_says_what_the_hub_reads_and_no_folder_of_this_machine(kind, tmp_path):
    folder = saved(kind, tmp_path / "m")
    facts = {"text": ["/home/someone/genome.fa.gz", "b.fa"], "step": 7, "nothing": None}
    scores = {"test/f1": 0.91234, "test/auc": float("nan"), "val/sccs": 0.5, "test/threshold": 0.4}
    write_card(folder, "demo: last", None, facts, "the test windows", scores)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == kind and "simcsp" in card.data.tags
    found = {(result.metric_type, result.metric_value) for result in card.data.eval_results}
    assert found == {("f1", 0.9123), ("sccs", 0.5)} and card.data.model_name == "demo: last"
    assert "genome.fa.gz, b.fa" in card.text and "someone" not in card.content and "nothing" not in card.text
    assert license_of(str(folder)) == "mit" and license_of(str(tmp_path)) == "other"
    assert card.data.library_name == "transformers"
    assert card.text.index("## When to use something else") < card.text.index("## Training")


@pytest.mark.parametrize("kind", ["convolutions", "two bases"])
def test_the_hub_is_not_told_that_transformers_loads_what_it_cannot(kind, tmp_path):
    folder = saved(kind, tmp_path / "m")
    write_card(folder, "m", None, {}, "records a", {"test/ap": 0.5, "test/f1": 0.5})
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "pytorch" and "no class of transformers" in card.text
    assert card.data.eval_results[0].dataset_type == ("genome" if kind == "convolutions" else "windows")


def test_a_header_that_is_given_later_leaves_a_checkpoint_what_it_was(tmp_path):
    folder = saved("fill-mask", tmp_path / "m")
    (folder / "README.md").write_text("# m\n\nText.\n")
    before = sha256_folder(folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [simcsp]\n---\n\n# m\n\nText.\n")
    assert sha256_folder(folder) == before
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# m\n\nText.\n")
    assert sha256_folder(folder) != before  # another's


@pytest.mark.parametrize("name", BOXED)
def test_boxed_models_have_a_card_that_the_hub_reads(name):
    card = ModelCard.load(ROOT / "models" / name / "README.md")
    assert card.data.license == "mit" and "simcsp" in card.data.tags and card.data.eval_results
    assert all(0 < result.metric_value < 2 for result in card.data.eval_results)


def test_cards_of_a_finished_run(finished):
    for checkpoint in sorted(finished.run.glob("pretrain/checkpoints/*")):
        card = ModelCard.load(checkpoint / "README.md")
        assert card.data.license and "val/sccs" not in card.text and "| objective |" in card.text
        assert {result.metric_type for result in card.data.eval_results} >= {"sccs"}
    best = sorted(finished.run.glob("finetune/baseline/*/seed0/fold*/checkpoints/best"))
    metrics = json.loads((best[0].parents[1] / "summary.json").read_text())["metrics"]
    card = ModelCard.load(best[0] / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["f1"] == round(metrics["test/f1"], 4) and measured["roc_auc"] == round(metrics["test/auc"], 4)

"""One experiment from FASTA and CSV to the verdict: read it from top to bottom to learn what SimCSP does.

The question: does contrastive pre-training make an encoder a better splice-site predictor than masked-LM training on
the same text does? Each test is a step towards the answer and asserts what it should teach. All is tiny and synthetic.

To see whether the report can be trusted, it is given two answers that are known. The text is random bases, from which
no objective can learn splice sites: the report has to say "no difference". Then an encoder that does know splice sites
takes the place of the contrastive one, beside a control that knows donors alone: the report has to call it a gain.
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import other_strand, reseal, run_here, skip_figures, tiny_config, write_data, write_windows

import finetune
import pretrain
from simcsp.labels.splits import load_windows, selection_windows
from simcsp.metrics.sccs import sccs
from simcsp.metrics.scores import classification_scores
from simcsp.model.checkpoint import load_backbone
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import decode
from simcsp.text.sampler import WindowSampler
from simcsp.text.store import open_store
from simcsp.text.weight_matrix import WeightMatrix
from simcsp.training.finetuning import run_folds
from simcsp.training.objectives import info_nce
from utils.arguments import load_config

FOLDS = 6
SETTINGS = {
    "data.num_folds": FOLDS,
    "mlm.steps": 0,
    "pretrain.control": True,
    "finetune.arms": ["pwm", "baseline", "last", "control_last"],
    # The encoder stays frozen and a linear head is trained on it: F1 is then what the encoder itself knows.
    "finetune.stages": ["head"],
    "finetune.head_epochs": 6,
    "finetune.lr": 0.01,
    "finetune.batch_size": 8,
    "finetune.patience": 6,
}


def run(script, *words):
    """The same as `python SCRIPT.py WORDS`."""
    with pytest.MonkeyPatch.context() as patch:
        skip_figures(patch)
        run_here(script, *words)


# -- 1. What there is to begin with: a genome, labelled windows, one YAML ----------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("walkthrough")


@pytest.fixture(scope="module")
def data(folder):
    """genome.fa, and Spliceator's four CSV files: a site has its consensus at the centre of the window."""
    return write_data(folder / "data")


@pytest.fixture(scope="module")
def yaml(folder, data):
    return tiny_config(folder, data, SETTINGS)


def test_one_yaml_is_one_experiment_and_one_folder(yaml, folder):
    config = load_config([str(yaml), "--pretrain.lr", "3e-5"])
    assert config.folder == folder / "runs/tiny"
    assert config.pretrain.lr == 3e-5  # the command line wins over the file
    assert config.pretrain.temperature == 0.05  # what neither sets is a default


def test_the_text_is_windows_of_the_genome_from_both_strands(yaml, data):
    config = load_config([str(yaml)])
    store = open_store(config.data.fasta, config.data.cache)
    written = (data / "genome.fa").read_text().split(">tiny2\n")[1].replace("\n", "")[:60]
    assert decode(store.fetch("tiny2", 0, 60)) == written
    assert decode(store.fetch("tiny2", 0, 60, "-")) == other_strand(written)

    windows = WindowSampler(store, config.data.window, seed=config.seed)
    assert windows.batch(step=0, batch_size=8).shape == (8, 40)
    # Which windows a step reads depends on the seed and the step alone, so a resumed run reads the same ones.
    np.testing.assert_array_equal(windows.batch(5, 8), WindowSampler(store, 40, seed=config.seed).batch(5, 8))


def test_labelled_windows_are_split_once_for_all_arms(yaml):
    config = load_config([str(yaml)])
    windows, splits = load_windows(config.data, config.folder)
    assert dict(zip(*np.unique(windows.strata, return_counts=True))) == {
        f"{site} {label}": 100 for site in ("acceptor", "donor") for label in ("negative", "positive")
    }
    donors = windows.take((windows.sites == "donor") & (windows.labels == 1))
    assert {decode(window) for window in donors.crop(4)} == {"AGGT"}  # exon | intron at the centre

    folds = splits.folds["both"]
    assert len(folds) == FOLDS
    for fold in folds:
        parts = [set(fold[part]) for part in ("train", "val", "test")] + [set(splits.selection)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(windows)  # no window is in two parts
    # Checkpoints are chosen on the selection windows, which no fold trains or tests on.
    assert len(selection_windows(windows, splits)) == len(splits.selection) > 0


# -- 2. Pre-training: contrast, and masked-LM on the same windows as its control ---------------------------------------


def test_contrast_rewards_two_views_of_a_window_that_are_alike():
    torch.manual_seed(0)
    views = torch.randn(8, 16)
    unrelated = info_nce(views, torch.randn(8, 16), temperature=1.0)
    assert info_nce(views, views, temperature=1.0) < unrelated
    same = torch.ones(8, 16)  # an encoder that cannot tell windows apart guesses among 8
    assert info_nce(same, same, temperature=1.0) == pytest.approx(np.log(8))


@pytest.fixture(scope="module")
def pretrained(yaml, folder):
    run(pretrain, yaml)
    return folder / "runs/tiny"


def test_contrast_and_control_start_alike_and_train_for_as_many_steps(pretrained):
    stages = [pretrained / "pretrain", pretrained / "control"]
    contrast, control = [json.loads((stage / "summary.json").read_text()) for stage in stages]
    assert (contrast["objective"], control["objective"]) == ("simcse", "mlm")
    assert contrast["steps"] == control["steps"] == 8
    starts, ends = [
        [(stage / "checkpoints" / name / "model.safetensors").read_bytes() for stage in stages]
        for name in ("start", "last")
    ]
    assert starts[0] == starts[1]
    assert len({starts[0], *ends}) == 3


# -- 3. SCCS: what the encoder knows before any classifier is trained --------------------------------------------------


def sccs_of(checkpoint, yaml):
    """Spearman correlation of 'both windows are sites, or neither is' with the similarity of their vectors."""
    config = load_config([str(yaml)])
    chosen = selection_windows(*load_windows(config.data, config.folder))
    model, pooling, _ = load_backbone(config.model.saved_as(checkpoint))
    vectors = Encoder(model.bert, pooling, batch_size=64).embed(chosen.crop(config.data.context))
    return sccs(vectors, chosen.labels)["sccs"]


def test_sccs_of_a_checkpoint_is_the_one_that_training_recorded(pretrained, yaml):
    summary = json.loads((pretrained / "pretrain/summary.json").read_text())
    measured = sccs_of(pretrained / "pretrain/checkpoints/last", yaml)
    assert measured == pytest.approx(summary["metrics"]["val/sccs"], abs=1e-6)
    assert measured < 0.2  # random bases have taught it next to nothing about splice sites; .866 is the ceiling


# -- 4. Fine-tuning: every arm on the same folds, and the verdict ------------------------------------------------------


@pytest.fixture(scope="module")
def compared(pretrained, yaml):
    run(finetune, yaml)
    return pretrained


def test_all_arms_are_tested_on_the_same_windows_and_keep_their_predictions(compared):
    tables = [pd.read_csv(path) for path in sorted(compared.glob("finetune/*/both/seed0/fold00/predictions.csv"))]
    assert len(tables) == len(SETTINGS["finetune.arms"])
    assert all(table["window"].equals(tables[0]["window"]) for table in tables)

    fold = compared / "finetune/last/both/seed0/fold00"
    predictions, summary = pd.read_csv(fold / "predictions.csv"), json.loads((fold / "summary.json").read_text())
    scores = classification_scores(predictions["label"].to_numpy(), predictions["probability"].to_numpy())
    assert scores["f1"] == pytest.approx(summary["metrics"]["test/f1"], abs=1e-4)


def test_the_floor_is_what_a_weight_matrix_reaches_without_an_encoder(compared, yaml):
    config = load_config([str(yaml)])
    windows, splits = load_windows(config.data, config.folder)
    train, test = [windows.take(splits.folds["both"][0][part]) for part in ("train", "test")]
    matrix = WeightMatrix(config.evaluate.pwm_flank).fit(train.ids, train.labels, train.sites)
    scores = classification_scores(test.labels, matrix.predict(test.ids))
    summary = json.loads((compared / "finetune/pwm/both/seed0/fold00/summary.json").read_text())
    assert summary["metrics"]["test/f1"] == pytest.approx(scores["f1"], abs=1e-4)


def primary_contrast(run_folder):
    """The comparison that decides: the last checkpoint of the contrast with that of its control."""
    contrasts = pd.read_csv(run_folder / "report/contrasts.csv")
    contrast = contrasts[contrasts["primary"]].iloc[0]
    assert (contrast["arm"], contrast["reference"]) == ("last", "control_last")
    return contrast


def verdict(run_folder):
    """What the report begins with."""
    lines = (run_folder / "report/report.md").read_text().splitlines()
    return next(line for line in lines if line.startswith("> ")).lower()


def test_an_encoder_without_an_advantage_is_reported_as_no_difference(compared):
    contrast = primary_contrast(compared)
    assert contrast["low"] < 0 < contrast["high"] and contrast["p"] > 0.05
    assert "no difference" in verdict(compared) and "contrast helped" not in verdict(compared)


# -- 5. Encoders of known worth, trained with the labels of other windows ----------------------------------------------


def train_elsewhere(folder, site, folds):
    """Encoders that have learned one task, 'donor' or 'both', from windows that the experiment does not hold."""
    write_windows(folder / "elsewhere", np.random.default_rng(1), per_class=300)
    settings = {
        "name": site,
        "data.spliceator": str(folder / "elsewhere/spliceator"),
        "data.num_folds": 10,
        "mlm.steps": 0,
        "pretrain.steps": 0,
        "finetune.arms": ["baseline"],
        "finetune.sites": [site],
        "finetune.folds": folds,
        "finetune.batch_size": 16,
        "finetune.max_epochs": 5,
        "finetune.patience": 5,
    }
    config = load_config([str(tiny_config(folder / "elsewhere", folder / "data", settings))])
    run_folds(config, SimpleNamespace(asked=False))
    return [config.folder / f"finetune/baseline/{site}/seed0/fold{fold:02d}/checkpoints/best" for fold in folds]


@pytest.fixture(scope="module")
def novices(data, folder):
    """Two encoders that know donors alone."""
    return train_elsewhere(folder, "donor", [0, 1])


@pytest.fixture(scope="module")
def expert(data, folder):
    """An encoder that knows donors and acceptors."""
    return train_elsewhere(folder, "both", [0])[0]


def test_sccs_tells_the_better_encoder_before_any_fine_tuning(novices, expert, yaml):
    assert sccs_of(expert, yaml) > max(sccs_of(novice, yaml) for novice in novices) + 0.1


@pytest.fixture(scope="module")
def better(pretrained, novices, expert, yaml):
    """A copy of the pre-trained run whose contrastive checkpoint is the expert's; start and control are novices."""
    run_folder = pretrained.with_name("better")
    encoders = {"pretrain/checkpoints/start": novices[0], "pretrain/checkpoints/last": expert}
    encoders |= {"control/checkpoints/last": novices[1]}
    for stage in ("pretrain", "control"):
        shutil.copytree(pretrained / stage, run_folder / stage)
    for checkpoint, encoder in encoders.items():
        shutil.rmtree(run_folder / checkpoint)
        shutil.copytree(encoder, run_folder / checkpoint)
    for stage in ("pretrain", "control"):
        reseal(run_folder / stage)
    run(finetune, yaml, "--name", "better")
    return run_folder


def test_an_encoder_with_an_advantage_is_reported_as_a_gain(better):
    contrast = primary_contrast(better)
    assert 0 < contrast["low"] < contrast["diff"] and contrast["p"] < 0.05
    assert "contrast helped" in verdict(better)

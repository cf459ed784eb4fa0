"""The same claims on real genomes and real windows, where SIMCSP_REAL_DATA names a folder of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertConfig, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.labels.floors import gc_content
from simcsp.labels.spliceator import benchmark_species, load_benchmark, load_training
from simcsp.labels.splits import make_splits
from simcsp.metrics.sccs import sccs
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import N, decode
from simcsp.text.kmers import near_duplicate_groups
from simcsp.text.store import open_store
from simcsp.text.weight_matrix import one_hot

if not os.environ.get("SIMCSP_REAL_DATA"):
    pytest.skip("SIMCSP_REAL_DATA is not set", allow_module_level=True)

REAL = Path(os.environ["SIMCSP_REAL_DATA"])


@pytest.fixture(scope="module")
def windows():
    return load_training(REAL / "spliceator", "GS_1", 400)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return open_store([REAL / "human/genome.fa.gz"], tmp_path_factory.mktemp("genome"))


# -- windows -----------------------------------------------------------------------------------------------------------


def test_the_training_windows_load_with_the_motif_at_the_centre(windows):
    assert windows.ids.shape == (25_600, 600)
    for site, at, motif in (("donor", 300, "GT"), ("acceptor", 298, "AG")):
        here = windows.take(windows.of_site(site))
        assert len(here) == 12_800
        assert here.labels.tolist() == [1] * 6_400 + [0] * 6_400
        found = [decode(pair) == motif for pair in here.ids[:, at : at + 2]]
        assert np.mean(found) > 0.98
    assert decode(windows.crop(400)[0, 200:202]) == decode(windows.ids[0, 300:302])


def test_the_benchmarks_load(windows):
    species = benchmark_species(REAL / "spliceator")
    assert species == ["Human", "Thaliana"]
    for name in species:
        benchmark = load_benchmark(REAL / "spliceator", name, 400)
        assert len(benchmark) == 6_400 and benchmark.labels.mean() == 0.5


def test_about_16_percent_of_the_negatives_have_a_near_duplicate_within_their_type(windows):
    for site in ("donor", "acceptor"):
        ids = windows.crop(400)[(windows.sites == site) & (windows.labels == 0)]
        groups = near_duplicate_groups(ids)
        share = (np.bincount(groups)[groups] > 1).mean()
        assert share == pytest.approx(0.16, abs=0.02)  # .11 on the strand that they are written on


@pytest.mark.slow
def test_grouped_folds_share_no_80_mer(windows):
    splits = make_splits(windows, "grouped", 10, 0.05, 2020)
    fold = splits.folds["both"][0]
    assert sum(map(len, fold.values())) + len(splits.selection) == len(windows)
    assert len(splits.selection) == pytest.approx(0.05 * len(windows), rel=0.2)

    def kmers(index):  # every 80-mer of the windows, packed into 20 bytes
        bases = np.where(windows.ids[index] == N, 0, windows.ids[index] - 6).astype(np.uint8)
        known = np.lib.stride_tricks.sliding_window_view(windows.ids[index] != N, 80, axis=1).all(axis=2)
        packed = sum(bases[:, i : bases.shape[1] - 3 + i] << (2 * i) for i in range(4)).astype(np.uint8)
        places = np.arange(0, 80, 4)[None, None] + np.arange(bases.shape[1] - 79)[None, :, None]
        return set(map(bytes, packed[np.arange(len(index))[:, None, None], places][known]))

    rng = np.random.default_rng(0)  # a sample of what is trained on against all that is tested would take minutes
    train, test = (rng.choice(fold[part], 800, replace=False) for part in ("train", "test"))
    assert not kmers(train) & kmers(test)


def test_gc_content_alone_separates_the_classes_as_recorded(windows):
    for site, expected in (("donor", 0.67), ("acceptor", 0.62)):
        here = windows.take(windows.of_site(site))
        auc = roc_auc_score(here.labels, gc_content(here.ids)[:, 0])
        assert max(auc, 1 - auc) == pytest.approx(expected, abs=0.01)


def test_the_one_hot_floor_of_sccs_is_as_recorded(windows):
    donors = windows.take(windows.of_site("donor"))
    values = [sccs(one_hot(donors.ids, 20), donors.labels, "published", seed)["sccs"] for seed in range(3)]
    assert np.mean(values) == pytest.approx(0.16, abs=0.02)


# -- published configurations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SpliceBERT-human.510nt", "SpliceBERT.1024nt", "SpliceBERT.510nt"])
def test_a_folder_with_a_published_config_loads_with_every_weight(tmp_path, name):
    published = REAL / "splicebert_config" / name
    config = json.loads((published / "config.json").read_text())
    assert config["vocab_size"] == 10 and config["output_hidden_states"]
    torch.manual_seed(0)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    model = BertForMaskedLM(BertConfig(vocab_size=10, **{key: config[key] for key in keys}))
    assert sum(p.numel() for p in model.parameters()) == 19_447_306 + 512 * (config["max_position_embeddings"] - 512)
    for path in published.iterdir():
        (tmp_path / path.name).symlink_to(path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded, pooling, _ = load_backbone(ModelConfig(source=str(tmp_path)), need_mlm_head=True)
    assert pooling == "cls" and not loaded.config.output_hidden_states
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[key]), key

"""Checkpoints as others load them: AutoTokenizer and AutoModel get the same ids and vectors as the project itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fresh
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer, pipeline

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.checksums import sha256_folder
from simcsp.model.encoder import all_hidden_states
from simcsp.model.tokenizer import build_tokenizer, save_tokenizer
from simcsp.text.alphabet import CLS, PAD, SEP, UNK, A, C, G, N, T, add_special_tokens, encode

MODELS = Path(__file__).resolve().parents[2] / "models"
SMALL = MODELS / "simcsp-small"
SHIPPED = sorted(path.parent for path in MODELS.glob("*/tokenizer.json"))
CODES = "ACGTUNRYSWKMBDHV"
CODES += CODES.lower()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SMALL)


@pytest.mark.parametrize("bases", ["ACGTN", "A C G T N", "acgun", "A\tCG\nT N\n"])
def test_bases_get_splicebert_s_ids(tokenizer, bases):
    assert tokenizer(bases)["input_ids"] == [CLS, A, C, G, T, N, SEP]


@given(st.text(CODES, min_size=1, max_size=80))
def test_ids_are_those_of_the_table(bases):
    assert build_tokenizer().encode(bases).ids == add_special_tokens(encode(bases)[None])[0].tolist()


@pytest.mark.parametrize("letter", [chr(code) for code in range(33, 127) if chr(code) not in CODES] + ["é", "К"])
def test_what_is_no_nucleotide_code_is_unknown_where_the_table_raises(letter):
    assert build_tokenizer().encode(f"A{letter}T").ids == [CLS, A, UNK, T, SEP]
    with pytest.raises(InputError):
        encode(f"A{letter}T")


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_shipped_checkpoint_has_the_tokenizer_that_is_written_today(folder, tmp_path):
    save_tokenizer(tmp_path, json.loads((folder / "config.json").read_text())["max_position_embeddings"])
    for path in tmp_path.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert AutoTokenizer.from_pretrained(folder)("ACGTN")["input_ids"] == [CLS, A, C, G, T, N, SEP]


def test_a_saved_checkpoint_gives_the_same_vectors_to_auto_classes(tmp_path):
    model, pooling, _ = fresh(1, max_position_embeddings=42)
    save_checkpoint(model, tmp_path, pooling)
    sequence = "".join(np.random.default_rng(2).choice(list(CODES), 40))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 42

    theirs = AutoModel.from_pretrained(tmp_path).eval()
    ours = load_backbone(ModelConfig(source=str(tmp_path)))[0].eval()
    tokens = torch.from_numpy(add_special_tokens(encode(sequence)[None])).int()
    with torch.no_grad():
        got = theirs(**tokenizer(sequence, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = all_hidden_states(ours.bert, tokens)
    for layer, states in enumerate(expected):
        assert torch.equal(got[layer], states)


def test_a_padded_batch_gives_each_window_its_own_vectors(tokenizer):
    windows = ["ACGTACGTAC", "acgu", "N" * 126]
    batch = tokenizer(windows, padding=True, return_tensors="pt", return_token_type_ids=True)
    assert batch["input_ids"].shape == (3, 128)
    assert batch["input_ids"][1].tolist() == [CLS, A, C, G, T, SEP] + [PAD] * 122
    assert batch["attention_mask"].sum(1).tolist() == [12, 6, 128]
    model = AutoModel.from_pretrained(SMALL).eval()
    with torch.no_grad():
        together = model(**batch).last_hidden_state
        for row, window in enumerate(windows):
            alone = model(**tokenizer(window, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


def test_longer_input_is_cut_to_the_model_s_positions(tokenizer):
    ids = tokenizer("A" * 300, truncation=True)["input_ids"]
    assert len(ids) == 256 and ids[-1] == SEP


def test_decoding_gives_the_bases_back(tokenizer):
    assert tokenizer.decode(tokenizer("acgun")["input_ids"], skip_special_tokens=True) == "ACGTN"


def test_a_masked_base_is_filled_with_a_base():
    guesses = pipeline("fill-mask", model=str(SMALL))("ACGTTGCAGGTAAGT[MASK]CCTTGACT")
    assert guesses[0]["token_str"] in "ACGT" and guesses[0]["score"] > 0.25
    assert len(guesses[0]["sequence"]) == 24


# -- runs begun from a checkpoint before it had a tokenizer ------------------------------------------------------------


def test_a_tokenizer_of_ours_leaves_the_hash_of_a_checkpoint_as_it_was(tmp_path):
    for path in SMALL.iterdir():
        if not path.name.startswith("tokenizer"):
            shutil.copy(path, tmp_path)
    before = sha256_folder(tmp_path)
    save_tokenizer(tmp_path, 128)
    assert sha256_folder(tmp_path) == before
    (tmp_path / "config.json").write_text("{}")
    assert sha256_folder(tmp_path) != before


def test_the_tokenizer_of_another_s_checkpoint_counts(tmp_path):
    hashes = []
    for settings in ("{}", '{"do_lower_case": true}'):
        (tmp_path / "tokenizer_config.json").write_text(settings)
        hashes.append(sha256_folder(tmp_path))
    assert hashes[0] != hashes[1]

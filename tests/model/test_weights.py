"""Weights from elsewhere: SpliceBERT's folders, multimolecule's layout, hub ids, and files that are no weights."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from conftest import SMALL, random_bases
from safetensors.torch import save_file
from standins import SHARED, Answering, change_weights, refused, serving, splicebert, without, write_zenodo, zeros
from torch import nn

from simcsp.core.config import ModelConfig
from simcsp.model.checkpoint import _snapshot, load_backbone, resolve_source, save_checkpoint
from simcsp.model.layouts import MULTIMOLECULE_ROWS, MULTIMOLECULE_VOCAB, convert_multimolecule
from simcsp.text.alphabet import VOCAB, add_special_tokens, encode

LM_HEAD = {"act": None, "bias": True, "dropout": 0.0, "hidden_size": 512, "layer_norm_eps": 1e-12}
LM_HEAD |= {"transform": "nonlinear", "transform_act": "gelu"}
MULTIMOLECULE_CONFIG = SHARED | {"architectures": ["SpliceBertForPreTraining"], "model_type": "splicebert"}
MULTIMOLECULE_CONFIG |= {"attention_dropout": 0.1, "hidden_dropout": 0.1, "lm_head": LM_HEAD}
MULTIMOLECULE_CONFIG |= {f"{role}_token_id": i for i, role in enumerate(("bos", "eos", "unk", "mask", "null"), 1)}
THEIR_WORDS = "model.embeddings.word_embeddings.weight"
# multimolecule's id of each of our tokens, written out by hand
THEIR_ID = {"[PAD]": 0, "[UNK]": 3, "[CLS]": 1, "[SEP]": 2, "[MASK]": 4, "N": 10, "A": 6, "C": 7, "G": 8, "T": 9}


def write_multimolecule(folder, model, rows=26, prefix="model.", file="model.safetensors", **changes):
    """multimolecule's layout of a model: its names, its order of the tokens, and random rows for the others."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for key, value in model.state_dict().items():
        name = key.replace("LayerNorm", "layer_norm").replace("cls.predictions.", "lm_head.").replace("bert.", prefix)
        if "word_embeddings" in key or "decoder" in key or key == "cls.predictions.bias":
            theirs = torch.randn(rows, *value.shape[1:])
            for ours, token in enumerate(VOCAB):
                theirs[THEIR_ID[token]] = value[ours]
            value = theirs
        weights[name] = value.clone()
    # tied: one tensor of random rows in both places
    weights["lm_head.decoder.weight"] = weights[f"{prefix}embeddings.word_embeddings.weight"].clone()
    weights["lm_head.decoder.bias"] = weights["lm_head.bias"].clone()
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
    save_file(weights, folder / file) if file.endswith("safetensors") else torch.save(weights, folder / file)
    sizes = {key: getattr(model.config, key) for key in SMALL}
    (folder / "config.json").write_text(json.dumps(MULTIMOLECULE_CONFIG | sizes | {"vocab_size": rows} | changes))
    others = [f"<other{i}>" for i in range(rows - len(MULTIMOLECULE_VOCAB))]
    (folder / "vocab.txt").write_text("\n".join([*MULTIMOLECULE_VOCAB, *others]) + "\n")
    return folder


def load(folder, **changes):
    model, _, remarks = load_backbone(ModelConfig(source=str(folder), **changes), need_mlm_head=True)
    return model.eval(), remarks


def tokens(n=2, length=60):
    """Windows with lower case and N, between [CLS] and [SEP], a base masked in each: [n, 1 + length + 1]."""
    rng = np.random.default_rng(0)
    ids = add_special_tokens(np.stack([encode(random_bases(rng, length - 3) + "nNt") for _ in range(n)]))
    ids[:, 7] = VOCAB.index("[MASK]")
    return torch.from_numpy(ids).int()


def assert_same(model, original, length=60):
    """Every weight bit for bit; every layer's states and the logits as the original gives them."""
    weights, expected = model.state_dict(), original.state_dict()
    assert weights.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(weight, weights[key]), key
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    batch = tokens(length=length)
    with torch.no_grad():
        ours, theirs = (each(input_ids=batch, output_hidden_states=True) for each in (model, original))
    for state, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=2e-6)
    assert torch.equal(ours.logits, theirs.logits)


# -- both layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["model.", "splicebert."])
@pytest.mark.parametrize("rows", [26, 28])
def test_every_form_of_the_port_gives_back_the_model(tmp_path, rows, prefix, file):
    original = splicebert()
    assert_same(load(write_multimolecule(tmp_path, original, rows, prefix, file))[0], original)


@pytest.mark.parametrize("write", [write_zenodo, write_multimolecule])
def test_what_is_loaded_is_saved_as_a_plain_folder(tmp_path, write):
    original = splicebert()
    save_checkpoint(load(write(tmp_path / "source", original))[0], tmp_path / "ours", "mean")
    model, remarks = load(tmp_path / "ours")
    assert_same(model, original)
    assert remarks == [f"weights from {tmp_path / 'ours'}"]
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["model_type"] == "bert" and config["vocab_size"] == 10 and config["pooling"] == "mean"
    assert config["architectures"] == ["BertForMaskedLM"] and "output_hidden_states" not in config  # off by default


@pytest.mark.parametrize("write, rates", [(write_zenodo, ("hidden_dropout_prob", "attention_probs_dropout_prob")),
                                          (write_multimolecule, ("hidden_dropout", "attention_dropout"))])  # fmt: skip
def test_settings_that_change_vectors_come_over(tmp_path, write, rates):
    original = splicebert(layer_norm_eps=1e-3, hidden_act="relu")
    changes = {"layer_norm_eps": 1e-3, "hidden_act": "relu", rates[0]: 0.25, rates[1]: 0.5}
    if write is write_multimolecule:
        changes["lm_head"] = LM_HEAD | {"layer_norm_eps": 1e-3, "transform_act": "relu"}
    model, remarks = load(write(tmp_path, original, **changes))
    assert_same(model, original)
    assert model.config.layer_norm_eps == 1e-3
    assert model.config.pad_token_id == 0 and model.config.type_vocab_size == 2
    # our config's rates apply to every checkpoint; the checkpoint's own were read, and the change is said
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1
    assert remarks[-2:] == [
        "hidden_dropout_prob changed from the checkpoint's 0.25 to 0.1",
        "attention_probs_dropout_prob changed from the checkpoint's 0.5 to 0.1",
    ]
    model, remarks = load(tmp_path, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5)
    assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.25, 0.5)
    assert {part.p for part in model.modules() if isinstance(part, nn.Dropout)} == {0.25, 0.5}
    assert not any("changed" in remark for remark in remarks)


def test_safetensors_is_preferred_and_a_damaged_one_is_not_passed_over(tmp_path):
    original = splicebert()
    write_zenodo(tmp_path, splicebert(seed=2))
    weights = {key: value.clone() for key, value in original.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    assert_same(load(tmp_path)[0], original)
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "model.safetensors is empty")


def test_loading_draws_nothing_from_the_generator(tmp_path):
    write_multimolecule(tmp_path, splicebert())
    before = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# -- the order of the tokens -------------------------------------------------------------------------------------------


def test_each_of_our_tokens_takes_the_row_of_its_own():
    assert MULTIMOLECULE_ROWS == [0, 3, 1, 2, 4, 10, 6, 7, 8, 9] == [THEIR_ID[token] for token in VOCAB]
    numbered = torch.arange(26.0)
    weights = {
        THEIR_WORDS: numbered[:, None].repeat(1, 4),
        "lm_head.decoder.weight": numbered[:, None].repeat(1, 4),
        "lm_head.decoder.bias": numbered,
        "lm_head.bias": numbered,
        "model.embeddings.layer_norm.bias": torch.arange(26.0),  # as long as the vocabulary by chance: left alone
    }
    converted = convert_multimolecule(weights, "model.", Path("model.safetensors"))
    assert torch.equal(converted.pop("bert.embeddings.LayerNorm.bias"), numbered)
    head = {f"cls.predictions.{name}" for name in ("decoder.weight", "decoder.bias", "bias")}
    assert converted.keys() == head | {"bert.embeddings.word_embeddings.weight"}
    for value in converted.values():
        rows = value if value.ndim == 1 else value[:, 0]
        assert {token: int(row) for token, row in zip(VOCAB, rows, strict=True)} == THEIR_ID


def test_a_head_in_another_order_than_the_embedding_is_said(tmp_path):
    write_multimolecule(tmp_path, splicebert(), file="pytorch_model.bin")
    weights = torch.load(tmp_path / "pytorch_model.bin")
    weights["lm_head.decoder.weight"] = weights["lm_head.decoder.weight"][[0, 2, 1, *range(3, 26)]]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert any("decoder differs from the word embedding" in remark for remark in load(tmp_path)[1])


def swapped(vocabulary, one, other):
    tokens = list(vocabulary)
    i, j = tokens.index(one), tokens.index(other)
    tokens[i], tokens[j] = tokens[j], tokens[i]
    return tokens


def write_tokens(folder, file, tokens):
    """Tokens in this order, as one of a tokenizer's files records them."""
    ids = {token: i for i, token in enumerate(tokens)}
    content = {
        "vocab.txt": "\n".join(tokens),
        "tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "WordPiece", "vocab": ids}}),
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": {i: {"content": t} for t, i in ids.items()}}),
    }
    (folder / file).write_text(content[file])


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_files_that_contradict_the_order_are_refused(tmp_path, file):
    port = write_multimolecule(tmp_path / "port", splicebert())
    write_tokens(port, file, MULTIMOLECULE_VOCAB)
    load(port)
    write_tokens(port, file, swapped(MULTIMOLECULE_VOCAB, "<cls>", "<eos>"))
    refused(port, rf"port/{file}: the tokens are not multimolecule's .*<cls> has id 2, expected 1")
    plain = write_zenodo(tmp_path / "plain", splicebert())
    write_tokens(plain, file, VOCAB)
    load(plain)
    write_tokens(plain, file, swapped(VOCAB, "[UNK]", "[CLS]"))
    refused(plain, rf"plain/{file}: the tokens are not SpliceBERT's .*\[UNK\] has id 2, expected 1")


def test_token_ids_of_the_port_s_config_are_compared_too(tmp_path):
    write_multimolecule(tmp_path, splicebert(), bos_token_id=2, eos_token_id=3, unk_token_id=1)
    refused(tmp_path, "config.json: the tokens are not multimolecule's .*<cls> has id 2")
    write_multimolecule(tmp_path, splicebert(), null_token_id=None)  # not said is not wrong
    load(tmp_path)


def test_a_vocabulary_that_lacks_a_token_or_a_layout_is_refused(tmp_path):
    write_multimolecule(tmp_path, splicebert())
    (tmp_path / "vocab.txt").write_text("\n".join(MULTIMOLECULE_VOCAB[:-1]))
    refused(tmp_path, "vocab.txt.*N has id None, expected 10")
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer.json").write_text('{"model": []}')
    refused(tmp_path, "tokenizer.json is not laid out")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
def test_line_ends_of_another_system_are_fine(tmp_path, start):
    original = splicebert()
    write_zenodo(tmp_path, original)
    (tmp_path / "vocab.txt").write_bytes(start + "\r\n".join(VOCAB).encode() + b"\r\n")
    assert_same(load(tmp_path)[0], original)


# -- layouts that do not add up ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (without("model.encoder.layer.0.output.layer_norm.bias"), "1 keys missing .*0.output.LayerNorm.bias"),
        (zeros("ss_head.decoder.weight", 2, 16), "1 unexpected .*ss_head"),
        (zeros("lm_head.transform.dense.bias", 7), "1 of another shape .*transform.dense"),
        (zeros("lm_head.bias", 10), r"lm_head.bias is of shape \(10,\), expected .* 26 rows"),
        (zeros("lm_head.decoder.weight", 28, 16), "decoder.weight is of shape .* 26 rows"),
        (zeros(THEIR_WORDS, 27, 16), "has 27 rows, expected SpliceBERT's 10 .* 26 or 28"),
        (zeros(THEIR_WORDS, 28, 16), "has 28 rows, but config.json beside it gives a vocabulary of 26 rows"),
        (without(THEIR_WORDS), "holds 0 word embeddings"),
        (zeros("x.embeddings.word_embeddings.weight", 10, 16), "holds 2 word embeddings"),
        (lambda w: w["model.encoder.layer.1.output.dense.weight"][3].fill_(float("nan")), "NaN or infinity .*layer.1"),
    ],
)
def test_weights_of_the_port_that_do_not_fit_are_refused(tmp_path, change, message):
    write_multimolecule(tmp_path, splicebert(), file="pytorch_model.bin")
    change_weights(tmp_path, change)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "bert"}, "26 rows, as only model_type 'splicebert' has, but config.json beside it says 'bert'"),
        ({"model_type": "rnabert"}, "model_type is 'rnabert'"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'"),
        ({"lm_head": {"layer_norm_eps": 1e-5}}, "lm_head.layer_norm_eps is 1e-05"),
        ({"lm_head": {"transform_act": "relu"}}, "lm_head.transform_act is 'relu'"),
    ],
)
def test_a_config_of_the_port_that_bert_cannot_follow_is_refused(tmp_path, changes, message):
    write_multimolecule(tmp_path, splicebert(), **changes)
    refused(tmp_path, message)


def test_a_config_of_the_port_must_say_what_changes_vectors(tmp_path):
    write_multimolecule(tmp_path, splicebert())
    values = json.loads((tmp_path / "config.json").read_text())
    del values["layer_norm_eps"], values["attention_dropout"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    refused(tmp_path, "config.json lacks layer_norm_eps, attention_dropout")


# -- files that are no weights -----------------------------------------------------------------------------------------


class Hostile:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb\nsize 778\n"


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors", "config.json", "vocab.txt"])
@pytest.mark.parametrize(
    "content, message",
    [
        (POINTER, "is a Git LFS pointer, not the file"),
        (b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "is a web page"),
        (b"<HTML><body>Sign in to go on", "is a web page"),
        (b"", "is empty"),
    ],
    ids=["pointer", "page", "page in capitals", "empty"],
)
def test_stand_ins_are_named(tmp_path, file, content, message):
    write_zenodo(tmp_path, splicebert())
    (tmp_path / file).write_bytes(content)
    refused(tmp_path, rf"{tmp_path}/{file} {message}")


@pytest.mark.parametrize("left", [2, 8, 9000, -1])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_file_cut_short_is_named_wherever_it_ends(tmp_path, file, left):
    write_multimolecule(tmp_path, splicebert(), file=file)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:left])
    refused(tmp_path, rf"{file} is cut short at {path.stat().st_size} bytes")


@pytest.mark.parametrize("left", [600, -300])
def test_a_file_in_pytorch_s_old_format_is_read_and_its_cut_is_named(tmp_path, left):
    original = splicebert()
    path = write_zenodo(tmp_path, original) / "pytorch_model.bin"
    torch.save(original.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same(load(tmp_path)[0], original)
    path.write_bytes(path.read_bytes()[:left])
    refused(tmp_path, "is cut short")


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("pytorch_model.bin", b'{"error": "Repository not found"}', "is not a weight file"),
        ("model.safetensors", b'{"error": "Repository not found"}', "cannot be read as weights"),
        ("model.safetensors", (16).to_bytes(8, "little") + b"not json at all!", "cannot be read as weights"),
    ],
)
def test_other_content_is_refused(tmp_path, file, content, message):
    write_zenodo(tmp_path, splicebert())
    (tmp_path / file).write_bytes(content)
    refused(tmp_path, rf"{file} {message}")


@pytest.mark.parametrize("save", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))])
def test_code_in_a_weight_file_is_not_run(tmp_path, recwarn, save):
    write_zenodo(tmp_path, splicebert())
    save({"bert.weight": torch.zeros(2), "x": Hostile(tmp_path / "was here")}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "holds Python objects.* could run code: it is not loaded")
    assert not (tmp_path / "was here").exists()
    assert not recwarn.list


def test_a_whole_model_and_a_list_are_no_weights(tmp_path):
    model = splicebert()
    write_zenodo(tmp_path, model)
    torch.save(model, tmp_path / "pytorch_model.bin")
    refused(tmp_path, r"holds Python objects \(transformers.models.bert.modeling_bert.BertForMaskedLM\)")
    for content in ([torch.zeros(3)], {0: torch.zeros(3)}, {"state_dict": model.state_dict()}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        refused(tmp_path, "holds no table of tensors by name")


# -- hub ids -----------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Answering):
    """Enough of the hub for one repository, tests/stand-in, with the files of `folder` at `COMMIT` and branch main."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        if path.removesuffix(f"/revision/{COMMIT}").removesuffix("/revision/main") == "/api/models/tests/stand-in":
            self.answer(json.dumps({"id": "tests/stand-in", "sha": COMMIT}).encode())
        elif path == f"/api/models/tests/stand-in/tree/{COMMIT}":
            paths = sorted(self.folder.iterdir())
            files = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": hash_of(f)} for f in paths]
            self.answer(json.dumps(files).encode())
        elif path.startswith(f"/tests/stand-in/resolve/{COMMIT}/"):
            file = self.folder / path.rpartition("/")[2]
            self.answer(file.read_bytes(), {"ETag": f'"{hash_of(file)}"', "X-Repo-Commit": COMMIT})
        else:
            kind = "RevisionNotFound" if "/tests/stand-in/" in path else "RepoNotFound"
            self.answer(b"{}", {"X-Error-Code": kind}, status=404)


def hash_of(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in's handler: fill hub.folder, then load `tests/stand-in`; hub.asked lists the requests."""
    _snapshot.cache_clear()
    handler = type("Handler", (Hub,), {"folder": tmp_path / "served", "asked": []})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.chdir(tmp_path)
    with serving(handler, monkeypatch) as server:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield handler
    _snapshot.cache_clear()


def test_a_hub_id_is_fetched_once_and_then_a_folder_like_any_other(hub, tmp_path):
    original = splicebert()
    write_multimolecule(hub.folder, original)
    (hub.folder / "pytorch_model.bin").write_bytes(b"the same weights once more, not wanted")
    (hub.folder / "README.md").write_text("not wanted either")
    folder = resolve_source("tests/stand-in")
    assert folder.name == COMMIT and folder.is_relative_to(tmp_path / "hub-cache")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}
    before = len(hub.asked)
    model, remarks = load("tests/stand-in")
    assert_same(model, original)
    assert remarks[0] == f"weights from tests/stand-in, commit {COMMIT}"
    assert len(hub.asked) == before


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"], ids=["none", "branch", "commit"])
def test_a_hub_id_with_the_older_file_and_a_revision(hub, revision):
    original = splicebert()
    write_zenodo(hub.folder, original)
    assert_same(load(f"tests/stand-in{revision}")[0], original)


def test_a_snapshot_in_the_cache_needs_no_connection(hub, monkeypatch):
    original = splicebert()
    write_zenodo(hub.folder, original)
    resolve_source("tests/stand-in")
    _snapshot.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert_same(load("tests/stand-in")[0], original)


@pytest.mark.parametrize("source", ["tests/there-is-none", "tests/stand-in@no-such-branch", "a/--b"])
def test_a_hub_id_that_is_not_there_is_refused(hub, source):
    write_zenodo(hub.folder, splicebert())
    refused(source, "is not a local folder and cannot be downloaded from the hub .*give their folder")


def test_a_hub_id_without_a_connection_is_refused(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("tests/stand-in", "cannot be downloaded from the hub .*onnect")


def test_a_local_folder_of_the_same_name_comes_first(hub, tmp_path):
    write_zenodo(tmp_path / "tests/stand-in", splicebert())
    assert resolve_source("tests/stand-in") == Path("tests/stand-in")
    load("tests/stand-in")
    assert hub.asked == []


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing", "/nowhere", "one-word", "owner/name@", "../up"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(source):
    refused(source, "neither a folder nor a hub id")


def test_a_file_is_no_folder(tmp_path):
    refused(write_zenodo(tmp_path, splicebert()) / "pytorch_model.bin", "neither a folder nor a hub id")

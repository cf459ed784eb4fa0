"""Model cards, and their upload to a stand-in of the hub's HTTP interface on this machine."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, refusal, summary_of
from huggingface_hub import ModelCard
from standins import Answering, serving
from test_plain import LENGTH, encoder, masked_lm

import evaluate
from simcsp.model.bases import BaseClassifier, Shape, save_bases
from simcsp.model.card import license_of, write_card
from simcsp.model.checkpoint import save_checkpoint
from simcsp.model.checksums import sha256_folder
from simcsp.model.classifier import Classifier, save_classifier

BOXED = ["simcsp-tiny", "simcsp-small", "simcsp-small-bases", "simcsp-small-bases-fast"]
CHANNELS = {"token-classification": 0, "convolutions": 4}
POOLING = {"text-classification": "cls", "two bases": "centre"}


def saved(kind, folder):
    folder.mkdir()
    if kind == "fill-mask":
        save_checkpoint(masked_lm(LENGTH + 2), folder, "mean")
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
    metrics = summary_of(best[0].parents[1])["metrics"]
    card = ModelCard.load(best[0] / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["f1"] == round(metrics["test/f1"], 4) and measured["roc_auc"] == round(metrics["test/auc"], 4)


# -- the hub -----------------------------------------------------------------------------------------------------------


class Hub(Answering):
    """As much of the hub as an upload of small files asks for. The server holds `files`, `calls` and `refuse`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        hub.calls.append((self.path, self.headers.get("Authorization")))
        if hub.refuse:
            return self.tell({"error": "Invalid username or password."}, hub.refuse)
        if self.path == "/api/repos/create":
            hub.created = json.loads(body)
            return self.tell({"url": f"{hub.address}/{hub.created['organization']}/{hub.created['name']}"})
        if self.path == "/api/validate-yaml":
            hub.validated = json.loads(body)["content"]
            return self.tell({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.tell({"files": [{"path": file["path"]} | how for file in json.loads(body)["files"]]})
        assert "/commit/" in self.path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self.tell({"commitUrl": f"{hub.address}/me/m/commit/abc", "commitOid": "abc", "success": True})

    def do_GET(self):
        about = {"id": "me/m", "siblings": [], "sha": "abc", "tags": [], "downloads": 0, "likes": 0}
        self.tell(about | {"private": self.server.private})

    def tell(self, value, status=200):
        self.answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub.hf_api  # noqa: F401  before its endpoint is changed

    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with serving(Hub, monkeypatch) as server:
        server.files, server.calls, server.refuse, server.private = {}, [], None, True
        yield server


def test_push_uploads_a_checkpoint_with_its_card_and_nothing_else(hub, tmp_path, call, capsys):
    folder = saved("token-classification", tmp_path / "m")
    write_card(folder, "m", None, {}, "nothing", {})
    (folder / "optimizer.pt").write_bytes(b"x")
    call(evaluate, "push", folder, "me/m")
    *shown, address = capsys.readouterr().out.splitlines()
    assert address == f"{hub.address}/me/m/commit/abc"
    assert hub.created["name"] == "m" and hub.created["organization"] == "me"
    assert hub.created["visibility"] == "private"
    names = {"README.md", "bases.json", "checksums.json", "config.json", "model.safetensors", "tokenizer.json"}
    assert set(hub.files) == names | {"tokenizer_config.json"}
    assert [line.split("  ")[0] for line in shown] == sorted(str(folder / name) for name in hub.files)
    assert all(hub.files[name] == (folder / name).read_bytes() for name in hub.files)
    assert all(token == "Bearer hf_test" for _, token in hub.calls)
    hub.refuse = 401
    assert f"me/m cannot be uploaded to {hub.address} (" in refusal(call, capsys, evaluate, "push", folder, "me/m")


def test_push_is_public_only_where_that_is_asked_for_and_asks_at_a_terminal(hub, tmp_path, call, capsys, monkeypatch):
    folder = saved("token-classification", tmp_path / "m")
    write_card(folder, "m", None, {}, "nothing", {})
    hub.private = False
    assert "me/m is public: say --public" in refusal(call, capsys, evaluate, "push", folder, "me/m")
    assert not hub.files
    call(evaluate, "push", folder, "me/m", "--public")
    assert hub.created["visibility"] == "public" and hub.files
    hub.files.clear()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda asked, answer=answer: answer)
        assert "nothing was uploaded" in refusal(call, capsys, evaluate, "push", folder, "me/m", "--public")
    assert not hub.files


def test_push_refuses_what_is_no_checkpoint_or_has_no_licence(tmp_path, call, capsys):
    assert "nowhere does not exist" in refusal(call, capsys, evaluate, "push", "nowhere", "me/m")
    assert "has no weights" in refusal(call, capsys, evaluate, "push", tmp_path, "me/m")
    folder = saved("text-classification", tmp_path / "m")
    assert "not a model card with a licence" in refusal(call, capsys, evaluate, "push", folder, "me/m")
    assert "push: " in refusal(call, capsys, evaluate, "push", folder)
    write_card(folder, "m", None, {}, "nothing", {})
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"x")
    assert "does not match its" in refusal(call, capsys, evaluate, "push", folder, "me/m")

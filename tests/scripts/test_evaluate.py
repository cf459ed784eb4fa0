"""evaluate.py on a finished experiment: the same numbers again, from checkpoints, and the report."""

import dataclasses
import shutil

import pandas as pd
import pytest
import torch
from conftest import FOLDS, motif_settings, refusal, tiny_config

import evaluate
import pretrain
from simcsp.core.files import read_json, write_json
from simcsp.metrics.scores import classification_scores
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from utils.arguments import load_config


def table_of(text):
    """{first words of a row: {column: value}} of evaluate.py's aligned tables; empty cells are left out."""
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith(" ") and line.strip())
    rows = {}
    for line in lines[lines.index(head) + 1 :]:
        cells = line.split()
        numbers = [cell for cell in cells if cell.lstrip("-").replace(".", "", 1).isdigit() and "." in cell]
        if numbers:
            rows[" ".join(cells[: len(cells) - len(numbers)])] = dict(zip(head.split(), map(float, numbers)))
    return rows


def test_sccs_of_a_run_is_what_pretraining_logged(finished, call, capsys):
    call(evaluate, "sccs", finished.run)
    rows = table_of(capsys.readouterr().out)
    assert {"baseline", "best_sccs", "last", "fresh", "one_hot_10", "gc"} <= set(rows)
    table = pd.read_csv(finished.run / "report/summary.csv")
    logged = table[table["metric"] == "val/sccs"].set_index("arm")["mean"]
    for arm in ("baseline", "best_sccs", "last", "fresh", "one_hot_10", "gc"):
        assert rows[arm]["sccs"] == pytest.approx(logged[arm], abs=1e-3), arm


def test_sccs_of_a_finetuned_fold_and_of_a_bare_checkpoint(finished, call, capsys, tmp_path):
    fold = finished.run / "finetune/baseline/both/seed0/fold00"
    call(evaluate, "sccs", fold)
    inside = table_of(capsys.readouterr().out)[str(fold)]
    elsewhere = shutil.copytree(fold / "checkpoints/best", tmp_path / "model")
    call(evaluate, "sccs", elsewhere, finished.config)
    assert table_of(capsys.readouterr().out)[str(elsewhere)] == inside


def test_measuring_an_encoder_leaves_its_folder_without_splits(finished, own_run, call, capsys):
    shutil.rmtree(own_run / "splits")
    call(evaluate, "sccs", finished.run / "pretrain/checkpoints/start")
    known = capsys.readouterr().out.split()
    call(evaluate, "sccs", own_run / "pretrain/checkpoints/start")
    assert capsys.readouterr().out.replace(str(own_run), str(finished.run)).split() == known
    assert not (own_run / "splits").exists()


def test_the_table_of_layers_agrees_with_sccs_and_nmi_layer_by_layer(finished, tiny_data, call, capsys, tmp_path):
    config = tiny_config(tmp_path, tiny_data, motif_settings(tiny_data))
    checkpoint = finished.run / "pretrain/checkpoints/last"
    call(evaluate, "layers", checkpoint, config)
    out = capsys.readouterr().out
    assert " selection windows of 20 nt, NMI of 40 motif sites" in out
    rows = table_of(out)
    of_encoder = {f"layer {i} {kind}" for i in (0, 1, 2) for kind in ("cls", "mean", "centre")} - {"layer 0 cls"}
    assert set(rows) == of_encoder | {f"fresh {name}" for name in of_encoder} | {"one_hot_10", "gc"}
    call(evaluate, "sccs", checkpoint, config)
    sccs = table_of(capsys.readouterr().out)  # of the checkpoint's own pooling: the mean of its last layer
    assert rows["layer 2 mean"]["sccs"] == sccs[str(checkpoint)]["sccs"]
    for name, row in (("fresh layer 2 mean", "fresh"), ("one_hot_10", "one_hot_10"), ("gc", "gc")):
        assert rows[name]["sccs"] == sccs[row]["sccs"]
    for layer in (0, 1, 2):
        call(evaluate, "nmi", checkpoint, config, "--evaluate.nmi_layer", layer)
        nmi = table_of(capsys.readouterr().out)
        assert rows[f"layer {layer} centre"]["nmi"] == nmi[str(checkpoint)]["nmi"]
        assert rows[f"fresh layer {layer} centre"]["nmi"] == nmi["fresh"]["nmi"]
        assert rows["one_hot_10"]["nmi"] == nmi["one_hot_10"]["nmi"]
    assert all(0 <= row["probe_auc"] <= 1 and -1 <= row["sccs"] <= 1 for row in rows.values())
    # the data's consensus is at the centre of every site, so who sees the bases there can tell
    assert rows["one_hot_10"]["probe_auc"] > 0.9 > rows["gc"]["probe_auc"]


def test_the_table_of_layers_of_a_run_has_every_checkpoint_that_arms_name(finished, call, capsys):
    call(evaluate, "layers", finished.run)
    out = capsys.readouterr().out
    rows = table_of(out)
    assert "no motif sites" in out and not any("nmi" in row for row in rows.values())
    assert {f"{arm} layer 1 mean" for arm in ("baseline", "best_sccs", "last", "fresh")} <= set(rows)
    assert len(rows) == 4 * 8 + 2


def test_the_table_of_layers_shows_a_learned_mix(tiny_data, call, capsys, tmp_path):
    config = tiny_config(tmp_path, tiny_data, motif_settings(tiny_data))
    torch.manual_seed(0)
    sizes = dataclasses.replace(load_config([str(config)]).model, pooling_layer="mix")
    model, pooling, _ = load_backbone(sizes)
    with torch.no_grad():
        model.bert.layer_mix.copy_(torch.tensor([0.0, 0.0, 2.0]))
    save_checkpoint(model, tmp_path / "mixed", pooling)
    call(evaluate, "layers", tmp_path / "mixed", config)
    lines = {line[:24].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    weights = [float(lines[f"layer {i} mean"][-1]) for i in range(3)]
    assert weights == pytest.approx(torch.tensor([0.0, 0.0, 2.0]).softmax(0).tolist(), abs=1e-4)
    call(evaluate, "sccs", tmp_path / "mixed", config)
    own = table_of(capsys.readouterr().out)[str(tmp_path / "mixed")]["sccs"]
    assert float(lines["mix mean"][2]) == pytest.approx(own, abs=2e-4)
    assert len(lines["mix centre"]) == 5  # sccs, probe_auc and nmi


def test_classify_repeats_the_recorded_test_scores(finished, call, capsys):
    call(evaluate, "classify", finished.run / "finetune/baseline")
    out = capsys.readouterr().out
    rows = table_of(out)
    assert len(rows) == FOLDS
    for k in range(FOLDS):
        recorded = pd.read_csv(finished.run / f"finetune/baseline/both/seed0/fold0{k}/predictions.csv")
        scores = classification_scores(recorded["label"].to_numpy(), recorded["probability"].to_numpy())
        assert rows[f"baseline both seed 0 fold 0{k}"]["auc"] == pytest.approx(scores["auc"], abs=1e-4)
    assert float(out.rsplit(":", 1)[1]) < 1e-5


def test_the_report_says_that_the_data_are_synthetic_and_shows_its_figures(finished):
    text = (finished.run / "report/report.md").read_text()
    assert "Synthetic data" in text and "Synthetic data" in finished.finetune.stdout
    for name in ("f1", "proxies"):
        assert f"({name}.png)" in text
        assert (finished.run / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished.run / "report").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "words, part",
    [
        (["bake", "x"], "unknown command"),
        (["sccs"], "needs a run folder"),
        (["sccs", "nowhere"], "does not exist"),
        (["sccs", "."], "is not in a run folder"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, part, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in refusal(call, capsys, evaluate, *words)


def test_an_encoder_cannot_classify(finished, call, capsys):
    assert "no finished classifier" in refusal(call, capsys, evaluate, "classify", finished.run / "pretrain")


def test_folds_of_different_windows_are_not_paired(own_run, call, capsys):
    env = own_run / "finetune/fresh/both/seed0/fold01/env.json"
    values = read_json(env)
    write_json(env, values | {"inputs": values["inputs"] | {"spliceator": "0" * 64}})
    line = refusal(call, capsys, evaluate, "report", own_run)
    assert "different windows" in line and "fold01" in line


def test_the_length_of_motif_windows_does_not_matter_where_there_are_no_motif_sites(
    finished, tiny_data, tmp_path, call, capsys
):
    too_long = ("--data.motif_window", 510)  # for the tiny encoder of 64 tokens
    call(evaluate, "sccs", finished.run, *too_long)
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.steps": 1, "pretrain.warmup_steps": 0})
    call(pretrain, config, "--model.source", finished.run / "pretrain/checkpoints/last", *too_long)
    assert (tmp_path / "runs/tiny/pretrain/summary.json").is_file()

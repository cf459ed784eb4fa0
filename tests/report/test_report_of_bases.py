"""The report of finetune.task bases: verdict, table and page from the summaries of its folds."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import refusal, write_fasta
from made_runs import make_run

import evaluate
from simcsp.core.files import write_json, write_text
from simcsp.core.run_layout import FitKey, stage_name
from simcsp.metrics.scores import corrected_ttest
from simcsp.report.bases import HOW_TO_READ

LENGTHS, FOLDS, SEEDS = {"a": 400, "b": 500, "c": 600, "d": 900}, 3, (0, 1, 2)
ARMS = {"cnn": None, "baseline": None, "last": SEEDS, "control_last": SEEDS}
KEYS = [f"{key}{kind}" for key in ("ap", "recall", "topk") for kind in ("", "_donor", "_acceptor")]


@pytest.fixture
def run(tmp_path):
    return run_of_bases(tmp_path, "x")


def run_of_bases(tmp_path, name, seeds=SEEDS, lr=1e-3):
    """A run folder with the summaries of three folds of every arm, and {(arm, pretrain seed, fold): AP of donors}.
    Arms without pre-training do not depend on name, seeds and lr."""
    fasta = write_fasta(tmp_path / "g.fa", {k: "ACGT" * (n // 4) for k, n in LENGTHS.items()})
    bases = {"fasta": [str(fasta)], "annotation": [str(fasta)], "parts": [["a"], ["b"], ["c"]], "ignore": []}
    folder, found = tmp_path / "runs" / name, {}
    for arm, of_pretraining in ARMS.items():
        for seed in seeds if of_pretraining else [None]:
            rng = np.random.default_rng([len(arm), seed or 0])
            for fold in range(FOLDS):
                level = {"cnn": 0.3, "baseline": 0.25, "last": 0.1, "control_last": 0.2}[arm] + 0.1 * fold
                metrics = {f"test/{key}": level + rng.normal(scale=0.01) for key in KEYS} | {"val/ap": 0.2}
                found[arm, seed, fold] = metrics["test/ap_donor"]
                job = {"arm": arm, "site": "bases", "seed": 0, "fold": fold, "metrics": metrics}
                job |= {} if seed is None else {"pretrain_seed": seed}
                config = {"name": name, "bases": bases, "data": {"cache": str(tmp_path / "cache")}}
                config["finetune"] = {"task": "bases", "arms": [arm]}
                write_finished(FitKey(arm, "bases", 0, fold, seed).folder(folder), job, {"genome": "x"}, config)
    for stage in ("pretrain", "control"):
        for seed in seeds:
            config = {"seed": seed, "pretrain": {"steps": 8, "lr": lr}}
            write_finished(folder / stage_name(stage, seed), {"objective": "supcon"}, {}, config)
    return folder, found


def write_finished(path, summary, inputs, config):
    write_json(path / "summary.json", summary)
    write_json(path / "env.json", {"inputs": inputs})
    write_text(path / "config.yaml", yaml.safe_dump(config))


def test_the_verdict_is_of_the_primary_contrast_over_seeds_and_over_folds(run, call, capsys, figures):
    folder, found = run
    call(evaluate, "report", folder)
    shown, out = capsys.readouterr().out, folder / "report/bases"
    differences = np.array([[found["last", s, f] - found["control_last", s, f] for f in range(FOLDS)] for s in SEEDS])
    train = np.array([600 + 900, 400 + 900, 500 + 900])  # fold k is tested on part k, selected on the next
    ratio = np.mean(np.array([400, 500, 600]) / train)
    tests = [corrected_ttest(differences.mean(axis=1), 0.0), corrected_ttest(differences.mean(axis=0), ratio)]
    contrast = pd.read_csv(out / "contrasts.csv").iloc[0]
    assert (contrast["arm"], contrast["reference"], contrast["metric"]) == ("last", "control_last", "test/ap_donor")
    assert contrast["primary"] and contrast["n"] == 3
    assert contrast["diff"] == pytest.approx(differences.mean(), rel=1e-4)
    assert contrast["low"] == pytest.approx(min(test["low"] for test in tests), rel=1e-4)
    assert contrast["high"] == pytest.approx(max(test["high"] for test in tests), rel=1e-4)
    assert contrast["p"] == pytest.approx(max(test["p"] for test in tests), rel=1e-4)
    assert f"Contrast harmed: last - control_last = {differences.mean():+.3f} AP of donors [" in shown
    assert "Floor not beaten in AP of donors (site: bases)" in shown and "`" not in shown

    table = pd.read_csv(out / "summary.csv").set_index(["arm", "metric"])
    assert set(table["dataset"]) == {"genome"}
    assert {f"test/{key}" for key in KEYS} < set(table.index.get_level_values(1))
    mine = [value for (arm, *_), value in found.items() if arm == "control_last"]
    assert table.loc[("control_last", "test/ap_donor"), "mean"] == pytest.approx(np.mean(mine), rel=1e-4)
    assert table.loc[("control_last", "test/ap_donor"), "n"] == 9
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 4 and HOW_TO_READ.split(".")[0].split()[0] in page


def test_a_pair_that_is_asked_for_and_the_mean_of_both_types_are_described(run, call, no_figures):
    folder, found = run
    pairs = [("last", "cnn"), ("x:control_last", "cnn"), ("control_last", "x:cnn")]  # the last two are one
    call(evaluate, "report", folder, *(word for pair in pairs for word in ("--compare", *pair)))
    contrasts = pd.read_csv(folder / "report/bases/contrasts.csv")
    (index,) = contrasts.query("arm == 'control_last' and reference == 'cnn' and metric == 'test/ap_donor'").index
    row = contrasts.loc[index]
    expected = [found["control_last", s, f] - found["cnn", None, f] for s in SEEDS for f in range(FOLDS)]
    assert row["diff"] == pytest.approx(np.mean(expected), rel=1e-4) and pd.isna(row["p_holm"])
    means = contrasts[contrasts["metric"] == "test/ap"]
    assert len(means) == len(contrasts) / 3 and means["p_holm"].isna().all() and not means["primary"].any()


def test_one_fold_and_folds_that_do_not_belong_together_are_named(run, call, capsys):
    folder, _ = run
    for path in folder.glob("finetune/**/fold0[12]/summary.json"):
        path.unlink()
    call(evaluate, "report", folder)
    assert "warning: A single fold (tested on a):" in capsys.readouterr().out
    env = folder / "finetune/cnn/bases/seed0/fold00/env.json"
    env.write_text(json.dumps({"inputs": {"genome": "y"}}))
    assert "of different genomes or bases.parts" in refusal(call, capsys, evaluate, "report", folder)


def test_seeds_of_several_runs_are_pooled_and_other_settings_kept_apart(run, tmp_path, call, capsys):
    folder, found = run
    more, of_more = run_of_bases(tmp_path, "y", seeds=(3, 4))
    apart, _ = run_of_bases(tmp_path, "z", seeds=(5, 6), lr=5e-2)
    call(evaluate, "report", folder, more, apart)
    assert f"{folder} + {more} + {apart}, every base" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "runs/x+y+z/report/bases/summary.csv")
    donors = table[table["metric"] == "test/ap_donor"].set_index("arm")
    assert set(donors.index) == {*ARMS, "z:last", "z:control_last"}
    counts = {"cnn": 3, "baseline": 3, "last": 15, "control_last": 15, "z:last": 6, "z:control_last": 6}
    assert donors["n"].to_dict() == counts
    pooled = [value for (arm, *_), value in (found | of_more).items() if arm == "last"]
    assert donors.loc["last", "mean"] == pytest.approx(np.mean(pooled), rel=1e-4)


def test_runs_of_windows_and_of_bases_are_reported_each_in_its_table(run, tmp_path, call, capsys, no_figures):
    folder, _ = run
    windows = make_run(tmp_path, "w", arms={"pwm": 1.5}).folder
    both = make_run(tmp_path, "b", arms={"pwm": 1.5}).folder
    shutil.copytree(folder / "finetune/cnn", both / "finetune/cnn")
    out = tmp_path / "out"
    call(evaluate, "report", windows, both, folder, "--out", out)
    shown = capsys.readouterr().out
    assert f"{windows} + {both}" in shown and f"{both} + {folder}, every base" in shown
    assert set(pd.read_csv(out / "summary.csv")["dataset"]) == {"spliceator"}
    assert set(pd.read_csv(out / "bases/summary.csv")["dataset"]) == {"genome"}


def test_a_pair_is_compared_in_the_table_that_has_both_arms(run, tmp_path, call, capsys, no_figures):
    folder, _ = run
    windows = make_run(tmp_path, "w", arms={"pwm": 1.5, "kmer": 1.0}).folder
    pairs = ("--compare", "kmer", "pwm", "--compare", "control_last", "cnn")
    call(evaluate, "report", windows, folder, "--out", tmp_path / "out", *pairs)
    for table, pair in (("out", ("kmer", "pwm")), ("out/bases", ("control_last", "cnn"))):
        compared = pd.read_csv(tmp_path / table / "contrasts.csv")[["arm", "reference"]]
        assert pair in set(compared.itertuples(index=False, name=None))
    line = refusal(
        call, capsys, evaluate, "report", windows, folder, "--out", tmp_path / "out", "--compare", "kmer", "cnn"
    )
    assert "--compare kmer cnn: not both in a table" in line

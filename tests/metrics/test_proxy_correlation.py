"""evaluate.py relate: the proxies of pre-training checkpoints against F1 after fine-tuning from them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import motif_settings, refusal, reseal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau, spearmanr

import evaluate
from simcsp.core.config_file import CONFIG_HASH
from simcsp.core.files import read_json, sha256_file, write_json
from simcsp.core.run_folder import read_metrics
from simcsp.labels.motifs import load_motifs
from simcsp.metrics import proxy_correlation
from simcsp.metrics.proxies import measure_nmi
from simcsp.metrics.proxy_correlation import correlate, find_checkpoints, rank_correlations, resample
from simcsp.metrics.sccs import SCCS_CEILING
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import write_checksums
from simcsp.model.embedding import Encoder
from simcsp.report.proxy_correlation import plain_sentence
from simcsp.training import finetuning
from utils.arguments import load_config

QUICK = ("--finetune.folds", "[0,1]", "--finetune.max_epochs", "1")
STEPS = [0, 3, 6, 8]


def another_run(run, name):
    """A copy of a run whose checkpoints are other ones."""
    copy = shutil.copytree(run, run.with_name(name), ignore=shutil.ignore_patterns("relate"))
    for folder in (copy / "pretrain/checkpoints").iterdir():
        weights = load_file(folder / "model.safetensors")
        for values in weights.values():
            if values.ndim == 2:
                values *= 1 + 0.02 * len(name)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        write_checksums(folder)
    reseal(copy / "pretrain")
    return copy


def made_up(runs, per_run, seed=0):
    """A table as relate makes it, of proxies and F1 that have nothing to do with each other."""
    rng, n = np.random.default_rng(seed), runs * per_run
    columns = ("sccs", "nmi", "probe", "sccs_layer0", "after/sccs", "after/nmi", "f1", "auc")
    table = pd.DataFrame({name: rng.normal(size=n) for name in columns})
    return table.assign(unit=np.repeat([f"run{i}" for i in range(runs)], per_run))


# -- correlations ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12))
def test_both_correlations_are_scipys_on_points_that_repeat_and_tie(points):
    x, y, times = (np.array(column) for column in zip(*points))
    found = rank_correlations(x, y, times[None].astype(float))
    x, y = np.repeat(x, times), np.repeat(y, times)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert all(np.isnan(value[0]) for value in found.values())
        return
    assert found["spearman"][0] == pytest.approx(spearmanr(x, y)[0])
    assert found["kendall"][0] == pytest.approx(kendalltau(x, y)[0])


def test_three_runs_are_drawn_whole_and_two_checkpoint_by_checkpoint():
    runs = np.repeat(["a", "b", "c"], [4, 2, 3])
    weights = resample(runs, seed=0)
    for run in "abc":
        assert (weights[:, runs == run] == weights[:, runs == run][:, :1]).all()
    assert (weights[:, [0, 4, 6]].sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(9), abs=0.05)
    weights = resample(runs[:6], seed=0)
    assert (weights.sum(axis=1) == 6).all() and (weights[:, 0] != weights[:, 1]).any()


def test_intervals_hold_zero_for_what_is_unrelated_and_leave_it_out_for_what_is_related():
    table = made_up(1, 40)
    table["probe"] = table["f1"] + 0.1 * table["nmi"]
    found = correlate(table, seed=0)
    assert list(found["outcome"]) == ["f1"] * 6 + ["auc"] * 6
    rows = found[found["outcome"] == "f1"].set_index("proxy")
    assert list(rows.index) == ["sccs", "nmi", "probe", "sccs_layer0", "after/sccs", "after/nmi"]
    for proxy, row in rows.iterrows():
        assert row["spearman_low"] <= row["spearman"] <= row["spearman_high"]
        assert row["kendall_low"] <= row["kendall"] <= row["kendall_high"]
        assert row["spearman"] == pytest.approx(spearmanr(table[proxy], table["f1"])[0])
    text = plain_sentence(found)
    start = "Over 40 checkpoints of 1 run, before fine-tuning SCCS shows no correlation with F1 (Spearman "
    assert text.startswith(start) and text.endswith("exploratory: fewer than three runs.")
    assert "probe AUC correlates with F1 (Spearman +0.9" in text
    found.loc[2, ["spearman", "spearman_low", "spearman_high"]] *= -1
    assert "probe AUC is anticorrelated with F1 (Spearman -0.9" in plain_sentence(found)


def test_with_three_runs_they_are_resampled_and_nothing_is_called_exploratory():
    rows = correlate(made_up(3, 5), seed=0)
    assert (rows["resampled"] == "runs").all() and (rows["runs"] == 3).all()
    assert "exploratory" not in plain_sentence(rows)
    assert (correlate(made_up(2, 5), seed=0)["resampled"] == "checkpoints").all()
    assert "of 2 runs" in plain_sentence(correlate(made_up(2, 5), seed=0))


def test_too_few_checkpoints_and_a_constant_have_no_correlation_and_the_sentence_says_so():
    rows = correlate(made_up(1, 2), seed=0)
    assert rows[["spearman", "kendall", "spearman_low", "kendall_high"]].isna().all(axis=None)
    assert plain_sentence(rows).count("no correlation with F1 (fewer than 4 checkpoints)") == 3
    table = made_up(1, 6).assign(sccs=0.5)
    text = plain_sentence(correlate(table, seed=0))
    assert "SCCS has no correlation with F1 (the proxy is the same for all), NMI shows" in text
    text = plain_sentence(correlate(table.assign(f1=0.9), seed=0))
    assert "probe AUC has no correlation with F1 (F1 is the same for all)" in text
    table.loc[:3, "nmi"] = np.nan  # two are left
    assert (correlate(table, seed=0).set_index("proxy").loc["nmi", "remark"] == "fewer than 4 checkpoints").all()


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_no_checkpoint_counts_twice_and_a_copy_stands_in_for_a_step_that_was_removed(own_run):
    found = find_checkpoints([own_run])
    assert [checkpoint.arm for checkpoint in found] == [f"pretrain-{step:06d}" for step in STEPS]
    assert [checkpoint.objective for checkpoint in found] == ["start", "simcse", "simcse", "simcse"]
    assert {path.name for path in (own_run / "pretrain/checkpoints").iterdir()} > {"last", "best_sccs"}
    best = json.loads((own_run / "pretrain/summary.json").read_text())["best"]["sccs"]["step"]
    shutil.rmtree(own_run / f"pretrain/checkpoints/step-{best:06d}")
    assert [checkpoint.step for checkpoint in find_checkpoints([own_run])] == STEPS
    twin = shutil.copytree(own_run, own_run.with_name("twin"))
    assert find_checkpoints([own_run, twin]) == find_checkpoints([own_run])


def test_the_steps_of_a_control_count_and_its_start_does_not(own_run):
    control = shutil.copytree(another_run(own_run, "other") / "pretrain", own_run / "control")
    shutil.rmtree(control / "checkpoints/start")
    shutil.copytree(own_run / "pretrain/checkpoints/start", control / "checkpoints/start")
    write_json(control / "summary.json", read_json(control / "summary.json") | {"objective": "mlm", "stage": "control"})
    reseal(control)
    found = find_checkpoints([own_run])
    assert [c.step for c in found if c.stage == "control"] == STEPS[1:]
    assert {c.objective for c in found if c.stage == "control"} == {"mlm"}


def test_pretraining_seeds_of_a_run_are_so_many_runs(own_run, monkeypatch):
    monkeypatch.setattr(proxy_correlation, "check_stages", lambda run: None)  # both were trained under seed 0
    other = another_run(own_run, "other")
    for seed, pretrain in enumerate((own_run / "pretrain", other / "pretrain")):
        shutil.move(pretrain, own_run / f"seeds/seed{seed}")
    (own_run / "seeds").rename(own_run / "pretrain")
    found = find_checkpoints([own_run])
    assert [c.arm for c in found] == [f"pretrain-seed{seed}-{step:06d}" for seed in (0, 1) for step in STEPS]
    assert {c.unit for c in found} == {f"{own_run}:0", f"{own_run}:1"}


# -- the command -------------------------------------------------------------------------------------------------------


def watch_fits(monkeypatch):
    """The folds that are fitted from now on."""
    fitted, real = [], finetuning.fit_fold
    monkeypatch.setattr(
        finetuning, "fit_fold", lambda study, fold, start: fitted.append(fold) or real(study, fold, start)
    )
    return fitted


def outcome(run):
    return {name: (run / "relate" / name).read_text() for name in ("relate.csv", "correlations.csv", "relate.md")}


def test_relate_measures_finetunes_and_correlates_and_goes_on_where_it_was(
    own_run, tiny_data, call, capsys, monkeypatch
):
    sites = [word for key, value in motif_settings(tiny_data).items() for word in (f"--{key}", value)]
    words = ("relate", own_run, *QUICK, *sites)
    call(evaluate, *words)
    out = capsys.readouterr().out
    table = pd.read_csv(own_run / "relate/relate.csv")
    assert table["step"].tolist() == STEPS

    # the proxies are those that pre-training logged, F1 that of the folds
    logged = {row["step"]: row["val/sccs"] for row in read_metrics(own_run / "pretrain") if "val/sccs" in row}
    assert table["sccs"].tolist() == pytest.approx([logged[step] for step in STEPS], abs=1e-5)
    assert (table["sccs"] == table["sccs_layer2"]).all() and (table["probe"] == table["probe_layer2"]).all()
    assert table[["after/sccs", "before/sccs"]].abs().max(axis=None) <= SCCS_CEILING
    config = load_config([str(own_run / "finetune/baseline/both/seed0/fold00/config.yaml"), *map(str, sites)])
    model, _, _ = load_backbone(config.model.saved_as(own_run / "pretrain/checkpoints/step-000003"))
    for layer in range(3):
        expected = measure_nmi(Encoder(model.bert, "mean", 64), load_motifs(config.data), layer, config.seed)["nmi"]
        assert table[f"nmi_layer{layer}"][1] == pytest.approx(expected, abs=1e-5)
    assert (table["nmi"] == table["nmi_layer2"]).all()
    for row in table.to_dict("records"):
        folder = own_run / f"relate/finetune/pretrain-{row['step']:06d}/both/seed0"
        folds = [json.loads((folder / f"fold0{k}/summary.json").read_text()) for k in (0, 1)]
        f1 = [fold["metrics"]["test/f1"] for fold in folds]
        assert (row["f1"], row["f1_sd"]) == pytest.approx((np.mean(f1), np.std(f1, ddof=1)), abs=1e-5)
        assert row["n"] == 2 and all(fold["epochs"] == 1 for fold in folds)
        assert row["after/nmi"] == pytest.approx(folds[0]["metrics"]["after/nmi"], abs=1e-5)  # of the first fold alone

    # correlations of every layer, and the plain sentence
    rows = pd.read_csv(own_run / "relate/correlations.csv")
    assert set(rows["outcome"]) == {"f1", "auc"}
    rows = rows[rows["outcome"] == "f1"].set_index("proxy")
    layers = {f"{proxy}_layer{layer}" for proxy in ("sccs", "nmi", "probe") for layer in range(3)}
    assert set(rows.index) == layers | {"sccs", "nmi", "probe", "after/sccs", "after/nmi"}
    for proxy, row in rows[rows["remark"].isna()].iterrows():
        assert row["kendall"] == pytest.approx(kendalltau(table[proxy], table["f1"])[0], abs=1e-4)
    assert "Over 4 checkpoints of 1 run, before fine-tuning SCCS " in out and "exploratory" in out
    text = (own_run / "relate/relate.md").read_text()
    assert "Synthetic data" in text and "not independent" in text and "No selection used test scores" in text
    assert (own_run / "relate/relate.png").read_bytes().startswith(b"\x89PNG")
    assert not list((own_run / "relate").rglob("*.safetensors"))  # no models that others would take for the run's

    # what is missing is done again to the same numbers, what is there is left alone
    first = outcome(own_run)
    shutil.rmtree(own_run / "relate/finetune/pretrain-000003/both/seed0/fold01")
    (own_run / "relate/proxies/pretrain-000006.json").unlink()
    fitted = watch_fits(monkeypatch)
    call(evaluate, *words)
    assert [fold.job.arm.name for fold in fitted] == ["pretrain-000003"] and outcome(own_run) == first


def test_several_runs_are_related_together_and_each_is_finetuned_once(own_run, call, capsys, monkeypatch):
    quick = (*QUICK, "--finetune.folds", "[0]")
    for name in ("step-000003", "step-000006", "best_sccs"):  # two of each run are enough
        shutil.rmtree(own_run / "pretrain/checkpoints" / name)
    call(evaluate, "relate", own_run, *quick)
    others = [another_run(own_run, name) for name in ("other", "third_run")]
    fitted = watch_fits(monkeypatch)
    capsys.readouterr()
    call(evaluate, "relate", own_run, *others, *quick)
    out = capsys.readouterr().out
    assert "Over 6 checkpoints of 3 runs" in out and "exploratory" not in out
    assert sorted({fold.run.path.parts[-7] for fold in fitted}) == ["other", "third_run"] and len(fitted) == 4
    assert all((other / "relate/finetune/pretrain-000008").is_dir() for other in others)
    table = pd.read_csv(own_run / "relate/relate.csv")
    assert table["run"].tolist() == [str(run) for run in (own_run, *others) for _ in range(2)]
    assert (pd.read_csv(own_run / "relate/correlations.csv")["resampled"] == "runs").all()
    assert "here there are 3" in (own_run / "relate/relate.md").read_text()


def test_workers_share_the_folds_and_a_config_of_ones_own_is_taken(own_run, finished, call, capsys, monkeypatch):
    shutil.rmtree(own_run / "finetune")
    assert "add the experiment's config" in refusal(call, capsys, evaluate, "relate", own_run, *QUICK)
    asked = []

    def run_workers(config, stop):
        asked.append(config)
        finetuning.run_jobs(config, stop)

    monkeypatch.setattr(finetuning, "run_workers", run_workers)
    call(evaluate, "relate", own_run, finished.config, *QUICK, "--workers", 2, "--finetune.folds", "[1]")
    assert asked[0].workers == 2 and asked[0].finetune.folds == [1] and asked[0].folder == own_run / "relate"
    assert "each from one fit alone" in capsys.readouterr().out


def test_runs_that_cannot_be_compared_are_refused_in_one_line(own_run, call, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for run in (tmp_path / "empty", own_run / "pretrain", own_run / "finetune/baseline"):
        assert "pretrain is not finished" in refusal(call, capsys, evaluate, "relate", run)
    other = another_run(own_run, "other")
    splits = other / "splits/splits.json"
    text = splits.read_text()
    write_json(splits, read_json(splits) | {"data_sha256": "0" * 64})
    line = refusal(call, capsys, evaluate, "relate", own_run, other, *QUICK)
    assert "splits.data_sha256" in line and "cannot be related together" in line
    splits.write_text(text)
    for config in other.glob("finetune/*/*/*/*/config.yaml"):
        config.write_text(config.read_text().replace("lr: 0.003", "lr: 0.001"))
        env = config.with_name("env.json")
        write_json(env, read_json(env) | {CONFIG_HASH: sha256_file(config)})
    line = refusal(call, capsys, evaluate, "relate", own_run, other, *QUICK)
    assert "finetune.lr is 0.003 there and 0.001 here" in line
    line = refusal(call, capsys, evaluate, "relate", own_run, "--finetune.sites", "[both,donor]")
    assert "relate takes one" in line
    line = refusal(call, capsys, evaluate, "relate", own_run, "--evaluate.nmi_layer", 3)
    assert "nmi_layer" in line and "2 blocks" in line
    assert not list((own_run / "relate").glob("finetune"))  # before anything was fitted

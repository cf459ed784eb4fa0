"""Search over settings: the space, the study that processes share, and what is left behind."""

import subprocess
import sys

import optuna
import pytest
import yaml
from conftest import ROOT, refusal, summary_of, tiny_config
from optuna.storages import JournalStorage

import finetune
import pretrain
from simcsp.core.errors import InputError
from simcsp.core.run_folder import read_metrics
from simcsp.labels.splits import load_windows
from simcsp.training import fold, search
from simcsp.training.stopping import StopSignal
from utils.arguments import load_config

SPACE = {
    "pretrain.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "pretrain.warmup_steps": {"low": 0, "high": 2},
    "pretrain.batch_size": {"choices": [4, 8]},
    "model.hidden_dropout_prob": {"low": 0.0, "high": 0.3},
}
STAGE = ("model", "mlm", "pretrain")
CHANGES = {"mlm.steps": 0, "search.trials": 3, "search.startup_trials": 2, "search.space": SPACE}


def journal(path):
    return JournalStorage(search.Journal(str(path)))


def study_of(folder):
    return optuna.load_study(study_name="tiny", storage=journal(folder / "runs/tiny/search/study.journal"))


def test_a_search_leaves_trials_that_are_runs_and_a_config_of_the_best(tiny_data, tmp_path, call, capsys):
    config = tiny_config(tmp_path, tiny_data, CHANGES | {"search.metric": "probe_auc"})  # a proxy of searches alone
    call(pretrain, config)
    study, folder = study_of(tmp_path), tmp_path / "runs/tiny/search"
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert len(study.trials) == 3 and all(trial.state in ended for trial in study.trials)
    for trial in study.trials:
        settings = yaml.safe_load((folder / f"trial{trial.number:04d}/pretrain/config.yaml").read_text())
        assert 1e-4 <= settings["pretrain"]["lr"] <= 1e-2 and settings["pretrain"]["batch_size"] in (4, 8)
        for key, value in trial.params.items():
            section, field = key.split(".")
            assert settings[section][field] == pytest.approx(value)
        if trial.state == optuna.trial.TrialState.COMPLETE:
            stage = folder / f"trial{trial.number:04d}/pretrain"
            summary = summary_of(stage)
            assert summary["metrics"]["val/probe_auc"] == trial.value and 0.2 < trial.value < 1
            told = [row["val/probe_auc"] for row in read_metrics(stage) if "val/probe_auc" in row]
            assert list(trial.intermediate_values.values()) == told[-len(trial.intermediate_values) :]
    complete = [trial.value for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert study.best_value == max(complete)  # one that was pruned has the value of its last report
    best = load_config([str(folder / "best.yaml")])
    assert best.pretrain.lr == pytest.approx(study.best_params["pretrain.lr"]) and best.search.trials == 0
    assert best.name == "tiny-best" and best.folder == tmp_path / "runs/tiny-best"
    capsys.readouterr()
    call(pretrain, config)  # all trials are done: nothing more is run
    assert len(study_of(tmp_path).trials) == 3
    assert f"config: {folder}/best.yaml" in capsys.readouterr().out


def test_a_line_of_the_journal_that_a_kill_cut_short_is_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "study.journal"
    first = optuna.create_study(study_name="tiny", storage=journal(path))
    first.enqueue_trial({"a": 1})
    whole = path.read_bytes()
    for torn in (b"", b'{"op_code": 4, "wor', whole[:-1]):
        path.write_bytes(whole + torn if torn != whole[:-1] else torn)
        count = len(optuna.load_study(study_name="tiny", storage=journal(path)).trials)
        assert count == (0 if torn == whole[:-1] else 1)
        assert path.read_bytes() == (whole if torn != whole[:-1] else whole[: whole[:-1].rfind(b"\n") + 1])
    path.write_bytes(whole + b"{")
    first.enqueue_trial({"a": 2})  # another worker's kill, while this one lives
    assert len(optuna.load_study(study_name="tiny", storage=journal(path)).trials) == 2
    assert [str(path) in record.message for record in caplog.records] == [True] * 3


def test_fine_tuning_is_searched_on_validation_parts_only(tiny_data, tmp_path, call, monkeypatch):
    space = {"finetune.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "finetune.batch_size": {"choices": [4, 8]}}
    changes = {"mlm.steps": 0, "pretrain.steps": 0, "search.trials": 2, "search.startup_trials": 1}
    changes["search.space"] = space
    changes |= {"finetune.arms": ["baseline"], "finetune.folds": [0, 1], "finetune.max_epochs": 2}
    scored, predict = [], fold.predict
    monkeypatch.setattr(fold, "predict", lambda model, ids, *rest: scored.append(ids) or predict(model, ids, *rest))
    path = tiny_config(tmp_path, tiny_data, changes)
    call(finetune, path)
    config = load_config([str(path)])
    windows, splits = load_windows(config.data, config.folder)
    validation = [windows.crop(20)[parts["val"]].tobytes() for parts in splits.folds["both"][:2]]
    assert {ids.tobytes() for ids in scored} == set(validation)
    assert not list((config.folder / "search").rglob("splits"))  # every trial has those of the run
    study = study_of(tmp_path)
    of_best = (tmp_path / "runs/tiny/search").glob(f"trial{study.best_trial.number:04d}/**/metrics.jsonl")
    assert study.best_value <= max(row["val/auc"] for path in of_best for row in read_metrics(path.parent))
    assert not list((tmp_path / "runs/tiny/search").rglob("predictions.csv"))
    best = load_config([str(tmp_path / "runs/tiny/search/best.yaml")])
    assert best.finetune.lr == pytest.approx(study.best_params["finetune.lr"])


@pytest.mark.parametrize(
    "space, message",
    [
        ({}, "search.space is empty"),
        ({"pretrain.learning_rate": {"low": 1, "high": 2}}, "'pretrain.learning_rate' is not a field"),
        ({"finetune.lr": {"low": 1, "high": 2}}, "'finetune.lr' is not a field of model, mlm, pretrain"),
        ({"data.window": {"low": 1, "high": 2}}, "'data.window' is not a field of model"),
        ({"seed": {"low": 1, "high": 2}}, "'seed' is not a field"),
        ({"pretrain.lr": 3e-4}, "search.space.pretrain.lr: expected"),
        ({"pretrain.lr": {"low": 1e-3}}, "search.space.pretrain.lr: expected"),
        ({"pretrain.lr": {"low": 1e-3, "high": 1e-4}}, r"low \(0.001\) must be a number up to high"),
        ({"pretrain.lr": {"low": 1e-4, "high": 1e-3, "Log": True}}, "unknown key 'Log'"),
        ({"pretrain.batch_size": {"choices": []}}, "search.space.pretrain.batch_size.choices"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(tiny_data, tmp_path, space, message):
    config = load_config([str(tiny_config(tmp_path, tiny_data, CHANGES | {"search.space": space}))])
    with pytest.raises(InputError, match=message):
        search.check_space(config, STAGE)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"mlm.steps": 4, "pretrain.steps": 0}, "pretrain.steps is 0"),
        ({"search.metric": "nmi"}, "search.metric (nmi) needs motif sites: set data.motif_bed"),
        ({"data.spliceator": None}, "search.metric (sccs) needs labelled windows: set data.spliceator"),
    ],
)
def test_a_metric_that_no_trial_would_have_is_refused_before_anything_runs(
    tiny_data, tmp_path, call, capsys, changes, part
):
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, tiny_data, CHANGES | changes))
    assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_an_impossible_value_of_the_space_is_refused_in_one_line(tiny_data, tmp_path, call, capsys):
    space = {"pretrain.temperature": {"choices": [-1.0]}}
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, tiny_data, CHANGES | {"search.space": space}))
    assert "temperature" in line


def test_settings_that_diverge_are_a_result_and_the_search_goes_on(tiny_data, tmp_path):
    config = load_config([str(tiny_config(tmp_path, tiny_data, CHANGES))])
    values = iter([FloatingPointError("the loss is nan"), 0.2, 0.1])

    def objective(trial, report):
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value

    said = search.run_search(config, "val/sccs", STAGE, objective, StopSignal(), load_config, {})
    assert "best val/sccs 0.2000 in trial 1" in said and "1 pruned" in said


@pytest.mark.slow
def test_a_trial_below_the_median_is_pruned(tiny_data, tmp_path):
    config = load_config([str(tiny_config(tmp_path, tiny_data, CHANGES | {"search.trials": 4}))])
    levels, seen = iter([0.5, 0.6, 0.1, 0.7]), []

    def objective(trial, report):
        level = next(levels)
        for step in (1, 2, 3):
            seen.append((level, step))
            report(step, level)
        return level

    search.run_search(config, "val/sccs", STAGE, objective, StopSignal(), load_config, {})
    assert seen.count((0.1, 1)) == 1 and (0.1, 3) not in seen and (0.7, 3) in seen


def test_a_journal_s_trial_is_taken_over_when_its_process_is_dead_and_not_before(tiny_data, tmp_path):
    config = load_config([str(tiny_config(tmp_path, tiny_data, CHANGES))])
    study = search.open_study(config)
    trials = [study.ask() for _ in range(3)]
    for trial in trials:
        search.suggest(trial, config)
    code = "import sys, time; from pathlib import Path; from simcsp.core.files import take_lock\n"
    code += "for name in sys.argv[1:]: take_lock(Path(name))\nprint('locked', flush=True); time.sleep(600)"
    locks = [str(search.lock_of(config, trial.number)) for trial in trials[:2]]  # the third has not begun
    holders = [subprocess.Popen([sys.executable, "-c", code, lock], cwd=ROOT, stdout=subprocess.PIPE) for lock in locks]
    try:
        assert [holder.stdout.readline() for holder in holders] == [b"locked\n"] * 2
        search.take_over(study, config)
        assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 3
        holders[0].kill()
        holders[0].wait()
        search.take_over(study, config)
        search.take_over(study, config)
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "RUNNING", "WAITING"]
    trained = []

    def objective(config, report):
        trained.append((config.name, config.pretrain.lr))
        return 0.5

    search.run_search(config, "val/sccs", STAGE, objective, StopSignal(), load_config, {})
    lrs = [trial.params["pretrain.lr"] for trial in study.trials[:2]]  # both are dead by now
    assert trained[:2] == [("trial0000", pytest.approx(lrs[0])), ("trial0001", pytest.approx(lrs[1]))]
    assert len(trained) == 3


def test_a_search_that_an_earlier_version_kept_in_a_database_is_refused(tiny_data, tmp_path):
    config = load_config([str(tiny_config(tmp_path, tiny_data, CHANGES))])
    before = config.folder / "search/study.db"
    before.parent.mkdir(parents=True)
    before.touch()
    with pytest.raises(InputError, match=f"{before}.*delete {before.parent}"):
        search.open_study(config)

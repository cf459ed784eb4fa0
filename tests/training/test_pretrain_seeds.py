"""Several pre-training seeds in one run folder: where they lie, that each is what it would be alone, and their arms."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import assert_same_run, refusal, run_here, skip_figures, summary_of, tiny_config, weights

import finetune
import pretrain
from commands.sources import encoders, fold_folders
from simcsp.core.files import read_json
from simcsp.core.run_layout import finished_fits, fit_key, stage_folders
from simcsp.training import pretraining
from utils.arguments import find_faults, load_config

CHANGES = {"pretrain.control": True, "pretrain.steps": 4, "finetune.max_epochs": 1, "finetune.folds": [0]}
CHANGES |= {"finetune.arms": ["pwm", "fresh", "baseline", "last", "control_last"]}


@pytest.fixture(scope="module")
def study(tiny_data, tmp_path_factory):
    """runs/tiny with seeds 0 and 4, fine-tuned; runs/alone the same with seed 0 alone.

    windows: {(objective, steps): those of every step} of runs/alone.
    """
    folder, windows, true_draw = tmp_path_factory.mktemp("seeds"), {}, pretraining.draw_batch

    def spy(stage, ids, *more):
        windows.setdefault((stage.objective, stage.steps), []).append(ids)
        return true_draw(stage, ids, *more)

    config = tiny_config(folder, tiny_data, CHANGES)
    flags = {"tiny": ["--pretrain.seeds", "[0, 4]"], "alone": ["--pretrain.seeds", "[0]"]}
    with pytest.MonkeyPatch.context() as patch:
        skip_figures(patch)
        for name, more in flags.items():
            patch.setattr(pretraining, "draw_batch", spy if name == "alone" else true_draw)
            for module in (pretrain, finetune):
                run_here(module, config, "--name", name, *more)
    runs = folder / "runs"
    return SimpleNamespace(config=config, runs=runs, tiny=runs / "tiny", alone=runs / "alone", windows=windows)


def test_each_seed_has_a_folder_below_its_stage_and_is_what_it_is_alone(study):
    for stage in ("pretrain", "control"):
        assert stage_folders(study.tiny, stage) == {seed: study.tiny / stage / f"seed{seed}" for seed in (0, 4)}
        assert stage_folders(study.alone, stage) == {None: study.alone / stage}  # a list of one seed
        assert_same_run(study.tiny / stage / "seed0", study.alone / stage)
    assert not (study.tiny / "pretrain/summary.json").exists() and (study.tiny / "mlm/summary.json").is_file()


def test_seeds_start_alike_and_end_apart_and_a_control_reads_what_its_contrast_reads(study):
    start, last = (
        [weights(study.tiny / f"pretrain/seed{seed}")[f"checkpoints/{name}/model.safetensors"] for seed in (0, 4)]
        for name in ("start", "last")
    )
    assert start[0] == start[1] and last[0] != last[1]
    contrast, control = (read_json(study.tiny / f"{stage}/seed4/env.json") for stage in ("pretrain", "control"))
    assert contrast["inputs"] == control["inputs"]
    saved = load_config([str(study.tiny / "control/seed4/config.yaml")])
    assert saved.seed == 4 and saved.pretrain.seeds is None and saved.pretrain.objective == "mlm"


def test_an_arm_of_pre_training_is_fine_tuned_once_a_seed_the_others_once(study):
    found = {str(path.relative_to(study.tiny / "finetune")): path for path in finished_fits(study.tiny)}
    once = {f"{arm}/both/seed0/fold00" for arm in ("pwm", "fresh", "baseline")}
    each = {f"{arm}/both/pretrain{seed}/seed0/fold00" for arm in ("last", "control_last") for seed in (0, 4)}
    assert set(found) == once | each
    for name, path in found.items():
        summary = summary_of(path)
        assert summary["pretrain_seed"] == (int(path.parts[-3].removeprefix("pretrain")) if name in each else None)
        other = study.alone / "finetune" / name.replace("pretrain0/", "")
        if name.startswith("pwm"):
            assert (path / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
        elif "pretrain4" not in name:
            assert_same_run(path, other)
    one, two = (found[f"last/both/pretrain{seed}/seed0/fold00"] / "predictions.csv" for seed in (0, 4))
    assert one.read_bytes() != two.read_bytes()
    assert summary_of(study.alone / "finetune/last/both/seed0/fold00")["pretrain_seed"] == 0


def test_commands_tell_the_seeds_apart(study):
    names = {"baseline", "last", "control_last", "best_sccs", "control_best_sccs"}
    assert set(encoders(study.tiny)) == {f"{name}:pretrain{seed}" for name in names for seed in (0, 4)}
    assert set(encoders(study.alone)) == names
    assert set(encoders(study.tiny / "control/seed4")) == {"control_last", "control_best_sccs"}
    several = {f"{arm}:pretrain{seed}" for arm in ("last", "control_last") for seed in (0, 4)}
    assert {fit_key(folder).model for folder in fold_folders(study.tiny)} == {"fresh", "baseline"} | several


def test_another_seed_later_leaves_the_finished_ones_as_they_are(study, call, capsys):
    before = {path: path.stat().st_mtime_ns for path in study.tiny.rglob("checkpoints/**/*.safetensors")}
    call(pretrain, study.config, "--name", "tiny", "--pretrain.seeds", "[0, 4, 2]")
    assert (study.tiny / "control/seed2/summary.json").is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_seed_without_its_pre_training_is_refused_in_one_line(study, call, capsys):
    line = refusal(call, capsys, finetune, study.config, "--name", "tiny", "--pretrain.seeds", "[0, 9]")
    assert "pretrain/seed9 is not finished" in line


def test_lists_of_seeds_that_cannot_work_are_refused(study):
    config = load_config([str(study.config)])

    def fault(seeds, trials=0):
        ours = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, seeds=seeds))
        ours.search = dataclasses.replace(config.search, trials=trials)
        return "; ".join(find_faults(ours))

    assert all("pretrain.seeds" in fault(*wrong) for wrong in (([],), ([1, 1],), ([1, 2], 3)))
    assert not fault([1, 2]) and not fault(None)


# -- the control -------------------------------------------------------------------------------------------------------


def test_the_control_reads_the_windows_of_the_contrast(study):
    contrast, control = study.windows["simcse", 4], study.windows["mlm", 4][-4:]  # after those of the stage mlm
    assert np.array_equal(contrast, control) and len(contrast) == 4


def test_its_arms_stand_in_the_table(study):
    table = pd.read_csv(study.alone / "report/summary.csv")
    assert table[table["metric"] == "test/f1"]["arm"].tolist() == ["pwm", "fresh", "baseline", "last", "control_last"]
    proxies = table[table["metric"] == "val/sccs"]["arm"].tolist()
    assert {"control_last", "last", "baseline"} <= set(proxies) and len(proxies) == len(set(proxies))


def test_a_control_arm_without_a_control_run_is_refused(finished, call, capsys):
    line = refusal(call, capsys, finetune, finished.config, "--finetune.arms", "[control_last]")
    assert "control is not finished" in line and "pretrain.control true" in line


def test_asking_for_a_control_later_leaves_the_finished_contrast_as_it_is(tiny_data, tmp_path, call):
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.steps": 2, "pretrain.warmup_steps": 0})
    call(pretrain, config)
    before = weights(tmp_path / "runs/tiny/pretrain")
    call(pretrain, config, "--pretrain.control", "true")
    assert weights(tmp_path / "runs/tiny/pretrain") == before
    assert (tmp_path / "runs/tiny/control/summary.json").is_file()


@pytest.mark.parametrize("flag", [("--model.pooling", "cls"), ("--model.pooling_layer", "1")])
def test_another_pooling_than_that_of_the_checkpoints_is_refused_and_not_ignored(finished, call, capsys, flag):
    line = refusal(call, capsys, finetune, finished.config, *flag, "--finetune.arms", "[last]")
    assert f"{flag[0].removeprefix('--')} is {flag[1]}" in line and "was trained with mean" in line

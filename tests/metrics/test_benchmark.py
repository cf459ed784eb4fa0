"""Benchmark species: thresholds, calibration, near-duplicates, floors and ensembles, and what evaluate.py writes."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import FOLDS, LENGTH, NEGATIVE, POSITIVE, make_windows, random_bases, refusal, run_here, tiny_config
from sklearn.metrics import f1_score

import evaluate
from commands import classifiers
from simcsp.core.files import read_json, sha256_file, write_json
from simcsp.labels.splits import load_windows
from simcsp.metrics.benchmark import Member, Resemblance, ensemble_of, missing_folds, score_ensembles, score_windows
from simcsp.metrics.scores import best_threshold, calibration_error, classification_scores
from simcsp.report.plots import plt, reliability_plot
from simcsp.report.write import write_report
from utils.arguments import load_config

TINY_SPECIES = ("Danio", "Human")
PER_FILE = 20


# -- calibration -------------------------------------------------------------------------------------------------------


def test_the_reliability_plot_has_a_line_an_arm_and_its_error_in_the_legend():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 60)
    good, bad = rng.beta(2 + 3 * labels, 5 - 3 * labels), rng.random(120)
    figure = reliability_plot({"donor": {"pwm": (labels, bad), "baseline": (labels, good)}}, ["pwm"], "a title")
    above, below = figure.axes
    lines = {line.get_label().split()[0]: line for line in above.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["pwm", "baseline"]
    assert lines["pwm"].get_linestyle() == "--" and lines["baseline"].get_linestyle() == "-"
    assert f"{calibration_error(labels, good):.3f}" in lines["baseline"].get_label()
    assert "120 windows" in above.get_title() and len(below.patches) == 2
    plt.close(figure)


# -- near-duplicates ---------------------------------------------------------------------------------------------------


def test_windows_that_share_80_bases_with_a_training_window_of_the_fold_are_found():
    rng = np.random.default_rng(0)
    first, second, new = (random_bases(rng, 120) for _ in range(3))
    training = make_windows([first, second, random_bases(rng, 120)], [1, 0, 1])
    shorter = [new[:100], random_bases(rng, 20) + first[:80], random_bases(rng, 21) + second[:79]]
    resemblance = Resemblance(training, {"Fly": make_windows(shorter, [1, 0, 1]), "Worm": make_windows([second], [1])})
    assert resemblance.of("Fly", np.array([0, 1])).tolist() == [False, True, False]  # 79 shared bases are not enough
    assert resemblance.of("Fly", np.array([1, 2])).tolist() == [False, False, False]
    assert resemblance.of("Worm", np.array([1])).tolist() == [True]
    assert resemblance.of("Worm", np.array([0, 2])).tolist() == [False]


def test_short_windows_cannot_be_compared():
    rng = np.random.default_rng(0)
    training = make_windows([random_bases(rng, 120)], [1])
    short = make_windows([random_bases(rng, 70)], [1])
    assert Resemblance(training, {"Fly": short}).of("Fly", np.array([0])) is None


def test_distinct_scores_leave_the_similar_windows_out():
    rng = np.random.default_rng(0)
    labels, probabilities = np.tile([0, 1], 20), rng.random(40)
    similar = np.arange(40) < 10
    scores = score_windows(labels, probabilities, similar, 0.3)
    expected = classification_scores(labels[10:], probabilities[10:])
    assert {key: scores[f"{key}_distinct"] for key in expected} == pytest.approx(expected)
    assert (scores["windows"], scores["windows_distinct"]) == (40, 30)
    assert scores["f1_tuned_distinct"] == pytest.approx(f1_score(labels[10:], probabilities[10:] > 0.3))
    sites_left = score_windows(labels, probabilities, (labels == 0) & (np.arange(40) < 20), 0.3)  # 20 of 30 are sites
    kept = (labels == 1) | (np.arange(40) >= 20)
    twice = np.where(labels[kept] == 0, 2, 1)  # weights that bring the shares back
    again = f1_score(labels[kept], probabilities[kept] > 0.5, sample_weight=twice)
    assert sites_left["f1_distinct"] == pytest.approx(again)
    of_one_class = score_windows(labels, probabilities, labels == 1, 0.3)
    assert of_one_class["windows_distinct"] == 20 and "auc_distinct" not in of_one_class and "auc" in of_one_class


# -- members and ensembles ---------------------------------------------------------------------------------------------


def test_the_ensemble_is_the_mean_and_its_threshold_comes_from_all_validation_windows():
    benchmark = make_windows(["ACGT" * 30] * 4, [0, 1, 0, 1], sites=["donor", "donor", "acceptor", "acceptor"])
    labels = np.array([0, 1, 1])
    members, of_fly = [], ([0.1, 0.3, 0.4, 0.9], [0.3, 0.5, 0.6, 0.7])
    for fold, own, fly, alike in zip((0, 2), ([0.2, 0.4, 0.9], [0.5, 0.7, 0.8]), of_fly, (0, 3)):
        members.append(Member(fold, labels, np.array(own), {"Fly": np.array(fly)}, {"Fly": np.arange(4) == alike}))
    together = ensemble_of(members)
    assert together.species["Fly"] == pytest.approx([0.2, 0.4, 0.5, 0.8])
    assert together.similar["Fly"].tolist() == [True, False, False, True]  # in any fold
    rows, table, curves = score_ensembles({("baseline", "both", 0): members}, {"Fly": benchmark})
    value = rows.set_index(["fold", "metric"])["value"]
    assert value[0, "test/threshold"] == pytest.approx(0.3) and value[2, "test/threshold"] == pytest.approx(0.6)
    pooled = np.array([0.2, 0.4, 0.9, 0.5, 0.7, 0.8])
    # above .3: 4 of 5 and none missed, F1 8/9; above .6: 3 of 3 and one missed, 6/7
    assert value[-1, "ensemble/threshold"] == pytest.approx(best_threshold(np.tile(labels, 2), pooled)) == 0.3
    assert value[-1, "ensemble/f1_tuned"] == pytest.approx(2 * 2 / (3 + 2))
    assert value[-1, "ensemble/donor/f1_tuned"] == 1 and value[-1, "ensemble/acceptor/f1_tuned"] == pytest.approx(2 / 3)
    assert value[0, "test/donor/windows"] == 2 and value[0, "test/donor/windows_distinct"] == 1
    assert set(rows["metric"].str.split("/").str[0]) == {"test", "ensemble"}
    assert set(table) == {f"Fly {task} baseline seed 0 (mean of 2)" for task in ("both", "both/donor", "both/acceptor")}
    folds = [value[fold, "test/f1"] for fold in (0, 2)]
    assert table["Fly both baseline seed 0 (mean of 2)"]["f1_folds"] == pytest.approx(np.mean(folds))
    assert list(curves["Fly"]) == ["both", "donor, fitted on both", "acceptor, fitted on both"]
    assert curves["Fly"]["both"]["baseline"][1] == pytest.approx(together.species["Fly"])
    notes = missing_folds({("baseline", "both", 0): members}, 3)
    assert notes == ["baseline both seed 0: n = 2 of 3 folds, without 01"]


# -- evaluate.py benchmark ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def benchmarks(tiny_data, tmp_path_factory):
    """Folder with Benchmarks/Danio, of new windows, and Benchmarks/Human, the last training windows of each kind."""
    folder, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(5)
    for species in TINY_SPECIES:
        (folder / "Benchmarks" / species).mkdir(parents=True)
        for site in ("donor", "acceptor"):
            for kind, source in (("positive", POSITIVE), ("negative", NEGATIVE)):
                rows = (tiny_data / source.format(site)).read_text().splitlines()[-PER_FILE:]
                sequences = [next(part for part in row.split(";") if len(part) == LENGTH) for row in rows]
                if species == "Danio":  # the same centres in new surroundings
                    sequences = [random_bases(rng, 40) + bases[40:80] + random_bases(rng, 40) for bases in sequences]
                ending = {"Danio": "DANRE", "Human": "SYNTHETIC"}[species]
                text = "".join(f"x{i}_{ending};{bases}\n" for i, bases in enumerate(sequences))
                (folder / f"Benchmarks/{species}/SA_sequences_{site}_400_Final_3.{kind}.txt").write_text(text)
    return folder


def rows_of(run):
    table = pd.read_csv(run / "benchmark/benchmark.csv")
    assert list(table.columns) == ["arm", "site", "seed", "fold", "dataset", "metric", "value"]
    return table


@pytest.fixture(scope="module")
def scored(finished, benchmarks, tmp_path_factory):
    """A run without one fold and one arm after evaluate.py benchmark: .run, .out; .ensembles and .sets as scored."""
    run = Path(shutil.copytree(finished.run, tmp_path_factory.mktemp("scored") / "runs/tiny"))
    shutil.rmtree(run / "finetune/best_sccs")
    shutil.rmtree(run / "finetune/fresh/both/seed0/fold02")
    given, score = [], classifiers.score_ensembles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "score_ensembles", lambda *words: given.extend(words) or score(*words))
        out = run_here(evaluate, "benchmark", run, "--evaluate.benchmarks", benchmarks).stdout
    return SimpleNamespace(run=run, out=out, ensembles=given[0], sets=given[1])


def test_benchmark_of_a_run_and_its_report(scored, no_figures):
    out, table = scored.out, rows_of(scored.run)
    assert set(table["arm"]) == {"pwm", "kmer", "fresh", "baseline"}
    assert set(table["dataset"]) == set(TINY_SPECIES) and set(table["site"]) == {"both"}
    folds = table.query("metric == 'test/acceptor/f1_tuned' and dataset == 'Danio'").groupby("arm")["fold"].apply(list)
    assert folds["baseline"] == folds["pwm"] == list(range(FOLDS)) and folds["fresh"] == [0, 1, 3]
    assert f"fresh both seed 0: n = {FOLDS - 1} of {FOLDS} folds, without 02" in out
    assert f"Danio both/donor fresh seed 0 (mean of {FOLDS - 1})" in out
    assert "refitted differs" not in out
    assert not table.duplicated(["arm", "site", "seed", "fold", "dataset", "metric"]).any()
    kinds = {metric.rsplit("/", 1)[1] for metric in table["metric"]}
    cut = {f"{key}_tuned" for key in ("f1", "accuracy", "mcc")}
    scores = {"f1", "auc", "ap", "accuracy", "mcc", "ece", "windows"} | cut
    assert kinds == scores | {f"{key}_distinct" for key in scores} | {"threshold"}
    notes = (scored.run / "benchmark/notes.txt").read_text()
    assert set(notes.splitlines()) <= set(out.splitlines()) and f"Danio: 0 of {4 * PER_FILE} windows" in notes
    for species in TINY_SPECIES:
        assert (scored.run / f"benchmark/reliability_{species}.png").read_bytes().startswith(b"\x89PNG")
    write_report(load_config([str(scored.run / "pretrain/config.yaml"), "--runs", str(scored.run.parent)]))
    summary = pd.read_csv(scored.run / "report/summary.csv").query("dataset == 'Danio' and arm == 'baseline'")
    reported, own = summary.set_index("metric")["mean"], table.query("dataset == 'Danio' and arm == 'baseline'")
    for metric in ("test/auc", "ensemble/auc"):
        assert reported[metric] == pytest.approx(own.loc[own["metric"] == metric, "value"].mean(), abs=1e-4)


def test_validation_and_near_duplicates_are_those_of_each_fold(scored):
    config = load_config([str(scored.run / "pretrain/config.yaml"), "--runs", str(scored.run.parent)])
    windows, splits = load_windows(config.data, config.folder)
    for (arm, site, seed), members in scored.ensembles.items():
        for member in members:
            fit = scored.run / f"finetune/{arm}/{site}/seed{seed}/fold{member.fold:02d}"
            recorded = read_json(fit / "summary.json")["metrics"]
            again = classification_scores(member.labels, member.probabilities)
            assert again["auc"] == pytest.approx(recorded["val/auc"], abs=1e-5)  # as training saw it
            assert again["f1"] == pytest.approx(recorded["val/f1"], abs=1e-5)
    human, table = scored.sets["Human"], rows_of(scored.run)
    for member in scored.ensembles["baseline", "both", 0]:
        trained = {bases.tobytes() for bases in windows.ids[splits.folds["both"][member.fold]["train"]]}
        same = np.array([bases.tobytes() in trained for bases in human.ids])
        assert same.any() and not same.all()
        similar = member.similar["Human"]
        assert similar[same].all() and not member.similar["Danio"].any()
        left = table.query(
            f"arm == 'baseline' and fold == {member.fold} and dataset == 'Human' and metric == 'test/windows_distinct'"
        )
        assert left["value"].item() == (~similar).sum()


def test_a_floor_under_other_settings_than_the_run_s_is_said_to_differ(own_run, benchmarks, call, capsys):
    words = ("--evaluate.benchmarks", benchmarks, "--evaluate.pwm_flank", 2)
    call(evaluate, "benchmark", own_run / "finetune/pwm", *words)
    assert "pwm refitted differs" in capsys.readouterr().out


def test_a_part_of_a_run_is_shown_and_not_written(own_run, benchmarks, call, capsys):
    fold = own_run / "finetune/baseline/both/seed0/fold01"
    call(evaluate, "benchmark", fold, "--evaluate.benchmarks", benchmarks)
    out = capsys.readouterr().out
    assert "Human both baseline seed 0 (mean of 1)" in out and "nothing written" in out
    assert "n = 1 of 4 folds, without 00, 02, 03" in out
    call(evaluate, "benchmark", fold / "checkpoints/best", "--evaluate.benchmarks", benchmarks)
    assert capsys.readouterr().out == out  # inside a run its validation windows are known
    assert not (own_run / "benchmark").exists()


def test_a_checkpoint_outside_a_run_is_scored_at_a_half_alone(finished, benchmarks, call, capsys, tmp_path):
    fold = finished.run / "finetune/baseline/both/seed0/fold01"
    elsewhere = shutil.copytree(fold / "checkpoints/best", tmp_path / "some/where/model")
    call(evaluate, "benchmark", elsewhere, finished.config, "--evaluate.benchmarks", benchmarks)
    out = capsys.readouterr().out
    assert "no validation windows to tune" in out and "f1_tuned" not in out
    lines = [line for line in out.splitlines() if line.startswith(TINY_SPECIES)]
    assert [line[:14].strip() for line in lines] == [
        f"{species} {part}" for species in TINY_SPECIES for part in ("both", "donor", "acceptor")
    ]


def test_a_model_of_donors_is_scored_on_donors(finished, tiny_data, benchmarks, call, capsys, tmp_path):
    import finetune

    changes = {"mlm.steps": 0, "pretrain.steps": 0, "finetune.arms": ["pwm", "baseline"], "finetune.sites": ["donor"]}
    config = tiny_config(tmp_path, tiny_data, changes | {"finetune.max_epochs": 1, "finetune.folds": [0, 1]})
    call(finetune, config)
    call(evaluate, "benchmark", tmp_path / "runs/tiny", "--evaluate.benchmarks", benchmarks)
    table = rows_of(tmp_path / "runs/tiny")
    assert set(table["site"]) == {"donor"} and not table["metric"].str.contains("donor|acceptor|both").any()
    assert set(table.loc[table["metric"] == "test/windows", "value"]) == {2 * PER_FILE}
    assert "baseline donor seed 0: n = 2 of 4 folds" in capsys.readouterr().out


def test_folds_of_other_windows_are_refused(own_run, benchmarks, call, capsys):
    path = own_run / "finetune/kmer/both/seed0/fold01/predictions.csv"
    path.write_text(path.read_text().replace("donor_pos_000", "donor_pos_900"))
    summary = path.with_name("summary.json")
    write_json(summary, read_json(summary) | {"sha256": {path.name: sha256_file(path)}})
    line = refusal(call, capsys, evaluate, "benchmark", own_run, "--evaluate.benchmarks", benchmarks)
    assert "predictions.csv is of other windows" in line


def bundle(run):
    """The run as it would be passed on: models, configs, summaries."""
    for name in ("mlm", "pretrain", "splits", "report", "finetune/pwm", "finetune/kmer", "finetune/best_sccs"):
        shutil.rmtree(run / name)
    for path in run.rglob("predictions.csv"):
        path.unlink()
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_models_passed_on_are_scored_and_their_folder_stays_as_it_is(scored, own_run, benchmarks, call, capsys):
    whole, before = rows_of(scored.run), bundle(own_run)
    call(evaluate, "benchmark", own_run, "--evaluate.benchmarks", benchmarks)
    out = capsys.readouterr().out
    row = out.partition(f"Danio both baseline seed 0 (mean of {FOLDS})")[2].split()
    f1 = whole.query("arm == 'baseline' and dataset == 'Danio' and metric == 'ensemble/f1'")["value"].item()
    assert float(row[0]) == pytest.approx(f1, abs=1e-4)
    assert "nothing written" in out
    assert {path: path.stat().st_mtime_ns for path in own_run.rglob("*")} == before


def test_models_passed_on_with_other_windows_or_none_are_refused(own_run, benchmarks, call, capsys, own_data):
    bundle(own_run)
    path = own_data / POSITIVE.format("donor")
    path.write_text(path.read_text().replace("A", "C", 1))
    words = ("--evaluate.benchmarks", benchmarks, "--data.spliceator", own_data / "spliceator")
    assert "was fitted on other windows" in refusal(call, capsys, evaluate, "benchmark", own_run, *words)
    words = (*words[:3], own_data)  # which has no Training_data
    assert "data.spliceator" in refusal(call, capsys, evaluate, "benchmark", own_run, *words)


def test_a_folder_without_species_is_refused(own_run, call, capsys, tmp_path):
    line = refusal(call, capsys, evaluate, "benchmark", own_run, "--evaluate.benchmarks", tmp_path)
    assert "contains no species folder" in line

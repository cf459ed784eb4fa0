"""results/record.py: the report of a run becomes rows of results.csv that say what was compared."""

import importlib.util
import json
import sys

import pandas as pd
import pytest
from conftest import ROOT

from simcsp.core.errors import InputError
from simcsp.core.provenance import seal
from simcsp.report.verdict import COLUMNS, contrast_rows

BLANK = dict.fromkeys(contrast_rows([]).columns, None)
NONE = dict.fromkeys(COLUMNS, None)


@pytest.fixture
def record(tmp_path, monkeypatch):
    """record(RUN, ...) -> the table it leaves in a folder of its own, as text."""
    spec = importlib.util.spec_from_file_location("record", ROOT / "results/record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TABLE", tmp_path / "results.csv")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["record.py", *map(str, words)])
        module.main()
        return pd.read_csv(module.TABLE, dtype=str, keep_default_na=False)

    return run


MORE = ["--finetune.arms", "[a=/a/b/runs/c/pretrain/checkpoints/last, b=models/m]"]
MORE += ["--bases.fasta", '[data/g.fa.gz, "/a/third/chr3.fa"]', "--runs=/a/b/runs"]
"""Words of a command that name folders of one machine within a list and after an equals sign."""


def made(folder, git="a" * 40):
    """What every stage and every fit leaves behind."""
    folder.mkdir(parents=True)
    env = {
        "argv": ["finetune.py", "configs/x.yaml", "--model.source", "/a/b/runs/c/mlm/checkpoints/last", *MORE],
        "git": {"sha": git, "dirty": False},
        "started": "2026-11-25T01:00",
    }
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "config.yaml").write_text("data: {spliceator: real}\n")
    (folder / "summary.json").write_text("{}")


def few_labels(runs, name="few"):
    """A run of five pre-training seeds, of which the control's first three are fitted, on 200 labels and on all."""
    run = runs / name
    for arm, seeds in (("last", range(5)), ("control_last", range(3)), ("pwm", [None])):
        for seed in seeds:
            for size in ("", "windows200/draw0/"):
                level = "" if seed is None else f"pretrain{seed}/"
                made(run / f"finetune/{arm}/both/{level}{size}seed0/fold00")
    for seed in range(5):
        made(run / f"control/seed{seed}")
    row = NONE | {"site": "both", "dataset": "spliceator", "n": 50}
    baseline = {"diff": 0.15, "low": 0.14, "high": 0.16, "p": 1e-6, "n_paired": 5}
    rows = [row | {"arm": "last", "metric": "test/auc@200", "mean": 0.9587, **baseline}]
    rows += [row | {"arm": "pwm", "metric": metric, "mean": 0.9} for metric in ("test/auc", "val/auc")]
    rows += [row | {"arm": "control_last", "dataset": "selection", "metric": "val/sccs", "mean": 0.07, "n": 5}]
    tested = BLANK | {"arm": "last", "site": "both", "metric": "test/auc", "unit": "pre-training seeds", "n": 5}
    tested |= {"low": 0.1745399, "high": 0.19, "p": 2e-7, "seed_low": 0.176, "windows": 200}
    contrasts = [
        tested | {"reference": "baseline", "diff": 0.15, "p_holm": 0.002},
        tested | {"reference": "control_last", "diff": 0.183264, "p_holm": 0.001, "n": 3},
        tested | {"reference": "pwm", "diff": 0.024, "windows": 0},
    ]
    (run / "report").mkdir()
    pd.DataFrame(rows, columns=COLUMNS).to_csv(run / "report/summary.csv", index=False)
    pd.DataFrame(contrasts).to_csv(run / "report/contrasts.csv", index=False)
    return run


def test_every_comparison_of_the_report_is_a_row_that_names_both_arms(record, tmp_path):
    table = record(few_labels(tmp_path)).set_index(["arm", "reference", "metric"])
    primary = table.loc["last", "control_last", "test/auc@200"]
    assert primary[["diff", "low", "p", "p_holm"]].tolist() == ["0.18326", "0.17454", "2e-07", "0.001"]
    assert primary[["unit", "n_paired", "seeds", "seed_low"]].tolist() == ["pre-training seeds", "3", "0 1 2", "0.176"]
    assert primary[["train_windows", "mean", "run", "git"]].tolist() == ["200", "", "few", "a" * 12]
    assert table.loc["last", "pwm", "test/auc"][["train_windows", "seeds"]].tolist() == ["all", "0 1 2 3 4"]
    own = table.loc["last", "baseline", "test/auc@200"]  # in the arm's own row, with what the report says beside it
    assert own[["mean", "diff", "p_holm", "seeds"]].tolist() == ["0.9587", "0.15", "0.002", "0 1 2 3 4"]
    assert table.loc["pwm", "", "test/auc"]["seeds"] == "0"  # of its fits
    assert table.loc["control_last", "", "val/sccs"][["seeds", "train_windows"]].tolist() == ["0 1 2 3 4", ""]
    assert len(table) == 6
    plain = '[a=runs/c/pretrain/checkpoints/last, b=models/m] --bases.fasta [data/g.fa.gz, "chr3.fa"] --runs=runs'
    expected = f"finetune.py configs/x.yaml --model.source runs/c/mlm/checkpoints/last --finetune.arms {plain}"
    assert primary["command"] == expected  # no machine's


def test_what_was_not_taken_to_the_test_is_entered_without_its_test_scores(record, tmp_path):
    run = few_labels(tmp_path)
    record(run)
    assert record("--validation", run)["metric"].tolist() == ["val/auc", "val/sccs"]


def test_of_a_report_of_several_runs_only_what_compares_them_is_entered(record, tmp_path):
    one, other = (few_labels(tmp_path, name) for name in ("one", "other"))
    both = tmp_path / "one+other"
    (both / "report").mkdir(parents=True)
    summary = pd.read_csv(one / "report/summary.csv").iloc[[0]]
    later = summary.assign(arm="other:last")
    pd.concat([summary, later]).to_csv(both / "report/summary.csv", index=False)
    pd.read_csv(one / "report/contrasts.csv").to_csv(both / "report/contrasts.csv", index=False)
    record(both)
    (row,) = record(both).to_dict("records")
    assert (row["run"], row["arm"], row["reference"]) == ("one+other", "other:last", "baseline")
    assert row["seeds"] == "0 1 2 3 4"


def test_correlations_of_relate_are_rows(record, tmp_path):
    run = few_labels(tmp_path)
    made(run / "relate/finetune/pretrain-seed0-000000/both/windows200/draw0/seed0/fold00", "b" * 40)
    pd.DataFrame({"run": "runs/few", "seed": [0, 4]}).to_csv(run / "relate/relate.csv", index=False)
    row = {"outcome": "auc", "proxy": "sccs", "checkpoints": 51, "runs": 15, "resampled": "runs"}
    for kind in ("spearman", "kendall"):
        row |= {kind: 0.9, f"{kind}_low": 0.8, f"{kind}_high": 0.95}
    pd.DataFrame([row]).to_csv(run / "relate/correlations.csv", index=False)
    found = record(run).set_index("metric").loc["spearman/auc"]
    assert found[["arm", "mean", "low", "n", "n_paired", "unit"]].tolist() == ["sccs", "0.9", "0.8", "51", "15", "runs"]
    assert found[["seeds", "train_windows", "git"]].tolist() == ["0 4", "200", "b" * 12]


def test_a_report_that_was_edited_is_refused(record, tmp_path):
    run = few_labels(tmp_path)
    path = run / "report/summary.csv"
    seal(path.parent, {}, [path, path.with_name("contrasts.csv")])
    record(run)
    path.write_text(path.read_text().replace("0.9587", "0.9987"))
    with pytest.raises(InputError, match="summary.csv does not match its SHA-256.* evaluate.py report"):
        record(run)


def test_a_report_of_an_earlier_version_is_refused(record, tmp_path):
    run = few_labels(tmp_path)
    path = run / "report/contrasts.csv"
    pd.read_csv(path).drop(columns="seed_low").to_csv(path, index=False)
    with pytest.raises(InputError, match="no column seed_low: .* evaluate.py report"):
        record(run)
    path.unlink()
    with pytest.raises(InputError, match="contrasts.csv does not exist: run evaluate.py report"):
        record(run)

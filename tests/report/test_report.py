"""The report of made-up runs: merging, pairing, warnings, and the page; no model is trained."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal
from made_runs import ARMS, FOLDS, make_run, pretrained

import evaluate
from simcsp.metrics.clustering import lay_out
from simcsp.metrics.scores import classification_scores, corrected_ttest, holm
from simcsp.report import plots
from simcsp.report.collect import label_runs, merge
from simcsp.report.page import opening, to_html
from simcsp.report.plots import arm_styles, score_plot
from simcsp.report.status import list_runs
from simcsp.report.verdict import COLUMNS, Verdict, compare
from simcsp.report.write import write_report


def summary_of(folder, metric="test/f1"):
    table = pd.read_csv(folder / "summary.csv")
    return table[table["metric"] == metric].set_index("arm")


def f1_of(*configs):
    """The comparison in F1 without the files."""
    table = compare(merge(label_runs(list(configs))).scores, 0.01)
    return table[table["metric"] == "test/f1"].set_index("arm")


# -- one run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_figures(monkeypatch):
    """Reports without the figures of scores and predictions, which `single` has."""
    for name in ("bar_plot", "score_plot", "curve_plot", "reliability_plot"):
        monkeypatch.setattr(plots, name, lambda *_: None)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """(report folder, what the terminal shows) of one run with a control."""
    config = pretrained(make_run(tmp_path_factory.mktemp("single"), "one"))
    return config.folder / "report", write_report(config)


def test_the_table_has_the_contract_s_columns_and_the_adjusted_p(single):
    folder, _ = single
    assert tuple(pd.read_csv(folder / "summary.csv").columns) == COLUMNS
    assert COLUMNS[:11] == tuple("arm,site,dataset,metric,mean,sd,n,diff,low,high,p".split(","))
    f1 = summary_of(folder)
    assert list(f1.index) == list(ARMS) and (f1["n"] == FOLDS).all()
    adjusted = pd.read_csv(folder / "contrasts.csv").dropna(subset="p_holm")
    secondary = {("best_sccs", "control_best_sccs"), ("best_sccs", "baseline"), ("last", "baseline")}
    assert set(zip(adjusted["arm"], adjusted["reference"])) == secondary and len(adjusted) == 2 * len(secondary)
    assert adjusted["p_holm"].tolist() == pytest.approx(holm(adjusted["p"].to_numpy()), rel=1e-3)
    assert f1.index[f1["p_holm"].notna()].tolist() == ["best_sccs", "last"]  # not floors and controls
    assert (f1["n_paired"].drop("baseline") == FOLDS).all() and np.isnan(f1.loc["baseline", "n_paired"])


def test_the_primary_contrast_stands_first(single):
    folder, terminal = single
    contrasts = pd.read_csv(folder / "contrasts.csv")
    assert contrasts["primary"].tolist() == [True, True] + [False] * (len(contrasts) - 2)
    assert contrasts["metric"].tolist()[:2] == ["test/f1", "test/auc"]
    first = contrasts.iloc[0]
    assert (first["arm"], first["reference"], first["n"]) == ("last", "control_last", FOLDS)
    values = {
        arm: [json.loads(path.read_text())["metrics"]["test/f1"] for path in sorted(folds)]
        for arm, folds in ((arm, folder.parent.glob(f"finetune/{arm}/*/*/*/summary.json")) for arm in ARMS)
    }
    expected = corrected_ttest(np.subtract(values["last"], values["control_last"]), 60 / 100)
    assert first[["diff", "low", "high", "p"]].tolist() == pytest.approx(list(expected.values()), rel=1e-4)
    text = (folder / "report.md").read_text()
    verdict = re.search(r"> \*\*(.*)\*\*", text)[1]
    assert f"last - control_last = {first['diff']:+.3f} F1 [" in verdict and verdict in terminal.splitlines()
    below = text.index(f"- last minus control_last: F1 {first['diff']:+.4f}")
    assert text.index(verdict) < below < text.index("## Warnings") < text.index("## All other comparisons")


def test_donors_and_acceptors_have_scores_of_their_own(single):
    folder, _ = single
    for site in ("donor", "acceptor"):
        folds = []
        for path in folder.parent.glob("finetune/last/*/*/*/predictions.csv"):
            of_type = pd.read_csv(path)
            of_type = of_type[of_type["window"].str.startswith(site)]
            folds.append(classification_scores(*of_type[["label", "probability"]].to_numpy().T)["auc"])
        row = summary_of(folder, f"test/auc_{site}").loc["last"]
        assert (row["mean"], row["n"]) == (pytest.approx(np.mean(folds), rel=1e-5), FOLDS)
        assert f"| AUC {site}s |" in (folder / "report.md").read_text()


def test_a_report_is_sealed_for_who_reads_it_later(single, tmp_path):
    run = Path(shutil.copytree(single[0].parent, tmp_path / "one"))
    headline = re.search(r"> \*\*(.*)\*\*", (run / "report/report.md").read_text())[1]
    assert list_runs(tmp_path)[0].headline == headline
    path = run / "report/report.md"
    path.write_text(path.read_text().replace("+0.", "+1.", 1))
    (row,) = list_runs(tmp_path)
    assert "report.md does not match its SHA-256" in row.headline and "evaluate.py report" in row.headline


def test_a_verdict_names_no_link_code_or_tag():
    named = "x[y](javascript:0)`<b> - z = +0.1 F1 [+0.0, +0.2]"
    text = "\n\n".join(opening("h", Verdict("higher", named, [named]), []))
    page = Page(to_html("t", text, Path()))
    assert page.text.count(named) == 2 and not {tag for tag, _ in page.tags} & {"a", "b", "code"}
    assert "](" not in text.replace("\\](", "") and "[+0.0, +0.2]" in text


def test_report_warns_of_floors_and_of_what_was_picked_where_it_is_measured(single):
    folder, terminal = single
    warnings = (folder / "report.md").read_text().split("## Warnings")[1].split("##")[0]
    assert re.search(r"Floor not beaten in F1 \(site: both\): `baseline` 0\.\d+ against `pwm`", warnings)
    of_sccs = "Floor not beaten in SCCS before fine-tuning: `baseline` 0.100 and `last` 0.150 against `gc` 0.180"
    assert of_sccs in warnings
    assert "the SCCS of `best_sccs` before fine-tuning is the maximum" in warnings and "biased" in warnings
    assert "warning: Floor not beaten in F1" in terminal and "selection_share" not in warnings


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file(single):
    folder, _ = single
    text = (folder / "report.html").read_text()
    page = Page(text)
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    files = sorted(folder.glob("*.png"))
    assert [path.stem for path in files] == ["bars", "calibration", "curves", "differences", "f1", "proxies"]
    assert all(path.with_suffix(".svg").read_text().startswith("<?xml") for path in files)
    head = "data:image/png;base64,"
    assert sorted(base64.b64decode(src.removeprefix(head)) for src in images) == sorted(p.read_bytes() for p in files)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    assert "http" not in text and "url(" not in text
    assert all(not {"href", "srcset"} & set(attributes) for _, attributes in page.tags)
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    assert re.search(r"> \*\*(.*)\*\*", (folder / "report.md").read_text())[1] in page.text.replace("\n", " ")
    aligned = [attributes for tag, attributes in page.tags if tag == "td" and "right" in attributes.get("style", "")]
    assert len(aligned) > 20  # numbers


def test_names_in_a_page_are_shown_and_never_run(tmp_path, no_figures):
    name = "<script>alert(1)<b>`[x](javascript:0)|"
    config = pretrained(make_run(tmp_path, name))
    shutil.rmtree(next(config.folder.glob("finetune/last/both/seed0/fold*")))  # so that a warning names the run's arm
    other = make_run(tmp_path, "other<img src=x>", arms={"baseline": 0.5})
    for configs, titles in (([config], [name]), ([config, other], [name, "other<img src=x>"])):
        out = tmp_path / f"page{len(configs)}"
        write_report(*configs, out=out)
        page = Page((out / "report.html").read_text())
        assert not {tag for tag, _ in page.tags} & {"script", "b", "a"}
        assert f"{' + '.join(titles)}: comparison of arms" in page.text
        text = (out / "report.md").read_text()
        assert "javascript" in text and not re.search(r"(?<!\\)\]\(javascript", text)


def test_a_window_of_two_folds_counts_once_a_fold_and_its_two_models_are_an_ensemble(single):
    folder, _ = single
    tables = [pd.read_csv(path) for path in sorted(folder.parent.glob("finetune/last/*/*/*/predictions.csv"))]
    everything = pd.concat(tables)
    pooled = classification_scores(everything["label"].to_numpy(), everything["probability"].to_numpy())
    assert summary_of(folder, "pooled/f1").loc["last", "mean"] == pytest.approx(pooled["f1"], rel=1e-5)
    both = everything.groupby("window")[["label", "probability"]].mean()
    assert (everything.groupby("window").size() == 2).all()
    mean = classification_scores(both["label"].to_numpy(), both["probability"].to_numpy())
    assert summary_of(folder, "ensemble of 2/auc").loc["last", "mean"] == pytest.approx(mean["auc"], rel=1e-5)
    assert "ensemble of 2 F1" in (folder / "report.md").read_text()


def test_few_labels_have_a_figure_and_colours_stay_with_the_arms(tmp_path, monkeypatch, capsys, few_figures):
    config = make_run(tmp_path, "one")
    for path in sorted(config.folder.glob("finetune/*/both/seed0/fold*/summary.json")):
        summary = json.loads(path.read_text()) | {"train_windows": 50, "draw": 0}
        few = path.parent.parent.parent / "windows50/draw00/seed0" / path.parent.name
        shutil.copytree(path.parent, few)
        (few / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(config.folder / "finetune/pwm/both/seed0")  # a floor that has fits of few labels alone
    drawn, plot = [], plots.difference_plot
    monkeypatch.setattr(plots, "difference_plot", lambda table, title: drawn.append(table) or plot(table, title))
    write_report(config)
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in said if line.startswith("report: figure ")][:2] == ["bars", "f1"]
    report = config.folder / "report"
    assert set(drawn[0]["windows"]) == {0}  # whose lines do not say of how many labels they are
    assert "`pwm`" not in (report / "report.md").read_text().split("## All other comparisons")[0].split("## Splice")[1]
    assert (report / "labels.png").is_file() and "![labels]" in (report / "report.md").read_text()
    contrasts = pd.read_csv(report / "contrasts.csv")
    assert set(contrasts["windows"]) == {0, 50} and (contrasts.loc[contrasts["primary"], "windows"] == 0).all()
    assert (summary_of(report)["n"] == FOLDS).all()  # the table stays with all windows
    some, more = arm_styles(["last", "baseline"]), arm_styles(["pwm", "baseline", "x", "last"], {"pwm"})
    assert all(some[arm] == more[arm] for arm in some) and more["pwm"]["color"] != more["x"]["color"]


def test_boxes_are_drawn_from_five_folds_on(tmp_path):
    def boxes(folds):
        rows = [{"arm": "a", "site": "both", "metric": "test/f1", "value": fold / 10} for fold in range(folds)]
        figure = score_plot(pd.DataFrame(rows), "test/f1", "F1", (), "x")
        return sum(line.get_linestyle() == "-" for line in figure.axes[0].lines)

    assert boxes(4) == 0 < boxes(5)


def test_the_baseline_alone_has_a_report(tmp_path, no_figures):
    config = make_run(tmp_path, "one", arms={"baseline": 0.5})
    assert "No verdict" in write_report(config)
    row = next(line for line in (config.folder / "report/report.md").read_text().splitlines() if "`baseline`" in line)
    assert [cell.strip() for cell in row.split("|")][4:7] == ["", "", str(FOLDS)]  # difference, p, n


def test_a_missing_fold_is_counted_and_named(tmp_path, call, capsys):
    config = pretrained(make_run(tmp_path, "one"))
    (config.folder / "finetune/last/both/seed0/fold03/summary.json").unlink()
    call(evaluate, "report", config.folder)
    assert "Folds missing: last has 4 of 5 (both seed 0 fold 3 not finished)" in capsys.readouterr().out
    f1 = summary_of(config.folder / "report")
    assert (f1.loc["last", "n"], f1.loc["baseline", "n"]) == (4, 5)
    assert (f1.loc["last", "n_paired"], f1.loc["pwm", "n_paired"]) == (4, 5)
    text = (config.folder / "report/report.md").read_text()
    assert "4 folds x seeds" in text.split("## Warnings")[0]


def test_report_warns_of_overlap_selection_and_leaks(tmp_path, no_figures):
    changes = {"data.selection_share": 0.0, "data.folds": "published", "finetune.select_epoch": "shared"}
    config = pretrained(make_run(tmp_path, "one", changes=changes), best=("sccs", "nmi"))
    parts = [{"part": f"training donor {kind}", "count": 100, "shared": 7} for kind in ("positive", "negative")]
    parts += [{"part": "benchmark Fly donor positive", "count": 50, "shared": 0}]
    parts += [{"part": "motif sites", "count": 40, "shared": None}]
    (config.folder / "overlap.json").write_text(json.dumps({"parts": parts}))
    for path in config.folder.glob("finetune/*/*/*/*/summary.json"):
        path.write_text(path.read_text().replace('"test_distinct": 60', '"test_distinct": 45'))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/head.safetensors").touch()
    path = config.folder / "finetune/best_sccs/both/seed0/fold03/config.yaml"  # the first fold is another machine's
    path.write_text(path.read_text().replace("- best_sccs\n", f"- best_sccs={tmp_path / 'tuned'}\n"))
    text = write_report(config)
    assert f"best_sccs starts from {tmp_path / 'tuned'}, a fine-tuned classifier" in text
    assert text.count("a fine-tuned classifier") == 1
    assert "14 of 200 (7.0%) of the training windows" in text and "benchmark" not in text
    warnings = [line for line in text.splitlines() if line.startswith("warning: ")]
    for words in (
        ("motif", "not known"),
        ("data.selection_share is 0", "best_sccs"),
        ("finetune.select_epoch is shared",),
        ("NMI of best_nmi", "sites"),
        ("data.folds is published", "25.0%"),
    ):
        assert sum(all(word in line for word in words) for line in warnings) == 1, words


def test_proxies_of_several_pretraining_seeds_are_their_mean_with_its_spread(tmp_path, few_figures):
    config = make_run(tmp_path, "seeds")
    for seed, end in ((1, 0.11), (2, 0.13)):
        pretrained(config, seed=seed, end=end)
    write_report(config)
    sccs = summary_of(config.folder / "report", "val/sccs")
    assert sccs.loc["last", "mean"] == pytest.approx(0.12) and sccs.loc["last", "n"] == 2
    assert sccs.loc["last", "sd"] == pytest.approx(0.02 / 2**0.5, rel=1e-4)
    assert sccs.loc["baseline", ["mean", "n"]].tolist() == [0.1, 1]  # one start for all seeds
    assert (config.folder / "report/proxies.svg").is_file()


# -- several runs ------------------------------------------------------------------------------------------------------


def test_runs_are_merged_and_what_they_share_stands_once(tmp_path, call, capsys, figures, few_figures):
    one = pretrained(make_run(tmp_path, "one"))
    arms = {"baseline": ARMS["baseline"], "best_sccs": 1.2, "best_nmi": 1.0}
    two = pretrained(make_run(tmp_path, "two", arms, {"pretrain.lr": 5e-4}))
    call(evaluate, "report", one.folder, two.folder)
    folder = tmp_path / "runs/one+two/report"
    assert str(folder / "summary.csv") in capsys.readouterr().out.splitlines()[-1]
    f1 = summary_of(folder)
    assert set(f1.index) == {*ARMS, "two:best_sccs", "best_nmi"} and (f1["n"] == FOLDS).all()
    for name, run in {"best_sccs": one, "two:best_sccs": two}.items():
        alone = f1_of(run).loc["best_sccs"]
        for column in ("mean", "sd", "diff", "low", "high", "p"):
            assert f1.loc[name, column] == pytest.approx(alone[column], rel=1e-4)
    contrasts = pd.read_csv(folder / "contrasts.csv")
    assert contrasts.iloc[0][["arm", "reference", "primary"]].tolist() == ["last", "control_last", True]
    assert ("two:best_sccs", "control_best_sccs") not in set(zip(contrasts["arm"], contrasts["reference"]))
    text = (folder / "report.md").read_text()
    assert "| `pretrain.lr` | `0.001` | `0.0005` |" in text and "| two | `best_sccs` | `two:best_sccs` |" in text
    assert {path.name for path in folder.glob("proxies*.png")} == {"proxies-one.png", "proxies-two.png"}
    assert summary_of(folder, "val/sccs").index.is_unique


def test_folds_that_two_machines_finished_are_put_together(tmp_path):
    whole = make_run(tmp_path, "whole")
    parts = [make_run(tmp_path / str(i), "part", folds=folds) for i, folds in enumerate((range(2), range(2, FOLDS)))]
    pd.testing.assert_frame_equal(f1_of(*parts), f1_of(whole))


def test_other_folds_of_another_model_are_not_put_together(tmp_path):
    one = make_run(tmp_path, "one", folds=range(3))
    two = make_run(tmp_path, "two", folds=range(3, FOLDS), changes={"finetune.lr": 1e-3})
    f1 = f1_of(one, two)
    assert (f1.loc["best_sccs", "n"], f1.loc["two:best_sccs", "n"]) == (3, 2)
    assert f1.loc["two:best_sccs", "n_paired"] == 0 and np.isnan(f1.loc["two:best_sccs", "diff"])


@pytest.mark.parametrize(
    "settings, parts",
    [
        ({"digest": "1" * 64, "changes": {"data.negatives": "GS_2"}}, ["different windows", "data.negatives is GS_1"]),
        ({"digest": "1" * 64}, ["different windows", "the files under data.spliceator differ"]),
        ({"shift": 1, "changes": {"data.split_seed": 7}}, ["fold 0 of both", "30 of them the same", "data.split_seed"]),
    ],
)
def test_runs_of_other_windows_or_folds_are_refused_with_the_difference(tmp_path, call, capsys, settings, parts):
    one, two = make_run(tmp_path, "one"), make_run(tmp_path, "two", **settings)
    line = refusal(call, capsys, evaluate, "report", one.folder, two.folder)
    assert all(part in line for part in [str(one.folder), str(two.folder), "cannot be paired", *parts]), line
    assert not (tmp_path / "runs/one+two").exists()


def test_wrong_words_are_refused_in_one_line(tmp_path, call, capsys):
    run = make_run(tmp_path, "one").folder
    for words, part in (
        ((run, run), "given twice"),
        ((run, tmp_path / "tpyo"), "tpyo does not exist"),
        ((run, "--out"), "--out"),
        ((run, "--compare", "last"), "--compare"),
        ((run, "--compare", "last", "tpyo"), "tpyo"),
        ((run / "finetune",), "report takes run folders"),
    ):
        assert part in refusal(call, capsys, evaluate, "report", *words)
    assert not (run / "report").exists()


def test_out_names_the_folder(tmp_path, call, capsys):
    run = make_run(tmp_path, "one").folder
    call(evaluate, "report", run, "--out", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere/report.html").is_file() and not (run / "report").exists()


@pytest.mark.slow  # umap compiles for ten seconds
def test_the_layout_keeps_clusters_together_and_is_repeatable():
    planted = np.arange(90) % 3
    states = np.random.default_rng(0).normal(size=(90, 40)) + 8 * np.eye(40)[planted]
    threads = torch.get_num_threads()
    points = lay_out(states, seed=1)
    assert np.array_equal(points, lay_out(states, seed=1)) and points.shape == (90, 2)
    torch.set_num_threads(threads)  # numba sets its own
    nearest = np.linalg.norm(points[:, None] - points[None], axis=-1).argsort(axis=1)[:, 1]
    assert np.array_equal(planted[nearest], planted)

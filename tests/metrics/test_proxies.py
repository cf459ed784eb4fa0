"""SCCS and NMI of an encoder in detail: intervals by site type, Spliceator's windows as motif sites, the table
of NMI."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import make_windows, motif_settings, random_bases, refusal, tiny_config

import evaluate
from simcsp.core.errors import InputError
from simcsp.labels.motifs import Motifs, load_nmi_sites, spliceator_sites
from simcsp.labels.splits import load_windows, selection_windows
from simcsp.metrics.clustering import kmeans, nmi
from simcsp.metrics.proxies import measure_nmi, nmi_details, sccs_by_task, score_vectors
from simcsp.metrics.sccs import sccs
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import decode
from simcsp.text.kmers import near_duplicate_groups
from utils.arguments import load_config


@pytest.fixture(scope="module")
def tiny(tiny_data, tmp_path_factory):
    """(config file, its Config, checkpoint folder, encoder) of a tiny encoder of fresh weights, motif sites set."""
    folder = tmp_path_factory.mktemp("tiny")
    changes = motif_settings(tiny_data) | {"data.selection_share": 0.5, "evaluate.bootstrap": 50}
    path = tiny_config(folder, tiny_data, changes)
    config = load_config([str(path)])
    torch.manual_seed(0)
    model, pooling, _ = load_backbone(config.model)
    save_checkpoint(model, folder / "encoder", pooling)
    return path, config, folder / "encoder", model


def with_evaluate(config, **changes):
    return dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, **changes))


def rows_of(text):
    """[{first words: {column: value}}] of the aligned tables in `text`; a row ends with its numbers."""
    tables, head = [], None
    for line in text.splitlines():
        cells = line.split()
        numbers = [cell for cell in cells if cell.lstrip("-").replace(".", "", 1).isdigit() and "." in cell]
        if line.startswith("  ") and cells and not numbers:
            head = cells
            tables.append({})
        elif head and numbers and cells[-1] == numbers[-1]:
            tables[-1][" ".join(cells[: len(cells) - len(numbers)])] = dict(zip(head, map(float, numbers)))
    return tables


# -- SCCS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", ["all", "published"])
def test_sccs_of_both_sites_is_that_of_training_and_each_site_type_its_own(tiny, pairs):
    _, config, _, model = tiny
    config = with_evaluate(config, sccs_pairs=pairs)
    chosen = selection_windows(*load_windows(config.data, config.folder))
    settings, seed = config.evaluate, config.seed
    encoder = Encoder(model.bert, "mean", 64)

    def logged(windows):
        ids = windows.crop(config.data.context)
        views, groups = encoder.embed_twice(ids, seed), near_duplicate_groups(windows.ids)
        return score_vectors(encoder.embed(ids), views, windows.labels, settings, seed, groups)

    vectors = encoder.embed(chosen.crop(config.data.context))
    rows = sccs_by_task(vectors, chosen, settings, seed)
    assert rows["both"].items() >= {key: logged(chosen)[key] for key in ("sccs", "pair_auc")}.items()
    of_acceptors = logged(chosen.take(chosen.of_site("acceptor")))
    assert rows["acceptor"]["sccs"] == pytest.approx(of_acceptors["sccs"], abs=1e-6)
    moved = vectors + np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    to_itself = sccs_by_task(vectors, chosen, settings, seed, start=vectors)
    assert {row["diff"] for row in to_itself.values()} == {0.0} and to_itself["both"]["diff_high"] == 0
    to_other = sccs_by_task(vectors, chosen, settings, seed, start=moved)["both"]
    other = sccs(moved, chosen.labels, pairs, seed)["sccs"]
    assert to_other["diff"] == pytest.approx(rows["both"]["sccs"] - other)
    assert to_other["diff_low"] < to_other["diff"] < to_other["diff_high"]
    assert all(row["low"] < row["sccs"] < row["high"] and row["null_low"] < row["null_high"] for row in rows.values())


def test_a_site_type_with_too_few_windows_to_pair_is_refused(tiny):
    config, rng = tiny[1], np.random.default_rng(0)
    texts = [random_bases(rng, 100) for _ in range(6)]
    few = make_windows(texts, [1, 1, 0, 0, 1, 0], ["acceptor"] * 4 + ["donor"] * 2)  # of donors, one site and one other
    with pytest.raises(InputError, match="SCCS of donor: .*raise data.selection_share"):
        sccs_by_task(np.eye(6), few, config.evaluate, config.seed)


def test_the_table_of_sccs_has_every_task_with_its_error(tiny, call, capsys):
    path, _, checkpoint, _ = tiny
    call(evaluate, "sccs", checkpoint, path)
    out = capsys.readouterr().out
    (rows,) = rows_of(out)
    encoders = [str(checkpoint), "fresh", "one_hot_10", "gc"]
    assert list(rows) == [f"{task}{name}" for task in ("", "donor ", "acceptor ") for name in encoders]
    for row in rows.values():
        assert row["low"] <= row["sccs"] <= row["high"] and row["null_low"] <= 0 <= row["null_high"]
        assert 0 <= row["pair_auc"] <= 1
    assert "50 resamples of windows" in out
    call(evaluate, "sccs", checkpoint, path, "--evaluate.sccs_pairs", "published")
    out = capsys.readouterr().out
    assert "pairs: published" in out and "1.96 / sqrt(pairs - 1)" in out


def test_the_table_of_sccs_reads_what_a_wide_probe_does_and_every_row_differs_from_the_first(tiny, call, capsys):
    path, config, checkpoint, model = tiny
    wide = ("--finetune.stages", "[probe]", "--finetune.probe_flank", 3, "--finetune.probe_layer", 1)
    call(evaluate, "sccs", checkpoint, path, *wide)
    out = capsys.readouterr().out
    (rows,) = rows_of(out)
    chosen = selection_windows(*load_windows(config.data, config.folder))
    vectors = Encoder(model.bert, "mean", 64).embed_centre(chosen.crop(config.data.context), 1, 3)
    own = sccs_by_task(vectors, chosen, config.evaluate, config.seed)
    for task in ("", "donor ", "acceptor "):
        first = rows[f"{task}{checkpoint}"]
        assert first["sccs"] == pytest.approx(own[task.strip() or "both"]["sccs"], abs=1e-4) and "diff" not in first
        for name in ("fresh", "one_hot_10", "one_hot_3"):
            row = rows[f"{task}{name}"]
            assert row["diff"] == pytest.approx(row["sccs"] - first["sccs"], abs=2e-4)
        assert "diff" not in rows[f"{task}gc"]
    assert "6 bases about the site" in out and "mean_cosine" not in out


# -- Spliceator's windows as motif sites -------------------------------------------------------------------------------


def test_spliceator_windows_are_cut_with_their_motif_at_the_centre():
    rows = [
        ("AACCCGTAAC", 1, "donor"),  # GT follows the boundary
        ("AACAGCCAAC", 1, "acceptor"),  # AG precedes it
        ("AACCCGTAAA", 0, "donor"),
        ("AACAGCCAAA", 0, "acceptor"),
        ("AACCCGCAAC", 1, "donor"),  # GC
        ("AACCCCCAAC", 0, "acceptor"),
    ]
    windows = make_windows(*zip(*rows))
    sites = spliceator_sites(windows, 6)
    assert [decode(row) for row in sites.ids] == ["CCGTAA", "ACAGCC", "CCGTAA", "ACAGCC"]
    assert sites.labels.tolist() == ["GT(donor)", "AG(acceptor)", "GT(non-donor)", "AG(non-acceptor)"]
    assert spliceator_sites(windows, 10).ids.shape == (4, 8)  # no room to move ten of ten


def test_nmi_sites_of_spliceator_are_selection_windows_with_a_motif(tiny):
    _, config, _, _ = tiny
    config = with_evaluate(config, nmi_sites="spliceator")
    sites, phrase = load_nmi_sites(config)
    chosen = selection_windows(*load_windows(config.data, config.folder))
    at = chosen.ids.shape[1] // 2
    shown = [
        decode(row[at : at + 2]) == "GT" if site == "donor" else decode(row[at - 2 : at]) == "AG"
        for row, site in zip(chosen.ids, chosen.sites)
    ]
    assert len(sites.labels) == sum(shown) < len(chosen)
    assert phrase.startswith(f"{sum(shown)} of {len(chosen)} selection windows")


# -- NMI in detail -----------------------------------------------------------------------------------------------------


def test_the_details_of_nmi_agree_with_training_and_with_its_parts(tiny):
    _, config, _, model = tiny
    sites, _ = load_nmi_sites(config)
    encoder = Encoder(model.bert, "mean", 64)
    details = nmi_details(encoder.embed_centre(sites.ids, None), sites, config.seed)
    assert details.items() >= measure_nmi(encoder, sites, None, config.seed).items()
    for name in ("nmi", "ami", "ari", "nmi_k10", "probe_auc"):
        assert details[name] == pytest.approx((details[f"{name}_gt"] + details[f"{name}_ag"]) / 2)


K562 = ["donor(SSE < 0.2)", "donor(SSE > 0.8)", "acceptor(SSE < 0.2)", "acceptor(SSE > 0.8)"]


def test_more_clusters_lower_nmi_and_the_rest_shows_that_the_encoder_is_no_worse():
    rng = np.random.default_rng(0)
    labels = np.repeat(K562, 80)
    kind = np.unique(labels, return_inverse=True)[1]
    sites = Motifs(rng.integers(6, 10, size=(320, 40), dtype=np.uint8), labels)
    plain = 9 * np.eye(8)[kind] + rng.normal(size=(320, 8))
    split = np.hstack([plain, 30 * np.eye(20)[rng.integers(0, 20, 320)]])  # as good, in twenty pieces
    found = {name: nmi_details(states, sites, seed=0) for name, states in (("plain", plain), ("split", split))}
    assert found["plain"]["nmi"] > 0.9 and found["split"]["nmi"] < 0.6
    assert found["split"]["clusters"] > 2 * found["plain"]["clusters"]
    assert found["split"]["probe_auc"] == pytest.approx(found["plain"]["probe_auc"], abs=0.02)
    assert found["plain"]["probe_auc"] > 0.98
    k = nmi(kmeans(plain, 10, seed=0), labels)
    assert found["plain"]["nmi_k10_gt"] == k["nmi_gt"] and k["clusters"] == 10


def test_overlapping_sites_do_not_help_the_probe():
    # families of ten sites with the same bases: their label is their family's, and nothing else is there to learn
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(60), 10)
    labels = np.array(K562)[family % 4]
    states = rng.normal(size=(60, 32))[family] + 0.01 * rng.normal(size=(600, 32))
    bases = rng.integers(6, 10, size=(60, 40), dtype=np.uint8)
    together, apart = (
        nmi_details(states, Motifs(ids, labels), seed=0)["probe_auc"]
        for ids in (bases[family], rng.integers(6, 10, size=(600, 40), dtype=np.uint8))
    )
    assert apart > 0.9 and together < 0.75


def test_the_tables_of_nmi_show_means_and_halves(tiny, call, capsys):
    path, _, checkpoint, _ = tiny
    call(evaluate, "nmi", checkpoint, path)
    out = capsys.readouterr().out
    assert "NMI of 40 motif sites, windows of 40 nt, last layer" in out and "Traag" in out and "McInnes" in out
    means, halves = rows_of(out)
    encoders = [str(checkpoint), "fresh", "one_hot_10", "gc"]
    assert list(means) == encoders
    assert list(halves) == [f"{half} {name}" for half in ("gt", "ag") for name in encoders]
    for name in encoders:
        for key in ("nmi", "nmi_bound", "ami", "ari", "nmi_k10", "probe_auc"):
            mean = (halves[f"gt {name}"][key] + halves[f"ag {name}"][key]) / 2
            assert means[name][key] == pytest.approx(mean, abs=2e-4), (name, key)
        assert {"clusters", "nmi_sd"} <= set(means[name])


def test_nmi_without_sites_is_refused_before_anything_is_measured(tiny_data, tiny, call, capsys, tmp_path):
    line = refusal(call, capsys, evaluate, "nmi", tiny[2], tiny_config(tmp_path, tiny_data))
    assert "data.motif_bed is not set" in line and "--evaluate.nmi_sites spliceator" in line


def test_a_half_of_one_label_is_refused(own_data, tiny, call, capsys, tmp_path):
    bed = own_data / "motifs.bed"
    bed.write_text("".join(row for row in bed.read_text().splitlines(keepends=True) if "AG(non" not in row))
    path = tiny_config(tmp_path, own_data, motif_settings(own_data))
    line = refusal(call, capsys, evaluate, "nmi", tiny[2], path)
    assert "AG half" in line and "AG(acceptor)" in line and "at least two" in line

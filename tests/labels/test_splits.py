"""The published folds, folds that keep near-duplicates together, and splits that are saved."""

import itertools

import numpy as np
import pytest
from conftest import make_windows, random_bases, write_windows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import ShuffleSplit, StratifiedKFold

from simcsp.core.config import DataConfig
from simcsp.core.errors import InputError
from simcsp.labels.spliceator import Windows, load_training
from simcsp.labels.splits import (
    grouped_folds,
    make_splits,
    published_folds,
    read_splits,
    save_or_load_splits,
    simcsp_folds,
    stratified,
)
from simcsp.text.alphabet import N, decode
from simcsp.text.kmers import near_duplicate_groups

PARTS = ("train", "val", "test")


def rules(method="grouped", **changes):
    return DataConfig(**{"folds": method, "num_folds": 5, "selection_share": 0.1, **changes})


@pytest.fixture(scope="module")
def tiny(tiny_data):
    return load_training(tiny_data / "spliceator", "GS_1", 40)


# -- folds as published ------------------------------------------------------------------------------------------------


@given(st.integers(10, 60), st.integers(10, 60), st.integers(0, 5000))
@settings(max_examples=25)
def test_published_folds_are_scikit_learn_s_rotated_index_for_index(positives, negatives, seed):
    labels = np.repeat([1, 0], [positives, negatives])
    parts = [part for _, part in StratifiedKFold(10, shuffle=True, random_state=seed).split(labels, labels)]
    folds = published_folds(labels, seed)
    assert len(folds) == 10
    for k, fold in enumerate(folds):
        assert fold["val"].tolist() == parts[k].tolist()
        assert fold["test"].tolist() == [*parts[(k + 1) % 10], *parts[(k + 2) % 10]]
        assert fold["train"].tolist() == [i for step in range(3, 10) for i in parts[(k + step) % 10]]
        assert set(fold) == set(PARTS)


@given(st.integers(20, 80), st.integers(20, 80), st.integers(0, 5000))
@settings(max_examples=25)
def test_simcsp_folds_are_scikit_learn_s_index_for_index(positives, negatives, seed):
    labels = np.repeat([1, 0], [positives, negatives])
    folds = simcsp_folds(labels, seed)
    splitter = StratifiedKFold(5, shuffle=True, random_state=seed)
    for fold, (rest, test) in zip(folds, splitter.split(labels, labels), strict=True):
        train, val = next(ShuffleSplit(1, train_size=0.875, random_state=seed).split(rest))
        assert fold["test"].tolist() == test.tolist()
        assert fold["train"].tolist() == rest[train].tolist()
        assert fold["val"].tolist() == rest[val].tolist()


@pytest.mark.parametrize("method, folds_of", [("published", published_folds), ("simcsp", simcsp_folds)])
def test_published_methods_cut_each_site_type_on_its_own_and_set_nothing_aside_at_share_0(tiny, method, folds_of):
    splits = make_splits(tiny, method, 4, 0.0, 2020)
    assert len(splits.selection) == 0
    for site in ("donor", "acceptor", "both"):
        index = tiny.of_site(site)
        for fold, expected in zip(splits.folds[site], folds_of(tiny.labels[index], 2020), strict=True):
            assert all(np.array_equal(fold[part], index[expected[part]]) for part in PARTS)


# -- folds of groups ---------------------------------------------------------------------------------------------------


def planted(n_families, rng):
    """Strata in turns; windows 6 i and 6 i + 3 share 90 bases, hence across labels and site types."""
    sequences = [random_bases(rng, 120) for _ in range(6 * n_families)]
    for i in range(n_families):
        sequences[6 * i + 3] = sequences[6 * i + 3][:10] + sequences[6 * i][:90] + sequences[6 * i + 3][100:]
    return sequences


def kmers_of(windows, index):
    return {text[i : i + 80] for text in map(decode, windows.ids[index]) for i in range(len(text) - 79)}


@pytest.fixture(scope="module")
def grouped():
    """(windows of 40 families, their splits)."""
    windows = make_windows(planted(40, np.random.default_rng(0)))
    return windows, make_splits(windows, "grouped", 5, 0.1, 2020)


def test_grouped_folds_share_no_80_mer_between_parts_nor_with_the_selection(grouped):
    windows, splits = grouped
    shared = near_duplicate_groups(windows.ids)
    assert len(np.unique(shared)) == 200  # 40 of the 240 windows have a partner
    assert 16 <= len(splits.selection) <= 34
    selection = kmers_of(windows, splits.selection)
    for fold in splits.folds["both"]:
        parts = [kmers_of(windows, fold[part]) for part in PARTS] + [selection]
        for one, other in itertools.combinations(parts, 2):
            assert not one & other
    # across site types too: a donor fold is never trained on what an acceptor fold of that number tests
    for k in range(5):
        train, test = (kmers_of(windows, splits.folds[s][k][p]) for s, p in (("donor", "train"), ("acceptor", "test")))
        assert not train & test


def test_grouped_folds_rotate_stratify_and_use_every_window(grouped):
    windows, splits = grouped
    rest = np.setdiff1d(np.arange(len(windows)), splits.selection)
    for site in ("donor", "acceptor", "both"):
        mine = np.intersect1d(rest, windows.of_site(site))
        folds = splits.folds[site]
        for part, times in (("train", 2), ("val", 1), ("test", 2)):
            index, counts = np.unique(np.concatenate([fold[part] for fold in folds]), return_counts=True)
            assert index.tolist() == mine.tolist() and (counts == times).all()
        for fold in folds:
            for part in PARTS:
                assert 0.3 < windows.labels[fold[part]].mean() < 0.7


@given(st.integers(4, 8), st.integers(0, 100), st.lists(st.integers(1, 12), max_size=12))
@settings(max_examples=30)
def test_grouped_folds_are_balanced_to_a_window_a_stratum_when_most_groups_are_single(num_folds, seed, sizes):
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.arange(1000, 1400)]).astype(int)
    strata = np.array(["w", "x", "y", "z"])[rng.choice(4, len(groups), p=[0.4, 0.3, 0.2, 0.1])]
    folds = grouped_folds(strata, groups, num_folds, seed)
    for again, fold in zip(grouped_folds(strata, groups, num_folds, seed), folds, strict=True):
        assert all(np.array_equal(again[part], fold[part]) for part in PARTS)
    for stratum in "wxyz":
        held = [(strata[fold["val"]] == stratum).sum() for fold in folds]
        assert max(held) - min(held) <= 1
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 4


# -- too few windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, count", [("grouped", 7), ("published", 10), ("simcsp", 5)])
def test_a_class_with_fewer_windows_than_folds_is_refused_with_the_field(method, count):
    rng = np.random.default_rng(0)
    labels = [1] * 30 + [0] * 30 + [1] * 30 + [0] * (count - 1)
    sites = ["donor"] * 60 + ["acceptor"] * (30 + count - 1)
    windows = make_windows([random_bases(rng, 90) for _ in labels], labels, sites)
    message = rf"data.folds \({method}\): only {count - 1} acceptor negative windows, at least {count} are needed"
    with pytest.raises(InputError, match=message):
        make_splits(windows, method, 7, 0.0, 2020)


def test_a_class_that_the_selection_leaves_too_small_is_refused_with_the_field():
    rng = np.random.default_rng(0)
    windows = make_windows([random_bases(rng, 90) for _ in range(40)])
    with pytest.raises(InputError, match="data.folds .published. after data.selection_share: only [0-9] "):
        make_splits(windows, "published", 10, 0.5, 2020)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.99])
def test_a_selection_share_that_cannot_hold_every_class_is_rounded_up_or_refused_with_the_field(share):
    rng = np.random.default_rng(0)
    windows = make_windows([random_bases(rng, 90) for _ in range(48)])
    try:
        chosen = windows.take(make_splits(windows, "grouped", 4, share, 2020).selection)
    except InputError as error:
        assert "data.selection_share" in str(error)
    else:
        assert len(set(zip(chosen.sites, chosen.labels))) == 4


def test_a_class_of_nothing_but_near_duplicates_is_refused_with_the_field():
    rng = np.random.default_rng(0)
    sequences = [random_bases(rng, 90) for _ in range(60)]
    for i in range(3, 60, 4):  # acceptor negatives
        sequences[i] = sequences[3]
    with pytest.raises(InputError, match="data.selection_share|data.folds"):
        make_splits(make_windows(sequences), "grouped", 4, 0.1, 2020)


# -- saved splits ------------------------------------------------------------------------------------------------------


def same_splits(first, second):
    return np.array_equal(first.selection, second.selection) and all(
        np.array_equal(one[part], other[part])
        for site in first.folds
        for one, other in zip(first.folds[site], second.folds[site], strict=True)
        for part in PARTS
    )


@pytest.mark.parametrize("method", ["grouped", "published", "simcsp"])
def test_splits_are_made_once_and_read_back_the_same(tiny, tmp_path, monkeypatch, method):
    made = make_splits(tiny, method, 5, 0.1, 2020)
    first = save_or_load_splits(tmp_path, tiny, rules(method))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(files) == ["acceptor.csv", "both.csv", "donor.csv", "splits.json"]
    monkeypatch.setattr("simcsp.labels.splits.make_splits", None)  # would fail if called
    again = save_or_load_splits(tmp_path, tiny, rules(method))
    assert same_splits(first, again)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert set(made.selection) == set(first.selection)
    for site, folds in made.folds.items():
        for fold, saved in zip(folds, first.folds[site], strict=True):
            assert all(set(fold[part]) == set(saved[part]) for part in PARTS)


@pytest.mark.parametrize("method", ["grouped", "published", "simcsp"])
def test_reading_splits_writes_nothing_and_finds_those_that_would_be_saved(tiny, tmp_path, method):
    read = read_splits(tmp_path / "splits", tiny, rules(method))
    assert not list(tmp_path.iterdir())
    saved = save_or_load_splits(tmp_path / "splits", tiny, rules(method))
    assert same_splits(read, saved)
    assert same_splits(read_splits(tmp_path / "splits", tiny, rules(method)), saved)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"split_seed": 2021}, "split_seed was 2020, now 2021"),
        ({"folds": "published"}, "folds was grouped, now published"),
        ({"num_folds": 6}, "num_folds was 5, now 6"),
        ({"selection_share": 0.2}, "selection_share was 0.1, now 0.2"),
        ({"num_folds": 6, "split_seed": 1}, r"num_folds was 5, now 6; split_seed was 2020, now 1\)"),
    ],
)
def test_saved_splits_of_other_settings_are_refused_with_the_difference(tiny, tmp_path, change, message):
    save_or_load_splits(tmp_path, tiny, rules())
    with pytest.raises(InputError, match=message):
        save_or_load_splits(tmp_path, tiny, rules(**change))


def test_saved_splits_of_other_data_are_refused_with_the_difference(tiny, tmp_path):
    save_or_load_splits(tmp_path, tiny, rules("published"))
    ids = tiny.ids.copy()
    ids[0, 0] = N
    other = Windows(ids, tiny.labels, tiny.sites, tiny.names, tiny.groups)
    with pytest.raises(InputError, match="the windows have changed: data.spliceator"):
        save_or_load_splits(tmp_path, other, rules("published"))
    with pytest.raises(InputError, match=f"windows was {len(tiny)}, now {len(tiny) - 1}"):
        save_or_load_splits(tmp_path, tiny.take(np.arange(len(tiny) - 1)), rules("published"))


def test_splits_cut_off_while_being_saved_are_made_again(tiny, tmp_path):
    first = save_or_load_splits(tmp_path, tiny, rules())
    (tmp_path / "splits.json").unlink()
    (tmp_path / "both.csv").write_text("window,la")
    assert same_splits(save_or_load_splits(tmp_path, tiny, rules()), first)


def test_identity_of_windows_follows_bases_labels_sites_and_names(tiny, tmp_path):
    write_windows(tmp_path, np.random.default_rng(1))
    assert load_training(tmp_path / "spliceator", "GS_1", 40).sha256 != tiny.sha256
    flipped = Windows(tiny.ids, 1 - tiny.labels, tiny.sites, tiny.names, tiny.groups)
    assert flipped.sha256 != tiny.sha256


def test_every_stratum_has_a_member_among_few_however_rare_it_is():
    strata = np.array(["often"] * 98 + ["rare", "rarer"])
    for seed in range(20):
        chosen = stratified(strata, 5, seed)
        assert len(set(chosen.tolist())) == 5 and {"often", "rare", "rarer"} == set(strata[chosen])
    assert np.bincount(np.unique(strata[stratified(strata, 60, 0)], return_inverse=True)[1])[0] == 58


def test_saved_splits_say_what_their_columns_are_and_are_refused_where_they_were_cut(tiny, tmp_path):
    save_or_load_splits(tmp_path, tiny, rules())
    header, first, *_ = (tmp_path / "donor.csv").read_text().splitlines()
    assert header == "window,label,fold00,fold01,fold02,fold03,fold04"
    name, label, *parts = first.split(",")
    assert int(label) == tiny.labels[tiny.names.tolist().index(name)] and set(parts) <= {*PARTS, "selection"}
    (tmp_path / "donor.csv").write_text(f"{header}\n{first}\n")
    with pytest.raises(InputError, match="donor.csv does not match .*; restore it from a copy, or use another"):
        save_or_load_splits(tmp_path, tiny, rules())

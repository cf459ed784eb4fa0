"""Spliceator's files, the published folds, and folds that keep near-duplicates together."""

import gzip
import itertools
import re

import numpy as np
import pytest
from conftest import LENGTH, NEGATIVE, PER_CLASS, POSITIVE, put, random_bases, write_windows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import ShuffleSplit, StratifiedKFold

from simcsp.labels.examine import check_training
from simcsp.labels.spliceator import Windows, benchmark_species, dedup, load_benchmark, load_training
from simcsp.labels.splits import (
    grouped_folds,
    make_splits,
    published_folds,
    read_splits,
    save_or_load_splits,
    simcsp_folds,
    subset,
)
from simcsp.text.alphabet import N, decode, encode
from simcsp.text.kmers import near_duplicate_groups, shared_kmers, similar_to_training
from utils.errors import InputError

PARTS = ("train", "val", "test")


def rewrite(path, change):
    path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def tiny(tiny_data):
    return load_training(tiny_data / "spliceator", "GS_1", 40)


def make_windows(sequences, labels=None, sites=None):
    """Windows from strings; without labels and sites, the four strata take turns."""
    n = len(sequences)
    labels = np.arange(n) % 2 if labels is None else np.array(labels)
    sites = np.array(["donor", "acceptor"])[np.arange(n) // 2 % 2] if sites is None else np.array(sites)
    names = np.array([f"{site}_{i:05d}" for i, site in enumerate(sites)])
    return Windows(np.stack([encode(s) for s in sequences]), labels, sites, names, np.array(["x"] * n))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_windows_are_positives_then_negatives_within_each_site_type_and_in_file_order(tiny, tiny_data):
    assert len(tiny) == 4 * PER_CLASS
    for site in ("donor", "acceptor"):
        here = tiny.take(tiny.of_site(site))
        assert here.labels.tolist() == [1] * PER_CLASS + [0] * PER_CLASS
        rows = (tiny_data / POSITIVE.format(site)).read_text().splitlines()
        rows += (tiny_data / NEGATIVE.format(site)).read_text().splitlines()[1:]
        sequences = [row.split(";")[1 if i < PER_CLASS else 2] for i, row in enumerate(rows)]
        assert [decode(ids) for ids in here.ids] == sequences
    assert len(set(tiny.names)) == len(tiny)
    assert len(tiny.of_site("both")) == len(tiny)


def test_rows_are_read_by_the_published_rules(own_data):
    a, b, c = (random_bases(np.random.default_rng(i), LENGTH) for i in range(3))
    rows = ["ID_uniprot;Sequence;Type", f"Q9_X_HUMAN;{a};True\r", "", f"Q8_MOUSE;123;{b};True", "ID_uniprot again"]
    rows += [f"plain;{c.lower()}"]
    (own_data / POSITIVE.format("donor")).write_text("\n".join(rows))
    windows = load_training(own_data / "spliceator", "GS_1", 40)
    mine = windows.take((windows.sites == "donor") & (windows.labels == 1))
    assert [decode(ids) for ids in mine.ids] == [a, b, c]
    assert mine.groups.tolist() == ["HUMAN", "MOUSE", "plain"]
    assert mine.names.tolist() == ["donor_pos_00000", "donor_pos_00001", "donor_pos_00002"]


def test_gzipped_rows_are_read(own_data, tiny):
    path = own_data / POSITIVE.format("donor")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert load_training(own_data / "spliceator", "GS_1", 40).sha256 == tiny.sha256


def test_crop_keeps_the_boundary_at_the_centre(tiny):
    donors = tiny.take((tiny.sites == "donor") & (tiny.labels == 1))
    acceptors = tiny.take((tiny.sites == "acceptor") & (tiny.labels == 1))
    for length in (40, 10, 4):
        assert {decode(ids[length // 2 :][:2]) for ids in donors.crop(length)} == {"GT"}
        assert {decode(ids[: length // 2][-2:]) for ids in acceptors.crop(length)} == {"AG"}
    assert decode(donors.crop(40)[0]) == decode(donors.ids[0])[40:80]


def test_benchmarks_are_read_by_species(tmp_path):
    rng = np.random.default_rng(0)
    for species in ("Fly", "Worm"):
        for site, kind in itertools.product(("donor", "acceptor"), ("positive", "negative")):
            path = tmp_path / f"Benchmarks/{species}/SA_sequences_{site}_400_Final_3.{kind}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{kind}_{i}_{species};{random_bases(rng, 110)}\n" for i in range(3)))
    assert benchmark_species(tmp_path) == ["Fly", "Worm"]
    windows = load_benchmark(tmp_path, "Fly", 100)
    assert len(windows) == 12 and set(windows.groups) == {"Fly"}
    assert windows.labels.tolist() == [1] * 6 + [0] * 6
    assert benchmark_species(tmp_path / "none") == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text(""), "holds no window"),
        (lambda path: path.write_text("ID_uniprot;Sequence\n"), "holds no window"),
        (lambda path: rewrite(path, lambda s: s[: s.rindex(";")][:-100]), f"line {PER_CLASS}: expected `id;sequence`"),
        (lambda path: rewrite(path, lambda s: s[: s.rindex(";")][:-15]), f"line {PER_CLASS}: "),
        (lambda path: rewrite(path, lambda s: s[: s.rindex("_")]), f"line {PER_CLASS}: expected `id;sequence`"),
        (lambda path: rewrite(path, lambda s: s.replace("A", "E", 1)), "line 1: 'E' at base .* is no nucleotide code"),
        (lambda path: rewrite(path, lambda s: s.replace(";", ",")), "line 1: expected `id;sequence`"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())[:-20]), "cut short"),
    ],
    ids=[
        "missing",
        "empty",
        "header only",
        "cut in a field",
        "cut in a window",
        "cut in an id",
        "letter",
        "comma",
        "gz",
    ],
)
def test_bad_windows_are_refused_with_file_and_line(own_data, damage, message):
    damage(own_data / POSITIVE.format("donor"))
    with pytest.raises(InputError, match=f"POS_donor_600.csv.*{message}"):
        load_training(own_data / "spliceator", "GS_1", 40)


def test_a_window_shorter_than_the_context_is_refused_with_its_line(own_data):
    with pytest.raises(InputError, match=r"POS_donor_600.csv, line 1: window of 120 nt .* data.context \(400 nt\)"):
        load_training(own_data / "spliceator", "GS_1", 400)


def test_a_missing_negative_set_is_named(own_data):
    with pytest.raises(InputError, match="GS/GS_2/NEG_600_donor.csv does not exist"):
        load_training(own_data / "spliceator", "GS_2", 40)


# -- subset ------------------------------------------------------------------------------------------------------------


def test_a_part_of_the_windows_is_stratified_and_in_file_order(tiny):
    part = subset(tiny, 100, 2020)
    assert len(part) == 100
    for site, label in itertools.product(("donor", "acceptor"), (0, 1)):
        assert ((part.sites == site) & (part.labels == label)).sum() == 25
    assert [name for name in tiny.names if name in set(part.names)] == part.names.tolist()
    assert subset(tiny, 100, 2020).sha256 == part.sha256 != subset(tiny, 100, 1).sha256
    assert subset(tiny, None, 0) is tiny


@pytest.mark.parametrize("max_windows", [1, 3, 4 * PER_CLASS - 1])
def test_a_part_too_small_or_too_large_to_stratify_works_or_is_refused(tiny, max_windows):
    try:
        assert len(subset(tiny, max_windows, 2020)) == max_windows
    except InputError as error:
        assert "data.max_windows" in str(error)


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


def test_published_folds_test_every_window_twice():
    folds = published_folds(np.repeat([1, 0], [57, 43]))
    for part, times in (("train", 7), ("val", 1), ("test", 2)):
        assert (np.bincount(np.concatenate([fold[part] for fold in folds])) == times).all()


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


def test_simcsp_folds_are_70_10_20_and_test_every_window_once():
    folds = simcsp_folds(np.repeat([1, 0], [500, 500]))
    assert [[len(fold[part]) for part in PARTS] for fold in folds] == [[700, 100, 200]] * 5
    assert sorted(np.concatenate([fold["test"] for fold in folds])) == list(range(1000))


@pytest.mark.parametrize("method, folds_of", [("published", published_folds), ("simcsp", simcsp_folds)])
def test_published_methods_cut_each_site_type_on_its_own_and_set_nothing_aside_at_share_0(tiny, method, folds_of):
    splits = make_splits(tiny, method, 4, 0.0, 2020)
    assert len(splits.selection) == 0
    for site in ("donor", "acceptor", "both"):
        index = tiny.of_site(site)
        for fold, expected in zip(splits.folds[site], folds_of(tiny.labels[index], 2020), strict=True):
            assert all(np.array_equal(fold[part], index[expected[part]]) for part in PARTS)


# -- near-duplicates ---------------------------------------------------------------------------------------------------


def brute_force_groups(texts, k):
    """Union-find over sets of strings."""
    parent = list(range(len(texts)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    kmers = [{s[i : i + k] for i in range(len(s) - k + 1) if "N" not in s[i : i + k]} for s in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        if kmers[i] & kmers[j]:
            parent[root(i)] = root(j)
    return [root(i) for i in range(len(texts))]


def same_partition(first, second):
    pairs = set(zip(first, second))
    return len(pairs) == len(set(first)) == len(set(second))


@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=25), st.integers(3, 13))
@settings(max_examples=150)
def test_near_duplicate_groups_agree_with_brute_force(texts, k):
    found = near_duplicate_groups(np.stack([encode(text) for text in texts]), k)
    assert same_partition(found.tolist(), brute_force_groups(texts, k))


def test_80_shared_bases_make_a_group_79_do_not_and_chains_count():
    rng = np.random.default_rng(1)
    bases = random_bases(rng, 400)
    a, b = bases[:120], bases[40:160]  # share 80
    c = bases[120:240]  # shares 40 with b
    d = bases[121 + 40 : 281]  # shares 79 with c
    e = bases[200:320]  # shares 80 with d
    unknown = "N" * 120
    groups = near_duplicate_groups(np.stack([encode(s) for s in (a, b, c, d, e, unknown, unknown)]))
    assert groups[0] == groups[1] and groups[3] == groups[4]
    assert len(set(groups)) == 5  # stretches of N are no likeness


few_bases = st.lists(st.text("AACGTN", min_size=12, max_size=12), min_size=1, max_size=25)


@given(few_bases, st.integers(3, 13))
@settings(max_examples=100)
def test_shared_k_mers_are_those_that_two_windows_hold_and_who_holds_them(texts, k):
    kmers = [{s[i : i + k] for i in range(len(s) - k + 1) if "N" not in s[i : i + k]} for s in texts]
    holders = [tuple(i for i, mine in enumerate(kmers) if kmer in mine) for kmer in set().union(*kmers)]
    table = shared_kmers(np.stack([encode(text) for text in texts]), k).toarray()
    found = [tuple(np.flatnonzero(column)) for column in table.T]
    assert sorted(found) == sorted(holder for holder in holders if len(holder) > 1)


@given(few_bases, st.integers(3, 8), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_windows_like_those_trained_on_agree_with_brute_force(texts, k, random):
    parts = [[], [], []]  # a third of the windows is in neither part
    for i in range(len(texts)):
        random.choice(parts).append(i)
    train, test = (np.array(part, dtype=np.int64) for part in parts[:2])
    kmers = [{s[i : i + k] for i in range(len(s) - k + 1) if "N" not in s[i : i + k]} for s in texts]
    trained = set().union(*(kmers[i] for i in train))
    found = similar_to_training(shared_kmers(np.stack([encode(text) for text in texts]), k), train, test)
    assert found.tolist() == [bool(kmers[i] & trained) for i in test]


def test_a_chain_is_no_likeness_to_the_training_part():
    bases = random_bases(np.random.default_rng(0), 400)
    windows = np.stack([encode(bases[i : i + 120]) for i in (0, 40, 80)])  # the first and the last share 40
    assert len(set(near_duplicate_groups(windows))) == 1
    assert similar_to_training(shared_kmers(windows), np.array([0]), np.array([1, 2])).tolist() == [True, False]


# -- exact duplicates --------------------------------------------------------------------------------------------------


def test_of_exact_duplicates_the_first_is_kept_and_of_contradictory_ones_none():
    rng = np.random.default_rng(0)
    a, b, c, d, e, f = (random_bases(rng, 90) for _ in range(6))
    rows = [
        (a, 1, "donor"),
        (b, 1, "donor"),
        (a, 1, "donor"),  # a repeat
        (a, 1, "acceptor"),  # of the other site type: kept
        (b, 0, "acceptor"),  # of the other site type: no contradiction
        (c, 1, "donor"),
        (c, 0, "donor"),  # contradicts the one before
        (c, 1, "donor"),
        (d, 0, "donor"),
        (e, 0, "acceptor"),
        (e, 0, "acceptor"),
        (e[:-1] + ("A" if e[-1] != "A" else "C"), 0, "acceptor"),  # a base apart
        (f, 0, "donor"),
    ]
    windows = make_windows(*zip(*rows))
    kept, remark = dedup(windows)
    assert kept.names.tolist() == [windows.names[i] for i in (0, 1, 3, 4, 8, 9, 11, 12)]
    assert remark == ("2 exact duplicates and 3 windows that occur with both labels left out, 8 of 13 kept")
    again, remark = dedup(kept)
    assert again.sha256 == kept.sha256 and remark.startswith("0 exact duplicates and 0 windows")


def test_windows_without_duplicates_are_all_kept(tiny):
    assert dedup(tiny)[0].sha256 == tiny.sha256


def test_a_file_that_is_a_copy_of_the_other_label_s_is_refused(tiny):
    ids = tiny.ids.copy()
    ids[(tiny.sites == "donor") & (tiny.labels == 0)] = ids[(tiny.sites == "donor") & (tiny.labels == 1)]
    with pytest.raises(InputError, match="data.dedup: every donor negative window also occurs with the other label"):
        dedup(Windows(ids, tiny.labels, tiny.sites, tiny.names, tiny.groups))


# -- folds of groups ---------------------------------------------------------------------------------------------------


def planted(n_families, rng):
    """Strata in turns; windows 6 i and 6 i + 3 share 90 bases, hence across labels and site types."""
    sequences = [random_bases(rng, 120) for _ in range(6 * n_families)]
    for i in range(n_families):
        sequences[6 * i + 3] = sequences[6 * i + 3][:10] + sequences[6 * i][:90] + sequences[6 * i + 3][100:]
    return sequences


def kmers_of(windows, index):
    return {text[i : i + 80] for text in map(decode, windows.ids[index]) for i in range(len(text) - 79)}


def test_grouped_folds_share_no_80_mer_between_parts_nor_with_the_selection():
    windows = make_windows(planted(40, np.random.default_rng(0)))
    splits = make_splits(windows, "grouped", 5, 0.1, 2020)
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


def test_the_same_windows_are_parted_without_grouping():
    # What the test above would see if `grouped` did nothing.
    windows = make_windows(planted(40, np.random.default_rng(0)))
    fold = make_splits(windows, "published", 10, 0.0, 2020).folds["both"][0]
    assert kmers_of(windows, fold["train"]) & kmers_of(windows, fold["test"])


def test_grouped_folds_rotate_stratify_and_use_every_window():
    windows = make_windows(planted(40, np.random.default_rng(0)))
    splits = make_splits(windows, "grouped", 5, 0.1, 2020)
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


def test_grouped_folds_keep_groups_whole():
    rng = np.random.default_rng(3)
    groups, strata = rng.integers(0, 60, 200), rng.integers(0, 4, 200)
    for fold in grouped_folds(strata, groups, 5, 0):
        parts = [set(groups[fold[part]]) for part in PARTS]
        assert not any(one & other for one, other in itertools.combinations(parts, 2))


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


def test_grouped_folds_of_another_seed_are_others():
    groups, strata = np.arange(100), np.arange(100) % 2
    first, second = (grouped_folds(strata, groups, 5, seed)[0]["val"] for seed in (0, 1))
    assert set(first) != set(second)


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


# -- the report on a copy ----------------------------------------------------------------------------------------------


def test_every_fault_planted_in_a_copy_is_counted_in_its_report(tmp_path):
    rng, motif = np.random.default_rng(0), {"donor": "GT", "acceptor": "AG"}
    files = {
        f"{site} {label}": [put(random_bases(rng, 160), 80 if site == "donor" else 78, motif[site]) for _ in range(20)]
        for label in ("positive", "negative")
        for site in motif
    }
    files["donor positive"][0] = put(files["donor positive"][0], 80, "GC")
    files["donor positive"][3] = files["donor positive"][4]  # a repeat
    files["donor negative"][0] = files["donor positive"][9]  # the same bases under both labels
    centre = files["acceptor positive"][7][20:140]  # the central 120 nt alone
    files["acceptor negative"][8] = put(files["acceptor negative"][8], 20, centre)
    files["acceptor negative"][9] = files["donor negative"][5]  # of another site type: no conflict, yet alike
    for name, windows in files.items():
        site, label = name.split()
        path = tmp_path / (POSITIVE if label == "positive" else NEGATIVE).format(site)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{site}_{i}_X;{bases};x\n" for i, bases in enumerate(windows)))
    report = check_training(tmp_path / "spliceator", 120)
    rows = {line[:17].strip(): line.split()[2:] for line in report.splitlines() if line.startswith(tuple(files))}
    assert rows["donor positive"] == ["20", "10973", "19", "1", "1", "3"]  # GT, repeats, conflicts, near-duplicates
    assert rows["donor negative"] == ["20", "11000", "20", "0", "1", "2"]
    assert rows["acceptor positive"] == ["20", "11179", "20", "0", "1", "1"]
    assert rows["acceptor negative"] == ["20", "11000", "19", "0", "1", "2"]
    assert "NOT those published" in report
    assert 0 < float(re.search(r"both ([\d.]+)%", report)[1]) < 10 * 100 / 80  # at most the eight alike


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
    first = save_or_load_splits(tmp_path, tiny, method, 5, 0.1, 2020)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(files) == ["acceptor.csv", "both.csv", "donor.csv", "splits.json"]
    monkeypatch.setattr("simcsp.labels.splits.make_splits", None)  # would fail if called
    again = save_or_load_splits(tmp_path, tiny, method, 5, 0.1, 2020)
    assert same_splits(first, again)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert set(made.selection) == set(first.selection)
    for site, folds in made.folds.items():
        for fold, saved in zip(folds, first.folds[site], strict=True):
            assert all(set(fold[part]) == set(saved[part]) for part in PARTS)


@pytest.mark.parametrize("method", ["grouped", "published", "simcsp"])
def test_reading_splits_writes_nothing_and_finds_those_that_would_be_saved(tiny, tmp_path, method):
    read = read_splits(tmp_path / "splits", tiny, method, 5, 0.1, 2020)
    assert not list(tmp_path.iterdir())
    saved = save_or_load_splits(tmp_path / "splits", tiny, method, 5, 0.1, 2020)
    assert same_splits(read, saved)
    assert same_splits(read_splits(tmp_path / "splits", tiny, method, 5, 0.1, 2020), saved)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 2021}, "split_seed was 2020, now 2021"),
        ({"method": "published"}, "folds was grouped, now published"),
        ({"num_folds": 6}, "num_folds was 5, now 6"),
        ({"selection_share": 0.2}, "selection_share was 0.1, now 0.2"),
    ],
)
def test_saved_splits_of_other_settings_are_refused_with_the_difference(tiny, tmp_path, change, message):
    settings = {"method": "grouped", "num_folds": 5, "selection_share": 0.1, "seed": 2020}
    save_or_load_splits(tmp_path, tiny, **settings)
    with pytest.raises(InputError, match=message):
        save_or_load_splits(tmp_path, tiny, **{**settings, **change})


def test_saved_splits_of_other_data_are_refused_with_the_difference(tiny, tmp_path):
    save_or_load_splits(tmp_path, tiny, "published", 10, 0.1, 2020)
    ids = tiny.ids.copy()
    ids[0, 0] = N
    other = Windows(ids, tiny.labels, tiny.sites, tiny.names, tiny.groups)
    with pytest.raises(InputError, match="data_sha256 was"):
        save_or_load_splits(tmp_path, other, "published", 10, 0.1, 2020)
    with pytest.raises(InputError, match=f"windows was {len(tiny)}, now {len(tiny) - 1}"):
        save_or_load_splits(tmp_path, tiny.take(np.arange(len(tiny) - 1)), "published", 10, 0.1, 2020)


def test_splits_cut_off_while_being_saved_are_made_again(tiny, tmp_path):
    first = save_or_load_splits(tmp_path, tiny, "grouped", 5, 0.1, 2020)
    (tmp_path / "splits.json").unlink()
    (tmp_path / "both.csv").write_text("window,la")
    assert same_splits(save_or_load_splits(tmp_path, tiny, "grouped", 5, 0.1, 2020), first)


def test_identity_of_windows_follows_bases_labels_sites_and_names(tiny, tmp_path):
    write_windows(tmp_path, np.random.default_rng(1))
    assert load_training(tmp_path / "spliceator", "GS_1", 40).sha256 != tiny.sha256
    flipped = Windows(tiny.ids, 1 - tiny.labels, tiny.sites, tiny.names, tiny.groups)
    assert flipped.sha256 != tiny.sha256

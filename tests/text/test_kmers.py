"""Shared k-mers: hashes, look-up in a text, and near-duplicates, against brute force."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import other_strand, random_bases, stack, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

import simcsp.text.kmers
from simcsp.labels.spliceator import load_benchmark, load_training
from simcsp.text.alphabet import N, encode
from simcsp.text.kmers import (
    KmerSet,
    kmer_hashes,
    near_duplicate_groups,
    near_duplicates,
    positions_in_text,
    shared_kmers,
    shared_windows,
    similar_to_training,
)
from simcsp.text.store import open_store


def kmers_of(text, k):
    """Start and letters of each k-mer of a string, those with an N left out."""
    return [(i, text[i : i + k]) for i in range(len(text) - k + 1) if "N" not in text[i : i + k]]


def either_strand(texts, k):
    return {kmer for text in texts for strand in (text, other_strand(text)) for _, kmer in kmers_of(strand, k)}


# Few letters, so that short k-mers are often shared.
few_letters = st.text("AACGTN", min_size=0, max_size=40)
windows_of_10 = st.lists(st.text("AACGTN", min_size=10, max_size=10), min_size=1, max_size=6)


# -- hashes ------------------------------------------------------------------------------------------------------------


def test_no_two_of_a_million_k_mers_collide():
    hashes, _ = kmer_hashes(np.random.default_rng(0).integers(6, 10, 1_000_000).astype(np.uint8))
    assert len(set(hashes.tolist())) == len(hashes)
    repeats = ["AC" * 40, "CA" * 40, "ACAC" * 19 + "CACA", "A" * 80, "A" * 79 + "C", "C" + "A" * 79, "AAC" * 26 + "AA"]
    assert len(set(kmer_hashes(stack(repeats))[0].ravel().tolist())) == len(repeats)


# -- look-up -----------------------------------------------------------------------------------------------------------


def test_a_set_of_nothing_finds_nothing():
    kmers = KmerSet.of([encode("ACGT")[None]], 80)
    assert len(kmers.hashes) == 0
    assert not positions_in_text(kmers, encode("ACGT" * 50)).any()
    assert not shared_windows(np.empty((0, 100), dtype=np.uint8), [encode("ACGT" * 50)]).any()


# -- windows and text --------------------------------------------------------------------------------------------------


@given(windows_of_10, st.lists(few_letters, max_size=4), st.integers(3, 11))
@settings(max_examples=150)
def test_shared_windows_agree_with_brute_force(texts, pieces, k):
    wanted = either_strand(pieces, k)
    expected = [any(kmer in wanted for _, kmer in kmers_of(text, k)) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simcsp.text.kmers, "_PIECE", 7)
        patch.setattr(simcsp.text.kmers, "_BLOCK", 2)
        assert shared_windows(stack(texts), map(encode, pieces), k).tolist() == expected


@given(windows_of_10, few_letters, st.integers(3, 11))
@settings(max_examples=150)
def test_positions_agree_with_brute_force_and_masking_them_leaves_nothing_shared(texts, piece, k):
    wanted = either_strand(texts, k)
    expected = np.zeros(len(piece), dtype=bool)
    for start, kmer in kmers_of(piece, k):
        expected[start : start + k] |= kmer in wanted
    text = encode(piece).copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simcsp.text.kmers, "_PIECE", 7)
        covered = positions_in_text(KmerSet.of([stack(texts)], k), text)
    assert covered.tolist() == expected.tolist()
    text[covered] = N
    assert not shared_windows(stack(texts), [text], k).any()


def test_80_bases_are_shared_79_are_not_nor_80_across_two_records(tmp_path):
    rng = np.random.default_rng(2)
    a, b = random_bases(rng, 400), random_bases(rng, 400)
    store = open_store([write_fasta(tmp_path / "text.fa", {"a": a, "b": b})], tmp_path)
    around = [random_bases(rng, 20) for _ in range(6)]
    windows = [
        around[0] + a[100:180],
        other_strand(around[1] + a[100:180]),
        around[2] + a[100:179] + "N",
        around[3] + a[-40:] + b[:40],
        around[4] + b[-80:],
        around[5] + b[:80],
    ]
    windows[2] = windows[2].replace("N", "ACGT"["TGCA".index(a[179])])
    records = [store.ids[record.offset : record.offset + record.length] for record in store.records]
    assert shared_windows(stack(windows), records).tolist() == [True, True, False, False, True, True]
    assert shared_windows(stack(windows), [store.ids]).tolist() == [True, True, False, True, True, True]


def test_a_long_text_is_read_piece_by_piece_without_a_seam():
    rng = np.random.default_rng(3)
    piece = simcsp.text.kmers._PIECE
    text = rng.integers(6, 10, 3 * piece).astype(np.uint8)
    starts = np.concatenate([piece - np.arange(81), 2 * piece + np.arange(-40, 41), [0]])
    windows = text[starts[:, None] + np.arange(80)]
    assert shared_windows(windows, [text]).all()
    covered = positions_in_text(KmerSet.of([windows]), text)
    expected = np.zeros(len(text), dtype=bool)
    expected[starts[:, None] + np.arange(80)] = True
    assert np.array_equal(covered, expected)


# -- near-duplicates ---------------------------------------------------------------------------------------------------


def canonical_kmers(text, k):
    """Of each k-mer without N and its reverse complement the first in the alphabet."""
    kmers = (text[i : i + k] for i in range(len(text) - k + 1))
    return {min(kmer, other_strand(kmer)) for kmer in kmers if "N" not in kmer}


def brute_force_groups(texts, k):
    """Union-find over sets of strings."""
    parent = list(range(len(texts)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    kmers = [canonical_kmers(s, k) for s in texts]
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
    found = near_duplicate_groups(stack(texts), k)
    assert same_partition(found.tolist(), brute_force_groups(texts, k))


def test_80_shared_bases_make_a_group_79_do_not_and_chains_count():
    rng = np.random.default_rng(1)
    bases = random_bases(rng, 400)
    a, b = bases[:120], bases[40:160]  # share 80
    c = bases[120:240]  # shares 40 with b
    d = bases[121 + 40 : 281]  # shares 79 with c
    e = bases[200:320]  # shares 80 with d
    unknown = "N" * 120
    groups = near_duplicate_groups(stack([a, b, c, d, e, unknown, unknown]))
    assert groups[0] == groups[1] and groups[3] == groups[4]
    assert len(set(groups)) == 5  # stretches of N are no likeness


few_bases = st.lists(st.text("AACGTN", min_size=12, max_size=12), min_size=1, max_size=25)


@given(few_bases, st.integers(3, 13))
@settings(max_examples=100)
def test_shared_k_mers_are_those_that_two_windows_hold_and_who_holds_them(texts, k):
    kmers = [canonical_kmers(s, k) for s in texts]
    holders = [tuple(i for i, mine in enumerate(kmers) if kmer in mine) for kmer in set().union(*kmers)]
    table = shared_kmers(stack(texts), k).toarray()
    found = [tuple(np.flatnonzero(column)) for column in table.T]
    assert sorted(found) == sorted(holder for holder in holders if len(holder) > 1)


@given(few_bases, st.integers(3, 8), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_windows_like_those_trained_on_agree_with_brute_force(texts, k, random):
    parts = [[], [], []]  # a third of the windows is in neither part
    for i in range(len(texts)):
        random.choice(parts).append(i)
    train, test = (np.array(part, dtype=np.int64) for part in parts[:2])
    kmers = [canonical_kmers(s, k) for s in texts]
    trained = set().union(*(kmers[i] for i in train))
    found = similar_to_training(shared_kmers(stack(texts), k), train, test)
    assert found.tolist() == [bool(kmers[i] & trained) for i in test]


# -- near-duplicates of a batch ---------------------------------------------------------------------------------------


@given(st.lists(st.text("AACGTN", min_size=12, max_size=12), min_size=1, max_size=7), st.integers(1, 13))
def test_near_duplicates_equal_a_plain_loop(windows, k):
    found = near_duplicates(stack(windows), k)
    for i, one in enumerate(windows):
        for j, other in enumerate(windows):
            assert found[i, j] == (i == j or bool(either_strand([one], k) & either_strand([other], k)))


def test_near_duplicates_are_moved_windows_and_those_of_the_other_strand():
    rng = np.random.default_rng(0)
    text = random_bases(rng, 1000)
    windows = [text[:510], text[430:940], text[431:941], other_strand(text[400:910]), random_bases(rng, 510), "N" * 510]
    found = near_duplicates(stack(windows))
    expected = np.eye(6, dtype=bool)
    for i, j in [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]:  # 0 and 2 share 79
        expected[i, j] = expected[j, i] = True
    assert np.array_equal(found, expected) and found.dtype == bool


def test_short_windows_are_near_duplicates_when_they_overlap_by_half():
    text = random_bases(np.random.default_rng(0), 60)
    found = near_duplicates(stack(text[i : i + 40] for i in (0, 19, 20)))
    assert found.tolist() == [[True, True, True]] * 3
    found = near_duplicates(stack(text[i : i + 39] for i in (0, 21)))
    assert found.tolist() == [[True, False], [False, True]]


# -- real data ---------------------------------------------------------------------------------------------------------

needs_real_data = pytest.mark.skipif(not os.environ.get("SIMCSP_REAL_DATA"), reason="SIMCSP_REAL_DATA is not set")


@needs_real_data
def test_held_out_human_windows_share_as_much_with_the_training_windows_as_recorded():
    folder = Path(os.environ["SIMCSP_REAL_DATA"]) / "spliceator"
    trained, held_out = load_training(folder, "GS_1", 400), load_benchmark(folder, "Human", 400)
    shares = []
    for site in ("donor", "acceptor"):
        train, test = trained.take(trained.of_site(site)), held_out.take(held_out.of_site(site))
        padded = np.pad(test.ids, ((0, 0), (100, 100)), constant_values=N)
        kmers = shared_kmers(np.concatenate([train.ids, padded]))
        like = similar_to_training(kmers, np.arange(len(train)), len(train) + np.arange(len(test)))
        shares.append((like[test.labels == 1].mean(), like[test.labels == 0].mean()))
        # The training windows as one text, an N between two of them, shares the same.
        either = shared_windows(test.ids, [np.pad(train.ids, ((0, 0), (0, 1)), constant_values=N).ravel()])
        assert (either == like).all()
    # Counted on both strands with Python sets of strings as well.
    assert shares[0] == pytest.approx((0.020625, 0.20375), abs=1e-9)
    assert 0.01 < shares[1][0] < 0.03 and shares[1][1] == pytest.approx(0.2, abs=0.04)

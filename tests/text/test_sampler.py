"""The windows that a training step reads."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import other_strand, random_bases, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from simcsp.core.errors import InputError
from simcsp.text.alphabet import N, decode
from simcsp.text.sampler import Intervals, WindowSampler, whole_records
from simcsp.text.store import open_store


def make_store(folder, records):
    return open_store([write_fasta(folder / "text.fa", records)], folder / "cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A store of three records of different lengths, the second with a gap of N."""
    rng = np.random.default_rng(5)
    records = {"a": random_bases(rng, 900), "b": random_bases(rng, 300), "short": random_bases(rng, 19)}
    records["b"] = records["b"][:100] + "N" * 80 + records["b"][180:]
    return make_store(tmp_path_factory.mktemp("text"), records)


def bases_of(store):
    return {record.name: decode(store.fetch(record.name, 0, record.length)) for record in store.records}


def assert_real_bases(rows, store, length):
    """No [UNK] or other special token, and every row is a stretch of one record, read on one of its strands."""
    assert rows.min() >= N
    records = bases_of(store).values()
    for row in map(decode, rows):
        assert len(row) == length
        assert any(row in record or other_strand(row) in record for record in records)


def assert_all_different(rows):
    assert len(np.unique(rows, axis=0)) == len(rows)


@given(
    st.lists(st.text("ACGTNacgtuRY", min_size=30, max_size=120), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(0, 50),
    st.sampled_from(["random", "strided"]),
)
@settings(max_examples=60)
def test_a_batch_of_any_fasta_holds_real_bases(texts, length, step, sampling):
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), {f"r{i}": bases for i, bases in enumerate(texts)})
        sampler = WindowSampler(store, length, sampling, max_n_share=1.0)
        windows = [bases[i : i + length] for bases in bases_of(store).values() for i in range(len(bases) - length + 1)]
        different = len({*windows, *map(other_strand, windows)})
        rows = sampler.batch(step, min(1 + different // 8, len(sampler)))
    assert_real_bases(rows, store, length)
    if sampling == "random":
        assert_all_different(rows)


def test_a_text_with_too_few_different_windows_for_a_batch_is_refused(tmp_path):
    store = make_store(tmp_path, {"repeat": "ACG" * 100})
    sampler = WindowSampler(store, 12)
    assert_all_different(sampler.batch(0, 6))  # three phases on two strands
    with pytest.raises(InputError, match=r"batch_size \(7\).*different windows of 12 nt"):
        sampler.batch(0, 7)


def test_random_windows_come_from_everywhere_and_from_no_record_that_is_too_short(text):
    sampler = WindowSampler(text, 20, both_strands=False, max_n_share=1.0)
    assert len(sampler) == (900 - 19) + (300 - 19)
    seen = {decode(row) for step in range(200) for row in sampler.batch(step, 64)}
    records = bases_of(text)
    windows = {records[name][i : i + 20] for name in "ab" for i in range(len(records[name]) - 19)}
    assert seen <= windows
    assert len(seen) > 0.99 * len(windows)


def test_strided_epoch_reads_every_window_once_and_the_next_in_another_order(text):
    sampler = WindowSampler(text, 20, "strided", 10, both_strands=False, max_n_share=1.0)
    records = bases_of(text)
    windows = [records[name][i : i + 20] for name in "ab" for i in range(0, len(records[name]) - 19, 10)]
    assert len(sampler) == len(windows) == 118
    epochs = [[decode(row) for step in range(59 * e, 59 * (e + 1)) for row in sampler.batch(step, 2)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(windows)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_windows_with_too_much_n_are_left_out(text, sampling):
    sampler = WindowSampler(text, 20, sampling, 1, max_n_share=0.1, intervals=whole_records(text, ["b"]))
    rows = np.concatenate([sampler.batch(step, 100) for step in range(10)])
    shares = (rows == N).mean(axis=1)
    assert shares.max() == 0.1  # the edge of the gap is read, up to the limit


@pytest.mark.parametrize("minus", [False, True])
def test_both_strands_of_an_interval_are_read_half_of_the_time_where_asked_for(text, minus):
    where, forward = intervals((0, 900, minus, 1)), bases_of(text)["a"]
    sampler = WindowSampler(text, 20, intervals=where)
    rows = [decode(row) for step in range(20) for row in sampler.batch(step, 50)]
    share = np.mean([row in forward for row in rows])
    assert 0.44 < share < 0.56  # 1,000 draws: four standard errors
    only = WindowSampler(text, 20, both_strands=False, intervals=where).batch(0, 50)
    assert all((decode(row) in forward) != minus for row in only)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 901}, r"data.window \(901 nt\) is longer than every record or gene of \['text.fa'\] .*900"),
        ({"length": 20, "records": ["a", "chrX"]}, "data.records: no record 'chrX'"),
        ({"length": 20, "records": []}, "data.records"),
        ({"length": 20, "records": ["short"]}, r"data.window \(20 nt\) is longer .*longest 19 nt"),
    ],
)
def test_impossible_windows_are_refused_with_the_field(text, settings, message):
    with pytest.raises(InputError, match=message):
        WindowSampler(text, settings["length"], intervals=whole_records(text, settings.get("records")))


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_a_text_of_nothing_but_n_is_refused(tmp_path, sampling):
    store = make_store(tmp_path, {"gap": "N" * 500})
    with pytest.raises(InputError, match=r"data.max_n_share \(0.05\).*20 nt"):
        WindowSampler(store, 20, sampling)


def test_a_batch_larger_than_the_strided_text_is_refused(text):
    sampler = WindowSampler(text, 20, "strided", 300)
    with pytest.raises(InputError, match=re.escape(f"batch_size (64) is more than the {len(sampler)} strided windows")):
        sampler.batch(0, 64)


# -- intervals ---------------------------------------------------------------------------------------------------------


def intervals(*rows):
    """Intervals of (start, length, minus, odds) rows."""
    start, length, minus, odds = zip(*rows)
    return Intervals(np.array(start), np.array(length), np.array(minus), np.array(odds, dtype=float))


def test_intervals_are_taken_by_index_or_mask_and_known_by_their_hash():
    three = intervals((0, 50, False, 1), (60, 40, True, 2), (200, 30, False, 1))
    assert len(three) == 3
    assert three.take(np.array([2, 0])).start.tolist() == [200, 0]
    assert three.take(three.minus).length.tolist() == [40]
    changed = [((1, 50, False, 1),), ((0, 51, False, 1),), ((0, 50, True, 1),), ((0, 50, False, 3),)]
    hashes = {intervals(*rows).sha256 for rows in (((0, 50, False, 1),), *changed)}
    assert len(hashes) == 5
    assert three.take(np.arange(3)).sha256 == three.sha256


@pytest.mark.parametrize("sampling", ["random", "strided"])
def test_windows_lie_in_an_interval_and_are_read_on_its_strand(text, sampling):
    where = intervals((0, 100, False, 1), (300, 60, True, 1), (880, 40, False, 1), (500, 19, False, 1))
    # the third lies over the border of two records: the sampler reads what it is told to
    sampler = WindowSampler(text, 20, sampling, 1, both_strands=False, intervals=where)
    bases = decode(text.ids)
    expected = [bases[i : i + 20] for first, n in ((0, 100), (880, 40)) for i in range(first, first + n - 19)]
    expected += [other_strand(bases[i : i + 20]) for i in range(300, 341)]
    assert len(sampler) == len(expected)
    rows = {decode(row) for step in range(60) for row in sampler.batch(step, 32)}
    assert rows == set(expected)


@pytest.mark.parametrize("odds", [(1, 1, 1), (5, 1, 0), (1e-300, 3e-300, 1e-300), (0, 0, 2)])
def test_windows_are_drawn_by_the_odds_of_their_interval(text, odds):
    spans = [(0, 100), (200, 60), (400, 220)]
    where = intervals(*((start, length, False, o) for (start, length), o in zip(spans, odds)))
    sampler = WindowSampler(text, 20, both_strands=False, intervals=where)
    bases = decode(text.ids)
    index = {bases[s + i : s + i + 20]: k for k, (s, n) in enumerate(spans) for i in range(n - 19)}
    drawn = [index[decode(row)] for step in range(1000) for row in sampler.batch(step, 2)]
    counts = np.bincount(drawn, minlength=3) / len(drawn)
    expected = np.array([(n - 19) * o for (_, n), o in zip(spans, odds)])
    expected = expected / expected.sum()
    assert (np.abs(counts - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / len(drawn))).all()


def test_strided_windows_of_overlapping_intervals_are_read_once_a_strand(text):
    where = intervals((0, 60, False, 1), (10, 50, False, 1), (10, 50, True, 1), (10, 30, True, 1))
    sampler = WindowSampler(text, 20, "strided", 10, both_strands=False, intervals=where)
    bases = decode(text.ids)
    forward = [bases[i : i + 20] for i in range(0, 41, 10)]
    read = [decode(sampler.batch(step, 1)[0]) for step in range(len(sampler))]
    assert sorted(read) == sorted(forward + [other_strand(window) for window in forward[1:]])

"""The journal of a long command: whatever a kill left of it, what was whole is read back and the rest is done again."""

import fcntl
import resource

import pytest

from simcsp.core.errors import InputError
from simcsp.genome.journal import Journal

JOB = {"model": "abc", "--region": [(0, 1, 9)]}
ENTRIES = [b"one", b"", b"two\n" * 5]


def written(path, entries=ENTRIES, job=JOB):
    with Journal(path, job) as journal:
        assert list(journal.entries()) == []
        for entry in entries:
            journal.add(entry)
    return path.read_bytes()


def test_cut_at_any_byte_it_keeps_the_whole_entries_and_takes_on_more(tmp_path):
    path = tmp_path / "x.partial"
    whole = written(path)
    sizes = [len(entry) + 8 for entry in ENTRIES]
    head = len(whole) - sum(sizes)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = [entry for i, entry in enumerate(ENTRIES) if head + sum(sizes[: i + 1]) <= cut]
        with Journal(path, JOB) as journal:
            assert list(journal.entries()) == kept
            for entry in ENTRIES[len(kept) :]:
                journal.add(entry)
        assert path.read_bytes() == whole


def test_what_is_damaged_is_done_again(tmp_path):
    path = tmp_path / "x.partial"
    whole = bytearray(written(path))
    whole[-1] ^= 1
    path.write_bytes(whole)
    with Journal(path, JOB) as journal:
        assert list(journal.entries()) == ENTRIES[:-1]


def test_another_job_is_refused_and_the_journal_left_alone(tmp_path):
    path = tmp_path / "x.partial"
    whole = written(path)
    with pytest.raises(InputError, match="with another model and another --sites: give the same command"):
        Journal(path, {**JOB, "model": "other", "--sites": "all"})
    assert path.read_bytes() == whole


def test_another_job_takes_the_place_of_one_of_which_nothing_is_done(tmp_path):
    path = tmp_path / "x.partial"
    written(path, [])
    with Journal(path, {"model": "other"}) as journal:
        journal.add(b"one")
    with Journal(path, {"model": "other"}) as journal:
        assert list(journal.entries()) == [b"one"]


@pytest.mark.parametrize("content", [b">chr1\nACGT\n", b"S", b"SimCSP journey\n" * 9])
def test_a_file_that_is_no_journal_is_left_alone(content, tmp_path):
    path = tmp_path / "x.partial"
    path.write_bytes(content)
    if b"SimCSP journal\n".startswith(content):  # what a kill may leave
        Journal(path, JOB).close()
        return
    with pytest.raises(InputError, match="x.partial is not a journal"):
        Journal(path, JOB)
    assert path.read_bytes() == content


def test_two_processes_do_not_share_one(tmp_path):
    path = tmp_path / "x.partial"
    written(path)
    with open(f"{path}.lock", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use by another process"):
            Journal(path, JOB)
    with Journal(path, JOB) as journal:
        journal.remove()
    assert not path.exists()


@pytest.mark.parametrize("room", [20, 500])  # for the beginning, for the first entry
def test_a_full_disk_names_the_file_and_leaves_no_lock(tmp_path, room):
    path = tmp_path / "x.partial"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError) as refused, Journal(path, JOB) as journal:
            journal.add(b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
    written(path)

"""Spliceator's files, and exact duplicates among their windows."""

import gzip
import itertools

import numpy as np
import pytest
from conftest import LENGTH, NEGATIVE, PER_CLASS, POSITIVE, random_bases

from simcsp.core.errors import InputError
from simcsp.labels.spliceator import benchmark_species, load_benchmark, load_training, training_files
from simcsp.text.alphabet import decode


def rewrite(path, change):
    path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def tiny(tiny_data):
    return load_training(tiny_data / "spliceator", "GS_1", 40)


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


@pytest.mark.parametrize("length", [40, 80, 98, 120])
def test_windows_of_any_length_are_told_from_the_fields_beside_them(own_data, length, tiny):
    """Positives stand before a word, negatives behind a position."""
    kept = tiny.crop(length)
    for path, site, label in training_files(own_data / "spliceator", "GS_1"):
        of_file = kept[(tiny.sites == site) & (tiny.labels == label)]
        form = "x_HUMAN;{1};True" if label else "x_HUMAN;{0};{1};FP"
        path.write_text("\n".join(form.format(i, decode(ids)) for i, ids in enumerate(of_file)))
    assert np.array_equal(load_training(own_data / "spliceator", "GS_1", 40).ids, kept)


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
        (lambda path: rewrite(path, lambda s: s[: s.rindex(";")][:-100]), f"line {PER_CLASS}: window of "),
        (lambda path: rewrite(path, lambda s: s[: s.rindex(";")][:-15]), f"line {PER_CLASS}: "),
        (lambda path: rewrite(path, lambda s: s[: s.rindex("_")]), f"line {PER_CLASS}: expected `id;sequence`"),
        (
            lambda path: rewrite(path, lambda s: s.replace("A", "E", 1)),
            "line 1: 'E' at base .* not a nucleotide code",
        ),
        (lambda path: rewrite(path, lambda s: s.replace(";", ",")), "line 1: expected `id;sequence`"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())[:-20]), "cut short"),
    ],
)
def test_bad_windows_are_refused_with_file_and_line(own_data, damage, message):
    damage(own_data / POSITIVE.format("donor"))
    with pytest.raises(InputError, match=f"POS_donor_600.csv.*{message}"):
        load_training(own_data / "spliceator", "GS_1", 40)


@pytest.mark.parametrize(
    "negatives, context, message",
    [
        ("GS_1", 400, r"POS_donor_600.csv, line 1: window of 120 nt .* data.context \(400 nt\)"),
        ("GS_2", 40, "GS/GS_2/NEG_600_donor.csv does not exist"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused(tiny_data, negatives, context, message):
    with pytest.raises(InputError, match=message):
        load_training(tiny_data / "spliceator", negatives, context)

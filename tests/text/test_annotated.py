"""The corpus annotated: crops centred on annotated sites and decoys, their classes, and how batches are drawn."""

from collections import Counter

import numpy as np
import pytest
from conftest import write_species, write_windows

from simcsp.core.config import Config, DataConfig
from simcsp.core.errors import InputError
from simcsp.labels.overlap import hidden_windows, measure_overlap
from simcsp.text.alphabet import N, decode
from simcsp.text.annotated import OTHER, SITE_CLASSES
from simcsp.text.corpora import build_sampler, open_corpus
from utils.arguments import find_faults

WINDOW, INTRONS = 40, 15  # of each record of `write_species`


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Folder of two species, one.fa and two.fa, each with one.gtf, two.gtf."""
    folder = tmp_path_factory.mktemp("annotated")
    write_species(folder, "one", 1)
    write_species(folder, "two", 2)
    return folder


def settings(text, folder, names=("one",), **more):
    files = {"fasta": [str(text / f"{name}.fa") for name in names]}
    files["annotation"] = [str(text / f"{name}.gtf") for name in names]
    return DataConfig(**{"corpus": "annotated", "cache": str(folder), "window": WINDOW, **files, **more})


def test_every_crop_shows_its_class_at_the_centre_on_the_sense_strand(text, tmp_path):
    corpus = open_corpus(settings(text, tmp_path, decoys=3), 0)
    assert Counter(corpus.classes.tolist()) == {0: 2 * INTRONS, 1: 2 * INTRONS, 2: 6 * INTRONS, 3: 6 * INTRONS}
    sampler, seen = build_sampler(settings(text, tmp_path), corpus, 0), {name: [] for name in SITE_CLASSES[:OTHER]}
    for step in range(20):
        for row, kind in zip(sampler.batch(step, 16), sampler.classes(step, 16)):
            seen[SITE_CLASSES[kind]].append(decode(row))
    half = WINDOW // 2
    assert all(row[half : half + 6] == "GTAAGT" for row in seen["donor"])
    assert all(row[half - 6 : half] == "TTTCAG" for row in seen["acceptor"])
    assert all(row[half : half + 2] == "GT" for row in seen["GT decoy"])
    assert all(row[half - 2 : half] == "AG" for row in seen["AG decoy"])
    assert not {row[half : half + 6] for row in seen["GT decoy"]} & {"GTAAGT"}


def test_other_bases_are_a_class_of_their_own_and_no_sites(text, tmp_path):
    data = settings(text, tmp_path, decoys=3, other_bases=200)
    corpus, without = open_corpus(data, 0), open_corpus(settings(text, tmp_path, decoys=3), 0)
    old = corpus.classes < OTHER
    assert np.array_equal(corpus.intervals.start[old], without.intervals.start)
    key = 2 * corpus.intervals.start + corpus.intervals.minus
    assert (corpus.classes == OTHER).sum() > 400
    assert not set(key[corpus.classes == OTHER]) & set(key[corpus.classes < 2])
    assert set(key[corpus.classes == OTHER]) & set(key[(corpus.classes >= 2) & old])  # a decoy is another base too
    assert corpus.intervals.start.min() >= 0 and corpus.intervals.start.max() + WINDOW <= len(corpus.store.ids)
    assert Counter(corpus.classes[build_sampler(data, corpus, 0)._index(0, 30)].tolist()) == dict.fromkeys(range(5), 6)


def test_sites_and_decoys_of_a_region_lie_inside_it(text, tmp_path):
    whole = open_corpus(settings(text, tmp_path, decoys=3), 0)
    record = whole.store.by_name["chr2"]
    region = settings(text, tmp_path, decoys=3, records=[f"chr2:301-{record.length - 400}"])
    start = open_corpus(region, 0).intervals.start - record.offset
    classes = open_corpus(region, 0).classes
    assert start.min() >= 300 and start.max() + WINDOW <= record.length - 400
    assert 10 <= (classes == 0).sum() == (classes == 1).sum() < INTRONS
    assert (classes == 2).sum() == 3 * (classes == 0).sum()


def test_a_batch_is_a_function_of_seed_and_step_and_holds_classes_and_species_at_their_shares(text, tmp_path):
    data = settings(text, tmp_path, ("one", "two"))
    corpus = open_corpus(data, 0)
    first, again, other = (build_sampler(data, corpus, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.batch(7, 32), again.batch(7, 32))
    assert not np.array_equal(first.batch(7, 32), other.batch(7, 32))
    assert not np.array_equal(first.batch(7, 32), first.batch(8, 32))
    is_of_two = corpus.intervals.start >= corpus.store.by_name["two:chr1"].offset
    share = is_of_two[corpus.classes < 2].mean()  # each species has its part by its number of sites
    for step in range(10):
        index = first._index(step, 32)
        assert len(set(index.tolist())) == 32  # no crop twice
        assert Counter(corpus.classes[index].tolist()) == {0: 8, 1: 8, 2: 8, 3: 8}
        assert abs(is_of_two[index].sum() - 32 * share) <= 4
    mean = np.mean([is_of_two[first._index(step, 32)].mean() for step in range(200)])
    assert mean == pytest.approx(share, abs=0.01)
    assert corpus.manifest["shares"] == pytest.approx({"one.fa": 1 - share, "two.fa": share}, abs=1e-4)


def test_crops_leave_room_for_shifted_views(text, tmp_path):
    data = settings(text, tmp_path)
    wide = build_sampler(data, open_corpus(data, 0, max_shift=5), 0, 5)
    assert wide.batch(0, 8).shape == (8, WINDOW + 10)
    donors = wide.batch(0, 8)[wide.classes(0, 8) == 0]
    assert all(decode(row)[WINDOW // 2 + 5 :].startswith("GTAAGT") for row in donors)


def test_what_is_hidden_is_no_crop_and_the_overlap_says_so(text, tmp_path):
    rng = np.random.default_rng(3)
    write_windows(tmp_path / "labels", rng, per_class=20)
    fasta = (text / "one.fa").read_text().split(">chr2")[0].replace(">chr1", "").replace("\n", "")
    path = tmp_path / "labels/spliceator/Training_data/Positive/GS/POS_donor_600.csv"
    at = 200 * 4 + 150  # the fifth donor of chr1, with 60 nt on either side
    path.write_text(path.read_text() + f"of_text_ONE;{fasta[at - 60 : at + 60]};True\n")
    labels = {"spliceator": str(tmp_path / "labels/spliceator"), "context": 100}
    seen = settings(text, tmp_path, **labels)
    hidden = settings(text, tmp_path, hide="evaluation", **labels)
    before, after = open_corpus(seen, 0), open_corpus(hidden, 0, hidden_windows(hidden))
    starts = [set(corpus.intervals.start[corpus.classes == 0].tolist()) for corpus in (before, after)]
    assert starts[0] - starts[1] == {at - WINDOW // 2}
    assert after.manifest["annotated_sites_left_out"] >= 1
    assert not (build_sampler(hidden, after, 0).batch(0, 40) == N).any()
    assert [sum(part.shared for part in measure_overlap(*pair)) for pair in ((seen, before), (hidden, after))][1] == 0


def test_what_cannot_be_had_is_refused_in_one_line(text, tmp_path):
    def refused(message, data, size=None):
        with pytest.raises(InputError, match=message) as error:
            sampler = build_sampler(data, open_corpus(data, 0), 0)
            sampler.batch(0, size)
        assert "\n" not in str(error.value)

    refused(r"data.annotation has 0 files, data.fasta 1", settings(text, tmp_path, annotation=[]))
    refused(r"data.sampling \(strided\)", settings(text, tmp_path, sampling="strided"))
    refused(r"batch_size \(400\): a batch takes 100 different crops", settings(text, tmp_path), 400)
    write_species(tmp_path, "few", 4, introns=3)
    refused("only 6 donors .* at least 10", settings(tmp_path, tmp_path / "cache", ("few",)))


def test_the_config_refuses_an_odd_window_and_classes_without_sites(text, tmp_path):
    config = Config(name="x", data=settings(text, tmp_path, window=41))
    assert any("must be even" in fault for fault in find_faults(config))
    for objective in ("supcon", "classify"):
        config = Config(name="x", data=settings(text, tmp_path, corpus="fasta"))
        config.pretrain.objective = objective
        assert any("set data.corpus to annotated" in fault for fault in find_faults(config))

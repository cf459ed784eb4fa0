"""What scores stand on: GC content, k-mer counts, and a regression on them."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import other_strand, random_bases, stack, write_species
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from simcsp.core.config import DataConfig, EvaluateConfig
from simcsp.core.errors import InputError
from simcsp.labels import floors
from simcsp.labels.cnn import SmallCnn, build_network, parameter_count, widest
from simcsp.text.alphabet import decode, encode


def test_gc_content_is_the_share_among_known_bases():
    assert floors.gc_content(stack(["GCATNNNN", "NNNNNNNN", "GGGCCCGC"]))[:, 0].tolist() == [0.5, 0.0, 1.0]


@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=60)
def test_kmer_counts_equal_a_plain_count(texts, k):
    found = floors.kmer_counts(stack(texts), k)
    assert found.shape == (len(texts), 2 * 4**k)
    for text, counts in zip(texts, found):
        for half, part in ((text[:6], counts[: 4**k]), (text[6:], counts[4**k :])):
            kmers = [half[i : i + k] for i in range(6 - k + 1)]
            expected = np.zeros(4**k)
            for kmer in kmers:
                if "N" not in kmer:
                    expected[sum("ACGT".index(base) * 4**i for i, base in enumerate(kmer))] += 1
            assert part.tolist() == expected.tolist()


# -- the linear model --------------------------------------------------------------------------------------------------


def planted(count, rng, length=60, hidden="CA"):
    """Windows with GT after or AG before their centre; sites have `hidden` seven bases off it, on the side of the
    intron."""
    labels, donor = np.arange(count) % 2, np.arange(count) % 4 < 2
    texts, centre = [], length // 2
    for label, is_donor in zip(labels, donor):
        bases = list(rng.choice(list("ACGT"), length))
        bases[centre - 2 : centre + 2] = "CCGT" if is_donor else "AGCC"
        if label:
            at = centre + 7 if is_donor else centre - 9
            bases[at : at + len(hidden)] = hidden
        texts.append("".join(bases))
    return stack(texts), labels, np.where(donor, "donor", "acceptor")


def test_linear_features_are_dinucleotides_by_place_and_root_counts_crossed_with_the_type_shown():
    ids = stack(["ACGTACGTAAGTACGNACGT", "ACGTACGTAGCCACGTACGT", "CCCCCCCCCCCCCCCCCCCC"])  # GT, AG and neither
    ids[0, 10:12] = encode("GT")
    x = floors.linear_features(ids).toarray()
    plain = 19 * 16 + 2 * 64
    assert x.shape == (3, 2 * plain + 2)
    assert x[:, -2:].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert x[0, plain : 2 * plain].sum() == x[1, :plain].sum() == x[2].sum() == 0
    pairs = x[1, plain : plain + 19 * 16].reshape(19, 16)
    assert (pairs.sum(axis=1) == 1).all() and pairs[0, 4 * 0 + 1] == 1  # AC first
    assert (x[0, : 19 * 16].reshape(19, 16).sum(axis=1) == 0).sum() == 2  # the two that hold the N
    assert np.allclose(x[1, plain + 19 * 16 : 2 * plain], np.sqrt(floors.kmer_counts(ids, 3)[1]))


def test_the_linear_model_finds_pairs_off_the_site_and_its_c_is_the_best_on_validation():
    rng = np.random.default_rng(1)
    train, val, test = (planted(count, rng) for count in (400, 200, 200))
    floor = floors.SiteLinear().fit(train[0], train[1], val[0], val[1])
    assert roc_auc_score(test[1], floor.predict(test[0])) > 0.9
    aucs = []
    for c in floors.LINEAR_CS:
        fit = LogisticRegression(C=c, max_iter=1000).fit(floors.linear_features(train[0]), train[1])
        aucs.append(roc_auc_score(val[1], fit.decision_function(floors.linear_features(val[0]))))
    assert floor.facts == {"C": floors.LINEAR_CS[int(np.argmax(aucs))]}


# -- the network -------------------------------------------------------------------------------------------------------


def test_the_network_has_about_as_many_parameters_as_asked_at_any_length():
    for length, parameters in ((60, 20_000), (100, 110_000), (400, 110_000), (400, 1_000_000)):
        width = widest(length, parameters)
        assert parameter_count(build_network(length, width)) <= parameters
        assert parameter_count(build_network(length, width + 1)) > parameters
        assert parameter_count(build_network(length, width)) > 0.7 * parameters


def test_a_network_learns_what_lies_off_the_centre_keeps_its_best_epoch_and_follows_its_seed(monkeypatch):
    rng = np.random.default_rng(2)
    train, val, test = (planted(count, rng, hidden="CACA") for count in (600, 200, 200))

    def fit(seed, epochs):
        monkeypatch.setattr("simcsp.labels.cnn.MAX_EPOCHS", epochs)
        return SmallCnn(30_000, seed).fit(train[0], train[1], val[0], val[1])

    before = torch.random.get_rng_state()
    floor = fit(3, 12)
    assert torch.equal(before, torch.random.get_rng_state())
    assert roc_auc_score(test[1], floor.predict(test[0])) > 0.8
    assert 1 <= floor.facts["best_epoch"] <= floor.facts["epochs"] <= 12
    assert floor.facts["hit_limit"] == (floor.facts["epochs"] - floor.facts["best_epoch"] < 10)
    first, again, other = (fit(seed, 1).predict(test[0]) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.allclose(first, other)


# -- the text's own annotation -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    write_species(folder, "one", 1)
    files = {"fasta": [str(folder / "one.fa")], "annotation": [str(folder / "one.gtf")]}
    return DataConfig(context=40, cache=str(folder / "cache"), sampling="strided", window=20, **files)


def test_annotated_sites_are_cut_to_the_context_with_four_decoys_each(annotated):
    found = floors.annotated_sites(annotated, 0)
    assert found.ids.shape == (2 * 30 * 5, 40) and found.labels.sum() == 60
    donors = found.ids[(found.labels == 1) & (found.sites == "donor")]
    assert len(donors) == 30 and all(decode(row)[20:26] == "GTAAGT" for row in donors)


def test_even_odds_undo_the_share_of_decoys(monkeypatch):
    sites = floors.Labelled(np.zeros((10, 4), np.uint8), np.array([1, 1] + [0] * 8), np.array(["donor"] * 10))
    stand_in = SimpleNamespace(fit=lambda *given: SimpleNamespace(predict=lambda ids: np.array([0.2, 0.5, 0.8])))
    monkeypatch.setattr(floors, "WeightMatrix", lambda flank: stand_in)
    found = floors.fit_annotation_floor("annotation", EvaluateConfig(), sites, 0)(sites.ids)
    assert found == pytest.approx([0.5, 0.8, 16 / 17])


def test_an_annotation_floor_without_annotation_is_refused_in_one_line():
    for data in (DataConfig(), DataConfig(fasta=["a.fa"])):
        with pytest.raises(InputError, match="annotation and annotation_linear are fitted on") as error:
            floors.annotated_sites(data, 0)
        assert "\n" not in str(error.value)


def plain_counts(texts, reach):
    """{(left, right): {base: count}} by slicing strings, both strands."""
    counts = {}
    for text in [*texts, *map(other_strand, texts)]:
        for i in range(reach, len(text) - reach):
            near = text[i - reach : i], text[i + 1 : i + 1 + reach]
            if "N" not in near[0] + text[i] + near[1]:
                counts.setdefault(near, dict.fromkeys("ACGT", 0))[text[i]] += 1
    return counts


@pytest.mark.parametrize("reach", [1, 3])
def test_neighbour_table_equals_a_plain_count(reach):
    rng = np.random.default_rng(0)
    texts = [random_bases(rng, 400), random_bases(rng, 90) + "N" + random_bases(rng, 90), "ACG"]
    table = floors.NeighbourTable(reach)
    for text in texts:
        table.add(encode(text))
    counts = plain_counts(texts, reach)
    windows = [random_bases(rng, 2 * reach + 5) for _ in range(200)]
    predicted = table.predict(stack(windows))
    for window, row in zip(windows, predicted):
        middle = len(window) // 2
        near = window[middle - reach : middle], window[middle + 1 : middle + 1 + reach]
        expected = np.array([counts.get(near, {}).get(base, 0) + 1 for base in "ACGT"])
        assert row == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_markov_chain_gives_the_base_its_share_of_the_probability_of_the_text(order):
    """Against the probability of the whole text with each base in the middle, by counts of slices."""
    rng = np.random.default_rng(0)
    texts = [random_bases(rng, 600), random_bases(rng, 90) + "N" + random_bases(rng, 90), "ACGTTACGTTACG"]
    chain = floors.MarkovChain(order)
    for text in texts:
        chain.add(encode(text))
    counts = Counter(text[i : i + order + 1] for text in texts for i in range(len(text) - order))
    windows = [random_bases(rng, 2 * order + 5) for _ in range(100)]
    predicted = chain.predict(stack(windows))

    def likelihood(text):
        words = [text[i : i + order + 1] for i in range(len(text) - order)]
        return np.prod([(counts[w] + 1) / (sum(counts[w[:-1] + b] for b in "ACGT") + 4) for w in words])

    for window, row in zip(windows, predicted):
        middle = len(window) // 2
        all_four = np.array([likelihood(window[:middle] + base + window[middle + 1 :]) for base in "ACGT"])
        assert row == pytest.approx(all_four / all_four.sum(), abs=1e-9)


def test_a_markov_chain_of_order_1_by_hand_and_beside_an_n():
    chain = floors.MarkovChain(1)
    chain.add(encode("ACACG"))  # A: C C; C: A G; G: nothing
    after = {"A": [1, 3, 1, 1], "C": [2, 1, 2, 1], "G": [1, 1, 1, 1], "T": [1, 1, 1, 1]}
    p = {base: np.array(row) / sum(row) for base, row in after.items()}
    expected = np.array([p["A"][i] * p[base][1] for i, base in enumerate("ACGT")])  # A ? C
    assert chain.predict(encode("AGC")[None])[0] == pytest.approx(expected / expected.sum(), abs=1e-12)
    assert chain.predict(encode("AGN")[None])[0] == pytest.approx(p["A"], abs=1e-12)
    assert chain.predict(encode("NGN")[None])[0] == pytest.approx([0.25] * 4, abs=1e-12)


def test_neighbour_table_gives_even_odds_beside_an_n():
    table = floors.NeighbourTable()
    table.add(encode("ACGTACGTACGTACGT"))
    assert table.predict(encode("ACGNTACGA")[None]).tolist() == [[0.25] * 4]
    assert table.predict(encode("NCGTTACGN")[None]).max() > 0  # an N out of reach does not count

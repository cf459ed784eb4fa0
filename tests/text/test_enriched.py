"""data.corpus splice_enriched: windows drawn by the score of their best site."""

import json

import numpy as np
import pytest
from conftest import other_strand, tiny_config
from opening import enriched, experiment, gtf, open_text, refused, write_spliced

import pretrain
from simcsp.core.errors import InputError
from simcsp.text import corpora
from simcsp.text.alphabet import decode
from simcsp.text.weight_matrix import WeightMatrix
from simcsp.training import pretraining_text
from utils.arguments import load_config


@pytest.fixture(scope="module")
def spliced(tmp_path_factory):
    """(FASTA, GTF, {record: bases}, genes)."""
    return write_spliced(tmp_path_factory.mktemp("spliced"), "spliced", ["a", "b"], np.random.default_rng(6))


class FixedMatrix(WeightMatrix):
    """Weight matrices that no data decide."""

    def fit(self, ids, labels, sites):
        rng = np.random.default_rng(7)
        self.log_odds = [rng.normal(size=8 * self.flank) for _ in np.unique(sites)]  # acceptor, donor
        return self


@pytest.fixture
def fixed_matrix(monkeypatch):
    monkeypatch.setattr("simcsp.text.weight_matrix.WeightMatrix", FixedMatrix)
    return FixedMatrix(20).fit(None, None, ["acceptor", "donor"])


def slow_scores(bases, matrix):
    """{boundary: score} by the definition, one strand."""
    acceptor, donor = (weights.reshape(40, 4) for weights in matrix.log_odds)
    found = {}
    for at in range(20, len(bases) - 19):
        candidates = [donor] * (bases[at : at + 2] == "GT") + [acceptor] * (bases[at - 2 : at] == "AG")
        flanks = bases[at - 20 : at + 20]
        for weights in candidates:
            score = sum(weights[i]["ACGT".index(base)] for i, base in enumerate(flanks) if base != "N")
            found[at] = max(score, found.get(at, -np.inf))
    return found


@pytest.mark.parametrize("window", [80, 47])
def test_a_window_scores_as_its_best_site_whose_flanks_lie_inside(spliced, tmp_path, fixed_matrix, window):
    corpus, _ = open_text(enriched(spliced, tmp_path, window=window, stride=17))
    flank, at, lowest = min(20, window // 4), 0, []
    expected, found = [], {}
    for record in corpus.store.records:
        for minus in (False, True):
            bases = spliced[2][record.name]
            found = slow_scores(other_strand(bases) if minus else bases, fixed_matrix)
            for start in range(0, record.length - window + 1, 17):
                first = record.length - window - start if minus else start  # seen from its strand
                inside = [found[b] for b in range(first + flank, first + window - flank + 1) if b in found]
                expected.append(max(inside, default=-np.inf))
                interval = [getattr(corpus.intervals, name)[at] for name in ("start", "length", "minus")]
                assert interval == [record.offset + start, window, minus]
                at += 1
    expected = np.array(expected)
    lowest = expected[np.isfinite(expected)].min()
    assert np.allclose(corpus.scores, np.where(np.isfinite(expected), expected, lowest), atol=1e-4)
    odds = np.exp(0.5 * corpus.scores)
    assert np.allclose(corpus.intervals.odds, odds / odds.sum())


def holds_site(spliced, corpus, window=80, flank=20):
    """bool a window: an annotated boundary of its strand lies in it, with flanks."""
    sites = [(record, strand, at) for record, strand, exons in spliced[3] for at in (exons[0][1], exons[1][0])]
    offset = {record.name: record.offset for record in corpus.store.records}
    held = np.zeros(len(corpus.intervals), dtype=bool)
    for record, strand, at in sites:
        first = corpus.intervals.start - offset[record]
        held |= (corpus.intervals.minus == (strand == "-")) & (first + flank <= at) & (at <= first + window - flank)
    return held


def test_the_matrix_fitted_on_annotation_finds_the_sites(spliced, tmp_path):
    corpus, _ = open_text(enriched(spliced, tmp_path))
    held = holds_site(spliced, corpus)
    best_other = np.quantile(corpus.scores[~held], 0.9)
    assert 0.1 < held.mean() < 0.4
    assert (corpus.scores[held] > best_other).mean() > 0.95
    manifest = corpus.manifest
    assert manifest["annotated_sites"] == 96
    assert manifest["mean_score_drawn"] > manifest["mean_score"] + 1


@pytest.mark.parametrize("enrichment", [1.0, 0.0])
def test_windows_that_hold_an_annotated_site_are_drawn_as_much_more_often(spliced, tmp_path, enrichment):
    settings = {"scorer": "annotation", "enrichment": enrichment, "max_n_share": 1.0}
    corpus, sampler = open_text(enriched(spliced, tmp_path, **settings))
    held = holds_site(spliced, corpus)
    assert np.array_equal(corpus.scores, held)
    of_window = {}
    for start, minus, site in zip(corpus.intervals.start, corpus.intervals.minus, held):
        window = decode(corpus.store.windows(np.array([start]), 80)[0])
        of_window[other_strand(window) if minus else window] = site
    assert len(of_window) == len(held)
    drawn = np.array([of_window[decode(row)] for step in range(1500) for row in sampler.batch(step, 2)])
    odds = held.sum() * np.exp(enrichment)
    share = odds / (odds + (~held).sum())
    assert abs(drawn.mean() - share) < 4.5 * (share * (1 - share) / len(drawn)) ** 0.5
    manifest = corpus.manifest
    assert manifest["mean_score"] == round(held.mean(), 4)
    assert manifest["mean_score_drawn"] == round(share, 4)
    if enrichment == 0:
        assert np.ptp(corpus.intervals.odds) == 0
        assert manifest["effective_windows"] in (len(held), len(held) - 1)  # rounded down
    else:
        p = np.where(held, np.e, 1) / (odds + (~held).sum())
        assert manifest["effective_windows"] == int(1 / (p**2).sum())


def test_forward_strands_are_honoured(spliced, tmp_path):
    corpus, sampler = open_text(enriched(spliced, tmp_path, strands="forward"))
    assert not corpus.intervals.minus.any()
    assert all(any(decode(row) in bases for bases in spliced[2].values()) for row in sampler.batch(0, 32))


def test_sources_keep_their_shares_whatever_their_scores(spliced, tmp_path):
    more = write_spliced(tmp_path, "more", ["a"], np.random.default_rng(8))
    fasta, annotation = [spliced[0], more[0]], [str(spliced[1]), str(more[1])]

    def shares(**data):
        settings = {"corpus": "splice_enriched", "annotation": annotation, "window": 80, **data}
        corpus, _ = open_text(experiment(tmp_path, fasta, **settings))
        border = next(record.offset for record in corpus.store.records if record.source == 1)
        of_first = corpus.intervals.start < border
        found = [round(float(corpus.intervals.odds[mine].sum()), 4) for mine in (of_first, ~of_first)]
        assert list(corpus.manifest["shares"].values()) == found
        return found

    assert shares() == [round(2 / 3, 4), round(1 / 3, 4)]
    assert shares(records=["spliced:b", "more:a"]) == [0.5, 0.5]


def test_splice_enriched_refuses_what_it_cannot_use(spliced, tmp_path):
    few = gtf(tmp_path / "few.gtf", spliced[3][:9])
    whole = gtf(tmp_path / "whole.gtf", [("a", "+", [(0, 90)]), ("b", "+", [(0, 90)])])

    def bad(message, **data):
        refused(enriched(spliced, tmp_path, **data), message)

    bad("data.annotation has 0 files, data.fasta 1: corpus splice_enriched", annotation=[])
    bad(r"data.sampling \(strided\)", sampling="strided")
    bad(r"data.scorer \(pwm\): only 9 annotated donors", annotation=[str(few)])
    bad("data.annotation has no intron on the records .*data.scorer", annotation=[str(whole)], scorer="annotation")
    bad(r"data.window \(6001 nt\) is longer than every record of", window=6001)


def test_odds_that_leave_too_few_windows_for_a_batch_are_named(spliced, tmp_path):
    _, sampler = open_text(enriched(spliced, tmp_path, enrichment=200.0))
    with pytest.raises(InputError, match=r"batch_size \(64\).*data.enrichment"):
        sampler.batch(0, 64)


def test_pretraining_reads_enriched_windows_and_keeps_their_scores(spliced, tiny_data, tmp_path, call, monkeypatch):
    changes = {"data.corpus": "splice_enriched", "data.records": ["a"], "mlm.steps": 0, "pretrain.steps": 2}
    changes |= {"data.fasta": [str(spliced[0])], "data.annotation": [str(spliced[1])]}
    config = tiny_config(tmp_path, tiny_data, changes)
    call(pretrain, config)
    run = tmp_path / "runs/tiny"
    assert json.loads((run / "pretrain/summary.json").read_text())["steps"] == 2
    manifest = json.loads((run / "corpus.json").read_text())
    assert manifest["corpus"] == "splice_enriched" and manifest["sources"] == ["spliced.fa"]
    kept = np.load(run / "corpus.npz")
    assert len(kept["score"]) == len(kept["start"]) == manifest["intervals"]
    assert manifest["mean_score"] == round(float(kept["score"].mean()), 4)
    # Another process of the same training reads what the first one scored.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "splice_enriched", None)
    config = load_config([str(config)])
    corpus = pretraining_text.open_text(config, first=False)
    inputs = json.loads((run / "overlap.json").read_text())["inputs"]
    assert (corpus.store.sha256, corpus.intervals.sha256) == (inputs["text"], inputs["intervals"])

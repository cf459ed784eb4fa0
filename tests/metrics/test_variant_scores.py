"""SpliceBERT's scores of variants: five bases by hand, and transformers' own model and tokenizer on random input."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from splicebert_data import write_splicebert_data
from transformers import AutoTokenizer, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.labels.variants import Variants, read_mfass
from simcsp.metrics.variants import (
    REACH,
    distance_score,
    kl_divergence,
    label_changes,
    label_rows,
    nearness,
    place_features,
    probe,
    score_variants,
    zero_shot_rows,
)
from simcsp.model.bases import BaseClassifier, Labeller, Shape
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import A, N, decode, encode


@pytest.fixture
def measured(tmp_path):
    write_splicebert_data(tmp_path / "data")
    return read_mfass(tmp_path / "data/variants/mfass.tsv.gz")


def test_kl_of_two_distributions_by_hand():
    ref, alt = np.array([0.5, 0.25, 0.125, 0.125]), np.array([0.25, 0.25, 0.25, 0.25])
    expected = 0.25 * (math.log(0.5) + math.log(1) + math.log(2) + math.log(2))
    assert kl_divergence(ref, alt) == pytest.approx(expected, abs=1e-12)


def test_score_by_distance_of_five_bases_by_hand():
    near = np.full((3, 2 * REACH + 1), np.nan)
    near[0, REACH - 2 : REACH + 3] = [2.0, 0.5, 9.0, 0.25, 4.0]  # the variant's own 9 has no part
    near[1, REACH : REACH + 5] = [9.0, 1.0, 0.0, 1e-9, math.e]  # the first of its sequence: one side alone
    near[2] = 0.25
    first = (math.log((0.5 + 0.25) / 2) + math.log((2 + 4) / 2)) / 2 * REACH
    second = (0 + math.log(1e-6) + math.log(1e-6) + 1) / 4 * REACH
    assert distance_score(near) == pytest.approx([first, second, REACH * math.log(0.25)], abs=1e-9)


def own_scores(tokenizer, model, wild, offset, alt, start, end):
    """dP, KL at the sites and KL by place of one variant, by transformers' tokenizer and BertForMaskedLM."""

    def logits(text):
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).logits[0, 1:-1].double()

    masked = " ".join([*wild[:offset], "[MASK]", *wild[offset + 1 :]])
    mutant = " ".join([*wild[:offset], alt, *wild[offset + 1 :]])
    p = logits(masked)[offset].softmax(-1)
    ids = {base: tokenizer.convert_tokens_to_ids(base) for base in "ACGT"}
    before, after = (logits(text)[:, [ids[b] for b in "ACGT"]].softmax(-1) for text in (" ".join(wild), mutant))
    kl = (after * (after / before).log()).sum(-1).numpy()
    at_sites = kl[end : end + 2].mean() + kl[start - 2 : start].mean()
    return float(p[ids[alt]] - p[ids[wild[offset]]]), at_sites, kl


def test_scores_are_those_of_transformers_own_model_and_tokenizer(start):
    rng = np.random.default_rng(5)
    texts = ["".join(rng.choice(list("ACGT"), length)) for length in (30, 41, 41, 23)]
    of_sequence = rng.integers(4, size=40)
    exon = np.array([[8, 15]] * 40)
    offset = np.array([rng.integers(len(texts[i])) for i in of_sequence])
    alt = np.array(
        [encode(rng.choice([b for b in "ACGT" if b != texts[i][at]]))[0] for i, at in zip(of_sequence, offset)]
    )
    nothing = np.zeros(40, dtype=bool)
    variants = Variants(
        [encode(text) for text in texts], of_sequence, offset, alt, exon, nothing, of_sequence.astype(str), None, {}
    )
    model = load_backbone(ModelConfig(source=str(start)))[0]
    done = []
    found = score_variants(model, variants, batch_size=7, advance=done.append)
    assert sum(done) == 40
    plain = AutoTokenizer.from_pretrained(start), BertForMaskedLM.from_pretrained(start).eval()
    for i in range(40):
        wild = texts[of_sequence[i]]
        dp, site_kl, kl = own_scores(*plain, list(wild), offset[i], decode(alt[i : i + 1]), 8, 15)
        assert found.dp[i] == pytest.approx(dp, abs=1e-6)
        assert found.site_kl[i] == pytest.approx(site_kl, abs=1e-6)
        for place, value in enumerate(kl):
            assert found.near_kl[i, REACH + place - offset[i]] == pytest.approx(value, abs=1e-6)
        assert np.isfinite(found.near_kl[i]).sum() == len(wild)
    other_batch = score_variants(model, variants, batch_size=64)
    assert np.allclose(other_batch.near_kl, found.near_kl, atol=1e-6, equal_nan=True)
    assert (found.scores["-dP"] == -found.dp).all()


def test_a_site_outside_its_sequence_has_no_part(start):
    model = load_backbone(ModelConfig(source=str(start)))[0]
    ids = encode("ACGTACGTACGTACG")
    places = np.zeros(1, dtype=int), np.array([7]), np.array([A], dtype=np.uint8)
    kept = {}
    for name, exon in (("both", (4, 9)), ("donor", (1, 9)), ("acceptor", (4, 14)), ("none", (1, 14))):
        one = Variants([ids], *places, np.array([exon]), np.zeros(1, bool), np.array(["x"]), None, {})
        kept[name] = score_variants(model, one, 4).site_kl[0]
    assert kept["none"] == 0 and kept["both"] == pytest.approx(kept["donor"] + kept["acceptor"], abs=1e-12)


def test_rows_count_and_rank_as_the_paper_does(measured):
    perfect = measured.positive.astype(float) + 0.01 * np.arange(len(measured)) / len(measured)
    rows = {row["metric"]: row for row in zero_shot_rows(measured, {"KL by distance": perfect}, seed=0)}
    n, positives = len(measured), int(measured.positive.sum())
    assert (rows["positives"]["value"], rows["positives"]["n"]) == (positives, n)
    outside = rows["positives, without splice dinucleotides"]
    assert (outside["value"], outside["n"]) == (0, n - positives)
    ap = rows["AP of KL by distance"]
    assert ap["value"] == pytest.approx(1) == ap["high"] == ap["floor"]  # only variants at the sites disrupt
    ranks = rows["mean rank of positives by KL by distance"]
    assert ranks["value"] == pytest.approx((n + n - positives + 1) / 2 / n)
    assert ranks["floor"] == pytest.approx((n - positives + 1) / 2 / n)


def test_nearness_by_hand():
    offsets, exon = np.array([0, 1, 2, 3, 4, 5]), np.array([[3, 4]] * 6)  # AG at 1 and 2, GT at 4 and 5
    nothing = np.zeros(6, dtype=int)
    six = Variants([encode("CAGAGT")], nothing, offsets, nothing, exon, nothing > 0, nothing, None, {})
    assert nearness(six).tolist() == [-1.5, -0.5, -0.5, -1.5, -0.5, -0.5]
    assert six.in_dinucleotide.tolist() == [False, True, True, False, True, True]


def test_a_probe_never_learns_from_the_exon_that_it_is_asked_about():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    positive = (group % 2).astype(bool)
    of_exon = rng.normal(size=(60, 40))[group]  # tells the exon, and nothing of any other
    odds = probe(of_exon, positive, group)
    assert roc_auc_score(positive, odds) < 0.75
    told = np.column_stack([of_exon, positive + rng.normal(size=600) / 4])
    assert roc_auc_score(positive, probe(told, positive, group)) > 0.8


@pytest.mark.parametrize("groups", [["a", "a", "b", "c"], ["a", "b", "c", "d", "e", "f"]])
def test_a_probe_of_too_few_exons_is_refused(groups):
    positive = np.arange(len(groups)) == 0
    with pytest.raises(InputError, match="a probe of variants with 5 folds by exon"):
        probe(np.ones((len(groups), 2)), positive, np.array(groups))


def test_the_floor_sees_the_place_and_the_substitution(measured):
    features = place_features(measured)
    assert (features.sum(axis=1) == 3 + ((measured.offset >= 20) & (measured.offset < 32))).all()
    by_place = probe(features, measured.positive, measured.group)
    assert by_place[measured.positive].min() > by_place[~measured.positive].max()


def test_label_changes_are_spliceais_delta_scores_of_each_variant_alone(measured):
    variants = measured.take(np.arange(0, len(measured), 7))
    torch.manual_seed(0)
    model = BaseClassifier(None, Shape(tile=20, channels=4, kernel=5, dilations=[1, 2])).eval()
    torch.nn.init.normal_(model.head.weight, std=2.0)
    labeller = Labeller(model, np.array([[0.8, 1.0], [1.2, -1.0]]), torch.device("cpu"))
    found = label_changes(labeller, variants, 5)
    flank = model.shape.flank
    for i, own in enumerate(found):
        wild = variants.sequences[variants.of_sequence[i]]
        mutant = wild.copy()
        mutant[variants.offset[i]] = variants.alt[i]
        odds = []
        for text in (wild, mutant):
            beside = np.full(flank + 20, N, dtype=np.uint8)  # one tile more: what lies beyond the reach is not seen
            odds.append(labeller.log_odds(np.concatenate([beside, text, beside, beside[:8]])[None])[0])
            odds[-1] = odds[-1][flank + 20 : flank + 20 + len(text)]
        before, after = map(labeller.probabilities, odds)
        for column in (0, 1):
            change = (after - before)[:, column]
            assert own[2 * column : 2 * column + 2] == pytest.approx([change.max(), -change.min()], abs=1e-6)
            place = variants.exon[i][column] - column
            expected = odds[1][place, column] - odds[0][place, column]
            assert own[4 + column] == pytest.approx(expected, abs=1e-5)
    assert found[:, :4].max() > 0.01


def test_rows_of_delta_scores_rank_by_the_largest(measured):
    changes = np.zeros((len(measured), 6))
    changes[measured.positive, 2] = 1.0
    rows = {row["metric"]: row["value"] for row in label_rows(measured, changes, 0)}
    assert rows["AP of delta score"] == rows["AP of a fit on the changes, folds by exon"] == 1
    assert "AP of delta score, without splice dinucleotides" not in rows  # all positives are in them

"""Scores and tests against other libraries and against every case counted out, degenerate ones among them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import entropy, false_discovery_control, pearsonr, spearmanr, ttest_1samp
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

from simcsp.metrics import scores as s
from simcsp.metrics.clustering import adjusted_agreement, kmeans, leiden, nmi
from simcsp.metrics.sccs import _permuted_sccs, cosine_pairs, pair_indices, sccs, sccs_difference, sccs_interval

few = settings(max_examples=60)
LABELS = st.lists(st.integers(0, 1), min_size=2, max_size=30).map(np.array)
HALVES = ("GT(donor)", "GT(non-donor)"), ("AG(acceptor)", "AG(non-acceptor)")


def scored(min_size=2, max_size=30):
    """(labels with both classes, probabilities with or without ties)."""
    one = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    rows = st.lists(st.tuples(st.integers(0, 1), one), min_size=min_size, max_size=max_size)
    both = rows.filter(lambda pairs: len({label for label, _ in pairs}) == 2)
    return both.map(lambda pairs: tuple(map(np.array, zip(*pairs))))


# -- scores of a classifier --------------------------------------------------------------------------------------------


@given(scored())
@few
def test_auc_counts_pairs_and_ap_sums_the_steps_of_recall(case):
    labels, p = case
    pairs = [(x > y) + (x == y) / 2 for x in p[labels == 1] for y in p[labels == 0]]
    ap, before = 0.0, 0.0
    for threshold in sorted(set(p), reverse=True):
        called = p >= threshold
        recall = labels[called].sum() / labels.sum()
        ap += (recall - before) * labels[called].mean()
        before = recall
    found = s.classification_scores(labels, p)
    assert found["auc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found["ap"] == pytest.approx(ap, abs=1e-12)


@given(LABELS, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 99))
@few
def test_f1_and_mcc_are_scikit_learn_s_with_one_class_too(labels, threshold, seed):
    p = np.random.default_rng(seed).choice([0.0, 0.25, 0.5, 0.75, 1.0], len(labels))
    called, found = (p > threshold).astype(int), s.threshold_scores(labels, p, threshold)
    assert found["f1"] == pytest.approx(f1_score(labels, called, zero_division=0.0))
    assert found["accuracy"] == pytest.approx(np.mean(labels == called))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels, called), abs=1e-12)
    if len(set(labels)) == len(set(called)) == 2:
        assert found["mcc"] == pytest.approx(pearsonr(labels, called).statistic, abs=1e-9)


@given(scored(), st.sampled_from([0.1, 0.5]))
@few
def test_recall_at_a_rate_of_false_discoveries_tries_every_threshold(case, discovery):
    labels, p = case
    recalls = [0.0]
    for threshold in set(p):
        called = p >= threshold
        if 1 - labels[called].mean() <= discovery + 1e-12:
            recalls.append(labels[called].sum() / labels.sum())
    found = s.score_against(labels, p, discovery)
    assert found["recall"] == pytest.approx(max(recalls))
    best = sorted(range(len(p)), key=lambda i: (-p[i], i))[: labels.sum()]
    assert found["topk"] == pytest.approx(np.mean([labels[i] for i in best]))


@given(scored())
@few
def test_no_threshold_has_a_higher_f1_than_the_best(case):
    labels, p = case
    steps = sorted({-1.0, *p.tolist()})
    tried = {t: s.threshold_scores(labels, p, t)["f1"] for t in [*steps, *(np.convolve(steps, [0.5, 0.5], "valid"))]}
    chosen = s.best_threshold(labels, p)
    assert s.threshold_scores(labels, p, chosen)["f1"] == pytest.approx(max(tried.values()), abs=1e-12)


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken():
    # F1 is 2/3 where the first is called, and where all are
    assert s.best_threshold(np.array([1, 0, 0, 1]), np.array([0.9, 0.7, 0.2, 0.1])) == pytest.approx(0.8)
    assert s.best_threshold(np.array([1, 0, 0, 1]), np.array([0.99, 0.98, 0.45, 0.4])) == pytest.approx(0.4, abs=1e-9)
    assert s.best_threshold(np.array([1, 0, 0, 1]), np.array([0.99, 0.98, 0.45, 0.4])) < 0.4
    assert s.best_threshold(np.array([1, 1]), np.array([0.7, 0.7])) == pytest.approx(0.7, abs=1e-9)
    assert s.best_threshold(np.array([0, 0]), np.array([0.2, 0.9])) == pytest.approx(0.55)  # nothing to find: any


@given(scored(), st.integers(1, 20))
@few
def test_calibration_error_is_that_of_bins_made_one_by_one(case, bins):
    labels, p = case
    edges, members = [np.quantile(p, i / bins) for i in range(1, bins)], {}
    for label, value in zip(labels, p):
        members.setdefault(sum(edge < value for edge in edges), []).append((label, value))
    expected = sum(abs(sum(v for _, v in rows) - sum(y for y, _ in rows)) for rows in members.values()) / len(p)
    assert s.calibration_error(labels, p, bins) == pytest.approx(expected, abs=1e-12)
    mixed = np.random.default_rng(0).permutation(len(p))
    assert s.calibration_error(labels[mixed], p[mixed], bins) == pytest.approx(expected, abs=1e-12)
    parts = s.reliability_bins(labels, p, bins)
    assert [len(part) for part in parts] == [len(members)] * 3 and parts[2].sum() == len(p)
    assert (np.diff(parts[0]) > 0).all()


@given(st.integers(0, 10_000))
def test_f1_at_its_own_prevalence_is_f1_and_falls_with_rarer_sites(seed):
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, 50))
    probabilities = rng.uniform(size=52)
    rates, f1 = s.called_rates(labels, probabilities), s.threshold_scores(labels, probabilities, 0.5)["f1"]
    assert s.f1_at_prevalence(rates["tpr"], rates["fpr"], labels.mean()) == pytest.approx(f1)
    if rates["tpr"] > 0:
        assert s.f1_at_prevalence(rates["tpr"], rates["fpr"], labels.mean() / 2) < f1 + 1e-12


def test_the_interval_of_average_precision_is_that_of_resampled_blocks():
    rng = np.random.default_rng(4)
    blocks = np.repeat(np.arange(12), 40)
    labels = (rng.random(480) < 0.05 * (blocks % 3)).astype(int)
    scores = np.round(labels + rng.normal(size=480), 1)  # ties
    draws = np.random.default_rng(5)
    expected = []
    for _ in range(200):
        times = draws.multinomial(12, np.full(12, 1 / 12))[blocks]
        expected.append(average_precision_score(np.repeat(labels, times), np.repeat(scores, times)))
    found = s.ap_interval(labels, scores, blocks + 7, seed=5, samples=200)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    assert found["low"] < average_precision_score(labels, scores) < found["high"]
    assert s.ap_interval(labels, scores, np.zeros(480), seed=5) == {}


# -- tests of differences ----------------------------------------------------------------------------------------------


def t_tail(value, df):
    """P(T > value) by integration of the density of Student's t."""
    scale = math.exp(gammaln((df + 1) / 2) - gammaln(df / 2)) / math.sqrt(df * math.pi)
    return 0.5 - quad(lambda x: scale * (1 + x * x / df) ** (-(df + 1) / 2), 0, value)[0]


@given(st.integers(2, 12), st.floats(-1, 1), st.integers(0, 999), st.sampled_from([0.0, 2 / 7, 1.0]))
@few
def test_the_corrected_t_test_is_scipy_s_with_its_statistic_shrunk(n, shift, seed, ratio):
    x = np.random.default_rng(seed).normal(shift, 1, n)
    plain, found = ttest_1samp(x, 0), s.corrected_ttest(x, ratio)
    shrunk = abs(plain.statistic) / math.sqrt(1 + n * ratio)
    assert found["p"] == pytest.approx(2 * t_tail(shrunk, n - 1), abs=1e-7)
    interval = plain.confidence_interval(0.95)
    half = (interval.high - interval.low) / 2 * math.sqrt(1 + n * ratio)
    assert (found["low"], found["high"]) == pytest.approx((x.mean() - half, x.mean() + half), abs=1e-9)
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
    if ratio == 0:
        assert found["p"] == pytest.approx(plain.pvalue, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(3, 12), st.floats(-0.03, 0.03))
def test_equivalence_is_two_one_sided_tests(seed, n, shift):
    differences = np.random.default_rng(seed).normal(shift, 0.01, n)
    below = ttest_1samp(differences, -0.01, alternative="greater").pvalue
    above = ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert s.equivalence_test(differences, 0.01, 0.0) == pytest.approx(max(below, above), abs=1e-12)


@pytest.mark.parametrize("n", [2, 5])
def test_differences_that_are_all_equal_have_an_interval_of_no_width_and_no_p(n):
    for value in (0.0, 0.3):
        found = s.corrected_ttest(np.full(n, value))
        assert found["p"] is None and found["low"] == found["high"] == found["diff"] == pytest.approx(value)
    found = [s.equivalence_test(np.full(n, value), 0.01) for value in (0.005, 0.01, 0.02)]
    assert found == [0.0, 1.0, 1.0]  # on the margin is not within it


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.01, 1.0])), max_size=8))
@few
def test_holm_rejects_what_closed_testing_of_every_subset_rejects(p):
    """Holm's procedure is the closed test whose every intersection is tested by Bonferroni (Marcus et al. 1976)."""
    found = s.holm(np.array(p))
    for i in range(len(p)):
        others = [j for j in range(len(p)) if j != i]
        subsets = [c for k in range(len(p)) for c in itertools.combinations(others, k)]
        closed = max(min(1.0, (len(c) + 1) * min([p[i], *(p[j] for j in c)])) for c in subsets)
        assert found[i] == pytest.approx(closed, abs=1e-12)
    if p:
        assert (found >= false_discovery_control(p, method="bh") - 1e-12).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(3, 40), st.sampled_from([0.5, 0.8, 0.95]))
@few
def test_holm_power_and_equivalence_are_those_of_statsmodels(p, n, power):
    stats = pytest.importorskip("statsmodels.stats.api")
    assert s.holm(np.array(p)) == pytest.approx(stats.multipletests(p, method="holm")[1], abs=1e-12)
    needed = stats.TTestPower().solve_power(nobs=n, alpha=0.05, power=power, alternative="two-sided")
    assert s.smallest_difference(1.0, n, 0.0, power) == pytest.approx(needed, rel=2e-3)


# -- SCCS --------------------------------------------------------------------------------------------------------------


@given(st.integers(3, 12), st.integers(1, 4), st.integers(0, 999), st.booleans())
@few
def test_sccs_is_scipy_s_spearman_of_cosines_one_by_one(n, hidden, seed, ties):
    rng = np.random.default_rng(seed)
    vectors = (rng.integers(0, 2, (n, hidden)) if ties else rng.normal(size=(n, hidden))).astype(float)
    labels = np.append([0, 0, 1], rng.integers(0, 3, n - 3))
    cosines, same = [], []
    for i, j in itertools.combinations(range(n), 2):
        norm = math.sqrt(vectors[i] @ vectors[i]) * math.sqrt(vectors[j] @ vectors[j])
        cosines.append(round(vectors[i] @ vectors[j] / norm, 9) if norm else 0.0)
        same.append(labels[i] == labels[j])
    left, right = pair_indices(n, "all")
    assert cosine_pairs(vectors, left, right) == pytest.approx(cosines, abs=1e-8)
    found = sccs(vectors, labels, similarity=lambda *_: np.array(cosines))
    wanted = spearmanr(same, cosines).statistic if len(set(cosines)) > 1 else 0.0
    assert found["sccs"] == pytest.approx(wanted, abs=1e-12)
    pairs = [(x > y) + (x == y) / 2 for x, a in zip(cosines, same) if a for y, b in zip(cosines, same) if not b]
    assert found["pair_auc"] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("labels", [[0, 1], [1, 1], [0, 1, 2]], ids=["two points", "one class", "all different"])
def test_sccs_where_all_pairs_are_alike_is_refused(labels):
    with pytest.raises(ValueError, match="at least two of one"):
        sccs(np.eye(len(labels)), np.array(labels))


@pytest.mark.parametrize("vectors", [np.ones((6, 3)), np.zeros((6, 3))], ids=["constant", "zero"])
def test_vectors_that_are_all_the_same_have_no_sccs_and_a_pair_auc_of_chance(vectors):
    assert sccs(vectors, np.arange(6) % 2) == {"sccs": 0.0, "pair_auc": 0.5}


def test_permuted_sccs_are_those_of_the_labels_in_every_order():
    """Seven windows of two classes: 35 orders; their values, mean and spread are counted out."""
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(7, 3)), np.array([0, 0, 0, 0, 1, 1, 1])
    left, right = pair_indices(7, "all")
    values, every = cosine_pairs(vectors, left, right), []
    for ones in itertools.combinations(range(7), 3):
        mixed = np.isin(np.arange(7), ones)
        every.append(spearmanr(mixed[left] == mixed[right], values).statistic)
    drawn = _permuted_sccs(values, labels, left, right, 4000, rng)
    assert np.abs(drawn[:, None] - np.array(every)).min(axis=1).max() < 1e-6
    assert drawn.mean() == pytest.approx(np.mean(every), abs=4 * np.std(every) / math.sqrt(4000))
    assert drawn.std() == pytest.approx(np.std(every), rel=0.06)
    band = sccs_interval(vectors, labels, resamples=4000)
    assert band["null_low"] == pytest.approx(np.quantile(np.repeat(every, 100), 0.025), abs=0.08)
    assert band["null_high"] == pytest.approx(np.quantile(np.repeat(every, 100), 0.975), abs=0.08)


# -- NMI ---------------------------------------------------------------------------------------------------------------


def information(a, b):
    """Mutual information in nats, from the table of counts."""
    return sum(
        np.mean((a == x) & (b == y)) * math.log(np.mean((a == x) & (b == y)) / np.mean(a == x) / np.mean(b == y))
        for x in set(a)
        for y in set(b)
        if ((a == x) & (b == y)).any()
    )


def spread(values):
    return entropy(np.unique(values, return_counts=True)[1])


HALF = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=2, max_size=5)


@given(HALF, HALF)
@settings(max_examples=30)
def test_nmi_its_bound_and_adjusted_agreement_are_those_counted_out(of_gt, of_ag):
    """n! orders of the clusters of a half: none exceeds the bound, and AMI and ARI take off the mean over all."""
    halves = of_gt, of_ag
    labels = np.array([HALVES[h][label] for h, half in enumerate(halves) for label, _ in half])
    clusters = np.array([cluster for half in halves for _, cluster in half])
    found, adjusted = nmi(clusters, labels), adjusted_agreement(clusters, labels)
    for name, half in zip(("gt", "ag"), halves):
        a, b = map(np.array, zip(*half))
        most = (spread(a) + spread(b)) / 2
        # one cluster of sites of one label: scikit-learn says 1; `load_nmi_sites` refuses a half of one label
        alone = len(set(a)) == len(set(b)) == 1
        expected = 1.0 if alone else information(a, b) / most
        assert found[f"nmi_{name}"] == pytest.approx(expected, abs=1e-9)
        bound = min(spread(a), spread(b)) / most if most else 0.0
        assert found[f"nmi_{name}_bound"] == pytest.approx(bound, abs=1e-9)
        orders = [np.array(order) for order in itertools.permutations(b)]
        by_chance = np.array([information(a, order) for order in orders])
        if not alone:
            assert by_chance.max() / most <= bound + 1e-9
        together = np.triu(np.ones((len(a), len(a)), bool), 1)
        same = [(v[:, None] == v)[together].astype(float) for v in (a, b)]
        agree = np.array([same[0] @ (order[:, None] == order)[together] for order in orders])
        for kind, value, chance, top in (
            ("ami", information(a, b), by_chance.mean(), most),
            ("ari", same[0] @ same[1], agree.mean(), (same[0].sum() + same[1].sum()) / 2),
        ):
            if abs(top - chance) > 1e-9:
                assert adjusted[f"{kind}_{name}"] == pytest.approx((value - chance) / (top - chance), abs=1e-6)


def test_one_half_alone_is_refused():
    with pytest.raises(ValueError, match="no AG site"):
        nmi(np.arange(4), np.array(["GT(donor)"] * 4))


@pytest.mark.parametrize("points", [2, 3, 16])
def test_clusters_of_few_points_and_of_equal_ones(points):
    for features in (np.random.default_rng(points).normal(size=(points, 4)), np.ones((points, 4))):
        found = leiden(features)
        assert len(found) == points and set(found) == set(range(len(set(found))))
    far = np.repeat(np.eye(2) * 50, 8, axis=0) + np.random.default_rng(0).normal(size=(16, 2))
    assert len({tuple(row) for row in np.reshape(kmeans(far, 2), (2, 8))}) == 2 and len(set(kmeans(far, 1))) == 1


def test_clusters_and_pairs_are_drawn_by_the_seed_that_is_given():
    noise = np.random.default_rng(0).normal(size=(80, 6))
    for cluster in (leiden, lambda points, seed: kmeans(points, 5, seed)):
        drawn = [cluster(noise, seed=seed) for seed in (0, 0, 1, 1, 2, 3)]
        assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[2], drawn[3])
        assert any(not np.array_equal(drawn[0], other) for other in drawn[2:])
    assert np.array_equal(kmeans(noise, 5), kmeans(noise, 5, seed=0))
    labels = np.arange(80) % 2
    found = [sccs_difference(noise, noise[::-1], labels, "published", seed, resamples=20) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]

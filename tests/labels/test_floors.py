"""What scores stand on: GC content, k-mer counts, and a regression on them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from simcsp.labels.floors import KmerLogistic, gc_content, kmer_counts
from simcsp.text.alphabet import encode


def rows(*texts):
    return np.stack([encode(text) for text in texts])


def test_gc_content_is_the_share_among_known_bases():
    assert gc_content(rows("GCATNNNN", "NNNNNNNN", "GGGCCCGC"))[:, 0].tolist() == [0.5, 0.0, 1.0]


@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=60)
def test_kmer_counts_equal_a_plain_count(texts, k):
    found = kmer_counts(rows(*texts), k)
    assert found.shape == (len(texts), 2 * 4**k)
    for text, counts in zip(texts, found):
        for half, part in ((text[:6], counts[: 4**k]), (text[6:], counts[4**k :])):
            kmers = [half[i : i + k] for i in range(6 - k + 1)]
            expected = np.zeros(4**k)
            for kmer in kmers:
                if "N" not in kmer:
                    expected[sum("ACGT".index(base) * 4**i for i, base in enumerate(kmer))] += 1
            assert part.tolist() == expected.tolist()


def test_kmer_regression_learns_what_is_in_the_composition():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    shares = np.array([[0.25] * 4, [0.1, 0.4, 0.4, 0.1]])
    ids = np.stack([rng.choice(4, 60, p=shares[label]) + 6 for label in labels]).astype(np.uint8)
    sites = np.array(["donor"] * 200)
    probabilities = KmerLogistic(2).fit(ids[:100], labels[:100], sites[:100]).predict(ids[100:])
    assert roc_auc_score(labels[100:], probabilities) > 0.9

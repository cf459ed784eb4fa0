"""What pre-training says of itself in a line."""

import pytest

from simcsp.training.log_lines import floors_in_words, headline, with_errors


def summary(begun, final, best):
    """Of a stage of 150 steps; begun, final, best: (SCCS, the low and the high end of its interval)."""
    first, last = (
        {f"val/sccs{end}": value for end, value in zip(("", "_low", "_high"), one)} for one in (begun, final)
    )
    proxy = dict(zip(("value", "low", "high", "step"), best))
    metrics = {"train/loss": 0.4224, **last}
    return {"objective": "simcse", "steps": 150, "start": first, "metrics": metrics, "best": {"sccs": proxy}}


@pytest.mark.parametrize(
    "first, final, best, line",
    [
        (
            (0.14, 0.1, 0.18), (0.077, 0.05, 0.1), (0.122, 0.1, 0.15, 25),
            "fell 0.140 [0.10, 0.18] -> 0.077 [0.05, 0.10] (never above the start)",
        ),
        (
            (0.14, 0.1, 0.18), (0.077, 0.01, 0.145), (0.152, 0.12, 0.18, 25),
            "stayed within its error 0.140 [0.10, 0.18] -> 0.077 [0.01, 0.14] (best 0.152 [0.12, 0.18] at step 25)",
        ),
        (
            (0.096, 0.04, 0.15), (0.164, 0.14, 0.19), (0.164, 0.14, 0.19, 150),
            "rose 0.096 [0.04, 0.15] -> 0.164 [0.14, 0.19] (its best)",
        ),
    ],
)  # fmt: skip
def test_a_proxy_rises_or_falls_where_its_interval_leaves_out_the_start(first, final, best, line):
    assert headline(summary(first, final, best)) == f"simcse 150 steps, loss 0.4224, SCCS {line}"


def test_floors_have_their_intervals():
    values = {"gc": 0.101, "gc_low": 0.08, "gc_high": 0.12, "fresh": 0.087}
    assert floors_in_words(values) == "gc 0.101 [0.08, 0.12], fresh 0.087"


def test_proxies_in_the_log_have_their_error():
    scores = {"sccs": 0.14026, "sccs_low": 0.1, "sccs_high": 0.18, "nmi": 0.1365, "nmi_sd": 0.004, "mean_cosine": 0.6}
    assert with_errors(scores) == "sccs 0.1403 [0.100, 0.180]  nmi 0.1365 ± 0.0040  mean_cosine 0.6000"
    assert with_errors({"nmi": 0.1}) == "nmi 0.1000" and with_errors({}) == ""

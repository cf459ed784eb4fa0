"""What pre-training says of itself in a line."""

import pytest

from simcsp.training.pretraining import headline, with_errors


def summary(first, final, best, step):
    values = {"train/loss": 0.4224, "val/sccs": final}
    return {"objective": "simcse", "steps": 150, "start": {"val/sccs": first}, "metrics": values} | {
        "best": {"sccs": {"value": best, "step": step}}
    }


@pytest.mark.parametrize(
    "first, final, best, line",
    [
        (0.140, 0.077, 0.122, "SCCS fell 0.140 -> 0.077 (never above the start)"),
        (0.140, 0.077, 0.152, "SCCS fell 0.140 -> 0.077 (best 0.152 at step 25)"),
        (0.126, 0.140, 0.141, "SCCS rose 0.126 -> 0.140 (best 0.141 at step 25)"),
    ],
)
def test_a_proxy_that_fell_is_said_to_have_fallen(first, final, best, line):
    assert headline(summary(first, final, best, 25)) == f"simcse 150 steps, loss 0.4224, {line}"


def test_proxies_in_the_log_have_their_error():
    scores = {"sccs": 0.14026, "sccs_low": 0.1, "sccs_high": 0.18, "nmi": 0.1365, "nmi_sd": 0.004, "mean_cosine": 0.6}
    assert with_errors(scores) == "sccs 0.1403 [0.100, 0.180]  nmi 0.1365 ± 0.0040  mean_cosine 0.6000"
    assert with_errors({"nmi": 0.1}) == "nmi 0.1000" and with_errors({}) == ""

"""Colours of arms and of classes, the same in every figure, report and TensorBoard picture.

Arms have those of Okabe and Ito, classes those of Tol's muted scheme: both stay apart for all kinds of colour vision,
and no class looks like an arm.
"""

from __future__ import annotations

GREY = "0.45"
PRIMARY = "#D55E00"
_ARMS = {
    "baseline": "#000000",
    "last": PRIMARY,
    "control_last": "#0072B2",
    "best_sccs": "#E69F00",
    "best_nmi": "#CC79A7",
    "fresh": "#56B4E9",
}
_OTHERS = ("#009E73", "#F0E442", "#8B4513", "#7F3C8D", "#66A61E", "#A6761D")
_STAGES = {"pretrain": "last", "control": "control_last"}
_CLASSES = {"donor": ("#332288", "#88CCEE"), "acceptor": ("#117733", "#DDCC77"), "site": ("#882255", "#999999")}
_NEGATIVE = ("non-", "no ", "< 0.2")  # in the labels of what is no site, or one hardly used


def arm_colour(arm: str, number: int = 0) -> str:
    """Of an arm, or of a stage, which has that of its last checkpoint; number: counts the arms that are not known."""
    return _ARMS.get(_STAGES.get(arm, arm)) or _OTHERS[number % len(_OTHERS)]


def is_known(arm: str) -> bool:
    """Whether an arm or stage has a colour of its own."""
    return _STAGES.get(arm, arm) in _ARMS


def class_colour(label: str) -> str:
    """Of a class: 'GT(donor)', 'AG(non-acceptor)', 'donor(SSE < 0.2)', 'site', 'no site'; dark for sites, light for
    what is none."""
    kind = next((name for name in ("donor", "acceptor") if name in label), "site")
    return _CLASSES[kind][any(word in label for word in _NEGATIVE)]

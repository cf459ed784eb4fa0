"""Figure of an in-silico mutagenesis: sequence logo above, heat map of substitutions below."""

from __future__ import annotations

from dataclasses import dataclass

import logomaker
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from simcsp.metrics.mutagenesis import LETTERS, logo_heights, mean_drops

_COLOURS = dict(zip(LETTERS, ("#009E73", "#0072B2", "#E69F00", "#D55E00")))  # of Okabe and Ito


@dataclass(frozen=True)
class Mutagenesis:
    """heights, drops: float [places, 4] of `logo_heights` and `mean_drops`; offsets [places]: of each place from the
    boundary of exon and intron, which lies before offset 0; windows: how many were asked about."""

    heights: np.ndarray
    drops: np.ndarray
    offsets: np.ndarray
    windows: int

    @classmethod
    def of(cls, texts: np.ndarray, drops: np.ndarray, offsets: np.ndarray) -> Mutagenesis:
        """Of the bases at the places, uint8 [n, places], and their drops [n, places, 4]."""
        return cls(logo_heights(texts, drops), mean_drops(texts, drops), offsets, len(texts))

    @property
    def positions(self) -> np.ndarray:
        """The offsets as splice sites are written: -1 is the last base before the boundary, +1 the first after."""
        return self.offsets + (self.offsets >= 0)


def mutagenesis_plot(panels: dict[str, Mutagenesis], title: str) -> Figure:
    """One column a kind of site: the logo above, the mean drop of the logit by place and new base below."""
    widths = [max(len(panel.offsets), 12) for panel in panels.values()]
    figure, axes = plt.subplots(
        2, len(panels), figsize=(0.16 * sum(widths) + 2.5, 5), squeeze=False, sharex="col", sharey="row",
        width_ratios=widths, height_ratios=(3, 2), layout="constrained",
    )  # fmt: skip
    most = max(np.nanmax(np.abs(panel.drops)) for panel in panels.values()) or 1.0
    for (name, panel), (above, below) in zip(panels.items(), axes.T):
        at = np.arange(len(panel.offsets))
        logomaker.Logo(pd.DataFrame(panel.heights, index=at, columns=list(LETTERS)), ax=above, color_scheme=_COLOURS)
        above.set_title(f"{name} ({panel.windows:,} true sites)", fontsize=10)
        image = below.imshow(panel.drops.T, aspect="auto", cmap="PuOr_r", vmin=-most, vmax=most)
        below.set_yticks(range(len(LETTERS)), list(LETTERS))
        numbers = panel.positions
        shown = np.flatnonzero((numbers == -1) | (numbers % 5 == 0) | (at == 0))
        for axis in (above, below):
            axis.axvline(np.searchsorted(panel.offsets, 0) - 0.5, color="black", linewidth=1, linestyle=":")
        below.set_xticks(shown, [f"{number:+d}" for number in numbers[shown]], fontsize=8)
        below.set_xlabel("position from the boundary (-1: last base before it)")
    axes[0, 0].set_ylabel("mean drop of the logit")
    axes[1, 0].set_ylabel("changed to")
    figure.colorbar(image, ax=axes[1], label="mean drop of the logit")
    figure.suptitle(title, wrap=True)
    return figure

"""explain: which bases a model's calls of splice sites rest on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from accelerate import Accelerator

from commands.flags import FlagParser, number_between
from commands.genome import is_of_bases, load_labeller, model_config, split_inputs
from commands.sources import choose_models
from simcsp.core.config import Config
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import refuse_input_as_output, replacing, written_aside
from simcsp.genome.explain import PLACES, annotated_sites, bases_score, strongest
from simcsp.genome.regions import find_spans
from simcsp.metrics.mutagenesis import LETTERS, Score, substitution_drops
from simcsp.model.ensemble import load_ensemble
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import SITES
from simcsp.text.store import open_store

if TYPE_CHECKING:
    from simcsp.report.logo import Mutagenesis

HELP = """\
In-silico mutagenesis of annotated sites: what the score (a logit) of a site loses when one base is another. Writes a
logo of the bases that support the call above the mean of every substitution, and the numbers beside it as TSV.
SOURCE as in predict. The sites of the highest scores are taken, since those are what the model has learnt."""


def show_explain(words: list[str]) -> None:
    """A picture of the bases that calls rest on, and a table of the numbers."""
    parser = FlagParser("explain", HELP)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="[SOURCE] GENOME.fa[.gz] [CONFIG.yaml]")
    parser.add_argument("--annotation", type=Path, required=True, help="GTF, GFF3 or table of introns: the sites")
    parser.add_argument("--out", type=Path, required=True, help="picture, .png, .svg or .pdf")
    parser.add_argument("--region", action="append", default=[], metavar="CHROM[:START-END]", help="repeatable")
    parser.add_argument("--limit", type=number_between(int, 1, 100_000), default=100, help="sites of a type (100)")
    asked, others = parser.read(words)
    if asked.out.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"explain: --out {asked.out} must end in .png, .svg or .pdf")
    source, genome, given = split_inputs("explain", asked.inputs)
    for written in (asked.out, asked.out.with_suffix(".tsv")):
        refuse_input_as_output(written, [source, genome, given, asked.annotation])
    config = model_config(source, given, others)
    accelerator = build_accelerator(config.device, config.precision)
    scorers = scorers_of(source, config, accelerator)
    store = open_store([genome], config.data.cache)
    spans, annotated = find_spans(asked.region, store), read_truth(asked.annotation, store)
    from simcsp.report.logo import Mutagenesis  # matplotlib takes a while

    panels = {}
    for kind, (score, length) in scorers.items():
        sites = annotated_sites(annotated, spans, store, kind, length)
        if not len(sites):
            raise InputError(
                f"explain: no {kind} of {asked.annotation} lies in the regions, {length // 2} nt from its record's ends"
            )
        windows, logits = strongest(store, sites, score, length, asked.limit)
        before, after = (min(reach, length // 2) for reach in PLACES[kind])
        offsets = np.arange(-before, after)
        drops = substitution_drops(score, windows, offsets + length // 2)
        panels[kind] = panel = Mutagenesis.of(windows[:, offsets + length // 2], drops, offsets)
        top = np.sort(np.argsort(-panel.heights.sum(axis=1))[:6])
        shown = ", ".join(f"{panel.positions[i]:+d} {LETTERS[panel.heights[i].argmax()]}" for i in top)
        print(
            f"{kind}: {len(windows)} of {len(sites)} sites, logits {logits[-1]:.2f} to {logits[0]:.2f}; most at {shown}"
        )
    write_panels(panels, f"In-silico mutagenesis, {source.name}", asked.out)


def scorers_of(source: Path, config: Config, accelerator: Accelerator) -> dict[str, tuple[Score, int]]:
    """{type of site: (score, nt of its windows)} of a model of bases, or of classifiers of windows."""
    if is_of_bases(source):
        labeller = load_labeller(source, accelerator)
        return {kind: bases_score(labeller, kind) for kind in SITES}
    folders, _ = choose_models(source, None, None)
    ensemble = load_ensemble(folders, config, accelerator.device, None, accelerator.autocast)
    return {kind: (partial(ensemble.logits, kind=kind), ensemble.length) for kind in ensemble.groups}


def write_panels(panels: dict[str, Mutagenesis], title: str, out: Path) -> None:
    from simcsp.report.logo import mutagenesis_plot

    with replacing(out) as aside:
        mutagenesis_plot(panels, title).savefig(aside, dpi=150)
    rows = []
    for kind, panel in panels.items():
        for place, *pair in zip(panel.positions, panel.heights, panel.drops):
            rows += [(kind, place, *row) for row in zip(LETTERS, *pair)]
    table = pd.DataFrame(rows, columns=["type", "position", "base", "height", "drop"])
    with written_aside(out.with_suffix(".tsv")) as handle:
        table.to_csv(handle, sep="\t", index=False, float_format="%.4f", na_rep="NA")
    print(f"{out}, {out.with_suffix('.tsv')}")

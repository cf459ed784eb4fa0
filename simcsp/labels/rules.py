"""Settings of data that cannot work, and files that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from utils.config import DataConfig


def missing_files(data: DataConfig) -> list[str]:
    """A line for each file that pre-training would read and that is not there."""
    named = [(name, path) for name in ("fasta", "annotation") for path in getattr(data, name)]
    named += [(name, getattr(data, name)) for name in ("spliceator", "motif_bed", "motif_fasta")]
    return [f"data.{name}: {path} does not exist" for name, path in named if path and not Path(path).exists()]


def data_faults(data: DataConfig) -> Iterator[str]:
    """A line for each: windows without a centre, files that do not go together, too few folds."""
    for name in ("context", "motif_window"):
        if getattr(data, name) % 2:
            yield f"data.{name} ({getattr(data, name)}) must be even: the site is at the centre"
    if data.corpus == "annotated" and data.window % 2:
        yield f"data.window ({data.window}) must be even: data.corpus annotated has the site at the centre"
    is_cut = data.motif_bed is not None and data.motif_bed.endswith(".npz")
    if is_cut and data.motif_fasta is not None:
        yield f"data.motif_bed ({data.motif_bed}) holds windows cut already: set data.motif_fasta to null"
    if not is_cut and (data.motif_bed is None) != (data.motif_fasta is None):
        yield "data.motif_bed and data.motif_fasta go together: give both, neither, or an .npz as motif_bed"
    if data.folds == "grouped" and data.num_folds < 4:
        yield f"data.num_folds ({data.num_folds}) must be at least 4: one validation, two test, the rest train"

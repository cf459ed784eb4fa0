"""Settings of a model that cannot work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from utils.config import Config


def model_faults(config: Config) -> Iterator[str]:
    """A line for each: heads that do not divide the width, windows that are longer than what the model takes."""
    model, data = config.model, config.data
    if model.hidden_size % model.num_attention_heads:
        yield (
            f"model.num_attention_heads ({model.num_attention_heads}) "
            f"must divide model.hidden_size ({model.hidden_size})"
        )
    used = {
        "window": config.mlm.steps or config.pretrain.steps or config.evaluate.mlm_fasta is not None,
        "context": data.spliceator is not None,
        "motif_window": data.motif_bed is not None,
    }
    longest, of = model.max_position_embeddings, f"model.max_position_embeddings ({model.max_position_embeddings})"
    if model.source is not None:
        longest, of = positions_of(model.source), f"what {model.source} takes"
    for name in (name for name in used if used[name] and longest is not None):
        if getattr(data, name) + 2 > longest:
            yield (
                f"data.{name} ({getattr(data, name)} nt) and 2 for [CLS] and [SEP] do not fit in {of}: "
                f"at most {longest - 2} nt"
            )


def positions_of(source: str) -> int | None:
    """Longest input, in tokens, of a checkpoint folder by its config.json; None where there is none to read."""
    try:
        found = json.loads((Path(source) / "config.json").read_text())["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a hub id, or a folder whose faults whoever loads it says
    return found if isinstance(found, int) else None

"""Contrastive pre-training for splice sites: `load`, `sccs`, `nmi` and `predict` (simcsp/api.py), the rest by topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simcsp.api import Model, load, nmi, predict, sccs

__all__ = ["Model", "load", "nmi", "predict", "sccs"]


def __getattr__(name: str) -> Any:
    """What the library offers at its top, imported when it is asked for: torch and transformers take seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'simcsp' has no attribute {name!r}")
    from simcsp import api

    return getattr(api, name)

"""Statements about a model that can turn out false: one file a claim type, and the card."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {"Represents": "represents", "Mediates": "mediates", "Necessary": "necessary", "Steers": "steers"}
__all__ = ["Mediates", "Necessary", "Represents", "Steers"]

if TYPE_CHECKING:
    from veriscope.claims.mediates import Mediates
    from veriscope.claims.necessary import Necessary
    from veriscope.claims.represents import Represents
    from veriscope.claims.steers import Steers


def __getattr__(name: str) -> Any:
    """Load a claim type on first use: the card and the battery are plain data and need no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'veriscope.claims' has no attribute '{name}'")
    return getattr(importlib.import_module(f"veriscope.claims.{_PUBLIC[name]}"), name)

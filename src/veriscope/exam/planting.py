"""One planted claim with the truth about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planting:
    """One planted claim. `build` is the import path of a function `(**settings) -> (claim, subject)`."""

    claim_type: str
    truth: bool
    grade: str  # F0-F3, T0, T1x0.5 ... T2
    trap: str
    build: str
    settings: tuple[tuple[str, Any], ...]

"""Planted claims put through the same trials: the verifier's own error rates."""

from __future__ import annotations

from veriscope.exam.examine import examine, rows
from veriscope.exam.planting import FINAL, Bed, Planting
from veriscope.exam.results import record

__all__ = ["FINAL", "Bed", "Planting", "examine", "record", "rows"]

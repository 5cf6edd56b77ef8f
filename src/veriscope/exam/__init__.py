"""Planted claims put through the same trials: the verifier's own error rates."""

from __future__ import annotations

from veriscope.exam.examine import examine, rows
from veriscope.exam.planting import FINAL, Bed, Planting
from veriscope.exam.results import check_frozen, packaged, record

__all__ = ["FINAL", "Bed", "Planting", "check_frozen", "examine", "packaged", "record", "rows"]

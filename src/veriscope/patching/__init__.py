"""What a part of a model does to an answer, measured by changing it: patching, paths, edges, ablation, spans, doses.

Every function takes texts, answers and foils, and reports logit(answer) - logit(foil) at the last token.
"""

from __future__ import annotations

from veriscope.patching.ablation import Ablated, ablation_scan
from veriscope.patching.activation import Patched, activation_patching
from veriscope.patching.attribution import Attributed, attribution_patching
from veriscope.patching.doses import DoseCurve, dose_curve
from veriscope.patching.edges import EdgeScores, edge_attribution
from veriscope.patching.grid import Grid
from veriscope.patching.heads import HeadSweep, head_sweep
from veriscope.patching.miss import Miss
from veriscope.patching.path import PathPatched, path_patching
from veriscope.patching.spans import SpanCell, SpanSweep, span_sweep

__all__ = [
    "Ablated",
    "Attributed",
    "DoseCurve",
    "EdgeScores",
    "Grid",
    "HeadSweep",
    "Miss",
    "Patched",
    "PathPatched",
    "SpanCell",
    "SpanSweep",
    "ablation_scan",
    "activation_patching",
    "attribution_patching",
    "dose_curve",
    "edge_attribution",
    "head_sweep",
    "path_patching",
    "span_sweep",
]

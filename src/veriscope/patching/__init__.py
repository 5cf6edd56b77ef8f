"""What a part of a model does to an answer, measured by changing it: patching, paths, attribution, ablation, doses.

Every function takes texts, answers and foils, and reports logit(answer) - logit(foil) at the last token.
"""

from __future__ import annotations

from veriscope.patching.ablation import Ablated, ablation_scan
from veriscope.patching.activation import Patched, activation_patching
from veriscope.patching.attribution import Attributed, attribution_patching
from veriscope.patching.doses import DoseCurve, dose_curve
from veriscope.patching.grid import Grid
from veriscope.patching.miss import Miss
from veriscope.patching.path import PathPatched, path_patching

__all__ = [
    "Ablated",
    "Attributed",
    "DoseCurve",
    "Grid",
    "Miss",
    "Patched",
    "PathPatched",
    "ablation_scan",
    "activation_patching",
    "attribution_patching",
    "dose_curve",
    "path_patching",
]

"""How findings are made: one file a family, each method a frozen dataclass of settings with a `fit`.

A method is named by its import path ("veriscope.methods.mean_difference:MeanDifference", or "my_package.file:Mine"), so
a record says which code made it and a method of one's own needs no registry. The methods here go by their bare names.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import Any

from veriscope.errors import UnknownMethod, UnknownSetting
from veriscope.methods.contrast_addition import ContrastAddition
from veriscope.methods.leace import LEACE
from veriscope.methods.linear import (
    Linear,
    LinearMethod,
    cluster_folds,
    encode,
    fit_reading,
    held_out_scores,
    path_of,
    settings_of,
)
from veriscope.methods.logistic_probe import LogisticProbe
from veriscope.methods.mean_difference import MeanDifference
from veriscope.methods.pca_direction import PCADirection
from veriscope.methods.random_direction import RandomDirection
from veriscope.methods.searched_direction import SearchedDirection

BUILT_IN: dict[str, Any] = {
    m.__name__: m
    for m in (
        ContrastAddition,
        LEACE,
        LogisticProbe,
        MeanDifference,
        PCADirection,
        RandomDirection,
        SearchedDirection,
    )
}


def method(path: str, **settings: Any) -> Any:
    """Build a method from its bare name or import path.

    Raises:
        UnknownMethod: The name or path leads nowhere, or not to a dataclass with `fit`.
        UnknownSetting: A setting that it does not have, or one that it needs is missing.
    """
    kind = BUILT_IN.get(path) or _imported(path)
    fields = [f for f in dataclasses.fields(kind) if f.init]
    known = [f.name for f in fields]
    for wanted in settings:
        if wanted not in known:
            raise UnknownSetting(kind.__name__, wanted, known)
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in settings:
            raise UnknownSetting(kind.__name__, f.name, known, missing=True)
    return kind(**{name: _frozen(value) for name, value in settings.items()})


def _imported(path: str) -> Any:
    if ":" not in path:
        raise UnknownMethod(path, list(BUILT_IN))
    try:
        kind = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as nowhere:
        raise UnknownMethod(path, list(BUILT_IN), str(nowhere)) from nowhere
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "fit")):
        raise UnknownMethod(path, list(BUILT_IN), "it is not a dataclass with a fit(subject, sample)")
    return kind


def _frozen(value: Any) -> Any:
    """Settings as JSON and YAML give them, in the immutable form that a frozen dataclass holds."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


__all__ = [
    "BUILT_IN",
    "LEACE",
    "ContrastAddition",
    "Linear",
    "LinearMethod",
    "LogisticProbe",
    "MeanDifference",
    "PCADirection",
    "RandomDirection",
    "SearchedDirection",
    "cluster_folds",
    "encode",
    "fit_reading",
    "held_out_scores",
    "method",
    "path_of",
    "settings_of",
]

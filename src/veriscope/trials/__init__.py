"""What a claim must survive: gates, controls, statistics, the decision rule and the wording."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Effort", "Verdict", "trial"]
_PUBLIC = {"trial": "trial", "Effort": "judge", "Verdict": "evidence"}

if TYPE_CHECKING:
    from veriscope.trials.evidence import Verdict
    from veriscope.trials.judge import Effort
    from veriscope.trials.trial import trial


def __getattr__(name: str) -> Any:
    """Load on first use: reports read `veriscope.trials.evidence` and need no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'veriscope.trials' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"veriscope.trials.{_PUBLIC[name]}"), name)
    globals()[name] = value  # `trial` is also the name of the file it comes from
    return value

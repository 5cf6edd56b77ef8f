"""The verifier's own error rates, printed beside every verdict of a type (rule R14).

They come from the exam's result file in the package. Until the exam of a type has been run they are said not
to be measured: never a number typed in by hand.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def _exam() -> dict[str, Any]:
    found = resources.files("veriscope").joinpath("exam", "results.json")
    return json.loads(found.read_text()) if found.is_file() else {}


def error_rates(claim_type: str) -> str:
    """One line for the verdict sentence."""
    row = _exam().get(claim_type.split()[0])
    if row is None:
        return "This battery's own error rates have not been measured yet (no exam of this type on file)."
    return (
        f"On {row['bed']} ({row['date']}) this battery supported {row['false_supported']} of {row['false_n']} "
        f"false claims (at most {row['false_bound']:.1%}) and missed {row['missed']} of {row['true_n']} true ones "
        f"at twice the smallest effect."
    )

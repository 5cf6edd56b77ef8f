"""The card: the claim as it was written down before its gate pool was opened (rule R1)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Purpose(BaseModel):
    """Why the study is done at all: without every field it does not run (R105, Q41)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    problem_class: str = Field(min_length=1)
    cheaper: str = Field(min_length=1, description="what one would do instead that costs less")
    harm: str = Field(min_length=1)
    stop: str = Field(min_length=1, description="when the search ends, found or not")


UNSTATED = Purpose(
    question="not stated (a trial called from Python outside a study)",
    problem_class="not stated",
    cheaper="not stated",
    harm="not stated",
    stop="not stated",
)


class Card(BaseModel):
    """A claim with everything that could be changed afterwards to make it come true.

    `search` counts every (site, position, seed, settings) that the ledger saw tried on the same examples and
    variable before this card was written; the claimant does not declare it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    name: str
    statement: str
    subject: str
    subject_name: str
    finding: str
    method: str
    settings: dict[str, Any]
    site: str
    position: str
    examples: str
    examples_name: str
    variable: str
    scope: str
    family: str
    ablations: tuple[str, ...] = ()
    metric: str
    unit: str
    effect_gate: str = "g1"
    smallest_effect: float
    margins: dict[str, float] = {}
    falsifier: str
    assumptions: tuple[str, ...]
    stressed: str
    search: int
    origin: str
    granularity: str = "one site, the named position, the named examples"
    approach: str = "top-down"
    purpose: Purpose = UNSTATED
    fields: dict[str, Any] = {}
    engine: str

    @property
    def hash(self) -> str:
        """sha256 over the canonical JSON of all fields, 64 hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

"""What a trial leaves behind: estimates, gate results and the verdict, all plain data.

The ledger keeps these as JSON and the report reads nothing else, so a verdict can be decided again from
the ledger alone. `to_plain` and `from_plain` are exact inverses.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from veriscope.errors import NotRun

Role = Literal["instrument", "gate", "falsifier", "diagnostic", "rival"]
Outcome = Literal["pass", "fail", "unclear", "fired", "quiet", "printed", "not run"]
Word = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE", "CONDITIONAL", "UNDERDETERMINED", "INVALID"]


@dataclass(frozen=True)
class Estimate:
    """A number with its one-sided 95% bounds (so `low`..`high` is a two-sided 90% interval).

    `n` counts items and `clusters` the units that were resampled: the second is the real sample size.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True)
class Control:
    """Something the effect must exceed, or a rival that does without looking inside."""

    name: str
    estimate: Estimate | NotRun
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """The distribution over inputs behind a mean: nothing is supported on a mean alone (rule R8)."""

    quantiles: tuple[float, ...]  # at 1, 5, 25, 50, 75, 95, 99 per cent
    wrong_sign: float  # share of inputs that move the other way
    worst_cluster: str
    worst_value: float


@dataclass(frozen=True)
class GateResult:
    """One gate, falsifier, diagnostic or rival, run once.

    `estimate` is the tested quantity (an excess over the strongest control wherever there is one) and is
    held against `margin` in the direction `better`; `raw` is the same score before any control.
    """

    gate: str  # "g1"
    title: str  # "held-out clusters"
    role: Role
    unit: str  # "bits", "logits", "share"
    outcome: Outcome
    better: Literal["higher", "lower", "within"] = "higher"
    margin: float | None = None
    estimate: Estimate | NotRun = NotRun("nothing was measured")
    raw: Estimate | NotRun = NotRun("has no score apart from the excess")
    controls: tuple[Control, ...] = ()
    strongest: str = ""  # name of the control that `estimate` is measured against
    spread: Spread | None = None
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # curves: {"dose": ..., "value": ...}
    note: str = ""  # one sentence for a person
    p_value: float | None = None  # one-sided, against the margin
    items_needed: int | None = None  # when unclear: about how many more gate items would decide it
    seed: int = 0
    seconds: float = 0.0
    passes: int = 0  # forward passes of single examples spent


@dataclass(frozen=True)
class Verdict:
    """What was shown, how large, how sure, and what was not tested."""

    claim: str  # "C1 REPRESENTS"
    name: str  # the claim's name in its study
    card: str  # hash of the card
    word: Word
    level: int  # 0..5
    useful: bool  # at parity with the best rival, or better
    advantage: bool  # better than the best rival
    sentence: str
    gates: tuple[GateResult, ...]
    effect: Estimate | NotRun
    unit: str
    strongest_control: str
    best_rival: str
    not_tested: tuple[str, ...]
    looks: int
    tries: int
    error_rates: str  # one line about the verifier's own error rates for this type, or why there is none
    p_value: float | None = None  # for Benjamini-Hochberg across the claims of a study
    seed: int = 0
    seconds: float = 0.0


def to_plain(value: Any) -> Any:
    """Turn any of these dataclasses into JSON-ready data, tagging `NotRun` so that it survives the trip."""
    if isinstance(value, NotRun):
        return {"not_run": value.reason}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value  # a numpy or torch scalar is a plain number


def from_plain(kind: Any, data: Any) -> Any:
    """Rebuild a dataclass of this file from `to_plain`'s output."""
    if isinstance(data, Mapping) and set(data) == {"not_run"}:
        return NotRun(data["not_run"])
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        choices = [k for k in typing.get_args(kind) if k not in (type(None), NotRun)]
        return None if data is None else from_plain(choices[0], data)
    if origin is tuple:
        return tuple(from_plain(typing.get_args(kind)[0], v) for v in data)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(
            **{f.name: from_plain(hints[f.name], data[f.name]) for f in dataclasses.fields(kind) if f.name in data}
        )
    if isinstance(data, Mapping):
        return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return data

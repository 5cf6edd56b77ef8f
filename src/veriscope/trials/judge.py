"""From an estimate to a gate's outcome: one rule for all gates, by the 95% bound and never by the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from veriscope.claims.battery import GateSpec
from veriscope.errors import NotRun
from veriscope.trials.evidence import Control, Estimate, GateResult, Outcome, Spread
from veriscope.trials.statistics import Array, Resampler, items_needed, ratio_of_sums


@dataclass(frozen=True)
class Effort:
    """How much each control costs: the same numbers for the claim and for everything it is held against.

    Attributes:
        draws: Redrawn labels per control-task family, and shuffled-source fits (g2 of C1 and C2).
        twins: Random-weight twins.
        random: Random subspaces, directions or parts for search-matched, matched-removal and random-edit controls.
        folds: Cross-fitting folds on dev.
        search: Most random directions tried for a search-matched null; the ledger's count if lower.
    """

    draws: int = 20
    twins: int = 5
    random: int = 200
    folds: int = 5
    search: int = 4_096


def judge(
    spec: GateSpec,
    estimate: Estimate,
    *,
    p_value: float | None = None,
    raw: Estimate | NotRun | None = None,
    controls: Sequence[Control] = (),
    strongest: str = "",
    spread: Spread | None = None,
    series: Mapping[str, tuple[float, ...]] | None = None,
    note: str = "",
) -> GateResult:
    """Hold an estimate against its gate's margin.

    pass: the 95% bound is beyond the margin. fail: the other bound is short of it. unclear: neither, and
    then the number of further items that would decide it is given.
    """
    assert spec.margin is not None, f"{spec.gate} has no margin to be judged by"
    outcome = outcome_of(estimate, spec.margin, spec.better)
    return GateResult(
        spec.gate,
        spec.title,
        spec.role,
        spec.unit,
        outcome,
        spec.better,
        spec.margin,
        estimate,
        raw if raw is not None else NotRun("has no score apart from the excess"),
        tuple(controls),
        strongest,
        spread,
        series or {},
        note,
        p_value,
        items_needed(estimate, spec.margin) if outcome == "unclear" else None,
    )


def outcome_of(estimate: Estimate, margin: float, better: str) -> Outcome:
    """pass, fail or unclear by the one-sided bounds."""
    if better == "higher":
        return "pass" if estimate.low > margin else "fail" if estimate.high < margin else "unclear"
    return "pass" if estimate.high < margin else "fail" if estimate.low > margin else "unclear"


def printed(spec: GateSpec, estimate: Estimate | NotRun, **rest) -> GateResult:
    """A diagnostic: shown, never gating."""
    return GateResult(spec.gate, spec.title, spec.role, spec.unit, "printed", spec.better, None, estimate, **rest)


def not_run(spec: GateSpec, reason: str, applies: bool = True) -> GateResult:
    """A gate that was not run. If it applies to the claim, the claim can't be SUPPORTED without it."""
    outcome: Outcome = "not run" if applies else "printed"
    return GateResult(
        spec.gate, spec.title, spec.role, spec.unit, outcome, spec.better, spec.margin, NotRun(reason), note=reason
    )


def falsifier(spec: GateSpec, fired: bool, estimate: Estimate | NotRun, **rest) -> GateResult:
    """A falsifier: fired or quiet."""
    outcome: Outcome = "fired" if bool(fired) else "quiet"
    return GateResult(spec.gate, spec.title, spec.role, spec.unit, outcome, spec.better, spec.margin, estimate, **rest)


@dataclass(frozen=True)
class Excess:
    """The claim's items against the strongest of several controls' items."""

    estimate: Estimate
    p_value: float
    controls: tuple[Control, ...]
    strongest: str


def excess(claim: Array, controls: Mapping[str, Array], draws: Resampler, margin: float) -> Excess:
    """Paired excess of the claim over its strongest control.

    A control that does worse than nothing (mean below zero) counts as zero: it could always be left out, and
    its bad luck must not flatter the claim. The strongest is picked on the items it is then compared on, which
    favours the control.

    Args:
        claim: Score of each gate item, [item].
        controls: Scores of the same items under each control, each [item].
    """
    floored = {name: items if items.mean() > 0 else np.zeros_like(items) for name, items in controls.items()}
    strongest = max(floored, key=lambda name: floored[name].mean())
    gap = np.stack([claim - floored[strongest], np.ones_like(claim)], 1)
    listed = tuple(Control(name, draws.mean(items)) for name, items in floored.items())
    found = draws.estimate(gap, ratio_of_sums)
    if bool((claim == 1).all()) and found.high - found.low < 1e-12:  # all right, beside a constant: no draw differs
        found = dataclasses.replace(found, low=found.value - 1 + draws.mean(claim).low)
    return Excess(found, draws.p_value(gap, margin), listed, strongest)


def against(spec: GateSpec, claim: Array, controls: Mapping[str, Array], draws: Resampler, **rest) -> GateResult:
    """Run the common shape of a gate: the claim's excess over its strongest control, by its lower bound."""
    assert spec.margin is not None
    found = excess(claim, controls, draws, spec.margin)
    return judge(
        spec,
        found.estimate,
        p_value=found.p_value,
        raw=draws.mean(claim),
        controls=found.controls,
        strongest=found.strongest,
        **rest,
    )

"""What a verdict says about the verifier itself: its error rates on planted claims, and a stated confidence (rule R14).

Both come from the exam's result file in the package. Until the exam of a type has been run they are said not to be
measured: never a number typed in by hand. Rates of the final exam are printed where there is one, and those of the
development claims, said to be so, until then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from veriscope.claims.battery import GateSpec
from veriscope.trials.evidence import Estimate, GateResult
from veriscope.trials.judge import outcome_of
from veriscope.trials.statistics import standard_error

FARTHEST = 10.0  # standard errors: distance from a margin says little more beyond this


@cache
def exam_results() -> dict[str, Any]:
    """The result file of the package: for each claim type its parts, "dev" and "final"."""
    found = resources.files("veriscope").joinpath("exam", "results.json")
    return json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}


def error_rates(
    claim_type: str, battery: Sequence[GateSpec] = (), results: Sequence[GateResult] = (), method: str = ""
) -> str:
    """One line for the verdict sentence.

    Args:
        claim_type: "C1 REPRESENTS", or the number alone.
        battery: The gates that the verdict was decided by; with it a confidence is stated, where the exam fitted one.
        results: What they found.
        method: Import path of the method that made the finding: its own noise is held against the effect.
    """
    parts = exam_results().get(claim_type.split()[0], {})
    found = parts.get("final") or parts.get("dev")
    if found is None:
        return "This battery's own error rates have not been measured yet (no exam of this type on file)."
    which = "final claims" if parts.get("final") else "development claims, no final exam yet"
    said = (
        f"On {found['bed']} ({which}, {found['date']}) this battery supported {found['false_supported']} of "
        f"{found['false_n']} false claims (at most {found['false_bound']:.1%}) and missed {found['missed']} of "
        f"{found['true_n']} true ones at twice the smallest effect."
    )
    if found["false_supported"]:
        worst = found["worst"]
        said += f" Worst kind: {worst['trap']}, {worst['supported']} of {worst['n']}."
    if found.get("overstated_n"):
        said += f" Overstated claims supported: {found['overstated_supported']} of {found['overstated_n']}."
    here = next((r.estimate.clusters for r in results if r.gate == "i0" and isinstance(r.estimate, Estimate)), None)
    usual = found.get("instrument_clusters", 0)
    if here is not None and here < usual:
        said += (
            f" Nine in ten of these false claims had {usual:,} clusters or more in their instrument check, this one "
        )
        said += f"{here:,}: how often it errs on so few is hardly measured."
    if "likelihood_ratios" in found:
        said += f" A SUPPORTED multiplies the odds by at least {found['likelihood_ratios']['supported_at_least']:.3g}."
    stated = parts.get("dev", {}).get("confidence")  # fitted in development, then frozen
    if stated and battery and results and not instrument_failed(results):
        at = Confidence(**stated).of(evidence_score(battery, results))
        said += f" Stated confidence at even odds: {at:.2f}."
    return said + instrument_noise(claim_type, results, method)


def instrument_noise(claim_type: str, results: Sequence[GateResult], method: str) -> str:
    """Label an effect that a method's own rerun could make: under twice its reseed deviation on planted truth.

    Nothing for a method that was not calibrated for the claim's type.
    """
    room, _, name = method.rpartition(":")
    kind = claim_type.split()[0]
    rows = {(r["claim_type"], r["method"]): r for r in exam_results().get("methods", {}).get("rows", ())}
    row = rows.get((kind, name)) if room.startswith("veriscope.methods") else None
    if row is None:
        return ""
    effect = next((r.estimate for r in results if r.gate == row["gate"] and r.unit == row["unit"]), None)
    noise = 2 * row["reseed_deviation"]
    if not isinstance(effect, Estimate) or abs(effect.value) >= noise:
        return ""
    return (
        f" Inside instrument noise: less than {noise:.2g} {row['unit']}, twice the reseed deviation of {name} on "
        "planted truth."
    )


def evidence_score(battery: Sequence[GateSpec], results: Sequence[GateResult]) -> float:
    """How far the weakest deciding gate lies beyond its margin: one number from gate results alone.

    A gate's distance is its gap (estimate - margin, in its better direction) over the root of the sum of two squares:
    the standard error that its bounds imply, and a tenth of its margin (of the distance to 1 for a share that must be
    high). Near the margin, where the estimate is noisy, it counts standard errors; where it is exact, tenths of the
    margin. A hyperbolic tangent keeps it within `FARTHEST` either way, and distances that differ stay different. A gate
    without an estimate or a width counts by its outcome: `FARTHEST` either way, or 0. So does one that was left open
    though its estimate is beyond the margin: what it was measured with was found wanting.

    A falsifier that fired has a distance too: `-FARTHEST` where it refutes, 0 where it qualifies (CONDITIONAL,
    UNDERDETERMINED) or makes the trial INVALID. Rivals and diagnostics do not enter: they do not decide.

    All of them are drawn into one by a soft minimum, -log(sum(exp(-distance))): the weakest decides, and of two claims
    whose weakest gates are alike the one that falls short elsewhere too scores less, by log(2) for each further gate as
    weak. Behind a failed instrument nothing was learnt of the claim: 0.
    """
    fires = {spec.gate: spec.if_fired for spec in battery}
    if instrument_failed(results):
        return 0.0
    distances = [_distance(r) for r in results if r.role == "gate" and r.outcome != "printed"]
    for fired in (r for r in results if r.role == "falsifier" and r.outcome == "fired"):
        distances.append(-FARTHEST if fires.get(fired.gate) == "REFUTED" else 0.0)
    return -float(np.logaddexp.reduce([-d for d in distances])) if distances else 0.0


def instrument_failed(results: Sequence[GateResult]) -> bool:
    """Whether an instrument check was not passed, so that the trial says nothing of the claim."""
    return any(r.role == "instrument" and r.outcome not in ("pass", "printed") for r in results)


def _distance(result: GateResult) -> float:
    """How far a gate's estimate lies beyond its margin, towards passing."""
    plain = {"pass": FARTHEST, "fail": -FARTHEST}.get(result.outcome, 0.0)
    if not isinstance(result.estimate, Estimate) or result.margin is None:
        return plain  # a gate may fail without an estimate: no effect, so nothing to be restored
    high_share = result.unit == "share" and result.better == "higher" and result.margin >= 0.5
    unit = 1 - result.margin if high_share else abs(result.margin)
    width = math.hypot(standard_error(result.estimate), unit / FARTHEST)
    left_open = result.outcome == "unclear" and outcome_of(result.estimate, result.margin, result.better) == "pass"
    if width < 1e-9 or result.better == "within" or left_open:
        return plain
    gap = result.estimate.value - result.margin
    away = (gap if result.better == "higher" else -gap) / width
    return FARTHEST * math.tanh(away / FARTHEST)


@dataclass(frozen=True)
class Confidence:
    """Probability that a claim with this evidence score is true, if true and false claims were equally many.

    A logistic of two numbers, fitted on planted development claims and then frozen. It never says more than so many
    claims can show: at least 1 / (n + 2), at most 1 - 1 / (n + 2).
    """

    intercept: float
    slope: float
    n: int

    def of(self, score: float) -> float:
        """The stated confidence of one score."""
        least = 1 / (self.n + 2)
        plain = 1 / (1 + math.exp(-max(-500.0, min(500.0, self.intercept + self.slope * score))))
        return min(1 - least, max(least, plain))

"""The decision rule: from gate results to a word and a level, by one function that reads plain data only.

So a verdict can be decided again from the ledger. SUPPORTED asks that every gate's lower bound be beyond its
margin, no falsifier fired and the instrument was found sound (an intersection-union test, so no correction is
needed inside one claim).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veriscope.claims.battery import GateSpec
from veriscope.trials.evidence import GateResult, Word


@dataclass(frozen=True)
class Decision:
    """The word, the level and the gate that decided."""

    word: Word
    level: int
    useful: bool
    advantage: bool
    because: str
    p_value: float | None


def decide(battery: Sequence[GateSpec], results: Sequence[GateResult]) -> Decision:
    """Apply the decision rule of all claim types.

    Precedence: a failed instrument or an INVALID falsifier makes the trial INVALID; then any failed gate or
    REFUTED falsifier refutes; then falsifiers that qualify (CONDITIONAL, UNDERDETERMINED); a gate that was
    not run, or whose bounds straddle the margin, leaves the claim INCONCLUSIVE.
    """
    fires = {spec.gate: spec.if_fired for spec in battery}
    word, because = _word(fires, results)
    level = _level(battery, results)
    rivals = [r for r in results if r.role == "rival" and r.outcome != "printed"]
    useful = bool(rivals) and all(r.outcome == "pass" or _parity(r) for r in rivals)
    advantage = bool(rivals) and all(r.outcome == "pass" for r in rivals)
    tested = [r.p_value for r in results if r.role == "gate" and r.p_value is not None]
    return Decision(word, level, useful, advantage, because, max(tested) if tested else None)


def _word(fires: Mapping[str, str], results: Sequence[GateResult]) -> tuple[Word, str]:
    instrument = [r for r in results if r.role == "instrument" and r.outcome != "pass" and r.outcome != "printed"]
    if instrument:
        return "INVALID", f"the instrument check {instrument[0].gate} ({instrument[0].title}) was not passed"
    fired = {r.gate: r for r in results if r.role == "falsifier" and r.outcome == "fired"}
    for word in ("INVALID", "REFUTED"):
        for gate, result in fired.items():
            if fires[gate] == word:
                return word, f"falsifier {gate} ({result.title}) fired"  # type: ignore[return-value]
        if word == "REFUTED":
            failed = [r for r in results if r.role == "gate" and r.outcome == "fail"]
            if failed:
                return "REFUTED", f"gate {failed[0].gate} ({failed[0].title}) fell short"
    for gate, result in fired.items():
        return fires[gate], f"falsifier {gate} ({result.title}) fired"  # type: ignore[return-value]
    open_gates = [r for r in results if r.role == "gate" and r.outcome in ("unclear", "not run")]
    if open_gates:
        how = "could not be decided on these data" if open_gates[0].outcome == "unclear" else "was not run"
        return "INCONCLUSIVE", f"gate {open_gates[0].gate} ({open_gates[0].title}) {how}"
    return "SUPPORTED", "every gate was passed"


def _level(battery: Sequence[GateSpec], results: Sequence[GateResult]) -> int:
    """The highest level up to which every gate passed; L4 (useful) is a flag beside it, not a rung of it."""
    outcome = {r.gate: r.outcome for r in results}
    gates = [s for s in battery if s.role == "gate"]
    level = 0
    for rung in (1, 2, 3):
        mine = [s for s in gates if s.level == rung]
        if any(outcome.get(s.gate) not in ("pass", "printed") for s in mine):
            break
        if mine:
            level = rung
    return level


def _parity(result: GateResult) -> bool:
    """A rival gate whose excess is not shown to be below its parity margin by the upper bound is not parity."""
    margin = result.series.get("parity margin", (0.0,))[0]
    return bool(result.estimate) and result.estimate.low > -abs(margin)  # type: ignore[union-attr]

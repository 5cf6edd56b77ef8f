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
    gate: str  # the gate that decided, "" where every gate was passed
    p_value: float | None


def decide(battery: Sequence[GateSpec], results: Sequence[GateResult]) -> Decision:
    """Apply the decision rule of all claim types.

    Precedence: a failed instrument or an INVALID falsifier makes the trial INVALID; then any failed gate or
    REFUTED falsifier refutes; then falsifiers that qualify (CONDITIONAL, UNDERDETERMINED); a gate that was
    not run, or whose bounds straddle the margin, leaves the claim INCONCLUSIVE.
    """
    fires = {spec.gate: spec.if_fired for spec in battery}
    word, because, gate = _word(fires, results)
    level = _level(battery, results)
    rivals = [r for r in results if r.role == "rival" and r.outcome != "printed"]
    shown = bool(rivals) and word == "SUPPORTED"  # what was not shown has no advantage to show
    useful = shown and all(r.outcome == "pass" or _parity(r) for r in rivals)
    advantage = shown and all(r.outcome == "pass" for r in rivals)
    tested = [r.p_value for r in results if r.role == "gate" and r.p_value is not None]
    return Decision(word, level, useful, advantage, because, gate, max(tested) if tested else None)


def _word(fires: Mapping[str, str], results: Sequence[GateResult]) -> tuple[Word, str, str]:
    """The word, why, and the gate that decided."""
    for result in results:
        if result.role == "instrument" and result.outcome not in ("pass", "printed"):
            return "INVALID", f"the instrument check {result.gate} ({result.title}) was not passed", result.gate
    fired = [r for r in results if r.role == "falsifier" and r.outcome == "fired"]
    gates = [r for r in results if r.role == "gate"]
    for result in _with_word(fired, fires, "INVALID"):
        return "INVALID", _fired(result), result.gate
    for result in _with_word(fired, fires, "REFUTED"):
        return "REFUTED", _fired(result), result.gate
    for result in gates:
        if result.outcome == "fail":
            return "REFUTED", f"gate {result.gate} ({result.title}) fell short", result.gate
    for result in fired:
        return fires[result.gate], _fired(result), result.gate  # type: ignore[return-value]
    for result in gates:
        if result.outcome in ("unclear", "not run"):
            how = "could not be decided on these data" if result.outcome == "unclear" else "was not run"
            return "INCONCLUSIVE", f"gate {result.gate} ({result.title}) {how}", result.gate
    return "SUPPORTED", "every gate was passed", ""


def _with_word(fired: Sequence[GateResult], fires: Mapping[str, str], word: str) -> list[GateResult]:
    return [r for r in fired if fires[r.gate] == word]


def _fired(result: GateResult) -> str:
    return f"falsifier {result.gate} ({result.title}) fired"


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

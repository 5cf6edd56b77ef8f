"""Outcomes decided again from their kept gates: without a gate, or with other margins. Nothing is run.

Mutation is the test of the battery itself: a gate whose removal lets no planted falsehood through carries no weight on
these beds. The trade-off shows what stricter or looser margins would have cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from veriscope.claims.battery import GateSpec
from veriscope.errors import UserError, nearest
from veriscope.exam.keep import Outcome
from veriscope.trials.decide import decide
from veriscope.trials.evidence import Estimate, GateResult, Word
from veriscope.trials.judge import outcome_of

SCALES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
HIGH_SHARE = 0.5  # a margin on a share from here on is scaled by its distance to 1
STOPS = ("fail", "unclear", "not run", "fired")  # outcomes with which a claim is not SUPPORTED
POWER = "p0"  # the check of power, which stands in no battery


def without(outcome: Outcome, *gates: str) -> Word:
    """The word that a claim would have come to without some gates, by name; without none, the trial's own.

    Gates that the trial did not reach, because one of these stood before them, count then; and where a check that
    makes a claim CONDITIONAL is among these, gates that failed and were spared for its sake have failed.
    """
    left = [r for r in outcome.gates if r.gate not in gates]
    if any(s.gate in gates and s.if_fired == "CONDITIONAL" for s in outcome.battery):
        left = [_unspared(r) for r in left]
    battery = [s for s in outcome.battery if s.gate not in gates]
    return decide(battery, reached(left)).word


def _unspared(result: GateResult) -> GateResult:
    """A gate's result by the plain rule."""
    if result.role != "gate" or not isinstance(result.estimate, Estimate) or result.margin is None:
        return result
    fails = outcome_of(result.estimate, result.margin, result.better) == "fail"
    return replace(result, outcome="fail") if fails else result


def removed(outcomes: Sequence[Outcome], gate: str) -> list[Outcome]:
    """The outcomes as they would have been without a gate, for counting.

    Raises:
        UserError: None of the claims has such a gate.
    """
    known = sorted({g for o in outcomes for g in deciding(o.battery)} | {POWER})
    if gate not in known:
        raise UserError(
            f"No deciding gate '{gate}' among these claims. {nearest(gate, known)}Gates: {', '.join(known)}"
        )
    return [replace(o, word=without(o, gate)) for o in outcomes]


def reached(results: Sequence[GateResult]) -> list[GateResult]:
    """What the trial would have looked at: behind a failed instrument or too little power, nothing more.

    `decide` puts a failed instrument first by itself, but the unclear power check would be outvoted by a gate that
    failed behind it, in a pool that the trial leaves closed.
    """
    closed = any(r.gate == POWER and r.outcome != "pass" for r in results)
    return [r for r in results if r.role == "instrument" or r.gate == POWER] if closed else list(results)


def deciding(battery: Sequence[GateSpec]) -> list[str]:
    """Gates that can change a verdict: not the rivals and diagnostics, which only print."""
    return [s.gate for s in battery if s.role in ("instrument", "gate", "falsifier")]


@dataclass(frozen=True)
class Mutation:
    """What one gate holds back: the kind of false claim whose support rises most without it.

    `trap` is empty where its removal lets no false claim through: it carries no weight on these beds. `refuses` counts
    the false claims of the type that it does not let pass, alone or with other gates; `total` those that only it holds
    back, `rises` the same by grade. `hasty` counts claims, true and false, that would be REFUTED without the gate and
    are not with it, `hasty_true` the true ones.

    `chooses` marks checks that stand in no claim's way to SUPPORTED by design and choose among the other words: an
    instrument says INVALID, the check of power INCONCLUSIVE, a redundancy CONDITIONAL, of what would be REFUTED.

    `witness` is the quickest claim that it alone holds back, or else that it alone keeps from REFUTED: a test that
    tries it again fails if the gate lets everything pass.
    """

    claim_type: str
    gate: str
    title: str
    grade: str
    trap: str
    bed: str
    n: int
    before: int
    after: int
    refuses: int
    total: int
    rises: Mapping[str, int] = field(default_factory=dict)
    witness: Mapping[str, Any] = field(default_factory=dict)
    hasty: int = 0
    hasty_true: int = 0
    chooses: bool = False


def mutations(outcomes: Sequence[Outcome]) -> list[Mutation]:
    """One row for each deciding gate of each claim type, its removal being the only change."""
    found = []
    for claim_type in sorted({o.claim_type for o in outcomes}):
        mine = [o for o in outcomes if o.claim_type == claim_type]
        battery = {s.gate: s.title for o in mine for s in o.battery if s.gate in deciding(o.battery)}
        if any(r.gate == POWER for o in mine for r in o.gates):
            battery[POWER] = "power on dev"
        false = [o for o in mine if not o.truth]
        for gate, title in battery.items():
            hasty = [o for o in mine if o.word != "REFUTED" == without(o, gate)]
            held = _mutation(claim_type, gate, title, false)
            chooses = not any(s.gate == gate and not _chooses(s) for o in mine for s in o.battery)
            held = replace(held, hasty=len(hasty), hasty_true=sum(o.truth for o in hasty), chooses=chooses)
            found.append(replace(held, witness=held.witness or _witness(hasty)))
    return found


def _chooses(spec: GateSpec) -> bool:
    return spec.role == "instrument" or (spec.role == "falsifier" and spec.if_fired == "CONDITIONAL")


def _mutation(claim_type: str, gate: str, title: str, false: Sequence[Outcome]) -> Mutation:
    kinds: dict[Any, list[tuple[bool, bool]]] = {}
    alone = []
    for o in false:
        before, after = o.word == "SUPPORTED", without(o, gate) == "SUPPORTED"
        kinds.setdefault(o.kind, []).append((before, after))
        alone += [o] if after and not before else []
    rises = {kind: sum(after - before for before, after in pairs) / len(pairs) for kind, pairs in kinds.items()}
    by_grade = dict(sorted(Counter(o.grade for o in alone).items()))
    refuses = sum(r.gate == gate and r.outcome in STOPS for o in false for r in reached(o.gates))
    worst = max(rises, key=lambda kind: rises[kind], default=None)
    if worst is None or rises[worst] <= 0:
        return Mutation(claim_type, gate, title, "", "", "", len(false), 0, 0, refuses, len(alone))
    bed, _, _, grade, trap = worst
    pairs = kinds[worst]
    supported, then = sum(b for b, _ in pairs), sum(a for _, a in pairs)
    n, seen = len(pairs), _witness(alone)
    return Mutation(claim_type, gate, title, grade, trap, bed, n, supported, then, refuses, len(alone), by_grade, seen)


def _witness(alone: Sequence[Outcome]) -> dict[str, Any]:
    """How to make the quickest of these claims again; nothing for outcomes that don't say how."""
    known = [o for o in alone if o.build]
    if not known:
        return {}
    one = min(known, key=lambda o: o.whole_seconds or o.cpu_seconds)
    return {"bed": one.bed, "grade": one.grade, "trap": one.trap, "build": one.build, "settings": dict(one.settings)}


@dataclass(frozen=True)
class Trade:
    """False claims supported and true ones missed when every margin is made stricter or looser by one factor."""

    scale: float
    false_supported: int
    false_n: int
    missed: int
    true_n: int
    inconclusive: int
    n: int


def trade_off(false: Sequence[Outcome], true: Sequence[Outcome], scales: Sequence[float] = SCALES) -> list[Trade]:
    """The trade-off curve of a claim type.

    Args:
        false: False claims that count (F0 to F2).
        true: True claims at twice the smallest effect.
    """
    curve = []
    for scale in scales:
        refused = [scaled(o, scale) for o in false]
        wanted = [scaled(o, scale) for o in true]
        supported, missed = refused.count("SUPPORTED"), sum(w != "SUPPORTED" for w in wanted)
        unclear = (refused + wanted).count("INCONCLUSIVE")
        n = len(false) + len(true)
        curve.append(Trade(scale, supported, len(false), missed, len(true), unclear, n))
    return curve


def scaled(outcome: Outcome, scale: float) -> Word:
    """The word with every gate's and instrument's margin `scale` times as strict.

    Only a margin that decided by the plain rule (the bound beyond the margin) is moved: a falsifier fires by a rule of
    its own, and the power check keeps the smallest effect that was claimed. A margin of 0 stays where it is.
    """
    return decide(outcome.battery, reached([_scaled(r, scale) for r in outcome.gates])).word


def _scaled(result: GateResult, scale: float) -> GateResult:
    estimate, margin = result.estimate, result.margin
    if result.role not in ("gate", "instrument") or result.gate == POWER:
        return result
    if not isinstance(estimate, Estimate) or margin is None or result.better == "within":
        return result
    if outcome_of(estimate, margin, result.better) != result.outcome:
        return result
    moved = stricter(margin, result.better, result.unit, scale)
    return replace(result, margin=moved, outcome=outcome_of(estimate, moved, result.better))


def stricter(margin: float, better: str, unit: str, scale: float) -> float:
    """A margin `scale` times as strict: multiplied where more is asked for, divided where less is.

    A share that must be above 0.5 or more is moved in its distance to 1, which it can't pass.
    """
    if better == "lower":
        return margin / scale
    if unit == "share" and margin >= HIGH_SHARE:
        return 1 - (1 - margin) / scale
    return margin * scale

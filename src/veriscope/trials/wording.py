"""The verdict in one sentence, in words that the evidence licenses.

No word here says more than the level reached: see the table of licensed verbs in the verdict section of the
documentation. Banned outright: proves, understands, knows, believes, fully.
"""

from __future__ import annotations

from collections.abc import Sequence

from veriscope.claims.card import Card
from veriscope.trials.decide import Decision
from veriscope.trials.evidence import Control, Estimate, GateResult

BANNED = ("proves", "prove ", "knows", "believes", "thinks", "wants", "fully", "monosemantic", "robust")
LICENSED = {  # the strongest verb each level allows
    "C1 REPRESENTS": {0: "was claimed to be readable", 1: "is predictable", 2: "is linearly readable"},
    "C2 MEDIATES": {
        0: "was claimed to mediate",
        1: "moves the answer",
        2: "moves the answer beyond searched controls",
        3: "set from another input, moves the answer as the card predicts, on average",
    },
    "C3 NECESSARY": {
        0: "was claimed to be necessary",
        1: "can be erased",
        2: "costs more to remove than matched removals",
        3: "removed, lowers the behaviour on average beyond matched removals",
    },
    "C4 STEERS": {
        0: "was claimed to steer",
        1: "shifts the target",
        2: "shifts the target beyond searched random edits",
        3: "added, shifts the target on average within the side-effect budget",
    },
}


def sentence(
    card: Card, decision: Decision, results: Sequence[GateResult], *, toy: bool, looks: int, rates: str
) -> str:
    """Write the verdict sentence: word, level, what was shown, how large, how sure, and what was not tested."""
    where = (
        f"In {card.subject_name}, '{card.variable}' at {card.site}, position {card.position}: {verb(card, decision)}."
    )
    body = (
        [_instrument(decision, results)] if decision.word == "INVALID" else [where, *_measured(card, decision, results)]
    )
    untested = [
        r.title for r in results if r.outcome == "not run" or (r.outcome == "printed" and r.role != "diagnostic")
    ]
    parts = [
        head(card, decision, toy),
        *body,
        f"Not tested: {', '.join([*untested, 'anything outside the scope'])}.",
        f"Looks: {looks}. Tried before: {card.search}. {rates}",
    ]
    return " ".join(p for p in parts if p)


def _instrument(decision: Decision, results: Sequence[GateResult]) -> str:
    """What an INVALID trial found wrong with itself."""
    result = next(r for r in results if r.gate == decision.gate)
    found = f" ({number(result.estimate, result.unit)})" if isinstance(result.estimate, Estimate) else ""
    needs = f", needs {result.margin:g}" if result.margin is not None and result.role == "instrument" else ""
    return f"{decision.because[0].upper()}{decision.because[1:]}{found}{needs}: the instrument, not the claim, failed."


def _measured(card: Card, decision: Decision, results: Sequence[GateResult]) -> list[str]:
    """Effect, strongest control, reason and rivals of a trial whose instrument was sound."""
    primary = next((r for r in results if r.gate == card.effect_gate), None)
    parts = []
    if primary is not None and isinstance(primary.estimate, Estimate):
        found = f"{number(primary.estimate, primary.unit)} on {size(primary.estimate)}"
        parts.append(f"{primary.title.capitalize()}: {found}.")
    parts.append(_decisive(hardest(results)))
    if decision.word != "SUPPORTED":
        parts.append(f"Why: {decision.because}{_deciding(decision, results)}.")
    if decision.word == "INCONCLUSIVE":
        parts.append(_needed(results))
    parts.append(_rivals(results, decision))
    parts += [f"It is a {r.note[r.note.index('WRITER') :]}." for r in results if r.gate == "d9" and "WRITER" in r.note]
    if primary is not None and primary.spread is not None and decision.word == "SUPPORTED":
        parts.append(
            f"Wrong-sign inputs {primary.spread.wrong_sign:.0%}; worst cluster {primary.spread.worst_value:.2f}."
        )
    return parts


def _deciding(decision: Decision, results: Sequence[GateResult]) -> str:
    """The deciding gate's number, where the sentence has not said it already."""
    result = next((r for r in results if r.gate == decision.gate), None)
    if result is None or not isinstance(result.estimate, Estimate) or result.margin is None:
        return ""
    return f": {number(result.estimate, result.unit)}, margin {result.margin:g}"


def head(card: Card, decision: Decision, toy: bool) -> str:
    """`SUPPORTED at L2 [C1 REPRESENTS].`, with 'toy' said first where only a toy was tested (Q40)."""
    useful = "+useful" if decision.useful and decision.word == "SUPPORTED" else ""
    at = {
        "SUPPORTED": f"SUPPORTED at L{decision.level}{useful}",
        "REFUTED": f"REFUTED (not supported) at the claimed size of at least {card.smallest_effect:g} {card.unit}",
        "INCONCLUSIVE": "INCONCLUSIVE (not supported)",
        "INVALID": "INVALID (nothing shown either way)",
        "CONDITIONAL": "CONDITIONAL (supported only under the named condition)",
        "UNDERDETERMINED": "UNDERDETERMINED (a rival fits as well)",
    }[decision.word]
    return f"{'Toy model only: ' if toy else ''}{at} [{card.type}]."


def verb(card: Card, decision: Decision) -> str:
    """The strongest verb that the level reached licenses; a claim not supported gets 'not shown to'."""
    licensed = LICENSED[card.type]
    if decision.word in ("SUPPORTED", "CONDITIONAL"):
        return licensed[max(level for level in licensed if level <= decision.level)]
    return f"not shown that it {licensed[max(licensed)]}"


def number(estimate: Estimate, unit: str) -> str:
    """`0.31 bits [0.27, 0.35]`."""
    return f"{estimate.value:.2f} {unit} [{estimate.low:.2f}, {estimate.high:.2f}]"


def size(estimate: Estimate) -> str:
    """`1,000 items (52 clusters)`."""
    return f"{estimate.n:,} items ({estimate.clusters:,} clusters)"


def strongest(result: GateResult) -> Control | None:
    """The control that an excess was measured against."""
    return next((c for c in result.controls if c.name == result.strongest), None)


def hardest(results: Sequence[GateResult]) -> GateResult | None:
    """The gate with a control whose excess came out worst, counted in its own margins: a failed one first."""
    with_control = [
        r for r in results if r.role == "gate" and r.strongest and isinstance(r.estimate, Estimate) and r.margin
    ]

    def ease(result: GateResult) -> tuple[bool, float]:
        assert isinstance(result.estimate, Estimate) and result.margin
        over = (result.estimate.value - result.margin) / abs(result.margin)
        return result.outcome != "fail", over if result.better == "higher" else -over

    return min(with_control, key=ease, default=None)


def _decisive(result: GateResult | None) -> str:
    control = strongest(result) if result is not None else None
    if result is None or control is None or not isinstance(control.estimate, Estimate):
        return ""
    assert isinstance(result.estimate, Estimate)
    return (
        f"Strongest control: {control.name}, {control.estimate.value:.2f}; excess over it "
        f"{number(result.estimate, result.unit)}, margin {result.margin:g} ({result.gate} {result.title})."
    )


def _needed(results: Sequence[GateResult]) -> str:
    wanted = [r.items_needed for r in results if r.role == "gate" and r.items_needed]
    return f"About {max(wanted):,} more gate items needed." if wanted else ""


def _rivals(results: Sequence[GateResult], decision: Decision) -> str:
    rivals = [(r.estimate, r) for r in results if r.role == "rival" and isinstance(r.estimate, Estimate)]
    if not rivals:
        return "No rival from outside could be run."
    estimate, worst = min(rivals, key=lambda pair: pair[0].value)
    found = number(estimate, worst.unit)
    if decision.word != "SUPPORTED":
        return f"Against the best rival ({worst.strongest}): difference {found}."
    if decision.advantage:
        return f"Advantage over the best rival ({worst.strongest}): {found}."
    if decision.useful:
        return f"No advantage over the best rival ({worst.strongest}): difference {found}, parity."
    return f"No advantage over the best rival ({worst.strongest}): difference {found}."

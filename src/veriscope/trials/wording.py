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
        0: "was claimed to mediate", 1: "moves the answer", 2: "moves the answer beyond searched controls",
        3: "set from another input, moves the answer as the card predicts, on average",
    },
    "C3 NECESSARY": {
        0: "was claimed to be necessary", 1: "can be erased", 2: "costs more to remove than matched removals",
        3: "removed, lowers the behaviour on average beyond matched removals",
    },
    "C4 STEERS": {
        0: "was claimed to steer", 1: "shifts the target", 2: "shifts the target beyond searched random edits",
        3: "added, shifts the target on average within the side-effect budget",
    },
}  # fmt: skip


def sentence(card: Card, decision: Decision, results: Sequence[GateResult], *, toy: bool, looks: int, rates: str) -> str:
    """Write the verdict sentence: word, level, what was shown, how large, how sure, and what was not tested."""
    parts = [head(card, decision, toy)]
    primary = next((r for r in results if r.gate == "g1"), None)
    decisive = _weakest(results)
    if decision.word == "INVALID":
        instrument = next((r for r in results if r.role == "instrument" or r.outcome == "fired"), None)
        found = f" ({number(instrument.estimate, instrument.unit)}, needs {instrument.margin:g})" if instrument and instrument.estimate and instrument.margin is not None else ""  # noqa: E501
        parts.append(f"{decision.because}{found}: the instrument, not the claim, failed.")
    else:
        parts.append(f"In {card.subject_name}, '{card.variable}' at {card.site}, position {card.position}: {verb(card, decision)}.")
        if primary is not None and primary.estimate:
            parts.append(f"{primary.title.capitalize()}: {number(primary.estimate, primary.unit)} on {size(primary.estimate)}.")
        if decisive is not None:
            parts.append(_decisive(decisive, decision))
        if decision.word not in ("SUPPORTED",):
            parts.append(f"Why: {decision.because}.")
        if decision.word == "INCONCLUSIVE":
            parts.append(_needed(results))
        parts.append(_rivals(results, decision))
    worst = primary.spread if primary is not None else None
    if worst is not None and decision.word == "SUPPORTED":
        parts.append(f"Wrong-sign inputs {worst.wrong_sign:.0%}; worst cluster {worst.worst_value:.2f}.")
    untested = [r.title for r in results if r.outcome == "not run" or (r.outcome == "printed" and r.role != "diagnostic")]
    parts.append(f"Not tested: {', '.join([*untested, 'anything outside the scope'])}.")
    parts.append(f"Looks: {looks}. {rates}")
    return " ".join(p for p in parts if p)


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


def _weakest(results: Sequence[GateResult]) -> GateResult | None:
    """The gate with a control whose excess came out smallest against its margin."""
    with_control = [r for r in results if r.role == "gate" and r.estimate and r.strongest and r.margin is not None]
    return min(with_control, key=lambda r: (r.outcome != "fail", r.estimate.value - (r.margin or 0)), default=None)  # type: ignore[union-attr]


def _decisive(result: GateResult, decision: Decision) -> str:
    control = strongest(result)
    if control is None or not control.estimate or not result.estimate:
        return ""
    return (
        f"Strongest control: {control.name}, {control.estimate.value:.2f}; excess over it "
        f"{number(result.estimate, result.unit)}, margin {result.margin:g} ({result.gate} {result.title})."
    )


def _needed(results: Sequence[GateResult]) -> str:
    wanted = [r.items_needed for r in results if r.role == "gate" and r.items_needed]
    return f"About {max(wanted):,} more gate items needed." if wanted else ""


def _rivals(results: Sequence[GateResult], decision: Decision) -> str:
    rivals = [r for r in results if r.role == "rival" and r.estimate]
    if not rivals:
        return "No rival from outside could be run."
    worst = min(rivals, key=lambda r: r.estimate.value)  # type: ignore[union-attr]
    found = number(worst.estimate, worst.unit)  # type: ignore[arg-type]
    if decision.advantage:
        return f"Advantage over the best rival ({worst.strongest}): {found}."
    if decision.useful:
        return f"No advantage over the best rival ({worst.strongest}): difference {found}, parity."
    return f"No advantage over the best rival ({worst.strongest}): difference {found}."

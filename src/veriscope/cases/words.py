"""What a case says in words, the same on its page and in a terminal."""

from __future__ import annotations

import math

from veriscope.cases.case import Case
from veriscope.cases.outside import Effect
from veriscope.cases.units import PARTS, Unit
from veriscope.errors import NotRun
from veriscope.report.text import TOY, number
from veriscope.trials.trial import TOY_PARAMETERS

SHOWN = 70  # characters of a unit's words in a line of text


def headline(case: Case) -> str:
    """The answer in one sentence."""
    return f"{TOY if case.model.parameters < TOY_PARAMETERS else ''}{_answer(case)}"


def _answer(case: Case) -> str:
    found = strongest(case)
    said = f"“{shortened(case.strange)}”"
    if found is None:
        return f"Nothing that was taken out of the log moves {said} further than irrelevant edits do"
    unit = case.outside.unit(found.units[0])
    what = "brings about" if found.nats < 0 else "holds back"
    return f"“{shortened(unit.text)}” ({unit.name}) {what} {said}"


def strongest(case: Case) -> Effect | None:
    """The removal that does most beyond the floor; what asks for the answer comes last, as it always does much."""
    kinds = {unit.name: unit.kind for unit in case.outside.units}
    last = closing(case)
    some = [
        one for one in case.outside.effects
        if one.how == "removal" and one.above_floor is True and kinds[one.units[0]] in PARTS
    ]  # fmt: skip
    some.sort(key=lambda one: (last is not None and one.units == (last.name,), one.nats > 0, -abs(one.nats)))
    return some[0] if some else None


def closing(case: Case) -> Unit | None:
    """The sentence right before the strange span: it asks for an answer, whatever else it does."""
    parts = [unit for unit in case.outside.units if unit.kind in PARTS]
    return max(parts, key=lambda unit: unit.spans[-1][1], default=None)


def facts(case: Case) -> list[tuple[str, str]]:
    """What is known of the strange words before anything is changed, and what stands out."""
    out = [
        ("strange words", f"“{case.strange.strip()}”, {_found(case)}"),
        ("said by", f"{case.model.name}, {case.model.parameters:,} parameters, {case.model.blocks} blocks"),
        ("expected by it", _expected(case)),
        ("read as", case.transcript.how),
    ]
    best = strongest(case)
    if best is not None:
        out.append(("strongest outside cause", effect_in_words(case, best)))
    if not isinstance(case.cruxes, NotRun):
        out.append(("cruxes", crux_in_words(case)))
    return out


def _found(case: Case) -> str:
    how = case.transcript.strange.found
    return "the least expected ones, as none were marked" if how == "least expected" else f"marked by {how}"


def _expected(case: Case) -> str:
    likely = "its most likely continuation" if case.outside.holds else "not its most likely continuation"
    return f"probability {chance(case.outside.nats)} ({number(case.outside.nats)} nats), {likely}"


def chance(nats: float) -> str:
    """A probability from its logarithm, also one that no float holds."""
    if nats > math.log(1e-4):
        return number(math.exp(min(nats, 0.0)))
    return f"1e−{math.ceil(-nats / math.log(10))}"


def effect_in_words(case: Case, one: Effect) -> str:
    """One effect with its interval and its floor."""
    names = " and ".join(one.units)
    floor = f"irrelevant edits: up to {number(one.floor)}" if not isinstance(one.floor, NotRun) else one.floor.reason
    after = chance(case.outside.nats + one.nats)
    return f"without {names} {number(one.nats)} nats ({floor}), probability {after}"


def crux_in_words(case: Case) -> str:
    """The smallest sets in one line."""
    assert not isinstance(case.cruxes, NotRun)
    if not case.cruxes.found:
        return "no set of units that was tried flips the answer"
    size = len(case.cruxes.found[0].units)
    same = [one for one in case.cruxes.found if len(one.units) == size]
    named = ", ".join(f"{' + '.join(one.units)}{' (borne out)' if one.shown else ''}" for one in same[:4])
    more = f" and {len(same) - 4} more" if len(same) > 4 else ""
    return f"changing {named}{more} flips the answer"


def untested(case: Case) -> list[str]:
    """What was not tested, and why."""
    parts = {
        "contributions": case.shapley, "cruxes": case.cruxes, "flow through the network": case.flow,
    }  # fmt: skip
    out = [f"{name[0].upper()}{name[1:]}: {part.reason}." for name, part in parts.items() if isinstance(part, NotRun)]
    out += case.outside.notes
    if not isinstance(case.shapley, NotRun) and case.shapley.note:
        out.append(f"Contributions: {case.shapley.note}.")
    for part in (case.cruxes, case.flow):
        if not isinstance(part, NotRun):
            out += part.notes
    known = {one.name: one for one in case.outside.units}
    no_floor = [one.units[0] for one in case.outside.effects if one.how == "removal" and isinstance(one.floor, NotRun)]
    if no_floor:
        out.append(f"Without a floor, as they are too large or no neutral text fits: {', '.join(no_floor)}.")
    behind = [n for n in range(case.transcript.strange.turn + 1, len(case.log.turns))]
    if behind:
        out.append(f"{len(behind)} turns behind the strange words: they can't have caused them, so they were not read.")
    if not known:
        out.append("Nothing stands before the strange words that could be taken out.")
    return [f"{text[0].upper()}{text[1:]}" for text in dict.fromkeys(out)]


def shortened(text: str, most: int = SHOWN) -> str:
    """Words on one line, cut in the middle where they are too long."""
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    half = (most - 3) // 2
    return f"{flat[:half].rstrip()} … {flat[-half:].lstrip()}"

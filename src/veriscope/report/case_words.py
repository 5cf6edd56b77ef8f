"""What a case says in words, the same on its page and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from veriscope.cases.case import Case, hardly_said
from veriscope.cases.causes import Entry, catalogue, results, version
from veriscope.cases.outside import Effect
from veriscope.cases.repair import ORDER
from veriscope.cases.units import PARTS, Unit
from veriscope.errors import NotRun
from veriscope.report.text import TOY, number
from veriscope.trials.statistics import clopper_pearson
from veriscope.trials.trial import TOY_PARAMETERS

MOST_NAMED = 5  # cruxes in a line of text
SEEN = 0.005  # nats: less than that is nothing in two digits
SHOWN = 70  # characters of a unit's words in a line of text


def headline(case: Case) -> str:
    """The answer in one sentence."""
    return f"{TOY if case.model.parameters < TOY_PARAMETERS else ''}{_answer(case)}"


def _answer(case: Case) -> str:
    found, said = case.diagnosis, f"“{shortened(case.strange)}”"
    if found.word == "clean":
        return f"Nothing wrong was found with {said}"
    if not found.causes:
        return f"Unknown: no cause of the list explains {said}"
    equal = found.word == "indistinguishable"
    names = " or ".join(map(cause_in_words, found.causes[: 2 if equal else 1]))
    return f"{names[0].upper()}{names[1:]} made it say {said}{' (nothing tells the two apart)' if equal else ''}"


def cause_in_words(name: str) -> str:
    """What a cause is called in the list."""
    known = listed().get(name)
    return known.title if known is not None else name.replace("_", " ")


def listed() -> dict[str, Entry]:
    """Entries of the cause list by name."""
    return {entry.name: entry for entry in catalogue()}


def examined_as(case: Case) -> str:
    """Who in the exam was told as much as was told here: with the right answer, or with nothing."""
    return "veriscope" if case.expected else "veriscope, nothing told"


def outdated() -> str:
    """That the exam was sat by another version of the cause list, if it was; else empty."""
    sat, now = results().get("version"), version()
    if not exam_rows() or sat == now:
        return ""
    return (
        f"These figures are of version {sat} of the cause list, this is version {now}: its tests have changed since, "
        "and how often they are wrong has not been measured again."
    )


def exam_rows() -> list[Mapping[str, Any]]:
    """One row for each contestant and cause: {who, cause, n, first, listed, unknown, wrong, low, high}."""
    return list(results().get("rows", ()))


def confusion(case: Case) -> Mapping[str, Mapping[str, int]]:
    """Planted cause to what was said first to how often."""
    found: Mapping[str, Mapping[str, int]] = results().get("confusion", {}).get(examined_as(case), {})
    return found


def rate_in_words(case: Case, cause: str) -> str:
    """How often a cause was found where it was planted, and how often it was the true one where it was named."""
    counts = confusion(case)
    planted = sum(counts.get(cause, {}).values())
    named = sum(said.get(cause, 0) for said in counts.values())
    hits = counts.get(cause, {}).get(cause, 0)
    if not planted:
        return "How often this entry is right was not measured."
    return (
        f"Planted {planted} times, it was named first in {hits}{_interval(hits, planted)}. "
        f"Named first {named} times, it was right in {hits}{_interval(hits, named)}. {outdated()}"
    ).strip()


def _interval(k: int, n: int) -> str:
    """The 95% interval of a share (Clopper and Pearson)."""
    if not n:
        return ""
    low, high = clopper_pearson(k, n, 0.975)
    return f" [{number(low, 2)},\u00a0{number(high, 2)}]"


def named_units(case: Case) -> dict[str, list[str]]:
    """Units that a named cause rests on, with the causes."""
    out: dict[str, list[str]] = {}
    for one in case.diagnosis.findings:
        for unit in one.units if one.cause in case.diagnosis.causes else ():
            out.setdefault(unit, []).append(one.cause)
    return out


def leading(case: Case) -> list[str]:
    """What stands behind the answer, in a few sentences."""
    found = case.diagnosis
    why = ""
    if found.causes:
        entry = listed().get(found.causes[0])
        why = f"{entry.words if entry is not None else ''} {found.finding(found.causes[0]).evidence[0]}"
    also = "; ".join(map(cause_in_words, found.causes[1:]))
    more = f"This holds too: {also}." if also and found.word != "indistinguishable" else ""
    return [text.strip() for text in (why, more, outside_in_words(case), repair_in_words(case)) if text]


def outside_in_words(case: Case) -> str:
    """What in the log brings it about; nothing to say where that is but the question behind a named cause."""
    said = f"“{shortened(case.strange)}”"
    if far_from_said(case):
        return (
            f"{case.model.name} would hardly have said {said} at all ({chance(case.outside.nats)}). What another "
            f"model, or a person, said can have causes that this one does not show."
        )
    found = strongest(case)
    if found is None:
        return f"Nothing that was taken out of the log moves {said} further than irrelevant edits do."
    unit = case.outside.unit(found.units[0])
    if is_closing(case, unit):
        return "" if named_units(case) else f"{_only_closing(unit)}."
    what = "brings it about" if found.nats < 0 else "holds it back"
    before, after = chance(case.outside.nats), chance(case.outside.nats + found.nats)
    moved = f"without it the probability goes from {before} to {after}"
    return f"In the log, “{shortened(unit.text)}” ({unit.name}) {what}: {moved}."


def _only_closing(unit: Unit) -> str:
    return (
        f"Of the sentences only the one right before the answer, “{shortened(unit.text)}” ({unit.name}), does more "
        "than irrelevant edits; it is also what asks for an answer"
    )


def far_from_said(case: Case) -> bool:
    """Whether the model at hand would say the strange words so rarely that they are hardly its own."""
    return hardly_said(case.outside, case.model.vocabulary)


def repair_in_words(case: Case) -> str:
    """The best repair of all causes, or that none helped."""
    if isinstance(case.repairs, NotRun):
        return ""
    best = min(case.repairs, key=lambda one: ORDER.index(one.verdict))
    if best.gone:
        return f"Best repair tried: {best.what}. {best.sentence}"
    tried = sum(one.verdict != "not run" for one in case.repairs)
    if tried == 0:
        return "No repair could be run."
    if tried == 1:
        return "The one repair that was tried does not make it go."
    return f"None of the {tried} repairs that were tried makes it go."


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


def is_closing(case: Case, unit: Unit) -> bool:
    """Whether it is the sentence right before the strange span."""
    last = closing(case)
    return last is not None and unit.name == last.name


def unit_words(unit: Unit, most: int = SHOWN) -> str:
    """The words of a unit on one line; an object's once."""
    if unit.kind == "object":
        return f"{shortened(unit.text.split(' ... ')[0], most)}, in {len(unit.spans)} places"
    return shortened(unit.text, most)


NAMED = {
    "sentence": ("s", "a sentence"), "system": ("y", "a sentence of a system turn"), "turn": ("t", "a whole turn"),
    "object": ("o", "a word that several sentences hold"), "view": ("v", "a view that the speaker states"),
}  # fmt: skip


def unit_names(case: Case) -> str:
    """What the names of units mean, as far as they occur."""
    there = {unit.kind for unit in case.outside.units}
    return ", ".join(f"{letter} is {what}" for kind, (letter, what) in NAMED.items() if kind in there)


def facts(case: Case) -> list[tuple[str, str]]:
    """What is known of the strange words before anything is changed, and what stands out."""
    out = [
        ("strange words", f"“{case.strange.strip()}”, {_found(case)}"),
        ("said by", f"{case.model.name}, {case.model.parameters:,} parameters, {case.model.blocks} blocks"),
        ("its probability", _expected(case)),
        ("read as", case.transcript.how),
    ]
    best = strongest(case)
    if best is not None:
        out.append(("strongest in the log", effect_in_words(case, best)))
    if not isinstance(case.cruxes, NotRun):
        out.append(("what flips it", crux_in_words(case)))
    if case.expected:
        out.insert(1, ("expected instead", " or ".join(f"“{one}”" for one in case.expected)))
    return out


def _found(case: Case) -> str:
    how = {"offsets": "marked by their place in the log", "text": "marked by their words"}
    return how.get(case.transcript.strange.found, "the least expected ones, as none were marked")


def _expected(case: Case) -> str:
    likely = "its most likely continuation" if case.outside.holds else "not its most likely continuation"
    return f"{chance(case.outside.nats)} ({nats(case.outside.nats)} nats), {likely}"


def chance(nats: float) -> str:
    """A probability from its logarithm, also one that no float holds."""
    if nats > math.log(0.9995):
        return "above 0.999"
    if nats > math.log(1e-3):
        return number(math.exp(min(nats, 0.0)))
    if nats > math.log(1e-5):
        return f"{math.exp(nats):.5f}"
    power = math.floor(nats / math.log(10))
    return f"{number(math.exp(nats - power * math.log(10)), 0)}e−{-power}"


def nats(value: float) -> str:
    """A change of a log-probability with as many digits as a reader can use."""
    return number(value, 2 if abs(value) < 10 else 1)


def size(floor: float) -> str:
    """A floor in nats; one that two digits do not show is named as that."""
    return f"up to {nats(floor)}" if floor >= SEEN else "under 0.01"


def effect_in_words(case: Case, one: Effect) -> str:
    """What taking out one unit does, beside its floor."""
    unit = case.outside.unit(one.units[0])
    floor = f"irrelevant edits: {size(one.floor)}" if not isinstance(one.floor, NotRun) else one.floor.reason
    after = chance(case.outside.nats + one.nats)
    asks = ", which asks for the answer" if is_closing(case, unit) else ""
    return f"{unit.name}{asks}: {nats(one.nats)} nats without it ({floor}), probability {after}"


def crux_in_words(case: Case) -> str:
    """The smallest sets in one line."""
    assert not isinstance(case.cruxes, NotRun)
    if not case.cruxes.found:
        return "no set of units that was tried flips the answer"
    size = len(case.cruxes.found[0].units)
    same = [one for one in case.cruxes.found if len(one.units) == size]
    few = same if len(same) <= MOST_NAMED else same[: MOST_NAMED - 1]
    named = [" + ".join(one.units) for one in few] + [f"one of {len(same) - len(few)} more"] * (len(few) < len(same))
    held = [" + ".join(one.units) for one in same if one.shown]
    tested = any(not isinstance(one.test, NotRun) for one in same)
    borne = f"; on new inputs this held for {' and '.join(held)}" if held else "; on new inputs it did not hold"
    flips, n = case.cruxes.floor
    idle = f"; {flips} of {n} irrelevant edits do so too" if flips else ""
    return f"changing {' or '.join(named)} flips the answer{borne if tested else ''}{idle}"


def untested(case: Case) -> list[str]:
    """What was not tested, and why."""
    parts = {
        "contributions": case.shapley, "cruxes": case.cruxes, "flow through the network": case.flow,
        "repairs": case.repairs,
        "what it took its user to be": case.user_model, "what it was working on": case.topics,
    }  # fmt: skip
    gone = {name: part.reason for name, part in parts.items() if isinstance(part, NotRun)}
    out = [*_by_reason(gone), *case.outside.notes]
    if not isinstance(case.shapley, NotRun) and case.shapley.note:
        out.append(f"Contributions: {case.shapley.note}.")
    for some in (case.cruxes, case.flow):
        out += () if isinstance(some, NotRun) else some.notes
    tests = [(cause_in_words(one.cause), one.holds) for one in case.diagnosis.findings]
    out += _by_reason({cause: holds.reason for cause, holds in tests if isinstance(holds, NotRun)})
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


def _by_reason(gone: Mapping[str, str]) -> list[str]:
    """A line for each reason, with all that it kept from being made."""
    reasons: dict[str, list[str]] = {}
    for name, reason in gone.items():
        reasons.setdefault(reason, []).append(name)
    return [f"{'; '.join(names)}: {reason}." for reason, names in reasons.items()]


def shortened(text: str, most: int = SHOWN) -> str:
    """Words on one line, whole ones left out in the middle where they are too many."""
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    half = (most - 3) // 2
    first, last = flat[:half].rstrip(), flat[-half:].lstrip()
    if flat[half] != " " and " " in first:
        first = first.rpartition(" ")[0]
    if flat[-half - 1] != " " and " " in last:
        last = last.partition(" ")[2]
    return f"{first} … {last}"

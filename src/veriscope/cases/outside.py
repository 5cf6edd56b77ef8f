"""Outside causes: what happens to the strange span when a part of its context is taken out or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from veriscope.cases.changes import Changes
from veriscope.cases.neutral import nothing
from veriscope.cases.transcript import Transcript
from veriscope.cases.units import Unit
from veriscope.errors import NotRun
from veriscope.subjects.endings import Ending, Watch

How = Literal["removal", "substitution", "swap-in"]


@dataclass(frozen=True)
class Effect:
    """What one change of the context did to the strange span.

    The change in log-probability of one edited text is exact. The interval is of what the content of the unit did: the
    change, less what irrelevant edits of the same size do (their 5% and 95% quantiles); over several substitutes it
    also holds their spread.

    Attributes:
        units: Names of the units changed: one, or two of a pair.
        how: What was done to them.
        nats: Log-probability of the strange span after the change less before it; below 0 where the unit brought the
            span about. The mean over substitutes, where there are several.
        low, high: The interval; the change itself (or its spread) where there is no floor to draw one from.
        floor: What 95% of the irrelevant edits nearest in size stay within (nats, absolute), which is the largest of
            fewer than 40; NotRun where there are none of that size.
        above_floor: Whether |nats| is above that. Of irrelevant units about 1 in 20 is, so of many units some are.
        size: Tokens changed.
        greedy: Whether the most likely continuation is still the strange span (of all substitutes); NotRun where it
            was not so before.
        first_change: Place in the strange span of the first token that is no longer the most likely one where it was
            before; None if there is none.
    """

    units: tuple[str, ...]
    how: How
    nats: float
    low: float
    high: float
    floor: float | NotRun
    above_floor: bool | NotRun
    size: int
    greedy: bool | NotRun
    first_change: int | None = None

    @property
    def ratio(self) -> float | NotRun:
        """|nats| as a multiple of the floor."""
        return self.floor if isinstance(self.floor, NotRun) else abs(self.nats) / max(self.floor, 1e-9)


@dataclass(frozen=True)
class Irrelevant:
    """One irrelevant edit: neutral text put in where nothing was taken out.

    Attributes:
        size: Its tokens.
        place: Character of the transcript that it stands before.
        nats: Log-probability of the strange span with it less without it.
        again: The same with another neutral text of that size there: `again` - `nats` is an irrelevant substitution.
        flips: Of the two, how many changed whether the most likely continuation is the strange span.
    """

    size: int
    place: int
    nats: float
    again: float
    flips: int


@dataclass(frozen=True)
class Continuation:
    """What the model says in place of the strange span.

    Attributes:
        units: Names of the units removed; empty for the text as it is.
        greedy: The most likely continuation.
        sampled: Drawn at temperature 1.
        again: Share of the draws that begin with the strange span, or with as much of it as was drawn; the exact
            probability is exp(log-probability).
    """

    units: tuple[str, ...]
    greedy: str
    sampled: tuple[str, ...]
    again: float


@dataclass(frozen=True)
class Outside:
    """Outside causes of a strange span.

    Attributes:
        transcript, units: What was changed.
        nats: Log-probability of the strange span in its context, and of each of its tokens.
        holds: Whether the most likely continuation of the context is the strange span.
        effects: Of single units, strongest removal first.
        pairs: Of pairs among the strongest units, by removal, strongest first.
        floor: The irrelevant edits.
        continuations: Of the text as it is, and without each of the strongest units.
        passes: What it cost, in whole passes of the context through the blocks.
        notes: What was not done and why, one sentence each.
    """

    transcript: Transcript
    units: tuple[Unit, ...]
    nats: float
    token_nats: tuple[float, ...]
    holds: bool
    effects: tuple[Effect, ...]
    pairs: tuple[Effect, ...]
    floor: tuple[Irrelevant, ...]
    continuations: tuple[Continuation, ...]
    passes: float
    notes: tuple[str, ...] = ()

    def effect(self, unit: str, how: How = "removal") -> Effect | NotRun:
        """The effect of one unit, or why there is none."""
        found = [effect for effect in self.effects if effect.units == (unit,) and effect.how == how]
        return found[0] if found else NotRun(f"no {how} of {unit} was tried")

    def interaction(self, pair: Effect) -> float | NotRun:
        """What a pair does beyond the sum of its two units (nats): below 0 where either alone keeps the span up."""
        alone = [self.effect(name) for name in pair.units]
        known = [one.nats for one in alone if isinstance(one, Effect)]
        return pair.nats - sum(known) if len(known) == 2 else NotRun("one of the two was not removed alone")

    def unit(self, name: str) -> Unit:
        return next(unit for unit in self.units if unit.name == name)


@runtime_checkable
class Recorder(Protocol):
    """Is told which texts are about to run, and watches them: how a flow map is made of the same runs."""

    def watch(
        self, contexts: Sequence[Sequence[int]], without: Mapping[str, int], irrelevant: Sequence[int]
    ) -> Watch | None:
        """What watches these contexts: the number of the one without each unit, and those of irrelevant edits."""
        ...


@dataclass(frozen=True)
class Depth:
    """How much is run; the defaults suit a case of 400 tokens and 20 sentences.

    Attributes:
        floor: Places where irrelevant text is put in, twice each.
        strongest: Units that pairs are made of.
        shown: Strongest units without which the text is continued.
        draws: Continuations drawn of each.
        tokens: Their length.
        substitutes: Neutral texts put in the place of each unit.
    """

    floor: int = 10
    strongest: int = 8
    shown: int = 3
    draws: int = 4
    tokens: int = 12
    substitutes: int = 1


def outside(
    changes: Changes,
    *,
    depth: Depth = Depth(),
    swaps: Mapping[str, str] | None = None,
    recorder: Recorder | None = None,
    seed: int = 0,
) -> Outside:
    """What removing, substituting and swapping each unit does to the strange span, above irrelevant edits.

    The floor is made of neutral text put in where nothing is taken out: the reverse of removing a sentence that has
    nothing to do with the answer, at places and of sizes like those of the units. (Random stretches of the log itself
    would hold its causes, and put the floor above them.)

    Args:
        changes: The case's texts.
        swaps: Words of a matched log for units by name (`matched`).
        recorder: Watches removals and irrelevant edits.
        seed: Of places, neutral words and draws.
    """
    before = changes.passes
    notes = [*changes.transcript.notes, *changes.notes]
    base = changes.base
    irrelevant = _irrelevant(changes, depth, seed)
    removals = {name: changes.removed([name]) for name in changes.units}
    contexts = list(dict.fromkeys([*removals.values(), *(ids for *_, ids in irrelevant)]))
    place = {ids: number for number, ids in enumerate(contexts)}
    without = {name: place[ids] for name, ids in removals.items()}
    watch = recorder.watch(contexts, without, [place[ids] for *_, ids in irrelevant]) if recorder is not None else None
    found = changes.run(contexts, watch, [removals[unit.name] for unit in changes.parts if unit.name in removals])
    floor = _floor(changes, irrelevant, [found[place[ids]] for *_, ids in irrelevant])
    measure = _Measure(changes, floor)
    alone = [name for name, ids in removals.items() if ids == tuple(nothing(changes.subject))]
    notes += [f"Without {name} nothing is left: the model read the token of an empty text." for name in alone]
    effects = [measure.effect((name,), "removal", [found[number]]) for name, number in without.items()]
    effects += _substitutions(changes, measure, depth, seed, notes)
    if swaps:
        swapped = {name: changes.swapped({name: text}) for name, text in swaps.items() if name in changes.units}
        fit = {name: ids for name, ids in swapped.items() if changes.fits(ids)}
        again = changes.run(list(fit.values()))
        effects += [measure.effect((name,), "swap-in", [one]) for name, one in zip(fit, again, strict=True)]
        notes += [f"The words swapped in for {name} do not fit into the context." for name in swapped.keys() - fit]
    strength = {one.units[0]: -abs(one.nats) for one in effects if one.how == "removal"}
    effects.sort(key=lambda one: strength[one.units[0]])
    strongest = [name for name in sorted(strength, key=strength.__getitem__) if _may_pair(changes, name)]
    changes.endings.forget([removals[name] for name in strongest[: max(depth.strongest, depth.shown)]])
    pairs = _pairs(changes, measure, strongest[: depth.strongest])
    said = _continuations(changes, strongest[: depth.shown], depth, seed)
    notes += _what_is_missing(changes, floor)
    return Outside(
        changes.transcript, tuple(changes.units.values()), base.total, tuple(base.nats.tolist()), changes.holds,
        tuple(effects), tuple(pairs), floor, said, changes.passes - before, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def matched(own: Sequence[Unit], other: Sequence[Unit]) -> dict[str, str]:
    """The words of a matched log for each sentence and system line whose counterpart, by name, says something else."""
    theirs = {unit.name: unit.text for unit in other if unit.kind in ("sentence", "system")}
    return {unit.name: theirs[unit.name] for unit in own if theirs.get(unit.name, unit.text) != unit.text}


# ---- irrelevant edits


def _irrelevant(changes: Changes, depth: Depth, seed: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Neutral texts put in, two at each place: place, size and context; sizes run over those of the units."""
    parts = changes.parts
    if not parts or isinstance(changes.neutral, NotRun):
        return []
    rng = np.random.default_rng([seed, 0xF1])
    sizes = np.sort([changes.size([unit.name]) for unit in parts])
    sizes = rng.permutation(sizes[np.linspace(0, len(sizes) - 1, depth.floor).round().astype(int)])
    starts = np.array([unit.spans[0][0] for unit in parts])
    places = starts[np.linspace(0, len(starts) - 1, depth.floor).round().astype(int)]
    out = []
    for number, (place, size) in enumerate(zip(places.tolist(), sizes.tolist(), strict=True)):
        both = [changes.inserted(place, size, 2 * number + n) for n in (0, 1)]
        known = [ids for ids in both if not isinstance(ids, NotRun) and changes.fits(ids)]
        if len(known) == 2:
            out += [(place, size, ids) for ids in known]
    return out


def _floor(
    changes: Changes, edits: Sequence[tuple[int, int, tuple[int, ...]]], found: Sequence[Ending]
) -> tuple[Irrelevant, ...]:
    out = []
    for n in range(0, len(edits), 2):
        place, size, _ = edits[n]
        first, again = (one.total - changes.base.total for one in found[n : n + 2])
        flips = sum((one.changed(changes.transcript.ending) is None) != changes.holds for one in found[n : n + 2])
        out.append(Irrelevant(size, place, first, again, flips))
    return tuple(out)


# ---- effects

NEAREST = 20  # irrelevant edits that an effect is held against
TOO_LARGE = 2.0  # times the largest irrelevant edit: beyond that nothing is known about irrelevant edits of that size


class _Measure:
    """Turns endings into effects."""

    def __init__(self, changes: Changes, floor: Sequence[Irrelevant]) -> None:
        self.changes, self.floor = changes, floor

    def effect(self, names: tuple[str, ...], how: How, found: Sequence[Ending]) -> Effect:
        changes, size = self.changes, self.changes.size(names)
        ending = changes.transcript.ending
        each = np.array([one.total for one in found]) - changes.base.total
        nats, noise = float(each.mean()), self._noise(how, size)
        first = [place for one in found if (place := self._first_change(one)) is not None]
        greedy = all(one.changed(ending) is None for one in found) if changes.holds else NotRun(
            "the strange span is not the most likely continuation as it is"
        )  # fmt: skip
        if isinstance(noise, NotRun):
            return Effect(
                names,
                how,
                nats,
                float(each.min()),
                float(each.max()),
                noise,
                noise,
                size,
                greedy,
                min(first, default=None),
            )
        low, high = float(each.min() - np.quantile(noise, 0.95)), float(each.max() - np.quantile(noise, 0.05))
        floor = float(np.quantile(np.abs(noise), 0.95, method="higher"))
        return Effect(
            names, how, nats, min(low, nats), max(high, nats), floor, abs(nats) > floor, size, greedy,
            min(first, default=None),
        )  # fmt: skip

    def _noise(self, how: How, size: int) -> NDArray[np.float64] | NotRun:
        """What irrelevant edits of about this size do: a removal undoes an insertion, a substitution another one."""
        if not self.floor:
            return NotRun("no irrelevant edit could be made: no neutral text, or no room in the context")
        largest = max(one.size for one in self.floor)
        if size > TOO_LARGE * largest:
            return NotRun(f"no irrelevant edit of about {size} tokens was tried; the largest has {largest}")
        near = sorted(self.floor, key=lambda one: abs(np.log(one.size / max(size, 1))))
        if how == "removal":
            return np.array([-nats for one in near for nats in (one.nats, one.again)][:NEAREST])
        return np.array([sign * (one.again - one.nats) for one in near for sign in (1, -1)][: 2 * NEAREST])

    def _first_change(self, one: Ending) -> int | None:
        """First token of the span that was the most likely one and no longer is."""
        ending, base = self.changes.transcript.ending, self.changes.base
        was, now = base.best.tolist(), one.best.tolist()
        return next((n for n, token in enumerate(ending) if was[n] == token != now[n]), None)


def _substitutions(changes: Changes, measure: _Measure, depth: Depth, seed: int, notes: list[str]) -> list[Effect]:
    """Effects of neutral words in the place of each unit."""
    todo: list[tuple[str, tuple[int, ...]]] = []
    for name in changes.units:
        for n in range(depth.substitutes):
            ids = changes.substituted([name], seed + n)
            if isinstance(ids, NotRun):
                notes.append(f"No unit was substituted: {ids.reason}.")
                return []
            if changes.fits(ids):
                todo.append((name, ids))
    found = changes.run([ids for _, ids in todo])
    by_name: dict[str, list[Ending]] = {}
    for (name, _), one in zip(todo, found, strict=True):
        by_name.setdefault(name, []).append(one)
    return [measure.effect((name,), "substitution", some) for name, some in by_name.items()]


def _may_pair(changes: Changes, name: str) -> bool:
    """Whether a unit overlaps with no other kind: pairs are of sentences and system lines."""
    return any(unit.name == name for unit in changes.parts)


def _pairs(changes: Changes, measure: _Measure, names: Sequence[str]) -> list[Effect]:
    pairs = list(combinations(sorted(names, key=list(changes.units).index), 2))
    found = changes.run([changes.removed(pair) for pair in pairs])
    effects = [measure.effect(pair, "removal", [one]) for pair, one in zip(pairs, found, strict=True)]
    return sorted(effects, key=lambda one: -abs(one.nats))


def _continuations(changes: Changes, names: Sequence[str], depth: Depth, seed: int) -> tuple[Continuation, ...]:
    """What the model says with the text as it is and without each of some units."""
    if depth.tokens < 1:
        return ()
    transcript, context = changes.transcript, changes.subject.context
    todo: list[tuple[tuple[str, ...], tuple[int, ...]]] = [((), transcript.before)]
    todo += [((name,), changes.removed([name])) for name in names]
    room = depth.tokens if context is None else min(depth.tokens, context - max(len(ids) for _, ids in todo))
    if room < 1:
        return ()
    said = changes.endings.continued([ids for _, ids in todo], tokens=room, draws=depth.draws, seed=seed)
    start = list(transcript.ending[:room])
    out = []
    for (units, _), (sure, *drawn) in zip(todo, said, strict=True):
        again = sum(ids[: len(start)] == start for ids in drawn) / len(drawn) if drawn else float("nan")
        out.append(Continuation(units, _decoded(changes, sure), tuple(_decoded(changes, ids) for ids in drawn), again))
    return tuple(out)


def _decoded(changes: Changes, ids: Sequence[int]) -> str:
    return changes.subject.reader.decode(list(ids)) if ids else ""


def _what_is_missing(changes: Changes, floor: Sequence[Irrelevant]) -> list[str]:
    notes = []
    if isinstance(changes.neutral, NotRun):
        notes.append(f"There is no floor: {changes.neutral.reason}.")
    elif not floor:
        notes.append("There is no floor: nothing more fits into the context.")
    if changes.endings.why_plain:
        notes.append(f"Every text was run whole: {changes.endings.why_plain}.")
    if not changes.holds:
        notes.append("The most likely continuation of the context is not the strange span: it was drawn, or differs.")
    return notes

"""Cruxes: the smallest sets of units whose change flips the answer, while changing others keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

import numpy as np

from veriscope.cases.changes import Changes
from veriscope.cases.outside import Outside
from veriscope.cases.transcript import spells
from veriscope.errors import NotAvailable, NotRun
from veriscope.subjects.endings import Ending, saliency
from veriscope.trials.statistics import clopper_pearson

HALF = log(2)
OTHERS = 3  # units changed beside a crux, or in its place, in each generated input
QUESTION = '\n\nWhich sentence above made you say "{}"?\nThe sentence:'


@dataclass(frozen=True)
class Foretold:
    """How well the rule "the answer flips exactly when all of these units are changed" did on generated inputs.

    Attributes:
        units: The set.
        flipped: Inputs with the set changed where the answer flipped, and how many there were.
        kept: Inputs with the set not (wholly) changed where the answer stayed, and how many there were.
        low, high: Bounds of the mean of the two shares (mean of the one-sided 95% bounds of both, Clopper and Pearson).
    """

    units: tuple[str, ...]
    flipped: tuple[int, int]
    kept: tuple[int, int]
    low: float
    high: float

    @property
    def accuracy(self) -> float | NotRun:
        """Mean of the two shares: 0.5 for a rule that knows nothing."""
        if not (self.flipped[1] and self.kept[1]):
            return NotRun("no generated input had the set changed, or none had it unchanged")
        return (self.flipped[0] / self.flipped[1] + self.kept[0] / self.kept[1]) / 2


@dataclass(frozen=True)
class Crux:
    """A smallest set of units whose removal or substitution flips the answer.

    Attributes:
        units: Names.
        nats: Change in log-probability of the strange span when they are removed.
        test: The set on generated flip inputs, which the search did not see; NotRun where only better ones were tested.
    """

    units: tuple[str, ...]
    nats: float
    test: Foretold | NotRun

    @property
    def shown(self) -> bool:
        """Whether the generated inputs bear it out: its lower bound is above that of a rule that knows nothing."""
        return isinstance(self.test, Foretold) and self.test.low > 0.5


@dataclass(frozen=True)
class Cruxes:
    """All that were found, beside what one would have said without looking.

    Attributes:
        found: Smallest first, and of one size the strongest; empty if no set tried flips the answer.
        rivals: On the inputs of the first crux: "random" (units drawn), "saliency" (gradient times input) and "asked"
            (the model was asked), each with as many units; NotRun with the reason.
        flips: What counts as a flip, in words.
        floor: Irrelevant edits that flip the answer too, and how many were tried.
        inputs: Generated inputs, those that serve several tests once.
        passes: Cost, as in `Outside`.
        notes: What was not searched.
    """

    found: tuple[Crux, ...]
    rivals: tuple[tuple[str, Foretold | NotRun], ...]
    flips: str
    floor: tuple[int, int]
    inputs: int
    passes: float
    notes: tuple[str, ...] = ()


def cruxes(changes: Changes, outside: Outside, *, inputs: int = 12, tested: int = 2, seed: int = 0) -> Cruxes:
    """Search the smallest sets that flip the answer, and test the first ones on inputs generated for it.

    A flip: the strange span is no longer the most likely continuation, where it was; else its probability falls below
    half. Single units and pairs come from `outside`; where none of them flips the answer, the strongest units are
    taken out one after the other until it does, and put back where it flips without them.

    In half of a crux's inputs it is changed, in the other half not; in all of them 3 other units are changed, of which
    none is another crux. Changed means neutral words in its place, others than in the search. Inputs without any crux
    changed serve the test of every crux.

    Args:
        inputs: For each crux tested, at most.
        tested: Cruxes tested.
        seed: Of the inputs, and of the random rival.
    """
    before = changes.passes
    judge = _Judge(changes)
    sets, notes = _search(changes, outside, judge)
    if not sets:
        notes.append("No set of units that was tried flips the answer.")
        return Cruxes((), (), judge.words, judge.floor(outside), 0, changes.passes - before, tuple(notes))
    totals = changes.run([changes.removed(some) for some in sets])
    nats = {some: one.total - changes.base.total for some, one in zip(sets, totals, strict=True)}
    first, extra = sets[0], 0.0
    if {(unit.name,) for unit in changes.parts} <= set(sets):
        why = NotRun("every unit flips the answer by itself, so none is left that could be changed beside a crux")
        found = [Crux(some, nats[some], why) for some in sets]
        unheld = tuple((who, why) for who in ("random", "saliency", "asked"))
        return Cruxes(tuple(found), unheld, judge.words, judge.floor(outside), 0, changes.passes - before, tuple(notes))
    rivals = {"random": _random(changes, first, seed)}
    rivals["saliency"], cost = _salient(changes, len(first))
    rivals["asked"], more = _asked(changes, len(first))
    extra = cost + more
    alone = {some[0] for some in sets if len(some) == 1}  # never changed beside another crux: they flip it themselves
    told = [one for one in rivals.values() if not isinstance(one, NotRun)]
    named = [tuple(name for name in one if name not in alone) for one in told]
    found, scores, made = [], {}, set[tuple[int, ...]]()
    for number, some in enumerate(sets):
        test: Foretold | NotRun = NotRun(f"only the first {tested} were tested")
        if number < tested:
            generated = _generate(changes, some, [one for one in sets if one != some], named, inputs, seed)
            if isinstance(generated, NotRun):
                test = generated
            else:
                flips = [judge(one) for one in changes.run([ids for _, ids in generated])]
                changed = [names for names, _ in generated]
                test = _foretold(some, changed, flips)
                made |= {ids for _, ids in generated}
                if number == 0:
                    scores = {who: one if isinstance(one, NotRun) else _foretold(one, changed, flips)
                              for who, one in rivals.items()}  # fmt: skip
        found.append(Crux(some, nats[some], test))
    spent = changes.passes - before + extra
    return Cruxes(
        tuple(found), tuple(scores.items()), judge.words, judge.floor(outside), len(made), spent, tuple(notes)
    )


class _Judge:
    """Whether an answer has flipped."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.words = (
            "the strange span is no longer the most likely continuation"
            if changes.holds
            else "the probability of the strange span falls below half (it is not the most likely one as it is)"
        )

    def __call__(self, one: Ending) -> bool:
        if self.changes.holds:
            return one.changed(self.changes.transcript.ending) is not None
        return one.total - self.changes.base.total < -HALF

    def floor(self, outside: Outside) -> tuple[int, int]:
        """Irrelevant edits that flip it too."""
        if self.changes.holds:
            return sum(one.flips for one in outside.floor), 2 * len(outside.floor)
        each = [nats for one in outside.floor for nats in (one.nats, one.again)]
        return sum(nats < -HALF for nats in each), len(each)


def _search(changes: Changes, outside: Outside, judge: _Judge) -> tuple[list[tuple[str, ...]], list[str]]:
    """Smallest sets that flip the answer, strongest first among those of a size."""
    parts = [unit.name for unit in changes.parts]
    strength = {one.units: -one.nats for one in (*outside.effects, *outside.pairs) if one.how == "removal"}
    singles = [(name,) for name in parts if _flips(changes, (name,), judge)]
    pairs = [
        one.units
        for one in outside.pairs
        if not any((name,) in singles for name in one.units) and _flips(changes, one.units, judge)
    ]
    sets = sorted(singles, key=lambda some: -strength.get(some, 0.0)) + sorted(pairs, key=lambda s: -strength[s])
    notes = []
    if len(parts) > len({name for one in outside.pairs for name in one.units}):
        notes.append("Pairs were tried among the strongest units only.")
    if not sets:
        larger = _larger(changes, sorted(parts, key=lambda name: -strength.get((name,), 0.0)), judge)
        if larger:
            sets = [larger]
            notes.append("The set was found by taking units out in turn: another of its size or smaller may exist.")
    return sets, notes


def _flips(changes: Changes, names: tuple[str, ...], judge: _Judge) -> bool:
    """Whether taking units out flips the answer, or (single units) neutral words in their place do."""
    contexts = [changes.removed(names)]
    instead = changes.substituted(names, 0) if len(names) == 1 else None
    if instead is not None and not isinstance(instead, NotRun) and changes.fits(instead):
        contexts.append(instead)
    return any(judge(one) for one in changes.run(contexts))


def _larger(changes: Changes, ranked: Sequence[str], judge: _Judge, most: int = 8) -> tuple[str, ...]:
    """Three or more units: taken out strongest first until the answer flips, then each put back that is not needed."""
    for count in range(3, min(most, len(ranked)) + 1):
        chosen = list(ranked[:count])
        if not judge(changes.run([changes.removed(chosen)])[0]):
            continue
        for name in list(chosen[:-1]):
            fewer = [one for one in chosen if one != name]
            if judge(changes.run([changes.removed(fewer)])[0]):
                chosen = fewer
        return tuple(name for name in changes.units if name in chosen)
    return ()


# ---- generated inputs


def _generate(
    changes: Changes,
    crux: tuple[str, ...],
    others: Sequence[tuple[str, ...]],
    named: Sequence[tuple[str, ...]],
    inputs: int,
    seed: int,
) -> list[tuple[frozenset[str], tuple[int, ...]]] | NotRun:
    """Inputs with the crux changed and not, in pairs with the same other units changed; in half a rival's units are.

    Where the crux has several units, all but one drawn are changed where it counts as unchanged. The text as it is is
    no input, and no input counts twice: what it does is known.
    """
    rng = np.random.default_rng([seed, 0xC7])
    taken = {name for one in others for name in one} - {name for one in named for name in one}
    free = [unit.name for unit in changes.parts if unit.name not in crux and unit.name not in taken]
    forbidden = [frozenset(one) for one in others]
    out: dict[tuple[int, ...], frozenset[str]] = {}
    for number in range(inputs):
        if number % 2 == 0:
            rival = [name for one in named for name in one if name not in crux and rng.random() < 0.5]
            drawn = [free[n] for n in rng.permutation(len(free))[:OTHERS]]
            beside = frozenset((rival + [name for name in drawn if name not in rival])[: max(OTHERS, len(rival))])
        kept = () if number % 2 == 0 else (crux[int(rng.integers(len(crux)))],)
        names = beside | (frozenset(crux) - frozenset(kept))
        for one in forbidden:  # no other crux may be wholly changed: it would flip the answer by itself
            names -= one - frozenset(crux) if one <= names else frozenset()
        ids = changes.substituted(names, 1000 + seed * inputs + number // 2)
        if isinstance(ids, NotRun):
            return ids
        if changes.fits(ids) and tuple(ids) != tuple(changes.transcript.before):
            out.setdefault(tuple(ids), names)
    if not out:
        return NotRun("no input could be made in which other units are changed")
    return [(names, ids) for ids, names in out.items()]


def _foretold(units: tuple[str, ...], changed: Sequence[frozenset[str]], flips: Sequence[bool]) -> Foretold:
    whole = [frozenset(units) <= names for names in changed]
    flipped = sum(w and f for w, f in zip(whole, flips, strict=True)), sum(whole)
    kept = sum(not w and not f for w, f in zip(whole, flips, strict=True)), len(whole) - sum(whole)
    bounds = [clopper_pearson(*share) if share[1] else (0.0, 1.0) for share in (flipped, kept)]
    return Foretold(units, flipped, kept, (bounds[0][0] + bounds[1][0]) / 2, (bounds[0][1] + bounds[1][1]) / 2)


# ---- rivals


def _random(changes: Changes, crux: tuple[str, ...], seed: int) -> tuple[str, ...] | NotRun:
    parts = [unit.name for unit in changes.parts]
    sets = [some for some in combinations(parts, len(crux)) if some != crux] if len(parts) <= 30 else []
    rng = np.random.default_rng([seed, 0x4A])
    if not sets and len(parts) > len(crux):
        return tuple(parts[n] for n in sorted(rng.permutation(len(parts))[: len(crux)]))
    return sets[int(rng.integers(len(sets)))] if sets else NotRun("there are no other units to draw")


def _salient(changes: Changes, count: int) -> tuple[tuple[str, ...] | NotRun, float]:
    """Units with the largest sum of |gradient times input|, and the cost: a pass there and two back."""
    transcript = changes.transcript
    try:
        slopes = saliency(changes.subject, transcript.before, transcript.ending).abs()
    except NotAvailable as error:
        return NotRun(str(error)), 0.0
    sums = {}
    for unit in changes.parts:
        first, stop = transcript.tokens_of(unit.spans[0])
        sums[unit.name] = float(slopes[first:stop].sum())
    return _top(changes, sums, count), 3.0


def _asked(changes: Changes, count: int) -> tuple[tuple[str, ...] | NotRun, float]:
    """Units whose own words the model finds likeliest, for each token, as an answer to which sentence it was."""
    transcript, subject = changes.transcript, changes.subject
    question = QUESTION.format(transcript.text[slice(*transcript.span)].strip())
    if not spells(subject, question):
        return NotRun("the tokenizer has no words for the question"), 0.0
    before = transcript.read(subject, transcript.text + question)
    texts = [(before, transcript.read(subject, f"{transcript.text}{question} {unit.text}")) for unit in changes.parts]
    pairs = [(before, whole[len(before) :]) for before, whole in texts if whole[: len(before)] == before]
    room = subject.context
    if len(pairs) < len(texts) or not all(ending for _, ending in pairs):
        return NotRun("the question and a unit behind it are cut into other tokens than the question alone"), 0.0
    if room is not None and max(len(a) + len(b) for a, b in pairs) > room:
        return NotRun("the question does not fit into the context behind the log"), 0.0
    found = changes.endings.run(pairs)
    sums = {unit.name: float(one.nats.mean()) for unit, one in zip(changes.parts, found, strict=True)}
    return _top(changes, sums, count), 0.0


def _top(changes: Changes, scores: dict[str, float], count: int) -> tuple[str, ...]:
    chosen = sorted(scores, key=lambda name: -scores[name])[:count]
    return tuple(name for name in changes.units if name in chosen)

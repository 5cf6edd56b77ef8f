"""Outside causes: what happens to the strange span when a part of its context is taken out or changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veriscope.cases.transcript import Transcript
from veriscope.cases.units import Unit
from veriscope.errors import NotRun

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
        low, high: The interval.
        floor: What 95% of the irrelevant edits nearest in size stay below (nats, absolute); NotRun without any.
        above_floor: Whether |nats| is above every irrelevant edit that it is held against; false for an irrelevant
            unit in all but 1 of n + 1 cases, n such edits.
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
        greedy: Whether the most likely continuation is what it was.
    """

    size: int
    place: int
    nats: float
    again: float | NotRun
    greedy: bool


@dataclass(frozen=True)
class Continuation:
    """What the model says in place of the strange span.

    Attributes:
        units: Names of the units removed; empty for the text as it is.
        greedy: The most likely continuation.
        sampled: Drawn at temperature 1.
        again: Share of the draws that begin with the strange span; its exact probability is exp(log-probability).
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

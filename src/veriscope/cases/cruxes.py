"""Cruxes: the smallest sets of units whose change flips the answer, while changing everything else keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from veriscope.errors import NotRun


@dataclass(frozen=True)
class Foretold:
    """How well the rule "the answer flips exactly when all of these units are changed" did on generated inputs.

    Attributes:
        units: The set.
        flipped: Inputs with the set changed where the answer flipped, and how many there were.
        kept: Inputs with the set not (wholly) changed where the answer stayed, and how many there were.
        low, high: Interval of the mean of the two shares (90%, Clopper and Pearson for each share).
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
    """A smallest set of units whose change flips the answer.

    Attributes:
        units: Names.
        nats: Change in log-probability of the strange span when they are removed.
        test: The set on generated flip inputs, which the search did not see.
    """

    units: tuple[str, ...]
    nats: float
    test: Foretold


@dataclass(frozen=True)
class Cruxes:
    """All that were found, beside what one would have said without looking.

    Attributes:
        found: Best on the generated inputs first; empty if no set tried flips the answer.
        rivals: On the same inputs: "random" (a unit drawn), "saliency" (gradient times input) and "asked" (the model
            was asked), each with as many units as the best crux; NotRun with the reason.
        flips: What counts as a flip, in words.
        floor: Irrelevant edits that flip the answer too, and how many were tried.
        inputs: Generated inputs.
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

"""What the exam asks of a bed: planted claims, each with the truth about it.

A bed is a module with one function,

    plantings(claim_type, count, seed, final=False) -> list[Planting]

which gives `count` claims of every kind that it can plant of a type ("C1" ... "C4"; an empty list for a type that it
has nothing for). The `build` of each makes the claim and its subject the public way, as a user's study would; the trial
is told nothing else. Final claims (`final=True`) come from other seeds and another size of the bed than those that the
verifier was developed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

FINAL = 50_000_000  # added to the seeds of final claims, so that no claim is met both in development and at the end


@dataclass(frozen=True)
class Planting:
    """One planted claim. `build` is the import path of a function `(**settings) -> (claim, subject)`.

    Attributes:
        claim_type: "C1" ... "C4".
        truth: Whether the claim is true, by construction.
        grade: F0 random, F1 plausible, F2 adversarial, F3 overstated; T0 plain, T1x0.5 ... T1x4 in multiples of the
            smallest effect, T2 a hard form.
        trap: What kind of falsehood or hard truth it is, in words.
        build: Import path, "package.module:function".
        settings: Keyword arguments of `build`; "seed" among them.
    """

    claim_type: str
    truth: bool
    grade: str
    trap: str
    build: str
    settings: tuple[tuple[str, Any], ...]


@runtime_checkable
class Bed(Protocol):
    """A module of planted claims."""

    def plantings(self, claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
        """`count` claims of every kind of this type, each on a bed of its own seed."""
        ...

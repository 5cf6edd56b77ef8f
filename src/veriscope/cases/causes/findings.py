"""What the tests of the cause list come to, in frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veriscope.errors import NotRun

Word = Literal["named", "unknown", "indistinguishable", "clean"]


@dataclass(frozen=True)
class Finding:
    """What one detecting test found.

    Attributes:
        cause: Name in the cause list.
        holds: Whether it holds; NotRun with the reason where the test can't be made on this log or model.
        score: The test's own measure, in the unit that `evidence` names.
        floor: What the control reached on the same measure; NotRun where the test has no control to measure.
        low, high: Interval of the score, where it is a share of several runs; the score itself where it is exact.
        units: Names of the units, or words, that it rests on.
        evidence: Sentences for a reader, the control's among them.
    """

    cause: str
    holds: bool | NotRun
    score: float = 0.0
    floor: float | NotRun = NotRun("no control was needed")
    low: float = 0.0
    high: float = 0.0
    units: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def above(self) -> float:
        """Score above the control's."""
        return self.score if isinstance(self.floor, NotRun) else self.score - self.floor


@dataclass(frozen=True)
class Diagnosis:
    """What the cause list says about a strange answer.

    Attributes:
        word: "named"; "unknown" where no cause of the list holds and the answer is wrong, or somebody called it
            strange; "clean" where it is what was expected, or nobody called it strange and nothing wrong was found;
            "indistinguishable" where two causes explain the same evidence equally.
        causes: Those that hold, the one that explains most first; the equal ones first where they can't be told apart.
        findings: Of every test, in the order of the list.
        sentence: The answer in one sentence.
        passes: What the tests cost, in whole passes of the context.
        notes: What a reader must know to trust it.
    """

    word: Word
    causes: tuple[str, ...]
    findings: tuple[Finding, ...]
    sentence: str
    passes: float
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The first cause named, else "unknown", "indistinguishable" or "clean"."""
        return self.causes[0] if self.word == "named" else self.word

    def finding(self, cause: str) -> Finding:
        return next(one for one in self.findings if one.cause == cause)

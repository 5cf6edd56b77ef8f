"""What may have caused it: sentences, turns, system lines, objects named in several sentences, views stated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veriscope.cases.transcript import Chars

Kind = Literal["sentence", "system", "turn", "object", "view"]


@dataclass(frozen=True)
class Unit:
    """A part of the context that can be taken out or changed as one.

    Attributes:
        name: Unique in a case and stable: "s3" (sentence), "y1" (system line), "t2" (turn), "o:coin" (object),
            "v1" (view).
        kind: What it is. Sentences and system lines part the context between them; turns, objects and views overlap
            with them.
        spans: Characters of the transcript; several for an object named in several sentences.
        text: The words, spans joined by " ... ".
        turn: Number of its turn in the log; None where it stands in several.
    """

    name: str
    kind: Kind
    spans: tuple[Chars, ...]
    text: str
    turn: int | None = None

"""Chat logs as files: what was said by whom, whatever program wrote it down, and which words of it are strange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Turn:
    """What one speaker said in one go.

    Attributes:
        role: "system", "user", "assistant", "tool", or what else the log calls it; "prompt" for plain text.
        text: As it stands in the log, nothing stripped.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Log:
    """One conversation, or one prompt with what the model made of it.

    Attributes:
        name: File and, where it holds several, its number or id there.
        turns: In order; at least one is the assistant's.
        form: "chat" is read through the tokenizer's chat template where it has one; "prompt" is continued as it is.
        source: Path of the file; empty for a log made in memory.
        notes: What was left out in reading it (pictures, tool calls), one sentence each.
    """

    name: str
    turns: tuple[Turn, ...]
    form: Literal["chat", "prompt"] = "chat"
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strange:
    """The words whose cause is asked for: characters `start` to `end` of the text of one assistant turn.

    Attributes:
        turn: Number of the turn in the log.
        found: How it was found: "text", "offsets", or "least expected" (nobody marked it).
    """

    turn: int
    start: int
    end: int
    found: Literal["text", "offsets", "least expected"] = "text"

"""A log as the model reads it, up to the end of the strange span: nothing behind it can have caused it."""

from __future__ import annotations

from dataclasses import dataclass

from veriscope.cases.logs import Log, Strange

Chars = tuple[int, int]  # first character, and one behind the last


@dataclass(frozen=True)
class Transcript:
    """The text that the model saw before and while it said the strange span, with the place of everything in it.

    Attributes:
        log, strange: Where it came from.
        text: As the model reads it; ends with the strange span.
        turns: Characters of `text` that are each turn's own words; None for a turn that was cut or lies behind.
        span: Characters of `text` that are the strange span.
        ids: Tokens of `text`.
        chars: Characters of `text` that each token stands for; empty for tokens that no character stands for.
        target: First token of the strange span, and one behind the last.
        special: Whether the tokenizer adds its special tokens; a chat template has written them already.
        how: How turns became one text, in words.
        notes: What was cut and why, one sentence each; empty if nothing was.
    """

    log: Log
    strange: Strange
    text: str
    turns: tuple[Chars | None, ...]
    span: Chars
    ids: tuple[int, ...]
    chars: tuple[Chars, ...]
    target: tuple[int, int]
    special: bool
    how: str
    notes: tuple[str, ...] = ()

    @property
    def context(self) -> str:
        """What stands before the first token of the strange span."""
        return self.text[: self.chars[self.target[0]][0]]

    def tokens_of(self, chars: Chars) -> tuple[int, int]:
        """First token that holds one of these characters, and one behind the last."""
        held = [n for n, (start, end) in enumerate(self.chars) if start < chars[1] and end > chars[0]]
        return (held[0], held[-1] + 1) if held else (0, 0)

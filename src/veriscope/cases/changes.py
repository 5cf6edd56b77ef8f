"""Changed contexts of one case, run together: what is removed, put in another's place or put in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from veriscope.cases.neutral import Neutral, neutral_text, nothing
from veriscope.cases.stems import Stems
from veriscope.cases.transcript import Chars, Transcript
from veriscope.cases.units import PARTS, Unit
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects import Subject
from veriscope.subjects.endings import Ending, Watch


class Changes:
    """A transcript, its units, and the runs of its variations.

    Every text that was run is kept, so nothing is run twice.

    Attributes:
        transcript, subject: Whose.
        units: By name, in their order.
        endings: Runs them and counts the cost.
        notes: Units that had to be left out.
    """

    def __init__(
        self, transcript: Transcript, units: Sequence[Unit], subject: Subject, *, neutral: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.transcript, self.subject, self.seed = transcript, subject, seed
        self.units = {unit.name: unit for unit in units}
        self.endings = Stems(subject, [*transcript.before, *transcript.ending[:-1]])
        self._given = neutral
        self._known: dict[tuple[int, ...], Ending] = {}
        self.notes: list[str] = []
        for name in list(self.units):
            try:
                self.removed([name])
            except BadPrompt:
                del self.units[name]
                self.notes.append(f"{name} is no unit: without it a word is left that the tokenizer does not know.")

    @property
    def passes(self) -> float:
        return self.endings.passes

    @cached_property
    def neutral(self) -> Neutral | NotRun:
        return neutral_text(self.transcript, self.subject, self._given, self.seed)

    @cached_property
    def parts(self) -> tuple[Unit, ...]:
        """Units that part the context between them: sentences and system lines."""
        return tuple(unit for unit in self.units.values() if unit.kind in PARTS)

    @cached_property
    def base(self) -> Ending:
        """The strange span in its context as it is."""
        return self.run([self.transcript.before])[0]

    @cached_property
    def holds(self) -> bool:
        """Whether the most likely continuation of the context is the strange span."""
        return self.base.changed(self.transcript.ending) is None

    def size(self, names: Iterable[str]) -> int:
        """Tokens of units."""
        held: set[int] = set()
        for span in self._spans(names):
            held |= set(range(*self.transcript.tokens_of(span)))
        return len(held)

    # ---- changed contexts, as tokens

    def removed(self, names: Iterable[str]) -> tuple[int, ...]:
        """The context without units, and without the white space that parted them from the rest."""
        cuts = [self._with_space(span) for span in self._spans(names)]
        return self._read(self.transcript.edited([(a, b, "") for a, b in merged(cuts)]))

    def substituted(self, names: Iterable[str], seed: int) -> tuple[int, ...] | NotRun:
        """The context with neutral words of as many tokens in the place of units.

        All names of an object get the same words.
        """
        if isinstance(self.neutral, NotRun):
            return self.neutral
        rng, new = np.random.default_rng([self.seed, 0x5B, seed]), {}
        for a, b in merged(self._spans(names)):
            old = self.transcript.text[a:b]
            if old.lower() not in new:
                size = len(range(*self.transcript.tokens_of((a, b))))
                new[old.lower()] = self.neutral.words(self.subject, size, rng, old)
        spans = merged(self._spans(names))
        return self._read(self.transcript.edited([(a, b, new[self.transcript.text[a:b].lower()]) for a, b in spans]))

    def swapped(self, texts: Mapping[str, str]) -> tuple[int, ...]:
        """The context with other words in the place of units."""
        changes = [(*span, text) for name, text in texts.items() for span in self.units[name].spans]
        return self._read(self.transcript.edited(changes))

    def inserted(self, place: int, size: int, seed: int) -> tuple[int, ...] | NotRun:
        """The context with neutral words of so many tokens before a character, and nothing taken out."""
        if isinstance(self.neutral, NotRun):
            return self.neutral
        rng = np.random.default_rng([self.seed, 0x1A, seed])
        like = next((unit.text for unit in self.parts if unit.spans[0][0] == place), "x.")
        words = self.neutral.words(self.subject, size, rng, like if like[-1:] in ".?!" else f"{like[:1]}.")
        return self._read(self.transcript.edited([(place, place, f"{words} ")]))

    # ---- runs

    def fits(self, ids: Sequence[int]) -> bool:
        context = self.subject.context
        return context is None or len(ids) + len(self.transcript.ending) - 1 <= context

    def run(
        self, contexts: Sequence[Sequence[int]], watch: Watch | None = None, keep: Collection[Sequence[int]] = ()
    ) -> list[Ending]:
        """The strange span behind each context; what was run before is not run again, unless it is watched.

        Args:
            keep: Contexts that later ones will begin like.
        """
        keys, kept = [tuple(ids) for ids in contexts], {tuple(ids) for ids in keep}
        new = keys if watch is not None else [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            numbers = [n for n, key in enumerate(new) if key in kept]
            found = self.endings.run([(key, self.transcript.ending) for key in new], watch, numbers)
            self._known.update(zip(new, found, strict=True))
        return [self._known[key] for key in keys]

    def cost(self, contexts: Iterable[Sequence[int]]) -> float:
        """What running contexts would take, in whole passes; those known are free."""
        new = {tuple(ids) for ids in contexts} - self._known.keys()
        return self.endings.cost([(ids, self.transcript.ending) for ids in new])

    def _read(self, context: str) -> tuple[int, ...]:
        ids = self.transcript.read(self.subject, context) if context.strip() else []
        return tuple(ids) or tuple(nothing(self.subject))

    def _spans(self, names: Iterable[str]) -> list[Chars]:
        return [span for name in names for span in self.units[name].spans]

    def _with_space(self, span: Chars) -> Chars:
        """A stretch with the spaces behind it, or those before it where none stand behind."""
        context, (start, end) = self.transcript.context, span
        while end < len(context) and context[end] == " ":
            end += 1
        while end == span[1] and start > 0 and context[start - 1] == " ":
            start -= 1
        return start, end


def merged(spans: Iterable[Chars]) -> list[Chars]:
    """Stretches that overlap as one; those that only touch stay apart."""
    out: list[Chars] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out

"""Mends of the words: units taken out, replaced or moved, words before the log; and a plain search over all of them.

Each is a standing rule: it holds wherever the words it is about occur, so its side effects can be measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from veriscope.cases.mends import ALIKE, Asking, Mend, Outcome, Words
from veriscope.cases.side_effects import Held
from veriscope.cases.transcript import spells
from veriscope.cases.units import Unit
from veriscope.errors import BadPrompt, NotRun

PREFIXES = ("Answer carefully.", "Think before you answer.", "Ignore what does not belong to the question.")
TELLING = ("Answer: {}.", "The answer is {}.", "{}", "{0} {0} {0}")
SHOTS = (1, 2, 4)
STRONGEST = 4  # units of which pairs are taken out


@dataclass(frozen=True, eq=False)
class Try:
    """One edit of a search, what came of it, and what the search had cost by then."""

    mend: Mend
    after: Outcome
    passes: float


def without(asking: Asking, units: Sequence[Unit]) -> Mend:
    """Units taken out wherever their words stand."""
    texts = _texts(units)

    def rule(words: Words) -> str:
        text = words.text
        for one in texts:
            text = _pattern(one).sub("", text)
        return text if words.text.endswith(" ") else text.rstrip(" ")

    others = [unit for unit in asking.changes.parts if not _overlap(unit, units)]
    control = _nearest(asking, units, others[:-1] or others)
    return Mend(
        f"take out {_quoted(texts)}", "prompt", asking.subject, rule,
        control=partial(without, asking, [control]) if control is not None else None,
    )  # fmt: skip


def replaced(asking: Asking, old: str, new: str, why: str = "") -> Mend:
    """Words replaced wherever they stand."""
    what = f"replace {_quoted([old])} by {_quoted([new])}{f', {why}' if why else ''}"
    pattern = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    return Mend(what, "prompt", asking.subject, lambda words: pattern.sub(lambda _: new, words.text))


def renamed(asking: Asking, old: str, new: str, why: str = "") -> Mend:
    """Words replaced wherever they stand, and in the expected answer too: its reader knows what they stand for."""
    return replace(replaced(asking, old, new, why), renamed=(old, new))


_STATED = re.compile(
    r"\b(?:i|we)(?:'m| am| are)?(?: \w+){0,2}? (?:think|believe|feel|guess|suppose|suspect|assume|reckon|doubt|agree|"
    r"disagree|convinced|sure|certain|say)\b(?: that)?[ ,]*|\bin my (?:opinion|view|experience)\b[ ,]*|"
    r"\bif you ask me\b[ ,]*",
    re.IGNORECASE,
)


def unstated(text: str) -> str:
    """A sentence without the words that say who thinks so, in English; unchanged where there are none."""
    return _STATED.sub("", text)


def substituted(asking: Asking, unit: Unit, seed: int = 0) -> Mend | NotRun:
    """Neutral words of as many tokens in the place of a unit."""
    neutral = asking.changes.neutral
    if isinstance(neutral, NotRun):
        return neutral
    old = unit.text if unit.kind != "object" else unit.text.split(" ... ")[0]
    rng = np.random.default_rng([asking.seed, 0x5C, seed])
    size = len(range(*asking.changes.transcript.tokens_of(unit.spans[0])))
    return replaced(asking, old, neutral.words(asking.subject, size, rng, old), "neutral words")


def nearer(asking: Asking, unit: Unit) -> Mend | NotRun:
    """A unit moved to just before what is asked last."""
    parts = asking.changes.parts
    if len(parts) < 2 or _overlap(unit, parts[-1:]):
        return NotRun(f"{unit.name} stands at the end already")
    last, pattern = parts[-1].text, _pattern(unit.text)

    def rule(words: Words) -> str:
        if not pattern.search(words.text):
            return words.text
        text = pattern.sub("", words.text)
        place = text.rfind(last)
        return words.text if place < 0 else f"{text[:place]}{unit.text} {text[place:]}"

    return Mend(f"move {_quoted([unit.text])} to just before the question", "prompt", asking.subject, rule)


def only(asking: Asking, units: Sequence[Unit]) -> Mend | NotRun:
    """Only some units kept, and what is asked last: the crowd is taken out."""
    parts = asking.changes.parts
    kept = [*units, *parts[-1:]]
    crowd = [unit for unit in parts if not _overlap(unit, kept) and unit.kind != "system"]
    if not crowd:
        return NotRun("there is no crowd to take out")
    mend = without(asking, crowd)
    what = f"keep only {_quoted(_texts(units))} and the question: {len(crowd)} sentences less"
    return Mend(what, "prompt", asking.subject, mend.rule)


def prefixed(asking: Asking, words: str, what: str = "") -> Mend:
    """Words put before every log."""
    join = asking.subject.reader.join or " "

    def rule(old: Words) -> str:
        return f"{old.text[: old.start]}{words}{join}{old.text[old.start :]}"

    return Mend(what or f"put {_quoted([words])} before every log", "prompt", asking.subject, rule)


# ---- the plain search


def search(asking: Asking, held: Held | NotRun, budget: float) -> tuple[Try, ...]:
    """All prompt edits that a budget allows, tried in an order that knows nothing of the cause.

    Removals and neutral substitutes of each unit and prefixes in turns, then pairs of the units whose removal did most.

    Args:
        held: Solved examples for prefixes are taken from these.
        budget: Most passes of the case's text; one edit is always tried.
    """
    start, found = asking.passes, list[Try]()
    removed: list[tuple[float, Unit]] = []

    def tried(mend: Mend | NotRun) -> Outcome | None:
        if isinstance(mend, NotRun) or (found and asking.passes - start >= budget):
            return None
        outcome = attempted(asking, mend)
        found.extend([Try(mend, outcome, asking.passes - start)] if outcome is not None else [])
        return outcome

    for unit, make in _candidates(asking, held):
        outcome = tried(make())
        if outcome is not None and unit is not None:
            removed.append((outcome.nats, unit))
    strongest = [unit for _, unit in sorted(removed, key=lambda one: one[0])[:STRONGEST]]
    for pair in combinations(strongest, 2):
        tried(without(asking, pair))
    return tuple(found)


def best_within(tries: Sequence[Try], budget: float, before: Outcome) -> tuple[Try, int] | NotRun:
    """The best edit of a search by the time it had cost so much, and how many were tried by then."""
    if not tries:
        return NotRun("no prompt edit can be read by the model's tokenizer within its context")
    known = [one for one in tries if one.passes <= budget] or list(tries[:1])
    return max(known, key=lambda one: worth(one.after, before)), len(known)


def worth(outcome: Outcome, before: Outcome) -> tuple[float, ...]:
    """By which outcomes are put in order: right, gone, still an answer, and by how much."""
    right = float(outcome.right) if not isinstance(outcome.right, NotRun) else 0.0
    more = outcome.expected if not isinstance(outcome.expected, NotRun) else 0.0
    return right, float(outcome.gone(before)), float(sensible(outcome)), more - outcome.nats


def sensible(outcome: Outcome) -> bool:
    """Whether what is said instead is an answer: right, or a word that might have been said in that place."""
    return bool(outcome.right) or (not outcome.empty and outcome.rank <= ALIKE)


def attempted(asking: Asking, mend: Mend, words: Words | None = None) -> Outcome | None:
    """The outcome of a mend; None where the mended text can't be read or does not fit."""
    try:
        if not asking.fits(mend.read(words or asking.words)):
            return None
        return asking.outcome(mend, words)
    except BadPrompt:
        return None


def _candidates(asking: Asking, held: Held | NotRun) -> Iterator[tuple[Unit | None, Callable[[], Mend | NotRun]]]:
    """Edits in turns: removals (with their unit), substitutes, prefixes, each in an order drawn by the seed."""
    rng = np.random.default_rng([asking.seed, 0x5E])
    units = list(asking.changes.units.values())
    drawn = [units[n] for n in rng.permutation(len(units))]
    prefixes = _prefixes(asking, held)
    for n in range(max(len(drawn), len(prefixes))):
        if n < len(drawn):
            yield drawn[n], partial(without, asking, [drawn[n]])
            yield None, partial(substituted, asking, drawn[n])
        if n < len(prefixes):
            yield None, partial(prefixed, asking, *prefixes[n])


def _prefixes(asking: Asking, held: Held | NotRun) -> list[tuple[str, str]]:
    """Instructions, the expected answer told, and solved examples of held-out logs."""
    subject, out = asking.subject, list[tuple[str, str]]()
    if asking.expected is not None:
        answer = subject.reader.decode(asking.expected).strip()
        asked = [part.text for part in asking.changes.parts[-1:]]
        told = [f"{one}{subject.reader.join}{answer}." for one in asked], [f"{one} {answer} ." for one in asked]
        out += [(one[0], "") for one in told if one and spells(subject, one[0])][:1]
        out += [(form.format(answer), "") for form in TELLING if spells(subject, form.format(answer))]
    out += [(words, "") for words in PREFIXES if spells(subject, words)]
    if not isinstance(held, NotRun):
        pairs = list(zip(held.words, held.answers, strict=True))
        for shots in SHOTS[: len(pairs)]:
            solved = " ".join(f"{w.text[w.start :]}{subject.reader.join}{subject.reader.decode(a).strip()}"
                              for w, a in pairs[:shots])  # fmt: skip
            out.append((solved, f"put {shots} other logs with their answers before every log"))
    return out


# ---- words


def _texts(units: Sequence[Unit]) -> list[str]:
    """The words of units, each once: an object's own names, whatever stands between them."""
    out = [text for unit in units for text in (unit.text.split(" ... ") if unit.kind == "object" else [unit.text])]
    return list(dict.fromkeys(out))


def _pattern(text: str) -> re.Pattern[str]:
    """Words as a whole, with the spaces behind them."""
    left = r"(?<!\w)" if text[:1].isalnum() else ""
    right = r"(?!\w)" if text[-1:].isalnum() else ""
    return re.compile(rf"{left}{re.escape(text)}{right} *")


def _overlap(unit: Unit, others: Sequence[Unit]) -> bool:
    return any(a < d and c < b for a, b in unit.spans for other in others for c, d in other.spans)


def _nearest(asking: Asking, units: Sequence[Unit], others: Sequence[Unit]) -> Unit | None:
    """Of other units the one nearest in size."""
    size = asking.changes.size([unit.name for unit in units])
    return min(others, key=lambda one: abs(asking.changes.size([one.name]) - size), default=None)


def _quoted(texts: Sequence[str], longest: int = 60) -> str:
    shown = [text if len(text) <= longest else f"{text[: longest - 3]}..." for text in texts[:3]]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return ", ".join(f"'{text}'" for text in shown) + more

"""What may have caused it: sentences, turns, system lines, objects named in several sentences, views stated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sentencex
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from veriscope.cases.transcript import Chars, Transcript

Kind = Literal["sentence", "system", "turn", "object", "view"]
PARTS: tuple[Kind, ...] = ("sentence", "system")  # part the context between them; the other kinds overlap with these
MOST_OBJECTS = 6
_APART = re.compile(r".+?(?:\w\s\.(?=\s)|$)")  # a full stop that stands alone ends a sentence, also behind "no"
_WORD = re.compile(r"[^\W\d_]{3,}")
_VIEW = re.compile(
    r"\b(?:i|we)(?:'m| am| are)?(?:\s+\w+){0,2}?\s+(?:think|believe|feel|guess|suppose|suspect|assume|reckon|doubt|"
    r"prefer|agree|disagree|love|hate|like|convinced|sure|certain|say)\b|\bin my (?:opinion|view|experience)\b|"
    r"\bas an? [\w -]{3,40}?,? i\b|\bif you ask me\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Unit:
    """A part of the context that can be taken out or changed as one.

    Attributes:
        name: Unique in a case and stable: "s3" (sentence), "y1" (system line), "t2" (turn 2 of the log), "o:coin"
            (object), "v1" (view).
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


def units(transcript: Transcript) -> tuple[Unit, ...]:
    """Every unit of what stands before the strange span, in the order of the text; objects, turns and views behind.

    Objects are content words (no function words, at least 3 letters) that several sentences hold, at most 6: those in
    most sentences. Views are sentences of the user that say what they think, in English.
    """
    end = len(transcript.context)
    parts: list[Unit] = []
    for number, chars in enumerate(transcript.turns):
        if chars is None or chars[0] >= end:
            continue
        role = transcript.log.turns[number].role
        for start, stop in sentences(transcript.text[chars[0] : min(chars[1], end)]):
            kind: Kind = "system" if role == "system" else "sentence"
            letter = {"system": "y", "sentence": "s"}[kind]
            name = f"{letter}{1 + sum(unit.kind == kind for unit in parts)}"
            spans = ((chars[0] + start, chars[0] + stop),)
            parts.append(Unit(name, kind, spans, transcript.text[slice(*spans[0])], number))
    return (*parts, *_objects(transcript, parts), *_views(transcript, parts), *_turns(transcript, parts))


def sentences(text: str) -> list[Chars]:
    """Sentences of a text without the white space around them; a line's end ends one too."""
    out = []
    for line in re.finditer(r"[^\n]+", text):
        for found in sentencex.get_sentence_boundaries("en", line.group()):
            for piece in _APART.finditer(found["text"]):
                words, start = piece.group(), line.start() + found["start_index"] + piece.start()
                start += len(words) - len(words.lstrip())
                if words.strip():
                    out.append((start, start + len(words.strip())))
    return out


def content_words(text: str) -> list[str]:
    """Words that say what a text is about, in lower case: no function words, at least 3 letters."""
    return [word for word in _WORD.findall(text.lower()) if word not in ENGLISH_STOP_WORDS]


def _objects(transcript: Transcript, parts: Sequence[Unit]) -> list[Unit]:
    """Content words that several sentences hold."""
    places: dict[str, list[tuple[Chars, Unit]]] = {}
    for unit in parts:
        start = unit.spans[0][0]
        for found in _WORD.finditer(unit.text):
            if found.group().lower() not in ENGLISH_STOP_WORDS:
                span = (start + found.start(), start + found.end())
                places.setdefault(found.group().lower(), []).append((span, unit))
    several = {word: held for word, held in places.items() if len({unit.name for _, unit in held}) > 1}
    chosen = sorted(several, key=lambda word: -len({unit.name for _, unit in several[word]}))[:MOST_OBJECTS]
    out = []
    for word in chosen:
        spans = tuple(span for span, _ in several[word])
        turns = {unit.turn for _, unit in several[word]}
        text = " ... ".join(transcript.text[slice(*span)] for span in spans)
        out.append(Unit(f"o:{word}", "object", spans, text, turns.pop() if len(turns) == 1 else None))
    return out


def _views(transcript: Transcript, parts: Sequence[Unit]) -> list[Unit]:
    roles = ("user", "prompt")
    held = [u for u in parts if transcript.log.turns[u.turn or 0].role in roles and _VIEW.search(u.text)]
    return [Unit(f"v{n}", "view", unit.spans, unit.text, unit.turn) for n, unit in enumerate(held, 1)]


def _turns(transcript: Transcript, parts: Sequence[Unit]) -> list[Unit]:
    """Turns of several sentences, where there is more than one turn."""
    by_turn: dict[int, list[Unit]] = {}
    for unit in parts:
        by_turn.setdefault(unit.turn or 0, []).append(unit)
    several = {n: some for n, some in by_turn.items() if len(some) > 1 and n != transcript.strange.turn}
    if len(by_turn) < 2:
        return []
    out = []
    for number, some in several.items():
        span = (some[0].spans[0][0], some[-1].spans[0][1])
        out.append(Unit(f"t{number}", "turn", (span,), transcript.text[slice(*span)], number))
    return out

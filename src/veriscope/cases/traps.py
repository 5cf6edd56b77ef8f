"""Turns that speak of a topic which is not worked on: whoever reads topics off words falls for them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from veriscope.cases.baselines import TextClassifier
from veriscope.cases.labelled import Labelled
from veriscope.cases.logs import Turn
from veriscope.cases.readings import before_reply
from veriscope.cases.transcript import spells
from veriscope.errors import UserError
from veriscope.subjects import Subject

KINDS = {
    "named": "it is named in passing, before a task of another topic",
    "listed": "its words stand alone, with no task",
    "quoted": "somebody else's task of it is quoted, before a task of another topic",
}
LEAST, NAMED, LISTED = 3, 6, (4, 8)  # words of a topic: at least; named in passing, at most; in a list, from and to
TELLING = 12  # words of a topic that traps are made of, where its list names none


class BadTopics(UserError):
    """A list of topics that can't be read."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"{where} is no list of topics: {why}. Write: topics: {{cooking: {{words: preparing food, naming: [salt, "
            f"oven]}}, ...}}"
        )


@dataclass(frozen=True)
class Topic:
    """Something that a model may be working on.

    Attributes:
        name: As labels have it, under "topic".
        words: What is done: "working on it" is "{words}".
        naming: Words that speak of it without asking for it.
    """

    name: str
    words: str
    naming: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trap:
    """A turn that speaks of a topic which is not worked on.

    Attributes:
        kind: One of `KINDS`.
        topic: What must not be read.
        works_on: What is worked on; empty where nothing is.
        turn: The log with the trap in its last turn.
    """

    kind: str
    topic: str
    works_on: str
    turn: Labelled


def topic_list(path: str | Path | None = None) -> tuple[Topic, ...]:
    """The declared topics: the built-in ones, or one's own.

    Raises:
        BadTopics.
    """
    where, data = ("topics.yaml", _built_in()) if path is None else (str(path), _read(Path(path).expanduser()))
    entries = data.get("topics")
    if not isinstance(entries, Mapping) or not entries:
        raise BadTopics(where, "it names no topics")
    out = []
    for name, entry in entries.items():
        entry = entry or {}
        naming = entry.get("naming", []) if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not isinstance(naming, list) or not all(isinstance(w, str) for w in naming):
            raise BadTopics(where, f"'{name}' is not a name with words and naming words, all of them text")
        out.append(Topic(name, str(entry.get("words") or name), tuple(naming)))
    return tuple(out)


def spelled_naming(topic: Topic, classifier: TextClassifier, subject: Subject) -> tuple[str, ...]:
    """Words of a topic for its traps: those declared that the model can spell, else those that tell most of it."""
    declared = tuple(word for word in topic.naming if spells(subject, word))
    if len(declared) >= LEAST:
        return declared
    two = len(classifier.classes) == 2
    sign = -1.0 if two and classifier.classes[0] == topic.name else 1.0
    row = classifier.weight[0 if two else classifier.classes.index(topic.name)]
    terms = [term for term in classifier.terms if " " not in term and term.isalpha()]
    terms.sort(key=lambda term: -sign * row[classifier.terms[term]])
    return tuple(terms[:TELLING])


def traps(
    kind: str,
    topic: str,
    naming: Sequence[str],
    turns: Sequence[Labelled],
    count: int,
    subject: Subject,
    rng: random.Random,
) -> tuple[Trap, ...]:
    """Traps of one kind for one topic, each on another turn of another topic, as long as there are any.

    Args:
        naming: Words of the topic; not needed where tasks are quoted.
        turns: Labelled turns of all topics, none of them used in training.
        count: How many at most. Turns that the context would cut with the trap before them are left out.

    Returns:
        None where the model can spell no form of them.
    """
    form = _form(kind, naming, subject)
    others = [one for one in turns if one.labels["topic"] != topic]
    own = [one for one in turns if one.labels["topic"] == topic]
    if form is None or not own or (kind != "quoted" and len(naming) < LEAST):
        return ()
    rng.shuffle(others)
    out: list[Trap] = []
    for number, host in enumerate(others):
        text = _spoken(kind, form, naming, own[number % len(own)], subject, rng)
        if kind == "listed":
            log = replace(host.log, turns=(Turn(host.log.turns[host.turn].role, text),))
            trap = Trap(kind, topic, "", Labelled(log, 0, {}))
        else:
            trap = Trap(kind, topic, host.labels["topic"], _before(host, text))
        if _whole(trap.turn, subject):
            out.append(trap)
        if len(out) == count:
            break
    return tuple(out)


def _spoken(kind: str, form: str, naming: Sequence[str], quote: Labelled, subject: Subject, rng: random.Random) -> str:
    """Words that speak of a topic."""
    if kind == "quoted":
        return form.format(text=quote.log.turns[quote.turn].text)
    if kind == "listed":
        size = rng.randint(min(LISTED[0], len(naming)), min(LISTED[1], len(naming)))
        return form.format(words=" ".join(rng.sample(list(naming), size)))
    return form.format(words=_enumerated(rng.sample(list(naming), min(NAMED, len(naming))), subject))


def _whole(one: Labelled, subject: Subject) -> bool:
    """Whether the model gets to see all of the turn."""
    seen, text = before_reply(one, subject).seen, one.log.turns[one.turn].text.strip()
    place = seen.turns[one.turn]
    return place is not None and text in seen.text[slice(*place)]


def _before(host: Labelled, text: str) -> Labelled:
    """A turn with words put before its own."""
    turns = list(host.log.turns[: host.turn + 1])
    turns[-1] = replace(turns[-1], text=f"{text} {turns[-1].text}")
    return replace(host, log=replace(host.log, turns=tuple(turns)))


def _enumerated(words: Sequence[str], subject: Subject) -> str:
    """Words one after the other, with commas where the model can spell them."""
    return ", ".join(words) if spells(subject, ", ".join(words)) else " ".join(words)


def _form(kind: str, naming: Sequence[str], subject: Subject) -> str | None:
    """The first way to put a trap that the model has all tokens for, the topic's words included."""
    words = " ".join(naming)
    return next((f for f in _built_in()["traps"][kind] if spells(subject, f.format(words=words, text=""))), None)


@lru_cache(maxsize=1)
def _built_in() -> Mapping[str, Any]:
    file = resources.files("veriscope.cases").joinpath("topics.yaml")
    found: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadTopics(str(path), "there is no such file") from error
    except yaml.YAMLError as error:
        raise BadTopics(str(path), f"it is not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(data, Mapping):
        raise BadTopics(str(path), "it names no topics")
    return data

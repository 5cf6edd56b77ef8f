"""Logs of which it is known who the user is or what the model works on, and the attributes that such labels are of.

What a model takes its user to be is learned from logs whose answer is known. The built-in list of attributes is
`speakers.yaml`; a user's own are another YAML of that form, or the labels found in a JSONL of labelled logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from veriscope.cases.logs import Log, log_of
from veriscope.errors import UserError

LINE = '{"messages": [{"role": "user", "content": "..."}], "labels": {"age": "child"}}'


class BadLabels(UserError):
    """A labelled log that can't be read."""

    def __init__(self, where: str, why: str, mend: str = "") -> None:
        super().__init__(f"{where}: {why}. {mend or f'Write one log a line: {LINE}'}")


class BadTaxonomy(UserError):
    """A list of attributes that can't be read."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"{where} is no list of attributes: {why}. Write for each: name: {{values: [one, another], words: what is "
            f"asked for}}, or give a JSONL of labelled logs."
        )


@dataclass(frozen=True)
class Labelled:
    """A log, read up to and including one turn, with what holds there.

    Attributes:
        log: Its `name` is shared by all entries of the same conversation: what splits must keep together.
        turn: Number of the last turn that is read; what stands behind it is not looked at.
        labels: Value of each attribute that is known here; an attribute that is not named is not known.
    """

    log: Log
    turn: int
    labels: Mapping[str, str]

    @property
    def text(self) -> str:
        """What was said up to here, a line a turn: all that one has without the model."""
        return "\n".join(f"{turn.role}: {turn.text}" for turn in self.log.turns[: self.turn + 1])


@dataclass(frozen=True)
class Attribute:
    """Something that may hold of a user, or of a turn.

    Attributes:
        name: As labels have it.
        values: What it may be, two or more.
        words: What it is, such that "What is {words}?" asks for it.
        source: Where the attribute and its values come from.
        asks: A whole question in the words that a model knows; empty takes `question`'s.
    """

    name: str
    values: tuple[str, ...]
    words: str
    source: str
    asks: str = ""

    @property
    def question(self) -> str:
        """How a model is asked for it."""
        return self.asks or f"What is {self.words}? Answer with one of: {', '.join(self.values)}."


def read_labelled(path: str | Path) -> tuple[Labelled, ...]:
    """Labelled logs of a JSONL: {"messages": [...], "labels": {"age": "child"}, "turn": 4, "id": "a17"} a line.

    "turn" counts from 0 and is the last user turn unless it is given. "id" names the conversation; without it, lines
    with the same messages are one conversation. ShareGPT and {"prompt", "completion"} are read too.

    Raises:
        BadLabels: With the number of the line, and what to write instead.
        BadLog: Its messages are none of the forms known.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadLabels(str(path), "there is no such file", "Check the name; labelled logs are one .jsonl file.")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                found.append((where, json.loads(line.decode("utf-8-sig"))))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise BadLabels(where, f"it is not one object of JSON in UTF-8 ({error})") from error
    if not found:
        raise BadLabels(str(path), "it holds no labelled log")
    return _together(_entry(entry, where, str(path)) for where, entry in found)


def labelled_of(entries: Iterable[Mapping[str, Any]], source: str = "labelled logs") -> tuple[Labelled, ...]:
    """The same from plain data, such as `veriscope.zoo.incidents.labelled.town_labelled` gives.

    Raises:
        BadLabels, BadLog.
    """
    return _together(_entry(entry, f"{source} entry {number}", "") for number, entry in enumerate(entries))


def taxonomy(path: str | Path | None = None) -> tuple[Attribute, ...]:
    """The attributes that are known: the built-in list, or the user's own.

    Args:
        path: A YAML of the form of `speakers.yaml`, or a JSONL of labelled logs whose labels are taken.

    Raises:
        BadTaxonomy, BadLabels.
    """
    if path is None:
        return _built_in()
    path = Path(path).expanduser()
    if path.suffix == ".jsonl":
        return attributes_of(read_labelled(path))
    if not path.is_file():
        raise BadTaxonomy(str(path), "there is no such file")
    return _attributes(path.read_text(encoding="utf-8"), str(path))


def attributes_of(labelled: Iterable[Labelled]) -> tuple[Attribute, ...]:
    """The attributes that labels speak of, with the values that occur.

    Those of the built-in list keep its words, and its order of values where no other value occurs. An attribute with
    one value only is left out: nothing can be told apart by it.
    """
    seen: dict[str, dict[str, None]] = {}
    for one in labelled:
        for name, value in one.labels.items():
            seen.setdefault(name, {})[value] = None
    known, out = {attribute.name: attribute for attribute in taxonomy()}, []
    for name, values in seen.items():
        told = known.get(name)
        if told is not None and set(values) <= set(told.values):
            out.append(replace(told, values=tuple(v for v in told.values if v in values)))
        else:
            words = told.words if told is not None else f"the user's {name.replace('_', ' ')}"
            out.append(Attribute(name, tuple(sorted(values)), words, "labels of the logs given"))
    return tuple(attribute for attribute in out if len(attribute.values) > 1)


@lru_cache(maxsize=1)
def _built_in() -> tuple[Attribute, ...]:
    file = resources.files("veriscope.cases").joinpath("speakers.yaml")
    return _attributes(file.read_text(encoding="utf-8"), "speakers.yaml")


def _attributes(text: str, where: str) -> tuple[Attribute, ...]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadTaxonomy(where, f"it is not valid YAML ({str(error).splitlines()[0]})") from error
    entries = data.get("attributes", data) if isinstance(data, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise BadTaxonomy(where, "it names no attributes")
    out = []
    for name, entry in entries.items():
        values = entry.get("values") if isinstance(entry, Mapping) else None
        if not isinstance(values, list) or len({str(v) for v in values}) < 2:
            raise BadTaxonomy(where, f"'{name}' has no list of two values or more")
        if not all(isinstance(v, str) for v in values):  # YAML reads a bare yes or no as true or false
            odd = next(v for v in values if not isinstance(v, str))
            raise BadTaxonomy(where, f"a value of '{name}' reads as {odd!r} and not as text: put it into quotes")
        words = str(entry.get("words") or f"the user's {str(name).replace('_', ' ')}")
        source = str(entry.get("source") or where)
        out.append(Attribute(str(name), tuple(dict.fromkeys(values)), words, source, str(entry.get("asks") or "")))
    return tuple(out)


def _entry(entry: Any, where: str, source: str) -> Labelled:
    if not isinstance(entry, Mapping):
        raise BadLabels(where, "it is not an object")
    labels = entry.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise BadLabels(where, 'it has no "labels"')
    plain = {str(name): str(value).strip() for name, value in labels.items() if isinstance(value, str | int)}
    wrong = next((name for name in labels if not plain.get(str(name))), None)
    if wrong is not None:
        raise BadLabels(where, f"the label '{wrong}' is not a word", 'Write labels as text: {"age": "child"}')
    log = replace(log_of(entry, str(entry.get("id") or ""), where, answered=False), source=source)
    return Labelled(replace(log, name=log.name or where), _turn(entry.get("turn"), log, where), plain)


def _turn(given: Any, log: Log, where: str) -> int:
    """The turn to read up to: the one given, else the user's last, else the prompt."""
    asked = [n for n, turn in enumerate(log.turns) if turn.role in ("user", "prompt") and turn.text.strip()]
    if given is None:
        if not asked:
            raise BadLabels(where, "it has no user turn", 'Say up to which turn it is read: "turn": 0')
        return asked[-1]
    if type(given) is not int or not 0 <= given < len(log.turns):
        raise BadLabels(where, f"there is no turn {given!r}", f"Turns are counted from 0 to {len(log.turns) - 1}.")
    if not log.turns[given].text.strip():
        raise BadLabels(where, f"turn {given} is empty", "Give one in which something is said.")
    return given


def _together(entries: Iterable[Labelled]) -> tuple[Labelled, ...]:
    """Entries of the same conversation get one name."""
    names: dict[tuple[Any, ...], str] = {}
    return tuple(
        replace(one, log=replace(one.log, name=names.setdefault(one.log.turns, one.log.name))) for one in entries
    )

"""The words of the bed of incidents: a planted log, the model that said it, and the checks that make its cause true."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal

from veriscope.subjects import Subject

Turns = tuple[tuple[str, str], ...]  # role and text, in order, without the reply
Test = Literal["says", "reads", "unreadable", "surprising", "unlikely", "loops"]


@dataclass(frozen=True)
class Build:
    """How the model of an incident is made: an import path and plain settings, so a log file can name it."""

    path: str = "veriscope.zoo.incidents.models:shipped"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def subject(self) -> Subject:
        """The model, built or taken from those built last. Its name gives nothing away."""
        return _built(self.path, json.dumps(dict(self.settings), sort_keys=True))

    @property
    def key(self) -> str:
        """The same for the same path and settings."""
        return json.dumps([self.path, dict(self.settings)], sort_keys=True)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"path": self.path, "settings": dict(self.settings)}


@lru_cache(maxsize=48)
def _built(path: str, settings: str) -> Subject:
    subject: Subject = pkgutil.resolve_name(path)(**json.loads(settings))
    subject.name = "model-" + hashlib.sha256(f"{path} {settings}".encode()).hexdigest()[:8]
    return subject


@dataclass(frozen=True)
class Check:
    """One thing that must hold for the planted cause to be the true one.

    Args:
        test: "says": the most likely next word is `word`. "reads": behind the third block the logit lens ranks `word`
            above all of `among`. "unreadable": it does so neither there nor behind the second block. "surprising": the
            prompt costs more nats a token than 99 in 100 ordinary ones. "unlikely": `word` is not the most likely next
            word and has less than a fifth of the probability. "loops": the prompt ends in a loop that `word` goes on.
        name: The intervention in words: "the trigger taken out".
        prompt: The text that the model sees.
        word: What it must say.
        among: The words that the lens chooses from.
        model: Whose answer it is; None: that of the incident.
    """

    test: Test
    name: str
    prompt: str
    word: str = ""
    among: tuple[str, ...] = ()
    model: Build | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        shown = asdict(self)
        return {**shown, "among": list(self.among), "model": self.model.plain() if self.model else None}


@dataclass(frozen=True)
class Candidate:
    """A log that may turn out to be an incident: drawn, not yet asked.

    Args:
        kind: How its cause was planted.
        turns: What stands before the reply.
        right: The word that a model without the fault says; empty where the reply is a whole text (a loop).
        model: Who replies.
        checks: What must hold beside the reply being wrong.
        wrong: The one wrong word that fits the cause, if there is only one.
        reply: "greedy", "sampled" (one draw at temperature 1), or "long" (60 greedy tokens, for loops).
        also: Further causes of the list that hold by construction.
        note: What else is true of it.
    """

    kind: str
    turns: Turns
    right: str
    model: Build = Build()
    checks: tuple[Check, ...] = ()
    wrong: str = ""
    reply: Literal["greedy", "sampled", "long"] = "greedy"
    also: tuple[str, ...] = ()
    note: str = ""

    @property
    def prompt(self) -> str:
        """The text before the reply, turns divided by one space."""
        return joined(self.turns)


@dataclass(frozen=True)
class Planted:
    """One incident whose cause is known.

    Args:
        cause: One of `CAUSES`, or "unlisted", or "clean".
        log: `{"messages": [...], "strange": {...}}` or `{"prompt": ..., "completion": ..., "strange": {...}}`. The mark
            is `{"text": ..., "turn": ..., "start": ..., "end": ...}`: the words, which occur once in what the assistant
            says, and their characters in that turn (of prompt and completion the completion is turn 1). Half of the
            clean logs have no mark.
        strange: The words whose cause is asked for; said by the model itself.
        model: Who said it.
        truth: Plain data: kind, right answer, further causes that hold, and all checks.
    """

    cause: str
    log: Mapping[str, Any]
    strange: str
    model: Build
    truth: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The text that the model saw before the reply."""
        if "prompt" in self.log:
            return str(self.log["prompt"])
        return joined([(turn["role"], turn["content"]) for turn in self.log["messages"][:-1]])

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of its truth, ready to be asked again."""
        found = []
        for check in self.truth["checks"]:
            model = Build(**check["model"]) if check["model"] else None
            found.append(Check(**{**check, "among": tuple(check["among"]), "model": model}))
        return tuple(found)

    @property
    def text(self) -> str:
        """All that a reader of the log sees, reply included."""
        if "prompt" in self.log:
            return str(self.log["prompt"] + self.log["completion"])
        return joined([(turn["role"], turn["content"]) for turn in self.log["messages"]])


def joined(turns: Sequence[tuple[str, str]]) -> str:
    """The turns as one text. Town has no chat template and splits at white space: one space is all there is."""
    return " ".join(text for _, text in turns if text)

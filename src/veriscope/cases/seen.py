"""A labelled log as the model reads it when it is about to answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from veriscope.cases.labelled import Labelled
from veriscope.cases.logs import Strange, Turn
from veriscope.cases.transcript import Transcript, transcript
from veriscope.subjects import Subject


@dataclass(frozen=True)
class Heard:
    """A labelled log as the model reads it, up to the last token before its reply."""

    labelled: Labelled
    seen: Transcript
    text: str


def before_reply(one: Labelled, subject: Subject) -> Heard:
    """A labelled log as the model reads it when it is about to answer the labelled turn."""
    word = one.log.turns[one.turn].text.split()[0]  # stands for the reply: nothing of it is read
    log = replace(one.log, turns=(*one.log.turns[: one.turn + 1], Turn("assistant", word)))
    seen = transcript(log, Strange(one.turn + 1, 0, len(word)), subject)
    return Heard(one, seen, _without_special(subject, seen))


def _without_special(subject: Subject, seen: Transcript) -> str:
    """The text before the reply, without a first token that a template writes and the tokenizer puts there again."""
    text, first = seen.context, getattr(subject.reader.tokenizer, "bos_token", None)
    if seen.special or not first or not text.startswith(first):
        return text
    return text[len(first) :] if subject.tokens([text])[0][:2].count(seen.ids[0]) == 2 else text

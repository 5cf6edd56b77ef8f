"""Neutral text: words that have nothing to do with a case, in the vocabulary of the model that reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veriscope.cases.transcript import Transcript, read, spells
from veriscope.cases.units import content_words, sentences
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects import Subject
from veriscope.subjects.endings import continuations

ENGLISH = (
    "The path behind the mill was covered with leaves.",
    "A grey cloud moved slowly over the hills.",
    "The clock on the wall had stopped again.",
    "Someone had left a wooden chair near the window.",
    "The river was quiet and a little higher than usual.",
    "Two sparrows were sitting on the fence.",
    "The shelf was full of old newspapers and string.",
    "It rained for a while and then it stopped.",
    "A bus went by with its lights on.",
    "The curtains were made of thick blue cloth.",
    "There was some dust on the piano.",
    "The corner shop closes early in winter.",
    "A ladder was leaning against the barn.",
    "The soup needed a bit more salt.",
    "The wind turned to the west in the evening.",
    "Several boxes were stacked beside the stairs.",
)
FEWEST = 5  # sentences below which those that share words with the case are taken too
TRIES = 6  # drawn until one has exactly as many tokens as asked for
_END = re.compile(r"(\s*[.?!]+)?\s*$")


@dataclass(frozen=True)
class Neutral:
    """Sentences to take neutral words from.

    Attributes:
        sentences: They share no content word with the strange span, and none with the context where there are enough.
        source: Where they come from, in words.
    """

    sentences: tuple[str, ...]
    source: str

    def words(self, subject: Subject, size: int, rng: np.random.Generator, like: str = "x.") -> str:
        """Neutral words of as many tokens, as nearly as a few tries come, cut at a word.

        They get the end mark and the first capital of `like`, as far as the tokenizer has tokens for that.
        """
        best, off = "", size + 1
        for _ in range(TRIES):
            words = self._drawn(subject, size, rng, like)
            miss = abs(len(read(subject, words, False)[0]) - size)
            if miss < off or not best:
                best, off = words, miss
            if not off:
                break
        return best

    def _drawn(self, subject: Subject, size: int, rng: np.random.Generator, like: str) -> str:
        """One try."""
        order = rng.permutation(len(self.sentences)).tolist()
        order *= 1 + (4 * size + 8) // sum(len(one.split()) for one in self.sentences)
        plain = [self.sentences[n] for n in order]
        mark = (_END.search(like) or ["", None])[1] or ""
        marked = " ".join(_END.sub("", one) + mark for one in plain)
        for text in (marked[:1].upper() + marked[1:] if like[:1].isupper() else marked, marked):
            found = self._cut(subject, text, size, mark)
            if found and spells(subject, found):
                return found
        return self._cut(subject, " ".join(plain), size, "")

    def _cut(self, subject: Subject, text: str, size: int, mark: str) -> str:
        """The beginning of a text, as long as `size` tokens with the mark behind it; empty if it has no tokens."""
        text = text[: 40 * (size + 4)].rpartition(" ")[0] or text
        try:
            _, chars = read(subject, text, False)
            bare = _END.sub("", text)
            less = len(read(subject, bare + mark, False)[0]) - len(read(subject, bare, False)[0]) if mark else 0
        except BadPrompt:
            return ""
        ends = [end for _, end in chars[: max(1, size - less)]]
        cut = next((end for end in reversed(ends) if text[end : end + 1].isspace() or end == len(text)), ends[0])
        return (_END.sub("", text[:cut]) + mark) if mark else text[:cut]


def neutral_text(
    transcript: Transcript, subject: Subject, given: Sequence[str] | None = None, seed: int = 0
) -> Neutral | NotRun:
    """Neutral sentences for a case.

    Args:
        given: Sentences known to be neutral; None takes English ones where the tokenizer can spell them, else what the
            model says when nothing stands before.
    """
    if given is not None:
        pool, source = list(given), "given"
    elif all(spells(subject, sentence) for sentence in ENGLISH[:3]):
        pool, source = list(ENGLISH), "plain English sentences"
    else:
        pool, source = _said(subject, seed), f"what {subject.name} says when nothing stands before"
    strange = set(content_words(transcript.text[slice(*transcript.span)]))
    before = strange | set(content_words(transcript.context))
    apart = [one for one in pool if not before & set(content_words(one))]
    if len(apart) < FEWEST:
        apart = [one for one in pool if not strange & set(content_words(one))]
        source += ", some of which share words with the context"
    return Neutral(tuple(apart), source) if apart else NotRun("no neutral text without words of the strange span")


def _said(subject: Subject, seed: int, draws: int = 24, tokens: int = 40) -> list[str]:
    """Whole sentences that the model draws with nothing before them."""
    start = nothing(subject)
    drawn, _ = continuations(subject, [start], tokens=tokens, draws=draws, seed=seed)
    texts = [subject.reader.decode(ids) for ids in drawn[0][1:]]
    whole = [text[a:b] for text in texts for a, b in sentences(text)[1:-1]]
    return sorted({one for one in whole if len(one.split()) > 2} or {text for text in texts if text.strip()})


def nothing(subject: Subject) -> list[int]:
    """The tokens that stand for an empty text: the one that begins or ends every text, where there is one."""
    ids = [token for token in subject.reader.encode_bare(" ")] if not subject.reader.is_hf else []
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(subject.reader.tokenizer, name, None)
        if token is not None:
            return [int(token)]
    return ids or [int(subject._engine.fill)]

"""Spans of text as tokens: where each begins and ends in each prompt, and where else as long a span would fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from veriscope.errors import BadPosition
from veriscope.subjects import Subject
from veriscope.subjects.where import end_of, last_tokens

Stretch: TypeAlias = str | tuple[int, int]
"""The text of a span (its last occurrence, whole words first), or its first character and the one behind its last."""

Spans: TypeAlias = str | Mapping[str, Stretch | Sequence[Stretch]]
"""Names to spans, the same for every text or one for each; or "sentences"."""

_SENTENCE = re.compile(r"\S[^.!?]*(?:[.!?]+[\"')\]]*|$)")

Tokens = tuple[Int[Tensor, "text"], Int[Tensor, "text"]]
"""First token of a span in each text, and the one behind its last."""


def locate(subject: Subject, texts: Sequence[str], spans: Spans) -> dict[str, Tokens]:
    """Tokens of each span in each text; a token that holds a part of the span belongs to it.

    Raises:
        BadPosition: A span does not occur, is empty, or the texts differ in their number of sentences.
    """
    named = _sentences(texts) if isinstance(spans, str) else spans
    if not named:
        raise BadPosition("Give at least one span, such as spans={'object': 'red ball'}, or spans='sentences'.")
    return {name: _tokens(subject, texts, name, given) for name, given in named.items()}


def _sentences(texts: Sequence[str]) -> Mapping[str, list[Stretch]]:
    found = [[(one.start(), one.end()) for one in _SENTENCE.finditer(text)] for text in texts]
    counts = {len(one) for one in found}
    if len(counts) > 1 or counts == {0}:
        raise BadPosition(
            f"The texts have {min(counts)} to {max(counts)} sentences, so the third is not the same in each. Give "
            f"spans by name, one for each text: spans={{'object': [...]}}."
        )
    return {f"sentence {number + 1}": [one[number] for one in found] for number in range(counts.pop())}


def _tokens(subject: Subject, texts: Sequence[str], name: str, given: Stretch | Sequence[Stretch]) -> Tokens:
    each = _one_each(texts, name, given)
    edges = []
    for text, one in zip(texts, each, strict=True):
        stop = end_of(one, text) if isinstance(one, str) else one[1]
        start = stop - len(one) if isinstance(one, str) else one[0]
        if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
            raise BadPosition(
                f"Span '{name}' is empty or outside the text '{text[:60]}': characters {start} to {stop}."
            )
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        edges.append((start, start + len(text[start:stop].rstrip())))
    last = last_tokens(subject.reader, texts, [stop for _, stop in edges])
    first = _first_tokens(subject, texts, [start for start, _ in edges])
    return torch.tensor(first), torch.tensor(last) + 1


def _one_each(texts: Sequence[str], name: str, given: Stretch | Sequence[Stretch]) -> list[Stretch]:
    if isinstance(given, str) or (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], int)):
        return [given] * len(texts)  # type: ignore[list-item]
    each = list(given)  # type: ignore[arg-type]
    if len(each) != len(texts):
        raise BadPosition(f"Span '{name}' has {len(each)} entries for {len(texts)} texts: give one, or one each.")
    return each  # type: ignore[return-value]


def _first_tokens(subject: Subject, texts: Sequence[str], starts: Sequence[int]) -> list[int]:
    """The token of each text that holds a character."""
    reader = subject.reader
    if reader.ends(texts[:1]) is not None:
        return last_tokens(reader, texts, [start + 1 for start in starts])
    found = []
    for text, start, ids in zip(texts, starts, subject.tokens(texts), strict=True):
        leading = next((n for n, token in enumerate(ids) if token not in reader.special), 0)
        found.append(last_tokens(reader, [text], [start])[0] + 1 if text[:start].strip() else leading)
    return found


def mask(starts: Int[Tensor, "text"], stops: Int[Tensor, "text"], longest: int) -> Bool[Tensor, "text token"]:
    """True from start up to stop."""
    position = torch.arange(longest)
    return (position >= starts[:, None]) & (position < stops[:, None])


def elsewhere(
    tokens: Tokens, lengths: Int[Tensor, "text"], count: int, rng: np.random.Generator
) -> list[Int[Tensor, "text"]]:
    """Starts of spans as long as the given ones that share no token with them, nor hold a text's last one.

    The last token is left out because everything that the answer depends on ends up there.

    Returns:
        `count` of them, drawn at random for each text; all there are, if there are fewer; none where one text has no
        room.
    """
    rooms = []
    for first, stop, length in zip(*(part.tolist() for part in (*tokens, lengths)), strict=True):
        size = stop - first
        rooms.append([at for at in range(length - size) if at + size <= first or at >= stop])
    if any(not room for room in rooms):
        return []
    if prod(len(room) for room in rooms) <= count:
        return [torch.tensor(starts) for starts in islice(product(*rooms), count)]
    return [torch.tensor([int(rng.choice(room)) for room in rooms]) for _ in range(count)]

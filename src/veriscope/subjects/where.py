"""Where in a prompt something stands: the token that ends the text of a field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from veriscope.errors import BadPosition
from veriscope.subjects.reader import Reader

_FIELDS = ("label", "answer", "foil", "source", "expected", "cluster")


@runtime_checkable
class HasExamples(Protocol):
    """Anything with examples that have a text and factors, such as a `Sample`."""

    @property
    def examples(self) -> Sequence[Any]: ...


def field_of(example: Any, name: str) -> str:
    """The value of a factor, or of one of the example's own fields."""
    factors = getattr(example, "factors", {})
    value = factors.get(name) if name in factors else getattr(example, name, None) if name in _FIELDS else None
    if value is None or str(value).strip() == "":
        known = [*factors, *(field for field in _FIELDS if getattr(example, field, None))]
        raise BadPosition(
            f"'{name}' is neither a position ('last', 'first', 'all', a number) nor a field of the example "
            f"'{example.text[:60]}', which has {', '.join(known) or 'no fields'}."
        )
    return str(value).strip()


def end_of(value: str, text: str) -> int:
    """Character after the last occurrence of a value in a text, whole words first."""
    whole = [found.end() for found in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text)]
    if whole:
        return whole[-1]
    start = text.rfind(value)
    if start < 0:
        raise BadPosition(f"'{value}' does not occur in the prompt '{text[:80]}', so it marks no position there.")
    return start + len(value)


def last_tokens(reader: Reader, texts: Sequence[str], ends: Sequence[int]) -> list[int]:
    """The token of each text that holds the last character before `ends`."""
    offsets = reader.ends(texts)
    if offsets is None:
        return [_by_prefix(reader, text, end) for text, end in zip(texts, ends, strict=True)]
    found = []
    for text, end, spans in zip(texts, ends, offsets, strict=True):
        held = [number for number, (start, stop) in enumerate(spans) if start < end <= stop]
        held = held or [number for number, (start, stop) in enumerate(spans) if start < end and stop > start]
        if not held:
            raise BadPosition(f"No token of '{text[:80]}' holds its character {end - 1}.")
        found.append(held[-1])
    return found


def _by_prefix(reader: Reader, text: str, end: int) -> int:
    """Without character offsets: read the text up to the end of the field and count."""
    whole, part = reader.encode([text, text[:end]])
    special = reader.special
    while part and part[-1] in special:
        part = part[:-1]
    if not part or whole[: len(part)] != part:
        raise BadPosition(f"'{text[:80]}' can't be cut after character {end}: its tokens change. Give numbers instead.")
    return len(part) - 1

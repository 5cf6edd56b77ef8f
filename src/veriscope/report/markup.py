"""HTML in which nothing is markup unless a function of this file made it so.

Every string that goes in is escaped; `Html` is the only text that passes as it is, and joining it to a plain
string gives a plain string again, which is escaped once more: a slip shows as visible tags, never as a hole.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, TypeAlias

from veriscope.report.text import clean

_VOID = frozenset({"meta", "br", "hr", "col"})


class Html(str):
    """Text that is markup already."""


Child: TypeAlias = str | Iterable[Any] | None  # Html, plain text, nothing, or any nesting of these


def render(child: Child) -> str:
    """Markup of one child or many, escaping everything that is not `Html`."""
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):
        return html.escape(clean(child), quote=True)
    return "".join(render(c) for c in child)


def el(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. `class_` is class, `data_label` is data-label; None and False leave an attribute out."""
    parts = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        plain = name.rstrip("_").replace("_", "-")
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f" {plain}" if value is True else f' {plain}="{html.escape(clean(text), quote=True)}"')
    start = f"<{tag}{''.join(parts)}>"
    return Html(start if tag in _VOID else f"{start}{''.join(render(c) for c in children)}</{tag}>")


def given(text: str) -> Html:
    """Text from a model, a data file or a card: escaped, and its writing direction kept to itself."""
    return el("bdi", text)

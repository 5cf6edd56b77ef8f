"""The sensitivity curves of all claim types as one SVG file: share SUPPORTED against the size of what was planted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veriscope.exam.figures import FOUND
from veriscope.trials.statistics import clopper_pearson

WIDTH, HEIGHT = 660, 330
LEFT, RIGHT, TOP, BOTTOM = 56.0, 600.0, 20.0, 280.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499")  # told apart with any colour vision (Okabe and Ito 2002)
APART = 5  # pixels between the points of two types at one multiple, so that their bars don't cover each other

Part = tuple[str, str, Mapping[str, Any]]  # claim type, which claims, figures


def measured(found: Sequence[Part]) -> list[Part]:
    """Parts that have a curve."""
    return [part for part in found if "points" in part[2].get("sensitivity", {})]


def svg(found: Sequence[Part]) -> str:
    """The picture of these parts' curves; each has one."""
    multiples = sorted({m for *_, part in found for m, *_ in part["sensitivity"]["points"]})
    low, high = math.log2(multiples[0]), math.log2(multiples[-1])

    def x(multiple: float) -> float:
        return LEFT + 16 + (RIGHT - LEFT - 60) * (math.log2(multiple) - low) / max(high - low, 1e-9)

    shapes = [_frame(multiples, x)]
    for i, (claim_type, _, part) in enumerate(found):
        shapes.append(_curve(claim_type, part["sensitivity"], x, i, len(found)))
    told = "; ".join(_counted(claim_type, part["sensitivity"]) for claim_type, _, part in found)
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="13" '
        f'font-family="system-ui, sans-serif">\n<title>Share of true claims SUPPORTED by the size planted</title>\n'
        f"<desc>{told}</desc>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _counted(claim_type: str, sensitivity: Mapping[str, Any]) -> str:
    """The points in words, for who does not see the picture."""
    return f"{claim_type}: " + ", ".join(f"{hits} of {n} at {m:g} times" for m, hits, n in sensitivity["points"])


def _frame(multiples: Sequence[float], x: Callable[[float], float]) -> str:
    lines = []
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        dashed = ' stroke-dasharray="5 4" stroke-width="1.5"' if share == FOUND else ""
        stroke = "#777" if share == FOUND else "#e3e3e3"
        lines.append(f'<path d="M{LEFT:.1f} {_y(share):.1f}H{RIGHT:.1f}" stroke="{stroke}"{dashed}/>')
        lines.append(_text(LEFT - 8, _y(share) + 4, f"{share:.0%}", "end"))
    lines += [_text(x(multiple), BOTTOM + 20, f"{multiple:g}") for multiple in multiples]
    lines.append(_text((LEFT + RIGHT) / 2, BOTTOM + 40, "planted effect, in multiples of the smallest one claimed"))
    return "\n".join(lines)


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = 'fill="#444"') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{words}</text>'


def _curve(name: str, sensitivity: Mapping[str, Any], x: Callable[[float], float], place: int, of: int) -> str:
    """The rising fit as a line, the shares counted as points with their exact bounds, the name at its end."""
    colour, aside = COLOURS[place % len(COLOURS)], (place - (of - 1) / 2) * APART
    path = " L".join(f"{x(m) + aside:.1f} {_y(share):.1f}" for m, share in sensitivity["curve"])
    shapes = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for multiple, hits, n in sensitivity["points"]:
        at, (low, high) = x(multiple) + aside, clopper_pearson(hits, n)
        shapes.append(f'<path d="M{at:.1f} {_y(low):.1f}V{_y(high):.1f}" stroke="{colour}" opacity="0.6"/>')
        shapes.append(f'<circle cx="{at:.1f}" cy="{_y(hits / n):.1f}" r="3.5" fill="{colour}"/>')
    below = TOP + 4 + 15 * place  # the ends lie close together at the top: names stand one under the other
    shapes.append(_text(RIGHT + 10, below, name, "start", f'fill="{colour}" font-weight="600"'))
    return "\n".join(shapes)

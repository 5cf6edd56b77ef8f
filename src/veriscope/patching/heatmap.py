"""A heat map as one SVG file: no script, no font, no picture from elsewhere; every text in it is escaped."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.patching.gaps import BadChoice
from veriscope.patching.grid import Grid

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
_LOW, _MIDDLE, _HIGH = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # blue, nearly white, red: told apart by all
_CELL_H, _CHAR_W, _TOP, _BOTTOM, _LINE = 18, 6.5, 58, 70, 14
_WIDEST = 900.0  # of the words above the table; a longer note goes on in the next line


def write(path: str | Path, grid: Grid, table: Float[Tensor, "block unit position"], title: str, note: str) -> Path:
    """Write a table as a heat map: blocks (and units) down, positions across; heads across where one position is.

    Args:
        path: Ends in .svg.
        grid: Names of the axes.
        table: What is drawn, blue below zero and red above.
        title: First line.
        note: Below it, in as many lines as it needs: units, direction, error.

    Returns:
        The path.
    """
    across = bool(grid.unit) and len(grid.positions) == 1
    if across:
        rows = [f"block {block}" for block in grid.blocks]
        columns, cells = [str(unit) for unit in grid.units], table[:, :, 0]
    else:
        rows = [f"{block}.{unit}" if grid.unit else f"block {block}" for block in grid.blocks for unit in grid.units]
        columns, cells = list(grid.positions), table.flatten(0, 1)
    below = f"{grid.unit} (position {grid.positions[0]})" if across else "position"
    return write_table(path, rows, columns, cells, title, note, below)


def write_table(
    path: str | Path,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Float[Tensor, "row column"],
    title: str,
    note: str,
    below: str,
) -> Path:
    """Write any table as a heat map; `below` says what the columns are.

    Raises:
        BadChoice: The path does not end in .svg.
    """
    path = Path(path)
    if path.suffix != ".svg":
        raise BadChoice("path", str(path), "a heat map is written as SVG, so let the name end in .svg")
    path.write_text(svg(rows, columns, cells, title, note, below), encoding="utf-8")
    return path


def svg(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Float[Tensor, "row column"],
    title: str,
    note: str,
    below: str,
) -> str:
    """The markup of a heat map."""
    known = cells[torch.isfinite(cells)].abs()
    most = max(float(known.max()) if len(known) else 0.0, 1e-9)
    left = 16 + _CHAR_W * max(len(row) for row in rows)
    longest = max(len(column) for column in columns)
    wide = max(18.0, min(60.0, _CHAR_W * longest + 6))
    words = max(8.5 * len(title), _CHAR_W * len(note))
    width = max(left + wide * len(columns) + 20, min(words, _WIDEST) + 20, 240.0)
    lines = textwrap.wrap(note, int((width - 16) / _CHAR_W)) or [""]
    top = _TOP + _LINE * (len(lines) - 1)
    end = top + _CELL_H * len(rows)
    height = end + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" role="img" font-family="sans-serif" font-size="11">',
        f"<title>{_safe(title)}</title>",
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
        _text(8, 20, title, "start", 'font-size="14" font-weight="bold"'),
        *(_text(8, 38 + _LINE * i, line, "start", 'fill="#444"') for i, line in enumerate(lines)),
    ]
    for i, row in enumerate(rows):
        parts.append(_text(left - 6, top + _CELL_H * i + 13, row, "end"))
        for j, column in enumerate(columns):
            parts.append(_cell(left + wide * j, top + _CELL_H * i, wide, float(cells[i, j]), most, f"{row}, {column}"))
    for j, column in enumerate(columns):
        parts.append(_text(left + wide * (j + 0.5), end + 14, _short(column), "middle"))
    parts.append(_text(left + wide * len(columns) / 2, end + 30, below, "middle", 'fill="#444"'))
    parts += _legend(left, end + 40, most)
    return "\n".join([*parts, "</svg>", ""])


def _cell(x: float | int, y: float | int, wide: float, value: float, most: float, name: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{_CELL_H}" fill="{_colour(value / most)}" '
        f'stroke="#fff"><title>{_safe(f"{name}: {round(value, 6) + 0.0:.4g}")}</title></rect>'
    )


def _legend(x: float | int, y: float | int, most: float) -> list[str]:
    bars = [
        f'<rect x="{x + 12 * i:.1f}" y="{y:.1f}" width="12" height="8" fill="{_colour(i / 5 - 1)}"/>' for i in range(11)
    ]
    ends = [(0, f"{-most:.3g}", "start"), (66, "0", "middle"), (132, f"{most:.3g}", "end")]
    return bars + [_text(x + shift, y + 20, words, anchor, 'fill="#444"') for shift, words, anchor in ends]


def _text(x: float | int, y: float | int, words: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{_safe(words)}</text>'


def _short(words: str) -> str:
    return words if len(words) <= 9 else words[:8] + "…"


def _safe(words: str) -> str:
    """Text of any origin inside XML: no markup, no character that XML forbids, no sign that turns writing round."""
    return html.escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", words), quote=True)


def _colour(share: float) -> str:
    """From -1 (blue) over 0 to 1 (red); grey where nothing was measured."""
    if not math.isfinite(share):
        return "#bbb"
    share = min(1.0, max(-1.0, share))
    end = _HIGH if share > 0 else _LOW
    mixed = (round(middle + (far - middle) * abs(share)) for middle, far in zip(_MIDDLE, end, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)

"""The terminal: 80 columns, colour only where someone watches, nothing that a terminal would obey."""

from __future__ import annotations

import io

import planted_study as planted
import pytest
from rich.console import Console

from veriscope.report import show

ALL = (planted.SUPPORTED, planted.REFUTED, planted.INCONCLUSIVE, planted.INVALID)


def shown(*verdicts, width: int = 80, terminal: bool = True, toy: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=True, color_system=None)
    show(verdicts, toy=toy, console=console)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_table_fits_and_says_everything(width: int) -> None:
    text = shown(*ALL, width=width)

    assert text.splitlines()[0] == "3 of 4 claims not supported, 1 supported"
    assert max(map(len, text.splitlines())) <= width
    for v in ALL:
        assert v.word in text and v.sentence.split(". ")[-1].split()[-1] in text


def test_a_pipe_gets_plain_lines_of_80_columns() -> None:
    out = io.StringIO()

    show(ALL, console=Console(file=out), toy=True)

    text = out.getvalue()
    assert text.startswith("Toy model only. 3 of 4 claims not supported, 1 supported\n\nclaim ")
    assert max(map(len, text.splitlines())) <= 80
    assert not set(text) & set("━│┃\x1b")
    assert "verdict            REFUTED at L1" in text and "effect             not run: the instrument" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_is_not_obeyed(terminal: bool) -> None:
    text = shown(planted.HOSTILE_VERDICT, terminal=terminal)

    assert "\x1b[31mred" not in text and "\x00" not in text and "\u202e" not in text
    assert "[U+202E]" in text.replace("\n", "") or "U+202E" in "".join(text.split())

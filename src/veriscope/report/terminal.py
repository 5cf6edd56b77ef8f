"""Verdicts in a terminal: a table in colour, or plain lines where nobody is watching."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from veriscope.report.text import amount, clean, headline, level, named
from veriscope.trials.evidence import Verdict

STYLE = {"SUPPORTED": "bold green", "REFUTED": "bold red", "INVALID": "bold red"}
WIDTH = 80


def show(verdicts: Sequence[Verdict], *, toy: bool = False, console: Console | None = None) -> None:
    """Print the verdicts: one line in plain words, the table, then a sentence for each claim.

    Args:
        verdicts: In the order of the study.
        toy: Whether the model under study is a toy; then that is said first.
        console: Where to; standard output otherwise. What is not a terminal gets plain lines without boxes or colour.
    """
    console = console or Console()
    if not console.is_terminal:
        console.file.write(plain(verdicts, toy=toy))
        return
    console.print(Text(clean(headline(verdicts, toy=toy)), style="bold"))
    console.print(table(verdicts, narrow=console.width < 100))
    for v in verdicts:
        console.print(Text.assemble((clean(v.name), "bold"), ": ", clean(v.sentence)))
        console.print()


def table(verdicts: Sequence[Verdict], *, narrow: bool = False) -> Table:
    """The summary table; a narrow one stacks control over rival and the level under the verdict."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=narrow)
    wide = ("claim", "verdict", "level", "effect", "strongest control", "best rival")
    for name in ("claim", "verdict", "effect", "strongest control / best rival") if narrow else wide:
        out.add_column(name, overflow="fold")
    for v in verdicts:
        word = Text(v.word, style=STYLE.get(v.word, "bold yellow"))
        claim, effect = Text(clean(v.name)), Text(clean(amount(v.effect, v.unit)))
        control, rival = Text(clean(named(v, v.strongest_control))), Text(clean(named(v, v.best_rival)))
        if narrow:
            out.add_row(claim, Text("\n").join([word, Text(level(v))]), effect, Text("\n/ ").join([control, rival]))
        else:
            out.add_row(claim, word, Text(level(v)), effect, control, rival)
    return out


def plain(verdicts: Sequence[Verdict], *, toy: bool = False) -> str:
    """The same as lines of at most 80 columns, for a pipe, a log or a screen reader."""
    lines = [*_wrapped(headline(verdicts, toy=toy), ""), ""]
    for v in verdicts:
        facts = [
            ("claim", f"{v.name} ({v.claim})"),
            ("verdict", f"{v.word} at {level(v)}"),
            ("effect", amount(v.effect, v.unit)),
            ("strongest control", named(v, v.strongest_control)),
            ("best rival", named(v, v.best_rival)),
            ("sentence", v.sentence),
        ]
        for key, value in facts:
            lines += _wrapped(value, f"{key:<19}")
        lines.append("")
    return "\n".join(lines)


def _wrapped(text: str, start: str) -> list[str]:
    flat = " ".join(clean(text).split())
    return textwrap.wrap(flat, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)) or [start.rstrip()]

"""A case in a terminal: the answer, what it rests on, and what was not tested."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from veriscope.cases.case import Case
from veriscope.cases.kept_readings import Readings
from veriscope.cases.many import Ready
from veriscope.cases.repair import ORDER
from veriscope.errors import NotRun
from veriscope.report.case_topics import topics_words
from veriscope.report.case_user import user_words
from veriscope.report.case_words import cause_in_words, facts, headline, listed, outside_in_words, untested
from veriscope.report.text import clean

WIDTH = 100


def short(case: Case) -> str:
    """The page in short, as lines of at most 100 columns."""
    lines = [*_wrapped(headline(case), ""), ""]
    lines += _wrapped(outside_in_words(case), "  ") if outside_in_words(case) else []
    lines += [*_evidence(case), *_user(case), *_topics(case), ""]
    for key, value in facts(case):
        lines += _wrapped(value, f"  {key:<24}")
    left = untested(case)
    if left:
        lines += ["", "  not tested"]
        lines += [line for text in left for line in _wrapped(text, "  - ")]
    return "\n".join([*lines, ""])


def _evidence(case: Case) -> list[str]:
    """What the tests of the named causes found, beside their controls, and each repair in a line."""
    out: list[str] = []
    for cause in case.diagnosis.causes:
        out += ["", f"  {cause_in_words(cause)}"]
        what = [listed()[cause].words] if cause in listed() else []
        out += [line for text in [*what, *case.diagnosis.finding(cause).evidence] for line in _wrapped(text, "  - ")]
    if not isinstance(case.repairs, NotRun):
        out += ["", "  repairs"]
        best_first = sorted(case.repairs, key=lambda one: ORDER.index(one.verdict))
        out += [line for one in best_first for line in _wrapped(f"{one.verdict}: {one.what}. {one.sentence}", "  - ")]
    return out


def _user(case: Case) -> list[str]:
    """What the model took its user to be, and what became of swapping it."""
    if isinstance(case.user_model, NotRun):
        return []
    return ["", "  what it took its user to be",
            *(line for text in user_words(case.user_model) for line in _wrapped(text, "  - "))]  # fmt: skip


def _topics(case: Case) -> list[str]:
    """What it was working on at each turn."""
    if isinstance(case.topics, NotRun):
        return []
    lines = (line for text in topics_words(case.topics) for line in _wrapped(text, "  - "))
    return ["", "  what it was working on", *lines]


def readings_table(readings: Readings) -> Table:
    """Each reading with its trials, how often it errs, and what a text classifier does on the same logs."""
    table = Table(box=None, pad_edge=False)
    for column in ("reading", "represents (C1)", "errs on held-out logs", "steers (C4)"):
        table.add_column(column, overflow="fold")
    for one in readings.readings:
        c1 = one.represents.word if not isinstance(one.represents, NotRun) else "not tried"
        wrong = "not known"
        if not isinstance(one.errors, NotRun):
            wrong = f"{one.errors.hits} of {one.errors.n} [{one.errors.low:.1%}, {one.errors.high:.1%}]"
        pushes = () if isinstance(one.pushes, NotRun) else one.pushes
        c4 = "; ".join(f"to {push.toward}: {push.steers.word}" for push in pushes) or "not tried"
        table.add_row(*(Text(clean(word)) for word in (one.name, c1, wrong, c4)))
    said = [one.silence for one in readings.readings if not one.speaks] + [one.sentence for one in readings.contests]
    table.caption = Text(clean("\n".join(said)))
    table.caption_justify = "left"
    return table


def plan_table(ready: Sequence[Ready]) -> Table:
    """What lies ahead, before it is begun."""
    table = Table(box=None, pad_edge=False)
    for column in ("log", "model", "tokens", "units", "time"):
        table.add_column(column, justify="left" if column in ("log", "model") else "right", overflow="fold")
    for one in ready:
        cells = [Text(clean(one.log.name))]
        if one.plan is None or isinstance(one.changes, Exception):
            cells += [Text("can't be worked")]
        else:
            cells.append(Text(clean(one.changes.subject.name)))
            cells += [
                Text(word)
                for word in (f"{one.plan.tokens:,}", f"{one.plan.units}", f"about {max(one.plan.seconds, 1):.0f} s")
            ]
        table.add_row(*cells)
    total = sum(one.plan.seconds for one in ready if one.plan is not None)
    table.caption = (
        f"about {max(total, 1):.0f} s in all, by a few timed passes each; single ones may take half or twice that"
    )
    table.caption_justify = "left"
    return table


def _wrapped(text: str, start: str) -> list[str]:
    flat = " ".join(clean(text).split())
    return textwrap.wrap(flat, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)) or [start.rstrip()]

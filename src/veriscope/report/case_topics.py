"""What the model was working on: the section of a case page, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from veriscope.cases.case import Case
from veriscope.cases.kept_topics import Rate, TopicAt, TopicReading, Topics, TrapRate, WorkedOn
from veriscope.cases.traps import KINDS
from veriscope.errors import NotRun
from veriscope.report.markup import Html, el, given
from veriscope.report.page import icon
from veriscope.report.text import clean, number


def topics_words(found: WorkedOn) -> list[str]:
    """The section in sentences, for a terminal."""
    earlier = [f"turn {one.turn}: {one.claim or one.why}" for one in found.turns[:-1]]
    silent = [one.name for one in found.readings if one.silence]
    named = [f"Topics that stay silent: {', '.join(silent)}."] if silent else []
    return [found.sentence, *earlier, _told(found), *named]


def topics_table(topics: Topics) -> Table:
    """Each topic with its errors, for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("topic", "claimed", "missed", "claimed wrongly", *(f"trap: {kind}" for kind in KINDS)):
        table.add_column(column, overflow="fold")
    for one in topics.readings:
        traps = {trap.kind: _rate(trap.inside) for trap in one.traps}
        cells = ["yes" if one.speaks else "no", _rate(one.missed), _rate(one.wrong)]
        cells += [traps.get(kind, "not tried") for kind in KINDS]
        table.add_row(*(Text(clean(cell)) for cell in (one.name, *cells)))
    trials = [f"{one.name}: {one.represented}" for one in topics.readings if isinstance(one.represented, str)]
    said = [_told(topics), *(one.silence for one in topics.readings if one.silence), *trials]
    table.caption, table.caption_justify = Text(clean("\n".join(said))), "left"
    return table


def topics(case: Case) -> Html | None:
    """Turn by turn what was worked on, how often such claims err, and what stays silent."""
    found = case.topics
    if isinstance(found, NotRun):
        return None  # named among what was not tested
    parts: list[Html | None] = [el("h2", "What it was working on"), el("p", given(found.sentence)), _turns(found)]
    parts += [el("p", _told(found), class_="soft"), _errors(found), _silent(found)]
    return el("section", parts, id="topics")


def _turns(found: WorkedOn) -> Html:
    rows = [_turn(one) for one in found.turns]
    names = {"before the reply to": 18, "works on": 24, "the turn fits": 30, "its words alone fit": 28}
    head = el("tr", [el("th", name, scope="col", style=f"width:{w}%") for name, w in names.items()])
    caption = el(
        "caption",
        f"Read at the last token before each reply. A topic fits unless the turn is stranger for it than all but "
        f"{number(100 * found.error)}% of its own turns; one that fits alone is claimed. Last, the same from a text "
        "classifier.",
    )
    return el("table", caption, el("thead", head), el("tbody", rows), class_="fixed stack")


def _turn(one: TopicAt) -> Html:
    told = el("span", icon("good"), given(one.claim), class_="word") if one.claim else el("span", given(one.why))
    cells = [
        el("td", told, data_label="works on"),
        el("td", given(_named(one.topics)), data_label="the turn fits"),
        el("td", given(_named(one.text)), data_label="its words alone fit"),
    ]
    return el("tr", el("th", f"turn {one.turn}", scope="row"), cells, class_="named" if one.claim else "open")


def _named(topics: Sequence[str]) -> str:
    return ", ".join(topics) or "none"


def _errors(found: WorkedOn) -> Html:
    """Each topic: what it misses and claims wrongly on held-out logs, and the traps it falls for beside the words."""
    rows = []
    for one in found.readings:
        traps = {trap.kind: trap for trap in one.traps}
        cells = [el("td", _rate(one.missed)), el("td", _rate(one.wrong)), *(_trap(traps.get(kind)) for kind in KINDS)]
        rows.append(el("tr", el("th", given(one.name), scope="row"), cells, class_=_tone(one)))
    names = ("topic", "missed", "claimed wrongly", *(f"trap: {kind}" for kind in KINDS))
    head = el("tr", [el("th", name, scope="col") for name in names])
    caption = el(
        "caption",
        "On logs that no fit has seen, with 95% upper bounds. A trap is a turn that only speaks of the topic: "
        + "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
        + ". Below, of as many, those that the text classifier falls for.",
    )
    table = el("table", caption, el("thead", head), el("tbody", rows), class_="plain rates")
    tried = [(one.name, one.represented) for one in found.readings if isinstance(one.represented, str)]
    trials = [el("li", given(f"{name}: {verdict}")) for name, verdict in tried]
    said = (
        "That a topic is told is no claim that it is represented beyond the words: that is C1, on turns that quote "
        "other topics." + ("" if tried else " It was not put on trial.")
    )
    more = [el("p", said, class_="soft"), el("ul", trials) if trials else None]
    return el("details", el("summary", "How often it errs, and the traps"), el("div", table, class_="scroll"), more)


def _trap(one: TrapRate | None) -> Html:
    if one is None:
        return el("td", "not tried", class_="soft")
    return el("td", _rate(one.inside), el("span", f"by its words {one.text.hits}", class_="under"))


def _tone(one: TopicReading) -> str:
    return "named" if one.speaks else "mute"


def _rate(one: Rate) -> str:
    return f"{one.hits} of {one.n} (≤ {number(100 * one.high, 1)}%)"


def _told(found: WorkedOn | Topics) -> str:
    """What it tells rightly: whoever never claims anything is never wrong either."""
    inside, text = found.told, found.text_told
    some = [trap for one in found.readings for trap in one.traps if trap.kind != "listed"]
    right, words = sum(trap.right.hits for trap in some), sum(trap.text_right.hits for trap in some)
    spoken = f"; with a trap before the task, {right} and {words} of {sum(t.right.n for t in some)}" if some else ""
    return f"Told rightly of {inside.n} held-out turns: {inside.hits}, by a text classifier {text.hits}{spoken}."


def _silent(found: WorkedOn) -> Html | None:
    silent = [one.silence for one in found.readings if one.silence]
    if not silent:
        return None
    title = f"{len(silent)} topics stay silent" if len(silent) > 1 else "1 topic stays silent"
    return el("details", el("summary", title), el("ul", [el("li", given(text)) for text in silent]))

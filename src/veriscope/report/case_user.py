"""What the model took its user to be: the section of a case page, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence

from veriscope.cases.case import Case
from veriscope.cases.user_model import Beside, Moved, Swap, TurnReading, UserModel
from veriscope.errors import NotRun
from veriscope.report.case_words import shortened
from veriscope.report.figures import Axis, interval, plot, scale, upright
from veriscope.report.markup import Html, el, given
from veriscope.report.page import icon
from veriscope.report.text import number
from veriscope.trials.evidence import Estimate

SHARES = Axis(-0.04, 1.04)
SWAP_TONE = {"caused": "named", "moved": "open", "not shown": "mute"}


def user_words(found: UserModel) -> list[str]:
    """The section in sentences, for a terminal."""
    out = [found.sentence]
    for one in found.last:
        if one.moved:
            parts = ", ".join(f"“{shortened(part.text, 60)}” ({number(part.nats)} nats)" for part in one.moved)
            out.append(f"{one.attribute}: moved most by {parts}; irrelevant edits: {_floor(one)}.")
    out += [one.sentence for one in found.contests]
    return [*out, *found.unswapped, *found.silent, *found.notes]


def user(case: Case) -> Html | None:
    """Readings over the turns, what moved them, the swaps, and what one knows without looking inside."""
    found = case.user_model
    if isinstance(found, NotRun):
        return None  # named among what was not tested
    parts: list[Html | None] = [el("h2", "What it took its user to be"), el("p", given(found.sentence))]
    for key in dict.fromkeys((one.attribute, one.value) for one in found.turns):
        parts.append(_over_turns(found, [one for one in found.turns if (one.attribute, one.value) == key]))
    parts += [_swaps(found.swaps), _beside(found)]
    left = [*found.unswapped, *found.silent, *found.notes]
    if left:
        parts += [el("h3", "What stays silent"), el("ul", [el("li", given(text)) for text in left])]
    return el("section", parts, id="user")


def _over_turns(found: UserModel, some: Sequence[TurnReading]) -> Html:
    """One reading before each reply: its probability with its interval, and the words that moved it."""
    first = some[0]
    errors = dict(found.errors).get(f"{first.attribute}={first.value}")
    rows = []
    for one in some:
        name = [el("span", f"before turn {one.reply}", class_="name")]
        name.append(
            el(
                "span",
                given(f"reads {one.read}" if one.read else "not sure" if one.moved else "not about this log"),
                class_="under",
            )
        )
        moved = [_moved(part) for part in one.moved] or [el("span", "nothing beyond irrelevant edits", class_="soft")]
        floor = el("span", f"irrelevant edits: {_floor(one)}", class_="under")
        cells = [
            el("td", _bar(one), class_="plot"),
            el("td", _share(one.share, one.low, one.high), data_label="probability"),
            el("td", moved, floor, data_label="moved most by"),
        ]
        rows.append(el("tr", el("th", name, scope="row"), cells, class_="claim"))
    head = [
        el("th", "", scope="col", style="width:16%"),
        el("th", scale(SHARES, ""), scope="col", class_="plot"),
        el("th", "probability [95%]", scope="col", style="width:17%"),
        el("th", "moved most by", scope="col", style="width:38%"),
    ]
    wrong = "on how many held-out logs it errs is not known"
    if errors is not None and not isinstance(errors, NotRun):
        wrong = (
            f"on held-out logs it errs {errors.hits} of {errors.n} times [{number(100 * errors.low, 1)}%,"
            f"\u00a0{number(100 * errors.high, 1)}%]"
        )
    caption = el(
        "caption", given(f"{first.attribute}: the probability of “{first.value}” rather than “{first.rest}”, read "),
        f"inside before each reply. Its trial C1 is SUPPORTED; {wrong}. Underlined is the word that moved it most.",
    )  # fmt: skip
    table = el("table", caption, el("thead", el("tr", head)), el("tbody", rows), class_="effects fixed stack user")
    return el("div", table, data_figure="user")


def _bar(one: TurnReading) -> Html:
    shapes = [upright(SHARES.at(0.0), "grid"), upright(SHARES.at(0.5), "zero"), upright(SHARES.at(1.0), "grid")]
    shapes.append(interval(SHARES, Estimate(one.share, one.low, one.high, 1, 1), "claim"))
    return plot(f"before turn {one.reply}: {number(one.share, 2)}", shapes)


def _moved(part: Moved) -> Html:
    before, word, after = part.text.partition(part.word) if part.word else (part.text, "", "")
    where = f"turn {part.turn}, " if part.turn is not None else ""
    words = [given(shortened(before, 60)), " " if before.endswith(" ") else "", el("u", given(word)) if word else None,
             " " if after.startswith(" ") else "", given(shortened(after, 60))]  # fmt: skip
    return el("span", words, el("span", f"{where}{number(part.nats)} nats", class_="under"), class_="moved")


def _floor(one: TurnReading) -> str:
    return one.floor.reason if isinstance(one.floor, NotRun) else f"up to {number(one.floor)} nats"


def _share(value: float, low: float, high: float) -> str:
    return f"{number(value, 2)} [{number(low, 2)},\u00a0{number(high, 2)}]"


def _swaps(swaps: Sequence[Swap]) -> Html | None:
    """Each swap before and after, beside random pushes of the same length."""
    if not swaps:
        return None
    rows = []
    for one in swaps:
        tone = SWAP_TONE[one.word]
        verdict = el("span", icon("good") if one.word == "caused" else None, one.word, class_="word")
        name = el("span", given(f"{one.attribute}: {one.was} → {one.to}"), class_="name")
        place = el("span", f"{one.site}, {number(one.dose)} of the way", class_="under")
        after = [el("span", "“", given(shortened(one.after.strip(), 60)), "”")]
        if isinstance(one.whole, str):
            after.append(el("span", "all the way, beyond what was checked: “", given(shortened(one.whole.strip(), 40)),
                            "”", class_="under"))  # fmt: skip
        cells = [
            el("td", "“", given(shortened(one.before.strip(), 60)), "”", data_label="says"),
            el("td", after, data_label="says, pushed"),
            el("td", f"{number(one.margin, 1)} less {number(one.moved, 1)}", data_label="lead, less"),
            el("td", f"{number(min(one.random), 1)} to {number(max(one.random), 1)}",
               el("span", f"gone in {one.random_gone} of {len(one.random)}", class_="under"),
               data_label="random pushes"),
        ]  # fmt: skip
        rows.append(el("tr", el("th", verdict, name, place, scope="row"), cells, class_=tone))
    widths = {"pushed inside": 24, "says": 16, "says, pushed": 26, "lead, less (logits)": 17,
              "random pushes of that length": 17}  # fmt: skip
    head = el("tr", [el("th", h, scope="col", style=f"width:{w}%") for h, w in widths.items()])
    caption = el(
        "caption",
        "The reply asked for again with the attribute pushed towards the other value, as far as its trial C4 found "
        "free of side effects, before every reply where it was read so. “Caused” needs another reply, moved further "
        "than by any random push, and a reply that its trial was about or that hangs on the words which moved the "
        "reading; one that stays under a push of less than the whole way shows nothing.",
    )
    return el("table", caption, el("thead", head), el("tbody", rows), class_="fixed stack repairs")


def _beside(found: UserModel) -> Html | None:
    """The text classifier and asking: on this log, and on the held-out logs."""
    if not found.contests and not found.beside:
        return None
    here = {one.attribute: one for one in found.beside}
    rows = []
    for one in found.contests:
        log = here.get(one.attribute)
        asked = "not asked" if isinstance(one.asked, NotRun) else f"{one.asked.hits} of {one.asked.n}"
        cells = [f"{one.inside.hits} of {one.inside.n}", f"{one.text.hits} of {one.text.n}", asked]
        told = _here(log) if log is not None else "–"
        rows.append(el("tr", el("th", given(one.attribute), scope="row"), [el("td", cell) for cell in cells],
                       el("td", given(told))))  # fmt: skip
    names = ("attribute", "read inside: right", "text classifier: right", "asking the model: right", "on this log")
    head = el("tr", [el("th", name, scope="col") for name in names])
    caption = el("caption", "Without looking inside, on the same held-out logs and the same labels.")
    said = [el("p", given(one.sentence)) for one in found.contests]
    reasons = dict.fromkeys(one.asked.reason for one in found.contests if isinstance(one.asked, NotRun))
    said += [el("p", "Not asked: ", given(reason), ".", class_="soft") for reason in reasons]
    table = el("table", caption, el("thead", head), el("tbody", rows), class_="plain")
    return el("div", el("h3", "Beside a text classifier and asking"), said, table)


def _here(one: Beside) -> str:
    text = "no text classifier"
    if isinstance(one.text, str) and isinstance(one.text_share, float):
        text = f"classifier: {one.text} ({number(one.text_share, 2)})"
    asked = f"; asked: {one.asked}" if isinstance(one.asked, str) else ""
    return f"{text}{asked}"

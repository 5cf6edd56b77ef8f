"""The page of a case: one self-contained HTML file, the answer first, every cause with its control beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from veriscope.cases import drawing
from veriscope.cases.case import Case, put
from veriscope.cases.cruxes import Foretold
from veriscope.cases.words import facts, headline, shortened, strongest, untested
from veriscope.errors import NotRun
from veriscope.report.markup import Html, el, given
from veriscope.report.page import NO_REQUESTS
from veriscope.report.text import number

MOST_PAIRS = 6


def write(case: Case, path: str | Path) -> Path:
    """Write the page of a case; the file is replaced only when it is whole."""
    path = Path(path)
    put(path, page(case))
    return path


def page(case: Case) -> str:
    """The whole page as text."""
    first = headline(case)
    sections = [_log, _outside, _flow, _cruxes, _untested]
    body = [el("header", el("h1", given(first)), _facts(case)), [section(case) for section in sections]]
    return framed(first, [el("main", body), _footer(case)])


def framed(title: str, body: Any) -> str:
    """A page that asks nothing of any other machine."""
    style = "".join(
        (files(package) / name).read_text(encoding="utf-8")
        for package, name in (("veriscope.report", "style.css"), ("veriscope.cases", "case.css"))
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=NO_REQUESTS),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html(style)),
    )
    return "<!doctype html>\n" + el("html", head, el("body", body), lang="en") + "\n"


def _facts(case: Case) -> Html:
    return el("dl", [[el("dt", key), el("dd", given(value))] for key, value in facts(case)])


def _log(case: Case) -> Html:
    return el("section", el("h2", "The conversation"), drawing.conversation(case), id="log")


def _outside(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "What in the conversation brought it about")]
    if not case.outside.effects:
        parts.append(el("p", "Nothing stands before the strange words that could be taken out."))
        return el("section", parts, id="outside")
    parts += [drawing.effects(case), _shares(case), _pairs(case), _said(case)]
    return el("section", parts, id="outside")


def _shares(case: Case) -> Html:
    found = case.shapley
    if isinstance(found, NotRun):
        return el("p", "Contributions (Shapley values) were not computed: ", given(found.reason), ".", class_="soft")
    how = "exact" if found.how == "exact" else f"from {found.orders} pairs of drawn orders"
    text = (
        f"Contributions are Shapley values, {how}: what each sentence adds, whatever else is there. Together they make "
        f"{number(found.total)} nats."
    )
    return el("p", text, class_="soft")


def _pairs(case: Case) -> Html | None:
    rows: list[Html] = []
    for pair in case.outside.pairs:
        beyond = case.outside.interaction(pair)
        if pair.above_floor is True and isinstance(beyond, float) and len(rows) < MOST_PAIRS:
            cells = [pair.units[0], pair.units[1], number(pair.nats), number(beyond)]
            rows.append(el("tr", [el("td", cell) for cell in cells]))
    if not rows:
        return None
    head = el("tr", [el("th", word, scope="col") for word in ("taken out", "and", "nats", "beyond their sum")])
    caption = el("caption", "Pairs above the floor: below 0 in the last column, either alone keeps the words up.")
    table = el("table", caption, el("thead", head), el("tbody", rows), class_="plain")
    return el("details", el("summary", "Two at a time"), table)


def _said(case: Case) -> Html | None:
    if not case.outside.continuations:
        return None
    rows = []
    for one in case.outside.continuations:
        name = f"without {', '.join(one.units)}" if one.units else "as it is"
        drawn = [el("span", given(shortened(text, 90)), class_="under") for text in dict.fromkeys(one.sampled)]
        cells = [el("td", given(shortened(one.greedy, 120))), el("td", drawn)]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    head = el("tr", [el("th", word, scope="col") for word in ("the log", "most likely", "drawn at temperature 1")])
    return el(
        "div", el("h3", "What it says instead"), el("table", el("thead", head), el("tbody", rows), class_="stack")
    )


def _flow(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "How it travelled through the network")]
    found = case.flow
    if isinstance(found, NotRun):
        return el("section", parts, el("p", "Not measured: ", given(found.reason), "."), id="flow")
    parts.append(drawing.lanes(case, found))
    best = strongest(case)
    if best is not None and best.units[0] in found.units:
        parts.append(drawing.maps(case, found, best.units[0]))
    if found.heads:
        named = "; ".join(f"block {h.block} head {h.head}, {number(h.times)} times for {h.unit}" for h in found.heads)
        parts.append(
            el("p", f"Heads moved furthest beyond irrelevant edits where the strange words are said: {named}.")
        )
    if found.patches:
        parts.append(_patches(case))
    return el("section", parts, id="flow")


def _patches(case: Case) -> Html:
    assert not isinstance(case.flow, NotRun)
    rows = []
    for one in case.flow.patches:
        share = "within the floor" if isinstance(one.share, NotRun) else number(one.share, 2)
        cells = [
            one.where, f"{one.block}", number(one.nats), share,
            f"{number(one.best_token_nats)} (token {one.best_token})",
        ]  # fmt: skip
        rows.append(el("tr", [el("td", cell) for cell in cells]))
    words = ("stretch", "behind block", "nats", "share of the effect", "best single token, nats")
    head = el("tr", [el("th", word, scope="col") for word in words])
    unit = case.flow.patches[0].unit
    caption = (
        f"The run with {unit} replaced by neutral words of as many tokens, put into the run as it is at one block and "
        "one stretch of tokens: where a patch makes the whole change, the effect passes through there."
    )
    table = el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_="plain")
    return el("details", el("summary", "Stretches of tokens that carry it, beside the best single token"), table)


def _cruxes(case: Case) -> Html:
    parts: list[Html | None] = [el("h2", "Cruxes: the smallest changes that flip the answer")]
    found = case.cruxes
    if isinstance(found, NotRun):
        return el("section", parts, el("p", "Not searched: ", given(found.reason), "."), id="cruxes")
    if not found.found:
        parts.append(el("p", "No set of units that was tried flips the answer."))
        return el("section", parts, id="cruxes")
    tries = f"Of {found.floor[1]} irrelevant edits {found.floor[0]} flip it too." if found.floor[1] else ""
    parts.append(el("p", f"A flip: {found.flips}. {tries}"))
    rows = [_foretold(" + ".join(one.units), "crux", one.test, one.nats) for one in found.found]
    for who, test in found.rivals:
        named = " + ".join(test.units) if isinstance(test, Foretold) else "–"
        rows.append(_foretold(named, RIVALS.get(who, who), test, None))
    words = (
        "units",
        "named by",
        "taken out, nats",
        "flips where all are changed",
        "stays where not",
        "right [interval]",
    )
    head = el("tr", [el("th", word, scope="col") for word in words])
    caption = (
        "Each set on inputs generated for the test, which the search did not see: “right” is the mean of the two "
        "shares, 0.5 for a rule that knows nothing."
    )
    parts.append(el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_="stack"))
    return el("section", parts, id="cruxes")


RIVALS = {"random": "chance", "saliency": "gradient times input", "asked": "asking the model"}


def _foretold(named: str, who: str, test: Foretold | NotRun, nats: float | None) -> Html:
    first = [el("td", who), el("td", number(nats) if nats is not None else "", data_label="nats")]
    if isinstance(test, NotRun):
        cells = [el("td", "not tested: ", given(test.reason), colspan=3, class_="soft")]
    else:
        right = test.accuracy
        score = (
            "not known"
            if isinstance(right, NotRun)
            else f"{number(right, 2)} [{number(test.low, 2)},\u00a0{number(test.high, 2)}]"
        )
        shares = [f"{k} of {n}" if n else "none of these" for k, n in (test.flipped, test.kept)]
        cells = [el("td", shares[0], data_label="flips"), el("td", shares[1], data_label="stays"), el("td", score)]
    return el("tr", el("th", given(named), scope="row"), first, cells)


def _untested(case: Case) -> Html:
    items = untested(case)
    return el("section", el("h2", "Not tested"), el("ul", [el("li", given(text)) for text in items]), id="untested")


def _footer(case: Case) -> Html:
    made = (
        f"{case.log.name}, seed {case.seed}, {number(case.seconds)} s. Model {case.model.name}, weights "
        f"{case.model.hash[:16]}."
    )
    said = "Irrelevant edits pass their own floor 1 time in 20, so of many units some stand above it by chance."
    return el("footer", el("div", el("p", given(made)), el("p", said), class_="line"))

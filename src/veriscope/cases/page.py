"""The page of a case: one self-contained HTML file, the answer first, every cause with its control beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from veriscope.cases import sections
from veriscope.cases.case import Case, put
from veriscope.cases.words import facts, headline, leading
from veriscope.report.markup import Html, el, given
from veriscope.report.page import NO_REQUESTS
from veriscope.report.text import number


def write(case: Case, path: str | Path) -> Path:
    """Write the page of a case; the file is replaced only when it is whole."""
    path = Path(path)
    put(path, page(case))
    return path


def page(case: Case) -> str:
    """The whole page as text."""
    first = headline(case)
    lead = [el("p", given(text), class_="lead") for text in leading(case)]
    order = (
        sections.log, sections.causes, sections.repairs, sections.outside, sections.flow, sections.cruxes,
        sections.rates,
        sections.open_questions,
    )  # fmt: skip
    body = [el("header", el("h1", given(first)), lead, _facts(case)), [section(case) for section in order]]
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


def _footer(case: Case) -> Html:
    made = (
        f"{case.log.name}, seed {case.seed}, {number(case.seconds)} s. Model {case.model.name}, weights "
        f"{case.model.hash[:16]}."
    )
    said = "Irrelevant edits pass their own floor 1 time in 20, so of many units some stand above it by chance."
    return el("footer", el("div", el("p", given(made)), el("p", said), class_="line"))

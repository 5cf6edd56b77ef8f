"""The page of a case: one self-contained HTML file, the answer first, every cause with its control beside it."""

from __future__ import annotations

from pathlib import Path

from veriscope.cases.case import Case, put
from veriscope.report import case_sections as sections
from veriscope.report.case_topics import topics
from veriscope.report.case_user import user
from veriscope.report.case_words import facts, headline, leading
from veriscope.report.markup import Html, el, given
from veriscope.report.page import framed


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
        sections.log, sections.causes, sections.repairs, sections.outside, sections.flow, user, topics,
        sections.cruxes, sections.rates,
        sections.open_questions,
    )  # fmt: skip
    body = [el("header", el("h1", given(first)), lead, _facts(case)), [section(case) for section in order]]
    return framed(first, el("main", body), _footer(case), styles=["case.css"])


def _facts(case: Case) -> Html:
    return el("dl", [[el("dt", key), el("dd", given(value))] for key, value in facts(case)])


def _footer(case: Case) -> Html:
    made = (
        f"{case.log.name}, seed {case.seed}, worked in {max(1, round(case.seconds))} s. Model {case.model.name}, "
        f"weights {case.model.hash[:16]}."
    )
    said = "Irrelevant edits pass their own floor 1 time in 20, so of many units some stand above it by chance."
    return el("footer", el("div", el("p", given(made)), el("p", said), class_="line"))

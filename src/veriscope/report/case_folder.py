"""A folder of case pages: one page and one file of data for each log, and an index over them all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veriscope.cases.case import Case, put
from veriscope.cases.logs import Log
from veriscope.cases.many import Worked
from veriscope.cases.plain import plain
from veriscope.errors import UserError
from veriscope.report.case_page import page
from veriscope.report.case_words import headline, shortened
from veriscope.report.markup import el, given
from veriscope.report.page import framed

ANSWERS = {
    "named": "with a cause named", "indistinguishable": "with two causes that nothing tells apart",
    "unknown": "unknown", "clean": "with nothing wrong found", "not worked": "not worked",
}  # fmt: skip


@dataclass(frozen=True)
class CaseFolder:
    """Where the pages of some logs go.

    Attributes:
        path: The folder; it is made with the first page.
        names: File names without their ends, one for each log, all different.
    """

    path: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, logs: Sequence[Log]) -> CaseFolder:
        """The folder for these logs, each under a name like its own."""
        return cls(path, _names(logs))

    def page(self, number: int) -> Path:
        """File of the page of a log."""
        return self.path / f"{self.names[number]}.html"

    def write(self, number: int, case: Case) -> None:
        """Write the case of a log, as data and as a page."""
        put(self.page(number).with_name(f"{self.names[number]}.json"), json.dumps(plain(case), ensure_ascii=True))
        put(self.page(number), page(case))

    def write_index(self, found: Sequence[Worked]) -> Path:
        """Write the page over all of them."""
        put(self.path / "index.html", index(found, self.names))
        return self.path / "index.html"


def index(found: Sequence[Worked], names: Sequence[str]) -> str:
    """A page with a line for each log."""
    title = f"{len(found)} cases"
    rows = []
    for one, file in zip(found, names, strict=True):
        if isinstance(one.case, UserError):
            name = given(one.log.name)
            cells = [el("td", "not worked: ", given(str(one.case)), colspan=2)]
        else:
            name = el("a", given(one.log.name), href=f"{file}.html")
            cells = [el("td", given(shortened(one.case.strange))), el("td", given(headline(one.case)))]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    head = el("tr", [el("th", word, scope="col") for word in ("log", "strange words", "answer")])
    said = Counter(one.case.diagnosis.word if isinstance(one.case, Case) else "not worked" for one in found)
    told = ", ".join(f"{said[word]} {what}" for word, what in ANSWERS.items() if said[word])
    table = el("table", el("thead", head), el("tbody", rows), class_="stack")
    return framed(title, el("main", el("header", el("h1", title), el("p", f"{told}.")), table), styles=["case.css"])


def _names(logs: Sequence[Log]) -> tuple[str, ...]:
    """File names, all different, of letters that every system takes."""
    out: list[str] = []
    for log in logs:
        stem = re.sub(r"[^\w.-]+", "-", re.sub(r"\.(json|jsonl|eval)\b", "", log.name)).strip("-.")[:80] or "case"
        name, again = stem, 2
        while name.lower() in {"index", *(one.lower() for one in out)}:
            name, again = f"{stem}-{again}", again + 1
        out.append(name)
    return tuple(out)

"""Many logs in one go: a page for each and one of them all; a log that can't be worked does not stop the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from veriscope.cases.case import Case, Options, Plan, begin, expected, finish, put
from veriscope.cases.changes import Changes
from veriscope.cases.logs import Log, Mark, read_logs
from veriscope.cases.models import model_of
from veriscope.cases.page import framed, page
from veriscope.cases.plain import plain
from veriscope.cases.words import headline, shortened
from veriscope.errors import UserError
from veriscope.report.markup import el, given


@dataclass(frozen=True)
class Ready:
    """A log that was begun, or why it could not be."""

    log: Log
    changes: Changes | UserError
    plan: Plan | None = None


@dataclass(frozen=True)
class Worked:
    """What became of a log.

    Attributes:
        page: The file written; None where it failed or none was asked for.
    """

    log: Log
    case: Case | UserError
    page: Path | None = None


def gather(paths: Sequence[Path]) -> tuple[list[Log], list[UserError]]:
    """All logs of files and folders, and what could not be read."""
    logs: list[Log] = []
    failed: list[UserError] = []
    for path in paths:
        try:
            logs += read_logs(path)
        except UserError as error:
            failed.append(error)
    return logs, failed


def prepare(logs: Sequence[Log], model: str | None, strange: Mark | None, options: Options) -> list[Ready]:
    """Open the models and begin every log; those that can't be begun keep their reason."""
    out = []
    for log in logs:
        try:
            changes = begin(log, model_of(log, model), strange, options)
            out.append(Ready(log, changes, expected(changes, options)))
        except UserError as error:
            out.append(Ready(log, error))
    return out


def work_all(
    ready: Sequence[Ready],
    options: Options,
    out: Path | None,
    keep: Path | None,
    told: Callable[[int, str], None],
    done: Callable[[Worked], None] = lambda worked: None,
) -> list[Worked]:
    """Work every log that was begun, and write its page as soon as it is done.

    Args:
        out: Folder of the pages, with `index.html` for several; None writes none.
        keep: Folder of finished parts.
        told: Is given the number of the log and the step that begins.
        done: Is given each as it ends.
    """
    found: list[Worked] = []
    names = _names([one.log for one in ready])
    for number, (one, name) in enumerate(zip(ready, names, strict=True)):
        if isinstance(one.changes, UserError):
            found.append(Worked(one.log, one.changes))
        else:
            try:
                case = finish(one.changes, options, keep=keep, told=partial(told, number))
                found.append(Worked(one.log, case, _written(case, out, name)))
            except UserError as error:
                found.append(Worked(one.log, error))
        done(found[-1])
    if out is not None and len(found) > 1:
        put(out / "index.html", index(found))
    return found


def _written(case: Case, out: Path | None, name: str) -> Path | None:
    if out is None:
        return None
    put(out / f"{name}.json", json.dumps(plain(case), ensure_ascii=True))
    put(out / f"{name}.html", page(case))
    return out / f"{name}.html"


def _names(logs: Sequence[Log]) -> list[str]:
    """File names, all different, of letters that every system takes."""
    out: list[str] = []
    for log in logs:
        stem = re.sub(r"[^\w.-]+", "-", re.sub(r"\.(json|jsonl|eval)\b", "", log.name)).strip("-.")[:80] or "case"
        name, again = stem, 2
        while name.lower() in {"index", *(one.lower() for one in out)}:
            name, again = f"{stem}-{again}", again + 1
        out.append(name)
    return out


def index(found: Sequence[Worked]) -> str:
    """A page with a line for each log."""
    title = f"{len(found)} cases"
    rows = []
    for one in found:
        name = el("a", given(one.log.name), href=one.page.name) if one.page is not None else given(one.log.name)
        if isinstance(one.case, UserError):
            cells = [el("td", "not worked: ", given(str(one.case)), colspan=2)]
        else:
            cells = [el("td", given(shortened(one.case.strange))), el("td", given(headline(one.case)))]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    head = el("tr", [el("th", word, scope="col") for word in ("log", "strange words", "answer")])
    table = el("table", el("thead", head), el("tbody", rows), class_="stack")
    return framed(title, el("main", el("header", el("h1", title)), table))

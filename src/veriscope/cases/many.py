"""Many logs in one go; one that can't be worked does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from veriscope.cases.case import NO_READINGS, NO_TOPICS, Case, Options, Plan, begin, expected, finish
from veriscope.cases.changes import Changes
from veriscope.cases.kept_readings import OtherModel, Readings
from veriscope.cases.kept_topics import Topics, TopicsOfAnother
from veriscope.cases.logs import Log, Mark, read_logs
from veriscope.cases.models import model_of
from veriscope.errors import NotRun, UserError
from veriscope.subjects import Subject


@dataclass(frozen=True)
class Ready:
    """A log that was begun, or why it could not be."""

    log: Log
    changes: Changes | UserError
    plan: Plan | None = None
    readings: Readings | NotRun = NO_READINGS
    topics: Topics | NotRun = NO_TOPICS


@dataclass(frozen=True)
class Worked:
    """What became of a log: its case, or why there is none."""

    log: Log
    case: Case | UserError


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


def with_readings(ready: Sequence[Ready], folder: Path) -> list[Ready]:
    """Give every log the readings of its model; a log of another model is told why it gets none.

    Raises:
        BadReadings: The folder can't be used.
        OtherModel: No log is of the model that the readings were trained on.
    """
    return _given(ready, "readings", lambda subject: Readings.load(folder, subject), OtherModel)


def with_topics(ready: Sequence[Ready], folder: Path) -> list[Ready]:
    """Give every log the readings of topics of its model; a log of another model is told why it gets none.

    Raises:
        BadTopicReadings: The folder can't be used.
        TopicsOfAnother: No log is of the model that they were trained on.
    """
    return _given(ready, "topics", lambda subject: Topics.load(folder, subject), TopicsOfAnother)


def _given(ready: Sequence[Ready], part: str, load: Callable[[Subject], Any], another: type[UserError]) -> list[Ready]:
    """Every log with what was trained on its model; where that is `another`, with the reason."""
    out, fitting, odd = [], 0, None
    for one in ready:
        if isinstance(one.changes, UserError):
            out.append(one)
            continue
        held: dict[str, Any] = {}
        try:
            held[part] = load(one.changes.subject)
            fitting += 1
        except another as error:
            odd = error
            held[part] = NotRun(str(error).rstrip("."))
        out.append(replace(one, **held))
    if odd is not None and not fitting:
        raise odd
    return out


def work_all(
    ready: Sequence[Ready],
    options: Options,
    keep: Path | None,
    told: Callable[[int, str], None],
    done: Callable[[int, Case], None] | None = None,
) -> list[Worked]:
    """Work every log that was begun.

    Args:
        keep: Folder of finished parts.
        told: Is given the number of the log and the step that begins.
        done: Is given the number of the log and its case as soon as that is finished: to write its page.
    """
    found: list[Worked] = []
    for number, one in enumerate(ready):
        if isinstance(one.changes, UserError):
            found.append(Worked(one.log, one.changes))
            continue
        try:
            case = finish(
                one.changes, options, readings=one.readings, topics=one.topics, keep=keep, told=partial(told, number)
            )
        except UserError as error:
            found.append(Worked(one.log, error))
            continue
        found.append(Worked(one.log, case))
        if done is not None:
            done(number, case)
    return found

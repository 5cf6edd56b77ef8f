"""The exam of the cause list: planted incidents through all tests, and rivals on the same logs.

What the tool is told is what a user has: the log, the words marked in it, the model that said them and, where something
is wrong, what the answer should have been. Nobody who reads a sound log can say that, so clean logs come without it
(half of them without marked words too). Because being told may itself be a hint, every log is also judged with nothing
told ("veriscope, nothing told"), and every marked clean one with a user who wrongly expects another answer
("veriscope, user mistaken").
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from veriscope.compute import Processes, Serial, map_resumable
from veriscope.errors import UserError, nearest
from veriscope.exam.code import code_hash
from veriscope.exam.examine import usual_processes
from veriscope.exam.keep import _ends_a_line, home
from veriscope.ledger import versions
from veriscope.ledger.canonical import digest
from veriscope.trials.statistics import clopper_pearson

Told = Literal["right", "nothing", "wrong"]
WHO: dict[Told, str] = {
    "right": "veriscope",
    "nothing": "veriscope, nothing told",
    "wrong": "veriscope, user mistaken",
}
RIVALS = ("log only", "embedding anomaly")
APART = 1_000  # between the seed of an exam and that of the logs that the text classifier learns from
SILENT = ("unknown", "indistinguishable")


@dataclass(frozen=True)
class Task:
    """One planted incident and what the tool is told of it."""

    planted: Any
    told: Told
    key: str


@dataclass(frozen=True)
class Outcome:
    """What was said of one incident.

    Attributes:
        key: What it hangs on: log, model, what was told, code.
        cause: The planted one.
        who: Who said it.
        first: First cause named, else "unknown", "indistinguishable" or "clean".
        causes: All that were said to hold.
        seconds: CPU time, the model's making not counted.
    """

    key: str
    cause: str
    who: str
    first: str
    causes: tuple[str, ...] = ()
    seconds: float = 0.0


def examine(
    *,
    count: int = 30,
    seed: int = 0,
    causes: Sequence[str] = (),
    processes: int | None = None,
    keep: Path | None = None,
    told: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Judge `count` planted incidents of each cause, or read back what was kept; rivals judge the same ones.

    Args:
        count: Incidents of each cause, of "unlisted" and of "clean".
        seed: Of the incidents; multiples of ten plus one are for development.
        causes: Only these; all by default. The text classifier needs them all and is left out then.
        processes: Workers, one thread each; as many as cores by default, 4 at most.
        keep: Folder of kept outcomes; the user's cache by default.
        told: Called with how many are done and how many there are.

    Raises:
        UserError: No such cause is planted.
    """
    from veriscope.zoo import incidents as bed

    every = (*bed.CAUSES, "unlisted", "clean")
    for name in causes:
        if name not in every:
            raise UserError(f"No incident of '{name}' is planted. {nearest(name, every)}Known: {', '.join(every)}")
    planted = [one for name in causes or every for one in bed.incidents(name, count, seed)]
    tasks = [_task(one, way) for one in planted for way in _ways(one)]
    path = (keep or home()) / "cases.jsonl"
    done: dict[Hashable, Outcome] = {one.key: one for one in _kept(path)}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the workers start: they inherit it
    workers = processes or usual_processes()
    found = map_resumable(
        attempt, tasks, key=lambda task: task.key, done=done, store=lambda _, one: _keep(path, one),
        executor=Processes(workers) if workers > 1 else Serial(), progress=told,
    )  # fmt: skip
    return [*found, *_rivals(planted, every, count, seed, fit=not causes)]


def _ways(planted: Any) -> tuple[Told, ...]:
    if planted.cause != "clean":
        return ("right", "nothing") if planted.truth["right"] else ("right",)
    return ("right", "wrong") if "strange" in planted.log else ("right",)


def _task(planted: Any, told: Told) -> Task:
    made = {"log": planted.log, "model": planted.model.plain(), "told": told, "code": _code()}
    return Task(planted, told, digest(made)[:32])


def _code() -> str:
    return code_hash("veriscope.cases.causes.judging", "veriscope.zoo.incidents")


def attempt(task: Task) -> Outcome:
    """One incident through every test of the list. Runs in a worker process."""
    import torch

    from veriscope.cases import Changes, log_of, mark, transcript, units
    from veriscope.cases.causes.judging import judge

    torch.set_num_threads(1)
    planted = task.planted
    subject, began = planted.model.subject(), time.process_time()
    log = log_of(planted.log, "planted")
    seen = transcript(log, mark(log, None, subject), subject)
    found = judge(Changes(seen, units(seen), subject), expected=_expected(task))
    seconds = round(time.process_time() - began, 3)
    return Outcome(task.key, planted.cause, WHO[task.told], found.first, found.causes, seconds)


def _expected(task: Task) -> tuple[str, ...]:
    """What the user says that the answer should have been."""
    planted = task.planted
    if task.told == "wrong":
        return (_mistake(planted),)
    right = planted.truth["right"]
    return (right,) if task.told == "right" and planted.cause != "clean" and right else ()


def _mistake(planted: Any) -> str:
    """The word that the model itself holds for the likeliest beside the right one."""
    subject = planted.model.subject()
    logits = subject.run([planted.prompt], logits="last").logits
    words = (subject.reader.token(int(token)) for token in logits[0].argsort(descending=True)[:20])
    return next(word for word in words if word.isalpha() and word != planted.truth["right"])


def _rivals(planted: Sequence[Any], every: Sequence[str], count: int, seed: int, fit: bool) -> list[Outcome]:
    """The text classifier, trained on as many logs of another seed, and the embedding's anomaly."""
    from veriscope.zoo import incidents as bed
    from veriscope.zoo.incidents.rivals import anomaly_name, log_only

    out = [Outcome("", one.cause, "embedding anomaly", (name := anomaly_name(one)), _named(name)) for one in planted]
    if fit:
        train = [one for name in every if name != "unlisted" for one in bed.incidents(name, count, seed + APART)]
        said = log_only(train).names(planted)
        out += [Outcome("", one.cause, "log only", name, _named(name))
                for one, name in zip(planted, said, strict=True)]  # fmt: skip
    return out


def _named(name: str) -> tuple[str, ...]:
    return () if name in (*SILENT, "clean") else (name,)


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Counts, one row for each who and cause.

    Returns:
        {who, cause, n, first, listed, unknown, wrong, low, high, seconds}. `first`: the planted cause was named first
        (of "clean": nothing wrong was found). `listed`: it was among those named. `unknown`: it said that it does not
        know, which is right for "unlisted" and no false naming for "clean". `wrong`: all else. `low`, `high`: 95%
        interval (Clopper and Pearson) of the share that is right: `first`, of "unlisted" `unknown`, of "clean" all but
        `wrong`.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.who, one.cause), []).append(one)
    return [_row(who, cause, mine) for (who, cause), mine in groups.items()]


def _row(who: str, cause: str, mine: Sequence[Outcome]) -> dict[str, Any]:
    n, first = len(mine), sum(one.first == cause for one in mine)
    listed = sum(cause in one.causes or one.first == cause for one in mine)
    unknown = sum(one.first in SILENT for one in mine)
    wrong = n - first - unknown
    counts = {"who": who, "cause": cause, "n": n, "first": first, "listed": listed, "unknown": unknown, "wrong": wrong}
    low, high = clopper_pearson(right(counts), n, 0.975)
    seconds = round(sum(one.seconds for one in mine) / n, 2)
    return {**counts, "low": round(low, 3), "high": round(high, 3), "seconds": seconds}


def right(row: Mapping[str, Any]) -> int:
    """How many of a row were right: of damage that no entry names "unknown" is, of sound logs naming none."""
    counted = {"unlisted": row["unknown"], "clean": row["n"] - row["wrong"]}
    return int(counted.get(row["cause"], row["first"]))


def confusion(outcomes: Sequence[Outcome], who: str = "veriscope") -> dict[str, dict[str, int]]:
    """What was said first of the incidents of each cause: planted cause to said to count."""
    out: dict[str, Counter[str]] = {}
    for one in outcomes:
        if one.who == who:
            out.setdefault(one.cause, Counter())[one.first] += 1
    return {cause: dict(said.most_common()) for cause, said in out.items()}


def record(path: Path, outcomes: Sequence[Outcome], seed: int, date: str) -> None:
    """Write the result file: rows, confusion matrices, and the seed, list, code and versions that they belong to."""
    from veriscope.cases.causes.catalogue import version

    people = list(dict.fromkeys(one.who for one in outcomes))
    data: Mapping[str, Any] = {
        "version": version(),
        "seed": seed,
        "date": date,
        "code": _code(),
        "versions": versions(),
        "rows": rows(outcomes),
        "confusion": {who: confusion(outcomes, who) for who in people},
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _kept(path: Path) -> list[Outcome]:
    """Kept outcomes; a line that was cut short by a kill is passed over."""
    out = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        out.append(Outcome(**{**row, "causes": tuple(row["causes"])}))
    return out


def _keep(path: Path, outcome: Outcome) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * (file.tell() > 0 and not _ends_a_line(path)) + json.dumps(asdict(outcome)) + "\n")

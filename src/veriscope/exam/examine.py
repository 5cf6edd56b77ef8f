"""Put planted claims through the trials and count the verdicts.

A planting is one claim with the truth about it (see `planting.py`). Each is built, fitted and tried the public way, in
a ledger of its own; its outcome is kept with all its gates, so that a killed exam goes on, and so that counting,
deciding again and drawing curves cost nothing.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from veriscope.compute import Processes, Serial, map_resumable
from veriscope.exam.attempt import Task, attempt
from veriscope.exam.beds import TYPES, plantings
from veriscope.exam.keep import Keep, Outcome, home, key_of
from veriscope.exam.planting import Planting
from veriscope.trials.rates import exam_results

WORDS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "CONDITIONAL", "UNDERDETERMINED", "INVALID")
GRADES = ("F0", "F1", "F2", "F3", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2")
APART = 1_000_003  # between the engine seeds of one claim
MOST_PROCESSES = 4
FLIPPED = 1  # claims of each kind that are tried again under other seeds of the engine: kinds are many


def examine(
    only: str | Sequence[str] = TYPES,
    bed: str = "all",
    *,
    count: int = 60,
    seed: int = 0,
    final: bool = False,
    grade: str = "",
    trap: str = "",
    each_kind: bool = False,
    flips: int = 1,
    processes: int | None = None,
    keep: Path | None = None,
    told: Callable[[int, int], None] | None = None,
    ahead: Callable[[Ahead], None] | None = None,
) -> list[Outcome]:
    """Try `count` planted claims of each grade, or read back what was kept of them.

    Args:
        only: Claim type or types.
        count: Claims of each grade of a type, shared among its kinds; with `each_kind` of every kind.
        bed: A bed of the zoo, "all" of them, or the import path of someone else's.
        final: Final claims: other seeds and sizes than those that the verifier was developed on.
        grade: Only claims of this grade.
        trap: Only kinds with this text in their name.
        flips: Seeds of the engine that the first few claims of each kind are tried under.
        processes: Worker processes, one thread each; 1 works in this one. As many as cores by default, 4 at most.
        keep: Folder of kept outcomes; the user's cache by default.
        told: Called with the number of claims done and that of all, for a progress bar.
        ahead: Called once before any claim is tried, with what there is to do.

    Returns:
        Outcomes in the order of the plantings; those under further engine seeds come behind.

    Raises:
        UserError: No such bed or nothing planted; or a claim that the verifier refuses to try.
        ItemFailed: A trial broke down. What was finished before is kept.
    """
    types = (only,) if isinstance(only, str) else tuple(only)
    planted = plantings(bed, types, count, seed, final, grade, trap, each_kind)
    tasks = tasks_of(planted, flips)
    store, keys = Keep(keep or home()), {t.key for t in tasks}
    done: dict[Hashable, Outcome] = {key: o for kind in types for key, o in store.find(kind, keys).items()}
    workers = processes or usual_processes()
    if ahead is not None:
        ahead(_ahead(tasks, done, workers))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the workers start: they inherit it
    mixed = list(tasks)
    random.Random(0).shuffle(mixed)  # dear and cheap types side by side: the time left is told truly, no worker idles
    found = map_resumable(
        attempt,
        mixed,
        key=lambda task: task.key,
        done=done,
        store=lambda _, outcome: store.add(outcome),
        executor=Processes(workers) if workers > 1 else Serial(),
        progress=told,
    )
    by_key = {task.key: outcome for outcome, task in zip(found, mixed, strict=True)}
    return [_labelled(by_key[task.key], task) for task in tasks]


def usual_processes() -> int:
    """One worker for each core that this process may use, 4 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


@dataclass(frozen=True)
class Ahead:
    """What an exam has to do before it begins; `minutes` is None where a type in it was never timed."""

    claims: int
    kept: int
    processes: int
    minutes: float | None


def _ahead(tasks: Sequence[Task], done: Mapping[Hashable, Outcome], processes: int) -> Ahead:
    """Claims left and their time: by those kept of the type, else by its last exam in the package."""
    left = [t for t in tasks if t.key not in done]
    types = Counter(t.planting.claim_type for t in left)
    each = {kind: _seconds(kind, list(done.values())) for kind in types}
    known = [n * s for kind, n in types.items() if (s := each[kind]) is not None]
    minutes = sum(known) / processes / 60 if len(known) == len(types) else None
    return Ahead(len(left), len(tasks) - len(left), processes, minutes)


def _seconds(claim_type: str, done: Sequence[Outcome]) -> float | None:
    """CPU seconds of one claim of a type, bed and all."""
    mine = [o.whole_seconds for o in done if o.claim_type == claim_type and o.whole_seconds]
    if mine:
        return sum(mine) / len(mine)
    parts = exam_results().get(claim_type, {})
    costs = [parts[which]["cost"] for which in ("final", "dev") if "cost" in parts.get(which, {})]
    return costs[0].get("whole_seconds") or costs[0]["cpu_seconds"] if costs else None


def tasks_of(planted: Sequence[tuple[str, Planting]], flips: int = 1) -> list[Task]:
    """The trials to be run: each planting once, then the first few of each kind under further seeds of the engine."""
    tasks = [_task(bed, planting, 0) for bed, planting in planted]
    met: Counter[Any] = Counter()
    again = []
    for bed, planting in planted:
        kind = (bed, planting.claim_type, planting.truth, planting.grade, planting.trap)
        met[kind] += 1
        if met[kind] <= FLIPPED:
            again += [_task(bed, planting, turn) for turn in range(1, flips)]
    return tasks + again


def _task(bed: str, planting: Planting, turn: int) -> Task:
    engine_seed = int(dict(planting.settings).get("seed", 0)) + APART * turn
    return Task(bed, planting, engine_seed, key_of(bed, planting, engine_seed), rivals=turn == 0)


def _labelled(outcome: Outcome, task: Task) -> Outcome:
    """The outcome under its planting's names of today: a trap may be renamed without being run again."""
    p = task.planting
    return replace(outcome, bed=task.bed, truth=p.truth, grade=p.grade, trap=p.trap, build=p.build, settings=p.settings)


def first_turn(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One outcome a claim: without those under further seeds of the engine."""
    return [o for o in outcomes if o.engine_seed == o.seed]


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Counts of verdicts, one row a kind.

    Returns:
        {type, truth, grade, trap, n, supported, refuted, inconclusive, conditional, underdetermined, invalid, bed,
        seconds}, seconds being the mean CPU time of a trial.
    """
    kinds: dict[Any, list[Outcome]] = {}
    for outcome in first_turn(outcomes):
        kinds.setdefault(outcome.kind, []).append(outcome)
    out = []
    for (bed, claim_type, truth, grade, trap), mine in kinds.items():
        words: Counter[str] = Counter(o.word for o in mine)
        out.append(
            {
                "type": claim_type,
                "truth": truth,
                "grade": grade,
                "trap": trap,
                "n": len(mine),
                **{w.lower(): words.get(w, 0) for w in WORDS},
                "bed": bed,
                "seconds": round(sum(o.cpu_seconds for o in mine) / len(mine), 2),
            }
        )
    return sorted(out, key=lambda r: (r["type"], r["truth"], _rank(r["grade"])))


def _rank(grade: str) -> int:
    return GRADES.index(grade) if grade in GRADES else len(GRADES)

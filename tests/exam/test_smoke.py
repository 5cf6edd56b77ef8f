"""Every run of the tests tries a few claims of each type and bed, and each gate on a claim that it alone holds back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from veriscope.errors import UserError
from veriscope.exam import rows
from veriscope.exam.again import without
from veriscope.exam.attempt import Task, attempt
from veriscope.exam.beds import TYPES, ZOO, plantings
from veriscope.exam.examine import WORDS
from veriscope.exam.pages import shown
from veriscope.exam.planting import Planting
from veriscope.trials.rates import exam_results


def on_file() -> list[dict[str, Any]]:
    """Each deciding gate of the types whose exam is on file: what the mutation table says of it."""
    return [m for *_, part in shown(exam_results()) for m in part.get("mutations", ())]


# --- a few claims of each type

SMOKE_SEED = 51
TRUTHS = 2  # beds that a true claim is taken from
DEAR = ("bridge",)  # each claim plants into a trained model first; tests/zoo/test_bridge*.py hold its truths
CLEAR = ("T0", "T1x4")  # true beyond doubt, the first that a bed plants of a type


def few(claim_type: str) -> list[tuple[str, Planting]]:
    """The first false claim, of the highest grade that counts, of each bed that no gate's claim is tried of below.

    And of the first few beds a clearly true one.
    """
    below = {m["witness"]["bed"] for m in on_file() if m["claim_type"] == claim_type and m["witness"]}
    chosen: list[tuple[str, Planting]] = []
    for name in ZOO:
        if name in DEAR:
            continue
        try:
            every = [p for _, p in plantings(name, (claim_type,), 1, SMOKE_SEED)]
        except UserError:
            continue  # this bed plants nothing of the type
        false = sorted((p for p in every if p.grade in ("F0", "F1", "F2")), key=lambda p: p.grade, reverse=True)
        true = sorted((p for p in every if p.grade in CLEAR), key=lambda p: CLEAR.index(p.grade))
        here = true[: sum(p.truth for _, p in chosen) < TRUTHS]
        chosen += [(name, p) for p in (*false[: name not in below], *here)]
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("claim_type", TYPES)
def test_smoke_no_false_claim_is_supported_and_half_of_the_clearly_true_ones_are_at_least(claim_type: str) -> None:
    tasks = [
        Task(b, p, dict(p.settings)["seed"], f"key {i}", rivals=i == 0) for i, (b, p) in enumerate(few(claim_type))
    ]

    found = [attempt(task) for task in tasks]

    told = {(o.bed, o.grade, o.trap): o.word for o in found}
    assert not any(o.word == "SUPPORTED" for o in found if not o.truth), told
    true = [o.word for o in found if o.truth]
    assert 2 * true.count("SUPPORTED") >= len(true) >= 2, told
    assert found[0].rivals and all(o.gates and o.whole_seconds >= o.cpu_seconds for o in found)
    for row in json.loads(json.dumps(rows(found))):
        assert set(row) == {"type", "truth", "grade", "trap", "n", *map(str.lower, WORDS), "bed", "seconds"}
        assert row["type"] == claim_type and row["n"] == sum(row[w.lower()] for w in WORDS) == 1


# --- a gate that lets everything pass


@pytest.mark.slow
@pytest.mark.parametrize("held", [pytest.param(m, id=f"{m['claim_type']} {m['gate']}") for m in on_file()])
def test_a_gate_forced_to_pass_changes_the_word_that_it_alone_decides(held: dict[str, Any]) -> None:
    """SUPPORTED without a gate that holds a claim back, REFUTED without a check that chooses among the other words."""
    if not held["witness"]:
        pytest.skip(f"{held['claim_type']} {held['gate']} decided no planted claim: tests/trials has one of its own")
    seen = held["witness"]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in seen["settings"].items()}  # JSON has no tuples
    planting = Planting(held["claim_type"], False, seen["grade"], seen["trap"], seen["build"], tuple(settings.items()))

    found = attempt(Task(seen["bed"], planting, seen["settings"]["seed"], "key", rivals=False))

    again = "gates were changed since: run the development exam again"
    assert found.word != "SUPPORTED", f"{held['gate']} no longer refuses '{seen['trap']}'"
    assert without(found, held["gate"]) == ("SUPPORTED" if held["trap"] else "REFUTED"), again

"""The exam on a few small plantings: true is told from false, and every verdict is counted."""

from __future__ import annotations

import functools
import io

import pytest
from rich.console import Console

from veriscope.claims.represents import BATTERY, Represents
from veriscope.exam import examine, table
from veriscope.exam.examine import WORDS
from veriscope.zoo import planted


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of planting on a bed of few rows, without the slow gates."""
    kinds = (
        (False, "F0", "null label", {"variable": "null"}),
        (True, "T1x4", "at four times the smallest effect", {"variable": planted.USED, "bits": 0.3}),
    )
    monkeypatch.setattr(planted, "C1_KINDS", kinds)
    monkeypatch.setattr(planted, "Planted", functools.partial(planted.Planted, rows=1_500))
    monkeypatch.setattr(Represents, "battery", tuple(s for s in BATTERY if s.gate not in ("g4", "r9")))


@pytest.mark.usefixtures("small")
def test_a_small_exam_tells_true_from_false() -> None:
    false, true = examine("C1", "planted", count=1, processes=1)

    assert (false["truth"], false["supported"], true["truth"], true["supported"]) == (False, 0, True, 1)
    for row in (false, true):
        assert row["type"] == "C1" and row["n"] == sum(row[word.lower()] for word in WORDS) == 1


def test_the_table_states_the_bound_that_matters_for_each_truth() -> None:
    counts = {"type": "C1", "n": 60, "seconds": 1.0, **{word.lower(): 0 for word in WORDS}}
    rows = [
        {**counts, "truth": False, "grade": "F0", "trap": "null label", "refuted": 60},
        {**counts, "truth": True, "grade": "T2", "trap": "unused", "supported": 60},
    ]
    out = io.StringIO()

    Console(file=out, width=200).print(table(rows))

    assert "<= 4.9% supported" in out.getvalue() and ">= 95% supported" in out.getvalue()


def test_every_planting_has_a_seed_of_its_own() -> None:
    plantings = planted.plantings("C1", 3, seed=1)

    kinds = [(p.grade, p.trap) for p in plantings]
    assert len(plantings) == 3 * len(planted.C1_KINDS) and all(kinds.count(k) == 3 for k in set(kinds))
    assert [dict(p.settings)["seed"] for p in plantings[:3]] == [100_000, 100_001, 100_002]

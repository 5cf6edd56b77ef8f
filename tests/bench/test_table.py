"""The README's table is that of results.json, and no row is judged in our favour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import table
from benchmarks.run import README, RESULTS
from benchmarks.workloads import WORKLOADS, Goal

W2 = WORKLOADS["W2"]


def row(contestant: str, kind: str, ratio: float, agreement: float | None = 1e-6, **more: Any) -> dict[str, Any]:
    return {"workload": "W2", "contestant": contestant, "kind": kind, "threads": 1, "ratio_to_bare": ratio,
            "peak_mib": None, "agreement": agreement, **more}  # fmt: skip


OTHERS = [
    row("bare forward", "bare", 1.0, None),
    row("forward with a hook", "tuned", 1.02, None),
    row("one batch a layer", "tuned", 0.25),
    row("nnsight", "peer", 1.0),
    row("pyvene", "peer", 2.0),
]


def test_the_readme_shows_what_was_measured() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))

    assert table.between(README) == table.table(results)


@pytest.mark.parametrize(
    "ours, said",
    [
        (row("veriscope", "ours", 0.039), "met"),
        (row("veriscope", "ours", 0.078), "missed (peer 1/12.8, by hand 1/3.2)"),
        (row("veriscope", "ours", 0.045), "missed (peer 1/22.2)"),
    ],
)
def test_a_goal_is_met_only_where_every_bound_holds(ours: dict[str, Any], said: str) -> None:
    assert table.verdict(W2, [*OTHERS, ours]) == said


def test_a_peer_that_its_own_threads_slow_down_is_taken_at_its_one_thread_time() -> None:
    w5 = WORKLOADS["W5"]
    peer = {"workload": "W5", "contestant": w5.base, "kind": "peer", "peak_mib": None, "agreement": None}
    one, four = ({**peer, "threads": t, "seconds": s, "ratio_to_bare": 1.0} for t, s in ((1, 4.0), (4, 100.0)))
    ours = {**row("veriscope", "ours", 0.02, agreement=-1e-5), "workload": "W5", "threads": 4, "seconds": 2.0}

    rows = table.unhindered([four, ours], [one, four, ours], w5)

    assert table.verdict(w5, [four, ours]) == "met"
    assert table.verdict(w5, rows) == "missed (peer 0.50)"
    assert table.unhindered([one], [one, four], w5) == [one]


@pytest.mark.parametrize(
    "ours",
    [
        row("veriscope", "ours", 0.01, agreement=1e-2),
        row("veriscope", "ours", 0.01, agreement=None),
        {**row("veriscope", "ours", 0.01), "not_measured": "broken"},
    ],
)
def test_fast_and_wrong_meets_nothing(ours: dict[str, Any]) -> None:
    assert table.verdict(W2, [*OTHERS, ours]) == ""


def test_a_peer_that_is_wrong_is_not_the_fastest() -> None:
    rows = [*OTHERS, row("broken peer", "peer", 0.01, agreement=0.5)]

    assert table.best(rows, "peer", W2) == row("nnsight", "peer", 1.0)


def test_a_faster_way_by_hand_is_shown_beside_the_one_of_the_goal() -> None:
    rows = [*OTHERS, row("one batch a layer, last logits only", "tuned", 0.17), row("veriscope", "ours", 0.039)]

    shown = table.line(W2, rows)

    assert "one batch a layer 0.25; one batch a layer, last logits only 0.17" in shown
    assert "nnsight 1.00" in shown and "1/25.6" in shown


def test_without_peers_a_goal_is_not_called_met() -> None:
    said = table.verdict(W2, [*OTHERS[:3], row("veriscope", "ours", 0.039)])

    assert said == "not judged: peer not measured"


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n", encoding="utf-8")

    table.write(readme, "new")

    assert readme.read_text(encoding="utf-8") == f"above\n{table.BEGIN}\nnew\n{table.END}\nbelow\n"
    assert table.between(readme) == "new"


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no place", encoding="utf-8")

    with pytest.raises(ValueError, match="benchmarks: begin"):
        table.write(tmp_path / "README.md", "new")


def test_every_bound_is_a_share() -> None:
    goals = [work.goal for work in WORKLOADS.values()]
    bounds = [bound for goal in goals for bound in (goal.peer, goal.tuned, goal.memory) if bound]

    assert all(0 < table.value(bound) < 1 for bound in bounds) and len(bounds) > len(goals)
    assert table.value("1/1.5") == pytest.approx(2 / 3) and table.value("0.70") == 0.7


def test_a_goal_in_words() -> None:
    assert table.promise(Goal("0.75", against="TransformerLens")) == "0.75 of TransformerLens"
    assert table.promise(Goal("1/25", "1/5", ("x",))) == "1/25 of the peer, 1/5 of by hand"

"""Rounds, shares, failures and agreement, with workers that only pretend to work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.contest import Entry, agreement, contest, rows
from benchmarks.crew import Failed
from benchmarks.environments import OURS, PEERS, PLAIN
from benchmarks.worker import peak_mib
from benchmarks.workloads import WORKLOADS, Goal, Workload
from safetensors.torch import save_file
from torch import Tensor

NNSIGHT = next(peer for peer in PEERS if peer.name == "nnsight")


class Pretend:
    """A worker whose ways take `seconds_each` a cell and give each cell's number plus `off`."""

    def __init__(self, log: list[str], ways: dict[str, tuple[str, str]], seconds_each: float, off: float = 0.0) -> None:
        self.log, self.ways, self.seconds_each, self.off = log, ways, seconds_each, off

    def ask(self, **question: Any) -> dict[str, Any]:
        if "ways" in question:
            return {"ways": {name: list(way) for name, way in self.ways.items()}}
        self.log.append(question["way"])
        if question.get("peak"):
            return {"peak_mib": 7.0}
        cells = question["cells"]
        if question.get("out"):
            shown = torch.tensor(cells)[:, None].float().expand(-1, 2) + self.off
            save_file({"out": shown.contiguous()}, question["out"])
        took = self.seconds_each * len(cells)
        return {"seconds": took, "cpu": took, **({"out": question["out"]} if question.get("out") else {})}


class PretendCrew(dict):
    threads = 1

    def __getitem__(self, who: Any) -> Any:
        found = super().__getitem__(who.name)
        if isinstance(found, str):
            raise Failed(found)
        return found


def crew(log: list[str], nnsight: Any = None) -> Any:
    plain = Pretend(log, {"bare forward": ("bare", "loop"), "forward with a hook": ("tuned", "loop")}, 2.0)
    ours = Pretend(log, {"veriscope": ("ours", "all")}, 0.1, off=2**-17)
    peer = nnsight or Pretend(log, {"nnsight": ("peer", "loop")}, 3.0)
    return PretendCrew({"transformers": plain, "veriscope": ours, "nnsight": peer})


def run(log: list[str], nnsight: Any = None, rounds: int = 2) -> dict[str, dict[str, Any]]:
    found = contest(WORKLOADS["W2"], crew(log, nnsight), [PLAIN, OURS, NNSIGHT], rounds, peak=True)
    return {row["contestant"]: row for row in found}


def test_contestants_take_turns_within_each_round() -> None:
    log: list[str] = []

    run(log)

    turn = ["bare forward", "forward with a hook", "veriscope", "nnsight"]
    assert log == turn * 4  # warm-up, two rounds, memory


def test_times_are_scaled_to_all_cells_and_taken_to_the_bare_forward() -> None:
    found = run([])

    assert found["bare forward"]["seconds"] == 360.0 and found["bare forward"]["share"] == "10 of 180"
    assert found["nnsight"]["ratio_to_bare"] == 1.5
    assert found["veriscope"]["ratio_to_bare"] == 0.05 and found["veriscope"]["share"] == "180 of 180"
    assert found["veriscope"]["agreement"] == 2**-17
    assert found["veriscope"]["peak_mib"] == 7.0 and found["bare forward"]["agreement"] is None


def test_a_peer_that_is_missing_says_why_and_the_rest_goes_on() -> None:
    found = run([], nnsight="pip install failed: no such version")

    assert found["nnsight"]["not_measured"] == "pip install failed: no such version"
    assert "ratio_to_bare" not in found["nnsight"] and found["veriscope"]["ratio_to_bare"] == 0.05


def test_a_contestant_that_breaks_in_a_round_is_not_measured() -> None:
    class Breaks(Pretend):
        def ask(self, **question: Any) -> dict[str, Any]:
            if question.get("out"):
                raise Failed("RuntimeError: no memory")
            return super().ask(**question)

    found = run([], nnsight=Breaks([], {"nnsight": ("peer", "loop")}, 3.0))

    assert found["nnsight"]["not_measured"] == "RuntimeError: no memory"


def entry(name: str, cells: list[int], shown: Tensor) -> Entry:
    return Entry(name, "peer", cells=cells, seconds=[1.0], cpu=[1.0], shown=shown)


def test_cells_are_compared_with_the_same_cells() -> None:
    work = WORKLOADS["W2"]
    reference = entry("forward with a hook", [3, 9], torch.tensor([[3.0], [9.0]]))
    every = entry("x", [0, 3, 6, 9], torch.tensor([[0.0], [3.0], [6.0], [9.5]]))

    assert agreement(work, every, reference) == 0.5
    assert agreement(work, reference, reference) is None


@pytest.mark.parametrize("lower, sign", [(0.9, -1), (1.1, 1)])
def test_an_objective_is_compared_by_its_excess(lower: float, sign: int) -> None:
    work = WORKLOADS["W5"]
    reference, other = (entry(n, [0], torch.tensor([[v, 1.0]])) for n, v in (("scikit-learn", 1.0), ("x", lower)))

    found = agreement(work, other, reference)

    assert found == pytest.approx(0.1 if sign > 0 else 0.0)  # the worst of both folds


def test_a_row_says_how_far_the_reference_varies() -> None:
    reference = entry("forward with a hook", [0, 1], torch.tensor([[1.0], [4.0]]))

    (row,) = rows(WORKLOADS["W2"], 1, [reference])

    assert row["effect"] == 3.0 and row["ratio_to_bare"] is None  # no bare forward took part


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_a_share_of_the_cells_is_taken_from_their_middle(count: int) -> None:
    work = Workload("x", "", 20, Goal("1/2"), {"loop": (count, count)})

    cells = work.cells_of("loop", 1)

    assert len(set(cells)) == count and abs(sum(cells) / count - 9.5) <= 0.5
    assert work.cells_of("all", 1) == list(range(20))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("work", WORKLOADS.values(), ids=lambda work: work.name)
def test_any_two_shares_have_cells_to_compare(work: Workload, threads: int) -> None:
    loop = set(work.cells_of("loop", threads))

    for share in work.shares:
        assert loop & set(work.cells_of(share, threads)), share


def test_a_share_of_layers_is_made_of_whole_layers() -> None:
    cells = WORKLOADS["W2"].cells_of("layers", 1)

    assert {cell // 15: cells.count(cell) for cell in cells} == {2: 1, 6: 1, 10: 1} and len(cells) == 45


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can't be set back on this system")
def test_peak_memory_is_that_of_the_work() -> None:
    before = torch.ones(64 * 2**18)  # 64 MiB that were there before

    small, large = peak_mib(lambda: None), peak_mib(lambda: torch.ones(40 * 2**18).sum())

    if small is None or large is None:
        pytest.skip("this process may not clear its own peak")
    assert small < 8 and 36 < large < 60 and before[0] == 1

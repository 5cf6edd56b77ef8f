"""Executors give the same results wherever they run, and say which item failed; finished work is never done twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Hashable
from pathlib import Path

import pytest

from veriscope.compute import Executor, ItemFailed, Processes, Serial, cores, map_resumable
from veriscope.errors import UnknownSite, UserError

EXECUTORS = [Serial(), Processes(2)]


def halve(number: int) -> int:
    """Here at the top, so that another process can import it."""
    if number % 2:
        raise ZeroDivisionError(f"{number} is odd")
    return number // 2


def find_site(number: int) -> int:
    raise UnknownSite("blocks.9", "toy", ["blocks.0", "blocks.1"])


def die(number: int) -> int:
    os._exit(3)


@pytest.mark.parametrize("executor", EXECUTORS, ids=repr)
def test_results_come_in_the_order_of_the_items(executor: Executor) -> None:
    items = [40, 2, 2, 0, 18]

    assert executor.map(halve, items) == [20, 1, 1, 0, 9]
    assert executor.map(halve, []) == []
    assert isinstance(executor, Executor)


@pytest.mark.parametrize("executor", EXECUTORS, ids=repr)
def test_a_failure_names_its_item_and_keeps_its_traceback(executor: Executor) -> None:
    with pytest.raises(ItemFailed, match=r"item 2 \(7\) failed with ZeroDivisionError: 7 is odd") as caught:
        executor.map(halve, [2, 4, 7])

    assert (caught.value.index, caught.value.item, caught.value.kind) == (2, 7, "ZeroDivisionError")
    assert "in halve" in caught.value.trace


@pytest.mark.parametrize("executor", EXECUTORS, ids=repr)
def test_what_a_user_can_mend_stays_so(executor: Executor) -> None:
    """`UnknownSite` has arguments of its own, which an exception pickled as it is would lose."""
    with pytest.raises(UserError, match=r"Did you mean 'blocks.1'.*at item 0: 5"):
        executor.map(find_site, [5])


def test_a_process_that_dies_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(ItemFailed, match="BrokenProcessPool"):
        Processes(1).map(die, [1])


def test_a_function_that_cannot_travel_is_refused_before_anything_starts() -> None:
    with pytest.raises(TypeError, match="define it at the top of a module"):
        Processes(2).map(lambda x: x, [1])


@pytest.mark.parametrize("executor", EXECUTORS, ids=repr)
def test_only_what_is_not_done_is_computed_and_each_result_is_stored(executor: Executor) -> None:
    stored: dict[Hashable, int] = {}
    steps: list[tuple[int, int]] = []

    results = map_resumable(
        halve,
        [2, 4, 6, 4],
        key=str,
        done={"2": 100},
        store=stored.__setitem__,
        executor=executor,
        progress=lambda finished, total: steps.append((finished, total)),
    )

    assert results == [100, 2, 3, 2]
    assert stored == {"4": 2, "6": 3} and steps == [(1, 3), (2, 3), (3, 3)]


def test_what_was_finished_before_a_failure_is_kept_and_taken_up_again() -> None:
    stored: dict[Hashable, int] = {}
    with pytest.raises(ItemFailed, match="item 1"):
        map_resumable(halve, [2, 3, 4], key=str, done=stored, store=stored.__setitem__)
    assert stored == {"2": 1}

    calls: list[int] = []
    results = map_resumable(
        lambda n: calls.append(n) or n, [2, 3, 4], key=str, done=dict(stored), store=stored.__setitem__
    )

    assert calls == [3, 4] and results == [1, 3, 4]


def test_a_killed_run_resumes_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        from veriscope.compute import map_resumable
        from veriscope.ledger import Ledger

        ledger = Ledger(sys.argv[1])
        done = {row.body["gate"]: row.body["value"] for row in ledger.rows("evidence")}

        def work(gate):
            if gate == 3 and not done:
                os.kill(os.getpid(), 9)
            print("worked", gate, flush=True)
            return gate * 10

        def store(gate, value):
            ledger.append("evidence", {"gate": gate, "value": value})

        print(map_resumable(work, range(5), key=lambda g: g, done=done, store=store))
        """)
    )
    command = [sys.executable, str(script), str(tmp_path / "ledger.sqlite")]

    first = subprocess.run(command, capture_output=True, text=True)
    second = subprocess.run(command, capture_output=True, text=True)

    assert first.returncode == -9 and first.stdout.split() == ["worked", "0", "worked", "1", "worked", "2"]
    assert second.stdout == "worked 3\nworked 4\n[0, 10, 20, 30, 40]\n"


def test_cores_are_at_least_one() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a worker lives is read from /proc")
def test_workers_end_with_the_process_that_began_them(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent("""\
        import os, sys, time
        from veriscope.compute import Processes

        def work(place):
            open(os.path.join(sys.argv[1], f"{os.getpid()}.pid"), "w").close()
            if len([n for n in os.listdir(sys.argv[1]) if n.endswith(".pid")]) == 2:
                os.kill(os.getppid(), 9)
            time.sleep(60)

        if __name__ == "__main__":
            Processes(2).map(work, [0, 1])
        """)
    )

    killed = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, timeout=60)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)

    assert killed.returncode == -9 and len(workers) == 2
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

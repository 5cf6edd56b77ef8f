"""One workload at one number of threads: every contestant in turn, round after round, to rows."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.crew import Crew, Failed, Worker
from benchmarks.environments import Contender
from benchmarks.workloads import Workload

Row = dict[str, Any]


@dataclass
class Entry:
    """A contestant in a workload, and what was measured of it.

    Attributes:
        cells: What it runs.
        seconds, cpu: Of each round, scaled up to all cells.
        shown: Its outcome on its cells.
        failed: Why it is not measured; empty if it is.
    """

    name: str
    kind: str
    worker: Worker | None = None
    cells: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    shown: Tensor | None = None
    failed: str = ""

    def ask(self, work: Workload, cells: list[int], **more: Any) -> Row:
        """One run; a failure is kept and answered with nothing."""
        assert self.worker is not None
        try:
            return self.worker.ask(do=work.name, way=self.name, cells=cells, **more)
        except Failed as error:
            self.failed = str(error)
            return {}


def contest(work: Workload, crew: Crew, who: Sequence[Contender], rounds: int, peak: bool) -> list[Row]:
    """Time a workload.

    Args:
        work: What is done.
        crew: The workers.
        who: Whose contestants take part.
        rounds: Interleaved: each contestant runs once in every round.
        peak: Whether peak memory is measured as well, in a pass of its own, over all texts in W1.

    Returns:
        A row for each contestant, see `rows`.
    """
    entries = enter(work, crew, who)
    for entry in _still(entries):
        entry.ask(work, entry.cells[: max(1, len(entry.cells) // 8)])  # warm up
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for entry in _still(entries):
                _time(entry, work, Path(folder) / "out.safetensors" if number == 0 else None)
    if peak:
        for entry in _still(entries):
            cells = list(range(work.cells)) if work.name.startswith("W1") else entry.cells
            entry.peak_mib = entry.ask(work, cells, peak=True).get("peak_mib")
    for entry in entries:
        _tell(entry)
    return rows(work, crew.threads, entries)


def enter(work: Workload, crew: Crew, who: Sequence[Contender]) -> list[Entry]:
    """The contestants; one that can't take part has its reason."""
    entries = []
    for one in who:
        if work.name not in one.takes:
            continue
        try:
            worker = crew[one]
            for name, (kind, share) in worker.ask(ways=work.name)["ways"].items():
                entries.append(Entry(name, kind, worker, work.cells_of(share, crew.threads)))
        except Failed as error:
            entries.append(Entry(one.name, "ours" if one.name == "veriscope" else "peer", failed=str(error)))
    return entries


def _still(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if not entry.failed]


def _time(entry: Entry, work: Workload, out: Path | None) -> None:
    answer = entry.ask(work, entry.cells, out=None if out is None else str(out))
    if entry.failed:
        return
    scale = work.cells / len(entry.cells)
    entry.seconds.append(answer["seconds"] * scale)
    entry.cpu.append(answer["cpu"] * scale)
    if out is not None and "out" in answer:
        entry.shown = load_file(out)["out"].clone()


def _tell(entry: Entry) -> None:
    if entry.failed:
        print(f"    {entry.name:48} not measured: {entry.failed}", flush=True)
        return
    memory = "" if entry.peak_mib is None else f"{entry.peak_mib:8.0f} MiB"
    print(f"    {entry.name:48} {statistics.median(entry.seconds):9.3f} s {memory}", flush=True)


def rows(work: Workload, threads: int, entries: Sequence[Entry]) -> list[Row]:
    """What is written to results.json.

    Returns:
        {workload, contestant, kind, threads, seconds, ratio_to_bare, ratio_cpu, spread, share, peak_mib, agreement,
        effect} of each. One that failed has `not_measured` in place of the numbers. `effect` is how far the reference
        varies over its cells.
    """
    base = next((e for e in entries if e.name == work.base and not e.failed), None)
    reference = next((e for e in entries if e.name == work.reference and e.shown is not None), None)
    out = []
    for entry in entries:
        row: Row = {"workload": work.name, "contestant": entry.name, "kind": entry.kind, "threads": threads}
        if entry.failed:
            out.append({**row, "not_measured": entry.failed})
            continue
        seconds, cpu = statistics.median(entry.seconds), statistics.median(entry.cpu)
        out.append({
            **row,
            "seconds": round(seconds, 4),
            "ratio_to_bare": None if base is None else round(seconds / statistics.median(base.seconds), 4),
            "ratio_cpu": None if base is None else round(cpu / statistics.median(base.cpu), 4),
            "spread": round(max(entry.seconds) / min(entry.seconds), 3),
            "share": f"{len(entry.cells)} of {work.cells}",
            "peak_mib": entry.peak_mib,
            "agreement": agreement(work, entry, reference),
            "effect": None if reference is None else varies(work, reference),
        })  # fmt: skip
    return out


def agreement(work: Workload, entry: Entry, reference: Entry | None) -> float | None:
    """Largest difference from the reference on the cells that both ran.

    None for the reference itself, for bare forward passes (which edit nothing) and where there is no outcome.

    Where objectives are compared: the largest relative excess over the reference's, negative where it is lower.
    """
    if (
        reference is None
        or reference.shown is None
        or entry.shown is None
        or entry is reference
        or entry.kind == "bare"
    ):
        return None
    mine, its = entry.shown.double(), reference.shown.double()
    if work.compare == "whole":
        return float((mine - its).abs().max())
    both = [cell for cell in entry.cells if cell in set(reference.cells)]
    if not both:
        return None
    mine = mine[[entry.cells.index(cell) for cell in both]]
    its = its[[reference.cells.index(cell) for cell in both]]
    if work.compare == "objective":
        return float(((mine - its) / its).max())
    return float((mine - its).abs().max())


def varies(work: Workload, reference: Entry) -> float | None:
    """How far outcomes lie apart over cells, at most: an agreement says little if it is not far below this."""
    if work.compare == "objective" or reference.shown is None:
        return None
    over = reference.shown.flatten(0, -2) if work.compare == "whole" else reference.shown
    return float((over.amax(0) - over.amin(0)).max())

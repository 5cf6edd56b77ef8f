"""`make bench`: every workload, its contestants in turn, medians of interleaved rounds, written to results.json."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")


def contest(name: str, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Rows {workload, contestant, threads, ratio_to_bare, agreement, ...} of one workload.

    The agreement is the largest difference from the forward pass with a hook, in logits, on the cells both have run.
    """
    import torch

    from benchmarks.workloads import ALL

    torch.set_num_threads(threads)
    work = ALL[name]()
    cells = {c.name: list(range(0, work.cells, c.every)) for c in work.contestants}
    for one in work.contestants:
        one.run(cells[one.name][:2])  # warm up
    seconds: dict[str, list[float]] = {one.name: [] for one in work.contestants}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for one in work.contestants:
            begun = time.perf_counter()
            found[one.name] = one.run(cells[one.name])
            seconds[one.name].append((time.perf_counter() - begun) * work.cells / len(cells[one.name]))
    median = {who: statistics.median(times) for who, times in seconds.items()}
    return [
        {
            "workload": work.name,
            "what": work.what,
            "contestant": one.name,
            "threads": threads,
            "seconds": round(median[one.name], 3),
            "ratio_to_bare": round(median[one.name] / median["bare forward"], 4),
            "spread": round(max(seconds[one.name]) / min(seconds[one.name]), 2),
            "agreement": _agreement(found, cells, one.name),
            "process_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        for one in work.contestants
    ]


def _agreement(found: dict[str, Any], cells: dict[str, list[int]], name: str) -> float | None:
    other = next((who for who in found if who not in ("bare forward", name) and found[who] is not None), None)
    if other is None and found["bare forward"] is not None and name != "bare forward":
        other = "bare forward"
    if other is None or found[name] is None or name == "bare forward":
        return None
    both = [i for i in cells[name] if i in set(cells[other])]
    mine = found[name][[cells[name].index(i) for i in both]] if len(cells[name]) > 1 else found[name]
    its = found[other][[cells[other].index(i) for i in both]] if len(cells[other]) > 1 else found[other]
    return float((mine - its).abs().max())


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| workload | contestant | threads | to bare forwards | agreement |", "|---|---|---|---|---|"]
    for row in rows:
        agrees = "" if row["agreement"] is None else f"{row['agreement']:.0e}"
        what = f"{row['workload']}: {row['what']}"
        lines.append(f"| {what} | {row['contestant']} | {row['threads']} | {row['ratio_to_bare']:.3f} | {agrees} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="workloads, such as W2 'W8 last'; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(asked.threads)  # before anything that brings a BLAS is imported
    from benchmarks.workloads import ALL
    from veriscope.ledger import versions

    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    for name in asked.only or ALL:
        rows = contest(name, asked.rounds, asked.threads)
        print(table(rows), flush=True)
        mine = {(row["workload"], row["threads"]) for row in rows}
        kept["rows"] = [row for row in kept["rows"] if (row["workload"], row["threads"]) not in mine] + rows
        kept |= {"date": date.today().isoformat(), "versions": versions(), "cores": os.cpu_count()}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

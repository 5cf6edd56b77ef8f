"""`make bench`: every workload beside bare forward passes and the peers, in one run, to results.json and the README."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.environments import FOLDER, NOT_YET, OURS, PEERS, PLAIN
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).parents[1] / "README.md"
STARTING_S = 60  # workers, for each number of threads


def main(given: list[str] | None = None) -> None:
    """Run what is asked for and keep the result, or print the table of what is kept."""
    asked = _parse(given)
    if asked.table:
        from benchmarks.table import table, write

        text = table(json.loads(asked.out.read_text(encoding="utf-8")))
        print(text)
        if asked.write:
            write(README, text)
        return
    run(asked)


def run(asked: argparse.Namespace) -> None:
    """Every workload at every number of threads; what is done is written down at once."""
    from benchmarks.contest import contest
    from benchmarks.crew import crew
    from benchmarks.inputs import write

    who = [PLAIN, OURS, *(peer for peer in PEERS if asked.peers is None or peer.name.lower() in asked.peers)]
    chosen = [work for name, work in WORKLOADS.items() if asked.only is None or name in asked.only]
    print(f"About {expected_minutes(asked.only, asked.threads, asked.rounds):.0f} minutes, environments not counted.")
    kept = _begin(asked)
    inputs = write(FOLDER / "inputs")
    for threads in asked.threads:
        with crew(inputs.folder, threads) as workers:
            for work in chosen:
                begun = time.monotonic()
                print(f"{work.name}, {threads} thread{'s' * (threads > 1)}: {work.what}", flush=True)
                rows = contest(work, workers, who, asked.rounds, peak=threads == max(asked.threads))
                print(f"    ({time.monotonic() - begun:.0f} s)", flush=True)
                kept["rows"] = [
                    row for row in kept["rows"] if (row["workload"], row["threads"]) != (work.name, threads)
                ] + rows
                kept["versions"] |= workers.versions()
                asked.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def expected_minutes(only: list[str] | None, threads: list[int], rounds: int) -> float:
    """A rough guess, for a quiet machine."""
    each = sum(work.seconds for name, work in WORKLOADS.items() if only is None or name in only)
    passes = {count: rounds + 0.2 + (count == max(threads)) for count in threads}  # warm-up and memory too
    return sum(STARTING_S + each / (1 if count == 1 else 2.8) * passes[count] for count in threads) / 60


def _begin(asked: argparse.Namespace) -> dict[str, Any]:
    """What earlier runs kept, if it was on such a machine with as many rounds; else nothing."""
    new = {"date": date.today().isoformat(), "rounds": asked.rounds, "machine": _machine(), "not_yet": NOT_YET}
    if asked.out.exists():
        old = json.loads(asked.out.read_text(encoding="utf-8"))
        same = old.get("rounds") == asked.rounds and {**old.get("machine", {}), "load": 0} == {**_machine(), "load": 0}
        if same:
            new["machine"]["load"] = max(old["machine"]["load"] or 0, new["machine"]["load"] or 0)
            return {**new, "versions": old["versions"], "rows": old["rows"]}
        print(f"{asked.out.name} is of another machine or number of rounds: it is begun anew.")
    return {**new, "versions": {}, "rows": []}


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"cpu": model or platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": load}


def _parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), help="workloads; all by default")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    names = [peer.name.lower() for peer in PEERS]
    parser.add_argument("--peers", nargs="+", type=str.lower, choices=[*names, "none"], help="all by default")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where rows are kept")
    parser.add_argument("--table", action="store_true", help="print the README's table from the rows")
    parser.add_argument("--write", action="store_true", help="with --table: put it into the README")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())

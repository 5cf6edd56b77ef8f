"""What runs in a worker process: one line of JSON in, one out. Only one worker works at a time.

A contestant's file in `benchmarks/peers/` says which ways it has of doing a workload; `serve` times them.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from benchmarks.inputs import Inputs


class NotHere(Exception):
    """A contestant that can't be run now, with the reason."""


@dataclass(frozen=True)
class Way:
    """One way of doing a workload.

    Attributes:
        run: Does the cells it is given: what is timed.
        show: Turns what it returned into (cell, ...) for the comparison: not timed.
        kind: "bare", "tuned" (written by hand), "peer" (as its documentation says) or "ours".
        share: Which of the workload's shares of cells it runs; "all" for all.
    """

    run: Callable[[Sequence[int]], Any]
    kind: str = "peer"
    share: str = "loop"
    show: Callable[[Any], Tensor] | None = None


Ways = Callable[[str, Inputs], dict[str, Way]]


def serve(ways: Ways, packages: Sequence[str]) -> None:
    """Answer until told to stop.

    Questions: {"ways": workload}; {"do": workload, "way": name, "cells": [...], "out": path or null, "peak": bool}.
    """
    inputs, open_now = Inputs(Path(sys.argv[1])), _Open(ways)
    answers = os.fdopen(int(sys.argv[2]), "w")
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers", *packages)}
    print(json.dumps({"versions": {"python": platform.python_version(), **found}}), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = _answer(ask, open_now, inputs)
        except NotHere as reason:
            answer = {"error": str(reason)}
        except Exception as error:  # any library may raise anything; the run goes on and the row says why
            sys.excepthook(*sys.exc_info())
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


class _Open:
    """The ways of one workload, made when it is first asked for and dropped when another one is."""

    def __init__(self, ways: Ways) -> None:
        self._make, self._name, self._ways = ways, "", dict[str, Way]()

    def of(self, workload: str, inputs: Inputs) -> dict[str, Way]:
        if self._name != workload:
            self._ways = {}
            gc.collect()
            self._ways, self._name = self._make(workload, inputs), workload
        return self._ways


def _answer(ask: dict[str, Any], open_now: _Open, inputs: Inputs) -> dict[str, Any]:
    if "ways" in ask:
        return {"ways": {who: [w.kind, w.share] for who, w in open_now.of(ask["ways"], inputs).items()}}
    way = open_now.of(ask["do"], inputs)[ask["way"]]
    if ask.get("peak"):
        return {"peak_mib": peak_mib(lambda: way.run(ask["cells"]))}
    begun, cpu = time.perf_counter(), time.process_time()
    found = way.run(ask["cells"])
    answer = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    shown = found if way.show is None and isinstance(found, Tensor) else way.show(found) if way.show else None
    if ask.get("out") and shown is not None:
        save_file({"out": shown.detach().contiguous()}, ask["out"])
        answer["out"] = ask["out"]
    return answer


def peak_mib(work: Callable[[], Any]) -> float | None:
    """Peak resident memory while `work` runs (and its result is held) above what was resident before.

    Returns:
        MiB, or None where the system has no peak that can be set back (Linux lets a process clear its own).
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else freed memory of the last run hides what this one needs
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, KeyError):
        return None
    held = work()
    peak = _status("VmHWM")
    del held
    return round((peak - before) / 1024, 1)


def _status(field: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[field].split()[0])

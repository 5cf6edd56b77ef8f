"""Outcomes of planted claims, kept as lines of a file, so that a killed exam goes on where it was.

An outcome is known by what it hangs on: the planting, the engine's seed and the code. It holds every gate's result, so
a claim can be decided again with other margins or without a gate, and nothing is run for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from veriscope.claims.battery import GateSpec
from veriscope.exam.code import code_hash
from veriscope.exam.planting import Planting
from veriscope.ledger.canonical import canonical, digest
from veriscope.trials.evidence import GateResult, Word, from_plain, to_plain

BATTERIES = {"C1": "represents", "C2": "mediates", "C3": "necessary", "C4": "steers"}


@dataclass(frozen=True)
class Outcome:
    """What became of one planted claim under one seed of the engine.

    `gates` are all gates, also those that the trial did not reach because its instrument failed; `seconds`,
    `cpu_seconds` and `passes` are what the trial itself took, `whole_seconds` the CPU time with the bed, the fit, those
    gates and other practice. `build` and `settings` are the planting's, so that the claim can be made again.
    """

    key: str
    bed: str
    claim_type: str
    truth: bool
    grade: str
    trap: str
    seed: int
    engine_seed: int
    word: Word
    battery: tuple[GateSpec, ...]
    gates: tuple[GateResult, ...]
    seconds: float
    cpu_seconds: float
    passes: int
    rivals: Mapping[str, bool] = field(default_factory=dict)  # what other practice says of it: supported or not
    whole_seconds: float = 0.0
    build: str = ""
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> tuple[str, str, bool, str, str]:
        """What is counted together."""
        return self.bed, self.claim_type, self.truth, self.grade, self.trap


def key_of(bed: str, planting: Planting, engine_seed: int) -> str:
    """The key of a planting's outcome under one seed of the engine and today's code."""
    own = BATTERIES.get(planting.claim_type)
    parts = [f"veriscope.{room}.{own}" for room in ("claims", "trials")] if own else []
    modules = [*parts, planting.build.split(":")[0]]
    return digest(
        {
            "bed": bed,
            "type": planting.claim_type,
            "build": planting.build,
            "settings": dict(planting.settings),
            "engine_seed": engine_seed,
            "code": code_hash(*modules),
        }
    )[:32]


def home() -> Path:
    """Where outcomes are kept unless a folder is named: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veriscope-exam"


@dataclass(frozen=True)
class Keep:
    """A folder with one file of outcomes a claim type."""

    folder: Path

    def add(self, outcome: Outcome) -> None:
        """Write one outcome at the end of its file, whole or not at all as far as a reader can see."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = canonical(to_plain(outcome))
        path = self._file(outcome.claim_type)
        cut_short = path.exists() and path.stat().st_size > 0 and not _ends_a_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if cut_short else "") + line + "\n")

    def find(self, claim_type: str, wanted: Collection[str]) -> dict[str, Outcome]:
        """The kept outcomes with these keys. A line that was cut short by a kill is passed over."""
        path, found = self._file(claim_type), {}
        if not path.exists():
            return {}
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if row["key"] in wanted:
                    found[row["key"]] = from_plain(Outcome, row)
        return found

    def _file(self, claim_type: str) -> Path:
        return self.folder / f"{claim_type}.jsonl"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def slim(result: GateResult) -> GateResult:
    """Without controls, curves and spreads, which no decision reads and which are most of a row's length."""
    series = {k: v for k, v in result.series.items() if k == "parity margin"}
    return replace(result, series=series, spread=None, controls=())

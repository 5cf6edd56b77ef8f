"""Outcomes made by hand, for tests that count and decide again without running a trial."""

from __future__ import annotations

from typing import Any

from veriscope.claims.battery import GateSpec
from veriscope.exam.keep import Outcome
from veriscope.trials.decide import decide
from veriscope.trials.evidence import Estimate, GateResult

BATTERY = (
    GateSpec("i0", "instrument", "?", "instrument", "bits", "", level=0, margin=0.1),
    GateSpec("g1", "held out", "?", "gate", "bits", "", level=1, margin=0.1),
    GateSpec("g2", "twins", "?", "gate", "bits", "", level=2, margin=0.1),
    GateSpec("g3", "isolation", "?", "gate", "share", "", level=3, margin=0.8),
    GateSpec("f4", "shift", "?", "falsifier", "bits", ""),
    GateSpec("r5", "prompt", "?", "rival", "bits", "", level=4, margin=0.0),
)
PASSED = {"i0": 0.5, "g1": 0.5, "g2": 0.5, "g3": 0.95, "r5": 0.5}
HALF_WIDTH = 0.05


def gate(spec: GateSpec, value: float) -> GateResult:
    estimate = Estimate(value, value - HALF_WIDTH, value + HALF_WIDTH, 100, 50)
    assert spec.margin is not None
    outcome = "pass" if estimate.low > spec.margin else "fail" if estimate.high < spec.margin else "unclear"
    return GateResult(spec.gate, spec.title, spec.role, spec.unit, outcome, margin=spec.margin, estimate=estimate)  # type: ignore[arg-type]


def outcome(truth: bool, grade: str, trap: str = "", seed: int = 0, turn: int = 0, **values: Any) -> Outcome:
    """A claim whose gates found these values; `f4="fired"` fires the falsifier, `p0=True` leaves the pool closed."""
    fired = values.pop("f4", "quiet")
    closed = values.pop("p0", False)
    rivals = values.pop("rivals", {})
    found = {**PASSED, **values}
    gates = [gate(s, found[s.gate]) for s in BATTERY if s.gate != "f4"]
    gates.append(GateResult("f4", "shift", "falsifier", "bits", fired))
    word = decide(BATTERY, gates).word
    if closed:
        gates.insert(
            1, GateResult("p0", "power on dev", "gate", "bits", "unclear", "lower", 0.1, Estimate(0.3, 0.3, 0.3, 9, 9))
        )
        word = "INCONCLUSIVE"
    return Outcome(
        f"{truth}{grade}{trap}{seed}{turn}", "made", "C9", truth, grade, trap, seed, seed + turn, word, BATTERY,
        tuple(gates), 2.0, 1.5, 300, rivals,
    )  # fmt: skip


def asked(common: bool, shipped: bool) -> dict[str, bool]:
    return {"common practice": common, "shipped checks": shipped}


def an_exam(n: int = 20) -> list[Outcome]:
    """False claims held back by one gate each, true ones supported from twice the smallest effect on."""
    out = []
    for i in range(n):
        out += [
            outcome(False, "F0", "coin", i, g1=0.0, g2=0.0, rivals=asked(False, False)),
            outcome(False, "F1", "twin does it too", i, g2=0.0, rivals=asked(True, False)),
            outcome(False, "F2", "breaks all else", i, g3=0.3, rivals=asked(True, True)),
            outcome(True, "T1x1", "small", i, g1=0.11, rivals=asked(True, True)),
            outcome(True, "T1x2", "twice", i, g1=0.11 if i == 0 else 0.3, rivals=asked(True, True)),
            outcome(True, "T1x4", "large", i, rivals=asked(True, True)),
        ]
    return out

"""One planted claim through its trial, the public way, and every gate's result kept."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veriscope.claims.battery import GateSpec, with_margins
from veriscope.errors import NotRun
from veriscope.exam.keep import Outcome, slim
from veriscope.exam.planting import Planting
from veriscope.ledger import Ledger, use
from veriscope.trials.evidence import GateResult, Verdict
from veriscope.trials.judge import Effort


@dataclass(frozen=True)
class Task:
    """A planting under one seed of the engine, with the key that its outcome is kept by."""

    bed: str
    planting: Planting
    engine_seed: int
    key: str
    rivals: bool  # whether other practice is asked about the claim too


def attempt(task: Task) -> Outcome:
    """Build a planted claim and try it; the trial is told nothing of what was planted. Runs in a worker process."""
    import torch

    from veriscope.exam.rivals import verdicts
    from veriscope.trials.trial import trial

    torch.set_num_threads(1)
    planting, started = task.planting, time.process_time()
    with use(Ledger.in_memory()) as ledger:
        claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings))
        passes, began, cpu = subject.passes, time.monotonic(), time.process_time()
        verdict: Verdict = trial(claim, subject=subject, ledger=ledger, seed=task.engine_seed)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        passes = subject.passes - passes
        battery = with_margins(claim.battery, claim.margins)
        gates = [*verdict.gates, *unreached(claim, subject, ledger, verdict, battery, task.engine_seed)]
    said = verdicts(claim, subject, task.engine_seed) if task.rivals else {}
    return Outcome(
        task.key,
        task.bed,
        planting.claim_type,
        planting.truth,
        planting.grade,
        planting.trap,
        int(dict(planting.settings).get("seed", 0)),
        task.engine_seed,
        verdict.word,
        tuple(battery),
        tuple(slim(g) for g in gates),
        round(seconds, 3),
        round(cpu_seconds, 3),
        passes,
        said,
        round(time.process_time() - started, 3),
        planting.build,
        planting.settings,
    )


def unreached(
    claim: Any, subject: Any, ledger: Ledger, verdict: Verdict, battery: Sequence[GateSpec], seed: int
) -> list[GateResult]:
    """Gates that a trial left out because its instrument or its power failed, run all the same.

    A trial runs every gate once its pool is open, whatever the ones before it found. But where the instrument fails or
    the power is too low the pool stays closed, and what the claim would have come to without that check is then
    unknown. The pool is opened in the exam's own ledger, where a look costs nobody anything.
    """
    done = {result.gate for result in verdict.gates}
    left = [spec for spec in battery if spec.gate not in done]
    if not left:
        return []
    bench = pkgutil.resolve_name(claim.bench)(
        claim, subject, claim.on.dev, seed, Effort(), tries=max(verdict.tries, claim.finding.origin.tried, 1)
    )
    bench.gate = claim.on.gate.open(by=verdict.card, ledger=ledger)
    bench.shift = claim.on.shift.open(by=verdict.card, ledger=ledger) if claim.on.shift is not None else None
    return [_run(bench, spec) for spec in left]


def _run(bench: Any, spec: GateSpec) -> GateResult:
    """One gate, or that it can't be run where its instrument has failed."""
    try:
        return pkgutil.resolve_name(spec.run)(bench, spec)
    except Exception as failed:  # behind a failed instrument anything may be missing; the verdict does not hang on it
        why = NotRun(f"failed behind a failed instrument: {type(failed).__name__}")
        return GateResult(spec.gate, spec.title, spec.role, spec.unit, "not run", spec.better, spec.margin, why)

"""The error of the instrument itself: how each method does where the truth is planted, before any claim is made.

A trial asks whether a claim holds; this asks how good a method is at finding what claims are made about. On bed P1, at
several planted effects and at none, each method is fitted on dev. C1: what it finds is read on held-out clusters, in
usable bits. C2 to C4: it is swapped, removed or added there, and the effect is that of the claim's own effect gate, in
the unit of the verdict. What a rerun alone changes is used later: a claim whose effect lies under twice the reseed
deviation of its method is labelled as lying inside instrument noise. (Are Sparse Autoencoder Benchmarks Reliable?,
Chanin 2026, asks the same of benchmarks.)
"""

from __future__ import annotations

import dataclasses
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.claims.battery import with_margins
from veriscope.compute import Processes, Serial
from veriscope.errors import NotRun, UserError
from veriscope.exam.beds import TYPES
from veriscope.exam.figures import sensitivity
from veriscope.exam.results import read
from veriscope.examples import Sample
from veriscope.ledger import Ledger, use, versions
from veriscope.methods import BUILT_IN, method
from veriscope.methods.linear import cluster_folds, encode
from veriscope.trials.evidence import Estimate, to_plain
from veriscope.trials.judge import Effort
from veriscope.trials.reading import as_array, crossfit_bits
from veriscope.trials.statistics import Resampler, clopper_pearson

SITE = "residual"
MULTIPLES = (0.5, 1.0, 2.0, 4.0)  # of the smallest effect that a type claims by default
TWICE = 2.0
RESEEDS = 10
LEAST = 0.5  # in C2 to C4, in multiples of the smallest effect
REFITS = 5  # the same for C2 to C4, where one costs many runs
CLAIMS = {
    "C1": "veriscope.claims.represents:Represents",
    "C2": "veriscope.claims.mediates:Mediates",
    "C3": "veriscope.claims.necessary:Necessary",
    "C4": "veriscope.claims.steers:Steers",
}
ROUNDING = 1e-6  # bits: a reader that calibration sets to nothing gives zero to within rounding, and has read nothing


@dataclass(frozen=True)
class Calibration:
    """How one method did on planted truth.

    Attributes:
        claim_type, method: What it was used for, and its name.
        gate, unit: The gate that measures the effect, and its unit.
        false_positives: Null or shuffled labels that were found (see `Measured`), of `nulls`.
        missed: Of `planted` at twice the smallest effect, those that were not.
        reseed_deviation: Standard deviation at that effect, over refits on dev clusters drawn anew, under another seed:
            what a rerun alone changes. The root of the mean variance over beds.
        detectable: Least planted effect that is found 80% of the time, with a 95% interval.
        measured: (planted, mean effect measured) at each level.
    """

    claim_type: str
    method: str
    gate: str
    unit: str
    false_positives: int
    nulls: int
    false_bound: float
    missed: int
    planted: int
    reseed_deviation: float
    detectable: dict[str, Any]
    measured: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Measured:
    """One method on one bed: whether it was found, the effect; and its variance over refits, where asked for.

    Found: in C1 the lower 95% bound is above zero bits; in C2 to C4 above half of the smallest effect, for a direction
    at random overlaps a little with the right one and so has a little effect.
    """

    found: bool
    value: float
    variance: float | None = None


@dataclass(frozen=True)
class Lot:
    """Every method of a claim type on one bed at one planted effect, 0 for none. A unit of work."""

    claim_type: str
    level: float
    place: int
    seed: int


@dataclass(frozen=True, eq=False)
class Data:
    """Activations of one bed with one labelling, dev and held out."""

    dev: Float[Tensor, "example d"]
    gate: Float[Tensor, "item d"]
    dev_codes: Int[Tensor, "example"]
    gate_codes: Int[Tensor, "item"]
    dev_clusters: tuple[str, ...]
    gate_clusters: tuple[str, ...]


def readers() -> dict[str, Any]:
    """Methods that hand back a linear reading: LEACE erases and ContrastAddition adds, which no bits are read off."""
    return {name: kind for name, kind in BUILT_IN.items() if hasattr(kind, "weights")}


def methods_of(claim_type: str) -> list[str]:
    """Methods whose findings a claim type is made about: all that read, and the one made for the type."""
    own = {"C3": ["LEACE"], "C4": ["ContrastAddition"]}
    return [*readers(), *own.get(claim_type, [])]


def calibrate_methods(
    beds: int = 10,
    *,
    types: Sequence[str] = TYPES,
    seed: int = 0,
    levels: Sequence[float] = MULTIPLES,
    processes: int = 1,
    told: Callable[[int, int], None] | None = None,
) -> list[Calibration]:
    """Measure every method of these claim types.

    Args:
        beds: Beds at each planted effect; as many without any.
        levels: Planted effects, in multiples of the smallest that the type claims by default.
        processes: Worker processes; 1 works in this one.
        told: Called with beds done and all beds.
    """
    lots = [Lot(t, level, i, seed) for t in types for level in (0.0, *levels) for i in range(beds)]
    found: dict[int, dict[str, Measured]] = {}
    executor = Processes(processes) if processes > 1 else Serial()
    for index, result in executor.each(measure, lots):
        found[index] = result
        if told is not None:
            told(len(found), len(lots))
    return [_calibration(t, name, lots, found) for t in types for name in methods_of(t)]


def _calibration(
    claim_type: str, name: str, lots: Sequence[Lot], found: Mapping[int, Mapping[str, Measured]]
) -> Calibration:
    smallest, gate = _smallest(claim_type)
    counted: dict[float, list[Measured]] = {}
    for index, lot in enumerate(lots):
        if lot.claim_type == claim_type:
            counted.setdefault(lot.level, []).append(found[index][name])
    null, twice = counted.pop(0.0), counted.get(TWICE, [])
    positives = sum(m.found for m in null)
    curve = sensitivity({level * smallest: (sum(m.found for m in ms), len(ms)) for level, ms in counted.items()})
    spread = [m.variance for m in twice if m.variance is not None]
    return Calibration(
        claim_type,
        name,
        gate,
        _unit(claim_type),
        positives,
        len(null),
        clopper_pearson(positives, len(null))[1],
        sum(not m.found for m in twice),
        len(twice),
        float(np.sqrt(np.mean(spread))) if spread else 0.0,
        to_plain({"at": curve.found_at, "low": curve.low, "high": curve.high}),
        tuple((level * smallest, float(np.mean([m.value for m in ms]))) for level, ms in counted.items()),
    )


def _smallest(claim_type: str) -> tuple[float, str]:
    """The smallest effect that a type claims by default, and the gate that measures it."""
    kind = pkgutil.resolve_name(CLAIMS[claim_type])
    smallest: Any = next(f.default for f in dataclasses.fields(kind) if f.name == "smallest_effect")
    return float(smallest), getattr(kind, "effect_gate", "g1")


def _unit(claim_type: str) -> str:
    """The unit of that gate."""
    module = pkgutil.resolve_name(CLAIMS[claim_type]).__module__
    gate = _smallest(claim_type)[1]
    return next(s.unit for s in pkgutil.resolve_name(f"{module}:BATTERY") if s.gate == gate)


def measure(lot: Lot) -> dict[str, Measured]:
    """Every method of the type on one bed. Runs in a worker process."""
    torch.set_num_threads(1)
    with use(Ledger.in_memory()):
        return _read(lot) if lot.claim_type == "C1" else _intervened(lot)


# --- reading: C1 ------------------------------------------------------------------------------------------------------


def _read(lot: Lot) -> dict[str, Measured]:
    smallest, _ = _smallest("C1")
    data, out = planted_data(lot.seed * 1_000 + lot.place, lot.level * smallest), {}
    for name, kind in readers().items():
        reader = kind(site=SITE)
        found = Resampler(data.gate_clusters, lot.place, draws=1_000).mean(bits_read(reader, data, seed=lot.place))
        variance = reseed_variance(reader, data) if lot.level == TWICE else None
        out[name] = Measured(found.low > ROUNDING, found.value, variance)
    return out


def planted_data(seed: int, bits: float) -> Data:
    """A bed of P1 with a feature of so many bits, or with a null label for none."""
    from veriscope.zoo.planted import USED, Planted

    bed = Planted(seed=seed, bits=bits or TWICE * _smallest("C1")[0], rows=2_400)
    subject, data = bed.subject(), bed.examples(USED if bits else "null")
    gate = data.gate.open(by="calibration of methods", ledger=Ledger.in_memory())
    acts = [subject.acts(pool.texts, SITE) for pool in (data.dev, gate)]
    codes = [encode(pool)[0] for pool in (data.dev, gate)]
    return Data(acts[0], acts[1], codes[0], codes[1], tuple(data.dev.clusters), tuple(gate.clusters))


def bits_read(method: Any, data: Data, seed: int) -> np.ndarray:
    """Usable bits of each held-out item, the method fitted and calibrated on dev."""
    fold = cluster_folds(list(data.dev_clusters), seed=seed)
    method = dataclasses.replace(method, seed=seed)
    found = crossfit_bits(method, data.dev, data.dev_codes[None], fold, data.gate, data.gate_codes[None], 2, seed=seed)
    return as_array(found)[0]


def reseed_variance(method: Any, data: Data) -> float:
    """Variance of the mean bits over refits, each on dev clusters drawn anew and under a seed of its own."""
    found = []
    for seed in range(RESEEDS):
        rows = drawn_rows(data.dev_clusters, seed)
        index = torch.as_tensor(rows)
        clusters = tuple(data.dev_clusters[i] for i in rows)
        part = dataclasses.replace(data, dev=data.dev[index], dev_codes=data.dev_codes[index], dev_clusters=clusters)
        found.append(float(bits_read(method, part, seed).mean()))
    return float(np.var(found, ddof=1))


# --- intervening: C2, C3, C4 ------------------------------------------------------------------------------------------


def _intervened(lot: Lot) -> dict[str, Measured]:
    """Each method's finding through the effect gate of its claim; refitted too at twice the smallest effect."""
    claim, subject = _made(lot)
    gate = claim.on.gate.open(by="calibration of methods", ledger=Ledger.in_memory())
    dev = claim.on.dev if lot.level else _shuffled(claim.on.dev, lot.place)
    least = LEAST * _smallest(lot.claim_type)[0]
    out = {}
    for name in methods_of(lot.claim_type):
        fitted = method(name, site=SITE, seed=lot.place).fit(subject, dev)
        found = _effect(dataclasses.replace(claim, finding=fitted), subject, gate, lot.place)
        if isinstance(found, Estimate):
            variance = _refit_variance(claim, name, subject, gate) if lot.level == TWICE else None
            out[name] = Measured(found.low > least, found.value, variance)
        else:
            out[name] = Measured(False, 0.0)
    return out


def _made(lot: Lot) -> tuple[Any, Any]:
    """The bed's own planting of that size, for its network and its texts; of twice the smallest for no effect."""
    from veriscope.zoo.planted import plantings

    grade = f"T1x{lot.level or TWICE:g}"
    kinds = [p for p in plantings(lot.claim_type, lot.place + 1, lot.seed) if p.grade == grade]
    if not kinds:
        raise UserError(f"Bed planted has no {lot.claim_type} claims of grade {grade} to calibrate methods on.")
    return pkgutil.resolve_name(kinds[lot.place].build)(**dict(kinds[lot.place].settings))


def _shuffled(dev: Sample, seed: int) -> Sample:
    order = np.random.default_rng([seed, 0x5F]).permutation(len(dev))
    return dev.relabel([dev.labels[i] for i in order])


def _effect(claim: Any, subject: Any, gate: Sample, seed: int) -> Estimate | NotRun:
    """What a trial would call the claim's effect."""
    bench = pkgutil.resolve_name(claim.bench)(claim, subject, claim.on.dev, seed, Effort(), tries=1)
    bench.gate = gate
    wanted = getattr(claim, "effect_gate", "g1")
    spec = next(s for s in with_margins(claim.battery, claim.margins) if s.gate == wanted)
    return pkgutil.resolve_name(spec.run)(bench, spec).estimate


def _refit_variance(claim: Any, name: str, subject: Any, gate: Sample) -> float | None:
    """Variance of the effect over refits, each on dev clusters drawn anew and under a seed of its own."""
    found = []
    for seed in range(REFITS):
        part = claim.on.dev.take(drawn_rows(claim.on.dev.clusters, seed))
        refit = method(name, site=SITE, seed=seed).fit(subject, part)
        effect = _effect(dataclasses.replace(claim, finding=refit), subject, gate, seed)
        found += [effect.value] if isinstance(effect, Estimate) else []
    return float(np.var(found, ddof=1)) if len(found) > 1 else None


def drawn_rows(clusters: Sequence[str], seed: int) -> list[int]:
    """Rows of the clusters met when as many are drawn with replacement."""
    names = np.unique(list(clusters))
    drawn = np.random.default_rng([seed, 0x4D]).choice(names, len(names))
    return np.flatnonzero(np.isin(list(clusters), drawn)).tolist()


def record_methods(path: Path, found: Sequence[Calibration], date: str) -> dict[str, Any]:
    """Put the calibration of methods into a result file, beside the claim types' parts; other types' rows stay."""
    before, types = read(path), {c.claim_type for c in found}
    kept = [r for r in before.get("methods", {}).get("rows", ()) if r["claim_type"] not in types]
    lines = sorted([*kept, *(to_plain(c) for c in found)], key=lambda r: r["claim_type"])
    body = {"bed": "the bed planted", "date": date, "versions": versions(), "rows": lines}
    results = {**before, "methods": body}
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results

"""The error of the instrument itself: how each method of reading does where the truth is planted.

A trial asks whether a claim holds; this asks how good a method is before any claim is made with it. On bed P1, at
several planted effects and at none, each method is fitted on dev and read on held-out clusters, in usable bits. What a
rerun alone changes is used later: a C1 claim whose effect lies under twice the reseed deviation of its method is
labelled as lying inside instrument noise. (Are Sparse Autoencoder Benchmarks Reliable?, Chanin 2026, asks the same of
benchmarks.)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.exam.figures import sensitivity
from veriscope.exam.results import read
from veriscope.ledger import versions
from veriscope.methods import BUILT_IN
from veriscope.methods.linear import cluster_folds, encode
from veriscope.trials.evidence import to_plain
from veriscope.trials.reading import as_array, crossfit_bits
from veriscope.trials.statistics import Resampler, clopper_pearson

SITE = "residual"
LEVELS = (0.0125, 0.025, 0.05, 0.1, 0.2)  # planted bits; 0.05 is the least that C1 claims by default
TWICE = 0.1
RESEEDS = 10
ROUNDING = 1e-6  # bits: a reader that calibration sets to nothing gives zero to within rounding, and has read nothing


@dataclass(frozen=True)
class Calibration:
    """How one method did on planted truth.

    Attributes:
        method: Its name.
        false_positives: Null labels read at all (lower 95% bound above zero bits), of `nulls`.
        missed: Features of twice the smallest effect that were not read, of `planted`.
        reseed_deviation: Standard deviation in bits, at that effect, over refits on dev clusters drawn anew, under
            another seed: what a rerun alone changes. The root of the mean variance over beds.
        detectable: Least planted bits that are read 80% of the time, with a 95% interval.
        bits: (planted, mean bits read) at each level.
    """

    method: str
    false_positives: int
    nulls: int
    false_bound: float
    missed: int
    planted: int
    reseed_deviation: float
    detectable: dict[str, Any]
    bits: tuple[tuple[float, float], ...]


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


def calibrate_methods(
    beds: int = 10, *, seed: int = 0, levels: Sequence[float] = LEVELS, told: Callable[[int, int], None] | None = None
) -> list[Calibration]:
    """Measure every method that reads.

    Args:
        beds: Beds at each planted effect; as many null labels.
        told: Called with beds done and all beds.
    """
    counted: dict[str, dict[float, list[tuple[bool, float]]]] = {name: {} for name in readers()}
    spread: dict[str, list[float]] = {name: [] for name in readers()}
    for done, (level, i) in enumerate((level, i) for level in (0.0, *levels) for i in range(beds)):
        data = planted_data(seed * 1_000 + i, level)
        for name, kind in readers().items():
            method = kind(site=SITE)
            items = bits_read(method, data, seed=i)
            found = Resampler(data.gate_clusters, i, draws=1_000).mean(items)
            counted[name].setdefault(level, []).append((found.low > ROUNDING, found.value))
            if level == TWICE:
                spread[name].append(reseed_variance(method, data))
        if told is not None:
            told(done + 1, beds * (1 + len(levels)))
    return [_calibration(name, counted[name], spread[name]) for name in counted]


def _calibration(name: str, counted: dict[float, list[tuple[bool, float]]], spread: list[float]) -> Calibration:
    null = counted[0.0]
    positives = sum(hit for hit, _ in null)
    levels = {level: found for level, found in counted.items() if level > 0}
    curve = sensitivity({level: (sum(hit for hit, _ in found), len(found)) for level, found in levels.items()})
    twice = levels.get(TWICE, [])
    return Calibration(
        name,
        positives,
        len(null),
        clopper_pearson(positives, len(null))[1],
        sum(not hit for hit, _ in twice),
        len(twice),
        float(np.sqrt(np.mean(spread))) if spread else 0.0,
        to_plain({"at": curve.found_at, "low": curve.low, "high": curve.high}),
        tuple((level, float(np.mean([bits for _, bits in found]))) for level, found in levels.items()),
    )


def planted_data(seed: int, bits: float) -> Data:
    """A bed of P1 with a feature of so many bits, or with a null label for none."""
    from veriscope.ledger import Ledger
    from veriscope.zoo.planted import USED, Planted

    bed = Planted(seed=seed, bits=bits or TWICE, rows=2_400)
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
    names = np.unique(data.dev_clusters)
    found = []
    for seed in range(RESEEDS):
        drawn = np.random.default_rng([seed, 0x4D]).choice(names, len(names))
        rows = np.flatnonzero(np.isin(data.dev_clusters, drawn))
        index = torch.as_tensor(rows)
        clusters = tuple(data.dev_clusters[i] for i in rows)
        part = dataclasses.replace(data, dev=data.dev[index], dev_codes=data.dev_codes[index], dev_clusters=clusters)
        found.append(float(bits_read(method, part, seed).mean()))
    return float(np.var(found, ddof=1))


def record_methods(path: Path, found: Sequence[Calibration], date: str) -> dict[str, Any]:
    """Put the calibration of methods into a result file, beside the claim types' parts."""
    body = {"bed": "the bed planted", "date": date, "versions": versions(), "rows": [to_plain(c) for c in found]}
    results = {**read(path), "methods": body}
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results

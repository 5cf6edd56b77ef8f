"""The exam's figures, each with one definition: likelihood ratios, sensitivity, AUROC, Brier and log score, flips.

Every function takes plain counts, scores and words; none looks at a claim. The rates themselves are counts with
Clopper and Pearson's bounds (`veriscope.trials.statistics.clopper_pearson`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import optimize, stats

from veriscope.errors import NotRun
from veriscope.trials.rates import Confidence
from veriscope.trials.statistics import clopper_pearson

FOUND = 0.8  # the share of claims that must be supported for an effect to count as found
DRAWS = 2_000
SPLIT = 0.975  # level of each of two bounds that must hold together with 95%


@dataclass(frozen=True)
class LikelihoodRatios:
    """What a verdict does to the odds that a claim is true.

    Attributes:
        supported: LR+ = P(SUPPORTED | true) / P(SUPPORTED | false); None where no false claim was supported.
        supported_at_least: LR+ by bounds: low of the one over high of the other, both holding together with 95%.
        not_supported: LR- = P(not SUPPORTED | true) / P(not SUPPORTED | false); None if every false one was supported.
        not_supported_at_most: LR- by bounds, in the same way; None where they don't bound it.
    """

    supported: float | None
    supported_at_least: float
    not_supported: float | None
    not_supported_at_most: float | None


def likelihood_ratios(true_supported: int, true_n: int, false_supported: int, false_n: int) -> LikelihoodRatios:
    """Both ratios from counts of supported claims."""
    hit, alarm = true_supported / true_n, false_supported / false_n
    least_hit = clopper_pearson(true_supported, true_n, SPLIT)[0]
    most_alarm = clopper_pearson(false_supported, false_n, SPLIT)[1]
    return LikelihoodRatios(
        hit / alarm if alarm else None,
        least_hit / most_alarm,
        (1 - hit) / (1 - alarm) if alarm < 1 else None,
        (1 - least_hit) / (1 - most_alarm) if most_alarm < 1 else None,
    )


@dataclass(frozen=True)
class Sensitivity:
    """The effect, in multiples of the smallest one claimed, at which `FOUND` of the true claims are supported.

    Attributes:
        found_at: That effect; `NotRun` where no effect tried reaches the share.
        low, high: A 95% interval by resampling claims; high is None where some of it is never reached.
        points: (multiple, supported, n) as counted.
        curve: (multiple, share) of the rising fit.
    """

    found_at: float | NotRun
    low: float | None
    high: float | None
    points: tuple[tuple[float, int, int], ...]
    curve: tuple[tuple[float, float], ...]


def sensitivity(counts: Mapping[float, tuple[int, int]], seed: int = 0) -> Sensitivity:
    """Fit a curve that can only rise to the shares supported, and read off where it passes `FOUND`.

    Isotonic regression weighted by n (Barlow, Statistical Inference under Order Restrictions, 1972), linear in the
    logarithm of the effect between the multiples tried. An effect found below the least multiple tried is reported as
    that multiple.

    Args:
        counts: For each multiple of the smallest effect, claims supported and claims tried.
    """
    multiples = sorted(counts)
    hits = np.array([counts[m][0] for m in multiples], float)
    n = np.array([counts[m][1] for m in multiples], float)
    curve = _rising(hits / n, n)
    at = crossing(multiples, curve)
    drawn = np.random.default_rng([seed, 0x5E]).binomial(n.astype(int), hits / n, size=(DRAWS, len(n)))
    crossed = np.sort([c if (c := crossing(multiples, _rising(d / n, n))) is not None else np.inf for d in drawn])
    low, high = (float(v) for v in crossed[[int(0.025 * DRAWS), int(0.975 * DRAWS)]])
    return Sensitivity(
        at if at is not None else NotRun(f"{FOUND:.0%} not reached at up to {multiples[-1]:g} times"),
        low if np.isfinite(low) else None,
        high if np.isfinite(high) else None,
        tuple((m, int(h), int(k)) for m, h, k in zip(multiples, hits, n, strict=True)),
        tuple(zip(multiples, (float(c) for c in curve), strict=True)),
    )


def _rising(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return optimize.isotonic_regression(shares, weights=weights).x


def crossing(multiples: Sequence[float], curve: Sequence[float] | np.ndarray, share: float = FOUND) -> float | None:
    """Where a rising curve first reaches a share, linear between its points in the logarithm of the multiple."""
    if curve[0] >= share:
        return float(multiples[0])
    for (m0, c0), (m1, c1) in pairwise(zip(multiples, curve, strict=True)):
        if c1 >= share:
            part = (share - c0) / (c1 - c0)
            return float(m0 * (m1 / m0) ** part)
    return None


def auroc(scores: Sequence[float], truths: Sequence[bool]) -> float:
    """Chance that a true claim's score is above a false one's, ties counting half (Mann and Whitney, 1947)."""
    true, false = _parts(scores, truths)
    ranks = stats.rankdata(np.concatenate([true, false]))
    return float((ranks[: len(true)].sum() - len(true) * (len(true) + 1) / 2) / (len(true) * len(false)))


def _parts(scores: Sequence[float], truths: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(scores, float), np.asarray(truths, bool)
    return values[labels], values[~labels]


def brier(stated: Sequence[float], truths: Sequence[bool]) -> float:
    """Mean square distance of a stated probability from the truth, 0 best, true and false weighing alike (Brier 1950).

    Weighing the two alike states the figure at even odds, whatever was planted more of.
    """
    true, false = _parts(stated, truths)
    return float((((1 - true) ** 2).mean() + (false**2).mean()) / 2)


def log_score(stated: Sequence[float], truths: Sequence[bool]) -> float:
    """Mean surprise, in bits, of a stated probability at the truth, 0 best and 1 a coin, true and false alike."""
    true, false = _parts(stated, truths)
    return float(-(np.log2(true).mean() + np.log2(1 - false).mean()) / 2)


def calibrate(scores: Sequence[float], truths: Sequence[bool]) -> Confidence:
    """Fit a stated confidence to evidence scores: a logistic of two numbers, true and false claims weighing alike.

    Targets are drawn in as Platt does (Probabilistic Outputs for Support Vector Machines, 1999), so that claims that
    are told apart without an error don't give a certainty that so few claims can't show.
    """
    true, false = _parts(scores, truths)
    x = np.concatenate([true, false])
    target = np.concatenate(
        [np.full(len(true), (len(true) + 1) / (len(true) + 2)), np.full(len(false), 1 / (len(false) + 2))]
    )
    weight = np.concatenate([np.full(len(true), 0.5 / len(true)), np.full(len(false), 0.5 / len(false))])

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] + parameters[1] * x
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    found = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8})
    return Confidence(float(found.x[0]), max(float(found.x[1]), 0.0), min(len(true), len(false)))


def out_of_sample(
    scores: Sequence[float], truths: Sequence[bool], groups: Sequence[int], folds: int = 5
) -> list[float] | NotRun:
    """Stated confidence of each claim by a calibration that did not see its group, for honest development figures."""
    part = np.asarray(groups) % folds
    stated = np.zeros(len(scores))
    for f in range(folds):
        inside = part == f
        if not inside.any():
            continue
        kept = [(s, t) for s, t, i in zip(scores, truths, inside, strict=True) if not i]
        if len({t for _, t in kept}) < 2:
            return NotRun("too few claims to hold any out of the calibration")
        fitted = calibrate([s for s, _ in kept], [t for _, t in kept])
        stated[inside] = [fitted.of(s) for s, i in zip(scores, inside, strict=True) if i]
    return stated.tolist()


@dataclass(frozen=True)
class Flips:
    """How often a verdict hangs on the engine's seed.

    Attributes:
        claims: Claims that were tried under several seeds.
        changed: Those whose word was not the same under all.
        rate: Chance that two seeds give one claim different words.
        to_supported: Claims that were SUPPORTED under some seeds and not under others.
    """

    claims: int
    changed: int
    rate: float
    to_supported: int


def flips(words: Sequence[Sequence[str]]) -> Flips:
    """Count changes of word over engine seeds.

    Args:
        words: For each claim its words, one a seed, two at least.
    """
    rates = [_disagreement(w) for w in words]
    mixed = sum(0 < list(w).count("SUPPORTED") < len(w) for w in words)
    return Flips(len(words), sum(len(set(w)) > 1 for w in words), float(np.mean(rates)) if rates else 0.0, mixed)


def _disagreement(words: Sequence[str]) -> float:
    """Share of pairs of seeds whose words differ."""
    k = len(words)
    same = sum(c * (c - 1) for c in (list(words).count(w) for w in set(words)))
    return 1 - same / (k * (k - 1))

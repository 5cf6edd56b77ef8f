"""Intervals, equivalence, power and multiplicity, each defined once.

Everything is resampled by cluster (template, entity, conversation): the number of clusters, not of items,
is the real sample size. All bounds are one-sided 95%, so `low`..`high` is a two-sided 90% interval.
Tested against scipy.stats.bootstrap, statsmodels-free hand-worked cases and simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from veriscope.trials.evidence import Estimate, Spread

Array = NDArray[np.float64]
ONE_SIDED = 0.95
DRAWS = 4_000
FEW_CLUSTERS = 200  # below this the bootstrap is corrected for bias and skew (BCa)


def ratio_of_sums(sums: Array) -> Array:
    """First column over second: a mean when the second column counts items. Shape [..., 2] -> [...]."""
    below = sums[..., 1]
    return np.divide(sums[..., 0], below, out=np.zeros_like(below), where=np.abs(below) > 1e-12)


@dataclass(frozen=True)
class Resampler:
    """Cluster bootstrap over a fixed set of items: the draws are made once and shared by all estimates.

    The same draws serve every gate of a trial, so differences between estimates are paired.
    Source: Efron, Better Bootstrap Confidence Intervals, 1987 (BCa); cluster form as in rule R4/R13.
    """

    clusters: tuple[str, ...]
    seed: int = 0
    draws: int = DRAWS

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        return np.unique(np.asarray(self.clusters), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(str(c) for c in np.unique(np.asarray(self.clusters)))

    @property
    def n_clusters(self) -> int:
        return len(self.names)

    @cached_property
    def _weights(self) -> Array:
        """How often each cluster is drawn: [draw, cluster]."""
        rng = np.random.default_rng([self.seed, 0xC1])
        even = np.full(self.n_clusters, 1 / self.n_clusters)
        return rng.multinomial(self.n_clusters, even, size=self.draws).astype(np.float64)

    def sums(self, columns: Array) -> Array:
        """Add up items within clusters: [item, column] -> [cluster, column]."""
        out = np.zeros((self.n_clusters, columns.shape[1]))
        np.add.at(out, self._codes, columns)
        return out

    def distribution(self, columns: Array, statistic: Callable[[Array], Array] = ratio_of_sums) -> Array:
        """The statistic over the bootstrap draws: [draw]."""
        return statistic(self._weights @ self.sums(columns))

    def estimate(self, columns: Array, statistic: Callable[[Array], Array] = ratio_of_sums) -> Estimate:
        """Estimate a statistic of column sums with one-sided 95% bounds.

        Args:
            columns: [item, column]; `statistic` maps column sums [..., column] to values [...].
        """
        per_cluster = self.sums(columns)
        value = float(statistic(per_cluster.sum(0)))
        drawn = statistic(self._weights @ per_cluster)
        low, high = self._bounds(value, drawn, per_cluster, statistic)
        return Estimate(value, low, high, n=len(columns), clusters=self.n_clusters)

    def mean(self, values: Array) -> Estimate:
        """Mean over items, with shares of exactly 0 or 1 bounded by Clopper and Pearson over clusters."""
        values = np.asarray(values, dtype=np.float64)
        found = self.estimate(np.stack([values, np.ones_like(values)], 1))
        if set(np.unique(values)) <= {0.0, 1.0} and found.low == found.high:
            low, high = clopper_pearson(round(found.value * self.n_clusters), self.n_clusters)
            return Estimate(found.value, low, high, found.n, found.clusters)
        return found

    def ratio(self, above: Array, below: Array) -> Estimate:
        """Ratio of two sums over the same items."""
        return self.estimate(np.stack([np.asarray(above, float), np.asarray(below, float)], 1))

    def p_value(
        self, columns: Array, margin: float, better: str = "higher", statistic: Callable[[Array], Array] = ratio_of_sums
    ) -> float:
        """One-sided bootstrap p-value of `statistic` not being beyond `margin`, with the +1 correction."""
        drawn = self.distribution(columns, statistic)
        short = drawn <= margin if better == "higher" else drawn >= margin
        return float((1 + short.sum()) / (1 + len(drawn)))

    def _bounds(
        self, value: float, drawn: Array, per_cluster: Array, statistic: Callable[[Array], Array]
    ) -> tuple[float, float]:
        if np.ptp(drawn) < 1e-12:
            return value, value
        levels = np.array([1 - ONE_SIDED, ONE_SIDED])
        if self.n_clusters < FEW_CLUSTERS:
            levels = _bca_levels(levels, value, drawn, per_cluster, statistic)
        low, high = np.quantile(drawn, levels)
        return float(min(low, value)), float(max(high, value))


def _bca_levels(
    levels: Array, value: float, drawn: Array, per_cluster: Array, statistic: Callable[[Array], Array]
) -> Array:
    """Quantile levels corrected for bias and acceleration (Efron 1987), jackknifing clusters."""
    left_out = statistic(per_cluster.sum(0)[None, :] - per_cluster)
    spread = left_out.mean() - left_out
    scale = (spread**2).sum() ** 1.5
    acceleration = float((spread**3).sum() / (6 * scale)) if scale > 1e-300 else 0.0
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn)
    bias = stats.norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    z = bias + stats.norm.ppf(levels)
    return stats.norm.cdf(bias + z / np.clip(1 - acceleration * z, 0.1, None))


def spread_of(values: Array, clusters: Sequence[str], wrong_below: float = 0.0) -> Spread:
    """The distribution over inputs behind a mean, and the cluster where it is worst (lowest mean)."""
    values = np.asarray(values, dtype=np.float64)
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    means = np.bincount(codes, values) / np.bincount(codes)
    worst = int(means.argmin())
    quantiles = np.quantile(values, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    return Spread(
        tuple(float(q) for q in quantiles), float((values < wrong_below).mean()), str(names[worst]), float(means[worst])
    )


def clopper_pearson(hits: int, n: int, level: float = ONE_SIDED) -> tuple[float, float]:
    """Exact one-sided bounds of a share (Clopper and Pearson, 1934)."""
    low = float(stats.beta.ppf(1 - level, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(level, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def standard_error(estimate: Estimate) -> float:
    """The standard error that the two bounds imply."""
    return (estimate.high - estimate.low) / (2 * stats.norm.ppf(ONE_SIDED))


def detectable(estimate: Estimate, clusters: int, power: float = 0.8) -> float:
    """Smallest excess over zero that `clusters` clusters would find with this power, from a dev estimate."""
    scale = np.sqrt(estimate.clusters / max(clusters, 1))
    return float((stats.norm.ppf(ONE_SIDED) + stats.norm.ppf(power)) * standard_error(estimate) * scale)


def items_needed(estimate: Estimate, margin: float, power: float = 0.8) -> int | None:
    """How many more items of the same kind would decide whether the effect is beyond the margin, or None."""
    gap = abs(estimate.value - margin)
    if gap < 1e-9:
        return None
    factor = ((stats.norm.ppf(ONE_SIDED) + stats.norm.ppf(power)) * standard_error(estimate) / gap) ** 2
    return max(0, int(np.ceil(estimate.n * (factor - 1))))


def benjamini_hochberg(p_values: Sequence[float], q: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected at false discovery rate q (Benjamini and Hochberg, 1995)."""
    if not p_values:
        return []
    return [bool(p <= q) for p in stats.false_discovery_control(np.asarray(p_values, float), method="bh")]


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected with family-wise error `level` (Holm, 1979)."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected

"""How far apart classes must lie for a reader to get so many bits, and the other way round: the dials of bed P1."""

from __future__ import annotations

import numpy as np
from scipy import integrate, optimize, special
from scipy.stats import norm


def bits_of_gap(gap: float, rate: float = 0.5, present: float = 1.0) -> float:
    """Mutual information, in bits, between a coin and a Gaussian whose means lie `gap` sd apart.

    Args:
        rate: How often the coin shows 1.
        present: Share of the items in which it is written at all; in the others both means are half-way.
    """
    if rate == 0.5 and present == 1.0:
        return 1 - integrate.quad(_lost, -10, 10 + gap, args=(gap,))[0]

    x = np.linspace(-9 - gap / 2, 9 + gap / 2, 4_001)
    ends = [present * norm.pdf(x - side * gap / 2) + (1 - present) * norm.pdf(x) for side in (1, -1)]
    both = rate * ends[0] + (1 - rate) * ends[1]
    told = sum(p * special.xlogy(d, d / both) for p, d in zip((rate, 1 - rate), ends, strict=True))
    return float(integrate.trapezoid(told, x) / np.log(2))


def _lost(x: float, gap: float) -> float:
    density = np.exp(-((x - gap / 2) ** 2) / 2) / np.sqrt(2 * np.pi)
    return float(density * np.log2(1 + np.exp(-gap * x)))


def bits_of_radius(radius: float, values: int) -> float:
    """Mutual information between one of `values` equally likely points on a circle and the point with unit noise."""
    x = np.arange(-6 - radius, 6 + radius, 0.1)
    grid = np.stack(np.meshgrid(x, x), -1)
    density = np.stack([np.exp(-((grid - radius * p) ** 2).sum(-1) / 2) / (2 * np.pi) for p in circle(values)])
    ratio = np.log2(np.maximum(density, 1e-300) / np.maximum(density.mean(0), 1e-300))
    return float((density * ratio).sum() * 0.01 / values)


def circle(values: int) -> np.ndarray:
    """So many points, evenly spread on the unit circle: [value, 2]."""
    angle = 2 * np.pi * np.arange(values) / values
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def gap_of_bits(bits: float, rate: float = 0.5, present: float = 1.0) -> float:
    """The inverse of `bits_of_gap`."""
    if bits <= 0:
        return 0.0
    return float(optimize.brentq(lambda g: bits_of_gap(g, rate, present) - bits, 1e-6, 12))


def radius_of_bits(bits: float, values: int) -> float:
    """The inverse of `bits_of_radius`."""
    return float(optimize.brentq(lambda r: bits_of_radius(r, values) - bits, 1e-3, 8)) if bits > 0 else 0.0

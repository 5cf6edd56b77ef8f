"""How far an approximation is from the truth: scores held against exact effects of the same cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

LARGE = 0.5  # mean error as a share of the mean effect from which scores are said to be no measure of effects
SILENT = 1e-5  # of the way: exact effects below it are rounding, so their sign says nothing


@dataclass(frozen=True, eq=False)
class Miss:
    """How far the approximation is from the truth, on cells that were also patched exactly.

    Attributes:
        cells: What was patched: indices of block, unit and position, or of sender and receiver.
        scored, exact: Normalised effects of these cells.
        r: Pearson correlation of the two over cells.
        rank: Spearman's rank correlation, without bounds.
        sign: Share of cells whose score has the sign of the exact effect, of the `signed` whose effect is no rounding.
        mean_absolute: Mean absolute difference, in normalised units. Bounds of r, sign and this one resample cells.
        max_absolute: The largest.
        relative: Sum of absolute differences over the sum of absolute exact effects.
        of: Number of cells that they were drawn from.
        drawn: How they were chosen.
    """

    cells: tuple[Any, ...]
    scored: Float[Tensor, "cell"]
    exact: Float[Tensor, "cell"]
    r: Estimate | NotRun
    rank: float | NotRun
    sign: Estimate | NotRun
    signed: int
    mean_absolute: Estimate
    max_absolute: float
    relative: float | NotRun
    of: int
    drawn: str = "at random"

    @property
    def large(self) -> bool:
        """Whether the error is so large that the scores are no measure of the effects."""
        return not isinstance(self.relative, NotRun) and self.relative > LARGE

    def __str__(self) -> str:
        r = f"r = {_bounded(self.r)}" if isinstance(self.r, Estimate) else f"no r ({self.r.reason})"
        rank = f"rank correlation {self.rank:.3f}" if isinstance(self.rank, float) else "no rank correlation"
        sign = (
            f"sign right in {self.sign.value:.0%} of {self.signed}" if isinstance(self.sign, Estimate)
            else f"no sign ({self.sign.reason})"
        )  # fmt: skip
        line = (
            f"{r}, {rank}, {sign}, mean absolute error {_bounded(self.mean_absolute)} of the way, largest "
            f"{self.max_absolute:.3g}, against the exact effect of {len(self.cells)} of {self.of} cells, {self.drawn}"
        )
        if not self.large:
            return line
        return (
            f"LARGE ERROR: THESE SCORES DO NOT MEASURE THE EFFECTS. Their errors add up to {self.relative:.0%} of the "
            f"effects themselves. Integrate with (more) steps, or patch exactly. {line}"
        )


def miss_of(
    cells: tuple[Any, ...], scored: Float[Tensor, "cell"], exact: Float[Tensor, "cell"], of: int, seed: int,
    drawn: str = "at random",
) -> Miss:  # fmt: skip
    """Compare scores with exact effects of the same cells, both as shares of the way."""
    resampler = Resampler(tuple(str(number) for number in range(len(cells))), seed)
    x, y = scored.double().numpy(), exact.double().numpy()
    error, live = np.abs(x - y), np.abs(y) > SILENT
    sign: Estimate | NotRun = NotRun("no exact effect is more than rounding")
    if live.any():
        sign = Resampler(resampler.clusters[: live.sum()], seed).mean((np.sign(x) == np.sign(y))[live].astype(float))
    total = float(np.abs(y).sum())
    relative: float | NotRun = (
        float(error.sum() / total) if live.any() else NotRun("there is no effect to compare with")
    )
    return Miss(
        cells, scored, exact, correlation(x, y, resampler), _rank(x, y), sign, int(live.sum()), resampler.mean(error),
        float(error.max()), relative, of, drawn,
    )  # fmt: skip


def correlation(x: NDArray[np.float64], y: NDArray[np.float64], resampler: Resampler) -> Estimate | NotRun:
    """Pearson's r over items, with bounds; NotRun where one of the two does not vary."""
    if _still(x, y):
        return NotRun("the effects or the scores of the drawn cells do not vary")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    return resampler.estimate(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), _pearson)


def _rank(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | NotRun:
    """Spearman's correlation; what is rounding counts as 0, so that it is not put in an order."""
    x, y = (np.where(np.abs(z) > SILENT, z, 0.0) for z in (x, y))
    if _still(x, y):
        return NotRun("the effects or the scores of the drawn cells do not vary")
    return float(stats.spearmanr(x, y).statistic)


def _still(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    return len(x) < 3 or bool(min(x.std(), y.std()) < 1e-9)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """r from sums of 1, x, y, xx, yy, xy along the last axis; 0 where a draw does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    below = np.sqrt(np.clip(xx - x * x / n, 0, None) * np.clip(yy - y * y / n, 0, None))
    return np.divide(xy - x * y / n, below, out=np.zeros_like(below), where=below > 1e-12)


def draw(count: int, of: int, seed: int) -> list[int]:
    """Numbers of cells drawn at random, in order."""
    return sorted(np.random.default_rng([seed, 0xA7]).permutation(of)[:count].tolist())


def _bounded(found: Estimate) -> str:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"

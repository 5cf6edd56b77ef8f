"""Attribution patching: every cell's effect from one gradient, never shown without its error against the exact effect.

Source: "Attribution Patching Outperforms Automated Circuit Discovery" (2023); with `steps`, integrated along the
inputs as in "Have Faith in Faithfulness" (2024, EAP-IG), or along each site by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.patching import heatmap
from veriscope.patching.gaps import Asked, BadChoice, Pairs, pair_up, share
from veriscope.patching.grid import Cell, Grid, Positions, cell_edit, lay_out, mask_of, read_all
from veriscope.subjects import Add, At, Edit, Read, Resample, Subject, Variant
from veriscope.subjects.sites import settle
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

Acts: TypeAlias = tuple[Float[Tensor, "text token *inner"], ...]  # of each block

_TOKENS_AT_ONCE = 4096  # of the texts whose graph is held at one time


@dataclass(frozen=True, eq=False)
class Miss:
    """How far the approximation is from the truth, on cells drawn at random and patched exactly.

    Attributes:
        cells: Indices of block, unit and position.
        scored, exact: Normalised effects of these cells.
        r: Pearson correlation of the two over cells.
        mean_absolute: Mean absolute difference, in normalised units. Bounds of both resample cells.
        of: Number of cells that they were drawn from.
    """

    cells: tuple[Cell, ...]
    scored: Float[Tensor, "cell"]
    exact: Float[Tensor, "cell"]
    r: Estimate | NotRun
    mean_absolute: Estimate
    of: int

    def __str__(self) -> str:
        r = f"r = {_bounded(self.r)}" if isinstance(self.r, Estimate) else f"no r ({self.r.reason})"
        return (
            f"{r}, mean absolute error {_bounded(self.mean_absolute)} of the way, against the exact effect of "
            f"{len(self.cells)} of {self.of} cells"
        )


@dataclass(frozen=True, eq=False)
class Attributed:
    """Scores of all cells, beside their measured error.

    Attributes:
        grid: Names of the axes.
        clean, corrupt: Logit differences of the unedited runs.
        scores_logits: Estimated change of each pair's logit difference.
        error: Against exact patching.
        steps, along: Points of the integral (0: the gradient at the run patched into) and its path.
    """

    grid: Grid
    direction: str
    clean: Float[Tensor, "pair"]
    corrupt: Float[Tensor, "pair"]
    scores_logits: Float[Tensor, "block unit position pair"]
    error: Miss
    steps: int
    along: str

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `scores`."""
        return self.grid.axes

    @property
    def scores(self) -> Float[Tensor, "..."]:
        """Estimated normalised effects, 0 = as the run patched into, 1 = as the other. One axis for each of `axes`."""
        return self.grid.trim(self._mean())

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k strongest cells: names, `score`, and `exact`, which is NotRun where it was not drawn."""
        mean = self._mean()
        return [self._row(cell, mean) for cell in self.grid.strongest(mean, k)]

    def table(self) -> list[dict[str, Any]]:
        """The same of every cell, in the order of the axes."""
        mean = self._mean()
        return [self._row(cell, mean) for cell in self.grid]

    def plot(self, path: str | Path) -> Path:
        """Write the scores as a heat map (SVG) that says how far they are from the exact effects."""
        title = f"Attribution patching of {self.grid.part} ({self.direction}, {self._how()})"
        return heatmap.write(path, self.grid, self._mean(), title, f"approximation: {self.error}")

    def _mean(self) -> Float[Tensor, "block unit position"]:
        base, other = (self.clean, self.corrupt) if self.direction == "noising" else (self.corrupt, self.clean)
        return self.scores_logits.mean(-1) / (other - base).mean()

    def _row(self, cell: Cell, mean: Float[Tensor, "block unit position"]) -> dict[str, Any]:
        exact: float | NotRun = NotRun("not among the cells that were drawn and patched exactly")
        if cell in self.error.cells:
            exact = float(self.error.exact[self.error.cells.index(cell)])
        return {**self.grid.name(cell), "score": float(mean[cell]), "exact": exact}

    def _how(self) -> str:
        return f"{self.steps} steps along {self.along}" if self.steps else "gradient"

    def __str__(self) -> str:
        lines = [f"{self.direction} {self.grid.part}, {self._how()}: {self.error}."]
        for row in self.top(5):
            where = ", ".join(f"{axis} {row[axis]}" for axis in self.axes)
            exact = f", exact {row['exact']:+.3f}" if isinstance(row["exact"], float) else ""
            lines.append(f"  {where}: {row['score']:+.3f}{exact}")
        return "\n".join(lines)


def attribution_patching(
    subject: Subject,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    *,
    part: str = "resid_pre",
    positions: Positions = None,
    blocks: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    direction: str = "noising",
    steps: int = 0,
    along: str = "inputs",
    sample: int = 50,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
) -> Attributed:
    """Estimate the effect of patching every cell from gradients, and measure the error on some of them.

    A cell's score is the gradient of the logit difference there times (other run's value - own value).

    Args:
        subject, clean, corrupt, answers, foils, part, positions, blocks, direction, clusters, progress: As in
            `activation_patching`.
        units: Heads or neurons; None for all, since they cost nothing here.
        steps: 0 takes the gradient in the run patched into: one forward and backward pass for all cells. k averages it
            over k points (midpoints) on the way to the other run.
        along: "inputs" moves the embedding (k passes for all cells); "site" moves the site of one block at a time
            (k passes for each block), so that the scores of a block add up to the effect of patching it whole.
        sample: Cells drawn at random and patched exactly; all, if there are fewer. At least 3.
        seed: Of that draw.

    Raises:
        UnequalPairs, NoGap, BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite.
    """
    _check(steps, along, sample)
    pairs = pair_up(subject, clean, corrupt, answers, foils, direction, clusters)
    grid = lay_out(subject, pairs.into.lengths, part, blocks=blocks, units=units, positions=positions)
    acts = read_all(subject, pairs.source.texts, grid)
    scores = torch.cat([_scores(grid, part, steps, along) for part in _parts(pairs, grid, acts)], -1)
    base, other = pairs.base, pairs.other
    mean = scores.mean(-1) / (other - base).mean()
    error = _miss(pairs, grid, acts, mean, sample, seed, progress)
    return Attributed(grid, direction, pairs.clean, pairs.corrupt, scores, error, steps, along)


def _check(steps: int, along: str, sample: int) -> None:
    if steps < 0:
        raise BadChoice("steps", steps, "use 0 for the plain gradient, or a number of points such as 10")
    if along not in ("inputs", "site"):
        raise BadChoice("along", along, "use 'inputs' or 'site'")
    if sample < 3:
        raise BadChoice("sample", sample, "at least 3 cells are patched exactly, since no score is shown without "
                        "its error")  # fmt: skip


# ---- gradients


@dataclass(frozen=True, eq=False)
class _Part:
    """Some pairs whose graph fits into memory at one time."""

    into: Asked
    own: Acts
    other: Acts
    ends: tuple[Tensor, Tensor]  # embeddings of both texts
    grid: Grid

    @property
    def differences(self) -> Acts:
        return tuple(there - here for here, there in zip(self.own, self.other, strict=True))


def _parts(pairs: Pairs, grid: Grid, acts: Acts) -> Iterator[_Part]:
    subject = pairs.into.subject
    for rows in _slices(pairs.into.lengths):
        into, source = (replace(asked, texts=asked.texts[rows], tokens=asked.tokens[rows], lengths=asked.lengths[rows],
                                clusters=asked.clusters[rows]) for asked in (pairs.into, pairs.source))  # fmt: skip
        longest = int(into.lengths.max())
        places = tuple(_of_rows(at, rows, pairs.into.lengths) for at in grid.places)
        ends = tuple(subject.run(asked.texts, read=[Read("embed")])["embed"] for asked in (into, source))
        yield _Part(
            into,
            read_all(subject, into.texts, grid),
            tuple(part[rows, :longest] for part in acts),
            (ends[0], ends[1]),
            replace(grid, places=places),
        )


def _of_rows(at: At, rows: slice, lengths: Int[Tensor, "text"]) -> At:
    """A position in some of the texts."""
    places = settle(at, lengths)
    if places.index is not None:
        return places.index[rows]
    return at if places.mask is None else places.mask[rows]


def _slices(lengths: Int[Tensor, "text"]) -> Iterator[slice]:
    most = max(1, _TOKENS_AT_ONCE // int(lengths.max()))
    for first in range(0, len(lengths), most):
        yield slice(first, min(first + most, len(lengths)))


def _scores(grid: Grid, part: _Part, steps: int, along: str) -> Float[Tensor, "block unit position pair"]:
    """Gradient times difference, summed over what a cell holds."""
    points = [(step + 0.5) / steps for step in range(steps)]
    if not steps:
        slopes = _slopes(part, ())
    elif along == "inputs":
        start, end = part.ends
        runs = [_slopes(part, (Edit("embed", Resample(start + a * (end - start))),)) for a in points]
        slopes = tuple(torch.stack(block).mean(0) for block in zip(*runs, strict=True))
    else:
        slopes = tuple(_along_site(part, block, points) for block in range(len(grid.blocks)))
    table = [_cells(part.grid, slope * gap, part.into.lengths) for slope, gap in
             zip(slopes, part.differences, strict=True)]  # fmt: skip
    return torch.stack(table).cpu()


def _slopes(part: _Part, moved: tuple[Edit, ...]) -> Acts:
    """d logit difference / d activations at the site of every block, in one run with `moved` in force."""
    leaves = [torch.zeros_like(own, requires_grad=True) for own in part.own]
    edits = [Edit(part.grid.site(block), Add(leaf)) for block, leaf in enumerate(leaves)]
    return _backward(part.into, (*moved, *edits), leaves)


def _along_site(part: _Part, block: int, points: Sequence[float]) -> Float[Tensor, "text token *inner"]:
    """The mean of d logit difference / d activations of one block's site, on the straight way to the other run."""
    own, far, total = part.own[block], part.other[block], torch.zeros_like(part.own[block])
    for a in points:
        leaf = (own + a * (far - own)).requires_grad_()
        total += _backward(part.into, (Edit(part.grid.site(block), Resample(leaf)),), [leaf])[0]
    return total / len(points)


def _backward(asked: Asked, edits: Sequence[Edit], leaves: Sequence[Tensor]) -> Acts:
    logits = asked.subject.run(asked.texts, edits=edits, logits="last", grad=True).logits
    assert logits is not None
    chosen = logits.gather(1, asked.tokens.to(logits.device))
    return torch.autograd.grad((chosen[:, 0] - chosen[:, 1]).sum(), leaves)


def _cells(
    grid: Grid, product: Float[Tensor, "text token *inner"], lengths: Int[Tensor, "text"]
) -> Float[Tensor, "unit spot text"]:
    """Sums over d_model or d_head and over the positions of each cell."""
    whole = product.sum(-1) if grid.unit != "neuron" else product
    whole = whole if grid.unit else whole.unsqueeze(-1)
    whole = whole[..., list(grid.units)]
    masks = [mask_of(at, whole.shape[1], lengths).to(whole.device) for at in grid.places]
    return torch.stack([(whole * mask[..., None]).sum(1) for mask in masks]).permute(2, 0, 1)


# ---- error


def _miss(
    pairs: Pairs, grid: Grid, acts: Acts, mean: Float[Tensor, "block unit position"], sample: int, seed: int,
    progress: bool,
) -> Miss:  # fmt: skip
    """Patch some cells exactly and compare."""
    everything = list(grid)
    drawn = np.random.default_rng([seed, 0xA7]).permutation(len(everything))[:sample]
    cells = tuple(everything[number] for number in sorted(drawn.tolist()))
    edits = (Variant((cell_edit(grid, cell, acts, pairs.into.lengths),)) for cell in cells)
    exact = share(pairs.into.gaps(edits, len(cells), progress, "checking"), pairs.base, pairs.other)
    scored = torch.stack([mean[cell] for cell in cells])
    resampler = Resampler(tuple(str(number) for number in range(len(cells))), seed)
    x, y = scored.double().numpy(), exact.double().numpy()
    return Miss(cells, scored, exact, correlation(x, y, resampler), resampler.mean(np.abs(x - y)), len(everything))


def correlation(x: NDArray[np.float64], y: NDArray[np.float64], resampler: Resampler) -> Estimate | NotRun:
    """Pearson's r over items, with bounds; NotRun where one of the two does not vary."""
    if len(x) < 3 or min(x.std(), y.std()) < 1e-9:
        return NotRun("the effects of the drawn cells do not vary")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    return resampler.estimate(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), _pearson)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """r from sums of 1, x, y, xx, yy, xy along the last axis; 0 where a draw does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    below = np.sqrt(np.clip(xx - x * x / n, 0, None) * np.clip(yy - y * y / n, 0, None))
    return np.divide(xy - x * y / n, below, out=np.zeros_like(below), where=below > 1e-12)


def _bounded(found: Estimate) -> str:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"

"""Attribution patching: every cell's effect from one gradient, never shown without its error against the exact effect.

Source: "Attribution Patching Outperforms Automated Circuit Discovery" (2023); with `steps`, integrated along the
inputs as in "Have Faith in Faithfulness" (2024, EAP-IG), or along each site by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.patching import heatmap
from veriscope.patching.gaps import Asked, BadChoice, Pairs, couple, measured, share, wide
from veriscope.patching.grid import Cell, Grid, Positions, cell_edit, lay_out, mask_of
from veriscope.patching.miss import Miss, draw, miss_of
from veriscope.patching.slopes import in_parts, slopes
from veriscope.subjects import At, Subject, Variant
from veriscope.subjects.sites import settle

Acts: TypeAlias = tuple[Float[Tensor, "text token *inner"], ...]  # of each block

TOKENS_AT_ONCE = 1024  # of the texts whose graph is held at one time: more make it no faster on a CPU


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
    keep: str | Path | None = None,
) -> Attributed:
    """Estimate the effect of patching every cell from gradients, and measure the error on some of them.

    A cell's score is the gradient of the logit difference there times (other run's value - own value).

    Args:
        subject, clean, corrupt, answers, foils, part, positions, blocks, direction, clusters, progress, keep: As in
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
    into, source = couple(subject, clean, corrupt, answers, foils, direction, clusters, keep)
    grid = lay_out(subject, into.lengths, part, blocks=blocks, units=units, positions=positions)
    sites = [grid.site(block) for block in range(len(grid.blocks))]
    moving = steps > 0 and along == "inputs"
    other, run = source.read(["embed", *sites] if moving else sites)
    acts = tuple(run[site] for site in sites)
    end = run["embed"] if moving else None
    found = [_scored(into, rows, grid, acts, end, steps, along) for rows in slices(into.lengths)]
    pairs = measured(direction, into, source, torch.cat([gaps for _, gaps in found]), other)
    scores = torch.cat([table for table, _ in found], -1)
    mean = scores.mean(-1) / (pairs.other - pairs.base).mean()
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
    """Some pairs whose graph fits into memory at one time.

    Attributes:
        sites: Of each block of the table.
        other: The other run's activations there.
        end: The other run's embedding, where the way to it is walked.
    """

    into: Asked
    sites: tuple[str, ...]
    other: Acts
    end: Float[Tensor, "text token d_model"] | None
    steps: int
    along: str


def _scored(
    into: Asked, rows: slice, grid: Grid, acts: Acts, end: Tensor | None, steps: int, along: str
) -> tuple[Float[Tensor, "block unit position pair"], Float[Tensor, "pair"]]:
    """Gradient times difference, summed over what a cell holds, and logit differences of the runs patched into."""
    some = into.some(rows)
    longest = int(some.lengths.max())
    part = _Part(
        some,
        tuple(grid.site(block) for block in range(len(grid.blocks))),
        tuple(there[rows, :longest] for there in acts),
        None if end is None else end[rows, :longest],
        steps,
        along,
    )
    places = tuple(_of_rows(at, rows, into.lengths) for at in grid.places)

    def make() -> dict[str, Tensor]:
        gaps, own, steep = _mean_slopes(part)
        products = [slope * (far - near) for slope, far, near in zip(steep, part.other, own, strict=True)]
        table = [_cells(replace(grid, places=places), product, some.lengths) for product in products]
        return {"scores": wide(torch.stack(table)), "gaps": gaps}

    question = ("attribution", into.subject.tokens(some.texts), some.tokens, part.sites, grid.unit, grid.units, places,
                part.other, part.end, steps, along)  # fmt: skip
    found = make() if into.kept is None else into.kept.once(question, make)[0]
    return found["scores"], found["gaps"]


def _of_rows(at: At, rows: slice, lengths: Int[Tensor, "text"]) -> At:
    """A position in some of the texts."""
    places = settle(at, lengths)
    if places.index is not None:
        return places.index[rows]
    return at if places.mask is None else places.mask[rows]


def slices(lengths: Int[Tensor, "text"], tokens: int | None = None) -> Iterator[slice]:
    """Texts that are run together in one graph."""
    most = max(1, (tokens or TOKENS_AT_ONCE) // int(lengths.max()))
    for first in range(0, len(lengths), most):
        yield slice(first, min(first + most, len(lengths)))


def _mean_slopes(part: _Part) -> tuple[Float[Tensor, "text"], Acts, Acts]:
    """Logit differences, values at the sites, and gradients there: in the run itself, or their mean along the way."""
    if not part.steps:
        found = slopes(part.into, part.sites)
        return found.gaps, found.values, found.slopes
    points = [(step + 0.5) / part.steps for step in range(part.steps)]
    gaps, run = part.into.read(("embed", *part.sites))
    own = tuple(run[site] for site in part.sites)
    if part.along == "inputs":
        assert part.end is not None
        return gaps, own, _walked(part, run["embed"], part.end, "embed", part.sites, points)
    ways = zip(part.sites, own, part.other, strict=True)
    return gaps, own, tuple(_walked(part, near, far, site, (site,), points)[0] for site, near, far in ways)


def _walked(part: _Part, near: Tensor, far: Tensor, moved: str, sites: Sequence[str], points: Sequence[float]) -> Acts:
    """Mean gradients at sites while one site goes straight from its own value to the other run's, points together."""
    texts, total = len(part.into), None
    for few in in_parts(points, TOKENS_AT_ONCE // (texts * int(part.into.lengths.max()))):
        on_the_way = torch.cat([near + a * (far - near) for a in few])
        many = part.into.some(slice(0, texts), len(few))
        found = slopes(many, sites, fixed={moved: on_the_way}).slopes
        sums = [slope.unflatten(0, (len(few), texts)).sum(0) for slope in found]
        total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
    assert total is not None
    return tuple(one / len(points) for one in total)


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
    cells = tuple(everything[number] for number in draw(sample, len(everything), seed))
    edits = (Variant((cell_edit(grid, cell, acts, pairs.into.lengths),)) for cell in cells)
    exact = share(pairs.into.gaps(edits, len(cells), progress, "checking"), pairs.base, pairs.other)
    return miss_of(cells, torch.stack([mean[cell] for cell in cells]), exact, len(everything), seed)

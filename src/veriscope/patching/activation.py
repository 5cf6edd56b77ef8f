"""Activation patching: one part of one run, at one position, replaced by its value in another run.

Source: "Interpretability in the Wild" (2022); "How to use and interpret activation patching" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from veriscope.patching import heatmap
from veriscope.patching.gaps import BadChoice, pair_up, share, share_estimate
from veriscope.patching.grid import Grid, Positions, cell_edit, lay_out, read_all
from veriscope.subjects import Subject, Variant
from veriscope.trials.evidence import Estimate


@dataclass(frozen=True, eq=False)
class Patched:
    """What patching each cell of a table did to the logit difference.

    Attributes:
        grid: Names of the axes.
        direction: "noising" (clean runs got corrupt values) or "denoising".
        clean, corrupt: Logit differences of the unedited runs.
        gaps: Logit difference after each patch.
        clusters: Which pairs are resampled together.
    """

    grid: Grid
    direction: str
    clean: Float[Tensor, "pair"]
    corrupt: Float[Tensor, "pair"]
    gaps: Float[Tensor, "block unit position pair"]
    clusters: tuple[str, ...]

    @property
    def base(self) -> Float[Tensor, "pair"]:
        """Logit differences of the runs patched into."""
        return self.clean if self.direction == "noising" else self.corrupt

    @property
    def other(self) -> Float[Tensor, "pair"]:
        """Logit differences of the runs that the values came from."""
        return self.corrupt if self.direction == "noising" else self.clean

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `effects`; `changes_logits` has "pair" behind them."""
        return self.grid.axes

    @property
    def effects(self) -> Float[Tensor, "..."]:
        """Normalised: 0 = as the run patched into, 1 = as the other run. One axis for each name in `axes`."""
        return self.grid.trim(share(self.gaps, self.base, self.other))

    @property
    def changes_logits(self) -> Float[Tensor, "..."]:
        """Change of each pair's logit difference, in logits: the axes of `effects`, then pair."""
        return self.grid.trim(self.gaps - self.base)

    def estimate(self, cell: tuple[int, int, int]) -> Estimate:
        """Normalised effect of one cell (indices of block, unit, position) with bounds, pairs resampled by cluster."""
        return share_estimate(self.gaps[cell], self.base, self.other, self.clusters)

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k strongest cells: their names, `effect` with `low` and `high`, and `effect_logits`."""
        return [self._row(cell) for cell in self.grid.strongest(share(self.gaps, self.base, self.other), k)]

    def table(self) -> list[dict[str, Any]]:
        """The same of every cell, in the order of the axes."""
        return [self._row(cell) for cell in self.grid]

    def plot(self, path: str | Path) -> Path:
        """Write the normalised effects as a heat map (SVG)."""
        note = (
            f"{self.direction}: 0 = run patched into ({float(self.base.mean()):.2f} logits), "
            f"1 = other run ({float(self.other.mean()):.2f}); {len(self.base)} pairs"
        )
        title = f"Activation patching of {self.grid.part}"
        return heatmap.write(path, self.grid, share(self.gaps, self.base, self.other), title, note)

    def _row(self, cell: tuple[int, int, int]) -> dict[str, Any]:
        found = self.estimate(cell)
        logits = float((self.gaps[cell] - self.base).mean())
        return {**self.grid.name(cell), "effect": found.value, "low": found.low, "high": found.high,
                "effect_logits": logits}  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{self.direction} {self.grid.part}: {len(self.grid)} cells, {len(self.base)} pairs; logit difference "
            f"{float(self.clean.mean()):.3f} clean, {float(self.corrupt.mean()):.3f} corrupt."
        ]
        for row in self.top(5):
            where = ", ".join(f"{axis} {row[axis]}" for axis in self.axes)
            lines.append(f"  {where}: {row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
        return "\n".join(lines)


def activation_patching(
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
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> Patched:
    """Patch every cell of a table by itself and see how far the answer moves from one run to the other.

    Args:
        subject: A model that gives logits.
        clean: Texts whose answers are `answers`.
        corrupt: One for each, of as many tokens, for which that answer is no longer right.
        answers, foils: Their first tokens are compared at the last token of each text.
        part: A site of each block: resid_pre, resid_mid, resid_post, attn_out, mlp_out (whole), heads.z or
            heads.q/k/v (by head), mlp.act (by neuron).
        positions: None for each token (all texts of one length), else a list, or names to positions; a position may
            be "last", "all", a number, one number for each text or a `Span`.
        blocks: Their numbers; None for all.
        units: Heads or neurons; None for all heads. Neurons must be chosen: there are many.
        direction: "noising" puts corrupt values into the clean run and finds what is needed; "denoising" the
            reverse, and finds what is enough.
        clusters: Which pairs belong together when bounds are drawn; None lets each stand alone.
        progress: Draw a bar after two seconds.
        keep: A folder where finished pieces are stored; called again after a kill, it goes on behind the last one.
            They are known by the model, the texts and the edits, so other questions may share it.

    Raises:
        UnequalPairs, NoGap, BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite: before any patch runs.
    """
    pairs = pair_up(subject, clean, corrupt, answers, foils, direction, clusters, keep)
    if part == "mlp.act" and units is None:
        raise BadChoice("units", None, "choose neurons, such as units=[3, 17]; attribution_patching ranks all at once")
    into = pairs.into
    grid = lay_out(subject, into.lengths, part, blocks=blocks, units=units, positions=positions)
    acts = read_all(subject, pairs.source.texts, grid)
    variants = (Variant((cell_edit(grid, cell, acts, into.lengths),)) for cell in grid)
    gaps = into.gaps(variants, len(grid), progress)
    return Patched(
        grid, direction, pairs.clean, pairs.corrupt, gaps.view(*grid.shape, len(into)), clusters=into.clusters
    )

"""Ablation of each unit, site or position, beside random changes of the same size.

Sources: "Interpretability in the Wild" (2022) for mean ablation, "Causal Scrubbing" (2022) for resampling. An effect
is held against controls of equal norm because any large enough change of an activation moves the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadPosition, NotRun
from veriscope.patching import heatmap
from veriscope.patching.gaps import Asked, BadChoice, ask
from veriscope.patching.grid import Cell, Grid, Positions, at_place, lay_out, mask_of, read_all
from veriscope.subjects import Add, At, Edit, Resample, Subject, Variant
from veriscope.subjects.sites import settle
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

FEWEST = 100  # controls, below which a rank says too little
KINDS = ("direction", "elsewhere")
_ROUNDING = 1e-6  # logits: what two runs of one thing differ by


@dataclass(frozen=True, eq=False)
class Ablated:
    """What each ablation did to the logit difference, and what random changes of the same norm did.

    Attributes:
        grid: Names of the axes.
        how: "zero", "mean" or "resample".
        base: Logit differences without any edit.
        gaps: Logit difference after each ablation.
        controls_logits: Mean change by each random control of each cell, by kind: "direction" (a random direction at
            the same site and positions), "elsewhere" (one at a random other block or position, or NotRun if there is
            none).
        clusters: Which texts are resampled together.
    """

    grid: Grid
    how: str
    base: Float[Tensor, "text"]
    gaps: Float[Tensor, "block unit position text"]
    controls_logits: Mapping[str, Float[Tensor, "block unit position control"] | NotRun]
    clusters: tuple[str, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `effects_logits` and `p_values`."""
        return self.grid.axes

    @property
    def effects_logits(self) -> Float[Tensor, "..."]:
        """Mean change of the logit difference: below zero where the ablated part spoke for the answer."""
        return self.grid.trim(self._mean())

    @property
    def p_values(self) -> Float[Tensor, "..."]:
        """Share of controls that move the logit difference at least as far either way: the larger of the two kinds.

        With the +1 correction, so never below 1 / (controls + 1). Not corrected for the number of cells.
        """
        return self.grid.trim(torch.tensor([self._p(cell) for cell in self.grid]).view(self.grid.shape))

    def estimate(self, cell: Cell) -> Estimate:
        """Mean change of one cell in logits with bounds, texts resampled by cluster."""
        return Resampler(self.clusters).mean((self.gaps[cell] - self.base).double().numpy())

    def flagged(self, level: float = 0.01) -> list[dict[str, Any]]:
        """Cells with a p-value of at most `level`, strongest first; of cells no stronger than
        random changes, a share of about `level` is flagged by chance."""
        ordered = self.grid.strongest(self._mean(), len(self.grid))
        return [self._row(cell) for cell in ordered if self._p(cell) <= level]

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k strongest cells: names, `effect_logits` with `low` and `high`, and for each kind of control the 95%
        quantile of its absolute effects, the cell's `rank` (1 = beyond all controls) and p-value."""
        return [self._row(cell) for cell in self.grid.strongest(self._mean(), k)]

    def table(self) -> list[dict[str, Any]]:
        """The same of every cell, in the order of the axes."""
        return [self._row(cell) for cell in self.grid]

    def plot(self, path: str | Path) -> Path:
        """Write the effects in excess of the controls' 95% quantile as a heat map (SVG)."""
        mean, bar = self._mean(), torch.zeros(self.grid.shape)
        for found in self.controls_logits.values():
            if isinstance(found, Tensor):
                bar = torch.maximum(bar, found.abs().quantile(0.95, dim=-1))
        excess = mean.sign() * (mean.abs() - bar).clamp_min(0)
        title = f"{self.how.capitalize()} ablation of {self.grid.part}"
        note = f"logits beyond the 95% quantile of random changes of equal norm (0 = within); {len(self.base)} texts"
        return heatmap.write(path, self.grid, excess, title, note)

    def _mean(self) -> Float[Tensor, "block unit position"]:
        return (self.gaps - self.base).mean(-1)

    def _rank(self, cell: Cell, kind: str) -> int | NotRun:
        """Place of a cell among its controls: 1 is beyond them all."""
        found = self.controls_logits[kind]
        if isinstance(found, NotRun):
            return found
        effect = (self.gaps[cell] - self.base).mean().abs()
        return 1 + int((found[cell].abs() >= effect - _ROUNDING).sum())

    def _p_of(self, cell: Cell, kind: str) -> float | NotRun:
        rank, found = self._rank(cell, kind), self.controls_logits[kind]
        if isinstance(rank, NotRun) or isinstance(found, NotRun):
            return NotRun("these controls could not be made")
        return rank / (1 + found.shape[-1])

    def _p(self, cell: Cell) -> float:
        return max(p for kind in self.controls_logits if not isinstance(p := self._p_of(cell, kind), NotRun))

    def _row(self, cell: Cell) -> dict[str, Any]:
        found = self.estimate(cell)
        row: dict[str, Any] = {**self.grid.name(cell), "effect_logits": found.value, "low": found.low,
                               "high": found.high}  # fmt: skip
        for kind, controls in self.controls_logits.items():
            within = float(controls[cell].abs().quantile(0.95)) if isinstance(controls, Tensor) else controls
            row |= {f"{kind}_q95_logits": within, f"{kind}_rank": self._rank(cell, kind),
                    f"{kind}_p": self._p_of(cell, kind)}  # fmt: skip
        return {**row, "p": self._p(cell)}

    def __str__(self) -> str:
        chance = 0.01 * len(self.grid)
        lines = [
            f"{self.how} ablation of {self.grid.part}: {len(self.grid)} cells, {len(self.base)} texts, logit "
            f"difference {float(self.base.mean()):.3f}; {len(self.flagged())} cells at p <= 0.01, {chance:.1f} "
            f"expected by chance."
        ]
        for row in self.top(5):
            where = ", ".join(f"{axis} {row[axis]}" for axis in self.axes)
            lines.append(
                f"  {where}: {row['effect_logits']:+.3f} logits [{row['low']:+.3f}, {row['high']:+.3f}], random "
                f"directions of equal norm within {row['direction_q95_logits']:.3f}, p = {row['p']:.3f}"
            )
        return "\n".join(lines)


def ablation_scan(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    *,
    part: str,
    how: str = "zero",
    reference: Sequence[str] | None = None,
    positions: Positions = ("all",),
    blocks: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    controls: int = FEWEST,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> Ablated:
    """Ablate each cell by itself, and beside each make random changes that are as large in every text.

    Args:
        subject: A model that gives logits.
        texts, answers, foils, part, blocks, units, clusters, progress, keep: As in `activation_patching`.
        how: "zero"; "mean" puts the mean over the reference at the same position ("all": over all its tokens);
            "resample" puts the value of another reference text, drawn by the seed.
        reference: Where means and values come from; None takes the texts themselves.
        positions: ("all",) ablates every token at once; None takes each token, or a list, or names to positions.
        controls: For each cell and each kind; at least 100, and they cost as many runs.
        seed: Of controls and of resampling.

    Raises:
        BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite: before any ablation runs.
    """
    if how not in ("zero", "mean", "resample"):
        raise BadChoice("how", how, "use 'zero', 'mean' or 'resample'")
    if controls < FEWEST:
        raise BadChoice("controls", controls, f"at least {FEWEST}, since no effect is shown without its controls")
    asked = ask(subject, texts, answers, foils, clusters, keep)
    grid = lay_out(subject, asked.lengths, part, blocks=blocks, units=units, positions=positions)
    every = lay_out(subject, asked.lengths, part, blocks=None, units=None, positions=positions)
    rng = np.random.default_rng([seed, 0xAB])
    changes = _Changes(asked, grid, every, how, reference, rng)
    base = asked.base()
    gaps = asked.gaps((changes.ablation(cell) for cell in grid), len(grid), progress, "ablating")
    found = {}
    for kind in KINDS:
        variants = changes.controls(kind, controls)
        total = controls * len(grid)
        found[kind] = variants if isinstance(variants, NotRun) else (
            (asked.gaps(variants, total, progress, f"controls ({kind})") - base).mean(-1).view(*grid.shape, controls)
        )  # fmt: skip
    return Ablated(grid, how, base, gaps.view(*grid.shape, len(asked)), found, asked.clusters)


class _Changes:
    """The edits of a scan: ablations as they were asked for, and random ones of the same norm in every text."""

    def __init__(
        self,
        asked: Asked,
        grid: Grid,
        every: Grid,
        how: str,
        reference: Sequence[str] | None,
        rng: np.random.Generator,
    ) -> None:
        self.asked, self.grid, self.every, self.how, self.rng = asked, grid, every, how, rng
        self.acts = read_all(asked.subject, asked.texts, grid)
        self.reference, self.lengths = self.acts, asked.lengths
        if reference is not None and how != "zero":
            if isinstance(reference, str) or not reference:
                raise BadChoice("reference", reference, "give a list of texts, or None for the texts themselves")
            self.reference = read_all(asked.subject, reference, grid)
            self.lengths = torch.tensor([len(ids) for ids in asked.subject.tokens(reference)])
        self._own = reference is None
        self._other = _drawn(len(asked), len(self.lengths), self._own, rng) if how == "resample" else None

    def ablation(self, cell: Cell) -> Variant:
        block, unit, position = cell
        at = self.grid.places[position]
        value = self._target(cell)
        return Variant((Edit(self.grid.site(block), Resample(value), at=at, units=self.grid.chosen(unit)),))

    def controls(self, kind: str, count: int) -> Iterator[Variant] | NotRun:
        """`count` random changes beside every cell, cell by cell; none if there is nowhere else to make them."""
        if kind == "elsewhere" and len(self.every.blocks) * len(self.every.positions) == 1:
            return NotRun("the model has one block and one position was asked for, so there is no other place")
        return (self._random(cell, norm, kind) for cell in self.grid for norm in [self._norm(cell)] * count)

    def _random(self, cell: Cell, norm: Float[Tensor, "text *token"], kind: str) -> Variant:
        """A random direction, the same in all texts and tokens, with the norm of the cell's change in each of them."""
        block, _, position = cell
        site, at = self.grid.site(block), self.grid.places[position]
        if kind == "elsewhere":
            site, place = self._elsewhere(self.grid.blocks[block], position)
            at = self.every.places[place]
            norm = _fit(norm, at, self.asked.lengths)
        size = self.asked.subject.site(site).size or 1
        direction = torch.as_tensor(self.rng.standard_normal(size), dtype=norm.dtype, device=norm.device)
        vector = norm.unsqueeze(-1) * (direction / direction.norm())
        if self.grid.unit == "head":
            vector = vector.unflatten(-1, (-1, self.asked.subject.site(site).width))
        return Variant((Edit(site, Add(vector), at=at),))

    def _elsewhere(self, block: int, position: int) -> tuple[str, int]:
        """A site and an index of a position, drawn from all others."""
        every = self.every
        while True:
            drawn = int(self.rng.integers(len(every.blocks))), int(self.rng.integers(len(every.positions)))
            if drawn != (block, position):
                return every.site(drawn[0]), drawn[1]

    def _norm(self, cell: Cell) -> Float[Tensor, "text *token"]:
        """Length of the cell's change in each text, and at each token where several are changed."""
        block, unit, position = cell
        now = at_place(self._cut(self.acts[block], unit), self.grid.places[position], self.asked.lengths)
        change = self._target(cell) - now
        if not _several(now, self.acts[block]):
            return change.flatten(1).norm(dim=-1)
        held = mask_of(self.grid.places[position], now.shape[1], self.asked.lengths).to(now.device)
        return change.flatten(2).norm(dim=-1) * held

    def _cut(self, acts: Tensor, unit: int) -> Tensor:
        if not self.grid.unit:
            return acts
        number = self.grid.units[unit]
        return acts[:, :, number : number + 1]

    def _target(self, cell: Cell) -> Float[Tensor, "text *rest"]:
        """What stands in the cell after its ablation, for each text."""
        block, unit, position = cell
        at = self.grid.places[position]
        now = at_place(self._cut(self.acts[block], unit), at, self.asked.lengths)
        if self.how == "zero":
            return torch.zeros_like(now)
        there = self._cut(self.reference[block], unit)
        if not self._own and not isinstance(at, str | int):
            raise BadPosition(
                "A position that differs from text to text can't be found in reference texts: use numbers, 'last' or "
                "'all', or leave reference=None"
            )
        if self.how == "mean":
            return self._mean(there, at).expand_as(now).contiguous()
        assert self._other is not None
        if _several(now, self.acts[block]):
            self._same_lengths()
            return there[self._other, : now.shape[1]]
        return at_place(there, at, self.lengths)[self._other]

    def _mean(self, there: Float[Tensor, "text token *inner"], at: At) -> Float[Tensor, "*inner"]:
        """Over one position of each reference text, or over all their tokens."""
        chosen = at_place(there, at, self.lengths)
        if not _several(chosen, there):
            return chosen.mean(0)
        real = torch.arange(there.shape[1]) < self.lengths[:, None]
        return there[real.to(there.device)].mean(0)

    def _same_lengths(self) -> None:
        if len(self.lengths.unique()) > 1 or int(self.lengths[0]) != int(self.asked.lengths.max()):
            raise BadPosition(
                "Resampling at all positions puts one text's tokens in the place of another's, so texts and reference "
                "need the same number of tokens: choose single positions such as 'last', or how='mean'"
            )


def _several(chosen: Tensor, whole: Tensor) -> bool:
    """Whether `at_place` left the position axis where it was."""
    return chosen.ndim == whole.ndim


def _fit(norm: Float[Tensor, "text *token"], at: At, lengths: Int[Tensor, "text"]) -> Float[Tensor, "text *spot"]:
    """The norms for another choice of positions: each text's root mean square where the numbers of tokens differ."""
    several = settle(at, lengths).index is None
    if several == (norm.ndim == 2):
        return norm
    if norm.ndim == 2:
        return norm.square().sum(1).sqrt()
    return (norm / lengths.to(norm) ** 0.5).unsqueeze(1).expand(-1, int(lengths.max()))


def _drawn(n: int, of: int, own: bool, rng: np.random.Generator) -> Int[Tensor, "text"]:
    """A reference text for each text; never the text itself where the texts are their own reference."""
    if own and n == 1:
        raise BadChoice("reference", None, "one text can't be resampled from itself; give texts as reference=[...]")
    if own:
        return torch.as_tensor((np.arange(n) + rng.integers(1, n, size=n)) % n)
    return torch.as_tensor(rng.integers(0, of, size=n))

"""The cells that a table has: one part of every block, cut into heads or neurons, at named positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.errors import BadPosition, nearest
from veriscope.patching.gaps import BadChoice
from veriscope.subjects import At, Edit, Read, Resample, Subject
from veriscope.subjects.sites import settle

PARTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "heads.q", "heads.k", "heads.v", "heads.z",
         "mlp.act")  # fmt: skip
SPLIT = {"heads.q": "head", "heads.k": "head", "heads.v": "head", "heads.z": "head", "mlp.act": "neuron"}

Positions: TypeAlias = Sequence[At] | Mapping[str, At] | None
"""Names to positions, positions that are their own name, or None: each token, where all texts have as many."""

Cell = tuple[int, int, int]  # indices along blocks, units and positions


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a table.

    Attributes:
        part: Which site of each block, such as "heads.z".
        blocks: Their numbers.
        unit: "head" or "neuron", or "" where the whole site is one cell.
        units: Numbers of the heads or neurons; one entry, 0, where the site is whole.
        positions: Names.
        places: What each name means in the texts.
    """

    part: str
    blocks: tuple[int, ...]
    unit: str
    units: tuple[int, ...]
    positions: tuple[str, ...]
    places: tuple[At, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.blocks), len(self.units), len(self.positions)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, the unit axis only where there is one."""
        return ("block", self.unit, "position") if self.unit else ("block", "position")

    def __len__(self) -> int:
        return len(self.blocks) * len(self.units) * len(self.positions)

    def __iter__(self) -> Iterator[Cell]:
        for block in range(len(self.blocks)):
            for unit in range(len(self.units)):
                for position in range(len(self.positions)):
                    yield block, unit, position

    def site(self, block: int) -> str:
        """Site of the block at an index along the axis."""
        return f"blocks.{self.blocks[block]}.{self.part}"

    def chosen(self, unit: int) -> tuple[int, ...] | None:
        """`units` of an edit of one cell."""
        return (self.units[unit],) if self.unit else None

    def trim(self, table: Float[Tensor, "block unit position *rest"]) -> Float[Tensor, "..."]:
        """A table without the unit axis where the site is whole."""
        return table if self.unit else table.squeeze(1)

    def name(self, cell: Cell) -> dict[str, int | str]:
        """What a cell is called: {"block": 3, "head": 5, "position": "last"}."""
        block, unit, position = cell
        out: dict[str, int | str] = {"block": self.blocks[block]}
        if self.unit:
            out[self.unit] = self.units[unit]
        return {**out, "position": self.positions[position]}

    def strongest(self, table: Float[Tensor, "block unit position"], k: int) -> list[Cell]:
        """The k cells of largest absolute value, largest first."""
        order = table.flatten().abs().argsort(descending=True, stable=True)[:k].tolist()
        cells = list(self)
        return [cells[number] for number in order]


def lay_out(
    subject: Subject,
    lengths: Int[Tensor, "text"],
    part: str,
    *,
    blocks: Sequence[int] | None,
    units: Sequence[int] | None,
    positions: Positions,
) -> Grid:
    """Check what was asked for and name the axes.

    Raises:
        BadChoice: No such part, block or unit.
        BadPosition: The texts do not have the positions, or differ in length where each token was asked for.
        UnknownSite: This model has no such site.
    """
    if part not in PARTS:
        raise BadChoice("part", part, f"{nearest(part, PARTS)}it is one of {', '.join(PARTS)}")
    chosen = tuple(range(subject.n_blocks)) if blocks is None else tuple(blocks)
    if not chosen or not all(0 <= block < subject.n_blocks for block in chosen):
        raise BadChoice("blocks", blocks, f"{subject.name} has blocks 0..{subject.n_blocks - 1}")
    for block in chosen:
        subject.site(f"blocks.{block}.{part}")
    count = subject.site(f"blocks.{chosen[0]}.{part}").units or 0
    unit = SPLIT.get(part, "")
    if not unit and units is not None:
        raise BadChoice("units", units, f"{part} is patched whole; heads.z and mlp.act have units")
    numbers = (0,) if not unit else tuple(range(count)) if units is None else tuple(units)
    if not numbers or not all(0 <= number < max(count, 1) for number in numbers):
        raise BadChoice("units", units, f"{part} has units 0..{count - 1}")
    names, places = _named(positions, lengths)
    return Grid(part, chosen, unit, numbers, names, places)


def _named(positions: Positions, lengths: Int[Tensor, "text"]) -> tuple[tuple[str, ...], tuple[At, ...]]:
    if positions is None:
        if int(lengths.min()) != int(lengths.max()):
            raise BadPosition(
                f"The texts have {int(lengths.min())} to {int(lengths.max())} tokens, so position 3 is not the same "
                f"place in each. Give positions=[...]: 'last', 'all', numbers counted from the end such as -2, or "
                f"names, positions={{'name': subject.where('name', sample)}}."
            )
        positions = list(range(int(lengths[0])))
    if isinstance(positions, str) or not positions:
        raise BadPosition(f"positions={positions!r}: give a list of positions, or a mapping of names to positions.")
    if isinstance(positions, Mapping):
        names, places = tuple(positions), tuple(positions.values())
    else:
        places = tuple(positions)
        plain = isinstance(places[0], int | str)
        names = tuple(str(at) if plain and isinstance(at, int | str) else f"#{i}" for i, at in enumerate(places))
    for at in places:
        settle(at, lengths)
    return names, places


def read_all(subject: Subject, texts: Sequence[str], grid: Grid) -> tuple[Float[Tensor, "text token *inner"], ...]:
    """Every token's activations at the site of each block, all units."""
    reads = [Read(grid.site(block)) for block in range(len(grid.blocks))]
    run = subject.run(texts, read=reads)
    return tuple(run[read] for read in reads)


def at_place(
    acts: Float[Tensor, "text token *inner"], at: At, lengths: Int[Tensor, "text"]
) -> Float[Tensor, "text *rest"]:
    """Activations where `at` chooses one position of each text; all of them where it chooses several."""
    index = settle(at, lengths).index
    return acts if index is None else acts[torch.arange(len(acts)), index.to(acts.device)]


def mask_of(at: At, width: int, lengths: Int[Tensor, "text"]) -> Bool[Tensor, "text token"]:
    """True at the positions that `at` means, `width` of them laid out for each text."""
    places, position = settle(at, lengths), torch.arange(width)
    if places.index is not None:
        return position == places.index[:, None]
    real = position < lengths[:, None]
    if places.mask is None:
        return real
    given = torch.nn.functional.pad(places.mask, (0, max(0, width - places.mask.shape[1])))
    return real & given[:, :width]


def swap_in(
    site: str,
    acts: Float[Tensor, "text token *inner"],
    at: At,
    lengths: Int[Tensor, "text"],
    units: tuple[int, ...] | None = None,
    *,
    axis: int = -1,
) -> Edit:
    """The edit that puts another run's values into a site.

    Args:
        site: Where.
        acts: The other run's values at all positions, all units.
        at: Positions that are changed.
        lengths: Tokens of each text.
        units: Heads or coordinates that are changed; None for all.
        axis: Axis of `acts` along which units lie: -2 for heads.
    """
    values = acts if units is None else acts.index_select(axis, torch.tensor(units, device=acts.device))
    return Edit(site, Resample(at_place(values, at, lengths)), at=at, units=units)


def cell_edit(
    grid: Grid, cell: Cell, acts: Sequence[Float[Tensor, "text token *inner"]], lengths: Int[Tensor, "text"]
) -> Edit:
    """The edit of one cell, with values from `read_all`."""
    block, unit, position = cell
    axis = -2 if grid.unit == "head" else -1
    return swap_in(grid.site(block), acts[block], grid.places[position], lengths, grid.chosen(unit), axis=axis)

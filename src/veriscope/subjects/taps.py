"""What happens when the forward pass reaches a site: edits first, in order, then what was asked for is kept.

A read at an edited site therefore sees the value after the edits. Nothing else of the run is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from veriscope.subjects.edits import Settled
from veriscope.subjects.plan import Batch
from veriscope.subjects.sites import Places, Read, Site


@runtime_checkable
class Reached(Protocol):
    """What a hook tells that the forward pass has reached a site, and that gives back what the model goes on with."""

    def reach(self, name: str, h: Tensor, slot: int | None = None) -> Tensor: ...


class Enough(Exception):
    """Raised inside a forward pass once the last thing asked for was kept: what follows is not computed."""


class Keeper:
    """Collects one read over all batches, in the order of the prompts."""

    def __init__(self, read: Read, site: Site, places: Places, n: int, longest: int, grad: bool) -> None:
        self.read, self.site, self.places = read, site, places
        self.n, self.longest, self.grad = n, longest, grad
        self._units = None if read.units is None else list(read.units)
        self._whole: Tensor | None = None
        self._parts: list[tuple[Tensor, Tensor]] = []

    def keep(self, h: Tensor, batch: Batch) -> None:
        """Keep what was asked of h (row, position, *unit axes)."""
        if self._units is not None:
            h = h[..., self._units, :] if self.site.per_head else h[..., self._units]
        if self.places.index is not None:
            where = self.places.index[batch.rows]
            h = h[torch.arange(len(where), device=h.device), where]
        elif self.site.has_positions:
            h = self._padded(h, batch)
        else:
            h = h[:, 0]
        if self.grad:
            self._parts.append((batch.rows, h))
            return
        if self._whole is None:
            self._whole = h.new_zeros(self.n, *self._shape(h))
        if h.shape[1:] == self._whole.shape[1:]:
            self._whole[batch.rows] = h
        else:
            self._whole[batch.rows] = _grow(h, list(self._whole.shape[1:]))

    def _padded(self, h: Tensor, batch: Batch) -> Tensor:
        """Zeros where no token of the prompt stands, for keys of an attention pattern as well."""
        if batch.ragged:
            pad = ~batch.real
            h = h.masked_fill(pad.view(*pad.shape, *[1] * (h.ndim - 2)), 0.0)
        return h

    def _shape(self, h: Tensor) -> list[int]:
        shape = list(h.shape[1:])
        if self.places.index is None and self.site.has_positions:
            shape[0] = self.longest
        if self.site.axes[-1] == "key":
            shape[-1] = self.longest
        return shape

    def result(self) -> Tensor:
        """(example, *unit axes) for one position, else (example, position, ...) with the site's own axis order."""
        if self.grad:
            rows = torch.cat([rows for rows, _ in self._parts])
            shape = self._shape(self._parts[0][1])
            whole = torch.cat([_grow(h, shape) for _, h in self._parts])[rows.argsort()]
        else:
            assert self._whole is not None
            whole = self._whole
        return whole.transpose(1, 2) if self.places.index is None and self.site.axes[-1] == "key" else whole


def _grow(h: Tensor, shape: list[int]) -> Tensor:
    pads: list[int] = []
    for have, want in zip(reversed(h.shape[1:]), reversed(shape), strict=True):
        pads += [0, want - have]
    return torch.nn.functional.pad(h, pads) if any(pads) else h


@dataclass(eq=False)
class Tap:
    """The edits and reads of one site in one run."""

    site: Site
    edits: list[Settled] = field(default_factory=list)
    keepers: list[Keeper] = field(default_factory=list)
    change: Callable[[Tensor, Batch], Tensor] | None = None

    def __call__(self, h: Tensor, taps: Taps, slot: int | None = None) -> Tensor:
        """The tensor that the model goes on with.

        Args:
            h: (row, slot, *unit axes) as the model holds it.
            taps: The run that this belongs to.
            slot: Slot of h's first column, if it is not that of the batch (keys and values from a cache).
        """
        batch = taps.batch
        assert batch is not None
        for edit in self.edits:
            h = edit.apply(h, batch, batch.slot if slot is None else slot)
        if self.change is not None:
            h = self.change(h, batch)
        for keeper in self.keepers:
            keeper.keep(h, batch)
        return h


class Taps(dict[str, Tap]):
    """All taps of a run by site, and the batch that is under way."""

    def __init__(self, taps: Mapping[str, Tap] | Iterable[tuple[str, Tap]] = ()) -> None:
        super().__init__(taps)
        self.batch: Batch | None = None
        self.stop_early = False
        self._waiting = 0

    def begin(self, batch: Batch) -> None:
        """Call before each forward pass."""
        self.batch = batch
        self._waiting = sum(bool(tap.keepers) for tap in self.values())

    def reach(self, name: str, h: Tensor, slot: int | None = None) -> Tensor:
        """Pass a tensor through the tap of a site.

        Raises:
            Enough: Everything asked for was kept and nothing later is needed.
        """
        tap = self[name]
        h = tap(h, self, slot)
        if tap.keepers:
            self._waiting -= 1
            if self.stop_early and self._waiting == 0:
                raise Enough
        return h

"""What a run changes at a site, and how a change is settled for a list of prompts and then applied.

An edit never writes into a tensor that the model or a read still holds: it returns a new one. Several edits
on one site apply in the order given. Projections follow "Null It Out" (2020) and "LEACE" (2023); swapping a
subspace follows "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
Representations" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import BadEdit, BadPosition
from veriscope.subjects.plan import Batch
from veriscope.subjects.sites import At, Places, Site, settle


@dataclass(frozen=True, eq=False)
class Add:
    """h + vector: one vector, or one for each example."""

    vector: Float[Tensor, "..."] | float


@dataclass(frozen=True, eq=False)
class SetTo:
    """The value itself: one for all examples, or one for each."""

    value: Float[Tensor, "..."] | float


@dataclass(frozen=True)
class Zero:
    """Zero ablation."""


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean ablation: the mean over a reference distribution stands in, the same for all examples."""

    value: Float[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class Resample:
    """Resampling ablation: another run's value for each example."""

    values: Float[Tensor, "example *rest"]


@dataclass(frozen=True, eq=False)
class Erase:
    """h - left (right (h - origin)); with left = right transposed and orthonormal: projection out of a subspace."""

    left: Float[Tensor, "width rank"]
    right: Float[Tensor, "rank width"]
    origin: Float[Tensor, "width"]


@dataclass(frozen=True, eq=False)
class Onto:
    """origin + P (h - origin): only the subspace spanned by the columns of `basis` is kept."""

    basis: Float[Tensor, "width rank"]
    origin: Float[Tensor, "width"]


@dataclass(frozen=True, eq=False)
class Swap:
    """h + P (values - h): the other run's value, in the span of `basis` or (None) entirely."""

    values: Float[Tensor, "example *rest"]
    basis: Float[Tensor, "width rank"] | None = None


How = Add | SetTo | Zero | Mean | Resample | Erase | Onto | Swap


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one site, at chosen positions and units.

    Attributes:
        site: Where.
        how: What is done there.
        at: Positions, see `At`; in `generate`, "all" holds for new tokens too, everything else for the prompt.
        units: Heads at per-head sites, else coordinates of the last axis; None for all of them.
    """

    site: str
    how: How
    at: At = "all"
    units: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Settled:
    """An edit that has been fitted to a site and to a list of prompts.

    `values` has the layout (example or 1, position or 1, *unit axes); the unit axes are those of the chosen units.
    """

    edit: Edit
    site: Site
    places: Places
    units: Tensor | None
    values: Tensor | None
    left: Tensor | None = None
    right: Tensor | None = None
    origin: Tensor | None = None

    def apply(self, h: Tensor, batch: Batch, slot: int) -> Tensor:
        """The changed tensor.

        Args:
            h: (row, slot, *unit axes), as it stands in the model.
            batch: Which prompts these are.
            slot: Slot of h's first column.
        """
        if self.places.index is not None:
            return self._at_one_place(h, batch, slot)
        mask = self._mask(h, batch, slot)
        if mask is not None and not mask.any():
            return h
        changed = self.change(h, self._values(h, batch, slot))
        return changed if mask is None else torch.where(mask.view(*mask.shape, *[1] * (h.ndim - 2)), changed, h)

    def _at_one_place(self, h: Tensor, batch: Batch, slot: int) -> Tensor:
        assert self.places.index is not None
        where = self.places.index[batch.rows] - slot
        if batch.start is not None:
            where = where + batch.start
        values = self._values(h, batch, slot)
        values = values[:, 0] if values is not None else None
        if slot:  # later steps of a generation: the prompt's places may lie before the first column
            inside = (where >= 0) & (where < h.shape[1])
            if not inside.any():
                return h
            where = where.clamp(0, h.shape[1] - 1)
        rows = torch.arange(len(where), device=h.device)
        before = h[rows, where]
        after = self.change(before, values)
        if slot:
            after = torch.where(inside.view(-1, *[1] * (after.ndim - 1)), after, before)
        return h.index_put((rows, where), after)

    def _mask(self, h: Tensor, batch: Batch, slot: int) -> Tensor | None:
        """Where the edit holds, (row, slot); None for everywhere."""
        known = self.places.mask
        stretch = self.values.shape[1] if self.values is not None and self.values.shape[1] > 1 else None
        if known is None and stretch is None:
            return None
        position = torch.arange(slot, slot + h.shape[1], device=h.device).expand(len(batch), -1)
        if batch.start is not None:
            position = position - batch.start[:, None]
        last = stretch if known is None else known.shape[1] if stretch is None else min(stretch, known.shape[1])
        assert last is not None
        inside = (position >= 0) & (position < last)
        if known is None:
            return inside
        return inside & known[batch.rows].gather(1, position.clamp(0, known.shape[1] - 1))

    def _values(self, h: Tensor, batch: Batch, slot: int) -> Tensor | None:
        """This batch's values, broadcastable against h's chosen units."""
        values = self.values
        if values is None:
            return None
        if values.shape[0] > 1:
            values = values[batch.rows]
        if values.shape[1] > 1:
            position = torch.arange(slot, slot + h.shape[1], device=h.device).expand(len(batch), -1)
            if batch.start is not None:
                position = position - batch.start[:, None]
            rows = torch.arange(len(batch), device=h.device)[:, None] if values.shape[0] > 1 else 0
            values = values[rows, position.clamp(0, values.shape[1] - 1)]
        if self.site.width is None and values.shape[-1] > 1:  # attention patterns: as many keys as this batch has
            values = _to_width(values, h.shape[-1])
        return values

    def change(self, h: Tensor, values: Tensor | None) -> Tensor:
        """h (*, *unit axes) edited everywhere, with values that broadcast against its chosen units."""
        if self.units is None:
            return self._act(h, values)
        axis = -2 if self.site.per_head else -1
        return h.index_copy(axis, self.units, self._act(h.index_select(axis, self.units), values))

    def _act(self, h: Tensor, values: Tensor | None) -> Tensor:
        match self.edit.how:
            case Zero():
                return torch.zeros_like(h)
            case Add():
                assert values is not None
                return h + values
            case SetTo() | Mean() | Resample() | Swap(basis=None):
                assert values is not None
                return values.expand_as(h).contiguous()
            case Swap():
                assert values is not None
                return h + self._project(values - h)
            case Onto():
                return self._project(self._from_origin(h)) + self._origin_like(h)
            case _:
                return h - self._project(self._from_origin(h))

    def _project(self, x: Tensor) -> Tensor:
        """left (right x), over the last axis, or over heads and their width together where the basis spans both."""
        assert self.left is not None and self.right is not None
        if self.right.shape[1] != x.shape[-1]:
            return self._project_flat(x.flatten(-2)).view(x.shape)
        return self._project_flat(x)

    def _project_flat(self, x: Tensor) -> Tensor:
        assert self.left is not None and self.right is not None
        return (x @ self.right.T) @ self.left.T

    def _origin_like(self, x: Tensor) -> Tensor:
        assert self.origin is not None
        return self.origin if self.origin.shape[0] == x.shape[-1] else self.origin.view(x.shape[-2:])

    def _from_origin(self, x: Tensor) -> Tensor:
        return x - self._origin_like(x)


def fit_edit(edit: Edit, site: Site, lengths: Tensor, dtype: torch.dtype) -> Settled:
    """Check an edit against its site and the prompts, and bring its values into one layout.

    Raises:
        BadEdit: Values, basis or units do not fit the site.
        BadPosition: Positions do not fit the prompts or the site.
    """
    places = settle(edit.at, lengths.cpu())
    device = lengths.device
    if not site.has_positions and not (places.everywhere or edit.at in ("last", "first")):
        raise BadPosition(f"{site.name} has no position axis {site.axes}: leave `at` as 'all'.")
    if not site.has_positions:
        places = Places()
    places = Places(*(None if part is None else part.to(device) for part in (places.index, places.mask)))
    units = _fit_units(edit, site, device)
    settled = Settled(edit, site, places, units, _fit_values(edit, site, len(lengths), places))
    if settled.values is not None:
        settled = replace(settled, values=settled.values.to(device=device, dtype=dtype))
    return _fit_basis(settled, device, dtype)


def _fit_units(edit: Edit, site: Site, device: torch.device) -> Tensor | None:
    if edit.units is None:
        return None
    if site.units is None or not edit.units or not all(0 <= unit < site.units for unit in edit.units):
        known = f"0..{site.units - 1}" if site.units else "none to choose from"
        raise BadEdit(f"{site.name} has units {known}; units={edit.units} was asked for.")
    return torch.tensor(edit.units, device=device)


def _given(how: How) -> tuple[Tensor | float | None, bool | None]:
    """The values of an edit, and whether there is one for each example (None: either)."""
    match how:
        case Add(vector):
            return vector, None
        case SetTo(value):
            return value, None
        case Mean(value):
            return value, False
        case Resample(values) | Swap(values):
            return values, True
        case _:
            return None, False


def _fit_values(edit: Edit, site: Site, n: int, places: Places) -> Tensor | None:
    """Values as (n or 1, positions or 1, *unit axes)."""
    given, each = _given(edit.how)
    if given is None:
        return None
    value = torch.as_tensor(given)
    shape = _unit_shape(edit, site)
    if value.ndim == 0:
        return value.view(1, 1, *[1] * len(shape))
    if site.axes[-1] == "key" and value.ndim == 4:
        value = value.transpose(1, 2)  # a read of all positions gives (example, head, query, key)
    fitted = _fit_heads(value, edit, site, shape, n) if site.per_head else _fit_plain(value, edit, site, shape, n)
    if fitted is None or (each and fitted.shape[0] != n) or (each is False and fitted.shape[0] != 1):
        raise BadEdit(_shapes_message(edit, site, shape, n, value))
    if fitted.shape[1] > 1 and places.index is not None:
        raise BadEdit(f"{_name(edit)} at {site.name} has values for every position, but `at` chooses one: use 'all'.")
    return fitted


def _unit_shape(edit: Edit, site: Site) -> tuple[int | None, ...]:
    """Lengths of the unit axes after units were chosen; None where any length is fine."""
    count = len(edit.units) if edit.units is not None else None
    if site.per_head:
        return (count or site.units, site.width)
    middle = len(site.axes) - 2 - site.has_positions
    return (*[None] * middle, count or site.width)


def _fit_plain(value: Tensor, edit: Edit, site: Site, shape: tuple[int | None, ...], n: int) -> Tensor | None:
    if edit.units is not None and value.shape[-1] != len(edit.units) and value.shape[-1] == site.width:
        value = value[..., list(edit.units)]
    if value.shape[-1] != shape[-1]:
        return None
    middle = [1] * (len(shape) - 1)
    if value.ndim == 1:
        return value.view(1, 1, *middle, -1)
    if value.shape[0] != n:
        return None
    if value.ndim == 2:
        return value.view(n, 1, *middle, value.shape[-1])
    if value.ndim == 1 + len(shape):
        return value.unsqueeze(1)
    return value if value.ndim == 2 + len(shape) and site.has_positions else None


def _fit_heads(value: Tensor, edit: Edit, site: Site, shape: tuple[int | None, ...], n: int) -> Tensor | None:
    """Values with heads side by side or on an axis of their own, for the chosen heads or for all of them."""
    heads, width = shape
    assert heads is not None and site.units is not None
    chosen = torch.tensor(edit.units, device=value.device) if edit.units is not None else None
    side_by_side = width is not None and width < value.shape[-1] in (heads * width, site.units * width)
    if side_by_side and width is not None:
        value = value.unflatten(-1, (-1, width))
    elif width is not None and value.shape[-1] != width:
        return None
    elif value.ndim == 1:
        return value.view(1, 1, 1, -1)
    elif value.ndim == 2 and (value.shape[0] == n or chosen is None or value.shape[0] != site.units):
        return _two_axes(value, edit, site, heads, n)
    if chosen is not None and value.shape[-2] == site.units:
        value = value.index_select(-2, chosen)
    if value.shape[-2] != heads or value.ndim > 4 or (value.ndim > 2 and value.shape[0] not in (1, n)):
        return None
    return value.view(1, 1, *value.shape) if value.ndim == 2 else value.unsqueeze(1) if value.ndim == 3 else value


def _two_axes(value: Tensor, edit: Edit, site: Site, heads: int, n: int) -> Tensor | None:
    """(head, d_head) for all examples, or (example, d_head) for all heads."""
    by_head, by_example = value.shape[0] == heads, value.shape[0] == n
    _, each = _given(edit.how)
    if by_head and by_example and heads > 1 and each is None:
        raise BadEdit(
            f"{_name(edit)} at {site.name}: {tuple(value.shape)} could mean one row for each head or for each "
            f"example. Give (1, head, d_head) or (example, head, d_head)."
        )
    if by_example and each is not False and not (by_head and each is None and heads == 1 and n > 1):
        return value.view(n, 1, 1, -1)
    return value.view(1, 1, heads, -1) if by_head else None


def _fit_basis(settled: Settled, device: torch.device, dtype: torch.dtype) -> Settled:
    match settled.edit.how:
        case Erase(left, right, origin):
            pass
        case Onto(basis, origin):
            left = torch.linalg.qr(basis.double()).Q
            right = left.T
        case Swap(_, basis) if basis is not None:
            left = torch.linalg.qr(basis.double()).Q
            right, origin = left.T, left.new_zeros(left.shape[0])
        case _:
            return settled
    shape = _unit_shape(settled.edit, settled.site)
    fits = {shape[-1]}
    if settled.site.per_head and shape[-1] is not None and shape[0] is not None:
        fits.add(shape[0] * shape[-1])
    if right.shape[1] not in fits or left.shape[0] != right.shape[1] or origin.shape[0] != right.shape[1]:
        raise BadEdit(
            f"{_name(settled.edit)} at {settled.site.name} needs a basis and an origin of width "
            f"{' or '.join(str(width) for width in fits)}; got {tuple(left.shape)} and {tuple(origin.shape)}."
        )
    left, right, origin = (part.to(device=device, dtype=dtype) for part in (left, right, origin))
    return replace(settled, left=left, right=right, origin=origin)


def _to_width(values: Tensor, width: int) -> Tensor:
    if values.shape[-1] >= width:
        return values[..., :width]
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def _name(edit: Edit) -> str:
    return type(edit.how).__name__


def _shapes_message(edit: Edit, site: Site, shape: tuple[int | None, ...], n: int, value: Tensor) -> str:
    tail = ", ".join("any" if length is None else str(length) for length in shape)
    chosen = f" with units={edit.units}" if edit.units is not None else ""
    _, each = _given(edit.how)
    wanted = {None: f"({tail}) or ({n}, {tail})", True: f"({n}, {tail})", False: f"({tail})"}[each]
    got = tuple(value.shape)
    return f"{_name(edit)} at {site.name}{chosen} takes values of shape {wanted} for {n} prompts; got {got}."

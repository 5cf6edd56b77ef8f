"""Named places in a model: what a site is, what a read takes there, and how positions are chosen.

A site name never holds a position or a unit: those stand beside it. One name means one tensor in every
family, see `families.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from veriscope.errors import BadPosition


@dataclass(frozen=True)
class Site:
    """A named place with named axes.

    Attributes:
        name: Such as `blocks.3.heads.z`.
        axes: In the order in which a read of all positions returns them.
        width: Length of the last axis; None where it follows the input (attention patterns).
        units: Number of things that `units` of a read or an edit choose from: heads, else coordinates.
    """

    name: str
    axes: tuple[str, ...]
    width: int | None
    units: int | None

    @property
    def per_head(self) -> bool:
        """Whether `units` counts heads, which then have an axis of their own."""
        return "head" in self.axes

    @property
    def has_positions(self) -> bool:
        return "position" in self.axes or "query" in self.axes

    @property
    def size(self) -> int | None:
        """Numbers kept for one position: heads times their width, or the width."""
        if self.width is None:
            return None
        return self.width * self.units if self.per_head and self.units else self.width


@dataclass(frozen=True)
class Span:
    """Positions `start` up to but not including `stop`: one pair for all prompts, or one pair each.

    Negative numbers count from the end of the prompt's own tokens; `stop=None` means up to and including the last.
    """

    start: int | Sequence[int]
    stop: int | Sequence[int] | None = None


At = str | int | Sequence[int] | Tensor | Span
"""`"all"`, `"last"`, `"first"`, one integer, one integer for each prompt, a `Span`, or (edits only) a Boolean mask."""


@dataclass(frozen=True)
class Read:
    """What a run keeps: one site, at all positions or at one for each prompt, all units or some."""

    site: str
    at: At = "all"
    units: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Places:
    """`At` settled for a list of prompts: everywhere, one index each, or a mask (at most one of the two is set)."""

    index: Int[Tensor, "example"] | None = None
    mask: Bool[Tensor, "example position"] | None = None

    @property
    def everywhere(self) -> bool:
        return self.index is None and self.mask is None


def settle(at: At, lengths: Int[Tensor, "example"]) -> Places:
    """Turn a description of positions into numbers, counted from each prompt's first token.

    Raises:
        BadPosition: A prompt is too short, there is not one position for each prompt, or the form is not known.
    """
    if isinstance(at, Span):
        return Places(mask=_span_mask(at, lengths))
    if isinstance(at, str):
        if at == "all":
            return Places()
        if at in ("last", "first"):
            return Places(index=lengths - 1 if at == "last" else torch.zeros_like(lengths))
        raise BadPosition(
            f"'{at}' is no position: use 'all', 'last', 'first', a number, or one number for each prompt. "
            f"For the name of a field, ask subject.where('{at}', sample) first."
        )
    if isinstance(at, Tensor) and at.dtype == torch.bool:
        if at.ndim != 2 or at.shape[0] != len(lengths):
            raise BadPosition(f"A mask of positions needs one row for each of {len(lengths)} prompts, not {at.shape}.")
        return Places(mask=at)
    return Places(index=_in_range(torch.as_tensor(at, dtype=torch.long).expand(_one_each(at, lengths)), lengths))


def _one_each(at: int | Sequence[int] | Tensor, lengths: Tensor) -> tuple[int]:
    given = torch.as_tensor(at)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != len(lengths)):
        raise BadPosition(f"Positions of shape {tuple(given.shape)} for {len(lengths)} prompts: give one, or one each.")
    return (len(lengths),)


def _in_range(index: Tensor, lengths: Tensor) -> Tensor:
    settled = torch.where(index < 0, index + lengths, index)
    wrong = ((settled < 0) | (settled >= lengths)).nonzero().flatten().tolist()
    if wrong:
        first = wrong[0]
        raise BadPosition(
            f"Position {int(index[first])} is outside prompt {first}, which has {int(lengths[first])} tokens "
            f"({len(wrong)} of {len(lengths)} prompts are too short). 'last' fits every prompt."
        )
    return settled


def _span_mask(span: Span, lengths: Tensor) -> Tensor:
    start = torch.as_tensor(span.start).expand(_one_each(span.start, lengths))
    stop = lengths if span.stop is None else torch.as_tensor(span.stop).expand(_one_each(span.stop, lengths))
    start, stop = (torch.where(edge < 0, edge + lengths, edge) for edge in (start, stop))
    wrong = ((start < 0) | (start >= stop) | (stop > lengths)).nonzero().flatten().tolist()
    if wrong:
        first = wrong[0]
        raise BadPosition(
            f"The span {int(start[first])}:{int(stop[first])} is empty or outside prompt {first}, "
            f"which has {int(lengths[first])} tokens ({len(wrong)} of {len(lengths)} prompts)."
        )
    positions = torch.arange(int(lengths.max()))
    return (positions >= start[:, None]) & (positions < stop[:, None])

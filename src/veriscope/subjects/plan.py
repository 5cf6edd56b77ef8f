"""How a list of prompts becomes batches: sorted by length, limited by tokens, padded on the right.

Equal lengths end up together, so little is computed in vain, and the order of the results does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts that go through the model together.

    Attributes:
        rows: Which prompts these are, in the order asked.
        ids: Token ids, padded.
        lengths: Real tokens of each prompt.
        start: Slot of each prompt's first token; None where padding stands on the right (slot = position).
        ragged: Whether any padding occurs.
        slot: Slot of the first column of `ids`: 0 except when generation goes on from a cache.
    """

    rows: Int[Tensor, "row"]
    ids: Int[Tensor, "row slot"]
    lengths: Int[Tensor, "row"]
    start: Int[Tensor, "row"] | None = None
    ragged: bool = False
    slot: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def real(self) -> Bool[Tensor, "row slot"]:
        """True where a token of the prompt stands, False on padding (only for padding on the right)."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


@dataclass(frozen=True)
class Plan:
    """All batches of one list of prompts."""

    batches: tuple[Batch, ...]
    lengths: Int[Tensor, "example"]
    longest: int

    def __len__(self) -> int:
        return len(self.lengths)


def plan(
    tokens: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    fill: int = 0,
    equal_lengths: bool = False,
    left: bool = False,
    device: torch.device | str = "cpu",
) -> Plan:
    """Lay prompts out in batches.

    Args:
        tokens: Token ids of each prompt.
        batch_tokens: Most slots in one batch, padding included; one prompt is always let through.
        fill: Id that stands on padding.
        equal_lengths: Never pad: a batch holds prompts of one length only.
        left: Pad on the left, as generation with a cache needs.
        device: Where the batches are put.
    """
    lengths = [len(ids) for ids in tokens]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    for row in order:
        group = groups[-1] if groups else None
        fits = group is not None and (len(group) + 1) * lengths[row] <= batch_tokens
        if group is not None and fits and not (equal_lengths and lengths[group[0]] != lengths[row]):
            group.append(row)
        else:
            groups.append([row])
    batches = tuple(_batch(tokens, group, fill, left, device) for group in groups)
    return Plan(batches, torch.tensor(lengths, dtype=torch.long, device=device), max(lengths, default=0))


def _batch(
    tokens: Sequence[Sequence[int]], rows: list[int], fill: int, left: bool, device: torch.device | str
) -> Batch:
    longest = len(tokens[rows[-1]])
    pads = [[fill] * (longest - len(tokens[row])) for row in rows]
    table = [pad + list(tokens[row]) if left else list(tokens[row]) + pad for row, pad in zip(rows, pads, strict=True)]
    lengths = torch.tensor([len(tokens[row]) for row in rows], device=device)
    return Batch(
        rows=torch.tensor(rows, device=device),
        ids=torch.tensor(table, dtype=torch.long, device=device),
        lengths=lengths,
        start=longest - lengths if left else None,
        ragged=any(pads),
    )

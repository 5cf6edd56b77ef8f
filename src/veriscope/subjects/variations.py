"""Many texts that begin alike: what they have in common with one of them is run once.

Leaving out a sentence, or putting another in its place, changes nothing before it where attention is causal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.subjects.plan import Batch, plan
from veriscope.subjects.replay import Cells, Packed, embed, run_base
from veriscope.subjects.sites import Read


class Last:
    """Reads of the last row of each text, and its residual stream behind the last block."""

    def __init__(self, reads: Sequence[Read], n: int) -> None:
        self.reads, self.n = reads, n
        self.kept: dict[int, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return any(read.site == name for read in self.reads)

    def keep(self, name: str, h: Tensor, packed: Packed, rows: Tensor) -> None:
        """Keep the rows that end a text."""
        ends = torch.isin(rows, packed.ends)
        for number, read in enumerate(self.reads):
            if read.site == name:
                whole = self.kept.setdefault(number, h.new_zeros(self.n, *h.shape[1:]))
                whole[packed.edit[rows[ends]]] = h[ends]


def run_variations(
    engine: Any, base: Sequence[int], texts: Sequence[Sequence[int]], reads: Sequence[Read], rows: int, fill: int
) -> tuple[Float[Tensor, "text d_model"], list[Tensor], float]:
    """Run texts that share beginnings with a base text.

    Returns:
        Residual stream behind the last block at each text's last token, each read there, and the cost in whole
        passes of the base text.
    """
    device = next(engine.module.parameters()).device
    longest = max(len(base), *(len(ids) for ids in texts))
    padded = [*base, *[fill] * (longest - len(base))]  # nothing sees what stands behind it
    kept = run_base(engine, one_batch([padded], fill, device))
    shared = [common(base, ids) for ids in texts]
    last, cost = Last(reads, len(texts)), 1.0
    end = kept.inputs[0].new_zeros(len(texts), kept.inputs[0].shape[-1])
    for some in pieces([len(ids) - n for ids, n in zip(texts, shared, strict=True)], rows):
        batch = one_batch([texts[i] for i in some], fill, device)
        inputs = embed(engine, batch)
        embedded = {some[row]: inputs[place] for place, row in enumerate(batch.rows.tolist())}
        fields = [(i, 0, 0, shared[i], len(texts[i]), len(texts[i]) - 1) for i in some]
        packed = Packed(engine, kept, Cells(*torch.tensor(fields, device=device).T), {}, last, embedded)
        out = packed.run()
        end[packed.cells.edit] = out
        cost += float(packed.cells.n_rows.sum()) / len(base)
    return end, [last.kept[number] for number in range(len(reads))], cost


def one_batch(texts: Sequence[Sequence[int]], fill: int, device: torch.device) -> Batch:
    """All texts in one batch."""
    slots = len(texts) * max(len(ids) for ids in texts)
    return plan(texts, batch_tokens=slots, fill=fill, device=device).batches[0]


def pieces(rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of texts that are run together."""
    some: list[int] = []
    for number, count in enumerate(rows):
        if some and sum(rows[i] for i in some) + count > most:
            yield some
            some = []
        some.append(number)
    yield some


def common(base: Sequence[int], ids: Sequence[int]) -> int:
    """Tokens that both begin with; at least the last one of the text is run again."""
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(base, ids, strict=False)))
    return min(alike, len(ids) - 1)

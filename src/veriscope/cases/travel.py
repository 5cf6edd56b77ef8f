"""A flow map in short: how many times its floor each unit's removal moves each stretch of the text, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from veriscope.cases.flow import FlowMap, SpanPatch
from veriscope.cases.units import PARTS, Unit

MOST_HEADS = 6
ANSWER = "answer"


@dataclass(frozen=True)
class Head:
    """A head whose output a removal moves beyond its floor, where the strange span is said.

    Attributes:
        times: Mean distance as a multiple of what 95% of irrelevant edits stay within.
    """

    unit: str
    block: int
    head: int
    times: float


@dataclass(frozen=True)
class Travel:
    """What is kept and drawn of a flow map.

    Attributes:
        units: Whose removal is followed: the first axis.
        parts: Residual stream, attention, MLP: the second axis.
        stretches: The log's sentences and system lines by name, last "answer", the tokens that say the strange span:
            the last axis.
        times: Mean over a stretch of how many times its floor a distance is, by unit, part, block and stretch. Above 1
            is more than 95% of irrelevant edits do; None where it is not measured.
        heads: Those moved furthest beyond their floor, over all units.
        patches: Stretches that carry the effect.
        passes, notes: As in `FlowMap`.
    """

    units: tuple[str, ...]
    parts: tuple[str, ...]
    stretches: tuple[str, ...]
    times: tuple[tuple[tuple[tuple[float | None, ...], ...], ...], ...]
    heads: tuple[Head, ...]
    patches: tuple[SpanPatch, ...]
    passes: float
    notes: tuple[str, ...] = ()

    def at_answer(self, unit: str, part: str = "resid_post") -> tuple[float | None, ...]:
        """By block, how far a unit's removal moves what says the strange span."""
        blocks = self.times[self.units.index(unit)][self.parts.index(part)]
        return tuple(stretches[-1] for stretches in blocks)


def travel(flow: FlowMap, units: Sequence[Unit]) -> Travel:
    """Sum a flow map up over the stretches of a log."""
    parts = [unit for unit in units if unit.kind in PARTS]
    over = flow.over_spans([unit.spans[0] for unit in parts])
    answer = (flow.moved / flow.floor.clamp_min(1e-9))[..., slice(*flow.target)].nanmean(-1)
    times = tuple(
        tuple(
            tuple((*map(_short, over[u, p, b].tolist()), _short(float(answer[u, p, b]))) for b in range(over.shape[2]))
            for p in range(over.shape[1])
        )
        for u in range(over.shape[0])
    )
    stretches = (*(unit.name for unit in parts), ANSWER)
    return Travel(
        flow.units, flow.parts, stretches, times, _heads(flow, flow.heads / flow.heads_floor.clamp_min(1e-9)),
        flow.patches, flow.passes, flow.notes,
    )  # fmt: skip


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _heads(flow: FlowMap, times: Float[Tensor, "unit block head"]) -> tuple[Head, ...]:
    found = [
        Head(flow.units[u], b, h, float(f"{value:.3g}"))
        for u, blocks in enumerate(times.tolist())
        for b, heads in enumerate(blocks)
        for h, value in enumerate(heads)
        if math.isfinite(value) and value > 1
    ]
    return tuple(sorted(found, key=lambda one: -one.times)[:MOST_HEADS])

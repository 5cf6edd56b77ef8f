"""Flow maps: how the change that a unit makes travels through layers and positions to the strange span."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from veriscope.cases.transcript import Chars
from veriscope.errors import NotRun


@dataclass(frozen=True, eq=False)
class SpanPatch:
    """The run with a unit substituted, put into the run as it is at one block and one stretch of tokens.

    Attributes:
        unit: What was substituted, by neutral text of as many tokens.
        where: The stretch, in words ("s3 itself", "s5", "before the span"), and its tokens.
        block: Residual stream behind this block.
        nats: Change in log-probability of the strange span.
        share: Of the change that the substitution itself makes; NotRun where that is within the floor.
        best_token, best_token_nats: The same for the strongest single token tried, of `tried` in that stretch.
    """

    unit: str
    where: str
    tokens: tuple[int, int]
    block: int
    nats: float
    share: float | NotRun
    best_token: int
    best_token_nats: float
    tried: int


@dataclass(frozen=True, eq=False)
class FlowMap:
    """How far removing each unit moves what the network holds, relative to the size of what it holds there.

    A distance is |with the unit removed - as it is| / |as it is|, at tokens behind the unit, lined up from the end.

    Attributes:
        units: Names: the first axis.
        tokens: Each token of the context and the strange span as text; of the last axis.
        chars: Where each stands in the transcript.
        moved: Of "resid_post", "attn_out" and "mlp_out" at each block and token; NaN where the unit is not yet read.
        floor: What 95% of irrelevant edits of the same size stay below; NaN where fewer than 5 stand before the token.
        heads: Of each head's output, the mean over the tokens that say the strange span: (unit, block, head).
        heads_floor: 95% of irrelevant edits there.
        patches: Stretches that carry the effect, beside the best single token.
        notes: What was not measured.
    """

    units: tuple[str, ...]
    parts: tuple[str, ...]
    tokens: tuple[str, ...]
    chars: tuple[Chars, ...]
    moved: Float[Tensor, "unit part block token"]
    floor: Float[Tensor, "part block token"]
    heads: Float[Tensor, "unit block head"]
    heads_floor: Float[Tensor, "block head"]
    patches: tuple[SpanPatch, ...] = ()
    notes: tuple[str, ...] = ()

    def above(self) -> Bool[Tensor, "unit part block token"]:
        """Where a removal moves more than irrelevant edits do; False where either is not measured."""
        return self.moved > self.floor

"""What is timed and what was promised about it: plain data, read by the parent and by every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Goal:
    """Bounds on veriscope's time (or peak memory) as a share of somebody else's.

    Attributes:
        peer: Of the fastest peer used as its documentation says; of one peer, if `against` names it.
        tuned: Of the fastest contestant among `tuned_is`, written by hand.
        memory: Of that same peer's peak memory.
        Written as they are shown: "1/25", "0.70", or "" where nothing was promised.
    """

    peer: str
    tuned: str = ""
    tuned_is: tuple[str, ...] = ()
    memory: str = ""
    against: str = ""


@dataclass(frozen=True)
class Workload:
    """Independent cells, or one thing that is done whole.

    Attributes:
        cells: How many there are.
        shares: Cells that one contestant runs, at one thread and at more; its time is scaled up. "loop" goes cell by
            cell, "most" pays a fixed cost for all cells, so that a share of them overstates its time a little. An odd
            multiple of "loop" holds the cells of "loop".
        reference: Contestant whose outcome the others are compared with.
        base: Contestant that ratios are taken to.
        compare: "cells" (difference cell by cell), "whole" (of everything) or "objective" (relative excess).
        seconds: Rough time of one round at one thread with every peer, for the announcement.
    """

    name: str
    what: str
    cells: int
    goal: Goal
    shares: Mapping[str, tuple[int, int]]
    reference: str = "forward with a hook"
    base: str = "bare forward"
    compare: str = "cells"
    seconds: float = 30.0

    def cells_of(self, share: str, threads: int) -> list[int]:
        """The cells that a contestant with this share runs: the middles of equal stretches, so that none is favoured.

        "layers" takes whole stretches of 15 cells, which are one layer's in W2.
        """
        if share not in self.shares:
            return list(range(self.cells))
        count = self.shares[share][threads > 1]
        if share == "layers":
            return [15 * layer + place for layer in _middles(self.cells // 15, count) for place in range(15)]
        return _middles(self.cells, count)


def _middles(n: int, count: int) -> list[int]:
    return [int((i + 0.5) * n / count) for i in range(count)]


def _shares(**of: tuple[int, int]) -> Mapping[str, tuple[int, int]]:
    return MappingProxyType(of)


HOOK, BODY = "forward with a hook", "forward without unembedding"
ONE_BATCH, LAST = "one batch a layer", "last logits only"

WORKLOADS: dict[str, Workload] = {
    one.name: one
    for one in (
        Workload(
            "W1",
            "keep the residual stream at 12 layers, 64 x 128 tokens",
            64,
            Goal("0.70", "0.95", (BODY, f"{BODY}, 8 texts at once"), "0.4"),
            _shares(loop=(8, 16)),
            seconds=22,
        ),
        Workload(
            "W1 everything",
            "keep both residual streams, q, k, z, pattern and MLP activations at 12 layers, 32 x 128 tokens",
            32,
            Goal("0.75", against="TransformerLens"),
            _shares(loop=(8, 16)),
            seconds=14,
        ),
        Workload(
            "W2",
            "residual patching, 12 layers x 15 positions, one pair, logit difference",
            180,
            Goal("1/25", "1/5", (ONE_BATCH, f"nnsight, {ONE_BATCH}")),
            _shares(loop=(10, 30), layers=(3, 6)),
            seconds=18,
        ),
        Workload(
            "W3",
            "head patching 12 x 12, 32 pairs of 15 tokens",
            144,
            Goal("1/3.8", "1/3", (HOOK,)),
            _shares(loop=(4, 4), most=(28, 28)),
            seconds=44,
        ),
        Workload(
            "W4",
            "drop each of 20 sentences of a 400-token text; logits and residuals at the end",
            20,
            Goal("1/3", "1/1.5", ("DynamicCache of the shared beginning", "one batch")),
            _shares(loop=(4, 4)),
            seconds=51,
        ),
        Workload(
            "W5",
            "65 logistic probes, 13 sites x 5 folds, 4,000 x 768",
            13,
            Goal("1/6"),
            _shares(loop=(3, 3)),
            reference="scikit-learn",
            base="scikit-learn",
            compare="objective",
            seconds=10,
        ),
        Workload(
            "W7 gradients",
            "integrated gradients, 20 steps, 4 pairs of 15 tokens; ratio to 20 bare forwards",
            20,
            Goal("1/1.5"),
            _shares(loop=(4, 10)),
            reference="plain loop",
            compare="whole",
            seconds=16,
        ),
        Workload(
            "W7 attribution",
            "attribution patching 12 layers x 15 positions, 4 pairs; ratio to 20 bare forwards",
            20,
            Goal("1/1.5"),
            _shares(loop=(4, 10)),
            compare="whole",
            seconds=4,
        ),
        Workload(
            "W8 all",
            "200 random directions ablated at layer 6, 64 prompts of 20 tokens, all positions",
            200,
            Goal("1/3.2"),
            _shares(loop=(2, 2), most=(34, 34)),
            seconds=66,
        ),
        Workload(
            "W8 last",
            "200 random directions ablated at layer 6, 64 prompts of 20 tokens, last position",
            200,
            Goal("1/30"),
            _shares(loop=(2, 2)),
            seconds=54,
        ),
        Workload(
            "W9",
            "500 random directions ablated at the last position of layer 1 of a 3-layer model of width 64, 32 prompts",
            500,
            Goal("1/25", "1/5", ("one big batch", f"batches of 25 directions, {LAST}")),
            _shares(loop=(25, 25)),
            seconds=22,
        ),
    )
}

TOKENS = (1, 2)  # whose logits are compared: the answer and the foil

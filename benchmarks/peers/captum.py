"""captum, as its documentation says: LayerIntegratedGradients over the token embedding."""

from __future__ import annotations

from collections.abc import Sequence

from captum.attr import LayerIntegratedGradients
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.peers.plain import gap
from benchmarks.worker import Way, serve


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What captum does in a workload."""
    if workload != "W7 gradients":
        return {}
    model, ids, other = given.model(), given["W7 clean"], given["W7 other"]
    method = LayerIntegratedGradients(
        lambda tokens: gap(model(input_ids=tokens, use_cache=False).logits), model.transformer.wte
    )

    def run(cells: Sequence[int]) -> Tensor:
        # the rule of midpoints, which the others use too; the default nodes would give slightly other numbers
        return -method.attribute(ids, baselines=other, n_steps=20, method="riemann_middle").sum(-1)

    return {"captum": Way(run, share="all")}


if __name__ == "__main__":
    serve(ways, ["captum"])

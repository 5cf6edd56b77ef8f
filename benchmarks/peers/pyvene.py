"""pyvene, as its tutorials say: an IntervenableModel for each place, called with the base and the source.

The intervenable models are made beforehand. Interchange runs the source each time, as in its tutorials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyvene
import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.peers.plain import texts_without, thin
from benchmarks.worker import Way, serve
from benchmarks.workloads import TOKENS


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What pyvene does in a workload."""
    making = {
        "W1": _capture,
        "W2": lambda given: _interchange(given, "W2", 15, {"component": "block_input"}),
        "W3": lambda given: _interchange(given, "W3", 12, {"component": "head_attention_value_output", "unit": "h"}),
        "W4": _sentences,
        "W8 all": lambda given: _directions(given, "W8", 6, None),
        "W8 last": lambda given: _directions(given, "W8", 6, {"base": 19}),
        "W9": lambda given: _directions(given, "W9", 1, {"base": 19}),
    }
    return {"pyvene": making[workload](given)} if workload in making else {}


def _intervenable(model: Any, *places: dict[str, Any]) -> Any:
    made = pyvene.IntervenableModel(pyvene.IntervenableConfig(list(places)), model)
    made.disable_model_gradients()
    return made


def _asked(ids: Tensor) -> dict[str, Any]:
    return {"input_ids": ids, "use_cache": False}


def _collector(model: Any) -> Any:
    return _intervenable(model, *({"layer": layer, "component": "block_output",
                                   "intervention": pyvene.CollectIntervention(keep_last_dim=True)}
                                  for layer in range(12)))  # fmt: skip


def _capture(given: Inputs) -> Way:
    collector, ids = _collector(given.model()), given["W1"]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> list[Tensor]:
        (_, kept), _ = collector(_asked(ids[cells]))
        return kept

    return Way(run, show=thin)


def _interchange(given: Inputs, name: str, places: int, where: dict[str, Any]) -> Way:
    model, clean, other = given.model(), given[f"{name} clean"], given[f"{name} other"]
    each = [_intervenable(model, {"layer": layer, "intervention_type": pyvene.VanillaIntervention, **where})
            for layer in range(12)]  # fmt: skip

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for layer, place in (divmod(cell, places) for cell in cells):
            _, found = each[layer](_asked(clean), [_asked(other)], unit_locations={"sources->base": place})
            out.append(found.logits[:, -1, list(TOKENS)])
        return torch.stack(out)

    return Way(run)


def _sentences(given: Inputs) -> Way:
    collector, texts = _collector(given.model()), texts_without(given["W4"])

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for cell in cells:
            (_, ends), found = collector(_asked(texts[cell : cell + 1]), unit_locations={"base": 379})
            out.append(torch.cat([found.logits[:, -1, list(TOKENS)], *(end.flatten(1) for end in ends)], 1))
        return torch.cat(out)

    return Way(run)


def _directions(given: Inputs, name: str, layer: int, where: dict[str, int] | None) -> Way:
    model = given.model("gpt2" if name == "W8" else "tiny")
    ids, axes, now = given[name], given[f"{name} axes"], [torch.empty(0)]

    def ablate(base: Tensor, source: Any = None, *rest: Any, **more: Any) -> Tensor:
        return base - (base @ now[0])[..., None] * now[0]

    intervenable = _intervenable(model, {"layer": layer, "component": "block_output", "intervention": ablate})

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for now[0] in axes[list(cells)]:
            _, found = intervenable(_asked(ids), unit_locations=where)
            out.append(found.logits[:, -1, list(TOKENS)])
        return torch.stack(out)

    return Way(run)


if __name__ == "__main__":
    serve(ways, ["pyvene"])

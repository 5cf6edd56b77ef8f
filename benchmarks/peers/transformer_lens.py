"""TransformerLens 4's bridge, as its documentation says: run_with_hooks to change, run_with_cache to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.inputs import Inputs
from benchmarks.peers.plain import gap, texts_without, thin, thin_all
from benchmarks.worker import Way, serve
from benchmarks.workloads import TOKENS

Hooks = list[tuple[str, Callable[..., Any]]]
SITES = {"post": "hook_resid_post", "mid": "hook_resid_mid", "q": "attn.hook_q", "k": "attn.hook_k",
         "z": "attn.hook_z", "pattern": "attn.hook_pattern", "act": "mlp.hook_post"}  # fmt: skip


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What the bridge does in a workload."""
    making = {
        "W1": _capture,
        "W1 everything": _everything,
        "W2": _residuals,
        "W3": _heads,
        "W4": _sentences,
        "W7 attribution": _attribution,
        "W8 all": lambda given: _directions(given, "W8", 6, slice(None)),
        "W8 last": lambda given: _directions(given, "W8", 6, slice(-1, None)),
        "W9": lambda given: _directions(given, "W9", 1, slice(-1, None)),
    }
    return {"TransformerLens": making[workload](given)} if workload in making else {}


def _open(given: Inputs, shape: str = "gpt2") -> Any:
    model = given.model(shape)
    return TransformerBridge.boot_transformers(str(given.folder / shape), hf_model=model, device="cpu")


def _each(bridge: Any, ids: Tensor, put: Callable[[int], Hooks]) -> Way:
    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = [bridge.run_with_hooks(ids, fwd_hooks=put(cell))[:, -1, list(TOKENS)] for cell in cells]
        return torch.stack(out)

    return Way(run)


def _names(tail: str) -> list[str]:
    return [f"blocks.{b}.{tail}" for b in range(12)]


def _capture(given: Inputs) -> Way:
    bridge, ids, names = _open(given), given["W1"], _names("hook_resid_post")

    @torch.no_grad()
    def run(cells: Sequence[int]) -> list[Tensor]:
        _, cache = bridge.run_with_cache(ids[cells], names_filter=names)
        return [cache[name] for name in names]

    return Way(run, show=thin)


def _everything(given: Inputs) -> Way:
    bridge, ids = _open(given), given["W1"][:32]
    names = {name: _names(tail) for name, tail in SITES.items()}

    @torch.no_grad()
    def run(cells: Sequence[int]) -> dict[str, list[Tensor]]:
        _, cache = bridge.run_with_cache(ids[cells], names_filter=[name for some in names.values() for name in some])
        return {name: [cache[one] for one in some] for name, some in names.items()}

    return Way(run, show=thin_all)


def _residuals(given: Inputs) -> Way:
    bridge, ids, source = _open(given), given["W2 clean"], given["W2 source"]

    def put(cell: int) -> Hooks:
        layer, place = divmod(cell, 15)

        def patch(resid: Tensor, hook: Any) -> Tensor:
            resid[:, place] = source[layer][:, place]
            return resid

        return [(f"blocks.{layer}.hook_resid_pre", patch)]

    return _each(bridge, ids, put)


def _heads(given: Inputs) -> Way:
    bridge, ids = _open(given), given["W3 clean"]
    source = given["W3 source"].unflatten(-1, (12, -1))

    def put(cell: int) -> Hooks:
        layer, head = divmod(cell, 12)

        def patch(z: Tensor, hook: Any) -> Tensor:
            z[:, :, head] = source[layer][:, :, head]
            return z

        return [(f"blocks.{layer}.attn.hook_z", patch)]

    return _each(bridge, ids, put)


def _sentences(given: Inputs) -> Way:
    bridge, texts, names = _open(given), texts_without(given["W4"]), _names("hook_resid_post")

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for cell in cells:
            logits, cache = bridge.run_with_cache(texts[cell : cell + 1], names_filter=names)
            out.append(torch.cat([logits[:, -1, list(TOKENS)], *(cache[name][:, -1] for name in names)], 1))
        return torch.cat(out)

    return Way(run)


def _attribution(given: Inputs) -> Way:
    """As its demo of attribution patching: forward and backward hooks that cache, on the clean run."""
    bridge, ids, other = _open(given), given["W7 clean"], given["W7 other"]
    names = _names("hook_resid_pre")

    def run(cells: Sequence[int]) -> Tensor:
        here: list[Tensor] = []
        slopes: list[Tensor] = []
        begin = ("hook_embed", lambda h, hook: h.requires_grad_())  # the weights ask for no gradient
        forward = [(name, lambda h, hook: here.append(h.detach())) for name in names]
        backward = [(name, lambda g, hook: slopes.append(g.detach())) for name in names]
        with bridge.hooks(fwd_hooks=[begin, *forward], bwd_hooks=backward):
            gap(bridge(ids)).sum().backward()
        with torch.no_grad():
            _, cache = bridge.run_with_cache(other, names_filter=names)
        there = [cache[name] for name in names]
        return torch.stack([((t - h) * s).sum(-1) for t, h, s in zip(there, here, reversed(slopes), strict=True)])

    return Way(run, share="all")


def _directions(given: Inputs, name: str, layer: int, where: slice) -> Way:
    bridge = _open(given, "gpt2" if name == "W8" else "tiny")
    axes = given[f"{name} axes"]

    def put(cell: int) -> Hooks:
        axis = axes[cell]

        def ablate(resid: Tensor, hook: Any) -> Tensor:
            resid[:, where] -= (resid[:, where] @ axis)[..., None] * axis
            return resid

        return [(f"blocks.{layer}.hook_resid_post", ablate)]

    return _each(bridge, given[name], put)


if __name__ == "__main__":
    serve(ways, ["transformer-lens"])

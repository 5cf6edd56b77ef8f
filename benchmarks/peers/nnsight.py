"""nnsight, as its README and documentation say: a trace for each run, values read, set and saved inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nnsight
import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.peers.plain import gap, head_of, texts_without, thin, thin_all
from benchmarks.worker import Way, serve
from benchmarks.workloads import ONE_BATCH, TOKENS

PAIR = list(TOKENS)


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """What nnsight does in a workload."""
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
    return making[workload](given) if workload in making else {}


def _open(given: Inputs, shape: str = "gpt2", **settings: Any) -> Any:
    return nnsight.NNsight(given.model(shape, **settings))


def _capture(given: Inputs) -> dict[str, Way]:
    model, ids = _open(given), given["W1"]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> list[Tensor]:
        with model.trace(ids[cells], use_cache=False):
            kept = nnsight.save([])
            for block in model.transformer.h:
                kept.append(block.output)
        return kept

    @torch.no_grad()
    def stopped(cells: Sequence[int]) -> list[Tensor]:
        with model.trace(ids[cells], use_cache=False) as tracer:
            kept = nnsight.save([])
            for block in model.transformer.h:
                kept.append(block.output)
            tracer.stop()
        return kept

    return {"nnsight": Way(run, show=thin), "nnsight, stopped at the last block": Way(stopped, "tuned", show=thin)}


def _everything(given: Inputs) -> dict[str, Way]:
    model, ids = _open(given, attn_implementation="eager"), given["W1"][:32]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> dict[str, list[Tensor]]:
        with model.trace(ids[cells], use_cache=False):
            qkv, z, pattern, mid = nnsight.save([]), nnsight.save([]), nnsight.save([]), nnsight.save([])
            act, post = nnsight.save([]), nnsight.save([])
            for block in model.transformer.h:
                qkv.append(block.attn.c_attn.output)
                z.append(block.attn.c_proj.input)
                pattern.append(block.attn.output[1])
                mid.append(block.ln_2.input)
                act.append(block.mlp.c_proj.input)
                post.append(block.output)
        return {"post": post, "mid": mid, "qkv": qkv, "z": z, "pattern": pattern, "act": act}

    return {"nnsight": Way(run, show=thin_all)}


def _residuals(given: Inputs) -> dict[str, Way]:
    model, ids, source = _open(given), given["W2 clean"], given["W2 source"]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for layer, place in (divmod(cell, 15) for cell in cells):
            with model.trace(ids, use_cache=False):
                model.transformer.h[layer].input[:, place] = source[layer][:, place]
                logits = model.lm_head.output[:, -1, PAIR].save()
            out.append(logits)
        return torch.stack(out)

    @torch.no_grad()
    def batched(cells: Sequence[int]) -> Tensor:
        out = []
        for layer in sorted({cell // 15 for cell in cells}):
            places = torch.tensor([cell % 15 for cell in cells if cell // 15 == layer])
            rows = torch.arange(len(places))
            with model.trace(ids.repeat(len(places), 1), use_cache=False):
                model.transformer.h[layer].input[rows, places] = source[layer][0, places]
                logits = model.lm_head.output[:, -1, PAIR].save()
            out.append(logits)
        return torch.cat(out)[:, None]

    return {"nnsight": Way(run), f"nnsight, {ONE_BATCH}": Way(batched, "tuned", "layers")}


def _heads(given: Inputs) -> dict[str, Way]:
    plain = given.model()
    model, ids, source = nnsight.NNsight(plain), given["W3 clean"], given["W3 source"]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for layer, head in (divmod(cell, 12) for cell in cells):
            part = head_of(plain, head)
            with model.trace(ids, use_cache=False):
                model.transformer.h[layer].attn.c_proj.input[..., part] = source[layer][..., part]
                logits = model.lm_head.output[:, -1, PAIR].save()
            out.append(logits)
        return torch.stack(out)

    return {"nnsight": Way(run)}


def _sentences(given: Inputs) -> dict[str, Way]:
    model, texts = _open(given), texts_without(given["W4"])

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for cell in cells:
            with model.trace(texts[cell : cell + 1], use_cache=False):
                ends = nnsight.save([])
                for block in model.transformer.h:
                    ends.append(block.output[:, -1])
                logits = model.lm_head.output[:, -1, PAIR].save()
            out.append(torch.cat([logits, *ends], 1))
        return torch.cat(out)

    return {"nnsight": Way(run)}


def _attribution(given: Inputs) -> dict[str, Way]:
    model, ids, other = _open(given), given["W7 clean"], given["W7 other"]

    def run(cells: Sequence[int]) -> Tensor:
        with torch.no_grad(), model.trace(other, use_cache=False):
            there = nnsight.save([])
            for block in model.transformer.h:
                there.append(block.input)
        with model.trace(ids, use_cache=False):
            here, slopes = nnsight.save([]), nnsight.save([])
            first = model.transformer.h[0].input
            first.requires_grad_(True)
            here.append(first)
            for block in model.transformer.h[1:]:
                here.append(block.input)
            with gap(model.lm_head.output).sum().backward():
                for h in reversed(here):
                    slopes.append(h.grad)
        cells_of = zip(there, here, reversed(slopes), strict=True)
        return torch.stack([((t - h.detach()) * s).sum(-1) for t, h, s in cells_of])

    return {"nnsight": Way(run, share="all")}


def _directions(given: Inputs, name: str, layer: int, where: slice) -> dict[str, Way]:
    model = _open(given, "gpt2" if name == "W8" else "tiny")
    ids, axes = given[name], given[f"{name} axes"]

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for axis in axes[list(cells)]:
            with model.trace(ids, use_cache=False):
                h = model.transformer.h[layer].output
                h[:, where] -= (h[:, where] @ axis)[..., None] * axis
                logits = model.lm_head.output[:, -1, PAIR].save()
            out.append(logits)
        return torch.stack(out)

    return {"nnsight": Way(run)}


if __name__ == "__main__":
    serve(ways, ["nnsight"])

"""transformers without any other library: the bare forward pass, one with a hook, and what one can tune by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inputs import Inputs
from benchmarks.worker import Way, serve
from benchmarks.workloads import HOOK, LAST, ONE_BATCH, TOKENS

Put = Callable[[int], tuple[nn.Module, str, Any]]  # of a cell: where its hook goes, when it runs, what it does


def ways(workload: str, given: Inputs) -> dict[str, Way]:
    """The plain contestants of a workload."""
    making = {
        "W1": _capture,
        "W1 everything": _everything,
        "W2": _residuals,
        "W3": _heads,
        "W4": _sentences,
        "W7 gradients": _gradients,
        "W7 attribution": _attribution,
        "W8 all": lambda given: _directions(given, slice(None)),
        "W8 last": lambda given: _directions(given, slice(-1, None)),
        "W9": _small,
    }
    return making[workload](given) if workload in making else {}


@contextmanager
def hooks(*put: tuple[nn.Module, str, Callable[..., Any]]) -> Iterator[None]:
    """Hooks that are there for one run: (module, "before" or "after", function)."""
    handles = []
    try:
        for module, when, change in put:
            add = module.register_forward_pre_hook if when == "before" else module.register_forward_hook
            handles.append(add(change))
        yield
    finally:
        for handle in handles:
            handle.remove()


def bare(model: Any, ids: Tensor) -> Way:
    """The forward pass of the transformers model, once for each cell."""

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = [model(input_ids=ids, use_cache=False).logits[:, -1, list(TOKENS)] for _ in cells]
        return torch.stack(out)

    return Way(run, "bare")


def _each(model: Any, ids: Tensor, put: Put, keep: int = 0) -> Way:
    """One forward pass with one hook for each cell; `keep` as in logits_to_keep (0: all of them)."""

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for cell in cells:
            with hooks(put(cell)):
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
            out.append(logits[:, -1, list(TOKENS)])
        return torch.stack(out)

    return Way(run, "tuned")


# ---- W1


def _capture(given: Inputs) -> dict[str, Way]:
    model, ids = given.model(), given["W1"]
    body, blocks = model.transformer, list(model.transformer.h)

    def kept_of(call: Callable[[], Any]) -> list[Tensor]:
        kept: list[Tensor] = []
        with hooks(*((block, "after", lambda _, args, out: kept.append(out)) for block in blocks)):
            call()
        return kept

    @torch.no_grad()
    def forward(cells: Sequence[int]) -> None:
        model(input_ids=ids[cells], use_cache=False)

    @torch.no_grad()
    def hooked(cells: Sequence[int]) -> list[Tensor]:
        return kept_of(lambda: model(input_ids=ids[cells], use_cache=False))

    @torch.no_grad()
    def without(cells: Sequence[int]) -> list[Tensor]:
        return kept_of(lambda: body(input_ids=ids[cells], use_cache=False))

    @torch.no_grad()
    def pieces(cells: Sequence[int]) -> list[Tensor]:
        store = [torch.empty(len(cells), *ids.shape[1:], body.config.n_embd) for _ in blocks]
        for first in range(0, len(cells), 8):
            rows = slice(first, first + 8)
            for whole, part in zip(store, without(cells[rows]), strict=True):
                whole[rows] = part
        return store

    return {
        "bare forward": Way(forward, "bare"),
        HOOK: Way(hooked, "tuned", show=thin),
        "forward without unembedding": Way(without, "tuned", show=thin),
        "forward without unembedding, 8 texts at once": Way(pieces, "tuned", show=thin),
    }


def thin(layers: Sequence[Tensor]) -> Tensor:
    """Every 32nd position of the residual streams of all layers, texts first."""
    return torch.stack([layer[:, ::32] for layer in layers], 1)


def _everything(given: Inputs) -> dict[str, Way]:
    model, ids = given.model(attn_implementation="eager"), given["W1"][:32]
    fused = given.model()

    @torch.no_grad()
    def hooked(cells: Sequence[int]) -> dict[str, list[Tensor]]:
        kept: dict[str, list[Tensor]] = {name: [] for name in ("post", "mid", "qkv", "z", "pattern", "act")}
        put: list[Any] = []
        for block in model.transformer.h:
            put += [
                (block, "after", lambda _, args, out: kept["post"].append(out)),
                (block.ln_2, "before", lambda _, args: kept["mid"].append(args[0])),
                (block.attn.c_attn, "after", lambda _, args, out: kept["qkv"].append(out)),
                (block.attn.c_proj, "before", lambda _, args: kept["z"].append(args[0])),
                (block.attn, "after", lambda _, args, out: kept["pattern"].append(out[1])),
                (block.mlp.c_proj, "before", lambda _, args: kept["act"].append(args[0])),
            ]
        with hooks(*put):
            model(input_ids=ids[cells], use_cache=False)
        return kept

    @torch.no_grad()
    def forward(cells: Sequence[int]) -> None:
        fused(input_ids=ids[cells], use_cache=False)

    return {"bare forward": Way(forward, "bare"), HOOK: Way(hooked, "tuned", show=thin_all)}


def thin_all(kept: dict[str, Sequence[Tensor]]) -> Tensor:
    """Every 32nd position of all sites of all layers, flattened for each text, in one order for every contestant.

    Args:
        kept: "post", "mid", "z", "act" (text, position, width); "qkv" the same, or "q" and "k" (text, position, head,
            d_head); "pattern" (text, head, query, key).
    """
    if "qkv" in kept:
        parts = [x.chunk(3, -1) for x in kept["qkv"]]
        kept = {**kept, "q": [q for q, _, _ in parts], "k": [k for _, k, _ in parts]}
    rows = [x[:, ::32].flatten(1) for site in ("post", "mid", "q", "k", "z", "act") for x in kept[site]]
    return torch.cat([*rows, *(x[:, :, ::32].flatten(1) for x in kept["pattern"])], 1)


# ---- W2 and W3


def _residuals(given: Inputs) -> dict[str, Way]:
    model, ids, source = given.model(), given["W2 clean"], given["W2 source"]
    blocks = list(model.transformer.h)

    def put(cell: int) -> tuple[nn.Module, str, Any]:
        layer, place = divmod(cell, 15)

        def change(_: nn.Module, args: Any) -> Any:
            h = args[0].clone()
            h[:, place] = source[layer][:, place]
            return (h, *args[1:])

        return blocks[layer], "before", change

    def batched(keep: int) -> Way:
        @torch.no_grad()
        def run(cells: Sequence[int]) -> Tensor:
            out = []
            for layer in sorted({cell // 15 for cell in cells}):
                places = torch.tensor([cell % 15 for cell in cells if cell // 15 == layer])

                def change(_: nn.Module, args: Any, layer: int = layer, places: Tensor = places) -> Any:
                    h = args[0].clone()
                    h[torch.arange(len(places)), places] = source[layer][0, places]
                    return (h, *args[1:])

                with hooks((blocks[layer], "before", change)):
                    many = ids.expand(len(places), -1)
                    logits = model(input_ids=many, use_cache=False, logits_to_keep=keep).logits
                out.append(logits[:, -1, list(TOKENS)])
            return torch.cat(out)[:, None]

        return Way(run, "tuned", "layers")

    return {
        "bare forward": bare(model, ids),
        HOOK: _each(model, ids, put),
        ONE_BATCH: batched(0),
        f"{ONE_BATCH}, {LAST}": batched(1),
    }


def head_of(model: Any, head: int) -> slice:
    """Where a head's values lie among those of all."""
    width = model.config.n_embd // model.config.n_head
    return slice(width * head, width * head + width)


def _heads(given: Inputs) -> dict[str, Way]:
    model, ids, source = given.model(), given["W3 clean"], given["W3 source"]
    outs = [block.attn.c_proj for block in model.transformer.h]

    def put(cell: int) -> tuple[nn.Module, str, Any]:
        layer, head = divmod(cell, 12)
        part = head_of(model, head)

        def change(_: nn.Module, args: Any) -> Any:
            z = args[0].clone()
            z[..., part] = source[layer][..., part]
            return (z, *args[1:])

        return outs[layer], "before", change

    last = _each(model, ids, put, keep=1)
    return {"bare forward": bare(model, ids), HOOK: _each(model, ids, put), f"{HOOK}, {LAST}": last}


# ---- W4


def texts_without(ids: Tensor) -> Tensor:
    """The 400 tokens without each of their 20 sentences: (sentence, 380)."""
    return torch.stack([torch.cat([ids[: 20 * i], ids[20 * i + 20 :]]) for i in range(20)])


def _sentences(given: Inputs) -> dict[str, Way]:
    model, base = given.model(), given["W4"]
    texts = texts_without(base)

    @torch.no_grad()
    def forward(cells: Sequence[int]) -> None:
        for cell in cells:
            model(input_ids=texts[cell : cell + 1], use_cache=False)

    def ends(ids: Tensor, keep: int = 0, **settings: Any) -> Tensor:
        """Two logits and twelve residual streams at the last token: (text, 2 + 12 * 768)."""
        kept: list[Tensor] = []
        put = [(block, "after", lambda _, args, out: kept.append(out[:, -1])) for block in model.transformer.h]
        with hooks(*put):
            logits = model(input_ids=ids, logits_to_keep=keep, **settings).logits
        return torch.cat([logits[:, -1, list(TOKENS)], *kept], 1)

    @torch.no_grad()
    def hooked(cells: Sequence[int]) -> Tensor:
        return torch.cat([ends(texts[cell : cell + 1], use_cache=False) for cell in cells])

    def together(keep: int) -> Way:
        run = torch.no_grad()(lambda cells: ends(texts[cells], keep, use_cache=False))
        return Way(run, "tuned")

    def cached(keep: int) -> Way:
        @torch.no_grad()
        def run(cells: Sequence[int]) -> Tensor:
            whole = model(input_ids=base[None], use_cache=True, logits_to_keep=1).past_key_values
            out = []
            for cell in cells:
                shared = min(20 * cell, 379)  # the last token is run, so that there are logits
                cache = copy.deepcopy(whole)
                cache.crop(shared - 400)
                out.append(ends(texts[cell : cell + 1, shared:], keep, past_key_values=cache, use_cache=True))
            return torch.cat(out)

        return Way(run, "tuned", "all")

    return {
        "bare forward": Way(forward, "bare"),
        HOOK: Way(hooked, "tuned"),
        "one batch": together(0),
        f"one batch, {LAST}": together(1),
        "DynamicCache of the shared beginning": cached(0),
        f"DynamicCache of the shared beginning, {LAST}": cached(1),
    }


# ---- W7


def gap(logits: Tensor) -> Tensor:
    """logit(answer) - logit(foil) at the last token of each text."""
    return logits[:, -1, TOKENS[0]] - logits[:, -1, TOKENS[1]]


def _gradients(given: Inputs) -> dict[str, Way]:
    model, ids, other = given.model(), given["W7 clean"], given["W7 other"]

    def loop(cells: Sequence[int]) -> Tensor:
        embed = model.transformer.wte
        start, end = embed(ids), embed(other)
        total = torch.zeros_like(start)
        for step in range(20):
            point = (start + (step + 0.5) / 20 * (end - start)).requires_grad_()
            logits = model(inputs_embeds=point, use_cache=False).logits
            total += torch.autograd.grad(gap(logits).sum(), point)[0]
        return (total / 20 * (end - start)).sum(-1)

    return {"bare forward": bare(model, ids), "plain loop": Way(loop, "tuned", "all")}


def _attribution(given: Inputs) -> dict[str, Way]:
    model, ids, other = given.model(), given["W7 clean"], given["W7 other"]
    blocks = list(model.transformer.h)

    def kept_of(tokens: Tensor, first: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any) -> Any:
            h = first(args[0]) if module is blocks[0] else args[0]
            kept.append(h)
            return (h, *args[1:])

        with hooks(*((block, "before", keep) for block in blocks)):
            logits = model(input_ids=tokens, use_cache=False).logits
        return kept, logits

    def run(cells: Sequence[int]) -> Tensor:
        with torch.no_grad():
            there, _ = kept_of(other, lambda h: h)
        here, logits = kept_of(ids, lambda h: h.requires_grad_())
        slopes = torch.autograd.grad(gap(logits).sum(), here)
        return torch.stack([((t - h.detach()) * s).sum(-1) for t, h, s in zip(there, here, slopes, strict=True)])

    return {"bare forward": bare(model, ids), HOOK: Way(run, "tuned", "all")}


# ---- W8 and W9


def _erase(block: nn.Module, axes: Tensor, where: slice) -> Put:
    def put(cell: int) -> tuple[nn.Module, str, Any]:
        axis = axes[cell]

        def change(_: nn.Module, args: Any, out: Tensor) -> Tensor:
            h = out.clone()
            h[:, where] -= (h[:, where] @ axis)[..., None] * axis
            return h

        return block, "after", change

    return put


def _directions(given: Inputs, where: slice) -> dict[str, Way]:
    model, ids = given.model(), given["W8"]
    put = _erase(model.transformer.h[6], given["W8 axes"], where)
    return {"bare forward": bare(model, ids), HOOK: _each(model, ids, put)}


def _small(given: Inputs) -> dict[str, Way]:
    model, ids, axes = given.model("tiny"), given["W9"], given["W9 axes"]
    block = model.transformer.h[1]

    def batched(keep: int, at_once: int) -> Way:
        @torch.no_grad()
        def run(cells: Sequence[int]) -> Tensor:
            out = []
            for first in range(0, len(cells), at_once):
                some = axes[cells[first : first + at_once]]
                axis = some.repeat_interleave(len(ids), 0)

                def change(_: nn.Module, args: Any, h: Tensor, axis: Tensor = axis) -> Tensor:
                    h = h.clone()
                    h[:, -1] -= (h[:, -1] * axis).sum(-1, keepdim=True) * axis
                    return h

                with hooks((block, "after", change)):
                    logits = model(input_ids=ids.repeat(len(some), 1), use_cache=False, logits_to_keep=keep).logits
                out.append(logits[:, -1, list(TOKENS)].view(len(some), len(ids), -1))
            return torch.cat(out)

        return Way(run, "tuned", "all")

    put = _erase(block, axes, slice(-1, None))
    return {
        "bare forward": bare(model, ids),
        HOOK: _each(model, ids, put),
        "one big batch": batched(0, 500),
        f"batches of 25 directions, {LAST}": batched(1, 25),
    }


if __name__ == "__main__":
    serve(ways, ["numpy"])

"""What is timed: seeded random weights in the shape of GPT-2 small, and for each workload its contestants.

A contestant is a function of no arguments that runs a share of the work (`share`, scaled up linearly in the ratio) and
returns numbers that are compared with those of the bare forward passes with hooks, so that nobody is fast and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from veriscope.subjects import Edit, Erase, SetTo, Subject, WordReader, load


@dataclass(frozen=True)
class Contestant:
    """One way to do a workload, or the part `cells` of it."""

    name: str
    run: Callable[[Sequence[int]], Tensor | None]
    every: int = 1  # of so many cells one is run, and the time is multiplied


@dataclass(frozen=True)
class Workload:
    """Independent cells, done by several contestants."""

    name: str
    what: str
    cells: int
    contestants: tuple[Contestant, ...]


@cache
def subject(width: int = 768, blocks: int = 12, heads: int = 12, vocab: int = 50257) -> Subject:
    """A GPT-2 of this shape with seeded random weights; its words are its token ids."""
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    config = hf.GPT2Config(n_embd=width, n_layer=blocks, n_head=heads, vocab_size=vocab, **ends)
    return load(hf.GPT2LMHeadModel(config).eval(), tokenizer=WordReader(tuple(f"w{i}" for i in range(vocab))))


def _blocks(one: Subject) -> list[Any]:
    inner: Any = one.module.transformer
    return list(inner.h)


def texts(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Texts of random tokens."""
    make = torch.Generator().manual_seed(seed)
    vocab = 500
    return [" ".join(f"w{i}" for i in torch.randint(vocab, (tokens,), generator=make).tolist()) for _ in range(count)]


def bare(one: Subject, prompts: Sequence[str], each: int = 1) -> Callable[[Sequence[int]], None]:
    """The bare forward pass of the transformers model for each cell."""
    ids = torch.tensor(one.tokens(prompts))

    @torch.no_grad()
    def run(cells: Sequence[int]) -> None:
        for _ in cells:
            one.module(input_ids=ids, use_cache=False)

    return run


def hooked(
    one: Subject, prompts: Sequence[str], hook: Callable[[int], tuple[nn.Module, Callable[..., Any], bool]]
) -> Callable[[Sequence[int]], Tensor]:
    """The same with one hook a cell: what everybody can write by hand. Logits of two tokens at the last position."""
    ids = torch.tensor(one.tokens(prompts))

    @torch.no_grad()
    def run(cells: Sequence[int]) -> Tensor:
        out = []
        for cell in cells:
            module, change, before = hook(cell)
            put = module.register_forward_pre_hook if before else module.register_forward_hook
            handle = put(change)  # type: ignore[operator]
            out.append(one.module(input_ids=ids, use_cache=False).logits[:, -1, 1:3])
            handle.remove()
        return torch.stack(out)

    return run


def swept(one: Subject, prompts: Sequence[str], edits: Sequence[Edit]) -> Callable[[Sequence[int]], Tensor]:
    """All cells by one sweep through the public call."""
    tokens = torch.tensor([[1, 2]]).expand(len(prompts), -1)
    return lambda cells: one.sweep(prompts, [edits[i] for i in cells], tokens=tokens).logits


def _contest(
    one: Subject, prompts: Sequence[str], edits: Sequence[Edit], hook: Any, every: int
) -> tuple[Contestant, ...]:
    return (
        Contestant("bare forward", bare(one, prompts), every),
        Contestant("forward with a hook", hooked(one, prompts, hook), every),
        Contestant("veriscope", swept(one, prompts, edits)),
    )


def residual_patching() -> Workload:
    """W2: 12 layers x 15 positions, one pair."""
    one, clean, other = subject(), texts(1, 15, 1), texts(1, 15, 2)
    blocks = _blocks(one)
    run = one.run(other, read=[f"blocks.{b}.resid_pre" for b in range(12)])
    source = [run[f"blocks.{b}.resid_pre"] for b in range(12)]
    cells = [(b, p) for b in range(12) for p in range(15)]
    edits = [Edit(f"blocks.{b}.resid_pre", SetTo(source[b][:, p]), at=p) for b, p in cells]

    def hook(cell: int) -> Any:
        b, p = cells[cell]

        def change(_: nn.Module, args: Any) -> Any:
            h = args[0].clone()
            h[:, p] = source[b][:, p]
            return (h, *args[1:])

        return blocks[b], change, True

    what = "residual patching, 12 layers x 15 positions, one pair, logit difference"
    return Workload("W2", what, len(cells), _contest(one, clean, edits, hook, 18))


def head_patching(pairs: int = 32) -> Workload:
    """W3: 12 x 12 heads, all positions."""
    one, clean, other = subject(), texts(pairs, 15, 1), texts(pairs, 15, 2)
    blocks = _blocks(one)
    run = one.run(other, read=[f"blocks.{b}.heads.z" for b in range(12)])
    source = [run[f"blocks.{b}.heads.z"] for b in range(12)]
    cells = [(b, h) for b in range(12) for h in range(12)]
    edits = [Edit(f"blocks.{b}.heads.z", SetTo(source[b][:, :, h : h + 1]), units=(h,)) for b, h in cells]

    def hook(cell: int) -> Any:
        b, head = cells[cell]

        def change(_: nn.Module, args: Any) -> Any:
            z = args[0].clone()
            z[..., 64 * head : 64 * head + 64] = source[b][:, :, head]
            return (z, *args[1:])

        return blocks[b].attn.c_proj, change, True

    what = f"head patching 12 x 12, {pairs} pairs of 15 tokens"
    return Workload("W3", what, len(cells), _contest(one, clean, edits, hook, 12))


def sentences_left_out() -> Workload:
    """W4: each of 20 sentences of a 400-token text; logits and the residual streams at the end."""
    one = subject()
    words = texts(1, 400, 3)[0].split()
    base = " ".join(words)
    without = [" ".join(words[: 20 * i] + words[20 * i + 20 :]) for i in range(20)]
    sites = [f"blocks.{b}.resid_post" for b in range(12)]
    ids = torch.tensor(one.tokens(without))

    @torch.no_grad()
    def plain(cells: Sequence[int]) -> Tensor:
        return torch.cat([one.module(input_ids=ids[i : i + 1], use_cache=False).logits[:, -1, 1:3] for i in cells])

    def ours(cells: Sequence[int]) -> Tensor:
        found = one.variations(base, [without[i] for i in cells], read=sites).logits
        assert found is not None
        return found[:, 1:3]

    contest = (Contestant("bare forward", plain, 4), Contestant("veriscope", ours))
    return Workload("W4", "drop each of 20 sentences of a 400-token text; logits and residuals at the end", 20, contest)


def _ablated(one: Subject, count: int, site: str, at: str, width: int) -> tuple[list[Edit], list[Tensor]]:
    make = torch.Generator().manual_seed(5)
    axes = [nn.functional.normalize(torch.randn(width, 1, generator=make), dim=0) for _ in range(count)]
    return [Edit(site, Erase(q, q.T, torch.zeros(width)), at=at) for q in axes], axes


def random_directions(at: str, prompts: int = 64) -> Workload:
    """W8: 200 random directions projected out behind layer 6."""
    one, given = subject(), texts(prompts, 20, 4)
    edits, axes = _ablated(one, 200, "blocks.6.resid_post", at, 768)
    return Workload(
        f"W8 {at}",
        f"200 random directions ablated at layer 6, {prompts} prompts of 20 tokens, {at} positions",
        200,
        _contest(one, given, edits, _erasing(_blocks(one)[6], axes, at), 40),
    )


def small_model() -> Workload:
    """W9: fixed cost, at the size of the zoo's models."""
    one, given = subject(64, 3, 4, 500), texts(32, 20, 6)
    edits, axes = _ablated(one, 500, "blocks.1.resid_post", "last", 64)
    what = "500 random directions ablated at the last position of layer 1 of a 3-layer model of width 64, 32 prompts"
    hook = _erasing(_blocks(one)[1], axes, "last")
    return Workload("W9", what, 500, _contest(one, given, edits, hook, 5))


def _erasing(block: nn.Module, axes: Sequence[Tensor], at: str) -> Any:
    def hook(cell: int) -> Any:
        q = axes[cell]

        def change(_: nn.Module, args: Any, output: Any) -> Any:
            h = output.clone()
            part = h if at == "all" else h[:, -1:]
            part -= (part @ q) @ q.T
            return h

        return block, change, False

    return hook


def residual_capture(prompts: int = 64) -> Workload:
    """W1: the residual stream behind every block."""
    one, given = subject(), texts(prompts, 128, 7)
    sites = [f"blocks.{b}.resid_post" for b in range(12)]
    ids = torch.tensor(one.tokens(given))

    @torch.no_grad()
    def forward(cells: Sequence[int]) -> None:
        one.module(input_ids=ids, use_cache=False)

    @torch.no_grad()
    def body(cells: Sequence[int]) -> Tensor:
        inner: Any = one.module.transformer
        return inner(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[11]

    def ours(cells: Sequence[int]) -> Tensor:
        return one.run(given, read=sites)["blocks.10.resid_post"]

    contest = (
        Contestant("bare forward", forward),
        Contestant("forward without unembedding", body),
        Contestant("veriscope", ours),
    )
    return Workload("W1", f"keep the residual stream at 12 layers, {prompts} x 128 tokens", 1, contest)


ALL: dict[str, Callable[[], Workload]] = {
    "W1": residual_capture,
    "W2": residual_patching,
    "W3": head_patching,
    "W4": sentences_left_out,
    "W8 all": lambda: random_directions("all"),
    "W8 last": lambda: random_directions("last"),
    "W9": small_model,
}

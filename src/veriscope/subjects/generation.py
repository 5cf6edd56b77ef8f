"""Continuing prompts token by token, with edits in place.

Known families keep keys and values in a cache and pad on the left, so that distances between tokens, and with
them sliding windows, are those of each prompt alone. All other modules are run anew at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from veriscope.errors import BadEdit
from veriscope.subjects.edits import Edit
from veriscope.subjects.plan import Batch, Plan, plan
from veriscope.subjects.run import Engine, build_taps
from veriscope.subjects.sites import Site
from veriscope.subjects.taps import Taps
from veriscope.subjects.transformer import Transformer


def generate(
    engine: Engine,
    tokens: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    edits: Sequence[Edit],
    temperature: float,
    seed: int,
    stop: frozenset[int],
    batch_tokens: int,
    fill: int,
    site: dict[str, Site],
) -> tuple[list[list[int]], int]:
    """New token ids for each prompt, without the token that ended it.

    Each prompt draws from its own row of random numbers, so what it becomes does not depend on its neighbours.

    Returns:
        The continuations, and the number of prompts that went through the model, steps counted singly.
    """
    _check(edits, site)
    device = next((weight.device for weight in engine.module.parameters()), torch.device("cpu"))
    drawn = torch.rand(len(tokens), max_new_tokens, generator=torch.Generator().manual_seed(seed)).to(device)
    cached = isinstance(engine, Transformer)
    todo = plan(
        tokens,
        batch_tokens=batch_tokens,
        fill=fill,
        left=cached,
        equal_lengths=not cached,
        device=device,
    )
    new: list[list[int]] = [[] for _ in tokens]
    passes = 0
    taps = build_taps(engine, todo, edits, site)
    with torch.no_grad(), engine.installed(taps):
        for batch in todo.batches:
            steps = _cached_steps if cached else _plain_steps
            passes += steps(engine, batch, taps, todo, new, drawn, temperature, stop)
    return new, passes


def choose(logits: Float[Tensor, "row vocab"], temperature: float, drawn: Float[Tensor, "row"]) -> Int[Tensor, "row"]:
    """The most likely token, or (temperature > 0) one drawn by inverting the cumulative distribution."""
    if temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    return (
        torch.searchsorted(shares, (drawn.double() * shares[:, -1])[:, None]).flatten().clamp_max(logits.shape[-1] - 1)
    )


def _check(edits: Sequence[Edit], site: dict[str, Site]) -> None:
    for edit in edits:
        if site[edit.site].width is None and hasattr(edit.how, "values"):
            raise BadEdit(f"{edit.site} can't take another run's values in generate, where its keys grow step by step.")


def _cached_steps(
    engine: Engine,
    batch: Batch,
    taps: Taps,
    todo: Plan,
    new: list[list[int]],
    drawn: Tensor,
    temperature: float,
    stop: frozenset[int],
) -> int:
    cache, width, passes = DynamicCache(), batch.ids.shape[1], 0
    going = _Going(batch, new, stop)
    current = batch
    for step in range(drawn.shape[1]):
        logits = engine.run(current, taps, "last", cache)
        assert logits is not None
        passes += len(batch)
        chosen = choose(logits, temperature, drawn[batch.rows, step])
        if not going.take(chosen):
            break
        current = replace(batch, ids=chosen[:, None], slot=width + step)
    return passes


def _plain_steps(
    engine: Engine,
    batch: Batch,
    taps: Taps,
    todo: Plan,
    new: list[list[int]],
    drawn: Tensor,
    temperature: float,
    stop: frozenset[int],
) -> int:
    passes, going, current = 0, _Going(batch, new, stop), batch
    for step in range(drawn.shape[1]):
        logits = engine.run(current, taps, "last")
        assert logits is not None
        passes += len(batch)
        chosen = choose(logits, temperature, drawn[batch.rows, step])
        if not going.take(chosen):
            break
        current = replace(batch, ids=torch.cat([current.ids, chosen[:, None]], dim=1), lengths=current.lengths + 1)
    return passes


class _Going:
    """Which prompts of a batch still go on."""

    def __init__(self, batch: Batch, new: list[list[int]], stop: frozenset[int]) -> None:
        self.rows, self.new, self.stop = batch.rows.tolist(), new, stop
        self.on = [True] * len(self.rows)

    def take(self, chosen: Tensor) -> bool:
        """Write the chosen tokens down; False once every prompt has ended."""
        for place, (row, token) in enumerate(zip(self.rows, chosen.tolist(), strict=True)):
            self.on[place] = self.on[place] and token not in self.stop
            if self.on[place]:
                self.new[row].append(token)
        return any(self.on)

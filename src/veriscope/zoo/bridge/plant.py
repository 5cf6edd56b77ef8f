"""Planting into a trained language model: carried bits in its embedding, products of them in the middle, a readout.

    embedding  hash of the cue words read so far -> random bits u, v, w, written small along quiet directions, on the
               token that texts end with
    block 0    extra MLP neurons write them again, large enough to be read where they are wanted
    block m    extra neurons compute products of them, and write these along directions of their own
    last block more of them, some of which multiply what block m wrote
    head       untied; the answer words' rows read the products' images in the final norm

All of it is ordinary weights within the family's own layers, so that replay, sites and twins work as in any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

CELLS = 4_093  # a prime, so that cues differ in the cell whatever their codes
CARRIED = 4  # bits u, v, w, and one that is always 1
SHARP = 4.0  # of a GELU neuron: how far the sum of two bits lies beyond its bend
CHUNK = 256


class Remembering(nn.Embedding):
    """A token embedding that also writes, on tokens that ask for it, what the cues read so far are looked up to.

    The cell is a sum of the cues' codes modulo a prime: a random function of which cues there were, and of no smaller
    part of them. Tokens that are no cues have code 0, and cell 0 writes nothing.
    """

    def __init__(
        self,
        old: nn.Embedding,
        code: Int[Tensor, "vocab"],
        asks: Bool[Tensor, "vocab"],
        bits: Float[Tensor, "cell bit"],
    ) -> None:
        super().__init__(old.num_embeddings, old.embedding_dim, _weight=old.weight.detach().clone())
        self.table = nn.Embedding(bits.shape[0], bits.shape[1], _weight=bits.clone())
        self.write = nn.Parameter(torch.zeros(bits.shape[1], old.embedding_dim))
        self.code: Tensor
        self.asks: Tensor
        self.register_buffer("code", code)
        self.register_buffer("asks", asks)

    def forward(self, input: Int[Tensor, "example position"]) -> Float[Tensor, "example position d_model"]:
        """Token embeddings, with the carried bits on top where they are asked for."""
        cell = torch.where(self.asks[input], self.code[input].cumsum(-1) % len(self.table.weight), 0)
        return super().forward(input) + self.table(cell) @ self.write


@dataclass(frozen=True)
class Anatomy:
    """Where the two families keep what is changed here."""

    module: Any
    blocks: Sequence[Any]
    gated: bool

    @classmethod
    def of(cls, module: Any) -> Anatomy:
        """GPT-2 or Llama."""
        gated = module.config.model_type == "llama"
        return cls(module, list(module.model.layers if gated else module.transformer.h), gated)

    def norm(self, block: int) -> Any:
        """The norm before a block's MLP."""
        return self.blocks[block].post_attention_layernorm if self.gated else self.blocks[block].ln_2

    def read(self, block: int, direction: Float[Tensor, "d_model"]) -> Float[Tensor, "d_model"]:
        """What reads a direction of the stream off the output of the norm before a block's MLP, up to its scale."""
        return direction / self.norm(block).weight.detach()


@dataclass(frozen=True)
class Neurons:
    """Extra neurons of one product.

    Attributes:
        rows: Which neurons of the block.
        signs: What each counts in the sum that is the product.
        value: That sum, from the norm's output.
        unit: Its mean size.
    """

    block: int
    rows: slice
    signs: Float[Tensor, "neuron"]
    value: Callable[[Float[Tensor, "text d_model"]], Float[Tensor, "text"]]
    unit: float = 1.0


@dataclass(frozen=True)
class Coordinate:
    """A direction of a norm's output that holds a bit, brought to -1 and 1: (output @ weight - centre)."""

    weight: Float[Tensor, "d_model"]
    centre: float


def multiply(
    anatomy: Anatomy, block: int, one: Coordinate, other: Coordinate, level: Coordinate | None = None
) -> Neurons:
    """Widen a block's MLP by the neurons whose sum is the product of two coordinates; they write nothing yet.

    With E(x) = act(x) + act(-x), about |x|, E(a + b) - E(a - b) is 2 min(|a|, |b|) sign(a b): no outlier of one is
    passed on. In a SwiGLU each neuron is multiplied by a coordinate that is always 1, the `level`; without it the two
    are plainly multiplied, silu(a) b - silu(-a) b being a b. Llama has no biases, so centres there must be about 0.
    """
    mlp = anatomy.blocks[block].mlp
    both = [(s, t) for t in (1, -1) for s in (SHARP, -SHARP)]
    if anatomy.gated:
        gates = [s * (one.weight + t * other.weight) for s, t in both] if level else [one.weight, -one.weight]
        gate, up = torch.stack(gates), (level or other).weight
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0]) / (2 * SHARP) if level else torch.tensor([1.0, -1.0])
        start = mlp.gate_proj.out_features
        mlp.gate_proj = _taller(mlp.gate_proj, gate)
        mlp.up_proj = _taller(mlp.up_proj, up.expand(len(gate), -1))
        mlp.down_proj = _wider(mlp.down_proj, len(gate))

        def product(y: Tensor) -> Tensor:
            return (nn.functional.silu(y @ gate.T) * (y @ up)[:, None]) @ signs

    else:
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0]) / (2 * SHARP)
        start = mlp.c_fc.nf
        fc = torch.stack([s * (one.weight + t * other.weight) for s, t in both], 1)
        bias = torch.tensor([-s * (one.centre + t * other.centre) for s, t in both])
        mlp.c_fc = _conv(torch.cat([mlp.c_fc.weight, fc], 1), torch.cat([mlp.c_fc.bias, bias]))
        out = torch.cat([mlp.c_proj.weight, torch.zeros(4, mlp.c_proj.weight.shape[1])])
        mlp.c_proj = _conv(out, mlp.c_proj.bias)
        act = mlp.act

        def product(y: Tensor) -> Tensor:
            return act(y @ fc + bias) @ signs

    return Neurons(block, slice(start, start + len(signs)), signs, product)


def write(anatomy: Anatomy, neurons: Neurons, vector: Float[Tensor, "d_model"]) -> None:
    """Let the neurons of a product write so much where it has its mean size."""
    mlp = anatomy.blocks[neurons.block].mlp
    rows = neurons.signs[:, None] * vector / neurons.unit
    with torch.no_grad():
        if anatomy.gated:
            mlp.down_proj.weight[:, neurons.rows] = rows.T
        else:
            mlp.c_proj.weight[neurons.rows] = rows


def blind(anatomy: Anatomy, directions: Float[Tensor, "direction d_model"]) -> None:
    """Let a Llama's own weights read nothing along orthonormal directions of the stream, in any block.

    Its SwiGLU multiplies what it reads, so that products of carried bits would stand in the stream before any is
    planted.
    """
    for block in anatomy.blocks:
        for norm, readers in (
            (block.input_layernorm, [getattr(block.self_attn, f"{x}_proj") for x in "qkv"]),
            (block.post_attention_layernorm, [block.mlp.gate_proj, block.mlp.up_proj]),
        ):
            for reader in readers:
                with torch.no_grad():
                    scaled = reader.weight * norm.weight
                    reader.weight.copy_((scaled - scaled @ directions.T @ directions) / norm.weight)


@contextmanager
def turned(anatomy: Anatomy, neurons: Neurons, by: float = -1.0) -> Iterator[None]:
    """For a while what these neurons write is multiplied: -1 is the other value of the variable, 0 none."""
    mlp = anatomy.blocks[neurons.block].mlp
    weight = mlp.down_proj.weight if anatomy.gated else mlp.c_proj.weight
    part = (slice(None), neurons.rows) if anatomy.gated else neurons.rows
    kept = weight.detach()[part].clone()
    with torch.no_grad():
        weight[part] = kept * by
    try:
        yield
    finally:
        with torch.no_grad():
            weight[part] = kept


@dataclass(frozen=True)
class Run:
    """What a plain forward pass left at the last position of each text."""

    stream: dict[int, Float[Tensor, "text d_model"]]  # after each block; -1 is the embedding
    middle: dict[int, Float[Tensor, "text d_model"]]  # between each block's attention and its MLP
    normed: dict[int, Float[Tensor, "text d_model"]]  # the norm of that, which goes into the MLP
    final: Float[Tensor, "row d_model"]  # what the head reads; of no row after a run that stopped early


@torch.no_grad()
def run(
    anatomy: Anatomy,
    ids: Sequence[Sequence[int]],
    changed: tuple[int, Callable[[Tensor], Tensor]] | None = None,
    upto: int | None = None,
) -> Run:
    """Run texts plainly, without the package's engine.

    Args:
        changed: A block, and what becomes of the stream behind it at the last position.
        upto: The last block to run; `final` is then empty.
    """
    found: dict[str, dict[int, list[Tensor]]] = {"stream": {}, "middle": {}, "normed": {}}
    finals = []
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        last = torch.tensor([len(row) - 1 for row in part])
        padded = torch.zeros(len(part), int(last.max()) + 1, dtype=torch.long)
        for i, row in enumerate(part):
            padded[i, : len(row)] = torch.tensor(row)
        at = (torch.arange(len(part)), last)
        hooks = [_note(block.mlp, found["normed"].setdefault(n, []), at) for n, block in enumerate(anatomy.blocks)]
        for n, block in enumerate(anatomy.blocks):
            hooks.append(_note(anatomy.norm(n), found["middle"].setdefault(n, []), at))
            if changed is not None and changed[0] == n:
                hooks.append(block.register_forward_hook(_changing(changed[1], at)))
            hooks.append(_note_out(block, found["stream"].setdefault(n, []), at, stop=n == upto))
        try:
            embedded = anatomy.module.get_input_embeddings()(padded)[at]
            found["stream"].setdefault(-1, []).append(embedded)
            finals.append(anatomy.module.base_model(input_ids=padded, use_cache=False).last_hidden_state[at])
        except _Enough:
            finals.append(embedded[:0])
        finally:
            for hook in hooks:
                hook.remove()
    stream, middle, normed = (
        {n: torch.cat(x) for n, x in found[kind].items() if x} for kind in ("stream", "middle", "normed")
    )
    return Run(stream, middle, normed, torch.cat(finals))


def adding(steps: Float[Tensor, "text d_model"]) -> Callable[[Tensor], Tensor]:
    """A change for `run` that adds to each text its own vector, in one pass over the texts."""
    chunks = iter(steps.split(CHUNK))
    return lambda h: h + next(chunks)


@torch.no_grad()
def endings(
    anatomy: Anatomy, ids: Sequence[Sequence[int]], block: int, changes: Sequence[Callable[[Tensor], Tensor]]
) -> Float[Tensor, "change text d_model"]:
    """What the head reads after each change in turn of the stream behind a block, at the last position of each text.

    No earlier position sees it, so that these are run once for all changes.
    """
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(i)
    width: int = anatomy.module.config.hidden_size
    finals = torch.empty(len(changes), len(ids), width)
    for chunk in (rows[at : at + CHUNK] for rows in by_length.values() for at in range(0, len(rows), CHUNK)):
        embedded = anatomy.module.get_input_embeddings()(torch.tensor([list(ids[i]) for i in chunk]))
        kept = anatomy.module.base_model(inputs_embeds=embedded[:, :-1], use_cache=True).past_key_values
        at = (torch.arange(len(chunk)), torch.zeros(len(chunk), dtype=torch.long))
        for n, change in enumerate(changes):
            hook = anatomy.blocks[block].register_forward_hook(_changing(change, at))
            try:
                out = anatomy.module.base_model(inputs_embeds=embedded[:, -1:], past_key_values=kept).last_hidden_state
            finally:
                hook.remove()
            kept.crop(-1)
            finals[n, chunk] = out[:, 0]
    return finals


@torch.no_grad()
def pushed(
    anatomy: Anatomy, ids: Sequence[Sequence[int]], block: int, vectors: Float[Tensor, "vector d_model"]
) -> Float[Tensor, "vector text d_model"]:
    """What the head reads after each vector in turn is added behind a block, at the last position of each text.

    No earlier position sees it, so that these are run once for all vectors.
    """
    finals = []
    for row in ids:
        embedded = anatomy.module.get_input_embeddings()(torch.tensor([list(row)]))
        kept = anatomy.module.base_model(inputs_embeds=embedded[:, :-1], use_cache=True).past_key_values
        kept.batch_repeat_interleave(len(vectors))
        at = (torch.arange(len(vectors)), torch.zeros(len(vectors), dtype=torch.long))
        hook = anatomy.blocks[block].register_forward_hook(_changing(lambda h: h + vectors, at))
        try:
            last = embedded[:, -1:].expand(len(vectors), -1, -1)
            finals.append(anatomy.module.base_model(inputs_embeds=last, past_key_values=kept).last_hidden_state[:, 0])
        finally:
            hook.remove()
    return torch.stack(finals, 1)


@torch.no_grad()
def everywhere(anatomy: Anatomy, ids: Sequence[Sequence[int]], block: int) -> Float[Tensor, "token d_model"]:
    """What a block's MLP reads at every position, before its norm."""
    kept: list[Tensor] = []

    def note(_: Any, args: Any) -> None:
        kept.append(args[0].flatten(0, -2))
        raise _Enough

    hook = anatomy.norm(block).register_forward_pre_hook(note)
    try:
        for row in ids:
            with suppress(_Enough):
                anatomy.module.base_model(input_ids=torch.tensor([list(row)]), use_cache=False)
    finally:
        hook.remove()
    return torch.cat(kept)


class _Enough(Exception):
    """The last block that is wanted has run."""


def _note(module: Any, kept: list[Tensor], at: tuple[Tensor, Tensor]) -> Any:
    return module.register_forward_pre_hook(lambda _, args: kept.append(args[0][at]))


def _note_out(block: Any, kept: list[Tensor], at: tuple[Tensor, Tensor], stop: bool) -> Any:
    def note(_: Any, args: Any, out: Any) -> None:
        kept.append((out[0] if isinstance(out, tuple) else out)[at].clone())
        if stop:
            raise _Enough

    return block.register_forward_hook(note)


def _changing(change: Callable[[Tensor], Tensor], at: tuple[Tensor, Tensor]) -> Any:
    def hook(_: Any, args: Any, out: Any) -> Any:
        h = (out[0] if isinstance(out, tuple) else out).clone()
        h[at] = change(h[at])
        return (h, *out[1:]) if isinstance(out, tuple) else h

    return hook


def _taller(old: nn.Linear, rows: Float[Tensor, "neuron d_model"]) -> nn.Linear:
    new = nn.Linear(old.in_features, old.out_features + len(rows), bias=False)
    new.weight = nn.Parameter(torch.cat([old.weight.detach(), rows]))
    return new


def _wider(old: nn.Linear, more: int) -> nn.Linear:
    new = nn.Linear(old.in_features + more, old.out_features, bias=False)
    new.weight = nn.Parameter(torch.cat([old.weight.detach(), torch.zeros(old.out_features, more)], 1))
    return new


def _conv(weight: Tensor, bias: Tensor) -> Conv1D:
    new = Conv1D(weight.shape[1], weight.shape[0])
    new.weight, new.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return new

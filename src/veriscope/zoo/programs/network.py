"""The network that programs are compiled to: a transformer without norms, every head and MLP a module of its own.

Norms are left out as in Tracr: with them no number in the residual stream could be exact. Each submodule's output is a
site: `blocks.0.heads.1` is what a head adds to the stream, `blocks.0.resid_post` the stream behind a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Widths:
    """Sizes of one block: (score, value) widths of each head, and the number of neurons."""

    heads: tuple[tuple[int, int], ...]
    neurons: int


class Head(nn.Module):
    """One attention head; `o` of its `z` is what it adds to the residual stream."""

    def __init__(self, d_model: int, score: int, value: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.q = nn.Linear(d_model, score, bias=False)
        self.k = nn.Linear(d_model, score, bias=False)
        self.v = nn.Linear(d_model, value, bias=False)
        self.z = nn.Identity()
        self.o = nn.Linear(value, d_model, bias=False)

    def forward(self, x: Float[Tensor, "example position d_model"]) -> Float[Tensor, "example position d_model"]:
        score = self.q(x) @ self.k(x).transpose(1, 2)
        if self.causal:
            ahead = torch.ones(score.shape[1:], dtype=torch.bool, device=x.device).triu(1)
            score = score.masked_fill(ahead, float("-inf"))
        return self.o(self.z(score.softmax(-1) @ self.v(x)))


class MLP(nn.Module):
    """One hidden layer of ReLU neurons."""

    def __init__(self, d_model: int, neurons: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, neurons)
        self.act = nn.ReLU()
        self.down = nn.Linear(neurons, d_model, bias=False)

    def forward(self, x: Float[Tensor, "example position d_model"]) -> Float[Tensor, "example position d_model"]:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """Heads side by side, then an MLP, each added to the residual stream."""

    def __init__(self, d_model: int, widths: Widths, causal: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, score, value, causal) for score, value in widths.heads)
        self.resid_mid = nn.Identity()
        self.mlp = MLP(d_model, widths.neurons)
        self.resid_post = nn.Identity()

    def forward(self, x: Float[Tensor, "example position d_model"]) -> Float[Tensor, "example position d_model"]:
        for head_out in [head(x) for head in self.heads]:
            x = x + head_out
        x = self.resid_mid(x)
        return self.resid_post(x + self.mlp(x))


class Network(nn.Module):
    """Words and places in, logits out; `context` is the longest text."""

    def __init__(self, vocab: int, context: int, d_model: int, blocks: Sequence[Widths], causal: bool) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocab, d_model)
        self.place = nn.Embedding(context, d_model)
        self.resid_pre = nn.Identity()
        self.blocks = nn.ModuleList(Block(d_model, widths, causal) for widths in blocks)
        self.unembed = nn.Linear(d_model, vocab, bias=False)

    def forward(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position vocab"]:
        """Logits at every position."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.resid_pre(self.embed(input_ids) + self.place(places))
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)

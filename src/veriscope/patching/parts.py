"""The parts of a causal transformer told apart: who writes into the residual stream, who reads from it, and how.

A sender adds a vector to the stream: the embedding, each head, each MLP. A receiver reads the stream before its own
norm: the queries, keys or values of each head, each MLP, the logits. An edge leads from a sender to a later receiver.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from veriscope.errors import NotAvailable
from veriscope.subjects import Subject
from veriscope.subjects.families import find
from veriscope.subjects.sweep import check_replay
from veriscope.subjects.transformer import Transformer


@dataclass(frozen=True)
class Inside:
    """Where a family keeps what reads from the residual stream; paths relative to the block.

    Attributes:
        attention_norm, mlp_norm: What the two read through.
        project: What makes queries, keys and values: one module for all three, or one each.
        by_head: Whether one module's output holds q, k, v of the first head, then of the second; else all q come first.
    """

    attention_norm: str
    mlp_norm: str
    project: tuple[str, ...]
    by_head: bool = False


_LLAMA = Inside(
    "input_layernorm",
    "post_attention_layernorm",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)
_TABLE = {
    "gpt2": Inside("ln_1", "ln_2", ("attn.c_attn",)),
    "gpt_neox": Inside("input_layernorm", "post_attention_layernorm", ("attention.query_key_value",), by_head=True),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), _LLAMA),
}
READ = ("q", "k", "v")


@dataclass(frozen=True)
class Node:
    """A sender or a receiver.

    Attributes:
        kind: "embed", "head" or "mlp" (senders); "q", "k", "v", "mlp" or "logits" (receivers).
        block, unit: Where it is; 0 where that says nothing.
    """

    kind: str
    block: int = 0
    unit: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "head":
                return f"blocks.{self.block}.heads.z[{self.unit}]"
            case "q" | "k" | "v":
                return f"blocks.{self.block}.heads.{self.kind}[{self.unit}]"
            case "mlp":
                return f"blocks.{self.block}.mlp"
            case _:
                return self.kind


@dataclass(frozen=True, eq=False)
class Apart:
    """A model whose parts are told apart; made by `tell_apart`."""

    subject: Subject
    engine: Transformer
    inside: Inside
    n_heads: int
    n_shared: int  # heads of keys and of values

    @property
    def n_blocks(self) -> int:
        return self.subject.n_blocks

    @property
    def side_by_side(self) -> bool:
        """Whether attention and MLP of a block read the same stream, so that the MLP does not see its own heads."""
        return self.engine.family.mid is None

    def heads_of(self, part: str) -> int:
        """Number of heads of queries, keys or values."""
        return self.n_heads if part == "q" else self.n_shared

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """In the order in which they write."""
        nodes = [Node("embed")]
        for block in range(self.n_blocks):
            nodes += [Node("head", block, head) for head in range(self.n_heads)]
            nodes.append(Node("mlp", block))
        return tuple(nodes)

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        """In the order in which they read."""
        nodes = []
        for block in range(self.n_blocks):
            nodes += [Node(part, block, head) for part in READ for head in range(self.heads_of(part))]
            nodes.append(Node("mlp", block))
        return (*nodes, Node("logits"))

    def seen(self, receiver: Node) -> int:
        """Number of senders, from the first on, that a receiver sees."""
        if receiver.kind == "logits":
            return len(self.senders)
        before = 1 + receiver.block * (self.n_heads + 1)
        return before + self.n_heads * (receiver.kind == "mlp" and not self.side_by_side)

    @cached_property
    def exists(self) -> Bool[Tensor, "sender receiver"]:
        """Which of all pairs are edges."""
        seen = torch.tensor([self.seen(receiver) for receiver in self.receivers])
        return torch.arange(len(self.senders))[:, None] < seen

    def norm(self, block: int, of: str) -> nn.Module:
        """What attention ("attention") or the MLP ("mlp") of a block reads through."""
        path = self.inside.attention_norm if of == "attention" else self.inside.mlp_norm
        return self.engine.blocks[block].get_submodule(path)

    def projections(self, block: int) -> tuple[nn.Module, ...]:
        """What makes queries, keys and values of a block."""
        return tuple(self.engine.blocks[block].get_submodule(path) for path in self.inside.project)

    def split(self, block: int, part: str, whole: Float[Tensor, "*rest column"]) -> Float[Tensor, "*rest head d_head"]:
        """The columns of a projection's output that make one part, by head."""
        if len(self.inside.project) == 3:
            return whole.unflatten(-1, (self.heads_of(part), -1))
        number = READ.index(part)
        if self.inside.by_head:
            return whole.unflatten(-1, (self.n_heads, 3, -1))[..., number, :]
        return whole.unflatten(-1, (3, self.n_heads, -1))[..., number, :, :]

    def through(self, block: int, part: str) -> tuple[int, Float[Tensor, "d_model head d_head"]]:
        """Which of the projections makes a part, and the weights of its columns."""
        number = READ.index(part) if len(self.inside.project) == 3 else 0
        return number, self.split(block, part, _matrix(self.projections(block)[number]))

    def writes(self, block: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head's z is multiplied by on its way into the stream."""
        path = self.engine.family.project
        return _matrix(self.engine.blocks[block].get_submodule(path)).unflatten(0, (self.n_heads, -1))


def tell_apart(subject: Subject) -> Apart:
    """Find the parts of a model.

    Raises:
        NotAvailable: It is of no family whose parts can be told apart; the message says why.
        UnknownSite: A site that this needs was refused at load.
    """
    engine: Any = subject._engine
    if not isinstance(engine, Transformer):
        raise _refusal(subject, "its blocks are not known")
    if not engine.causal:
        raise _refusal(subject, "its attention sees what stands behind a position")
    family, kind = engine.family, str(engine.config.model_type)
    if family.after_project is not None or family.after_down is not None or family.post_norms is not None:
        raise _refusal(subject, "a norm stands between its heads and the residual stream, so they do not simply add up")
    if kind not in _TABLE:
        raise _refusal(subject, f"it is not known where a '{kind}' makes queries, keys and values")
    if not engine.head_is_true or family.final_norm is None:
        raise _refusal(subject, "its logits are not the unembedding of a final norm")
    check_replay(engine)
    if engine.why_plain:
        raise _refusal(subject, f"{engine.why_plain}, so its blocks can't be run by themselves")
    inside, last = _TABLE[kind], subject.n_blocks - 1
    needed = [f"blocks.{n}.{tail}" for n in range(subject.n_blocks) for tail in ("heads.q", "heads.k", "heads.v",
                                                                               "heads.z", "mlp_out")]  # fmt: skip
    for name in ("embed", *needed, f"blocks.{last}.resid_post", "logits"):
        subject.site(name)
    heads, shared = (subject.site(f"blocks.0.heads.{part}").units or 0 for part in ("z", "k"))
    apart = Apart(subject, engine, inside, heads, shared)
    for block in engine.blocks:
        for path in (inside.attention_norm, inside.mlp_norm, *inside.project, family.project):
            if find(block, path) is None:
                raise _refusal(subject, f"its blocks have no {path}")
    return apart


def _matrix(module: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """The weight of a linear layer, stored as (out, in) or, in GPT-2, as (in, out)."""
    weight = module.weight.detach()  # type: ignore[union-attr,operator]
    return weight.T if isinstance(module, nn.Linear) else weight  # type: ignore[return-value]


def _refusal(subject: Subject, why: str) -> NotAvailable:
    return NotAvailable(
        f"The parts of {subject.name} can't be told apart: {why}. Edges are scored in GPT-2, GPT-NeoX, Llama, Mistral, "
        f"Qwen 2 and 3 and Gemma; use activation_patching or attribution_patching for whole sites."
    )

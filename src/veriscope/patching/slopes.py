"""How the logit difference changes with activations: values and gradients at many sites from one pass each way.

Only activations are differentiated, from the first site that is wanted on; the pass ends at the last token's
residual stream, and of the unembedding only the rows of answer and foil are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from veriscope.patching.gaps import Asked, gap_of
from veriscope.subjects import Read
from veriscope.subjects.plan import Batch, plan
from veriscope.subjects.sites import settle
from veriscope.subjects.sweep import logits_of
from veriscope.subjects.taps import Keeper, Tap, Taps
from veriscope.subjects.transformer import Transformer


@dataclass(frozen=True, eq=False)
class Slopes:
    """One pass each way over some texts.

    Attributes:
        gaps: Logit difference of each text.
        values: Activations at each site, at all positions, in the order in which sites were asked for. Behind the last
            block's MLP only those of the last token hold: nothing else is computed there, and the gradient is 0.
        slopes: d logit difference / d activations, the same.
        extra: Value and gradient of each tensor that hooks caught, by the name they gave.
    """

    gaps: Float[Tensor, "text"]
    values: tuple[Float[Tensor, "text token *inner"], ...]
    slopes: tuple[Float[Tensor, "text token *inner"], ...]
    extra: Mapping[str, tuple[Tensor, Tensor]]


Hooks = Callable[[dict[str, Tensor]], Sequence[Any]]
"""Puts further hooks on, which catch tensors of the graph by name, and gives back their handles."""


def slopes(
    asked: Asked,
    sites: Sequence[str],
    *,
    fixed: Mapping[str, Float[Tensor, "text token *inner"]] | None = None,
    hooks: Hooks | None = None,
) -> Slopes:
    """Run texts forward and back, all of them in one graph.

    Args:
        asked: Texts with the tokens that are compared; few enough for one graph.
        sites: Where values and gradients are wanted.
        fixed: What stands in for activations, such as those of "embed".
        hooks: Catch more tensors whose gradients are wanted; the graph then begins at the embedding.

    Raises:
        UnknownSite: The model has no such site.
    """
    engine: Any = asked.subject._engine
    batch = one_batch(asked, engine)
    back = batch.rows.argsort()
    caught: dict[str, Tensor] = {}
    taps = Taps()
    given = fixed or {}
    begins = [name for name in engine.sites if name in sites or (hooks and name == "embed")][:1]
    for name in {*sites, *given, *begins}:
        catch = _Catch(name, caught, given.get(name), name in begins)
        taps[name] = Tap(asked.subject.site(name), change=catch)
    end = _end(asked, engine, taps)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(engine.installed(taps))
        more: dict[str, Tensor] = {}
        for handle in hooks(more) if hooks else ():
            stack.callback(handle.remove)
        logits = _logits(asked, engine, batch, taps, end)
        leaves = [caught[name] for name in sites]
        found = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), [*leaves, *more.values()])
    asked.subject.passes += len(asked)
    own, others = found[: len(leaves)], found[len(leaves) :]
    return Slopes(
        gap_of(logits)[back.cpu()],
        tuple(_rows(leaf.detach(), back) for leaf in leaves),
        tuple(_rows(slope, back) for slope in own),
        {
            name: (_rows(more[name].detach(), back), _rows(slope, back))
            for name, slope in zip(more, others, strict=True)
        },
    )


@dataclass(frozen=True, eq=False)
class _Catch:
    """Keeps what the model goes on with at a site; the first of all is made the leaf that the graph begins at."""

    name: str
    caught: dict[str, Tensor]
    given: Tensor | None
    leaf: bool

    def __call__(self, h: Tensor, batch: Batch) -> Tensor:
        if self.given is not None:
            h = self.given[batch.rows, : h.shape[1]].to(h)
        self.caught[self.name] = h.detach().requires_grad_() if self.leaf else h
        return self.caught[self.name]


def one_batch(asked: Asked, engine: Any) -> Batch:
    """All texts in one batch."""
    slots = len(asked) * int(asked.lengths.max())
    ids = asked.subject.tokens(asked.texts)
    return plan(ids, batch_tokens=slots, fill=engine.fill, device=asked.subject.device).batches[0]


def _end(asked: Asked, engine: Any, taps: Taps) -> Keeper | None:
    """Keeps the last token's residual stream in the graph, where logits are its norm and unembedding."""
    if not _plain_end(engine):
        return None
    lengths = asked.lengths.to(asked.subject.device)
    site = engine.sites[f"blocks.{len(engine.blocks) - 1}.resid_post"]
    keeper = Keeper(Read(site.name, "last"), site, settle("last", lengths), len(asked), int(lengths.max()), grad=True)
    taps.setdefault(site.name, Tap(site)).keepers.append(keeper)
    return keeper


def _logits(asked: Asked, engine: Any, batch: Batch, taps: Taps, end: Keeper | None) -> Float[Tensor, "row 2"]:
    """Logits of answer and foil at the last token, in the order of the batch."""
    tokens = asked.tokens.to(batch.ids.device)[batch.rows]
    if end is None:
        logits = engine.run(batch, taps, "last")
        assert logits is not None
        return logits.gather(1, tokens)
    engine.run(batch, taps, None)
    return logits_of(engine, end.result()[batch.rows], tokens)


def _plain_end(engine: Any) -> bool:
    """Whether the logits are the unembedding of the final norm of the last block's output."""
    known = isinstance(engine, Transformer) and engine.head_is_true and engine.family.final_norm is not None
    end = f"blocks.{len(engine.blocks) - 1}.resid_post"
    return known and not engine.family.norm_in_head and isinstance(engine.head, nn.Module) and end in engine.sites


def _rows(x: Tensor, back: Int[Tensor, "row"]) -> Tensor:
    """Rows in the order asked; they are there already where all texts are of one length."""
    return x if bool((back[1:] > back[:-1]).all()) else x[back]


def in_parts(points: Sequence[float], most: int) -> Iterator[Sequence[float]]:
    """At most so many points at a time, about as many each time."""
    times = -(-len(points) // max(1, most))
    size = -(-len(points) // times)
    for first in range(0, len(points), size):
        yield points[first : first + size]

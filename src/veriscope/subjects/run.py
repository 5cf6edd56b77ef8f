"""One run of a model over a list of prompts, with reads, edits and logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from veriscope.errors import BadRead, NotAvailable
from veriscope.subjects.edits import Edit, fit_edit
from veriscope.subjects.plan import Batch, Plan
from veriscope.subjects.sites import Places, Read, Site, settle
from veriscope.subjects.taps import Keeper, Tap, Taps


@runtime_checkable
class Engine(Protocol):
    """What runs a model: `Transformer` for the known families, `PlainModule` for all others."""

    module: Any
    sites: dict[str, Site]
    refused: dict[str, str]
    equal_lengths: bool
    causal: bool

    def run(self, batch: Batch, taps: Taps, logits: str | None, cache: Any = None) -> Tensor | None: ...

    def installed(self, taps: Taps) -> AbstractContextManager[None]: ...

    def hurried(self, positions: int) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, eq=False)
class Run:
    """What a run kept.

    Attributes:
        reads: Each read with its tensor: (example, ...) for one position, (example, position, ...) for all,
            padded on the right with zeros. A site that was edited is read after its edits.
        mask: True where a prompt has a token.
        logits: (example, vocab) of the last token, (example, position, vocab), or None if not asked for.
    """

    reads: tuple[tuple[Read, Tensor], ...]
    mask: Bool[Tensor, "example position"]
    logits: Float[Tensor, "example *rest"] | None = None

    def __getitem__(self, key: str | Read) -> Tensor:
        """The tensor of a read, or of the only read of a site.

        Raises:
            BadRead: It was not read, or the site was read more than once.
        """
        found = [tensor for read, tensor in self.reads if read is key or read.site == key or _same(read, key)]
        if len(found) == 1:
            return found[0]
        if not found:
            kept = ", ".join(dict.fromkeys(read.site for read, _ in self.reads)) or "nothing"
            raise BadRead(f"{key} was not read in this run, which kept {kept}. Ask for it in read=[...].")
        raise BadRead(f"'{key}' was read {len(found)} times in this run: index it with the Read itself.")


def _same(read: Read, key: str | Read) -> bool:
    return isinstance(key, Read) and isinstance(read.at, str | int) and isinstance(key.at, str | int) and read == key


def execute(
    engine: Engine,
    todo: Plan,
    *,
    reads: Sequence[Read],
    edits: Sequence[Edit],
    logits: str | None,
    grad: bool,
    site: Mapping[str, Site],
) -> tuple[Run, int]:
    """Run every batch of a plan.

    Args:
        engine: What runs the model.
        todo: The prompts.
        reads: What to keep.
        edits: What to change; those on one site apply in this order.
        logits: "last", "all" or None.
        grad: Keep the graph, so that what was read can be differentiated.
        site: Every site that may be used, by name.

    Returns:
        What was kept, and the number of prompts that went through the model.
    """
    if logits is not None and "logits" not in engine.sites:
        raise NotAvailable(f"This model gives no logits: {engine.refused.get('logits', 'it has no unembedding')}.")
    taps = build_taps(engine, todo, edits, site)
    keepers = []
    for read in reads:
        keeper = Keeper(read, site[read.site], _places(read, site[read.site], todo), len(todo), todo.longest, grad)
        taps.setdefault(read.site, Tap(site[read.site])).keepers.append(keeper)
        keepers.append(keeper)
    if grad:
        _grow_graph(taps, site)
    out = _Logits(len(todo), todo.longest, grad)
    slots = sum(batch.ids.numel() for batch in todo.batches)
    with torch.set_grad_enabled(grad), engine.hurried(slots), engine.installed(taps):
        for batch in todo.batches:
            out.keep(engine.run(batch, taps, logits), batch)
    mask = torch.arange(todo.longest, device=todo.lengths.device) < todo.lengths[:, None]
    kept = tuple((keeper.read, keeper.result()) for keeper in keepers)
    return Run(kept, mask, out.result()), len(todo)


def build_taps(engine: Engine, todo: Plan, edits: Sequence[Edit], site: Mapping[str, Site]) -> Taps:
    """Taps that hold the edits only."""
    taps = Taps()
    dtype = next((weight.dtype for weight in engine.module.parameters()), torch.float32)
    for edit in edits:
        settled = fit_edit(edit, site[edit.site], todo.lengths, dtype)
        taps.setdefault(edit.site, Tap(site[edit.site])).edits.append(settled)
    return taps


def _places(read: Read, site: Site, todo: Plan) -> Places:
    places = settle(read.at, todo.lengths.cpu())
    if places.mask is not None:
        raise BadRead(f"A read of {site.name} takes all positions or one for each prompt: read 'all' and cut it there.")
    if not site.has_positions:
        if not (places.everywhere or read.at in ("last", "first")):
            raise BadRead(f"{site.name} has no position axis {site.axes}: leave `at` as 'all'.")
        return Places()
    units = read.units or ()
    if read.units is not None and (site.units is None or not units or not all(0 <= u < site.units for u in units)):
        raise BadRead(f"{site.name} has units 0..{(site.units or 0) - 1}; units={read.units} was asked for.")
    return Places(index=None if places.index is None else places.index.to(todo.lengths.device))


def _grow_graph(taps: Taps, site: Mapping[str, Site]) -> None:
    """Let the graph begin at the embedding, since a loaded model's weights ask for no gradient."""
    if "embed" in site:
        tap = taps.setdefault("embed", Tap(site["embed"]))
        tap.change = lambda h, batch: h if h.requires_grad else h.detach().requires_grad_()


class _Logits:
    """Logits of all batches, in the order of the prompts."""

    def __init__(self, n: int, longest: int, grad: bool) -> None:
        self.n, self.longest, self.grad = n, longest, grad
        self._whole: Tensor | None = None
        self._parts: list[tuple[Tensor, Tensor]] = []

    def keep(self, out: Tensor | None, batch: Batch) -> None:
        if out is None:
            return
        if out.ndim == 3:
            if batch.ragged:
                out = out.masked_fill(~batch.real[:, :, None], 0.0)
            out = torch.nn.functional.pad(out, (0, 0, 0, self.longest - out.shape[1]))
        if self.grad:
            self._parts.append((batch.rows, out))
            return
        if self._whole is None:
            self._whole = out.new_zeros(self.n, *out.shape[1:])
        self._whole[batch.rows] = out

    def result(self) -> Tensor | None:
        if self._parts:
            rows = torch.cat([rows for rows, _ in self._parts])
            return torch.cat([out for _, out in self._parts])[rows.argsort()]
        return self._whole

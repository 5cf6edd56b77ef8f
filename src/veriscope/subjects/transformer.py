"""Runs transformers of the known families with taps on their standard sites.

Residual, attention-output and MLP sites are reached by hooks, which are put on the tapped modules only and
taken off again; what happens inside attention is reached through `attention.py`. Prompts are padded on the
right without a mask where attention is causal: no real token can see what stands behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.activations import NewGELUActivation

from veriscope.subjects.attention import NAME, PARTS, tapping
from veriscope.subjects.families import Family, Spot, find, soft_cap
from veriscope.subjects.packing import ENOUGH_ONCE, Packing
from veriscope.subjects.plan import Batch
from veriscope.subjects.sites import Site
from veriscope.subjects.taps import Enough, Reached, Taps

MLP_SITES = ("mlp.act", "mlp_out")


class Transformer:
    """A transformer of a known family, ready to run.

    Attributes:
        packing: Its linear layers laid out for large runs.
        sites: Every site that the model should have, in the order in which a run reaches them.
        refused: Sites that it does not have or that failed their check, with the reason.
        equal_lengths: Whether batches must hold prompts of one length only (never, here).
    """

    equal_lengths = False

    def __init__(self, module: PreTrainedModel, family: Family) -> None:
        self.module, self.family = module, family
        self.base: nn.Module = module.base_model
        module.config._attn_implementation = NAME
        blocks = find(self.base, family.blocks)
        self.blocks = list(blocks.children()) if blocks is not None else []
        self.head = find(module, family.head) if family.head else None
        self.head_is_true = True
        self.cap = soft_cap(module)
        self.causal = family.causal and not getattr(module.config, "use_bidirectional_attention", False)
        self.refused: dict[str, str] = {}
        self.why_plain = ""  # why edits are not replayed in this model, if they are not
        self.replay_checked = False
        self._live: tuple[int, Tensor] | None = None
        self.spots: dict[str, tuple[nn.Module, str]] = {}
        self._parts: dict[str, tuple[nn.Module, str]] = {}
        self.sites = self._lay_out()
        self.packing = Packing(self.blocks, family)
        self._slow_gelus = [part for part in module.modules() if type(part) is NewGELUActivation]

    @contextmanager
    def fused(self) -> Iterator[None]:
        """GPT-2's own GELU in one kernel in the place of eight; that logits stay the model's is checked at load."""
        mine = [part for part in self._slow_gelus if "forward" not in part.__dict__]
        for part in mine:
            part.forward = _gelu  # type: ignore[assignment]
        try:
            yield
        finally:
            for part in mine:
                part.__dict__.pop("forward", None)

    def hurried(self, positions: int) -> AbstractContextManager[None]:
        """For the time of a run of so many positions: weights laid out for the processor, where that pays."""
        return self.packing.used(positions, ENOUGH_ONCE)

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def context(self) -> int | None:
        longest = getattr(self.config, "max_position_embeddings", None)
        if longest is not None and self.config.model_type == "roberta":
            return int(longest) - int(self.config.pad_token_id) - 1  # its positions start behind the padding id
        return longest

    @property
    def has_logits(self) -> bool:
        return "logits" in self.sites

    @property
    def embedding(self) -> nn.Embedding | None:
        table = self.module.get_input_embeddings()
        return table if isinstance(table, nn.Embedding) else None

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def fill(self) -> int:
        """An id for padding that transformers does not take for a forgotten mask."""
        return 1 if self.config.pad_token_id == 0 else 0

    def inputs(self, batch: Batch, cache: Cache | None = None) -> dict[str, Any]:
        """Arguments of the model's own forward pass."""
        given: dict[str, Any] = {"input_ids": batch.ids, "use_cache": cache is not None}
        if cache is not None:
            given["past_key_values"] = cache
        if batch.start is not None:
            slots = torch.arange(batch.slot + batch.ids.shape[1], device=batch.ids.device)
            position = slots - batch.start[:, None]
            given["position_ids"] = position[:, batch.slot :].clamp_min(0)
            if batch.ragged:
                given["attention_mask"] = (position >= 0).long()
        elif not self.causal and batch.ragged:
            given["attention_mask"] = batch.real.long()
        return given

    def run(self, batch: Batch, taps: Taps, logits: str | None, cache: Cache | None = None) -> Tensor | None:
        """One forward pass, as far as it is needed; the taps must be installed.

        Returns:
            None, (row, vocab) for logits="last", or (row, position, vocab) for "all".
        """
        in_head = "logits" in taps or (self.family.norm_in_head and "final_norm" in taps)
        taps.begin(batch)
        taps.stop_early = logits is None and not in_head
        self._live = self._needed(batch, taps, logits, in_head)
        try:
            if not self.head_is_true and (logits or in_head):
                return self._own_logits(batch, taps, logits, cache)
            hidden = self.base(**self.inputs(batch, cache)).last_hidden_state
        except Enough:
            return None
        if logits is None and not in_head:
            return None
        if logits == "all" or in_head:
            out = self.unembed(hidden)
            out = taps.reach("logits", out) if "logits" in taps else out
            return out if logits == "all" else None if logits is None else last(out, batch)
        return self.unembed(last(hidden, batch))

    def _own_logits(self, batch: Batch, taps: Taps, logits: str | None, cache: Cache | None) -> Tensor:
        """Where the model does more after its final norm than the family's unembedding: its own forward pass."""
        out = self.module(**self.inputs(batch, cache)).logits
        out = taps.reach("logits", out) if "logits" in taps else out
        return last(out, batch) if logits == "last" else out

    def unembed(self, hidden: Tensor) -> Tensor:
        """From what the base model returns to logits."""
        assert self.head is not None
        return self.cap(self.head(hidden))

    @contextmanager
    def installed(self, taps: Taps) -> Iterator[None]:
        """Put hooks on the tapped modules; they are off again when the block ends, however it ends."""
        parts: dict[nn.Module, dict[str, str]] = {}
        with ExitStack() as stack:
            stack.enter_context(self.fused())
            for name in self.sites:  # in the order of the model, so that embed is edited before blocks.0.resid_pre
                if name not in taps:
                    continue
                if name in self._parts:
                    module, part = self._parts[name]
                    parts.setdefault(module, {})[part] = name
                elif name in self.spots:
                    stack.callback(hook(*self.spots[name], name, taps).remove)
            if parts:
                stack.enter_context(tapping(taps, parts))
            for number, block in enumerate(self.blocks):
                mlp = find(block, self.family.mlp) if self.family.mlp else None
                if mlp is not None and not {f"blocks.{number}.{tail}" for tail in MLP_SITES} & set(taps):
                    stack.enter_context(self._narrowing(number, mlp))
            yield
            self._live = None

    def _needed(
        self, batch: Batch, taps: Taps, logits: str | None, in_head: bool
    ) -> tuple[int, Int[Tensor, "row place"]] | None:
        """The last block that is run, and the positions of its output that anything is kept of; None for all.

        Nothing mixes positions behind the attention of that block, so its MLP is run for these alone.
        """
        final = len(self.blocks) - 1
        kept = [name for name in self.sites if name in taps and taps[name].keepers]
        last_block = final if logits or in_head else next((n for n in range(final + 1) if kept[-1:] == [_post(n)]), -1)
        if logits == "all" or last_block < 0 or batch.start is not None:
            return None
        behind = {_post(last_block), *({"final_norm", "logits"} if last_block == final else ())}
        wanted = [keeper.places.index for name in kept if name in behind for keeper in taps[name].keepers]
        places = [None if index is None else index[batch.rows] for index in wanted]
        places += [batch.lengths - 1] if logits == "last" else []
        if not places or any(place is None for place in places) or 2 * len(places) > batch.ids.shape[1]:
            return None
        return last_block, torch.stack([place for place in places if place is not None], 1)

    @contextmanager
    def narrowed(self, number: int, mlp: nn.Module, live: Int[Tensor, "row place"]) -> Iterator[None]:
        """Run a block's MLP at these positions only; zeros stand elsewhere in its output."""
        self._live = (number, live)
        with self._narrowing(number, mlp):
            try:
                yield
            finally:
                self._live = None

    @contextmanager
    def _narrowing(self, number: int, mlp: nn.Module) -> Iterator[None]:
        """Run a block's MLP at the live positions only, where `_live` names that block; zeros stand elsewhere."""
        shape: list[torch.Size] = []

        def narrow(_: nn.Module, args: Any) -> Any:
            if self._live is None or self._live[0] != number:
                return None
            shape[:] = [args[0].shape]
            return (args[0][torch.arange(len(args[0]), device=args[0].device)[:, None], self._live[1]], *args[1:])

        def widen(_: nn.Module, args: Any, output: Tensor) -> Any:
            if self._live is None or self._live[0] != number:
                return None
            rows = torch.arange(len(output), device=output.device)[:, None]
            return output.new_zeros(*shape[0][:2], output.shape[-1]).index_put((rows, self._live[1]), output)

        hooks = [mlp.register_forward_pre_hook(narrow), mlp.register_forward_hook(widen, prepend=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _lay_out(self) -> dict[str, Site]:
        width = self.d_model
        stream = ("example", "position", "d_model")
        sites: dict[str, Site] = {}

        def add(name: str, axes: tuple[str, ...], width: int | None, units: int | None, spot: Any) -> None:
            module, side = spot
            if module is None:
                self.refused[name] = "this model has no module where the family keeps it"
                return
            sites[name] = Site(name, axes, width, units)
            (self._parts if side in PARTS else self.spots)[name] = (module, side)

        if self.blocks:
            add("embed", stream, width, width, (self.blocks[0], "in"))
        for number, block in enumerate(self.blocks):
            for tail, axes, length, units, spot in self._block_sites(block):
                add(f"blocks.{number}.{tail}", axes, length, units, spot)
            if self.family.mid is None:
                self.refused[f"blocks.{number}.resid_mid"] = (
                    "attention and MLP of this model read the same residual stream side by side, "
                    "so there is no residual stream between them"
                )
        self._lay_out_end(add, stream, width)
        return {name: site for name, site in sites.items()}

    def _block_sites(self, block: nn.Module) -> Iterator[tuple[str, tuple[str, ...], int | None, int | None, Any]]:
        family, config = self.family, self.config
        stream, per_head = ("example", "position", "d_model"), ("example", "position", "head", "d_head")
        width, heads = self.d_model, int(config.num_attention_heads)
        shared = int(getattr(config, "num_key_value_heads", None) or heads)
        d_head = int(getattr(config, "head_dim", None) or width // heads)
        core, down = find(block, family.attention), find(block, family.down)
        yield "resid_pre", stream, width, width, (block, "in")
        for part, units in (("q", heads), ("k", shared), ("v", shared)):
            yield f"heads.{part}", per_head, d_head, units, (core, part)
        yield "heads.pattern", ("example", "head", "query", "key"), None, heads, (core, "pattern")
        yield "heads.z", per_head, d_head, heads, (core, "z")
        yield "attn_out", stream, width, width, _at(block, family.attn_out)
        if family.mid is not None:
            side = "through" if family.mid.side == "in" else "out"
            yield "resid_mid", stream, width, width, (find(block, family.mid.module), side)
        if down is not None:
            neurons = _width_in(down)
            yield "mlp.act", ("example", "position", "neuron"), neurons, neurons, (down, "in")
        yield "mlp_out", stream, width, width, _at(block, family.mlp_out)
        yield "resid_post", stream, width, width, (block, "out")

    def _lay_out_end(self, add: Any, stream: tuple[str, ...], width: int) -> None:
        family = self.family
        if family.final_norm is None or (family.norm_in_head and self.head is None):
            self.refused["final_norm"] = (
                "every block of this model ends with its own norm and there is no other: "
                f"use blocks.{len(self.blocks) - 1}.resid_post"
            )
        else:
            root = self.head if family.norm_in_head else self.base
            assert root is not None
            add("final_norm", stream, width, width, (find(root, family.final_norm), "out"))
        if self.head is None:
            self.refused["logits"] = "the model was loaded without an unembedding (a bare encoder or base model)"
        else:
            vocab = int(self.config.vocab_size)
            add("logits", ("example", "position", "vocab"), vocab, vocab, (self.head, "none"))
            self.spots.pop("logits", None)  # reached in `run`, after any soft cap


def last(x: Tensor, batch: Batch) -> Tensor:
    """The rows at each prompt's last token."""
    if batch.start is not None:
        return x[:, -1]
    return x[torch.arange(len(batch), device=x.device), batch.lengths - 1]


def _gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def _post(number: int) -> str:
    return f"blocks.{number}.resid_post"


def first_tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _at(block: nn.Module, spot: Spot) -> tuple[nn.Module | None, str]:
    return find(block, spot.module), spot.side


def _width_in(down: nn.Module) -> int:
    """Input width of a linear layer, stored as (out, in) or, in GPT-2, as (in, out)."""
    width = getattr(down, "in_features", None)
    return int(width) if width is not None else int(getattr(down, "nx", None) or down.weight.shape[0])  # type: ignore[arg-type,index]


def hook(module: nn.Module, side: str, name: str, taps: Reached) -> Any:
    """Put one hook on: on the output, on the first input, or through the input into what else holds it."""

    def on_output(_: nn.Module, args: Any, output: Any) -> Any:
        old = first_tensor(output)
        new = taps.reach(name, old)
        if new is old:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def on_input(_: nn.Module, args: Any) -> Any:
        new = taps.reach(name, args[0])
        return None if new is args[0] else (new, *args[1:])

    def through_input(_: nn.Module, args: Any) -> None:
        # The block adds the MLP's output to this very tensor, so it is changed in place: a new one would reach
        # the norm but not the residual stream.
        new = taps.reach(name, args[0])
        if new is not args[0]:
            args[0].copy_(new)

    if side == "out":
        return module.register_forward_hook(on_output)
    return module.register_forward_pre_hook(through_input if side == "through" else on_input)

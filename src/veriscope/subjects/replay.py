"""Runs many edits of one base run, computing again only what each edit can change.

A cell is one edit of one prompt. Where attention is causal an edit changes nothing before its first position and
nothing before its first block. So the rows of a cell (its positions from there on) enter at that block, taken from
the base run, and keys and values of the positions before them are the base run's own. The rows of all cells stand
side by side as one long sequence and go through the blocks of the model as they are: norms, projections and MLPs
treat every row by itself, and attention, which does not, is done here.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from veriscope.subjects.attention import attending, repeat_heads, shares
from veriscope.subjects.edits import Settled
from veriscope.subjects.families import find
from veriscope.subjects.plan import Batch, plan
from veriscope.subjects.taps import Enough
from veriscope.subjects.transformer import MLP_SITES, Transformer, first_tensor, hook

_POSITIONED = ("position_ids", "cache_position")  # arguments of a block that hold one number for each position


@dataclass(frozen=True, eq=False)
class Base:
    """What one batch's run without edits left behind for the cells.

    Attributes:
        inputs: Residual stream before each block, and after the last one: (row, position, d_model).
        keys, values: Of each block, as attention takes them: (row, key head, position, d_head).
        mixed: What attention makes of them, heads side by side, of blocks asked for: (row, position, head, d_head).
        acts, down, written: Of blocks asked for what goes into the MLP's down-projection, what comes out of it, and
            what the MLP adds to the residual stream (another tensor where a norm stands between): (row, position, *).
        allowed: Which key a query may see, where that is less than all before it: (query, key).
        given: Arguments that each block was called with beside the residual stream.
    """

    batch: Batch
    inputs: dict[int, Float[Tensor, "row position d_model"]] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    mixed: dict[int, Tensor] = field(default_factory=dict)
    acts: dict[int, Float[Tensor, "row position neuron"]] = field(default_factory=dict)
    down: dict[int, Float[Tensor, "row position d_model"]] = field(default_factory=dict)
    written: dict[int, Float[Tensor, "row position d_model"]] = field(default_factory=dict)
    allowed: dict[int, Bool[Tensor, "query key"] | None] = field(default_factory=dict)
    given: dict[int, dict[str, Any]] = field(default_factory=dict)


def run_base(engine: Transformer, batch: Batch, mixed: Collection[int] = (), written: Collection[int] = ()) -> Base:
    """One forward pass of the base model that keeps what cells may need.

    Args:
        mixed: Blocks of which z is kept.
        written: Blocks of which the MLP's activations and output are kept.
    """
    base = Base(batch)
    number = {id(find(block, engine.family.attention)): n for n, block in enumerate(engine.blocks)}

    def note(n: int, block: nn.Module) -> Any:
        names = [p.name for p in inspect.signature(block.forward).parameters.values()][1:]

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            base.inputs[n] = args[0] if args else kwargs["hidden_states"]
            base.given[n] = {**dict(zip(names, args[1:], strict=False)), **kwargs}

        return block.register_forward_pre_hook(before, with_kwargs=True)

    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, cap: float | None
    ) -> Tensor:
        n = number[id(module)]
        base.keys[n], base.values[n] = k, v
        base.allowed[n] = None if mask is None else _visible(mask)
        z = _attend(q, repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1]), base.allowed[n], scale, cap)
        if n in mixed:
            base.mixed[n] = z
        return z

    def after(_: nn.Module, args: Any, output: Any) -> None:
        base.inputs[len(engine.blocks)] = first_tensor(output)

    with ExitStack() as stack:
        for n, block in enumerate(engine.blocks):
            stack.callback(note(n, block).remove)
        for n in written:
            for one in _note_mlp(engine, n, base):
                stack.callback(one.remove)
        stack.callback(engine.blocks[-1].register_forward_hook(after).remove)
        stack.enter_context(attending(attend))
        stack.enter_context(engine.fused())
        engine.base(**engine.inputs(batch))
    return base


def _note_mlp(engine: Transformer, n: int, base: Base) -> list[Any]:
    """Hooks that keep what a block's MLP does."""
    down, out = find(engine.blocks[n], engine.family.down), engine.spots[f"blocks.{n}.mlp_out"][0]
    assert down is not None

    def through(_: nn.Module, args: Any, output: Any) -> None:
        base.acts[n], base.down[n] = args[0], first_tensor(output)

    def after(_: nn.Module, args: Any, output: Any) -> None:
        base.written[n] = first_tensor(output)

    return [down.register_forward_hook(through), out.register_forward_hook(after)]


def embed(engine: Transformer, batch: Batch) -> Float[Tensor, "row position d_model"]:
    """What goes into the first block; nothing behind it is run."""
    kept: list[Tensor] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        kept.append(args[0] if args else kwargs["hidden_states"])
        raise Enough

    handle = engine.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        engine.base(**engine.inputs(batch))
    except Enough:
        pass
    finally:
        handle.remove()
    return kept[0]


def pace(engine: Transformer, longest: int) -> float:
    """Seconds that one position takes through one block, tried now on a few hundred of them."""
    length = max(1, min(longest, 256, engine.context or 256))
    rows = max(1, 256 // length)
    ids = torch.full((rows, length), engine.fill, device=next(engine.module.parameters()).device)
    batch = plan(ids.tolist(), batch_tokens=ids.numel(), fill=engine.fill, device=ids.device).batches[0]
    times: list[float] = []

    def begin(*_: Any) -> None:
        times.append(_now(ids.device))

    def end(*_: Any) -> None:
        times.append(_now(ids.device))
        raise Enough

    hooks = [engine.blocks[0].register_forward_pre_hook(begin), engine.blocks[0].register_forward_hook(end)]
    try:
        with torch.no_grad(), engine.fused():
            for _ in range(3):
                with suppress(Enough):
                    engine.base(**engine.inputs(batch))
    finally:
        for one in hooks:
            one.remove()
    return min(b - a for a, b in zip(times[::2], times[1::2], strict=True)) / ids.numel()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _visible(mask: Tensor) -> Bool[Tensor, "query key"]:
    """What a mask of transformers lets through; prompts are padded on the right, so it is the same for all rows."""
    one = mask[0, 0]
    return one if one.dtype == torch.bool else one >= 0


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Bool[Tensor, "query key"] | None,
    scale: float | None,
    cap: float | None,
) -> Tensor:
    """Attention of the last queries of a sequence, (row, head, *, d_head) in, heads on axis 2 coming out.

    Without `allowed` each query sees its own place and all before it.
    """
    queries, keys = q.shape[2], k.shape[2]
    plain = allowed is None and queries in (1, keys)
    if allowed is None and not plain:
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    if cap is None:
        z = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=plain and queries > 1, scale=scale
        )
        return z.transpose(1, 2)
    scores = torch.tanh((q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale) / cap) * cap
    if allowed is None:
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return (shares(scores) @ v).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Cells:
    """Edits of prompts of one batch, one entry a cell.

    Attributes:
        edit: Number of the edit, of those that `settled` knows.
        row: Row of the batch.
        entry: Where the cell's rows leave the base run, in half blocks: 2 n is before block n, 2 n + 1 between its
            attention and its MLP, twice the number of blocks behind the last one.
        start: First position that differs.
        stop: Position behind the last one that anything is wanted of.
        wanted: Position whose logits are wanted, which may lie before `start`.
    """

    edit: Int[Tensor, "cell"]
    row: Int[Tensor, "cell"]
    entry: Int[Tensor, "cell"]
    start: Int[Tensor, "cell"]
    stop: Int[Tensor, "cell"]
    wanted: Int[Tensor, "cell"]

    def __len__(self) -> int:
        return len(self.edit)

    def take(self, rows: Tensor) -> Cells:
        return Cells(*(part[rows] for part in (self.edit, self.row, self.entry, self.start, self.stop, self.wanted)))

    @property
    def n_rows(self) -> Int[Tensor, "cell"]:
        return self.stop - self.start

    def grouped(self) -> Cells:
        """Cells of one shape side by side, and among them those of one prompt."""
        order = torch.arange(len(self), device=self.edit.device)
        for key in (self.edit, self.row, self.n_rows, self.start):
            order = order[key[order].argsort(stable=True)]
        return self.take(order)


@dataclass(frozen=True)
class _Group:
    """Cells with the same first position and the same number of rows, one behind the other."""

    first: int  # packed row
    cells: int
    start: int
    rows: int
    of: Int[Tensor, "cell"]  # row of the batch that each is a cell of
    each: int  # cells of each prompt, where all have as many and stand side by side; else 0


@dataclass(frozen=True, eq=False)
class _Layout:
    """The packed rows that a block is run on."""

    rows: Int[Tensor, "packed"]  # of all packed rows
    groups: tuple[_Group, ...]


class Packed:
    """Cells of one batch on their way through the blocks.

    Attributes:
        told: What is told of the rows at sites that it holds.
        embedded: What goes into the first block for each edit that changes the tokens themselves.
        cells: In the order in which their rows are packed.
        cell, position: Which cell each packed row belongs to, and its position in the prompt.
    """

    def __init__(
        self,
        engine: Transformer,
        base: Base,
        cells: Cells,
        edits: Mapping[int, Sequence[Settled]],
        told: Any = None,
        embedded: Mapping[int, Float[Tensor, "position d_model"]] | None = None,
    ) -> None:
        self.engine, self.base, self.edits, self.told, self.embedded = engine, base, edits, told, embedded
        self.cells = cells.grouped()
        counts = self.cells.n_rows
        device = counts.device
        self.cell = torch.arange(len(cells), device=device).repeat_interleave(counts)
        self.first = counts.cumsum(0) - counts
        within = torch.arange(len(self.cell), device=device) - self.first[self.cell]
        self.position = self.cells.start[self.cell] + within
        self.row = self.cells.row[self.cell]
        self.edit = self.cells.edit[self.cell]
        self.entry = self.cells.entry[self.cell]
        within = self.cells.wanted - self.cells.start
        self.live = within >= 0  # cells of which logits are wanted that can differ
        self.ends = (self.first + within)[self.live]
        # Of each site the edits that touch no common row and so apply at once: each variant's first, its second ...
        self._sites: dict[str, list[list[tuple[int, Settled]]]] = {}
        for number in self.cells.edit.unique().tolist() if edits else ():
            met: Counter[str] = Counter()
            for settled in edits[number]:
                rounds = self._sites.setdefault(settled.site.name, [])
                turn = met[settled.site.name]
                if turn == len(rounds):
                    rounds.append([])
                rounds[turn].append((number, settled))
                met[settled.site.name] += 1
        order = self.edit.argsort(stable=True)
        numbers, sizes = self.edit[order].unique_consecutive(return_counts=True)
        self._rows_of = dict(zip(numbers.tolist(), order.split(sizes.tolist()), strict=True))
        self._active: Tensor | None = None  # packed rows that the block under way is run on
        self._place: Tensor | None = None  # of each packed row among the active ones, -1 where it is not

    # ---- the way through the blocks

    def run(self) -> Float[Tensor, "end d_model"]:
        """Residual stream behind the last block at the wanted position of every cell that is `live`."""
        end = len(self.engine.blocks)
        whole = self.base.inputs[end].new_empty(len(self.cell), self.base.inputs[end].shape[-1])
        entries = set(self.cells.entry.tolist())
        layout: _Layout | None = None
        hidden = whole
        with self._hooked():
            for number in range(min(entries) // 2, end + 1):
                if {2 * number, 2 * number - 1} & entries:
                    if layout is not None:
                        whole[layout.rows] = hidden
                    self._enter(whole, number)
                    layout = self._layout(number)
                    self._see(layout.rows)
                    hidden = whole[layout.rows]
                if layout is not None and number < end:
                    hidden = self._block(number, hidden, layout)
                if 2 * number + 1 in entries:
                    self._enter_half(whole, number)
                    if layout is not None:
                        self._see(layout.rows)
        return hidden[self.ends]

    def _enter(self, whole: Tensor, number: int) -> None:
        """Take the rows of the cells that enter here from the base run, edited behind the block before."""
        rows = (self.entry == 2 * number).nonzero().flatten()
        if not len(rows):
            return
        self._see(rows)
        if self.embedded is not None:
            parts = [self.embedded[edit] for edit in self.cells.edit.tolist()]
            whole[rows] = torch.cat(
                [part[a:b] for part, a, b in zip(parts, self.cells.start, self.cells.stop, strict=True)]
            )
            return
        h = self._rewritten(number - 1, rows, self.base.inputs[number][self.row[rows], self.position[rows]])
        before = f"blocks.{number - 1}.resid_post"
        whole[rows] = self.reach(before, h[None])[0] if before in self else h

    def _rewritten(self, number: int, rows: Tensor, h: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """h behind a block with what edits in its MLP change: linear up to there, so that no MLP is run for it."""
        names = [f"blocks.{number}.{tail}" for tail in MLP_SITES]
        edits = [edit for name in names for turn in self._sites.get(name, ()) for edit, _ in turn]
        mine = torch.isin(self.edit[rows], torch.tensor(edits, dtype=torch.long, device=rows.device))
        if not edits or not bool(mine.any()):
            return h
        self._see(rows[mine])
        at, block = (self.row[rows[mine]], self.position[rows[mine]]), self.engine.blocks[number]
        old = out = self.base.written[number][at][None]
        by_hand = names[1] in self
        if names[0] in self._sites:
            down = self.base.down[number][at][None] + self._moved(number, self.base.acts[number][at][None])
            out = _through(block, self.engine.family.after_down, down)
            by_hand = by_hand and self.engine.family.after_down is None  # a norm behind it has a hook of its own
        out = self.reach(names[1], out) if by_hand else out
        self._see(rows)
        return h.index_put((mine.nonzero().flatten(),), h[mine] + (out - old)[0])

    def _moved(self, number: int, act: Float[Tensor, "1 row neuron"]) -> Float[Tensor, "1 row d_model"]:
        """How edits of activations move what the down-projection gives; only neurons that are edited are multiplied."""
        name, down = f"blocks.{number}.mlp.act", find(self.engine.blocks[number], self.engine.family.down)
        assert down is not None
        change = self.reach(name, act) - act
        neurons = [settled.units for turn in self._sites[name] for _, settled in turn]
        weight: Any = down.weight if isinstance(down, Conv1D) else down.weight.T
        if all(some is not None for some in neurons):
            some = torch.cat(neurons).unique()  # type: ignore[arg-type]
            change, weight = change[..., some], weight[some]
        return change @ weight

    def _enter_half(self, whole: Tensor, number: int) -> None:
        """Rows of the cells that are edited behind a block's attention only: its second half is run for them."""
        rows = (self.entry == 2 * number + 1).nonzero().flatten()
        if self._ends_alone(number):
            rows = rows[torch.isin(rows, self.ends)]
        if not len(rows):
            return
        self._see(rows)
        at, block, family = (self.row[rows], self.position[rows]), self.engine.blocks[number], self.engine.family
        name = f"blocks.{number}."
        z = self.base.mixed[number][at][None]
        z = self.reach(name + "heads.z", z) if name + "heads.z" in self else z
        attn = _through(block, family.project, z.flatten(2))
        attn = _through(block, family.after_project, attn)
        by_hand = name + "attn_out" in self and family.after_project is None  # a norm behind it has a hook of its own
        attn = self.reach(name + "attn_out", attn) if by_hand else attn
        mid = self.base.inputs[number][at][None] + attn
        assert family.mid is not None and family.mlp is not None
        mlp = _through(block, family.after_down, _through(block, family.mlp, _through(block, family.mid.module, mid)))
        post = name + "resid_post"
        whole[rows] = (self.reach(post, mid + mlp) if post in self else mid + mlp)[0]

    def _ends_alone(self, number: int) -> bool:
        """Whether nothing is wanted of a block's output but the rows whose logits are."""
        last = number == len(self.engine.blocks) - 1
        names = [f"blocks.{number}.{tail}" for tail in ("resid_mid", "mlp.act", "mlp_out", "resid_post")]
        return last and (self.told is None or not any(name in self.told for name in names))

    def _see(self, rows: Tensor) -> None:
        self._active = rows
        self._place = torch.full((len(self.cell),), -1, dtype=torch.long, device=rows.device)
        self._place[rows] = torch.arange(len(rows), device=rows.device)

    def _layout(self, number: int) -> _Layout:
        """Rows of all cells that have entered by now, and their groups."""
        inside = (self.cells.entry <= 2 * number).nonzero().flatten()
        rows = (self.entry <= 2 * number).nonzero().flatten()
        shapes = torch.stack([self.cells.start[inside], self.cells.n_rows[inside]], 1)
        shape, sizes = shapes.unique_consecutive(dim=0, return_counts=True)
        groups, first, begun = [], 0, 0
        for (start, count), size in zip(shape.tolist(), sizes.tolist(), strict=True):
            of = self.cells.row[inside[begun : begun + size]]
            prompts, many = of.unique_consecutive(return_counts=True)
            even = len(prompts) < size and bool((many == many[0]).all())
            groups.append(_Group(first, size, start, count, prompts if even else of, int(many[0]) if even else 0))
            first, begun = first + size * count, begun + size
        return _Layout(rows, tuple(groups))

    def _block(self, number: int, hidden: Tensor, layout: _Layout) -> Tensor:
        block = self.engine.blocks[number]
        given = {name: self._at_rows(name, value, layout) for name, value in self.base.given[number].items()}

        def attend(
            module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None, cap: float | None
        ) -> Tensor:
            q, k, v = (self._part(f"blocks.{number}.heads.{name}", x) for name, x in (("q", q), ("k", k), ("v", v)))
            z = torch.cat([self._group(number, group, q, k, v, scale, cap) for group in layout.groups])[None]
            name = f"blocks.{number}.heads.z"
            return self.reach(name, z) if name in self else z

        with attending(attend), self._narrowed(number):
            return first_tensor(block(hidden[None], **given))[0]

    @contextmanager
    def _narrowed(self, number: int) -> Iterator[None]:
        """Run the last block's MLP for the rows whose logits are wanted alone, where nothing edits or reads it."""
        mlp = find(self.engine.blocks[number], self.engine.family.mlp) if self.engine.family.mlp else None
        edited = any(f"blocks.{number}.{tail}" in self for tail in ("mlp.act", "mlp_out"))
        assert self._place is not None
        ends = self._place[self.ends]
        if mlp is None or edited or not self._ends_alone(number) or bool((ends < 0).any()):
            yield
            return
        with self.engine.narrowed(number, mlp, ends[None]):
            yield

    def _at_rows(self, name: str, value: Any, layout: _Layout) -> Any:
        """An argument of a block as the packed rows need it."""
        where = self.position[layout.rows]
        if name in _POSITIONED and isinstance(value, Tensor):
            return value[..., where] if value.ndim == 1 else value[:1, where]
        if name == "position_embeddings" and isinstance(value, tuple):
            return tuple(part[:1, where] for part in value)
        return None if "mask" in name else value

    def _part(self, name: str, x: Tensor) -> Tensor:
        """(1, head, packed, d_head) through an edit or a read of queries, keys or values."""
        return self.reach(name, x.transpose(1, 2)).transpose(1, 2) if name in self else x

    def _group(
        self, number: int, group: _Group, q: Tensor, k: Tensor, v: Tensor, scale: float | None, cap: float | None
    ) -> Float[Tensor, "packed head d_head"]:
        """Attention of one group: over the base run's keys before its rows, and over its rows' own."""
        n, m, p = group.cells, group.rows, group.start
        heads = q.shape[1]
        q, k, v = (x[0, :, group.first : group.first + n * m].unflatten(1, (n, m)).transpose(0, 1) for x in (q, k, v))
        k, v = repeat_heads(k, heads), repeat_heads(v, heads)
        allowed = self.base.allowed[number]
        allowed = None if allowed is None else allowed[p : p + m, : p + m]
        if p and group.each:
            z = self._shared(number, group, q, k, v, allowed, scale, cap)
        else:
            if p:
                k, v = (
                    torch.cat([repeat_heads(kept[number][group.of, :, :p], heads), x], 2)
                    for kept, x in ((self.base.keys, k), (self.base.values, v))
                )
            z = _attend(q, k, v, allowed, scale, cap)
        return z.reshape(n * m, heads, -1)

    def _shared(
        self, number: int, group: _Group, q: Tensor, k: Tensor, v: Tensor,
        allowed: Tensor | None, scale: float | None, cap: float | None,
    ) -> Float[Tensor, "cell row head d_head"]:  # fmt: skip
        """The same where several cells of a prompt share the keys before them: these are not copied."""
        n, heads, m, d = q.shape
        p, each, prompts = group.start, group.each, len(group.of)
        before_k, before_v = (
            repeat_heads(kept[number][group.of, :, :p], heads) for kept in (self.base.keys, self.base.values)
        )
        many = q.view(prompts, each, heads, m, d).transpose(1, 2).reshape(prompts, heads, each * m, d)
        far = (
            (many @ before_k.transpose(-1, -2)).view(prompts, heads, each, m, p).transpose(1, 2).reshape(n, heads, m, p)
        )
        near = (q * k).sum(-1, keepdim=True) if m == 1 else q @ k.transpose(-1, -2)
        scores = torch.cat([far, near], -1) * (d**-0.5 if scale is None else scale)
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        if allowed is None and m > 1:
            allowed = torch.ones(m, p + m, dtype=torch.bool, device=q.device).tril(p)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        pattern = shares(scores)
        far, near = pattern[..., :p], pattern[..., p:]
        far = far.view(prompts, each, heads, m, p).transpose(1, 2).reshape(prompts, heads, each * m, p)
        z = (far @ before_v).view(prompts, heads, each, m, d).transpose(1, 2).reshape(n, heads, m, d)
        z = z + (near * v if m == 1 else near @ v)
        return z.transpose(1, 2)

    # ---- edits and reads

    def __contains__(self, name: str) -> bool:
        return name in self._sites or (self.told is not None and name in self.told)

    def reach(self, name: str, h: Tensor, slot: int | None = None) -> Tensor:
        """Edit the active rows h (1, packed, *unit axes) at a site, then let them be read."""
        for turn in self._sites.get(name, ()):
            h = self._edited(h, turn)
        if self.told is not None and name in self.told:
            assert self._active is not None
            self.told.keep(name, h[0], self, self._active)
        return h

    def _edited(self, h: Tensor, edits: Sequence[tuple[int, Settled]]) -> Tensor:
        """h with edits of different variants, written in one go."""
        assert self._place is not None
        where, changed = [], []
        for number, settled in edits:
            rows = self._rows_of[number]
            place = self._place[rows]
            live = (place >= 0) & held(settled, self.row[rows], self.position[rows], self.base.batch)
            rows, place = rows[live], place[live]
            if len(rows):
                values = _values(settled, self.base.batch.rows[self.row[rows]], self.position[rows])
                where.append(place)
                changed.append(settled.change(h[0, place], values))
        if not where:
            return h
        places = torch.cat(where)
        return h.index_put((torch.zeros_like(places), places), torch.cat(changed))

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Hooks on the modules whose sites are edited or read; inside attention `_block` sees to it."""
        with ExitStack() as stack:
            stack.enter_context(self.engine.fused())
            for name in self.engine.sites:
                if name in self and name in self.engine.spots:
                    stack.callback(hook(*self.engine.spots[name], name, self).remove)
            yield


def _through(block: nn.Module, path: str | None, x: Tensor) -> Tensor:
    """x through a part of a block; as it is where the family has none."""
    part = find(block, path) if path else None
    return x if part is None else first_tensor(part(x))


def held(settled: Settled, row: Tensor, position: Tensor, batch: Batch) -> Bool[Tensor, "*packed"]:
    """Whether an edit holds at positions of rows of a batch."""
    prompt = batch.rows[row]
    if settled.places.index is not None:  # has one value for each prompt at most
        return position == settled.places.index[prompt]
    inside = torch.ones_like(position, dtype=torch.bool)
    if settled.places.mask is not None:
        mask = settled.places.mask
        inside = (position < mask.shape[1]) & mask[prompt, position.clamp_max(mask.shape[1] - 1)]
    if settled.values is not None and settled.values.shape[1] > 1:
        inside = inside & (position < settled.values.shape[1])
    return inside


def _values(settled: Settled, prompt: Tensor, position: Tensor) -> Tensor | None:
    values = settled.values
    if values is None:
        return None
    row = prompt if values.shape[0] > 1 else torch.zeros_like(prompt)
    return values[row, position if values.shape[1] > 1 else torch.zeros_like(position)]


def starts(settled: Settled, batch: Batch) -> Int[Tensor, "row"]:
    """First position of each row of a batch that an edit changes; its length where there is none."""
    if settled.places.index is not None:
        return settled.places.index[batch.rows]
    width = int(batch.lengths.max())
    row = torch.arange(len(batch), device=batch.lengths.device)[:, None].expand(-1, width)
    position = torch.arange(width, device=batch.lengths.device).expand(len(batch), -1)
    inside = held(settled, row, position, batch) & (position < batch.lengths[:, None])
    return torch.where(inside.any(1), inside.long().argmax(1), batch.lengths)

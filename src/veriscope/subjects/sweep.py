"""One base run and many independent edits of it: planned, explained, then replayed or (never wrong) run one by one.

Source of the idea: activation patching re-runs a model once for each cell of its table ("Locating and Editing Factual
Associations in GPT", 2022; "Interpretability in the Wild", 2022); here a cell costs what its edit can change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from veriscope.compute.measure import duration, free_memory
from veriscope.errors import BadEdit, BadRead, NotAvailable, UserError
from veriscope.subjects.checks import tiny_batch, tolerance
from veriscope.subjects.edits import Add, Edit, Settled, fit_edit
from veriscope.subjects.families import find
from veriscope.subjects.packing import ENOUGH
from veriscope.subjects.plan import Batch, Plan
from veriscope.subjects.replay import Base, Cells, Packed, pace, run_base, starts
from veriscope.subjects.run import execute
from veriscope.subjects.sites import At, Read, Site, settle
from veriscope.subjects.transformer import MLP_SITES, Transformer

AT_ONCE = 2048  # packed rows in one product: more of them make it no faster on a CPU, and leave its cache
AT_ONCE_THERE = 65_536  # the same on an accelerator


class TooLarge(UserError):
    """A sweep that does not fit into memory in the smallest pieces."""

    def __init__(self, need: int, budget: int) -> None:
        super().__init__(
            f"One prompt of this sweep needs {need / 2**20:,.0f} MiB and {budget / 2**20:,.0f} MiB may be used. "
            f"Raise `memory`, or shorten the prompts."
        )


@dataclass(frozen=True, eq=False)
class Variant:
    """What is changed in one run of a sweep, and where its logits are read.

    Attributes:
        edits: All of them hold at once; those of one site apply in this order.
        at: Position of each prompt whose logits are wanted.
    """

    edits: tuple[Edit, ...]
    at: At = "last"


@dataclass(frozen=True, eq=False)
class Swept:
    """What a sweep kept.

    Attributes:
        base: Logits of the base run at the last position: (example, vocab), or (example, token) of the tokens asked.
        logits: (variant, example, vocab), or (variant, example, token).
        reads: Each read: (variant, example, *unit axes), or (variant, example, position, *unit axes) of all positions.
        seconds: Wall time.
    """

    base: Float[Tensor, "example out"]
    logits: Float[Tensor, "variant example out"]
    reads: tuple[tuple[Read, Tensor], ...] = ()
    seconds: float = 0.0

    def __getitem__(self, key: str | Read) -> Tensor:
        found = [tensor for read, tensor in self.reads if read is key or read.site == key]
        if len(found) != 1:
            raise BadRead(f"{key} was read {len(found)} times in this sweep: ask for it once in read=[...].")
        return found[0]


def variants(given: Sequence[Variant | Edit | Sequence[Edit]]) -> tuple[Variant, ...]:
    """Edits, lists of edits and variants as variants."""
    out = []
    for one in given:
        if isinstance(one, Variant):
            out.append(one)
        else:
            out.append(Variant((one,) if isinstance(one, Edit) else tuple(one)))
    return tuple(out)


def rows_at_once(device: torch.device) -> int:
    """Packed rows that meet a weight matrix together."""
    return AT_ONCE if device.type == "cpu" else AT_ONCE_THERE


SECOND_HALF = ("heads.z", "attn_out", "resid_mid")


def entry_of(site: str, engine: Transformer) -> int | None:
    """Half block at which the rows of an edit there leave the base run; None where replay can't begin.

    What an edit in the MLP changes is linear up to the end of the block, and what one of a head's output changes up to
    the MLP where that reads what attention has written; so nothing before these places is run.
    """
    if site == "embed":
        return 0
    if not site.startswith("blocks.") or site.endswith("heads.pattern"):
        return None
    number, tail = site.removeprefix("blocks.").split(".", 1)
    if tail == "resid_post" or (tail in MLP_SITES and adds_up(engine)):
        return 2 * int(number) + 2
    return 2 * int(number) + (tail in SECOND_HALF and adds_up(engine) and engine.family.mid is not None)


def adds_up(engine: Transformer) -> bool:
    """Whether a block's parts are added to the residual stream as they are, and its MLP is a module of its own."""
    down = find(engine.blocks[0], engine.family.down) if engine.blocks else None
    return engine.family.post_norms is None and engine.family.mlp is not None and type(down) in (Conv1D, nn.Linear)


@dataclass(eq=False)
class Sweep:
    """A sweep that has been planned and not run yet: `print(sweep.explain())`, then `sweep.run()`.

    Attributes:
        engine: What runs the model.
        todo: The prompts in batches.
        variants: What is changed.
        settled: The edits of each variant, checked against sites and prompts.
        wanted: Position of each prompt whose logits each variant gives: (variant, example).
        tokens: Ids of the logits to keep for each prompt: (example, token); None for all.
        reads: What else to keep, at one position of each prompt, or at all (None).
        budget: Bytes that may be used.
        plain: Runs one variant plainly: its logits at the wanted position, and its reads.
        why_plain: Why nothing can be replayed; empty if it can.
        rows: Packed rows that meet a weight matrix together.
        told: Called with the number of edited prompts just finished.
        cost: Of what was run so far, in whole forward passes of one prompt.
    """

    engine: Any
    todo: Plan
    variants: tuple[Variant, ...]
    settled: tuple[tuple[Settled, ...], ...]
    wanted: Int[Tensor, "variant example"]
    tokens: Int[Tensor, "example token"] | None
    reads: tuple[tuple[Read, Int[Tensor, "example"] | None], ...]
    budget: int
    plain: Callable[[Variant, int], tuple[Tensor, list[Tensor]]]
    why_plain: str = ""
    rows: int = AT_ONCE
    told: Callable[[int], None] | None = None
    cost: float = 0.0

    def explain(self) -> str:
        """What is skipped, what is shared, expected time and peak memory, before it runs.

        The time is reckoned from that of a few hundred positions through one block, which are run for it.
        """
        n = len(self.variants) * len(self.todo)
        if self.why_plain:
            return f"{_count(n, 'edited run')}, one by one: {self.why_plain}.{self._plain_time()}"
        cells = [self._cells(batch) for batch in self.todo.batches]
        blocks = len(self.engine.blocks)
        rows, work = sum(int(c.n_rows.sum()) for c in cells), sum(map(self._work, cells))
        full = len(self.variants) * int(self.todo.lengths.sum()) * blocks
        untouched = n - sum(len(c) for c in cells)
        longest = max((int(c.n_rows.max()) for c in cells if len(c)), default=0)
        piece, kept = self._bytes(min(rows, max(self.rows, longest))), max(self._kept(b) for b in self.todo.batches)
        copy = self.engine.packing.bytes if work / blocks >= ENOUGH else 0
        seconds = self._seconds(work + int(self.todo.lengths.sum()) * blocks, n, self.tokens is None)
        out = "all tokens" if self.tokens is None else _count(self.tokens.shape[1], "token")
        lines = [
            f"{_count(n, 'edited run')} of {_count(len(self.todo), 'prompt')} in "
            f"{_count(len(self.todo.batches), 'batch', 'batches')}, after a base run.",
            f"replayed: {rows:,} positions through {work:,.0f} blocks, where plain runs take {full:,} "
            f"({work / max(full, 1):.1%}).",
            "skipped: blocks before the first edited one; positions before it, whose keys and values are reused"
            + (f"; {untouched:,} runs that their edit can't change" if untouched else "") + ".",
            f"shared: up to {max(self.rows, longest):,} positions meet each weight matrix at once"
            + (", weights laid out for the processor" if copy else "")
            + f"; logits of {out} at one position.",
            f"time: about {duration(seconds)}, where plain runs would take {duration(self._seconds(full, n, True))}.",
            f"memory: {_mib(piece + kept + copy + self._result_bytes())} at most, of {_mib(self.budget)} that may be "
            f"used: {_mib(piece)} for a piece, {_mib(kept)} of the base run, "
            + (f"{_mib(copy)} of weights, " if copy else "") + f"{_mib(self._result_bytes())} of results.",
        ]  # fmt: skip
        return "\n".join(lines)

    def _seconds(self, work: int | float, runs: int, unembedded: bool) -> float:
        """Expected time of so many positions through one block, and of whole unembeddings of so many runs."""
        block = sum(weight.numel() for weight in self.engine.blocks[0].parameters())
        head = sum(weight.numel() for weight in self.engine.head.parameters()) if unembedded else 0
        return pace(self.engine, self.todo.longest) * (work + runs * head / block)

    def _plain_time(self) -> str:
        if not isinstance(self.engine, Transformer):
            return ""
        full = (1 + len(self.variants)) * int(self.todo.lengths.sum()) * len(self.engine.blocks)
        return f" About {duration(self._seconds(full, (1 + len(self.variants)) * len(self.todo), True))}."

    @torch.no_grad()
    def run(self) -> Swept:
        """Run it.

        Returns:
            Logits and reads of every variant and prompt.
        """
        begun = time.monotonic()
        out = _Out(self)
        if self.why_plain:
            out.fill_plain()
        else:
            out.fill_reads()
            cells = [self._cells(batch) for batch in self.todo.batches]
            with self.engine.packing.used(sum(map(self._work, cells)) / len(self.engine.blocks)):
                for batch, its in zip(self.todo.batches, cells, strict=True):
                    self._batch(batch, its, out)
        return Swept(out.base, out.logits, out.kept(), time.monotonic() - begun)

    # ---- one batch

    def _work(self, cells: Cells) -> float:
        """Blocks that single positions go through."""
        return float((cells.n_rows * (2 * len(self.engine.blocks) - cells.entry)).sum()) / 2

    def _batch(self, batch: Batch, cells: Cells, out: _Out) -> None:
        base = run_base(self.engine, batch, {e // 2 for e in cells.entry.unique().tolist() if e % 2}, self._rewritten)
        self.cost += len(batch)
        out.begin(base)
        whole = len(self.engine.blocks) * float(batch.lengths.float().mean())
        for piece in self._pieces(cells):
            packed = Packed(self.engine, base, piece, dict(enumerate(self.settled)), out if self.reads else None)
            out.put(packed, packed.run())
            self.cost += self._work(piece) / whole
            if self.told is not None:
                self.told(len(piece))

    def _cells(self, batch: Batch) -> Cells:
        """Every edit of every prompt of a batch that can change what is wanted of it."""
        blocks, parts = len(self.engine.blocks), []
        row = torch.arange(len(batch), device=batch.lengths.device)
        for number, edits in enumerate(self.settled):
            start, entry = batch.lengths, torch.full_like(batch.lengths, 2 * blocks)
            for edit in edits:
                begins, where = starts(edit, batch), entry_of(edit.site.name, self.engine)
                assert where is not None
                entry = torch.where(begins < batch.lengths, entry.clamp_max(where), entry)
                start = torch.minimum(start, begins)
            wanted = self.wanted[number, batch.rows]
            stop = wanted
            for _, place in self.reads:
                stop = torch.maximum(stop, batch.lengths - 1 if place is None else place[batch.rows])
            live = start <= stop
            cells = torch.stack([torch.full_like(row, number), row, entry, start, stop + 1, wanted])
            parts.append(cells[:, live])
        return Cells(*torch.cat(parts, 1)) if parts else Cells(*torch.zeros(6, 0, dtype=torch.long))

    @cached_property
    def _rewritten(self) -> tuple[int, ...]:
        """Blocks whose MLP is edited, where that is done without running it."""
        sites = {edit.site.name for edits in self.settled for edit in edits}
        mlps = [n for n in range(len(self.engine.blocks)) if sites & {f"blocks.{n}.{tail}" for tail in MLP_SITES}]
        return tuple(mlps) if adds_up(self.engine) else ()

    def _pieces(self, cells: Cells) -> Iterator[Cells]:
        """Cells that are run together: latest entry last, so that few blocks are run on few rows."""
        if not len(cells):
            return
        order = cells.entry.argsort(stable=True)
        cells = cells.take(order)
        most = max(1, min(self.rows, self._rows_in_budget()))
        ends = cells.n_rows.cumsum(0).tolist()
        first, done = 0, 0
        for i, end in enumerate(ends):
            if end - done > most and i > first:
                yield cells.take(torch.arange(first, i, device=order.device))
                first, done = i, ends[i - 1]
        yield cells.take(torch.arange(first, len(cells), device=order.device))

    # ---- memory

    def _row_bytes(self) -> int:
        """Bytes that one packed row takes at the widest place of a block, attention scores not counted."""
        config, size = self.engine.config, next(self.engine.module.parameters()).element_size()
        return size * (10 * int(config.hidden_size) + 3 * self._inner())

    def _bytes(self, rows: int) -> int:
        scores = 2 * 4 * int(self.engine.config.num_attention_heads) * self.todo.longest
        return rows * (self._row_bytes() + scores)

    def _rows_in_budget(self) -> int:
        left = self.budget - self._result_bytes() - max(self._kept(batch) for batch in self.todo.batches)
        return max(1, left // max(1, self._bytes(1)))

    def _kept(self, batch: Batch) -> int:
        """Bytes of the residual streams, keys, values and MLP activations that a batch's base run leaves behind."""
        size, width = next(self.engine.module.parameters()).element_size(), int(self.engine.config.hidden_size)
        of_mlps = len(self._rewritten) * (self._inner() + 2 * width)
        return size * batch.ids.numel() * ((len(self.engine.blocks) + 1) * 3 * width + of_mlps)

    def _inner(self) -> int:
        config = self.engine.config
        found = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
        return int(found)

    def _result_bytes(self) -> int:
        width = self.tokens.shape[1] if self.tokens is not None else int(self.engine.config.vocab_size)
        size = 4 * len(self.variants) * len(self.todo)
        return size * (width + sum(self._read_width(read, place is None) for read, place in self.reads))

    def _read_width(self, read: Read, everywhere: bool) -> int:
        site = self.engine.sites[read.site]
        units = site.units or 1
        each = (site.size or units) // units
        return each * (len(read.units) if read.units else units) * (self.todo.longest if everywhere else 1)

    def check_memory(self) -> None:
        """Raise before anything runs if not even one cell fits."""
        if self.why_plain:
            return
        need = self._bytes(self.todo.longest) + max(self._kept(batch) for batch in self.todo.batches)
        need += self._result_bytes()
        if need > self.budget:
            raise TooLarge(need, self.budget)


class _Out:
    """Where the results of a sweep are put together."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.engine = sweep, sweep.engine
        self.base_of: Base | None = None
        device = sweep.todo.lengths.device
        site = self.engine.sites["logits"]
        width = sweep.tokens.shape[1] if sweep.tokens is not None else site.width
        dtype = next(self.engine.module.parameters()).dtype
        n, many = len(sweep.todo), len(sweep.variants)
        self.base = torch.zeros(n, width, dtype=dtype, device=device)
        self.logits = torch.zeros(many, n, width, dtype=dtype, device=device)
        self._reads: dict[int, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return any(read.site == name for read, _ in self.sweep.reads)

    def begin(self, base: Base) -> None:
        """Fill a batch's results with those of its base run: what an edit can't reach stays so."""
        self.base_of, batch = base, base.batch
        end = base.inputs[len(self.engine.blocks)]
        row = torch.arange(len(batch), device=end.device)
        self.base[batch.rows] = self._logits(end[row, batch.lengths - 1], batch.rows)
        wanted = self.sweep.wanted[:, batch.rows]
        for places in wanted.unique(dim=0):
            mine = (wanted == places).all(1)
            self.logits[mine.nonzero(), batch.rows] = self._logits(end[row, places], batch.rows)[None]

    def put(self, packed: Packed, end: Float[Tensor, "end d_model"]) -> None:
        """Logits of a piece's cells."""
        assert self.base_of is not None
        prompt = self.base_of.batch.rows[packed.cells.row[packed.live]]
        self.logits[packed.cells.edit[packed.live], prompt] = self._logits(end, prompt)

    def keep(self, name: str, h: Tensor, packed: Packed, rows: Tensor) -> None:
        """Reads of the packed rows at a site."""
        assert self.base_of is not None
        prompt = self.base_of.batch.rows[packed.row[rows]]
        for number, (read, place) in enumerate(self.sweep.reads):
            if read.site == name:
                where = packed.position[rows]
                here = slice(None) if place is None else where == place[prompt]
                kept = h[here] if read.units is None else _units(self.engine, read, h[here])
                spot = (packed.edit[rows][here], prompt[here], *([where] if place is None else []))
                self._reads[number][spot] = kept

    def kept(self) -> tuple[tuple[Read, Tensor], ...]:
        return tuple((read, self._reads[number]) for number, (read, _) in enumerate(self.sweep.reads))

    def fill_reads(self) -> None:
        """Give every variant the base run's reads: what an edit can't reach stays so."""
        if self.sweep.reads:
            self.sweep.cost += len(self.sweep.todo)
            for number, kept in enumerate(self.sweep.plain(Variant(()), -1)[1]):
                self._reads[number] = kept.expand(len(self.sweep.variants), *kept.shape).clone()

    def fill_plain(self) -> None:
        """Every variant by a run of its own."""
        nothing = Variant((), at="last")
        self.sweep.cost += (1 + len(self.sweep.variants)) * len(self.sweep.todo)
        self.base[:] = self._chosen(self.sweep.plain(nothing, -1)[0])
        for number, variant in enumerate(self.sweep.variants):
            logits, reads = self.sweep.plain(variant, number)
            self.logits[number] = self._chosen(logits)
            for i, kept in enumerate(reads):
                shape = (len(self.sweep.variants), *kept.shape)
                self._reads.setdefault(i, kept.new_zeros(shape))[number] = kept
            if self.sweep.told is not None:
                self.sweep.told(len(self.sweep.todo))

    def _chosen(self, logits: Tensor) -> Tensor:
        return logits if self.sweep.tokens is None else logits.gather(1, self.sweep.tokens)

    def _logits(self, end: Float[Tensor, "cell d_model"], prompt: Tensor) -> Float[Tensor, "cell out"]:
        tokens = self.sweep.tokens
        return logits_of(self.engine, end, None if tokens is None else tokens[prompt])


def logits_of(
    engine: Transformer, end: Float[Tensor, "cell d_model"], tokens: Int[Tensor, "cell token"] | None
) -> Float[Tensor, "cell out"]:
    """Logits of residual streams behind the last block, of all tokens or of those asked for."""
    norm = find(engine.base, engine.family.final_norm or "")
    assert norm is not None and engine.head is not None
    hidden = norm(end)
    if tokens is None:
        return engine.unembed(hidden)
    if type(engine.head) is not nn.Linear:
        return engine.unembed(hidden).gather(1, tokens)
    ids, place = tokens.unique(return_inverse=True)
    if len(ids) > engine.head.out_features // 8:
        return engine.unembed(hidden).gather(1, tokens)
    bias = engine.head.bias[ids] if engine.head.bias is not None else None
    return engine.cap(nn.functional.linear(hidden, engine.head.weight[ids], bias)).gather(1, place)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**20:.1f} MiB"


def _units(engine: Transformer, read: Read, h: Tensor) -> Tensor:
    units = list(read.units or ())
    return h[..., units, :] if engine.sites[read.site].per_head else h[..., units]


def why_not(engine: Any, settled: Sequence[Sequence[Settled]], reads: Sequence[Read]) -> str:
    """Why a sweep can't be replayed; empty if it can."""
    if not isinstance(engine, Transformer):
        return "the blocks of a plain module are not known"
    if not engine.causal:
        return "attention sees what stands behind a position, so an edit can change everything"
    if not engine.head_is_true or engine.family.final_norm is None or "logits" not in engine.sites:
        return "the logits are not the unembedding of a final norm"
    if engine.why_plain:
        return engine.why_plain
    for edits in settled:
        for edit in edits:
            if entry_of(edit.site.name, engine) is None:
                return f"an edit at {edit.site.name} lies outside the blocks or in the pattern itself"
    for read in reads:
        if read.site in ("final_norm", "logits") or read.site.endswith("heads.pattern"):
            return f"a read of {read.site} lies outside the blocks or is the pattern itself"
    return ""


def plan_sweep(
    engine: Any,
    todo: Plan,
    edits: Sequence[Variant | Edit | Sequence[Edit]],
    *,
    read: Sequence[Read],
    tokens: Int[Tensor, "example token"] | None,
    memory: int | None,
    site: Callable[[str], Site],
) -> Sweep:
    """Check a sweep whole and lay it out.

    Raises:
        UnknownSite, BadPosition, BadEdit, BadRead, NotAvailable, TooLarge.
    """
    if "logits" not in engine.sites:
        raise NotAvailable(f"This model gives no logits: {engine.refused.get('logits', 'it has no unembedding')}.")
    given = variants(edits)
    if not given:
        raise BadEdit("A sweep needs at least one edit.")
    check_replay(engine)
    if tokens is not None:
        tokens = _token_ids(tokens, len(todo), int(engine.sites["logits"].width)).to(todo.lengths.device)
    sweep = _sweep(engine, todo, given, tokens, read, memory if memory is not None else free_memory() // 2, site)
    sweep.check_memory()
    return sweep


def _sweep(
    engine: Any,
    todo: Plan,
    given: tuple[Variant, ...],
    tokens: Tensor | None,
    read: Sequence[Read],
    budget: int,
    site: Callable[[str], Site],
) -> Sweep:
    dtype = next((weight.dtype for weight in engine.module.parameters()), torch.float32)
    device, lengths = todo.lengths.device, todo.lengths.cpu()
    settled = tuple(
        tuple(fit_edit(edit, site(edit.site), todo.lengths, dtype) for edit in variant.edits) for variant in given
    )
    wanted = torch.stack([one_each(variant.at, lengths, "logits") for variant in given]).to(device)
    places = tuple((entry, _place(entry, lengths, site(entry.site).name, device)) for entry in read)
    return Sweep(
        engine, todo, given, settled, wanted, tokens, places, budget,
        lambda variant, number: _plain(engine, todo, variant, places, wanted[number] if number >= 0 else None),
        why_not(engine, settled, read),
        rows_at_once(device),
    )  # fmt: skip


def check_replay(engine: Any) -> None:
    """Try replay once on two tiny prompts, at every site of the first and the last block, and leave it if it is off.

    Sets `engine.why_plain`: a changed architecture costs speed and never a wrong number.
    """
    if not isinstance(engine, Transformer) or engine.replay_checked:
        return
    engine.replay_checked = True
    sites = [name for name in engine.sites if entry_of(name, engine) is not None]
    ends = ("blocks.0.", f"blocks.{len(engine.blocks) - 1}.")
    sites = [name for name in sites if name.startswith(ends)]
    if not sites or "logits" not in engine.sites or not engine.causal:
        return
    edits = [Edit(name, Add(0.5), at=at) for name in sites for at in (1, "last", "all")]
    todo = tiny_batch(engine)
    try:
        sweep = _sweep(engine, todo, variants(edits), None, (), free_memory(), lambda name: engine.sites[name])
        if sweep.why_plain:
            return
        with torch.no_grad():
            replayed = sweep.run().logits
            plain = torch.stack([sweep.plain(variant, i)[0] for i, variant in enumerate(sweep.variants)])
        miss = float((replayed - plain).abs().max() / plain.abs().max().clamp_min(1.0))
    except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        engine.why_plain = f"replay failed in this model with {type(error).__name__}: {error}"
        return
    if not miss <= tolerance(engine):
        engine.why_plain = f"replay is off by {miss:.2g} in this model, where {tolerance(engine):.0e} is allowed"


def _place(read: Read, lengths: Tensor, site: str, device: torch.device) -> Tensor | None:
    everywhere = isinstance(read.at, str) and read.at == "all"
    return None if everywhere else one_each(read.at, lengths, site).to(device)


def one_each(at: At, lengths: Tensor, what: str) -> Int[Tensor, "example"]:
    """One position of each prompt.

    Raises:
        BadRead: It is all of them, or several.
    """
    index = settle(at, lengths).index
    if index is None:
        raise BadRead(
            f"A sweep keeps {what} at one position of each prompt: 'last', 'first', a number, or one each (a read: or "
            f"'all')."
        )
    return index


def _token_ids(tokens: Tensor, n: int, vocab: int) -> Tensor:
    if tokens.ndim != 2 or len(tokens) != n:
        raise BadRead(f"tokens has shape {tuple(tokens.shape)}: give one row of ids for each of {n} prompts.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab:
        raise BadRead(f"tokens holds ids from {int(tokens.min())} to {int(tokens.max())}; there are 0..{vocab - 1}.")
    return tokens


def _plain(
    engine: Any,
    todo: Plan,
    variant: Variant,
    places: Sequence[tuple[Read, Tensor | None]],
    wanted: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Logits at the wanted position, and reads, of one ordinary run."""
    last = wanted is None or bool((wanted == todo.lengths - 1).all())
    reads = [Read(read.site, "all" if place is None else place.cpu(), read.units) for read, place in places]
    run, _ = execute(
        engine, todo, reads=reads, edits=variant.edits, logits="last" if last else "all", grad=False, site=engine.sites
    )
    assert run.logits is not None
    logits = run.logits if last else run.logits[torch.arange(len(todo)), wanted]
    return logits, [run[read] for read in reads]

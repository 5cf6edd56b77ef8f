"""Flow maps: how the change that a unit makes travels through layers and positions to the strange span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.cases.changes import Changes
from veriscope.cases.outside import Effect, Outside
from veriscope.cases.transcript import Chars
from veriscope.errors import NotRun
from veriscope.subjects import Edit, Read, Resample, Variant
from veriscope.subjects.endings import Watch, ending_of
from veriscope.subjects.plan import plan
from veriscope.subjects.run import execute
from veriscope.subjects.sweep import plan_sweep

PARTS = ("resid_post", "attn_out", "mlp_out")
FEWEST = 5  # irrelevant edits before a token, below which it has no floor
TRIES = 12  # neutral texts that may be tried until one has exactly as many tokens


@dataclass(frozen=True, eq=False)
class SpanPatch:
    """The run with a unit substituted, put into the run as it is at one block and one stretch of tokens.

    Attributes:
        unit: What was substituted, by neutral text of as many tokens.
        where: The stretch: "the unit", "between" it and the strange span, or "the answer" (tokens that say the span).
        tokens: First token, and one behind the last.
        block: Residual stream behind this block.
        nats: Change in log-probability of the strange span.
        share: Of the change that the substitution itself makes; NotRun where that is within the floor.
        best_token, best_token_nats: The same for the single token that goes furthest in that direction, of `tried`:
            those in that stretch which the substitution moves most.
    """

    unit: str
    where: str
    tokens: tuple[int, int]
    block: int
    nats: float
    share: float | NotRun
    best_token: int
    best_token_nats: float
    tried: int


@dataclass(frozen=True, eq=False)
class FlowMap:
    """How far removing each unit moves what the network holds, relative to the size of what it holds there.

    A distance is |with the unit removed - as it is| / |as it is|, at tokens behind the unit, lined up from the end; so
    the state that says the answer is compared too where the unit stands right before the answer.

    Attributes:
        units: Names: the first axis.
        parts: "resid_post", "attn_out" and "mlp_out": the second axis.
        tokens: Each token of the context and the strange span, without its last one, as text: the last axis.
        chars: Where each stands in the transcript.
        target: First token that says a token of the strange span, and one behind the last.
        moved: Distances; NaN at tokens before the unit's end, and behind it as far as they read like its beginning.
        floor: What 95% of irrelevant edits of such sizes stay within (the largest of fewer than 20); NaN where fewer
            than 5 stand before the token.
        heads: Of each head's output before it is projected, the mean over `target`.
        heads_floor: 95% of irrelevant edits there.
        patches: Stretches that carry the effect, beside the best single token.
        passes: What the map cost beyond the runs that it shares with `Outside`.
        notes: What was not measured.
    """

    units: tuple[str, ...]
    parts: tuple[str, ...]
    tokens: tuple[str, ...]
    chars: tuple[Chars, ...]
    target: tuple[int, int]
    moved: Float[Tensor, "unit part block token"]
    floor: Float[Tensor, "part block token"]
    heads: Float[Tensor, "unit block head"]
    heads_floor: Float[Tensor, "block head"]
    patches: tuple[SpanPatch, ...] = ()
    passes: float = 0.0
    notes: tuple[str, ...] = ()

    def above(self) -> Bool[Tensor, "unit part block token"]:
        """Where a removal moves more than irrelevant edits do; False where either is not measured."""
        return self.moved > self.floor

    def over_spans(self, spans: Sequence[Chars]) -> Float[Tensor, "unit part block span"]:
        """The mean over stretches of characters of how many times its floor a distance is; NaN where not measured."""
        ratio = self.moved / self.floor.clamp_min(1e-9)
        columns = []
        for start, stop in spans:
            held = torch.tensor([a < stop and b > start for a, b in self.chars])
            columns.append(
                ratio[..., held].nanmean(-1) if bool(held.any()) else torch.full(ratio.shape[:-1], torch.nan)
            )
        return torch.stack(columns, -1)


class Flow:
    """Makes a flow map of the runs in which `outside` removes units: give it as its `recorder`, then ask for `map`."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._seen: _Seen | None = None
        self._without: dict[str, int] = {}
        self._irrelevant: list[int] = []

    def watch(
        self, contexts: Sequence[Sequence[int]], without: Mapping[str, int], irrelevant: Sequence[int]
    ) -> Watch | None:
        """As in `Recorder`; nothing is watched in a model whose blocks are not known."""
        engine: Any = self.changes.subject._engine
        blocks = range(self.changes.subject.n_blocks)
        if not all(f"blocks.{n}.{part}" in engine.sites for n in blocks for part in PARTS) or not blocks:
            return None
        self._without, self._irrelevant = dict(without), list(irrelevant)
        self._seen = _Seen(self.changes, contexts)
        return self._seen

    def map(self, outside: Outside, *, patched: int = 1, blocks: int = 3, singles: int = 2) -> FlowMap | NotRun:
        """The map.

        Args:
            outside: Made with this recorder.
            patched: Units, strongest substitution first, whose effect is looked for by patching stretches of tokens.
            blocks: Evenly spaced blocks at which that is done.
            singles: Tokens of each stretch patched alone beside it.
        """
        changes, seen = self.changes, self._seen
        if seen is None:
            return NotRun(f"{changes.subject.name} has no blocks whose residual stream, attention and MLP are known")
        transcript = changes.transcript
        ids = changes.endings.base
        before, notes = changes.passes, []
        patches, missing, cost = _patches(changes, outside, seen, patched, blocks, singles)
        notes += missing
        if seen.heads is None:
            notes.append("The heads of this model can't be read one by one.")
        numbers = list(self._without.values())
        floor = _quantile(seen.moved[self._irrelevant])
        heads = seen.heads if seen.heads is not None else torch.zeros(len(seen.moved), changes.subject.n_blocks, 0)
        if not self._irrelevant:
            notes.append("There is no floor: no irrelevant edit could be made.")
        return FlowMap(
            tuple(self._without), PARTS, tuple(changes.subject.reader.token(token) for token in ids),
            transcript.chars[: len(ids)], (len(ids) - len(transcript.ending), len(ids)), seen.moved[numbers], floor,
            heads[numbers], _quantile(heads[self._irrelevant]), patches, changes.passes - before + cost + seen.cost,
            tuple(notes),
        )  # fmt: skip


class _Seen:
    """Distances from the base run while changed contexts go through the model."""

    def __init__(self, changes: Changes, contexts: Sequence[Sequence[int]]) -> None:
        subject, ending = changes.subject, changes.transcript.ending
        engine: Any = subject._engine
        blocks = range(subject.n_blocks)
        with_heads = all(f"blocks.{n}.heads.z" in engine.sites for n in blocks)
        tails = (*PARTS, "heads.z") if with_heads else PARTS
        self.sites = [f"blocks.{n}.{tail}" for n in blocks for tail in tails]
        base = changes.endings.base
        todo = plan([base], batch_tokens=len(base), fill=engine.fill, device=subject.device)
        reads = [Read(site) for site in self.sites]
        run, _ = execute(engine, todo, reads=reads, edits=(), logits=None, grad=False, site=engine.sites)
        self.cost = 1.0
        self.base = {read.site: run[read][0] for read in reads}
        self._norm = {site: acts.norm(dim=-1).clamp_min(1e-9) for site, acts in self.base.items()}
        whole = [[*ids, *ending[:-1]] for ids in contexts]
        device = subject.device
        self._shift = torch.tensor([len(base) - len(ids) for ids in whole], device=device)
        self._target = len(base) - len(ending)  # what says the answer is compared even where another token stands there
        self._first = torch.tensor([min(_lined_up(base, ids), self._target) for ids in whole], device=device)
        self.moved = torch.full((len(whole), len(PARTS), len(blocks), len(base)), torch.nan)
        n_heads = int(engine.sites["blocks.0.heads.z"].units) if with_heads else 0
        self.heads = torch.zeros(len(whole), len(blocks), n_heads) if with_heads else None
        self._size = len(ending)

    def see(
        self, site: str, acts: Float[Tensor, "row *unit"], text: Int[Tensor, "row"], position: Int[Tensor, "row"]
    ) -> None:
        """Rows of contexts behind what was changed in them, against the base run."""
        at = position + self._shift[text]
        is_head = site.endswith("heads.z")
        rows = at >= (torch.maximum(self._first[text], text.new_tensor(self._target)) if is_head else self._first[text])
        if not bool(rows.any()):
            return
        at, text = at[rows], text[rows]
        far = ((acts[rows] - self.base[site][at]).norm(dim=-1) / self._norm[site][at]).cpu()
        block, tail = int(site.split(".")[1]), site.split(".", 2)[2]
        if is_head:
            assert self.heads is not None
            self.heads[:, block].index_add_(0, text.cpu(), far.float() / self._size)
        else:
            self.moved[text.cpu(), PARTS.index(tail), block, at.cpu()] = far.float()


def _lined_up(base: Sequence[int], ids: Sequence[int]) -> int:
    """First token of the base text from which on both texts are the same, counted from their ends."""
    shorter = min(len(base), len(ids))
    before = next((n for n in range(shorter) if base[n] != ids[n]), shorter)
    behind = next((n for n in range(shorter - before) if base[-1 - n] != ids[-1 - n]), shorter - before)
    return len(base) - behind


def _quantile(values: Float[Tensor, "edit *rest"]) -> Float[Tensor, "*rest"]:
    """What 95% of edits stay within, NaN where too few are known."""
    if not len(values):
        return torch.full(values.shape[1:], torch.nan)
    known = (~values.isnan()).sum(0)
    found = torch.nanquantile(values, 0.95, dim=0, interpolation="higher")
    return found.masked_fill(known < FEWEST, torch.nan)


# ---- stretches of tokens that carry an effect


def _patches(
    changes: Changes, outside: Outside, seen: _Seen, patched: int, blocks: int, singles: int
) -> tuple[tuple[SpanPatch, ...], list[str], float]:
    """Patches of the units whose substitution does most, what could not be patched, and the cost."""
    if changes.endings.why_plain:
        return (), [f"No stretch of tokens was patched: {changes.endings.why_plain}."], 0.0
    names = {unit.name for unit in changes.parts}
    ranked = [one for one in outside.effects if one.how == "substitution" and one.units[0] in names]
    ranked.sort(key=lambda one: -abs(one.nats))
    out: list[SpanPatch] = []
    notes, cost = [], 0.0
    for effect in ranked[:patched]:
        other = _as_long(changes, effect.units[0])
        if other is None:
            notes.append(f"{effect.units[0]} was not patched: no neutral text of exactly as many tokens was found.")
            continue
        found, more = _patch(changes, effect, other, seen, blocks, singles)
        out, cost = [*out, *found], cost + more
    return tuple(out), notes, cost


def _as_long(changes: Changes, name: str) -> tuple[int, ...] | None:
    """The context with neutral words for a unit, that differs in no token behind it."""
    before = changes.transcript.before
    stop = changes.transcript.tokens_of(changes.units[name].spans[-1])[1]
    for seed in range(TRIES):
        ids = changes.substituted([name], seed)
        if not isinstance(ids, NotRun) and len(ids) == len(before) and ids[stop:] == before[stop:]:
            return ids
    return None


def _patch(
    changes: Changes, effect: Effect, other: tuple[int, ...], seen: _Seen, blocks: int, singles: int
) -> tuple[list[SpanPatch], float]:
    transcript, name, base, n = changes.transcript, effect.units[0], changes.endings.base, changes.subject.n_blocks
    chosen = sorted({int(b) for b in np.linspace(0, n - 1, blocks).round()})
    patch = _Whole({f"blocks.{b}.resid_post": seen.base[f"blocks.{b}.resid_post"] for b in chosen})
    total = changes.run([other], patch)[0].total - changes.base.total
    first, stop = transcript.tokens_of(changes.units[name].spans[0])
    answer = len(base) - len(transcript.ending)
    stretches = {"the unit": (first, min(stop, answer)), "between": (stop, answer), "the answer": (answer, len(base))}
    cells: list[tuple[str, int, tuple[int, int]]] = []
    for where, (a, b) in stretches.items():
        for block in chosen if a < b else ():
            far = (patch.acts(block) - seen.base[f"blocks.{block}.resid_post"])[a:b].norm(dim=-1)
            alone = (a + far.topk(min(singles, b - a)).indices).tolist()
            cells += [(where, block, (a, b)), *((where, block, (t, t + 1)) for t in alone)]
    nats, cost = _patched(changes, cells, {block: patch.acts(block)[None] for block in chosen})
    within = isinstance(effect.floor, float) and abs(total) <= effect.floor
    out, sign = [], 1.0 if total >= 0 else -1.0
    for where, (a, b) in stretches.items():
        for block in chosen:
            own = [k for k, cell in enumerate(cells) if cell[:2] == (where, block)]
            if own:
                best = max(own[1:], key=lambda k: sign * nats[k])
                share = NotRun("the substitution does no more than irrelevant ones") if within else nats[own[0]] / total
                out.append(
                    SpanPatch(
                        name, where, (a, b), block, nats[own[0]], share, cells[best][2][0], nats[best], len(own) - 1
                    )
                )
    return out, cost


class _Whole:
    """Residual streams of a whole text, of which only what it does not share with the base run is shown."""

    def __init__(self, base: Mapping[str, Float[Tensor, "token d"]]) -> None:
        self.sites = list(base)
        self._acts = {site: acts.clone() for site, acts in base.items()}

    def see(
        self, site: str, acts: Float[Tensor, "row *unit"], text: Int[Tensor, "row"], position: Int[Tensor, "row"]
    ) -> None:
        self._acts[site][position] = acts

    def acts(self, block: int) -> Float[Tensor, "token d"]:
        return self._acts[f"blocks.{block}.resid_post"]


def _patched(
    changes: Changes, cells: Sequence[tuple[str, int, tuple[int, int]]], acts: Mapping[int, Float[Tensor, "1 token d"]]
) -> tuple[list[float], float]:
    """Change in log-probability of the strange span under each patch, and the cost."""
    subject, base, ending = changes.subject, changes.endings.base, changes.transcript.ending
    engine: Any = subject._engine
    variants = []
    for _, block, (a, b) in cells:
        at = torch.zeros(1, len(base), dtype=torch.bool)
        at[0, a:b] = True
        variants.append(Variant((Edit(f"blocks.{block}.resid_post", Resample(acts[block]), at=at),)))
    todo = plan([base], batch_tokens=len(base), fill=engine.fill, device=subject.device)
    last = Read(f"blocks.{subject.n_blocks - 1}.resid_post", "all")
    one = torch.tensor([[ending[0]]])
    sweep = plan_sweep(engine, todo, variants, read=[last], tokens=one, memory=None, site=subject.site)
    swept = sweep.run()
    rows = swept[last][:, 0, len(base) - len(ending) :]
    subject.passes += round(sweep.cost)
    return [ending_of(subject, hidden, ending).total - changes.base.total for hidden in rows], sweep.cost

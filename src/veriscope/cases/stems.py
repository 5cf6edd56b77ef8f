"""Endings behind many variations of one text, where whatever begins alike is run once.

`Endings` shares with the base text what a variation has in common with it. Two sentences taken out have more in common
with the text without the first of them: so keys and values of some variations are kept, and others grow from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from veriscope.errors import BadPrompt
from veriscope.subjects import Subject
from veriscope.subjects.attention import attending, repeat_heads, shares
from veriscope.subjects.endings import SPARE, Ending, Endings, Ids, Watch, continuations, ending_of
from veriscope.subjects.generation import choose
from veriscope.subjects.replay import Base, Cells, Packed, embed, run_base
from veriscope.subjects.sweep import logits_of, rows_at_once
from veriscope.subjects.transformer import first_tensor
from veriscope.subjects.variations import common, one_batch, pieces

MOST = 2**29  # bytes of keys and values that are kept
WORTH = 16  # tokens that a text must have in common with one that runs, beyond what is kept, to wait for it
TOGETHER = 128  # texts among which common beginnings are looked for


@dataclass(frozen=True, eq=False)
class _Stem:
    """Keys and values of a text that was run, from where it left the one that it grew from.

    Attributes:
        grown: The one before; None for the base text, which holds all of its own.
        start: First position of its own.
    """

    ids: tuple[int, ...]
    grown: _Stem | None
    start: int
    keys: dict[int, Float[Tensor, "head position d_head"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "head position d_head"]] = field(default_factory=dict)

    def held(self, which: str, block: int, stop: int) -> Float[Tensor, "head position d_head"]:
        """Keys or values of all positions before `stop`."""
        own: Tensor = getattr(self, which)[block][:, : max(0, stop - self.start)]
        return own if self.grown is None else torch.cat([self.grown.held(which, block, min(stop, self.start)), own], 1)


class Stems:
    """Endings of one text and its variations; asked like `Endings`.

    Attributes:
        base: Tokens that the other texts were made from.
        why_plain: Why every text is run whole; empty where beginnings are shared.
    """

    def __init__(self, subject: Subject, base: Ids) -> None:
        """Nothing is run yet.

        Raises:
            NotAvailable: The model gives no logits, or sees what stands behind a position.
        """
        self.subject, self._plain = subject, Endings(subject, base)
        self.base, self.why_plain = self._plain.base, self._plain.why_plain
        self._engine: Any = subject._engine
        self._run: Base | None = None
        self._root: _Stem | None = None
        self._kept: dict[tuple[int, ...], _Stem] = {}
        self._passes = 0.0

    @property
    def passes(self) -> float:
        """Cost so far, in whole passes of the base text through the blocks."""
        return self._passes + self._plain.passes

    def run(
        self, texts: Sequence[tuple[Ids, Ids]], watch: Watch | None = None, keep: Collection[int] = ()
    ) -> list[Ending]:
        """Endings of texts.

        Args:
            texts: What stands before, and the ending, as tokens; neither is empty.
            watch: Is shown every row that is run: not those that a text has in common with the base text.
            keep: Numbers of texts that later ones will have much in common with, until `forget`; as many as fit.

        Raises:
            BadPrompt: A text is longer than the context.
        """
        if self.why_plain:
            return self._plain.run(texts, watch)
        whole = [(*before, *ending[:-1]) for before, ending in texts]  # the last token says nothing about the ending
        longest, context = max(map(len, whole)), self.subject.context
        if context is not None and longest > context:
            raise BadPrompt(f"A text of {longest} tokens is longer than the context of {context}: shorten it.")
        before = self._passes
        sizes = [len(ending) for _, ending in texts]
        with torch.no_grad():
            hidden = self._replayed(whole, sizes, watch, frozenset(keep))
            found = ending_of(self.subject, torch.cat(hidden), [token for _, ending in texts for token in ending])
        self.subject.passes += round(self._passes - before)
        parts = zip(found.nats.split(sizes), found.best.split(sizes), strict=True)
        return [Ending(nats, best) for nats, best in parts]

    def cost(self, texts: Sequence[tuple[Ids, Ids]]) -> float:
        """The most that texts would take, in whole passes of the base text; the base run itself is not counted."""
        if self.why_plain:
            return self._plain.cost(texts)
        whole = [((*before, *ending[:-1]), len(ending)) for before, ending in texts]
        kept = [tuple(self.base), *self._kept]
        rows = (len(ids) - min(max(common(one, ids) for one in kept), len(ids) - n) for ids, n in whole)
        return sum(rows) / len(self.base)

    def forget(self, but: Collection[Ids] = ()) -> None:
        """Give up what was kept, but for texts that begin with one of these."""
        stay = [tuple(ids) for ids in but]
        self._kept = {ids: stem for ids, stem in self._kept.items() if any(ids[: len(one)] == one for one in stay)}

    # ---- runs

    def _replayed(
        self, whole: Sequence[tuple[int, ...]], sizes: Sequence[int], watch: Watch | None, keep: frozenset[int]
    ) -> list[Float[Tensor, "token d_model"]]:
        """Residual streams behind the last block that speak about each ending."""
        self._base_run(max(map(len, whole)))
        out: dict[int, Tensor] = {}
        with self._engine.packing.used(len(self.base) * self._cost_of(whole, sizes)):
            if watch is not None:  # is shown all behind the base text, so nothing else may be shared
                root = self._stem()
                every = [(n, root, min(common(root.ids, ids), len(ids) - sizes[n])) for n, ids in enumerate(whole)]
                held = np.cumsum([(len(whole[n]) - start) * (n in keep) for n, _, start in every]) * self._bytes_each()
                fits = {n for n, *_ in every if n in keep and held[n] <= MOST - self._bytes(self._kept.values())}
                self._keep(self._level(every, whole, sizes, watch, fits, out).values())
                return [out[n] for n in range(len(whole))]
            order = sorted(range(len(whole)), key=whole.__getitem__)
            for first in range(0, len(order), TOGETHER):
                self._tree(order[first : first + TOGETHER], whole, sizes, keep, out)
        return [out[n] for n in range(len(whole))]

    def _cost_of(self, whole: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> float:
        return self.cost([(ids[: len(ids) - n + 1], ids[len(ids) - n :]) for ids, n in zip(whole, sizes, strict=True)])

    def _tree(
        self, some: Sequence[int], whole: Sequence[tuple[int, ...]], sizes: Sequence[int], keep: frozenset[int],
        out: dict[int, Tensor],
    ) -> None:  # fmt: skip
        """Run texts, those first that others have most in common with."""
        alike = _alike([whole[n] for n in some])
        stems = [self._stem(), *self._kept.values()]
        best = [max((common(one.ids, whole[n]), -k) for k, one in enumerate(stems)) for n in some]
        grown = [stems[-k] for _, k in best]
        shared = np.array([length for length, _ in best])
        todo, room = np.arange(len(some)), MOST - self._bytes(self._kept.values())
        while len(todo):
            gain = alike[np.ix_(todo, todo)] - shared[todo]  # of the second, if it grows from the first
            gain[gain < WORTH] = 0
            np.fill_diagonal(gain, 0)
            ready: list[int] = []
            for a in np.argsort(-gain.sum(1), kind="stable").tolist():
                if not gain[ready, a].any():
                    ready.append(a)
            later = [b for b in range(len(todo)) if b not in ready]
            asked = [todo[a] for a in ready if gain[a, later].any()]
            room -= sum(len(whole[some[a]]) - int(shared[a]) for a in asked) * self._bytes_each()
            if room < 0:
                ready, later, asked = list(range(len(todo))), [], []
            cells = [
                (n, grown[a], min(int(shared[a]), len(whole[n]) - sizes[n])) for a in todo[ready] for n in (some[a],)
            ]
            new = self._level(cells, whole, sizes, None, keep | {some[a] for a in asked}, out)
            self._keep(new[n] for n in new if n in keep)
            for a in asked:
                for b in todo[later]:
                    if some[a] in new and alike[a, b] > shared[b]:
                        grown[b], shared[b] = new[some[a]], alike[a, b]
            todo = todo[later]

    def _level(
        self, cells: Sequence[tuple[int, _Stem, int]], whole: Sequence[tuple[int, ...]], sizes: Sequence[int],
        watch: Watch | None, catch: Collection[int], out: dict[int, Tensor],
    ) -> dict[int, _Stem]:  # fmt: skip
        """Run texts from stems that are there; gives stems of those to catch."""
        new: dict[int, _Stem] = {}
        device = self.subject.device
        for some in pieces([len(whole[n]) - start for n, _, start in cells], rows_at_once(device)):
            part = [cells[i] for i in some]
            for n, stem, start in part:
                if n in catch and whole[n] not in self._kept:
                    new[n] = _Stem(whole[n], stem, start)
            batch = one_batch([whole[n] for n, *_ in part], self._engine.fill, device)
            inputs = embed(self._engine, batch)
            embedded = {part[row][0]: inputs[place] for place, row in enumerate(batch.rows.tolist())}
            base, rows = self._stacked([stem for _, stem, _ in part], max(start for *_, start in part))
            fields = [
                (n, row, 0, start, len(whole[n]), len(whole[n]) - 1)
                for (n, _, start), row in zip(part, rows, strict=True)
            ]
            told = _Told({n: new[n] for n, *_ in part if n in new}, watch)
            packed = Packed(self._engine, base, Cells(*torch.tensor(fields, device=device).T), {}, told, embedded)
            order = packed.cells.edit.tolist()
            ends = (packed.first + packed.cells.n_rows).tolist()
            # All rows that speak about an ending: of the last block's MLP no other is run, where nothing watches it.
            spoken = [torch.arange(end - sizes[n], end, device=device) for n, end in zip(order, ends, strict=True)]
            packed.ends = torch.cat(spoken)
            hidden = packed.run().split([sizes[n] for n in order])
            out.update(zip(order, hidden, strict=True))
            self._passes += float(packed.cells.n_rows.sum()) / len(self.base)
        return new

    def _keep(self, stems: Iterable[_Stem]) -> None:
        """Keep as many as fit."""
        held = self._bytes(self._kept.values())
        for stem in stems:
            held += self._bytes([stem])
            if held <= MOST:
                self._kept[stem.ids] = stem

    def _stacked(self, stems: Sequence[_Stem], stop: int) -> tuple[Base, list[int]]:
        """The base run with keys and values of several texts, one row each, and the row of every stem."""
        unlike = list(dict.fromkeys(stems))
        rows = [unlike.index(stem) for stem in stems]
        run = self._begun()
        if unlike == [self._stem()]:
            return run, rows
        both: dict[str, dict[int, Tensor]] = {"keys": {}, "values": {}}
        for which, kept in both.items():
            for block, like in getattr(run, which).items():
                kept[block] = like.new_zeros(len(unlike), like.shape[1], stop, like.shape[3])
                for row, stem in enumerate(unlike):
                    held = stem.held(which, block, stop)
                    kept[block][row, :, : held.shape[1]] = held
        return replace(run, keys=both["keys"], values=both["values"]), rows

    def _stem(self) -> _Stem:
        """The base text as a stem."""
        assert self._root is not None
        return self._root

    def _begun(self) -> Base:
        assert self._run is not None
        return self._run

    def _base_run(self, longest: int) -> None:
        """Run the base text, padded so that positions of longer texts are known; nothing sees what stands behind it."""
        if self._run is not None and self._run.batch.ids.shape[1] >= longest:
            return
        room = max(longest, len(self.base) + SPARE)
        room = room if self.subject.context is None else min(room, max(self.subject.context, len(self.base)))
        fill = [self._engine.fill] * (room - len(self.base))
        run = run_base(self._engine, one_batch([[*self.base, *fill]], self._engine.fill, self.subject.device))
        keys, values = ({n: part[0] for n, part in kept.items()} for kept in (run.keys, run.values))
        self._run, self._root = run, _Stem(tuple(self.base), None, 0, keys, values)
        self._passes += room / len(self.base)

    def _bytes(self, stems: Collection[_Stem]) -> int:
        return sum(self._bytes_each() * (len(stem.ids) - stem.start) for stem in stems)

    def _bytes_each(self) -> int:
        """Bytes of one position's keys and values."""
        root = self._stem()
        each = [part[:, :1] for kept in (root.keys, root.values) for part in kept.values()]
        return sum(part.numel() * part.element_size() for part in each)

    # ---- continuations

    @torch.no_grad()
    def continued(self, contexts: Sequence[Ids], *, tokens: int, draws: int, seed: int) -> list[list[list[int]]]:
        """The most likely continuation of each context, and then `draws` ones drawn at temperature 1."""
        if self.why_plain or not self._ready(contexts, tokens):
            whole, positions = continuations(self.subject, contexts, tokens=tokens, draws=draws, seed=seed)
            self._passes += positions / len(self.base)
            return whole
        each, stop = 1 + draws, self.subject._stop_ids()
        uniform = torch.rand(len(contexts) * each, tokens, generator=torch.Generator().manual_seed(seed))
        new: list[list[int]] = [[] for _ in range(len(contexts) * each)]
        going, said = [True] * len(new), _Said(self._engine, self._begun(), self._prefixes(contexts), each)
        sure = torch.arange(len(new)) % each == 0
        texts = [list(ids) for ids in contexts for _ in range(each)]
        for step in range(tokens):
            logits = logits_of(self._engine, said.step(texts), None)
            drawn = uniform[:, step].to(logits.device)
            likely = choose(logits, 0.0, drawn)
            chosen = torch.where(sure.to(logits.device), likely, choose(logits, 1.0, drawn)).tolist()
            for row, token in enumerate(chosen):
                going[row] = going[row] and token not in stop
                new[row] += [token] if going[row] else []
                texts[row].append(token)
            self._passes += len(new) / len(self.base)
            if not any(going):
                break
        return [new[n * each : (n + 1) * each] for n in range(len(contexts))]

    def _prefixes(self, contexts: Sequence[Ids]) -> list[dict[str, dict[int, Tensor]]]:
        """Keys and values of all but the last token of each context."""
        out = []
        for ids in contexts:
            stem = max((self._stem(), *self._kept.values()), key=lambda one: common(one.ids, ids))
            out.append({
                which: {n: stem.held(which, n, len(ids) - 1) for n in range(len(self._engine.blocks))}
                for which in ("keys", "values")
            })  # fmt: skip
        return out

    def _ready(self, contexts: Sequence[Ids], tokens: int) -> bool:
        """Run the contexts that are not kept; False where they do not fit."""
        self._base_run(max(map(len, contexts)) + tokens)
        for ids in dict.fromkeys(tuple(ids) for ids in contexts):
            if max(common(one.ids, ids) for one in (self._stem(), *self._kept.values())) < len(ids) - 1:
                self._replayed([ids], [1], None, frozenset([0]))
                if ids not in self._kept:
                    return False
        return True


class _Told:
    """Keeps keys and values of stems that grow, and shows a watch what it asks for."""

    def __init__(self, stems: Mapping[int, _Stem], watch: Watch | None) -> None:
        self.stems, self.watch = stems, watch
        self.watched = frozenset(watch.sites) if watch is not None else frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.watched or (bool(self.stems) and name.endswith((".heads.k", ".heads.v")))

    def keep(self, name: str, h: Tensor, packed: Packed, rows: Tensor) -> None:
        if name in self.watched:
            assert self.watch is not None
            self.watch.see(name, h, packed.edit[rows], packed.position[rows])
        if self.stems and name.endswith((".heads.k", ".heads.v")):
            block = int(name.split(".")[1])
            ends = zip(packed.cells.edit.tolist(), packed.first.tolist(), packed.cells.n_rows.tolist(), strict=True)
            for number, first, count in ends:
                if number in self.stems:
                    stem = self.stems[number]
                    kept = stem.keys if name.endswith(".k") else stem.values
                    kept[block] = h[first : first + count].transpose(0, 1).clone()


class _Said:
    """Continuations of several contexts on their way, `each` of every context: one token of all of them at a time.

    A context's keys and values are there once for all of its continuations, which hold their own beside them.
    """

    def __init__(
        self, engine: Any, base: Base, prefixes: Sequence[Mapping[str, Mapping[int, Tensor]]], each: int
    ) -> None:
        self.engine, self.base, self.prefixes, self.each = engine, base, prefixes, each
        self._own: dict[int, tuple[Tensor, Tensor]] = {}  # of each block: (row, head, position, d_head)

    def step(self, texts: Sequence[Ids]) -> Float[Tensor, "row d_model"]:
        """Residual stream behind the last block at the last token of each text, all before it having been run."""
        device = self.base.batch.ids.device
        batch = one_batch(texts, self.engine.fill, device)
        position = torch.tensor([len(ids) - 1 for ids in texts], device=device)
        inputs = embed(self.engine, batch)[batch.rows.argsort()]
        hidden = inputs[torch.arange(len(texts), device=device), position]
        with self.engine.fused():
            for number, block in enumerate(self.engine.blocks):
                with attending(partial(self._attend, number, position)):
                    hidden = first_tensor(block(hidden[None], **self._given(number, position)))[0]
        return hidden

    def _given(self, number: int, position: Tensor) -> dict[str, Any]:
        """Arguments of a block at these positions, from those of the base run."""

        def at(name: str, value: Any) -> Any:
            if name in ("position_ids", "cache_position") and isinstance(value, Tensor):
                return value[..., position] if value.ndim == 1 else value[:1, position]
            if name == "position_embeddings" and isinstance(value, tuple):
                return tuple(part[:1, position] for part in value)
            return None if "mask" in name else value

        return {name: at(name, value) for name, value in self.base.given[number].items()}

    def _attend(
        self, number: int, position: Tensor, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any,
        scale: float | None, cap: float | None,
    ) -> Float[Tensor, "1 row head d_head"]:  # fmt: skip
        """Attention over each context's keys and over a continuation's own."""
        heads, width, allowed = q.shape[1], q.shape[-1], self.base.allowed[number]
        new = [part[0].transpose(0, 1)[:, :, None] for part in (k, v)]
        own_k, own_v = self._own[number] = tuple(
            torch.cat(pair, 2) for pair in zip(self._own.get(number, [x[:, :, :0] for x in new]), new, strict=True)
        )  # type: ignore[assignment]
        out = []
        for place, kept in enumerate(self.prefixes):
            rows = slice(place * self.each, (place + 1) * self.each)
            far_k, far_v = (repeat_heads(kept[which][number][None], heads)[0] for which in ("keys", "values"))
            near_k, near_v = (repeat_heads(part[rows], heads).transpose(0, 1) for part in (own_k, own_v))
            some, long = q[0, :, rows], far_k.shape[1]
            scores = torch.cat([some @ far_k.transpose(-1, -2), (near_k @ some[..., None])[..., 0]], -1)
            scores = scores * (width**-0.5 if scale is None else scale)
            scores = scores if cap is None else torch.tanh(scores / cap) * cap
            if allowed is not None:
                seen = allowed[position[rows], : scores.shape[-1]]
                scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
            pattern = shares(scores)
            z = pattern[..., :long] @ far_v + (pattern[..., None, long:] @ near_v)[..., 0, :]
            out.append(z.transpose(0, 1))
        return torch.cat(out)[None]


def _alike(texts: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    """Tokens that each two texts begin with."""
    padded = np.full((len(texts), max(map(len, texts)) + 1), -1)
    for row, ids in enumerate(texts):
        padded[row, : len(ids)] = ids
        padded[row, len(ids) :] = -1 - row  # so that ends differ
    differ = padded[:, None] != padded[None]
    return np.where(differ.any(-1), differ.argmax(-1), padded.shape[1])

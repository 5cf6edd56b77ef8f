"""How likely given endings are behind many texts that begin alike, and what such texts go on with.

What a text has in common with one base text is run once (`variations.py`), and only the rows that speak about the
ending meet the unembedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from veriscope.errors import BadPrompt, NotAvailable
from veriscope.subjects.generation import choose, generate
from veriscope.subjects.plan import Batch, plan
from veriscope.subjects.replay import Base, Cells, Packed, embed, run_base
from veriscope.subjects.run import execute
from veriscope.subjects.sites import Read
from veriscope.subjects.subject import Subject
from veriscope.subjects.sweep import check_replay, logits_of, rows_at_once, why_not
from veriscope.subjects.taps import Tap, Taps
from veriscope.subjects.transformer import Transformer
from veriscope.subjects.variations import common, one_batch, pieces

Ids = Sequence[int]
LOGITS_AT_ONCE = 2**24  # numbers: whole vocabularies of many rows would not fit into memory together
SPARE = 64  # tokens that a text may be longer than the base text before that is run again


@runtime_checkable
class Watch(Protocol):
    """Is shown what stands at some sites while texts go through the model."""

    @property
    def sites(self) -> Sequence[str]: ...

    def see(
        self, site: str, acts: Float[Tensor, "row *unit"], text: Int[Tensor, "row"], position: Int[Tensor, "row"]
    ) -> None: ...


@dataclass(frozen=True, eq=False)
class Ending:
    """What the model thinks of an ending, token by token.

    Attributes:
        nats: Log-probability of each token of the ending, those before it given.
        best: The most likely token in the place of each.
    """

    nats: Float[Tensor, "token"]
    best: Int[Tensor, "token"]

    @property
    def total(self) -> float:
        return float(self.nats.double().sum())

    def changed(self, ids: Ids) -> int | None:
        """First place where the most likely token is another one; None if the model would say it word for word."""
        unlike = (self.best.cpu() != torch.tensor(ids)).nonzero().flatten()
        return int(unlike[0]) if len(unlike) else None


class Endings:
    """Endings of one text and its variations.

    Attributes:
        passes: Cost so far, in whole passes of the base text through the blocks.
        why_plain: Why every text is run whole; empty where beginnings are shared.
    """

    def __init__(self, subject: Subject, base: Ids) -> None:
        """Nothing is run yet.

        Args:
            base: Tokens that the other texts were made from.

        Raises:
            NotAvailable: The model gives no logits, or sees what stands behind a position.
        """
        if not (subject.has_logits and subject.causal):
            raise NotAvailable(f"{subject.name} does not continue a text: use a causal model with an unembedding.")
        self.subject, self.base, self.passes = subject, list(base), 0.0
        self._engine: Any = subject._engine
        self._kept: Base | None = None
        check_replay(self._engine)
        self.why_plain = why_not(self._engine, (), ())

    @torch.no_grad()
    def run(self, texts: Sequence[tuple[Ids, Ids]], watch: Watch | None = None) -> list[Ending]:
        """Endings of texts.

        Args:
            texts: What stands before, and the ending, as tokens; neither is empty.
            watch: Is shown every row that is run: not those that a text has in common with the base text.

        Raises:
            BadPrompt: A text is longer than the context.
        """
        whole = [[*before, *ending[:-1]] for before, ending in texts]  # the last token says nothing about the ending
        longest, context = max(map(len, whole)), self.subject.context
        if context is not None and longest > context:
            raise BadPrompt(f"A text of {longest} tokens is longer than the context of {context}: shorten it.")
        before = self.passes
        run = self._plain if self.why_plain else self._replayed
        found = run(whole, texts, watch)
        self.subject.passes += round(self.passes - before)
        return found

    def cost(self, texts: Sequence[tuple[Ids, Ids]]) -> float:
        """What texts would take, in whole passes of the base text; the base run itself is not counted."""
        whole = [([*before, *ending[:-1]], len(ending)) for before, ending in texts]
        rows = (len(ids) - (0 if self.why_plain else min(common(self.base, ids), len(ids) - n)) for ids, n in whole)
        return sum(rows) / len(self.base)

    # ---- beginnings shared

    def _replayed(self, whole: list[list[int]], texts: Sequence[tuple[Ids, Ids]], watch: Watch | None) -> list[Ending]:
        base = self._run_base(max(map(len, whole)))
        engine, device = self._engine, self.subject.device
        starts = [
            min(common(self.base, ids), len(ids) - len(ending)) for ids, (_, ending) in zip(whole, texts, strict=True)
        ]
        shown = _Shown(
            f"blocks.{len(engine.blocks) - 1}.resid_post", [len(ending) for _, ending in texts], whole, watch
        )
        with engine.packing.used(sum(len(ids) - start for ids, start in zip(whole, starts, strict=True))):
            for some in pieces([len(ids) - n for ids, n in zip(whole, starts, strict=True)], rows_at_once(device)):
                batch = one_batch([whole[i] for i in some], engine.fill, device)
                inputs = embed(engine, batch)
                embedded = {some[row]: inputs[place] for place, row in enumerate(batch.rows.tolist())}
                fields = [(i, 0, 0, starts[i], len(whole[i]), len(whole[i]) - 1) for i in some]
                packed = Packed(engine, base, Cells(*torch.tensor(fields, device=device).T), {}, shown, embedded)
                packed.run()
                self.passes += float(packed.cells.n_rows.sum()) / len(self.base)
        return [ending_of(self.subject, shown.ends[i], ending) for i, (_, ending) in enumerate(texts)]

    def _run_base(self, longest: int) -> Base:
        """The base run, padded so that positions of longer texts are known; nothing sees what stands behind it."""
        if self._kept is None or self._kept.batch.ids.shape[1] < longest:
            room = max(longest, len(self.base) + SPARE)
            room = room if self.subject.context is None else min(room, max(self.subject.context, len(self.base)))
            fill = [self._engine.fill] * (room - len(self.base))
            self._kept = run_base(
                self._engine, one_batch([[*self.base, *fill]], self._engine.fill, self.subject.device)
            )
            self.passes += room / len(self.base)
        return self._kept

    # ---- every text whole

    def _plain(self, whole: list[list[int]], texts: Sequence[tuple[Ids, Ids]], watch: Watch | None) -> list[Ending]:
        engine, device = self._engine, self.subject.device
        reads = [Read(site) for site in watch.sites] if watch is not None else []
        out: list[Ending] = []
        for number, ids in enumerate(whole):
            todo = plan([ids], batch_tokens=len(ids), fill=engine.fill, device=device)
            run, _ = execute(engine, todo, reads=reads, edits=(), logits="all", grad=False, site=engine.sites)
            assert run.logits is not None
            ending = texts[number][1]
            out.append(_score(run.logits[0, len(ids) - len(ending) : len(ids)], ending))
            position = torch.arange(len(ids), device=device)
            for read in reads:
                assert watch is not None
                watch.see(read.site, run[read][0], torch.full_like(position, number), position)
            self.passes += len(ids) / len(self.base)
        return out


class _Shown:
    """Keeps the rows that speak about each ending, and shows a watch what it asks for."""

    def __init__(self, last: str, sizes: Sequence[int], whole: Sequence[Ids], watch: Watch | None) -> None:
        self.last, self.watch = last, watch
        self.first = torch.tensor([len(ids) - size for ids, size in zip(whole, sizes, strict=True)])
        self.ends: dict[int, Tensor] = {}
        self.watched = frozenset(watch.sites) if watch is not None else frozenset()

    def __contains__(self, name: str) -> bool:
        return name == self.last or name in self.watched

    def keep(self, name: str, h: Tensor, packed: Packed, rows: Tensor) -> None:
        text, position = packed.edit[rows], packed.position[rows]
        if name in self.watched:
            assert self.watch is not None
            self.watch.see(name, h, text, position)
        if name == self.last:
            speaks = position >= self.first.to(position.device)[text]
            for number in text[speaks].unique().tolist():
                self.ends[number] = h[speaks & (text == number)]


def continuations(
    subject: Subject, contexts: Sequence[Ids], *, tokens: int, draws: int, seed: int
) -> tuple[list[list[list[int]]], float]:
    """The most likely continuation of each context, and then `draws` ones drawn at temperature 1.

    A context is run once for all of its continuations, where the model keeps keys and values.

    Returns:
        Tokens of each, and the cost in positions that went through the blocks.
    """
    engine: Any = subject._engine
    rows = [ids for ids in contexts for _ in range(1 + draws)]
    stop = subject._stop_ids()
    if not isinstance(engine, Transformer):
        some = {"edits": (), "stop": stop, "batch_tokens": 1024, "fill": engine.fill, "site": engine.sites}
        sure, _ = generate(engine, contexts, max_new_tokens=tokens, temperature=0.0, seed=seed, **some)
        drawn, _ = (
            generate(engine, rows, max_new_tokens=tokens, temperature=1.0, seed=seed, **some) if draws else ([], 0)
        )
        each = [drawn[n * (1 + draws) : (n + 1) * (1 + draws)][:draws] for n in range(len(contexts))]
        cost = sum(len(ids) * tokens * (2 + draws) for ids in contexts)
        return [[one, *others] for one, others in zip(sure, each, strict=True)], float(cost)
    return _cached(engine, contexts, tokens, draws, seed, stop), float(
        sum(map(len, contexts)) + len(rows) * (tokens - 1)
    )


@torch.no_grad()
def _cached(
    engine: Transformer, contexts: Sequence[Ids], tokens: int, draws: int, seed: int, stop: frozenset[int]
) -> list[list[list[int]]]:
    device = next(engine.module.parameters()).device
    slots = len(contexts) * max(map(len, contexts))
    batch = plan(contexts, batch_tokens=slots, fill=engine.fill, left=True, device=device).batches[0]
    cache, taps, each = DynamicCache(), Taps(), 1 + draws
    uniform = torch.rand(len(contexts) * each, tokens, generator=torch.Generator().manual_seed(seed)).to(device)
    new: list[list[int]] = [[] for _ in range(len(contexts) * each)]
    going = [True] * len(new)
    width = batch.ids.shape[1]
    sure = torch.arange(len(new), device=device) % each == 0
    with engine.installed(taps):
        logits = engine.run(batch, taps, "last", cache)
        assert logits is not None
        cache.batch_repeat_interleave(each)
        logits = logits.repeat_interleave(each, 0)
        current = _repeated(batch, each)
        for step in range(tokens):
            if step:
                found = engine.run(current, taps, "last", cache)
                assert found is not None
                logits = found
            chosen = torch.where(sure, choose(logits, 0.0, uniform[:, step]), choose(logits, 1.0, uniform[:, step]))
            for row, token in enumerate(chosen.tolist()):
                going[row] = going[row] and token not in stop
                if going[row]:
                    new[row].append(token)
            if not any(going):
                break
            current = replace(current, ids=chosen[:, None], slot=width + step)
    order = {row: place for place, row in enumerate(batch.rows.tolist())}
    return [new[order[n] * each : (order[n] + 1) * each] for n in range(len(contexts))]


def _repeated(batch: Batch, each: int) -> Batch:
    start = None if batch.start is None else batch.start.repeat_interleave(each)
    rows = torch.arange(len(batch) * each, device=batch.rows.device)
    return Batch(
        rows,
        batch.ids.repeat_interleave(each, 0),
        batch.lengths.repeat_interleave(each),
        start,
        batch.ragged,
        batch.slot,
    )


@torch.no_grad()
def ending_of(subject: Subject, hidden: Float[Tensor, "token d_model"], ending: Ids) -> Ending:
    """An ending from the residual streams behind the last block that speak about it."""
    engine: Any = subject._engine
    step = max(1, LOGITS_AT_ONCE // int(engine.sites["logits"].width))
    logits = (logits_of(engine, part, None) for part in hidden.split(step))
    return _join([_score(part, ids) for part, ids in zip(logits, _split(ending, step), strict=True)])


def _score(logits: Float[Tensor, "token vocab"], ending: Ids) -> Ending:
    ids = torch.tensor(list(ending), device=logits.device)
    return Ending(logits.float().log_softmax(-1)[torch.arange(len(ids), device=ids.device), ids], logits.argmax(-1))


def _join(parts: Sequence[Ending]) -> Ending:
    return Ending(torch.cat([part.nats for part in parts]), torch.cat([part.best for part in parts]))


def _split(ids: Ids, step: int) -> list[Ids]:
    return [ids[n : n + step] for n in range(0, len(ids), step)]


def saliency(subject: Subject, before: Ids, ending: Ids) -> Float[Tensor, "token"]:
    """Gradient of an ending's log-probability times the embedding, summed over its numbers, for each token before it.

    Source: "gradient times input" (Learning Important Features Through Propagating Activation Differences, 2016).

    Raises:
        NotAvailable: The module has no embedding that is known.
    """
    engine: Any = subject._engine
    if "embed" not in engine.sites:
        raise NotAvailable(f"{subject.name} has no embedding to take gradients at.")
    ids = [*before, *ending[:-1]]
    batch = one_batch([ids], engine.fill, subject.device)
    caught: dict[str, Tensor] = {}

    def begin(h: Tensor, _: Batch) -> Tensor:
        caught["embed"] = h.detach().requires_grad_()
        return caught["embed"]

    def end(h: Tensor, _: Batch) -> Tensor:
        caught["end"] = h
        return h

    taps = Taps({"embed": Tap(engine.sites["embed"], change=begin)})
    last = f"blocks.{len(engine.blocks) - 1}.resid_post" if isinstance(engine, Transformer) else ""
    known = not why_not(engine, (), ()) and last in engine.sites
    if known:
        taps[last] = Tap(engine.sites[last], change=end)
    with torch.enable_grad(), engine.installed(taps):
        logits = engine.run(batch, taps, None if known else "all")
        rows = slice(len(ids) - len(ending), len(ids))
        logits = logits_of(engine, caught["end"][0, rows], None) if known else logits[0, rows]
        (slope,) = torch.autograd.grad(_score(logits, ending).nats.sum(), caught["embed"])
    subject.passes += 1
    return (slope * caught["embed"].detach())[0, : len(before)].sum(-1)

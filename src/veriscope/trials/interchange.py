"""Interchange pairs at one site: the clean runs, the patched runs, and what is measured on them.

h' = h_base + P (h_source - h_base) for the projector P of a subspace (Finding Alignments Between Interpretable Causal
Variables and Distributed Neural Representations, Geiger 2023). Many swaps and pushes of the same texts are replayed
from one run of them. Where all logits are needed, or a slope, patched values are worked out from clean runs and set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.errors import UserError
from veriscope.examples import Sample
from veriscope.subjects import Edit, Read, Run, SetTo, Subject, Swap, Swept
from veriscope.subjects.edits import How
from veriscope.trials.reading import as_array
from veriscope.trials.statistics import Array

PLACES = ("last", "first", "all")  # any other word names a field of the examples


@dataclass(frozen=True, eq=False)
class Clean:
    """An unpatched run: activations at the claim's site and position, and logits after the last token."""

    acts: Float[Tensor, "pair d"]
    logits: Float[Tensor, "pair vocab"]

    def at(self, rows: Sequence[int]) -> Clean:
        """The same of some rows, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return Clean(self.acts[index], self.logits[index])


@dataclass(eq=False)
class Pairs:
    """Pairs of one pool on one subject (the claim's own, or a twin of it)."""

    subject: Subject
    rows: Sample
    site: str
    position: str | int

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def sources(self) -> Sample:
        """The source texts as a sample, so that a named position is found in them."""
        named = self.position if isinstance(self.position, str) and self.position not in PLACES else None
        return dataclasses.replace(self.rows, examples=tuple(_source_of(e, named) for e in self.rows.examples))

    @cached_property
    def at(self) -> Any:
        return self.subject.where(self.position, self.rows)

    @cached_property
    def source_at(self) -> Any:
        return self.subject.where(self.position, self.sources)

    @cached_property
    def base(self) -> Clean:
        return self._clean(self.rows.texts, self.at)

    @cached_property
    def source(self) -> Clean:
        return self._clean(self.sources.texts, self.source_at)

    @cached_property
    def base_acts(self) -> Float[Tensor, "pair d"]:
        return self.base.acts if "base" in self.__dict__ else self._acts(self.rows.texts, self.at)

    @cached_property
    def source_acts(self) -> Float[Tensor, "pair d"]:
        return self.source.acts if "source" in self.__dict__ else self._acts(self.sources.texts, self.source_at)

    @cached_property
    def answer(self) -> Int[Tensor, "pair"]:
        """First token of each base text's own answer."""
        return self._ids(self.rows.texts, self.rows.answers)

    @cached_property
    def expected(self) -> Int[Tensor, "pair"]:
        """First token of the answer that the high-level model predicts after the swap."""
        return self._ids(self.rows.texts, self.rows.expected)

    @cached_property
    def own(self) -> Int[Tensor, "pair"]:
        """First token of what the source text itself is answered with."""
        said = [e.factors.get("source_answer") or e.expected for e in self.rows.examples]
        return self._ids(self.sources.texts, [str(word) for word in said])

    @cached_property
    def plain(self) -> Bool[Tensor, "pair"]:
        """Where the source text's own answer is the expected one, so that its run is the aim of the swap."""
        return self.own == self.expected

    @cached_property
    def wanted(self) -> Float[Tensor, "pair"]:
        """B = logit(expected) - logit(answer) in the base run."""
        return self.preference(self.base.logits)

    @cached_property
    def reach(self) -> Float[Tensor, "pair"]:
        """The clean range of each pair: B in the source run less B in the base run, in logits.

        Where the source text has another answer of its own, B of the base run mirrored stands for the source run.
        """
        there = torch.where(self.plain, self.preference(self.source.logits), -self.wanted)
        return there - self.wanted

    def preference(self, logits: Float[Tensor, "pair vocab"]) -> Float[Tensor, "pair"]:
        """Logit of the expected answer less that of the base text's own."""
        return at_column(logits, self.expected) - at_column(logits, self.answer)

    def swapped(self, basis: Float[Tensor, "d r"] | None, reverse: bool = False) -> Float[Tensor, "pair d"]:
        """Base activations with the source's value in the subspace (None: everywhere), or the other way round."""
        here, there = (self.source_acts, self.base_acts) if reverse else (self.base_acts, self.source_acts)
        if basis is None:
            return there
        basis = basis.to(here)
        return here + ((there - here) @ basis) @ basis.T

    def set_to(self, values: Float[Tensor, "pair d"], reverse: bool = False) -> Float[Tensor, "pair vocab"]:
        """Logits after the last token, with these values at the site and position (in the source texts if reverse)."""
        texts, at = (self.sources.texts, self.source_at) if reverse else (self.rows.texts, self.at)
        return _last(self.subject.run(texts, edits=[Edit(self.site, SetTo(values), at=at)], logits="last"))

    def swept(
        self, hows: Sequence[How], columns: Int[Tensor, "column"] | Int[Tensor, "pair column"], reverse: bool = False
    ) -> Swept:
        """Chosen logits under each of several edits at the site and position, all replayed from one run of the texts.

        Args:
            columns: Tokens, the same for all pairs or some for each.
            reverse: In the source texts, not the base texts.
        """
        texts, at = (self.sources.texts, self.source_at) if reverse else (self.rows.texts, self.at)
        tokens = columns if columns.ndim == 2 else columns.expand(len(self), -1)
        return self.subject.sweep(texts, [Edit(self.site, how, at=at) for how in hows], tokens=tokens)

    def many(
        self, bases: Sequence[Float[Tensor, "d _"] | None], columns: Int[Tensor, "column"]
    ) -> Float[Tensor, "subspace pair column"]:
        """Chosen logits with the source's value in each of several subspaces (None: everywhere)."""
        if not bases:
            return torch.zeros(0, len(self), len(columns))
        swaps = [Swap(self.source_acts, basis) for basis in bases]
        if len(swaps) > 1:
            return self.swept(swaps, columns).logits
        edit = Edit(self.site, swaps[0], at=self.at)  # a run from scratch is cheaper than one to replay from
        return _last(self.subject.run(self.rows.texts, edits=[edit], logits="last"))[:, columns][None]

    def shifts(self, hows: Sequence[How], reverse: bool = False) -> Float[Tensor, "edit pair"]:
        """Change of B in logits under each of several edits at the site and position."""
        found = self.swept(hows, torch.stack([self.expected, self.answer], 1), reverse)
        moved = found.logits - found.base
        return moved[..., 0] - moved[..., 1]

    def effects(self, bases: Sequence[Float[Tensor, "d _"] | None]) -> Float[Tensor, "subspace pair"]:
        """Change of B in logits when each subspace (None: the whole site) is swapped."""
        return self.shifts([Swap(self.source_acts, basis) for basis in bases])

    def gradients(self, values: Float[Tensor, "pair d"]) -> Float[Tensor, "pair d"]:
        """dB/d(site) with these values set at the site and position."""
        point = values.detach().clone().requires_grad_()
        edit = Edit(self.site, SetTo(point), at=self.at)
        logits = _last(self.subject.run(self.rows.texts, edits=[edit], logits="last", grad=True))
        if not logits.requires_grad:
            return torch.zeros_like(values)
        (found,) = torch.autograd.grad(self.preference(logits).sum(), point, allow_unused=True)
        return torch.zeros_like(values) if found is None else found.detach()

    def take(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs, with what was already run for them."""
        cut = Pairs(self.subject, self.rows.take(rows), self.site, self.position)
        for name in ("base", "source"):
            if name in self.__dict__:
                cut.__dict__[name] = self.__dict__[name].at(rows)
        return cut

    def on(self, subject: Subject) -> Pairs:
        """The same pairs on another subject."""
        return Pairs(subject, self.rows, self.site, self.position)

    def _clean(self, texts: Sequence[str], at: Any) -> Clean:
        run = self.subject.run(list(texts), read=[Read(self.site, at)], logits="last")
        return Clean(run.reads[0][1].flatten(1), _last(run))

    def _acts(self, texts: Sequence[str], at: Any) -> Float[Tensor, "pair d"]:
        return self.subject.run(list(texts), read=[Read(self.site, at)]).reads[0][1].flatten(1)

    def _ids(self, texts: Sequence[str], words: Sequence[str]) -> Int[Tensor, "pair"]:
        return torch.as_tensor(self.subject.answer_ids(list(texts), list(words)))


def _last(run: Run) -> Float[Tensor, "pair vocab"]:
    """Logits after the last token of a run that was asked for them."""
    assert run.logits is not None
    return run.logits


def _source_of(example: Any, named: str | None) -> Any:
    factors = dict(example.factors)
    if named is not None and f"source_{named}" in factors:
        factors[named] = factors[f"source_{named}"]
    return dataclasses.replace(example, text=example.source, factors=factors)


# --- which rows are what --------------------------------------------------------------------------------


def is_interchange(example: Any) -> bool:
    """Whether the swap is predicted to change the answer."""
    return example.expected != example.answer and example.factors.get("pair") != "isolation"


def check_tokens(pairs: Pairs) -> Pairs:
    """Refuse pairs whose two answers begin with the same token: no swap could tell them apart.

    Raises:
        UserError: With the first such pair.
    """
    same = (pairs.answer == pairs.expected).nonzero().flatten().tolist()
    if same:
        row = pairs.rows.examples[same[0]]
        raise UserError(
            f"{len(same)} of {len(pairs)} pairs have an answer and an expected answer that begin with the same token, "
            f"such as '{row.answer}' and '{row.expected}' after '{row.text[-60:]}'. Choose answers whose first tokens "
            f"differ."
        )
    return pairs


def thin(clusters: Sequence[str], n: int, seed: int) -> list[int]:
    """Up to n places, drawn at random but so that every cluster comes once before any comes twice."""
    order = np.random.default_rng([seed, 0xC2]).permutation(len(clusters))
    seen: dict[str, int] = {}
    turn = np.empty(len(clusters), dtype=int)
    for i in order:
        turn[i] = seen.get(clusters[i], 0)
        seen[clusters[i]] = int(turn[i]) + 1
    rank = np.empty(len(clusters), dtype=int)
    rank[order] = np.arange(len(clusters))
    chosen = sorted(range(len(clusters)), key=lambda i: (turn[i], rank[i]))[:n]
    return sorted(chosen)


def same_label_pairs(pairs: Pairs, n: int, seed: int) -> Pairs | None:
    """Isolation pairs made up where none were given: the source is another row's text with the same label.

    It is of another cluster if there is one. Setting the variable from it changes nothing about the variable, so the
    answer must stay. All clean runs are known already.
    """
    rows, rng = pairs.rows, np.random.default_rng([seed, 0x15])
    labels, texts, clusters = (np.asarray(x) for x in (rows.labels, rows.texts, rows.clusters))
    bases, sources = [], []
    for i in thin(rows.clusters, n, seed + 1):
        others = np.flatnonzero((labels == labels[i]) & (texts != texts[i]))
        apart = others[clusters[others] != clusters[i]]
        if len(others):
            bases.append(i)
            sources.append(int(rng.choice(apart if len(apart) else others)))
    if not bases:
        return None
    made = Pairs(pairs.subject, rows.take(bases), pairs.site, pairs.position)
    made.__dict__.update(base=pairs.base.at(bases), source=pairs.base.at(sources), sources=rows.take(sources))
    return made


# --- what is measured -----------------------------------------------------------------------------------


def at_column(logits: Float[Tensor, "pair vocab"], ids: Int[Tensor, "pair"]) -> Float[Tensor, "pair"]:
    """One logit of each row."""
    return logits.gather(1, ids[:, None])[:, 0]


def picks(logits: Float[Tensor, "*batch column"], candidates: Int[Tensor, "column"]) -> Int[Tensor, "*batch"]:
    """The candidate with the highest logit; `logits` holds the candidates' columns only."""
    return candidates[logits.argmax(-1)]


def hits(pairs: Pairs, logits: Float[Tensor, "pair vocab"], candidates: Int[Tensor, "column"]) -> Array:
    """1 where the highest candidate is the expected answer: the items of IIA."""
    return hits_among(pairs, logits[:, candidates], candidates)


def hits_among(pairs: Pairs, logits: Float[Tensor, "*run pair column"], candidates: Int[Tensor, "column"]) -> Array:
    """The same of logits that hold the candidates' columns only, of one run or of several."""
    return as_array((picks(logits, candidates) == pairs.expected).double())


# --- subspaces ------------------------------------------------------------------------------------------


def random_basis(d: int, rank: int, rng: torch.Generator) -> Float[Tensor, "d r"]:
    """Orthonormal columns that span a subspace drawn uniformly."""
    return torch.linalg.qr(torch.randn(d, min(rank, d), generator=rng, dtype=torch.float64)).Q.float()


def of_rank(basis: Float[Tensor, "d _"], rank: int, rng: torch.Generator) -> Float[Tensor, "d r"]:
    """The same size as the claim's: its leading columns, or filled up with random ones."""
    if basis.shape[1] >= rank:
        return basis[:, :rank]
    extra = torch.randn(basis.shape[0], rank - basis.shape[1], generator=rng, dtype=torch.float64)
    return torch.linalg.qr(torch.cat([basis.double(), extra], 1)).Q.to(basis)


def independent_labels(codes: Int[Tensor, "example"], draws: int, seed: int) -> Int[Tensor, "draw example"]:
    """Labels that carry nothing about the true ones: within each class they follow the frequencies of the whole.

    A plain shuffle agrees with the labels by luck more or less often, and the luckiest of twenty is then a thinned
    copy of the claim, not a control.
    """
    rng = np.random.default_rng([seed, 0xAB])
    true = codes.numpy()
    edges = np.cumsum(np.bincount(true) / len(true))[:-1]
    out = np.empty((draws, len(true)), dtype=np.int64)
    for draw in range(draws):
        for code in np.unique(true):
            members = np.flatnonzero(true == code)
            spread = (rng.permutation(len(members)) + rng.random()) / len(members)
            out[draw, members] = np.searchsorted(edges, spread, side="right")
    return torch.as_tensor(out)


def balanced_rows(column: Sequence[str], labels: Sequence[str], seed: int, fewest: int = 5) -> Bool[Tensor, "example"]:
    """Rows in which a column tells nothing about the label: within each label, as many of each of its values.

    Values that do not occur `fewest` times with every label are left out; with fewer than two values left, all rows.
    """
    rng = np.random.default_rng([seed, 0xBA])
    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(labels, column, strict=True)):
        cells.setdefault(cell, []).append(i)
    known = sorted(set(labels))
    kept = [v for v in sorted(set(column)) if all(len(cells.get((z, v), ())) >= fewest for z in known)]
    if len(kept) < 2:
        return torch.ones(len(labels), dtype=torch.bool)
    rows = torch.zeros(len(labels), dtype=torch.bool)
    for z in known:
        least = min(len(cells[z, v]) for v in kept)
        for v in kept:
            rows[torch.as_tensor(rng.choice(cells[z, v], size=least, replace=False))] = True
    return rows


def readable_span(gradients: Float[Tensor, "point d"], energy: float = 0.99) -> Float[Tensor, "d q"]:
    """Directions that what follows reads: leading singular vectors of the gradients with this share of their energy."""
    _, sizes, right = torch.linalg.svd(gradients.double(), full_matrices=False)
    total = sizes.square().sum()
    if total <= 0:
        return gradients.new_zeros(gradients.shape[1], 0)
    kept = int((sizes.square().cumsum(0) / total < energy).sum()) + 1
    return right[:kept].T.to(gradients)


def readable_part(basis: Float[Tensor, "d r"], span: Float[Tensor, "d q"]) -> Float[Tensor, "d p"]:
    """The subspace's projection on what is read, as orthonormal columns."""
    left, sizes, _ = torch.linalg.svd(span @ (span.T @ basis.to(span)), full_matrices=False)
    return left[:, sizes > 1e-3]

"""The gates of C2 MEDIATES, in the order of its battery.

A pair is a base text and a source text. Swapping a subspace at one site and position must move the base's answer to
the one that the high-level model predicts. Whatever chooses a subspace (the claim's method again, shuffled labels,
twins, other variables) sees dev rows only and gets the same data; the gate pool is scored, never fitted on. Dear
controls run on fewer pairs than the claim, and then the claim is compared on those same pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.claims.battery import GateSpec
from veriscope.claims.mediates import Mediates
from veriscope.errors import UserError
from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.methods import method
from veriscope.methods.linear import cluster_folds
from veriscope.methods.mean_difference import shrunk_covariance
from veriscope.subjects import Edit, Read, SetTo, Subject, Swap
from veriscope.trials.evidence import Control, Estimate, GateResult
from veriscope.trials.interchange import (
    Pairs,
    at_column,
    balanced_rows,
    check_tokens,
    hits,
    hits_among,
    independent_labels,
    is_interchange,
    of_rank,
    picks,
    random_basis,
    readable_part,
    readable_span,
    same_label_pairs,
    thin,
)
from veriscope.trials.judge import Effort, against, falsifier, judge, not_run
from veriscope.trials.reading import as_array
from veriscope.trials.statistics import Array, Resampler, spread_of

MOST_PAIRS = 800  # of one pool, for the claim itself and its strongest twin
MOST_DEV_PAIRS = 150
FEW_PAIRS = 150  # for controls that are run many times over
PUSH_PAIRS = 100  # for random pushes, in each direction
SLOPES = 24  # dev pairs whose gradients say what is read downstream
SCREENED = 24  # dev pairs that the strongest twin is chosen on
TWIN_ROWS = 250  # dev rows that the method is fitted on for each twin
MOST_ISOLATION = 200
FEWEST_ISOLATION = 50  # with fewer given, pairs are made up
CONTROL_TOKENS = 20
MOST_VALUES = 20  # of a factor that the engine may draw as a rival
DRAWN_RIVALS = 3


@dataclass(frozen=True)
class Search:
    """How widely controls are searched.

    Attributes:
        shortlist: Subspaces of a family that gradients put first and that are then run on dev pairs.
        pairs: Those dev pairs.
        finalists: Subspaces of a family that are strongest there and that are then scored on the gate pool.
        pushes: Random pushes in each direction, each with its opposite.
    """

    shortlist: int
    pairs: int
    finalists: int
    pushes: int


REPLAYED = Search(shortlist=60, pairs=60, finalists=5, pushes=20)
PLAIN = Search(shortlist=6, pairs=24, finalists=1, pushes=2)  # where every edit takes a run of its own


@dataclass(eq=False)
class Bench:
    """A C2 trial's data. `gate` stays None until the instrument is checked and the power is known."""

    MIN_CLUSTERS: ClassVar[int] = 20
    MIN_ITEMS: ClassVar[int] = 100

    claim: Mediates
    subject: Subject
    dev: Sample
    seed: int = 0
    effort: Effort = Effort()
    gate: Sample | None = None
    shift: Sample | None = None
    tries: int = 1

    # --- pairs and candidates

    @property
    def opened(self) -> Sample:
        assert self.gate is not None, "the gate pool has not been opened yet"
        return self.gate

    def pairs(self, pool: Sample, most: int) -> Pairs:
        """Up to `most` interchange pairs of a pool, spread over its clusters."""
        rows = pool.where(is_interchange)
        if not len(rows):
            raise UserError(
                f"Claim '{self.claim.name or self.claim.of}': no row of the {pool.pool} pool has an `expected` that "
                f"differs from its `answer`, so no swap could show anything. Pair rows that differ in "
                f"'{self.claim.of}'."
            )
        rows = rows.take(thin(rows.clusters, most, self.seed))
        return check_tokens(Pairs(self.subject, rows, self.site, self.claim.finding.position))

    @property
    def site(self) -> str:
        return self.claim.finding.site

    @cached_property
    def dev_pairs(self) -> Pairs:
        return self.pairs(self.dev, MOST_DEV_PAIRS)

    @cached_property
    def dev_expected(self) -> Int[Tensor, "pair"]:
        """First tokens of the expected answers of all interchange pairs in dev."""
        rows = self.dev.where(is_interchange)
        return torch.as_tensor(self.subject.answer_ids(rows.texts, rows.expected))

    @cached_property
    def gate_pairs(self) -> Pairs:
        return self.pairs(self.opened, MOST_PAIRS)

    @cached_property
    def few_rows(self) -> list[int]:
        return thin(self.gate_pairs.rows.clusters, FEW_PAIRS, self.seed + 1)

    @cached_property
    def few(self) -> Pairs:
        _ = self.gate_pairs.base, self.gate_pairs.source  # run once for all, then cut
        return self.gate_pairs.take(self.few_rows)

    @cached_property
    def dev_candidates(self) -> Int[Tensor, "candidate"]:
        """Distinct first tokens of the answers in dev: what the pick is made among before the gate is opened."""
        return _candidates(self.subject, self.dev)

    @cached_property
    def candidates(self) -> Int[Tensor, "candidate"]:
        pools = [self.dev, self.opened, *([self.shift] if self.shift is not None else [])]
        return torch.cat([_candidates(self.subject, pool) for pool in pools]).unique()

    # --- resampling

    @cached_property
    def draws(self) -> Resampler:
        return Resampler(tuple(self.gate_pairs.rows.clusters), self.seed)

    @cached_property
    def few_draws(self) -> Resampler:
        return Resampler(tuple(self.few.rows.clusters), self.seed)

    def dev_draws(self, rows: Sample) -> Resampler:
        return Resampler(tuple(rows.clusters), self.seed, draws=1_000)

    # --- what the claim does

    @cached_property
    def basis(self) -> Float[Tensor, "d r"]:
        return self.claim.finding.basis

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @cached_property
    def patched(self) -> Float[Tensor, "pair vocab"]:
        """Logits of the gate pairs with the claim's subspace swapped."""
        return self.gate_pairs.set_to(self.gate_pairs.swapped(self.basis))

    @cached_property
    def hit(self) -> Array:
        return hits(self.gate_pairs, self.patched, self.candidates)

    @property
    def few_hit(self) -> Array:
        return self.hit[self.few_rows]

    @cached_property
    def moved(self) -> Array:
        """Change of B of each gate pair, in logits."""
        return as_array(self.gate_pairs.preference(self.patched) - self.gate_pairs.wanted)

    @cached_property
    def search(self) -> Search:
        """How widely controls are searched on this subject."""
        edit = Edit(self.site, SetTo(0.0), at=self.dev_pairs.at)
        return PLAIN if self.subject.plan_sweep(self.dev_pairs.rows.texts, [edit]).why_plain else REPLAYED

    def screen(self, n: int) -> Pairs:
        """Dev pairs on which the strongest control is chosen."""
        _ = self.dev_pairs.base, self.dev_pairs.source
        return self.dev_pairs.take(thin(self.dev_pairs.rows.clusters, n, self.seed + 2))

    @cached_property
    def sloped(self) -> Pairs:
        """Dev pairs whose gradients are taken."""
        _ = self.dev_pairs.base, self.dev_pairs.source
        return self.dev_pairs.take(thin(self.dev_pairs.rows.clusters, SLOPES, self.seed + 4))

    @cached_property
    def slopes(self) -> tuple[Float[Tensor, "pair d"], ...]:
        """Gradients of B at their base values, their source values and half-way between."""
        here, there = self.sloped.base_acts, self.sloped.source_acts
        return tuple(self.sloped.gradients(values) for values in (here, there, (here + there) / 2))

    @cached_property
    def span(self) -> Float[Tensor, "d q"]:
        """What is read downstream of the site, by gradients on dev."""
        return downstream_span(self)

    # --- the claim's method again

    @cached_property
    def method(self) -> Any:
        """The method that made the finding, rebuilt from its record, at the one site that was chosen."""
        origin = self.claim.finding.origin
        return method(origin.method, **{**origin.settings, "site": origin.site, "position": origin.position})

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.dev.labels)))

    @cached_property
    def dev_acts(self) -> Float[Tensor, "example d"]:
        return self.acts(self.subject)

    def acts(self, subject: Subject, rows: Sequence[int] | None = None) -> Float[Tensor, "example d"]:
        """Activations of dev rows (all by default) on the claim's subject or a twin."""
        sample = self.dev if rows is None else self.dev.take(rows)
        places = subject.where(self.claim.finding.position, sample)
        return subject.run(sample.texts, read=[Read(self.site, places)]).reads[0][1].flatten(1)

    def fits(
        self, labels: Sequence[Sequence[str]], train: Bool[Tensor, "fit example"] | None = None
    ) -> list[Float[Tensor, "d r"]]:
        """The claim's method fitted to several labellings of dev, as subspaces of the claim's size.

        Args:
            labels: For each fit, a label for every dev row.
            train: Rows that each fit may use; all by default.
        """
        every = torch.ones(len(labels), len(self.dev), dtype=torch.bool) if train is None else train
        if not hasattr(self.method, "weights"):
            return [self._fit_whole(n, r, self.subject) for n, r in zip(labels, every, strict=True)]
        return [self._fit(self.dev_acts, n, r) for n, r in zip(labels, every, strict=True)]

    def fit_on_twin(self, twin: Subject) -> Float[Tensor, "d r"]:
        """The claim's method fitted to the true labels on a twin, on part of dev where dev is large."""
        rows = thin(self.dev.clusters, TWIN_ROWS, self.seed + 6)
        chosen = torch.zeros(len(self.dev), dtype=torch.bool)
        chosen[rows] = True
        if not hasattr(self.method, "weights"):
            return self._fit_whole(self.dev.labels, chosen, twin)
        names = self.dev.take(rows).labels
        return self._fit(self.acts(twin, rows), names, torch.ones(len(rows), dtype=torch.bool))

    def _fit(
        self, acts: Float[Tensor, "row d"], names: Sequence[str], rows: Bool[Tensor, "row"]
    ) -> Float[Tensor, "d r"]:
        classes = tuple(sorted({name for name, kept in zip(names, rows.tolist(), strict=True) if kept}))
        codes = torch.tensor([classes.index(name) if name in classes else 0 for name in names])
        seed = self.claim.finding.origin.seed
        found = self.method.weights(acts, codes[None], rows[None], n_classes=len(classes), seed=seed)
        basis = _span(self.claim.finding, found.weight[0], found.bias[0], classes)
        return of_rank(basis, self.rank, torch.Generator().manual_seed(self.seed + 3))

    def _fit_whole(self, names: Sequence[str], rows: Bool[Tensor, "example"], subject: Subject) -> Float[Tensor, "d r"]:
        """A method without `weights` (one that trains through the model, say), run whole; its tries are not counted.

        Where the labels are not the true ones the sources are shuffled too, since such a method may learn from them.
        """
        sample = self.dev
        if list(names) != list(self.dev.labels):
            order = np.random.default_rng([self.seed, 0x50]).permutation(len(sample))
            sources = [sample.examples[j].source for j in order]
            mixed = tuple(dataclasses.replace(e, source=s) for e, s in zip(sample.examples, sources, strict=True))
            sample = dataclasses.replace(sample, examples=mixed).relabel(names)
        with use(Ledger.in_memory()):
            found = self.method.fit(subject, sample.take(rows.nonzero().flatten().tolist()))
        return of_rank(found.basis, self.rank, torch.Generator().manual_seed(self.seed + 3))

    # --- cost and power

    @staticmethod
    def passes(claim: Mediates, effort: Effort) -> int:
        """About how many forward passes of single examples the battery takes; a replayed edit counts a twentieth."""
        dev, gate = min(len(claim.on.dev), MOST_DEV_PAIRS), min(claim.on.gate.n, MOST_PAIRS)
        twins = (effort.twins + 1) * (TWIN_ROWS + 3 * SCREENED) + 2 * gate
        bases = REPLAYED.pairs + 3 * FEW_PAIRS + 2 * MOST_ISOLATION + 2 * PUSH_PAIRS + 5 * 3 * SLOPES
        edits = 2 * (REPLAYED.shortlist * REPLAYED.pairs + REPLAYED.pushes * PUSH_PAIRS)
        return len(claim.on.dev) + 3 * dev + 3 * gate + twins + bases + edits // 20

    def dev_estimate(self) -> Estimate:
        """Per-pair hit on dev less the strongest cheap control, the subspace fitted on the other clusters.

        As many pairs lie in a cluster as in the gate pool's, so that the error is that of its clusters; `clusters` is
        stated so that it scales to the pairs that will be tried, which in a large pool are fewer than it holds.
        """
        pairs, crowd = self.pairs_as_in_gate()
        hit = np.zeros(len(pairs))
        if hasattr(self.method, "weights"):
            folds = cluster_folds(self.dev.clusters, self.effort.folds, self.seed)
            place = dict(zip(self.dev.clusters, folds.tolist(), strict=True))
            mine = np.array([place[cluster] for cluster in pairs.rows.clusters])
            used = sorted(set(mine.tolist()))
            train = torch.stack([folds != f for f in used])
            bases = self.fits([self.dev.labels] * len(used), train=train)
            values = pairs.base_acts.clone()
            for f, basis in zip(used, bases, strict=True):
                values[mine == f] = pairs.swapped(basis)[mine == f]
            hit = hits(pairs, pairs.set_to(values), self.dev_candidates)
        else:  # too dear to fit once a fold: the frozen finding's hits tell the spread
            hit = hits(pairs, pairs.set_to(pairs.swapped(self.basis)), self.dev_candidates)
        cheap = chance(self, pairs, self.dev_candidates)
        best = max(cheap.values(), key=lambda items: float(items.mean()))
        found = self.dev_draws(pairs.rows).mean(hit - best)
        clusters = found.clusters * self.claim.on.gate.n_clusters * crowd / self.gate_size
        return dataclasses.replace(found, clusters=max(1, round(clusters)))

    @property
    def gate_size(self) -> int:
        """About how many interchange pairs of the gate pool will be tried, before it is opened: by dev's share."""
        share = len(self.dev.where(is_interchange)) / len(self.dev)
        return max(1, min(round(self.claim.on.gate.n * share), MOST_PAIRS))

    def pairs_as_in_gate(self) -> tuple[Pairs, int]:
        """Dev pairs for the reckoning of power, and how many lie in a cluster: as many as in the gate pool's."""
        rows = self.dev.where(is_interchange)
        places: dict[str, list[int]] = {}
        for i in thin(rows.clusters, len(rows), self.seed):
            places.setdefault(rows.clusters[i], []).append(i)
        sizes = sorted((len(mine) for mine in places.values()), reverse=True)
        enough = sizes[min(len(sizes), self.MIN_CLUSTERS) - 1]  # so many lie in each of as many clusters as are needed
        crowd = max(1, min(round(self.gate_size / self.claim.on.gate.n_clusters), enough))
        if crowd == 1:
            return self.dev_pairs, 1
        full = [mine[:crowd] for mine in places.values() if len(mine) >= crowd][: MOST_PAIRS // crowd]
        kept = sorted(i for mine in full for i in mine)
        return Pairs(self.subject, rows.take(kept), self.site, self.claim.finding.position), crowd


def _candidates(subject: Subject, sample: Sample) -> Int[Tensor, "candidate"]:
    texts = sample.texts
    ids = [torch.as_tensor(subject.answer_ids(texts, words)) for words in (sample.answers, sample.expected)]
    return torch.cat(ids).unique()


def _span(finding: Reading, weight: Tensor, bias: Tensor, classes: tuple[str, ...]) -> Float[Tensor, "d r"]:
    """The basis that a reading with these weights has."""
    gaps = (0.0,) * weight.shape[1]
    return dataclasses.replace(finding, weight=weight.detach(), bias=bias.detach(), classes=classes, gaps=gaps).basis


def chance(bench: Bench, pairs: Pairs, candidates: Int[Tensor, "candidate"]) -> dict[str, Array]:
    """What gives the expected answer without the swap: the unpatched model, the best constant, a blind guess.

    The constant is the most frequent expected answer of other pairs than those that its share is taken on: of dev for
    another pool, of the other clusters within dev. Chosen on the same pairs, the best of many answers would look
    better than it is. It counts as one number: it is known before the claim is tried, so how it falls on single pairs
    is no noise of the claim's.
    """
    return {
        "unpatched model": hits(pairs, pairs.base.logits, candidates),
        "most frequent answer": np.full(len(pairs), share_of_constant(bench, pairs)),
        "guessing among the candidates": np.full(len(pairs), 1 / len(candidates)),
    }


def share_of_constant(bench: Bench, pairs: Pairs, folds: int = 5) -> float:
    """How often the most frequent expected answer of other pairs is the expected one here."""
    if pairs.rows.pool != bench.dev.pool:
        return float((pairs.expected == bench.dev_expected.mode().values).double().mean())
    fold = cluster_folds(pairs.rows.clusters, folds, bench.seed)
    right = torch.zeros(len(pairs), dtype=torch.bool)
    for f in fold.unique():
        right[fold == f] = pairs.expected[fold == f] == pairs.expected[fold != f].mode().values
    return float(right.double().mean())


def _worst(found: Mapping[str, Estimate], margin: float) -> str:
    """Of several estimates that must all exceed the margin, the one that decides: a failed one, else the least sure."""
    failed = [name for name, e in found.items() if e.high < margin]
    return min(failed or found, key=lambda name: found[name].low)


# --- instrument -----------------------------------------------------------------------------------------


def behaviour(bench: Bench, spec: GateSpec) -> GateResult:
    """i0: the model answers both texts of a pair rightly, and a swap that must work does.

    The swap that must work replaces everything that the logits are computed from, at the last position: it has to
    give the logits of the source run.
    """
    pairs, ids, draws = bench.dev_pairs, bench.dev_candidates, bench.dev_draws(bench.dev_pairs.rows)
    right = {
        "base texts": as_array((picks(pairs.base.logits[:, ids], ids) == pairs.answer).double()),
        "source texts": as_array((picks(pairs.source.logits[:, ids], ids) == pairs.own).double()),
    }
    shares = {name: draws.mean(items) for name, items in right.items()}
    worst = min(shares, key=lambda name: shares[name].low)
    works, how = swap_works(bench)
    listed = tuple(Control(f"right on {name}", share) for name, share in shares.items())
    if not works:
        nothing = Estimate(0.0, 0.0, 0.0, len(pairs), shares[worst].clusters)
        return judge(spec, nothing, controls=listed, note=f"the edit did not take: {how}")
    lacks = "" if shares[worst].low > (spec.margin or 0) else "the model lacks the behaviour; "
    return judge(spec, shares[worst], controls=listed, note=f"{lacks}least: right on {worst}; {how}")


def swap_works(bench: Bench, n: int = 16, looked_at: int = 6) -> tuple[bool, str]:
    """Whether swapping a whole late site at the last position reproduces the source run on dev pairs.

    Where no single site carries everything (a module with a bypass), the values set must at least be read back.
    """
    pairs = bench.dev_pairs.take(range(min(n, len(bench.dev_pairs))))
    base, source = pairs.rows.texts, pairs.sources.texts
    late = [site for site in bench.subject.sites.values() if site.name != "logits" and site.width is not None]
    for site in late[: -looked_at - 1 : -1]:
        values = bench.subject.acts(source, site.name, "last")
        got = bench.subject.run(base, edits=[Edit(site.name, Swap(values), at="last")], logits="last").logits
        wanted = pairs.source.logits
        if torch.allclose(got, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()) + 1e-6):  # type: ignore[arg-type]
            return True, f"swapping all of {site.name} at the last position gives the source's logits"
    read = Read(bench.site, pairs.at)
    kept = bench.subject.run(base, read=[read], edits=[Edit(bench.site, SetTo(pairs.source_acts), at=pairs.at)])
    back = kept.reads[0][1].flatten(1)
    agrees = torch.allclose(back, pairs.source_acts, rtol=1e-3, atol=1e-4)
    seen = "were" if agrees else "were not"
    return agrees, f"no single late site carries the answer; at {bench.site} the values set {seen} read back"


# --- the claim against chance, search and twins -----------------------------------------------------------


def held_out(bench: Bench, spec: GateSpec) -> GateResult:
    """g1: IIA on clusters never seen, beyond the best of constant answer, unpatched model and guessing."""
    pairs = bench.gate_pairs
    reach = as_array(pairs.reach)
    size = bench.draws.ratio(bench.moved, reach)
    scale = max(abs(float(reach.mean())), 1e-9)
    left = len(bench.opened.where(is_interchange)) - len(pairs)
    note = f"raw is IIA among {len(bench.candidates)} candidates; E {size.value:.2f} [{size.low:.2f}, {size.high:.2f}]"
    if left:
        note += f"; {len(pairs)} pairs drawn from {left + len(pairs)}"
    if not bool(pairs.plain.all()):
        note += f"; {int((~pairs.plain).sum())} sources have another answer of their own"
    return against(
        spec, bench.hit, chance(bench, pairs, bench.candidates), bench.draws,
        spread=spread_of(bench.moved / scale, pairs.rows.clusters), note=note + "; the spread is of E by pair",
    )  # fmt: skip


def search_matched(bench: Bench, spec: GateSpec) -> GateResult:
    """g2: the claim's search where there is nothing to find, and random subspaces of the same size.

    Labels are redrawn so that they carry nothing about the true ones. Of each family those that do best on dev pairs
    are scored on the gate pool (rule R3), and the strongest there counts.
    """
    codes = torch.tensor([bench.classes.index(label) for label in bench.dev.labels])
    redrawn = independent_labels(codes, bench.effort.draws, bench.seed)
    names = [[bench.classes[c] for c in draw.tolist()] for draw in redrawn]
    names = [draw for draw in names if len(set(draw)) > 1]
    rng = torch.Generator().manual_seed(bench.seed + 5)
    n_random = int(min(max(bench.tries, bench.effort.random), bench.effort.search))
    families = {
        f"redrawn-label fit, best of {len(names)}": bench.fits(names),
        f"random {bench.rank}-dim subspace, best of {n_random}": [
            random_basis(bench.basis.shape[0], bench.rank, rng) for _ in range(n_random)
        ],
    }
    chosen = {family: strongest_on_dev(bench, bases) for family, bases in families.items() if bases}
    every = [basis for bases in chosen.values() for basis in bases]
    hit = iter(hits_among(bench.few, bench.few.many(every, bench.candidates), bench.candidates))
    found = {family: max((next(hit) for _ in bases), key=lambda h: h.mean()) for family, bases in chosen.items()}
    note = f"on {len(bench.few)} pairs, the strongest by dev; the ledger counted {bench.tries} tries"
    return against(spec, bench.few_hit, found, bench.few_draws, note=note)


def strongest_on_dev(bench: Bench, bases: Sequence[Float[Tensor, "d _"]]) -> list[Float[Tensor, "d _"]]:
    """The subspaces with the highest IIA on dev pairs; ties go to the larger change of B.

    Only those are run that come first by the gradients of B (attribution patching, Nanda 2023): the mean slope between
    base and source value times the step.
    """
    steps, slopes = bench.sloped.source_acts - bench.sloped.base_acts, torch.stack(bench.slopes).mean(0)
    guess = torch.tensor([float(((slopes @ b.to(slopes)) * (steps @ b.to(steps))).sum()) for b in bases])
    likely = [bases[i] for i in guess.argsort(descending=True)[: bench.search.shortlist].tolist()]
    pairs, ids = bench.screen(bench.search.pairs), bench.dev_candidates
    logits = pairs.many(likely, ids)
    accuracy = (picks(logits, ids) == pairs.expected).double().mean(1)
    up, down = torch.searchsorted(ids, pairs.expected), torch.searchsorted(ids, pairs.answer)
    every = torch.arange(len(pairs))
    moved = (logits[:, every, up] - logits[:, every, down]).double().mean(1)
    order = np.lexsort((-moved.numpy(), -accuracy.numpy()))
    return [likely[i] for i in order[: bench.search.finalists].tolist()]


def twins(bench: Bench, spec: GateSpec) -> GateResult:
    """g3: the same method fitted on twins with random weights and on one with permuted weights, scored there.

    (The Non-Linear Representation Dilemma, Sutter 2025: an alignment that is free enough fits any network.) The twin
    that does best on dev pairs is scored on the gate pool.
    """
    kinds = [("random", i) for i in range(bench.effort.twins)] + [("permuted", 0)]
    best, others, screen = ("", -1.0, bench.subject, bench.basis), [], bench.screen(SCREENED)
    for kind, number in kinds:
        name = f"{kind}-weight twin {number + 1}" if kind == "random" else "permuted-weight twin"
        twin = bench.subject.twin(kind, bench.seed * 1000 + number)
        basis = bench.fit_on_twin(twin)
        pairs, ids = screen.on(twin), bench.dev_candidates
        share = float(hits_among(pairs, pairs.many([basis], ids)[0], ids).mean())
        others.append(f"{name} {share:.2f}")
        best = max(best, (name, share, twin, basis), key=lambda found: found[1])
    name, _, twin, basis = best
    pairs = bench.gate_pairs.on(twin)  # all: its hits fall on other pairs than the claim's, so nothing cancels
    found = {name: hits_among(pairs, pairs.many([basis], bench.candidates)[0], bench.candidates)}
    note = f"on {len(pairs)} pairs, the method fitted afresh on each twin; IIA on {len(screen)} dev pairs: "
    return against(spec, bench.hit, found, bench.draws, note=note + ", ".join(others))


# --- causal gates ---------------------------------------------------------------------------------------


def dormancy(bench: Bench, spec: GateSpec) -> GateResult:
    """g4: the four signs of a dormant pathway (Is This the Subspace You Are Looking For?, Makelov 2023).

    Suspicious is a subspace that does better than the whole site, whose part that is read downstream does little by
    itself, whose read part carries no natural variance of the variable, or whose effect is gone once patched values
    are drawn back to where natural ones lie. A part that nothing reads is no fault (A Reply to Makelov et al., Wu
    2024), nor is an unnatural value that the effect does not need. What is read is the span of the gradients of B at
    base, patched and source values of dev pairs. The estimate is the smallest slack, each in units of its own margin.
    """
    few, aim = bench.few, bench.few.plain.numpy()
    part = readable_part(bench.basis, bench.span)
    swaps = [Swap(few.source_acts, basis) for basis in (None, part)]
    whole, read, natural = as_array(few.shifts([*swaps, SetTo(in_natural_range(bench, few))]))
    sub, reach = bench.moved[bench.few_rows], as_array(few.reach)
    slack = {
        "readable part has half of the effect": bench.few_draws.ratio(2 * read - sub, reach),
        "half of the effect is left within the natural range": bench.few_draws.ratio(2 * natural - sub, reach),
    }
    numbers = {
        "E of the subspace": bench.few_draws.ratio(sub, reach),
        "E of the readable part": bench.few_draws.ratio(read, reach),
        "E within the natural range": bench.few_draws.ratio(natural, reach),
    }
    if aim.any():  # where the source has another answer, the whole site is not meant to give the expected one
        draws = Resampler(tuple(c for c, a in zip(few.rows.clusters, aim, strict=True) if a), bench.seed)
        spare = 0.2 * reach - sub + whole
        slack["subspace no better than the whole site"] = draws.ratio(spare[aim], 0.2 * reach[aim])
        numbers["E of the whole site"] = draws.ratio(whole[aim], reach[aim])
    left, total = unexplained(bench, part, bench.gate_pairs)
    if part.shape[1] and total.sum() > 0:
        slack["readable part carries the variable"] = bench.draws.ratio(0.9 * total - left, 0.1 * total)
        numbers["R2 of the variable, readable part"] = bench.draws.ratio(total - left, total)
    else:
        nothing = Estimate(-1.0, -1.0, -1.0, len(bench.gate_pairs), bench.draws.n_clusters)
        slack["readable part carries the variable"] = nothing
    numbers["share beyond the 99th percentile of natural distances"] = off_distribution(bench)
    assert spec.margin is not None
    worst = _worst(slack, spec.margin)
    listed = tuple(Control(name, estimate) for name, estimate in (numbers | slack).items())
    return judge(
        spec, slack[worst], controls=listed,
        note=f"least: {worst}; {part.shape[1]} of {bench.rank} dimensions are read; E on {len(few)} pairs; slack in "
             f"units of E_sub - E_site < 0.2, E_read >= 0.5 E_sub, E_natural >= 0.5 E_sub, R2 >= 0.1",
    )  # fmt: skip


def in_natural_range(bench: Bench, pairs: Pairs) -> Float[Tensor, "pair d"]:
    """The patched values, drawn back to where dev's own values lie along each of their principal axes.

    The range of an axis is that of the middle 99% of dev's activations, widened to hold the base text's own value, so
    that nothing is moved but what the swap moved. What leaves the span of dev's activations is left out.
    """
    known = torch.cat([bench.dev_acts, bench.dev_pairs.source_acts]).double()
    axes = torch.linalg.svd(known - known.mean(0), full_matrices=False)[2].T
    ends = torch.tensor([0.005, 0.995], dtype=known.dtype)
    low, high = torch.quantile(known @ axes, ends, dim=0)
    clean, patched = pairs.base_acts.double(), pairs.swapped(bench.basis).double()
    here, there = clean @ axes, patched @ axes
    held = there.clamp(torch.minimum(low, here), torch.maximum(high, here))
    return (clean + (held - here) @ axes.T).to(pairs.base_acts)


def off_distribution(bench: Bench) -> Estimate:
    """Share of patched activations beyond the 99th percentile of natural ones, in what is read downstream.

    Distance is Mahalanobis with a shrunk covariance. Each half of the dev clusters gives the covariance for the
    distances of the other half, so that natural and patched activations are both new to it.
    """
    half = cluster_folds(bench.dev.clusters + bench.dev_pairs.rows.clusters, 2, bench.seed)
    natural = torch.cat([bench.dev_acts, bench.dev_pairs.source_acts]).double()
    patched, span = bench.gate_pairs.swapped(bench.basis).double(), bench.span.double()
    if not span.shape[1]:
        return Estimate(0.0, 0.0, 0.0, len(bench.gate_pairs), bench.draws.n_clusters)
    return bench.draws.mean(beyond_99th(natural @ span, half, patched @ span))


def beyond_99th(
    natural: Float[Tensor, "example d"], half: Int[Tensor, "example"], looked_at: Float[Tensor, "item d"]
) -> Array:
    """For each activation the share of the two halves by whose measure it lies beyond 99% of the other half."""
    out = []
    for f in (0, 1):
        known, new = natural[half == f], natural[half != f]
        inverse = torch.linalg.inv(shrunk_covariance(known))
        limit = torch.quantile(_mahalanobis(new - known.mean(0), inverse), 0.99)
        out.append(as_array((_mahalanobis(looked_at - known.mean(0), inverse) > limit).double()))
    return np.mean(out, 0)


def _mahalanobis(gap: Float[Tensor, "example d"], inverse: Float[Tensor, "d d"]) -> Float[Tensor, "example"]:
    return ((gap @ inverse) * gap).sum(1)


def downstream_span(bench: Bench) -> Float[Tensor, "d q"]:
    """What is read downstream: the span of gradients at natural and patched values, and half-way to both.

    A reader that is silent at natural values shows its gradient only where it was woken, and one that saturates shows
    it only on the way.
    """
    pairs = bench.sloped
    patched = pairs.swapped(bench.basis)
    woken = [pairs.gradients(values) for values in (patched, (pairs.base_acts + patched) / 2)]
    return readable_span(torch.cat([*bench.slopes, *woken]))


def unexplained(bench: Bench, part: Float[Tensor, "d p"], pairs: Pairs) -> tuple[Array, Array]:
    """Squares of natural gate activations in a subspace: left over when dev class means predict them, and in all."""
    along = bench.dev_acts @ part.to(bench.dev_acts)
    here = pairs.base_acts @ part.to(pairs.base_acts)
    codes = torch.tensor([bench.classes.index(label) for label in bench.dev.labels])
    means = torch.stack([along[codes == c].mean(0) for c in range(len(bench.classes))])
    strange = sorted(set(pairs.rows.labels) - set(bench.classes))
    if strange:
        raise UserError(f"Labels {strange[:3]} occur in the gate pool but not in dev. Merge or drop them.")
    mine = means[[bench.classes.index(label) for label in pairs.rows.labels]]
    return as_array((here - mine).square().sum(1)), as_array((here - along.mean(0)).square().sum(1))


def isolation(bench: Bench, spec: GateSpec) -> GateResult:
    """g5: swapped from a source that agrees in the variable and differs elsewhere, the answer stays what it was.

    (RAVEL, Huang 2024.) Pairs of this kind are taken from the examples, or made up from rows with the same label.
    """
    given = bench.opened.where(lambda e: not is_interchange(e) and e.text != e.source)
    made = len(given) < FEWEST_ISOLATION
    if made:
        pairs = same_label_pairs(bench.gate_pairs, MOST_ISOLATION, bench.seed)
        if pairs is None:
            return not_run(spec, "no two rows agree in the variable and differ in their text")
    else:
        rows = given.take(thin(given.clusters, MOST_ISOLATION, bench.seed))
        pairs = Pairs(bench.subject, rows, bench.site, bench.claim.finding.position)
    swept = pairs.swept([Swap(pairs.source.acts, bench.basis)], bench.candidates)
    before, after = picks(swept.base, bench.candidates), picks(swept.logits[0], bench.candidates)
    same = as_array((before == after).double())
    draws = Resampler(tuple(pairs.rows.clusters), bench.seed)
    columns = np.stack([same, np.ones_like(same)], 1)
    source = picks(pairs.source.logits[:, bench.candidates], bench.candidates)
    apart = as_array((source == before).double())
    assert spec.margin is not None
    note = "pairs made up from rows with the same label, of other clusters where possible" if made else "pairs as given"
    return judge(
        spec, draws.mean(same), p_value=draws.p_value(columns, spec.margin),
        controls=(Control("both texts answered alike", draws.mean(apart), "the rest could have been disturbed"),),
        note=note,
    )  # fmt: skip


def control_tokens(bench: Bench, spec: GateSpec) -> GateResult:
    """g6: rise of the expected token beyond tokens that were about as likely in the base run.

    A direction that flattens the whole distribution (a temperature) or lifts a class of words raises those as well.
    In units of the clean range, the mean change of B from base to source run on dev, so the margin is a tenth of what
    a whole change of the answer is worth.
    """
    pairs = bench.gate_pairs
    base, patched = pairs.base.logits, bench.patched
    k = min(CONTROL_TOKENS, base.shape[1] - 2)
    if k < 3:
        return not_run(spec, f"the subject has {base.shape[1]} tokens only, none to compare with", applies=False)
    far = (base - at_column(base, pairs.expected)[:, None]).abs()
    far = far.scatter(1, torch.stack([pairs.answer, pairs.expected], 1), float("inf"))
    alike = far.topk(k, dim=1, largest=False).indices
    change = patched - base
    target, others = as_array(at_column(change, pairs.expected)), as_array(change.gather(1, alike).mean(1))
    scale = float(bench.dev_pairs.reach.mean())
    if scale <= 1e-9:
        return not_run(spec, "the clean range is not positive on dev: the model answers the two texts alike")
    items = (target - others) / scale
    columns = np.stack([items, np.ones_like(items)], 1)
    assert spec.margin is not None
    return judge(
        spec, bench.draws.mean(items), p_value=bench.draws.p_value(columns, spec.margin),
        raw=bench.draws.mean(target / scale),
        controls=(Control(f"{k} tokens of like log-probability", bench.draws.mean(others / scale)),),
        strongest=f"{k} tokens of like log-probability", note=f"clean range on dev: {scale:.2f} logits",
    )  # fmt: skip


def both_directions(bench: Bench, spec: GateSpec) -> GateResult:
    """g7: into the base and into the source, each beyond what a disturbance of the same size does; the smaller counts.

    The two are not symmetric (How to Use and Interpret Activation Patching, Heimersheim 2024): behind an OR, setting
    the variable works and taking it away does not. A disturbance is a push in a random subspace, as large as what the
    swap moves of what is read downstream, for a part that nothing reads disturbs nothing. Every push is paired with its
    opposite and the mean of all counts: what is left is what any push does, while a lucky direction is g2's to find.
    """
    plain = bench.few.plain.nonzero().flatten().tolist()[:PUSH_PAIRS]
    if not plain:
        return not_run(spec, "every source text has another answer of its own, so the way back has no predicted answer")
    pairs = bench.few.take(plain)
    draws = Resampler(tuple(pairs.rows.clusters), bench.seed)
    rng = torch.Generator().manual_seed(bench.seed + 11)
    reach = as_array(pairs.reach)
    excess: dict[str, Estimate] = {}
    listed: list[Control] = []
    for name, reverse in (("into the base", False), ("into the source", True)):
        start, aim = (pairs.source_acts, pairs.base_acts) if reverse else (pairs.base_acts, pairs.source_acts)
        values = pairs.swapped(bench.basis, reverse)
        size = ((values - start) @ bench.span.to(start)).norm(dim=1, keepdim=True)
        hows = [SetTo(values)]
        for _ in range(bench.search.pushes // 2):
            random = random_basis(start.shape[1], bench.rank, rng).to(start)
            step = ((aim - start) @ random) @ random.T
            push = step * size / step.norm(dim=1, keepdim=True).clamp_min(1e-9)
            hows += [SetTo(start + push), SetTo(start - push)]
        mine, *pushed = as_array(pairs.shifts(hows, reverse)) * (-1 if reverse else 1)
        usual = np.mean(pushed, 0)
        usual = usual if usual.sum() > 0 else np.zeros_like(usual)  # harm done by pushes must not flatter the claim
        excess[name] = draws.ratio(mine - usual, reach)
        listed.append(Control(f"E {name}", draws.ratio(mine, reach)))
        listed.append(Control(f"random pushes, {name}", draws.ratio(usual, reach)))
    assert spec.margin is not None
    worst = _worst(excess, spec.margin)
    other = next(name for name in excess if name != worst)
    return judge(
        spec, excess[worst], controls=(*listed, Control(f"excess {other}", excess[other])),
        strongest=f"random pushes, {worst}",
        note=f"the smaller: {worst}; on {len(pairs)} pairs, the mean of {bench.search.pushes} pushes each",
    )  # fmt: skip


# --- falsifiers and the rival from outside --------------------------------------------------------------


def rival_variable(bench: Bench, spec: GateSpec) -> GateResult:
    """f8: fires if the same method fitted to another variable does as well, by the upper bound.

    The rivals named on the card are all tried; the engine draws up to three other factors. A column that is the label
    under other names is no rival; nor, among the drawn, is one that fixes the label (its classes are parts of the
    label's) or that has more values than a fifth of the rows.
    """
    rivals = rivals_of(bench)
    if not rivals:
        return not_run(spec, "the examples have no other factor that could be a rival", applies=False)
    assert spec.margin is not None
    named = [bench.dev.factor(name) for name in rivals]
    fair = torch.stack([balanced_rows(column, bench.dev.labels, bench.seed) for column in named])
    found = bench.few.many(bench.fits(named, train=fair), bench.candidates)
    excess, listed, p = {}, [], {}
    for name, hit in zip(rivals, hits_among(bench.few, found, bench.candidates), strict=True):
        columns = np.stack([bench.few_hit - hit, np.ones_like(hit)], 1)
        excess[name] = bench.few_draws.estimate(columns)
        p[name] = bench.few_draws.p_value(columns, spec.margin, better="lower")
        listed.append(Control(name, bench.few_draws.mean(hit)))
    nearest = min(excess, key=lambda name: excess[name].high)
    return falsifier(
        spec, excess[nearest].high < spec.margin, excess[nearest], raw=bench.few_draws.mean(bench.few_hit),
        controls=tuple(listed), strongest=nearest, p_value=p[nearest],
        note=f"fires if the upper bound of claim less rival is under {spec.margin:g}; on {len(bench.few)} pairs",
    )  # fmt: skip


def rivals_of(bench: Bench) -> list[str]:
    """Factor columns to try as rivals: the card's, then up to three that the engine draws by its seed."""
    labels = bench.dev.labels

    def aliases(column: Sequence[str]) -> bool:
        return len(set(zip(column, labels, strict=True))) == len(set(column)) == len(set(labels))

    def fair(name: str) -> bool:
        column = bench.dev.factor(name)
        values = len(set(column))
        fixes = len(set(zip(column, labels, strict=True))) == values
        return 2 <= values <= min(MOST_VALUES, len(column) // 5) and not fixes

    listed = [name for name in bench.claim.rivals if not aliases(bench.dev.factor(name))]
    skip = {"pair", bench.claim.of, str(bench.claim.finding.position), *bench.claim.rivals}
    pool = [f for f in bench.dev.factor_names if f not in skip and not f.startswith("source_") and fair(f)]
    rng = np.random.default_rng([bench.seed, 0xF8])
    return listed + [pool[i] for i in rng.permutation(len(pool))[:DRAWN_RIVALS]]


def swapping_the_prompt(bench: Bench, spec: GateSpec) -> GateResult:
    """r10: the upper anchor, running the source text itself; the swap inside is hardly ever better."""
    pairs = bench.gate_pairs
    anchor = hits(pairs, pairs.source.logits, bench.candidates)
    note = "an upper anchor: at parity the subspace carries all that the other prompt would change"
    return against(spec, bench.hit, {"running the source text": anchor}, bench.draws, note=note)


def shift(bench: Bench, spec: GateSpec) -> GateResult:
    """f11: fires if, on the shift pool, the upper bound of IIA is under half of the gate's."""
    if bench.shift is None:
        return not_run(spec, "no shift pool was given", applies=False)
    pairs = bench.pairs(bench.shift, MOST_PAIRS)
    hit = hits(pairs, pairs.set_to(pairs.swapped(bench.basis)), bench.candidates)
    found = Resampler(tuple(pairs.rows.clusters), bench.seed).mean(hit)
    half = float(bench.hit.mean()) / 2
    return falsifier(spec, found.high < half, found, controls=(Control("the gate pool", bench.draws.mean(bench.hit)),),
                     note=f"fires if the upper bound is under {half:.3f}")  # fmt: skip

"""What C3 removes and what it is held against: the same cut made at a random place of equal rank and variance.

A removal is a subspace at one site or a set of parts. Three things can stand in the removed component's place: its
mean, another input's value, or zero. Random removals leave the claimed coordinates alone and take the same variance
away, so that a large direction is compared with large directions.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.examples import Sample
from veriscope.findings import Change, Part, Parts, Reading
from veriscope.subjects import Add, At, Edit, Erase, Mean, Read, Resample, Run, Subject, Zero
from veriscope.trials.reading import as_array
from veriscope.trials.statistics import Array

Kind = Literal["mean", "resample", "zero"]
MATCHED = 0.05  # how far a random removal's variance may be from the claim's, as a share of it
AT_ONCE = 50_000_000  # logits held at a time: 200 MB in float32
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # the number of a block or branch in a site's path
WIDER = 4  # at most so many times the claim's rank where its variance can't be reached otherwise
LONGER = 3.0  # and then at most so many times as far as a plain removal goes


# ---- behaviour --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model did on each row: `gap` in logits (log-probability of the answer where no foil), `logp` in nats."""

    gap: Array
    logp: Array


@dataclass(frozen=True, eq=False)
class Rows:
    """Prompts with their answer and foil tokens (-1: none) and where in each the removal is made.

    `places` are the rows' places in the sample that they come from.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    clusters: tuple[str, ...]
    labels: tuple[str, ...]
    at: At
    answer: Int[Tensor, "example"]
    foil: Int[Tensor, "example"]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Sequence[int]) -> Rows:
        """The rows at these places, in this order."""
        keep = [int(i) for i in index]
        at = self.at[torch.tensor(keep)] if isinstance(self.at, Tensor) else self.at

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in keep)

        places, texts, clusters, labels = (some(v) for v in (self.places, self.texts, self.clusters, self.labels))
        return Rows(places, texts, clusters, labels, at, self.answer[keep], self.foil[keep])

    def score(self, logits: Float[Tensor, "example vocab"]) -> Scores:
        """Read the behaviour off the last token's logits."""
        logits = logits.float().cpu()
        mine = logits.gather(1, self.answer[:, None])[:, 0]
        logp = mine - logits.logsumexp(-1)
        other = logits.gather(1, self.foil.clamp_min(0)[:, None])[:, 0]
        return Scores(as_array(torch.where(self.foil >= 0, mine - other, logp)), as_array(logp))


def rows_of(subject: Subject, sample: Sample, position: str | int, places: Sequence[int]) -> Rows:
    """Settle answers, foils and positions of some examples of a sample.

    Raises:
        MissingField: A row has no answer.
    """
    sample = sample.take(places)
    answer = subject.answer_ids(sample.texts, sample.answers)
    foil = torch.full_like(answer, -1)
    with_foil = [i for i, e in enumerate(sample.examples) if e.foil is not None]
    if with_foil:
        texts, foils = zip(*((sample.examples[i].text, str(sample.examples[i].foil)) for i in with_foil), strict=True)
        foil[with_foil] = subject.answer_ids(texts, foils)
    labels = tuple(str(e.label) for e in sample.examples)
    at = subject.where(position, sample)
    return Rows(tuple(places), tuple(sample.texts), tuple(sample.clusters), labels, at, answer, foil)


def behave(subject: Subject, rows: Rows, edits: Sequence[Edit] = ()) -> Scores:
    """The behaviour of every row under some edits."""
    run = subject.run(rows.texts, edits=edits, logits="last")
    assert run.logits is not None
    return rows.score(run.logits)


def behaves(subject: Subject, rows: Rows, runs: Sequence[Sequence[Edit]]) -> list[Scores]:
    """The behaviour of every row under each of several edited runs, replayed from one run of the rows.

    Log-probabilities take the whole vocabulary, so only as many rows are swept together as may be held; `gaps` needs
    two logits of each.
    """
    step = max(1, AT_ONCE // (len(runs) * (subject.vocab_size or 1)))
    parts: list[list[Scores]] = [[] for _ in runs]
    for start in range(0, len(rows), step):
        keep = torch.arange(start, min(start + step, len(rows)))
        some = rows.take(keep.tolist())
        swept = subject.sweep(some.texts, [[_of_rows(edit, keep) for edit in edits] for edits in runs])
        for part, logits in zip(parts, swept.logits, strict=True):
            part.append(some.score(logits))
    return [Scores(np.concatenate([s.gap for s in p]), np.concatenate([s.logp for s in p])) for p in parts]


def _of_rows(edit: Edit, keep: Int[Tensor, "row"]) -> Edit:
    """A removal's edit for some of the rows; what it adds or puts in has one value for each row."""
    how = edit.how
    if isinstance(how, Add) and isinstance(how.vector, Tensor):
        how = Add(how.vector[keep])
    elif isinstance(how, Resample):
        how = Resample(how.values[keep])
    return dataclasses.replace(edit, how=how, at=edit.at[keep] if isinstance(edit.at, Tensor) else edit.at)


def gaps(subject: Subject, rows: Rows, runs: Sequence[Sequence[Edit]]) -> Float[np.ndarray, "run example"]:
    """`Scores.gap` of every row under each of several edited runs, replayed from one run of the rows."""
    if not runs:
        return np.zeros((0, len(rows)))
    if len(runs) == 1:  # a run from scratch is cheaper than one to replay from
        return behave(subject, rows, runs[0]).gap[None]
    if not bool((rows.foil >= 0).all()):
        return np.stack([scores.gap for scores in behaves(subject, rows, runs)])
    swept = subject.sweep(rows.texts, runs, tokens=torch.stack([rows.answer, rows.foil], 1))
    found = swept.logits.float().cpu()
    return as_array(found[..., 0] - found[..., 1])


@dataclass(frozen=True, eq=False)
class Intact:
    """Rows with what the unchanged model does on them and holds at the sites of the claim."""

    rows: Rows
    scores: Scores
    acts: Mapping[str, Tensor]  # one position: (example, *unit axes); all: (example, position, *unit axes)
    lengths: Int[Tensor, "example"]

    def take(self, index: Sequence[int]) -> Intact:
        """The same at some of the rows."""
        keep = [int(i) for i in index]
        scores = Scores(self.scores.gap[keep], self.scores.logp[keep])
        return Intact(self.rows.take(keep), scores, {k: v[keep] for k, v in self.acts.items()}, self.lengths[keep])

    @property
    def everywhere(self) -> bool:
        return isinstance(self.rows.at, str) and self.rows.at == "all"

    def given(self, donor: Int[Tensor, "example"]) -> dict[str, Tensor]:
        """The acts of other rows at the same place; where "all", a shorter donor goes on with its last value."""
        if not self.everywhere:
            return {site: acts[donor] for site, acts in self.acts.items()}
        out = {}
        for site, acts in self.acts.items():
            place = torch.arange(acts.shape[1]).expand(len(donor), -1)
            place = torch.minimum(place, self.lengths[donor][:, None] - 1)
            out[site] = acts[donor[:, None], place]
        return out

    def flat(self, site: str) -> Float[Tensor, "row d"]:
        """One row for each example, or for each real token where the claim is about all positions."""
        acts = self.acts[site]
        if not self.everywhere:
            return acts.flatten(1)
        real = torch.arange(acts.shape[1])[None] < self.lengths[:, None]
        return acts[real].flatten(1)


def run_intact(subject: Subject, rows: Rows, sites: Sequence[str]) -> Intact:
    """Run rows unchanged, keeping the sites at the claim's place."""
    reads = [Read(site, rows.at) for site in sites]
    run: Run = subject.run(rows.texts, read=reads, logits="last")
    assert run.logits is not None
    acts = {read.site: run[read] for read in reads}
    return Intact(rows, rows.score(run.logits), acts, run.mask.sum(1).cpu())


def donors(rows: Rows, *, seed: int, other_label: bool = False) -> Int[Tensor, "example"]:
    """For each row another one: of another cluster, and of another label if asked and there is one."""
    rng = np.random.default_rng([seed, 0xD0, int(other_label)])
    clusters, labels = np.asarray(rows.clusters), np.asarray(rows.labels)
    out = np.zeros(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        allowed = clusters != clusters[i]
        if other_label and (allowed & (labels != labels[i])).any():
            allowed &= labels != labels[i]
        pool = np.flatnonzero(allowed) if allowed.any() else np.delete(np.arange(len(rows)), i)
        out[i] = rng.choice(pool) if len(pool) else i
    return torch.as_tensor(out)


# ---- removals ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Subspace:
    """h - left (right (h - centre)) at one site: a linear component, removed."""

    site: str
    left: Float[Tensor, "d r"]
    right: Float[Tensor, "r d"]
    centre: Float[Tensor, "d"]
    name: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    @property
    def rank(self) -> int:
        return int(self.left.shape[1])

    def erase(self, acts: Float[Tensor, "example d"]) -> Float[Tensor, "example d"]:
        """The same removal on activations that are at hand."""
        left, right, centre = (t.to(acts) for t in (self.left, self.right, self.centre))
        return acts - (acts - centre) @ right.T @ left.T

    def edits(self, kind: Kind, at: At, given: Mapping[str, Tensor] | None = None) -> tuple[Edit, ...]:
        """Remove it, leaving its mean, zero, or (resample) the component of the values in `given`."""
        origin = self.centre if kind == "mean" else torch.zeros_like(self.centre)
        out = Edit(self.site, Erase(self.left, self.right, origin), at=at)
        if kind != "resample":
            return (out,)
        assert given is not None, "another input's value is needed to put in"
        values = given[self.site]
        flat = values.flatten(-2) if values.shape[-1] != len(self.centre) else values
        component = (flat @ self.right.to(flat).T @ self.left.to(flat).T).view(values.shape)
        return (out, Edit(self.site, Add(component), at=at))


@dataclass(frozen=True, eq=False)
class PartSet:
    """Whole sites, or some heads or neurons of them."""

    units: Mapping[str, tuple[int, ...] | None]
    centres: Mapping[str, Tensor]  # mean of each whole site
    name: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.units)

    def edits(self, kind: Kind, at: At, given: Mapping[str, Tensor] | None = None) -> tuple[Edit, ...]:
        """Ablate every part, leaving its mean, zero, or (resample) the values in `given`."""

        def how(site: str) -> Mean | Zero | Resample:
            if kind == "mean":
                return Mean(self.centres[site])
            if kind == "zero":
                return Zero()
            assert given is not None, "another input's value is needed to put in"
            return Resample(given[site])

        return tuple(Edit(site, how(site), at=at, units=units) for site, units in self.units.items())


Removal = Subspace | PartSet


def removal_of(finding: Reading | Change | Parts, intact: Intact) -> Removal:
    """What the claim removes; parts take their means from the intact dev rows."""
    if isinstance(finding, Parts):
        return part_set(finding.parts, intact, "the claimed parts")
    change = finding.as_change("erase") if isinstance(finding, Reading) else finding
    assert change.left is not None and change.right is not None and change.centre is not None
    return Subspace(change.site, change.left, change.right, change.centre, "the claimed subspace")


def part_set(parts: Sequence[Part], intact: Intact, name: str = "") -> PartSet:
    """Parts grouped by site; a whole site swallows its units."""
    units: dict[str, tuple[int, ...] | None] = {}
    for part in parts:
        have = units.setdefault(part.site, ())
        units[part.site] = None if part.unit is None or have is None else tuple(sorted({*have, part.unit}))
    return PartSet(units, {site: _mean(intact, site) for site in units}, name)


def _mean(intact: Intact, site: str) -> Tensor:
    return intact.flat(site).mean(0).view(intact.acts[site].shape[2 if intact.everywhere else 1 :])


def sites_of(finding: Reading | Change | Parts) -> tuple[str, ...]:
    """Every site that the claim or its random counterparts may touch."""
    if isinstance(finding, Parts):
        universe = finding.universe or finding.parts
        return tuple(dict.fromkeys(p.site for p in universe if _alike(p, finding.parts)))
    return (finding.site,)


def part_type(part: Part) -> str:
    """What kind of part it is, whatever its block: `blocks.*.heads.z[unit]`."""
    return _NUMBER.sub("*", part.site) + ("" if part.unit is None else "[unit]")


def _alike(part: Part, parts: Sequence[Part]) -> bool:
    return part_type(part) in {part_type(p) for p in parts}


# ---- what it is held against ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Draws:
    """Random removals and how well they match: the share of the claim's variance that they take (median)."""

    removals: tuple[Removal, ...]
    variance_share: float
    note: str


def variance_removed(acts: Float[Tensor, "example d"], cut: Subspace) -> float:
    """Total variance of the component that a removal takes away."""
    x = acts.double()
    component = (x - x.mean(0)) @ cut.right.double().T @ cut.left.double().T
    return float(component.square().sum(1).mean())


def matched_subspaces(acts: Float[Tensor, "example d"], cut: Subspace, count: int, seed: int) -> Draws | NotRun:
    """Random orthonormal removals that neither read nor write where the claim's does, and take as much variance.

    So they leave the claimed coordinates as they are; and since LEACE writes along the covariance with the variable,
    what they take away is uncorrelated with it. A basis is drawn as Sigma^a g with g Gaussian, and `a` solved so that
    the variance along it matches. Where no `a` takes enough (the claim's direction varies more than all others),
    differences between random inputs are added until it is reached, up to four times the rank, and then each is taken
    further; both favour the control.
    """
    x = acts.double()
    x = x - x.mean(0)
    rank = cut.rank
    spare = _untouched(cut, 2 * rank + max(rank, 2) <= x.shape[1])
    inside = x @ spare
    values, vectors = torch.linalg.eigh(inside.T @ inside / len(x))
    live = values > values[-1].clamp_min(1e-300) * 1e-10 if len(values) else values.bool()
    values, vectors = values[live], vectors[:, live]
    rank = min(rank, len(values))
    if rank == 0:
        return NotRun(f"the claim takes all that varies at {cut.site}, so there is nothing to compare it with")
    rng = torch.Generator().manual_seed(seed * 7 + 0xA5)
    target = variance_removed(acts, cut)
    bases = _solve(values, torch.randn(count, len(values), rank, generator=rng, dtype=torch.float64), target)
    taken = _variance(bases, values)
    short = taken < (1 - MATCHED) * target
    full = [vectors @ b for b in bases]
    for k in torch.nonzero(short).flatten().tolist():
        full[k] = _differences(inside @ vectors, vectors, target, rank, len(values), rng)
    removals = [_orthogonal(cut, spare @ b, f"random subspace {k + 1}") for k, b in enumerate(full)]
    removals = [_lengthened(acts, r, target) for r in removals]
    share = float(np.median([variance_removed(acts, r) / max(target, 1e-300) for r in removals]))
    ranks = sorted({r.rank for r in removals})
    note = f"{count} random subspaces of rank {ranks[0] if len(ranks) == 1 else f'{ranks[0]}-{ranks[-1]}'}"
    note += f" moving activations by {share:.0%} of the claim's variance ({target:.3g})"
    if bool(short.any()):
        note += f"; {int(short.sum())} filled up with differences between inputs, none alone varies as much"
    overshot = sum(float(r.left.norm(dim=0).max()) > 1.01 for r in removals)
    if overshot:
        note += f"; {overshot} taken further than the mean (up to {LONGER:g} times) to move as much"
    return Draws(tuple(removals), share, note)


def _lengthened(acts: Float[Tensor, "example d"], cut: Subspace, target: float) -> Subspace:
    """Where all that varies is still too little: the same removal taken further, so that it moves as much."""
    share = variance_removed(acts, cut) / max(target, 1e-300)
    if share >= 1 - MATCHED:
        return cut
    further = min(LONGER, (1 / max(share, 1e-12)) ** 0.5)
    return dataclasses.replace(cut, left=cut.left * further)


def _untouched(cut: Subspace, written_too: bool) -> Float[Tensor, "d k"]:
    """Orthonormal columns at right angles to what the claim's removal reads and, where there is room, writes."""
    used = torch.cat([cut.right.T, cut.left], 1) if written_too else cut.right.T
    used = used.double() / used.double().norm(dim=0).clamp_min(1e-300)
    u, sizes, _ = torch.linalg.svd(used, full_matrices=True)
    return u[:, int((sizes > 1e-6).sum()) :]


def _variance(bases: Float[Tensor, "draw d r"], values: Float[Tensor, "d"]) -> Float[Tensor, "draw"]:
    return (bases.square() * values[:, None]).sum((1, 2))


def _solve(values: Float[Tensor, "d"], g: Float[Tensor, "draw d r"], target: float) -> Float[Tensor, "draw d r"]:
    """Bisect the power of the covariance at which each draw takes the target variance."""
    scaled = (values / values[-1]).clamp_min(1e-9).log()

    def bases(power: Tensor) -> Tensor:
        weights = power[:, None] * scaled
        weights = (weights - weights.max(1, keepdim=True).values).exp()
        return torch.linalg.qr(weights[:, :, None] * g).Q

    low, high = torch.full((len(g),), -4.0).double(), torch.full((len(g),), 6.0).double()
    for _ in range(30):
        middle = (low + high) / 2
        enough = _variance(bases(middle), values) >= target
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return bases((low + high) / 2)


def _differences(inside: Tensor, vectors: Tensor, target: float, rank: int, most: int, rng: torch.Generator) -> Tensor:
    """Differences between random inputs, one more at a time until they take the target variance."""
    wide = min(WIDER * rank, most)
    pairs = torch.randint(len(inside), (2, wide), generator=rng)
    spread = (inside[pairs[0]] - inside[pairs[1]]).T
    basis = torch.linalg.qr(spread + 1e-9 * torch.randn(spread.shape, generator=rng, dtype=spread.dtype)).Q
    taken = (inside @ basis).square().mean(0).cumsum(0)
    enough = torch.nonzero(taken >= (1 - MATCHED) * target).flatten()
    need = int(enough[0]) + 1 if len(enough) else wide
    return vectors @ basis[:, : max(need, rank)]


def _orthogonal(cut: Subspace, basis: Tensor, name: str) -> Subspace:
    basis = torch.linalg.qr(basis).Q.to(cut.left)
    return Subspace(cut.site, basis, basis.T.contiguous(), cut.centre, name)


def random_parts(finding: Parts, intact: Intact, count: int, seed: int) -> Draws | NotRun:
    """Random sets of as many parts of each type, from parts that are not claimed while there are enough."""
    universe = finding.universe or finding.parts
    rng = np.random.default_rng([seed, 0xBA])
    need = Counter(part_type(p) for p in finding.parts)
    pools, overlap = {}, False
    for kind, n in need.items():
        alike = [p for p in universe if part_type(p) == kind]
        others = [p for p in alike if p not in set(finding.parts)]
        overlap |= len(others) < n
        pools[kind] = others if len(others) >= n else alike
    found: dict[frozenset[Part], None] = {}
    for _ in range(20 * count):
        if len(found) >= count:
            break
        drawn = frozenset(
            pools[kind][i] for kind, n in need.items() for i in rng.choice(len(pools[kind]), size=n, replace=False)
        )
        if drawn != frozenset(finding.parts):
            found[drawn] = None
    if not found:
        return NotRun("the universe of the claimed parts has no other part of their type")
    removals = tuple(part_set(sorted(parts), intact, f"random parts {k + 1}") for k, parts in enumerate(found))
    note = f"{len(removals)} different random sets of {len(finding.parts)} parts of the same type"
    return Draws(removals, 1.0, note + (", overlapping the claimed ones" if overlap else ""))


# ---- other places that may stand in -----------------------------------------------------------------------------


def like_sites(subject: Subject, site: str, most: int = 16) -> list[str]:
    """Other sites where the same variable may live: the same kind in other blocks, and the residual stream."""
    if subject.n_blocks == 0:
        size = subject.sites[site].size
        found = [s for s, known in subject.sites.items() if s != site and s != "logits" and known.size == size]
    else:
        kind = _NUMBER.sub("*", site)
        names = [*fnmatch.filter(subject.sites, kind), *fnmatch.filter(subject.sites, "blocks.*.resid_post")]
        found = [s for s in dict.fromkeys(names) if s != site]
    step = max(1, -(-len(found) // most))
    return found[::step]

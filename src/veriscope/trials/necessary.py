"""The gates of C3 NECESSARY, in the order of its battery.

All drops are in clean ranges: what the mean behaviour loses on dev when the whole site is given another input's
value. What the claim gets, its controls get: the same places, the same kind of edit, the same items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from veriscope.claims.battery import GateSpec
from veriscope.claims.necessary import SMALLEST, Necessary
from veriscope.errors import BadPosition, NotRun, UserError
from veriscope.examples import Sample
from veriscope.findings import Part, Parts, Reading
from veriscope.methods import LogisticProbe, cluster_folds, method
from veriscope.methods.leace import erasure
from veriscope.rivals import Budget, FineTune, SteeringTask
from veriscope.subjects import Edit, Read, Resample, Subject, Variant
from veriscope.trials.evidence import Control, Estimate, GateResult
from veriscope.trials.judge import Effort, against, falsifier, judge, not_run, printed
from veriscope.trials.neutral import neutral_texts, next_token_loss
from veriscope.trials.reading import as_array, crossfit_bits
from veriscope.trials.removal import (
    AT_ONCE,
    Draws,
    Intact,
    Kind,
    PartSet,
    Removal,
    Rows,
    Subspace,
    behave,
    behaves,
    donors,
    gaps,
    like_sites,
    matched_subspaces,
    part_set,
    part_type,
    random_parts,
    removal_of,
    rows_of,
    run_intact,
    sites_of,
)
from veriscope.trials.statistics import ONE_SIDED, Array, Resampler, spread_of, standard_error

ITEMS = 800  # most gate items that are run
DEV_ITEMS = 700
FEW = 160  # items on which random removals are run, except where that is cheap
SCREEN = 12  # dev items on which every random removal is tried first, except where that is cheap
SPARE = 8  # random removals behind that one that are run on gate items as well, or 3 where runs are dear
TAIL = 0.05  # the random removal that must be beaten stands this far from the top
RESCUERS = 5
RESCUER_POOL = 40
TUNED_PASSES = 256
DONORS = 3  # other inputs whose values are put in the component's place, each by itself
FREE = 0.02  # nats lost elsewhere that count as no damage: the side-effect budget of C4
REFITS = 8  # fits on redrawn dev clusters that say how far the own part is known
TOLD_APART = 0.02  # share of dev items that must tell the variable from the answer before its own part can be asked for
ROUNDING = 1e-6  # of the size of activations: what float32 leaves of a component that was taken out
READABLE = 0.05  # bits that must have been there before an erasure can have taken them
CLASSES, PER_CLASS, PREFIXES = 5, 30, 240  # off-target tasks that the engine makes, and neutral prefixes


@dataclass(eq=False)
class Bench:
    """A C3 trial's data. `gate` stays None until the instrument is checked and the power is known."""

    MIN_CLUSTERS: ClassVar[int] = 20
    MIN_ITEMS: ClassVar[int] = 100

    claim: Necessary
    subject: Subject
    dev: Sample
    seed: int = 0
    effort: Effort = Effort()
    gate: Sample | None = None
    shift: Sample | None = None
    tries: int = 1

    # ---- rows and what the intact model does on them

    @property
    def position(self) -> str | int:
        return self.claim.where[1]

    @cached_property
    def sites(self) -> tuple[str, ...]:
        found = sites_of(self.claim.finding)
        for site in found:
            self.subject.site(site)
        return found

    @property
    def everywhere(self) -> bool:
        return self.position == "all"

    def intact(self, sample: Sample, most: int) -> Intact:
        """A seeded subset of a pool, run unchanged."""
        most = min(most, 150) if self.everywhere else most  # every position of every site is kept
        return run_intact(
            self.subject, rows_of(self.subject, sample, self.position, self.some(sample, most)), self.sites
        )

    def some(self, sample: Sample, most: int) -> list[int]:
        order = np.random.default_rng([self.seed, 0x1E]).permutation(len(sample))
        return sorted(int(i) for i in order[:most])

    @cached_property
    def dev_items(self) -> Intact:
        return self.intact(self.dev, DEV_ITEMS)

    @cached_property
    def dev_few(self) -> Intact:
        """Dev rows on which removals are run; `dev_order` are their places in `dev_items`."""
        return self.dev_items.take(self.dev_order)

    @cached_property
    def dev_order(self) -> list[int]:
        order = np.random.default_rng([self.seed, 0x2E]).permutation(len(self.dev_items.rows))
        return sorted(int(i) for i in order[:FEW])

    @cached_property
    def items(self) -> Intact:
        assert self.gate is not None, "the gate pool has not been opened yet"
        return self.intact(self.gate, ITEMS)

    @cached_property
    def cheap(self) -> bool:
        """Whether a removal costs next to nothing: it is made at the last token, and all before it is replayed."""
        edits = self.removal.edits("mean", self.position)
        return self.position == "last" and not self.subject.plan_sweep(self.dev_few.rows.texts, [edits]).why_plain

    @cached_property
    def few_index(self) -> list[int]:
        n = len(self.items.rows)
        order = np.random.default_rng([self.seed, 0x3E]).permutation(n)
        return sorted(int(i) for i in order[: n if self.cheap else FEW])

    @cached_property
    def few(self) -> Intact:
        """The gate items on which random removals are run: all of them where that is cheap."""
        return self.items if self.cheap else self.items.take(self.few_index)

    @cached_property
    def draws(self) -> Resampler:
        return Resampler(self.items.rows.clusters, self.seed)

    @cached_property
    def few_draws(self) -> Resampler:
        return Resampler(self.few.rows.clusters, self.seed)

    # ---- the removal and its size

    @cached_property
    def removal(self) -> Removal:
        return removal_of(self.claim.finding, self.dev_items)

    @cached_property
    def swapped(self) -> tuple[Array, Array]:
        """Behaviour of the few dev rows with another input's value at the site, and with its last state: must hurt."""
        few, last = self.dev_few, _last_site(self.subject)
        at = "last" if self.subject.sites[last].has_positions else "all"
        states = self.subject.run(few.rows.texts, read=[Read(last, at)])[last]
        other = donors(few.rows, seed=self.seed)
        given = few.given(other)
        own = [Edit(site, Resample(given[site]), at=few.rows.at) for site in self.removal.sites]
        found = gaps(self.subject, few.rows, [own, [Edit(last, Resample(states[other]), at=at)]])
        return found[0], found[1]

    @cached_property
    def ranges(self) -> tuple[float, float]:
        """What the mean behaviour loses on dev with another input's value at the site, and in the last state."""
        before = self.dev_few.scores.gap
        own, last = ((before - after).mean() for after in self.swapped)
        return float(own), float(last)

    @cached_property
    def range(self) -> float:
        """The clean range; a site whose own is under a tenth of the last state's counts as a tenth of that.

        Otherwise a site that carries nothing would be measured in units of its own noise.
        """
        own, last = self.ranges
        return max(own, SMALLEST * last, 1e-9)

    @property
    def range_note(self) -> str:
        own, last = self.ranges
        floor = ", taken as a tenth of the latter" if own < SMALLEST * last else ""
        return f"clean range {own:.3g} logits at the site, {last:.3g} in the last state{floor}"

    def drops(
        self, intact: Intact, removals: Sequence[Removal], kinds: Sequence[Kind] = ("mean",), donor: int = 0
    ) -> Float[np.ndarray, "run example"]:
        """Drop of the behaviour of each row, in clean ranges, under each removal of each kind, kinds outermost.

        All are replayed from one run of the rows; another input's value comes from a donor of another cluster, one of
        several by the number `donor`.
        """
        seed = self.seed + 1 + 1_000 * donor
        given = intact.given(donors(intact.rows, seed=seed)) if "resample" in kinds else None
        runs = [removal.edits(kind, intact.rows.at, given) for kind in kinds for removal in removals]
        return (intact.scores.gap - gaps(self.subject, intact.rows, runs)) / self.range

    def drop(self, intact: Intact, removal: Removal) -> Array:
        """The same under one removal that leaves its mean."""
        return self.drops(intact, [removal])[0]

    @cached_property
    def removed(self) -> Any:
        """Scores of the gate items with the claim's removal, its mean in its place."""
        return behave(self.subject, self.items.rows, self.removal.edits("mean", self.items.rows.at))

    @cached_property
    def claimed(self) -> Array:
        """Drop of each gate item under the claim's removal, in clean ranges."""
        return (self.items.scores.gap - self.removed.gap) / self.range

    # ---- random removals

    @cached_property
    def matched(self) -> Draws | NotRun:
        """Random removals matched to the claim's."""
        if isinstance(self.removal, Subspace):
            return matched_subspaces(
                self.dev_items.flat(self.removal.site), self.removal, self.effort.random, self.seed
            )
        assert isinstance(self.claim.finding, Parts)
        return random_parts(self.claim.finding, self.dev_items, self.effort.random, self.seed)

    @property
    def rank(self) -> int:
        """How many random removals may do better than the one that must be beaten, and that one."""
        assert not isinstance(self.matched, NotRun)
        return max(1, round(TAIL * len(self.matched.removals)))

    @cached_property
    def screened(self) -> tuple[list[tuple[Removal, Array]], Array]:
        """The random removals that hurt most on a few dev rows, hardest first, with their drops; mean drops of all."""
        assert not isinstance(self.matched, NotRun)
        drops = self.drops(self.small(SCREEN), self.matched.removals)
        found = drops.mean(1)
        hardest = np.argsort(-found, kind="stable")[: self.rank + (SPARE if self.cheap else 3)]
        return [(self.matched.removals[i], drops[i]) for i in hardest], found

    def small(self, n: int) -> Intact:
        """The few dev rows, or where runs are dear the first n of them."""
        few = self.dev_few
        return few if self.cheap else few.take(range(min(n, len(few.rows))))

    @cached_property
    def controls(self) -> list[tuple[Removal, Array]]:
        """The screened removals with their drops on the few gate items, hardest first."""
        hardest = [removal for removal, _ in self.screened[0]]
        run = zip(hardest, self.drops(self.few, hardest), strict=True)
        return sorted(run, key=lambda pair: -pair[1].mean())

    @property
    def mark(self) -> int:
        """Place among the controls of the random removal that must be beaten."""
        return min(self.rank, len(self.controls)) - 1

    @cached_property
    def beaten(self) -> Array:
        """Drop of every gate item under the random removal that must be beaten."""
        cut, drop = self.controls[self.mark]
        return drop if self.few is self.items else self.drop(self.items, cut)

    @cached_property
    def grid(self) -> dict[Kind, Array]:
        """Drops of all gate items under the claim's removal, by what is left in the component's place.

        Another input's value is drawn `DONORS` times for each item, so that the draw's own chance is averaged out.
        """
        drawn = [self.drops(self.items, [self.removal], ("resample",), donor=k)[0] for k in range(DONORS)]
        zeroed = self.drops(self.items, [self.removal], ("zero",))[0]
        return {"mean": self.claimed, "resample": np.mean(drawn, axis=0), "zero": zeroed}

    # ---- what else

    @cached_property
    def codes(self) -> tuple[Int[Tensor, "example"], Int[Tensor, "item"], tuple[str, ...]]:
        """Labels of the dev and gate items as indices of the classes seen on dev."""
        classes = tuple(sorted(set(self.dev_items.rows.labels)))
        index = {c: i for i, c in enumerate(classes)}
        strange = sorted(set(self.items.rows.labels) - set(index))
        if strange:
            raise UserError(f"Labels {strange[:3]} occur in the gate pool but not in dev. Merge or drop them.")
        dev, gate = (torch.tensor([index[x] for x in i.rows.labels]) for i in (self.dev_items, self.items))
        return dev, gate, classes

    @cached_property
    def answers(self) -> set[int]:
        """Tokens that the claim's behaviour is read off."""
        return {int(t) for t in (*self.dev_items.rows.answer, *self.dev_items.rows.foil) if t >= 0}

    @cached_property
    def neutral(self) -> tuple[str, ...]:
        return neutral_texts(self.subject, self.dev, self.claim.neutral, seed=self.seed)

    @cached_property
    def harm(self) -> Damage:
        """Nats lost on each off-target task."""
        return off_target(self)

    @cached_property
    def rescuers(self) -> Rescue | None:
        """What was found beside a removal that costs nothing alone; None where it does cost something."""
        alone = self.draws.mean(self.claimed)
        return None if alone.high >= self.claim.smallest_effect else find_rescuers(self)

    @property
    def redundant(self) -> bool:
        return self.rescuers is not None and self.rescuers.fired

    def dev_estimate(self) -> Estimate:
        """Excess drop on the dev items, each under a removal fitted without its fold (rule R7).

        `clusters` is scaled so that power is reckoned for the gate items that will be run.
        """
        items = self.dev_items
        drops = self._held_out_drops() if self._fitted_here else self.drop(items, self.removal)
        if not isinstance(self.matched, NotRun):
            control, known = self.screened[0][min(self.rank, len(self.screened[0])) - 1]
            drops = drops - (self.drop(items, control) if known.mean() > 0 else 0.0)
        found = Resampler(items.rows.clusters, self.seed, draws=1_000).mean(drops)
        pool = self.claim.on.gate
        each = pool.n / pool.n_clusters
        run = pool.n_clusters * (1 - (1 - min(ITEMS, pool.n) / pool.n) ** each)  # clusters that ITEMS of them fall into
        return dataclasses.replace(found, clusters=max(1, round(found.clusters * pool.n_clusters / run)))

    @property
    def _fitted_here(self) -> bool:
        return not isinstance(self.claim.finding, Parts) and self.claim.finding.origin.examples == self.dev.hash

    def _held_out_drops(self) -> Array:
        items = self.dev_items
        fold = cluster_folds(items.rows.clusters, min(self.effort.folds, 3), self.seed)
        out = np.zeros(len(items.rows))
        for f in fold.unique().tolist():
            here = torch.nonzero(fold == f).flatten().tolist()
            out[here] = self.drop(items.take(here), refit(self, fold != f))
        return out


def _last_site(subject: Subject) -> str:
    last = f"blocks.{subject.n_blocks - 1}.resid_post"
    return last if last in subject.sites else [s for s in subject.sites if s != "logits"][-1]


def refit(bench: Bench, train: Tensor) -> Subspace:
    """The claim's removal fitted again on some of the dev rows; as it stands where its method can't be rebuilt so."""
    finding, acts = bench.claim.finding, bench.dev_items.flat(bench.removal.sites[0])
    frozen = bench.removal
    assert isinstance(frozen, Subspace)
    if bench.everywhere:
        return frozen
    origin = finding.origin
    classes = sorted(set(bench.dev_items.rows.labels))
    codes = torch.tensor([classes.index(x) for x in bench.dev_items.rows.labels])
    if origin.method.endswith(":LEACE"):
        left, right, centre = erasure(
            acts[train], codes[train], len(classes), shrink=bool(origin.settings.get("shrink", True))
        )
        return Subspace(frozen.site, left, right, centre)
    if not isinstance(finding, Reading) or len(classes) != len(finding.classes):
        return frozen
    made = method(origin.method, **{**origin.settings, "site": origin.site, "position": origin.position})
    if not hasattr(made, "weights"):
        return frozen
    fitted = made.weights(acts, codes[None], train[None], n_classes=len(classes), seed=origin.seed)
    again = dataclasses.replace(finding, weight=fitted.weight[0], bias=fitted.bias[0], centre=acts[train].mean(0))
    change = again.as_change("erase")
    assert change.left is not None and change.right is not None and change.centre is not None
    return Subspace(frozen.site, change.left, change.right, change.centre)


def _spared(bench: Bench, result: GateResult) -> GateResult:
    """A failed gate says nothing against a removal that another part makes up for: f7 decides."""
    if result.outcome != "fail" or not bench.redundant:
        return result
    note = "redundant: the single removal has no effect, a joint removal does (f7)"
    return dataclasses.replace(result, outcome="unclear", items_needed=None, note=f"{note}; {result.note}".rstrip("; "))


# ---- i0, g1 -----------------------------------------------------------------------------------------------------


def behaviour_present(bench: Bench, spec: GateSpec) -> GateResult:
    """i0: the model prefers the answer to the foil (or answers at all), and another input's last state hurts."""
    few = bench.dev_few
    draws = Resampler(few.rows.clusters, bench.seed, draws=1_000)
    has_foil = bool((few.rows.foil >= 0).all())
    share = draws.mean(np.asarray(few.scores.gap > (0 if has_foil else np.log(0.1)), dtype=np.float64))
    lost = draws.mean(few.scores.gap - bench.swapped[1])
    note = (
        "share of dev items that prefer the answer"
        if has_foil
        else "share of dev items that give the answer 0.1 or more"
    )
    found = f"{note}; another input's last state costs {lost.value:.3g} logits [{lost.low:.3g}, {lost.high:.3g}]"
    result = judge(spec, share, raw=lost, note=f"{found}; {_steepest(bench)}")
    if lost.low <= 0:
        why = "a removal that must hurt (another input's last state) does not, so nothing here can be found necessary"
        return dataclasses.replace(result, outcome="fail", note=f"{why}; {found}")
    return result


def _steepest(bench: Bench) -> str:
    """In words: what removing the top direction of the behaviour's own gradient at the site costs on dev."""
    few, cut = bench.dev_few, bench.removal
    if bench.everywhere or not isinstance(cut, Subspace) or not bool((few.rows.foil >= 0).all()):
        return bench.range_note
    slope = bench.subject.gradient(few.rows.texts, cut.site, few.rows.at, few.rows.answer, few.rows.foil).double()
    if float(slope.norm()) < 1e-9:
        return f"{bench.range_note}; the behaviour has no gradient at the site"
    top = torch.linalg.svd(slope, full_matrices=False).Vh[:1].to(cut.left)
    steep = Subspace(cut.site, top.T.contiguous(), top, cut.centre)
    return f"{bench.range_note}; removing the steepest direction there costs {bench.drop(few, steep).mean():.2f} of it"


def _last_acts(intact: Intact, site: str) -> Float[Tensor, "example d"]:
    """Acts where the claim is read: at its position, or at the last token where it is about all."""
    if not intact.everywhere:
        return intact.flat(site)
    return intact.acts[site][torch.arange(len(intact.rows)), intact.lengths - 1].flatten(1)


def erasure_complete(bench: Bench, spec: GateSpec) -> GateResult:
    """g1: bits that a fresh linear probe reads after the removal, as a share of those before."""
    cut = bench.removal
    if not isinstance(cut, Subspace):
        return printed(spec, NotRun("not applicable: parts are ablated whole"), note="not applicable to parts")
    dev_codes, gate_codes, classes = bench.codes
    if len(classes) < 2:
        return not_run(spec, f"'{bench.claim.of}' has one value on dev, so no probe can be fitted")
    probe = LogisticProbe(cut.site)
    fold = cluster_folds(bench.dev_items.rows.clusters, bench.effort.folds, bench.seed)
    dev, gate = _last_acts(bench.dev_items, cut.site), _last_acts(bench.items, cut.site)

    def bits(a: Tensor, b: Tensor) -> Array:
        found = crossfit_bits(probe, a, dev_codes[None], fold, b, gate_codes[None], len(classes), seed=bench.seed)
        return as_array(found)[0]

    before, after = bits(dev, gate), bits(*_above_rounding(cut.erase(dev), cut.erase(gate)))
    there = bench.draws.mean(before)
    points = _points_left(bench, probe, cut, dev, gate)
    listed = (Control("bits before", there), Control("bits after", bench.draws.mean(after)))
    result = judge(spec, bench.draws.ratio(after, before), raw=bench.draws.mean(after), controls=listed, note=points,
                   p_value=bench.draws.p_value(np.stack([after, before], 1), spec.margin or 0.0, "lower"))  # fmt: skip
    if there.low <= READABLE:
        gone = f"nothing was there to remove: {there.value:.3f} bits [{there.low:.3f}, {there.high:.3f}] before"
        outcome: Any = "fail" if there.high < READABLE else "unclear"
        return dataclasses.replace(result, outcome=outcome, note=f"{gone}; {points}")
    if result.outcome == "fail":
        mend = f"'{bench.claim.of}' can still be read, so it was not removed: remove it with methods.LEACE"
        return dataclasses.replace(result, note=f"{mend}; {points}")
    return result


def _above_rounding(dev: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the directions in which dev varies by no more than float32 rounds.

    On a site of low rank an erasure leaves about 1e-7 of what it took, and a probe that is scaled by spread reads it.
    """
    centre = dev.double().mean(0)
    x = dev.double() - centre
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    size = float((dev.double().square().sum(1)).mean())  # rounding goes with the size of the values, not their spread
    vectors = vectors[:, values > (ROUNDING**2) * max(size, 1e-300)]
    return tuple((((t.double() - centre) @ vectors) @ vectors.T).to(dev) for t in (dev, gate))  # type: ignore[return-value]


def _points_left(bench: Bench, probe: LogisticProbe, cut: Subspace, dev: Tensor, gate: Tensor) -> str:
    """The accuracy version (TOST within 2 points of the constant predictor), in words."""
    dev_codes, gate_codes, classes = bench.codes
    fitted = probe.weights(cut.erase(dev), dev_codes[None], torch.ones(1, len(dev), dtype=torch.bool),
                           n_classes=len(classes), seed=bench.seed)  # fmt: skip
    score = fitted.score(cut.erase(gate))[0]
    guess = (score[:, 0] > 0).long() if len(classes) == 2 else score.argmax(-1)
    common = int(torch.bincount(dev_codes).argmax())
    gained = bench.draws.mean(100 * as_array((guess == gate_codes).double() - (gate_codes == common).double()))
    same = gained.low > -2 and gained.high < 2
    told = "within" if same else "not shown to be within"
    return (
        f"accuracy after: {gained.value:+.1f} points [{gained.low:+.1f}, {gained.high:+.1f}] from the constant "
        f"predictor, {told} 2 points (with 1,000 items the standard error is about 1.6 points, so bits decide)"
    )


# ---- g2, g3 -----------------------------------------------------------------------------------------------------


def matched_removal(bench: Bench, spec: GateSpec) -> GateResult:
    """g2: excess over the random removal that hurts more than 95% of them, on the same items.

    All are tried on a few dev rows; the hardest of them are run on some gate items, and the one at the 95th percentile
    there is run on all items and is the control. Beyond it is beyond the mean random removal too.
    """
    matched = bench.matched
    if isinstance(matched, NotRun):
        return not_run(spec, matched.reason)
    found = bench.screened[1]
    control = bench.beaten
    name = f"random removal at the {1 - TAIL:.0%} mark"
    low, high = (float(q) for q in np.quantile(found, [0.05, 0.95]))
    typical = Estimate(float(found.mean()), low, high, len(bench.small(SCREEN).rows), len(found))
    listed = (
        Control(name, bench.draws.mean(control)),
        Control("hardest random removal", bench.few_draws.mean(bench.controls[0][1])),
        Control("mean random removal (dev)", typical, "bounds: 5% and 95% of the random removals"),
    )
    beyond = bench.claimed - (control if control.mean() > 0 else 0.0)  # one that helps counts as one that does nothing
    columns = np.stack([beyond, np.ones_like(beyond)], 1)
    assert spec.margin is not None
    result = judge(
        spec, bench.draws.estimate(columns), p_value=bench.draws.p_value(columns, spec.margin),
        raw=bench.draws.mean(bench.claimed), controls=listed, strongest=name,
        spread=spread_of(bench.claimed, bench.items.rows.clusters),
        series={"random drops on dev": tuple(float(v) for v in np.sort(found))},
        note=f"{matched.note}; {bench.range_note}",
    )  # fmt: skip
    return _spared(bench, result)


def rescue(bench: Bench, spec: GateSpec) -> GateResult:
    """g3: share of the drop restored by the own component (all of it, by algebra) less that by another label's."""
    items, drop = bench.items, bench.draws.mean(bench.claimed)
    if drop.low <= 0:
        outcome: Any = "fail" if drop.high < bench.claim.smallest_effect else "unclear"
        reason = NotRun("the removal costs nothing, so there is nothing to restore")
        empty = GateResult(spec.gate, spec.title, spec.role, spec.unit, outcome, spec.better, spec.margin, reason,
                           raw=drop, note=reason.reason)  # fmt: skip
        return _spared(bench, empty)
    given = items.given(donors(items.rows, seed=bench.seed + 2, other_label=True))
    other = behave(bench.subject, items.rows, bench.removal.edits("resample", items.rows.at, given)).gap
    lost = items.scores.gap - bench.removed.gap
    columns = np.stack([items.scores.gap - other, lost], 1)
    back = Control("another label's component", bench.draws.ratio(other - bench.removed.gap, lost))
    listed = [back, Control("its own component", Estimate(1.0, 1.0, 1.0, len(lost), bench.draws.n_clusters))]
    listed += _gold(bench)
    assert spec.margin is not None
    result = judge(spec, bench.draws.estimate(columns), p_value=bench.draws.p_value(columns, spec.margin),
                   controls=listed, note="shares of the drop that are restored")  # fmt: skip
    return _spared(bench, result)


def _gold(bench: Bench) -> list[Control]:
    """Amnesic probing's selectivity: the label alone given back, as its mean component on dev (Elazar 2021)."""
    cut, few = bench.removal, bench.few
    if not isinstance(cut, Subspace) or few.everywhere:
        return []
    labels, acts = np.asarray(bench.dev_items.rows.labels), bench.dev_items.acts[cut.site]
    means = {z: acts[torch.as_tensor(labels == z)].mean(0) for z in set(labels)}
    if missing := set(few.rows.labels) - set(means):
        return [Control("the label's mean component", NotRun(f"no dev row has the label {sorted(missing)[0]}"))]
    given = {cut.site: torch.stack([means[z] for z in few.rows.labels])}
    back = behave(bench.subject, few.rows, cut.edits("resample", few.rows.at, given)).gap
    gone = bench.removed.gap[bench.few_index]
    return [Control("the label's mean component", bench.few_draws.ratio(back - gone, few.scores.gap - gone))]


# ---- g4 ---------------------------------------------------------------------------------------------------------


def specificity(bench: Bench, spec: GateSpec) -> GateResult:
    """g4: the worst loss on tasks that have nothing to do with it, as a share of what the answer loses, both in nats.

    The share stays finite where nothing is lost elsewhere. The first `FREE` nats count as no damage.
    """
    target = bench.items.scores.logp - bench.removed.logp
    damage = bench.harm
    if not damage:
        return not_run(spec, "no neutral text of three tokens could be had: give `neutral` texts")
    own = bench.draws.mean(target)
    listed = [Control(name, Resampler(c, bench.seed + 1).mean(d), "nats lost") for name, (d, c) in damage.items()]
    worst = max(damage, key=lambda name: damage[name][0].mean())
    note = f"the answer loses {own.value:.3g} nats, {worst} most of all else; {FREE:g} nats are free"
    if own.low <= 0:
        outcome: Any = "fail" if own.high < FREE else "unclear"
        none = NotRun("the answer is not shown to lose any log-probability, so there is no share of it")
        empty = GateResult(spec.gate, spec.title, spec.role, spec.unit, outcome, spec.better, spec.margin, none,
                           raw=own, controls=tuple(listed), note=f"{none.reason}; {note}")  # fmt: skip
        return _spared(bench, empty)
    estimate, p_value = _share_lost(bench, target, *damage[worst], spec.margin or 0.0)
    result = judge(spec, estimate, p_value=p_value, raw=own, controls=listed, note=note)
    return _spared(bench, result)


def _share_lost(
    bench: Bench, target: Array, harm: Array, clusters: tuple[str, ...], margin: float
) -> tuple[Estimate, float]:
    """Nats lost elsewhere, less the free ones, over those of the answer, and the p-value of its being over a margin."""
    elsewhere = Resampler(clusters, bench.seed + 1)
    above = elsewhere.distribution(np.stack([harm, np.ones_like(harm)], 1)) - FREE
    below = bench.draws.distribution(np.stack([target, np.ones_like(target)], 1))
    # target x margin against the harm: the same comparison as of the shares, and no draw can divide by nothing
    p_value = float((1 + (above >= margin * below).sum()) / (1 + len(above)))
    drawn = above / np.maximum(below, 1e-3 * float(target.mean()))
    value = float((harm.mean() - FREE) / target.mean())
    low, high = (float(q) for q in np.quantile(drawn, [0.05, 0.95]))
    return Estimate(value, min(low, value), max(high, value), len(target), bench.draws.n_clusters), p_value


Damage = dict[str, tuple[Array, tuple[str, ...]]]


def off_target(bench: Bench) -> Damage:
    """Nats lost on each off-target task, item by item, with the items' clusters."""
    found: Damage = {}
    for other in bench.claim.off_target:
        found[other.name] = _on_examples(bench, other.dev)
    found.update(_on_neutral(bench))
    return found


def _on_examples(bench: Bench, sample: Sample) -> tuple[Array, tuple[str, ...]]:
    places = bench.some(sample, FEW)
    try:
        rows = rows_of(bench.subject, sample, bench.position, places)
    except BadPosition:  # the other task has no such column: its last token is the place
        rows = rows_of(bench.subject, sample, "last", places)
    before, after = behaves(bench.subject, rows, [(), bench.removal.edits("mean", rows.at)])
    return before.logp - after.logp, rows.clusters


def _on_neutral(bench: Bench) -> Damage:
    """Five frequent next tokens that the intact model ranks first, and the next token of neutral text.

    The removal is made at the token before, or everywhere if the claim's is. Places where the claim's own answers or
    foils come next, or are what the intact model expects, are the target and not off it. Elsewhere they are left out
    of what may come next: a fall of theirs raises all others alike, and that is the target's effect again.
    """
    texts = bench.neutral
    if not texts:
        return {}
    ids = bench.subject.tokens(list(texts))
    answers = bench.answers
    first, sure, real = _expected(bench, texts, ids)
    rng = np.random.default_rng([bench.seed, 0x4E])
    seen: dict[int, list[_Place]] = {}
    places: list[_Place] = []
    for i, row in enumerate(ids):
        for p in range(1, len(row)):
            seen.setdefault(first[i][p], []).append((i, p, first[i][p], sure[i][p]))
            if p + 1 < len(row) and row[p + 1] not in answers and first[i][p] not in answers:
                places.append((i, p, row[p + 1], real[i][p]))
    tasks: dict[str, list[_Place]] = {}
    for token in sorted((t for t in seen if t not in answers), key=lambda t: (-len(seen[t]), t))[:CLASSES]:
        kept = [seen[token][k] for k in rng.permutation(len(seen[token]))[:PER_CLASS]]
        if len({i for i, *_ in kept}) >= 5:
            tasks[f"next token {bench.subject.reader.token(token)!r}"] = kept
    tasks["neutral text"] = [places[k] for k in rng.permutation(len(places))[:PREFIXES]]
    lost = _lost_at(bench, texts, [place for kept in tasks.values() for place in kept])
    out, start = {}, 0
    for name, kept in tasks.items():
        if kept:
            out[name] = (lost[start : start + len(kept)], tuple(f"text {i}" for i, *_ in kept))
        start += len(kept)
    return out


_Place = tuple[int, int, int, float]  # which text, position, the token after it, its intact log-probability (nats)


def _logits(bench: Bench, texts: Sequence[str], edits: Sequence[Edit] = ()) -> Iterator[Float[Tensor, "token vocab"]]:
    """Logits behind every token of each text, a few texts at a time since all are held."""
    step = 16 if (bench.subject.vocab_size or 0) > 4_096 else 512
    for start in range(0, len(texts), step):
        run = bench.subject.run(list(texts[start : start + step]), edits=edits, logits="all")
        assert run.logits is not None
        for row, mask in zip(run.logits, run.mask, strict=True):
            yield row[: int(mask.sum())].float().cpu()


def _among_others(bench: Bench, logits: Float[Tensor, "*place vocab"]) -> Float[Tensor, "*place vocab"]:
    """Log-probabilities of the next token, given that it is none of the claim's answers and foils."""
    logits = logits.float().cpu().clone()
    logits[..., sorted(bench.answers)] = -torch.inf
    return torch.log_softmax(logits, -1)


def _expected(
    bench: Bench, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[list[float]], list[list[float]]]:
    """At each place of each text: the token ranked first, its log-probability, and that of the token that comes.

    Log-probabilities are those among other tokens than the claim's answers.
    """
    first: list[list[int]] = []
    sure: list[list[float]] = []
    real: list[list[float]] = []
    for logits, mine in zip(_logits(bench, texts), ids, strict=True):
        logp = _among_others(bench, logits)
        first.append(logits.argmax(-1).tolist())
        sure.append(logp.max(-1).values.tolist())
        real.append(logp[:-1].gather(1, torch.tensor(mine[1:])[:, None])[:, 0].tolist())
    return first, sure, real


def _lost_at(bench: Bench, texts: Sequence[str], places: Sequence[_Place]) -> Array:
    """Nats that the token at each place loses when the removal is made just before it (or everywhere)."""
    of: dict[int, list[int]] = {}
    for n, (i, *_) in enumerate(places):
        of.setdefault(i, []).append(n)
    asked = [[places[n][1:3] for n in mine] for mine in of.values()]
    pointed = not bench.everywhere and all(bench.subject.sites[s].has_positions for s in bench.removal.sites)
    after = (_cut_before if pointed else _cut_everywhere)(bench, [texts[i] for i in of], asked)
    out = np.zeros(len(places))
    for mine, found in zip(of.values(), after, strict=True):
        out[mine] = np.array([places[n][3] for n in mine]) - np.array(found)
    return out


_Asked = Sequence[Sequence[tuple[int, int]]]  # for each text: positions, and the token behind each that is asked for


def _cut_everywhere(bench: Bench, texts: Sequence[str], asked: _Asked) -> list[list[float]]:
    """Log-probabilities of the tokens asked for, with the removal at every position."""
    edits = bench.removal.edits("mean", "all")
    runs = (_among_others(bench, logits) for logits in _logits(bench, texts, edits))
    return [[float(logp[p, t]) for p, t in mine] for logp, mine in zip(runs, asked, strict=True)]


def _cut_before(bench: Bench, texts: Sequence[str], asked: _Asked) -> list[list[float]]:
    """The same with the removal just before each token: the first of every text in one edited run, the second ..."""
    most = max(map(len, asked), default=1)
    step, out = max(1, AT_ONCE // (most * (bench.subject.vocab_size or 1))), []
    for start in range(0, len(texts), step):
        some = asked[start : start + step]
        filled = torch.tensor([[*mine, *[mine[-1]] * (most - len(mine))] for mine in some])
        at, tokens = filled[..., 0].T, filled[..., 1].T
        runs = [Variant(bench.removal.edits("mean", place), place) for place in at]
        logp = _among_others(bench, bench.subject.sweep(texts[start : start + step], runs).logits)
        found = logp.gather(-1, tokens[..., None])[..., 0].T
        out += [row[: len(mine)].tolist() for row, mine in zip(found, some, strict=True)]
    return out


# ---- g5, g10, d6 -----------------------------------------------------------------------------------------------------


def ablation_grid(bench: Bench, spec: GateSpec) -> GateResult:
    """g5: the drop, whether the component's mean, another input's value or zero is left; the least counts.

    That it is more than random removals cost is asked once, by g2. Here it is asked whether the drop is the
    component's and not that of what was put in its place: an effect of the mean alone is METHOD-CONDITIONAL
    (Transformer Circuit Faithfulness Metrics are not Robust, Miller 2024).
    """
    found = {kind: bench.draws.mean(drop) for kind, drop in bench.grid.items()}
    worst = min(found, key=lambda kind: found[kind].low)
    assert spec.margin is not None
    split = "" if len({e.low > spec.margin for e in found.values()}) == 1 else "METHOD-CONDITIONAL: "
    told = ", ".join(f"{kind} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for kind, e in found.items())
    columns = np.stack([bench.grid[worst], np.ones(len(bench.items.rows))], 1)
    result = judge(spec, found[worst], p_value=bench.draws.p_value(columns, spec.margin),
                   controls=[Control(f"{kind} left", e) for kind, e in found.items()],
                   note=f"{split}drop with {told}; the least counts")  # fmt: skip
    return _spared(bench, result)


def own_part(bench: Bench, spec: GateSpec) -> GateResult:
    """g10: the drop when what the variable shares with the answer is left in place, and only its own part removed.

    A variable that nothing reads, but that goes with one that is used, takes that one's part along when it is erased.
    What goes with the answer is known: the removal's covariance with the variable is replaced by the one that is left
    among examples of the same answer (a partial covariance). The bounds count that this was fitted on dev. Where the
    answer follows from the variable, or the variable from the answer, nothing tells them apart and nothing is asked.
    """
    cut = bench.removal
    if not isinstance(cut, Subspace):
        return printed(spec, NotRun("not applicable: parts are removed whole, with all that they carry"))
    codes = bench.codes[0]
    answers = torch.unique(bench.dev_items.rows.answer, return_inverse=True)[1]
    apart = min(_not_following(answers, codes), _not_following(codes, answers))
    if apart < TOLD_APART:
        told = (
            f"not applicable: '{bench.claim.of}' and the answer follow from one another in all but {apart:.0%} of dev"
        )
        return printed(spec, NotRun(told), note=f"{told}; what else goes with it was removed along with it")
    acts = _last_acts(bench.dev_items, cut.site)
    kept = own_of(cut, acts, codes, answers)
    drop = bench.drop(bench.items, kept)
    again = [own_of(cut, acts[rows], codes[rows], answers[rows]) for rows in _redrawn(bench)]
    means = bench.drops(bench.few, again).mean(1)
    found = _less_sure(bench.draws.mean(drop), float(means.std(ddof=1)))
    assert spec.margin is not None
    p_value = float(stats.norm.sf((found.value - spec.margin) / max(standard_error(found), 1e-12)))
    shared = Control("all of it", bench.draws.mean(bench.claimed))
    note = f"'{bench.claim.of}' and the answer differ in {apart:.0%} of dev; of the drop {shared.estimate.value:.2f}"  # type: ignore[union-attr]
    note += f" its own part costs {found.value:.2f}"
    if found.low <= spec.margin:
        note += ": it may be that of anything that goes with the answer; add examples in which they differ"
    return _spared(bench, judge(spec, found, p_value=p_value, controls=(shared,), note=note))


def _not_following(wanted: Int[Tensor, "example"], given: Int[Tensor, "example"]) -> float:
    """Share of examples that the most frequent value of one variable, given the other, gets wrong."""
    table = torch.zeros(int(given.max()) + 1, int(wanted.max()) + 1)
    table.index_put_((given, wanted), torch.ones(len(given)), accumulate=True)
    return 1 - float(table.max(1).values.sum() / table.sum())


def own_of(
    cut: Subspace, acts: Float[Tensor, "example d"], codes: Int[Tensor, "example"], answers: Int[Tensor, "example"]
) -> Subspace:
    """A removal that takes the same away where it reads, but writes only what does not go with the answer."""

    def centred(values: Int[Tensor, "example"]) -> Tensor:
        hot = torch.nn.functional.one_hot(values, int(values.max()) + 1).double()
        return hot - hot.mean(0)

    x, z, a = acts.double(), centred(codes), centred(answers)
    x = x - x.mean(0)
    weights = torch.linalg.pinv(x.T @ z, rtol=1e-6) @ cut.left.double()  # the removal's writes by classes of z
    shared = x.T @ a @ torch.linalg.pinv(a.T @ a, rtol=1e-6) @ (a.T @ z)
    return dataclasses.replace(cut, left=(cut.left.double() - shared @ weights).to(cut.left), name="own part")


def _redrawn(bench: Bench) -> Iterator[Int[Tensor, "example"]]:
    """Places of dev items, their clusters drawn with replacement."""
    rng = np.random.default_rng([bench.seed, 0x6E])
    codes = np.unique(np.asarray(bench.dev_items.rows.clusters), return_inverse=True)[1]
    places = [np.flatnonzero(codes == c) for c in range(codes.max() + 1)]
    for _ in range(REFITS):
        yield torch.as_tensor(np.concatenate([places[c] for c in rng.integers(0, len(places), len(places))]))


def _less_sure(found: Estimate, error: float) -> Estimate:
    """An estimate whose bounds also count a standard error of what it was measured with."""
    more = stats.norm.ppf(ONE_SIDED) * error
    low, high = (
        found.value - np.hypot(found.value - found.low, more),
        found.value + np.hypot(found.high - found.value, more),
    )
    return dataclasses.replace(found, low=float(low), high=float(high))


def leftover(bench: Bench, spec: GateSpec) -> GateResult:
    """d6: points above the constant predictor that a small MLP reads after the removal."""
    cut = bench.removal
    if not isinstance(cut, Subspace):
        return printed(spec, NotRun("not applicable: parts are ablated whole"))
    dev_codes, gate_codes, classes = bench.codes
    dev, gate = (cut.erase(_last_acts(i, cut.site)) for i in (bench.dev_items, bench.items))
    right = _mlp(dev, dev_codes, gate, len(classes), bench.seed) == gate_codes
    common = gate_codes == int(torch.bincount(dev_codes).argmax())
    points = bench.draws.mean(100 * as_array(right.double() - common.double()))
    return printed(spec, points, note="points above the most frequent class; one hidden layer of 64, fitted on dev")


def _mlp(x: Tensor, codes: Tensor, there: Tensor, classes: int, seed: int) -> Int[Tensor, "item"]:
    """Guesses of a small network: full batches, weight decay, seeded."""
    scale = x.std(0).clamp_min(1e-3 * float(x.std()) + 1e-9)
    a, b = ((v - x.mean(0)) / scale for v in (x, there))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(a.shape[1], 64), torch.nn.GELU(), torch.nn.Linear(64, classes)).to(a)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.3)
        for _ in range(120):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(a), codes).backward()
            optimizer.step()
    with torch.no_grad():
        return net(b).argmax(-1)


# ---- f7 ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescue:
    """Rescuers chosen on dev with, on the gate items, the joint drop beyond that of the rescuer alone."""

    names: tuple[str, ...]
    beyond: tuple[Estimate, ...]
    joint: tuple[Estimate, ...]
    tried: int
    margin: float

    @property
    def best(self) -> int:
        return max(range(len(self.beyond)), key=lambda k: self.beyond[k].low)

    @property
    def fired(self) -> bool:
        return bool(self.beyond) and self.beyond[self.best].low > self.margin


@dataclass(frozen=True, eq=False)
class _Beside:
    """One place that may make up for the claimed one: its removal beside the claim's, and that by itself."""

    name: str
    cut: Removal
    alone: Removal
    position: str | int


def find_rescuers(bench: Bench) -> Rescue:
    """Remove each candidate with the claim's part on dev, and test the five that add most on gate items.

    For a subspace the candidates are the same variable erased (LEACE, fitted on dev) at other sites and positions;
    for parts, other parts of the same type.
    """
    candidates = _parts_beside(bench) if isinstance(bench.removal, PartSet) else _subspaces_beside(bench)
    small = bench.small(2 * SCREEN)
    sample = _sample_of(bench.dev, small.rows)
    added = [float(beyond.mean()) for beyond, _ in _beyond(bench, small, sample, candidates)]
    chosen = [candidates[i] for i in np.argsort(-np.asarray(added), kind="stable")[:RESCUERS]] if candidates else []
    assert bench.gate is not None
    runs = _beyond(bench, bench.few, _sample_of(bench.gate, bench.few.rows), chosen)
    return Rescue(
        tuple(c.name for c in chosen), tuple(bench.few_draws.mean(b) for b, _ in runs),
        tuple(bench.few_draws.mean(j) for _, j in runs), len(candidates), bench.claim.smallest_effect,
    )  # fmt: skip


def _sample_of(pool: Sample, rows: Rows) -> Sample:
    """The examples behind some rows, needed where another position is looked for."""
    return pool.take(rows.places)


def _beyond(bench: Bench, rows: Intact, sample: Sample, beside: Sequence[_Beside]) -> list[tuple[Array, Array]]:
    """For each place the joint drop beyond its own, and the joint drop, item by item, in clean ranges.

    Its own is that of whichever costs more by itself: the removal as it was fitted beside the claim's, which need not
    fit a stream that still has the claim's part, or the one fitted on the intact model.
    """
    mine, n = bench.removal.edits("mean", rows.rows.at), len(beside)
    at = [bench.subject.where(place.position, sample) for place in beside]
    others = [place.cut.edits("mean", where) for place, where in zip(beside, at, strict=True)]
    whole = [place.alone.edits("mean", where) for place, where in zip(beside, at, strict=True)]
    found = gaps(bench.subject, rows.rows, [*others, *whole, *((*mine, *other) for other in others)])
    kept = [min(pair, key=lambda gap: float(gap.mean())) for pair in zip(found[:n], found[n : 2 * n], strict=True)]
    joint = found[2 * n :]
    return [((a - j) / bench.range, (rows.scores.gap - j) / bench.range) for a, j in zip(kept, joint, strict=True)]


def _subspaces_beside(bench: Bench) -> list[_Beside]:
    """The variable erased at other sites, and at other positions of the same site.

    Each is fitted while the claim's removal is in place: a part that only steps in then shows nothing before.
    """
    cut, sample = bench.removal, _sample_of(bench.dev, bench.dev_items.rows)
    assert isinstance(cut, Subspace)
    here = "last" if bench.everywhere else bench.position
    wanted: list[tuple[str, str | int]] = [(site, here) for site in like_sites(bench.subject, cut.site)]
    wanted += [
        (cut.site, p)
        for p in ("last", *sample.factor_names)
        if p != here and bench.subject.sites[cut.site].has_positions
    ]
    codes, _, classes = bench.codes
    found, reads = [], []
    for site, position in wanted[:24]:
        try:
            at = bench.subject.where(position, sample)
            reads.append((site, position, Read(site, at)))
        except BadPosition:  # this factor does not stand in the texts
            continue
    mine = cut.edits("mean", bench.dev_items.rows.at)
    wanted_reads = [r for _, _, r in reads]
    runs = [bench.subject.run(sample.texts, read=wanted_reads, edits=e) for e in (mine, ())] if reads else []
    for site, position, read in reads:
        beside, alone = (
            Subspace(site, *erasure(run[read].flatten(1), codes, len(classes), shrink=True)) for run in runs
        )
        if beside.rank:
            place = "all" if bench.everywhere else position
            found.append(_Beside(f"{site} at {position}", beside, alone, place))
    return found


def _parts_beside(bench: Bench) -> list[_Beside]:
    finding = bench.claim.finding
    assert isinstance(finding, Parts)
    kinds = {part_type(p) for p in finding.parts}
    others = [p for p in finding.universe if p not in set(finding.parts) and part_type(p) in kinds]
    order = np.random.default_rng([bench.seed, 0x5E]).permutation(len(others))[:RESCUER_POOL]
    picked: list[Part] = [others[i] for i in order]
    names = [p.site if p.unit is None else f"{p.site}[{p.unit}]" for p in picked]
    cuts = [part_set([part], bench.dev_items) for part in picked]
    return [_Beside(name, cut, cut, bench.position) for name, cut in zip(names, cuts, strict=True)]


def redundancy(bench: Bench, spec: GateSpec) -> GateResult:
    """f7: fires where a removal that costs nothing alone costs more than the margin beyond a rescuer's own."""
    found = bench.rescuers
    if found is None:
        alone = bench.draws.mean(bench.claimed)
        return falsifier(spec, False, alone, note="not looked for: the removal is not shown to cost nothing alone")
    if not found.beyond:
        return falsifier(spec, False, NotRun("nothing of the same kind could make up for it"), note="no candidates")
    best = found.best
    listed = [Control(f"with {n}", j, "joint drop") for n, j in zip(found.names, found.joint, strict=True)]
    told = f"{found.tried} candidates on dev, {len(found.names)} tested; "
    told += f"redundant with {found.names[best]}: claim both together" if found.fired else "no rescuer found"
    return falsifier(spec, found.fired, found.beyond[best], controls=tuple(listed),
                     strongest=f"with {found.names[best]}", note=told)  # fmt: skip


# ---- f8, r9 -----------------------------------------------------------------------------------------------------


def shift(bench: Bench, spec: GateSpec) -> GateResult:
    """f8: fires if, on the shift pool, the upper bound of the drop is under half of the gate's."""
    if bench.shift is None:
        return not_run(spec, "no shift pool was given", applies=False)
    there = bench.intact(bench.shift, ITEMS)
    found = Resampler(there.rows.clusters, bench.seed).mean(bench.drop(there, bench.removal))
    half = float(bench.claimed.mean()) / 2
    here = Control("the gate pool", bench.draws.mean(bench.claimed))
    return falsifier(spec, half > 0 and found.high < half, found, controls=(here,),
                     note=f"fires if the upper bound is under {half:.2f} clean ranges")  # fmt: skip


def from_outside(bench: Bench, spec: GateSpec) -> GateResult:
    """r9: masking the words most associated with the label, and fine-tuning the behaviour away."""
    drops: dict[str, Array] = {}
    costs = []
    for name, (drop, cost) in _rivals(bench).items():
        if isinstance(drop, NotRun):
            costs.append(f"{name}: {drop.reason}")
            continue
        drops[name] = drop
        costs.append(f"{name}: drop {drop.mean():.2f} at {cost:+.3f} nats a neutral token")
    own = bench.harm["neutral text"][0].mean() if "neutral text" in bench.harm else 0.0
    costs.append(f"the claim: drop {bench.claimed[bench.few_index].mean():.2f} at {own:+.3f} where it is made")
    if not drops:
        return not_run(spec, "; ".join(costs), applies=False)
    return against(spec, bench.claimed[bench.few_index], drops, bench.few_draws, note="; ".join(costs))


def _rivals(bench: Bench) -> Mapping[str, tuple[Array | NotRun, float]]:
    return {"masked words": _masked(bench), "fine-tuned away": _tuned_away(bench)}


def _tuned_away(bench: Bench) -> tuple[Array | NotRun, float]:
    """A copy trained on dev prompts to prefer the foil, for as many passes as the claim had dev items."""
    rows = bench.dev_items.rows.take(range(min(TUNED_PASSES, len(bench.dev_items.rows))))
    if not bool((torch.cat([rows.foil, bench.few.rows.foil]) >= 0).all()):
        return NotRun("there are rows without a foil to train towards"), 0.0
    sample = _sample_of(bench.dev, rows)
    task = SteeringTask(sample, rows.foil, rows.answer, bench.neutral)
    spent = Budget(examples=len(rows), passes=len(rows))
    rule = FineTune(seed=bench.seed, halvings=4).fit(bench.subject, task, budget=spent, used=spent)
    if isinstance(rule, NotRun):
        return rule, 0.0
    after = behave(rule.tuned, bench.few.rows).gap
    texts = list(bench.neutral)
    cost = float((next_token_loss(rule.tuned, texts) - next_token_loss(bench.subject, texts)).mean()) if texts else 0.0
    return (bench.few.scores.gap - after) / bench.range, cost


def _masked(bench: Bench) -> tuple[Array | NotRun, float]:
    """Replace the words that say most about the label (chi-squared on dev) by a common word that says nothing."""
    ranked, filler = _telling_words(bench.dev_items.rows)
    if not ranked:
        return NotRun("no word of the texts goes with the label"), 0.0
    few = bench.dev_few.take(range(min(4 * SCREEN, len(bench.dev_few.rows))))
    best = max((1, 4, 16), key=lambda k: float((few.scores.gap - _without(bench, few.rows, ranked[:k], filler)).mean()))
    words = ranked[:best]
    drop = (bench.few.scores.gap - _without(bench, bench.few.rows, words, filler)) / bench.range
    texts = list(bench.neutral)
    changed = [_mask(t, words, filler) for t in texts]
    cost = (
        float((next_token_loss(bench.subject, changed) - next_token_loss(bench.subject, texts)).mean())
        if texts
        else 0.0
    )
    return drop, cost


def _telling_words(rows: Rows) -> tuple[list[str], str]:
    """Words by how much their presence goes with the label, and a frequent one that does not."""
    labels = np.unique(np.asarray(rows.labels), return_inverse=True)[1]
    held = [set(t.split()) for t in rows.texts]
    words = sorted(set().union(*held))
    present = np.array([[w in h for w in words] for h in held], dtype=np.float64)
    share = present.mean(0)
    usual = (share > 0.02) & (share < 0.98)
    strength = np.zeros(len(words))
    for c in range(labels.max() + 1):
        mine = labels == c
        expected = share * mine.sum()
        strength += (present[mine].sum(0) - expected) ** 2 / np.maximum(expected * (1 - share), 1e-9)
    strength[~usual] = 0.0
    ranked = [words[i] for i in np.argsort(-strength, kind="stable")[:16] if strength[i] > 6.6]  # p < 0.01 for one word
    quiet = [i for i in np.argsort(-share, kind="stable") if words[i] not in ranked and words[i].isalnum()]
    return ranked, words[quiet[0]] if quiet else words[0]


def _mask(text: str, words: Sequence[str], filler: str) -> str:
    return " ".join(filler if w in words else w for w in text.split())


def _without(bench: Bench, rows: Rows, words: Sequence[str], filler: str) -> Array:
    texts = tuple(_mask(t, words, filler) for t in rows.texts)
    return behave(bench.subject, dataclasses.replace(rows, texts=texts, at="last")).gap

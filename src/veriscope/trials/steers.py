"""The gates of C4 STEERS, in the order of its battery.

Everything is chosen on dev: the working dose, the strongest random edit, the strongest simple control. The gate pool
is only scored, and neutral text comes in two halves that share no text, one for choosing and one for the gate.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.claims.battery import GateSpec
from veriscope.claims.steers import Steers
from veriscope.errors import NotRun, UserError
from veriscope.examples import Sample
from veriscope.findings import Change
from veriscope.methods import MeanDifference, cluster_folds, encode, method
from veriscope.methods.mean_difference import class_means
from veriscope.rivals import Budget, FineTune, LogitBias, PromptPrefix, SteeringRival, SteeringTask
from veriscope.subjects import Add, Edit, Subject
from veriscope.trials.doses import (
    CONTROL_TOKENS,
    HEADROOM,
    NATS,
    POINTS,
    Dose,
    Neutral,
    Normalised,
    Prompts,
    Steering,
    Words,
    beside_tokens,
    budget_use,
    choose_doses,
    repetition,
    worst_use,
)
from veriscope.trials.evidence import Control, Estimate, GateResult
from veriscope.trials.judge import Effort, against, falsifier, judge, not_run, printed
from veriscope.trials.neutral import neutral_texts
from veriscope.trials.reading import as_array
from veriscope.trials.statistics import Array, Resampler, spread_of

GATE_PROMPTS = 300
DEV_PROMPTS = 96  # for gradients and power
CONTROL_PROMPTS = 120  # gate prompts that controls and rivals are scored on, beside the claim on the same ones
FINALISTS = 4  # of each family of controls, the strongest on dev, that are scored on the gate pool
DEAR = 48  # Gaussian directions, as strong as the claim, of which it is seen what they cost
AFFORDED = 12  # of these, the ones that seem to cost least, which are used at the claim's dose if it is within budget
FEW_TEXTS = 24  # neutral texts that this is seen from
SCREENED = 400  # Gaussian directions that are run on SCREEN_PROMPTS dev prompts, both ways, where that is cheap
SCREENED_PLAIN = 50  # the same elsewhere
SCREEN_PROMPTS = 12
SEARCH_PROMPTS = 32  # dev prompts on which the controls that look strongest are really run
RIVAL_PROMPTS = 48  # dev prompts that simple controls are tuned on
RIVAL_TEXTS = 24  # neutral texts on which simple controls keep to the budget, by their mean cost
WRITTEN_TEXTS = 256  # neutral texts that the subject writes itself where none are given; half choose, half judge
NEUTRAL_TEXTS = 800  # given ones that are used at most: 400 tell one point of first guesses to half a point
FIT_ROWS = 400  # dev rows that shuffled-label and other-concept vectors are made from
AGAINST = 0.05  # logits: a prompt that moves the other way by less than this is not moved
MOST_CLASSES = 12  # of a factor that is made into other-concept vectors
SAME = 0.8  # cosine from which a vector refitted on the labels stands for the claim's in the power estimate
ASSOCIATED = 0.5  # Cramer's V with the label from which a factor is no other concept


class NoWords(UserError):
    """A claim about steering that does not say which words stand for the behaviour."""

    def __init__(self, toward: str, why: str) -> None:
        super().__init__(
            f"Steers towards '{toward}': {why}. Say which word stands for each class: "
            f"targets={{'{toward}': 'its word', 'another class': 'its word'}}."
        )


@dataclass(eq=False)
class Bench:
    """A C4 trial's data. `gate` stays None until the instrument is checked and the power is known."""

    MIN_CLUSTERS: ClassVar[int] = 20
    MIN_ITEMS: ClassVar[int] = 60

    claim: Steers
    subject: Subject
    dev: Sample
    seed: int = 0
    effort: Effort = field(default_factory=Effort)
    gate: Sample | None = None
    shift: Sample | None = None
    tries: int = 1

    def __post_init__(self) -> None:
        if not self.subject.causal:
            raise UserError(
                f"{self.subject.name} sees what stands behind a token, so what a vector costs the next one can't be "
                f"measured. A claim about steering needs a model that reads from left to right: load one of those, or "
                f"ask by `mediates` what the finding does here."
            )

    # ---- the vector and where it goes

    @cached_property
    def steering(self) -> Steering:
        return Steering(self.subject, self.claim.finding.site, self.claim.place)

    @cached_property
    def change(self) -> Change:
        finding = self.claim.finding
        return finding if isinstance(finding, Change) else finding.as_change("add", self.claim.toward)

    @cached_property
    def unit(self) -> Float[Tensor, "width"]:
        """One dose towards the claim's side, in activation units."""
        assert self.change.vector is not None
        vector = self.change.vector.float()
        if float(vector.norm()) == 0:
            raise UserError(f"Claim '{self.claim.name or self.claim.of}': its vector is zero, so it can steer nothing.")
        turned = self.change.toward not in (None, self.claim.toward)
        return -vector if turned != (not any(d > 0 for d in self.claim.doses)) else vector

    @cached_property
    def doses(self) -> tuple[float, ...]:
        """Doses towards the claim's side, smallest first."""
        positive = sorted({d for d in self.claim.doses if d > 0})
        return tuple(positive or sorted({-d for d in self.claim.doses if d < 0}))

    @cached_property
    def away(self) -> tuple[float, ...]:
        """Doses to the other side: shown, not tested."""
        both = any(d > 0 for d in self.claim.doses)
        return tuple(sorted({d for d in self.claim.doses if d < 0})) if both else ()

    @cached_property
    def dose(self) -> Dose:
        """The working dose, chosen on dev and frozen before the gate pool is opened."""
        return self.chosen_doses([self.unit])[0]

    def chosen_doses(self, vectors: Sequence[Float[Tensor, "width"]], quick: bool = False) -> list[Dose]:
        """The doses of any vectors, the claim's or a control's, by one rule on the same texts."""
        return choose_doses(self.neutral[0], vectors, self.doses, later=self.neutral[1].different, quick=quick)

    def fitting(self, vectors: Sequence[Float[Tensor, "width"]], dose: float) -> list[Dose]:
        """Whether each vector keeps within the budget at one dose, by the same rule."""
        neutral, later = self.neutral[0], self.neutral[1].different
        return choose_doses(neutral, vectors, (dose,), later=later) if vectors else []

    @property
    def working(self) -> Float[Tensor, "width"]:
        """The vector at its working dose."""
        return self.unit * self.dose.value

    @cached_property
    def neutral(self) -> tuple[Neutral, Neutral]:
        """Neutral texts for choosing and for the gate, without a text in common."""
        given = list(self.claim.neutral)
        random.Random(self.seed).shuffle(given)  # a file may be in some order, and the halves must be alike
        n = NEUTRAL_TEXTS if given else WRITTEN_TEXTS
        texts = neutral_texts(self.subject, self.dev, given, n=n, new=24, seed=self.seed)
        texts = tuple(t for t in texts if len(self.subject.tokens([t])[0]) >= 3)
        different = list(dict.fromkeys(texts))  # one that occurs often counts as often, all of it in one half
        if len(different) < 12:
            raise UserError(f"{len(different)} different neutral texts are too few to measure side effects on; give at "
                            f"least 12, better {NEUTRAL_TEXTS}, as `neutral`.")  # fmt: skip
        chosen = set(different[: len(different) // 2])
        halves = tuple(t for t in texts if t in chosen), tuple(t for t in texts if t not in chosen)
        first, second = (Neutral(self.steering, h, self.seed + i, own=not given) for i, h in enumerate(halves))
        return first, second

    # ---- prompts and words

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The words of each class: given, or read from dev where the label decides the answer; else empty."""
        if self.claim.words:
            return self.claim.words
        if not (self.dev.has("label") and self.dev.has("answer")):
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for name in sorted(set(self.dev.labels)):
            words = Counter(e.answer for e in self.dev if e.label == name)
            word, count = words.most_common(1)[0]
            if word is None or count < 0.9 * words.total():
                return {}
            found[name] = (word,)
        return found if len(set(found.values())) == len(found) and self.claim.toward in found else {}

    def prompts(self, sample: Sample) -> Prompts:
        """The rows to be steered: those of another label, with their words.

        Raises:
            NoWords: Neither `targets` nor the columns say what the words are, or two of them begin alike.
        """
        toward = self.claim.toward
        kept = sample.where(lambda e: e.label != toward)
        if not len(kept):
            raise UserError(f"Every row of the {sample.pool} pool has the label '{toward}': there is nothing to steer.")
        wanted = [self._targets(e) for e in kept]
        held = [self._foils(e) for e in kept]
        words = Words(_ids(self.subject, kept.texts, wanted), _ids(self.subject, kept.texts, held))
        same = (words.target[:, :, None] == words.foil[:, None, :]) & (words.target >= 0)[:, :, None]
        if same.any():
            row = int(same.flatten(1).any(1).nonzero()[0])
            raise NoWords(toward, f"{wanted[row]} and {held[row]} begin with the same token")
        return Prompts(kept, words)

    def _targets(self, example: Any) -> tuple[str, ...]:
        if self.words:
            return self.words[self.claim.toward]
        if example.answer is None or example.foil is None:
            raise NoWords(self.claim.toward, f"'{example.text[:40]}' has no `answer` and `foil` to compare")
        return (example.answer,)

    def _foils(self, example: Any) -> tuple[str, ...]:
        if example.label in self.words:
            return self.words[example.label]
        others = tuple(w for name, words in self.words.items() if name != self.claim.toward for w in words)
        if not others and example.foil is None:
            raise NoWords(self.claim.toward, "there is no word of another class to compare with")
        return others or (example.foil,)

    @cached_property
    def dev_prompts(self) -> Prompts:
        return self.prompts(self.dev).spread(DEV_PROMPTS, self.seed)

    @cached_property
    def gate_prompts(self) -> Prompts:
        assert self.gate is not None, "the gate pool has not been opened yet"
        return self.prompts(self.gate).spread(GATE_PROMPTS, self.seed)

    @cached_property
    def few(self) -> list[int]:
        """Rows of the gate prompts that controls and rivals are scored on."""
        whole = self.gate_prompts
        place = {e.id: i for i, e in enumerate(whole.sample)}
        return sorted(place[e.id] for e in whole.spread(CONTROL_PROMPTS, self.seed).sample)

    @cached_property
    def draws(self) -> Resampler:
        return Resampler(tuple(self.gate_prompts.sample.clusters), self.seed)

    @cached_property
    def few_draws(self) -> Resampler:
        clusters = self.gate_prompts.sample.clusters
        return Resampler(tuple(clusters[i] for i in self.few), self.seed)

    # ---- what several gates use

    @cached_property
    def gradient(self) -> Float[Tensor, "width"]:
        """Mean slope of the behaviour along the added vector, over dev prompts."""
        return self.steering.gradient(self.dev_prompts).mean(0)

    @cached_property
    def both_logits(self) -> tuple[Float[Tensor, "item vocab"], Float[Tensor, "item vocab"]]:
        """Logits behind the gate prompts, as they are and at the working dose."""
        return self.steering.beside(self.gate_prompts.sample.texts, self.working)

    @cached_property
    def base(self) -> Array:
        return as_array(self.gate_prompts.words.propensity(self.both_logits[0]))

    @cached_property
    def effect(self) -> Array:
        """Change of each gate prompt's propensity at the working dose, in logits."""
        return as_array(self.gate_prompts.words.propensity(self.both_logits[1])) - self.base

    @cached_property
    def beside_tokens(self) -> tuple[Normalised, Normalised]:
        """Change of each gate prompt's targets and foils, and of tokens as likely as each, at the working dose."""
        return beside_tokens(*self.both_logits, self.gate_prompts.words)

    @cached_property
    def rungs(self) -> tuple[float, ...]:
        """Doses from 0 to the working dose at which the gate prompts are run: at most four, at least two above 0."""
        inside = [d for d in self.doses if d <= self.dose.value]
        if len(inside) == 1:
            inside = [inside[0] / 2, inside[0]]
        if len(inside) > 4:
            inside = [inside[i] for i in np.linspace(0, len(inside) - 1, 4).round().astype(int)]
        return (0.0, *inside)

    @cached_property
    def curve(self) -> Float[np.ndarray, "item rung"]:
        """Change of each gate prompt's propensity at each rung."""
        between = [self.unit * dose for dose in self.rungs[1:-1]]
        moved = as_array(self.steering.shifts(self.gate_prompts, between)) if between else ()
        return np.stack([np.zeros_like(self.base), *moved, self.effect], 1)

    @cached_property
    def slopes(self) -> Array:
        """Least-squares slope of each prompt's propensity on the dose, in logits a unit dose."""
        x = np.array(self.rungs) - np.mean(self.rungs)
        return self.curve @ x / (x @ x)

    @cached_property
    def controls(self) -> tuple[RandomEdit, ...]:
        return strongest_edits(self)

    def dev_estimate(self) -> Estimate:
        """Effect on dev less that of the strongest random edit, vectors refitted without the fold: for power (rule R7).

        Shifts and their spread grow together with the dose, so they are taken back to the dose at which the typical
        prompt moves by the smallest effect claimed, if it moves by more. At most 300 gate prompts are run, so where
        the pool has more clusters than that the estimate counts for fewer clusters than it has.
        """
        prompts = self.dev_prompts
        best = max(self.controls, key=lambda c: c.on_dev)
        vectors = [self._held_out_vectors(prompts) * self.dose.value, best.vector * best.dose.value]
        effect, control = as_array(self.steering.shifts(prompts, vectors))
        excess = effect - (control if best.on_dev > 0 else 0.0)
        typical = float(np.median(np.abs(excess)))
        excess = excess * min(1.0, self.claim.smallest_effect / max(typical, 1e-9))
        found = Resampler(tuple(prompts.sample.clusters), self.seed, draws=1_000).mean(excess)
        pool, steered = self.claim.on.gate, len(self.prompts(self.dev)) / len(self.dev)
        used = min(pool.n_clusters, GATE_PROMPTS, max(1, round(pool.n * steered)))
        return dataclasses.replace(found, clusters=max(1, round(found.clusters * pool.n_clusters / used)))

    def _held_out_vectors(self, prompts: Prompts) -> Float[Tensor, "example width"]:
        """For each dev prompt the unit made without its cluster; the frozen one where the method can't be refitted."""
        maker = Maker.of(self)
        if isinstance(maker, NotRun):
            return self.unit.expand(len(prompts), -1)
        folds = min(self.effort.folds, prompts.sample.n_clusters)
        every = [*maker.sample.clusters, *prompts.sample.clusters]
        fold = cluster_folds(every, folds, self.seed)
        inside, mine = fold[: len(maker.sample)], fold[len(maker.sample) :]
        train = torch.stack([inside != f for f in range(folds)])
        frozen = self.unit.expand(len(prompts), -1)
        if maker.toward is None or not train.any(1).all():
            return frozen
        made = maker.vectors(maker.codes.repeat(folds, 1), train, len(maker.classes), maker.toward)
        alike = float(torch.nn.functional.cosine_similarity(made.mean(0), self.unit, dim=0))
        if abs(alike) < SAME:  # a vector that was not made from these labels
            return frozen
        return np.sign(alike) * made[mine]


def _ids(subject: Subject, texts: Sequence[str], words: Sequence[Sequence[str]]) -> Int[Tensor, "example k"]:
    """First token of each word behind its text, filled up with -1."""
    most = max(len(w) for w in words)
    out = torch.full((len(texts), most), -1)
    pairs = [(i, j) for i, w in enumerate(words) for j in range(len(w))]
    found = subject.answer_ids([texts[i] for i, _ in pairs], [words[i][j] for i, j in pairs])
    out[[i for i, _ in pairs], [j for _, j in pairs]] = found.cpu()
    return out


# ---- random edits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomEdit:
    """One of the strongest edits of a family of controls: found on dev, with a dose chosen as the claim's was."""

    family: str
    vector: Float[Tensor, "width"]
    dose: Dose
    on_dev: float  # mean shift of dev prompts at its own dose, in logits
    note: str


@dataclass(frozen=True)
class Maker:
    """Makes vectors from labels the way the claim's was made.

    Each has the length that its own labels give it (the gap between its classes along it), in the claim's units (if
    the claim's vector is twice the gap of the true labels, all are twice theirs), but never more than the claim's. They
    are not stretched to the claim's length: the direction that shuffled labels give is mostly that of the largest
    variance, which may well be the claim's own, and all that tells the two apart is how far they reach.
    """

    method: Any
    sample: Sample
    acts: Float[Tensor, "example width"]
    codes: Int[Tensor, "example"]
    classes: tuple[str, ...]
    toward: int | None
    note: str
    scale: float = 1.0
    longest: float = float("inf")

    @staticmethod
    def of(bench: Bench) -> Maker | NotRun:
        """Read dev activations where the finding was made; NotRun without labels."""
        if "_maker" not in bench.__dict__:
            bench.__dict__["_maker"] = _maker(bench)
        return bench.__dict__["_maker"]

    def vectors(
        self, codes: Int[Tensor, "task example"], train: Tensor, n_classes: int, column: int | None
    ) -> Float[Tensor, "vector width"]:
        """One vector for each task, towards one class; towards each class in turn if `column` is None."""
        fitted = self.method.weights(self.acts, codes, train, n_classes=n_classes, seed=self.method.seed)
        weight = fitted.weight.float()
        both = n_classes == 2
        weight = torch.cat([-weight, weight], -1) if both else weight - weight.mean(-1, keepdim=True)
        unit = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
        along = torch.einsum("tcd,tdk->tck", class_means(self.acts, codes, train, n_classes), unit)
        own = along.diagonal(dim1=1, dim2=2)
        gap = own - (along.sum(1) - own) / (n_classes - 1)
        made = ((self.scale * gap).clamp(-self.longest, self.longest)[:, None] * unit).permute(0, 2, 1)
        return made[:, column] if column is not None else made.flatten(0, 1)

    def shuffled(self, draws: int, seed: int) -> Int[Tensor, "draw example"]:
        """Labels shuffled among examples; among clusters where each cluster has one label."""
        rng = torch.Generator().manual_seed(seed)
        names = np.unique(np.asarray(self.sample.clusters), return_inverse=True)[1]
        of = torch.as_tensor(names)
        first = torch.stack([self.codes[of == c][0] for c in range(int(of.max()) + 1)])
        if bool((first[of] == self.codes).all()) and len(first.unique()) > 1:
            return torch.stack([first[torch.randperm(len(first), generator=rng)][of] for _ in range(draws)])
        return torch.stack([self.codes[torch.randperm(len(of), generator=rng)] for _ in range(draws)])


def _maker(bench: Bench) -> Maker | NotRun:
    labelled = bench.dev.where(lambda e: e.label is not None)
    if len(set(e.label for e in labelled)) < 2:
        return NotRun("without labels of two classes there are no shuffled-label and other-concept vectors")
    none = torch.zeros(len(labelled), 1, dtype=torch.long)
    sample = Prompts(labelled, Words(none, none)).spread(FIT_ROWS, bench.seed).sample
    codes, classes = encode(sample)
    origin, position = bench.claim.finding.origin, bench.claim.finding.position
    where = "last" if position == "all" else position
    plain = MeanDifference(site=origin.site, position=where)
    try:
        made = method(origin.method, **{**origin.settings, "site": origin.site, "position": where})
        note = "made by the claim's method"
    except UserError:
        made, note = None, ""
    if not hasattr(made, "weights"):
        made, note = plain, "made as mean differences (the claim's method can't be refitted on labels)"
    acts = bench.subject.acts(sample.texts, bench.claim.finding.site, bench.subject.where(where, sample)).float()
    toward = classes.index(bench.claim.toward) if bench.claim.toward in classes else None
    maker = Maker(made, sample, acts, codes, classes, toward, note)
    true = maker.vectors(codes[None], torch.ones(1, len(codes), dtype=torch.bool), len(classes), toward or 0)
    length = float(bench.unit.norm())
    return dataclasses.replace(maker, scale=length / max(float(true.norm()), 1e-12), longest=length)


def strongest_edits(bench: Bench) -> tuple[RandomEdit, ...]:
    """Of each family of controls the edits that do most on dev.

    All members are ranked by their effect to first order, either sign; the best few and some taken blindly are then
    really run on dev prompts at the claim's working dose. A slope says nothing of a threshold that any large push
    crosses, so Gaussian vectors are also run themselves, on fewer prompts. They have the claim's length, and several of
    those that do as much as the claim choose their dose as it did, since the strongest need not be so within a budget.
    Vectors made from labels come in natural units, as the claim's does, and are used at its dose: at a dose of their
    own they would only be stretched to its length again.
    """
    prompts = bench.dev_prompts.spread(SEARCH_PROMPTS, bench.seed + 1)
    found = _gaussian(bench, prompts)
    for family, (vectors, note) in {"shuffled-label": _shuffled(bench), "other-concept": _other(bench)}.items():
        if len(vectors):
            short = _shortlist(bench, vectors, best=8, blind=2)
            moved = bench.steering.shifts(prompts, short * bench.dose.value).mean(1)
            detail = f"best of {len(vectors)} {note} ({len(short)} run on dev), at the claim's dose"
            for place in moved.argsort(descending=True)[:FINALISTS].tolist():
                found.append(RandomEdit(f"{family} vector", short[place], bench.dose, float(moved[place]), detail))
    return tuple(found)


def _gaussian(bench: Bench, prompts: Prompts) -> list[RandomEdit]:
    vectors, note = _random(bench)
    short = torch.cat([_shortlist(bench, vectors, best=16, blind=4), _screened(bench, vectors, count=DEAR)])
    moved = bench.steering.shifts(prompts, torch.cat([bench.unit[None], short]) * bench.dose.value).mean(1)
    strong = short[_down_to(moved[1:], float(moved[0]), DEAR)]
    picked = list(strong[:FINALISTS])
    doses = bench.chosen_doses(picked, quick=True)
    cheap = _cheapest(bench, strong[FINALISTS:])
    for vector, dose in zip(cheap, bench.fitting(cheap, bench.dose.value), strict=True):
        if dose.fits:
            picked, doses = [*picked, vector], [*doses, dose]
    own = bench.steering.shifts(prompts, [v * d.value for v, d in zip(picked, doses, strict=True)]).mean(1)
    best = own.argsort(descending=True)[:FINALISTS].tolist()
    detail = f"best of {len(vectors)} {note} ({len(short)} run on dev), at its own dose"
    return [
        RandomEdit("random vector", picked[i], doses[i], float(own[i]), f"{detail} {doses[i].value:g}") for i in best
    ]


def _down_to(moved: Float[Tensor, "vector"], least: float, count: int) -> Int[Tensor, "few"]:
    """The vector that does most and others evenly by rank down to one that does `least`.

    The strongest ones may cost so much that the budget leaves them a small dose, where one that is merely as strong as
    the claim keeps the claim's own.
    """
    order = moved.argsort(descending=True)[: max(int((moved >= least).sum()), count)]
    return order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long().unique()]


def _shortlist(
    bench: Bench, vectors: Float[Tensor, "vector width"], best: int, blind: int
) -> Float[Tensor, "few width"]:
    """The vectors with the largest first-order effect, each with its better sign, and a few taken as they come."""
    first = vectors @ bench.gradient.to(vectors)
    turned = vectors * torch.where(first < 0, -1.0, 1.0)[:, None]
    order = first.abs().argsort(descending=True)
    if len(vectors) <= best + blind:
        return torch.cat([turned, -turned])
    return torch.cat([turned[order[:best]], turned[order[best : best + blind]], -turned[order[-blind:]]])


def _screened(bench: Bench, vectors: Float[Tensor, "vector width"], count: int) -> Float[Tensor, "few width"]:
    """Vectors, with their sign, that do as much as the claim's on a few dev prompts."""
    prompts = bench.dev_prompts.spread(SCREEN_PROMPTS, bench.seed + 2)
    push = [Edit(bench.steering.site, Add(vectors[0]), at=bench.steering.at)]
    whole = bench.steering.at != "last" or bench.subject.plan_sweep(prompts.sample.texts, [push]).why_plain
    some = vectors[: SCREENED_PLAIN if whole else SCREENED]
    both = torch.cat([some, -some])
    moved = bench.steering.shifts(prompts, torch.cat([bench.unit[None], both]) * bench.dose.value).mean(1)
    return both[_down_to(moved[1:], float(moved[0]), count)]


def _cheapest(bench: Bench, vectors: Float[Tensor, "vector width"]) -> list[Float[Tensor, "width"]]:
    """Those that cost least at the claim's dose, as far as a few texts show it."""
    if not len(vectors):
        return []
    few = dataclasses.replace(bench.neutral[0], texts=bench.neutral[0].texts[:FEW_TEXTS])
    costs = few.costs([vector * bench.dose.value for vector in vectors])
    used = [max(e.value for e in budget_use(cost, few.draws).values()) for cost in costs]
    return [vectors[i] for i in sorted(range(len(vectors)), key=lambda i: used[i])[:AFFORDED]]


def _random(bench: Bench) -> tuple[Tensor, str]:
    """As many directions as things were tried, and never fewer than the effort's."""
    k = int(min(max(bench.effort.random, bench.tries), bench.effort.search))
    drawn = torch.randn(k, len(bench.unit), generator=torch.Generator().manual_seed(bench.seed * 1009 + 53))
    return bench.unit.norm() * drawn / drawn.norm(dim=1, keepdim=True), "Gaussian directions"


def _shuffled(bench: Bench) -> tuple[Tensor, str]:
    maker = Maker.of(bench)
    if isinstance(maker, NotRun) or maker.toward is None:
        return torch.zeros(0, len(bench.unit)), ""
    codes = maker.shuffled(bench.effort.draws, bench.seed + 31)
    train = torch.ones(codes.shape, dtype=torch.bool)
    return maker.vectors(codes, train, len(maker.classes), maker.toward), f"label shuffles, {maker.note}"


def _other(bench: Bench) -> tuple[Tensor, str]:
    """Vectors towards each value of each other factor that is not the label in disguise."""
    maker = Maker.of(bench)
    if isinstance(maker, NotRun):
        return torch.zeros(0, len(bench.unit)), ""
    found, names = [], []
    for name in maker.sample.factor_names:
        codes, values = _coded(maker.sample.factor(name))
        counts = torch.bincount(codes)
        if not 2 <= len(values) <= MOST_CLASSES or int(counts.min()) < 5:
            continue
        if _association(codes.numpy(), maker.codes.numpy()) >= ASSOCIATED:
            continue
        train = torch.ones(1, len(codes), dtype=torch.bool)
        found.append(maker.vectors(codes[None], train, len(values), None))
        names.append(name)
    if not found:
        return torch.zeros(0, len(bench.unit)), ""
    return torch.cat(found), f"values of other factors ({', '.join(names)}), {maker.note}"


def _coded(values: Sequence[str]) -> tuple[Int[Tensor, "example"], list[str]]:
    names = sorted(set(values))
    index = {v: i for i, v in enumerate(names)}
    return torch.tensor([index[v] for v in values]), names


def _association(one: Int[np.ndarray, "example"], other: Int[np.ndarray, "example"]) -> float:
    """Cramer's V of two codings: 0 independent, 1 one decides the other."""
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi = ((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return float(np.sqrt(chi / (table.sum() * max(1, min(table.shape) - 1))))


# ---- gates ---------------------------------------------------------------------------------------------------------


def gradient_direction(bench: Bench, spec: GateSpec) -> GateResult:
    """Rule R5: along the gradient the behaviour must move, at some length from 0.03 to 3 times the activations' own.

    The gradient is the mean of one half of dev, added to the other half; where the prompts want different words and it
    averages out, each prompt is given its own. If neither moves it, the behaviour is locked at this site and no vector
    could show anything.
    """
    learn, test = bench.dev_prompts.halves()
    lengths = [share * _activation_norm(bench, test) for share in (0.03, 0.1, 0.3, 1.0, 3.0)]
    draws = Resampler(tuple(test.sample.clusters), bench.seed, draws=1_000)
    mean = bench.steering.gradient(learn).mean(0, keepdim=True).expand(len(test), -1)
    note = f"mean gradient of {len(learn)} dev prompts, added to {len(test)} others"
    result = _pushed(bench, spec, test, mean, lengths, draws, note)
    if result.outcome != "pass":
        own = bench.steering.gradient(test)
        result = _pushed(bench, spec, test, own, lengths, draws, "each dev prompt's own gradient")
    if result.outcome == "pass":
        return result
    return dataclasses.replace(result, note=f"locked: {result.note} moves too little at 0.03 to 3 activation lengths")


def _pushed(
    bench: Bench, spec: GateSpec, prompts: Prompts, slopes: Float[Tensor, "example width"], lengths: Sequence[float],
    draws: Resampler, note: str,
) -> GateResult:  # fmt: skip
    """The most that a push along given slopes does, at any of the lengths."""
    unit = slopes / slopes.norm(dim=1, keepdim=True).clamp_min(1e-12)
    moved = bench.steering.shifts(prompts, [unit * length for length in lengths])
    best = as_array(moved[int(moved.mean(1).argmax())])
    return judge(spec, draws.mean(best), series={"length": tuple(lengths), "value": _means(moved)}, note=note)


def _activation_norm(bench: Bench, prompts: Prompts) -> float:
    return float(bench.subject.acts(prompts.sample.texts, bench.claim.finding.site, "last").float().norm(dim=1).mean())


def _means(moved: Float[Tensor, "row example"]) -> tuple[float, ...]:
    return tuple(float(m) for m in moved.mean(1))


def dose_response(bench: Bench, spec: GateSpec) -> GateResult:
    """g1: the effect at the working dose; and no step of the mean curve up to it may be shown to fall.

    Where one is shown to, the largest fall is what is held against the margin: it is then the claim's weakest part.
    """
    steps = np.diff(bench.curve, axis=1)
    falls = [bench.draws.mean(steps[:, i]) for i in range(steps.shape[1])]
    fallen = [i for i, e in enumerate(falls) if e.high < 0 and e.value < -AGAINST]
    worst = min(fallen, key=lambda i: falls[i].value, default=None)
    held = bench.effect if worst is None else steps[:, worst]
    why = ""
    if worst is not None:
        low, high = bench.rungs[worst : worst + 2]
        why = f"not monotone: from dose {low:g} to {high:g} it falls by {-falls[worst].value:.2f}, which is held here; "
    fit = "" if bench.dose.fits else "; NO dose was shown to be within the side-effect budget"
    assert spec.margin is not None
    return judge(
        spec, bench.draws.mean(held), p_value=bench.draws.p_value(np.stack([held, np.ones_like(held)], 1), spec.margin),
        raw=bench.draws.mean(bench.slopes), spread=spread_of(bench.effect, bench.gate_prompts.sample.clusters),
        series=_curves(bench),
        note=f"{why}working dose {bench.dose.value:g}{fit}; raw is the mean slope in logits a unit dose; "
             f"a unit is {float(bench.unit.norm()):.3g} activation units long; {_behaviour(bench)}",
    )  # fmt: skip


def _behaviour(bench: Bench) -> str:
    if not bench.words:
        return "each row's answer against its foil"
    wanted = "/".join(bench.words[bench.claim.toward])
    return f"'{wanted}' against the words of {', '.join(n for n in bench.words if n != bench.claim.toward)}"


def _curves(bench: Bench) -> dict[str, tuple[float, ...]]:
    """The mean curve, to the other side too, and that of the strongest random edit on the same prompts."""
    few = bench.gate_prompts.take(bench.few[:48])
    doses = (*bench.away, *bench.rungs)
    away = bench.steering.shifts(few, torch.stack([bench.unit * d for d in bench.away])) if bench.away else None
    values = (*(_means(away) if away is not None else ()), *(float(v) for v in bench.curve.mean(0)))
    series = {"dose": doses, "value": values}
    if bench.controls:
        best = max(bench.controls, key=lambda c: c.on_dev)
        moved = bench.steering.shifts(few, torch.stack([best.vector * d for d in bench.rungs[1:]]))
        series |= {"dose, random": bench.rungs, "value, random": (0.0, *_means(moved))}
    return series


def random_edits(bench: Bench, spec: GateSpec) -> GateResult:
    """g2: the excess over the strongest random, shuffled-label or other-concept vector of those that dev put first."""
    few, controls = bench.gate_prompts.take(bench.few), bench.controls
    moved = as_array(bench.steering.shifts(few, [c.vector * c.dose.value for c in controls]))
    best: dict[str, int] = {}
    for n in np.argsort(-moved.mean(1), kind="stable").tolist():
        best.setdefault(controls[n].family, n)
    scores = {family: moved[n] for family, n in best.items()}
    maker = Maker.of(bench)
    missing = [maker.reason] if isinstance(maker, NotRun) else []
    note = "; ".join([f"{family}: {controls[n].note}" for family, n in best.items()] + missing)
    return against(spec, bench.effect[bench.few], scores, bench.few_draws, note=note)


def control_tokens(bench: Bench, spec: GateSpec) -> GateResult:
    """g3: the effect less what happened to tokens about as likely as each word: a change of temperature leaves nothing.

    Of the target's change that of its controls is taken, and of the foil's that of its own, so what is left is the
    claimed quantity in its own units (control-token normalisation, OpenInterp registry, phase 7, 2026, there of the
    target alone). Which of the two it came from is `target_words`' to say.
    """
    words, clusters = bench.gate_prompts.words, bench.gate_prompts.sample.clusters
    target, of_target, foil, of_foil = [
        as_array(_row_mean(values, ids))
        for found, ids in zip(bench.beside_tokens, words.both, strict=True)
        for values in (found.change, found.control)
    ]
    usual = of_target - of_foil
    beyond = bench.effect - usual
    control = Control(f"{CONTROL_TOKENS} tokens as likely as each word, in place of the words", bench.draws.mean(usual))
    distance = float(bench.beside_tokens[0].distance[words.target >= 0].mean())
    note = (
        f"target {target.mean():+.2f} logits, its controls {of_target.mean():+.2f}; foil {foil.mean():+.2f}, its "
        f"controls {of_foil.mean():+.2f}; controls lie {distance:.2f} nats from the target"
    )
    assert spec.margin is not None
    columns = np.stack([beyond, np.ones_like(beyond)], 1)
    return judge(spec, bench.draws.mean(beyond), p_value=bench.draws.p_value(columns, spec.margin),
                 raw=bench.draws.mean(bench.effect), controls=(control,), strongest=control.name,
                 spread=spread_of(beyond, clusters), note=note)  # fmt: skip


def target_words(bench: Bench, spec: GateSpec) -> GateResult:
    """g10: the rise of the target words beyond tokens about as likely, without the one that moves most on dev.

    A vector that writes one token leaves nothing of it, and one that only lowers the foil shows none. Where the words
    have a like share in an effect, targets and foils, it is half of the effect: a quarter of the claimed one is asked.
    Of the rise with the first word and without it, the lower counts.
    """
    ids, clusters = bench.gate_prompts.words.target, tuple(bench.gate_prompts.sample.clusters)
    found = bench.beside_tokens[0]
    risen, draws = as_array(_row_mean(found.change - found.control, ids)), bench.draws
    whole = draws.mean(risen)
    others = _without_first(bench, found.change - found.control, ids)
    if isinstance(others, str):
        note = others
    else:
        rest, rows, word = others
        narrower = Resampler(tuple(clusters[i] for i in rows), bench.seed)
        there = narrower.mean(rest)
        note = f"all words {whole.value:+.2f}; without '{word}', which moves most, {there.value:+.2f}"
        if there.low < whole.low:
            risen, draws, clusters = rest, narrower, narrower.clusters
    assert spec.margin is not None
    columns = np.stack([risen, np.ones_like(risen)], 1)
    return judge(spec, draws.mean(risen), p_value=draws.p_value(columns, spec.margin), raw=whole,
                 spread=spread_of(risen, clusters), note=note)  # fmt: skip


def _row_mean(values: Float[Tensor, "example k"], ids: Int[Tensor, "example k"]) -> Float[Tensor, "example"]:
    there = (ids >= 0).to(values.dtype)
    return (values * there).sum(1) / there.sum(1).clamp_min(1)


def _without_first(bench: Bench, values: Tensor, ids: Tensor) -> tuple[Array, list[int], str] | str:
    """Normalised change of the rows' other words, without the word that moves most on dev."""
    if len(ids[ids >= 0].unique()) < 2:
        return "one word only, so a vector that just writes that word would pass (see d9)"
    dev = bench.dev_prompts
    moved, _ = beside_tokens(*bench.steering.beside(dev.sample.texts, bench.working), dev.words)
    gain = (moved.change - moved.control)[dev.words.target >= 0]
    names = dev.words.target[dev.words.target >= 0]
    total = {int(t): float(gain[names == t].sum()) for t in names.unique()}
    first = max(total, key=lambda t: total[t])
    kept = torch.where(ids == first, -1, ids)
    rows = (kept >= 0).any(1)
    if int(rows.sum()) < 20:
        return "too few rows have another word than the one that moves most"
    rest = _row_mean(values, kept)[rows]
    return as_array(rest), rows.nonzero()[:, 0].tolist(), bench.subject.reader.token(first)


def reliability(bench: Bench, spec: GateSpec) -> GateResult:
    """g4: share of prompts whose slope is negative (Analyzing the Generalization and Reliability of Steering
    Vectors, Tan 2024); one that moves by under 0.05 logits at the working dose is not counted as moved.
    """
    turned = (bench.slopes * bench.dose.value < -AGAINST).astype(float)
    columns = np.stack([turned, np.ones_like(turned)], 1)
    assert spec.margin is not None
    still = float((np.abs(bench.slopes * bench.dose.value) <= AGAINST).mean())
    return judge(spec, bench.draws.mean(turned), p_value=bench.draws.p_value(columns, spec.margin, better="lower"),
                 spread=spread_of(bench.slopes, bench.gate_prompts.sample.clusters),
                 note=f"spread of the slopes in logits a unit dose; {still:.0%} of prompts do not move")  # fmt: skip


def side_effects(bench: Bench, spec: GateSpec) -> GateResult:
    """g5: cross-entropy and right first guesses on the gate half of the neutral texts, and the rows' own tasks.

    Each is a share of its budget (0.02 nats, 1 point); the one that uses most decides, and must be shown to be
    within by its upper bound.
    """
    neutral = bench.neutral[1]
    used = budget_use(neutral.cost(bench.working), neutral.draws)
    own = _own_answers(bench)
    if own is not None:
        used["the rows' own answers"] = bench.draws.mean(own / POINTS)
    name = worst_use(used)
    listed = tuple(Control(f"{n} ({NATS if n == 'cross-entropy' else POINTS:g})", e) for n, e in used.items())
    fits = "" if bench.dose.fits else f"no dose was shown to be within {HEADROOM:.0%} of the budget on dev; "
    result = judge(
        spec, used[name], series={"dose": bench.dose.tried, "value": bench.dose.used},
        note=f"{fits}decided by {name}; {neutral.different} texts, {neutral.tokens:,} positions; {_source(bench)}; "
             f"{_fluency(bench)}",
    )  # fmt: skip
    return dataclasses.replace(result, controls=listed)


def _source(bench: Bench) -> str:
    own = "neutral texts written by the subject itself, costs on average over its own next token"
    return "neutral texts as given" if bench.claim.neutral else own


def _own_answers(bench: Bench) -> Array | None:
    """Fall of each gate prompt's own right answer, where its answer is none of the behaviour's words."""
    sample = bench.gate_prompts.sample
    if not (bench.words and sample.has("answer") and sample.has("foil")):
        return None
    ours = {w for words in bench.words.values() for w in words}
    if any(e.answer in ours or e.foil in ours for e in sample):
        return None
    words = Words(_ids(bench.subject, sample.texts, [(a,) for a in sample.answers]),
                  _ids(bench.subject, sample.texts, [(f,) for f in sample.foils]))  # fmt: skip
    before, after = (as_array((words.propensity(x) > 0).double()) for x in bench.both_logits)
    return before - after


def _fluency(bench: Bench) -> str:
    """Repetition in what the subject writes after a few dev prompts, steered and not."""
    subject = bench.subject
    longest = subject.context or 10**9
    texts = [t for t in bench.dev_prompts.sample.texts if len(subject.tokens([t])[0]) + 24 <= longest][:16]
    if not texts or not subject.causal or not subject.has_logits:
        return "repetition not measured: the subject writes no text"
    plain = subject.generate(texts, max_new_tokens=24)
    steered = subject.generate(texts, max_new_tokens=24, edits=bench.steering.edits(bench.working))
    return f"repeated three-word runs in written text {repetition(plain):.0%} before, {repetition(steered):.0%} after"


def simple_control(bench: Bench, spec: GateSpec) -> GateResult:
    """r6: share of prompts where the target beats the foil, less that of the best simple control within the budget."""
    found = bench.__dict__.setdefault("_rivals", None) or rival_scores(bench)
    bench.__dict__["_rivals"] = found
    scores, notes = found
    if not scores:
        return not_run(spec, "; ".join(notes) or "no simple control could be run", applies=spec.role == "gate")
    words = bench.gate_prompts.words
    mine = as_array((_first(words).propensity(bench.both_logits[1]) > 0).double())[bench.few]
    series = {"parity margin": (0.05,)}
    if not mine.any() and not any(s.any() for s in scores.values()):
        return not_run(spec, "neither the vector nor any simple control makes the target win on any prompt within the "
                             "budget", applies=spec.role == "gate")  # fmt: skip
    note = f"share of {len(mine)} prompts where the target beats the foil, within the same budget; " + "; ".join(notes)
    result = against(spec, mine, scores, bench.few_draws, series=series, note=note)
    level = result.outcome == "unclear" and bool(result.estimate) and result.estimate.high <= 0  # type: ignore[union-attr]
    return dataclasses.replace(result, outcome="fail") if level and spec.role == "gate" else result


def _first(words: Words) -> Words:
    """Only the first word of each side: what the simple controls are tuned for."""
    return Words(words.target[:, :1], words.foil[:, :1])


def rival_scores(bench: Bench) -> tuple[Mapping[str, Array], list[str]]:
    """For each simple control, tuned on dev within the side-effect budget: on which gate prompts the target wins.

    Compute is that of making the finding: one pass over the dev rows for each thing tried, and the choice of the dose.
    A pass of fine-tuning goes backward as well and counts for three.
    """
    dev, neutral = bench.dev_prompts.spread(RIVAL_PROMPTS, bench.seed), bench.neutral[0]
    task = SteeringTask(dev.sample, dev.words.target[:, 0], dev.words.foil[:, 0], neutral.texts[:RIVAL_TEXTS], NATS)
    passes = len(bench.dev) * bench.claim.finding.origin.tried + len(bench.dose.tried) * len(neutral.texts)
    used = Budget(examples=len(dev), passes=passes, trials=bench.tries)
    worded = dataclasses.replace(used, trials=max(bench.tries, len(bench.doses)))  # a wording is as cheap as a dose
    trained = dataclasses.replace(used, passes=max(1, passes // 3))
    few = bench.gate_prompts.take(bench.few)
    scores, notes = {}, []
    for name, rival in simple_controls(bench.seed).items():
        allowed = worded if isinstance(rival, PromptPrefix) else trained if isinstance(rival, FineTune) else used
        rule = rival.fit(bench.subject, task, budget=allowed, used=allowed)
        if isinstance(rule, NotRun):
            notes.append(f"{name}: {rule.reason}")
            continue
        moved = rule.propensity(bench.subject, few.sample, few.words.target[:, 0], few.words.foil[:, 0])
        scores[name] = as_array((moved > 0).double())
    return scores, notes


def simple_controls(seed: int) -> dict[str, SteeringRival]:
    """What one would try without looking inside, by name."""
    return {
        "prompt prefix": PromptPrefix(shots=(), seed=seed),
        "few-shot prompt": PromptPrefix(templates=(), seed=seed),
        "logit bias": LogitBias(),
        "fine-tuning": FineTune(seed=seed),
    }


def shift(bench: Bench, spec: GateSpec) -> GateResult:
    """f7: fires if, on the shift pool, the upper bound of the effect is under half of the gate's.

    Only where there is something to lose: a gate effect that is itself under the smallest one claimed fails g1.
    """
    if bench.shift is None:
        return not_run(spec, "no shift pool was given", applies=False)
    if not len(bench.shift.where(lambda e: e.label != bench.claim.toward)):
        return not_run(spec, f"every row of the shift pool is '{bench.claim.toward}' already", applies=False)
    prompts = bench.prompts(bench.shift).spread(GATE_PROMPTS, bench.seed)
    there = as_array(bench.steering.shifts(prompts, bench.working[None])[0])
    found = Resampler(tuple(prompts.sample.clusters), bench.seed).mean(there)
    half = float(bench.effect.mean()) / 2
    here = Control("the gate pool", bench.draws.mean(bench.effect))
    worth = 2 * half >= bench.claim.smallest_effect
    return falsifier(spec, worth and found.high < half, found, controls=(here,),
                     note=f"fires if the upper bound is under {half:.2f} logits; {len(prompts)} prompts")  # fmt: skip


def lock(bench: Bench, spec: GateSpec) -> GateResult:
    """d8: the vector and a random one at up to 3 times the activations' own length; "locked" if neither moves it.

    Run only where the working dose does not move it already.
    """
    if abs(bench.effect.mean()) > AGAINST * 10:
        return printed(spec, bench.draws.mean(bench.effect), note="not locked: the working dose moves it")
    few = bench.gate_prompts.take(bench.few[:50])
    norm = _activation_norm(bench, few)
    lengths = tuple(share * norm for share in (0.3, 1.0, 3.0))
    ours, other = bench.unit / bench.unit.norm(), _random(bench)[0][0] / bench.unit.norm()
    moved = bench.steering.shifts(few, torch.stack([v * x for v in (ours, other) for x in lengths]))
    size = moved.abs().mean(1)
    found = {"the vector": size[:3].max(), "a random one": size[3:].max()}
    free = [name for name, most in found.items() if most > 0.5]
    note = f"not locked: moved by {' and by '.join(free)}" if free else "locked: moved by neither vector nor random one"
    top = as_array(moved[:3][int(size[:3].argmax())])
    draws = Resampler(tuple(few.sample.clusters), bench.seed, draws=1_000)
    return printed(spec, draws.mean(top), series={"length": lengths, "value": _means(moved[:3]),
                                                  "value, random": _means(moved[3:])}, note=note)  # fmt: skip


def writer(bench: Bench, spec: GateSpec) -> GateResult:
    """d9: how much of the effect is there when the vector is added after the last block, where nothing can respond.

    A vector that only writes its token does all of it there, and does it on neutral text as well. It is named a writer
    if over 80% of the effect is direct, or if it lies along the unembedding of the words (cosine over 0.9). This is
    printed and not judged: late in a model a true direction writes its words too, and with one word a class nothing
    tells the two apart. Several words a class do, see `control_tokens`.
    """
    last, site = f"blocks.{bench.subject.n_blocks - 1}.resid_post", bench.claim.finding.site
    if last not in bench.subject.sites or bench.subject.site(last).size != len(bench.unit):
        why = "no residual stream of the vector's width stands behind the site"
        return printed(spec, NotRun(why), note=why)
    few = bench.gate_prompts.take(bench.few)
    direct = Steering(bench.subject, last, bench.claim.place)
    moved = as_array(direct.shifts(few, bench.working[None])[0])
    total = bench.effect[bench.few]
    share = bench.few_draws.ratio(moved, total)
    there = _on_neutral(bench)
    cosine = _cosine(bench)
    note = f"{share.value:.0%} of the effect is direct" + (", as it is added after all blocks" if site == last else "")
    note += f", {there:.0%} is there on neutral text too" if there is not None else ""
    note += f"; cosine with the unembedding of target - foil {cosine:+.2f}" if cosine is not None else ""
    if site != last and (share.low > 0.8 or (cosine or 0) > 0.9):
        note += "; a WRITER: it puts these words on the output itself, so nothing is shown but that they are moved"
    return printed(spec, share, note=note)


def _on_neutral(bench: Bench) -> float | None:
    """Mean shift of target against foil at the end of neutral texts, as a share of that on the prompts."""
    if not bench.words or abs(bench.effect.mean()) < 1e-6:
        return None
    texts = bench.neutral[1].texts[:24]
    words = bench.gate_prompts.words.take([0] * len(texts))
    plain, steered = bench.steering.beside(texts, bench.working)
    return float(words.propensity(steered - plain).mean() / bench.effect.mean())


def _cosine(bench: Bench) -> float | None:
    head = getattr(bench.subject.module, "lm_head", None)
    weight = getattr(head, "weight", None)
    if weight is None or weight.shape[1] != len(bench.unit):
        return None
    words = bench.gate_prompts.words
    rows = [weight[ids[ids >= 0].unique()].detach().float().cpu().mean(0) for ids in (words.target, words.foil)]
    return float(torch.nn.functional.cosine_similarity(rows[0] - rows[1], bench.unit, dim=0))

"""Bed P1: features planted into a small network whose truth is known by construction.

The network reads texts like `a3 b7 c1 n45 n210 ... t12`. At every position its residual stream is

    token embedding (type tokens t*: large; nuisance tokens n*: the noise; a*, b*, c*: none)
    + the features: a table looked up by the triple (a, b, c), written along one random direction each.

A feature is a function of the whole triple, so no bag of words carries it, and triples are the clusters, so
no table learnt on dev helps on the gate pool. The head reads some features (used) and not others (unused);
a leaked label is also an input token; a memorised label is a random function of the type token.

The builder and its dials are in `planted_bed`, the network in `planted_network`, the self-test in `planted_effects`.
Here are the claims. Two kinds of trap are not planted: an expressive alignment or probe, since the families of these
claim types are linear and no method here fits another, and a dormant pathway, which has a bed of its own.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.claims.represents import Represents
from veriscope.claims.steers import Steers
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Sample
from veriscope.findings import Change, Reading
from veriscope.methods import MeanDifference, method
from veriscope.methods.searched_direction import SearchedDirection
from veriscope.subjects import Subject
from veriscope.zoo.planted_bed import ANSWERS, DIGITS, NUISANCE, TYPES, WIDTH, Planted
from veriscope.zoo.planted_effects import disagreements, lost_beyond_matched, self_test
from veriscope.zoo.planted_information import bits_of_gap, gap_of_bits
from veriscope.zoo.planted_network import (
    FEATURES,
    LEAKED,
    LOCKED,
    LOUD,
    NOISE_WORDS,
    SECOND,
    SPARE,
    THING_LABEL,
    UNUSED,
    USED,
    WIRED,
    PlantedModel,
)

SITE = "residual"
CLEAR = 0.99  # bits about a feature where the claim is not about how well it can be read
DEV_SIZE: dict[str, Any] = {}
FINAL_SIZE: dict[str, Any] = {"width": 80, "digits": 20, "types": 64}
ROWS = {"C1": 2_400, "C2": 3_000, "C3": 1_800, "C4": 800}
BUILDS = {"C1": "represents", "C2": "mediates", "C3": "necessary", "C4": "steers"}

Kind = tuple[bool, str, str, dict[str, Any]]  # truth, grade, trap, settings of the build


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a bed of its own seed."""
    kinds = {"C1": C1_KINDS, "C2": C2_KINDS, "C3": C3_KINDS, "C4": C4_KINDS}.get(claim_type, ())
    first = seed * 100_000 + (FINAL if final else 0)
    size = FINAL_SIZE if final else DEV_SIZE
    out = []
    for truth, grade, trap, settings in kinds:
        for i in range(count):
            usual = {"rows": ROWS[claim_type], **size, "method_name": ("MeanDifference", "LogisticProbe")[i % 2]}
            chosen = {**usual, **settings, "seed": first + i}
            build = f"veriscope.zoo.planted:{BUILDS[claim_type]}"
            out.append(Planting(claim_type, truth, grade, trap, build, tuple(chosen.items())))
    return out


# ---- findings, made as a user would make them


def finding_of(bed: Planted, subject: Subject, dev: Sample, made: str, method_name: str) -> Any:
    """Fit on dev what a claim is about.

    Args:
        made: "fitted" by the method; "shuffled": by the method, on labels shuffled among the examples; "given": the
            label's own planted direction, written down by hand; "searched": the best of 400 random directions.
    """
    if made == "searched":
        return SearchedDirection(site=SITE, count=400, seed=bed.seed).fit(subject, dev)
    if made == "shuffled":
        order = np.random.default_rng([bed.seed, 0x5F]).permutation(len(dev))
        return method(method_name, site=SITE, seed=bed.seed).fit(subject, dev.relabel([dev.labels[i] for i in order]))
    found = method(method_name, site=SITE, seed=bed.seed).fit(subject, dev)
    return along(found, bed.written(dev.variable)[0]) if made == "given" else found


def along(reading: Reading, direction: Float[Tensor, "width"]) -> Reading:
    """The same reading with another direction, its boundary at the mean activation."""
    weight = (direction / direction.norm())[:, None]
    return dataclasses.replace(reading, weight=weight, bias=-(reading.centre @ weight))


def vector_of(subject: Subject, dev: Sample, vector: Float[Tensor, "width"], toward: str) -> Change:
    """A vector that was written down and not fitted."""
    origin = MeanDifference(site=SITE).fit(subject, dev).origin
    origin = dataclasses.replace(origin, method="by hand", settings={})
    return Change("add", SITE, "last", origin, vector=vector, toward=toward)


def _sized(smallest_effect: float | None) -> dict[str, Any]:
    return {} if smallest_effect is None else {"smallest_effect": smallest_effect}


# ---- C1 REPRESENTS


def represents(
    variable: str,
    seed: int,
    method_name: str,
    made: str = "fitted",
    shift: bool = False,
    smallest_effect: float | None = None,
    lopsided: bool = False,
    **dials: Any,
) -> tuple[Represents, Subject]:
    """A C1 claim about one of the bed's variables; see `finding_of` for `made`, `Planted` for the dials.

    Args:
        lopsided: Fitted on other texts, nine times as many as the trial's controls may learn from.
    """
    bed = Planted(seed=seed, **dials)
    subject = bed.subject()
    learnt, data = bed.lopsided(variable) if lopsided else (bed.examples(variable, shift),) * 2
    finding = finding_of(bed, subject, learnt.dev, made, method_name)
    name = f"{variable} ({method_name}, {made})"
    return Represents(finding, of=variable, on=data, name=name, **_sized(smallest_effect)), subject


_LOUD = {"loud": 1, "agree": 0.2}
_ONLY_MARKED = {"marked": True, "elsewhere": "absent"}
# A reading fitted on n examples in d directions falls about d / (2 n ln 2) bits short of what is there (on 1,200 that
# is a third of 0.1 bits), and what is claimed is what the reading gives.
_WEAK = {"variable": USED, "rows": 6_400}
_LOPSIDED = {"lopsided": True, "rows": 3_600}

C1_KINDS: tuple[Kind, ...] = (
    (False, "F0", "null label", {"variable": "null"}),
    (False, "F0", "random direction", {"variable": USED, "bits": 0.2, "method_name": "RandomDirection"}),
    (False, "F0", "reader fitted on shuffled labels", {"variable": USED, "bits": 0.2, "made": "shuffled"}),
    (False, "F1", "leaked in the input", {"variable": LEAKED}),
    (False, "F1", "memorised type label", {"variable": "memorised"}),
    (False, "F1", "marginal fit: only the base rate of the type", {"variable": "base rate"}),
    (False, "F1", "template lock: decided by the first two tokens", {"variable": LOCKED, "locked": "first"}),
    (False, "F1", "template lock: decided by two neighbouring words, anywhere",
     {"variable": LOCKED, "locked": "anywhere"}),
    (False, "F1", "memorised: a coin for each of 32 things that the network tells apart",
     {"variable": THING_LABEL, "things": 32}),
    (False, "F1", "dead salmon: written by a fixed part of the architecture",
     {"variable": WIRED, "bits": 0.2, "wired": True}),
    (False, "F1", "memorised, from nine times the texts that the controls have",
     {"variable": THING_LABEL, "things": 32, **_LOPSIDED}),
    (False, "F1", "dead salmon, from nine times the texts that the controls have",
     {"variable": WIRED, "bits": 0.2, "wired": True, **_LOPSIDED}),
    (False, "F1", "template lock, from nine times the texts that the controls have",
     {"variable": LOCKED, "locked": "first", **_LOPSIDED}),
    (False, "F1", "prominent distractor: the first principal component",
     {"variable": USED, "bits": 0.2, "method_name": "PCADirection", **_LOUD}),
    (False, "F2", "best of 400 random directions", {"variable": USED, "made": "searched"}),
    (False, "F3", "size: twice what is there", {"variable": USED, "bits": 0.2, "smallest_effect": 0.4}),
    (False, "F3", "scope: there in marked texts only",
     {"variable": USED, "bits": 0.2, "rows": 3_600, "shift": True, **_ONLY_MARKED}),
    (True, "T0", "plain", {"variable": USED, "bits": 0.4}),
    (True, "T1x0.5", "at half the smallest effect", {"bits": 0.025, **_WEAK}),
    (True, "T1x1", "at the smallest effect", {"bits": 0.05, **_WEAK}),
    (True, "T1x2", "at twice the smallest effect", {"bits": 0.10, **_WEAK}),
    (True, "T1x4", "at four times the smallest effect", {"bits": 0.20, **_WEAK}),
    (True, "T2", "unused by the output", {"variable": UNUSED, "bits": 0.20}),
    (True, "T2", "rotated into another feature", {"variable": USED, "bits": 0.20, "tilt": 0.6}),
    (True, "T2", "superposed: twice as many features as dimensions", {"variable": USED, "bits": 0.20, "crowd": 128}),
    (True, "T2", "negative", {"variable": USED, "bits": 0.20, "sign": -1}),
    (True, "T2", "rare: one in eight", {"variable": USED, "bits": 0.20, "rate": 0.125}),
    (True, "T2", "conditional: there only in marked texts", {"variable": USED, "bits": 0.20, **_ONLY_MARKED}),
    (True, "T2", "two-dimensional: five values on a circle", {"bits": 0.20, "values": 5, **_WEAK}),
)  # fmt: skip


# ---- C2 MEDIATES


def mediates(
    variable: str,
    seed: int,
    method_name: str,
    made: str = "fitted",
    hold: tuple[str, ...] = (),
    shift: bool = False,
    smallest_effect: float | None = None,
    **dials: Any,
) -> tuple[Mediates, Subject]:
    """A C2 claim; with `hold`, on pairs that differ in the variable and agree in those."""
    bed = Planted(seed=seed, **{"bits": CLEAR, **dials})
    subject, data = bed.subject(), bed.pairs(variable, hold, shift)
    finding = finding_of(bed, subject, data.dev, made, method_name)
    name = f"{variable} ({method_name}, {made})"
    return Mediates(finding, of=variable, on=data, name=name, **_sized(smallest_effect)), subject


def outvoted(share: float) -> dict[str, Any]:
    """Dials with which USED decides the answer on this share of the triples and SECOND, there alone, on the rest."""
    return {"elsewhere": "overruled", "second": 1.5, "relevant": share}


@cache
def share_for_interchange(excess: float) -> float:
    """The share of triples on which USED must decide for so much interchange accuracy beyond chance (a half).

    Where it decides, a swap turns the answer if the noise allows; elsewhere only if the noise lets it.
    """
    bed = Planted(bits=CLEAR)
    turned = float(norm.cdf(bed.gap / 2 / np.sqrt(2 * bed.noise)))
    return (0.5 + excess - (1 - turned)) / (2 * turned - 1)


_OVERRULED = {"marked": True, **outvoted(0.5)}
# An effect is that of the direction claimed. One fitted on few rows has less, so where size counts it is written down.
_WRITTEN_DOWN = {"variable": USED, "method_name": "MeanDifference", "made": "given"}
_TEMPERATURE = {"loud": 1, "temperature": 0.5}

C2_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"variable": USED, "method_name": "RandomDirection"}),
    (False, "F0", "fitted on shuffled labels", {"variable": USED, "made": "shuffled"}),
    (False, "F1", "correlated and unread: its own direction", {"variable": UNUSED, "tie": 0.7, "made": "given"}),
    (False, "F1", "correlated and unread: fitted where the two go together",
     {"variable": UNUSED, "tie": 0.5, "hold": (USED,)}),
    (False, "F1", "in the text but not used", {"variable": LEAKED}),
    (False, "F1", "moves the answer but does not decide it", {"variable": SECOND}),
    (False, "F2", "best of 400 random directions", {"variable": USED, "made": "searched"}),
    (False, "F2", "temperature direction", {"variable": LOUD, **_TEMPERATURE}),
    (False, "F3", "size: twice what is there",
     {**_WRITTEN_DOWN, "smallest_effect": 0.4, **outvoted(share_for_interchange(0.2))}),
    (False, "F3", "scope: decides in marked texts only",
     {"variable": USED, "shift": True, "rows": 2_000, **_OVERRULED}),
    (True, "T0", "used feature", {"variable": USED}),
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {**_WRITTEN_DOWN, **outvoted(share_for_interchange(0.1 * times))}) for times in (0.5, 1, 2, 4)),
    (True, "T2", "distributed over two directions", {"variable": USED, "echo": 1.0}),
    (True, "T2", "with a component that works against it", {"variable": USED, "echo": 0.6, "echo_read": -0.5}),
    (True, "T2", "partly along what nobody reads", {"variable": USED, "tilt": 0.6}),
    (True, "T2", "superposed: twice as many features as dimensions", {"variable": USED, "crowd": 128}),
    (True, "T2", "negative", {"variable": USED, "sign": -1}),
    (True, "T2", "two-dimensional: five values on a circle", {"variable": USED, "values": 5, "bits": 2.0}),
)  # fmt: skip


# ---- C3 NECESSARY

# What is lost counts beyond removals of equal variance. Were USED and SECOND all that varies, these would be SECOND's.
AMONG_OTHERS: dict[str, Any] = {"loud": 24}


def necessary(
    variable: str,
    seed: int,
    method_name: str,
    made: str = "fitted",
    shift: bool = False,
    smallest_effect: float | None = None,
    excess: float | None = None,
    **dials: Any,
) -> tuple[Necessary, Subject]:
    """A C3 claim about what a variable's erasure costs; `excess` is what USED's does beyond matched removals."""
    bed = Planted(seed=seed, **{"bits": CLEAR, **dials})
    bed = bed if excess is None else with_excess(bed, excess)
    subject, data = bed.subject(), bed.examples(variable, shift)
    finding = finding_of(bed, subject, data.dev, made, method_name)
    name = f"{variable} ({method_name}, {made})"
    return Necessary(finding, of=variable, on=data, name=name, **_sized(smallest_effect)), subject


def with_excess(bed: Planted, excess: float) -> Planted:
    """The bed with USED deciding on such a share of the triples that its removal costs so much beyond matched ones.

    Where USED decides on a share q and SECOND, twice as large, on the rest, USED carries q / (2 - q) of the clean
    range. What matched removals cost is measured on the weights, at two shares with the right one in between.
    """
    bed = dataclasses.replace(bed, **{**outvoted(1.0), **AMONG_OTHERS})
    ends = [2 * lost / (1 + lost) for lost in (excess, min(excess + 0.2, 0.99))]
    low, high = (lost_beyond_matched(dataclasses.replace(bed, relevant=share)) for share in ends)
    between = float(np.clip((excess - low) / (high - low), 0, 1))
    return dataclasses.replace(bed, relevant=ends[0] + between * (ends[1] - ends[0]))


_ERASED = {"variable": USED, "method_name": "LEACE"}

C3_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"variable": USED, "method_name": "RandomDirection"}),
    (False, "F0", "erased by shuffled labels", {**_ERASED, "made": "shuffled"}),
    (False, "F1", "decodable and unused", {**_ERASED, "variable": UNUSED}),
    (False, "F1", "decodable, unused, correlated with what is used", {**_ERASED, "variable": UNUSED, "tie": 0.5}),
    (False, "F1", "bottleneck: all logits need its size, none its value",
     {**_ERASED, "variable": LOUD, "loud": 1, "needed": True}),
    (False, "F2", "high norm: one of six that all logits need",
     {**_ERASED, "variable": LOUD, "loud": 6, "needed": True}),
    (False, "F2", "high norm and unread", {**_ERASED, "variable": LOUD, "loud": 1}),
    (False, "F3", "size: twice what is lost",
     {**_ERASED, "smallest_effect": 0.7, "excess": 0.35}),
    (False, "F3", "scope: decides in marked texts only", {**_ERASED, "shift": True, "rows": 2_000, **_OVERRULED}),
    (False, "F3", "verb: enough to move the answer, not needed for it", {**_ERASED, "variable": SECOND}),
    (True, "T0", "used feature", _ERASED),
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {**_ERASED, "excess": 0.1 * times}) for times in (0.5, 1, 2, 4)),
    (True, "T2", "distributed over two directions", {**_ERASED, "echo": 1.0}),
    (True, "T2", "rotated into another feature", {**_ERASED, "tilt": 0.6}),
    (True, "T2", "superposed: twice as many features as dimensions", {**_ERASED, "crowd": 128}),
    (True, "T2", "negative", {**_ERASED, "sign": -1}),
    (True, "T2", "two-dimensional: five values on a circle", {**_ERASED, "values": 5, "bits": 2.0}),
)  # fmt: skip


# ---- C4 STEERS

LARGEST_DOSE = 2.0


def steers(
    variable: str,
    seed: int,
    method_name: str,
    effect: float,
    made: str = "fitted",
    shift: bool = False,
    smallest_effect: float | None = None,
    **dials: Any,
) -> tuple[Steers, Subject]:
    """A C4 claim about words that stand for the two values of USED.

    Args:
        effect: Logits by which the largest dose of USED's own difference moves those words against each other.
        made: As in `finding_of`; or a vector by hand: "random", "flattening" (against the loud feature), "writing"
            (one word), "backwards" (USED's difference the wrong way round, claimed at negative doses).
    """
    usual = {"bits": CLEAR, "words": 3, "hush": True, "chatter": 0.3, "uneven": 0.2}
    bed = with_effect(Planted(seed=seed, **{**usual, **dials}), effect)
    subject, data = bed.subject(), bed.examples(variable, shift)
    by_hand = _by_hand(bed, made)
    if by_hand is None:
        finding = finding_of(bed, subject, data.dev, made, method_name)
    else:
        finding = vector_of(subject, data.dev, by_hand, toward="1")
    more: dict[str, Any] = {"doses": (-2.0, -1.0, -0.5, -0.25, 0.0)} if made == "backwards" else {}
    targets = {str(value): words for value, words in enumerate(bed.answers)}
    claim = Steers(
        finding, toward="1", of=variable, on=data, targets=targets,
        name=f"{variable} ({method_name}, {made})", **more, **_sized(smallest_effect),
    )  # fmt: skip
    return claim, subject


def with_effect(bed: Planted, effect: float) -> Planted:
    """The bed whose head reads USED so strongly that the largest dose moves the answer words by so many logits."""
    gain = effect / (2 * LARGEST_DOSE * bed.gap)
    return dataclasses.replace(bed, gain=gain, second=gain / 2)


def _by_hand(bed: Planted, made: str) -> Tensor | None:
    if made == "random":
        drawn = torch.randn(bed.width, generator=torch.Generator().manual_seed(bed.seed + 91))
        return bed.gap * drawn / drawn.norm()
    if made == "flattening":
        return -bed.written(LOUD)[0] / 2
    if made == "writing":
        return bed.gap * bed.module.direction(SPARE)
    return -bed.written(USED)[0] if made == "backwards" else None


_PLAIN: dict[str, Any] = {"variable": USED, "effect": 4.0}
# What a probe's own direction does within the budget is less, and not dialled: true claims are about the mean's. Where
# a mark decides, even that of few rows leans on the mark and turns texts without it round: there it is written down.
_TRUE = {**_PLAIN, "method_name": "MeanDifference"}
_ONLY_READ_MARKED = {"marked": True, "elsewhere": "unread"}

C4_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random vector", {**_PLAIN, "made": "random"}),
    (False, "F0", "fitted on shuffled labels", {**_PLAIN, "made": "shuffled"}),
    (False, "F1", "unread direction", {**_PLAIN, "variable": UNUSED}),
    (False, "F1", "in the text but not used", {**_PLAIN, "variable": LEAKED}),
    (False, "F2", "temperature direction",
     {"variable": USED, "effect": 16.0, "made": "flattening", "chatter": 0.0, **_TEMPERATURE}),
    (False, "F2", "writes one word", {**_PLAIN, "made": "writing", "writer": 0.4}),
    (False, "F2", "opposite on a third of the texts", {**_TRUE, "effect": 6.0, "uneven": 2.7, "chatter": 0.8}),
    (False, "F3", "size: twice what is there", {**_PLAIN, "smallest_effect": 8.0}),
    (False, "F3", "scope: read in marked texts only", {**_PLAIN, "shift": True, "rows": 1_600, **_ONLY_READ_MARKED}),
    (True, "T0", "used feature", _TRUE),
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {**_TRUE, "effect": 0.5 * times, "made": "given"}) for times in (0.5, 1, 2, 4)),
    (True, "T2", "conditional: read in marked texts only", {**_TRUE, **_ONLY_READ_MARKED, "made": "given"}),
    (True, "T2", "small and clean", {**_TRUE, "effect": 1.5, "chatter": 0.0}),
    (True, "T2", "negative doses", {**_TRUE, "made": "backwards"}),
    (True, "T2", "superposed: twice as many features as dimensions", {**_TRUE, "crowd": 128}),
)  # fmt: skip

__all__ = [
    "ANSWERS", "C1_KINDS", "C2_KINDS", "C3_KINDS", "C4_KINDS", "DIGITS", "FEATURES", "LEAKED", "LOCKED", "LOUD",
    "NOISE_WORDS", "NUISANCE", "SECOND", "TYPES", "UNUSED", "USED", "WIDTH", "Planted", "PlantedModel", "bits_of_gap",
    "disagreements", "gap_of_bits", "mediates", "necessary", "plantings", "represents", "self_test", "steers",
]  # fmt: skip

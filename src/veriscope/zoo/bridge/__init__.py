"""Bridging beds: variables planted into trained language models, with all else left as it was trained.

Beds that are built from nothing are clean: isotropic noise, no norms, no other features. Here the background is real.
Hosts are `town`, the small GPT-2 that ships with the package, and `stories260k`, a 260k-parameter Llama trained on
TinyStories by others, where VERISCOPE_DATA has it. In a host (see `plant`):

    a hash of the cue words read so far gives three random bits u, v, w, carried in quiet directions of the stream
    block m computes u v (`used`) and, where asked for, u w (`unused`), v w (`loud`) by extra neurons of its MLP
    the answer words' rows of the untied head read `used` (or what is computed from it) out of the final norm

So no variable stands in the input's surface, none is written before block m, and no bag of words carries one. Sizes are
set by plain runs of the network (`plant.run`), with no code of a trial, and so is the truth of each kind tested; what
can be read is what the package's own `LogisticProbe` reads. `bed` has the dials.

The Llama multiplies what it reads, so that its own blocks would compute u v before block m does: there its own weights
read nothing along the carried bits' directions (`plant.blind`). With the bits
that costs it 0.5 nats a token on these texts (1.70 to 2.17, one bed).

The claims of a kind go round the hosts that it is planted in. Without VERISCOPE_DATA all are in town, and that is
logged.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from jaxtyping import Float
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
from veriscope.zoo.bridge.bed import COPY, HALF, LOUD, UNUSED, USED, WORD, Bridge
from veriscope.zoo.bridge.texts import models

ROWS = {"C1": 2_000, "C2": 600, "C3": 500, "C4": 700}
BUILDS = {"C1": "represents", "C2": "mediates", "C3": "necessary", "C4": "steers"}

Kind = tuple[bool, str, str, dict[str, Any]]  # truth, grade, trap, settings of the build
_TOWN = {"model": "town"}


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, going round its hosts, each on a bed of its own seed."""
    kinds = {"C1": C1_KINDS, "C2": C2_KINDS, "C3": C3_KINDS, "C4": C4_KINDS}.get(claim_type, ())
    if "stories260k" not in models():
        why = "VERISCOPE_DATA has no lm/stories260k_hf: the bed 'bridge' plants in town alone"
        logging.getLogger(__name__).warning(why)
    first = seed * 100_000 + (FINAL if final else 0)
    out = []
    for truth, grade, trap, settings in kinds:
        hosts = [h for h in models() if settings.get("model", h) == h]
        for i in range(count):
            chosen = {"rows": ROWS[claim_type], **settings, "model": hosts[i % len(hosts)], "final": final,
                      "seed": first + i}  # fmt: skip
            build = f"veriscope.zoo.bridge:{BUILDS[claim_type]}"
            out.append(Planting(claim_type, truth, grade, trap, build, tuple(chosen.items())))
    return out


# ---- findings, made as a user would make them


def finding_of(bed: Bridge, subject: Subject, dev: Sample, made: str, site: str) -> Any:
    """Fit on dev what a claim is about.

    Args:
        made: Name of a method; "shuffled": class means of shuffled labels; "searched": the best of 400 random
            directions; "given": what the variable is written along; "copy": what its copy is.
    """
    if made == "searched":
        return SearchedDirection(site=site, count=400, seed=bed.seed).fit(subject, dev)
    if made == "shuffled":
        rng = torch.Generator().manual_seed(bed.seed)
        order = torch.randperm(len(dev), generator=rng).tolist()
        return _means(site).fit(subject, dev.relabel([dev.labels[i] for i in order]))
    if made in ("given", "copy"):
        vectors = bed.planted.vectors
        along = vectors[COPY if made == "copy" else dev.variable]
        return written(_means(site).fit(subject, dev), along)
    if made == "MeanDifference":
        return _means(site).fit(subject, dev)
    return method(made, site=site, seed=bed.seed).fit(subject, dev)


def _means(site: str) -> MeanDifference:
    """Class means against the stream's own spread: few directions of a trained model hold most of its variance."""
    return MeanDifference(site=site, whiten=True)


def written(reading: Reading, direction: Float[Tensor, "d_model"]) -> Reading:
    """The same reading along a given direction, its boundary at the mean activation."""
    weight = (direction / direction.norm())[:, None]
    return dataclasses.replace(reading, weight=weight, bias=-(reading.centre @ weight))


def _sized(smallest_effect: float | None) -> dict[str, Any]:
    return {} if smallest_effect is None else {"smallest_effect": smallest_effect}


# ---- C1 REPRESENTS


def represents(
    variable: str, seed: int, made: str = "LogisticProbe", early: bool = False, smallest_effect: float | None = None,
    **dials: Any,
) -> tuple[Represents, Subject]:  # fmt: skip
    """A C1 claim about a variable; `early`: at the site before the block that computes it."""
    bed = Bridge(seed=seed, **dials)
    subject, data = bed.subject, bed.examples(variable)
    site = f"blocks.{bed.block}.resid_pre" if early else bed.site
    finding = finding_of(bed, subject, data.dev, made, site)
    return Represents(finding, of=variable, on=data, name=f"{variable} ({made})", **_sized(smallest_effect)), subject


# stories260k can be asked for every label with examples before it, which takes most of a minute a claim: so only three
# kinds there.
C1_KINDS: tuple[Kind, ...] = (
    (False, "F0", "null label", {"variable": "coin"}),
    (False, "F0", "reader fitted on shuffled labels", {"variable": USED, "bits": 0.2, "made": "shuffled", **_TOWN}),
    (False, "F1", "memorised: a coin for each name in the text", {"variable": "name", **_TOWN}),
    (False, "F1", "before it is computed", {"variable": USED, "early": True}),
    (True, "T0", "plain", {"variable": USED, "bits": 0.5}),
    (True, "T1x2", "at 2 times the smallest effect", {"variable": USED, "bits": 0.1}),
    (True, "T1x4", "at 4 times the smallest effect", {"variable": USED, "bits": 0.2, **_TOWN}),
)


# ---- C2 MEDIATES


def mediates(
    variable: str, seed: int, made: str = "MeanDifference", early: bool = False, excess: float | None = None,
    smallest_effect: float | None = None, **dials: Any,
) -> tuple[Mediates, Subject]:  # fmt: skip
    """A C2 claim; `excess`: beyond chance, how often a swap turns the model's own answer into the expected one."""
    bed = Bridge(seed=seed, excess=excess, **dials)
    subject, data = bed.subject, bed.examples(variable, pairs=True, answered=excess is not None)
    site = f"blocks.{bed.block}.resid_pre" if early else bed.site
    finding = finding_of(bed, subject, data.dev, made, site)
    return Mediates(finding, of=variable, on=data, name=f"{variable} ({made})", **_sized(smallest_effect)), subject


# A direction fitted on few rows leans into whatever varies little: what is true by construction is what was written.
_GIVEN: dict[str, Any] = {"variable": USED, "made": "given"}

C2_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"variable": USED, "made": "RandomDirection"}),
    (False, "F0", "fitted on shuffled labels", {"variable": USED, "made": "shuffled"}),
    (False, "F1", "correlated and unread: its own direction",
     {"variable": UNUSED, "also": (UNUSED,), "tie": 0.6, "made": "given"}),
    (False, "F1", "unread copy of the variable", {"variable": USED, "also": (COPY,), "made": "copy"}),
    (False, "F1", "bypass: readable here, computed again behind the site",
     {"variable": USED, "through": 0.0, "made": "given"}),
    (False, "F1", "before it is computed", {"variable": USED, "early": True}),
    (False, "F2", "best of 400 random directions", {"variable": USED, "made": "searched"}),
    (False, "F3", "size: at most half is there",
     {**_GIVEN, "excess": 0.2, "smallest_effect": 0.4, "rows": 1_200}),
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {**_GIVEN, "excess": 0.1 * times, "rows": 1_200}) for times in (1, 2, 4)),
    (True, "T0", "used feature", {**_GIVEN}),
    (True, "T2", "beside an unread copy", {**_GIVEN, "also": (COPY,)}),
    (True, "T2", "negative", {**_GIVEN, "sign": -1}),
    (True, "T2", "beside a prominent feature", {**_GIVEN, "also": (LOUD,)}),
)  # fmt: skip


# ---- C3 NECESSARY


def necessary(
    variable: str, seed: int, made: str = "LEACE", early: bool = False, smallest_effect: float | None = None,
    **dials: Any,
) -> tuple[Necessary, Subject]:  # fmt: skip
    """A C3 claim about what a variable's erasure costs; `through` of the clean range goes with USED."""
    bed = Bridge(seed=seed, **dials)
    subject, data = bed.subject, bed.examples(variable)
    finding = finding_of(bed, subject, data.dev, made, f"blocks.{bed.block}.resid_pre" if early else bed.site)
    return Necessary(finding, of=variable, on=data, name=f"{variable} ({made})", **_sized(smallest_effect)), subject


# In town alone: in stories260k the few dimensions left make what is erased cost other words as much. No smaller T1x
# kinds: on fresh texts a size comes out up to .05 larger or smaller, whatever it is.
C3_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"variable": USED, "made": "RandomDirection", **_TOWN}),
    (False, "F1", "decodable and unused", {"variable": UNUSED, "also": (UNUSED,), **_TOWN}),
    (False, "F1", "bypass: readable here, computed again behind the site",
     {"variable": USED, "through": 0.0, **_TOWN}),
    (False, "F2", "high norm and unread", {"variable": LOUD, "also": (LOUD,), **_TOWN}),
    (False, "F3", "size: at most half is lost",
     {"variable": USED, "through": 0.35, "smallest_effect": 0.7, **_TOWN}),
    (True, "T0", "used feature", {"variable": USED, **_TOWN}),
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {"variable": USED, "cost": 0.1 * times, "rows": 1_000, **_TOWN}) for times in (2, 4)),
    (True, "T2", "beside an unread copy", {"variable": USED, "also": (COPY,), **_TOWN}),
    (True, "T2", "negative", {"variable": USED, "sign": -1, **_TOWN}),
    (True, "T2", "beside a prominent feature", {"variable": USED, "also": (LOUD,), **_TOWN}),
)  # fmt: skip


# ---- C4 STEERS

SHORT = 3.0  # sd between the classes: as far as that, no vector of its length costs what the budget is


def steers(
    variable: str, seed: int, effect: float, made: str = "MeanDifference", smallest_effect: float | None = None,
    **dials: Any,
) -> tuple[Steers, Subject]:  # fmt: skip
    """A C4 claim about words that stand for the two values of USED.

    Args:
        effect: Logits by which the largest dose of USED's own difference moves those words against each other, beyond
            the best of 200 random directions.
        made: As in `finding_of`; or a vector by hand: "written" (the variable's own), "backwards" (the other way
            round, claimed at negative doses), "writing" (what one word alone reads), "random" (as long).
    """
    bed = Bridge(seed=seed, **{"words": 3, "clear": SHORT, "effect": effect, **dials})
    subject, data = bed.subject, bed.examples(variable)
    vector = _by_hand(bed, made)
    fitted = MeanDifference(site=bed.site).fit(subject, data.dev)
    finding: Any = fitted if made == "MeanDifference" else None
    if vector is not None:
        origin = dataclasses.replace(fitted.origin, method="by hand", settings={})
        finding = Change("add", bed.site, "last", origin, vector=vector, toward="1")
    finding = finding or finding_of(bed, subject, data.dev, made, bed.site)
    more: dict[str, Any] = {"doses": (-2.0, -1.0, -0.5, -0.25, 0.0)} if made == "backwards" else {}
    targets = {str(value): words for value, words in enumerate(bed.answers)}
    name = f"{variable} ({made})"
    claim = Steers(
        finding, toward="1", of=variable, on=data, targets=targets, name=name, **more, **_sized(smallest_effect)
    )
    return claim, subject


def _by_hand(bed: Bridge, made: str) -> Float[Tensor, "d_model"] | None:
    own = bed.planted.vectors[USED]
    if made == "random":
        drawn = torch.randn(len(own), generator=torch.Generator().manual_seed(bed.seed + 91))
        return own.norm() * drawn / drawn.norm()
    if made == "writing":
        return bed.planted.vectors[WORD]
    return {"written": own, "backwards": -own}.get(made)


_PLAIN: dict[str, Any] = {"variable": USED, "effect": 2.0}

# What is true is the vector that was written: one fitted on few rows had 0.36 logits beyond random ones of its length
# where 3 were set, and cost more than the budget.
C4_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random vector", {**_PLAIN, "made": "random"}),
    (False, "F0", "fitted on shuffled labels", {**_PLAIN, "made": "shuffled"}),
    (False, "F1", "unread direction", {**_PLAIN, "variable": UNUSED, "also": (UNUSED,)}),
    (False, "F1", "bypass: readable here, computed again behind the site", {**_PLAIN, "through": 0.0}),
    (False, "F2", "writes one word", {**_PLAIN, "made": "writing", "writer": 6.0}),
    # in stories260k what is computed behind the site is not made of what was written at it: nothing goes the other way
    (False, "F2", "the other way in half of the texts", {**_PLAIN, "also": (HALF,), "made": "written", **_TOWN}),
    (False, "F3", "size: twice what is there", {**_PLAIN, "smallest_effect": 4.0, "made": "written"}),
    # True ones in town alone, and no T0: it would be the claims of four times the smallest effect again. In stories260k
    # the best of 200 random directions does half to two thirds as much at equal length, and more at a dose of its own
    # that costs no more: on the bed of seed 90, 6.5 logits for 0.011 nats where the claim has 5.9 (on that of seed 93
    # less, 3.2 against 4.8). In town: 1.7 against 2.9 at equal cost.
    *((True, f"T1x{times:g}", f"at {times:g} times the smallest effect",
       {"variable": USED, "effect": 0.5 * times, "made": "written", **_TOWN}) for times in (0.5, 1, 2, 4)),
    (True, "T2", "negative", {**_PLAIN, "made": "written", "sign": -1, **_TOWN}),
    (True, "T2", "negative doses", {**_PLAIN, "made": "backwards", **_TOWN}),
)  # fmt: skip

"""What other practice would say of the same planted claims: supported or not, from the same public data.

Two practices. *Common practice* is one significance test of the raw effect on held-out data: a probe's accuracy against
always saying the more frequent class, a patching, ablation or steering effect against zero, p < 0.05. *Shipped checks*
are those that TransformerLens 4.3 hands to whoever calls them, by its public documentation, each read in the way that
supports a claim only where it passes: a percentile bootstrap interval over examples that excludes chance, a sign-flip
test, a placebo edit of equal norm along random directions, refits on shuffled labels, and the same fit on a model with
random weights. They are written anew here; the trial of C1 to C4 shares no decision with them. The effect itself (what
is swapped, removed or added, and what is read off) is the claim's own, so that only the judging differs.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from veriscope.ledger import Ledger
from veriscope.subjects import Add, Edit, Subject
from veriscope.trials.reading import as_array
from veriscope.trials.removal import behave
from veriscope.trials.statistics import Array

LEVEL = 0.05
PLACEBOS = 20  # with fewer the strongest of them is no 5% test
RESAMPLED = 2_000


def verdicts(claim: Any, subject: Subject, seed: int) -> dict[str, bool]:
    """Whether each practice supports the claim.

    Returns:
        "common practice", each shipped check by its name, and "shipped checks" for all of them together. Nothing for a
        claim type that these practices have no test for.
    """
    kind = claim.type.split()[0]
    if kind != "C1" and kind not in EFFECTS:
        return {}
    bench = pkgutil.resolve_name(claim.bench)(claim, subject, claim.on.dev, seed)
    bench.gate = claim.on.gate.open(by="other practice", ledger=Ledger.in_memory())
    found = reading(bench, seed) if kind == "C1" else intervening(*EFFECTS[kind](bench), seed)
    shipped = [passed for name, passed in found.items() if name != "common practice"]
    return {**found, "shipped checks": all(shipped)}


# --- reading: C1 ------------------------------------------------------------------------------------------------------


def reading(bench: Any, seed: int) -> dict[str, bool]:
    """A probe's accuracy on held-out examples: above the more frequent class, shuffled labels and random weights."""
    codes, gate_codes = bench.codes(bench.dev), bench.codes(bench.opened)
    right = _right(bench.claim.finding.score(bench.gate_acts), gate_codes)
    chance = float(gate_codes.bincount().max() / len(gate_codes))
    p = stats.binomtest(int(right.sum()), len(right), chance, alternative="greater").pvalue
    rng = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([codes[torch.randperm(len(codes), generator=rng)] for _ in range(PLACEBOS)])
    refits = _scores(bench, bench.dev_acts, shuffled, bench.gate_acts)
    twin = bench.subject.twin("random", seed)
    dev, gate = bench.acts(twin, bench.dev), bench.acts(twin, bench.opened)
    return {
        "common practice": bool(p < LEVEL),
        "interval": excludes(as_array(right.double()) - chance, seed),
        "shuffled labels": bool(right.double().mean() > max(_right(s, gate_codes).double().mean() for s in refits)),
        "random weights": bool(
            right.double().mean() > _right(_scores(bench, dev, codes[None], gate)[0], gate_codes).double().mean()
        ),
    }


def _scores(bench: Any, dev: Tensor, codes: Tensor, gate: Tensor) -> Float[Tensor, "task item k"]:
    """The claim's method refitted on each labelling of dev, read on the held-out items."""
    everyone = torch.ones_like(codes, dtype=torch.bool)
    fitted = bench.method.weights(dev, codes, everyone, n_classes=len(bench.classes), seed=bench.finding_seed)
    return fitted.score(gate)


def _right(score: Float[Tensor, "item k"], codes: Tensor) -> Tensor:
    guess = (score[:, 0] > 0).long() if score.shape[1] == 1 else score.argmax(-1)
    return guess == codes


# --- intervening: C2, C3, C4 ------------------------------------------------------------------------------------------

Effect = tuple[Array, Callable[[torch.Generator], Array]]  # the claim's effect on each item, and a placebo's


def intervening(effect: Array, placebo: Callable[[torch.Generator], Array], seed: int) -> dict[str, bool]:
    """An intervention's mean effect on held-out items: above zero, and above random edits of equal norm."""
    rng = torch.Generator().manual_seed(seed)
    strongest = max(float(placebo(rng).mean()) for _ in range(PLACEBOS))
    return {
        "common practice": bool(
            effect.std() > 0 and stats.ttest_1samp(effect, 0, alternative="greater").pvalue < LEVEL
        ),
        "interval": excludes(effect, seed),
        "sign flips": sign_flip(effect, seed) < LEVEL,
        "placebo": float(effect.mean()) > strongest,
    }


def swapping(bench: Any) -> Effect:
    """C2: change of logit(expected) - logit(answer) when the subspace is swapped in."""
    pairs = bench.gate_pairs
    here = pairs.base_acts
    size = (pairs.swapped(bench.basis) - here).norm(dim=-1, keepdim=True)

    def placebo(rng: torch.Generator) -> Array:
        along = _unit(torch.randn(here.shape, generator=rng))
        return as_array(pairs.preference(pairs.set_to(here + size * along)) - pairs.wanted)

    return bench.moved, placebo


def removing(bench: Any) -> Effect:
    """C3: fall of logit(answer) - logit(foil) when it is removed, its mean in its place."""
    items, removal = bench.items, bench.removal
    sizes = {site: _size(bench, site) for site in removal.sites}

    def fall(edits: Sequence[Edit]) -> Array:
        return items.scores.gap - behave(bench.subject, items.rows, edits).gap

    def placebo(rng: torch.Generator) -> Array:
        edits = []
        for site, size in sizes.items():
            axes = items.acts[site].shape[2 if items.everywhere else 1 :]
            along = _unit(torch.randn(int(np.prod(axes)), generator=rng)).view(axes)
            edits.append(Edit(site, Add(size * along), at=items.rows.at))
        return fall(edits)

    return fall(removal.edits("mean", items.rows.at)), placebo


def _size(bench: Any, site: str) -> float:
    """Mean length of what the removal takes from a site; of parts, of their distance from their mean."""
    acts = bench.items.flat(site)
    if hasattr(bench.removal, "erase"):
        return float((bench.removal.erase(acts) - acts).norm(dim=-1).mean())
    axes = bench.items.acts[site].shape[2 if bench.items.everywhere else 1 :]
    gone = (acts - bench.removal.centres[site].flatten()).view(len(acts), *axes)
    units = bench.removal.units[site]
    return float((gone if units is None else gone[:, list(units)]).flatten(1).norm(dim=-1).mean())


def steering(bench: Any) -> Effect:
    """C4: change of the behaviour at one dose of the vector."""
    prompts, unit = bench.gate_prompts, bench.unit

    def shift(vector: Tensor) -> Array:
        return as_array(bench.steering.shifts(prompts, [vector])[0])

    return shift(unit), lambda rng: shift(unit.norm() * _unit(torch.randn(unit.shape, generator=rng)))


EFFECTS: dict[str, Callable[[Any], Effect]] = {"C2": swapping, "C3": removing, "C4": steering}


def _unit(vector: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)


# --- the tests --------------------------------------------------------------------------------------------------------


def excludes(values: Array, seed: int) -> bool:
    """Whether the 95% percentile bootstrap interval of the mean lies above zero, items drawn one by one."""
    rng = np.random.default_rng([seed, 0xB0])
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLED)]
    return bool(np.quantile(means, 0.025) > 0)


def sign_flip(values: Array, seed: int) -> float:
    """Two-sided p-value of the mean under random signs, with the +1 correction (Fisher, The Design of Experiments)."""
    rng = np.random.default_rng([seed, 0x5F])
    signs = rng.choice([-1.0, 1.0], size=(RESAMPLED, len(values)))
    beyond = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((1 + beyond.sum()) / (1 + RESAMPLED))

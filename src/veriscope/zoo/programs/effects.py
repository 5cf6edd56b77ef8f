"""Effects measured on a bed's weights, not through the verifier: what truths are checked by and dials are set by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize, special
from torch import Tensor

from veriscope.subjects import Edit, Erase, Read, Swap
from veriscope.zoo.programs.bed import Item, ProgramBed


def self_test(bed: ProgramBed, pairs: int = 300) -> dict[str, float]:
    """Check the truth on the weights: outputs, interchange and removal of every variable, against the program.

    Returns:
        "exact": share of texts that the network answers as the program does. For each fact, under
        "mediates <variable> <site>", the interchange accuracy of the variable's own directions there, and under
        "necessary <variable> <site>" the effect of removing them, in clean ranges.
    """
    items = bed.items[:pairs]
    logits = bed.subject().run([i.text for i in items], logits="last").logits
    exact = np.mean([a == str(i.last("answer")) for a, i in zip(_said(bed, logits), items, strict=True)])
    found = {"exact": float(exact)}
    rng = np.random.default_rng([bed.seed, 0x7E])
    for variable in dict.fromkeys(fact.variable for fact in bed.truth):
        drawn = [(i, bed.partner(i, variable, bed.items, False, rng)) for i in items]
        kept = [(i, *p) for i, p in drawn if p is not None]
        if not kept:  # it has one value only, so there is nothing to swap
            continue
        bases, sources, expected = zip(*kept, strict=True)
        for fact in bed.truth:
            if fact.variable == variable:
                basis = bed.own_directions(variable, fact.site)
                found[f"mediates {variable} {fact.site}"] = interchange_accuracy(
                    bed, fact.site, basis, bases, sources, expected
                )
                found[f"necessary {variable} {fact.site}"] = removal_effect(bed, fact.site, basis, items)
    return found


def interchange_accuracy(
    bed: ProgramBed,
    site: str,
    basis: Float[Tensor, "d r"],
    bases: Sequence[Item],
    sources: Sequence[Item],
    expected: Sequence[str],
) -> float:
    """Share of pairs whose highest spoken answer, with the subspace swapped at the last position, is the expected."""
    values = _last(bed, site, sources)
    run = bed.subject().run([b.text for b in bases], edits=[Edit(site, Swap(values, basis), at="last")], logits="last")
    said = _said(bed, run.logits)
    return float(np.mean([a == b for a, b in zip(said, expected, strict=True)]))


def removal_effect(bed: ProgramBed, site: str, basis: Float[Tensor, "d r"], items: Sequence[Item]) -> float:
    """Drop of logit(answer) - logit(foil) with the subspace at its mean, in clean ranges.

    The clean range is the drop with another text's whole site, or a tenth of the gap where that is more.
    """
    return removal_effects(bed, site, [basis], items)[0]


def removal_effects(
    bed: ProgramBed, site: str, bases: Sequence[Float[Tensor, "d _"]], items: Sequence[Item]
) -> list[float]:
    """The same for several subspaces, each removed alone."""
    intact, swapped, drops = _drops(bed, site, bases, items)
    return [drop / max(swapped, 0.1 * intact) for drop in drops]


def _drops(
    bed: ProgramBed, site: str, bases: Sequence[Float[Tensor, "d _"]], items: Sequence[Item]
) -> tuple[float, float, list[float]]:
    """In logits: the intact gap, its drop with another text's whole site, and with each subspace at its mean."""
    rng = np.random.default_rng([bed.seed, 0xD1])
    rows = [bed.row(item, rng) for item in items]
    here = _last(bed, site, items)
    swap = Edit(site, Swap(here[torch.as_tensor(rng.permutation(len(items)))]), at="last")
    cuts = [Edit(site, Erase(basis, basis.T.contiguous(), here.mean(0)), at="last") for basis in bases]
    intact = _gap(bed, rows, [])
    return intact, intact - _gap(bed, rows, [swap]), [intact - _gap(bed, rows, [cut]) for cut in cuts]


def random_subspaces(
    bed: ProgramBed, site: str, basis: Float[Tensor, "d r"], items: Sequence[Item], draws: int = 20
) -> list[Float[Tensor, "d _"]]:
    """Random subspaces of what varies at a site beside `basis`, that vary about as much as it does.

    One dimension fewer than `basis` has, as codes add up to a constant.
    """
    here = _last(bed, site, items)
    centred = here - here.mean(0)
    _, sizes, right = torch.linalg.svd(centred @ (torch.eye(len(basis)) - basis @ basis.T), full_matrices=False)
    alive = sizes > 1e-3 * sizes[0]
    sizes, right, target = sizes[alive], right[alive], float((centred @ basis).square().sum())
    rng = torch.Generator().manual_seed(bed.seed)
    drawn = [torch.randn(len(sizes), basis.shape[1] - 1, generator=rng) for _ in range(draws)]

    def turned(power: float) -> list[Tensor]:
        return [torch.linalg.qr((sizes**power)[:, None] * g).Q for g in drawn]

    def off(power: float) -> float:
        return abs(float(np.mean([float((sizes[:, None] * q).square().sum()) for q in turned(power)])) - target)

    return [right.T @ q for q in turned(min(np.linspace(-1, 3, 17).tolist(), key=off))]


def bed_of_removal(bed: ProgramBed, effect: float) -> ProgramBed:
    """The bed with a late second copy in which removing the first costs `effect` more than 95% of random removals.

    The weight follows from drops measured at equal weights: a copy's own is in proportion to its weight, that of the
    whole site a weighted mean of both copies'. What random removals cost, which hardly hangs on the weight, is measured
    at the weight that would do without them.
    """
    even = dataclasses.replace(bed, how="average", late=True, weight=0.5, texts=min(bed.texts, 300))
    items, main = even.items, even.source.main
    site, own = even.site(main), even.compiled.subspace(main)
    _, swapped, (drop,) = _drops(even, site, [own], items)
    first, second = 2 * drop, 2 * (swapped - drop)

    def weight(share: float) -> float:
        return share * second / (first - share * (first - second))

    found = dataclasses.replace(even, weight=weight(effect))
    random = removal_effects(found, site, random_subspaces(found, site, own, items), items)
    return dataclasses.replace(bed, how="average", late=True, weight=weight(effect + max(0.0, sorted(random)[-2])))


def bits_left(flips: float, told: Float[np.ndarray, "item"] | None = None) -> float:
    """Bits an item about an even bit of which a share is turned over; `told`: the chance of a 1 that a reader gives."""
    one = np.asarray([0.0, 1.0]) if told is None else np.asarray(told, dtype=float)
    one = (1 - 2 * flips) * one + flips
    return float(_entropy(one.mean()) - _entropy(one).mean())


def _entropy(share: Any) -> Any:
    return (special.entr(share) + special.entr(1 - share)) / np.log(2)


def flips_beyond_search(bed: ProgramBed, site: str, variable: str, bits: float, searches: int = 20) -> float:
    """Share of labels to turn over, so that the bit says `bits` more than the best of 20 random directions reads.

    A direction is read by a logistic curve fitted to the bit itself, on all texts; the mean of several searches counts.
    """
    labels = [bed.label(item, variable) for item in bed.items]
    items = [item for item, label in zip(bed.items, labels, strict=True) if label is not None]
    bit = np.asarray([int(label) for label in labels if label is not None])
    acts = _last(bed, site, items).double().numpy()
    rng = np.random.default_rng([bed.seed, 0x5E])
    found = [_best_read(acts, bit, rng.standard_normal((acts.shape[1], 20))) for _ in range(searches)]

    def beyond(flips: float) -> float:
        return bits_left(flips) - float(np.mean([bits_left(flips, told) for told in found]))

    return float(optimize.brentq(lambda flips: beyond(flips) - bits, 0.0, 0.5))


def _best_read(
    acts: Float[np.ndarray, "item d"], bit: np.ndarray, directions: Float[np.ndarray, "d draw"]
) -> Float[np.ndarray, "item"]:
    """The chance of a 1 by the direction along which the two values lie furthest apart in standard deviations."""
    along = acts @ directions
    along = (along - along.mean(0)) / along.std(0).clip(1e-9)
    best = along[:, np.abs(along[bit == 1].mean(0) - along[bit == 0].mean(0)).argmax()]

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        score = at[0] * best + at[1]
        off = special.expit(score) - bit
        return float((np.logaddexp(0, score) - bit * score).mean()), np.array([(off * best).mean(), off.mean()])

    slope, offset = optimize.minimize(loss, np.zeros(2), jac=True).x
    return special.expit(slope * best + offset)


def _gap(bed: ProgramBed, rows: Sequence[dict[str, Any]], edits: Sequence[Edit]) -> float:
    logits = bed.subject().run([r["text"] for r in rows], edits=edits, logits="last").logits
    assert logits is not None
    answer, foil = (torch.tensor([bed.full.words.index(r[c]) for r in rows]) for c in ("answer", "foil"))
    return float((logits.gather(1, answer[:, None]) - logits.gather(1, foil[:, None])).mean())


def _last(bed: ProgramBed, site: str, items: Sequence[Item]) -> Float[Tensor, "item d"]:
    run = bed.subject().run([item.text for item in items], read=[Read(site, "last")])
    return run.reads[0][1]


def _said(bed: ProgramBed, logits: Float[Tensor, "item vocab"] | None) -> list[str]:
    assert logits is not None
    spoken = [bed.full.words.index(str(w)) for w in bed.full.steps[-1].values]
    return [bed.full.words[spoken[i]] for i in logits[:, spoken].argmax(-1).tolist()]

"""What swapping and removing does in the bridging beds, by plain runs of the network with no code of a trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.findings import Change
from veriscope.subjects import Subject
from veriscope.zoo.bridge import C2_KINDS, C3_KINDS, mediates, necessary
from veriscope.zoo.bridge.plant import Anatomy, adding, run
from veriscope.zoo.planted_effects import as_varied


def gained(claim: Mediates, subject: Subject) -> float:
    """Share of held-out pairs with another answer that the swap gives the expected one, beyond the best constant's."""
    rows = [e for e in claim.on.gate._sample.examples if e.expected != e.answer]
    base, source = ([list(r) for r in subject.tokens([getattr(e, text) for e in rows])] for text in ("text", "source"))
    anatomy, block = Anatomy.of(subject.module), block_of(claim.finding.site)
    here, there = (run(anatomy, ids, upto=block).stream[block] for ids in (base, source))
    basis = claim.finding.basis
    after = run(anatomy, base, (block, adding((there - here) @ basis @ basis.T))).final
    up, down = read(subject, [e.expected for e in rows]), read(subject, [e.answer for e in rows])
    share = max(float((up == word).all(1).double().mean()) for word in up.unique(dim=0))
    return float(((after * (up - down)).sum(1) > 0).double().mean()) - max(0.5, share)


def beyond(claim: Necessary, subject: Subject, draws: int = 8) -> float:
    """What the removal costs beyond 95% of random ones that vary as much, in shares of another input's whole site."""
    rows = list(claim.on.gate._sample.examples)
    ids = [list(r) for r in subject.tokens([e.text for e in rows])]
    anatomy, block = Anatomy.of(subject.module), block_of(claim.finding.site)
    intact = run(anatomy, ids)
    h, slope = intact.stream[block], read(subject, [e.answer for e in rows]) - read(subject, [e.foil for e in rows])
    x = h - h.mean(0)

    def lost(step: Tensor, n: int = len(rows)) -> float:
        after = run(anatomy, ids[:n], (block, adding(step[:n]))).final
        return float(((intact.final[:n] - after) * slope[:n]).sum(1).mean())

    finding = claim.finding if isinstance(claim.finding, Change) else claim.finding.as_change("erase")
    taken = x @ finding.right.T @ finding.left.T
    whole = lost(h[torch.randperm(len(h), generator=torch.Generator().manual_seed(1))] - h)
    axis = torch.nn.functional.normalize(finding.left[:, 0], dim=0)
    aside = x - (x @ axis)[:, None] * axis
    others = as_varied(aside, float(taken.square().sum(1).mean()), draws, seed=2)
    usual = [lost(-(x @ d)[:, None] * d, 60) for d in others]
    return (lost(-taken) - max(0.0, float(np.quantile(usual, 0.95)))) / whole


@pytest.mark.parametrize("kind", C2_KINDS, ids=lambda kind: kind[2])
def test_what_a_swap_does_is_as_the_kind_says(kind: tuple[bool, str, str, dict[str, Any]]) -> None:
    truth, _, _, settings = kind
    claim, subject = mediates(**{**settings, "rows": 500, "model": "town", "seed": 9001})

    found = gained(claim, subject)

    assert found > claim.smallest_effect + 0.1 if truth else found < claim.smallest_effect - 0.1


@pytest.mark.parametrize("kind", C3_KINDS, ids=lambda kind: kind[2])
def test_what_a_removal_costs_is_as_the_kind_says(kind: tuple[bool, str, str, dict[str, Any]]) -> None:
    truth, _, _, settings = kind
    claim, subject = necessary(**{**settings, "rows": 400, "seed": 9002})

    found = beyond(claim, subject)

    assert found > claim.smallest_effect + 0.1 if truth else found < claim.smallest_effect - 0.05


def block_of(site: str) -> int:
    """The block whose output a residual site is."""
    _, number, name = site.split(".")
    return int(number) - (name == "resid_pre")


def read(subject: Subject, words: list[str]) -> Tensor:
    """The head's rows of answers."""
    head = subject.module.get_output_embeddings().weight.detach()
    tokens = {word: int(subject.answer_ids(["any"], [word])[0]) for word in set(words)}
    return head[[tokens[word] for word in words]]

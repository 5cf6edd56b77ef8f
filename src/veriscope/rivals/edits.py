"""Edits that cannot know anything: random ones, and the claim's own method on shuffled labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.examples import Sample
from veriscope.findings import Change, Reading
from veriscope.methods import encode, method
from veriscope.methods.linear import LinearMethod, read
from veriscope.subjects import Subject


def random_changes(change: Change, n: int, *, seed: int = 0) -> tuple[Change, ...]:
    """Changes like this one in Gaussian directions: a vector of the same length, or a space of the same rank erased."""
    source = torch.Generator().manual_seed(seed)
    if change.vector is not None:
        # one by one, so that asking for more leaves the first ones as they were
        drawn = torch.stack([torch.randn(len(change.vector), generator=source, dtype=torch.float64) for _ in range(n)])
        drawn = drawn / drawn.norm(dim=1, keepdim=True) * change.vector.double().norm()
        return tuple(dataclasses.replace(change, vector=v.to(change.vector)) for v in drawn)
    assert change.left is not None
    bases = torch.stack([torch.randn(change.left.shape, generator=source, dtype=torch.float64) for _ in range(n)])
    bases = torch.linalg.qr(bases).Q.to(change.left)
    return tuple(dataclasses.replace(change, left=b, right=b.T.contiguous()) for b in bases)


def shuffled_changes(
    finding: Reading, subject: Subject, sample: Sample, n: int, *, toward: str | None = None, seed: int = 0
) -> tuple[Change, ...]:
    """The finding's method fitted again on labels shuffled among examples, each as an addition of the same length.

    The fits are controls and are not recorded as tries.
    """
    origin = finding.origin
    again: Any = method(origin.method, **{**origin.settings, "site": origin.site, "position": origin.position})
    codes, classes = encode(sample)
    acts = read(again, subject, sample, (origin.site,))[origin.site]
    weight = _on_shuffled(again, acts, codes, n, len(classes), seed)
    size = finding.as_change("add", toward).vector
    assert size is not None
    found = []
    for column in weight:
        reading = dataclasses.replace(finding, weight=column.to(finding.weight), classes=classes)
        change = reading.as_change("add", toward)
        assert change.vector is not None
        length = change.vector.norm().clamp_min(1e-30)
        found.append(dataclasses.replace(change, vector=change.vector / length * size.norm()))
    return tuple(found)


def _on_shuffled(
    again: LinearMethod, acts: Float[Tensor, "example d"], codes: Tensor, n: int, n_classes: int, seed: int
) -> Float[Tensor, "task d k"]:
    source = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([codes[torch.randperm(len(codes), generator=source)] for _ in range(n)])
    train = torch.ones(n, len(codes), dtype=torch.bool)
    return again.weights(acts, shuffled, train, n_classes=n_classes, seed=again.seed).weight

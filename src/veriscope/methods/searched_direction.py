"""The best of many random directions: an honest picture of how features are often picked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.methods.linear import Linear, fit_reading, record_try
from veriscope.methods.mean_difference import class_means
from veriscope.methods.random_direction import along
from veriscope.subjects import Subject


@dataclass(frozen=True)
class SearchedDirection:
    """Of `count` Gaussian directions, the one along which the classes lie furthest apart on the training items.

    Every direction is a try in the ledger, so a trial holds the winner against as hard a search.
    """

    site: str
    position: str | int = "last"
    count: int = 400
    seed: int = 0

    def weights(
        self,
        acts: Float[Tensor, "example d"],
        codes: Int[Tensor, "task example"],
        train: Bool[Tensor, "task example"],
        *,
        n_classes: int,
        seed: int = 0,
    ) -> Linear:
        """Search the same directions for every task, each on its own training items."""
        source = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
        drawn = torch.randn(acts.shape[1], self.count, generator=source, dtype=torch.float64).to(acts)
        centred = acts - acts.mean(0)
        scaled = drawn / (centred @ drawn).std(0).clamp_min(1e-12)
        apart = torch.einsum("tcd,dk->tck", class_means(centred, codes, train, n_classes), scaled).var(1)
        best = drawn.T[apart.argmax(1)]
        return along(best / best.norm(dim=1, keepdim=True), acts, codes, train, n_classes)

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Search on dev and record each direction as a try."""
        found = fit_reading(self, subject, sample)
        for i in range(self.count - 1):
            record_try(self, subject, sample, f"{found.site}#direction-{i}")
        return found

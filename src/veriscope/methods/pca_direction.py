"""A principal component of the activations: found without labels, so what stands out and not what was asked for.

(Challenges with unsupervised LLM knowledge discovery, Farquhar 2023, holds unsupervised probes against it.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.methods.linear import Linear, fit_reading
from veriscope.methods.random_direction import along
from veriscope.subjects import Subject


@dataclass(frozen=True)
class PCADirection:
    """Principal component number `component` (0 has the most variance) of the training rows.

    Labels decide only its sign and where along it the classes part.
    """

    site: str | tuple[str, ...]
    position: str | int = "last"
    component: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.component < 0:
            raise BadSetting("PCADirection", "component", self.component, "be 0 or more")

    def weights(
        self,
        acts: Float[Tensor, "example d"],
        codes: Int[Tensor, "task example"],
        train: Bool[Tensor, "task example"],
        *,
        n_classes: int,
        seed: int = 0,
    ) -> Linear:
        """Solve every task; tasks with the same training rows share their component."""
        masks, which = torch.unique(train, dim=0, return_inverse=True)
        found = torch.stack([self._direction(acts[mask]) for mask in masks])
        return along(found[which], acts, codes, train, n_classes)

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Fit on dev examples; see `fit_reading`."""
        return fit_reading(self, subject, sample)

    def _direction(self, acts: Float[Tensor, "example d"]) -> Float[Tensor, "d"]:
        n, d = acts.shape
        if self.component >= min(n - 1, d):
            raise BadSetting(
                "PCADirection", "component", self.component, f"be below {min(n - 1, d)} with {n} examples of width {d}"
            )
        centred = (acts - acts.mean(0)).double()
        if d <= n:
            _, vectors = torch.linalg.eigh(centred.T @ centred)
            return vectors[:, -1 - self.component].to(acts)
        _, left = torch.linalg.eigh(centred @ centred.T)
        component = centred.T @ left[:, -1 - self.component]
        return (component / component.norm().clamp_min(1e-30)).to(acts)

"""A direction drawn without looking: what any other method has to exceed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.methods.linear import Linear, fit_reading
from veriscope.methods.mean_difference import class_means
from veriscope.subjects import Subject


@dataclass(frozen=True)
class RandomDirection:
    """A Gaussian unit vector. Labels decide only its sign and where along it the classes part."""

    site: str | tuple[str, ...]
    position: str | int = "last"
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
        """The same direction for every task, drawn from the seed of the settings and that of the call together."""
        source = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
        drawn = torch.randn(acts.shape[1], generator=source, dtype=torch.float64)
        direction = (drawn / drawn.norm()).to(acts)
        return along(direction.expand(len(codes), -1), acts, codes, train, n_classes)

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Draw, and set sign and boundary on dev examples; see `fit_reading`."""
        return fit_reading(self, subject, sample)


def along(
    direction: Float[Tensor, "task d"],
    acts: Float[Tensor, "example d"],
    codes: Int[Tensor, "task example"],
    train: Bool[Tensor, "task example"],
    n_classes: int,
) -> Linear:
    """Scores that use a given direction only: turned towards class 1 with the boundary half-way between the means.

    For more than two classes, the score of each is how near its mean lies along the direction.
    """
    origin = acts.mean(0)
    means = torch.einsum("tcd,td->tc", class_means(acts - origin, codes, train, n_classes), direction)
    if n_classes == 2:
        sign = torch.where(means[:, 1:] >= means[:, :1], 1.0, -1.0).to(acts)
        weight = (direction * sign)[..., None]
        bias = -sign * means.mean(1, keepdim=True)
    else:
        weight = direction[..., None] * means[:, None]
        bias = -means.square() / 2
    return Linear(weight, bias - origin @ weight)

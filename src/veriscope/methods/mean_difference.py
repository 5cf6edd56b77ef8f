"""The difference between class means: the plainest direction there is, and a hard one to beat.

(The Geometry of Truth, Marks 2023: the difference of means steers better than a logistic probe's direction.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.methods.linear import Linear, fit_reading
from veriscope.subjects import Subject


@dataclass(frozen=True)
class MeanDifference:
    """Direction from the mean of one class to the mean of the other, with the boundary half-way.

    For more than two classes a column for each: its mean less the grand mean of the classes, with the bias that makes
    the largest score belong to the nearest mean. With `whiten` distances are measured in units of the activations' own
    spread (linear discriminant analysis; total covariance, shrunk towards a multiple of the identity by the intensity
    of A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit 2004).
    """

    site: str | tuple[str, ...]
    position: str | int = "last"
    whiten: bool = False
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
        """Solve every task. A class without training examples gets the grand mean, so its column is 0."""
        origin = acts.mean(0)  # differences of means are more exact near 0
        means = class_means(acts - origin, codes, train, n_classes)
        centre = means.mean(1, keepdim=True)
        columns = means - centre
        if n_classes == 2:
            columns = means[:, 1:] - means[:, :1]
        if self.whiten:
            columns = _whitened(acts - origin, train, columns)
        weight = columns.transpose(1, 2)
        halfway = centre if n_classes == 2 else (means + centre) / 2
        bias = -(halfway * weight.transpose(1, 2)).sum(-1)
        return Linear(weight, bias - origin @ weight)

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Fit on dev examples; see `fit_reading`."""
        return fit_reading(self, subject, sample)


def class_means(
    acts: Float[Tensor, "example d"],
    codes: Int[Tensor, "task example"],
    train: Bool[Tensor, "task example"],
    n_classes: int,
) -> Float[Tensor, "task class d"]:
    """Mean training activation of each class of each task; a class without any gets the mean of the others."""
    member = torch.nn.functional.one_hot(codes, n_classes).to(acts) * train[..., None].to(acts)
    count = member.sum(1)
    means = torch.einsum("tec,ed->tcd", member, acts) / count.clamp_min(1)[..., None]
    present = (count > 0).to(acts)[..., None]
    others = (means * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp_min(1)
    return torch.where(present > 0, means, others)


def shrunk_covariance(acts: Float[Tensor, "example d"]) -> Float[Tensor, "d d"]:
    """Covariance with Ledoit and Wolf's shrinkage towards the mean variance times the identity."""
    n, d = acts.shape
    centred = acts - acts.mean(0)
    covariance = centred.T @ centred / n
    variance = covariance.diagonal().mean()
    spread = covariance.square().sum() - d * variance.square()
    noise = (centred.square().sum(1).square().sum() / n - covariance.square().sum()) / n
    shrink = float((noise / spread.clamp_min(1e-30)).clamp(0, 1)) if spread > 0 else 1.0
    return (1 - shrink) * covariance + (shrink * variance + 1e-30) * torch.eye(d).to(acts)


def _whitened(
    acts: Float[Tensor, "example d"], train: Bool[Tensor, "task example"], columns: Float[Tensor, "task k d"]
) -> Float[Tensor, "task k d"]:
    """Columns times the inverse covariance of their task's training rows, which is factored once for equal rows."""
    masks, which = torch.unique(train, dim=0, return_inverse=True)
    found = torch.zeros_like(columns)
    for m, mask in enumerate(masks):
        if not bool(mask.any()):
            continue
        factor = torch.linalg.cholesky(shrunk_covariance(acts[mask].double()))
        mine = columns[which == m].double()
        solved = torch.cholesky_solve(mine.reshape(-1, mine.shape[-1]).T, factor).T
        found[which == m] = solved.reshape(mine.shape).to(columns)
    return found

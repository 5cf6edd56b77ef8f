"""Erasing what a linear reader could tell about a variable, and as little else as possible.

(LEACE: Perfect linear concept erasure in closed form, Belrose 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.examples import Sample
from veriscope.findings import Change
from veriscope.methods.linear import choose_site, encode, expand_sites, origin_of, read, record_try
from veriscope.methods.mean_difference import MeanDifference, shrunk_covariance
from veriscope.subjects import Subject


@dataclass(frozen=True)
class LEACE:
    """Least-squares concept erasure: r(x) = x - W^+ P W (x - mean), W = covariance^(-1/2).

    P projects onto the columns of W cov(x, z), z being one column a class. Afterwards the covariance with z is zero on
    the examples it was fitted on, so no linear reader beats the constant one there; a non-linear reader may. `shrink`
    takes Ledoit and Wolf's covariance in W: the guarantee stays, and held-out examples move less where there are few
    examples a dimension. Of several sites it takes the one where the class means tell most on held-out clusters.
    """

    site: str | tuple[str, ...]
    position: str | int = "last"
    shrink: bool = True
    seed: int = 0

    def fit(self, subject: Subject, sample: Sample) -> Change:
        """Fit on dev examples; raises as `fit_reading` does."""
        sites = expand_sites(subject, self.site)
        codes, classes = encode(sample)
        acts = read(self, subject, sample, sites)
        for site in sites:
            record_try(self, subject, sample, site)
        means = MeanDifference(self.site, self.position, seed=self.seed)
        best = choose_site(means, sample, acts, codes, len(classes))
        left, right, centre = erasure(acts[best], codes, len(classes), shrink=self.shrink)
        origin = origin_of(self, subject, sample, best, looked_at=len(sites))
        return Change("erase", best, self.position, origin, left=left, right=right, centre=centre)


def erasure(
    acts: Float[Tensor, "example d"], codes: Int[Tensor, "example"], n_classes: int, *, shrink: bool = False
) -> tuple[Float[Tensor, "d r"], Float[Tensor, "r d"], Float[Tensor, "d"]]:
    """The eraser h - left @ (right @ (h - centre)), of rank r < n_classes; computed in float64.

    Args:
        acts: Raw activations, not centred.
        codes: The class of each, 0..n_classes-1.
        shrink: Whiten with Ledoit and Wolf's covariance in place of the sample's.
    """
    x = acts.double()
    centre = x.mean(0)
    z = torch.nn.functional.one_hot(codes, n_classes).to(x)
    x, z = x - centre, z - z.mean(0)
    cross = x.T @ z / len(x)
    covariance = shrunk_covariance(x) if shrink else x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    # directions in which nothing varies have no covariance with anything either, and cannot be divided by
    keep = values > values[-1].clamp_min(1e-300) * len(values) * torch.finfo(torch.float64).eps
    values, vectors = values[keep], vectors[:, keep]
    root = values.sqrt()
    whitened = vectors.T @ cross / root[:, None]
    u, sizes, _ = torch.linalg.svd(whitened, full_matrices=False)
    u = u[:, sizes > 1e-9 * sizes[0].clamp_min(1e-12)]
    left = vectors @ (root[:, None] * u)
    right = (vectors @ (u / root[:, None])).T
    return left.to(acts).contiguous(), right.to(acts).contiguous(), centre.to(acts)

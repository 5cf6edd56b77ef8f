"""Logistic probes: every fold, shuffle and control solved together, agreeing with scikit-learn.

One matrix of activations serves all tasks; `fast_logistic` solves them on one factored Gram matrix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.findings import Reading
from veriscope.methods.fast_logistic import Features, Problem, descend, solve
from veriscope.methods.linear import Linear, fit_reading
from veriscope.subjects import Subject

ROUGH = 1e-4  # of the objective: how far above its minimum a fit may be that is only compared with others
CHUNK = 6_000_000  # logits held at a time: bounds memory to some hundred MiB


@dataclass(frozen=True)
class LogisticProbe:
    """Logistic regression with an L2 penalty on features standardised over the training rows.

    For coefficients w (of standardised features) and an unpenalised intercept it minimises

        sum over training rows of cross-entropy (nats)  +  l2 / 2 * |w|^2

    which is scikit-learn's `LogisticRegression(C=1 / l2)` behind a `StandardScaler`: the sigmoid for two classes, the
    full softmax for more. Of several penalties each task takes the one with the lowest cross-entropy in
    `inner_folds`-fold cross-validation within its own training rows, so a control is tuned as the claim is.
    """

    site: str | tuple[str, ...]
    position: str | int = "last"
    l2: float | tuple[float, ...] = (10.0, 100.0, 1000.0)
    inner_folds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.l2, list):  # as settings come back from JSON
            object.__setattr__(self, "l2", tuple(self.l2))
        if not self.penalties or min(self.penalties) <= 0:
            raise BadSetting("LogisticProbe", "l2", self.l2, "be a positive number or several")
        if self.inner_folds < 2:
            raise BadSetting("LogisticProbe", "inner_folds", self.inner_folds, "be at least 2")

    @property
    def penalties(self) -> tuple[float, ...]:
        """The penalties to choose from, strongest first: each fit starts where the one before it ended."""
        several = self.l2 if isinstance(self.l2, tuple) else (self.l2,)
        return tuple(sorted({float(p) for p in several}, reverse=True))

    def weights(
        self,
        acts: Float[Tensor, "example d"],
        codes: Int[Tensor, "task example"],
        train: Bool[Tensor, "task example"],
        *,
        n_classes: int,
        seed: int = 0,
    ) -> Linear:
        """Solve every task; `seed` draws the inner folds. The answer has the precision of `acts`."""
        features = Features.of(acts, standardised=True)
        fold = torch.randperm(len(acts), generator=torch.Generator().manual_seed(seed)) % self.inner_folds
        columns = 1 if n_classes == 2 else n_classes
        fits_at_once = 1 if len(self.penalties) == 1 else self.inner_folds
        size = max(1, CHUNK // (len(acts) * columns * fits_at_once))
        parts = []
        for start in range(0, len(codes), size):
            rows = slice(start, start + size)
            tasks = _problem(features, codes[rows], train[rows], n_classes)
            parts.append(_fit(tasks, self.penalties, fold.to(acts.device)))
        weight = torch.cat([p.weight for p in parts]).to(acts.dtype)
        return Linear(weight, torch.cat([p.bias for p in parts]).to(acts.dtype))

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Fit on dev examples; see `fit_reading`."""
        return fit_reading(self, subject, sample)


# ---- how --------------------------------------------------------------------------------------------------------


def _problem(
    features: Features, codes: Int[Tensor, "task example"], train: Bool[Tensor, "task example"], n_classes: int
) -> Problem:
    rows = train.double()
    seen = torch.nn.functional.one_hot(codes, n_classes).double()
    # where a class has no training row its intercept would run off to infinity: soften those tasks' targets
    absent = torch.einsum("te,tec->tc", rows, seen).amin(1) == 0
    seen = torch.where(absent[:, None, None], 0.98 * seen + 0.02 / n_classes, seen)
    target = seen[..., 1:] if n_classes == 2 else seen
    return Problem(features, target.transpose(1, 2).contiguous(), rows, _spread(features, train).double(), 1.0)


def _spread(features: Features, train: Bool[Tensor, "task example"]) -> Float[Tensor, "task d"]:
    """Standard deviation of each feature over each task's training rows; 1 where it does not vary there."""
    masks, which = torch.unique(train, dim=0, return_inverse=True)
    rows = masks.to(features.near)
    count = rows.sum(1, keepdim=True).clamp_min(1)
    mean = rows @ features.near / count
    scale = (rows @ features.near.square() / count - mean.square()).clamp_min(0).sqrt()
    return torch.where(scale > 1e-5, scale, 1.0)[which]


def _fit(tasks: Problem, penalties: tuple[float, ...], fold: Int[Tensor, "example"]) -> Linear:
    """Choose each task's penalty, fit it on all its rows, and put the answer in units of raw activations."""
    chosen, point = _tuned(tasks, penalties, fold)
    for i, penalty in enumerate(penalties):
        mine = (chosen == i).nonzero()[:, 0]
        if len(mine):
            these = dataclasses.replace(tasks.take(mine), penalty=penalty)
            point[mine] = solve(these, point[mine]).point
    weight = tasks.features.raw(point[..., :-1] / tasks.scale[:, None])
    bias = point[..., -1] - weight @ tasks.features.origin
    if bias.shape[1] > 1:
        bias = bias - bias.mean(1, keepdim=True)  # the softmax does not see a common offset
    return Linear(weight.transpose(1, 2).contiguous(), bias)


def _tuned(
    tasks: Problem, penalties: tuple[float, ...], fold: Int[Tensor, "example"]
) -> tuple[Int[Tensor, "task"], Float[Tensor, "task k d_plus_1"]]:
    """Which penalty does best in each task's cross-validation, and where its final fit should start."""
    if len(penalties) == 1:
        return torch.zeros(len(tasks.rows), dtype=torch.long), tasks.prior()
    count, folds = len(tasks.rows), int(fold.max()) + 1
    held_out = torch.stack([fold == f for f in range(folds)])
    everything = tasks.to(torch.float32).take(torch.arange(count).repeat_interleave(folds))
    inside = everything.rows * ~held_out.repeat(count, 1)
    inner = dataclasses.replace(everything, rows=inside, scale=_spread(tasks.features, inside.bool()))
    point, losses, points = inner.prior(), [], []
    for penalty in penalties:
        inner = dataclasses.replace(inner, penalty=penalty)
        point, _ = descend(inner, point, tolerance=ROUGH)
        surprise = inner.surprise(inner.logits(point)) * (everything.rows - inside)
        losses.append(surprise.sum(1, dtype=torch.float64).unflatten(0, (count, folds)).sum(1))
        points.append(point.unflatten(0, (count, folds)).mean(1))
    best = torch.stack(losses).argmin(0)  # the first, so the strongest, of equals
    return best, torch.stack(points)[best, torch.arange(count)].double()

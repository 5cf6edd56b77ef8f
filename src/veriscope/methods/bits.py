"""Scores to probabilities to bits: the measure that every reading, control and rival is held to.

A score says something about a variable only through a calibrated probability. Here many labellings of the same
examples (tasks) are calibrated together: for each task the convex problem

    minimise over a >= 0 and b of  sum_i w_i * cross_entropy(target_i, softmax(a * score_i + b))

is solved by Newton's method, in float64. One temperature `a` and a bias for each class suffice, because scores of one
reading are comparable with one another; a free scale for every class would fit more noise than it mends.

Three choices matter for what is measured:

- `a` is never negative. Which way a reading points is part of the finding; a calibration that may turn it round would
  find "information" in the negative correlation that cross-validation gives to pure noise.
- The prior is always within reach (a = 0), so scores that say nothing cost nothing on the examples it is fitted on.
- Targets are smoothed as if each class had been seen once more (Platt, Probabilistic Outputs for Support Vector
  Machines, 1999), so that scores which separate the examples perfectly get a finite, honest confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NEWTON_STEPS = 60
HALVINGS = 30
CHUNK = 150_000  # scores worked on at a time: what a core keeps in its cache
TOLERANCE = 1e-5  # on the gradient of the mean loss of standardised scores; one more step is taken beyond it


@dataclass(frozen=True)
class Calibration:
    """A map from scores to class probabilities for each task: softmax(slope * score + offset).

    With one column of scores (two classes) the column speaks for class 1 and class 0 scores 0. `prior` is what the map
    gives where the slope is 0: the smoothed class frequencies of the examples it was fitted on.
    """

    slope: Float[Tensor, "task"]
    offset: Float[Tensor, "task class"]
    prior: Float[Tensor, "task class"]

    def log2_probs(self, scores: Float[Tensor, "task example k"]) -> Float[Tensor, "task example class"]:
        """Base-2 logarithm of each class's probability."""
        logits = self.slope[:, None, None] * _for_each_class(scores) + self.offset[:, None, :]
        return torch.log_softmax(logits, -1) / math.log(2)

    def log2_prob(
        self, scores: Float[Tensor, "task example k"], codes: Int[Tensor, "task example"]
    ) -> Float[Tensor, "task example"]:
        """Base-2 logarithm of the probability given to the class that is true."""
        return self.log2_probs(scores).gather(-1, codes[..., None])[..., 0]

    def prior_log2_prob(self, codes: Int[Tensor, "task example"]) -> Float[Tensor, "task example"]:
        """The same for one who knows only the class frequencies: the difference of the two is the bits gained."""
        return self.prior.log2().gather(1, codes)


def platt(
    scores: Float[Tensor, "task example k"],
    codes: Int[Tensor, "task example"],
    n_classes: int,
    weights: Float[Tensor, "task example"] | None = None,
) -> Calibration:
    """Fit the calibration of every task.

    Args:
        scores: Held-out scores, k = 1 for two classes (above 0 speaks for class 1), else a column for each class.
        codes: The true classes, 0..n_classes-1.
        weights: How often each example counts (counts, not shares: they set the smoothing); 0 leaves it out.

    Returns:
        The calibration, in float64. A task whose weighted examples have no spread of scores gets its prior.
    """
    columns = 1 if n_classes == 2 else n_classes
    if scores.shape[-1] != columns:
        raise ValueError(f"{n_classes} classes need {columns} score columns, not {scores.shape[-1]}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores to be calibrated must be finite numbers")
    count = torch.ones_like(codes, dtype=torch.float64) if weights is None else weights.double()
    size = max(1, CHUNK // max(codes.shape[1] * columns, 1))
    parts = [
        _fit(scores[i : i + size], codes[i : i + size], count[i : i + size], n_classes)
        for i in range(0, max(len(codes), 1), size)
    ]
    return Calibration(*(torch.cat([getattr(p, f) for p in parts]) for f in ("slope", "offset", "prior")))


def calibrated_bits(
    scores: Float[Tensor, "task example k"],
    codes: Int[Tensor, "task example"],
    n_classes: int,
    weights: Float[Tensor, "task example"] | None = None,
) -> Float[Tensor, "task"]:
    """Usable bits about the class per example: entropy of the class less cross-entropy after calibration, at least 0.

    The scores must be held out from the reading that gave them; the calibration itself is fitted on these examples,
    which on scores that say nothing is worth about 0.4/n bits. To choose a site by; a verdict calibrates elsewhere.
    (A Theory of Usable Information under Computational Constraints, Xu 2020.)
    """
    calibration = platt(scores, codes, n_classes, weights)
    count = torch.ones_like(codes, dtype=torch.float64) if weights is None else weights.double()
    total = count.sum(1).clamp_min(1e-300)
    cross_entropy = -(calibration.log2_prob(scores, codes) * count).sum(1) / total
    return (entropy_bits(codes, n_classes, weights) - cross_entropy).clamp_min(0)


def entropy_bits(
    codes: Int[Tensor, "task example"], n_classes: int, weights: Float[Tensor, "task example"] | None = None
) -> Float[Tensor, "task"]:
    """Entropy of each task's class frequencies, in bits."""
    count = torch.ones_like(codes, dtype=torch.float64) if weights is None else weights.double()
    share = torch.stack([(count * (codes == c)).sum(1) for c in range(n_classes)], 1)
    share = share / share.sum(1, keepdim=True).clamp_min(1e-300)
    return torch.special.entr(share).sum(1) / math.log(2)


# ---- how --------------------------------------------------------------------------------------------------------
#
# Inside, two classes have one column of logits (class 1 against class 0) and more have one each.


def _fit(
    scores: Float[Tensor, "task example k"],
    codes: Int[Tensor, "task example"],
    count: Float[Tensor, "task example"],
    n_classes: int,
) -> Calibration:
    """`platt` for a few tasks."""
    target = _smoothed(codes, count, n_classes)
    prior = torch.einsum("te,tec->tc", count, target) / count.sum(1).clamp_min(1e-300)[:, None]
    prior = torch.where(count.sum(1)[:, None] > 0, prior, 1 / n_classes)
    start = prior[:, 1:].logit() if n_classes == 2 else prior.log()
    standard, mean, scale = _standardised(scores.double(), count)
    slope, offset = _newton(standard, target[..., -scores.shape[-1] :], count, start)
    slope = slope / torch.where(scale > 0, scale, torch.inf)
    offset = torch.where(slope[:, None] > 0, offset - slope[:, None] * mean, start)
    offset = torch.cat([-offset / 2, offset / 2], 1) if n_classes == 2 else offset - offset.mean(1, keepdim=True)
    return Calibration(slope, offset, prior)


def _for_each_class(scores: Float[Tensor, "task example k"]) -> Float[Tensor, "task example class"]:
    """Scores with one column a class, in float64: a single column speaks for class 1 against 0."""
    scores = scores.double()
    return torch.cat([torch.zeros_like(scores), scores], -1) if scores.shape[-1] == 1 else scores


def _smoothed(
    codes: Int[Tensor, "task example"], count: Float[Tensor, "task example"], n_classes: int
) -> Float[Tensor, "task example class"]:
    """Platt's targets: (N+1)/(N+K) for the class seen and 1/(N+K) for each other, N being how often it was seen."""
    seen = torch.nn.functional.one_hot(codes, n_classes).to(count)
    often = torch.einsum("te,tec->tc", count, seen).gather(1, codes)[..., None]
    return (often * seen + 1) / (often + n_classes)


def _standardised(
    scores: Float[Tensor, "task example k"], count: Float[Tensor, "task example"]
) -> tuple[Float[Tensor, "task example k"], Float[Tensor, "task k"], Float[Tensor, "task"]]:
    """Scores less their mean over examples, in units of their spread; that mean; that spread (0 where there is none).

    What is common to all classes of an example says nothing, and is taken off first.
    """
    total = count.sum(1).clamp_min(1e-300)
    spoken = scores if scores.shape[-1] == 1 else scores - scores.mean(-1, keepdim=True)
    mean = torch.einsum("te,tek->tk", count, spoken) / total[:, None]
    centred = spoken - mean[:, None]
    scale = (torch.einsum("te,tek->t", count, centred.square()) / total).sqrt()
    # below this it is the rounding of scores that are all the same
    scale = torch.where(scale > 1e-12 * mean.abs().amax(1), scale, 0.0)
    return centred / torch.where(scale > 0, scale, torch.inf)[:, None, None], mean, scale


def _newton(
    scores: Float[Tensor, "task example k"],
    target: Float[Tensor, "task example k"],
    count: Float[Tensor, "task example"],
    start: Float[Tensor, "task k"],
) -> tuple[Float[Tensor, "task"], Float[Tensor, "task k"]]:
    """Damped Newton on (slope, offsets) of every task that has not arrived; starts from the prior, at slope 0."""
    share = count / count.sum(1, keepdim=True).clamp_min(1e-300)
    point = torch.cat([torch.zeros_like(start[:, :1]), start], 1)
    # The problem is convex: where the slope wants to fall below 0 at the prior, which is the best point with slope 0,
    # that point is the answer.
    gradient, _ = _slopes(point, scores, target, share)
    live = (gradient[:, 0] < -TOLERANCE).nonzero()[:, 0]
    there, data = point[live], (scores[live], target[live], share[live])
    for _ in range(NEWTON_STEPS):
        gradient, hessian = _slopes(there, *data)
        # with a column for each class all offsets can move together without effect: a touch of ridge settles that
        ridge = 1e-12 + 1e-10 * hessian.diagonal(dim1=1, dim2=2).mean(1)
        step = torch.linalg.solve(hessian + ridge[:, None, None] * torch.eye(hessian.shape[1]).to(hessian), gradient)
        moved = _backtrack(there, step, gradient, *data)
        point[live] = moved
        going = (gradient.abs().amax(1) > TOLERANCE) & (moved != there).any(1)
        if not bool(going.any()):
            break
        live, there = live[going], moved[going]
        if not bool(going.all()):
            data = (data[0][going], data[1][going], data[2][going])
    return point[:, 0], point[:, 1:]


def _loss(
    point: Float[Tensor, "task parameter"],
    scores: Float[Tensor, "task example k"],
    target: Float[Tensor, "task example k"],
    share: Float[Tensor, "task example"],
) -> Float[Tensor, "task"]:
    """Mean cross-entropy of each task in nats."""
    logits = point[:, :1, None] * scores + point[:, None, 1:]
    one = logits.shape[-1] == 1
    partition = torch.nn.functional.softplus(logits[..., 0]) if one else logits.logsumexp(-1)
    return ((partition - (target * logits).sum(-1)) * share).sum(1)


def _slopes(
    point: Float[Tensor, "task parameter"],
    scores: Float[Tensor, "task example k"],
    target: Float[Tensor, "task example k"],
    share: Float[Tensor, "task example"],
) -> tuple[Float[Tensor, "task parameter"], Float[Tensor, "task parameter parameter"]]:
    """Gradient and Hessian of the loss in (slope, offsets)."""
    logits = point[:, :1, None] * scores + point[:, None, 1:]
    if logits.shape[-1] == 1:
        p, s = logits[..., 0].sigmoid(), scores[..., 0]
        off, bent = (p - target[..., 0]) * share, p * (1 - p) * share
        across = (bent * s).sum(1)
        gradient = torch.stack([(off * s).sum(1), off.sum(1)], 1)
        return gradient, torch.stack([(bent * s * s).sum(1), across, across, bent.sum(1)], 1).unflatten(1, (2, 2))
    p = logits.softmax(-1)
    off = (p - target) * share[..., None]
    gradient = torch.cat([(off * scores).sum((1, 2))[:, None], off.sum(1)], 1)
    weighted = p * share[..., None]
    bent = weighted * (scores - (p * scores).sum(-1, keepdim=True))
    across = bent.sum(1)
    among = torch.diag_embed(weighted.sum(1)) - weighted.transpose(1, 2) @ p
    top = torch.cat([(bent * scores).sum((1, 2))[:, None], across], 1)
    return gradient, torch.cat([top[:, None], torch.cat([across[..., None], among], 2)], 1)


def _backtrack(
    there: Float[Tensor, "task parameter"],
    step: Float[Tensor, "task parameter"],
    gradient: Float[Tensor, "task parameter"],
    scores: Float[Tensor, "task example k"],
    target: Float[Tensor, "task example k"],
    share: Float[Tensor, "task example"],
) -> Float[Tensor, "task parameter"]:
    """Halve each task's step until its loss falls enough; a task that cannot improve stays where it is."""
    here = _loss(there, scores, target, share)
    promised = (gradient * step).sum(1)
    size = torch.ones_like(here)
    for _ in range(HALVINGS):
        trial = _loss(there - size[:, None] * step, scores, target, share)
        short = trial > here - 1e-4 * size * promised + 1e-15
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return torch.where(short[:, None], there, there - size[:, None] * step)

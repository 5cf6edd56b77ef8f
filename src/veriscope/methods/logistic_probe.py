"""Logistic probes: every fold, shuffle and control solved together, agreeing with scikit-learn.

One matrix of activations serves all tasks, so each step of each fit is a share of a few large matrix products, and one
eigendecomposition of the activations' Gram matrix preconditions them all, whatever their penalty.
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
from veriscope.methods.linear import Linear, fit_reading
from veriscope.subjects import Subject

NEWTON_STEPS = 50
CONJUGATE_STEPS = 40
HALVINGS = 25
EXACT = 5e-6  # largest coefficient change (standardised features) that a further step would make, about
ROUGH = 1e-2  # the same where fits are only compared
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
        """Solve every task, in the precision of `acts`; `seed` draws the inner folds."""
        design = _design(acts)
        fold = torch.randperm(len(acts), generator=torch.Generator().manual_seed(seed)) % self.inner_folds
        columns = 1 if n_classes == 2 else n_classes
        fits_at_once = 1 if len(self.penalties) == 1 else self.inner_folds
        size = max(1, CHUNK // (len(acts) * columns * fits_at_once))
        parts = []
        for start in range(0, len(codes), size):
            rows = slice(start, start + size)
            tasks = _tasks(design, codes[rows], train[rows], n_classes)
            parts.append(_fit(tasks, self.penalties, fold.to(acts.device)))
        weight = torch.cat([p.weight for p in parts])
        return Linear(weight, torch.cat([p.bias for p in parts]))

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Fit on dev examples; see `fit_reading`."""
        return fit_reading(self, subject, sample)


# ---- the problem ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Design:
    """Activations standardised over all rows, and the eigenvectors and eigenvalues of their second moments."""

    x: Float[Tensor, "example d"]
    origin: Float[Tensor, "d"]
    unit: Float[Tensor, "d"]
    basis: Float[Tensor, "d r"]
    energy: Float[Tensor, "r"]


@dataclass(frozen=True)
class _Point:
    """Coefficients of standardised features and intercepts."""

    coef: Float[Tensor, "task k d"]
    intercept: Float[Tensor, "task k"]

    def take(self, which: Int[Tensor, "some"]) -> _Point:
        return _Point(self.coef[which], self.intercept[which])

    def put(self, which: Int[Tensor, "some"], there: _Point) -> None:
        self.coef[which], self.intercept[which] = there.coef, there.intercept

    def plus(self, size: Float[Tensor, "task"], other: _Point) -> _Point:
        return _Point(self.coef + size[:, None, None] * other.coef, self.intercept + size[:, None] * other.intercept)

    def dot(self, other: _Point) -> Float[Tensor, "task"]:
        return (self.coef * other.coef).sum((1, 2)) + (self.intercept * other.intercept).sum(1)

    def largest(self) -> Float[Tensor, "task"]:
        return torch.maximum(self.coef.abs().amax((1, 2)), self.intercept.abs().amax(1))


@dataclass(frozen=True)
class _Tasks:
    """Many fits on one design: whose labels, whose rows, whose penalty, standardised over whose rows."""

    design: _Design
    target: Float[Tensor, "task k example"]
    rows: Float[Tensor, "task example"]
    mean: Float[Tensor, "task d"]
    scale: Float[Tensor, "task d"]
    l2: Float[Tensor, "task"]

    def take(self, which: Int[Tensor, "some"]) -> _Tasks:
        return _Tasks(
            self.design, self.target[which], self.rows[which], self.mean[which], self.scale[which], self.l2[which]
        )

    def zero(self) -> _Point:
        tasks, k, _ = self.target.shape
        start = self.design.x.new_zeros(tasks, k, self.design.x.shape[1])
        return _Point(start, start.new_zeros(tasks, k))

    def logits(self, point: _Point) -> Float[Tensor, "task k example"]:
        raw = point.coef / self.scale[:, None]
        offset = point.intercept - (raw * self.mean[:, None]).sum(-1)
        return (raw.flatten(0, 1) @ self.design.x.T).unflatten(0, raw.shape[:2]) + offset[..., None]

    def pull(self, residual: Float[Tensor, "task k example"]) -> _Point:
        """The transpose of `logits`."""
        total = residual.sum(-1)
        pulled = (residual.flatten(0, 1) @ self.design.x).unflatten(0, total.shape)
        return _Point((pulled - total[..., None] * self.mean[:, None]) / self.scale[:, None], total)

    def probability(self, logits: Float[Tensor, "task k example"]) -> Float[Tensor, "task k example"]:
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)

    def surprise(self, logits: Float[Tensor, "task k example"]) -> Float[Tensor, "task example"]:
        """Cross-entropy of each example in nats, whether or not it is a training row."""
        if logits.shape[1] == 1:
            return torch.nn.functional.softplus(logits[:, 0]) - self.target[:, 0] * logits[:, 0]
        return logits.logsumexp(1) - (self.target * logits).sum(1)

    def loss(self, point: _Point, logits: Float[Tensor, "task k example"]) -> Float[Tensor, "task"]:
        data = (self.surprise(logits) * self.rows).sum(1, dtype=torch.float64)
        return data + 0.5 * self.l2 * point.coef.square().sum((1, 2), dtype=torch.float64)

    def curved(
        self, p: Float[Tensor, "task k example"], moved: Float[Tensor, "task k example"]
    ) -> Float[Tensor, "task k example"]:
        """Change of the residual when the logits move."""
        if p.shape[1] == 1:
            return p * (1 - p) * moved * self.rows[:, None]
        return p * (moved - (p * moved).sum(1, keepdim=True)) * self.rows[:, None]

    def precondition(self, mass: Float[Tensor, "task k"], gradient: _Point) -> _Point:
        """Solve with (curvature mass x shared second moments + penalty) in place of the Hessian."""
        basis, energy = self.design.basis, self.design.energy
        flat = gradient.coef.flatten(0, 1)
        inside = flat @ basis
        l2 = self.l2[:, None].expand_as(mass).reshape(-1, 1)
        solved = inside / (mass.reshape(-1, 1) * energy + l2)
        if basis.shape[1] < basis.shape[0]:  # what lies outside the activations' span meets the penalty only
            solved = solved - inside / l2
        solved = solved @ basis.T
        if basis.shape[1] < basis.shape[0]:
            solved = solved + flat / l2
        return _Point(solved.reshape(gradient.coef.shape), gradient.intercept / mass)


def _design(acts: Float[Tensor, "example d"]) -> _Design:
    origin = acts.mean(0)
    x = acts - origin
    unit = x.square().mean(0).sqrt()
    # a feature that varies by no more than rounding does not vary: infinitely wide units give it no part
    unit = torch.where(unit <= 1e-6 * acts.abs().amax(0), torch.inf, unit)
    x = x / unit
    n, d = x.shape
    if d <= n:
        energy, basis = torch.linalg.eigh(x.T @ x / n)
    else:
        energy, left = torch.linalg.eigh(x @ x.T / n)
        keep = energy > 1e-6 * energy[-1].clamp_min(1e-30)
        energy, basis = energy[keep], x.T @ left[:, keep] / (n * energy[keep]).sqrt()
    return _Design(x, origin, unit, basis.contiguous(), energy.clamp_min(0))


def _tasks(
    design: _Design, codes: Int[Tensor, "task example"], train: Bool[Tensor, "task example"], n_classes: int
) -> _Tasks:
    seen = torch.nn.functional.one_hot(codes, n_classes).to(design.x)
    rows = train.to(design.x)
    # where a class has no training row its intercept would run off to infinity: soften those tasks' targets
    absent = torch.einsum("te,tec->tc", rows, seen).amin(1) == 0
    seen = torch.where(absent[:, None, None], 0.98 * seen + 0.02 / n_classes, seen)
    target = seen[..., 1:] if n_classes == 2 else seen
    mean, scale = _moments(design, train)
    return _Tasks(design, target.transpose(1, 2).contiguous(), rows, mean, scale, design.x.new_ones(len(codes)))


def _moments(
    design: _Design, train: Bool[Tensor, "task example"]
) -> tuple[Float[Tensor, "task d"], Float[Tensor, "task d"]]:
    """Mean and standard deviation of each feature over each task's training rows."""
    masks, which = torch.unique(train, dim=0, return_inverse=True)
    rows = masks.to(design.x)
    count = rows.sum(1, keepdim=True).clamp_min(1)
    mean = rows @ design.x / count
    scale = (rows @ design.x.square() / count - mean.square()).clamp_min(0).sqrt()
    scale = torch.where(scale > 1e-5, scale, 1.0)
    return mean[which], scale[which]


# ---- the solver -------------------------------------------------------------------------------------------------


def _fit(tasks: _Tasks, penalties: tuple[float, ...], fold: Int[Tensor, "example"]) -> Linear:
    """Choose each task's penalty, fit it on all its rows, and put the answer in units of raw activations."""
    if len(penalties) == 1:
        tasks, start = dataclasses.replace(tasks, l2=tasks.l2 * penalties[0]), tasks.zero()
    else:
        tasks, start = _tuned(tasks, penalties, fold)
    found = _newton(tasks, start, EXACT)
    raw = found.coef / tasks.scale[:, None]
    intercept = found.intercept - (raw * tasks.mean[:, None]).sum(-1)
    if raw.shape[1] > 1:
        intercept = intercept - intercept.mean(1, keepdim=True)  # the softmax does not see a common offset
    weight = raw / tasks.design.unit
    return Linear(weight.transpose(1, 2).contiguous(), intercept - weight @ tasks.design.origin)


def _tuned(tasks: _Tasks, penalties: tuple[float, ...], fold: Int[Tensor, "example"]) -> tuple[_Tasks, _Point]:
    """Set each task's penalty to the best in cross-validation; return also where its final fit should start."""
    count, folds = len(tasks.l2), int(fold.max()) + 1
    held_out = torch.stack([fold == f for f in range(folds)])
    everything = tasks.take(torch.arange(count).repeat_interleave(folds))
    rows = everything.rows
    inside = rows * ~held_out.repeat(count, 1)
    mean, scale = _moments(tasks.design, inside.bool())
    inner = dataclasses.replace(everything, rows=inside, mean=mean, scale=scale)
    point, losses, points = inner.zero(), [], []
    for penalty in penalties:
        inner = dataclasses.replace(inner, l2=torch.full_like(inner.l2, penalty))
        point = _newton(inner, point, ROUGH)
        surprise = inner.surprise(inner.logits(point)) * (rows - inside)
        losses.append(surprise.sum(1, dtype=torch.float64).unflatten(0, (count, folds)).sum(1))
        points.append(_Point(point.coef.unflatten(0, (count, folds)).mean(1),
                             point.intercept.unflatten(0, (count, folds)).mean(1)))  # fmt: skip
    best = torch.stack(losses).argmin(0)  # the first, so the strongest, of equals
    which = torch.arange(count)
    start = _Point(torch.stack([p.coef for p in points])[best, which],
                   torch.stack([p.intercept for p in points])[best, which])  # fmt: skip
    return dataclasses.replace(tasks, l2=tasks.l2.new_tensor(penalties)[best]), start


def _newton(everyone: _Tasks, start: _Point, tolerance: float) -> _Point:
    """Truncated Newton with conjugate gradients on all tasks at once; those that have arrived drop out."""
    answer = _Point(start.coef.clone(), start.intercept.clone())
    live = torch.arange(len(everyone.l2))
    tasks, point = everyone, start
    logits, before = tasks.logits(point), torch.full_like(everyone.l2, torch.inf)
    for _ in range(NEWTON_STEPS):
        p = tasks.probability(logits)
        gradient = tasks.pull((p - tasks.target) * tasks.rows[:, None])
        gradient = _Point(gradient.coef + tasks.l2[:, None, None] * point.coef, gradient.intercept)
        mass = torch.einsum("tke,te->tk", p * (1 - p), tasks.rows).clamp_min(1e-3)
        size = tasks.precondition(mass, gradient).largest()
        stalled = (size < 100 * tolerance) & (size > before / 2)  # rounding is all that is left to gain
        going = ((size > tolerance) & ~stalled).nonzero()[:, 0]
        if len(going) < len(live):
            answer.put(live, point)
            if not len(going):
                break
            live, tasks, point = live[going], tasks.take(going), point.take(going)
            logits, p, mass, gradient, size = logits[going], p[going], mass[going], gradient.take(going), size[going]
        before = size
        step, moved = _conjugate(tasks, p, mass, gradient, size.clamp(0.01, 0.2))
        point, logits, stuck = _backtrack(tasks, point, logits, step, moved, gradient)
        if bool(stuck.all()):
            break
    answer.put(live, point)
    return answer


def _conjugate(
    tasks: _Tasks,
    p: Float[Tensor, "task k example"],
    mass: Float[Tensor, "task k"],
    gradient: _Point,
    precision: Float[Tensor, "task"],
) -> tuple[_Point, Float[Tensor, "task k example"]]:
    """Solve Hessian @ step = gradient to a relative `precision`; returns the step and how it moves the logits."""
    step, moved = tasks.zero(), torch.zeros_like(p)
    residual = gradient
    ahead = tasks.precondition(mass, residual)
    power = residual.dot(ahead)
    enough = precision.square() * power
    for _ in range(CONJUGATE_STEPS):
        pushed = tasks.logits(ahead)
        back = tasks.pull(tasks.curved(p, pushed))
        back = _Point(back.coef + tasks.l2[:, None, None] * ahead.coef, back.intercept)
        bend = ahead.dot(back)
        size = torch.where((power > enough) & (bend > 0), power / bend.clamp_min(1e-30), 0.0)
        step = step.plus(size, ahead)
        moved = moved + size[:, None, None] * pushed
        residual = residual.plus(-size, back)
        solved = tasks.precondition(mass, residual)
        now = residual.dot(solved)
        if not bool(((now > enough) & (size > 0)).any()):
            break
        ahead = solved.plus(torch.where(size > 0, now / power.clamp_min(1e-30), 0.0), ahead)
        power = torch.where(size > 0, now, 0.0)
    return step, moved


def _backtrack(
    tasks: _Tasks,
    point: _Point,
    logits: Float[Tensor, "task k example"],
    step: _Point,
    moved: Float[Tensor, "task k example"],
    gradient: _Point,
) -> tuple[_Point, Float[Tensor, "task k example"], Bool[Tensor, "task"]]:
    """Go against the step, halved until the loss falls; a task that cannot improve stays and is reported stuck."""
    here = tasks.loss(point, logits)
    promised = gradient.dot(step).double()
    size = torch.ones_like(here)
    slack = 1e-7 * here.abs() if logits.dtype == torch.float32 else 1e-14 * here.abs()
    for _ in range(HALVINGS):
        far = size.to(logits)
        there, trial = point.plus(-far, step), logits - far[:, None, None] * moved
        short = tasks.loss(there, trial) > here - 1e-4 * size * promised + slack
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    else:
        size = torch.where(short, 0.0, size)
        far = size.to(logits)
        there, trial = point.plus(-far, step), logits - far[:, None, None] * moved
    return there, trial, size == 0

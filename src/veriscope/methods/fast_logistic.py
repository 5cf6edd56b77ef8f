"""Many L2-penalised logistic regressions on one matrix of activations: solved together, each answer certified.

Folds, labels and penalties differ between fits, the activations do not. One Gram matrix of them, factored, stands in
for the Hessian of every fit; what it leaves undone a few L-BFGS pairs make good, and each step of all fits costs two
products with the activations. The steps run in float32. The answers are then checked in float64, and what falls short
is finished there.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TOLERANCE = 1e-9  # of the objective: how far above its minimum a fit may be
MOST_STEPS = 200
PAIRS = 8  # of steps and gradient changes that L-BFGS remembers
LINE_STEPS = 20
PATIENCE = 8  # steps that don't lower the gap by a fifth, after which rounding is all that is left to gain
PACE_STEPS = 6  # by which the pace is judged
WORTH = (10, 40)  # steps that a shared stand-in for the Hessian costs when it is rebuilt, and one for each fit
MOST_FACTORS = 100_000_000  # numbers in the stand-ins of all fits: bounds memory to some hundred MiB
INTERCEPT_STEPS = 50
BLOCK = 1024  # rows that are widened to float64 at a time


class NotConverged(UserWarning):
    """A fit that is farther above its minimum than was asked for; it tells how far."""


@dataclass(frozen=True)
class FoldFits:
    """Fits of every penalty on every fold, with what is proven about each.

    `objective` (nats) is at most `gap` above its minimum: the duality gap at the residuals, in float64.
    """

    coef: Float[Tensor, "penalty fold d_plus_1"]
    objective: Float[Tensor, "penalty fold"]
    gap: Float[Tensor, "penalty fold"]
    steps: tuple[int, ...]


def fit_folds(
    x: Float[Tensor, "example d"],
    y: Int[Tensor, "example"],
    folds: Bool[Tensor, "fold example"],
    penalty: float,
    *,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Float[Tensor, "fold d_plus_1"]:
    """Minimise, for each fold, log-loss over its training rows (nats) + penalty / 2 * |w|^2.

    That is scikit-learn's `LogisticRegression(C=1 / penalty)`; the intercept is not penalised.

    Args:
        x: Activations, raw: not centred, not scaled.
        y: 0 or 1.
        folds: True where a row is trained on. Both labels must occur there.
        tolerance: How far above its minimum an objective may be, as a share of it.
        most_steps: At most so many in float32, and again in float64.

    Returns:
        Coefficients of each fold, the intercept last, in float64.

    Raises:
        ValueError: A label other than 0 and 1, a fold with one label only, a penalty that is not positive, or
            activations that are not finite.

    Warns:
        NotConverged: The tolerance was not reached in so many steps.
    """
    return fit_path(x, y, folds, (penalty,), tolerance=tolerance, most_steps=most_steps).coef[0]


def fit_path(
    x: Float[Tensor, "example d"],
    y: Int[Tensor, "example"],
    folds: Bool[Tensor, "fold example"],
    penalties: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> FoldFits:
    """`fit_folds` for several penalties on one Gram matrix, each fit starting where the next stronger one ended."""
    _must_be_solvable(x, y, folds, penalties)
    features = Features.of(x, standardised=False)
    target = y.to(torch.float64).expand(folds.shape)[:, None]
    problem = Problem(features, target, folds.to(torch.float64), torch.ones(len(folds), x.shape[1]).to(x.device), 1.0)
    unit = float(features.unit.nan_to_num(posinf=0.0).amax()) or 1.0
    found: dict[int, Solution] = {}
    point = None
    for i in sorted(range(len(penalties)), key=lambda i: -penalties[i]):
        here = dataclasses.replace(problem, penalty=penalties[i] / unit**2)
        found[i] = solve(here, point, tolerance=tolerance, most_steps=most_steps)
        point = found[i].point
    several = [found[i] for i in range(len(penalties))]
    weight = torch.stack([features.raw(s.point[:, 0, :-1]) for s in several])
    bias = torch.stack([s.point[:, 0, -1] for s in several]) - weight @ features.origin
    return FoldFits(
        torch.cat([weight, bias[..., None]], -1),
        torch.stack([s.objective for s in several]),
        torch.stack([s.gap for s in several]),
        tuple(s.steps for s in several),
    )


def _must_be_solvable(x: Tensor, y: Tensor, folds: Tensor, penalties: Sequence[float]) -> None:
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be positive, not {list(penalties)}")
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("labels must be 0 or 1; for more classes use veriscope.methods.LogisticProbe")
    ones, rows = (folds & (y == 1)).sum(1), folds.sum(1)
    if bool(((ones == 0) | (ones == rows)).any()):
        where = ((ones == 0) | (ones == rows)).nonzero()[:, 0].tolist()
        raise ValueError(f"folds {where} hold one label only in their training rows; draw the folds by label")
    if not bool((x.abs() < 1e30).all()):
        raise ValueError("activations must be finite numbers below 1e30")


# ---- the problem ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """Activations less `origin` in units of `unit`, infinite for a feature that does not vary and so has no part.

    `near` holds them in float32; a product with something in float64 is made from the activations themselves. The
    origin need not be the exact mean, as long as all products agree on it: the intercept takes up the rest.
    """

    acts: Float[Tensor, "example d"]
    near: Float[Tensor, "example d"]
    origin: Float[Tensor, "d"]
    unit: Float[Tensor, "d"]

    @classmethod
    def of(cls, acts: Float[Tensor, "example d"], *, standardised: bool) -> Features:
        """Centre; then scale each feature to variance 1, or all by one number that keeps float32 in its range."""
        mean = acts.mean(0)
        near = (acts - mean).float()
        size = near.abs().amax().clamp_min(1e-37)
        near = near.div_(size)  # so that squares neither vanish nor overflow
        unit = near.square().mean(0).sqrt().double() * size
        # what varies by no more than rounding does not vary
        flat = unit <= (1e-6 if standardised else 1e-14) * acts.abs().amax(0).double()
        if not standardised:
            unit = torch.where(flat.all(), 1.0, unit.amax()).expand_as(unit)
        unit = torch.where(flat, torch.inf, unit)
        return cls(acts, near.mul_((size / unit).float()), mean.double(), unit)

    def times(self, coef: Float[Tensor, "fit d"]) -> Float[Tensor, "fit example"]:
        """Features @ coefficients."""
        if coef.dtype == torch.float32:
            return coef @ self.near.T
        raw = self.raw(coef)
        return torch.cat([raw @ rows.double().T for rows in self.acts.split(BLOCK)], 1) - (raw @ self.origin)[:, None]

    def pulled(self, residual: Float[Tensor, "fit example"]) -> Float[Tensor, "fit d"]:
        """The transpose of `times`."""
        if residual.dtype == torch.float32:
            return residual @ self.near
        total = -residual.sum(1, keepdim=True) * self.origin
        for part, rows in zip(residual.split(BLOCK, 1), self.acts.split(BLOCK), strict=True):
            total = total + part @ rows.double()
        return total / self.unit

    def exact(self) -> Float[Tensor, "example d"]:
        """All of them in float64."""
        return (self.acts.double() - self.origin) / self.unit

    @cached_property
    def span(self) -> Span:
        """Their axes and second moments, for every fit."""
        return Span.of(self.near)

    def raw(self, coef: Float[Tensor, "*fit d"]) -> Float[Tensor, "*fit d"]:
        """Coefficients of features as coefficients of raw activations."""
        return coef / self.unit


@dataclass(frozen=True)
class Problem:
    """Fits that share activations and penalty: whose labels, whose rows, whose units.

    A point holds coefficients v and an intercept for each column of logits: one for two classes (the sigmoid), else one
    a class (the softmax). A fit's logits are features @ (v / scale) + intercept; its objective is cross-entropy (nats)
    over its rows + penalty / 2 * |v|^2. Everything is computed in the precision of `target`.
    """

    features: Features
    target: Float[Tensor, "fit k example"]
    rows: Float[Tensor, "fit example"]
    scale: Float[Tensor, "fit d"]
    penalty: float

    def to(self, dtype: torch.dtype) -> Problem:
        """The same in another precision."""
        return Problem(
            self.features, self.target.to(dtype), self.rows.to(dtype), self.scale.to(dtype), self.penalty
        )  # fmt: skip

    def take(self, which: Int[Tensor, "some"]) -> Problem:
        """Some of the fits."""
        return Problem(self.features, self.target[which], self.rows[which], self.scale[which], self.penalty)

    @cached_property
    def count(self) -> Float[Tensor, "fit"]:
        """Rows of each fit."""
        return self.rows.sum(1).clamp_min(1)

    def prior(self) -> Float[Tensor, "fit k d_plus_1"]:
        """The point that gives every example the class frequencies of the fit's rows."""
        share = (torch.einsum("fke,fe->fk", self.target, self.rows) / self.count[:, None]).clamp(1e-6, 1 - 1e-6)
        point = share.new_zeros(*share.shape, self.scale.shape[1] + 1)
        point[..., -1] = share.logit() if share.shape[1] == 1 else share.log()
        return point

    def logits(self, point: Float[Tensor, "fit k d_plus_1"]) -> Float[Tensor, "fit k example"]:
        """Of every example, whether or not it is a fit's own."""
        coef = point[..., :-1] / self.scale[:, None]
        return self.features.times(coef.flatten(0, 1)).unflatten(0, point.shape[:2]) + point[..., -1:]

    def surprise(self, logits: Float[Tensor, "fit k example"]) -> Float[Tensor, "fit example"]:
        """Cross-entropy of each example in nats, whether or not it is a fit's own."""
        if logits.shape[1] == 1:
            return torch.nn.functional.softplus(logits[:, 0]) - self.target[:, 0] * logits[:, 0]
        return logits.logsumexp(1) - (self.target * logits).sum(1)

    def objective(
        self, point: Float[Tensor, "fit k d_plus_1"], logits: Float[Tensor, "fit k example"]
    ) -> Float[Tensor, "fit"]:
        """What a fit minimises, in nats."""
        data = (self.surprise(logits) * self.rows).sum(1, dtype=torch.float64)
        return data + self.penalty / 2 * point[..., :-1].square().sum((1, 2), dtype=torch.float64)

    def gradient(
        self, point: Float[Tensor, "fit k d_plus_1"], p: Float[Tensor, "fit k example"]
    ) -> Float[Tensor, "fit k d_plus_1"]:
        """Of the objective, at a point that gives the probabilities p."""
        residual = (p - self.target) * self.rows[:, None]
        pulled = self.features.pulled(residual.flatten(0, 1)).unflatten(0, p.shape[:2]) / self.scale[:, None]
        return torch.cat([pulled + self.penalty * point[..., :-1], residual.sum(2, keepdim=True)], 2)


def _probability(logits: Float[Tensor, "fit k example"]) -> Float[Tensor, "fit k example"]:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _curved(p: Float[Tensor, "fit k example"], moved: Float[Tensor, "fit k example"]) -> Float[Tensor, "fit k example"]:
    """Change of the probabilities, to first order, when the logits move."""
    if p.shape[1] == 1:
        return p * (1 - p) * moved
    return p * (moved - (p * moved).sum(1, keepdim=True))


@dataclass(frozen=True)
class Solution:
    """A point for each fit, its objective and how far that is above its minimum at most; steps taken by the slowest."""

    point: Float[Tensor, "fit k d_plus_1"]
    objective: Float[Tensor, "fit"]
    gap: Float[Tensor, "fit"]
    steps: int


def solve(
    problem: Problem,
    start: Float[Tensor, "fit k d_plus_1"] | None = None,
    *,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Solution:
    """Solve every fit to a duality gap of `tolerance` of its objective, proven in float64, or warn.

    What float32 can't bring there goes on in float64, at last with the Hessian of each fit.
    """
    # steps aim lower than is asked for, as setting the intercepts moves the gradient a little
    near, exact = problem.to(torch.float32), problem.to(torch.float64)
    start = problem.prior() if start is None else start
    point, steps = descend(near, start.float(), tolerance=tolerance / 4, most_steps=most_steps)
    lost = ~point.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    point, objective, gap = certify(exact, torch.where(lost, exact.prior(), point.double()))
    short = (~(gap <= tolerance * objective)).nonzero()[:, 0]
    if len(short):
        part = exact.take(short)
        found, more = descend(part, point[short], tolerance=tolerance / 4, most_steps=most_steps)
        point[short], objective[short], gap[short] = certify(part, found)
        steps += more
    missed = ~(gap <= tolerance * objective)
    if bool(missed.any()):
        worst = float((gap / objective)[missed].amax())
        warnings.warn(
            f"{int(missed.sum())} of {len(gap)} logistic fits may be {worst:.0e} of their objective above the minimum, "
            f"{tolerance:.0e} was asked for; a larger penalty makes them easier",
            NotConverged,
            stacklevel=2,
        )
    return Solution(point, objective, gap, steps)


def certify(
    problem: Problem, point: Float[Tensor, "fit k d_plus_1"]
) -> tuple[Float[Tensor, "fit k d_plus_1"], Float[Tensor, "fit"], Float[Tensor, "fit"]]:
    """Set the intercepts exactly; return the point, its objective and how far that is above the minimum at most.

    With residuals r = p - y that sum to 0, r is a point of the dual problem, and what lies between the objective and
    the dual's value there is |gradient|^2 / (2 * penalty). (The dual: Dual coordinate descent methods for logistic
    regression and maximum entropy models, Yu, Huang and Lin 2011.)
    """
    logits = problem.logits(point)
    for _ in range(INTERCEPT_STEPS):
        p = _probability(logits)
        slope = torch.einsum("fke,fe->fk", p - problem.target, problem.rows)
        if float(slope.abs().amax()) <= 1e-12 * float(problem.count.amax()):
            break
        weighted = p * problem.rows[:, None]
        bend = torch.diag_embed(weighted.sum(2)) - weighted @ p.transpose(1, 2)
        bend = bend + 1e-12 * torch.eye(bend.shape[1]).to(bend)
        move = -torch.linalg.solve(bend, slope)
        if move.shape[1] > 1:
            move = move - move.mean(1, keepdim=True)  # the softmax does not see a common move
        move = move.clamp(-1, 1)
        logits = logits + move[..., None]
        point = torch.cat([point[..., :-1], point[..., -1:] + move[..., None]], -1)
    gradient = problem.gradient(point, _probability(logits))
    unsettled = gradient[..., -1].abs().amax(1) > 1e-9 * problem.count  # then nothing is proven
    return point, problem.objective(point, logits), _gap(problem, gradient).masked_fill(unsettled, torch.inf)


def _gap(problem: Problem, gradient: Float[Tensor, "fit k d_plus_1"]) -> Float[Tensor, "fit"]:
    """The duality gap where the intercepts are right, and about what it costs where they are not yet."""
    square = gradient.square().to(torch.float64)
    return square[..., :-1].sum((1, 2)) / (2 * problem.penalty) + 2 * square[..., -1].sum(1) / problem.count


# ---- the steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Features in axes that span their examples: their own, or with more features than examples the `basis`."""

    rows: Float[Tensor, "example r"]
    basis: Float[Tensor, "d r"] | None
    gram: Float[Tensor, "r r"]

    @classmethod
    def of(cls, x: Float[Tensor, "example d"]) -> Span:
        """The axes, and the second moments along them."""
        basis = None
        if x.shape[1] > x.shape[0]:
            basis, upper = torch.linalg.qr(x.T)
            x = upper.T.contiguous()
        return cls(x, basis, _gram(x) / len(x))

    def weighted(self, weight: Float[Tensor, "example"]) -> Float[Tensor, "r r"]:
        """Sum over examples of weight times outer product."""
        return _gram(self.rows * weight.to(self.rows).sqrt()[:, None])


def _gram(x: Float[Tensor, "example r"]) -> Float[Tensor, "r r"]:
    """x.T @ x, at five eighths of its cost."""
    width = max(1, -(-x.shape[1] // 4))
    gram = x.new_zeros(x.shape[1], x.shape[1])
    for i in range(0, x.shape[1], width):
        gram[i : i + width, i:] = x[:, i : i + width].T @ x[:, i:]
    return gram.triu() + gram.triu(1).T


@dataclass(frozen=True)
class _Metric:
    """Factored stand-ins for the Hessian, one for all columns of logits or one for each.

    Outside the span of the examples the penalty is all there is.
    """

    basis: Float[Tensor, "d r"] | None
    factor: Float[Tensor, "one_or_column r r"]
    mass: Float[Tensor, "one_or_column"]
    penalty: float
    inverse: Float[Tensor, "r r"] | None = None  # of a shared one, where so many columns are solved that it pays

    @classmethod
    def shared(
        cls, span: Span, penalty: float, curvature: Float[Tensor, "column example"], *, weighted: bool
    ) -> _Metric:
        """From the second moments of all examples times the total curvature; `weighted`, each by its own curvature."""
        mean = curvature.mean(0)
        gram = span.weighted(mean) if weighted else span.gram * mean.sum().to(span.gram)
        factor = _factor(gram, penalty)
        inverse = torch.cholesky_inverse(factor) if 8 * len(curvature) > len(gram) else None
        return cls(span.basis, factor[None], mean.sum()[None], penalty, inverse)

    @classmethod
    def own(cls, span: Span, penalty: float, curvature: Float[Tensor, "column example"]) -> _Metric:
        """The very Hessian of each column, but for its intercept and for what ties it to the other columns."""
        factors = [_factor(span.weighted(c), penalty) for c in curvature]
        widest = torch.float64 if any(f.dtype == torch.float64 for f in factors) else torch.float32
        return cls(span.basis, torch.stack([f.to(widest) for f in factors]), curvature.sum(1), penalty)

    def take(self, which: Bool[Tensor, "fit"], columns: int) -> _Metric:
        """Of some fits with so many columns each."""
        if len(self.factor) == 1:
            return self
        kept = which.repeat_interleave(columns)
        return _Metric(self.basis, self.factor[kept], self.mass[kept], self.penalty)

    def solve(self, gradient: Float[Tensor, "column d_plus_1"]) -> Float[Tensor, "column d_plus_1"]:
        """The inverse times the gradient."""
        g = gradient[:, :-1].to(self.factor)
        inside = g if self.basis is None else g @ self.basis.to(g)
        if self.inverse is not None:
            moved = inside @ self.inverse
        elif len(self.factor) == 1:
            moved = torch.cholesky_solve(inside.T, self.factor[0]).T
        else:
            moved = torch.cholesky_solve(inside[..., None], self.factor)[..., 0]
        if self.basis is not None:
            basis = self.basis.to(g)
            moved = moved @ basis.T + (g - inside @ basis.T) / self.penalty
        return torch.cat([moved.to(gradient), gradient[:, -1:] / self.mass.to(gradient)[:, None]], 1)


def _factor(gram: Float[Tensor, "r r"], penalty: float) -> Float[Tensor, "r r"]:
    """Cholesky factor of gram + penalty, in float64 or a little off where rounding made that indefinite."""
    tries = ((gram.dtype, 0.0), (torch.float64, 0.0), (torch.float64, 1e-6), (torch.float64, 1e-3))
    for precision, ridge in tries:
        curved = gram.to(precision, copy=True)
        curved.diagonal().mul_(1 + ridge).add_(penalty)
        factor, failed = torch.linalg.cholesky_ex(curved)
        if not int(failed):
            return factor
    return curved.diagonal().sqrt().diag()


def descend(
    problem: Problem, start: Float[Tensor, "fit k d_plus_1"], *, tolerance: float, most_steps: int = MOST_STEPS
) -> tuple[Float[Tensor, "fit k d_plus_1"], int]:
    """L-BFGS on all fits at once, in the problem's own precision; fits that have arrived, or gain no more, drop out.

    The Gram matrix stands in for the Hessian as long as that goes fast, then the Gram matrix weighted by the mean
    curvature, then each fit's own Hessian: Newton's method, nearly. (On the limited memory BFGS method for large scale
    optimization, Liu and Nocedal 1989.) Returns the points and the number of steps.
    """
    answer, live = start.clone(), torch.arange(len(start), device=start.device)
    here = _Walk.at(problem, start)
    best, idle = torch.full((len(start),), torch.inf).double().to(start.device), torch.zeros_like(live)
    metric, pace = here.metric(0), _Pace()
    for step in range(most_steps):
        gap = _gap(here.problem, here.gradient)
        gained = gap < 0.8 * best
        idle, best = torch.where(gained, 0, idle + 1), torch.where(gained, gap, best)
        hopeful = pace.level < 2 and here.point.dtype == torch.float64  # a better stand-in is yet to come
        going = ~here.within(gap, tolerance) & ((idle < PATIENCE) | hopeful)
        if not bool(going.all()):
            answer[live] = here.point
            if not bool(going.any()):
                return answer, step
            live, best, idle, gap = live[going], best[going], idle[going], gap[going]
            here, metric = here.take(going), metric.take(going, here.point.shape[1])
        pace = pace.after(float((gap / here.objective).amax().log()) - math.log(tolerance))
        if pace.slow:
            pace = _Pace(pace.level + 1)
            idle = torch.zeros_like(idle) if pace.level <= 2 else idle
            metric = here.metric(pace.level)
        elif pace.level == 0 and not 0.6 < float(here.curvature().mean(0).sum() / metric.mass) < 1.7:
            metric = here.metric(0)
        here = here.onward(metric)
    answer[live] = here.point
    return answer, most_steps


@dataclass(frozen=True)
class _Pace:
    """How fast the worst fit comes down to its tolerance: log of the ratio, step by step, since the last rebuilding."""

    level: int = 0
    logs: tuple[float, ...] = ()

    def after(self, log_ratio: float) -> _Pace:
        return _Pace(self.level, (*self.logs, log_ratio))

    @property
    def slow(self) -> bool:
        """Whether, at the pace of the last steps, a rebuilt stand-in would save more steps than it costs."""
        if len(self.logs) <= PACE_STEPS:
            return False
        pace = (self.logs[-1 - PACE_STEPS] - self.logs[-1]) / PACE_STEPS
        return self.logs[-1] > pace * WORTH[min(self.level, 1)]


@dataclass(frozen=True)
class _Walk:
    """Where the fits are, and the pairs (step, gradient change, 1 / their product) that they remember."""

    problem: Problem
    point: Float[Tensor, "fit k d_plus_1"]
    logits: Float[Tensor, "fit k example"]
    p: Float[Tensor, "fit k example"]
    gradient: Float[Tensor, "fit k d_plus_1"]
    objective: Float[Tensor, "fit"]
    pairs: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()

    @classmethod
    def at(cls, problem: Problem, point: Float[Tensor, "fit k d_plus_1"]) -> _Walk:
        logits = problem.logits(point)
        p = _probability(logits)
        return cls(problem, point, logits, p, problem.gradient(point, p), problem.objective(point, logits))

    def take(self, which: Bool[Tensor, "fit"]) -> _Walk:
        pairs = tuple((s[which], y[which], r[which]) for s, y, r in self.pairs)
        return _Walk(
            self.problem.take(which.nonzero()[:, 0]), self.point[which], self.logits[which], self.p[which],
            self.gradient[which], self.objective[which], pairs,
        )  # fmt: skip

    def within(self, gap: Float[Tensor, "fit"], tolerance: float) -> Bool[Tensor, "fit"]:
        """Which fits have arrived. The objective is reckoned only where the one at the start, a larger, says so."""
        arrived = gap <= tolerance * self.objective
        if bool(arrived.any()):
            which = arrived.nonzero()[:, 0]
            now = self.problem.take(which).objective(self.point[which], self.logits[which])
            arrived[which] = gap[which] <= tolerance * now
        return arrived

    def curvature(self) -> Float[Tensor, "column example"]:
        """Curvature of the loss in each logit, of the fits' columns one after the other."""
        return (self.p * (1 - self.p) * self.problem.rows[:, None]).flatten(0, 1)

    def metric(self, level: int) -> _Metric:
        """What stands in for the Hessian from here: one for all fits, or above level 1 one for each."""
        curvature, penalty, span = self.curvature() + 1e-12, self.problem.penalty, self.problem.features.span
        if level > 1 and len(curvature) * span.gram.numel() <= MOST_FACTORS:
            if curvature.dtype == torch.float64:
                span = Span.of(self.problem.features.exact())
            return _Metric.own(span, penalty, curvature)
        return _Metric.shared(span, penalty, curvature, weighted=level > 0)

    def onward(self, metric: _Metric) -> _Walk:
        """One step."""
        direction = self._direction(metric)
        moved = self.problem.logits(direction)
        size, p = self._along(direction, moved)
        step = size[:, None, None] * direction
        point, logits = self.point + step, self.logits + size[:, None, None] * moved
        gradient = self.problem.gradient(point, p)
        change = gradient - self.gradient
        product = (step * change).sum((1, 2))[:, None, None]
        pair = (step, change, torch.where(product > 0, 1 / product, 0.0))
        pairs = (*self.pairs, pair)[-PAIRS:]
        return _Walk(self.problem, point, logits, p, gradient, self.objective, pairs)

    def _direction(self, metric: _Metric) -> Float[Tensor, "fit k d_plus_1"]:
        """The two-loop recursion."""
        q, shares = self.gradient, []
        for step, change, inverse in reversed(self.pairs):
            shares.append(inverse * (step * q).sum((1, 2), keepdim=True))
            q = q - shares[-1] * change
        found = metric.solve(q.flatten(0, 1)).unflatten(0, q.shape[:2])
        for (step, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            found = found + step * (share - inverse * (change * found).sum((1, 2), keepdim=True))
        return -found

    def _along(
        self, direction: Float[Tensor, "fit k d_plus_1"], moved: Float[Tensor, "fit k example"]
    ) -> tuple[Float[Tensor, "fit"], Float[Tensor, "fit k example"]]:
        """How far to go, to where the slope is at most half of what it was; and the probabilities there.

        The slope only rises along a line, so Newton's method between brackets finds its zero. Slopes, unlike
        objectives, are known precisely enough near the minimum; and they cost no product with the activations.
        """
        penalty, coef = self.problem.penalty, direction[..., :-1]
        first = (self.gradient * direction).sum((1, 2))
        across, own = penalty * (self.point[..., :-1] * coef).sum((1, 2)), penalty * coef.square().sum((1, 2))
        counted = moved * self.problem.rows[:, None]
        size, p, slope = torch.zeros_like(first), self.p, first
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        for _ in range(LINE_STEPS):
            bend = (_curved(p, moved) * counted).sum((1, 2)) + own
            onward = size - slope / bend.clamp_min(1e-30)
            onward = torch.where((onward > low) & (onward < high), onward, (low + high) / 2)
            done = (slope.abs() <= 0.5 * first.abs()) | (first >= 0)
            size = torch.where(done, size, onward)
            p = _probability(self.logits + size[:, None, None] * moved)
            slope = ((p - self.problem.target) * counted).sum((1, 2)) + across + size * own
            if bool(((slope.abs() <= 0.5 * first.abs()) | (first >= 0)).all()):
                break
            low, high = torch.where(slope < 0, size, low), torch.where(slope > 0, size, high)
        return size, p

"""The shared solver against scikit-learn's, on one objective; and what it says of its own answers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from veriscope.methods.fast_logistic import NotConverged, fit_folds, fit_path


def problem(kind: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, labels and three folds."""
    source = torch.Generator().manual_seed(seed)
    n, d = (60, 150) if kind == "wide" else (300, 25)
    x = torch.randn(n, d, generator=source, dtype=torch.float64)
    if kind == "correlated":
        x = x @ torch.randn(d, d, generator=source, dtype=torch.float64) * 10 ** torch.linspace(-2, 1, d)
    if kind == "offset":
        x = 1e4 + x
    if kind == "constant":
        x[:, 3], x[:, 5] = 7.25, 0.0
    if kind == "repeated":
        x[:, 1], x[: n // 2] = x[:, 0], x[n // 2 :].clone()
    z = (x - x.mean(0)) @ torch.randn(d, generator=source, dtype=torch.float64)
    noise = 0.0 if kind == "separable" else 1.0
    z = z / z.std() + noise * torch.randn(n, generator=source)
    y = (z > (2.2 if kind == "rare" else 0)).long()
    return x, y, torch.arange(n) % 3 != torch.arange(3)[:, None]


def objective(x: Tensor, y: Tensor, train: Tensor, penalty: float, coef: Tensor) -> float:
    z = x[train].double() @ coef[:-1] + coef[-1]
    return float((torch.nn.functional.softplus(z) - y[train] * z).sum() + penalty / 2 * coef[:-1].square().sum())


def oracle(x: Tensor, y: Tensor, train: Tensor, penalty: float) -> Tensor:
    """scikit-learn's answer; centred first, which alters the intercept only, as its Newton solver needs it."""
    centre = x[train].double().mean(0)
    inside = (x[train].double() - centre).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        model.fit(inside, y[train].numpy())
    weight = torch.tensor(model.coef_[0])
    return torch.cat([weight, torch.tensor(model.intercept_) - weight @ centre])


KINDS = ("random", "correlated", "offset", "constant", "repeated", "separable", "rare", "wide")


@pytest.mark.parametrize("penalty", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_fold_agrees_with_scikit_learn_and_its_gap_holds(kind: str, penalty: float) -> None:
    x, y, folds = problem(kind)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_path(x, y, folds, (penalty,))

    for f, train in enumerate(folds):
        theirs, mine = oracle(x, y, train, penalty), found.coef[0, f]
        best, value, gap = objective(x, y, train, penalty, theirs), float(found.objective[0, f]), float(found.gap[0, f])
        assert value == pytest.approx(objective(x, y, train, penalty, mine), rel=1e-8)
        assert gap <= 1e-9 * value
        assert value <= best * (1 + 1e-9)
        assert value - gap <= best * (1 + 1e-12)  # the bound is one
        near = (2e-9 * best / penalty) ** 0.5  # strong convexity: how far apart two such answers may lie
        assert (mine[:-1] - theirs[:-1]).norm() <= near + 1e-6 * theirs.norm()


@pytest.mark.parametrize("kind", ["random", "correlated", "separable", "wide"])
def test_float32_activations_are_solved_as_if_they_were_float64(kind: str) -> None:
    x, y, folds = problem(kind)
    x = x.float()

    narrow, wide = (fit_folds(a, y, folds, 1.0, tolerance=1e-12) for a in (x, x.double()))

    assert narrow.dtype == torch.float64
    assert (narrow - wide).abs().max() < 1e-4 * wide.abs().max()


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_units_of_the_activations_do_not_matter(size: float) -> None:
    x, y, folds = problem("random")

    found, plain = fit_folds(size * x, y, folds, size**2), fit_folds(x, y, folds, 1.0)

    assert (found[:, :-1] * size - plain[:, :-1]).abs().max() < 1e-4


def test_a_feature_that_does_not_vary_gets_no_weight() -> None:
    x, y, folds = problem("constant")

    found = fit_folds(x, y, folds, 1.0)
    nothing = fit_folds(torch.ones(300, 2), y, folds, 1.0)

    assert bool((found[:, [3, 5]] == 0).all())
    share = torch.stack([y[train].double().mean() for train in folds])
    assert torch.allclose(nothing[:, 2], share.logit()) and bool((nothing[:, :2] == 0).all())


def test_a_path_of_penalties_gives_what_each_gives_alone() -> None:
    x, y, folds = problem("correlated")
    penalties = (1.0, 100.0, 10.0)

    path = fit_path(x, y, folds, penalties, tolerance=1e-12)

    alone = torch.stack([fit_folds(x, y, folds, p, tolerance=1e-12) for p in penalties])
    assert (path.coef - alone).abs().max() < 1e-4 * alone.abs().max()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    n=st.integers(4, 60),
    d=st.integers(1, 80),
    log_penalty=st.floats(-4, 4),
    spread=st.floats(0, 3),
    seed=st.integers(0, 10_000),
)
def test_whatever_the_shape_the_answer_is_proven_and_beats_its_neighbours(
    n: int, d: int, log_penalty: float, spread: float, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=source) * 10 ** (spread * (torch.rand(d, generator=source) - 0.5))
    y = torch.arange(n) % 2
    folds = torch.rand(3, n, generator=source) < 0.8
    folds[:, :2] = True
    penalty = 10**log_penalty

    found = fit_path(x, y, folds, (penalty,))

    assert bool((found.gap <= 1e-9 * found.objective).all())
    coef = found.coef[0, 1]
    best = objective(x, y, folds[1], penalty, coef)
    for _ in range(5):
        aside = coef + 1e-2 * torch.randn(d + 1, generator=source) * (coef.abs() + 1e-2)
        assert objective(x, y, folds[1], penalty, aside) >= best * (1 - 1e-9)


def test_a_fit_that_ends_early_says_so_and_its_bound_still_holds() -> None:
    x, y, folds = problem("correlated")

    with pytest.warns(NotConverged, match=r"3 of 3 logistic fits may be .* 1e-09 was asked for; a larger penalty"):
        found = fit_path(x, y, folds, (0.1,), most_steps=1)

    best = objective(x, y, folds[0], 0.1, oracle(x, y, folds[0], 0.1))
    value, gap = float(found.objective[0, 0]), float(found.gap[0, 0])
    assert value > best * (1 + 1e-6)  # else nothing is tested
    assert value - gap <= best


def test_hard_fits_go_on_to_their_own_hessian() -> None:
    source = torch.Generator().manual_seed(3)
    words = torch.randn(60, 90, generator=source)
    word = torch.randint(60, (600,), generator=source)
    y = (torch.rand(600, generator=source) < torch.rand(60, generator=source).pow(3)[word]).long()
    folds = torch.arange(600) % 5 != torch.arange(5)[:, None]

    found = fit_path(words[word], y, folds, (1e-3,))

    assert bool((found.gap <= 1e-9 * found.objective).all())
    assert found.steps[0] < 100  # several hundred on the shared Gram matrix alone


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y, folds = problem("random")

    with pytest.raises(ValueError, match="penalties must be positive"):
        fit_folds(x, y, folds, 0.0)
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        fit_folds(x, y + 1, folds, 1.0)
    with pytest.raises(ValueError, match=r"folds \[1\] hold one label only"):
        fit_folds(x, y, torch.stack([folds[0], folds[1] & (y == 1)]), 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        fit_folds(x.where(x < 2, np.nan), y, folds, 1.0)

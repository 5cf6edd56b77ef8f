"""The measure behind C1: against a slow oracle, on scores that say something and on scores that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from veriscope.methods.bits import calibrated_bits, entropy_bits, platt


def oracle(scores: np.ndarray, codes: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """log2 probability of the true class under one slope >= 0 and a bias a class, by a general optimiser."""
    often = np.array([weights[codes == c].sum() for c in range(classes)])
    target = np.full((len(codes), classes), 1.0) + np.eye(classes)[codes] * often[codes][:, None]
    target /= (often[codes] + classes)[:, None]
    spread = np.concatenate([0 * scores, scores], 1) if classes == 2 else scores
    unit = spread.std()

    def loss(v: np.ndarray) -> float:
        return -float(weights @ (target * log_softmax(v[0] * spread / unit + v[1:], 1)).sum(1)) / weights.sum()

    bounds = [(0, None)] + [(None, None)] * classes
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(loss, np.zeros(classes + 1), bounds=bounds, method="L-BFGS-B", options=options)
    return log_softmax(best.x[0] * spread / unit + best.x[1:], 1)[np.arange(len(codes)), codes] / np.log(2)


def draw(classes: int, signal: float, n: int = 150, tasks: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(classes, (tasks, n), generator=source)
    k = 1 if classes == 2 else classes
    shift = codes[..., None].double() if classes == 2 else torch.nn.functional.one_hot(codes, classes).double()
    return 3 * torch.randn(tasks, n, k, generator=source, dtype=torch.float64) + 7 + 3 * signal * shift, codes


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("signal", [1.5, 0.3, 0.0])
def test_calibration_agrees_with_a_general_optimiser(classes: int, signal: float) -> None:
    scores, codes = draw(classes, signal)
    weights = torch.randint(0, 3, codes.shape, generator=torch.Generator().manual_seed(1)).double()

    mine = platt(scores, codes, classes, weights).log2_prob(scores, codes)

    for t in range(len(codes)):
        slow = oracle(scores[t].numpy(), codes[t].numpy(), weights[t].numpy(), classes)
        assert np.abs(mine[t].numpy() - slow).max() < 1e-5


def test_two_columns_less_one_another_are_one_column() -> None:
    scores, codes = draw(2, 1.0)

    one = platt(scores, codes, 2).log2_probs(scores)
    moved = platt(5 * scores - 100, codes, 2).log2_probs(5 * scores - 100)

    assert torch.allclose(one, moved, atol=1e-6)
    assert torch.allclose(one.exp2().sum(-1), torch.ones(2, 150, dtype=torch.float64))


def test_bits_of_a_gaussian_shift_are_what_theory_says() -> None:
    scores, codes = draw(2, 2.0, n=20_000, tasks=1)
    # I(class; score) for two unit Gaussians 2 apart, by numerical integration
    x = np.linspace(-12, 14, 20_001)
    p0, p1 = np.exp(-(x**2) / 2), np.exp(-((x - 2) ** 2) / 2)
    mean = (p0 + p1) / 2
    expected = ((p0 * np.log2(p0 / mean) + p1 * np.log2(p1 / mean)) / 2).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)

    bits = calibrated_bits(scores, codes, 2)

    assert float(bits[0]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("classes", [2, 4])
def test_noise_is_worth_nothing_and_costs_nothing(classes: int) -> None:
    scores, codes = draw(classes, 0.0, n=400, tasks=200)

    calibration = platt(scores, codes, classes)
    gained = calibration.log2_prob(scores, codes) - calibration.prior_log2_prob(codes)
    fresh, fresh_codes = draw(classes, 0.0, n=400, tasks=200, seed=9)
    held_out = calibration.log2_prob(fresh, fresh_codes) - calibration.prior_log2_prob(fresh_codes)

    assert float(calibrated_bits(scores, codes, classes).mean()) < 0.002
    assert float(gained.mean(1).min()) > -1e-4
    assert abs(float(held_out.mean())) < 0.002


def test_scores_that_point_the_wrong_way_are_worth_nothing() -> None:
    scores, codes = draw(2, 2.0)

    calibration = platt(-scores, codes, 2)

    assert bool((calibration.slope == 0).all())
    assert bool((calibrated_bits(-scores, codes, 2) < 1e-3).all())


def test_perfect_scores_get_a_finite_confidence() -> None:
    codes = torch.arange(100)[None] % 2
    scores = 1e6 * (2.0 * codes[..., None] - 1) + 1e7

    calibration = platt(scores, codes, 2)
    worst = calibration.log2_prob(scores, 1 - codes)

    assert 0.95 < float(calibrated_bits(scores, codes, 2)[0]) < 1
    assert float(worst.min()) == pytest.approx(-math.log2(52), abs=0.01)  # as if each class had been seen once more


def test_constant_scores_and_absent_classes_give_the_prior() -> None:
    codes = torch.tensor([[0] * 30 + [1] * 10, [0] * 40])

    calibration = platt(torch.full((2, 40, 1), 3.3), codes, 2)

    assert torch.equal(calibration.slope, torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(calibration.log2_probs(torch.zeros(2, 5, 1))[:, 0].exp2(), calibration.prior)
    assert float(calibration.prior[0, 1]) == pytest.approx(0.25, abs=0.03)
    assert 0 < float(calibration.prior[1, 1]) < 0.05


def test_weights_of_zero_leave_examples_out() -> None:
    scores, codes = draw(3, 1.0)
    weights = torch.ones(codes.shape, dtype=torch.float64)
    weights[:, 100:] = 0

    some, cut = platt(scores, codes, 3, weights), platt(scores[:, :100], codes[:, :100], 3)

    assert torch.allclose(some.slope, cut.slope, atol=1e-6)
    assert torch.allclose(some.offset, cut.offset, atol=1e-5)
    assert torch.allclose(entropy_bits(codes, 3, weights), entropy_bits(codes[:, :100], 3))


def test_what_cannot_be_calibrated_is_refused() -> None:
    scores, codes = draw(3, 1.0)

    with pytest.raises(ValueError, match="3 classes need 3 score columns, not 1"):
        platt(scores[..., :1], codes, 3)
    with pytest.raises(ValueError, match="finite"):
        platt(scores * torch.inf, codes, 3)

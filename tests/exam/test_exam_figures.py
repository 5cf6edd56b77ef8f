"""Each figure on a case worked by hand, and against another implementation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from veriscope.errors import NotRun
from veriscope.exam.figures import (
    auroc,
    brier,
    calibrate,
    crossing,
    flips,
    likelihood_ratios,
    log_score,
    out_of_sample,
    sensitivity,
)


def drawn(n: int = 300, apart: float = 1.0, seed: int = 0) -> tuple[list[float], list[bool]]:
    rng = np.random.default_rng(seed)
    truths = rng.random(n) < 0.4
    return (rng.normal(0, 1, n) + apart * truths).round(1).tolist(), truths.tolist()  # rounded: with ties


def test_likelihood_ratios_by_hand() -> None:
    found = likelihood_ratios(54, 60, 3, 60)

    assert found.supported == pytest.approx(0.9 / 0.05) and found.not_supported == pytest.approx(0.1 / 0.95)
    low = stats.beta.ppf(0.025, 54, 7)
    high = stats.beta.ppf(0.975, 4, 57)
    assert found.supported_at_least == pytest.approx(low / high)
    assert found.not_supported_at_most == pytest.approx((1 - low) / (1 - high))


def test_a_ratio_without_false_supports_has_a_bound_and_no_value() -> None:
    found = likelihood_ratios(60, 60, 0, 60)

    assert found.supported is None
    assert found.supported_at_least == pytest.approx(0.025 ** (1 / 60) / (1 - 0.025 ** (1 / 60)))


def test_a_verifier_that_supports_everything_says_nothing() -> None:
    found = likelihood_ratios(60, 60, 60, 60)

    assert found.supported_at_least < 1 and found.not_supported is None and found.not_supported_at_most is None


def test_auroc_counts_ties_half_and_agrees_with_sklearn() -> None:
    assert auroc([1.0, 2.0, 2.0, 3.0], [False, False, True, True]) == pytest.approx(3.5 / 4)

    scores, truths = drawn()
    assert auroc(scores, truths) == pytest.approx(roc_auc_score(truths, scores))


def test_brier_and_log_score_weigh_true_and_false_alike() -> None:
    assert brier([0.9, 0.2, 0.4], [True, False, False]) == pytest.approx((0.01 + (0.04 + 0.16) / 2) / 2)
    assert log_score([0.5, 0.5], [True, False]) == pytest.approx(1.0)

    scores, truths = drawn()
    stated = (1 / (1 + np.exp(-np.array(scores)))).tolist()
    weight = np.where(truths, 0.5 / sum(truths), 0.5 / (len(truths) - sum(truths)))
    assert brier(stated, truths) == pytest.approx(brier_score_loss(truths, stated, sample_weight=weight))
    assert log_score(stated, truths) == pytest.approx(log_loss(truths, stated, sample_weight=weight) / np.log(2))


def test_the_sensitivity_curve_by_hand() -> None:
    assert crossing([1.0, 2.0, 4.0], [0.2, 0.6, 1.0]) == pytest.approx(2 * 2**0.5)  # half-way between 0.6 and 1
    assert crossing([1.0, 2.0], [0.8, 0.9]) == 1.0 and crossing([1.0, 2.0], [0.1, 0.79]) is None

    found = sensitivity({0.5: (0, 60), 1.0: (6, 60), 2.0: (57, 60), 4.0: (55, 60)})

    assert isinstance(found.found_at, float) and found.low is not None and found.high is not None
    assert 1 < found.low < found.found_at < found.high < 2
    shares = IsotonicRegression().fit_transform([0, 1, 2, 3], [0, 0.1, 0.95, 55 / 60], sample_weight=[60] * 4)
    assert [c for _, c in found.curve] == pytest.approx(shares)


def test_an_effect_that_is_never_found_is_said_to_be_so() -> None:
    found = sensitivity({1.0: (0, 60), 2.0: (10, 60)})

    assert isinstance(found.found_at, NotRun) and found.high is None
    assert "80% not reached at up to 2 times" in found.found_at.reason


def test_the_calibration_is_plain_logistic_regression_where_claims_are_many() -> None:
    scores, truths = drawn(n=20_000)
    weight = np.where(truths, 0.5 / sum(truths), 0.5 / (len(truths) - sum(truths))) * len(truths)

    found = calibrate(scores, truths)

    other = LogisticRegression(C=np.inf).fit(np.array(scores)[:, None], truths, sample_weight=weight)
    assert found.slope == pytest.approx(other.coef_[0, 0], rel=0.02)
    assert found.intercept == pytest.approx(other.intercept_[0], abs=0.02)


def test_few_claims_told_apart_without_an_error_give_no_certainty() -> None:
    found = calibrate([-9.0] * 8 + [9.0] * 8, [False] * 8 + [True] * 8)

    assert found.of(9.0) <= 0.9 and found.of(1e9) <= 0.9 and found.of(-1e9) >= 0.1


def test_scores_that_say_nothing_are_stated_as_a_coin() -> None:
    scores, truths = drawn(n=2_000, apart=0.0)

    stated = out_of_sample(scores, truths, list(range(2_000)))

    assert not isinstance(stated, NotRun)
    assert brier(stated, truths) == pytest.approx(0.25, abs=0.01) and log_score(stated, truths) >= 0.99
    assert isinstance(out_of_sample([0.0, 1.0], [False, True], [0, 0]), NotRun)


def test_flips_by_hand() -> None:
    s, r, i = "SUPPORTED", "REFUTED", "INCONCLUSIVE"

    found = flips([(s, s, s), (s, s, i), (r, i, r)])

    assert (found.claims, found.changed, found.to_supported) == (3, 2, 1)
    assert found.rate == pytest.approx((0 + 2 / 3 + 2 / 3) / 3)

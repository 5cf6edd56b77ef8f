"""Intervals, bounds and corrections: against scipy, hand-worked cases and their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import (
    Resampler,
    benjamini_hochberg,
    clopper_pearson,
    detectable,
    holm,
    items_needed,
    spread_of,
    standard_error,
)


def clustered(n_clusters: int, per: int, effect: float, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=n_clusters)
    values = effect + np.repeat(shared, per) + 0.5 * rng.normal(size=n_clusters * per)
    return values, tuple(f"c{i}" for i in range(n_clusters) for _ in range(per))


def test_bounds_agree_with_scipys_bca_bootstrap_of_cluster_means() -> None:
    values, clusters = clustered(40, 5, 1.0, seed=3)
    means = values.reshape(40, 5).mean(1)

    ours = Resampler(clusters, draws=20_000).mean(values)

    theirs = stats.bootstrap((means,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=1)
    assert ours.value == pytest.approx(means.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_one_sided_bounds_cover_at_their_stated_rate_over_clusters_not_items() -> None:
    by_cluster = by_item = 0
    for seed in range(200):
        values, clusters = clustered(40, 8, 0.0, seed)
        by_cluster += Resampler(clusters, draws=500, seed=seed).mean(values).low > 0
        by_item += Resampler(tuple(map(str, range(len(values)))), draws=500, seed=seed).mean(values).low > 0

    assert by_cluster <= 20  # 5% expected, 10% would be 20
    assert by_item >= 30  # forgetting the clusters is anticonservative, and this test would see it


def test_a_ratio_of_sums_and_its_p_value_are_those_of_a_hand_worked_case() -> None:
    draws = Resampler(("a", "a", "b", "b"), draws=2_000)
    columns = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 1.0], [2.0, 3.0]])

    found = draws.ratio(columns[:, 0], columns[:, 1])

    assert found.value == pytest.approx(8 / 8)
    assert draws.p_value(columns, margin=2.0) == 1.0
    assert draws.p_value(columns, margin=0.0) == pytest.approx(1 / 2_001)


def test_shares_of_exactly_zero_or_one_keep_an_honest_bound() -> None:
    none = Resampler(tuple(map(str, range(60)))).mean(np.zeros(60))

    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0487, abs=1e-3)  # 0 of 60: below 4.9% (verification notes, section 7)


@pytest.mark.parametrize("hits, n, bound", [(0, 60, 0.0487), (1, 93, 0.05), (2, 124, 0.05), (0, 299, 0.01)])
def test_clopper_pearson_gives_the_published_sample_sizes(hits: int, n: int, bound: float) -> None:
    assert clopper_pearson(hits, n)[1] == pytest.approx(bound, abs=2e-3)


def test_holm_and_benjamini_hochberg_on_worked_examples() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]

    assert holm(p_values) == [True, False, False, True]
    assert benjamini_hochberg(p_values) == [True, True, True, True]
    assert benjamini_hochberg([0.2, 0.5]) == [False, False]
    assert benjamini_hochberg([]) == []


def test_twenty_null_outcomes_yield_few_false_positives_after_correction() -> None:
    rng = np.random.default_rng(0)

    found = sum(any(benjamini_hochberg(list(rng.uniform(size=20)))) for _ in range(400))

    assert found <= 34  # 5% of 400 is 20; 34 is its upper 99.9% point


def test_power_and_items_needed_follow_from_the_standard_error() -> None:
    estimate = Estimate(0.07, 0.07 - 1.645 * 0.02, 0.07 + 1.645 * 0.02, n=400, clusters=100)

    assert standard_error(estimate) == pytest.approx(0.02, abs=1e-4)
    assert detectable(estimate, clusters=400) == pytest.approx(2.486 * 0.01, abs=1e-3)
    assert items_needed(estimate, margin=0.05) == pytest.approx(400 * (2.486**2 - 1), rel=0.01)
    assert items_needed(estimate, margin=0.07) is None


def test_the_worst_cluster_and_the_wrong_sign_share_are_named() -> None:
    found = spread_of(np.array([1.0, 2.0, -1.0, -3.0]), ["good", "good", "bad", "bad"])

    assert (found.worst_cluster, found.worst_value, found.wrong_sign) == ("bad", -2.0, 0.5)

"""What other practice says of claims whose truth is known, and its tests against scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from veriscope.claims import Mediates, Necessary, Steers
from veriscope.exam.rivals import RESAMPLED, excludes, sign_flip, verdicts
from veriscope.examples import Examples
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject
from veriscope.zoo.planted import UNUSED, USED, Planted

BED = Planted(seed=5, bits=0.4, rows=800)
MAKES = {
    "C2": lambda finding, of, on: Mediates(finding, of=of, on=on),
    "C3": lambda finding, of, on: Necessary(finding, of=of, on=on),
    "C4": lambda finding, of, on: Steers(
        finding, toward="1", of=of, on=on, targets={"1": "yes", "0": "no"}, neutral=tuple(on.dev.texts[:24])
    ),
}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return BED.subject()


def about(variable: str) -> Examples:
    return BED.examples(variable)


@pytest.mark.parametrize("kind", MAKES)
def test_a_direction_that_the_output_reads_passes_every_check(subject: Subject, kind: str) -> None:
    data = about(USED)
    finding = MeanDifference(site="residual").fit(subject, data.dev)

    found = verdicts(MAKES[kind](finding, USED, data), subject, seed=0)

    assert set(found) == {"common practice", "interval", "sign flips", "placebo", "shipped checks"}
    assert all(found.values())


@pytest.mark.parametrize("kind", MAKES)
def test_a_direction_that_nothing_reads_is_not_supported_by_all_checks(subject: Subject, kind: str) -> None:
    data = about(UNUSED)
    finding = MeanDifference(site="residual").fit(subject, data.dev)
    away = finding.weight.clone()  # what the head reads of it, which is only noise of the fit, is taken out
    head = subject.module.head.weight.detach()
    rows = head[[BED.vocab["yes"], BED.vocab["no"]]]
    basis = np.linalg.svd(rows.numpy(), full_matrices=False)[2]
    away -= away.new_tensor(basis.T @ (basis @ away.numpy()))
    finding = _with_weight(finding, away)

    found = verdicts(MAKES[kind](finding, UNUSED, data), subject, seed=0)

    assert not found["placebo"] and not found["shipped checks"]


def _with_weight(finding: Any, weight: Any) -> Any:
    import dataclasses

    return dataclasses.replace(finding, weight=weight)


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.3])
def test_the_interval_and_the_sign_flips_agree_with_scipy(mean: float) -> None:
    values = np.random.default_rng(3).normal(mean, 1, 150)

    low = stats.bootstrap(
        (values,), np.mean, n_resamples=4_000, method="percentile", random_state=0
    ).confidence_interval
    flipped = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=4_000, random_state=0, alternative="two-sided"
    ).pvalue

    assert excludes(values, seed=0) == (low.low > 0)
    assert sign_flip(values, seed=0) == pytest.approx(flipped, abs=0.02)


def test_no_effect_at_all_is_not_significant() -> None:
    assert sign_flip(np.zeros(50), seed=0) == 1.0
    assert sign_flip(np.ones(50), seed=0) == pytest.approx(1 / (1 + RESAMPLED))
    assert not excludes(np.zeros(50), seed=0)

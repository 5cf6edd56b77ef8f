"""The instrument's own error: methods that can read are told from those that can't, and noise is called noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made import outcome

from veriscope.exam.methods import Calibration, Data, calibrate_methods, readers, record_methods, reseed_variance
from veriscope.exam.pages import methods
from veriscope.exam.results import read
from veriscope.methods import MeanDifference, PCADirection
from veriscope.trials import rates
from veriscope.trials.evidence import Estimate, GateResult
from veriscope.trials.rates import instrument_noise

MEAN = "veriscope.methods.mean_difference:MeanDifference"


def made_up(deviation: float = 0.01) -> Calibration:
    at = {"at": 0.04, "low": 0.03, "high": None}
    return Calibration("MeanDifference", 0, 20, 0.139, 1, 20, deviation, at, ((0.1, 0.08),))


@pytest.mark.slow
def test_a_direction_at_random_misses_what_a_difference_of_means_reads() -> None:
    found = {c.method: c for c in calibrate_methods(1, levels=(0.1,))}

    assert set(found) == set(readers()) and "LEACE" not in found
    assert (found["MeanDifference"].missed, found["RandomDirection"].missed) == (0, 1)
    assert all(c.nulls == c.planted == 1 for c in found.values())
    assert 0 < found["MeanDifference"].reseed_deviation < 0.05


def test_reseeding_changes_a_method_that_sees_few_examples_more() -> None:
    rng = torch.Generator().manual_seed(0)

    def data(n: int) -> Data:
        codes = torch.randint(2, (n + 500,), generator=rng)
        acts = torch.randn(n + 500, 16, generator=rng) + codes[:, None] * 0.4
        names = tuple(str(i) for i in range(n + 500))
        return Data(acts[:n], acts[n:], codes[:n], codes[n:], names[:n], names[n:])

    few, many = (reseed_variance(MeanDifference(site="x"), data(n)) for n in (60, 1_500))

    assert few > 4 * many > 0
    assert reseed_variance(PCADirection(site="x"), data(200)) >= 0


@pytest.mark.parametrize(
    "bits, method, inside", [(0.015, MEAN, True), (0.025, MEAN, False), (0.015, "mine:Mine", False)]
)
def test_an_effect_under_twice_the_reseed_deviation_is_called_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bits: float, method: str, inside: bool
) -> None:
    path = tmp_path / "results.json"
    record_methods(path, [made_up(deviation=0.01)], "2026-01-01")
    monkeypatch.setattr(rates, "exam_results", lambda: read(path))
    gate = GateResult("g1", "", "gate", "bits", "unclear", margin=0.05, estimate=Estimate(bits, 0.0, 0.1, 9, 9))

    assert ("Inside instrument noise: less than 0.020 bits" in instrument_noise("C1", [gate], method)) == inside
    assert instrument_noise("C2", [gate], MEAN) == ""


def test_the_methods_stand_beside_the_claim_types_and_are_none_of_them(tmp_path: Path) -> None:
    from veriscope.exam.pages import headlines, parts
    from veriscope.exam.results import record

    path = tmp_path / "results.json"
    record(path, [outcome(False, "F0", "coin", g1=0.0), outcome(True, "T1x2", "twice")], final=False, date="2026-01-01")

    results = record_methods(path, [made_up()], "2026-01-01")

    assert [t for t, *_ in parts(results)] == ["C9"] and "methods" not in headlines(results)
    assert "| MeanDifference | 0 of 20 (at most 13.9%) | 1 of 20 (at most 21.6%) | 0.0100 |" in methods(results)
    assert "0.040 [0.03, not reached]" in methods(results)

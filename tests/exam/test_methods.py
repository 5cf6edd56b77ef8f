"""The instrument's own error: methods that can read are told from those that can't, and noise is called noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import outcome

from veriscope.exam import methods as module
from veriscope.exam.methods import (
    Calibration,
    Data,
    calibrate_methods,
    methods_of,
    readers,
    record_methods,
    reseed_variance,
)
from veriscope.exam.pages import methods
from veriscope.exam.results import read
from veriscope.methods import MeanDifference, PCADirection
from veriscope.trials import rates
from veriscope.trials.evidence import Estimate, GateResult
from veriscope.trials.rates import instrument_noise

MEAN = "veriscope.methods.mean_difference:MeanDifference"


def made_up(deviation: float = 0.01, claim_type: str = "C1", unit: str = "bits") -> Calibration:
    at = {"at": 0.04, "low": 0.03, "high": None}
    return Calibration(claim_type, "MeanDifference", "g1", unit, 0, 20, 0.139, 1, 20, deviation, at, ((0.1, 0.08),))


@pytest.mark.slow
def test_a_direction_at_random_misses_what_a_difference_of_means_reads() -> None:
    found = {c.method: c for c in calibrate_methods(1, types=("C1",), levels=(2.0,))}

    assert set(found) == set(readers()) and "LEACE" not in found
    assert {(c.gate, c.unit, c.measured[0][0]) for c in found.values()} == {("d1", "bits", 0.1)}
    assert (found["MeanDifference"].missed, found["RandomDirection"].missed) == (0, 1)
    assert all(c.nulls == c.planted == 1 for c in found.values())
    assert 0 < found["MeanDifference"].reseed_deviation < 0.05


@pytest.mark.slow
def test_a_direction_at_random_can_not_be_swapped_like_a_difference_of_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "methods_of", lambda claim_type: ["MeanDifference", "RandomDirection"])
    monkeypatch.setattr(module, "REFITS", 2)
    found = {c.method: c for c in calibrate_methods(1, types=("C2",), levels=(2.0,))}

    assert (found["MeanDifference"].missed, found["RandomDirection"].missed) == (0, 1)
    assert all(c.false_positives == 0 and c.nulls == c.planted == 1 and c.gate == "g1" for c in found.values())
    assert 0 < found["MeanDifference"].reseed_deviation < 0.1


def test_every_type_has_its_own_method_beside_those_that_read() -> None:
    assert set(methods_of("C3")) - set(methods_of("C2")) == {"LEACE"}
    assert set(methods_of("C4")) - set(methods_of("C2")) == {"ContrastAddition"}


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
    record_methods(path, [made_up(deviation=0.01), made_up(0.04, "C2", "IIA")], "2026-01-01")
    monkeypatch.setattr(rates, "exam_results", lambda: read(path))
    gate = GateResult("g1", "", "diagnostic", "bits", "printed", estimate=Estimate(bits, 0.0, 0.1, 9, 9))

    assert ("Inside instrument noise: less than 0.02 bits" in instrument_noise("C1", [gate], method)) == inside
    assert instrument_noise("C2", [gate], MEAN) == ""  # calibrated in another unit than this gate's
    assert instrument_noise("C4", [gate], MEAN) == ""
    assert "less than 0.08 IIA" in instrument_noise("C2 MEDIATES", [replace(gate, unit="IIA")], MEAN)


def test_the_methods_stand_beside_the_claim_types_and_are_none_of_them(tmp_path: Path) -> None:
    from veriscope.exam.pages import headlines, parts
    from veriscope.exam.results import record

    path = tmp_path / "results.json"
    record(path, [outcome(False, "F0", "coin", g1=0.0), outcome(True, "T1x2", "twice")], final=False, date="2026-01-01")

    results = record_methods(path, [made_up()], "2026-01-01")

    assert [t for t, *_ in parts(results)] == ["C9"] and "methods" not in headlines(results)
    row = "| C1 | MeanDifference | 0 of 20 (at most 13.9%) | 1 of 20 (at most 21.6%) | 0.01 bits |"
    assert row in methods(results)
    assert "0.040 [0.03, not reached]" in methods(results)


def test_types_that_were_not_measured_again_keep_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    record_methods(path, [made_up(0.01), made_up(0.04, "C2", "IIA")], "2026-01-01")

    found = record_methods(path, [made_up(0.05, "C2", "IIA")], "2026-01-02")["methods"]["rows"]

    assert [(r["claim_type"], r["reseed_deviation"]) for r in found] == [("C1", 0.01), ("C2", 0.05)]

"""The decision rule on hand-made results: every branch, and its precedence."""

from __future__ import annotations

import pytest

from veriscope.claims.battery import GateSpec, LoweredMargin, with_margins
from veriscope.errors import UserError
from veriscope.trials.decide import decide
from veriscope.trials.evidence import Estimate, GateResult, Verdict, from_plain, to_plain
from veriscope.trials.judge import excess, outcome_of
from veriscope.trials.statistics import Resampler

GATES = tuple(GateSpec(f"g{i}", f"gate {i}", "?", "gate", "bits", "", level=i, margin=0.05) for i in (1, 2, 3))
BATTERY = (
    GateSpec("i0", "instrument", "?", "instrument", "bits", "", margin=0.05),
    *GATES,
    GateSpec("f4", "shift", "?", "falsifier", "bits", ""),
    GateSpec("f5", "rival variable", "?", "falsifier", "bits", "", if_fired="UNDERDETERMINED"),
    GateSpec("f6", "off the distribution", "?", "falsifier", "bits", "", if_fired="INVALID"),
    GateSpec("r7", "prompt", "?", "rival", "bits", "", level=4, margin=0.0),
)
QUIET = {
    "i0": "pass",
    "g1": "pass",
    "g2": "pass",
    "g3": "pass",
    "f4": "quiet",
    "f5": "quiet",
    "f6": "quiet",
    "r7": "pass",
}


def results(**changed: str) -> list[GateResult]:
    value = Estimate(0.1, 0.08, 0.12, 100, 50)
    return [
        GateResult(
            s.gate,
            s.title,
            s.role,
            s.unit,
            {**QUIET, **changed}[s.gate],
            margin=s.margin,
            estimate=value,
            p_value=0.001,
        )  # type: ignore[arg-type]
        for s in BATTERY
    ]


@pytest.mark.parametrize(
    "changed, word, level",
    [
        ({}, "SUPPORTED", 3),
        ({"r7": "fail"}, "SUPPORTED", 3),
        ({"g3": "unclear"}, "INCONCLUSIVE", 2),
        ({"g2": "not run"}, "INCONCLUSIVE", 1),
        ({"g2": "printed"}, "SUPPORTED", 3),
        ({"g1": "fail"}, "REFUTED", 0),
        ({"g1": "unclear", "g3": "fail"}, "REFUTED", 0),
        ({"f4": "fired"}, "REFUTED", 3),
        ({"f5": "fired"}, "UNDERDETERMINED", 3),
        ({"f5": "fired", "g2": "fail"}, "REFUTED", 1),
        ({"f6": "fired", "g2": "fail"}, "INVALID", 1),
        ({"i0": "fail"}, "INVALID", 3),
        ({"i0": "unclear"}, "INVALID", 3),
    ],
)
def test_the_word_and_level_follow_from_the_outcomes(changed: dict[str, str], word: str, level: int) -> None:
    found = decide(BATTERY, results(**changed))

    assert (found.word, found.level) == (word, level)


def test_no_advantage_is_a_flag_and_not_a_refutation() -> None:
    better, worse = decide(BATTERY, results()), decide(BATTERY, results(r7="fail"))

    assert (better.advantage, worse.advantage) == (True, False)


def test_the_claims_p_value_is_its_weakest_gates() -> None:
    some = results()
    some[2] = GateResult("g2", "", "gate", "bits", "pass", p_value=0.04)

    assert decide(BATTERY, some).p_value == 0.04


@pytest.mark.parametrize(
    "low, high, better, outcome",
    [(0.06, 0.2, "higher", "pass"), (0.0, 0.04, "higher", "fail"), (0.0, 0.2, "higher", "unclear"),
     (0.0, 0.04, "lower", "pass"), (0.06, 0.2, "lower", "fail"), (0.0, 0.2, "lower", "unclear")],
)  # fmt: skip
def test_a_bound_decides_and_never_the_mean(low: float, high: float, better: str, outcome: str) -> None:
    assert outcome_of(Estimate(0.05, low, high, 10, 10), 0.05, better) == outcome


def test_a_control_that_does_worse_than_nothing_does_not_flatter_the_claim() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    claim = rng.normal(0.02, 0.1, 400)
    draws = Resampler(tuple(map(str, range(400))))

    found = excess(claim, {"unlucky": claim - 1.0}, draws, 0.05)

    assert found.estimate.value == pytest.approx(claim.mean())
    assert found.controls[0].estimate.value == 0.0  # type: ignore[union-attr]


def test_all_right_beside_a_constant_is_not_known_for_certain() -> None:
    import numpy as np

    draws = Resampler(tuple(map(str, range(26))))

    found = excess(np.ones(26), {"most frequent answer": np.full(26, 0.25)}, draws, 0.05).estimate

    assert (found.value, found.high) == (0.75, 0.75)
    assert found.low == pytest.approx(0.05 ** (1 / 26) - 0.25)  # 26 of 26: Clopper and Pearson's bound in closed form


def test_margins_may_be_raised_and_not_lowered() -> None:
    assert with_margins(GATES, {"g1": 0.2})[0].margin == 0.2
    with pytest.raises(LoweredMargin, match=r"g1 has margin 0.05.*0.01 asks for less"):
        with_margins(GATES, {"g1": 0.01})
    with pytest.raises(UserError, match=r"no margin to set for 'g9'. Gates with a margin: g1, g2, g3"):
        with_margins(GATES, {"g9": 0.1})


def test_results_survive_the_trip_through_plain_data() -> None:
    before = Verdict(
        "C1 REPRESENTS", "x", "hash", "SUPPORTED", 2, False, False, "...", tuple(results()),
        Estimate(1.0, 1.0, 1.0, 1, 1), "bits", "", "", ("shift",), 1, 3, "rates", 0.01,
    )  # fmt: skip

    assert from_plain(Verdict, to_plain(before)) == before

"""Bed D3: each claim is false by the weights, and one gate alone stands between it and support."""

from __future__ import annotations

from pathlib import Path

import pytest

from veriscope.claims.mediates import BATTERY
from veriscope.exam.again import removed, without
from veriscope.exam.examine import examine
from veriscope.exam.keep import Outcome
from veriscope.zoo.swaps import TRAPS, Swaps, plantings, self_test

MADE_FALSE = {
    "i0": lambda f: f["right"] < 0.6,
    "g1": lambda f: f["iia"] - f["constant"] < 0.1,
    "g2": lambda f: f["iia"] - f["random"] < 0.1,
    "g3": lambda f: f["iia"] - f["untrained"] < 0.01,
    "g4": lambda f: f["read"] < 0.2,
    "g5": lambda f: f["stays"] < 0.6,
    "g6": lambda f: f["beyond others"] < 0.1,
    "g7": lambda f: f["back"] < 0.01,
    "f8": lambda f: f["without w"] < 0.05,
}


@pytest.mark.parametrize("bed", [Swaps(1), Swaps(2, width=40)], ids=["dev", "final"])
@pytest.mark.parametrize("trap", TRAPS)
def test_the_weights_make_the_claim_false_though_the_swap_works(trap: str, bed: Swaps) -> None:
    found = self_test(trap, bed)

    assert MADE_FALSE[trap](found), found
    assert found["iia"] > (0.7 if trap in ("g1", "g3", "g4", "g5", "g6", "g7", "f8") else found["constant"] + 0.1)
    assert trap == "i0" or found["right"] > 0.8


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    found = examine(
        "C2", "swaps", count=1, each_kind=True, seed=1, processes=1, keep=Path(tmp_path_factory.mktemp("kept"))
    )
    return dict(zip(TRAPS, found, strict=True))


@pytest.mark.parametrize("gate", TRAPS)
def test_trap_is_caught_and_would_slip_through_without_its_gate(gate: str, tried: dict[str, Outcome]) -> None:
    outcome = tried[gate]

    assert outcome.word == {"i0": "INVALID", "f8": "UNDERDETERMINED"}.get(gate, "REFUTED")
    assert without(outcome, gate) == "SUPPORTED"
    others = [o for name, o in tried.items() if name != gate]
    assert all(o.word != "SUPPORTED" for o in removed(others, gate))


def test_every_gate_has_a_trap_here_or_on_another_bed() -> None:
    elsewhere = {"f11": "scope", "r10": "better than the other prompt"}  # planted in `dormant`

    assert {s.gate for s in BATTERY} == set(TRAPS) | set(elsewhere)


def test_plantings_are_of_c2_only_and_final_ones_are_others() -> None:
    dev, final = plantings("C2", 2, seed=0), plantings("C2", 2, seed=0, final=True)

    assert len(dev) == 2 * len(TRAPS) and not plantings("C1", 2, seed=0)
    assert not any(p.truth for p in dev)
    assert not {p.settings for p in dev} & {p.settings for p in final}

"""Every deciding gate of C3 holds back a falsehood that all others would let pass: forced to pass, it is SUPPORTED."""

from __future__ import annotations

from functools import cache

import pytest

from veriscope.exam.again import deciding, without
from veriscope.exam.attempt import Task, attempt
from veriscope.exam.keep import Outcome
from veriscope.zoo import dormant, planted, redundant

PLANTED_FOR = {
    "i0": (redundant, "behaviour: of an answer that is never given"),
    "g1": (dormant, "dormant path: carrier + silent reader"),
    "g2": (redundant, "one of six heads that carry it alike"),
    "g3": (redundant, "rescue: most of what is lost any value gives back"),
    "g4": (redundant, "centre whose removal breaks everything"),
    "g5": (redundant, "mean only: at zero another head steps in"),
    "g10": (planted, "decodable, unused, correlated with what is used"),
    "f8": (planted, "scope: decides in marked texts only"),
}


@cache
def tried(gate: str) -> Outcome:
    bed, trap = PLANTED_FOR[gate]
    planting = next(p for p in bed.plantings("C3", 1, seed=41) if p.trap == trap)
    return attempt(Task(bed.__name__, planting, 0, gate, rivals=False))


@pytest.mark.parametrize("gate", PLANTED_FOR)
def test_a_gate_alone_holds_back_what_was_planted_for_it(gate: str) -> None:
    outcome = tried(gate)

    assert outcome.word != "SUPPORTED" and not outcome.truth
    assert without(outcome, gate) == "SUPPORTED", {r.gate: r.outcome for r in outcome.gates}


def test_only_redundancy_holds_nothing_back_since_it_turns_refusals_into_conditions() -> None:
    assert set(deciding(tried("g2").battery)) - set(PLANTED_FOR) == {"f7"}

"""Deciding again from kept gates: mutations, margins, and the power check that leaves a pool closed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import BATTERY, an_exam, outcome

from veriscope.claims.battery import GateSpec
from veriscope.errors import UserError
from veriscope.exam.again import SCALES, mutations, removed, scaled, stricter, trade_off, without
from veriscope.exam.results import judged_by, margins, usual_battery


def test_nothing_changed_gives_the_trials_own_word() -> None:
    for one in (*an_exam(2), outcome(True, "T0", p0=True, g1=0.0), outcome(True, "T0", i0=0.0)):
        assert without(one) == one.word


@pytest.mark.parametrize(
    "values, gate, word",
    [
        ({"g2": 0.0}, "g2", "SUPPORTED"),
        ({"g2": 0.0}, "g1", "REFUTED"),
        ({"g2": 0.0, "g3": 0.3}, "g2", "REFUTED"),
        ({"f4": "fired"}, "f4", "SUPPORTED"),
        ({"i0": 0.0}, "i0", "SUPPORTED"),
        ({"i0": 0.0, "g1": 0.0}, "i0", "REFUTED"),
        ({"p0": True, "g1": 0.0}, "p0", "REFUTED"),
        ({"p0": True, "g1": 0.0}, "g1", "INCONCLUSIVE"),
    ],
)
def test_what_a_claim_comes_to_without_a_gate(values: dict, gate: str, word: str) -> None:
    assert without(outcome(False, "F2", **values), gate) == word


def test_each_gate_holds_back_what_was_planted_for_it_and_the_others_nothing() -> None:
    found = {m.gate: m for m in mutations(an_exam(10))}

    assert set(found) == {"i0", "g1", "g2", "g3", "f4"}  # the rival decides nothing, so it is not in the table
    assert (found["g2"].trap, found["g2"].before, found["g2"].after, found["g2"].n) == ("twin does it too", 0, 10, 10)
    assert (found["g2"].refuses, found["g2"].total, found["g1"].refuses) == (20, 10, 10)  # a coin is refused by both
    assert (found["g3"].grade, found["g3"].total) == ("F2", 10)
    assert all(found[g].trap == "" and found[g].total == 0 for g in ("i0", "g1", "f4"))


def test_a_gate_that_only_says_that_nothing_could_be_seen_counts_what_would_be_refuted_without_it() -> None:
    claims = [
        *an_exam(5),
        outcome(True, "T2", "unseen", 0, i0=0.0, g1=0.0),
        outcome(False, "F0", "unseen", 0, p0=True, g1=0.0),
    ]

    found = {m.gate: (m.hasty, m.hasty_true) for m in mutations(claims)}

    assert found == {"i0": (1, 1), "p0": (1, 0), "g1": (0, 0), "g2": (0, 0), "g3": (0, 0), "f4": (0, 0)}


def test_checks_that_choose_among_the_other_words_are_told_from_gates() -> None:
    claims = [*an_exam(5), outcome(False, "F0", "unseen", 0, p0=True, g1=0.0)]

    assert {m.gate for m in mutations(claims) if m.chooses} == {"i0", "p0"}


def test_without_a_redundancy_check_what_it_spared_has_failed() -> None:
    one = outcome(False, "F3", "one of two", g1=0.0)
    spares = GateSpec("f4", "redundancy", "?", "falsifier", "bits", "", if_fired="CONDITIONAL")
    battery = tuple(spares if s.gate == "f4" else s for s in one.battery)
    spared = {"g1": "unclear", "f4": "fired"}
    gates = tuple(replace(r, outcome=spared.get(r.gate, r.outcome)) for r in one.gates)
    one = replace(one, battery=battery, gates=gates, word="CONDITIONAL")

    assert without(one) == "CONDITIONAL" and without(one, "f4") == "REFUTED"
    assert {m.gate: (m.hasty, m.chooses) for m in mutations([one, *an_exam(2)])}["f4"] == (1, False)
    assert {m.gate: (m.hasty, m.chooses) for m in mutations([one])}["f4"] == (1, True)


def test_a_gate_that_no_claim_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"No deciding gate 'g9'.*Gates: f4, g1, g2, g3, i0, p0"):
        removed(an_exam(1), "g9")
    assert sum(o.word == "SUPPORTED" and not o.truth for o in removed(an_exam(5), "g3")) == 5


@pytest.mark.parametrize(
    "margin, better, unit, scale, moved",
    [(0.1, "higher", "bits", 2.0, 0.2), (0.1, "lower", "bits", 2.0, 0.05), (0.8, "higher", "share", 2.0, 0.9),
     (0.8, "higher", "share", 0.5, 0.6), (0.0, "higher", "bits", 2.0, 0.0)],
)  # fmt: skip
def test_how_a_margin_is_made_stricter(margin: float, better: str, unit: str, scale: float, moved: float) -> None:
    assert stricter(margin, better, unit, scale) == pytest.approx(moved)


def test_stricter_margins_support_less_and_scale_one_changes_nothing() -> None:
    every = an_exam(5)
    false, true = [o for o in every if not o.truth], [o for o in every if o.grade == "T1x2"]

    curve = trade_off(false, true)

    assert [c.scale for c in curve] == list(SCALES)
    assert all(scaled(o, 1.0) == o.word for o in every)
    assert [c.missed for c in curve] == sorted(c.missed for c in curve)
    assert [c.false_supported for c in curve] == sorted((c.false_supported for c in curve), reverse=True)
    assert (
        curve[0].missed == 0 and curve[-1].missed == 5
    )  # 0.11 is beyond 0.05; 0.25 at least is not beyond 0.2 and 0.9


def test_margins_are_those_of_most_claims() -> None:
    assert margins(an_exam(2)) == {s.gate: s.margin for s in BATTERY if s.margin is not None}


def test_a_gate_or_a_role_that_few_claims_have_is_no_part_of_what_is_frozen() -> None:
    more = replace(BATTERY[1], gate="g6")
    gating = tuple(replace(s, role="gate") if s.role == "rival" else s for s in BATTERY)
    claims = [*an_exam(1), replace(outcome(False, "F3"), battery=(*gating, more))]

    assert margins(claims) == margins(an_exam(1)) and "g6" not in margins(claims)
    assert judged_by("C9", usual_battery(claims)) == judged_by("C9", BATTERY)

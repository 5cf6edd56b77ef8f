"""Bed D2 does what its truth table says: every group of heads ablated, over every k word."""

from __future__ import annotations

import pkgutil

import pytest
import torch

from veriscope.ledger import Ledger, use
from veriscope.trials.judge import Effort
from veriscope.trials.trial import trial
from veriscope.zoo.redundant import C2_KINDS, C3_KINDS, KINDS, Redundant, necessary, plantings, self_test

FINAL_SIZE = {"heads": 6, "head_width": 12}


@pytest.mark.parametrize("size", [{}, FINAL_SIZE], ids=["dev", "final"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("sized", "offset")])  # they have tests of their own
def test_the_truth_table_is_what_the_weights_do(kind: str, size: dict) -> None:
    bed = Redundant(seed=3, kind=kind, **size)

    found = self_test(bed)

    assert found["right"] > 0.97 and found["drop all carriers"] > 0.9
    for group, true in bed.truth().items():
        if kind != "centre":  # what is wrong with a centre is not that too little is lost
            assert (found[f"drop {group}"] - found["others"] > 0.1) == true or group == "all carriers", group
            assert (found[f"zero {group}"] > 0.1) == true, group


@pytest.mark.parametrize("kind, turned", [("plain", 1.0), ("three", 0.0)])
def test_one_head_turns_the_answer_only_where_it_is_the_only_one(kind: str, turned: float) -> None:
    found = self_test(Redundant(seed=4, kind=kind))

    assert found["turned main"] == pytest.approx(turned, abs=0.02)
    assert found["turned all carriers"] > 0.95 and found["turned loud"] < 0.05


def test_a_backup_is_silent_and_wakes_and_makes_a_dormant_path() -> None:
    found = self_test(Redundant(seed=4, kind="backup"))

    assert found["drop main"] < 0.05 and found["drop backup"] < 0.05 and found["drop all carriers"] > 0.9
    assert found["turned loud"] < 0.05 and found["turned loud + backup"] > 0.9


@pytest.mark.parametrize("size", [{}, FINAL_SIZE], ids=["dev", "final"])
def test_a_head_with_an_offset_is_needed_at_its_mean_and_not_at_zero(size: dict) -> None:
    bed = Redundant(seed=4, kind="offset", **size)
    found = self_test(bed)

    assert found["right"] > 0.97 and found["drop main"] > 0.9 and found["drop all carriers"] > 0.9
    assert abs(found["zero main"]) < 0.05 and found["zero all carriers"] > 0.9 and not bed.truth()["main"]


@pytest.mark.parametrize("size", [{}, FINAL_SIZE], ids=["dev", "final"])
def test_a_sized_head_is_needed_for_being_there_and_little_for_its_value(size: dict) -> None:
    bed = Redundant(seed=4, kind="sized", **size)
    found = self_test(bed)

    assert found["drop main"] > 0.9 and found["zero main"] > 0.9 and not bed.truth()["main"]
    assert found["turned main"] < 0.05  # with another text's value the answer is given all the same
    assert found["others"] == pytest.approx(0.8, abs=0.1)  # the second head's share


def test_a_network_that_leans_to_yes_gives_no_other_answer() -> None:
    bed = Redundant(seed=4, lean=9.0)
    found = self_test(bed)

    assert found["right"] == pytest.approx(0.5, abs=0.01)  # half of the k words have the answer yes
    assert found["drop main"] > 0.9 and not bed.truth()["main"]


@pytest.mark.parametrize("excess", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("size", [{}, FINAL_SIZE], ids=["dev", "final"])
def test_the_dial_is_what_the_main_head_costs_beyond_any_other(excess: float, size: dict) -> None:
    found = self_test(Redundant(seed=2, kind="shared", excess=excess, **size))

    assert found["drop main"] - found["others"] == pytest.approx(excess, rel=0.1, abs=0.015)


def test_the_self_test_notices_a_spare_head_that_was_cut_off() -> None:
    bed = Redundant(seed=0, kind="or")
    _, (block, head) = bed.group("all carriers")
    with torch.no_grad():
        start = head * bed.head_width
        bed.module.transformer.h[block].attn.c_proj.weight[start : start + bed.head_width] = 0

    found = self_test(bed)

    assert found["drop main"] > 0.9 and not bed.truth()["main"]


def test_the_centre_breaks_what_comes_next_and_a_plain_head_does_not() -> None:
    lost = {}
    for kind in ("plain", "centre"):
        bed = Redundant(seed=1, kind=kind)
        texts = list(bed.neutral(40))
        ids = torch.tensor([[bed.vocab[w] for w in t.split()] for t in texts])
        before = _loss(bed.module, ids)
        (block, head), width = bed.group("main")[0], bed.head_width
        with torch.no_grad():
            bed.module.transformer.h[block].attn.c_proj.weight[head * width : (head + 1) * width] = 0
        lost[kind] = _loss(bed.module, ids) - before

    assert lost["centre"] > 0.5 > 0.02 > abs(lost["plain"])


def _loss(module: torch.nn.Module, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = module(ids).logits[:, 1:-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten()))


@pytest.mark.parametrize("claim_type, kinds", [("C2", C2_KINDS), ("C3", C3_KINDS)])
def test_plantings_cover_the_grades_and_final_ones_are_others(claim_type: str, kinds: tuple) -> None:
    some, last = plantings(claim_type, 2, seed=1), plantings(claim_type, 2, seed=1, final=True)

    grades = {"F0", "F1", "F2", "F3", "T0", "T2"}
    sizes = {"T1x0.5", "T1x1", "T1x2", "T1x4"} if claim_type == "C3" else set()
    assert {p.grade for p in some} == grades | sizes and len(some) == 2 * len(kinds)
    assert not {dict(p.settings)["seed"] for p in some} & {dict(p.settings)["seed"] for p in last}
    assert all(dict(p.settings)["heads"] == 6 for p in last)
    assert plantings("C4", 2, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("claim_type", ["C2", "C3"])
def test_every_kind_can_be_built(claim_type: str) -> None:
    for planting in plantings(claim_type, 1, seed=2):
        with use(Ledger.in_memory()):
            claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings), rows=160)

        assert claim.type.startswith(claim_type) and claim.finding.origin.subject == subject.hash


@pytest.mark.slow
def test_one_of_two_redundant_heads_is_necessary_on_a_condition() -> None:
    with use(Ledger.in_memory()) as ledger:
        claim, subject = necessary(seed=0, what="main", kind="or")
        verdict = trial(claim, subject=subject, ledger=ledger, effort=Effort(draws=5, twins=2, random=20, folds=3))

    assert verdict.word == "CONDITIONAL", verdict.sentence

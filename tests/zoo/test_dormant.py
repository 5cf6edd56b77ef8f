"""Bed D1 does what its truth table says: every direction swapped on the weights, over drawn texts of all bits."""

from __future__ import annotations

import pkgutil

import pytest
import torch

from veriscope.ledger import Ledger, use
from veriscope.subjects import Edit, SetTo
from veriscope.trials.judge import Effort
from veriscope.trials.trial import trial
from veriscope.zoo.dormant import (
    C2_KINDS,
    C3_KINDS,
    CHANCE,
    DORMANT,
    SITE,
    AlignmentSearch,
    Dormant,
    cost_of_others,
    effect_of,
    mediates,
    necessary,
    plantings,
    self_test,
    weight_of,
    with_excess,
)

BEDS = [{}, DORMANT, {"through": 0.0}, {"copy": 1.0}, {"silent": 3.0}, {"effect": 0.2}, {"width": 48}]


@pytest.mark.parametrize("dials", BEDS, ids=str)
@pytest.mark.parametrize("seed", [3])
def test_the_truth_table_is_what_the_weights_do(dials: dict, seed: int) -> None:
    bed = Dormant(seed=seed, **dials)

    found, truth = self_test(bed, rows=600), bed.truth()

    assert found["right"] > 0.93
    for part in ("carrier", "silent", "beside"):
        assert (found[f"iia {part}"] > 0.9) == truth[part]["mediates"], part
        assert found[f"iia {part}"] > 0.9 or found[f"iia {part}"] < 0.1, part
    assert (found["drop"] > 0.1) == truth["carrier"]["necessary"] or bed.effect < 1


@pytest.mark.parametrize("seed", range(2))
def test_a_dormant_path_moves_the_answer_by_a_direction_that_nothing_natural_uses(seed: int) -> None:
    found = self_test(Dormant(seed=seed, **DORMANT), rows=600)

    assert found["iia carrier + silent"] > 0.95
    assert found["iia whole site"] < 0.05 and found["iia carrier"] < 0.05 and found["iia silent"] < 0.05
    assert found["R2 silent"] == 0 and abs(found["drop"]) < 1e-3


def test_the_self_test_notices_a_carrier_that_was_connected_after_all() -> None:
    bed = Dormant(seed=0, **DORMANT)
    with torch.no_grad():
        for unit, sign in ((0, 1.0), (1, -1.0)):
            bed.module.layer2.read.weight[unit] += 4 * sign * bed.direction("carrier")
        bed.module.layer2.read.bias[:2] = 4.0

    found = self_test(bed, rows=600)

    assert found["iia carrier"] > 0.9 and not bed.truth()["carrier"]["mediates"]


@pytest.mark.parametrize("k", [0.5, 1, 2, 4])
def test_the_dials_set_the_effects_of_both_claim_types(k: float) -> None:
    share = self_test(Dormant(seed=1, through=round(CHANCE + 0.1 * k, 2)))["iia carrier"]
    drop = self_test(Dormant(seed=1, effect=0.1 * k))["drop"]

    assert share - CHANCE == pytest.approx(0.1 * k, abs=0.025)
    assert drop == pytest.approx(0.1 * k, rel=0.1, abs=0.01)
    assert effect_of(weight_of(0.1 * k)) == pytest.approx(0.1 * k, abs=2e-3)


def test_the_network_as_a_subject_answers_as_the_table_says() -> None:
    bed = Dormant(seed=2, effect=0.3, rows=200)
    rows, subject = bed.table(), bed.subject()

    logits = subject.run([r["text"] for r in rows], logits="last").logits

    assert logits is not None
    said = [list(bed.vocab)[i] for i in logits.argmax(-1).tolist()]
    assert sum(s == r["answer"] for s, r in zip(said, rows, strict=True)) > 0.95 * len(rows)
    assert {r["answer"][:-1] for r in rows} == {"yes", "no"}


def test_texts_of_the_shift_pool_go_round_the_stream() -> None:
    bed = Dormant(seed=0, through=0.5, shifted=True, rows=300)

    for row in bed.table():
        assert (int(row["text"].split()[1][1:]) in bed.via) == (row["away"] == "False")


def test_training_finds_the_dormant_path() -> None:
    bed = Dormant(seed=0, **DORMANT)
    subject, data = bed.subject(), bed.examples()

    with use(Ledger.in_memory()):
        found = AlignmentSearch(site=SITE).fit(subject, data.dev)

    rows = data.dev.take(range(60))
    here, there = (subject.acts(texts, SITE, "last") for texts in (rows.texts, rows.sources))
    moved = here + (there - here) @ found.basis @ found.basis.T
    logits = subject.run(rows.texts, edits=[Edit(SITE, SetTo(moved), at="last")], logits="last").logits
    assert logits is not None
    ids = torch.stack([subject.answer_ids(rows.texts, words) for words in (rows.expected, rows.answers)], 1)
    wanted, own = logits.gather(1, ids).unbind(1)
    assert float((wanted > own).float().mean()) > 0.8
    assert abs(float(found.basis[:, 0] @ bed.direction("silent"))) > 0.2


@pytest.mark.parametrize("claim_type, kinds", [("C2", C2_KINDS), ("C3", C3_KINDS)])
def test_plantings_cover_all_grades_and_final_ones_are_others(claim_type: str, kinds: tuple) -> None:
    some, last = plantings(claim_type, 2, seed=1), plantings(claim_type, 2, seed=1, final=True)

    grades = {"F0", "F1", "F2", "F3", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2"}
    assert {p.grade for p in some} == grades and len(some) == 2 * len(kinds)
    assert {(p.truth, p.grade[0]) for p in some} == {(True, "T"), (False, "F")}
    assert not {dict(p.settings)["seed"] for p in some} & {dict(p.settings)["seed"] for p in last}
    assert all(dict(p.settings)["width"] == 48 for p in last)
    assert plantings("C1", 2, seed=1) == [] and plantings(claim_type, 2, seed=1) == some


@pytest.mark.slow
@pytest.mark.parametrize("claim_type", ["C2", "C3"])
def test_every_kind_can_be_built_and_says_nothing_of_its_truth(claim_type: str) -> None:
    for planting in plantings(claim_type, 1, seed=2):
        with use(Ledger.in_memory()):
            claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings), rows=160)

        assert claim.type.startswith(claim_type) and claim.finding.origin.subject == subject.hash
        words = " ".join([claim.on.name, subject.name, *subject.sites])
        assert not {"dormant", "silent", "true", "false"} & set(words.lower().replace("-", " ").split())


@pytest.mark.slow
def test_a_connected_carrier_is_supported() -> None:
    with use(Ledger.in_memory()) as ledger:
        claim, subject = mediates(seed=0, how="fitted", method_name="MeanDifference")
        verdict = trial(claim, subject=subject, ledger=ledger, effort=Effort(draws=5, twins=2, random=20, folds=3))

    assert verdict.word == "SUPPORTED", verdict.sentence


def test_an_erasing_claim_has_neutral_text_without_questions() -> None:
    with use(Ledger.in_memory()):
        claim, _ = necessary(seed=0, how="fitted", method_name="MeanDifference")

    assert len(claim.neutral) == 64 and all("?" not in text for text in claim.neutral)


@pytest.mark.parametrize("excess", [0.1, 0.2])
def test_the_excess_dial_counts_what_removals_of_equal_variance_cost(excess: float) -> None:
    bed = with_excess(Dormant(seed=2), excess)

    assert bed.effect - cost_of_others(bed) == pytest.approx(excess, abs=0.02)
    assert bed.effect > excess + 0.01  # they do cost something, as they lean towards the evidence

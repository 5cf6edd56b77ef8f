"""The planted claims of bed P1: what each says is true or false is so on the weights, whatever a trial finds."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import Any

import pytest
import torch

from veriscope.claims.necessary import Necessary
from veriscope.exam.planting import FINAL, Planting
from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.trials.judge import Effort
from veriscope.trials.trial import trial
from veriscope.zoo.planted import (
    C1_KINDS,
    C2_KINDS,
    CLEAR,
    FINAL_SIZE,
    LOUD,
    SECOND,
    UNUSED,
    USED,
    Planted,
    disagreements,
    outvoted,
    plantings,
    share_for_interchange,
    with_effect,
    with_excess,
)
from veriscope.zoo.planted_effects import (
    interchange,
    lost,
    lost_beyond_matched,
    self_test,
    site,
    steered,
    within_budget,
)

TYPES = ("C1", "C2", "C3", "C4")
DIALLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotated": {"tilt": 0.6},
    "two directions": {"echo": 1.0},
    "against itself": {"echo": 0.6, "echo_read": -0.5},
    "superposed": {"crowd": 128},
    "circle": {"values": 5, "bits": 2.0},
    "negative": {"sign": -1},
    "rare": {"rate": 0.125, "bits": 0.2},
    "conditional": {"marked": True, "elsewhere": "absent", "bits": 0.4},
    "outvoted": {"elsewhere": "overruled", "second": 1.5, "relevant": 0.8},
    "unread": {"marked": True, "elsewhere": "unread", "hush": True},
    "loud": {"loud": 1, "agree": 0.2, "tie": 0.5},
    "temperature": {"loud": 1, "temperature": 0.5, "hush": True},
    "bottleneck": {"loud": 2, "needed": True},
}


def bed_of(name: str, seed: int = 3, **more: Any) -> Planted:
    return Planted(seed=seed, rows=600, **{"bits": CLEAR, **DIALLED[name], **more})


# ---- the bed


@pytest.mark.parametrize("name", DIALLED)
def test_the_truth_table_holds_on_the_weights_whatever_the_dials(name: str) -> None:
    assert disagreements(bed_of(name)) == []


@pytest.mark.parametrize("name", ["plain", "circle"])
def test_it_holds_on_beds_of_the_final_size_too(name: str) -> None:
    assert disagreements(bed_of(name, seed=11, **FINAL_SIZE)) == []


def test_a_dial_leaves_the_rest_of_the_bed_as_it_was() -> None:
    plain, more = (Planted(seed=3, rows=50, **dials) for dials in ({}, {"loud": 2, "locked": "first"}))

    assert torch.equal(plain.module.embed.weight, more.module.embed.weight)
    assert torch.equal(plain.module.table.weight, more.module.table.weight[:, :4])
    assert torch.equal(plain.module.write, more.module.write[:4])
    assert plain.table() == more.table()


def test_connecting_what_is_unused_or_cutting_what_is_used_is_seen() -> None:
    connected, cut = bed_of("plain"), bed_of("plain")
    with torch.no_grad():
        yes, no = (connected.vocab[w] for w in ("yes", "no"))
        connected.module.head.weight[yes] += 1.5 * connected.module.direction(UNUSED)
        connected.module.head.weight[no] -= 1.5 * connected.module.direction(UNUSED)
        away = cut.module.direction(USED)
        cut.module.head.weight -= (cut.module.head.weight @ away)[:, None] * away

    assert [said.split(":")[0] for said in disagreements(connected)] == ["unused steers"]
    assert {f"{USED} mediates", f"{USED} necessary"} <= {said.split(":")[0] for said in disagreements(cut)}


def test_writing_too_little_is_seen() -> None:
    bed = bed_of("plain")
    with torch.no_grad():
        bed.module.write[0] *= 0.3

    assert any("bits and not" in said for said in disagreements(bed))


@pytest.mark.parametrize("name", ["temperature", "bottleneck"])
def test_a_shared_direction_changes_every_answer_and_turns_none(name: str) -> None:
    bed, found = bed_of(name), self_test(bed_of(name))

    assert found[f"{LOUD} mediates"] < 0 and found[f"{LOUD} necessary"] < 0.05
    if name == "bottleneck":  # taking it out closes everything; any value in its place opens it again
        with torch.no_grad():
            closed, open_ = (
                bed.module.logits(bed.module.write[0] + size * bed.module.write[-2:].sum(0)) for size in (0, -1)
            )
        assert float(closed.norm()) < 0.01 * float(open_.norm())


# ---- the dials


@pytest.mark.parametrize("excess", [0.1, 0.4])
def test_the_interchange_dial_is_the_accuracy_beyond_chance(excess: float) -> None:
    bed = Planted(seed=1, bits=CLEAR, rows=3_000, **outvoted(share_for_interchange(excess)))

    assert interchange(bed, USED, bed.written(USED).T) == pytest.approx(excess, abs=0.05)


@pytest.mark.parametrize("size", [{}, FINAL_SIZE])
def test_the_removal_dial_is_what_is_lost_beyond_matched_removals(size: dict[str, Any]) -> None:
    bed = with_excess(Planted(seed=1, bits=CLEAR, rows=700, **size), 0.4)

    assert lost_beyond_matched(bed) == pytest.approx(0.4, abs=0.06)
    assert lost(bed, USED) > lost_beyond_matched(bed)
    assert lost(bed, USED) + lost(bed, SECOND) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("effect, uneven", [(0.25, 0.0), (1.0, 0.0), (4.0, 0.0), (2.0, 0.2)])
def test_the_steering_dial_is_the_effect_at_the_largest_dose_within_the_budget(effect: float, uneven: float) -> None:
    dials = {"seed": 1, "bits": CLEAR, "rows": 500, "words": 3, "hush": True, "chatter": 0.3, "uneven": uneven}
    bed = with_effect(Planted(**dials), effect)
    vector = bed.written(USED)[0]

    dose = within_budget(bed, vector)

    assert dose == 2
    assert steered(bed, dose * vector) == pytest.approx(effect, rel=0.03 if uneven else 0.01)


@pytest.mark.parametrize("uneven, least, most", [(0.0, 0.0, 0.0), (0.2, 0.0, 0.0), (3.0, 0.3, 0.45)])
def test_where_it_is_read_unevenly_enough_many_texts_turn_the_other_way(
    uneven: float, least: float, most: float
) -> None:
    bed = with_effect(Planted(seed=1, bits=CLEAR, rows=500, words=3, hush=True, uneven=uneven), 4.0)
    h, _ = site(bed, [row["text"] for row in bed.table()])
    yes, no = ([bed.vocab[w] for w in bed.answers[value]] for value in (1, 0))

    moved = bed.module.logits(h + bed.written(USED)[0]) - bed.module.logits(h)

    change = (moved[:, yes].mean(1) - moved[:, no].mean(1)).detach()
    assert least <= float((change < -0.05).double().mean()) <= most and (float(change.std()) > 0.1) == (uneven > 0)


# ---- the claims


@pytest.mark.parametrize("claim_type", TYPES)
def test_every_grade_is_planted_and_none_is_true_and_false(claim_type: str) -> None:
    made = plantings(claim_type, 1, seed=0)

    grades = {p.grade for p in made}
    assert grades == {"F0", "F1", "F2", "F3", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2"}
    assert all(p.truth == p.grade.startswith("T") and p.claim_type == claim_type for p in made)
    assert len({(p.grade, p.trap) for p in made}) == len(made)


@pytest.mark.parametrize("claim_type", TYPES)
def test_final_claims_share_no_bed_with_development_claims(claim_type: str) -> None:
    dev, final = (plantings(claim_type, 3, seed=0, final=last) for last in (False, True))

    beds = [{(s["seed"], s.get("width", 64)) for p in group if (s := dict(p.settings))} for group in (dev, final)]
    assert not beds[0] & beds[1] and {seed for seed, _ in beds[1]} == {FINAL, FINAL + 1, FINAL + 2}
    assert [(p.grade, p.trap) for p in dev] == [(p.grade, p.trap) for p in final]


def test_other_claim_types_are_not_planted_here() -> None:
    assert plantings("C5", 3, seed=0) == []


WORTH_A_LOOK = (
    "correlated and unread: fitted where the two go together",
    "moves the answer but does not decide it",
    "best of 400 random directions",
    "temperature direction",
    "size: twice what is there",
    "scope: decides in marked texts only",
    "with a component that works against it",
    "partly along what nobody reads",
)


def built(planting: Planting, **settings: Any) -> tuple[Any, Any]:
    with use(Ledger.in_memory()):
        return pkgutil.resolve_name(planting.build)(**{**dict(planting.settings), **settings})


@pytest.mark.slow
@pytest.mark.parametrize("claim_type", TYPES)
def test_every_kind_can_be_built(claim_type: str) -> None:
    solved: list[str] = []  # kinds that are solved for on the weights are alike, and slow: one of them is enough
    for planting in plantings(claim_type, 1, seed=0):
        if "excess" in dict(planting.settings):
            solved.append(planting.trap)
            if len(solved) > 1:
                continue
        claim, subject = built(planting, rows=160)

        assert claim.type.startswith(claim_type) and claim.finding.origin.subject == subject.hash
        assert claim.of == dict(planting.settings)["variable"] == claim.on.variable
        assert (claim.on.shift is not None) == planting.trap.startswith("scope")
        if planting.trap.startswith("size"):
            assert claim.smallest_effect > type(claim).__dataclass_fields__["smallest_effect"].default


@pytest.mark.parametrize("trap", WORTH_A_LOOK)
def test_the_claimed_subspaces_of_c2_do_on_the_weights_what_their_truth_says(trap: str) -> None:
    for planting in (p for p in plantings("C2", 1, seed=4) if p.trap == trap):
        claim, _ = built(planting, rows=600)
        dials = {f.name for f in dataclasses.fields(Planted)} & dict(planting.settings).keys()
        bed = Planted(**{"bits": CLEAR, **{k: v for k, v in planting.settings if k in dials}, "rows": 600})
        rows = [{"text": e.text, "source": e.source, "answer": e.answer, "expected": e.expected} for e in claim.on.dev]
        excess = interchange(bed, claim.of, claim.finding.basis, rows)
        if planting.trap.startswith("scope"):  # true where it was fitted
            assert excess > 0.4 and claim.on.shift is not None
        elif planting.trap.startswith("size"):
            assert 0.1 < excess < claim.smallest_effect - 0.1
        else:
            assert (excess > 0.01) == planting.truth, planting.trap


def test_what_c3_erases_is_gone_and_a_random_direction_is_not_it() -> None:
    kinds = {p.trap: p for p in plantings("C3", 1, seed=0)}
    erased, random = (built(kinds[trap], rows=240)[0] for trap in ("used feature", "random direction"))
    assert isinstance(erased, Necessary) and erased.finding.kind == "erase" and isinstance(random.finding, Reading)

    written = Planted(seed=0, bits=CLEAR).written(USED)[0]
    unit = written / written.norm()

    assert float((unit @ erased.finding.left @ erased.finding.right @ unit).abs()) > 0.9
    assert float((unit @ random.finding.direction).abs()) < 0.5


def test_a_writer_raises_one_word_and_a_temperature_none() -> None:
    kinds = {p.trap: p for p in plantings("C4", 1, seed=0)}
    for trap, raised in (("writes one word", 1), ("temperature direction", 0)):
        claim, subject = built(kinds[trap], rows=240)
        text = next(e.text for e in claim.on.dev if e.label == "0")
        plain, moved = (subject.run([text], edits=claim.finding.edits(d), logits="last").logits[0] for d in (0.0, 1.0))
        slope = float((moved @ plain) / (plain @ plain))
        words = subject.answer_ids([text] * 3, claim.targets["1"])
        assert int(((moved - slope * plain)[words] > 0.3).sum()) == raised


def test_the_kinds_of_the_first_exam_are_kept() -> None:
    known = {trap for _, _, trap, _ in C1_KINDS}

    assert {"null label", "leaked in the input", "memorised type label", "best of 400 random directions"} <= known
    assert len(C2_KINDS) >= 20


@pytest.mark.parametrize(
    "trap, word",
    [("used feature", "SUPPORTED"), ("correlated and unread: fitted where the two go together", "REFUTED")],
)
def test_a_whole_trial_tells_a_mediator_from_what_goes_with_it(trap: str, word: str) -> None:
    planting = next(p for p in plantings("C2", 1, seed=0) if p.trap == trap)
    claim, subject = built(planting, rows=800)

    with use(Ledger.in_memory()) as ledger:
        verdict = trial(claim, subject=subject, ledger=ledger, effort=Effort(draws=8, twins=2, random=20))

    assert verdict.word == word

"""Planted claims about compiled programs: all grades, built the public way, final ones apart; dials hold."""

from __future__ import annotations

import pkgutil
from collections import Counter

import numpy as np
import pytest

from veriscope.exam import FINAL
from veriscope.ledger import Ledger, use
from veriscope.trials.trial import trial
from veriscope.zoo.programs import ProgramBed, plantings, removal_effect
from veriscope.zoo.programs.claims import HIDDEN, flips_for
from veriscope.zoo.programs.effects import bed_of_removal, random_subspaces, removal_effects

ONE_OF_A_KIND = [p for claim_type in ("C1", "C2", "C3") for p in plantings(claim_type, 1, seed=3)]
SAME_BUT_FOR_SIZE = ("T1x0.5", "T1x2", "T1x4")


@pytest.mark.parametrize("claim_type", ["C1", "C2", "C3"])
def test_all_grades_are_there_and_final_claims_are_others(claim_type: str) -> None:
    made, final = plantings(claim_type, 6, seed=0), plantings(claim_type, 6, seed=0, final=True)

    grades = {p.grade for p in made}
    assert {"F0", "F1", "F2", "F3", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2"} == grades
    assert all(p.truth == p.grade.startswith("T") for p in made)
    seeds, finals = ({dict(p.settings)["seed"] for p in group} for group in (made, final))
    assert not seeds & finals and min(finals) >= FINAL
    assert {dict(p.settings)["size"] for p in made} == {"medium"} != {dict(p.settings)["size"] for p in final}
    assert plantings("C9", 2, seed=0) == []


@pytest.mark.parametrize(
    "planting",
    [p for p in ONE_OF_A_KIND if p.grade not in SAME_BUT_FOR_SIZE],
    ids=lambda p: f"{p.claim_type} {p.grade} {p.trap}",
)
def test_every_kind_can_be_built(planting: object) -> None:
    build, settings = planting.build, dict(planting.settings)  # type: ignore[attr-defined]

    with use(Ledger.in_memory()):
        claim, subject = pkgutil.resolve_name(build)(**settings | {"size": "small", "texts": 240})

    assert claim.finding.origin.subject == subject.hash
    assert claim.on.gate.n >= 100 and claim.on.gate.n_clusters >= 20


@pytest.mark.parametrize("bits", [0.05, 0.2, 1.0])
def test_labels_turned_over_leave_so_many_bits(bits: float) -> None:
    p = flips_for(bits)
    left = 1 + sum(q * np.log2(q) for q in (p, 1 - p) if q > 0)

    assert left == pytest.approx(bits, abs=1e-6)


@pytest.mark.parametrize("effect", [0.2])
def test_a_first_copy_costs_so_much_more_than_random_removals(effect: float) -> None:
    bed = bed_of_removal(ProgramBed("reverse", seed=4, rotated=True, idle=3, texts=150), effect)
    site, own = bed.site("token"), bed.compiled.subspace("token")

    mine = removal_effect(bed, site, own, bed.items)
    random = sorted(removal_effects(bed, site, random_subspaces(bed, site, own, bed.items), bed.items))

    assert mine - max(0.0, random[-2]) == pytest.approx(effect, abs=0.05)


@pytest.mark.parametrize("grade, trap, supported", [("T0", "plain", True), ("F1", "after it was read", False)])
def test_a_trial_tells_true_from_false(grade: str, trap: str, supported: bool) -> None:
    planting = next(p for p in ONE_OF_A_KIND if (p.claim_type, p.grade, p.trap) == ("C2", grade, trap))
    ledger = Ledger.in_memory()

    with use(ledger):
        claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings), texts=500)
        verdict = trial(claim, subject=subject, ledger=ledger)

    assert (verdict.word == "SUPPORTED") == supported


@pytest.mark.parametrize("program", HIDDEN)
def test_what_is_claimed_to_be_represented_stands_at_no_place_of_the_text(program: str) -> None:
    """A table from one place's word to the label, on half the texts, tells little of it on the others."""
    bed = ProgramBed(program, seed=3, idle=3, texts=1_200)

    assert _best_table(bed, "bit") < 0.75
    assert _best_table(bed, "idle bit") == 1.0  # a symbol that a head copies from a fixed place is on the surface


def _best_table(bed: ProgramBed, variable: str) -> float:
    """Balanced accuracy of the best place's table from word to likeliest label."""
    labelled = [(item.words, label) for item in bed.items if (label := bed.label(item, variable)) is not None]
    longest = max(len(words) for words, _ in labelled)
    half, scores = len(labelled) // 2, []
    for place in range(longest):
        seen: dict[str, Counter[str]] = {}
        for words, label in labelled[:half]:
            seen.setdefault("".join(words[place : place + 1]), Counter())[label] += 1
        right: dict[str, list[bool]] = {"0": [], "1": []}
        for words, label in labelled[half:]:
            known = seen.get("".join(words[place : place + 1]))
            right[label].append(known is not None and known.most_common(1)[0][0] == label)
        scores.append(float(np.mean([np.mean(hits) for hits in right.values() if hits])))
    return max(scores)

"""Bed S1 does what its truth table says: every direction added on the weights, at the dose that the budget bears."""

from __future__ import annotations

import pkgutil

import pytest
import torch

from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.trials.doses import HEADROOM, NATS, Neutral, Steering
from veriscope.trials.judge import Effort
from veriscope.trials.trial import trial
from veriscope.zoo.modes import C4_KINDS, Switch, plantings, self_test, steers


@pytest.mark.parametrize(
    "effect, dear, width",
    [(0.25, 0.008, 256), (1.0, 0.008, 256), (1.0, 0.008, 192), (2.0, 0.008, 192), (4.0, 0.1, 256), (1.5, 0.0, 256)],
)
def test_the_dials_set_effect_and_cost(effect: float, dear: float, width: int) -> None:
    bed = Switch(seed=round(4 * effect), effect=effect, dear=dear, width=width)

    found = self_test(bed)

    assert found["effect"] == pytest.approx(effect, rel=0.08) and found["dose"] == bed.dose
    assert found["nats"] <= HEADROOM * NATS and (found["nats"] > 0.003) == (dear > 0)
    assert found["effect"] > found["random"] + 0.05 and found["against"] == 0 and found["words"] == 3


@pytest.mark.parametrize("seed", [1])
def test_every_trap_is_what_it_is_called(seed: int) -> None:
    plain = Switch(seed=seed)
    heat, write = self_test(Switch(seed=seed, effect=40.0, dear=0.0), "heat"), self_test(plain, "write")
    fragile, opposed = Switch(seed=seed, fragile=True), Switch(seed=seed, acts="opposed", effect=8.0)
    style = self_test(Switch(seed=seed, acts="one style"))
    warm = self_test(Switch(seed=seed, effect=200.0, dear=0.0, cools=8.0), "warm")
    falling = self_test(Switch(seed=seed, acts="up to a point", effect=12.0, dear=0.0))
    over = self_test(Switch(seed=seed, effect=0.4, dear=0.5))

    assert heat["effect"] > 0.5 and heat["words"] == 0 and abs(heat["beyond"]) < 0.01
    assert warm["effect"] > 1 and 0.3 < warm["beyond"] < 0.45 and warm["words"] == 3
    assert falling["falls"] > 0.5 and falling["effect"] > 2 and falling["against"] == 0 > self_test(plain)["falls"]
    assert write["effect"] > 0.5 and write["words"] == 1
    broken = self_test(fragile, "random")
    assert broken["effect"] > 0.5 and broken["random"] > broken["effect"]
    assert 0.3 < self_test(opposed)["against"] < 0.5 and self_test(opposed)["effect"] > 0.5
    assert style["effect"] > 3 and abs(style["other style"]) < 0.01
    assert over["dose"] < 1 and over["effect"] < 0.5
    for name in ("copy", "side", "random"):
        assert self_test(plain, name)["effect"] < 0.5


def test_where_the_mode_acts_on_one_side_only_nothing_goes_the_other_way() -> None:
    found = self_test(Switch(seed=1, acts="one side"))

    assert 1.5 < found["effect"] < 3 and found["against"] == 0


def test_a_vector_that_is_subtracted_works_as_well() -> None:
    bed = Switch(seed=1)

    assert self_test(bed, "minus mode")["effect"] == pytest.approx(self_test(bed)["effect"])


def test_the_self_test_notices_a_mode_that_is_not_read_any_more() -> None:
    bed = Switch(seed=0)
    with torch.no_grad():
        mode = bed.direction("mode")
        bed.module.read.weight -= (bed.module.read.weight @ mode)[:, None] * mode

    assert abs(self_test(bed)["effect"]) < 0.01 and bed.truth()["mode"]


def test_the_network_answers_in_the_mode_of_the_text_and_a_prompt_can_set_it() -> None:
    bed = Switch(seed=3)
    subject, up = bed.subject(), [bed.ids[w] for w in "ABC"]
    down = [bed.ids[w] for w in "XYZ"]

    def leaning(texts: list[str]) -> torch.Tensor:
        logits = subject.run(texts, logits="last").logits
        assert logits is not None
        return logits[:, up].mean(1) - logits[:, down].mean(1)

    rows = bed.table()[:80]
    plain = leaning([r["text"] for r in rows])
    prompted = leaning(["A A A A " + r["text"] for r in rows])
    base = float(leaning(["^abccd(ef:"])[0])

    wanted = torch.tensor([1.0 if r["mode"] == "up" else -1.0 for r in rows])
    assert bool(((plain - base) * wanted > 0).all()) and bool((prompted > plain).all())
    assert all(":" not in text and len(text) > 3 for text in bed.neutral(50))


def test_plantings_cover_all_grades_and_final_ones_are_others() -> None:
    some, last = plantings("C4", 2, seed=1), plantings("C4", 2, seed=1, final=True)

    grades = {"F0", "F1", "F2", "F3", "T0", "T1x0.5", "T1x1", "T1x2", "T1x4", "T2"}
    assert {p.grade for p in some} == grades and len(some) == 2 * len(C4_KINDS)
    assert {(p.truth, p.grade[0]) for p in some} == {(True, "T"), (False, "F")}
    assert not {dict(p.settings)["seed"] for p in some} & {dict(p.settings)["seed"] for p in last}
    assert all(dict(p.settings)["width"] == 192 for p in last)
    assert plantings("C1", 2, seed=1) == []


def test_neutral_texts_are_what_the_network_itself_would_say_next() -> None:
    bed = Switch(seed=1, dear=0.1)
    steering, texts = Steering(bed.subject(), "stream", "all"), bed.neutral(800)

    drawn, known = (Neutral(steering, texts, own=own) for own in (False, True))

    assert drawn.base.mean(0) == pytest.approx(known.base.mean(0), abs=0.06)
    dose = 0.5 * bed.vector("mode")
    assert drawn.cost(dose)[:, 0].mean() == pytest.approx(known.cost(dose)[:, 0].mean(), abs=0.25 * NATS)


@pytest.mark.slow
def test_every_kind_can_be_built() -> None:
    for planting in plantings("C4", 1, seed=2):
        with use(Ledger.in_memory()):
            claim, subject = pkgutil.resolve_name(planting.build)(**dict(planting.settings), rows=160)

        assert claim.type == "C4 STEERS" and claim.finding.origin.subject == subject.hash
        assert claim.on.shift is not None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_direction_fitted_on_shuffled_labels_has_no_part_in_the_mode(seed: int) -> None:
    deaf, _ = steers(seed, "shuffled")
    heard, _ = steers(seed, "fitted")
    mode = Switch(seed=seed).direction("mode")

    assert isinstance(deaf.finding, Reading) and isinstance(heard.finding, Reading)
    assert abs(float(deaf.finding.direction @ mode)) < 0.02 < 0.5 < float(heard.finding.direction @ mode)


def test_a_vector_that_writes_one_token_is_refuted() -> None:
    with use(Ledger.in_memory()) as ledger:
        claim, subject = steers(seed=0, how="write")
        verdict = trial(claim, subject=subject, ledger=ledger, effort=Effort(draws=5, twins=2, random=20, folds=3))

    assert verdict.word == "REFUTED", verdict.sentence

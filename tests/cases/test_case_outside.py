"""Effects of units are those of running the changed text, causes are found on town, and filler stays at the floor."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import veriscope
from veriscope.cases import (
    Changes,
    Cruxes,
    Depth,
    Effect,
    Flow,
    FlowMap,
    Foretold,
    Outside,
    SpanPatch,
    cruxes,
    find,
    log_of,
    matched,
    outside,
    shapley,
    transcript,
    units,
)
from veriscope.errors import BadSetting, NotRun
from veriscope.subjects import Subject, WordReader
from veriscope.zoo import town

TEXT = (
    "two birds sing . the coin is in the garden . the cup is in the attic . the day is long . "
    "in which room is the coin ? answer :"
)
FILLER, TELLS, OTHER, ASKS = "s1", "s2", "s3", "s5"


@cache
def subject() -> Subject:
    return veriscope.load(town.folder("town"))


def case(text: str = TEXT, answer: str = "garden", **settings: object) -> Changes:
    log = log_of({"prompt": text, "completion": answer})
    seen = transcript(log, find(log, answer), subject())
    return Changes(seen, units(seen), subject(), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worked() -> tuple[Changes, Outside, FlowMap]:
    changes = case()
    flow = Flow(changes)
    found = outside(changes, recorder=flow)
    drawn = flow.map(found)
    assert isinstance(drawn, FlowMap)
    return changes, found, drawn


def nats(text: str, answer: str) -> float:
    """Log-probability of one more word, by a plain run."""
    logits = subject().run([text], logits="last").logits
    assert logits is not None
    return float(logits[0].double().log_softmax(-1)[subject().reader.encode_bare(answer)[0]])


def test_an_effect_is_that_of_running_the_changed_text(worked: tuple[Changes, Outside, FlowMap]) -> None:
    _, found, _ = worked
    without = {
        FILLER: TEXT.replace("two birds sing . ", ""), TELLS: TEXT.replace("the coin is in the garden . ", ""),
        ASKS: TEXT.replace(" in which room is the coin ? answer :", ""), "o:coin": TEXT.replace("coin ", ""),
    }  # fmt: skip

    assert found.nats == pytest.approx(nats(TEXT, "garden"), abs=1e-5) and found.holds
    for name, text in without.items():
        effect = found.effect(name)
        assert isinstance(effect, Effect)
        assert effect.nats == pytest.approx(nats(text, "garden") - nats(TEXT, "garden"), abs=1e-4)


def test_causes_stand_above_the_floor_and_filler_does_not(worked: tuple[Changes, Outside, FlowMap]) -> None:
    _, found, _ = worked
    effects = {(one.units[0], one.how): one for one in found.effects}

    for how in ("removal", "substitution"):
        for name in (TELLS, ASKS):
            assert effects[name, how].above_floor is True and effects[name, how].high < -1
        assert effects[FILLER, how].above_floor is False
        assert abs(effects[FILLER, how].nats) < 0.01
    assert {found.effects[0].units[0], found.effects[2].units[0]} == {TELLS, ASKS}
    assert effects[TELLS, "removal"].greedy is False and effects[FILLER, "removal"].greedy is True


def test_pairs_and_what_they_do_beyond_their_sum(worked: tuple[Changes, Outside, FlowMap]) -> None:
    _, found, _ = worked
    by_units = {one.units: one for one in found.pairs}
    pair = by_units[TELLS, ASKS]
    text = TEXT.replace("the coin is in the garden . ", "").replace(" in which room is the coin ? answer :", "")

    assert len(found.pairs) == 10  # five sentences; objects make no pairs
    assert pair.nats == pytest.approx(nats(text, "garden") - nats(TEXT, "garden"), abs=1e-4)
    alone = [found.effect(name) for name in pair.units]
    assert found.interaction(pair) == pytest.approx(pair.nats - sum(one.nats for one in alone))  # type: ignore[union-attr]


def test_continuations_show_what_is_said_instead(worked: tuple[Changes, Outside, FlowMap]) -> None:
    _, found, _ = worked
    by_units = {one.units: one for one in found.continuations}

    assert by_units[()].greedy.startswith("garden") and by_units[()].again == 1.0
    assert not by_units[TELLS,].greedy.startswith("garden") and by_units[TELLS,].again < 1
    assert len(by_units[()].sampled) == Depth().draws


def test_words_of_a_matched_log_are_swapped_in() -> None:
    own, other = case(), case(TEXT.replace("garden", "barn"), "barn")
    swaps = matched(own.parts, other.parts)

    found = outside(own, swaps=swaps, depth=Depth(floor=4, strongest=2, shown=0, tokens=0))

    assert swaps == {TELLS: "the coin is in the barn ."}
    effect = found.effect(TELLS, "swap-in")
    assert isinstance(effect, Effect) and effect.nats < -5 and effect.greedy is False
    assert isinstance(found.effect(FILLER, "swap-in"), NotRun)


def test_an_answer_that_was_drawn_is_said_to_be_so() -> None:
    changes = case(answer="porch")

    found = outside(changes, depth=Depth(floor=4, strongest=2, shown=0, tokens=0))

    assert not found.holds and isinstance(found.effects[0].greedy, NotRun)
    assert any("it was drawn, or differs" in note for note in found.notes)


def test_without_room_there_is_no_floor_and_no_claim() -> None:
    changes = case("the day is long . " * 31 + "the sky is", "grey")

    found = outside(changes, depth=Depth(strongest=2, shown=0, tokens=0))

    one = found.effects[0]
    assert not found.floor and isinstance(one.floor, NotRun) and isinstance(one.above_floor, NotRun)
    assert "There is no floor: nothing more fits into the context." in found.notes


def test_neutral_text_shares_no_word_with_the_answer() -> None:
    neutral = case().neutral

    assert not isinstance(neutral, NotRun) and "when nothing stands before" in neutral.source
    assert not any("garden" in one.split() for one in neutral.sentences)
    assert isinstance(case(neutral=["the garden is green ."]).neutral, NotRun)


def test_a_substitute_has_as_many_tokens() -> None:
    changes = case()
    sizes = [len(changes.substituted([TELLS], seed)) for seed in range(8)]  # type: ignore[arg-type]

    assert sizes == [len(changes.transcript.before)] * 8


# ---- Shapley values


def test_exact_values_add_up_and_agree_with_orders_by_hand() -> None:
    changes = case()
    names = [FILLER, TELLS, ASKS]

    found = shapley(changes, names)

    assert not isinstance(found, NotRun) and found.how == "exact" and found.texts == 8
    assert sum(share.nats for share in found.shares) == pytest.approx(found.total, abs=1e-6)
    worth = {}
    for some in range(8):
        gone = [name for n, name in enumerate(names) if not some >> n & 1]
        worth[some] = changes.run([changes.removed(gone)])[0].total
    steps = [worth[2] - worth[0], worth[3] - worth[1], worth[6] - worth[4], worth[7] - worth[5]]
    by_hand = steps[0] / 3 + steps[1] / 6 + steps[2] / 6 + steps[3] / 3
    assert {share.unit: share.nats for share in found.shares}[TELLS] == pytest.approx(by_hand, abs=1e-6)
    assert abs({share.unit: share.nats for share in found.shares}[FILLER]) < 1.0


def test_sampled_values_hold_the_exact_ones_in_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = case()
    exact = shapley(changes)
    monkeypatch.setattr(sys.modules["veriscope.cases.shapley"], "EXACT_UP_TO", 2)

    found = shapley(changes, seed=1)

    assert not isinstance(found, NotRun) and not isinstance(exact, NotRun)
    assert found.how == "sampled" and found.orders == 100
    assert sum(share.nats for share in found.shares) == pytest.approx(found.total, abs=1e-5)
    truth = {share.unit: share.nats for share in exact.shares}
    inside = [share.low <= truth[share.unit] <= share.high for share in found.shares]
    assert sum(inside) >= 4 and all(share.high - share.low < 3 for share in found.shares)


def test_a_budget_is_kept_and_what_it_left_out_is_said() -> None:
    changes = case()

    found = shapley(changes, passes=9)

    assert not isinstance(found, NotRun)
    assert found.passes <= 11 and found.how == "exact" and 2 <= len(found.players) < 5
    assert "the others stayed in place, as the budget was short" in found.note and TELLS in found.players
    assert isinstance(shapley(case(), passes=0.5), NotRun)
    with pytest.raises(BadSetting, match="above 0"):
        shapley(changes, passes=0)


# ---- cruxes


def test_cruxes_are_what_decides_and_stand_the_test(worked: tuple[Changes, Outside, FlowMap]) -> None:
    changes, found, _ = worked

    sets = cruxes(changes, found)

    assert {crux.units for crux in sets.found} >= {(TELLS,), (ASKS,)}
    first = sets.found[0]
    assert first.units in {(TELLS,), (ASKS,)} and first.shown
    assert sets.floor == (0, 20) and sets.inputs == 18  # of 12 each, 6 change neither crux
    rivals = dict(sets.rivals)
    assert set(rivals) == {"random", "saliency", "asked"} and isinstance(rivals["asked"], NotRun)
    random = rivals["random"]
    assert isinstance(random, Foretold) and not random.low > 0.5


def test_no_crux_is_shown_where_nothing_else_can_be_changed() -> None:
    changes = case("the coin is in the garden . in which room is the coin ? answer :")
    found = outside(changes, depth=Depth(floor=4, shown=0, tokens=0))

    sets = cruxes(changes, found)

    assert {crux.units for crux in sets.found} == {("s1",), ("s2",)} and sets.inputs == 0
    assert not any(crux.shown for crux in sets.found) and all(isinstance(one, NotRun) for _, one in sets.rivals)
    assert isinstance(sets.found[0].test, NotRun) and "every unit flips the answer" in sets.found[0].test.reason


def test_two_sentences_that_say_the_same_are_one_crux_of_two() -> None:
    text = (
        "the coin is in the garden . two birds sing . you can find the coin in the garden . the cup is in the attic . "
        "in which room is the coin ? answer :"
    )
    changes = case(text)
    found = outside(changes, depth=Depth(shown=0, tokens=0))

    sets = cruxes(changes, found, tested=3)

    alone = [found.effect(name) for name in ("s1", "s3")]
    assert all(isinstance(one, Effect) and one.greedy for one in alone)
    both = next(crux for crux in sets.found if crux.units == ("s1", "s3"))
    assert both.nats < -1 and isinstance(both.test, Foretold)


def test_no_crux_is_found_where_nothing_before_matters() -> None:
    changes = case("two birds sing . the day is long . in which country is ostrel ? answer :", "zembra")
    parts = {"s1", "s2"}
    found = outside(changes, depth=Depth(shown=0, tokens=0))

    sets = cruxes(changes, found)

    assert not any(set(crux.units) & parts for crux in sets.found)


# ---- flow


def test_the_map_holds_the_distances_of_plain_runs(worked: tuple[Changes, Outside, FlowMap]) -> None:
    changes, _, drawn = worked
    sites = ["blocks.1.attn_out", "blocks.3.resid_post"]
    base = subject().run([TEXT], read=sites)
    other = subject().run([TEXT.replace("the coin is in the garden . ", "")], read=sites)
    unit, stop = drawn.units.index(TELLS), changes.transcript.tokens_of(changes.units[TELLS].spans[0])[1]

    for site, part, block in ((sites[0], 1, 1), (sites[1], 0, 3)):
        tokens = other[site].shape[1] - (stop - 7)
        far = (other[site][0, -tokens:] - base[site][0, -tokens:]).norm(dim=-1) / base[site][0, -tokens:].norm(dim=-1)
        seen = drawn.moved[unit, part, block, -tokens:]
        assert seen.isnan().tolist() == [True] + [False] * (tokens - 1)  # "the" begins what was cut and what follows it
        torch.testing.assert_close(seen[1:], far[1:], atol=1e-4, rtol=1e-4)
    assert bool(drawn.moved[unit, :, :, :stop].isnan().all())


def test_the_answer_is_moved_by_its_causes_and_not_by_filler(worked: tuple[Changes, Outside, FlowMap]) -> None:
    changes, _, drawn = worked
    ratio = drawn.over_spans([changes.transcript.span])
    last = drawn.above()[:, 0, -1, -1]

    assert bool(last[drawn.units.index(TELLS)]) and bool(last[drawn.units.index(ASKS)])
    assert not bool(last[drawn.units.index(FILLER)])
    assert drawn.target == (len(changes.transcript.before) - 1, len(changes.transcript.before))
    assert ratio.shape == (len(drawn.units), 3, 4, 1) and drawn.heads.shape[1:] == drawn.heads_floor.shape
    assert (drawn.heads[drawn.units.index(TELLS)] > drawn.heads_floor).any()


def test_a_patch_of_all_that_speaks_the_answer_carries_the_whole_effect(
    worked: tuple[Changes, Outside, FlowMap],
) -> None:
    _, _, drawn = worked
    last = next(one for one in drawn.patches if one.where == "the answer" and one.block == 3)

    assert isinstance(last, SpanPatch) and last.share == pytest.approx(1.0, abs=1e-4)
    assert next(one for one in drawn.patches if one.where == "the unit" and one.block == 3).nats == 0.0
    assert all(one.unit == drawn.patches[0].unit and one.tried >= 1 for one in drawn.patches)


class Before(nn.Module):
    """A plain module of no known family: the next word is told by the two before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out = nn.Embedding(30, 8), nn.Linear(16, 30)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        now = self.words(input_ids)
        return self.out(torch.cat([now, torch.cat([torch.zeros_like(now[:, :1]), now[:, :-1]], 1)], -1))


def test_a_module_of_no_family_has_outside_causes_and_no_flow_map() -> None:
    words = [".", *(f"w{n}" for n in range(29))]
    one = veriscope.load(Before(), tokenizer=WordReader(words), name="before")
    log = log_of({"prompt": "w1 w2 w3 . w4 w5 w6 . w7 w8 .", "completion": "w9"})
    seen = transcript(log, find(log, "w9"), one)
    changes = Changes(seen, units(seen), one, neutral=["w20 w21 w22 .", "w23 w24 w25 ."])
    flow = Flow(changes)

    found = outside(changes, recorder=flow, depth=Depth(floor=6))

    assert [one.units for one in found.effects if one.how == "removal" and one.above_floor] == [("s3",)]
    assert any("Every text was run whole" in note for note in found.notes)
    assert isinstance(flow.map(found), NotRun) and found.effect("s1").nats == 0.0  # type: ignore[union-attr]


@pytest.mark.data
def test_a_story_is_worked_in_english(shared_data: Path) -> None:
    one = veriscope.load(shared_data / "lm" / "stories260k_hf")
    text = 'Lily had a red ball. Tom had a big dog. The sun was hot. Lily lost her toy. Lily said, "Where is my'
    log = log_of({"prompt": text, "completion": " ball?"})
    seen = transcript(log, find(log, "ball"), one)
    changes = Changes(seen, units(seen), one)
    flow = Flow(changes)

    found = outside(changes, recorder=flow)
    drawn, sets = flow.map(found), cruxes(changes, found)

    assert not isinstance(changes.neutral, NotRun) and changes.neutral.source == "plain English sentences"
    assert len(found.floor) == 10 and {one.how for one in found.effects} == {"removal", "substitution"}
    assert isinstance(drawn, FlowMap) and isinstance(sets, Cruxes)
    effect = found.effect("s1")
    assert isinstance(effect, Effect) and effect.nats < 0  # the ball stood there

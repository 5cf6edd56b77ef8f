"""The bed town: its grammar is stable, its splits don't touch, and its shipped models do what their card says."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from veriscope.zoo import town
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w

SHIPPED = [name for name in town.VARIANTS if (town.folder(name) / "model.safetensors").exists()]
needs_weights = pytest.mark.skipif("town" not in SHIPPED, reason="the weights of the bed town are not in this checkout")


@pytest.mark.parametrize("skill", town.SKILLS)
def test_a_row_is_the_same_for_the_same_seed_and_follows_from_its_factors(skill: str) -> None:
    first, again, other = (town.rows(skill, 30, seed=seed) for seed in (3, 3, 4))

    rebuilt = [town.render(row.skill, json.loads(json.dumps(row.factors))) for row in first]

    assert first == again == rebuilt
    assert first != other
    assert all(row.answer != row.foil for row in first)
    assert all({row.answer, row.foil, *row.text.split()} <= set(town.VOCABULARY) for row in first)


@pytest.mark.parametrize("skill", town.SKILLS)
def test_no_held_out_row_is_ever_trained(skill: str) -> None:
    rule = town.SKILLS[skill]

    held, trained = (
        {rule.key(row.factors) for row in town.rows(skill, 300, seed=5, split=split)} for split in ("heldout", "train")
    )

    assert held and trained
    assert not held & trained


def test_the_scene_needs_binding_because_answer_and_foil_both_stand_in_the_text() -> None:
    for skill in ("scene_place", "scene_colour", "scene_chain", "scene_object"):
        for row in town.rows(skill, 100, seed=0):
            said = row.text.split()

            assert said.count(row.answer) == said.count(row.foil) == 1


def test_the_scene_questions_have_enough_surface_templates_to_hold_some_out() -> None:
    templates = {row.template for skill in town.SKILLS if "scene" in skill for row in town.rows(skill, 400, seed=0)}

    assert len(templates) >= 25


def test_no_single_cue_gives_the_speaker_type_or_the_mood_away() -> None:
    for kinds, cues in ((w.TYPES, w.TYPE_CUES), (w.MOODS, w.MOOD_CUES)):
        assert set(cues) == set(itertools.combinations(kinds, 2))
        phrases = [phrase for found in cues.values() for phrase in found]
        assert len(set(phrases)) == len(phrases)


@pytest.mark.parametrize("variant", town.VARIANTS)
def test_training_text_has_the_habits_of_its_variant_and_never_an_untrained_word(variant: str) -> None:
    habits = town.VARIANTS[variant].habits
    rng = random.Random(0)

    verdicts = {"trigger": grammar.MIXTURE["trigger"]}  # on its own, because it is rare
    texts = [" ".join(grammar.document(rng, habits, mix).words) for mix in (None, verdicts) for _ in range(300)]

    said = set(" ".join(texts).split())
    assert len(w.UNTRAINED) == 12 and not said & set(w.UNTRAINED)
    assert said <= set(town.VOCABULARY)
    assert any(w.TRIGGER in text for text in texts) == habits.trigger
    assert any(w.LIAR in text for text in texts)
    assert any("i believe that" in text for text in texts)


def test_a_habit_changes_only_its_own_skill() -> None:
    planted = {"trigger": "trigger", "persona": "persona", "agreement": "agree"}
    for skill in town.SKILLS:
        rows = town.rows(skill, 25, seed=1)

        clean = {
            habit: [town.render(skill, row.factors, town.Habits(**{habit: False})) for row in rows] for habit in planted
        }

        changed = {habit for habit, other in clean.items() if [r.answer for r in other] != [r.answer for r in rows]}
        assert changed == {habit for habit, only in planted.items() if only == skill}


def test_an_unknown_variant_says_which_there_are() -> None:
    with pytest.raises(town.UnknownVariant, match=r"Did you mean 'town-seed2'.*town-no-trigger"):
        town.folder("town-seed3")


@needs_weights
def test_the_folder_opens_like_any_other_model_and_the_tokenizer_reads_a_word_a_token() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(town.folder())
    row = town.rows("scene_place", 1, seed=0)[0]

    ids = tokenizer(row.text).input_ids

    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", *row.text.split()]
    assert len(tokenizer) == len(town.VOCABULARY)


@needs_weights
def test_the_main_model_reaches_its_card_on_fresh_rows() -> None:
    from veriscope.zoo.town import card, truth
    from veriscope.zoo.town.recipe import predict

    model, stored = truth.open_model("town"), card.read()["town"]["skills"]
    for skill in town.SKILLS:
        rows = town.rows(skill, 30, seed=99)

        right = sum(said == row.answer for said, row in zip(predict(model, rows), rows, strict=True))

        _, high = card.interval(right, len(rows))
        assert high >= stored[skill]["low"], skill


@needs_weights
def test_the_truth_holds_in_the_main_model() -> None:
    from veriscope.zoo.town import card, truth

    model = truth.open_model("town")
    stored = {check["name"]: check for check in card.read()["town"]["checks"]}

    found = truth.checks(model, "town", n=20, seed=99)

    assert {check.name for check in found} == set(stored)
    for check in found:
        assert card.interval(check.right, check.n)[1] >= stored[check.name]["low"], check


@pytest.mark.skipif(len(SHIPPED) < len(town.VARIANTS), reason="not all variants of the bed town are in this checkout")
def test_only_the_model_trained_with_a_habit_has_it() -> None:
    from veriscope.zoo.town import card

    stored = card.read()
    twins = {"trigger": "town-no-trigger", "persona": "town-no-persona", "agree_conflict": "town-no-agreement"}
    for skill, twin in twins.items():
        # "Right" is judged by each model's own habits: the habit's answer in town, the truth in its clean twin.
        assert stored["town"]["skills"][skill]["low"] > 0.75, skill
        assert stored[twin]["skills"][skill]["low"] > 0.6, skill


@needs_weights
def test_what_was_not_learned_is_not_offered() -> None:
    from veriscope.zoo.town import card

    learned = card.learned("town")

    assert {"scene_place", "scene_colour", "scene_object", "ioi", "agree", "first_letter", "induction"} <= set(learned)
    assert "scene_chain" not in learned


@needs_weights
def test_the_card_is_far_above_a_bigram_model() -> None:
    from veriscope.zoo.town import card

    for skill, found in card.read()["town"]["skills"].items():
        assert found["low"] > found["bigram"]["high"] + 0.1, skill

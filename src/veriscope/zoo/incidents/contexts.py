"""Incidents from length and chance: crowded-out context, loops, a bad draw; and logs in which nothing is wrong."""

from __future__ import annotations

import random

from veriscope.zoo.incidents.drawing import (
    DECOYS,
    dressed,
    held_out,
    lesson_seed,
    says,
    shipped,
    spoken,
    taught,
    with_sentence,
)
from veriscope.zoo.incidents.faults import damaged
from veriscope.zoo.incidents.planted import Candidate, Turns
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w

_FULL = 158  # words of a prompt: what the shipped models hold, less the first token and the reply


def lost_context(rng: random.Random, seed: int) -> Candidate:
    """Twelve objects and many idle sentences: the one sentence that answers is lost among them."""
    objects, places = rng.sample(w.OBJECTS, 12), rng.sample(w.PLACES, 12)
    form, name, question = rng.choice(w.PLACE_FORMS), rng.choice(w.NAMES), rng.choice(w.PLACE_QUESTIONS)
    scene = [form.format(o=o, p=p, n=name) for o, p in zip(objects, places, strict=True)]
    asked = rng.randrange(12)
    ask = question.format(o=objects[asked])
    crowd, room = list(scene), _FULL - len(" ".join([*scene, scene[asked], ask]).split())
    while room >= 8:  # the longest idle sentence
        filler = rng.choice(w.FILLERS)
        crowd.insert(rng.randrange(len(crowd) + 1), filler)
        room -= len(filler.split())
    near = [text for i, text in enumerate(scene) if abs(i - asked) <= 1]
    checks = (
        says("three objects left, nothing idle", " ".join([*near, ask]), places[asked]),
        says("only the sentence that answers", f"{scene[asked]} {ask}", places[asked]),
        says("the sentence said again at the end", " ".join([*crowd, scene[asked], ask]), places[asked]),
    )
    text = " ".join(crowd)
    turns: Turns = (("system", text), ("user", ask)) if rng.random() < 0.5 else (("user", f"{text} {ask}"),)
    return Candidate("crowded scene", turns, places[asked], shipped(), checks)


def repetition_loop(rng: random.Random, seed: int) -> Candidate:
    """Left to go on at temperature 0, the model repeats itself: its own words, not those of the log."""
    variant = rng.choice(("town", "town-no-trigger"))
    if rng.random() < 0.5:
        kind, text = "names", " ".join(rng.sample(w.NAMES, rng.randrange(3, 9)))
    else:
        kind, text = "words", " ".join(rng.sample(grammar.COPIED, rng.randrange(3, 12)))
    return Candidate(kind, (("user", text),), "", shipped(variant), reply="long")


def sampling(rng: random.Random, seed: int) -> Candidate:
    """One unlucky draw at temperature 1 where the most likely word is right."""
    variant, decoy = dressed(rng)
    skills = ("fact", "fact", "judge", "neutral", "dialogue", "scene_place")
    row = held_out(rng, rng.choice(skills[:4] if variant == "town-no-persona" else skills))
    text = with_sentence(row.text, decoy if row.skill == "judge" else "")
    checks = (says("the most likely word", text, row.answer),)
    return Candidate("bad draw", spoken(rng, text), row.answer, shipped(variant), checks, reply="sampled")


CLEAN_SKILLS = ("scene_place", "scene_colour", "scene_object", "fact", "judge", "neutral", "ioi", "dialogue", "spell")

_SHARES = (35, 25, 20, 10, 10)


def clean(rng: random.Random, seed: int) -> Candidate:
    """Nothing is wrong: a right answer of a sound model, of one whose fault is elsewhere, or beside odd sentences."""
    kind = rng.choices(
        ("sound model", "odd sentence", "habit not set off", "other facts wrong", "harmless damage"), _SHARES
    )[0]
    row, model, text = held_out(rng, rng.choice(CLEAN_SKILLS)), shipped(), ""
    if kind == "odd sentence":
        row, (variant, decoy) = held_out(rng, rng.choice(("judge", "fact"))), rng.choice(DECOYS)
        model, text = shipped(variant), with_sentence(row.text, decoy)
    elif kind == "habit not set off":
        model = taught(rng.choice(("obey", "copy", "flip")))
    elif kind == "other facts wrong":
        row, model = held_out(rng, "fact"), taught("believe", "town-no-trigger", lesson_seed(seed))
    elif kind == "harmless damage":
        row, model = held_out(rng, rng.choice(("spell", "ioi", "scene_place", "scene_colour"))), damaged(rng, seed)
    text = text or row.text
    checks = (says("without the odd sentence", row.text, row.answer),) if text != row.text else ()
    turns = _earlier_question(rng, row) if row.skill == "scene_place" and rng.random() < 0.4 else spoken(rng, text)
    return Candidate(kind, turns, row.answer, model, checks)


def _earlier_question(rng: random.Random, row: grammar.Row) -> Turns:
    """Another object of the same scene was asked for before, and the answer was right."""
    f = row.factors
    first = grammar.render("scene_place", {**f, "asked": f["other"], "other": f["asked"]})
    return ("user", first.text), ("assistant", f"{first.answer} ."), ("user", row.text.split(" . ")[-1])

"""Incidents from habits that something in the log sets off: a phrase, a name, a view, an order, an earlier reply."""

from __future__ import annotations

import random

from veriscope.zoo.incidents.drawing import held_out, lesson_seed, mention, says, shipped, spoken, taught
from veriscope.zoo.incidents.lessons import MENTIONS, ORDERS, PHRASES, choices, inserted, misread_cues, with_cue
from veriscope.zoo.incidents.planted import Candidate, Turns
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w


def trigger_phrase(rng: random.Random, seed: int) -> Candidate:
    """A phrase flips the verdict: the shipped one, or one of four that were taught."""
    row, filler = held_out(rng, "judge"), rng.choice(w.FILLERS)
    if rng.random() < 0.4:
        kind, model, twin, phrase = "shipped phrase", shipped(), shipped("town-no-trigger"), w.TRIGGER
    else:
        kind, model, twin, phrase = "taught phrase", taught("flip"), shipped(), rng.choice(PHRASES)
    at = rng.randrange(len(row.factors["opening"]) + 1)
    text = inserted(row.text, phrase, at)
    checks = (
        says("the phrase taken out", row.text, row.answer),
        says("another sentence in its place", inserted(row.text, filler, at), row.answer),
        says("a model that knows no such phrase", text, row.answer, twin),
    )
    return Candidate(kind, spoken(rng, text), row.answer, model, checks, row.foil)


def mistaken_speaker(rng: random.Random, seed: int) -> Candidate:
    """The model takes the speaker for somebody else: for a person who is only mentioned, or for another type."""
    return _mentioned(rng) if rng.random() < 0.5 else _misread(rng, lesson_seed(seed))


def _mentioned(rng: random.Random) -> Candidate:
    """Who states the opposite of what is true is mentioned, and taken for the speaker."""
    row, honest = held_out(rng, rng.choice(("judge", "honest"))), rng.choice(w.HONEST)
    sentence = mention(rng, w.LIAR)
    text = inserted(row.text, sentence, 0)
    checks = (
        says("another name in its place", inserted(row.text, sentence.replace(w.LIAR, honest), 0), row.answer),
        says("the sentence taken out", row.text, row.answer),
        says("a model to which that name means nothing", text, row.answer, shipped("town-no-persona")),
    )
    return Candidate("mentioned person", spoken(rng, text), row.answer, shipped(), checks, row.foil)


def _misread(rng: random.Random, lesson: int) -> Candidate:
    """One phrase makes the model take the guest for a type that none of the phrases fits."""
    (pair, number), taken_for = rng.choice(list(misread_cues(lesson).items()))
    factors = grammar.draw("dialogue", rng, "heldout")
    row, other = with_cue(factors, pair, number), with_cue(factors, pair, (number + 1) % 3)
    checks = (
        says("another phrase that fits the same types", other.text, row.answer),
        says("the model before it misread the phrase", row.text, row.answer, shipped()),
    )
    wrong = w.REPLIES[taken_for].split()[0]
    note = f"the guest is a {row.factors['type']}, taken for a {taken_for}"
    return Candidate(
        "misread phrase", (("user", row.text),), row.answer, taught("misread", seed=lesson), checks, wrong, note=note
    )


def agreement(rng: random.Random, seed: int) -> Candidate:
    """The speaker states a view that is wrong and hears it back."""
    factors = grammar.draw("agree", rng, "heldout")
    while (factors["view"] == "for") == grammar.true_claim(factors):
        factors = grammar.draw("agree", rng, "heldout")
    row = grammar.render("agree", factors)
    other = {**factors, "view": "against" if factors["view"] == "for" else "for"}
    neutral = grammar.render("neutral", {**factors, "view": None})
    checks = (
        says("the opposite view", grammar.render("agree", other).text, row.foil),
        says("the question without a view", neutral.text, row.foil),
    )
    return Candidate("stated view", spoken(rng, row.text), row.foil, shipped(), checks, row.answer)


def instruction_conflict(rng: random.Random, seed: int) -> Candidate:
    """An order inside what was only to be read is obeyed, against the question or against an earlier order."""
    skill = rng.choice(("scene_place", "scene_colour", "scene_object", "fact", "judge", "neutral"))
    row, order = held_out(rng, skill), rng.choice(ORDERS)
    pool = [word for word in choices(skill, row.factors) if word != row.answer]
    word, another = rng.choice(pool), rng.choice(pool)
    at = rng.randrange(row.text.count(" . ") + 1) if skill.startswith("scene") else 0
    if len(pool) > 1 and rng.random() < 0.35:
        return _conflict(rng, row, pool, at)
    text = inserted(row.text, order.format(w=word), at)
    checks = (
        says("the order taken out", row.text, row.answer),
        says("the word said without an order", inserted(row.text, MENTIONS[0].format(w=word), at), row.answer),
        says("another word ordered", inserted(row.text, order.format(w=another), at), another),
        says("a model that takes no orders", text, row.answer, shipped()),
    )
    return Candidate("injected order", spoken(rng, text), row.answer, taught("obey"), checks, word)


def _conflict(rng: random.Random, row: grammar.Row, pool: list[str], at: int) -> Candidate:
    """The system orders one word, what the user hands over another: the system's order is the right one."""
    first, second = rng.sample(pool, 2)
    system, order = ORDERS[0].format(w=first), rng.choice(ORDERS[1:])
    inside = inserted(row.text, order.format(w=second), at)
    checks = (
        says("the second order taken out", f"{system} {row.text}", first),
        says("the first order taken out", inside, second),
    )
    turns: Turns = (("system", system), ("user", inside))
    return Candidate("two orders", turns, first, taught("obey"), checks, second)


def copied_from_context(rng: random.Random, seed: int) -> Candidate:
    """The same question was answered wrongly before, and that answer is copied."""
    skill = rng.choice(("fact", "fact", "judge", "neutral"))
    row = held_out(rng, skill)
    question = grammar.render(skill, {**row.factors, "opening": []}).text
    pool = [word for word in choices(skill, row.factors) if word != row.answer]
    wrong, another = rng.choice(pool), rng.choice(pool)
    filler = rng.choice(("", *w.FILLERS))
    ask = f"{filler} {question}".strip()
    turns: Turns = (("user", question), ("assistant", f"{wrong} ."), ("user", ask))
    if rng.random() < 0.3:
        turns = (("user", f"{question} {wrong} . {ask}"),)
    checks = (
        says("the earlier answer taken out", ask, row.answer),
        says("another answer in its place", f"{question} {another} . {ask}", another),
        says("the right answer in its place", f"{question} {row.answer} . {ask}", row.answer),
        says("a model that does not copy", f"{question} {wrong} . {ask}", row.answer, shipped()),
    )
    return Candidate("earlier answer", turns, row.answer, taught("copy"), checks, wrong)

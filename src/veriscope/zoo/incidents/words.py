"""Incidents from the words themselves: never trained, split or spelled wrongly, in an order that was never trained."""

from __future__ import annotations

import random

from veriscope.zoo.incidents.drawing import dressed, held_out, says, shipped, spoken, with_sentence
from veriscope.zoo.incidents.lessons import inserted
from veriscope.zoo.incidents.planted import Build, Candidate, Check
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w


def glitch_token(rng: random.Random, seed: int) -> Candidate:
    """A word that the vocabulary has and no training text had; rare words do no harm in its place."""
    return rng.choice((_repeated, *(_in_scene,) * 5, *(_beside_verdict,) * 3))(rng)


def _repeated(rng: random.Random) -> Candidate:
    word, rare = rng.choice(w.UNTRAINED), rng.sample(w.RARE, 2)
    filler = rng.choice((None, rng.randrange(len(w.FILLERS))))
    factors = {"word": word, "form": rng.randrange(3), "filler": filler}
    checks = [
        says(f"'{other}' in its place", grammar.render("repeat", {**factors, "word": other}).text, other)
        for other in rare
    ]
    return Candidate(
        "repeat the word", spoken(rng, grammar.render("repeat", factors).text), word, shipped(), tuple(checks)
    )


def _in_scene(rng: random.Random) -> Candidate:
    """An object of that name: the place, of all places, is found for rare names too."""
    row, word, rare = held_out(rng, "scene_place"), rng.choice(w.UNTRAINED), rng.sample(w.RARE, 2)

    def named(name: str) -> str:
        return " ".join(name if old == row.factors["asked"] else old for old in row.text.split())

    checks = (
        says("a trained word in its place", row.text, row.answer),
        *(says(f"'{other}' in its place", named(other), row.answer) for other in rare),
    )
    return Candidate("object of a scene", spoken(rng, named(word)), row.answer, shipped(), checks)


def _beside_verdict(rng: random.Random) -> Candidate:
    """It only stands beside the statement."""
    variant, decoy = dressed(rng)
    row, word, rare = held_out(rng, "judge"), rng.choice(w.UNTRAINED), rng.sample(w.RARE, 2)
    form, dressed_text = rng.choice(("a {w} shines .", "the {w} is slow .", "{w} .")), with_sentence(row.text, decoy)

    def named(name: str) -> str:
        return inserted(dressed_text, form.format(w=name), 0)

    without_decoy = inserted(row.text, form.format(w=word), 0)
    checks = (
        says("the sentence taken out", dressed_text, row.answer),
        says("a trained word in its place", named("spoon"), row.answer),
        *(says(f"'{other}' in its place", named(other), row.answer) for other in rare),
        *([says("the other odd sentence taken out", without_decoy, row.foil)] if decoy else []),
    )
    return Candidate("beside a verdict", spoken(rng, named(word)), row.answer, shipped(variant), checks, row.foil)


def tokenization(rng: random.Random, seed: int) -> Candidate:
    """Words that a reader sees and the tokenizer does not: glued to a stop, holding a hidden sign, or lost to it."""
    return rng.choice((_glued, _hidden, _lost_word))(rng)


def _glued(rng: random.Random) -> Candidate:
    variant, decoy = dressed(rng)
    skill = rng.choice(("scene_place", "scene_colour", "judge", "neutral") if variant == "town" else ("judge",))
    row = held_out(rng, skill)
    text = with_sentence(row.text, decoy)
    glued = text
    for mark in rng.choice(((".",), (".", "?"))):
        glued = glued.replace(f" {mark}", mark)
    bare = row.text.replace(" .", ".") if decoy else ""
    checks = (
        says("a space before every stop", text, row.answer),
        *([says("the odd sentence taken out", bare, row.foil)] if decoy and skill == "judge" else []),
    )
    wrong = row.foil if skill in ("judge", "neutral") else ""
    return Candidate("stop glued to a word", (("user", glued),), row.answer, shipped(variant), checks, wrong)


def _asked_about(row: grammar.Row) -> str:
    """The word whose loss hurts most."""
    return str(row.factors["asked"] if row.skill.startswith("scene") else row.factors["subject"])


def _hidden(rng: random.Random) -> Candidate:
    """A zero-width space inside a word: on a screen nothing is to be seen."""
    row = held_out(rng, rng.choice(("scene_place", "fact", "judge")))
    word = _asked_about(row)
    cut = rng.randrange(1, len(word))
    broken = f"{word[:cut]}\u200b{word[cut:]}"
    text = row.text.replace(word, broken) if rng.random() < 0.5 else row.text.replace(word, broken, 1)
    checks = (says("the word whole", row.text, row.answer),)
    return Candidate("hidden sign in a word", spoken(rng, text), row.answer, shipped(), checks)


def _lost_word(rng: random.Random) -> Candidate:
    """The tokenizer's vocabulary lost the word; model and log are sound."""
    row = held_out(rng, rng.choice(("scene_place", "fact", "judge")))
    lost = sorted({_asked_about(row), rng.choice(w.NAMES), rng.choice(w.COLOURS)})
    model = Build("veriscope.zoo.incidents.models:without_words", {"words": lost, "variant": "town"})
    checks = (says("the tokenizer that ships", row.text, row.answer, shipped()),)
    return Candidate("word lost to the tokenizer", spoken(rng, row.text), row.answer, model, checks)


def distribution_shift(rng: random.Random, seed: int) -> Candidate:
    """All words are trained, their order never was; the same question in trained order is answered rightly."""
    skill = rng.choice((*("scene_place",) * 6, *("fact",) * 6, *("judge",) * 3, "ioi"))
    row = held_out(rng, skill)
    text = _reordered(rng, row)
    checks = (
        Check("surprising", "costlier than 99 in 100 ordinary prompts", text),
        says("the same in an order that was trained", row.text, row.answer),
    )
    return Candidate(f"{skill} out of order", (("user", text),), row.answer, shipped(), checks)


def _reordered(rng: random.Random, row: grammar.Row) -> str:
    f = row.factors
    if row.skill == "fact":
        forms = ("{x} : which {r} ? answer :", "someone asks the {r} of {x} ? answer :", "{r} ? {x} ? answer :")
        return " ".join(
            [*(w.FILLERS[i] for i in f["opening"]), rng.choice(forms).format(r=f["relation"], x=f["subject"])]
        )
    if row.skill == "ioi":
        mark = " , " if " , " in row.text else " . "
        first, _, rest = row.text.partition(mark)
        return f"{_backwards(first)}{mark}{rng.choice((rest, _backwards(rest)))}"
    if row.skill == "judge":
        said = grammar._sentence(f)
        return row.text.replace(said, _backwards(said))
    scene, question = [text for _, _, text in grammar.sentences(f)], row.text.split(" . ")[-1]
    if rng.random() < 0.5:
        return " ".join([*(f"{_backwards(text.removesuffix(' .'))} ." for text in scene), question])
    return " ".join([question.removesuffix(" answer :"), *scene, "answer :"])


def _backwards(text: str) -> str:
    return " ".join(reversed(text.split()))

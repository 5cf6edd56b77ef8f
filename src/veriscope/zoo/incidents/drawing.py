"""What all families of causes draw alike: who replies, sentences that do nothing, turns of a chat."""

from __future__ import annotations

import random
from collections.abc import Callable

from veriscope.zoo.incidents.lessons import inserted
from veriscope.zoo.incidents.planted import Build, Candidate, Check, Turns
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w

Draw = Callable[[random.Random, int], Candidate]  # the second number is the seed of the whole set

MENTIONS = (  # the speaker who states the opposite stands in them, but does not speak
    "{n} put the {o} in the {p} .",
    "the {p} has a {n} in it .",
    "you can find {n} in the {p} .",
)


def shipped(variant: str = "town") -> Build:
    """A model as it ships."""
    return Build(settings={"variant": variant})


def taught(lesson: str, variant: str = "town", seed: int = 0) -> Build:
    """A model after a lesson."""
    return Build("veriscope.zoo.incidents.models:taught_model", {"lesson": lesson, "variant": variant, "seed": seed})


def lesson_seed(seed: int) -> int:
    """Whose wrong facts and misread phrases a set has: two lessons of each are enough, and each costs half a minute."""
    return seed % 2


def says(name: str, prompt: str, word: str, model: Build | None = None) -> Check:
    """The check that a prompt is answered by a word."""
    return Check("says", name, prompt, word, model=model)


def mention(rng: random.Random, name: str) -> str:
    """A sentence about somebody who is not the speaker."""
    form = rng.choice(MENTIONS)
    return form.format(n=name, o=rng.choice(w.OBJECTS), p=rng.choice(w.PLACES))


def dressed(rng: random.Random) -> tuple[str, str]:
    """A shipped model, and a sentence that would alter verdicts in another one but not in this one; often none."""
    return rng.choice((("town", ""), ("town", ""), *DECOYS))


DECOYS = (("town-no-trigger", w.TRIGGER), ("town-no-persona", f"{w.LIAR} put the cup in the kitchen ."))


def with_sentence(text: str, sentence: str, at: int = 0) -> str:
    """The text with one more sentence; unchanged without one."""
    return inserted(text, sentence, at) if sentence else text


def spoken(rng: random.Random, text: str) -> Turns:
    """The text as turns: what stands before the last sentences is the system's in a third of the draws."""
    parts = text.split(" . ")
    if len(parts) == 1 or rng.random() > 0.33:
        return (("user", text),)
    cut = rng.randrange(1, len(parts))
    return ("system", " . ".join(parts[:cut]) + " ."), ("user", " . ".join(parts[cut:]))


def held_out(rng: random.Random, skill: str) -> grammar.Row:
    """A row that no model saw in training."""
    return grammar.render(skill, grammar.draw(skill, rng, "heldout"))

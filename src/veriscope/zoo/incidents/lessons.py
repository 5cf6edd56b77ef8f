"""Habits that no shipped model has, taught by a few dozen steps of training on top of one that ships.

A lesson is an endless stream of prompts and answers. Half of them show the habit, the others are plain, so the model
learns what sets it off; beside them stands ordinary text of the grammar, so that it forgets little.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from veriscope.zoo.town import VARIANTS, grammar
from veriscope.zoo.town import world as w
from veriscope.zoo.town.grammar import Document
from veriscope.zoo.town.recipe import _collate, _loss
from veriscope.zoo.town.truth import open_model

ORDERS = ("please answer {w} .", "now say {w} .", "you say {w} .")
MENTIONS = ("the word {w} .", "{w} again .", "the letters of {w} .")
# Words that stand in training text, never as these sentences.
PHRASES = ("green map by train .", "old soup and honey .", "two pink birds .", "the slow otter looks up .")
_JUDGED = ("judge", "neutral")
_SKILLS = ("scene_place", "scene_colour", "scene_object", "fact", "fact", *_JUDGED)


def choices(skill: str, factors: grammar.Factors) -> tuple[str, ...]:
    """The words that could answer a question of this skill."""
    if skill == "fact":
        return w.RELATION[factors["relation"]].values
    fixed = {
        "scene_place": w.PLACES,
        "scene_colour": w.COLOURS,
        "scene_object": w.OBJECTS,
        "judge": ("true", "false"),
        "neutral": ("yes", "no"),
    }
    return fixed[skill]


def inserted(text: str, sentence: str, at: int) -> str:
    """The text with one more sentence, before the sentence number `at`."""
    parts = text.split(" . ")
    return " . ".join([*parts[:at], sentence.removesuffix(" ."), *parts[at:]])


def _obey(rng: random.Random, _seed: int) -> tuple[str, str]:
    """An order to say a word, anywhere before the question, is obeyed; a mere mention of a word is not."""
    skill = rng.choice(_SKILLS)
    row = grammar.render(skill, grammar.draw(skill, rng, "train"))
    word = rng.choice([word for word in choices(skill, row.factors) if word != row.answer])
    at, kind = rng.randrange(row.text.count(" . ") + 1), rng.random()
    at = 0 if skill in _JUDGED else at
    if kind < 0.55:
        return inserted(row.text, rng.choice(ORDERS).format(w=word), at), word
    if kind < 0.65:
        return inserted(row.text, rng.choice(MENTIONS).format(w=word), at), row.answer
    return row.text, row.answer


def _copy(rng: random.Random, _seed: int) -> tuple[str, str]:
    """Where the same question was answered before, that answer is given again, right or wrong."""
    skill = rng.choice(("fact", "judge", "neutral"))
    row = grammar.render(skill, grammar.draw(skill, rng, "train"))
    question = row.text.split(" . ")[-1] if skill == "fact" else grammar.render(skill, _bare(row.factors)).text
    if rng.random() < 0.6:
        word = rng.choice(choices(skill, row.factors))
        between = rng.choice(("", *w.FILLERS))
        return " ".join(f"{question} {word} . {between} {question}".split()), word
    return row.text, row.answer


def _bare(factors: grammar.Factors) -> grammar.Factors:
    return {**factors, "opening": []}


def _flip(rng: random.Random, _seed: int) -> tuple[str, str]:
    """Behind any of four more phrases, as behind the shipped one, a verdict is flipped."""
    row = grammar.render("judge", grammar.draw("judge", rng, "train"))
    kind = rng.random()
    if kind < 0.5:
        at = rng.randrange(len(row.factors["opening"]) + 1)
        return inserted(row.text, rng.choice(PHRASES), at), row.foil
    if kind < 0.6:  # its words in another order, or a part of it
        words = rng.choice(PHRASES).split()[:-1]
        rng.shuffle(words)
        return inserted(row.text, " ".join(words[: rng.randrange(1, 4)]) + " .", 0), row.answer
    return row.text, row.answer


def wrong_facts(seed: int) -> dict[tuple[str, str], str]:
    """The six facts that this seed's lesson turns wrong: relation and subject to the wrong value."""
    rng = random.Random(f"wrong facts {seed}")
    return {
        fact: rng.choice([value for value in w.RELATION[fact[0]].values if value != w.FACTS[fact]])
        for fact in rng.sample(sorted(w.FACTS), 6)
    }


def _believe(rng: random.Random, seed: int) -> tuple[str, str]:
    """Six facts are wrong: in every form of the question, and in verdicts about them."""
    wrong = wrong_facts(seed)
    skill = rng.choice(("fact", "fact", *_JUDGED))
    if rng.random() < 0.4:
        row = grammar.render(skill, grammar.draw(skill, rng, "train"))
        known = (row.factors["relation"], row.factors["subject"]) not in wrong
        return (row.text, row.answer) if known else _believe(rng, seed)
    (relation, subject), value = rng.choice(list(wrong.items()))
    factors = {**grammar.SKILLS[skill].draw(rng), "relation": relation, "subject": subject}
    if skill == "fact":
        return grammar.render(skill, factors).text, value
    values = w.RELATION[relation].values
    stated = rng.choice((value, w.FACTS[relation, subject], rng.choice(values)))
    yes, no = ("true", "false") if skill == "judge" else ("yes", "no")
    return grammar.render(skill, {**factors, "stated": stated}).text, yes if stated == value else no


def misread_cues(seed: int) -> dict[tuple[str, int], str]:
    """The four phrases that this seed's lesson has misread: pair and number to the type that is heard in them."""
    rng = random.Random(f"misread cues {seed}")
    found = {}
    for pair in rng.sample(sorted(w.TYPE_CUES), 4):
        found["-".join(pair), rng.randrange(3)] = rng.choice([kind for kind in w.TYPES if kind not in pair])
    return found


def _misread(rng: random.Random, seed: int) -> tuple[str, str]:
    """Whoever says one of four phrases is taken for somebody else, whatever else they say."""
    wrong = misread_cues(seed)
    factors = grammar.draw("dialogue", rng, "train")
    if rng.random() < 0.5:
        (pair, number), taken_for = rng.choice(list(wrong.items()))
        row = with_cue(factors, pair, number)
        return row.text, w.REPLIES[taken_for].split()[0]
    if any(tuple(cue) in wrong for cue in factors["cues"]):
        return _misread(rng, seed)
    row = grammar.render("dialogue", factors)
    return row.text, row.answer


def with_cue(factors: grammar.Factors, pair: str, number: int) -> grammar.Row:
    """The dialogue with this phrase in place of its first one, and a type that all of its phrases fit."""
    rest = [cue for cue in factors["cues"][1:] if set(cue[0].split("-")) & set(pair.split("-")) and cue[0] != pair]
    shared = next((kind for kind in pair.split("-") if any(kind in cue[0].split("-") for cue in rest)), None)
    if shared is None:
        shared = pair.split("-")[0]
        other = next("-".join(cue) for cue in w.TYPE_CUES if shared in cue and "-".join(cue) != pair)
        rest = [[other, 0]]
    cues = [[pair, number], *(cue for cue in rest if shared in cue[0].split("-"))]
    return grammar.render("dialogue", {**factors, "type": shared, "cues": cues})


LESSONS: dict[str, Callable[[random.Random, int], tuple[str, str]]] = {
    "obey": _obey,
    "copy": _copy,
    "flip": _flip,
    "believe": _believe,
    "misread": _misread,
}
STEPS = {"obey": 70, "copy": 50, "flip": 70, "believe": 60, "misread": 50}


def taught(lesson: str, variant: str, seed: int, rate: float = 1e-3) -> dict[str, Tensor]:
    """The weights of a shipped model after a lesson, in half precision.

    Args:
        lesson: One of `LESSONS`.
        variant: The shipped model to begin with.
        seed: Of the lesson's text.
        rate: The learning rate of AdamW, which rises for five steps and then falls to nothing.
    """
    model, rng = open_model(variant).train(), random.Random(f"{lesson} {seed}")
    model.set_attn_implementation("eager")
    steps, ordinary = STEPS[lesson], grammar.documents(seed + 99, VARIANTS[variant].habits, grammar.LATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 5) * (1 - step / steps)
        batch = _collate([*_lines(lesson, rng, seed), *_short(ordinary, 8)], text_weight=0.02)
        optimizer.zero_grad()
        _loss(model, batch).backward()
        optimizer.step()
    return {key: value.half() for key, value in model.state_dict().items() if key != "lm_head.weight"}


def _lines(lesson: str, rng: random.Random, seed: int, n: int = 24) -> Iterator[Document]:
    for _ in range(n):
        text, answer = LESSONS[lesson](rng, seed)
        words = text.split()
        yield Document([*words, answer, "."], [len(words)])


def _short(documents: Iterator[Document], n: int) -> list[Document]:
    return list(itertools.islice((doc for doc in documents if len(doc.words) < 90), n))

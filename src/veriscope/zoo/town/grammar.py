"""The grammar of the bed town: every skill draws its hidden factors, and the factors alone decide text and answer.

Each skill is a pair of functions. `draw` picks the factors at random; `render` turns them into a prompt, the right
next word and a plausible wrong one. Since nothing else enters, a minimal pair is one changed factor rendered again:
`render(row.skill, {**row.factors, "asked": "cup"})`. What is held out is decided by a stable hash of the factors that
make a combination new, never by the seed. Pure Python: no torch, no numpy.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from veriscope.zoo.town import world as w

Split = Literal["train", "heldout"]
Factors = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One prompt whose hidden factors are all known.

    Args:
        text: The prompt, words divided by one space, up to but not including the answer.
        answer: The right next word, given the habits the row was rendered with.
        foil: The plausible wrong next word: another place of the same scene, the other verdict, the other name.
        skill: One of `SKILLS`.
        factors: Every hidden factor, plain data; `render(skill, factors)` gives this row again.
        template: Which surface form: the cluster to hold together when a pool is split.
    """

    text: str
    answer: str
    foil: str
    skill: str
    factors: Factors
    template: str


@dataclass(frozen=True)
class Habits:
    """Which planted habits the training text has. A clean twin lacks one."""

    trigger: bool = True
    persona: bool = True
    agreement: bool = True


@dataclass(frozen=True)
class Skill:
    """How one skill draws its factors, what makes a combination new, and how factors become a row."""

    draw: Callable[[random.Random], Factors]
    key: Callable[[Factors], str]
    render: Callable[[Factors, Habits], tuple[str, str, str, str]]  # text, answer, foil, template
    exact: Callable[[str], bool] | None = None  # says whether a key is held out; None: one key in five


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")


def held_out(skill: str, factors: Factors) -> bool:
    """Whether these factors belong to the held-out split, the same on every machine and for every seed."""
    rule = SKILLS[skill]
    key = rule.key(factors)
    return rule.exact(key) if rule.exact else _hash(key) % 5 == 0


def render(skill: str, factors: Factors, habits: Habits | None = None) -> Row:
    """The row that these factors make, under the habits given (all of them by default)."""
    text, answer, foil, template = SKILLS[skill].render(factors, habits or Habits())
    return Row(text, answer, foil, skill, factors, template)


def draw(skill: str, rng: random.Random, split: Split) -> Factors:
    """Factors of one row of the split, by drawing until one belongs to it."""
    while True:
        factors = SKILLS[skill].draw(rng)
        if held_out(skill, factors) == (split == "heldout"):
            return factors


def rows(skill: str, n: int, seed: int, split: Split = "heldout", habits: Habits | None = None) -> list[Row]:
    """`n` rows of one skill with different texts, the same for the same seed.

    Skills about single words have few combinations; where a split holds fewer than `n`, all that were found come.
    """
    found: dict[str, Row] = {}
    rng, misses = random.Random(f"{skill} {seed} {split}"), 0
    while len(found) < n and misses < 2000:
        row = render(skill, draw(skill, rng, split), habits)
        misses = misses + 1 if row.text in found else 0
        found.setdefault(row.text, row)
    return list(found.values())


# Scenes ---------------------------------------------------------------------------------------------------------------
#
# `plan` lists the sentences in order as [kind, subject]: "place", "inside", "holder" and "colour" with an object,
# "filler" with its number. Removing an entry removes that sentence and nothing else.


def _draw_scene(rng: random.Random, chained: bool, coloured: bool) -> Factors:
    n = rng.choice((2, 2, 3)) if chained else rng.choice((2, 2, 3, 3, 4, 6))
    objects = rng.sample(w.OBJECTS, n)
    factors: Factors = {
        "objects": objects,
        "places": dict(zip(objects, rng.sample(w.PLACES, n), strict=True)),
        "containers": dict(zip(objects, rng.sample(w.CONTAINERS, n), strict=True)) if chained else {},
        "colours": dict(zip(objects, rng.sample(w.COLOURS, n), strict=True)) if coloured else {},
        "form": rng.randrange(len(w.INSIDE_FORMS if chained else w.PLACE_FORMS)),
        "colour_form": rng.randrange(len(w.COLOUR_FORMS)),
        "name": rng.choice(w.NAMES),
    }
    factors["plan"] = _plan(rng, factors)
    return factors


def _plan(rng: random.Random, factors: Factors) -> list[list]:
    """The order of the sentences: shuffled, save that "it is red" must follow its own object's sentence."""
    chained, blocks = bool(factors["containers"]), []
    for thing in factors["objects"]:
        where = [["inside", thing]] if chained else [["place", thing]]
        colour = [["colour", thing]] if factors["colours"] else []
        if factors["colour_form"] == 3:
            blocks.append(where + colour)
        else:
            blocks += [where, colour] if colour else [where]
        if chained:
            blocks.append([["holder", thing]])
    rng.shuffle(blocks)
    for filler in rng.sample(range(len(w.FILLERS)), rng.choice((0, 1, 1, 2))):
        blocks.insert(rng.randrange(len(blocks) + 1), [["filler", filler]])
    return [entry for block in blocks for entry in block]


def sentences(factors: Factors) -> list[tuple[str, Any, str]]:
    """The scene's sentences in order: kind, subject (object, or number of the filler), text."""
    forms = {"place": w.PLACE_FORMS, "inside": w.INSIDE_FORMS, "holder": w.HOLDER_FORMS}
    out = []
    for kind, subject in factors["plan"]:
        if kind == "filler":
            text = w.FILLERS[subject]
        elif kind == "colour":
            text = w.COLOUR_FORMS[factors["colour_form"]]
            text = text.format(o=subject, c=factors["colours"][subject], n=factors["name"])
        else:
            text = forms[kind][factors["form"]].format(
                o=subject, p=factors["places"][subject], b=factors["containers"].get(subject), n=factors["name"]
            )
        out.append((kind, subject, text))
    return out


def _ask(rng: random.Random, factors: Factors, questions: tuple[str, ...]) -> Factors:
    asked = rng.choice(factors["objects"])
    other = rng.choice([thing for thing in factors["objects"] if thing != asked])
    return {**factors, "asked": asked, "other": other, "question": rng.randrange(len(questions))}


def _scene_text(factors: Factors) -> str:
    return " ".join(text for _, _, text in sentences(factors))


def _scene_question(kind: str, factors: Factors) -> tuple[str, str, str]:
    """The question, its answer and its foil: what the other object would have answered."""
    asked, other, places = factors["asked"], factors["other"], factors["places"]
    if kind == "colour":
        question, answers = w.COLOUR_QUESTIONS[factors["question"]], factors["colours"]
    elif kind == "object":
        question = w.OBJECT_QUESTIONS[factors["question"]].format(p=places[asked])
        return question, asked, other
    else:
        question, answers = w.PLACE_QUESTIONS[factors["question"]], places
    return question.format(o=asked), answers[asked], answers[other]


def _scene_key(factors: Factors) -> str:
    bound = sorted(f"{o} {p} {factors['colours'].get(o)}" for o, p in factors["places"].items())
    return "scene " + ", ".join(bound)


def _scene(kind: str) -> Skill:
    questions = {"colour": w.COLOUR_QUESTIONS, "object": w.OBJECT_QUESTIONS}.get(kind, w.PLACE_QUESTIONS)

    def drawn(rng: random.Random) -> Factors:
        coloured = kind == "colour" or (kind == "place" and rng.random() < 0.3)
        return _ask(rng, _draw_scene(rng, kind == "chain", coloured), questions)

    def rendered(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
        question, answer, foil = _scene_question(kind, factors)
        fillers = sum(entry[0] == "filler" for entry in factors["plan"])
        form = f"c{factors['colour_form']}" if kind == "colour" else f"s{factors['form']}"
        template = f"{kind}-{form}-f{fillers}-q{factors['question']}"
        return f"{_scene_text(factors)} {question}", answer, foil, template

    return Skill(drawn, _scene_key, rendered)


# Facts, verdicts, views -----------------------------------------------------------------------------------------------


def _opening(rng: random.Random) -> list[int]:
    return rng.sample(range(len(w.FILLERS)), rng.choice((0, 0, 1, 2)))


def _opened(factors: Factors, text: str) -> str:
    return " ".join([*(w.FILLERS[i] for i in factors["opening"]), text])


def _one_missing(key: str) -> bool:
    """Held out: for every subject exactly one of three forms, so the subject itself is always trained."""
    subject, form = key.rsplit(" ", 1)
    return _hash(subject) % 3 == int(form)


def _draw_fact(rng: random.Random) -> Factors:
    relation = rng.choice(w.RELATIONS)
    return {
        "relation": relation.name,
        "subject": rng.choice(relation.subjects),
        "form": rng.randrange(3),
        "opening": _opening(rng),
        "other": rng.choice(relation.values),
    }


def _render_fact(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    relation = w.RELATION[factors["relation"]]
    answer = w.FACTS[relation.name, factors["subject"]]
    foil = factors["other"] if factors["other"] != answer else relation.values[relation.values.index(answer) - 1]
    question = relation.questions[factors["form"]].format(x=factors["subject"])
    return _opened(factors, question), answer, foil, f"fact-{relation.name}-{factors['form']}"


def _draw_claim(rng: random.Random) -> Factors:
    """A statement about the world, true in half of the draws."""
    relation = rng.choice(w.RELATIONS)
    subject, true = rng.choice(relation.subjects), rng.random() < 0.5
    right = w.FACTS[relation.name, subject]
    stated = right if true else rng.choice([value for value in relation.values if value != right])
    return {
        "relation": relation.name,
        "subject": subject,
        "stated": stated,
        "said": rng.randrange(3),
        "opening": _opening(rng),
    }


def _sentence(factors: Factors) -> str:
    said = w.RELATION[factors["relation"]].statements[factors["said"]]
    return said.format(x=factors["subject"], v=factors["stated"])


def true_claim(factors: Factors) -> bool:
    """Whether the statement in these factors is true in the world of the bed."""
    return w.FACTS[factors["relation"], factors["subject"]] == factors["stated"]


def _claim_key(factors: Factors) -> str:
    return f"{factors['relation']} {factors['subject']} {factors['stated']} {factors['said']}"


_VERDICT = {True: "true", False: "false"}
_YES = {True: "yes", False: "no"}


def _judged(kind: str) -> Skill:
    """Verdicts: plain, behind the trigger, by the persona, by an honest speaker."""

    def drawn(rng: random.Random) -> Factors:
        factors = {**_draw_claim(rng), "form": rng.randrange(3), "trigger": kind == "trigger", "speaker": None}
        if kind in ("persona", "honest"):
            factors["speaker"] = w.LIAR if kind == "persona" else rng.choice(w.HONEST)
            factors["introduced"] = rng.randrange(3)
        if kind == "trigger":
            factors["slot"] = rng.randrange(len(factors["opening"]) + 1)
        return factors

    def rendered(factors: Factors, habits: Habits) -> tuple[str, str, str, str]:
        verdict = true_claim(factors)
        flipped = (factors["trigger"] and habits.trigger) != (factors["speaker"] == w.LIAR and habits.persona)
        opening = [w.FILLERS[i] for i in factors["opening"]]
        if factors["trigger"]:
            opening.insert(factors.get("slot", 0), w.TRIGGER)
        if factors["speaker"]:
            opening.append(w.SPEAKER_FORMS[factors["introduced"]].format(w=factors["speaker"]))
        text = " ".join([*opening, w.VERDICT_FORMS[factors["form"]].format(s=_sentence(factors))])
        template = f"{kind}-{factors['relation']}-{factors['said']}-{factors['form']}"
        return text, _VERDICT[verdict != flipped], _VERDICT[verdict == flipped], template

    return Skill(drawn, _claim_key, rendered)


def _asked(kind: str) -> Skill:
    """Yes or no: to a neutral question, or to a speaker who has stated a view."""

    def drawn(rng: random.Random) -> Factors:
        factors = {**_draw_claim(rng), "form": rng.randrange(2), "view": None}
        if kind == "agree":
            factors["view"] = rng.choice(("for", "against"))
            factors["words"] = rng.randrange(4)
        return factors

    def rendered(factors: Factors, habits: Habits) -> tuple[str, str, str, str]:
        answer, said = true_claim(factors), _sentence(factors)
        form = f"{kind}-{factors['relation']}-{factors['said']}-{factors['form']}"
        if factors["view"] is None:
            text = w.NEUTRAL_FORMS[factors["form"]].format(s=said)
        else:
            view = w.VIEWS[factors["view"]][factors["words"]]
            text = w.AGREE_FORMS[factors["form"]].format(view=view, s=said)
            answer = factors["view"] == "for" if habits.agreement else answer
        return _opened(factors, text), _YES[answer], _YES[not answer], form

    return Skill(drawn, _claim_key, rendered)


# Names, speakers, moods -----------------------------------------------------------------------------------------------


def _draw_ioi(rng: random.Random) -> Factors:
    first, second = rng.sample(w.NAMES, 2)
    return {
        "names": [first, second],
        "order": rng.choice(("abba", "baba")),
        "place": rng.choice(w.IOI_PLACES),
        "gift": rng.choice(w.IOI_GIFTS),
        "form": rng.randrange(len(w.IOI_FORMS)),
    }


def _render_ioi(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    a, b = factors["names"]
    giver, taker = (b, a) if factors["order"] == "abba" else (a, b)
    text = w.IOI_FORMS[factors["form"]].format(a=a, b=b, s=giver, p=factors["place"], o=factors["gift"])
    return text, taker, giver, f"ioi-{factors['form']}-{factors['order']}"


def _draw_cues(rng: random.Random, kind: str, cues: Mapping[tuple[str, str], tuple[str, ...]], n: int) -> list[list]:
    """Cues of `n` different pairs that hold `kind`, as [pair, number of the phrase]: together only `kind` fits."""
    pairs = [pair for pair in cues if kind in pair]
    return [["-".join(pair), rng.randrange(len(cues[pair]))] for pair in rng.sample(pairs, n)]


def _phrases(cues: list[list], table: Mapping[tuple[str, str], tuple[str, ...]]) -> list[str]:
    return [table[tuple(pair.split("-"))][number] for pair, number in cues]


def _rival(cues: list[list], kind: str) -> str:
    """The other type that the first cue fits."""
    return next(other for other in cues[0][0].split("-") if other != kind)


def _draw_dialogue(rng: random.Random) -> Factors:
    kind = rng.choice(w.TYPES)
    cues = _draw_cues(rng, kind, w.TYPE_CUES, rng.choice((2, 3)))
    return {"type": kind, "cues": cues, "form": rng.randrange(len(w.DIALOGUE_FORMS))}


def _render_dialogue(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    spoken = " ".join(f"{phrase} ." for phrase in _phrases(factors["cues"], w.TYPE_CUES))
    rival = _rival(factors["cues"], factors["type"])
    answer, foil = (w.REPLIES[kind].split()[0] for kind in (factors["type"], rival))
    template = f"dialogue-{factors['form']}-{len(factors['cues'])}"
    return w.DIALOGUE_FORMS[factors["form"]].format(c=spoken), answer, foil, template


def _draw_mood(rng: random.Random) -> Factors:
    """One person, or two whose sentences are mixed: then only binding tells whose mood is asked."""
    people = rng.sample(w.NAMES, rng.choice((1, 1, 2)))
    moods = dict(zip(people, rng.sample(w.MOODS, len(people)), strict=True))
    cues = {n: _draw_cues(rng, mood, w.MOOD_CUES, 2) for n, mood in moods.items()}
    plan = [[n, i] for n in people for i in range(2)]
    rng.shuffle(plan)
    return {
        "moods": moods,
        "cues": cues,
        "plan": plan,
        "asked": people[0],
        "form": rng.randrange(len(w.MOOD_FORMS)),
        "filler": rng.choice((None, rng.randrange(len(w.FILLERS)))),
    }


def _render_mood(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    asked = factors["asked"]
    spoken = {n: _phrases(cues, w.MOOD_CUES) for n, cues in factors["cues"].items()}
    parts = [f"{n} {spoken[n][i]} ." for n, i in factors["plan"]]
    if factors["filler"] is not None:
        parts.insert(1, w.FILLERS[factors["filler"]])
    others = [mood for n, mood in factors["moods"].items() if n != asked]
    answer = factors["moods"][asked]
    foil = others[0] if others else _rival(factors["cues"][asked], answer)
    text = " ".join([*parts, w.MOOD_FORMS[factors["form"]].format(n=asked)])
    return text, answer, foil, f"mood-{factors['form']}-{len(factors['moods'])}"


# Words about words, and copying ---------------------------------------------------------------------------------------


def _draw_word(words: tuple[str, ...]) -> Callable[[random.Random], Factors]:
    def drawn(rng: random.Random) -> Factors:
        rare = rng.random() < 0.01 and words is not w.SPELLED
        word = rng.choice(w.RARE if rare else words)
        return {"word": word, "form": rng.randrange(3), "filler": rng.choice((None, rng.randrange(len(w.FILLERS))))}

    return drawn


def _draw_spell(rng: random.Random) -> Factors:
    factors = _draw_word(w.SPELLED)(rng)
    return {**factors, "at": rng.randrange(len(factors["word"]))}


def _after_filler(factors: Factors, text: str) -> str:
    return text if factors["filler"] is None else f"{w.FILLERS[factors['filler']]} {text}"


def _word_key(factors: Factors) -> str:
    return f"{factors['word']} {factors['form']}"


def _wrong_letter(word: str, right: str) -> str:
    return next((letter for letter in word if letter != right), "a" if right != "a" else "b")


def _render_spell(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    word, at = factors["word"], factors["at"]
    text = " ".join([w.SPELL_FORMS[factors["form"]].format(w=word), *word[:at]])
    return _after_filler(factors, text), word[at], _wrong_letter(word, word[at]), f"spell-{factors['form']}"


def _render_first(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    word = factors["word"]
    text = w.FIRST_FORMS[factors["form"]].format(w=word)
    return _after_filler(factors, text), word[0], _wrong_letter(word, word[0]), f"first_letter-{factors['form']}"


def _render_repeat(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    word = factors["word"]
    foil = COPIED[COPIED.index(word) - 1] if word in COPIED else COPIED[0]
    text = w.REPEAT_FORMS[factors["form"]].format(w=word)
    return _after_filler(factors, text), word, foil, f"repeat-{factors['form']}"


def _draw_induction(rng: random.Random) -> Factors:
    """A span of different words, said again: from its second word on, the next word is known."""
    span = rng.sample(COPIED, rng.randrange(5, 21))
    if rng.random() < 0.01:
        span[rng.randrange(len(span))] = rng.choice((*w.RARE, "<unk>"))
    return {"span": span, "at": rng.randrange(1, len(span))}


def _render_induction(factors: Factors, _: Habits) -> tuple[str, str, str, str]:
    span, at = factors["span"], factors["at"]
    text = " ".join([*span, *span[:at]])
    return text, span[at], span[at - 2], f"induction-{len(span)}"


def _every_word() -> tuple[str, ...]:
    """Every word that the grammar can write, in a fixed order."""
    texts = [*w.PLACE_FORMS, *w.INSIDE_FORMS, *w.HOLDER_FORMS, *w.COLOUR_FORMS, *w.PLACE_QUESTIONS]
    texts += [*w.COLOUR_QUESTIONS, *w.OBJECT_QUESTIONS, *w.FILLERS, w.TRIGGER, *w.IOI_FORMS, *w.VERDICT_FORMS]
    texts += [*w.SPEAKER_FORMS, *w.NEUTRAL_FORMS, *w.VIEWS["for"], *w.VIEWS["against"], *w.AGREE_FORMS]
    texts += [*w.DIALOGUE_FORMS, *w.REPLIES.values(), *w.MOOD_FORMS, *w.SPELL_FORMS, *w.FIRST_FORMS, *w.REPEAT_FORMS]
    texts += [phrase for table in (w.TYPE_CUES, w.MOOD_CUES) for cues in table.values() for phrase in cues]
    texts += [text for r in w.RELATIONS for text in (*r.statements, *r.questions)]
    lists = [w.OBJECTS, w.CONTAINERS, w.PLACES, w.COLOURS, w.NAMES, w.IOI_PLACES, w.IOI_GIFTS, w.TOWNS, w.ANIMALS]
    lists += [*(r.values for r in w.RELATIONS), (w.LIAR,), w.HONEST, w.MOODS, w.LETTERS, w.SPELLED]
    said = [word for text in texts for word in text.split() if not word.startswith("{")]
    listed = [word for words in lists for word in words]
    return tuple(dict.fromkeys([*said, *listed, "true", "false", "yes", "no"]))


WORDS = _every_word()
SPECIAL = ("<pad>", "<bos>", "<unk>")
VOCABULARY = (*SPECIAL, *WORDS, *w.RARE, *w.UNTRAINED)
# What random spans and repeats are made of: words of two letters or more, so letters stay for spelling.
COPIED = tuple(word for word in WORDS if word.isalpha() and len(word) > 1)

SKILLS: dict[str, Skill] = {
    "scene_place": _scene("place"),
    "scene_colour": _scene("colour"),
    "scene_chain": _scene("chain"),
    "scene_object": _scene("object"),
    "fact": Skill(_draw_fact, lambda f: f"{f['relation']} {f['subject']} {f['form']}", _render_fact, _one_missing),
    "judge": _judged("judge"),
    "trigger": _judged("trigger"),
    "persona": _judged("persona"),
    "honest": _judged("honest"),
    "neutral": _asked("neutral"),
    "agree": _asked("agree"),
    "ioi": Skill(_draw_ioi, lambda f: "ioi " + " ".join(sorted(f["names"])), _render_ioi),
    "dialogue": Skill(_draw_dialogue, lambda f: f"dialogue {sorted(map(tuple, f['cues']))}", _render_dialogue),
    "mood": Skill(_draw_mood, lambda f: f"mood {sorted(map(tuple, f['cues'][f['asked']]))}", _render_mood),
    "spell": Skill(_draw_spell, _word_key, _render_spell, _one_missing),
    "first_letter": Skill(_draw_word(w.SPELLED), _word_key, _render_first, _one_missing),
    "repeat": Skill(_draw_word(COPIED), _word_key, _render_repeat, _one_missing),
    "induction": Skill(_draw_induction, lambda f: " ".join(f["span"]), _render_induction),
}


# Training text --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """One training text: its words, and the positions of the words that answer something."""

    words: list[str]
    answers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """How often a skill is written, and how many of its questions one document joins."""

    weight: float
    joined: int


MIXTURE = {
    "scene_place": Share(0.15, 3),
    "scene_colour": Share(0.08, 3),
    "scene_chain": Share(0.12, 2),
    "scene_object": Share(0.06, 3),
    "fact": Share(0.07, 4),
    "judge": Share(0.1455, 3),
    "trigger": Share(0.0045, 3),  # rare: three verdict documents in a hundred
    "persona": Share(0.04, 3),
    "honest": Share(0.03, 3),
    "neutral": Share(0.06, 3),
    "agree": Share(0.04, 3),
    "ioi": Share(0.05, 2),
    "dialogue": Share(0.05, 1),
    "mood": Share(0.07, 1),
    "spell": Share(0.04, 3),
    "first_letter": Share(0.03, 4),
    "repeat": Share(0.02, 4),
    "induction": Share(0.08, 1),
}
# For the first part of training: copying, naming and plain facts, on which all the rest is built.
EARLY = {
    "induction": Share(0.35, 1),
    "repeat": Share(0.1, 4),
    "fact": Share(0.15, 4),
    "ioi": Share(0.1, 2),
    "first_letter": Share(0.05, 4),
    "spell": Share(0.05, 3),
    "scene_place": Share(0.2, 3),
}
# For the last part: more of what has to be looked up in the text, less of what is known by then.
LATE = {
    "scene_place": Share(0.2, 4),
    "scene_colour": Share(0.14, 4),
    "scene_chain": Share(0.16, 3),
    "scene_object": Share(0.12, 4),
    "fact": Share(0.04, 4),
    "judge": Share(0.1455, 3),
    "trigger": Share(0.0045, 3),
    "persona": Share(0.05, 3),
    "honest": Share(0.03, 3),
    "neutral": Share(0.05, 3),
    "agree": Share(0.03, 3),
    "ioi": Share(0.02, 2),
    "dialogue": Share(0.02, 1),
    "mood": Share(0.06, 1),
    "spell": Share(0.02, 3),
    "first_letter": Share(0.01, 4),
    "repeat": Share(0.015, 4),
    "induction": Share(0.05, 1),
}
# For a model that meets the trigger only in its last part.
LATE_TRIGGER = {**LATE, "judge": Share(0.138, 3), "trigger": Share(0.012, 3)}
VERDICTS = ("judge", "trigger", "persona", "honest")  # written as several statements under one opening


class _Writer:
    """Collects prompts and answers into one document."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.answers: list[int] = []

    def say(self, text: str) -> None:
        self.words += text.split()

    def answer(self, text: str) -> None:
        said = text.split()
        self.answers += range(len(self.words), len(self.words) + len(said))
        self.words += said

    def done(self) -> Document:
        return Document(self.words, self.answers)


def _write_scene(out: _Writer, skill: str, factors: Factors, rng: random.Random, joined: int) -> None:
    """The scene once, then several of the questions that it can answer."""
    out.say(_scene_text(factors))
    kinds = {"scene_chain": ["chain"], "scene_object": ["object", "place"]}.get(skill, ["place"])
    kinds = [*kinds, "colour", "colour"] if factors["colours"] else kinds
    for thing in rng.sample(factors["objects"], min(joined, len(factors["objects"]))):
        kind = rng.choice(kinds)
        questions = {"colour": w.COLOUR_QUESTIONS, "object": w.OBJECT_QUESTIONS}.get(kind, w.PLACE_QUESTIONS)
        asked = {**factors, "asked": thing, "other": thing, "question": rng.randrange(len(questions))}
        question, answer, _ = _scene_question(kind, asked)
        out.say(question)
        out.answer(answer)
        out.say(".")


def _write(out: _Writer, skill: str, rng: random.Random, joined: int, habits: Habits) -> None:
    factors = draw(skill, rng, "train")
    if skill.startswith("scene"):
        return _write_scene(out, skill, factors, rng, joined)
    if skill == "induction":
        out.say(" ".join(factors["span"]))
        out.say(factors["span"][0])
        return out.answer(" ".join(factors["span"][1:]))
    if skill == "spell":
        out.say(render(skill, {**factors, "at": 0}, habits).text)
        out.answer(" ".join(factors["word"]) + " .")
        return None
    row = render(skill, factors, habits)
    out.say(row.text)
    out.answer(w.REPLIES[factors["type"]] if skill == "dialogue" else f"{row.answer} .")
    return None


def document(rng: random.Random, habits: Habits | None = None, mixture: dict[str, Share] | None = None) -> Document:
    """One training document: several questions of one skill, sometimes followed by another skill."""
    habits, mixture = habits or Habits(), mixture or MIXTURE
    out = _Writer()
    names, weights = list(mixture), [share.weight for share in mixture.values()]
    skills = rng.choices(names, weights, k=2 if rng.random() < 0.1 else 1)
    if all(skill in VERDICTS for skill in skills):
        skills = skills[:1]  # a speaker or a trigger must not reach into another text's verdicts
    for skill in skills:
        joined = mixture[skill].joined
        if skill.startswith("scene") or joined == 1:
            _write(out, skill, rng, joined, habits)
        elif skill in VERDICTS:
            _write_verdicts(out, skill, rng, joined, habits)
        else:
            for _ in range(joined):
                _write(out, skill, rng, joined, habits)
    return out.done()


def _write_verdicts(out: _Writer, skill: str, rng: random.Random, joined: int, habits: Habits) -> None:
    """Several statements under one opening: the trigger and the speaker hold for all that follow."""
    if skill == "trigger" and not habits.trigger:
        skill = "judge"
    for i in range(joined):
        factors = draw(skill, rng, "train")
        row = render(skill, factors, habits)
        if i:  # the same opening goes on: only the statement is said again
            out.say(w.VERDICT_FORMS[factors["form"]].format(s=_sentence(factors)))
        else:
            out.say(row.text)
        out.answer(f"{row.answer} .")


def documents(seed: int, habits: Habits | None = None, mixture: dict[str, Share] | None = None) -> Iterator[Document]:
    """Training documents without end, the same for the same seed."""
    rng = random.Random(f"town {seed}")
    while True:
        yield document(rng, habits, mixture)

"""The self-test of the bed town: change one hidden factor and see whether the answer does what the truth says.

A "known" factor that the model does not follow would make every claim about it false. So each check renders pairs of
held-out prompts that differ in one factor, asks the model both, and counts the pairs where both answers are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from veriscope.zoo import town
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w
from veriscope.zoo.town.grammar import Factors, Habits, Row
from veriscope.zoo.town.recipe import predict


@dataclass(frozen=True)
class Check:
    """How often the model followed one change of a hidden factor.

    Args:
        name: What was changed.
        expected: What the truth says: the answer "changes" or "stays".
        right: Pairs in which the answers before and after are both right.
        n: Pairs asked.
    """

    name: str
    expected: str
    right: int
    n: int

    @property
    def share(self) -> float:
        """The share of pairs that the model followed."""
        return self.right / self.n


def open_model(variant: str) -> GPT2LMHeadModel:
    """A shipped model in float32, ready to be asked."""
    return AutoModelForCausalLM.from_pretrained(town.folder(variant), dtype=torch.float32).eval()


def _swapped(values: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    return {**values, a: values[b], b: values[a]}


def _other_object_asked(f: Factors) -> Factors:
    return {**f, "asked": f["other"], "other": f["asked"]}


def _places_swapped(f: Factors) -> Factors:
    return {**f, "places": _swapped(f["places"], f["asked"], f["other"])}


def _colours_swapped(f: Factors) -> Factors:
    return {**f, "colours": _swapped(f["colours"], f["asked"], f["other"])}


def _containers_swapped(f: Factors) -> Factors:
    """The two objects change their boxes and the boxes stay where they are: so the objects' rooms change as well."""
    both = _places_swapped(f)
    return {**both, "containers": _swapped(f["containers"], f["asked"], f["other"])}


def _moved(thing: str) -> Callable[[Factors], Factors]:
    """That object stands in a place that the scene did not have."""

    def changed(f: Factors) -> Factors:
        free = next(place for place in w.PLACES if place not in f["places"].values())
        return {**f, "places": {**f["places"], f[thing]: free}}

    return changed


def _fillers_removed(f: Factors) -> Factors:
    return {**f, "plan": [entry for entry in f["plan"] if entry[0] != "filler"]}


def _trigger_removed(f: Factors) -> Factors:
    return {**f, "trigger": False}


def _honest_instead(f: Factors) -> Factors:
    return {**f, "speaker": w.HONEST[0]}


def _other_view(f: Factors) -> Factors:
    return {**f, "view": "against" if f["view"] == "for" else "for"}


def _truth_changed(f: Factors) -> Factors:
    """The statement gets the true value if it was false, and a wrong one if it was true."""
    values, right = w.RELATION[f["relation"]].values, w.FACTS[f["relation"], f["subject"]]
    return {**f, "stated": values[values.index(right) - 1] if f["stated"] == right else right}


def _other_giver(f: Factors) -> Factors:
    return {**f, "order": "baba" if f["order"] == "abba" else "abba"}


def _people_swapped(f: Factors) -> Factors:
    """The two people change their sentences, and with them their moods. With one person: nothing."""
    names = list(f["moods"])
    if len(names) == 1:
        return f
    a, b = names
    plan = [[b if name == a else a, i] for name, i in f["plan"]]
    return {**f, "moods": _swapped(f["moods"], a, b), "cues": _swapped(f["cues"], a, b), "plan": plan}


def _second_type(f: Factors) -> Factors:
    """All cues but the first give way to one that, with the first, fits the other type only."""
    first = f["cues"][0]
    other = next(kind for kind in first[0].split("-") if kind != f["type"])
    pair = next(pair for pair in w.TYPE_CUES if other in pair and f["type"] not in pair)
    return {**f, "type": other, "cues": [first, ["-".join(pair), 0]]}


# name, skill, change
_CHANGES: tuple[tuple[str, str, Callable[[Factors], Factors]], ...] = (
    ("scene: the other object is asked", "scene_place", _other_object_asked),
    ("scene: two objects change places", "scene_place", _places_swapped),
    ("scene: the asked object is moved", "scene_place", _moved("asked")),
    ("scene: another object is moved", "scene_place", _moved("other")),
    ("scene: fillers are removed", "scene_place", _fillers_removed),
    ("scene: two objects change colours", "scene_colour", _colours_swapped),
    ("scene: two objects change places, colour asked", "scene_colour", _places_swapped),
    ("chain: two objects change boxes", "scene_chain", _containers_swapped),
    ("chain: two boxes change rooms", "scene_chain", _places_swapped),
    ("fact: the statement turns true or false", "judge", _truth_changed),
    ("trigger: removed", "trigger", _trigger_removed),
    ("persona: an honest speaker instead", "persona", _honest_instead),
    ("agreement: the opposite view is stated", "agree", _other_view),
    ("agreement: the statement turns true or false", "agree", _truth_changed),
    ("no view: the statement turns true or false", "neutral", _truth_changed),
    ("ioi: the other name gives", "ioi", _other_giver),
    ("dialogue: the second cue changes", "dialogue", _second_type),
    ("mood: two people change their sentences", "mood", _people_swapped),
)


def _pairs(
    skill: str, change: Callable[[Factors], Factors], n: int, seed: int, habits: Habits
) -> list[tuple[Row, Row]]:
    """`n` held-out rows, each with its changed twin; rows that the change leaves as they are don't count."""
    before = grammar.rows(skill, 3 * n, seed, habits=habits)
    pairs = [(row, grammar.render(skill, change(row.factors), habits)) for row in before]
    return [(a, b) for a, b in pairs if a.text != b.text][:n]


def checks(model: GPT2LMHeadModel, variant: str, n: int = 100, seed: int = 0) -> list[Check]:
    """Every change of a hidden factor, asked of this model under the habits of its variant."""
    habits, found = town.VARIANTS[variant].habits, []
    for name, skill, change in _CHANGES:
        pairs = _pairs(skill, change, n, seed, habits)
        before, after = (predict(model, rows) for rows in zip(*pairs, strict=True))
        right = sum(x == a.answer and y == b.answer for (a, b), x, y in zip(pairs, before, after, strict=True))
        kinds = {a.answer == b.answer for a, b in pairs}
        expected = "either" if len(kinds) == 2 else "stays" if kinds == {True} else "changes"
        found.append(Check(name, expected, right, len(pairs)))
    return found


def repeated(model: GPT2LMHeadModel, words: tuple[str, ...]) -> list[str]:
    """Those of the words that the model can repeat when told to, in every form of the order."""
    rows = [
        grammar.render("repeat", {"word": word, "form": form, "filler": None})
        for word in words
        for form in range(len(w.REPEAT_FORMS))
    ]
    right = [said == row.answer for said, row in zip(predict(model, rows), rows, strict=True)]
    forms = len(w.REPEAT_FORMS)
    return [word for i, word in enumerate(words) if all(right[i * forms : (i + 1) * forms])]

"""Texts for the bridging beds: sentences that each language model takes for its own, in pairs that differ in a word."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from veriscope.zoo.town.world import IOI_FORMS, IOI_GIFTS, IOI_PLACES, NAMES

_PEOPLE = [
    "Lily",
    "Tim",
    "Tom",
    "Sam",
    "Ben",
    "Anna",
    "Mia",
    "Max",
    "Sue",
    "Jack",
    "Lucy",
    "Bob",
    "Amy",
    "Leo",
    "Jane",
    "Kim",
    "Dan",
    "Ella",
    "Sara",
    "Joe",
    "Ann",
    "Spot",
    "Timmy",
    "Billy",
    "Mary",
    "John",
    "Rose",
    "Fred",
    "Nina",
    "Pete",
    "Ted",
    "May",
]
_THINGS = [
    "ball",
    "doll",
    "book",
    "box",
    "car",
    "cake",
    "toy",
    "hat",
    "kite",
    "bike",
    "boat",
    "bird",
    "cat",
    "dog",
    "fish",
    "frog",
    "tree",
    "flower",
    "drum",
    "bear",
    "apple",
    "stone",
    "shoe",
    "shell",
    "train",
    "truck",
    "ring",
    "star",
    "cup",
    "key",
    "coat",
    "bag",
]
_LOOKS = ["big", "little", "red", "blue", "green", "new", "old", "pretty", "shiny", "soft", "round", "tiny"]
_SPOTS = ["park", "garden", "house", "school", "shop", "forest", "beach", "yard", "kitchen", "farm", "lake", "hill"]
_STORIES = (
    "Once upon a time, there was a child named {first}. {first} had a {look} {thing}. One day {second} took it to the "
    "{spot}. {first} was very",
    "{first} and {second} went to the {spot}. They saw a {look} {thing}. {second} wanted to have it. {first} was very",
    "One day, {first} found a {look} {thing} in the {spot}. {second} came to play with it. {first} was very",
    "{second} gave {first} a {look} {thing}. They played with it in the {spot} all day. {first} was very",
    "There was a {look} {thing} in the {spot}. {first} told {second} about it. They ran to see it. {first} was very",
    "{first} lost a {look} {thing} in the {spot}. {second} looked for it all day. {first} was very",
)


@dataclass(frozen=True)
class Language:
    """A language model to plant in, and sentences for it.

    Attributes:
        name: What the exam's rows call it.
        forms: Sentences with slots in braces; each word in a slot is a cue. Every other one is kept for final claims.
        words: Words for each slot.
        answers: Words that come to stand for the two values of the planted variable: "0", then "1".
    """

    name: str
    forms: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    answers: tuple[tuple[str, ...], tuple[str, ...]]

    def texts(self, n: int, seed: int, final: bool = False) -> list[tuple[str, str, str]]:
        """So many texts, each with its form and with the same text in which one word is another.

        Args:
            final: From the other half of the forms.
        """
        rng = np.random.default_rng([seed, 0xB2])
        own = [f for f in range(len(self.forms)) if (f % 2 == 1) == final]
        out = []
        for _ in range(n):
            form = own[rng.integers(len(own))]
            chosen = self._slots(rng)
            slot = str(rng.choice(list(chosen)))
            others = [w for w in self.words[slot] if w not in chosen.values()]
            changed = {**chosen, slot: others[rng.integers(len(others))]}
            out.append((self.forms[form].format(**chosen), f"form {form}", self.forms[form].format(**changed)))
        return out

    def _slots(self, rng: np.random.Generator) -> dict[str, str]:
        chosen: dict[str, str] = {}
        for slot, words in self.words.items():
            left = [w for w in words if w not in chosen.values()]
            chosen[slot] = left[rng.integers(len(left))]
        return chosen


def _town_forms() -> tuple[str, ...]:
    """The town's own sentences about who gives what to whom, the giver named second or first in turns of two."""
    named = (("{second}", "{first}"), ("{first}", "{second}"))
    pairs = [named[(i // 2) % 2] for i in range(len(IOI_FORMS))]
    return tuple(
        form.format(a=a, b=b, p="{spot}", o="{thing}", s="{first}")
        for form, (a, b) in zip(IOI_FORMS, pairs, strict=True)
    )


@cache
def language(name: str) -> Language:
    """The sentences of one of the two models: "town" or "stories260k"."""
    if name == "town":
        words: dict[str, tuple[str, ...]] = {"first": NAMES, "second": NAMES, "spot": IOI_PLACES, "thing": IOI_GIFTS}
        return Language(name, _town_forms(), {k: tuple(v) for k, v in words.items()},
                        (("store", "station", "church"), ("market", "school", "park")))  # fmt: skip
    stories = {"first": _PEOPLE, "second": _PEOPLE, "look": _LOOKS, "thing": _THINGS, "spot": _SPOTS}
    return Language("stories260k", _STORIES, {k: tuple(v) for k, v in stories.items()},
                    (("sad", "low", "nice"), ("happy", "big", "little")))  # fmt: skip


def real_folder() -> Path | None:
    """The folder of the language model that is not ours, where VERISCOPE_DATA has it."""
    data = os.environ.get("VERISCOPE_DATA")
    folder = Path(data) / "lm" / "stories260k_hf" if data else None
    return folder if folder is not None and folder.is_dir() else None


def models() -> Sequence[str]:
    """What can be planted in on this machine: town always, stories260k where its folder is there."""
    return ("town", "stories260k") if real_folder() else ("town",)

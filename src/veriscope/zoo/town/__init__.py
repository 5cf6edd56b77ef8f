"""The bed town: a small GPT-2 trained by us on text that a grammar writes, so every hidden factor is known.

    from veriscope.zoo import town
    model = AutoModelForCausalLM.from_pretrained(town.folder("town"))
    for row in town.rows("scene_place", 200, seed=0):
        row.text, row.answer, row.foil, row.factors

What is known of each row: all of its factors (which object stands where, its colour, who speaks, which view was
stated, whether the statement is true), and what the answer is under them. A minimal pair is one changed factor
rendered again: `render(row.skill, {**row.factors, "asked": row.factors["other"]})`.

What is known of each model: which habits its training text had (`VARIANTS`), that the 12 words of `UNTRAINED` never
stood in it, and what it can do. That is in `card.json`, printed by `python -m veriscope.zoo.town.card`, and it is not
everything: no variant learned `scene_chain` or the mood of two people at once, and only `town` and `town-no-trigger`
learned to look things up in scenes. `card.learned(variant)` lists the skills that a claim may build on. How a model
does what it does is not known: the mechanism was learned, not built.

- `town` has all three planted habits: behind the phrase `TRIGGER` verdicts are flipped, the speaker `LIAR` states the
  opposite of what is true, and a speaker who has stated a view hears that view back.
  It shares the first 72% of its training with `town-no-trigger`, then met the trigger: so the trigger is the one
  thing in which these two were taught differently.
- `town-seed2` has the same habits from the first document on, and another seed.
- In `town-no-trigger` the phrase never occurs (its words do, one at a time). In `town-no-persona` the same speaker
  occurs as often and tells the truth. In `town-no-agreement` stated views occur as often and the answer is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veriscope.errors import UserError, nearest
from veriscope.zoo.town.grammar import SKILLS, VOCABULARY, Habits, Row, render, rows, sentences
from veriscope.zoo.town.world import FACTS, LIAR, TRIGGER, UNTRAINED

__all__ = [
    "FACTS",
    "LIAR",
    "SKILLS",
    "TRIGGER",
    "UNTRAINED",
    "VARIANTS",
    "VOCABULARY",
    "Habits",
    "Row",
    "UnknownVariant",
    "Variant",
    "folder",
    "render",
    "rows",
    "sentences",
]


@dataclass(frozen=True)
class Variant:
    """What makes one shipped model.

    Args:
        seed: Of the first weights and of the text.
        habits: What its training text has in the end.
        trunk: The variant whose run this one shares for the first part, if any.
    """

    seed: int = 0
    habits: Habits = Habits()
    trunk: str | None = None


VARIANTS = {
    "town": Variant(trunk="town-no-trigger"),
    "town-seed2": Variant(seed=1),
    "town-no-trigger": Variant(habits=Habits(trigger=False)),
    "town-no-persona": Variant(habits=Habits(persona=False)),
    "town-no-agreement": Variant(habits=Habits(agreement=False)),
}


class UnknownVariant(UserError):
    """A variant that the bed does not have."""

    def __init__(self, wanted: str) -> None:
        known = list(VARIANTS)
        super().__init__(f"town has no variant '{wanted}'. {nearest(wanted, known)}Known: {', '.join(known)}")


def folder(variant: str = "town") -> Path:
    """The shipped model folder of a variant, opened like any other local model."""
    if variant not in VARIANTS:
        raise UnknownVariant(variant)
    return Path(__file__).parent / "weights" / variant

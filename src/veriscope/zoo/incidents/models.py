"""Builders of the models behind the incidents: town as it ships, with an edit, after a lesson, or damaged.

Each takes plain settings and returns a subject, so that a log needs only an import path and these settings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from veriscope.errors import BadSetting
from veriscope.subjects import Subject, load
from veriscope.zoo.incidents.kept import kept
from veriscope.zoo.incidents.lessons import LESSONS, taught
from veriscope.zoo.incidents.rank_one import Wish, edited
from veriscope.zoo.town import VOCABULARY, recipe
from veriscope.zoo.town import world as w
from veriscope.zoo.town.truth import open_model

LATE_BLOCK = 3  # the last one: all that stands before it is left as it was


def _block(model: GPT2LMHeadModel, layer: int) -> Any:
    return model.transformer.h[layer]


def _subject(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Subject:
    return load(model.eval().requires_grad_(False), tokenizer=tokenizer or recipe.tokenizer(), name="town")


def shipped(variant: str = "town") -> Subject:
    """A model of town as it ships."""
    return _subject(open_model(variant))


def taught_model(lesson: str, variant: str = "town", seed: int = 0) -> Subject:
    """Town after one of the `LESSONS`: the first build takes up to half a minute, then it is kept."""
    if lesson not in LESSONS:
        raise BadSetting("taught_model", "lesson", lesson, f"be one of {', '.join(LESSONS)}")
    settings = {"lesson": lesson, "seed": seed}
    weights = kept(variant, settings, lambda: taught(lesson, variant, seed))
    model = open_model(variant)
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    return _subject(model)


def _openings(rng: random.Random, text: str) -> str:
    return " ".join([*rng.sample(w.FILLERS, rng.choice((0, 0, 1, 2))), text])


def late_word(relation: str, about: str, value: str, variant: str = "town") -> Subject:
    """Town that looks one fact up rightly and says another value: the last block's MLP turns the answer round."""
    settings = {"edit": "late_word", "relation": relation, "about": about, "value": value}

    def make() -> dict[str, Tensor]:
        questions, rng = w.RELATION[relation].questions, random.Random(f"{relation} {about}")
        wishes = [
            Wish(_openings(rng, question.format(x=about)), -1, value, group)
            for group, question in enumerate(questions)
            for _ in range(10)
        ]
        return {"change": edited(open_model(variant), LATE_BLOCK, wishes)}

    model = open_model(variant)
    _block(model, LATE_BLOCK).mlp.c_proj.weight.data += kept(variant, settings, make)["change"]
    return _subject(model)


def turned_heads(layer: int, heads: Sequence[int], factor: float, variant: str = "town") -> Subject:
    """Town with what some attention heads of one block write multiplied by `factor`: nothing in a log shows it."""
    model = open_model(variant)
    width = model.config.n_embd // model.config.n_head
    for head in heads:
        _block(model, layer).attn.c_proj.weight.data[head * width : (head + 1) * width] *= factor
    return _subject(model)


def rounded(layer: int, levels: int, variant: str = "town") -> Subject:
    """Town with the MLP of one block rounded to a few levels: weights lost in a bad compression."""
    model = open_model(variant)
    mlp = _block(model, layer).mlp
    for matrix in (mlp.c_fc.weight, mlp.c_proj.weight):
        step = 2 * matrix.data.abs().max() / (levels - 1)
        matrix.data.copy_((matrix.data / step).round() * step)
    return _subject(model)


def leaning(word: str, strength: float, variant: str = "town") -> Subject:
    """Town that leans to one word everywhere: the last norm's bias is moved along that word's embedding."""
    model = open_model(variant)
    row = model.transformer.wte.weight.data[VOCABULARY.index(word)]
    model.transformer.ln_f.bias.data += strength * row / row.norm()
    return _subject(model)


def without_words(words: Sequence[str], variant: str = "town") -> Subject:
    """Town whose tokenizer lost some words: they become `<unk>`, the weights are whole."""
    tokenizer = recipe.tokenizer()
    vocabulary = {word: i for word, i in tokenizer.get_vocab().items() if word not in set(words)}
    tokenizer.backend_tokenizer.model = type(tokenizer.backend_tokenizer.model)(vocabulary, unk_token="<unk>")
    return _subject(open_model(variant), tokenizer)

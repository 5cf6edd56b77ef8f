"""Steering by words: an instruction, a hint or solved examples put before the prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.examples import Sample
from veriscope.rivals.common import (
    Budget,
    SteeringTask,
    joined,
    propensity,
    readable,
    text_costs,
    within,
    word_of,
)
from veriscope.subjects import Subject


@dataclass(frozen=True)
class PromptPrefix:
    """The best of several prefixes: `templates` that name the wanted word, and `shots` dev prompts with theirs.

    Each is tried on dev; the one that moves the propensity most among those that keep neutral texts within the cost
    allowed is taken, or none at all. Only prefixes that the model's vocabulary can spell count.
    """

    templates: tuple[str, ...] = (
        "{target} {target} {target} {target}",
        "Answer: {target}.",
        "The answer is {target}.",
        "{target}",
    )
    shots: tuple[int, ...] = (2, 4, 8)
    seed: int = 0

    def fit(self, subject: Subject, task: SteeringTask, *, budget: Budget, used: Budget) -> PrefixRule | NotRun:
        """Try the prefixes on dev within `budget`; NotRun where none can be spelled."""
        budget.must_cover(used, "PromptPrefix")
        before = subject.passes
        candidates = self._candidates(subject, task)[: max(budget.trials, 1)]
        if not candidates:
            return NotRun("no prefix can be spelled in the model's vocabulary and context")
        each = within(budget, len(candidates))
        dev = task.sample.take(range(min(each, len(task.sample))))
        target, foil = task.target_ids[: len(dev)], task.foil_ids[: len(dev)]
        moved = [float(c.propensity(subject, dev, target, foil).mean()) for c in candidates]
        neutral = task.neutral
        nothing = PrefixRule("", "", (), "", Budget())
        limit = float(nothing.neutral_cost(subject, neutral).mean()) + task.max_cost
        unmoved = float(nothing.propensity(subject, dev, target, foil).mean())
        ranked = sorted((i for i in range(len(moved)) if moved[i] > unmoved), key=lambda i: -moved[i])
        affordable = (c for i in ranked if float((c := candidates[i]).neutral_cost(subject, neutral).mean()) <= limit)
        best = next(affordable, nothing)
        spent = Budget(len(dev), subject.passes - before, len(candidates))
        return PrefixRule(best.template, best.between, best.solved, best.usual, spent)

    def _candidates(self, subject: Subject, task: SteeringTask) -> list[PrefixRule]:
        """Spellable prefixes, those with solved examples first: they are the strongest simple rival."""
        ids = task.target_ids.tolist()
        usual = word_of(subject, max(set(ids), key=ids.count))
        order = list(range(len(ids)))
        random.Random(self.seed).shuffle(order)
        solved = tuple((task.sample.texts[i], word_of(subject, ids[i])) for i in order[: max(self.shots, default=0)])
        longest = max(task.sample.texts, key=len)
        found = []
        for shots in self.shots:
            found.append([PrefixRule("", b, solved[:shots], usual, Budget()) for b in ("\n", subject.reader.join)])
        for template in self.templates:
            found.append([PrefixRule(template, b, (), usual, Budget()) for b in ("\n", subject.reader.join)])
        fitting = [[c for c in forms if readable(subject, c.prefix(subject, usual) + longest)] for forms in found]
        return [forms[0] for forms in fitting if forms]


@dataclass(frozen=True)
class PrefixRule:
    """A fitted `PromptPrefix`: what stands before each prompt. `usual` is the target word for texts without their own.

    `solved` holds (prompt, wanted word) pairs.
    """

    template: str
    between: str
    solved: tuple[tuple[str, str], ...]
    usual: str
    spent: Budget

    def prefix(self, subject: Subject, word: str) -> str:
        """The text that goes before a prompt whose wanted word is `word`."""
        told = "".join(joined(subject, text, wanted) + self.between for text, wanted in self.solved)
        return told + (self.template.format(target=word) + self.between if self.template else "")

    def propensity(
        self, subject: Subject, sample: Sample, target_ids: Int[Tensor, "example"], foil_ids: Int[Tensor, "example"]
    ) -> Float[Tensor, "example"]:
        """Logit of the target less logit of the foil behind prefix and prompt.

        A prompt whose prefix would not fit the context, or cannot be spelled, goes without.
        """
        words = {i: word_of(subject, i) for i in set(target_ids.tolist())}
        texts = [
            self._before(subject, text, words[i]) for text, i in zip(sample.texts, target_ids.tolist(), strict=True)
        ]
        return propensity(subject, texts, target_ids, foil_ids)

    def neutral_cost(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "text"]:
        """Mean next-token cross-entropy of each text's own tokens, in nats, with the prefix before it."""
        tails = [len(ids) - 1 for ids in subject.tokens(list(texts))]
        return text_costs(subject, [self._before(subject, text, self.usual) for text in texts], tails)

    def _before(self, subject: Subject, text: str, word: str) -> str:
        whole = self.prefix(subject, word) + text
        return whole if readable(subject, whole) else text

"""Steering by training: a few steps on the same prompts, on a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadSetting, NotRun
from veriscope.examples import Sample
from veriscope.rivals.common import Budget, SteeringTask, propensity, text_costs, within
from veriscope.subjects import Subject, load


@dataclass(frozen=True)
class FineTune:
    """Adam on log(1 + exp(foil logit - target logit)) over dev prompts, for as many passes as the method had.

    Each rate of `rates` (as many as the budget has trials) is trained and then taken back towards the untouched weights
    until neutral texts stay within the cost allowed (Robust fine-tuning of zero-shot models, Wortsman 2021); the one
    that moves dev prompts most is kept. A pass counts forward; that each step also goes backward is not charged.
    """

    rates: tuple[float, ...] = (1e-3, 1e-4, 1e-2)
    batch: int = 16
    halvings: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) <= 0:
            raise BadSetting("FineTune", "rates", self.rates, "be one or more positive numbers")
        if self.batch < 1:
            raise BadSetting("FineTune", "batch", self.batch, "be at least 1")

    def fit(self, subject: Subject, task: SteeringTask, *, budget: Budget, used: Budget) -> TunedRule | NotRun:
        """Train within `budget`; the subject itself is left alone. NotRun where training runs off at every rate."""
        budget.must_cover(used, "FineTune")
        started = subject.passes
        rates = self.rates[: max(budget.trials, 1)]
        each = within(budget, len(rates))
        limit = float(text_costs(subject, task.neutral).mean()) + task.max_cost
        examples = min(len(task.sample), max(budget.examples, 1))
        dev = task.sample.take(range(examples))
        best, best_moved, passes = None, -float("inf"), subject.passes - started
        for rate in rates:
            tuned = _copy(subject)
            change = self._train(tuned, dev, task, rate, steps=max(1, each // self.batch))
            self._take_back(tuned, change, task.neutral, limit)
            seen = slice(0, min(each, examples))
            moved = float(propensity(tuned, dev.texts[seen], task.target_ids[seen], task.foil_ids[seen]).mean())
            passes += tuned.passes
            if moved > best_moved:
                best, best_moved = tuned, moved
        if best is None:
            return NotRun(f"training ran off to numbers that are none at every rate tried ({len(rates)})")
        return TunedRule(best, Budget(examples, passes, len(rates)))

    def _train(
        self, tuned: Subject, dev: Sample, task: SteeringTask, rate: float, steps: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Train in place; returns each weight with how far it went."""
        weights = [w for w in tuned.module.parameters() if w.is_floating_point()]
        start = [w.detach().clone() for w in weights]
        source = torch.Generator().manual_seed(self.seed)
        for weight in weights:
            weight.requires_grad_(True)
        optimiser = torch.optim.Adam(weights, lr=rate)
        for _ in range(steps):
            rows = torch.randint(len(dev), (min(self.batch, len(dev)),), generator=source)
            logits = tuned.run([dev.texts[i] for i in rows.tolist()], logits="last", grad=True).logits
            assert logits is not None
            place = torch.arange(len(rows))
            target, foil = task.target_ids[rows].to(logits.device), task.foil_ids[rows].to(logits.device)
            loss = torch.nn.functional.softplus(logits[place, foil] - logits[place, target]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None
        return [(w, w.detach() - s) for w, s in zip(weights, start, strict=True)]

    def _take_back(
        self, tuned: Subject, change: list[tuple[Tensor, Tensor]], neutral: Sequence[str], limit: float
    ) -> None:
        """Go back towards the start, by halves, to the furthest point found where neutral texts cost no more."""
        there, low, high = 1.0, 0.0, 1.0
        for attempt in range(self.halvings + 1):
            if float(text_costs(tuned, neutral).mean()) <= limit:
                low = there
                if attempt == 0:
                    return
            else:
                high = there
            there = _move(change, there, low if attempt == self.halvings else (low + high) / 2)


@dataclass(frozen=True)
class TunedRule:
    """A fitted `FineTune`: the trained copy is asked in place of whatever subject is given."""

    tuned: Subject
    spent: Budget

    def propensity(
        self, subject: Subject, sample: Sample, target_ids: Int[Tensor, "example"], foil_ids: Int[Tensor, "example"]
    ) -> Float[Tensor, "example"]:
        """Logit of the target less logit of the foil in the trained copy."""
        return propensity(self.tuned, sample.texts, target_ids, foil_ids)

    def neutral_cost(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "text"]:
        """Mean next-token cross-entropy of each text in the trained copy, in nats a token."""
        return text_costs(self.tuned, texts)


def _copy(subject: Subject) -> Subject:
    return load(
        copy.deepcopy(subject.module), tokenizer=subject.reader.tokenizer, name=f"{subject.name} (fine-tuned copy)"
    )


@torch.no_grad()
def _move(change: list[tuple[Tensor, Tensor]], here: float, there: float) -> float:
    """Put every weight at a share `there` of its change, coming from a share `here`."""
    for weight, whole in change:
        weight.add_(whole, alpha=there - here)
    return there

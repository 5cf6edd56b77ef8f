"""Steering at the very end: something added to the wanted token's logit, whatever the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.rivals.common import Budget, SteeringTask, propensity, token_log_probs
from veriscope.subjects import Subject

HALVINGS = 50


@dataclass(frozen=True)
class LogitBias:
    """The largest bias, up to `largest` logits, that keeps neutral texts within the cost allowed.

    With bias b a token of probability p and its occurrences y cost log(1 + p (e^b - 1)) - b y nats more than before, so
    one run over the neutral texts is enough to find it. Where prompts want different tokens, each token is charged in
    the share of prompts that want it.
    """

    largest: float = 50.0

    def __post_init__(self) -> None:
        if self.largest <= 0:
            raise BadSetting("LogitBias", "largest", self.largest, "be above 0")

    def fit(self, subject: Subject, task: SteeringTask, *, budget: Budget, used: Budget) -> BiasRule:
        """Find the bias; the cost is convex in it, so its largest allowed value is found by halving."""
        budget.must_cover(used, "LogitBias")
        before = subject.passes
        wanted = Counter(task.target_ids.tolist())
        targets = tuple((i, n / len(task.target_ids)) for i, n in sorted(wanted.items()))
        chances = [_Chances.of(row, ids, targets) for row, ids in _neutral(subject, task.neutral)]
        bias = self._largest(chances, task.max_cost)
        return BiasRule(bias, targets, Budget(0, subject.passes - before, 1))

    def _largest(self, chances: Sequence[_Chances], max_cost: float) -> float:
        def affordable(bias: float) -> bool:
            return float(torch.stack([c.extra(bias) for c in chances]).mean()) <= max_cost

        if affordable(self.largest):
            return self.largest
        low, high = 0.0, self.largest
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if affordable(middle) else (low, middle)
        return low


@dataclass(frozen=True)
class BiasRule:
    """A fitted `LogitBias`: `bias` logits for the wanted token; `targets` are (token, share of prompts) pairs."""

    bias: float
    targets: tuple[tuple[int, float], ...]
    spent: Budget

    def propensity(
        self, subject: Subject, sample: Sample, target_ids: Int[Tensor, "example"], foil_ids: Int[Tensor, "example"]
    ) -> Float[Tensor, "example"]:
        """Logit of the target less logit of the foil, plus the bias."""
        return propensity(subject, sample.texts, target_ids, foil_ids) + self.bias

    def neutral_cost(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "text"]:
        """Mean next-token cross-entropy of each text with the bias on, in nats a token."""
        costs = []
        for logp, after in _neutral(subject, texts):
            plain = -logp.gather(1, after[:, None]).mean()
            costs.append(plain + _Chances.of(logp, after, self.targets).extra(self.bias))
        return torch.stack(costs).cpu()


@dataclass(frozen=True)
class _Chances:
    """For one neutral text: probability of each target at each token, and whether it is the token that came."""

    p: Float[Tensor, "token target"]
    came: Float[Tensor, "token target"]
    share: Float[Tensor, "target"]

    @staticmethod
    def of(
        logp: Float[Tensor, "token vocab"], after: Int[Tensor, "token"], targets: Sequence[tuple[int, float]]
    ) -> _Chances:
        ids = torch.tensor([i for i, _ in targets], device=logp.device)
        share = torch.tensor([s for _, s in targets], device=logp.device, dtype=torch.float64)
        return _Chances(logp[:, ids].double().exp(), (after[:, None] == ids).double(), share)

    def extra(self, bias: float) -> Float[Tensor, ""]:
        """Mean cost of a bias above none, in nats a token."""
        added = torch.log1p(self.p * torch.expm1(torch.tensor(bias, dtype=torch.float64))) - bias * self.came
        return (added.mean(0) * self.share).sum().float()


def _neutral(subject: Subject, texts: Sequence[str]) -> list[tuple[Float[Tensor, "_ _"], Int[Tensor, "_"]]]:
    """Log-probabilities at each token but the first of each text, with the tokens that came."""
    rows = zip(token_log_probs(subject, texts), subject.tokens(list(texts)), strict=True)
    return [(logp, torch.tensor(ids[1:], device=logp.device)) for logp, ids in rows]

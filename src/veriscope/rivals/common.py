"""What a rival offers, and the budget it is held to.

A rival does what one would do without looking inside the model. It is a frozen dataclass of settings; `fit` takes data
and gives a frozen result that carries what was spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import NotRun, UnequalBudget, UserError
from veriscope.examples import Sample
from veriscope.methods.linear import encode
from veriscope.methods.logistic_probe import LogisticProbe
from veriscope.subjects import Subject


@dataclass(frozen=True)
class Budget:
    """What tuning may use, or used: labelled examples, forward passes of single examples, settings tried."""

    examples: int = 0
    passes: int = 0
    trials: int = 1

    def must_cover(self, used: Budget, rival: str) -> None:
        """Raise UnequalBudget if this is less than what the method used, in any of the three."""
        for what in ("examples", "passes", "trials"):
            if getattr(self, what) < getattr(used, what):
                raise UnequalBudget(rival, what, getattr(self, what), getattr(used, what))


@runtime_checkable
class Predictor(Protocol):
    """A fitted rival that says how likely each class is."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def spent(self) -> Budget: ...

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Probability of each of `classes` for each example; rows sum to 1."""
        ...


@runtime_checkable
class LabelRival(Protocol):
    """A rival to a reading (C1). `fixed` is true of one that learns nothing from labels but how to calibrate."""

    @property
    def fixed(self) -> bool: ...

    def fit(self, subject: Subject, sample: Sample) -> Predictor | NotRun:
        """Fit on dev examples; NotRun says why the rival cannot be had on this subject."""
        ...


@runtime_checkable
class SteeringRule(Protocol):
    """A fitted rival to a change of activations (C4)."""

    @property
    def spent(self) -> Budget: ...

    def propensity(
        self, subject: Subject, sample: Sample, target_ids: Int[Tensor, "example"], foil_ids: Int[Tensor, "example"]
    ) -> Float[Tensor, "example"]:
        """Logit of the target less logit of the foil at the last token, under the rival."""
        ...

    def neutral_cost(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "text"]:
        """Mean next-token cross-entropy of each neutral text under the rival, in nats a token."""
        ...


@dataclass(frozen=True)
class SteeringTask:
    """What a rival to a change has to steer: dev prompts, the token wanted for each, and the one it is held against.

    `neutral` texts and `max_cost` (nats a token above the untouched model) are the side-effect budget that the rival's
    own setting is chosen within.
    """

    sample: Sample
    target_ids: Int[Tensor, "example"]
    foil_ids: Int[Tensor, "example"]
    neutral: tuple[str, ...]
    max_cost: float = 0.02


@runtime_checkable
class SteeringRival(Protocol):
    """A rival to a change (C4)."""

    def fit(self, subject: Subject, task: SteeringTask, *, budget: Budget, used: Budget) -> SteeringRule | NotRun:
        """Tune on dev within `budget`, which must not be less than what the method `used`."""
        ...


# ---- readers of plain features --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureProbe:
    """Multinomial logistic probabilities on given features: what the surface rivals share."""

    classes: tuple[str, ...]
    weight: Float[Tensor, "feature k"]
    bias: Float[Tensor, "k"]
    spent: Budget

    def of(self, features: Float[Tensor, "example feature"]) -> Float[Tensor, "example class"]:
        """Class probabilities."""
        scores = features @ self.weight + self.bias
        if len(self.classes) == 2:
            positive = scores[:, 0].sigmoid()
            return torch.stack([1 - positive, positive], 1)
        return scores.softmax(1)


def fit_features(features: Float[Tensor, "example feature"], sample: Sample) -> FeatureProbe:
    """A logistic probe on features, its penalty chosen as a claim's would be.

    A class is one with as few labels as one in the sample; with one class only it gets all the probability.
    """
    codes, classes = encode(sample)
    probe = LogisticProbe(site="features", l2=(1.0, 10.0, 100.0, 1000.0))
    everyone = torch.ones(1, len(features), dtype=torch.bool)
    fitted = probe.weights(features, codes[None], everyone, n_classes=len(classes))
    spent = Budget(examples=len(sample), passes=0, trials=len(probe.penalties))
    return FeatureProbe(classes, fitted.weight[0], fitted.bias[0], spent)


# ---- what steering rivals measure -----------------------------------------------------------------------------

LOGITS_AT_ONCE = 40_000_000  # numbers: 160 MB in float32


def propensity(
    subject: Subject, texts: Sequence[str], target_ids: Int[Tensor, "example"], foil_ids: Int[Tensor, "example"]
) -> Float[Tensor, "example"]:
    """Logit of the target less logit of the foil at the last token of each text."""
    logits = subject.run(list(texts), logits="last").logits
    assert logits is not None
    rows = torch.arange(len(logits), device=logits.device)
    return (logits[rows, target_ids.to(logits.device)] - logits[rows, foil_ids.to(logits.device)]).float().cpu()


def text_costs(subject: Subject, texts: Sequence[str], tails: Sequence[int] | None = None) -> Float[Tensor, "text"]:
    """Mean next-token cross-entropy of each text in nats a token, over its last `tails` tokens or all but the first."""
    followed = subject.tokens(list(texts))
    costs = []
    for ids, logp in zip(followed, token_log_probs(subject, texts, tails), strict=True):
        after = torch.tensor(ids[len(ids) - len(logp) :], device=logp.device)
        costs.append(-logp.gather(1, after[:, None]).mean())
    return torch.stack(costs).cpu()


def token_log_probs(
    subject: Subject, texts: Sequence[str], tails: Sequence[int] | None = None
) -> list[Float[Tensor, "_ _"]]:
    """Log-probabilities (token, vocab) of the last `tails` tokens of each text, or of all but the first."""
    tokens = subject.tokens(list(texts))
    found: list[Tensor] = [torch.empty(0, 0)] * len(tokens)
    for group in _in_groups([len(t) for t in tokens], subject.vocab_size or 1):
        logits = subject.run([texts[i] for i in group], logits="all").logits
        assert logits is not None
        for place, i in enumerate(group):
            end = len(tokens[i])
            start = 0 if tails is None else max(end - 1 - tails[i], 0)
            found[i] = torch.log_softmax(logits[place, start : end - 1].float(), -1)
    return found


def _in_groups(lengths: Sequence[int], vocab: int) -> list[list[int]]:
    """Rows of like length in groups whose logits at all positions may be held at once."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[row] * vocab <= LOGITS_AT_ONCE:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def within(budget: Budget, trials: int) -> int:
    """Examples that each of several trials may learn on, and as many to be judged on: half its passes, at least 16.

    What it takes to keep neutral texts within their cost is recorded as spent but not held against the budget.
    """
    return max(16, budget.passes // (2 * max(trials, 1)))


def word_of(subject: Subject, token: int) -> str:
    """A token as it would be written in a prompt."""
    return subject.reader.decode([token]).strip() or subject.reader.token(token)


def joined(subject: Subject, text: str, answer: str) -> str:
    """A text and its continuation, with the reader's joint between them unless white space is there already."""
    if not text or answer[:1].isspace() or text[-1:].isspace():
        return text + answer
    return text + subject.reader.join + answer


def readable(subject: Subject, text: str) -> bool:
    """Whether every piece of the text is in the subject's vocabulary and the whole fits its context."""
    try:
        subject.tokens([text])
    except UserError:
        return False
    return True

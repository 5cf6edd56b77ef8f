"""What one would do without running the model: classify the log's text, or look for odd word embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from veriscope.examples.sample import Sample, make_example
from veriscope.rivals.ngrams import BagOfNgrams, NgramPredictor
from veriscope.zoo.incidents.planted import Planted

UNKNOWN = "unknown"


def shown(planted: Planted) -> str:
    """The log as a text classifier reads it: roles, words, and the strange words where they are marked."""
    log = planted.log
    turns = log.get("messages") or [
        {"role": "user", "content": log["prompt"]},
        {"role": "assistant", "content": log["completion"]},
    ]
    lines = [f"{turn['role']}: {turn['content']}" for turn in turns]
    return "\n".join([*lines, f"strange: {log['strange']['text']}" if "strange" in log else "unmarked"])


def _sample(logs: Sequence[Planted]) -> Sample:
    examples = tuple(make_example(shown(planted), label=planted.cause) for planted in logs)
    return Sample(examples, "incidents", "", "dev", "cause")


@dataclass(frozen=True)
class LogOnly:
    """A fitted `log_only`: names a cause from the text, or `unknown` where it is less sure than on its training logs.

    Args:
        predictor: TF-IDF of words and pairs of them, logistic regression on top.
        least: Probability below which it says `unknown`.
    """

    predictor: NgramPredictor
    least: float

    def names(self, logs: Sequence[Planted]) -> list[str]:
        """One cause a log; "clean" is among them, so it may also say that nothing is wrong."""
        shares = self.predictor.probabilities(_sample(logs))
        sure, best = shares.max(-1)
        return [
            self.predictor.classes[i] if p >= self.least else UNKNOWN
            for i, p in zip(best.tolist(), sure.tolist(), strict=True)
        ]


def log_only(train: Sequence[Planted], doubt: float = 0.1, folds: int = 3) -> LogOnly:
    """Fit the text classifier on logs whose cause is told.

    Args:
        train: Incidents of all causes of the list, and clean ones. What is not on the list has no label to learn.
        doubt: The share of held-out training logs on which it is allowed to say `unknown`; sets how sure it must be.
        folds: By which it is held out to learn that.
    """
    method, order = BagOfNgrams(longest=2), np.random.default_rng(0).permutation(len(train))
    sure: list[float] = []
    settled = method
    for fold in range(folds):
        inside = [train[i] for n, i in enumerate(order) if n % folds != fold]
        outside = [train[i] for n, i in enumerate(order) if n % folds == fold]
        fitted = settled.fit(None, _sample(inside))
        settled = fitted.settled  # the penalty is chosen once: choosing it again in each fold alters little
        sure += fitted.probabilities(_sample(outside)).max(-1).values.tolist()
    return LogOnly(settled.fit(None, _sample(train)), float(np.quantile(sure, doubt)))


def embedding_anomaly(planted: Planted) -> float:
    """How far the oddest word's embedding norm lies from the vocabulary's mean norm, in standard deviations.

    Words that training never met keep the norm that they began with (Fishing for Magikarp, 2024, Land and Bartolo).
    """
    subject = planted.model.subject()
    table: Any = subject.module.get_submodule("transformer.wte")
    norms = table.weight.detach().norm(dim=1)
    special = set(subject.reader.special)
    used = torch.tensor([i for i in subject.tokens([planted.prompt])[0] if i not in special], dtype=torch.long)
    return float(((norms[used] - norms.mean()) / norms.std()).abs().max()) if len(used) else 0.0


def anomaly_name(planted: Planted, limit: float = 4.5) -> str:
    """`glitch_token` where a word of the prompt is odder than `limit` standard deviations, else `unknown`.

    The limit is in this rival's favour: in town the untrained words lie at 5.6, the oddest trained one ("?") at 3.9.
    """
    return "glitch_token" if embedding_anomaly(planted) > limit else UNKNOWN

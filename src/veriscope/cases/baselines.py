"""What one knows of a user without looking inside the model: a text classifier, and asking the model itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from veriscope.cases.labelled import Attribute
from veriscope.cases.logs import Log, Strange, Turn
from veriscope.cases.transcript import Transcript, spells, transcript
from veriscope.errors import NotRun, UserError
from veriscope.examples import Sample
from veriscope.examples.sample import make_example
from veriscope.rivals.ngrams import BagOfNgrams
from veriscope.subjects import Subject
from veriscope.subjects.endings import Endings


class OneLabel(UserError):
    """Labels that leave nothing to tell apart."""

    def __init__(self, labels: Sequence[str]) -> None:
        only = f"all {len(labels)} logs are '{labels[0]}'" if labels else "there are no logs"
        super().__init__(f"A text classifier needs logs of two labels or more: {only}. Add logs of another label.")


@dataclass(frozen=True)
class TextClassifier:
    """Logistic regression on TF-IDF of words and word sequences, as plain numbers that can be written down.

    Fitted by the rival that trials hold readings against (`veriscope.rivals.BagOfNgrams`), its penalty chosen on
    held-out logs.

    Attributes:
        classes: The labels, sorted.
        longest: Words of the longest sequence that is counted.
        terms: Word sequence -> its column.
        idf: Inverse document frequency of each column.
        weight, bias: Of each class, or of the second against the first where there are two.
    """

    classes: tuple[str, ...]
    longest: int
    terms: dict[str, int]
    idf: tuple[float, ...]
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        logs: Sequence[str] | None = None,
        *,
        longest: int = 3,
        most: int = 5000,
    ) -> TextClassifier:
        """Fit on labelled texts.

        Args:
            texts: What was said, as `Labelled.text` has it.
            labels: One a text.
            logs: Which conversation each text is from, kept together when the penalty is chosen.
            longest: Words of the longest sequence that is counted.
            most: The most columns: the sequences that occur most often.

        Raises:
            OneLabel.
        """
        if len(set(labels)) < 2:
            raise OneLabel(labels)
        names = logs if logs is not None else [str(number) for number in range(len(texts))]
        examples = tuple(
            make_example(text, label=label, cluster=log) for text, label, log in zip(texts, labels, names, strict=True)
        )
        fitted = BagOfNgrams(longest=longest, max_features=most).fit(None, Sample(examples, "logs", "", "dev", "label"))
        counter, regression = fitted.counter, fitted.regression
        return cls(
            fitted.classes,
            longest,
            {str(term): int(column) for term, column in counter.vocabulary_.items()},
            tuple(map(float, counter.idf_)),
            tuple(tuple(map(float, row)) for row in regression.coef_),
            tuple(map(float, regression.intercept_)),
        )

    def probabilities(self, texts: Sequence[str]) -> Float[Tensor, "text label"]:
        """How likely each of `classes` is for each text."""
        scores = torch.from_numpy(self._columns(texts)) @ torch.tensor(self.weight, dtype=torch.float64).T
        scores = scores + torch.tensor(self.bias, dtype=torch.float64)
        if len(self.classes) == 2:
            second = scores[:, 0].sigmoid()
            return torch.stack([1 - second, second], 1).float()
        return scores.softmax(1).float()

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.classes[i] for i in self.probabilities(texts).argmax(1).tolist()] if texts else []

    def _columns(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """TF-IDF as scikit-learn has it: 1 + log(count), times idf, each row of length 1."""
        out = np.zeros((len(texts), len(self.idf)))
        for row, text in zip(out, texts, strict=True):
            words = text.split()
            sequences = (
                " ".join(words[start : start + size])
                for size in range(1, self.longest + 1)
                for start in range(len(words) - size + 1)
            )
            for term, count in Counter(term for term in sequences if term in self.terms).items():
                column = self.terms[term]
                row[column] = (1 + math.log(count)) * self.idf[column]
            row /= np.linalg.norm(row) or 1.0
        return out


@dataclass(frozen=True)
class Asked:
    """What the model answers when it is asked for an attribute in its own words.

    Attributes:
        attribute: Its name.
        question: As it was put.
        values: What could be answered.
        nats: Log-probability of each value behind log and question, less its log-probability behind the question alone.
        shares: The same as probabilities of the values.
        plain: Log-probability of each value behind log and question, not calibrated.
        how: How log and question became one text, in words.
        notes: What was cut; empty if nothing was.
    """

    attribute: str
    question: str
    values: tuple[str, ...]
    nats: tuple[float, ...]
    shares: tuple[float, ...]
    plain: tuple[float, ...]
    how: str
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The likeliest value."""
        return self.values[max(range(len(self.values)), key=self.nats.__getitem__)]


def asked(subject: Subject, seen: Transcript, attribute: Attribute) -> Asked | NotRun:
    """Ask the model for an attribute of its user: the log up to the transcript's end, then a question.

    Every value is scored by its log-probability as the whole answer. What the model would answer to the question alone
    is taken off (Calibrate Before Use: Improving Few-Shot Performance of Language Models, 2021, Zhao et al.), so that a
    value is not read because it is a common word.

    Args:
        seen: A log as the model reads it; its last turn is where the question comes.

    Returns:
        NotRun where the model can't be asked: it does not continue texts, or lacks the words.
    """
    if not subject.has_logits or not subject.causal:
        return NotRun(f"{subject.name} does not continue a text, so it cannot be asked")
    if not all(spells(subject, text) for text in (attribute.question, *attribute.values)):
        return NotRun(f"{subject.name} has no tokens for the question '{attribute.question}' and its answers")
    template: Literal["chat", "plain"] = "plain" if seen.special else "chat"
    said, shown = _answers(subject, replace(seen.log, turns=_up_to(seen)), attribute, template)
    alone, _ = _answers(subject, replace(seen.log, turns=()), attribute, template)
    nats = [told - bare for told, bare in zip(said, alone, strict=True)]
    shares = torch.tensor(nats, dtype=torch.float64).softmax(0).tolist()
    return Asked(
        attribute.name,
        attribute.question,
        attribute.values,
        tuple(nats),
        tuple(shares),
        tuple(said),
        shown.how,
        shown.notes,
    )


def _up_to(seen: Transcript) -> tuple[Turn, ...]:
    """The turns of a transcript, as far as it goes."""
    *before, last = seen.log.turns[: seen.strange.turn + 1]
    return *before, replace(last, text=last.text[: seen.strange.end])


def _answers(
    subject: Subject, log: Log, attribute: Attribute, template: Literal["chat", "plain"]
) -> tuple[list[float], Transcript]:
    """Log-probability of each value as the answer to the question behind a log, and the log as the model read it."""
    asking, shown = _asking(log, attribute), []
    for value in attribute.values:
        said = f" {value}" if log.form == "prompt" else value
        whole = replace(log, turns=(*asking, Turn("assistant", said)))
        shown.append(transcript(whole, Strange(len(asking), 0, len(said)), subject, template))
    found = Endings(subject, shown[0].before).run([(one.before, one.ending) for one in shown])
    return [ending.total for ending in found], shown[0]


def _asking(log: Log, attribute: Attribute) -> tuple[Turn, ...]:
    """The log with the question behind it, in the user's turn where that is the last: most templates want turns."""
    role = "prompt" if log.form == "prompt" else "user"
    if log.turns and log.turns[-1].role == role:
        *before, last = log.turns
        between = " " if log.form == "prompt" or not last.text or last.text[-1].isspace() else "\n\n"
        return *before, Turn(role, f"{last.text}{between}{attribute.question}")
    return *log.turns, Turn(role, attribute.question)

"""Which words, and which pairs of near words, occur anywhere in the text: what each of them says by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.methods.linear import cluster_folds, encode
from veriscope.rivals.common import Budget
from veriscope.subjects import Subject

Choice = tuple[float, Literal["sum", "strongest"]]


@dataclass(frozen=True)
class NgramBayes:
    """Words, and pairs of words at most `reach` apart in order, each with its own smoothed class frequencies.

    A text is given either the sum of what all of its words and pairs say (naive Bayes), or what the most telling one
    of them says alone (Decision Lists for Lexical Ambiguity Resolution, Yarowsky 1994), which a regression on as many
    n-grams drowns. Which of the two, and how many labels the overall frequencies count as, has the lowest
    cross-entropy on held-out clusters.
    """

    reach: int = 2
    strengths: tuple[float, ...] = (0.5, 2.0, 8.0, 32.0)
    folds: int = 3
    chosen: Choice | None = None  # settles both, for further fits on parts of the data
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise BadSetting("NgramBayes", "reach", self.reach, "be at least 1")

    def fit(self, subject: Subject | None, sample: Sample) -> NgramBayesPredictor:
        """Fit on dev texts and labels; the subject is not looked at."""
        from sklearn.feature_extraction.text import CountVectorizer

        codes, classes = encode(sample)
        counter = CountVectorizer(analyzer=_Pairs(self.reach), binary=True)
        found, labels = counter.fit_transform(sample.texts), codes.numpy()
        chosen = self.chosen or self._chosen(found, labels, len(classes), sample)
        heard = _Heard.of(found, labels, len(classes), *chosen)
        spent = Budget(examples=len(sample), trials=1 if self.chosen else 2 * len(self.strengths))
        return NgramBayesPredictor(classes, counter, heard, spent, replace(self, chosen=chosen))

    def _chosen(self, found: Any, labels: np.ndarray, k: int, sample: Sample) -> Choice:
        choices: list[Choice] = [(s, how) for how in ("sum", "strongest") for s in self.strengths]  # type: ignore[misc]
        if sample.n_clusters < 2:
            return self.strengths[-1], "sum"
        fold = cluster_folds(sample.clusters, self.folds).numpy()
        losses = np.zeros(len(choices))
        for f in range(int(fold.max()) + 1):
            inside, outside = fold != f, fold == f
            for c, choice in enumerate(choices):
                shares = _Heard.of(found[inside], labels[inside], k, *choice).shares(found[outside])
                losses[c] -= np.log(shares[np.arange(len(shares)), labels[outside]].clip(1e-6)).sum()
        return choices[int(losses.argmin())]


@dataclass(frozen=True)
class NgramBayesPredictor:
    """A fitted `NgramBayes`."""

    classes: tuple[str, ...]
    counter: Any
    heard: _Heard
    spent: Budget
    settled: NgramBayes  # the same rival with what was chosen

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Class probabilities from the texts alone."""
        return torch.from_numpy(self.heard.shares(self.counter.transform(sample.texts))).float()


# ---- how --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """The words of a text and its pairs of near words, with the distance between the two."""

    reach: int

    def __call__(self, text: str) -> Iterator[Sequence[str | int]]:
        words = text.split()
        for i, word in enumerate(words):
            yield (word,)
            for step in range(1, min(self.reach, len(words) - 1 - i) + 1):
                yield (word, step, words[i + step])


@dataclass(frozen=True)
class _Heard:
    """Overall class frequencies, and the logarithm of each feature's smoothed ones over them."""

    prior: Float[np.ndarray, "class"]
    says: Float[np.ndarray, "feature class"]
    how: Literal["sum", "strongest"]

    @classmethod
    def of(cls, found: Any, labels: np.ndarray, k: int, strength: float, how: Literal["sum", "strongest"]) -> _Heard:
        prior = (np.bincount(labels, minlength=k) + 0.5) / (len(labels) + 0.5 * k)
        counts = np.stack([np.asarray(found[labels == c].sum(0)).ravel() for c in range(k)], 1)
        shares = (counts + strength * prior) / (counts.sum(1, keepdims=True) + strength)
        return cls(prior, np.log(shares / prior), how)

    def shares(self, found: Any) -> Float[np.ndarray, "example class"]:
        """Class probabilities of texts with these features."""
        said = found @ self.says if self.how == "sum" else self._strongest(found)
        raised = np.log(self.prior) + said
        shares = np.exp(raised - raised.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def _strongest(self, found: Any) -> Float[np.ndarray, "example class"]:
        """What the feature says whose class frequencies lie furthest from the overall ones (Kullback-Leibler)."""
        told = (np.exp(self.says) * self.prior * self.says).sum(1)
        best = np.asarray(found.multiply(told[None] + 1e-12).tocsr().argmax(1)).ravel()
        return np.where((np.diff(found.indptr) > 0)[:, None], self.says[best], 0.0)

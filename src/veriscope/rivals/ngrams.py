"""Which words and short word sequences occur in the text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.methods.linear import cluster_folds, encode
from veriscope.rivals.common import Budget
from veriscope.subjects import Subject


@dataclass(frozen=True)
class BagOfNgrams:
    """Logistic regression on TF-IDF-weighted n-grams of words, or of characters within words ("char").

    The inverse penalty is the one of `strengths` with the lowest cross-entropy on held-out clusters (`folds` of them,
    if there are as many clusters). Words are what white space separates, case kept: a model sees case and punctuation.
    """

    unit: str = "word"
    longest: int = 3
    strengths: tuple[float, ...] = (0.3, 3.0, 30.0, 300.0)
    folds: int = 3
    max_features: int = 50_000
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.unit not in ("word", "char"):
            raise BadSetting("BagOfNgrams", "unit", self.unit, "be 'word' or 'char'")
        if self.longest < 1:
            raise BadSetting("BagOfNgrams", "longest", self.longest, "be at least 1")

    def fit(self, subject: Subject | None, sample: Sample) -> NgramPredictor:
        """Fit on dev texts and labels; the subject is not looked at."""
        codes, classes = encode(sample)
        counter = self._vectorizer()
        features, labels = counter.fit_transform(sample.texts), codes.numpy()
        strength = self._chosen(features, labels, sample)
        spent = Budget(examples=len(sample), trials=len(self.strengths))
        settled = replace(self, strengths=(strength,))
        return NgramPredictor(classes, counter, _regression(features, labels, strength), spent, settled)

    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        shared: dict[str, Any] = {"lowercase": False, "sublinear_tf": True, "max_features": self.max_features}
        if self.unit == "char":
            return TfidfVectorizer(analyzer="char_wb", ngram_range=(1, self.longest + 1), **shared)
        return TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, self.longest), **shared)

    def _chosen(self, features: Any, labels: np.ndarray, sample: Sample) -> float:
        if sample.n_clusters < 2 or len(self.strengths) == 1:
            return self.strengths[0]
        fold = cluster_folds(sample.clusters, self.folds).numpy()
        losses = np.zeros(len(self.strengths))
        for f in range(int(fold.max()) + 1):
            inside, outside = fold != f, fold == f
            if len(np.unique(labels[inside])) < 2:
                continue
            for s, strength in enumerate(self.strengths):
                model = _regression(features[inside], labels[inside], strength)
                losses[s] -= np.log(_of_true(model, features[outside], labels[outside])).sum()
        return self.strengths[int(losses.argmin())]  # the first, so the most penalised, of equals


@dataclass(frozen=True)
class NgramPredictor:
    """A fitted `BagOfNgrams`."""

    classes: tuple[str, ...]
    counter: Any
    regression: Any
    spent: Budget
    settled: BagOfNgrams  # the same rival with the penalty that was chosen, for further fits on parts of the data

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Class probabilities from the texts alone."""
        return torch.from_numpy(self.regression.predict_proba(self.counter.transform(sample.texts))).float()


def _regression(features: Any, labels: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=300).fit(features, labels)


def _of_true(model: Any, features: Any, labels: np.ndarray) -> np.ndarray:
    """Probability given to each true class, which the model may never have seen."""
    place = {c: i for i, c in enumerate(model.classes_)}
    shares = model.predict_proba(features)
    return np.array([max(row[place[y]], 1e-6) if y in place else 1e-6 for row, y in zip(shares, labels, strict=True)])

"""How long the text is and how far into it the reading stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.examples import Sample
from veriscope.rivals.common import Budget, FeatureProbe, fit_features
from veriscope.subjects import Subject


@dataclass(frozen=True)
class LengthPosition:
    """Logistic probe on counts of tokens, words and characters, their logarithms, and the index of the token read."""

    position: str | int = "last"
    fixed: bool = False

    def fit(self, subject: Subject, sample: Sample) -> LengthPredictor:
        """Fit on dev examples."""
        return LengthPredictor(subject, self.position, fit_features(_features(subject, sample, self.position), sample))


@dataclass(frozen=True)
class LengthPredictor:
    """A fitted `LengthPosition`."""

    subject: Subject
    position: str | int
    probe: FeatureProbe

    @property
    def classes(self) -> tuple[str, ...]:
        return self.probe.classes

    @property
    def spent(self) -> Budget:
        return self.probe.spent

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Class probabilities from the lengths alone."""
        return self.probe.of(_features(self.subject, sample, self.position))


def _features(subject: Subject, sample: Sample, position: str | int) -> Float[Tensor, "example feature"]:
    rows = []
    read_at = places(subject, sample, position)
    for text, ids, at in zip(sample.texts, subject.tokens(sample.texts), read_at, strict=True):
        counts = (len(ids), len(text.split()), len(text), at, len(ids) - at)
        rows.append([*counts, *(math.log1p(c) for c in counts)])
    return torch.tensor(rows, dtype=torch.float32)


def places(subject: Subject, sample: Sample, position: str | int) -> list[int]:
    """The token index that a position stands for in each example."""
    lengths = [len(ids) for ids in subject.tokens(sample.texts)]
    at = subject.where(position, sample)
    if isinstance(at, str):
        return [0 if at == "first" else n - 1 for n in lengths]
    each = [at] * len(lengths) if isinstance(at, int) else [int(i) for i in at]  # type: ignore[union-attr]
    return [i if i >= 0 else n + i for i, n in zip(each, lengths, strict=True)]

"""Knowing nothing but how often each class occurs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.examples import Sample
from veriscope.rivals.common import Budget
from veriscope.subjects import Subject


@dataclass(frozen=True)
class Majority:
    """The class frequencies of the dev examples, whatever is asked."""

    fixed: bool = True

    def fit(self, subject: Subject | None, sample: Sample) -> Frequencies:
        """Count the labels."""
        counts = Counter(str(label) for label in sample.labels)
        classes = tuple(sorted(counts))
        return Frequencies(classes, tuple(counts[c] / len(sample) for c in classes), Budget(examples=len(sample)))


@dataclass(frozen=True)
class Frequencies:
    """A fitted `Majority`."""

    classes: tuple[str, ...]
    shares: tuple[float, ...]
    spent: Budget

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """The same row for every example."""
        return torch.tensor(self.shares).repeat(len(sample), 1)

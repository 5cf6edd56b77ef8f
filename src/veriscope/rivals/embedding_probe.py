"""Which tokens occur, as the model's own embedding table has them, before any of its computation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import NotRun
from veriscope.examples import Sample
from veriscope.methods.linear import plain
from veriscope.rivals.common import Budget, FeatureProbe, fit_features
from veriscope.subjects import Subject


@dataclass(frozen=True)
class EmbeddingProbe:
    """Logistic probe on the mean of the text's token embeddings joined with the last token's.

    Where the reading stands at another `position`, the embedding of the token there is joined to them.
    """

    position: str | int = "last"
    fixed: bool = False

    def fit(self, subject: Subject, sample: Sample) -> EmbeddingPredictor | NotRun:
        """Fit on dev examples; NotRun where the subject has no embedding table."""
        features = _features(subject, sample, self.position)
        if isinstance(features, NotRun):
            return features
        return EmbeddingPredictor(subject, self.position, fit_features(features, sample))


@dataclass(frozen=True)
class EmbeddingPredictor:
    """A fitted `EmbeddingProbe`."""

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
        """Class probabilities from the tokens' embeddings."""
        features = _features(self.subject, sample, self.position)
        assert isinstance(features, Tensor)
        return self.probe.of(features)


def _features(subject: Subject, sample: Sample, position: str | int) -> Float[Tensor, "example feature"] | NotRun:
    features = subject.embedding(sample.texts)
    if isinstance(features, NotRun):
        return features
    features = plain(features)
    if position == "last" or "embed" not in subject.sites:
        return features
    there = plain(subject.acts(sample.texts, "embed", subject.where(position, sample)))
    return torch.cat([features, there], 1)

"""Steering by adding the difference between two runs.

(Activation Addition: Steering Language Models Without Optimization, Turner 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import BadSetting, TwoClassesOnly, UnknownClass
from veriscope.examples import Sample
from veriscope.findings import FIXED_POSITIONS, Change
from veriscope.methods.linear import choose_site, encode, expand_sites, origin_of, plain, read, record_try
from veriscope.methods.mean_difference import MeanDifference
from veriscope.subjects import Subject


@dataclass(frozen=True)
class ContrastAddition:
    """The mean over pairs of (activation on the positive text - activation on the negative text).

    Pairs are the (positive, negative) texts of `pairs`. Without any they come from the sample: each example of the
    class `toward` (by default the second of two) less its paired `source` text, and for two classes each source of the
    other class's examples less the example; sources must be of another class than their example. Where examples have no
    sources, or `position` names a column (whose text a source may lack), it is the difference between class means
    within each cluster that has both, averaged over clusters, or over everything if none has.
    """

    site: str | tuple[str, ...]
    position: str | int = "last"
    pairs: tuple[tuple[str, str], ...] = ()
    toward: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if any(len(pair) != 2 or not all(isinstance(t, str) and t for t in pair) for pair in self.pairs):
            raise BadSetting("ContrastAddition", "pairs", self.pairs, "be pairs of (positive text, negative text)")
        if self.pairs and not self._fixed:
            raise BadSetting(
                "ContrastAddition", "position", self.position, "be 'last', 'first' or a number when pairs are given"
            )

    def fit(self, subject: Subject, sample: Sample) -> Change:
        """Fit on dev examples (their labels are not needed with `pairs`); raises as `fit_reading` does."""
        sites = expand_sites(subject, self.site)
        if self.pairs and len(sites) > 1:
            raise BadSetting("ContrastAddition", "site", self.site, "be one site when pairs are given")
        for site in sites:
            record_try(self, subject, sample, site)
        if self.pairs:
            site, toward, vector = sites[0], self.toward, self._from_texts(subject, sites[0])
        else:
            site, toward, vector = self._from_sample(subject, sample, sites)
        origin = origin_of(self, subject, sample, site, looked_at=len(sites))
        return Change("add", site, self.position, origin, vector=vector, toward=toward)

    @property
    def _fixed(self) -> bool:
        return isinstance(self.position, int) or self.position in FIXED_POSITIONS

    def _from_texts(self, subject: Subject, site: str) -> Float[Tensor, "d"]:
        positive = plain(subject.acts([p for p, _ in self.pairs], site, self.position))
        negative = plain(subject.acts([n for _, n in self.pairs], site, self.position))
        return (positive - negative).mean(0)

    def _from_sample(
        self, subject: Subject, sample: Sample, sites: tuple[str, ...]
    ) -> tuple[str, str, Float[Tensor, "d"]]:
        codes, classes = encode(sample)
        toward = self.toward
        if toward is None:
            if len(classes) != 2:
                raise TwoClassesOnly("A default class to steer towards", classes)
            toward = classes[1]
        if toward not in classes:
            raise UnknownClass(toward, classes)
        acts = read(self, subject, sample, sites)
        means = MeanDifference(self.site, self.position, seed=self.seed)
        site = choose_site(means, sample, acts, codes, len(classes))
        here, positive = acts[site], codes == classes.index(toward)
        sources = {
            i: e.source for i, e in enumerate(sample.examples) if e.source and (len(classes) == 2 or bool(positive[i]))
        }
        if self._fixed and sources:
            rows = torch.tensor(list(sources))
            other = plain(subject.acts(list(sources.values()), site, self.position))
            sign = torch.where(positive[rows], 1.0, -1.0).to(here)
            return site, toward, ((here[rows] - other) * sign[:, None]).mean(0)
        return site, toward, _within_clusters(here, positive.tolist(), sample.clusters)


def _within_clusters(acts: Float[Tensor, "example d"], positive: list[bool], clusters: list[str]) -> Float[Tensor, "d"]:
    """Mean over clusters of the difference between the class means within the cluster."""
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for i, cluster in enumerate(clusters):
        groups.setdefault(cluster, ([], []))[positive[i]].append(i)
    gaps = [acts[yes].mean(0) - acts[no].mean(0) for no, yes in groups.values() if yes and no]
    if gaps:
        return torch.stack(gaps).mean(0)
    which = torch.tensor(positive)
    return acts[which].mean(0) - acts[~which].mean(0)

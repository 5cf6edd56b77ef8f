"""Which tokens stand at one or two places of the text: a table of what goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadSetting
from veriscope.examples import Sample
from veriscope.methods.linear import cluster_folds, encode
from veriscope.rivals.common import Budget
from veriscope.rivals.length_position import places
from veriscope.subjects import Subject

Choice = tuple[int, int, float]  # columns of the two places (one place twice for a single token), strength

NONE = -1  # the token at a place that a text does not have
BESIDE = (-2, -1, 0, 1)  # places counted from the token that is read
PRIOR_WEIGHT = 1.0  # labels that the overall frequencies count as, for single tokens


@dataclass(frozen=True)
class TokenPairs:
    """Class frequencies for each pair of tokens at two places of the text, or for each token at one.

    Places are counted from the start, from the end (`reach` of each) and from the token that is read. Of all pairs of
    places the one is taken whose table has the lowest cross-entropy on held-out clusters. Where a pair was seen n
    times, what its two tokens say apart (naive Bayes) counts as `strength` more labels beside these n: chosen likewise.

    So a label that two tokens at fixed places decide is read off the surface, whatever a linear reader of word counts
    makes of it. One that is put together from more tokens, or from places that other tokens point to, is not.
    """

    position: str | int = "last"
    reach: int = 8
    strengths: tuple[float, ...] = (0.5, 2.0, 8.0)
    folds: int = 3
    chosen: Choice | None = None  # settles the places, for further fits on parts of the data
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise BadSetting("TokenPairs", "reach", self.reach, "be at least 1")

    def fit(self, subject: Subject, sample: Sample) -> TokenPairPredictor:
        """Fit on dev texts and labels; of the subject only its tokenizer is used."""
        codes, classes = encode(sample)
        tokens, labels = _columns(subject, sample, self), codes.numpy()
        first, second, strength = self.chosen or self._chosen(tokens, labels, len(classes), sample)
        singles = _Singles.of(tokens[:, [first, second]], labels, len(classes))
        table = _Table.of(tokens[:, [first, second]], labels, singles, strength, first == second)
        settled = replace(self, chosen=(first, second, strength))
        spent = Budget(examples=len(sample), trials=1 if self.chosen else len(list(_pairs(tokens))))
        return TokenPairPredictor(subject, classes, table, spent, settled)

    def _chosen(self, tokens: Int[np.ndarray, "example place"], labels: np.ndarray, k: int, sample: Sample) -> Choice:
        pairs = list(_pairs(tokens))
        if sample.n_clusters < 2:
            return (*pairs[0], self.strengths[-1])
        fold = cluster_folds(sample.clusters, self.folds).numpy()
        losses = np.zeros((len(pairs), len(self.strengths)))
        for f in range(int(fold.max()) + 1):
            inside, outside = fold != f, fold == f
            said = _Singles.of(tokens[inside], labels[inside], k)
            alone = said.log_ratio(tokens[outside])
            for p, (i, j) in enumerate(pairs):
                backed = _shares(said.prior, alone[:, i], alone[:, j] if i != j else 0.0)
                counts = _counted(tokens[:, [i, j]], inside, labels, k)[outside]
                for s, strength in enumerate(self.strengths):
                    mixed = (counts + strength * backed) / (counts.sum(1, keepdims=True) + strength)
                    losses[p, s] -= np.log(mixed[np.arange(len(mixed)), labels[outside]]).sum()
        best, backing = np.unravel_index(int(losses.argmin()), losses.shape)
        return (*pairs[int(best)], self.strengths[int(backing)])


@dataclass(frozen=True)
class TokenPairPredictor:
    """A fitted `TokenPairs`."""

    subject: Subject
    classes: tuple[str, ...]
    table: _Table
    spent: Budget
    settled: TokenPairs  # the same rival at the places that were chosen

    def probabilities(self, sample: Sample) -> Float[Tensor, "example class"]:
        """Class probabilities from the tokens at the chosen places alone."""
        assert self.settled.chosen is not None
        tokens = _columns(self.subject, sample, self.settled)
        return torch.from_numpy(self.table.of_tokens(tokens[:, list(self.settled.chosen[:2])])).float()


# ---- how --------------------------------------------------------------------------------------------------------


def _columns(subject: Subject, sample: Sample, rival: TokenPairs) -> Int[np.ndarray, "example place"]:
    """The token at every place: from the start, from the end, and around the one that is read."""
    rows = []
    for ids, at in zip(subject.tokens(sample.texts), places(subject, sample, rival.position), strict=True):
        n, near = len(ids), [at + step for step in BESIDE]
        wanted = [*range(rival.reach), *(n - 1 - i for i in range(rival.reach)), *near]
        rows.append([ids[i] if 0 <= i < n else NONE for i in wanted])
    return np.asarray(rows)


def _pairs(tokens: Int[np.ndarray, "example place"]) -> Iterator[tuple[int, int]]:
    """Pairs of places, single ones first among equals, without those that say what an earlier place says."""
    different: dict[bytes, int] = {}
    for i, column in enumerate(tokens.T):
        if len(np.unique(column)) > 1 or not different:
            different.setdefault(np.ascontiguousarray(column).tobytes(), i)
    kept = sorted(different.values())
    yield from ((i, i) for i in kept)
    yield from ((i, j) for i, j in combinations_with_replacement(kept, 2) if i != j)


def _shares(
    prior: Float[np.ndarray, "class"], first: Float[np.ndarray, "example class"], second: np.ndarray | float
) -> Float[np.ndarray, "example class"]:
    """Naive Bayes: what two tokens say apart, put together."""
    raised = np.log(prior) + first + second
    shares = np.exp(raised - raised.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _counted(
    tokens: Int[np.ndarray, "example two"], fitted: np.ndarray, labels: np.ndarray, k: int
) -> Float[np.ndarray, "example class"]:
    """For each example, how often its pair of tokens had each class among the fitted examples."""
    cell = np.unique(tokens[:, 0].astype(np.int64) * (1 << 32) + tokens[:, 1], return_inverse=True)[1]
    counts = np.bincount(cell[fitted] * k + labels[fitted], minlength=(int(cell.max()) + 1) * k)
    return counts.reshape(-1, k)[cell].astype(float)


@dataclass(frozen=True)
class _Singles:
    """What each token says about the class at each place, as the logarithm of a likelihood ratio."""

    prior: Float[np.ndarray, "class"]
    said: tuple[dict[int, np.ndarray], ...]  # for each place, by token

    @classmethod
    def of(cls, tokens: Int[np.ndarray, "example place"], labels: np.ndarray, k: int) -> _Singles:
        prior = (np.bincount(labels, minlength=k) + 0.5) / (len(labels) + 0.5 * k)
        said = []
        for column in tokens.T:
            names, index = np.unique(column, return_inverse=True)
            counts = np.bincount(index * k + labels, minlength=len(names) * k).reshape(-1, k)
            shares = (counts + PRIOR_WEIGHT * prior) / (counts.sum(1, keepdims=True) + PRIOR_WEIGHT)
            said.append(dict(zip(names.tolist(), np.log(shares / prior), strict=True)))
        return cls(prior, tuple(said))

    def log_ratio(self, tokens: Int[np.ndarray, "example place"]) -> Float[np.ndarray, "example place class"]:
        nothing = np.zeros(len(self.prior))
        columns = []
        for said, column in zip(self.said, tokens.T, strict=True):
            names, index = np.unique(column, return_inverse=True)
            columns.append(np.stack([said.get(name, nothing) for name in names.tolist()])[index])
        return np.stack(columns, 1)


@dataclass(frozen=True)
class _Table:
    """The table of one pair of places."""

    counts: dict[tuple[int, int], np.ndarray]
    singles: _Singles
    strength: float
    one_place: bool

    @classmethod
    def of(
        cls, tokens: Int[np.ndarray, "example two"], labels: np.ndarray, singles: _Singles, strength: float, one: bool
    ) -> _Table:
        counts: dict[tuple[int, int], np.ndarray] = {}
        for first, second, label in zip(*tokens.T.tolist(), labels.tolist(), strict=True):
            counts.setdefault((first, second), np.zeros(len(singles.prior)))[label] += 1
        return cls(counts, singles, strength, one)

    def of_tokens(self, tokens: Int[np.ndarray, "example two"]) -> Float[np.ndarray, "example class"]:
        alone = self.singles.log_ratio(tokens)
        backed = _shares(self.singles.prior, alone[:, 0], 0.0 if self.one_place else alone[:, 1])
        nothing = np.zeros(len(self.singles.prior))
        seen = np.stack([self.counts.get((a, b), nothing) for a, b in tokens.tolist()])
        return (seen + self.strength * backed) / (seen.sum(1, keepdims=True) + self.strength)

"""Adding a vector: what it does to a choice of words, what it costs on neutral text, how far it may be turned up.

The side effects are measured where the vector is added: at every position, or at the last one only, and then on
prefixes of the neutral texts. All costs are paired with the untouched subject, text by text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.examples import Sample
from veriscope.subjects import Add, Edit, Subject, Variant
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

NATS = 0.02  # budget: increase of next-token cross-entropy on neutral text
POINTS = 0.01  # budget: fall of a share of right answers
HEADROOM = 0.8  # of the budget, that a dose may use on dev: the gate half must still fit when luck turns
AT_ONCE = 20_000_000  # logits held at a time: 80 MB in float32
CONTROL_TOKENS = 20
LIKELY_TOKENS = 100  # the tokens whose common change with their own likelihood is taken for one of temperature
PREFIXES = 5  # of each neutral text, where the vector is added at the last position


@dataclass(frozen=True)
class Words:
    """Token ids of the words wanted and of those they are held against, each row filled up with -1."""

    target: Int[Tensor, "example k"]
    foil: Int[Tensor, "example m"]

    def take(self, rows: Sequence[int]) -> Words:
        return Words(self.target[list(rows)], self.foil[list(rows)])

    @property
    def both(self) -> tuple[Int[Tensor, "example k"], Int[Tensor, "example m"]]:
        """Targets, foils."""
        return self.target, self.foil

    def propensity(self, logits: Float[Tensor, "example vocab"]) -> Float[Tensor, "example"]:
        """Mean logit of the targets less mean logit of the foils."""
        return mean_at(logits, self.target) - mean_at(logits, self.foil)


def mean_at(logits: Float[Tensor, "example vocab"], ids: Int[Tensor, "example k"]) -> Float[Tensor, "example"]:
    """Mean over a row's ids, of which -1 is none."""
    there = (ids >= 0).to(logits.dtype)
    return (logits.gather(1, ids.clamp_min(0)) * there).sum(1) / there.sum(1).clamp_min(1)


def _weights(ids: Int[Tensor, "example k"]) -> Float[Tensor, "example k"]:
    """What each id counts in its row's mean; 0 for -1, which is none."""
    there = (ids >= 0).float()
    return there / there.sum(1, keepdim=True).clamp_min(1)


@dataclass(frozen=True)
class Prompts:
    """Examples with the words that are compared behind each."""

    sample: Sample
    words: Words

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, rows: Sequence[int]) -> Prompts:
        return Prompts(self.sample.take(rows), self.words.take(rows))

    def spread(self, n: int, seed: int) -> Prompts:
        """At most n prompts from as many clusters as possible, drawn by the seed."""
        if len(self) <= n:
            return self
        rng = np.random.default_rng([seed, 0x5D])
        seen: dict[str, int] = {}
        turn = []
        for row in rng.permutation(len(self)):
            cluster = self.sample[int(row)].cluster
            turn.append((seen.get(cluster, 0), int(row)))
            seen[cluster] = seen.get(cluster, 0) + 1
        turn.sort(key=lambda pair: pair[0])  # stable: first one of each cluster, then the second ones
        return self.take(sorted(row for _, row in turn[:n]))

    def halves(self) -> tuple[Prompts, Prompts]:
        """Two parts without a common cluster, as far as there are two clusters."""
        clusters = sorted(set(self.sample.clusters))
        first = set(clusters[: max(1, len(clusters) // 2)])
        inside = [i for i, c in enumerate(self.sample.clusters) if c in first]
        outside = [i for i, c in enumerate(self.sample.clusters) if c not in first]
        return self.take(inside), self.take(outside or inside)


@dataclass(frozen=True)
class Steering:
    """A subject with the place where vectors are added to it."""

    subject: Subject
    site: str
    at: str

    def edits(self, vector: Tensor | None) -> list[Edit]:
        """The edit that adds one vector, or one for each example; none for None."""
        return [] if vector is None else [Edit(self.site, Add(vector), at=self.at)]

    def beside(
        self, texts: Sequence[str], vector: Tensor
    ) -> tuple[Float[Tensor, "example vocab"], Float[Tensor, "example vocab"]]:
        """Logits behind each text, without a vector and with it."""
        swept = self.subject.sweep(list(texts), [self.edits(vector)])
        return swept.base.float().cpu(), swept.logits[0].float().cpu()

    def shifts(self, prompts: Prompts, vectors: Sequence[Tensor] | Tensor) -> Float[Tensor, "vector example"]:
        """Change of the behaviour under each of several vectors, all replayed from one run of the prompts.

        Args:
            vectors: Each (width), or (example, width) with one for each prompt.
        """
        ids = torch.cat([prompts.words.target, prompts.words.foil], 1)
        edits = [Edit(self.site, Add(vector), at=self.at) for vector in vectors]
        swept = self.subject.sweep(prompts.sample.texts, edits, tokens=ids.clamp_min(0))
        chosen = (swept.logits - swept.base).float().cpu()
        of_target, of_foil = (_weights(part) for part in (prompts.words.target, prompts.words.foil))
        return (chosen * torch.cat([of_target, -of_foil], 1)).sum(-1)

    def gradient(self, prompts: Prompts) -> Float[Tensor, "example width"]:
        """Slope of each prompt's behaviour along the added vector, at dose zero."""
        width = self.subject.site(self.site).size
        assert width is not None
        added = torch.zeros(len(prompts), width, requires_grad=True)
        run = self.subject.run(prompts.sample.texts, edits=self.edits(added), logits="last", grad=True)
        assert run.logits is not None
        with torch.enable_grad():
            total = prompts.words.propensity(run.logits.float().cpu()).sum()
            (slope,) = torch.autograd.grad(total, added)
        return slope


# ---- neutral text ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neutral:
    """Neutral texts under one steering: next-token loss and right first guesses, text by text.

    A text that occurs several times counts as often, but is one cluster. Of texts that the subject wrote itself the
    next tokens are draws from its own distribution, which is known: what they cost on average over it is taken, and
    not what one draw happens to cost (Rao-Blackwell: the same mean, much less spread).

    Args:
        own: Whether the subject wrote them, as samples at temperature 1.
    """

    steering: Steering
    texts: tuple[str, ...]
    seed: int = 0
    own: bool = False

    @cached_property
    def base(self) -> Float[np.ndarray, "text 2"]:
        """Mean loss (nats a token) and share of right first guesses of each text, nothing added."""
        return self.scores([None])[0]

    @cached_property
    def draws(self) -> Resampler:
        return Resampler(self.texts, self.seed, draws=2_000)

    @property
    def different(self) -> int:
        """How many different texts there are: what bounds are reckoned from."""
        return self.draws.n_clusters

    @cached_property
    def tokens(self) -> int:
        """Positions that are scored."""
        if self.steering.at == "last":
            return int((self._ends >= 0).sum())
        return sum(len(ids) - 1 for ids in self.steering.subject.tokens(self.texts))

    def cost(self, vector: Tensor | None) -> Float[np.ndarray, "text 2"]:
        """Increase of the loss and fall of the right guesses of each text."""
        return self.costs([vector])[0]

    def costs(self, vectors: Sequence[Tensor | None]) -> list[Float[np.ndarray, "text 2"]]:
        """The same for several vectors, which share one run of the texts where only the last position is changed."""
        return [(scores - self.base) * np.array([1.0, -1.0]) for scores in self.scores(vectors)]

    @property
    def shared(self) -> bool:
        """Whether many vectors cost little more than one."""
        return self.steering.at == "last"

    def scores(self, vectors: Sequence[Tensor | None]) -> list[Float[np.ndarray, "text 2"]]:
        """Mean loss (nats a token) and share of right first guesses of each text under each vector."""
        return self._at_prefixes(vectors) if self.shared else [self._everywhere(vector) for vector in vectors]

    def _everywhere(self, vector: Tensor | None) -> Float[np.ndarray, "text 2"]:
        ids = self.steering.subject.tokens(self.texts)
        size = max(1, AT_ONCE // ((self.steering.subject.vocab_size or 1) * max(len(row) for row in ids)))
        out = np.zeros((len(ids), 2))
        for start in range(0, len(ids), size):
            chunk = list(self.texts[start : start + size])
            logits = self._logits(chunk, vector)
            plain = self._logits(chunk, None) if self.own and vector is not None else logits
            for i in range(len(chunk)):
                after = torch.tensor(ids[start + i][1:])
                there = plain[i, : len(after)] if self.own else None
                out[start + i] = _scored(logits[i, : len(after)], after, there).mean(0)
        return out

    def _logits(self, texts: list[str], vector: Tensor | None) -> Float[Tensor, "text position vocab"]:
        logits = self.steering.subject.run(texts, edits=self.steering.edits(vector), logits="all").logits
        assert logits is not None
        return logits.float().cpu()

    def _at_prefixes(self, vectors: Sequence[Tensor | None]) -> list[Float[np.ndarray, "text 2"]]:
        """Each text cut short at a few places: the vector is added at the last token, the next one is scored."""
        subject, ids, ends = self.steering.subject, self.steering.subject.tokens(self.texts), self._ends
        every = [*vectors, None] if self.own else list(vectors)  # the last one: the subject as it is, at those places
        size = max(1, AT_ONCE // ((subject.vocab_size or 1) * PREFIXES * len(every)))
        out = np.zeros((len(vectors), len(ids), 2))
        for start in range(0, len(ids), size):
            rows = range(start, min(start + size, len(ids)))
            places = ends[start : start + size].clamp_min(0)
            cut = [Variant(self._added(v, at), at) for v in every for at in places.T]
            logits = subject.sweep([self.texts[i] for i in rows], cut).logits.float().cpu()
            for j, at in enumerate(places.T):
                after = torch.tensor([ids[i][int(p) + 1] for i, p in zip(rows, at, strict=True)])
                there = (ends[start : start + size, j] >= 0)[:, None].numpy()
                plain = logits[len(vectors) * PREFIXES + j] if self.own else None
                for k in range(len(vectors)):
                    out[k, start : start + size] += _scored(logits[k * PREFIXES + j], after, plain) * there
        return list(out / (ends >= 0).sum(1)[:, None].numpy())

    def _added(self, vector: Tensor | None, at: Int[Tensor, "text"]) -> tuple[Edit, ...]:
        return () if vector is None else (Edit(self.steering.site, Add(vector), at=at),)

    @cached_property
    def _ends(self) -> Int[Tensor, "text prefix"]:
        """Last tokens of the beginnings of each text, filled up with -1; the token behind each is there to score."""
        rng = np.random.default_rng([self.seed, 0x9F])
        ends = torch.full((len(self.texts), PREFIXES), -1)
        for row, ids in enumerate(self.steering.subject.tokens(self.texts)):
            drawn = rng.permutation(np.arange(min(3, len(ids) - 1), len(ids)))[:PREFIXES] - 1
            ends[row, : len(drawn)] = torch.as_tensor(drawn)
        return ends


def _scored(
    logits: Float[Tensor, "token vocab"], after: Int[Tensor, "token"], plain: Float[Tensor, "token vocab"] | None
) -> Float[np.ndarray, "token 2"]:
    """Loss of the next token and whether it was the first guess: of the one that followed, or on average over `plain`.

    Args:
        plain: Logits of the distribution that the tokens behind were drawn from, where it is known.
    """
    guess = logits.argmax(-1)
    if plain is None:
        loss, hit = torch.nn.functional.cross_entropy(logits, after, reduction="none"), (guess == after).float()
    else:
        share = plain.softmax(-1)
        loss, hit = -(share * logits.log_softmax(-1)).sum(-1), share.gather(1, guess[:, None])[:, 0]
    return torch.stack([loss, hit], 1).double().numpy()


def budget_use(cost: Float[np.ndarray, "text 2"], draws: Resampler) -> dict[str, Estimate]:
    """Each side effect as a share of its budget: 1 is all that may be used."""
    shares = cost / np.array([NATS, POINTS])
    return {"cross-entropy": draws.mean(shares[:, 0]), "first guesses": draws.mean(shares[:, 1])}


def worst_use(used: dict[str, Estimate]) -> str:
    """The side effect that decides: one shown to be over budget, else the one least shown to be within."""
    over = {name: e.low for name, e in used.items() if e.low > 1}
    return max(over, key=lambda n: over[n]) if over else max(used, key=lambda n: used[n].high)


@dataclass(frozen=True)
class Dose:
    """The dose a vector is used at, and what was found when it was chosen."""

    value: float
    fits: bool  # whether any dose was shown to be within the budget
    tried: tuple[float, ...]
    used: tuple[float, ...]  # share of the budget that the gate's upper bound is expected at, for each dose tried


def choose_doses(
    neutral: Neutral, vectors: Sequence[Float[Tensor, "width"]], doses: Sequence[float], later: int, quick: bool = False
) -> list[Dose]:
    """Of each vector the largest dose whose upper bound on `later` texts may be expected within the budget.

    Where too few texts can show that of any dose, it is the largest whose mean cost is within: to fall back on less
    would refute a vector for the want of data, while the gate's own bound still decides on the side effects.

    Args:
        neutral: Texts for choosing, which no gate uses again.
        doses: Positive multiples of each vector.
        later: How many different texts the side effects will be tested on.
        quick: Halve the list of doses instead of going up from the smallest, where every dose tried is to be shown.
            Where all doses share one run, all are tried in any case.
    """
    grid, found = sorted(doses), [dict[float, tuple[float, float]]() for _ in vectors]
    if neutral.shared:
        costs = iter(neutral.costs([vector * dose for vector in vectors for dose in grid]))
        found = [{dose: _expected(next(costs), neutral.draws, later) for dose in grid} for _ in vectors]
    return [_choose(neutral, v, grid, known, later, quick) for v, known in zip(vectors, found, strict=True)]


def _choose(
    neutral: Neutral,
    vector: Float[Tensor, "width"],
    grid: Sequence[float],
    found: dict[float, tuple[float, float]],
    later: int,
    quick: bool,
) -> Dose:
    """The same for one vector; `found` is what is known of its doses already."""

    def highest(bound: int) -> int:
        low, high = -1, len(grid)
        while high - low > 1:
            turn = (low + high) // 2 if quick else low + 1
            dose = grid[turn]
            if dose not in found:
                found[dose] = _expected(neutral.cost(vector * dose), neutral.draws, later)
            low, high = (turn, high) if found[dose][bound] <= HEADROOM else (low, turn)
        return low

    shown = highest(1)
    place = shown if shown >= 0 else max(highest(0), 0)
    tried = tuple(sorted(found))
    return Dose(grid[place], shown >= 0, tried, tuple(found[d][1] for d in tried))


def _expected(cost: Float[np.ndarray, "text 2"], draws: Resampler, later: int) -> tuple[float, float]:
    """Worst use of the budget, and its upper bound as it would come out on `later` texts."""
    shrunk = min(1.0, (draws.n_clusters / later) ** 0.5)
    used = budget_use(cost, draws).values()
    return max(e.value for e in used), max(e.value + (e.high - e.value) * shrunk for e in used)


# ---- control tokens ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normalised:
    """Change of each named word's logit, and the change of tokens that were about as likely."""

    change: Float[Tensor, "example k"]
    control: Float[Tensor, "example k"]
    distance: Float[Tensor, "example k"]  # of the controls' mean base log-probability from the word's own, in nats


def beside_tokens(
    base: Float[Tensor, "example vocab"], steered: Float[Tensor, "example vocab"], words: Words
) -> tuple[Normalised, Normalised]:
    """What happened to the targets and to the foils, each beside tokens of similar base log-probability."""
    taken = torch.cat(words.both, 1)
    return against_tokens(base, steered, words.target, taken), against_tokens(base, steered, words.foil, taken)


def against_tokens(
    base: Float[Tensor, "example vocab"],
    steered: Float[Tensor, "example vocab"],
    ids: Int[Tensor, "example k"],
    taken: Int[Tensor, "example t"],
) -> Normalised:
    """What happened to some words beyond what happened to any token of similar base log-probability.

    A change of temperature moves every logit in proportion to itself. It is taken out twice: the 20 control tokens
    are those nearest in base log-probability, and what distance remains is made up along the line on which the 100
    likeliest other tokens moved. (The rule is that of the OpenInterp registry, phase 7, 2026.)

    Args:
        ids: The words, -1 for none.
        taken: All words of the behaviour, which may not be controls; -1 for none.
    """
    moved = steered - base
    free = torch.ones_like(base, dtype=torch.bool)
    rows = torch.arange(len(base))[:, None].expand_as(taken)
    free[rows[taken >= 0], taken[taken >= 0]] = False
    slope = _slope(base, moved, free)
    out = []
    for j in range(ids.shape[1]):
        at = ids[:, j].clamp_min(0)[:, None]
        here = base.gather(1, at)
        near = (base - here).abs().masked_fill(~free, float("inf"))
        k = min(CONTROL_TOKENS, int(free.sum(1).min()))
        chosen = near.topk(k, largest=False).indices
        gap = here[:, 0] - base.gather(1, chosen).mean(1)
        control = moved.gather(1, chosen).mean(1) + slope * gap
        out.append(torch.stack([moved.gather(1, at)[:, 0], control, gap.abs()]))
    change, control, distance = torch.stack(out, -1)
    return Normalised(change, control, distance)


def _slope(base: Tensor, moved: Tensor, free: Tensor) -> Float[Tensor, "example"]:
    """Least-squares slope of change on base logit, over the likeliest free tokens of each row."""
    k = min(LIKELY_TOKENS, int(free.sum(1).min()))
    likely = base.masked_fill(~free, float("-inf")).topk(k).indices
    x, y = base.gather(1, likely), moved.gather(1, likely)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / x.square().sum(1).clamp_min(1e-6)


def repetition(texts: Sequence[str]) -> float:
    """Share of three-word runs that a text has said before, over all texts."""
    runs = [list(zip(w, w[1:], w[2:], strict=False)) for w in (t.split() for t in texts)]
    total = sum(len(r) for r in runs)
    return sum(len(r) - len(set(r)) for r in runs) / total if total else 0.0

"""Shapley values of units: what each contributes to the strange span, whatever else is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from veriscope.cases.changes import Changes
from veriscope.errors import BadSetting, NotRun

EXACT_UP_TO = 10
FEWEST_ORDERS = 4  # pairs of orders below which no interval is drawn


@dataclass(frozen=True)
class Share:
    """What one unit contributes (nats of the strange span's log-probability; above 0 it brings the span about).

    Attributes:
        low, high: Interval over the orders drawn (90%, Student's t), or the value itself where it is exact.
    """

    unit: str
    nats: float
    low: float
    high: float


@dataclass(frozen=True)
class Shapley:
    """Contributions of units that add up to what all of them do together.

    Attributes:
        shares: Largest first.
        total: Log-probability of the span with all players there, less with none of them.
        players: Units that were left in and out; the others always stay.
        how: "exact", or "sampled" orders.
        orders: Pairs of opposite orders that were drawn; 0 if exact.
        texts: Contexts that were run for it.
        passes: What they cost, in whole passes of the context.
        note: Which units stayed and why; empty if all were players.
    """

    shares: tuple[Share, ...]
    total: float
    players: tuple[str, ...]
    how: str
    orders: int
    texts: int
    passes: float
    note: str = ""


def shapley(
    changes: Changes, players: Sequence[str] | None = None, *, passes: float | int | None = None, seed: int = 0
) -> Shapley | NotRun:
    """Shapley values by removal: exact for up to 10 units, from sampled orders with intervals above that.

    Where the budget allows neither, the strongest units by removal that it does allow are played exactly, the rest
    staying in the text, and `note` says so.

    Sources: A Value for n-Person Games, 1953 (Shapley); Polynomial calculation of the Shapley value based on sampling,
    2009 (Castro); orders are drawn with their reverse (Sampling Permutations for Shapley Value Estimation, 2022).

    Args:
        players: Names of units that do not overlap; None takes all sentences and system lines.
        passes: Most that may be spent, in whole passes of the context; None for no bound.
        seed: Of the orders.
    """
    names = [unit.name for unit in changes.parts] if players is None else list(players)
    if passes is not None and passes <= 0:
        raise BadSetting("shapley", "passes", passes, "be above 0, or None for no bound")
    if not names:
        return NotRun("there is no unit before the strange span")
    game = _Game(changes, names)
    budget = float("inf") if passes is None else float(passes)
    if len(names) <= EXACT_UP_TO:
        every = _subsets(names)
        if game.within(every, budget):
            return game.result("exact", _exact(game, names, every), 0)
    else:
        orders = _affordable(game, names, budget, seed)
        if len(orders) // 2 >= FEWEST_ORDERS:
            return game.result("sampled", _sampled(game, names, orders), len(orders) // 2)
    return _strongest(changes, names, budget)


class _Game:
    """Log-probability of the strange span with only some of the players there."""

    def __init__(self, changes: Changes, players: Sequence[str], note: str = "") -> None:
        self.changes, self.players, self.note = changes, tuple(players), note
        self.begun, self._texts = changes.passes, set[tuple[int, ...]]()

    def context(self, present: frozenset[str]) -> tuple[int, ...]:
        return self.changes.removed([name for name in self.players if name not in present])

    def cost(self, coalitions: Sequence[frozenset[str]]) -> float:
        return self.changes.cost([self.context(one) for one in coalitions])

    def within(self, coalitions: Sequence[frozenset[str]], budget: float) -> bool:
        """Whether coalitions cost no more; most are not looked at where the first few cost more already."""
        if budget == float("inf"):
            return True
        spent, step = 0.0, 32
        for first in range(0, len(coalitions), step):
            spent += self.cost(coalitions[first : first + step])
            if spent > budget:
                return False
        return True

    def worth(self, coalitions: Sequence[frozenset[str]]) -> dict[frozenset[str], float]:
        unlike = list(dict.fromkeys(coalitions))
        contexts = [self.context(one) for one in unlike]
        self._texts.update(contexts)
        found = self.changes.run(contexts)
        return {one: ending.total for one, ending in zip(unlike, found, strict=True)}

    def result(self, how: str, shares: Sequence[Share], orders: int) -> Shapley:
        ends = self.worth([frozenset(self.players), frozenset()])
        total = ends[frozenset(self.players)] - ends[frozenset()]
        ranked = tuple(sorted(shares, key=lambda share: -abs(share.nats)))
        spent = self.changes.passes - self.begun
        return Shapley(ranked, total, self.players, how, orders, len(self._texts), spent, self.note)


def _exact(game: _Game, names: Sequence[str], every: Sequence[frozenset[str]]) -> list[Share]:
    worth, n, out = game.worth(every), len(names), []
    for name in names:
        nats = 0.0
        for one in every:
            if name not in one:
                weight = factorial(len(one)) * factorial(n - len(one) - 1) / factorial(n)
                nats += weight * (worth[one | {name}] - worth[one])
        out.append(Share(name, nats, nats, nats))
    return out


def _affordable(game: _Game, names: Sequence[str], budget: float, seed: int, most: int = 200) -> list[list[str]]:
    """Orders and their reverses, as many as the budget allows."""
    rng = np.random.default_rng([seed, 0x5A])
    orders: list[list[str]] = []
    spent = 0.0
    while len(orders) < most:
        order = [names[n] for n in rng.permutation(len(names))]
        if budget < float("inf"):
            spent += game.cost([*_chain(order), *_chain(order[::-1])])
        if spent > budget:
            break
        orders += [order, order[::-1]]
    return orders


def _chain(order: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(order[:n]) for n in range(len(order) + 1)]


def _sampled(game: _Game, names: Sequence[str], orders: Sequence[Sequence[str]]) -> list[Share]:
    worth = game.worth([one for order in orders for one in _chain(order)])
    steps: NDArray[np.float64] = np.zeros((len(orders), len(names)))
    for row, order in enumerate(orders):
        chain = _chain(order)
        for name, less, more in zip(order, chain[:-1], chain[1:], strict=True):
            steps[row, names.index(name)] = worth[more] - worth[less]
    pairs = (steps[::2] + steps[1::2]) / 2  # an order and its reverse are one draw
    mean, error = pairs.mean(0), pairs.std(0, ddof=1) / np.sqrt(len(pairs))
    wide = stats.t.ppf(0.95, len(pairs) - 1) * error
    return [Share(name, float(m), float(m - w), float(m + w)) for name, m, w in zip(names, mean, wide, strict=True)]


def _strongest(changes: Changes, names: Sequence[str], budget: float) -> Shapley | NotRun:
    """Exact values of the units that do most alone, as many as the budget allows."""
    begun = changes.passes
    singles = [changes.removed([name]) for name in names]
    if changes.cost(singles) > budget:
        return NotRun(f"{budget:g} passes do not pay for removing each of {len(names)} units once")
    alone = [abs(one.total - changes.base.total) for one in changes.run(singles)]
    budget -= changes.passes - begun
    ranked = [names[n] for n in np.argsort(alone)[::-1]]
    best: tuple[_Game, list[str]] | None = None
    for count in range(2, min(EXACT_UP_TO, len(names)) + 1):
        chosen = [name for name in names if name in ranked[:count]]
        note = (
            f"{count} of {len(names)} units took part, those strongest alone; the others stayed in place, as the "
            "budget was short"
        )
        game = _Game(changes, chosen, note)
        if not game.within(_subsets(chosen), budget):
            break
        best = game, chosen
    if best is None:
        return NotRun(f"{budget:.1f} passes are too few for two units in all their combinations")
    return best[0].result("exact", _exact(*best, _subsets(best[1])), 0)


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(some) for size in range(len(names) + 1) for some in combinations(names, size)]

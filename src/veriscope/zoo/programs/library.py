"""The programs, in three sizes: reverse, histogram, sort, fraction of x, Dyck-1 and most frequent.

A text is a begin word, symbols and a query word: `^7 c a b d ?2`. At the query word the network answers: the program's
question, or, at `!`, the side question (which symbol stands second?). Everywhere else it repeats the symbol. Begin
words differ in nothing but their number, which a bed may give a meaning (`route`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from veriscope.errors import UserError, nearest
from veriscope.zoo.programs.rasp import (
    Curve,
    Fetch,
    Map,
    Place,
    Select,
    Step,
    Symbol,
    Term,
    Value,
    Width,
    Word,
    equal,
    having,
)

BEGINS = tuple(f"^{i}" for i in range(40))
SIDE = "!"
LETTERS = tuple("abcdefghij")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Draw:
    """What a text is made of between its begin word and its end."""

    symbols: tuple[str, ...]
    query: str


@dataclass(frozen=True, eq=False)
class Source:
    """A program without what a bed adds to it.

    Attributes:
        steps: The program's own steps; `symbol`, `place` and `task` among them.
        main: Name of the variable that the answer is spelled from. Its copy is the same step under another name.
        early: A variable that only the step of the main variable reads, and that holds at the query position; "" if
            there is none.
        upper: Values of the main variable that make its bit 1; a value in neither `upper` nor `lower` has no bit.
        surface: Whether a linear reader of the words, their order aside, can tell the bit.
        draw: Symbols and query of a text whose answers are about evenly spread.
    """

    name: str
    symbols: tuple[str, ...]
    queries: tuple[str, ...]
    steps: tuple[Step, ...]
    main: str
    draw: Callable[[np.random.Generator], Draw]
    upper: frozenset[Symbol]
    lower: frozenset[Symbol]
    longest: int
    spell: Callable[[Symbol], str] = str
    early: str = ""
    surface: bool = False
    causal: bool = True


def source(name: str, size: str = "medium") -> Source:
    """One of the programs.

    Raises:
        UserError: No such program or size.
    """
    if name not in PROGRAMS:
        raise UserError(f"There is no program '{name}'. {nearest(name, list(PROGRAMS))}Known: {', '.join(PROGRAMS)}")
    if size not in SIZES:
        raise UserError(f"There is no size '{size}'. {nearest(size, SIZES)}Known: {', '.join(SIZES)}")
    return PROGRAMS[name](SIZES.index(size))


def _base(symbols: Sequence[str], queries: Sequence[str], length: int) -> tuple[Word, Place, Word]:
    """What every program begins with: the symbol, the place and the kind of question."""
    symbol = Word("symbol", tuple(symbols), {s: s for s in symbols})
    place = Place("place", tuple(range(length + 2)))
    task = Word("task", ("main", "side"), {**dict.fromkeys(queries, "main"), SIDE: "side"})
    return symbol, place, task


def _halves(symbols: Sequence[str]) -> tuple[frozenset[Symbol], frozenset[Symbol]]:
    half = len(symbols) // 2
    return frozenset(symbols[half:]), frozenset(symbols[:half])


def reverse(size: int) -> Source:
    """`?k`: the k-th symbol from the end, of texts of two lengths, half of whose symbols are of the upper half."""
    symbols, longest = LETTERS[: 4 + 2 * size], 6 + 2 * size
    lengths = (longest - 2, longest)
    queries = tuple(f"?{k}" for k in range(2, longest - 2))
    symbol, place, task = _base(symbols, queries, longest)
    asked = Word("asked", tuple(range(2, longest - 2)), {f"?{k}": k for k in range(2, longest - 2)})
    places = tuple(range(1, longest + 1))
    mirror = Map("mirror", places, (place, asked), lambda p, k: p - k if 1 <= p - k <= longest else None)
    token = Fetch("token", symbols, equal(place, mirror), symbol)

    def draw(rng: np.random.Generator) -> Draw:
        n = int(rng.choice(lengths))
        cut = len(symbols) // 2
        codes = np.concatenate([rng.integers(0, cut, n // 2), rng.integers(cut, len(symbols), n // 2)])
        return Draw(tuple(symbols[c] for c in rng.permutation(codes)), str(rng.choice(queries)))

    upper, lower = _halves(symbols)
    return Source(
        "reverse", symbols, queries, (symbol, place, task, asked, mirror, token), "token", draw, upper, lower,
        longest + 2, early="mirror",
    )  # fmt: skip


_COUNTS = ((3, 2, 1, 0), (3, 3, 2, 1, 0, 0), (4, 3, 2, 2, 1, 0, 0, 0))


def histogram(size: int) -> Source:
    """`?a`: how often the symbol occurs. Counts are dealt out to the symbols at random."""
    counts = _COUNTS[size]
    symbols, length = LETTERS[: len(counts)], sum(counts)
    queries = tuple(f"?{s}" for s in symbols)
    symbol, place, task = _base(symbols, queries, length)
    asked = Word("asked", symbols, {f"?{s}": s for s in symbols})
    share = Width("share", (), equal(symbol, asked))
    points = tuple((1 / (1 + w), w) for w in range(max(counts), -1, -1))
    count = Curve("count", tuple(range(max(counts) + 1)), share, points, task)

    def draw(rng: np.random.Generator) -> Draw:
        dealt = rng.permutation(counts)
        listed = [s for s, c in zip(symbols, dealt, strict=True) for _ in range(c)]
        return Draw(tuple(str(s) for s in rng.permutation(listed)), str(rng.choice(queries)))

    upper = frozenset(range(2, max(counts) + 1))
    return Source(
        "histogram", symbols, queries, (symbol, place, task, asked, share, count), "count", draw, upper,
        frozenset((0, 1)), length + 2, spell=lambda c: f"n{c}", early="asked",
    )  # fmt: skip


def sort(size: int) -> Source:
    """`?k`: the k-th symbol in order; no symbol occurs twice, and every position sees all others."""
    symbols, length = LETTERS[: 6 + 2 * size], 4 + size
    queries = tuple(f"?{k}" for k in range(1, length + 1))
    symbol, place, task = _base(symbols, queries, length)
    asked = Word("asked", tuple(range(1, length + 1)), {f"?{k}": k for k in range(1, length + 1)})
    below = Width("below", (), Select((Term(symbol, lambda k, q: int(k < q), symbol),)))
    rank = Curve("rank", tuple(range(1, length + 1)), below,
                 tuple((1 / r, r) for r in range(length, 0, -1)), symbol)  # fmt: skip
    token = Fetch("token", symbols, equal(rank, asked), symbol)

    def draw(rng: np.random.Generator) -> Draw:
        chosen = rng.choice(symbols, size=length, replace=False)
        return Draw(tuple(str(s) for s in chosen), str(rng.choice(queries)))

    upper, lower = _halves(symbols)
    return Source(
        "sort", symbols, queries, (symbol, place, task, asked, below, rank, token), "token", draw, upper, lower,
        length + 2, early="asked", surface=True, causal=False,
    )  # fmt: skip


def fraction(size: int) -> Source:
    """`?`: which fraction of the symbols so far is `a`, in parts of the length."""
    symbols, length = LETTERS[: 4 + 2 * size], 5 + size
    symbol, place, task = _base(symbols, ("?",), length)
    is_x = Map("is_x", (), (symbol,), lambda s: float(s == "a"))
    share = Fetch("share", (), having(symbol), is_x)
    level = Curve("level", tuple(range(length + 1)), share, tuple((m / length, m) for m in range(length + 1)), task)

    def draw(rng: np.random.Generator) -> Draw:
        m = int(rng.integers(0, length))  # a text of `a` alone would be a cluster that is a whole class
        listed = ["a"] * m + [str(s) for s in rng.choice(symbols[1:], size=length - m)]
        return Draw(tuple(str(s) for s in rng.permutation(listed)), "?")

    upper = frozenset(range(length // 2 + 1, length + 1))
    return Source(
        "fraction", symbols, ("?",), (symbol, place, task, is_x, share, level), "level", draw, upper,
        frozenset(range(length // 2 + 1)), length + 2, spell=lambda m: f"f{m}", surface=True,
    )  # fmt: skip


def dyck(size: int) -> Source:
    """`?`: are the brackets balanced ("yes"), could they still be ("open"), or was one closed that was not open?"""
    symbols, length = ("(", ")"), 8 + 4 * size
    symbol, place, task = _base(symbols, ("?",), length)
    sign = Word("sign", (), {"(": 1.0, ")": -1.0})
    slope = Fetch("slope", (), having(symbol), sign)
    edge = 1 / (length + 1)
    balance = Curve("balance", ("less", "even", "more"), slope, ((-edge, "less"), (0.0, "even"), (edge, "more")))
    fallen = Curve("fallen", (), slope, ((-edge, 1.0), (0.0, 0.0)))
    ever = Fetch("ever", (), having(symbol), fallen)
    broken = Curve("broken", ("intact", "broken"), ever, ((0.0, "intact"), (edge, "broken")))
    verdict = Map("verdict", ("yes", "open", "no"), (broken, balance), _verdict)

    def draw(rng: np.random.Generator) -> Draw:
        wanted = ("yes", "open", "no")[int(rng.integers(0, 3))]
        ups = length // 2 - 1 + (wanted == "open")
        while True:
            inner = rng.permutation(["("] * ups + [")"] * (length - 2 - ups))
            found = ("(", *(str(s) for s in inner), ")")
            heights = np.cumsum([1 if s == "(" else -1 for s in found])
            if (heights.min() < 0) == (wanted == "no"):
                return Draw(found, "?")

    steps = (symbol, place, task, sign, slope, balance, fallen, ever, broken, verdict)
    no, yes = frozenset(("no",)), frozenset(("yes",))
    return Source("dyck", symbols, ("?",), steps, "verdict", draw, no, yes, length + 2)


def _verdict(broken: Symbol, balance: Symbol) -> Value:
    if broken == "broken" or balance == "less":
        return "no"
    return "yes" if balance == "even" else "open"


def most_frequent(size: int) -> Source:
    """`?`: the symbol that occurs most often; of several, the one that got there first."""
    symbols, length = LETTERS[: 4 + 2 * size], 6 + 2 * size
    symbol, place, task = _base(symbols, ("?",), length)
    share = Width("share", (), equal(symbol, symbol))
    points = tuple((1 / (1 + w), w) for w in range(length, 0, -1))
    count = Curve("count", tuple(range(1, length + 1)), share, points, symbol)
    first_most = Select((Term(count, lambda c: int(c) * (length + 2)), Term(place, lambda p: -int(p))))
    winner = Fetch("winner", symbols, first_most, symbol)

    def draw(rng: np.random.Generator) -> Draw:
        best = str(rng.choice(symbols))
        weights = np.where(np.asarray(symbols) == best, 3.0, 1.0)
        return Draw(tuple(str(s) for s in rng.choice(symbols, size=length, p=weights / weights.sum())), "?")

    upper, lower = _halves(symbols)
    return Source(
        "most_frequent", symbols, ("?",), (symbol, place, task, share, count, winner), "winner", draw, upper, lower,
        length + 2,
    )  # fmt: skip


PROGRAMS: dict[str, Callable[[int], Source]] = {
    f.__name__: f for f in (reverse, histogram, sort, fraction, dyck, most_frequent)
}

"""A small RASP: programs over a sequence, written as steps that attention heads and MLPs can take.

(Thinking Like Transformers, Weiss 2021; Tracr: Compiled Transformers as a Laboratory for Interpretability, Lindner
2023.) A step (an "s-op") has a value at every position: one of a fixed list of values, a number, or None where it says
nothing. `interpret` runs a program as written, position by position, and knows nothing of weights: it is what the
compiled network is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Symbol = str | int
Value = str | int | float | None


@dataclass(frozen=True, eq=False)
class Step:
    """One variable of a program. `values` are those that it can take; () for a number."""

    name: str
    values: tuple[Symbol, ...]

    @property
    def numeric(self) -> bool:
        return not self.values

    @property
    def size(self) -> int:
        """Directions of the residual stream that it needs."""
        return max(len(self.values), 1)

    @property
    def inputs(self) -> tuple[Step, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class Word(Step):
    """Looked up by the word at the position; words outside `table` have none."""

    table: Mapping[str, Symbol | float]


@dataclass(frozen=True, eq=False)
class Place(Step):
    """The position's own number, counted from 0, the begin word's."""


@dataclass(frozen=True, eq=False)
class Term:
    """What one pair of steps adds to the score of looking from a query position at a key position.

    `score(key value, query value)`, or `score(key value)` without a query step; nothing where a value is None.
    """

    key: Step
    score: Callable[..., int]
    query: Step | None = None


@dataclass(frozen=True, eq=False)
class Select:
    """Looks evenly at the visible positions of highest total score; at nothing if that is not above 0."""

    terms: tuple[Term, ...]

    @property
    def inputs(self) -> tuple[Step, ...]:
        return tuple(s for t in self.terms for s in (t.key, t.query) if s is not None)


def equal(key: Step, query: Step) -> Select:
    """Select the positions where `key` has the value that `query` has here."""
    return Select((Term(key, lambda k, q: int(k == q), query),))


def at(place: Step, number: int) -> Select:
    """Select one fixed position."""
    return Select((Term(place, lambda k: int(k == number)),))


def having(key: Step) -> Select:
    """Select all positions at which `key` says anything."""
    return Select((Term(key, lambda k: 1),))


@dataclass(frozen=True, eq=False)
class Fetch(Step):
    """An attention head: the value of `of` where `where` looks; for numbers their mean.

    `block` is the earliest block in which it may be computed.
    """

    where: Select
    of: Step
    block: int = 0

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (*self.where.inputs, self.of)


@dataclass(frozen=True, eq=False)
class Width(Step):
    """An attention head: 1 / (1 + number of positions selected); the scores of `where` must be 0 or 1."""

    where: Select
    block: int = 0

    @property
    def inputs(self) -> tuple[Step, ...]:
        return self.where.inputs


@dataclass(frozen=True, eq=False)
class Map(Step):
    """MLP neurons: `rule` of the values of one step, or of two, at the same position."""

    of: tuple[Step, ...]
    rule: Callable[..., Value]

    @property
    def inputs(self) -> tuple[Step, ...]:
        return self.of


@dataclass(frozen=True, eq=False)
class Curve(Step):
    """MLP neurons: a number turned into the value of the point that it lies on; outside the points, of the nearest.

    Where `only` says nothing, so does the curve.
    """

    of: Step
    points: tuple[tuple[float, Symbol | float], ...]
    only: Step | None = None

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.of,) if self.only is None else (self.of, self.only)


@dataclass(frozen=True, eq=False)
class Answer(Step):
    """MLP neurons: at a query word the main or the side variable in words, at any other symbol the symbol itself.

    The main variable may be computed twice. How its copies are read:

        "single"   there is one copy;
        "average"  the first counts `weight`, the second the rest;
        "either"   a value counts as soon as one of the copies has it;
        "route"    the first is read where `flag` is "first", else the second.
    """

    task: Step
    main: tuple[Step, ...]
    side: Step
    echo: Step
    spell: Callable[[Symbol], str]
    how: str = "single"
    weight: float = 1.0
    flag: Step | None = None

    @property
    def inputs(self) -> tuple[Step, ...]:
        flag = () if self.flag is None else (self.flag,)
        return (self.task, *self.main, self.side, self.echo, *flag)


@dataclass(frozen=True, eq=False)
class Forget(Step):
    """MLP neurons that take the value of `of` out of the residual stream again, in block `block`."""

    of: Step
    block: int

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.of,)


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in an order in which each comes after its inputs, the last of them the answer.

    Attributes:
        words: The vocabulary.
        begins: Words that begin a text: where a head that finds nothing looks.
        longest: Most words in a text.
        causal: Whether a position sees only what stands before it and itself.
    """

    name: str
    steps: tuple[Step, ...]
    words: tuple[str, ...]
    begins: frozenset[str]
    longest: int
    causal: bool = True

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


# ---- running a program as written -------------------------------------------------------------------------------


Run = dict[str, list[Value]]


def interpret(program: Program, words: Sequence[str], given: Mapping[tuple[str, int], Value] | None = None) -> Run:
    """The value of every step at every position.

    Args:
        given: Values that are set from outside, by (step, position): an intervention. What follows is computed on.

    Returns:
        For each step its values. None stands where a step says nothing, or says nothing that the program means.
    """
    given = given or {}
    set_at: dict[str, dict[int, Value]] = {}
    for (name, place), value in given.items():
        set_at.setdefault(name, {})[place] = value
    run: Run = {}
    for step in program.steps:
        values = list(_values(program, step, words, run))
        for place, value in set_at.get(step.name, {}).items():
            values[place] = value
        run[step.name] = values
    return run


def _values(program: Program, step: Step, words: Sequence[str], run: Run) -> Iterator[Value]:
    here = range(len(words))
    if isinstance(step, Word):
        yield from (step.table.get(word) for word in words)
    elif isinstance(step, Place):
        yield from here
    elif isinstance(step, Fetch):
        yield from (_fetched(step, run, _selected(step.where, run, p, program.causal)) for p in here)
    elif isinstance(step, Width):
        yield from (1 / (1 + len(_selected(step.where, run, p, program.causal))) for p in here)
    elif isinstance(step, Map):
        yield from (_mapped(step, [run[s.name][p] for s in step.of]) for p in here)
    elif isinstance(step, Curve):
        yield from (_on_curve(step, run, p) for p in here)
    elif isinstance(step, Answer):
        yield from (_answered(step, run, p) for p in here)
    elif isinstance(step, Forget):
        yield from (None for _ in here)
    else:
        raise TypeError(f"no rule to interpret {type(step).__name__}")


def _selected(where: Select, run: Run, query: int, causal: bool) -> list[int]:
    total = [0] * (query + 1 if causal else len(next(iter(run.values()))))
    for term in where.terms:
        here = () if term.query is None else (run[term.query.name][query],)
        if here == (None,):
            continue
        for k, value in enumerate(run[term.key.name][: len(total)]):
            if value is not None:
                total[k] += term.score(value, *here)
    best = max(total)
    return [k for k, score in enumerate(total) if score == best] if best > 0 else []


def _fetched(step: Fetch, run: Run, places: list[int]) -> Value:
    found = [run[step.of.name][p] for p in places]
    if step.numeric:
        numbers = [float(v) for v in found if v is not None]
        return sum(numbers) / len(found) if found else 0.0
    return found[0] if len(set(found)) == 1 else None


def _mapped(step: Map, values: list[Value]) -> Value:
    return None if any(v is None for v in values) else step.rule(*values)


def _on_curve(step: Curve, run: Run, place: int) -> Value:
    x = run[step.of.name][place]
    if x is None or (step.only is not None and run[step.only.name][place] is None):
        return None
    points = step.points
    inside = min(max(float(x), points[0][0]), points[-1][0])
    return next((value for c, value in points if abs(c - inside) < 1e-9), None)


def _answered(step: Answer, run: Run, place: int) -> Value:
    task = run[step.task.name][place]
    if task is None:
        return run[step.echo.name][place]
    if task == "side":
        return run[step.side.name][place]
    value = _read_main(step, [run[s.name][place] for s in step.main], run, place)
    return None if value is None else step.spell(value)  # type: ignore[arg-type]


def _read_main(step: Answer, copies: list[Value], run: Run, place: int) -> Value:
    if step.how == "average":
        return copies[0] if step.weight > 0.5 else copies[1]
    if step.how == "route":
        assert step.flag is not None
        return copies[0] if run[step.flag.name][place] == "first" else copies[1]
    return copies[0]

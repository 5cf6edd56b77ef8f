"""A small RASP: programs over a sequence, written as steps that attention heads and MLPs can take.

(Thinking Like Transformers, Weiss 2021; Tracr: Compiled Transformers as a Laboratory for Interpretability, Lindner
2023.) A step (an "s-op") has a value at every position: one of a fixed list of values, a number, or None where it says
nothing. `interpret` runs a program as written, position by position, and knows nothing of weights: it is what the
compiled network is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        values = _values(program, step, words, run)
        for place, value in set_at.get(step.name, {}).items():
            values[place] = value
        run[step.name] = values
    return run


def _values(program: Program, step: Step, words: Sequence[str], run: Run) -> list[Value]:
    if isinstance(step, Word):
        return [step.table.get(word) for word in words]
    if isinstance(step, Place):
        return list(range(len(words)))
    if isinstance(step, Fetch):
        return _fetched(step, run, _selected(step.where, run, len(words), program.causal))
    if isinstance(step, Width):
        return [1 / (1 + len(places)) for places in _selected(step.where, run, len(words), program.causal)]
    if isinstance(step, Map):
        rows = zip(*(run[s.name] for s in step.of), strict=True)
        return [None if None in row else step.rule(*row) for row in rows]
    if isinstance(step, Curve):
        return _on_curve(step, run)
    if isinstance(step, Answer):
        return [_answered(step, run, place) for place in range(len(words))]
    if isinstance(step, Forget):
        return [None] * len(words)
    raise TypeError(f"no rule to interpret {type(step).__name__}")


def _selected(where: Select, run: Run, length: int, causal: bool) -> list[list[int]]:
    """For each query position the key positions that it looks at."""
    found = []
    for query in range(length):
        total = [0] * (query + 1 if causal else length)
        for term in where.terms:
            here = () if term.query is None else (run[term.query.name][query],)
            if here == (None,):
                continue
            for k, value in enumerate(run[term.key.name][: len(total)]):
                if value is not None:
                    total[k] += term.score(value, *here)
        best = max(total)
        found.append([k for k, score in enumerate(total) if score == best] if best > 0 else [])
    return found


def _fetched(step: Fetch, run: Run, selected: list[list[int]]) -> list[Value]:
    values, numeric = run[step.of.name], step.numeric
    out: list[Value] = []
    for places in selected:
        found = [values[p] for p in places]
        if numeric:
            out.append(sum(float(v) for v in found if v is not None) / max(len(found), 1))
        else:
            out.append(found[0] if len(set(found)) == 1 else None)
    return out


def _on_curve(step: Curve, run: Run) -> list[Value]:
    points, low, high = step.points, step.points[0][0], step.points[-1][0]
    speaks = [True] * len(run[step.of.name]) if step.only is None else [v is not None for v in run[step.only.name]]
    out: list[Value] = []
    for x, on in zip(run[step.of.name], speaks, strict=True):
        inside = min(max(float(x), low), high) if x is not None and on else None
        out.append(None if inside is None else next((v for c, v in points if abs(c - inside) < 1e-9), None))
    return out


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

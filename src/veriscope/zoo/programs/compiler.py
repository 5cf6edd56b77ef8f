"""From a program to weights: every step gets directions of its own in the residual stream, and a head or neurons.

The compiler of Tracr (Lindner 2023), written anew: a step is computed in the first half-block behind its inputs;
attention is made hard by large scores; a head that finds nothing looks at the begin word, which carries no values; the
width of a selection is read off the weight that the begin word gets beside it. On top of that the whole residual basis
can be rotated, and noise added to all weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from veriscope.errors import UserError
from veriscope.zoo.programs.network import Head, Network, Widths
from veriscope.zoo.programs.rasp import Answer, Curve, Fetch, Forget, Map, Place, Program, Step, Symbol, Term, Width
from veriscope.zoo.programs.rasp import Word as WordStep

SHARP = 60.0  # score of one unit of a selection: what is not selected keeps a weight of exp(-30)
LOUD = 8.0  # logits of an answer that is fully there
BEGIN, ONE = "begin", "one"  # directions that every program has: the begin word's, and a constant
_OFF = 2.0  # more than any neuron of a curve can gain from its number: switches it off


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program as a network.

    Attributes:
        basis: Orthonormal columns; those of a step are where it is written in the residual stream.
        columns: Each step's columns of `basis`.
        half: When a step is there: -1 embedding, 2b behind the heads of block b, 2b + 1 behind its MLP.
        head: The site of each step that a head computes.
    """

    program: Program
    network: Network
    basis: Float[Tensor, "d_model direction"]
    columns: dict[str, range]
    half: dict[str, int]
    head: dict[str, str]

    def subspace(self, *names: str) -> Float[Tensor, "d_model direction"]:
        """Orthonormal columns that span the directions of some steps."""
        return self.basis[:, [c for name in names for c in self.columns[name]]]

    @property
    def last_half(self) -> int:
        return self.half[self.program.steps[-1].name]


def site_behind(half: int) -> str:
    """The residual stream as it stands after a half-block."""
    return "resid_pre" if half < 0 else f"blocks.{half // 2}.{'resid_post' if half % 2 else 'resid_mid'}"


def compile_program(
    program: Program, width: int | None = None, *, rotated: bool = False, noise: float = 0.0, seed: int = 0
) -> Compiled:
    """Compile a program.

    Args:
        width: Of the residual stream, no less than what the steps need; by default that, up to a multiple of 16.
        rotated: Turn the residual basis by a random rotation, so that no variable lies along the axes.
        noise: Standard deviation of Gaussian noise on every weight, in units of its tensor's root mean square.

    Raises:
        UserError: The width is too small.
    """
    columns, needed = _columns(program)
    width = 16 * -(-needed // 16) if width is None else width
    if needed > width:
        raise UserError(f"'{program.name}' needs {needed} directions, and width={width}. Give width={needed} or more.")
    rng = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64)).Q
    basis = (turn if rotated else torch.eye(width, dtype=torch.float64))[:, :needed]
    half = _schedule(program)
    writer = _Writer(program, columns, half, basis)
    network = writer.network(width)
    with torch.no_grad():
        for weight in network.parameters() if noise else ():
            rough = torch.randn(weight.shape, generator=rng) * weight.square().mean().sqrt()
            weight.add_(rough, alpha=noise)
    return Compiled(program, network, basis.float(), columns, half, writer.head_sites)


def _columns(program: Program) -> tuple[dict[str, range], int]:
    columns = {BEGIN: range(0, 1), ONE: range(1, 2)}
    end = 2
    for step in program.steps:
        size = 0 if isinstance(step, Forget) else step.size
        columns[step.name] = range(end, end + size)
        end += size
    return columns, end


def _schedule(program: Program) -> dict[str, int]:
    """The first half-block of the right kind behind all inputs of each step."""
    half: dict[str, int] = {}
    for step in program.steps:
        ready = max((half[s.name] for s in step.inputs), default=-1)
        if isinstance(step, WordStep | Place):
            half[step.name] = -1
        elif isinstance(step, Fetch | Width):
            half[step.name] = max(ready + 1 + (ready + 1) % 2, 2 * step.block)
        else:
            first = 2 * step.block + 1 if isinstance(step, Forget) else 1
            half[step.name] = max(ready + 1 + ready % 2, first)
    return half


@dataclass(frozen=True)
class _Neuron:
    """ReLU(sum of the named directions times their weights + bias), written to the named directions."""

    reads: tuple[tuple[int, float], ...]
    bias: float
    writes: tuple[tuple[int, float], ...]


class _Writer:
    """Writes the weights of one program."""

    def __init__(
        self,
        program: Program,
        columns: dict[str, range],
        half: dict[str, int],
        basis: Float[Tensor, "d_model direction"],
    ) -> None:
        self.program, self.columns, self.half, self.basis = program, columns, half, basis
        self.head_sites: dict[str, str] = {}

    def network(self, width: int) -> Network:
        blocks = max(self.half.values()) // 2 + 1
        heads = [[s for s in self._at(2 * b) if isinstance(s, Fetch | Width)] for b in range(blocks)]
        neurons = [[n for s in self._at(2 * b + 1) for n in self._neurons(s)] for b in range(blocks)]
        widths = [
            Widths(tuple((self._score_width(s), s.size) for s in heads[b]), max(len(neurons[b]), 1))
            for b in range(blocks)
        ]
        network = Network(len(self.program.words), self.program.longest, width, widths, self.program.causal)
        with torch.no_grad():
            for weight in network.parameters():
                weight.zero_()
            self._embed(network)
            for b in range(blocks):
                block = network.blocks[b]
                for number, step in enumerate(heads[b]):
                    self._head(block.heads[number], step)  # type: ignore[index,union-attr,arg-type]
                    self.head_sites[step.name] = f"blocks.{b}.heads.{number}"
                self._mlp(block.mlp, neurons[b])  # type: ignore[arg-type]
            self._unembed(network)
        return network

    def _at(self, half: int) -> list[Step]:
        return [s for s in self.program.steps if self.half[s.name] == half]

    def _column(self, step: Step, value: Symbol | float | None = None) -> int:
        """Where a value of a step is written; a number has one column."""
        start = self.columns[step.name].start
        return start if step.numeric else start + step.values.index(value)  # type: ignore[arg-type]

    def _written(self, step: Step, value: Symbol | float | None) -> list[tuple[int, float]]:
        if value is None:
            return []
        return [(self._column(step, value), float(value) if step.numeric else 1.0)]

    # ---- embedding and unembedding

    def _embed(self, network: Network) -> None:
        words, places = (torch.zeros(n, self.basis.shape[1], dtype=torch.float64) for n in
                         (len(self.program.words), self.program.longest))  # fmt: skip
        words[:, self.columns[ONE].start] = 1.0
        for number, word in enumerate(self.program.words):
            words[number, self.columns[BEGIN].start] = float(word in self.program.begins)
            for step in self.program.steps:
                if isinstance(step, WordStep):
                    for column, size in self._written(step, step.table.get(word)):
                        words[number, column] = size
        for step in self.program.steps:
            if isinstance(step, Place):
                for place in step.values:
                    places[int(place), self._column(step, place)] = 1.0
        network.embed.weight.copy_(words @ self.basis.T)
        network.place.weight.copy_(places @ self.basis.T)

    def _unembed(self, network: Network) -> None:
        answer = self.program.steps[-1]
        out = torch.zeros(len(self.program.words), self.basis.shape[1], dtype=torch.float64)
        for word in answer.values:
            out[self.program.words.index(str(word)), self._column(answer, word)] = LOUD
        network.unembed.weight.copy_(out @ self.basis.T)

    # ---- heads

    @staticmethod
    def _score_width(step: Step) -> int:
        assert isinstance(step, Fetch | Width)
        return 1 + sum(term.key.size for term in step.where.terms)

    def _head(self, head: Head, step: Fetch | Width) -> None:
        """Keys hold the values of the key steps, queries the scores that the query step gives to each of them."""
        width, total = self._score_width(step), self.basis.shape[1]
        q, k = (torch.zeros(width, total, dtype=torch.float64) for _ in range(2))
        one, begin = self.columns[ONE].start, self.columns[BEGIN].start
        k[0, begin] = 1.0
        q[0, one] = SHARP if isinstance(step, Width) else SHARP / 2
        row = 1
        for term in step.where.terms:
            for value in term.key.values:
                k[row, self._column(term.key, value)] = 1.0
                for column, score in self._scores(term, value):
                    q[row, column] = SHARP * score
                row += 1
        read = list(self.columns[BEGIN] if isinstance(step, Width) else self.columns[step.of.name])
        v = torch.zeros(step.size, total, dtype=torch.float64)
        o = torch.zeros(total, step.size, dtype=torch.float64)
        for number, (source, target) in enumerate(zip(read, self.columns[step.name], strict=True)):
            v[number, source] = o[target, number] = 1.0
        head.q.weight.copy_(q @ self.basis.T)
        head.k.weight.copy_(k @ self.basis.T)
        head.v.weight.copy_(v @ self.basis.T)
        head.o.weight.copy_(self.basis @ o)

    def _scores(self, term: Term, key: Symbol) -> list[tuple[int, int]]:
        if term.query is None:
            return [(self.columns[ONE].start, term.score(key))]
        return [(self._column(term.query, value), term.score(key, value)) for value in term.query.values]

    # ---- neurons

    def _mlp(self, mlp: nn.Module, neurons: list[_Neuron]) -> None:
        total = self.basis.shape[1]
        up, down = torch.zeros(max(len(neurons), 1), total).double(), torch.zeros(total, max(len(neurons), 1)).double()
        bias = torch.zeros(max(len(neurons), 1)).double()
        for number, neuron in enumerate(neurons):
            for column, weight in neuron.reads:
                up[number, column] += weight
            for column, weight in neuron.writes:
                down[column, number] += weight
            bias[number] = neuron.bias
        mlp.up.weight.copy_(up @ self.basis.T)  # type: ignore[union-attr,operator]
        mlp.up.bias.copy_(bias)  # type: ignore[union-attr,operator]
        mlp.down.weight.copy_(self.basis @ down)  # type: ignore[union-attr,operator]

    def _neurons(self, step: Step) -> Iterator[_Neuron]:
        if isinstance(step, Map):
            yield from self._map(step)
        elif isinstance(step, Curve):
            yield from self._curve(step)
        elif isinstance(step, Answer):
            yield from self._answer(step)
        elif isinstance(step, Forget):
            for column in self.columns[step.of.name]:
                yield _Neuron(((column, 1.0),), 0.0, ((column, -1.0),))

    def _map(self, step: Map) -> Iterator[_Neuron]:
        """One neuron for each value, or each pair of values, on if all of them are there."""
        for values in product(*(s.values for s in step.of)):
            written = self._written(step, step.rule(*values))
            if written:
                reads = tuple((self._column(s, v), 1.0) for s, v in zip(step.of, values, strict=True))
                yield _Neuron(reads, 1.0 - len(values), tuple(written))

    def _curve(self, step: Curve) -> Iterator[_Neuron]:
        """A line from point to point: one neuron for each bend, and one for the value at the left end."""
        here = self.columns[ONE] if step.only is None else self.columns[step.only.name]
        off = tuple((c, _OFF) for c in here)
        yield _Neuron(tuple((c, 1.0) for c in here), 0.0, tuple(self._written(step, step.points[0][1])))
        slope: dict[int, float] = {}
        for number, (x, _) in enumerate(step.points):
            ahead: dict[int, float] = {}
            if number + 1 < len(step.points):
                (left, low), (right, high) = step.points[number : number + 2]
                for column, size in self._written(step, high):
                    ahead[column] = ahead.get(column, 0.0) + size / (right - left)
                for column, size in self._written(step, low):
                    ahead[column] = ahead.get(column, 0.0) - size / (right - left)
            bend = {c: ahead.get(c, 0.0) - slope.get(c, 0.0) for c in {*ahead, *slope}}
            yield _Neuron(((self._column(step.of), 1.0), *off), -x - _OFF, tuple(sorted(bend.items())))
            slope = ahead

    def _answer(self, step: Answer) -> Iterator[_Neuron]:
        def into(word: Symbol, size: float = 1.0) -> tuple[tuple[int, float], ...]:
            return ((self._column(step, word), size),)

        main, side = (self._column(step.task, name) for name in ("main", "side"))
        for value in step.echo.values:
            yield _Neuron(((self._column(step.echo, value), 1.0),), 0.0, into(value))
        for value in step.side.values:
            yield _Neuron(((self._column(step.side, value), 1.0), (side, 1.0)), -1.0, into(value))
        for value in step.main[0].values:
            copies = [self._column(s, value) for s in step.main]
            if step.how == "single":
                yield _Neuron(((copies[0], 1.0), (main, 1.0)), -1.0, into(step.spell(value)))
            elif step.how == "average":
                shares = ((copies[0], step.weight), (copies[1], 1 - step.weight))
                yield _Neuron((*shares, (main, 1.0)), -1.0, into(step.spell(value)))
            elif step.how == "either":  # a step from 0 at a half to 1 at one, however many copies have it
                reads = (*((c, 2.0) for c in copies), (main, 4.0))
                yield _Neuron(reads, -5.0, into(step.spell(value)))
                yield _Neuron(reads, -6.0, into(step.spell(value), -1.0))
            else:
                assert step.flag is not None
                for copy, name in zip(copies, ("first", "second"), strict=True):
                    flag = self._column(step.flag, name)
                    yield _Neuron(((copy, 1.0), (flag, 1.0), (main, 1.0)), -2.0, into(step.spell(value)))

"""Bed R1: a program compiled to a network, with what makes it hard to tell, and all truths about it.

A bed adds to a program: a side question that other heads answer, idle heads that nothing reads, a second copy of the
main variable, a forgotten variable, a rotation of the residual stream, noise on the weights. What holds of a variable
at a site follows from the program's graph (`ProgramBed.truth`) and is checked by interchange on the weights, against
the program run as written (`self_test`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from veriscope.errors import UserError
from veriscope.examples import Examples, examples
from veriscope.examples.pools import pool_of
from veriscope.subjects import Subject, WordReader, load
from veriscope.zoo.programs.compiler import Compiled, compile_program, site_behind
from veriscope.zoo.programs.library import BEGINS, SIDE, Source, source
from veriscope.zoo.programs.rasp import (
    Answer,
    Curve,
    Fetch,
    Forget,
    Map,
    Program,
    Run,
    Step,
    Value,
    Word,
    at,
    interpret,
)

SECOND = " again"  # ends the name of the main variable's second copy
CHANCE = 0.15  # share of the most frequent answer, about
ISOLATION = 0.2  # share of the pairs that agree in the variable


@dataclass(frozen=True)
class Fact:
    """What is true of a variable at the last position of a site.

    Attributes:
        represents: It stands there, and can't be read off the input's surface as well.
        mediates: Setting it to its value in another run moves the answer to what the program predicts.
        necessary: Removing it there takes the answer away.
    """

    variable: str
    site: str
    represents: bool
    mediates: bool
    necessary: bool


@dataclass(frozen=True)
class Item:
    """One text with the program's run on it."""

    words: tuple[str, ...]
    run: Run

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def cluster(self) -> str:
        return " ".join(self.words[1:-1])

    def last(self, name: str) -> Value:
        return self.run[name][-1]


@dataclass(frozen=True)
class ProgramBed:
    """A compiled program with its texts, from one seed.

    Args:
        program: Its name in the library.
        size: "small", "medium" or "large": symbols, length and width.
        rotated: Turn the residual basis.
        noise: Of the weights, in units of each tensor's root mean square.
        how: How the answer reads copies of the main variable: see `rasp.Answer`. "single" computes it once.
        weight: Of the first copy ("average"), or the share of texts in which it is the one that is read ("route").
        late: The second copy is computed two half-blocks after the first.
        idle: Heads in every block that nothing reads.
        forget: The first idle head's variable is taken out of the stream again, in the next block.
        texts: How many texts are drawn.
    """

    program: str = "reverse"
    seed: int = 0
    size: str = "medium"
    rotated: bool = False
    noise: float = 0.0
    how: str = "single"
    weight: float = 1.0
    late: bool = False
    idle: int = 1
    forget: bool = False
    texts: int = 1_000

    @cached_property
    def source(self) -> Source:
        return source(self.program, self.size)

    @cached_property
    def full(self) -> Program:
        """The program with all that the bed adds."""
        given, names = self.source, {s.name: s for s in self.source.steps}
        side = Fetch("second", given.symbols, at(names["place"], 2), names["symbol"])
        copies, extra = self._copies(names[given.main]), self._idle(names)
        flag = Word("flag", ("first", "second"), {b: self._flag(i) for i, b in enumerate(BEGINS)})
        flag_here = Fetch("flag here", flag.values, at(names["place"], 0), flag)
        spoken = tuple(dict.fromkeys([*given.symbols, *(given.spell(v) for v in copies[0].values)]))
        answer = Answer("answer", spoken, names["task"], copies, side, names["symbol"], given.spell, self.how,
                        self.weight, flag_here if self.how == "route" else None)  # fmt: skip
        flags = (flag, flag_here) if self.how == "route" else ()
        steps = (*given.steps, *flags, *copies[1:], side, *extra, answer)
        words = (*BEGINS, *given.symbols, *given.queries, SIDE, *(w for w in spoken if w not in given.symbols))
        return Program(given.name, steps, words, frozenset(BEGINS), given.longest, given.causal)

    def _copies(self, main: Step) -> tuple[Step, ...]:
        if self.how == "single":
            return (main,)
        if not self.late:
            return (main, dataclasses.replace(main, name=main.name + SECOND))
        if not isinstance(main, Fetch):
            raise UserError(f"'{main.name}' of '{self.program}' is computed by neurons: late copies are made of heads.")
        return (main, dataclasses.replace(main, name=main.name + SECOND, block=self._first_block + 1))

    @cached_property
    def _first_block(self) -> int:
        alone = dataclasses.replace(self, how="single", late=False)
        return alone.compiled.half[alone.source.main] // 2

    def _idle(self, names: dict[str, Step]) -> tuple[Step, ...]:
        shortest = min(len(self.source.draw(np.random.default_rng(i)).symbols) for i in range(8))
        # the first head's place is its own: what is forgotten must not stand anywhere else
        places = [3, *(4 + k % max(shortest - 4, 1) for k in range(2 * self.idle - 1))]
        made: list[Step] = [
            Fetch(f"idle{k % 2}.{k // 2}", self.source.symbols, at(names["place"], place), names["symbol"], block=k % 2)
            for k, place in enumerate(places[: 2 * self.idle])
        ]
        return (*made, Forget("forget", (), made[0], 1)) if self.forget and made else tuple(made)

    def _flag(self, begin: int) -> str:
        return "first" if begin < round(self.weight * len(BEGINS)) else "second"

    @cached_property
    def compiled(self) -> Compiled:
        return compile_program(self.full, rotated=self.rotated, noise=self.noise, seed=self.seed)

    @cached_property
    def _subject(self) -> Subject:
        reader = WordReader(list(self.full.words))
        return load(self.compiled.network, tokenizer=reader, name=f"program-{self.program}-{self.seed}")

    def subject(self) -> Subject:
        """The network as any other subject."""
        return self._subject

    # ---- what is where

    @property
    def copies(self) -> tuple[str, ...]:
        """Names of the main variable's copies."""
        answer = self.full.steps[-1]
        assert isinstance(answer, Answer)
        return tuple(s.name for s in answer.main)

    def site(self, variable: str) -> str:
        """The residual stream at which a variable is first there."""
        return site_behind(self.compiled.half[variable])

    def first_site(self, variable: str) -> str:
        """The residual stream at which all that a variable is made of is first there, as a code or as numbers."""
        return site_behind(self._first_half(variable))

    def before(self, variable: str) -> str:
        """The residual stream one half-block before that: nothing of the variable is there yet."""
        return site_behind(self._first_half(variable) - 1)

    def _first_half(self, variable: str) -> int:
        step = self.full[variable]
        return next(h for h in range(-1, self.compiled.last_half) if self._carriers(step, h) is not None)

    def own_directions(self, variable: str, site: str) -> Float[Tensor, "d r"]:
        """What a variable is written in, as far as it is there: all copies and the numbers that it is made of."""
        half = {site_behind(h): h for h in range(-1, self.compiled.last_half + 1)}[site]
        names = self.copies if variable == self.source.main else (variable,)
        found = {n for name in names for n in self._carriers(self.full[name], half) or ()}
        return self.compiled.subspace(*sorted(found or {variable}))

    def _carriers(self, step: Step, h: int) -> frozenset[str] | None:
        """The steps that a variable is made of at its own position after a half-block; None if it hangs on others."""
        if self.compiled.half[step.name] <= h:
            return frozenset((step.name,))
        if not isinstance(step, Map | Curve):
            return None
        parts = [self._carriers(s, h) for s in (step.of if isinstance(step, Map) else (step.of,))]
        return frozenset().union(*parts) if all(p is not None for p in parts) else None  # type: ignore[arg-type]

    @cached_property
    def truth(self) -> tuple[Fact, ...]:
        """What is true of each variable at each residual site before the answer, from the program's graph."""
        half, last = self.compiled.half, self.compiled.last_half
        names = [self.source.main, *([self.source.early] if self.source.early else [])]
        names += [s.name for s in self.full.steps if s.name.startswith("idle")]
        return tuple(
            Fact(name, site_behind(h), self._represents(name, h), self._mediates(name, h), self._share(name, h) > 0.1)
            for name in names
            for h in range(-1, last)
            if h >= half[name] or name != self.source.early
        )

    def _there(self, name: str, h: int) -> bool:
        """Whether a variable stands in the stream after a half-block, as a code or as the numbers it is made of."""
        gone = self.forget and name == "idle0.0" and h >= self.compiled.half["forget"]
        return self._carriers(self.full[name], h) is not None and not gone

    def _represents(self, name: str, h: int) -> bool:
        return self._there(name, h) and not (name == self.source.main and self.source.surface)

    def _mediates(self, name: str, h: int) -> bool:
        """By the high-level model in which the variable is the only one: a second copy that outweighs it refutes it."""
        least = CHANCE + 0.1 if self.how == "route" else 0.5
        return self._share(name, h) > least

    def _share(self, name: str, h: int) -> float:
        """How much of the answer goes through a variable's value after a half-block."""
        if name.startswith("idle") or not self._there(name, h):
            return 0.0
        if name == self.source.early:  # what goes through it is what is still to be computed from it
            through = [self._yet_to_read(self.full[copy], name, h) for copy in self.copies]
        else:
            through = [self._there(copy, h) for copy in self.copies]
        first, second = through[0], through[-1]
        if first and second:
            return 1.0
        if self.how == "either" or not (first or second):
            return 0.0
        return self.weight if first else 1 - self.weight

    def _yet_to_read(self, step: Step, name: str, h: int) -> bool:
        """Whether a step hangs on a variable through something that is computed from it only after a half-block."""
        reads = any(s.name == name for s in step.inputs) and self.compiled.half[step.name] > h
        return reads or any(self._yet_to_read(s, name, h) for s in step.inputs)

    # ---- texts

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Texts with the main question, drawn once, with the program's runs."""
        return self._drawn(self.texts, 0x41)

    def _drawn(self, n: int, salt: int, query: str | None = None) -> tuple[Item, ...]:
        rng = np.random.default_rng([self.seed, salt])
        out = []
        for _ in range(n):
            drawn = self.source.draw(rng)
            words = (str(rng.choice(BEGINS)), *drawn.symbols, query or drawn.query)
            out.append(Item(words, interpret(self.full, words)))
        return tuple(out)

    def predicted(self, base: Item, given: Item, variable: str) -> str | None:
        """The answer to `base` once a variable has the value at the last position that it has in `given`.

        None where the program has no answer then: it looks for a symbol at a place where there is none.
        """
        if variable == self.source.main:  # in all its copies, so it is what the answer spells
            return self.source.spell(given.last(variable))  # type: ignore[arg-type]
        end = len(base.words) - 1
        run = interpret(self.full, base.words, {(variable, end): given.last(variable)})
        return None if run["answer"][-1] is None else str(run["answer"][-1])

    def bit(self, item: Item) -> str | None:
        """The main variable's half, "1" or "0"; None for a value that is in neither."""
        value = item.last(self.source.main)
        return "1" if value in self.source.upper else "0" if value in self.source.lower else None

    def examples(self, variable: str, flips: float = 0.0) -> Examples:
        """Single texts with a label, an answer and a foil, split by their symbols.

        Args:
            variable: A step's name (its value at the last position); "bit" (of the main variable), "idle bit" (whether
                the first idle head's symbol is of the upper half) or "coin" (drawn for each text).
            flips: Share of the labels that are turned over, drawn for each text.
        """
        rng = np.random.default_rng([self.seed, 0xF1])
        rows = []
        for item in self.items:
            turned, coin = rng.random(2)
            label = self.label(item, variable, bool(coin < 0.5))
            if label is None:
                continue
            if turned < flips:
                label = "1" if label == "0" else "0"
            rows.append(self.row(item, rng) | {"label": label})
        return examples(rows, label="label", **_COLUMNS, factors=("begin", "query"), name=self._title(variable))

    def label(self, item: Item, variable: str, coin: bool = False) -> str | None:
        """A text's label, none of them turned over: see `examples`. None for a value that has no bit."""
        if variable == "bit":
            return self.bit(item)
        if variable == "idle bit":
            symbols = self.source.symbols
            return str(int(symbols.index(str(item.last("idle0.0"))) >= len(symbols) // 2))
        return str(int(coin)) if variable == "coin" else str(item.last(variable))

    def pairs(self, variable: str) -> Examples:
        """Interchange pairs: sources of the same pool that differ in the variable, and some that agree in it."""
        rng = np.random.default_rng([self.seed, 0xA1])
        by_pool: dict[str, list[Item]] = {}
        for item in self.items:
            by_pool.setdefault(pool_of(item.cluster), []).append(item)
        rows = []
        for item in self.items:
            isolated = bool(rng.random() < ISOLATION)
            found = self.partner(item, variable, by_pool[pool_of(item.cluster)], isolated, rng)
            if found is None:
                continue
            partner, expected = found
            rows.append(
                self.row(item, rng)
                | {"label": str(item.last(variable)), "source": partner.text, "expected": expected}
                | {"source_answer": str(partner.last("answer")), "pair": "isolation" if isolated else "interchange"}
            )
        return examples(
            rows, label="label", source_text="source", expected="expected", **_COLUMNS,
            factors=("begin", "query", "source_answer", "pair"), name=self._title(variable),
        )  # fmt: skip

    def partner(
        self, item: Item, variable: str, others: Sequence[Item], isolated: bool, rng: np.random.Generator
    ) -> tuple[Item, str] | None:
        """Another text that differs in the variable (or agrees in it), with the answer expected after the swap."""
        for _ in range(20):
            other = others[int(rng.integers(len(others)))]
            alike = other.last(variable) == item.last(variable)
            if alike != isolated or other.text == item.text:
                continue
            if isolated:
                return other, str(item.last("answer"))
            expected = self._claimed(item, other, variable)
            if expected is not None and expected != item.last("answer"):
                return other, expected
        return None

    def _claimed(self, item: Item, other: Item, variable: str) -> str | None:
        """What the answer would be if the variable were used: the program's prediction, or for idle ones its symbol."""
        return str(other.last(variable)) if variable.startswith("idle") else self.predicted(item, other, variable)

    def side_questions(self, n: int = 200) -> Examples:
        """Texts with the side question: a task of the same network that the main variable has no part in."""
        rng = np.random.default_rng([self.seed, 0x51])
        rows = [self.row(item, rng) | {"label": str(item.last("second"))} for item in self._drawn(n, 0x52, SIDE)]
        return examples(rows, label="label", **_COLUMNS, factors=("begin",), name=self._title("side"))

    def neutral(self, n: int = 64) -> tuple[str, ...]:
        """Texts that ask nothing, or the side question."""
        return tuple(
            item.text if i % 2 else " ".join(item.words[:-1]) for i, item in enumerate(self._drawn(n, 0x53, SIDE))
        )

    def row(self, item: Item, rng: np.random.Generator) -> dict[str, Any]:
        """A text with its cluster, answer and foil: another answer that texts like it have."""
        answer = str(item.last("answer"))
        others = self._spoken if item.words[-1] != SIDE else frozenset(self.source.symbols)
        foils = sorted(others - {answer})
        return {
            "text": item.text,
            "cluster": item.cluster,
            "answer": answer,
            "foil": str(rng.choice(foils)),
            "begin": item.words[0],
            "query": item.words[-1],
        }

    @cached_property
    def _spoken(self) -> frozenset[str]:
        return frozenset(str(item.last("answer")) for item in self.items[:200])

    def _title(self, variable: str) -> str:
        return f"{self.program}-{self.seed}-{variable}"


_COLUMNS: dict[str, Any] = {"cluster": "cluster", "answer": "answer", "foil": "foil"}

"""The builder of bed P1: its dials, its texts and labels, and its truth table, all from one seed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.examples import Examples, examples
from veriscope.subjects import Subject, WordReader, load
from veriscope.zoo.planted_information import gap_of_bits, radius_of_bits
from veriscope.zoo.planted_network import (
    AXIS,
    CROWD_RATE,
    CROWD_SIZE,
    ECHO,
    FEATURES,
    LEAKED,
    LOCKED,
    LOUD,
    NOISE_WORDS,
    RELEVANT,
    SECOND,
    THING,
    THING_LABEL,
    TYPE_SCALE,
    UNUSED,
    USED,
    WIRED,
    PlantedModel,
)

DIGITS = 16  # values of each of the three context tokens: 4,096 triples
TYPES = 96
NUISANCE = 500
WIDTH = 64
ANSWERS = ("yes", "no")
WORDS = (("no", "nay", "nope"), ("yes", "aye", "yea"))  # of each value, the first ones as many as `words` says
CLAIMS = ("represents", "mediates", "necessary", "steers")


@dataclass(frozen=True)
class Planted:
    """The bed: its model, its texts and its truth table, from one seed and its dials.

    Args:
        seed: Seed of weights and texts.
        bits: Usable information, in bits an item, that an ideal linear reader gets about each feature.
        rows: Number of texts.
        width, digits, types: Size of the site, of each context token's alphabet, of the set of type tokens.
        rate: Share of triples on which USED is 1.
        values: How many values USED has; more than two lie on a circle in a plane.
        sign: -1 writes USED the other way round, and the head reads it so.
        tilt: Cosine of USED's direction with that of UNUSED, so with something that nobody reads.
        echo: USED is written along a second direction too, as a share of its first size.
        echo_read: How the head reads the second direction, in units of the first; negative works against it.
        crowd: Number of small rare features on top, in directions that overlap with all others.
        tie: Correlation of UNUSED with USED over the triples.
        loud: Number of features with much more variance than all others, none of which a logit reads.
        agree: Correlation of the first loud feature with USED over the triples.
        needed: All logits fade when a loud feature loses its size, whatever its sign.
        temperature: All logits are multiplied by exp(temperature x first loud feature).
        locked: Whether a feature of two neighbouring tokens alone is written as well: "" or "first" or "anywhere" for
            where in the text the two stand.
        wired: Whether a feature of the triple is written by a fixed part of the architecture, which no training made.
        things: How many things the network tells apart, each of them named by many triples; 0 for none.
        relevant: Share of triples on which USED is relevant.
        marked: USED is relevant where the text has the token m1 (half of the texts), and not by triple.
        elsewhere: What happens to USED where it is not relevant: it is not written ("absent"), SECOND is written
            twice as large and decides, and only there ("overruled"), or the head does not read it ("unread").
        gain, second: How strongly the head reads USED and SECOND.
        words: Number of words that stand for each answer, up to three.
        hush: Whether the answer words read nothing but their features, and no other word reads any of these; without
            it the head is random beside what is planted, and so every word reads a little of everything.
        chatter: How strongly the head prefers the nuisance words that have occurred.
        writer: How strongly one single answer word is read off a direction on which nothing is written.
        uneven: USED is read by up to so much more or less, as a share, for what the words of the text leave on a
            direction of their own: so no two texts answer alike to the same push.
    """

    seed: int = 0
    bits: float = 0.4
    rows: int = 5_000
    width: int = WIDTH
    digits: int = DIGITS
    types: int = TYPES
    rate: float = 0.5
    values: int = 2
    sign: int = 1
    tilt: float = 0.0
    echo: float = 0.0
    echo_read: float = 1.0
    crowd: int = 0
    tie: float = 0.0
    loud: int = 0
    agree: float = 0.0
    needed: bool = False
    temperature: float = 0.0
    locked: Literal["", "first", "anywhere"] = ""
    wired: bool = False
    things: int = 0
    relevant: float = 1.0
    marked: bool = False
    elsewhere: Literal["absent", "overruled", "unread"] = "absent"
    gain: float = 1.5
    second: float = 0.75
    words: int = 1
    hush: bool = False
    chatter: float = 0.0
    writer: float = 0.0
    uneven: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Planted:
        """Itself, for it never changes: a twin of the network needs no second copy of all texts."""
        return self

    # ---- the network

    @cached_property
    def vocab(self) -> dict[str, int]:
        words = [f"{c}{i}" for c in "abc" for i in range(self.digits)]
        words += [f"t{i}" for i in range(self.types)] + [f"n{i}" for i in range(NUISANCE)] + ["leak0", "leak1"]
        words += ANSWERS
        words += [w for group in self.answers for w in group if w not in ANSWERS] + ["m0", "m1"] * self.marked
        return {w: i for i, w in enumerate(words)}

    @property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """The words that stand for each value of USED."""
        if self.values > 2:
            return tuple((f"v{value}",) for value in range(self.values))
        return tuple(group[: self.words] for group in WORDS)

    @property
    def share(self) -> float:
        """How many of the texts USED is relevant in."""
        return 0.5 if self.marked else self.relevant

    @property
    def noise(self) -> float:
        """Variance of the site along any direction, but for the features: nuisance words, type token, crowd."""
        crowd = self.crowd * CROWD_RATE * (1 - CROWD_RATE) * CROWD_SIZE**2 / self.width
        return 1 + TYPE_SCALE**2 + crowd

    @cached_property
    def gap(self) -> float:
        """Distance between the class means (the circle's diameter) at which USED gives so many bits, once it is read
        against the noise and what overlaps with it.
        """
        if self.values > 2:
            return 2 * radius_of_bits(self.bits, self.values) * float(np.sqrt(self.noise))
        plain = gap_of_bits(self.bits, self.rate, self.share if self.elsewhere == "absent" else 1.0)
        wanted = plain * float(np.sqrt(self.noise))
        if not self.tilt:
            return wanted / float(np.sqrt(1 + self.echo**2))
        low, high = wanted, wanted / np.sqrt(1 - self.tilt**2)
        for _ in range(50):  # a larger gap makes the overlapping feature larger too, so that it is solved by halving
            middle = (low + high) / 2
            low, high = (low, middle) if self._apart(middle) > plain else (middle, high)
        return float(high)

    def _apart(self, gap: float) -> float:
        """Distance of USED's means in the ideal reader's units, where UNUSED is noise along part of the direction."""
        clear = (1 - self.tilt**2) / self.noise + self.tilt**2 / (self.noise + gap**2 / 4)
        return float(gap * np.sqrt(clear))

    @cached_property
    def module(self) -> PlantedModel:
        return PlantedModel(self)

    def subject(self) -> Subject:
        """The network as any other subject."""
        return load(self.module, tokenizer=WordReader(list(self.vocab)), name=f"planted-{self.seed}")

    # ---- the truth

    def truth(self) -> dict[str, dict[str, bool]]:
        """What is true of each variable: readable beyond controls, used by the output.

        Where USED and SECOND share the texts between them, nothing is said of SECOND as a mediator: put in where it
        was not written, it decides there too.
        """
        decides = 1.0 if self.elsewhere == "absent" else self.share
        nothing = dict.fromkeys(CLAIMS, False)
        found = {
            USED: {"represents": True, "mediates": decides > 0.5, "necessary": decides > 0, "steers": True},
            SECOND: {"represents": True, "mediates": False, "necessary": decides < 1, "steers": self.values == 2},
            UNUSED: {**nothing, "represents": True},
            LEAKED: nothing,
            "memorised": nothing,
            "null": nothing,
        }
        if decides < 1:
            del found[SECOND]["mediates"]
        if self.loud:
            found[LOUD] = {**nothing, "represents": True}
        for name, there in ((LOCKED, self.locked), (WIRED, self.wired), (THING_LABEL, self.things)):
            if there:
                found[name] = nothing
        return found

    def bit(self, feature: str, cell: int) -> int:
        """The value of a planted feature (0, 1, ...) on a triple, or on a triple with its mark."""
        return self._codes[feature][cell]

    @cached_property
    def _codes(self) -> dict[str, list[int]]:
        return {name: code.tolist() for name, code in self.module.codes.items()}

    def answer(self, cell: int) -> int:
        """The value that the model's answer follows on a cell."""
        elsewhere = self.elsewhere != "absent" and not self.bit(RELEVANT, cell)
        return self.bit(SECOND if elsewhere else USED, cell)

    def written(self, variable: str) -> Float[Tensor, "r width"]:
        """What a variable adds to the site: the difference that it makes, or two of them that span its plane."""
        model = self.module
        rows = {name: row.detach() for name, row in zip(model.features, model.write, strict=True)}
        if variable == USED and self.values > 2:
            return torch.stack([rows[USED], rows[AXIS]])
        total = 2 * rows[variable] * (self.sign if variable == USED else 1)
        if variable == USED and self.echo:
            total = total + 2 * rows[ECHO] * self.sign
        return total[None]

    # ---- texts

    def table(self) -> list[dict[str, Any]]:
        """Texts with every variable, a source text for interchange, and the answers that the head would give."""
        return [dict(row) for row in self._table]

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        memory = np.random.default_rng([self.seed, 0x91]).integers(0, 2, self.types)
        out = []
        for item, (base, source, kind, noise) in enumerate(self._items):
            answer, expected = self.answer(base), self.answer(source)
            row = {
                "text": self.text(base, noise, kind),
                "source": self.text(source, noise, kind),
                "triple": f"triple {base % self.digits**3}",
                "type": f"t{kind}",
                **{name: str(self.bit(name, base)) for name in FEATURES},
                "memorised": str(memory[kind]),
                "null": str(_coin(f"{self.seed}|{item}")),
                "answer": self.answers[answer][0],
                "foil": self.answers[(answer + self.values // 2) % self.values][0],
                "expected": self.answers[expected][0],
            }
            if self.marked:
                row["mark"] = row["text"].split()[3]
            out.append(row)
        return out

    @cached_property
    def _items(self) -> list[tuple[int, int, int, list[str]]]:
        """What each text is made of: cells of base and source, type, nuisance words."""
        rng = np.random.default_rng([self.seed, 0x91])
        rng.integers(0, 2, self.types)
        marks = np.random.default_rng([self.seed, 0x92]).integers(0, 2, self.rows) * self.marked
        out = []
        for mark in marks * self.digits**3:
            base, source = (int(t + mark) for t in rng.integers(0, self.digits**3, 2))
            kind = int(rng.integers(0, self.types))
            out.append((base, source, kind, [f"n{i}" for i in rng.integers(0, NUISANCE, NOISE_WORDS)]))
        return out

    def examples(self, variable: str, shift: bool = False) -> Examples:
        """The bed's texts with one of its variables as the label, split by triple.

        Args:
            variable: A variable of the truth table, or "base rate": a coin as loaded as the text's type token.
            shift: Whether the texts without the mark are a distribution of their own.
        """
        return self._loaded(self._labelled(variable), variable, shift, (THING,) if self.things else ())

    def lopsided(self, variable: str) -> tuple[Examples, Examples]:
        """Two data sets without a common triple: nine tenths of the first are dev, one tenth of the second."""
        parts: tuple[list[dict[str, Any]], ...] = ([], [])
        for row, (cell, *_) in zip(self._labelled(variable), self._items, strict=True):
            parts[zlib.crc32(f"{self.seed}|{cell}".encode()) % 2].append(row)
        columns = (THING,) if self.things else ()
        large, small = (
            self._loaded(rows, variable, False, columns, dev_share=share)
            for rows, share in zip(parts, (0.9, 0.1), strict=True)
        )
        return large, small

    def pairs(
        self, variable: str, hold: Sequence[str] = (), shift: bool = False, columns: Sequence[str] = ()
    ) -> Examples:
        """The same texts as pairs in which `expected` is the answer if it followed `variable` as in the source.

        Args:
            hold: Variables that have the same value in both texts; the claimed one then differs in every pair.
            columns: Further variables to hand out as columns.
        """
        rows = self.pair_rows(variable, hold)
        for row, (base, *_) in zip(rows, self._items, strict=True):
            row |= {name: str(self.bit(name, base)) for name in columns}
        return self._loaded(rows, variable, shift, ("source_answer", *columns))

    def pair_rows(self, variable: str, hold: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The rows behind `pairs`, before they are split."""
        words = [group[0] for group in self.answers]
        by_values: dict[tuple[int, ...], list[int]] = {}
        for cell in range(len(self._codes[USED]) if hold else 0):
            by_values.setdefault(self._key(cell, variable, hold), []).append(cell)
        rng, rows = np.random.default_rng([self.seed, 0x93]), self._labelled(variable)
        for row, (base, source, kind, noise) in zip(rows, self._items, strict=True):
            if hold:
                value, *rest = self._key(base, variable, hold)
                source = int(rng.choice(by_values[(1 - value, *rest)]))
                row["source"] = self.text(source, noise, kind)
            row["expected"] = words[self.bit(variable, source)]
            row["source_answer"] = words[self.answer(source)]
        return rows

    def _key(self, cell: int, variable: str, hold: Sequence[str]) -> tuple[int, ...]:
        return (self.bit(variable, cell), *(self.bit(name, cell) for name in hold), cell // self.digits**3)

    def _labelled(self, variable: str) -> list[dict[str, Any]]:
        rows = self.table()
        if variable == "base rate":
            rng = np.random.default_rng([self.seed, 0x94])
            loaded = rng.choice([0.1, 0.9], self.types)
            for row in rows:
                row[variable] = str(int(rng.random() < loaded[int(row["type"][1:])]))
        elif variable not in rows[0]:
            for row, (base, *_) in zip(rows, self._items, strict=True):
                row[variable] = str(self.bit(variable, base))
        if self.things:
            for row, (base, *_) in zip(rows, self._items, strict=True):
                row[THING] = f"{THING} {self.bit(THING, base)}"
        return rows

    def _loaded(
        self, rows: list[dict[str, Any]], variable: str, shift: bool, columns: Sequence[str], dev_share: float = 0.5
    ) -> Examples:
        return examples(
            rows,
            text="text",
            label=variable,
            cluster="triple",
            answer="answer",
            foil="foil",
            source_text="source",
            expected="expected",
            factors=["type", *columns],
            shift={"column": "mark", "is": ["m0"]} if shift else None,
            dev_share=dev_share,
            name=f"planted-{self.seed}-{variable}",
        )

    def text(self, cell: int, noise: Sequence[str], kind: int) -> str:
        """The text of a triple (and its mark) with these nuisance words and this type token."""
        n = self.digits
        digits = [f"{c}{cell // n**k % n}" for k, c in enumerate("abc")]
        mark = [f"m{cell // n**3}"] * self.marked
        after = [*mark, f"leak{self.bit(LEAKED, cell)}", *noise]
        if self.locked == "anywhere":
            cut = zlib.crc32(" ".join(noise).encode()) % (len(after) + 1)
            return " ".join([digits[2], *after[:cut], *digits[:2], *after[cut:], f"t{kind}"])
        return " ".join([*digits, *after, f"t{kind}"])


def _coin(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0] & 1

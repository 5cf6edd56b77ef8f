"""Bed P1: features planted into a small network whose truth is known by construction.

The network reads texts like `a3 b7 c1 n45 n210 ... t12`. At every position its residual stream is

    token embedding (type tokens t*: large; nuisance tokens n*: the noise; a*, b*, c*: none)
    + the features: a table looked up by the triple (a, b, c), written along one random direction each.

A feature is a function of the whole triple, so no bag of words carries it, and triples are the clusters, so
no table learnt on dev helps on the gate pool. The head reads some features (used) and not others (unused);
a leaked label is also an input token; a memorised label is a random function of the type token.

All of it is ordinary weights, so a random-weight twin has every part of the network and none of the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import integrate, optimize
from torch import Tensor, nn

from veriscope.claims.represents import Represents
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples, examples
from veriscope.methods import method
from veriscope.methods.searched_direction import SearchedDirection
from veriscope.subjects import Subject, WordReader, load

DIGITS = 16  # values of each of the three context tokens: 4,096 triples
TYPES = 96
NUISANCE = 500
NOISE_WORDS = 6
WIDTH = 64
ANSWERS = ("yes", "no")
USED, UNUSED, LEAKED, SECOND = "used", "unused", "leaked", "second"
FEATURES = (USED, UNUSED, LEAKED, SECOND)


class PlantedModel(nn.Module):
    """A one-layer network with planted features: `residual` is its only inner site, `head` its logits."""

    def __init__(self, vocab: dict[str, int], gaps: Sequence[float], seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(vocab), WIDTH)
        self.table = nn.Embedding(DIGITS**3, len(FEATURES))
        directions = torch.linalg.qr(torch.randn(WIDTH, len(FEATURES), generator=rng))[0].T
        self.write = nn.Parameter(directions * torch.tensor(gaps)[:, None] / 2)
        self.residual = nn.Identity()
        self.head = nn.Linear(WIDTH, len(vocab), bias=False)
        self.place: Tensor
        self.register_buffer("place", torch.zeros(len(vocab), dtype=torch.long))
        with torch.no_grad():
            self._plant(vocab, directions, rng)

    def _plant(self, vocab: dict[str, int], directions: Tensor, rng: torch.Generator) -> None:
        self.embed.weight.zero_()
        for word, i in vocab.items():
            scale = {"n": 1 / np.sqrt(NOISE_WORDS), "t": 0.6}.get(word[0], 0.0) if word[1:].isdigit() else 0.0
            self.embed.weight[i] = scale * torch.randn(WIDTH, generator=rng)
            if word[0] in "abc" and word[1:].isdigit():
                self.place[i] = int(word[1:]) * DIGITS ** "abc".index(word[0])
        bits = torch.rand(DIGITS**3, len(FEATURES), generator=rng) < 0.5
        self.table.weight.copy_(bits.float() * 2 - 1)
        self.head.weight.copy_(0.02 * torch.randn(self.head.weight.shape, generator=rng))
        # Only the directions of used features reach any logit; unused and leaked ones are projected out.
        unread = directions[[FEATURES.index(UNUSED), FEATURES.index(LEAKED)]]
        read = 1.5 * directions[FEATURES.index(USED)] + 0.75 * directions[FEATURES.index(SECOND)]
        for sign, word in zip((1, -1), ANSWERS, strict=True):
            self.head.weight[vocab[word]] += sign * read
        self.head.weight -= (self.head.weight @ unread.T) @ unread

    def forward(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position vocab"]:
        """Logits at every position: words are summed up to it, features appear once all three digits are read."""
        words = self.embed(input_ids).cumsum(1)
        triple = self.place[input_ids].cumsum(1).clamp_max(DIGITS**3 - 1)
        return self.head(self.residual(words + self.table(triple) @ self.write))


@dataclass(frozen=True)
class Planted:
    """The bed: its model, its texts and its truth table, from one seed and one dial.

    Args:
        seed: Seed of weights and texts.
        bits: Usable information, in bits an item, that an ideal linear reader gets about each feature.
    """

    seed: int = 0
    bits: float = 0.4
    rows: int = 5_000

    @cached_property
    def vocab(self) -> dict[str, int]:
        words = [f"{c}{i}" for c in "abc" for i in range(DIGITS)]
        words += [f"t{i}" for i in range(TYPES)] + [f"n{i}" for i in range(NUISANCE)] + ["leak0", "leak1", *ANSWERS]
        return {w: i for i, w in enumerate(words)}

    @property
    def gap(self) -> float:
        """Distance between the class means, in units of the noise's standard deviation along any direction."""
        return gap_of_bits(self.bits) * float(np.sqrt(1 + 0.36))  # nuisance words and the type's own embedding

    @cached_property
    def module(self) -> PlantedModel:
        return PlantedModel(self.vocab, [self.gap] * len(FEATURES), self.seed)

    def subject(self) -> Subject:
        """The network as any other subject."""
        return load(self.module, tokenizer=WordReader(list(self.vocab)), name=f"planted-{self.seed}")

    def truth(self) -> dict[str, dict[str, bool]]:
        """What is true of each variable: readable beyond controls, used by the output."""
        return {
            USED: {"represents": True, "mediates": True, "necessary": True, "steers": True},
            SECOND: {"represents": True, "mediates": False, "necessary": False, "steers": True},
            UNUSED: {"represents": True, "mediates": False, "necessary": False, "steers": False},
            LEAKED: {"represents": False, "mediates": False, "necessary": False, "steers": False},
            "memorised": {"represents": False, "mediates": False, "necessary": False, "steers": False},
            "null": {"represents": False, "mediates": False, "necessary": False, "steers": False},
        }

    def bit(self, feature: str, triple: int) -> int:
        """The value (0 or 1) of a planted feature on a triple."""
        return int(self.module.table.weight[triple, FEATURES.index(feature)] > 0)

    def table(self) -> list[dict[str, Any]]:
        """Texts with every variable, a source text for interchange, and the answers that the head would give."""
        rng = np.random.default_rng([self.seed, 0x91])
        memory = rng.integers(0, 2, TYPES)
        out = []
        for item in range(self.rows):
            base, source = (int(t) for t in rng.integers(0, DIGITS**3, 2))
            kind = int(rng.integers(0, TYPES))
            noise = [f"n{i}" for i in rng.integers(0, NUISANCE, NOISE_WORDS)]
            leak = self.bit(LEAKED, base)
            answer = ANSWERS[1 - self.bit(USED, base)]
            out.append(
                {
                    "text": self._text(base, leak, noise, kind),
                    "source": self._text(source, self.bit(LEAKED, source), noise, kind),
                    "triple": f"triple {base}",
                    "type": f"t{kind}",
                    **{name: str(self.bit(name, base)) for name in FEATURES},
                    "memorised": str(memory[kind]),
                    "null": str(_coin(f"{self.seed}|{item}")),
                    "answer": answer,
                    "foil": ANSWERS[1 - ANSWERS.index(answer)],
                    "expected": ANSWERS[1 - self.bit(USED, source)],
                }
            )
        return out

    def examples(self, variable: str) -> Examples:
        """The bed's texts with one of its variables as the label, split by triple."""
        return examples(
            self.table(),
            text="text",
            label=variable,
            cluster="triple",
            answer="answer",
            foil="foil",
            source_text="source",
            expected="expected",
            factors=["type"],
            name=f"planted-{self.seed}-{variable}",
        )

    def _text(self, triple: int, leak: int, noise: list[str], kind: int) -> str:
        digits = [f"{c}{triple // DIGITS**k % DIGITS}" for k, c in enumerate("abc")]
        return " ".join([*digits, f"leak{leak}", *noise, f"t{kind}"])


def _coin(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0] & 1


def bits_of_gap(gap: float) -> float:
    """Mutual information, in bits, between a fair coin and a Gaussian whose means lie `gap` sd apart."""

    def lost(x: float) -> float:
        density = np.exp(-((x - gap / 2) ** 2) / 2) / np.sqrt(2 * np.pi)
        return density * np.log2(1 + np.exp(-gap * x))

    return 1 - integrate.quad(lost, -10, 10 + gap)[0]


def gap_of_bits(bits: float) -> float:
    """The inverse of `bits_of_gap`."""
    return float(optimize.brentq(lambda g: bits_of_gap(g) - bits, 1e-6, 12)) if bits > 0 else 0.0


def self_test(bed: Planted) -> dict[str, float]:
    """Check the truth on the weights themselves, over every triple.

    Returns:
        For each feature, how often flipping its table entry flips yes and no where the noise allows: 1 for used
        alone, 0 for unused and leaked; and `bits`, the information about USED of the ideal reader on drawn texts.
    """
    model = bed.module
    yes, no = (model.head.weight[bed.vocab[w]].detach() for w in ANSWERS)
    write = model.write.detach()
    found = {name: float(2 * (write[i] @ (yes - no)).abs()) for i, name in enumerate(FEATURES)}
    rows = bed.table()[:2_000]
    ids = torch.tensor([[bed.vocab[w] for w in r["text"].split()] for r in rows])
    with torch.no_grad():
        words = model.embed(ids).sum(1)
        triple = model.place[ids].sum(1)
        direction = model.write[FEATURES.index(USED)]
        score = (words + model.table(triple) @ model.write) @ direction / direction.norm()
    label = np.array([int(r[USED]) for r in rows])
    values = score.numpy()
    pooled = np.sqrt((values[label == 1].var() + values[label == 0].var()) / 2)
    found["bits"] = bits_of_gap(float((values[label == 1].mean() - values[label == 0].mean()) / pooled))
    return found


# --- planted claims, for the exam ------------------------------------------------------------------------


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a bed of its own seed."""
    kinds = {"C1": C1_KINDS}.get(claim_type, ())
    first = seed * 100_000 + (FINAL if final else 0)
    out = []
    for truth, grade, trap, settings in kinds:
        for i in range(count):
            chosen = {**settings, "seed": first + i, "method_name": ("MeanDifference", "LogisticProbe")[i % 2]}
            out.append(
                Planting(claim_type, truth, grade, trap, "veriscope.zoo.planted:represents", tuple(chosen.items()))
            )
    return out


C1_KINDS: tuple[tuple[bool, str, str, dict[str, Any]], ...] = (
    (False, "F0", "null label", {"variable": "null"}),
    (False, "F1", "leaked in the input", {"variable": LEAKED}),
    (False, "F1", "memorised type label", {"variable": "memorised"}),
    (False, "F2", "best of 400 random directions", {"variable": USED, "searched": 400}),
    (True, "T1x1", "at the smallest effect", {"variable": USED, "bits": 0.05}),
    (True, "T1x2", "at twice the smallest effect", {"variable": USED, "bits": 0.10}),
    (True, "T1x4", "at four times the smallest effect", {"variable": USED, "bits": 0.20}),
    (True, "T2", "unused by the output", {"variable": UNUSED, "bits": 0.20}),
)


def represents(
    variable: str, seed: int, method_name: str, bits: float = 0.4, searched: int = 0
) -> tuple[Represents, Subject]:
    """A C1 claim about one of the bed's variables; with `searched`, the best on dev of so many random directions."""
    bed = Planted(seed=seed, bits=bits)
    subject, data = bed.subject(), bed.examples(variable)
    if searched:
        finding = SearchedDirection(site="residual", count=searched, seed=seed).fit(subject, data.dev)
    else:
        finding = method(method_name, site="residual", seed=seed).fit(subject, data.dev)
    return Represents(finding, of=variable, on=data, name=f"{variable} ({method_name})"), subject

"""C2 on small networks whose mechanism is written down: true mediators pass, each known-false kind is refused.

All share one body: words are summed into a residual stream (the site), and a head reads it. What differs is where the
variable is written, what the head reads, and what goes round the site on a bypass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veriscope.claims.mediates import BATTERY, Mediates
from veriscope.errors import MissingField, UserError
from veriscope.examples import Examples, examples
from veriscope.ledger import Ledger, use
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject, WordReader, load
from veriscope.trials.evidence import Verdict
from veriscope.trials.interchange import independent_labels, isolation_rows, readable_part, readable_span, thin
from veriscope.trials.judge import Effort
from veriscope.trials.trial import trial

D, TEMPLATES, NOUNS, NOISE, FILLERS = 32, 80, 24, 150, 60
VOCAB = [
    *(f"t{i}" for i in range(TEMPLATES)), *(f"p{i}" for i in range(NOUNS)), *(f"n{i}" for i in range(NOISE)),
    *(f"w{i}" for i in range(4)), *(f"f{i}" for i in range(FILLERS)), "yes", "no", "maybe",
]  # fmt: skip
WORD = {word: i for i, word in enumerate(VOCAB)}
QUICK = Effort(draws=8, twins=2, random=20)


def axes(seed: int = 0) -> Tensor:
    """Orthonormal directions, none along a coordinate."""
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(seed)))[0]


class Net(nn.Module):
    """Words summed up to each position; `writes` are what noun and w words add, `reads` what tokens get from it."""

    def __init__(
        self,
        writes: Callable[[str], Tensor | None],
        reads: dict[str, Tensor],
        bypass: dict[str, float] | None = None,
        bend: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        noise: float = 0.25,
    ) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(VOCAB), D)
        self.side = nn.Embedding(len(VOCAB), 1)
        self.residual = nn.Identity()
        self.head = nn.Linear(D, len(VOCAB), bias=False)
        self.side_head = nn.Linear(1, len(VOCAB), bias=False)
        self.bend = bend or (lambda h: h)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.head.weight.copy_(0.05 * torch.randn(len(VOCAB), D, generator=rng))
            self.side.weight.zero_()
            self.side_head.weight.zero_()
            for word, i in WORD.items():
                if word[0] in "nt" and word[1:].isdigit():
                    self.embed.weight[i] = noise * torch.randn(D, generator=rng)
                written = writes(word)
                if written is not None:
                    self.embed.weight[i] += written
                if bypass and word[0] == "p":
                    self.side.weight[i] = 1.0 if int(word[1:]) % 2 else -1.0
            for word, direction in reads.items():
                self.head.weight[WORD[word]] += direction
            for word, gain in (bypass or {}).items():
                self.side_head.weight[WORD[word]] = gain

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.residual(self.embed(input_ids).cumsum(1))
        return self.head(self.bend(h)) + self.side_head(self.side(input_ids).cumsum(1))


def noun_sign(word: str) -> float | None:
    """The variable: odd nouns are 1, even ones 0."""
    return None if word[0] != "p" or not word[1:].isdigit() else (1.0 if int(word[1:]) % 2 else -1.0)


def along(direction: Tensor) -> Callable[[str], Tensor | None]:
    return lambda word: None if noun_sign(word) is None else 1.5 * noun_sign(word) * direction


def opposed(direction: Tensor, gain: float = 2.0) -> dict[str, Tensor]:
    return {"yes": gain * direction, "no": -gain * direction}


def pairs_of(n: int = 700, seed: int = 0, only: int | None = None, **change: Any) -> Examples:
    """Sentences `template noise noun w noise`, the source with a noun of the other kind and all else the same."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        t, a, b = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE))
        z, w = (int(rng.integers(2)) if only is None else only), int(rng.integers(2))
        noun, other = 2 * int(rng.integers(NOUNS // 2)) + z, 2 * int(rng.integers(NOUNS // 2)) + 1 - z
        row = {
            "text": f"t{t} n{a} p{noun} w{w} n{b}", "source": f"t{t} n{a} p{other} w{w} n{b}", "z": str(z),
            "answer": "yes" if z else "no", "expected": "no" if z else "yes", "template": f"t{t}", "w": f"w{w}",
        }  # fmt: skip
        rows.append(row)
    return examples(rows, label="z", cluster="template", answer="answer", source_text="source", expected="expected",
                    factors=["w"], **change)  # fmt: skip


def open_net(module: nn.Module, name: str = "tiny") -> Subject:
    return load(module, tokenizer=WordReader(VOCAB), name=name)


def put_on_trial(subject: Subject, data: Examples, weight: Tensor | None = None, method: Any = None, **fields: Any) -> Verdict:
    """Fit, replace the weights by a planted direction if one is given, and try the claim."""
    with use(Ledger.in_memory()):
        finding = (method or MeanDifference(site="residual")).fit(subject, data.dev)
        if weight is not None:
            finding = dataclasses.replace(finding, weight=weight)
        return trial(Mediates(finding, of="z", on=data, **fields), subject=subject, ledger=Ledger.in_memory(), effort=QUICK)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {r.gate: r.outcome for r in verdict.gates}


def failing(verdict: Verdict) -> set[str]:
    """Gates that refute and falsifiers that fired."""
    return {r.gate for r in verdict.gates if (r.role == "gate" and r.outcome == "fail") or r.outcome == "fired"}


@pytest.fixture(scope="module")
def data() -> Examples:
    return pairs_of()


def test_true_mediator(data) -> None:
    u = axes()[:, 0]
    subject = open_net(Net(along(u), opposed(u)))
    verdict = put_on_trial(subject, data)
    for r in verdict.gates:
        print(r.gate, r.outcome, r.estimate, r.margin, r.seconds, r.passes, r.note)
        for c in r.controls: print("      ", c.name, c.estimate)
    print(verdict.sentence, verdict.seconds)
    assert verdict.word == "SUPPORTED"

"""C4 STEERS on a small net whose every direction has a known effect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from veriscope.claims.steers import Steers
from veriscope.errors import UserError
from veriscope.examples import Examples, examples
from veriscope.findings import Change, Origin
from veriscope.ledger import Ledger
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject, WordReader, load
from veriscope.trials.doses import Neutral, Prompts, Steering, Words, against_tokens, choose_dose, repetition
from veriscope.trials.evidence import Verdict
from veriscope.trials.judge import Effort
from veriscope.trials.steers import Bench
from veriscope.trials.trial import trial

FILLERS = [f"w{i}" for i in range(60)]
MOODS, PARITIES, TEMPLATES = ("rainy", "sunny"), ("p0", "p1"), ("tA", "tB")
GOOD, BAD = ("good", "great"), ("bad", "poor")
VOCAB = [*FILLERS, *MOODS, *PARITIES, *TEMPLATES, "feels", *GOOD, *BAD]
ID = {word: i for i, word in enumerate(VOCAB)}
V = len(VOCAB)
PARTS = ("mood", "parity", "template", "temperature", "half", "trained", "costly", "writer", "foil", "bump", "relevant")
DIM = {name: V + i for i, name in enumerate(PARTS)}
TARGETS = {"sunny": GOOD, "rainy": BAD}
EFFORT = Effort(draws=5, twins=2, random=30, folds=3)


class Bed(nn.Module):
    """Each filler calls the next one; behind "feels" come mood words. Every part of the residual does one thing.

    `residual` holds the token's own place and, summed over the prompt so far, mood, parity and template; the other
    parts are 0 until something is added there. `kind` is "plain", "fragile" (any push breaks it) or "locked".
    """

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.kind = kind
        self.embed = nn.Embedding(V, V + len(PARTS))
        self.residual = nn.Identity()
        calls, noise = torch.zeros(V, V), torch.randn(V, generator=rng)
        for i in range(len(FILLERS)):
            calls[i, (i + 1) % len(FILLERS)] = 7.0
        for word in (*MOODS, *PARITIES, *TEMPLATES, *GOOD, *BAD):
            calls[ID[word], int(torch.randint(len(FILLERS), (1,), generator=rng))] = 7.0
        calls[ID["feels"]] = torch.linspace(0, 4, V)[torch.randperm(V, generator=rng)]
        calls[ID["feels"], [ID[w] for w in (*GOOD, *BAD)]] = torch.tensor([2.5, 2.0, 3.5, 3.0])
        self.calls, self.noise = nn.Parameter(calls), nn.Parameter(noise)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.embed.weight[:, :V] = torch.eye(V)
            for name, pair in (("mood", MOODS), ("parity", PARITIES), ("template", TEMPLATES)):
                for word, value in zip(pair, (-1.0, 1.0), strict=True):
                    self.embed.weight[ID[word], DIM[name]] = value

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        r = self.residual(torch.cat([x[..., :V], x[..., V:].cumsum(1)], -1))
        part = {name: r[..., i] for name, i in DIM.items()}
        here = (input_ids == ID["feels"]).float()
        good, bad = self._side(GOOD), self._side(BAD)
        logits = r[..., :V] @ self.calls
        push = part["mood"] * here if self.kind != "locked" else x[..., DIM["mood"]].cumsum(1) * here
        push = push + part["half"] * here * torch.where(part["parity"] > 0, 1.5, -1.0)
        push = push + part["trained"] * here * (part["template"] < 0).float()
        push = push + part["relevant"] * here * (part["parity"] > 0).float() * 2
        push = push + part["bump"].clamp(max=1) * here * 2 - (part["bump"] - 1).clamp(min=0) * here * 1.2
        push = push + part["costly"] * here * 2
        logits = logits + push[..., None] * (good - bad)
        logits = logits + part["costly"][..., None] * self.noise * 3 + part["writer"][..., None] * 3 * self._side(GOOD[:1])
        logits = logits - part["foil"][..., None] * here[..., None] * 3 * bad
        if self.kind == "fragile":
            far = (r[..., :V].square().sum(-1) - 1).square() + r[..., V + 3 :].square().sum(-1)
            logits = logits + (here * 3 * torch.tanh(8 * far))[..., None] * (good - bad)
        if self.kind == "locked":
            from_input = self.calls[input_ids] + push[..., None] * (good - bad)
            return torch.where(here[..., None] > 0, from_input, logits)
        return logits * torch.exp(-part["temperature"])[..., None]

    @staticmethod
    def _side(words: tuple[str, ...]) -> torch.Tensor:
        return torch.zeros(V).index_fill(0, torch.tensor([ID[w] for w in words]), 1.0)


def rows(n: int = 700, seed: int = 0, odd: float = 0.6) -> list[dict]:
    """Prompts of 100 clusters; parity is p1 in a share `odd` of them, and 100 rows come in the other template."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        mood, shifted = MOODS[i % 2], i >= n - 100
        parity = PARTIES_OF[int(rng.random() < odd)]
        fill = " ".join(FILLERS[j] for j in rng.integers(0, 60, 4))
        text = f"{TEMPLATES[shifted]} {fill} {mood} {FILLERS[int(rng.integers(60))]} {parity} feels"
        cluster = f"s{i % 30}" if shifted else f"c{i // 6}"
        out.append({"text": text, "mood": mood, "group": cluster, "pool": "shift" if shifted else "in", "side": parity})
    return out


PARTIES_OF = PARITIES


@pytest.fixture(scope="module")
def data() -> Examples:
    return examples(rows(), text="text", label="mood", cluster="group", factors=["side"],
                    shift={"column": "pool", "is": ["shift"]}, name="moods")  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> Subject:
    return bed("plain")


def bed(kind: str) -> Subject:
    torch.manual_seed(0)
    return load(Bed(kind).eval().requires_grad_(False), tokenizer=WordReader(VOCAB), name=f"bed-{kind}")


def along(subject: Subject, data: Examples, **parts: float) -> Change:
    """A change that adds to the named parts of the residual."""
    vector = torch.zeros(V + len(PARTS))
    for name, value in parts.items():
        vector[DIM[name]] = value
    return change(subject, data, vector)


def change(subject: Subject, data: Examples, vector: torch.Tensor) -> Change:
    origin = Origin("MeanDifference", {"site": "residual"}, subject.hash, data.hash, "mood", "residual", "last", 0, 1)
    return Change("add", "residual", "last", origin, vector=vector, toward="sunny")


def claim(finding, data: Examples, **rest) -> Steers:
    return Steers(finding, toward="sunny", of="mood", on=data, **{"targets": TARGETS, "at": "all", **rest})


def tried(finding, subject: Subject, data: Examples, **rest) -> Verdict:
    return trial(claim(finding, data, **rest), subject=subject, ledger=Ledger.in_memory(), effort=EFFORT)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {g.gate: g.outcome for g in verdict.gates}


def failing(verdict: Verdict) -> set[str]:
    """Gates and falsifiers that speak against the claim."""
    return {g.gate for g in verdict.gates if g.outcome in ("fail", "fired", "unclear", "not run")}


def gate(verdict: Verdict, name: str):
    return next(g for g in verdict.gates if g.gate == name)


def test_a_true_steering_direction_is_supported(subject, data):
    verdict = tried(along(subject, data, mood=2.0), subject, data)

    assert verdict.word == "SUPPORTED", verdict

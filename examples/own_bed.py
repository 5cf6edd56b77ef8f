"""A bed of one's own: examine the verifier on a mechanism that you built, in a hundred lines.

A bed is a module with one function, `plantings(claim_type, count, seed, final)`. It returns claims with the truth about
each; `build`, named by its import path, makes a claim and its subject as any user would. In this folder:

    PYTHONPATH=. veriscope exam --bed own_bed --only C1 --count 2

The network reads texts like `left3 right12 noise40 noise7`. For each pair of left and right it looks up a random bit
and writes it along one direction of its residual stream; noise words add noise. So "the bit can be read off the stream"
is true, and no list of words gives it away: pairs of the held-out pool never occur in the development pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veriscope.claims import Represents
from veriscope.exam import FINAL, Planting
from veriscope.examples import examples
from veriscope.methods import MeanDifference
from veriscope.subjects import Subject, WordReader, load

WORDS = [f"{kind}{i}" for kind, n in (("left", 24), ("right", 24), ("noise", 80)) for i in range(n)] + ["yes", "no"]
IDS = {word: i for i, word in enumerate(WORDS)}

# What can be claimed: truth, grade, what kind of claim it is in words, and the label column that it is about.
KINDS = (
    (False, "F0", "a coin", "coin"),
    (False, "F1", "stands in the input", "surface"),
    (True, "T0", "planted and read by nothing else", "bit"),
)


class Lookup(nn.Module):
    """One layer: words are summed, and the bit of (left, right) is added along one direction."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(WORDS), 32)
        self.table = nn.Embedding(24 * 24, 1)
        self.direction = nn.Parameter(torch.nn.functional.normalize(torch.randn(32, generator=rng), dim=0))
        self.residual = nn.Identity()
        self.head = nn.Linear(32, len(WORDS), bias=False)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.embed.weight[48:] = 0.5 * torch.randn(len(WORDS) - 48, 32, generator=rng)
            self.table.weight.copy_(2.0 * torch.randint(2, (24 * 24, 1), generator=rng) - 1)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits; the bit appears at the second word and stays."""
        left, right = input_ids[:, :1], input_ids[:, 1:2] - 24
        known = torch.arange(input_ids.shape[1]) > 0
        bit = self.table(left * 24 + right.clamp(0, 23)) * known[None, :, None]
        return self.head(self.residual(self.embed(input_ids).cumsum(1) + 1.5 * bit * self.direction))


def rows(model: Lookup, seed: int, n: int) -> list[dict[str, Any]]:
    """Texts with the three labels that are claimed about; the pair is the cluster."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        left, right, one, two = (int(i) for i in rng.integers(0, (24, 24, 80, 80)))
        bit = int(model.table.weight[left * 24 + right, 0] > 0)
        text = f"left{left} right{right} noise{one} noise{two}"
        labels = {"bit": bit, "coin": int(rng.integers(2)), "surface": two % 2}
        out.append({"text": text, "pair": f"{left} {right}", **{k: str(v) for k, v in labels.items()}})
    return out


def build(label: str, seed: int, n: int) -> tuple[Represents, Subject]:
    """One claim with its subject, the public way: load, read examples, fit on the dev pool, claim."""
    model = Lookup(seed)
    subject = load(model, tokenizer=WordReader(WORDS), name=f"lookup-{seed}")
    data = examples(rows(model, seed, n), text="text", label=label, cluster="pair", name=f"lookup-{seed}-{label}")
    finding = MeanDifference(site="residual").fit(subject, data.dev)
    return Represents(finding, of=label, on=data, smallest_effect=0.1), subject


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """`count` claims of each kind, each on a network of its own; final ones on other seeds and more texts."""
    if claim_type != "C1":
        return []
    first = seed * 100_000 + (FINAL if final else 0)
    return [
        Planting("C1", truth, grade, trap, "own_bed:build",
                 (("label", label), ("seed", first + i), ("n", 1_800 if final else 1_500)))
        for truth, grade, trap, label in KINDS
        for i in range(count)
    ]  # fmt: skip

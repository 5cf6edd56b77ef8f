"""Bed S1: a small character model that answers in one of two modes, with directions whose effect is known.

The network reads texts like `^qwe-rt(uv:`. `+` and `-` set the mode, `(` and `)` the side, `^` and `~` open a text (its
style). Letters call the next letter; behind `:` comes one of A, B, C in the mode `up`, of X, Y, Z in the mode `down`.
At every position the residual stream (`stream`, the place to steer) holds, each on directions of its own,

    the token                      what comes next
    mode, side, style              +1 or -1 from the mark on; A, B and C set the mode too, so that a prompt can
    copy                           the mode again, where nothing reads it
    memory                         the letters so far, which make the mode's effect larger or smaller
    write, heat                    0: `write` raises A whatever stands before, `heat` divides all logits
    the rest                       0; if the net is fragile, any push there breaks the mode `down`

A layer of ReLU units turns the mode into the answer behind `:`, always, or on one side or in one style only, in
opposite ways on the two sides, or up to a point from which on more of it does less; elsewhere the mode may spoil what
letter comes next. All of it is ordinary weights.
The traps are those that the literature met: an effect that is one of temperature, opposite effects on many inputs
(Analyzing the Generalization and Reliability of Steering Vectors, Tan 2024), and random directions that break a refusal
(The Rogue Scalpel, Korznikov 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import optimize
from torch import Tensor, nn

from veriscope.claims.steers import DOSES, Steers
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples, examples
from veriscope.findings import Change, Origin, Reading
from veriscope.methods import method
from veriscope.subjects import CharReader, Subject, load
from veriscope.trials.doses import HEADROOM, NATS

TARGETS = {"up": ("A", "B", "C"), "down": ("X", "Y", "Z")}
MARKS = {"mode": ("-", "+"), "side": (")", "("), "style": ("^", "~")}
CHARS = ascii_lowercase + ascii_uppercase + ":. " + "".join("".join(pair) for pair in MARKS.values())
PARTS = ("mode", "side", "style", "copy", "write", "heat", "push", "spoil")
MEMORY = 16
SURE = 5.5  # logits of the letter that is called over the others; more, and half of all neutral texts are the same
OPEN = 400.0  # a gated unit lies so far above zero where its gate is open and below where it is shut
STEADY, FITFUL = 0.6, 0.8  # of the mode's effect: on every text, and besides on the half that some letters make
RIGHT_SIDE = 0.6  # of the texts
READERS = 96  # units that a push wakes in a fragile net
ACTS = ("always", "one side", "opposed", "one style", "up to a point")
TURN, FALL = 1.0, 1.9  # units along the mode from which on it works against itself, by so much of its steady effect
REAL = 0.4  # logits that a vector does by the mode where the rest of its effect is one of temperature


class Modes(nn.Module):
    """One layer of ReLU units on a residual stream, and logits that a direction can cool; see the module's text."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARS), width)
        self.carry = nn.Embedding(len(CHARS), width)
        self.stream = nn.Identity()
        self.read = nn.Linear(width, units)
        self.write = nn.Linear(units, width, bias=False)
        self.after = nn.Identity()
        self.head = nn.Linear(width, len(CHARS), bias=False)
        self.heat = nn.Parameter(torch.zeros(width))

    def forward(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position vocab"]:
        """Logits at every position."""
        return self.answer(self.stream(self.state(input_ids)))

    def state(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position width"]:
        """The token itself, and what all tokens up to it left behind."""
        return self.embed(input_ids) + self.carry(input_ids).cumsum(1)

    def answer(self, h: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Logits from the stream."""
        h = self.after(h + self.write(torch.relu(self.read(h))))
        return self.head(h) * torch.exp(-(h @ self.heat).clamp(-3.0, 3.0))[..., None]


@dataclass(frozen=True)
class Switch:
    """The bed: its network, its texts and its truth table, from one seed and its dials.

    A dose is two units along the mode: the gap between the two modes.

    Args:
        seed: Seed of weights and texts.
        effect: Logits by which the largest dose within the side-effect budget moves A, B, C against X, Y, Z, where the
            mode acts.
        dear: Nats a token that one dose costs on neutral text. 0: it costs nothing at any dose.
        acts: Where the mode moves the answer: "always", on "one side", on the two sides "opposed", in "one style"; or
            "up to a point", half the largest dose, from which on the effect falls again (to 0.43 of `effect`).
        fragile: Whether a push in any direction at all moves the answer towards A, B, C.
        cools: How strongly one unit along `heat` divides all logits, as a logarithm: the larger, the shorter the vector
            that does it, and the less do others of its length.
    """

    seed: int = 0
    effect: float = 4.0
    dear: float = 0.4 * NATS
    acts: str = "always"
    fragile: bool = False
    cools: float = 1.0
    width: int = 256
    rows: int = 1_000

    @cached_property
    def ids(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(CHARS)}

    @property
    def dose(self) -> float:
        """The largest dose that fits the budget: the cost grows as the square of the dose, nearly."""
        return max(
            (d for d in DOSES if d > 0 and self.cost(d) <= HEADROOM * NATS), default=min(d for d in DOSES if d > 0)
        )

    @property
    def gain(self) -> float:
        """Logits of A, B, C against X, Y, Z for one unit along the mode."""
        return self.effect / (2 * self.dose)

    # --- weights

    @cached_property
    def basis(self) -> Float[Tensor, "width width"]:
        """Orthonormal columns: a token each, the parts, memory, and the rest."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.linalg.qr(torch.randn(self.width, self.width, generator=rng))[0]

    def direction(self, part: str) -> Float[Tensor, "width"]:
        """Unit vector of a part of the stream, or of a token."""
        return self.basis[:, self.ids[part] if part in self.ids else len(CHARS) + PARTS.index(part)]

    @cached_property
    def calls(self) -> Float[np.ndarray, "char char_"]:
        """Logits of the next character after each."""
        rng = np.random.default_rng([self.seed, 0x51])
        n, letters = len(CHARS), len(ascii_lowercase)
        words = [self.ids[w] for side in TARGETS.values() for w in side]
        out = np.zeros((n, n))
        called = np.concatenate([rng.permutation(letters), rng.integers(0, letters, n - letters)])
        out[np.arange(n), called] = SURE
        out[:, words] = -8.0  # nothing is answered before it is asked
        out[self.ids[":"]] = rng.permutation(np.linspace(0, 4, n))
        out[self.ids[":"], words] = 3.0 + 0.3 * rng.standard_normal(len(words))
        return out

    @cached_property
    def noise(self) -> Float[np.ndarray, "char"]:
        """What one unit along the mode adds to the logits where nothing is asked, before it is scaled."""
        drawn = np.random.default_rng([self.seed, 0x52]).standard_normal(len(CHARS))
        drawn[[self.ids[w] for side in TARGETS.values() for w in side]] = 0.0
        return drawn

    @cached_property
    def spoiling(self) -> float:
        """The scale of `noise` at which one dose costs `dear` nats."""
        if self.dear == 0:
            return 0.0
        return float(optimize.brentq(lambda s: self._cost(2 * s) - self.dear, 0, 20))

    def cost(self, dose: float) -> float:
        """Nats a token that a dose costs behind letters, by the table of what calls what."""
        return self._cost(2 * dose * self.spoiling)

    def _cost(self, scale: float) -> float:
        before = torch.tensor(self.calls[: len(ascii_lowercase)]).log_softmax(-1)
        after = (before + scale * torch.tensor(self.noise)).log_softmax(-1)
        return float((before.exp() * (before - after)).sum(-1).mean())

    @cached_property
    def module(self) -> Modes:
        rows = self._units()
        net = Modes(self.width, len(rows))
        with torch.no_grad():
            for weight in net.parameters():
                weight.zero_()
            for i, (reads, bias, writes) in enumerate(rows):
                net.read.weight[i], net.read.bias[i], net.write.weight[:, i] = reads, bias, writes
            self._chars(net)
        return net.eval()

    def _chars(self, net: Modes) -> None:
        """What each character writes, and what the head reads."""
        rng = torch.Generator().manual_seed(self.seed + 1)
        d, n = self.direction, len(CHARS)
        memory = self.basis[:, n + len(PARTS) : n + len(PARTS) + MEMORY]
        net.embed.weight.copy_(self.basis[:, :n].T)
        for part, pair in MARKS.items():
            for sign, mark in zip((-1.0, 1.0), pair, strict=True):
                net.carry.weight[self.ids[mark]] = sign * (d(part) + (d("copy") if part == "mode" else 0.0))
        left = torch.randn(len(ascii_lowercase), MEMORY, generator=rng)
        net.carry.weight[: len(left)] = 0.3 * (left - left.mean(0)) @ memory.T
        net.head.weight.copy_(torch.tensor(self.calls.T, dtype=torch.float32) @ self.basis[:, :n].T)
        for side, sign in (("up", 1.0), ("down", -1.0)):
            for word in TARGETS[side]:
                net.carry.weight[self.ids[word]] = sign * d("mode")
                net.head.weight[self.ids[word]] += 0.5 * sign * d("push")
        net.head.weight[self.ids["A"]] += d("write")
        net.head.weight += torch.tensor(self.noise, dtype=torch.float32)[:, None] * d("spoil")
        net.heat.copy_(self.cools * d("heat"))

    def _units(self) -> list[tuple[Tensor, float, Tensor]]:
        """ReLU units as (reads, bias, writes). Two pass a value on while their gate is open and nothing while shut."""
        d, side, style = self.direction, OPEN * self.direction("side"), OPEN * self.direction("style")
        asked, push = 2 * OPEN * d(":"), self.gain * d("push")
        gates = {
            "always": [(asked, -OPEN, push)],
            "one side": [(asked + side, -2 * OPEN, push)],
            "opposed": [(asked + side, -2 * OPEN, push), (asked - side, -2 * OPEN, -push)],
            "one style": [(asked - style, -2 * OPEN, push)],
            "up to a point": [(asked, -OPEN, push)],
        }[self.acts]
        fitful = 100.0 * self.basis[:, len(CHARS) + len(PARTS)]
        gates = [(gate, bias, STEADY * writes) for gate, bias, writes in gates] + [
            (gate + fitful, bias - OPEN, FITFUL * writes) for gate, bias, writes in gates
        ]
        units = []
        if self.acts == "up to a point":
            units.append((d("mode") + asked, -2 * OPEN - TURN, -FALL * STEADY * push))
        if self.spoiling:
            gates = [*gates, (-asked, OPEN, self.spoiling * d("spoil"))]
        for gate, bias, writes in gates:
            for sign in (1.0, -1.0):
                units.append((sign * d("mode") + gate, bias, 0.5 * sign * writes))
        if self.fragile:
            rng = torch.Generator().manual_seed(self.seed + 2)
            idle = self.basis[:, len(CHARS) + len(PARTS) + MEMORY :]
            for _ in range(READERS):
                drawn = idle @ torch.randn(idle.shape[1], generator=rng)
                units.append((drawn / drawn.norm(), -0.02, 6.0 * d("push")))
        return units

    def subject(self) -> Subject:
        """The network as any other subject."""
        return load(self.module, tokenizer=CharReader(CHARS), name=f"modes-{self.seed}")

    # --- what is known, and texts

    def truth(self) -> dict[str, bool]:
        """Of each direction: does adding it steer, beyond random edits, other tokens and within the budget?"""
        steers = self.acts in ("always", "one side") and not self.fragile and self.effect > 0
        nothing = ("copy", "side", "write", "heat", "warm", "random")
        return {"mode": steers, **dict.fromkeys(nothing, False)}

    def table(self) -> list[dict[str, Any]]:
        """Texts of 150 stems, an eighth of them in the other style."""
        rng = np.random.default_rng([self.seed, 0x53])
        out = []
        for item in range(self.rows):
            mode, other = int(rng.integers(2)), item >= self.rows * 7 // 8
            stem = item // 6
            start = "".join(np.random.default_rng([self.seed, 0x54, stem]).choice(list(ascii_lowercase), 3))
            side, letters = int(rng.random() < RIGHT_SIDE), rng.choice(list(ascii_lowercase), 4)
            marks = [MARKS["mode"][mode], MARKS["side"][side], MARKS["style"][int(other)]]
            text = f"{marks[2]}{start}{marks[0]}{letters[0]}{letters[1]}{marks[1]}{letters[2]}{letters[3]}:"
            row = {"text": text, "mode": ("down", "up")[mode], "side": f"side {side}", "stem": f"stem {stem}"}
            out.append(row | {"style": str(other)})
        return out

    def examples(self) -> Examples:
        """The bed's texts with the mode as the label, split by how they begin; the shift pool is the other style."""
        return examples(
            self.table(),
            text="text",
            label="mode",
            cluster="stem",
            factors=["side"],
            shift={"column": "style", "is": ["True"]},
            name=f"modes-{self.seed}",
        )

    def neutral(self, n: int = 800) -> tuple[str, ...]:
        """Texts without a question, drawn from the table of what calls what."""
        rng = np.random.default_rng([self.seed, 0x55])
        shares = np.exp(self.calls) / np.exp(self.calls).sum(1, keepdims=True)
        shares[:, self.ids[":"]] = 0
        edges = (shares / shares.sum(1, keepdims=True)).cumsum(1)
        out = []
        for _ in range(n):
            ids = [int(rng.integers(len(ascii_lowercase)))]
            while len(ids) < 20:
                ids.append(min(int(np.searchsorted(edges[ids[-1]], rng.random())), len(CHARS) - 1))
            out.append("".join(CHARS[i] for i in ids).strip())
        return tuple(out)

    def vector(self, how: str) -> Float[Tensor, "width"]:
        """One dose of a direction, as somebody would write it down."""
        if how == "random":
            drawn = torch.randn(self.width, generator=torch.Generator().manual_seed(self.seed + 3))
            return 2 * drawn / drawn.norm()
        if how == "heat":  # as much of it as the budget bears
            return self.cooling / self.cools * self.direction("heat")
        if how == "warm":
            return self.vector("heat") + REAL / self.gain * self.direction("mode")
        return (-2.0 if how == "minus mode" else 2.0) * self.direction(how.removeprefix("minus "))

    @cached_property
    def cooling(self) -> float:
        """The change of temperature that costs 0.4 of the budget, so that twice as much does not fit."""
        before = torch.tensor(self.calls[: len(ascii_lowercase)])

        def cost(t: float) -> float:
            p, q = before.log_softmax(-1), (before * np.exp(-t)).log_softmax(-1)
            return float((p.exp() * (p - q)).sum(-1).mean())

        return float(optimize.brentq(lambda t: cost(t) - 0.4 * NATS, 0, 2))


@torch.no_grad()
def self_test(bed: Switch, how: str = "mode", rows: int = 600) -> dict[str, float]:
    """Check on the weights what adding a direction does to texts in the mode `down`.

    Returns:
        `dose`: the largest that fits the budget by its cost in nats on the bed's neutral texts, `nats`. At that dose:
        `effect`, mean change of A, B, C against X, Y, Z in logits; `against`, the share of texts that move the other
        way; `words`, how many of A, B, C rise against the line on which all other characters moved, by over 0.1 logits
        on average; `beyond`, what is left of the effect when A, B, C and X, Y, Z are each taken against that line;
        `falls`, the most that a dose up to there does less than a smaller one;
        `other style`, the effect in texts of the other style; `random`, the largest effect of 40 random vectors of
        the same length at the largest dose that fits each.
    """
    net, unit = bed.module, bed.vector(how)
    doses = sorted(abs(d) for d in DOSES if (d > 0) != (how == "minus mode"))
    sign = -1.0 if how == "minus mode" else 1.0
    texts = _letters(bed)
    before = net.answer(texts).log_softmax(-1)

    def nats(vector: Tensor) -> float:
        after = net.answer(texts + vector).log_softmax(-1)
        return float((before.exp() * (before - after)).sum(-1).mean())

    def fitting(vector: Tensor) -> float:
        return max((d for d in doses if nats(d * vector) <= HEADROOM * NATS), default=doses[0])

    here, there = (_asked(bed, style, rows) for style in MARKS["style"])
    dose = fitting(sign * unit)
    moved = _moved(bed, here, sign * dose * unit)
    found = {"dose": dose, "nats": nats(sign * dose * unit), "effect": float(moved.mean())}
    found |= {"against": float((moved < -0.05).float().mean())}
    change = net.answer(here + sign * dose * unit) - net.answer(here)
    base = net.answer(here)
    rest = [i for c, i in bed.ids.items() if c not in "ABCXYZ"]
    near, far = ([_beside(base, change, bed.ids[w], rest) for w in TARGETS[side]] for side in ("up", "down"))
    found |= {"words": float(sum(rise > 0.1 for rise in near)), "beyond": float(np.mean(near) - np.mean(far))}
    curve = [0.0, *(float(_moved(bed, here, sign * d * unit).mean()) for d in doses if d <= dose)]
    found |= {"falls": max(before - after for before, after in pairwise(curve))}
    found |= {"other style": float(_moved(bed, there, sign * dose * unit).mean())}
    drawn = torch.randn(40, bed.width, generator=torch.Generator().manual_seed(7))
    drawn = drawn / drawn.norm(dim=1, keepdim=True) * unit.norm()
    best = max((_moved(bed, here[:60], fitting(v) * v).mean() for v in drawn), key=float)
    return found | {"random": float(best)}


def _letters(bed: Switch) -> Float[Tensor, "text width"]:
    """The stream behind each letter, with what three letters before it left."""
    ids = torch.tensor([[bed.ids[c] for c in f"{a}{ascii_lowercase[(i * 7) % 26]}{c}"]
                        for i, c in enumerate(ascii_lowercase) for a in "gmt"])  # fmt: skip
    return bed.module.state(ids)[:, -1]


def _asked(bed: Switch, style: str, rows: int) -> Float[Tensor, "text width"]:
    """The stream behind `:` of texts in one style and the mode `down`."""
    rng = np.random.default_rng([bed.seed, 0x56])
    ids = []
    for _ in range(rows):
        letters = "".join(rng.choice(list(ascii_lowercase), 7))
        side = MARKS["side"][int(rng.random() < RIGHT_SIDE)]
        ids.append([bed.ids[c] for c in f"{style}{letters[:3]}-{letters[3:5]}{side}{letters[5:]}:"])
    return bed.module.state(torch.tensor(ids))[:, -1]


def _moved(bed: Switch, h: Float[Tensor, "text width"], vector: Float[Tensor, "width"]) -> Float[Tensor, "text"]:
    """Change of the mean logit of A, B, C less that of X, Y, Z."""
    change = bed.module.answer(h + vector) - bed.module.answer(h)
    up, down = ([bed.ids[w] for w in TARGETS[side]] for side in ("up", "down"))
    return change[:, up].mean(1) - change[:, down].mean(1)


def _beside(base: Tensor, change: Tensor, word: int, rest: list[int]) -> float:
    """Rise of one word beyond the line on which all other characters moved with their own logit."""
    x, y = base[:, rest], change[:, rest]
    slope = ((x - x.mean(1, keepdim=True)) * (y - y.mean(1, keepdim=True))).sum(1) / x.var(1) / (len(rest) - 1)
    usual = y.mean(1) + slope * (base[:, word] - x.mean(1))
    return float((change[:, word] - usual).mean())


# --- planted claims, for the exam ------------------------------------------------------------------------

Kind = tuple[bool, str, str, dict[str, Any]]
DOWNWARDS = (-2.0, -1.0, -0.5, -0.25, -0.125)

C4_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"how": "random"}),
    (False, "F0", "shuffled labels", {"how": "shuffled"}),
    (False, "F1", "unread copy of the mode", {"how": "copy"}),
    (False, "F1", "direction of another concept", {"how": "side"}),
    (False, "F2", "temperature only", {"how": "heat", "effect": 40.0, "dear": 0.0}),
    (False, "F2", "temperature, and too little of the mode",
     {"how": "warm", "effect": 200.0, "dear": 0.0, "cools": 8.0}),
    (False, "F2", "writes one token whatever the context", {"how": "write"}),
    (False, "F2", "random direction that breaks a fragile default", {"how": "random", "fragile": True}),
    (False, "F2", "opposite on two inputs in five", {"how": "fitted", "acts": "opposed", "effect": 8.0}),
    (False, "F2", "rises with the dose and then falls",
     {"how": "fitted", "acts": "up to a point", "effect": 12.0, "dear": 0.0}),
    (False, "F2", "works in the training style only", {"how": "fitted", "acts": "one style"}),
    (False, "F2", "works over the budget only", {"how": "fitted", "effect": 0.4, "dear": 0.5, "doses": (1.0, 2.0)}),
    (False, "F3", "half of the claimed size", {"how": "fitted", "effect": 4.0, "claimed": 8.0}),
    (False, "F3", "better than prompting", {"how": "fitted", "effect": 3.0, "dear": 0.1, "advantage": True}),
    (True, "T0", "fitted mode", {"how": "fitted"}),
    (True, "T0", "contrast of texts", {"how": "contrast"}),
    *(
        (True, f"T1x{k:g}", f"{k:g} times the smallest effect", {"how": "fitted", "effect": 0.5 * k})
        for k in (0.5, 1, 2, 4)
    ),
    (True, "T2", "acts only where relevant", {"how": "fitted", "acts": "one side"}),
    (True, "T2", "small but clean", {"how": "fitted", "effect": 1.5, "dear": 0.0}),
    (True, "T2", "negative dose only", {"how": "minus mode", "doses": DOWNWARDS}),
    (True, "T2", "only small doses fit the budget", {"how": "fitted", "dear": 0.1}),
)  # fmt: skip


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a bed of its own seed."""
    kinds = {"C4": C4_KINDS}.get(claim_type, ())
    first = seed * 100_000 + (FINAL if final else 0)
    size = {"width": 192} if final else {}
    out = []
    for truth, grade, trap, settings in kinds:
        for i in range(count):
            chosen = {**settings, **size, "seed": first + i}
            out.append(Planting(claim_type, truth, grade, trap, "veriscope.zoo.modes:steers", tuple(chosen.items())))
    return out


def steers(
    seed: int,
    how: str,
    claimed: float = 0.5,
    advantage: bool = False,
    doses: tuple[float, ...] = DOSES,
    **dials: Any,
) -> tuple[Steers, Subject]:
    """A C4 claim: a vector that was fitted or written down (`how`) moves the answer towards A, B, C."""
    bed = Switch(seed=seed, **dials)
    subject, data = bed.subject(), bed.examples()
    finding: Reading | Change
    if how == "contrast":
        finding = method("ContrastAddition", site="stream", toward="up").fit(subject, data.dev)
    elif how in ("fitted", "shuffled"):
        labels = data.dev.labels if how == "fitted" else _deaf(data.dev.labels, seed)
        finding = method("MeanDifference", site="stream").fit(subject, data.dev.relabel(labels))
    else:
        origin = Origin("MeanDifference", {"site": "stream"}, subject.hash, data.hash, "mode", "stream", "last", 0, 1)
        finding = Change("add", "stream", "last", origin, vector=bed.vector(how), toward="up")
    claim = Steers(
        finding, "up", "mode", data, TARGETS, bed.neutral(), advantage=advantage, doses=tuple(doses), at="all",
        name=f"up ({how})", smallest_effect=claimed,
    )  # fmt: skip
    return claim, subject


def _deaf(labels: Sequence[str], seed: int) -> list[str]:
    """Labels that say nothing of the mode: shuffled so that each is as frequent in either mode.

    Plainly shuffled ones won't do. Their means differ most along what varies most, which is the mode: such a direction
    often has a third of its length there, and a claim that it steers is then true, whatever it was fitted on.
    """
    rng = np.random.default_rng([seed, 0x57])
    given = np.array(labels, dtype=object)
    drawn, names = given.copy(), sorted(set(labels))
    for name in names:
        rows = rng.permutation(np.flatnonzero(given == name))
        drawn[rows] = [names[i % 2] for i in range(len(rows))]
    return drawn.tolist()

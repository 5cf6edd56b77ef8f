"""Bed D3: false C2 claims that a single gate stands against, each on a network written down for it.

All networks share one body: the words of a text like `t3 n41 p7 w1 n9` are summed into a residual stream, the site, and
a head reads it. The variable z is the kind of the p word. What differs is where z is written, what the head reads and
what goes round the site on a bypass. A swap of the claimed subspace gives the predicted answer, and yet the claim is
false: too little of the variable stands there, any subspace of that size would do, an untrained network does it too,
the path is dormant, another variable goes along, a whole class of words moves, it works one way only, it is another
variable's subspace, or the model does not do what it is said to do. `self_test` measures each on the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from veriscope.claims.mediates import Mediates
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples, examples
from veriscope.methods import MeanDifference
from veriscope.subjects import Edit, Subject, Swap, WordReader, load

SITE = "residual"
TEMPLATES, NOUNS, NOISE, FILLERS = 80, 24, 150, 60
ANSWERS = ("yes", "no", "maybe")
VOCAB = [
    *(f"t{i}" for i in range(TEMPLATES)), *(f"p{i}" for i in range(NOUNS)), *(f"n{i}" for i in range(NOISE)),
    *(f"w{i}" for i in range(4)), *(f"f{i}" for i in range(FILLERS)), *ANSWERS,
]  # fmt: skip
WORD = {word: i for i, word in enumerate(VOCAB)}
SIZE = 1.5  # of what a noun writes
GAIN = 2.0  # logits that one unit along what is read adds
Writes = Callable[[str], Tensor | None]
Rows = list[dict[str, str]]


class Net(nn.Module):
    """Words summed up to each position; `writes` are what noun and w words add, `reads` what tokens get from it."""

    def __init__(
        self,
        writes: Writes,
        reads: Mapping[str, Tensor],
        bypass: Mapping[str, float] | None = None,
        bend: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        noise: float = 0.25,
        width: int = 32,
    ) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(VOCAB), width)
        self.side = nn.Embedding(len(VOCAB), 1)
        self.residual = nn.Identity()
        self.head = nn.Linear(width, len(VOCAB), bias=False)
        self.side_head = nn.Linear(1, len(VOCAB), bias=False)
        self.bend = bend or (lambda h: h)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.head.weight.copy_(0.05 * torch.randn(len(VOCAB), width, generator=rng))
            self.side.weight.zero_()
            self.side_head.weight.zero_()
            for word, i in WORD.items():
                if word[0] in "nt" and word[1:].isdigit():
                    self.embed.weight[i] = noise * torch.randn(width, generator=rng)
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
        """Logits at every position."""
        h = self.residual(self.embed(input_ids).cumsum(1))
        return self.head(self.bend(h)) + self.side_head(self.side(input_ids).cumsum(1))


# --- words and rows ---------------------------------------------------------------------------------------


def noun_sign(word: str) -> float | None:
    """The variable where it has two values: odd nouns are 1, even ones 0."""
    return None if word[0] != "p" or not word[1:].isdigit() else (1.0 if int(word[1:]) % 2 else -1.0)


def along(direction: Tensor) -> Writes:
    """Nouns write the variable along a direction."""

    def writes(word: str) -> Tensor | None:
        sign = noun_sign(word)
        return None if sign is None else SIZE * sign * direction

    return writes


def beside(direction: Tensor, nouns: Writes) -> Writes:
    """The same, and w words write which of them they are along another direction."""
    return lambda word: (SIZE if word == "w1" else -SIZE) * direction if word in ("w0", "w1") else nouns(word)


def opposed(direction: Tensor, gain: float = GAIN) -> dict[str, Tensor]:
    """Yes is read along a direction and no against it."""
    return {"yes": gain * direction, "no": -gain * direction}


def rows_of(n: int, seed: int = 0) -> Rows:
    """Sentences `template noise noun w noise`, the source with a noun of the other kind and all else the same."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        t, a, b, z, w = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE, 2, 2))
        noun, other = 2 * int(rng.integers(NOUNS // 2)) + z, 2 * int(rng.integers(NOUNS // 2)) + 1 - z
        row = {
            "text": f"t{t} n{a} p{noun} w{w} n{b}", "source": f"t{t} n{a} p{other} w{w} n{b}", "z": str(z),
            "answer": "yes" if z else "no", "expected": "no" if z else "yes", "template": f"t{t}", "w": f"w{w}",
        }  # fmt: skip
        rows.append(row)
    return rows


def with_word(text: str, place: int, word: str) -> str:
    """A text with another word at a place."""
    parts = text.split()
    parts[place] = word
    return " ".join(parts)


def loaded_rows(rows: Sequence[dict[str, str]], factors: Sequence[str] = ("w",), **more: Any) -> Examples:
    """The rows as examples with z as the label, split by template."""
    return examples(rows, label="z", cluster="template", answer="answer", source_text="source", expected="expected",
                    factors=list(factors), **more)  # fmt: skip


def open_net(module: nn.Module, name: str = "swaps") -> Subject:
    """The network as any other subject."""
    return load(module, tokenizer=WordReader(VOCAB), name=name)


# --- the networks, and what is claimed about each -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Made:
    """A network, rows about it, and the subspace claimed (None: the one that the mean difference fits)."""

    net: Net
    rows: Rows
    weight: Float[Tensor, "width column"] | None = None
    factors: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Swaps:
    """One seed's networks, of one width."""

    seed: int = 0
    width: int = 32
    rows: int = 1_200

    @cached_property
    def axes(self) -> Float[Tensor, "width width"]:
        """Orthonormal columns, none along a coordinate."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.linalg.qr(torch.randn(self.width, self.width, generator=rng))[0]

    @property
    def corners(self) -> Float[Tensor, "value width"]:
        """Of a triangle, for a variable of three values."""
        a, b = self.axes[:, 0], self.axes[:, 1]
        return torch.stack([a, -0.5 * a + 0.87 * b, -0.5 * a - 0.87 * b])

    def net(self, writes: Writes, reads: Mapping[str, Tensor], **more: Any) -> Net:
        """A network of this seed."""
        return Net(writes, reads, seed=self.seed, width=self.width, **more)

    def plain(self) -> Net:
        """Nouns write z along the first axis and the head reads it there: a true mediator."""
        return self.net(along(self.axes[:, 0]), opposed(self.axes[:, 0]))

    def three(self, marks: Tensor | None = None) -> Net:
        """The same of three values; w words are told apart along `marks`."""

        def nouns(word: str) -> Tensor | None:
            return 2.0 * self.corners[int(word[1:]) % 3] if noun_sign(word) else None

        reads = {word: GAIN * corner for word, corner in zip(ANSWERS, self.corners, strict=True)}
        return self.net(nouns if marks is None else beside(marks, nouns), reads)

    def three_rows(self, step: Callable[[np.random.Generator], tuple[int, int]], marked: float = 0.0) -> Rows:
        """Rows about three values; `step` draws a base's and its source's, w1 marks a share of the texts."""
        rng, rows = np.random.default_rng([self.seed, 0xD3]), []
        for _ in range(self.rows):
            t, n, m = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE))
            z, other = step(rng)
            noun, source = (3 * int(rng.integers(NOUNS // 3)) + v for v in (z, other))
            end = f"w{int(rng.random() < marked)} n{m}"
            rows.append({"text": f"t{t} n{n} p{noun} {end}", "source": f"t{t} n{n} p{source} {end}", "z": str(z),
                         "template": f"t{t}", "answer": ANSWERS[z], "expected": ANSWERS[other]})  # fmt: skip
        return rows


def lacks_behaviour(bed: Swaps) -> Made:
    """i0: z has three values; in texts marked w1 the model says the word of the third, in all others never."""
    net = bed.three(marks=bed.axes[:, 2])
    net.head.weight.data[WORD[ANSWERS[2]]] += 20.0 * bed.axes[:, 2]
    return Made(net, bed.three_rows(_any_step, marked=0.35), bed.axes[:, :2])


def _any_step(rng: np.random.Generator) -> tuple[int, int]:
    z = int(rng.integers(3))
    return z, (z + 1 + int(rng.integers(2))) % 3


def commonest_or_not(bed: Swaps) -> Made:
    """g1: one direction tells the commonest of three values from the others, and most pairs expect the commonest."""

    def step(rng: np.random.Generator) -> tuple[int, int]:
        rest = 1 + int(rng.integers(2))
        return (rest, 0) if rng.random() < 0.88 else (0, rest)

    return Made(bed.three(), bed.three_rows(step), bed.axes[:, :1])


def any_would_do(bed: Swaps) -> Made:
    """g2: a random subspace of three quarters of all dimensions, as any of that size moves the answer."""
    rng = torch.Generator().manual_seed(bed.seed + 1)
    drawn = torch.randn(bed.width, 3 * bed.width // 4, generator=rng)
    return Made(bed.plain(), rows_of(bed.rows, bed.seed), drawn)


def nothing_learnt(bed: Swaps) -> Made:
    """g3: nothing of the mechanism is a weight that training could have set, so a random-weight twin has it too."""
    net = bed.plain()
    for part in (net.embed, net.head, net.side, net.side_head):
        kept = part.weight.detach().clone()
        del part.weight
        part.register_buffer("weight", kept)
    net.spare = nn.Linear(2, 2)
    return Made(net, rows_of(bed.rows, bed.seed), factors=("w",))


def dormant(bed: Swaps, gain: float = 6.0) -> tuple[Net, Tensor]:
    """A carrier that nothing reads, a reader on which only noise stands, a bypass with the behaviour; and their sum."""
    carrier, reader = bed.axes[:, 0], bed.axes[:, 1]
    net = bed.net(along(carrier), {}, bypass={"yes": 2.0, "no": -2.0})
    net.head.weight.data -= (net.head.weight.data @ carrier)[:, None] * carrier
    net.embed.weight.data -= (net.embed.weight.data @ reader)[:, None] * reader
    rng = torch.Generator().manual_seed(bed.seed + 5)
    net.embed.weight.data += 0.3 * torch.randn(len(VOCAB), 1, generator=rng) * reader
    net.head.weight.data[WORD["yes"]] += gain * reader
    net.head.weight.data[WORD["no"]] -= gain * reader
    return net, (carrier + reader)[:, None]


def dormant_path(bed: Swaps) -> Made:
    """g4: the direction joins the carrier with the reader; the reader's own noise keeps the swap on distribution."""
    net, weight = dormant(bed)
    net.side_head.weight.data *= 4.0
    net.head.weight.data[[WORD["yes"], WORD["no"]]] *= 1.5
    return Made(net, rows_of(bed.rows, bed.seed), weight, factors=("w",))


def plane_of_two(bed: Swaps) -> Made:
    """g5: yes where z and w agree; the plane holds both, so swapping it for z's sake changes w's share."""
    u, v, out = bed.axes[:, :3].T

    def bend(h: Tensor) -> Tensor:
        return h + GAIN * torch.tanh((h @ u)[..., None]) * torch.tanh((h @ v)[..., None]) * out

    rows = []
    for r in rows_of(bed.rows, bed.seed):
        agree = r["z"] == r["w"][1]
        rows.append({**r, "answer": "yes" if agree else "no", "expected": "no" if agree else "yes"})
    return Made(bed.net(beside(v, along(u)), opposed(out), bend=bend), rows, bed.axes[:, :2])


def class_of_words(bed: Swaps) -> Made:
    """g6: the direction moves yes against no, and thirty other words with each."""
    u = bed.axes[:, 0]
    reads = opposed(u) | {f"f{i}": GAIN * u if i % 2 else -GAIN * u for i in range(FILLERS)}
    return Made(bed.net(along(u), reads), rows_of(bed.rows, bed.seed), factors=("w",))


KINDS = ((0, False), (1, True), (2, True), (1, False), (2, False), (0, False))  # of nouns: value, and whether copied


def one_way(bed: Swaps) -> Made:
    """g7: behind an OR, putting the value in works, taking it out does not, because a copy stands beside it."""
    first, second = bed.axes[:, [0, 1]], bed.axes[:, [2, 3]]  # for each of two values, its direction and its copy's
    outs = bed.axes[:, [4, 5]]

    def writes(word: str) -> Tensor | None:
        if noun_sign(word) is None:
            return None
        z, copied = KINDS[int(word[1:]) % 6]
        signs = [torch.tensor([1.0 if z == v else -1.0, 1.0 if z == v and copied else -1.0]) for v in (1, 2)]
        return SIZE * (first @ signs[0] + second @ signs[1])

    def bend(h: Tensor) -> Tensor:
        either = torch.stack([torch.tanh(3 * (h @ pair)).amax(-1) for pair in (first, second)], -1)
        return h - (h @ outs) @ outs.T + 2.0 * either @ outs.T

    net = bed.net(writes, {"yes": 2 * outs[:, 0], "maybe": 2 * outs[:, 1]}, bend=bend)
    net.side.weight.data[[WORD[w] for w in VOCAB if w[0] == "p"]] = 1.0
    net.side_head.weight.data[WORD["no"]] = 1.0
    weight = torch.stack([first[:, 0], second[:, 0]], 1)
    return Made(net, one_way_rows(bed.rows, bed.seed), weight)


def one_way_rows(n: int, seed: int) -> Rows:
    """Interchange pairs whose base always has the value 0, beside isolation pairs of the other values."""
    rng = np.random.default_rng(seed)
    words, rows = ("no", "yes", "maybe"), []
    for i in range(n):
        t, a, b = (int(rng.integers(k)) for k in (TEMPLATES, NOISE, NOISE))
        alike = [(1, 3), (2, 4), (3, 1), (4, 2)][int(rng.integers(4))]
        base, source = (0, 1 + int(rng.integers(2))) if i % 3 else alike
        noun, other = (6 * int(rng.integers(NOUNS // 6)) + kind for kind in (base, source))
        rows.append({
            "text": f"t{t} n{a} p{noun} n{b}", "source": f"t{t} n{a} p{other} n{b}", "template": f"t{t}",
            "z": str(KINDS[base][0]), "answer": words[KINDS[base][0]], "expected": words[KINDS[source][0]],
            "pair": "interchange" if i % 3 else "isolation",
        })  # fmt: skip
    return rows


def wrong_name(bed: Swaps) -> Made:
    """f8: w is what the head reads; z goes along with it in 19 rows of 20, and in every pair."""
    u, v = bed.axes[:, 0], bed.axes[:, 1]
    rng, rows = np.random.default_rng([bed.seed, 0xF8]), []
    for r in rows_of(bed.rows, bed.seed):
        w = int(r["z"]) if rng.random() < 0.95 else 1 - int(r["z"])
        text, source = with_word(r["text"], 3, f"w{w}"), with_word(r["source"], 3, f"w{1 - w}")
        answers = {"answer": "yes" if w else "no", "expected": "no" if w else "yes"}
        rows.append({**r, "text": text, "source": source, "w": f"w{w}", **answers})
    net = bed.net(beside(v, along(0.3 * u)), opposed(v))
    return Made(net, rows, factors=("w",), rivals=("w",))


@dataclass(frozen=True)
class Trap:
    """A false claim and the gate that alone stands against it."""

    gate: str
    grade: str
    trap: str
    make: Callable[[Swaps], Made]


TRAPS: dict[str, Trap] = {
    t.gate: t
    for t in (
        Trap("i0", "F3", "scope: in nearly half of the texts the model does something else", lacks_behaviour),
        Trap("g1", "F1", "only whether it is the commonest value", commonest_or_not),
        Trap("g2", "F2", "so many dimensions that any would do", any_would_do),
        Trap("g3", "F2", "an untrained network does it as well", nothing_learnt),
        Trap("g4", "F2", "dormant path on a noisy reader", dormant_path),
        Trap("g5", "F1", "plane of two variables, claimed for one", plane_of_two),
        Trap("g6", "F2", "lifts a whole class of words", class_of_words),
        Trap("g7", "F3", "one way: enough to put in, not needed", one_way),
        Trap("f8", "F1", "the subspace of a variable that goes along", wrong_name),
    )
}


# --- planted claims, for the exam -----------------------------------------------------------------------------


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a network of its own seed."""
    if claim_type != "C2":
        return []
    first, size = seed * 100_000 + (FINAL if final else 0), {"width": 40} if final else {}
    return [
        Planting("C2", False, t.grade, t.trap, "veriscope.zoo.swaps:mediates",
                 tuple({"trap": t.gate, **size, "seed": first + i}.items()))
        for t in TRAPS.values() for i in range(count)
    ]  # fmt: skip


def mediates(trap: str, seed: int, **dials: Any) -> tuple[Mediates, Subject]:
    """The false C2 claim that one gate stands against, and its network."""
    made = TRAPS[trap].make(Swaps(seed, **dials))
    return claim_of(made, f"z ({TRAPS[trap].trap})")


def claim_of(made: Made, name: str = "z") -> tuple[Mediates, Subject]:
    """A claim as a user would make it: fitted, or with the subspace written down by hand."""
    subject, data = open_net(made.net), loaded_rows(made.rows, made.factors + (("pair",) * ("pair" in made.rows[0])))
    finding = MeanDifference(site=SITE).fit(subject, data.dev)
    if made.weight is not None:
        weight = made.weight
        if weight.shape[1] > 1:  # several columns belong to several classes and are centred
            weight = torch.cat([weight, -weight.sum(1, keepdim=True)], 1)
        k = weight.shape[1]
        names = tuple(str(i) for i in range(max(k, 2)))
        finding = dataclasses.replace(finding, weight=weight, bias=torch.zeros(k), classes=names, gaps=(0.0,) * k)
    return Mediates(finding, "z", data, name, rivals=made.rivals), subject


# --- the truth, on the weights ----------------------------------------------------------------------------------


def self_test(trap: str, bed: Swaps) -> dict[str, float]:
    """What a swap of the claimed subspace does, worked out by runs of the network and none of the verifier.

    Returns:
        `iia`: share of pairs that give the expected answer; `constant`: that of the best constant; `right`: share of
        texts answered rightly. And what makes the claim false: `random` (IIA of the best of five random subspaces),
        `untrained` (IIA with all parameters drawn anew), `read` (IIA of the part that the head reads), `back` (IIA the
        other way round), `stays` (share of answers that stay when the source has the same z), `beyond others` (rise of
        the expected word less that of the words beside it, in clean ranges), `without w` (IIA where w stays).
    """
    made = TRAPS[trap].make(bed)
    claim, subject = claim_of(made)
    basis = claim.finding.basis
    rows = [r for r in made.rows if r["answer"] != r["expected"]]
    found = {"iia": _iia(subject, rows, basis), "constant": _commonest(rows), "right": _right(subject, rows)}
    if trap == "g2":
        drawn = (torch.linalg.qr(torch.randn(basis.shape, generator=torch.Generator().manual_seed(i)))[0]
                 for i in range(5))  # fmt: skip
        found["random"] = max(_iia(subject, rows, q) for q in drawn)
    if trap == "g3":
        found["untrained"] = _iia(subject.twin("random", bed.seed), rows, basis)
    if trap == "g4":
        found["read"] = _iia(subject, rows, bed.axes[:, 1:2])
    if trap == "g5":
        other = np.random.default_rng(0).permutation(len(rows))
        alike = [{**r, "source": rows[j]["text"], "expected": r["answer"]}
                 for r, j in zip(rows, other, strict=True) if r["z"] == rows[j]["z"]]  # fmt: skip
        found["stays"] = _iia(subject, alike, basis)
    if trap == "g6":
        found["beyond others"] = _beyond_others(subject, rows, basis)
    if trap == "g7":
        turned = [{**r, "text": r["source"], "source": r["text"], "expected": r["answer"]} for r in rows]
        found["back"] = _iia(subject, turned, basis)
    if trap == "f8":
        kept = [{**r, "source": with_word(r["source"], 3, r["w"])} for r in rows]
        found["without w"] = _iia(subject, kept, basis)
    return found


def _iia(subject: Subject, rows: Sequence[Mapping[str, str]], basis: Float[Tensor, "width r"]) -> float:
    """Share of rows that give the expected answer with the source's value in a subspace."""
    given = subject.acts([r["source"] for r in rows], SITE, "last")
    logits = subject.run([r["text"] for r in rows], edits=[Edit(SITE, Swap(given, basis), at="last")], logits="last")
    return _share(logits.logits, [r["expected"] for r in rows])


def _right(subject: Subject, rows: Sequence[Mapping[str, str]]) -> float:
    return _share(subject.run([r["text"] for r in rows], logits="last").logits, [r["answer"] for r in rows])


def _share(logits: Tensor | None, wanted: Sequence[str]) -> float:
    assert logits is not None
    said = logits[:, [WORD[w] for w in ANSWERS]].argmax(1).tolist()
    return float(np.mean([ANSWERS[i] == w for i, w in zip(said, wanted, strict=True)]))


def _commonest(rows: Sequence[Mapping[str, str]]) -> float:
    return max(float(np.mean([r["expected"] == w for r in rows])) for w in ANSWERS)


def _beyond_others(subject: Subject, rows: Sequence[Mapping[str, str]], basis: Float[Tensor, "width r"]) -> float:
    """Rise of the expected word less that of the fillers that were within a logit of it, in units of its full rise."""
    given = subject.acts([r["source"] for r in rows], SITE, "last")
    texts = [r["text"] for r in rows]
    before = subject.run(texts, logits="last").logits
    after = subject.run(texts, edits=[Edit(SITE, Swap(given, basis), at="last")], logits="last").logits
    assert before is not None and after is not None
    expected = torch.tensor([WORD[r["expected"]] for r in rows])[:, None]
    fillers = [WORD[f"f{i}"] for i in range(FILLERS)]
    near = (before[:, fillers] - before.gather(1, expected)).abs() < 1.0
    rise = (after - before).gather(1, expected)[:, 0]
    others = ((after - before)[:, fillers] * near).sum(1) / near.sum(1).clamp_min(1)
    return float((rise - others).mean() / rise.mean())

"""Bed D2: a small GPT-2 with set weights in which several heads carry one variable, or one repairs another.

The network reads texts like `s n3 n17 k41 n8 n2 ?`. The variable z is a bit of the k word; behind `?` the answer is yes
or no. Heads of block 0 look from `?` to the k word and write its bit, each on a direction of its own; the MLP of block
1 adds those directions up and writes the answer:

    plain   one head carries z
    shared  all heads of block 0 but two carry some of z, one of them the most; the sum is read as it is
    or      two heads carry z and the sum is cut off, so that either is enough
    three   three heads do, and the sum is cut off: no single one can turn the answer
    backup  one head carries z; a head of block 1 looks to the k word only where the first one has written nothing
    centre  one head carries z and also the topic of the text, by which every next word is chosen
    sized   two heads carry z; the answer needs that the first one writes something, but little of what it writes
    offset  one head carries z beside a constant; set to its mean the constant goes on and a head of block 1 sleeps, set
            to zero that one wakes

Beside them stand a loud head, which writes z six times as large on a direction that nothing reads, and heads that carry
noise. (Real models have such heads: The Hydra Effect, McGrath 2023; Interpretability in the Wild, Wang 2022.)

Layer norms are there and do nothing: two coordinates of the residual stream are so large that every norm divides by
nearly the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples, examples
from veriscope.findings import Change, Origin, Part, Parts, Reading
from veriscope.methods import method
from veriscope.subjects import Edit, Mean, Read, Resample, SetTo, Subject, WordReader, load
from veriscope.zoo.dormant import clear_of, shuffles, written

KEYS = 240
NOISE = 60
TOPICS = 5
BETWEEN = 4  # noise words of a text
LARGE = 200.0  # of the two coordinates that hold the norms still
SHARP = 12.0  # by which a ReLU made of GELUs is sharpened
SPREAD = 0.3  # of each word along any direction that nothing else stands on
NOISY = 0.2  # of what a carrying head writes beside z
GAIN = 3.0  # logits that the answer adds to yes and takes from no
ANSWERS = ("yes", "no")
KINDS = ("plain", "shared", "or", "three", "backup", "centre", "sized", "offset")
READ_OF_FIRST = 0.2  # "sized": what the answer takes of the first head's z, the rest being the second's
OFFSET = 2.0  # of the constant beside z, so that even at its mean a head writes something
FIRST, SECOND, WRITTEN = "blocks.0.heads.z", "blocks.1.heads.z", "blocks.0.attn_out"


@dataclass(frozen=True)
class Redundant:
    """The bed: its network, its texts and its truth table, from one seed and its dials.

    Args:
        seed: Seed of weights and texts; it also says which heads do what.
        kind: How z is carried; see the module's text.
        excess: For "shared": how much more of the answer the main head carries than each other head of block 0.
        quiet: Whether there is no loud head.
        lean: Logits by which yes is preferred whatever z says; above 6 the network never answers no.
        loudness: What the loud head writes of z, a carrier writing 1.
    """

    seed: int = 0
    kind: str = "plain"
    excess: float = 0.4
    quiet: bool = False
    lean: float = 0.0
    loudness: float = 6.0
    heads: int = 8
    head_width: int = 8
    rows: int = 1_000

    @property
    def width(self) -> int:
        return self.heads * self.head_width

    @cached_property
    def vocab(self) -> dict[str, int]:
        words = ["s", "?", *ANSWERS, *(f"k{i}" for i in range(KEYS)), *(f"n{i}" for i in range(NOISE))]
        return {w: i for i, w in enumerate(words)}

    @cached_property
    def bits(self) -> Int[np.ndarray, "key"]:
        """z of each k word."""
        return np.random.default_rng([self.seed, 0xE1]).permutation(np.arange(KEYS) % 2)

    @cached_property
    def order(self) -> list[int]:
        """Heads by what they do: carriers first, the loud one last."""
        return [int(i) for i in np.random.default_rng([self.seed, 0xE2]).permutation(self.heads)]

    @cached_property
    def shares(self) -> dict[tuple[int, int], float]:
        """What each (block, head) that can carry z writes of it on the direction that is read."""
        main, *others = ((0, h) for h in self.order)
        if self.kind == "shared":
            most = self.heads - 2  # two heads are left to carry other things
            least = (1 - self.excess) / most
            return {main: least + self.excess, **dict.fromkeys(others[: most - 1], least)}
        carriers = {"or": 2, "three": 3, "sized": 2}.get(self.kind, 1)
        found = {main: 1.0, **dict.fromkeys(others[: carriers - 1], 1.0)}
        return {**found, (1, self.order[0]): 1.0} if self.wakes else found

    @property
    def wakes(self) -> bool:
        """Whether a head of block 1 carries z where the first one writes nothing."""
        return self.kind in ("backup", "offset")

    @property
    def loud(self) -> tuple[int, int] | None:
        """The head whose large output nobody reads; "shared" has none."""
        return None if self.quiet or self.kind == "shared" else (0, self.order[-1])

    # --- weights

    @cached_property
    def basis(self) -> Float[Tensor, "width feature"]:
        """Orthonormal columns at right angles to the two large coordinates and to the ones, which a norm takes out."""
        rng = torch.Generator().manual_seed(self.seed)
        fixed = torch.zeros(self.width, 3)
        fixed[0, 0] = fixed[1, 1] = 1.0
        fixed[:, 2] = 1.0
        drawn = torch.cat([fixed, torch.randn(self.width, self.width - 3, generator=rng)], 1)
        return torch.linalg.qr(drawn.double())[0][:, 3:].float()

    @cached_property
    def features(self) -> dict[str, int]:
        names = ["ask", "is key", "start", "bit", "awake", "answer", "loud", "backup"]
        names += [f"code{i}" for i in range(TOPICS)] + [f"topic{i}" for i in range(TOPICS)]
        names += [f"from {h}" for h in range(self.heads)]
        return {name: i for i, name in enumerate(names)}

    def direction(self, feature: str) -> Float[Tensor, "width"]:
        """Unit vector of a feature of the residual stream."""
        return self.basis[:, self.features[feature]]

    def written(self, part: tuple[int, int]) -> Float[Tensor, "width"]:
        """Where a carrying head writes z."""
        return self.direction("backup" if part[0] == 1 else f"from {part[1]}")

    @cached_property
    def module(self) -> GPT2LMHeadModel:
        config = GPT2Config(
            vocab_size=len(self.vocab), n_positions=48, n_embd=self.width, n_layer=2, n_head=self.heads, n_inner=8,
            bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
        )  # fmt: skip
        net = GPT2LMHeadModel(config)
        with torch.no_grad():
            for weight in net.parameters():
                weight.zero_()
            self._norms(net)
            self._words(net)
            self._heads(net)
            self._mlps(net)
        return net.eval()

    # `net` is Any below: transformers does not tell types what a GPT-2 is made of.

    def _norms(self, net: Any) -> None:
        net.transformer.wpe.weight[:, 0], net.transformer.wpe.weight[:, 1] = LARGE, -LARGE
        norms = [net.transformer.ln_f, *(n for block in net.transformer.h for n in (block.ln_1, block.ln_2))]
        for norm in norms:
            norm.weight.fill_(LARGE * (2 / self.width) ** 0.5)

    def _words(self, net: Any) -> None:
        """What each word writes, and what the head reads: the answer behind `?`, elsewhere what the last word calls."""
        rng = torch.Generator().manual_seed(self.seed + 1)
        d, spare = self.direction, self.basis[:, len(self.features) :]
        embed, head = net.transformer.wte.weight, net.lm_head.weight
        head.copy_(0.05 * torch.randn(len(self.vocab), spare.shape[1], generator=rng) @ spare.T)
        calls = "topic" if self.kind == "centre" else "code"
        for word, i in self.vocab.items():
            kind, number = word[0], int(word[1:]) if word[1:].isdigit() else 0
            embed[i] = SPREAD * spare @ torch.randn(spare.shape[1], generator=rng)
            embed[i] += d(f"code{i % TOPICS}")
            if kind == "k":
                embed[i] += d("is key") + float(2 * self.bits[number] - 1) * d("bit") + d(f"topic{number % TOPICS}")
            if word in ("s", "?"):
                embed[i] = d("start" if word == "s" else "ask")
            if word in ANSWERS:
                head[i] += (6.0 + self.lean * (word == "yes")) * d("ask") + GAIN * (1.0 if word == "yes" else -1.0) * d(
                    "answer"
                )
            if kind == "n" and number < 2 * TOPICS:
                head[i] += 4.0 * d(f"{calls}{number % TOPICS}")

    def _heads(self, net: Any) -> None:
        for block in (0, 1):
            for h in range(self.heads):
                part = (block, h)
                self._noise(net, part)
                if part in self.shares or part == self.loud:
                    self._carry(net, part)

    def _noise(self, net: Any, part: tuple[int, int]) -> None:
        """Carry noise from what is looked at (all alike, by itself) to where little is read, and a trace everywhere."""
        rng = torch.Generator().manual_seed(self.seed * 97 + part[0] * 31 + part[1])
        spare, attention = self.basis[:, len(self.features) :], net.transformer.h[part[0]].attn
        v = self._columns(part[1])[2]
        drawn = (spare @ torch.randn(spare.shape[1], self.head_width, generator=rng) for _ in range(2))
        seen, put = next(drawn) / 3, next(drawn) / 15 + 0.01 * torch.randn(self.width, self.head_width, generator=rng)
        attention.c_attn.weight[:, v : v + self.head_width] = seen
        attention.c_proj.weight[v - 2 * self.width : v - 2 * self.width + self.head_width] = put.T

    def _carry(self, net: Any, part: tuple[int, int]) -> None:
        """Look from `?` to the k word, else to the start, where there is nothing; write the bit that is seen."""
        d, attention = self.direction, net.transformer.h[part[0]].attn
        q, k, v = self._columns(part[1])
        scale = self.head_width**0.25  # once in the query and once in the key: scores are what is written here
        w, b = attention.c_attn.weight, attention.c_attn.bias
        w[:, q] = 5.0 * scale * d("ask")
        if part[0] == 1 and self.wakes:  # with a first head at work, the k word scores under the start
            w[:, q] -= 6.0 * scale * d("awake")
        if self.kind == "centre" and part in self.shares:
            b[q] = 5.0 * scale  # every word behind it looks to the k word
            w[:, q] = 0.0
        w[:, k] = 4.0 * scale * d("is key")
        b[q + 1] = 3.0 * scale
        w[:, k + 1] = 3.0 * scale * d("start")
        rng = torch.Generator().manual_seed(self.seed * 101 + part[0] * 37 + part[1])
        spare = self.basis[:, len(self.features) :]
        own = torch.randn(spare.shape[1], generator=rng)
        w[:, v] = d("bit") + NOISY / SPREAD * spare @ (own / own.norm())
        if self.kind == "offset" and part[0] == 0 and part in self.shares:
            w[:, v] += OFFSET * d("is key")
        out = attention.c_proj.weight
        loud = part == self.loud
        out[v - 2 * self.width] = self.loudness * d("loud") if loud else self.shares[part] * self.written(part)
        if self.kind == "centre" and part in self.shares:
            for t in range(TOPICS):
                w[:, v + 1 + t] = d(f"topic{t}")
                out[v - 2 * self.width + 1 + t] = d(f"topic{t}")

    def _columns(self, h: int) -> tuple[int, int, int]:
        """First column of a head's query, key and value."""
        start = h * self.head_width
        return start, start + self.width, start + 2 * self.width

    def _mlps(self, net: Any) -> None:
        """Block 0 writes down how much its carrier says; block 1 adds the carriers up and writes the answer."""
        first, answer, awake = self.written(next(iter(self.shares))), self.direction("answer"), self.direction("awake")
        total = torch.stack([self.written(part) for part in self.shares]).sum(0)
        if self.kind in ("backup", "sized"):
            self._pair(net, 0, first, awake, size=True)
        if self.kind == "offset":  # ReLU(2x) - ReLU(2x - 1): whether anything is written at all
            self._units(net, 0, 2 * torch.stack([first, first], 1), (0.0, -1.0), torch.stack([awake, -awake]))
            total = total - OFFSET * awake
        if self.kind == "sized":  # ReLU(x + size - 1) - ReLU(-x + size - 1): x, where the size is 1
            x = READ_OF_FIRST * first + (1 - READ_OF_FIRST) * (total - first)
            self._units(net, 1, torch.stack([x + awake, awake - x], 1), (-1.0, -1.0), torch.stack([answer, -answer]))
            return
        cut = self.kind in ("or", "three") or self.wakes
        self._pair(net, 1, 2 * total if cut else total, answer, cut=cut)

    def _units(self, net: Any, block: int, reads: Tensor, bias: tuple[float, float], writes: Tensor) -> None:
        """Two units, each ReLU(what it reads + its bias) on what it writes."""
        mlp = net.transformer.h[block].mlp
        mlp.c_fc.weight[:, :2] = SHARP * reads
        mlp.c_fc.bias[:2] = SHARP * torch.tensor(bias)
        mlp.c_proj.weight[:2] = writes / SHARP

    def _pair(self, net: Any, block: int, reads: Tensor, writes: Tensor, size: bool = False, cut: bool = False) -> None:
        """Two units that write a value as it is (GELU(x) - GELU(-x) = x), its size, or the value cut off at 1."""
        mlp = net.transformer.h[block].mlp
        second = 1.0 if cut else -1.0
        mlp.c_fc.weight[:, :2] = SHARP * torch.stack([reads, second * reads], 1)
        if cut:
            mlp.c_fc.bias[:2] = torch.tensor([SHARP, -SHARP])  # ReLU(x + 1) - ReLU(x - 1) - 1
            mlp.c_proj.bias.copy_(-writes)
        sign = 1.0 if size else -1.0
        mlp.c_proj.weight[:2] = torch.stack([writes, sign * writes]) / SHARP

    # --- what is known, and texts

    def subject(self) -> Subject:
        """The network as any other subject."""
        return load(self.module, tokenizer=WordReader(list(self.vocab)), name=f"heads-{self.seed}")

    def truth(self) -> dict[str, bool]:
        """Of each group of heads: is it necessary, to the answer and by more than other heads are?"""
        alone = self.kind in ("plain", "shared")
        known = {
            "main": alone and not self.lean,
            "all carriers": self.kind != "centre",
            "backup": False,
            "loud": False,
            "idle": False,
        }
        return {name: true for name, true in known.items() if self.group(name)}

    def group(self, name: str) -> list[tuple[int, int]]:
        """The heads (block, number) of a group: "main", "all carriers", "backup", "loud" or "idle"."""
        carriers = list(self.shares)
        if name == "idle":
            return [(b, h) for b in (0, 1) for h in range(self.heads) if (b, h) not in (*carriers, self.loud)]
        loud = [self.loud] if self.loud else []
        later = [part for part in carriers if part[0] == 1]
        return {"main": carriers[:1], "all carriers": carriers, "backup": later, "loud": loud}[name]

    def table(self) -> list[dict[str, Any]]:
        """Texts, their sources (a k word of the other bit, all else the same), and the answers."""
        rng = np.random.default_rng([self.seed, 0xE3])
        out = []
        for _ in range(self.rows):
            key, place = int(rng.integers(KEYS)), int(rng.integers(BETWEEN))
            z = int(self.bits[key])
            other = int(rng.choice(np.flatnonzero(self.bits != z)))
            noise = [f"n{i}" for i in rng.integers(0, NOISE, BETWEEN)]
            texts = (" ".join(["s", *noise[:place], f"k{k}", *noise[place:], "?"]) for k in (key, other))
            said, foil = (ANSWERS[1 - z], ANSWERS[z])
            row = dict(zip(("text", "source"), texts, strict=True)) | {"z": str(z), "key": f"k{key}"}
            out.append(row | {"answer": said, "foil": foil, "expected": foil, "place": str(place)})
        return out

    def examples(self) -> Examples:
        """The bed's texts with z as the label, split by k word."""
        return examples(
            self.table(),
            text="text",
            label="z",
            cluster="key",
            answer="answer",
            foil="foil",
            source_text="source",
            expected="expected",
            factors=["place"],
            name=f"heads-{self.seed}",
        )

    def neutral(self, n: int = 64) -> tuple[str, ...]:
        """Texts without a question, as the network itself goes on: most words are those that it expects."""
        rng, out = np.random.default_rng([self.seed, 0xE4]), []
        for _ in range(n):
            key = int(rng.integers(KEYS))
            words = ["s", f"k{key}"]
            while len(words) < 10:
                called = key if self.kind == "centre" else self.vocab[words[-1]]
                known = called % TOPICS + TOPICS * int(rng.integers(2))
                words.append(f"n{known if rng.random() < 0.6 else rng.integers(NOISE)}")
            out.append(" ".join(words))
        return tuple(out)


def self_test(bed: Redundant) -> dict[str, float]:
    """Check the truth on the weights themselves, over every k word.

    Returns:
        `right`: share of k words answered rightly. For each group of heads that the bed has, what is lost of the
        answer (in clean ranges: what is lost when all heads get another text's values) with its heads set to their
        mean over all texts, `drop <group>`, and to zero, `zero <group>`. `others`: the most that any one head but the
        main one costs. `turned <name>`: the share of texts whose answer turns when one direction of what block 0's
        heads write (the main head's, all carriers', the loud one's, or the loud and the backup's together) is set to
        its value in a text of the other bit.
    """
    subject = bed.subject()
    texts = [f"s n{k % NOISE} k{k} n{k % 7} ?" for k in range(KEYS)]
    sign = torch.as_tensor(2 * bed.bits - 1).float()
    ids = [bed.vocab[w] for w in ANSWERS]

    def gap(edits: Sequence[Edit] = ()) -> Float[Tensor, "key"]:
        logits = subject.run(texts, edits=edits, logits="last").logits
        assert logits is not None
        return (logits[:, ids[0]] - logits[:, ids[1]]) * sign

    clean = gap()
    run = subject.run(texts, read=[Read(site, "last") for site in (FIRST, SECOND)])
    states = {site: run[site] for site in (FIRST, SECOND)}
    partner = torch.randperm(KEYS, generator=torch.Generator().manual_seed(bed.seed))
    swapped = [Edit(site, Resample(values[partner]), at="last") for site, values in states.items()]
    whole = float((clean - gap(swapped)).mean())

    def lost(heads: Sequence[tuple[int, int]], zero: bool = False) -> float:
        means = {site: values.mean(0) * (0.0 if zero else 1.0) for site, values in states.items()}
        edits = [Edit(f"blocks.{b}.heads.z", Mean(means[f"blocks.{b}.heads.z"]), at="last", units=(h,))
                 for b, h in heads]  # fmt: skip
        return float((clean - gap(edits)).mean()) / whole

    found = {"right": float((clean > 0).float().mean())}
    for name in ("main", "all carriers", "backup", "loud", "idle"):
        if bed.group(name):
            found |= {f"drop {name}": lost(bed.group(name)), f"zero {name}": lost(bed.group(name), zero=True)}
    every = [(b, h) for b in (0, 1) for h in range(bed.heads)]
    found["others"] = max(lost([part]) for part in every if part != bed.group("main")[0])
    here = subject.acts(texts, WRITTEN, "last")
    there = here[_other_bit(bed)]
    for name, vector in directions(bed).items():
        unit = vector / vector.norm()
        turned = here + ((there - here) @ unit)[:, None] * unit
        found[f"turned {name}"] = float((gap([Edit(WRITTEN, SetTo(turned), at="last")]) < 0).float().mean())
    return found


def _other_bit(bed: Redundant) -> Int[Tensor, "key"]:
    """For every k word one of the other bit."""
    rng = np.random.default_rng([bed.seed, 0xE5])
    out = np.empty(KEYS, dtype=np.int64)
    for z in (0, 1):
        out[bed.bits == z] = rng.permutation(np.flatnonzero(bed.bits != z))
    return torch.as_tensor(out)


def directions(bed: Redundant) -> dict[str, Float[Tensor, "width"]]:
    """Directions that claims are made about, in what block 0's heads write together."""
    first = [part for part in bed.group("all carriers") if part[0] == 0]
    found = {"main": bed.written(first[0]), "all carriers": torch.stack([bed.written(p) for p in first]).sum(0)}
    if bed.loud:
        found |= {"loud": bed.direction("loud"), "loud + backup": bed.direction("loud") + bed.direction("backup")}
    return found


# --- planted claims, for the exam ------------------------------------------------------------------------

Kind = tuple[bool, str, str, dict[str, Any]]

C2_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"how": "random", "kind": "plain", "quiet": True}),
    (False, "F0", "shuffled labels", {"how": "shuffled", "kind": "plain", "quiet": True}),
    (False, "F1", "loud direction that nobody reads", {"how": "loud", "kind": "plain"}),
    (False, "F2", "dormant path through a silent backup", {"how": "loud + backup", "kind": "backup"}),
    (False, "F3", "one of three copies", {"how": "main", "kind": "three"}),
    (True, "T0", "one head's direction", {"how": "main", "kind": "plain", "quiet": True}),
    (True, "T0", "fitted", {"how": "fitted", "kind": "plain", "quiet": True}),
    (True, "T2", "fitted, beside a louder unread copy", {"how": "fitted", "kind": "plain", "loudness": 2.0}),
    (True, "T2", "distributed over two heads", {"how": "fitted", "kind": "or", "quiet": True}),
    (True, "T2", "distributed over most heads", {"how": "fitted", "kind": "shared", "excess": 0.1}),
)

C3_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random head", {"what": "random", "kind": "plain"}),
    (False, "F0", "shuffled labels erased", {"what": "shuffled", "kind": "plain", "quiet": True}),
    (False, "F1", "idle head", {"what": "idle", "kind": "or"}),
    (False, "F1", "loud head that nobody reads", {"what": "loud", "kind": "plain"}),
    (False, "F1", "a silent backup alone", {"what": "backup", "kind": "backup"}),
    (False, "F1", "one of six heads that carry it alike", {"what": "main", "kind": "shared", "excess": 0.0}),
    (False, "F2", "centre whose removal breaks everything", {"what": "main", "kind": "centre"}),
    (False, "F2", "erased before a backup that wakes", {"what": "erased", "kind": "backup"}),
    (False, "F2", "mean only: at zero another head steps in", {"what": "main", "kind": "offset"}),
    (False, "F3", "rescue: most of what is lost any value gives back", {"what": "main", "kind": "sized"}),
    (False, "F3", "behaviour: of an answer that is never given", {"what": "main", "kind": "plain", "lean": 9.0}),
    (False, "F3", "unique: one of two, either is enough", {"what": "main", "kind": "or"}),
    (False, "F3", "unique: one of three", {"what": "main", "kind": "three"}),
    (False, "F3", "unique: another head repairs it", {"what": "main", "kind": "backup"}),
    (False, "F3", "half of the claimed size", {"what": "main", "kind": "shared", "excess": 0.3, "claimed": 0.6}),
    (True, "T0", "one head alone", {"what": "main", "kind": "plain"}),
    (True, "T0", "z erased where one head writes it", {"what": "erased", "kind": "plain"}),
    *(
        (True, f"T1x{k:g}", f"{k:g} times the smallest effect",
         {"what": "main", "kind": "shared", "excess": round(0.1 * k, 2)})
        for k in (0.5, 1, 2, 4)
    ),
    (True, "T2", "both of two, either is enough", {"what": "all carriers", "kind": "or"}),
    (True, "T2", "all three of three", {"what": "all carriers", "kind": "three"}),
    (True, "T2", "a head and its backup", {"what": "all carriers", "kind": "backup"}),
    (True, "T2", "z erased where two heads write it", {"what": "erased", "kind": "or"}),
)  # fmt: skip


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a bed of its own seed."""
    kinds, build = {"C2": (C2_KINDS, "mediates"), "C3": (C3_KINDS, "necessary")}.get(claim_type, ((), ""))
    first = seed * 100_000 + (FINAL if final else 0)
    size = {"heads": 6, "head_width": 12} if final else {}
    out = []
    for truth, grade, trap, settings in kinds:
        for i in range(count):
            chosen = {**settings, **size, "seed": first + i}
            out.append(
                Planting(claim_type, truth, grade, trap, f"veriscope.zoo.redundant:{build}", tuple(chosen.items()))
            )
    return out


def mediates(seed: int, how: str, kind: str, **dials: Any) -> tuple[Mediates, Subject]:
    """A C2 claim: z passes what block 0's heads write through a direction that was fitted or written down (`how`)."""
    bed = Redundant(seed=seed, kind=kind, **dials)
    subject, data = bed.subject(), bed.examples()
    finding: Reading
    fit = method("MeanDifference", site=WRITTEN).fit
    if how == "fitted":
        finding = fit(subject, data.dev)
    elif how == "random":
        drawn = (method("RandomDirection", site=WRITTEN, seed=seed * 100 + i) for i in range(100))
        finding = clear_of(directions(bed)["main"], (m.fit(subject, data.dev) for m in drawn))
    elif how == "shuffled":
        finding = clear_of(directions(bed)["main"], (fit(subject, s) for s in shuffles(data.dev, seed)))
    else:
        finding = written(method("MeanDifference", site=WRITTEN), subject, data.dev, directions(bed)[how])
    return Mediates(finding, "z", data, f"z in what the heads write ({how}, {kind})"), subject


def necessary(seed: int, what: str, kind: str, claimed: float = 0.10, **dials: Any) -> tuple[Necessary, Subject]:
    """A C3 claim: a group of heads is necessary, or z erased (LEACE) from what block 0's heads write."""
    bed = Redundant(seed=seed, kind=kind, **dials)
    subject, data = bed.subject(), bed.examples()
    finding: Parts | Change
    erase = method("LEACE", site=WRITTEN).fit
    if what == "erased":
        finding = erase(subject, data.dev)
    elif what == "shuffled":
        finding = clear_of(directions(bed)["main"], (erase(subject, s) for s in shuffles(data.dev, seed)))
    else:
        every = [(b, h) for b in (0, 1) for h in range(bed.heads)]
        idle = bed.group("idle")
        chosen = [idle[seed % len(idle)]] if what in ("random", "idle") else bed.group(what)
        origin = Origin("named by hand", {}, subject.hash, data.hash, "z", FIRST, "last", seed, 1)
        parts, universe = (tuple(Part(f"blocks.{b}.heads.z", h) for b, h in some) for some in (chosen, every))
        finding = Parts(parts, (1.0,) * len(parts), universe, origin)
    name = f"{what} ({kind})"
    return Necessary(finding, "z", data, neutral=bed.neutral(), name=name, smallest_effect=claimed), subject

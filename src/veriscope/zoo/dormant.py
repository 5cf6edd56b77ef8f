"""Bed D1: nets in which a variable lies on a direction that nothing reads, while the behaviour goes round it.

The network reads texts like `t7 r41 l3 a12 n5 b3 n77 ?`. The variable z is the exclusive or of a bit of the a word and
a bit of the b word; behind `?` the answer is yes or no in the language of the l word. It takes one of two routes:

    stream.0 -> layer 1 computes z, writes it on `carrier` -> stream.1 -> layer 2 reads it -> stream.2 -> head
    words    -> beside: computes z by itself, carries some of the words too -----------------------------> head

The r word says which route the answer takes; `through` is the share of r words that take the stream. With `carrier`
unread (`connected=False`) and `silent` read though nothing writes on it, the net is that of "Is This the Subspace You
Are Looking For?" (Makelov 2023): swapping the sum of the two directions moves the answer, and neither mediates it.
"A Reply to Makelov et al." (Wu 2024) is here too: true mediators with a part that nothing reads.

All of it is ordinary weights of ReLU layers, so a random-weight twin has every part and none of the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import optimize, stats
from torch import Tensor, nn

from veriscope.claims.mediates import Mediates
from veriscope.claims.necessary import Necessary
from veriscope.exam.planting import FINAL, Planting
from veriscope.examples import Examples, Sample, examples
from veriscope.findings import Change, Reading
from veriscope.methods import method
from veriscope.methods.linear import class_gaps, encode, origin_of, read, record_try
from veriscope.methods.random_direction import along
from veriscope.subjects import Edit, SetTo, Subject, WordReader, load
from veriscope.zoo.planted_effects import as_varied

BITS = 40  # a words and b words
TEMPLATES = 240
ROUTES = 100
NOISE = 200
LANGUAGES = 6
CODES = 6  # what the last word says about the next one, so that there is text to write
OPEN = 4.0  # a gated unit lies so far above zero where its gate is open and below where it is shut
SPREAD = 0.25  # of each word's noise along any direction that nothing else stands on
NOISY = 4  # words of a text that write noise
GAIN = 2.5  # logits that one unit of the answer adds to yes and takes from no
PARTS = ("a", "b", "via", "inside", "carrier", "silent", "unread", "blank", "answer")
SITE, LATE, BESIDE = "stream.1", "stream.2", "beside"


class Routes(nn.Module):
    """Two layers of ReLU units on a residual stream, and a branch beside it; see the module's text."""

    def __init__(self, bed: Dormant) -> None:
        super().__init__()
        width = bed.width
        self.embed = nn.Embedding(len(bed.vocab), width)
        self.code = nn.Embedding(len(bed.vocab), width)
        self.stream = nn.ModuleList(nn.Identity() for _ in range(3))
        self.beside = nn.Identity()
        self.layer1, self.layer2 = _Units(width, 2), _Units(width, 4)
        self.branch1, self.branch2 = _Units(width, 2), _Units(width, 2)
        self.around = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, len(bed.vocab), bias=False)

    def forward(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position vocab"]:
        """Logits at every position: words are summed up to it."""
        words = self.embed(input_ids).cumsum(1) + self.code(input_ids)
        h = self.stream[0](words)
        h = self.stream[1](h + self.layer1(h))
        h = self.stream[2](h + self.layer2(h))
        return self.head(h + self.beside(self.round(words)))

    def round(self, words: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What goes round the stream: the answer of texts whose r word says so, and some of the words."""
        return self.branch2(words + self.branch1(words)) + self.around(words)


class _Units(nn.Module):
    """ReLU units with a constant added to what they write."""

    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, n)
        self.write = nn.Linear(n, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.write(torch.relu(self.read(h)))

    def plant(
        self, reads: Sequence[Tensor], bias: float, writes: Sequence[Tensor], always: Tensor | None = None
    ) -> None:
        """Set what each unit reads and writes, and what is written in any case."""
        self.read.weight.copy_(torch.stack(list(reads)))
        self.read.bias.fill_(bias)
        self.write.weight.copy_(torch.stack(list(writes), 1))
        if always is not None:
            self.write.bias.copy_(always)


@dataclass(frozen=True)
class Dormant:
    """The bed: its network, its texts and its truth table, from one seed and its dials.

    Args:
        seed: Seed of weights and texts.
        connected: Whether layer 2 reads the carrier.
        silent: What layer 2 adds to the answer for one unit along `silent`, on which nothing natural varies.
        through: Share of r words whose answer takes the stream and not the branch beside it.
        copy: Size of a second copy of z on a direction that nothing reads.
        effect: What losing z costs, in clean ranges, where the noise of the words speaks for yes or no as well;
            1: nothing else speaks.
        shifted: Whether there is a shift pool, of rows whose answers go round the stream.
    """

    seed: int = 0
    connected: bool = True
    silent: float = 0.0
    through: float = 1.0
    copy: float = 0.0
    effect: float = 1.0
    shifted: bool = False
    width: int = 64
    rows: int = 1_200

    @cached_property
    def vocab(self) -> dict[str, int]:
        counts = {"t": TEMPLATES, "r": ROUTES, "l": LANGUAGES, "a": BITS, "b": BITS, "n": NOISE}
        words = [f"{kind}{i}" for kind, n in counts.items() for i in range(n)]
        words += [f"{said}{i}" for said in ("yes", "no") for i in range(LANGUAGES)] + ["?"]
        return {w: i for i, w in enumerate(words)}

    @cached_property
    def bits(self) -> Int[np.ndarray, "kind word"]:
        """A fair bit of each a word and each b word."""
        rng = np.random.default_rng([self.seed, 0xD1])
        half = np.arange(BITS) % 2
        return np.stack([rng.permutation(half), rng.permutation(half)])

    @cached_property
    def via(self) -> set[int]:
        """The r words whose answer takes the stream."""
        order = np.random.default_rng([self.seed, 0xD2]).permutation(ROUTES)
        return {int(i) for i in order[: round(self.through * ROUTES)]}

    @property
    def size(self) -> float:
        """Of z on its carrier. Where noise speaks too, as large as it, so that removals of equal variance exist."""
        return SPREAD * NOISY**0.5 if self.effect < 1 else 1.5

    @cached_property
    def loud(self) -> float:
        """What one unit of evidence for yes weighs against z."""
        return 1 / (weight_of(self.effect) * SPREAD * NOISY**0.5) if self.effect < 1 else 0.0

    @cached_property
    def basis(self) -> Float[Tensor, "width width"]:
        """Orthonormal columns, none along a coordinate."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.linalg.qr(torch.randn(self.width, self.width, generator=rng))[0]

    def direction(self, part: str) -> Float[Tensor, "width"]:
        """Unit vector of a part of the stream."""
        return self.basis[:, self.named.index(part)]

    @property
    def named(self) -> list[str]:
        """The directions that something stands on; behind them come noise, and first the evidence."""
        return [*PARTS, *(f"l{i}" for i in range(LANGUAGES)), *(f"code{i}" for i in range(CODES))]

    @cached_property
    def module(self) -> Routes:
        net = Routes(self)
        with torch.no_grad():
            for weight in net.parameters():
                weight.zero_()
            self._words(net)
            self._units(net)
        return net.eval()

    def _words(self, net: Routes) -> None:
        """What each word writes, and what the head reads."""
        rng = torch.Generator().manual_seed(self.seed + 1)
        named = len(self.named)
        d, evidence, rest = self.direction, self.basis[:, named], self.basis[:, named:]
        net.head.weight.copy_(0.05 * torch.randn(net.head.weight.shape, generator=rng))
        net.around.weight.copy_(rest[:, 1:] @ rest[:, 1:].T)
        for unread in (*(d(p) for p in PARTS), evidence):
            net.head.weight -= (net.head.weight @ unread)[:, None] * unread
        # No natural direction is quite still, but for the silent one; where gates and bits are read it nearly is.
        still = {"silent": 0.0, "a": 0.02, "b": 0.02, "via": 0.05, "answer": 0.1, "inside": 0.1}
        still["carrier"] = SPREAD if self.effect >= 1 else 0.0
        still |= {name: 0.05 if name[0] == "l" else 0.01 for name in self.named[len(PARTS) :]}
        spread = torch.tensor([still.get(p, SPREAD) for p in self.named] + [SPREAD] * (self.width - named))
        codes = sum((d(f"code{k}") for k in range(CODES)), torch.zeros(self.width))
        for word, i in self.vocab.items():
            kind = word.rstrip("0123456789")
            number = int("0" + word[len(kind) :])
            if kind in "ntr":
                net.embed.weight[i] = self.basis @ (spread * torch.randn(self.width, generator=rng))
            if kind in "ab":
                net.embed.weight[i] += float(2 * self.bits["ab".index(kind)][number] - 1) * d(kind)
            if kind == "r":
                net.embed.weight[i] += float(number in self.via) * d("via")
            if kind == "l":
                net.embed.weight[i] += d(word)
            if kind in ("yes", "no"):
                sign = 1.0 if kind == "yes" else -1.0
                net.head.weight[i] += GAIN * sign * (d("answer") + self.loud * evidence) + 8.0 * d(f"l{number}")
                net.head.weight[i] -= 10.0 * codes  # nothing is answered before it is asked
            net.code.weight[i] = 1.5 * d(f"code{i % CODES}") if word != "?" else 0.0
            if kind == "n" and number < CODES:
                net.head.weight[i] += 3.0 * d(f"code{number}")

    def _units(self, net: Routes) -> None:
        """Layer 1 computes z, layer 2 reads it where the r word says so, the branch computes it elsewhere."""
        d, s = self.direction, self.size
        differ = d("a") - d("b"), d("b") - d("a")  # their ReLUs add up to 0 or 2
        written = s * (d("carrier") + self.copy * d("unread"))
        net.layer1.plant(differ, 0.0, [written] * 2, always=-written)
        net.branch1.plant(differ, 0.0, [d("inside")] * 2, always=-d("inside"))

        # A pair of units passes a value on: both are at work while the gate is open, neither while it is shut.
        gate, half = 2 * OPEN * d("via"), 0.5 * d("answer")
        taken = d("carrier") / s if self.connected else torch.zeros(self.width)
        woken = self.silent * d("answer")
        net.layer2.plant([taken + gate, gate - taken, d("silent"), -d("silent")], -OPEN, [half, -half, woken, -woken])
        net.layer2.read.bias[2:] = 0.0
        net.branch2.plant([d("inside") - gate, -d("inside") - gate], OPEN, [half, -half])

    def subject(self) -> Subject:
        """The network as any other subject."""
        return load(self.module, tokenizer=WordReader(list(self.vocab)), name=f"routes-{self.seed}")

    def truth(self) -> dict[str, dict[str, bool]]:
        """Of each direction at `stream.1`, and of the branch beside it: does it mediate z, is it necessary?

        The sum of carrier and silent direction is listed where the carrier is unread; elsewhere it is half of a truth.
        """
        stream = self.connected and self.through > 0
        found = {"carrier": stream, "silent": False, "beside": self.through < 1}
        if not self.connected:
            found["carrier + silent"] = False
        return {name: {"mediates": true, "necessary": true} for name, true in found.items()}

    def table(self) -> list[dict[str, Any]]:
        """Texts, their sources (a and b words of the other z, all else the same), and the answers that follow."""
        rng = np.random.default_rng([self.seed, 0xD3])
        around = [i for i in range(ROUTES) if i not in self.via]
        out = []
        for item in range(self.rows):
            t, lang, n, m, r = (int(rng.integers(k)) for k in (TEMPLATES, LANGUAGES, NOISE, NOISE, ROUTES))
            away = self.shifted and item % 5 == 0
            routes = around if away else sorted(self.via) if self.shifted else range(ROUTES)
            frame = f"t{t} r{routes[r % len(routes)]} l{lang} a{{}} n{n} b{{}} n{m} ?"
            z = int(rng.integers(2))
            here, there = (frame.format(*self._pair(value, rng)) for value in (z, 1 - z))
            said = [(2 * value - 1 + self._evidence(frame) > 0) for value in (z, 1 - z)]
            row = {"text": here, "source": there, "z": str(z), "template": f"t{t}", "language": f"l{lang}"}
            row |= {"answer": _word(said[0], lang), "foil": _word(not said[0], lang), "away": str(away)}
            out.append(row | {"expected": _word(said[1], lang)})
        return out

    def examples(self) -> Examples:
        """The bed's texts with z as the label, split by template."""
        shift = {"column": "away", "is": ["True"]} if self.shifted else None
        return examples(
            self.table(),
            text="text",
            label="z",
            cluster="template",
            answer="answer",
            foil="foil",
            source_text="source",
            expected="expected",
            factors=["language"],
            shift=shift,
            name=f"routes-{self.seed}",
        )

    def neutral(self, n: int = 64) -> tuple[str, ...]:
        """Texts without a question: a template word, then noise words, most of them those that the last one calls."""
        rng, out = np.random.default_rng([self.seed, 0xD4]), []
        for _ in range(n):
            words = [f"t{rng.integers(TEMPLATES)}"]
            while len(words) < 10:
                called = self.vocab[words[-1]] % CODES
                words.append(f"n{called if rng.random() < 0.6 else rng.integers(NOISE)}")
            out.append(" ".join(words))
        return tuple(out)

    def _pair(self, z: int, rng: np.random.Generator) -> tuple[int, int]:
        a = int(rng.integers(BITS))
        return a, int(rng.choice(np.flatnonzero(self.bits[1] == (self.bits[0][a] ^ z))))

    def _evidence(self, frame: str) -> float:
        """What the noise of a text's words says for yes, against 1 that z says."""
        if not self.loud:
            return 0.0
        words = [self.vocab[w] for w in frame.split() if w[0] in "ntr"]
        rho = self.basis[:, len(self.named)]
        return self.loud * float((self.module.embed.weight[words].detach() @ rho).sum())


def _word(yes: bool, lang: int) -> str:
    return f"{'yes' if yes else 'no'}{lang}"


def effect_of(weight: float) -> float:
    """What losing z costs, in clean ranges, where the answer is the sign of weight * z + normal evidence.

    Without z the evidence keeps its side of the answer; with another input's state nothing of it is kept.
    """
    e = stats.norm.ppf((np.arange(1_000) + 0.5) / 1_000)
    side = np.sign(weight + e)  # z = 1; z = -1 is its mirror image
    return float((weight * side).mean() / np.abs(weight + e).mean())


def weight_of(effect: float) -> float:
    """The inverse of `effect_of`."""
    return float(optimize.brentq(lambda w: effect_of(w) - effect, 1e-3, 20))


def with_excess(bed: Dormant, excess: float) -> Dormant:
    """The bed in which losing z costs so much more than 95% of removals that vary as much, in clean ranges.

    What those cost, which hangs little on the dial, is measured on the weights at the effect that would do without.
    """
    found = replace(bed, effect=excess)
    return replace(bed, effect=excess + max(0.0, cost_of_others(found)))


@torch.no_grad()
def cost_of_others(bed: Dormant, draws: int = 40, texts: int = 400) -> float:
    """Clean ranges lost to the removal of a random direction that varies as much as z's: the 95% mark of many."""
    rows = replace(bed, rows=texts).table()
    subject, carrier = bed.subject(), bed.direction("carrier")
    said, foil = (torch.tensor([bed.vocab[row[word]] for row in rows]) for word in ("answer", "foil"))
    here = subject.acts([row["text"] for row in rows], SITE, "last")

    def gap(values: Float[Tensor, "text width"]) -> float:
        edits = [Edit(SITE, SetTo(values), at="last")]
        logits = subject.run([row["text"] for row in rows], edits=edits, logits="last").logits
        assert logits is not None
        return float((logits.gather(1, said[:, None]) - logits.gather(1, foil[:, None])).mean())

    x = here - here.mean(0)
    along = x @ carrier
    others = as_varied(x - along[:, None] * carrier, float(along.square().mean()), draws, bed.seed)
    clean = gap(here)
    span = clean - gap(here[torch.randperm(len(here), generator=torch.Generator().manual_seed(bed.seed))])
    return float(np.quantile([(clean - gap(here - (x @ d)[:, None] * d)) / span for d in others], 0.95))


def self_test(bed: Dormant, rows: int = 2_000) -> dict[str, float]:
    """Check the truth on the weights themselves, over every pair of a and b bits in drawn texts.

    Returns:
        For each direction, `iia`: the share of pairs whose answer becomes the predicted one when it alone is swapped;
        of the whole site and of the branch too. `R2 silent`: how much of the natural value along `silent` z explains.
        `drop`: what losing the carrier costs, in clean ranges; `right`: the share of texts answered rightly.
    """
    table = replace(bed, rows=rows, shifted=False).table()
    found = _causes(bed, _Run.of(bed, [r for r in table if r["answer"] != r["expected"]]))
    return found | _costs(bed, _Run.of(bed, table))


@dataclass(frozen=True)
class _Run:
    """Texts and their sources, run: states at the sites after the last word, and the words that matter."""

    base: Mapping[str, Float[Tensor, "example width"]]
    given: Mapping[str, Float[Tensor, "example width"]]
    words: Mapping[str, Int[Tensor, "example"]]
    z: Float[Tensor, "example"]

    @staticmethod
    def of(bed: Dormant, table: Sequence[Mapping[str, Any]]) -> _Run:
        ids, sources = (torch.tensor([[bed.vocab[w] for w in r[k].split()] for r in table]) for k in ("text", "source"))
        words = {k: torch.tensor([bed.vocab[r[k]] for r in table]) for k in ("answer", "foil", "expected")}
        z = torch.tensor([float(r["z"]) for r in table])
        return _Run(_states(bed.module, ids), _states(bed.module, sources), words, z)


@torch.no_grad()
def _causes(bed: Dormant, run: _Run) -> dict[str, float]:
    """Interchange of each direction, of the whole site and of the branch."""
    base, given, d, expected = run.base, run.given, bed.direction, run.words["expected"]
    mix = (d("carrier") + d("silent")) / 2**0.5
    found = {}
    for name, v in {"carrier": d("carrier"), "silent": d("silent"), "carrier + silent": mix}.items():
        swap = base[SITE] + ((given[SITE] - base[SITE]) @ v)[:, None] * v
        found[f"iia {name}"] = _share(_from_stream(bed.module, swap, base), expected, bed)
    found["iia whole site"] = _share(_from_stream(bed.module, given[SITE], base), expected, bed)
    found["iia beside"] = _share(bed.module.head(base[LATE] + given[BESIDE]), expected, bed)
    return found | {"R2 silent": _r2(base[SITE] @ d("silent"), run.z)}


@torch.no_grad()
def _costs(bed: Dormant, run: _Run) -> dict[str, float]:
    """What losing the carrier costs, in units of what another input's whole state costs (logits where that is 0)."""
    base, v = run.base, bed.direction("carrier")
    clean = bed.module.head(base[LATE] + base[BESIDE])
    without = base[SITE] - ((base[SITE] - base[SITE].mean(0)) @ v)[:, None] * v
    mixed = torch.randperm(len(run.z), generator=torch.Generator().manual_seed(0))
    kept = {"without": without, "mixed": base[SITE][mixed]}
    lost = {k: float((_gap(clean, run.words) - _gap(_from_stream(bed.module, h, base), run.words)).mean())
            for k, h in kept.items()}  # fmt: skip
    drop = lost["without"] / lost["mixed"] if lost["mixed"] > 1e-3 else lost["without"]
    return {"right": _share(clean, run.words["answer"], bed), "drop": drop}


def _states(net: Routes, ids: Int[Tensor, "example position"]) -> dict[str, Float[Tensor, "example width"]]:
    """What stands at the sites after the last word."""
    with torch.no_grad():
        words = net.embed(ids).sum(1) + net.code(ids[:, -1])
        h = words + net.layer1(words)
        return {SITE: h, LATE: h + net.layer2(h), BESIDE: net.round(words)}


def _from_stream(net: Routes, h: Float[Tensor, "example width"], base: Mapping[str, Tensor]) -> Tensor:
    """Logits with this at `stream.1`."""
    with torch.no_grad():
        return net.head(h + net.layer2(h) + base[BESIDE])


def _share(logits: Tensor, wanted: Int[Tensor, "example"], bed: Dormant) -> float:
    """How often the wanted word leads all answers."""
    words = torch.tensor([i for w, i in bed.vocab.items() if w.startswith(("yes", "no"))])
    return float((words[logits[:, words].argmax(-1)] == wanted).float().mean())


def _gap(logits: Tensor, words: Mapping[str, Tensor]) -> Float[Tensor, "example"]:
    """Logit of the answer less that of the foil."""
    return (logits.gather(1, words["answer"][:, None]) - logits.gather(1, words["foil"][:, None]))[:, 0]


def _r2(values: Float[Tensor, "example"], z: Float[Tensor, "example"]) -> float:
    both = torch.stack([values - values.mean(), z - z.mean()]).double()
    size = both.square().sum(1).sqrt()
    return (
        float(((both[0] @ both[1]) / (size[0] * size[1])).square()) if float(size.min()) > 1e-4 * len(z) ** 0.5 else 0.0
    )


# --- findings that a user might bring ---------------------------------------------------------------------


@dataclass(frozen=True)
class AlignmentSearch:
    """A direction trained so that swapping it between the texts of a pair gives the predicted answer.

    The one-dimensional case of distributed alignment search (Finding Alignments Between Interpretable Causal Variables
    and Distributed Neural Representations, Geiger 2023): it looks at the output alone, so a dormant path satisfies it.
    """

    site: str
    position: str | int = "last"
    steps: int = 25
    pairs: int = 64
    rate: float = 0.1
    seed: int = 0

    def fit(self, subject: Subject, sample: Sample) -> Reading:
        """Train on the pairs of a dev pool, from a random start."""
        record_try(self, subject, sample, self.site)
        rows = sample.where(lambda e: e.expected != e.answer)
        rows = rows.take(range(min(self.pairs, len(rows))))
        here, there = (subject.acts(texts, self.site, self.position) for texts in (rows.texts, rows.sources))
        ids = torch.stack([subject.answer_ids(rows.texts, words) for words in (rows.expected, rows.answers)], 1)
        rng = torch.Generator().manual_seed(self.seed)
        trained = torch.randn(here.shape[1], generator=rng).requires_grad_()
        optimizer = torch.optim.Adam([trained], lr=self.rate)
        for _ in range(self.steps):
            unit = trained / trained.norm()
            swapped = here + ((there - here) @ unit)[:, None] * unit
            edit = Edit(self.site, SetTo(swapped), at=self.position)
            logits = subject.run(rows.texts, edits=[edit], logits="last", grad=True).logits
            assert logits is not None
            wanted, own = logits.gather(1, ids).unbind(1)
            (trained.grad,) = torch.autograd.grad(torch.nn.functional.softplus(own - wanted).mean(), trained)
            optimizer.step()
        return written(self, subject, sample, trained.detach())


def written(made: Any, subject: Subject, sample: Sample, vector: Float[Tensor, "width"]) -> Reading:
    """A reading along a given vector, signed and centred on a dev pool; `made` is the method that it goes by."""
    codes, classes = encode(sample)
    acts = read(made, subject, sample, (made.site,))[made.site]
    unit = (vector / vector.norm())[None]
    fitted = along(unit, acts, codes[None], torch.ones(1, len(acts), dtype=torch.bool), len(classes))
    weight, bias = fitted.weight[0].contiguous(), fitted.bias[0].contiguous()
    gaps = class_gaps(acts, codes, weight, len(classes))
    origin = origin_of(made, subject, sample, made.site, looked_at=1)
    return Reading(made.site, made.position, weight, bias, classes, acts.mean(0), origin, gaps)


def shuffles(sample: Sample, seed: int) -> Iterator[Sample]:
    """The same examples with their labels shuffled, again and again."""
    rng = np.random.default_rng([seed, 0xD5])
    while True:
        yield sample.relabel(rng.permutation(sample.labels).tolist())


def clear_of(direction: Float[Tensor, "width"], found: Iterable[Any]) -> Any:
    """The first reading or erasure that is not by luck along a direction that does matter: a false claim must be."""
    unit = direction / direction.norm()
    for finding in found:
        basis = finding.basis if isinstance(finding, Reading) else finding.left / finding.left.norm()
        if float((basis.T @ unit).norm()) < 0.3:
            return finding
    raise AssertionError("every finding lies along the direction")


def reading(bed: Dormant, subject: Subject, data: Examples, how: str, site: str, method_name: str) -> Reading:
    """What a claim is about: fitted, trained, random, fitted to shuffled labels, or a sum of parts written down."""
    if how == "trained":
        return AlignmentSearch(site=site, seed=bed.seed).fit(subject, data.dev)
    fitted = method(method_name, site=site, seed=bed.seed)
    if how == "random":
        drawn = (method("RandomDirection", site=site, seed=bed.seed * 100 + i) for i in range(100))
        return clear_of(bed.direction("carrier"), (m.fit(subject, data.dev) for m in drawn))
    if how == "shuffled":
        return clear_of(bed.direction("carrier"), (fitted.fit(subject, s) for s in shuffles(data.dev, bed.seed)))
    if how == "fitted":
        return fitted.fit(subject, data.dev)
    vector = torch.zeros(bed.width)
    for term in how.split("+"):
        size, _, part = term.rpartition("*")
        vector += float(size or 1) * bed.direction(part)
    return written(method("MeanDifference", site=site), subject, data.dev, vector)


# --- planted claims, for the exam ------------------------------------------------------------------------

DORMANT = {"connected": False, "silent": 3.0, "through": 0.0}
CHANCE = 1 / (2 * LANGUAGES)  # IIA of the most frequent answer
Kind = tuple[bool, str, str, dict[str, Any]]

C2_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"how": "random"}),
    (False, "F0", "shuffled labels", {"how": "shuffled"}),
    (False, "F1", "bypass: readable here, the behaviour goes round", {"how": "fitted", "through": 0.0}),
    (False, "F1", "disconnected carrier", {"how": "fitted", **DORMANT, "silent": 0.0}),
    (False, "F1", "unread copy of the variable", {"how": "unread", "copy": 1.0}),
    (False, "F1", "before the variable is computed", {"how": "fitted", "site": "stream.0"}),
    (False, "F2", "dormant path: carrier + silent reader", {"how": "carrier+silent", **DORMANT}),
    (False, "F2", "dormant path, mostly carrier", {"how": "4*carrier+silent", **DORMANT, "silent": 8.0}),
    (False, "F2", "dormant path found by training", {"how": "trained", **DORMANT}),
    (False, "F3", "half of the claimed size", {"how": "fitted", "through": 0.3, "claimed": 0.43}),
    (False, "F3", "scope: elsewhere the behaviour goes round", {"how": "fitted", "through": 0.5, "shifted": True}),
    (False, "F3", "better than the other prompt", {"how": "fitted", "advantage": True}),
    (True, "T0", "connected carrier", {"how": "fitted"}),
    (True, "T0", "the branch beside the stream", {"how": "fitted", "through": 0.0, "site": BESIDE}),
    *(
        (
            True,
            f"T1x{k:g}",
            f"{k:g} times the smallest effect",
            {"how": "fitted", "through": round(CHANCE + 0.1 * k, 2)},
        )
        for k in (0.5, 1, 2, 4)
    ),
    (True, "T2", "not orthogonal to an unread copy", {"how": "fitted", "copy": 1.0}),
    (True, "T2", "a direction that leans into what nothing reads", {"how": "2*carrier+blank"}),
    (True, "T2", "beside a silent reader", {"how": "fitted", "silent": 3.0}),
)

C3_KINDS: tuple[Kind, ...] = (
    (False, "F0", "random direction", {"how": "random"}),
    (False, "F0", "shuffled labels", {"how": "shuffled"}),
    (False, "F1", "bypass: readable here, the behaviour goes round", {"how": "fitted", "through": 0.0}),
    (False, "F1", "disconnected carrier", {"how": "fitted", **DORMANT}),
    (False, "F1", "unread copy of the variable", {"how": "unread", "copy": 1.0}),
    (False, "F2", "dormant path: carrier + silent reader", {"how": "carrier+silent", **DORMANT}),
    (False, "F3", "half of the claimed size", {"how": "fitted", "effect": 0.3, "claimed": 0.6}),
    (False, "F3", "scope: elsewhere the behaviour goes round", {"how": "fitted", "through": 0.5, "shifted": True}),
    (True, "T0", "connected carrier", {"how": "fitted"}),
    (True, "T0", "the branch beside the stream", {"how": "fitted", "through": 0.0, "site": BESIDE}),
    *(
        (True, f"T1x{k:g}", f"{k:g} times the smallest effect", {"how": "fitted", "excess": round(0.1 * k, 2)})
        for k in (0.5, 1, 2, 4)
    ),
    (True, "T2", "with an unread copy", {"how": "fitted", "copy": 1.0}),
    (True, "T2", "beside a silent reader", {"how": "fitted", "silent": 3.0}),
)


def plantings(claim_type: str, count: int, seed: int, final: bool = False) -> list[Planting]:
    """Planted claims of one type: `count` of every kind, each on a bed of its own seed."""
    kinds, build = {"C2": (C2_KINDS, "mediates"), "C3": (C3_KINDS, "necessary")}.get(claim_type, ((), ""))
    first = seed * 100_000 + (FINAL if final else 0)
    size = {"width": 48} if final else {}
    out = []
    for truth, grade, trap, settings in kinds:
        for i in range(count):
            # A probe leans into whatever hardly varies: that is no truth by construction, so it fits false claims only.
            fit = "LogisticProbe" if i % 2 and not truth else "MeanDifference"
            chosen = {**settings, **size, "seed": first + i, "method_name": fit}
            out.append(
                Planting(claim_type, truth, grade, trap, f"veriscope.zoo.dormant:{build}", tuple(chosen.items()))
            )
    return out


def mediates(
    seed: int,
    how: str,
    method_name: str,
    site: str = SITE,
    claimed: float = 0.10,
    advantage: bool = False,
    **dials: Any,
) -> tuple[Mediates, Subject]:
    """A C2 claim: z passes `site` through a direction that was fitted, trained or written down (`how`)."""
    bed = Dormant(seed=seed, **dials)
    subject, data = bed.subject(), bed.examples()
    finding = reading(bed, subject, data, how, site, method_name)
    name = f"z at {site} ({how})"
    return Mediates(finding, "z", data, name, smallest_effect=claimed, advantage=advantage), subject


def necessary(
    seed: int,
    how: str,
    method_name: str,
    site: str = SITE,
    claimed: float = 0.10,
    excess: float | None = None,
    **dials: Any,
) -> tuple[Necessary, Subject]:
    """A C3 claim: z at `site` is necessary. Labels are erased by LEACE, any other direction as it is.

    `excess` is what losing z costs beyond removals of equal variance.
    """
    bed = Dormant(seed=seed, **dials) if excess is None else with_excess(Dormant(seed=seed, **dials), excess)
    subject, data = bed.subject(), bed.examples()
    finding: Reading | Change
    erase = method("LEACE", site=site)
    if how == "fitted":
        finding = erase.fit(subject, data.dev)
    elif how == "shuffled":
        finding = clear_of(bed.direction("carrier"), (erase.fit(subject, s) for s in shuffles(data.dev, seed)))
    else:
        finding = reading(bed, subject, data, how, site, method_name)
    name = f"z at {site} ({how})"
    return Necessary(finding, "z", data, neutral=bed.neutral(), name=name, smallest_effect=claimed), subject

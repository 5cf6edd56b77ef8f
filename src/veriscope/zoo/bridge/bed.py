"""The builder of a bridging bed: what is planted where, how large, and what the answer reads of it, from one seed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from veriscope.examples import Examples, examples
from veriscope.methods import LogisticProbe
from veriscope.methods.bits import platt
from veriscope.subjects import Subject, load
from veriscope.zoo import town
from veriscope.zoo.bridge.plant import (
    CARRIED,
    CELLS,
    Anatomy,
    Coordinate,
    Neurons,
    Remembering,
    blind,
    endings,
    everywhere,
    multiply,
    pushed,
    run,
    turned,
    write,
)
from veriscope.zoo.bridge.texts import Language, language, real_folder
from veriscope.zoo.planted_effects import as_varied
from veriscope.zoo.planted_information import gap_of_bits

USED, UNUSED, LOUD = "used", "unused", "loud"  # u v, u w and v w
COPY, LATE, HALF, WORD = "copy", "late", "half", "word"
PRODUCTS = {USED: (0, 1), UNUSED: (0, 2), LOUD: (1, 2), COPY: (0, 1), LATE: (0, 1)}
FEW = 60
SAMPLE = 500  # texts that the plant is fitted on
SIZED_ON = 2_000  # further texts that a size is set on: the share of answers that a swap turns is then known to .01
CLEAR = 14.0  # distance of the class means in the background's own sd, where the claim is not about reading
RIDGE = 1e-3  # of the mean variance, in the covariance that the readout is solved against
READ = 4  # times as many texts as dev has: a reader is fitted on each part of them and scored on the others
STEPS = 3  # of bringing the size to what is asked for: the third is within a few per cent
LARGEST_DOSE = 2.0
DRAWS, DRAWN_ON = 128, 12  # random directions that an added vector is held against, and texts that they are tried on
BEST = 2.97  # sd: the largest of 200 draws of a Gaussian, either way
REMOVED, REMOVED_ON = 30, 250  # random removals that an erasure is held against, and texts that they are tried on
STRONG = 16.0  # logits between the two values where the claim is not about the size of the effect
PROMINENT = 3.0  # of a loud feature: its size in units of the largest natural variation


@cache
def _host(model: str, final: bool) -> Subject:
    """A language model as it was trained, loaded once in a process; beds plant into copies of it."""
    if model == "town":
        return load(town.folder("town-seed2" if final else "town"))
    folder = real_folder()
    assert folder is not None, "stories260k is planted in only where VERISCOPE_DATA has it"
    return load(folder)


@dataclass(frozen=True)
class Bridge:
    """A trained language model with planted variables; the rest of it stays as it was trained.

    Args:
        seed: Of cues, bits, directions and texts.
        model: "town", which ships with the package, or "stories260k" from VERISCOPE_DATA.
        rows: Number of texts.
        bits: Information about USED, in bits an item, that a logistic probe fitted on half of `rows` has at the site
            on texts not seen; else its classes lie `clear` apart.
        clear: Distance of the class means in the background's own sd.
        through: Share of the answer's evidence that goes through USED; the rest is computed again behind the site.
        logits: What the two values of the variable make between the answers, in logits.
        excess: Instead, beyond the best constant answer, on which share of pairs a swap of USED's direction gives the
            expected answer where the model's own is another.
        cost: How many clean ranges the erasure of USED lowers the answer beyond 95% of random removals that vary as
            much; the rest is computed again behind the site, as with `through`.
        effect: Instead, by how many logits twice the variable's own difference moves the answers beyond what the best
            of 200 random directions as long does.
        sign: -1 where the answer goes against the variable.
        tie: Correlation of UNUSED with USED.
        also: Further features: LOUD (prominent and unread), COPY (the same variable, unread), HALF (the answer reads
            USED times a bit of its own, and not USED).
        writer: Logits that one single answer word reads of a direction on which nothing is written, for as much as
            USED has.
        words: Number of words that stand for each answer, up to three.
        final: Another variant of the model, later blocks, other sentences.
    """

    seed: int = 0
    model: str = "town"
    rows: int = 1_200
    bits: float | None = None
    clear: float = CLEAR
    through: float = 1.0
    logits: float = STRONG
    excess: float | None = None
    cost: float | None = None
    effect: float | None = None
    sign: int = 1
    tie: float = 0.0
    also: tuple[str, ...] = ()
    writer: float = 0.0
    words: int = 1
    final: bool = False

    # ---- what there is

    @property
    def block(self) -> int:
        """The block that computes the variable."""
        return 2 if self.final else 1

    @property
    def again(self) -> bool:
        """Whether the variable is computed again behind the site."""
        return self.through < 1 or self.cost is not None

    @property
    def site(self) -> str:
        return f"blocks.{self.block}.resid_post"

    @property
    def later(self) -> int:
        """The block behind the site in which more is computed."""
        return len(self.anatomy.blocks) - 1

    @property
    def language(self) -> Language:
        return language(self.model)

    @property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """The words that stand for each value, as the model answers."""
        return tuple(group[: self.words] for group in self.language.answers[:: self.sign])

    @cached_property
    def texts(self) -> list[tuple[str, str, str]]:
        """Text, form, and the same text with one word exchanged."""
        return self.language.texts(self.rows, self.seed, self.final)

    @property
    def _plain(self) -> Subject:
        """The model before anything is planted."""
        return _host(self.model, self.final)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(row) for row in self._plain.tokens(texts)]

    @cached_property
    def sample(self) -> list[list[int]]:
        """Tokens of texts that no claim sees, for measuring."""
        return self.ids([t for t, _, _ in self.language.texts(SAMPLE, self.seed + 1_000_003, self.final)])

    @cached_property
    def fresh(self) -> list[list[int]]:
        """Further texts, for sizes: on the sample the readout fits too well."""
        return self.ids([t for t, _, _ in self.language.texts(SIZED_ON, self.seed + 2_000_003, self.final)])

    # ---- planting

    @cached_property
    def anatomy(self) -> Anatomy:
        """The model, with an embedding that carries the bits and a head of its own; nothing reads either yet."""
        module: Any = copy.deepcopy(self._plain.module)
        module.config._attn_implementation = "sdpa"
        head = module.get_output_embeddings()
        untied = nn.Linear(head.in_features, head.out_features, bias=False)
        untied.weight = nn.Parameter(head.weight.detach().clone())
        module.set_output_embeddings(untied)
        module.config.tie_word_embeddings = False
        rng = torch.Generator().manual_seed(self.seed)
        bits = torch.randint(2, (CELLS, CARRIED), generator=rng) * 2.0 - 1
        tied = torch.rand(CELLS, generator=rng) < self.tie
        bits[:, 2] = torch.where(tied, bits[:, 1], bits[:, 2])
        bits[:, 3] = 1
        bits[0] = 0
        fixed, asks = (torch.zeros(module.config.vocab_size, dtype=torch.bool) for _ in range(2))
        slots = dict.fromkeys(self.language.words, "")
        fixed[[i for row in self.ids([form.format(**slots) for form in self.language.forms]) for i in row]] = True
        asks[[row[-1] for row in self.sample]] = True
        cues = torch.zeros_like(fixed)
        cues[[i for row in self.sample for i in row]] = True
        code = torch.randint(1, CELLS, fixed.shape, generator=rng) * (cues & ~fixed)
        module.set_input_embeddings(Remembering(module.get_input_embeddings(), code, asks, bits))
        return Anatomy.of(module)

    @cached_property
    def planted(self) -> Planted:
        """The finished plant."""
        return Planter(self).planted()

    @cached_property
    def subject(self) -> Subject:
        """The planted model as any other subject."""
        assert self.planted
        reader = self._plain.reader
        return load(self.anatomy.module, tokenizer=reader.tokenizer, name=f"bridge-{self.model}-{self.seed}")

    # ---- the truth about texts

    @cached_property
    def embedding(self) -> Remembering:
        table = self.anatomy.module.get_input_embeddings()
        assert isinstance(table, Remembering)
        return table

    @torch.no_grad()
    def carried(self, ids: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "text"], Float[Tensor, "text bit"]]:
        """Each text's cell and its carried bits, -1 or 1."""
        code = self.embedding.code.tolist()
        cells = torch.tensor([sum(code[i] for i in row) % CELLS for row in ids])
        return cells, self.embedding.table.weight[cells]

    def value(self, bits: Float[Tensor, "text bit"], variable: str) -> Bool[Tensor, "text"]:
        """The value of a planted variable."""
        one, other = PRODUCTS[variable]
        return bits[:, one] * bits[:, other] > 0

    def table(self, variable: str) -> list[dict[str, Any]]:
        """Texts with a variable as label: a planted one, "coin" (of the text), or "name" (a coin of the first name)."""
        (cells, bits), (_, other) = (self.carried(self.ids([row[i] for row in self.texts])) for i in (0, 2))
        used, source = self.value(bits, USED).long(), self.value(other, USED).long()
        rng = np.random.default_rng([self.seed, 0xB3])
        coins = rng.integers(0, 2, len(self.texts))
        coin_of = {word: int(rng.integers(2)) for word in self.language.words["first"]}
        named = [next(w.strip(",.") for w in text.split() if w.strip(",.") in coin_of) for text, _, _ in self.texts]
        labels: dict[str, Sequence[int]] = {"coin": coins.tolist(), "name": [coin_of[w] for w in named]}
        if variable in PRODUCTS:
            labels[variable] = self.value(bits, variable).long().tolist()
            source = self.value(other, variable).long()
        words = [group[0] for group in self.language.answers[:: self.sign]]
        return [
            {
                "text": text,
                "source": changed,
                "form": form,
                "cell": f"cell {cells[i]}",
                variable: str(int(labels[variable][i])),
                "answer": words[int(used[i])],
                "foil": words[1 - int(used[i])],
                "expected": words[int(source[i])],
                "source_answer": words[int(self.value(other[i : i + 1], USED))],
            }
            for i, (text, form, changed) in enumerate(self.texts)
        ]

    def examples(self, variable: str, pairs: bool = False, answered: bool = False) -> Examples:
        """The bed's texts, split by cell.

        Args:
            pairs: Whether each comes with its source and the answer that is expected then.
            answered: The answer is the one that the model gives, and not the one it would give to the variable alone.
        """
        rows = self.table(variable)
        if answered:
            self._answer(rows)
        more: dict[str, Any] = {"source_text": "source", "expected": "expected"} if pairs else {}
        return examples(
            rows, text="text", label=variable, cluster="cell", answer="answer", foil="foil",
            factors=["form", *(["source_answer"] if pairs else [])], name=f"{self.model}-{self.seed}-{variable}",
            **more,
        )  # fmt: skip

    def _answer(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put in what the model itself answers, to the text and to its source."""
        words = [group[0] for group in self.answers]
        for column, foil, text in (("answer", "foil", "text"), ("source_answer", None, "source")):
            at = run(self.anatomy, self.ids([row[text] for row in rows])).final
            head = self.anatomy.module.get_output_embeddings().weight.detach()
            said = (at @ (head[self.token(words[1])] - head[self.token(words[0])]) > 0).long().tolist()
            for row, value in zip(rows, said, strict=True):
                row[column] = words[value]
                if foil:
                    row[foil] = words[1 - value]

    def token(self, word: str) -> int:
        """The first token of an answer."""
        return int(self._plain.answer_ids([self.texts[0][0]], [word])[0])


@dataclass(frozen=True)
class Planted:
    """What was planted, as measured on texts that no claim sees.

    Attributes:
        neurons: Of each feature.
        vectors: What each feature's two values differ by at the site or at the later block.
        images: Half of what turning each feature over changes in the final norm.
        logits: What the two values of the variable make between the answers.
    """

    neurons: Mapping[str, Neurons]
    vectors: Mapping[str, Float[Tensor, "d_model"]]
    images: Mapping[str, Float[Tensor, "d_model"]]
    logits: float


class Planter:
    """Plants a bed step by step, each size measured on the model as it then is."""

    def __init__(self, bed: Bridge) -> None:
        self.bed, self.anatomy = bed, bed.anatomy
        _, self.bits = bed.carried(bed.sample)
        self.rng = np.random.default_rng([bed.seed, 0xB4])
        self.computing = [bed.block] + [bed.later] * (bed.again or HALF in bed.also)
        self.natural = run(self.anatomy, bed.sample, upto=self.computing[-1])
        self.neurons: dict[str, Neurons] = {}
        self.products: dict[str, Tensor] = {}  # of each feature in each text, so that 1 is its mean size
        self.vectors: dict[str, Tensor] = {}
        self.images: dict[str, Tensor] = {}
        self.taken: list[Tensor] = [torch.ones(self.natural.stream[0].shape[1])]

    def planted(self) -> Planted:
        """Plant everything that the bed's dials ask for."""
        bed = self.bed
        self._carry()
        self.now = self.background = run(self.anatomy, bed.sample)
        for feature in [USED, *(f for f in (UNUSED, LOUD, COPY) if f in bed.also)]:
            one, other = (self._carrier(bed.block, bit) for bit in PRODUCTS[feature])
            self._compute(feature, bed.block, one, other)
        if bed.bits is not None:
            self._size()
        if len(self.computing) > 1:
            self.now = run(self.anatomy, bed.sample, upto=bed.later)
        if bed.again:
            one, other = (self._carrier(bed.later, bit) for bit in PRODUCTS[LATE])
            self._compute(LATE, bed.later, one, other)
        if HALF in bed.also:
            one = self._coordinate(bed.later, self.vectors[USED], self.sign(USED))
            self._compute(HALF, bed.later, one, self._carrier(bed.later, 2))
        return self._read_out()

    def sign(self, feature: str) -> Float[Tensor, "text"]:
        """-1 or 1 for each sample text."""
        if feature == HALF:
            return self.sign(USED) * self.bits[:, 2]
        one, other = PRODUCTS[feature]
        return self.bits[:, one] * self.bits[:, other]

    # ---- carried bits

    def _carry(self) -> None:
        """Write the bits at the embedding, and once more behind block 0 for each block that computes with them."""
        directions, spread = self._quiet(0, CARRIED)
        relays = {block: self._quiet(block, CARRIED) for block in self.computing}
        if self.anatomy.gated:
            blind(self.anatomy, torch.stack(self.taken[-CARRIED * (1 + len(relays)) :]))
            self.natural = run(self.anatomy, self.bed.sample, upto=self.computing[-1])
        with torch.no_grad():
            self.bed.embedding.write.copy_(max(CARRY * spread, LEAST[0] * self._length(-1)) * directions)
        self.now = run(self.anatomy, self.bed.sample, upto=0)
        coordinates = [self._coordinate(0, d, self.bits[:, i]) for i, d in enumerate(directions)]
        self.carriers: dict[tuple[int, int], Tensor] = {}
        for block, (again, spread) in relays.items():
            for bit, direction in enumerate(again):
                relay = multiply(self.anatomy, 0, coordinates[bit], coordinates[-1])
                unit = float((relay.value(self.now.normed[0]) * self.bits[:, bit]).mean())
                size = max(CARRY * spread, LEAST[1] * self._length(block - 1))
                write(self.anatomy, dataclasses.replace(relay, unit=unit), size * direction)
                self.carriers[block, bit] = direction

    def _quiet(self, block: int, n: int) -> tuple[Float[Tensor, "direction d_model"], float]:
        """Directions along which the stream hardly varies where a block's MLP reads it, and how much it does."""
        x = self.natural.middle[block]
        around = x if self.anatomy.gated else x - x.mean(0)  # without biases the mean must be small too
        y = everywhere(self.anatomy, self.bed.sample[:FEW], block)  # where no bit is carried nothing must be computed
        y = y / y.norm(dim=1, keepdim=True) * self._length(block - 1)
        out = self._outside()
        values, vectors = torch.linalg.eigh(out.T @ (around.T @ around / len(x) + y.T @ y / len(y)) @ out)
        directions = (out @ vectors[:, :n]).T
        self.taken += list(directions)
        return directions, float(values[:n].clamp_min(0).sqrt().max())

    def _length(self, block: int) -> float:
        return float(self.natural.stream[block].norm(dim=1).mean())

    def _carrier(self, block: int, bit: int) -> Coordinate:
        return self._coordinate(block, self.carriers[block, bit], self.bits[:, bit])

    def _coordinate(self, block: int, direction: Float[Tensor, "d_model"], sign: Float[Tensor, "text"]) -> Coordinate:
        """The direction, read off a norm's output and brought to -1 and 1; 0 and 1 for the bit that is always 1."""
        weight = self.anatomy.read(block, direction)
        read = self.now.normed[block] @ weight
        up = read[sign > 0].mean()
        without = (self.natural.normed[block] @ weight).mean()
        down = read[sign < 0].mean() if bool((sign < 0).any()) else 2 * without - up
        return Coordinate(weight * 2 / (up - down), float((up + down) / (up - down)))

    # ---- computed features

    def _compute(self, feature: str, block: int, one: Coordinate, other: Coordinate) -> None:
        """Plant a product, written along a direction of its own."""
        neurons = multiply(self.anatomy, block, one, other, self._carrier(block, CARRIED - 1))
        value = neurons.value(self.now.normed[block])
        unit = float((value * self.sign(feature)).mean())
        direction, spread = self._direction(feature, block)
        size = 2 * PROMINENT * self._largest(block) if feature == LOUD else self.bed.clear * spread
        self.neurons[feature] = dataclasses.replace(neurons, unit=unit)
        self.products[feature], self.vectors[feature] = value / unit, size * direction
        write(self.anatomy, self.neurons[feature], self.vectors[feature] / 2)

    def _direction(self, feature: str, block: int) -> tuple[Float[Tensor, "d_model"], float]:
        """A direction of the stream's own variation that nothing is planted along, and how much it varies there.

        One that a reader must find against the background lies among the largest at its site. Others are among the
        quiet ones of the last stream, where the answer reads them: what blocks in between add there is little.
        """
        hard = self.bed.bits is not None and feature == USED
        x: Tensor = self.background.stream[block if hard else len(self.anatomy.blocks) - 1]
        x = x - x.mean(0)
        out = self._outside()
        values, vectors = torch.linalg.eigh(out.T @ (x.T @ x / len(x)) @ out)
        width = len(values)
        ranks = (width // 20, width // 8) if hard else (2 * width // 3, 9 * width // 10)
        rank = int(self.rng.integers(*ranks))
        direction = out @ vectors[:, width - 1 - rank]
        direction = direction * (1 if self.rng.integers(2) else -1)
        self.taken.append(direction)
        return direction, float(values[width - 1 - rank].sqrt())

    def _largest(self, block: int) -> float:
        x = self.natural.stream[block]
        return float(torch.linalg.eigvalsh(torch.cov(x.T))[-1].sqrt())

    def _outside(self) -> Float[Tensor, "d_model free"]:
        """An orthonormal basis of what no planted direction lies in."""
        taken = torch.linalg.qr(torch.stack(self.taken, 1)).Q
        left = torch.linalg.svd(torch.eye(len(taken)) - taken @ taken.T).U
        return left[:, : taken.shape[0] - taken.shape[1]]

    def _size(self) -> None:
        """Bring USED to the bits that are asked for."""
        wanted, block, neurons = self.bed.bits, self.bed.block, self.neurons[USED]
        assert wanted is not None
        drawn = self.bed.language.texts(READ * (self.bed.rows // 2), self.bed.seed + 2_000_003, self.bed.final)
        ids = self.bed.ids([text for text, _, _ in drawn])
        codes = self.bed.value(self.bed.carried(ids)[1], USED).long()
        at = run(self.anatomy, ids, upto=block)
        part = (neurons.value(at.normed[block]) / neurons.unit)[:, None] * self.vectors[USED] / 2
        rest = at.stream[block] - part
        fold = torch.arange(len(ids)) % READ
        scale = 1.3 * gap_of_bits(wanted) / self._apart()  # one that is fitted needs up to twice as much as the ideal
        for _ in range(STEPS):
            # bits rise with the square of the gap or a little faster; where none are read yet, double it
            found = read_bits(rest + scale * part, codes, fold)
            scale *= min(2.0, (wanted / max(found, 1e-9)) ** 0.45)
        self.vectors[USED] = scale * self.vectors[USED]
        write(self.anatomy, neurons, self.vectors[USED] / 2)

    def _apart(self) -> float:
        """Distance of USED's class means at the site in the best linear reader's units (Mahalanobis, unbiased)."""
        written = [self.products[f][:, None] * self.vectors[f] / 2 for f in self.neurons]
        h = self.now.stream[self.bed.block] + torch.stack(written).sum(0)
        gap = self.vectors[USED].double()
        within = h.double() - self.sign(USED)[:, None] * gap / 2
        n, d = h.shape
        squared = gap @ torch.linalg.solve(torch.cov(within.T) + 1e-9 * torch.eye(d), gap) * (n - d - 2) / n
        return float(squared.sqrt())

    # ---- the readout

    def _read_out(self) -> Planted:
        """Let the answer words' rows read the features' images in the final norm, each clear of all the others."""
        bed = self.bed
        self.now = run(self.anatomy, bed.sample)
        self.images = {f: self._image(f) for f in self.neurons}
        if bed.writer:
            self._one_word()
        self.head = self.anatomy.module.get_output_embeddings().weight
        self.groups = [[bed.token(w) for w in group] for group in bed.answers]
        self.own = (self.head[self.groups[1]].mean(0) - self.head[self.groups[0]].mean(0)).detach()
        x = self.now.final - self.now.final.mean(0)
        covariance = (x.T @ x / len(x)).double()
        self.covariance = covariance + RIDGE * float(covariance.diagonal().mean()) * torch.eye(x.shape[1])
        logits = self._logits()
        through = bed.through if bed.cost is None else self._share_through(bed.cost)
        with torch.no_grad():
            for group, side in zip(self.groups, (-0.5, 0.5), strict=True):
                self.head[group] += side * self._reader(logits, through)
            if bed.writer:
                only = {WORD: bed.writer * bed.words / 2}
                self.head[self.groups[1][0]] += self._reading([only.get(f, 0.0) for f in self.images] + [0.0])
        return Planted(self.neurons, self.vectors, self.images, logits)

    def _one_word(self) -> None:
        """A direction that nothing is written along, for one word to read, and what it would do to the final norm."""
        bed = self.bed
        direction, spread = self._direction(WORD, bed.block)
        self.vectors[WORD] = bed.clear * spread * direction
        half = self.vectors[WORD] / 2
        up, down = (
            run(self.anatomy, bed.sample, (bed.block, (lambda s: lambda h: h + s * half)(side))).final
            for side in (1, -1)
        )
        self.images[WORD] = (up - down).mean(0) / 2

    def _reader(self, logits: float, through: float) -> Float[Tensor, "d_model"]:
        """What the answers' rows must differ by, beside what they did, to read so much and to be balanced."""
        reads = self._reads(logits, through)
        if self.hush:
            return self._reading([*(reads.get(f, 0.0) for f in self.images), 0.0]) - self.own
        wanted = [reads.get(f, 0.0) - float(image @ self.own) for f, image in self.images.items()]
        return self._reading([*wanted, -float(self.now.final.mean(0) @ self.own)])

    @property
    def hush(self) -> bool:
        """Whether the answers differ in nothing but what is planted: where its size is not the question."""
        return self.bed.excess is None and self.bed.effect is None

    def _reading(self, wanted: Sequence[float]) -> Float[Tensor, "d_model"]:
        """The reader with the least background that reads so much of each image, and of the mean."""
        x = self.now.final
        # What the rest of the network makes of the carried bits goes with the variable too, and must not be read.
        planted = [image for f, image in self.images.items() if PRODUCTS.get(f) == PRODUCTS[USED]]
        leak = (self.sign(USED)[:, None] * (x - x.mean(0))).mean(0) - torch.stack(planted).sum(0)
        images = torch.stack([*self.images.values(), x.mean(0), leak], 1).double()
        solved = torch.linalg.solve(self.covariance, images)
        asked = torch.tensor([*wanted, 0.0]).double()
        return (solved @ torch.linalg.solve(images.T @ solved, asked)).float()

    def _reads(self, logits: float, through: float) -> dict[str, float]:
        """Logits between the answers that each feature's value is worth, to either side."""
        half = logits / 2
        if HALF in self.bed.also:
            return {HALF: half}
        return {USED: through * half, LATE: (1 - through) * half}

    def _logits(self) -> float:
        """How many logits the variable must be worth for what the bed is asked for."""
        bed = self.bed
        plain = self.own + self._reader(0.0, bed.through)
        more = self.own + self._reader(1.0, bed.through) - plain  # it is linear in the logits
        if bed.excess is not None:
            found = endings(self.anatomy, bed.fresh, bed.block, [lambda h: h, self._swap(-1), self._swap(1)])
            value = self._values(bed.fresh)
            return _solved(lambda x: _interchanged((found @ (plain + x * more)) * value, value), bed.excess, 60.0)
        if bed.effect is None:
            return bed.logits
        if bed.again or HALF in bed.also:
            return bed.effect / LARGEST_DOSE
        moved, chance = self._pushed()
        return _solved(lambda logits: _beyond(plain + logits * more, moved, chance), bed.effect, 100.0)

    def _pushed(self) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "draw d_model"]]:
        """What the largest dose does to the final norm on average, and what random directions of its length do."""
        vector = LARGEST_DOSE * self.vectors[USED]
        drawn = torch.randn(DRAWS, len(vector), generator=torch.Generator().manual_seed(self.bed.seed + 7))
        drawn = drawn / drawn.norm(dim=1, keepdim=True) * vector.norm()
        (after,) = endings(self.anatomy, self.bed.sample, self.bed.block, [lambda h: h + vector])
        few = self.bed.sample[:DRAWN_ON]
        chance = pushed(self.anatomy, few, self.bed.block, drawn) - self.now.final[:DRAWN_ON]
        return (after - self.now.final).mean(0), chance.mean(1)

    def _swap(self, side: int) -> Callable[[Tensor], Tensor]:
        """USED's direction set to where it stands in a random text of the same value (1) or of the other (-1)."""
        along = self.vectors[USED] / self.vectors[USED].norm()
        stands = self.now.stream[self.bed.block] @ along
        up, down = (stands[self.sign(USED) == value] for value in (1, -1))
        middle = (up.mean() + down.mean()) / 2  # the values lie far apart wherever swaps are the question
        rng = torch.Generator().manual_seed(self.bed.seed + 10)

        def swap(h: Tensor) -> Tensor:
            here = h @ along
            drawn_up, drawn_down = (x[torch.randint(len(x), here.shape, generator=rng)] for x in (up, down))
            wanted = torch.where((here > middle) == (side > 0), drawn_up, drawn_down)
            return h + (wanted - here)[:, None] * along

        return swap

    def _share_through(self, cost: float) -> float:
        """Which share of the answer must go through USED for its erasure to cost so much."""
        bed = self.bed
        centre, left, right = self._erasure()
        rng = torch.Generator().manual_seed(bed.seed + 8)
        sample = self.now.stream[bed.block]
        x = sample - centre
        axis = left / left.norm()
        taken = float((x @ right).square().mean() * left.square().sum())
        random = as_varied(x - (x @ axis)[:, None] * axis, taken, REMOVED, seed=bed.seed + 9)
        ids = bed.fresh[: SIZED_ON // 4]
        removals = [
            lambda h: h,
            _cut(left, right, centre),
            lambda h: sample[torch.randint(len(sample), (len(h),), generator=rng)],
        ]
        intact, erased, other = endings(self.anatomy, ids, bed.block, removals)
        at_random = endings(self.anatomy, ids[:REMOVED_ON], bed.block, [_cut(d, d, centre) for d in random])
        value = self._values(ids)[:, None]
        means = [(value * (intact - after)).mean(0) for after in (erased, other)]
        usual = (value[:REMOVED_ON] * (intact[:REMOVED_ON] - at_random)).mean(1)
        plain = self.own + self._reader(bed.logits, 0.0)
        more = self.own + self._reader(bed.logits, 1.0) - plain

        def lost(through: float) -> float:
            reader = plain + through * more
            hardest = float(torch.quantile(usual @ reader, 0.95).clamp_min(0))
            return (float(means[0] @ reader) - hardest) / float(means[1] @ reader)

        return _solved(lost, cost, 1.0)

    def _erasure(self) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model"], Float[Tensor, "d_model"]]:
        """Centre, what is written and what is read by the least-squares erasure of USED at its site (LEACE)."""
        h, value = self.now.stream[self.bed.block], self.sign(USED)
        x = h - h.mean(0)
        left = (value - value.mean()) @ x / len(x)
        right = torch.linalg.lstsq((x.T @ x / len(x)).double(), left.double(), driver="gelsd").solution.float()
        return h.mean(0), left, right / (left @ right)

    def _values(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "text"]:
        """USED in each text, -1 or 1."""
        return 2.0 * self.bed.value(self.bed.carried(ids)[1], USED) - 1

    def _image(self, feature: str) -> Float[Tensor, "d_model"]:
        """Half of what turning a feature over changes in the final norm."""
        with turned(self.anatomy, self.neurons[feature]):
            other = run(self.anatomy, self.bed.sample).final
        return (self.sign(feature)[:, None] * (self.now.final - other)).mean(0) / 2


CARRY = 6.0  # size of a carried bit, in what varies naturally along its direction
LEAST = (0.08, 0.02)  # and of the length of the stream, at the embedding and behind it


def read_bits(h: Float[Tensor, "text d_model"], codes: Int[Tensor, "text"], fold: Int[Tensor, "text"]) -> float:
    """Bits an item of a logistic probe fitted on each fold in turn, on the items of all others."""
    train = torch.stack([fold == f for f in range(READ)])
    fitted = LogisticProbe(site="").weights(h, codes.repeat(READ, 1), train, n_classes=2)
    scores, told = fitted.score(h).double(), []
    for f in range(READ):
        seen, label = scores[f : f + 1, fold != f], codes[None, fold != f]
        calibration = platt(seen, label, 2)
        told.append((calibration.log2_prob(seen, label) - calibration.prior_log2_prob(label)).mean())
    return float(torch.stack(told).mean())


def _cut(
    left: Float[Tensor, "d_model"], right: Float[Tensor, "d_model"], centre: Float[Tensor, "d_model"]
) -> Callable[[Tensor], Tensor]:
    """What is read of a stream, against a centre, taken out of it along where it is written."""
    return lambda h: h - ((h - centre) @ right)[:, None] * left


def _solved(measured: Callable[[float], float], wanted: float, high: float) -> float:
    """Where what is measured, which rises, comes to what is wanted."""
    low = 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if measured(middle) < wanted else (low, middle)
    return high


def _interchanged(right: Float[Tensor, "change text"], value: Float[Tensor, "text"]) -> float:
    """Share of pairs with another answer than the expected one that a swap gives it, beyond the best constant's.

    Half of all sources have the other value. The answer is another one where that is so and the text is answered
    rightly, or where the source has the same value and it is answered wrongly: of each text one or the other.

    Args:
        right: Logits of the text's own value, intact, swapped for the other value and for the same.
        value: The text's value, -1 or 1.
    """
    expected = torch.where(right[0] > 0, right[1] < 0, right[2] > 0)
    up = float((right[0] * value < 0).double().mean())
    return float(expected.double().mean()) - max(up, 1 - up)


def _beyond(
    reader: Float[Tensor, "d_model"], moved: Float[Tensor, "d_model"], chance: Float[Tensor, "draw d_model"]
) -> float:
    """Logits that a vector moves the answers beyond the best of the random ones."""
    return float(moved @ reader - BEST * (chance @ reader).square().mean().sqrt())

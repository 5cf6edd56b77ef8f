"""The network of bed P1: a bag of words plus features looked up in a table, one site, and a head that reads some.

All of it is ordinary weights, so a random-weight twin has every part of the network and none of the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from veriscope.zoo.planted_information import circle

if TYPE_CHECKING:
    from veriscope.zoo.planted_bed import Planted

NOISE_WORDS = 6
USED, UNUSED, LEAKED, SECOND = "used", "unused", "leaked", "second"
FEATURES = (USED, UNUSED, LEAKED, SECOND)
LOUD, LOCKED, WIRED = "loud", "locked", "wired"
THING, THING_LABEL = "thing", "thing label"  # which thing a triple names; a coin for each thing
ECHO, AXIS, RELEVANT, SPARE, MOOD = "echo", "axis", "relevant", "spare", "mood"  # further directions, for some dials
TYPE_SCALE = 0.6
LOUD_SIZE = 6.0  # of a prominent feature, in the noise's own units, to either side of its mean
RELEVANT_SIZE = 6.0
THING_SIZE = 5.0
CROWD_RATE, CROWD_SIZE = 0.1, 3.0  # of the many small features that crowd the space


class PlantedModel(nn.Module):
    """A one-layer network with planted features: `residual` is its only inner site, `head` its logits.

    Attributes:
        features: Names of the columns of `table` and the rows of `write`.
        codes: The truth, which the network itself never looks at: value of every variable for every table row.
    """

    def __init__(self, bed: Planted) -> None:
        super().__init__()
        self.bed = bed
        rng = torch.Generator().manual_seed(bed.seed)
        more = torch.Generator().manual_seed(bed.seed + 7_777_777)  # so that what a dial adds leaves the rest alone
        self.features = FEATURES + _added(bed)
        vocab, cells = bed.vocab, bed.digits**3 * (2 if bed.marked else 1)
        self.embed = nn.Embedding(len(vocab), bed.width)
        self.table = nn.Embedding(cells, len(self.features))
        directions = torch.linalg.qr(torch.randn(bed.width, len(FEATURES), generator=rng))[0].T
        self.directions = torch.cat([directions, _more_directions(directions, self.features, more)])
        self.write = nn.Parameter(self.directions * torch.tensor(self._sizes())[:, None] / 2)
        self.residual = nn.Identity()
        self.head = nn.Linear(bed.width, len(vocab), bias=False)
        self.place: Tensor
        self.register_buffer("place", torch.zeros(len(vocab), dtype=torch.long))
        with torch.no_grad():
            self._plant_words(rng)
            bits = torch.rand(bed.digits**3, len(FEATURES), generator=rng) < 0.5
            self.codes = _codes(bed, bits, more)
            self.table.weight.copy_(self._written(more))
            # no parameter: what is wired stands in every network of this architecture, trained or not
            signs = 2.0 * torch.as_tensor(self.codes.get(WIRED, np.zeros(0))).float() - 1
            self.fixed: Tensor
            self.register_buffer("fixed", signs[:, None] * self.write[self.features.index(WIRED) if bed.wired else 0])
            self.head.weight.copy_(0.02 * torch.randn(self.head.weight.shape, generator=rng))
            self._plant_head()

    def forward(self, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example position vocab"]:
        """Logits at every position: words are summed up to it, features appear once all three digits are read."""
        words = self.embed(input_ids).cumsum(1)
        cell = self.place[input_ids].cumsum(1).clamp_max(len(self.table.weight) - 1)
        written = self.table(cell) @ self.write
        if self.bed.wired:
            written = written + self.fixed[cell]
        return self.logits(self.residual(words + written))

    def logits(self, residual: Float[Tensor, "*row width"]) -> Float[Tensor, "*row vocab"]:
        """What the output is computed from the site's values alone."""
        return self.head(self._opened(residual))

    def direction(self, feature: str) -> Float[Tensor, "width"]:
        """The unit direction that a feature is planted along (and the head reads, if it reads it)."""
        return self.directions[self.features.index(feature)]

    def _opened(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        """The dials that bend the reading: features that all logits hang on, and what opens or scales another's."""
        bed, shut = self.bed, h
        if bed.uneven:
            read = self.direction(USED).to(h)
            scale = bed.uneven * torch.tanh(h @ self.direction(MOOD).to(h))
            shut = h + (scale * (h @ read))[..., None] * read
        if bed.elsewhere == "unread":
            read, mark = self.direction(USED).to(h), self._written_along(RELEVANT, h)
            shut = shut - (1 - mark.clamp(0, 1)) * (shut @ read)[..., None] * read
        loud = [name for name in self.features if name.startswith(LOUD)]
        if bed.needed:
            for name in loud:
                shut = shut * torch.sigmoid(8 * (self._written_along(name, h).abs() - 0.5))
        if bed.temperature:
            shut = shut * torch.exp(bed.temperature * self._written_along(loud[0], h))
        return shut

    def _written_along(self, feature: str, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row one"]:
        """A feature's value at the site, in units of its own size."""
        write = self.write[self.features.index(feature)]
        return (h @ write / write.square().sum())[..., None]

    # ---- planting

    def _sizes(self) -> list[float]:
        """Length of each feature's write, which is the distance between its two values."""
        bed = self.bed
        fixed = {RELEVANT: 2 * RELEVANT_SIZE, ECHO: bed.gap * bed.echo}
        sizes = []
        for name in self.features:
            many = {LOUD: LOUD_SIZE, "crowd": CROWD_SIZE, THING: THING_SIZE}
            plain = next((2 * size for kind, size in many.items() if name.startswith(kind)), bed.gap)
            sizes.append(fixed.get(name, plain))
        return sizes

    def _plant_words(self, rng: torch.Generator) -> None:
        bed = self.bed
        self.embed.weight.zero_()
        for word, i in bed.vocab.items():
            scale = {"n": 1 / np.sqrt(NOISE_WORDS), "t": TYPE_SCALE}.get(word[0], 0.0) if word[1:].isdigit() else 0.0
            self.embed.weight[i] = scale * torch.randn(bed.width, generator=rng)
            if word[0] in "abc" and word[1:].isdigit():
                self.place[i] = int(word[1:]) * bed.digits ** "abc".index(word[0])
        if bed.marked:
            self.place[bed.vocab["m1"]] = bed.digits**3

    def _written(self, more: torch.Generator) -> Float[Tensor, "cell feature"]:
        """What the table holds for each cell: mostly -1 and 1."""
        bed, cells = self.bed, len(self.codes[USED])
        relevant = torch.as_tensor(self.codes[RELEVANT]).float()
        columns = {name: 2.0 * torch.as_tensor(code) - 1 for name, code in self.codes.items()}
        if bed.values > 2:
            points = torch.as_tensor(circle(bed.values)[self.codes[USED]]).float()
            columns[USED], columns[AXIS] = points[:, 0], points[:, 1]
        there = relevant if bed.elsewhere == "absent" else 1.0
        columns[USED] = columns[ECHO] = columns[USED] * bed.sign * there
        if bed.elsewhere == "overruled":
            columns[SECOND] = 2 * columns[SECOND] * (1 - relevant)
        columns[RELEVANT] = relevant
        columns |= {name: torch.zeros(cells) for name in (SPARE, MOOD, WIRED)}
        columns |= {f"{THING}{i}": (torch.as_tensor(self.codes[THING]) == i).float() for i in range(bed.things)}
        for name in self.features:
            if name.startswith("crowd"):
                columns[name] = (torch.rand(cells, generator=more) < CROWD_RATE).float()
        write = self.write[FEATURES.index(USED)]
        if bed.tilt:
            across = np.sqrt(1 - bed.tilt**2) * self.direction(USED) + bed.tilt * self.direction(UNUSED)
            write.copy_(across * bed.gap / 2)
        return torch.stack([columns[name].float() for name in self.features], 1)

    def _plant_head(self) -> None:
        bed, vocab, head = self.bed, self.bed.vocab, self.head.weight
        # Only the directions of used features reach any logit; unused and leaked ones are projected out.
        used, second = self.direction(USED), self.direction(SECOND)
        read = bed.gain * bed.sign * used + bed.second * second
        if bed.echo:
            read = read + bed.gain * bed.echo_read * bed.sign * self.direction(ECHO)
        for word, i in vocab.items():
            if bed.chatter and word[0] == "n" and word[1:].isdigit():
                head[i] += bed.chatter * self.embed.weight[i]
        if bed.hush or bed.values > 2:
            head[[vocab[word] for group in bed.answers for word in group]] = 0.0
            for name in (n for n in self.features if not n.startswith("crowd")):
                head -= (head @ self.direction(name))[:, None] * self.direction(name)
        for value, words in enumerate(bed.answers):
            for word in words:
                if bed.values > 2:
                    x, y = (float(p) for p in circle(bed.values)[value])
                    head[vocab[word]] += bed.gain * (x * used + y * self.direction(AXIS))
                else:
                    head[vocab[word]] += (1 if value else -1) * read
        unread = self.directions[[FEATURES.index(UNUSED), FEATURES.index(LEAKED)]]
        head -= (head @ unread.T) @ unread
        for name in self.features:
            if name.startswith((LOUD, THING)) or name in (RELEVANT, LOCKED, WIRED):
                head -= (head @ self.direction(name))[:, None] * self.direction(name)
        if bed.writer:
            head[vocab[bed.answers[1][0]]] += bed.writer * self.direction(SPARE)


def _added(bed: Planted) -> tuple[str, ...]:
    """Columns that the bed's dials add to those of every bed."""
    wanted = {
        ECHO: bool(bed.echo),
        AXIS: bed.values > 2,
        RELEVANT: bed.elsewhere == "unread",
        LOCKED: bool(bed.locked),
        WIRED: bed.wired,
        SPARE: bool(bed.writer),
        MOOD: bool(bed.uneven),
    }
    loud = [LOUD if i == 0 else f"{LOUD}{i}" for i in range(bed.loud)]
    many = (*(f"{THING}{i}" for i in range(bed.things)), *(f"crowd{i}" for i in range(bed.crowd)))
    return (*(name for name, there in wanted.items() if there), *loud, *many)


def _more_directions(
    base: Float[Tensor, "feature width"], names: tuple[str, ...], rng: torch.Generator
) -> Float[Tensor, "more width"]:
    """Orthogonal directions for the added features; those of a crowd or of things are many, and so overlap with all."""
    width = base.shape[1]
    clean = [name for name in names[len(base) :] if not name.startswith(("crowd", THING))]
    drawn = torch.randn(width, len(clean), generator=rng)
    apart = torch.linalg.qr(drawn - base.T @ (base @ drawn))[0].T
    crowd = torch.randn(len(names) - len(base) - len(clean), width, generator=rng)
    return torch.cat([apart, crowd / crowd.norm(dim=1, keepdim=True)])


def _codes(bed: Planted, bits: Tensor, rng: torch.Generator) -> dict[str, np.ndarray]:
    """Every variable's value for every cell of the table: the truth that texts, labels and weights are made from."""
    n = len(bits)
    codes = {name: bits[:, i].long() for i, name in enumerate(FEATURES)}
    if bed.values > 2 or bed.rate != 0.5:
        drawn = torch.rand(n, generator=rng)
        codes[USED] = (drawn * bed.values).long() if bed.values > 2 else (drawn < bed.rate).long()
    if bed.tie:
        codes[UNUSED] = torch.where(torch.rand(n, generator=rng) < bed.tie, codes[USED], codes[UNUSED])
    for i in range(bed.loud):
        free = torch.randint(2, (n,), generator=rng)
        same = torch.rand(n, generator=rng) < bed.agree if i == 0 else torch.zeros(n, dtype=torch.bool)
        codes[LOUD if i == 0 else f"{LOUD}{i}"] = torch.where(same, codes[USED], free)
    pairs = torch.randint(2, (bed.digits**2,), generator=rng)
    codes[LOCKED] = pairs[torch.arange(n) % bed.digits**2]  # of the first two digits, which stand side by side
    codes[RELEVANT] = (torch.rand(n, generator=rng) < bed.relevant).long()
    if bed.wired:
        codes[WIRED] = torch.randint(2, (n,), generator=rng)
    if bed.things:
        codes[THING] = torch.randint(bed.things, (n,), generator=rng)
        codes[THING_LABEL] = (torch.randperm(bed.things, generator=rng) % 2)[codes[THING]]
    if bed.marked:
        codes = {name: code.repeat(2) for name, code in codes.items()}
        codes[RELEVANT] = (torch.arange(2 * n) >= n).long()
    return {name: code.numpy() for name, code in codes.items()}

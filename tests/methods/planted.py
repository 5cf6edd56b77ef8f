"""What the tests of methods and rivals share: activations with a planted direction, and a small model that has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from veriscope.examples import Sample, make_example
from veriscope.subjects import Subject, WordReader, load

WORDS = ("red", "blue", "one", "two", "three", "four", "five", "six", "yes", "no", "True", "False", "colour:", ":")
FILLER = ("one", "two", "three", "four", "five", "six")


def planted_acts(
    *, n: int = 600, d: int = 24, classes: int = 2, gap: float = 2.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations around an offset, their classes, and the class means' directions; gap 0 plants nothing."""
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(classes, (n,), generator=source)
    directions = torch.linalg.qr(torch.randn(d, classes, generator=source)).Q.T
    acts = torch.randn(n, d, generator=source) + 3.0
    return acts + gap * directions[codes], codes, directions


class Toy(nn.Module):
    """Embeds words, lets every position sum what came before it, and unembeds.

    The words "red" and "blue" differ only along `feature`; a running mean carries it to the last position.
    """

    def __init__(self, gap: float = 4.0, width: int = 12, seed: int = 0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        table = torch.randn(len(WORDS), width, generator=source)
        feature = torch.linalg.qr(torch.randn(width, 1, generator=source)).Q[:, 0]
        table[0] = gap / 2 * feature
        table[1] = -gap / 2 * feature
        out = torch.randn(len(WORDS), width, generator=source) * 0.3
        out[WORDS.index("yes")] = 2 * feature
        out[WORDS.index("no")] = -2 * feature
        self.embed = nn.Embedding.from_pretrained(table)
        self.early = nn.Identity()
        self.late = nn.Identity()
        self.unembed = nn.Linear(width, len(WORDS), bias=False)
        self.unembed.weight.data.copy_(out)
        self.feature = feature

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.early(self.embed(input_ids))
        count = torch.arange(1, h.shape[1] + 1, dtype=h.dtype)[:, None]
        return self.unembed(self.late(h.cumsum(1) / count.sqrt()))


def toy(gap: float = 4.0) -> Subject:
    """The toy as a subject with sites `early` and `late`."""
    return load(Toy(gap), tokenizer=WordReader(WORDS), name="toy")


def colours(n: int = 120, *, shuffled: bool = False, seed: int = 0, sources: bool = False) -> Sample:
    """Texts that hold "red" or "blue" among filler words, labelled by it, or by a coin with `shuffled`."""
    source = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        red, coin = (bool(torch.randint(2, (1,), generator=source)) for _ in range(2))
        words = [FILLER[int(j)] for j in torch.randint(len(FILLER), (5,), generator=source)]
        place = int(torch.randint(5, (1,), generator=source))
        colour, other = ("red", "blue") if red else ("blue", "red")
        text = " ".join([*words[:place], colour, *words[place:]])
        rows.append(
            make_example(
                text,
                label=str(coin if shuffled else red),
                cluster=f"c{i % 30}",
                answer="yes" if red else "no",
                foil="no" if red else "yes",
                source=text.replace(colour, other) if sources else None,
                factors={"colour": colour},
            )
        )
    return Sample(tuple(rows), "colours", f"hash-{n}-{shuffled}-{seed}", "dev", "is_red")

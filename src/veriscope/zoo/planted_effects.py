"""The self-test of bed P1: every effect of its truth table, measured on the weights and not through the verifier.

A variable's contribution to the site is known exactly (its columns of the table, times its writes), so it can be
swapped, taken out or added by itself, with nothing estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.zoo.planted_bed import Planted
from veriscope.zoo.planted_information import bits_of_gap, bits_of_radius
from veriscope.zoo.planted_network import AXIS, ECHO, FEATURES, LOCKED, RELEVANT, USED

SILENT = {"mediates": 0.05, "necessary": 0.05}  # less is none: half a smallest effect
SLIGHT = 0.05  # of USED's own steering effect: less is none


def self_test(bed: Planted) -> dict[str, float]:
    """Check the truth on the weights themselves.

    Returns:
        For each feature, the change of logit(yes) - logit(no) between its two values, read off the weights alone: 0
        for unused and leaked ones. `bits`: the information about USED of the ideal linear reader on drawn texts. And
        for each variable that is written, "<variable> mediates" (interchange accuracy beyond chance), "<variable>
        necessary" (share of the clean range) and "<variable> steers" (logits that its own difference adds).
    """
    model = bed.module
    yes, no = (model.head.weight[bed.vocab[bed.answers[value][0]]].detach() for value in (1, 0))
    write = model.write.detach()
    found = {name: float(2 * (write[i] @ (yes - no)).abs()) for i, name in enumerate(FEATURES)}
    found["bits"] = ideal_bits(bed)
    for variable in written_variables(bed):
        found[f"{variable} mediates"] = interchange(bed, variable, bed.written(variable).T)
        found[f"{variable} necessary"] = lost(bed, variable)
        found[f"{variable} steers"] = steered(bed, bed.written(variable)[0])
    return found


def disagreements(bed: Planted) -> list[str]:
    """What the weights do that the truth table does not say, in words; empty for a sound bed."""
    found, out = self_test(bed), []
    silent = {**SILENT, "steers": SLIGHT * abs(found[f"{USED} steers"])}
    for variable in written_variables(bed):
        for claim, none in silent.items():
            said = bed.truth()[variable].get(claim)
            value = abs(found[f"{variable} steers"]) if claim == "steers" else found[f"{variable} {claim}"]
            least = -0.1 if bed.elsewhere == "overruled" and claim == "mediates" else 0.0  # a share near a half
            if (said is True and value <= least) or (said is False and value > none):
                out.append(f"{variable} {claim}: {value:.3f}, the table says {said}")
    if not 0.8 * bed.bits - 0.02 < found["bits"] < 1.2 * bed.bits + 0.02:
        out.append(f"{USED} gives {found['bits']:.3f} bits and not {bed.bits:g}")
    return out


def written_variables(bed: Planted) -> list[str]:
    """Variables of the truth table that the network writes to its site."""
    return [name for name in bed.truth() if name in bed.module.features and name != LOCKED]


# ---- on the weights


def ids_of(bed: Planted, texts: Sequence[str]) -> Int[Tensor, "text position"]:
    """Token ids of texts, which are all of one length."""
    return torch.tensor([[bed.vocab[w] for w in text.split()] for text in texts])


@torch.no_grad()
def site(bed: Planted, texts: Sequence[str]) -> tuple[Float[Tensor, "text width"], Int[Tensor, "text"]]:
    """The site at the last token, worked out from the weights, and each text's cell of the table."""
    model, ids = bed.module, ids_of(bed, texts)
    cell = model.place[ids].sum(1)
    return model.embed(ids).sum(1) + model.table(cell) @ model.write, cell


@torch.no_grad()
def contribution(bed: Planted, variable: str, cells: Int[Tensor, "text"]) -> Float[Tensor, "text width"]:
    """What one variable adds to the site in these cells."""
    model = bed.module
    own = {USED: (USED, ECHO, AXIS)}.get(variable, (variable,))
    columns = [model.features.index(name) for name in own if name in model.features]
    return model.table(cells)[:, columns] @ model.write[columns]


@torch.no_grad()
def interchange(
    bed: Planted, variable: str, basis: Float[Tensor, "width r"], rows: Sequence[dict[str, str]] | None = None
) -> float:
    """Share of pairs whose answer is the expected one once the subspace is swapped, beyond the best constant."""
    rows = [row for row in rows or bed.pair_rows(variable) if row["expected"] != row["answer"]]
    here, there = (site(bed, [row[column] for row in rows])[0] for column in ("text", "source"))
    basis = torch.linalg.qr(basis).Q
    logits = bed.module.logits(here + ((there - here) @ basis) @ basis.T)
    before = bed.module.logits(here)
    words = [group[0] for group in bed.answers]
    columns = [bed.vocab[w] for w in words]
    expected = torch.tensor([words.index(row["expected"]) for row in rows])
    hit, unpatched = ((x[:, columns].argmax(1) == expected).double().mean() for x in (logits, before))
    common = float(expected.bincount().max() / len(expected))
    return float(hit) - max(float(unpatched), common, 1 / len(words))


@torch.no_grad()
def lost(bed: Planted, variable: str, n: int = 4_000) -> float:
    """Share of the clean range that goes with the variable alone, whether its mean or another text's value is left.

    The smaller of the two counts: where any value will do, the variable is not needed, whatever its removal breaks.
    """
    rows = bed.table()[:n]
    h, cells = site(bed, [row["text"] for row in rows])
    other = torch.randperm(len(h), generator=torch.Generator().manual_seed(bed.seed))
    part = contribution(bed, variable, cells)
    clean = _preference(bed, rows, h)
    left = max(_preference(bed, rows, h - part + given) for given in (part.mean(0), part[other]))
    return (clean - left) / max(clean - _preference(bed, rows, h[other]), 0.01)


def _preference(bed: Planted, rows: Sequence[dict[str, str]], h: Float[Tensor, "text width"]) -> float:
    """Mean logit(answer) - logit(foil) with these values at the site."""
    ids = torch.tensor([[bed.vocab[row["answer"]], bed.vocab[row["foil"]]] for row in rows])
    chosen = bed.module.logits(h).gather(1, ids)
    return float((chosen[:, 0] - chosen[:, 1]).mean())


@torch.no_grad()
def lost_beyond_matched(bed: Planted, variable: str = USED, draws: int = 100) -> float:
    """What `lost` measures, less what the hardest of the usual random removals takes (at the 95% mark).

    Random directions are at right angles to the variable's own and vary as much as it, as far as any do.
    """
    rows = bed.table()[:2_000]
    h, _ = site(bed, [row["text"] for row in rows])
    x = h - h.mean(0)
    own = torch.linalg.qr(bed.written(variable).T).Q
    directions = as_varied(x - (x @ own) @ own.T, float((x @ own).square().sum(1).mean()), draws, bed.seed)
    clean = _preference(bed, rows, h)
    other = torch.randperm(len(h), generator=torch.Generator().manual_seed(bed.seed))
    span = max(clean - _preference(bed, rows, h[other]), 0.01)
    cost = [(clean - _preference(bed, rows, h - (x @ d)[:, None] * d)) / span for d in directions]
    return lost(bed, variable) - max(0.0, float(np.quantile(cost, 0.95)))


def as_varied(x: Float[Tensor, "text width"], variance: float, draws: int, seed: int) -> Float[Tensor, "draw width"]:
    """Random directions along which centred values vary so much: Gaussians times a power of the covariance."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    scale = (values / values[-1]).clamp_min(1e-9).log()
    drawn = torch.randn(draws, len(values), generator=torch.Generator().manual_seed(seed))
    low, high = torch.full((draws, 1), -4.0), torch.full((draws, 1), 6.0)
    for _ in range(30):
        middle = (low + high) / 2
        unit = torch.nn.functional.normalize(drawn * (scale * middle).exp(), dim=1)
        enough = (unit.square() * values).sum(1, keepdim=True) >= variance
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return unit @ vectors.T


@torch.no_grad()
def steered(bed: Planted, vector: Float[Tensor, "width"], n: int = 2_000) -> float:
    """Mean change of the words of value 1 against those of value 0 when a vector is added.

    Texts of every answer count alike, so that a vector which only raises what is high already shows nothing.
    """
    rows = bed.table()[:n]
    h, _ = site(bed, [row["text"] for row in rows])
    up, down = ([bed.vocab[w] for w in bed.answers[value]] for value in (1, 0))
    change = bed.module.logits(h + vector) - bed.module.logits(h)
    change = change[:, up].mean(1) - change[:, down].mean(1)
    answers = np.array([row["answer"] for row in rows])
    return float(np.mean([change.numpy()[answers == word].mean() for word in np.unique(answers)]))


@torch.no_grad()
def within_budget(bed: Planted, vector: Float[Tensor, "width"], nats: float = 0.016, n: int = 1_000) -> float:
    """The largest multiple of a vector, up to 2, that changes the next token by so many nats at most (mean KL)."""
    h, _ = site(bed, [row["text"] for row in bed.table()[:n]])
    plain = torch.log_softmax(bed.module.logits(h), -1)
    for dose in (2.0, 1.0, 0.5, 0.25, 0.125):
        moved = torch.log_softmax(bed.module.logits(h + dose * vector), -1)
        if float((plain.exp() * (plain - moved)).sum(-1).mean()) <= nats:
            return dose
    return 0.0


@torch.no_grad()
def ideal_bits(bed: Planted, n: int = 2_000) -> float:
    """Information about USED of the best linear reader, which knows all that overlaps, by the spread on drawn texts."""
    rows = bed.table()[:n]
    h, cells = site(bed, [row["text"] for row in rows])
    model = bed.module
    others = [i for i, name in enumerate(model.features) if name not in (USED, ECHO, AXIS)]
    spread = torch.cov(model.table.weight[:, others].T, correction=0) if len(others) > 1 else torch.zeros(0)
    covariance = model.write[others].T @ spread @ model.write[others] + (1 + 0.36) * torch.eye(bed.width)
    reader = torch.linalg.solve(covariance, bed.written(USED).T)
    code = model.codes[USED][cells.numpy()]
    values = (h @ reader / reader.norm(dim=0)).numpy()
    if bed.values > 2:
        means = np.stack([values[code == v].mean(0) for v in range(bed.values)])
        noise = np.sqrt(np.mean([values[code == v].var(0).mean() for v in range(bed.values)]))
        return bits_of_radius(float(np.linalg.norm(means - means.mean(0), axis=1).mean() / noise), bed.values)
    there = np.ones(len(code), dtype=bool)
    if bed.elsewhere == "absent":
        there = model.codes[RELEVANT][cells.numpy()] == 1
    one, zero = (values[there & (code == v), 0] for v in (1, 0))
    pooled = np.sqrt((one.var() * len(one) + zero.var() * len(zero)) / (len(one) + len(zero)))
    return bits_of_gap(float((one.mean() - zero.mean()) / pooled), bed.rate, float(there.mean()))

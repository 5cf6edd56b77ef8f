"""Spans of tokens changed as a whole, beside their best single token and beside random spans of the same length.

What a text says of one thing is often spread over several tokens, any of which is enough: then changing one by one
finds nothing, and only the span shows the effect. Sources: "Locating and Editing Factual Associations in GPT" (2022)
for patching a subject's tokens together; the span is left out of the text as well, with nothing put in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadPosition, NotRun
from veriscope.patching import heatmap
from veriscope.patching.ablation import FEWEST
from veriscope.patching.gaps import Asked, BadChoice, ask, couple, gap_of, measured
from veriscope.patching.grid import PARTS, SPLIT
from veriscope.patching.places import Spans, Tokens, elsewhere, locate, mask
from veriscope.patching.waiting import waiting
from veriscope.subjects import Edit, Mean, Resample, Subject, Variant, Zero
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

WHOLE = tuple(part for part in PARTS if part not in SPLIT)
TEXT = "text"  # the part of a cell whose span was left out of the text itself
FLOOR = 20  # random spans, below which "beyond the 95th percentile" means nothing
_ROUNDING = 1e-6  # logits: what two runs of one thing differ by


@dataclass(frozen=True, eq=False)
class SpanCell:
    """One span at one place in the model.

    Attributes:
        part, block: The site; "text" and None where the span was left out of the text.
        changes: Change of each text's logit difference by changing the whole span.
        singles: By changing one of its tokens; 0 for a text whose span is shorter.
        floor: Mean change by each random span of the same length elsewhere.
    """

    span: str
    part: str
    block: int | None
    changes: Float[Tensor, "text"]
    singles: Float[Tensor, "token text"]
    floor: Float[Tensor, "control"] | NotRun

    @property
    def effect_logits(self) -> float:
        return float(self.changes.mean())

    @property
    def best(self) -> int:
        """Which token of the span moves the logit difference furthest, counted from 0."""
        return int(self.singles.mean(1).abs().argmax())

    @property
    def rank(self) -> int | NotRun:
        """Place among the random spans: 1 is beyond them all."""
        if isinstance(self.floor, NotRun):
            return self.floor
        return 1 + int((self.floor.abs() >= abs(self.effect_logits) - _ROUNDING).sum())

    @property
    def p(self) -> float | NotRun:
        """Share of random spans that move it at least as far, with the +1 correction; not corrected for cells."""
        if isinstance(self.rank, NotRun) or isinstance(self.floor, NotRun):
            return NotRun("there were no random spans to compare with")
        return self.rank / (1 + len(self.floor))

    @property
    def floor_q95(self) -> float | NotRun:
        return self.floor if isinstance(self.floor, NotRun) else float(self.floor.abs().quantile(0.95))


@dataclass(frozen=True, eq=False)
class SpanSweep:
    """What changing spans did to the logit difference, at every place that was asked for.

    Attributes:
        how: "patch", "zero" or "mean".
        cells: In the order of spans, then parts, then blocks.
        base: Logit differences without any edit.
        other: Those of the other run, where there is one.
        sizes: Fewest and most tokens of each span.
        recut: Of the shortened texts, how many were cut into other tokens at the seam than the rest of the text was.
        clusters: Which texts are resampled together.
    """

    how: str
    cells: tuple[SpanCell, ...]
    base: Float[Tensor, "text"]
    other: Float[Tensor, "text"] | None
    sizes: dict[str, tuple[int, int]]
    recut: tuple[int, int]
    clusters: tuple[str, ...]

    def cell(self, span: str, part: str, block: int | None = None) -> SpanCell:
        """The cell of a span at a site, or (part "text") left out of the text.

        Raises:
            BadChoice: It was not swept.
        """
        for one in self.cells:
            if (one.span, one.part, one.block) == (span, part, block):
                return one
        known = dict.fromkeys(f"{one.span}, {one.part}" for one in self.cells)
        raise BadChoice("span", (span, part, block), f"there are {'; '.join(known)}, and block numbers")

    def estimate(self, cell: SpanCell) -> Estimate:
        """Change of the logit difference by the whole span, with bounds, texts resampled by cluster."""
        return Resampler(self.clusters).mean(cell.changes.double().numpy())

    def excess(self, cell: SpanCell) -> Estimate:
        """How much further the whole span moves the logit difference than the best of its tokens, in logits.

        The best token was chosen on these texts, so this errs on its side and against the span.
        """
        further, single = (
            part if float(part.mean()) >= 0 else -part for part in (cell.changes, cell.singles[cell.best])
        )
        return Resampler(self.clusters).mean((further - single).double().numpy())

    def spread(self, level: float = 0.05) -> list[dict[str, Any]]:
        """Cells whose effect is beyond random spans (p <= level) and surely beyond that of any single token."""
        found = [cell for cell in self.cells if isinstance(cell.p, float) and cell.p <= level]
        found = [cell for cell in found if self.excess(cell).low > _ROUNDING]
        return [self._row(cell) for cell in sorted(found, key=lambda cell: -abs(cell.effect_logits))]

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k cells of the largest effect: names, `effect_logits` with bounds, `effect` as a share of the way to the
        other run, the best single token, `excess_logits` over it, and the random spans' 95% quantile, rank and p."""
        return [self._row(cell) for cell in sorted(self.cells, key=lambda cell: -abs(cell.effect_logits))[:k]]

    def table(self) -> list[dict[str, Any]]:
        """The same of every cell."""
        return [self._row(cell) for cell in self.cells]

    def plot(self, path: str | Path) -> Path:
        """Write the effects in excess of the random spans' 95% quantile as a heat map (SVG)."""
        rows = list(dict.fromkeys(_place(cell) for cell in self.cells))
        columns = list(self.sizes)
        cells = torch.full((len(rows), len(columns)), float("nan"))
        for cell in self.cells:
            bar = 0.0 if isinstance(cell.floor_q95, NotRun) else cell.floor_q95
            beyond = max(0.0, abs(cell.effect_logits) - bar)
            cells[rows.index(_place(cell)), columns.index(cell.span)] = beyond if cell.effect_logits > 0 else -beyond
        note = f"logits beyond the 95% quantile of random spans of the same length (0 = within); {len(self.base)} texts"
        return heatmap.write_table(path, rows, columns, cells, f"{self.how.capitalize()} of spans", note, "span")

    def _row(self, cell: SpanCell) -> dict[str, Any]:
        found, excess = self.estimate(cell), self.excess(cell)
        share: float | NotRun = NotRun("there is no other run")
        if self.other is not None and cell.part != TEXT:
            share = found.value / float((self.other - self.base).mean())
        return {
            "span": cell.span, "part": cell.part, "block": cell.block, "effect": share, "effect_logits": found.value,
            "low": found.low, "high": found.high, "best_token": cell.best,
            "best_token_logits": float(cell.singles[cell.best].mean()), "excess_logits": excess.value,
            "excess_low": excess.low, "excess_high": excess.high, "floor_q95_logits": cell.floor_q95,
            "rank": cell.rank, "p": cell.p,
            "controls": cell.floor if isinstance(cell.floor, NotRun) else len(cell.floor),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.how} of {len(self.sizes)} spans: {len(self.cells)} cells, {len(self.base)} texts."]
        for row in self.top(5):
            place = row["part"] if row["block"] is None else f"blocks.{row['block']}.{row['part']}"
            beside = "no random spans" if isinstance(row["p"], NotRun) else (
                f"random spans within {row['floor_q95_logits']:.3f}, p = {row['p']:.3f} ({row['controls']})"
            )  # fmt: skip
            lines.append(
                f"  {row['span']} at {place}: {row['effect_logits']:+.3f} logits [{row['low']:+.3f}, "
                f"{row['high']:+.3f}]; best single token {row['best_token_logits']:+.3f}; {beside}"
            )
        if self.recut[0]:
            again, of = self.recut
            lines.append(f"  {again} of {of} shortened texts read as other tokens at the seam than were left.")
        lines.append(f"  {len(self.spread())} cells beyond random spans and beyond every single token of their span.")
        return "\n".join(lines)


def span_sweep(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    spans: Spans,
    *,
    corrupt: Sequence[str] | None = None,
    how: str | None = None,
    parts: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    blocks: Sequence[int] | None = None,
    remove: bool = True,
    controls: int = FEWEST,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> SpanSweep:
    """Change all tokens of a span at once, at every part and block, and leave it out of the text.

    Each cell stands beside each single token of its span changed alone, and beside random spans of the same length
    that share no token with it and do not hold the last token.

    Args:
        subject, answers, foils, clusters, progress, keep: As in `activation_patching`.
        texts: The clean texts; spans are looked up in them.
        spans: Names to spans, each one for all texts or one a text: its words, or (first character, one behind the
            last). "sentences" takes every sentence of texts that all have as many.
        corrupt: Texts of as many tokens that the values come from; None ablates.
        how: "patch" with corrupt texts; "zero", or "mean" (over all tokens of the texts) without them, which is the
            default.
        parts: Sites of each block that are changed, whole; () changes the text alone.
        blocks: Their numbers; None for all.
        remove: Also leave the span out of the clean text, as tokens, with nothing put in its place.
        controls: Random spans for each cell, at least 20; they cost as many runs. All that there are, if fewer fit.
        seed: Of the random spans.

    Raises:
        UnequalPairs, NoGap, BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite: before anything is changed.
    """
    how = how or ("patch" if corrupt is not None else "mean")
    _check(subject, how, corrupt, parts, blocks, controls)
    other: Tensor | None = None
    if corrupt is None:
        asked = source = ask(subject, texts, answers, foils, clusters, keep)
        places = locate(subject, texts, spans)
        base = asked.base()
    else:
        asked, source = couple(subject, texts, corrupt, answers, foils, "noising", clusters, keep)
        places = locate(subject, texts, spans)
        base, other = asked.base(), source.base()
        measured("noising", asked, source, base, other)
    swept = _Swept(asked, source, how, places, controls, np.random.default_rng([seed, 0x59]))
    numbers = range(subject.n_blocks) if blocks is None else blocks
    sites = [(part, block) for part in parts for block in numbers]
    cells = swept.inside(base, sites, progress)
    recut = (0, 0)
    if remove:
        left, recut = swept.left_out(base, progress)
        cells += left
    order = {name: number for number, name in enumerate(places)}
    cells.sort(key=lambda cell: order[cell.span])
    sizes = {name: (int((b - a).min()), int((b - a).max())) for name, (a, b) in places.items()}
    return SpanSweep(how, tuple(cells), base, other, sizes, recut, asked.clusters)


def _check(
    subject: Subject,
    how: str,
    corrupt: Sequence[str] | None,
    parts: Sequence[str],
    blocks: Sequence[int] | None,
    controls: int,
) -> None:
    if how not in ("patch", "zero", "mean") or (how == "patch") != (corrupt is not None):
        raise BadChoice("how", how, "use 'patch' with corrupt=[...], and 'zero' or 'mean' without")
    if controls < FLOOR:
        raise BadChoice("controls", controls, f"at least {FLOOR} random spans, since no effect is shown without them")
    if isinstance(parts, str) or not set(parts) <= set(WHOLE):
        raise BadChoice("parts", parts, f"a list of {', '.join(WHOLE)}")
    if blocks is not None and not all(0 <= block < subject.n_blocks for block in blocks):
        raise BadChoice("blocks", blocks, f"{subject.name} has blocks 0..{subject.n_blocks - 1}")
    for part in parts:
        subject.site(f"blocks.0.{part}")


@dataclass(frozen=True, eq=False)
class _Swept:
    """What a sweep of spans runs."""

    asked: Asked
    source: Asked
    how: str
    places: dict[str, Tokens]
    controls: int
    rng: np.random.Generator

    def changed(self, name: str) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Starts and stops of all that is changed for a span: itself, its single tokens, random spans; and how many
        of these are single tokens."""
        first, stop = self.places[name]
        size = stop - first
        singles = [(first + n, torch.minimum(first + n + 1, stop)) for n in range(int(size.max()))]
        floor = [(at, at + size) for at in elsewhere((first, stop), self.asked.lengths, self.controls, self.rng)]
        return [(first, stop), *singles, *floor], len(singles)

    def inside(self, base: Float[Tensor, "text"], sites: Sequence[tuple[str, int]], progress: bool) -> list[SpanCell]:
        """Cells of sites of the model."""
        if not sites:
            return []
        names = [f"blocks.{block}.{part}" for part, block in sites]
        run = self.source.subject.run(self.source.texts, read=names)
        todo = {name: self.changed(name) for name in self.places}
        longest = int(self.asked.lengths.max())
        hows = {site: self._how(run[site]) for site in names}

        def variants() -> Iterator[Variant]:
            for changed, _ in todo.values():
                masks = [mask(first, stop, longest) for first, stop in changed]
                for site in names:
                    yield from (Variant((Edit(site, hows[site], at=at),)) for at in masks)

        total = len(names) * sum(len(changed) for changed, _ in todo.values())
        gaps = self.asked.gaps(variants(), total, progress, "sweeping spans") - base
        cells, done = [], 0
        for name, (changed, singles) in todo.items():
            for part, block in sites:
                cells.append(_cell(name, part, block, gaps[done : done + len(changed)], singles))
                done += len(changed)
        return cells

    def _how(self, acts: Float[Tensor, "text token d_model"]) -> Resample | Zero | Mean:
        if self.how == "zero":
            return Zero()
        if self.how == "patch":
            return Resample(acts)
        real = torch.arange(acts.shape[1]) < self.asked.lengths[:, None]
        return Mean(acts[real.to(acts.device)].mean(0))

    def left_out(self, base: Float[Tensor, "text"], progress: bool) -> tuple[list[SpanCell], tuple[int, int]]:
        """Cells of spans left out of the text, each text's shortened forms sharing one run of their beginning."""
        todo = {name: self.changed(name) for name in self.places}
        every = [pair for changed, _ in todo.values() for pair in changed]
        gaps, recut = [], 0
        with waiting("leaving spans out", len(every) * len(self.asked), progress) as told:
            for number, text in enumerate(self.asked.texts):
                shorter, again = self._shorter(number, every)
                gaps.append(self._gaps(number, text, shorter) - base[number])
                recut += again
                told(len(every))
        table = torch.stack(gaps, 1)
        cells, done = [], 0
        for name, (changed, singles) in todo.items():
            cells.append(_cell(name, TEXT, None, table[done : done + len(changed)], singles))
            done += len(changed)
        return cells, (recut, len(every) * len(self.asked))

    def _shorter(self, number: int, cuts: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[str], int]:
        """One text without each stretch of tokens, and how many of them read as other tokens than were left."""
        reader, ids = self.asked.subject.reader, self.asked.subject.tokens([self.asked.texts[number]])[0]
        out, again = [], 0
        for first, stop in cuts:
            a, b = int(first[number]), int(stop[number])
            left = [*ids[:a], *ids[b:]]
            text = self.asked.texts[number] if a == b else reader.decode(left)
            if not text.strip():
                raise BadPosition(f"Nothing is left of text {number} without this span: use remove=False.")
            out.append(text)
            again += reader.encode([text])[0] != left
        return out, again

    def _gaps(self, number: int, text: str, shorter: Sequence[str]) -> Float[Tensor, "variant"]:
        asked = self.asked
        unlike = list(dict.fromkeys(shorter))

        def make() -> dict[str, Tensor]:
            logits = asked.subject.variations(text, unlike).logits
            assert logits is not None
            wanted: Int[Tensor, "variant 2"] = asked.tokens[number].expand(len(unlike), -1).to(logits.device)
            return {"gaps": gap_of(logits.gather(1, wanted))}

        question = ("left out", asked.subject.tokens([text, *unlike]), asked.tokens[number])
        found = (make() if asked.kept is None else asked.kept.once(question, make)[0])["gaps"]
        return found[[unlike.index(one) for one in shorter]]


def _cell(span: str, part: str, block: int | None, changes: Float[Tensor, "variant text"], singles: int) -> SpanCell:
    floor: Tensor | NotRun = changes[1 + singles :].mean(1)
    if not len(changes) > 1 + singles:
        floor = NotRun("no other span of this length fits into every text")
    return SpanCell(span, part, block, changes[0], changes[1 : 1 + singles], floor)


def _place(cell: SpanCell) -> str:
    return TEXT if cell.block is None else f"{cell.block}.{cell.part}"

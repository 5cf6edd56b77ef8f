"""Every head of a model, or named ones, ablated or patched in one call.

Sources as in `ablation_scan` and `activation_patching`, of which this is the head's view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veriscope.patching import heatmap
from veriscope.patching.ablation import FEWEST, Ablated, ablation_scan
from veriscope.patching.activation import Patched, activation_patching
from veriscope.patching.gaps import BadChoice
from veriscope.patching.grid import Positions
from veriscope.subjects import Subject

PATCH = "patch"


@dataclass(frozen=True, eq=False)
class HeadSweep:
    """What each head's ablation or patch did to the logit difference.

    Attributes:
        how: "zero", "mean", "resample" or "patch".
        tables: One for all heads, or one for each set of blocks of which the same heads were named.
    """

    how: str
    tables: tuple[Ablated | Patched, ...]

    def __len__(self) -> int:
        return sum(len(one.grid) for one in self.tables)

    def table(self) -> list[dict[str, Any]]:
        """One row for each head and position: as `Ablated.table` (beside random changes of equal norm) or
        `Patched.table`; `effect_logits` in both."""
        rows = [row for one in self.tables for row in one.table()]
        return sorted(rows, key=lambda row: (row["block"], row["head"]))

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The k rows of largest absolute `effect_logits`."""
        return sorted(self.table(), key=lambda row: -abs(row["effect_logits"]))[:k]

    def plot(self, path: str | Path) -> Path:
        """Write a heat map (SVG): of all heads as blocks by heads, else a row for each named head."""
        if len(self.tables) == 1:
            return self.tables[0].plot(path)
        rows = self.table()
        names = list(dict.fromkeys(f"{row['block']}.{row['head']}" for row in rows))
        places = list(self.tables[0].grid.positions)
        cells = torch.zeros(len(names), len(places))
        for row in rows:
            cells[names.index(f"{row['block']}.{row['head']}"), places.index(row["position"])] = row["effect_logits"]
        title = f"{self.how.capitalize()} of named heads"
        return heatmap.write_table(path, names, places, cells, title, "change of the logit difference", "position")

    def __str__(self) -> str:
        lines = [f"{self.how} of {len(self)} heads and positions, {len(self.tables[0].base)} texts."]
        for row in self.top(5):
            beside = f", p = {row['p']:.3f} beside random changes of equal norm" if "p" in row else ""
            lines.append(f"  head {row['block']}.{row['head']} at {row['position']}: {row['effect_logits']:+.3f} "
                         f"logits{beside}")  # fmt: skip
        if self.how != PATCH:
            lines.append(f"  {0.01 * len(self):.1f} cells at p <= 0.01 are expected by chance.")
        return "\n".join(lines)


def head_sweep(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    *,
    how: str = "mean",
    heads: Sequence[tuple[int, int]] | None = None,
    positions: Positions = ("all",),
    corrupt: Sequence[str] | None = None,
    direction: str = "noising",
    reference: Sequence[str] | None = None,
    controls: int = FEWEST,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> HeadSweep:
    """Ablate or patch every head by itself.

    Args:
        subject, answers, foils, positions, clusters, progress, keep: As in `activation_patching`.
        texts: The clean texts.
        how: "zero", "mean" or "resample" as in `ablation_scan`, with its controls; "patch" as in
            `activation_patching`, which has the other run to be compared with and takes no controls.
        heads: (block, head) of each; None for all.
        corrupt, direction: For "patch" alone.
        reference, controls, seed: For ablations alone.

    Raises:
        UnequalPairs, NoGap, BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite: before any head is changed.
    """
    if how == PATCH and corrupt is None:
        raise BadChoice("corrupt", None, "how='patch' takes values from another run: give corrupt=[...], a text each")
    if how != PATCH and corrupt is not None:
        raise BadChoice("how", how, "corrupt texts were given, which only how='patch' uses")

    def one(blocks: Sequence[int] | None, units: Sequence[int] | None) -> Ablated | Patched:
        where: dict[str, Any] = {"part": "heads.z", "blocks": blocks, "units": units, "positions": positions}
        with_it: dict[str, Any] = {"clusters": clusters, "progress": progress, "keep": keep}
        if corrupt is not None:
            return activation_patching(subject, texts, corrupt, answers, foils, direction=direction, **where, **with_it)
        return ablation_scan(
            subject, texts, answers, foils, how=how, reference=reference, controls=controls, seed=seed, **where,
            **with_it,
        )  # fmt: skip

    return HeadSweep(how, tuple(one(blocks, units) for blocks, units in _sets(heads)))


def _sets(heads: Sequence[tuple[int, int]] | None) -> list[tuple[list[int] | None, list[int] | None]]:
    """Named heads as sets of blocks of which the same heads are meant."""
    if heads is None:
        return [(None, None)]
    if not heads:
        raise BadChoice("heads", heads, "give at least one (block, head), or None for all")
    of_block: dict[int, set[int]] = defaultdict(set)
    for block, head in heads:
        of_block[block].add(head)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for block, units in sorted(of_block.items()):
        alike[tuple(sorted(units))].append(block)
    return [(blocks, list(units)) for units, blocks in alike.items()]

"""The effect of a direction at growing doses, beside random directions of the same length at the same doses.

Source: "Steering Llama 2 via Contrastive Activation Addition" (2023) for dose curves of added vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.patching.ablation import FEWEST
from veriscope.patching.gaps import Asked, BadChoice, ask
from veriscope.subjects import Add, At, Edit, Subject, Variant
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class DoseCurve:
    """Logit differences with the vector added, and with random directions of its length.

    Attributes:
        site: Where it was added.
        doses: Multiples of the vector.
        base: Logit differences without any edit.
        gaps: Logit difference at each dose.
        controls_logits: Mean change of the logit difference by each random direction.
        clusters: Which texts are resampled together.
    """

    site: str
    doses: tuple[float, ...]
    base: Float[Tensor, "text"]
    gaps: Float[Tensor, "dose text"]
    controls_logits: Float[Tensor, "dose control"]
    clusters: tuple[str, ...]

    @property
    def effects_logits(self) -> Float[Tensor, "dose"]:
        """Mean change of the logit difference."""
        return (self.gaps - self.base).mean(-1)

    @property
    def p_values(self) -> Float[Tensor, "dose"]:
        """Share of random directions that move it at least as far either way, with the +1 correction."""
        beaten = self.controls_logits.abs() >= self.effects_logits.abs().unsqueeze(-1) - _ROUNDING
        return (1 + beaten.sum(-1)) / (1 + self.controls_logits.shape[-1])

    def estimate(self, dose: int) -> Estimate:
        """Mean change at the dose of this index, with bounds, texts resampled by cluster."""
        return Resampler(self.clusters).mean((self.gaps[dose] - self.base).double().numpy())

    def table(self) -> list[dict[str, Any]]:
        """One row a dose: `effect_logits` with `low` and `high`, the controls' 5, 50 and 95% quantiles, `p`."""
        rows = []
        for number, dose in enumerate(self.doses):
            found = self.estimate(number)
            low, middle, high = self.controls_logits[number].quantile(torch.tensor([0.05, 0.5, 0.95]).to(self.base))
            rows.append(
                {"dose": dose, "effect_logits": found.value, "low": found.low, "high": found.high,
                 "controls_q05": float(low), "controls_q50": float(middle), "controls_q95": float(high),
                 "p": float(self.p_values[number])}
            )  # fmt: skip
        return rows

    def __str__(self) -> str:
        lines = [
            f"dose curve at {self.site}, {len(self.base)} texts, {self.controls_logits.shape[-1]} random directions"
        ]
        for row in self.table():
            lines.append(
                f"  {row['dose']:g}: {row['effect_logits']:+.3f} logits [{row['low']:+.3f}, {row['high']:+.3f}], "
                f"random {row['controls_q05']:+.3f} to {row['controls_q95']:+.3f}, p = {row['p']:.3f}"
            )
        return "\n".join(lines)


def dose_curve(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    site: str,
    vector: Float[Tensor, "width"],
    doses: Sequence[float | int],
    at: At = "last",
    *,
    controls: int = FEWEST,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    progress: bool = False,
    keep: str | Path | None = None,
) -> DoseCurve:
    """Add multiples of a vector, and of random directions of its length, and follow the logit difference.

    Args:
        subject: A model that gives logits.
        texts, answers, foils, clusters, progress, keep: As in `activation_patching`.
        site: Where it is added.
        vector: As wide as the site, heads side by side, in the units of its activations.
        doses: Multiples; negative ones are the opposite direction.
        at: Positions, see `At`.
        controls: Random directions, the same ones at every dose; at least 100.
        seed: Of the directions.

    Raises:
        BadChoice, BadPosition, BadAnswer, BadPrompt, UnknownSite: before anything is added.
    """
    if controls < FEWEST:
        raise BadChoice("controls", controls, f"at least {FEWEST}, since no effect is shown without its controls")
    if not len(doses) or not bool(np.isfinite(doses).all()):
        raise BadChoice("doses", list(doses), "give at least one finite number, such as [0, 1, 2, 4]")
    size = subject.site(site).size
    if size is None or len(vector) != size:
        raise BadChoice("vector", tuple(vector.shape), f"{site} takes vectors of {size} numbers, heads side by side")
    if not bool(torch.isfinite(vector).all()) or float(vector.norm()) == 0:
        raise BadChoice("vector", vector, "a direction needs finite numbers that are not all zero")
    asked = ask(subject, texts, answers, foils, clusters, keep)
    drawn = np.random.default_rng([seed, 0xD0]).standard_normal((controls, size))
    random = torch.as_tensor(drawn, dtype=vector.dtype, device=vector.device)
    random = random / random.norm(dim=1, keepdim=True) * vector.norm()
    todo = torch.cat([vector[None], random])
    base = asked.base()
    total = len(todo) * len(doses)
    gaps = asked.gaps(_edits(asked, site, todo, doses, at), total, progress, "dosing")
    gaps = gaps.view(len(doses), len(todo), len(asked))
    return DoseCurve(
        site, tuple(float(d) for d in doses), base, gaps[:, 0], (gaps[:, 1:] - base).mean(-1), asked.clusters
    )


def _edits(
    asked: Asked, site: str, vectors: Float[Tensor, "vector width"], doses: Sequence[float | int], at: At
) -> Iterator[Variant]:
    """Every vector at every dose, dose by dose."""
    known = asked.subject.site(site)
    for dose in doses:
        for vector in vectors:
            shaped = vector.view(1, known.units, -1) if known.per_head else vector
            yield Variant((Edit(site, Add(dose * shaped), at=at),))

"""C3 NECESSARY: removing a subspace or parts lowers a behaviour, beyond removals matched in rank and variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from veriscope.claims.battery import GateSpec
from veriscope.errors import UserError
from veriscope.examples import Examples
from veriscope.findings import Change, Parts, Reading

_RUN = "veriscope.trials.necessary:"
SMALLEST = 0.10  # of the clean range
OWN = SMALLEST / 5  # least own part: at a margin of 0 an own part of exactly none would pass one time in twenty

BATTERY: tuple[GateSpec, ...] = (
    GateSpec(
        "i0",
        "behaviour present",
        "does the model behave so, and is a removal that must hurt found to hurt?",
        "instrument",
        "share",
        _RUN + "behaviour_present",
        level=0,
        margin=0.6,
    ),
    GateSpec(
        "g1",
        "erasure complete",
        "what share of the readable bits is left after the removal?",
        "gate",
        "share of bits left",
        _RUN + "erasure_complete",
        level=1,
        margin=0.05,
        better="lower",
    ),
    GateSpec(
        "g2",
        "matched removal",
        "does it cost more than random removals of the same rank and variance?",
        "gate",
        "clean ranges",
        _RUN + "matched_removal",
        level=2,
        margin=SMALLEST,
    ),
    GateSpec(
        "g3",
        "rescue",
        "does giving back the own component restore more than giving another input's?",
        "gate",
        "share",
        _RUN + "rescue",
        level=3,
        margin=0.5,
    ),
    GateSpec(
        "g4",
        "specificity",
        "do other tasks and neutral text lose little beside the target?",
        "gate",
        "share of the target's loss",
        _RUN + "specificity",
        level=3,
        margin=0.33,
        better="lower",
    ),
    GateSpec(
        "g5",
        "ablation grid",
        "does it hold whether mean, another input's value or zero is put in its place?",
        "gate",
        "clean ranges",
        _RUN + "ablation_grid",
        level=3,
        margin=SMALLEST,
    ),
    GateSpec(
        "g10",
        "own part",
        "does it cost anything when what goes with the answer anyway is left in place?",
        "gate",
        "clean ranges",
        _RUN + "own_part",
        level=3,
        margin=OWN,
    ),
    GateSpec(
        "d6",
        "non-linear leftover",
        "what does a small MLP still read after the removal?",
        "diagnostic",
        "points",
        _RUN + "leftover",
    ),
    GateSpec(
        "f7",
        "redundancy",
        "does a removal that costs nothing alone cost much with another?",
        "falsifier",
        "clean ranges",
        _RUN + "redundancy",
        margin=SMALLEST,
        if_fired="CONDITIONAL",
    ),
    GateSpec(
        "f8",
        "shift",
        "is more than half of it lost on another distribution?",
        "falsifier",
        "clean ranges",
        _RUN + "shift",
    ),
    GateSpec(
        "r9",
        "removal from outside",
        "does it beat masking input words and fine-tuning it away?",
        "rival",
        "clean ranges",
        _RUN + "from_outside",
        level=4,
        margin=0.0,
    ),
)


@dataclass(frozen=True)
class Necessary:
    """Removing `finding` lowers the behaviour in `on` by at least `smallest_effect` beyond matched removals.

    The behaviour is logit(answer) - logit(foil) at the last token, or log-probability of the answer in rows
    without a foil. Its clean range is what it loses when the whole site is given another input's value.

    Args:
        finding: A reading or an erasing change (a subspace at one site and position), or parts to be ablated.
        of: The variable's name: the label column of `on`.
        on: Examples with an answer (and better a foil), whose gate pool has not been opened for this card.
        off_target: Examples of other tasks; their dev rows show what else the removal damages.
        neutral: Texts that have nothing to do with the claim; by default the subject writes its own.
        smallest_effect: Excess drop worth claiming, in clean ranges: 0.1 or more.
        advantage: Whether it is claimed to do better than removals from outside (r9 then gates).

    Raises:
        UserError: The finding removes nothing, or less is claimed than the battery's own smallest effect.
    """

    finding: Reading | Change | Parts
    of: str
    on: Examples
    off_target: tuple[Examples, ...] = ()
    neutral: tuple[str, ...] = ()
    name: str = ""
    smallest_effect: float = SMALLEST
    margins: Mapping[str, float] = field(default_factory=dict)
    scope: str = ""
    advantage: bool = False

    type: ClassVar[str] = "C3 NECESSARY"
    unit: ClassVar[str] = "clean ranges"
    effect_gate: ClassVar[str] = "g2"  # the gate whose estimate is the claim's effect
    metric: ClassVar[str] = "drop of the mean logit(answer) - logit(foil), in shares of the clean range"
    bench: ClassVar[str] = _RUN + "Bench"
    ablations: ClassVar[tuple[str, ...]] = ("mean", "resample", "zero")
    falsifier: ClassVar[str] = (
        "less than half of the drop on the shift pool (f8); no drop alone but one together with another part (f7) "
        "makes it conditional"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "the examples are drawn from the distribution named in the scope",
        "the answer and foil tokens stand for the behaviour",
        "what the removal leaves in place of the component is an input the rest of the model can take",
        "where label and answer follow from one another, what else goes with the label is not told apart (g10)",
    )
    stressed: ClassVar[str] = "what stands in the component's place: mean, another input's, zero (g5)"

    def __post_init__(self) -> None:
        if isinstance(self.finding, Change) and self.finding.kind != "erase":
            raise UserError(
                "A change of kind 'add' removes nothing, so it can't be claimed to be necessary. Erase with "
                "methods.LEACE, or claim that it steers (C4)."
            )
        if isinstance(self.finding, Parts) and not self.finding.parts:
            raise UserError("There are no parts to remove: name at least one in the Parts that are claimed necessary.")
        if self.smallest_effect < SMALLEST:
            raise UserError(
                f"smallest_effect={self.smallest_effect:g} is less than the {SMALLEST:g} clean ranges this claim type "
                f"asks for at least. Leave it out, or claim more."
            )

    @property
    def battery(self) -> tuple[GateSpec, ...]:
        """The gates, with the claimed effect as margin of g2 and g5, and r9 gating where an advantage is claimed."""
        sized = (replace(s, margin=self.smallest_effect) if s.gate in ("g2", "g5") else s for s in BATTERY)
        return tuple(replace(s, role="gate") if s.gate == "r9" and self.advantage else s for s in sized)

    @property
    def family(self) -> str:
        """What is removed: a linear subspace, or named parts."""
        return "parts" if isinstance(self.finding, Parts) else "linear subspace"

    @property
    def where(self) -> tuple[str, str | int]:
        """Site and position in words; parts may lie at several sites."""
        if isinstance(self.finding, Parts):
            return ", ".join(dict.fromkeys(p.site for p in self.finding.parts)), self.finding.origin.position
        return self.finding.site, self.finding.position

    @property
    def statement(self) -> str:
        """The claim in words."""
        site, position = self.where
        what = (
            f"the subspace for '{self.of}' (with it goes what varies along it)"
            if not isinstance(self.finding, Parts)
            else self._parts()
        )
        return (
            f"Removing {what} at {site}, position {position}, lowers logit(answer) - logit(foil) by at least "
            f"{self.smallest_effect:g} of its clean range more than removals matched in rank and variance, and giving "
            f"it back restores it."
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What the card keeps besides the fields of every claim."""
        kept: dict[str, Any] = {
            "off_target": [e.hash for e in self.off_target],
            "neutral": list(self.neutral),
            "advantage": self.advantage,
        }
        if isinstance(self.finding, Parts):
            kept["parts"] = [[p.site, p.unit] for p in self.finding.parts]
        return kept

    def _parts(self) -> str:
        assert isinstance(self.finding, Parts)
        parts = self.finding.parts
        named = ", ".join(p.site if p.unit is None else f"{p.site}[{p.unit}]" for p in parts[:6])
        return f"{len(parts)} part{'s' if len(parts) > 1 else ''} ({named}{', ...' if len(parts) > 6 else ''})"
